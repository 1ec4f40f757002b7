/* test_limits.c - the log at its limits: what each call says when it is asked for something that
 * can't be, when something is full, when the storage fails; and the sizes that a log can have. */
#include "log_bench.h"

enum { PARKED = MSC4203_CHANNEL_PARKED, CHANNELS = MSC4203_CHANNELS };

static char limits_memory[200000], limits_text[140000];

static msc4203_message limits_message(size_t bytes)
{
    msc4203_message message;

    memset(&message, 0, sizeof message);
    message.channels = 2;
    message.item.sender = contract_span("@alice:gw.example");
    message.item.type = contract_span("m.dummy");
    message.item.user_id = contract_span("@bob:gw.example");
    message.item.device_id = contract_span("DEVICE");
    message.item.content.ptr = limits_text;
    message.item.content.len = bytes;
    return message;
}

static void limits_config(struct bench *b, const struct shape *shape, size_t bytes,
                          uint32_t messages, uint32_t devices, uint32_t message_bytes)
{
    bench_storage(b, shape, bytes, 0, 0);
    b->config.messages = messages;
    b->config.devices = devices;
    b->config.message_bytes = message_bytes;
    bench_start(b, 0);
}

/* ---- a log that is not open ---- */

static void test_closed(void)
{
    static struct bench b;
    msc4203_queue *q = &b.queue;
    msc4203_message message = limits_message(10), got;
    msc4203_span name = contract_span("irc"), record = contract_span("r"), read;
    msc4203_device who;
    msc4203_counts counts;
    msc4203_log_usage usage;
    msc4203_request request;
    uint64_t number;
    uint32_t batch = 1, channel;

    limits_config(&b, &shapes[SHAPE_512], 64 * 1024, 64, 8, 500);
    who.user_id = who.device_id = name;
    contract_request(3, 1, &request);
    CHECK(q->channel(q->context, &name, 1, &channel) == MSC4203_OK);
    CHECK(bench_push(&b, 2, 1, 100, NULL) == MSC4203_OK);
    CHECK(msc4203_log_close(&b.log) == MSC4203_OK);
    CHECK(msc4203_log_close(&b.log) == MSC4203_E_STORAGE);
    CHECK(q->begin(q->context, &batch) == MSC4203_E_STORAGE);
    CHECK(q->push(q->context, 1, &message) == MSC4203_E_STORAGE);
    CHECK(q->commit(q->context, 1, &request, &number) == MSC4203_E_STORAGE);
    CHECK(q->commit(q->context, 99, &request, &number) == MSC4203_E_STORAGE);
    CHECK(q->abort(q->context, 1) == MSC4203_E_STORAGE);
    CHECK(q->known(q->context, &request) == MSC4203_E_STORAGE);
    CHECK(q->flush(q->context) == MSC4203_E_STORAGE);
    CHECK(q->next(q->context, 1, NULL, 0, limits_memory, 100, &got) == MSC4203_E_STORAGE);
    CHECK(q->next(q->context, 0, &who, 0, limits_memory, 100, &got) == MSC4203_E_STORAGE);
    CHECK(q->done(q->context, 1, NULL, 1, NULL) == MSC4203_E_STORAGE);
    CHECK(q->hold(q->context, 1, 1, &record) == MSC4203_E_STORAGE);
    CHECK(q->move(q->context, 1, NULL, 1, 0, NULL) == MSC4203_E_STORAGE);
    CHECK(q->drop(q->context, &who, NULL) == MSC4203_E_STORAGE);
    CHECK(q->expire(q->context, 1, NULL) == MSC4203_E_STORAGE);
    CHECK(q->channel(q->context, &name, 1, &channel) == MSC4203_E_STORAGE);
    CHECK(q->release(q->context, 1) == MSC4203_E_STORAGE);
    CHECK(q->record(q->context, 1, limits_memory, 100, NULL, &read) == MSC4203_E_STORAGE);
    CHECK(q->count(q->context, 1, NULL, &counts) == MSC4203_E_STORAGE);
    CHECK(q->count(q->context, 0, &who, &counts) == MSC4203_E_STORAGE);
    CHECK(msc4203_log_scan(&b.log, limits_memory, 100, NULL, NULL) == MSC4203_E_STORAGE);
    msc4203_log_usage_get(&b.log, &usage);
    CHECK(usage.messages == 0 && usage.messages_max == 0 && usage.capacity == 0);
    CHECK(bench_open(&b) == MSC4203_OK);
    msc4203_log_usage_get(&b.log, &usage);
    CHECK(usage.messages == 1 && usage.messages_max == 64 && usage.capacity > 1000);
    bench_free(&b);
}

/* ---- wrong calls ---- */

static void test_usage(void)
{
    static struct bench b;
    static char letters[300];
    msc4203_queue *q = &b.queue;
    msc4203_message message = limits_message(10), got;
    msc4203_span name = contract_span("irc"), record = contract_span("r"), read;
    msc4203_device who;
    msc4203_counts counts;
    msc4203_request request;
    uint64_t number;
    uint32_t batch, channel, i;

    limits_config(&b, &shapes[SHAPE_512], 256 * 1024, 64, 8, 500);
    who.user_id = who.device_id = contract_span("nobody");
    CHECK(q->next(q->context, CHANNELS, NULL, 0, limits_memory, 100, &got) == MSC4203_E_USAGE);
    CHECK(q->next(q->context, 0, NULL, 0, limits_memory, 100, &got) == MSC4203_E_USAGE);
    CHECK(q->next(q->context, 1, &who, 0, limits_memory, 100, &got) == MSC4203_E_USAGE);
    CHECK(q->done(q->context, CHANNELS, NULL, 1, NULL) == MSC4203_E_USAGE);
    CHECK(q->done(q->context, 0, &who, 1, &record) == MSC4203_E_USAGE);
    CHECK(q->done(q->context, 0, &who, 1, NULL) == MSC4203_OK); /* it has nothing */
    CHECK(q->hold(q->context, 0, 1, &record) == MSC4203_E_USAGE);
    CHECK(q->hold(q->context, CHANNELS, 1, &record) == MSC4203_E_USAGE);
    CHECK(q->move(q->context, CHANNELS, NULL, 1, 0, NULL) == MSC4203_E_USAGE);
    CHECK(q->move(q->context, 1, NULL, 0, 0, NULL) == MSC4203_END);
    CHECK(q->move(q->context, 1, NULL, 5, 0, &number) == MSC4203_END && number == 0);
    CHECK(q->record(q->context, 0, limits_memory, 100, NULL, &read) == MSC4203_E_USAGE);
    CHECK(q->record(q->context, CHANNELS, limits_memory, 100, NULL, &read) == MSC4203_E_USAGE);
    CHECK(q->record(q->context, 7, limits_memory, 100, NULL, &read) == MSC4203_END);
    CHECK(q->release(q->context, 0) == MSC4203_E_USAGE);
    CHECK(q->release(q->context, CHANNELS) == MSC4203_E_USAGE);
    CHECK(q->release(q->context, 9) == MSC4203_OK);
    CHECK(q->count(q->context, CHANNELS, NULL, &counts) == MSC4203_E_USAGE);
    CHECK(q->count(q->context, 0, &who, &counts) == MSC4203_OK && counts.messages == 0);
    CHECK(q->drop(q->context, &who, NULL) == MSC4203_OK);
    CHECK(q->expire(q->context, 1, NULL) == MSC4203_OK);
    name.len = 0;
    CHECK(q->channel(q->context, &name, 1, &channel) == MSC4203_E_USAGE);
    memset(letters, 'n', sizeof letters);
    name.ptr = letters;
    name.len = 256;
    CHECK(q->channel(q->context, &name, 1, &channel) == MSC4203_E_USAGE);
    name.len = 255;
    CHECK(q->channel(q->context, &name, 0, &channel) == MSC4203_END);
    for (i = 1; i < PARKED; i++) { /* names that differ in their last letter alone */
        letters[254] = (char)('A' + i);
        CHECK(q->channel(q->context, &name, 1, &channel) == MSC4203_OK && channel == i);
    }
    letters[254] = '!';
    CHECK(q->channel(q->context, &name, 1, &channel) == MSC4203_E_QUEUE_FULL);
    CHECK(q->push(q->context, 0, &message) == MSC4203_E_USAGE);
    CHECK(q->push(q->context, 1, &message) == MSC4203_E_USAGE);
    CHECK(q->push(q->context, 33, &message) == MSC4203_E_USAGE);
    CHECK(q->commit(q->context, 2, NULL, &number) == MSC4203_E_USAGE);
    CHECK(q->abort(q->context, 2) == MSC4203_E_USAGE);
    for (i = 1; i <= 32; i++)
        CHECK(q->begin(q->context, &batch) == MSC4203_OK && batch == i);
    CHECK(q->begin(q->context, &batch) == MSC4203_E_QUEUE_FULL);
    message.channels = 0;
    CHECK(q->push(q->context, 3, &message) == MSC4203_E_USAGE);
    message.channels = 2;
    CHECK(q->push(q->context, 3, &message) == MSC4203_OK);
    CHECK(q->release(q->context, 1) == MSC4203_E_BUSY);
    CHECK(q->abort(q->context, 3) == MSC4203_OK && q->abort(q->context, 4) == MSC4203_OK);
    CHECK(q->commit(q->context, 5, NULL, &number) == MSC4203_OK); /* an empty one */
    contract_request(7, 1, &request); /* and one with a request, which is remembered */
    CHECK(q->commit(q->context, 6, &request, &number) == MSC4203_OK);
    CHECK(q->known(q->context, &request) == MSC4203_KNOWN);
    CHECK(q->release(q->context, 1) == MSC4203_OK);
    letters[254] = '!';
    CHECK(q->channel(q->context, &name, 1, &channel) == MSC4203_OK && channel == 1);
    CHECK(bench_flush(&b) == MSC4203_OK && bench_damaged(&b) == 0);
    fake_forget(&b.fake);
    CHECK(bench_open(&b) == MSC4203_OK && q->known(q->context, &request) == MSC4203_KNOWN);
    bench_free(&b);
}

