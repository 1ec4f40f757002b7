/* test_damage.c - a full log that is damaged: each bit, byte, sector and segment in turn, cut
 * short, lengthened, or garbage from the first byte.
 *
 * What must hold: all that was outside of the damage is delivered, byte for byte and on the right
 * channels; nothing is invented; nothing comes back that was taken out; and the damage is counted
 * where it cost anything. */
#include "log_bench.h"

enum { DEVICES = 6, ITEMS = 512, KNOWN = 64, CHANNELS = 5, TAKEN_EACH = 8 };

/* Of the log's: /sync, three application services, parked. */
static const uint32_t damage_channels[CHANNELS] = {0, 1, 2, 3, MSC4203_CHANNEL_PARKED};
static const char *const damage_names[CHANNELS] = {"", "irc", "xmpp", "signal", ""};

struct item {
    uint64_t number, at;
    uint32_t set, sum, bytes;
};

/* What a log holds. */
struct content {
    size_t count;
    struct item list[ITEMS];
    char records[CHANNELS][64];
    unsigned known, damaged_seen;
    uint64_t damaged[ITEMS]; /* numbers that next() said were */
};

static char damage_memory[8192];
/* Messages that were hit by bits, and those of them that were lost, in all. */
static unsigned long damage_hits, damage_losses;

static uint32_t damage_sum(const msc4203_item *item)
{
    const msc4203_span *spans[5];
    uint32_t sum = 17;
    size_t i, k;

    spans[0] = &item->sender;
    spans[1] = &item->type;
    spans[2] = &item->user_id;
    spans[3] = &item->device_id;
    spans[4] = &item->content;
    for (k = 0; k < 5; k++) {
        sum = sum * 31 + (uint32_t)spans[k]->len;
        for (i = 0; i < spans[k]->len; i++)
            sum = sum * 31 + (unsigned char)spans[k]->ptr[i];
    }
    return sum;
}

static struct item *content_item(struct content *c, uint64_t number)
{
    size_t low = 0, high = c->count;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (c->list[middle].number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low < c->count && c->list[low].number == number ? &c->list[low] : NULL;
}

/* Messages come in the order of their numbers from each channel, not from all. */
static struct item *content_add(struct content *c, uint64_t number)
{
    size_t i = c->count;

