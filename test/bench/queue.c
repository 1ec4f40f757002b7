/* queue.c - measures the log as a queue: in memory, in a file beside SQLite and LMDB, reading a
 * message beside copying it, as it grows, opening, and what it writes.
 *
 *     queue DIRECTORY      writes DIRECTORY/queue.md; the files that it works in are there, too
 *
 * BENCH_ROUNDS (15, at least 5) is how often each contestant has its turn, BENCH_SECONDS (60) about
 * how long all of it takes; below 30, there are no million messages and no file of 1 GiB.
 * BENCH_QUEUE (memory, file, next, growth, opening, writes) is one part alone. The figures are
 * medians; the ratios are medians of the ratios within a round. Fails when anything other than what
 * was written is read, or when a flush costs more than one sync; not when it is slow.
 *
 * Compiled with BENCH_OLD_TOO, it is linked with an older build of the library too, and measures
 * the two side by side. */
#define _XOPEN_SOURCE     700
#define _FILE_OFFSET_BITS 64
#include <fcntl.h>
#include <lmdb.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test/bench/measure.h"
#include "test/bench/queue_ours.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
enum {
    DEVICES = 10000,
    CONTENT = 1024, /* bytes of a message's content */
    SERVICE = 1,    /* the channel of an application service */
    FILE_BYTES = 64 << 20,
    FILE_MORE = 128 << 10, /* bytes of memory more than the log asks for */
    WAITING_MAX = 20000    /* in that file */
};

static int rounds, quick, costly; /* the last: a flush cost more than one sync */
static double seconds;
static const char *directory;
static FILE *table;

static void fail(const char *what, long got, long expected)
{
    printf("queue: %s: %ld, not %ld\n", what, got, expected);
    exit(1);
}

static void expect(const char *what, long got, long expected)
{
    if (got != expected)
        fail(what, got, expected);
}

static void *allocate(size_t bytes)
{
    void *memory = malloc(bytes);
    if (!memory)
        fail("no memory, bytes", (long)bytes, 0);
    memset(memory, 1, bytes); /* so that the pages are there */
    return memory;
}

static const char *path_of(const char *name)
{
    static char path[4][4096];
    static int which;
    which = (which + 1) % 4;
    snprintf(path[which], sizeof path[which], "%s/%s", directory, name);
    return path[which];
}

/* ----------------------------------------------------------------------------------------------
 * Time
 * ---------------------------------------------------------------------------------------------- */

/* On the wall: for what waits for a disk, and for what is compared within the same moment. */
static double wall(void)
{
    return clock_of(CLOCK_MONOTONIC);
}

static double cpu_cost, wall_cost; /* what asking costs */

/* It is not always the same: the processor's pace changes. So it is measured before each turn. */
static double cost_of(double (*now)(void))
{
    double costs[9];
    int i, k;
    for (i = 0; i < 9; i++) {
        double from = now();
        for (k = 0; k < 200; k++)
            now();
        costs[i] = (now() - from) / 200;
    }
    return median(costs, 9);
}

static const char *met(int is)
{
    return is ? "met" : "MISSED";
}

/* ----------------------------------------------------------------------------------------------
 * Messages
 * ---------------------------------------------------------------------------------------------- */

static char users[DEVICES][24], devices[DEVICES][16], text[CONTENT + 64];

static void make_texts(void)
{
    unsigned long random = 1;
    size_t i;
    for (i = 0; i < DEVICES; i++) {
        sprintf(users[i], "@u%05lu:example.org", (unsigned long)i / 3);
        sprintf(devices[i], "DEVICE%05lu", (unsigned long)i);
    }
    for (i = 0; i < sizeof text; i++) {
        random = random * 1103515245 + 12345;
        text[i] = (char)('a' + (random >> 16) % 26);
    }
}

static msc4203_span span_of(const char *ptr, size_t len)
{
    msc4203_span span;
    span.ptr = ptr;
    span.len = len;
    return span;
}

static void set_device(msc4203_device *device, unsigned long i)
{
    device->user_id = span_of(users[i], strlen(users[i]));
    device->device_id = span_of(devices[i], strlen(devices[i]));
}

static int scattered; /* whether the devices come in no order */

static unsigned long device_of(unsigned long i, unsigned long of)
{
    return (scattered ? (i * 2654435761u & 0xFFFFFFFFu) >> 7 : i) % of;
}

/* Message `i` of those for `of` devices. The time tells which one it is. */
static void make_message(msc4203_message *m, unsigned long i, unsigned long of, size_t bytes,
                         uint32_t channels)
{
    msc4203_device device;
    set_device(&device, device_of(i, of));
    memset(m, 0, sizeof *m);
    m->time_ms = i;
    m->channels = channels;
    m->item.kind = MSC4203_TO_DEVICE;
    m->item.sender = span_of("@alice:example.org", 18);
    m->item.type = span_of("m.room.encrypted", 16);
    m->item.user_id = device.user_id;
    m->item.device_id = device.device_id;
    m->item.content = span_of(text + i % 64, bytes);
}

static int same(const msc4203_span *span, const char *ptr, size_t len)
{
    return span->len == len && memcmp(span->ptr, ptr, len) == 0;
}

/* Fails unless this is message `i`; of its content looks at the ends, or with `whole` at all. */
static void check_message(const msc4203_message *m, unsigned long i, unsigned long of, size_t bytes,
                          int whole)
{
    const char *content = m->item.content.ptr, *expected = text + i % 64;
    unsigned long device = device_of(i, of);
    expect("read another message", (long)m->time_ms, (long)i);
    if (m->item.content.len != bytes || memcmp(content, expected, 8) != 0 ||
        memcmp(content + bytes - 8, expected + bytes - 8, 8) != 0 ||
        !same(&m->item.device_id, devices[device], strlen(devices[device])) ||
        (whole && (memcmp(content, expected, bytes) != 0 ||
                   !same(&m->item.user_id, users[device], strlen(users[device])) ||
                   !same(&m->item.sender, "@alice:example.org", 18) ||
                   !same(&m->item.type, "m.room.encrypted", 16))))
        fail("what was read is not message", (long)m->time_ms, (long)i);
}

/* ----------------------------------------------------------------------------------------------
 * Logs
 * ---------------------------------------------------------------------------------------------- */

typedef struct log_side {
    const queue_ours *ours;
    queue_store store;
    msc4203_queue *queue; /* the store's */
    unsigned long flushes, flush_syncs;
    unsigned long costly, costliest; /* flushes with more than one sync; the most syncs */
    unsigned long pushed, taken;     /* messages, the numbers that make_message() had */
} log_side;

static void open_log(log_side *l)
{
    expect("open", l->ours->open(&l->store), MSC4203_OK);
}

static void make_log(log_side *l, const queue_ours *ours, const queue_wanted *wanted)
{
    memset(l, 0, sizeof *l);
    l->ours = ours;
    l->queue = &l->store.queue;
    expect("make a log", ours->make(&l->store, wanted), MSC4203_OK);
    open_log(l);
}

/* As after a crash. */
static void drop_log(log_side *l)
{
    expect("close the file", l->ours->leave(&l->store), MSC4203_OK);
    l->ours->end(&l->store);
}

/* Puts in a batch of n messages, without the flush. */
static void push_batch(log_side *l, int n, unsigned long of, size_t bytes, uint32_t channels)
{
    msc4203_message m;
    uint64_t first;
    uint32_t batch;
    expect("begin", l->queue->begin(l->queue->context, &batch), MSC4203_OK);
    for (; n > 0; n--) {
        make_message(&m, l->pushed++, of, bytes, channels);
        expect("push", l->queue->push(l->queue->context, batch, &m), MSC4203_OK);
    }
    expect("commit", l->queue->commit(l->queue->context, batch, NULL, &first), MSC4203_OK);
}

static void flush(log_side *l)
{
    unsigned long syncs = l->store.syncs;
    expect("flush", l->queue->flush(l->queue->context), MSC4203_OK);
    syncs = l->store.syncs - syncs;
    l->flushes++;
    l->flush_syncs += syncs;
    if (syncs > 1)
        l->costly++;
    if (syncs > l->costliest)
        l->costliest = syncs;
}

static void check_empty_log(log_side *l)
{
    msc4203_counts counts;
    expect("count", l->queue->count(l->queue->context, SERVICE, NULL, &counts), MSC4203_OK);
    expect("messages left in the log", (long)counts.messages, 0);
    expect("messages read from the log", (long)l->taken, (long)l->pushed);
}

/* The builds: with no special instructions, and with all that are there; of this library and, if
 * there is one, of an older one. */
enum { PLAIN, VECTOR, OLD_PLAIN, OLD_VECTOR, BUILDS };
static const queue_ours *builds[BUILDS];

static const queue_ours *best(void)
{
    return builds[VECTOR] ? builds[VECTOR] : builds[PLAIN];
}

static const queue_ours *best_old(void)
{
    return builds[OLD_VECTOR] ? builds[OLD_VECTOR] : builds[OLD_PLAIN];
}

