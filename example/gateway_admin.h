/* gateway_admin.h - what the gateway tells its operator. */
#ifndef GATEWAY_ADMIN_H
#define GATEWAY_ADMIN_H

#include "gateway_delivery.h"

/* ---- /status ---- */

static void status_answer(struct connection *c)
{
    msc4203_log_usage usage;
    msc4203_counts counts;
    msc4203_sender_status status;
    char *to = g.response;
    size_t at;
    int i;

    if (c->slot < 0 && !slot_take(c, 1)) {
        wait_in(c, CONNECTION_STATUS_SLOT);
        c->ready = 1;
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

#endif
