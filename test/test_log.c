/* test_log.c - the log on every kind of sector: the contract with a model beside it; filled and
 * emptied; what it writes, and how that grows; what it remembers over many rounds of the region. */
#include "log_bench.h"

static void test_models(void)
{
    unsigned long some = test_shared(20000, 2000);
    unsigned i;

    test_model("memory", &shapes[0], 96 * 1024, 1, 0, some * 3 / 2, 0, 0);
    for (i = 0; i < SHAPES; i++) {
        const struct shape *shape = &shapes[i];
        size_t bytes = shape->bytes * (shape->bytes > 100000 ? 1 : 3);

        test_model(shape->name, shape, bytes, 0, i * 1000, some / 2, 0, 0);
    }
    test_model("small", &shapes[SHAPE_512], 24 * 1024, 0, 0, some, 0, 1);
    test_model("pinned", &shapes[0], 64 * 1024, 1, 0, some, 1, 0);
    test_model("pinned, 512", &shapes[SHAPE_512], 64 * 1024, 0, 5000, some, 1, 0);
}

/* ---- full, and emptied again ---- */

enum {
    BY_DONE, BY_DONE_RECORD, BY_SYNC, BY_MOVE, BY_DROP, BY_ALL, WAYS,
    EMPTIED_DEVICES = 48
};

struct emptied {
    struct bench bench;
    size_t content;
    int way, crashes;
    uint32_t batches[8];
    size_t record_bytes;
    unsigned long count, room, removed, refused;
    struct {
        uint64_t number;
        unsigned device;
    } *list;
};

static const char emptied_text[4096] = "record";

/* Pushes until the log is full. */
static void emptied_fill(struct emptied *e)
{
    struct bench *b = &e->bench;
    uint32_t batch, channels = e->way == BY_SYNC ? 1 : e->way == BY_ALL ? 3 : 2;
    int result = MSC4203_OK;

    e->count = 0;
    while (result == MSC4203_OK) {
        unsigned n = 0, k, most = 1 + (unsigned)test_below(e->content > 1000 ? 2 : 8);
        unsigned device = (unsigned)test_below(EMPTIED_DEVICES);
        uint64_t first = 0;

        result = b->queue.begin(b->queue.context, &batch);
        if (!CHECK(result == MSC4203_OK))
            break;
        while (n < most && (result = bench_add(b, batch, channels, device, e->content)) ==
                               MSC4203_OK)
            n++;
        if (result == MSC4203_OK || n != 0) { /* what came before the one that did not fit */
            int kept = MSC4203_OK;
            if (result != MSC4203_OK) {
                CHECK(b->queue.abort(b->queue.context, batch) == MSC4203_OK);
                CHECK(b->queue.begin(b->queue.context, &batch) == MSC4203_OK);
                for (k = 0; k + 1 < n && kept == MSC4203_OK; k++)
                    kept = bench_add(b, batch, channels, device, e->content);
                n = k;
            }
            if (kept == MSC4203_OK)
                kept = b->queue.commit(b->queue.context, batch, NULL, &first);
            else
                CHECK(b->queue.abort(b->queue.context, batch) == MSC4203_OK);
            for (k = 0; k < n && kept == MSC4203_OK; k++) {
                if (e->count == e->room) {
                    e->room = e->room * 2 + 64;
                    e->list = realloc(e->list, e->room * sizeof *e->list);
                    if (e->list == NULL)
                        exit(2);
                }
                e->list[e->count].number = first + k;
                e->list[e->count++].device = device;
            }
            result = result == MSC4203_OK ? kept : result;
        } else {
            CHECK(b->queue.abort(b->queue.context, batch) == MSC4203_OK);
        }
        if (test_below(8) == 0)
            CHECK(bench_flush(b) == MSC4203_OK);
    }
    CHECK_CASE(result == MSC4203_E_QUEUE_FULL, msc4203_result_text(result));
    CHECK(bench_flush(b) == MSC4203_OK);
}

static uint64_t emptied_waiting(struct emptied *e)
{
    msc4203_log_usage usage;

    msc4203_log_usage_get(&e->bench.log, &usage);
    CHECK(usage.damaged == 0);
    return usage.messages;
}

