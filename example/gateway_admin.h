/* gateway_admin.h - what the gateway tells its operator, and does for one: /status, /metrics, and
 * what is to become of messages that an appservice refused, or of a transaction that it never
 * takes. */
#ifndef GATEWAY_ADMIN_H
#define GATEWAY_ADMIN_H

#include "gateway_delivery.h"

enum {
    PARKED_LIST = 100,       /* told at a time */
    PARKED_TEXT = 255,       /* of an event type */
    PARKED_ENTRY = 12288     /* more than one takes */
};

/* What is known of an appservice's delivery. */
static void status_of(int appservice, msc4203_counts *counts, msc4203_sender_status *status)
{
    uint32_t number = g.services[appservice].channel;

    memset(counts, 0, sizeof *counts);
    memset(status, 0, sizeof *status);
    if (number == 0)
        return;
    g.queue.count(g.queue.context, number, NULL, counts);
    if (g.channels[number].started)
        msc4203_sender_status_get(&g.channels[number].sender, status);
}

static uint64_t count_of(uint32_t channel)
{
    msc4203_counts counts;

    memset(&counts, 0, sizeof counts);
    g.queue.count(g.queue.context, channel, NULL, &counts);
    return counts.messages;
}

/* ---- /status ---- */

static size_t status_appservice(char *to, size_t at, int i)
{
    const struct channel *channel = &g.channels[g.services[i].channel];
    msc4203_sender_status status;
    msc4203_counts counts;

    status_of(i, &counts, &status);
    at = add_text(to, at, i != 0 ? ",{\"id\":" : "{\"id\":");
    at = add_string(to, at, g.config->appservices[i].id.ptr, g.config->appservices[i].id.len);
    at += (size_t)sprintf(to + at, ",\"pending\":%llu,\"in_flight\":",
                          (unsigned long long)counts.messages);
    if (status.in_flight != NULL)
        at = add_string(to, at, status.in_flight->id, strlen(status.in_flight->id));
    else
        at = add_text(to, at, "null");
    at = add_text(to, at, ",\"failing_since_ms\":");
    if (status.failing_since_ms != 0)
        at += (size_t)sprintf(to + at, "%llu", (unsigned long long)status.failing_since_ms);
    else
        at = add_text(to, at, "null");
    at += (size_t)sprintf(to + at, ",\"attempts\":%lu,\"delivered\":%llu,\"parked\":%llu,"
                                   "\"last_status\":%d,\"last_error\":",
                          (unsigned long)status.attempts, (unsigned long long)status.delivered,
                          (unsigned long long)status.parked, status.last_status);
    if (channel->last_error[0] != 0 && status.failing_since_ms != 0)
        at = add_string(to, at, channel->last_error, strlen(channel->last_error));
    else
        at = add_text(to, at, "null");
    return add_text(to, at, "}");
}

static size_t status_text(char *to)
{
    msc4203_log_usage usage;
    size_t at;
    int i;

    msc4203_log_usage_get(&g.log, &usage);
    at = (size_t)sprintf(
        to, "{\"queued\":%llu,\"queued_max\":%llu,\"bytes_used\":%llu,"
            "\"bytes_capacity\":%llu,\"bytes_free\":%llu,\"sync_pending\":%llu,"
            "\"parked\":%llu,\"damaged\":%llu,\"devices\":%llu,\"devices_max\":%lu,"
            "\"connections\":%d,\"store_error\":",
        (unsigned long long)usage.messages, (unsigned long long)usage.messages_max,
        (unsigned long long)usage.used,
        (unsigned long long)usage.capacity, (unsigned long long)(usage.capacity - usage.used),
        (unsigned long long)count_of(MSC4203_CHANNEL_SYNC),
        (unsigned long long)count_of(MSC4203_CHANNEL_PARKED), (unsigned long long)usage.damaged,
        (unsigned long long)usage.devices, (unsigned long)g.devices, g.used);
    if (g.failed)
        at = add_string(to, at, g.store_why, strlen(g.store_why));
    else
        at = add_text(to, at, "null");
    at = add_text(to, at, ",\"appservices\":[");
    for (i = 0; i < g.config->appservice_count; i++)
        at = status_appservice(to, at, i);
    return add_text(to, at, "]}");
}

