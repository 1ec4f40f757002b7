/* log_bench.h - a log in a fake storage, for the tests of the log: how it is made, opened, crashed
 * and compared with the model of queue_contract.h. */
#ifndef LOG_BENCH_H
#define LOG_BENCH_H

#include "queue_contract.h"
#include "fake_storage.h"

/* A kind of storage. */
struct shape {
    const char *name;
    uint32_t sector, block;
    uint32_t told; /* if not 0: by the configuration, and the storage says 512 */
    size_t bytes;  /* of a small region */
    size_t step;   /* by which it can be larger */
};

/* The sectors that there are, and flash chips. */
static const struct shape shapes[] = {
    {"sectors of 1", 1, 0, 0, 24 * 1024, 16},
    {"sectors of 512", 512, 0, 0, 24 * 1024, 512},
    {"sectors of 4096", 4096, 0, 0, 40 * 1024, 4096},
    {"sectors of 16384", 16384, 0, 0, 144 * 1024, 16384},
    {"flash of 4096", 256, 4096, 0, 40 * 1024, 4096},
    {"flash of 16384", 256, 16384, 0, 144 * 1024, 16384},
    {"told sectors of 4096", 4096, 0, 4096, 40 * 1024, 4096},
};
enum { SHAPES = sizeof shapes / sizeof shapes[0], SHAPE_512 = 1, SHAPE_4096 = 2 };

struct bench {
    struct fake fake;
    msc4203_storage *storage;
    msc4203_storage memory;
    msc4203_log log;
    msc4203_queue queue;
    msc4203_log_config config;
    void *index;
    size_t index_bytes;
    unsigned long openings, crash_in_recovery, kills;
    uint64_t opened[8]; /* random bits of the last openings that succeeded, the newest first */
    unsigned long recover_at; /* not 0: the call of the next recovery at which the power goes */
    int recover_hit;          /* whether it came so far */
    int planned;              /* the power goes only when it is told to, not by chance */
};

/* Whether this is a small machine, with 16 MiB of memory in all: see test/mcu. */
static TEST_UNUSED int test_tiny(void)
{
    return test_share() > 1000;
}

/* So many of so many in this test's share, but not fewer than `least`. */
static TEST_UNUSED unsigned long test_shared(unsigned long count, unsigned long least)
{
    count = count * test_scale() / test_share();
    return count > least ? count : least;
}

/* Whether a test goes on: until it has failed a few times. */
static unsigned long bench_failures;

static TEST_UNUSED void bench_test(void)
{
    bench_failures = test_failed;
}

static TEST_UNUSED int bench_goes_on(void)
{
    return test_failed < bench_failures + 5;
}

/* How long the log's segments are. */
static TEST_UNUSED size_t bench_segment(const struct bench *b)
{
    return (size_t)b->log.priv.segment_units * 16;
}

static TEST_UNUSED uint64_t bench_damaged(const struct bench *b)
{
    msc4203_log_usage usage;

    msc4203_log_usage_get(&b->log, &usage);
    return usage.damaged;
}

static TEST_UNUSED uint64_t bench_random(unsigned long opening)
{
    return 0x1234567890ABCDEFu + 77 * opening;
}

/* The last openings are remembered, in their order; others, that failed, may be between them. */
static TEST_UNUSED void bench_openings(struct bench *b)
{
    uint64_t random, first, before = UINT64_MAX;
    uint32_t back = 0;
    size_t i = 0;

    memmove(b->opened + 1, b->opened, sizeof b->opened - sizeof b->opened[0]);
    b->opened[0] = bench_random(b->openings);
    while (b->queue.opening(b->queue.context, back, &random, &first) == MSC4203_OK) {
        CHECK(first <= before);
        before = first;
        if (i < 8 && random == b->opened[i])
            i++;
        back++;
    }
    if (!CHECK(back >= b->config.openings || i == 8 || b->opened[i] == 0 ||
               (b->storage->memory == NULL && b->storage->write == NULL)))
        printf("  of the last openings %lu are known\n", (unsigned long)i);
    /* one that can't write is not noted */
    if (!CHECK(i > 0 || (b->storage->memory == NULL && b->storage->write == NULL)))
        printf("  this opening is not known\n");
}

