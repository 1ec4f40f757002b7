/* test_edges.c - the log where nothing goes well: wrong arguments, each storage call failing in
 * each operation, damage while it is in use, forged headers and records, limits. */
#include "queue_contract.h"

/* ---- a log over a storage that can fail ---- */

struct edge {
    unsigned char *region, *kept;
    size_t bytes;
    msc4203_storage storage;
    unsigned long calls, fail_at; /* fail_at: the call that fails; 0 none */
    msc4203_log log;
    msc4203_queue queue;
    msc4203_log_config config;
    void *index;
    size_t index_bytes;
    uint64_t openings;
};

static int edge_fails(struct edge *e, uint64_t at, size_t bytes)
{
    if (at > e->bytes || bytes > e->bytes - at) {
        CHECK(!"within the region");
        return 1;
    }
    return ++e->calls == e->fail_at;
}

static int edge_read(void *context, uint64_t at, void *data, size_t bytes)
{
    struct edge *e = (struct edge *)context;

    if (edge_fails(e, at, bytes))
        return -1;
    memcpy(data, e->region + at, bytes);
    return 0;
}

static int edge_write(void *context, uint64_t at, const void *data, size_t bytes)
{
    struct edge *e = (struct edge *)context;

    if (edge_fails(e, at, bytes))
        return -1;
    memcpy(e->region + at, data, bytes);
    return 0;
}

static int edge_sync(void *context)
{
    return edge_fails((struct edge *)context, 0, 0) ? -1 : 0;
}

static int edge_open(struct edge *e)
{
    int result = msc4203_log_open(&e->log, &e->storage, e->index, e->index_bytes,
                                  0xABCDEF0000u + ++e->openings);

    msc4203_log_queue(&e->log, &e->queue);
    return result;
}

static void edge_init(struct edge *e, size_t bytes)
{
    memset(e, 0, sizeof *e);
    e->bytes = bytes;
    e->region = (unsigned char *)calloc(bytes, 1);
    e->kept = (unsigned char *)malloc(bytes);
    e->storage.version = 1;
    e->storage.context = e;
    e->storage.bytes = bytes;
    e->storage.read = edge_read;
    e->storage.write = edge_write;
    e->storage.sync = edge_sync;
    e->config.devices = 6;
    e->config.requests = 20;
    e->config.openings = 3;
    e->config.message_bytes = 1000;
    e->index_bytes = msc4203_log_memory(&e->log, &e->config, bytes);
    e->index = malloc(e->index_bytes);
    if (e->region == NULL || e->kept == NULL || e->index == NULL)
        exit(2);
    CHECK(msc4203_log_format(&e->log, &e->storage, &e->config, 0x1122334455667788u) == MSC4203_OK);
    CHECK(edge_open(e) == MSC4203_OK);
}

static void edge_free(struct edge *e)
{
    free(e->region);
    free(e->kept);
    free(e->index);
}

static void edge_keep(struct edge *e)
{
    memcpy(e->kept, e->region, e->bytes);
}

static void edge_back(struct edge *e)
{
    memcpy(e->region, e->kept, e->bytes);
}

static uint32_t edge_room(const struct edge *e)
{
    return e->log.priv.units - (e->log.priv.end - e->log.priv.safe);
}

/* ---- messages that tell what they are ---- */

static void edge_device(unsigned device, msc4203_device *who)
{
    static const char *const names[] = {"A", "B", "C", "D", "E", "F", "G"};

    who->user_id = contract_span("@u:x");
    who->device_id = contract_span(names[device]);
}

static void edge_message(unsigned device, uint32_t channels, uint32_t seed, size_t size,
                         msc4203_message *message)
{
    static char text[4096];
    msc4203_device who;

    edge_device(device, &who);
    memset(message, 0, sizeof *message);
    message->channels = channels;
    message->time_ms = 1000 + seed;
    message->item.sender = contract_span("@s:x");
    message->item.type = contract_span("m.t");
    message->item.user_id = who.user_id;
    message->item.device_id = who.device_id;
    message->item.content.ptr = text;
    message->item.content.len = contract_text(text, seed, (uint32_t)size);
}

static int edge_is_whole(const msc4203_message *got)
{
    static char text[4096];
    uint32_t seed;

    if (got->item.content.len < 24 || memcmp(got->item.content.ptr, "{\"n\":", 5) != 0)
        return 0;
    seed = (uint32_t)strtoul(got->item.content.ptr + 5, NULL, 10);
    return contract_text(text, seed, (uint32_t)got->item.content.len) == got->item.content.len &&
           memcmp(text, got->item.content.ptr, got->item.content.len) == 0 &&
           got->time_ms == 1000 + seed;
}

static int edge_push(struct edge *e, unsigned device, uint32_t channels, uint32_t seed,
                     size_t size, uint64_t *first)
{
    msc4203_message message;
    uint32_t batch;
    uint64_t number;
    int result = e->queue.begin(&e->log, &batch);

    if (result != MSC4203_OK)
        return result;
    edge_message(device, channels, seed, size, &message);
    result = e->queue.push(&e->log, batch, &message);
    if (result != MSC4203_OK) {
        e->queue.abort(&e->log, batch);
        return result;
    }
    return e->queue.commit(&e->log, batch, NULL, first != NULL ? first : &number);
}

static int edge_next(struct edge *e, uint32_t channel, unsigned device, uint64_t after,
                     msc4203_message *got)
{
    static char memory[8192];
    msc4203_device who;

    edge_device(device, &who);
    return e->queue.next(&e->log, channel, channel == 0 ? &who : NULL, after, memory,
                         sizeof memory, got);
}

