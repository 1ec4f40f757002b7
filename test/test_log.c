/* test_log.c - the log: the contract with a model beside it, power loss, faults, damage. */
#include "queue_contract.h"
#include "fake_storage.h"
#include "forge.h"

enum {
#ifdef CONTRACT_SMALL
    FAULTS_BYTES = 20 * 1024
#else
    FAULTS_BYTES = 40 * 1024
#endif
};

/* Whether this is a small machine, with 16 MiB of memory in all: see test/mcu. */
static int test_tiny(void)
{
    return test_share() > 1000;
}

/* So many of so many in this test's share, but not fewer than `least`. */
static unsigned long test_shared(unsigned long count, unsigned long least)
{
    count = count * test_scale() / test_share();
    return count > least ? count : least;
}

/* ---- a log in it ---- */

struct bench {
    struct fake fake;
    msc4203_storage *storage;
    msc4203_storage memory;
    msc4203_log log;
    msc4203_queue queue;
    msc4203_log_config config;
    void *index;
    size_t index_bytes;
    unsigned long openings, crash_in_recovery, crash_scans;
};

static int bench_open(struct bench *b)
{
    int result = msc4203_log_open(&b->log, b->storage, b->index, b->index_bytes,
                                  0x1234567890ABCDEFu + 77 * ++b->openings);
    msc4203_log_queue(&b->log, &b->queue);
    return result;
}

static void bench_init(struct bench *b, size_t bytes, int in_memory, int volatile_too)
{
    memset(b, 0, sizeof *b);
    fake_init(&b->fake, bytes, volatile_too);
    b->storage = &b->fake.storage;
    if (in_memory) {
        msc4203_memory_storage(&b->memory, b->fake.seen, bytes);
        b->storage = &b->memory;
    }
    b->config.devices = 16;
    b->config.requests = CONTRACT_REQUESTS;
    b->config.openings = 8;
    b->config.message_bytes = CONTRACT_LARGEST;
    b->index_bytes = msc4203_log_memory(&b->log, &b->config, bytes);
    b->index = malloc(b->index_bytes);
    CHECK(b->index_bytes != 0);
    CHECK(msc4203_log_format(&b->log, b->storage, &b->config, 0xFEDCBA9876543210u) == MSC4203_OK);
    CHECK(bench_open(b) == MSC4203_OK);
}

static void bench_free(struct bench *b)
{
    fake_free(&b->fake);
    free(b->index);
}

/* What a scan tells. (A small machine has room for its count of what is damaged.) */
#ifdef CONTRACT_SMALL
enum { SCANNED = 1, SCAN_WORDS = 64 };
#else
enum { SCANNED = 2048, SCAN_WORDS = 1024 };
#endif

struct scanned {
    unsigned long records, damaged;
    struct {
        uint64_t at;
        uint32_t bytes;
        int kind;
    } record[SCANNED], last; /* damaged */
};

static int see_record(void *context, const msc4203_log_entry *entry)
{
    struct scanned *s = (struct scanned *)context;

    if (entry->error != MSC4203_OK) {
        s->last.at = entry->at;
        s->last.bytes = entry->bytes;
        s->last.kind = entry->kind;
        s->damaged++;
    } else if (s->records < sizeof s->record / sizeof s->record[0]) {
        s->record[s->records].at = entry->at;
        s->record[s->records].bytes = entry->bytes;
        s->record[s->records++].kind = entry->kind;
    }
    return 0;
}

static struct scanned *bench_scan(struct bench *b)
{
    static struct scanned scanned;
    static uint64_t memory[SCAN_WORDS];

    memset(&scanned, 0, sizeof scanned);
    CHECK(msc4203_log_scan(b->storage, memory, sizeof memory, see_record, &scanned) ==
          MSC4203_OK);
    return &scanned;
}

/* A scan of a log that is not damaged. */
static void bench_scan_whole(struct bench *b, const char *when)
{
    struct scanned *s = bench_scan(b);

    if (!CHECK_CASE(s->damaged == 0, when))
        printf("  %lu damaged, ring + %ld, %lu bytes, kind %d\n", s->damaged,
               (long)(s->last.at - b->log.priv.ring_at), (unsigned long)s->last.bytes,
               s->last.kind);
}

