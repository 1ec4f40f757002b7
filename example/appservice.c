/* appservice.c - the other end of the gateway: an application service that writes down what it
 * gets. SPDX: 0BSD
 *
 *     cc -I. -o appservice example/appservice.c msc4203.c
 *     appservice --listen HOST:PORT --hs-token-file FILE --state FILE --out FILE [--fail N]
 *
 * Each item becomes a line of the output, as `msc4203 convert --each` writes it. Lines are written
 * as they come, and are provisional until the end of their transaction; appservice_output.h and
 * appservice_state.h say how both become durable before the transaction is acknowledged.
 *
 * One transaction is read at a time, and others wait. A request is looked at before that, by a
 * second receiver, so that only a homeserver with the right token can wait or be waited for. */
#define _POSIX_C_SOURCE   200809L
#define _DARWIN_C_SOURCE
#define _FILE_OFFSET_BITS 64

#include "http.h"
#include "start.h"
#include "say.h"
#include "appservice_output.h"

#include <poll.h>
#include <signal.h>
#include <sys/resource.h>

enum {
    CONNECTIONS = 256,
    DESCRIPTORS = 12,       /* for everything but connections */
    PIECE_BYTES = 65536,
    DRAIN_BYTES = 65536,    /* of a refused body are read, so that the connection can stay */
    SILENT_MS = 60000,      /* nothing came for so long: a connection is closed */
    HEAD_MS = 60000,        /* a head must have come in this time */
    LINGER_MS = 10000,
    YOUNG_MS = 100,         /* a connection is not closed for another one before that */
    SLOW_MS = 5000,         /* after that a body must come at SLOW_RATE bytes/ms, if others wait */
    SLOW_RATE = 1,
    REPORTS = 100           /* about items, a minute */
};

enum connection_at {
    AT_FREE,
    AT_HEAD,
    AT_WAIT,  /* another transaction is being read */
    AT_BODY,  /* its body goes to the receiver */
    AT_DRAIN, /* its body goes nowhere */
    AT_WRITE,
    AT_LINGER
};

struct connection {
    struct http_connection http;
    int at, result, is_head; /* is_head: no body follows the answer's head */
    uint64_t active, began, bytes; /* when something came last; when it got there; of a body */
    char in[HTTP_HEAD_MAX], out[512];
};

static struct appservice {
    const char *listen, *state, *out;
    int rotated;
    unsigned long fail;
    int listener, slots;
    msc4203_receiver receiver, looker;
    unsigned char looker_memory[64];
    int owner;                    /* the connection whose transaction it reads, or -1 */
    uint64_t now, deaf_until;
    struct say_trouble store, token, body, accept;
    time_t reports_since;
    unsigned long reports;
    struct connection connections[CONNECTIONS];
    char piece[PIECE_BYTES], scratch[ITEM_BYTES];
} a;

static volatile sig_atomic_t ends, rotates;

/* ---- items ---- */

/* Reports an item that is left out. What others send must not fill the operator's disk. */
static void item_report(const msc4203_item *item, int error)
{
    static const char *const kinds[] = {"to-device message", "room event",     "ephemeral event",
                                        "changed device list", "left device list", "key count",
                                        "fallback key type"};
    time_t now = say_seconds();
    unsigned kind = 0;

    while (item->kind >> kind > 1)
        kind++;
    if (now - a.reports_since >= 60) {
        if (a.reports > REPORTS)
            say(SAY_WARNING, "%lu more are left out", a.reports - REPORTS);
        a.reports_since = now;
        a.reports = 0;
    }
    if (++a.reports <= REPORTS)
        say(SAY_WARNING, "item left out: %s %u of a transaction: %s",
            kind < sizeof kinds / sizeof kinds[0] ? kinds[kind] : "kind unknown", item->index,
            msc4203_result_text(error));
}

/* Drops what has been read of a transaction. */
static void items_drop(void)
{
    msc4203_receiver_reject(&a.receiver);
    output_cut();
}