/* Takes out one message, or all up to it, or all of its device: returns what the queue said. */
static int emptied_take(struct emptied *e, unsigned long i, int way)
{
    msc4203_queue *q = &e->bench.queue;
    msc4203_span record;
    msc4203_device who;
    char name[16];

    record.ptr = emptied_text;
    record.len = e->record_bytes;
    bench_device(e->list[i].device, name, &who);
    switch (way) {
    case BY_DONE:
        return q->done(q->context, 1, NULL, e->list[i].number, NULL);
    case BY_DONE_RECORD:
        return q->done(q->context, 1, NULL, e->list[i].number, &record);
    case BY_SYNC:
        return q->done(q->context, 0, &who, e->list[i].number, NULL);
    case BY_MOVE:
        return q->move(q->context, 1, NULL, e->list[i].number, 0, NULL);
    default:
        return q->drop(q->context, &who, NULL);
    }
}

/* The power goes now and then; what was flushed is as it was. */
static void emptied_crash(struct emptied *e)
{
    uint64_t waiting = emptied_waiting(e);
    struct bench *b = &e->bench;

    fake_crash(&b->fake);
    if (!CHECK(bench_open(b) == MSC4203_OK))
        exit(1);
    if (!CHECK(emptied_waiting(e) == waiting))
        printf("  %lu wait, not %lu\n", (unsigned long)emptied_waiting(e),
               (unsigned long)waiting);
    memset(e->batches, 0, sizeof e->batches);
}

static void emptied_empty(struct emptied *e)
{
    struct bench *b = &e->bench;
    unsigned long i, k, calls = 0;
    unsigned pass;
    int result;

    for (i = e->count; e->way == BY_MOVE && i > 1; i--) { /* in any order */
        uint64_t number = e->list[i - 1].number;
        unsigned device = e->list[i - 1].device;
        k = test_below(i);
        e->list[i - 1] = e->list[k];
        e->list[k].number = number;
        e->list[k].device = device;
    }
    for (pass = 0; pass < (e->way == BY_ALL ? 2u : 1u); pass++)
        for (i = 0; i < e->count && bench_goes_on(); i++) {
            int way = e->way != BY_ALL ? e->way : pass == 0 ? BY_DONE_RECORD : BY_SYNC;

            result = emptied_take(e, i, way);
            if (!CHECK_CASE(result == MSC4203_OK || (way == BY_MOVE && result == MSC4203_END),
                            msc4203_result_text(result)))
                printf("  way %d, message %lu of %lu\n", way, i, e->count);
            result = bench_flush(b);
            CHECK_CASE(result == MSC4203_OK, msc4203_result_text(result));
            calls++;
            if (e->crashes && test_below(60) == 0)
                emptied_crash(e);
            if (e->way == BY_DROP && i + 1 >= EMPTIED_DEVICES && emptied_waiting(e) == 0)
                break;
        }
    CHECK(emptied_waiting(e) == 0);
    e->removed += calls;
}

/* Messages of batches that stay open. */
static void emptied_open(struct emptied *e, unsigned count)
{
    struct bench *b = &e->bench;
    unsigned i;

    for (i = 0; i < count; i++) {
        CHECK(b->queue.begin(b->queue.context, &e->batches[i]) == MSC4203_OK);
        CHECK(bench_add(b, e->batches[i], 2, i, e->content < 500 ? e->content : 500) ==
              MSC4203_OK);
    }
}

static void emptied_commit(struct emptied *e, unsigned count)
{
    struct bench *b = &e->bench;
    uint64_t first;
    unsigned i;

    for (i = 0; i < count; i++) {
        int result;
        if (e->batches[i] == 0)
            continue;
        result = b->queue.commit(b->queue.context, e->batches[i], NULL, &first);
        e->refused += result == MSC4203_E_BATCH;
        CHECK(result == MSC4203_OK || result == MSC4203_E_BATCH);
        CHECK(bench_flush(b) == MSC4203_OK);
    }
    CHECK(b->queue.done(b->queue.context, 1, NULL, UINT64_MAX, NULL) == MSC4203_OK);
    CHECK(bench_flush(b) == MSC4203_OK);
}

