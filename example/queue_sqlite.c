/* queue_sqlite.c - a msc4203_queue over SQLite. SPDX: 0BSD
 *
 * One table holds the messages; `channels` is the set that each waits for. Open batches are in a
 * temporary table, which costs no disk. The first change after a flush begins a transaction
 * (IMMEDIATE: so that numbers are given in the order of the commits, in whatever process), and
 * flush() commits it; with synchronous=FULL that is when it is durable. Until then its own new
 * messages are not shown. */
#include "queue_sqlite.h"

#include <string.h>

enum { BUSY_MS = 30000 };

/* The bytes that a message counts with; `of` is what its columns are called by. */
#define MESSAGE_BYTES(of)                                                                        \
    "length(" of "content) + length(" of "user) + length(" of "device) + length(" of "sender)" \
    " + length(" of "type)"

static const char schema[] =
    "PRAGMA synchronous=FULL;"
    "PRAGMA temp_store=MEMORY;"
    "CREATE TABLE IF NOT EXISTS message (number INTEGER PRIMARY KEY, channels INTEGER NOT NULL,"
    " time INTEGER NOT NULL, user BLOB, device BLOB, sender BLOB, type BLOB, content BLOB,"
    " routed INTEGER NOT NULL);" /* the set at first; less /sync, once it was moved from there */
    "CREATE INDEX IF NOT EXISTS by_device ON message (user, device, number);"
    "CREATE TABLE IF NOT EXISTS waiting (channel INTEGER, number INTEGER,"
    " PRIMARY KEY (channel, number)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS request (id INTEGER PRIMARY KEY AUTOINCREMENT, who BLOB, what BLOB,"
    " UNIQUE (who, what));"
    "CREATE TABLE IF NOT EXISTS channel (number INTEGER PRIMARY KEY, name BLOB UNIQUE,"
    " record BLOB, held INTEGER NOT NULL DEFAULT 0);"
    "CREATE TABLE IF NOT EXISTS opening (id INTEGER PRIMARY KEY, random INTEGER, first INTEGER);"
    "CREATE TABLE IF NOT EXISTS next (id INTEGER PRIMARY KEY CHECK (id = 1), number INTEGER);"
    "INSERT OR IGNORE INTO next VALUES (1, 1);"
    "CREATE TABLE IF NOT EXISTS dropped (number INTEGER PRIMARY KEY);" /* only there in flight */
    "CREATE TABLE IF NOT EXISTS newest (id INTEGER PRIMARY KEY CHECK (id = 1), time INTEGER);"
    "INSERT OR IGNORE INTO newest SELECT 1, coalesce(max(time), 0) FROM message;"
    "CREATE INDEX IF NOT EXISTS taken ON message (number) WHERE channels = 0;"
    /* what waits for /sync is counted as it comes and goes: each /sync asks for it */
    "CREATE TABLE IF NOT EXISTS counted (id INTEGER PRIMARY KEY CHECK (id = 1), messages INTEGER,"
    " bytes INTEGER);"
    "INSERT OR IGNORE INTO counted SELECT 1, count(*), coalesce(sum(" MESSAGE_BYTES("") "), 0)"
    " FROM message WHERE channels & 1;"
    "CREATE TRIGGER IF NOT EXISTS sync_comes AFTER INSERT ON message WHEN new.channels & 1 BEGIN"
    " UPDATE counted SET messages = messages + 1, bytes = bytes + (" MESSAGE_BYTES("new.") "); END;"
    "CREATE TRIGGER IF NOT EXISTS sync_goes AFTER UPDATE OF channels ON message"
    " WHEN old.channels & 1 AND NOT new.channels & 1 BEGIN"
    " UPDATE counted SET messages = messages - 1, bytes = bytes - (" MESSAGE_BYTES("old.") "); END;"
    "CREATE TEMP TABLE staged (id INTEGER PRIMARY KEY, batch INTEGER, channels INTEGER,"
    " time INTEGER, user BLOB, device BLOB, sender BLOB, type BLOB, content BLOB);"
    "CREATE TEMP TABLE batch (id INTEGER PRIMARY KEY);";

