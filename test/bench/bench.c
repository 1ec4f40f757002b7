/* bench.c - measures reading and writing, this library and others in one process, in turns.
 *
 *     bench DIRECTORY      writes DIRECTORY/bench.md, reading.svg and writing.svg
 *
 * BENCH_ROUNDS (15) is how often each contestant has its turn, BENCH_SECONDS (60) about how long
 * all of it takes. The figures are medians; the ratios are medians of the ratios within a round, so
 * that what else the machine does strikes both sides. Fails when contestants disagree on what they
 * read or wrote, or when one that is said to validate lets a broken body pass; not when one is
 * slow. */
#define _POSIX_C_SOURCE 200112L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chart.h"
#include "test/bench/bodies.h"
#include "test/bench/job.h"
#include "test/bench/measure.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
enum { CONTESTANTS_MAX = 32 };

/* What a contestant does of the job. */
enum { VALIDATES = 1, SPANS = 2, ALL = VALIDATES | SPANS };

typedef struct contestant {
    const char *name;
    job_reader read;
    job_writer write;
    int does;
    int avx2;         /* needs it */
    const char *mark; /* of the chart: c-ours, c-peer, c-less */
    double bytes_per_s[BODY_KINDS], ratio[BODY_KINDS];
} contestant;

static contestant readers[] = {
    {"msc4203.h, AVX2", ours_avx2_whole, NULL, ALL, 1, "ours", {0}, {0}},
    {"msc4203.h, SSE2", ours_vector_whole, NULL, ALL, 0, "ours", {0}, {0}},
    {"msc4203.h, plain C", ours_plain_whole, NULL, ALL, 0, "ours", {0}, {0}},
    {"simdjson, DOM + On-Demand", simdjson_both_read, NULL, ALL, 0, "peer", {0}, {0}},
    {"simdjson, On-Demand, all visited", simdjson_walk_read, NULL, ALL, 0, "peer", {0}, {0}},
    {"simdjson, On-Demand alone (1)", simdjson_ondemand_read, NULL, SPANS, 0, "less", {0}, {0}},
#ifdef BENCH_SERDE
    {"serde_json, from_utf8 + RawValue", serde_read, NULL, ALL, 0, "peer", {0}, {0}},
#endif
    {"RapidJSON, SAX", rapidjson_read, NULL, ALL, 0, "peer", {0}, {0}},
    {"cJSON (2)", cjson_read, NULL, 0, 0, "less", {0}, {0}},
    {"jansson (3)", jansson_read, NULL, VALIDATES, 0, "less", {0}, {0}},
    {"msc4203.h, AVX2, 4 KiB chunks", ours_avx2_4096, NULL, ALL, 1, "ours", {0}, {0}},
    {"msc4203.h, SSE2, 4 KiB chunks", ours_vector_4096, NULL, ALL, 0, "ours", {0}, {0}},
    {"msc4203.h, plain C, 4 KiB chunks", ours_plain_4096, NULL, ALL, 0, "ours", {0}, {0}},
    {"msc4203.h, AVX2, 64-byte chunks", ours_avx2_64, NULL, ALL, 1, "ours", {0}, {0}},
    {"msc4203.h, SSE2, 64-byte chunks", ours_vector_64, NULL, ALL, 0, "ours", {0}, {0}},
    {"msc4203.h, plain C, 64-byte chunks", ours_plain_64, NULL, ALL, 0, "ours", {0}, {0}}};

static contestant writers[] = {
    {"msc4203.h, AVX2", NULL, ours_avx2_write, ALL, 1, "ours", {0}, {0}},
    {"msc4203.h, SSE2", NULL, ours_vector_write, ALL, 0, "ours", {0}, {0}},
    {"msc4203.h, plain C", NULL, ours_plain_write, ALL, 0, "ours", {0}, {0}},
#ifdef BENCH_SERDE
    {"serde_json, RawValue", NULL, serde_write, ALL, 0, "peer", {0}, {0}},
#endif
    {"RapidJSON, SAX + Writer", NULL, rapidjson_write, ALL, 0, "peer", {0}, {0}},
    {"msc4203.h, not validating (4)", NULL, ours_unchecked_write, 0, 0, "less", {0}, {0}},
    {"memcpy of the pieces (5)", NULL, memcpy_write, 0, 0, "less", {0}, {0}}};