/* All that a queue holds, as text. */
static void edge_dump(struct edge *e, char *text, size_t bytes)
{
    static char memory[8192];
    msc4203_message got;
    msc4203_span name, record;
    uint32_t channel;
    unsigned device;
    size_t n = 0;

    for (channel = 0; channel < MSC4203_CHANNELS; channel++) {
        for (device = 0; device < (channel == 0 ? 6 : 1); device++) {
            uint64_t after = 0;
            int result;

            while ((result = edge_next(e, channel, device, after, &got)) == MSC4203_ITEM &&
                   n + 200 < bytes) {
                CHECK(got.number > after && edge_is_whole(&got));
                after = got.number;
                n += (size_t)sprintf(text + n, "%u/%u: %lu %lx %lu\n", (unsigned)channel, device,
                                     (unsigned long)got.number, (unsigned long)got.channels,
                                     (unsigned long)got.time_ms);
            }
            CHECK(result == MSC4203_END);
        }
        if (channel != 0 && e->queue.record(&e->log, channel, memory, sizeof memory, &name,
                                            &record) == MSC4203_OK)
            n += (size_t)sprintf(text + n, "%u: %.*s %.*s\n", (unsigned)channel, (int)name.len,
                                 name.ptr, (int)record.len, record.ptr);
    }
    text[n] = 0;
}

/* ---- each call fails in each operation ---- */

static msc4203_request edge_request(unsigned who, unsigned what)
{
    msc4203_request request;

    memset(&request, 0, sizeof request);
    request.who[0] = (uint8_t)who;
    request.what[3] = (uint8_t)what;
    return request;
}

enum {
    OP_PUSH, OP_BATCH, OP_EMPTY, OP_HOLD, OP_DONE, OP_DONE_RECORD, OP_SYNC, OP_MOVE, OP_MOVE_ALL,
    OP_MOVE_SYNC, OP_MOVE_OUT, OP_DROP, OP_EXPIRE, OP_CHANNEL, OP_RELEASE, OP_CLOSE, OP_NEXT,
    OP_COUNT, OP_RECORD, OP_FIND, OP_KNOWN, OP_REPEAT, OP_OPEN, OPS
};

/* Whether an operation changes nothing, so that it can be tried again. */
static int op_is_reading(int op)
{
    return op == OP_NEXT || op == OP_COUNT || op == OP_RECORD;
}

static int op_run(struct edge *e, int op, uint64_t number, uint64_t second)
{
    static char memory[8192];
    msc4203_span record = contract_span("a new record"), name = contract_span("new");
    msc4203_request request = edge_request(1, 1), fresh = edge_request(9, 9);
    msc4203_message message;
    msc4203_counts counts;
    msc4203_device who;
    uint64_t moved;
    uint32_t batch = 0, channel;
    msc4203_queue *q = &e->queue;
    void *c = &e->log;
    int result;

    edge_device(0, &who);
    switch (op) {
    case OP_PUSH:
        return edge_push(e, 4, 3, 900, 600, NULL);
    case OP_BATCH:
        result = q->begin(c, &batch);
        for (channel = 0; channel < 3 && result == MSC4203_OK; channel++) {
            edge_message(channel, 6, 901 + channel, 100, &message);
            result = q->push(c, batch, &message);
        }
        return result == MSC4203_OK ? q->commit(c, batch, &fresh, &moved) : result;
    case OP_EMPTY:
        result = q->begin(c, &batch);
        return result == MSC4203_OK ? q->commit(c, batch, &fresh, &moved) : result;
    case OP_HOLD:
        return q->hold(c, 1, number, &record);
    case OP_DONE:
        return q->done(c, 1, NULL, number, NULL);
    case OP_DONE_RECORD:
        return q->done(c, 1, NULL, number, &record);
    case OP_SYNC:
        return q->done(c, 0, &who, number, NULL);
    case OP_MOVE:
        return q->move(c, 1, NULL, number, 4, &moved);
    case OP_MOVE_ALL:
        return q->move(c, 1, NULL, second, 1, &moved);
    case OP_MOVE_SYNC:
        return q->move(c, 0, &who, number, 8, NULL);
    case OP_MOVE_OUT:
        return q->move(c, 1, NULL, second, 0, &moved);
    case OP_DROP:
        return q->drop(c, &who, request.who);
    case OP_EXPIRE:
        return q->expire(c, 1000 + 2, NULL);
    case OP_CHANNEL:
        return q->channel(c, &name, 1, &channel);
    case OP_RELEASE:
        return q->release(c, 3);
    case OP_CLOSE:
        return msc4203_log_close(&e->log);
    case OP_NEXT:
        result = edge_next(e, 1, 0, number, &message);
        return result == MSC4203_ITEM ? MSC4203_OK : result;
    case OP_COUNT:
        return q->count(c, 1, NULL, &counts);
    case OP_RECORD:
        return q->record(c, 1, memory, sizeof memory, NULL, &record);
    case OP_FIND:
        name = contract_span("one");
        return q->channel(c, &name, 0, &channel);
    case OP_KNOWN:
        return q->known(c, &request) == MSC4203_KNOWN ? MSC4203_OK : MSC4203_E_STORAGE;
    case OP_REPEAT:
        result = q->begin(c, &batch);
        return result != MSC4203_OK                                      ? result
               : q->commit(c, batch, &request, &moved) == MSC4203_KNOWN ? MSC4203_OK
                                                                         : MSC4203_E_STORAGE;
    default:
        return edge_open(e);
    }
}

