/* test_delivery.c - sender, receiver, sync and changing over, tested from outside. The queue is a
 * log in a storage that loses what was not synced; message N has the content {"n":N}. */
#include "fake_storage.h"

#include <stdarg.h>

enum { MEMORY = 9000, BODY = 2000000 };

static const uint32_t sync_bit = (uint32_t)1 << MSC4203_CHANNEL_SYNC;

/* A server with its queue, and one sender, for "irc". */
struct world {
    struct fake fake;
    msc4203_log log;
    msc4203_queue queue;
    msc4203_log_config log_config;
    void *index;
    size_t index_bytes, memory_bytes;
    unsigned long openings;
    uint32_t irc, xmpp;
    msc4203_sender_config config;
    msc4203_sender sender;
    const msc4203_transaction *transaction;
    uint64_t now, wait;
    char trace[200]; /* what the sender's trace() saw: a letter each */
    int sibling;     /* what siblings() adds: 1 a little, 2 too much, 3 a message, 4 nothing */
    unsigned long asked;
};

static msc4203_span span(const char *string)
{
    msc4203_span s;
    s.ptr = string;
    s.len = strlen(string);
    return s;
}

static msc4203_device device_of(const char *user, const char *name)
{
    msc4203_device device;
    device.user_id = span(user);
    device.device_id = span(name);
    return device;
}

static void see(void *context, int what, const msc4203_transaction *transaction, int status)
{
    struct world *w = (struct world *)context;
    size_t used = strlen(w->trace);

    CHECK(transaction != NULL && status >= 0);
    if (used + 2 < sizeof w->trace) {
        w->trace[used] = "?MRSDFLCPXB"[what];
        w->trace[used + 1] = 0;
    }
}

static void siblings(void *context, const msc4203_message *message, msc4203_writer *writer)
{
    struct world *w = (struct world *)context;
    static char large[5000];
    msc4203_item item;

    CHECK((message == NULL) != (writer == NULL));
    if (message != NULL) {
        w->asked++;
        return;
    }
    memset(&item, 0, sizeof item);
    item.kind = MSC4203_DEVICE_CHANGED;
    item.user_id = span("@alice:gw.example");
    if (w->sibling == 2) {
        memset(large, 'u', sizeof large - 1);
        item.user_id = span(large);
        CHECK(msc4203_writer_item(writer, &item) == MSC4203_E_FULL);
        item.user_id = span("@alice:gw.example");
    }
    if (w->sibling == 5) { /* too much for a small log */
        memset(large, 'u', 400);
        large[400] = 0;
        item.user_id = span(large);
    }
    if (w->sibling == 6) { /* an error that sticks */
        CHECK(msc4203_writer_item(writer, &item) == MSC4203_OK);
        item.user_id = span("\xFF");
        CHECK(msc4203_writer_item(writer, &item) == MSC4203_E_UTF8);
        return;
    }
    if (w->sibling == 3) {
        item.kind = MSC4203_TO_DEVICE;
        item.sender = item.type = item.device_id = span("x");
        item.content = span("{}");
    }
    if (w->sibling != 4)
        CHECK(msc4203_writer_item(writer, &item) == MSC4203_OK);
}

static void world_open(struct world *w)
{
    msc4203_span irc = span("irc"), xmpp = span("xmpp");

    CHECK(msc4203_log_open(&w->log, &w->fake.storage, w->index, w->index_bytes,
                           0xABCDEF0123456789u + 977 * ++w->openings) == MSC4203_OK);
    msc4203_log_queue(&w->log, &w->queue);
    CHECK(w->queue.channel(w->queue.context, &irc, 1, &w->irc) == MSC4203_OK);
    CHECK(w->queue.channel(w->queue.context, &xmpp, 1, &w->xmpp) == MSC4203_OK);
    CHECK(w->queue.flush(w->queue.context) == MSC4203_OK);
    w->config.channel = w->irc;
}

static int world_sender(struct world *w)
{
    static char memory[MEMORY];
    return msc4203_sender_init(&w->sender, &w->queue, &w->config, w->now, memory, sizeof memory);
}

static void world_init(struct world *w, size_t bytes)
{
    memset(w, 0, sizeof *w);
    fake_init(&w->fake, bytes, 1);
    w->log_config.devices = 64;
    w->log_config.requests = 64;
    w->log_config.openings = 8;
    w->log_config.message_bytes = bytes < 60000 ? 200 : bytes < 200000 ? 4000 : 9000;
    w->index_bytes = msc4203_log_memory(&w->log, &w->fake.storage, &w->log_config);
    w->index = malloc(w->index_bytes);
    CHECK(w->index_bytes != 0 && w->index != NULL);
    CHECK(msc4203_log_format(&w->log, &w->fake.storage, &w->log_config, w->index, w->index_bytes,
                             99) == MSC4203_OK);
    w->now = 1700000000000u;
    w->memory_bytes = MEMORY;
    w->config.context = w;
    w->config.trace = see;
    world_open(w);
    CHECK(world_sender(w) == MSC4203_OK);
}

static void world_free(struct world *w)
{
    fake_free(&w->fake);
    free(w->index);
}

/* The power goes, and comes again: with the same or another part of what was not synced. */
static void world_crash(struct world *w)
{
    fake_crash(&w->fake);
    world_open(w);
    CHECK(world_sender(w) == MSC4203_OK);
}

static void flush(struct world *w)
{
    CHECK(w->queue.flush(w->queue.context) == MSC4203_OK);
}

/* Queues one message; not flushed. Returns what the queue says. */
static int put_content(struct world *w, uint32_t channels, const char *user, const char *device,
                       const msc4203_span *content, uint64_t *number)
{
    msc4203_message message;
    uint32_t batch;
    int result;

    memset(&message, 0, sizeof message);
    message.channels = channels;
    message.time_ms = w->now;
    message.item.sender = span("@bob:gw.example");
    message.item.type = span("m.room.encrypted");
    message.item.user_id = span(user);
    message.item.device_id = span(device);
    message.item.content = *content;
    CHECK(w->queue.begin(w->queue.context, &batch) == MSC4203_OK);
    result = w->queue.push(w->queue.context, batch, &message);
    if (result == MSC4203_OK)
        return w->queue.commit(w->queue.context, batch, NULL, number);
    w->queue.abort(w->queue.context, batch);
    return result;
}

/* Queues messages `from` to `to`, each {"n":N} and `pad` bytes, and flushes. Returns the number of
 * the last. */
static uint64_t put_to(struct world *w, uint32_t channels, const char *user, const char *device,
                       int from, int to, int pad)
{
    static char text[4000];
    uint64_t number = 0;
    msc4203_span content;

    for (; from <= to; from++) {
        sprintf(text, "{\"n\":%d,\"x\":\"%*s\"}", from, pad, "");
        content = span(text);
        CHECK(put_content(w, channels, user, device, &content, &number) == MSC4203_OK);
    }
    flush(w);
    return number;
}

static uint64_t put(struct world *w, int from, int to)
{
    return put_to(w, (uint32_t)1 << w->irc, "@irc_a:gw.example", "DEV", from, to, 0);
}

static int poll_now(struct world *w)
{
    static char memory[MEMORY];
    return msc4203_sender_poll(&w->sender, w->now, memory, w->memory_bytes, &w->transaction,
                               &w->wait);
}

static int answer(struct world *w, int status)
{
    static char memory[MEMORY];
    return msc4203_sender_result(&w->sender, status, w->now, 0x80000000u, memory,
                                 w->memory_bytes);
}

static char body[BODY + 1];

/* Reads the body, in pieces of this size (0: of random sizes), into `body`. */
static int read_body(struct world *w, size_t piece)
{
    static char memory[MEMORY];
    size_t used = 0, got, n;
    int result;

    do {
        n = piece != 0 ? piece : 1 + test_below(300);
        if (n > BODY - used)
            n = BODY - used;
        result = msc4203_sender_read(&w->sender, used, memory, sizeof memory, body + used, n,
                                     &got);
        used += got;
    } while (result == MSC4203_OK && got == n);
    body[used] = 0;
    CHECK(result != MSC4203_OK || used == w->transaction->bytes);
    return result;
}

static const char *body_of(struct world *w, size_t piece)
{
    CHECK(read_body(w, piece) == MSC4203_OK);
    return body;
}

/* The messages of a body, as "1 2 3". */
static const char *numbers_in(const char *json)
{
    static char text[8000], scratch[8192];
    size_t used = 0;
    msc4203_reader reader;
    const msc4203_item *item;
    int result;

    *text = 0;
    msc4203_reader_init(&reader, MSC4203_TRANSACTION, MSC4203_TO_DEVICE, scratch, sizeof scratch);
    CHECK(msc4203_reader_feed(&reader, json, strlen(json), 1) == MSC4203_OK);
    while ((result = msc4203_reader_next(&reader, &item)) == MSC4203_ITEM) {
        CHECK(item->error == 0 && item->content.len > 5);
        used += (size_t)sprintf(text + used, "%s%d", used != 0 ? " " : "",
                                atoi(item->content.ptr + 5));
    }
    CHECK_CASE(result == MSC4203_END, json);
    return text;
}

/* Polls: these messages go out. Returns 0 when they do not. */
static int sends(struct world *w, const char *numbers)
{
    const char *got;

    if (!CHECK(poll_now(w) == MSC4203_REQUEST))
        return 0;
    got = numbers_in(body_of(w, 0));
    return CHECK_CASE(strcmp(got, numbers) == 0, got);
}

static int traced(struct world *w, const char *letters)
{
    int same = strcmp(w->trace, letters) == 0;
    if (!same)
        printf("trace: %s, not %s\n", w->trace, letters);
    *w->trace = 0;
    return same;
}

static msc4203_sender_status status_of(const struct world *w)
{
    msc4203_sender_status status;
    msc4203_sender_status_get(&w->sender, &status);
    return status;
}

/* ---- sender ---- */

static void test_sender_simple(void)
{
    static struct world w;
    msc4203_sender_status status;
    char first[1000];
    uint64_t number;

    world_init(&w, 256 * 1024);
    CHECK(poll_now(&w) == MSC4203_IDLE && w.transaction == NULL);
    CHECK(answer(&w, 200) == MSC4203_E_USAGE);
    CHECK(msc4203_sender_skip(&w.sender) == MSC4203_E_USAGE);
    CHECK(status_of(&w).in_flight == NULL);
    number = put(&w, 1, 1);
    CHECK(poll_now(&w) == MSC4203_REQUEST);
    strcpy(first, body_of(&w, 0));
    CHECK_CASE(strcmp(first, "{\"de.sorunome.msc2409.to_device\":[{\"content\":{\"n\":1,\"x\":"
                      "\"\"},\"sender\":\"@bob:gw.example\",\"to_device_id\":\"DEV\","
                      "\"to_user_id\":\"@irc_a:gw.example\",\"type\":\"m.room.encrypted\"}],"
                      "\"events\":[]}") == 0, first);
    CHECK(strstr(first, "],\"events\":[]}") != NULL);
    CHECK(strncmp(w.transaction->path, "/_matrix/app/v1/transactions/", 29) == 0);
    CHECK(strcmp(w.transaction->path + 29, w.transaction->id) == 0);
    CHECK(strlen(w.transaction->id) == 32);
    CHECK(w.transaction->count == 1 && w.transaction->attempt == 1);
    CHECK(w.transaction->first == number && w.transaction->last == number);
    CHECK(poll_now(&w) == MSC4203_IDLE); /* it is being sent */
    CHECK(msc4203_sender_skip(&w.sender) == MSC4203_E_USAGE);
    CHECK(status_of(&w).in_flight != NULL);
    CHECK(answer(&w, 299) == MSC4203_OK);
    CHECK(poll_now(&w) == MSC4203_IDLE);
    status = status_of(&w);
    CHECK(status.delivered == 1 && status.transactions == 1 && status.failures == 0);
    CHECK(status.bytes == strlen(first) && status.last_status == 299 && status.in_flight == NULL);
    CHECK(traced(&w, "MSD"));
    w.config.flags = MSC4203_STABLE_KEYS;
    CHECK(world_sender(&w) == MSC4203_OK);
    put(&w, 2, 3);
    sends(&w, "2 3");
    CHECK(strncmp(body_of(&w, 0), "{\"to_device\":[", 14) == 0);
    w.config.flags = 0; /* a retry is spelt as the first attempt */
    w.config.trace = NULL;
    world_crash(&w);
    sends(&w, "2 3");
    CHECK(strncmp(body_of(&w, 0), "{\"to_device\":[", 14) == 0);
    world_free(&w);
}

