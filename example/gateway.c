/* gateway.c - the part of a homeserver that MSC4203 is about: takes sendToDevice requests from
 * clients, serves the to-device part of /sync, delivers to application services in transactions,
 * and keeps everything in a log file. SPDX: 0BSD
 *
 *     cc -I. -o gateway example/gateway.c msc4203.c
 *     gateway CONFIG           example/gateway.conf explains all that may be in there
 *     gateway --check CONFIG
 *
 * One thread and one loop around poll(). Each turn of the loop reads what has come, puts it into
 * the queue, flushes once for all of it, and only then answers. All working memory is one mapping,
 * divided at the start:
 *
 *   the log's index; connections, of a few hundred bytes each; and a few slots of 140 KB, which a
 *   request borrows while its body is read, or its answer written, and heads of 8 KiB for those
 *   whose head does not fit into the connection.
 *
 * A request that finds no slot waits, and is not read on; who holds one must be quick. */
#define _POSIX_C_SOURCE   200809L
#define _DEFAULT_SOURCE  /* MAP_ANONYMOUS, with the GNU and BSD libraries */
#define _DARWIN_C_SOURCE /* and on macOS */
#define _FILE_OFFSET_BITS 64
#define MSC4203_FILE

#include "gateway_connections.h"
#include "start.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/un.h>

/* ---- the loop ---- */

/* What a request did may not be durable. */
static void committed_failed(struct connection *c)
{
    if (c->kind == REQUEST_DELETE && c->device >= 0)
        g.config->devices[c->device].deleted = 0; /* or it could not ask again */
    refuse(c, 500, "M_UNKNOWN", "the store failed");
}

/* Answers what has waited for a flush. */
static void flush_and_answer(void)
{
    int i, result = MSC4203_OK;

    if (g.dirty && !g.failed) {
        result = g.queue.flush(g.queue.context);
        if (result != MSC4203_OK)
            storage_failed();
    }
    g.dirty = 0;
    for (i = 0; i < g.connection_count; i++) {
        struct connection *c = &g.connections[i];
        if (c->state != CONNECTION_COMMITTED)
            continue;
        if (g.failed)
            committed_failed(c);
        else
            answer(c);
        connection_go(c);
    }
    for (i = 0; g.news && !g.failed && i < g.connection_count; i++)
        if (g.connections[i].state == CONNECTION_SYNC) {
            sync_answer(&g.connections[i], 0);
            connection_go(&g.connections[i]);
        }
}

/* Ends the requests whose bodies are being read: what they know of devices will be wrong. */
static void requests_abort(const char *error)
{
    int i;

    for (i = 0; i < g.connection_count; i++) {
        struct connection *c = &g.connections[i];
        if (c->state == CONNECTION_BODY && c->slot >= 0) {
            send_user_ends(&g.slots[c->slot]);
            g.slots[c->slot].batch = g.failed ? 0 : g.slots[c->slot].batch;
            refuse(c, 500, "M_UNKNOWN", error);
        } else if (c->state == CONNECTION_DRAIN && c->status == 200 && g.failed) {
            committed_failed(c);
        } else if (c->state == CONNECTION_DRAIN && c->kind == REQUEST_DELETE) {
            c->device = -1; /* it has another place in the next configuration */
        } else if (c->state == CONNECTION_SYNC && !g.failed) {
            sync_answer(c, 1);
            if (c->state == CONNECTION_SYNC_SLOT)
                refuse(c, 500, "M_UNKNOWN", error);
        } else if (c->state == CONNECTION_SYNC || c->state == CONNECTION_SYNC_SLOT ||
                   (c->state == CONNECTION_BODY && c->kind == REQUEST_PING)) {
            refuse(c, 500, "M_UNKNOWN", error); /* so have the device and the appservice */
        } else if (c->state == CONNECTION_PING) {
            if (c->ping >= 0)
                ping_end(&g.pings[c->ping], -1);
            else
                refuse(c, 500, "M_UNKNOWN", error);
        }
    }
}

