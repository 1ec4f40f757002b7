/* items.h - reads a body in a given way and writes down what came out, for comparing readings.
 *
 * A reading becomes text (struct items_text), a line for each item and one for the result:
 *
 *     T0 @15 s=@a:x t=m.dummy u=@b:x d=DEV c={"k":1}
 *     T1 @99 !TWICE s=@a:x
 *     END @120
 *
 * A line begins with the kind's letter (see items_letters), the item's index and its offset; then
 * come `!` and the error, `~` and the flags (S lone surrogate, N huge number, L late), and the
 * spans that are there. An absent span is left out, an empty one is not. Bytes up to the blank, the
 * backslash and those from 0x7f on are written as \xHH, so that different readings always differ.
 */
#ifndef ITEMS_H
#define ITEMS_H

#include "msc4203.h"
#include "test.h"

#include <stdarg.h>

/* In the order of the kinds' bits. */
static const char items_letters[] = "TEPCLKFMN";

/* For items_way.kinds: no kind at all. */
#define ITEMS_NO_KINDS 0x80000000u

/* What is not worth a check each time that it goes well. */
#define ITEMS_FAIL(what, text) test_check(0, __FILE__, __LINE__, what, text)

struct items_text {
    char *text;
    size_t bytes, room;
};

/* How to read. All zero but `shape` reads in one piece, all kinds, without scratch. */
struct items_way {
    int shape;
    unsigned kinds;     /* 0: all */
    const size_t *cuts; /* offsets at which to cut, ascending */
    size_t cut_count;
    size_t chunk;         /* if not 0: cut every so many bytes, too */
    size_t scratch_bytes; /* exactly sized and fresh for each reading */
    int empty_end;        /* the last call to feed gives no bytes */
    int move;             /* the reader is at another place for each call */
    const msc4203_item *preset;
};

/* What a reading has come to. */
struct items_end {
    int result;
    uint64_t offset;
    size_t count; /* of items */
    size_t need;  /* scratch that the longest item needs when it is fed byte by byte */
    struct items_text sender, type; /* what the end of an EDU has told; `text` NULL: absent */
    int told_error;
};

static TEST_UNUSED void items_put(struct items_text *to, const char *data, size_t bytes)
{
    if (to->room - to->bytes <= bytes) {
        to->room = to->room * 2 + bytes + 4096;
        to->text = (char *)realloc(to->text, to->room);
        if (!to->text)
            exit(2);
    }
    memcpy(to->text + to->bytes, data, bytes);
    to->bytes += bytes;
    to->text[to->bytes] = 0;
}

static TEST_UNUSED void items_printf(struct items_text *to, const char *format, ...)
{
    char line[256];
    int bytes;
    va_list list;
    va_start(list, format);
    bytes = vsnprintf(line, sizeof line, format, list);
    va_end(list);
    if (bytes > 0)
        items_put(to, line, (size_t)bytes < sizeof line ? (size_t)bytes : sizeof line - 1);
}

static TEST_UNUSED void items_put_span(struct items_text *to, const char *name, msc4203_span span)
{
    static const char hex[] = "0123456789abcdef";
    size_t i, from = 0;
    if (!span.ptr) {
        if (span.len)
            items_put(to, " BROKEN-SPAN", 12);
        return;
    }
    items_put(to, " ", 1);
    items_put(to, name, strlen(name));
    items_put(to, "=", 1);
    for (i = 0; i < span.len; i++) {
        unsigned char c = (unsigned char)span.ptr[i];
        char escape[4];
        if (c > 0x20 && c < 0x7f && c != '\\')
            continue;
        escape[0] = '\\';
        escape[1] = 'x';
        escape[2] = hex[c >> 4];
        escape[3] = hex[c & 15];
        items_put(to, span.ptr + from, i - from);
        items_put(to, escape, 4);
        from = i + 1;
    }
    items_put(to, span.ptr + from, span.len - from);
}

