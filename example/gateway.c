/* gateway.c - the part of a homeserver that MSC4203 is about: takes sendToDevice requests from
 * clients, serves the to-device part of /sync, delivers to application services in transactions,
 * and keeps everything in a log file. SPDX: 0BSD
 *
 *     cc -I. -o gateway example/gateway.c msc4203.c
 *     gateway CONFIG
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

#include "gateway_config.h"

#include <poll.h>
#include <signal.h>
#include <sys/resource.h>

enum {
    IN_BYTES = 768,          /* of a head, in the connection itself */
    OUT_BYTES = 512,         /* of an answer */
    CONTENT_MAX = 65536,     /* of a message, as sent */
    SCRATCH_BYTES = CONTENT_MAX + 4096,
    STAR_BYTES = CONTENT_MAX,
    SLOT_BYTES = SCRATCH_BYTES + STAR_BYTES,
    SLOTS_MAX = CONFIG_SLOTS, /* fewer than the batches that a log can have open */
    HEADS = 16,
    CONNECTIONS_MAX = 4000,
    PIECE_BYTES = 16384,     /* read or written at a time */
    WORK_BYTES = 163840,     /* a message twice: as the queue holds it, and as it is sent */
    PINGS = CONFIG_APPSERVICES, /* one at a time for each */
    SILENT_MS = 60000,       /* who says nothing for so long is given up */
    SLOW_MS = 500,           /* after so long a slot, or head's place, is to be used at 1 KiB/s */
    HANGUP_MS = 1000,        /* how long a changed configuration waits for requests */
    LINGER_MS = 2000,
    STORE_DEVICES = 4096     /* devices with waiting messages, in a log of 16 MiB or more */
};

/* ---- what there is ---- */

enum connection_state {
    CONNECTION_FREE,
    CONNECTION_HEAD,      /* reads a head */
    CONNECTION_WAIT_HEAD, /* its head is long, and no place for that is free */
    CONNECTION_GATHER,    /* has a body, the first of which goes where the head is */
    CONNECTION_WAIT_SLOT, /* has a body to be read */
    CONNECTION_BODY,      /* reads it */
    CONNECTION_DRAIN,     /* reads on to the end of a body that nobody needs */
    CONNECTION_COMMITTED, /* will be answered after the next flush */
    CONNECTION_SYNC,      /* waits for a message */
    CONNECTION_SYNC_SLOT, /* has one, but no slot for the answer */
    CONNECTION_STATUS_SLOT,
    CONNECTION_PING,      /* waits for an appservice's answer */
    CONNECTION_WRITE,     /* writes its answer */
    CONNECTION_LINGER     /* was answered before its request had ended: reads a while, and closes */
};

enum request_kind { REQUEST_SEND, REQUEST_SYNC, REQUEST_DELETE, REQUEST_PING, REQUEST_STATUS };

struct connection {
    struct http_connection http;
    uint8_t state;
    uint8_t expects, continued;        /* sends its body when it is told to continue; it was */
    int slot, head;                    /* borrowed, or -1 */
    int status;                        /* that it will be answered with */
    const char *errcode, *error;
    unsigned kind;
    uint64_t active;                   /* last read or written */
    uint64_t begun, read;              /* when the slot was taken; bytes since */
    uint64_t deadline;                 /* of a /sync, or a ping */
    uint64_t ticket;                   /* its turn for a slot, or a head's place; 0: none */
    uint64_t body_bytes;
    msc4203_request request;
    uint32_t kept;                     /* of a ping's body, in `out` */
    int device, appservice;
    int ping;                          /* that is on its way, or -1 */
    unsigned char since_bytes;
    char since[48];
    char in[IN_BYTES], out[OUT_BYTES];
};

/* A body on its way in. The answer's bytes use scratch and star. */
struct slot {
    int connection;
    uint32_t batch;
    int starred;                 /* `star` has a content for all devices of `user` not named */
    size_t star_bytes, user_bytes, sender_bytes, type_bytes;
    msc4203_reader reader;
    char user[CONFIG_USER_MAX], sender[CONFIG_USER_MAX], type[HTTP_HEAD_MAX];
    char scratch[SCRATCH_BYTES], star[STAR_BYTES];
};

/* A request on its way out: a transaction, or a ping. */
enum outgoing_state { OUTGOING_CLOSED, OUTGOING_OPEN, OUTGOING_BUSY };
struct outgoing {
    int fd, state, reused, status, have_head, keep_alive;
    int last;                    /* the connection is not to be used again: its address changed */
    uint64_t began, sent, total;
    size_t head_bytes, in_bytes;
    struct http_body body;
    char head[1536], in[4096];
};

struct channel {
    int appservice;              /* that it belongs to now, or CONFIG_NONE */
    int started;
    msc4203_sender_config config;
    msc4203_sender sender;
    struct outgoing out;
    uint64_t next_poll;          /* not before that, unless something happened */
};

struct ping {
    int connection;              /* that asked for it, or -1 */
    uint64_t began;
    size_t body_bytes, answer_bytes;
    char body[512], answer[1024];
    struct outgoing out;
};

static struct gateway {
    const char *path;
    struct config configs[2], *config;
    msc4203_appservice services[CONFIG_APPSERVICES];

    msc4203_file file;
    msc4203_storage storage;
    msc4203_log log;
    msc4203_queue queue;
    void *index;
    size_t index_bytes;
    int failed;                  /* the storage has */
    uint64_t reopen_at;
    int dirty;                   /* there is something to be flushed */
    int news;                    /* and senders and /syncs to be told */

    struct connection *connections;
    int connection_count, used;
    struct slot *slots;
    int slot_count, waiting;     /* waiting: how many do, for a slot or a head's place */
    int grants;                  /* it is the turn of who asks for one */
    uint64_t tickets;
    char (*heads)[HTTP_HEAD_MAX];
    int head_owner[HEADS];
    struct channel channels[MSC4203_CHANNELS];
    struct ping pings[PINGS];
    struct pollfd *polls;
    int *poll_owner;
    char *work, *response, *piece;

    int listener, signals[2];
    uint64_t now, hangup;        /* hangup: since when a changed configuration waits; 0: none */
    uint64_t unmoved;            /* when to go on changing over; 0: it is done */
    int ends;
} g;

static msc4203_span span_of(const char *string)
{
    msc4203_span span;
    span.ptr = string;
    span.len = strlen(string);
    return span;
}

static void say(const char *text, const msc4203_span *name)
{
    fprintf(stderr, "gateway: %.*s%s%s\n", name != NULL ? (int)name->len : 0,
            name != NULL ? name->ptr : "", name != NULL ? ": " : "", text);
}

/* ---- routing ---- */

static int route_match(const msc4203_appservice *service, const msc4203_span *user)
{
    return config_match(g.config, (int)(service - g.services), user);
}

/* Whom a message for this device waits for. */
static uint32_t route(void *context, const msc4203_device *device)
{
    const struct config *c = g.config;
    int i = config_device_of(c, &device->user_id, &device->device_id);
    size_t maker = i >= 0 && c->devices[i].maker >= 0 ? (size_t)c->devices[i].maker : SIZE_MAX;

    (void)context;
    return msc4203_route(g.services, (size_t)c->appservice_count, &device->user_id, maker,
                         route_match);
}

static msc4203_device device_of(int i)
{
    msc4203_device device;
    device.user_id = g.config->devices[i].user;
    device.device_id = g.config->devices[i].device;
    return device;
}

/* ---- the store ---- */

static void storage_failed(void)
{
    if (!g.failed)
        say("the store failed", NULL);
    g.failed = 1;
    g.reopen_at = g.now + 1000;
}

/* Opens the file, makes it when there is none, and tells how much memory its index needs. Returns a
 * result. */
static int store_open(void)
{
    const struct config *c = g.config;
    msc4203_log_config shape;
    uint64_t random;
    int result = msc4203_file_open(&g.file, c->store, 1, &g.storage);

    if (result == MSC4203_END) {
        if (!http_random(&random, sizeof random))
            return MSC4203_E_STORAGE;
        memset(&shape, 0, sizeof shape);
        shape.devices = c->store_bytes >> 12 < STORE_DEVICES ? (uint32_t)(c->store_bytes >> 12)
                                                             : (uint32_t)STORE_DEVICES;
        result = msc4203_file_create(&g.file, c->store, c->store_bytes, &shape, random);
        if (result == MSC4203_OK)
            result = msc4203_file_open(&g.file, c->store, 1, &g.storage);
    }
    if (result == MSC4203_OK) {
        result = msc4203_log_inspect(&g.log, &g.storage, &shape);
        g.index_bytes = msc4203_log_memory(&g.log, &shape, g.storage.bytes);
    }
    return result;
}

/* Opens the log in it. Returns a result. */
static int store_open_log(void)
{
    uint64_t random;
    int result;

    if (!http_random(&random, sizeof random))
        return MSC4203_E_STORAGE;
    result = msc4203_log_open(&g.log, &g.storage, g.index, g.index_bytes, random);
    msc4203_log_queue(&g.log, &g.queue);
    msc4203_log_quotas(&g.log, g.config->appservice_bytes_max, g.config->device_bytes_max);
    return result;
}

/* Gives each appservice its channel, moves what the configuration moves, and starts the senders.
 * Returns a result. */