static void test_sender_usage(void)
{
    static struct world w;
    static char memory[MEMORY];
    size_t got;
    uint32_t channel;

    world_init(&w, 256 * 1024);
    channel = w.config.channel;
    w.config.channel = MSC4203_CHANNEL_SYNC;
    CHECK(world_sender(&w) == MSC4203_E_USAGE);
    w.config.channel = MSC4203_CHANNEL_PARKED;
    CHECK(world_sender(&w) == MSC4203_E_USAGE);
    w.config.channel = channel;
    w.config.flags = 0x80;
    CHECK(world_sender(&w) == MSC4203_E_USAGE);
    w.config.flags = 0;
    CHECK(msc4203_sender_init(&w.sender, &w.queue, &w.config, 0, memory, 4671) == MSC4203_E_INDEX);
    CHECK(world_sender(&w) == MSC4203_OK);
    CHECK(msc4203_sender_read(&w.sender, 0, memory, sizeof memory, memory, 1, &got) ==
          MSC4203_E_USAGE && got == 0);
    w.memory_bytes = 4671;
    CHECK(poll_now(&w) == MSC4203_E_INDEX);
    w.memory_bytes = MEMORY;
    put(&w, 1, 1);
    sends(&w, "1");
    CHECK(msc4203_sender_read(&w.sender, 100000, memory, sizeof memory, memory, 1, &got) ==
          MSC4203_OK && got == 0);
    CHECK(msc4203_sender_read(&w.sender, 0, memory, 100, memory, 1, &got) ==
          MSC4203_E_TOO_LARGE); /* too little memory */
    world_free(&w);
}

/* A message that does not fit into the memory stops the sender, and nothing is lost. */
static void test_sender_memory(void)
{
    static struct world w;

    world_init(&w, 256 * 1024);
    put(&w, 1, 2);
    put_to(&w, 2, "@irc_a:gw.example", "DEV", 3, 3, 3000);
    w.memory_bytes = 4672;
    sends(&w, "1 2");
    answer(&w, 200);
    CHECK(poll_now(&w) == MSC4203_E_TOO_LARGE);
    w.memory_bytes = MEMORY;
    sends(&w, "3");
    world_free(&w);
}

/* At most so many messages, and so many bytes, but one message at the least. */
static void test_sender_limits(void)
{
    static struct world w;
    uint64_t whole;

    world_init(&w, 512 * 1024);
    put(&w, 1, 250);
    CHECK(poll_now(&w) == MSC4203_REQUEST && w.transaction->count == 100);
    answer(&w, 200);
    CHECK(poll_now(&w) == MSC4203_REQUEST && w.transaction->count == 100);
    answer(&w, 200);
    CHECK(poll_now(&w) == MSC4203_REQUEST && w.transaction->count == 50);
    answer(&w, 200);
    w.config.messages_max = 3;
    CHECK(world_sender(&w) == MSC4203_OK);
    put(&w, 11, 14);
    sends(&w, "11 12 13");
    whole = w.transaction->bytes;
    answer(&w, 200);
    sends(&w, "14");
    answer(&w, 200);
    w.config.bytes_max = (uint32_t)whole;
    CHECK(world_sender(&w) == MSC4203_OK);
    put(&w, 21, 23);
    sends(&w, "21 22 23");
    answer(&w, 200);
    w.config.bytes_max--;
    CHECK(world_sender(&w) == MSC4203_OK);
    put(&w, 31, 33);
    sends(&w, "31 32");
    answer(&w, 200);
    sends(&w, "33");
    answer(&w, 200);
    w.config.bytes_max = 1;
    CHECK(world_sender(&w) == MSC4203_OK);
    put(&w, 41, 42);
    sends(&w, "41");
    answer(&w, 200);
    sends(&w, "42");
    world_free(&w);
}

/* The body is the same at any offset, in pieces of any size. */
static void test_sender_body(unsigned long times)
{
    static struct world w;
    static char whole[BODY + 1], memory[MEMORY], piece[BODY];
    size_t at, n, got, bytes, size;

    world_init(&w, 256 * 1024);
    w.config.siblings = siblings;
    for (w.sibling = 0; w.sibling < 7; w.sibling++) {
        if (w.sibling == 0)
            w.config.siblings = NULL;
        CHECK(world_sender(&w) == MSC4203_OK);
        w.config.siblings = siblings;
        put_to(&w, 2, "@irc_a:gw.example", "DEV", 1, 7, (int)test_below(200));
        sends(&w, "1 2 3 4 5 6 7");
        strcpy(whole, body_of(&w, 1));
        bytes = strlen(whole);
        for (size = 2; size < bytes + 2; size += 1 + test_below(40))
            CHECK(strcmp(body_of(&w, size), whole) == 0);
        for (n = 0; n < times; n++) {
            at = test_below(bytes + 3);
            size = 1 + test_below(test_below(2) ? bytes : 8);
            CHECK(msc4203_sender_read(&w.sender, at, memory, sizeof memory, piece, size, &got) ==
                  MSC4203_OK);
            CHECK(got == (at >= bytes ? 0 : bytes - at < size ? bytes - at : size));
            CHECK(at >= bytes || memcmp(piece, whole + at, got) == 0);
        }
        CHECK((strstr(whole, "device_lists") != NULL) == (w.sibling == 1 || w.sibling == 5));
        answer(&w, 500);
        world_crash(&w); /* the siblings are kept */
        w.now += 1000;
        CHECK(poll_now(&w) == MSC4203_REQUEST);
        CHECK(strcmp(body_of(&w, 0), whole) == 0);
        CHECK(answer(&w, 200) == MSC4203_OK);
        flush(&w);
    }
    CHECK(w.asked == 6 * 7);
    world_free(&w);
}

/* A retry is the same, byte for byte, whatever happened in between. */
static void test_sender_retry(int rounds)
{
    static struct world w;
    static char whole[BODY + 1], id[48], ids[400][48];
    msc4203_device device = device_of("@irc_a:gw.example", "DEV");
    msc4203_device other = device_of("@alice:gw.example", "PHONE");
    msc4203_sync sync;
    msc4203_message message;
    char memory[4096];
    size_t count = 0, i;
    int round, tries;

    world_init(&w, 256 * 1024);
    for (round = 0; round < rounds && test_failed == 0; round++) {
        uint32_t both = (uint32_t)1 << w.irc | sync_bit;
        uint64_t last = put(&w, 1, 2);
        put_to(&w, both, "@alice:gw.example", "PHONE", 3, 4, 10);
        put_to(&w, (uint32_t)1 << w.irc | (uint32_t)1 << w.xmpp, "@irc_a:gw.example", "DEV", 5, 6,
               20);
        sends(&w, "1 2 3 4 5 6");
        strcpy(whole, body_of(&w, 0));
        strcpy(id, w.transaction->id);
        for (i = 0; i < count; i++)
            CHECK(strcmp(ids[i], id) != 0);
        strcpy(ids[count++ % 400], id);
        for (tries = 0; tries < 12; tries++) {
            switch (test_below(7)) {
            case 0:
                put(&w, 90, 91);
                break;
            case 1:
                CHECK(w.queue.drop(w.queue.context, &device, NULL) == MSC4203_OK);
                break;
            case 2: /* all of /sync, acknowledged */
                CHECK(msc4203_sync_begin(&sync, &w.queue, &other, NULL) == MSC4203_OK);
                while (msc4203_sync_next(&sync, memory, sizeof memory, &message) == MSC4203_ITEM)
                    ;
                msc4203_sync_token(&sync, memory);
                other = device_of("@alice:gw.example", "PHONE");
                {
                    msc4203_span since = span(memory);
                    CHECK(msc4203_sync_begin(&sync, &w.queue, &other, &since) == MSC4203_OK);
                }
                break;
            case 3:
                w.queue.move(w.queue.context, w.xmpp, NULL, last + 3 + test_below(2), sync_bit,
                             NULL);
                break;
            case 4:
                answer(&w, 502);
                w.now += 600000;
                CHECK(poll_now(&w) == MSC4203_REQUEST);
                break;
            case 5:
                if (test_below(2))
                    flush(&w);
                world_crash(&w);
                CHECK(poll_now(&w) == MSC4203_REQUEST);
                break;
            default:
                if (test_below(2))
                    flush(&w);
                CHECK(w.queue.drop(w.queue.context, &other, NULL) == MSC4203_OK);
            }
            CHECK(w.transaction != NULL && strcmp(w.transaction->id, id) == 0);
            CHECK(strcmp(body_of(&w, 0), whole) == 0);
        }
        CHECK(answer(&w, 200) == MSC4203_OK);
        flush(&w);
        CHECK(w.queue.done(w.queue.context, w.irc, NULL, UINT64_MAX, NULL) == MSC4203_OK);
        CHECK(w.queue.done(w.queue.context, w.xmpp, NULL, UINT64_MAX, NULL) == MSC4203_OK);
        CHECK(w.queue.drop(w.queue.context, &device, NULL) == MSC4203_OK);
        CHECK(w.queue.drop(w.queue.context, &other, NULL) == MSC4203_OK);
    }
    world_free(&w);
}

/* 1 s, 2 s, 4 s ... 512 s, of which the upper half is left to chance. */
static void test_sender_waits(void)
{
    static struct world w;
    char memory[MEMORY];
    uint64_t most = 1000, made;
    int i;

    world_init(&w, 128 * 1024);
    put(&w, 1, 1);
    made = w.now;
    CHECK(poll_now(&w) == MSC4203_REQUEST);
    for (i = 0; i < 13; i++) {
        uint32_t random = i % 3 == 0 ? 0 : i % 3 == 1 ? 0xFFFFFFFFu : 0x80000000u;
        uint64_t want = i % 3 == 0 ? most / 2 : i % 3 == 1 ? most : most * 3 / 4;

        CHECK(w.transaction != NULL && w.transaction->attempt == (uint32_t)i + 1);
        CHECK(msc4203_sender_result(&w.sender, i % 2 ? 500 : 0, w.now, random, memory,
                                    sizeof memory) == MSC4203_OK);
        CHECK(status_of(&w).failing_since_ms == made);
        CHECK(status_of(&w).attempts == (uint32_t)i + 1);
        CHECK(poll_now(&w) == MSC4203_WAIT && w.wait == want);
        w.now += want - 1;
        CHECK(poll_now(&w) == MSC4203_WAIT && w.wait == 1);
        w.now++;
        CHECK(poll_now(&w) == MSC4203_REQUEST);
        most = most == 512000 ? most : 2 * most;
    }
    answer(&w, 500);
    w.now -= 86400000; /* set back: waits anew */
    CHECK(poll_now(&w) == MSC4203_WAIT && w.wait == 384000);
    w.now += 383999;
    CHECK(poll_now(&w) == MSC4203_WAIT && w.wait == 1);
    w.now += UINT64_C(1) << 40; /* forward: over */
    CHECK(poll_now(&w) == MSC4203_REQUEST);
    msc4203_sender_wake(&w.sender); /* nothing to wake */
    CHECK(poll_now(&w) == MSC4203_IDLE);
    answer(&w, 500);
    msc4203_sender_wake(&w.sender);
    CHECK(poll_now(&w) == MSC4203_REQUEST);
    CHECK(status_of(&w).failures == 15 && status_of(&w).last_status == 500);
    flush(&w);
    world_crash(&w); /* when it was made is known over a restart */
    CHECK(poll_now(&w) == MSC4203_REQUEST);
    answer(&w, 401);
    CHECK(status_of(&w).failing_since_ms == made);
    w.now += 1000;
    CHECK(poll_now(&w) == MSC4203_REQUEST);
    answer(&w, 200);
    CHECK(status_of(&w).failing_since_ms == 0 && status_of(&w).attempts == 0);
    w.config.retry_ms_min = 10;
    w.config.retry_ms_max = 15;
    CHECK(world_sender(&w) == MSC4203_OK);
    put(&w, 2, 2);
    for (i = 0; i < 4; i++) {
        CHECK(poll_now(&w) == MSC4203_REQUEST);
        answer(&w, 429);
        CHECK(poll_now(&w) == MSC4203_WAIT && w.wait <= (i == 0 ? 10 : 15) && w.wait >= 5);
        w.now += 15;
    }
    world_free(&w);
}

