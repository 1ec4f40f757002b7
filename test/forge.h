/* forge.h - the log's records and checksums, written down once more and simply: for tests that seal
 * what they have changed, so that more than the checksums stands in the way. */
#ifndef FORGE_H
#define FORGE_H

#include <stddef.h>
#include <stdint.h>

enum { FORGE_UNIT = 16, FORGE_HEADER = 128 };

static uint32_t forge_get(const unsigned char *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void forge_word(unsigned char *p, uint32_t word)
{
    int i;

    for (i = 0; i < 4; i++)
        p[i] = (unsigned char)(word >> 8 * i);
}

static uint32_t forge_rotate(uint32_t x, int by)
{
    return x << by | x >> (32 - by);
}

/* Of the fixed part of a record; key 0, seed 0 and unit 0 for a segment's header. */
static uint32_t forge_fixed_sum(uint32_t key0, uint32_t key1, uint32_t seed, uint32_t unit,
                                const unsigned char *p, size_t bytes)
{
    uint32_t sum = key0, first[3];
    size_t i;

    first[0] = key1;
    first[1] = seed;
    first[2] = unit;
    for (i = 0; i < 3; i++)
        sum = forge_rotate((sum ^ first[i]) * 0x9E3779B1u, 15);
    for (i = 0; i < bytes; i += 4)
        if (i != 12)
            sum = forge_rotate((sum ^ forge_get(p + i)) * 0x9E3779B1u, 15);
    sum = (sum ^ sum >> 16) * 0x85EBCA77u;
    return sum ^ sum >> 13;
}

/* Of a record's body. */
static uint32_t forge_body_sum(uint32_t key0, uint32_t key1, const unsigned char *p, size_t bytes)
{
    uint32_t a[8], b[8], result = (uint32_t)bytes, times = 1, i;
    size_t at, k;

    for (i = 0; i < 8; i++) {
        a[i] = key0 + i * 0x9E3779B1u;
        b[i] = key1;
    }
    for (at = 0; at < bytes; at += 32)
        for (i = 0; i < 8; i++) {
            unsigned char word[4] = {0, 0, 0, 0};
            for (k = 0; k < 4 && at + 4 * i + k < bytes; k++)
                word[k] = p[at + 4 * i + k];
            a[i] += forge_get(word);
            b[i] = forge_rotate(b[i], 9) + a[i];
        }
    for (i = 0; i < 8; i++) {
        times *= 0x9E3779B1u;
        result += (a[i] ^ forge_rotate(b[i], 11)) * times;
    }
    result = (result ^ result >> 15) * 0x85EBCA77u;
    return result ^ result >> 13;
}

/* Units of the fixed part of a record of this kind; 0 when there is no such kind. */
static uint32_t forge_fixed_units(uint32_t kind)
{
    static const unsigned char units[16] = {0, 8, 3, 3, 4, 3, 1, 2, 2, 2, 2, 3, 2, 1, 2, 0};
    return units[kind & 15];
}

/* Makes the checksums of a segment's header right. Returns whether they were. */
static int forge_header(unsigned char *segment)
{
    uint32_t sum = forge_fixed_sum(0, 0, 0, 0, segment, FORGE_HEADER);
    int same = forge_get(segment + 12) == sum;

    forge_word(segment + 12, sum);
    return same;
}

/* Makes the checksums right of the record at a unit of a segment whose header is whole; nothing is
 * changed behind `units`, the segment's end. Returns whether they were. */
static int forge_record(unsigned char *segment, uint32_t unit, uint32_t units)
{
    unsigned char *p = segment + (size_t)unit * FORGE_UNIT;
    uint32_t key0 = forge_get(segment + 60), key1 = forge_get(segment + 64), sum;
    uint32_t seed = forge_get(segment + 68) * 0x85EBCA77u ^ forge_get(segment + 112);
    uint32_t kind = p[3] & 15, length = forge_get(p) & 0xFFFFFF, spare = p[3] >> 4;
    uint32_t fixed = forge_fixed_units(kind), body;
    int same = 1;

    if (fixed == 0 || fixed > units - unit)
        return 0;
    if (length > units - unit)
        length = units - unit;
    body = length * FORGE_UNIT > fixed * FORGE_UNIT + spare
               ? length * FORGE_UNIT - fixed * FORGE_UNIT - spare
               : 0;
    if (body != 0 && kind != 13) { /* what fills a sector up has none */
        sum = forge_body_sum(key0, key1, p + (size_t)fixed * FORGE_UNIT, body);
        same = forge_get(p + 8) == sum;
        forge_word(p + 8, sum);
    }
    sum = forge_fixed_sum(key0, key1, seed, unit, p, (size_t)fixed * FORGE_UNIT);
    same &= forge_get(p + 12) == sum;
    forge_word(p + 12, sum);
    return same;
}

#endif
