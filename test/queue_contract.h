/* queue_contract.h - the contract test for every msc4203_queue, with a simple model beside it.
 *
 * To test a queue of your own: fill in a struct contract with the queue and a function that opens
 * it anew, call contract_begin(), then contract_run() with as many random operations as you like,
 * with test.h's seed. It counts with CHECK(). The queue must be empty at first, take messages of
 * 2,000 bytes, and remember 64 requests (with CONTRACT_SMALL 500 and 16); that it is full now and
 * then does no harm.
 *
 * The model is a list of messages. Because a storage may fail in the middle of a call, there are
 * several: one for each state in which the queue may be when it is opened again, from what the last
 * flush covered to the call that failed. contract_recover() finds out which one it is in. */
#ifndef QUEUE_CONTRACT_H
#define QUEUE_CONTRACT_H

#include "msc4203.h"
#include "test.h"

/* CONTRACT_SMALL: for machines with little memory, and a storage that loses nothing: 20 KiB instead
 * of 1.4 MiB. */
#ifdef CONTRACT_SMALL
enum {
    CONTRACT_MESSAGES = 36,
    CONTRACT_DEVICES = 6,
    CONTRACT_BATCHES = 2,
    CONTRACT_BATCH = 4,
    CONTRACT_REQUESTS = 16,
    CONTRACT_STATES = 3,
    CONTRACT_SIZE = 300, /* of contents, if nothing else is said */
    CONTRACT_LARGEST = 500, /* message that the queue must take */
    CONTRACT_RECORD = 300,
    CONTRACT_TEXT = 512
};
#else
enum {
    CONTRACT_MESSAGES = 600,
    CONTRACT_DEVICES = 12,
    CONTRACT_BATCHES = 3,
    CONTRACT_BATCH = 12,
    CONTRACT_REQUESTS = 64,
    CONTRACT_STATES = 48,
    CONTRACT_SIZE = 1200,
    CONTRACT_LARGEST = 2000,
    CONTRACT_RECORD = 600,
    CONTRACT_TEXT = 16384
};
#endif
enum { CONTRACT_CHANNELS = 5 }; /* /sync, three application services, parked */

/* The channels of the test, as numbers from 0 to 4. */
static const char *const contract_names[CONTRACT_CHANNELS] = {"", "irc", "xmpp", "signal", ""};

struct contract_message {
    uint64_t number; /* 0: committed by a call that failed, so not known */
    uint64_t time;
    uint32_t set, maybe; /* maybe: channels out of which it may have been taken */
    int for_sync;        /* it waits for /sync, or was delivered there */
    int dropped;         /* it is only there because it is in flight */
    uint32_t seed, size;
    int device;
};

struct contract_state {
    uint64_t held[CONTRACT_CHANNELS];
    uint32_t record_seed[CONTRACT_CHANNELS], record_size[CONTRACT_CHANNELS];
    unsigned named; /* set of the test's channels that have a name */
    uint32_t requests[CONTRACT_REQUESTS];
    size_t request_count;
    size_t count;
    struct contract_message messages[CONTRACT_MESSAGES]; /* last: only so many are copied */
};

struct contract_batch {
    uint32_t handle;
    size_t count;
    struct contract_message messages[CONTRACT_BATCH];
};

struct contract {
    msc4203_queue *queue;
    void *context;
    int (*reopen)(struct contract *contract, int crash); /* 0, or a result */

    /* what the operations are made of */
    unsigned channels, devices, size_max, full_percent;
    int failing;      /* calls may fail */
    int pinned;       /* device 0 never takes anything */

    /* the test's own */
    uint32_t real[CONTRACT_CHANNELS];
    struct contract_state now, states[CONTRACT_STATES];
    size_t state_count; /* states[0] is what the last flush covered */
    struct contract_batch batches[CONTRACT_BATCHES];
    uint64_t highest;   /* number ever seen */
    uint64_t settled;   /* numbers below were flushed */
    uint64_t newest, newest_kept, newest_flushed; /* times: of all that may be, or must be, there */
    uint64_t opening_first, opening_random;
    uint32_t seed;
    uint64_t time;
    char text[CONTRACT_TEXT], memory[CONTRACT_TEXT], ids[CONTRACT_DEVICES][2][32];
    const char *doing, *why;

    /* counters, of what a run has met */
    unsigned long operations, batches_kept, messages_kept, fulls, quotas, moves, repeats, taken,
        dropped, crashes, states_back, expired, held_count;
};

static TEST_UNUSED msc4203_span contract_span(const char *string)
{
    msc4203_span span;
    span.ptr = string;
    span.len = strlen(string);
    return span;
}

static TEST_UNUSED void contract_device(struct contract *c, int device, msc4203_device *out)
{
    out->user_id = contract_span(c->ids[device][0]);
    out->device_id = contract_span(c->ids[device][1]);
}

/* The content of a message, from its seed. */
static TEST_UNUSED size_t contract_text(char *text, uint32_t seed, uint32_t size)
{
    size_t n = (size_t)sprintf(text, "{\"n\":%lu,\"x\":\"", (unsigned long)seed);
    uint32_t x = seed * 2654435761u + 1;

    while (n + 2 < size) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        text[n++] = (char)('a' + (x >> 7) % 26);
    }
    text[n++] = '"';
    text[n++] = '}';
    return n;
}

