/* queue_sqlite.h - a msc4203_queue over SQLite: messages in a database that a server has anyway.
 * SPDX: 0BSD
 *
 *     cc -I. -Iexample program.c example/queue_sqlite.c msc4203.c -lsqlite3
 *
 * Several processes may use one file, each with a struct of its own; in one process, one thread at
 * a time. What is done between two flushes is one transaction of the database: so a process that
 * does not flush keeps the others from writing. The last 4,096 requests are remembered, and all
 * openings. */
#ifndef QUEUE_SQLITE_H
#define QUEUE_SQLITE_H

#include "msc4203.h"

#include <sqlite3.h>

enum { QUEUE_SQLITE_STATEMENTS = 45 };

struct queue_sqlite {
    sqlite3 *db;
    sqlite3_stmt *statements[QUEUE_SQLITE_STATEMENTS];
    uint64_t visible; /* numbers below are durable, while `writing` */
    uint64_t opening;
    int writing;      /* a transaction is open */
    int failed;
    uint32_t batches; /* handles given out */
};

/* Opens, or makes, the queue in a file. `random` are 64 random bits, as for msc4203_log_open().
 * Returns MSC4203_OK, or MSC4203_E_STORAGE; queue_sqlite_close() must be called in either case. */
int queue_sqlite_open(struct queue_sqlite *q, const char *path, uint64_t random,
                      msc4203_queue *queue);

/* Closes it. What was not flushed is lost. */
void queue_sqlite_close(struct queue_sqlite *q);

#endif
