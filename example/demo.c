/* demo.c - the whole way of a to-device message, through everything that goes wrong: starts the
 * gateway (a homeserver) and the appservice (a bridge), sends real messages through them from four
 * clients, kills both in the middle, and counts what the bridge wrote down. SPDX: 0BSD
 *
 *     build/demo [FOLDER]        FOLDER: test/data/synapse unless told; needs build/gateway and
 *                                build/appservice, and leaves everything in build/demo.run
 *
 * Ends with status 1 if anything was lost, doubled or out of order. */
#define _POSIX_C_SOURCE   200809L
#define _DARWIN_C_SOURCE
#define _FILE_OFFSET_BITS 64

#include "http.h"

#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { MESSAGES = 300, CLIENTS = 4, TEXT_BYTES = 8 << 20, SECONDS = 18 };

struct message {
    const char *type, *content;
    size_t type_bytes, content_bytes;
};

static const char *folder = "test/data/synapse";
static struct message messages[MESSAGES];
static char text[TEXT_BYTES];         /* their types and contents */
static size_t text_bytes;
static char body[1 << 20], scratch[1 << 18], line[1 << 20];
static uint64_t began;
static unsigned gateway_port, proxy_port, appservice_port;
static pid_t gateway, appservice, proxy, clients[CLIENTS];
static int from_clients, from_proxy, to_proxy;
static unsigned acknowledged;         /* messages, by the gateway */

static void say(const char *format, ...)
{
    va_list values;
    printf("%5.1f s  ", (double)(http_clock() - began) / 1000);
    va_start(values, format);
    vprintf(format, values);
    va_end(values);
    putchar('\n');
    fflush(stdout);
}

static void stop(const char *what)
{
    pid_t all[3 + CLIENTS];
    int i;

    printf("demo: %s\n", what);
    all[0] = gateway;
    all[1] = appservice;
    all[2] = proxy;
    memcpy(all + 3, clients, sizeof clients);
    for (i = 0; i < 3 + CLIENTS; i++)
        if (all[i] > 0)
            kill(all[i], SIGKILL);
    exit(1);
}

/* ---- the messages: out of transactions that a homeserver sent ---- */

static void load(const char *name)
{
    static unsigned count;
    msc4203_reader reader;
    const msc4203_item *item;
    char path[512];
    size_t bytes;
    FILE *file;

    snprintf(path, sizeof path, "%s/transactions/%s.json", folder, name);
    file = fopen(path, "rb");
    if (file == NULL)
        stop("can't read the captured transactions: run it in the project's folder");
    bytes = fread(body, 1, sizeof body, file);
    fclose(file);
    msc4203_reader_init(&reader, MSC4203_TRANSACTION, MSC4203_TO_DEVICE, scratch, sizeof scratch);
    msc4203_reader_feed(&reader, body, bytes, 1);
    while (msc4203_reader_next(&reader, &item) == MSC4203_ITEM) {
        struct message *m = &messages[count];
        if (count == MESSAGES || msc4203_item_error(item) != MSC4203_OK || item->type.len == 0 ||
            item->type.len + item->content.len > sizeof text - text_bytes)
            continue;
        m->type = text + text_bytes;
        m->type_bytes = item->type.len;
        memcpy(text + text_bytes, item->type.ptr, item->type.len);
        text_bytes += item->type.len;
        m->content = text + text_bytes;
        m->content_bytes = item->content.len;
        memcpy(text + text_bytes, item->content.ptr, item->content.len);
        text_bytes += item->content.len;
        count++;
    }
    if (strcmp(name, "112-batch-250-single") == 0 && count != MESSAGES)
        stop("too few messages were captured");
}

/* ---- programs ---- */

/* Starts a program; its `output` (1 or 2) comes out of a pipe, the rest goes to a file. */
static pid_t start(const char *const *words, int output, const char *rest, int *out)
{
    char *copy[12];
    int ends[2], file, i;
    pid_t pid;

    fflush(stdout);
    if (pipe(ends) != 0)
        stop("no pipe");
    pid = fork();
    if (pid == 0) {
        file = open(rest, O_WRONLY | O_CREAT | O_APPEND, 0600);
        dup2(ends[1], output);
        dup2(file, output == 1 ? 2 : 1);
        close(ends[0]);
        close(ends[1]);
        for (i = 0; words[i] != NULL; i++)
            memcpy(&copy[i], &words[i], sizeof copy[i]); /* execv() writes to none of them */
        copy[i] = NULL;
        execv(copy[0], copy);
        _exit(127);
    }
    close(ends[1]);
    *out = ends[0];
    return pid;
}

