/* test_file.c - the log in a file: made, locked, read again, broken off; the same model as in
 * test_log.c. */
#define _POSIX_C_SOURCE   200809L
#define _FILE_OFFSET_BITS 64
#include "queue_contract.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const path = "build/test/file.log";

static const char *const made = "build/test/made.log", *const made_new = "build/test/made.log.new";

enum { REGION = 512 * 1024 };

/* ---- system calls that are interrupted, do a part, or fail: in the place of libc's ---- */

static unsigned long calls;
static int write_errno, write_at; /* write_at: the call, counted down, that fails; 0 all */
static int sync_errno, sync_at;   /* the same */
static int read_errno;
static int signal_number, signal_at; /* a signal comes at this write, counted down */
static unsigned long long written;   /* bytes, since the signal */
static int finished; /* another process gives PATH.new its name before that is looked at; 2: and
                        begins with the next one */

/* Counts down to the call that fails; at 0 from the beginning, all do. */
static int fails(int error, int *at)
{
    if (error == 0 || (*at != 0 && --*at != 0))
        return 0;
    errno = error;
    return 1;
}

static void put(const char *name, const char *text)
{
    FILE *file = fopen(name, "wb");

    CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

static int moves_on(int fd, off_t at, size_t *bytes)
{
    if (++calls % 5 == 0) {
        errno = EINTR;
        return 0;
    }
    if (calls % 7 == 0)
        *bytes = (*bytes + 1) / 2;
    return lseek(fd, at, SEEK_SET) == at;
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t at)
{
    ssize_t n;

    if (fails(write_errno, &write_at))
        return -1;
    if (signal_at != 0 && --signal_at == 0) {
        CHECK(raise(signal_number) == 0);
        written = 0;
    }
    n = moves_on(fd, at, &bytes) ? write(fd, data, bytes) : -1;
    if (n > 0)
        written += (unsigned long long)n;
    return n;
}

ssize_t pread(int fd, void *data, size_t bytes, off_t at)
{
    int always = 0;

    if (fails(read_errno, &always))
        return -1;
    return moves_on(fd, at, &bytes) ? read(fd, data, bytes) : -1;
}

int fsync(int fd)
{
    if (fails(sync_errno, &sync_at))
        return -1;
    return fcntl(fd, F_GETFD) < 0 ? -1 : 0;
}

int fdatasync(int fd)
{
    return fsync(fd);
}

int stat(const char *name, struct stat *status)
{
    if (finished)
        CHECK(rename(made_new, made) == 0);
    if (finished == 2)
        put(made_new, "the next one");
    return fstatat(AT_FDCWD, name, status, 0);
}

/* ---- a log in a file ---- */

struct in_file {
    msc4203_file file;
    msc4203_storage storage;
    msc4203_log log;
    msc4203_queue queue;
    void *index;
    size_t index_bytes;
    uint64_t openings;
};

static int in_file_open(struct in_file *f)
{
    int result = msc4203_file_open(&f->file, path, 1, &f->storage);
    msc4203_log_config config;

    if (result != MSC4203_OK)
        return result;
    result = msc4203_log_inspect(&f->log, &f->storage, &config);
    if (result != MSC4203_OK)
        return result;
    CHECK(config.sector == 4096);
    f->index_bytes = msc4203_log_memory(&f->log, &f->storage, &config);
    free(f->index);
    f->index = malloc(f->index_bytes);
    result = msc4203_log_open(&f->log, &f->storage, f->index, f->index_bytes, 99 + ++f->openings);
    msc4203_log_queue(&f->log, &f->queue);
    return result;
}

static int in_file_reopen(struct contract *c, int crash)
{
    struct in_file *f = (struct in_file *)c->context;

    (void)crash;
    if (test_below(2))
        CHECK(msc4203_log_close(&f->log) == MSC4203_OK);
    CHECK(msc4203_file_close(&f->file) == MSC4203_OK);
    return in_file_open(f);
}

static int exists(const char *name)
{
    return access(name, F_OK) == 0;
}

/* The descriptor that the next open() will get. */
static int lowest_free(void)
{
    int fd = open("/dev/null", O_RDONLY);

    CHECK(fd >= 0 && close(fd) == 0);
    return fd;
}

static int holds(const char *name, const char *text)
{
    size_t bytes;
    char *data = test_read(name, &bytes);
    int same = strcmp(data, text) == 0;

    free(data);
    return same;
}

/* ---- locks ---- */

/* What another process gets when it opens the file for writing; and it can always read it. */
static int elsewhere(void)
{
    int status = -1;
    pid_t child;

    fflush(stdout);
    child = fork();
    if (child == 0) {
        static msc4203_file other, reader;
        msc4203_storage s;
        int result = msc4203_file_open(&other, path, 1, &s);
        int reads = msc4203_file_open(&reader, path, 0, &s);
        _exit(reads != MSC4203_OK          ? 3
              : result == MSC4203_OK       ? 1
              : result == MSC4203_E_LOCKED ? 2
                                           : 3);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
enum { IS_FREE = 1, IS_LOCKED = 2 };

/* Against other processes, and against this one: and whoever is refused, or only reads, and closes
 * what it has opened does not end the lock. */
static void test_lock(void)
{
    static msc4203_file first, second, reader;
    msc4203_storage s, none;
    int fd = lowest_free();

    memset(&none, 0, sizeof none);
    CHECK(elsewhere() == IS_FREE);
    CHECK(msc4203_file_open(&first, path, 1, &s) == MSC4203_OK);
    CHECK(elsewhere() == IS_LOCKED);
    CHECK(msc4203_file_open(&second, path, 1, &s) == MSC4203_E_LOCKED);
    CHECK(memcmp(&s, &none, sizeof s) == 0);
    CHECK(msc4203_file_close(&second) == MSC4203_OK);
    CHECK(elsewhere() == IS_LOCKED);
    CHECK(msc4203_file_open(&reader, path, 0, &s) == MSC4203_OK);
    CHECK(msc4203_file_close(&reader) == MSC4203_OK);
    CHECK(close(open(path, O_RDWR)) == 0);
    CHECK(elsewhere() == IS_LOCKED);
    CHECK(msc4203_file_open(&second, path, 1, &s) == MSC4203_E_LOCKED);
    CHECK(msc4203_file_close(&first) == MSC4203_OK);
    CHECK(elsewhere() == IS_FREE);
    CHECK(msc4203_file_open(&reader, path, 0, &s) == MSC4203_OK); /* a reader locks nobody out */
    CHECK(msc4203_file_open(&second, path, 1, &s) == MSC4203_OK);
    CHECK(msc4203_file_close(&second) == MSC4203_OK);
    CHECK(msc4203_file_close(&reader) == MSC4203_OK);
    CHECK(lowest_free() == fd);
}

/* ---- making one ---- */

static int create(uint64_t bytes, const msc4203_log_config *config)
{
    static msc4203_file file;
    int fd = lowest_free(), result, error;

    errno = 0;
    result = msc4203_file_create(&file, made, bytes, config, 1);
    error = errno;
    CHECK(lowest_free() == fd);
    errno = error;
    return result;
}

/* It fails with this errno, and nothing is there that was not there before. */
static void create_fails(int line, uint64_t bytes, const msc4203_log_config *config, int error)
{
    char text[64];
    int there = exists(made);

    snprintf(text, sizeof text, "line %d", line);
    CHECK_CASE(create(bytes, config) == MSC4203_E_STORAGE, text);
    CHECK_CASE(errno == error, text);
    CHECK_CASE(!exists(made_new), text);
    CHECK_CASE(exists(made) == there, text);
}
#define CREATE_FAILS(bytes, config, error) create_fails(__LINE__, bytes, config, error)

/* What can't be is refused before anything is made or written. */
static void test_create_checks(const msc4203_log_config *config)
{
    msc4203_log_config odd = *config;

    put(made_new, "not touched");
    CHECK(create(1000, config) == MSC4203_E_REGION);
    CHECK(create((uint64_t)100 << 30, config) == MSC4203_E_REGION);
    CHECK(create((uint64_t)100 << 30, NULL) == MSC4203_E_REGION);
    odd.sector = 5000;
    CHECK(create(REGION, &odd) == MSC4203_E_REGION);
    CHECK(holds(made_new, "not touched") && !exists(made));
    CHECK(unlink(made_new) == 0);
    CHECK(create(1000, config) == MSC4203_E_REGION);
    CHECK(!exists(made_new) && !exists(made));
}

/* The log that it makes. */
static void test_created(const msc4203_log_config *config)
{
    static const uint32_t sectors[] = {0, 512, 4096, 16384};
    static msc4203_file file;
    msc4203_log_config asked = *config, found;
    msc4203_storage s;
    msc4203_log log;
    struct stat status;
    size_t i;

    memset(&status, 0, sizeof status); /* MSan does not know stat() */
    for (i = 0; i < 4; i++) {
        asked.sector = sectors[i];
        CHECK(create(2 * REGION, &asked) == MSC4203_OK);
        CHECK(stat(made, &status) == 0 && (status.st_mode & 0777) == 0600);
        CHECK(status.st_size == 2 * REGION && status.st_blocks * 512 >= 2 * REGION);
        CHECK(!exists(made_new));
        CHECK(msc4203_file_open(&file, made, 1, &s) == MSC4203_OK);
        CHECK(s.bytes == 2 * REGION && s.sector == 4096 && s.block == 0);
        CHECK(msc4203_log_inspect(&log, &s, &found) == MSC4203_OK);
        CHECK(found.sector == (i == 3 ? 16384u : 4096u) && found.devices == config->devices);
        CHECK(msc4203_file_close(&file) == MSC4203_OK);
    }
    CHECK(create(REGION, config) == MSC4203_OK); /* takes the other's place */
    CHECK(stat(made, &status) == 0 && status.st_size == REGION);
    CHECK(msc4203_file_open(&file, made, 0, &s) == MSC4203_OK);
    CHECK(msc4203_log_inspect(&log, &s, &found) == MSC4203_OK);
    CHECK(msc4203_file_close(&file) == MSC4203_OK);
    CHECK(create(16 << 20, NULL) == MSC4203_OK && unlink(made) == 0);
    /* in the folder where one is */
    CHECK(chdir("build/test") == 0);
    CHECK(msc4203_file_create(&file, "made.log", REGION, config, 1) == MSC4203_OK);
    CHECK(chdir("../..") == 0 && unlink(made) == 0);
    /* what a crash left is no part of it */
    put(made_new, "left over");
    CHECK(truncate(made_new, 4 * REGION) == 0);
    CHECK(create(REGION, config) == MSC4203_OK && !exists(made_new));
    CHECK(stat(made, &status) == 0 && status.st_size == REGION && !holds(made, "left over"));
    CHECK(unlink(made) == 0);
}

/* Each write and each sync that can fail. What had that name stays then, but for the last sync. */
static void test_create_fails(const msc4203_log_config *config)
{
    struct rlimit limit, few;
    int i;

    for (i = 0; i < 400; i += 1 + i / 10) {
        write_errno = ENOSPC;
        write_at = i;
        CREATE_FAILS(REGION, config, ENOSPC);
    }
    write_at = 1 << 30; /* the last: counted by those before it */
    CHECK(create(REGION, config) == MSC4203_OK);
    i = (1 << 30) - write_at;
    CHECK(i > 256 && unlink(made) == 0);
    write_at = i;
    CREATE_FAILS(REGION, config, ENOSPC);
    write_errno = 0;
    for (i = 1;; i++) {
        sync_errno = EIO;
        sync_at = i;
        if (create(REGION, config) == MSC4203_OK)
            break;
        CHECK(errno == EIO && sync_at == 0);
        CHECK(!exists(made) && !exists(made_new));
    }
    CHECK(i > 3 && sync_at == 1); /* the log's, the file's, its folder's */
    sync_errno = EINVAL;          /* folders of some file systems */
    sync_at = i - 1;
    CHECK(create(REGION, config) == MSC4203_OK && sync_at == 0);
    sync_errno = 0;
    put(made, "before");
    write_errno = EDQUOT;
    write_at = 100;
    CREATE_FAILS(REGION, config, EDQUOT);
    write_errno = 0;
    CHECK(holds(made, "before") && unlink(made) == 0);
    /* the system's own limits */
    if (!CHECK(getrlimit(RLIMIT_FSIZE, &limit) == 0))
        return;
    few = limit;
    few.rlim_cur = 100000;
    CHECK(signal(SIGXFSZ, SIG_IGN) != SIG_ERR && setrlimit(RLIMIT_FSIZE, &few) == 0);
    CREATE_FAILS(REGION, config, EFBIG);
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0 && signal(SIGXFSZ, SIG_DFL) != SIG_ERR);
    if (!CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0))
        return;
    for (i = 0; i < 2; i++) { /* too few descriptors for its folder, and for itself */
        static msc4203_file file;
        few = limit;
        few.rlim_cur = (rlim_t)(lowest_free() + i);
        CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
        CHECK(msc4203_file_create(&file, made, REGION, config, 1) == MSC4203_E_STORAGE);
        CHECK(errno == EMFILE);
        CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
        CHECK(!exists(made) && !exists(made_new));
    }
}

/* Names that won't do, and what is in the way. */
static void test_create_names(const msc4203_log_config *config)
{
    static msc4203_file file;
    static char long_path[1100];
    msc4203_storage s;
    int fd;

    memset(long_path, 'x', 1017);
    errno = 0;
    CHECK(msc4203_file_create(&file, long_path, REGION, config, 1) == MSC4203_E_STORAGE);
    CHECK(errno == ENAMETOOLONG);
    long_path[1016] = 0; /* this the system finds too long */
    CHECK(msc4203_file_create(&file, long_path, REGION, config, 1) == MSC4203_E_STORAGE);
    CHECK(errno == ENAMETOOLONG);
    CHECK(msc4203_file_create(&file, "build/no such folder/file.log", REGION, config, 1) ==
          MSC4203_E_STORAGE);
    CHECK(errno == ENOENT);
    CHECK(msc4203_file_create(&file, "/dev/null/no/made.log", REGION, config, 1) ==
          MSC4203_E_STORAGE);
    CHECK(errno == ENOTDIR);
    CHECK(mkdir(made, 0700) == 0);
    CREATE_FAILS(REGION, config, EISDIR);
    CHECK(msc4203_file_open(&file, made, 1, &s) == MSC4203_E_STORAGE && errno == EISDIR);
    CHECK(rmdir(made) == 0 && mkdir(made_new, 0700) == 0);
    CHECK(create(REGION, config) == MSC4203_E_STORAGE && errno == EISDIR);
    CHECK(rmdir(made_new) == 0 && mkfifo(made_new, 0600) == 0);
    CREATE_FAILS(REGION, config, EINVAL);
    put("build/test/target", "not touched"); /* a link leads nowhere else */
    CHECK(symlink("target", made_new) == 0);
    CHECK(create(REGION, config) == MSC4203_E_STORAGE && errno == ELOOP);
    CHECK(holds("build/test/target", "not touched") && unlink(made_new) == 0);
    CHECK(unlink("build/test/target") == 0);
    fd = lowest_free();
    CHECK(mkfifo(made, 0600) == 0);
    CHECK(msc4203_file_open(&file, made, 1, &s) == MSC4203_E_STORAGE && errno == ESPIPE);
    CHECK(lowest_free() == fd);
    CHECK(msc4203_file_close(&file) == MSC4203_OK && unlink(made) == 0);
}

/* Somebody else is making it, in this process or another one; or has just finished. */
static void test_create_twice(const msc4203_log_config *config)
{
    static msc4203_file other;
    msc4203_storage s;

    put(made_new, "somebody else's");
    CHECK(msc4203_file_open(&other, made_new, 1, &s) == MSC4203_OK);
    CHECK(create(REGION, config) == MSC4203_E_LOCKED);
    CHECK(holds(made_new, "somebody else's") && !exists(made));
    CHECK(msc4203_file_close(&other) == MSC4203_OK);
    finished = 1;
    CHECK(create(REGION, config) == MSC4203_E_LOCKED);
    CHECK(!exists(made_new) && holds(made, "somebody else's"));
    put(made_new, "somebody else's");
    finished = 2;
    CHECK(create(REGION, config) == MSC4203_E_LOCKED);
    finished = 0;
    CHECK(holds(made_new, "the next one") && holds(made, "somebody else's"));
    CHECK(create(REGION, config) == MSC4203_OK && unlink(made) == 0);
}

/* A blocked signal that asks for an end is seen before much more is written. */
static void test_interrupted(const msc4203_log_config *config)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGUSR1};
    const uint64_t bytes = 10 << 20;
    sigset_t set, before;
    size_t i;
    int at, got;

    CHECK(sigemptyset(&set) == 0);
    for (i = 0; i < 3; i++)
        CHECK(sigaddset(&set, numbers[i]) == 0);
    CHECK(sigprocmask(SIG_BLOCK, &set, &before) == 0);
    for (i = 0; i < 3; i++)
        for (at = 0; at < 5000; at += 1700) {
            written = 0;
            signal_number = numbers[i];
            signal_at = at;
            if (at == 0)
                CHECK(raise(numbers[i]) == 0);
            if (numbers[i] == SIGUSR1) {
                CHECK(create(bytes, config) == MSC4203_OK && unlink(made) == 0);
            } else {
                CREATE_FAILS(bytes, config, EINTR);
                CHECK(at == 0 ? written == 0 : written <= 4 << 20);
            }
            got = 0;
            CHECK(signal_at == 0 && sigwait(&set, &got) == 0 && got == numbers[i]);
        }
    CHECK(sigprocmask(SIG_SETMASK, &before, NULL) == 0);
}

