/* fake_storage.h - a storage in memory that holds the log to its contract, fails when told, and
 * loses what was not synced: a disk, or with `block` a NOR flash chip, whose bits are only set by
 * erasing. It checks every call (see fake_write and fake_erase). */
#ifndef FAKE_STORAGE_H
#define FAKE_STORAGE_H

#include "msc4203.h"
#include "test.h"

/* When the call that fails does so: before it did anything, after it did all, or half way. */
enum fake_when { FAKE_BEFORE = 0, FAKE_AFTER = 1, FAKE_MIDDLE = 2, FAKE_WHENS = 3 };

struct fake_unit {
    uint32_t last;            /* the write that was here last: its number; 0 not known */
    unsigned char dirty;      /* written or erased, and not synced */
    unsigned char erased;     /* what is not synced began with an erase */
    unsigned char programmed; /* may not be written before it is erased */
};

struct fake {
    msc4203_storage storage;
    unsigned char *seen, *durable; /* what is read; what is on the medium */
    size_t bytes;
    size_t unit; /* bytes of which every write must be a multiple: a sector, but at least 16 */
    size_t harm; /* bytes that a power failure damages together */
    struct fake_unit *units;
    uint32_t *dirty; /* units, in the order in which they were written */
    size_t count;    /* of them */
    uint32_t *wear;  /* how often each block was erased */

    unsigned long calls, fail_at; /* fail_at: from this call on, the power is gone; 0 never */
    int fail_once;                /* the calls behind it work again */
    int after;                    /* enum fake_when */

    /* order of the writes */
    size_t segment, round; /* how long segments are, 0: not known yet; the last one written to */
    uint64_t end;          /* behind the last write */

    /* what was met */
    unsigned long failures, reads, writes, syncs, erases, sectors;
    unsigned long kept, lost, torn, garbage, half_erased;
    uint64_t touched;
};

/* Counts a call; tells whether it is to fail. */
static TEST_UNUSED int fake_call(struct fake *f)
{
    f->calls++;
    if (f->fail_at == 0 || f->calls < f->fail_at || (f->fail_once && f->calls > f->fail_at))
        return 0;
    f->failures++;
    return 1;
}

/* How much of a call that fails is done. */
static TEST_UNUSED int fake_when(const struct fake *f)
{
    return f->calls == f->fail_at ? f->after : FAKE_BEFORE;
}

static TEST_UNUSED int fake_is_inside(const struct fake *f, uint64_t at, size_t bytes)
{
    return CHECK(at <= f->bytes && bytes <= f->bytes - at);
}

static TEST_UNUSED int fake_read(void *context, uint64_t at, void *data, size_t bytes)
{
    struct fake *f = (struct fake *)context;

    f->reads++;
    f->touched += bytes;
    if (!fake_is_inside(f, at, bytes))
        return -1;
    if (f->fail_once && fake_call(f))
        return -1;
    if (!f->fail_once && f->fail_at != 0 && f->calls >= f->fail_at)
        return -1;
    memcpy(data, f->seen + at, bytes);
    return 0;
}

/* Programs a unit; on a chip, bits only go from 1 to 0. */
static TEST_UNUSED void fake_put(struct fake *f, unsigned char *to, const unsigned char *from,
                                 size_t bytes)
{
    size_t i;

    if (f->storage.block == 0)
        memcpy(to, from, bytes);
    else
        for (i = 0; i < bytes; i++)
            to[i] &= from[i];
}

static TEST_UNUSED void fake_mark(struct fake *f, size_t unit, int erased)
{
    struct fake_unit *u = &f->units[unit];

    if (!u->dirty)
        f->dirty[f->count++] = (uint32_t)unit;
    u->dirty = 1;
    if (erased)
        u->erased = 1;
}

/* What a power failure, or a call that failed half way, can make of bytes. */
static TEST_UNUSED void fake_garble(const struct fake *f, unsigned char *to, size_t bytes)
{
    size_t i, from, how = test_below(7);

    for (i = 0; i < bytes; i++) /* few bits are the hardest to find */
        if (how < 2)
            to[i] = (unsigned char)(how == 0 ? 0 : 0xFF);
        else if (how == 2)
            to[i] = (unsigned char)(test_random() >> 30);
        else if (how == 3 && (i & 15) == 0)
            to[i] ^= (unsigned char)(test_random() >> 30);
    if (how == 4) /* one bit */
        to[test_below(bytes)] ^= (unsigned char)(1u << test_below(8));
    if (how >= 5) { /* what is elsewhere */
        from = test_below(f->bytes / bytes) * bytes;
        memmove(to, f->seen + from, bytes);
    }
}

/* The order in which sectors may be written: they go on where the last write ended, or at the
 * beginning of a segment; and one is written again only when its segment was begun anew, after
 * others. */
