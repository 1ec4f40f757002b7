/* fuzz_roundtrip.c - items, written and read back, are the same items.
 *
 * The first 3 bytes choose: [0] stable keys (1), a reserve (2), the shape to write (bits 2-3), the
 * shape to read (bits 4-5), and whether the items are read from a body (128) or made of the bytes
 * one by one (see make_item); [1] and [2] the small capacity. The rest is the body, or those bytes.
 *
 * The items are written with ample room, and each result is compared with what a simple model of
 * the rules expects; then measured; then written with the small capacity, and with just what
 * msc4203_writer_needed() asks for. Whatever was accepted is valid JSON that a reader reads back.
 */
#include "reading.h"

#include <limits.h>

const char fuzz_name[] = "fuzz_roundtrip";

enum { CHOICES = 3 };
#define GUARD ((size_t)32) /* bytes beside a buffer that nobody may write */

static const char reserved_id[] = "a\n\"\xc3\xa9"; /* takes more bytes written than read */

/* ------------------------------------------------------------------------------------------------
 * Making items
 * ------------------------------------------------------------------------------------------------
 */

struct source {
    const uint8_t *data;
    size_t bytes;
};

static unsigned take(struct source *from)
{
    if (!from->bytes)
        return 0;
    from->bytes--;
    return *from->data++;
}

static msc4203_span take_span(struct source *from, size_t bytes)
{
    msc4203_span span;
    span.len = bytes < from->bytes ? bytes : from->bytes;
    span.ptr = (const char *)from->data;
    from->data += span.len;
    from->bytes -= span.len;
    return span;
}

/* `count` times `open`, `inner`, `count` times `close`; valid until the next call. */
static msc4203_span wrap(const char *open, msc4203_span inner, char close, size_t count)
{
    static char text[1 << 17];
    size_t i, used = 0, step = strlen(open);
    msc4203_span span;
    for (i = 0; i < count; i++, used += step)
        memcpy(text + used, open, step);
    if (inner.len > sizeof text / 2)
        inner.len = sizeof text / 2;
    if (inner.len)
        memcpy(text + used, inner.ptr, inner.len);
    used += inner.len;
    memset(text + used, close, count);
    span.ptr = text;
    span.len = used + count;
    return span;
}

static msc4203_span make_content(struct source *from, const msc4203_item *last)
{
    msc4203_span none = {NULL, 0}, empty = {"{}", 2}, list = {"[]", 2};
    unsigned how = take(from);
    size_t bytes;
    switch (how % 9) {
    case 0:
        return none;
    case 1:
        return empty;
    case 2:
        return list;
    case 3:
        return last->content;
    case 4:
        bytes = take(from);
        return take_span(from, bytes * 4);
    case 5:
        bytes = take(from);
        return wrap("{\"\\u006b\":", take_span(from, bytes), '}', 1);
    case 6:
        bytes = take(from);
        return wrap("[", take_span(from, bytes), ']', 1);
    case 7:
        bytes = take(from);
        return wrap("{}", take_span(from, bytes % 4), ' ', 1);
    default:
        bytes = (size_t)take(from) * 4;
        return wrap("{\"k\":", list, '}', bytes + take(from) % 4);
    }
}

/* One item out of some bytes: a byte for the kind, one for each string's length (a string may be
 * absent, or that of the item before), and the content. */
static void make_item(struct source *from, struct fuzz_items *items)
{
    msc4203_item item, last;
    unsigned kind = take(from);
    int i;
    memset(&last, 0, sizeof last);
    if (items->count)
        last = items->list[items->count - 1].item;
    memset(&item, 0, sizeof item);
    item.kind = kind < 224 ? 1 << kind % 9 : kind < 236 ? last.kind : (int)kind - 240;
    if (kind == 241)
        item.error = MSC4203_E_FIELD_TWICE;
    for (i = 0; i < 5; i++) {
        unsigned length = take(from);
        if (length >= 0xc0)
            *fuzz_span(&item, i) = fuzz_span_of(&last, i);
        else if (length != 0xbf)
            *fuzz_span(&item, i) = take_span(from, length % 32);
    }
    item.content = make_content(from, &last);
    fuzz_items_add(items, &item);
}

