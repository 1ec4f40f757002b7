/* gateway_send.h - the body of a sendToDevice request: reads it piece by piece, puts its messages
 * into the queue, and takes all of it or nothing. */
#ifndef GATEWAY_SEND_H
#define GATEWAY_SEND_H

#include "gateway_admin.h"
#include "gateway_keys.h"

/* Whether a message that waits for /sync alone would take what is kept for appservices: the last
 * sixteenth of the places for devices, and the last eighth of the store, in bytes and in
 * messages. */
static int send_is_kept(const msc4203_message *message)
{
    msc4203_log_usage usage;
    msc4203_counts counts;
    msc4203_device device;

    if (message->channels != (uint32_t)1 << MSC4203_CHANNEL_SYNC)
        return 0;
    msc4203_log_usage_get(&g.log, &usage);
    if (usage.used > usage.capacity - usage.capacity / 8 ||
        usage.messages > usage.messages_max - usage.messages_max / 8)
        return 1;
    if (usage.devices < g.devices - g.devices / 16)
        return 0;
    device.user_id = message->item.user_id;
    device.device_id = message->item.device_id;
    return g.queue.count(g.queue.context, MSC4203_CHANNEL_SYNC, &device, &counts) != MSC4203_OK ||
           counts.messages == 0;
}

/* Counts a message: a request that is refused for lack of room is read on, to see whether there
 * could ever be room for it. */
static void send_count(struct slot *slot, const msc4203_message *message)
{
    uint64_t bytes = MESSAGE_BYTES + message->item.sender.len + message->item.type.len +
                     message->item.user_id.len + message->item.device_id.len +
                     message->item.content.len;
    msc4203_log_usage usage;
    int i;

    msc4203_log_usage_get(&g.log, &usage);
    slot->bytes += bytes;
    if (slot->bytes > usage.capacity || bytes > g.config->device_bytes_max ||
        slot->devices > g.devices || slot->devices > usage.messages_max)
        slot->never = 1;
    for (i = MSC4203_CHANNEL_FIRST; i < MSC4203_CHANNEL_PARKED; i++)
        if (message->channels >> i & 1) {
            slot->channel_bytes[i] += bytes;
            if (slot->channel_bytes[i] > g.config->appservice_bytes_max)
                slot->never = 1;
        }
}

/* A message has found no room. When nothing else has taken that, there never will be any. */
static void send_refused(struct slot *slot, const msc4203_message *message, int result)
{
    msc4203_log_usage usage;
    msc4203_counts counts;
    msc4203_device device;
    int i, alone = 1;

    slot->refused = result;
    g.queue.abort(g.queue.context, slot->batch);
    slot->batch = 0;
    for (i = 0; i < g.slot_count; i++)
        alone = alone && g.slots[i].batch == 0;
    device.user_id = message->item.user_id;
    device.device_id = message->item.device_id;
    msc4203_log_usage_get(&g.log, &usage);
    if (result == MSC4203_E_QUEUE_FULL) {
        alone = alone && usage.messages == 0 && (slot->bytes > usage.capacity / 4 * 3 ||
                                                slot->devices > usage.messages_max / 4 * 3);
    } else {
        alone = alone && g.queue.count(g.queue.context, MSC4203_CHANNEL_SYNC, &device, &counts) ==
                             MSC4203_OK && counts.messages == 0;
        for (i = MSC4203_CHANNEL_FIRST; i < MSC4203_CHANNEL_PARKED && alone; i++)
            if (message->channels >> i & 1)
                alone = g.queue.count(g.queue.context, (uint32_t)i, NULL, &counts) == MSC4203_OK &&
                        counts.messages == 0;
    }
    slot->never |= alone;
}

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
    if (result != MSC4203_OK)
        return result;
    send_count(slot, &message);
    if (slot->refused == MSC4203_OK) {
        result = send_is_kept(&message) ? MSC4203_E_QUEUE_FULL
                                        : g.queue.push(g.queue.context, slot->batch, &message);
        if (result == MSC4203_E_QUEUE_FULL || result == MSC4203_E_QUOTA) {
            send_refused(slot, &message, result);
            result = MSC4203_OK;
        }
    }
    return slot->never && slot->refused != MSC4203_OK ? MSC4203_E_TOO_LARGE : result;
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
        if (slot->starred && !*named && !g.config->devices[i].deleted && result == MSC4203_OK) {
            slot->devices++;
            result = send_push(slot, i, &content);
        }
        *named = 0;
    }
    slot->starred = 0;
    slot->user_bytes = 0;
    return result;
}