/* The statements; those that a running change must not see again are kept apart by number. */
enum {
    BEGIN, COMMIT, ROLLBACK, BATCH_BEGIN, BATCH_END, BATCH_IS_OPEN, STAGE, UNSTAGE, NEXT,
    NEXT_ADD, TAKE_STAGED, STAGED_COUNT, WAIT, KNOWN, REMEMBER, FORGET_OLD, FORGET_WHO, FIRST,
    FIRST_OF_DEVICE, DONE, DONE_DEVICE, DONE_WAITING, SWEEP, RECORD_SET, HOLD, HAS, TAKE_ONE,
    COPY, DROP, EXPIRE, CHANNEL_FIND, CHANNEL_FREE, CHANNEL_MAKE, CHANNEL_RELEASE,
    CHANNEL_WAITED, CHANNEL_GET, OPENINGS, COUNT, COUNT_DEVICE, OPENING_ADD, NEWEST,
    NEWEST_KEEP, DROPPED, COUNT_SYNC, DONE_ONE
};

static const char *const texts[QUEUE_SQLITE_STATEMENTS] = {
    "BEGIN IMMEDIATE",
    "COMMIT",
    "ROLLBACK",
    "INSERT INTO batch VALUES (?1)",
    "DELETE FROM batch WHERE id = ?1",
    "SELECT 1 FROM batch WHERE id = ?1",
    "INSERT INTO staged VALUES (NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    "DELETE FROM staged WHERE batch = ?1",
    "SELECT number FROM next",
    "UPDATE next SET number = number + ?1",
    "INSERT INTO message SELECT ?2 + row_number() OVER (ORDER BY id) - 1, channels, time, user,"
    " device, sender, type, content, channels FROM staged WHERE batch = ?1",
    "SELECT count(*) FROM staged WHERE batch = ?1",
    /* the bits of each new message's set, as rows: what next() and done() find channels by */
    "WITH RECURSIVE bit (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM bit WHERE n < 31)"
    " INSERT INTO waiting SELECT n, number FROM message, bit"
    " WHERE number >= ?1 AND channels >> n & 1",
    "SELECT 1 FROM request WHERE who = ?1 AND what = ?2",
    "INSERT INTO request VALUES (NULL, ?1, ?2)",
    "DELETE FROM request WHERE id <= (SELECT max(id) FROM request) - 4096",
    "DELETE FROM request WHERE who = ?1",
    "SELECT m.* FROM waiting w JOIN message m ON m.number = w.number WHERE w.channel = ?1"
    " AND w.number > ?2 AND w.number < ?3 ORDER BY w.number LIMIT 1",
    "SELECT * FROM message WHERE user = ?4 AND device = ?5 AND channels & 1 AND number > ?2"
    " AND number < ?3 ORDER BY number LIMIT 1",
    "UPDATE message SET channels = channels & ~(1 << ?1) WHERE number IN"
    " (SELECT number FROM waiting WHERE channel = ?1 AND number <= ?2 AND number < ?3)",
    "UPDATE message SET channels = channels & ~1 WHERE user = ?4 AND device = ?5 AND number <= ?2"
    " AND number < ?3 AND channels & 1",
    "DELETE FROM waiting WHERE channel = ?1 AND number <= ?2 AND number < ?3",
    "DELETE FROM message WHERE channels = 0 AND number <= ?2",
    "INSERT INTO channel (number, record) VALUES (?1, ?2)"
    " ON CONFLICT (number) DO UPDATE SET record = ?2",
    "UPDATE channel SET held = ?2 WHERE number = ?1",
    "SELECT 1 FROM message WHERE number = ?2 AND number < ?3 AND channels >> ?1 & 1"
    " AND (?1 > 0 OR (user = ?4 AND device = ?5))",
    "UPDATE message SET channels = channels & ~(1 << ?1), routed = routed & ~(?1 = 0)"
    " WHERE number = ?2",
    "INSERT INTO message SELECT ?1, ?3, time, user, device, sender, type, content, ?3 FROM message"
    " WHERE number = ?2",
    "UPDATE message SET channels = channels & (SELECT coalesce(sum(1 << c.number), 0)"
    " FROM channel c WHERE c.held >= message.number) WHERE number IN (SELECT number FROM dropped)",
    "UPDATE message SET channels = channels & ~1 WHERE channels & 1 AND number < ?3 AND number <"
    " coalesce((SELECT min(m.number) FROM message m WHERE m.user = message.user"
    " AND m.device = message.device AND m.channels & 1 AND m.time >= ?2), 1 << 62)",
    "SELECT number FROM channel WHERE name = ?2",
    "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 30)"
    " SELECT n FROM c WHERE n NOT IN (SELECT number FROM channel)"
    " AND NOT EXISTS (SELECT 1 FROM waiting WHERE channel = n)"
    " AND NOT EXISTS (SELECT 1 FROM staged WHERE channels >> n & 1) LIMIT 1",
    "INSERT INTO channel (number, name, record) VALUES (?1, ?2, x'')",
    "DELETE FROM channel WHERE number = ?1",
    "SELECT 1 FROM waiting WHERE channel = ?1 UNION ALL"
    " SELECT 1 FROM staged WHERE channels >> ?1 & 1 LIMIT 1",
    "SELECT name, record, held FROM channel WHERE number = ?1",
    "SELECT random, first FROM opening WHERE id <= ?3 ORDER BY id DESC LIMIT 1 OFFSET ?1",
    "SELECT count(*), sum(" MESSAGE_BYTES("") "), min(m.number), min(time) FROM waiting w"
    " JOIN message m ON m.number = w.number WHERE w.channel = ?1",
    "SELECT count(*), sum(" MESSAGE_BYTES("") "), min(CASE WHEN channels & 1 THEN number END),"
    " min(CASE WHEN channels & 1 THEN time END) FROM message WHERE user = ?4 AND device = ?5",
    "INSERT INTO opening SELECT NULL, ?1, number FROM next",
    "SELECT time FROM newest",
    "UPDATE newest SET time = max(time, (SELECT coalesce(max(time), 0) FROM staged"
    " WHERE batch = ?1))",
    "INSERT OR IGNORE INTO dropped SELECT number FROM message WHERE user = ?4 AND device = ?5",
    "SELECT messages, bytes, 0, 0 FROM counted",
    "DELETE FROM waiting WHERE channel = ?1 AND number = ?2"};