/* Whatever is neither 2xx, 404, 405 nor 413 has failed, and is tried again under the same id. */
static void test_sender_statuses(void)
{
    static const int failed[] = {0, 100, 199, 300, 301, 400, 401, 403, 409, 429, 500, 502, 503,
                                 504, 599, 999, -1};
    static struct world w;
    char id[48];
    size_t i;

    world_init(&w, 128 * 1024);
    w.config.trace = NULL;
    CHECK(world_sender(&w) == MSC4203_OK);
    put(&w, 1, 2);
    sends(&w, "1 2");
    strcpy(id, w.transaction->id);
    for (i = 0; i < sizeof failed / sizeof *failed; i++) {
        CHECK(answer(&w, failed[i]) == MSC4203_OK);
        CHECK(poll_now(&w) == MSC4203_WAIT);
        w.now += 512000;
        sends(&w, "1 2");
        CHECK(strcmp(w.transaction->id, id) == 0);
    }
    for (i = 200; i < 300; i += 33) {
        CHECK(answer(&w, (int)i) == MSC4203_OK);
        CHECK(poll_now(&w) == MSC4203_IDLE);
        put(&w, 3, 3);
        sends(&w, "3");
    }
    world_free(&w);
}

static int is_legacy(const struct world *w)
{
    return w->transaction != NULL && strncmp(w->transaction->path, "/transactions/", 14) == 0 &&
           strcmp(w->transaction->path + 14, w->transaction->id) == 0;
}

/* 404 and 405: at once the other path, for an hour. */
static void test_sender_legacy(void)
{
    static struct world w;
    char id[48];
    int i;

    for (i = 404; i <= 405; i++) {
        world_init(&w, 128 * 1024);
        put(&w, 1, 1);
        sends(&w, "1");
        CHECK(!is_legacy(&w));
        strcpy(id, w.transaction->id);
        CHECK(answer(&w, i) == MSC4203_OK);
        sends(&w, "1");
        CHECK(is_legacy(&w) && strcmp(w.transaction->id, id) == 0);
        CHECK(status_of(&w).failures == 0);
        answer(&w, 200);
        CHECK(traced(&w, "MSLSD"));
        w.now += 3599999;
        put(&w, 2, 2);
        sends(&w, "2");
        CHECK(is_legacy(&w));
        answer(&w, 500); /* fails there: waits, and stays there while the hour lasts */
        CHECK(poll_now(&w) == MSC4203_WAIT);
        w.now += 1000; /* which is over */
        sends(&w, "2");
        CHECK(!is_legacy(&w));
        answer(&w, i);
        sends(&w, "2");
        CHECK(is_legacy(&w));
        answer(&w, 404); /* neither: it has failed, and begins again with the new one */
        CHECK(status_of(&w).failures == 2);
        CHECK(poll_now(&w) == MSC4203_WAIT);
        w.now += 2000;
        sends(&w, "2");
        CHECK(!is_legacy(&w));
        answer(&w, 404);
        sends(&w, "2");
        CHECK(is_legacy(&w));
        answer(&w, 405);
        w.now -= 10000000; /* the clock is set back */
        CHECK(poll_now(&w) == MSC4203_WAIT);
        w.now += 4000;
        sends(&w, "2");
        answer(&w, 404);
        w.now -= 10000000;
        sends(&w, "2"); /* as if the hour were over */
        CHECK(!is_legacy(&w));
        world_free(&w);
    }
}

/* What is parked, as "1 2", and the record that says whose it is (in lines, if not NULL). */
static const char *parked(struct world *w, char *lines)
{
    static char text[1000], memory[MEMORY];
    msc4203_message message;
    msc4203_span record;
    uint64_t after = 0;

    *text = 0;
    if (lines != NULL)
        *lines = 0;
    while (w->queue.next(w->queue.context, MSC4203_CHANNEL_PARKED, NULL, after, memory,
                         sizeof memory, &message) == MSC4203_ITEM) {
        after = message.number;
        sprintf(text + strlen(text), "%s%d", *text ? " " : "",
                message.item.content.len > 5 ? atoi(message.item.content.ptr + 5) : -1);
        if (lines != NULL)
            sprintf(lines + strlen(lines), "%012lx irc\n", (unsigned long)after);
    }
    if (lines == NULL)
        return text;
    if (w->queue.record(w->queue.context, MSC4203_CHANNEL_PARKED, memory, sizeof memory, NULL,
                        &record) == MSC4203_OK)
        CHECK_CASE(record.len == strlen(lines) && memcmp(record.ptr, lines, record.len) == 0,
                   lines);
    else
        CHECK(*lines == 0);
    return text;
}

/* 413: in halves, under other ids, down to a single message, which is parked. */
static void test_sender_split(void)
{
    static struct world w;
    char id[48], lines[1000];
    int i;

    world_init(&w, 256 * 1024);
    put(&w, 1, 5);
    sends(&w, "1 2 3 4 5");
    strcpy(id, w.transaction->id);
    CHECK(answer(&w, 413) == MSC4203_OK);
    world_crash(&w); /* not flushed: as it was, or as it is */
    CHECK(poll_now(&w) == MSC4203_REQUEST);
    if (w.transaction->count == 5)
        answer(&w, 413);
    else
        answer(&w, 500), msc4203_sender_wake(&w.sender);
    *w.trace = 0;
    for (i = 1; i <= 5; i++) {
        char one[8];
        const char *got;

        sprintf(one, "%d", i);
        CHECK(poll_now(&w) == MSC4203_REQUEST);
        got = numbers_in(body_of(&w, 0));
        if (i == 1) { /* two of five at most, now one */
            CHECK_CASE(strcmp(got, "1") == 0 || strcmp(got, "1 2") == 0, got);
            CHECK(strcmp(w.transaction->id, id) != 0);
            if (strcmp(got, "1") != 0) {
                answer(&w, 413);
                CHECK(poll_now(&w) == MSC4203_REQUEST);
                got = numbers_in(body_of(&w, 0));
            }
        }
        CHECK_CASE(strcmp(got, one) == 0, got);
        CHECK(answer(&w, i == 2 || i == 4 ? 413 : 200) == MSC4203_OK);
        if (i == 2) {
            flush(&w);
            world_crash(&w); /* stays small over a restart */
        }
    }
    flush(&w);
    CHECK(poll_now(&w) == MSC4203_IDLE);
    CHECK_CASE(strcmp(parked(&w, lines), "2 4") == 0, parked(&w, lines));
    CHECK(status_of(&w).parked == 1); /* since the restart */
    CHECK(status_of(&w).delivered == 2);
    put(&w, 11, 200); /* one by one at first; sixteen that arrive double it */
    for (i = 0; poll_now(&w) == MSC4203_REQUEST && i < 300; i++) {
        CHECK(w.transaction->count <= 1u + (unsigned)i / 4);
        answer(&w, 204);
    }
    CHECK(i > 30 && i < 120);
    world_free(&w);
}

/* The bytes are halved too. */
static void test_sender_split_bytes(void)
{
    static struct world w;
    uint64_t bytes;

    world_init(&w, 256 * 1024);
    put_to(&w, 2, "@irc_a:gw.example", "DEV", 1, 4, 2000);
    sends(&w, "1 2 3 4");
    bytes = w.transaction->bytes;
    answer(&w, 413);
    CHECK(poll_now(&w) == MSC4203_REQUEST && w.transaction->bytes <= bytes / 2 + 1);
    world_free(&w);
}

/* The record that tells whose the parked ones are keeps the last lines. */
static void test_sender_parks_many(void)
{
    static struct world w;
    static char memory[MEMORY];
    msc4203_span record;
    msc4203_counts counts;
    int i;

    world_init(&w, 512 * 1024);
    put(&w, 1, 1);
    sends(&w, "1");
    for (i = 2; i < 400; i++) {
        CHECK(answer(&w, 413) == MSC4203_OK);
        put(&w, i, i);
        CHECK(poll_now(&w) == MSC4203_REQUEST);
    }
    CHECK(w.queue.record(w.queue.context, MSC4203_CHANNEL_PARKED, memory, sizeof memory, NULL,
                         &record) == MSC4203_OK);
    CHECK(record.len > 1900 && record.len <= 4096 && record.len % 17 == 0);
    CHECK(record.ptr[record.len - 1] == '\n');
    CHECK(w.queue.count(w.queue.context, MSC4203_CHANNEL_PARKED, NULL, &counts) == MSC4203_OK);
    CHECK(counts.messages == 398 && status_of(&w).parked == 398);
    /* What else may be in that record: no line at all. */
    memset(memory, 'x', 4096);
    record.ptr = memory;
    record.len = 4096;
    CHECK(w.queue.hold(w.queue.context, MSC4203_CHANNEL_PARKED, 0, &record) == MSC4203_OK);
    CHECK(answer(&w, 413) == MSC4203_OK);
    CHECK(w.queue.record(w.queue.context, MSC4203_CHANNEL_PARKED, memory, sizeof memory, NULL,
                         &record) == MSC4203_OK);
    CHECK(record.len == 17);
    world_free(&w);
}

/* A content that no appservice could read never goes out. */
static void test_sender_unwritable(void)
{
    static struct world w;
    static const char *const contents[] = {"[]", "{\"a\":\"\\ud800\"}", "{\"a\":1e400}", "{", "{}x",
                                           "{\"a\":\"\xFF\"}"};
    char lines[1000];
    size_t i;

    world_init(&w, 256 * 1024);
    for (i = 0; i < sizeof contents / sizeof *contents; i++) {
        msc4203_span content = span(contents[i]);
        uint64_t number;
        if (i % 2)
            put(&w, (int)i, (int)i);
        CHECK(put_content(&w, 2, "@irc_a:gw.example", "DEV", &content, &number) == MSC4203_OK);
    }
    flush(&w);
    sends(&w, "1 3 5");
    CHECK(traced(&w, "PPPPPPMS"));
    answer(&w, 200);
    flush(&w);
    parked(&w, lines);
    CHECK(strlen(lines) == 6 * 17 && status_of(&w).parked == 6);
    CHECK(status_of(&w).delivered == 3);
    world_free(&w);
}

/* Finds the bytes of a text in the storage, and damages them. */
static void damage(struct world *w, const char *text)
{
    size_t i, n = strlen(text), found = 0;

    for (i = 0; i + n <= w->fake.bytes; i++)
        if (memcmp(w->fake.seen + i, text, n) == 0) {
            w->fake.seen[i] ^= 1;
            w->fake.durable[i] ^= 1;
            found++;
        }
    CHECK(found != 0);
}

static void test_sender_damaged(void)
{
    static struct world w;
    static char memory[MEMORY];
    char id[48], byte;
    size_t got;
    int result, i;

    world_init(&w, 256 * 1024);
    put(&w, 1, 6); /* before it was sent: in the middle, at the beginning */
    damage(&w, "\"n\":1,");
    damage(&w, "\"n\":4,");
    sends(&w, "2 3");
    CHECK(answer(&w, 200) == MSC4203_OK);
    sends(&w, "5 6");
    CHECK(status_of(&w).damaged == 2);
    CHECK(answer(&w, 200) == MSC4203_OK);
    put(&w, 11, 13);
    sends(&w, "11 12 13"); /* in flight: what is left goes out under another id */
    strcpy(id, w.transaction->id);
    damage(&w, "\"n\":12,");
    CHECK(answer(&w, 500) == MSC4203_OK);
    msc4203_sender_wake(&w.sender);
    CHECK(poll_now(&w) == MSC4203_REQUEST && strcmp(id, w.transaction->id) == 0);
    for (i = 0, result = MSC4203_OK; result == MSC4203_OK && i < 1000; i++)
        result = msc4203_sender_read(&w.sender, (uint64_t)i, memory, sizeof memory, &byte, 1, &got);
    CHECK(result == MSC4203_E_DAMAGED);
    *w.trace = 0;
    CHECK(answer(&w, 0) == MSC4203_OK);
    CHECK(traced(&w, "FB"));
    sends(&w, "11");
    CHECK(strcmp(id, w.transaction->id) != 0);
    CHECK(answer(&w, 200) == MSC4203_OK);
    sends(&w, "13");
    CHECK(answer(&w, 200) == MSC4203_OK);
    CHECK(poll_now(&w) == MSC4203_IDLE);
    CHECK(status_of(&w).damaged == 3);
    put(&w, 21, 21); /* the only one is damaged */
    world_crash(&w); /* what was written last is still in memory */
    damage(&w, "\"n\":21,");
    CHECK(poll_now(&w) == MSC4203_IDLE);
    world_crash(&w);
    CHECK(poll_now(&w) == MSC4203_IDLE);
    world_free(&w);
}