static void make_items(unsigned choice, const uint8_t *data, size_t bytes, struct fuzz_items *items)
{
    struct fuzz_way way;
    struct fuzz_reading reading;
    struct source from;
    from.data = data;
    from.bytes = bytes;
    if (!(choice & 128)) {
        while (from.bytes)
            make_item(&from, items);
        return;
    }
    memset(&way, 0, sizeof way);
    way.shape = choice >> 4 & 3;
    way.kinds = MSC4203_ALL_KINDS;
    way.scratch_bytes = bytes;
    fuzz_read(&way, data, bytes, &reading);
    *items = reading.items;
    fuzz_items_free(&reading.end);
}

/* ------------------------------------------------------------------------------------------------
 * What the rules say
 * ------------------------------------------------------------------------------------------------
 */

struct model {
    int shape;
    const struct fuzz_items *items;
    const unsigned char *accepted; /* of each item so far */
};

static int is_id(int kind)
{
    return kind == MSC4203_MESSAGE_ID || kind == MSC4203_NEXT_BATCH;
}

static int is_list(int kind)
{
    return kind == MSC4203_DEVICE_CHANGED || kind == MSC4203_DEVICE_LEFT;
}

static int is_map(int shape, int kind)
{
    return kind == MSC4203_KEY_COUNTS || kind == MSC4203_FALLBACK_TYPES ||
           (kind == MSC4203_TO_DEVICE && (shape == MSC4203_SEND || shape == MSC4203_EDU));
}

static int has_place(int shape, int kind)
{
    switch (kind) {
    case MSC4203_TO_DEVICE:
        return 1;
    case MSC4203_MESSAGE_ID:
        return shape == MSC4203_EDU;
    case MSC4203_NEXT_BATCH:
        return shape == MSC4203_SYNC;
    case MSC4203_EVENT:
    case MSC4203_EPHEMERAL:
    case MSC4203_DEVICE_CHANGED:
    case MSC4203_DEVICE_LEFT:
    case MSC4203_KEY_COUNTS:
    case MSC4203_FALLBACK_TYPES:
        return shape == MSC4203_TRANSACTION;
    default:
        return 0;
    }
}

/* Does the body tell this span (numbered as in fuzz_span) of this kind? */
static int is_told(int shape, int kind, int span)
{
    switch (span) {
    case 0:
    case 1:
        return kind == MSC4203_TO_DEVICE && shape != MSC4203_SEND;
    case 2:
        return is_list(kind) || is_map(shape, kind) ||
               (kind == MSC4203_TO_DEVICE && shape == MSC4203_TRANSACTION);
    case 3:
        return is_map(shape, kind) || (kind == MSC4203_TO_DEVICE && shape == MSC4203_TRANSACTION);
    case 4:
        return is_id(kind);
    default:
        return !is_id(kind) && !is_list(kind);
    }
}

/* Is something wrong with the item itself, wherever it is to be written? */
static int is_faulty(int shape, const msc4203_item *item)
{
    int i, kind = item->kind, deep, depth;
    msc4203_span content = item->content;
    char *nested;
    if (item->error || !has_place(shape, kind))
        return 1;
    for (i = 0; i < FUZZ_SPANS; i++) {
        msc4203_span span = fuzz_span_of(item, i);
        if (is_told(shape, kind, i) && (!span.ptr || !fuzz_utf8(span.ptr, span.len)))
            return 1;
    }
    if (!is_told(shape, kind, 5))
        return 0;
    if (fuzz_verdict(content.ptr, content.len, NULL) != MSC4203_END ||
        fuzz_flags(content.ptr, content.len))
        return 1;
    while (content.len && strchr(" \t\n\r", *content.ptr)) {
        content.ptr++;
        content.len--;
    }
    if (*content.ptr != (kind == MSC4203_FALLBACK_TYPES ? '[' : '{'))
        return 1;
    /* Within as many brackets as will be open around it, is it still not too deep? */
    depth = kind == MSC4203_EVENT || kind == MSC4203_EPHEMERAL ? 2 : shape == MSC4203_SYNC ? 4 : 3;
    nested = (char *)fuzz_alloc(content.len + 4);
    memset(nested, '[', 4);
    memcpy(nested + depth, content.ptr, content.len);
    deep = fuzz_verdict(nested, content.len + (size_t)depth, NULL) == MSC4203_E_TOO_DEEP;
    free(nested);
    return deep;
}

/* Whether item `new` may stand behind those that were accepted: MSC4203_OK, MSC4203_E_ORDER,
 * MSC4203_E_SECOND, or 1 for either of the two. */