/* Reads a changed configuration. */
static void hangup(void)
{
    struct config *next = &g.configs[g.config == &g.configs[0]];

    if (g.hangup != 0)
        config_free(next);
    g.hangup = 0;
    if (config_read(next, g.path))
        g.hangup = g.now;
    else
        say(SAY_ERROR, "goes on as before: %s:%u: %s", g.path, next->line, next->reason);
}

/* Says what of it needs a restart. */
static void hangup_compare(const struct config *next)
{
    const struct config *now = &g.running;

    if (strcmp(now->store, next->store) != 0 || now->store_bytes != next->store_bytes)
        say(SAY_WARNING, "store changes with a restart only");
    if (now->memory_bytes != next->memory_bytes)
        say(SAY_WARNING, "memory changes with a restart only");
    if (strcmp(now->host, next->host) != 0 || strcmp(now->port, next->port) != 0)
        say(SAY_WARNING, "listen changes with a restart only");
    if (strcmp(now->admin, next->admin) != 0 || strcmp(now->admin_port, next->admin_port) != 0)
        say(SAY_WARNING, "admin changes with a restart only");
    if (now->devices_max != next->devices_max)
        say(SAY_WARNING, "devices_max is the store's, which keeps what it was made with");
}

/* Puts it in force, once no request is in the middle of its body. */
static void hangup_now(void)
{
    struct config *old = g.config, *next = &g.configs[old == &g.configs[0]];
    int i;

    for (i = 0; i < g.slot_count; i++)
        if (g.slots[i].batch != 0 && g.now - g.hangup < HANGUP_MS)
            return;
    requests_abort("the configuration has changed: try again");
    hangup_compare(next);
    memcpy(next->store, old->store, sizeof next->store);
    g.config = next;
    g.hangup = 0;
    for (i = 1; i < MSC4203_CHANNEL_PARKED; i++) { /* appservices may be elsewhere now */
        g.channels[i].out.last = 1;
        if (g.channels[i].out.state == OUTGOING_OPEN)
            outgoing_close(&g.channels[i].out);
    }
    msc4203_log_quotas(&g.log, next->appservice_bytes_max, next->device_bytes_max);
    if (change_over() != MSC4203_OK)
        storage_failed();
    config_free(old);
    say(SAY_INFO, "the configuration was read again");
}

/* After a failure of the store: opens it anew. */
static void store_reopen(void)
{
    uint32_t channel;
    int i, result;

    requests_abort("the store failed");
    for (i = 0; i < g.slot_count; i++)
        g.slots[i].batch = 0;
    if (g.lost && !store_look()) { /* what is open may be all that is left: it stays so */
        storage_failed();
        return;
    }
    msc4203_file_close(&g.file);
    result = store_open(0);
    if (result == MSC4203_OK) {
        result = store_open_log();
        if (result != MSC4203_OK && result != MSC4203_E_STORAGE)
            snprintf(g.store_why, sizeof g.store_why, "%s", msc4203_result_text(result));
    }
    if (result != MSC4203_OK) {
        g.lost = result == MSC4203_END; /* it was open, and is to come back as it was */
        storage_failed();
        return;
    }
    for (channel = 1; channel < MSC4203_CHANNEL_PARKED; channel++) {
        outgoing_close(&g.channels[channel].out);
        g.channels[channel].started = 0;
    }
    if (change_over() != MSC4203_OK) {
        storage_failed();
        return;
    }
    g.failed = 0;
    g.store_why[0] = 0;
    say_good(&g.store_bad, "the store works");
}

static void poll_add(int *count, int fd, short events, int owner)
{
    g.polls[*count].fd = fd;
    g.polls[*count].events = events;
    g.polls[*count].revents = 0;
    g.poll_owner[(*count)++] = owner;
}

static void poll_outgoing(int *count, const struct outgoing *o)
{
    if (o->state == OUTGOING_CONNECTING)
        poll_add(count, o->fd, POLLOUT, -2);
    else if (o->state == OUTGOING_BUSY)
        poll_add(count, o->fd, o->sent < o->total ? POLLIN | POLLOUT : POLLIN, -2);
}