static int bench_reopen(struct contract *c, int crash)
{
    struct bench *b = (struct bench *)c->context;
    int result, torn = 0; /* words that are changed where they are: opening mends them */
    size_t i;

    if (!crash) {
        if (test_below(2))
            msc4203_log_close(&b->log);
        bench_scan_whole(b, "before it is opened");
        return bench_open(b);
    }
    for (;;) {
        for (i = 0; i < b->fake.count; i++)
            torn |= b->fake.writes[i].bytes == 4;
        if (b->fake.durable != NULL)
            fake_crash(&b->fake);
        else
            b->fake.fail_at = 0;
        if (b->fake.durable != NULL && test_below(4) == 0) { /* once more, while it recovers */
            b->fake.fail_at = b->fake.calls + 1 + test_below(60);
            b->fake.after = (int)test_below(2);
            b->crash_in_recovery++;
        }
        if (b->fake.fail_at == 0 && !torn && b->fake.durable != NULL) {
            bench_scan_whole(b, "after a crash");
            b->crash_scans++;
        }
        result = bench_open(b);
        if (result != MSC4203_E_STORAGE) {
            b->fake.fail_at = 0;
            bench_scan_whole(b, "opened after a crash");
            return result;
        }
    }
}

/* Empties the channel that bench_age() uses. */
static void contract_park(struct contract *c)
{
    c->doing = "park";
    contract_take(c, 4, -1, UINT64_MAX, UINT64_MAX, 0);
    CHECK(c->queue->done(c->queue->context, MSC4203_CHANNEL_PARKED, NULL, UINT64_MAX, NULL) ==
          MSC4203_OK);
    contract_flush(c);
}

static struct contract *contract_new(struct bench *b)
{
    static struct contract contract;

    memset(&contract, 0, sizeof contract);
    contract.queue = &b->queue;
    contract.context = b;
    contract.reopen = bench_reopen;
    return &contract;
}

static void say(const char *what, const struct contract *c, const struct bench *b)
{
    printf("%s: %lu operations, %lu messages in %lu batches, %lu taken, %lu moved, %lu repeats, "
           "%lu drops, %lu expired, %lu full, %lu quota, ring round %lu times\n", what,
           c->operations, c->messages_kept, c->batches_kept, c->taken, c->moves, c->repeats,
           c->dropped, c->expired, c->fulls, c->quotas,
           (unsigned long)(b->log.priv.base / b->log.priv.units));
}

/* Lets the ring's end come near to where it goes round. */
static void bench_age(struct bench *b, size_t messages)
{
    static const char text[1500] = "{}";
    msc4203_message message;
    uint64_t first = 0;
    uint32_t batch, channel = MSC4203_CHANNEL_PARKED;
    int result;

    memset(&message, 0, sizeof message);
    message.channels = (uint32_t)1 << channel;
    message.item.content.ptr = text;
    message.item.content.len = sizeof text;
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
        if (result == MSC4203_OK)
            result = b->queue.flush(b->queue.context);
        if (result == MSC4203_OK)
            result = b->queue.done(b->queue.context, channel, NULL, first, NULL);
        if (result == MSC4203_OK)
            result = b->queue.flush(b->queue.context);
        CHECK(result == MSC4203_OK);
    }
}

/* ---- the tests ---- */

static void test_model(const char *what, size_t bytes, int in_memory, unsigned long operations,
                       int pinned, int small)
{
    static struct bench b;
    struct contract *c;

    bench_init(&b, bytes, in_memory, 0);
    c = contract_new(&b);
    c->pinned = pinned;
    if (small) {
        c->devices = 3;
        c->channels = 2;
    }
    contract_begin(c);
    contract_run(c, operations, 997);
    contract_last_time(c);
    say(what, c, &b);
    CHECK(b.log.priv.damaged == 0);
    bench_free(&b);
}

/* Histories of some 40 operations with crashes at random calls. */
static void test_power(unsigned long histories)
{
    static struct bench b;
    struct contract *c;
    unsigned long i, crashes = 0, torn = 0, laps = 0, moved = 0, fulls = 0, back = 0, again = 0;
    unsigned long messages = 0, scans = 0;
    uint64_t seed = test_state;

    for (i = 0; i < histories && test_failed < 5; i++) {
        unsigned long before = test_failed, steps;
        size_t bytes;

        test_state = (seed + i * 1000003) * UINT64_C(0x9E3779B97F4A7C15) | 1;
        steps = 20 + (unsigned long)test_below(41);
        bytes = 36 * 1024 + 1024 * test_below(8);
        bench_init(&b, bytes, 0, 1);
        c = contract_new(&b);
        c->failing = 1;
        c->size_max = test_below(2) ? 1800 : 200;
        c->devices = 4;
        contract_begin(c);
        if (i & 1)
            bench_age(&b, test_below(28));
        while (steps-- != 0 && test_failed == before) {
            if (b.fake.fail_at == 0 && test_below(10) == 0) {
                b.fake.fail_at = b.fake.calls + 1 + test_below(40);
                b.fake.after = (int)test_below(2);
            }
            contract_step(c);
        }
        b.fake.fail_at = b.fake.calls + 1;
        c->doing = "the last crash";
        contract_flush(c);
        b.fake.fail_at = 0;
        contract_compare(c);
        contract_flush(c);
        contract_count(c);
        if (i % 8 == 0) { /* all that still waits is moved forward */
            contract_park(c);
            bench_age(&b, 40);
            contract_compare(c);
            contract_count(c);
        }
        if (test_failed != before)
            printf("  history %lu, TEST_SEED=%llu\n", i, (unsigned long long)seed);
        CHECK(b.log.priv.damaged == 0);
        crashes += c->crashes;
        torn += b.fake.torn;
        laps += b.log.priv.base / b.log.priv.units;
        moved += c->moves;
        fulls += c->fulls;
        back += c->states_back;
        again += b.crash_in_recovery;
        scans += b.crash_scans;
        messages += c->messages_kept;
        bench_free(&b);
    }
    printf("power: %lu histories, %lu crashes, %lu in recovery, %lu torn writes, %lu messages, "
           "%lu moved, ring round %lu times, full %lu times, %lu states lost, %lu scanned "
           "unopened\n", i, crashes, again, torn, messages, moved, laps, fulls, back, scans);
}