/* A result's short name, as it is in enum msc4203_result. */
static TEST_UNUSED const char *items_result(int result)
{
    switch (result) {
    case MSC4203_OK:
        return "OK";
    case MSC4203_ITEM:
        return "ITEM";
    case MSC4203_MORE:
        return "MORE";
    case MSC4203_END:
        return "END";
    case MSC4203_E_SYNTAX:
        return "SYNTAX";
    case MSC4203_E_UTF8:
        return "UTF8";
    case MSC4203_E_TRUNCATED:
        return "TRUNCATED";
    case MSC4203_E_ROOT:
        return "ROOT";
    case MSC4203_E_MESSAGES:
        return "MESSAGES";
    case MSC4203_E_NO_MESSAGES:
        return "NO_MESSAGES";
    case MSC4203_E_FIELD_MISSING:
        return "MISSING";
    case MSC4203_E_FIELD_TYPE:
        return "TYPE";
    case MSC4203_E_FIELD_TWICE:
        return "TWICE";
    case MSC4203_E_TOO_DEEP:
        return "DEEP";
    case MSC4203_E_SURROGATE:
        return "SURROGATE";
    case MSC4203_E_NUMBER:
        return "NUMBER";
    case MSC4203_E_TOO_LARGE:
        return "LARGE";
    case MSC4203_E_FULL:
        return "FULL";
    case MSC4203_E_ORDER:
        return "ORDER";
    case MSC4203_E_KIND:
        return "KIND";
    case MSC4203_E_SECOND:
        return "SECOND";
    case MSC4203_E_USAGE:
        return "USAGE";
    default:
        return "UNKNOWN";
    }
}

static TEST_UNUSED char items_letter(int kind)
{
    unsigned i;
    for (i = 0; items_letters[i]; i++)
        if (kind == 1 << i)
            return items_letters[i];
    return '?';
}

static TEST_UNUSED void items_put_item(struct items_text *to, const msc4203_item *item)
{
    items_printf(to, "%c%u @%lu", items_letter(item->kind), item->index,
                 (unsigned long)item->offset);
    if (item->error)
        items_printf(to, " !%s", items_result(item->error));
    if (item->flags)
        items_printf(to, " ~%s%s%s%s", item->flags & MSC4203_LONE_SURROGATE ? "S" : "",
                     item->flags & MSC4203_HUGE_NUMBER ? "N" : "",
                     item->flags & MSC4203_LATE ? "L" : "", item->flags > 7 ? "?" : "");
    items_put_span(to, "s", item->sender);
    items_put_span(to, "t", item->type);
    items_put_span(to, "u", item->user_id);
    items_put_span(to, "d", item->device_id);
    items_put_span(to, "c", item->content);
    items_put_span(to, "i", item->id);
    items_put(to, "\n", 1);
}

/* The sum of what an item has to keep. `preset` spans live elsewhere. */
static TEST_UNUSED size_t items_need(const msc4203_item *item, const struct items_way *way)
{
    const msc4203_item *preset = way->preset;
    size_t need = item->content.len + item->id.len;
    if (!preset || !preset->sender.ptr || way->shape == MSC4203_TRANSACTION ||
        way->shape == MSC4203_SYNC)
        need += item->sender.len;
    if (!preset || !preset->type.ptr || way->shape == MSC4203_TRANSACTION ||
        way->shape == MSC4203_SYNC)
        need += item->type.len;
    if (!preset || !preset->user_id.ptr || way->shape != MSC4203_SYNC)
        need += item->user_id.len;
    if (!preset || !preset->device_id.ptr || way->shape != MSC4203_SYNC)
        need += item->device_id.len;
    return need;
}

/* Feeds the next chunk, in a block of its own that is exactly as long. Returns it. */
static TEST_UNUSED char *items_feed(msc4203_reader *reader, const struct items_way *way,
                                    const char *body, size_t bytes, size_t *at, size_t *cut)
{
    size_t n = bytes - *at;
    char *block = NULL;
    int last;
    if (way->chunk && way->chunk < n)
        n = way->chunk;
    while (*cut < way->cut_count && way->cuts[*cut] < *at)
        ++*cut;
    if (*cut < way->cut_count && way->cuts[*cut] - *at < n) {
        n = way->cuts[*cut] - *at;
        ++*cut;
    }
    last = *at + n == bytes && (!way->empty_end || n == 0);
    if (n) {
        block = (char *)malloc(n);
        if (!block)
            exit(2);
        memcpy(block, body + *at, n);
    }
    if (msc4203_reader_feed(reader, block, n, last) != MSC4203_OK)
        ITEMS_FAIL("feeding is refused", "");
    *at += n;
    return block;
}

static TEST_UNUSED unsigned items_kinds(const struct items_way *way)
{
    return way->kinds == ITEMS_NO_KINDS ? 0 : way->kinds ? way->kinds : MSC4203_ALL_KINDS;
}

/* Takes the next item, from the other one of two readers if that is asked for. */
static TEST_UNUSED int items_next(msc4203_reader **reader, msc4203_reader *readers,
                                  const struct items_way *way, const msc4203_item **item)
{
    if (way->move) {
        msc4203_reader *other = *reader == readers ? readers + 1 : readers;
        memcpy(other, *reader, sizeof *other);
        memset(*reader, 0xa5, sizeof **reader);
        *reader = other;
    }
    return msc4203_reader_next(*reader, item);
}

