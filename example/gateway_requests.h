/* gateway_requests.h - the requests that the gateway takes: who sends them, what they ask for, and
 * what is done about it. */
#ifndef GATEWAY_REQUESTS_H
#define GATEWAY_REQUESTS_H

#include "gateway_send.h"

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
    if (bytes > OUT_BYTES - 200 && c->slot < 0 && !slot_take(c, answer_is_ready(c, bytes))) {
        wait_in(c, CONNECTION_SYNC_SLOT);
        c->ready = answer_is_ready(c, bytes) != 0;
        return;
    }
    answer_body(c, 200, g.response, bytes);
}

/* ---- requests in ---- */

/* Who sends a request. */
struct caller {
    int device, appservice;    /* by whose token; the other is CONFIG_NONE */
    msc4203_span user;
    char text[CONFIG_USER_MAX];
};

/* Finds out who sends a request; an appservice need not be a `user`. Returns 0 when it was
 * refused. */
static int authorize(struct connection *c, const struct http_head *head, const msc4203_span *query,
                     int user, struct caller *caller)
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
    if (!user)
        return 1;
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

static int device_parameter(const msc4203_span *query, msc4203_span *value)
{
    return http_parameter(query, "device_id", value) ||
           http_parameter(query, "org.matrix.msc3202.device_id", value);
}

