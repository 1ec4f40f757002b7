/* littlefs.h - a log on littlefs: one file for each block of the region. SPDX: 0BSD
 *
 *     static struct littlefs_log files;
 *     littlefs_log_begin(&files, &lfs, "queue", 16384, 12, buffers);
 *     // files.storage is for msc4203_log_inspect(), _format() and _open()
 *     littlefs_log_end(&files);                         // after msc4203_log_close()
 *
 * What is special about littlefs:
 *
 * - A write in the middle of a file copies all that comes after it. So erase() makes a file empty,
 *   and write() only ever appends. That is why the storage says that it has blocks.
 * - What was written becomes visible at lfs_file_sync(), all at once. Until then the file stays as
 *   it was when the power fails. So no sector needs to be larger than 16 bytes.
 * - After a write that failed, lfs_file_sync() keeps what there is of it and returns 0. So this
 *   file remembers that one failed, and then fails until littlefs_log_begin().
 *
 * Two files are open at a time: the one that is written, and one that is read. Each has a buffer of
 * the file system's cache_size. No heap. Two threads must not use one lfs_t at a time, unless
 * littlefs was built with LFS_THREADSAFE. */
#ifndef LITTLEFS_LOG_H
#define LITTLEFS_LOG_H

#include "lfs.h"
#include "msc4203.h"

#include <stdio.h>
#include <string.h>

struct littlefs_log {
    msc4203_storage storage;
    lfs_t *lfs;
    const char *name; /* the files are NAME.0, NAME.1, ... */
    struct littlefs_log_file {
        lfs_file_t file;
        struct lfs_file_config config;
        uint32_t number; /* of the block; only while it is open */
        int open;
    } write, read;
    int dirty;  /* the file that is written has something to sync */
    int failed; /* a write, an erase or a sync did */
};

static int littlefs_log_close(struct littlefs_log *files, struct littlefs_log_file *f)
{
    if (!f->open)
        return 0;
    f->open = 0;
    return lfs_file_close(files->lfs, &f->file);
}

static int littlefs_log_open(struct littlefs_log *files, struct littlefs_log_file *f,
                             uint32_t number, int flags)
{
    char path[64];
    int result;

    if (f->open && f->number == number)
        return 0;
    result = littlefs_log_close(files, f); /* closing syncs, too */
    if (result != 0)
        return result;
    snprintf(path, sizeof path, "%s.%lu", files->name, (unsigned long)number);
    result = lfs_file_opencfg(files->lfs, &f->file, path, flags, &f->config);
    f->open = result == 0;
    f->number = number;
    return result;
}

static int littlefs_log_read(void *context, uint64_t at, void *data, size_t bytes)
{
    struct littlefs_log *files = (struct littlefs_log *)context;
    unsigned char *to = (unsigned char *)data;

    while (bytes != 0) {
        uint32_t number = (uint32_t)(at / files->storage.block);
        uint32_t from = (uint32_t)(at % files->storage.block);
        size_t part = files->storage.block - from < bytes ? files->storage.block - from : bytes;
        struct littlefs_log_file *f = &files->read;
        lfs_ssize_t got = 0;
        int result = 0;

        if (files->write.open && files->write.number == number)
            f = &files->write; /* only this one has what is not synced yet */
        else
            result = littlefs_log_open(files, f, number, LFS_O_RDONLY);
        if (result == 0 && lfs_file_seek(files->lfs, &f->file, (lfs_soff_t)from, LFS_SEEK_SET) < 0)
            return -1;
        if (result == 0)
            got = lfs_file_read(files->lfs, &f->file, to, (lfs_size_t)part);
        else if (result != LFS_ERR_NOENT) /* a file that is not there was never written */
            return -1;
        if (got < 0)
            return -1;
        memset(to + got, 0xFF, part - (size_t)got); /* behind the file's end it is erased */
        to += part;
        at += part;
        bytes -= part;
    }
    return 0;
}