/* Small histories with the crash before and after each call, and each subset of what was not synced
 * yet, or some of them when there are many. */
static void test_power_each(unsigned long histories)
{
    static struct bench b;
    struct contract *c;
    unsigned long i, call, runs = 0;
    uint64_t seed = test_state;

    for (i = 0; i < histories && test_failed < 5; i++)
        for (call = 1; test_failed < 5; call++) {
            unsigned long before = test_failed, crashes;
            int after, steps;

            for (after = 0, crashes = 0; after < 2; after++) {
                test_state = (seed + i * 1000003) * UINT64_C(0x9E3779B97F4A7C15) | 1;
                bench_init(&b, 40 * 1024, 0, 1);
                c = contract_new(&b);
                c->failing = 1;
                c->size_max = 400;
                c->devices = 3;
                c->channels = 3;
                contract_begin(c);
                if (i & 1)
                    bench_age(&b, 14);
                b.fake.fail_at = b.fake.calls + call;
                b.fake.after = after;
                for (steps = 8; steps != 0 && c->crashes == 0 && test_failed == before; steps--)
                    contract_step(c);
                crashes += c->crashes;
                b.fake.fail_at = 0;
                contract_flush(c);
                contract_compare(c);
                contract_count(c);
                CHECK(b.log.priv.damaged == 0);
                runs++;
                if (test_failed != before)
                    printf("  history %lu, call %lu\n", i, call);
                bench_free(&b);
            }
            if (crashes == 0)
                break; /* that was after the last one */
        }
    printf("power, each call: %lu histories, %lu runs\n", i, runs);
}

/* Each storage call fails once, and then works again, or never again until the log is reopened. */
static void test_faults(unsigned long histories)
{
    static struct bench b;
    struct contract *c;
    unsigned long i, call, failures = 0;
    uint64_t seed = test_state;

    for (i = 0; i < histories && test_failed < 5; i++)
        for (call = 1; test_failed < 5; call++) {
            unsigned long before = test_failed;
            int steps = 25;

            test_state = (seed + i * 1000003) * UINT64_C(0x9E3779B97F4A7C15) | 1;
            bench_init(&b, FAULTS_BYTES, 0, 0);
            c = contract_new(&b);
            c->failing = 1;
            c->size_max = CONTRACT_SIZE / 2;
            c->devices = 3;
            contract_begin(c);
            b.fake.fail_once = (int)(i & 1);
            b.fake.fail_at = b.fake.calls + call;
            while (steps-- != 0 && test_failed == before)
                contract_step(c);
            failures += c->crashes;
            call += test_below(6);
            b.fake.fail_once = 0;
            b.fake.fail_at = 0;
            contract_flush(c);
            contract_compare(c);
            contract_count(c);
            if (test_failed != before)
                printf("  history %lu, call %lu\n", i, call);
            bench_free(&b);
            if (c->crashes == 0 && call > 200)
                break;
        }
    printf("faults: %lu histories, %lu failures\n", i, failures);
}

/* What a log holds, as text for comparing: a line for each message. */
struct content {
    size_t count;
    uint64_t number[64];
    uint32_t sum[64], set[64];
};

static uint32_t content_sum(const msc4203_item *item)
{
    uint32_t sum = 17;
    size_t i;

    for (i = 0; i < item->content.len; i++)
        sum = sum * 31 + (unsigned char)item->content.ptr[i];
    for (i = 0; i < item->user_id.len; i++)
        sum = sum * 31 + (unsigned char)item->user_id.ptr[i];
    for (i = 0; i < item->sender.len; i++)
        sum = sum * 31 + (unsigned char)item->sender.ptr[i];
    return sum;
}

