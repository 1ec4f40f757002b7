/* gateway_delivery.h - the gateway's requests to appservices: transactions and pings. */
#ifndef GATEWAY_DELIVERY_H
#define GATEWAY_DELIVERY_H

#include "gateway_outgoing.h"

/* ---- transactions ---- */

static int transaction_source(void *context, uint64_t at, char *data, size_t room, size_t *got)
{
    struct channel *channel = (struct channel *)context;
    int result = msc4203_sender_read(&channel->sender, at, g.work, WORK_BYTES, data, room, got);

    if (result == MSC4203_E_STORAGE)
        storage_failed();
    return result == MSC4203_OK;
}

/* Why an attempt has failed. */
static void transaction_cause(const struct channel *channel, int status, char *text, size_t room)
{
    const char *hint = status == 401 || status == 403 ? ": is hs_token right?"
                       : status == 404 || status == 405 ? ": is the URL right?" : "";

    if (status == 0)
        snprintf(text, room, "%s", channel->out.why);
    else
        snprintf(text, room, "it answered %d%s", status, hint);
}

static void transaction_trace(void *context, int what, const msc4203_transaction *t, int status)
{
    struct channel *channel = (struct channel *)context;
    const msc4203_span *id;
    char cause[160];

    if (channel->appservice < 0)
        return;
    id = &g.config->appservices[channel->appservice].id;
    switch (what) {
    case MSC4203_TRACE_RESUMED:
        say(SAY_INFO, "%.*s: transaction %s is in flight from before", SPAN(id), t->id);
        break;
    case MSC4203_TRACE_DELIVERED:
        say_good(&channel->bad, "%.*s: delivers", SPAN(id));
        break;
    case MSC4203_TRACE_FAILED:
        transaction_cause(channel, status, cause, sizeof cause);
        memcpy(channel->last_error, cause, sizeof cause);
        say_bad(&channel->bad, SAY_WARNING, "%.*s: delivery fails, and is tried again: %s",
                SPAN(id), cause);
        break;
    case MSC4203_TRACE_SPLIT:
        say(SAY_INFO, "%.*s: transaction %s is too large for it: cut smaller", SPAN(id), t->id);
        break;
    case MSC4203_TRACE_PARKED:
        say(SAY_WARNING, "%.*s: a message was refused: parked", SPAN(id));
        break;
    case MSC4203_TRACE_SKIPPED:
        say(SAY_WARNING, "%.*s: transaction %s was given up: %lu messages", SPAN(id), t->id,
            (unsigned long)t->count);
        say_good(&channel->bad, "%.*s: goes on", SPAN(id));
        break;
    case MSC4203_TRACE_DAMAGED:
        say(SAY_WARNING, "%.*s: transaction %s is damaged in the store: made anew", SPAN(id),
            t->id);
        break;
    default:
        break;
    }
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

/* With which status an attempt has ended. A success whose answer did not come to its end is none,
 * for then nobody knows what happened; but where that is how it always answers, it must do, or the
 * same would be sent for ever. */
static int transaction_status(struct channel *channel, int done)
{
    struct outgoing *o = &channel->out;

    if (done <= 0 && o->status / 100 == 2) {
        if (++channel->halves < HALVES)
            return 0;
        if (channel->appservice >= 0)
            say(SAY_WARNING, "%.*s: answers %d, but never to the end (%s): taken as delivered",
                SPAN(&g.config->appservices[channel->appservice].id), o->status, o->why);
        done = 1;
    }
    channel->halves = 0;
    return done > 0 ? o->status : 0;
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

    if (channel->out.state > OUTGOING_OPEN) {
        done = outgoing_step(&channel->out, transaction_source, channel, NULL, 0, NULL);
        if (done == 0 && g.now - channel->out.began < SILENT_MS)
            return;
        if (done < 0 && channel->out.reused && !channel->out.have_head &&
            channel->out.got == 0 && channel->appservice >= 0) {
            /* The appservice had closed a connection that was idle: that is no failure. */
            char path[80];
            msc4203_sender_status status;
            msc4203_sender_status_get(&channel->sender, &status);
            memcpy(path, status.in_flight->path, sizeof path);
            if (outgoing_begin(&channel->out, channel->appservice, "PUT", path,
                               status.in_flight->bytes))
                return;
        }
        if (done == 0) {
            outgoing_close(&channel->out);
            outgoing_why(&channel->out, "no answer within 60 s", "");
        }
        transaction_result(channel, transaction_status(channel, done));
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
                        ping->answer_bytes < 30 || slot_take(c, 1) ? ping->answer_bytes : 30);
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

    if (ping->connection >= 0 || ping->out.state > OUTGOING_OPEN)
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

    if (ping->out.state <= OUTGOING_OPEN)
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