/* Keeps an item. Returns MSC4203_OK, or what the transaction is to be answered with: one that
 * can't be used must not block the others, but one that can be used and is not kept must not be
 * acknowledged. */
static int item_take(const msc4203_item *item)
{
    int result = item->error;

    if (result == MSC4203_OK)
        result = output_item(item);
    if (result == MSC4203_E_TOO_LARGE || result == MSC4203_E_FULL) {
        say(SAY_WARNING, "item of more than %d bytes: the transaction is refused", (int)ITEM_BYTES);
        return MSC4203_E_TOO_LARGE;
    }
    if (result == MSC4203_E_STORAGE)
        return result;
    if (result < 0)
        item_report(item, result);
    return MSC4203_OK;
}

/* Ends a transaction. Returns what it is to be answered with. */
static int items_end(int result)
{
    int done = 0;

    if (result == MSC4203_REPEAT) {
        items_drop();
        return MSC4203_OK;
    }
    if (result == MSC4203_NEW)
        done = output_keep();
    else if (result == MSC4203_REPEAT_TO_DEVICE)
        done = output_drop_to_device() && output_keep();
    if (done) {
        say_good(&a.store, "transactions are kept");
        return MSC4203_OK;
    }
    if (result >= 0 || result == MSC4203_E_STORAGE) {
        say_bad(&a.store, SAY_ERROR, "transactions are refused: %s", output.why);
        result = MSC4203_E_STORAGE;
    } else if (result != MSC4203_E_TOO_LARGE) {
        say_bad(&a.body, SAY_WARNING, "a transaction is refused: %s", msc4203_result_text(result));
    }
    items_drop();
    return result;
}

/* Reads on. Returns MSC4203_MORE, or what the transaction is to be answered with. */
static int items_read(void)
{
    const msc4203_item *item;
    int result;

    while ((result = msc4203_receiver_next(&a.receiver, &item)) == MSC4203_ITEM) {
        result = item_take(item);
        if (result != MSC4203_OK)
            return items_end(result);
    }
    return result == MSC4203_MORE ? result : items_end(result);
}

/* ---- connections ---- */

static int connection_owns(const struct connection *c)
{
    return a.owner == (int)(c - a.connections);
}

static void connection_go_to(struct connection *c, int at)
{
    c->at = at;
    c->began = c->active = a.now;
}

static void connection_close(struct connection *c)
{
    if (connection_owns(c)) {
        a.owner = -1;
        items_drop();
    }
    close(c->http.fd);
    c->at = AT_FREE;
}

static void connection_write(struct connection *c)
{
    switch (http_write(&c->http, c->out, c->in)) {
    case HTTP_NEXT:
        connection_go_to(c, AT_HEAD);
        return;
    case HTTP_LINGER:
        connection_go_to(c, AT_LINGER);
        return;
    case HTTP_CLOSE:
        connection_close(c);
        return;
    default:
        return;
    }
}

/* Answers; when there is more of the request, the connection ends. */
static void answer_with(struct connection *c, int status, const char *body, size_t bytes)
{
    if (connection_owns(c)) {
        a.owner = -1;
        items_drop();
    }
    if (c->http.body.state != HTTP_BODY_DONE)
        c->http.lingers = 1;
    http_answer(&c->http, c->out, status, body, bytes);
    if (c->is_head)
        c->http.out_bytes -= (uint32_t)bytes;
    connection_go_to(c, AT_WRITE);
    connection_write(c);
}

/* Answers with what came out. */
static void answer(struct connection *c)
{
    char body[256];
    size_t bytes = 0;

    msc4203_result_body(c->result, body, sizeof body, &bytes);
    answer_with(c, msc4203_result_status(c->result), body, bytes);
}

/* Refuses what is not a request, and ends the connection. */
static void answer_wrong(struct connection *c, int status, const char *body)
{
    c->http.keep_alive = 0;
    c->http.lingers = 1;
    answer_with(c, status, body, strlen(body));
}