/* What is waited for; and for how long at most. */
static int poll_all(int *count, uint64_t *until)
{
    int i, waiting = 0;

    poll_add(count, g.signals[0], POLLIN, -1);
    poll_add(count, g.now >= g.accept_at ? g.listener : -1, POLLIN, -2);
    if (g.now < g.accept_at && g.accept_at < *until)
        *until = g.accept_at;
    poll_add(count, g.now >= g.accept_at ? g.admin : -1, POLLIN, -2);
    poll_add(count, g.resolver.pid != 0 ? g.resolver.answers : -1, POLLIN, -2);
    for (i = 0; i < g.connection_count; i++) {
        struct connection *c = &g.connections[i];
        short events = POLLIN;

        if (c->state == CONNECTION_FREE)
            continue;
        if (c->state == CONNECTION_WRITE)
            events = POLLOUT;
        else if (c->state != CONNECTION_HEAD && c->state != CONNECTION_GATHER &&
                 c->state != CONNECTION_BODY && c->state != CONNECTION_DRAIN &&
                 c->state != CONNECTION_LINGER)
            events = 0;
        waiting += waits(c, 0) || waits(c, 1);
        if ((c->state == CONNECTION_SYNC || c->state == CONNECTION_LINGER) && c->deadline < *until)
            *until = c->deadline;
        poll_add(count, c->http.fd, events, i);
    }
    for (i = 1; i < MSC4203_CHANNEL_PARKED; i++) {
        struct channel *channel = &g.channels[i];
        if (channel->appservice >= 0 && channel->out.state <= OUTGOING_OPEN &&
            channel->next_poll < *until)
            *until = channel->next_poll;
        poll_outgoing(count, &channel->out);
    }
    for (i = 0; i < PINGS; i++)
        poll_outgoing(count, &g.pings[i].out);
    return waiting;
}

static void take_signals(void)
{
    char bytes[16];
    ssize_t n = read(g.signals[0], bytes, sizeof bytes);

    for (; n > 0; n--) {
        if (bytes[n - 1] == 'H')
            hangup();
        else
            g.ends = 1;
    }
}

/* Hands on what has been found about names. */
static void take_answers(void)
{
    struct resolve_answer answer;
    int i;

    while (resolver_take(&g.resolver, &answer)) {
        for (i = 1; i < MSC4203_CHANNEL_PARKED; i++)
            outgoing_found(&g.channels[i].out, &answer);
        for (i = 0; i < PINGS; i++)
            outgoing_found(&g.pings[i].out, &answer);
    }
}

/* Lets time pass. While the machine, or this process, was suspended nobody could be quick: what
 * has come meanwhile is looked at before anything is called late. */
static void time_passes(void)
{
    uint64_t clock = http_clock(), passed = clock - g.clock;

    g.clock = clock;
    g.now += passed < PAUSE_MS ? passed : PAUSE_MS / 20;
}