/* ---- running statements ---- */

/* Binds integers to ?1, ?2 and ?3, and the device to ?4 and ?5. */
static sqlite3_stmt *prepare(struct queue_sqlite *q, int which, uint64_t a, uint64_t b, uint64_t c,
                             const msc4203_device *device)
{
    sqlite3_stmt *s = q->statements[which];
    int n = sqlite3_bind_parameter_count(s);

    sqlite3_reset(s);
    if (n >= 1)
        sqlite3_bind_int64(s, 1, (sqlite3_int64)a);
    if (n >= 2)
        sqlite3_bind_int64(s, 2, (sqlite3_int64)b);
    if (n >= 3)
        sqlite3_bind_int64(s, 3, (sqlite3_int64)c);
    if (n >= 5 && device != NULL) {
        sqlite3_bind_blob64(s, 4, device->user_id.len ? device->user_id.ptr : "",
                            device->user_id.len, SQLITE_STATIC);
        sqlite3_bind_blob64(s, 5, device->device_id.len ? device->device_id.ptr : "",
                            device->device_id.len, SQLITE_STATIC);
    }
    return s;
}

static void bind(sqlite3_stmt *s, int n, const msc4203_span *span)
{
    sqlite3_bind_blob64(s, n, span->len ? span->ptr : "", span->len, SQLITE_STATIC);
}

/* Returns 1 for a row, 0 for none, -1 for a failure; the queue then refuses everything. */
static int step(struct queue_sqlite *q, sqlite3_stmt *s)
{
    int result = sqlite3_step(s);

    if (result == SQLITE_ROW)
        return 1;
    sqlite3_reset(s);
    if (result == SQLITE_DONE)
        return 0;
    q->failed = 1;
    return -1;
}

