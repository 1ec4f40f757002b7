/* queue_ours.h - the log as a contestant: the library compiled with and without CRC instructions.
 */
#ifndef TEST_BENCH_QUEUE_OURS_H
#define TEST_BENCH_QUEUE_OURS_H

#include "msc4203.h"

typedef struct queue_ours {
    size_t (*memory)(msc4203_log *, const msc4203_log_config *, uint64_t);
    int (*format)(msc4203_log *, const msc4203_storage *, const msc4203_log_config *, uint64_t);
    int (*inspect)(msc4203_log *, const msc4203_storage *, msc4203_log_config *);
    int (*open)(msc4203_log *, const msc4203_storage *, void *, size_t, uint64_t);
    void (*queue)(msc4203_log *, msc4203_queue *);
    void (*memory_storage)(msc4203_storage *, void *, uint64_t);
    int (*file_create)(msc4203_file *, const char *, uint64_t, const msc4203_log_config *,
                       uint64_t);
    int (*file_open)(msc4203_file *, const char *, int, msc4203_storage *);
    int (*file_close)(msc4203_file *);
    int (*file_pass_on)(msc4203_file *); /* what a sync does before it syncs */
} queue_ours;

extern const queue_ours queue_plain, queue_crc;

#endif