/* ---- sizes of messages and records ---- */

static void test_large(void)
{
    static struct bench b;
    msc4203_queue *q = &b.queue;
    msc4203_message message, got;
    msc4203_span name = contract_span("irc"), record, read;
    msc4203_span *span[4];
    uint64_t number;
    uint32_t batch, channel;
    size_t i;

    limits_config(&b, &shapes[SHAPE_4096], 4 << 20, 64, 8, 130000);
    message = limits_message(10);
    span[0] = &message.item.sender;
    span[1] = &message.item.type;
    span[2] = &message.item.user_id;
    span[3] = &message.item.device_id;
    CHECK(q->begin(q->context, &batch) == MSC4203_OK);
    memset(limits_text, 'x', sizeof limits_text);
    for (i = 0; i < 4; i++) {
        msc4203_span had = *span[i];
        span[i]->ptr = limits_text;
        span[i]->len = 65536;
        CHECK(q->push(q->context, batch, &message) == MSC4203_E_TOO_LARGE);
        span[i]->len = 65535;
        CHECK(q->push(q->context, batch, &message) == MSC4203_OK);
        *span[i] = had;
    }
    message = limits_message(0);
    message.item.content.len = 130000 - message.item.sender.len - message.item.type.len -
                               message.item.user_id.len - message.item.device_id.len;
    CHECK(q->push(q->context, batch, &message) == MSC4203_OK);
    message.item.content.len++;
    CHECK(q->push(q->context, batch, &message) == MSC4203_E_TOO_LARGE);
    CHECK(q->commit(q->context, batch, NULL, &number) == MSC4203_OK);
    CHECK(bench_flush(&b) == MSC4203_OK);
    CHECK(q->next(q->context, 1, NULL, 0, limits_memory, 65000, &got) == MSC4203_E_TOO_LARGE);
    CHECK(got.number == number && got.bytes > 65535);
    /* memory for just the message, or for all of its record */
    for (i = 0; i < 100; i++) {
        CHECK(q->next(q->context, 1, NULL, 0, limits_memory, got.bytes + i, &got) == MSC4203_ITEM);
        CHECK(got.item.sender.len == 65535 && got.item.sender.ptr == limits_memory);
    }
    CHECK(q->channel(q->context, &name, 1, &channel) == MSC4203_OK);
    record.ptr = limits_text;
    record.len = 4097;
    CHECK(q->hold(q->context, channel, 0, &record) == MSC4203_E_TOO_LARGE);
    CHECK(q->done(q->context, channel, NULL, 0, &record) == MSC4203_E_TOO_LARGE);
    record.len = 4096;
    CHECK(q->hold(q->context, channel, UINT64_MAX, &record) == MSC4203_OK);
    CHECK(q->record(q->context, channel, limits_memory, 4098, NULL, &read) ==
          MSC4203_E_TOO_LARGE);
    CHECK(q->record(q->context, channel, limits_memory, 4099, &name, &read) == MSC4203_OK &&
          read.len == 4096 && name.len == 3);
    CHECK(q->record(q->context, channel, limits_memory, 4099, NULL, NULL) == MSC4203_OK);
    record.len = 0;
    CHECK(q->hold(q->context, PARKED, 0, &record) == MSC4203_OK); /* neither name nor record */
    CHECK(q->record(q->context, PARKED, limits_memory, 10, &name, &read) == MSC4203_OK &&
          read.len == 0 && name.len == 0);
    bench_free(&b);
}

/* ---- full ---- */

