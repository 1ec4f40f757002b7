/* fuzz_log_ops.c - a log against the model of test/queue_contract.h, with power loss and faults.
 *
 * The first 4 bytes choose the log and what may happen to it; each of the following decides one
 * thing that test/test_log.c leaves to chance: which operation, on what, when a call of the storage
 * fails, and what a power loss leaves. When they are used up, the log is opened once more, and all
 * that it holds is compared. */
#define TEST_BELOW
#include "common.h"

int test_log_main(void);
#define main test_log_main
#include "test/test_log.c"
#undef main

const char fuzz_name[] = "fuzz_log_ops";

enum { CHOICES = 4, STEPS = 400 };

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

enum { LOSES_POWER = 1, FAILS_ONCE = 2, STAYS_FAILED = 3 };

/* Now and then, a call of the storage fails soon. */
static void set_fault(struct bench *b, int how)
{
    if (how == 0 || b->fake.fail_at != 0 || test_below(12) != 1)
        return;
    b->fake.fail_at = b->fake.calls + 1 + test_below(40);
    b->fake.after = how == LOSES_POWER ? (int)test_below(2) : 0;
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
    how = data[0] & 3;
    bench_init(&b, (size_t)(36 + data[1] % 24) * 1024, how == 0 && (data[0] & 4) != 0,
               how == LOSES_POWER);
    c = contract_new(&b);
    c->failing = how != 0;
    c->pinned = data[0] >> 3 & 1;
    c->size_max = data[0] & 16 ? 1800 : data[0] & 32 ? 600 : 120;
    c->devices = 1u + data[2] % (unsigned)CONTRACT_DEVICES;
    c->channels = 2u + (unsigned)(data[2] >> 4) % (CONTRACT_CHANNELS - 1);
    contract_begin(c);
    bench_age(&b, data[3] % 64);
    for (steps = 0; steps < STEPS && left != 0 && test_failed == 0; steps++) {
        set_fault(&b, how);
        if (test_below(50) == 1 && b.fake.fail_at == 0)
            reopen(&b, c);
        contract_step(c);
    }
    if (how == LOSES_POWER && test_failed == 0) { /* without a flush */
        b.fake.fail_once = 0;
        b.fake.fail_at = b.fake.calls + 1;
        c->doing = "the last crash";
        contract_flush(c);
    }
    FUZZ_CHECK(test_failed == 0);
    reopen(&b, c);
    FUZZ_CHECK(test_failed == 0);
    FUZZ_CHECK(b.log.priv.damaged == 0);
    bench_free(&b);
    return 0;
}