static int run(struct queue_sqlite *q, int which, uint64_t a, uint64_t b, uint64_t c,
               const msc4203_device *device)
{
    return q->failed ? -1 : step(q, prepare(q, which, a, b, c, device));
}

/* The integer in the first column; `none` without a row. */
static uint64_t ask(struct queue_sqlite *q, int which, uint64_t a, uint64_t b, uint64_t c,
                    const msc4203_device *device, uint64_t none)
{
    sqlite3_stmt *s = prepare(q, which, a, b, c, device);

    if (!q->failed && step(q, s) == 1) {
        none = (uint64_t)sqlite3_column_int64(s, 0);
        sqlite3_reset(s);
    }
    return none;
}

/* Begins a transaction, unless one is open. */
static int writes(struct queue_sqlite *q)
{
    if (!q->writing && !q->failed) {
        if (run(q, BEGIN, 0, 0, 0, NULL) == 0)
            q->writing = 1;
        q->visible = ask(q, NEXT, 0, 0, 0, NULL, 0);
    }
    return q->failed ? MSC4203_E_STORAGE : MSC4203_OK;
}

/* Numbers below are shown. */
static uint64_t shown(const struct queue_sqlite *q)
{
    return q->writing ? q->visible : (uint64_t)1 << 62;
}

static int result_of(const struct queue_sqlite *q)
{
    return q->failed ? MSC4203_E_STORAGE : MSC4203_OK;
}

/* ---- batches ---- */

static int q_begin(void *context, uint32_t *batch)
{
    struct queue_sqlite *q = (struct queue_sqlite *)context;

    *batch = ++q->batches;
    run(q, BATCH_BEGIN, *batch, 0, 0, NULL);
    return result_of(q);
}

static int q_push(void *context, uint32_t batch, const msc4203_message *message)
{
    struct queue_sqlite *q = (struct queue_sqlite *)context;
    sqlite3_stmt *s;

    if (message->channels == 0)
        return MSC4203_E_USAGE;
    if (ask(q, BATCH_IS_OPEN, batch, 0, 0, NULL, 0) == 0)
        return q->failed ? MSC4203_E_STORAGE : MSC4203_E_BATCH;
    s = prepare(q, STAGE, batch, message->channels, message->time_ms, NULL);
    bind(s, 4, &message->item.user_id);
    bind(s, 5, &message->item.device_id);
    bind(s, 6, &message->item.sender);
    bind(s, 7, &message->item.type);
    bind(s, 8, &message->item.content);
    step(q, s);
    return result_of(q);
}

static int q_abort(void *context, uint32_t batch)
{
    struct queue_sqlite *q = (struct queue_sqlite *)context;

    if (ask(q, BATCH_IS_OPEN, batch, 0, 0, NULL, 0) == 0)
        return q->failed ? MSC4203_E_STORAGE : MSC4203_E_USAGE;
    run(q, UNSTAGE, batch, 0, 0, NULL);
    run(q, BATCH_END, batch, 0, 0, NULL);
    return result_of(q);
}

static int has_id(const msc4203_request *request)
{
    static const msc4203_request none;
    return request != NULL && memcmp(request, &none, sizeof none) != 0;
}

static int ask_request(struct queue_sqlite *q, int which, const msc4203_request *request)
{
    sqlite3_stmt *s = prepare(q, which, 0, 0, 0, NULL);
    int found;

    sqlite3_bind_blob(s, 1, request->who, sizeof request->who, SQLITE_STATIC);
    sqlite3_bind_blob(s, 2, request->what, sizeof request->what, SQLITE_STATIC);
    found = q->failed ? -1 : step(q, s);
    sqlite3_reset(s);
    return found;
}

static int q_known(void *context, const msc4203_request *request)
{
    struct queue_sqlite *q = (struct queue_sqlite *)context;

    if (has_id(request) && ask_request(q, KNOWN, request) == 1)
        return MSC4203_KNOWN;
    return result_of(q);
}