static void test_full(void)
{
    static struct bench b;
    msc4203_queue *q = &b.queue;
    msc4203_message message = limits_message(100), got;
    msc4203_counts counts;
    msc4203_device who;
    uint64_t number = 0, moved;
    uint32_t batch = 0, one, i;
    char device[16];
    int result;

    /* devices */
    limits_config(&b, &shapes[SHAPE_512], 256 * 1024, 64, 4, 500);
    for (i = 4; i-- != 0;)
        CHECK(bench_push(&b, 2, i, 100, &number) == MSC4203_OK);
    number -= 3; /* the first one */
    CHECK(bench_push(&b, 2, 4, 100, NULL) == MSC4203_E_QUEUE_FULL);
    CHECK(bench_push(&b, 2, 3, 100, NULL) == MSC4203_OK);
    CHECK(bench_flush(&b) == MSC4203_OK);
    CHECK(q->done(q->context, 1, NULL, number, NULL) == MSC4203_OK);
    CHECK(bench_push(&b, 2, 4, 100, NULL) == MSC4203_E_QUEUE_FULL); /* device 3 has another one */
    CHECK(q->done(q->context, 1, NULL, number + 1, NULL) == MSC4203_OK);
    CHECK(bench_push(&b, 2, 4, 100, NULL) == MSC4203_OK);
    bench_free(&b);
    /* messages; moving one that stays needs a place, too */
    limits_config(&b, &shapes[SHAPE_512], 256 * 1024, 64, 4, 500);
    for (i = 0; i < 64; i++)
        CHECK(bench_push(&b, 6, 1, 100, &number) == MSC4203_OK);
    CHECK(bench_push(&b, 2, 1, 100, NULL) == MSC4203_E_QUEUE_FULL);
    CHECK(bench_flush(&b) == MSC4203_OK);
    CHECK(q->move(q->context, 1, NULL, number, 8, &moved) == MSC4203_E_QUEUE_FULL);
    CHECK(q->move(q->context, 1, NULL, number, 0, &moved) == MSC4203_OK);
    CHECK(q->move(q->context, 2, NULL, number, 8, &moved) == MSC4203_OK); /* it waits there alone */
    CHECK(q->done(q->context, 1, NULL, 1, NULL) == MSC4203_OK);
    bench_free(&b);
    /* messages of open batches: they need two places while they are committed */
    limits_config(&b, &shapes[SHAPE_512], 256 * 1024, 64, 4, 500);
    CHECK(bench_push(&b, 2, 1, 100, NULL) == MSC4203_OK);
    CHECK(q->begin(q->context, &one) == MSC4203_OK && q->begin(q->context, &batch) == MSC4203_OK);
    CHECK(q->push(q->context, one, &message) == MSC4203_OK);
    for (i = 0; (result = q->push(q->context, batch, &message)) == MSC4203_OK; i++)
        CHECK(i < 64);
    CHECK(result == MSC4203_E_QUEUE_FULL && i >= 32);
    CHECK(q->commit(q->context, batch, NULL, &number) == MSC4203_OK);
    CHECK(q->begin(q->context, &batch) == MSC4203_OK);
    for (i = 0; (result = q->push(q->context, batch, &message)) == MSC4203_OK; i++)
        CHECK(i < 64);
    CHECK(result == MSC4203_E_QUEUE_FULL);
    CHECK(q->commit(q->context, batch, NULL, &number) == MSC4203_OK);
    CHECK(q->commit(q->context, one, NULL, &number) == MSC4203_OK);
    CHECK(bench_flush(&b) == MSC4203_OK && bench_damaged(&b) == 0);
    fake_forget(&b.fake);
    CHECK(bench_open(&b) == MSC4203_OK && bench_damaged(&b) == 0);
    bench_free(&b);
    /* many that are done, and a large batch: reading takes out what is done before it is full */
    limits_config(&b, &shapes[SHAPE_512], 256 * 1024, 64, 8, 500);
    for (i = 0; i < 45; i++) {
        CHECK(bench_push(&b, 2, 1, 100, &number) == MSC4203_OK && bench_flush(&b) == MSC4203_OK);
        CHECK(q->done(q->context, 1, NULL, number, NULL) == MSC4203_OK);
    }
    CHECK(q->begin(q->context, &batch) == MSC4203_OK);
    for (i = 0; i < 40; i++)
        CHECK(q->push(q->context, batch, &message) == MSC4203_OK);
    CHECK(q->commit(q->context, batch, NULL, &number) == MSC4203_OK);
    CHECK(bench_flush(&b) == MSC4203_OK);
    fake_forget(&b.fake);
    CHECK(bench_open(&b) == MSC4203_OK && bench_damaged(&b) == 0);
    CHECK(q->count(q->context, 1, NULL, &counts) == MSC4203_OK && counts.messages == 40);
    bench_free(&b);
    /* a batch that is as large as can be: each of its messages comes, and is itself */
    limits_config(&b, &shapes[SHAPE_512], 256 * 1024, 64, 64, 500);
    CHECK(q->begin(q->context, &batch) == MSC4203_OK);
    for (i = 0; bench_add(&b, batch, 2, i, 10 + i) == MSC4203_OK; i++)
        ;
    CHECK(i >= 32 && q->commit(q->context, batch, NULL, &number) == MSC4203_OK);
    CHECK(bench_flush(&b) == MSC4203_OK);
    for (one = 0; one < i; one++) {
        bench_device(one, device, &who);
        CHECK(q->next(q->context, 1, NULL, number + one - 1, limits_memory, sizeof limits_memory,
                      &got) == MSC4203_ITEM && got.number == number + one);
        CHECK(got.item.device_id.len == who.device_id.len &&
              memcmp(got.item.device_id.ptr, who.device_id.ptr, who.device_id.len) == 0);
    }
    CHECK(q->count(q->context, 1, NULL, &counts) == MSC4203_OK && counts.messages == i);
    bench_free(&b);
    /* bytes: a channel's record has no room then, and a message moves only where it waits alone, to
     * a channel whose record has its room */
    limits_config(&b, &shapes[SHAPE_512], 64 * 1024, 1000, 4, 3000);
    while (bench_push(&b, 6, 1, 2500, &number) == MSC4203_OK)
        ;
    while (bench_push(&b, 6, 1, 10, &number) == MSC4203_OK)
        ;
    CHECK(bench_flush(&b) == MSC4203_OK);
    CHECK(q->move(q->context, 1, NULL, number, 8, &moved) == MSC4203_E_QUEUE_FULL);
    CHECK(q->channel(q->context, &message.item.type, 1, &batch) == MSC4203_E_QUEUE_FULL);
    CHECK(q->done(q->context, 2, NULL, UINT64_MAX, NULL) == MSC4203_OK);
    CHECK(q->move(q->context, 1, NULL, number, 8, &moved) == MSC4203_E_QUEUE_FULL);
    CHECK(q->move(q->context, 1, NULL, number, 4, &moved) == MSC4203_OK);
    bench_free(&b);
}

static void test_quotas(void)
{
    static struct bench b;
    int kind;

    for (kind = 0; kind < 2; kind++) {
        limits_config(&b, &shapes[SHAPE_512], 256 * 1024, 64, 8, 500);
        msc4203_log_quotas(&b.log, kind == 0 ? 1000 : 0, kind == 1 ? 1000 : 0);
        CHECK(bench_push(&b, 6, 1, 400, NULL) == MSC4203_OK);
        CHECK(bench_push(&b, 2, 1, 400, NULL) == MSC4203_E_QUOTA);
        CHECK(bench_push(&b, 4, 2, 400, NULL) == (kind == 0 ? MSC4203_E_QUOTA : MSC4203_OK));
        CHECK(bench_push(&b, 1, 3, 400, NULL) == MSC4203_OK); /* /sync: only a device's limit */
        CHECK(bench_push(&b, 1, 4, 400, NULL) == MSC4203_OK);
        CHECK(bench_push(&b, 8, 5, 400, NULL) == MSC4203_OK);
        msc4203_log_quotas(&b.log, ((uint64_t)1 << 36) + 16, ((uint64_t)1 << 36) + 16);
        CHECK(bench_push(&b, 2, 1, 400, NULL) == MSC4203_OK);
        bench_free(&b);
    }
}