/* ---- the storage alone ---- */

static void test_storage(void)
{
    static const char *const plain = "build/test/plain";
    static msc4203_file file;
    static unsigned char data[100000], back[100000];
    msc4203_storage s;
    size_t i;

    for (i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)(i * 7 >> 3);
    CHECK(msc4203_file_open(&file, "build/test/nowhere", 1, &s) == MSC4203_END);
    CHECK(msc4203_file_close(&file) == MSC4203_OK);
    put(plain, "");
    CHECK(truncate(plain, 100000) == 0);
    CHECK(msc4203_file_open(&file, plain, 1, &s) == MSC4203_OK);
    CHECK(s.version == 1 && s.bytes == 100000 && s.sector == 4096 && s.block == 0);
    CHECK(s.memory == NULL && s.erase == NULL);
    CHECK(s.write(s.context, 0, data, 50000) == 0);
    CHECK(s.write(s.context, 50000, data + 50000, 50000) == 0);
    CHECK(s.sync(s.context) == 0);
    for (i = 0; i < 40; i++) {
        size_t at = test_below(100000), n = test_below(100000 - at);
        CHECK(s.read(s.context, at, back, n) == 0 && memcmp(back, data + at, n) == 0);
    }
    CHECK(truncate(plain, 70000) == 0); /* what is missing reads as zeros */
    memset(back, 1, sizeof back);
    CHECK(s.read(s.context, 0, back, 100000) == 0 && memcmp(back, data, 70000) == 0);
    for (i = 70000; i < 100000 && back[i] == 0; i++)
        ;
    CHECK(i == 100000);
    back[0] = 1;
    CHECK(s.read(s.context, 90000, back, 10) == 0 && back[0] == 0);
    read_errno = EIO;
    CHECK(s.read(s.context, 0, back, 10) != 0 && errno == EIO);
    read_errno = 0;
    CHECK(s.read(s.context, 0, back, 10) == 0); /* to read again does no harm */
    CHECK(msc4203_file_close(&file) == MSC4203_OK);
    CHECK(msc4203_file_close(&file) == MSC4203_OK);
    for (i = 0; i < 2; i++) { /* after a failed write or sync, not even when it works again */
        CHECK(msc4203_file_open(&file, plain, 1, &s) == MSC4203_OK);
        write_errno = i == 0 ? EIO : 0;
        sync_errno = i == 1 ? EIO : 0;
        CHECK(i == 0 ? s.write(s.context, 0, data, 10) != 0 : s.sync(s.context) != 0);
        CHECK(errno == EIO);
        write_errno = sync_errno = 0;
        CHECK(s.sync(s.context) != 0);
        CHECK(s.write(s.context, 0, data, 10) != 0);
        CHECK(s.read(s.context, 0, back, 10) != 0);
        CHECK(msc4203_file_close(&file) == MSC4203_E_STORAGE);
        CHECK(msc4203_file_close(&file) == MSC4203_E_STORAGE);
    }
    CHECK(msc4203_file_open(&file, plain, 1, &s) == MSC4203_OK);
    CHECK(close(file.priv.fd) == 0);
    CHECK(msc4203_file_close(&file) == MSC4203_E_STORAGE);
    CHECK(msc4203_file_open(&file, plain, 0, &s) == MSC4203_OK); /* only for reading */
    CHECK(s.write == NULL && s.bytes == 70000);
    CHECK(s.read(s.context, 0, back, 70000) == 0 && memcmp(back, data, 70000) == 0);
    CHECK(msc4203_file_close(&file) == MSC4203_OK);
    CHECK(unlink(plain) == 0);
}

