/* fake_storage.h - a storage in memory that fails when told, and that loses what was not synced. */
#ifndef FAKE_STORAGE_H
#define FAKE_STORAGE_H

#include "msc4203.h"
#include "test.h"

struct fake_write {
    uint64_t at;
    size_t bytes, from; /* from: where in `written` */
};

struct fake {
    msc4203_storage storage;
    unsigned char *seen, *durable; /* what is read; what is on the medium */
    size_t bytes;
    struct fake_write *writes;
    size_t count, room;
    unsigned char *written;
    size_t written_bytes, written_room;
    unsigned long calls, fail_at; /* fail_at: from this call on, the power is gone; 0 never */
    int fail_once, after;         /* after: the call is made, and then the power goes */
    unsigned long reads, syncs, torn, kept, lost;
    uint64_t touched;
};

/* Counts a call; tells whether it is to fail. */
static TEST_UNUSED int fake_call(struct fake *f)
{
    f->calls++;
    if (f->fail_at == 0 || f->calls < f->fail_at)
        return 0;
    return f->fail_once ? f->calls == f->fail_at : 1;
}

static TEST_UNUSED int fake_read(void *context, uint64_t at, void *data, size_t bytes)
{
    struct fake *f = (struct fake *)context;

    f->reads++;
    f->touched += bytes;
    if (at > f->bytes || bytes > f->bytes - at) {
        CHECK(!"reads within the region");
        return -1;
    }
    if (f->fail_once && fake_call(f))
        return -1;
    if (!f->fail_once && f->fail_at != 0 && f->calls >= f->fail_at)
        return -1;
    memcpy(data, f->seen + at, bytes);
    return 0;
}

static TEST_UNUSED int fake_write(void *context, uint64_t at, const void *data, size_t bytes)
{
    struct fake *f = (struct fake *)context;
    int fails = fake_call(f);

    f->touched += bytes;
    if (at > f->bytes || bytes > f->bytes - at) {
        CHECK(!"writes within the region");
        return -1;
    }
    if (fails && (!f->after || f->calls != f->fail_at))
        return -1;
    memcpy(f->seen + at, data, bytes);
    if (f->durable == NULL)
        return fails ? -1 : 0;
    if (f->count == f->room) {
        f->room = f->room * 2 + 64;
        f->writes = (struct fake_write *)realloc(f->writes, f->room * sizeof *f->writes);
    }
    if (f->written_bytes + bytes > f->written_room) {
        f->written_room = (f->written_bytes + bytes) * 2;
        f->written = (unsigned char *)realloc(f->written, f->written_room);
    }
    if (f->writes == NULL || f->written == NULL)
        exit(2);
    memcpy(f->written + f->written_bytes, data, bytes);
    f->writes[f->count].at = at;
    f->writes[f->count].bytes = bytes;
    f->writes[f->count++].from = f->written_bytes;
    f->written_bytes += bytes;
    return fails ? -1 : 0;
}

static TEST_UNUSED void fake_keep(struct fake *f, const struct fake_write *w, size_t from,
                                  size_t to)
{
    memcpy(f->durable + w->at + from, f->written + w->from + from, to - from);
}

static TEST_UNUSED int fake_sync(void *context)
{
    struct fake *f = (struct fake *)context;
    int fails = fake_call(f);
    size_t i;

    f->syncs++;
    if (fails && (!f->after || f->calls != f->fail_at))
        return -1;
    for (i = 0; i < f->count && f->durable != NULL; i++)
        fake_keep(f, &f->writes[i], 0, f->writes[i].bytes);
    f->count = f->written_bytes = 0;
    return fails ? -1 : 0;
}

/* The power is gone: of what was not synced any part is there. */
static TEST_UNUSED void fake_crash(struct fake *f)
{
    size_t i, how = test_below(4);

    for (i = f->count; i > 1; i--) { /* in any order */
        size_t k = test_below(i);
        struct fake_write w = f->writes[k];
        if (how == 3)
            break;
        f->writes[k] = f->writes[i - 1];
        f->writes[i - 1] = w;
    }
    for (i = 0; i < f->count; i++) {
        struct fake_write *w = &f->writes[i];
        size_t a = test_below(w->bytes + 1), b = test_below(w->bytes + 1), keep = test_below(8);

        if (how == 0 || keep < 2) { /* lost */
            f->lost++;
        } else if (keep < 6) {
            fake_keep(f, w, 0, w->bytes);
            f->kept++;
        } else {
            if (keep == 7 && w->bytes > 512) { /* at a sector */
                a = (size_t)((w->at + a) & ~(uint64_t)511);
                a = a > w->at ? (size_t)(a - w->at) : 0;
                b = w->bytes;
            }
            fake_keep(f, w, a < b ? a : b, a < b ? b : a);
            f->torn++;
        }
    }
    memcpy(f->seen, f->durable, f->bytes);
    f->count = f->written_bytes = 0;
    f->fail_at = 0;
}

static TEST_UNUSED void fake_init(struct fake *f, size_t bytes, int volatile_too)
{
    memset(f, 0, sizeof *f);
    f->bytes = bytes;
    f->seen = (unsigned char *)malloc(bytes);
    f->durable = volatile_too ? (unsigned char *)malloc(bytes) : NULL;
    if (f->seen == NULL || (volatile_too && f->durable == NULL))
        exit(2);
    memset(f->seen, 0xA5, bytes);
    if (volatile_too)
        memset(f->durable, 0xA5, bytes);
    f->storage.version = 1;
    f->storage.context = f;
    f->storage.bytes = bytes;
    f->storage.read = fake_read;
    f->storage.write = fake_write;
    f->storage.sync = fake_sync;
}

static TEST_UNUSED void fake_free(struct fake *f)
{
    free(f->seen);
    free(f->durable);
    free(f->writes);
    free(f->written);
}

#endif