static void content_read(struct contract *c, struct content *content)
{
    static msc4203_message got;
    unsigned channel, device;
    size_t i;

    content->count = 0;
    for (channel = 0; channel < c->channels; channel++)
        for (device = 0; device < (channel == 0 ? c->devices : 1); device++) {
            uint64_t after = 0;
            int tries, result = 0;

            for (tries = 0; tries < 200; tries++) {
                msc4203_device who;
                contract_device(c, (int)device, &who);
                result = c->queue->next(c->queue->context, c->real[channel],
                                        channel == 0 ? &who : NULL, after, c->memory,
                                        sizeof c->memory, &got);
                if (result != MSC4203_ITEM && (result != MSC4203_E_DAMAGED || got.number <= after))
                    break;
                after = got.number;
                if (result == MSC4203_E_DAMAGED)
                    continue;
                for (i = 0; i < content->count && content->number[i] != got.number; i++)
                    ;
                if (i == content->count && i < 64) {
                    content->number[i] = got.number;
                    content->set[i] = 0;
                    content->sum[i] = content_sum(&got.item);
                    content->count++;
                }
                if (i < 64)
                    content->set[i] |= 1u << channel;
            }
            CHECK(tries < 200);
            CHECK(result == MSC4203_END || result == MSC4203_E_DAMAGED);
        }
}

static int see_damage(void *context, const msc4203_log_entry *entry)
{
    *(unsigned long *)context += entry->error != MSC4203_OK;
    return 0;
}

/* Opens a damaged copy; returns how many of the messages are not there as they were, and how many
 * are there that were not. */
static int content_damaged(struct bench *b, struct contract *c, const struct content *whole,
                           int *lost, int *invented, unsigned long *reported)
{
    static struct content now;
    static char memory[8192];
    size_t i, k;
    int result;

    *lost = *invented = 0;
    *reported = 0;
    CHECK(msc4203_log_scan(b->storage, memory, sizeof memory, see_damage, reported) <= 0);
    result = bench_open(b);
    if (result != MSC4203_OK)
        return result;
    content_read(c, &now);
    for (i = 0; i < whole->count; i++) {
        for (k = 0; k < now.count && now.number[k] != whole->number[i]; k++)
            ;
        *lost += k == now.count || now.sum[k] != whole->sum[i] || now.set[k] != whole->set[i];
    }
    for (k = 0; k < now.count; k++) {
        for (i = 0; i < whole->count && now.number[k] != whole->number[i]; i++)
            ;
        *invented += i == whole->count || now.sum[k] != whole->sum[i];
    }
    *reported += b->log.priv.damaged;
    return result;
}

/* Every bit of a small log is flipped, and the log cut short at every place. */
static void test_flips(unsigned long each)
{
    static struct bench b;
    static struct content whole;
    struct contract *c;
    unsigned char *image;
    unsigned long bit, bits, unreadable = 0, harmless = 0, silent = 0, hurt = 0;
    int lost, invented, result, worst = 0;
    unsigned long reported;
    int closed;

    test_seed(0x106);

    for (closed = 0; closed < 2; closed++) {
        unsigned i;

        bench_init(&b, 40 * 1024, 0, 0);
        memset(b.fake.seen + b.log.priv.ring_at, 0, b.fake.bytes - b.log.priv.ring_at);
        CHECK(bench_open(&b) == MSC4203_OK);
        c = contract_new(&b);
        c->devices = 3;
        c->size_max = 200;
        contract_begin(c);
        for (i = 0; i < 60; i++)
            contract_step(c);
        memset(c->batches, 0, sizeof c->batches);
        contract_flush(c);
        content_read(c, &whole);
        CHECK(whole.count > 5);
        if (closed)
            CHECK(msc4203_log_close(&b.log) == MSC4203_OK);
        image = (unsigned char *)malloc(b.fake.bytes);
        if (image == NULL)
            exit(2);
        memcpy(image, b.fake.seen, b.fake.bytes);
        content_damaged(&b, c, &whole, &lost, &invented, &reported);
        CHECK(lost == 0 && invented == 0 && reported == 0);
        bits = (unsigned long)(b.log.priv.ring_at +
                               (uint64_t)(b.log.priv.end - b.log.priv.base + 4) * 8) * 8;
        for (bit = test_below(each); bit < bits && test_failed < 5;
             bit += 1 + test_below(2 * each - 1)) {
            memcpy(b.fake.seen, image, b.fake.bytes);
            b.fake.seen[bit / 8] ^= (unsigned char)(1 << bit % 8);
            result = content_damaged(&b, c, &whole, &lost, &invented, &reported);
            unreadable += result != MSC4203_OK;
            harmless += lost == 0 && invented == 0;
            hurt += lost + invented != 0;
            silent += (lost != 0 || invented != 0) && reported == 0;
            if (lost + invented > worst) {
                worst = lost + invented;
                printf("  bit %lu (ring + %ld): %d lost, %d back, %lu reported\n", bit,
                       (long)(bit / 8) - (long)b.log.priv.ring_at, lost, invented, reported);
            }
        }
        for (bit = 0; bit < b.fake.bytes && test_failed < 5; bit += 1 + test_below(each * 16)) {
            msc4203_storage cut = b.fake.storage;
            memcpy(b.fake.seen, image, b.fake.bytes);
            cut.bytes = bit;
            result = msc4203_log_open(&b.log, &cut, b.index, b.index_bytes, 1);
            CHECK(result == MSC4203_E_REGION || result == MSC4203_E_FORMAT);
        }
        free(image);
        bench_free(&b);
    }
    printf("flips: %lu hurt something, %lu nothing, %lu silent, at worst %d messages, %lu would "
           "not open\n", hurt, harmless, silent, worst, unreadable);
    CHECK(silent == 0);
    CHECK(unreadable == 0);
    CHECK(worst <= CONTRACT_BATCH); /* a commit that is hit costs its batch */
}

