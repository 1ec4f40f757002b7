/* source.h - looks an item up in the body that it was read from, by the offset that it tells: a
 * second reading of what matters, with a parser that knows only valid JSON. */
#ifndef FUZZ_SOURCE_H
#define FUZZ_SOURCE_H

#include "common.h"

/* A body that is known to be valid JSON, in full. */
struct fuzz_source {
    const char *text;
    size_t bytes;
};

/* The bits of a set of results from -20 down. */
static FUZZ_UNUSED unsigned fuzz_fault(int error)
{
    return 1u << (MSC4203_E_FIELD_MISSING - error);
}

static FUZZ_UNUSED size_t fuzz_space(const struct fuzz_source *from, size_t at)
{
    while (at < from->bytes && strchr(" \t\n\r", from->text[at]) && from->text[at])
        at++;
    return at;
}

/* Behind the value that begins at `at`. */
static FUZZ_UNUSED size_t fuzz_behind(const struct fuzz_source *from, size_t at)
{
    size_t depth = 0;
    int string = 0;
    char first = from->text[at];
    if (first != '"' && first != '{' && first != '[') {
        while (at < from->bytes && !strchr(",]} \t\n\r", from->text[at]))
            at++;
        return at;
    }
    do {
        char c = from->text[at++];
        if (string && c == '\\')
            at++;
        else if (c == '"')
            string = !string;
        else if (!string && (c == '{' || c == '['))
            depth++;
        else if (!string && (c == '}' || c == ']'))
            depth--;
    } while (string || depth);
    return at;
}

