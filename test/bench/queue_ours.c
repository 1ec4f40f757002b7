/* queue_ours.c - the log as a contestant; compiled once for each way to build the library, under
 * the name NAME: queue_plain, queue_crc. */
#define _POSIX_C_SOURCE   200809L
#define _FILE_OFFSET_BITS 64
#define MSC4203_STATIC
#define MSC4203_FILE
#define MSC4203_NO_READER
#define MSC4203_NO_WRITER
#define MSC4203_IMPLEMENTATION
#include "test/bench/queue_ours.h"

/* Gives what is held back to the system, without waiting for the disk. */
static int file_flush(msc4203_file *file)
{
    unsigned i;
    int failed = 0;

    for (i = 0; i < FILE_LINES; i++)
        failed |= file_clean(file, i);
    return failed;
}

#ifndef NAME
#define NAME queue_plain
#endif

const queue_ours NAME = {msc4203_log_memory,  msc4203_log_format, msc4203_log_inspect,
                         msc4203_log_open,    msc4203_log_queue,  msc4203_memory_storage,
                         msc4203_file_create, msc4203_file_open,  msc4203_file_close,
                         file_flush};