/* Tells the operator about wrong tokens. */
static void token_report(int result)
{
    if (result == MSC4203_E_TOKEN)
        say_bad(&a.token, SAY_WARNING, "a request has a wrong token, and is answered with 403: is "
                                       "it the hs_token of the registration?");
    else if (result == MSC4203_E_TOKEN_MISSING)
        say_bad(&a.token, SAY_WARNING, "a request has no token, and is answered with 401");
}

/* Takes a transaction whose head has been looked at. Returns MSC4203_MORE, or what it is to be
 * answered with. */
static int transaction_begin(struct connection *c, const struct http_head *head)
{
    int result;

    if (!output_begin()) {
        say_bad(&a.store, SAY_ERROR, "transactions are refused: %s", output.why);
        return MSC4203_E_STORAGE;
    }
    result = msc4203_receiver_request(&a.receiver, &head->method, &head->target,
                                      &head->authorization, a.scratch, sizeof a.scratch);
    if (result == MSC4203_MORE)
        a.owner = (int)(c - a.connections);
    return result;
}

/* Takes a request whose head is complete. */
static void request_begin(struct connection *c, size_t bytes)
{
    struct http_head head;
    int result;

    c->http.lingers = 0;
    c->is_head = 0;
    if (!http_parse(&head, c->in, bytes, 0)) {
        answer_wrong(c, 400, "{\"errcode\":\"M_UNKNOWN\",\"error\":\"not an HTTP request\"}");
        return;
    }
    result = msc4203_receiver_request(&a.looker, &head.method, &head.target, &head.authorization,
                                      NULL, 0);
    token_report(result);
    c->is_head = msc4203_span_equal(&head.method, "HEAD");
    if (result == MSC4203_MORE && a.owner >= 0) {
        connection_go_to(c, AT_WAIT);
        return;
    }
    c->http.keep_alive = (uint8_t)head.keep_alive;
    c->http.in_at = (uint32_t)bytes;
    http_body_begin(&c->http.body, &head, 0);
    c->bytes = 0;
    if (a.fail != 0) {
        a.fail--;
        say(SAY_INFO, "fails on purpose");
        result = MSC4203_E_STORAGE;
    }
    if (result == MSC4203_MORE)
        result = transaction_begin(c, &head);
    if (result == MSC4203_MORE) {
        if (head.expects && c->http.body.state != HTTP_BODY_DONE)
            http_continue(&c->http);
        connection_go_to(c, AT_BODY);
        return;
    }
    c->result = result == MSC4203_END ? MSC4203_OK : result;
    connection_go_to(c, AT_DRAIN);
    if (c->http.body.state != HTTP_BODY_DONE && head.expects)
        answer(c); /* it waits for that before it sends its body */
}

/* Takes a piece of a body. */
static void request_piece(struct connection *c, const msc4203_span *piece)
{
    int last = c->http.body.state == HTTP_BODY_DONE;

    c->bytes += piece->len;
    if (c->http.body.state == HTTP_BODY_WRONG) {
        answer_wrong(c, 400, "{\"errcode\":\"M_UNKNOWN\",\"error\":\"not an HTTP body\"}");
        return;
    }
    if (c->at == AT_BODY && (piece->len != 0 || last)) {
        msc4203_receiver_feed(&a.receiver, piece->ptr, piece->len, last);
        c->result = items_read();
        if (c->result != MSC4203_MORE) {
            a.owner = -1;
            c->bytes = 0;
            c->at = AT_DRAIN;
        }
    }
    if (c->at == AT_DRAIN && (last || c->bytes > DRAIN_BYTES))
        answer(c);
}

/* Goes on with what has been read. */
static void connection_go(struct connection *c)
{
    msc4203_span piece = {NULL, 0};
    size_t end;

    for (;;) {
        switch (c->at) {
        case AT_HEAD:
            end = http_in_head(&c->http, c->in);
            if (end == 0 && c->http.in_bytes < sizeof c->in)
                return;
            if (end == 0)
                answer_wrong(c, 431,
                             "{\"errcode\":\"M_TOO_LARGE\",\"error\":\"the head is too long\"}");
            else
                request_begin(c, end);
            break;
        case AT_BODY:
        case AT_DRAIN:
            if (c->http.body.state != HTTP_BODY_DONE && c->http.in_at == c->http.in_bytes)
                return;
            http_in_body(&c->http, c->in, &piece);
            request_piece(c, &piece);
            break;
        default:
            return;
        }
    }
}