static int expected_order(const struct model *model, size_t new)
{
    const msc4203_item *item = &model->items->list[new].item, *other;
    int kind = item->kind, left = 0, user_left = 0, second = 0, order = 0;
    size_t i;
    /* Backwards: `left` once an item of another kind has been met, `user_left` of another user. */
    for (i = new; i-- > 0;) {
        other = &model->items->list[i].item;
        if (!model->accepted[i])
            continue;
        if (other->kind != kind) {
            left = 1;
            continue;
        }
        second |= is_id(kind);
        order |= left;
        if (kind == MSC4203_TO_DEVICE && model->shape == MSC4203_EDU)
            second |= !fuzz_same_span(item->sender, other->sender) ||
                      !fuzz_same_span(item->type, other->type);
        if (!is_map(model->shape, kind))
            continue;
        if (!fuzz_same_span(item->user_id, other->user_id))
            user_left = 1;
        else
            order |= user_left || fuzz_same_span(item->device_id, other->device_id);
    }
    /* The two kinds of device lists share a key, which is left when anything else comes. */
    for (i = new, left = 0; is_list(kind) && i-- > 0;) {
        other = &model->items->list[i].item;
        if (!model->accepted[i])
            continue;
        order |= is_list(other->kind) && left;
        left |= !is_list(other->kind);
    }
    if (second && order && !is_id(kind))
        return 1;
    return second ? MSC4203_E_SECOND : order ? MSC4203_E_ORDER : MSC4203_OK;
}

/* ------------------------------------------------------------------------------------------------
 * Writing
 * ------------------------------------------------------------------------------------------------
 */

/* One body written, or measured. */
struct writing {
    int shape;
    unsigned flags;
    size_t capacity;
    int measure;  /* without a buffer */
    int reserve;  /* ask for room for an id at the end */
    int kept;     /* there was such room */
    int stop;     /* at the first item that is full */
    int *results; /* for each item */
    unsigned char *accepted;
    size_t accepted_count;
    size_t first_full, needed; /* the first item that did not fit, or SIZE_MAX */
    char *memory, *buffer;     /* with guards on both sides */
    size_t bytes;
    int result; /* of the end */
};

static int guards_hold(const struct writing *w)
{
    size_t i;
    for (i = 0; i < GUARD; i++)
        if (w->memory[i] != 0x5a || w->buffer[w->capacity + i] != 0x5a)
            return 0;
    return 1;
}

/* An error that sticks is returned by everything until it is forgotten. */
static void check_sticks(msc4203_writer *writer, const msc4203_item *item, int result)
{
    size_t bytes = 4711;
    FUZZ_CHECK(msc4203_writer_item(writer, item) == result);
    FUZZ_CHECK(msc4203_writer_end(writer, &bytes) == result);
    FUZZ_CHECK(bytes == 4711);
    FUZZ_CHECK(msc4203_writer_clear(writer) == result);
}

static void write_id(msc4203_writer *writer, const struct writing *w)
{
    msc4203_item item;
    int result;
    memset(&item, 0, sizeof item);
    item.kind = w->shape == MSC4203_EDU ? MSC4203_MESSAGE_ID : MSC4203_NEXT_BATCH;
    item.id.ptr = reserved_id;
    item.id.len = sizeof reserved_id - 1;
    result = msc4203_writer_item(writer, &item);
    FUZZ_CHECK(result == MSC4203_OK || (result == MSC4203_E_FULL && !w->kept && !w->measure));
}

/* Ends the body, with an id if it has none. */
static void write_end(msc4203_writer *writer, struct writing *w, int has_id)
{
    int needs_id = w->shape == MSC4203_EDU || w->shape == MSC4203_SYNC;
    msc4203_item item;
    memset(&item, 0, sizeof item);
    if (needs_id && !has_id) {
        FUZZ_CHECK(msc4203_writer_end(writer, &w->bytes) == MSC4203_E_FIELD_MISSING);
        write_id(writer, w);
    }
    w->result = msc4203_writer_end(writer, &w->bytes);
    FUZZ_CHECK(w->result == MSC4203_OK ||
               (w->result == MSC4203_E_FIELD_MISSING && needs_id && !has_id && !w->kept));
    if (w->result == MSC4203_OK)
        FUZZ_CHECK(msc4203_writer_item(writer, &item) == MSC4203_E_USAGE);
}