/* A message that was parked, when the power goes before it is said to be. */
static void test_sender_park_crash(int more)
{
    static struct world w;
    static unsigned char before[256 * 1024];
    unsigned long calls;
    int again, done;

    world_init(&w, sizeof before);
    put(&w, 1, 1);
    sends(&w, "1");
    put(&w, 2, more);
    answer(&w, 500);
    flush(&w);
    memcpy(before, w.fake.durable, sizeof before);
    for (calls = 1, done = 0; !done && calls < 100 && test_failed == 0; calls++) {
        fake_restore(&w.fake, before);
        world_crash(&w);
        sends(&w, "1");
        w.fake.fail_at = w.fake.calls + calls;
        w.fake.after = (int)(calls % FAKE_WHENS);
        done = answer(&w, 413) == MSC4203_OK && w.queue.flush(w.queue.context) == MSC4203_OK;
        world_crash(&w);
        for (again = 0; poll_now(&w) == MSC4203_REQUEST && again < 3; again++) {
            if (strcmp(numbers_in(body_of(&w, 0)), "1") != 0)
                break;
            CHECK(answer(&w, 413) == MSC4203_OK);
        }
        CHECK(more == 1 || strcmp(numbers_in(body), "2") == 0);
        CHECK(again < 2);
        flush(&w);
        CHECK(strcmp(parked(&w, NULL), "1") == 0); /* a crash may lose whose it was */
    }
    CHECK(done);
    world_free(&w);
}

/* A crash when the message is aside and the record still tells of its transaction. */
static void test_sender_park_half(int more)
{
    static struct world w;
    uint64_t number;

    world_init(&w, 256 * 1024);
    number = put(&w, 1, 1);
    sends(&w, "1");
    put(&w, 2, more);
    CHECK(w.queue.move(w.queue.context, w.irc, NULL, number,
                       (uint32_t)1 << MSC4203_CHANNEL_PARKED, NULL) == MSC4203_OK);
    flush(&w);
    world_crash(&w);
    if (more == 1)
        CHECK(poll_now(&w) == MSC4203_IDLE);
    else
        sends(&w, "2");
    world_free(&w);
}

/* What the queue could not do changes nothing: the next attempt is under the same id. */
static void test_sender_storage(void)
{
    static struct world w;
    char id[48];
    int i;

    for (i = 0; i < 3; i++) {
        static const int statuses[] = {200, 413, 413};
        world_init(&w, 128 * 1024);
        put(&w, 1, i == 2 ? 1 : 2);
        CHECK(poll_now(&w) == MSC4203_REQUEST);
        strcpy(id, w.transaction->id);
        w.fake.fail_at = w.fake.calls + 1;
        if (answer(&w, statuses[i]) == MSC4203_E_STORAGE) {
            CHECK(strcmp(w.transaction->id, id) == 0 && poll_now(&w) == MSC4203_IDLE);
            CHECK(status_of(&w).in_flight != NULL);
        } else {
            CHECK(w.queue.flush(w.queue.context) == MSC4203_E_STORAGE);
        }
        world_crash(&w);
        sends(&w, i == 2 ? "1" : "1 2");
        CHECK(strcmp(w.transaction->id, id) == 0);
        world_free(&w);
    }
}

/* Each call of the queue fails once, whatever the sender does. */
struct failing {
    msc4203_queue real;
    int at, result, calls;
};

#define FAILS(f)                                                                                 \
    do {                                                                                         \
        if (++(f)->calls == (f)->at)                                                             \
            return (f)->result;                                                                  \
    } while (0)

static int fail_flush(void *context)
{
    struct failing *f = (struct failing *)context;
    FAILS(f);
    return f->real.flush(f->real.context);
}

static int fail_next(void *context, uint32_t channel, const msc4203_device *device,
                     uint64_t after, void *memory, size_t bytes, msc4203_message *message)
{
    struct failing *f = (struct failing *)context;
    memset(message, 0, sizeof *message);
    FAILS(f);
    return f->real.next(f->real.context, channel, device, after, memory, bytes, message);
}

static int fail_done(void *context, uint32_t channel, const msc4203_device *device,
                     uint64_t through, const msc4203_span *record)
{
    struct failing *f = (struct failing *)context;
    FAILS(f);
    return f->real.done(f->real.context, channel, device, through, record);
}

static int fail_hold(void *context, uint32_t channel, uint64_t through, const msc4203_span *record)
{
    struct failing *f = (struct failing *)context;
    FAILS(f);
    return f->real.hold(f->real.context, channel, through, record);
}

static int fail_move(void *context, uint32_t channel, const msc4203_device *device,
                     uint64_t number, uint32_t channels, uint64_t *moved)
{
    struct failing *f = (struct failing *)context;
    FAILS(f);
    return f->real.move(f->real.context, channel, device, number, channels, moved);
}

static int fail_record(void *context, uint32_t channel, void *memory, size_t bytes,
                       msc4203_span *name, msc4203_span *record)
{
    struct failing *f = (struct failing *)context;
    FAILS(f);
    return f->real.record(f->real.context, channel, memory, bytes, name, record);
}

static int fail_opening(void *context, uint32_t back, uint64_t *random, uint64_t *first)
{
    struct failing *f = (struct failing *)context;
    FAILS(f);
    return f->real.opening(f->real.context, back, random, first);
}

static int fail_count(void *context, uint32_t channel, const msc4203_device *device,
                      msc4203_counts *counts)
{
    struct failing *f = (struct failing *)context;
    FAILS(f);
    return f->real.count(f->real.context, channel, device, counts);
}

static int fail_expire(void *context, uint64_t before_ms, uint64_t *expired)
{
    struct failing *f = (struct failing *)context;
    FAILS(f);
    return f->real.expire(f->real.context, before_ms, expired);
}

static void failing_init(struct failing *f, struct world *w, int at, int result)
{
    f->real = w->queue;
    f->at = at;
    f->result = result;
    f->calls = 0;
    w->queue.context = f;
    w->queue.flush = fail_flush;
    w->queue.next = fail_next;
    w->queue.done = fail_done;
    w->queue.hold = fail_hold;
    w->queue.move = fail_move;
    w->queue.record = fail_record;
    w->queue.opening = fail_opening;
    w->queue.count = fail_count;
    w->queue.expire = fail_expire;
}

/* A queue of which one call fails, and then works: of eight messages, one that is unwritable, one
 * that is damaged, and one that is refused even alone, the others arrive once each, whichever call
 * it was. */
static void test_sender_faults(void)
{
    static const int results[] = {MSC4203_E_STORAGE, MSC4203_E_QUEUE_FULL, MSC4203_E_DAMAGED,
                                  MSC4203_E_TOO_LARGE};
    static struct world w;
    static struct failing f;
    char last_id[48];
    msc4203_span bad = span("[]");
    uint64_t number;
    size_t i;
    int at, met = 1;

    for (i = 0; i < 4; i++)
        for (at = 1, met = 1; met && at < 900 && test_failed == 0; at++) {
            int seen[7] = {0, 0, 0, 0, 0, 0, 0}, rounds, result;

            world_init(&w, 128 * 1024);
            put(&w, 1, 2);
            CHECK(put_content(&w, 2, "@irc_a:gw.example", "DEV", &bad, &number) == MSC4203_OK);
            put(&w, 3, 6);
            damage(&w, "\"n\":6,");
            failing_init(&f, &w, at, results[i]);
            while (world_sender(&w) != MSC4203_OK)
                CHECK(f.calls == at);
            *last_id = 0;
            for (rounds = 0; rounds < 40; rounds++) {
                int status = 200;
                const char *n;

                result = poll_now(&w);
                if (result == MSC4203_IDLE && f.calls != at)
                    break;
                if (result == MSC4203_WAIT)
                    w.now += 512000;
                if (result != MSC4203_REQUEST)
                    continue;
                if (read_body(&w, 3000) != MSC4203_OK)
                    status = 0;
                else if (w.transaction->count > 2 || strstr(body, "\"n\":4,") != NULL)
                    status = 413;
                else if (strcmp(last_id, w.transaction->id) != 0)
                    for (n = numbers_in(body); *n != 0; n++)
                        if (*n >= '1' && *n <= '6')
                            seen[*n - '0']++;
                if (status == 200)
                    strcpy(last_id, w.transaction->id);
                while ((result = answer(&w, status)) == MSC4203_E_STORAGE)
                    ;
                if (result != MSC4203_OK && w.sender.priv.state == 2)
                    answer(&w, 500);
            }
            met = f.calls >= at;
            f.at = 0;
            CHECK(rounds < 40);
            for (rounds = 1; rounds <= 6; rounds++)
                if (rounds == 4 || rounds == 6)
                    CHECK(seen[rounds] == 0);
                else if (results[i] != MSC4203_E_DAMAGED)
                    CHECK(seen[rounds] == 1);
                else
                    CHECK(seen[rounds] <= 2);
            if (results[i] != MSC4203_E_DAMAGED)
                CHECK_CASE(strcmp(parked(&w, NULL), "-1 4") == 0, parked(&w, NULL));
            world_free(&w);
        }
    CHECK(!met);
}

/* A full queue delivers, and so gets room. */
static void test_sender_full(void)
{
    static struct world w;
    static char text[3000];
    msc4203_span content;
    uint64_t number;
    int result, n = 0, delivered = 0, i;

    world_init(&w, 128 * 1024);
    memset(text, 'x', sizeof text);
    memcpy(text, "{\"n\":1,\"x\":\"", 12);
    for (i = 0; i < 3; i++) {
        content.ptr = text;
        content.len = 2000u >> i;
        text[content.len - 2] = '"';
        text[content.len - 1] = '}';
        while ((result = put_content(&w, 2, "@irc_a:gw.example", "DEV", &content, &number)) ==
               MSC4203_OK)
            n++;
        CHECK(result == MSC4203_E_QUEUE_FULL);
        text[content.len - 2] = text[content.len - 1] = 'x';
    }
    flush(&w);
    CHECK(poll_now(&w) == MSC4203_REQUEST);
    answer(&w, 413);
    while (poll_now(&w) == MSC4203_REQUEST && delivered < 1000) {
        delivered += (int)w.transaction->count;
        CHECK(answer(&w, 200) == MSC4203_OK);
    }
    if (!CHECK(delivered == n && n > 10))
        printf("%d of %d\n", delivered, n);
    CHECK(put_content(&w, 2, "@irc_a:gw.example", "DEV", &content, &number) == MSC4203_OK);
    world_free(&w);
}

/* A message that is refused waits until there is room to park it. */
static void test_sender_full_parks(void)
{
    static struct world w;
    static char text[3000];
    msc4203_span content;
    uint64_t number;
    int result, waits = 0, parks = 0, i;

    world_init(&w, 64 * 1024);
    memset(text, 'x', sizeof text);
    memcpy(text, "{\"n\":1,\"x\":\"", 12);
    for (i = 0; i < 4; i++) { /* each waits for two: moving it takes room */
        content.ptr = text;
        content.len = 2000u >> i;
        text[content.len - 2] = '"';
        text[content.len - 1] = '}';
        while ((result = put_content(&w, 6, "@irc_a:gw.example", "DEV", &content, &number)) ==
               MSC4203_OK)
            ;
        CHECK(result == MSC4203_E_QUEUE_FULL);
        text[content.len - 2] = text[content.len - 1] = 'x';
    }
    flush(&w);
    for (i = 0; i < 1000 && !parks; i++) {
        result = poll_now(&w);
        if (result == MSC4203_WAIT) {
            waits++;
            w.now += w.wait;
            if (waits == 5) /* the other one takes its own */
                CHECK(w.queue.done(w.queue.context, w.xmpp, NULL, UINT64_MAX, NULL) == MSC4203_OK);
        } else if (CHECK(result == MSC4203_REQUEST)) {
            CHECK(answer(&w, 413) == MSC4203_OK);
        }
        parks = status_of(&w).parked != 0;
    }
    CHECK(waits == 5 && parks);
    flush(&w);
    CHECK(strcmp(parked(&w, NULL), "1") == 0);
    world_free(&w);
}

static void test_sender_two(void)
{
    static struct world w;
    static msc4203_sender other;
    static char memory[MEMORY];
    const msc4203_transaction *transaction;
    msc4203_sender_config config;
    uint64_t wait;
    char other_body[1000];
    size_t got;

    world_init(&w, 128 * 1024);
    config = w.config;
    config.channel = w.xmpp;
    CHECK(msc4203_sender_init(&other, &w.queue, &config, w.now, memory, sizeof memory) ==
          MSC4203_OK);
    put_to(&w, 6, "@irc_a:gw.example", "DEV", 1, 2, 0);
    put(&w, 3, 3);
    sends(&w, "1 2 3");
    CHECK(msc4203_sender_poll(&other, w.now, memory, sizeof memory, &transaction, &wait) ==
          MSC4203_REQUEST);
    CHECK(transaction->count == 2);
    answer(&w, 413);
    CHECK(msc4203_sender_read(&other, 0, memory, sizeof memory, other_body, sizeof other_body,
                              &got) == MSC4203_OK && got == transaction->bytes);
    other_body[got] = 0;
    CHECK(strcmp(numbers_in(other_body), "1 2") == 0);
    CHECK(msc4203_sender_result(&other, 200, w.now, 0, memory, sizeof memory) == MSC4203_OK);
    sends(&w, "1");
    answer(&w, 413);
    CHECK(msc4203_sender_poll(&other, w.now, memory, sizeof memory, &transaction, &wait) ==
          MSC4203_IDLE);
    sends(&w, "2");
    world_free(&w);
}

