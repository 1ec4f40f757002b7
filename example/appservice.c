/* appservice.c - the other end of the gateway: an application service that writes down what it
 * gets. SPDX: 0BSD
 *
 *     cc -I. -o appservice example/appservice.c msc4203.c
 *     appservice --listen HOST:PORT --hs-token TOKEN --state FILE --out FILE [--fail N]
 *
 * Each item becomes a line of the output, as `msc4203 convert --each` writes it. Lines are written
 * as they come, and are provisional: the state file holds what the receiver remembers, and how long
 * the output is that belongs to it; it is replaced as a whole, once the output is durable, and only
 * then is the transaction acknowledged. What is behind that length at the start came from a
 * transaction that was not, and is cut off. */
#define _POSIX_C_SOURCE   200809L
#define _DARWIN_C_SOURCE
#define _FILE_OFFSET_BITS 64

#include "http.h"

#include <poll.h>
#include <signal.h>
#include <sys/stat.h>

enum {
    CONNECTIONS = 64,
    PIECE_BYTES = 65536,
    ITEM_BYTES = 1 << 20,  /* of the largest item */
    MEMORY_BYTES = 16 + 48 * 200,
    SILENT_MS = 60000
};

enum state {
    STATE_FREE,
    STATE_HEAD,
    STATE_WAIT,  /* another transaction is being read */
    STATE_BODY,  /* its body goes to the receiver */
    STATE_DRAIN, /* its body goes nowhere */
    STATE_WRITE,
    STATE_LINGER
};

struct connection {
    struct http_connection http;
    int state, result;
    uint64_t active;
    char in[HTTP_HEAD_MAX], out[512];
};

/* What outlives a restart, as the state file has it: 8 bytes "msc4203a", the output's length in 8,
 * the receiver's memory. */
struct kept {
    unsigned char head[16];
    unsigned char memory[MEMORY_BYTES];
};

static struct appservice {
    const char *listen, *state, *out;
    char state_new[1024];
    unsigned long fail;
    int listener, fd, ends;
    uint64_t kept_bytes, bytes;   /* of the output: acknowledged, and in all */
    struct kept kept;
    msc4203_receiver receiver;
    int owner;                    /* the connection whose transaction it reads, or -1 */
    uint64_t now;
    struct connection connections[CONNECTIONS];
    char piece[PIECE_BYTES], scratch[ITEM_BYTES], line[2 * ITEM_BYTES];
} a;

/* ---- what is kept ---- */