static int q_commit(void *context, uint32_t batch, const msc4203_request *request,
                    uint64_t *first)
{
    struct queue_sqlite *q = (struct queue_sqlite *)context;
    int result = writes(q);
    uint64_t count;

    *first = ask(q, NEXT, 0, 0, 0, NULL, 0);
    if (result == MSC4203_OK && ask(q, BATCH_IS_OPEN, batch, 0, 0, NULL, 0) == 0)
        return MSC4203_E_BATCH;
    if (result == MSC4203_OK)
        result = q_known(q, request);
    if (result == MSC4203_OK) {
        count = ask(q, STAGED_COUNT, batch, 0, 0, NULL, 0);
        run(q, TAKE_STAGED, batch, *first, 0, NULL);
        run(q, WAIT, *first, 0, 0, NULL);
        run(q, NEXT_ADD, count, 0, 0, NULL);
        run(q, NEWEST_KEEP, batch, 0, 0, NULL);
        if (has_id(request)) {
            ask_request(q, REMEMBER, request);
            run(q, FORGET_OLD, 0, 0, 0, NULL);
        }
    }
    q_abort(q, batch);
    return q->failed ? MSC4203_E_STORAGE : result;
}

static int q_flush(void *context)
{
    struct queue_sqlite *q = (struct queue_sqlite *)context;

    if (q->writing && run(q, COMMIT, 0, 0, 0, NULL) == 0)
        q->writing = 0;
    return result_of(q);
}

/* ---- reading ---- */

static int check(uint32_t channel, const msc4203_device *device)
{
    return channel >= MSC4203_CHANNELS || (channel == 0) != (device != NULL) ? MSC4203_E_USAGE
                                                                              : MSC4203_OK;
}

/* Puts a column into the memory. */
static size_t keep(sqlite3_stmt *s, int column, char *memory, msc4203_span *span)
{
    size_t bytes = (size_t)sqlite3_column_bytes(s, column);

    if (memory != NULL) {
        if (bytes != 0)
            memcpy(memory, sqlite3_column_blob(s, column), bytes);
        span->ptr = memory;
        span->len = bytes;
    }
    return bytes;
}

static int q_next(void *context, uint32_t channel, const msc4203_device *device, uint64_t after,
                  void *memory, size_t bytes, msc4203_message *message)
{
    struct queue_sqlite *q = (struct queue_sqlite *)context;
    sqlite3_stmt *s;
    size_t at = 0, size = 0;
    int i, result = check(channel, device);

    memset(message, 0, sizeof *message);
    if (result != MSC4203_OK || q->failed)
        return q->failed ? MSC4203_E_STORAGE : result;
    s = prepare(q, channel == 0 ? FIRST_OF_DEVICE : FIRST, channel, after, shown(q), device);
    result = step(q, s);
    if (result != 1)
        return result == 0 ? MSC4203_END : MSC4203_E_STORAGE;
    message->number = (uint64_t)sqlite3_column_int64(s, 0);
    message->channels = (uint32_t)sqlite3_column_int64(s, 1);
    message->time_ms = (uint64_t)sqlite3_column_int64(s, 2);
    message->delivered = (uint32_t)sqlite3_column_int64(s, 8) & ~message->channels & 1;
    for (i = 3; i < 8; i++)
        size += keep(s, i, NULL, NULL);
    message->bytes = (uint32_t)size;
    if (size <= bytes) {
        at += keep(s, 3, (char *)memory + at, &message->item.user_id);
        at += keep(s, 4, (char *)memory + at, &message->item.device_id);
        at += keep(s, 5, (char *)memory + at, &message->item.sender);
        at += keep(s, 6, (char *)memory + at, &message->item.type);
        keep(s, 7, (char *)memory + at, &message->item.content);
        message->item.kind = MSC4203_TO_DEVICE;
    }
    sqlite3_reset(s);
    return size <= bytes ? MSC4203_ITEM : MSC4203_E_TOO_LARGE;
}