/* ---- /metrics: Prometheus' text format ---- */

static size_t metric_head(char *to, size_t at, const char *name, const char *type,
                          const char *help)
{
    return at + (size_t)sprintf(to + at, "# HELP gateway_%s %s\n# TYPE gateway_%s %s\n", name,
                                help, name, type);
}

static size_t metric(char *to, size_t at, const char *name, const char *type, uint64_t value,
                     const char *help)
{
    at = metric_head(to, at, name, type, help);
    return at + (size_t)sprintf(to + at, "gateway_%s %llu\n", name, (unsigned long long)value);
}

enum metric_value {
    METRIC_PENDING, METRIC_IN_FLIGHT, METRIC_FAILING, METRIC_ATTEMPTS, METRIC_DELIVERED,
    METRIC_PARKED, METRIC_TRANSACTIONS, METRIC_FAILURES, METRIC_BYTES, METRIC_STATUS, METRICS
};

static uint64_t metric_value(int what, const msc4203_counts *counts,
                             const msc4203_sender_status *status)
{
    switch (what) {
    case METRIC_PENDING: return counts->messages;
    case METRIC_IN_FLIGHT: return status->in_flight != NULL;
    case METRIC_FAILING: return status->failing_since_ms / 1000;
    case METRIC_ATTEMPTS: return status->attempts;
    case METRIC_DELIVERED: return status->delivered;
    case METRIC_PARKED: return status->parked;
    case METRIC_TRANSACTIONS: return status->transactions;
    case METRIC_FAILURES: return status->failures;
    case METRIC_BYTES: return status->bytes;
    default: return (uint64_t)status->last_status;
    }
}

static size_t metrics_of_appservices(char *to, size_t at)
{
    static const char *const texts[METRICS][3] = {
        {"pending", "gauge", "Messages that wait for it, in flight or not"},
        {"in_flight", "gauge", "Whether a transaction is in flight"},
        {"failing_since_seconds", "gauge", "When the failing transaction was made; 0: none fails"},
        {"attempts", "gauge", "Attempts of the failing transaction"},
        {"delivered_total", "counter", "Messages that it has acknowledged"},
        {"parked_total", "counter", "Messages that it refused"},
        {"transactions_total", "counter", "Transactions that it has acknowledged"},
        {"failures_total", "counter", "Attempts that failed"},
        {"delivered_bytes_total", "counter", "Bytes of acknowledged transactions"},
        {"last_status", "gauge", "HTTP status of the last attempt; 0: there was no answer"}};
    msc4203_sender_status status;
    msc4203_counts counts;
    char name[48];
    int what, i;
    size_t n;

    for (what = 0; what < METRICS; what++) {
        sprintf(name, "appservice_%s", texts[what][0]);
        at = metric_head(to, at, name, texts[what][1], texts[what][2]);
        for (i = 0; i < g.config->appservice_count; i++) {
            const msc4203_span *id = &g.config->appservices[i].id;
            status_of(i, &counts, &status);
            at += (size_t)sprintf(to + at, "gateway_%s{appservice=\"", name);
            for (n = 0; n < id->len; n++) {
                if (id->ptr[n] == '"' || id->ptr[n] == '\\')
                    to[at++] = '\\';
                to[at++] = id->ptr[n];
            }
            at += (size_t)sprintf(to + at, "\"} %llu\n",
                                  (unsigned long long)metric_value(what, &counts, &status));
        }
    }
    return at;
}