/* Numbers, and the sequence numbers of segments, at their ends. */
static void test_numbers(void)
{
    static struct bench b;
    msc4203_queue *q = &b.queue;
    uint64_t number, moved;

    limits_config(&b, &shapes[SHAPE_512], 64 * 1024, 64, 8, 1000);
    b.log.priv.next = ((uint64_t)1 << 43) - 3;
    CHECK(bench_push(&b, 2, 1, 100, &number) == MSC4203_OK && bench_flush(&b) == MSC4203_OK);
    CHECK(q->move(q->context, 1, NULL, number, 4, &moved) == MSC4203_OK);
    CHECK(bench_push(&b, 2, 1, 100, NULL) == MSC4203_E_QUEUE_FULL);
    CHECK(bench_flush(&b) == MSC4203_OK);
    CHECK(q->move(q->context, 2, NULL, moved, 8, &moved) == MSC4203_E_QUEUE_FULL);
    bench_free(&b);
    limits_config(&b, &shapes[SHAPE_512], 64 * 1024, 64, 8, 2000);
    b.log.priv.segment[b.log.priv.current].sequence = UINT32_MAX - 2;
    b.log.priv.sequence = b.log.priv.oldest = UINT32_MAX - 2;
    b.log.priv.safe = b.log.priv.stated = b.log.priv.unused = UINT32_MAX - 2;
    bench_age(&b, 200);
    CHECK(bench_push(&b, 2, 1, 100, &number) == MSC4203_OK && bench_flush(&b) == MSC4203_OK);
    CHECK(b.log.priv.sequence < 1000);
    fake_forget(&b.fake);
    bench_hurt(&b);
    CHECK(bench_open(&b) == MSC4203_OK && bench_damaged(&b) == 0);
    CHECK(q->move(q->context, 1, NULL, number, 0, NULL) == MSC4203_OK);
    bench_free(&b);
}

/* ---- sizes of logs ---- */

static size_t limits_needs(uint64_t bytes, uint32_t sector, uint32_t block,
                           const msc4203_log_config *config)
{
    msc4203_storage storage;
    msc4203_log log;

    memset(&storage, 0, sizeof storage);
    storage.bytes = bytes;
    storage.sector = sector;
    storage.block = block;
    return msc4203_log_memory(&log, &storage, config);
}

static void test_sizes(void)
{
    const uint64_t gib = (uint64_t)1 << 30, mib = (uint64_t)1 << 20;
    static struct bench b;
    msc4203_log_config c;
    uint64_t bytes;

    memset(&c, 0, sizeof c);
    CHECK(limits_needs(16 * mib, 4096, 0, NULL) == limits_needs(16 * mib, 4096, 0, &c));
    CHECK(limits_needs(16 * mib, 0, 0, &c) == limits_needs(16 * mib, 4096, 0, &c));
    CHECK(limits_needs(16 * mib, 1, 0, &c) != 0 && limits_needs(16 * mib, 8, 0, &c) != 0);
    CHECK(limits_needs(8 * gib, 4096, 0, &c) != 0);
    CHECK(limits_needs(8 * gib + 1, 4096, 0, &c) == 0);
    CHECK(limits_needs((uint64_t)1 << 60, 4096, 0, &c) == 0);
    CHECK(limits_needs(4095, 1, 0, &c) == 0 && limits_needs(1000, 1, 0, &c) == 0);
    CHECK(limits_needs(0, 1, 0, &c) == 0 && limits_needs(20000, 4096, 0, &c) == 0);
    CHECK(limits_needs(16 * mib, 24, 0, &c) == 0);            /* not a multiple of 16 */
    CHECK(limits_needs(8 * gib, (1 << 24) + 16, 0, &c) == 0); /* too large */
    CHECK(limits_needs(16 * mib, 4096, 6000, &c) == 0);       /* a block is whole sectors */
    CHECK(limits_needs(8 * gib, 4096, 1 << 28, &c) == 0);
    CHECK(limits_needs(8 * gib, 4096, 100 << 20, &c) == 0); /* too many units, rounded up */
    CHECK(limits_needs(16 * mib, 256, 65536, &c) != 0);
    CHECK(limits_needs(mib, 48, 0, &c) != 0);
    c.sector = 6000; /* not a multiple of the storage's */
    CHECK(limits_needs(16 * mib, 4096, 0, &c) == 0);
    c.sector = 8192;
    CHECK(limits_needs(16 * mib, 4096, 0, &c) != 0);
    c.sector = 512; /* the storage's is larger */
    CHECK(limits_needs(16 * mib, 4096, 0, &c) != 0);
    c.sector = 0;
    c.message_bytes = 131000;
    CHECK(limits_needs(16 * mib, 4096, 0, &c) == 0);
    c.message_bytes = 130000;
    CHECK(limits_needs(16 * mib, 4096, 0, &c) != 0 && limits_needs(mib, 4096, 0, &c) == 0);
    c.message_bytes = 1000;
    CHECK(limits_needs(mib, 4096, 0, &c) != 0);
    c.messages = 1700001;
    CHECK(limits_needs(gib, 4096, 0, &c) == 0);
    c.messages = 1700000;
    CHECK(limits_needs(gib, 4096, 0, &c) >= 23u * 1700000);
    c.messages = 0;
    c.devices = 500001;
    CHECK(limits_needs(gib, 4096, 0, &c) == 0);
    c.devices = 500000;
    CHECK(limits_needs(gib, 4096, 0, &c) != 0);
    c.devices = 1;
    c.requests = 1 << 20;
    CHECK(limits_needs(mib, 4096, 0, &c) == 0);
    c.requests = 1;
    c.openings = 1 << 20;
    CHECK(limits_needs(mib, 4096, 0, &c) == 0);
    c.openings = 1;
    CHECK(limits_needs(mib, 4096, 0, &c) != 0);
    /* 64 KiB for 256 messages, 32 devices and 64 requests, in at most 16 KiB with all */
    memset(&c, 0, sizeof c);
    c.messages = 256;
    c.devices = 32;
    c.requests = 64;
    CHECK(limits_needs(65536, 1, 0, &c) != 0);
    CHECK(limits_needs(65536, 1, 0, &c) + sizeof(msc4203_log) <= 16384);
    CHECK(limits_needs(65536, 512, 0, &c) + sizeof(msc4203_log) <= 16384);
    CHECK(limits_needs(65536, 256, 4096, &c) + sizeof(msc4203_log) <= 16384);
    /* whatever fits can be made, filled and emptied: the smallest ones */
    memset(&c, 0, sizeof c);
    for (bytes = 4096; limits_needs(bytes, 512, 0, &c) == 0; bytes += 512)
        ;
    bench_storage(&b, &shapes[SHAPE_512], (size_t)bytes, 0, 0);
    memset(&b.config, 0, sizeof b.config);
    bench_start(&b, 0);
    while (bench_push(&b, 2, 1, 30, NULL) == MSC4203_OK)
        CHECK(bench_flush(&b) == MSC4203_OK);
    CHECK(b.queue.done(b.queue.context, 1, NULL, UINT64_MAX, NULL) == MSC4203_OK);
    bench_age(&b, 100);
    CHECK(msc4203_log_format(&b.log, b.storage, NULL, b.index, 511, 1) == MSC4203_E_INDEX);
    CHECK(msc4203_log_format(&b.log, b.storage, NULL, b.index, 512, 1) == MSC4203_OK);
    b.config.messages = 1700001;
    CHECK(msc4203_log_format(&b.log, b.storage, &b.config, b.index, 512, 1) == MSC4203_E_REGION);
    CHECK(bench_open(&b) == MSC4203_OK);
    b.fake.storage.sector = 4096; /* other than the log was made for */
    CHECK(bench_open(&b) == MSC4203_E_REGION);
    CHECK(msc4203_log_inspect(&b.log, b.storage, &c) == MSC4203_E_REGION);
    b.fake.storage.sector = 24;
    CHECK(msc4203_log_inspect(&b.log, b.storage, &c) == MSC4203_E_REGION);
    CHECK(msc4203_log_format(&b.log, b.storage, NULL, b.index, 512, 1) == MSC4203_E_REGION);
    b.fake.storage.sector = 512;
    CHECK(bench_open(&b) == MSC4203_OK);
    bench_free(&b);
    bench_init(&b, &shapes[SHAPE_512], 512 * 1024, 0, 0); /* segments of 4,096 bytes */
    b.fake.storage.sector = 1024;
    CHECK(msc4203_log_inspect(&b.log, b.storage, &c) == MSC4203_E_REGION);
    b.fake.storage.sector = 512;
    b.fake.storage.block = 8192;
    CHECK(msc4203_log_inspect(&b.log, b.storage, &c) == MSC4203_E_REGION);
    b.fake.storage.block = 0;
    CHECK(bench_open(&b) == MSC4203_OK);
    bench_free(&b);
}