static int q_count(void *context, uint32_t channel, const msc4203_device *device,
                   msc4203_counts *counts)
{
    struct queue_sqlite *q = (struct queue_sqlite *)context;
    int what = device != NULL ? COUNT_DEVICE : channel == MSC4203_CHANNEL_SYNC ? COUNT_SYNC : COUNT;
    sqlite3_stmt *s = prepare(q, what, channel, 0, 0, device);

    memset(counts, 0, sizeof *counts);
    if (channel >= MSC4203_CHANNELS || q->failed)
        return q->failed ? MSC4203_E_STORAGE : MSC4203_E_USAGE;
    if (step(q, s) == 1) {
        counts->messages = (uint64_t)sqlite3_column_int64(s, 0);
        counts->bytes = (uint64_t)sqlite3_column_int64(s, 1);
        counts->first = (uint64_t)sqlite3_column_int64(s, 2);
        counts->time_ms = (uint64_t)sqlite3_column_int64(s, 3);
        sqlite3_reset(s);
    }
    s = prepare(q, CHANNEL_GET, channel, 0, 0, NULL);
    if (device == NULL && !q->failed && step(q, s) == 1) {
        counts->through = (uint64_t)sqlite3_column_int64(s, 2);
        sqlite3_reset(s);
    }
    if (channel == 0 && device == NULL) {
        counts->through = (q->writing ? q->visible : ask(q, NEXT, 0, 0, 0, NULL, 1)) - 1;
        counts->time_ms = ask(q, NEWEST, 0, 0, 0, NULL, 0);
    }
    return result_of(q);
}

static int q_opening(void *context, uint32_t back, uint64_t *random, uint64_t *first)
{
    struct queue_sqlite *q = (struct queue_sqlite *)context;
    sqlite3_stmt *s = prepare(q, OPENINGS, back, 0, q->opening, NULL);

    if (q->failed || step(q, s) != 1)
        return q->failed ? MSC4203_E_STORAGE : MSC4203_END;
    *random = (uint64_t)sqlite3_column_int64(s, 0);
    *first = (uint64_t)sqlite3_column_int64(s, 1);
    sqlite3_reset(s);
    return MSC4203_OK;
}

/* ---- taking out ---- */

static int set_record(struct queue_sqlite *q, uint32_t channel, const msc4203_span *record)
{
    sqlite3_stmt *s = prepare(q, RECORD_SET, channel, 0, 0, NULL);

    bind(s, 2, record);
    return q->failed ? -1 : step(q, s);
}

static int q_done(void *context, uint32_t channel, const msc4203_device *device, uint64_t through,
                  const msc4203_span *record)
{
    struct queue_sqlite *q = (struct queue_sqlite *)context;
    int result = check(channel, device);

    if (result == MSC4203_OK && record != NULL && (channel == 0 || record->len > 4096))
        result = channel == 0 ? MSC4203_E_USAGE : MSC4203_E_TOO_LARGE;
    if (result == MSC4203_OK)
        result = writes(q);
    if (result != MSC4203_OK)
        return result;
    if (through >= q->visible)
        through = q->visible - 1;
    run(q, channel == 0 ? DONE_DEVICE : DONE, channel, through, q->visible, device);
    if (channel != 0)
        run(q, DONE_WAITING, channel, through, q->visible, NULL);
    run(q, SWEEP, 0, through, 0, NULL);
    if (record != NULL)
        set_record(q, channel, record);
    return result_of(q);
}

/* Takes out what is of a dropped device and not in flight. */
static void let_go(struct queue_sqlite *q)
{
    run(q, DROP, 0, 0, 0, NULL);
    if (sqlite3_changes(q->db) != 0 &&
        sqlite3_exec(q->db, "DELETE FROM waiting WHERE channel IN (WITH RECURSIVE c(n) AS (SELECT 0"
                     " UNION ALL SELECT n + 1 FROM c WHERE n < 31) SELECT n FROM c) AND number IN"
                     " (SELECT number FROM dropped) AND NOT EXISTS (SELECT 1 FROM message m"
                     " WHERE m.number = waiting.number AND m.channels >> channel & 1);"
                     "DELETE FROM message WHERE channels = 0 AND number IN"
                     " (SELECT number FROM dropped);"
                     "DELETE FROM dropped WHERE number NOT IN (SELECT number FROM message)",
                     NULL, NULL, NULL) != SQLITE_OK)
        q->failed = 1;
}