/* All channels, with a record of 4 KB each. */
static void emptied_records(struct emptied *e)
{
    struct bench *b = &e->bench;
    msc4203_span record;
    uint32_t channel;
    unsigned i;

    record.ptr = emptied_text;
    record.len = sizeof emptied_text;
    for (i = MSC4203_CHANNEL_FIRST; i < MSC4203_CHANNEL_PARKED; i++) {
        char text[256];
        msc4203_span name;

        memset(text, 'n', sizeof text);
        text[0] = (char)('A' + i);
        name.ptr = text;
        name.len = 255;
        CHECK(b->queue.channel(b->queue.context, &name, 1, &channel) == MSC4203_OK);
        CHECK(b->queue.hold(b->queue.context, channel, 0, &record) == MSC4203_OK);
    }
    CHECK(b->queue.hold(b->queue.context, MSC4203_CHANNEL_PARKED, 0, &record) == MSC4203_OK);
    CHECK(bench_flush(b) == MSC4203_OK);
}

static size_t emptied_bytes(const struct shape *shape)
{
    return shape->bytes > 100000 ? 512 * 1024 : shape->step >= 4096 ? 256 * 1024 : 96 * 1024;
}

static void test_emptied(const struct shape *shape, size_t content, int way, int records,
                         unsigned batches, unsigned rounds)
{
    static struct emptied e;
    struct bench *b = &e.bench;
    msc4203_log_config config;
    unsigned long most = 0;
    unsigned round;

    bench_test();
    memset(&e, 0, sizeof e);
    bench_storage(b, shape, records ? 2 * 1024 * 1024 : emptied_bytes(shape), 0, 1);
    b->config.message_bytes = 0;
    b->config.messages = (uint32_t)(b->fake.bytes / 64);
    b->config.devices = EMPTIED_DEVICES;
    bench_start(b, 0);
    CHECK(msc4203_log_inspect(&b->log, b->storage, &config) == MSC4203_OK);
    CHECK(bench_open(b) == MSC4203_OK);
    e.content = content != 0 ? content : config.message_bytes - BENCH_IDS;
    e.way = way;
    e.record_bytes = records ? sizeof emptied_text : 100;
    if (records)
        emptied_records(&e);
    for (round = 0; round < rounds && bench_goes_on(); round++) {
        unsigned long failed = test_failed;

        e.crashes = round != 0;
        emptied_open(&e, batches);
        emptied_fill(&e);
        most = e.count > most ? e.count : most;
        CHECK(e.count != 0 && (e.count * 10 >= most * 9 || e.count + 1 == most));
        emptied_empty(&e);
        emptied_commit(&e, batches);
        if (test_failed != failed)
            printf("  %s: contents of %lu bytes, way %d, round %u\n", shape->name,
                   (unsigned long)e.content, way, round);
    }
    printf("emptied, %s: contents of %lu bytes%s%s, way %d: %lu messages at most, %.0f %% of the "
           "region; %lu removed each with a flush, %lu batches given up, round %lu times\n",
           shape->name, (unsigned long)e.content, records ? ", records" : "",
           batches ? ", batches" : "", way, most,
           (double)most * (double)(e.content + BENCH_IDS) * 100 / (double)b->fake.bytes, e.removed,
           e.refused, bench_rounds(b));
    free(e.list);
    bench_free(b);
}

static void test_all_emptied(void)
{
    unsigned i, k, ways = 0, rounds = test_scale() > 1 ? 4 : 2;

    for (i = 0; i < (test_tiny() ? 3u : (unsigned)SHAPES); i++) {
        static const size_t contents[] = {1, 1024, 0};

        if (test_share() > 8 && i % 2 == 0)
            continue;
        for (k = 0; k < 3; k++) {
            int way = (int)(ways++ % WAYS), last;

            for (last = test_scale() > 1 ? WAYS : 2; last > 0; last--)
                test_emptied(&shapes[i], contents[k], (way + last) % WAYS, 0,
                             last & 1 ? 0 : 6, rounds);
        }
        if (!test_tiny())
            test_emptied(&shapes[i], 1024, i & 1 ? BY_DONE_RECORD : BY_ALL, 1, 6, rounds);
    }
}

