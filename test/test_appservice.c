/* test_appservice.c - the appservice's state and output over a disk that fails: the program is
 * killed and the power is cut at random system calls, what was not synced is lost, torn or garbage,
 * and calls fail. What was acknowledged must be in the output, once and in order, and remembered;
 * a transaction that was not acknowledged is there as a whole or not at all. */
#define _POSIX_C_SOURCE   200809L
#define _FILE_OFFSET_BITS 64
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- the disk: files of the system, and what of them would survive ---- */

static ssize_t disk_write(int fd, const void *data, size_t bytes);
static ssize_t disk_pwrite(int fd, const void *data, size_t bytes, off_t at);
static int disk_truncate(int fd, off_t bytes);
static int disk_sync(int fd);

#define write         disk_write
#define pwrite        disk_pwrite
#define ftruncate     disk_truncate
#define fsync         disk_sync
#define fdatasync     disk_sync
#define STATE_RECORDS 7 /* so that whole images are written often */
#include "../example/appservice_output.h"
#undef write
#undef pwrite
#undef ftruncate
#undef fsync
#undef fdatasync

enum { STATE, OUTPUT, FILES, ROOM = 1 << 20, SECTOR = 512, PENDING = 4096, TRANSACTIONS = 4096 };

struct change {
    char *data; /* NULL: it was cut */
    size_t at, bytes;
};

static const char *const paths[FILES] = {"build/test/appservice.state",
                                         "build/test/appservice.out"};

static struct disk {
    char durable[ROOM];
    size_t bytes;
    struct change pending[PENDING];
    unsigned count;
} disks[FILES];

enum event { GOES_ON, KILL, POWER };

static jmp_buf ended;
static unsigned calls_left; /* until something happens */
static enum event happens;
static unsigned failing; /* one call in so many fails; 0: none */

static int is_a_disk(int fd)
{
    return fd == state.fd || fd == output.fd;
}

static struct disk *disk_of(int fd)
{
    return &disks[fd == state.fd ? STATE : OUTPUT];
}

static void change_apply(struct disk *disk, const struct change *change)
{
    if (change->at + change->bytes > ROOM)
        exit(2);
    if (change->data == NULL) {
        if (disk->bytes > change->at)
            memset(disk->durable + change->at, 0, disk->bytes - change->at);
        disk->bytes = change->at;
        return;
    }
    memcpy(disk->durable + change->at, change->data, change->bytes);
    if (change->at + change->bytes > disk->bytes)
        disk->bytes = change->at + change->bytes;
}

static void change_add(struct disk *disk, const void *data, size_t at, size_t bytes)
{
    struct change *change = &disk->pending[disk->count++];

    if (disk->count == PENDING)
        exit(2);
    change->at = at;
    change->bytes = bytes;
    change->data = NULL;
    if (data == NULL)
        return;
    change->data = (char *)malloc(bytes);
    if (change->data == NULL)
        exit(2);
    memcpy(change->data, data, bytes);
}

static void changes_forget(struct disk *disk)
{
    while (disk->count != 0)
        free(disk->pending[--disk->count].data);
}

/* Part of a write, by sectors: old, new, torn and, in the state, garbage. */
static void change_tear(struct disk *disk, const struct change *change)
{
    size_t from, n;

    for (from = 0; from < change->bytes; from += n) {
        struct change part = *change;
        char junk[SECTOR];
        part.at += from;
        part.data += from;
        n = SECTOR - part.at % SECTOR;
        n = n < change->bytes - from ? n : change->bytes - from;
        part.bytes = n;
        switch (test_below(disk == &disks[STATE] ? 4 : 3)) {
        case 0:
            continue;
        case 1:
            part.bytes = test_below(n + 1);
            break;
        case 2:
            break;
        default:
            memset(junk, (int)test_below(256), sizeof junk);
            part.data = junk;
        }
        change_apply(disk, &part);
    }
}

/* The power fails. */
static void disks_cut(void)
{
    unsigned f, i, whole;

    for (f = 0; f < FILES; f++) {
        struct disk *disk = &disks[f];
        int fd;
        whole = test_below(3) == 0 ? (unsigned)test_below(disk->count + 1) : 0;
        for (i = 0; i < disk->count; i++) {
            if (i < whole)
                change_apply(disk, &disk->pending[i]);
            else if (disk->pending[i].data != NULL)
                change_tear(disk, &disk->pending[i]);
            else if (test_below(2) == 0)
                change_apply(disk, &disk->pending[i]);
        }
        changes_forget(disk);
        fd = open(paths[f], O_WRONLY | O_TRUNC | O_CREAT, 0600);
        if (fd < 0 || write(fd, disk->durable, disk->bytes) != (ssize_t)disk->bytes || close(fd))
            exit(2);
    }
}