static int q_hold(void *context, uint32_t channel, uint64_t through, const msc4203_span *record)
{
    struct queue_sqlite *q = (struct queue_sqlite *)context;

    if (channel == 0 || channel >= MSC4203_CHANNELS)
        return MSC4203_E_USAGE;
    if (record->len > 4096)
        return MSC4203_E_TOO_LARGE;
    if (writes(q) == MSC4203_OK) {
        set_record(q, channel, record);
        run(q, HOLD, channel, through < q->visible ? through : q->visible - 1, 0, NULL);
        let_go(q);
    }
    return result_of(q);
}

static int q_move(void *context, uint32_t channel, const msc4203_device *device, uint64_t number,
                  uint32_t channels, uint64_t *moved)
{
    struct queue_sqlite *q = (struct queue_sqlite *)context;
    int result = check(channel, device);
    uint64_t next;

    if (moved != NULL)
        *moved = 0;
    if (result == MSC4203_OK)
        result = writes(q);
    if (result != MSC4203_OK)
        return result;
    if (ask(q, HAS, channel, number, q->visible, device, 0) == 0)
        return q->failed ? MSC4203_E_STORAGE : MSC4203_END;
    if (channels != 0) {
        next = ask(q, NEXT, 0, 0, 0, NULL, 0);
        run(q, COPY, next, number, channels, NULL);
        run(q, WAIT, next, 0, 0, NULL);
        run(q, NEXT_ADD, 1, 0, 0, NULL);
        if (moved != NULL)
            *moved = next;
    }
    run(q, TAKE_ONE, channel, number, 0, NULL);
    run(q, DONE_ONE, channel, number, 0, NULL);
    run(q, SWEEP, 0, number, 0, NULL);
    return result_of(q);
}

static int q_drop(void *context, const msc4203_device *device, const uint8_t *who)
{
    struct queue_sqlite *q = (struct queue_sqlite *)context;
    sqlite3_stmt *s = prepare(q, FORGET_WHO, 0, 0, 0, NULL);

    if (writes(q) != MSC4203_OK)
        return MSC4203_E_STORAGE;
    run(q, DROPPED, 0, 0, 0, device);
    let_go(q);
    if (who != NULL) {
        sqlite3_bind_blob(s, 1, who, 8, SQLITE_STATIC);
        step(q, s);
    }
    return result_of(q);
}

static int q_expire(void *context, uint64_t before_ms, uint64_t *expired)
{
    struct queue_sqlite *q = (struct queue_sqlite *)context;

    if (writes(q) == MSC4203_OK) {
        run(q, EXPIRE, 0, before_ms, q->visible, NULL);
        if (expired != NULL)
            *expired = (uint64_t)sqlite3_changes(q->db);
        run(q, SWEEP, 0, (uint64_t)1 << 62, 0, NULL);
    }
    return result_of(q);
}

/* ---- channels ---- */

static int q_channel(void *context, const msc4203_span *name, int make, uint32_t *channel)
{
    struct queue_sqlite *q = (struct queue_sqlite *)context;
    sqlite3_stmt *s = prepare(q, CHANNEL_FIND, 0, 0, 0, NULL);
    int result;

    if (name->len == 0 || name->len > 255)
        return MSC4203_E_USAGE;
    if (make && writes(q) != MSC4203_OK)
        return MSC4203_E_STORAGE;
    bind(s, 2, name);
    result = q->failed ? -1 : step(q, s);
    if (result == 1)
        *channel = (uint32_t)sqlite3_column_int(s, 0);
    sqlite3_reset(s);
    if (result != 0)
        return result == 1 ? MSC4203_OK : MSC4203_E_STORAGE;
    if (!make)
        return MSC4203_END;
    *channel = (uint32_t)ask(q, CHANNEL_FREE, 0, 0, 0, NULL, 0);
    if (*channel == 0)
        return q->failed ? MSC4203_E_STORAGE : MSC4203_E_QUEUE_FULL;
    s = prepare(q, CHANNEL_MAKE, *channel, 0, 0, NULL);
    bind(s, 2, name);
    step(q, s);
    return result_of(q);
}