/* ---- little memory, much to read ---- */

/* Many devices had messages, one after the other; few can at a time. Reading the log takes out what
 * the marks say before there are too many; where marks were damaged, there may be. */
static void test_few(uint32_t messages, uint32_t devices, int one_by_one)
{
    static struct bench b;
    unsigned char *image;
    unsigned long i, round, lost = 0;
    uint64_t number = 0;
    msc4203_device who;
    char id[16];

    limits_config(&b, &shapes[SHAPE_512], 128 * 1024, messages, devices, 300);
    for (i = 0; i < 600; i++) {
        CHECK(bench_push(&b, i % 3 == 0 ? 3 : 2, (unsigned)i, 100 + i % 100, &number) ==
              MSC4203_OK);
        CHECK(bench_flush(&b) == MSC4203_OK);
        if (i % 40 == 39) {
            fake_forget(&b.fake);
            bench_hurt(&b);
            CHECK(bench_open(&b) == MSC4203_OK && bench_damaged(&b) == 0);
        }
        bench_device((unsigned)i, id, &who);
        if (i % 2 == 0 || one_by_one)
            CHECK(b.queue.move(b.queue.context, 1, NULL, number,
                               i % 4 == 0 && !one_by_one ? 4 : 0, NULL) == MSC4203_OK);
        CHECK(b.queue.done(b.queue.context, 0, &who, number, NULL) == MSC4203_OK);
        CHECK(b.queue.done(b.queue.context, 1, NULL, number, NULL) == MSC4203_OK);
        if (i % 10 == 9 || !one_by_one)
            CHECK(b.queue.flush(b.queue.context) == MSC4203_OK);
        CHECK(b.queue.done(b.queue.context, 2, NULL, UINT64_MAX, NULL) == MSC4203_OK);
    }
    CHECK(bench_flush(&b) == MSC4203_OK);
    image = (unsigned char *)malloc(b.fake.bytes);
    if (image == NULL)
        exit(2);
    memcpy(image, b.fake.seen, b.fake.bytes);
    for (round = 0; round < test_shared(2000, 60); round++) {
        size_t places = 1 + test_below(400), k;

        fake_restore(&b.fake, image);
        for (k = 0; k < places; k++)
            b.fake.seen[test_below(b.fake.bytes)] ^= (unsigned char)(1 + test_below(255));
        for (k = 0; round % 8 == 0 && k < b.fake.bytes; k += 16) /* all that says "taken" */
            if (b.fake.seen[k] == 2 && b.fake.seen[k + 3] == 10)
                b.fake.seen[k + 8]++;
        bench_hurt(&b);
        i = (unsigned long)bench_open(&b);
        if ((int)i != MSC4203_OK)
            continue;
        lost += bench_damaged(&b) != 0;
        CHECK(b.queue.done(b.queue.context, 1, NULL, UINT64_MAX, NULL) == MSC4203_OK);
        CHECK(b.queue.done(b.queue.context, 2, NULL, UINT64_MAX, NULL) == MSC4203_OK);
        CHECK(b.queue.expire(b.queue.context, UINT64_MAX, NULL) == MSC4203_OK);
        CHECK(bench_push(&b, 2, 1, 100, NULL) == MSC4203_OK && bench_flush(&b) == MSC4203_OK);
    }
    CHECK(lost > 10);
    free(image);
    bench_free(&b);
}

/* The only message of a device was damaged; what took it out is still there. */
static void test_lost_device(void)
{
    static struct bench b;
    msc4203_device who;
    uint64_t number, at = 0;
    char id[16];
    size_t i;

    limits_config(&b, &shapes[SHAPE_512], 64 * 1024, 64, 8, 500);
    CHECK(bench_push(&b, 1, 3, 300, &number) == MSC4203_OK && bench_flush(&b) == MSC4203_OK);
    for (i = 0; i + 7 < b.fake.bytes && at == 0; i++) /* its device id is in no other record */
        if (memcmp(b.fake.seen + i, "DEV0000003", 10) == 0)
            at = i;
    CHECK(at > 300);
    bench_device(3, id, &who);
    CHECK(b.queue.done(b.queue.context, 0, &who, number, NULL) == MSC4203_OK);
    CHECK(bench_flush(&b) == MSC4203_OK);
    CHECK(bench_push(&b, 1, 2, 300, &number) == MSC4203_OK && bench_flush(&b) == MSC4203_OK);
    memset(b.fake.seen + at - 100, 0x55, 60);
    fake_forget(&b.fake);
    bench_hurt(&b);
    CHECK(bench_open(&b) == MSC4203_OK && bench_damaged(&b) == 1);
    bench_free(&b);
}

/* A segment in the middle is lost: that counts once, however often it is missed. */
static void test_lost_segment(void)
{
    static struct bench b;
    size_t segment;

    limits_config(&b, &shapes[SHAPE_512], 256 * 1024, 400, 8, 500);
    segment = bench_segment(&b);
    while (b.log.priv.sequence < 5)
        CHECK(bench_push(&b, 2, 1, 400, NULL) == MSC4203_OK && bench_flush(&b) == MSC4203_OK);
    memset(b.fake.seen + 2 * segment, 0x55, segment);
    fake_forget(&b.fake);
    bench_hurt(&b);
    CHECK(bench_open(&b) == MSC4203_OK && bench_damaged(&b) == 1);
    bench_free(&b);
}

/* The header of the newest segment is lost: what was flushed into it is there all the same, and the
 * loss is counted. Also where that is the first segment since an opening, before which the power
 * failed in some openings. */