static void test_sender_skip(void)
{
    static struct world w;

    world_init(&w, 128 * 1024);
    put(&w, 1, 2);
    sends(&w, "1 2");
    answer(&w, 500);
    put(&w, 3, 3);
    CHECK(msc4203_sender_skip(&w.sender) == MSC4203_OK);
    CHECK(status_of(&w).delivered == 0 && status_of(&w).attempts == 0);
    sends(&w, "3");
    CHECK(traced(&w, "MSFXMS"));
    flush(&w);
    world_crash(&w);
    w.fake.fail_at = w.fake.calls + 1;
    (void)msc4203_sender_skip(&w.sender); /* not flushed: the crash brings it back */
    world_crash(&w);
    sends(&w, "3");
    world_free(&w);
}

/* A record that is none of ours: as if there were none. */
static void test_sender_record(void)
{
    static struct world w;
    msc4203_span record = span("?");
    static char other[100];

    world_init(&w, 128 * 1024);
    put(&w, 1, 1);
    CHECK(w.queue.hold(w.queue.context, w.irc, 0, &record) == MSC4203_OK);
    CHECK(world_sender(&w) == MSC4203_OK);
    other[0] = 9; /* of a later version */
    record.ptr = other;
    record.len = sizeof other;
    CHECK(w.queue.hold(w.queue.context, w.irc, 0, &record) == MSC4203_OK);
    CHECK(world_sender(&w) == MSC4203_OK);
    sends(&w, "1");
    CHECK(w.queue.hold(w.queue.context, w.irc, 0, &record) == MSC4203_OK); /* someone meddles */
    CHECK(read_body(&w, 1000) == MSC4203_E_DAMAGED);
    CHECK(answer(&w, 0) == MSC4203_OK);
    sends(&w, "1");
    world_free(&w);
}

/* Somebody takes out of the queue what is in flight: that is noticed, and cut anew. */
static void test_sender_meddled(void)
{
    static struct world w;
    uint64_t last;
    int i;

    for (i = 0; i < 3; i++) {
        world_init(&w, 128 * 1024);
        last = put(&w, 1, 3);
        sends(&w, "1 2 3");
        if (i == 1)
            put(&w, 4, 4);
        CHECK(w.queue.move(w.queue.context, w.irc, NULL, i == 0 ? last - 2 : last, sync_bit,
                           NULL) == MSC4203_OK);
        CHECK(read_body(&w, 1000) == MSC4203_E_DAMAGED);
        CHECK(answer(&w, 0) == MSC4203_OK);
        sends(&w, i == 0 ? "2 3" : i == 1 ? "1 2 4" : "1 2");
        world_free(&w);
    }
}

/* A channel without a name. */
static void test_sender_nameless(void)
{
    static struct world w;
    msc4203_span bad = span("[]");
    uint64_t number;

    world_init(&w, 128 * 1024);
    w.config.channel = 29;
    CHECK(world_sender(&w) == MSC4203_OK);
    CHECK(put_content(&w, (uint32_t)1 << 29, "@irc_a:gw.example", "DEV", &bad, &number) ==
          MSC4203_OK);
    put_to(&w, (uint32_t)1 << 29, "@irc_a:gw.example", "DEV", 1, 1, 0);
    sends(&w, "1");
    CHECK(answer(&w, 413) == MSC4203_OK);
    flush(&w);
    CHECK(strcmp(parked(&w, NULL), "-1 1") == 0);
    world_free(&w);
}

/* Whatever the memory is, reading gives bytes that are right, or says that it is too little. */
static void test_sender_little_memory(void)
{
    static struct world w;
    static char memory[MEMORY], piece[1000], whole[1000];
    size_t bytes, got;
    int result, works = 0;

    world_init(&w, 128 * 1024);
    put(&w, 1, 2);
    sends(&w, "1 2");
    strcpy(whole, body);
    for (bytes = 0; bytes < 1000; bytes++) {
        result = msc4203_sender_read(&w.sender, 0, memory, bytes, piece, sizeof piece, &got);
        CHECK(result == MSC4203_E_TOO_LARGE || result == MSC4203_OK);
        CHECK(got <= strlen(whole) && memcmp(whole, piece, got) == 0);
        works += result == MSC4203_OK;
    }
    CHECK(works > 100);
    world_free(&w);
}

/* The queue fails when a sender that has one message in flight is started. */
static void test_sender_start_fails(void)
{
    static struct world w;
    static struct failing f;
    msc4203_queue queue;
    int at, fails = 0;

    world_init(&w, 128 * 1024);
    put(&w, 1, 1);
    sends(&w, "1");
    flush(&w);
    queue = w.queue;
    for (at = 1; at < 4; at++) {
        failing_init(&f, &w, at, MSC4203_E_STORAGE);
        fails += world_sender(&w) == MSC4203_E_STORAGE;
        w.queue = queue;
    }
    CHECK(fails == 2);
    sends(&w, "1");
    put(&w, 2, 2); /* parked, but it could not be said that it is: noticed at the start */
    failing_init(&f, &w, 6, MSC4203_E_STORAGE);
    CHECK(answer(&w, 413) == MSC4203_E_STORAGE && f.calls == 6);
    w.queue = queue;
    flush(&w);
    CHECK(world_sender(&w) == MSC4203_OK);
    sends(&w, "2");
    answer(&w, 200);
    put(&w, 1, 1);
    CHECK(world_sender(&w) == MSC4203_OK);
    sends(&w, "1");
    damage(&w, "\"n\":1,");
    CHECK(read_body(&w, 1000) == MSC4203_E_DAMAGED);
    failing_init(&f, &w, 1, MSC4203_E_STORAGE);
    CHECK(answer(&w, 0) == MSC4203_E_STORAGE);
    CHECK(answer(&w, 0) == MSC4203_OK);
    CHECK(poll_now(&w) == MSC4203_IDLE);
    world_free(&w);
}

static int (*hold_real)(void *, uint32_t, uint64_t, const msc4203_span *);

static int hold_little(void *context, uint32_t channel, uint64_t through,
                       const msc4203_span *record)
{
    if (channel == MSC4203_CHANNEL_PARKED)
        return MSC4203_E_TOO_LARGE;
    return hold_real(context, channel, through, record);
}

/* A log that keeps only small records: without siblings. */
static void test_sender_small_log(void)
{
    static struct world w;
    char text[300];
    msc4203_span name;
    int i;

    world_init(&w, 32 * 1024);
    w.config.siblings = siblings;
    w.sibling = 5;
    memset(text, 'i', 200);
    text[200] = 0;
    name = span(text);
    CHECK(world_sender(&w) == MSC4203_OK);
    put(&w, 1, 12);
    sends(&w, "1 2 3 4 5 6 7 8 9 10 11 12");
    CHECK(strstr(body_of(&w, 0), "],\"events\":[]}") != NULL);
    for (i = 0; i < 100; i++) {
        CHECK(answer(&w, 413) == MSC4203_OK);
        if (poll_now(&w) != MSC4203_REQUEST)
            break;
    }
    CHECK(status_of(&w).parked == 12);
    flush(&w);
    CHECK(w.queue.channel(w.queue.context, &name, 1, &w.config.channel) == MSC4203_OK);
    CHECK(world_sender(&w) == MSC4203_OK);
    put_to(&w, (uint32_t)1 << w.config.channel, "@irc_a:gw.example", "DEV", 1, 1, 0);
    CHECK(poll_now(&w) == MSC4203_REQUEST);
    CHECK(answer(&w, 413) == MSC4203_OK); /* its line has no room: parked all the same */
    CHECK(status_of(&w).parked == 1);
    put_to(&w, (uint32_t)1 << w.config.channel, "@irc_a:gw.example", "DEV", 2, 2, 0);
    flush(&w);
    CHECK(poll_now(&w) == MSC4203_REQUEST);
    hold_real = w.queue.hold;
    w.queue.hold = hold_little; /* another queue may have room for no line at all */
    CHECK(answer(&w, 413) == MSC4203_OK && status_of(&w).parked == 2);
    w.queue.hold = hold_real;
    put_to(&w, (uint32_t)1 << w.config.channel, "@irc_a:gw.example", "DEV", 3, 3, 0);
    flush(&w);
    CHECK(poll_now(&w) == MSC4203_REQUEST);
    CHECK(answer(&w, 500) == MSC4203_OK);
    msc4203_log_close(&w.log);
    CHECK(msc4203_sender_skip(&w.sender) == MSC4203_E_STORAGE);
    world_free(&w);
}

/* ---- receiver ---- */

struct app {
    msc4203_receiver receiver;
    msc4203_receiver_config config;
    unsigned char memory[4096];
    size_t bytes;
    char scratch[4096], got[1000];
    unsigned others;
};

static int app_open(struct app *a)
{
    return msc4203_receiver_init(&a->receiver, &a->config, a->memory, a->bytes, 0x5EED);
}

static void app_init(struct app *a, size_t entries)
{
    memset(a, 0, sizeof *a);
    a->config.hs_token = span("s3cret");
    a->config.kinds = MSC4203_EVENT | MSC4203_DEVICE_CHANGED;
    a->bytes = 16 + 48 * entries;
    CHECK(app_open(a) == MSC4203_OK);
}

static int ask(struct app *a, const char *method, const char *target, const char *authorization)
{
    msc4203_span m = span(method), t = span(target), auth = {NULL, 0};
    if (authorization != NULL)
        auth = span(authorization);
    return msc4203_receiver_request(&a->receiver, &m, &t, &auth, a->scratch, sizeof a->scratch);
}

/* Gives a body in two pieces, cut here (or byte by byte), to a request that was begun. What came:
 * a->got has the messages, a->others counts the rest. */
static int give(struct app *a, const char *json, size_t cut)
{
    const msc4203_item *item;
    size_t bytes = strlen(json), at = 0, n;
    int result = MSC4203_MORE;

    *a->got = 0;
    a->others = 0;
    while (result == MSC4203_MORE) {
        n = cut == 0 ? at < bytes : at == 0 && cut < bytes ? cut : bytes - at;
        CHECK(msc4203_receiver_feed(&a->receiver, json + at, n, at + n == bytes) == MSC4203_OK);
        at += n;
        while ((result = msc4203_receiver_next(&a->receiver, &item)) == MSC4203_ITEM) {
            size_t used = strlen(a->got);
            if (item->kind == MSC4203_TO_DEVICE)
                sprintf(a->got + used, "%s%d%s", used ? " " : "",
                        item->content.len > 5 ? atoi(item->content.ptr + 5) : 0,
                        item->error ? "!" : "");
            else
                a->others++;
        }
    }
    CHECK(msc4203_receiver_next(&a->receiver, &item) == result && item == NULL);
    return result;
}

static int deliver(struct app *a, const char *id, const char *json)
{
    char target[200];
    sprintf(target, "/_matrix/app/v1/transactions/%s", id);
    if (!CHECK(ask(a, "PUT", target, "Bearer s3cret") == MSC4203_MORE))
        return 0;
    return give(a, json, test_below(strlen(json) + 1));
}

#define MESSAGE(n) "{\"sender\":\"@b:c\",\"type\":\"t\",\"to_user_id\":\"@a:c\",\"to_device_id\":" \
                   "\"D\",\"content\":{\"n\":" n "}}"
#define BODY_OF(messages) "{\"de.sorunome.msc2409.to_device\":[" messages "],\"events\":[]}"

