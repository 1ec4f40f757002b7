/* load.c - the gateway's part of the benchmark: starts build/gateway and build/appservice on
 * loopback, sends messages over one connection and over eight, with syncs and without, and writes
 * a table. Every message must have been answered with 200, and must be in the appservice's output
 * once, in order.
 *
 *     load DIRECTORY BUILD PRELOAD    PRELOAD: sync.c, as an object to be loaded
 *
 * BENCH_SECONDS (60) is about how much time the benchmark has; this takes half as long. An aim that
 * is missed is only told of; what is lost or wrong makes it fail. */
#define _POSIX_C_SOURCE   200809L
#define _FILE_OFFSET_BITS 64

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    CONNECTIONS = 8,
    USERS = 96,              /* a multiple of it: who is written to by one connection only */
    WARM = 64,               /* messages that are sent, but not measured */
    MESSAGES_MAX = 30000,    /* what the store has room for, even if nothing was delivered */
    CIPHERTEXT_BYTES = 800,  /* the request's body is about 1 KB with it */
    REQUEST_BYTES = 2048,
    DISK_PAGES = 1024,
    SILENT_SECONDS = 30,     /* after so long without progress something is wrong */
    HWM_AIM = 8192           /* KiB */
};

/* Synapse, one client, one message after the other, on a small shared machine: 5.8 ms for each. */
static const double peer_rate = 1 / .0058;

struct connection {
    int fd;
    unsigned sent;           /* messages, of which the last may not be answered yet */
    int busy;
    double began;
    size_t bytes;            /* of the answer */
    char in[1024];
};

struct result {
    unsigned messages;
    double rate, latency[4]; /* latency: ms; half, 90 %, 99 % of them, all were no slower */
    double disk, syncs;      /* syncs: for each message */
    long hwm;
};

static const char *directory, *build, *preload;
static pid_t gateway, appservice;
static struct connection connections[CONNECTIONS];
static double latencies[MESSAGES_MAX];
static double seconds;

static void end_all(void)
{
    if (gateway > 0)
        kill(gateway, SIGKILL);
    if (appservice > 0)
        kill(appservice, SIGKILL);
}

static void stop(const char *format, ...)
{
    va_list values;

    fprintf(stderr, "load: ");
    va_start(values, format);
    vfprintf(stderr, format, values);
    va_end(values);
    fputc('\n', stderr);
    end_all();
    exit(1);
}

static const char *path_of(const char *name)
{
    static char paths[4][1024]; /* so that a call can have more than one */
    static unsigned next;
    char *path = paths[next++ % 4];

    if (snprintf(path, sizeof paths[0], "%s/gateway.%s", directory, name) >= (int)sizeof paths[0])
        stop("too long a path");
    return path;
}

