/* test_power.c - the log when the power fails: random histories, and small ones in which it fails
 * at every call of the storage and again at every call of the recovery, on every kind of sector.
 *
 * A model (queue_contract.h) says in which states the log may be then. To find what a failure is
 * made of: TEST_SHAPE and TEST_HISTORY run one history of one kind of storage, TEST_STEPS cuts it
 * short, TEST_TRACE shows what it does. */
#include "log_bench.h"

static unsigned long power_option(const char *name, unsigned long otherwise)
{
    const char *text = getenv(name);
    return text != NULL ? strtoul(text, NULL, 10) : otherwise;
}

/* What all histories of a kind have met. */
struct power_met {
    unsigned long histories, crashes, recoveries, kills, kept, lost, torn, garbage, erased;
    unsigned long messages, taken, moved, fulls, back, rounds;
};

static void power_add(struct power_met *met, const struct bench *b, const struct contract *c)
{
    met->histories++;
    met->crashes += c->crashes;
    met->recoveries += b->crash_in_recovery;
    met->kills += b->kills;
    met->kept += b->fake.kept;
    met->lost += b->fake.lost;
    met->torn += b->fake.torn;
    met->garbage += b->fake.garbage;
    met->erased += b->fake.half_erased;
    met->messages += c->messages_kept;
    met->taken += c->taken;
    met->moved += c->moves;
    met->fulls += c->fulls;
    met->back += c->states_back;
    met->rounds += bench_rounds(b);
}

static void power_say(const char *what, const struct shape *shape, const struct power_met *met)
{
    printf("%s, %s: %lu histories, %lu crashes, %lu in recovery, %lu of the process; of unsynced "
           "sectors %lu new, %lu old, %lu torn, %lu garbage, %lu half erased; %lu messages, %lu "
           "taken, %lu moved, full %lu times, %lu states lost, round %lu times\n", what,
           shape->name, met->histories, met->crashes, met->recoveries, met->kills, met->kept,
           met->lost, met->torn, met->garbage, met->erased, met->messages, met->taken, met->moved,
           met->fulls, met->back, met->rounds);
}

/* What is running, for when a log can't even be opened, and all ends. */
static struct {
    const struct shape *shape;
    unsigned long history;
    uint64_t seed;
    int inside;
} power_now;

static void power_where(void)
{
    if (power_now.inside)
        printf("  TEST_SHAPE=%u TEST_HISTORY=%lu TEST_SEED=%llu build/test/test_power\n",
               (unsigned)(power_now.shape - shapes), power_now.history,
               (unsigned long long)power_now.seed);
}

static void power_step(struct bench *b, struct contract *c)
{
    if (test_below(50) == 0)
        bench_close(b, c);
    else
        contract_step(c);
    if (getenv("TEST_TRACE") != NULL)
        printf("  %s: call %lu, %lu waiting, %lu crashes, %lu damaged\n", c->doing, b->fake.calls,
               (unsigned long)c->now.count, c->crashes, (unsigned long)bench_damaged(b));
}

/* A log whose size, memory and messages are chance. */
static struct contract *power_begin(struct bench *b, const struct shape *shape)
{
    struct contract *c;
    size_t more[4];

    bench_storage(b, shape, shape->bytes + shape->step * test_below(4), 0, 1);
    b->config.messages = test_below(4) ? 64 : 200;
    more[0] = more[1] = 0;
    more[2] = b->fake.unit;
    more[3] = test_below(20000);
    bench_start(b, more[test_below(4)]);
    c = contract_new(b);
    c->failing = 1;
    c->size_max = test_below(2) ? CONTRACT_LARGEST - 200 : 200;
    c->devices = 4;
    contract_begin(c);
    return c;
}