static size_t metrics_text(char *to)
{
    msc4203_log_usage usage;
    size_t at = 0;

    msc4203_log_usage_get(&g.log, &usage);
    at = metric(to, at, "queued", "gauge", usage.messages, "Messages in the store");
    at = metric(to, at, "queued_max", "gauge", usage.messages_max, "Messages that can be in it");
    at = metric(to, at, "store_used_bytes", "gauge", usage.used, "Bytes that messages take");
    at = metric(to, at, "store_capacity_bytes", "gauge", usage.capacity,
                "Bytes that messages can take");
    at = metric(to, at, "store_damaged_total", "counter", usage.damaged,
                "Records that could not be read");
    at = metric(to, at, "store_failed", "gauge", (uint64_t)g.failed,
                "Whether the store has failed, and nothing is accepted");
    at = metric(to, at, "devices", "gauge", usage.devices, "Devices with waiting messages");
    at = metric(to, at, "devices_max", "gauge", g.devices, "Devices that can have some");
    at = metric(to, at, "sync_pending", "gauge", count_of(MSC4203_CHANNEL_SYNC),
                "Messages that wait for a /sync");
    at = metric(to, at, "parked", "gauge", count_of(MSC4203_CHANNEL_PARKED),
                "Messages that an appservice refused, and that wait for an operator");
    at = metric(to, at, "connections", "gauge", (uint64_t)g.used, "Clients' connections");
    return metrics_of_appservices(to, at);
}

/* ---- parked messages ---- */

/* Whose a parked message was: the channel's record has lines of 12 hexadecimal digits, a space and
 * a name. The record is in `memory`. Returns 0 when it does not tell. */
static int parked_name(uint64_t number, char *memory, size_t bytes, msc4203_span *name)
{
    msc4203_span record = {NULL, 0};
    char digits[16];
    size_t at = 0, end;

    if (g.queue.record(g.queue.context, MSC4203_CHANNEL_PARKED, memory, bytes, NULL, &record) !=
        MSC4203_OK)
        return 0;
    sprintf(digits, "%012llx", (unsigned long long)number);
    for (; at < record.len; at = end + 1) {
        for (end = at; end < record.len && record.ptr[end] != '\n'; end++)
            ;
        if (end - at > 13 && memcmp(record.ptr + at, digits, 12) == 0) {
            name->ptr = record.ptr + at + 13;
            name->len = end - at - 13;
            return 1;
        }
    }
    return 0;
}

static size_t parked_entry(char *to, size_t at, const msc4203_message *message)
{
    static char memory[8192];
    const msc4203_item *item = &message->item;
    msc4203_span name;

    at += (size_t)sprintf(to + at, "{\"number\":%llu,\"time_ms\":%llu,\"appservice\":",
                          (unsigned long long)message->number,
                          (unsigned long long)message->time_ms);
    if (parked_name(message->number, memory, sizeof memory, &name))
        at = add_string(to, at, name.ptr, name.len);
    else
        at = add_text(to, at, "null");
    at = add_string(to, add_text(to, at, ",\"sender\":"), item->sender.ptr, item->sender.len);
    at = add_string(to, add_text(to, at, ",\"user_id\":"), item->user_id.ptr, item->user_id.len);
    at = add_string(to, add_text(to, at, ",\"device_id\":"), item->device_id.ptr,
                    item->device_id.len);
    at = add_string(to, add_text(to, at, ",\"type\":"), item->type.ptr,
                    item->type.len < PARKED_TEXT ? item->type.len : (size_t)PARKED_TEXT);
    return at + (size_t)sprintf(to + at, ",\"content_bytes\":%llu}",
                                (unsigned long long)item->content.len);
}

/* Those with numbers above `after`; `next` is for the next request, when there are more. */
static size_t parked_text(char *to, uint64_t after)
{
    msc4203_message message;
    size_t at = add_text(to, 0, "{\"parked\":[");
    int count = 0, result;

    for (;;) {
        memset(&message, 0, sizeof message);
        result = g.queue.next(g.queue.context, MSC4203_CHANNEL_PARKED, NULL, after, g.work,
                              WORK_BYTES, &message);
        if (result == MSC4203_E_DAMAGED && message.number > after) {
            after = message.number;
            continue;
        }
        if (result != MSC4203_ITEM)
            return add_text(to, at, "],\"next\":null}");
        if (count == PARKED_LIST || at > SLOT_BYTES - PARKED_ENTRY - 512)
            return at + (size_t)sprintf(to + at, "],\"next\":%llu}", (unsigned long long)after);
        if (count++ != 0)
            at = add_text(to, at, ",");
        at = parked_entry(to, at, &message);
        after = message.number;
    }
}

