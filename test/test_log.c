/* test_log.c - the log: the contract with a model beside it, power loss, faults, damage. */
#include "queue_contract.h"

/* ---- a storage that loses what was not synced ---- */

struct fake_write {
    uint64_t at;
    size_t bytes, from; /* from: where in `written` */
};

struct fake {
    msc4203_storage storage;
    unsigned char *seen, *durable; /* what is read; what is on the medium */
    size_t bytes;
    struct fake_write *writes;
    size_t count, room;
    unsigned char *written;
    size_t written_bytes, written_room;
    unsigned long calls, fail_at; /* fail_at: from this call on, the power is gone; 0 never */
    int fail_once, after;         /* after: the call is made, and then the power goes */
    unsigned long reads, syncs, torn, kept, lost;
    uint64_t touched;
};

/* Counts a call; tells whether it is to fail. */
static int fake_call(struct fake *f)
{
    f->calls++;
    if (f->fail_at == 0 || f->calls < f->fail_at)
        return 0;
    return f->fail_once ? f->calls == f->fail_at : 1;
}

static int fake_read(void *context, uint64_t at, void *data, size_t bytes)
{
    struct fake *f = (struct fake *)context;

    f->reads++;
    f->touched += bytes;
    if (at > f->bytes || bytes > f->bytes - at) {
        CHECK(!"reads within the region");
        return -1;
    }
    if (f->fail_once && fake_call(f))
        return -1;
    if (!f->fail_once && f->fail_at != 0 && f->calls >= f->fail_at)
        return -1;
    memcpy(data, f->seen + at, bytes);
    return 0;
}

static int fake_write(void *context, uint64_t at, const void *data, size_t bytes)
{
    struct fake *f = (struct fake *)context;
    int fails = fake_call(f);

    f->touched += bytes;
    if (at > f->bytes || bytes > f->bytes - at) {
        CHECK(!"writes within the region");
        return -1;
    }
    if (fails && (!f->after || f->calls != f->fail_at))
        return -1;
    memcpy(f->seen + at, data, bytes);
    if (f->durable == NULL)
        return fails ? -1 : 0;
    if (f->count == f->room) {
        f->room = f->room * 2 + 64;
        f->writes = (struct fake_write *)realloc(f->writes, f->room * sizeof *f->writes);
    }
    if (f->written_bytes + bytes > f->written_room) {
        f->written_room = (f->written_bytes + bytes) * 2;
        f->written = (unsigned char *)realloc(f->written, f->written_room);
    }
    if (f->writes == NULL || f->written == NULL)
        exit(2);
    memcpy(f->written + f->written_bytes, data, bytes);
    f->writes[f->count].at = at;
    f->writes[f->count].bytes = bytes;
    f->writes[f->count++].from = f->written_bytes;
    f->written_bytes += bytes;
    return fails ? -1 : 0;
}

static void fake_keep(struct fake *f, const struct fake_write *w, size_t from, size_t to)
{
    memcpy(f->durable + w->at + from, f->written + w->from + from, to - from);
}

static int fake_sync(void *context)
{
    struct fake *f = (struct fake *)context;
    int fails = fake_call(f);
    size_t i;

    f->syncs++;
    if (fails && (!f->after || f->calls != f->fail_at))
        return -1;
    for (i = 0; i < f->count && f->durable != NULL; i++)
        fake_keep(f, &f->writes[i], 0, f->writes[i].bytes);
    f->count = f->written_bytes = 0;
    return fails ? -1 : 0;
}

/* The power is gone: of what was not synced any part is there. */
static void fake_crash(struct fake *f)
{
    size_t i, how = test_below(4);

    for (i = f->count; i > 1; i--) { /* in any order */
        size_t k = test_below(i);
        struct fake_write w = f->writes[k];
        if (how == 3)
            break;
        f->writes[k] = f->writes[i - 1];
        f->writes[i - 1] = w;
    }
    for (i = 0; i < f->count; i++) {
        struct fake_write *w = &f->writes[i];
        size_t a = test_below(w->bytes + 1), b = test_below(w->bytes + 1), keep = test_below(8);

        if (how == 0 || keep < 2) { /* lost */
            f->lost++;
        } else if (keep < 6) {
            fake_keep(f, w, 0, w->bytes);
            f->kept++;
        } else {
            if (keep == 7 && w->bytes > 512) { /* at a sector */
                a = (size_t)((w->at + a) & ~(uint64_t)511);
                a = a > w->at ? (size_t)(a - w->at) : 0;
                b = w->bytes;
            }
            fake_keep(f, w, a < b ? a : b, a < b ? b : a);
            f->torn++;
        }
    }
    memcpy(f->seen, f->durable, f->bytes);
    f->count = f->written_bytes = 0;
    f->fail_at = 0;
}