static TEST_UNUSED void fake_order(struct fake *f, uint64_t at, size_t bytes)
{
    size_t i, first = (size_t)at / f->unit, last = first + bytes / f->unit;
    size_t segment = f->segment / f->unit;

    f->writes++;
    f->sectors += bytes / f->unit;
    for (i = first; i < last; i++) {
        uint32_t before = f->units[i].last;

        f->units[i].last = (uint32_t)f->writes;
        if (segment == 0)
            continue;
        if (i == first)
            CHECK(at == f->end || i % segment == 0);
        if (f->storage.block == 0 && before != 0)
            CHECK(i % segment == 0 ? f->round != i / segment
                                   : f->units[i - i % segment].last > before);
    }
    if (segment != 0)
        f->round = (last - 1) / segment;
    f->end = at + bytes;
}

/* Whole sectors. On a chip, those that were erased and not written since. */
static TEST_UNUSED int fake_write(void *context, uint64_t at, const void *data, size_t bytes)
{
    struct fake *f = (struct fake *)context;
    int fails = fake_call(f), when = fails ? fake_when(f) : FAKE_AFTER;
    size_t i, first = (size_t)at / f->unit, units = bytes / f->unit, done;
    const unsigned char *from = (const unsigned char *)data;

    f->touched += bytes;
    if (!fake_is_inside(f, at, bytes) || !CHECK(bytes != 0 && at % f->unit == 0) ||
        !CHECK(bytes % f->unit == 0))
        return -1;
    if (when == FAKE_BEFORE)
        return -1;
    if (!fails)
        fake_order(f, at, bytes);
    done = when == FAKE_MIDDLE ? test_below(units) : units;
    for (i = first; i < first + units; i++) {
        unsigned char *to = f->seen + i * f->unit;

        if (f->storage.block != 0)
            CHECK(!f->units[i].programmed);
        f->units[i].programmed = 1;
        if (i > first + done)
            break;
        fake_mark(f, i, 0);
        if (i < first + done)
            fake_put(f, to, from, f->unit);
        else if (test_below(2))
            fake_put(f, to, from, test_below(f->unit));
        else
            fake_garble(f, to, f->unit);
        from += f->unit;
    }
    return fails ? -1 : 0;
}

static TEST_UNUSED int fake_sync(void *context)
{
    struct fake *f = (struct fake *)context;
    int fails = fake_call(f), when = fails ? fake_when(f) : FAKE_AFTER;
    size_t i, kept = 0;

    f->syncs++;
    if (when == FAKE_BEFORE)
        return -1;
    for (i = 0; i < f->count; i++) {
        size_t at = f->dirty[i] * f->unit;

        if (when == FAKE_MIDDLE && test_below(2)) {
            f->dirty[kept++] = f->dirty[i];
            continue;
        }
        if (f->durable != NULL)
            memcpy(f->durable + at, f->seen + at, f->unit);
        f->units[f->dirty[i]].dirty = f->units[f->dirty[i]].erased = 0;
    }
    f->count = kept;
    return fails ? -1 : 0;
}

/* One block. */
static TEST_UNUSED int fake_erase(void *context, uint64_t at, size_t bytes)
{
    struct fake *f = (struct fake *)context;
    int fails = fake_call(f), when = fails ? fake_when(f) : FAKE_AFTER;
    size_t i, first = (size_t)at / f->unit, units = bytes / f->unit;

    if (!fake_is_inside(f, at, bytes) || !CHECK(f->storage.block != 0) ||
        !CHECK(bytes == f->storage.block && at % bytes == 0))
        return -1;
    if (when == FAKE_BEFORE)
        return -1;
    f->erases++;
    f->wear[at / bytes]++;
    for (i = first; i < first + units; i++) {
        unsigned char *to = f->seen + i * f->unit;
        size_t what = when == FAKE_MIDDLE ? test_below(3) : 0;

        fake_mark(f, i, 1);
        if (what == 0)
            memset(to, 0xFF, f->unit);
        else if (what == 1)
            fake_garble(f, to, f->unit);
        f->units[i].programmed = when == FAKE_MIDDLE;
        f->units[i].last = 0;
    }
    return fails ? -1 : 0;
}

/* Forgets which sectors were written, and when: the log is opened anew, and may begin where it did
 * before. */
static TEST_UNUSED void fake_forget(struct fake *f)
{
    size_t i;

    for (i = 0; i < f->bytes / f->unit; i++)
        f->units[i].last = 0;
}

/* A sector that is not synced becomes what it was, what it should be, part of that, or garbage. */
static TEST_UNUSED void fake_settle(struct fake *f, size_t unit, size_t what)
{
    size_t at = unit * f->unit, bytes = f->unit, cut;
    unsigned char *was = f->durable + at;
    const unsigned char *is = f->seen + at;

    if (f->units[unit].erased && what != 1)
        f->units[unit].programmed = 1; /* to be erased again, whatever it looks like */
    if (f->units[unit].erased && what < 4 && test_below(3) == 0)
        memset(was, 0xFF, bytes), f->half_erased++;
    switch (what) {
    case 0:
        f->lost++;
        break;
    case 1:
        memcpy(was, is, bytes);
        f->kept++;
        break;
    case 2: /* the beginning, or the end */
        cut = test_below(bytes + 1);
        if (test_below(3))
            memcpy(was, is, cut);
        else
            memcpy(was + cut, is + cut, bytes - cut);
        f->torn++;
        break;
    case 3: /* bits here and there */
        for (cut = 0; cut < bytes; cut++)
            was[cut] = (unsigned char)(was[cut] ^ ((was[cut] ^ is[cut]) & test_random() >> 33));
        f->torn++;
        break;
    default: /* with all that is damaged together with it */
        if (f->harm > bytes) {
            bytes = f->harm;
            at = at / bytes * bytes;
            bytes = bytes < f->bytes - at ? bytes : f->bytes - at;
        } else if (f->harm < 16) { /* only what was written, and not all of that */
            cut = test_below(bytes);
            at += cut;
            bytes = 1 + test_below(bytes - cut);
            memcpy(was, is, cut);
        }
        memcpy(f->durable + at, f->seen + at, test_below(2) ? bytes : 0);
        fake_garble(f, f->durable + at, bytes);
        f->garbage++;
    }
}

