/* fuzz_log_open.c - whatever a region holds, a log is opened or refused, and then works: no access
 * outside, no endless loop.
 *
 * The first byte chooses: the rest is the region itself, or patches of a log that was made by some
 * operations; whether the checksums of what was patched are made right again, so that more than the
 * checksums stands in the way; whether it lies in memory or behind functions. Patches are of 6
 * bytes each, what follows decides what is done with the log.
 *
 * Of a log whose checksums were left alone it is also checked that it gives the same messages when
 * it is opened once more. The checksums are worked out here by other means than the library's. */
#include "common.h"
#include "test/forge.h"

const char fuzz_name[] = "fuzz_log_open";

enum {
    CHOICES = 4,
    PATCH = 6,
    PATCHES = 12,
    REGION = 24 * 1024,
    BASES = 8,
    RECORDS = 512,
    MESSAGE = 600,
    SCAN = 400,         /* what scan needs beside a message */
    DEVICES = 6,
    TRIES = 4096,       /* more than a region has messages */
    OPERATIONS = 96,
    CALLS = 4000000     /* of the storage, for one input: far more than is needed */
};

/* ---- logs to begin with ---- */

struct base {
    int made;
    unsigned char *region;
    uint32_t salt, ring_at, units, round, end; /* round: the place where it began */
    uint32_t words_at[2], words;
    size_t count;
    uint32_t record[RECORDS]; /* units */
};

static struct base bases[BASES];

