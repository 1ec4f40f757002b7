/* test_format.c - logs of format version 1 that are kept in test/data/log: every later version
 * reads them. One was left by a crash, one was closed. Beside each stands what is in it, a line for
 * each message, channel, request and opening.
 *
 * TEST_MAKE_LOGS=1 makes them anew: only when the format has a new version, under other names. */
#include "log_bench.h"

enum { FORMAT_BYTES = 64 * 1024, FORMAT_TEXT = 16384 };

static char format_text[FORMAT_TEXT], format_memory[4096];
static size_t format_used;

static void format_line(const char *line)
{
    size_t n = strlen(line);

    if (CHECK(format_used + n < sizeof format_text)) {
        memcpy(format_text + format_used, line, n + 1);
        format_used += n;
    }
}

static int format_see(void *context, const msc4203_message *m, uint64_t at, int error)
{
    static char line[2048];

    (void)context;
    (void)at;
    sprintf(line, "message %lu %lx %lu%09lu %d %.*s %.*s %.*s %.*s %.*s\n",
            (unsigned long)m->number, (unsigned long)m->channels,
            (unsigned long)(m->time_ms / 1000000000u), (unsigned long)(m->time_ms % 1000000000u),
            error, (int)m->item.sender.len, m->item.sender.ptr, (int)m->item.type.len,
            m->item.type.ptr, (int)m->item.user_id.len, m->item.user_id.ptr,
            (int)m->item.device_id.len, m->item.device_id.ptr, (int)m->item.content.len,
            m->item.content.ptr);
    format_line(line);
    return 0;
}

static int format_is_known(struct bench *b, uint32_t i)
{
    msc4203_request request;

    contract_request(i, 1, &request);
    return b->queue.known(b->queue.context, &request) == MSC4203_KNOWN;
}

/* Writes down what is in a log, but for its openings when `openings` is 0. */
static void format_describe(struct bench *b, int openings)
{
    msc4203_queue *q = &b->queue;
    msc4203_span name, record;
    msc4203_counts counts;
    static char line[1024];
    uint64_t random, first;
    uint32_t i;

    format_used = 0;
    CHECK(msc4203_log_scan(&b->log, format_memory, sizeof format_memory, format_see, NULL) ==
          MSC4203_OK);
    for (i = 1; i < MSC4203_CHANNELS; i++)
        if (q->record(q->context, i, format_memory, sizeof format_memory, &name, &record) ==
                MSC4203_OK &&
            q->count(q->context, i, NULL, &counts) == MSC4203_OK) {
            sprintf(line, "channel %lu %.*s %.*s: %lu, in flight up to %lu\n", (unsigned long)i,
                    (int)name.len, name.ptr, (int)record.len, record.ptr,
                    (unsigned long)counts.messages, (unsigned long)counts.through);
            format_line(line);
        }
    for (i = 1; i < 60; i++) {
        if (!format_is_known(b, i))
            continue;
        sprintf(line, "request %lu\n", (unsigned long)i);
        format_line(line);
    }
    for (i = 0; openings && q->opening(q->context, i, &random, &first) == MSC4203_OK; i++) {
        sprintf(line, "opening %08lx%08lx %lu\n", (unsigned long)(random >> 32),
                (unsigned long)(random & 0xFFFFFFFFu), (unsigned long)first);
        format_line(line);
    }
}

static void format_push(struct bench *b, unsigned request, unsigned messages, uint32_t channels)
{
    static char text[400];
    msc4203_message message;
    msc4203_request id;
    char device[16];
    uint64_t first;
    uint32_t batch;
    unsigned i;
    int bytes;

    CHECK(b->queue.begin(b->queue.context, &batch) == MSC4203_OK);
    for (i = 0; i < messages; i++) {
        bytes = sprintf(text, "{\"request\":%u,\"index\":%u,\"text\":\"%.*s\"}", request, i,
                        (int)(request * 7 % 90),
                        "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmno"
                        "pqrstuvwxyzabcdefghijklmnopqrstuvwxyz");
        bench_message(&message, device, request % 3 + i, channels,
                      UINT64_C(1800000000000) + request, text, (size_t)bytes);
        CHECK(b->queue.push(b->queue.context, batch, &message) == MSC4203_OK);
    }
    contract_request(request, 1, &id);
    CHECK(b->queue.commit(b->queue.context, batch, &id, &first) == MSC4203_OK);
}