/* Opens the file of a block for writing, and marks it. It must not be open for reading then. */
static int littlefs_log_change(struct littlefs_log *files, uint32_t number)
{
    if (files->failed)
        return -1;
    files->failed = 1; /* until all has gone well */
    if (files->read.open && files->read.number == number &&
        littlefs_log_close(files, &files->read) != 0)
        return -1;
    files->dirty = 1;
    return littlefs_log_open(files, &files->write, number, LFS_O_RDWR | LFS_O_CREAT);
}

static int littlefs_log_write(void *context, uint64_t at, const void *data, size_t bytes)
{
    struct littlefs_log *files = (struct littlefs_log *)context;
    const unsigned char *from = (const unsigned char *)data;
    static const unsigned char erased[16] = {255, 255, 255, 255, 255, 255, 255, 255,
                                             255, 255, 255, 255, 255, 255, 255, 255};

    while (bytes != 0) {
        uint32_t to = (uint32_t)(at % files->storage.block);
        size_t part = files->storage.block - to < bytes ? files->storage.block - to : bytes;
        lfs_file_t *file = &files->write.file;
        lfs_soff_t end;

        if (littlefs_log_change(files, (uint32_t)(at / files->storage.block)) != 0)
            return -1;
        end = lfs_file_seek(files->lfs, file, 0, LFS_SEEK_END);
        if (end < 0 || (uint32_t)end > to) /* the log writes nothing twice */
            return -1;
        for (; (uint32_t)end < to; end += 16) /* what was skipped stays erased */
            if (lfs_file_write(files->lfs, file, erased, 16) != 16)
                return -1;
        if (lfs_file_write(files->lfs, file, from, (lfs_size_t)part) != (lfs_ssize_t)part)
            return -1;
        files->failed = 0;
        from += part;
        at += part;
        bytes -= part;
    }
    return 0;
}

static int littlefs_log_erase(void *context, uint64_t at, size_t bytes)
{
    struct littlefs_log *files = (struct littlefs_log *)context;

    (void)bytes; /* one block */
    if (littlefs_log_change(files, (uint32_t)(at / files->storage.block)) != 0 ||
        lfs_file_truncate(files->lfs, &files->write.file, 0) != 0)
        return -1;
    files->failed = 0;
    return 0;
}

static int littlefs_log_sync(void *context)
{
    struct littlefs_log *files = (struct littlefs_log *)context;

    if (files->failed)
        return -1;
    if (files->dirty && lfs_file_sync(files->lfs, &files->write.file) != 0) {
        files->failed = 1;
        return -1;
    }
    files->dirty = 0;
    return 0;
}

/* Fills in files->storage. `block` is the size of a file, a multiple of 16, and best of the file
 * system's block_size; there are `count` files. Leave littlefs room for two files more, and for
 * its directory. `buffers` has twice the file system's cache_size. */
static void littlefs_log_begin(struct littlefs_log *files, lfs_t *lfs, const char *name,
                               uint32_t block, uint32_t count, void *buffers)
{
    memset(files, 0, sizeof *files);
    files->lfs = lfs;
    files->name = name;
    files->write.config.buffer = buffers;
    files->read.config.buffer = (unsigned char *)buffers + lfs->cfg->cache_size;
    files->storage.version = 1;
    files->storage.context = files;
    files->storage.bytes = (uint64_t)block * count;
    files->storage.sector = 16;
    files->storage.block = block;
    files->storage.read = littlefs_log_read;
    files->storage.write = littlefs_log_write;
    files->storage.sync = littlefs_log_sync;
    files->storage.erase = littlefs_log_erase;
}

/* Closes the files, before lfs_unmount(). */
static int littlefs_log_end(struct littlefs_log *files)
{
    int read = littlefs_log_close(files, &files->read);
    int write = littlefs_log_close(files, &files->write);

    return read != 0 ? read : write;
}

#endif
