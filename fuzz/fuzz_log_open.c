/* fuzz_log_open.c - whatever a region holds, a log is opened or refused, and then works: no access
 * outside, no endless loop, no message that nobody sent.
 *
 * The first byte chooses: the rest is the region itself, or patches of a log that was made by some
 * operations; whether it lies in memory or behind functions; and with -DFUZZ_FORGED whether the
 * checksums of what was patched are made right again, so that more than these stands in the way.
 * (Of such a region SECURITY.md promises nothing.) The second byte chooses the log, and its
 * sectors: of 1, 512, 4,096, or those of a NOR flash chip. Patches are of 6 bytes each; what
 * follows decides what is done with the log.
 *
 * Where the checksums were left alone, each message that comes was sent; those that lie outside of
 * the damage all come; and they come again when the log is opened once more. Some messages hold the
 * records of another log with the same key: none of these is ever taken for a record. */
#include "common.h"
#include "test/forge.h"
#include "test/log_bench.h"

const char fuzz_name[] = "fuzz_log_open";

#ifdef FUZZ_FORGED
#define FORGED 1
#else
#define FORGED 0
#endif

enum { WAY, BASE, COUNT, HOW, CHOICES };
enum {
    PATCH = 6,
    PATCHES = 12,
    BASES = 8,
    RECORDS = 3000,
    LARGEST = 900,
    MESSAGES = 96,
    DEVICES = 6,
    TRIES = 4096,   /* more than a region has messages */
    OPERATIONS = 96,
    SCRATCH = 24 * 1024,
    CALLS = 4000000 /* of the storage, for one input: far more than is needed */
};

/* ---- logs to begin with ---- */

/* A message of such a log. */
struct kept {
    uint64_t at, end; /* of its record */
    uint32_t set, sum;
};

struct list {
    size_t count;
    struct kept kept[MESSAGES];
};

struct base {
    int made;
    struct bench bench;
    unsigned char *image, *late; /* late: units that the last flush wrote: they may be torn */
    size_t segment;
    size_t count;
    uint32_t record[RECORDS]; /* where each begins, in bytes */
    struct list list;
};

static struct base bases[BASES];
static unsigned char *scratch; /* a log with the key of these, whose messages nobody sent */

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

/* What a message says is a part of the scratch log, or a text, each known by a number. */
static size_t make_content(char *text, uint32_t number, size_t size, int is_part)
{
    if (!is_part)
        return contract_text(text, number, (uint32_t)size);
    if (size < 4)
        size = 4;
    memcpy(text, scratch + number % ((SCRATCH - LARGEST) / 16) * 16, size);
    return size;
}

/* Each was sent: its type says what it has to be. */
static int is_whole(const msc4203_item *item)
{
    static char text[CONTRACT_TEXT];
    char digits[9];
    uint32_t number;
    size_t size = item->content.len;

    if (item->type.len != 10 || size > LARGEST)
        return 0;
    memcpy(digits, item->type.ptr + 2, 8);
    digits[8] = 0;
    number = (uint32_t)strtoul(digits, NULL, 16);
    return make_content(text, number, size, item->type.ptr[0] == 'p') == size &&
           memcmp(text, item->content.ptr, size) == 0;
}

/* Puts a message into a batch. Parts of the scratch log lie in the region as they did there: at a
 * multiple of a unit, for which the sender's name is as long as it takes. */
static int push(msc4203_queue *q, uint32_t batch, uint32_t number, uint32_t channels,
                unsigned device, size_t size, int is_part)
{
    static const char sender[] = "@sender:gw.example_____________";
    static char text[CONTRACT_TEXT];
    char type[16];
    msc4203_message message;
    msc4203_device who;
    size_t ids;

    set_device(&who, device);
    sprintf(type, "%c.%08lx", is_part ? 'p' : 't', (unsigned long)number);
    memset(&message, 0, sizeof message);
    message.time_ms = 1000u + number % 256;
    message.channels = channels;
    set_span(&message.item.type, type);
    message.item.user_id = who.user_id;
    message.item.device_id = who.device_id;
    ids = 10 + who.user_id.len + who.device_id.len;
    message.item.sender.ptr = sender;
    message.item.sender.len = is_part ? (16 - ids % 16) % 16 : 12;
    message.item.content.len = make_content(text, number, size, is_part);
    message.item.content.ptr = text;
    return q->push(q->context, batch, &message);
}