/* The log was damaged: openings before the next one may be forgotten. */
static TEST_UNUSED void bench_hurt(struct bench *b)
{
    memset(b->opened, 0, sizeof b->opened);
}

static TEST_UNUSED int bench_open(struct bench *b)
{
    int result = msc4203_log_open(&b->log, b->storage, b->index, b->index_bytes,
                                  bench_random(++b->openings));
    msc4203_log_queue(&b->log, &b->queue);
    if (result == MSC4203_OK) {
        b->fake.segment = bench_segment(b);
        bench_openings(b);
    }
    return result;
}

static TEST_UNUSED int bench_format(struct bench *b)
{
    memset(b->opened, 0, sizeof b->opened);
    return msc4203_log_format(&b->log, b->storage, &b->config, b->index, b->index_bytes,
                              0xFEDCBA9876543210u);
}

/* Gives the log as much memory as it needs, and `more`. */
static TEST_UNUSED void bench_memory(struct bench *b, size_t more)
{
    free(b->index);
    b->index_bytes = msc4203_log_memory(&b->log, b->storage, &b->config) + more;
    b->index = malloc(b->index_bytes);
    if (!CHECK(b->index_bytes != more) || b->index == NULL)
        exit(2);
}

/* The storage, and a configuration for the contract; the region is as large as asked for, or the
 * smallest in which it fits. */
static TEST_UNUSED void bench_storage(struct bench *b, const struct shape *shape, size_t bytes,
                                      int in_memory, int volatile_too)
{
    msc4203_storage storage;

    memset(b, 0, sizeof *b);
    b->config.messages = 80;
    b->config.devices = 16;
    b->config.requests = CONTRACT_REQUESTS;
    b->config.openings = 8;
    b->config.message_bytes = CONTRACT_LARGEST;
    b->config.sector = shape->told;
    memset(&storage, 0, sizeof storage);
    storage.version = 1;
    storage.sector = shape->told != 0 ? 512 : shape->sector;
    storage.block = shape->block;
    storage.memory = in_memory ? (unsigned char *)b : NULL; /* not used */
    for (storage.bytes = bytes; msc4203_log_memory(&b->log, &storage, &b->config) == 0;) {
        storage.bytes += shape->step;
        if (storage.bytes > 8 * bytes) {
            CHECK_CASE(0, "a log fits");
            exit(1);
        }
    }
    bytes = (size_t)storage.bytes;
    fake_init_sectors(&b->fake, bytes, volatile_too, shape->sector, shape->block);
    b->fake.storage.sector = storage.sector;
    b->storage = &b->fake.storage;
    if (in_memory) {
        msc4203_memory_storage(&b->memory, b->fake.seen, bytes);
        b->storage = &b->memory;
    }
}

static TEST_UNUSED void bench_start(struct bench *b, size_t more)
{
    bench_memory(b, more);
    CHECK(bench_format(b) == MSC4203_OK);
    CHECK(bench_open(b) == MSC4203_OK);
    CHECK(bench_damaged(b) == 0);
}

static TEST_UNUSED void bench_init(struct bench *b, const struct shape *shape, size_t bytes,
                                   int in_memory, int volatile_too)
{
    bench_storage(b, shape, bytes, in_memory, volatile_too);
    bench_start(b, 0);
}

static TEST_UNUSED void bench_free(struct bench *b)
{
    fake_free(&b->fake);
    free(b->index);
}

