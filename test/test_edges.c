/* test_edges.c - the log where nothing goes well: wrong arguments, each storage call failing in
 * each operation, damage while it is in use, forged headers and records, limits. */
#include "forge.h"
#include "queue_contract.h"

/* ---- a log over a storage that can fail ---- */

struct edge {
    unsigned char *region, *kept;
    size_t bytes;
    msc4203_storage storage;
    unsigned long calls, fail_at; /* fail_at: the call that fails; 0 none */
    int lasting;                  /* and all after it */
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
    e->calls++;
    return e->calls == e->fail_at || (e->lasting && e->fail_at != 0 && e->calls > e->fail_at);
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
    uint64_t number = 0;
    int result = e->queue.begin(&e->log, &batch);

    if (first != NULL)
        *first = 0;
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

/* Puts a message in and takes it out: the ring's end comes on. */
static void edge_pass(struct edge *e, uint32_t seed)
{
    uint64_t number = 0;
    int result = edge_push(e, 5, 1u << MSC4203_CHANNEL_PARKED, seed, 900, &number);

    if (result == MSC4203_E_BATCH) /* mending gives batches up */
        result = edge_push(e, 5, 1u << MSC4203_CHANNEL_PARKED, seed, 900, &number);
    CHECK(result == MSC4203_OK && e->queue.flush(&e->log) == MSC4203_OK);
    CHECK(e->queue.done(&e->log, MSC4203_CHANNEL_PARKED, NULL, number, NULL) == MSC4203_OK);
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
    memset(request.who, (int)who, sizeof request.who);
    memset(request.what, (int)what, sizeof request.what);
    return request;
}

enum {
    OP_PUSH, OP_BATCH, OP_EMPTY, OP_HOLD, OP_DONE, OP_DONE_RECORD, OP_SYNC, OP_MOVE, OP_MOVE_ALL,
    OP_MOVE_SYNC, OP_MOVE_OUT, OP_DROP, OP_EXPIRE, OP_CHANNEL, OP_RELEASE, OP_CLOSE, OP_NEXT,
    OP_COUNT, OP_RECORD, OP_FIND, OP_KNOWN, OP_REPEAT, OP_DONE_ALL, OP_DROP_ALL, OP_EXPIRE_ALL,
    OP_OPEN, OPS
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
    case OP_DONE_ALL:
        return q->done(c, 2, NULL, UINT64_MAX, NULL);
    case OP_DROP_ALL:
        edge_device(3, &who);
        return q->drop(c, &who, request.who);
    case OP_EXPIRE_ALL:
        return q->expire(c, UINT64_MAX, &moved);
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
    uint64_t first = 0;
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
        CHECK(edge_push(e, 3, i < 20 ? 5 : 4, 5 + i, 30, NULL) == MSC4203_OK);
    for (i = 0; i < 15; i++) {
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
                e.lasting = (int)(call & 1);
                result = op_run(&e, op, number, second);
                if (e.calls < e.fail_at) {
                    CHECK(result == MSC4203_OK);
                    break;
                }
                e.fail_at = 0;
                CHECK(result == MSC4203_E_STORAGE || op == OP_FIND);
                if (op_is_reading(op)) {
                    CHECK(op_run(&e, op, number, second) == MSC4203_OK);
                    continue;
                }
                CHECK(e.queue.flush(&e.log) == MSC4203_E_STORAGE);
                CHECK(edge_open(&e) == MSC4203_OK);
                edge_dump(&e, now, sizeof now);
                CHECK(strcmp(now, before) == 0 || strcmp(now, after) == 0 ||
                      op == OP_EXPIRE_ALL); /* which may be done in part */
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
        CHECK(q->channel(c, &name, 1, &channel) == MSC4203_OK && channel == (i > 1 ? i + 2 : i));
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
        CHECK(q->channel(c, &name, 0, &channel) == MSC4203_OK && channel == (i > 1 ? i + 2 : i));
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

/* Quotas, to the byte: of a device, of a channel, and with what is in open batches. */
static void test_quota(void)
{
    static struct edge e;
    msc4203_log_usage usage;
    msc4203_message message;
    uint32_t batch;
    unsigned kind, less;

    for (kind = 0; kind < 2; kind++)
        for (less = 0; less < 2; less++) {
            edge_init(&e, 32 * 1024);
            CHECK(edge_push(&e, 0, 2, 1, 40, NULL) == MSC4203_OK);
            msc4203_log_usage_get(&e.log, &usage);
            msc4203_log_quotas(&e.log, kind == 0 ? 0 : usage.used * 3 - 8 * less,
                               kind == 1 ? 0 : usage.used * 3 - 8 * less);
            CHECK(e.queue.begin(&e.log, &batch) == MSC4203_OK);
            edge_message(0, 2, 2, 40, &message);
            CHECK(e.queue.push(&e.log, batch, &message) == MSC4203_OK);
            CHECK(edge_push(&e, 0, 2, 3, 40, NULL) == (less ? MSC4203_E_QUOTA : MSC4203_OK));
            if (!less)
                CHECK(edge_push(&e, 0, 2, 4, 40, NULL) == MSC4203_E_QUOTA);
            /* another device on another channel may still have some; an abort gives back */
            CHECK(edge_push(&e, 1, 4, 6, 40, NULL) == MSC4203_OK);
            CHECK(e.queue.abort(&e.log, batch) == MSC4203_OK);
            CHECK(edge_push(&e, 0, 2, 7, 40, NULL) == MSC4203_OK);
            edge_free(&e);
        }
}

/* A batch that stays open for longer than a round of the ring is given up, and its room with it. */
static void test_old_batch(void)
{
    static struct edge e;
    msc4203_message message, got;
    msc4203_queue *q = &e.queue;
    void *c = &e.log;
    uint64_t first = 0;
    uint32_t batch, other = 0, i;

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
    uint64_t first = 0;
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
        for (i = 0; i < 6; i++) /* the first waits for nothing else */
            CHECK(edge_push(&e, i & 1, i == 0 ? 2 : 7, 1 + i, 40, &numbers[i]) == MSC4203_OK);
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

/* ---- forged headers and records: valid checksums over what no log writes ---- */

/* Changes a word of image `which`'s header. */
static void forge_header(struct edge *e, int which, unsigned offset, uint32_t value)
{
    unsigned char *b = e->region + 512 * which;

    forge_word(b + offset, value);
    forge_word(b + 12, forge_crc(forge_crc(0xFFFFFFFFu, b, 12), b + 16, 80));
}

/* Changes a word of the index in both images. */
static void forge_index(struct edge *e, uint32_t word, uint32_t value)
{
    int which;

    for (which = 0; which < 2; which++) {
        unsigned char *b = e->region + 512 * which;
        size_t at = which == 0 ? 1024 : (size_t)(1024 + (e->log.priv.ring_at - 1024) / 2);
        size_t words = b[68] | (size_t)b[69] << 8;

        forge_word(e->region + at + word * 4, value);
        forge_header(e, which, 72, forge_crc(0xFFFFFFFFu, e->region + at, words * 4));
    }
}

/* Makes a record that begins at a byte of the region valid again, its body too. */
static void forge_record(struct edge *e, uint64_t at, size_t body)
{
    const struct msc4203_log_state *s = &e->log.priv;
    unsigned char *b = e->region + at, place[4];
    uint32_t unit = (uint32_t)((at - s->ring_at) / 8);
    size_t fixed = b[3] <= 2 ? 60 : b[3] == 4 ? 24 : 16;
    size_t bytes = (size_t)(b[0] | b[1] << 8 | b[2] << 16) * 8 - b[6];

    forge_word(b + 8, forge_crc(s->salt, b + body, bytes - body));
    forge_word(place, s->base + unit - (unit < s->end - s->base ? 0 : s->units));
    forge_word(b + 12,
               forge_crc(forge_crc(forge_crc(s->salt, place, 4), b, 12), b + 16, fixed - 16));
}

struct found {
    int kind; /* looked for; with `number` if that is not 0 */
    uint64_t number, at;
    unsigned long seen, strings, damaged, end_at;
};

static int see(void *context, const msc4203_log_entry *entry)
{
    struct found *f = (struct found *)context;

    if (entry->kind == f->kind && (f->number == 0 || entry->number == f->number))
        f->at = entry->at;
    f->strings += entry->content.len != 0;
    f->damaged += entry->error != 0;
    return ++f->seen == f->end_at ? 7 : 0;
}

static int edge_scan(struct edge *e, struct found *f, int kind, uint64_t number,
                     unsigned long end_at, size_t bytes)
{
    static uint64_t memory[400];

    memset(f, 0, sizeof *f);
    f->kind = kind;
    f->number = number;
    f->end_at = end_at;
    return msc4203_log_scan(&e->storage, memory, bytes, see, f);
}

/* Damages the record of a message that was not moved. */
static void edge_hurt(struct edge *e, uint64_t number)
{
    struct found f;

    CHECK(edge_scan(e, &f, 1, number, 0, 3200) == MSC4203_OK && f.at != 0);
    e->region[f.at + 13] ^= 1;
}

static void test_forged_headers(void)
{
    static const struct {
        unsigned offset;
        uint32_t value;
        int opening; /* is what finds it out */
    } cases[] = {{8, 2, 0},          {24, 0, 0},        {28, 0, 0},     {32, 0, 0},
                 {24, 1 << 25, 0},   {36, 1 << 27, 0},  {68, 1 << 20, 1}, {68, 10, 1},
                 {52, 0x40000000, 1}, {60, 0x40000000, 1}, {72, 1, 1}};
    static struct edge e;
    msc4203_log_config config;
    msc4203_message got;
    msc4203_log other;
    struct found f;
    uint64_t number = 0;
    size_t i;
    int which;

    edge_init(&e, 32 * 1024);
    CHECK(edge_push(&e, 0, 2, 1, 40, &number) == MSC4203_OK);
    CHECK(msc4203_log_close(&e.log) == MSC4203_OK);
    edge_keep(&e);
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        edge_back(&e);
        for (which = 0; which < 2; which++)
            forge_header(&e, which, cases[i].offset, cases[i].value);
        CHECK(msc4203_log_inspect(&other, &e.storage, &config) ==
              (cases[i].opening ? MSC4203_OK : MSC4203_E_FORMAT));
        CHECK(edge_open(&e) == (cases[i].opening ? MSC4203_E_DAMAGED : MSC4203_E_FORMAT));
        CHECK(edge_scan(&e, &f, 1, 0, 0, 3200) ==
              (cases[i].opening ? MSC4203_OK : MSC4203_E_FORMAT));
        for (which = 0; which < 2; which++) { /* the other one is enough */
            edge_back(&e);
            forge_header(&e, which, cases[i].offset, cases[i].value);
            if (cases[i].opening)
                CHECK(edge_open(&e) == MSC4203_OK &&
                      edge_next(&e, 1, 0, 0, &got) == MSC4203_ITEM && got.number == number);
        }
    }
    edge_back(&e); /* more devices in use than there are */
    forge_index(&e, 6, 7);
    CHECK(edge_open(&e) == MSC4203_E_DAMAGED);
    edge_back(&e); /* places for the next request and the next opening that there are not */
    forge_index(&e, 3, 10000);
    forge_index(&e, 4, 10000);
    CHECK(edge_open(&e) == MSC4203_OK);
    CHECK(edge_next(&e, 1, 0, 0, &got) == MSC4203_ITEM && got.number == number);
    edge_free(&e);
}

/* Journals, with right checksums, that tell what can't be; and a name that is too long. */
static void test_forged_journals(void)
{
    static struct edge e;
    static const char state[600] = "";
    msc4203_span name = contract_span("irc"), record = {state, sizeof state};
    struct found f = {0, 0, 0, 0, 0, 0, 0}, g;
    uint64_t number = 0;
    uint32_t channel;
    unsigned long n;
    int i, result;

    edge_init(&e, 32 * 1024);
    CHECK(e.queue.channel(&e.log, &name, 1, &channel) == MSC4203_OK);
    CHECK(e.queue.hold(&e.log, channel, 0, &record) == MSC4203_OK);
    CHECK(edge_push(&e, 0, 2, 1, 40, &number) == MSC4203_OK);
    CHECK(e.queue.flush(&e.log) == MSC4203_OK);
    edge_keep(&e);
    for (i = 0; i < 3; i++) {
        edge_back(&e);
        CHECK(edge_scan(&e, &f, 3, 0, 0, 3200) == MSC4203_OK && f.at != 0);
        if (i == 0) /* the last one: durable, and firm, beyond the ring's end */
            forge_word(e.region + f.at + 16, e.log.priv.end + 1000);
        else if (i == 1)
            forge_word(e.region + f.at + 20, e.log.priv.end + 1000);
        for (n = 1; i == 2 && edge_scan(&e, &g, 3, 0, n, 3200) == 7; n++)
            if (g.at != 0 && e.region[g.at] > 3) /* one that changes something */
                f.at = g.at;
        if (i == 2) { /* more devices in use than there are */
            size_t last = (size_t)f.at + (size_t)e.region[f.at] * 8 - 8;
            forge_word(e.region + last, 6);
            forge_word(e.region + last + 4, 10000);
        }
        forge_record(&e, f.at, 16);
        result = edge_open(&e);
        CHECK(i == 2 || result == MSC4203_OK);
    }
    edge_back(&e);
    CHECK(edge_scan(&e, &f, 4, 0, 0, 3200) == MSC4203_OK && f.at != 0);
    forge_word(e.region + f.at + 20, 300 | 250u << 16);
    forge_record(&e, f.at, 24);
    CHECK(edge_scan(&e, &g, 4, 0, 0, 3200) == MSC4203_OK && g.at != f.at);
    CHECK(msc4203_log_key(&e.log) != 0);
    edge_free(&e);
}

static void test_forged_records(void)
{
    static struct edge e;
    msc4203_message got, message;
    msc4203_device who;
    struct found f = {0, 0, 0, 0, 0, 0, 0}, g;
    uint64_t first = 0, second = 0;
    uint32_t batch;
    unsigned long call;
    int i, result;

    edge_init(&e, 32 * 1024);
    CHECK(edge_push(&e, 0, 3, 1, 40, &first) == MSC4203_OK);
    CHECK(edge_push(&e, 0, 3, 2, 40, &second) == MSC4203_OK);
    CHECK(e.queue.flush(&e.log) == MSC4203_OK);
    edge_keep(&e);
    /* another device whose ids have the same hash: passed over, for it is not asked for */
    for (i = 0; i < 3; i++) {
        edge_back(&e);
        CHECK(edge_scan(&e, &f, 1, first, 0, 3200) == MSC4203_OK && f.at != 0 && f.strings == 2);
        if (i == 2)
            forge_word(e.region + f.at + 24, 3 | 2 << 16); /* where the one ends */
        else
            e.region[f.at + 76 + 7 + (i == 0 ? 0 : 4)] ^= 1; /* its user id, its device id */
        forge_record(&e, f.at, 76);
        CHECK(edge_next(&e, 0, 0, 0, &got) == MSC4203_ITEM && got.number == second);
        CHECK(edge_next(&e, 1, 0, 0, &got) == MSC4203_ITEM && got.number == first);
    }
    /* lengths longer than the record, and links that have no room in it */
    for (i = 0; i < 2; i++) {
        edge_back(&e);
        if (i == 0)
            forge_word(e.region + f.at + 20, 0xFFFF);
        else
            forge_word(e.region + f.at + 52, 0xFFFFFFFFu);
        forge_record(&e, f.at, 76);
        CHECK(edge_scan(&e, &g, 1, first, 0, 3200) == MSC4203_OK && g.at != f.at);
    }
    edge_back(&e);
    /* a journal longer than there are */
    CHECK(edge_scan(&e, &f, 3, 0, 0, 3200) == MSC4203_OK && f.at != 0 && f.damaged == 0);
    forge_word(e.region + f.at, 132 | 3u << 24);
    CHECK(edge_scan(&e, &g, 3, 0, 0, 3200) == MSC4203_OK && g.at != f.at);
    CHECK(edge_open(&e) == MSC4203_OK);
    /* two devices of which half the hash is the same */
    for (i = 0; i < 4; i++) {
        who.user_id = contract_span("@u:x");
        who.device_id = contract_span(i & 1 ? "D016750" : "D003640");
        CHECK(e.queue.begin(&e.log, &batch) == MSC4203_OK);
        edge_message(0, 1, 50u + (unsigned)i, 40, &message);
        message.item.device_id = who.device_id;
        CHECK(e.queue.push(&e.log, batch, &message) == MSC4203_OK);
        CHECK(e.queue.commit(&e.log, batch, NULL, &second) == MSC4203_OK);
        first = i == 0 ? second : first;
    }
    CHECK(e.queue.flush(&e.log) == MSC4203_OK);
    for (i = 0; i < 2; i++) {
        who.device_id = contract_span(i & 1 ? "D016750" : "D003640");
        CHECK(e.queue.next(&e.log, 0, &who, 0, e.kept, e.bytes, &got) == MSC4203_ITEM);
        CHECK(got.number == first + (unsigned)i);
        who.device_id = contract_span(i & 1 ? "D003640" : "D016750");
        CHECK(e.queue.next(&e.log, 0, &who, got.number, e.kept, e.bytes, &got) == MSC4203_ITEM);
        CHECK(got.number == first + (i == 0 ? 1 : 2));
    }
    /* a scan's memory, its end, and its storage */
    CHECK(edge_scan(&e, &f, 1, 0, 0, 100) == MSC4203_E_INDEX);
    CHECK(edge_push(&e, 0, 3, 9, 400, NULL) == MSC4203_OK);
    CHECK(edge_scan(&e, &g, 1, 0, 0, 3200) == MSC4203_OK && g.strings > 6);
    CHECK(edge_scan(&e, &f, 1, 0, 0, 400) == MSC4203_OK && f.seen == g.seen);
    CHECK(f.strings < g.strings); /* those of the long one do not fit */
    CHECK(edge_scan(&e, &f, 1, 0, 3, 3200) == 7 && f.seen == 3);
    e.region[f.at + 9] ^= 1;
    /* a message where there is no room for one */
    forge_word(e.region + e.bytes - 32, 3 | 1u << 24);
    CHECK(edge_scan(&e, &f, 1, 0, 0, 3200) == MSC4203_OK);
    CHECK(edge_scan(&e, &g, 1, first, 0, 3200) == MSC4203_OK && g.at != 0);
    e.region[g.at + 13] ^= 1; /* between two others */
    CHECK(edge_scan(&e, &f, 1, 0, 0, 3200) == MSC4203_OK && f.damaged > g.damaged);
    for (call = 1; call <= f.seen; call++)
        CHECK(edge_scan(&e, &g, 1, 0, call, 3200) == 7 && g.seen == call);
    for (call = 1;; call += 1 + call / 16) {
        e.fail_at = e.calls + call;
        result = edge_scan(&e, &f, 1, 0, 0, 3200);
        if (e.calls < e.fail_at)
            break;
        CHECK(result == MSC4203_E_STORAGE);
    }
    CHECK(result == MSC4203_OK);
    e.fail_at = 0;
    edge_free(&e);
}

/* A record of a channel whose body, or all of it, is damaged. */
static void test_damaged_channel(void)
{
    static struct edge e;
    static char memory[4352];
    msc4203_span name = contract_span("one"), record = contract_span("record"), got;
    struct found f;
    uint32_t channel;
    int i;

    for (i = 0; i < 3; i++) {
        edge_init(&e, 32 * 1024);
        CHECK(e.queue.channel(&e.log, &name, 1, &channel) == MSC4203_OK);
        CHECK(e.queue.hold(&e.log, channel, 0, &record) == MSC4203_OK);
        CHECK(edge_scan(&e, &f, 4, 0, 0, 3200) == MSC4203_OK && f.at != 0);
        e.region[f.at + (i == 0 ? 25 : 20)] ^= 4; /* its body, or its length */
        CHECK(e.queue.record(&e.log, channel, memory, sizeof memory, NULL, &got) ==
              MSC4203_E_DAMAGED);
        if (i == 2) { /* written again, it is well */
            CHECK(e.queue.hold(&e.log, channel, 0, &record) == MSC4203_OK);
            CHECK(e.queue.record(&e.log, channel, memory, sizeof memory, NULL, &got) ==
                      MSC4203_OK &&
                  msc4203_span_equal(&got, "record"));
        } else {
            CHECK(e.queue.flush(&e.log) == MSC4203_OK && edge_open(&e) == MSC4203_OK);
        }
        edge_free(&e);
    }
}

/* A log with `count` messages, or as many as it takes without a copy; `known`: all for a device
 * that its image knows. Returns how many. */
static unsigned long copied_start(struct edge *e, int known, unsigned long count)
{
    uint64_t number = 0;
    unsigned long n;

    edge_init(e, 32 * 1024);
    if (known) {
        CHECK(edge_push(e, 0, 2, 1, 40, NULL) == MSC4203_OK);
        CHECK(edge_push(e, 1, 2, 2, 40, &number) == MSC4203_OK);
        CHECK(e->queue.flush(&e->log) == MSC4203_OK && edge_open(e) == MSC4203_OK);
        /* A's place becomes free first, and so is taken last: A goes where B was */
        CHECK(e->queue.done(&e->log, 1, NULL, number, NULL) == MSC4203_OK);
    }
    for (n = 0; n < count && edge_room(e) > 1038; n++)
        CHECK(edge_push(e, known ? 0 : (unsigned)n % 4, 3, 3 + (uint32_t)n, 40, NULL) ==
              MSC4203_OK);
    return n;
}

/* Copies of messages to devices that the last image does not know, or knows elsewhere: the crash
 * comes before the next one. Then each record is damaged in turn. */
static void test_copied_devices(void)
{
    static struct edge e;
    static char before[16384], after[16384], now[16384];
    static uint64_t places[600];
    msc4203_message got;
    uint64_t number = 0;
    unsigned long call, n, k;
    int known, result = 0;

    for (known = 0; known < 2; known++) {
        n = copied_start(&e, known, 100);
        edge_keep(&e);
        CHECK(edge_open(&e) == MSC4203_OK);
        edge_dump(&e, before, sizeof before);
        for (call = 1;; call++) {
            edge_free(&e);
            CHECK(copied_start(&e, known, n) == n);
            e.fail_at = e.calls + call;
            result = edge_push(&e, 0, 4, 999, 600, NULL);
            if (e.calls < e.fail_at)
                break;
            CHECK(result == MSC4203_E_STORAGE);
            edge_keep(&e);
            CHECK(edge_open(&e) == MSC4203_OK && e.log.priv.damaged == 0);
            edge_dump(&e, now, sizeof now);
            if (after[0] == 0 && strcmp(now, before) != 0) /* only the push itself is more */
                strcpy(after, now);
            CHECK(strcmp(now, before) == 0 || strcmp(now, after) == 0);
            if (call % 4 == 0) { /* nothing leads to where the copies were made from */
                static char later[16384];
                for (k = 0; k < 40; k++) {
                    CHECK(edge_push(&e, 5, 1u << MSC4203_CHANNEL_PARKED, 1, 900, &number) ==
                          MSC4203_OK);
                    CHECK(e.queue.flush(&e.log) == MSC4203_OK);
                    CHECK(e.queue.done(&e.log, MSC4203_CHANNEL_PARKED, NULL, number, NULL) ==
                          MSC4203_OK);
                }
                edge_dump(&e, later, sizeof later);
                CHECK(strcmp(later, now) == 0 && e.log.priv.damaged == 0);
            }
            if (call % 16 != 0)
                continue;
            edge_back(&e);
            for (k = 0, number = e.log.priv.ring_at; number + 16 < e.bytes && k < 600;) {
                uint32_t units = e.region[number] | (uint32_t)e.region[number + 1] << 8;
                if (units == 0)
                    break;
                places[k++] = number;
                number += units * 8;
            }
            while (k-- != 0) {
                edge_back(&e);
                e.region[places[k] + 9] ^= 0x10;
                CHECK(edge_open(&e) == MSC4203_OK);
                for (number = 0; edge_next(&e, 1, 0, number, &got) == MSC4203_ITEM;
                     number = got.number)
                    CHECK(edge_is_whole(&got) && got.number > number);
            }
        }
        CHECK(result == MSC4203_OK && call > 50);
        after[0] = 0;
        edge_free(&e);
    }
}

/* Links have no checksum: each two of a small log's are set to whatever a link may be. */
static void test_links(void)
{
    static struct edge e;
    uint32_t values[8], links[16];
    msc4203_message got;
    struct found f;
    uint64_t numbers[4], number;
    unsigned a, b, i, steps, runs = 0;
    unsigned long share = test_share() > 8 ? 5 : 1, call;
    int result = 0;

    edge_init(&e, 32 * 1024);
    for (i = 0; i < 4; i++)
        CHECK(edge_push(&e, 0, 3, 1 + i, 40, &numbers[i]) == MSC4203_OK);
    CHECK(edge_push(&e, 1, 4, 9, 40, &number) == MSC4203_OK);
    CHECK(e.queue.flush(&e.log) == MSC4203_OK && edge_open(&e) == MSC4203_OK);
    for (i = 0; i < 4; i++) {
        CHECK(edge_scan(&e, &f, 1, numbers[i], 0, 3200) == MSC4203_OK && f.at != 0);
        values[i] = (uint32_t)((f.at - e.log.priv.ring_at) / 8 + 1);
        for (a = 0; a < 4; a++)
            links[i * 4 + a] = (uint32_t)f.at + 60 + 4 * a;
    }
    CHECK(edge_scan(&e, &f, 1, number, 0, 3200) == MSC4203_OK);
    values[4] = (uint32_t)((f.at - e.log.priv.ring_at) / 8 + 1); /* not of these chains */
    values[5] = 0;
    values[6] = 0x7FFFFFFF;
    CHECK(edge_scan(&e, &f, 3, 0, 0, 3200) == MSC4203_OK);
    values[7] = (uint32_t)((f.at - e.log.priv.ring_at) / 8 + 1); /* a journal */
    edge_keep(&e);
    for (a = 0; a < 16 * 8; a++)
        for (b = a; b < 16 * 8; b += 1 + (unsigned)test_below(2 * share - 1)) {
            unsigned how = runs++ % 5;

            edge_back(&e);
            forge_word(e.region + links[a / 8], values[a % 8]);
            forge_word(e.region + links[b / 8], values[b % 8]);
            CHECK(edge_open(&e) == MSC4203_OK);
            if (how == 1)
                CHECK(e.queue.done(&e.log, 1, NULL, numbers[1], NULL) == MSC4203_OK);
            if (how == 2)
                e.queue.move(&e.log, 1, NULL, numbers[2], 4, NULL);
            if (how == 3) {
                msc4203_device who;
                edge_device(0, &who);
                CHECK(e.queue.drop(&e.log, &who, NULL) == MSC4203_OK);
            }
            for (i = 0; how == 4 && i < 24; i++) /* until the ring comes round to them */
                edge_pass(&e, i);
            for (i = 0; i < 2; i++) {
                for (number = 0, steps = 0; steps < 10; steps++, number = got.number) {
                    result = edge_next(&e, i, 0, number, &got);
                    if (result != MSC4203_ITEM)
                        break;
                    CHECK(edge_is_whole(&got) && got.number > number);
                }
                CHECK(result == MSC4203_END);
                /* Two links that agree can leave messages out; else it is found out. */
                CHECK(how != 0 || steps == 4 || e.log.priv.damaged != 0 ||
                      (a / 8 % 2 == 0 && b / 8 % 4 == a / 8 % 4 + 1 && a % 8 == b / 32 &&
                       b % 8 == a / 32));
            }
            CHECK(e.queue.flush(&e.log) == MSC4203_OK);
        }
    for (call = 1;; call++) { /* mending fails */
        edge_back(&e);
        forge_word(e.region + links[2], 0x7FFFFFFF);
        CHECK(edge_open(&e) == MSC4203_OK);
        CHECK(edge_push(&e, 0, 2, 20, 40, NULL) == MSC4203_OK);
        e.fail_at = e.calls + call;
        result = edge_next(&e, 1, 0, numbers[0], &got);
        if (e.calls < e.fail_at)
            break;
        CHECK(result == MSC4203_E_STORAGE || result == MSC4203_ITEM || result == MSC4203_END);
        e.fail_at = 0;
        CHECK(edge_open(&e) == MSC4203_OK);
    }
    edge_free(&e);
    printf("links: %u runs\n", runs);
}

/* An open batch whose link leads to a message of a device that is no longer there. */
static void test_damaged_batch(void)
{
    static struct edge e;
    msc4203_message message;
    struct found f, old;
    uint64_t first = 0;
    uint32_t batch;
    int commits;

    for (commits = 0; commits < 2; commits++) {
        edge_init(&e, 32 * 1024);
        CHECK(edge_push(&e, 5, 2, 1, 40, &first) == MSC4203_OK);
        CHECK(e.queue.flush(&e.log) == MSC4203_OK);
        CHECK(edge_scan(&e, &old, 1, first, 0, 3200) == MSC4203_OK && old.at != 0);
        CHECK(e.queue.done(&e.log, 1, NULL, first, NULL) == MSC4203_OK);
        CHECK(e.queue.flush(&e.log) == MSC4203_OK);
        CHECK(e.queue.begin(&e.log, &batch) == MSC4203_OK);
        edge_message(0, 2, 2, 40, &message);
        f.at = e.log.priv.ring_at + (uint64_t)(e.log.priv.end - e.log.priv.base) * 8;
        CHECK(e.queue.push(&e.log, batch, &message) == MSC4203_OK);
        CHECK(e.queue.push(&e.log, batch, &message) == MSC4203_OK);
        forge_word(e.region + f.at + 60, (uint32_t)((old.at - e.log.priv.ring_at) / 8 + 1));
        if (commits) {
            CHECK(e.queue.commit(&e.log, batch, NULL, &first) == MSC4203_E_STORAGE);
            CHECK(edge_open(&e) == MSC4203_OK);
            CHECK(edge_next(&e, 1, 0, 0, &message) == MSC4203_END);
        } else {
            CHECK(e.queue.abort(&e.log, batch) == MSC4203_OK);
        }
        CHECK(edge_push(&e, 1, 2, 3, 40, &first) == MSC4203_OK);
        edge_free(&e);
    }
}

/* As if open batches needed all the room there is: what cannot be had is not looked for for ever.
 * And a header that says that nothing is free. */
static void test_no_room(void)
{
    static struct edge e;
    msc4203_span record = contract_span("r");
    msc4203_log_config config;
    msc4203_message got;
    msc4203_log other;
    uint64_t number = 0;
    size_t bytes, some = 0;
    unsigned i;
    int live;

    for (live = 0; live < 2; live++) {
        edge_init(&e, 32 * 1024);
        for (i = 0; live && i < 60; i++)
            CHECK(edge_push(&e, 0, 2, 1 + i, 40, NULL) == MSC4203_OK);
        CHECK(e.queue.flush(&e.log) == MSC4203_OK);
        e.log.priv.need = 4000;
        CHECK(e.queue.done(&e.log, 1, NULL, 1, NULL) == MSC4203_E_QUEUE_FULL);
        e.log.priv.need = 2000;
        CHECK(e.queue.hold(&e.log, 1, 0, &record) == (live ? MSC4203_E_QUEUE_FULL : MSC4203_OK));
        e.log.priv.need = 4000;
        CHECK(e.queue.hold(&e.log, 1, 0, &record) == MSC4203_E_QUEUE_FULL);
        e.log.priv.need = 0;
        CHECK(e.queue.hold(&e.log, 1, 0, &record) == MSC4203_OK);
        edge_free(&e);
    }
    for (i = 0; i < 2; i++) {
        int which;

        edge_init(&e, 32 * 1024);
        CHECK(edge_push(&e, 0, 2, 1, 40, &number) == MSC4203_OK);
        CHECK(e.queue.flush(&e.log) == MSC4203_OK && edge_open(&e) == MSC4203_OK);
        CHECK(edge_push(&e, 0, 2, 2, 40, NULL) == MSC4203_OK);
        for (which = 0; which < 2; which++)
            forge_header(&e, which, 60, e.log.priv.imaged - e.log.priv.units + i);
        CHECK(edge_open(&e) == MSC4203_OK);
        CHECK(edge_next(&e, 1, 0, 0, &got) == MSC4203_ITEM && got.number == number);
        CHECK(edge_next(&e, 1, 0, number, &got) == MSC4203_END);
        edge_free(&e);
    }
    /* an image of the opening before: its records are followed by those of this one */
    edge_init(&e, 32 * 1024);
    CHECK(edge_push(&e, 0, 2, 1, 40, &number) == MSC4203_OK);
    CHECK(e.queue.flush(&e.log) == MSC4203_OK);
    for (i = 0; i < 2; i++)
        forge_header(&e, (int)i, 64, e.log.priv.epoch - 1);
    CHECK(edge_open(&e) == MSC4203_OK);
    CHECK(edge_next(&e, 1, 0, 0, &got) == MSC4203_ITEM && got.number == number);
    CHECK(edge_next(&e, 1, 0, number | (uint64_t)1 << 32, &got) == MSC4203_END);
    /* regions of every size, and formatting that fails */
    for (bytes = 0; bytes < 40000; bytes += 8) {
        size_t memory = msc4203_log_memory(&other, &e.config, bytes);
        CHECK(memory != 0 || some == 0);
        some = memory;
    }
    CHECK(some != 0);
    for (i = 1; i < 10; i++) {
        e.fail_at = e.calls + i;
        CHECK(msc4203_log_format(&other, &e.storage, &e.config, 1) == MSC4203_E_STORAGE);
        CHECK(msc4203_log_inspect(&other, &e.storage, &config) ==
              (i > 2 ? MSC4203_E_FORMAT : MSC4203_OK)); /* the old one, in part at most */
    }
    edge_free(&e);
}

/* A message for each channel there is: taking it out is more than one journal record holds. */
static void test_all_channels(void)
{
    static struct edge e;
    msc4203_counts counts;
    msc4203_device who;
    uint64_t number = 0;
    uint32_t c;
    unsigned i;

    edge_init(&e, 64 * 1024);
    for (i = 0; i < 6; i++)
        CHECK(edge_push(&e, i & 1, 0xFFFFFFFFu, 1 + i, 40, &number) == MSC4203_OK);
    CHECK(e.queue.flush(&e.log) == MSC4203_OK);
    edge_device(0, &who);
    CHECK(e.queue.drop(&e.log, &who, NULL) == MSC4203_OK);
    CHECK(e.queue.flush(&e.log) == MSC4203_OK);
    for (i = 0; i < 2; i++) {
        for (c = 0; c < MSC4203_CHANNELS; c++)
            CHECK(e.queue.count(&e.log, c, NULL, &counts) == MSC4203_OK && counts.messages == 3);
        CHECK(edge_open(&e) == MSC4203_OK && e.log.priv.damaged == 0);
    }
    edge_free(&e);
}

/* All of a device's chain is lost but a message in the middle, which a channel still has. */
static void test_lost_device(void)
{
    static struct edge e;
    msc4203_message got;
    msc4203_counts counts;
    msc4203_device who;
    struct found f;
    uint64_t numbers[5];
    unsigned i, how;
    int result;

    for (how = 0; how < 3; how++) {
        edge_init(&e, 32 * 1024);
        for (i = 0; i < 5; i++)
            CHECK(edge_push(&e, i % 4 != 0, i & 1 ? 4 : 2, 1 + i, 40, &numbers[i]) == MSC4203_OK);
        CHECK(e.queue.flush(&e.log) == MSC4203_OK && edge_open(&e) == MSC4203_OK);
        for (i = 1; i < 5; i += 2)
            edge_hurt(&e, numbers[i]);
        CHECK(edge_next(&e, 2, 0, 0, &got) == MSC4203_END); /* which finds it out */
        CHECK(e.log.priv.damaged != 0);
        result = edge_next(&e, 1, 0, numbers[0], &got);
        CHECK(result == MSC4203_ITEM && got.number == numbers[2] && edge_is_whole(&got));
        edge_device(1, &who);
        CHECK(e.queue.count(&e.log, 0, &who, &counts) == MSC4203_OK && counts.messages == 1);
        if (how == 0)
            CHECK(e.queue.move(&e.log, 1, NULL, numbers[2], 4, NULL) == MSC4203_OK);
        if (how == 1)
            CHECK(e.queue.done(&e.log, 1, NULL, numbers[2], NULL) == MSC4203_OK);
        for (i = 0; how == 2 && i < 24; i++)
            edge_pass(&e, i);
        CHECK(edge_next(&e, 1, 0, numbers[2], &got) == MSC4203_ITEM && got.number == numbers[4]);
        CHECK(e.queue.flush(&e.log) == MSC4203_OK && edge_open(&e) == MSC4203_OK);
        edge_free(&e);
    }
    /* the index says that a device has nothing; a channel's record is another's */
    edge_init(&e, 32 * 1024);
    {
        msc4203_span name = contract_span("one");
        uint32_t channel;

        CHECK(e.queue.channel(&e.log, &name, 1, &channel) == MSC4203_OK && channel == 1);
        for (i = 0; i < 3; i++)
            CHECK(edge_push(&e, 0, 3, 1 + i, 40, &numbers[i]) == MSC4203_OK);
        CHECK(edge_scan(&e, &f, 4, 0, 0, 3200) == MSC4203_OK && f.at != 0);
        e.region[f.at + 7] = 2;
        forge_record(&e, f.at, 24);
        CHECK(msc4203_log_close(&e.log) == MSC4203_OK);
        forge_index(&e, e.log.priv.device_at + 8, 0);
        CHECK(edge_open(&e) == MSC4203_OK);
        CHECK(e.queue.move(&e.log, 1, NULL, numbers[0], 4, NULL) == MSC4203_E_DAMAGED);
        edge_hurt(&e, numbers[1]);
        CHECK(edge_next(&e, 1, 0, numbers[0], &got) == MSC4203_ITEM && got.number == numbers[2]);
        CHECK(edge_next(&e, 0, 0, 0, &got) == MSC4203_ITEM && got.number == numbers[0]);
        CHECK(edge_next(&e, 0, 0, numbers[0], &got) == MSC4203_ITEM && got.number == numbers[2]);
        CHECK(e.queue.channel(&e.log, &name, 0, &channel) == MSC4203_END);
        CHECK(e.log.priv.damaged >= 2);
    }
    edge_free(&e);
}

/* The index knows another device instead of that whose message is found, and has room for more, or
 * has not. */
static void test_other_devices(void)
{
    static struct edge e;
    msc4203_message got;
    msc4203_counts counts;
    msc4203_device who;
    uint64_t numbers[2];
    unsigned i, devices;

    for (devices = 1; devices <= 2; devices++) {
        edge_init(&e, 32 * 1024);
        e.config.devices = devices;
        CHECK(msc4203_log_format(&e.log, &e.storage, &e.config, 1) == MSC4203_OK);
        CHECK(edge_open(&e) == MSC4203_OK);
        for (i = 0; i < 2; i++)
            CHECK(edge_push(&e, 0, 2, 1 + i, 40, &numbers[i]) == MSC4203_OK);
        CHECK(msc4203_log_close(&e.log) == MSC4203_OK);
        forge_index(&e, e.log.priv.device_at + 2, 0x01020304);
        edge_hurt(&e, numbers[1]);
        CHECK(edge_open(&e) == MSC4203_OK);
        CHECK(edge_next(&e, 1, 0, 0, &got) == MSC4203_ITEM && got.number == numbers[0]);
        CHECK(edge_is_whole(&got));
        CHECK(edge_next(&e, 1, 0, numbers[0], &got) == MSC4203_END); /* finds the damage */
        CHECK(e.log.priv.damaged != 0);
        CHECK(edge_next(&e, 1, 0, 0, &got) == MSC4203_ITEM && got.number == numbers[0]);
        edge_device(0, &who);
        CHECK(e.queue.count(&e.log, 0, &who, &counts) == MSC4203_OK);
        CHECK(counts.messages == devices - 1);
        CHECK(e.queue.done(&e.log, 1, NULL, numbers[0], NULL) == MSC4203_OK);
        CHECK(edge_next(&e, 1, 0, 0, &got) == MSC4203_END);
        CHECK(edge_push(&e, 0, 2, 3, 40, &numbers[1]) == MSC4203_OK);
        CHECK(e.queue.flush(&e.log) == MSC4203_OK);
        CHECK(edge_next(&e, 1, 0, 0, &got) == MSC4203_ITEM && got.number == numbers[1]);
        CHECK(edge_open(&e) == MSC4203_OK);
        CHECK(edge_next(&e, 1, 0, 0, &got) == MSC4203_ITEM && got.number == numbers[1]);
        edge_free(&e);
    }
}

/* Looking for what dropped devices have, a message is found whose device is not known. */
static void test_drop_beside(void)
{
    static struct edge e;
    msc4203_message got;
    msc4203_device who;
    msc4203_span record = contract_span("record");
    uint64_t numbers[2];
    unsigned i;

    edge_init(&e, 32 * 1024);
    for (i = 0; i < 2; i++)
        CHECK(edge_push(&e, i, 2, 1 + i, 40, &numbers[i]) == MSC4203_OK);
    CHECK(e.queue.flush(&e.log) == MSC4203_OK);
    CHECK(e.queue.hold(&e.log, 1, numbers[1], &record) == MSC4203_OK);
    edge_device(1, &who);
    CHECK(e.queue.drop(&e.log, &who, NULL) == MSC4203_OK);
    CHECK(msc4203_log_close(&e.log) == MSC4203_OK);
    forge_index(&e, e.log.priv.device_at + 2, 0x01020304);
    CHECK(edge_open(&e) == MSC4203_OK);
    CHECK(edge_next(&e, 1, 0, 0, &got) == MSC4203_ITEM && got.number == numbers[0]);
    CHECK(edge_next(&e, 1, 0, numbers[0], &got) == MSC4203_ITEM && got.number == numbers[1]);
    CHECK(e.queue.hold(&e.log, 1, numbers[0], &record) == MSC4203_OK);
    CHECK(edge_next(&e, 1, 0, 0, &got) == MSC4203_ITEM && got.number == numbers[0]);
    CHECK(edge_next(&e, 1, 0, numbers[0], &got) == MSC4203_END);
    edge_free(&e);
}

/* A message between two damaged ones can't be reached any more, and is not kept for ever. */
static void test_cut_off(void)
{
    static struct edge e;
    msc4203_message got;
    msc4203_log_usage usage;
    uint64_t numbers[5], damaged = 0;
    unsigned i, lap;

    edge_init(&e, 32 * 1024);
    for (i = 0; i < 5; i++)
        CHECK(edge_push(&e, 0, 2, 1 + i, 40, &numbers[i]) == MSC4203_OK);
    CHECK(e.queue.flush(&e.log) == MSC4203_OK);
    for (i = 1; i < 5; i += 2)
        edge_hurt(&e, numbers[i]);
    for (lap = 0; lap < 3; lap++) {
        for (i = 0; i < 40; i++)
            edge_pass(&e, i);
        msc4203_log_usage_get(&e.log, &usage);
        CHECK(usage.damaged != 0 && (lap == 0 || usage.damaged == damaged));
        damaged = usage.damaged;
        CHECK(usage.messages == 2);
    }
    CHECK(edge_next(&e, 1, 0, 0, &got) == MSC4203_ITEM && got.number == numbers[0]);
    CHECK(edge_next(&e, 1, 0, numbers[0], &got) == MSC4203_ITEM && got.number == numbers[4]);
    CHECK(edge_next(&e, 1, 0, numbers[4], &got) == MSC4203_END);
    edge_free(&e);
}

/* What next() found last is damaged when it goes on; the counts after that are of what there is. */
static void test_damaged_last(void)
{
    static struct edge e;
    msc4203_message got;
    msc4203_log_usage usage;
    msc4203_counts counts;
    msc4203_device who;
    uint64_t numbers[4];
    unsigned i;

    edge_init(&e, 32 * 1024);
    for (i = 0; i < 4; i++)
        CHECK(edge_push(&e, 1, 7, 1 + i, 40, &numbers[i]) == MSC4203_OK);
    CHECK(e.queue.flush(&e.log) == MSC4203_OK);
    CHECK(edge_next(&e, 1, 0, 0, &got) == MSC4203_ITEM && got.number == numbers[0]);
    edge_hurt(&e, numbers[0]);
    CHECK(edge_next(&e, 1, 0, numbers[0], &got) == MSC4203_ITEM && got.number == numbers[1]);
    msc4203_log_usage_get(&e.log, &usage);
    CHECK(usage.messages == 3 && usage.damaged != 0); /* each once, though on three chains */
    edge_device(1, &who);
    CHECK(e.queue.count(&e.log, 0, &who, &counts) == MSC4203_OK && counts.messages == 3 &&
          counts.first == numbers[1]);
    for (i = 0; i < 3; i++)
        CHECK(e.queue.count(&e.log, i, NULL, &counts) == MSC4203_OK && counts.messages == 3);
    edge_free(&e);
}

/* Looking for what a dropped device has begins with moving on what lies at the ring's beginning:
 * the first of the chain, for one. */
static void test_drop_moves_on(void)
{
    static struct edge e;
    msc4203_message got;
    msc4203_device who;
    uint64_t numbers[6], number = 0;
    unsigned takes, fill, i;
    unsigned long moved = 0;
    uint32_t tail;

    edge_device(1, &who);
    for (fill = 4; fill < 12; fill++) {
        for (takes = 0; takes < 40; takes++) {
            edge_init(&e, 32 * 1024);
            for (i = 0; i < 6; i++)
                CHECK(edge_push(&e, i & 1, 2, 1 + i, 40, &numbers[i]) == MSC4203_OK);
            for (i = 0; i < 8; i++) /* of which it takes out first */
                CHECK(edge_push(&e, 1, 1, i, 8, NULL) == MSC4203_OK);
            for (i = 0; i < fill + 40; i++) /* the larger ones first */
                CHECK(edge_push(&e, 5, 1u << MSC4203_CHANNEL_PARKED, i, i < fill ? 700 : 8,
                                &number) == MSC4203_OK);
            CHECK(e.queue.flush(&e.log) == MSC4203_OK);
            for (i = 0; i <= takes; i++) { /* which needs less room than a push does */
                CHECK(e.queue.done(&e.log, MSC4203_CHANNEL_PARKED, NULL, number - 40 + i, NULL) ==
                      MSC4203_OK);
                CHECK(e.queue.flush(&e.log) == MSC4203_OK);
            }
            tail = e.log.priv.tail;
            CHECK(e.queue.drop(&e.log, &who, NULL) == MSC4203_OK);
            moved += tail != e.log.priv.tail;
            for (i = 0; i < 6; i += 2) {
                CHECK(edge_next(&e, 1, 0, i == 0 ? 0 : numbers[i - 2], &got) == MSC4203_ITEM);
                CHECK(got.number == numbers[i] && edge_is_whole(&got));
            }
            CHECK(edge_next(&e, 1, 0, numbers[4], &got) == MSC4203_END);
            CHECK(e.log.priv.damaged == 0);
            edge_free(&e);
        }
    }
    CHECK(moved > 5);
}

/* Whoever has a batch open while the log is mended is told, and nobody else gets its handle. */
static void test_mended_batch(void)
{
    static struct edge e;
    msc4203_message message, got;
    uint64_t numbers[2], first;
    uint32_t batch, other;
    unsigned i;

    edge_init(&e, 32 * 1024);
    for (i = 0; i < 2; i++)
        CHECK(edge_push(&e, 0, 2, 1 + i, 40, &numbers[i]) == MSC4203_OK);
    CHECK(e.queue.flush(&e.log) == MSC4203_OK);
    CHECK(e.queue.begin(&e.log, &batch) == MSC4203_OK);
    edge_message(2, 2, 3, 40, &message);
    CHECK(e.queue.push(&e.log, batch, &message) == MSC4203_OK);
    edge_hurt(&e, numbers[0]);
    CHECK(edge_next(&e, 1, 0, 0, &got) == MSC4203_ITEM && got.number == numbers[1]);
    CHECK(e.queue.begin(&e.log, &other) == MSC4203_OK && other != batch);
    CHECK(e.queue.push(&e.log, other, &message) == MSC4203_OK);
    CHECK(e.queue.push(&e.log, batch, &message) == MSC4203_E_BATCH);
    CHECK(e.queue.commit(&e.log, other, NULL, &first) == MSC4203_OK);
    CHECK(e.queue.commit(&e.log, batch, NULL, &first) == MSC4203_E_BATCH);
    CHECK(e.queue.begin(&e.log, &other) == MSC4203_OK && other == batch); /* it is free again */
    CHECK(e.queue.abort(&e.log, other) == MSC4203_OK);
    edge_free(&e);
}

/* The journal that alone told of a device is damaged; those behind it are not. */
static void test_first_journal(void)
{
    static struct edge e;
    msc4203_message got;
    struct found f;
    uint64_t numbers[3], after;
    unsigned i, devices;

    for (devices = 1; devices <= 2; devices++) {
        edge_init(&e, 32 * 1024);
        for (i = 0; i < devices; i++) {
            CHECK(edge_push(&e, i, 1, 9, 40, NULL) == MSC4203_OK);
            CHECK(msc4203_log_close(&e.log) == MSC4203_OK && edge_open(&e) == MSC4203_OK);
        }
        for (i = 0; i < 3; i++) {
            CHECK(edge_push(&e, 3, 1, 1 + i, 40, &numbers[i]) == MSC4203_OK);
            CHECK(e.queue.flush(&e.log) == MSC4203_OK);
        }
        CHECK(edge_scan(&e, &f, 1, numbers[0], 0, 3200) == MSC4203_OK && f.at != 0);
        f.at += (uint64_t)e.region[f.at] * 8;
        CHECK(e.region[f.at + 3] == 3); /* a journal */
        e.region[f.at + 30] ^= 1;
        CHECK(edge_open(&e) == MSC4203_OK && e.log.priv.damaged != 0);
        for (after = 0, i = 0; i < 3; after = got.number, i++)
            CHECK(edge_next(&e, 0, 3, after, &got) == MSC4203_ITEM && got.number == numbers[i]);
        CHECK(edge_next(&e, 0, 3, after, &got) == MSC4203_END);
        edge_free(&e);
    }
}

/* The place of a message's record, wherever it was moved. */
static uint64_t edge_find(struct edge *e, uint64_t number)
{
    struct found f;

    if (edge_scan(e, &f, 2, number, 0, 320000) == MSC4203_OK && f.at == 0)
        edge_scan(e, &f, 1, number, 0, 320000);
    return f.at;
}

/* What was moved on is damaged before what follows it on its chain is moved on. */
static void test_damaged_ahead(void)
{
    static struct edge e;
    msc4203_message got;
    uint64_t a, b, number, a_at, b_at, at;
    unsigned i, hit = 0, gone = 0;

    edge_init(&e, 128 * 1024);
    CHECK(edge_push(&e, 1, 1, 1, 40, &a) == MSC4203_OK);
    for (i = 0; i < 16; i++)
        CHECK(edge_push(&e, 2, 2, i, 900, &number) == MSC4203_OK);
    CHECK(edge_push(&e, 1, 1, 2, 40, &b) == MSC4203_OK);
    CHECK(e.queue.flush(&e.log) == MSC4203_OK);
    a_at = edge_find(&e, a);
    b_at = edge_find(&e, b);
    for (i = 0; i < 400 && !gone; i++) {
        edge_pass(&e, i);
        at = edge_find(&e, a);
        gone = hit && edge_find(&e, b) != b_at;
        if (!hit && at != a_at && at != 0 && edge_find(&e, b) == b_at) {
            e.region[at + 40] ^= 1;
            hit = 1;
        }
    }
    CHECK(hit && gone && e.log.priv.damaged != 0);
    CHECK(edge_next(&e, 0, 1, 0, &got) == MSC4203_ITEM && got.number == b);
    CHECK(edge_is_whole(&got) && edge_open(&e) == MSC4203_OK);
    CHECK(edge_next(&e, 0, 1, 0, &got) == MSC4203_ITEM && got.number == b);
    edge_free(&e);
}

/* Puts in a batch whose journal takes several records. */
enum { BATCH_LARGE = 60 };

static int edge_push_many(struct edge *e, uint64_t *first)
{
    msc4203_message message;
    uint32_t batch;
    unsigned i;
    int result = e->queue.begin(&e->log, &batch);

    *first = 0;
    for (i = 0; i < BATCH_LARGE && result == MSC4203_OK; i++) {
        edge_message(i % 5, 2, i, 8, &message);
        result = e->queue.push(&e->log, batch, &message);
    }
    if (result == MSC4203_OK)
        result = e->queue.commit(&e->log, batch, NULL, first);
    return result == MSC4203_OK ? e->queue.flush(&e->log) : result;
}

static unsigned edge_count(struct edge *e, uint64_t *last)
{
    msc4203_message got;
    unsigned count = 0;

    for (*last = 0; edge_next(e, 1, 0, *last, &got) == MSC4203_ITEM; *last = got.number)
        count++;
    return count;
}

/* The records of an operation's journal count all or not at all: each write fails, and the ring's
 * end comes between them. */
static void test_parts(void)
{
    static struct edge e;
    uint64_t first, last;
    unsigned long call, parted = 0;
    unsigned i, count;
    int failed = 1;

    edge_init(&e, 64 * 1024);
    for (i = 0; i < 100; i++) {
        uint32_t base = e.log.priv.base, end;
        CHECK(edge_push_many(&e, &first) == MSC4203_OK);
        end = e.log.priv.end - e.log.priv.base;
        parted += base != e.log.priv.base && end * 8 < 4000; /* less than its journal takes */
        CHECK(edge_open(&e) == MSC4203_OK && e.log.priv.damaged == 0);
        CHECK(edge_count(&e, &last) == BATCH_LARGE && last == first + BATCH_LARGE - 1);
        CHECK(e.queue.done(&e.log, 1, NULL, last, NULL) == MSC4203_OK);
        CHECK(e.queue.flush(&e.log) == MSC4203_OK);
    }
    CHECK(parted > 2);
    edge_keep(&e);
    for (call = 1; failed && call < 2000; call++) {
        edge_back(&e);
        CHECK(edge_open(&e) == MSC4203_OK);
        e.fail_at = e.calls + call;
        e.lasting = 1;
        CHECK(edge_push_many(&e, &first) == MSC4203_OK || e.calls >= e.fail_at);
        failed = e.calls >= e.fail_at;
        e.fail_at = 0;
        CHECK(edge_open(&e) == MSC4203_OK);
        count = edge_count(&e, &last);
        CHECK(count == BATCH_LARGE || (failed && count == 0));
    }
    CHECK(!failed);
    edge_free(&e);
}

/* Acknowledging messages of many devices takes several steps: the storage fails at each call. */
static void test_many_devices(void)
{
    static struct edge e;
    msc4203_message message;
    char name[8];
    uint64_t number = 0;
    unsigned long call;
    uint32_t batch;
    unsigned i;
    int result, failed = 1;

    edge_init(&e, 64 * 1024);
    e.config.devices = 60;
    free(e.index);
    e.index_bytes = msc4203_log_memory(&e.log, &e.config, e.bytes);
    e.index = malloc(e.index_bytes);
    CHECK(msc4203_log_format(&e.log, &e.storage, &e.config, 1) == MSC4203_OK);
    CHECK(edge_open(&e) == MSC4203_OK);
    for (i = 0; i < 50; i++) {
        edge_message(0, 2, i, 40, &message);
        sprintf(name, "D%u", i);
        message.item.device_id = contract_span(name);
        CHECK(e.queue.begin(&e.log, &batch) == MSC4203_OK);
        CHECK(e.queue.push(&e.log, batch, &message) == MSC4203_OK);
        CHECK(e.queue.commit(&e.log, batch, NULL, &number) == MSC4203_OK);
    }
    CHECK(e.queue.flush(&e.log) == MSC4203_OK);
    edge_keep(&e);
    for (call = 1; failed && call < 2000; call++) {
        edge_back(&e);
        CHECK(edge_open(&e) == MSC4203_OK);
        e.fail_at = e.calls + call;
        e.lasting = 1;
        result = e.queue.done(&e.log, 1, NULL, number, NULL);
        if (result == MSC4203_OK)
            result = e.queue.flush(&e.log);
        failed = e.calls >= e.fail_at;
        CHECK(result == (failed ? MSC4203_E_STORAGE : MSC4203_OK));
        e.fail_at = 0;
        CHECK(edge_open(&e) == MSC4203_OK && e.log.priv.damaged == 0);
        CHECK(e.queue.done(&e.log, 1, NULL, number, NULL) == MSC4203_OK);
        CHECK(edge_next(&e, 1, 0, 0, &message) == MSC4203_END);
    }
    CHECK(!failed);
    edge_free(&e);
}

/* The last time: from the messages, when the commit that told it is damaged; and when it is later
 * than the log can tell. */
static void test_last_time(void)
{
    static struct edge e;
    msc4203_message message;
    msc4203_counts counts;
    uint64_t number = 0, at;
    uint32_t batch;

    edge_init(&e, 32 * 1024);
    at = e.log.priv.ring_at + (uint64_t)(e.log.priv.end - e.log.priv.base) * 8;
    CHECK(edge_push(&e, 0, 2, 9000, 40, &number) == MSC4203_OK);
    CHECK(e.queue.flush(&e.log) == MSC4203_OK);
    CHECK(edge_push(&e, 1, 2, 9001, 40, &number) == MSC4203_OK);
    CHECK(e.queue.flush(&e.log) == MSC4203_OK);
    at += (uint64_t)e.region[at] * 8;
    CHECK(e.region[at + 3] == 3); /* the journal of the first commit */
    e.region[at + 24] ^= 1;
    CHECK(edge_open(&e) == MSC4203_OK);
    CHECK(e.queue.count(&e.log, 0, NULL, &counts) == MSC4203_OK);
    CHECK(counts.time_ms == 10001 / 1024 * 1024);
    edge_message(2, 2, 1, 40, &message);
    message.time_ms = (uint64_t)1 << 42;
    CHECK(e.queue.begin(&e.log, &batch) == MSC4203_OK);
    CHECK(e.queue.push(&e.log, batch, &message) == MSC4203_OK);
    CHECK(e.queue.commit(&e.log, batch, NULL, &number) == MSC4203_OK);
    CHECK(e.queue.count(&e.log, 0, NULL, &counts) == MSC4203_OK);
    CHECK(counts.time_ms == (uint64_t)UINT32_MAX << 10);
    edge_free(&e);
}

int main(void)
{
    test_seed(0xED6E);
    test_rot(2000 * test_scale() / test_share());
    test_refused();
    test_arguments();
    test_limits();
    test_quota();
    test_old_batch();
    test_requests();
    test_drop();
    test_forged_headers();
    test_forged_records();
    test_forged_journals();
    test_damaged_channel();
    test_each_call();
    test_copied_devices();
    test_links();
    test_damaged_batch();
    test_lost_device();
    test_other_devices();
    test_drop_beside();
    test_cut_off();
    test_damaged_last();
    test_drop_moves_on();
    test_mended_batch();
    test_first_journal();
    test_damaged_ahead();
    test_parts();
    test_many_devices();
    test_no_room();
    test_all_channels();
    test_last_time();
    return test_end("edges");
}