/* Full: what was accepted stays, one out makes room for one, and the capacity is used. */
static void test_full(void)
{
    static struct bench b;
    static char memory[4096];
    msc4203_message got;
    unsigned long count = 0, more = 0, i, lately;
    uint64_t after = 0;
    size_t bytes = (test_tiny() ? 2 : 16) * 1024 * 1024;
    int result;

    bench_storage(&b, &shapes[SHAPE_512], bytes, 1, 0);
    memset(&b.config, 0, sizeof b.config);
    b.config.devices = 256;
    bench_start(&b, 0);
    while ((result = bench_push(&b, 2, (unsigned)count & 63, 1024, NULL)) == MSC4203_OK)
        if (count++ % 10 == 0)
            CHECK(bench_flush(&b) == MSC4203_OK);
    CHECK(result == MSC4203_E_QUEUE_FULL);
    CHECK(bench_flush(&b) == MSC4203_OK);
    printf("full: %lu messages of 1,024 bytes and their ids in %lu MiB: %.1f %% (contents alone: "
           "%.1f %%), index %lu bytes\n", count, (unsigned long)(bytes >> 20),
           (double)count * (1024 + BENCH_IDS) * 100 / (double)bytes,
           (double)count * 1024 * 100 / (double)bytes, (unsigned long)b.index_bytes);
    CHECK(count * (1024 + BENCH_IDS) * 20 >= bytes * (test_tiny() ? 10 : 15));
    for (i = lately = 0; i < 3 * count && !test_tiny(); i++) { /* one out, one in, thrice round */
        result = b.queue.next(b.queue.context, 1, NULL, after, memory, sizeof memory, &got);
        if (!CHECK(result == MSC4203_ITEM && got.item.content.len == 1024))
            break;
        after = got.number;
        CHECK(b.queue.done(b.queue.context, 1, NULL, after, NULL) == MSC4203_OK);
        CHECK(bench_flush(&b) == MSC4203_OK);
        result = bench_push(&b, 2, (unsigned)i & 63, 1024, NULL);
        lately = result == MSC4203_OK ? 0 : lately + 1;
        more += result == MSC4203_OK;
        CHECK(result == MSC4203_OK || result == MSC4203_E_QUEUE_FULL);
        if (!CHECK(lately < 3))
            break;
        CHECK(bench_flush(&b) == MSC4203_OK);
    }
    CHECK(test_tiny() || more * 100 >= i * 99);
    for (more = 0, after = 0; (result = b.queue.next(b.queue.context, 1, NULL, after, memory,
                                                     sizeof memory, &got)) == MSC4203_ITEM;
         more++)
        after = got.number;
    CHECK(result == MSC4203_END && more + 2 >= count);
    CHECK(bench_damaged(&b) == 0);
    bench_free(&b);
}

/* The table of messages is full before the region is, and the table of devices: what there is
 * stays, and room is made by taking one out. */
static void test_tables(void)
{
    static struct bench b;
    msc4203_log_usage usage;
    uint64_t number = 0, first = 0;
    unsigned i, k;

    for (k = 0; k < 2; k++) {
        bench_storage(&b, &shapes[SHAPE_512], 128 * 1024, 0, 1);
        b.config.messages = 100;
        b.config.devices = k == 0 ? 16 : 100;
        bench_start(&b, 0);
        for (i = 0; i < b.config.devices + (k == 0 ? 0u : 1u); i++) {
            int result = bench_push(&b, 2, i, 1, &number);
            first = i == 0 ? number : first;
            CHECK(result == (i < (k == 0 ? 16u : 100u) ? MSC4203_OK : MSC4203_E_QUEUE_FULL));
        }
        if (k == 0) {
            CHECK(bench_push(&b, 2, i, 1, NULL) == MSC4203_E_QUEUE_FULL);
            for (; i < 100; i++)
                CHECK(bench_push(&b, 2, i % 16, 1, NULL) == MSC4203_OK);
            CHECK(bench_push(&b, 2, 0, 1, NULL) == MSC4203_E_QUEUE_FULL);
        }
        CHECK(bench_flush(&b) == MSC4203_OK);
        for (i = 0; i < 300; i++) {
            msc4203_log_usage_get(&b.log, &usage);
            CHECK(usage.messages == 100 && usage.messages_max == 100);
            CHECK(b.queue.done(b.queue.context, 1, NULL, first + i, NULL) == MSC4203_OK);
            CHECK(bench_flush(&b) == MSC4203_OK);
            CHECK(bench_push(&b, 2, i % b.config.devices, 1, &number) == MSC4203_OK);
            CHECK(bench_push(&b, 2, i % b.config.devices, 1, NULL) == MSC4203_E_QUEUE_FULL);
            CHECK(number >= first + 100 + i);
            if (i % 10 == 3) {
                CHECK(bench_flush(&b) == MSC4203_OK);
                fake_crash(&b.fake);
                CHECK(bench_open(&b) == MSC4203_OK);
                msc4203_log_usage_get(&b.log, &usage);
                CHECK(usage.messages == 100 && usage.devices == b.config.devices);
                break; /* numbers go on elsewhere */
            }
        }
        CHECK(b.queue.done(b.queue.context, 1, NULL, UINT64_MAX, NULL) == MSC4203_OK);
        msc4203_log_usage_get(&b.log, &usage);
        CHECK(usage.messages == 0 && usage.devices == 0);
        bench_free(&b);
    }
}