/* A call begins. Returns 0 when it is to fail. */
static int call(void)
{
    if (happens != GOES_ON && calls_left-- == 0)
        longjmp(ended, 1);
    if (failing == 0 || test_below(failing) != 0)
        return 1;
    errno = EIO;
    return 0;
}

static ssize_t disk_write(int fd, const void *data, size_t bytes)
{
    struct stat stat;
    int ok = call();
    ssize_t n;

    if (file_stat(fd, &stat) != 0)
        exit(2);
    if (bytes > 1 && test_below(4) == 0)
        bytes = 1 + test_below(bytes - 1);
    if (!ok && test_below(2) == 0)
        return -1;
    n = write(fd, data, bytes);
    if (n > 0)
        change_add(disk_of(fd), data, (size_t)stat.st_size, (size_t)n);
    errno = EIO;
    return ok ? n : -1;
}

static ssize_t disk_pwrite(int fd, const void *data, size_t bytes, off_t at)
{
    int ok = call();
    ssize_t n;

    if (test_below(16) == 0) {
        errno = EINTR;
        return -1;
    }
    if (bytes > 1 && test_below(4) == 0)
        bytes = 1 + test_below(bytes - 1);
    if (!ok && test_below(2) == 0)
        return -1;
    n = pwrite(fd, data, bytes, at);
    if (n > 0)
        change_add(disk_of(fd), data, (size_t)at, (size_t)n);
    errno = EIO;
    return ok ? n : -1;
}

static int disk_truncate(int fd, off_t bytes)
{
    if (!call())
        return -1;
    change_add(disk_of(fd), NULL, (size_t)bytes, 0);
    return ftruncate(fd, bytes);
}

static int disk_sync(int fd)
{
    struct disk *disk = disk_of(fd);
    unsigned i;

    if (!is_a_disk(fd)) /* a folder, or an output that is not in use yet */
        return 0;
    if (!call())
        return -1;
    for (i = 0; i < disk->count; i++)
        change_apply(disk, &disk->pending[i]);
    changes_forget(disk);
    return 0;
}

/* ---- transactions ---- */

/* The lines of a transaction N: items N.0, N.1, ..., where all but the first are room events; of
 * these the last one comes again in the next transaction. */
static struct {
    unsigned acknowledged[TRANSACTIONS]; /* their items */
    unsigned char without[TRANSACTIONS]; /* the to-device message had come before */
    unsigned count, open;                /* open: items of the one that is being kept, or 0 */
    unsigned first;                      /* in this output: it is rotated */
} model;

static unsigned long restarts, kept, refused;

static void item_make(msc4203_item *item, char text[64], unsigned transaction, unsigned number)
{
    static const msc4203_span user = {"@a:x", 4}, type = {"t", 1};

    memset(item, 0, sizeof *item);
    item->kind = number == 0 ? MSC4203_TO_DEVICE : MSC4203_EVENT;
    item->sender = item->user_id = item->device_id = user;
    item->type = type;
    item->content.ptr = text;
    item->content.len = (size_t)sprintf(
        text, number == 0 ? "{\"n\":\"%u.%u\"}" : "{\"event_id\":\"$%u.%u\"}", transaction, number);
}

/* Reads a transaction, and keeps it. */
static void transaction(void)
{
    unsigned items = 1 + (unsigned)test_below(12), i;
    msc4203_item item;
    char text[64];

    if (!output_begin()) {
        refused++;
        return;
    }
    for (i = 0; i < items; i++) {
        item_make(&item, text, model.count, i);
        if (output_item(&item) != MSC4203_OK)
            break;
    }
    if (i == items && model.count != 0 && model.acknowledged[model.count - 1] > 1) {
        item_make(&item, text, model.count - 1, model.acknowledged[model.count - 1] - 1);
        CHECK(output_item(&item) == MSC4203_END);
    }
    state_put(state.now.image.receiver, model.count + 1, 8);
    model.open = items;
    model.without[model.count] = test_below(4) == 0;
    if (i < items || test_below(8) == 0 ||
        (model.without[model.count] && !output_drop_to_device()) || !output_keep()) {
        output_cut();
        refused++;
        if (!state.in_doubt) /* else it may be there at the next start */
            model.open = 0;
        return;
    }
    model.acknowledged[model.count++] = items;
    model.open = 0;
    kept++;
}

/* ---- starting, and what is there then ---- */

static int start(void)
{
    const char *why;

    if (restarts++ != 0 && state.fd > 0)
        close(state.fd);
    if (output.fd > 0)
        close(output.fd);
    memset(&state, 0, sizeof state);
    memset(&output, 0, offsetof(struct output, line));
    why = state_open(paths[STATE]);
    if (why == NULL)
        why = output_open(paths[OUTPUT], 0);
    if (why != NULL && failing == 0)
        CHECK_CASE(why == NULL, why);
    return why == NULL && output_start(4203);
}