static int change_over(void)
{
    const struct config *c = g.config;
    uint64_t moved = 0, count;
    uint32_t channel;
    int i, result = MSC4203_OK;

    for (channel = 1; channel < MSC4203_CHANNEL_PARKED; channel++)
        g.channels[channel].appservice = CONFIG_NONE;
    for (i = 0; i < c->appservice_count && result == MSC4203_OK; i++) {
        msc4203_appservice *service = &g.services[i];

        memset(service, 0, sizeof *service);
        service->sender = c->appservices[i].sender;
        result = g.queue.channel(g.queue.context, &c->appservices[i].id, 1, &channel);
        if (result == MSC4203_E_QUEUE_FULL) {
            say("has no channel: all are still in use", &c->appservices[i].id);
            result = MSC4203_OK;
            continue;
        }
        service->channel = channel;
        service->opted_in = c->appservices[i].opted_in;
        if (result == MSC4203_OK)
            g.channels[channel].appservice = i;
        g.channels[channel].next_poll = 0;
    }
    for (channel = 1; channel < MSC4203_CHANNEL_PARKED && result == MSC4203_OK; channel++) {
        result = msc4203_change_channel(&g.queue, channel, route, NULL, g.work, WORK_BYTES, &count);
        moved += count;
        if (result == MSC4203_OK && g.channels[channel].appservice < 0) {
            g.channels[channel].started = 0;
            result = g.queue.release(g.queue.context, channel);
            if (result == MSC4203_E_BUSY)
                result = MSC4203_OK;
        }
    }
    for (i = 0; i < c->device_count && result == MSC4203_OK; i++) {
        msc4203_device device = device_of(i);
        result = msc4203_change_device(&g.queue, &device, route(NULL, &device), g.work, WORK_BYTES,
                                       &count);
        moved += count;
    }
    g.unmoved = 0;
    if (result == MSC4203_E_QUEUE_FULL) { /* the rest when there is room */
        g.unmoved = g.now + 1000;
        result = MSC4203_OK;
    }
    if (result == MSC4203_OK)
        result = g.queue.flush(g.queue.context);
    if (moved != 0)
        fprintf(stderr, "gateway: the configuration moved %lu messages\n", (unsigned long)moved);
    g.news = 1;
    return result;
}

/* ---- JSON in answers ---- */

static size_t add_text(char *to, size_t at, const char *text)
{
    size_t bytes = strlen(text);
    memcpy(to + at, text, bytes);
    return at + bytes;
}

/* A string in quotes: at most six times its bytes and 2. What is no UTF-8 becomes `?`. */
static size_t add_string(char *to, size_t at, const char *text, size_t bytes)
{
    size_t i;
    to[at++] = '"';
    for (i = 0; i < bytes; i++) {
        unsigned c = (unsigned char)text[i];
        if (c == '"' || c == '\\') {
            to[at++] = '\\';
            to[at++] = (char)c;
        } else if (c < 0x20) {
            at += (size_t)sprintf(to + at, "\\u%04x", c);
        } else if (c < 0x80) {
            to[at++] = (char)c;
        } else {
            size_t n = 2;
            while (n < 4 && !(n <= bytes - i && http_utf8(text + i, n)))
                n++;
            if (n <= bytes - i && http_utf8(text + i, n)) {
                memcpy(to + at, text + i, n);
                at += n;
                i += n - 1;
            } else {
                to[at++] = '?';
            }
        }
    }
    to[at++] = '"';
    return at;
}

/* ---- slots, heads ---- */

static void slot_free(struct connection *c)
{
    struct slot *slot;

    if (c->slot < 0)
        return;
    slot = &g.slots[c->slot];
    if (slot->batch != 0)
        g.queue.abort(g.queue.context, slot->batch);
    slot->batch = 0;
    slot->connection = -1;
    c->slot = -1;
}

static int slot_take(struct connection *c)
{
    int i;

    for (i = 0; i < g.slot_count && (g.grants || g.waiting == 0); i++)
        if (g.slots[i].connection < 0) {
            g.slots[i].connection = (int)(c - g.connections);
            g.slots[i].batch = 0;
            c->slot = i;
            c->begun = g.now;
            c->read = 0;
            c->ticket = 0;
            return 1;
        }
    return 0;
}

/* Has a connection wait for a slot, or a place for its head, until its turn comes. */
static void wait_in(struct connection *c, enum connection_state state)
{
    c->state = (uint8_t)state;
    if (c->ticket == 0)
        c->ticket = ++g.tickets;
}

static void head_free(struct connection *c)
{
    if (c->head >= 0)
        g.head_owner[c->head] = -1;
    c->head = -1;
}

static size_t in_room(const struct connection *c)
{
    return c->head >= 0 ? (size_t)HTTP_HEAD_MAX : (size_t)IN_BYTES;
}

/* Gives a long head's place back, once what is behind the head fits into the connection. */
static void head_done(struct connection *c)
{
    if (c->head < 0 || c->http.in_bytes - c->http.in_at > IN_BYTES)
        return;
    c->http.in_bytes -= c->http.in_at;
    memcpy(c->in, g.heads[c->head] + c->http.in_at, c->http.in_bytes);
    c->http.in_at = 0;
    head_free(c);
}

static char *in_of(struct connection *c)
{
    return c->head >= 0 ? g.heads[c->head] : c->in;
}

static void connection_close(struct connection *c)
{
    slot_free(c);
    head_free(c);
    if (c->ping >= 0)
        g.pings[c->ping].connection = -1;
    c->ping = -1;
    close(c->http.fd);
    c->http.fd = -1;
    c->state = CONNECTION_FREE;
    g.used--;
}

/* ---- answers ---- */

static char *out_of(struct connection *c)
{
    return c->slot >= 0 ? g.slots[c->slot].scratch : c->out;
}

/* Writes on. */
static void connection_write(struct connection *c)
{
    uint32_t before = c->http.out_at;
    enum http_written written = http_write(&c->http, out_of(c), in_of(c));

    if (c->http.out_at != before) {
        c->read += c->http.out_at - before;
        c->active = g.now;
    }
    if (written == HTTP_UNWRITTEN)
        return;
    slot_free(c);
    switch (written) {
    case HTTP_NEXT: /* on to what came behind this request */
        head_done(c);
        c->continued = 0;
        c->ticket = 0;
        c->state = CONNECTION_HEAD;
        return;
    case HTTP_LINGER:
        c->state = CONNECTION_LINGER;
        c->deadline = g.now + LINGER_MS;
        head_free(c);
        return;
    default:
        connection_close(c);
        return;
    }
}

/* Begins to answer with a body, which is at `body`, where out_of() is not. */
static void answer_body(struct connection *c, int status, const char *body, size_t bytes)
{
    http_answer(&c->http, out_of(c), status, body, bytes);
    c->state = CONNECTION_WRITE;
    connection_write(c);
}

/* Answers with what was decided: {} or a Matrix error. */
static void answer(struct connection *c)
{
    char body[256];
    size_t at = 0;

    slot_free(c);
    if (c->status == 200) {
        answer_body(c, 200, "{}", 2);
        return;
    }
    at = add_text(body, at, "{\"errcode\":\"");
    at = add_text(body, at, c->errcode);
    at = add_text(body, at, "\",\"error\":\"");
    at = add_text(body, at, c->error);
    at = add_text(body, at, c->status == 429 ? "\",\"retry_after_ms\":1000}" : "\"}");
    answer_body(c, c->status, body, at);
}

/* Tells a client that its request was not refused, and that its body is waited for. */
static void go_on(struct connection *c)
{
    if (c->expects)
        http_continue(&c->http);
    c->continued |= c->expects;
    c->expects = 0;
}

/* Decides on an error. What is left of the request's body is read to its end, when that is near and
 * the client does not wait for an answer first. */
static void refuse(struct connection *c, int status, const char *errcode, const char *error)
{
    slot_free(c);
    c->status = status;
    c->errcode = errcode;
    c->error = error;
    if (c->http.body.state != HTTP_BODY_DONE) {
        if (c->http.body.state != HTTP_BODY_WRONG && !c->expects &&
            (c->http.body.state != HTTP_BODY_LENGTH || c->http.body.left <= 1 << 20)) {
            c->state = CONNECTION_DRAIN;
            return;
        }
        c->http.lingers = 1;
    }
    answer(c);
}

/* The same without reading on. */
static void refuse_now(struct connection *c, int status, const char *errcode, const char *error)
{
    c->http.body.state = HTTP_BODY_WRONG;
    refuse(c, status, errcode, error);
}

static void refuse_result(struct connection *c, int result)
{
    if (result == MSC4203_E_STORAGE)
        storage_failed();
    if (result == MSC4203_E_TOO_LARGE)
        refuse(c, 413, "M_TOO_LARGE", "a content is too large");
    else
        refuse(c, msc4203_result_status(result), msc4203_result_errcode(result),
               msc4203_result_text(result));
}

/* Will be answered with 200 once all so far is durable. */
static void committed(struct connection *c)
{
    slot_free(c);
    c->status = 200;
    c->state = c->http.body.state == HTTP_BODY_DONE ? CONNECTION_COMMITTED : CONNECTION_DRAIN;
    go_on(c);
    g.dirty = 1;
}