/* What goes on between two inputs of operate(). */
struct doing {
    uint32_t batch, number;
    uint64_t last;
};

static int operate_batch(msc4203_queue *q, const uint8_t *bytes, struct doing *d)
{
    uint32_t channels = bytes[1] & 1 ? 1 : bytes[1] & 2 ? 2 : 1 + bytes[2] % 15u;
    msc4203_request request;
    uint64_t first;
    int result;

    memset(&request, bytes[1] >> 4, sizeof request);
    request.what[0] = bytes[2];
    if (bytes[0] % 17 > 3) {
        if (d->batch == 0)
            return MSC4203_OK;
        result = q->commit(q->context, d->batch, bytes[1] & 4 ? &request : NULL, &first);
        d->batch = 0;
        if (result == MSC4203_OK)
            d->last = first;
        return result;
    }
    if (d->batch == 0 && (result = q->begin(q->context, &d->batch)) != MSC4203_OK)
        return result;
    result = push(q, d->batch, ++d->number, channels, bytes[1] >> 3,
                  24 + bytes[2] * (bytes[0] & 32 ? 3u : 1u), bytes[0] >> 6 == 3);
    if (result != MSC4203_OK) {
        q->abort(q->context, d->batch);
        d->batch = 0;
    }
    return result;
}

/* One operation, as three bytes say. Returns what the queue said. */
static int operate(msc4203_queue *q, const uint8_t *bytes, struct doing *d)
{
    static char text[256];
    static const char *const names[4] = {"irc", "xmpp", "signal", "a"};
    uint32_t channel = bytes[1] & 7, to;
    uint64_t number = d->last > bytes[2] / 4u ? d->last - bytes[2] / 4u : d->last, expired;
    msc4203_device device, *given;
    msc4203_request request;
    msc4203_counts counts;
    msc4203_span span;

    channel = channel < 4 ? channel : channel == 7 ? 31 : channel == 6 ? bytes[2] & 31 : 0;
    set_device(&device, bytes[1] >> 3);
    given = channel == 0 ? &device : NULL;
    memset(&request, bytes[1] >> 4, sizeof request);
    memset(text, 'x', sizeof text);
    span.ptr = text;
    span.len = bytes[2];
    switch (bytes[0] % 17) {
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
    case 16:
        q->known(q->context, &request);
        return q->count(q->context, channel, given, &counts);
    default:
        return operate_batch(q, bytes, d);
    }
}

static int see_kept(void *context, const msc4203_message *message, uint64_t at, int error)
{
    struct list *list = (struct list *)context;
    struct kept *kept = &list->kept[list->count];
    size_t i;

    if (error != MSC4203_OK)
        return 0;
    FUZZ_CHECK(list->count < MESSAGES);
    list->count++;
    kept->at = at;
    kept->end = at + 64 + message->bytes + 15;
    kept->set = message->channels;
    for (kept->sum = 7, i = 0; i < message->item.type.len; i++)
        kept->sum = kept->sum * 31 + (unsigned char)message->item.type.ptr[i];
    return is_whole(&message->item) ? 0 : 1;
}

/* Lists the messages of an open log. Returns 0 when there is one that nobody sent. */
static int make_list(msc4203_log *log, struct list *list)
{
    char *memory = (char *)fuzz_alloc(LARGEST);
    int result;

    list->count = 0;
    result = msc4203_log_scan(log, memory, LARGEST, see_kept, list);
    free(memory);
    FUZZ_CHECK(result == MSC4203_OK || result == MSC4203_E_TOO_LARGE || result == 1);
    return result != 1;
}

/* Whether a message is in a list, for the same channels at least. */
static int is_listed(const struct list *list, const struct kept *kept)
{
    size_t i;

    for (i = 0; i < list->count; i++)
        if (list->kept[i].sum == kept->sum && (list->kept[i].set & kept->set) == kept->set)
            return 1;
    return 0;
}