/* Begins with a user, who must not have been named before in this request. Returns a result. */
static int send_user_begins(struct slot *slot, const msc4203_span *user)
{
    int first = config_next_device(g.config, CONFIG_NONE, user);
    int result = send_user_ends(slot);
    uint16_t *seen;

    if (result != MSC4203_OK || first < 0 || user->len > sizeof slot->user)
        return result; /* nobody of ours */
    seen = &g.config->seen[(size_t)first * SLOTS_MAX + (size_t)(slot - g.slots)];
    if (*seen == slot->request)
        return MSC4203_E_FIELD_TWICE;
    *seen = slot->request;
    memcpy(slot->user, user->ptr, user->len);
    slot->user_bytes = user->len;
    return MSC4203_OK;
}

/* Takes one item of a request. Returns a result. */
static int send_item(struct slot *slot, const msc4203_item *item)
{
    unsigned char *named;
    int result = msc4203_item_error(item), i;

    if (result != MSC4203_OK)
        return result;
    if (item->content.len > CONTENT_MAX)
        return MSC4203_E_TOO_LARGE;
    if (slot->keys.users != slot->users) {
        slot->users = slot->keys.users;
        result = send_user_begins(slot, &item->user_id);
    }
    if (result != MSC4203_OK || slot->user_bytes == 0)
        return result;
    if (msc4203_span_equal(&item->device_id, "*")) {
        if (slot->starred)
            return MSC4203_E_FIELD_TWICE;
        slot->starred = 1;
        memcpy(slot->star, item->content.ptr, item->content.len);
        slot->star_bytes = item->content.len;
        return MSC4203_OK;
    }
    i = config_device_of(g.config, &item->user_id, &item->device_id);
    if (i < 0 || g.config->devices[i].deleted)
        return MSC4203_OK;
    named = &g.config->named[(size_t)i * SLOTS_MAX + (size_t)(slot - g.slots)];
    slot->devices += !*named;
    *named = 1;
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
    if (result == MSC4203_OK)
        result = slot->refused;
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
    uint64_t from = c->body_bytes;
    int result;

    c->body_bytes += piece->len;
    if (c->body_bytes > g.config->request_bytes_max) {
        send_end(c, MSC4203_E_TOO_LARGE);
        return;
    }
    msc4203_reader_feed(&slot->reader, piece->ptr, piece->len, last);
    while ((result = msc4203_reader_next(&slot->reader, &item)) == MSC4203_ITEM) {
        keys_look(&slot->keys, item->offset, piece->ptr, piece->len, from);
        result = send_item(slot, item);
        if (result != MSC4203_OK)
            break;
    }
    keys_look(&slot->keys, c->body_bytes, piece->ptr, piece->len, from);
    if ((result == MSC4203_MORE || result == MSC4203_END) && slot->keys.messages > 1)
        result = MSC4203_E_FIELD_TWICE;
    if (result != MSC4203_MORE)
        send_end(c, result);
}

/* The numbers of a slot's requests begin again. Returns the first. */
static uint16_t seen_clear(const struct slot *slot)
{
    int i;

    for (i = 0; i < g.config->device_count; i++)
        g.config->seen[(size_t)i * SLOTS_MAX + (size_t)(slot - g.slots)] = 0;
    return 1;
}

/* Begins to read a request's body, with a slot. */
static void send_begin(struct connection *c)
{
    struct slot *slot = &g.slots[c->slot];
    int result = g.queue.begin(g.queue.context, &slot->batch);

    slot->starred = 0;
    slot->user_bytes = 0;
    slot->users = 0;
    slot->refused = slot->never = 0;
    slot->devices = 0;
    slot->bytes = 0;
    memset(slot->channel_bytes, 0, sizeof slot->channel_bytes);
    keys_begin(&slot->keys);
    if (++slot->request == 0)
        slot->request = seen_clear(slot);
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

#endif
