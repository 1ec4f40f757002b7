/* sqlite.c - how the queue over SQLite (example/queue_sqlite.c) grows: the same calls while few
 * messages wait for others, and while many do. Arguments: a folder, and how many are many (1000000
 * when it is left out). Writes sqlite.md there. Syncs are left out: SQLite's work is compared, in
 * processor time, and not the disk's. */
#define _POSIX_C_SOURCE 200809L
#include "measure.h"
#include "queue_sqlite.h"

#include <stdio.h>
#include <unistd.h>

enum { FEW = 1000, DEVICES = 1000, ROUNDS = 15, CALLS = 400, CONTENT = 1000 };
enum { PUSH, SYNC_NEXT, SYNC_DONE, NEXT, DONE, COUNT, STEPS };

static const char *const step_name[STEPS] = {
    "push, commit and flush", "/sync: next",  "/sync: done, and flush",
    "appservice: next",       "appservice: done, and flush", "count of a device"};

struct side {
    char path[300];
    struct queue_sqlite sqlite;
    msc4203_queue queue;
    double took[STEPS][ROUNDS];
};

static msc4203_span text(const char *s)
{
    msc4203_span span;
    span.ptr = s;
    span.len = strlen(s);
    return span;
}

static void expect(const char *what, int result, int expected)
{
    if (result != expected) {
        fprintf(stderr, "sqlite: %s: %d, not %d\n", what, result, expected);
        exit(1);
    }
}

/* A batch of one message of 1,000 bytes. */
static void push(struct side *s, const char *device, uint32_t channels)
{
    static char content[CONTENT + 1];
    msc4203_message m;
    uint64_t first;
    uint32_t batch;

    memset(content, 'x', CONTENT);
    content[0] = content[CONTENT - 1] = '"';
    memset(&m, 0, sizeof m);
    m.channels = channels;
    m.time_ms = 1;
    m.item.user_id = text("@alice:example.org");
    m.item.device_id = text(device);
    m.item.sender = text("@bob:example.org");
    m.item.type = text("m.room_key");
    m.item.content = text(content);
    expect("begin", s->queue.begin(s->queue.context, &batch), MSC4203_OK);
    expect("push", s->queue.push(s->queue.context, batch, &m), MSC4203_OK);
    expect("commit", s->queue.commit(s->queue.context, batch, NULL, &first), MSC4203_OK);
}

static void flush(struct side *s)
{
    expect("flush", s->queue.flush(s->queue.context), MSC4203_OK);
}

/* Messages wait for other devices, in no order, and for an appservice that is down. */
static void fill(struct side *s, const char *folder, unsigned long waiting)
{
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    char name[400];
    unsigned long i;
    size_t k;

    sprintf(s->path, "%.200s/sqlite.%lu.db", folder, waiting);
    for (k = 0; k < sizeof suffixes / sizeof *suffixes; k++) {
        sprintf(name, "%s%s", s->path, suffixes[k]);
        unlink(name);
    }
    expect("open", queue_sqlite_open(&s->sqlite, s->path, 1, &s->queue), MSC4203_OK);
    expect("without syncs", sqlite3_exec(s->sqlite.db, "PRAGMA synchronous = OFF", 0, 0, 0), 0);
    for (i = 0; i < waiting; i++) {
        sprintf(name, "OTHER%lu", i * 7919 % DEVICES);
        push(s, name, i % 2 ? 1 : 1u << 2);
        if (i % 1000 == 999)
            flush(s);
    }
    flush(s);
}

/* The device and the appservice that are measured take what comes; nothing waits for them before
 * and after. */
static void measure(struct side *s, int round)
{
    static const char *const device = "PHONE";
    char memory[4096];
    msc4203_device alice;
    msc4203_message m;
    msc4203_counts counts;
    uint64_t last;
    double began;
    int i;

    alice.user_id = text("@alice:example.org");
    alice.device_id = text(device);
    for (i = 0; i < STEPS; i++)
        s->took[i][round] = 0;
    for (i = 0; i < CALLS; i++) {
        began = cpu();
        push(s, device, 3);
        flush(s);
        s->took[PUSH][round] += cpu() - began;
        began = cpu();
        expect("next", s->queue.next(s->queue.context, 0, &alice, 0, memory, sizeof memory, &m),
               MSC4203_ITEM);
        last = m.number;
        expect("end", s->queue.next(s->queue.context, 0, &alice, last, memory, sizeof memory, &m),
               MSC4203_END);
        s->took[SYNC_NEXT][round] += cpu() - began;
        began = cpu();
        expect("count", s->queue.count(s->queue.context, 0, &alice, &counts), MSC4203_OK);
        s->took[COUNT][round] += cpu() - began;
        began = cpu();
        expect("done", s->queue.done(s->queue.context, 0, &alice, last, NULL), MSC4203_OK);
        flush(s);
        s->took[SYNC_DONE][round] += cpu() - began;
        began = cpu();
        expect("next", s->queue.next(s->queue.context, 1, NULL, 0, memory, sizeof memory, &m),
               MSC4203_ITEM);
        s->took[NEXT][round] += cpu() - began;
        began = cpu();
        expect("done", s->queue.done(s->queue.context, 1, NULL, m.number, NULL), MSC4203_OK);
        flush(s);
        s->took[DONE][round] += cpu() - began;
    }
}

int main(int argc, char **argv)
{
    static struct side few, many;
    const char *folder = argc > 1 ? argv[1] : ".";
    unsigned long most = argc > 2 ? strtoul(argv[2], NULL, 10) : 1000000;
    char path[300];
    FILE *out;
    int round, i;

    fill(&few, folder, FEW);
    fill(&many, folder, most);
    for (round = 0; round < ROUNDS; round++) {
        measure(&few, round);
        measure(&many, round);
    }
    sprintf(path, "%.200s/sqlite.md", folder);
    out = fopen(path, "w");
    if (out == NULL) {
        perror(path);
        return 1;
    }
    fprintf(out,
            "The queue over SQLite %s, messages of 1,000 bytes, syncs left out; medians of %d "
            "rounds in turns of %d calls.\n\n"
            "| us for a call | %d wait for others | %lu do | times as long (aim: at most 1.5) |\n"
            "|---|--:|--:|--:|\n",
            sqlite3_libversion(), ROUNDS, CALLS, FEW, most);
    for (i = 0; i < STEPS; i++) {
        double more = ratio(many.took[i], few.took[i], ROUNDS);
        fprintf(out, "| %s | %.1f | %.1f | %.2f %s |\n", step_name[i],
                median(few.took[i], ROUNDS) / CALLS * 1e6,
                median(many.took[i], ROUNDS) / CALLS * 1e6, more, more <= 1.5 ? "met" : "MISSED");
    }
    queue_sqlite_close(&few.sqlite);
    queue_sqlite_close(&many.sqlite);
    return fclose(out) != 0;
}