static void write_items(struct writing *w, const struct fuzz_items *items)
{
    msc4203_writer *writer = (msc4203_writer *)fuzz_alloc(sizeof *writer);
    int has_id = 0;
    size_t i;
    w->results = (int *)fuzz_alloc((items->count + 1) * sizeof *w->results);
    w->accepted = (unsigned char *)fuzz_alloc(items->count + 1);
    memset(w->accepted, 0, items->count + 1);
    w->memory = (char *)fuzz_alloc(w->capacity + 2 * GUARD);
    memset(w->memory, 0x5a, w->capacity + 2 * GUARD);
    w->buffer = w->memory + GUARD;
    w->accepted_count = w->bytes = w->needed = 0;
    w->kept = 0;
    w->first_full = SIZE_MAX;
    w->result = msc4203_writer_begin(writer, w->shape, w->flags, w->measure ? NULL : w->buffer,
                                     w->capacity);
    if (w->result == MSC4203_OK && w->reserve)
        w->kept = msc4203_writer_reserve(writer, 17 + 6 * (sizeof reserved_id - 1)) == MSC4203_OK;
    for (i = 0; w->result == MSC4203_OK && i < items->count; i++) {
        const msc4203_item *item = &items->list[i].item;
        int result = w->results[i] = msc4203_writer_item(writer, item);
        FUZZ_CHECK(result == MSC4203_OK || result < 0);
        w->accepted[i] = result == MSC4203_OK;
        w->accepted_count += w->accepted[i];
        has_id |= w->accepted[i] && is_id(item->kind);
        if (result == MSC4203_E_FULL && w->first_full == SIZE_MAX) {
            w->first_full = i;
            w->needed = msc4203_writer_needed(writer);
            FUZZ_CHECK(w->needed > w->capacity);
            if (w->stop)
                break;
        } else if (result < 0 && result != MSC4203_E_FULL) {
            check_sticks(writer, item, result);
        }
    }
    if (w->result == MSC4203_OK)
        write_end(writer, w, has_id);
    else
        FUZZ_CHECK(w->result == MSC4203_E_FULL && !w->measure);
    if (w->result == MSC4203_E_FULL)
        w->needed = msc4203_writer_needed(writer);
    FUZZ_CHECK(guards_hold(w));
    free(writer);
}

static void writing_free(struct writing *w)
{
    free(w->results);
    free(w->accepted);
    free(w->memory);
}

/* What was written is valid, and reads back as what was accepted. */
static void check_written(const struct writing *w, const struct fuzz_items *items)
{
    struct fuzz_way way;
    struct fuzz_reading reading;
    size_t i, k = 0;
    int s, own_id = 0;
    if (w->result != MSC4203_OK)
        return;
    FUZZ_CHECK(w->bytes <= w->capacity);
    FUZZ_CHECK(fuzz_flags(w->buffer, w->bytes) == 0);
    memset(&way, 0, sizeof way);
    way.shape = w->shape;
    way.kinds = MSC4203_ALL_KINDS;
    way.scratch_bytes = w->bytes;
    fuzz_read(&way, w->buffer, w->bytes, &reading);
    FUZZ_CHECK(reading.result == MSC4203_END);
    for (i = 0; i < items->count; i++) {
        const msc4203_item *a = &items->list[i].item, *b;
        if (!w->accepted[i])
            continue;
        FUZZ_CHECK(k < reading.items.count);
        b = &reading.items.list[k++].item;
        FUZZ_CHECK(b->kind == a->kind && b->error == MSC4203_OK && b->flags == 0);
        own_id |= is_id(a->kind);
        for (s = 0; s < FUZZ_SPANS; s++) {
            msc4203_span span = fuzz_span_of(a, s), none = {NULL, 0};
            /* White space around a content is not part of it. */
            while (s == 5 && span.len && strchr(" \t\n\r", span.ptr[0])) {
                span.ptr++;
                span.len--;
            }
            while (s == 5 && span.len && strchr(" \t\n\r", span.ptr[span.len - 1]))
                span.len--;
            FUZZ_CHECK(
                fuzz_same_span(is_told(w->shape, a->kind, s) ? span : none, fuzz_span_of(b, s)));
        }
    }
    if (!own_id && (w->shape == MSC4203_EDU || w->shape == MSC4203_SYNC)) {
        FUZZ_CHECK(k < reading.items.count);
        FUZZ_CHECK(msc4203_span_equal(&reading.items.list[k++].item.id, reserved_id));
    }
    FUZZ_CHECK(k == reading.items.count);
    fuzz_reading_free(&reading);
}