static const char notes[] =
    "1. Checks UTF-8, but not the grammar of what it skips. 2. No UTF-8 validation, no spans of "
    "the contents. 3. No spans of the contents. 4. A changed copy, for this measurement alone: "
    "what the validation costs. 5. The strings escaped beforehand: the least that any writer "
    "must do.\n";

/* What each is measured for: at least so many times the speed of another. */
static const struct goal {
    const char *name, *other;
    double least[BODY_KINDS];
} goals[] = {{"msc4203.h, plain C", "simdjson, DOM + On-Demand", {1.5, 1.3, 1.2, 2}},
             {"msc4203.h, SSE2", "simdjson, DOM + On-Demand", {2, 1.35, 1.25, 4}},
             {"msc4203.h, AVX2", "simdjson, DOM + On-Demand", {2.2, 1.45, 1.3, 5}},
             {"msc4203.h, plain C, 4 KiB chunks", "msc4203.h, plain C", {.85, .85, .85, .6}},
             {"msc4203.h, SSE2, 4 KiB chunks", "msc4203.h, SSE2", {.85, .85, .85, .6}},
             {"msc4203.h, AVX2, 4 KiB chunks", "msc4203.h, AVX2", {.85, .85, .85, .6}},
             {"msc4203.h, plain C, 64-byte chunks", "msc4203.h, plain C", {.33, .33, .33, .33}},
             {"msc4203.h, SSE2, 64-byte chunks", "msc4203.h, SSE2", {.33, .33, .33, .33}},
             {"msc4203.h, AVX2, 64-byte chunks", "msc4203.h, AVX2", {.33, .33, .33, .33}},
             {"msc4203.h, plain C", "serde_json, RawValue", {2, 2, 1.4, 2}},
             {"msc4203.h, SSE2", "serde_json, RawValue", {2.5, 2.5, 1.4, 2.5}},
             {"msc4203.h, AVX2", "serde_json, RawValue", {2.5, 2.5, 1.4, 2.5}},
             {"msc4203.h, not validating (4)", "memcpy of the pieces (5)", {.85, .85, .85, .85}}};

/* What is worked on at the moment. */
static struct {
    char *body;
    size_t size;
    job_item *items;
    size_t items_count;
    char *output;
    size_t capacity, written;
} work;

static double times[CONTESTANTS_MAX][ROUNDS_MAX];

static void fail(const char *what, const char *who, int kind)
{
    printf("bench: %s: %s: %s\n", body_name(kind), who, what);
    exit(1);
}

static int present(const contestant *c)
{
#if defined(__x86_64__)
    return !c->avx2 || __builtin_cpu_supports("avx2");
#else
    return !c->avx2;
#endif
}

/* ----------------------------------------------------------------------------------------------
 * Do they all do the same?
 * ---------------------------------------------------------------------------------------------- */

/* Reads the body once; returns what it came to. */
static job_reading read_once(const contestant *c, const char *body, size_t size, int full,
                             int *result)
{
    job_reading job = {NULL, 0, 0, 0, 0, 0};
    job.body = body;
    job.size = size;
    job.full = (size_t)full;
    *result = c->read(&job);
    return job;
}