static void test_receiver_requests(void)
{
    static const struct {
        const char *method, *target, *authorization;
        int result;
    } rows[] = {
        {"PUT", "/_matrix/app/v1/transactions/1", "Bearer s3cret", MSC4203_MORE},
        {"PUT", "/transactions/1", "Bearer s3cret", MSC4203_MORE},
        {"PUT", "/_matrix/app/v1/transactions/1?", "Bearer s3cret", MSC4203_MORE},
        {"PUT", "/_matrix/app/v1/transactions/1?x=y&", "bearer   s3cret", MSC4203_MORE},
        {"PUT", "/%5fmatrix/%61pp/v1/tr%61nsactions/%2F%3F%zz%4", "Bearer s3cret", MSC4203_MORE},
        {"PUT", "/_matrix%2Fapp/v1/transactions/1", "Bearer s3cret", MSC4203_E_UNRECOGNIZED},
        {"PUT", "/_matrix/app/v1/transactions/1/", "Bearer s3cret", MSC4203_E_UNRECOGNIZED},
        {"PUT", "/_matrix/app/v1/transactions/", "Bearer s3cret", MSC4203_E_UNRECOGNIZED},
        {"PUT", "/_matrix/app/v1/transactions", "Bearer s3cret", MSC4203_E_UNRECOGNIZED},
        {"PUT", "/_matrix/app/v1/transactions/?x", "Bearer s3cret", MSC4203_E_UNRECOGNIZED},
        {"PUT", "/_matrix/app/v1", "Bearer s3cret", MSC4203_E_UNRECOGNIZED},
        {"PUT", "/", "Bearer s3cret", MSC4203_E_UNRECOGNIZED},
        {"PUT", "", "Bearer s3cret", MSC4203_E_UNRECOGNIZED},
        {"PUT", "/_matrix/app/v2/transactions/1", "Bearer s3cret", MSC4203_E_UNRECOGNIZED},
        {"PUT", "/x?/transactions/1", "Bearer s3cret", MSC4203_E_UNRECOGNIZED},
        {"POST", "/_matrix/app/v1/ping", "Bearer s3cret", MSC4203_END},
        {"POST", "/_matrix/app/v1/ping?access_token=s3cret", NULL, MSC4203_END},
        {"POST", "/_matrix/app/v1/pings", "Bearer s3cret", MSC4203_E_UNRECOGNIZED},
        {"POST", "/_matrix/app/v1/ping", NULL, MSC4203_E_TOKEN_MISSING},
        {"GET", "/_matrix/app/v1/ping", "Bearer s3cret", MSC4203_E_METHOD},
        {"POST", "/ping", "Bearer s3cret", MSC4203_E_UNRECOGNIZED},
        {"GET", "/_matrix/app/v1/transactions/1", "Bearer s3cret", MSC4203_E_METHOD},
        {"POST", "/transactions/1", "Bearer s3cret", MSC4203_E_METHOD},
        {"put", "/transactions/1", "Bearer s3cret", MSC4203_E_METHOD},
        {"PUT", "/transactions/1", NULL, MSC4203_E_TOKEN_MISSING},
        {"PUT", "/transactions/1", "", MSC4203_E_TOKEN_MISSING},
        {"PUT", "/transactions/1", "Basic s3cret", MSC4203_E_TOKEN_MISSING},
        {"PUT", "/transactions/1", "Bearers3cret", MSC4203_E_TOKEN_MISSING},
        {"PUT", "/transactions/1", "Bearer", MSC4203_E_TOKEN_MISSING},
        {"PUT", "/transactions/1", "Bearer ", MSC4203_E_TOKEN},
        {"PUT", "/transactions/1", "Bearer s3cre", MSC4203_E_TOKEN},
        {"PUT", "/transactions/1", "Bearer s3crets", MSC4203_E_TOKEN},
        {"PUT", "/transactions/1", "Bearer s3crets3cret", MSC4203_E_TOKEN},
        {"PUT", "/transactions/1", "Bearer S3cret", MSC4203_E_TOKEN},
        {"PUT", "/transactions/1", "Bearer %73%33cret", MSC4203_E_TOKEN},
        {"PUT", "/transactions/1?access_token=s3cret", NULL, MSC4203_MORE},
        {"PUT", "/transactions/1?access_token=%733cre%74", NULL, MSC4203_MORE},
        {"PUT", "/transactions/1?a=b&access_token=s3cret&c", NULL, MSC4203_MORE},
        {"PUT", "/transactions/1?xaccess_token=s3cret", NULL, MSC4203_E_TOKEN_MISSING},
        {"PUT", "/transactions/1?access_token", NULL, MSC4203_E_TOKEN_MISSING},
        {"PUT", "/transactions/1?access_token=", NULL, MSC4203_E_TOKEN},
        {"PUT", "/transactions/1?access_token=s3/ret", NULL, MSC4203_E_TOKEN},
        {"PUT", "/transactions/1?access_token=s3cret", "Bearer s3cret", MSC4203_MORE},
        {"PUT", "/transactions/1?access_token=s3crex", "Bearer s3cret", MSC4203_E_TOKEN},
        {"PUT", "/transactions/1?access_token=s3cret", "Bearer s3crex", MSC4203_E_TOKEN},
        {"PUT", "/transactions/1?access_token=s3cret&access_token=x", NULL, MSC4203_E_TOKEN},
    };
    static struct app a;
    const msc4203_item *item;
    char escaped[] = "/transactions/1?access_token=s%..cret";
    size_t i;
    unsigned high, low;

    app_init(&a, 4);
    CHECK(msc4203_receiver_next(&a.receiver, &item) == MSC4203_E_USAGE);
    for (high = 1; high < 256; high++) /* only %33 is a 3 */
        for (low = 1; low < 256; low++) {
            escaped[31] = (char)high;
            escaped[32] = (char)low;
            CHECK(ask(&a, "PUT", escaped, NULL) ==
                  (high == '3' && low == '3' ? MSC4203_MORE : MSC4203_E_TOKEN));
        }
    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        CHECK_CASE(ask(&a, rows[i].method, rows[i].target, rows[i].authorization) ==
                   rows[i].result, rows[i].target);
        if (rows[i].result != MSC4203_MORE) {
            CHECK(msc4203_receiver_feed(&a.receiver, "{}", 2, 1) == MSC4203_E_USAGE);
            CHECK(msc4203_receiver_next(&a.receiver, &item) == MSC4203_E_USAGE);
            msc4203_receiver_reject(&a.receiver); /* nothing to forget */
        }
    }
    a.config.hs_token = span("");
    CHECK(app_open(&a) == MSC4203_E_USAGE);
    a.config.hs_token = span("t/k");
    CHECK(app_open(&a) == MSC4203_OK);
    CHECK(ask(&a, "PUT", "/transactions/1?access_token=t/k", NULL) == MSC4203_MORE);
    CHECK(ask(&a, "PUT", "/transactions/1?access_token=t%2fk", NULL) == MSC4203_MORE);
    a.bytes = 63;
    CHECK(app_open(&a) == MSC4203_E_INDEX);
}

/* An id is the same however it is spelt. */
static void test_receiver_spelling(void)
{
    static struct app a;

    app_init(&a, 4);
    CHECK(deliver(&a, "a.b", BODY_OF(MESSAGE("1"))) == MSC4203_NEW);
    CHECK(deliver(&a, "%61%2Eb", BODY_OF(MESSAGE("1"))) == MSC4203_REPEAT);
    CHECK(ask(&a, "PUT", "/transactions/%61.b?x", "Bearer s3cret") == MSC4203_MORE);
    CHECK(give(&a, BODY_OF(MESSAGE("1")), 7) == MSC4203_REPEAT);
    CHECK(deliver(&a, "a.B", BODY_OF(MESSAGE("1"))) == MSC4203_NEW);
    CHECK(deliver(&a, "a%2fb", BODY_OF(MESSAGE("1"))) == MSC4203_NEW);
}

static void test_receiver_repeats(void)
{
    static const char one[] = BODY_OF(MESSAGE("1") "," MESSAGE("2"));
    static const char swapped[] = BODY_OF(MESSAGE("2") "," MESSAGE("1"));
    static const char spaced[] = " " BODY_OF(MESSAGE("1") " ," MESSAGE("2"));
    static const char wrong[] = BODY_OF("7," MESSAGE("1"));
    static const char siblings_too[] =
        "{\"to_device\":[" MESSAGE("1") "," MESSAGE("2") "],\"events\":[{\"event_id\":\"$1\"}],"
        "\"device_lists\":{\"changed\":[\"@x:y\"]}}";
    static struct app a;
    static unsigned char durable[4096];
    size_t cut;

    app_init(&a, 6);
    for (cut = 0; cut <= sizeof one; cut++) { /* cut anywhere */
        CHECK(ask(&a, "PUT", "/transactions/1", "Bearer s3cret") == MSC4203_MORE);
        CHECK(give(&a, one, cut) == (cut == 0 ? MSC4203_NEW : MSC4203_REPEAT));
        CHECK(strcmp(a.got, "1 2") == 0);
    }
    CHECK(deliver(&a, "2", one) == MSC4203_NEW);  /* an id alone proves nothing, nor a body */
    CHECK(deliver(&a, "1", swapped) == MSC4203_NEW);
    CHECK(deliver(&a, "1", spaced) == MSC4203_REPEAT_TO_DEVICE);
    CHECK(deliver(&a, "1", spaced) == MSC4203_REPEAT);
    CHECK(deliver(&a, "1", siblings_too) == MSC4203_REPEAT_TO_DEVICE && a.others == 2);
    CHECK(deliver(&a, "1", siblings_too) == MSC4203_REPEAT && a.others == 2);
    CHECK(deliver(&a, "1", one) == MSC4203_REPEAT);
    CHECK(app_open(&a) == MSC4203_OK); /* over a restart */
    CHECK(deliver(&a, "1", one) == MSC4203_REPEAT);
    CHECK(deliver(&a, "1", wrong) == MSC4203_NEW && strcmp(a.got, "0! 1") == 0);
    CHECK(deliver(&a, "1", wrong) == MSC4203_REPEAT);

    app_init(&a, 3); /* the ring: the last three are known */
    CHECK(deliver(&a, "1", one) == MSC4203_NEW);
    CHECK(deliver(&a, "2", one) == MSC4203_NEW);
    CHECK(deliver(&a, "3", one) == MSC4203_NEW);
    CHECK(deliver(&a, "1", one) == MSC4203_REPEAT);
    CHECK(deliver(&a, "4", one) == MSC4203_NEW);
    CHECK(deliver(&a, "2", one) == MSC4203_REPEAT);
    CHECK(deliver(&a, "1", one) == MSC4203_NEW);
    memcpy(durable, a.memory, sizeof durable);
    CHECK(deliver(&a, "5", one) == MSC4203_NEW);
    msc4203_receiver_reject(&a.receiver); /* it could not be kept: as if it had never come */
    msc4203_receiver_reject(&a.receiver);
    CHECK(deliver(&a, "4", one) == MSC4203_REPEAT);
    msc4203_receiver_reject(&a.receiver);
    CHECK(deliver(&a, "4", one) == MSC4203_REPEAT);
    CHECK(deliver(&a, "5", one) == MSC4203_NEW);
    memcpy(a.memory, durable, sizeof durable); /* or the power went before it was durable */
    CHECK(app_open(&a) == MSC4203_OK);
    CHECK(deliver(&a, "5", one) == MSC4203_NEW);
    CHECK(deliver(&a, "5", one) == MSC4203_REPEAT);
    a.bytes -= 48; /* less memory than before */
    a.memory[4] = 9;
    CHECK(app_open(&a) == MSC4203_OK);
    CHECK(deliver(&a, "6", one) == MSC4203_NEW);
    CHECK(deliver(&a, "6", one) == MSC4203_REPEAT);
    app_init(&a, 1);
    CHECK(deliver(&a, "1", one) == MSC4203_NEW);
    msc4203_receiver_reject(&a.receiver);
    CHECK(deliver(&a, "1", one) == MSC4203_NEW);
    CHECK(deliver(&a, "1", one) == MSC4203_REPEAT);
}

/* So much memory that not all of it is used. */
static void test_receiver_large(void)
{
    static struct app a;
    size_t bytes = 16 + 48 * (size_t)66000;
    unsigned char *memory = (unsigned char *)calloc(1, bytes);

    app_init(&a, 1);
    if (memory == NULL)
        exit(2);
    CHECK(msc4203_receiver_init(&a.receiver, &a.config, memory, bytes, 1) == MSC4203_OK);
    CHECK(deliver(&a, "1", BODY_OF(MESSAGE("1"))) == MSC4203_NEW);
    CHECK(deliver(&a, "1", BODY_OF(MESSAGE("1"))) == MSC4203_REPEAT);
    free(memory);
}

/* What is no transaction is not remembered. */
static void test_receiver_errors(void)
{
    static struct app a;

    app_init(&a, 4);
    CHECK(deliver(&a, "1", "{\"events\":[") == MSC4203_E_TRUNCATED);
    CHECK(deliver(&a, "1", "[]") == MSC4203_E_ROOT);
    CHECK(deliver(&a, "1", BODY_OF(MESSAGE("1")) "x") == MSC4203_E_SYNTAX);
    CHECK(strcmp(a.got, "1") == 0); /* provisional: the end says so */
    CHECK(msc4203_receiver_feed(&a.receiver, "x", 1, 1) == MSC4203_E_USAGE);
    CHECK(deliver(&a, "1", BODY_OF(MESSAGE("1"))) == MSC4203_NEW);
    CHECK(deliver(&a, "2", "{\"events\":[]}") == MSC4203_NEW);
    CHECK(deliver(&a, "2", "{\"events\":[]}") == MSC4203_REPEAT);
    CHECK(deliver(&a, "2", "{\"events\":[{}]}") == MSC4203_REPEAT_TO_DEVICE && a.others == 1);
}