static void make_scratch(void)
{
    static const msc4203_log_config config = {MESSAGES, 8, 32, 8, LARGEST, 0, 0};
    static msc4203_log log;
    static msc4203_storage storage;
    msc4203_queue queue;
    uint32_t batch, number, seed = 1;
    uint64_t first;
    size_t bytes;
    void *index;

    scratch = (unsigned char *)fuzz_alloc(SCRATCH);
    memset(scratch, 0, SCRATCH);
    msc4203_memory_storage(&storage, scratch, SCRATCH);
    bytes = msc4203_log_memory(&log, &storage, &config);
    index = fuzz_alloc(bytes);
    FUZZ_CHECK(msc4203_log_format(&log, &storage, &config, index, bytes, 0xFEDCBA9876543210u) ==
               MSC4203_OK);
    FUZZ_CHECK(msc4203_log_open(&log, &storage, index, bytes, 4711) == MSC4203_OK);
    msc4203_log_queue(&log, &queue);
    for (number = 0xF0000000u; number < 0xF0000200u; number++) { /* numbers that nobody uses */
        uint32_t channel = 1 + fuzz_random(&seed) % 3;

        FUZZ_CHECK(queue.begin(&log, &batch) == MSC4203_OK);
        FUZZ_CHECK(push(&queue, batch, number, (uint32_t)1 << channel, number % DEVICES,
                        24 + fuzz_random(&seed) % 60, 0) == MSC4203_OK);
        FUZZ_CHECK(queue.commit(&log, batch, NULL, &first) == MSC4203_OK);
        FUZZ_CHECK(queue.flush(&log) == MSC4203_OK);
        if (number % 4 != 0)
            FUZZ_CHECK(queue.done(&log, channel, NULL, first, NULL) == MSC4203_OK);
    }
    free(index);
}

/* Finds where the records of a log begin. This file knows how to work out their checksums. */
static void find_records(struct base *base)
{
    unsigned char *region = base->bench.fake.seen;
    size_t at, bytes = base->bench.fake.bytes, unit, units = base->segment / FORGE_UNIT;

    for (at = 0; at + base->segment <= bytes; at += base->segment) {
        if (forge_get(region + at + 16) != 0x3463736Du)
            continue;
        FUZZ_CHECK(forge_header(region + at));
        for (unit = FORGE_HEADER / FORGE_UNIT; unit < units && base->count < RECORDS;) {
            unsigned char *record = region + at + unit * FORGE_UNIT;
            uint32_t length = forge_get(record) & 0xFFFFFF;

            if (length == 0 || length > units - unit ||
                !forge_record(region + at, (uint32_t)unit, (uint32_t)units))
                break; /* what is behind the end, perhaps from an earlier round */
            base->record[base->count++] = (uint32_t)(at + unit * FORGE_UNIT);
            unit += length;
        }
        memcpy(region + at, base->image + at, base->segment);
    }
    FUZZ_CHECK(base->count > 10);
}