/* Histories of some 20 operations with crashes at random calls. */
static void test_histories(const struct shape *shape, unsigned long histories)
{
    static struct bench b;
    static struct power_met met;
    struct contract *c;
    unsigned long i, first = power_option("TEST_HISTORY", 0);
    uint64_t seed = test_state;

    memset(&met, 0, sizeof met);
    bench_test();
    power_now.shape = shape;
    power_now.seed = seed;
    if (getenv("TEST_HISTORY") != NULL)
        histories = first + 1;
    for (i = first; i < histories && bench_goes_on(); i++) {
        unsigned long before = test_failed, steps;

        test_state = (seed + i * 1000003) * UINT64_C(0x9E3779B97F4A7C15) | 1;
        steps = power_option("TEST_STEPS", 5 + test_below(30));
        power_now.history = i;
        power_now.inside = 1;
        c = power_begin(&b, shape);
        if (i & 1)
            bench_age(&b, test_below(2 * b.fake.bytes / (b.fake.unit < 1500 ? 1500 :
                                                          b.fake.unit)));
        while (steps-- != 0 && test_failed == before) {
            if (b.fake.fail_at == 0 && test_below(6) == 0) {
                b.fake.fail_at = b.fake.calls + 1 + test_below(10);
                b.fake.after = (int)test_below(FAKE_WHENS);
            }
            power_step(&b, c);
        }
        b.fake.fail_at = b.fake.calls + 1 + test_below(2);
        c->doing = "the last crash";
        contract_flush(c);
        b.fake.fail_at = 0;
        bench_compare(&b, c);
        if (i % 8 == 0) { /* all that still waits is moved forward */
            contract_park(c);
            bench_age(&b, b.fake.bytes / (b.fake.unit < 1500 ? 1500 : b.fake.unit));
            bench_compare(&b, c);
        }
        if (test_failed != before)
            power_where();
        power_now.inside = 0;
        power_add(&met, &b, c);
        bench_free(&b);
    }
    power_say("power", shape, &met);
    if (met.histories >= 2000) {
        CHECK(met.crashes > met.histories / 2 && met.recoveries > met.histories / 50);
        CHECK(met.kept > met.histories / 50 && met.lost > met.histories / 50);
        CHECK(met.torn > met.histories / 50 && met.garbage > met.histories / 50);
        CHECK(met.back > met.histories / 20 && met.fulls > 0 && met.moved > met.histories / 50);
    }
}

/* One small history, with the power gone at a call, and again at a call of the recovery (0: not).
 * Returns whether it came so far. */
static int each_run(const struct shape *shape, uint64_t seed, unsigned long call, int after,
                    unsigned long recovery, int aged, struct power_met *met)
{
    static struct bench b;
    struct contract *c;
    unsigned long before = test_failed;
    int steps, hit;

    test_state = seed;
    bench_init(&b, shape, shape->bytes, 0, 1);
    c = contract_new(&b);
    c->failing = 1;
    c->size_max = 400;
    c->devices = 3;
    c->channels = 3;
    contract_begin(c);
    if (aged)
        bench_age(&b, b.fake.bytes / 2 / (b.fake.unit < 1500 ? 1500 : b.fake.unit));
    b.planned = 1;
    b.recover_at = recovery;
    b.fake.fail_at = b.fake.calls + call;
    b.fake.after = after;
    for (steps = 15; steps != 0 && b.fake.failures == 0 && test_failed == before; steps--)
        power_step(&b, c);
    hit = recovery != 0 ? b.recover_hit : b.fake.failures != 0;
    b.fake.fail_at = 0;
    bench_compare(&b, c);
    bench_age(&b, 2);
    bench_compare(&b, c);
    if (test_failed != before)
        printf("  %s, seed %llu, call %lu, %s, recovery %lu\n", shape->name,
               (unsigned long long)seed, call,
               after == FAKE_AFTER ? "after it" : after == FAKE_BEFORE ? "before" : "half way",
               recovery);
    power_add(met, &b, c);
    bench_free(&b);
    return hit;
}

