/* test_file.c - the log in a file: made, locked, read again, broken off; the same model as in
 * test_log.c. */
#define _POSIX_C_SOURCE 200809L
#include "queue_contract.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const path = "build/test/file.log";

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

static void test_tool(void)
{
    static unsigned char memory[400000];
    FILE *file;
    long at = 0;
    size_t bytes, i;

    CHECK(tool_says("build/msc4203 log build/test/file.log", " records, 0 damaged") == 0);
    CHECK(tool_says("build/msc4203 log build/test/no.log 2>&1", "no.log: ") == 2);
    CHECK(tool_says("build/msc4203 log Makefile 2>&1", "not a log") == 1);
    file = fopen(path, "r+b");
    if (!CHECK(file != NULL))
        return;
    bytes = fread(memory, 1, sizeof memory, file);
    for (i = 20000; i + 24 < bytes && at == 0; i++) /* a message's sender */
        if (memcmp(memory + i, "@sender:gw.examplem.room.enc", 18) == 0)
            at = (long)i;
    CHECK(at != 0 && fseek(file, at, SEEK_SET) == 0 && fputc('$', file) == '$');
    CHECK(fclose(file) == 0);
    CHECK(tool_says("build/msc4203 log build/test/file.log", " records, 1 damaged") == 1);
}

int main(void)
{
    static struct in_file f;
    static struct contract c;
    msc4203_log_config config;
    struct stat status;

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
    CHECK(in_file_open(&f) == MSC4203_OK);
    test_lock();
    c.queue = &f.queue;
    c.context = &f;
    c.reopen = in_file_reopen;
    contract_begin(&c);
    contract_run(&c, 2000 * test_scale() / test_share(), 499);
    printf("file: %lu operations, %lu messages, ring round %lu times\n", c.operations,
           c.messages_kept, (unsigned long)(f.log.priv.base / f.log.priv.units));
    CHECK(f.log.priv.damaged == 0);
    CHECK(msc4203_log_close(&f.log) == MSC4203_OK);
    CHECK(f.queue.flush(f.queue.context) == MSC4203_E_STORAGE);
    CHECK(msc4203_file_close(&f.file) == MSC4203_OK);
    test_tool();
    CHECK(truncate(path, 90000) == 0);
    CHECK(in_file_open(&f) == MSC4203_E_REGION);
    CHECK(msc4203_file_close(&f.file) == MSC4203_OK);
    unlink(path);
    free(f.index);
    return test_end("file");
}