/* A log with some of everything. *number waits for channel 1 and A's /sync, *second for 1 alone. */
static void ops_fill(struct edge *e, int worn, uint64_t *number, uint64_t *second)
{
    static const char *const names[] = {"one", "two", "three"};
    msc4203_span record = contract_span("the record");
    msc4203_message got;
    msc4203_request request;
    uint32_t channel, batch, seed;
    uint64_t first;
    unsigned i;

    for (i = 0; i < 3; i++) {
        msc4203_span name = contract_span(names[i]);
        CHECK(e->queue.channel(&e->log, &name, 1, &channel) == MSC4203_OK && channel == i + 1);
    }
    CHECK(edge_push(e, 0, 3, 1, 100, number) == MSC4203_OK);
    CHECK(edge_push(e, 1, 2, 2, 100, second) == MSC4203_OK);
    CHECK(edge_push(e, 0, 7, 3, 100, NULL) == MSC4203_OK);
    CHECK(edge_push(e, 2, 6, 4, 100, NULL) == MSC4203_OK);
    for (i = 0; i < 50; i++)
        CHECK(edge_push(e, 3, 4, 5 + i, 30, NULL) == MSC4203_OK);
    for (i = 0; i < 5; i++) {
        request = edge_request(1, 1 + i);
        CHECK(e->queue.begin(&e->log, &batch) == MSC4203_OK &&
              e->queue.commit(&e->log, batch, &request, &first) == MSC4203_OK);
    }
    CHECK(e->queue.hold(&e->log, 2, 0, &record) == MSC4203_OK);
    CHECK(e->queue.hold(&e->log, 1, 0, &record) == MSC4203_OK);
    CHECK(e->queue.flush(&e->log) == MSC4203_OK);
    if (!worn)
        return;
    for (seed = 100; edge_room(e) > 1450 && seed < 1000; seed++) { /* push() makes room later */
        CHECK(edge_push(e, 5, (uint32_t)1 << MSC4203_CHANNEL_PARKED, seed, 60, &first) ==
              MSC4203_OK);
        CHECK(e->queue.flush(&e->log) == MSC4203_OK);
        CHECK(e->queue.done(&e->log, MSC4203_CHANNEL_PARKED, NULL, first, NULL) == MSC4203_OK);
    }
    while (edge_room(e) >= 656) { /* which is what done() wants, and whoever needs no more */
        if (!CHECK(edge_next(e, 2, 0, *second + 2, &got) == MSC4203_ITEM))
            break;
        CHECK(e->queue.done(&e->log, 2, NULL, got.number, NULL) == MSC4203_OK);
        CHECK(e->queue.flush(&e->log) == MSC4203_OK);
    }
}

/* After a call has failed, the log is as it was before the operation, or as after it. */
static void test_each_call(void)
{
    static struct edge e;
    static char before[8192], after[8192], now[8192];
    uint64_t number = 0, second = 0;
    unsigned long call, runs = 0;
    int worn, op, result;

    for (worn = 0; worn < 2; worn++) {
        edge_init(&e, 32 * 1024);
        ops_fill(&e, worn, &number, &second);
        edge_keep(&e);
        for (op = 0; op < OPS; op++) {
            unsigned long failed = test_failed;

            edge_back(&e);
            CHECK(edge_open(&e) == MSC4203_OK);
            edge_dump(&e, before, sizeof before);
            CHECK(op_run(&e, op, number, second) == MSC4203_OK);
            if (op != OP_CLOSE)
                CHECK(e.queue.flush(&e.log) == MSC4203_OK);
            CHECK(edge_open(&e) == MSC4203_OK);
            edge_dump(&e, after, sizeof after);
            for (call = 1;; call++, runs++) {
                edge_back(&e);
                e.fail_at = 0;
                CHECK(edge_open(&e) == MSC4203_OK);
                e.fail_at = e.calls + call;
                result = op_run(&e, op, number, second);
                if (e.calls < e.fail_at) {
                    CHECK(result == MSC4203_OK);
                    break;
                }
                CHECK(result == MSC4203_E_STORAGE || op == OP_FIND);
                if (op_is_reading(op)) {
                    CHECK(op_run(&e, op, number, second) == MSC4203_OK);
                    continue;
                }
                CHECK(e.queue.flush(&e.log) == MSC4203_E_STORAGE);
                CHECK(edge_open(&e) == MSC4203_OK);
                edge_dump(&e, now, sizeof now);
                CHECK(strcmp(now, before) == 0 || strcmp(now, after) == 0);
                CHECK(e.log.priv.damaged == 0);
                if (test_failed != failed) {
                    printf("  worn %d, operation %d, call %lu\n", worn, op, call);
                    failed = test_failed;
                }
            }
            e.fail_at = 0;
        }
        edge_free(&e);
    }
    printf("each call: %lu runs\n", runs);
}

/* ---- wrong arguments, and a log that has failed ---- */

static void test_refused(void)
{
    static struct edge e;
    msc4203_span name = contract_span("x"), record = contract_span("r");
    msc4203_request request = edge_request(1, 1);
    msc4203_message message;
    msc4203_counts counts;
    msc4203_device who;
    msc4203_queue *q = &e.queue;
    void *c = &e.log;
    uint64_t number, random, first;
    uint32_t batch, channel;
    char memory[100];

    edge_init(&e, 32 * 1024);
    edge_device(0, &who);
    edge_message(0, 2, 1, 50, &message);
    CHECK(q->begin(c, &batch) == MSC4203_OK);
    CHECK(msc4203_log_close(&e.log) == MSC4203_OK);
    CHECK(msc4203_log_close(&e.log) == MSC4203_E_STORAGE);
    CHECK(q->push(c, batch, &message) == MSC4203_E_STORAGE);
    CHECK(q->commit(c, batch, NULL, &number) == MSC4203_E_STORAGE);
    CHECK(q->abort(c, batch) == MSC4203_E_STORAGE);
    CHECK(q->begin(c, &batch) == MSC4203_E_STORAGE);
    CHECK(q->known(c, &request) == MSC4203_E_STORAGE);
    CHECK(q->flush(c) == MSC4203_E_STORAGE);
    CHECK(q->next(c, 1, NULL, 0, memory, sizeof memory, &message) == MSC4203_E_STORAGE);
    CHECK(q->done(c, 1, NULL, 1, NULL) == MSC4203_E_STORAGE);
    CHECK(q->hold(c, 1, 1, &record) == MSC4203_E_STORAGE);
    CHECK(q->move(c, 1, NULL, 1, 2, &number) == MSC4203_E_STORAGE);
    CHECK(q->drop(c, &who, NULL) == MSC4203_E_STORAGE);
    CHECK(q->expire(c, 1, &number) == MSC4203_E_STORAGE);
    CHECK(q->channel(c, &name, 1, &channel) == MSC4203_E_STORAGE);
    CHECK(q->release(c, 1) == MSC4203_E_STORAGE);
    CHECK(q->record(c, 1, memory, sizeof memory, &name, &record) == MSC4203_E_STORAGE);
    CHECK(q->count(c, 1, NULL, &counts) == MSC4203_E_STORAGE);
    CHECK(q->count(c, 0, &who, &counts) == MSC4203_E_STORAGE);
    CHECK(q->opening(c, 0, &random, &first) == MSC4203_OK); /* which is in memory */
    CHECK(edge_open(&e) == MSC4203_OK);
    edge_free(&e);
}