/* ---- what is written ---- */

/* A message of 1 KB, put in, delivered and acknowledged with a flush each, costs three sectors and
 * three syncs; that no sector is written twice, the storage itself looks at. */
static void test_writes(const struct shape *shape, double sectors)
{
    static struct bench b;
    static char memory[4096];
    msc4203_span record = contract_span("{\"id\":\"a transaction\",\"through\":1234567890}");
    msc4203_message got;
    unsigned long i, count = 1000, was, syncs;
    uint64_t number;

    bench_storage(&b, shape, 1024 * 1024, 0, 0);
    b.config.message_bytes = 0;
    bench_start(&b, 0);
    was = b.fake.sectors;
    syncs = b.fake.syncs;
    for (i = 0; i < count; i++) {
        CHECK(bench_push(&b, 2, (unsigned)i % 8, 1024, &number) == MSC4203_OK);
        CHECK(bench_flush(&b) == MSC4203_OK);
        CHECK(b.queue.next(b.queue.context, 1, NULL, 0, memory, sizeof memory, &got) ==
                  MSC4203_ITEM && got.number == number);
        CHECK(b.queue.hold(b.queue.context, 1, number, &record) == MSC4203_OK);
        CHECK(bench_flush(&b) == MSC4203_OK);
        CHECK(b.queue.done(b.queue.context, 1, NULL, number, &record) == MSC4203_OK);
        CHECK(bench_flush(&b) == MSC4203_OK);
    }
    was = b.fake.sectors - was;
    syncs = b.fake.syncs - syncs;
    printf("writes, %s: %.3f sectors and %.3f syncs for a message of 1 KB with three flushes, "
           "%.3f erases\n", shape->name, (double)was / (double)count,
           (double)syncs / (double)count, (double)b.fake.erases / (double)count);
    CHECK((double)was <= sectors * (double)count);
    CHECK(syncs == 3 * count);
    bench_free(&b);
}

/* A batch is packed: many messages need no more than their bytes, and one sync. */
static void test_packed(void)
{
    static struct bench b;
    unsigned long i, k, was, syncs;
    uint32_t batch;
    uint64_t first;

    bench_storage(&b, &shapes[SHAPE_4096], 2 * 1024 * 1024, 0, 0);
    b.config.message_bytes = 0;
    b.config.messages = 0;
    bench_start(&b, 0);
    for (i = 0; i < 20; i++) {
        was = b.fake.sectors;
        syncs = b.fake.syncs;
        CHECK(b.queue.begin(b.queue.context, &batch) == MSC4203_OK);
        for (k = 0; k < 40; k++)
            CHECK(bench_add(&b, batch, 2, (unsigned)k % 8, 1024) == MSC4203_OK);
        CHECK(b.queue.commit(b.queue.context, batch, NULL, &first) == MSC4203_OK);
        CHECK(bench_flush(&b) == MSC4203_OK);
        CHECK(b.fake.syncs - syncs == 1);
        CHECK((b.fake.sectors - was) * 4096 <= 40 * (1024 + BENCH_IDS + 64) + 2 * 4096);
        syncs = b.fake.syncs;
        was = b.fake.sectors;
        CHECK(bench_flush(&b) == MSC4203_OK); /* nothing is new */
        CHECK(b.fake.sectors == was && b.fake.syncs - syncs <= 1);
    }
    bench_free(&b);
}