/* A byte of each record in turn is damaged: a scan reports that one, and nothing else. What is not
 * durable yet may also be taken for the ring's end. */
static void test_scan(unsigned long times)
{
    static struct bench b;
    static struct scanned whole;
    struct contract *c;
    unsigned long i, k, laps = 0, flips = 0, rubbish = 0, open = 0;

    for (i = 0; i < times && test_failed < 5; i++) {
        const struct msc4203_log_state *s = &b.log.priv;
        unsigned steps = 30 + (unsigned)test_below(300);

        bench_init(&b, 40 * 1024, (int)test_below(2), 0);
        c = contract_new(&b);
        c->size_max = test_below(2) ? 1800 : 200;
        contract_begin(c);
        bench_scan_whole(&b, "fresh");
        while (steps-- != 0)
            contract_step(c);
        bench_scan_whole(&b, "in use");
        contract_flush(c);
        if (i & 1)
            CHECK(msc4203_log_close(&b.log) == MSC4203_OK);
        bench_scan_whole(&b, "flushed");
        whole = *bench_scan(&b);
        laps += s->base / s->units;
        for (k = 0; k < whole.records && test_failed < 5; k++) {
            unsigned char *p = b.fake.seen + whole.record[k].at, bit;
            uint32_t unit = (uint32_t)((whole.record[k].at - s->ring_at) / 8), place;
            uint32_t bytes = whole.record[k].bytes - p[6], at;
            struct scanned *now;

            place = s->base + unit - (unit < s->end - s->base ? 0 : s->units);
            at = (uint32_t)test_below(test_below(2) ? 16 : bytes);
            if (at >= 16 && (p[3] == 5 || (p[3] <= 2 && at >= 60 && at < 60 + 8 * 6)))
                at = 0; /* links, or what a filler has, are in no checksum */
            bit = (unsigned char)(1u << test_below(8));
            p[at] ^= bit;
            now = bench_scan(&b);
            p[at] ^= bit;
            if (place - s->tail >= s->end - s->tail) {
                CHECK(now->damaged == 0);
                rubbish++;
            } else if (place - s->durable < 0x80000000u ||
                       (p[3] <= 2 && (i & 1) == 0 && at < 60 && (1u << at / 4 & 0x6188u))) {
                CHECK(now->damaged <= 1); /* the journal may have these words */
                open++;
            } else {
                if (!CHECK(now->damaged == 1 && now->last.at == whole.record[k].at &&
                           now->last.bytes <= whole.record[k].bytes &&
                           now->last.bytes + 8 >= whole.record[k].bytes)) /* the ring's end */
                    printf("  byte %lu of kind %d, ring + %lu to %lu: %lu damaged\n",
                           (unsigned long)at, whole.record[k].kind, (unsigned long)unit * 8,
                           (unsigned long)unit * 8 + whole.record[k].bytes, now->damaged);
                flips++;
            }
        }
        bench_free(&b);
    }
    printf("scan: %lu logs, ring round %lu times, %lu records damaged that are in use, %lu that "
           "are not, %lu not durable\n", i, laps, flips, rubbish, open);
}