/* The power is gone, or only the process. */
static TEST_UNUSED void bench_crash(struct bench *b)
{
    if (b->fake.durable != NULL && test_below(5) != 0) {
        fake_crash(&b->fake);
        return;
    }
    b->kills += b->fake.durable != NULL;
    b->fake.fail_at = 0;
    fake_forget(&b->fake);
}

static TEST_UNUSED int bench_reopen(struct contract *c, int crash)
{
    struct bench *b = (struct bench *)c->context;
    int result, tries = 0;

    if (!crash) {
        if (test_below(2))
            msc4203_log_close(&b->log);
        fake_forget(&b->fake);
        result = bench_open(b);
        CHECK_CASE(bench_damaged(b) == 0, "opened");
        return result;
    }
    for (;;) {
        bench_crash(b);
        if (b->recover_at != 0) {
            b->fake.fail_at = b->fake.calls + b->recover_at;
            b->recover_at = 0;
        } else if (b->fake.durable != NULL && !b->planned && test_below(4) == 0) { /* by chance */
            b->fake.fail_at = b->fake.calls + 1 + test_below(6);
            b->fake.after = (int)test_below(FAKE_WHENS);
        }
        result = bench_open(b);
        if (result != MSC4203_E_STORAGE) {
            b->fake.fail_at = 0;
            CHECK_CASE(bench_damaged(b) == 0, "opened after a crash");
            return result;
        }
        if (b->fake.fail_at == 0 || ++tries > 100) { /* nothing failed but the log */
            CHECK_CASE(0, "opened after a crash");
            return result;
        }
        b->crash_in_recovery++;
        b->recover_hit = 1;
    }
}

/* Closes the log, which may fail, and opens it again without faults. */
static TEST_UNUSED void bench_close(struct bench *b, struct contract *c)
{
    int result;

    c->doing = "close";
    result = msc4203_log_close(&b->log);
    if (contract_failed(c, result))
        return;
    CHECK(result == MSC4203_OK);
    contract_flushed(c);
    b->fake.fail_at = 0;
    b->fake.fail_once = 0;
    contract_reopen(c, (int)test_below(2));
}

/* The states of the model are large, and need not be empty. */
static TEST_UNUSED struct contract *contract_new(struct bench *b)
{
    static struct contract contract;

    memset(&contract, 0, offsetof(struct contract, now));
    memset(&contract.state_count, 0,
           sizeof contract - offsetof(struct contract, state_count));
    contract.queue = &b->queue;
    contract.context = b;
    contract.reopen = bench_reopen;
    return &contract;
}

/* Empties the channel that bench_age() uses. */
static TEST_UNUSED void contract_park(struct contract *c)
{
    c->doing = "park";
    contract_take(c, 4, -1, UINT64_MAX, UINT64_MAX, 0);
    CHECK(c->queue->done(c->queue->context, MSC4203_CHANNEL_PARKED, NULL, UINT64_MAX, NULL) ==
          MSC4203_OK);
    contract_flush(c);
}

/* How often the log went round. */
static TEST_UNUSED unsigned long bench_rounds(const struct bench *b)
{
    return (unsigned long)((uint64_t)b->fake.sectors * b->fake.unit / b->fake.bytes);
}

static TEST_UNUSED void bench_say(const char *what, const struct contract *c,
                                  const struct bench *b)
{
    printf("%s: %lu operations, %lu messages in %lu batches, %lu taken, %lu moved, %lu repeats, "
           "%lu drops, %lu expired, %lu full, %lu quota, round %lu times\n", what,
           c->operations, c->messages_kept, c->batches_kept, c->taken, c->moves, c->repeats,
           c->dropped, c->expired, c->fulls, c->quotas, bench_rounds(b));
}

