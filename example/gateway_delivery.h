/* gateway_delivery.h - the gateway's requests to appservices: transactions and pings. */
#ifndef GATEWAY_DELIVERY_H
#define GATEWAY_DELIVERY_H

#include "gateway_answers.h"

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

#endif