static void test_lost_header(const struct shape *shape, int closed, unsigned tries, unsigned seed)
{
    static struct bench b;
    msc4203_queue *q = &b.queue;
    msc4203_message got;
    uint64_t number[8], after;
    size_t at, before = 0;
    uint32_t batch;
    unsigned i, pushed = 0;

    test_seed(seed);
    bench_storage(&b, shape, shape->bytes, 0, 1);
    bench_start(&b, 0);
    bench_age(&b, test_below(60));
    CHECK(q->done(q->context, 1, NULL, UINT64_MAX, NULL) == MSC4203_OK);
    while (pushed < 2)
        CHECK(bench_push(&b, 2, 1, 100, &number[pushed++]) == MSC4203_OK);
    CHECK((closed ? msc4203_log_close(&b.log) : bench_flush(&b)) == MSC4203_OK);
    for (i = 0; i < tries; i++) {
        fake_crash(&b.fake);
        b.fake.fail_at = b.fake.calls + 1 + test_below(5);
        b.fake.after = (int)test_below(FAKE_WHENS);
        if (bench_open(&b) == MSC4203_OK && q->begin(q->context, &batch) == MSC4203_OK &&
            bench_add(&b, batch, 4, 1, 300) == MSC4203_OK &&
            q->commit(q->context, batch, NULL, &after) == MSC4203_OK)
            (void)bench_flush(&b);
    }
    fake_crash(&b.fake);
    CHECK(bench_open(&b) == MSC4203_OK && bench_damaged(&b) == 0);
    while (pushed < 8) {
        before = (size_t)b.fake.end - 1;
        CHECK(bench_push(&b, 2, 1, 100, &number[pushed++]) == MSC4203_OK &&
              bench_flush(&b) == MSC4203_OK);
    }
    at = b.log.priv.current * bench_segment(&b);
    if (before / bench_segment(&b) != at / bench_segment(&b)) {
        bench_free(&b); /* all of it is the last flush, which may be taken for torn */
        return;
    }
    for (i = 0; i < 128; i++)
        b.fake.seen[at + i] = b.fake.durable[at + i] =
            (unsigned char)(seed % 3 == 0 ? 0 : seed % 3 == 1 ? 0xFF : test_random() >> 24);
    fake_crash(&b.fake);
    bench_hurt(&b);
    CHECK(bench_open(&b) == MSC4203_OK && bench_damaged(&b) != 0);
    for (i = 0, after = 0; i < 8; i++) {
        CHECK(q->next(q->context, 1, NULL, after, limits_memory, sizeof limits_memory, &got) ==
                  MSC4203_ITEM && got.number == number[i]);
        after = number[i];
    }
    CHECK(q->next(q->context, 1, NULL, after, limits_memory, sizeof limits_memory, &got) ==
          MSC4203_END);
    CHECK(bench_push(&b, 2, 1, 100, &after) == MSC4203_OK && after > number[7]);
    bench_free(&b);
}

/* Channels without names get records, as far as there is room for them: a log is never too full for
 * what it has, and takes as much when it was opened again. */
static void test_unnamed(void)
{
    static struct bench b;
    msc4203_queue *q = &b.queue;
    msc4203_span record = contract_span("r");
    msc4203_log_usage before, after;
    uint32_t channel, taken = 0;

    limits_config(&b, &shapes[SHAPE_512], 64 * 1024, 64, 8, 1000);
    for (channel = 1; channel < MSC4203_CHANNEL_PARKED; channel++) {
        int result = channel % 2 ? q->hold(q->context, channel, 0, &record)
                                 : q->done(q->context, channel, NULL, 0, &record);
        if (result == MSC4203_OK)
            CHECK(++taken == channel); /* once it is full it stays so */
        else
            CHECK(result == MSC4203_E_QUEUE_FULL);
        msc4203_log_usage_get(&b.log, &after);
        CHECK(after.used <= after.capacity);
    }
    CHECK(taken != 0 && taken < MSC4203_CHANNEL_PARKED - 1);
    CHECK(q->hold(q->context, 1, 0, &record) == MSC4203_OK); /* again, for which there is room */
    CHECK(q->hold(q->context, MSC4203_CHANNEL_PARKED, 0, &record) == MSC4203_OK);
    CHECK(q->release(q->context, 1) == MSC4203_OK);
    CHECK(bench_push(&b, 2, 1, 100, NULL) == MSC4203_OK && bench_flush(&b) == MSC4203_OK);
    msc4203_log_usage_get(&b.log, &before);
    fake_forget(&b.fake);
    CHECK(bench_open(&b) == MSC4203_OK);
    msc4203_log_usage_get(&b.log, &after);
    CHECK(after.capacity == before.capacity && after.used == before.used);
    bench_free(&b);
    /* a large message makes a log take less, from now on, as one that was opened with it */
    limits_config(&b, &shapes[SHAPE_512], 1024 * 1024, 64, 8, 12000);
    CHECK(bench_push(&b, 2, 1, 100, NULL) == MSC4203_OK);
    msc4203_log_usage_get(&b.log, &before);
    CHECK(bench_push(&b, 2, 1, 10000, NULL) == MSC4203_OK && bench_flush(&b) == MSC4203_OK);
    msc4203_log_usage_get(&b.log, &after);
    CHECK(after.capacity < before.capacity);
    before = after;
    fake_forget(&b.fake);
    CHECK(bench_open(&b) == MSC4203_OK);
    msc4203_log_usage_get(&b.log, &after);
    CHECK(after.capacity == before.capacity && after.used == before.used);
    bench_free(&b);
}

/* The records that gave out numbers are damaged, and the mark behind them is not: what comes later
 * gets other numbers, and is not taken for done, or for what is in flight. Of these marks: */
enum { LOST_DONE, LOST_SYNCED, LOST_HELD, LOST_KINDS };
static void test_numbers_lost(int kind)
{
    static struct bench b;
    msc4203_queue *q = &b.queue;
    msc4203_span record = contract_span("r");
    msc4203_message got;
    msc4203_device who;
    char device[16];
    uint64_t number = 0, last = 0, at = 0, end = 0;
    uint32_t batch, i, k;
    int held = kind == LOST_HELD;

    limits_config(&b, &shapes[SHAPE_512], 4 << 20, 64, 8, 2000);
    bench_device(0, device, &who);
    while (b.fake.end % bench_segment(&b) > 2048)
        bench_age(&b, 1);
    for (i = 0; i < 9; i++) { /* more messages than can wait */
        CHECK(q->begin(q->context, &batch) == MSC4203_OK);
        for (k = 0; k < 25; k++)
            CHECK(bench_add(&b, batch, kind == LOST_SYNCED ? 1 : held && i < 8 ? 4 : 2, 0, 1) ==
                  MSC4203_OK);
        CHECK(q->commit(q->context, batch, NULL, &number) == MSC4203_OK);
        CHECK(bench_flush(&b) == MSC4203_OK);
        at = i == 1 ? b.fake.end : at;
        end = b.fake.end;
        last = number + 24;
        if (held && i == 8)
            CHECK(q->hold(q->context, 1, last, &record) == MSC4203_OK);
        else if (kind == LOST_SYNCED)
            CHECK(q->done(q->context, 0, &who, last, NULL) == MSC4203_OK);
        else
            CHECK(q->done(q->context, held ? 2 : 1, NULL, last, NULL) == MSC4203_OK);
    }
    for (i = 0; i < 3; i++)
        CHECK(q->hold(q->context, PARKED, 0, &record) == MSC4203_OK &&
              bench_flush(&b) == MSC4203_OK);
    CHECK(at < end && at / bench_segment(&b) == end / bench_segment(&b));
    memset(b.fake.seen + at, 0xEE, (size_t)(end - at));
    bench_hurt(&b);
    CHECK(bench_open(&b) == MSC4203_OK && bench_damaged(&b) != 0);
    CHECK(bench_push(&b, 3, 0, 1, &number) == MSC4203_OK && number > last);
    CHECK(bench_flush(&b) == MSC4203_OK);
    CHECK(q->next(q->context, kind == LOST_SYNCED ? 0 : 1, kind == LOST_SYNCED ? &who : NULL,
                  held ? last : 0, limits_memory, sizeof limits_memory, &got) ==
          MSC4203_ITEM);
    CHECK(got.number == number);
    bench_free(&b);
}

/* The power fails again and again, while requests come and go: what is remembered must not be
 * copied more and more often, until there is no room for anything else. */