/* Blocks wear evenly, also when some messages wait for ever. */
static void test_wear(const struct shape *shape)
{
    static struct bench b;
    uint64_t number = 0;
    uint32_t least, most;
    size_t i, blocks;

    bench_init(&b, shape, shape->bytes * 2, 0, 0);
    for (i = 0; i < 5; i++)
        CHECK(bench_push(&b, 2, (unsigned)i, 900, NULL) == MSC4203_OK);
    for (i = 0; i < test_shared(20000, 4000); i++) {
        CHECK(bench_push(&b, 4, 7, 500, &number) == MSC4203_OK);
        CHECK(bench_flush(&b) == MSC4203_OK);
        CHECK(b.queue.done(b.queue.context, 2, NULL, number, NULL) == MSC4203_OK);
    }
    blocks = b.fake.bytes / shape->block;
    for (i = 0, least = UINT32_MAX, most = 0; i < blocks; i++) {
        least = b.fake.wear[i] < least ? b.fake.wear[i] : least;
        most = b.fake.wear[i] > most ? b.fake.wear[i] : most;
    }
    printf("wear, %s: %lu blocks erased %lu to %lu times\n", shape->name, (unsigned long)blocks,
           (unsigned long)least, (unsigned long)most);
    CHECK(least > 3 && most <= least + 2);
    bench_free(&b);
}

/* How large segments are; that writes go on where the last one ended, or begin a segment, the
 * storage itself looks at. */
static void test_order(void)
{
    unsigned i;

    for (i = 0; i < SHAPES; i++) {
        static struct bench b;

        bench_init(&b, &shapes[i], 256 * 1024, 0, 0);
        bench_age(&b, test_shared(600, 300));
        CHECK(b.fake.bytes / bench_segment(&b) >= 8 && bench_rounds(&b) >= 2);
        CHECK(bench_segment(&b) >= CONTRACT_LARGEST && bench_segment(&b) % b.fake.unit == 0);
        CHECK(shapes[i].block == 0 || bench_segment(&b) % shapes[i].block == 0);
        bench_free(&b);
    }
}

/* ---- how the cost grows ---- */

/* Calls and bytes of each operation with few and with many messages, and devices. */
static void growth(unsigned long waiting, unsigned devices, double *out)
{
    static struct bench b;
    static char memory[4096];
    size_t i, times = waiting / 4 < 2000 ? waiting / 4 : 2000;
    msc4203_message got;
    unsigned long calls;
    uint64_t touched, after = 0, number;
    char name[16];
    int what;

    bench_storage(&b, &shapes[SHAPE_512], waiting * 600 + 4 * 1024 * 1024, 0, 0);
    b.config.messages = (uint32_t)waiting + 4000;
    b.config.devices = 10000 < waiting ? 10000 : (uint32_t)waiting;
    bench_start(&b, 0);
    for (i = 0; i < waiting; i++) {
        if (!CHECK(bench_push(&b, i & 1 ? 1 : 2, (unsigned)(i >> 1) % devices, 100, NULL) ==
                   MSC4203_OK))
            break;
        if (i % 100 == 0)
            CHECK(bench_flush(&b) == MSC4203_OK);
    }
    CHECK(bench_flush(&b) == MSC4203_OK);
    for (what = 0; what < 4; what++) {
        calls = b.fake.calls + b.fake.reads;
        touched = b.fake.touched;
        for (i = 0; i < times; i++) {
            msc4203_device device;
            bench_device((unsigned)(i * 7) % devices, name, &device);
            if (what == 0) {
                CHECK(bench_push(&b, 2, (unsigned)i % devices, 100, &number) == MSC4203_OK);
                CHECK(bench_flush(&b) == MSC4203_OK);
            } else if (what == 1) {
                CHECK(b.queue.next(b.queue.context, 1, NULL, after, memory, sizeof memory, &got) ==
                      MSC4203_ITEM);
                after = got.number;
            } else if (what == 2) {
                int result = b.queue.next(b.queue.context, 0, &device, 0, memory, sizeof memory,
                                          &got);
                if (result == MSC4203_ITEM)
                    CHECK(b.queue.done(b.queue.context, 0, &device, got.number, NULL) ==
                          MSC4203_OK);
                CHECK(result == MSC4203_ITEM || result == MSC4203_END);
            } else {
                CHECK(b.queue.next(b.queue.context, 1, NULL, 0, memory, sizeof memory, &got) ==
                      MSC4203_ITEM);
                CHECK(b.queue.done(b.queue.context, 1, NULL, got.number, NULL) == MSC4203_OK);
                CHECK(bench_flush(&b) == MSC4203_OK);
            }
        }
        out[what * 2] = (double)(b.fake.calls + b.fake.reads - calls) / (double)times;
        out[what * 2 + 1] = (double)(b.fake.touched - touched) / (double)times;
    }
    printf("growth: %lu messages, %u devices: push %.1f calls, %.0f bytes; next %.1f, %.0f; /sync "
           "%.1f, %.0f; done %.1f, %.0f\n", waiting, devices, out[0], out[1], out[2], out[3],
           out[4], out[5], out[6], out[7]);
    /* one message, and nothing else */
    CHECK(out[2] <= 2.0 && out[3] <= 100 + BENCH_IDS + 100);
    bench_free(&b);
}