static void test_arguments(void)
{
    static struct edge e;
    static char text[5000], memory[8192];
    msc4203_span name = contract_span("one"), record = contract_span("r"), long_name;
    msc4203_message message, got;
    msc4203_counts counts;
    msc4203_device who, nobody;
    msc4203_queue *q = &e.queue;
    void *c = &e.log;
    uint64_t number, moved;
    uint32_t batch, other, channel;

    edge_init(&e, 64 * 1024);
    edge_device(0, &who);
    edge_device(1, &nobody);
    memset(text, 'x', sizeof text);
    CHECK(q->channel(c, &name, 0, &channel) == MSC4203_END);
    CHECK(q->channel(c, &name, 1, &channel) == MSC4203_OK && channel == 1);
    long_name.ptr = text;
    long_name.len = 256;
    CHECK(q->channel(c, &long_name, 1, &channel) == MSC4203_E_USAGE);
    long_name.len = 0;
    CHECK(q->channel(c, &long_name, 1, &channel) == MSC4203_E_USAGE);
    /* batches */
    CHECK(q->begin(c, &batch) == MSC4203_OK);
    edge_message(0, 0, 1, 50, &message);
    CHECK(q->push(c, batch, &message) == MSC4203_E_USAGE);
    message.channels = 2;
    CHECK(q->push(c, 0, &message) == MSC4203_E_USAGE);
    CHECK(q->push(c, 33, &message) == MSC4203_E_USAGE);
    CHECK(q->push(c, batch + 1, &message) == MSC4203_E_BATCH);
    CHECK(q->commit(c, 33, NULL, &number) == MSC4203_E_USAGE);
    CHECK(q->commit(c, batch + 1, NULL, &number) == MSC4203_E_BATCH);
    CHECK(q->abort(c, 33) == MSC4203_E_USAGE);
    CHECK(q->abort(c, batch + 1) == MSC4203_E_USAGE);
    message.item.content.len = 1001;
    CHECK(q->push(c, batch, &message) == MSC4203_E_TOO_LARGE);
    message.item.content.len = 989; /* with the ids of 12 bytes, one too many */
    CHECK(q->push(c, batch, &message) == MSC4203_E_TOO_LARGE);
    message.item.content.len = 988;
    CHECK(q->push(c, batch, &message) == MSC4203_OK);
    CHECK(q->commit(c, batch, NULL, &number) == MSC4203_OK);
    CHECK(q->push(c, batch, &message) == MSC4203_E_BATCH);
    /* numbers that are not visible */
    CHECK(edge_next(&e, 1, 0, 0, &got) == MSC4203_END);
    CHECK(q->move(c, 1, NULL, number, 4, &moved) == MSC4203_END && moved == 0);
    CHECK(q->done(c, 1, NULL, number, NULL) == MSC4203_OK);
    CHECK(q->hold(c, 1, number, &record) == MSC4203_OK);
    CHECK(q->flush(c) == MSC4203_OK);
    CHECK(q->count(c, 1, NULL, &counts) == MSC4203_OK && counts.messages == 1 &&
          counts.first == number && counts.through < number);
    /* next */
    CHECK(q->next(c, 1, NULL, 0, memory, 999, &got) == MSC4203_E_TOO_LARGE && got.bytes == 1000 &&
          got.number == number);
    CHECK(q->next(c, 1, NULL, 0, memory, 1000, &got) == MSC4203_ITEM && got.number == number);
    CHECK(q->next(c, 1, &who, 0, memory, 1000, &got) == MSC4203_E_USAGE);
    CHECK(q->next(c, 0, NULL, 0, memory, 1000, &got) == MSC4203_E_USAGE);
    CHECK(q->next(c, 32, NULL, 0, memory, 1000, &got) == MSC4203_E_USAGE);
    CHECK(q->next(c, 0, &nobody, 0, memory, 1000, &got) == MSC4203_END);
    /* done, hold, move */
    CHECK(q->done(c, 32, NULL, number, NULL) == MSC4203_E_USAGE);
    CHECK(q->done(c, 0, NULL, number, NULL) == MSC4203_E_USAGE);
    CHECK(q->done(c, 0, &who, number, &record) == MSC4203_E_USAGE);
    CHECK(q->done(c, 0, &nobody, number, NULL) == MSC4203_OK);
    record.ptr = text;
    record.len = 1001; /* a small log's records are as its messages */
    CHECK(q->done(c, 1, NULL, number, &record) == MSC4203_E_TOO_LARGE);
    CHECK(q->hold(c, 1, number, &record) == MSC4203_E_TOO_LARGE);
    CHECK(q->hold(c, 0, number, &record) == MSC4203_E_USAGE);
    CHECK(q->hold(c, 32, number, &record) == MSC4203_E_USAGE);
    CHECK(q->move(c, 32, NULL, number, 4, NULL) == MSC4203_E_USAGE);
    CHECK(q->move(c, 1, NULL, 0, 4, NULL) == MSC4203_END);
    CHECK(q->move(c, 1, NULL, number - 1, 4, NULL) == MSC4203_END);
    CHECK(q->move(c, 1, NULL, number + 1, 4, NULL) == MSC4203_END);
    CHECK(q->move(c, 0, &nobody, number, 4, NULL) == MSC4203_END);
    CHECK(q->move(c, 0, &who, number, 4, NULL) == MSC4203_END);
    CHECK(q->drop(c, &nobody, NULL) == MSC4203_OK);
    /* records */
    CHECK(q->record(c, 0, memory, 1000, NULL, NULL) == MSC4203_E_USAGE);
    CHECK(q->record(c, 32, memory, 1000, NULL, NULL) == MSC4203_E_USAGE);
    CHECK(q->record(c, 2, memory, 1000, NULL, NULL) == MSC4203_END);
    CHECK(q->record(c, 1, memory, 3, NULL, NULL) == MSC4203_E_TOO_LARGE);
    CHECK(q->record(c, 1, memory, 4, NULL, NULL) == MSC4203_OK);
    /* release */
    CHECK(q->release(c, 0) == MSC4203_E_USAGE);
    CHECK(q->release(c, 32) == MSC4203_E_USAGE);
    CHECK(q->release(c, 1) == MSC4203_E_BUSY);
    CHECK(q->done(c, 1, NULL, number, NULL) == MSC4203_OK);
    CHECK(q->begin(c, &other) == MSC4203_OK);
    CHECK(q->push(c, other, &message) == MSC4203_OK);
    CHECK(q->release(c, 1) == MSC4203_E_BUSY); /* it may wait yet */
    CHECK(q->abort(c, other) == MSC4203_OK);
    CHECK(q->release(c, 1) == MSC4203_OK);
    CHECK(q->record(c, 1, memory, sizeof memory, NULL, NULL) == MSC4203_END);
    CHECK(q->count(c, 32, NULL, &counts) == MSC4203_E_USAGE);
    CHECK(q->count(c, 0, &nobody, &counts) == MSC4203_OK && counts.messages == 0);
    edge_free(&e);
}