static void test_crashes(const struct shape *shape)
{
    static struct bench b;
    msc4203_queue *q = &b.queue;
    msc4203_request request;
    uint64_t number;
    uint32_t batch, begun = 0, used[2] = {0, 0};
    unsigned i, k, rounds = 60;

    bench_storage(&b, shape, shape->bytes * 4, 0, 1);
    b.config.requests = 64;
    b.config.openings = 64;
    bench_start(&b, 0);
    for (i = 0; i < 10 * rounds; i++) {
        if (i % rounds == 0)
            begun = b.log.priv.sequence;
        for (k = test_below(8); k != 0; k--) {
            contract_request(i * 8 + k, 1, &request);
            CHECK(q->begin(q->context, &batch) == MSC4203_OK);
            CHECK(bench_add(&b, batch, 2, 1, 1 + test_below(400)) == MSC4203_OK);
            CHECK(q->commit(q->context, batch, &request, &number) == MSC4203_OK);
            if (test_below(2))
                CHECK(q->done(q->context, 1, NULL, UINT64_MAX, NULL) == MSC4203_OK);
            if (test_below(2))
                CHECK(bench_flush(&b) == MSC4203_OK);
        }
        if (i % rounds == rounds - 1 && i / rounds != 0)
            used[i / rounds / 5] += b.log.priv.sequence - begun;
        fake_crash(&b.fake);
        memset(b.opened, 0, sizeof b.opened);
        CHECK(bench_open(&b) == MSC4203_OK && bench_damaged(&b) == 0);
        CHECK(q->done(q->context, 1, NULL, UINT64_MAX, NULL) == MSC4203_OK);
    }
    printf("crashes, %s: %lu segments in the first half, %lu in the second\n", shape->name,
           (unsigned long)used[0], (unsigned long)used[1]);
    CHECK(used[1] / 5 <= used[0] / 4 * 5 / 4 + 2); /* rounds 1 to 4, and 5 to 9 */
    bench_free(&b);
}

/* The power fails again and again, as soon as the log was opened. */
static void test_openings(void)
{
    static struct bench b;
    unsigned i;

    bench_storage(&b, &shapes[SHAPE_512], 64 * 1024, 0, 0);
    b.config.openings = 200;
    bench_start(&b, 0);
    for (i = 0; i < 150; i++) {
        fake_forget(&b.fake);
        CHECK(bench_open(&b) == MSC4203_OK && bench_damaged(&b) == 0);
    }
    bench_age(&b, 50);
    bench_free(&b);
}

/* An index that leads elsewhere, as from memory that has changed: that is damage, and no more. */
static void test_wrong_index(void)
{
    static struct bench b;
    msc4203_queue *q = &b.queue;
    msc4203_message message, got;
    msc4203_span name = contract_span("irc"), read;
    uint64_t number, expired;
    uint32_t batch, channel, i, place;
    int kind;

    for (kind = 0; kind < 5; kind++) {
        struct msc4203_log_state *s = &b.log.priv;

        limits_config(&b, &shapes[SHAPE_512], 64 * 1024, 64, 8, 500);
        CHECK(q->channel(q->context, &name, 1, &channel) == MSC4203_OK);
        CHECK(bench_push(&b, 2, 1, 300, &number) == MSC4203_OK && bench_flush(&b) == MSC4203_OK);
        place = s->entry[1].place;
        if (kind == 0) /* past the segment's end, where that is no power of two */
            s->channel[channel].position = ((uint32_t)1 << s->shift) - 1;
        else if (kind == 1)
            s->channel[channel].position = place & 0x1FFFFFFF;
        else if (kind == 2)
            s->entry[1].place = s->channel[channel].position;
        else if (kind == 3)
            s->entry[1].device -= (uint32_t)10 << 19; /* it is longer than it seems */
        CHECK(bench_push(&b, 1, 1, 300, NULL) == MSC4203_OK && bench_flush(&b) == MSC4203_OK);
        s->entry[2].place = ((uint32_t)1 << s->shift) - 1;
        CHECK(q->expire(q->context, 1, &expired) == MSC4203_OK && expired == 1);
        if (kind < 2) {
            CHECK(q->record(q->context, channel, limits_memory, 1000, NULL, &read) ==
                  MSC4203_E_DAMAGED);
            CHECK(q->record(q->context, channel, limits_memory, 1000, NULL, &read) ==
                  MSC4203_E_DAMAGED);
            CHECK(bench_damaged(&b) == 1);
        } else if (kind < 4) {
            CHECK(q->next(q->context, 1, NULL, 0, limits_memory, sizeof limits_memory, &got) ==
                  MSC4203_E_DAMAGED && got.number == number);
            CHECK(q->move(q->context, 1, NULL, number, 4, NULL) == MSC4203_E_DAMAGED);
            CHECK(bench_damaged(&b) == 1);
        } else { /* every segment seems to be needed */
            for (i = 0; i < s->segments; i++)
                s->segment[i].sequence = s->sequence;
            message = limits_message(300);
            CHECK(q->begin(q->context, &batch) == MSC4203_OK);
            for (i = 0; q->push(q->context, batch, &message) == MSC4203_OK; i++)
                CHECK(i < 100);
            CHECK(q->flush(q->context) == MSC4203_E_STORAGE);
            CHECK(q->next(q->context, 1, NULL, 0, limits_memory, 1000, &got) ==
                  MSC4203_E_STORAGE);
        }
        bench_free(&b);
    }
}

/* Of two logs in one region there are segments: that of the one at its beginning counts. */
static void test_two_logs(void)
{
    static struct bench b;
    msc4203_log_config config;
    unsigned char *image;
    size_t segment;

    bench_init(&b, &shapes[SHAPE_512], 64 * 1024, 0, 0);
    bench_age(&b, 40);
    segment = bench_segment(&b);
    image = (unsigned char *)malloc(b.fake.bytes);
    if (image == NULL)
        exit(2);
    memcpy(image, b.fake.seen, b.fake.bytes);
    CHECK(msc4203_log_format(&b.log, b.storage, &b.config, b.index, b.index_bytes, 12345) ==
          MSC4203_OK);
    bench_hurt(&b);
    CHECK(bench_open(&b) == MSC4203_OK);
    bench_age(&b, 40);
    CHECK(bench_push(&b, 2, 1, 300, NULL) == MSC4203_OK && bench_flush(&b) == MSC4203_OK);
    memcpy(b.fake.seen + 2 * segment, image + 2 * segment, segment);
    bench_hurt(&b);
    CHECK(bench_open(&b) == MSC4203_OK && msc4203_log_key(&b.log) == 12345);
    /* one segment of each, none at the beginning: either may be in a message */
    memset(b.fake.seen, 0, 2 * segment);
    memset(b.fake.seen + 4 * segment, 0, b.fake.bytes - 4 * segment);
    CHECK(msc4203_log_inspect(&b.log, b.storage, &config) == MSC4203_E_FORMAT);
    free(image);
    bench_free(&b);
}

/* ---- a storage that fails while the log is opened, read and closed ---- */

static int limits_see(void *context, const msc4203_message *message, uint64_t at, int error)
{
    (void)at;
    *(unsigned *)context += error == MSC4203_OK && message->number != 0;
    return 0;
}