static void test_growth(void)
{
    double few[8], many[8];
    size_t k;

    growth(1000, 10, few);
    if (!test_tiny()) {
        growth(test_scale() > 1 ? 1000000 : test_share() > 1 ? 20000 : 100000, 10, many);
        for (k = 0; k < 8; k++)
            CHECK(many[k] <= few[k] * 1.5 + (k & 1 ? 100 : 1));
    }
    growth(test_tiny() ? 10000 : 20000, test_tiny() ? 5000 : 10000, many);
    for (k = 0; k < 8; k++)
        CHECK(many[k] <= few[k] * 1.5 + (k & 1 ? 100 : 1));
}

/* ---- what is remembered over many rounds ---- */

static void remember_request(uint32_t id, msc4203_request *request)
{
    contract_request(id, (int)(id % 7), request);
}

/* One message waits for ever while others flow: it stays as it is; so do the last requests, the
 * last openings, names and records, the last time; and no number is given twice. */
static void test_remember(const struct shape *shape, unsigned long count)
{
    static struct bench b;
    static char memory[4096];
    msc4203_span name = contract_span("irc"), record = contract_span("the record"), told;
    msc4203_message got;
    msc4203_request request;
    msc4203_counts counts;
    msc4203_device who;
    uint64_t kept = 0, highest = 0, first, random, randoms[8];
    uint32_t batch, channel, k;
    unsigned long i;
    char id[16];

    bench_test();
    bench_init(&b, shape, shape->bytes * 2, 0, 1);
    memset(randoms, 0, sizeof randoms);
    CHECK(b.queue.channel(b.queue.context, &name, 1, &channel) == MSC4203_OK);
    CHECK(b.queue.hold(b.queue.context, channel, 0, &record) == MSC4203_OK);
    CHECK(bench_push(&b, 1 | 1u << MSC4203_CHANNEL_PARKED, 3, 700, &kept) == MSC4203_OK);
    bench_device(3, id, &who);
    highest = kept;
    for (i = 1; i <= count && bench_goes_on(); i++) {
        remember_request((uint32_t)i, &request);
        CHECK(b.queue.begin(b.queue.context, &batch) == MSC4203_OK);
        CHECK(bench_add(&b, batch, 4, (unsigned)i % 12, 40 + test_below(400)) == MSC4203_OK);
        CHECK(b.queue.commit(b.queue.context, batch, &request, &first) == MSC4203_OK);
        if (!CHECK(first > highest))
            printf("  %lu, not above %lu\n", (unsigned long)first, (unsigned long)highest);
        highest = first;
        if (i % 3 == 0)
            CHECK(bench_flush(&b) == MSC4203_OK);
        CHECK(b.queue.done(b.queue.context, 2, NULL, first, NULL) == MSC4203_OK);
        if (i % 500 != 0)
            continue;
        CHECK(bench_flush(&b) == MSC4203_OK);
        CHECK(b.queue.done(b.queue.context, 2, NULL, first, NULL) == MSC4203_OK);
        if (i % 1000 == 0) {
            CHECK(bench_flush(&b) == MSC4203_OK);
            fake_crash(&b.fake);
        } else {
            CHECK(msc4203_log_close(&b.log) == MSC4203_OK);
            fake_forget(&b.fake);
        }
        if (!CHECK(bench_open(&b) == MSC4203_OK))
            exit(1);
        memmove(randoms + 1, randoms, sizeof randoms - sizeof randoms[0]);
        for (k = 0; k < 8; k++) {
            int result = b.queue.opening(b.queue.context, k, &random, &first);
            if (k == 0) {
                CHECK(result == MSC4203_OK && first > highest);
                randoms[0] = random;
            }
            CHECK(result == MSC4203_OK ? randoms[k] == 0 || random == randoms[k]
                                       : randoms[k] == 0 && result == MSC4203_END);
        }
        for (k = 0; k < CONTRACT_REQUESTS; k++) {
            remember_request((uint32_t)i - k, &request);
            CHECK(i <= k || b.queue.known(b.queue.context, &request) == MSC4203_KNOWN);
        }
        remember_request((uint32_t)i + 1, &request);
        CHECK(b.queue.known(b.queue.context, &request) == MSC4203_OK);
        CHECK(b.queue.next(b.queue.context, 0, &who, 0, memory, sizeof memory, &got) ==
                  MSC4203_ITEM && got.number == kept && got.item.content.len == 700 &&
              got.item.content.ptr[699] == 'x' && got.delivered == 0);
        CHECK(b.queue.next(b.queue.context, 31, NULL, 0, memory, sizeof memory, &got) ==
                  MSC4203_ITEM && got.number == kept);
        CHECK(b.queue.record(b.queue.context, channel, memory, sizeof memory, &name, &told) ==
                  MSC4203_OK && msc4203_span_equal(&name, "irc") &&
              msc4203_span_equal(&told, "the record"));
        CHECK(b.queue.count(b.queue.context, 0, NULL, &counts) == MSC4203_OK &&
              counts.time_ms <= 1000 && counts.messages == 1);
        CHECK(bench_damaged(&b) == 0);
    }
    printf("remembered, %s: %lu messages, round %lu times\n", shape->name, i - 1,
           bench_rounds(&b));
    CHECK(bench_rounds(&b) > 2);
    bench_free(&b);
}