static void make_base(struct base *base, uint32_t number)
{
    static const unsigned kinds[4] = {0, 1, 2, 4};
    struct bench *b = &base->bench;
    msc4203_span record;
    msc4203_storage storage;
    struct doing d = {0, 0, 0};
    uint32_t seed, steps = 120 + number * 170, i;
    unsigned long writes;

    base->made = 1;
    bench_storage(b, &shapes[kinds[number % 4]], 24 * 1024, 0, 0);
    b->config.messages = MESSAGES;
    b->config.devices = 8;
    b->config.requests = 32;
    b->config.message_bytes = LARGEST;
    bench_start(b, 0);
    base->segment = bench_segment(b);
    seed = number * 7919 + 1;
    for (i = 0; i < 3; i++) {
        uint8_t first[3] = {14, 0, 0};
        first[1] = (uint8_t)i;
        FUZZ_CHECK(operate(&b->queue, first, &d) == MSC4203_OK);
    }
    while (steps-- != 0) {
        uint8_t choice[3];
        uint32_t random = fuzz_random(&seed);
        choice[0] = (uint8_t)(random >> 8);
        choice[1] = (uint8_t)(random >> 16);
        choice[2] = (uint8_t)(random >> 24);
        if (choice[0] % 17 == 12 && steps % 4 != 0)
            continue;
        if ((choice[1] & 7) == 6) /* channels that have no name */
            choice[1] = 1;
        operate(&b->queue, choice, &d);
        if (steps % 97 == 0) {
            FUZZ_CHECK(bench_flush(b) == MSC4203_OK);
            fake_forget(&b->fake);
            FUZZ_CHECK(bench_open(b) == MSC4203_OK);
            d.batch = 0;
        }
    }
    for (i = 0; i < 12; i++) { /* some that are there in any case */
        uint8_t choice[6] = {0, 0, 0, 4, 0, 0};
        choice[0] = i % 4 == 3 ? 17 * 13 : 0; /* a part of the other log */
        choice[1] = (uint8_t)(i % 3 << 3 | (i & 1) << 1);
        choice[2] = (uint8_t)(i * 21);
        operate(&b->queue, choice, &d);
        operate(&b->queue, choice + 3, &d);
    }
    FUZZ_CHECK(bench_flush(b) == MSC4203_OK && bench_flush(b) == MSC4203_OK);
    writes = b->fake.writes;
    set_span(&record, "the last");
    FUZZ_CHECK(b->queue.hold(b->queue.context, MSC4203_CHANNEL_PARKED, 0, &record) == MSC4203_OK);
    FUZZ_CHECK((number & 4 ? msc4203_log_close(&b->log) : bench_flush(b)) == MSC4203_OK);
    base->image = (unsigned char *)fuzz_copy(b->fake.seen, b->fake.bytes);
    base->late = (unsigned char *)fuzz_alloc(b->fake.bytes / b->fake.unit);
    for (i = 0; i < b->fake.bytes / b->fake.unit; i++)
        base->late[i] = b->fake.units[i].last > writes;
    find_records(base);
    storage = b->fake.storage; /* only to look at it */
    storage.write = NULL;
    FUZZ_CHECK(msc4203_log_open(&b->log, &storage, b->index, b->index_bytes, 1) == MSC4203_OK);
    FUZZ_CHECK(make_list(&b->log, &base->list));
    FUZZ_CHECK(base->list.count > 3 && test_failed == 0);
}

/* ---- patches ---- */

/* What may be of interest: positions, lengths, kinds, numbers just beside what is allowed. */
static uint32_t some_word(const struct base *base, const uint8_t *value)
{
    uint32_t record = base->record[value[1] % base->count];

    switch (value[0] >> 5) {
    case 0:
        return value[1];
    case 1:
        return record / 16;
    case 2:
        return record % (uint32_t)base->segment / 16 + (value[0] & 3);
    case 3:
        return (uint32_t)0 - value[1];
    case 4:
        return (value[0] & 15u) << 24 | value[1];
    case 5:
        return (uint32_t)base->segment / 16 + value[1] % 5u - 2u;
    case 6:
        return (uint32_t)value[1] << (value[0] & 31);
    default:
        return value[0] * 0x01010101u ^ (uint32_t)value[1] << 8;
    }
}

static void patch(const struct base *base, unsigned char *region, const uint8_t *bytes, int seal)
{
    size_t total = base->bench.fake.bytes, i, n;
    uint32_t where = bytes[1] | (uint32_t)bytes[2] << 8, value = some_word(base, bytes + 3), other;
    uint32_t record = base->record[where % base->count];
    unsigned char *segment = region + record / base->segment * base->segment;
    uint32_t units = (uint32_t)base->segment / FORGE_UNIT;
    uint32_t unit = record % (uint32_t)base->segment / FORGE_UNIT;
    uint32_t length = (forge_get(region + record) & 0xFFFFFF) * FORGE_UNIT;

    if (length > (units - unit) * FORGE_UNIT || length == 0)
        length = FORGE_UNIT;
    switch (bytes[0] & 7) {
    case 0: /* a segment's header */
        forge_word(segment + where % 32 * 4, value);
        if (seal)
            forge_header(segment);
        return;
    case 1:
        segment[where % FORGE_HEADER] ^= bytes[3];
        if (seal)
            forge_header(segment);
        return;
    case 2: /* what is fixed */
        forge_word(region + record + bytes[5] % 16 * 4 % length, value);
        break;
    case 3: /* anywhere in it */
        region[record + (bytes[5] * 8u + (bytes[4] & 7)) % length] ^= bytes[3];
        break;
    case 4: /* another one's place */
        other = base->record[(bytes[4] | (uint32_t)bytes[5] << 8) % base->count];
        n = length < total - other ? length : total - other;
        memmove(region + other, region + record, n);
        segment = region + other / base->segment * base->segment;
        unit = other % (uint32_t)base->segment / FORGE_UNIT;
        break;
    case 5: /* a stretch */
        i = (where | (uint32_t)(bytes[0] >> 3) << 16) % total;
        for (n = bytes[4]; n != 0 && i < total; n--, i++)
            region[i] = bytes[5] & 1 ? bytes[3] : (unsigned char)(region[i] + bytes[3]);
        return;
    case 6: /* a sector, or a segment */
        n = bytes[5] & 1 ? base->segment : base->bench.fake.unit;
        i = where % (total / n) * n;
        if (bytes[5] & 2)
            memset(region + i, bytes[3], n);
        else
            memmove(region + i, region + bytes[4] % (total / n) * n, n);
        return;
    default: /* a part of the other log, at its own place or elsewhere */
        i = record + (bytes[5] & 1 ? FORGE_UNIT * 3 : 0);
        n = bytes[4] % 64 * FORGE_UNIT;
        n = n < total - i ? n : total - i;
        other = (uint32_t)(bytes[3] & 1 ? i : where * 16u) % (SCRATCH - 64 * FORGE_UNIT);
        for (; n != 0; n--, i++, other++) /* headers tell that key to anybody */
            if (i % base->segment >= FORGE_HEADER)
                region[i] = scratch[other];
        return;
    }
    if (seal)
        forge_record(segment, unit, units);
}