/* Puts messages in and takes them out, each with flushes: the log goes on. */
static TEST_UNUSED void bench_age(struct bench *b, size_t messages)
{
    static const char text[1500] = "{}";
    msc4203_message message;
    uint64_t first = 0;
    uint32_t batch, channel = MSC4203_CHANNEL_PARKED;
    int result;

    memset(&message, 0, sizeof message);
    message.channels = (uint32_t)1 << channel;
    message.item.content.ptr = text;
    message.item.content.len = CONTRACT_LARGEST < 1500 ? CONTRACT_LARGEST / 2 : sizeof text;
    for (; messages != 0; messages--) { /* when it is full, that is all it can do */
        result = b->queue.begin(b->queue.context, &batch);
        if (result == MSC4203_OK)
            result = b->queue.push(b->queue.context, batch, &message);
        if (result == MSC4203_E_QUEUE_FULL) {
            CHECK(b->queue.abort(b->queue.context, batch) == MSC4203_OK);
            return;
        }
        if (result == MSC4203_OK)
            result = b->queue.commit(b->queue.context, batch, NULL, &first);
        if (result == MSC4203_E_BATCH) /* it is so full that it gave it up */
            return;
        if (result == MSC4203_OK)
            result = b->queue.flush(b->queue.context);
        if (result == MSC4203_OK)
            result = b->queue.done(b->queue.context, channel, NULL, first, NULL);
        if (result == MSC4203_OK)
            result = b->queue.flush(b->queue.context);
        CHECK_CASE(result == MSC4203_OK, msc4203_result_text(result));
    }
}

/* ---- messages of a size, without the model ---- */

static TEST_UNUSED void bench_device(unsigned device, char name[16], msc4203_device *who)
{
    sprintf(name, "DEV%07u", device);
    who->user_id = contract_span("@_irc_bob:gw.example");
    who->device_id = contract_span(name);
}

/* Fills in a message that has this content; its device's name is put into `name`. */
static TEST_UNUSED void bench_message(msc4203_message *message, char name[16], unsigned device,
                                      uint32_t channels, uint64_t time_ms, const char *text,
                                      size_t bytes)
{
    msc4203_device who;

    memset(message, 0, sizeof *message);
    bench_device(device, name, &who);
    message->time_ms = time_ms;
    message->channels = channels;
    message->item.sender = contract_span("@alice:gw.example");
    message->item.type = contract_span("m.room.encrypted");
    message->item.user_id = who.user_id;
    message->item.device_id = who.device_id;
    message->item.content.ptr = text;
    message->item.content.len = bytes;
}

/* Puts a message with so many bytes of content into a batch. */
static TEST_UNUSED int bench_add(struct bench *b, uint32_t batch, uint32_t channels,
                                 unsigned device, size_t bytes)
{
    static char *text;
    static size_t room;
    char name[16];
    msc4203_message message;

    if (room < bytes) {
        free(text);
        text = (char *)malloc(bytes);
        if (text == NULL)
            exit(2);
        memset(text, 'x', bytes);
        room = bytes;
    }
    bench_message(&message, name, device, channels, 1000, text, bytes);
    return b->queue.push(b->queue.context, batch, &message);
}

enum { BENCH_IDS = 17 + 16 + 20 + 10 }; /* bytes that a message has besides its content */

/* Puts one message in; returns what begin, push or commit says. */
static TEST_UNUSED int bench_push(struct bench *b, uint32_t channels, unsigned device,
                                  size_t bytes, uint64_t *number)
{
    uint32_t batch;
    uint64_t first;
    int result = b->queue.begin(b->queue.context, &batch);

    if (result != MSC4203_OK)
        return result;
    result = bench_add(b, batch, channels, device, bytes);
    if (result != MSC4203_OK) {
        CHECK(b->queue.abort(b->queue.context, batch) == MSC4203_OK);
        return result;
    }
    return b->queue.commit(b->queue.context, batch, NULL, number != NULL ? number : &first);
}

static TEST_UNUSED int bench_flush(struct bench *b)
{
    return b->queue.flush(b->queue.context);
}

/* ---- the whole log beside the model ---- */

struct bench_seen {
    struct contract *c;
    uint64_t last;
    size_t count;
    int wrong;
};

