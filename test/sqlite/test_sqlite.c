/* test_sqlite.c - the contract test on example/queue_sqlite.c, and two processes on one file. */
#define _POSIX_C_SOURCE 200809L
#include "../queue_contract.h"
#include "queue_sqlite.h"

#include <sys/wait.h>
#include <unistd.h>

static const char *const path = "build/sqlite/queue.db";

struct database {
    struct queue_sqlite q;
    msc4203_queue queue;
    uint64_t openings;
};

static int reopen(struct contract *c, int crash)
{
    struct database *d = (struct database *)c->context;

    (void)crash;
    queue_sqlite_close(&d->q);
    return queue_sqlite_open(&d->q, path, 7000 + ++d->openings, &d->queue);
}

static void remove_all(void)
{
    unlink("build/sqlite/queue.db");
    unlink("build/sqlite/queue.db-wal");
    unlink("build/sqlite/queue.db-shm");
}

/* One of two processes: commits batches of messages whose type tells who sent them. */
static int child(int who)
{
    struct database d;
    int i, k, result;
    uint64_t first;
    uint32_t batch;
    char text[16];

    if (queue_sqlite_open(&d.q, path, 100 + (uint64_t)who, &d.queue) != MSC4203_OK)
        return 1;
    sprintf(text, "%d", who);
    for (i = 0; i < 30; i++) {
        result = d.queue.begin(&d.q, &batch);
        for (k = 0; k < 3 && result == MSC4203_OK; k++) {
            msc4203_message message;
            memset(&message, 0, sizeof message);
            message.channels = 2;
            message.item.type = contract_span(text);
            message.item.content = contract_span("{}");
            result = d.queue.push(&d.q, batch, &message);
        }
        if (result == MSC4203_OK)
            result = d.queue.commit(&d.q, batch, NULL, &first);
        if (result == MSC4203_OK)
            result = d.queue.flush(&d.q);
        if (result != MSC4203_OK)
            return 1;
    }
    queue_sqlite_close(&d.q);
    return 0;
}

static void test_two(void)
{
    static struct database d;
    msc4203_message got;
    char memory[1000], last[3] = "";
    uint64_t after = 0;
    int i, status, run = 0, counts[2] = {0, 0};
    pid_t pids[2];

    remove_all();
    fflush(stdout);
    for (i = 0; i < 2; i++) {
        pids[i] = fork();
        if (pids[i] == 0)
            _exit(child(i));
    }
    for (i = 0; i < 2; i++)
        CHECK(waitpid(pids[i], &status, 0) == pids[i] && WIFEXITED(status) &&
              WEXITSTATUS(status) == 0);
    CHECK(queue_sqlite_open(&d.q, path, 1, &d.queue) == MSC4203_OK);
    while (d.queue.next(&d.q, 1, NULL, after, memory, sizeof memory, &got) == MSC4203_ITEM) {
        CHECK(got.item.type.len == 1 && got.number > after);
        if (run % 3 == 0) /* a batch's numbers are one run */
            last[0] = got.item.type.ptr[0];
        CHECK(last[0] == got.item.type.ptr[0] && (run % 3 == 0 || got.number == after + 1));
        counts[last[0] == '1']++;
        after = got.number;
        run++;
    }
    CHECK(counts[0] == 90 && counts[1] == 90);
    queue_sqlite_close(&d.q);
}

/* Processes that make and leave one file, all at once, none of which may be turned away. */
static void test_rush(void)
{
    static struct database d;
    int round, i, status, gate[2];
    pid_t pids[4];
    char byte;

    for (round = 0; round < 20; round++) {
        remove_all();
        fflush(stdout);
        if (!CHECK(pipe(gate) == 0))
            return;
        for (i = 0; i < 4; i++) {
            pids[i] = fork();
            if (pids[i] != 0)
                continue;
            close(gate[1]);
            if (read(gate[0], &byte, 1) != 0) /* until the gate is closed */
                _exit(2);
            for (i = 0; i < 5; i++) {
                if (queue_sqlite_open(&d.q, path, 5, &d.queue) != MSC4203_OK)
                    _exit(1);
                queue_sqlite_close(&d.q);
            }
            _exit(0);
        }
        close(gate[0]);
        close(gate[1]);
        for (i = 0; i < 4; i++)
            CHECK(waitpid(pids[i], &status, 0) == pids[i] && WIFEXITED(status) &&
                  WEXITSTATUS(status) == 0);
    }
}

