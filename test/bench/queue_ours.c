/* queue_ours.c - the log as a contestant; compiled once for each way to build the library, under
 * the name NAME: queue_plain, queue_vector. With BENCH_OLD, which is the path of an older header in
 * quotation marks, it is that library, as old_plain and old_vector. */
#define _POSIX_C_SOURCE   200809L
#define _FILE_OFFSET_BITS 64
#define MSC4203_STATIC
#define MSC4203_FILE
#define MSC4203_NO_READER
#define MSC4203_NO_WRITER
#define MSC4203_IMPLEMENTATION
#include "test/bench/queue_ours.h"

#include <stdlib.h>

#ifndef NAME
#define NAME queue_plain
#endif

struct queue_parts {
    msc4203_log log;
    msc4203_file file;
    msc4203_storage inner, storage; /* the latter is the former, counted */
    queue_wanted wanted;
    void *region, *memory;
    char path[4096];
};

/* ---- what differs between the builds ---- */

static void configure(msc4203_log_config *config, const queue_wanted *wanted)
{
    memset(config, 0, sizeof *config);
    config->devices = wanted->devices;
    config->requests = wanted->requests;
#ifndef BENCH_OLD
    config->messages = wanted->messages;
    config->sector = wanted->sector;
#endif
}

static size_t memory_for(struct queue_parts *p, const msc4203_log_config *config)
{
#ifdef BENCH_OLD
    return msc4203_log_memory(&p->log, config, p->storage.bytes);
#else
    return msc4203_log_memory(&p->log, &p->storage, config);
#endif
}

static int format(struct queue_parts *p, const msc4203_log_config *config)
{
#ifdef BENCH_OLD
    return msc4203_log_format(&p->log, &p->storage, config, 1);
#else
    static uint32_t memory[65536 / 4];
    return msc4203_log_format(&p->log, &p->storage, config, memory, sizeof memory, 1);
#endif
}

/* What a sync does before it syncs: gives what is held back to the system. */
static int pass_on(msc4203_file *file)
{
    int failed = 0;
#ifdef BENCH_OLD
    unsigned i;
    for (i = 0; i < FILE_LINES; i++)
        failed |= file_clean(file, i);
#else
    (void)file; /* nothing is */
#endif
    return failed;
}

/* ---- the storage, counted ---- */

static int counted_read(void *context, uint64_t at, void *data, size_t bytes)
{
    queue_store *q = (queue_store *)context;
    const msc4203_storage *inner = &q->parts->inner;
    q->reads++;
    if (q->see)
        q->see(q->context, 0, at, bytes);
    if (!inner->memory)
        return inner->read(inner->context, at, data, bytes);
    memcpy(data, inner->memory + at, bytes);
    return 0;
}

static int counted_write(void *context, uint64_t at, const void *data, size_t bytes)
{
    queue_store *q = (queue_store *)context;
    const msc4203_storage *inner = &q->parts->inner;
    q->writes++;
    if (q->see)
        q->see(q->context, 1, at, bytes);
    if (!inner->memory)
        return inner->write(inner->context, at, data, bytes);
    memcpy(inner->memory + at, data, bytes);
    return 0;
}

static int counted_sync(void *context)
{
    queue_store *q = (queue_store *)context;
    const msc4203_storage *inner = &q->parts->inner;
    q->syncs++;
    if (inner->memory)
        return 0;
    return q->no_sync ? pass_on(&q->parts->file) : inner->sync(inner->context);
}

static void count_storage(queue_store *q)
{
    struct queue_parts *p = q->parts;
    p->storage = p->inner;
    if (p->inner.memory && !p->wanted.counted)
        return;
    p->storage.context = q;
    p->storage.memory = NULL;
    p->storage.read = counted_read;
    p->storage.write = counted_write;
    p->storage.sync = counted_sync;
}

/* ---- the functions ---- */

static int store_find(queue_store *q, const queue_wanted *wanted)
{
    memset(q, 0, sizeof *q);
    q->parts = (struct queue_parts *)calloc(1, sizeof *q->parts);
    if (!q->parts)
        return MSC4203_E_STORAGE;
    q->parts->wanted = *wanted;
    if (wanted->path) {
        if (strlen(wanted->path) >= sizeof q->parts->path)
            return MSC4203_E_STORAGE;
        strcpy(q->parts->path, wanted->path);
        q->parts->wanted.path = q->parts->path;
    }
    return MSC4203_OK;
}

static int store_make(queue_store *q, const queue_wanted *wanted)
{
    msc4203_log_config config;
    int result = store_find(q, wanted);
    configure(&config, wanted);
    if (result != MSC4203_OK)
        return result;
    if (wanted->path)
        return msc4203_file_create(&q->parts->file, wanted->path, wanted->bytes, &config, 1);
    q->parts->region = malloc((size_t)wanted->bytes);
    if (!q->parts->region)
        return MSC4203_E_STORAGE;
    memset(q->parts->region, 1, (size_t)wanted->bytes); /* so that the pages are there */
    msc4203_memory_storage(&q->parts->inner, q->parts->region, wanted->bytes);
    count_storage(q);
    return format(q->parts, &config);
}

static int store_open(queue_store *q)
{
    struct queue_parts *p = q->parts;
    msc4203_log_config config;
    size_t bytes;
    int result = MSC4203_OK;
    if (p->wanted.path) {
        result = msc4203_file_open(&p->file, p->wanted.path, 1, &p->inner);
        count_storage(q);
    }
    if (result == MSC4203_OK)
        result = msc4203_log_inspect(&p->log, &p->storage, &config);
    if (result != MSC4203_OK)
        return result;
    bytes = memory_for(p, &config) + p->wanted.more;
    if (!p->memory || bytes > q->memory_bytes) {
        free(p->memory);
        p->memory = malloc(bytes);
        if (!p->memory)
            return MSC4203_E_INDEX;
        memset(p->memory, 1, bytes);
    }
    q->memory_bytes = bytes;
    result = msc4203_log_open(&p->log, &p->storage, p->memory, bytes, 2);
    msc4203_log_queue(&p->log, &q->queue);
    return result;
}

static int store_close(queue_store *q)
{
    return msc4203_log_close(&q->parts->log);
}

static int store_leave(queue_store *q)
{
    return q->parts->wanted.path ? msc4203_file_close(&q->parts->file) : MSC4203_OK;
}

static void store_end(queue_store *q)
{
    free(q->parts->region);
    free(q->parts->memory);
    free(q->parts);
}

static size_t store_memory(const queue_wanted *wanted)
{
    static unsigned char region[8];
    static struct queue_parts p;
    msc4203_log_config config;
    size_t bytes;
    configure(&config, wanted);
    msc4203_memory_storage(&p.storage, region, wanted->bytes);
#ifndef BENCH_OLD
    config.sector = 0;
    if (wanted->sector) { /* as on a disk; nothing is read or written */
        p.storage.memory = NULL;
        p.storage.sector = wanted->sector;
        p.storage.read = counted_read;
        p.storage.write = counted_write;
        p.storage.sync = counted_sync;
    }
#endif
    bytes = memory_for(&p, &config);
    return bytes != 0 ? bytes + sizeof(msc4203_log) : 0;
}

const queue_ours NAME = {sizeof(msc4203_queue),
                         sizeof(msc4203_message),
                         store_make,
                         store_find,
                         store_open,
                         store_close,
                         store_leave,
                         store_end,
                         store_memory};