static void check_reading(int kind)
{
    job_reading expected[2];
    size_t i;
    int full, result;
    for (full = 0; full < 2; full++) {
        expected[full] = read_once(&readers[2], work.body, work.size, full, &result);
        if (result || !expected[full].messages)
            fail("cannot read the body", readers[2].name, kind);
    }
    for (i = 0; i < COUNT(readers); i++) {
        for (full = 0; full < 2 && present(&readers[i]); full++) {
            job_reading got = read_once(&readers[i], work.body, work.size, full, &result);
            if (result)
                fail("cannot read the body", readers[i].name, kind);
            if (got.messages != expected[full].messages || got.strings != expected[full].strings)
                fail("read something else", readers[i].name, kind);
            if (readers[i].does & SPANS && got.contents != expected[full].contents)
                fail("found other contents", readers[i].name, kind);
        }
    }
}

static void check_writing(int kind)
{
    char *expected = (char *)malloc(work.capacity);
    size_t i;
    long bytes = ours_plain_write(work.items, work.items_count, expected, work.capacity);
    if (bytes <= 0)
        fail("cannot write the body", "msc4203.h, plain C", kind);
    work.written = (size_t)bytes;
    for (i = 0; i < COUNT(writers); i++) {
        if (!present(&writers[i]))
            continue;
        memset(work.output, 0, work.capacity);
        bytes = writers[i].write(work.items, work.items_count, work.output, work.capacity);
        if (bytes != (long)work.written || memcmp(work.output, expected, work.written) != 0)
            fail("wrote something else", writers[i].name, kind);
    }
    free(expected);
}

/* Breaks the content of a message in the middle of the olm body in six ways: those that validate
 * must refuse each, in reading and in writing; what is said not to validate must not. */
static void check_validation(void)
{
    static const struct {
        const char *at, *instead;
    } faults[] = {{"\":{\"body\":", "\":{\"body\" "},
                  {"\",\"type\":1}", "\",\"type\":-}"},
                  {"\",\"type\":1}", "\" \"type\":1}"},
                  {"curve25519-aes", "curve25\\q9-aes"},
                  {"curve25519-aes", "curve25\x01"
                                     "19-aes"},
                  {"curve25519-aes", "curve25\xc3"
                                     "19-aes"}};
    const job_item *middle = &work.items[work.items_count / 2];
    char *content = work.body + (middle->content.ptr - work.body);
    size_t i, k;
    int result;
    for (k = 0; k < COUNT(faults); k++) {
        size_t bytes = strlen(faults[k].at);
        char *at = strstr(content, faults[k].at);
        memcpy(at, faults[k].instead, bytes);
        for (i = 0; i < COUNT(readers); i++) {
            if (!(readers[i].does & VALIDATES) || !present(&readers[i]))
                continue;
            read_once(&readers[i], work.body, work.size, 0, &result);
            if (result == 0)
                fail(faults[k].instead, readers[i].name, BODY_OLM);
        }
        for (i = 0; i < COUNT(writers); i++) {
            long written;
            if (!present(&writers[i]) || writers[i].write == memcpy_write)
                continue;
            written = writers[i].write(work.items, work.items_count, work.output, work.capacity);
            if ((writers[i].does & VALIDATES) == (written >= 0))
                fail(faults[k].instead, writers[i].name, BODY_OLM);
        }
        memcpy(at, faults[k].at, bytes);
    }
}

/* ----------------------------------------------------------------------------------------------
 * Measuring
 * ---------------------------------------------------------------------------------------------- */

/* The time of one go, from as many as fill `least` seconds, at least one. */
static double measure(const contestant *c, double least, int kind)
{
    job_reading job = {NULL, 0, 0, 0, 0, 0};
    double from = cpu(), passed;
    unsigned long goes = 0, batch = 1, i;
    job.body = work.body;
    job.size = work.size;
    do {
        for (i = 0; i < batch; i++) {
            if (c->read ? c->read(&job) != 0
                        : c->write(work.items, work.items_count, work.output, work.capacity) !=
                              (long)work.written)
                fail("failed while it was measured", c->name, kind);
        }
        goes += batch;
        passed = cpu() - from;
        batch = passed < least / 8 ? 2 * batch : batch;
    } while (passed < least);
    return passed / (double)goes;
}