static void connection_read(struct connection *c)
{
    ssize_t n;
    size_t at = 0;

    if (c->at == AT_HEAD)
        n = http_in_read(&c->http, c->in, sizeof c->in);
    else if (c->at == AT_BODY || c->at == AT_DRAIN)
        n = http_body_read(&c->http, a.piece, sizeof a.piece);
    else
        n = http_receive(c->http.fd, a.piece, sizeof a.piece, 0);
    if (n < 0)
        connection_close(c);
    if (n <= 0)
        return;
    if (c->at == AT_HEAD && c->http.in_bytes == (uint32_t)n)
        c->began = a.now; /* a request begins */
    c->active = a.now;
    while (at < (size_t)n && (c->at == AT_BODY || c->at == AT_DRAIN)) {
        msc4203_span piece;
        at += http_body_take(&c->http, a.piece + at, (size_t)n - at, &piece);
        request_piece(c, &piece);
    }
    connection_go(c);
}

/* Looks whether a connection for which nothing has come up to `before` takes too long. */
static void connection_wait(struct connection *c, uint64_t before, int others)
{
    static const char slow[] = "{\"errcode\":\"M_UNKNOWN\",\"error\":\"the request is too slow\"}";
    uint64_t took = before > c->began ? before - c->began : 0;
    uint64_t silent = before > c->active ? before - c->active : 0;

    if ((c->at == AT_HEAD && c->http.in_bytes != 0 && took > HEAD_MS) ||
        (c->at == AT_BODY &&
         (silent > SILENT_MS || (others && took > SLOW_MS && c->bytes / SLOW_RATE < took))))
        answer_wrong(c, 408, slow);
    else if ((c->at != AT_WAIT && silent > SILENT_MS) ||
             (c->at == AT_LINGER && took > LINGER_MS))
        connection_close(c);
}

/* Goes on with the transaction that has waited longest, if none is being read. Returns 0 when there
 * is nothing to do. */
static int transaction_next(void)
{
    struct connection *next = NULL;
    int i;

    for (i = 0; i < CONNECTIONS && a.owner < 0; i++)
        if (a.connections[i].at == AT_WAIT &&
            (next == NULL || a.connections[i].began < next->began))
            next = &a.connections[i];
    if (next == NULL)
        return 0;
    connection_go_to(next, AT_HEAD);
    next->http.looked = 0;
    connection_go(next);
    return 1;
}

/* Closes a connection to make room for another: the one that idles longest, or else the one that
 * takes longest with what is not a transaction. Returns 0 when there is none. */
static int connections_evict(void)
{
    struct connection *worst = NULL;
    int i, idle = 0;

    for (i = 0; i < CONNECTIONS; i++) {
        struct connection *c = &a.connections[i];
        int idles = c->at == AT_HEAD && c->http.in_bytes == 0;
        if (c->at == AT_FREE || c->at == AT_WAIT || c->at == AT_BODY ||
            a.now - c->began < YOUNG_MS)
            continue;
        if (worst == NULL || idles > idle || (idles == idle && c->began < worst->began)) {
            worst = c;
            idle = idles;
        }
    }
    if (worst != NULL)
        connection_close(worst);
    return worst != NULL;
}

