/* ours.c - this library as a contestant; compiled once for each way to build the library, under
 * names that begin with NAME: plain, vector, avx2, unchecked. */
#define MSC4203_STATIC
#define MSC4203_IMPLEMENTATION
#include "msc4203.h"

#include "test/bench/job.h"

#define PASTE(a, b, c)    a##b##_##c
#define NAMED(name, what) PASTE(ours_, name, what)

static char scratch[1 << 17]; /* the longest content is 64 KiB */

static job_text text_of(msc4203_span span)
{
    job_text text;
    text.ptr = span.ptr;
    text.len = span.len;
    return text;
}

/* One call for a chunk; the last one says that it is. */
static int read_chunks(job_reading *job, size_t chunk)
{
    msc4203_reader reader;
    const msc4203_item *item;
    size_t from = 0;
    int result;
    job_begin(job);
    msc4203_reader_init(&reader, MSC4203_TRANSACTION, MSC4203_TO_DEVICE, scratch, sizeof scratch);
    do {
        size_t bytes = job->size - from < chunk ? job->size - from : chunk;
        msc4203_reader_feed(&reader, job->body + from, bytes, from + bytes == job->size);
        from += bytes;
        while ((result = msc4203_reader_next(&reader, &item)) == MSC4203_ITEM) {
            if (item->error)
                return -1;
            job_message(job, text_of(item->sender), text_of(item->type), text_of(item->user_id),
                        text_of(item->device_id), text_of(item->content));
        }
    } while (result == MSC4203_MORE);
    return result == MSC4203_END ? 0 : -1;
}

int NAMED(NAME, whole)(job_reading *job);
int NAMED(NAME, 4096)(job_reading *job);
int NAMED(NAME, 64)(job_reading *job);
long NAMED(NAME, write)(const job_item *items, size_t count, char *output, size_t capacity);

int NAMED(NAME, whole)(job_reading *job)
{
    return read_chunks(job, job->size);
}

int NAMED(NAME, 4096)(job_reading *job)
{
    return read_chunks(job, 4096);
}

int NAMED(NAME, 64)(job_reading *job)
{
    return read_chunks(job, 64);
}

static msc4203_span span_of(job_text text)
{
    msc4203_span span;
    span.ptr = text.ptr;
    span.len = text.len;
    return span;
}

long NAMED(NAME, write)(const job_item *items, size_t count, char *output, size_t capacity)
{
    static const int kinds[JOB_SECTIONS] = {MSC4203_TO_DEVICE,  MSC4203_EVENT,
                                            MSC4203_EPHEMERAL,  MSC4203_DEVICE_CHANGED,
                                            MSC4203_KEY_COUNTS, MSC4203_FALLBACK_TYPES};
    msc4203_writer writer;
    msc4203_item item;
    size_t i, bytes;
    memset(&item, 0, sizeof item);
    msc4203_writer_begin(&writer, MSC4203_TRANSACTION, MSC4203_UNSTABLE_KEYS, output, capacity);
    for (i = 0; i < count; i++) {
        item.kind = kinds[items[i].section];
        item.sender = span_of(items[i].sender);
        item.type = span_of(items[i].type);
        item.user_id = span_of(items[i].user_id);
        item.device_id = span_of(items[i].device_id);
        item.content = span_of(items[i].content);
        if (msc4203_writer_item(&writer, &item) != MSC4203_OK)
            return -1;
    }
    return msc4203_writer_end(&writer, &bytes) == MSC4203_OK ? (long)bytes : -1;
}