/* What is no log. */
static void test_garbage(void)
{
    static struct bench b;
    msc4203_log_config config;
    msc4203_log other;
    size_t i;
    int kind;

    bench_init(&b, 64 * 1024, 0, 0);
    for (kind = 0; kind < 4; kind++) {
        for (i = 0; i < b.fake.bytes; i++)
            b.fake.seen[i] =
                (unsigned char)(kind == 0 ? 0 : kind == 1 ? 0xFF : test_random() >> 20);
        if (kind == 3)
            memcpy(b.fake.seen, "msc4203", 8);
        CHECK(bench_open(&b) == MSC4203_E_FORMAT);
        CHECK(msc4203_log_inspect(&other, b.storage, &config) == MSC4203_E_FORMAT);
        CHECK(b.queue.flush(b.queue.context) == MSC4203_E_STORAGE);
    }
    CHECK(msc4203_log_format(&b.log, b.storage, &b.config, 5) == MSC4203_OK);
    CHECK(msc4203_log_inspect(&other, b.storage, &config) == MSC4203_OK);
    CHECK(config.devices == 16 && config.message_bytes == 2000);
    b.fake.storage.bytes -= 8;
    CHECK(bench_open(&b) == MSC4203_E_REGION);
    b.fake.storage.bytes += 8;
    b.index_bytes--;
    CHECK(bench_open(&b) == MSC4203_E_INDEX);
    b.index_bytes++;
    b.fake.seen[512 + 8] = 2; /* another version */
    CHECK(bench_open(&b) == MSC4203_E_FORMAT);
    bench_free(&b);
}

/* Pushes a message of 1,000 bytes of content; returns what push or commit says. */
static int push_one(struct bench *b, uint32_t channels, unsigned device, size_t bytes, int flush)
{
    static char text[70000], name[16];
    msc4203_message message;
    uint32_t batch;
    uint64_t first;
    int result = b->queue.begin(b->queue.context, &batch);

    memset(&message, 0, sizeof message);
    sprintf(name, "DEV%07u", device);
    message.channels = channels;
    message.item.sender = contract_span("@alice:gw.example");
    message.item.type = contract_span("m.room.encrypted");
    message.item.user_id = contract_span("@_irc_bob:gw.example");
    message.item.device_id = contract_span(name);
    memset(text, 'x', sizeof text);
    message.item.content.ptr = text;
    message.item.content.len = bytes;
    if (result == MSC4203_OK)
        result = b->queue.push(b->queue.context, batch, &message);
    if (result != MSC4203_OK) {
        CHECK(b->queue.abort(b->queue.context, batch) == MSC4203_OK);
        return result;
    }
    result = b->queue.commit(b->queue.context, batch, NULL, &first);
    if (result == MSC4203_OK && flush)
        result = b->queue.flush(b->queue.context);
    return result;
}

/* Full: what was accepted stays, one out makes room for one, and the capacity is used. */
static void test_full(void)
{
    static struct bench b;
    static char memory[70000];
    msc4203_message got;
    unsigned long count = 0, more = 0, i;
    uint64_t after = 0, bytes = (test_tiny() ? 4 : 16) * 1024 * 1024;
    int result;

    bench_init(&b, (size_t)bytes, 1, 0);
    memset(&b.config, 0, sizeof b.config);
    b.config.devices = 256;
    free(b.index);
    b.index_bytes = msc4203_log_memory(&b.log, &b.config, bytes);
    b.index = malloc(b.index_bytes);
    CHECK(msc4203_log_format(&b.log, b.storage, &b.config, 1) == MSC4203_OK);
    CHECK(bench_open(&b) == MSC4203_OK);
    while ((result = push_one(&b, 2, (unsigned)count & 63, 1024, count % 10 == 0)) == MSC4203_OK)
        count++;
    CHECK(result == MSC4203_E_QUEUE_FULL);
    CHECK(b.queue.flush(b.queue.context) == MSC4203_OK);
    printf("full: %lu messages of 1,024 bytes and their ids in %lu MiB: %.1f %% (contents alone: "
           "%.1f %%), index %lu bytes\n", count, (unsigned long)(bytes >> 20),
           (double)count * (1024 + 63) * 100 / (double)bytes,
           (double)count * 1024 * 100 / (double)bytes, (unsigned long)b.index_bytes);
    CHECK(count * (1024 + 63) * 10 >= bytes * (test_tiny() ? 8 : 9));
    for (i = 0; i < 300; i++) { /* one out, one in, thrice round */
        result = b.queue.next(b.queue.context, 1, NULL, after, memory, sizeof memory, &got);
        if (!CHECK(result == MSC4203_ITEM && got.item.content.len == 1024))
            break;
        after = got.number;
        CHECK(b.queue.done(b.queue.context, 1, NULL, after, NULL) == MSC4203_OK);
        CHECK(push_one(&b, 2, (unsigned)i & 63, 1024, 1) == MSC4203_OK);
        CHECK(push_one(&b, 2, (unsigned)i & 63, 1100, 1) == MSC4203_E_QUEUE_FULL);
    }
    for (result = MSC4203_ITEM, after = 0; result == MSC4203_ITEM; after = got.number, more++)
        result = b.queue.next(b.queue.context, 1, NULL, after, memory, sizeof memory, &got);
    CHECK(more - 1 == count);
    CHECK(b.log.priv.damaged == 0);
    bench_free(&b);
}

