/* appservice_state.h - the appservice's state file: what has to outlive a restart, replaced as a
 * whole or not at all. SPDX: 0BSD
 *
 * The file holds, in pages of 4,096 bytes: two places for the whole image, used in turn, and then
 * room for records, each of which tells which blocks of the image have changed. A write adds a
 * record; when there is no room for it, the whole image goes to the other place, with the next
 * generation, and the records begin anew. Nothing that is in force is ever written over, so that a
 * write that is cut short by a kill or a power failure leaves the image before it.
 *
 * A write that fails may have happened all the same. Until another one has settled it, nobody
 * knows which of the two images the next start will find: see state_settle(). */
#ifndef APPSERVICE_STATE_H
#define APPSERVICE_STATE_H

#include "msc4203.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef STATE_RECORDS
#define STATE_RECORDS 64 /* pages of records; its test has fewer */
#endif

enum {
    STATE_TRANSACTIONS = 200, /* remembered, by the receiver */
    STATE_EVENTS = 8192,      /* remembered ids of room events */
    STATE_BLOCK = 64,
    STATE_BLOCKS = 1175, /* of an image */
    STATE_PAGE = 4096,
    STATE_BASE = 19 * STATE_PAGE, /* the place of an image, with its head */
    STATE_HEAD = 40,
    STATE_CHANGED = 4 + STATE_BLOCK, /* a changed block: its number, and the block */
    STATE_CHANGES_MAX = 600          /* in one record */
};

/* Numbers are little-endian. */
struct state_image {
    unsigned char out_bytes[8];  /* how long the output is that belongs to it */
    unsigned char event_key[8];  /* of the hashes */
    unsigned char event_next[8]; /* how many events have been remembered in all */
    unsigned char spare[24];
    unsigned char receiver[16 + 48 * STATE_TRANSACTIONS];
    unsigned char events[STATE_EVENTS][8]; /* a ring */
};

union state_image_blocks {
    struct state_image image;
    unsigned char blocks[STATE_BLOCKS][STATE_BLOCK];
};

/* The blocks are the image: a negative size does not compile. */
typedef char state_has_its_size[sizeof(struct state_image) == STATE_BLOCKS * STATE_BLOCK ? 1 : -1];

static struct state {
    const char *path;
    int fd;
    uint64_t generation;
    unsigned page;                      /* where the next record goes */
    int in_doubt, base_in_doubt;        /* a write failed; and was one of the whole image */
    union state_image_blocks now, kept; /* being changed; durable */
    unsigned char buffer[STATE_HEAD + sizeof(struct state_image)];
} state;

static uint64_t state_get(const unsigned char *at, int bytes)
{
    uint64_t value = 0;

    while (bytes-- != 0)
        value = value << 8 | at[bytes];
    return value;
}

static void state_put(unsigned char *at, uint64_t value, int bytes)
{
    for (; bytes-- != 0; value >>= 8)
        *at++ = (unsigned char)value;
}

/* ---- files ---- */

static int file_stat(int fd, struct stat *stat)
{
    memset(stat, 0, sizeof *stat); /* MemorySanitizer does not see fstat() fill it in */
    return fstat(fd, stat);
}

/* Tells whether a path still leads to an open file. */
static int file_is_at(int fd, const char *path)
{
    struct stat there, here;

    memset(&there, 0, sizeof there);
    return stat(path, &there) == 0 && file_stat(fd, &here) == 0 && there.st_dev == here.st_dev &&
           there.st_ino == here.st_ino;
}