/* Where a parked message goes when it is tried again: to the appservice that refused it, and if
 * that is not known any more to those that get what its device gets now. Returns a result. */
static int parked_channels(uint64_t number, uint32_t *channels)
{
    msc4203_message message;
    msc4203_device device;
    msc4203_span name;
    uint32_t channel;
    int result;

    if (parked_name(number, g.work, WORK_BYTES, &name) &&
        g.queue.channel(g.queue.context, &name, 0, &channel) == MSC4203_OK) {
        *channels = (uint32_t)1 << channel;
        return MSC4203_OK;
    }
    result = g.queue.next(g.queue.context, MSC4203_CHANNEL_PARKED, NULL, number - 1, g.work,
                          WORK_BYTES, &message);
    if (result == MSC4203_END || (result == MSC4203_ITEM && message.number != number))
        return MSC4203_END;
    if (result != MSC4203_ITEM)
        return result;
    device.user_id = message.item.user_id;
    device.device_id = message.item.device_id;
    *channels = route(NULL, &device);
    return MSC4203_OK;
}

/* Sends a parked message again, or drops it. */
static void parked_move(struct connection *c, uint64_t number, int retry)
{
    uint32_t channels = 0;
    int result = g.failed ? MSC4203_E_STORAGE : number == 0 ? MSC4203_END : MSC4203_OK;

    if (result == MSC4203_OK && retry)
        result = parked_channels(number, &channels);
    if (result == MSC4203_OK)
        result = g.queue.move(g.queue.context, MSC4203_CHANNEL_PARKED, NULL, number, channels,
                              NULL);
    if (result == MSC4203_END) {
        refuse(c, 404, "M_NOT_FOUND", "no message is parked under this number");
    } else if (result != MSC4203_OK) {
        refuse_result(c, result);
    } else {
        say(SAY_INFO, "parked message %llu: %s", (unsigned long long)number,
            retry ? "tried again" : "dropped");
        g.news = 1;
        committed(c);
    }
}

/* Gives up the transaction that is in flight. */
static void skip_answer(struct connection *c, const msc4203_span *id)
{
    int i = config_appservice_by(g.config, id, 0), result;
    uint32_t number = i >= 0 ? g.services[i].channel : 0;
    struct channel *channel = &g.channels[number];

    if (i < 0) {
        refuse(c, 404, "M_NOT_FOUND", "no such appservice");
        return;
    }
    if (g.failed) {
        refuse(c, 500, "M_UNKNOWN", "the store failed");
        return;
    }
    if (number != 0 && channel->out.state > OUTGOING_OPEN) {
        outgoing_close(&channel->out);
        outgoing_why(&channel->out, "it was given up", "");
        transaction_result(channel, 0);
    }
    result = number != 0 && channel->started ? msc4203_sender_skip(&channel->sender)
                                             : MSC4203_E_USAGE;
    if (result == MSC4203_E_USAGE) {
        refuse(c, 409, "M_UNKNOWN", "no transaction is in flight");
    } else if (result != MSC4203_OK) {
        refuse_result(c, result);
    } else {
        channel->next_poll = 0;
        g.news = 1;
        committed(c);
    }
}

/* ---- answering ---- */

/* Answers a question that needs a slot for the answer. */
static void admin_answer(struct connection *c)
{
    size_t bytes;

    if (c->slot < 0 && !slot_take(c, 1)) {
        wait_in(c, CONNECTION_STATUS_SLOT);
        c->ready = 1;
        return;
    }
    c->http.plain = c->kind == REQUEST_METRICS;
    if (c->kind == REQUEST_METRICS)
        bytes = metrics_text(g.response);
    else if (c->kind == REQUEST_PARKED)
        bytes = parked_text(g.response, c->after);
    else
        bytes = status_text(g.response);
    answer_body(c, 200, g.response, bytes);
    c->http.plain = 0;
}

#endif
