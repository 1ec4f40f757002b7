/* common.h - what the fuzz targets share: checks, exact buffers, a reading as a list of items.
 *
 * A target is one file fuzz_NAME.c. It defines fuzz_name and LLVMFuzzerTestOneInput(), begins its
 * input with a few choice bytes, and calls abort() (through FUZZ_CHECK) when a promise is broken.
 * The checks below do not share code with the library: what JSON is comes from test/validator.h. */
#ifndef FUZZ_COMMON_H
#define FUZZ_COMMON_H

#include "msc4203.h"
#include "test/validator.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__)
#define FUZZ_UNUSED __attribute__((unused))
#else
#define FUZZ_UNUSED
#endif

/* The target's name, for the stand-alone driver; and its entry, as libFuzzer declares it. */
extern const char fuzz_name[];
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_CHECK(condition) ((condition) ? (void)0 : fuzz_fail(__FILE__, __LINE__, #condition))

static FUZZ_UNUSED void fuzz_fail(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: failed: %s\n", file, line, what);
    abort();
}

/* Memory of exactly so many bytes, so that the address sanitizer sees the first byte beyond it. */
static FUZZ_UNUSED void *fuzz_alloc(size_t bytes)
{
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory)
        exit(2);
    return memory;
}

static FUZZ_UNUSED char *fuzz_copy(const void *data, size_t bytes)
{
    char *copy = (char *)fuzz_alloc(bytes);
    if (bytes)
        memcpy(copy, data, bytes);
    return copy;
}

static FUZZ_UNUSED uint32_t fuzz_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

/* ------------------------------------------------------------------------------------------------
 * What is true of a text
 * ------------------------------------------------------------------------------------------------
 */

/* Whether `text` is valid UTF-8: by decoding each sequence and looking at what came out. */
static FUZZ_UNUSED int fuzz_utf8(const char *text, size_t bytes)
{
    static const uint32_t least[4] = {0, 0x80, 0x800, 0x10000};
    const unsigned char *at = (const unsigned char *)text;
    size_t i = 0, more, k;
    while (i < bytes) {
        uint32_t point = at[i++];
        if (point < 0x80)
            continue;
        more = point >= 0xf0 ? 3 : point >= 0xe0 ? 2 : 1;
        if (point < 0xc0 || point > 0xf7 || bytes - i < more)
            return 0;
        point &= 0x3fu >> more;
        for (k = 0; k < more; k++, i++) {
            if ((at[i] & 0xc0) != 0x80)
                return 0;
            point = point << 6 | (at[i] & 0x3f);
        }
        if (point < least[more] || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff))
            return 0;
    }
    return 1;
}

/* What a reader of MSC4203_JSON has to say of a text. */
static FUZZ_UNUSED int fuzz_verdict(const char *text, size_t bytes, size_t *offset)
{
    switch (validate((const unsigned char *)text, bytes, offset, NULL)) {
    case VALIDATOR_VALID:
        return MSC4203_END;
    case VALIDATOR_CUT_SHORT:
        return MSC4203_E_TRUNCATED;
    case VALIDATOR_SYNTAX:
        return MSC4203_E_SYNTAX;
    case VALIDATOR_UTF8:
        return MSC4203_E_UTF8;
    default:
        return MSC4203_E_TOO_DEEP;
    }
}

/* Of a text that is valid JSON: which flags an item with this content must have. */
static FUZZ_UNUSED unsigned fuzz_flags(const char *text, size_t bytes)
{
    unsigned found = 0, flags = 0;
    FUZZ_CHECK(validate((const unsigned char *)text, bytes, NULL, &found) == VALIDATOR_VALID);
    if (found & VALIDATOR_LONE_SURROGATE)
        flags |= MSC4203_LONE_SURROGATE;
    if (found & VALIDATOR_HUGE_NUMBER)
        flags |= MSC4203_HUGE_NUMBER;
    return flags;
}

/* ------------------------------------------------------------------------------------------------
 * Items
 * ------------------------------------------------------------------------------------------------
 */

#define FUZZ_SPANS 6

static FUZZ_UNUSED msc4203_span *fuzz_span(msc4203_item *item, int number)
{
    switch (number) {
    case 0:
        return &item->sender;
    case 1:
        return &item->type;
    case 2:
        return &item->user_id;
    case 3:
        return &item->device_id;
    case 4:
        return &item->id;
    default:
        return &item->content;
    }
}

static FUZZ_UNUSED msc4203_span fuzz_span_of(const msc4203_item *item, int number)
{
    msc4203_item copy = *item;
    return *fuzz_span(&copy, number);
}

static FUZZ_UNUSED int fuzz_same_span(msc4203_span a, msc4203_span b)
{
    return !a.ptr == !b.ptr && a.len == b.len && (!a.len || !memcmp(a.ptr, b.ptr, a.len));
}

/* An item that outlives its reader. */
struct fuzz_item {
    msc4203_item item; /* its spans point into `memory` */
    size_t in_scratch; /* how many bytes of them were in the reader's scratch */
    size_t in_preset;  /* and in the preset */
    char *memory;
};

struct fuzz_items {
    struct fuzz_item *list;
    size_t count, room;
};

static FUZZ_UNUSED struct fuzz_item *fuzz_items_add(struct fuzz_items *items,
                                                    const msc4203_item *item)
{
    struct fuzz_item *kept;
    size_t bytes = 0;
    int i;
    if (items->count == items->room) {
        items->room = items->room * 2 + 16;
        kept = (struct fuzz_item *)realloc(items->list, items->room * sizeof *kept);
        if (!kept)
            exit(2);
        items->list = kept;
    }
    kept = &items->list[items->count++];
    kept->item = *item;
    kept->in_scratch = kept->in_preset = 0;
    for (i = 0; i < FUZZ_SPANS; i++)
        bytes += fuzz_span(&kept->item, i)->len;
    kept->memory = (char *)fuzz_alloc(bytes);
    bytes = 0;
    for (i = 0; i < FUZZ_SPANS; i++) {
        msc4203_span *span = fuzz_span(&kept->item, i);
        if (span->len)
            memcpy(kept->memory + bytes, span->ptr, span->len);
        span->ptr = span->ptr ? kept->memory + bytes : NULL;
        bytes += span->len;
    }
    return kept;
}

static FUZZ_UNUSED void fuzz_items_free(struct fuzz_items *items)
{
    size_t i;
    for (i = 0; i < items->count; i++)
        free(items->list[i].memory);
    free(items->list);
    memset(items, 0, sizeof *items);
}

#endif