static void find_builds(void)
{
    int has = 0, i;
#if defined(__x86_64__)
    has = __builtin_cpu_supports("sse4.2");
#elif defined(BENCH_CRC)
    has = 1;
#endif
    builds[PLAIN] = &queue_plain;
    builds[VECTOR] = has ? &queue_vector : NULL;
#ifdef BENCH_OLD_TOO
    builds[OLD_PLAIN] = &old_plain;
    builds[OLD_VECTOR] = has ? &old_vector : NULL;
#endif
    for (i = 0; i < BUILDS; i++) {
        if (!builds[i])
            continue;
        expect("bytes of a queue", (long)builds[i]->queue_bytes, sizeof(msc4203_queue));
        expect("bytes of a message", (long)builds[i]->message_bytes, sizeof(msc4203_message));
    }
}

/* ----------------------------------------------------------------------------------------------
 * In memory
 * ---------------------------------------------------------------------------------------------- */

enum { PUSH, COMMIT, FLUSH, NEXT, DONE, ALL, SYNC_NEXT, SYNC_DONE, MEMORY_OPS };
static const int batches[] = {1, 10, 100};
enum { BATCHES = 3 };

static double memory_times[BUILDS][BATCHES][MEMORY_OPS][ROUNDS_MAX]; /* of a message */

static double passed(double *from)
{
    double now = cpu(), time = now - *from - cpu_cost;
    *from = now;
    return time;
}

/* Batches of n, in and out, for about `least` seconds. */
static void service_turn(log_side *l, int n, double least, double *times)
{
    static char memory[CONTENT + 1024];
    static msc4203_message m[100];
    double begun = cpu(), at;
    unsigned long messages = 0;
    uint64_t first, after;
    uint32_t batch;
    int i, op, bad = 0;
    for (op = 0; op < MEMORY_OPS; op++)
        times[op] = 0;
    while (cpu() - begun < least) {
        for (i = 0; i < n; i++)
            make_message(&m[i], l->pushed++, 1000, CONTENT, 1u << SERVICE);
        at = cpu();
        bad |= l->queue->begin(l->queue->context, &batch);
        for (i = 0; i < n; i++)
            bad |= l->queue->push(l->queue->context, batch, &m[i]);
        times[PUSH] += passed(&at);
        bad |= l->queue->commit(l->queue->context, batch, NULL, &first);
        times[COMMIT] += passed(&at);
        bad |= l->queue->flush(l->queue->context);
        times[FLUSH] += passed(&at);
        for (i = 0, after = 0; i < n; i++) {
            bad |= l->queue->next(l->queue->context, SERVICE, NULL, after, memory, sizeof memory,
                                  &m[0]) != MSC4203_ITEM;
            check_message(&m[0], l->taken++, 1000, CONTENT, messages == 0);
            after = m[0].number;
        }
        times[NEXT] += passed(&at);
        bad |= l->queue->done(l->queue->context, SERVICE, NULL, after, NULL);
        times[DONE] += passed(&at);
        messages += (unsigned long)n;
        expect("an operation in memory", bad, 0);
    }
    for (op = 0; op < ALL; op++)
        times[ALL] += times[op] /= (double)messages;
    check_empty_log(l);
}

/* /sync: a thousand devices, each with two messages. */
static void sync_turn(log_side *l, double least, double *times)
{
    static char memory[CONTENT + 1024];
    double begun = cpu(), at;
    unsigned long messages = 0;
    int i, bad = 0;
    do {
        for (i = 0; i < 2000; i += 100)
            push_batch(l, 100, 1000, CONTENT, 1u << MSC4203_CHANNEL_SYNC);
        flush(l);
        for (i = 0; i < 2000; i++) {
            msc4203_device device;
            msc4203_message m;
            set_device(&device, (unsigned long)i % 1000);
            l->taken = l->pushed - 2000; /* the first one that was put in */
            l->taken += ((unsigned long)i + 1000 - l->taken % 1000) % 1000;
            l->taken += i < 1000 ? 0 : 1000;
            at = cpu();
            bad |= l->queue->next(l->queue->context, 0, &device, 0, memory, sizeof memory, &m) !=
                   MSC4203_ITEM;
            check_message(&m, l->taken, 1000, CONTENT, 0);
            times[SYNC_NEXT] += passed(&at);
            bad |= l->queue->done(l->queue->context, 0, &device, m.number, NULL);
            times[SYNC_DONE] += passed(&at);
        }
        flush(l);
        l->taken = l->pushed;
        messages += 2000;
        expect("a sync in memory", bad, 0);
    } while (cpu() - begun < least);
    times[SYNC_NEXT] /= (double)messages;
    times[SYNC_DONE] /= (double)messages;
    check_empty_log(l);
}

static void tell_memory(void)
{
    static const char *const names[] = {"push", "commit",    "flush",       "next",
                                        "done", "all of it", "/sync: next", "/sync: done"};
    static const double aims[2] = {2, 1.3};
    int side, b, op, old = builds[OLD_PLAIN] != NULL;
    fprintf(table, "| In memory, ns for a message of 1 KiB |");
    for (side = 0; side < 2; side++)
        for (b = 0; b < BATCHES; b++)
            fprintf(table, " %s, batches of %d |", side ? "vector" : "plain C", batches[b]);
    fprintf(table, "\n|---|--:|--:|--:|--:|--:|--:|\n");
    for (op = 0; op < MEMORY_OPS; op++) {
        fprintf(table, "| %s |", names[op]);
        for (side = 0; side < 2; side++) {
            for (b = 0; b < BATCHES; b++) {
                double(*t)[ROUNDS_MAX] = memory_times[side][b], *o;
                if (!builds[side]) {
                    fprintf(table, " |");
                    continue;
                }
                fprintf(table, " %.0f", 1e9 * median(t[op], rounds));
                o = memory_times[side + OLD_PLAIN][b][op];
                if (old)
                    fprintf(table, " (old %.0f: %.2f x as fast)", 1e9 * median(o, rounds),
                            ratio(o, t[op], rounds));
                if (old && op == ALL && batches[b] != 10)
                    fprintf(table, ", aim %.1f: %s", aims[side],
                            met(ratio(o, t[op], rounds) >= aims[side]));
                fprintf(table, " |");
            }
        }
        fprintf(table, "\n");
    }
    fprintf(table, "| messages a second |");
    for (side = 0; side < 2; side++)
        for (b = 0; b < BATCHES; b++)
            fprintf(table, builds[side] ? " %.0f |" : " |",
                    1 / median(memory_times[side][b][ALL], rounds));
    fprintf(table, "\n\n");
}

static void measure_memory(void)
{
    static log_side logs[BUILDS];
    queue_wanted wanted = {0};
    int i, side, round, b, op, sides = builds[OLD_PLAIN] ? BUILDS : OLD_PLAIN;
    wanted.bytes = 16 << 20;
    wanted.devices = 1024;
    for (side = 0; side < sides; side++)
        if (builds[side])
            make_log(&logs[side], builds[side], &wanted);
    for (round = 0; round < rounds; round++) {
        for (b = 0; b < BATCHES; b++) {
            for (i = 0; i < sides; i++) {
                double times[MEMORY_OPS], least = seconds / 10 / 2 / sides / BATCHES / rounds;
                side = (i + round) % sides;
                if (!builds[side])
                    continue;
                cpu_cost = cost_of(cpu);
                service_turn(&logs[side], batches[b], least, times);
                sync_turn(&logs[side], least / 2, times);
                for (op = 0; op < MEMORY_OPS; op++)
                    memory_times[side][b][op][round] = times[op];
            }
        }
    }
    tell_memory();
    for (side = 0; side < sides; side++)
        if (builds[side])
            drop_log(&logs[side]);
}

/* ----------------------------------------------------------------------------------------------
 * In a file: the contestants
 * ---------------------------------------------------------------------------------------------- */

static void in_log(void *side, int n)
{
    log_side *l = (log_side *)side;
    push_batch(l, n, DEVICES / 10, CONTENT, 1u << SERVICE);
    flush(l);
}

static void out_log(void *side, int n, int whole)
{
    static char memory[CONTENT + 1024];
    log_side *l = (log_side *)side;
    msc4203_message m;
    uint64_t after = 0;
    for (; n > 0; n--) {
        expect("next",
               l->queue->next(l->queue->context, SERVICE, NULL, after, memory, sizeof memory, &m),
               MSC4203_ITEM);
        check_message(&m, l->taken++, DEVICES / 10, CONTENT, whole);
        after = m.number;
    }
    expect("done", l->queue->done(l->queue->context, SERVICE, NULL, after, NULL), MSC4203_OK);
    flush(l);
}

static void empty_log(void *side)
{
    check_empty_log((log_side *)side);
}

static void sync_log(void *side, int syncs)
{
    ((log_side *)side)->store.no_sync = !syncs;
}

/* What one would write by hand: the manual's table, statements prepared once, one channel. */
typedef struct sql_side {
    sqlite3 *db;
    sqlite3_stmt *begin, *commit, *insert, *select, *remove, *count;
    unsigned long pushed, taken;
} sql_side;

static void run_sql(sql_side *s, const char *sql)
{
    expect(sql, sqlite3_exec(s->db, sql, NULL, NULL, NULL), SQLITE_OK);
}