/* Strings may be empty, and then NULL, like the memory for a message of such strings. */
static void test_empty(void)
{
    static struct bench b;
    msc4203_message message, got;
    msc4203_device device;
    uint32_t batch;
    uint64_t first;
    int in_memory;

    memset(&message, 0, sizeof message);
    memset(&device, 0, sizeof device);
    message.channels = 1;
    for (in_memory = 0; in_memory < 2; in_memory++) {
        bench_init(&b, &shapes[SHAPE_512], 64 * 1024, in_memory, 0);
        CHECK(b.queue.begin(b.queue.context, &batch) == MSC4203_OK);
        CHECK(b.queue.push(b.queue.context, batch, &message) == MSC4203_OK);
        CHECK(b.queue.commit(b.queue.context, batch, NULL, &first) == MSC4203_OK);
        CHECK(b.queue.flush(b.queue.context) == MSC4203_OK);
        CHECK(b.queue.next(b.queue.context, 0, &device, 0, NULL, 0, &got) == MSC4203_ITEM);
        CHECK(got.number == first && got.item.content.len == 0 && got.bytes == 0);
        CHECK(b.queue.hold(b.queue.context, MSC4203_CHANNEL_PARKED, 0, &got.item.id) ==
              MSC4203_OK);
        CHECK(b.queue.record(b.queue.context, MSC4203_CHANNEL_PARKED, NULL, 0, &got.item.type,
                             &got.item.id) == MSC4203_OK);
        bench_free(&b);
    }
}

int main(void)
{
    unsigned i;

    test_seed(0x106);
    test_empty();
    test_tables();
    test_order();
    test_writes(&shapes[SHAPE_4096], 3);
    test_writes(&shapes[3], 3);
    test_writes(&shapes[SHAPE_512], 3 + 3); /* the message itself needs three */
    test_writes(&shapes[4], 9);
    test_packed();
    for (i = 0; i < SHAPES; i++)
        if (shapes[i].block != 0)
            test_wear(&shapes[i]);
    test_full();
    test_growth();
    test_all_emptied();
    for (i = 0; i < SHAPES; i++)
        test_remember(&shapes[i], test_scale() > 1 ? 1000000 : test_shared(8000, 2000));
    test_models();
    return test_end("log");
}
