/* test.h - what every test program shares: counting, scaling, random numbers, files.
 *
 * A test program is one file test/test_NAME.c, linked with msc4203.c. It calls CHECK() as often as
 * it likes and ends with `return test_end("NAME");`, which prints `NAME: N passed, N failed` and
 * returns 1 when anything failed. TEST_SCALE (an environment variable, default 1) makes a suite run
 * longer: multiply the number of random cases by test_scale(). TEST_SHARE (default 1) makes it
 * shorter, for slow machines and instrumented builds: do one case in test_share() of what is
 * exhaustive or many. TEST_SEED sets the random seed. */
#ifndef TEST_H
#define TEST_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__)
#define TEST_UNUSED __attribute__((unused))
#else
#define TEST_UNUSED
#endif

static unsigned long test_passed, test_failed;

/* Counts a check; a failure is printed with its place, the first fifty of them. */
#define CHECK(condition) test_check((condition) != 0, __FILE__, __LINE__, #condition, "")
/* The same with a string that says which case it was. */
#define CHECK_CASE(condition, text) \
    test_check((condition) != 0, __FILE__, __LINE__, #condition, (text))

static TEST_UNUSED int test_check(int ok, const char *file, int line, const char *what,
                                  const char *text)
{
    if (ok) {
        test_passed++;
        return 1;
    }
    if (test_failed++ < 50)
        printf("%s:%d: failed: %s%s%s\n", file, line, what, *text ? " in " : "", text);
    return 0;
}

static TEST_UNUSED int test_end(const char *name)
{
    printf("%s: %lu passed, %lu failed\n", name, test_passed, test_failed);
    return test_failed != 0;
}

static TEST_UNUSED unsigned long test_scale(void)
{
    const char *scale = getenv("TEST_SCALE");
    unsigned long n = scale ? strtoul(scale, NULL, 10) : 1;
    return n ? n : 1;
}

static TEST_UNUSED unsigned long test_share(void)
{
    const char *share = getenv("TEST_SHARE");
    unsigned long n = share ? strtoul(share, NULL, 10) : 1;
    return n ? n : 1;
}

/* Random numbers: xorshift64*, the same on every machine for one seed. */
static uint64_t test_state = 0x4203;

static TEST_UNUSED void test_seed(uint64_t seed)
{
    const char *given = getenv("TEST_SEED");
    test_state = given ? strtoull(given, NULL, 10) : seed;
    if (!test_state)
        test_state = 1;
}

static TEST_UNUSED uint64_t test_random(void)
{
    test_state ^= test_state >> 12;
    test_state ^= test_state << 25;
    test_state ^= test_state >> 27;
    return test_state * UINT64_C(2685821657736338717);
}

/* From 0 to n - 1. With TEST_BELOW, the program has its own: a fuzz target, whose input decides. */
#ifdef TEST_BELOW
static size_t test_below(size_t n);
#else
static TEST_UNUSED size_t test_below(size_t n)
{
    return n ? (size_t)((test_random() >> 16) % n) : 0;
}
#endif

/* The tests run in the project's folder: "test/data/...". Returns a malloc'ed copy (with a NUL
 * after it) of the whole file and sets *size; ends the program when that fails. */
static TEST_UNUSED char *test_read(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    char *data = NULL;
    size_t used = 0, room = 0, n;
    if (!file) {
        printf("cannot open %s\n", path);
        exit(2);
    }
    do {
        if (room - used < 65536) {
            room = room * 2 + 131072;
            data = (char *)realloc(data, room);
            if (!data)
                exit(2);
        }
        n = fread(data + used, 1, room - used - 1, file);
        used += n;
    } while (n);
    fclose(file);
    data[used] = 0;
    *size = used;
    return data;
}

#endif
