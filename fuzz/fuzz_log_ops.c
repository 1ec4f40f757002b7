/* fuzz_log_ops.c - a log against the model of test/queue_contract.h, with power loss and faults.
 *
 * The first 4 bytes choose the storage, the log and what may happen to it; each of the following
 * decides one thing that test/test_log.c and test/test_power.c leave to chance: which operation, on
 * what, when a call of the storage fails, and what a power loss leaves. When they are used up, the
 * log is opened once more, and all that it holds is compared. */
#define TEST_BELOW
#include "common.h"
#include "test/log_bench.h"

const char fuzz_name[] = "fuzz_log_ops";

enum { HOW, SIZES, MODEL, AGE, CHOICES };
enum { STEPS = 400 };
enum { LOSES_POWER = 1, FAILS_ONCE = 2, STAYS_FAILED = 3 };

static const uint8_t *input;
static size_t left;

/* When the input is used up, it is chance again: some loops wait for another answer. */
static size_t test_below(size_t n)
{
    size_t number = 0, most;

    for (most = n > 0 ? n - 1 : 0; most != 0; most >>= 8) {
        number = number << 8 | (left != 0 ? *input++ : test_random() >> 16 & 0xFF);
        left -= left != 0;
    }
    return n != 0 ? number % n : 0;
}

/* Now and then, a call of the storage fails soon. */
static void set_fault(struct bench *b, int how)
{
    if (how == 0 || b->fake.fail_at != 0 || test_below(12) != 1)
        return;
    b->fake.fail_at = b->fake.calls + 1 + test_below(40);
    b->fake.after = (int)test_below(FAKE_WHENS);
    b->fake.fail_once = how == FAILS_ONCE;
}

static void no_fault(struct bench *b)
{
    b->fake.fail_at = 0;
    b->fake.fail_once = 0;
}

/* What is found when it is opened again. */
static void reopen(struct bench *b, struct contract *c)
{
    no_fault(b);
    c->doing = "reopen";
    contract_flush(c);
    contract_count(c);
    contract_reopen(c, 0);
    contract_compare(c);
    contract_count(c);
}

static struct contract *begin(struct bench *b, const uint8_t *data)
{
    const struct shape *shape = &shapes[data[SIZES] % SHAPES];
    int how = data[HOW] & 3, in_memory = how == 0 && (data[HOW] & 4) != 0;
    struct contract *c;

    bench_storage(b, shape, shape->bytes + shape->step * (data[SIZES] >> 3 & 3), in_memory,
                  how == LOSES_POWER);
    b->config.messages = data[HOW] & 128 ? 24 : 200;
    b->config.devices = data[HOW] & 64 ? 3 : 16;
    bench_start(b, data[SIZES] & 32 ? 0 : data[SIZES] & 64 ? shape->sector : 20000);
    c = contract_new(b);
    c->failing = how != 0;
    c->pinned = data[HOW] >> 3 & 1;
    c->size_max = data[HOW] & 16 ? 1800 : data[HOW] & 32 ? 600 : 120;
    c->devices = 1u + data[MODEL] % (unsigned)CONTRACT_DEVICES;
    c->channels = 2u + (unsigned)(data[MODEL] >> 4) % (CONTRACT_CHANNELS - 1);
    contract_begin(c);
    bench_age(b, data[AGE] % 64);
    return c;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct bench b;
    struct contract *c;
    int how, steps;

    if (size < CHOICES)
        return 0;
    input = data + CHOICES;
    left = size - CHOICES;
    test_state = 0x4203;
    how = data[HOW] & 3;
    c = begin(&b, data);
    for (steps = 0; steps < STEPS && left != 0 && test_failed == 0; steps++) {
        set_fault(&b, how);
        switch (test_below(50)) {
        case 1:
            if (b.fake.fail_at == 0)
                reopen(&b, c);
            break;
        case 2:
            bench_close(&b, c);
            break;
        default:
            break;
        }
        contract_step(c);
    }
    if (how == LOSES_POWER && test_failed == 0) { /* without a flush */
        b.fake.fail_once = 0;
        b.fake.fail_at = b.fake.calls + 1;
        c->doing = "the last crash";
        contract_flush(c);
    }
    FUZZ_CHECK(test_failed == 0);
    no_fault(&b);
    bench_compare(&b, c);
    reopen(&b, c);
    FUZZ_CHECK(test_failed == 0);
    bench_free(&b);
    return 0;
}
