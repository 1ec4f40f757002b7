/* driver.c - replays inputs through one fuzz target, with any compiler and without libFuzzer.
 *
 *     cc -std=c99 -I. fuzz/driver.c fuzz/fuzz_reader.c build/msc4203.o -o build/replay_reader
 *     build/replay_reader build/fuzz/corpus/fuzz_reader      # a folder: every file in it
 *     build/replay_reader crash-0123 crash-4567              # or files
 *
 * prints `FILE: ...` for the first input that breaks a promise, then `fuzz_reader: N passed, N
 * failed`, and returns 1 when one failed or there was none. `sh fuzz/seeds.sh` makes the folders.
 * Needs POSIX. */
#define _POSIX_C_SOURCE 200809L
/* For folders of large file systems, on 32-bit machines. */
#define _FILE_OFFSET_BITS 64
#include "common.h"

#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

static unsigned long passed, failed;
static sigjmp_buf failure;

static void on_signal(int number)
{
    siglongjmp(failure, number);
}

static uint8_t *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data = NULL;
    size_t used = 0, room = 0, n;
    if (!file) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(2);
    }
    do {
        room += room + 65536;
        data = (uint8_t *)realloc(data, room);
        if (!data)
            exit(2);
        n = fread(data + used, 1, room - used, file);
        used += n;
    } while (n);
    fclose(file);
    *size = used;
    return data;
}

/* Returns 0, or the signal that ended it. */
static int run(const uint8_t *data, size_t size)
{
    int number = sigsetjmp(failure, 1);
    if (!number)
        LLVMFuzzerTestOneInput(data, size);
    return number;
}

static int report(void)
{
    printf("%s: %lu passed, %lu failed\n", fuzz_name, passed, failed);
    fflush(stdout);
    return failed || !passed;
}

/* The first input that breaks a promise is the last: what it has done to memory nobody knows. */
static void replay_file(const char *path)
{
    size_t size;
    uint8_t *data = read_file(path, &size);
    /* Not a byte more than it has, so that sanitizers see an overrun. */
    uint8_t *exact = (uint8_t *)fuzz_copy(data, size);
    int number;
    free(data);
    number = run(exact, size);
    if (number) {
        printf("%s: signal %d\n", path, number);
        failed++;
        _exit(report());
    }
    passed++;
    free(exact);
}

static void replay(const char *path);

static void replay_folder(const char *path)
{
    struct dirent **names;
    int i, count = scandir(path, &names, NULL, alphasort);
    if (count < 0) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(2);
    }
    for (i = 0; i < count; i++) {
        size_t bytes = strlen(path) + strlen(names[i]->d_name) + 2;
        if (names[i]->d_name[0] != '.') {
            char *inner = (char *)fuzz_alloc(bytes);
            snprintf(inner, bytes, "%s/%s", path, names[i]->d_name);
            replay(inner);
            free(inner);
        }
        free(names[i]);
    }
    free(names);
}

static void replay(const char *path)
{
    struct stat status;
    memset(&status, 0,
           sizeof status); /* for MemorySanitizer, which does not know all of stat's names */
    if (stat(path, &status) == 0 && S_ISDIR(status.st_mode))
        replay_folder(path);
    else
        replay_file(path);
}

int main(int argc, char **argv)
{
    static char buffer[4096];
    static const int numbers[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    struct sigaction action;
    size_t k;
    int i;
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer); /* printing must not need malloc */
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    for (k = 0; k < sizeof numbers / sizeof *numbers; k++)
        sigaction(numbers[k], &action, NULL);
    for (i = 1; i < argc; i++)
        replay(argv[i]);
    return report();
}