int main(void)
{
    static struct in_file f;
    static struct contract c;
    msc4203_log_config config, other;
    msc4203_log_usage usage;
    unsigned long operations = 2000 * test_scale() / test_share();

    test_seed(0xF11E);
    unlink(path);
    unlink(made);
    unlink(made_new);
    CHECK(sizeof(msc4203_file) <= 4096 + sizeof f.file.priv.name);
    CHECK(in_file_open(&f) == MSC4203_END);
    memset(&config, 0, sizeof config);
    config.devices = 16;
    config.requests = CONTRACT_REQUESTS;
    config.openings = 8;
    config.message_bytes = 2000;
    test_storage();
    test_create_checks(&config);
    test_created(&config);
    test_create_fails(&config);
    test_create_names(&config);
    test_create_twice(&config);
    test_interrupted(&config);
    CHECK(msc4203_file_create(&f.file, path, REGION, &config, 1) == MSC4203_OK);
    test_lock();
    CHECK(in_file_open(&f) == MSC4203_OK);
    c.queue = &f.queue;
    c.context = &f;
    c.reopen = in_file_reopen;
    contract_begin(&c);
    contract_run(&c, operations < 100 ? 100 : operations, 499); /* it leaves messages */
    contract_last_time(&c);
    printf("file: %lu operations, %lu messages\n", c.operations, c.messages_kept);
    msc4203_log_usage_get(&f.log, &usage);
    CHECK(usage.damaged == 0);
    CHECK(msc4203_log_close(&f.log) == MSC4203_OK);
    CHECK(f.queue.flush(f.queue.context) == MSC4203_E_STORAGE);
    CHECK(msc4203_file_close(&f.file) == MSC4203_OK);
    /* another size than it was made with */
    CHECK(truncate(path, REGION - 5000) == 0);
    CHECK(in_file_open(&f) == MSC4203_E_REGION);
    CHECK(msc4203_log_inspect(&f.log, &f.storage, &other) == MSC4203_E_REGION);
    CHECK(other.bytes == REGION && msc4203_file_close(&f.file) == MSC4203_OK);
    CHECK(truncate(path, REGION + 5000) == 0);
    CHECK(in_file_open(&f) == MSC4203_E_REGION);
    CHECK(msc4203_file_close(&f.file) == MSC4203_OK);
    unlink(path);
    free(f.index);
    return test_end("file");
}