/* ---- sync ---- */

static const char *const alice = "@alice:gw.example";

/* One /sync: what it told, as "1 2 3"; its token, in *token, is the `since` of the next one. */
static const char *sync_of(struct world *w, const char *name, char token[48], int most)
{
    static char text[8000], memory[MEMORY];
    msc4203_device device = device_of(alice, name);
    msc4203_span since = span(token);
    msc4203_message message;
    msc4203_sync sync;
    int result = msc4203_sync_begin(&sync, &w->queue, &device, &since), n;

    *text = 0;
    if (result != MSC4203_OK) {
        sprintf(text, "error %d", result);
        return text;
    }
    for (n = 0; n < most; n++) {
        result = msc4203_sync_next(&sync, memory, sizeof memory, &message);
        if (result != MSC4203_ITEM)
            break;
        sprintf(text + strlen(text), "%s%d", n ? " " : "", atoi(message.item.content.ptr + 5));
    }
    CHECK(n == most || result == MSC4203_END);
    msc4203_sync_token(&sync, token);
    CHECK(strlen(token) == 30);
    return text;
}

static void put_alice(struct world *w, int from, int to)
{
    put_to(w, sync_bit, alice, "PHONE", from, to, 0);
}

#define SYNC(token, most, want)                                                  \
    do {                                                                         \
        const char *told = sync_of(&w, "PHONE", token, most);                    \
        CHECK_CASE(strcmp(told, want) == 0, told);                               \
    } while (0)

static void test_sync(void)
{
    static struct world w;
    char token[48] = "", old[48], first[48];
    char text[1000] = "";
    int i;

    world_init(&w, 256 * 1024);
    SYNC(token, 100, "");
    put_alice(&w, 1, 3);
    SYNC(token, 100, "1 2 3");
    strcpy(old, token);
    strcpy(first, token);
    *token = 0;
    SYNC(token, 2, "1 2"); /* without a token: from the oldest on, nothing is lost */
    SYNC(token, 100, "3");
    put_alice(&w, 4, 4);
    SYNC(token, 100, "4"); /* 3 was acknowledged */
    SYNC(old, 100, "4");   /* what was acknowledged never comes again */
    CHECK(strcmp(old, token) == 0);
    SYNC(token, 100, "");
    for (i = 0; i < 5; i++) { /* over restarts */
        flush(&w);
        world_crash(&w);
        put_alice(&w, 10 + i, 10 + i);
        sprintf(text, "%d", 10 + i);
        SYNC(token, 100, text);
    }
    world_crash(&w); /* the acknowledgement is lost, and comes again */
    SYNC(token, 100, "");
    put_alice(&w, 20, 20);
    SYNC(first, 100, "20"); /* an older token acknowledges no more than it covered */
    for (i = 0; i < 9; i++) { /* the opening is forgotten */
        flush(&w);
        world_crash(&w);
    }
    SYNC(token, 100, "20");
    SYNC(token, 100, "");
    put_alice(&w, 100, 349); /* a hundred at most */
    for (i = 0; i < 3; i++) {
        char *at = text;
        int k, n = i == 2 ? 50 : 100;
        for (*at = 0, k = 0; k < n; k++)
            at += sprintf(at, "%s%d", k ? " " : "", 100 + 100 * i + k);
        SYNC(token, 1000, text);
    }
    SYNC(token, 1000, "");
    world_free(&w);
}

static void test_sync_tokens(void)
{
    static const char *const none[] = {
        "s72594_4483_1934", "m", "m0123456789abcdef.00000000000", "m0123456789abcdef.0000000000001",
        "M0123456789abcdef.000000000001", "m0123456789abcdeF.000000000001",
        "m0123456789abcdeg.000000000001", "m0123456789abcdef,000000000001",
        "m0123456789abcdef.00000000000x", "m0123456789abcdef.00000000000/",
        "m0123456789abcdef.0000000000-1", "m0123456789abcd f.000000000001"};
    static struct world w, other;
    char token[48] = "", future[48];
    size_t i;

    world_init(&w, 128 * 1024);
    put_alice(&w, 1, 2);
    for (i = 0; i < sizeof none / sizeof *none; i++) {
        char error[20];
        strcpy(token, none[i]);
        sprintf(error, "error %d", MSC4203_E_SINCE);
        SYNC(token, 100, error);
    }
    strcpy(token, "m0123456789abcdef.000000000001"); /* another queue's */
    SYNC(token, 100, "1 2");
    strcpy(future, token);
    memcpy(future + 18, "ffffffffffff", 12);
    SYNC(future, 100, "1 2"); /* from the future: acknowledges nothing */
    strcpy(future, token);
    memcpy(future + 18, "000000000000", 12);
    SYNC(future, 100, "1 2");
    world_init(&other, 128 * 1024);
    other.openings = 50;
    world_crash(&other);
    put_to(&other, sync_bit, alice, "PHONE", 5, 9, 0);
    {
        char foreign[48] = "";
        sync_of(&other, "PHONE", foreign, 100);
        SYNC(foreign, 100, "1 2");
    }
    /* What was given out after a backup was made covers nothing that came to the restored one. */
    {
        static unsigned char backup[128 * 1024];
        flush(&w);
        memcpy(backup, w.fake.durable, sizeof backup);
        put_alice(&w, 3, 4);
        *token = 0;
        SYNC(token, 100, "1 2 3 4");
        fake_restore(&w.fake, backup);
        w.openings += 100;
        world_crash(&w);
        put_alice(&w, 5, 6);
        SYNC(token, 100, "5 6"); /* 1 and 2 had arrived; of 3 and 4 it knows nothing */
    }
    world_free(&other);
    world_free(&w);
}

/* Another device's token, of the same user too, takes nothing out. */
static void test_sync_of_others(void)
{
    static struct world w;
    char phone[48] = "", laptop[48] = "", changed[48];
    size_t i;

    world_init(&w, 128 * 1024);
    put_to(&w, sync_bit, alice, "LAPTOP", 1, 2, 0);
    put_alice(&w, 3, 4);
    flush(&w);
    SYNC(phone, 100, "3 4");
    strcpy(laptop, phone);
    CHECK(strcmp(sync_of(&w, "LAPTOP", laptop, 100), "1 2") == 0);
    CHECK(strcmp(laptop, phone) != 0);
    for (i = 1; i < 17; i++) { /* nor does one that was changed */
        strcpy(changed, laptop);
        changed[i] = changed[i] == '0' ? '1' : '0';
        CHECK(strcmp(sync_of(&w, "LAPTOP", changed, 100), "1 2") == 0);
    }
    CHECK(strcmp(sync_of(&w, "LAPTOP", laptop, 100), "") == 0);
    SYNC(phone, 100, "");
    world_free(&w);
}

static void test_sync_unread(void)
{
    static struct world w;
    static char memory[MEMORY];
    msc4203_device device = device_of(alice, "PHONE");
    msc4203_message message;
    msc4203_sync sync;
    char token[48];
    int i;

    world_init(&w, 128 * 1024);
    put_alice(&w, 1, 3);
    CHECK(msc4203_sync_begin(&sync, &w.queue, &device, NULL) == MSC4203_OK);
    for (i = 0; i < 2; i++)
        CHECK(msc4203_sync_next(&sync, memory, sizeof memory, &message) == MSC4203_ITEM);
    msc4203_sync_unread(&sync);
    msc4203_sync_unread(&sync); /* only the last one */
    msc4203_sync_token(&sync, token);
    SYNC(token, 100, "2 3");
    CHECK(msc4203_sync_begin(&sync, &w.queue, &device, NULL) == MSC4203_OK);
    CHECK(msc4203_sync_next(&sync, memory, 10, &message) == MSC4203_E_TOO_LARGE);
    CHECK(msc4203_sync_next(&sync, memory, sizeof memory, &message) == MSC4203_ITEM);
    damage(&w, "\"n\":3,"); /* is passed over */
    put_alice(&w, 4, 4);
    *token = 0;
    SYNC(token, 100, "2 4");
    world_free(&w);
}

/* ---- changing over ---- */

static uint32_t routed;

static uint32_t route_to(void *context, const msc4203_device *device)
{
    struct world *w = (struct world *)context;
    CHECK(device->user_id.len != 0 && device->device_id.len != 0);
    CHECK(w->irc != 0);
    if (msc4203_span_equal(&device->device_id, "STAYS"))
        return (uint32_t)1 << w->irc;
    return routed;
}

static int change_in(struct world *w, const char *name, uint32_t channels, uint64_t *moved)
{
    static char memory[MEMORY];
    msc4203_device device = device_of(alice, name);
    return msc4203_change_device(&w->queue, &device, channels, memory, sizeof memory, moved);
}

static int change_out(struct world *w, uint64_t *moved)
{
    static char memory[MEMORY];
    return msc4203_change_channel(&w->queue, w->irc, route_to, w, memory, sizeof memory, moved);
}

static void test_change(void)
{
    static struct world w;
    char token[48] = "";
    uint64_t moved;
    uint32_t irc, xmpp;

    world_init(&w, 256 * 1024);
    irc = (uint32_t)1 << w.irc;
    xmpp = (uint32_t)1 << w.xmpp;
    put_alice(&w, 1, 2);
    put_to(&w, sync_bit | irc, alice, "PHONE", 3, 3, 0);
    put_to(&w, sync_bit, alice, "OTHER", 4, 4, 0);
    CHECK(change_in(&w, "PHONE", sync_bit | irc, &moved) == MSC4203_OK && moved == 0);
    CHECK(change_in(&w, "NONE", irc, NULL) == MSC4203_OK);
    SYNC(token, 2, "1 2");
    CHECK(change_in(&w, "PHONE", irc, &moved) == MSC4203_OK && moved == 3);
    flush(&w);
    SYNC(token, 100, "");
    sends(&w, "3 1 2"); /* 1 and 2 thus come twice, as stated; 3 was there already */
    put_to(&w, irc, alice, "PHONE", 5, 6, 0);
    put_to(&w, irc, alice, "STAYS", 7, 7, 0);
    put_to(&w, irc | sync_bit, alice, "PHONE", 8, 8, 0);
    put_to(&w, irc | xmpp, alice, "PHONE", 9, 9, 0);
    routed = sync_bit;
    CHECK(change_out(&w, &moved) == MSC4203_OK && moved == 4);
    flush(&w);
    answer(&w, 500); /* in flight stays in flight */
    msc4203_sender_wake(&w.sender);
    sends(&w, "3 1 2");
    answer(&w, 200);
    sends(&w, "7");
    answer(&w, 200);
    CHECK(poll_now(&w) == MSC4203_IDLE);
    SYNC(token, 100, "8 5 6 9");
    CHECK(change_out(&w, NULL) == MSC4203_OK);
    w.config.channel = w.xmpp;
    CHECK(world_sender(&w) == MSC4203_OK);
    sends(&w, "9"); /* what also waits for another stays there */
    answer(&w, 200);

    /* To others: only what would be with nobody. */
    put_to(&w, irc | xmpp, alice, "PHONE", 11, 11, 0);
    put_to(&w, irc, alice, "PHONE", 12, 12, 0);
    routed = xmpp;
    CHECK(change_out(&w, &moved) == MSC4203_OK && moved == 2);
    flush(&w);
    sends(&w, "11 12");
    answer(&w, 200);
    put_to(&w, irc, alice, "PHONE", 13, 13, 0);
    routed = xmpp | sync_bit;
    CHECK(change_out(&w, NULL) == MSC4203_OK);
    flush(&w);
    CHECK(poll_now(&w) == MSC4203_IDLE);
    SYNC(token, 100, "13");

    /* What /sync has had does not come there again. */
    put_to(&w, irc | sync_bit, alice, "PHONE", 14, 14, 0);
    SYNC(token, 100, "14");
    SYNC(token, 100, "");
    routed = sync_bit;
    CHECK(change_out(&w, NULL) == MSC4203_OK);
    flush(&w);
    SYNC(token, 100, "");

    /* What is damaged is passed over. */
    put_to(&w, irc, alice, "PHONE", 21, 23, 0);
    damage(&w, "\"n\":22,");
    put_alice(&w, 24, 26);
    damage(&w, "\"n\":25,");
    routed = sync_bit;
    CHECK(change_out(&w, &moved) == MSC4203_OK && moved == 2);
    flush(&w);
    SYNC(token, 100, "24 26 21 23");
    put_to(&w, sync_bit, alice, "OTHER", 31, 33, 0);
    damage(&w, "\"n\":32,");
    CHECK(change_in(&w, "OTHER", irc, &moved) == MSC4203_OK && moved == 3); /* 4 31 33 */
    CHECK(change_in(&w, "PHONE", 0, &moved) == MSC4203_OK && moved == 0); /* not to nowhere */
    {
        msc4203_device device = device_of(alice, "PHONE");
        char little[10]; /* the strings are not needed */
        CHECK(msc4203_change_device(&w.queue, &device, irc, little, sizeof little, &moved) ==
              MSC4203_OK && moved == 4);
        flush(&w);
        CHECK(msc4203_change_channel(&w.queue, w.irc, route_to, &w, little, sizeof little,
                                     NULL) == MSC4203_E_TOO_LARGE);
    }
    world_free(&w);
}