static int count_step(void *steps)
{
    ++*(unsigned long *)steps;
    return 0;
}

static void put(struct database *d, uint32_t channels, const char *device)
{
    msc4203_message message;
    uint32_t batch;
    uint64_t first;

    memset(&message, 0, sizeof message);
    message.channels = channels;
    message.item.user_id = contract_span("@alice:gw.example");
    message.item.device_id = contract_span(device);
    message.item.content = contract_span("{}");
    CHECK(d->queue.begin(&d->q, &batch) == MSC4203_OK);
    CHECK(d->queue.push(&d->q, batch, &message) == MSC4203_OK);
    CHECK(d->queue.commit(&d->q, batch, NULL, &first) == MSC4203_OK);
}

/* The steps of SQLite's machine for one message in and out, and for a move. */
static void measure(struct database *d, unsigned long steps[4])
{
    static char memory[1000];
    msc4203_device device;
    msc4203_message got;
    msc4203_counts counts;
    uint64_t moved;
    int i;

    device.user_id = contract_span("@alice:gw.example");
    device.device_id = contract_span("PHONE");
    for (i = 0; i < 4; i++)
        steps[i] = 0;
    sqlite3_progress_handler(d->q.db, 1, count_step, &steps[0]);
    put(d, 1 | 4, "PHONE");
    CHECK(d->queue.flush(&d->q) == MSC4203_OK);
    sqlite3_progress_handler(d->q.db, 1, count_step, &steps[1]); /* a /sync */
    CHECK(d->queue.count(&d->q, 0, NULL, &counts) == MSC4203_OK);
    CHECK(d->queue.next(&d->q, 0, &device, 0, memory, sizeof memory, &got) == MSC4203_ITEM);
    CHECK(d->queue.done(&d->q, 0, &device, got.number, NULL) == MSC4203_OK);
    sqlite3_progress_handler(d->q.db, 1, count_step, &steps[2]);
    CHECK(d->queue.move(&d->q, 2, NULL, got.number, 8, &moved) == MSC4203_OK);
    CHECK(d->queue.flush(&d->q) == MSC4203_OK);
    sqlite3_progress_handler(d->q.db, 1, count_step, &steps[3]);
    CHECK(d->queue.done(&d->q, 3, NULL, moved, NULL) == MSC4203_OK);
    CHECK(d->queue.flush(&d->q) == MSC4203_OK);
    sqlite3_progress_handler(d->q.db, 0, NULL, NULL);
}

/* What one message takes does not depend on how many wait for others. */
static void test_growth(void)
{
    static struct database d;
    unsigned long few[4], many[4];
    msc4203_counts counts;
    int i;

    remove_all();
    CHECK(queue_sqlite_open(&d.q, path, 1, &d.queue) == MSC4203_OK);
    for (i = 0; i < 100; i++)
        put(&d, i & 1 ? 1 : 2, "OTHER");
    measure(&d, few);
    for (; i < 5000; i++)
        put(&d, i & 1 ? 1 : 2, "OTHER");
    measure(&d, many);
    for (i = 0; i < 4; i++)
        if (!CHECK(many[i] * 2 <= few[i] * 3))
            printf("  %d: %lu steps, then %lu\n", i, few[i], many[i]);
    CHECK(d.queue.count(&d.q, 0, NULL, &counts) == MSC4203_OK && counts.messages == 2500 &&
          counts.bytes == 2500 * (17 + 5 + 2));
    queue_sqlite_close(&d.q);
}

int main(void)
{
    static struct database d;
    static struct contract c;

    test_seed(0x5917);
    remove_all();
    CHECK(queue_sqlite_open(&d.q, path, 7000, &d.queue) == MSC4203_OK);
    c.queue = &d.queue;
    c.context = &d;
    c.reopen = reopen;
    contract_begin(&c);
    contract_run(&c, 3000 * test_scale(), 499);
    contract_last_time(&c);
    printf("sqlite: %lu operations, %lu messages, %lu moved, %lu repeats\n", c.operations,
           c.messages_kept, c.moves, c.repeats);
    queue_sqlite_close(&d.q);
    CHECK(queue_sqlite_open(&d.q, "build/no such folder/x.db", 1, &d.queue) == MSC4203_E_STORAGE);
    queue_sqlite_close(&d.q);
    test_two();
    test_rush();
    test_growth();
    return test_end("sqlite");
}