/* ---- sendToDevice ---- */

/* Puts a message for one device into the request's batch. Returns a result. */
static int send_push(struct slot *slot, int device, const msc4203_span *content)
{
    static msc4203_writer check;
    msc4203_message message;
    msc4203_device to = device_of(device);
    int result;

    memset(&message, 0, sizeof message);
    message.time_ms = http_time();
    message.channels = route(NULL, &to);
    message.item.kind = MSC4203_TO_DEVICE;
    message.item.sender.ptr = slot->sender;
    message.item.sender.len = slot->sender_bytes;
    message.item.type.ptr = slot->type;
    message.item.type.len = slot->type_bytes;
    message.item.user_id = to.user_id;
    message.item.device_id = to.device_id;
    message.item.content = *content;
    /* What no writer takes must not get in: a /sync nests deeper than this request. */
    result = msc4203_writer_begin(&check, MSC4203_SYNC, 0, NULL, 0);
    if (result == MSC4203_OK)
        result = msc4203_writer_item(&check, &message.item);
    if (result == MSC4203_OK)
        result = g.queue.push(g.queue.context, slot->batch, &message);
    return result;
}

/* Ends the devices of one user: a star goes to those that were not named. Returns a result. */
static int send_user_ends(struct slot *slot)
{
    msc4203_span user, content;
    int i, result = MSC4203_OK;

    user.ptr = slot->user;
    user.len = slot->user_bytes;
    content.ptr = slot->star;
    content.len = slot->star_bytes;
    for (i = config_next_device(g.config, CONFIG_NONE, &user); i >= 0;
         i = config_next_device(g.config, i, &user)) {
        unsigned char *named = &g.config->named[(size_t)i * SLOTS_MAX + (size_t)(slot - g.slots)];
        if (slot->starred && !*named && !g.config->devices[i].deleted && result == MSC4203_OK)
            result = send_push(slot, i, &content);
        *named = 0;
    }
    slot->starred = 0;
    slot->user_bytes = 0;
    return result;
}

/* Takes one item of a request. Returns a result. */
static int send_item(struct slot *slot, const msc4203_item *item)
{
    msc4203_span user;
    int result = msc4203_item_error(item), i;

    if (result != MSC4203_OK)
        return result;
    if (item->content.len > CONTENT_MAX)
        return MSC4203_E_TOO_LARGE;
    user.ptr = slot->user;
    user.len = slot->user_bytes;
    if (!config_same(&user, &item->user_id)) {
        result = send_user_ends(slot);
        if (result != MSC4203_OK)
            return result;
    }
    if (config_next_device(g.config, CONFIG_NONE, &item->user_id) < 0 ||
        item->user_id.len > sizeof slot->user)
        return MSC4203_OK; /* nobody of ours */
    memcpy(slot->user, item->user_id.ptr, item->user_id.len);
    slot->user_bytes = item->user_id.len;
    if (msc4203_span_equal(&item->device_id, "*")) {
        slot->starred = 1;
        memcpy(slot->star, item->content.ptr, item->content.len);
        slot->star_bytes = item->content.len;
        return MSC4203_OK;
    }
    i = config_device_of(g.config, &item->user_id, &item->device_id);
    if (i < 0 || g.config->devices[i].deleted)
        return MSC4203_OK;
    g.config->named[(size_t)i * SLOTS_MAX + (size_t)(slot - g.slots)] = 1;
    return send_push(slot, i, &item->content);
}

/* Ends a request: all of it, or nothing. */
static void send_end(struct connection *c, int result)
{
    struct slot *slot = &g.slots[c->slot];
    uint32_t batch = slot->batch;
    uint64_t first;

    if (result == MSC4203_END)
        result = send_user_ends(slot);
    else
        slot->starred = 0;
    send_user_ends(slot); /* forgets whom it named */
    if (result == MSC4203_OK) {
        slot->batch = 0;
        result = g.queue.commit(g.queue.context, batch, &c->request, &first);
    }
    if (result == MSC4203_OK || result == MSC4203_KNOWN) {
        g.news = 1;
        committed(c);
    } else {
        refuse_result(c, result);
    }
}

/* Takes a piece of a request's body; `last` says that it was the last one. */
static void send_piece(struct connection *c, const msc4203_span *piece, int last)
{
    struct slot *slot = &g.slots[c->slot];
    const msc4203_item *item;
    int result;

    c->body_bytes += piece->len;
    if (c->body_bytes > g.config->request_bytes_max) {
        send_end(c, MSC4203_E_TOO_LARGE);
        return;
    }
    msc4203_reader_feed(&slot->reader, piece->ptr, piece->len, last);
    while ((result = msc4203_reader_next(&slot->reader, &item)) == MSC4203_ITEM) {
        result = send_item(slot, item);
        if (result != MSC4203_OK)
            break;
    }
    if (result != MSC4203_MORE)
        send_end(c, result);
}

/* Begins to read a request's body, with a slot. */
static void send_begin(struct connection *c)
{
    struct slot *slot = &g.slots[c->slot];
    int result = g.queue.begin(g.queue.context, &slot->batch);

    slot->starred = 0;
    slot->user_bytes = 0;
    if (result != MSC4203_OK) {
        slot->batch = 0;
        refuse_result(c, result);
        return;
    }
    msc4203_reader_init(&slot->reader, MSC4203_SEND, MSC4203_TO_DEVICE, slot->scratch,
                        SCRATCH_BYTES);
    c->state = CONNECTION_BODY;
    go_on(c);
}

/* ---- /sync ---- */

/* Answers a /sync, when there is a message or it has to be. */
static void sync_answer(struct connection *c, int must)
{
    static const char others[] =
        ",\"account_data\":{\"events\":[]},\"presence\":{\"events\":[]},"
        "\"rooms\":{\"join\":{},\"invite\":{},\"leave\":{},\"knock\":{}},"
        "\"device_lists\":{\"changed\":[],\"left\":[]},\"device_one_time_keys_count\":{},"
        "\"device_unused_fallback_key_types\":[]}";
    static msc4203_writer writer;
    msc4203_device device = device_of(c->device);
    msc4203_span since;
    msc4203_message message;
    msc4203_sync sync;
    msc4203_item next;
    size_t bytes = 0, count = 0;
    char token[48];
    int result;

    since.ptr = c->since;
    since.len = c->since_bytes;
    result = msc4203_sync_begin(&sync, &g.queue, &device, &since);
    g.dirty = 1;
    if (result == MSC4203_OK)
        result = msc4203_writer_begin(&writer, MSC4203_SYNC, 0, g.response,
                                      SLOT_BYTES - 512 - sizeof others);
    if (result == MSC4203_OK)
        result = msc4203_writer_reserve(&writer, 128);
    while (result == MSC4203_OK) {
        result = msc4203_sync_next(&sync, g.work, WORK_BYTES, &message);
        if (result != MSC4203_ITEM)
            break;
        result = msc4203_writer_item(&writer, &message.item);
        if (result != MSC4203_OK)
            msc4203_sync_unread(&sync);
        else
            count++;
    }
    if (result == MSC4203_END || result == MSC4203_E_FULL)
        result = MSC4203_OK;
    if (result == MSC4203_OK && count == 0 && !must) {
        c->state = CONNECTION_SYNC;
        return;
    }
    if (result == MSC4203_OK) {
        msc4203_sync_token(&sync, token);
        memset(&next, 0, sizeof next);
        next.kind = MSC4203_NEXT_BATCH;
        next.id = span_of(token);
        result = msc4203_writer_item(&writer, &next);
    }
    if (result == MSC4203_OK)
        result = msc4203_writer_end(&writer, &bytes);
    if (result != MSC4203_OK) {
        refuse_result(c, result);
        return;
    }
    memcpy(g.response + bytes - 1, others, sizeof others - 1);
    bytes += sizeof others - 2;
    if (bytes > OUT_BYTES - 200 && c->slot < 0 && !slot_take(c)) {
        wait_in(c, CONNECTION_SYNC_SLOT);
        return;
    }
    answer_body(c, 200, g.response, bytes);
}

/* ---- /status ---- */