/* ---- the storage ---- */

/* The fake storage, which counts what is wrong; a call outside of the region ends it. */
static int inside_read(void *context, uint64_t at, void *data, size_t bytes)
{
    FUZZ_CHECK(fake_is_inside((struct fake *)context, at, bytes));
    return fake_read(context, at, data, bytes);
}

static int inside_write(void *context, uint64_t at, const void *data, size_t bytes)
{
    FUZZ_CHECK(fake_is_inside((struct fake *)context, at, bytes));
    return fake_write(context, at, data, bytes);
}

static int inside_erase(void *context, uint64_t at, size_t bytes)
{
    FUZZ_CHECK(fake_is_inside((struct fake *)context, at, bytes));
    return fake_erase(context, at, bytes);
}

/* A storage with what the fake one has now, in memory or behind its functions. */
static void set_storage(msc4203_storage *storage, struct fake *fake, int in_memory)
{
    if (in_memory) {
        msc4203_memory_storage(storage, fake->seen, fake->bytes);
        return;
    }
    *storage = fake->storage;
    storage->read = inside_read;
    storage->write = inside_write;
    storage->erase = fake->storage.erase != NULL ? inside_erase : NULL;
}

/* ---- what is done with it ---- */

/* A message's strings are in the memory that was given. */
static void check_inside(const msc4203_item *item, const char *memory, size_t bytes)
{
    const msc4203_span *spans[5];
    size_t i;

    spans[0] = &item->sender;
    spans[1] = &item->type;
    spans[2] = &item->user_id;
    spans[3] = &item->device_id;
    spans[4] = &item->content;
    for (i = 0; i < 5; i++)
        FUZZ_CHECK(spans[i]->len == 0 ||
                   (spans[i]->ptr >= memory && spans[i]->len <= bytes &&
                    (size_t)(spans[i]->ptr - memory) <= bytes - spans[i]->len));
}

/* Reads all that there is, by next(). */
static void read_all(msc4203_queue *q, int forged)
{
    unsigned channel, device;
    size_t bytes = LARGEST;
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
                    FUZZ_CHECK(forged && got.bytes > bytes && got.bytes <= 1 << 20);
                    free(memory);
                    bytes = got.bytes;
                    memory = (char *)fuzz_alloc(bytes);
                    tries--;
                    continue;
                }
                if (result != MSC4203_ITEM && result != MSC4203_E_DAMAGED)
                    break;
                FUZZ_CHECK(got.number > after);
                after = got.number;
                if (result == MSC4203_E_DAMAGED)
                    continue;
                FUZZ_CHECK((got.channels >> channel & 1) != 0);
                check_inside(&got.item, memory, bytes);
                FUZZ_CHECK(forged || is_whole(&got.item));
            }
            FUZZ_CHECK(result == MSC4203_END || result == MSC4203_E_STORAGE);
            q->count(q->context, channel, given, &counts);
            if (q->record(q->context, channel, memory, bytes, &name, &record) == MSC4203_OK)
                FUZZ_CHECK(name.len + record.len <= bytes && name.len <= 255);
        }
    for (channel = 0; q->opening(q->context, channel, &random, &first) == MSC4203_OK; channel++)
        FUZZ_CHECK(channel < 1 << 20);
    q->count(q->context, 0, NULL, &counts);
    free(memory);
}