static TEST_UNUSED void contract_request(uint32_t id, int device, msc4203_request *request)
{
    memset(request, 0, sizeof *request);
    request->who[0] = (uint8_t)(device + 1);
    request->who[7] = 0x42;
    request->what[0] = (uint8_t)id;
    request->what[1] = (uint8_t)(id >> 8);
    request->what[2] = (uint8_t)(id >> 16);
    request->what[7] = 0x17;
}

/* ---- the model ---- */

static TEST_UNUSED void contract_copy(struct contract_state *to, const struct contract_state *from)
{
    memcpy(to, from, offsetof(struct contract_state, messages) +
                         from->count * sizeof from->messages[0]);
}

static TEST_UNUSED void contract_forget_empty(struct contract_state *state)
{
    size_t i, kept = 0;
    for (i = 0; i < state->count; i++)
        if (state->messages[i].set != 0)
            state->messages[kept++] = state->messages[i];
    state->count = kept;
}

/* The queue may be in the present state from now on. */
static TEST_UNUSED void contract_save(struct contract *c)
{
    if (c->state_count == CONTRACT_STATES) /* more often than not it is one of the last */
        memmove(&c->states[1], &c->states[2], (CONTRACT_STATES - 2) * sizeof c->states[0]);
    else
        c->state_count++;
    contract_copy(&c->states[c->state_count - 1], &c->now);
}

static TEST_UNUSED void contract_flushed(struct contract *c)
{
    contract_copy(&c->states[0], &c->now);
    c->state_count = 1;
    c->settled = c->highest + 1;
    c->newest_flushed = c->newest_kept;
}

static TEST_UNUSED int contract_knows(const struct contract_state *state, uint32_t id)
{
    size_t i;
    for (i = 0; i < state->request_count; i++)
        if (state->requests[i] == id)
            return 1;
    return 0;
}

static TEST_UNUSED void contract_remember(struct contract_state *state, uint32_t id)
{
    if (id == 0)
        return;
    if (state->request_count == CONTRACT_REQUESTS) {
        memmove(state->requests, state->requests + 1, (CONTRACT_REQUESTS - 1) * sizeof id);
        state->request_count--;
    }
    state->requests[state->request_count++] = id;
}

/* The first visible message that waits for a channel. */
static TEST_UNUSED struct contract_message *contract_find(struct contract *c, unsigned channel,
                                                          int device, uint64_t after)
{
    struct contract_message *found = NULL;
    size_t i;

    for (i = 0; i < c->now.count; i++) {
        struct contract_message *m = &c->now.messages[i];
        if ((m->set >> channel & 1) != 0 && (channel != 0 || m->device == device) &&
            m->number > after && m->number < c->settled &&
            (found == NULL || m->number < found->number))
            found = m;
    }
    return found;
}

/* ---- looking at the queue ---- */

/* The test's set of channels as the queue has it, and back. */
static TEST_UNUSED uint32_t contract_real(const struct contract *c, uint32_t set)
{
    uint32_t real = 0;
    unsigned i;
    for (i = 0; i < CONTRACT_CHANNELS; i++)
        if (set >> i & 1)
            real |= (uint32_t)1 << c->real[i];
    return real;
}

static TEST_UNUSED int contract_same(const struct contract *c, const struct contract_message *m,
                                     const msc4203_message *got)
{
    static char text[CONTRACT_TEXT];
    size_t bytes = contract_text(text, m->seed, m->size);

    return got->item.content.len == bytes && memcmp(got->item.content.ptr, text, bytes) == 0 &&
           got->time_ms == m->time && msc4203_span_equal(&got->item.sender, "@sender:gw.example") &&
           msc4203_span_equal(&got->item.type, "m.room.encrypted") &&
           msc4203_span_equal(&got->item.user_id, c->ids[m->device][0]) &&
           msc4203_span_equal(&got->item.device_id, c->ids[m->device][1]);
}

/* Asks for the next message, and compares. Returns 0 when the queue failed. */
static TEST_UNUSED int contract_next(struct contract *c, unsigned channel, int device,
                                     uint64_t after, uint64_t *number)
{
    struct contract_message *m = contract_find(c, channel, device, after);
    msc4203_message got;
    msc4203_device who;
    int result;

    contract_device(c, device, &who);
    result = c->queue->next(c->queue->context, c->real[channel], channel == 0 ? &who : NULL, after,
                            c->memory, sizeof c->memory, &got);
    if (result == MSC4203_E_STORAGE && c->failing)
        return 0;
    *number = m != NULL ? m->number : 0;
    if (m == NULL)
        return CHECK_CASE(result == MSC4203_END, c->doing);
    if (!CHECK_CASE(result == MSC4203_ITEM, c->doing))
        return 0;
    CHECK_CASE(got.number == m->number, c->doing);
    CHECK_CASE(got.delivered == (m->for_sync && (m->set & 1) == 0), c->doing);
    if (!CHECK_CASE(got.channels == contract_real(c, m->set), c->doing))
        printf("  message %lu: %x, not %x\n", (unsigned long)m->number, (unsigned)got.channels,
               (unsigned)contract_real(c, m->set));
    return CHECK_CASE(contract_same(c, m, &got), c->doing);
}

/* Compares everything visible. */
static TEST_UNUSED void contract_compare(struct contract *c)
{
    uint64_t after, number;
    unsigned channel, device;

    for (channel = 0; channel < c->channels; channel++)
        for (device = 0; device < (channel == 0 ? c->devices : 1); device++)
            for (after = 0; contract_next(c, channel, (int)device, after, &number) && number != 0;)
                after = number;
}

