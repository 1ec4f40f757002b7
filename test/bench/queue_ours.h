/* queue_ours.h - the log as a contestant: the library compiled with and without vector and CRC
 * instructions, and an older build of it, if there is one to compare with.
 *
 * What a queue is made of (log, storage, file) may differ from build to build, and stays behind
 * these functions. What is used of the header here must be the same in all of them. */
#ifndef TEST_BENCH_QUEUE_OURS_H
#define TEST_BENCH_QUEUE_OURS_H

#ifdef BENCH_OLD /* the older header, in quotation marks */
#include BENCH_OLD
#else
#include "msc4203.h"
#endif

typedef struct queue_wanted {
    const char *path;           /* of the file; NULL: in memory */
    uint64_t bytes;             /* of the region */
    uint32_t messages, devices; /* that can wait, that can have some; 0: the default */
    uint32_t requests;          /* that are remembered */
    uint32_t sector;            /* 0: as the storage has it */
    size_t more;                /* bytes of memory beyond those that the log asks for */
    int counted;                /* in memory: not directly, but through read() and write() */
} queue_wanted;

typedef struct queue_store {
    msc4203_queue queue; /* when it is open */
    size_t memory_bytes; /* that it was opened with */
    int no_sync;         /* what is written goes to the system, and nobody waits for the disk */
    unsigned long syncs, reads, writes; /* calls of the storage: in a file, or if counted */
    /* Is told of each read (0) and write (1) before it is made, or is NULL. */
    void (*see)(void *context, int writes, uint64_t at, size_t bytes);
    void *context;
    struct queue_parts *parts; /* log, storage, file, memory */
} queue_store;

/* Results are those of the library. */
typedef struct queue_ours {
    size_t queue_bytes, message_bytes; /* of the structs: they must agree */
    /* Begins a store; makes an empty log in memory, or in a new file. */
    int (*make)(queue_store *, const queue_wanted *);
    /* Begins a store with the log in an old file. */
    int (*find)(queue_store *, const queue_wanted *);
    /* Opens the log, and its file. Memory is allocated the first time. */
    int (*open)(queue_store *);
    int (*close)(queue_store *); /* the log, as msc4203_log_close() does */
    int (*leave)(queue_store *); /* closes the file, as the system does after a crash */
    void (*end)(queue_store *);  /* frees all of it */
    /* How much memory a log needs in all, its struct included; 0 when it does not fit. */
    size_t (*memory)(const queue_wanted *);
} queue_ours;

extern const queue_ours queue_plain, queue_vector, old_plain, old_vector;

#endif