static size_t find(const contestant *all, size_t count, const char *name)
{
    size_t i;
    for (i = 0; i < count; i++)
        if (strcmp(all[i].name, name) == 0 && present(&all[i]))
            return i;
    return count;
}

/* Says how each goal was met. */
static void tell_goals(const contestant *all, size_t count, size_t bytes, int kind, int rounds)
{
    size_t i;
    (void)bytes;
    for (i = 0; i < COUNT(goals); i++) {
        size_t one = find(all, count, goals[i].name), other = find(all, count, goals[i].other);
        double got;
        if (one == count || other == count)
            continue;
        got = ratio(times[other], times[one], rounds);
        printf("  %-34s %5.2f x %s, at least %.2f: %s\n", goals[i].name, got, goals[i].other,
               goals[i].least[kind], got >= goals[i].least[kind] ? "met" : "MISSED");
    }
}

/* All contestants in turns, each round beginning with another. */
static void measure_all(contestant *all, size_t count, const char *reference, size_t bytes,
                        int kind, int rounds, double least)
{
    size_t i, other = find(all, count, reference);
    int round;
    for (round = 0; round < rounds; round++) {
        for (i = 0; i < count; i++) {
            size_t c = (i + (size_t)round) % count;
            if (present(&all[c]))
                times[c][round] = measure(&all[c], least, kind);
        }
    }
    for (i = 0; i < count; i++) {
        if (!present(&all[i]))
            continue;
        all[i].bytes_per_s[kind] = (double)bytes / median(times[i], rounds);
        all[i].ratio[kind] = other < count ? ratio(times[other], times[i], rounds) : 0;
        printf("  %-34s %7.0f MB/s %6.2f\n", all[i].name, all[i].bytes_per_s[kind] / 1e6,
               all[i].ratio[kind]);
    }
    tell_goals(all, count, bytes, kind, rounds);
    fflush(stdout);
}

/* ----------------------------------------------------------------------------------------------
 * The table and the pictures
 * ---------------------------------------------------------------------------------------------- */

static void table(FILE *file, const contestant *all, size_t count, const char *heading)
{
    size_t i;
    int kind;
    fprintf(file, "| %s |", heading);
    for (kind = 0; kind < BODY_KINDS; kind++)
        fprintf(file, " %s |", body_name(kind));
    fprintf(file, "\n|---|--:|--:|--:|--:|\n");
    for (i = 0; i < count; i++) {
        if (!present(&all[i]))
            continue;
        fprintf(file, "| %s |", all[i].name);
        for (kind = 0; kind < BODY_KINDS; kind++)
            fprintf(file, " %.0f (%.2f) |", all[i].bytes_per_s[kind] / 1e6, all[i].ratio[kind]);
        fprintf(file, "\n");
    }
    fprintf(file, "\n");
}

static void machine(FILE *file, int rounds)
{
    char line[256], *name = NULL;
    FILE *info = fopen("/proc/cpuinfo", "r");
    while (info && !name && fgets(line, sizeof line, info))
        if (strncmp(line, "model name", 10) == 0 && (name = strchr(line, ':')) != NULL)
            name[strcspn(name, "\n")] = 0;
    if (info)
        fclose(info);
    fprintf(file,
            "Measured on %s, gcc %s -O2; medians of %d rounds in turns. simdjson %s, RapidJSON %s, "
            "cJSON %s, jansson %s, serde_json %s.\n\n",
            name ? name + 2 : "an unknown machine", __VERSION__, rounds, simdjson_version(),
            rapidjson_version(), cjson_version(), jansson_version(),
#ifdef BENCH_SERDE
            BENCH_SERDE
#else
            "not measured: there was no cargo"
#endif
    );
}