/* Compares the counts; everything must be flushed. */
static TEST_UNUSED void contract_count(struct contract *c)
{
    msc4203_counts counts;
    unsigned channel;
    size_t i;

    CHECK(c->queue->count(c->queue->context, 0, NULL, &counts) == MSC4203_OK);
    if (!CHECK_CASE(counts.time_ms <= c->newest && counts.time_ms + 1023 >= c->newest_flushed,
                    c->doing))
        printf("  last time %lu, not from %lu to %lu\n", (unsigned long)counts.time_ms,
               (unsigned long)c->newest_flushed, (unsigned long)c->newest);
    CHECK_CASE(counts.through >= c->highest, c->doing);
    for (channel = 0; channel < c->channels; channel++) {
        uint64_t messages = 0, first = 0;

        for (i = 0; i < c->now.count; i++)
            if (c->now.messages[i].set >> channel & 1) {
                messages++;
                if (first == 0 || c->now.messages[i].number < first)
                    first = c->now.messages[i].number;
            }
        CHECK(c->queue->count(c->queue->context, c->real[channel], NULL, &counts) == MSC4203_OK);
        CHECK_CASE(counts.messages == messages, c->doing);
        CHECK_CASE(channel == 0 || counts.first == first, c->doing);
        if (!CHECK_CASE(channel == 0 || counts.through == c->now.held[channel], c->doing))
            printf("  channel %u: in flight to %lu, not %lu\n", channel,
                   (unsigned long)counts.through, (unsigned long)c->now.held[channel]);
    }
    for (i = 0; i < c->devices; i++) {
        msc4203_device who;
        uint64_t messages = 0, first = 0;
        size_t k;

        contract_device(c, (int)i, &who);
        for (k = 0; k < c->now.count; k++)
            if (c->now.messages[k].device == (int)i) {
                messages++;
                if ((c->now.messages[k].set & 1) != 0 &&
                    (first == 0 || c->now.messages[k].number < first))
                    first = c->now.messages[k].number;
            }
        CHECK(c->queue->count(c->queue->context, 0, &who, &counts) == MSC4203_OK);
        CHECK_CASE(counts.messages == messages && counts.first == first, c->doing);
    }
}

/* ---- after a failure ---- */

struct contract_seen {
    uint64_t number;
    uint32_t set, seed;
    int matched;
};

/* Reads all that the queue has. */
static TEST_UNUSED size_t contract_read(struct contract *c, struct contract_seen *seen)
{
    unsigned channel, device;
    size_t count = 0, i;
    msc4203_message got;

    for (channel = 0; channel < c->channels; channel++)
        for (device = 0; device < (channel == 0 ? c->devices : 1); device++) {
            uint64_t after = 0;
            int result;
            for (;;) {
                msc4203_device who;
                contract_device(c, (int)device, &who);
                result = c->queue->next(c->queue->context, c->real[channel],
                                        channel == 0 ? &who : NULL, after, c->memory,
                                        sizeof c->memory, &got);
                if (result != MSC4203_ITEM)
                    break;
                if (!CHECK_CASE(got.number > after, c->doing))
                    return count;
                after = got.number;
                for (i = 0; i < count && seen[i].number != got.number; i++)
                    ;
                if (i == count) {
                    if (!CHECK_CASE(count < CONTRACT_MESSAGES, c->doing))
                        return count;
                    seen[count].number = got.number;
                    seen[count].set = 0;
                    seen[count].matched = 0;
                    seen[count].seed = got.item.content.len > 5
                                           ? (uint32_t)strtoul(got.item.content.ptr + 5, NULL, 10)
                                           : 0;
                    count++;
                }
                seen[i].set |= (uint32_t)1 << channel;
                CHECK_CASE((got.channels >> c->real[channel] & 1) != 0, c->doing);
            }
            CHECK_CASE(result == MSC4203_END, c->doing);
        }
    return count;
}

/* Tells whether the queue can be in this state; fills in what was not known of it. */
static TEST_UNUSED int contract_fits(struct contract *c, struct contract_state *state,
                                     struct contract_seen *seen, size_t count)
{
    size_t i, k;

    for (k = 0; k < count; k++)
        seen[k].matched = 0;
    for (i = 0; i < state->count; i++) {
        struct contract_message *m = &state->messages[i];

        for (k = 0; k < count; k++)
            if (!seen[k].matched && (m->number != 0 ? seen[k].number == m->number
                                                    : seen[k].number > c->highest) &&
                seen[k].seed == m->seed)
                break;
        if (k == count) {
            if ((m->set & ~m->maybe) != 0)
                return 0;
            continue;
        }
        if ((seen[k].set & ~m->set) != 0 || (m->set & ~m->maybe & ~seen[k].set) != 0)
            return 0;
        seen[k].matched = 1;
    }
    for (k = 0; k < count; k++)
        if (!seen[k].matched)
            return 0;
    /* It is this one. */
    for (k = 0; k < count; k++)
        seen[k].matched = 0;
    for (i = 0; i < state->count; i++) {
        struct contract_message *m = &state->messages[i];
        for (k = 0; k < count; k++)
            if (!seen[k].matched && (m->number != 0 ? seen[k].number == m->number
                                                    : seen[k].number > c->highest) &&
                seen[k].seed == m->seed)
                break;
        m->maybe = 0;
        m->set = k < count ? seen[k].set : 0;
        if (k < count) {
            m->number = seen[k].number;
            seen[k].matched = 1;
        }
    }
    contract_forget_empty(state);
    return 1;
}