/* The end of an EDU, which tells its sender and type. */
static TEST_UNUSED void items_put_told(struct items_text *to, const msc4203_item *item,
                                       struct items_end *end)
{
    items_printf(to, "SENDER");
    if (item->error)
        items_printf(to, " !%s", items_result(item->error));
    end->told_error = item->error;
    items_put_span(to, "s", item->sender);
    items_put_span(to, "t", item->type);
    items_put(to, "\n", 1);
    if (item->sender.ptr)
        items_put(&end->sender, item->sender.ptr, item->sender.len);
    if (item->type.ptr)
        items_put(&end->type, item->type.ptr, item->type.len);
}

/* The items of a kind are counted from 0, without a gap. */
static TEST_UNUSED void items_check_index(const msc4203_item *item, unsigned *next)
{
    const char *letter = strchr(items_letters, items_letter(item->kind));
    if (!letter || item->index != next[letter - items_letters]++)
        ITEMS_FAIL("an index follows the one before", "");
}

/* Reads `body`, appends what comes out to *to, and tells in *end how it ended (to be freed with
 * items_end_free). Every chunk is overwritten before the next one is fed, so that no span into an
 * old one stays unnoticed. */
static TEST_UNUSED void items_read(struct items_text *to, const struct items_way *way,
                                   const char *body, size_t bytes, struct items_end *end)
{
    msc4203_reader readers[2], *reader = readers;
    const msc4203_item *item = NULL;
    char *scratch = way->scratch_bytes ? (char *)malloc(way->scratch_bytes) : NULL;
    unsigned next_index[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0};
    size_t at = 0, cut = 0;
    int whole = !way->chunk && !way->cut_count && !way->empty_end;

    memset(end, 0, sizeof *end);
    if (way->scratch_bytes && !scratch)
        exit(2);
    memset(readers, 0xa5, sizeof readers);
    if (msc4203_reader_init(reader, way->shape, items_kinds(way), scratch, way->scratch_bytes))
        ITEMS_FAIL("beginning is refused", "");
    if (way->preset)
        msc4203_reader_preset(reader, way->preset);
    do {
        size_t before = at;
        char *block = NULL;
        if (whole)
            msc4203_reader_feed(reader, body, bytes, 1);
        else
            block = items_feed(reader, way, body, bytes, &at, &cut);
        while ((end->result = items_next(&reader, readers, way, &item)) == MSC4203_ITEM) {
            size_t need = items_need(item, way);
            if (need > end->need)
                end->need = need;
            items_check_index(item, next_index);
            items_put_item(to, item);
            end->count++;
        }
        if (end->result == MSC4203_END && item) {
            if (items_need(item, way) > end->need)
                end->need = items_need(item, way);
            items_put_told(to, item, end);
        }
        if (block) {
            memset(block, 0xaa, at - before);
            free(block);
        }
    } while (end->result == MSC4203_MORE && !whole);
    end->offset = msc4203_reader_offset(reader);
    items_printf(to, "%s @%lu\n", items_result(end->result), (unsigned long)end->offset);
    free(scratch);
}

static TEST_UNUSED void items_end_free(struct items_end *end)
{
    free(end->sender.text);
    free(end->type.text);
}

/* The same into a fresh text; free `text` of what it returns. */
static TEST_UNUSED struct items_text items_text_of(const struct items_way *way, const char *body,
                                                   size_t bytes)
{
    struct items_text text = {NULL, 0, 0};
    struct items_end end;
    items_read(&text, way, body, bytes, &end);
    items_end_free(&end);
    return text;
}

static TEST_UNUSED int items_same(const struct items_text *a, const struct items_text *b)
{
    return a->bytes == b->bytes && memcmp(a->text, b->text, a->bytes) == 0;
}

/* How much of a line to show. */
static TEST_UNUSED int items_some(const char *line)
{
    size_t bytes = strcspn(line, "\n");
    return bytes < 200 ? (int)bytes : 200;
}

/* Prints where two readings differ, the first few times. */
static TEST_UNUSED void items_show(const struct items_text *want, const struct items_text *got)
{
    static int shown;
    size_t i = 0, line = 0;
    if (shown++ >= 10)
        return;
    while (i < want->bytes && i < got->bytes && want->text[i] == got->text[i])
        if (want->text[i++] == '\n')
            line = i;
    printf("  want: %.*s\n", items_some(want->text + line), want->text + line);
    printf("  got:  %.*s\n", items_some(got->text + line), got->text + line);
}

#endif