static void connections_accept(void)
{
    int used = 0, i, fd;

    for (i = 0; i < CONNECTIONS; i++)
        used += a.connections[i].at != AT_FREE;
    for (;;) {
        struct pollfd more;

        more.fd = a.listener;
        more.events = POLLIN;
        if (used >= a.slots) {
            if (poll(&more, 1, 0) != 1)
                return;
            if (!connections_evict()) {
                a.deaf_until = a.now + YOUNG_MS / 2;
                return;
            }
            used--;
        }
        fd = http_accept(a.listener);
        if (fd < 0 && (http_again() || errno == ECONNABORTED))
            return;
        if (fd < 0) { /* no descriptor, or no memory: it stays where it waits */
            say_bad(&a.accept, SAY_WARNING, "a connection can't be accepted: %s", strerror(errno));
            if (!connections_evict())
                a.deaf_until = a.now + YOUNG_MS;
            return;
        }
        say_good(&a.accept, "connections are accepted");
        for (i = 0; a.connections[i].at != AT_FREE; i++)
            ;
        memset(&a.connections[i], 0, offsetof(struct connection, in));
        a.connections[i].http.fd = fd;
        connection_go_to(&a.connections[i], AT_HEAD);
        used++;
        connection_read(&a.connections[i]); /* a request has mostly come already */
        used -= a.connections[i].at == AT_FREE;
    }
}

/* ---- the loop ---- */

/* Waits for the network, and goes on with all connections for which something has come. What has
 * come is looked at before a connection is found to be silent: the machine may have slept. */
static void turn(void)
{
    struct pollfd polls[CONNECTIONS + 1];
    int owner[CONNECTIONS + 1], count = 0, waiting = 0, i, n;
    uint64_t before = http_clock();

    for (i = 0; i < CONNECTIONS; i++) {
        struct connection *c = &a.connections[i];
        if (c->at == AT_FREE)
            continue;
        waiting += c->at == AT_WAIT;
        polls[count].fd = c->http.fd;
        polls[count].events = c->at == AT_WRITE  ? POLLOUT
                              : c->at == AT_WAIT ? 0
                                                       : POLLIN;
        owner[count++] = i;
    }
    polls[count].fd = before < a.deaf_until ? -1 : a.listener;
    polls[count].events = POLLIN;
    n = poll(polls, (nfds_t)count + 1, before < a.deaf_until ? YOUNG_MS / 2 : 1000);
    a.now = http_clock();
    for (i = 0; n >= 0 && i < count; i++) {
        struct connection *c = &a.connections[owner[i]];
        if (c->at == AT_FREE)
            continue;
        if (polls[i].revents == 0)
            connection_wait(c, before, waiting);
        else if (c->at == AT_WRITE)
            connection_write(c);
        else if (c->at == AT_WAIT)
            connection_close(c);
        else
            connection_read(c);
        if (c->at == AT_HEAD)
            connection_go(c);
    }
    if (a.now >= a.deaf_until)
        connections_accept();
    while (transaction_next())
        ;
}

/* The operator says that the output has been rotated. */
static void rotate(void)
{
    rotates = 0;
    if (a.owner >= 0) {
        a.connections[a.owner].result = MSC4203_E_STORAGE;
        answer(&a.connections[a.owner]);
    }
    if (output_rotate())
        say(SAY_INFO, "goes on with %s, which has %llu bytes", a.out,
            (unsigned long long)output.kept);
    else
        say(SAY_ERROR, "%s: %s", a.out, output.why);
}

/* ---- the start ---- */

static void on_signal(int signal)
{
    if (signal == SIGHUP)
        rotates = 1;
    else
        ends = 1;
}

static const char help_text[] =
    "usage: appservice --listen HOST:PORT (--hs-token TOKEN | --hs-token-file FILE)\n"
    "                  --state FILE --out FILE [--fail N] [--rotated]\n"
    "       appservice --help | -h | --version\n"
    "\n"
    "A Matrix application service that writes down what a homeserver sends it: each\n"
    "item of each transaction once, as a line of JSON, before it acknowledges the\n"
    "transaction.\n"
    "\n"
    "  --listen HOST:PORT  where it waits for the homeserver; [HOST]:PORT for IPv6;\n"
    "                      port 0 takes a free one. The registration's url leads\n"
    "                      there.\n"
    "  --hs-token TOKEN    the registration's hs_token; a request without it is\n"
    "                      refused. Other users of this machine can see it, with ps.\n"
    "  --hs-token-file FILE\n"
    "                      the token is the first line of this file\n"
    "  --state FILE        remembers the last transactions and room events, and how\n"
    "                      long the output is. It is made when there is none, and\n"
    "                      belongs to that output.\n"
    "  --out FILE          where the items go; what is there already stays. Each\n"
    "                      line is a transaction with one item: `msc4203 convert\n"
    "                      --lines` joins them.\n"
    "  --fail N            answers the first N requests with 500, to try out a\n"
    "                      homeserver\n"
    "  --rotated           takes the output as it is now, though the state says that\n"
    "                      it was longer\n"
    "\n"
    "An option's value may also follow a \"=\". Both files are locked: a second program\n"
    "does not start with one of them. Items that can't be used are left out with a\n"
    "message; a transaction with an item of more than 1 MiB is refused with 413.\n"
    "\n"
    "SIGTERM and SIGINT end it. SIGHUP says that the output was moved away or\n"
    "emptied: it goes on with what is then at --out.\n"
    "\n"
    "Exit status: 0 a signal ended it; 2 wrong usage, or it can't start.\n";

