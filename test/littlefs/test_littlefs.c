/* test_littlefs.c - the log on littlefs, on an emulated NOR flash chip that loses its power.
 *
 * A model (queue_contract.h) says in which states the log may be after each power failure. The
 * chip fails at a program, erase or sync call: nothing of it is done, a part, or garbage is there.
 * All calls behind it fail, until the file system is mounted again. */
#include "log_bench.h"
#include "littlefs.h"

enum {
    CHIP_BLOCK = 4096,
    CHIP_BLOCKS_MOST = 512,
    CHIP_CACHE = 256
};

static struct chip {
    struct lfs_config config;
    unsigned char bytes[CHIP_BLOCKS_MOST * CHIP_BLOCK];
    unsigned long calls, fail_at; /* there is no power from this one on; 0: there always is */
    int after;                    /* enum fake_when: what is done of the call that fails */
    /* what was met */
    unsigned long programs, programmed, erases, syncs, failures, torn, garbage, dirty;
} chip;

/* All that is lost with the power, but the bench. */
static struct mounted {
    lfs_t lfs;
    struct littlefs_log files;
    unsigned char read[CHIP_CACHE], program[CHIP_CACHE], lookahead[64], buffers[2 * CHIP_CACHE];
} *mounted;

/* A file system, and a log on it. */
struct kind {
    const char *name;
    uint32_t program;     /* the chip's prog_size */
    uint32_t file, files; /* bytes of each, and how many at least */
    uint32_t sector;      /* told to the log, if not 0 */
    uint32_t more;        /* blocks that the chip has beside the files' */
};

static const struct kind kinds[] = {
    {"files of 4096", 16, 4096, 10, 0, 8},
    {"files of 8192", 256, 8192, 8, 0, 10},
    {"files of 16384, sectors of 512", 256, 16384, 8, 512, 14},
};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

static struct bench bench; /* its fake storage is not used */
static const struct kind *kind;

/* ---- the chip ---- */

static int chip_off(void)
{
    return chip.fail_at != 0 && chip.calls >= chip.fail_at;
}

/* Counts a call; tells what is to be done of it. */
static int chip_call(int *fails)
{
    chip.calls++;
    *fails = chip_off();
    if (!*fails)
        return FAKE_AFTER;
    if (chip.calls != chip.fail_at)
        return FAKE_BEFORE;
    chip.failures++;
    return chip.after;
}

/* Only what is wrong is counted: there are millions of calls. */
static void chip_asked(int rightly)
{
    if (!rightly) {
        CHECK_CASE(0, "a call of the chip");
        exit(1);
    }
}

static int chip_read(const struct lfs_config *c, lfs_block_t block, lfs_off_t off, void *buffer,
                     lfs_size_t size)
{
    chip_asked(block < c->block_count && off + size <= CHIP_BLOCK);
    if (chip_off())
        return LFS_ERR_IO;
    memcpy(buffer, chip.bytes + (size_t)block * CHIP_BLOCK + off, size);
    return 0;
}

/* A part of the bytes is garbage. */
static void chip_garble(unsigned char *to, size_t size, int erasing)
{
    size_t from = test_below(size), end = from + 1 + test_below(size - from);

    for (; from < end; from++) {
        unsigned char noise = (unsigned char)(test_random() >> 30);
        to[from] = (unsigned char)(erasing ? to[from] | noise : to[from] & noise);
    }
    chip.garbage++;
}

static int chip_program(const struct lfs_config *c, lfs_block_t block, lfs_off_t off,
                        const void *buffer, lfs_size_t size)
{
    unsigned char *to = chip.bytes + (size_t)block * CHIP_BLOCK + off;
    int fails, when = chip_call(&fails);
    size_t i, done = when == FAKE_AFTER ? size : when == FAKE_MIDDLE ? test_below(size) : 0;

    chip_asked(block < c->block_count && off + size <= CHIP_BLOCK && off % c->prog_size == 0);
    chip.programs += !fails;
    chip.programmed += fails ? 0 : size;
    for (i = 0; i < done; i++) {
        chip.dirty += to[i] != 0xFF;
        to[i] &= ((const unsigned char *)buffer)[i]; /* bits only go from 1 to 0 */
    }
    if (when == FAKE_MIDDLE) {
        chip.torn++;
        if (test_below(2))
            chip_garble(to, size, 0);
    }
    return fails ? LFS_ERR_IO : 0;
}

