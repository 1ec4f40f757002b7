/* queue.c - measures the log as a queue: in memory, in a file beside SQLite, as it grows, opening.
 *
 *     queue DIRECTORY      writes DIRECTORY/queue.md; the files that it works in are there, too
 *
 * BENCH_ROUNDS (15, at least 5) is how often each contestant has its turn, BENCH_SECONDS (60) about
 * how long all of it takes; below 30, there are no million messages and no file of 1 GiB. The
 * figures are medians; the ratios are medians of the ratios within a round. Fails when something
 * else is read than was written, or when a flush costs more than one sync; not when it is slow. */
#define _XOPEN_SOURCE     700
#define _FILE_OFFSET_BITS 64
#include <fcntl.h>
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
    CONTENT = 1024,       /* bytes of a message's content */
    CONTENT_GROWTH = 256, /* so that a million fit into memory, and copying counts for less */
    SERVICE = 1,          /* the channel of an application service */
    FILE_BYTES = 64 << 20,
    WAITING_MAX = 20000 /* in that file */
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

static double cost_of(double (*now)(void))
{
    double from = now();
    int i;
    for (i = 0; i < 100000; i++)
        now();
    return (now() - from) / 100000;
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

static int scattered; /* whether the devices come in no order */

static unsigned long device_of(unsigned long i, unsigned long of)
{
    return (scattered ? (i * 2654435761u & 0xFFFFFFFFu) >> 7 : i) % of;
}

/* Message `i` of those for `of` devices. The time tells which one it is. */
static void make_message(msc4203_message *m, unsigned long i, unsigned long of, size_t bytes,
                         uint32_t channels)
{
    unsigned long device = device_of(i, of);
    memset(m, 0, sizeof *m);
    m->time_ms = i;
    m->channels = channels;
    m->item.kind = MSC4203_TO_DEVICE;
    m->item.sender = span_of("@alice:example.org", 18);
    m->item.type = span_of("m.room.encrypted", 16);
    m->item.user_id = span_of(users[device], strlen(users[device]));
    m->item.device_id = span_of(devices[device], strlen(devices[device]));
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
        fail("read something else of message", (long)m->time_ms, (long)i);
}

/* ----------------------------------------------------------------------------------------------
 * Logs, in a storage that counts
 * ---------------------------------------------------------------------------------------------- */

enum sync { SYNC_AS_IT_IS, SYNC_DATA, SYNC_NONE }; /* by fdatasync(); only passed on */

typedef struct access {
    uint64_t at;
    uint32_t bytes, writes;
} access_made;

typedef struct log_side {
    const queue_ours *ours;
    msc4203_log log;
    msc4203_queue queue;
    msc4203_storage inner, storage; /* the latter is the former, counted */
    msc4203_file *file;
    void *index;
    size_t index_bytes;
    enum sync sync;
    unsigned long syncs, calls, bytes, flushes, flush_syncs;
    unsigned long costly, costliest; /* flushes with more than one sync; the most syncs */
    access_made *trace;              /* where each access is noted, or NULL */
    size_t traced, trace_room;
    unsigned char *undo; /* what was overwritten, or NULL */
    size_t undo_used, undo_room;
    unsigned long pushed, taken; /* messages, the numbers that make_message() had */
} log_side;

static void note(log_side *l, uint64_t at, size_t bytes, int writes)
{
    l->calls++;
    l->bytes += bytes;
    if (l->trace) {
        if (l->traced == l->trace_room)
            fail("too many accesses", (long)l->traced, (long)l->trace_room);
        l->trace[l->traced].at = at;
        l->trace[l->traced].bytes = (uint32_t)bytes;
        l->trace[l->traced++].writes = (uint32_t)writes;
    }
}

static int counted_read(void *context, uint64_t at, void *data, size_t bytes)
{
    log_side *l = (log_side *)context;
    note(l, at, bytes, 0);
    if (!l->inner.memory)
        return l->inner.read(l->inner.context, at, data, bytes);
    memcpy(data, l->inner.memory + at, bytes);
    return 0;
}

static int counted_write(void *context, uint64_t at, const void *data, size_t bytes)
{
    log_side *l = (log_side *)context;
    note(l, at, bytes, 1);
    if (l->undo) {
        access_made made = {0};
        if (l->undo_used + sizeof made + bytes > l->undo_room)
            fail("opening wrote too much", (long)l->undo_used, (long)l->undo_room);
        made.at = at;
        made.bytes = (uint32_t)bytes;
        l->inner.read(l->inner.context, at, l->undo + l->undo_used, bytes);
        memcpy(l->undo + l->undo_used + bytes, &made, sizeof made);
        l->undo_used += bytes + sizeof made;
    }
    if (!l->inner.memory)
        return l->inner.write(l->inner.context, at, data, bytes);
    memcpy(l->inner.memory + at, data, bytes);
    return 0;
}

static int counted_sync(void *context)
{
    log_side *l = (log_side *)context;
    l->syncs++;
    if (l->inner.memory)
        return 0;
    if (l->sync == SYNC_AS_IT_IS)
        return l->inner.sync(l->inner.context);
    if (l->ours->file_pass_on(l->file) != 0)
        return -1;
    return l->sync == SYNC_DATA ? fdatasync(l->file->priv.fd) : 0;
}

static void count_storage(log_side *l)
{
    l->storage = l->inner;
    l->storage.context = l;
    l->storage.memory = NULL;
    l->storage.read = counted_read;
    l->storage.write = counted_write;
    l->storage.sync = counted_sync;
}

static void open_log(log_side *l)
{
    msc4203_log_config config;
    expect("inspect", l->ours->inspect(&l->log, &l->storage, &config), MSC4203_OK);
    l->index_bytes = l->ours->memory(&l->log, &config, l->storage.bytes);
    free(l->index);
    l->index = allocate(l->index_bytes);
    expect("open", l->ours->open(&l->log, &l->storage, l->index, l->index_bytes, 2), MSC4203_OK);
    l->ours->queue(&l->log, &l->queue);
}

/* A log in memory; `counted`: not at once, but with read() and write(). */
static void make_memory_log(log_side *l, const queue_ours *ours, uint64_t bytes, uint32_t of,
                            int counted)
{
    msc4203_log_config config = {0};
    memset(l, 0, sizeof *l);
    l->ours = ours;
    config.devices = of;
    ours->memory_storage(&l->inner, allocate(bytes), bytes);
    l->storage = l->inner;
    if (counted)
        count_storage(l);
    expect("format", ours->format(&l->log, &l->storage, &config, 1), MSC4203_OK);
    open_log(l);
}

static void open_file_log(log_side *l, const queue_ours *ours, const char *path)
{
    memset(l, 0, sizeof *l);
    l->ours = ours;
    l->file = (msc4203_file *)allocate(sizeof *l->file);
    expect("file_open", ours->file_open(l->file, path, 1, &l->inner), MSC4203_OK);
    count_storage(l);
}

/* Puts in a batch of n messages, without the flush. */
static void push_batch(log_side *l, int n, unsigned long of, size_t bytes, uint32_t channels)
{
    msc4203_message m;
    uint64_t first;
    uint32_t batch;
    expect("begin", l->queue.begin(l->queue.context, &batch), MSC4203_OK);
    for (; n > 0; n--) {
        make_message(&m, l->pushed++, of, bytes, channels);
        expect("push", l->queue.push(l->queue.context, batch, &m), MSC4203_OK);
    }
    expect("commit", l->queue.commit(l->queue.context, batch, NULL, &first), MSC4203_OK);
}

static void flush(log_side *l)
{
    unsigned long syncs = l->syncs;
    expect("flush", l->queue.flush(l->queue.context), MSC4203_OK);
    l->flushes++;
    l->flush_syncs += l->syncs - syncs;
    if (l->syncs - syncs > 1)
        l->costly++;
    if (l->syncs - syncs > l->costliest)
        l->costliest = l->syncs - syncs;
}

static void in_log(log_side *l, int n)
{
    push_batch(l, n, DEVICES / 10, CONTENT, 1u << SERVICE);
    flush(l);
}

static void out_log(log_side *l, int n, int whole)
{
    static char memory[CONTENT + 1024];
    msc4203_message m;
    uint64_t after = 0;
    for (; n > 0; n--) {
        expect("next",
               l->queue.next(l->queue.context, SERVICE, NULL, after, memory, sizeof memory, &m),
               MSC4203_ITEM);
        check_message(&m, l->taken++, DEVICES / 10, CONTENT, whole);
        after = m.number;
    }
    expect("done", l->queue.done(l->queue.context, SERVICE, NULL, after, NULL), MSC4203_OK);
    flush(l);
}

static void check_empty_log(log_side *l)
{
    msc4203_counts counts;
    expect("count", l->queue.count(l->queue.context, SERVICE, NULL, &counts), MSC4203_OK);
    expect("messages left in the log", (long)counts.messages, 0);
    expect("messages read from the log", (long)l->taken, (long)l->pushed);
}

/* ----------------------------------------------------------------------------------------------
 * In memory
 * ---------------------------------------------------------------------------------------------- */

enum { PUSH, COMMIT, FLUSH, NEXT, DONE, ALL, SYNC_NEXT, SYNC_DONE, MEMORY_OPS };

static double memory_times[2][2][MEMORY_OPS][ROUNDS_MAX]; /* of a message */

static double passed(double *from)
{
    double now = cpu(), time = now - *from - cpu_cost;
    *from = now;
    return time;
}

/* Batches of n, in and out, for about `least` seconds. */
static void memory_turn(log_side *l, int n, double least, double *times)
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
    while (cpu() - begun < least * .7) {
        for (i = 0; i < n; i++)
            make_message(&m[i], l->pushed++, 1000, CONTENT, 1u << SERVICE);
        at = cpu();
        bad |= l->queue.begin(l->queue.context, &batch);
        for (i = 0; i < n; i++)
            bad |= l->queue.push(l->queue.context, batch, &m[i]);
        times[PUSH] += passed(&at);
        bad |= l->queue.commit(l->queue.context, batch, NULL, &first);
        times[COMMIT] += passed(&at);
        bad |= l->queue.flush(l->queue.context);
        times[FLUSH] += passed(&at);
        for (i = 0, after = 0; i < n; i++) {
            bad |= l->queue.next(l->queue.context, SERVICE, NULL, after, memory, sizeof memory,
                                 &m[0]) != MSC4203_ITEM;
            check_message(&m[0], l->taken++, 1000, CONTENT, messages == 0);
            after = m[0].number;
        }
        times[NEXT] += passed(&at);
        bad |= l->queue.done(l->queue.context, SERVICE, NULL, after, NULL);
        times[DONE] += passed(&at);
        messages += (unsigned long)n;
        expect("an operation in memory", bad, 0);
    }
    for (op = 0; op < ALL; op++)
        times[ALL] += times[op] /= (double)messages;
    check_empty_log(l);
    /* /sync: a thousand devices, each with two messages */
    messages = 0;
    while (cpu() - begun < least) {
        for (i = 0; i < 2000; i += 100)
            push_batch(l, 100, 1000, CONTENT, 1u << MSC4203_CHANNEL_SYNC);
        flush(l);
        for (i = 0; i < 2000; i++) {
            msc4203_device device;
            device.user_id = span_of(users[i % 1000], strlen(users[i % 1000]));
            device.device_id = span_of(devices[i % 1000], strlen(devices[i % 1000]));
            l->taken = l->pushed - 2000; /* the first one that was put in */
            l->taken += ((unsigned long)i + 1000 - l->taken % 1000) % 1000;
            l->taken += i < 1000 ? 0 : 1000;
            at = cpu();
            bad |= l->queue.next(l->queue.context, 0, &device, 0, memory, sizeof memory, &m[0]) !=
                   MSC4203_ITEM;
            check_message(&m[0], l->taken, 1000, CONTENT, 0);
            times[SYNC_NEXT] += passed(&at);
            bad |= l->queue.done(l->queue.context, 0, &device, m[0].number, NULL);
            times[SYNC_DONE] += passed(&at);
        }
        flush(l);
        l->taken = l->pushed;
        messages += 2000;
        expect("a sync in memory", bad, 0);
    }
    times[SYNC_NEXT] /= (double)messages;
    times[SYNC_DONE] /= (double)messages;
    check_empty_log(l);
}