/* A mistake of whoever starts it. */
static int wrong(const char *what, const char *why)
{
    say_plain("%s: %s (see appservice --help)", what, why);
    return 2;
}

static int fail(const char *what, const char *why)
{
    say_plain("%s: %s", what, why);
    return 2;
}

static int print(const char *text)
{
    if (fputs(text, stdout) < 0 || fflush(stdout) != 0)
        return fail("standard output", strerror(errno));
    return 0;
}

struct option {
    const char *name;
    const char **value;
};

/* Takes the value of an option: the next argument, or what follows a "=". */
static int option_take(const struct option *options, char **argv, int *i)
{
    const char *name = argv[*i], *equal = strchr(name, '=');
    size_t len = equal != NULL ? (size_t)(equal - name) : strlen(name);

    for (; options->name != NULL; options++)
        if (strlen(options->name) == len && memcmp(options->name, name, len) == 0)
            break;
    if (options->name == NULL)
        return wrong(name, "no such option");
    if (*options->value != NULL)
        return wrong(options->name, "given twice");
    if (equal == NULL && argv[*i + 1] == NULL)
        return wrong(name, "a value is missing");
    *options->value = equal != NULL ? equal + 1 : argv[++*i];
    return 0;
}

/* Takes the first line of a file for the token: at most 1,024 bytes. Returns 0, or an exit
 * status. */
static int token_read(const char *path, const char **token)
{
    static char line[1026];
    FILE *file = fopen(path, "r");
    const char *why = NULL;
    size_t bytes;

    if (file == NULL)
        return fail(path, strerror(errno));
    bytes = fread(line, 1, sizeof line - 1, file);
    if (ferror(file))
        why = strerror(errno);
    fclose(file);
    line[bytes] = 0;
    line[strcspn(line, "\r\n")] = 0;
    if (why == NULL && *line == 0)
        why = "its first line is empty";
    if (why == NULL && strlen(line) > 1024)
        why = "its first line is too long";
    *token = line;
    return why != NULL ? fail(path, why) : 0;
}

/* Reads the command line. Returns 0; or else an exit status, plus one: 1 when all is done. */
static int arguments_read(char **argv, const char **token)
{
    const char *number = NULL, *token_file = NULL;
    char *end;
    struct option options[7];
    int i, status;

    memset(options, 0, sizeof options);
    options[0].name = "--listen";
    options[0].value = &a.listen;
    options[1].name = "--hs-token";
    options[1].value = token;
    options[2].name = "--state";
    options[2].value = &a.state;
    options[3].name = "--out";
    options[3].value = &a.out;
    options[4].name = "--fail";
    options[4].value = &number;
    options[5].name = "--hs-token-file";
    options[5].value = &token_file;
    for (i = 1; argv[i] != NULL; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return 1 + print(help_text);
        if (strcmp(argv[i], "--version") == 0)
            return 1 + print("appservice " MSC4203_VERSION "\n");
        if (strcmp(argv[i], "--rotated") == 0) {
            a.rotated = 1;
            continue;
        }
        status = option_take(options, argv, &i);
        if (status != 0)
            return 1 + status;
    }
    if (token_file != NULL && *token != NULL)
        return 1 + wrong("--hs-token, --hs-token-file", "only one of them");
    status = token_file != NULL ? token_read(token_file, token) : 0;
    if (status != 0)
        return 1 + status;
    for (i = 0; i < 4; i++)
        if (*options[i].value == NULL || **options[i].value == 0)
            return 1 + wrong(options[i].name, "it is needed");
    if (number != NULL) {
        errno = 0;
        a.fail = strtoul(number, &end, 10);
        if (!http_is_digit(*number) || *end != 0 || errno != 0)
            return 1 + wrong(number, "not a number of requests");
    }
    if (strlen(a.state) > 1000 || strlen(a.out) > 1000)
        return 1 + wrong("--state, --out", "the name is too long");
    return 0;
}