static void test_each(const struct shape *shape, unsigned long histories)
{
    static struct power_met met;
    unsigned long i, call, recovery, calls = 0;
    uint64_t seed = test_state, own;
    int after, hit;

    bench_test();
    memset(&met, 0, sizeof met);
    for (i = 0; i < histories && bench_goes_on(); i++) {
        own = (seed + i * 1000003) * UINT64_C(0x9E3779B97F4A7C15) | 1;
        for (call = 1, hit = 1; hit && bench_goes_on(); call++)
            for (after = 0; after < FAKE_WHENS && hit; after++) {
                hit = each_run(shape, own, call, after, 0, (int)(i & 1), &met);
                for (recovery = 1; hit && recovery < 40; recovery++)
                    if (!each_run(shape, own, call, after, recovery, (int)(i & 1), &met))
                        break;
                CHECK(recovery < 40);
            }
        calls += call;
    }
    printf("each call of %lu histories, %lu calls\n", i, calls);
    power_say("each call", shape, &met);
}

/* ---- a log that is made where there was one ---- */

/* The power goes at each call of format(): there is the old one as it was, if nothing was durable
 * yet, or none, or the new one, and it is empty. */
static void test_format(const struct shape *shape, unsigned long seeds)
{
    static struct bench b;
    unsigned long i, call, old = 0, none = 0, fresh = 0;
    uint64_t seed = test_state;
    unsigned char *image;
    int after, result, made;

    bench_test();
    for (i = 0; i < seeds && bench_goes_on(); i++)
        for (call = 1, made = 0; !made && bench_goes_on(); call++)
            for (after = 0; after < FAKE_WHENS; after++) {
                msc4203_log_usage usage;
                uint64_t key;

                test_state = (seed + i) * UINT64_C(0x9E3779B97F4A7C15) | 1;
                bench_init(&b, shape, shape->bytes, 0, 1);
                bench_age(&b, i & 1 ? 3 : 40); /* one flushed message waits for ever */
                {
                    static struct contract *c;
                    c = contract_new(&b);
                    contract_begin(c);
                    while (c->now.count == 0)
                        contract_step(c);
                    contract_flush(c);
                }
                image = (unsigned char *)malloc(b.fake.bytes);
                if (image == NULL)
                    exit(2);
                memcpy(image, b.fake.durable, b.fake.bytes);
                fake_forget(&b.fake);
                memset(b.opened, 0, sizeof b.opened);
                b.fake.fail_at = b.fake.calls + call;
                b.fake.after = after;
                test_state = (seed + i + call * 977) * UINT64_C(0x9E3779B97F4A7C15) | 1;
                result = msc4203_log_format(&b.log, b.storage, &b.config, b.index,
                                            b.index_bytes, 0x4203);
                made = result == MSC4203_OK;
                CHECK(made || result == MSC4203_E_STORAGE);
                fake_crash(&b.fake);
                key = b.fake.bytes;
                result = memcmp(image, b.fake.durable, b.fake.bytes) == 0;
                if (result) {
                    old++;
                } else if ((result = bench_open(&b)) == MSC4203_OK) {
                    key = msc4203_log_key(&b.log);
                    msc4203_log_usage_get(&b.log, &usage);
                    CHECK(key != 0x4203 || (usage.messages == 0 && usage.damaged == 0));
                    fresh++;
                } else {
                    CHECK(result == MSC4203_E_FORMAT);
                    none++;
                }
                CHECK(!made || key == 0x4203);
                free(image);
                bench_free(&b);
            }
    printf("format, %s: the old one %lu times, none %lu, the new one %lu\n", shape->name, old,
           none, fresh);
    CHECK(fresh != 0);
}

int main(void)
{
    unsigned long which = power_option("TEST_SHAPE", SHAPES);
    unsigned i;

    atexit(power_where);
    for (i = 0; i < SHAPES; i++) {
        const struct shape *shape = &shapes[i];
        int told = shape->told != 0;

        if (which < SHAPES && which != i)
            continue;
        test_seed(0x106 + i);
        test_histories(shape, test_shared(told ? 2000 : 20000, 40));
        if (getenv("TEST_HISTORY") != NULL)
            continue;
        test_each(shape, test_shared(told ? 2 : 10, 2));
        test_faults(shape, shape->bytes, test_shared(4, 2));
        test_format(shape, test_shared(8, 2));
    }
    return test_end("power");
}