static sqlite3_stmt *prepare(sql_side *s, const char *sql)
{
    sqlite3_stmt *statement;
    expect(sql, sqlite3_prepare_v2(s->db, sql, -1, &statement, NULL), SQLITE_OK);
    return statement;
}

static void step_sql(sqlite3_stmt *statement, int expected)
{
    expect(sqlite3_sql(statement), sqlite3_step(statement), expected);
    if (expected == SQLITE_DONE)
        sqlite3_reset(statement);
}

static void open_sql(sql_side *s, const char *path)
{
    memset(s, 0, sizeof *s);
    expect("sqlite3_open", sqlite3_open(path, &s->db), SQLITE_OK);
    run_sql(s, "PRAGMA journal_mode=WAL");
    run_sql(s, "PRAGMA locking_mode=EXCLUSIVE"); /* one process, as the log: faster */
    run_sql(s, "CREATE TABLE message (number INTEGER PRIMARY KEY, channels INTEGER NOT NULL,"
               " time INTEGER, user TEXT, device TEXT, sender TEXT, type TEXT, content BLOB)");
    run_sql(s, "CREATE INDEX by_device ON message (user, device, number)");
    s->begin = prepare(s, "BEGIN IMMEDIATE");
    s->commit = prepare(s, "COMMIT");
    s->insert = prepare(s, "INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
    s->select = prepare(s, "SELECT * FROM message WHERE channels & 2 AND number > ?"
                           " ORDER BY number LIMIT ?");
    s->remove = prepare(s, "DELETE FROM message WHERE number <= ?");
    s->count = prepare(s, "SELECT count(*) FROM message");
}

static void close_sql(sql_side *s)
{
    sqlite3_finalize(s->begin);
    sqlite3_finalize(s->commit);
    sqlite3_finalize(s->insert);
    sqlite3_finalize(s->select);
    sqlite3_finalize(s->remove);
    sqlite3_finalize(s->count);
    expect("sqlite3_close", sqlite3_close(s->db), SQLITE_OK);
}

static void bind_text(sqlite3_stmt *statement, int which, const msc4203_span *span)
{
    sqlite3_bind_text(statement, which, span->ptr, (int)span->len, SQLITE_STATIC);
}

static void in_sql(void *side, int n)
{
    sql_side *s = (sql_side *)side;
    msc4203_message m;
    step_sql(s->begin, SQLITE_DONE);
    for (; n > 0; n--) {
        make_message(&m, s->pushed++, DEVICES / 10, CONTENT, 1u << SERVICE);
        sqlite3_bind_int64(s->insert, 1, (sqlite3_int64)s->pushed);
        sqlite3_bind_int64(s->insert, 2, m.channels);
        sqlite3_bind_int64(s->insert, 3, (sqlite3_int64)m.time_ms);
        bind_text(s->insert, 4, &m.item.user_id);
        bind_text(s->insert, 5, &m.item.device_id);
        bind_text(s->insert, 6, &m.item.sender);
        bind_text(s->insert, 7, &m.item.type);
        sqlite3_bind_blob(s->insert, 8, m.item.content.ptr, (int)m.item.content.len, SQLITE_STATIC);
        step_sql(s->insert, SQLITE_DONE);
    }
    step_sql(s->commit, SQLITE_DONE);
}

static msc4203_span column(sqlite3_stmt *statement, int which)
{
    const char *ptr = (const char *)sqlite3_column_blob(statement, which);
    return span_of(ptr, (size_t)sqlite3_column_bytes(statement, which));
}

static void out_sql(void *side, int n, int whole)
{
    sql_side *s = (sql_side *)side;
    msc4203_message m;
    memset(&m, 0, sizeof m);
    sqlite3_bind_int64(s->select, 1, (sqlite3_int64)s->taken);
    sqlite3_bind_int(s->select, 2, n);
    for (; n > 0; n--) {
        step_sql(s->select, SQLITE_ROW);
        m.time_ms = (uint64_t)sqlite3_column_int64(s->select, 2);
        m.item.user_id = column(s->select, 3);
        m.item.device_id = column(s->select, 4);
        m.item.sender = column(s->select, 5);
        m.item.type = column(s->select, 6);
        m.item.content = column(s->select, 7);
        check_message(&m, s->taken++, DEVICES / 10, CONTENT, whole);
    }
    sqlite3_reset(s->select);
    step_sql(s->begin, SQLITE_DONE);
    sqlite3_bind_int64(s->remove, 1, (sqlite3_int64)s->taken);
    step_sql(s->remove, SQLITE_DONE);
    step_sql(s->commit, SQLITE_DONE);
}

static void empty_sql(void *side)
{
    sql_side *s = (sql_side *)side;
    step_sql(s->count, SQLITE_ROW);
    expect("messages left in SQLite", (long)sqlite3_column_int64(s->count, 0), 0);
    sqlite3_reset(s->count);
    expect("messages read from SQLite", (long)s->taken, (long)s->pushed);
}

static void sync_sql(void *side, int syncs)
{
    run_sql((sql_side *)side, syncs ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=OFF");
}

/* LMDB, as its documentation says: numbers as keys (MDB_INTEGERKEY), put in in their order
 * (MDB_APPEND) and written where they will stay (MDB_RESERVE); read without a copy. One transaction
 * for each batch. Without syncs it is MDB_NOSYNC. It keeps no index of devices, no checksums. Once
 * as it is by default, and once with MDB_WRITEMAP, which its documentation calls faster: then a
 * commit without a sync calls the system not at all. */
typedef struct lmdb_side {
    MDB_env *env;
    MDB_dbi dbi;
    unsigned long pushed, taken;
} lmdb_side;

static void open_lmdb(lmdb_side *s, const char *path, unsigned flags)
{
    MDB_txn *txn;
    memset(s, 0, sizeof *s);
    expect("mdb_env_create", mdb_env_create(&s->env), 0);
    expect("mdb_env_set_mapsize", mdb_env_set_mapsize(s->env, FILE_BYTES), 0);
    expect("mdb_env_open", mdb_env_open(s->env, path, MDB_NOSUBDIR | flags, 0600), 0);
    expect("mdb_txn_begin", mdb_txn_begin(s->env, NULL, 0, &txn), 0);
    expect("mdb_dbi_open", mdb_dbi_open(txn, NULL, MDB_CREATE | MDB_INTEGERKEY, &s->dbi), 0);
    expect("mdb_txn_commit", mdb_txn_commit(txn), 0);
}

static char *put_span(char *to, const msc4203_span *span)
{
    memcpy(to, span->ptr, span->len);
    return to + span->len;
}

static void in_lmdb(void *side, int n)
{
    lmdb_side *s = (lmdb_side *)side;
    msc4203_message m;
    MDB_txn *txn;
    expect("mdb_txn_begin", mdb_txn_begin(s->env, NULL, 0, &txn), 0);
    for (; n > 0; n--) {
        size_t number = s->pushed + 1, lengths[7];
        MDB_val key, value;
        char *to;
        make_message(&m, s->pushed++, DEVICES / 10, CONTENT, 1u << SERVICE);
        lengths[0] = (size_t)m.time_ms;
        lengths[1] = m.channels;
        lengths[2] = m.item.sender.len;
        lengths[3] = m.item.type.len;
        lengths[4] = m.item.user_id.len;
        lengths[5] = m.item.device_id.len;
        lengths[6] = m.item.content.len;
        key.mv_size = sizeof number;
        key.mv_data = &number;
        value.mv_size =
            sizeof lengths + lengths[2] + lengths[3] + lengths[4] + lengths[5] + lengths[6];
        expect("mdb_put", mdb_put(txn, s->dbi, &key, &value, MDB_APPEND | MDB_RESERVE), 0);
        to = (char *)value.mv_data;
        memcpy(to, lengths, sizeof lengths);
        to = put_span(to + sizeof lengths, &m.item.sender);
        to = put_span(to, &m.item.type);
        to = put_span(to, &m.item.user_id);
        to = put_span(to, &m.item.device_id);
        put_span(to, &m.item.content);
    }
    expect("mdb_txn_commit", mdb_txn_commit(txn), 0);
}

static void out_lmdb(void *side, int n, int whole)
{
    lmdb_side *s = (lmdb_side *)side;
    msc4203_message m;
    MDB_txn *txn;
    MDB_cursor *cursor;
    memset(&m, 0, sizeof m);
    expect("mdb_txn_begin", mdb_txn_begin(s->env, NULL, 0, &txn), 0);
    expect("mdb_cursor_open", mdb_cursor_open(txn, s->dbi, &cursor), 0);
    for (; n > 0; n--) {
        size_t number, lengths[7];
        MDB_val key, value;
        const char *from;
        expect("mdb_cursor_get", mdb_cursor_get(cursor, &key, &value, MDB_NEXT), 0);
        memcpy(&number, key.mv_data, sizeof number);
        expect("number", (long)number, (long)s->taken + 1);
        from = (const char *)value.mv_data;
        memcpy(lengths, from, sizeof lengths);
        m.time_ms = lengths[0];
        m.item.sender = span_of(from + sizeof lengths, lengths[2]);
        m.item.type = span_of(m.item.sender.ptr + lengths[2], lengths[3]);
        m.item.user_id = span_of(m.item.type.ptr + lengths[3], lengths[4]);
        m.item.device_id = span_of(m.item.user_id.ptr + lengths[4], lengths[5]);
        m.item.content = span_of(m.item.device_id.ptr + lengths[5], lengths[6]);
        check_message(&m, s->taken++, DEVICES / 10, CONTENT, whole);
        expect("mdb_cursor_del", mdb_cursor_del(cursor, 0), 0);
    }
    mdb_cursor_close(cursor);
    expect("mdb_txn_commit", mdb_txn_commit(txn), 0);
}

static void empty_lmdb(void *side)
{
    lmdb_side *s = (lmdb_side *)side;
    MDB_stat stat;
    MDB_txn *txn;
    expect("mdb_txn_begin", mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn), 0);
    expect("mdb_stat", mdb_stat(txn, s->dbi, &stat), 0);
    mdb_txn_abort(txn);
    expect("messages left in LMDB", (long)stat.ms_entries, 0);
    expect("messages read from LMDB", (long)s->taken, (long)s->pushed);
}

static void sync_lmdb(void *side, int syncs)
{
    expect("mdb_env_set_flags", mdb_env_set_flags(((lmdb_side *)side)->env, MDB_NOSYNC, !syncs), 0);
}

/* ----------------------------------------------------------------------------------------------
 * In a file: the measurement
 * ---------------------------------------------------------------------------------------------- */

enum { LOG, OLD_LOG, SQL, LMDB, LMDB_MAP, FILE_SIDES };
typedef struct file_side {
    void *side; /* NULL: does not take part */
    unsigned long *pushed;
    void (*in)(void *side, int n);
    void (*out)(void *side, int n, int whole);
    void (*empty)(void *side); /* checks that it is */
    void (*sync)(void *side, int syncs);
} file_side;

static double file_rates[2][2][BATCHES][FILE_SIDES][ROUNDS_MAX]; /* [stubbed][out too] */
static double disk_rate[ROUNDS_MAX];

static double file_turn(const file_side *s, int n, int out, double (*now)(void), double least)
{
    double from = now(), time;
    unsigned long begun = *s->pushed, messages;
    do {
        s->in(s->side, n);
        if (out)
            s->out(s->side, n, 0);
        messages = *s->pushed - begun;
        time = now() - from;
    } while (time < least && (out || messages + (unsigned long)n <= WAITING_MAX));
    if (!out)
        s->out(s->side, (int)messages, 1);
    s->empty(s->side);
    return (double)messages / time;
}

/* How often a second the disk makes 4 KiB durable. */
static double disk_turn(int fd, double least)
{
    static char page[4096];
    double from = wall(), time;
    long count = 0;
    do {
        memset(page, (int)count, sizeof page);
        expect("pwrite", (long)pwrite(fd, page, sizeof page, count % 1024 * 4096), 4096);
        expect("fdatasync", fdatasync(fd), 0);
        count++;
        time = wall() - from;
    } while (time < least);
    return (double)count / time;
}

static void compare(double (*r)[ROUNDS_MAX], int side, double aim)
{
    double times;
    fprintf(table, " %.0f | ", median(r[side], rounds));
    times = ratio(r[LOG], r[side], rounds);
    fprintf(table, "%.2f%s", times, aim > 0 ? ", aim " : "");
    if (aim > 0)
        fprintf(table, "%.1f: %s", aim, met(times >= aim));
    fprintf(table, " |");
}

static void tell_file(int old)
{
    static const double old_aims[2] = {1, 1.3}, sql_aims[2][BATCHES] = {{1.2, 0, 5}, {0, 0, 0}},
                        lmdb_aims[2][BATCHES] = {{0, 0, 0}, {0, .8, .8}};
    double disk = median(disk_rate, rounds);
    int none, out, b;
    fprintf(
        table,
        "The disk makes %.0f times 4 KiB durable in a second with fdatasync(). SQLite %s: WAL, "
        "synchronous=FULL, prepared statements, the manual's table, locked once for all. %s: "
        "numbers as keys, messages as values, MDB_APPEND and MDB_RESERVE, read in place; no "
        "index of devices, no checksums. 1,000 devices in no order. The log has %d KiB of memory "
        "more than it asks for. With syncs the time is on the wall, without it is the "
        "processor's.\n\n",
        disk, sqlite3_libversion(), mdb_version(NULL, NULL, NULL), FILE_MORE >> 10);
    fprintf(table,
            "| In a file, messages a second | batch | log |%s SQLite | log / SQLite | LMDB |"
            " log / LMDB | LMDB, MDB_WRITEMAP | log / that |\n"
            "|---|--:|--:|%s--:|--:|--:|--:|--:|--:|\n",
            old ? " old log | log / old log |" : "", old ? "--:|--:|" : "");
    for (none = 0; none < 2; none++) {
        for (out = 0; out < 2; out++) {
            for (b = 0; b < BATCHES; b++) {
                double(*r)[ROUNDS_MAX] = file_rates[none][out][b];
                fprintf(table, "| %s, %s | %d | %.0f |", out ? "in and out" : "in",
                        none ? "syncs stubbed out" : "a sync for each batch", batches[b],
                        median(r[LOG], rounds));
                if (old)
                    compare(r, OLD_LOG, old_aims[none]);
                compare(r, SQL, sql_aims[none][b]);
                compare(r, LMDB, 0);
                compare(r, LMDB_MAP, lmdb_aims[none][b]);
                fprintf(table, "\n");
            }
        }
    }
}

static void tell_syncs(const log_side *l)
{
    fprintf(table,
            "\n%.4f syncs for each of %lu flushes; aim: 1, more in none: %lu had more, up to %lu: "
            "%s. %lu syncs outside of flushes, for %lu messages.\n\n",
            (double)l->flush_syncs / (double)l->flushes, l->flushes, l->costly, l->costliest,
            met(!l->costly), l->store.syncs - l->flush_syncs, l->pushed);
    costly |= l->costly != 0;
    if (!l->flush_syncs)
        fail("flushes did not sync", 0, 1);
}

/* Until every block was written once. */
static void warm_up(const file_side *s)
{
    int i, k;
    for (i = 0; i < 4; i++) {
        for (k = 0; k < 200; k++)
            s->in(s->side, 100);
        s->out(s->side, 20000, 1);
    }
}

static void run_file(const file_side *sides, int fd)
{
    double least = seconds * .5 / (4 * BATCHES * FILE_SIDES + 1) / rounds;
    int i, round, out, none, b;
    for (round = 0; round < rounds; round++) {
        sync(); /* or the first to wait for the disk pays for what was written without */
        disk_rate[round] = disk_turn(fd, least);
        for (none = 0; none < 2; none++) {
            for (i = 0; i < FILE_SIDES; i++)
                if (sides[i].side)
                    sides[i].sync(sides[i].side, !none);
            for (out = 0; out < 2; out++) {
                for (b = 0; b < BATCHES; b++) {
                    for (i = 0; i < FILE_SIDES; i++) {
                        int side = (i + round) % FILE_SIDES;
                        if (sides[side].side)
                            file_rates[none][out][b][side][round] =
                                file_turn(&sides[side], batches[b], out, none ? cpu : wall, least);
                    }
                }
            }
        }
    }
}

static void measure_file(void)
{
    static const char *const names[] = {"queue.log",    "queue.old",       "queue.db",
                                        "queue.db-wal", "queue.mdb",       "queue.mdb-lock",
                                        "queue.mdb2",   "queue.mdb2-lock", "queue.disk"};
    static log_side l, o;
    static sql_side s;
    static lmdb_side m, w;
    file_side sides[FILE_SIDES] = {
        {&l, &l.pushed, in_log, out_log, empty_log, sync_log},
        {NULL, &o.pushed, in_log, out_log, empty_log, sync_log},
        {&s, &s.pushed, in_sql, out_sql, empty_sql, sync_sql},
        {&m, &m.pushed, in_lmdb, out_lmdb, empty_lmdb, sync_lmdb},
        {&w, &w.pushed, in_lmdb, out_lmdb, empty_lmdb, sync_lmdb},
    };
    queue_wanted wanted = {0};
    size_t i;
    int fd;

    scattered = 1;
    for (i = 0; i < COUNT(names); i++)
        unlink(path_of(names[i]));
    wanted.bytes = FILE_BYTES;
    wanted.more = FILE_MORE;
    wanted.path = path_of("queue.log");
    make_log(&l, best(), &wanted);
    if (best_old()) {
        wanted.path = path_of("queue.old");
        make_log(&o, best_old(), &wanted);
        sides[OLD_LOG].side = &o;
    }
    open_sql(&s, path_of("queue.db"));
    open_lmdb(&m, path_of("queue.mdb"), 0);
    open_lmdb(&w, path_of("queue.mdb2"), MDB_WRITEMAP);
    fd = open(path_of("queue.disk"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    for (i = 0; i < 1024; i++)
        expect("write",
               (long)write(fd, text, 1024) + write(fd, text, 1024) + write(fd, text, 1024) +
                   write(fd, text, 1024),
               4096);
    fsync(fd);
    for (i = 0; i < FILE_SIDES; i++)
        if (sides[i].side)
            warm_up(&sides[i]);
    run_file(sides, fd);
    tell_file(sides[OLD_LOG].side != NULL);
    tell_syncs(&l);
    drop_log(&l);
    if (sides[OLD_LOG].side)
        drop_log(&o);
    close_sql(&s);
    mdb_env_close(m.env);
    mdb_env_close(w.env);
    close(fd);
    scattered = 0;
    for (i = 0; i < COUNT(names); i++)
        unlink(path_of(names[i]));
}

/* ----------------------------------------------------------------------------------------------
 * Reading a message, beside copying it
 * ---------------------------------------------------------------------------------------------- */

/* Messages that fit into the processor's caches, and many more. Each is read in turn, as a sender
 * does; the copies are of as many bytes, from as many places, one behind the other, of a region of
 * their own. */
enum { PLACES = 2, PLACE_BYTES = CONTENT + 128 };
static double next_times[BUILDS][PLACES][ROUNDS_MAX], copy_times[BUILDS][PLACES][ROUNDS_MAX];

static double next_turn(log_side *l, unsigned long count, double least)
{
    static char memory[CONTENT + 1024];
    msc4203_message m;
    unsigned long i, messages = 0;
    uint64_t bad = 0;
    double from = wall();
    do {
        m.number = 0;
        for (i = 0; i < count; i++) {
            bad |= l->queue->next(l->queue->context, SERVICE, NULL, m.number, memory, sizeof memory,
                                  &m) != MSC4203_ITEM;
            bad |= m.time_ms ^ i;
        }
        messages += count;
    } while (wall() - from < least);
    expect("next", bad != 0, 0);
    return (wall() - from) / (double)messages;
}

static double copy_turn(const char *region, unsigned long count, size_t bytes, double least)
{
    static char memory[CONTENT + 1024];
    void *(*volatile copy)(void *, const void *, size_t) = memcpy; /* a call each time */
    unsigned long i, messages = 0;
    double from = wall();
    do {
        for (i = 0; i < count; i++)
            copy(memory, region + i * PLACE_BYTES, bytes);
        messages += count;
    } while (wall() - from < least);
    return (wall() - from) / (double)messages;
}

static void measure_next(void)
{
    static const char *const names[BUILDS] = {"plain C", "vector", "old, plain C",
                                              "old, vector"};
    const unsigned long counts[PLACES] = {32, quick ? 50000 : 200000};
    size_t bytes = 0;
    int side, place, round, i;
    char *region = (char *)allocate(counts[1] * PLACE_BYTES);
    for (side = 0; side < BUILDS; side++) {
        for (place = 0; place < PLACES && builds[side]; place++) {
            static char memory[CONTENT + 1024];
            log_side l;
            msc4203_message m;
            queue_wanted wanted = {0};
            wanted.bytes = counts[place] * PLACE_BYTES * 5 / 4 + (1 << 20);
            make_log(&l, builds[side], &wanted);
            while (l.pushed < counts[place])
                push_batch(&l, 8, 1000, CONTENT, 1u << SERVICE);
            flush(&l);
            expect("next",
                   l.queue->next(l.queue->context, SERVICE, NULL, 0, memory, sizeof memory, &m),
                   MSC4203_ITEM);
            bytes = m.bytes;
            next_turn(&l, counts[place], 0);
            copy_turn(region, counts[place], bytes, 0);
            for (round = 0; round < rounds; round++) {
                double least = seconds / 30 / BUILDS / PLACES / 2 / rounds;
                for (i = 0; i < 2; i++) {
                    if (i == round % 2)
                        next_times[side][place][round] = next_turn(&l, counts[place], least);
                    else
                        copy_times[side][place][round] =
                            copy_turn(region, counts[place], bytes, least);
                }
            }
            drop_log(&l);
        }
    }
    free(region);
    fprintf(table, "| next() of a message of 1 KiB, beside memcpy() of its %lu bytes |",
            (unsigned long)bytes);
    for (place = 0; place < PLACES; place++)
        fprintf(table, " of %lu messages, ns | memcpy, ns | ratio (aim: at most 2) |",
                counts[place]);
    fprintf(table, "\n|---|--:|--:|--:|--:|--:|--:|\n");
    for (side = 0; side < BUILDS; side++) {
        if (!builds[side])
            continue;
        fprintf(table, "| %s |", names[side]);
        for (place = 0; place < PLACES; place++) {
            double *n = next_times[side][place], *c = copy_times[side][place];
            fprintf(table, " %.0f | %.0f | %.2f%s%s |", 1e9 * median(n, rounds),
                    1e9 * median(c, rounds), ratio(n, c, rounds), side < OLD_PLAIN ? " " : "",
                    side < OLD_PLAIN ? met(ratio(n, c, rounds) <= 2) : "");
        }
        fprintf(table, "\n");
    }
    fprintf(table, "\n");
}

/* ----------------------------------------------------------------------------------------------
 * Growth
 * ---------------------------------------------------------------------------------------------- */

/* Messages go in at one end and, by their number, out at the other, so that always `count` wait. Of
 * 16 messages, 6 wait for a service; 3 for their device's /sync; 2 do so too, and are moved to
 * another channel; 4 are dropped with their device, which has 4, from here and there; and the last
 * one stays, if it is one of those that were there at the beginning: so there are always holes, and
 * something to keep when room is made. All logs are of one size, and configured alike.
 *
 * What has not been read for long is in no cache. What that costs alone is measured beside it: the
 * messages that are put in are copied to another region, and those that are read are copied from
 * there, at the same distance. */
enum {
    G_PUSH,
    G_COMMIT,
    G_FLUSH,
    G_NEXT,
    G_HOLD,
    G_DONE,
    G_SYNC_NEXT,
    G_SYNC_DONE,
    G_MOVE,
    G_DROP,
    G_COUNT,
    G_DEVICE,
    G_KNOWN,
    G_OPS
};
enum { TURN = 320, TURNS = 4, GROWTH_BATCH = 10, PARKED = 4, STAYING = 3 };
enum kind { TO_SERVICE, TO_SYNC, TO_MOVE, TO_DROP, TO_STAY };

typedef struct growing {
    log_side l;
    unsigned long count, of, begun; /* waiting; devices; messages of the beginning */
    unsigned long oldest;           /* the first that was not taken out yet */
    uint64_t *numbers;              /* of the messages, around a ring */
    size_t ring;
    char *shadow;
    double from;
    double times[G_OPS], copies[G_OPS];
    unsigned long done[G_OPS];
    float *least[G_OPS]; /* of each single call, the least so far; or NULL */
    size_t calls[G_OPS], calls_max;
} growing;

/* [before, and when the region has been gone through, and room is made all the time] */
static double growth_times[2][2][G_OPS][ROUNDS_MAX], growth_copies[2][2][G_OPS][ROUNDS_MAX];

static void start(growing *g)
{
    g->from = wall();
}

static void stop(growing *g, int op, unsigned long count)
{
    double time = wall() - g->from - wall_cost;
    g->times[op] += time;
    g->done[op] += count;
    if (g->least[op] && g->calls[op] < g->calls_max) {
        float *least = &g->least[op][g->calls[op]++], now = (float)time;
        if (now < *least)
            *least = now;
    }
}

static int kind_of(const growing *g, unsigned long i)
{
    unsigned long which = i % 16;
    if (which == 15)
        return i < g->begun ? TO_STAY : TO_SERVICE;
    return which < 6 ? TO_SERVICE : which < 9 ? TO_SYNC : which < 11 ? TO_MOVE : TO_DROP;
}

/* Which of those that are dropped. */
static unsigned long drop_of(unsigned long i)
{
    return i / 16 * 4 + i % 16 - 11;
}

/* Of 64 messages each 16th is for the same device. Returns the device of the one `which`. */
static void set_drop_device(msc4203_device *device, unsigned long which)
{
    static char user[48], name[32];
    sprintf(user, "@dropped%lu:example.org", which / 64);
    sprintf(name, "DROP%lu", which % 16);
    device->user_id = span_of(user, strlen(user));
    device->device_id = span_of(name, strlen(name));
}

static void make_request(msc4203_request *request, unsigned long i)
{
    uint64_t who = i + 1, what = i * 0x9E3779B97F4A7C15u;
    memcpy(request->who, &who, 8);
    memcpy(request->what, &what, 8);
}

static char *shadow_at(const growing *g, unsigned long i)
{
    return g->shadow + i % g->ring * PLACE_BYTES;
}

static void grow_message(growing *g, msc4203_message *m, unsigned long i)
{
    static const uint32_t channels[] = {1u << SERVICE, 1, 1, 1u << SERVICE, 1u << STAYING};
    int kind = kind_of(g, i);
    make_message(m, i, g->of, CONTENT, channels[kind]);
    if (kind == TO_DROP) {
        msc4203_device device;
        set_drop_device(&device, drop_of(i));
        m->item.user_id = device.user_id;
        m->item.device_id = device.device_id;
    }
}

static void grow_batch(growing *g)
{
    msc4203_message m;
    msc4203_request request;
    uint64_t first;
    uint32_t batch;
    int i, bad;
    msc4203_queue *q = g->l.queue;
    bad = q->begin(q->context, &batch);
    for (i = 0; i < GROWTH_BATCH; i++) {
        grow_message(g, &m, g->l.pushed + (unsigned long)i);
        start(g);
        bad |= q->push(q->context, batch, &m);
        stop(g, G_PUSH, 1);
    }
    make_request(&request, g->l.pushed / GROWTH_BATCH);
    start(g);
    bad |= q->commit(q->context, batch, &request, &first);
    stop(g, G_COMMIT, 1);
    start(g);
    bad |= q->flush(q->context);
    stop(g, G_FLUSH, 1);
    expect("a batch", bad, 0);
    for (i = 0; i < GROWTH_BATCH; i++)
        g->numbers[g->l.pushed++ % g->ring] = first + (uint64_t)i;
}

static void take_service(growing *g, unsigned long i, uint64_t number)
{
    static char memory[4096];
    msc4203_queue *q = g->l.queue;
    msc4203_message m;
    msc4203_span record = span_of(text, 100);
    int result;
    start(g);
    result = q->next(q->context, SERVICE, NULL, number - 1, memory, sizeof memory, &m);
    stop(g, G_NEXT, 1);
    expect("next", result, MSC4203_ITEM);
    check_message(&m, i, g->of, CONTENT, 0);
    start(g);
    result = q->hold(q->context, SERVICE, number, &record);
    stop(g, G_HOLD, 1);
    expect("hold", result, MSC4203_OK);
    start(g);
    result = q->done(q->context, SERVICE, NULL, number, NULL);
    stop(g, G_DONE, 1);
    expect("done", result, MSC4203_OK);
}

static void take_sync(growing *g, unsigned long i, uint64_t number)
{
    static char memory[4096];
    msc4203_queue *q = g->l.queue;
    msc4203_message m;
    msc4203_device device;
    int result;
    set_device(&device, device_of(i, g->of));
    start(g);
    result = q->next(q->context, 0, &device, 0, memory, sizeof memory, &m);
    stop(g, G_SYNC_NEXT, 1);
    expect("next of a device", result, MSC4203_ITEM);
    check_message(&m, i, g->of, CONTENT, 0);
    start(g);
    result = q->done(q->context, 0, &device, number, NULL);
    stop(g, G_SYNC_DONE, 1);
    expect("done of a device", result, MSC4203_OK);
}

static void take_moved(growing *g, unsigned long i, uint64_t number)
{
    msc4203_queue *q = g->l.queue;
    msc4203_device device;
    uint64_t moved;
    int result;
    set_device(&device, device_of(i, g->of));
    start(g);
    result = q->move(q->context, 0, &device, number, 1u << PARKED, &moved);
    stop(g, G_MOVE, 1);
    expect("move", result, MSC4203_OK);
}

/* What is dropped waits for the service, which must not take it: so the service is behind. */
static void take_dropped(growing *g, unsigned long i)
{
    msc4203_queue *q = g->l.queue;
    msc4203_device device;
    int result;
    if (drop_of(i) % 64 >= 16)
        return; /* it went with the first one */
    set_drop_device(&device, drop_of(i));
    start(g);
    result = q->drop(q->context, &device, NULL);
    stop(g, G_DROP, 1);
    expect("drop", result, MSC4203_OK);
}

static void ask(growing *g)
{
    msc4203_queue *q = g->l.queue;
    msc4203_device device;
    msc4203_counts counts;
    msc4203_request request[8];
    unsigned long batches_made = g->l.pushed / GROWTH_BATCH;
    int i, bad = 0, known = 0;
    set_device(&device, device_of(g->l.pushed, g->of));
    for (i = 0; i < 8; i++) /* every other one was never made */
        make_request(&request[i],
                     i % 2 ? batches_made + 1000 : batches_made - 10 * (unsigned)i - 1);
    start(g);
    for (i = 0; i < 8; i++)
        bad |= q->count(q->context, SERVICE, NULL, &counts);
    stop(g, G_COUNT, 8);
    start(g);
    for (i = 0; i < 8; i++)
        bad |= q->count(q->context, 0, &device, &counts);
    stop(g, G_DEVICE, 8);
    start(g);
    for (i = 0; i < 8; i++)
        known += q->known(q->context, &request[i]) == MSC4203_KNOWN;
    stop(g, G_KNOWN, 8);
    expect("count", bad, 0);
    expect("known requests", known, 4);
}

/* The same bytes, in the same order, alone. */
static void copy_turn_of(growing *g, unsigned long pushed, unsigned long oldest)
{
    static const int op_of[] = {G_NEXT, G_SYNC_NEXT, G_MOVE};
    static char memory[PLACE_BYTES];
    unsigned long i;
    for (i = pushed; i < g->l.pushed; i++) /* where these go nothing was read lately, in any log */
        memcpy(shadow_at(g, i), memory, PLACE_BYTES - 24);
    for (i = oldest; i < g->oldest; i++) {
        int kind = kind_of(g, i);
        if (kind == TO_DROP || kind == TO_STAY)
            continue;
        start(g);
        memcpy(memory, shadow_at(g, i), PLACE_BYTES - 24);
        if (kind == TO_MOVE)
            memcpy(shadow_at(g, pushed + i - oldest), memory, PLACE_BYTES - 24);
        g->copies[op_of[kind]] += wall() - g->from - wall_cost;
    }
}

static void growth_turn(growing *g)
{
    msc4203_queue *q = g->l.queue;
    unsigned long pushed = g->l.pushed, oldest = g->oldest;
    int i;
    for (i = 0; i < TURN; i += GROWTH_BATCH) {
        grow_batch(g);
        if (g->l.pushed > 2000)
            ask(g);
    }
    for (i = 0; i < TURN; g->oldest++) {
        unsigned long at = g->oldest;
        uint64_t number = g->numbers[at % g->ring];
        int kind = kind_of(g, at);
        i += kind != TO_STAY;
        if (kind == TO_SERVICE)
            take_service(g, at, number);
        else if (kind == TO_SYNC)
            take_sync(g, at, number);
        else if (kind == TO_MOVE)
            take_moved(g, at, number);
        else if (kind == TO_DROP)
            take_dropped(g, at);
    }
    expect("flush", q->flush(q->context), MSC4203_OK);
    expect("done", q->done(q->context, PARKED, NULL, ((uint64_t)1 << 48) - 1, NULL), MSC4203_OK);
    expect("flush", q->flush(q->context), MSC4203_OK);
    copy_turn_of(g, pushed, oldest);
}

static void forget_times(growing *g)
{
    memset(g->times, 0, sizeof g->times);
    memset(g->copies, 0, sizeof g->copies);
    memset(g->done, 0, sizeof g->done);
    memset(g->calls, 0, sizeof g->calls);
}

/* What `most` messages may take at most, with room for a good deal more. */
static uint64_t growth_bytes(unsigned long most)
{
    return (uint64_t)most * 1700 + (8 << 20);
}

/* A log with `count` waiting messages. */
static void make_growing(growing *g, unsigned long count, unsigned long most, unsigned long of)
{
    queue_wanted wanted = {0};
    wanted.bytes = growth_bytes(most);
    wanted.messages = (uint32_t)(most + most / 10);
    wanted.devices = DEVICES + (uint32_t)most / 8;
    wanted.requests = 4096;
    make_log(&g->l, best(), &wanted);
    g->ring = wanted.bytes / PLACE_BYTES;
    g->count = g->begun = count;
    g->of = count / 4 < of ? count / 4 : of; /* so that each has several */
    g->oldest = 0;
    while (g->l.pushed < count)
        grow_batch(g);
    forget_times(g);
}

/* Until all of the region has been written, and some of it again. */
static void go_round(growing *g)
{
    while (g->l.pushed < g->ring + g->ring / 4)
        growth_turn(g);
}

/* Does the same again and again, and notes the least time of each single call: so the longest one
 * is the log's, and none in which the machine did something else. */
static void find_longest(growing *g, unsigned long most, unsigned long of, int times)
{
    float *least[G_OPS];
    size_t i;
    int op;
    g->calls_max = 2 * most;
    for (op = 0; op < G_OPS; op++) {
        least[op] = (float *)allocate(g->calls_max * sizeof *least[op]);
        for (i = 0; i < g->calls_max; i++)
            least[op][i] = 1000;
    }
    wall_cost = cost_of(wall);
    for (; times > 0; times--) {
        memset(g->least, 0, sizeof g->least);
        drop_log(&g->l);
        make_growing(g, most, most, of);
        memcpy(g->least, least, sizeof least);
        go_round(g);
    }
}

/* Times of single calls, sorted: longest first. */
static int by_length(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

static const char *const growth_names[] = {
    "push",  "commit (of 10)",    "flush",       "next", "hold",
    "done",  "/sync: next",       "/sync: done", "move", "drop (of 4)",
    "count", "count of a device", "known"};

static void tell_longest(growing *g)
{
    int op;
    fprintf(table,
            "| %lu waiting, %lu devices: single calls, us | calls | the longest | one in "
            "1,000 is longer than | half are longer than |\n|---|--:|--:|--:|--:|\n",
            g->count, g->of);
    for (op = 0; op < G_OPS; op++) {
        size_t calls = g->calls[op];
        if (op >= G_COUNT || !calls) {
            free(g->least[op]);
            continue;
        }
        qsort(g->least[op], calls, sizeof *g->least[op], by_length);
        fprintf(table, "| %s | %lu | %.1f | %.2f | %.2f |\n", growth_names[op],
                (unsigned long)calls, 1e6 * (double)g->least[op][0],
                1e6 * (double)g->least[op][calls / 1000], 1e6 * (double)g->least[op][calls / 2]);
        free(g->least[op]);
    }
    fprintf(table, "\n");
    memset(g->least, 0, sizeof g->least);
}

static void tell_growth(const growing *all)
{
    int op, round, full;
    fprintf(
        table,
        "| ns for a call | %lu waiting, %lu devices | %lu waiting, %lu devices | times as long "
        "(copying alone) | but for copying (aim: at most 1.5) | %lu waiting, while room is made "
        "| %lu waiting, while room is made | but for copying |\n"
        "|---|--:|--:|--:|--:|--:|--:|--:|\n",
        all[0].count, all[0].of, all[1].count, all[1].of, all[0].count, all[1].count);
    for (op = 0; op < G_OPS; op++) {
        fprintf(table, "| %s |", growth_names[op]);
        for (full = 0; full < 2; full++) {
            double(*t)[G_OPS][ROUNDS_MAX] = growth_times[full];
            double(*c)[G_OPS][ROUNDS_MAX] = growth_copies[full];
            double beyond[ROUNDS_MAX] = {0}, times;
            /* What copying costs more, the operation may cost more: that is taken off. */
            for (round = 0; round < rounds; round++)
                beyond[round] = t[1][op][round] - c[1][op][round] + c[0][op][round];
            times = ratio(beyond, t[0][op], rounds);
            fprintf(table, " %.0f | %.0f |", 1e9 * median(t[0][op], rounds),
                    1e9 * median(t[1][op], rounds));
            if (!full)
                fprintf(table, " %.2f (%.0f, %.0f) |", ratio(t[1][op], t[0][op], rounds),
                        1e9 * median(c[0][op], rounds), 1e9 * median(c[1][op], rounds));
            fprintf(table, " %.2f%s%s |", times, full ? "" : " ", full ? "" : met(times <= 1.5));
        }
        fprintf(table, "\n");
    }
    fprintf(table, "\nThe region: %lu MiB. The log's memory: %lu bytes.\n\n",
            (unsigned long)(growth_bytes(quick ? 100000 : 1000000) >> 20),
            (unsigned long)all[0].l.store.memory_bytes);
}

static void time_growth(growing *all, int full)
{
    int k, round, op, turn;
    for (round = 0; round < rounds; round++) {
        for (k = 0; k < 2; k++) {
            growing *g = &all[(k + round) % 2];
            wall_cost = cost_of(wall);
            growth_turn(g); /* what the other one has pushed out of the caches comes back */
            forget_times(g);
            for (turn = 0; turn < TURNS; turn++)
                growth_turn(g);
            for (op = 0; op < G_OPS; op++) {
                growth_times[full][g - all][op][round] = g->times[op] / (double)g->done[op];
                growth_copies[full][g - all][op][round] = g->copies[op] / (double)g->done[op];
            }
        }
    }
}

static void measure_growth(unsigned long of)
{
    static growing all[2];
    unsigned long most = quick ? 100000 : 1000000;
    size_t places = (size_t)growth_bytes(most) / PLACE_BYTES;
    int k;
    memset(all, 0, sizeof all);
    for (k = 0; k < 2; k++) {
        all[k].shadow = (char *)allocate(places * PLACE_BYTES);
        all[k].numbers = (uint64_t *)allocate(places * sizeof *all[k].numbers);
        make_growing(&all[k], k ? most : 1000, most, of);
    }
    time_growth(all, 0);
    go_round(&all[0]);
    if (of == DEVICES) {
        find_longest(&all[1], most, of, 3);
        tell_longest(&all[1]);
    } else {
        go_round(&all[1]);
    }
    time_growth(all, 1);
    tell_growth(all);
    for (k = 0; k < 2; k++) {
        drop_log(&all[k].l);
        free(all[k].shadow);
        free(all[k].numbers);
    }
}

/* ----------------------------------------------------------------------------------------------
 * Opening
 * ---------------------------------------------------------------------------------------------- */

/* What was overwritten, so that a log can be opened again as if it had not been before. */
typedef struct undo {
    unsigned char *memory;
    size_t used, room;
    unsigned long bytes;
    int fd;
} undo;

typedef struct piece {
    uint64_t at, bytes;
} piece;

static void note_old(void *context, int writes, uint64_t at, size_t bytes)
{
    undo *u = (undo *)context;
    piece made;
    if (!writes)
        return;
    if (u->used + sizeof made + bytes > u->room)
        fail("opening wrote too much", (long)u->used, (long)u->room);
    made.at = at;
    made.bytes = bytes;
    expect("pread", (long)pread(u->fd, u->memory + u->used, bytes, (off_t)at), (long)bytes);
    memcpy(u->memory + u->used + bytes, &made, sizeof made);
    u->used += bytes + sizeof made;
    u->bytes += bytes;
}

static void put_back(undo *u)
{
    piece made;
    while (u->used > 0) {
        memcpy(&made, u->memory + u->used - sizeof made, sizeof made);
        u->used -= sizeof made + (size_t)made.bytes;
        expect("pwrite", (long)pwrite(u->fd, u->memory + u->used, made.bytes, (off_t)made.at),
               (long)made.bytes);
    }
}

enum { OPEN_READ, OPEN_ASKED, OPEN_64, OPEN_1024, OPENINGS };
static double open_times[OPENINGS][ROUNDS_MAX], close_times[2][ROUNDS_MAX];

static double read_file(int fd)
{
    static unsigned char buffer[1 << 20];
    double from = wall();
    ssize_t n;
    lseek(fd, 0, SEEK_SET);
    while ((n = read(fd, buffer, sizeof buffer)) > 0)
        ;
    expect("read", (long)n, 0);
    return wall() - from;
}

static void check_count(log_side *l, unsigned long count)
{
    msc4203_counts counts;
    expect("count", l->queue->count(l->queue->context, SERVICE, NULL, &counts), MSC4203_OK);
    expect("messages after opening", (long)counts.messages, (long)count);
}

/* Fills a log. */
static void fill(log_side *l, unsigned long count, size_t bytes)
{
    while (l->pushed < count) {
        push_batch(l, 100, DEVICES / 10, bytes, 1u << SERVICE);
        if (l->pushed % 10000 == 0 || l->pushed == count)
            flush(l);
    }
}

/* One opening; the memory is there before. */
static double open_turn(const queue_ours *ours, const queue_wanted *wanted, undo *u,
                        unsigned long count)
{
    log_side l;
    double time;
    memset(&l, 0, sizeof l);
    l.ours = ours;
    l.queue = &l.store.queue;
    expect("find", ours->find(&l.store, wanted), MSC4203_OK);
    l.store.see = note_old;
    l.store.context = u;
    open_log(&l);
    expect("close the file", ours->leave(&l.store), MSC4203_OK);
    put_back(u);
    u->bytes = 0;
    l.store.reads = 0;
    time = wall();
    open_log(&l);
    time = wall() - time;
    l.store.see = NULL;
    check_count(&l, count);
    drop_log(&l);
    put_back(u);
    return time;
}

static void open_after_kill(const queue_ours *ours)
{
    queue_wanted wanted = {0};
    unsigned long count = quick ? 50000 : 900000;
    int status, round, turns = rounds < 7 ? rounds : 7, i;
    pid_t child;
    undo u;
    wanted.bytes = quick ? 64 << 20 : 1 << 30;
    wanted.path = path_of("queue.big");
    fflush(NULL);
    child = fork();
    if (child == 0) {
        static log_side l;
        make_log(&l, ours, &wanted);
        fill(&l, count, 800);
        kill(getpid(), SIGKILL);
    }
    expect("waitpid", waitpid(child, &status, 0) == child && WIFSIGNALED(status), 1);
    memset(&u, 0, sizeof u);
    u.room = 64 << 20;
    u.memory = (unsigned char *)allocate(u.room);
    u.fd = open(wanted.path, O_RDWR);
    read_file(u.fd);
    for (round = 0; round < turns; round++) {
        for (i = 0; i < OPENINGS; i++) {
            int which = (i + round) % OPENINGS;
            wanted.more = which == OPEN_64 ? 1 << 16 : which == OPEN_1024 ? 1 << 20 : 0;
            open_times[which][round] =
                which == OPEN_READ ? read_file(u.fd) : open_turn(ours, &wanted, &u, count);
        }
    }
    fprintf(table,
            "| %lu MiB with %lu messages, after a kill, from the system's cache | s | times as long"
            " as reading it once (aim: at most 1.2) |\n|---|--:|--:|\n| reading once | %.3f | |\n",
            (unsigned long)(wanted.bytes >> 20), count, median(open_times[OPEN_READ], turns));
    for (i = OPEN_ASKED; i < OPENINGS; i++) {
        double times = ratio(open_times[i], open_times[OPEN_READ], turns);
        fprintf(table, "| opening, with %s | %.3f | %.2f %s |\n",
                i == OPEN_ASKED ? "the memory it asks for"
                : i == OPEN_64  ? "64 KiB more memory"
                                : "1 MiB more memory",
                median(open_times[i], turns), times, met(times <= 1.2));
    }
    fprintf(table, "\nOpening wrote %lu bytes.\n\n", u.bytes);
    close(u.fd);
    unlink(wanted.path);
    free(u.memory);
}

static void open_after_close(const queue_ours *ours)
{
    queue_wanted wanted = {0};
    log_side l;
    unsigned long count = 100000;
    int round;
    wanted.bytes = 192 << 20;
    wanted.path = path_of("queue.big");
    make_log(&l, ours, &wanted);
    fill(&l, count, CONTENT);
    for (round = 0; round < rounds; round++) {
        double from = wall();
        expect("close", ours->close(&l.store), MSC4203_OK);
        expect("close the file", ours->leave(&l.store), MSC4203_OK);
        close_times[1][round] = wall() - from;
        l.store.reads = 0;
        from = wall();
        open_log(&l);
        close_times[0][round] = wall() - from;
        check_count(&l, count);
    }
    fprintf(table,
            "After close(), with %lu messages of 1 KiB: opening takes %.2f ms (%lu reads; aim: 50 "
            "ms: %s), close() took %.2f ms.\n\n",
            count, 1e3 * median(close_times[0], rounds), l.store.reads,
            met(median(close_times[0], rounds) < .05), 1e3 * median(close_times[1], rounds));
    drop_log(&l);
    unlink(wanted.path);
}

/* ----------------------------------------------------------------------------------------------
 * What it writes, and takes
 * ---------------------------------------------------------------------------------------------- */

enum { SECTOR = 4096, LIVES = 1000, WRITE_BYTES = 64 << 20, WRITE_SECTORS = WRITE_BYTES / SECTOR };

/* Of each sector: when it was first written, and last, in flushes; 0: never. */
static unsigned long first_written[WRITE_SECTORS], last_written[WRITE_SECTORS], flush_now;
static unsigned long sectors_written, sectors_again, sectors_durable;

static void note_sectors(void *context, int writes, uint64_t at, size_t bytes)
{
    uint64_t i;
    (void)context;
    for (i = at / SECTOR; writes && i <= (at + bytes - 1) / SECTOR; i++) {
        if (last_written[i] == flush_now) {
            sectors_again++; /* between the same two syncs, and so perhaps not on the disk */
            continue;
        }
        sectors_written++;
        sectors_durable += first_written[i] != 0;
        last_written[i] = flush_now;
        if (!first_written[i])
            first_written[i] = flush_now;
    }
}

/* The life of a message, with a flush after each step, a thousand times; the region is larger than
 * all that is written. */
static void measure_writes_of(const queue_ours *ours, const char *name, int aims)
{
    static char memory[CONTENT + 1024];
    queue_wanted wanted = {0};
    msc4203_span record = span_of(text, 100);
    msc4203_message m;
    log_side l;
    unsigned long i, syncs, writes;
    double sectors;
    wanted.bytes = WRITE_BYTES;
    wanted.sector = SECTOR;
    wanted.counted = 1;
    make_log(&l, ours, &wanted);
    flush(&l);
    memset(first_written, 0, sizeof first_written);
    memset(last_written, 0, sizeof last_written);
    sectors_written = sectors_again = sectors_durable = 0;
    syncs = l.store.syncs;
    writes = l.store.writes;
    flush_now = 1;
    l.store.see = note_sectors;
    for (i = 0; i < LIVES; i++) {
        push_batch(&l, 1, 1000, CONTENT, 1u << SERVICE);
        flush(&l);
        flush_now++;
        expect("next", l.queue->next(l.queue->context, SERVICE, NULL, 0, memory, sizeof memory, &m),
               MSC4203_ITEM);
        check_message(&m, l.taken++, 1000, CONTENT, 1);
        expect("hold", l.queue->hold(l.queue->context, SERVICE, m.number, &record), MSC4203_OK);
        flush(&l);
        flush_now++;
        expect("done", l.queue->done(l.queue->context, SERVICE, NULL, m.number, NULL), MSC4203_OK);
        flush(&l);
        flush_now++;
    }
    sectors = (double)sectors_written / LIVES;
    fprintf(table, "| %s | %.3f%s%s | %.3f%s%s | %.3f | %.3f | %.3f |\n", name, sectors,
            aims ? " " : "", aims ? met(sectors <= 3) : "", (double)sectors_durable / LIVES,
            aims ? " " : "", aims ? met(!sectors_durable) : "", (double)sectors_again / LIVES,
            (double)(l.store.writes - writes) / LIVES,
            (double)(l.store.syncs - syncs) / (3 * LIVES));
    drop_log(&l);
}

static void tell_needed(const queue_wanted *wanted, const char *with)
{
    size_t bytes = best()->memory(wanted);
    if (bytes == 0)
        fprintf(table, "%s: it does not fit into the region, aim 16 KiB: MISSED.", with);
    else
        fprintf(table, "%s: %lu bytes, aim 16 KiB: %s.", with, (unsigned long)bytes,
                met(bytes <= 16384));
}

static void measure_writes(void)
{
    queue_wanted wanted = {0};
    fprintf(table,
            "| A message of 1 KiB, pushed, held and taken, a flush after each; for each message | "
            "sectors of 4 KiB (aim: at most 3) | of those, that held durable data (aim: 0) | "
            "written again before the sync | calls of write() | syncs for each flush |\n"
            "|---|--:|--:|--:|--:|--:|\n");
    measure_writes_of(best(), "log", 1);
    if (best_old())
        measure_writes_of(best_old(), "old log", 0);
    wanted.bytes = 64 << 10;
    wanted.messages = 256;
    wanted.devices = 32;
    wanted.requests = 64;
    fprintf(table,
            "\nWhat a log in 64 KiB, of 256 messages, 32 devices and 64 requests, takes with "
            "its struct.");
    tell_needed(&wanted, " In memory");
    wanted.sector = 512;
    tell_needed(&wanted, " With sectors of 512 bytes");
    wanted.sector = SECTOR;
    tell_needed(&wanted, " With sectors of 4 KiB");
    fprintf(table, "\n\n");
}

/* ---------------------------------------------------------------------------------------------- */

static void tell_where(void)
{
    struct statfs fs;
    char line[256], *name = NULL;
    FILE *info = fopen("/proc/cpuinfo", "r");
    while (info && !name && fgets(line, sizeof line, info))
        if (strncmp(line, "model name", 10) == 0 && (name = strchr(line, ':')) != NULL)
            name[strcspn(name, "\n")] = 0;
    if (info)
        fclose(info);
    expect("statfs", statfs(directory, &fs), 0);
    fprintf(table,
            "Measured on %s, gcc %s -O2; medians of %d rounds in turns. The files are on %s "
            "(file system type 0x%lx).\n\n",
            name ? name + 2 : "an unknown machine", __VERSION__, rounds,
            fs.f_type == 0x01021994 ? "a tmpfs, NO DISK: the rates with syncs mean nothing"
                                    : "a disk, not a tmpfs",
            (unsigned long)fs.f_type);
}

static double setting(const char *name, double otherwise)
{
    const char *value = getenv(name);
    return value && atof(value) > 0 ? atof(value) : otherwise;
}

static void measure_growths(void)
{
    scattered = 1;
    measure_growth(10);
    measure_growth(DEVICES);
    scattered = 0;
}

static void measure_opening(void)
{
    open_after_kill(best());
    open_after_close(best());
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*measure)(void);
    } parts[] = {{"memory", measure_memory},   {"file", measure_file},
                 {"next", measure_next},       {"growth", measure_growths},
                 {"opening", measure_opening}, {"writes", measure_writes}};
    const char *only = getenv("BENCH_QUEUE");
    double wanted;
    size_t i, measured = 0;
    if (argc != 2) {
        printf("usage: queue DIRECTORY\n");
        return 2;
    }
    directory = argv[1];
    wanted = setting("BENCH_ROUNDS", 15);
    rounds = wanted < 5 ? 5 : wanted > ROUNDS_MAX ? ROUNDS_MAX : (int)wanted;
    seconds = setting("BENCH_SECONDS", 60);
    quick = seconds < 30;
    table = fopen(path_of("queue.md"), "w");
    if (!table) {
        printf("queue: cannot write %s\n", path_of("queue.md"));
        return 1;
    }
    find_builds();
    make_texts();
    tell_where();
    for (i = 0; i < COUNT(parts); i++) {
        if (only && strcmp(only, parts[i].name) != 0)
            continue;
        parts[i].measure();
        fflush(table);
        measured++;
    }
    if (!measured) {
        printf("queue: no such part: %s\n", only);
        return 2;
    }
    if (ferror(table) || fclose(table) != 0) {
        printf("queue: cannot write %s\n", path_of("queue.md"));
        return 1;
    }
    if (costly)
        printf("queue: a flush cost more than one sync; see %s\n", path_of("queue.md"));
    return costly;
}