static int chip_erase(const struct lfs_config *c, lfs_block_t block)
{
    unsigned char *to = chip.bytes + (size_t)block * CHIP_BLOCK;
    int fails, when = chip_call(&fails);

    chip_asked(block < c->block_count);
    chip.erases += !fails;
    if (when == FAKE_AFTER)
        memset(to, 0xFF, CHIP_BLOCK);
    if (when == FAKE_MIDDLE) {
        chip.torn++;
        memset(to, 0xFF, test_below(CHIP_BLOCK));
        if (test_below(2))
            chip_garble(to, CHIP_BLOCK, 1);
    }
    return fails ? LFS_ERR_IO : 0;
}

static int chip_sync(const struct lfs_config *c)
{
    int fails;

    (void)c;
    chip_call(&fails);
    chip.syncs += !fails;
    return fails ? LFS_ERR_IO : 0;
}

/* ---- the file system, and the log on it ---- */

/* The memory is new each time, so that nothing can outlive the power. */
static void memory_lost(void)
{
    free(mounted);
    mounted = (struct mounted *)malloc(sizeof *mounted);
    if (mounted == NULL)
        exit(2);
    memset(mounted, 0xA5, sizeof *mounted);
    chip.config.read_buffer = mounted->read;
    chip.config.prog_buffer = mounted->program;
    chip.config.lookahead_buffer = mounted->lookahead;
}

static int mount(void)
{
    int result = lfs_mount(&mounted->lfs, &chip.config);

    if (result == 0) {
        littlefs_log_begin(&mounted->files, &mounted->lfs, "queue", kind->file,
                           (uint32_t)(bench.fake.bytes / kind->file), mounted->buffers);
        bench.storage = &mounted->files.storage;
    }
    return result;
}

/* A new chip, with an empty log whose region is the smallest in which it fits. */
static void begin(uint32_t files)
{
    msc4203_storage storage;

    free(bench.index);
    memset(&bench, 0, sizeof bench);
    bench.config.messages = 80;
    bench.config.devices = 16;
    bench.config.requests = CONTRACT_REQUESTS;
    bench.config.openings = 8;
    bench.config.message_bytes = CONTRACT_LARGEST;
    bench.config.sector = kind->sector;
    memset(&storage, 0, sizeof storage);
    storage.version = 1;
    storage.sector = 16;
    storage.block = kind->file;
    for (storage.bytes = files * kind->file;
         msc4203_log_memory(&bench.log, &storage, &bench.config) == 0;)
        storage.bytes += kind->file;
    bench.fake.bytes = (size_t)storage.bytes;

    chip.calls = chip.fail_at = 0;
    chip.config.read = chip_read;
    chip.config.prog = chip_program;
    chip.config.erase = chip_erase;
    chip.config.sync = chip_sync;
    chip.config.read_size = 16;
    chip.config.prog_size = kind->program;
    chip.config.block_size = CHIP_BLOCK;
    chip.config.block_count = (lfs_size_t)(storage.bytes / CHIP_BLOCK) + kind->more;
    chip.config.block_cycles = 100;
    chip.config.cache_size = CHIP_CACHE;
    chip.config.lookahead_size = sizeof mounted->lookahead;
    if (chip.config.block_count > CHIP_BLOCKS_MOST)
        exit(2);
    memset(chip.bytes, 0xFF, sizeof chip.bytes);
    memory_lost();
    CHECK(lfs_format(&mounted->lfs, &chip.config) == 0);
    CHECK(mount() == 0);
    bench_start(&bench, 0);
}

/* Orderly. */
static void unmount(void)
{
    CHECK(littlefs_log_end(&mounted->files) == 0);
    CHECK(lfs_unmount(&mounted->lfs) == 0);
    memory_lost();
    CHECK(mount() == 0);
}

static int reopen(struct contract *c, int crash)
{
    int result, tries;

    (void)c;
    if (!crash) {
        if (test_below(2)) /* otherwise it is only opened again */
            unmount();
        result = bench_open(&bench);
        CHECK(bench_damaged(&bench) == 0);
        return result;
    }
    if (!chip_off()) /* the storage failed, and the chip did not: the file system is full, say */
        CHECK_CASE(0, "a storage that has power");
    for (tries = 0;; tries++) {
        chip.fail_at = 0;
        if (bench.recover_at != 0) {
            chip.fail_at = chip.calls + bench.recover_at;
            bench.recover_at = 0;
        } else if (!bench.planned && tries < 5 && test_below(4) == 0) {
            chip.fail_at = chip.calls + 1 + test_below(12);
            chip.after = (int)test_below(FAKE_WHENS);
        }
        memory_lost();
        result = mount();
        if (result == 0)
            result = bench_open(&bench);
        if (result == MSC4203_OK) {
            chip.fail_at = 0;
            CHECK_CASE(bench_damaged(&bench) == 0, "opened after a crash");
            return result;
        }
        if (!CHECK_CASE(chip_off(), "opened after a crash"))
            return result;
        bench.crash_in_recovery++;
        bench.recover_hit = 1;
    }
}