static FUZZ_UNUSED uint32_t fuzz_hex(const char *text)
{
    uint32_t value = 0;
    int i;
    for (i = 0; i < 4; i++) {
        char c = text[i];
        value = value << 4 | (uint32_t)(c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
    }
    return value;
}

static FUZZ_UNUSED size_t fuzz_encode(char *to, uint32_t point)
{
    size_t i, more = point < 0x80 ? 0 : point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
    static const uint32_t lead[4] = {0, 0xc0, 0xe0, 0xf0};
    for (i = more; i > 0; i--, point >>= 6)
        to[i] = (char)(0x80 | (point & 0x3f));
    to[0] = (char)(lead[more] | point);
    return more + 1;
}

/* What the string at `at` means, in new memory; *lone says whether it has half a surrogate pair,
 * which reads as U+FFFD. */
static FUZZ_UNUSED msc4203_span fuzz_string(const struct fuzz_source *from, size_t at, int *lone)
{
    static const char escapes[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
    size_t end = fuzz_behind(from, at) - 1;
    char *out = (char *)fuzz_alloc(end - at);
    msc4203_span span = {NULL, 0};
    span.ptr = out;
    for (at++; at < end;) {
        const char *text = from->text + at;
        uint32_t unit, low = 0;
        if (*text != '\\') {
            out[span.len++] = *text;
            at++;
            continue;
        }
        if (text[1] != 'u') {
            size_t i = 0;
            while (escapes[i] != text[1])
                i += 2;
            out[span.len++] = escapes[i + 1];
            at += 2;
            continue;
        }
        unit = fuzz_hex(text + 2);
        at += 6;
        if (unit >= 0xd800 && unit <= 0xdbff && end - at >= 6 && text[6] == '\\' && text[7] == 'u')
            low = fuzz_hex(text + 8);
        if (low >= 0xdc00 && low <= 0xdfff) {
            unit = 0x10000 + ((unit & 0x3ff) << 10 | (low & 0x3ff));
            at += 6;
        } else if (unit >= 0xd800 && unit <= 0xdfff) {
            unit = 0xfffd;
            *lone = 1;
        }
        span.len += fuzz_encode(out + span.len, unit);
    }
    return span;
}

/* The string at `at` is what `span` says; returns the faults of such a field. */
static FUZZ_UNUSED unsigned fuzz_check_string(const struct fuzz_source *from, size_t at,
                                              msc4203_span span)
{
    msc4203_span wanted;
    int lone = 0;
    if (from->text[at] != '"')
        return fuzz_fault(MSC4203_E_FIELD_TYPE);
    wanted = fuzz_string(from, at, &lone);
    FUZZ_CHECK(fuzz_same_span(wanted, span));
    free((void *)(uintptr_t)wanted.ptr);
    return lone ? fuzz_fault(MSC4203_E_SURROGATE) : 0;
}

/* The same for a content, which is to begin with `first`. */
static FUZZ_UNUSED unsigned fuzz_check_content(const struct fuzz_source *from, size_t at,
                                               msc4203_span span, char first)
{
    msc4203_span wanted;
    if (from->text[at] != first)
        return fuzz_fault(MSC4203_E_FIELD_TYPE);
    wanted.ptr = from->text + at;
    wanted.len = fuzz_behind(from, at) - at;
    FUZZ_CHECK(fuzz_same_span(wanted, span));
    return 0;
}

/* A to-device event: its faults. */
static FUZZ_UNUSED unsigned fuzz_check_event(const struct fuzz_source *from, int shape,
                                             const msc4203_item *item)
{
    static const char *const names[] = {"sender",       "type", "to_user_id",
                                        "to_device_id", "",     "content"};
    unsigned faults = 0, seen = 0;
    unsigned needed = shape == MSC4203_SYNC ? 1u | 2u | 32u : 1u | 2u | 4u | 8u | 32u;
    size_t at = (size_t)item->offset;
    int i, lone = 0;
    if (from->text[at] != '{')
        return fuzz_fault(MSC4203_E_FIELD_TYPE);
    at = fuzz_space(from, at + 1);
    while (from->text[at] != '}') {
        msc4203_span key = fuzz_string(from, at, &lone);
        at = fuzz_space(from, fuzz_behind(from, at));
        at = fuzz_space(from, at + 1);
        for (i = 0; i < FUZZ_SPANS; i++) {
            if (!(needed >> i & 1) || !msc4203_span_equal(&key, names[i]))
                continue;
            if (seen >> i & 1)
                faults |= fuzz_fault(MSC4203_E_FIELD_TWICE);
            else if (i == FUZZ_SPANS - 1)
                faults |= fuzz_check_content(from, at, item->content, '{');
            else
                faults |= fuzz_check_string(from, at, fuzz_span_of(item, i));
            seen |= 1u << i;
        }
        free((void *)(uintptr_t)key.ptr);
        at = fuzz_space(from, fuzz_behind(from, at));
        if (from->text[at] == ',')
            at = fuzz_space(from, at + 1);
    }
    return seen == needed ? faults : faults | fuzz_fault(MSC4203_E_FIELD_MISSING);
}

/* A member DEVICE: content of SEND and EDU. The user's faults, and an EDU's, are not looked for. */
static FUZZ_UNUSED unsigned fuzz_check_message(const struct fuzz_source *from,
                                               const msc4203_item *item)
{
    size_t at = (size_t)item->offset;
    unsigned faults;
    if (!item->device_id.ptr) /* a user, or an EDU's sender or type, that is no object or string */
        return fuzz_fault(item->error);
    faults = fuzz_check_string(from, at, item->device_id);
    at = fuzz_space(from, fuzz_behind(from, at));
    at = fuzz_space(from, at + 1);
    faults |= fuzz_check_content(from, at, item->content, '{');
    return item->error ? faults | fuzz_fault(item->error) : faults;
}

/* The faults of one device's counts or types. What is wrong with the ids is not looked for. */
static FUZZ_UNUSED unsigned fuzz_check_device(const struct fuzz_source *from,
                                              const msc4203_item *item)
{
    char first = item->kind == MSC4203_KEY_COUNTS ? '{' : '[';
    unsigned ids = item->error == MSC4203_E_SURROGATE ? fuzz_fault(item->error) : 0;
    if (!item->device_id.ptr)
        return ids | fuzz_fault(MSC4203_E_FIELD_TYPE);
    return ids | fuzz_check_content(from, (size_t)item->offset, item->content, first);
}

/* Whatever the item's kind: it says what the body says, and its error is one of the faults that are
 * there. Not for items with contents that are too deep, nor for a reading without ample scratch. */
static FUZZ_UNUSED void fuzz_check_source(const struct fuzz_source *from, int shape,
                                          const msc4203_item *item)
{
    int by_user = shape == MSC4203_SEND || shape == MSC4203_EDU;
    int is_listed =
        item->kind <= MSC4203_DEVICE_LEFT && (item->kind != MSC4203_TO_DEVICE || !by_user);
    size_t at = (size_t)item->offset, before = at;
    unsigned faults;
    if (item->error == MSC4203_E_TOO_DEEP)
        return;
    /* What comes behind a colon is no element of a list, but itself in a list's place. */
    while (strchr(" \t\n\r", from->text[before - 1]))
        before--;
    if (from->text[before - 1] == ':' && is_listed) {
        FUZZ_CHECK(item->error == MSC4203_E_FIELD_TYPE);
        return;
    }
    switch (item->kind) {
    case MSC4203_TO_DEVICE:
        faults = by_user ? fuzz_check_message(from, item) : fuzz_check_event(from, shape, item);
        break;
    case MSC4203_DEVICE_CHANGED:
    case MSC4203_DEVICE_LEFT:
        faults = fuzz_check_string(from, at, item->user_id);
        break;
    case MSC4203_MESSAGE_ID:
    case MSC4203_NEXT_BATCH:
        faults = fuzz_check_string(from, at, item->id);
        break;
    case MSC4203_KEY_COUNTS:
    case MSC4203_FALLBACK_TYPES:
        faults = fuzz_check_device(from, item);
        break;
    default:
        faults = fuzz_check_content(from, at, item->content, '{');
        break;
    }
    FUZZ_CHECK(item->error ? (faults & fuzz_fault(item->error)) != 0 : faults == 0);
}

#endif