/* Does what makes records of all kinds. */
static void format_fill(struct bench *b)
{
    msc4203_queue *q = &b->queue;
    msc4203_span irc = contract_span("irc"), xmpp = contract_span("xmpp"), record;
    msc4203_message got;
    msc4203_device who;
    uint32_t channel, batch;
    char device[16], text[40];
    unsigned i;

    CHECK(q->channel(q->context, &irc, 1, &channel) == MSC4203_OK && channel == 1);
    CHECK(q->channel(q->context, &xmpp, 1, &channel) == MSC4203_OK && channel == 2);
    for (i = 1; i < 50; i++) {
        format_push(b, i, 1 + i % 3, i % 4 == 0 ? 7 : i % 4 == 1 ? 2 : i % 4 == 2 ? 5 : 4);
        CHECK(q->flush(q->context) == MSC4203_OK);
        record.ptr = text;
        record.len = (size_t)sprintf(text, "record %u", i);
        if (q->next(q->context, 1 + i % 2, NULL, 0, format_memory, sizeof format_memory, &got) ==
            MSC4203_ITEM) {
            CHECK(q->hold(q->context, 1 + i % 2, got.number, &record) == MSC4203_OK);
            if (i % 7 == 0)
                CHECK(q->move(q->context, 1 + i % 2, NULL, got.number,
                              i % 2 ? (uint32_t)1 << MSC4203_CHANNEL_PARKED : 0, NULL) ==
                      MSC4203_OK);
            else
                CHECK(q->done(q->context, 1 + i % 2, NULL, got.number,
                              i % 3 ? &record : NULL) == MSC4203_OK);
        }
        bench_device(i % 5, device, &who);
        if (i % 5 == 0)
            CHECK(q->done(q->context, 0, &who, got.number, NULL) == MSC4203_OK);
        if (i == 30 || i == 45)
            CHECK(q->drop(q->context, &who, NULL) == MSC4203_OK);
        if (i % 13 == 0) {
            CHECK(q->flush(q->context) == MSC4203_OK);
            fake_forget(&b->fake);
            CHECK(bench_open(b) == MSC4203_OK);
        }
    }
    CHECK(q->begin(q->context, &batch) == MSC4203_OK);
    CHECK(bench_add(b, batch, 2, 1, 50) == MSC4203_OK);
    CHECK(q->abort(q->context, batch) == MSC4203_OK);
    CHECK(q->begin(q->context, &batch) == MSC4203_OK); /* and one that is open */
    CHECK(bench_add(b, batch, 2, 1, 50) == MSC4203_OK);
    CHECK(q->flush(q->context) == MSC4203_OK);
}

static void format_init(struct bench *b)
{
    bench_storage(b, &shapes[SHAPE_512], FORMAT_BYTES, 0, 0);
    b->config.messages = 200;
    b->config.devices = 8;
    b->config.requests = 24;
    b->config.openings = 4;
    b->config.message_bytes = 500;
    CHECK(b->fake.bytes == FORMAT_BYTES);
    bench_start(b, 0);
}

static void format_save(const char *path, const void *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");

    if (file == NULL || fwrite(data, 1, bytes, file) != bytes || fclose(file) != 0)
        exit(2);
}

static void format_make(void)
{
    static struct bench b;

    format_init(&b);
    format_fill(&b);
    format_describe(&b, 1);
    format_save("test/data/log/crashed.log", b.fake.seen, b.fake.bytes);
    format_save("test/data/log/crashed.txt", format_text, format_used);
    CHECK(msc4203_log_close(&b.log) == MSC4203_OK);
    format_save("test/data/log/closed.log", b.fake.seen, b.fake.bytes);
    format_save("test/data/log/closed.txt", format_text, format_used);
    bench_free(&b);
}

static void format_same(const char *path, const char *expected, size_t bytes)
{
    if (!CHECK_CASE(format_used <= bytes && memcmp(format_text, expected, format_used) == 0, path))
        printf("%s", format_text);
}

static void format_read(const char *log, const char *text)
{
    static struct bench b;
    msc4203_storage storage;
    size_t bytes, expected_bytes;
    uint64_t known, number;
    uint32_t i;
    char *data = test_read(log, &bytes), *expected = test_read(text, &expected_bytes);

    format_init(&b);
    if (CHECK(bytes == FORMAT_BYTES)) {
        memcpy(b.fake.seen, data, bytes);
        storage = b.fake.storage;
        storage.write = NULL;
        b.storage = &storage; /* only to look at it */
        bench_hurt(&b);
        CHECK(bench_open(&b) == MSC4203_OK && bench_damaged(&b) == 0);
        format_describe(&b, 1);
        format_same(log, expected, expected_bytes);
        CHECK(format_used == expected_bytes);
        b.storage = &b.fake.storage;
        fake_forget(&b.fake);
        bench_hurt(&b);
        CHECK(bench_open(&b) == MSC4203_OK && bench_damaged(&b) == 0);
        format_describe(&b, 0);
        format_same(log, expected, expected_bytes);
        format_push(&b, 59, 2, 8); /* and it goes on, also when all of it was written again */
        CHECK(bench_flush(&b) == MSC4203_OK);
        for (i = 0, known = 0; i < 60; i++)
            known |= (uint64_t)format_is_known(&b, i) << i;
        for (i = 0; i < 500; i++)
            CHECK(bench_push(&b, 8, 1, 100, &number) == MSC4203_OK &&
                  bench_flush(&b) == MSC4203_OK &&
                  b.queue.done(b.queue.context, 3, NULL, number, NULL) == MSC4203_OK);
        for (i = 0; i < 60; i++)
            CHECK(format_is_known(&b, i) == (int)(known >> i & 1));
        CHECK(bench_damaged(&b) == 0);
    }
    bench_free(&b);
    free(data);
    free(expected);
}

int main(void)
{
    if (getenv("TEST_MAKE_LOGS") != NULL)
        format_make();
    format_read("test/data/log/crashed.log", "test/data/log/crashed.txt");
    format_read("test/data/log/closed.log", "test/data/log/closed.txt");
    return test_end("format");
}