static void fake_init(struct fake *f, size_t bytes, int volatile_too)
{
    memset(f, 0, sizeof *f);
    f->bytes = bytes;
    f->seen = (unsigned char *)malloc(bytes);
    f->durable = volatile_too ? (unsigned char *)malloc(bytes) : NULL;
    if (f->seen == NULL || (volatile_too && f->durable == NULL))
        exit(2);
    memset(f->seen, 0xA5, bytes);
    if (volatile_too)
        memset(f->durable, 0xA5, bytes);
    f->storage.version = 1;
    f->storage.context = f;
    f->storage.bytes = bytes;
    f->storage.read = fake_read;
    f->storage.write = fake_write;
    f->storage.sync = fake_sync;
}

static void fake_free(struct fake *f)
{
    free(f->seen);
    free(f->durable);
    free(f->writes);
    free(f->written);
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
    unsigned long openings, crash_in_recovery;
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
    b->config.message_bytes = 2000;
    b->index_bytes = msc4203_log_memory(&b->config, bytes);
    b->index = malloc(b->index_bytes);
    CHECK(b->index_bytes != 0);
    CHECK(msc4203_log_format(b->storage, &b->config, 0xFEDCBA9876543210u) == MSC4203_OK);
    CHECK(bench_open(b) == MSC4203_OK);
}

static void bench_free(struct bench *b)
{
    fake_free(&b->fake);
    free(b->index);
}

static int bench_reopen(struct contract *c, int crash)
{
    struct bench *b = (struct bench *)c->context;
    int result;

    if (!crash) {
        if (test_below(2))
            msc4203_log_close(&b->log);
        return bench_open(b);
    }
    for (;;) {
        if (b->fake.durable != NULL)
            fake_crash(&b->fake);
        else
            b->fake.fail_at = 0;
        if (b->fake.durable != NULL && test_below(4) == 0) { /* once more, while it recovers */
            b->fake.fail_at = b->fake.calls + 1 + test_below(60);
            b->fake.after = (int)test_below(2);
            b->crash_in_recovery++;
        }
        result = bench_open(b);
        if (result != MSC4203_E_STORAGE) {
            b->fake.fail_at = 0;
            return result;
        }
    }
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
           c->dropped, c->expired, c->fulls, c->quotas, (unsigned long)b->log.priv.lap - 1);
}

/* Lets the ring's end come near to where it goes round. */
static void bench_age(struct bench *b, size_t messages)
{
    static const char text[1500] = "{}";
    msc4203_message message;
    uint64_t first;
    uint32_t batch, channel = MSC4203_CHANNEL_PARKED;
    int result;

    memset(&message, 0, sizeof message);
    message.channels = (uint32_t)1 << channel;
    message.item.content.ptr = text;
    message.item.content.len = sizeof text;
    for (; messages != 0; messages--) {
        result = b->queue.begin(b->queue.context, &batch);
        if (result == MSC4203_OK)
            result = b->queue.push(b->queue.context, batch, &message);
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
    unsigned long messages = 0;
    uint64_t seed = test_state;

    for (i = 0; i < histories && test_failed < 5; i++) {
        unsigned long before = test_failed, steps = 20 + (unsigned long)test_below(41);
        size_t bytes = 36 * 1024 + 1024 * test_below(8);

        test_state = (seed + i * 1000003) * UINT64_C(0x9E3779B97F4A7C15) | 1;
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
        if (test_failed != before)
            printf("  history %lu, TEST_SEED=%llu\n", i, (unsigned long long)seed);
        CHECK(b.log.priv.damaged == 0);
        crashes += c->crashes;
        torn += b.fake.torn;
        laps += b.log.priv.lap - 1;
        moved += c->moves;
        fulls += c->fulls;
        back += c->states_back;
        again += b.crash_in_recovery;
        messages += c->messages_kept;
        bench_free(&b);
    }
    printf("power: %lu histories, %lu crashes, %lu in recovery, %lu torn writes, %lu messages, "
           "%lu moved, ring round %lu times, full %lu times, %lu states lost\n", i, crashes, again,
           torn, messages, moved, laps, fulls, back);
}

int main(void)
{
    test_seed(0x106);
    test_model("memory", 128 * 1024, 1, 20000 * test_scale(), 0, 0);
    test_model("storage", 96 * 1024, 0, 20000 * test_scale(), 0, 0);
    test_model("small", 40 * 1024, 0, 10000 * test_scale(), 0, 1);
    test_model("pinned", 64 * 1024, 1, 20000 * test_scale(), 1, 0);
    test_power(20000 * test_scale());
    return test_end("log");
}