static void measure_memory(const queue_ours *const sides[2])
{
    static const char *const names[] = {"push", "commit",    "flush",       "next",
                                        "done", "all of it", "/sync: next", "/sync: done"};
    static const int batches[] = {1, 100};
    log_side logs[2];
    int side, round, b, op;
    for (side = 0; side < 2; side++)
        if (sides[side])
            make_memory_log(&logs[side], sides[side], 16 << 20, 1024, 0);
    for (round = 0; round < rounds; round++) {
        for (b = 0; b < 2; b++) {
            for (side = 0; side < 2; side++) {
                double times[MEMORY_OPS];
                if (!sides[side])
                    continue;
                memory_turn(&logs[side], batches[b], seconds / 10 / 4 / rounds, times);
                for (op = 0; op < MEMORY_OPS; op++)
                    memory_times[side][b][op][round] = times[op];
            }
        }
    }
    fprintf(table, "| In memory, ns for a message of 1 KiB | plain C, batches of 1 | of 100 |"
                   " CRC instructions, batches of 1 | of 100 |\n|---|--:|--:|--:|--:|\n");
    for (op = 0; op < MEMORY_OPS; op++) {
        fprintf(table, "| %s |", names[op]);
        for (side = 0; side < 2; side++)
            for (b = 0; b < 2; b++)
                fprintf(table, sides[side] ? " %.0f |" : " |",
                        1e9 * median(memory_times[side][b][op], rounds));
        fprintf(table, "\n");
    }
    fprintf(table, "| messages a second |");
    for (side = 0; side < 2; side++)
        for (b = 0; b < 2; b++)
            fprintf(table, sides[side] ? " %.0f |" : " |",
                    1 / median(memory_times[side][b][ALL], rounds));
    fprintf(table,
            "\n\nAim: 1,000,000 messages a second, with CRC instructions, batches of 100: %s.\n\n",
            met(sides[1] && 1e6 * median(memory_times[1][1][ALL], rounds) <= 1));
    for (side = 0; side < 2; side++) {
        if (sides[side]) {
            free(logs[side].inner.memory);
            free(logs[side].index);
        }
    }
}