static int q_release(void *context, uint32_t channel)
{
    struct queue_sqlite *q = (struct queue_sqlite *)context;

    if (channel == 0 || channel >= MSC4203_CHANNELS)
        return MSC4203_E_USAGE;
    if (writes(q) != MSC4203_OK)
        return MSC4203_E_STORAGE;
    if (ask(q, CHANNEL_WAITED, channel, 0, 0, NULL, 0) != 0)
        return MSC4203_E_BUSY;
    run(q, CHANNEL_RELEASE, channel, 0, 0, NULL);
    return result_of(q);
}

static int q_record(void *context, uint32_t channel, void *memory, size_t bytes,
                    msc4203_span *name, msc4203_span *record)
{
    struct queue_sqlite *q = (struct queue_sqlite *)context;
    sqlite3_stmt *s = prepare(q, CHANNEL_GET, channel, 0, 0, NULL);
    msc4203_span span;
    size_t at;
    int result = MSC4203_OK;

    if (channel == 0 || channel >= MSC4203_CHANNELS)
        return MSC4203_E_USAGE;
    if (q->failed || step(q, s) != 1)
        return q->failed ? MSC4203_E_STORAGE : MSC4203_END;
    if (keep(s, 0, NULL, NULL) + keep(s, 1, NULL, NULL) > bytes) {
        result = MSC4203_E_TOO_LARGE;
    } else {
        at = keep(s, 0, (char *)memory, &span);
        if (name != NULL)
            *name = span;
        keep(s, 1, (char *)memory + at, &span);
        if (record != NULL)
            *record = span;
    }
    sqlite3_reset(s);
    return result;
}

/* ---- opening ---- */

/* Changing a new database to WAL does not wait for other processes, whatever the busy timeout says:
 * it would have to let go of the lock that it has. So it is asked for again, for as long. */
static int use_wal(sqlite3 *db)
{
    int tries = BUSY_MS / 10, result;

    while ((result = sqlite3_exec(db, "PRAGMA journal_mode=WAL", NULL, NULL, NULL)) ==
               SQLITE_BUSY &&
           tries-- != 0)
        sqlite3_sleep(10);
    return result;
}

int queue_sqlite_open(struct queue_sqlite *q, const char *path, uint64_t random,
                      msc4203_queue *queue)
{
    int i;

    memset(q, 0, sizeof *q);
    q->failed = sqlite3_open(path, &q->db) != SQLITE_OK;
    if (!q->failed) {
        sqlite3_busy_timeout(q->db, BUSY_MS);
        q->failed = use_wal(q->db) != SQLITE_OK ||
                    sqlite3_exec(q->db, schema, NULL, NULL, NULL) != SQLITE_OK;
    }
    for (i = 0; i < QUEUE_SQLITE_STATEMENTS && !q->failed; i++)
        q->failed = sqlite3_prepare_v2(q->db, texts[i], -1, &q->statements[i], NULL) != SQLITE_OK;
    if (!q->failed && writes(q) == MSC4203_OK) { /* numbers that a crash took are not given again */
        run(q, NEXT_ADD, (uint64_t)1 << 20, 0, 0, NULL);
        run(q, OPENING_ADD, random, 0, 0, NULL);
        q->opening = (uint64_t)sqlite3_last_insert_rowid(q->db);
        q_flush(q);
    }
    queue->version = MSC4203_QUEUE_VERSION;
    queue->context = q;
    queue->begin = q_begin;
    queue->push = q_push;
    queue->commit = q_commit;
    queue->abort = q_abort;
    queue->known = q_known;
    queue->flush = q_flush;
    queue->next = q_next;
    queue->done = q_done;
    queue->hold = q_hold;
    queue->move = q_move;
    queue->drop = q_drop;
    queue->expire = q_expire;
    queue->channel = q_channel;
    queue->release = q_release;
    queue->record = q_record;
    queue->opening = q_opening;
    queue->count = q_count;
    return result_of(q);
}

void queue_sqlite_close(struct queue_sqlite *q)
{
    int i;

    for (i = 0; i < QUEUE_SQLITE_STATEMENTS; i++)
        sqlite3_finalize(q->statements[i]);
    sqlite3_close(q->db);
    q->db = NULL;
}