static void status_answer(struct connection *c)
{
    msc4203_log_usage usage;
    msc4203_counts counts;
    msc4203_sender_status status;
    char *to = g.response;
    size_t at;
    int i;

    if (c->slot < 0 && !slot_take(c)) {
        wait_in(c, CONNECTION_STATUS_SLOT);
        return;
    }
    msc4203_log_usage_get(&g.log, &usage);
    g.queue.count(g.queue.context, MSC4203_CHANNEL_SYNC, NULL, &counts);
    at = (size_t)sprintf(to, "{\"queued\":%lu,\"bytes_used\":%lu,\"bytes_capacity\":%lu,"
                             "\"sync_pending\":%lu,\"appservices\":[",
                         (unsigned long)usage.messages, (unsigned long)usage.used,
                         (unsigned long)usage.capacity, (unsigned long)counts.messages);
    for (i = 0; i < g.config->appservice_count; i++) {
        struct channel *channel = &g.channels[g.services[i].channel];

        memset(&counts, 0, sizeof counts);
        memset(&status, 0, sizeof status);
        if (g.services[i].channel != 0)
            g.queue.count(g.queue.context, g.services[i].channel, NULL, &counts);
        if (g.services[i].channel != 0 && channel->started)
            msc4203_sender_status_get(&channel->sender, &status);
        at = add_text(to, at, i != 0 ? ",{\"id\":" : "{\"id\":");
        at = add_string(to, at, g.config->appservices[i].id.ptr, g.config->appservices[i].id.len);
        at += (size_t)sprintf(to + at, ",\"pending\":%lu,\"in_flight\":",
                              (unsigned long)counts.messages);
        if (status.in_flight != NULL)
            at = add_string(to, at, status.in_flight->id, strlen(status.in_flight->id));
        else
            at = add_text(to, at, "null");
        at = add_text(to, at, ",\"failing_since_ms\":");
        if (status.failing_since_ms != 0)
            at += (size_t)sprintf(to + at, "%llu", (unsigned long long)status.failing_since_ms);
        else
            at = add_text(to, at, "null");
        at += (size_t)sprintf(to + at, ",\"attempts\":%lu,\"delivered\":%llu}",
                              (unsigned long)status.attempts,
                              (unsigned long long)status.delivered);
    }
    at = add_text(to, at, "]}");
    answer_body(c, 200, to, at);
}

/* ---- requests out ---- */

static void outgoing_close(struct outgoing *o)
{
    if (o->state != OUTGOING_CLOSED)
        close(o->fd);
    o->state = OUTGOING_CLOSED;
    o->fd = -1;
}

/* Begins a request, on the connection that is open or a new one. Returns 0 when that fails. */
static int outgoing_begin(struct outgoing *o, int appservice, const char *method, const char *path,
                          uint64_t body_bytes)
{
    const struct config_appservice *a = &g.config->appservices[appservice];
    int n;

    n = snprintf(o->head, sizeof o->head,
                 "%s %.*s%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %.*s\r\n"
                 "Content-Type: application/json\r\nContent-Length: %llu\r\n\r\n", method,
                 (int)a->prefix.len, a->prefix.ptr, path, a->host, (int)a->hs_token.len,
                 a->hs_token.ptr, (unsigned long long)body_bytes);
    if (n < 0 || (size_t)n >= sizeof o->head)
        return 0;
    o->head_bytes = (size_t)n;
    o->total = (uint64_t)n + body_bytes;
    o->sent = 0;
    o->in_bytes = 0;
    o->have_head = o->status = 0;
    o->began = g.now;
    o->reused = o->state == OUTGOING_OPEN;
    o->last = 0;
    if (!o->reused) {
        o->fd = http_connect(&a->address);
        if (o->fd < 0)
            return 0;
    }
    o->state = OUTGOING_BUSY;
    return 1;
}

/* Where the body of a request comes from: `at` counts from its beginning. Returns 0 on failure. */
typedef int outgoing_source(void *context, uint64_t at, char *data, size_t room, size_t *got);

/* Sends on. Returns -1 when the connection broke. */
static int outgoing_send(struct outgoing *o, outgoing_source *source, void *context)
{
    while (o->sent < o->total) {
        const char *data = o->head + o->sent;
        size_t bytes = o->head_bytes - (size_t)o->sent;
        ssize_t n;

        if (o->sent >= o->head_bytes) {
            data = g.piece;
            if (!source(context, o->sent - o->head_bytes, g.piece, PIECE_BYTES, &bytes) ||
                bytes == 0)
                return -1;
        }
        n = send(o->fd, data, bytes, MSG_NOSIGNAL);
        if (n < 0 && http_again())
            return 0;
        if (n <= 0)
            return -1;
        o->sent += (uint64_t)n;
    }
    return 0;
}

/* Takes in what came of an answer. Returns 1 when it is complete, -1 when it never will be. `kept`
 * bytes of its body, if it is not NULL, go to `keep`. */
static int outgoing_receive(struct outgoing *o, char *keep, size_t room, size_t *kept)
{
    int turns;

    for (turns = 0; turns < 16; turns++) { /* then others have their turn */
        struct http_head head;
        size_t end, used = 0;
        msc4203_span piece;
        ssize_t n = recv(o->fd, o->in + o->in_bytes, sizeof o->in - o->in_bytes, 0);

        if (n < 0 && http_again())
            return 0;
        if (n <= 0) {
            if (n == 0 && o->have_head && o->body.state == HTTP_BODY_ALL) {
                o->keep_alive = 0;
                return 1;
            }
            return -1;
        }
        o->in_bytes += (size_t)n;
        while (!o->have_head) {
            end = http_head_end(o->in, o->in_bytes, 0);
            if (end == 0 && o->in_bytes == sizeof o->in)
                return -1; /* no answer has so long a head */
            if (end == 0)
                break;
            if (!http_parse(&head, o->in, end, 1))
                return -1;
            o->in_bytes -= end;
            memmove(o->in, o->in + end, o->in_bytes);
            if (head.status < 200)
                continue; /* 100 Continue */
            o->have_head = 1;
            o->status = head.status;
            o->keep_alive = head.keep_alive;
            http_body_begin(&o->body, &head, 1);
        }
        if (!o->have_head)
            continue;
        while (used < o->in_bytes && o->body.state != HTTP_BODY_DONE &&
               o->body.state != HTTP_BODY_WRONG) {
            used += http_body_feed(&o->body, o->in + used, o->in_bytes - used, &piece);
            if (kept != NULL) {
                size_t take = piece.len < room - *kept ? piece.len : room - *kept;
                memcpy(keep + *kept, piece.ptr, take);
                *kept += take;
            }
        }
        o->in_bytes -= used;
        memmove(o->in, o->in + used, o->in_bytes);
        if (o->body.state == HTTP_BODY_WRONG)
            return -1;
        if (o->body.state == HTTP_BODY_DONE) {
            o->keep_alive = o->keep_alive && o->sent == o->total && o->in_bytes == 0;
            return 1;
        }
    }
    return 0;
}

/* One step of a request. Returns 1 when its answer is complete, -1 when it failed. */
static int outgoing_step(struct outgoing *o, outgoing_source *source, void *context, char *keep,
                         size_t room, size_t *kept)
{
    int sent = outgoing_send(o, source, context), done = outgoing_receive(o, keep, room, kept);

    if (done == 0 && sent < 0)
        done = -1;
    if (done > 0 && o->keep_alive && !o->last)
        o->state = OUTGOING_OPEN;
    else if (done != 0)
        outgoing_close(o);
    return done;
}

/* ---- transactions ---- */

static int transaction_source(void *context, uint64_t at, char *data, size_t room, size_t *got)
{
    struct channel *channel = (struct channel *)context;
    int result = msc4203_sender_read(&channel->sender, at, g.work, WORK_BYTES, data, room, got);

    if (result == MSC4203_E_STORAGE)
        storage_failed();
    return result == MSC4203_OK;
}

static void transaction_trace(void *context, int what, const msc4203_transaction *t, int status)
{
    static const char *const texts[] = {
        NULL, NULL, "a transaction is in flight from before", NULL, "delivered", "failed",
        NULL, "too large: cut smaller", "a message was refused: parked", NULL, "damaged"};
    const struct channel *channel = (const struct channel *)context;

    (void)status;
    if (channel->appservice < 0 || texts[what] == NULL)
        return;
    fprintf(stderr, "gateway: %.*s: transaction %s: %s",
            (int)g.config->appservices[channel->appservice].id.len,
            g.config->appservices[channel->appservice].id.ptr, t->id, texts[what]);
    if (what == MSC4203_TRACE_DELIVERED)
        fprintf(stderr, " (%lu messages)", (unsigned long)t->count);
    if (what == MSC4203_TRACE_FAILED && status != 0)
        fprintf(stderr, " (%d)", status);
    fputc('\n', stderr);
}

static void transaction_result(struct channel *channel, int status)
{
    uint32_t random = 0;
    int result;

    http_random(&random, sizeof random);
    result = msc4203_sender_result(&channel->sender, status, http_time(), random, g.work,
                                   WORK_BYTES);
    channel->next_poll = 0;
    if (result == MSC4203_E_STORAGE)
        storage_failed();
    else if (result != MSC4203_OK)
        channel->next_poll = g.now + 1000;
}

/* Starts a channel's sender, if it is not started or the configuration of it has changed; nothing
 * of its old one is on its way. */
static void transaction_start(struct channel *channel, uint32_t number)
{
    const struct config *c = g.config;
    msc4203_sender_config config;
    int result;

    memset(&config, 0, sizeof config);
    config.channel = number;
    config.flags = c->appservices[channel->appservice].stable ? MSC4203_STABLE_KEYS : 0;
    config.messages_max = c->txn_messages_max;
    config.bytes_max = c->txn_bytes_max;
    config.retry_ms_min = c->retry_ms_min;
    config.retry_ms_max = c->retry_ms_max;
    config.context = channel;
    config.trace = transaction_trace;
    if (channel->started && memcmp(&config, &channel->config, sizeof config) == 0)
        return;
    outgoing_close(&channel->out);
    result = msc4203_sender_init(&channel->sender, &g.queue, &config, http_time(), g.work,
                                 WORK_BYTES);
    if (result != MSC4203_OK) {
        storage_failed();
        return;
    }
    channel->config = config;
    channel->started = 1;
    channel->next_poll = 0;
}