static void test_failing(const struct shape *shape)
{
    static struct bench b;
    msc4203_queue *q = &b.queue;
    msc4203_message got;
    msc4203_counts counts;
    msc4203_span name = contract_span("irc"), read;
    msc4203_log_config config;
    msc4203_log other;
    msc4203_request request;
    unsigned char *image;
    unsigned long call;
    unsigned closed, seen;
    uint32_t channel;
    int result;

    for (closed = 0; closed < 2; closed++) {
        bench_storage(&b, shape, shape->bytes, 0, 0);
        bench_start(&b, 0);
        CHECK(q->channel(q->context, &name, 1, &channel) == MSC4203_OK);
        bench_age(&b, 20);
        CHECK(bench_push(&b, 3, 1, 100, NULL) == MSC4203_OK && bench_flush(&b) == MSC4203_OK);
        if (closed)
            CHECK(msc4203_log_close(&b.log) == MSC4203_OK);
        fake_forget(&b.fake);
        image = (unsigned char *)malloc(b.fake.bytes);
        if (image == NULL)
            exit(2);
        memcpy(image, b.fake.seen, b.fake.bytes);
        for (call = 1, result = MSC4203_E_STORAGE; result == MSC4203_E_STORAGE; call++) {
            CHECK(call < 100000);
            fake_restore(&b.fake, image);
            bench_hurt(&b);
            b.fake.fail_once = 1;
            b.fake.fail_at = b.fake.calls + call;
            result = bench_open(&b);
            if (b.fake.calls < b.fake.fail_at)
                break;
            CHECK(result == MSC4203_E_STORAGE);
        }
        CHECK(result == MSC4203_OK && call > 5);
        b.fake.fail_at = b.fake.calls + 1;
        CHECK(msc4203_log_inspect(&other, b.storage, &config) == MSC4203_E_STORAGE);
        b.fake.fail_at = 0;
        CHECK(bench_open(&b) == MSC4203_OK); /* the buffer has nothing of what is read now */
        for (call = 1; call < 3; call++) { /* a failure to read is that call's alone */
            b.fake.fail_at = b.fake.calls + 1;
            CHECK(q->next(q->context, 1, NULL, 0, limits_memory,
                          call == 1 ? sizeof limits_memory : 150, &got) == MSC4203_E_STORAGE);
            CHECK(q->next(q->context, 1, NULL, 0, limits_memory, sizeof limits_memory, &got) ==
                  MSC4203_ITEM);
        }
        b.fake.fail_at = b.fake.calls + 1;
        CHECK(q->count(q->context, 1, NULL, &counts) == MSC4203_E_STORAGE);
        b.fake.fail_at = b.fake.calls + 1;
        CHECK(q->channel(q->context, &name, 1, &channel) == MSC4203_E_STORAGE);
        b.fake.fail_at = b.fake.calls + 1;
        CHECK(q->record(q->context, channel, limits_memory, 100, NULL, &read) ==
              MSC4203_E_STORAGE);
        b.fake.fail_at = b.fake.calls + 1;
        seen = 0;
        CHECK(msc4203_log_scan(&b.log, limits_memory, 1000, limits_see, &seen) ==
              MSC4203_E_STORAGE);
        CHECK(msc4203_log_scan(&b.log, limits_memory, 1000, limits_see, &seen) == MSC4203_OK);
        CHECK(seen >= 1);
        channel = seen;
        CHECK(bench_push(&b, 2, 1, 100, NULL) == MSC4203_OK); /* not flushed: not seen */
        seen = 0;
        CHECK(msc4203_log_scan(&b.log, limits_memory, 1000, limits_see, &seen) == MSC4203_OK);
        CHECK(seen == channel - 1 || seen == channel);
        b.fake.fail_at = b.fake.calls + 1;
        CHECK(q->move(q->context, 1, NULL, got.number, 4, NULL) == MSC4203_E_STORAGE);
        b.fake.fail_at = 0;
        CHECK(bench_damaged(&b) == 0);
        b.fake.fail_at = b.fake.calls + 1; /* after a failure to write nothing goes on */
        result = bench_push(&b, 2, 1, 100, NULL);
        CHECK(b.queue.flush(q->context) == MSC4203_E_STORAGE);
        b.fake.fail_at = 0;
        CHECK(q->next(q->context, 1, NULL, 0, limits_memory, 1000, &got) == MSC4203_E_STORAGE);
        CHECK(q->count(q->context, 1, NULL, &counts) == MSC4203_E_STORAGE);
        CHECK(q->record(q->context, 1, limits_memory, 100, NULL, &read) == MSC4203_E_STORAGE);
        CHECK(q->channel(q->context, &name, 0, &channel) == MSC4203_E_STORAGE);
        CHECK(msc4203_log_scan(&b.log, limits_memory, 1000, limits_see, &seen) ==
              MSC4203_E_STORAGE);
        contract_request(1, 1, &request);
        CHECK(q->known(q->context, &request) == MSC4203_E_STORAGE);
        free(image);
        bench_free(&b);
    }
}

/* One call of the storage fails, reading too, while room is made: what is flushed stays. */
static void test_failing_once(void)
{
    static struct bench b;
    msc4203_queue *q = &b.queue;
    msc4203_message got;
    unsigned char *image;
    msc4203_span record = contract_span("a channel's record, of some length");
    unsigned long call, before;
    uint64_t number = 0, first;
    int result;

    limits_config(&b, &shapes[SHAPE_512], 64 * 1024, 64, 8, 2000);
    CHECK(bench_push(&b, 2, 1, 1500, &first) == MSC4203_OK && bench_flush(&b) == MSC4203_OK);
    image = (unsigned char *)malloc(b.fake.bytes);
    if (image == NULL)
        exit(2);
    memcpy(image, b.fake.seen, b.fake.bytes);
    for (call = 1; call < 1500; call += 1 + call / 300) {
        fake_restore(&b.fake, image);
        bench_hurt(&b);
        CHECK(bench_open(&b) == MSC4203_OK);
        b.fake.fail_once = 1;
        b.fake.fail_at = b.fake.calls + call;
        before = test_failed;
        do {
            uint32_t batch;
            msc4203_message message = limits_message(900);

            message.channels = 4;
            message.item.content.len = (call * 37 + number) % 1400;
            result = q->begin(q->context, &batch);
            if (result == MSC4203_OK)
                result = q->push(q->context, batch, &message);
            if (result == MSC4203_OK)
                result = q->commit(q->context, batch, NULL, &number);
            if (result == MSC4203_OK)
                result = q->flush(q->context);
            if (result == MSC4203_OK)
                result = q->done(q->context, 2, NULL, number, number % 2 ? &record : NULL);
        } while (result == MSC4203_OK && test_failed == before);
        CHECK(result == MSC4203_E_STORAGE);
        b.fake.fail_at = 0;
        fake_forget(&b.fake);
        bench_hurt(&b);
        CHECK(bench_open(&b) == MSC4203_OK && bench_damaged(&b) == 0);
        CHECK(q->next(q->context, 1, NULL, 0, limits_memory, sizeof limits_memory, &got) ==
              MSC4203_ITEM && got.number == first && got.item.content.len == 1500);
    }
    free(image);
    bench_free(&b);
}

int main(void)
{
    unsigned i;

    test_seed(0x11417);
    test_closed();
    test_usage();
    test_large();
    test_full();
    test_quotas();
    test_numbers();
    test_sizes();
    test_few(16, 2, 0);
    test_few(4, 300, 1);
    test_lost_device();
    test_lost_segment();
    test_unnamed();
    for (i = 0; i < 400 / (test_share() < 400 ? test_share() : 400) + 10; i++)
        test_lost_header(&shapes[i % SHAPES], i / SHAPES % 2, i % 4, 1000 + i);
    for (i = 0; i < LOST_KINDS; i++)
        test_numbers_lost((int)i);
    test_openings();
    for (i = 0; i < SHAPES; i++)
        if (i != 3) /* regions of 144 KiB take long */
            test_crashes(&shapes[i]);
    test_wrong_index();
    test_two_logs();
    test_failing_once();
    for (i = 0; i < SHAPES; i++)
        if (i != 3) /* regions of 144 KiB take long */
            test_failing(&shapes[i]);
    return test_end("limits");
}