/* Tells whether the records and requests are those of this state. */
static TEST_UNUSED int contract_fits_records(struct contract *c, struct contract_state *state)
{
    unsigned channel;
    msc4203_span name, record;
    size_t i;

    for (channel = 1; channel < c->channels; channel++) {
        int result = c->queue->record(c->queue->context, c->real[channel], c->memory,
                                      sizeof c->memory, &name, &record);
        if (result == MSC4203_END) {
            if ((state->named >> channel & 1) != 0 || state->record_size[channel] != 0) {
                c->why = "a channel is not there";
                return 0;
            }
            continue;
        }
        c->why = "a channel's name";
        if (result != MSC4203_OK || (channel != 4 && (state->named >> channel & 1) == 0) ||
            !msc4203_span_equal(&name, contract_names[channel]))
            return 0;
        c->why = "a channel's record";
        contract_text(c->text, state->record_seed[channel], state->record_size[channel]);
        if (record.len != state->record_size[channel] ||
            memcmp(record.ptr, c->text, record.len) != 0)
            return 0;
    }
    c->why = "a request is not known";
    for (i = 0; i < state->request_count; i++) {
        msc4203_request request;
        if (state->requests[i] == 0)
            continue;
        contract_request(state->requests[i] >> 4, (int)(state->requests[i] & 15), &request);
        if (c->queue->known(c->queue->context, &request) != MSC4203_KNOWN)
            return 0;
    }
    return 1;
}

/* Tells whether the queue is in this state; makes `copy` what is known of it then. */
static TEST_UNUSED int contract_is(struct contract *c, const struct contract_state *state,
                                   struct contract_state *copy, struct contract_seen *seen,
                                   size_t count)
{
    contract_copy(copy, state);
    c->why = "messages";
    return contract_fits(c, copy, seen, count) && contract_fits_records(c, copy);
}

/* Where all that a device has is in flight, it can't be seen whether a drop was kept: drops again
 * what is dropped in c->now and not in this state, which fits as well. */
static TEST_UNUSED void contract_drop_again(struct contract *c, const struct contract_state *state)
{
    msc4203_device who;
    size_t i, k;

    for (i = 0; i < c->now.count; i++) {
        const struct contract_message *m = &c->now.messages[i];
        for (k = 0; k < state->count && state->messages[k].number != m->number; k++)
            ;
        if (!m->dropped || k == state->count || state->messages[k].dropped)
            continue;
        contract_device(c, m->device, &who);
        CHECK(c->queue->drop(c->queue->context, &who, NULL) == MSC4203_OK);
        CHECK(c->queue->flush(c->queue->context) == MSC4203_OK);
    }
}

/* The queue was opened anew after a failure: finds out in which state it is. */
static TEST_UNUSED void contract_recover(struct contract *c)
{
    static struct contract_seen seen[CONTRACT_MESSAGES];
    static struct contract_state copy;
    size_t count = contract_read(c, seen), i, k;
    uint64_t random, first;

    memset(c->batches, 0, sizeof c->batches);
    for (i = c->state_count; i-- != 0;) {
        if (contract_is(c, &c->states[i], &copy, seen, count)) {
            c->states_back += c->state_count - 1 - i;
            contract_copy(&c->now, &copy);
            break;
        }
    }
    for (k = i + 1; k-- > 1;)
        if (contract_is(c, &c->states[k - 1], &copy, seen, count))
            contract_drop_again(c, &copy);
    if (!CHECK_CASE(i != (size_t)-1, c->doing)) {
        printf("  no state fits (%s): %lu seen, %lu states, latest has %lu\n", c->why,
               (unsigned long)count,
               (unsigned long)c->state_count, (unsigned long)c->states[c->state_count - 1].count);
        for (i = 0; i < count; i++)
            printf("  seen %lu: set %x\n", (unsigned long)seen[i].number, (unsigned)seen[i].set);
        for (i = 0; i < c->now.count; i++)
            printf("  now %lu: set %x, device %d\n", (unsigned long)c->now.messages[i].number,
                   (unsigned)c->now.messages[i].set, c->now.messages[i].device);
        contract_copy(&c->now, &c->states[0]);
    }
    for (i = 0; i < c->now.count; i++)
        if (c->now.messages[i].number > c->highest)
            c->highest = c->now.messages[i].number;
    c->newest_kept = c->newest_flushed; /* at the least */
    CHECK(c->queue->opening(c->queue->context, 0, &random, &first) == MSC4203_OK);
    CHECK_CASE(first > c->highest, c->doing);
    CHECK(random != c->opening_random);
    c->opening_random = random;
    c->opening_first = first;
    contract_flushed(c);
}

/* Makes the channels that are not there. Returns 0, or what failed. */
static TEST_UNUSED int contract_channels(struct contract *c)
{
    unsigned i;

    c->real[0] = MSC4203_CHANNEL_SYNC;
    c->real[4] = MSC4203_CHANNEL_PARKED;
    for (i = 1; i < 4; i++) {
        msc4203_span name = contract_span(contract_names[i]);
        int result;

        if (i >= c->channels || (c->now.named >> i & 1) != 0)
            continue;
        c->now.named |= 1u << i;
        c->now.record_size[i] = 0;
        c->now.held[i] = 0;
        contract_save(c);
        result = c->queue->channel(c->queue->context, &name, 1, &c->real[i]);
        if (result == MSC4203_E_STORAGE)
            return result;
        CHECK_CASE(result == MSC4203_OK, c->doing);
    }
    return MSC4203_OK;
}