static struct contract *model(void)
{
    struct contract *c = contract_new(&bench);

    c->reopen = reopen;
    return c;
}

/* Closes the log, which may fail, and opens it again. */
static void restart(struct contract *c)
{
    int result;

    c->doing = "close";
    result = msc4203_log_close(&bench.log);
    if (contract_failed(c, result))
        return;
    CHECK(result == MSC4203_OK);
    contract_flushed(c);
    chip.fail_at = 0;
    contract_reopen(c, 0);
}

static void step(struct contract *c)
{
    if (test_below(50) == 0)
        restart(c);
    else
        contract_step(c);
}

/* So many messages one after the other, each taken out again. */
static void age(size_t bytes)
{
    bench_age(&bench, bytes / 1500);
}

static struct met {
    unsigned long histories, crashes, recoveries, messages, taken, back, fulls;
} met;

static void add(const struct contract *c)
{
    met.histories++;
    met.crashes += c->crashes;
    met.recoveries += bench.crash_in_recovery;
    met.messages += c->messages_kept;
    met.taken += c->taken;
    met.back += c->states_back;
    met.fulls += c->fulls;
}

static void say(const char *what)
{
    printf("%s, %s: %lu histories, %lu crashes, %lu in recovery; %lu calls torn, %lu garbage; "
           "%lu messages, %lu taken, full %lu times, %lu states lost\n",
           what, kind->name, met.histories, met.crashes, met.recoveries, chip.torn, chip.garbage,
           met.messages, met.taken, met.fulls, met.back);
    memset(&met, 0, sizeof met);
    chip.torn = chip.garbage = 0;
    fflush(stdout);
}

/* ---- the tests ---- */

static int holds(const msc4203_storage *storage, uint64_t at, size_t bytes, int value)
{
    unsigned char data[64];
    size_t i;

    if (bytes > sizeof data || storage->read(storage->context, at, data, bytes) != 0)
        return 0;
    for (i = 0; i < bytes && data[i] == value; i++)
        ;
    return i == bytes;
}

/* The storage without a log: what is erased or skipped, and a call that fails, and then the chip
 * works again, without a restart: nothing may be said to be durable then. */
static void test_storage(void)
{
    static unsigned char data[1024];
    const uint64_t at = kind->file; /* the second file */
    const msc4203_storage *s;
    unsigned long call;
    int which, result;

    for (which = 0; which < 3; which++) /* the call that fails: write, erase, sync */
        for (call = 1, result = -1; result != 0 && call < 100; call++) {
            begin(kind->files);
            CHECK(littlefs_log_end(&mounted->files) == 0);
            littlefs_log_begin(&mounted->files, &mounted->lfs, "other", kind->file, 8,
                               mounted->buffers);
            s = &mounted->files.storage;
            CHECK(holds(s, at, 64, 0xFF));
            CHECK(s->erase(s->context, at, kind->file) == 0);
            memset(data, 0x42, sizeof data);
            CHECK(s->write(s->context, at + 32, data, 1024) == 0);
            CHECK(holds(s, at, 32, 0xFF) && holds(s, at + 32, 64, 0x42));
            CHECK(holds(s, at + 32 + 1024, 64, 0xFF) && holds(s, at - 64, 64, 0xFF));
            CHECK(s->write(s->context, at + 32, data, 16) != 0); /* twice */
            memory_lost(); /* without a sync */
            CHECK(mount() == 0);
            littlefs_log_begin(&mounted->files, &mounted->lfs, "other", kind->file, 8,
                               mounted->buffers);
            s = &mounted->files.storage;
            CHECK(holds(s, at, 64, 0xFF));
            CHECK(s->write(s->context, at, data, 1024) == 0 && s->sync(s->context) == 0);
            if (which == 2)
                CHECK(s->write(s->context, at + 1024, data, 1024) == 0);
            chip.fail_at = chip.calls + call;
            result = which == 0 ? s->write(s->context, at + 1024, data, 1024)
                     : which == 1 ? s->erase(s->context, 0, kind->file) : s->sync(s->context);
            chip.fail_at = 0;
            if (result != 0) {
                CHECK(s->sync(s->context) != 0);
                CHECK(s->write(s->context, at + 2048, data, 16) != 0);
                CHECK(s->erase(s->context, at, kind->file) != 0);
            }
            memory_lost();
            CHECK(mount() == 0);
            littlefs_log_begin(&mounted->files, &mounted->lfs, "other", kind->file, 8,
                               mounted->buffers);
            s = &mounted->files.storage;
            CHECK(holds(s, at, 64, 0x42) && holds(s, at + 960, 64, 0x42));
        }
}

