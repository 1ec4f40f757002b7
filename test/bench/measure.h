/* measure.h - what the measuring programs share: clocks, and medians. */
#ifndef MEASURE_H
#define MEASURE_H

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROUNDS_MAX = 1000 };

static double clock_of(clockid_t which)
{
    struct timespec t;
    clock_gettime(which, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Of the processor: others may use the machine, too. */
static double cpu(void)
{
    return clock_of(CLOCK_PROCESS_CPUTIME_ID);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *values, int count)
{
    double sorted[ROUNDS_MAX];
    memcpy(sorted, values, (size_t)count * sizeof *values);
    qsort(sorted, (size_t)count, sizeof *sorted, by_value);
    return count % 2 ? sorted[count / 2] : (sorted[count / 2 - 1] + sorted[count / 2]) / 2;
}

/* The median of the ratios within a round. */
static double ratio(const double *a, const double *b, int count)
{
    double ratios[ROUNDS_MAX] = {0};
    int round;
    for (round = 0; round < count; round++)
        ratios[round] = a[round] / b[round];
    return median(ratios, count);
}

#endif