/* ---- limits ---- */

static void test_limits(void)
{
    static struct edge e;
    static char text[5000], memory[8192];
    msc4203_log_config config, full;
    msc4203_message message, got;
    msc4203_log_usage usage;
    msc4203_counts counts;
    msc4203_queue *q = &e.queue;
    msc4203_span name, record;
    msc4203_device who;
    msc4203_log log;
    void *c = &e.log;
    uint64_t random, first, number, moved, last;
    uint32_t batches[33], channel, i;

    /* layouts */
    memset(&config, 0, sizeof config);
    CHECK(msc4203_log_memory(&log, NULL, 1000) == 0);
    CHECK(msc4203_log_memory(&log, NULL, 100000) == 0); /* 1,024 devices do not fit */
    CHECK(msc4203_log_memory(&log, NULL, 1 << 20) != 0);
    CHECK(msc4203_log_memory(&log, &config, 1 << 20) ==
          msc4203_log_memory(&log, NULL, 1 << 20));
    CHECK(msc4203_log_memory(&log, NULL, (uint64_t)8 << 30) != 0);
    CHECK(msc4203_log_memory(&log, NULL, (uint64_t)9 << 30) == 0);
    CHECK(msc4203_log_memory(&log, NULL, (uint64_t)1 << 60) == 0);
    for (i = 0; i < 4; i++) {
        memset(&full, 0, sizeof full);
        *(i == 0   ? &full.devices
          : i == 1 ? &full.requests
          : i == 2 ? &full.openings
                   : &full.message_bytes) = (1 << (i == 3 ? 26 : 24)) + 1;
        CHECK(msc4203_log_memory(&log, &full, (uint64_t)4 << 30) == 0);
    }
    edge_init(&e, 32 * 1024);
    /* openings: three are remembered, the first two were before there were as many */
    CHECK(q->opening(c, 0, &random, &first) == MSC4203_OK && random == 0xABCDEF0001u);
    CHECK(q->opening(c, 1, &random, &first) == MSC4203_END);
    CHECK(q->opening(c, 3, &random, &first) == MSC4203_END);
    for (i = 0; i < 4; i++) {
        last = first;
        CHECK(edge_open(&e) == MSC4203_OK);
        CHECK(q->opening(c, 0, &random, &first) == MSC4203_OK && first > last &&
              random == 0xABCDEF0002u + i);
        CHECK(q->opening(c, 1, &random, &first) == MSC4203_OK && random == 0xABCDEF0001u + i);
        CHECK(q->opening(c, 2, &random, &first) == (i > 0 ? MSC4203_OK : MSC4203_END));
        CHECK(i == 0 || random == 0xABCDEF0000u + i);
        CHECK(q->opening(c, 3, &random, &first) == MSC4203_END);
        CHECK(q->opening(c, 0, &random, &first) == MSC4203_OK);
    }
    /* open batches */
    for (i = 0; i < 32; i++) {
        CHECK(q->begin(c, &batches[i]) == MSC4203_OK && batches[i] != 0);
        CHECK(i == 0 || batches[i] != batches[i - 1]);
    }
    CHECK(q->begin(c, &batches[32]) == MSC4203_E_QUEUE_FULL);
    edge_message(0, 2, 1, 40, &message);
    for (i = 0; i < 32; i++)
        CHECK(q->push(c, batches[i], &message) == MSC4203_OK);
    CHECK(q->abort(c, batches[5]) == MSC4203_OK);
    CHECK(q->begin(c, &batches[5]) == MSC4203_OK);
    for (i = 0, last = 0; i < 32; i++, last = number) {
        CHECK(q->commit(c, batches[i], NULL, &number) == MSC4203_OK);
        CHECK(i == 0 || (number > last && number <= last + 1) || i == 6);
    }
    CHECK(q->flush(c) == MSC4203_OK);
    CHECK(q->count(c, 1, NULL, &counts) == MSC4203_OK && counts.messages == 31);
    msc4203_log_usage_get(&e.log, &usage);
    CHECK(usage.messages == 31 && usage.devices == 1 && usage.damaged == 0 &&
          usage.used >= 31 * (76 + 40 + 12) && usage.used < usage.capacity &&
          usage.capacity < e.bytes);
    CHECK(q->done(c, 1, NULL, UINT64_MAX, NULL) == MSC4203_OK);
    msc4203_log_usage_get(&e.log, &usage);
    CHECK(usage.messages == 0 && usage.devices == 0 && usage.used == 0);
    /* devices: one that only an open batch speaks of counts as well */
    for (i = 0; i < 6; i++)
        CHECK(edge_push(&e, i, 1, 10 + i, 40, NULL) == MSC4203_OK);
    CHECK(edge_push(&e, 6, 1, 20, 40, NULL) == MSC4203_E_QUEUE_FULL);
    CHECK(q->flush(c) == MSC4203_OK);
    edge_device(0, &who);
    CHECK(q->drop(c, &who, NULL) == MSC4203_OK);
    CHECK(edge_push(&e, 6, 1, 21, 40, &number) == MSC4203_OK);
    CHECK(edge_push(&e, 0, 1, 22, 40, NULL) == MSC4203_E_QUEUE_FULL);
    /* numbers that were given out since the last flush: as if there were a million */
    CHECK(q->flush(c) == MSC4203_OK);
    e.log.priv.settled -= (1 << 20) - 2;
    CHECK(edge_push(&e, 6, 1, 23, 40, NULL) == MSC4203_OK);
    CHECK(edge_push(&e, 6, 1, 24, 40, NULL) == MSC4203_E_QUEUE_FULL);
    e.log.priv.settled--;
    edge_device(6, &who);
    CHECK(q->move(c, 0, &who, number, 2, &moved) == MSC4203_E_QUEUE_FULL && moved == 0);
    CHECK(q->flush(c) == MSC4203_OK);
    CHECK(q->move(c, 0, &who, number, 2, &moved) == MSC4203_OK && moved > number);
    CHECK(q->flush(c) == MSC4203_OK);
    CHECK(edge_next(&e, 1, 0, 0, &got) == MSC4203_ITEM && got.number == moved);
    edge_free(&e);
    /* channels and records, of the greatest size */
    edge_init(&e, 512 * 1024);
    e.config.message_bytes = 6000;
    CHECK(msc4203_log_format(&e.log, &e.storage, &e.config, 7) == MSC4203_OK);
    CHECK(edge_open(&e) == MSC4203_OK);
    memset(text, 'n', sizeof text);
    name.ptr = text;
    name.len = 255;
    record.ptr = text + 255;
    record.len = 4097;
    CHECK(edge_push(&e, 0, 1 << 2, 1, 40, &number) == MSC4203_OK);
    CHECK(q->begin(c, &batches[0]) == MSC4203_OK);
    edge_message(0, 1 << 3, 1, 40, &message);
    CHECK(q->push(c, batches[0], &message) == MSC4203_OK);
    for (i = 1; i < 29; i++) { /* not those for which something waits, or may yet */
        text[0] = (char)('A' + i);
        CHECK(q->channel(c, &name, 1, &channel) == MSC4203_OK && channel == i + 2 * (i > 1));
        text[255] = (char)('a' + i);
        record.len = 4097;
        CHECK(q->hold(c, channel, 0, &record) == MSC4203_E_TOO_LARGE);
        CHECK(q->done(c, channel, NULL, 0, &record) == MSC4203_E_TOO_LARGE);
        record.len = 4096;
        CHECK(q->hold(c, channel, 0, &record) == MSC4203_OK);
    }
    text[0] = '0';
    CHECK(q->channel(c, &name, 1, &channel) == MSC4203_E_QUEUE_FULL);
    CHECK(q->channel(c, &name, 0, &channel) == MSC4203_END);
    CHECK(msc4203_log_close(&e.log) == MSC4203_OK && edge_open(&e) == MSC4203_OK);
    for (i = 1; i < 29; i++) {
        text[0] = (char)('A' + i);
        name.ptr = text;
        CHECK(q->channel(c, &name, 0, &channel) == MSC4203_OK && channel == i + 2 * (i > 1));
        CHECK(q->record(c, channel, memory, 4351 - 1, NULL, NULL) == MSC4203_E_TOO_LARGE);
        CHECK(q->record(c, channel, memory, 4351, &name, &record) == MSC4203_OK);
        CHECK(name.len == 255 && memcmp(name.ptr, text, 255) == 0);
        CHECK(record.len == 4096 && record.ptr[0] == (char)('a' + i) && record.ptr[4095] == 'n');
        CHECK(q->record(c, channel, memory, 4351, &name, NULL) == MSC4203_OK);
        CHECK(q->record(c, channel, memory, 4351, NULL, &record) == MSC4203_OK);
        name.len = 255;
    }
    CHECK(q->release(c, 1) == MSC4203_OK);
    name.ptr = text;
    text[0] = '0';
    CHECK(q->channel(c, &name, 1, &channel) == MSC4203_OK && channel == 1);
    CHECK(q->record(c, 1, memory, 4351, &name, &record) == MSC4203_OK && record.len == 0);
    /* strings of which a length is not told in 16 bits */
    edge_free(&e);
    edge_init(&e, 1 << 20);
    e.config.message_bytes = 70000;
    CHECK(msc4203_log_format(&e.log, &e.storage, &e.config, 7) == MSC4203_OK);
    CHECK(edge_open(&e) == MSC4203_OK);
    CHECK(q->begin(c, &batches[0]) == MSC4203_OK);
    edge_message(0, 1, 1, 40, &message);
    memset(e.kept, 't', e.bytes);
    message.item.type.ptr = (const char *)e.kept;
    message.item.type.len = 65536;
    CHECK(q->push(c, batches[0], &message) == MSC4203_E_TOO_LARGE);
    message.item.type.len = 65535;
    message.item.user_id.len = message.item.device_id.len = 0; /* nor must there be ids */
    CHECK(q->push(c, batches[0], &message) == MSC4203_OK);
    CHECK(q->commit(c, batches[0], NULL, &number) == MSC4203_OK && q->flush(c) == MSC4203_OK);
    who.user_id.len = who.device_id.len = 0;
    CHECK(q->next(c, 0, &who, 0, e.kept, e.bytes, &got) == MSC4203_ITEM &&
          got.item.type.len == 65535 && got.item.user_id.len == 0);
    edge_free(&e);
}