/* Opens a file for this process alone, and may make it. Returns it, or -1, and *why says why. */
static int file_open(const char *path, int make, const char **why)
{
    int fd = open(path, O_RDWR | (make ? O_CREAT : 0) | O_CLOEXEC | O_NONBLOCK, 0600);
    struct flock lock;
    struct stat stat;

    if (fd < 0) {
        *why = strerror(errno);
        return -1;
    }
    memset(&lock, 0, sizeof lock);
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    *why = NULL;
    if (file_stat(fd, &stat) != 0)
        *why = strerror(errno);
    else if (!S_ISREG(stat.st_mode))
        *why = "not a regular file";
    else if (fcntl(fd, F_SETLK, &lock) != 0)
        *why = errno == EACCES || errno == EAGAIN ? "in use by another process" : strerror(errno);
    else if (!file_is_at(fd, path))
        *why = "it was replaced while it was opened";
    if (*why == NULL)
        return fd;
    close(fd);
    return -1;
}

/* Makes what was written to a file durable. */
static int file_flush(int fd)
{
#if defined(F_FULLFSYNC) /* there fsync() leaves it in the drive's cache */
    if (fcntl(fd, F_FULLFSYNC) == 0)
        return 1;
    return fsync(fd) == 0;
#elif defined(_POSIX_SYNCHRONIZED_IO) && _POSIX_SYNCHRONIZED_IO > 0
    return fdatasync(fd) == 0;
#else
    return fsync(fd) == 0;
#endif
}

/* Makes a file, and its name in its folder, durable. */
static int file_sync(int fd, const char *path)
{
    char folder[1024];
    size_t n = strlen(path);
    int in, done;

    while (n != 0 && path[n - 1] != '/')
        n--;
    memcpy(folder, path, n);
    if (n == 0)
        folder[n++] = '.';
    folder[n] = 0;
    in = open(folder, O_RDONLY | O_CLOEXEC);
    done = in >= 0 && (fsync(in) == 0 || errno == EINVAL) && fsync(fd) == 0;
    if (in >= 0)
        close(in);
    return done;
}