/* ------------------------------------------------------------------------------------------------
 * The ways to write
 * ------------------------------------------------------------------------------------------------
 */

/* With ample room: each result is what the rules say. */
static void check_results(const struct writing *w, const struct fuzz_items *items)
{
    struct model model;
    size_t i;
    model.shape = w->shape;
    model.items = items;
    model.accepted = w->accepted;
    FUZZ_CHECK(w->result == MSC4203_OK && w->first_full == SIZE_MAX);
    for (i = 0; i < items->count; i++) {
        int result = w->results[i], expected;
        if (is_faulty(w->shape, &items->list[i].item)) {
            FUZZ_CHECK(result != MSC4203_OK);
            continue;
        }
        expected = expected_order(&model, i);
        if (expected == 1)
            FUZZ_CHECK(result == MSC4203_E_ORDER || result == MSC4203_E_SECOND);
        else
            FUZZ_CHECK(result == expected);
    }
}

/* Measuring what was accepted gives the same length. */
static void check_measure(const struct writing *ample, const struct fuzz_items *items)
{
    struct fuzz_items accepted = {NULL, 0, 0};
    struct writing w = *ample;
    size_t i;
    for (i = 0; i < items->count; i++)
        if (ample->accepted[i])
            fuzz_items_add(&accepted, &items->list[i].item);
    w.measure = 1;
    w.capacity = 0;
    write_items(&w, &accepted);
    FUZZ_CHECK(w.accepted_count == accepted.count);
    FUZZ_CHECK(w.result == MSC4203_OK && w.bytes == ample->bytes);
    writing_free(&w);
    fuzz_items_free(&accepted);
}

/* With little room: what is full says what it needs; with that it is written, with one byte less it
 * is not; what is written is the same in both. */
static void check_small(const struct writing *ample, const struct fuzz_items *items,
                        size_t capacity)
{
    struct writing small = *ample, exact = *ample, less = *ample;
    small.capacity = capacity;
    write_items(&small, items);
    check_written(&small, items);
    if (small.first_full == SIZE_MAX && small.result == MSC4203_OK) {
        FUZZ_CHECK(small.bytes == ample->bytes);
        FUZZ_CHECK(!memcmp(small.buffer, ample->buffer, small.bytes));
    } else if (small.first_full != SIZE_MAX) {
        exact.capacity = small.needed;
        less.capacity = small.needed - 1;
        exact.stop = less.stop = 1;
        exact.reserve = less.reserve = small.kept;
        write_items(&exact, items);
        write_items(&less, items);
        FUZZ_CHECK(exact.first_full > small.first_full);
        FUZZ_CHECK(exact.results[small.first_full] == MSC4203_OK);
        FUZZ_CHECK(less.first_full == small.first_full);
        FUZZ_CHECK(less.needed == small.needed);
        check_written(&exact, items);
        check_written(&less, items);
        writing_free(&exact);
        writing_free(&less);
    } else if (small.result == MSC4203_E_FULL) {
        FUZZ_CHECK(small.needed > capacity && small.needed <= ample->bytes);
    }
    writing_free(&small);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_items items = {NULL, 0, 0};
    struct writing ample;
    size_t i, capacity;
    int s;
    if (size < CHOICES)
        return 0;
    make_items(data[0], data + CHOICES, size - CHOICES, &items);
    capacity = data[1] | (size_t)data[2] << 8;
    memset(&ample, 0, sizeof ample);
    ample.shape = data[0] >> 2 & 3;
    ample.flags = data[0] & 1;
    ample.reserve = data[0] >> 1 & 1;
    ample.capacity = 512;
    for (i = 0; i < items.count; i++) {
        fuzz_check_algorithms(&items.list[i].item, 0);
        for (s = 0; s < FUZZ_SPANS; s++)
            ample.capacity += 32 + 6 * fuzz_span_of(&items.list[i].item, s).len;
    }
    write_items(&ample, &items);
    check_results(&ample, &items);
    check_written(&ample, &items);
    check_measure(&ample, &items);
    check_small(&ample, &items, capacity % (ample.bytes + 2));
    writing_free(&ample);
    fuzz_items_free(&items);
    return 0;
}