/* One turn of the loop. */
static void turn(void)
{
    uint64_t until = g.now + 1000;
    int count = 0, i, timeout;

    g.waiting = poll_all(&count, &until);
    timeout = until > g.now ? (int)(until - g.now) : 0;
    if (g.news && timeout > 2)
        timeout = 2; /* senders flush too: what comes at once shares their flush */
    if ((g.waiting != 0 || g.hangup != 0) && timeout > 10)
        timeout = 10;
    if (poll(g.polls, (nfds_t)count, timeout) < 0)
        for (i = 0; i < count; i++)
            g.polls[i].revents = 0;
    time_passes();
    if (!g.failed && !store_look())
        storage_failed();
    if (g.polls[0].revents != 0)
        take_signals();
    if (g.polls[1].revents != 0)
        connections_accept(g.listener, 0);
    if (g.polls[2].revents != 0)
        connections_accept(g.admin, 1);
    if (g.polls[3].revents != 0)
        take_answers();
    for (i = 4; i < count; i++) {
        struct connection *c;
        if (g.polls[i].revents == 0 || g.poll_owner[i] < 0)
            continue;
        c = &g.connections[g.poll_owner[i]];
        if (c->state == CONNECTION_FREE || c->http.fd != g.polls[i].fd)
            continue;
        if (c->state == CONNECTION_WRITE) {
            connection_write(c);
            if (c->state == CONNECTION_HEAD)
                connection_go(c);
        } else {
            connection_read(c);
        }
    }
    for (i = 0; i < g.connection_count; i++)
        if (g.connections[i].state != CONNECTION_FREE) {
            connection_care(&g.connections[i]);
            connection_go(&g.connections[i]);
        }
    grant(1);
    grant(0);
    for (i = 1; i < MSC4203_CHANNEL_PARKED; i++)
        transaction_step(&g.channels[i], (uint32_t)i);
    for (i = 0; i < PINGS; i++)
        ping_step(&g.pings[i]);
    g.news = 0;
    for (i = 0; i < g.connection_count && !g.news; i++)
        g.news = g.connections[i].state == CONNECTION_COMMITTED;
    flush_and_answer();
    if (g.hangup != 0 && !g.failed)
        hangup_now();
    if (g.failed && g.now >= g.reopen_at)
        store_reopen();
    store_expire();
    if (!g.failed && g.unmoved != 0 && g.now >= g.unmoved && change_over() != MSC4203_OK)
        storage_failed();
}

/* ---- the start ---- */

static void *take(char **at, size_t *left, size_t bytes)
{
    void *taken = *at;
    bytes = (bytes + 63) & ~(size_t)63;
    if (bytes > *left)
        return NULL;
    *at += bytes;
    *left -= bytes;
    return taken;
}

/* How many connections the system's limit leaves room for, beside all that is open already, what
 * the appservices need, and what is opened for a moment. */
static size_t descriptors_left(void)
{
    const rlim_t want = CONNECTIONS_MAX + 2 * CONFIG_APPSERVICES + 32;
    struct rlimit limit;
    size_t left, out = 2 * CONFIG_APPSERVICES;
    int fd;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return CONNECTIONS_MAX;
    if (limit.rlim_cur < want && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max < want ? limit.rlim_max : want;
        setrlimit(RLIMIT_NOFILE, &limit);
        if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
            return CONNECTIONS_MAX;
    }
    left = limit.rlim_cur < want ? (size_t)limit.rlim_cur : (size_t)want;
    for (fd = 0; fd < (int)want && left != 0; fd++)
        left -= fcntl(fd, F_GETFD) >= 0;
    left -= left < SPARE_DESCRIPTORS ? left : SPARE_DESCRIPTORS;
    return left - (left / 2 < out ? left / 2 : out);
}