/* Random histories, with the power failing at random calls. */
static void test_histories(unsigned long histories)
{
    unsigned long i, steps;
    uint64_t seed = test_state;
    struct contract *c;

    bench_test();
    for (i = 0; i < histories && bench_goes_on(); i++) {
        unsigned long before = test_failed;

        test_state = (seed + i * 1000003) * UINT64_C(0x9E3779B97F4A7C15) | 1;
        begin(kind->files + (uint32_t)test_below(3));
        c = model();
        c->failing = 1;
        c->size_max = test_below(2) ? CONTRACT_LARGEST - 200 : 200;
        c->devices = 4;
        contract_begin(c);
        if (i & 1)
            age(test_below(2 * bench.fake.bytes));
        for (steps = 20 + test_below(60); steps != 0 && test_failed == before; steps--) {
            if (chip.fail_at == 0 && test_below(6) == 0) {
                chip.fail_at = chip.calls + 1 + test_below(25);
                chip.after = (int)test_below(FAKE_WHENS);
            }
            step(c);
        }
        if (!chip_off())
            chip.fail_at = 0;
        bench_compare(&bench, c);
        if (i % 8 == 0) { /* all that still waits is moved forward */
            contract_park(c);
            age(bench.fake.bytes);
            bench_compare(&bench, c);
        }
        add(c);
        if (test_failed != before)
            printf("  %s, history %lu\n", kind->name, i);
    }
    if (met.histories >= 100)
        CHECK(met.crashes > met.histories && met.recoveries > met.histories / 10 &&
              met.back > 0 && met.taken > met.histories);
    say("histories");
}

/* A small history, with the power gone at a call, and again at a call of the recovery (0: not). */
static int each_run(uint64_t seed, unsigned long call, int after, unsigned long recovery, int aged)
{
    struct contract *c;
    unsigned long before = test_failed, failures;
    int steps, hit;

    test_state = seed;
    begin(kind->files);
    c = model();
    c->failing = 1;
    c->size_max = 400;
    c->devices = 3;
    c->channels = 3;
    contract_begin(c);
    if (aged)
        age(bench.fake.bytes / 2);
    bench.planned = 1;
    bench.recover_at = recovery;
    failures = chip.failures;
    chip.fail_at = chip.calls + call;
    chip.after = after;
    for (steps = 15; steps != 0 && chip.failures == failures && test_failed == before; steps--)
        step(c);
    hit = recovery != 0 ? bench.recover_hit : chip.failures != failures;
    if (!chip_off())
        chip.fail_at = 0;
    bench_compare(&bench, c);
    age(3000);
    bench_compare(&bench, c);
    add(c);
    if (test_failed != before)
        printf("  %s, seed %llu, call %lu, %d, recovery %lu\n", kind->name,
               (unsigned long long)seed, call, after, recovery);
    return hit;
}

static void test_each(unsigned long histories)
{
    unsigned long i, call, recovery, calls = 0;
    uint64_t seed = test_state, own;
    int after, hit;

    bench_test();
    for (i = 0; i < histories && bench_goes_on(); i++) {
        own = (seed + i * 1000003) * UINT64_C(0x9E3779B97F4A7C15) | 1;
        for (call = 1, hit = 1; hit && bench_goes_on(); call++, calls++)
            for (after = 0; after < FAKE_WHENS && hit; after++) {
                hit = each_run(own, call, after, 0, (int)(i & 1));
                for (recovery = 1; hit && recovery < 60; recovery++)
                    if (!each_run(own, call, after, recovery, (int)(i & 1)))
                        break;
                CHECK(recovery < 60);
            }
    }
    printf("each call of %lu histories, %lu calls\n", i, calls);
    say("each call");
}