/* A batch that stays open for longer than a round of the ring is given up, and its room with it. */
static void test_old_batch(void)
{
    static struct edge e;
    msc4203_message message, got;
    msc4203_queue *q = &e.queue;
    void *c = &e.log;
    uint64_t first;
    uint32_t batch, other, i;

    edge_init(&e, 32 * 1024);
    CHECK(q->begin(c, &batch) == MSC4203_OK && q->begin(c, &other) == MSC4203_OK);
    edge_message(0, 6, 1, 300, &message);
    for (i = 0; i < 3; i++) {
        CHECK(q->push(c, batch, &message) == MSC4203_OK);
        CHECK(q->push(c, other, &message) == MSC4203_OK);
    }
    for (i = 0; i < 100; i++) {
        CHECK(edge_push(&e, 1, 1u << MSC4203_CHANNEL_PARKED, i, 300, &first) == MSC4203_OK);
        CHECK(q->flush(c) == MSC4203_OK);
        CHECK(q->done(c, MSC4203_CHANNEL_PARKED, NULL, first, NULL) == MSC4203_OK);
    }
    CHECK(q->push(c, batch, &message) == MSC4203_E_BATCH);
    CHECK(q->commit(c, batch, NULL, &first) == MSC4203_E_BATCH);
    CHECK(q->abort(c, batch) == MSC4203_E_USAGE);
    CHECK(q->commit(c, other, NULL, &first) == MSC4203_E_BATCH);
    CHECK(e.log.priv.pending == 0 && e.log.priv.need == 0);
    CHECK(q->flush(c) == MSC4203_OK);
    CHECK(edge_next(&e, 1, 0, 0, &got) == MSC4203_END);
    /* pushing itself makes the room, and so may end the batch that it is for */
    CHECK(q->begin(c, &batch) == MSC4203_OK);
    CHECK(q->push(c, batch, &message) == MSC4203_OK);
    for (i = 0; i < 100; i++) {
        int result;
        CHECK(edge_push(&e, 1, 1u << MSC4203_CHANNEL_PARKED, i, 30, &first) == MSC4203_OK);
        CHECK(q->flush(c) == MSC4203_OK);
        CHECK(q->done(c, MSC4203_CHANNEL_PARKED, NULL, first, NULL) == MSC4203_OK);
        if (i % 10 != 0)
            continue;
        message.item.content.len = 900;
        result = q->push(c, batch, &message);
        if (result == MSC4203_E_BATCH)
            break;
        CHECK(result == MSC4203_OK || result == MSC4203_E_QUEUE_FULL);
    }
    CHECK(q->commit(c, batch, NULL, &first) == MSC4203_E_BATCH);
    CHECK(e.log.priv.pending == 0 && e.log.priv.need == 0);
    edge_free(&e);
}