/* Divides the working memory. Returns 0 when there is too little. */
static int divide(size_t descriptors)
{
    size_t left = (size_t)g.config->memory_bytes, each = sizeof(struct connection) +
                                                         sizeof(struct pollfd) + sizeof(int), n;
    char *at = (char *)mmap(NULL, left, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int i;

    if (at == (char *)MAP_FAILED)
        return 0;
    g.index = take(&at, &left, g.index_bytes);
    g.work = (char *)take(&at, &left, WORK_BYTES);
    g.response = (char *)take(&at, &left, SLOT_BYTES);
    g.piece = (char *)take(&at, &left, PIECE_BYTES);
    g.heads = (char(*)[HTTP_HEAD_MAX])take(&at, &left, sizeof *g.heads * HEADS);
    if (g.index == NULL || g.work == NULL || g.response == NULL || g.piece == NULL ||
        g.heads == NULL)
        return 0;
    /* Half of the rest for connections; but for no more than there can be. */
    n = left / 2 / each;
    if (n > descriptors)
        n = descriptors;
    if (n > CONNECTIONS_MAX)
        n = CONNECTIONS_MAX;
    g.connection_count = (int)n;
    g.connections = (struct connection *)take(&at, &left, n * sizeof *g.connections);
    n += MSC4203_CHANNELS + PINGS + 4;
    g.polls = (struct pollfd *)take(&at, &left, n * sizeof *g.polls);
    g.poll_owner = (int *)take(&at, &left, n * sizeof *g.poll_owner);
    n = left / (sizeof *g.slots + 64);
    g.slot_count = n < SLOTS_MAX ? (int)n : (int)SLOTS_MAX;
    g.express = g.slot_count >= 4 * EXPRESS ? EXPRESS : 0;
    g.slots = (struct slot *)take(&at, &left, (size_t)g.slot_count * sizeof *g.slots);
    if (g.connection_count < 1 || g.poll_owner == NULL || g.slot_count < 1 || g.slots == NULL)
        return 0;
    for (i = 0; i < g.slot_count; i++)
        g.slots[i].connection = -1;
    for (i = 0; i < HEADS; i++)
        g.head_owner[i] = -1;
    for (i = 0; i < PINGS; i++)
        g.pings[i].connection = -1;
    for (i = 0; i < MSC4203_CHANNELS; i++)
        g.channels[i].appservice = CONFIG_NONE;
    return 1;
}

static void on_signal(int signal)
{
    int error = errno;

    (void)!write(g.signals[1], signal == SIGHUP ? "H" : "T", 1);
    errno = error;
}

static int start_signals(void)
{
    struct sigaction action;

    if (pipe(g.signals) != 0)
        return 0;
    fcntl(g.signals[0], F_SETFL, O_NONBLOCK);
    fcntl(g.signals[1], F_SETFL, O_NONBLOCK);
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
    return 1;
}

static int fail(const char *what, const char *why)
{
    fprintf(stderr, "gateway: %s: %s\n", what, why);
    return 1;
}

/* Listens on a socket in the file system, for this user alone. One that nobody listens on any more
 * is replaced. Returns the socket, or -1. */
static int listen_unix(const char *path)
{
    struct sockaddr_un at;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    mode_t mask;

    memset(&at, 0, sizeof at);
    at.sun_family = AF_UNIX;
    snprintf(at.sun_path, sizeof at.sun_path, "%.103s", path);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&at, sizeof at) == 0) {
        close(fd);
        errno = EADDRINUSE;
        return -1;
    }
    if (fd >= 0 && errno == ECONNREFUSED)
        unlink(path);
    mask = umask(0177);
    if (fd >= 0 &&
        (bind(fd, (const struct sockaddr *)&at, sizeof at) != 0 || listen(fd, 16) != 0)) {
        close(fd);
        fd = -1;
    }
    umask(mask);
    if (fd >= 0)
        http_nonblocking(fd);
    return fd;
}

/* Listens on the operator's address. Returns 0 when that fails. */
static int listen_admin(void)
{
    struct http_address at;
    unsigned port;

    g.admin = -1;
    if (g.config->admin_line == 0)
        return 1;
    if (g.config->admin_port[0] == 0)
        g.admin = listen_unix(g.config->admin);
    else if (http_resolve(g.config->admin, g.config->admin_port, 1, &at))
        g.admin = http_listen(&at, &port);
    return g.admin >= 0;
}

static void print_help(void)
{
    printf("usage: gateway CONFIG           takes, keeps and delivers to-device messages\n"
           "       gateway --check CONFIG   says what is wrong with a configuration: nothing if\n"
           "                                nothing is\n"
           "       gateway --help | -h | --version\n\n"
           "CONFIG is a text file, a directive a line; example/gateway.conf explains them all:\n\n"
           "  listen HOST:PORT                 where clients ask; must be there\n"
           "  server_name NAME                 of this server; must be there\n"
           "  store FILE SIZE                  holds the messages; must be there\n"
           "  admin HOST:PORT | unix:PATH      where an operator asks\n"
           "  appservice ID URL HS_TOKEN AS_TOKEN [to_device] [stable]\n"
           "                                   who gets messages, and how\n"
           "  sender ID USER                   its own user\n"
           "  exclusive ID REGEX, inclusive ID REGEX\n"
           "                                   its namespaces\n"
           "  device USER DEVICE TOKEN [by ID] a device, made by an appservice or not\n"
           "  retry_ms_min N, retry_ms_max N   waits after a failure\n"
           "  txn_messages_max N, txn_bytes_max N\n"
           "                                   the largest transaction\n"
           "  memory SIZE                      all working memory\n"
           "  request_bytes_max SIZE           the largest request\n"
           "  device_bytes_max SIZE, appservice_bytes_max SIZE, devices_max N\n"
           "                                   what may wait\n"
           "  expire_days N                    how long for a /sync\n\n"
           "SIGHUP has it read CONFIG again, SIGTERM and SIGINT end it. Exit status: 0 it was\n"
           "ended, 1 it failed, 2 wrong usage or a mistake in CONFIG.\n");
}