/* Lets a channel go on. */
static void transaction_step(struct channel *channel, uint32_t number)
{
    const msc4203_transaction *t;
    uint64_t wait;
    int done;

    if (channel->out.state == OUTGOING_BUSY) {
        done = outgoing_step(&channel->out, transaction_source, channel, NULL, 0, NULL);
        if (done == 0 && g.now - channel->out.began < SILENT_MS)
            return;
        if (done < 0 && channel->out.reused && !channel->out.have_head &&
            channel->out.in_bytes == 0 && channel->appservice >= 0) {
            /* The appservice had closed a connection that was idle: that is no failure. */
            char path[80];
            msc4203_sender_status status;
            msc4203_sender_status_get(&channel->sender, &status);
            memcpy(path, status.in_flight->path, sizeof path);
            if (outgoing_begin(&channel->out, channel->appservice, "PUT", path,
                               status.in_flight->bytes))
                return;
        }
        if (done == 0)
            outgoing_close(&channel->out);
        transaction_result(channel, done > 0 ? channel->out.status : 0);
    }
    if (channel->appservice < 0)
        return;
    if (!g.failed)
        transaction_start(channel, number);
    if (g.failed || !channel->started || (g.now < channel->next_poll && !g.news))
        return;
    done = msc4203_sender_poll(&channel->sender, http_time(), g.work, WORK_BYTES, &t, &wait);
    if (done == MSC4203_REQUEST) {
        if (!outgoing_begin(&channel->out, channel->appservice, "PUT", t->path, t->bytes))
            transaction_result(channel, 0);
        else
            transaction_step(channel, number);
    } else if (done == MSC4203_WAIT) {
        channel->next_poll = g.now + wait;
    } else if (done == MSC4203_IDLE) {
        channel->next_poll = UINT64_MAX;
    } else if (done == MSC4203_E_STORAGE) {
        storage_failed();
    } else { /* no room for its record, say: a while later there may be */
        channel->next_poll = g.now + 1000;
    }
}

/* ---- pings ---- */

static int ping_source(void *context, uint64_t at, char *data, size_t room, size_t *got)
{
    const struct ping *ping = (const struct ping *)context;
    size_t left = at < ping->body_bytes ? ping->body_bytes - (size_t)at : 0;

    *got = left < room ? left : room;
    memcpy(data, ping->body + at, *got);
    return 1;
}

static void ping_end(struct ping *ping, int done)
{
    struct connection *c = &g.connections[ping->connection];
    char body[8192];
    size_t at;

    c->ping = -1;
    ping->connection = -1;
    outgoing_close(&ping->out);
    if (done > 0 && ping->out.status / 100 == 2) {
        at = (size_t)sprintf(body, "{\"duration_ms\":%lu}",
                             (unsigned long)(g.now - ping->began));
        answer_body(c, 200, body, at);
        return;
    }
    if (done > 0) {
        at = (size_t)sprintf(body, "{\"errcode\":\"M_BAD_STATUS\",\"error\":\"the appservice "
                                   "answered %d\",\"status\":%d,\"body\":", ping->out.status,
                             ping->out.status);
        /* Without a slot it has to fit into the connection. */
        at = add_string(body, at, ping->answer,
                        ping->answer_bytes < 30 || slot_take(c) ? ping->answer_bytes : 30);
        at = add_text(body, at, "}");
        answer_body(c, 502, body, at);
        return;
    }
    if (done == 0)
        refuse(c, 504, "M_CONNECTION_TIMEOUT", "the appservice did not answer in time");
    else
        refuse(c, 502, "M_CONNECTION_FAILED", "the appservice could not be reached");
}

static void ping_begin(struct connection *c)
{
    struct ping *ping = &g.pings[c->appservice];
    uint32_t channel = g.services[c->appservice].channel;

    if (ping->connection >= 0 || ping->out.state == OUTGOING_BUSY)
        return; /* an earlier one is on its way */
    ping->connection = (int)(c - g.connections);
    ping->began = g.now;
    ping->answer_bytes = 0;
    c->ping = c->appservice;
    if (channel != 0 && g.channels[channel].started) {
        msc4203_sender_wake(&g.channels[channel].sender);
        g.channels[channel].next_poll = 0;
    }
    memcpy(ping->body, c->kept != 0 ? c->out : "{}", c->kept != 0 ? c->kept : 2);
    ping->body_bytes = c->kept != 0 ? c->kept : 2;
    if (!outgoing_begin(&ping->out, c->appservice, "POST", "/_matrix/app/v1/ping",
                        ping->body_bytes))
        ping_end(ping, -1);
}

static void ping_step(struct ping *ping)
{
    int done;

    if (ping->out.state != OUTGOING_BUSY)
        return;
    if (ping->connection < 0) { /* who asked has gone */
        outgoing_close(&ping->out);
        return;
    }
    done = outgoing_step(&ping->out, ping_source, ping, ping->answer, sizeof ping->answer,
                         &ping->answer_bytes);
    if (done != 0)
        ping_end(ping, done);
}

/* ---- requests in ---- */

/* Who sends a request. */
struct caller {
    int device, appservice;    /* by whose token; the other is CONFIG_NONE */
    msc4203_span user;
    char text[CONFIG_USER_MAX];
};

/* Finds out who sends a request. Returns 0 when it was refused. */
static int authorize(struct connection *c, const struct http_head *head, const msc4203_span *query,
                     struct caller *caller)
{
    static const char scheme[] = "bearer ";
    char token[1024];
    msc4203_span given = head->authorization, value;
    size_t n;

    caller->device = caller->appservice = CONFIG_NONE;
    if (given.ptr != NULL && given.len > 7 && http_same_word(given.ptr, 6, "bearer") &&
        given.ptr[6] == scheme[6]) {
        for (given.ptr += 7, given.len -= 7; given.len != 0 && *given.ptr == ' '; given.len--)
            given.ptr++;
    } else if (http_parameter(query, "access_token", &value) && value.len < sizeof token) {
        n = http_decode(token, value.ptr, value.len, 1);
        given.ptr = token;
        given.len = n == SIZE_MAX ? 0 : n;
    } else {
        refuse(c, 401, "M_MISSING_TOKEN", "an access token is missing");
        return 0;
    }
    caller->device = config_by_token(g.config, &given);
    if (caller->device >= 0) {
        caller->user = g.config->devices[caller->device].user;
        return 1;
    }
    caller->appservice = config_appservice_by(g.config, &given, 1);
    if (caller->appservice < 0) {
        refuse(c, 401, "M_UNKNOWN_TOKEN", "the access token is unknown");
        return 0;
    }
    caller->user = g.config->appservices[caller->appservice].sender;
    if (http_parameter(query, "user_id", &value)) {
        n = value.len <= sizeof caller->text
                ? http_decode(caller->text, value.ptr, value.len, 1) : SIZE_MAX;
        caller->user.ptr = caller->text;
        caller->user.len = n == SIZE_MAX ? 0 : n;
    }
    if (caller->user.len == 0 || !config_owns(g.config, caller->appservice, &caller->user)) {
        refuse(c, 403, "M_FORBIDDEN", "the user is not this appservice's");
        return 0;
    }
    return 1;
}

/* For an appservice, finds the device that it speaks of. Returns 0 when it was refused. */
static int caller_device(struct connection *c, const msc4203_span *query, struct caller *caller)
{
    char text[1024];
    msc4203_span value, id;
    size_t n;

    if (caller->device >= 0)
        return 1;
    if (!http_parameter(query, "device_id", &value) &&
        !http_parameter(query, "org.matrix.msc3202.device_id", &value)) {
        refuse(c, 400, "M_MISSING_PARAM", "device_id is missing");
        return 0;
    }
    n = value.len <= sizeof text ? http_decode(text, value.ptr, value.len, 1) : SIZE_MAX;
    id.ptr = text;
    id.len = n == SIZE_MAX ? 0 : n;
    caller->device = config_device_of(g.config, &caller->user, &id);
    if (caller->device >= 0 && !g.config->devices[caller->device].deleted)
        return 1;
    refuse(c, 400, "M_UNKNOWN_DEVICE", "the user has no such device");
    return 0;
}

/* The digest of who sends: a device, or a user of an appservice. */
static void request_who(const struct caller *caller, uint8_t who[8])
{
    msc4203_digest digest;
    unsigned char out[16];
    uint8_t kind = caller->appservice >= 0;
    const msc4203_span *id;

    msc4203_digest_init(&digest, msc4203_log_key(&g.log));
    id = kind ? &g.config->appservices[caller->appservice].id
              : &g.config->devices[caller->device].device;
    msc4203_digest_add(&digest, &kind, 1);
    msc4203_digest_add(&digest, caller->user.ptr, caller->user.len);
    msc4203_digest_add(&digest, "", 1);
    msc4203_digest_add(&digest, id->ptr, id->len);
    msc4203_digest_end(&digest, out);
    memcpy(who, out, 8);
}

/* Decodes a part of a path. Returns its bytes, SIZE_MAX when it is no UTF-8, or too long. */
static size_t path_text(char *text, size_t room, const msc4203_span *part)
{
    size_t n = part->len <= room ? http_decode(text, part->ptr, part->len, 0) : SIZE_MAX;

    return n != SIZE_MAX && http_utf8(text, n) ? n : SIZE_MAX;
}