/* Puts an image of the region back, which is durable. */
static TEST_UNUSED void fake_restore(struct fake *f, const unsigned char *image)
{
    size_t i;

    if (f->seen != image)
        memcpy(f->seen, image, f->bytes);
    if (f->durable != NULL && f->durable != image)
        memcpy(f->durable, image, f->bytes);
    for (i = 0; i < f->count; i++)
        f->units[f->dirty[i]].dirty = f->units[f->dirty[i]].erased = 0;
    f->count = 0;
    f->fail_at = 0;
    fake_forget(f);
    for (i = 0; i < f->bytes && f->storage.block != 0; i++)
        f->units[i / f->unit].programmed =
            (unsigned char)((i % f->unit != 0 && f->units[i / f->unit].programmed) ||
                            f->seen[i] != 0xFF);
}

/* The power is gone: of what was not synced any part is there. */
static TEST_UNUSED void fake_crash(struct fake *f)
{
    size_t i, how = test_below(8), cut = test_below(f->count + 1);

    for (i = f->count; i > 1 && how < 4; i--) { /* in any order */
        size_t k = test_below(i);
        uint32_t unit = f->dirty[k];
        f->dirty[k] = f->dirty[i - 1];
        f->dirty[i - 1] = unit;
    }
    for (i = 0; i < f->count; i++)
        fake_settle(f, f->dirty[i],
                    how < 4              ? test_below(6)
                    : how == 4           ? 0
                    : how == 5           ? 4
                    : i == cut           ? 2 + test_below(3)
                    : (i < cut) == (how == 6)); /* what came first, or what came last */
    for (i = 0; i < f->count; i++) {
        size_t harm = f->harm > f->unit ? f->harm : f->unit, at = f->dirty[i] * f->unit;

        at = at / harm * harm;
        memcpy(f->seen + at, f->durable + at, harm < f->bytes - at ? harm : f->bytes - at);
        f->units[f->dirty[i]].dirty = f->units[f->dirty[i]].erased = 0;
    }
    f->count = 0;
    f->fail_at = 0;
    fake_forget(f);
}

/* A storage whose sectors have so many bytes, 1 for any. `block` 0: without erase; else, its blocks
 * must all be erased first. */
static TEST_UNUSED void fake_init_sectors(struct fake *f, size_t bytes, int volatile_too,
                                          uint32_t sector, uint32_t block)
{
    size_t units, i;

    memset(f, 0, sizeof *f);
    f->bytes = bytes;
    f->storage.sector = sector;
    sector = sector == 0 ? 4096 : sector;
    f->unit = sector < 16 ? 16 : sector;
    f->harm = sector;
    units = bytes / f->unit + 1;
    f->seen = (unsigned char *)malloc(bytes);
    f->durable = volatile_too ? (unsigned char *)malloc(bytes) : NULL;
    f->units = (struct fake_unit *)calloc(units, sizeof *f->units);
    f->dirty = (uint32_t *)calloc(units, sizeof *f->dirty);
    f->wear = block != 0 ? (uint32_t *)calloc(bytes / block + 1, sizeof *f->wear) : NULL;
    if (f->seen == NULL || (volatile_too && f->durable == NULL) || f->units == NULL ||
        f->dirty == NULL || (block != 0 && f->wear == NULL))
        exit(2);
    memset(f->seen, 0xA5, bytes);
    if (volatile_too)
        memset(f->durable, 0xA5, bytes);
    for (i = 0; i < units; i++)
        f->units[i].programmed = block != 0;
    f->storage.version = 1;
    f->storage.context = f;
    f->storage.bytes = bytes;
    f->storage.block = block;
    f->storage.read = fake_read;
    f->storage.write = fake_write;
    f->storage.sync = fake_sync;
    f->storage.erase = block != 0 ? fake_erase : NULL;
}

static TEST_UNUSED void fake_init(struct fake *f, size_t bytes, int volatile_too)
{
    fake_init_sectors(f, bytes, volatile_too, 512, 0);
}

static TEST_UNUSED void fake_free(struct fake *f)
{
    free(f->seen);
    free(f->durable);
    free(f->units);
    free(f->dirty);
    free(f->wear);
}

#endif