static TEST_UNUSED void contract_flush(struct contract *c);

static TEST_UNUSED void contract_reopen(struct contract *c, int crash)
{
    int result = c->reopen(c, crash);
    unsigned i;

    if (!CHECK_CASE(result == MSC4203_OK, msc4203_result_text(result)))
        exit(1);
    c->crashes += crash != 0;
    contract_recover(c);
    CHECK_CASE(contract_channels(c) == MSC4203_OK, c->doing);
    for (i = 1; i < c->channels; i++) { /* what is in flight is told by the queue */
        msc4203_counts counts;
        if (c->queue->count(c->queue->context, c->real[i], NULL, &counts) == MSC4203_OK)
            c->now.held[i] = counts.through;
    }
    contract_flush(c);
}

/* A call failed. */
static TEST_UNUSED int contract_failed(struct contract *c, int result)
{
    if (result != MSC4203_E_STORAGE)
        return 0;
    CHECK_CASE(c->failing, c->doing);
    contract_reopen(c, 1);
    return 1;
}

/* ---- the operations ---- */

static TEST_UNUSED void contract_open_batch(struct contract *c, struct contract_batch *b)
{
    int result = c->queue->begin(c->queue->context, &b->handle);
    b->count = 0;
    if (!contract_failed(c, result))
        CHECK_CASE(result == MSC4203_OK && b->handle != 0, c->doing);
}

/* Returns 0 when the batch is no longer open. */
static TEST_UNUSED int contract_push(struct contract *c, struct contract_batch *b)
{
    struct contract_message *m = &b->messages[b->count];
    msc4203_message message;
    unsigned sets = (1u << (c->channels < 4 ? c->channels : 4)) - 1;
    int result;

    memset(m, 0, sizeof *m);
    memset(&message, 0, sizeof message);
    m->seed = ++c->seed;
    m->device = (int)test_below(c->devices);
    m->size = (uint32_t)(24 + test_below(test_below(4) ? c->size_max / 8 : c->size_max));
    m->set = (uint32_t)(1 + test_below(sets));
    if (test_below(3)) /* mostly what servers have */
        m->set = test_below(2) ? 1 : 2 & sets ? 2 : 1;
    m->for_sync = (int)(m->set & 1);
    m->time = c->time;
    message.time_ms = m->time;
    message.channels = contract_real(c, m->set);
    message.item.sender = contract_span("@sender:gw.example");
    message.item.type = contract_span("m.room.encrypted");
    message.item.user_id = contract_span(c->ids[m->device][0]);
    message.item.device_id = contract_span(c->ids[m->device][1]);
    message.item.content.ptr = c->text;
    message.item.content.len = contract_text(c->text, m->seed, m->size);
    result = c->queue->push(c->queue->context, b->handle, &message);
    if (contract_failed(c, result))
        return 0;
    if (result == MSC4203_E_QUEUE_FULL || result == MSC4203_E_QUOTA || result == MSC4203_E_BATCH) {
        c->fulls += result == MSC4203_E_QUEUE_FULL;
        c->quotas += result == MSC4203_E_QUOTA;
        if (result == MSC4203_E_BATCH) {
            uint64_t first;
            CHECK(c->queue->commit(c->queue->context, b->handle, NULL, &first) == MSC4203_E_BATCH);
        } else {
            result = c->queue->abort(c->queue->context, b->handle);
            if (contract_failed(c, result))
                return 0;
            CHECK_CASE(result == MSC4203_OK, c->doing);
        }
        b->handle = 0;
        return 0;
    }
    if (!CHECK_CASE(result == MSC4203_OK, msc4203_result_text(result)))
        return 0;
    b->count++;
    return 1;
}

static TEST_UNUSED void contract_commit(struct contract *c, struct contract_batch *b)
{
    static struct contract_state before;
    uint32_t id = 0;
    msc4203_request request;
    uint64_t first = 0;
    size_t i, count = b->count;
    int result, known = 0;
    struct contract_batch batch = *b;

    contract_copy(&before, &c->now);
    if (test_below(4) != 0) {
        int sender = (int)test_below(c->devices);
        id = (uint32_t)(++c->seed << 4 | (unsigned)sender);
        if (test_below(4) == 0 && c->now.request_count != 0)
            id = c->now.requests[test_below(c->now.request_count)];
    }
    contract_request(id >> 4, (int)(id & 15), &request);
    known = id != 0 && contract_knows(&c->now, id);
    b->handle = 0;
    if (!known) {
        for (i = 0; i < count; i++)
            c->now.messages[c->now.count++] = batch.messages[i];
        contract_remember(&c->now, id);
    }
    result = c->queue->commit(c->queue->context, batch.handle, id != 0 ? &request : NULL, &first);
    for (i = 0; (result == MSC4203_OK || result == MSC4203_E_STORAGE) && i < count; i++) {
        if (batch.messages[i].time > c->newest)
            c->newest = batch.messages[i].time;
        if (result == MSC4203_OK && batch.messages[i].time > c->newest_kept)
            c->newest_kept = batch.messages[i].time;
    }
    if (result == MSC4203_OK && !known) {
        if (!CHECK_CASE(first > c->highest, c->doing))
            printf("  first %lu, not above %lu\n", (unsigned long)first,
                   (unsigned long)c->highest);
        for (i = 0; i < count; i++)
            c->now.messages[c->now.count - count + i].number = first + i;
        if (count != 0)
            c->highest = first + count - 1;
        c->batches_kept++;
        c->messages_kept += count;
        contract_save(c);
    } else if (result == MSC4203_E_STORAGE) {
        contract_save(c);
        contract_failed(c, result);
    } else {
        contract_copy(&c->now, &before);
        c->repeats += result == MSC4203_KNOWN;
        CHECK_CASE(known ? result == MSC4203_KNOWN
                         : result == MSC4203_E_BATCH || result == MSC4203_E_QUEUE_FULL,
                   c->doing);
    }
}

