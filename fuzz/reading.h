/* reading.h - reads a body in a chosen way, checks every promise on the way, keeps the items. */
#ifndef FUZZ_READING_H
#define FUZZ_READING_H

#include "common.h"

/* How to read. */
struct fuzz_way {
    int shape;
    unsigned kinds;
    size_t scratch_bytes;
    unsigned chunk; /* 0: one piece; up to 127: pieces of so many bytes; more: of random sizes */
    uint32_t seed;  /* for those sizes */
    int empty_end;  /* the last call to feed gives nothing */
    int move;       /* the reader is moved to other memory between calls */
    const msc4203_item *preset;
};

/* What came of it. */
struct fuzz_reading {
    struct fuzz_items items;
    struct fuzz_items end; /* at the end of an EDU: one item with its sender and type */
    int result;
    uint64_t offset;
};

/* A reading in progress. */
struct fuzz_job {
    const struct fuzz_way *way;
    msc4203_reader *reader;
    char *scratch, *chunk;
    size_t chunk_bytes, fed;
    unsigned index[9]; /* of the next item of each kind */
    uint32_t seed;
};

static FUZZ_UNUSED void fuzz_reading_free(struct fuzz_reading *reading)
{
    fuzz_items_free(&reading->items);
    fuzz_items_free(&reading->end);
}

static FUZZ_UNUSED int fuzz_inside(msc4203_span span, const char *from, size_t bytes)
{
    uintptr_t at = (uintptr_t)span.ptr, begin = (uintptr_t)from;
    return from && at >= begin && at - begin <= bytes && span.len <= bytes - (at - begin);
}

/* A good item has what its kind has. */
static FUZZ_UNUSED void fuzz_check_complete(const struct fuzz_way *way, const msc4203_item *item)
{
    int message = item->kind == MSC4203_TO_DEVICE;
    int by_device = item->kind == MSC4203_KEY_COUNTS || item->kind == MSC4203_FALLBACK_TYPES;
    int by_user = item->kind == MSC4203_DEVICE_CHANGED || item->kind == MSC4203_DEVICE_LEFT;
    int by_id = item->kind == MSC4203_MESSAGE_ID || item->kind == MSC4203_NEXT_BATCH;
    const msc4203_span *content = &item->content;
    if (message && way->shape != MSC4203_SEND && !(item->flags & MSC4203_LATE))
        FUZZ_CHECK(item->sender.ptr && item->type.ptr);
    if ((message && way->shape != MSC4203_SYNC) || by_device)
        FUZZ_CHECK(item->user_id.ptr && item->device_id.ptr);
    if (by_user)
        FUZZ_CHECK(item->user_id.ptr != NULL);
    FUZZ_CHECK(!by_id == !item->id.ptr);
    FUZZ_CHECK(!(by_user || by_id) == !!content->ptr);
    if (!content->ptr)
        return;
    FUZZ_CHECK(content->len >= 2);
    FUZZ_CHECK(content->ptr[0] == (item->kind == MSC4203_FALLBACK_TYPES ? '[' : '{'));
    FUZZ_CHECK(content->ptr[content->len - 1] ==
               (item->kind == MSC4203_FALLBACK_TYPES ? ']' : '}'));
    FUZZ_CHECK((item->flags & ~(unsigned)MSC4203_LATE) == fuzz_flags(content->ptr, content->len));
}

/* The algorithms of any item come to an end, and are what they are said to be. */
static FUZZ_UNUSED void fuzz_check_algorithms(const msc4203_item *item, int from_reader)
{
    msc4203_algorithms algorithms;
    msc4203_span name;
    uint64_t count;
    size_t steps = 0;
    int result, again;
    msc4203_algorithms_init(&algorithms, item);
    while ((result = msc4203_algorithms_next(&algorithms, &name, &count)) == MSC4203_ITEM) {
        FUZZ_CHECK(++steps <= item->content.len);
        FUZZ_CHECK(name.ptr && name.len <= 64 && fuzz_utf8(name.ptr, name.len));
        FUZZ_CHECK(count <= (UINT64_C(1) << 53) - 1);
        FUZZ_CHECK(item->kind != MSC4203_FALLBACK_TYPES || count == 0 || !from_reader);
    }
    FUZZ_CHECK(result == MSC4203_END || result < 0);
    if (from_reader)
        FUZZ_CHECK(result == MSC4203_END || result <= -20);
    again = msc4203_algorithms_next(&algorithms, &name, &count);
    FUZZ_CHECK(again == result);
}