static void chart(const char *directory, const char *name, const char *title, const contestant *all,
                  size_t count)
{
    static const char *const about[BODY_KINDS] = {
        "olm: 100 encrypted messages of 1.7 KB", "small: 10,000 messages of 250 bytes",
        "mixed: 690 of every kind, much Unicode", "big: 100 contents of 64 KiB"};
    chart_bar bars[CONTESTANTS_MAX];
    chart_picture *picture = chart_begin(directory, name, title, BODY_KINDS, count);
    size_t i;
    int kind;
    for (kind = 0; kind < BODY_KINDS; kind++) {
        size_t used = 0;
        for (i = 0; i < count; i++) {
            if (!present(&all[i]))
                continue;
            bars[used].name = all[i].name;
            bars[used].mark = all[i].mark;
            bars[used++].value = all[i].bytes_per_s[kind] / 1e6;
        }
        chart_panel(picture, about[kind], bars, used);
    }
    chart_end(picture);
}

static int results(const char *directory, int rounds)
{
    char path[4096];
    FILE *file;
    snprintf(path, sizeof path, "%s/bench.md", directory);
    file = fopen(path, "w");
    if (!file) {
        printf("bench: cannot write %s\n", path);
        return 1;
    }
    fprintf(file, "MB/s of body, and in brackets how many times the speed of simdjson's DOM and "
                  "On-Demand together, which do the same work.\n\n");
    table(file, readers, COUNT(readers), "reading");
    fprintf(file, "MB/s of body, and in brackets how many times the speed of %s.\n\n",
#ifdef BENCH_SERDE
            "serde_json"
#else
            "RapidJSON"
#endif
    );
    table(file, writers, COUNT(writers), "writing");
    fprintf(file, "%s\n", notes);
    machine(file, rounds);
    if (fclose(file) != 0)
        return 1;
    chart(directory, "reading",
          "Reading, everything validated: MB/s (hollow: does less, see the notes)", readers,
          COUNT(readers) - 3);
    chart(directory, "writing",
          "Writing, contents validated: MB/s (hollow: does less, see the notes)", writers,
          COUNT(writers));
    return 0;
}

static double from_environment(const char *name, double otherwise, double most)
{
    const char *text = getenv(name);
    double value = text ? strtod(text, NULL) : otherwise;
    return value <= 0 ? otherwise : value > most ? most : value;
}

int main(int argc, char **argv)
{
    const double turns = from_environment("BENCH_ROUNDS", 15, ROUNDS_MAX);
    const size_t contestants = COUNT(readers) + COUNT(writers);
    int rounds = turns < 1 ? 1 : (int)turns, kind;
    double least =
        from_environment("BENCH_SECONDS", 60, 36000) / rounds / BODY_KINDS / (double)contestants;
    if (argc != 2) {
        printf("usage: bench DIRECTORY\n");
        return 2;
    }
    for (kind = 0; kind < BODY_KINDS; kind++) {
        work.body = body_make(kind, 0, &work.size);
        work.body = (char *)realloc(work.body, work.size + 65);
        work.capacity = 2 * work.size;
        work.output = (char *)malloc(work.capacity);
        if (!work.body || !work.output)
            return 2;
        memset(work.body + work.size, 0, 65);
        work.items = job_items(work.body, work.size, &work.items_count);
        if (!work.items)
            fail("cannot read the body", "its items", kind);
        memcpy_prepare(work.items, work.items_count);
        check_reading(kind);
        check_writing(kind);
        if (kind == BODY_OLM)
            check_validation();
        printf("%s: reading %lu bytes\n", body_name(kind), (unsigned long)work.size);
        measure_all(readers, COUNT(readers), "simdjson, DOM + On-Demand", work.size, kind, rounds,
                    least);
        printf("%s: writing %lu bytes\n", body_name(kind), (unsigned long)work.written);
        measure_all(writers, COUNT(writers),
#ifdef BENCH_SERDE
                    "serde_json, RawValue",
#else
                    "RapidJSON, SAX + Writer",
#endif
                    work.written, kind, rounds, least);
    }
    return results(argv[1], rounds);
}