/* For an appservice, finds the device that it speaks of. Returns 0 when it was refused. */
static int caller_device(struct connection *c, const msc4203_span *query, struct caller *caller)
{
    char text[1024];
    msc4203_span value, id;
    size_t n;

    if (caller->device >= 0)
        return 1;
    if (!device_parameter(query, &value)) {
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

/* The digest of who sends: a device, or a user of an appservice without one. */
static void request_who(const struct caller *caller, uint8_t who[8])
{
    msc4203_digest digest;
    unsigned char out[16];
    uint8_t kind = caller->device < 0;
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
    if (g.hangup != 0 || !slot_take(c, body_is_ready(c, in_of(c)))) {
        c->head_bytes = c->http.in_at;
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
        for (i = 0; i < value.len && http_is_digit(value.ptr[i]) && timeout < SYNC_MS; i++)
            timeout = timeout * 10 + (uint64_t)(value.ptr[i] - '0');
    if (timeout > SYNC_MS)
        timeout = SYNC_MS;
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

/* An appservice asks to be pinged. */
static void request_ping(struct connection *c, const msc4203_span *id, const struct caller *caller)
{
    char text[256];
    msc4203_span name;
    size_t n = path_text(text, sizeof text, id);

    name.ptr = text;
    name.len = n == SIZE_MAX ? 0 : n;
    c->appservice = config_appservice_by(g.config, &name, 0);
    if (c->appservice < 0 || c->appservice != caller->appservice) {
        refuse(c, 403, "M_FORBIDDEN", "not this appservice's token");
        return;
    }
    c->state = c->http.body.state == HTTP_BODY_DONE ? CONNECTION_PING : CONNECTION_BODY;
    c->deadline = g.now + SILENT_MS;
    go_on(c);
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

/* The same of the operator's requests. */
static int request_find_admin(msc4203_span path, msc4203_span parts[2], const char **method)
{
    msc4203_span word;

    *method = "GET";
    if (msc4203_span_equal(&path, "/status"))
        return REQUEST_STATUS;
    if (msc4203_span_equal(&path, "/metrics"))
        return REQUEST_METRICS;
    if (msc4203_span_equal(&path, "/parked"))
        return REQUEST_PARKED;
    if (!path_part(&path, &word) || !path_part(&path, &parts[0]) || parts[0].len == 0)
        return -1;
    *method = "DELETE";
    if (msc4203_span_equal(&word, "parked") && path.len == 0)
        return REQUEST_DROP;
    *method = "POST";
    if (msc4203_span_equal(&word, "parked") && msc4203_span_equal(&path, "/retry"))
        return REQUEST_RETRY;
    return msc4203_span_equal(&word, "appservices") && msc4203_span_equal(&path, "/skip")
               ? REQUEST_SKIP : -1;
}

/* Finds what a request asks for: of enum request_kind, -1 for nothing that is there. */
static int request_find(msc4203_span path, msc4203_span parts[2], const char **method)
{
    static const char *const prefixes[] = {"/_matrix/client/v3/", "/_matrix/client/r0/",
                                           "/_matrix/client/v1/"};
    msc4203_span word, rest;
    size_t i;

    *method = "GET";
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

/* Whether a connection may ask as an operator: on the address for that; and when there is none for
 * /status alone, from this machine. */
static int is_operator(const struct connection *c, const msc4203_span *path)
{
    struct sockaddr_storage peer;
    const unsigned char *at;
    socklen_t bytes = sizeof peer;

    if (c->admin)
        return 1;
    memset(&peer, 0, sizeof peer);
    if (g.admin >= 0 || !msc4203_span_equal(path, "/status") ||
        getpeername(c->http.fd, (struct sockaddr *)&peer, &bytes) != 0)
        return 0;
    if (peer.ss_family == AF_INET)
        return ((const unsigned char *)&((struct sockaddr_in *)&peer)->sin_addr)[0] == 127;
    if (peer.ss_family != AF_INET6)
        return 0;
    at = (const unsigned char *)&((struct sockaddr_in6 *)&peer)->sin6_addr;
    return memcmp(at, &in6addr_loopback, 16) == 0 ||
           (memcmp(at, "\0\0\0\0\0\0\0\0\0\0\377\377\177", 13) == 0);
}

/* A request of the operator. */
static void request_admin(struct connection *c, const msc4203_span *part,
                          const msc4203_span *query)
{
    char text[256];
    msc4203_span id, value;
    size_t i;

    if (c->kind == REQUEST_SKIP) {
        id.ptr = text;
        id.len = path_text(text, sizeof text, part);
        id.len = id.len == SIZE_MAX ? 0 : id.len;
        skip_answer(c, &id);
        return;
    }
    c->after = 0;
    value.len = 0;
    if (c->kind == REQUEST_RETRY || c->kind == REQUEST_DROP)
        value = *part;
    else
        http_parameter(query, "after", &value);
    for (i = 0; i < value.len && http_is_digit(value.ptr[i]) && c->after < 1000000000000000000; i++)
        c->after = c->after * 10 + (uint64_t)(value.ptr[i] - '0');
    if (i != value.len)
        c->after = 0;
    if (c->kind == REQUEST_RETRY || c->kind == REQUEST_DROP)
        parked_move(c, c->after, c->kind == REQUEST_RETRY);
    else
        admin_answer(c);
}

/* Takes a request whose head is complete. */
static void request_begin(struct connection *c, size_t head_bytes)
{
    static struct caller caller;
    struct http_head head;
    msc4203_span path, query, parts[2], given;
    const char *method;
    size_t i;
    int kind;

    c->http.lingers = c->http.head_only = 0;
    c->kept = 0;
    if (!http_parse(&head, in_of(c), head_bytes, 0)) {
        c->http.keep_alive = 0;
        c->http.in_at = c->http.in_bytes;
        refuse_now(c, 400, "M_UNKNOWN", "not an HTTP request");
        return;
    }
    c->http.keep_alive = (uint8_t)head.keep_alive;
    c->http.head_only = msc4203_span_equal(&head.method, "HEAD") != 0;
    http_body_begin(&c->http.body, &head, 0);
    c->expects = head.expects && !c->continued && c->http.body.state != HTTP_BODY_DONE;
    path = query = head.target;
    for (i = 0; i < path.len && path.ptr[i] != '?'; i++)
        ;
    path.len = i;
    query.ptr += i < query.len ? i + 1 : i;
    query.len -= i < query.len ? i + 1 : i;
    kind = is_operator(c, &path) ? request_find_admin(path, parts, &method) : -1;
    if (kind < 0 && !c->admin)
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
    if (((kind >= REQUEST_STATUS && kind <= REQUEST_PARKED) || kind == REQUEST_SYNC) &&
        c->http.body.state != HTTP_BODY_DONE)
        c->http.lingers = 1; /* its body means nothing, and is not waited for */
    if (kind >= REQUEST_STATUS) {
        request_admin(c, &parts[0], &query);
        return;
    }
    if (!authorize(c, &head, &query, kind != REQUEST_PING, &caller))
        return;
    if (kind == REQUEST_PING) {
        request_ping(c, &parts[0], &caller);
    } else if (kind == REQUEST_SEND) {
        if (device_parameter(&query, &given) && !caller_device(c, &query, &caller))
            return;
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

#endif