/* Whatever is wrong with an item, its spans are where they may be. */
static FUZZ_UNUSED void fuzz_check_item(const struct fuzz_job *job, const msc4203_item *item,
                                        struct fuzz_item *kept)
{
    const struct fuzz_way *way = job->way;
    int i, error = msc4203_item_error(item);
    for (i = 0; i < FUZZ_SPANS; i++) {
        msc4203_span span = fuzz_span_of(item, i);
        msc4203_span given = {NULL, 0};
        if (way->preset)
            given = fuzz_span_of(way->preset, i);
        FUZZ_CHECK(span.ptr || !span.len);
        if (!span.len)
            continue;
        if (fuzz_inside(span, job->scratch, way->scratch_bytes))
            kept->in_scratch += span.len;
        else if (given.ptr && fuzz_inside(span, given.ptr, given.len))
            kept->in_preset += span.len;
        else
            FUZZ_CHECK(fuzz_inside(span, job->chunk, job->chunk_bytes));
        FUZZ_CHECK(fuzz_utf8(span.ptr, span.len));
    }
    FUZZ_CHECK(item->error == 0 || (item->error <= -20 && item->error >= -39));
    FUZZ_CHECK(msc4203_result_status(error) >= 200 && msc4203_result_status(error) <= 413);
    FUZZ_CHECK(!error == !msc4203_result_errcode(error)[0] && msc4203_result_text(error)[0]);
    if (!item->error && !(item->flags & ~(unsigned)MSC4203_LATE))
        FUZZ_CHECK(error == MSC4203_OK);
    else if (item->error && item->error != MSC4203_E_TOO_LARGE)
        FUZZ_CHECK(error == item->error);
    else
        FUZZ_CHECK(error == item->error || item->flags);
    if (!item->error && item->kind)
        fuzz_check_complete(way, item);
    if (!item->error && (item->kind == MSC4203_KEY_COUNTS || item->kind == MSC4203_FALLBACK_TYPES))
        fuzz_check_algorithms(item, 1);
}

/* Items are wanted ones, come in the body's order, and are counted. */
static FUZZ_UNUSED void fuzz_check_order(struct fuzz_job *job, const struct fuzz_items *before,
                                         const msc4203_item *item)
{
    int bit = 0;
    FUZZ_CHECK(item->kind > 0 && (item->kind & (int)job->way->kinds));
    FUZZ_CHECK((item->kind & (item->kind - 1)) == 0);
    while (item->kind >> bit != 1)
        bit++;
    FUZZ_CHECK(item->index == job->index[bit]++);
    FUZZ_CHECK(item->offset < job->fed);
    FUZZ_CHECK(!before->count || item->offset > before->list[before->count - 1].item.offset);
    FUZZ_CHECK(msc4203_reader_offset(job->reader) <= job->fed);
}