/* Reads bytes at a place. Returns 0 when they are not all there. */
static int file_read(int fd, void *data, size_t bytes, uint64_t at)
{
    unsigned char *to = (unsigned char *)data;

    while (bytes != 0) {
        ssize_t n = pread(fd, to, bytes, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return 0;
        to += n;
        at += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return 1;
}

static int file_write(int fd, const void *data, size_t bytes, uint64_t at)
{
    const unsigned char *from = (const unsigned char *)data;

    while (bytes != 0) {
        ssize_t n = pwrite(fd, from, bytes, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0)
            errno = ENOSPC;
        if (n <= 0)
            return 0;
        from += n;
        at += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return 1;
}

/* ---- images and records, in state.buffer ----
 *
 * Both begin with 0 "msc4203b" or "msc4203r", 8 generation, 8; 16 place or page, 4; 20 blocks, 4;
 * 24 digest of the 24 bytes before it and of all that follows, 16. */

static const char state_base_magic[] = "msc4203b", state_record_magic[] = "msc4203r";

static void state_digest(size_t bytes, unsigned char digest[16])
{
    msc4203_digest d;

    msc4203_digest_init(&d, UINT64_C(0x6d73633432303362));
    msc4203_digest_add(&d, state.buffer, 24);
    msc4203_digest_add(&d, state.buffer + STATE_HEAD, bytes - STATE_HEAD);
    msc4203_digest_end(&d, digest);
}

/* Completes what is in the buffer. */
static void state_seal(const char *magic, uint64_t generation, unsigned place, unsigned blocks,
                       size_t bytes)
{
    memcpy(state.buffer, magic, 8);
    state_put(state.buffer + 8, generation, 8);
    state_put(state.buffer + 16, place, 4);
    state_put(state.buffer + 20, blocks, 4);
    state_digest(bytes, state.buffer + 24);
}

/* Reads what is at a place into the buffer. Returns how many blocks it has, and its generation; or
 * -1 when there is nothing valid. */
static int state_read(const char *magic, uint64_t at, unsigned place, uint64_t *generation)
{
    unsigned char digest[16];
    size_t bytes = STATE_HEAD;
    unsigned blocks;
    int is_record = magic == state_record_magic;

    if (!file_read(state.fd, state.buffer, STATE_HEAD, at) || memcmp(state.buffer, magic, 8) != 0 ||
        state_get(state.buffer + 16, 4) != place)
        return -1;
    blocks = (unsigned)state_get(state.buffer + 20, 4);
    if (is_record ? blocks > STATE_CHANGES_MAX : blocks != STATE_BLOCKS)
        return -1;
    bytes += (size_t)blocks * (is_record ? STATE_CHANGED : STATE_BLOCK);
    if (!file_read(state.fd, state.buffer + STATE_HEAD, bytes - STATE_HEAD, at + STATE_HEAD))
        return -1;
    state_digest(bytes, digest);
    *generation = state_get(state.buffer + 8, 8);
    return memcmp(digest, state.buffer + 24, 16) == 0 ? (int)blocks : -1;
}

static uint64_t state_base_at(uint64_t generation)
{
    return (generation & 1) * STATE_BASE;
}

static uint64_t state_record_at(unsigned page)
{
    return 2 * (uint64_t)STATE_BASE + (uint64_t)page * STATE_PAGE;
}

static unsigned state_record_pages(unsigned blocks)
{
    return (STATE_HEAD + blocks * STATE_CHANGED + STATE_PAGE - 1) / STATE_PAGE;
}

/* ---- writing ---- */

/* Gives the file its size, so that a full disk does not stand in the way later. */
static int state_allocate(void)
{
    uint64_t at = 0, bytes = state_record_at(STATE_RECORDS);

    memset(state.buffer, 0, sizeof state.buffer);
    for (; at < bytes; at += STATE_PAGE)
        if (!file_write(state.fd, state.buffer, STATE_PAGE, at))
            return 0;
    return 1;
}

static int state_write_base(void)
{
    if (state.generation == 0 && !state_allocate())
        return 0;
    memcpy(state.buffer + STATE_HEAD, &state.now, sizeof state.now);
    state_seal(state_base_magic, state.generation + 1, (unsigned)(state.generation + 1) & 1,
               STATE_BLOCKS, sizeof state.buffer);
    if (!file_write(state.fd, state.buffer, sizeof state.buffer,
                    state_base_at(state.generation + 1)) ||
        !file_flush(state.fd))
        return 0;
    state.generation++;
    state.page = 0;
    return 1;
}

/* Puts what has changed into the buffer. Returns how many blocks, STATE_CHANGES_MAX + 1 when they
 * are too many. */
static unsigned state_changes(void)
{
    unsigned char *to = state.buffer + STATE_HEAD;
    unsigned i, blocks = 0;

    for (i = 0; i < STATE_BLOCKS; i++) {
        if (memcmp(state.now.blocks[i], state.kept.blocks[i], STATE_BLOCK) == 0)
            continue;
        if (++blocks > STATE_CHANGES_MAX)
            break;
        state_put(to, i, 4);
        memcpy(to + 4, state.now.blocks[i], STATE_BLOCK);
        to += STATE_CHANGED;
    }
    return blocks;
}

static int state_write_record(unsigned blocks)
{
    size_t bytes = STATE_HEAD + (size_t)blocks * STATE_CHANGED;

    state_seal(state_record_magic, state.generation, state.page, blocks, bytes);
    if (!file_write(state.fd, state.buffer, bytes, state_record_at(state.page)) ||
        !file_flush(state.fd))
        return 0;
    state.page += state_record_pages(blocks);
    return 1;
}

/* Makes state.now durable. Returns 0, and *why says why, when that fails; nothing was written then,
 * unless state.in_doubt is set. */
static int state_write(const char **why)
{
    uint64_t generation = state.generation;
    unsigned blocks = state_changes(), page = state.page;
    int base, done;

    if (!file_is_at(state.fd, state.path)) {
        *why = "the state file was moved away, removed or replaced";
        return 0;
    }
    if (state.in_doubt) /* it has to replace what may have been written */
        base = state.base_in_doubt;
    else
        base = state.generation == 0 || blocks > STATE_CHANGES_MAX ||
               state.page + state_record_pages(blocks) > STATE_RECORDS;
    done = base ? state_write_base() : state_write_record(blocks);
    *why = done ? NULL : strerror(errno);
    if (done && !file_is_at(state.fd, state.path)) {
        *why = "the state file was moved away, removed or replaced";
        state.generation = generation;
        state.page = page;
        done = 0;
    }
    state.in_doubt = !done;
    state.base_in_doubt = base;
    if (done)
        memcpy(&state.kept, &state.now, sizeof state.kept);
    return done;
}

/* Forgets what has changed since the last write. */
static void state_forget(void)
{
    memcpy(&state.now, &state.kept, sizeof state.now);
}

/* After a write that failed: makes sure that the next start finds the image before it. Until then
 * the output must not be cut. Returns 0 when that fails. */
static int state_settle(const char **why)
{
    if (!state.in_doubt)
        return 1;
    state_forget();
    return state_write(why);
}

/* ---- opening ---- */

/* Applies the records. Returns 0 when one is damaged that has others behind it. */
static int state_read_records(void)
{
    uint64_t generation = 0;
    unsigned page, n;
    int blocks, i;

    while (state.page < STATE_RECORDS) {
        blocks =
            state_read(state_record_magic, state_record_at(state.page), state.page, &generation);
        if (blocks < 0 || generation != state.generation)
            break;
        for (i = 0; i < blocks; i++) {
            const unsigned char *at = state.buffer + STATE_HEAD + i * STATE_CHANGED;
            n = (unsigned)state_get(at, 4);
            if (n >= STATE_BLOCKS)
                return 0;
            memcpy(state.now.blocks[n], at + 4, STATE_BLOCK);
        }
        state.page += state_record_pages((unsigned)blocks);
    }
    for (page = state.page; page < STATE_RECORDS; page++)
        if (state_read(state_record_magic, state_record_at(page), page, &generation) >= 0 &&
            generation >= state.generation)
            return 0;
    return 1;
}

/* Reads the file. Returns NULL, or what is wrong with it. A generation of 0: it is new. */
static const char *state_load(void)
{
    static const unsigned char zeros[8];
    unsigned char magic[8];
    struct stat stat;
    uint64_t generation = 0;
    unsigned place;

    if (file_stat(state.fd, &stat) != 0)
        return strerror(errno);
    for (place = 0; place < 2; place++)
        if (state_read(state_base_magic, state_base_at(place), place, &generation) >= 0 &&
            generation > state.generation) {
            state.generation = generation;
            memcpy(&state.now, state.buffer + STATE_HEAD, sizeof state.now);
        }
    if (state.generation != 0)
        return state_read_records() ? NULL : "the state file is damaged";
    if (stat.st_size == 0)
        return NULL;
    if (!file_read(state.fd, magic, 8, 0))
        return "not a state file";
    if (memcmp(magic, "msc4203a", 8) == 0)
        return "a state file of an earlier version, which can't be read: begin with a new state "
               "file and a new output";
    /* The first image of all goes to the second place. A start that was killed leaves zeros. */
    if (memcmp(magic, zeros, 8) == 0 && (uint64_t)stat.st_size <= state_record_at(STATE_RECORDS) &&
        state_read_records())
        return NULL;
    return memcmp(magic, zeros, 8) == 0 || memcmp(magic, state_base_magic, 8) == 0
               ? "the state file is damaged"
               : "not a state file";
}

/* Opens the file for this process alone, and reads it; what it holds is made durable, for what a
 * process that was killed had written may not be. Returns NULL, or what is wrong. */
static const char *state_open(const char *path)
{
    const char *why = NULL;

    state.path = path;
    state.fd = file_open(path, 1, &why);
    if (state.fd < 0)
        return why;
    why = state_load();
    if (why == NULL && !file_sync(state.fd, path))
        why = strerror(errno);
    state.kept = state.now;
    return why;
}

#endif