/* One log that is filled until it is full, emptied, closed and opened again, without a failure. */
static void test_rounds(unsigned long rounds)
{
    unsigned long i, total = 0;
    uint64_t number = 0;

    begin(kind->files);
    bench_test();
    for (i = 0; i < rounds && bench_goes_on(); i++) {
        uint64_t first = 0, expected;
        unsigned long count = 0;
        size_t bytes = 100 + test_below(1700);
        static msc4203_message message;
        static uint64_t memory[CONTRACT_TEXT / 8];
        int result;

        while ((result = bench_push(&bench, 2, (unsigned)test_below(10), bytes, &number)) ==
               MSC4203_OK) {
            first = count++ == 0 ? number : first;
            if (test_below(3) == 0)
                CHECK(bench_flush(&bench) == MSC4203_OK);
        }
        CHECK_CASE(result == MSC4203_E_QUEUE_FULL, msc4203_result_text(result));
        CHECK(bench_flush(&bench) == MSC4203_OK);
        if (i % 2 == 0)
            CHECK(msc4203_log_close(&bench.log) == MSC4203_OK);
        if (i % 4 < 3)
            unmount();
        CHECK(bench_open(&bench) == MSC4203_OK && bench_damaged(&bench) == 0);
        for (expected = 0; count != 0; count--, total++) {
            result = bench.queue.next(bench.queue.context, 1, NULL, expected, memory,
                                      sizeof memory, &message);
            if (!CHECK_CASE(result == MSC4203_ITEM, msc4203_result_text(result)))
                break;
            CHECK(expected == 0 ? message.number == first : message.number > expected);
            CHECK(message.item.content.len == bytes);
            expected = message.number;
        }
        CHECK(bench.queue.next(bench.queue.context, 1, NULL, expected, memory,
                               sizeof memory, &message) == MSC4203_END);
        CHECK(bench.queue.done(bench.queue.context, 1, NULL, expected, NULL) == MSC4203_OK);
        CHECK(bench_flush(&bench) == MSC4203_OK);
    }
    CHECK(total > rounds * 5);
    printf("rounds, %s: filled and emptied %lu times, %lu messages\n", kind->name, i, total);
}

/* What a byte of messages costs: so many of a size for each flush, and each taken out again. */
static void measure(size_t bytes, unsigned batch, unsigned long count)
{
    unsigned long i, k, programmed = chip.programmed, erases = chip.erases;
    uint64_t number = 0, before = 0;
    double all;

    for (i = 0; i < count; i += batch) {
        for (k = 0; k < batch; k++)
            CHECK(bench_push(&bench, 2, 0, bytes, &number) == MSC4203_OK);
        if (before != 0)
            CHECK(bench.queue.done(bench.queue.context, 1, NULL, before, NULL) == MSC4203_OK);
        CHECK(bench_flush(&bench) == MSC4203_OK);
        before = number;
    }
    all = (double)(bytes + BENCH_IDS) * (double)i;
    programmed = chip.programmed - programmed;
    erases = chip.erases - erases;
    printf("  messages of %4u bytes, a flush for each %2u: %.1f bytes programmed for a byte, "
           "%.2f blocks erased for a message\n", (unsigned)(bytes + BENCH_IDS), batch,
           (double)programmed / all, (double)erases / (double)i);
    CHECK((double)programmed > all && (double)programmed < 60 * all);
}

static void test_cost(void)
{
    static const struct kind sizes[] = {
        {"files of 4096", 16, 4096, 64, 0, 16},
        {"files of 16384", 16, 16384, 16, 0, 16},
        {"files of 65536", 16, 65536, 12, 0, 40},
        {"files of 16384, programs of 256", 256, 16384, 16, 0, 16},
    };
    size_t i;

    for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        kind = &sizes[i];
        begin(kind->files);
        printf("cost, %s, %u of them, segments of %u:\n", kind->name,
               (unsigned)(bench.fake.bytes / kind->file), (unsigned)bench_segment(&bench));
        measure(300 - BENCH_IDS, 1, 1000);
        measure(300 - BENCH_IDS, 10, 2000);
        measure(1500 - BENCH_IDS, 1, 1000);
        measure(1500 - BENCH_IDS, 10, 1000);
    }
}

int main(void)
{
    unsigned i;

    for (i = 0; i < KINDS; i++) {
        kind = &kinds[i];
        test_seed(0x11F5 + i);
        test_storage();
        test_histories(test_shared(1000, 20));
        test_each(test_shared(2, 1));
        test_rounds(test_shared(60, 4));
    }
    test_cost();
    printf("chip: %lu programs, %lu erases, %lu syncs, %lu failures; %lu bytes programmed that "
           "were not erased\n", chip.programs, chip.erases, chip.syncs, chip.failures, chip.dirty);
    CHECK(chip.failures != 0 && chip.syncs != 0);
    return test_end("littlefs");
}