/* How many connections the limit of descriptors leaves. Returns 0 when it is too low. */
static int descriptors_count(void)
{
    const rlim_t wanted = CONNECTIONS + DESCRIPTORS;
    struct rlimit limit;

    a.slots = CONNECTIONS;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 1;
    if (limit.rlim_cur < wanted) {
        limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
        (void)!setrlimit(RLIMIT_NOFILE, &limit);
        if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
            return 1;
    }
    if (limit.rlim_cur < wanted)
        a.slots = (int)limit.rlim_cur - DESCRIPTORS;
    return a.slots > 0;
}

static void signals_take(void)
{
    struct sigaction action;

    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    action.sa_handler = on_signal;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
    sigaction(SIGXFSZ, &action, NULL); /* a file that may not grow is an error like a full disk */
}

static int receivers_begin(const char *token, uint64_t random)
{
    msc4203_receiver_config config;

    memset(&config, 0, sizeof config);
    config.kinds = MSC4203_ALL_KINDS;
    config.hs_token.ptr = token;
    config.hs_token.len = strlen(token);
    return msc4203_receiver_init(&a.looker, &config, a.looker_memory, sizeof a.looker_memory,
                                 random) == MSC4203_OK &&
           msc4203_receiver_init(&a.receiver, &config, state.now.image.receiver,
                                 sizeof state.now.image.receiver, random) == MSC4203_OK;
}

/* Everything that can fail, in this order: nothing is changed before both files are locked, and
 * nothing is cut before the program is sure to listen. Returns 0, or the exit status. */
static int start(const char *token)
{
    struct http_address address;
    char host[256], port[6];
    const char *why;
    unsigned number;
    uint64_t random[2];

    if (!http_split(a.listen, strlen(a.listen), host, sizeof host, port))
        return wrong(a.listen, "not HOST:PORT");
    if (!http_resolve(host, port, 1, &address))
        return fail(a.listen, "the name does not resolve");
    if (!descriptors_count())
        return fail("descriptors", "the limit is too low (ulimit -n)");
    if (!http_random(random, sizeof random))
        return fail("/dev/urandom", strerror(errno));
    why = state_open(a.state);
    if (why != NULL)
        return fail(a.state, why);
    why = output_open(a.out, a.rotated);
    if (why != NULL)
        return fail(a.out, why);
    a.listener = http_listen(&address, &number);
    if (a.listener < 0)
        return fail(a.listen, strerror(errno));
    if (!receivers_begin(token, random[0]))
        return fail(a.state, "the state file is damaged");
    if (!output_start(random[1]))
        return fail(a.state, output.why);
    say_plain(strchr(host, ':') != NULL ? "listening on [%s]:%u" : "listening on %s:%u", host,
              number);
    return 0;
}

int main(int argc, char **argv)
{
    const char *token = NULL;
    int status;

    (void)argc;
    if (!start_descriptors())
        return 2;
    say_begin("appservice");
    status = arguments_read(argv, &token);
    if (status != 0)
        return status - 1;
    signals_take();
    a.owner = -1;
    status = start(token);
    if (status != 0)
        return status;
    a.now = http_clock();
    while (!ends) {
        if (rotates)
            rotate();
        turn();
    }
    if (a.owner >= 0)
        items_drop();
    return 0;
}