static void request_send(struct connection *c, const msc4203_span *type, const msc4203_span *txn,
                         const struct caller *caller)
{
    msc4203_digest digest;
    unsigned char out[16];
    struct slot *slot;
    char text[HTTP_HEAD_MAX];
    size_t type_bytes = path_text(text, sizeof text, type), txn_bytes;
    int result;

    if (type_bytes == SIZE_MAX) {
        refuse(c, 400, "M_INVALID_PARAM", "the event type is not UTF-8");
        return;
    }
    msc4203_digest_init(&digest, msc4203_log_key(&g.log));
    msc4203_digest_add(&digest, text, type_bytes);
    msc4203_digest_add(&digest, "\377", 1);
    txn_bytes = path_text(text, sizeof text, txn);
    if (txn_bytes == SIZE_MAX) {
        refuse(c, 400, "M_INVALID_PARAM", "the transaction id is not UTF-8");
        return;
    }
    msc4203_digest_add(&digest, text, txn_bytes);
    msc4203_digest_end(&digest, out);
    memcpy(c->request.what, out, 8);
    request_who(caller, c->request.who);
    if (g.failed) {
        refuse(c, 500, "M_UNKNOWN", "the store failed");
        return;
    }
    if (c->http.body.state == HTTP_BODY_LENGTH && c->http.body.left > g.config->request_bytes_max) {
        refuse_now(c, 413, "M_TOO_LARGE", "the request is too large");
        return;
    }
    result = g.queue.known(g.queue.context, &c->request);
    if (result == MSC4203_KNOWN) {
        committed(c);
        return;
    }
    if (c->http.body.state == HTTP_BODY_LENGTH &&
        c->http.in_bytes - c->http.in_at < c->http.body.left &&
        c->http.in_bytes < in_room(c)) { /* a slow client's small body needs no slot for long */
        c->state = CONNECTION_GATHER;
        go_on(c);
        return;
    }
    if (g.hangup != 0 || !slot_take(c)) {
        wait_in(c, CONNECTION_WAIT_SLOT); /* the head is looked at again then */
        return;
    }
    slot = &g.slots[c->slot];
    slot->type_bytes = http_decode(slot->type, type->ptr, type->len, 0);
    memcpy(slot->sender, caller->user.ptr, caller->user.len);
    slot->sender_bytes = caller->user.len;
    c->body_bytes = 0;
    send_begin(c);
}

static void request_sync(struct connection *c, const msc4203_span *query,
                         const struct caller *caller)
{
    msc4203_span value;
    uint64_t timeout = 0;
    size_t i;

    c->device = caller->device;
    c->since_bytes = 0;
    if (http_parameter(query, "since", &value)) {
        char text[3 * sizeof c->since]; /* it may be all percent-encoded */
        size_t n = value.len <= sizeof text ? http_decode(text, value.ptr, value.len, 1)
                                            : SIZE_MAX;
        if (n > sizeof c->since || n == 0) {
            refuse(c, 400, "M_INVALID_PARAM", "since is not a token");
            return;
        }
        memcpy(c->since, text, n);
        c->since_bytes = (unsigned char)n;
    }
    if (http_parameter(query, "timeout", &value))
        for (i = 0; i < value.len && http_is_digit(value.ptr[i]) && timeout < 86400000;
             i++)
            timeout = timeout * 10 + (uint64_t)(value.ptr[i] - '0');
    if (g.failed) {
        refuse(c, 500, "M_UNKNOWN", "the store failed");
        return;
    }
    c->deadline = g.now + timeout;
    sync_answer(c, timeout == 0);
}

/* A device was deleted: ends the requests being read that may hold messages for it, or are its own
 * (`who`). They are sent again, and then know. */
static void deleted_meanwhile(const uint8_t *who)
{
    int i;

    for (i = 0; i < g.connection_count; i++) {
        struct connection *c = &g.connections[i];
        if (c->state == CONNECTION_BODY && c->slot >= 0 &&
            (g.slots[c->slot].batch != 0 ||
             memcmp(c->request.who, who, sizeof c->request.who) == 0))
            refuse(c, 500, "M_UNKNOWN", "a device was deleted meanwhile: try again");
    }
}

static void request_delete(struct connection *c, const msc4203_span *id,
                           const struct caller *caller)
{
    char text[1024];
    msc4203_span device;
    msc4203_device gone;
    struct caller who = *caller;
    int i, result;

    device.ptr = text;
    device.len = path_text(text, sizeof text, id);
    if (device.len == SIZE_MAX) {
        refuse(c, 400, "M_INVALID_PARAM", "the device id is not UTF-8");
        return;
    }
    i = config_device_of(g.config, &caller->user, &device);
    if (i < 0 || g.config->devices[i].deleted) {
        refuse(c, 404, "M_NOT_FOUND", "the user has no such device");
        return;
    }
    gone = device_of(i);
    who.device = i;
    who.appservice = CONFIG_NONE;
    who.user = gone.user_id;
    request_who(&who, c->request.who);
    result = g.failed ? MSC4203_E_STORAGE
                      : g.queue.drop(g.queue.context, &gone, c->request.who);
    if (result != MSC4203_OK) {
        refuse_result(c, result);
        return;
    }
    g.config->devices[i].deleted = 1;
    c->device = i;
    deleted_meanwhile(c->request.who);
    committed(c);
}

/* Takes the next part of a path, up to a slash or the end. Returns 0 when there is none. */
static int path_part(msc4203_span *path, msc4203_span *part)
{
    size_t i;

    if (path->len == 0 || path->ptr[0] != '/')
        return 0;
    for (i = 1; i < path->len && path->ptr[i] != '/'; i++)
        ;
    part->ptr = path->ptr + 1;
    part->len = i - 1;
    path->ptr += i;
    path->len -= i;
    return 1;
}

/* Finds what a request asks for: of enum request_kind, -1 for nothing that is there. */
static int request_find(msc4203_span path, msc4203_span parts[2], const char **method)
{
    static const char *const prefixes[] = {"/_matrix/client/v3/", "/_matrix/client/r0/",
                                           "/_matrix/client/v1/"};
    msc4203_span word, rest;
    size_t i;

    *method = "GET";
    if (msc4203_span_equal(&path, "/status"))
        return REQUEST_STATUS;
    for (i = 0; i < 3; i++)
        if (path.len > 19 && memcmp(path.ptr, prefixes[i], 19) == 0)
            break;
    if (i == 3)
        return -1;
    path.ptr += 18;
    path.len -= 18;
    if (!path_part(&path, &word))
        return -1;
    if (i == 2) {
        *method = "POST";
        return msc4203_span_equal(&word, "appservice") && path_part(&path, &parts[0]) &&
                       path_part(&path, &rest) && msc4203_span_equal(&rest, "ping") &&
                       path.len == 0
                   ? REQUEST_PING : -1;
    }
    if (msc4203_span_equal(&word, "sync") && path.len == 0)
        return REQUEST_SYNC;
    if (msc4203_span_equal(&word, "devices") && path_part(&path, &parts[0]) && path.len == 0 &&
        parts[0].len != 0) {
        *method = "DELETE";
        return REQUEST_DELETE;
    }
    if (msc4203_span_equal(&word, "sendToDevice") && path_part(&path, &parts[0]) &&
        path_part(&path, &parts[1]) && path.len == 0 && parts[1].len != 0) {
        *method = "PUT";
        return REQUEST_SEND;
    }
    return -1;
}

/* Takes a request whose head is complete. */
static void request_begin(struct connection *c, size_t head_bytes)
{
    static struct caller caller;
    struct http_head head;
    msc4203_span path, query, parts[2];
    const char *method;
    size_t i;
    int kind;

    c->http.lingers = 0;
    c->kept = 0;
    if (!http_parse(&head, in_of(c), head_bytes, 0)) {
        c->http.keep_alive = 0;
        c->http.in_at = c->http.in_bytes;
        refuse_now(c, 400, "M_UNKNOWN", "not an HTTP request");
        return;
    }
    c->http.keep_alive = (uint8_t)head.keep_alive;
    http_body_begin(&c->http.body, &head, 0);
    c->expects = head.expects && !c->continued && c->http.body.state != HTTP_BODY_DONE;
    path = query = head.target;
    for (i = 0; i < path.len && path.ptr[i] != '?'; i++)
        ;
    path.len = i;
    query.ptr += i < query.len ? i + 1 : i;
    query.len -= i < query.len ? i + 1 : i;
    kind = request_find(path, parts, &method);
    c->http.in_at = (uint32_t)head_bytes;
    if (kind < 0) {
        refuse(c, 404, "M_UNRECOGNIZED", "no such path");
        return;
    }
    if (!msc4203_span_equal(&head.method, method)) {
        refuse(c, 405, "M_UNRECOGNIZED", "no such method here");
        return;
    }
    c->kind = (unsigned)kind;
    if ((kind == REQUEST_STATUS || kind == REQUEST_SYNC) && c->http.body.state != HTTP_BODY_DONE)
        c->http.lingers = 1; /* its body means nothing, and is not waited for */
    if (kind == REQUEST_STATUS) {
        status_answer(c);
        return;
    }
    if (kind == REQUEST_PING) {
        char id[256];
        msc4203_span name;
        size_t n = parts[0].len <= sizeof id ? http_decode(id, parts[0].ptr, parts[0].len, 0)
                                             : SIZE_MAX;
        if (!authorize(c, &head, &query, &caller))
            return;
        name.ptr = id;
        name.len = n == SIZE_MAX ? 0 : n;
        c->appservice = config_appservice_by(g.config, &name, 0);
        if (c->appservice < 0 || c->appservice != caller.appservice) {
            refuse(c, 403, "M_FORBIDDEN", "not this appservice's token");
            return;
        }
        c->state = c->http.body.state == HTTP_BODY_DONE ? CONNECTION_PING : CONNECTION_BODY;
        c->deadline = g.now + SILENT_MS;
        go_on(c);
        return;
    }
    if (!authorize(c, &head, &query, &caller))
        return;
    if (kind == REQUEST_SEND) {
        request_send(c, &parts[0], &parts[1], &caller);
        if (c->state == CONNECTION_WAIT_SLOT || c->state == CONNECTION_GATHER)
            c->http.in_at = 0;
    } else if (kind == REQUEST_DELETE) {
        request_delete(c, &parts[0], &caller);
    } else if (caller_device(c, &query, &caller)) {
        request_sync(c, &query, &caller);
    }
}