/* Reads CONFIG, and looks at what it can tell without opening anything. Returns 0 when there is a
 * mistake in it, which is said. */
static int read_config(const char *path, struct http_address *listen)
{
    const char *reason = NULL;
    unsigned line = 0;

    memset(listen, 0, sizeof *listen);
    g.path = path;
    g.config = &g.configs[0];
    if (!config_read(g.config, g.path)) {
        reason = g.config->reason;
        line = g.config->line;
    } else if (!store_fits(g.config)) {
        reason = "too small for a store, or too large";
        line = g.config->store_line;
    } else if (!http_resolve(g.config->host, g.config->port, 1, listen)) {
        reason = "this host is unknown";
        line = g.config->listen_line;
    }
    if (reason == NULL)
        return 1;
    if (line != 0)
        fprintf(stderr, "%s:%u: %s\n", g.path, line, reason);
    else
        fprintf(stderr, "%s: %s\n", g.path, reason);
    return 0;
}

int main(int argc, char **argv)
{
    struct http_address listen;
    size_t descriptors;
    unsigned port;
    int result, check = argc == 3 && strcmp(argv[1], "--check") == 0;

    if (!start_descriptors())
        return 2;
    say_begin("gateway");
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        print_help();
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        printf("gateway %s\n", MSC4203_VERSION);
        return 0;
    }
    if ((argc != 2 && !check) || argv[argc - 1][0] == '-' || argv[argc - 1][0] == 0) {
        fprintf(stderr, "gateway: wrong usage; see gateway --help\n");
        return 2;
    }
    result = read_config(argv[argc - 1], &listen);
    if (!result || check) {
        config_free(g.config);
        return result ? 0 : 2;
    }
    g.running = *g.config;
    resolver_start(&g.resolver); /* before there is anything that it would get a copy of */
    if (!start_signals())
        return fail("signals", strerror(errno));
    g.now = g.clock = http_clock();
    result = store_open(1);
    if (result == MSC4203_E_STORAGE && errno == EINTR)
        return 0; /* it was asked to end before there was a store */
    if (result != MSC4203_OK)
        return fail(g.config->store, g.store_why);
    descriptors = descriptors_left();
    if (descriptors == 0)
        return fail("descriptors", "the limit is too low (ulimit -n)");
    store_compare();
    if (!divide(descriptors))
        return fail("memory", "too little for this store");
    result = store_open_log();
    if (result == MSC4203_OK)
        result = change_over();
    if (result != MSC4203_OK)
        return fail(g.config->store, msc4203_result_text(result));
    g.listener = http_listen(&listen, &port);
    if (g.listener < 0)
        return fail("listen", strerror(errno));
    if (!listen_admin())
        return fail("admin", strerror(errno));
    printf(strchr(g.config->host, ':') != NULL ? "gateway: listening on [%s]:%u\n"
                                               : "gateway: listening on %s:%u\n",
           g.config->host, port);
    fflush(stdout);
    while (!g.ends)
        turn();
    result = msc4203_log_close(&g.log);
    msc4203_file_close(&g.file);
    resolver_stop(&g.resolver);
    if (g.admin >= 0 && g.running.admin_port[0] == 0)
        unlink(g.running.admin);
    config_free(&g.configs[0]);
    config_free(&g.configs[1]);
    return result == MSC4203_OK ? 0 : fail(g.config->store, msc4203_result_text(result));
}