/* The last N requests are known, also after an opening, and the one before them is not. */
static void test_requests(void)
{
    static struct edge e;
    msc4203_request request;
    uint64_t first;
    uint32_t batch;
    unsigned i, k;

    edge_init(&e, 32 * 1024);
    for (i = 1; i <= 50; i++) {
        request = edge_request(3, i);
        CHECK(e.queue.begin(&e.log, &batch) == MSC4203_OK);
        CHECK(e.queue.commit(&e.log, batch, &request, &first) == MSC4203_OK);
        if (i % 7 == 0)
            CHECK(e.queue.flush(&e.log) == MSC4203_OK && edge_open(&e) == MSC4203_OK);
        for (k = 1; k <= i; k++) {
            request = edge_request(3, k);
            CHECK(e.queue.known(&e.log, &request) == (k + 20 > i ? MSC4203_KNOWN : MSC4203_OK));
        }
    }
    edge_free(&e);
}

/* What is in flight stays, to the number; the rest of the device's goes; others' stay. */
static void test_drop(void)
{
    static struct edge e;
    msc4203_span record = contract_span("r");
    msc4203_message got;
    msc4203_device who;
    uint64_t numbers[6];
    unsigned i, held;

    for (held = 0; held < 6; held++) {
        edge_init(&e, 32 * 1024);
        edge_device(0, &who);
        for (i = 0; i < 6; i++)
            CHECK(edge_push(&e, i & 1, 7, 1 + i, 40, &numbers[i]) == MSC4203_OK);
        CHECK(e.queue.flush(&e.log) == MSC4203_OK);
        CHECK(e.queue.hold(&e.log, 1, numbers[held], &record) == MSC4203_OK);
        CHECK(e.queue.drop(&e.log, &who, NULL) == MSC4203_OK);
        CHECK(e.queue.flush(&e.log) == MSC4203_OK);
        for (i = 0; i < 6; i++) {
            int there = edge_next(&e, 1, 0, numbers[i] - 1, &got) == MSC4203_ITEM &&
                        got.number == numbers[i];
            CHECK(there == ((i & 1) != 0 || i <= held));
            CHECK(!there || got.channels == ((i & 1) != 0 ? 7u : 2u));
            there = edge_next(&e, 2, 0, numbers[i] - 1, &got) == MSC4203_ITEM &&
                    got.number == numbers[i];
            CHECK(there == ((i & 1) != 0));
        }
        CHECK(edge_next(&e, 0, 0, 0, &got) == MSC4203_END);
        edge_free(&e);
    }
}