static uint32_t word_of(const unsigned char *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Works out the checksums of a record. Returns whether they were right. */
static int seal_record(const struct base *base, unsigned char *region, uint32_t unit)
{
    unsigned char *p = region + base->ring_at + (size_t)unit * 8, place_bytes[4];
    uint32_t units = word_of(p) & 0xFFFFFF, type = word_of(p) >> 24, skip, set, crc;
    uint32_t place = base->round + unit, body, fixed;
    int same;

    if (units > base->units - unit)
        units = base->units - unit;
    if (units < 8 && (units < 2 || type <= 2))
        return 0;
    if (unit >= base->end - base->round) /* of the round before */
        place -= base->units;
    fixed = skip = type <= 2 ? 60 : type == 4 ? 24 : 16;
    for (set = type <= 2 ? word_of(p + 52) | 1 : 0; set != 0; set &= set - 1)
        skip += 8;
    body = units * 8 - (p[6] & 7);
    body = body > skip && body <= units * 8 ? body - skip : 0;
    if (skip > units * 8)
        skip = 16;
    crc = forge_crc(base->salt, p + skip, body);
    same = word_of(p + 8) == crc || type == 5;
    if (type != 5)
        forge_word(p + 8, crc);
    forge_word(place_bytes, place);
    crc = forge_crc(forge_crc(base->salt, place_bytes, 4), p, 12);
    crc = forge_crc(crc, p + 16, fixed - 16);
    same &= word_of(p + 12) == crc;
    forge_word(p + 12, crc);
    return same;
}

/* The same for an image and its header. */
static void seal_header(const struct base *base, unsigned char *region, unsigned which)
{
    unsigned char *p = region + 512 * which;
    uint32_t words = word_of(p + 68), crc;

    if (words > base->words)
        words = base->words;
    forge_word(p + 72, forge_crc(0xFFFFFFFFu, region + base->words_at[which], (size_t)words * 4));
    crc = forge_crc(forge_crc(0xFFFFFFFFu, p, 12), p + 16, 80);
    forge_word(p + 12, crc);
}

static void set_span(msc4203_span *span, const char *text)
{
    span->ptr = text;
    span->len = strlen(text);
}

static void set_device(msc4203_device *device, unsigned number)
{
    static const char *const names[DEVICES] = {"A", "B", "C", "D", "", "never seen"};
    set_span(&device->user_id, number % DEVICES == 3 ? "@other:b" : "@user:gw.example");
    set_span(&device->device_id, names[number % DEVICES]);
}

/* One operation, as three bytes say. Returns what the queue said. */
static int operate(msc4203_queue *q, const uint8_t *bytes, uint32_t *batch, uint64_t *last)
{
    static char text[MESSAGE];
    static const char *const names[4] = {"irc", "xmpp", "signal", "a"};
    uint32_t channel = bytes[1] & 7, to;
    uint64_t number = *last > bytes[2] / 4u ? *last - bytes[2] / 4u : *last, expired;
    msc4203_message message;
    msc4203_device device, *given;
    msc4203_request request;
    msc4203_counts counts;
    msc4203_span span;
    int result;

    channel = channel < 4 ? channel : channel == 7 ? 31 : channel == 6 ? bytes[2] & 31 : 0;
    set_device(&device, bytes[1] >> 3);
    given = channel == 0 ? &device : NULL;
    memset(&request, bytes[1] >> 4, sizeof request);
    request.what[0] = bytes[2];
    memset(text, 'x', sizeof text);
    span.ptr = text;
    span.len = bytes[2];
    switch (bytes[0] % 17) {
    case 0:
    case 1:
    case 2:
    case 3:
        memset(&message, 0, sizeof message);
        message.time_ms = 1000u + bytes[2];
        message.channels = bytes[1] & 1 ? 1 : bytes[1] & 2 ? 2 : 1 + bytes[2] % 15u;
        set_span(&message.item.sender, "@sender:b");
        set_span(&message.item.type, "t");
        message.item.user_id = device.user_id;
        message.item.device_id = device.device_id;
        message.item.content = span;
        if (*batch == 0 && (result = q->begin(q->context, batch)) != MSC4203_OK)
            return result;
        result = q->push(q->context, *batch, &message);
        if (result != MSC4203_OK) {
            q->abort(q->context, *batch);
            *batch = 0;
        }
        return result;
    case 4:
    case 5:
    case 6:
        if (*batch == 0)
            return MSC4203_OK;
        result = q->commit(q->context, *batch, bytes[1] & 4 ? &request : NULL, &number);
        *batch = 0;
        if (result == MSC4203_OK)
            *last = number;
        return result;
    case 7:
    case 8:
        return q->flush(q->context);
    case 9:
        return q->done(q->context, channel, given, number, bytes[1] & 64 && !given ? &span : NULL);
    case 10:
        return q->hold(q->context, channel, number, &span);
    case 11:
        to = bytes[0] & 32 ? 1u << (bytes[2] & 3) : 0;
        return q->move(q->context, channel, given, number, to, &number);
    case 12:
        return q->drop(q->context, &device, bytes[2] & 1 ? request.who : NULL);
    case 13:
        return q->expire(q->context, 1000u + bytes[2], &expired);
    case 14:
        set_span(&span, names[bytes[1] & 3]);
        return q->channel(q->context, &span, 1, &to);
    case 15:
        return q->release(q->context, channel);
    default:
        q->known(q->context, &request);
        return q->count(q->context, channel, given, &counts);
    }
}

static int add_record(void *context, const msc4203_log_entry *entry)
{
    struct base *base = (struct base *)context;
    if (entry->kind != 0 && base->count < RECORDS)
        base->record[base->count++] = (uint32_t)(entry->at - base->ring_at) / 8;
    return 0;
}

static void make_base(struct base *base, uint32_t seed)
{
    static const msc4203_log_config config = {8, 8, 4, MESSAGE};
    static msc4203_log log;
    static msc4203_storage storage;
    msc4203_queue queue;
    uint32_t batch = 0, steps = 30 + seed * 170;
    uint64_t last = 0;
    size_t bytes, i;
    void *index, *memory;

    base->made = 1;
    base->region = (unsigned char *)fuzz_alloc(REGION);
    memset(base->region, 0x5A, REGION);
    msc4203_memory_storage(&storage, base->region, REGION);
    bytes = msc4203_log_memory(&log, &config, REGION);
    index = fuzz_alloc(bytes);
    FUZZ_CHECK(msc4203_log_format(&log, &storage, &config, 0x1234567887654321u) == MSC4203_OK);
    FUZZ_CHECK(msc4203_log_open(&log, &storage, index, bytes, seed + 1) == MSC4203_OK);
    msc4203_log_queue(&log, &queue);
    seed = seed * 7919 + 1;
    for (i = 0; i < 3; i++) {
        static const uint8_t first[3][3] = {{14, 0, 0}, {14, 1, 0}, {14, 2, 0}};
        FUZZ_CHECK(operate(&queue, first[i], &batch, &last) == MSC4203_OK);
    }
    while (steps-- != 0) {
        uint8_t choice[3];
        uint32_t random = fuzz_random(&seed);
        choice[0] = (uint8_t)(random >> 8);
        choice[1] = (uint8_t)(random >> 16);
        choice[2] = (uint8_t)(random >> 24);
        if (choice[0] % 17 == 12 && steps % 4 != 0)
            continue;
        operate(&queue, choice, &batch, &last);
        if (steps % 97 == 0)
            FUZZ_CHECK(msc4203_log_open(&log, &storage, index, bytes, seed) == MSC4203_OK);
        if (steps % 97 == 0)
            batch = 0;
    }
    /* Opening writes an image: what it tells of the ring is what the log knows. */
    FUZZ_CHECK(msc4203_log_open(&log, &storage, index, bytes, seed) == MSC4203_OK);
    base->salt = log.priv.salt;
    base->ring_at = (uint32_t)log.priv.ring_at;
    base->units = log.priv.units;
    base->round = log.priv.base;
    base->end = log.priv.end;
    base->words = log.priv.memory_at;
    base->words_at[0] = 1024;
    base->words_at[1] = 1024 + (base->ring_at - 1024) / 2;
    memory = fuzz_alloc(SCAN + MESSAGE);
    FUZZ_CHECK(msc4203_log_scan(&storage, memory, SCAN + MESSAGE, add_record, base) == MSC4203_OK);
    FUZZ_CHECK(base->count > 10);
    for (i = 0; i < base->count; i++) /* this file knows how to work them out */
        FUZZ_CHECK(seal_record(base, base->region, base->record[i]));
    free(memory);
    free(index);
}

/* ---- patches ---- */

/* What may be of interest: positions, places, lengths, numbers just beside what is allowed. */
static uint32_t some_word(const struct base *base, const uint8_t *value)
{
    switch (value[0] >> 5) {
    case 0:
        return value[1];
    case 1:
        return base->record[value[1] % base->count] + 1;
    case 2:
        return base->round + base->record[value[1] % base->count] -
               (value[0] & 1 ? base->units : 0);
    case 3:
        return (uint32_t)0 - value[1];
    case 4:
        return 0x80000000u | (base->record[value[1] % base->count] * 2 + (value[0] & 31));
    case 5:
        return base->units + value[1] % 5u - 2u;
    case 6:
        return (uint32_t)value[1] << (value[0] & 31);
    default:
        return value[0] * 0x01010101u ^ (uint32_t)value[1] << 8;
    }
}

static void patch(const struct base *base, unsigned char *region, const uint8_t *bytes, int seal)
{
    uint32_t where = bytes[1] | (uint32_t)bytes[2] << 8, value = some_word(base, bytes + 3);
    uint32_t unit = base->record[where % base->count], other, units;
    unsigned char *record = region + base->ring_at + (size_t)unit * 8;
    unsigned which = bytes[0] >> 3 & 1u;
    int sealed = 0;

    units = word_of(record) & 0xFFFFFF;
    if (units > base->units - unit || units < 2)
        units = 2;
    switch (bytes[0] & 7) {
    case 0:
        region[512 * which + where % 96] ^= bytes[3];
        break;
    case 1:
        forge_word(region + 512 * which + where % 24 * 4, value);
        break;
    case 2:
        forge_word(region + base->words_at[which] + where % base->words * 4, value);
        break;
    case 3: /* what is fixed, and the first links */
        forge_word(record + bytes[5] % (units < 12 ? units * 2 : 24) * 4, value);
        sealed = 1;
        break;
    case 4: /* anywhere in it */
        record[bytes[5] * 8u % (units * 8) + (bytes[4] & 7)] ^= bytes[3];
        sealed = 1;
        break;
    case 5:
        region[(where | (uint32_t)(bytes[5] & 1) << 16) % REGION] ^= bytes[3];
        break;
    case 6: /* another one's place */
        other = base->record[(bytes[4] | (uint32_t)bytes[5] << 8) % base->count];
        if (units > base->units - other)
            units = base->units - other;
        memmove(region + base->ring_at + (size_t)other * 8, record, (size_t)units * 8);
        unit = other;
        sealed = 1;
        break;
    default: /* a journal of the record's length */
        if (units < 4 || units > 131)
            break;
        forge_word(record, 3u << 24 | units);
        record[6] = 0;
        record[7] = bytes[0] >> 4 & 1;
        forge_word(record + 24 + bytes[5] % (units - 3) * 8, some_word(base, bytes + 4));
        forge_word(record + 28 + bytes[5] % (units - 3) * 8, value);
        sealed = 1;
    }
    if (!seal)
        return;
    if (sealed)
        seal_record(base, region, unit);
    else
        seal_header(base, region, which);
}

/* ---- the storage ---- */

struct region {
    unsigned char *bytes;
    size_t size;
    unsigned long calls;
};

static void check_call(struct region *region, uint64_t at, size_t bytes)
{
    FUZZ_CHECK(at <= region->size && bytes <= region->size - at);
    FUZZ_CHECK(++region->calls < CALLS);
}

static int region_read(void *context, uint64_t at, void *data, size_t bytes)
{
    struct region *region = (struct region *)context;
    check_call(region, at, bytes);
    memcpy(data, region->bytes + at, bytes);
    return 0;
}

static int region_write(void *context, uint64_t at, const void *data, size_t bytes)
{
    struct region *region = (struct region *)context;
    check_call(region, at, bytes);
    memcpy(region->bytes + at, data, bytes);
    return 0;
}

static int region_sync(void *context)
{
    check_call((struct region *)context, 0, 0);
    return 0;
}

/* ---- what is done with it ---- */

static unsigned long sum_of(const msc4203_span *span)
{
    unsigned long sum = (unsigned long)span->len;
    size_t i;
    for (i = 0; i < span->len; i++)
        sum = sum * 31 + (unsigned char)span->ptr[i];
    return sum;
}

struct scanned {
    const char *memory;
    size_t bytes, region;
    unsigned long entries, sum;
};

static int see(void *context, const msc4203_log_entry *entry)
{
    struct scanned *s = (struct scanned *)context;
    const msc4203_span *spans = &entry->sender;
    int i;

    FUZZ_CHECK(++s->entries <= s->region);
    FUZZ_CHECK(entry->at <= s->region && entry->bytes <= s->region - entry->at);
    FUZZ_CHECK(entry->bytes != 0);
    for (i = 0; i < 5; i++) {
        FUZZ_CHECK(spans[i].len == 0 ||
                   (spans[i].ptr >= s->memory && spans[i].len <= s->bytes &&
                    (size_t)(spans[i].ptr - s->memory) <= s->bytes - spans[i].len));
        s->sum += sum_of(&spans[i]);
    }
    return 0;
}

static void scan(const msc4203_storage *storage, size_t bytes)
{
    struct scanned s;
    char *memory = (char *)fuzz_alloc(bytes);
    int result;

    s.memory = memory;
    s.bytes = bytes;
    s.region = (size_t)storage->bytes;
    s.entries = s.sum = 0;
    result = msc4203_log_scan(storage, memory, bytes, see, &s);
    FUZZ_CHECK(result == MSC4203_OK || result == MSC4203_E_FORMAT || result == MSC4203_E_REGION);
    free(memory);
}

/* Reads all messages; returns a sum of what there was. */
static unsigned long read_all(msc4203_queue *q, int forged)
{
    unsigned channel, device;
    unsigned long sum = 0;
    size_t bytes = MESSAGE;
    char *memory = (char *)fuzz_alloc(bytes);
    msc4203_span name, record;
    msc4203_counts counts;
    uint64_t random, first;

    for (channel = 0; channel < MSC4203_CHANNELS; channel++)
        for (device = 0; device < (channel == 0 ? (unsigned)DEVICES : 1); device++) {
            msc4203_device who = {{NULL, 0}, {NULL, 0}}, *given = channel == 0 ? &who : NULL;
            uint64_t after = 0;
            int result, tries = 0;

            set_device(&who, device);
            for (;;) {
                msc4203_message got;

                FUZZ_CHECK(tries++ < TRIES);
                result = q->next(q->context, channel, given, after, memory, bytes, &got);
                if (result == MSC4203_E_TOO_LARGE) { /* only when it was forged */
                    FUZZ_CHECK(got.bytes > bytes && got.bytes <= REGION);
                    free(memory);
                    bytes = got.bytes;
                    memory = (char *)fuzz_alloc(bytes);
                    continue;
                }
                if (result != MSC4203_ITEM && result != MSC4203_E_DAMAGED)
                    break;
                if (result == MSC4203_E_DAMAGED && got.number == 0)
                    break; /* not even the next one is known */
                FUZZ_CHECK(got.number > after);
                after = got.number;
                if (result == MSC4203_E_DAMAGED)
                    continue;
                FUZZ_CHECK(forged || (got.channels >> channel & 1) != 0);
                sum = sum * 31 + (unsigned long)got.number + got.channels * 7;
                sum += sum_of(&got.item.sender) ^ sum_of(&got.item.type) * 3 ^
                       sum_of(&got.item.user_id) * 5 ^ sum_of(&got.item.device_id) * 7 ^
                       sum_of(&got.item.content) * 11;
            }
            FUZZ_CHECK(result == MSC4203_END || result == MSC4203_E_DAMAGED ||
                       result == MSC4203_E_STORAGE);
            q->count(q->context, channel, given, &counts);
            if (q->record(q->context, channel, memory, bytes, &name, &record) == MSC4203_OK)
                sum += sum_of(&name) + sum_of(&record);
        }
    for (channel = 0; q->opening(q->context, channel, &random, &first) == MSC4203_OK; channel++)
        FUZZ_CHECK(channel < REGION);
    q->count(q->context, 0, NULL, &counts);
    free(memory);
    return sum;
}

/* A log that was opened: reads, works with it, closes it, opens it once more. */
static void work(msc4203_log *log, const msc4203_storage *storage, void *index, size_t bytes,
                 const uint8_t *data, size_t size, int forged)
{
    msc4203_queue queue;
    msc4203_log_usage usage;
    uint32_t batch = 0, count;
    uint64_t last = 0, number;
    unsigned long sum;
    int result, opened;

    msc4203_log_queue(log, &queue);
    msc4203_log_usage_get(log, &usage);
    read_all(&queue, forged);
    if (queue.opening(queue.context, 0, &number, &last) == MSC4203_OK)
        last -= 1 << 20; /* numbers are given out from here on; there may be some before it */
    for (count = 0; size >= 3 && count < OPERATIONS; size -= 3, data += 3, count++) {
        result = operate(&queue, data, &batch, &last);
        if (result != MSC4203_E_STORAGE)
            continue;
        batch = 0;
        opened = msc4203_log_open(log, storage, index, bytes, count + 3);
        FUZZ_CHECK(forged || opened == MSC4203_OK);
        if (opened != MSC4203_OK)
            return;
    }
    if (batch != 0)
        queue.abort(queue.context, batch);
    result = queue.flush(queue.context);
    read_all(&queue, forged); /* finds all damage */
    sum = read_all(&queue, forged);
    if (msc4203_log_close(log) != MSC4203_OK)
        result = MSC4203_E_STORAGE;
    opened = msc4203_log_open(log, storage, index, bytes, 5);
    FUZZ_CHECK(forged || opened == MSC4203_OK);
    if (opened != MSC4203_OK)
        return;
    msc4203_log_usage_get(log, &usage);
    FUZZ_CHECK(forged || result != MSC4203_OK || read_all(&queue, forged) == sum);
    scan(storage, SCAN + MESSAGE);
}

static void check(struct region *region, int in_memory, const uint8_t *data, size_t size,
                  int forged)
{
    msc4203_storage storage;
    msc4203_log *log = (msc4203_log *)fuzz_alloc(sizeof *log);
    msc4203_log_config config;
    size_t bytes;
    void *index;
    int result;

    msc4203_memory_storage(&storage, region->bytes, region->size);
    if (!in_memory) {
        storage.memory = NULL;
        storage.context = region;
        storage.read = region_read;
        storage.write = region_write;
        storage.sync = region_sync;
    }
    scan(&storage, SCAN + MESSAGE);
    scan(&storage, SCAN);
    result = msc4203_log_inspect(log, &storage, &config);
    FUZZ_CHECK(result == MSC4203_OK || result == MSC4203_E_FORMAT || result == MSC4203_E_REGION);
    /* Zeros would stand for the defaults: no log is made so. */
    if (result == MSC4203_OK && config.requests != 0 && config.message_bytes != 0) {
        bytes = msc4203_log_memory(log, &config, region->size);
        FUZZ_CHECK(bytes != 0 && bytes < 64 * REGION);
        index = fuzz_alloc(bytes);
        FUZZ_CHECK(msc4203_log_open(log, &storage, index, bytes - 4, 1) == MSC4203_E_INDEX);
        result = msc4203_log_open(log, &storage, index, bytes, 2);
        FUZZ_CHECK(result == MSC4203_OK || forged || result == MSC4203_E_DAMAGED);
        if (result == MSC4203_OK)
            work(log, &storage, index, bytes, data, size, forged);
        free(index);
    }
    free(log);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct region region;
    struct base *base;
    size_t patches;
    int way, seal;

    if (size < CHOICES)
        return 0;
    way = data[0];
    seal = way >> 3 & 1;
    region.calls = 0;
    if ((way & 7) == 0) { /* nothing but what was given */
        region.size = size - CHOICES;
        region.bytes = (unsigned char *)fuzz_copy(data + CHOICES, region.size);
        check(&region, way >> 4 & 1, NULL, 0, 1);
        free(region.bytes);
        return 0;
    }
    base = &bases[data[1] % BASES];
    if (!base->made)
        make_base(base, data[1] % BASES);
    region.size = REGION;
    region.bytes = (unsigned char *)fuzz_copy(base->region, REGION);
    patches = data[2] % PATCHES;
    for (data += CHOICES, size -= CHOICES; patches != 0 && size >= PATCH; patches--) {
        patch(base, region.bytes, data, seal);
        data += PATCH;
        size -= PATCH;
    }
    check(&region, way >> 4 & 1, data, size, seal);
    free(region.bytes);
    return 0;
}