/* Calls and bytes of each operation with few and with many messages, and devices. */
static void growth(unsigned long waiting, unsigned devices, double *out)
{
    static struct bench b;
    static char memory[4096];
    size_t bytes = (size_t)waiting * 700 + 1100 * 1024, i;
    size_t most = test_tiny() ? 4000 : 8000; /* some images; more would fill the small log */
    size_t times = waiting < 8000 ? waiting / 4 : devices < 100 ? 2000 : most;
    msc4203_message got;
    unsigned long calls;
    uint64_t touched, after = 0;
    char name[16];
    int what;

    bench_init(&b, bytes, 0, 0);
    memset(&b.config, 0, sizeof b.config);
    b.config.devices = 10000;
    b.config.message_bytes = 2000;
    free(b.index);
    b.index_bytes = msc4203_log_memory(&b.log, &b.config, bytes);
    CHECK(b.index_bytes <= 1024 * 1024);
    b.index = malloc(b.index_bytes);
    CHECK(msc4203_log_format(&b.log, b.storage, &b.config, 1) == MSC4203_OK);
    CHECK(bench_open(&b) == MSC4203_OK);
    for (i = 0; i < waiting; i++)
        if (!CHECK(push_one(&b, i & 1 ? 1 : 2, (unsigned)(i >> 1) % devices, 100, i % 100 == 0) ==
                   MSC4203_OK))
            break;
    CHECK(b.queue.flush(b.queue.context) == MSC4203_OK);
    for (what = 0; what < 4; what++) {
        calls = b.fake.calls + b.fake.reads;
        touched = b.fake.touched;
        for (i = 0; i < times; i++) {
            msc4203_device device;
            sprintf(name, "DEV%07u", (unsigned)(i * 7) % devices);
            device.user_id = contract_span("@_irc_bob:gw.example");
            device.device_id = contract_span(name);
            if (what == 0) {
                CHECK(push_one(&b, 2, (unsigned)i % devices, 100, 1) == MSC4203_OK);
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
                CHECK(b.queue.flush(b.queue.context) == MSC4203_OK);
            }
        }
        out[what * 2] = (double)(b.fake.calls + b.fake.reads - calls) / (double)times;
        out[what * 2 + 1] = (double)(b.fake.touched - touched) / (double)times;
    }
    printf("growth: %lu messages, %u devices: push %.1f calls, %.0f bytes; next %.1f, %.0f; /sync "
           "%.1f, %.0f; done %.1f, %.0f\n", waiting, devices, out[0], out[1], out[2], out[3],
           out[4], out[5], out[6], out[7]);
    bench_free(&b);
}

static void test_growth(void)
{
    static const unsigned long waiting[] = {1000, 100000, 1000000};
    double few[8], many[8];
    size_t i, k, most = test_share() > 1 ? 2 : test_scale() > 1 ? 3 : 2;

    growth(1000, 10, few);
    for (i = 1; i < most && !test_tiny(); i++) {
        growth(waiting[i], i == 2 ? 10000 : 10, many);
        for (k = 0; k < 8; k++)
            CHECK(many[k] <= few[k] * 1.2 + (k & 1 ? 100 : 1));
    }
    growth(test_tiny() ? 10000 : 20000, test_tiny() ? 5000 : 10000, many);
    for (k = 0; k < 8; k++)
        CHECK(many[k] <= few[k] * 1.2 + (k & 1 ? 100 : 1));
}

/* Messages to a device can be told apart from those of an earlier one of that name; a quota keeps
 * one from filling all. */