/* A request's body has come to its end. */
static void request_ended(struct connection *c)
{
    if (c->state == CONNECTION_DRAIN) {
        if (c->status == 200)
            c->state = CONNECTION_COMMITTED;
        else
            answer(c);
    } else if (c->state == CONNECTION_BODY && c->kind == REQUEST_PING) {
        c->state = CONNECTION_PING;
    }
}

/* Takes a piece of a body. */
static void request_piece(struct connection *c, const msc4203_span *piece)
{
    int last = c->http.body.state == HTTP_BODY_DONE;

    c->read += piece->len;
    if (c->http.body.state == HTTP_BODY_WRONG) {
        if (c->state == CONNECTION_DRAIN && c->status == 200) { /* it is committed all the same */
            c->http.keep_alive = 0;
            c->state = CONNECTION_COMMITTED;
            return;
        }
        c->http.keep_alive = 0;
        if (c->slot >= 0)
            send_end(c, MSC4203_E_SYNTAX);
        else
            refuse(c, 400, "M_UNKNOWN", "not an HTTP body");
        return;
    }
    if (c->state == CONNECTION_BODY && c->kind == REQUEST_PING) {
        if (piece->len > OUT_BYTES - c->kept) {
            refuse(c, 413, "M_TOO_LARGE", "the request is too large");
        } else {
            memcpy(c->out + c->kept, piece->ptr, piece->len);
            c->kept += (uint32_t)piece->len;
        }
    } else if (c->state == CONNECTION_BODY) {
        if (piece->len != 0 || last)
            send_piece(c, piece, last);
    }
    if (last)
        request_ended(c);
}

/* Goes on with what has been read. Returns 0 when more has to come first. */
static int connection_step(struct connection *c)
{
    char *in = in_of(c);
    size_t end;

    switch (c->state) {
    case CONNECTION_HEAD:
        while (c->http.in_bytes != 0 && (in[0] == '\r' || in[0] == '\n')) { /* RFC 9112, 2.2 */
            memmove(in, in + 1, --c->http.in_bytes);
            c->http.looked = 0;
        }
        end = http_in_head(&c->http, in);
        if (end != 0) {
            request_begin(c, end);
            if (c->state != CONNECTION_FREE && c->state != CONNECTION_WAIT_SLOT &&
                c->state != CONNECTION_GATHER)
                head_done(c);
            if (c->state == CONNECTION_SYNC && c->head >= 0)
                sync_answer(c, 1); /* no place for a long head is held by who only waits */
            return 1;
        }
        if (c->head < 0 && c->http.in_bytes == IN_BYTES) {
            int i;
            for (i = 0; i < HEADS && g.head_owner[i] >= 0; i++)
                ;
            if (i == HEADS || (g.waiting != 0 && !g.grants)) {
                wait_in(c, CONNECTION_WAIT_HEAD);
                return 0;
            }
            c->ticket = 0;
            c->head = i;
            g.head_owner[i] = (int)(c - g.connections);
            memcpy(g.heads[i], c->in, IN_BYTES);
            c->begun = g.now;
            c->read = 0;
        } else if (c->head >= 0 && c->http.in_bytes == HTTP_HEAD_MAX) {
            c->http.keep_alive = 0;
            c->http.in_at = c->http.in_bytes;
            refuse_now(c, 431, "M_TOO_LARGE", "the headers are too large");
            return 1;
        }
        return 0;
    case CONNECTION_BODY:
    case CONNECTION_DRAIN:
        if (c->http.body.state == HTTP_BODY_DONE && c->state == CONNECTION_BODY && c->slot >= 0) {
            msc4203_span none = {NULL, 0}; /* there was no body at all */
            request_piece(c, &none);
            return 1;
        }
        if (c->http.in_at < c->http.in_bytes) {
            msc4203_span piece;
            http_in_body(&c->http, in, &piece);
            request_piece(c, &piece);
            return 1;
        }
        head_done(c);
        return 0;
    default:
        return 0;
    }
}

static void connection_go(struct connection *c)
{
    while (c->state != CONNECTION_FREE && connection_step(c))
        ;
}

/* Reads what has come of a body. Returns 0 when nothing more can be read now. */
static int connection_read_body(struct connection *c)
{
    ssize_t n = http_body_read(&c->http, g.piece, PIECE_BYTES);
    size_t at = 0;

    if (n < 0)
        connection_close(c);
    if (n <= 0)
        return 0;
    c->active = g.now;
    while (at < (size_t)n && (c->state == CONNECTION_BODY || c->state == CONNECTION_DRAIN)) {
        msc4203_span piece;
        at += http_body_take(&c->http, g.piece + at, (size_t)n - at, &piece);
        request_piece(c, &piece);
    }
    connection_go(c);
    return n == PIECE_BYTES && c->state == CONNECTION_BODY;
}

/* Reads what has come. */
static void connection_read(struct connection *c)
{
    ssize_t n;
    int turns = 8; /* then others have their turn */

    if (c->state == CONNECTION_BODY || c->state == CONNECTION_DRAIN) {
        while (turns-- != 0 && connection_read_body(c))
            ;
        return;
    }
    if (c->state == CONNECTION_LINGER)
        n = http_receive(c->http.fd, g.piece, PIECE_BYTES, 0);
    else if (c->state == CONNECTION_HEAD || c->state == CONNECTION_GATHER)
        n = http_in_read(&c->http, in_of(c), in_room(c));
    else
        n = http_receive(c->http.fd, g.piece, 1, MSG_PEEK); /* it has gone? */
    if (n < 0)
        connection_close(c);
    if (n <= 0 || (c->state != CONNECTION_HEAD && c->state != CONNECTION_GATHER))
        return;
    c->active = g.now;
    c->read += (uint64_t)n;
    if (c->state == CONNECTION_GATHER) {
        c->state = CONNECTION_HEAD; /* the head is looked at again */
        c->http.looked = 0;
    }
    connection_go(c);
    /* A body has mostly come together with its head. If it were left to the next turn, a sender
     * might flush in this one, and the message would need a flush of its own. */
    while (turns-- != 0 && (c->state == CONNECTION_BODY || c->state == CONNECTION_DRAIN) &&
           connection_read_body(c))
        ;
}

/* The connection that has been silent longest, of those between requests or in a head, or of those
 * that wait for something; -1 when there is none. */
static int connection_idle(int waiting)
{
    int i, oldest = -1;

    for (i = 0; i < g.connection_count; i++) {
        const struct connection *c = &g.connections[i];
        int idle = c->state == CONNECTION_HEAD;
        if (waiting)
            idle = c->state == CONNECTION_WAIT_HEAD || c->state == CONNECTION_WAIT_SLOT ||
                   c->state == CONNECTION_GATHER || c->state == CONNECTION_DRAIN ||
                   c->state == CONNECTION_SYNC;
        if (idle && (oldest < 0 || c->active < g.connections[oldest].active))
            oldest = i;
    }
    return oldest;
}

/* Takes new connections. When there is no place, the one goes that has been idle longest, or, if
 * none is, that waits longest: its client may have gone without a word, or mean harm. */
static void connections_accept(void)
{
    int i, fd;

    for (;;) {
        fd = http_accept(g.listener);
        if (fd < 0)
            return;
        for (i = 0; i < g.connection_count && g.connections[i].state != CONNECTION_FREE; i++)
            ;
        if (i == g.connection_count) {
            i = connection_idle(0);
            if (i < 0)
                i = connection_idle(1);
            if (i < 0) {
                close(fd);
                return;
            }
            connection_close(&g.connections[i]);
        }
        memset(&g.connections[i], 0, offsetof(struct connection, in));
        g.connections[i].http.fd = fd;
        g.connections[i].state = CONNECTION_HEAD;
        g.connections[i].slot = g.connections[i].head = g.connections[i].ping = -1;
        g.connections[i].active = g.now;
        g.used++;
    }
}