/* Compares the output with the first `count` transactions. */
static int output_is(unsigned count)
{
    size_t bytes, at = 0;
    char *out = test_read(paths[OUTPUT], &bytes), line[256];
    unsigned t, i;
    int same = 1;

    for (t = model.first; t < count && same; t++)
        for (i = model.without[t]; i < model.acknowledged[t] && same; i++) {
            msc4203_item item;
            char text[64];
            int n;
            item_make(&item, text, t, i);
            n = sprintf(line,
                        i == 0 ? "{\"de.sorunome.msc2409.to_device\":[{\"content\":%s,"
                                 "\"sender\":\"@a:x\",\"to_device_id\":\"@a:x\","
                                 "\"to_user_id\":\"@a:x\",\"type\":\"t\"}],\"events\":[]}\n"
                               : "{\"events\":[%s]}\n",
                        text);
            same = bytes - at >= (size_t)n && memcmp(out + at, line, (size_t)n) == 0;
            at += (size_t)n;
        }
    free(out);
    return same && at == bytes;
}

static void events_check(unsigned transaction, int known)
{
    unsigned i;

    for (i = 1; i < model.acknowledged[transaction]; i++) {
        msc4203_item item;
        char text[64];
        uint64_t hash = 0;
        item_make(&item, text, transaction, i);
        CHECK(event_hash(&item.content, &hash) && event_is_known(hash) == known);
    }
}

/* After a start: all of it is there. The transaction that was being kept may be. */
static void check(void)
{
    if (model.open != 0) {
        model.acknowledged[model.count] = model.open;
        if (state_get(state.now.image.receiver, 8) == model.count + 1)
            model.count++;
        else
            events_check(model.count, 0);
    }
    model.open = 0;
    CHECK(state_get(state.now.image.receiver, 8) == model.count);
    CHECK(output_is(model.count));
    if (model.count != 0)
        events_check(model.count - 1, 1);
    if (model.count > 50)
        events_check(model.count - 50, 1);
}

/* The output is moved away, and another one begun. */
static void rotate(void)
{
    CHECK(output_is(model.count));
    CHECK(rename(paths[OUTPUT], "build/test/appservice.old") == 0);
    changes_forget(&disks[OUTPUT]);
    memset(&disks[OUTPUT], 0, sizeof disks[OUTPUT]);
    CHECK(output_rotate());
    model.first = model.count;
    CHECK(output_is(model.count));
}

/* One history of kills, power cuts and failures. */
static void history(unsigned rounds)
{
    volatile unsigned round;
    volatile int up = 0;
    unsigned f;

    memset(&model, 0, sizeof model);
    for (f = 0; f < FILES; f++) {
        (void)remove(paths[f]);
        changes_forget(&disks[f]);
        memset(&disks[f], 0, sizeof disks[f]);
    }
    happens = GOES_ON;
    failing = 0;
    for (round = 0; round < rounds; round++) {
        if (setjmp(ended) == 0) {
            unsigned many = (unsigned)test_below(test_below(4) == 0 ? 150 : 12);
            if (!up) {
                up = start();
                failing = 0;
                if (!up) /* a call failed: once more */
                    up = start();
                CHECK(up);
                check();
                happens = GOES_ON;
                if (test_below(8) == 0)
                    rotate();
            }
            happens = test_below(2) ? KILL : POWER;
            calls_left = (unsigned)test_below(test_below(2) == 0 ? 600 : 40);
            failing = test_below(3) == 0 ? 12 : 0;
            while (many-- != 0 && model.count < TRANSACTIONS - 2)
                transaction();
            failing = 0;
            calls_left = 0;
            (void)call();
        }
        failing = 0;
        up = 0;
        if (happens == POWER)
            disks_cut();
        happens = GOES_ON;
        if (test_below(4) == 0) { /* and again, while it starts */
            happens = test_below(2) ? KILL : POWER;
            calls_left = (unsigned)test_below(12);
            failing = test_below(2) == 0 ? 6 : 0;
        }
    }
}

int main(void)
{
    unsigned long i, histories = 60 * test_scale() / test_share();

    test_seed(0x4203a);
    if (mkdir("build/test", 0700) != 0 && errno != EEXIST)
        return 2;
    for (i = 0; i < histories || i == 0; i++)
        history(12);
    CHECK(restarts > kept / 100 && kept > 10 * histories && refused > histories / 4);
    (void)remove(paths[STATE]);
    (void)remove(paths[OUTPUT]);
    (void)remove("build/test/appservice.old");
    return test_end("appservice");
}