/* Reads the line in which a program says where it listens. */
static unsigned listening(int out, const char *name)
{
    char said[256];
    size_t n = 0;

    while (n + 1 < sizeof said && read(out, said + n, 1) == 1 && said[n] != '\n')
        n++;
    said[n] = 0;
    if (strstr(said, "listening on") == NULL || strrchr(said, ':') == NULL) {
        printf("demo: %s says: %s\n", name, said);
        stop("it did not start");
    }
    return (unsigned)strtoul(strrchr(said, ':') + 1, NULL, 10);
}

static void start_gateway(void)
{
    const char *words[] = {"build/gateway", "build/demo.run/config", NULL};
    FILE *file = fopen("build/demo.run/config", "w");
    int out, i;

    if (file == NULL)
        stop("can't write to build/demo.run");
    fprintf(file, "listen 127.0.0.1:%u\nserver_name gw.example\nstore build/demo.run/store 16M\n"
                  "appservice bridge http://127.0.0.1:%u HS_TOKEN AS_TOKEN to_device\n"
                  "exclusive bridge @_irc_.*:gw\\.example\nretry_ms_min 100\nretry_ms_max 400\n",
            gateway_port, proxy_port);
    for (i = 0; i < CLIENTS; i++)
        fprintf(file, "device @alice%d:gw.example PHONE TOKEN%d\n"
                      "device @_irc_%d:gw.example BRIDGE BRIDGETOKEN%d by bridge\n", i, i, i, i);
    fclose(file);
    gateway = start(words, 1, "build/demo.run/gateway.log", &out);
    gateway_port = listening(out, "gateway");
    close(out);
}

static void start_appservice(void)
{
    char address[32];
    const char *words[] = {"build/appservice", "--listen", address, "--hs-token", "HS_TOKEN",
                           "--state", "build/demo.run/state", "--out", "build/demo.run/out", NULL};
    int out;

    snprintf(address, sizeof address, "127.0.0.1:%u", appservice_port);
    appservice = start(words, 2, "build/demo.run/appservice.log", &out);
    appservice_port = listening(out, "appservice");
    /* `out` stays open: the bridge may want to say something. */
}

static void kill_now(pid_t *pid)
{
    kill(*pid, SIGKILL);
    waitpid(*pid, NULL, 0);
    *pid = 0;
}

/* ---- the network between the two, which can lose an answer ---- */