/* Looks after one connection: what has become possible for it, and what takes too long. */
static void connection_care(struct connection *c)
{
    uint64_t silent = g.now - c->active;
    uint64_t held = g.now - c->begun;
    int slow = g.waiting != 0 && held > SLOW_MS && c->read < held;

    switch (c->state) {
    case CONNECTION_HEAD:
    case CONNECTION_GATHER:
        if (silent < SILENT_MS && !(c->head >= 0 && slow))
            return;
        if (c->http.in_bytes == 0) {
            connection_close(c);
            return;
        }
        c->http.keep_alive = 0;
        c->http.in_at = c->http.in_bytes;
        refuse_now(c, 408, "M_UNKNOWN", "the request is too slow");
        return;
    case CONNECTION_BODY:
    case CONNECTION_DRAIN:
        if (silent < SILENT_MS && !(c->slot >= 0 && slow))
            return;
        if (c->slot >= 0)
            send_user_ends(&g.slots[c->slot]);
        c->http.keep_alive = 0;
        refuse_now(c, 408, "M_UNKNOWN", "the request is too slow");
        return;
    case CONNECTION_SYNC:
        if (g.news || g.now >= c->deadline)
            sync_answer(c, g.now >= c->deadline);
        return;
    case CONNECTION_PING:
        if (g.now < c->deadline) {
            if (c->ping < 0)
                ping_begin(c);
        } else if (c->ping >= 0) {
            ping_end(&g.pings[c->ping], 0);
        } else {
            refuse(c, 504, "M_CONNECTION_TIMEOUT", "other pings were not answered in time");
        }
        return;
    case CONNECTION_WRITE:
        if (silent >= SILENT_MS || (c->slot >= 0 && slow))
            connection_close(c);
        return;
    case CONNECTION_LINGER:
        if (g.now >= c->deadline)
            connection_close(c);
        return;
    default:
        return;
    }
}

/* Whether a connection waits for a slot, or for a place for its head. */
static int waits(const struct connection *c, int for_head)
{
    if (for_head)
        return c->state == CONNECTION_WAIT_HEAD;
    return c->state == CONNECTION_WAIT_SLOT || c->state == CONNECTION_SYNC_SLOT ||
           c->state == CONNECTION_STATUS_SLOT;
}

static int is_free(int for_head)
{
    int i;

    for (i = 0; i < (for_head ? (int)HEADS : g.slot_count); i++)
        if ((for_head ? g.head_owner[i] : g.slots[i].connection) < 0)
            return 1;
    return 0;
}

/* Gives what is free to those that wait, in the order in which they came: so a crowd of slow ones
 * keeps nobody out for ever. */
static void grant(int for_head)
{
    while (g.waiting != 0 && is_free(for_head)) {
        struct connection *c = NULL;
        int i, state;

        for (i = 0; i < g.connection_count; i++)
            if (waits(&g.connections[i], for_head) &&
                (c == NULL || g.connections[i].ticket < c->ticket))
                c = &g.connections[i];
        if (c == NULL)
            return;
        state = c->state;
        g.grants = 1;
        if (state == CONNECTION_SYNC_SLOT)
            sync_answer(c, 1);
        else if (state == CONNECTION_STATUS_SLOT)
            status_answer(c);
        else
            c->state = CONNECTION_HEAD;
        c->http.looked = 0;
        if (c->state != CONNECTION_FREE)
            connection_go(c);
        g.grants = 0;
        if (c->state == state)
            return;
    }
}

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
        fprintf(stderr, "gateway: goes on as before: %s:%u: %s\n", g.path, next->line,
                next->reason);
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
    if (strcmp(old->store, next->store) != 0 || old->store_bytes != next->store_bytes ||
        old->memory_bytes != next->memory_bytes || old->listen.bytes != next->listen.bytes ||
        memcmp(&old->listen.address, &next->listen.address, old->listen.bytes) != 0)
        say("listen, store and memory change with a restart only", NULL);
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
    say("the configuration was read again", NULL);
}

/* After a failure of the store: opens it anew. */
static void store_reopen(void)
{
    uint32_t channel;
    int i;

    g.reopen_at = g.now + 1000;
    requests_abort("the store failed");
    for (i = 0; i < g.slot_count; i++)
        g.slots[i].batch = 0;
    msc4203_file_close(&g.file);
    if (store_open() != MSC4203_OK || store_open_log() != MSC4203_OK)
        return;
    for (channel = 1; channel < MSC4203_CHANNEL_PARKED; channel++) {
        outgoing_close(&g.channels[channel].out);
        g.channels[channel].started = 0;
    }
    if (change_over() != MSC4203_OK)
        return;
    g.failed = 0;
    say("the store is open again", NULL);
}

static void poll_add(int *count, int fd, short events, int owner)
{
    g.polls[*count].fd = fd;
    g.polls[*count].events = events;
    g.polls[*count].revents = 0;
    g.poll_owner[(*count)++] = owner;
}

/* What is waited for; and for how long at most. */
static int poll_all(int *count, uint64_t *until)
{
    int i, waiting = 0;

    poll_add(count, g.signals[0], POLLIN, -1);
    poll_add(count, g.listener, POLLIN, -2);
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
        if (channel->appservice >= 0 && channel->out.state != OUTGOING_BUSY &&
            channel->next_poll < *until)
            *until = channel->next_poll;
        if (channel->out.state == OUTGOING_BUSY)
            poll_add(count, channel->out.fd,
                     channel->out.sent < channel->out.total ? POLLIN | POLLOUT : POLLIN, -2);
    }
    for (i = 0; i < PINGS; i++)
        if (g.pings[i].out.state == OUTGOING_BUSY)
            poll_add(count, g.pings[i].out.fd,
                     g.pings[i].out.sent < g.pings[i].out.total ? POLLIN | POLLOUT : POLLIN, -2);
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
    g.now = http_clock();
    if (g.polls[0].revents != 0)
        take_signals();
    if (g.polls[1].revents != 0)
        connections_accept();
    for (i = 2; i < count; i++) {
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

/* Divides the working memory. Returns 0 when there is too little. */
static int divide(void)
{
    size_t left = (size_t)g.config->memory_bytes, each = sizeof(struct connection) +
                                                         sizeof(struct pollfd) + sizeof(int), n;
    char *at = (char *)mmap(NULL, left, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct rlimit limit;
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
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        if (limit.rlim_cur < CONNECTIONS_MAX + 64 && limit.rlim_cur < limit.rlim_max) {
            limit.rlim_cur = limit.rlim_max < CONNECTIONS_MAX + 64 ? limit.rlim_max
                                                                   : CONNECTIONS_MAX + 64;
            setrlimit(RLIMIT_NOFILE, &limit);
        }
        if (limit.rlim_cur > 64 + MSC4203_CHANNELS && n > limit.rlim_cur - 64 - MSC4203_CHANNELS)
            n = limit.rlim_cur - 64 - MSC4203_CHANNELS;
    }
    if (n > CONNECTIONS_MAX)
        n = CONNECTIONS_MAX;
    g.connection_count = (int)n;
    g.connections = (struct connection *)take(&at, &left, n * sizeof *g.connections);
    n += MSC4203_CHANNELS + PINGS + 2;
    g.polls = (struct pollfd *)take(&at, &left, n * sizeof *g.polls);
    g.poll_owner = (int *)take(&at, &left, n * sizeof *g.poll_owner);
    n = left / (sizeof *g.slots + 64);
    g.slot_count = n < SLOTS_MAX ? (int)n : (int)SLOTS_MAX;
    g.slots = (struct slot *)take(&at, &left, (size_t)g.slot_count * sizeof *g.slots);
    if (g.connection_count < 4 || g.poll_owner == NULL || g.slot_count < 1 || g.slots == NULL)
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

int main(int argc, char **argv)
{
    unsigned port;
    int result;

    if (argc != 2) {
        fprintf(stderr, "usage: gateway CONFIG\n");
        return 2;
    }
    g.path = argv[1];
    g.config = &g.configs[0];
    if (!config_read(g.config, g.path)) {
        fprintf(stderr, "%s:%u: %s\n", g.path, g.config->line, g.config->reason);
        return 2;
    }
    if (!start_signals())
        return fail("signals", strerror(errno));
    g.now = http_clock();
    result = store_open();
    if (result != MSC4203_OK)
        return fail(g.config->store,
                    result == MSC4203_E_STORAGE ? strerror(errno) : msc4203_result_text(result));
    if (!divide())
        return fail("memory", "too little for this store");
    result = store_open_log();
    if (result == MSC4203_OK)
        result = change_over();
    if (result != MSC4203_OK)
        return fail(g.config->store, msc4203_result_text(result));
    g.listener = http_listen(&g.config->listen, &port);
    if (g.listener < 0)
        return fail("listen", strerror(errno));
    printf(strchr(g.config->host, ':') != NULL ? "gateway: listening on [%s]:%u\n"
                                               : "gateway: listening on %s:%u\n",
           g.config->host, port);
    fflush(stdout);
    while (!g.ends)
        turn();
    result = msc4203_log_close(&g.log);
    msc4203_file_close(&g.file);
    config_free(&g.configs[0]);
    config_free(&g.configs[1]);
    return result == MSC4203_OK ? 0 : fail(g.config->store, msc4203_result_text(result));
}