/* Takes items out until the bytes are used up; returns what next returned then. */
static FUZZ_UNUSED int fuzz_take(struct fuzz_job *job, struct fuzz_reading *out)
{
    const msc4203_item *item;
    msc4203_reader *moved;
    int result;
    while ((result = msc4203_reader_next(job->reader, &item)) == MSC4203_ITEM) {
        msc4203_span whole = {(const char *)item, sizeof *item};
        FUZZ_CHECK(fuzz_inside(whole, (const char *)job->reader, sizeof *job->reader));
        fuzz_check_order(job, &out->items, item);
        fuzz_check_item(job, item, fuzz_items_add(&out->items, item));
        FUZZ_CHECK(out->items.count <= job->fed);
        if (job->way->move) {
            moved = (msc4203_reader *)fuzz_copy(job->reader, sizeof *moved);
            memset(job->reader, 0xa5, sizeof *moved);
            free(job->reader);
            job->reader = moved;
        }
    }
    FUZZ_CHECK(result == MSC4203_MORE || result == MSC4203_END || (result < 0 && result > -30));
    FUZZ_CHECK(!item || (result == MSC4203_END && job->way->shape == MSC4203_EDU));
    if (item)
        fuzz_check_item(job, item, fuzz_items_add(&out->end, item));
    FUZZ_CHECK(msc4203_reader_offset(job->reader) <= job->fed);
    if (result == MSC4203_MORE || result == MSC4203_END)
        FUZZ_CHECK(msc4203_reader_offset(job->reader) == job->fed);
    return result;
}

static FUZZ_UNUSED size_t fuzz_chunk_bytes(struct fuzz_job *job, size_t left)
{
    size_t bytes = job->way->chunk;
    if (!bytes)
        return left;
    if (bytes > 127)
        bytes = fuzz_random(&job->seed) % (bytes - 126);
    return bytes < left ? bytes : left;
}

/* What was returned at the end is returned ever after, whatever else is called. */
static FUZZ_UNUSED void fuzz_check_end(struct fuzz_job *job, const struct fuzz_reading *out)
{
    const msc4203_item *item;
    int i;
    for (i = 0; i < 3; i++) {
        FUZZ_CHECK(msc4203_reader_next(job->reader, &item) == out->result);
        FUZZ_CHECK(msc4203_reader_offset(job->reader) == out->offset);
        if (out->result == MSC4203_END)
            FUZZ_CHECK(msc4203_reader_feed(job->reader, "{}", 2, 1) == MSC4203_E_USAGE);
    }
}

static FUZZ_UNUSED void fuzz_read(const struct fuzz_way *way, const void *data, size_t size,
                                  struct fuzz_reading *out)
{
    struct fuzz_job job;
    int last = 0;
    memset(out, 0, sizeof *out);
    memset(&job, 0, sizeof job);
    job.way = way;
    job.seed = way->seed | 1;
    job.scratch = way->scratch_bytes ? (char *)fuzz_alloc(way->scratch_bytes) : NULL;
    job.reader = (msc4203_reader *)fuzz_alloc(sizeof *job.reader);
    FUZZ_CHECK(msc4203_reader_init(job.reader, way->shape, way->kinds, job.scratch,
                                   way->scratch_bytes) == MSC4203_OK);
    if (way->preset)
        msc4203_reader_preset(job.reader, way->preset);
    out->result = MSC4203_MORE;
    while (out->result == MSC4203_MORE) {
        FUZZ_CHECK(!last);
        job.chunk_bytes = fuzz_chunk_bytes(&job, size - job.fed);
        last = job.fed == size || (!way->empty_end && job.chunk_bytes == size - job.fed);
        /* A chunk's memory is gone once it is used up: nothing may still point there. */
        job.chunk =
            job.chunk_bytes ? fuzz_copy((const char *)data + job.fed, job.chunk_bytes) : NULL;
        job.fed += job.chunk_bytes;
        FUZZ_CHECK(msc4203_reader_feed(job.reader, job.chunk, job.chunk_bytes, last) == MSC4203_OK);
        if (job.chunk || last)
            FUZZ_CHECK(msc4203_reader_feed(job.reader, "[", 1, last) == MSC4203_E_USAGE);
        out->result = fuzz_take(&job, out);
        if (way->chunk || out->result == MSC4203_MORE) {
            free(job.chunk);
            job.chunk = NULL;
        }
    }
    out->offset = msc4203_reader_offset(job.reader);
    fuzz_check_end(&job, out);
    free(job.chunk);
    free(job.reader);
    free(job.scratch);
}

#endif