static int connect_to(unsigned port)
{
    struct sockaddr_in to;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    memset(&to, 0, sizeof to);
    to.sin_family = AF_INET;
    to.sin_port = htons((uint16_t)port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* Passes bytes on between two connections until one ends; loses the next answer when told to. */
static void pass_on(int near, int far, int orders, int reports, int *lose)
{
    struct pollfd polls[3];
    char data[16384];
    ssize_t n;
    int i;

    for (;;) {
        polls[0].fd = near;
        polls[1].fd = far;
        polls[2].fd = orders;
        for (i = 0; i < 3; i++)
            polls[i].events = POLLIN;
        if (poll(polls, 3, -1) < 0)
            return;
        if (polls[2].revents != 0) {
            if (read(orders, data, 1) != 1)
                _exit(0);
            *lose = 1;
        }
        for (i = 0; i < 2; i++) {
            if (polls[i].revents == 0)
                continue;
            n = recv(polls[i].fd, data, sizeof data, 0);
            if (n <= 0)
                return;
            if (i == 1 && *lose) {
                *lose = 0;
                (void)!write(reports, "L", 1);
                return;
            }
            if (send(polls[!i].fd, data, (size_t)n, MSG_NOSIGNAL) != n)
                return;
        }
    }
}

/* The network, as a process: connections to `listener` go on to the port that the appservice has,
 * read from `orders` when it starts. */
static void run_proxy(int listener, int orders, int reports)
{
    int lose = 0;

    for (;;) {
        int near = accept(listener, NULL, NULL), far = near < 0 ? -1 : connect_to(appservice_port);

        if (far >= 0)
            pass_on(near, far, orders, reports, &lose);
        if (far >= 0)
            close(far);
        if (near >= 0)
            close(near);
    }
}

static void start_proxy(void)
{
    struct http_address at;
    int orders[2] = {-1, -1}, reports[2] = {-1, -1}, listener;

    if (!http_resolve("127.0.0.1", "0", 1, &at))
        stop("no network");
    listener = http_listen(&at, &proxy_port);
    fcntl(listener, F_SETFL, 0);
    /* A port for the appservice, which is not there yet. */
    close(http_listen(&at, &appservice_port));
    if (listener < 0 || pipe(orders) != 0 || pipe(reports) != 0)
        stop("no network");
    fflush(stdout);
    proxy = fork();
    if (proxy == 0) {
        close(orders[1]);
        run_proxy(listener, orders[0], reports[1]);
    }
    close(listener);
    close(orders[0]);
    close(reports[1]);
    to_proxy = orders[1];
    from_proxy = reports[0];
}

/* ---- clients ---- */

/* Sends a request and waits for its answer. Returns its status, 0 when none came. */
static int request(int *fd, const char *head, const char *data, size_t bytes)
{
    static char answer[8192];
    struct http_head parsed;
    size_t got = 0, end = 0, sent = 0;
    ssize_t n;

    if (*fd < 0)
        *fd = connect_to(gateway_port);
    if (*fd < 0)
        return 0;
    if (send(*fd, head, strlen(head), MSG_NOSIGNAL) != (ssize_t)strlen(head))
        sent = SIZE_MAX;
    while (sent < bytes) {
        n = send(*fd, data + sent, bytes - sent, MSG_NOSIGNAL);
        sent = n <= 0 ? SIZE_MAX : sent + (size_t)n;
    }
    while (sent != SIZE_MAX) {
        if (end != 0 && parsed.has_length && got >= end + parsed.length)
            return parsed.status;
        n = recv(*fd, answer + got, sizeof answer - 1 - got, 0);
        if (n <= 0)
            break;
        got += (size_t)n;
        end = http_head_end(answer, got, 0);
        if (end != 0 && !http_parse(&parsed, answer, end, 1))
            break;
    }
    close(*fd);
    *fd = -1;
    return 0;
}

/* Sends each fourth message; the same request again as long as no answer comes. */
static void run_client(int number, int reports)
{
    struct timespec pause = {0, 12000000};
    char head[16384], path[3 * 4096];
    int i, fd = -1, status;
    size_t k, n;

    for (i = number; i < MESSAGES; i += CLIENTS) {
        const struct message *m = &messages[i];

        for (k = n = 0; k < m->type_bytes && n < sizeof path - 4; k++)
            n += (size_t)sprintf(path + n, "%%%02X", (unsigned)(unsigned char)m->type[k]);
        k = (size_t)sprintf(body, "{\"messages\":{\"@_irc_%d:gw.example\":{\"BRIDGE\":", number);
        memcpy(body + k, m->content, m->content_bytes);
        k += m->content_bytes;
        memcpy(body + k, "}}}", 3);
        k += 3;
        sprintf(head,
                "PUT /_matrix/client/v3/sendToDevice/%s/demo%d HTTP/1.1\r\nHost: gw.example\r\n"
                "Authorization: Bearer TOKEN%d\r\nContent-Length: %lu\r\n\r\n",
                path, i, number, (unsigned long)k);
        for (;;) {
            status = request(&fd, head, body, k);
            nanosleep(&pause, NULL);
            if (status == 200)
                break;
            if (status != 0) {
                fprintf(stderr, "demo: a client was answered %d\n", status);
                _exit(1);
            }
            (void)!write(reports, "R", 1);
        }
        (void)!write(reports, "A", 1);
    }
    _exit(0);
}

static void start_clients(void)
{
    int ends[2], i;

    if (pipe(ends) != 0)
        stop("no pipe");
    fflush(stdout);
    for (i = 0; i < CLIENTS; i++) {
        clients[i] = fork();
        if (clients[i] == 0) {
            signal(SIGPIPE, SIG_IGN);
            run_client(i, ends[1]);
        }
    }
    close(ends[1]);
    from_clients = ends[0];
}

/* Waits until so many messages have been acknowledged to the clients. Returns how many requests
 * were sent again meanwhile. */
static unsigned wait_for(unsigned count)
{
    unsigned again = 0;
    struct pollfd polled;
    char c;

    while (acknowledged < count) {
        polled.fd = from_clients;
        polled.events = POLLIN;
        polled.revents = 0;
        if (http_clock() - began > SECONDS * 1000 || poll(&polled, 1, 1000) < 0)
            stop("it takes too long");
        if (polled.revents == 0)
            continue;
        if (read(from_clients, &c, 1) != 1)
            stop("a client has given up");
        if (c == 'A')
            acknowledged++;
        else
            again++;
    }
    return again;
}

/* ---- what has arrived ---- */

/* Reads the bridge's output. Returns how many messages it has; *wrong counts those that are not the
 * next one for their recipient. */
static unsigned arrived(unsigned *lost, unsigned *doubled)
{
    FILE *file = fopen("build/demo.run/out", "rb");
    unsigned seen[MESSAGES], next[CLIENTS], count = 0, i, user;
    msc4203_reader reader;
    const msc4203_item *item;

    memset(seen, 0, sizeof seen);
    for (i = 0; i < CLIENTS; i++)
        next[i] = i;
    *lost = *doubled = 0;
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        msc4203_reader_init(&reader, MSC4203_TRANSACTION, MSC4203_TO_DEVICE, scratch,
                            sizeof scratch);
        msc4203_reader_feed(&reader, line, strlen(line), 1);
        while (msc4203_reader_next(&reader, &item) == MSC4203_ITEM) {
            count++;
            user = item->user_id.len > 6 ? (unsigned)(item->user_id.ptr[6] - '0') : CLIENTS;
            if (user >= CLIENTS)
                continue;
            /* Messages for one device come in order: it is the next one, or one came again. */
            i = next[user];
            if (i < MESSAGES && item->content.len == messages[i].content_bytes &&
                memcmp(item->content.ptr, messages[i].content, item->content.len) == 0) {
                seen[i]++;
                next[user] += CLIENTS;
            } else {
                ++*doubled;
            }
        }
    }
    if (file != NULL)
        fclose(file);
    for (i = 0; i < MESSAGES; i++)
        *lost += seen[i] == 0;
    return count;
}

/* A clean folder, and the messages. */
static void prepare(void)
{
    static const char *const files[] = {
        "029-td-olm", "015-td-multi-user", "019-td-unicode-escaped", "021-td-numbers",
        "024-td-nest-100", "026-td-nest-900", "030-td-room-key-request", "038-td-type-unicode",
        "044-td-size-max", "107-batch-250-wildcard", "128-perf-bulk", "130-perf-bulk",
        "112-batch-250-single"};
    unsigned i;

    mkdir("build", 0777);
    mkdir("build/demo.run", 0777);
    unlink("build/demo.run/store");
    unlink("build/demo.run/state");
    unlink("build/demo.run/out");
    for (i = 0; i < sizeof files / sizeof *files; i++)
        load(files[i]);
}

/* A twentieth of a second. */
static void rest(void)
{
    struct timespec moment = {0, 50000000};

    nanosleep(&moment, NULL);
}

/* All that happens until the last message is acknowledged to its client. */
static void story(void)
{
    unsigned again;
    char c;

    printf("A client sends a small, often encrypted message to another user's device: a to-device\n"
           "message. It carries the keys of encrypted rooms: lose one, and the other side reads\n"
           "\"unable to decrypt\". The users here belong to a bridge. Their homeserver must hand\n"
           "these messages to the bridge (MSC4203), whatever happens. So, let it happen:\n\n");
    start_proxy();
    start_gateway();
    say("The homeserver is up (build/gateway). The bridge is down.");
    start_clients();
    say("Four clients begin to send %d messages that were captured from a real server.", MESSAGES);
    wait_for(60);
    say("60 are acknowledged: they are on the disk, and wait. The bridge starts");
    say("    (build/appservice).");
    start_appservice();
    wait_for(100);
    say("100. The homeserver is killed (SIGKILL), in the middle of all this ...");
    kill_now(&gateway);
    rest();
    start_gateway();
    again = wait_for(110);
    say("... and started again. Clients without an answer sent %u requests again, under",
        again);
    say("    the same ids: none is queued twice.");
    wait_for(150);
    (void)!write(to_proxy, "L", 1);
    if (read(from_proxy, &c, 1) != 1)
        stop("the network has gone");
    say("The network lost the bridge's acknowledgement of a transaction. The homeserver will");
    say("    send it again, byte for byte; the bridge will know it, and deliver nothing twice.");
    wait_for(190);
    say("190. The bridge is killed ...");
    kill_now(&appservice);
    rest();
    rest();
    start_appservice();
    say("... and started again. It cuts off what it had not acknowledged: that will come again.");
    wait_for(240);
    say("240. The homeserver is killed once more, and started.");
    kill_now(&gateway);
    start_gateway();
    wait_for(MESSAGES);
    say("All %d are acknowledged to the clients.", MESSAGES);
}

int main(int argc, char **argv)
{
    unsigned lost, doubled, count, i;

    if (argc > 1)
        folder = argv[1];
    began = http_clock();
    signal(SIGPIPE, SIG_IGN);
    prepare();
    story();
    do {
        rest();
        arrived(&lost, &doubled);
    } while (lost != 0 && http_clock() - began < SECONDS * 1000);
    rest(); /* for one that comes once too often */
    count = arrived(&lost, &doubled);
    say("The bridge has written down %u messages, each device's in order.", count);
    for (i = 0; i < CLIENTS; i++)
        waitpid(clients[i], NULL, 0);
    kill(gateway, SIGTERM);
    kill(appservice, SIGTERM);
    kill_now(&proxy);
    waitpid(gateway, NULL, 0);
    waitpid(appservice, NULL, 0);
    printf("\ndemo: sent %d, delivered %u, lost %u, duplicated %u\n", MESSAGES, MESSAGES - lost,
           lost, doubled);
    return lost != 0 || doubled != 0;
}