/* ----------------------------------------------------------------------------------------------
 * In a file, beside SQLite
 * ---------------------------------------------------------------------------------------------- */

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

static void bind_text(sqlite3_stmt *statement, int which, const msc4203_span *span)
{
    sqlite3_bind_text(statement, which, span->ptr, (int)span->len, SQLITE_STATIC);
}

static void in_sql(sql_side *s, int n)
{
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

static void out_sql(sql_side *s, int n, int whole)
{
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

static void check_empty_sql(sql_side *s)
{
    step_sql(s->count, SQLITE_ROW);
    expect("messages left in SQLite", (long)sqlite3_column_int64(s->count, 0), 0);
    sqlite3_reset(s->count);
    expect("messages read from SQLite", (long)s->taken, (long)s->pushed);
}

/* The contestants: the log, the log that syncs with fdatasync(), SQLite. */
enum { LOG, LOG_DATA, SQL, FILE_SIDES };
static double file_rates[2][2][3][FILE_SIDES][ROUNDS_MAX]; /* [out too][stubbed][batch] */
static double disk_rates[2][ROUNDS_MAX];

static double file_turn(log_side *l, sql_side *s, int n, int out, double (*now)(void), double least)
{
    double from = now(), time;
    unsigned long begun = l ? l->pushed : s->pushed, messages;
    do {
        if (l) {
            in_log(l, n);
            if (out)
                out_log(l, n, 0);
        } else {
            in_sql(s, n);
            if (out)
                out_sql(s, n, 0);
        }
        messages = (l ? l->pushed : s->pushed) - begun;
        time = now() - from;
    } while (time < least && (out || messages + (unsigned long)n <= WAITING_MAX));
    if (l) {
        if (!out)
            out_log(l, (int)messages, 1);
        check_empty_log(l);
    } else {
        if (!out)
            out_sql(s, (int)messages, 1);
        check_empty_sql(s);
    }
    return (double)messages / time;
}

/* How often a second the disk makes 4 KiB durable. */
static double disk_turn(int fd, int data_only, double least)
{
    static char page[4096];
    double from = wall(), time;
    long count = 0;
    do {
        memset(page, (int)count, sizeof page);
        expect("pwrite", (long)pwrite(fd, page, sizeof page, count % 1024 * 4096), 4096);
        expect("fdatasync", data_only ? fdatasync(fd) : fsync(fd), 0);
        count++;
        time = wall() - from;
    } while (time < least);
    return (double)count / time;
}

static void measure_file(const queue_ours *ours)
{
    static const int batches[] = {1, 10, 100};
    static const double aims[2][3] = {{1, 0, 3}, {3, 0, 5}};
    log_side l;
    sql_side s;
    int fd, i, round, out, none, b, side;
    double least = seconds * .4 / (6 * 3 + 2) / rounds;
    msc4203_file *file = (msc4203_file *)allocate(sizeof *file);

    scattered = 1;
    unlink(path_of("queue.db"));
    unlink(path_of("queue.db-wal"));
    expect("file_create", ours->file_create(file, path_of("queue.log"), FILE_BYTES, NULL, 1),
           MSC4203_OK);
    free(file);
    open_file_log(&l, ours, path_of("queue.log"));
    open_log(&l);
    open_sql(&s, path_of("queue.db"));
    fd = open(path_of("queue.disk"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    for (i = 0; i < 64; i++)
        expect("write", (long)write(fd, l.file->priv.buffer, 65536), 65536);
    fsync(fd);
    for (i = 0; i < 4; i++) { /* every block was written once */
        int k;
        for (k = 0; k < 200; k++) {
            in_log(&l, 100);
            in_sql(&s, 100);
        }
        out_log(&l, 20000, 1);
        out_sql(&s, 20000, 1);
    }
    for (round = 0; round < rounds; round++) {
        sync(); /* or the first to wait for the disk pays for what was written without */
        for (i = 0; i < 2; i++)
            disk_rates[i][round] = disk_turn(fd, !i, least);
        for (none = 0; none < 2; none++) {
            run_sql(&s, none ? "PRAGMA synchronous=OFF" : "PRAGMA synchronous=FULL");
            for (out = 0; out < 2; out++) {
                for (b = 0; b < 3; b++) {
                    for (i = 0; i < FILE_SIDES; i++) {
                        side = (i + round) % FILE_SIDES;
                        if (none && side == LOG_DATA)
                            continue;
                        l.sync = none ? SYNC_NONE : side == LOG ? SYNC_AS_IT_IS : SYNC_DATA;
                        file_rates[out][none][b][side][round] = file_turn(
                            side == SQL ? NULL : &l, &s, batches[b], out, none ? cpu : wall, least);
                    }
                }
            }
        }
    }
    fprintf(table,
            "The disk makes %.0f times 4 KiB durable in a second with fdatasync(), %.0f with "
            "fsync(). SQLite %s: WAL, synchronous=FULL, prepared statements, the manual's table, "
            "locked "
            "once for all; 1,000 devices in no order. The time of flushes is on the wall.\n\n",
            median(disk_rates[0], rounds), median(disk_rates[1], rounds), sqlite3_libversion());
    fprintf(table, "| In a file, messages a second | batch | log | log with fdatasync() | SQLite |"
                   " log / SQLite | aim | |\n|---|--:|--:|--:|--:|--:|--:|---|\n");
    for (none = 0; none < 2; none++) {
        for (out = 0; out < 2; out++) {
            for (b = 0; b < 3; b++) {
                double(*r)[ROUNDS_MAX] = file_rates[out][none][b];
                double times = ratio(r[LOG], r[SQL], rounds), aim = aims[none][b];
                fprintf(table, "| %s, %s | %d | %.0f |", out ? "in and out" : "in",
                        none ? "syncs stubbed out (time of the processor)"
                             : "a sync for each batch",
                        batches[b], median(r[LOG], rounds));
                if (none)
                    fprintf(table, " |");
                else
                    fprintf(table, " %.0f (%.2f x SQLite) |", median(r[LOG_DATA], rounds),
                            ratio(r[LOG_DATA], r[SQL], rounds));
                fprintf(table, " %.0f | %.2f |", median(r[SQL], rounds), times);
                if (aim > 0 && !out)
                    fprintf(table, " %.0f | %s |\n", aim, met(times >= aim));
                else
                    fprintf(table, " | |\n");
            }
        }
    }
    fprintf(
        table,
        "\n%.4f syncs for each of %lu flushes; aim: 1, more in none: %lu had more, up to %lu: %s. "
        "%lu syncs outside of flushes, for %lu messages.\n\n",
        (double)l.flush_syncs / (double)l.flushes, l.flushes, l.costly, l.costliest, met(!l.costly),
        l.syncs - l.flush_syncs, l.pushed);
    costly |= l.costly != 0;
    if (!l.flush_syncs)
        fail("flushes did not sync", 0, 1);
    expect("file_close", ours->file_close(l.file), MSC4203_OK);
    sqlite3_finalize(s.begin);
    sqlite3_finalize(s.commit);
    sqlite3_finalize(s.insert);
    sqlite3_finalize(s.select);
    sqlite3_finalize(s.remove);
    sqlite3_finalize(s.count);
    expect("sqlite3_close", sqlite3_close(s.db), SQLITE_OK);
    close(fd);
    scattered = 0;
    free(l.file);
    free(l.index);
    unlink(path_of("queue.db"));
    unlink(path_of("queue.log"));
    unlink(path_of("queue.disk"));
}

/* ----------------------------------------------------------------------------------------------
 * Growth
 * ---------------------------------------------------------------------------------------------- */

/* Half of the messages wait for a service, half for their devices' /sync. `count` wait, and as many
 * as go in a turn come out, the oldest. Each device has four or more, or fewer devices have any: a
 * device's only message has no links. All logs are of one size. Each access is noted, and right
 * after a turn the same bytes are copied in the same pieces, from and to the same places of another
 * region, that has seen all the same copies before. */
enum { G_PUSH, G_COMMIT, G_NEXT, G_DONE, G_SYNC_NEXT, G_SYNC_DONE, G_TOLD, G_OPS };
enum { SIZES = 3, TURN = 200, TURNS = 5, GROWTH_BATCH = 10, ACCESSES = 1 << 21 };

typedef struct segment {
    int op;
    size_t end; /* in the trace */
} segment;

typedef struct growing {
    log_side l;
    unsigned char *shadow;
    unsigned long count, of, oldest;
    uint64_t service_after;
    segment segments[8 * TURN];
    size_t used;
    double begun;
    double times[G_OPS], copies[G_OPS], calls[G_OPS], bytes[G_OPS];
    unsigned long done[G_OPS];
} growing;

static double growth_times[SIZES][G_OPS][ROUNDS_MAX], growth_copies[SIZES][G_OPS][ROUNDS_MAX];
static access_made trace[ACCESSES];

static void start(growing *g)
{
    g->l.calls = g->l.bytes = 0;
    g->begun = wall();
}

static void stop(growing *g, int op, unsigned long count)
{
    g->times[op] += wall() - g->begun - wall_cost;
    g->calls[op] += (double)g->l.calls;
    g->bytes[op] += (double)g->l.bytes;
    g->done[op] += count;
    g->segments[g->used].op = op;
    g->segments[g->used++].end = g->l.traced;
}

/* Every other message of every other device. */
static int is_for_sync(const growing *g, unsigned long number)
{
    return (number / g->of + number % g->of) % 2 == 0;
}

static void grow_batch(growing *g, int n)
{
    static msc4203_message m[100];
    uint64_t first;
    uint32_t batch;
    int i, bad;
    for (i = 0; i < n; i++) {
        unsigned long number = g->l.pushed++;
        make_message(&m[i], number, g->of, CONTENT_GROWTH, is_for_sync(g, number) ? 1 : 2);
    }
    start(g);
    bad = g->l.queue.begin(g->l.queue.context, &batch);
    for (i = 0; i < n; i++)
        bad |= g->l.queue.push(g->l.queue.context, batch, &m[i]);
    stop(g, G_PUSH, (unsigned long)n);
    start(g);
    bad |= g->l.queue.commit(g->l.queue.context, batch, NULL, &first);
    bad |= g->l.queue.flush(g->l.queue.context);
    stop(g, G_COMMIT, (unsigned long)n);
    expect("a batch", bad, 0);
}

/* Takes out the oldest message. */
static void shrink(growing *g)
{
    static char memory[4096];
    unsigned long number = g->oldest++, i = number % g->of;
    msc4203_device device;
    msc4203_message m;
    int is_sync = is_for_sync(g, number), result;
    device.user_id = span_of(users[i], strlen(users[i]));
    device.device_id = span_of(devices[i], strlen(devices[i]));
    start(g);
    result = g->l.queue.next(g->l.queue.context, !is_sync, is_sync ? &device : NULL, 0, memory,
                             sizeof memory, &m);
    stop(g, is_sync ? G_SYNC_NEXT : G_NEXT, 1);
    expect("next", result, MSC4203_ITEM);
    check_message(&m, number, g->of, CONTENT_GROWTH, 0);
    start(g);
    result =
        g->l.queue.done(g->l.queue.context, !is_sync, is_sync ? &device : NULL, m.number, NULL);
    stop(g, is_sync ? G_SYNC_DONE : G_DONE, 1);
    expect("done", result, MSC4203_OK);
}

/* Copies what the trace says, in the shadow. */
static void copy_trace(growing *g)
{
    static unsigned char piece[1 << 16];
    size_t i, k = 0;
    for (i = 0; i < g->used; i++) {
        double from = wall();
        for (; k < g->segments[i].end; k++) {
            uint64_t at = trace[k].at;
            uint32_t left = trace[k].bytes, bytes;
            for (; left > 0; left -= bytes, at += bytes) {
                bytes = left < sizeof piece ? left : (uint32_t)sizeof piece;
                if (trace[k].writes)
                    memcpy(g->shadow + at, piece, bytes);
                else
                    memcpy(piece, g->shadow + at, bytes);
            }
        }
        g->copies[g->segments[i].op] += wall() - from - wall_cost;
    }
    g->used = g->l.traced = 0;
}

static void growth_turn(growing *g)
{
    int i;
    g->l.trace = trace;
    for (i = 0; i < TURN; i += GROWTH_BATCH)
        grow_batch(g, GROWTH_BATCH);
    for (i = 0; i < TURN; i++)
        shrink(g);
    start(g);
    expect("flush", g->l.queue.flush(g->l.queue.context), MSC4203_OK);
    stop(g, G_TOLD, TURN); /* next to nothing */
    copy_trace(g);
}

static void measure_growth(const queue_ours *ours, unsigned long of)
{
    static const char *const names[] = {"push", "commit and flush (of 10)", "next",
                                        "done", "next of one device",       "done of one device"};
    static const unsigned long full[SIZES] = {1000, 100000, 1000000};
    static const unsigned long small[SIZES] = {1000, 100000, 0};
    static growing all[SIZES];
    int sizes = quick ? 2 : 3, k, round, op, turn;
    uint64_t bytes = (quick ? 100000u : 1000000u) * (uint64_t)640 + (8 << 20);
    for (k = 0; k < sizes; k++) {
        growing *g = &all[k];
        memset(g, 0, sizeof *g);
        make_memory_log(&g->l, ours, bytes, (uint32_t)of, 1);
        g->l.trace_room = ACCESSES;
        g->shadow = (unsigned char *)allocate(bytes);
        g->count = quick ? small[k] : full[k];
        g->of = g->count / 4 < of ? g->count / 4 : of; /* so that each has several */
        while (g->l.pushed < g->count) {
            g->l.trace = NULL;
            grow_batch(g, 100);
            g->used = 0;
        }
        growth_turn(g);
    }
    for (round = 0; round < rounds; round++) {
        for (k = 0; k < sizes; k++) {
            growing *g = &all[(k + round) % sizes];
            growth_turn(g); /* what others have pushed out of the caches comes back */
            memset(g->times, 0, sizeof g->times);
            memset(g->copies, 0, sizeof g->copies);
            memset(g->done, 0, sizeof g->done);
            memset(g->calls, 0, sizeof g->calls);
            memset(g->bytes, 0, sizeof g->bytes);
            for (turn = 0; turn < TURNS; turn++)
                growth_turn(g);
            for (op = 0; op < G_OPS; op++) {
                growth_times[g - all][op][round] = g->times[op] / (double)g->done[op];
                growth_copies[g - all][op][round] = g->copies[op] / (double)g->done[op];
            }
        }
    }
    fprintf(table, "| %lu devices, %lu bytes of index: ns for a message |", of,
            (unsigned long)all[0].l.index_bytes);
    for (k = 0; k < sizes; k++)
        fprintf(table, " %lu waiting |", all[k].count);
    fprintf(table, " bytes touched | storage calls |");
    for (k = 1; k < sizes; k++)
        fprintf(table, " %lu: time / copying | beyond it (aim: at most 1.5) |", all[k].count);
    fprintf(table, "\n|---|%s--:|--:|--:|--:|--:|--:|\n", quick ? "" : "--:|--:|--:|");
    for (op = 0; op < G_TOLD; op++) {
        fprintf(table, "| %s |", names[op]);
        for (k = 0; k < sizes; k++)
            fprintf(table, " %.0f |", 1e9 * median(growth_times[k][op], rounds));
        fprintf(table, " %.0f", all[0].bytes[op] / (double)all[0].done[op]);
        for (k = 1; k < sizes; k++)
            fprintf(table, ", %.0f", all[k].bytes[op] / (double)all[k].done[op]);
        fprintf(table, " | %.1f", all[0].calls[op] / (double)all[0].done[op]);
        for (k = 1; k < sizes; k++)
            fprintf(table, ", %.1f", all[k].calls[op] / (double)all[k].done[op]);
        for (k = 1; k < sizes; k++) {
            /* How much slower than at 1,000, and how much slower copying is. What copying costs
             * more, the operation may cost more: that is taken off. */
            double beyond[ROUNDS_MAX] = {0}, times;
            for (round = 0; round < rounds; round++)
                beyond[round] = growth_times[k][op][round] - growth_copies[k][op][round] +
                                growth_copies[0][op][round];
            times = ratio(beyond, growth_times[0][op], rounds);
            fprintf(table, " | %.2f / %.2f | %.2f %s",
                    ratio(growth_times[k][op], growth_times[0][op], rounds),
                    ratio(growth_copies[k][op], growth_copies[0][op], rounds), times,
                    met(times <= 1.5));
        }
        fprintf(table, " |\n");
    }
    fprintf(table, "\n");
    if (of == DEVICES)
        fprintf(table, "Aim: an index of at most 1 MiB for 10,000 devices: %s.\n\n",
                met(all[0].l.index_bytes <= 1 << 20));
    for (k = 0; k < sizes; k++) {
        free(all[k].shadow);
        free(all[k].l.inner.memory);
        free(all[k].l.index);
    }
}

/* ----------------------------------------------------------------------------------------------
 * Opening after a kill
 * ---------------------------------------------------------------------------------------------- */

static double open_times[4][ROUNDS_MAX]; /* opening and reading, from the disk; from memory */

static void forget(int fd)
{
    expect("fsync", fsync(fd), 0);
    expect("posix_fadvise", posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
}

/* Fills the log with messages and is killed. */
static void fill_and_die(const queue_ours *ours, const char *path, long count)
{
    log_side l;
    long i;
    open_file_log(&l, ours, path);
    open_log(&l);
    for (i = 0; i < count; i += 100) {
        push_batch(&l, 100, DEVICES / 10, 800, 1u << SERVICE);
        if (i % 10000 == 9900)
            flush(&l);
    }
    kill(getpid(), SIGKILL);
}

static void measure_opening(const queue_ours *ours)
{
    static unsigned char piece[1 << 20];
    msc4203_file *file = (msc4203_file *)allocate(sizeof *file);
    uint64_t bytes = quick ? 64 << 20 : 1 << 30;
    long count = quick ? 60000 : 1000000, n;
    const char *path = path_of("queue.big");
    int fd, status, round, warm;
    pid_t child;
    log_side l;
    msc4203_counts counts;
    unsigned long wrote = 0, calls = 0;

    expect("file_create", ours->file_create(file, path, bytes, NULL, 1), MSC4203_OK);
    free(file);
    fflush(NULL);
    child = fork();
    if (child == 0)
        fill_and_die(ours, path, count);
    expect("waitpid", waitpid(child, &status, 0) == child && WIFSIGNALED(status), 1);
    fd = open(path, O_RDWR);
    for (round = 0; round < rounds && round < 7; round++) {
        for (warm = 0; warm < 2; warm++) {
            double from;
            int i;
            for (i = 0; i < 2; i++) { /* in turns */
                if (!warm)
                    forget(fd);
                from = wall();
                if (i == round % 2) {
                    lseek(fd, 0, SEEK_SET);
                    while ((n = (long)read(fd, piece, sizeof piece)) > 0)
                        ;
                    expect("read", n, 0);
                    open_times[2 * warm + 1][round] = wall() - from;
                    continue;
                }
                open_file_log(&l, ours, path);
                l.undo_room = 64 << 20;
                l.undo = (unsigned char *)malloc(l.undo_room);
                open_log(&l);
                open_times[2 * warm][round] = wall() - from;
                calls = l.calls;
                expect("count", l.queue.count(l.queue.context, SERVICE, NULL, &counts), MSC4203_OK);
                expect("messages after a kill", (long)counts.messages, count);
                wrote = (unsigned long)l.undo_used;
                expect("file_close", ours->file_close(l.file), MSC4203_OK);
                while (l.undo_used > 0) { /* as if it had not been opened */
                    access_made made;
                    memcpy(&made, l.undo + l.undo_used - sizeof made, sizeof made);
                    l.undo_used -= sizeof made + made.bytes;
                    expect("pwrite",
                           (long)pwrite(fd, l.undo + l.undo_used, made.bytes, (off_t)made.at),
                           (long)made.bytes);
                }
                free(l.undo);
                free(l.file);
                free(l.index);
            }
        }
    }
    close(fd);
    unlink(path);
    rounds = round < rounds ? round : rounds;
    fprintf(table,
            "| %lu MiB with %ld messages, after a kill | opening, s | reading once, s |"
            " ratio | aim |\n|---|--:|--:|--:|---|\n",
            (unsigned long)(bytes >> 20), count);
    for (warm = 0; warm < 2; warm++)
        fprintf(table, "| %s | %.3f | %.3f | %.2f | %s |\n",
                warm ? "from the system's cache" : "from the disk",
                median(open_times[2 * warm], rounds), median(open_times[2 * warm + 1], rounds),
                ratio(open_times[2 * warm], open_times[2 * warm + 1], rounds),
                warm                                               ? ""
                : ratio(open_times[0], open_times[1], rounds) <= 2 ? "2: met"
                                                                   : "2: MISSED");
    fprintf(table, "\nOpening called the storage %lu times and wrote %lu bytes.\n", calls, wrote);
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

int main(int argc, char **argv)
{
    const queue_ours *sides[2] = {&queue_plain, NULL}, *ours;
    double wanted;
    const char *only = getenv("BENCH_QUEUE"); /* memory, file, growth, opening: one part alone */
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
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2"))
        sides[1] = &queue_crc;
#elif defined(BENCH_CRC)
    sides[1] = &queue_crc;
#endif
    ours = sides[1] ? sides[1] : sides[0];
    if (only && strcmp(only, "memory") != 0 && strcmp(only, "file") != 0 &&
        strcmp(only, "growth") != 0 && strcmp(only, "opening") != 0) {
        printf("queue: no such part: %s\n", only);
        return 2;
    }
    make_texts();
    cpu_cost = cost_of(cpu);
    wall_cost = cost_of(wall);
    tell_where();
    if (!only || strcmp(only, "memory") == 0)
        measure_memory(sides);
    if (!only || strcmp(only, "file") == 0)
        measure_file(ours);
    if (!only || strcmp(only, "growth") == 0) {
        measure_growth(ours, 10);
        measure_growth(ours, DEVICES);
    }
    if (!only || strcmp(only, "opening") == 0)
        measure_opening(ours);
    if (ferror(table) || fclose(table) != 0) {
        printf("queue: cannot write %s\n", path_of("queue.md"));
        return 1;
    }
    if (costly)
        printf("queue: a flush cost more than one sync; see %s\n", path_of("queue.md"));
    return costly;
}