static TEST_UNUSED void contract_flush(struct contract *c)
{
    int result = c->queue->flush(c->queue->context);

    if (contract_failed(c, result))
        return;
    CHECK_CASE(result == MSC4203_OK, c->doing);
    contract_flushed(c);
}

/* The number of the first message of a device, waiting for /sync, that was accepted at `before` or
 * later. */
static TEST_UNUSED uint64_t contract_first_since(const struct contract *c, int device,
                                                 uint64_t before)
{
    uint64_t number = UINT64_MAX;
    size_t i;

    for (i = 0; i < c->now.count; i++) {
        const struct contract_message *m = &c->now.messages[i];
        if ((m->set & 1) != 0 && m->device == device && m->time >= before && m->number < number)
            number = m->number;
    }
    return number;
}

/* Takes a channel out of what the model has; `maybe` only marks it. */
static TEST_UNUSED void contract_take(struct contract *c, unsigned channel, int device,
                                      uint64_t through, uint64_t before, int maybe)
{
    size_t i;

    for (i = 0; i < c->now.count; i++) {
        struct contract_message *m = &c->now.messages[i];
        if ((m->set >> channel & 1) == 0 || m->number > through || m->number >= c->settled ||
            m->time >= before || (device >= 0 && m->device != device))
            continue;
        if (maybe)
            m->maybe |= 1u << channel;
        else
            m->set &= ~(1u << channel);
        c->taken += !maybe;
    }
    if (!maybe)
        contract_forget_empty(&c->now);
}

static TEST_UNUSED uint64_t contract_some_number(struct contract *c, unsigned channel, int device)
{
    uint64_t number = 0, after = 0;
    size_t steps = 1 + test_below(test_below(3) ? 8 : 60);
    struct contract_message *m;

    while (steps-- != 0 && (m = contract_find(c, channel, device, after)) != NULL)
        number = after = m->number;
    return test_below(40) == 0 ? number + 1000000000u : number;
}

static TEST_UNUSED msc4203_span contract_record(struct contract *c, unsigned channel)
{
    msc4203_span span;

    c->now.record_seed[channel] = ++c->seed;
    c->now.record_size[channel] = (uint32_t)(24 + test_below(test_below(4) ? 40 : CONTRACT_RECORD));
    span.len = contract_text(c->text, c->now.record_seed[channel], c->now.record_size[channel]);
    span.ptr = c->text;
    return span;
}

static TEST_UNUSED void contract_done(struct contract *c)
{
    static struct contract_state before;
    unsigned channel = (unsigned)test_below(c->channels);
    int device = (int)test_below(c->devices), result;
    uint64_t through = contract_some_number(c, channel, device);
    msc4203_device who;
    msc4203_span record, *given = NULL;

    contract_copy(&before, &c->now);
    if (channel == 0 && c->pinned && device == 0)
        return;
    contract_device(c, device, &who);
    if (channel != 0 && test_below(2)) {
        record = contract_record(c, channel);
        given = &record;
    }
    if (channel == 0) { /* it may be kept in part */
        contract_take(c, 0, device, through, UINT64_MAX, 1);
        contract_save(c);
        memcpy(c->now.messages, before.messages, sizeof before.messages);
        contract_take(c, 0, device, through, UINT64_MAX, 0);
    } else {
        contract_take(c, channel, -1, through, UINT64_MAX, 0);
    }
    contract_save(c);
    result = c->queue->done(c->queue->context, c->real[channel], channel == 0 ? &who : NULL,
                            through, given);
    if (!contract_failed(c, result))
        CHECK_CASE(result == MSC4203_OK, msc4203_result_text(result));
}

/* Takes out what is of a dropped device and not in flight. */
static TEST_UNUSED void contract_let_go(struct contract *c)
{
    unsigned channel;
    size_t i;

    for (i = 0; i < c->now.count; i++) {
        struct contract_message *m = &c->now.messages[i];
        for (channel = 0; channel < CONTRACT_CHANNELS; channel++)
            if (m->dropped && (channel == 0 || m->number > c->now.held[channel]))
                m->set &= ~(1u << channel);
    }
    contract_forget_empty(&c->now);
}

static TEST_UNUSED void contract_hold(struct contract *c)
{
    static struct contract_state before;
    unsigned channel = 1 + (unsigned)test_below(c->channels - 1);
    uint64_t through = contract_some_number(c, channel, 0);
    msc4203_span record = contract_record(c, channel);
    int result;

    contract_copy(&before, &c->now);
    if (through >= c->settled)
        through = c->settled - 1;
    c->now.held[channel] = through;
    contract_let_go(c);
    result = c->queue->hold(c->queue->context, c->real[channel], through, &record);
    c->held_count++;
    if (result == MSC4203_E_QUEUE_FULL) {
        contract_copy(&c->now, &before);
        c->fulls++;
        return;
    }
    contract_save(c);
    if (!contract_failed(c, result))
        CHECK_CASE(result == MSC4203_OK, c->doing);
}