/* ---- damage while the log is in use ---- */

/* Whatever is damaged, and whenever: each operation ends, what is delivered is what was pushed, in
 * order, and the log can be opened again. */
static void test_rot(unsigned long histories)
{
    static struct edge e;
    msc4203_span record = contract_span("record"), name = contract_span("one");
    msc4203_queue *q = &e.queue;
    void *c = &e.log;
    unsigned long i, flips = 0, delivered = 0, damaged = 0, storage = 0, unreadable = 0;

    for (i = 0; i < histories && test_failed < 5; i++) {
        uint64_t number = 1, moved;
        uint32_t batch, channel, seed = 1, steps;
        unsigned long failed = test_failed;
        msc4203_message message, got;
        msc4203_request request;
        msc4203_counts counts;
        msc4203_device who;

        edge_init(&e, (size_t)(24 + test_below(8)) * 1024);
        for (steps = 0; steps < 150; steps++) {
            unsigned device = (unsigned)test_below(7);
            uint32_t on = (uint32_t)test_below(5);
            int result = MSC4203_OK;

            edge_device(device, &who);
            channel = on == 4 ? (uint32_t)MSC4203_CHANNEL_PARKED : on;
            if (steps > 20 && test_below(6) == 0) {
                size_t ring = (size_t)e.log.priv.ring_at, at = ring + test_below(e.bytes - ring);
                size_t run = test_below(4) ? 1 : test_below(200);

                for (; run-- != 0 && at < e.bytes; at++)
                    e.region[at] = (unsigned char)test_random();
                flips++;
            }
            switch (test_below(13)) {
            case 0: case 1: case 2: case 3:
                result = q->begin(c, &batch);
                request = edge_request(1 + device, (unsigned)test_below(256));
                for (on = (uint32_t)test_below(4); on-- != 0 && result == MSC4203_OK;) {
                    edge_message((unsigned)test_below(7), 1 + (uint32_t)test_below(15), seed++,
                                 30 + test_below(500), &message);
                    result = q->push(c, batch, &message);
                }
                if (result == MSC4203_OK)
                    result = q->commit(c, batch, &request, &moved);
                else
                    q->abort(c, batch);
                break;
            case 4: case 5:
                result = q->flush(c);
                break;
            case 6:
                result = q->done(c, channel, channel == 0 ? &who : NULL, number,
                                 channel != 0 && test_below(2) ? &record : NULL);
                break;
            case 7:
                if (channel != 0)
                    result = q->hold(c, channel, number, &record);
                break;
            case 8:
                result = q->move(c, channel, channel == 0 ? &who : NULL, number,
                                 (uint32_t)test_below(16), &moved);
                break;
            case 9:
                result = test_below(2) ? q->drop(c, &who, NULL)
                                       : q->expire(c, 1000 + test_below(seed), &moved);
                break;
            case 10:
                result = test_below(2) ? q->channel(c, &name, 1, &channel)
                                       : q->release(c, 1 + (uint32_t)test_below(3));
                break;
            case 11:
                result = q->count(c, channel, NULL, &counts);
                break;
            default:
                if (test_below(4) == 0)
                    result = edge_open(&e);
                break;
            }
            if (result == MSC4203_E_STORAGE) { /* what an open batch was made of */
                storage++;
                result = edge_open(&e);
            }
            if (result == MSC4203_E_DAMAGED && e.log.priv.error) { /* both images */
                unreadable++;
                break;
            }
            CHECK(result >= 0 || result == MSC4203_E_DAMAGED || result == MSC4203_E_QUEUE_FULL ||
                  result == MSC4203_E_BATCH || result == MSC4203_E_BUSY);
            result = MSC4203_END;
            number = 0;
            for (on = (uint32_t)test_below(30); on != 0; on--) { /* a walk */
                result = edge_next(&e, channel, device, number, &got);
                if (result == MSC4203_ITEM)
                    CHECK(edge_is_whole(&got) && got.number > number);
                else if (result != MSC4203_E_DAMAGED || got.number <= number)
                    break;
                number = got.number;
                delivered += result == MSC4203_ITEM;
            }
            CHECK(result == MSC4203_ITEM || result == MSC4203_END || result == MSC4203_E_DAMAGED ||
                  result == MSC4203_E_STORAGE);
            damaged += e.log.priv.damaged != 0;
            if (test_failed != failed) {
                printf("  history %lu, step %lu, result %d\n", i, (unsigned long)steps, result);
                break;
            }
        }
        edge_free(&e);
    }
    printf("rot: %lu histories, %lu damages, %lu messages read, %lu steps with damage known, %lu "
           "openings for batches, %lu unreadable\n", i, flips, delivered, damaged, storage,
           unreadable);
}

int main(void)
{
    test_seed(0xED6E);
    test_rot(2000 * test_scale() / test_share());
    test_refused();
    test_arguments();
    test_limits();
    test_old_batch();
    test_requests();
    test_drop();
    test_each_call();
    return test_end("edges");
}