/* A device is dropped while a message of it is in flight, in a transaction that is then refused: a
 * later device of that name does not get it, whatever comes between. */
static void test_change_dropped(void)
{
    static struct world w;
    msc4203_device phone = device_of(alice, "PHONE");
    msc4203_counts counts;
    char token[48] = "";
    int crash, status;

    for (crash = 0; crash < 3; crash++)
        for (status = 413; status <= 500; status += 87) {
            world_init(&w, 256 * 1024);
            put_to(&w, (uint32_t)1 << w.irc, alice, "PHONE", 1, 2, 0);
            put_to(&w, (uint32_t)1 << w.irc, alice, "OTHER", 3, 3, 0);
            put_to(&w, (uint32_t)1 << w.irc, alice, "PHONE", 4, 4, 0);
            w.config.messages_max = 3;
            CHECK(world_sender(&w) == MSC4203_OK);
            sends(&w, "1 2 3");
            CHECK(w.queue.drop(w.queue.context, &phone, NULL) == MSC4203_OK);
            flush(&w);
            put_to(&w, (uint32_t)1 << w.irc, alice, "PHONE", 5, 5, 0);
            if (crash == 1) { /* before the answer */
                world_crash(&w);
                sends(&w, "1 2 3");
            }
            CHECK(answer(&w, status) == MSC4203_OK);
            flush(&w);
            if (crash == 2)
                world_crash(&w);
            CHECK(w.queue.count(w.queue.context, 0, &phone, &counts) == MSC4203_OK &&
                  counts.messages == (status == 413 ? 1u : 3u));
            routed = sync_bit;
            CHECK(change_out(&w, NULL) == MSC4203_OK);
            flush(&w);
            *token = 0;
            SYNC(token, 100, "5");
            if (status == 413) {
                CHECK(poll_now(&w) == MSC4203_IDLE);
            } else { /* it stays in the retries */
                msc4203_sender_wake(&w.sender);
                sends(&w, "1 2 3");
            }
            world_free(&w);
        }
}

/* How often message n waits: for irc, and for /sync. */
static void places(struct world *w, int waits[10][2])
{
    static char memory[MEMORY];
    msc4203_device device = device_of(alice, "PHONE");
    msc4203_message message;
    int channel;

    memset(waits, 0, 10 * sizeof *waits);
    for (channel = 0; channel < 2; channel++) {
        uint64_t after = 0;
        while (w->queue.next(w->queue.context, channel ? w->irc : 0, channel ? NULL : &device,
                             after, memory, sizeof memory, &message) == MSC4203_ITEM) {
            int n = atoi(message.item.content.ptr + 5);
            after = message.number;
            if (CHECK(n > 0 && n < 10))
                waits[n][channel]++;
        }
    }
}

/* The power goes at each call of the storage: each message is in one place, and after the change
 * was done again, in the right one. */
static void test_change_crash(void)
{
    static struct world w;
    static unsigned char before[128 * 1024];
    int waits[10][2], out, n, done;
    unsigned long calls;

    for (out = 0; out < 2; out++) {
        world_init(&w, sizeof before);
        routed = out ? sync_bit : (uint32_t)1 << w.irc;
        put_to(&w, out ? (uint32_t)1 << w.irc : sync_bit, alice, "PHONE", 1, 9, 0);
        memcpy(before, w.fake.durable, sizeof before);
        for (calls = 1, done = 0; !done && calls < 1000 && test_failed == 0; calls++) {
            fake_restore(&w.fake, before);
            world_open(&w);
            w.fake.fail_at = w.fake.calls + calls;
            w.fake.after = (int)test_below(FAKE_WHENS);
            done = (out ? change_out(&w, NULL) : change_in(&w, "PHONE", routed, NULL)) ==
                       MSC4203_OK && w.queue.flush(w.queue.context) == MSC4203_OK;
            fake_crash(&w.fake);
            world_open(&w);
            places(&w, waits);
            for (n = 1; n < 10; n++)
                CHECK(waits[n][0] + waits[n][1] == 1 && (!done || waits[n][!out]));
            CHECK((out ? change_out(&w, NULL) : change_in(&w, "PHONE", routed, NULL)) ==
                  MSC4203_OK);
            flush(&w);
            places(&w, waits);
            for (n = 1; n < 10; n++)
                CHECK(waits[n][out] == 0 && waits[n][!out] == 1);
        }
        CHECK(done);
        world_free(&w);
    }
}

/* Each call of the queue fails once. */
static void test_other_faults(void)
{
    static struct world w;
    static struct failing f;
    static char memory[MEMORY];
    msc4203_device device = device_of(alice, "PHONE");
    msc4203_message message;
    msc4203_sync sync;
    msc4203_span since;
    char token[48], text[100];
    int at, result, n, kind;

    for (kind = 0; kind < 2; kind++)
        for (at = 1; at < 30; at++) {
            world_init(&w, 128 * 1024);
            put_alice(&w, 1, 3);
            put_to(&w, 2, alice, "PHONE", 4, 5, 0);
            *token = 0;
            sync_of(&w, "PHONE", token, 1);
            since = span(token);
            failing_init(&f, &w, at, kind ? MSC4203_E_DAMAGED : MSC4203_E_STORAGE);
            for (n = 0; n < 3; n++) {
                result = msc4203_sync_begin(&sync, &w.queue, &device, &since);
                if (result == MSC4203_OK)
                    break;
                CHECK(result == f.result);
            }
            for (n = 0, *text = 0; n < 5; n++) {
                result = msc4203_sync_next(&sync, memory, sizeof memory, &message);
                if (result == MSC4203_ITEM)
                    strncat(text, message.item.content.ptr + 5, 1);
            }
            CHECK_CASE(strcmp(text, "23") == 0 || strcmp(text, "123") == 0, text);
            routed = sync_bit;
            for (n = 0; change_out(&w, NULL) != MSC4203_OK; n++)
                CHECK(n == 0 && f.calls >= at);
            for (n = 0; w.queue.flush(w.queue.context) != MSC4203_OK; n++)
                CHECK(n == 0 && f.calls >= at);
            for (n = 0; change_in(&w, "PHONE", (uint32_t)1 << w.xmpp, NULL) != MSC4203_OK; n++)
                CHECK(n == 0 && f.calls >= at);
            world_free(&w);
        }
}

/* Expires after so many milliseconds more; CHECKs the result, and how many that took. */
static void expire_after(struct world *w, msc4203_expiry *expiry, uint64_t more, uint64_t age,
                         int want, uint64_t count, const char *what)
{
    uint64_t expired = 77;

    w->now += more;
    CHECK_CASE(msc4203_expire(expiry, &w->queue, w->now, age, &expired) == want, what);
    if (!CHECK_CASE(expired == count, what))
        printf("  %lu expired\n", (unsigned long)expired);
}

static void test_expire(void)
{
    enum { HOUR = 3600000, MINUTE = 60000 };
    const uint64_t ever = (uint64_t)1 << 62;
    static struct world w;
    msc4203_expiry e;
    msc4203_counts counts;
    struct failing f;
    char token[48] = "";
    uint64_t last;
    int i;

    world_init(&w, 256 * 1024);
    memset(&e, 0, sizeof e);
    put_alice(&w, 1, 2);
    w.now += 10 * MINUTE;
    put_alice(&w, 3, 3);
    w.now += 10 * MINUTE;
    expire_after(&w, &e, 0, 1, MSC4203_E_CLOCK, 0, "the first call");
    for (i = 0; i < 11; i++)
        expire_after(&w, &e, 5 * MINUTE, 1, MSC4203_E_CLOCK, 0, "within the hour");
    expire_after(&w, &e, 5 * MINUTE - 1, 1, MSC4203_E_CLOCK, 0, "a millisecond too early");
    expire_after(&w, &e, 1, 80 * MINUTE, MSC4203_OK, 0, "an hour: none is older");
    expire_after(&w, &e, 1, 80 * MINUTE, MSC4203_OK, 2, "two are");
    SYNC(token, 100, "3");
    CHECK(msc4203_expire(&e, &w.queue, w.now, 1, NULL) == MSC4203_OK);
    *token = 0;
    SYNC(token, 100, "");

    put_alice(&w, 4, 4);
    expire_after(&w, &e, HOUR, ever, MSC4203_OK, 0, "exactly an hour; an age beyond 1970");
    expire_after(&w, &e, HOUR + 1, 1, MSC4203_E_CLOCK, 0, "a step forward");
    expire_after(&w, &e, 40 * MINUTE, 1, MSC4203_E_CLOCK, 0, "behind that");
    expire_after(&w, &e, (uint64_t)-1, 1, MSC4203_E_CLOCK, 0, "a step back");
    expire_after(&w, &e, 20 * MINUTE + 1, 1, MSC4203_E_CLOCK, 0, "behind that");
    expire_after(&w, &e, 40 * MINUTE - 2, 1, MSC4203_E_CLOCK, 0, "behind that");
    expire_after(&w, &e, 1, w.now + 1, MSC4203_OK, 0, "an age since 1970");
    expire_after(&w, &e, 0, 1, MSC4203_OK, 1, "no step");

    /* the clock was ahead when a message was accepted */
    last = w.now += 3 * HOUR;
    put_alice(&w, 5, 5);
    w.now -= 3 * HOUR;
    CHECK(w.queue.count(w.queue.context, 0, NULL, &counts) == MSC4203_OK);
    CHECK(counts.time_ms <= last && counts.time_ms > last - 1024);
    expire_after(&w, &e, 0, 0, MSC4203_E_CLOCK, 0, "behind the last time");
    world_open(&w); /* which is kept, without the message too */
    *token = 0;
    SYNC(token, 100, "5");
    SYNC(token, 100, "");
    put_alice(&w, 6, 6);
    expire_after(&w, &e, HOUR, 1, MSC4203_E_CLOCK, 0, "behind the last time");
    w.now = counts.time_ms - HOUR - 1;
    expire_after(&w, &e, 0, 1, MSC4203_E_CLOCK, 0, "an hour behind the last time");
    expire_after(&w, &e, HOUR, 1, MSC4203_E_CLOCK, 0, "just behind the last time");
    expire_after(&w, &e, 1, 1, MSC4203_OK, 1, "no longer behind it");

    put_alice(&w, 7, 7); /* the queue's errors */
    w.now += 2;
    failing_init(&f, &w, 1, MSC4203_E_STORAGE);
    expire_after(&w, &e, 0, 1, MSC4203_E_STORAGE, 0, "the count fails");
    f.at = 3;
    expire_after(&w, &e, 0, 1, MSC4203_E_STORAGE, 0, "the queue fails");
    expire_after(&w, &e, 0, 1, MSC4203_OK, 1, "it works again");
    world_free(&w);
}

int main(void)
{
    test_seed(0xDE11);
    test_sender_simple();
    test_sender_usage();
    test_sender_memory();
    test_sender_limits();
    test_sender_body(300);
    test_sender_retry(40);
    test_sender_waits();
    test_sender_statuses();
    test_sender_legacy();
    test_sender_split();
    test_sender_split_bytes();
    test_sender_parks_many();
    test_sender_unwritable();
    test_sender_damaged();
    test_sender_park_crash(1);
    test_sender_park_crash(2);
    test_sender_park_half(1);
    test_sender_park_half(2);
    test_sender_storage();
    test_sender_faults();
    test_sender_full();
    test_sender_full_parks();
    test_sender_two();
    test_sender_skip();
    test_sender_record();
    test_sender_meddled();
    test_sender_nameless();
    test_sender_little_memory();
    test_sender_start_fails();
    test_sender_small_log();
    test_receiver_requests();
    test_receiver_spelling();
    test_receiver_repeats();
    test_receiver_large();
    test_receiver_errors();
    test_sync();
    test_sync_tokens();
    test_sync_of_others();
    test_sync_unread();
    test_change();
    test_change_dropped();
    test_change_crash();
    test_other_faults();
    test_expire();
    return test_end("delivery");
}