static TEST_UNUSED void contract_move(struct contract *c)
{
    static struct contract_state before;
    unsigned channel = (unsigned)test_below(c->channels);
    int device = (int)test_below(c->devices), result;
    uint64_t number = contract_some_number(c, channel, device), moved;
    uint32_t to = test_below(4) ? 1u << test_below(c->channels) : 0;
    struct contract_message *m = NULL, copy;
    msc4203_device who;
    size_t i;

    contract_copy(&before, &c->now);
    if (channel == 0 && c->pinned && device == 0)
        return;
    for (i = 0; i < c->now.count; i++)
        if (c->now.messages[i].number == number && (c->now.messages[i].set >> channel & 1) != 0)
            m = &c->now.messages[i];
    contract_device(c, device, &who);
    if (m != NULL) {
        copy = *m;
        m->set &= ~(1u << channel);
        if (channel == 0)
            m->for_sync = 0;
        copy.set = to;
        copy.dropped = 0;
        copy.for_sync = (int)(to & 1);
        copy.number = 0;
        if (to != 0)
            c->now.messages[c->now.count++] = copy;
        contract_forget_empty(&c->now);
    }
    result = c->queue->move(c->queue->context, c->real[channel], channel == 0 ? &who : NULL,
                            number, contract_real(c, to), &moved);
    if (result == MSC4203_OK && m != NULL) {
        if (to != 0) {
            c->now.messages[c->now.count - 1].number = moved;
            CHECK_CASE(moved > c->highest, c->doing);
            c->highest = moved;
        }
        c->moves++;
        contract_save(c);
    } else if (result == MSC4203_E_STORAGE) {
        contract_save(c);
        contract_failed(c, result);
    } else {
        contract_copy(&c->now, &before);
        c->fulls += result == MSC4203_E_QUEUE_FULL;
        CHECK_CASE(result == MSC4203_E_QUEUE_FULL || (m == NULL && result == MSC4203_END),
                   msc4203_result_text(result));
    }
}

static TEST_UNUSED void contract_drop(struct contract *c)
{
    int device = (int)test_below(c->devices), result;
    msc4203_device who;
    msc4203_request request;
    uint32_t forgotten = 0;
    size_t i;

    if (c->pinned && device == 0)
        return;
    contract_flush(c); /* what is not visible yet may go or stay */
    contract_device(c, device, &who);
    contract_request(0, device, &request);
    /* the requests may be forgotten before the messages are */
    for (i = 0; i < c->now.request_count; i++)
        if ((c->now.requests[i] & 15) == (uint32_t)device && c->now.requests[i] != 0) {
            forgotten = c->now.requests[i];
            c->now.requests[i] = 0;
        }
    contract_save(c);
    for (i = 0; i < c->now.count; i++)
        c->now.messages[i].dropped |= c->now.messages[i].device == device;
    contract_let_go(c);
    contract_save(c);
    c->dropped++;
    result = c->queue->drop(c->queue->context, &who, request.who);
    if (contract_failed(c, result))
        return;
    CHECK_CASE(result == MSC4203_OK, c->doing);
    contract_request(forgotten >> 4, device, &request);
    if (forgotten != 0)
        CHECK_CASE(c->queue->known(c->queue->context, &request) != MSC4203_KNOWN, c->doing);
}

static TEST_UNUSED void contract_expire(struct contract *c)
{
    static struct contract_state before;
    uint64_t since = c->time > 50 ? c->time - 50 : 0, expired, through[CONTRACT_DEVICES];
    int result, device;

    memset(through, 0, sizeof through);
    contract_copy(&before, &c->now);
    if (c->pinned)
        return;
    for (device = 0; device < (int)c->devices; device++)
        through[device] = contract_first_since(c, device, since) - 1;
    for (device = 0; device < (int)c->devices; device++)
        contract_take(c, 0, device, through[device], since, 1);
    contract_save(c);
    memcpy(c->now.messages, before.messages, sizeof before.messages);
    for (device = 0; device < (int)c->devices; device++)
        contract_take(c, 0, device, through[device], since, 0);
    contract_save(c);
    result = c->queue->expire(c->queue->context, since, &expired);
    c->expired += (unsigned long)expired;
    if (!contract_failed(c, result))
        CHECK_CASE(result == MSC4203_OK, c->doing);
}

/* Gives a channel back, and takes it again. */
static TEST_UNUSED void contract_release(struct contract *c)
{
    unsigned channel = 1 + (unsigned)test_below(3);
    msc4203_span name = contract_span(contract_names[channel]);
    int result, waits = 0;
    size_t i;
    uint32_t real;

    if (channel >= c->channels)
        return;
    for (i = 0; i < CONTRACT_BATCHES; i++)
        if (c->batches[i].handle != 0)
            return;
    for (i = 0; i < c->now.count; i++)
        waits |= (c->now.messages[i].set >> channel & 1) != 0;
    CHECK_CASE(c->queue->channel(c->queue->context, &name, 0, &real) == MSC4203_OK ||
               c->failing, c->doing);
    if (waits) {
        result = c->queue->release(c->queue->context, c->real[channel]);
        if (!contract_failed(c, result))
            CHECK_CASE(result == MSC4203_E_BUSY, c->doing);
        return;
    }
    c->now.named &= ~(1u << channel);
    c->now.record_size[channel] = 0;
    contract_save(c);
    result = c->queue->release(c->queue->context, c->real[channel]);
    if (contract_failed(c, result))
        return;
    CHECK_CASE(result == MSC4203_OK, c->doing);
    contract_failed(c, contract_channels(c));
}