static void test_quota(void)
{
    static struct bench b;
    int result = 0, count;

    bench_init(&b, 256 * 1024, 1, 0);
    msc4203_log_quotas(&b.log, 20000, 5000);
    for (count = 0; (result = push_one(&b, 1, 1, 900, 0)) == MSC4203_OK; count++)
        ;
    CHECK(result == MSC4203_E_QUOTA && count == 4);
    for (; (result = push_one(&b, 2, 2 + (unsigned)count / 4, 900, 0)) == MSC4203_OK; count++)
        ;
    CHECK(result == MSC4203_E_QUOTA && count == 4 + 19);
    CHECK(push_one(&b, 4, 14, 900, 1) == MSC4203_OK);
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
        bench_init(&b, 64 * 1024, in_memory, 0);
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

/* A link that leads back: taking out must end. */
static void test_ring_of_links(void)
{
    static struct bench b;
    static char memory[4096];
    msc4203_message got;
    uint64_t first, word;
    uint32_t at[2], position;
    int kind, i, result;

    for (kind = 0; kind < 3; kind++) { /* a channel's chain, /sync of a device, drop of one */
        msc4203_device device;
        bench_init(&b, 64 * 1024, 0, 0);
        for (i = 0; i < 2; i++) {
            at[i] = b.log.priv.end - b.log.priv.base;
            CHECK(push_one(&b, kind == 0 ? 2 : 1, 1, 100, 1) == MSC4203_OK);
        }
        device.user_id = contract_span("@_irc_bob:gw.example");
        device.device_id = contract_span("DEV0000001");
        result = b.queue.next(b.queue.context, kind == 0, kind == 0 ? NULL : &device, 0, memory,
                              sizeof memory, &got);
        CHECK(result == MSC4203_ITEM);
        first = got.number;
        /* the first one's link to the next: 60 bytes behind its beginning, and 8 more */
        word = b.log.priv.ring_at + (uint64_t)at[0] * 8 + 60 + (kind == 0 ? 8 : 0);
        memcpy(&position, b.fake.seen + word, 4);
        CHECK(position != 0);
        position = at[0] + 1;
        for (i = 0; i < 4; i++)
            b.fake.seen[word + (unsigned)i] = (unsigned char)(position >> 8 * i);
        if (kind == 2)
            result = b.queue.drop(b.queue.context, &device, NULL);
        else
            result = b.queue.done(b.queue.context, kind == 0, kind == 0 ? NULL : &device, first + 1,
                                  NULL);
        CHECK(result == MSC4203_OK || result == MSC4203_E_DAMAGED);
        CHECK(b.queue.next(b.queue.context, kind == 0, kind == 0 ? NULL : &device, 0, memory,
                           sizeof memory, &got) != MSC4203_ITEM || got.number > first);
        bench_free(&b);
    }
}

/* What has the right checksum, and is still wrong: lengths beyond the record, headers that do not
 * agree. Nothing outside may be touched; the sanitizers see to that. */
static void test_forged(void)
{
    static struct bench b;
    static char memory[600];
    msc4203_message got;
    unsigned char *p, place[4];
    unsigned newest;
    int which, result;

    for (which = 0; which < 5; which++) {
        bench_init(&b, 64 * 1024, which & 1, 0);
        forge_word(place, b.log.priv.end);
        p = b.fake.seen + b.log.priv.ring_at + (size_t)(b.log.priv.end - b.log.priv.base) * 8;
        CHECK(push_one(&b, 2, 1, 100, 1) == MSC4203_OK);
        p[20 + 2 * which % 8 + 1] = 0x40;
        forge_word(p + 12,
                   forge_crc(forge_crc(forge_crc(b.log.priv.salt, place, 4), p, 12), p + 16, 44));
        if (which == 4) /* reopened, too */
            CHECK(bench_open(&b) == MSC4203_OK);
        result = b.queue.next(b.queue.context, 1, NULL, 0, memory, sizeof memory, &got);
        CHECK(result == MSC4203_E_DAMAGED || result == MSC4203_END);
        bench_free(&b);
    }
    bench_init(&b, 64 * 1024, 0, 0);
    newest = b.log.priv.images & 1;
    p = b.fake.seen + 512 * (newest ^ 1); /* the other header: more devices */
    forge_word(p + 24, 100);
    forge_word(p + 12, forge_crc(forge_crc(0xFFFFFFFFu, p, 12), p + 16, 80));
    b.fake.seen[1024 + newest * (b.log.priv.ring_at - 1024) / 2] ^= 1;
    CHECK(bench_open(&b) == MSC4203_E_DAMAGED);
    bench_free(&b);
}

int main(void)
{
    unsigned long scale = test_scale(), share = test_share();

    test_seed(0x106);
    test_garbage();
    test_quota();
    test_empty();
    test_ring_of_links();
    test_forged();
    test_full();
    test_growth();
    test_scan(test_shared(400, 20));
    test_model("memory", 128 * 1024, 1, test_shared(30000, 3000), 0, 0);
    test_model("storage", 96 * 1024, 0, test_shared(30000, 3000), 0, 0);
    test_model("small", 40 * 1024, 0, test_shared(20000, 3000), 0, 1);
    test_model("pinned", 64 * 1024, 1, test_shared(20000, 3000), 1, 0);
    test_power_each(share > 1 ? 1 : 6 * scale);
    test_faults(share > 1 ? 2 : 12 * scale);
    test_flips(share > 8 ? 97 : test_scale() > 1 ? 1 : 24);
    test_power(test_shared(20000, 150));
    return test_end("log");
}