    if (c->count == ITEMS) {
        CHECK_CASE(0, "more messages than there can be");
        exit(1);
    }
    for (; i > 0 && c->list[i - 1].number > number; i--)
        c->list[i] = c->list[i - 1];
    memset(&c->list[i], 0, sizeof c->list[i]);
    c->list[i].number = number;
    c->count++;
    return &c->list[i];
}

static int see_place(void *context, const msc4203_message *message, uint64_t at, int error)
{
    struct item *item = content_item((struct content *)context, message->number);

    if (item != NULL) {
        item->at = at;
        item->bytes = message->bytes;
        CHECK(error == MSC4203_OK || error == MSC4203_E_DAMAGED);
    }
    return 0;
}

static void damage_request(unsigned id, msc4203_request *request)
{
    contract_request(id, (int)(id % 5), request);
}

/* Reads all that a log has, by next(). */
static void content_read(struct bench *b, struct content *c, unsigned newest)
{
    msc4203_message got;
    msc4203_span name, record;
    msc4203_request request;
    msc4203_device who;
    unsigned channel, device, i;
    char id[16];

    c->count = 0;
    c->known = c->damaged_seen = 0;
    for (channel = 0; channel < CHANNELS; channel++)
        for (device = 0; device < (channel == 0 ? (unsigned)DEVICES : 1u); device++) {
            uint64_t after = 0;
            int result, tries = 0;

            bench_device(device, id, &who);
            for (;;) {
                struct item *item;

                if (!CHECK(tries++ < 2 * ITEMS))
                    exit(1);
                result = b->queue.next(b->queue.context, damage_channels[channel],
                                       channel == 0 ? &who : NULL, after, damage_memory,
                                       sizeof damage_memory, &got);
                if (result != MSC4203_ITEM && (result != MSC4203_E_DAMAGED || got.number == 0))
                    break;
                if (!CHECK(got.number > after))
                    exit(1);
                after = got.number;
                if (result == MSC4203_E_DAMAGED) {
                    if (c->damaged_seen < ITEMS)
                        c->damaged[c->damaged_seen++] = got.number;
                    continue;
                }
                item = content_item(c, got.number);
                if (item == NULL) {
                    item = content_add(c, got.number);
                    item->sum = damage_sum(&got.item);
                }
                item->set |= (uint32_t)1 << damage_channels[channel];
                CHECK((got.channels >> damage_channels[channel] & 1) != 0 &&
                      item->sum == damage_sum(&got.item));
            }
            CHECK_CASE(result == MSC4203_END, msc4203_result_text(result));
        }
    for (channel = 1; channel < CHANNELS; channel++) {
        int result = b->queue.record(b->queue.context, damage_channels[channel], damage_memory,
                                     sizeof damage_memory, &name, &record);
        CHECK(result == MSC4203_OK || result == MSC4203_END || result == MSC4203_E_DAMAGED);
        c->records[channel][0] = 0;
        if (result == MSC4203_OK && name.len + record.len < 60)
            sprintf(c->records[channel], "%.*s:%.*s", (int)name.len, name.ptr, (int)record.len,
                    record.ptr);
    }
    for (i = 0; i < KNOWN && i < newest; i++) {
        damage_request(newest - i, &request);
        c->known += b->queue.known(b->queue.context, &request) == MSC4203_KNOWN;
    }
}

/* ---- a log that is full ---- */

struct victim {
    struct bench bench;
    struct content whole, now, later;
    unsigned char *image;
    unsigned requests;      /* numbered from 1 */
    uint64_t header;        /* bytes that a message's record has besides its strings */
    unsigned char *late;    /* units that the last flush wrote: they may be taken for torn */
    uint64_t segment;
    /* what was met */
    unsigned long cases, hits, losses, elsewhere, back, marks, invented, silent, records, unopened;
    unsigned known_least;
    size_t worst;
};

static void victim_text(struct victim *v, uint32_t seed, size_t size, unsigned device,
                        uint32_t channels, uint32_t batch, int *result)
{
    static char text[4096];
    msc4203_message message;
    char id[16];

    bench_message(&message, id, device, channels, 1000 + seed, text,
                  contract_text(text, seed, (uint32_t)size));
    *result = v->bench.queue.push(v->bench.queue.context, batch, &message);
}

static void victim_push(struct victim *v, uint32_t *seed)
{
    struct bench *b = &v->bench;
    msc4203_request request;
    uint64_t first;
    uint32_t batch;
    size_t n = 1 + test_below(4);
    int result;

    CHECK(b->queue.begin(b->queue.context, &batch) == MSC4203_OK);
    do {
        uint32_t set = (uint32_t)1 << damage_channels[test_below(CHANNELS)] |
                       (uint32_t)1 << damage_channels[test_below(CHANNELS)];

        victim_text(v, ++*seed, 24 + test_below(test_below(3) ? 150 : 900),
                    (unsigned)test_below(DEVICES), set, batch, &result);
    } while (result == MSC4203_OK && --n != 0);
    damage_request(v->requests + 1, &request);
    if (result == MSC4203_OK)
        result = b->queue.commit(b->queue.context, batch, &request, &first);
    else
        CHECK(b->queue.abort(b->queue.context, batch) == MSC4203_OK);
    v->requests += result == MSC4203_OK;
    CHECK(result == MSC4203_OK || result == MSC4203_E_QUEUE_FULL || result == MSC4203_E_BATCH);
}

/* Takes something out. */
static void victim_take(struct victim *v, uint32_t seed)
{
    struct bench *b = &v->bench;
    uint32_t channel = damage_channels[test_below(CHANNELS)];
    msc4203_span record;
    msc4203_message got;
    msc4203_device who;
    char id[16], text[40];
    uint64_t after = 0, through = 0;
    size_t steps = 1 + test_below(TAKEN_EACH);
    int result;

    bench_device((unsigned)test_below(DEVICES), id, &who);
    while (steps-- != 0 && b->queue.next(b->queue.context, channel, channel == 0 ? &who : NULL,
                                         after, damage_memory, sizeof damage_memory, &got) ==
                               MSC4203_ITEM)
        through = after = got.number;
    record.ptr = text;
    record.len = (size_t)sprintf(text, "record %lu", (unsigned long)seed);
    switch (test_below(10)) {
    case 0:
    case 1:
        result = b->queue.move(b->queue.context, channel, channel == 0 ? &who : NULL, through,
                               test_below(2) ? 0 : 1u << test_below(4), NULL);
        CHECK(result == MSC4203_OK || result == MSC4203_END || result == MSC4203_E_QUEUE_FULL);
        break;
    case 2:
    case 3:
        if (channel != 0)
            result = b->queue.hold(b->queue.context, channel, through, &record);
        break;
    case 4:
        if (test_below(10) == 0)
            CHECK(b->queue.drop(b->queue.context, &who, NULL) == MSC4203_OK);
        break;
    default:
        CHECK(b->queue.done(b->queue.context, channel, channel == 0 ? &who : NULL, through,
                            channel != 0 && test_below(2) ? &record : NULL) == MSC4203_OK);
    }
}

/* How long a message's record is besides its strings, seen from outside. */
static uint64_t victim_header(struct victim *v)
{
    struct bench *b = &v->bench;
    msc4203_message message;
    uint32_t batch;
    uint64_t first;

    memset(&message, 0, sizeof message);
    message.channels = 2;
    CHECK(b->queue.begin(b->queue.context, &batch) == MSC4203_OK);
    CHECK(b->queue.push(b->queue.context, batch, &message) == MSC4203_OK);
    CHECK(b->queue.push(b->queue.context, batch, &message) == MSC4203_OK);
    CHECK(b->queue.commit(b->queue.context, batch, NULL, &first) == MSC4203_OK);
    CHECK(bench_flush(b) == MSC4203_OK);
    content_read(b, &v->now, 0);
    CHECK(msc4203_log_scan(&b->log, damage_memory, sizeof damage_memory, see_place, &v->now) ==
          MSC4203_OK);
    CHECK(v->now.count == 2);
    CHECK(b->queue.done(b->queue.context, 1, NULL, UINT64_MAX, NULL) == MSC4203_OK);
    return v->now.list[1].at - v->now.list[0].at;
}

static void victim_init(struct victim *v, const struct shape *shape, int closed)
{
    struct bench *b = &v->bench;
    size_t bytes = shape->bytes > 100000 ? 160 * 1024 : shape->sector >= 4096 ? 96 * 1024
                                                                              : 64 * 1024;
    msc4203_span record = contract_span("the last");
    uint32_t seed = 0, channel;
    unsigned long writes;
    unsigned i;
    size_t unit;

    memset(v, 0, sizeof *v);
    bench_storage(b, shape, bytes, 0, 0);
    b->config.messages = 400;
    bench_start(b, 0);
    for (i = 1; i < CHANNELS - 1; i++) {
        msc4203_span name = contract_span(damage_names[i]);
        CHECK(b->queue.channel(b->queue.context, &name, 1, &channel) == MSC4203_OK &&
              channel == damage_channels[i]);
    }
    v->header = victim_header(v);
    CHECK(v->header >= 16 && v->header <= 128);
    for (i = 0; i < 100000 && (bench_rounds(b) < 4 || i < 400 || v->requests < KNOWN); i++) {
        msc4203_log_usage usage;

        msc4203_log_usage_get(&b->log, &usage);
        if (usage.used < usage.capacity * 3 / 4 && usage.messages < 350 && test_below(3))
            victim_push(v, &seed);
        else
            victim_take(v, ++seed);
        if (test_below(4) == 0)
            CHECK(bench_flush(b) == MSC4203_OK);
        if (test_below(200) == 0) {
            fake_forget(&b->fake);
            CHECK(bench_flush(b) == MSC4203_OK && bench_open(b) == MSC4203_OK);
        }
    }
    v->segment = bench_segment(b);
    if (v->requests > 3)
        CHECK(bench_flush(b) == MSC4203_OK);
    content_read(b, &v->whole, v->requests);
    CHECK(v->whole.count > 4 && v->whole.known == KNOWN && bench_damaged(b) == 0);
    /* what this writes may be taken for something that was never durable */
    writes = b->fake.writes;
    CHECK(b->queue.done(b->queue.context, MSC4203_CHANNEL_PARKED, NULL, 0, &record) == MSC4203_OK);
    CHECK(msc4203_log_scan(&b->log, damage_memory, sizeof damage_memory, see_place, &v->whole) ==
          MSC4203_OK);
    CHECK((closed ? msc4203_log_close(&b->log) : bench_flush(b)) == MSC4203_OK);
    v->late = (unsigned char *)calloc(b->fake.bytes / b->fake.unit + 1, 1);
    for (unit = 0; v->late != NULL && unit < b->fake.bytes / b->fake.unit; unit++)
        v->late[unit] = b->fake.units[unit].last > writes;
    sprintf(v->whole.records[CHANNELS - 1], ":the last");
    v->known_least = KNOWN;
    v->image = (unsigned char *)malloc(b->fake.bytes);
    if (v->image == NULL || v->late == NULL)
        exit(2);
    memcpy(v->image, b->fake.seen, b->fake.bytes);
}

static void victim_free(struct victim *v)
{
    free(v->image);
    free(v->late);
    bench_free(&v->bench);
}

/* Where a message's bytes end. */
static uint64_t item_end(const struct victim *v, const struct item *item)
{
    unsigned kind = item->at + 3 < v->bench.fake.bytes ? v->image[item->at + 3] & 15u : 0;

    return item->at + v->header + item->bytes + (kind == 4 ? 16 : 0); /* one that was moved */
}

/* Whether a message lies where the damage is: its bytes, or with all that rounds them up. */
static int item_is_hit(const struct victim *v, const struct item *item, uint64_t from, uint64_t to,
                       uint64_t round)
{
    uint64_t end = item_end(v, item);

    end = (end + round - 1) / round * round;
    return item->at < to && end > from;
}

static void victim_case(const struct victim *v, const char *what, uint64_t from, uint64_t to)
{
    printf("  %s: bytes %lu to %lu, segment %lu + %lu\n", what, (unsigned long)from,
           (unsigned long)to, (unsigned long)(from / v->segment),
           (unsigned long)(from % v->segment));
}

/* Whether the last flush wrote any of it. */
static int victim_is_late(const struct victim *v, uint64_t from, uint64_t to)
{
    for (from -= from % v->bench.fake.unit; from < to; from += v->bench.fake.unit)
        if (v->late[from / v->bench.fake.unit])
            return 1;
    return 0;
}

/* Whether the damage hits a record that takes something out, or that gave out numbers by which
 * something was taken out: then that may come back. Where records begin, and what kind they are, is
 * as the format's description says; leftovers of earlier uses of a segment only make this wider. */
static int victim_is_mark(const struct victim *v, uint64_t from, uint64_t to)
{
    enum { UNIT = 16, HEADER = 128, MESSAGE = 2, COPY = 3, REMEMBER = 12, PAD = 13 };
    uint64_t segment, at, units;

    for (segment = from - from % v->segment; segment < to; segment += v->segment) {
        if (from < segment + HEADER)
            return 1; /* it may tell where to go on */
        for (at = segment + HEADER; at + UNIT <= segment + v->segment; at += units * UNIT) {
            const unsigned char *word = v->image + at;
            unsigned kind = word[3] & 15u;

            units = word[0] | (uint64_t)word[1] << 8 | (uint64_t)word[2] << 16;
            if (units == 0 || kind == 0)
                break;
            if (at < to && at + units * UNIT > from && kind != MESSAGE && kind != COPY &&
                kind != REMEMBER && kind != PAD)
                return 1;
        }
        if (at < to && at < segment + v->segment)
            return 1; /* nothing is known of this */
    }
    return 0;
}

/* Whether the end of a batch may be hit together with all that came later, or with all of the
 * newest segment: nothing then shows that it was durable. */
static int victim_is_end(const struct victim *v, uint64_t from, uint64_t to)
{
    return victim_is_late(v, from, to) &&
           (to - from >= v->segment || !victim_is_late(v, from, from + 1));
}

/* Compares what was read of a damaged log with what was in it. */
static void victim_compare(struct victim *v, uint64_t from, uint64_t to)
{
    struct content *whole = &v->whole, *now = &v->now;
    size_t lost = 0, hit = 0, elsewhere = 0, back = 0, invented = 0, records = 0, i;
    uint64_t damaged = bench_damaged(&v->bench);
    uint32_t gone[ITEMS]; /* sums of what was lost: a moved message may be back where it was */
    size_t n = 0, k;
    int is_mark;

    for (i = 0; i < whole->count; i++) {
        struct item *was = &whole->list[i], *is = content_item(now, was->number);
        int is_lost;

        for (k = 0; is == NULL && k < now->count; k++) /* a number that nothing tells any more */
            if (now->list[k].sum == was->sum)
                is = &now->list[k];
        is_lost = is == NULL || (was->set & ~is->set) != 0;

        hit += (size_t)item_is_hit(v, was, from, to, 1);
        lost += (size_t)is_lost;
        if (is_lost)
            gone[n++] = was->sum;
        elsewhere += (size_t)(is_lost && !item_is_hit(v, was, from, to, 16));
    }
    for (i = 0; i < now->count; i++) {
        struct item *was = content_item(whole, now->list[i].number);

        for (k = 0; was == NULL && k < n && gone[k] != now->list[i].sum; k++)
            ;
        if (was == NULL ? k == n : (now->list[i].set & ~was->set) != 0)
            back++;
        else if (was != NULL && was->sum != now->list[i].sum)
            invented++;
    }
    for (i = 0; i < now->damaged_seen; i++) {
        struct item *was = content_item(whole, now->damaged[i]);
        if (was == NULL ? !victim_is_mark(v, from, to) : !item_is_hit(v, was, from, to, 16))
            elsewhere++;
    }
    for (i = 1; i < CHANNELS; i++)
        records += strcmp(whole->records[i], now->records[i]) != 0;
    v->hits += hit != 0;
    v->losses += lost != 0;
    v->records += records != 0;
    v->worst = lost > v->worst ? lost : v->worst;
    v->known_least = now->known < v->known_least ? now->known : v->known_least;
    v->elsewhere += elsewhere != 0;
    is_mark = back != 0 && victim_is_mark(v, from, to);
    v->back += back != 0;
    v->marks += is_mark != 0;
    v->invented += invented != 0;
    if (!CHECK(elsewhere == 0 || victim_is_end(v, from, to)))
        victim_case(v, "lost what was not hit", from, to);
    if (!CHECK(back == 0 || is_mark))
        victim_case(v, "what was taken out came back", from, to);
    if (!CHECK(invented == 0))
        victim_case(v, "a message is another one", from, to);
    if (damaged != 0 || victim_is_late(v, from, to))
        return;
    if (hit + lost + back + records + (KNOWN - now->known) != 0) {
        v->silent++;
        CHECK_CASE(0, "damage is counted");
        victim_case(v, "not counted", from, to);
    }
}

/* The region has been damaged: opens the log, reads it, and maybe works with it. */
static void victim_try(struct victim *v, uint64_t from, uint64_t to, int works)
{
    struct bench *b = &v->bench;
    size_t i;
    int result;

    v->cases++;
    fake_forget(&b->fake);
    bench_hurt(b);
    result = bench_open(b);
    if (!CHECK_CASE(result == MSC4203_OK, msc4203_result_text(result))) {
        victim_case(v, "does not open", from, to);
        v->unopened++;
        return;
    }
    content_read(b, &v->now, v->requests);
    victim_compare(v, from, to);
    if (!works)
        return;
    /* the loss does not grow, nor does anything come back */
    CHECK(bench_flush(b) == MSC4203_OK);
    bench_age(b, test_below(2) ? 3 : b->fake.bytes / (b->fake.unit < 1500 ? 1500 : b->fake.unit));
    CHECK(b->queue.done(b->queue.context, MSC4203_CHANNEL_PARKED, NULL, 0, NULL) == MSC4203_OK);
    if (test_below(2))
        CHECK(msc4203_log_close(&b->log) == MSC4203_OK);
    else
        CHECK(bench_flush(b) == MSC4203_OK);
    fake_forget(&b->fake);
    bench_hurt(b);
    CHECK(bench_open(b) == MSC4203_OK);
    content_read(b, &v->later, 0);
    for (i = 0; i < v->later.count; i++) {
        struct item *was = content_item(&v->now, v->later.list[i].number);
        if (!CHECK((was != NULL && (v->later.list[i].set & ~was->set) == 0) ||
                   victim_is_mark(v, from, to)))
            victim_case(v, "came back later", from, to);
    }
    for (i = 0; i < v->now.count; i++)
        if ((v->now.list[i].set & 0x7FFFFFFFu) != 0 &&
            !CHECK(content_item(&v->later, v->now.list[i].number) != NULL))
            victim_case(v, "went later", from, to);
}

static void victim_back(struct victim *v)
{
    fake_restore(&v->bench.fake, v->image);
}

static void victim_say(const struct victim *v, const char *what, const struct shape *shape,
                       int closed)
{
    printf("damage, %s%s, %s: %lu messages, %lu cases: %lu hit messages, %lu cost messages, at "
           "most %lu; %lu cost names or records, at worst %u of %d requests known; lost elsewhere "
           "%lu, back %lu (%lu with a mark), invented %lu, silent %lu, not opened %lu\n",
           shape->name, closed ? ", closed" : "", what, (unsigned long)v->whole.count, v->cases,
           v->hits, v->losses, (unsigned long)v->worst, v->records, v->known_least, KNOWN,
           v->elsewhere, v->back, v->marks, v->invented, v->silent, v->unopened);
}

static void victim_again(struct victim *v)
{
    bench_test();
    v->cases = v->hits = v->losses = v->elsewhere = v->back = v->marks = v->invented = 0;
    v->silent = v->records = v->unopened = 0;
    v->known_least = KNOWN;
    v->worst = 0;
}

static void test_bits(struct victim *v, const struct shape *shape, int closed, size_t each)
{
    size_t bit, bits = v->bench.fake.bytes * 8;

    victim_again(v);
    for (bit = test_below(each); bit < bits && bench_goes_on();
         bit += each == 1 ? 1 : 1 + test_below(2 * each - 1)) {
        victim_back(v);
        v->bench.fake.seen[bit / 8] ^= (unsigned char)(1u << bit % 8);
        victim_try(v, bit / 8, bit / 8 + 1, test_below(16) == 0);
    }
    victim_say(v, "bits", shape, closed);
    damage_hits += v->hits;
    damage_losses += v->losses;
}

static void test_bytes(struct victim *v, const struct shape *shape, int closed, size_t each)
{
    size_t at, run, i;

    victim_again(v);
    for (at = test_below(each); at < v->bench.fake.bytes && bench_goes_on();
         at += each == 1 ? 1 : 1 + test_below(2 * each - 1)) {
        victim_back(v);
        run = test_below(2) ? 1 : 1 + test_below(24);
        run = run < v->bench.fake.bytes - at ? run : v->bench.fake.bytes - at;
        for (i = 0; i < run; i++)
            v->bench.fake.seen[at + i] ^= (unsigned char)(1 + test_below(255));
        victim_try(v, at, at + run, test_below(16) == 0);
    }
    victim_say(v, "bytes", shape, closed);
}

/* Stretches of a size, in all the ways in which they can go wrong. */
static void test_stretches(struct victim *v, const char *what, const struct shape *shape,
                           int closed, size_t size, size_t each)
{
    size_t at, from;
    int kind;

    victim_again(v);
    for (at = size * test_below(each); at + size <= v->bench.fake.bytes && bench_goes_on();
         at += size * each)
        for (kind = 0; kind < 5; kind++) {
            unsigned char *p = v->bench.fake.seen + at;

            victim_back(v);
            from = test_below(v->bench.fake.bytes / size) * size;
            if (kind < 2)
                memset(p, kind == 0 ? 0 : 0xFF, size);
            else if (kind == 2)
                memmove(p, v->bench.fake.seen + from, size); /* another one */
            else if (kind == 3)
                memset(p + test_below(size), 0xFF, 1);
            else
                for (from = 0; from < size; from++)
                    p[from] = (unsigned char)(test_random() >> 30);
            if (memcmp(p, v->image + at, size) == 0)
                continue;
            for (from = 0; kind == 3 && p[from] == v->image[at + from]; from++)
                ;
            victim_try(v, kind == 3 ? at + from : at, kind == 3 ? at + from + 1 : at + size,
                       test_below(4) == 0);
        }
    victim_say(v, what, shape, closed);
}

/* ---- cut short, lengthened, read-only ---- */

struct cut {
    const unsigned char *bytes;
    size_t has, size;
};

/* What a file that was cut short gives: nothing behind its end. */
static int cut_read(void *context, uint64_t at, void *data, size_t bytes)
{
    const struct cut *cut = (const struct cut *)context;
    size_t n = at < cut->has ? cut->has - (size_t)at : 0;

    if (!CHECK(at <= cut->size && bytes <= cut->size - at))
        return -1;
    n = n < bytes ? n : bytes;
    memset(data, 0, bytes);
    memcpy(data, cut->bytes + at, n);
    return 0;
}

/* Whether the end of a message's batch was cut off, or may have been: it is not a message yet. */
static int victim_is_open(const struct victim *v, const struct item *item, uint64_t end)
{
    uint64_t segment = item->at - item->at % v->segment, at = item->at, units;
    const unsigned char *first = v->image + item->at;

    if ((first[3] & 15) != 2) /* a copy, or one that was moved */
        return 0;
    for (; at + 48 <= segment + v->segment && at + 48 <= end; at += units * 16) {
        const unsigned char *word = v->image + at;

        units = word[0] | (uint64_t)word[1] << 8 | (uint64_t)word[2] << 16;
        if (units == 0)
            return 1;
        if ((word[3] & 15) == 5 && word[7] == first[7] && word[27] == first[35])
            return 0;
    }
    return 1;
}

/* What is left of the log is read from a storage that can't be written. */
static void cut_rescue(struct victim *v, struct cut *cut)
{
    struct bench *b = &v->bench;
    msc4203_storage storage = b->fake.storage;
    msc4203_span record = contract_span("r");
    uint64_t number;
    uint32_t batch;
    size_t i;
    int result;

    cut->bytes = v->image;
    cut->size = b->fake.bytes;
    storage.context = cut;
    storage.read = cut_read;
    storage.write = NULL;
    storage.sync = NULL;
    storage.erase = NULL;
    b->storage = &storage;
    result = bench_open(b);
    if (result != MSC4203_OK) {
        CHECK_CASE(result == MSC4203_E_FORMAT && cut->has < v->segment * 2,
                   msc4203_result_text(result));
        b->storage = &b->fake.storage;
        return;
    }
    content_read(b, &v->now, v->requests);
    for (i = 0; i < v->now.count; i++) {
        struct item *was = content_item(&v->whole, v->now.list[i].number);
        /* a batch without its end may get a number whose message is cut off */
        CHECK(was == NULL || was->sum == v->now.list[i].sum || item_end(v, was) > cut->has);
        CHECK(cut->has < cut->size || was != NULL); /* what took it out may be cut off */
    }
    for (i = 0; i < v->whole.count; i++) {
        const struct item *was = &v->whole.list[i];
        if (item_end(v, was) <= cut->has && !victim_is_open(v, was, cut->has) &&
            !CHECK(content_item(&v->now, was->number) != NULL))
            victim_case(v, "cut off", was->at, cut->has);
    }
    if (cut->has == cut->size)
        CHECK(bench_damaged(b) == 0 && v->now.count == v->whole.count);
    result = b->queue.begin(b->queue.context, &batch);
    if (result == MSC4203_OK)
        victim_text(v, 1, 50, 1, 2, batch, &result);
    if (result == MSC4203_OK)
        result = b->queue.commit(b->queue.context, batch, NULL, &number);
    CHECK(result == MSC4203_E_STORAGE);
    CHECK(b->queue.done(b->queue.context, 1, NULL, UINT64_MAX, NULL) == MSC4203_E_STORAGE);
    CHECK(b->queue.hold(b->queue.context, 1, 0, &record) == MSC4203_E_STORAGE);
    CHECK(b->queue.expire(b->queue.context, 5, &number) == MSC4203_E_STORAGE);
    CHECK(msc4203_log_close(&b->log) == MSC4203_E_STORAGE);
    b->storage = &b->fake.storage;
}

static void test_cut(struct victim *v, size_t each)
{
    struct bench *b = &v->bench;
    msc4203_log_config config;
    msc4203_log other;
    struct cut cut;
    size_t at, bytes = b->fake.bytes;
    unsigned long no_log = 0, other_size = 0;
    unsigned char *image, *had = b->fake.seen;

    bench_test();
    victim_back(v);
    for (at = 0; at < bytes && bench_goes_on(); at += 1 + test_below(2 * each)) {
        int result, opened;

        b->fake.bytes = at; /* it looks whether this is observed */
        b->fake.storage.bytes = at;
        result = msc4203_log_inspect(&other, b->storage, &config);
        opened = bench_open(b);
        b->fake.bytes = b->fake.storage.bytes = bytes;
        CHECK(result == opened);
        CHECK(result == MSC4203_E_FORMAT || result == MSC4203_E_REGION);
        CHECK(result != MSC4203_E_REGION || config.bytes == bytes);
        no_log += result == MSC4203_E_FORMAT;
        other_size += result == MSC4203_E_REGION;
        CHECK(result == MSC4203_E_REGION || at < 2 * v->segment);
        CHECK(memcmp(b->fake.seen, v->image, bytes) == 0);
        if (at % 4 == 0) {
            cut.has = at;
            cut_rescue(v, &cut);
        }
    }
    cut.has = bytes;
    cut_rescue(v, &cut);
    /* longer */
    image = (unsigned char *)malloc(bytes * 2);
    if (image == NULL)
        exit(2);
    memset(image, 0xFF, bytes * 2);
    memcpy(image, v->image, bytes);
    b->fake.seen = image;
    for (at = bytes + 1; at < bytes * 2; at += 1 + test_below(bytes / 8)) {
        b->fake.bytes = b->fake.storage.bytes = at;
        CHECK(msc4203_log_inspect(&other, b->storage, &config) == MSC4203_E_REGION &&
              config.bytes == bytes);
        CHECK(bench_open(b) == MSC4203_E_REGION);
    }
    b->fake.seen = had;
    b->fake.bytes = b->fake.storage.bytes = bytes;
    CHECK(memcmp(image, v->image, bytes) == 0);
    free(image);
    CHECK(msc4203_log_inspect(&other, b->storage, &config) == MSC4203_OK && config.bytes == bytes);
    printf("cut: no log %lu times, another size %lu\n", no_log, other_size);
    CHECK(no_log != 0 && other_size != 0);
}

/* ---- what is no log ---- */

static void test_garbage(const struct shape *shape)
{
    static struct bench b;
    msc4203_log_config config;
    msc4203_log other;
    unsigned char *image;
    size_t i, k;
    int kind, result;

    bench_init(&b, shape, shape->bytes, 0, 0);
    image = (unsigned char *)malloc(b.fake.bytes);
    if (image == NULL)
        exit(2);
    bench_age(&b, 40);
    CHECK(bench_push(&b, 7, 1, 500, NULL) == MSC4203_OK && bench_flush(&b) == MSC4203_OK);
    memcpy(image, b.fake.seen, b.fake.bytes);
    for (kind = 0; kind < 3; kind++) {
        for (i = 0; i < b.fake.bytes; i++)
            b.fake.seen[i] =
                (unsigned char)(kind == 0 ? 0 : kind == 1 ? 0xFF : test_random() >> 20);
        CHECK(bench_open(&b) == MSC4203_E_FORMAT);
        CHECK(msc4203_log_inspect(&other, b.storage, &config) == MSC4203_E_FORMAT);
        CHECK(bench_flush(&b) == MSC4203_E_STORAGE); /* nothing is open */
    }
    for (i = 0; i < test_shared(2000, 50); i++) { /* many places of a log at once */
        size_t places = 1 + test_below(test_below(2) ? 20 : 2000);

        fake_restore(&b.fake, image);
        for (k = 0; k < places; k++)
            b.fake.seen[test_below(b.fake.bytes)] = (unsigned char)(test_random() >> 30);
        bench_hurt(&b);
        result = bench_open(&b);
        CHECK(result == MSC4203_OK || result == MSC4203_E_FORMAT || result == MSC4203_E_REGION);
        if (result != MSC4203_OK)
            continue;
        bench_age(&b, 3);
        result = bench_push(&b, 3, 2, 400, NULL);
        CHECK(result == MSC4203_OK || result == MSC4203_E_QUEUE_FULL);
        CHECK(b.queue.done(b.queue.context, 1, NULL, UINT64_MAX, NULL) == MSC4203_OK);
        CHECK(bench_flush(&b) == MSC4203_OK);
        fake_forget(&b.fake);
        bench_hurt(&b);
        CHECK(bench_open(&b) == MSC4203_OK);
    }
    fake_restore(&b.fake, image);
    bench_hurt(&b);
    CHECK(bench_open(&b) == MSC4203_OK);
    b.index_bytes--; /* what opening needs is checked, too */
    CHECK(bench_open(&b) == MSC4203_E_INDEX);
    b.index_bytes++;
    free(image);
    bench_free(&b);
}

/* ---- damage while the log is in use ---- */

/* What next() finds damaged it tells the number of; a message beside it comes as ever. */
static void test_in_use(const struct shape *shape)
{
    static struct victim v;
    struct bench *b = &v.bench;
    unsigned long i, told = 0, known;

    victim_init(&v, shape, 0);
    for (i = 0; i < v.whole.count; i++) {
        const struct item *item = &v.whole.list[i];
        uint64_t at;

        victim_back(&v);
        bench_hurt(b);
        CHECK(bench_open(b) == MSC4203_OK);
        CHECK(bench_damaged(b) == 0);
        /* opening may have moved it */
        CHECK(msc4203_log_scan(&b->log, damage_memory, sizeof damage_memory, see_place,
                               &v.whole) == MSC4203_OK);
        at = item->at + v.header + test_below(item->bytes);
        b->fake.seen[at] ^= (unsigned char)(1u << test_below(8)); /* its strings */
        content_read(b, &v.now, v.requests);
        CHECK(bench_damaged(b) >= 1 && v.now.damaged_seen >= 1);
        known = v.now.damaged_seen != 0 && v.now.damaged[0] == item->number;
        told += known;
        CHECK(known);
        victim_compare(&v, at, at + 1);
        if (test_below(4) == 0) { /* it can be taken out like any other */
            CHECK(b->queue.done(b->queue.context, 1, NULL, UINT64_MAX, NULL) == MSC4203_OK);
            CHECK(bench_flush(b) == MSC4203_OK);
            content_read(b, &v.now, v.requests);
        }
    }
    printf("in use, %s: %lu messages damaged, %lu told\n", shape->name, i, told);
    victim_free(&v);
}

int main(void)
{
    static struct victim v;
    unsigned long share = test_share(), scale = test_scale();
    size_t each = share > 1000 ? 5000 : share > 4 ? 400 : scale > 1 ? 1 : 60;
    unsigned i;
    int closed;

    test_seed(0xDA3A);
    for (i = 0; i < (test_tiny() ? 2u : (unsigned)SHAPES); i++) {
        const struct shape *shape = &shapes[i];

        if (shape->told != 0)
            continue;
        test_garbage(shape);
        test_in_use(shape);
        for (closed = 0; closed < 2; closed++) {
            size_t large = shape->bytes > 100000 ? 2 : 1;

            victim_init(&v, shape, closed);
            victim_try(&v, v.bench.fake.bytes, v.bench.fake.bytes, 1); /* no damage */
            CHECK(v.now.count <= v.whole.count && bench_damaged(&v.bench) == 0);
            test_bits(&v, shape, closed, each == 1 ? 1 : each * 8 * large);
            test_bytes(&v, shape, closed, each == 1 ? 1 : each * 2 * large);
            test_stretches(&v, "sectors", shape, closed,
                           v.bench.fake.unit < 64 ? 64 : v.bench.fake.unit,
                           v.bench.fake.unit > 1000 ? 1 : each == 1 ? 1 : each / 10);
            test_stretches(&v, "segments", shape, closed, (size_t)v.segment, 1);
            test_cut(&v, v.bench.fake.bytes / (each == 1 ? 2000 : share > 4 ? 30 : 150));
            victim_free(&v);
        }
    }
    CHECK(damage_hits > 20 || test_tiny());
    CHECK(damage_losses + 4 >= damage_hits / 2); /* not all of them had another copy */
    return test_end("damage");
}