static TEST_UNUSED void contract_begin(struct contract *c)
{
    int i;
    uint64_t random, first;

    for (i = 0; i < CONTRACT_DEVICES; i++) {
        sprintf(c->ids[i][0], "@user%d:gw.example", i / 3);
        sprintf(c->ids[i][1], "DEVICE%d", i % 3 ? i : 0);
    }
    if (c->channels == 0)
        c->channels = CONTRACT_CHANNELS;
    if (c->devices == 0)
        c->devices = CONTRACT_DEVICES;
    if (c->size_max == 0)
        c->size_max = CONTRACT_SIZE;
    c->doing = "begin";
    c->settled = 1;
    c->time = 1000;
    memset(&c->now, 0, sizeof c->now);
    c->states[0] = c->now;
    c->state_count = 1;
    CHECK(c->queue->version == MSC4203_QUEUE_VERSION);
    CHECK(c->queue->opening(c->queue->context, 0, &random, &first) == MSC4203_OK);
    c->opening_random = random;
    c->opening_first = first;
    for (i = 0; i < CONTRACT_CHANNELS; i++)
        c->real[i] = (uint32_t)i;
    c->real[4] = MSC4203_CHANNEL_PARKED;
    contract_failed(c, contract_channels(c));
    contract_flush(c);
}

/* One random operation. */
static TEST_UNUSED void contract_step(struct contract *c)
{
    struct contract_batch *b = &c->batches[test_below(CONTRACT_BATCHES)];
    size_t waiting = c->now.count, which = test_below(100);
    uint64_t number;

    c->operations++;
    c->time += test_below(4);
    if (waiting > CONTRACT_MESSAGES - 4 * CONTRACT_BATCH && which < 45)
        which = 45 + which; /* the model is full */
    if (which < 45) {
        c->doing = "push";
        if (b->handle == 0)
            contract_open_batch(c, b);
        if (test_below(12) == 0) /* a large one */
            while (b->handle != 0 && b->count < CONTRACT_BATCH && contract_push(c, b))
                ;
        else if (b->handle != 0 && b->count < CONTRACT_BATCH && contract_push(c, b) &&
                 test_below(3) != 0)
            contract_commit(c, b);
        if (b->handle != 0 && b->count == CONTRACT_BATCH)
            contract_commit(c, b);
    } else if (which < 50 && b->handle != 0) {
        c->doing = "abort";
        if (!contract_failed(c, c->queue->abort(c->queue->context, b->handle)))
            b->handle = 0;
    } else if (which < 62) {
        c->doing = "flush";
        contract_flush(c);
    } else if (which < 76) {
        c->doing = "done";
        contract_done(c);
    } else if (which < 82) {
        c->doing = "hold";
        contract_hold(c);
    } else if (which < 88) {
        c->doing = "move";
        contract_move(c);
    } else if (which < 90) {
        c->doing = "drop";
        contract_drop(c);
    } else if (which < 91) {
        c->doing = "expire";
        contract_expire(c);
    } else if (which < 93) {
        c->doing = "release";
        contract_release(c);
    } else {
        c->doing = "next";
        if (!contract_next(c, (unsigned)test_below(c->channels), (int)test_below(c->devices),
                           test_below(2) ? 0 : c->settled / 2, &number) && c->failing)
            contract_failed(c, MSC4203_E_STORAGE);
    }
}

/* As many random operations; `reopen_each` of them from one opening to the next, 0 for never. */
static TEST_UNUSED void contract_run(struct contract *c, unsigned long operations,
                                     unsigned long reopen_each)
{
    unsigned long i, before = test_failed;

    for (i = 1; i <= operations && test_failed == before; i++) {
        contract_step(c);
        if (i % 64 == 0) {
            c->doing = "compare";
            contract_compare(c);
        }
        if (reopen_each != 0 && i % reopen_each == 0) {
            c->doing = "reopen";
            contract_flush(c);
            contract_count(c);
            contract_reopen(c, 0);
            contract_count(c);
        }
    }
    c->doing = "the end";
    contract_flush(c);
    contract_compare(c);
    contract_count(c);
}

/* Takes all out, what is the newest by far too: its time stays. For the end. */
static TEST_UNUSED void contract_last_time(struct contract *c)
{
    struct contract_batch *b = &c->batches[0];
    msc4203_device who;
    unsigned i;

    c->doing = "last time";
    c->time += 100000;
    if (b->handle == 0)
        contract_open_batch(c, b);
    if (b->count == CONTRACT_BATCH || contract_push(c, b))
        contract_commit(c, b);
    contract_flush(c);
    for (i = 1; i < c->channels; i++) {
        contract_take(c, i, -1, UINT64_MAX, UINT64_MAX, 0);
        CHECK(c->queue->done(c->queue->context, c->real[i], NULL, UINT64_MAX, NULL) == MSC4203_OK);
    }
    for (i = 0; i < c->devices; i++) {
        contract_device(c, (int)i, &who);
        contract_take(c, 0, (int)i, UINT64_MAX, UINT64_MAX, 0);
        CHECK(c->queue->done(c->queue->context, 0, &who, UINT64_MAX, NULL) == MSC4203_OK);
    }
    CHECK(c->now.count == 0);
    contract_flush(c);
    contract_count(c);
    contract_reopen(c, 0);
    contract_count(c);
}

#endif