static TEST_UNUSED int bench_see(void *context, const msc4203_message *message, uint64_t at,
                                 int error)
{
    struct bench_seen *seen = (struct bench_seen *)context;
    const struct contract *c = seen->c;
    size_t i;

    (void)at;
    for (i = 0; i < c->now.count && c->now.messages[i].number != message->number; i++)
        ;
    seen->wrong |= error != MSC4203_OK || message->number <= seen->last || i == c->now.count ||
                   message->channels != contract_real(c, c->now.messages[i].set) ||
                   !contract_same(c, &c->now.messages[i], message);
    seen->last = message->number;
    seen->count++;
    return 0;
}

/* Compares everything, by next(), count() and scan(). */
static TEST_UNUSED void bench_compare(struct bench *b, struct contract *c)
{
    static uint64_t memory[CONTRACT_TEXT / 8];
    struct bench_seen seen;

    contract_flush(c);
    contract_compare(c);
    contract_count(c);
    memset(&seen, 0, sizeof seen);
    seen.c = c;
    CHECK(msc4203_log_scan(&b->log, memory, sizeof memory, bench_see, &seen) == MSC4203_OK);
    CHECK_CASE(!seen.wrong && seen.count == c->now.count, c->doing);
    CHECK_CASE(bench_damaged(b) == 0, c->doing);
}

/* ---- two tests that small machines run, too ---- */

/* Random operations. `more`: memory beyond what the log needs. */
static TEST_UNUSED void test_model(const char *what, const struct shape *shape, size_t bytes,
                                   int in_memory, size_t more, unsigned long operations,
                                   int pinned, int small)
{
    static struct bench b;
    struct contract *c;

    bench_storage(&b, shape, bytes, in_memory, 0);
    b.config.messages = small ? 64 : CONTRACT_MESSAGES;
    bench_start(&b, more);
    c = contract_new(&b);
    c->pinned = pinned;
    if (small) {
        c->devices = 3;
        c->channels = 2;
    }
    contract_begin(c);
    contract_run(c, operations, 997);
    bench_compare(&b, c);
    contract_last_time(c);
    bench_say(what, c, &b);
    CHECK(bench_damaged(&b) == 0);
    bench_free(&b);
}

/* Each storage call fails once, and then works again, or never again until the log is reopened. */
static TEST_UNUSED void test_faults(const struct shape *shape, size_t bytes,
                                    unsigned long histories)
{
    static struct bench b;
    struct contract *c;
    unsigned long i, call, failures = 0;
    uint64_t seed = test_state;

    bench_test();
    for (i = 0; i < histories && bench_goes_on(); i++)
        for (call = 1; bench_goes_on(); call++) {
            unsigned long before = test_failed;
            int steps = 25;

            test_state = (seed + i * 1000003) * UINT64_C(0x9E3779B97F4A7C15) | 1;
            bench_init(&b, shape, bytes, 0, 0);
            c = contract_new(&b);
            c->failing = 1;
            c->size_max = CONTRACT_SIZE / 2;
            c->devices = 3;
            contract_begin(c);
            b.fake.fail_once = (int)(i & 1);
            b.fake.fail_at = b.fake.calls + call;
            b.fake.after = (int)(call % FAKE_WHENS);
            while (steps-- != 0 && test_failed == before)
                contract_step(c);
            failures += c->crashes;
            call += test_below(6);
            b.fake.fail_once = 0;
            b.fake.fail_at = 0;
            bench_compare(&b, c);
            if (test_failed != before)
                printf("  faults, %s: history %lu, call %lu, TEST_SEED=%llu\n", shape->name, i,
                       call, (unsigned long long)seed);
            bench_free(&b);
            if (c->crashes == 0 && call > 200)
                break;
        }
    printf("faults, %s: %lu histories, %lu failures\n", shape->name, i, failures);
}

#endif