static int write_all(int fd, const void *data, size_t bytes)
{
    const char *at = (const char *)data;

    while (bytes != 0) {
        ssize_t n = write(fd, at, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return 0;
        at += n;
        bytes -= (size_t)n;
    }
    return 1;
}

/* Makes the names in a file's folder durable. */
static int sync_folder(const char *path)
{
    char folder[1024];
    size_t n = strlen(path);
    int fd, done;

    while (n != 0 && path[n - 1] != '/')
        n--;
    memcpy(folder, path, n);
    if (n == 0)
        folder[n++] = '.';
    folder[n] = 0;
    fd = open(folder, O_RDONLY);
    done = fd >= 0 && (fsync(fd) == 0 || errno == EINVAL);
    if (fd >= 0)
        close(fd);
    return done;
}

/* Makes the output and then the state durable. */
static int state_save(void)
{
    int fd, i, done;

    if (fsync(a.fd) != 0)
        return 0;
    memcpy(a.kept.head, "msc4203a", 8);
    for (i = 0; i < 8; i++)
        a.kept.head[8 + i] = (unsigned char)(a.bytes >> 8 * i);
    fd = open(a.state_new, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0)
        return 0;
    done = write_all(fd, &a.kept, sizeof a.kept) && fsync(fd) == 0;
    close(fd);
    if (!done || rename(a.state_new, a.state) != 0 || !sync_folder(a.state))
        return 0;
    a.kept_bytes = a.bytes;
    return 1;
}

/* Cuts the output back to what was acknowledged. */
static int out_cut(void)
{
    a.bytes = a.kept_bytes;
    return ftruncate(a.fd, (off_t)a.bytes) == 0 && lseek(a.fd, (off_t)a.bytes, SEEK_SET) >= 0;
}

/* Opens both files. Returns 0 when that fails. */
static int state_open(void)
{
    int fd = open(a.state, O_RDONLY), i;
    ssize_t n = 0;

    if (fd < 0 && errno != ENOENT)
        return 0;
    if (fd >= 0) {
        n = read(fd, &a.kept, sizeof a.kept);
        close(fd);
        if (n != (ssize_t)sizeof a.kept || memcmp(a.kept.head, "msc4203a", 8) != 0) {
            errno = EINVAL;
            return 0;
        }
    }
    for (i = 8; i-- != 0;)
        a.kept_bytes = a.kept_bytes << 8 | a.kept.head[8 + i];
    a.fd = open(a.out, O_RDWR | O_CREAT, 0600);
    if (a.fd < 0)
        return 0;
    if (n == 0) { /* no state: what is there is not ours */
        off_t end = lseek(a.fd, 0, SEEK_END);
        if (end < 0)
            return 0;
        a.kept_bytes = (uint64_t)end;
    }
    return out_cut() && sync_folder(a.out);
}

/* ---- items ---- */

/* Appends an item to the output, provisionally. */
static int item_write(const msc4203_item *item)
{
    static msc4203_writer writer;
    size_t bytes = 0, i;
    int result = msc4203_writer_begin(&writer, MSC4203_TRANSACTION, 0, a.line, sizeof a.line - 1);

    if (result == MSC4203_OK)
        result = msc4203_writer_item(&writer, item);
    if (result == MSC4203_OK)
        result = msc4203_writer_end(&writer, &bytes);
    if (result != MSC4203_OK) { /* one bad item must not block the others */
        fprintf(stderr, "appservice: item %u: %s\n", item->index, msc4203_result_text(result));
        return 1;
    }
    for (i = 0; i < bytes; i++) /* between tokens only: strings have none */
        if (a.line[i] == '\n' || a.line[i] == '\r')
            a.line[i] = ' ';
    a.line[bytes++] = '\n';
    a.bytes += bytes;
    return write_all(a.fd, a.line, bytes);
}

/* Takes the lines of to-device messages out of what is provisional. */
static int items_drop_to_device(void)
{
    static const char key[] = "{\"de.sorunome.msc2409.to_device\"";
    uint64_t from = a.kept_bytes, to = from;

    while (from < a.bytes) {
        ssize_t n = pread(a.fd, a.line, sizeof a.line, (off_t)from);
        const char *end = n > 0 ? (const char *)memchr(a.line, '\n', (size_t)n) : NULL;
        size_t bytes;

        if (end == NULL)
            return 0;
        bytes = (size_t)(end - a.line) + 1;
        from += bytes;
        if (memcmp(a.line, key, sizeof key - 1) == 0)
            continue;
        if (pwrite(a.fd, a.line, bytes, (off_t)to) != (ssize_t)bytes)
            return 0;
        to += bytes;
    }
    a.bytes = to;
    return ftruncate(a.fd, (off_t)to) == 0 && lseek(a.fd, (off_t)to, SEEK_SET) >= 0;
}

/* Reads on. Returns MSC4203_MORE, or what the transaction is to be answered with. */
static int items_read(void)
{
    const msc4203_item *item;
    int result, done = 1;

    while ((result = msc4203_receiver_next(&a.receiver, &item)) == MSC4203_ITEM && done) {
        if (item->error != MSC4203_OK)
            fprintf(stderr, "appservice: item %u: %s\n", item->index,
                    msc4203_result_text(item->error));
        else
            done = item_write(item);
    }
    if (result == MSC4203_MORE && done)
        return result;
    if (result == MSC4203_REPEAT_TO_DEVICE)
        done = done && items_drop_to_device();
    if ((result == MSC4203_NEW || result == MSC4203_REPEAT_TO_DEVICE) && done && state_save())
        return MSC4203_OK;
    if (result == MSC4203_REPEAT)
        done = out_cut();
    else if (!out_cut())
        done = 0;
    msc4203_receiver_reject(&a.receiver);
    if (result < 0)
        return result;
    return result == MSC4203_REPEAT && done ? MSC4203_OK : MSC4203_E_STORAGE;
}

/* ---- connections ---- */

static void connection_close(struct connection *c)
{
    if (a.owner == (int)(c - a.connections)) {
        a.owner = -1;
        (void)!out_cut();
    }
    close(c->http.fd);
    c->state = STATE_FREE;
}

static void connection_write(struct connection *c)
{
    switch (http_write(&c->http, c->out, c->in)) {
    case HTTP_NEXT:
        c->state = STATE_HEAD;
        return;
    case HTTP_LINGER:
        c->state = STATE_LINGER;
        return;
    case HTTP_CLOSE:
        connection_close(c);
        return;
    default:
        return;
    }
}

/* Answers; what is left of the body must have been read, or the connection ends. */
static void answer(struct connection *c)
{
    char body[256];
    size_t bytes = 0;

    if (a.owner == (int)(c - a.connections))
        a.owner = -1;
    if (c->http.body.state != HTTP_BODY_DONE)
        c->http.lingers = 1;
    msc4203_result_body(c->result, body, sizeof body, &bytes);
    http_answer(&c->http, c->out, msc4203_result_status(c->result), body, bytes);
    c->state = STATE_WRITE;
    connection_write(c);
}

/* Takes a request whose head is complete. */
static void request_begin(struct connection *c, size_t bytes)
{
    struct http_head head;
    int result;

    c->http.lingers = 0;
    if (!http_parse(&head, c->in, bytes, 0)) {
        c->http.keep_alive = 0;
        c->http.body.state = HTTP_BODY_DONE;
        c->result = MSC4203_E_SYNTAX;
        answer(c);
        return;
    }
    if (a.owner >= 0) {
        c->state = STATE_WAIT;
        return;
    }
    c->http.keep_alive = (uint8_t)head.keep_alive;
    c->http.in_at = (uint32_t)bytes;
    http_body_begin(&c->http.body, &head, 0);
    result = msc4203_receiver_request(&a.receiver, &head.method, &head.target, &head.authorization,
                                      a.scratch, sizeof a.scratch);
    if (a.fail != 0) {
        a.fail--;
        fprintf(stderr, "appservice: fails on purpose\n");
        result = MSC4203_E_STORAGE;
    }
    if (result == MSC4203_MORE) {
        if (head.expects && c->http.body.state != HTTP_BODY_DONE)
            http_continue(&c->http);
        a.owner = (int)(c - a.connections);
        c->state = STATE_BODY;
        return;
    }
    c->result = result == MSC4203_END ? MSC4203_OK : result;
    c->state = STATE_DRAIN;
    if (head.expects && c->http.body.state != HTTP_BODY_DONE)
        answer(c); /* it waits for that before it sends its body */
}

/* Takes a piece of a body; `last` says that it was the last one. */
static void request_piece(struct connection *c, const msc4203_span *piece)
{
    int last = c->http.body.state == HTTP_BODY_DONE;

    if (c->http.body.state == HTTP_BODY_WRONG) {
        c->result = MSC4203_E_SYNTAX;
        if (c->state == STATE_BODY)
            (void)!out_cut();
        answer(c);
        return;
    }
    if (c->state == STATE_BODY && (piece->len != 0 || last)) {
        msc4203_receiver_feed(&a.receiver, piece->ptr, piece->len, last);
        c->result = items_read();
        if (c->result != MSC4203_MORE) {
            a.owner = -1;
            c->state = STATE_DRAIN;
        }
    }
    if (last && c->state == STATE_DRAIN)
        answer(c);
}

/* Goes on with what has been read. */
static void connection_go(struct connection *c)
{
    msc4203_span piece = {NULL, 0};
    size_t end;

    for (;;) {
        switch (c->state) {
        case STATE_HEAD:
            end = http_in_head(&c->http, c->in);
            if (end != 0) {
                request_begin(c, end);
                if (c->state == STATE_WAIT)
                    return;
                break;
            }
            if (c->http.in_bytes < sizeof c->in)
                return;
            c->http.keep_alive = 0;
            c->http.body.state = HTTP_BODY_DONE;
            c->result = MSC4203_E_TOO_LARGE;
            answer(c);
            break;
        case STATE_BODY:
        case STATE_DRAIN:
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

    if (c->state == STATE_HEAD)
        n = http_in_read(&c->http, c->in, sizeof c->in);
    else if (c->state == STATE_BODY || c->state == STATE_DRAIN)
        n = http_body_read(&c->http, a.piece, sizeof a.piece);
    else
        n = http_receive(c->http.fd, a.piece, sizeof a.piece, 0);
    if (n < 0)
        connection_close(c);
    if (n <= 0)
        return;
    c->active = a.now;
    while (at < (size_t)n && (c->state == STATE_BODY || c->state == STATE_DRAIN)) {
        msc4203_span piece;
        at += http_body_take(&c->http, a.piece + at, (size_t)n - at, &piece);
        request_piece(c, &piece);
    }
    connection_go(c);
}

static void connections_accept(void)
{
    int i, fd;

    for (;;) {
        for (i = 0; i < CONNECTIONS && a.connections[i].state != STATE_FREE; i++)
            ;
        if (i == CONNECTIONS)
            return; /* it stays where it waits */
        fd = http_accept(a.listener);
        if (fd < 0)
            return;
        memset(&a.connections[i], 0, offsetof(struct connection, in));
        a.connections[i].http.fd = fd;
        a.connections[i].state = STATE_HEAD;
        a.connections[i].active = a.now;
    }
}

static void turn(void)
{
    struct pollfd polls[CONNECTIONS + 1];
    int owner[CONNECTIONS + 1], count = 0, i;

    for (i = 0; i < CONNECTIONS; i++) {
        struct connection *c = &a.connections[i];
        if (c->state == STATE_WAIT && a.owner < 0) {
            c->state = STATE_HEAD;
            c->http.looked = 0;
            connection_go(c);
        }
        if (c->state != STATE_FREE && c->state != STATE_WAIT && a.now - c->active > SILENT_MS)
            connection_close(c);
        if (c->state == STATE_FREE)
            continue;
        polls[count].fd = c->http.fd;
        polls[count].events = c->state == STATE_WRITE ? POLLOUT
                                                      : c->state == STATE_WAIT ? 0 : POLLIN;
        owner[count++] = i;
    }
    polls[count].fd = a.listener;
    polls[count].events = count == CONNECTIONS ? 0 : POLLIN;
    if (poll(polls, (nfds_t)count + 1, 1000) <= 0)
        count = 0;
    a.now = http_clock();
    for (i = 0; i < count; i++) {
        struct connection *c = &a.connections[owner[i]];
        if (polls[i].revents == 0 || c->state == STATE_FREE)
            continue;
        if (c->state == STATE_WRITE) {
            connection_write(c);
            if (c->state == STATE_HEAD)
                connection_go(c);
        } else if (c->state == STATE_WAIT) {
            connection_close(c);
        } else {
            connection_read(c);
        }
    }
    connections_accept();
}

/* ---- the start ---- */

static void on_signal(int signal)
{
    (void)signal;
    a.ends = 1;
}

static int usage(void)
{
    fprintf(stderr, "usage: appservice --listen HOST:PORT --hs-token TOKEN --state FILE --out FILE "
                    "[--fail N]\n");
    return 2;
}

static int fail(const char *what)
{
    fprintf(stderr, "appservice: %s: %s\n", what, strerror(errno));
    return 2;
}

int main(int argc, char **argv)
{
    msc4203_receiver_config config;
    struct http_address address;
    struct sigaction action;
    char host[256], port[6], *end = NULL;
    unsigned number;
    uint64_t random;
    int i;

    memset(&config, 0, sizeof config);
    config.kinds = MSC4203_ALL_KINDS;
    for (i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--listen") == 0) {
            a.listen = argv[i + 1];
        } else if (strcmp(argv[i], "--hs-token") == 0) {
            config.hs_token.ptr = argv[i + 1];
            config.hs_token.len = strlen(argv[i + 1]);
        } else if (strcmp(argv[i], "--state") == 0) {
            a.state = argv[i + 1];
        } else if (strcmp(argv[i], "--out") == 0) {
            a.out = argv[i + 1];
        } else if (strcmp(argv[i], "--fail") == 0) {
            a.fail = strtoul(argv[i + 1], &end, 10);
            if (*argv[i + 1] == 0 || *end != 0)
                return usage();
        } else {
            return usage();
        }
    }
    if (i != argc || a.listen == NULL || config.hs_token.len == 0 || a.state == NULL ||
        a.out == NULL || strlen(a.state) > sizeof a.state_new - 8 ||
        strlen(a.out) > sizeof a.state_new - 8)
        return usage();
    if (!http_split(a.listen, strlen(a.listen), host, sizeof host, port) ||
        !http_resolve(host, port, 1, &address))
        return usage();
    sprintf(a.state_new, "%s.new", a.state);
    a.owner = -1;
    if (!state_open())
        return fail(a.state);
    if (!http_random(&random, sizeof random))
        return fail("/dev/urandom");
    msc4203_receiver_init(&a.receiver, &config, a.kept.memory, sizeof a.kept.memory, random);
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    a.listener = http_listen(&address, &number);
    if (a.listener < 0)
        return fail(a.listen);
    fprintf(stderr, strchr(host, ':') != NULL ? "appservice: listening on [%s]:%u\n"
                                              : "appservice: listening on %s:%u\n", host, number);
    a.now = http_clock();
    while (!a.ends)
        turn();
    return 0;
}
