/* test_file.c - the log in a file: made, locked, read again, broken off; the same model as in
 * test_log.c. */
#define _POSIX_C_SOURCE 200809L
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

/* ---- system calls that are interrupted, do a part, or fail: in the place of libc's ---- */

static unsigned long calls;
static int write_errno, read_errno;
static int sync_errno, sync_at; /* sync_at: the call, counted down, that fails; 0 all */

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
    if (write_errno != 0) {
        errno = write_errno;
        return -1;
    }
    return moves_on(fd, at, &bytes) ? write(fd, data, bytes) : -1;
}

ssize_t pread(int fd, void *data, size_t bytes, off_t at)
{
    if (read_errno != 0) {
        errno = read_errno;
        return -1;
    }
    return moves_on(fd, at, &bytes) ? read(fd, data, bytes) : -1;
}

int fsync(int fd)
{
    if (sync_errno != 0 && (sync_at == 0 || --sync_at == 0)) {
        errno = sync_errno;
        return -1;
    }
    return fcntl(fd, F_GETFD) < 0 ? -1 : 0;
}

int fdatasync(int fd)
{
    return fsync(fd);
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
    f->index_bytes = msc4203_log_memory(&f->log, &config, f->storage.bytes);
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

/* Another process can't open it for writing, and can read it. */
static void test_lock(void)
{
    int status = -1;
    pid_t child;

    fflush(stdout);
    child = fork();
    if (child == 0) {
        static struct in_file other;
        int result = msc4203_file_open(&other.file, path, 1, &other.storage);
        int reads = msc4203_file_open(&other.file, path, 0, &other.storage);
        _exit(result == MSC4203_E_LOCKED && reads == MSC4203_OK ? 0 : 1);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* The tool prints it and, with a byte changed, says what is damaged. */
static int tool_says(const char *command, const char *last)
{
    char line[512] = "", before[512];
    FILE *pipe = popen(command, "r");
    int status, found;

    if (pipe == NULL)
        return -1;
    do
        strcpy(before, line);
    while (fgets(line, sizeof line, pipe) != NULL && line[0] != 0);
    found = strstr(before, last) != NULL || strstr(line, last) != NULL;
    status = pclose(pipe);
    CHECK_CASE(found, line);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_tool(size_t end)
{
    static unsigned char memory[400000];
    FILE *file;
    long at = 0;
    size_t bytes, i, tries;

    CHECK(tool_says("build/msc4203 log build/test/file.log", " records, 0 damaged") == 0);
    CHECK(tool_says("build/msc4203 log build/test/no.log 2>&1", "no.log: ") == 2);
    CHECK(tool_says("build/msc4203 log Makefile 2>&1", "not a log") == 1);
    file = fopen(path, "r+b");
    if (file == NULL) {
        CHECK(!"it can be opened");
        return;
    }
    bytes = fread(memory, 1, sizeof memory, file);
    for (i = end, tries = bytes; tries != 0 && at == 0; tries--) { /* the last one's sender */
        i = i == 0 ? bytes - 24 : i - 1;
        if (memcmp(memory + i, "@sender:gw.examplem.room.enc", 18) == 0)
            at = (long)i;
    }
    CHECK(at != 0 && fseek(file, at, SEEK_SET) == 0 && fputc('$', file) == '$');
    CHECK(fclose(file) == 0);
    CHECK(tool_says("build/msc4203 log build/test/file.log", " records, 1 damaged") == 1);
}

/* Each system call that can fail while one is made. */
static void test_create(const msc4203_log_config *config)
{
    static msc4203_file file;
    static char long_path[1100];
    const char *name = "build/test/made.log", *new_name = "build/test/made.log.new";
    msc4203_storage storage;
    struct rlimit limit, few;
    int i, fd, status, pipes[2];
    pid_t child;
    char byte;

    memset(long_path, 'x', 1017);
    errno = 0;
    CHECK(msc4203_file_create(&file, long_path, 96 * 1024, config, 1) == MSC4203_E_STORAGE);
    CHECK(errno == ENAMETOOLONG);
    long_path[1016] = 0; /* this the system finds too long */
    CHECK(msc4203_file_create(&file, long_path, 96 * 1024, config, 1) == MSC4203_E_STORAGE);
    CHECK(unlink(name) == 0 || errno == ENOENT);
    for (i = 0; i < 2; i++) {
        write_errno = ENOSPC;
        CHECK(msc4203_file_create(&file, name, (96 - 56 * (unsigned)i) * 1024, config, 1) ==
              MSC4203_E_STORAGE);
        write_errno = 0;
        CHECK(access(name, F_OK) != 0 && access(new_name, F_OK) != 0);
    }
    for (i = 1; i <= 4; i++) { /* two for the log, one for the file, one for its folder */
        sync_errno = EIO;
        sync_at = i;
        CHECK(msc4203_file_create(&file, name, 96 * 1024, config, 1) == MSC4203_E_STORAGE);
        CHECK(sync_at == 0);
        CHECK((access(name, F_OK) == 0) == (i == 4));
    }
    CHECK(unlink(name) == 0);
    sync_errno = EINVAL; /* folders of some file systems */
    sync_at = 4;
    CHECK(msc4203_file_create(&file, name, 96 * 1024, config, 1) == MSC4203_OK);
    CHECK(sync_at == 0);
    sync_errno = 0;
    /* the folder cannot be opened: no descriptor is left */
    fd = open(name, O_RDONLY);
    CHECK(fd >= 0 && close(fd) == 0);
    if (!CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0))
        return;
    few = limit;
    few.rlim_cur = (rlim_t)fd + 1;
    CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
    CHECK(msc4203_file_create(&file, name, 96 * 1024, config, 1) == MSC4203_E_STORAGE);
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    /* in the way: a folder of that name, something that is no file */
    CHECK(unlink(name) == 0 && mkdir(name, 0700) == 0);
    CHECK(msc4203_file_create(&file, name, 96 * 1024, config, 1) == MSC4203_E_STORAGE);
    CHECK(msc4203_file_open(&file, name, 1, &storage) == MSC4203_E_STORAGE && errno == EISDIR);
    CHECK(rmdir(name) == 0 && unlink(new_name) == 0);
    CHECK(mkfifo(new_name, 0600) == 0);
    CHECK(msc4203_file_create(&file, name, 96 * 1024, config, 1) == MSC4203_E_STORAGE);
    CHECK(mkfifo(name, 0600) == 0);
    CHECK(msc4203_file_open(&file, name, 1, &storage) == MSC4203_E_STORAGE && errno == ESPIPE);
    CHECK(msc4203_file_close(&file) == MSC4203_OK && unlink(name) == 0);
    /* another process is at it */
    fflush(stdout);
    CHECK(pipe(pipes) == 0);
    child = fork();
    if (child == 0) {
        struct flock lock;

        memset(&lock, 0, sizeof lock);
        lock.l_type = F_WRLCK;
        lock.l_whence = SEEK_SET;
        fd = open(new_name, O_RDWR | O_CREAT, 0600);
        _exit(fcntl(fd, F_SETLK, &lock) == 0 && write(pipes[1], "x", 1) == 1 && pause() ? 0 : 1);
    }
    CHECK(read(pipes[0], &byte, 1) == 1);
    CHECK(msc4203_file_create(&file, name, 96 * 1024, config, 1) == MSC4203_E_LOCKED);
    CHECK(access(new_name, F_OK) == 0 && access(name, F_OK) != 0);
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
    CHECK(close(pipes[0]) == 0 && close(pipes[1]) == 0);
    CHECK(msc4203_file_create(&file, name, 96 * 1024, config, 1) == MSC4203_OK);
    CHECK(unlink(name) == 0);
    /* in the folder where one is */
    CHECK(chdir("build/test") == 0);
    CHECK(msc4203_file_create(&file, "made.log", 96 * 1024, config, 1) == MSC4203_OK);
    CHECK(chdir("../..") == 0 && unlink(name) == 0);
    CHECK(msc4203_file_create(&file, "/dev/null/no/made.log", 96 * 1024, config, 1) ==
          MSC4203_E_STORAGE);
}

/* The storage alone: what is held back, what is read over it, and calls that fail. */
static void test_storage(void)
{
    static msc4203_file file;
    static unsigned char data[400000], back[400000];
    msc4203_storage s;
    int i, fd;

    for (i = 0; i < 400000; i++)
        data[i] = (unsigned char)(i * 7 >> 3);
    CHECK(msc4203_file_open(&file, path, 0, &s) == MSC4203_OK && s.bytes == 96 * 1024);
    CHECK(s.read(s.context, s.bytes - 10, back, 10) == 0);
    CHECK(s.write(s.context, 0, data, 10) == 0 && s.sync(s.context) != 0); /* only for reading */
    CHECK(msc4203_file_close(&file) == MSC4203_E_STORAGE);
    CHECK(msc4203_file_close(&file) == MSC4203_E_STORAGE);
    fd = open("build/test/plain", O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && ftruncate(fd, 400000) == 0 && close(fd) == 0);
    CHECK(msc4203_file_open(&file, "build/test/plain", 1, &s) == MSC4203_OK);
    CHECK(s.write(s.context, 0, data, 100000) == 0);          /* several lines */
    CHECK(s.write(s.context, 100000, data + 100000, 10) == 0); /* held in one */
    CHECK(s.write(s.context, 100010, data + 100010, 10) == 0); /* behind it */
    CHECK(s.write(s.context, 100005, data + 100005, 5) == 0);  /* in it */
    CHECK(s.write(s.context, 5, data + 5, 5) == 0);            /* elsewhere, before */
    CHECK(s.write(s.context, 150000, data + 150000, 250000) == 0); /* and behind */
    CHECK(s.read(s.context, 100002, back, 10) == 0 && memcmp(back, data + 100002, 10) == 0);
    CHECK(s.read(s.context, 99990, back, 10) == 0 && memcmp(back, data + 99990, 10) == 0);
    CHECK(s.read(s.context, 100020, back, 10) == 0);
    CHECK(s.read(s.context, 99995, back, 10) == 0 && memcmp(back, data + 99995, 10) == 0);
    CHECK(s.write(s.context, 100020, data + 100020, 49980) == 0);
    CHECK(s.read(s.context, 149990, back, 20) == 0 && memcmp(back, data + 149990, 20) == 0);
    CHECK(s.write(s.context, 1000, data + 1000, 20) == 0);
    CHECK(s.write(s.context, 990, data + 990, 20) == 0); /* over its beginning */
    CHECK(s.write(s.context, 1005, data + 1005, 65536) == 0); /* more than there is room for */
    CHECK(s.sync(s.context) == 0);
    CHECK(s.read(s.context, 0, back, 400000) == 0 && memcmp(back, data, 400000) == 0);
    read_errno = EIO;
    CHECK(s.read(s.context, 0, back, 10) != 0);
    read_errno = 0;
    CHECK(s.read(s.context, 0, back, 10) == 0); /* to read again does no harm */
    CHECK(s.write(s.context, 20000, back, 9) == 0); /* of a line that is not held */
    read_errno = EIO;
    CHECK(s.read(s.context, 20000, back, 9) == 0); /* nor needs to be */
    CHECK(s.read(s.context, 19999, back, 9) != 0);
    CHECK(s.read(s.context, 20001, back, 9) != 0);
    CHECK(s.write(s.context, 20010, back, 9) != 0); /* but for what is between */
    CHECK(s.write(s.context, 19980, back, 9) != 0);
    read_errno = 0;
    CHECK(s.write(s.context, 20000, data + 20000, 9) == 0);
    CHECK(s.read(s.context, 19990, back, 30) == 0 && memcmp(back, data + 19990, 30) == 0);
    CHECK(msc4203_file_close(&file) == MSC4203_OK);
    CHECK(msc4203_file_close(&file) == MSC4203_OK);
    for (i = 0; i < 4; i++) {
        CHECK(msc4203_file_open(&file, "build/test/plain", 1, &s) == MSC4203_OK);
        CHECK(s.write(s.context, 1000, data, 20) == 0);
        write_errno = i == 3 ? 0 : EIO;
        sync_errno = i == 3 ? EIO : 0;
        CHECK(i == 1   ? s.write(s.context, 263144, data, 20) != 0 /* needs the line's place */
              : i == 2 ? s.read(s.context, 263144, back, 20) != 0
                       : s.sync(s.context) != 0);
        CHECK(s.write(s.context, 10, data, 20) != 0);
        CHECK(s.sync(s.context) != 0);
        write_errno = sync_errno = 0;
        CHECK(s.sync(s.context) != 0); /* not even when it works again */
        CHECK(s.write(s.context, 10, data, 20) != 0);
        CHECK(msc4203_file_close(&file) == MSC4203_E_STORAGE);
    }
    CHECK(msc4203_file_open(&file, "build/test/plain", 1, &s) == MSC4203_OK);
    CHECK(close(file.priv.fd) == 0);
    CHECK(msc4203_file_close(&file) == MSC4203_E_STORAGE);
    CHECK(msc4203_file_open(&file, "build/test/plain", 1, &s) == MSC4203_OK);
    CHECK(s.write(s.context, 1000, data, 20) == 0);
    write_errno = EDQUOT;
    CHECK(msc4203_file_close(&file) == MSC4203_E_STORAGE);
    write_errno = 0;
    CHECK(unlink("build/test/plain") == 0);
}

int main(void)
{
    static struct in_file f;
    static struct contract c;
    msc4203_log_config config;
    struct stat status;
    unsigned long operations = 2000 * test_scale() / test_share();
    size_t end;

    memset(&status, 0, sizeof status); /* MSan does not know stat() */
    test_seed(0xF11E);
    unlink(path);
    CHECK(in_file_open(&f) == MSC4203_END);
    memset(&config, 0, sizeof config);
    config.devices = 16;
    config.requests = CONTRACT_REQUESTS;
    config.openings = 8;
    config.message_bytes = 2000;
    CHECK(msc4203_file_create(&f.file, path, 1000, &config, 1) == MSC4203_E_REGION);
    CHECK(in_file_open(&f) == MSC4203_END);
    CHECK(msc4203_file_create(&f.file, path, 96 * 1024, &config, 1) == MSC4203_OK);
    CHECK(access("build/test/file.log.new", F_OK) != 0);
    CHECK(stat(path, &status) == 0 && (status.st_mode & 0777) == 0600);
    CHECK(status.st_size == 96 * 1024 && status.st_blocks * 512 >= 96 * 1024);
    CHECK(msc4203_file_create(&f.file, "build/no such folder/file.log", 96 * 1024, &config, 1) ==
          MSC4203_E_STORAGE);
    test_storage();
    test_create(&config);
    CHECK(in_file_open(&f) == MSC4203_OK);
    test_lock();
    c.queue = &f.queue;
    c.context = &f;
    c.reopen = in_file_reopen;
    contract_begin(&c);
    contract_run(&c, operations < 100 ? 100 : operations, 499); /* it leaves messages */
    contract_last_time(&c);
    printf("file: %lu operations, %lu messages, ring round %lu times\n", c.operations,
           c.messages_kept, (unsigned long)(f.log.priv.base / f.log.priv.units));
    CHECK(f.log.priv.damaged == 0);
    contract_open_batch(&c, &c.batches[0]);
    CHECK(contract_push(&c, &c.batches[0]));
    contract_commit(&c, &c.batches[0]);
    contract_flush(&c);
    end = (size_t)(f.log.priv.ring_at + (uint64_t)(f.log.priv.end - f.log.priv.base) * 8);
    CHECK(msc4203_log_close(&f.log) == MSC4203_OK);
    CHECK(f.queue.flush(f.queue.context) == MSC4203_E_STORAGE);
    CHECK(msc4203_file_close(&f.file) == MSC4203_OK);
    test_tool(end);
    CHECK(truncate(path, 90000) == 0);
    CHECK(in_file_open(&f) == MSC4203_E_REGION);
    CHECK(msc4203_file_close(&f.file) == MSC4203_OK);
    unlink(path);
    free(f.index);
    return test_end("file");
}