static double clock_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void pause_ms(long ms)
{
    struct timespec t = {0, 0};
    t.tv_nsec = ms * 1000000;
    nanosleep(&t, NULL);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* ---- the programs ---- */

/* Starts one, which writes what it says to a file, and waits for the port that it tells there. */
static pid_t start(char *const *words, const char *said, const char *syncs, int stubbed,
                   unsigned *port)
{
    static const char mark[] = "listening on 127.0.0.1:";
    double until = clock_now() + 10;
    pid_t pid;

    unlink(said); /* it may tell an old port */
    pid = fork();
    if (pid < 0)
        stop("cannot fork");
    if (pid == 0) {
        int file = open(said, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
        if (file < 0 || dup2(file, 1) < 0 || dup2(file, 2) < 0 ||
            setenv("LD_PRELOAD", preload, 1) != 0 || setenv("BENCH_SYNCS", syncs, 1) != 0 ||
            (stubbed ? setenv("BENCH_NO_SYNC", "1", 1) : unsetenv("BENCH_NO_SYNC")) != 0)
            _exit(126);
        execv(words[0], words);
        _exit(127);
    }
    while (clock_now() < until && waitpid(pid, NULL, WNOHANG) == 0) {
        char text[1024];
        FILE *file = fopen(said, "r");
        size_t n = file != NULL ? fread(text, 1, sizeof text - 1, file) : 0;
        char *at;

        if (file != NULL)
            fclose(file);
        text[n] = 0;
        at = strstr(text, mark);
        if (at != NULL && strchr(at, '\n') != NULL) {
            *port = (unsigned)strtoul(at + sizeof mark - 1, NULL, 10);
            return pid;
        }
        pause_ms(10);
    }
    kill(pid, SIGKILL);
    stop("%s does not start; see %s", words[0], said);
    return 0;
}

static void program_path(char *path, size_t room, const char *name)
{
    if (snprintf(path, room, "%s/%s", build, name) >= (int)room || access(path, X_OK) != 0)
        stop("there is no %s/%s", build, name);
}

/* A fresh store, and fresh outputs, for each measurement. */
static unsigned start_both(int stubbed)
{
    static const char *const left[] = {"store", "state", "out", "syncs", "appservice_syncs"};
    static char listen[] = "127.0.0.1:0", token[] = "HS_TOKEN", program[1024], config[1024];
    static char state[1024], out[1024], o_listen[] = "--listen", o_token[] = "--hs-token";
    static char o_state[] = "--state", o_out[] = "--out";
    char *bridge[] = {program, o_listen, listen, o_token, token, o_state, state, o_out, out, NULL};
    char *server[] = {program, config, NULL};
    unsigned port, i;
    FILE *file;

    for (i = 0; i < sizeof left / sizeof *left; i++)
        unlink(path_of(left[i]));
    strcpy(state, path_of("state"));
    strcpy(out, path_of("out"));
    program_path(program, sizeof program, "appservice");
    appservice = start(bridge, path_of("appservice_said"), path_of("appservice_syncs"), stubbed,
                       &port);
    strcpy(config, path_of("conf"));
    file = fopen(config, "w");
    if (file == NULL)
        stop("cannot write %s", config);
    fprintf(file, "listen 127.0.0.1:0\nserver_name gw.example\nstore %s 64M\n"
                  "appservice bridge http://127.0.0.1:%u HS_TOKEN AS_TOKEN to_device\n"
                  "exclusive bridge @_irc_.*:gw\\.example\nappservice_bytes_max 64M\n"
                  "device_bytes_max 8M\n",
            path_of("store"), port);
    for (i = 0; i < CONNECTIONS; i++)
        fprintf(file, "device @alice%u:gw.example PHONE TOKEN%u\n", i, i);
    for (i = 0; i < USERS; i++)
        fprintf(file, "device @_irc_%u:gw.example BRIDGE BRIDGETOKEN%u by bridge\n", i, i);
    if (fclose(file) != 0)
        stop("cannot write %s", config);
    program_path(program, sizeof program, "gateway");
    gateway = start(server, path_of("said"), path_of("syncs"), stubbed, &port);
    return port;
}

static void end_one(pid_t *pid, const char *name)
{
    int status = -1;

    kill(*pid, SIGTERM);
    if (waitpid(*pid, &status, 0) != *pid || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
        stop("the %s did not end well; see %s", name, path_of("said"));
    *pid = 0;
}

static unsigned long syncs_of(const char *name)
{
    unsigned long count = 0;
    int fd = open(path_of(name), O_RDONLY);

    if (fd < 0 || read(fd, &count, sizeof count) != (ssize_t)sizeof count || count == 0)
        stop("nothing in %s: no sync was counted, so %s was not loaded", path_of(name), preload);
    close(fd);
    return count;
}

/* Its peak of resident memory, in KiB. */
static long hwm_of(pid_t pid)
{
    char path[64], line[256];
    long kib = -1;
    FILE *file;

    snprintf(path, sizeof path, "/proc/%ld/status", (long)pid);
    file = fopen(path, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, "VmHWM:", 6) == 0)
            kib = strtol(line + 6, NULL, 10);
    if (file != NULL)
        fclose(file);
    if (kib <= 0)
        stop("no VmHWM in %s", path);
    return kib;
}

/* ---- the load ---- */

static void connect_to(struct connection *c, unsigned port)
{
    struct sockaddr_in to;
    int one = 1;

    memset(c, 0, sizeof *c);
    memset(&to, 0, sizeof to);
    to.sin_family = AF_INET;
    to.sin_port = htons((uint16_t)port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (const struct sockaddr *)&to, sizeof to) != 0)
        stop("cannot connect to the gateway");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

/* Sends the next message: head and body at once, as a client over a library of some quality does.
 * The messages' numbers are those of their connection's turns, so the next one for a user has a
 * number USERS higher. */
static void send_one(struct connection *c, unsigned count)
{
    static char cipher[CIPHERTEXT_BYTES + 1];
    char body[REQUEST_BYTES], request[2 * REQUEST_BYTES];
    unsigned which = (unsigned)(c - connections), number = c->sent * count + which;
    int bytes, i;

    for (i = 0; cipher[0] == 0 || (i < CIPHERTEXT_BYTES && cipher[i] == 0); i++)
        cipher[i] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[i * 37 % 64];
    bytes = snprintf(body, sizeof body,
                     "{\"messages\":{\"@_irc_%u:gw.example\":{\"BRIDGE\":{\"n\":%u,\"algorithm\":"
                     "\"m.olm.v1.curve25519-aes-sha2\",\"sender_key\":"
                     "\"hPQNcabIABgGnx3/ACv/jmMmiQHoeFfuLB17tzWp6Hw\",\"ciphertext\":{"
                     "\"+qXMmPqcWlDJgCPYxcsPQXXbAAjZiNU7CJkKQvGEfwY\":"
                     "{\"type\":1,\"body\":\"%s\"}}}}}}",
                     number % USERS, number, cipher);
    bytes = snprintf(request, sizeof request,
                     "PUT /_matrix/client/v3/sendToDevice/m.room.encrypted/m%u HTTP/1.1\r\n"
                     "Host: gw.example\r\nAuthorization: Bearer TOKEN%u\r\nAccept: */*\r\n"
                     "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
                     number, which, bytes, body);
    c->began = clock_now();
    if (send(c->fd, request, (size_t)bytes, MSG_NOSIGNAL) != bytes)
        stop("the gateway has hung up");
    c->sent++;
    c->busy = 1;
    c->bytes = 0;
}

/* Reads what has come of an answer. Returns whether it is complete. */
static int read_answer(struct connection *c)
{
    static const char length[] = "\r\nContent-Length: ";
    ssize_t n = recv(c->fd, c->in + c->bytes, sizeof c->in - 1 - c->bytes, 0);
    const char *end, *at;

    if (n <= 0)
        stop("the gateway has hung up instead of answering");
    c->bytes += (size_t)n;
    c->in[c->bytes] = 0;
    end = strstr(c->in, "\r\n\r\n");
    if (end == NULL)
        return 0;
    if (strncmp(c->in, "HTTP/1.1 200 ", 13) != 0)
        stop("not answered with 200:\n%s", c->in);
    at = strstr(c->in, length);
    if (at == NULL || at > end)
        stop("an answer without a length:\n%s", c->in);
    return c->bytes == (size_t)(end + 4 - c->in) + strtoul(at + sizeof length - 1, NULL, 10);
}

/* Has so many connections send for a while, each one message after the other. Keeps the latencies;
 * returns the number of messages. */
static unsigned send_all(unsigned count, unsigned messages_max, double least, double *time)
{
    struct pollfd polls[CONNECTIONS];
    double from = clock_now(), now = from;
    unsigned i, begun = 0, done = 0;

    for (i = 0; i < count; i++) {
        polls[i].fd = connections[i].fd;
        polls[i].events = POLLIN;
    }
    for (;;) {
        for (i = 0; i < count; i++)
            if (!connections[i].busy && begun < messages_max && now - from < least) {
                send_one(&connections[i], count);
                begun++;
            }
        if (done == begun)
            break;
        if (poll(polls, count, SILENT_SECONDS * 1000) <= 0)
            stop("the gateway does not answer");
        now = clock_now();
        for (i = 0; i < count; i++)
            if (polls[i].revents != 0 && read_answer(&connections[i])) {
                latencies[done++] = now - connections[i].began;
                connections[i].busy = 0;
            }
    }
    *time = clock_now() - from;
    return done;
}

/* ---- what has arrived ---- */

/* Waits until the appservice has written so many lines, and checks that they are the messages: all,
 * once, each user's in order. */
static void check_arrived(unsigned count, unsigned total)
{
    static char piece[65536];
    unsigned lines = 0, next[USERS], i, wrong = 0;
    double moved = clock_now();
    int fd = open(path_of("out"), O_RDONLY);
    char *line = NULL;
    size_t room = 0;
    FILE *file;

    if (fd < 0)
        stop("there is no output of the appservice");
    while (lines < total) {
        ssize_t n = read(fd, piece, sizeof piece), at;

        for (at = 0; at < n; at++)
            lines += piece[at] == '\n';
        if (n > 0)
            moved = clock_now();
        else if (clock_now() - moved > SILENT_SECONDS)
            stop("LOST: of %u messages %u were delivered", total, lines);
        else
            pause_ms(50);
    }
    close(fd);
    pause_ms(300); /* anything that comes twice comes now */
    for (i = 0; i < USERS; i++)
        next[i] = i;
    lines = 0;
    file = fopen(path_of("out"), "r");
    while (file != NULL && getline(&line, &room, file) > 0) {
        const char *user = strstr(line, "\"@_irc_"), *number = strstr(line, "{\"n\":");
        unsigned u = user != NULL ? (unsigned)strtoul(user + 7, NULL, 10) : USERS;

        lines++;
        if (u < USERS && number != NULL && strtoul(number + 5, NULL, 10) == next[u])
            next[u] += USERS;
        else
            wrong++;
    }
    free(line);
    if (file != NULL)
        fclose(file);
    for (i = 0; i < USERS; i++) /* the first that was not sent is the next one for its user */
        wrong += next[i] / count < connections[i % count].sent;
    if (lines != total || wrong != 0)
        stop("WRONG: %u messages were sent, %u delivered, %u of them not in their place", total,
             lines, wrong);
}

/* ---- measuring ---- */

/* How often a second the disk makes 4 KiB durable. */
static double disk_turn(double least)
{
    static char page[4096];
    int fd = open(path_of("disk"), O_RDWR | O_CREAT, 0600), i;
    double from, time;
    long count = 0;

    if (fd < 0)
        stop("cannot write %s", path_of("disk"));
    for (i = 0; i < DISK_PAGES; i++) /* there is no new block to be found later */
        if (pwrite(fd, page, sizeof page, (off_t)i * 4096) != (ssize_t)sizeof page)
            stop("cannot write %s", path_of("disk"));
    fsync(fd);
    from = clock_now();
    do {
        memset(page, (int)count, sizeof page);
        if (pwrite(fd, page, sizeof page, count % DISK_PAGES * 4096) != (ssize_t)sizeof page ||
            fdatasync(fd) != 0)
            stop("cannot write %s", path_of("disk"));
        count++;
        time = clock_now() - from;
    } while (time < least);
    close(fd);
    return (double)count / time;
}

static struct result measure(unsigned count, int stubbed)
{
    static const double parts[4] = {.5, .9, .99, 1};
    double least = seconds * .1, disk = 0, time;
    unsigned port, i, warm;
    unsigned long before;
    struct result r;

    memset(&r, 0, sizeof r);
    if (!stubbed)
        disk = disk_turn(least / 8);
    port = start_both(stubbed);
    for (i = 0; i < count; i++)
        connect_to(&connections[i], port);
    warm = send_all(count, WARM, SILENT_SECONDS, &time);
    before = syncs_of("syncs");
    r.messages = send_all(count, MESSAGES_MAX, least, &time);
    r.syncs = (double)(syncs_of("syncs") - before) / r.messages;
    if (warm != WARM || r.messages == 0)
        stop("nothing was sent");
    r.rate = r.messages / time;
    check_arrived(count, warm + r.messages);
    r.hwm = hwm_of(gateway);
    syncs_of("appservice_syncs");
    for (i = 0; i < count; i++)
        close(connections[i].fd);
    end_one(&gateway, "gateway");
    end_one(&appservice, "appservice");
    if (!stubbed) /* the disk is not the same from one moment to the next */
        r.disk = (disk + disk_turn(least / 8)) / 2;
    qsort(latencies, r.messages, sizeof *latencies, by_value);
    for (i = 0; i < 4; i++) {
        size_t at = (size_t)((double)r.messages * parts[i]);
        r.latency[i] = latencies[at < r.messages ? at : r.messages - 1] * 1000;
    }
    return r;
}

static const char *met(int is)
{
    return is ? "met" : "MISSED";
}

int main(int argc, char **argv)
{
    static const struct {
        unsigned connections;
        int stubbed;
        double times; /* the aim: so many times Synapse, or for 8 connections the disk */
    } ways[] = {{1, 0, 3}, {1, 1, 10}, {CONNECTIONS, 0, 3}, {CONNECTIONS, 1, 0}};
    const char *value = getenv("BENCH_SECONDS");
    struct result r[4];
    long hwm = 0;
    FILE *table;
    unsigned i;

    if (argc != 4) {
        fprintf(stderr, "usage: load DIRECTORY BUILD PRELOAD\n");
        return 2;
    }
    directory = argv[1];
    build = argv[2];
    preload = argv[3];
    if (strlen(directory) > 900)
        stop("too long a path");
    seconds = value != NULL && atof(value) > 0 ? atof(value) : 60;
    signal(SIGPIPE, SIG_IGN);
    unlink(path_of("md")); /* no table of an earlier run is taken for one of this */
    for (i = 0; i < 4; i++) {
        r[i] = measure(ways[i].connections, ways[i].stubbed);
        hwm = r[i].hwm > hwm ? r[i].hwm : hwm;
    }
    table = fopen(path_of("md"), "w");
    if (table == NULL)
        stop("cannot write %s", path_of("md"));
    fprintf(table, "Messages of 1 KB through the gateway to an appservice, over loopback. Syncs: "
                   "those of the gateway, while the load lasted; without them: of both programs. "
                   "Synapse: %.0f messages/s, one after the other. All messages arrived, once and "
                   "in order.\n\n"
                   "| | messages | messages/s | ms: half | 90 %% | 99 %% | all | syncs/message | "
                   "peak memory, KiB | the disk's syncs/s | aim | |\n"
                   "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|---|\n",
            peer_rate);
    for (i = 0; i < 4; i++) {
        fprintf(table,
                "| %u connection%s, %s | %u | %.0f | %.2f | %.2f | %.2f | %.2f | %.2f | %ld |",
                ways[i].connections, ways[i].connections > 1 ? "s" : "",
                ways[i].stubbed ? "no syncs" : "real syncs", r[i].messages, r[i].rate,
                r[i].latency[0], r[i].latency[1], r[i].latency[2], r[i].latency[3], r[i].syncs,
                r[i].hwm);
        if (ways[i].stubbed)
            fprintf(table, " |");
        else
            fprintf(table, " %.0f |", r[i].disk);
        if (ways[i].times > 0) {
            int by_disk = ways[i].connections > 1;
            double is = r[i].rate / (by_disk ? r[i].disk : peer_rate);
            fprintf(table, " %.1f x %s; aim: %.0f x", is, by_disk ? "the disk" : "Synapse",
                    ways[i].times);
            if (!by_disk && !ways[i].stubbed) /* which bounds it: each message waits for a sync */
                fprintf(table, " (%.1f x the disk)", r[i].rate / r[i].disk);
            fprintf(table, " | %s |\n", met(is >= ways[i].times));
        } else {
            fprintf(table, " | |\n");
        }
    }
    fprintf(table, "\nPeak memory: %ld KiB at most; aim: %d: %s.\n", hwm, (int)HWM_AIM,
            met(hwm <= HWM_AIM));
    if (ferror(table) || fclose(table) != 0)
        stop("cannot write %s", path_of("md"));
    return 0;
}