/* A log that was opened: reads, works with it, closes it, opens it once more. After a small damage
 * it then has what it had. */
static void work(msc4203_log *log, const msc4203_storage *storage, struct fake *fake, void *index,
                 size_t bytes, const uint8_t *data, size_t size, int forged, int is_small)
{
    msc4203_queue queue;
    msc4203_log_usage usage;
    struct doing d = {0, 0x100000, 0};
    uint32_t count;
    uint64_t number;
    struct list before, after;
    size_t i;
    int result, opened;

    msc4203_log_queue(log, &queue);
    msc4203_log_usage_get(log, &usage);
    read_all(&queue, forged);
    if (queue.opening(queue.context, 0, &number, &d.last) == MSC4203_OK)
        d.last -= MESSAGES; /* numbers are given out from here on; there may be some before it */
    for (count = 0; size >= 3 && count < OPERATIONS; size -= 3, data += 3, count++) {
        result = operate(&queue, data, &d);
        FUZZ_CHECK(forged || result != MSC4203_E_STORAGE);
        if (result != MSC4203_E_STORAGE)
            continue;
        d.batch = 0;
        fake_forget(fake);
        opened = msc4203_log_open(log, storage, index, bytes, count + 3);
        if (opened != MSC4203_OK)
            return;
    }
    if (d.batch != 0)
        queue.abort(queue.context, d.batch);
    result = queue.flush(queue.context);
    read_all(&queue, forged); /* finds all damage */
    if (!forged)
        FUZZ_CHECK(make_list(log, &before));
    if (data[-1] & 1 && msc4203_log_close(log) != MSC4203_OK)
        result = MSC4203_E_STORAGE;
    FUZZ_CHECK(forged || result == MSC4203_OK);
    fake_forget(fake);
    opened = msc4203_log_open(log, storage, index, bytes, 5);
    FUZZ_CHECK(forged || opened == MSC4203_OK);
    if (opened != MSC4203_OK)
        return;
    read_all(&queue, forged);
    if (forged)
        return;
    FUZZ_CHECK(make_list(log, &after));
    for (i = 0; i < before.count && is_small; i++)
        FUZZ_CHECK(is_listed(&after, &before.kept[i]));
}

/* The damage of a log: from its first byte to its last; whether it is in the bodies of messages
 * alone; whether it is small: that, or by one patch in one segment, and not where the last flush
 * wrote. */
struct damage {
    size_t first, last;
    int in_bodies, is_small;
};

static void find_damage(const struct base *base, const unsigned char *region, int patches,
                        struct damage *d)
{
    size_t total = base->bench.fake.bytes, i, k;
    int late = 0;

    d->first = total;
    d->last = 0;
    d->in_bodies = 1;
    for (i = 0; i < total; i++) {
        if (region[i] == base->image[i])
            continue;
        d->first = d->first < i ? d->first : i;
        d->last = i;
        late |= base->late[i / base->bench.fake.unit];
        for (k = 0; k < base->list.count; k++)
            if (i >= base->list.kept[k].at + 64 && i + 79 < base->list.kept[k].end)
                break;
        d->in_bodies &= k < base->list.count;
    }
    if (d->first > d->last)
        d->first = d->last;
    d->is_small = !late &&
                  (d->in_bodies ||
                   (patches <= 1 && d->first / base->segment == d->last / base->segment));
}

/* The messages outside of such a damage: all are there. */
static void look_for_all(struct base *base, msc4203_log *log, const unsigned char *region,
                         const struct damage *d)
{
    struct list now;
    size_t total = base->bench.fake.bytes, i, k;

    FUZZ_CHECK(make_list(log, &now));
    for (k = 0; k < base->list.count && d->is_small; k++) {
        const struct kept *kept = &base->list.kept[k];

        for (i = (size_t)kept->at; i < kept->end && i < total && region[i] == base->image[i]; i++)
            ;
        if (i < kept->end && i < total)
            continue;
        if (!d->in_bodies && kept->at < d->last && kept->end > d->first)
            continue; /* the stretch goes round it, in parts */
        FUZZ_CHECK(is_listed(&now, kept));
    }
}

static void check(struct base *base, int patches, struct fake *fake,
                  const msc4203_storage *storage, const uint8_t *data, size_t size, int forged)
{
    msc4203_log *log = (msc4203_log *)fuzz_alloc(sizeof *log);
    msc4203_log_config config;
    unsigned char *region;
    size_t bytes;
    void *index;
    struct damage damage = {0, 0, 0, 0};
    int result = msc4203_log_inspect(log, storage, &config);

    FUZZ_CHECK(result == MSC4203_OK || result == MSC4203_E_FORMAT || result == MSC4203_E_REGION);
    bytes = result == MSC4203_OK ? msc4203_log_memory(log, storage, &config) : 0;
    if (bytes != 0 && bytes < 1 << 24) {
        region = (unsigned char *)fuzz_copy(fake->seen, fake->bytes);
        index = fuzz_alloc(bytes);
        FUZZ_CHECK(msc4203_log_open(log, storage, index, bytes - 1, 1) == MSC4203_E_INDEX);
        result = msc4203_log_open(log, storage, index, bytes, 2);
        FUZZ_CHECK(result == MSC4203_OK || forged);
        if (result == MSC4203_OK) {
            if (!forged) {
                find_damage(base, region, patches, &damage);
                look_for_all(base, log, region, &damage);
            }
            work(log, storage, fake, index, bytes, data, size, forged, damage.is_small);
        }
        free(index);
        free(region);
    }
    FUZZ_CHECK(fake->calls + fake->reads < CALLS);
    FUZZ_CHECK(forged || test_failed == 0);
    test_failed = 0; /* nothing holds of the order of writes for what was forged */
    free(log);
}

/* Nothing but what was given, and zeros behind it; if `seal` is not 0, a header that may be right
 * in all but what it says of the log. */
static void check_raw(const uint8_t *data, size_t size, const uint8_t *choice, int seal)
{
    static const uint32_t sectors[4][2] = {{1, 0}, {512, 0}, {4096, 0}, {256, 4096}};
    const uint32_t *sector = sectors[choice[BASE] % 4];
    size_t bytes = choice[COUNT] < 8 ? size : size + choice[COUNT] * 512u;
    msc4203_storage storage;
    struct fake fake;

    if (bytes == 0)
        return;
    fake_init_sectors(&fake, bytes, 0, sector[0], sector[1]);
    memset(fake.seen, 0, bytes);
    memcpy(fake.seen, data, size);
    if (seal && bytes >= FORGE_HEADER) {
        static const uint32_t begin[][2] = {{0, 0x01000008}, {8, 1}, {16, 0x3463736Du},
                                            {20, 0x00333032u}, {28, 0}, {108, 0}};
        size_t i;

        for (i = 0; i < sizeof begin / sizeof begin[0]; i++)
            forge_word(fake.seen + begin[i][0], begin[i][1]);
        forge_word(fake.seen + 24, (uint32_t)bytes);
        forge_header(fake.seen);
    }
    set_storage(&storage, &fake, choice[WAY] >> 4 & 1);
    check(NULL, 0, &fake, &storage, choice, CHOICES, 1);
    fake_free(&fake);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct base *base;
    struct bench *b;
    msc4203_storage storage;
    int way, seal, patches, count;

    if (size < CHOICES)
        return 0;
    way = data[WAY];
    seal = FORGED && (way >> 3 & 1);
    test_state = 0x4203;
    if ((way & 7) == 0) {
        check_raw(data + CHOICES, size - CHOICES, data, seal);
        return 0;
    }
    if (scratch == NULL)
        make_scratch();
    base = &bases[data[BASE] % BASES];
    b = &base->bench;
    if (!base->made)
        make_base(base, data[BASE] % BASES);
    fake_restore(&b->fake, base->image);
    b->fake.calls = b->fake.reads = 0;
    count = patches = data[COUNT] % PATCHES;
    for (data += CHOICES, size -= CHOICES; patches != 0 && size >= PATCH; patches--) {
        patch(base, b->fake.seen, data, seal);
        data += PATCH;
        size -= PATCH;
    }
    set_storage(&storage, &b->fake, way >> 4 & 1);
    check(base, count, &b->fake, &storage, data, size, seal);
    return 0;
}
