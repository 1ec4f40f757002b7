/* test_writer.c - the writer: every capacity, every refusal, order, measuring; and round trips
 * between all shapes, over the captured bodies and over random items. */
#include "items.h"

/* ------------------------------------------------------------------------------------------------
 * Lists of items
 * ------------------------------------------------------------------------------------------------
 */

#define MOST 2000 /* items */

struct list {
    msc4203_item items[MOST];
    size_t count;
    char *blocks[MOST]; /* what the spans point to */
};

static msc4203_span span_of(const char *text)
{
    msc4203_span span;
    span.ptr = text;
    span.len = text ? strlen(text) : 0;
    return span;
}

/* An item of strings that live for ever. */
static msc4203_item item_of(int kind, const char *user, const char *device, const char *content)
{
    msc4203_item item;
    memset(&item, 0, sizeof item);
    item.kind = kind;
    if (kind == MSC4203_TO_DEVICE) {
        item.sender = span_of("@s:x");
        item.type = span_of("t");
    }
    if (kind == MSC4203_MESSAGE_ID || kind == MSC4203_NEXT_BATCH)
        item.id = span_of(user);
    else
        item.user_id = span_of(user);
    item.device_id = span_of(device);
    item.content = span_of(content);
    return item;
}

static msc4203_item message(const char *user, const char *device, const char *content)
{
    return item_of(MSC4203_TO_DEVICE, user, device, content);
}

static char *span_copy(msc4203_span *span, char *to)
{
    if (!span->ptr)
        return to;
    memcpy(to, span->ptr, span->len);
    span->ptr = to;
    return to + span->len;
}

static void list_add(struct list *list, const msc4203_item *item)
{
    msc4203_item *copy = &list->items[list->count];
    size_t bytes = item->sender.len + item->type.len + item->user_id.len + item->device_id.len +
                   item->content.len + item->id.len;
    char *at;
    if (list->count == sizeof list->items / sizeof *list->items)
        exit(2);
    *copy = *item;
    at = list->blocks[list->count++] = (char *)malloc(bytes + 1);
    at = span_copy(&copy->sender, at);
    at = span_copy(&copy->type, at);
    at = span_copy(&copy->user_id, at);
    at = span_copy(&copy->device_id, at);
    at = span_copy(&copy->content, at);
    span_copy(&copy->id, at);
}

static void list_clear(struct list *list)
{
    while (list->count)
        free(list->blocks[--list->count]);
}

/* Reads a body that must be good, in one piece or in chunks, and appends its items. */
static int list_read(struct list *list, int shape, const char *body, size_t bytes, size_t chunk,
                     const msc4203_item *preset)
{
    static char scratch[1 << 18];
    msc4203_reader reader;
    const msc4203_item *item;
    size_t at = 0;
    int result;
    msc4203_reader_init(&reader, shape, MSC4203_ALL_KINDS, scratch, sizeof scratch);
    if (preset)
        msc4203_reader_preset(&reader, preset);
    do {
        size_t n = chunk && chunk < bytes - at ? chunk : bytes - at;
        msc4203_reader_feed(&reader, body + at, n, at + n == bytes);
        at += n;
        while ((result = msc4203_reader_next(&reader, &item)) == MSC4203_ITEM)
            list_add(list, item);
    } while (result == MSC4203_MORE);
    return result;
}

static int is_json(const char *body, size_t bytes)
{
    msc4203_reader reader;
    const msc4203_item *item;
    msc4203_reader_init(&reader, MSC4203_JSON, 0, NULL, 0);
    msc4203_reader_feed(&reader, body, bytes, 1);
    return msc4203_reader_next(&reader, &item) == MSC4203_END;
}

/* The items as text, without their offsets. */
static struct items_text list_text(const struct list *list)
{
    struct items_text text = {NULL, 0, 0};
    size_t i;
    items_put(&text, "", 0);
    for (i = 0; i < list->count; i++) {
        msc4203_item item = list->items[i];
        item.offset = 0;
        item.index = 0;
        items_put_item(&text, &item);
    }
    return text;
}

static int list_same(const struct list *want, const struct list *got)
{
    struct items_text a = list_text(want), b = list_text(got);
    int same = items_same(&a, &b);
    if (!same)
        items_show(&a, &b);
    free(a.text);
    free(b.text);
    return same;
}

/* What is left of an item in a shape: SEND has no sender and type, SYNC no recipient. */
static msc4203_item item_in(const msc4203_item *item, int shape)
{
    msc4203_item left = *item;
    msc4203_span none = {NULL, 0};
    if (shape == MSC4203_SEND)
        left.sender = left.type = none;
    if (shape == MSC4203_SYNC)
        left.user_id = left.device_id = none;
    return left;
}

/* ------------------------------------------------------------------------------------------------
 * Writing
 * ------------------------------------------------------------------------------------------------
 */

#define GUARD ((size_t)48)

/* A body in a block with guards on both sides. */
struct body {
    char *block, *at;
    size_t capacity, bytes;
    int begun, ended; /* results */
    char accepted[MOST];
    size_t refused, needed; /* the first item that did not fit, and the capacity it needs */
};

static void body_begin(struct body *body, size_t capacity)
{
    memset(body, 0, sizeof *body);
    body->capacity = capacity;
    body->block = (char *)malloc(capacity + 2 * GUARD);
    if (!body->block)
        exit(2);
    memset(body->block, 0x7e, capacity + 2 * GUARD);
    body->at = body->block + GUARD;
    body->refused = (size_t)-1;
}

static int body_guarded(const struct body *body)
{
    size_t i;
    for (i = 0; i < GUARD; i++)
        if (body->block[i] != 0x7e || body->at[body->capacity + i] != 0x7e)
            return 0;
    return 1;
}

/* Writes those items that `only` marks, or all; stops at the first error that is not "full". */
static void body_write(struct body *body, int shape, unsigned flags, const struct list *list,
                       const char *only, size_t reserve)
{
    msc4203_writer writer;
    size_t i;
    memset(&writer, 0x3c, sizeof writer);
    body->begun = msc4203_writer_begin(&writer, shape, flags, body->at, body->capacity);
    if (body->begun == MSC4203_OK && reserve)
        body->begun = msc4203_writer_reserve(&writer, reserve);
    for (i = 0; i < list->count && body->begun == MSC4203_OK; i++) {
        int result;
        if (only && !only[i])
            continue;
        result = msc4203_writer_item(&writer, &list->items[i]);
        body->accepted[i] = result == MSC4203_OK;
        if (result == MSC4203_E_FULL && body->refused == (size_t)-1) {
            body->refused = i;
            body->needed = msc4203_writer_needed(&writer);
        } else if (result != MSC4203_OK && result != MSC4203_E_FULL) {
            ITEMS_FAIL("a good item is refused", "");
            printf("  item %lu: %s\n", (unsigned long)i, items_result(result));
            break;
        }
    }
    body->bytes = (size_t)-1;
    body->ended = msc4203_writer_end(&writer, &body->bytes);
}

static int measure(int shape, unsigned flags, const struct list *list, size_t *bytes)
{
    msc4203_writer writer;
    size_t i;
    int result = msc4203_writer_begin(&writer, shape, flags, NULL, 0);
    for (i = 0; i < list->count && result == MSC4203_OK; i++)
        result = msc4203_writer_item(&writer, &list->items[i]);
    return result == MSC4203_OK ? msc4203_writer_end(&writer, bytes) : result;
}

/* What a body of these items holds, in chunks of any size. */
static int holds(const struct body *body, int shape, const struct list *list, const char *only,
                 const msc4203_item *preset)
{
    static struct list want, got;
    size_t i, chunk = test_below(3) ? 0 : 1 + test_below(20);
    int same;
    if (shape == MSC4203_EDU)
        chunk = 0; /* its messages may come first */
    for (i = 0; i < list->count; i++)
        if (!only || only[i]) {
            msc4203_item item = list->items[i];
            if (!preset)
                item = item_in(&item, shape);
            list_add(&want, &item);
        }
    same = list_read(&got, shape, body->at, body->bytes, chunk, preset) == MSC4203_END &&
           list_same(&want, &got) && is_json(body->at, body->bytes);
    list_clear(&want);
    list_clear(&got);
    return same;
}

/* ------------------------------------------------------------------------------------------------
 * Every capacity
 * ------------------------------------------------------------------------------------------------
 */

/* The capacity that a refused item is said to need is enough, and one byte less is not. */
static int needed_is_exact(const struct body *body, int shape, unsigned flags,
                           const struct list *list, size_t reserve)
{
    struct body again;
    char only[MOST];
    size_t less;
    int good = body->needed > body->capacity;
    memcpy(only, body->accepted, sizeof only);
    memset(only + body->refused, 0, sizeof only - body->refused);
    only[body->refused] = 1;
    for (less = 0; less < 2 && good; less++) {
        body_begin(&again, body->needed - less);
        body_write(&again, shape, flags, list, only, reserve);
        good = body_guarded(&again) &&
               (again.ended == MSC4203_OK || again.ended == MSC4203_E_FIELD_MISSING);
        good = good && again.refused == (less ? body->refused : (size_t)-1);
        free(again.block);
    }
    return good;
}

/* One capacity. Returns whether everything fits. */
static int check_capacity(const char *name, int shape, unsigned flags, const struct list *list,
                          size_t capacity, size_t reserve)
{
    struct body body, again;
    int id = shape == MSC4203_EDU || shape == MSC4203_SYNC, last = 0, all; /* id: it is missing */
    size_t i;
    body_begin(&body, capacity);
    body_write(&body, shape, flags, list, NULL, reserve);
    CHECK_CASE(body_guarded(&body), name);
    if (body.begun != MSC4203_OK) {
        CHECK_CASE(body.begun == MSC4203_E_FULL && (reserve || body.ended == MSC4203_E_FULL), name);
        free(body.block);
        return 0;
    }
    for (i = 0; i < list->count; i++) {
        last = list->items[i].kind;
        if (body.accepted[i] && list->items[i].id.ptr)
            id = 0;
    }
    if (reserve && (last == MSC4203_MESSAGE_ID || last == MSC4203_NEXT_BATCH))
        CHECK_CASE(body.accepted[list->count - 1], name); /* that is what was reserved for */
    if (body.ended == MSC4203_OK) {
        CHECK_CASE(body.bytes <= capacity, name);
        CHECK_CASE(holds(&body, shape, list, body.accepted, NULL), name);
        body_begin(&again, capacity); /* what was refused has left no trace */
        body_write(&again, shape, flags, list, body.accepted, reserve);
        CHECK_CASE(again.ended == MSC4203_OK && again.bytes == body.bytes &&
                       memcmp(again.at, body.at, body.bytes) == 0,
                   name);
        free(again.block);
    } else
        CHECK_CASE(id && body.ended == MSC4203_E_FIELD_MISSING, name);
    all = body.refused == (size_t)-1;
    if (!all)
        CHECK_CASE(needed_is_exact(&body, shape, flags, list, reserve), name);
    free(body.block);
    return all && body.ended == MSC4203_OK;
}

static void check_capacities(const char *name, int shape, unsigned flags, const struct list *list)
{
    struct body body, other;
    size_t bytes = 0, capacity, share = test_share(), reserve = 17;
    CHECK_CASE(measure(shape, flags, list, &bytes) == MSC4203_OK, name);
    body_begin(&body, bytes);
    body_write(&body, shape, flags, list, NULL, 0);
    CHECK_CASE(body.ended == MSC4203_OK && body.bytes == bytes && body_guarded(&body), name);
    CHECK_CASE(holds(&body, shape, list, NULL, NULL), name);
    body_begin(&other, bytes + 100); /* the same bytes, whatever was there before */
    memset(other.at, 0xee, other.capacity);
    body_write(&other, shape, flags, list, NULL, 0);
    CHECK_CASE(other.bytes == bytes && memcmp(other.at, body.at, bytes) == 0, name);
    free(body.block);
    free(other.block);
    for (capacity = test_below(share); capacity < bytes; capacity += share)
        CHECK_CASE(!check_capacity(name, shape, flags, list, capacity, 0), name);
    CHECK_CASE(check_capacity(name, shape, flags, list, bytes, 0), name);
    CHECK_CASE(check_capacity(name, shape, flags, list, bytes + 1, 0), name);
    if (list->count && list->items[list->count - 1].id.ptr) {
        reserve += 6 * list->items[list->count - 1].id.len;
        for (capacity = test_below(share); capacity <= bytes + reserve; capacity += share)
            check_capacity(name, shape, flags, list, capacity, reserve);
    }
}

static void check_all_capacities(void)
{
    static struct list list;
    msc4203_item items[16];
    size_t i;
    check_capacities("empty transaction", MSC4203_TRANSACTION, 0, &list);
    check_capacities("empty send", MSC4203_SEND, 0, &list);

    items[0] = item_of(MSC4203_EVENT, NULL, NULL, "{\"type\":\"m.room.message\"}");
    items[1] = item_of(MSC4203_EVENT, NULL, NULL, "{}");
    items[2] = message("@u:x", "D", "{\"k\":[1,2]}");
    items[3] = message("@\"u\\:\x01", "", "{}");
    items[4] = item_of(MSC4203_EPHEMERAL, NULL, NULL, "{\"type\":\"m.typing\"}");
    items[5] = item_of(MSC4203_DEVICE_CHANGED, "@c:x", NULL, NULL);
    items[6] = item_of(MSC4203_DEVICE_CHANGED, "\n", NULL, NULL);
    items[7] = item_of(MSC4203_DEVICE_LEFT, "@l:x", NULL, NULL);
    items[8] = item_of(MSC4203_KEY_COUNTS, "@u:x", "D", "{\"signed_curve25519\":5}");
    items[9] = item_of(MSC4203_KEY_COUNTS, "@u:x", "E", "{}");
    items[10] = item_of(MSC4203_KEY_COUNTS, "@a:x", "D", "{}");
    items[11] = item_of(MSC4203_FALLBACK_TYPES, "@u:x", "D", "[]");
    items[12] = item_of(MSC4203_FALLBACK_TYPES, "@v:x", "D", "[\"signed_curve25519\"]");
    for (i = 0; i < 13; i++)
        list_add(&list, &items[i]);
    check_capacities("transaction, unstable keys", MSC4203_TRANSACTION, MSC4203_UNSTABLE_KEYS,
                     &list);
    check_capacities("transaction, stable keys", MSC4203_TRANSACTION, MSC4203_STABLE_KEYS, &list);
    list_clear(&list);
    for (i = 13; i; i--) /* the other way round: fallback types first, events last */
        list_add(&list, &items[i - 1]);
    check_capacities("transaction, backwards", MSC4203_TRANSACTION, 0, &list);
    list_clear(&list);

    items[4] = message("@u:x", "E", "{}");
    items[5] = message("@a:x", "D\x7f\xc3\xa9", "{\"a\":\"\\u0041\"}");
    items[6] = message("@a:x", "C", "{}");
    list_add(&list, &items[2]);
    for (i = 4; i < 7; i++)
        list_add(&list, &items[i]);
    check_capacities("send", MSC4203_SEND, 0, &list);
    items[7] = item_of(MSC4203_MESSAGE_ID, "id-\"1\"\x1f", NULL, NULL);
    list_add(&list, &items[7]);
    check_capacities("edu, id last", MSC4203_EDU, 0, &list);
    list_clear(&list);
    list_add(&list, &items[7]);
    list_add(&list, &items[2]);
    list_add(&list, &items[4]);
    check_capacities("edu, id first", MSC4203_EDU, MSC4203_STABLE_KEYS, &list);
    list_clear(&list);
    /* Their lengths tell them apart while measuring: a 32-bit FNV-1a hash of them is the same. */
    items[5] = message("@u1c1f7c:x", "D", "{}");
    items[6] = message("@u48e7a73:x", "D", "{}");
    list_add(&list, &items[5]);
    list_add(&list, &items[6]);
    check_capacities("send, users of one hash", MSC4203_SEND, 0, &list);
    list_clear(&list);

    items[8] = item_of(MSC4203_NEXT_BATCH, "s1_2\\", NULL, NULL);
    items[2].user_id.ptr = items[2].device_id.ptr = NULL;
    items[2] = item_in(&items[2], MSC4203_SYNC);
    items[4] = item_in(&items[4], MSC4203_SYNC);
    list_add(&list, &items[8]);
    check_capacities("sync, token alone", MSC4203_SYNC, 0, &list);
    list_add(&list, &items[2]);
    list_add(&list, &items[4]);
    check_capacities("sync, token first", MSC4203_SYNC, 0, &list);
    list_clear(&list);
    list_add(&list, &items[4]);
    list_add(&list, &items[2]);
    list_add(&list, &items[8]);
    check_capacities("sync, token last", MSC4203_SYNC, 0, &list);
    list_clear(&list);
}

/* ------------------------------------------------------------------------------------------------
 * Refusals
 * ------------------------------------------------------------------------------------------------
 */

/* Between `before` and `after` the item is refused with `error`, which sticks until it is cleared,
 * and the body is the same as without it. A measuring writer says the same. */
static void check_refused(const char *name, int shape, const struct list *before,
                          const msc4203_item *item, const struct list *after, int error)
{
    msc4203_writer writer;
    static char bodies[3][20000];
    size_t lengths[3] = {0, 0, 0}, i;
    int pass, result;
    for (pass = 0; pass < 3; pass++) { /* 0: with it, 1: without it, 2: measured with it */
        char *buffer = pass == 2 ? NULL : bodies[pass];
        result = msc4203_writer_begin(&writer, shape, 0, buffer, sizeof bodies[0]);
        CHECK_CASE(result == MSC4203_OK, name);
        for (i = 0; i < before->count; i++)
            CHECK_CASE(!msc4203_writer_item(&writer, &before->items[i]), name);
        if (pass != 1) {
            result = msc4203_writer_item(&writer, item);
            if (!CHECK_CASE(result == error, name))
                printf("  %s, not %s\n", items_result(result), items_result(error));
            if (result < 0) {
                if (after->count)
                    CHECK_CASE(msc4203_writer_item(&writer, &after->items[0]) == result, name);
                CHECK_CASE(msc4203_writer_end(&writer, &lengths[pass]) == result, name);
                CHECK_CASE(msc4203_writer_clear(&writer) == result, name);
                CHECK_CASE(msc4203_writer_clear(&writer) == MSC4203_OK, name);
            }
        }
        for (i = 0; i < after->count; i++)
            CHECK_CASE(!msc4203_writer_item(&writer, &after->items[i]), name);
        CHECK_CASE(msc4203_writer_end(&writer, &lengths[pass]) == MSC4203_OK, name);
    }
    CHECK_CASE(lengths[0] == lengths[1] && memcmp(bodies[0], bodies[1], lengths[0]) == 0, name);
    CHECK_CASE(lengths[2] == lengths[1], name);
}

/* What a body can hold around the refused item, so that it can be ended. */
static void some_items(int shape, struct list *before, struct list *after)
{
    msc4203_item item;
    list_clear(before);
    list_clear(after);
    item = message("@m:x", "D", "{\"n\":1}");
    list_add(before, &item);
    item = message("@m:x", "E", "{\"n\":2}");
    list_add(after, &item);
    item =
        item_of(shape == MSC4203_EDU ? MSC4203_MESSAGE_ID : MSC4203_NEXT_BATCH, "id", NULL, NULL);
    if (shape == MSC4203_EDU || shape == MSC4203_SYNC)
        list_add(after, &item);
}

static void check_kinds(void)
{
    static const unsigned held[] = {
        MSC4203_ALL_KINDS & ~(unsigned)(MSC4203_MESSAGE_ID | MSC4203_NEXT_BATCH), MSC4203_TO_DEVICE,
        MSC4203_TO_DEVICE | MSC4203_MESSAGE_ID, MSC4203_TO_DEVICE | MSC4203_NEXT_BATCH};
    static const int none[] = {0, 3, 512, 1024, -1, 65537, 24};
    static struct list before, after;
    int shape;
    size_t i;
    for (shape = 0; shape < 4; shape++) {
        some_items(shape, &before, &after);
        for (i = 0; i < 9; i++) {
            int kind = 1 << i;
            msc4203_item item =
                item_of(kind, "@z:x", "D", kind == MSC4203_FALLBACK_TYPES ? "[]" : "{}");
            if (kind == MSC4203_MESSAGE_ID || kind == MSC4203_NEXT_BATCH)
                item.id = span_of("id");
            if (!(held[shape] & (unsigned)kind))
                check_refused("kinds", shape, &before, &item, &after, MSC4203_E_KIND);
        }
        for (i = 0; i < sizeof none / sizeof *none; i++) {
            msc4203_item item = item_of(none[i], "@z:x", "D", "{}");
            check_refused("no kind", shape, &before, &item, &after, MSC4203_E_KIND);
        }
    }
    list_clear(&before);
    list_clear(&after);
}

static void check_missing(void)
{
    static struct list before, after;
    msc4203_span none = {NULL, 0};
    int shape, i;
    for (shape = 0; shape < 4; shape++) {
        some_items(shape, &before, &after);
        for (i = 0; i < 5; i++) {
            msc4203_item item = message("@n:x", "D", "{}");
            int unused =
                (shape == MSC4203_SEND && i < 2) || (shape == MSC4203_SYNC && i > 1 && i < 4);
            *(i == 0   ? &item.sender
              : i == 1 ? &item.type
              : i == 2 ? &item.user_id
              : i == 3 ? &item.device_id
                       : &item.content) = none;
            if (!unused)
                check_refused("a field missing", shape, &before, &item, &after,
                              MSC4203_E_FIELD_MISSING);
        }
    }
    some_items(MSC4203_TRANSACTION, &before, &after);
    for (i = 1; i < 7; i++) {
        int kind = 1 << i, field;
        for (field = 0; field < 3; field++) {
            msc4203_item item =
                item_of(kind, "@z:x", "D", kind == MSC4203_FALLBACK_TYPES ? "[]" : "{}");
            int unused = kind <= MSC4203_EPHEMERAL     ? field < 2
                         : kind <= MSC4203_DEVICE_LEFT ? field > 0
                                                       : 0;
            *(field == 0 ? &item.user_id : field == 1 ? &item.device_id : &item.content) = none;
            if (!unused)
                check_refused("a field missing", MSC4203_TRANSACTION, &before, &item, &after,
                              MSC4203_E_FIELD_MISSING);
        }
    }
    list_clear(&before);
    list_clear(&after);
}

/* Contents that are no object, no JSON, or poison. */
static const struct {
    const char *content;
    int error;
} bad_contents[] = {
    {"[]", MSC4203_E_FIELD_TYPE},
    {"\"{}\"", MSC4203_E_FIELD_TYPE},
    {"1", MSC4203_E_FIELD_TYPE},
    {"null", MSC4203_E_FIELD_TYPE},
    {"true", MSC4203_E_FIELD_TYPE},
    {"", MSC4203_E_TRUNCATED},
    {"{", MSC4203_E_TRUNCATED},
    {"{\"a\":1", MSC4203_E_TRUNCATED},
    {"{\"a\":\"", MSC4203_E_TRUNCATED},
    {"{\"a\":\"\\", MSC4203_E_TRUNCATED},
    {"{\"a\":{}", MSC4203_E_TRUNCATED},
    {"{\"a\":\"\xe2\x82", MSC4203_E_TRUNCATED},
    {"{}}", MSC4203_E_SYNTAX},
    {"{}x", MSC4203_E_SYNTAX},
    {"{}{}", MSC4203_E_SYNTAX},
    {"{},{}", MSC4203_E_SYNTAX},
    {"{},\"sender\":\"@evil:x\"", MSC4203_E_SYNTAX},
    {"{\"a\":1}}],\"events\":[{", MSC4203_E_SYNTAX},
    {"{\"a\":1,}", MSC4203_E_SYNTAX},
    {"{\"a\":+1}", MSC4203_E_SYNTAX},
    {"{\"a\":NaN}", MSC4203_E_SYNTAX},
    {"{\"a\":\"\n\"}", MSC4203_E_SYNTAX},
    {"{\"a\":[}]}", MSC4203_E_SYNTAX},
    {"{\"a\" 1}", MSC4203_E_SYNTAX},
    {"{a:1}", MSC4203_E_SYNTAX},
    {"{/**/}", MSC4203_E_SYNTAX},
    {"{\"a\":\"\xff\"}", MSC4203_E_UTF8},
    {"{\"\xc0\x80\":1}", MSC4203_E_UTF8},
    {"{\"a\":\"\xed\xa0\x80\"}", MSC4203_E_UTF8},
    {"{\"a\":\"\\ud800\"}", MSC4203_E_SURROGATE},
    {"{\"\\udfff\":1}", MSC4203_E_SURROGATE},
    {"{\"a\":[{\"b\":\"\\ud83d\\ud83d\\ude00\"}]}", MSC4203_E_SURROGATE},
    {"{\"a\":1e400}", MSC4203_E_NUMBER},
    {"{\"a\":[-1.7976931348623158e308]}", MSC4203_E_NUMBER},
};

static void check_contents(void)
{
    static struct list before, after;
    int shape, kind;
    size_t i;
    for (shape = 0; shape < 4; shape++)
        for (i = 0; i < sizeof bad_contents / sizeof *bad_contents; i++) {
            const char *content = bad_contents[i].content;
            char *exact = (char *)malloc(strlen(content) + 1);
            for (kind = 1; kind <= (shape ? 1 : 64); kind *= 2) {
                msc4203_item item = item_of(kind, "@n:x", "D", content);
                int error = bad_contents[i].error;
                if (kind == MSC4203_DEVICE_CHANGED || kind == MSC4203_DEVICE_LEFT)
                    continue;
                if (kind == MSC4203_FALLBACK_TYPES && (i == 0 || *content == '{'))
                    continue; /* an array is what it wants */
                memcpy(exact, content, item.content.len);
                item.content.ptr = exact;
                some_items(shape, &before, &after);
                check_refused(content, shape, &before, &item, &after, error);
            }
            free(exact);
        }
    for (i = 0; i < 5; i++) {
        static const char *const texts[] = {"{}", "[1e400]", "[\"\\ud800\"]", "[", "[]]"};
        static const int errors[] = {MSC4203_E_FIELD_TYPE, MSC4203_E_NUMBER, MSC4203_E_SURROGATE,
                                     MSC4203_E_TRUNCATED, MSC4203_E_SYNTAX};
        msc4203_item item = item_of(MSC4203_FALLBACK_TYPES, "@n:x", "D", texts[i]);
        some_items(MSC4203_TRANSACTION, &before, &after);
        check_refused(texts[i], MSC4203_TRANSACTION, &before, &item, &after, errors[i]);
    }
    list_clear(&before);
    list_clear(&after);
}

/* The deepest content that each place allows, and one level more. */
static void check_depth(void)
{
    static const struct {
        int shape, kind;
        size_t levels;
    } rows[] = {
        {MSC4203_TRANSACTION, MSC4203_TO_DEVICE, 1021},
        {MSC4203_SEND, MSC4203_TO_DEVICE, 1021},
        {MSC4203_EDU, MSC4203_TO_DEVICE, 1021},
        {MSC4203_SYNC, MSC4203_TO_DEVICE, 1020},
        {MSC4203_TRANSACTION, MSC4203_EVENT, 1022},
        {MSC4203_TRANSACTION, MSC4203_EPHEMERAL, 1022},
        {MSC4203_TRANSACTION, MSC4203_KEY_COUNTS, 1021},
        {MSC4203_TRANSACTION, MSC4203_FALLBACK_TYPES, 1021},
    };
    static struct list before, after;
    size_t i, more, j;
    for (i = 0; i < sizeof rows / sizeof *rows; i++)
        for (more = 0; more < 2; more++) {
            size_t levels = rows[i].levels + more;
            struct items_text text = {NULL, 0, 0};
            int plain = rows[i].kind == MSC4203_EVENT || rows[i].kind == MSC4203_EPHEMERAL;
            msc4203_item item =
                item_of(rows[i].kind, plain ? NULL : "@n:x", plain ? NULL : "D", "");
            if (rows[i].kind != MSC4203_FALLBACK_TYPES)
                items_put(&text, "{\"a\":", 5);
            for (j = rows[i].kind != MSC4203_FALLBACK_TYPES; j < levels; j++)
                items_put(&text, "[", 1);
            for (j = rows[i].kind != MSC4203_FALLBACK_TYPES; j < levels; j++)
                items_put(&text, "]", 1);
            if (rows[i].kind != MSC4203_FALLBACK_TYPES)
                items_put(&text, "}", 1);
            item.content.ptr = text.text;
            item.content.len = text.bytes;
            some_items(rows[i].shape, &before, &after);
            if (more)
                check_refused("too deep", rows[i].shape, &before, &item, &after,
                              MSC4203_E_TOO_DEEP);
            else {
                struct body body;
                list_add(&before, &item);
                for (j = rows[i].shape == MSC4203_EDU || rows[i].shape == MSC4203_SYNC; j; j--)
                    list_add(&before, &after.items[after.count - 1]);
                body_begin(&body, 10000);
                body_write(&body, rows[i].shape, 0, &before, NULL, 0);
                CHECK(body.ended == MSC4203_OK);
                CHECK(holds(&body, rows[i].shape, &before, NULL, NULL));
                free(body.block);
            }
            free(text.text);
        }
    list_clear(&before);
    list_clear(&after);
}

/* Strings that are no UTF-8, and items that a reader found unusable. */
static void check_strings(void)
{
    static const char *const bad[] = {"\xff",     "a\xc3",  "\xed\xa0\x80",
                                      "\xc0\xaf", "x\x80y", "0123456789abcdef\xf4\x90\x80\x80",
                                      "\xe2\x82"};
    static struct list before, after;
    int shape;
    size_t i, field;
    for (shape = 0; shape < 4; shape++)
        for (i = 0; i < sizeof bad / sizeof *bad; i++)
            for (field = 0; field < 4; field++) {
                msc4203_item item = message("@n:x", "D", "{}");
                if ((shape == MSC4203_SEND && field < 2) || (shape == MSC4203_SYNC && field > 1))
                    continue;
                *(field == 0   ? &item.sender
                  : field == 1 ? &item.type
                  : field == 2 ? &item.user_id
                               : &item.device_id) = span_of(bad[i]);
                some_items(shape, &before, &after);
                if (shape == MSC4203_EDU && field < 2) /* another sender is a second one, too */
                    list_clear(&before);
                check_refused("no UTF-8", shape, &before, &item, &after, MSC4203_E_UTF8);
            }
    some_items(MSC4203_TRANSACTION, &before, &after);
    for (i = 0; i < 7; i++) {
        msc4203_item item = message("@n:x", "D", "{}");
        item.error = MSC4203_E_FIELD_MISSING - (int)i;
        check_refused("an unusable item", MSC4203_TRANSACTION, &before, &item, &after, item.error);
    }
    for (i = 0; i < 5; i++) { /* no errors, and one that a byte does not hold */
        static const int odd[] = {256, 1, -60, -256, -65536};
        msc4203_item item = message("@n:x", "D", "!");
        item.error = odd[i];
        check_refused("an unknown error", MSC4203_TRANSACTION, &before, &item, &after,
                      MSC4203_E_USAGE);
    }
    for (i = 0; i < 6; i++) {
        msc4203_item item =
            item_of(i & 1 ? MSC4203_DEVICE_LEFT : MSC4203_DEVICE_CHANGED, bad[i], NULL, NULL);
        check_refused("no UTF-8", MSC4203_TRANSACTION, &before, &item, &after, MSC4203_E_UTF8);
    }
    list_clear(&before);
    list_clear(&after);
}

/* Whether the bytes are UTF-8: characters of one to four bytes, the shortest that will do, up to
 * U+10FFFF, without surrogates. */
static int is_utf8(const unsigned char *p, size_t bytes)
{
    size_t i, length;
    for (; bytes; p += length, bytes -= length) {
        unsigned long code = *p;
        length = code < 0x80 ? 1 : code < 0xe0 ? 2 : code < 0xf0 ? 3 : 4;
        if (length > bytes || (code >= 0x80 && code < 0xc0) || code > 0xf7)
            return 0;
        code &= length == 1 ? 0x7fu : 0xffu >> (length + 1);
        for (i = 1; i < length; i++) {
            if ((p[i] & 0xc0) != 0x80)
                return 0;
            code = code << 6 | (p[i] & 0x3fu);
        }
        if ((length == 2 && code < 0x80) || (length == 3 && code < 0x800) ||
            (length == 4 && code < 0x10000) || code > 0x10ffff || (code & 0x1ff800) == 0xd800)
            return 0;
    }
    return 1;
}

/* Every id of up to four bytes that are edges of something. */
static void check_utf8(void)
{
    static const unsigned char edges[] = {0x00, 0x22, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0,
                                          0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xed, 0xee,
                                          0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff};
    size_t count = sizeof edges, all = count * count * count * count, i, bytes, wrong = 0;
    for (bytes = 0; bytes <= 4; bytes++)
        for (i = 0; i < all; i += bytes < 4 ? 1 : test_share()) {
            unsigned char id[4];
            char buffer[80];
            size_t digits = i, j;
            msc4203_writer writer;
            msc4203_item item = item_of(MSC4203_DEVICE_LEFT, "", NULL, NULL);
            for (j = 0; j < 4; j++, digits /= count)
                id[j] = edges[digits % count];
            if (digits || (bytes < 4 && i >= (bytes == 3   ? count * count * count
                                              : bytes == 2 ? count * count
                                              : bytes == 1 ? count
                                                           : 1)))
                break;
            item.user_id.ptr = (const char *)id;
            item.user_id.len = bytes;
            msc4203_writer_begin(&writer, MSC4203_TRANSACTION, 1, buffer, sizeof buffer);
            wrong += (msc4203_writer_item(&writer, &item) == MSC4203_OK) != is_utf8(id, bytes);
        }
    CHECK(wrong == 0);
}

/* ------------------------------------------------------------------------------------------------
 * Order
 * ------------------------------------------------------------------------------------------------
 */

/* Writes items one after the other, leaving out what is refused, and says what came: a character
 * for each, '.' for written, 'o' order, 's' second, '?' else. */
static void check_order(const char *name, int shape, const msc4203_item *items, size_t count,
                        const char *want)
{
    static struct list list;
    msc4203_writer writer;
    struct body body;
    char got[64], only[MOST];
    size_t i;
    body_begin(&body, 20000);
    memset(only, 0, sizeof only);
    CHECK(msc4203_writer_begin(&writer, shape, 0, body.at, body.capacity) == MSC4203_OK);
    for (i = 0; i < count; i++) {
        int result = msc4203_writer_item(&writer, &items[i]);
        got[i] = result == MSC4203_OK         ? '.'
                 : result == MSC4203_E_ORDER  ? 'o'
                 : result == MSC4203_E_SECOND ? 's'
                                              : '?';
        only[i] = result == MSC4203_OK;
        list_add(&list, &items[i]);
        if (result != MSC4203_OK)
            CHECK_CASE(msc4203_writer_clear(&writer) == result, name);
    }
    got[count] = 0;
    if (!CHECK_CASE(strcmp(got, want) == 0, name))
        printf("  want: %s\n  got:  %s\n", want, got);
    body.ended = msc4203_writer_end(&writer, &body.bytes);
    CHECK_CASE(body.ended == MSC4203_OK, name);
    CHECK_CASE(holds(&body, shape, &list, only, NULL), name);
    list_clear(&list);
    free(body.block);
}

/* Users and devices as pairs of letters: "ua" is device a of user u. */
static void check_pairs(int shape, int kind, const char *pairs, const char *want)
{
    /* what is easily taken for another one in what has been written */
    static const char *const names[] = {"@u:x", "@u:xx", "@u:", "\"", "\\", "\n", "\x01", "",
                                        "\xc3\xa9", "@u:x\":{\"", "D", "content", "messages",
                                        /* of which a 32-bit FNV-1a hash is the same */
                                        "@udc6f135:x", "@u1f9d6bb:x", "@u48e7a73:x", "@u1c1f7c:x"};
    msc4203_item items[64];
    char marks[64];
    size_t count = 0;
    for (; *pairs; pairs += 2)
        items[count++] =
            item_of(kind, names[pairs[0] - 'a'], names[pairs[1] - 'a'],
                    kind == MSC4203_FALLBACK_TYPES ? "[\"@u:x\",\"\\\"\"]"
                                                   : "{\"@u:x\":{\"@u:x\":{}},\"\\\"\":{\"D\":1}}");
    strcpy(marks, want);
    if (shape == MSC4203_EDU) {
        items[count++] = item_of(MSC4203_MESSAGE_ID, "id", NULL, NULL);
        strcat(marks, ".");
    }
    check_order(want, shape, items, count, marks);
}

static void check_all_orders(void)
{
    msc4203_item e = item_of(MSC4203_EVENT, NULL, NULL, "{}"), t = message("u", "d", "{}"),
                 items[8];
    msc4203_item p = item_of(MSC4203_EPHEMERAL, NULL, NULL, "{}"), id, other;
    msc4203_item c = item_of(MSC4203_DEVICE_CHANGED, "c", NULL, NULL);
    msc4203_item l = item_of(MSC4203_DEVICE_LEFT, "l", NULL, NULL);
    size_t i;
    items[0] = e, items[1] = t, items[2] = e, items[3] = t, items[4] = p, items[5] = t;
    check_order("kinds return", MSC4203_TRANSACTION, items, 6, "..o..o");
    items[0] = c, items[1] = l, items[2] = t, items[3] = c, items[4] = l;
    check_order("changed, left, message", MSC4203_TRANSACTION, items, 5, "...oo");
    items[0] = l, items[1] = c, items[2] = p;
    check_order("left, changed", MSC4203_TRANSACTION, items, 3, "...");
    items[0] = c, items[1] = l, items[2] = c;
    check_order("changed, left, changed", MSC4203_TRANSACTION, items, 3, "..o");
    items[0] = c, items[1] = t, items[2] = l;
    check_order("changed, message, left", MSC4203_TRANSACTION, items, 3, "..o");
    items[0] = t, items[1] = t, items[2] = t;
    check_order("the same message", MSC4203_TRANSACTION, items, 3, "...");

    for (i = 0; i < 4; i++) { /* all that are keyed by user and device */
        static const int shapes[] = {0, 0, MSC4203_SEND, MSC4203_EDU};
        static const int kinds[] = {MSC4203_KEY_COUNTS, MSC4203_FALLBACK_TYPES, 1, 1};
        static const char *const rows[][2] = {
            {"aa", "."},
            {"aaaa", ".o"},
            {"aaabac", "..."},
            {"acabaa", "..."},
            {"acabaaac", "...o"},
            {"aabaca", "..."},
            {"aabacaaabbcb", "...oo."},
            {"cabaaabacaab", "...oo."},
            {"daeafagaha", "....."},
            {"haiafagaeadahaia", "......oo"},
            {"dddeedee", "...."},
            {"jakalamaja", "....o"},
            {"ajakalamajakalam", "....oooo"},
            {"adaeafagahaiajakalamadaeafagahai", "..........oooooo"},
            {"kaaaka", "..o"},
            {"lamala", "..o"},
            {"nanboana", "...o"},
            {"onnnon", "..o"},
            {"papbqaqbpc", "....o"},
            {"qappqa", "..o"},
        };
        size_t row;
        for (row = 0; row < sizeof rows / sizeof *rows; row++)
            check_pairs(shapes[i], kinds[i], rows[row][0], rows[row][1]);
    }

    id = item_of(MSC4203_MESSAGE_ID, "i", NULL, NULL);
    other = t;
    other.device_id = span_of("e");
    other.sender = span_of("@other:x");
    items[0] = t, items[1] = other, items[2] = id;
    check_order("a second sender", MSC4203_EDU, items, 3, ".s.");
    other.sender = t.sender;
    other.type = span_of("t2");
    items[1] = other;
    check_order("a second type", MSC4203_EDU, items, 3, ".s.");
    other.type = span_of("");
    items[1] = other;
    check_order("an empty type", MSC4203_EDU, items, 3, ".s.");
    other.type = t.type;
    items[1] = other, items[3] = item_of(MSC4203_MESSAGE_ID, "j", NULL, NULL);
    check_order("a second message_id", MSC4203_EDU, items, 4, "...s");
    items[0] = item_of(MSC4203_NEXT_BATCH, "a", NULL, NULL);
    items[1] = item_in(&t, MSC4203_SYNC);
    items[2] = item_of(MSC4203_NEXT_BATCH, "b", NULL, NULL);
    check_order("a second next_batch", MSC4203_SYNC, items, 3, "..s");
}

/* ------------------------------------------------------------------------------------------------
 * Calls in the wrong order, and what is small
 * ------------------------------------------------------------------------------------------------
 */

static void check_usage(void)
{
    msc4203_writer writer;
    msc4203_item item = message("u", "d", "{}"), id = item_of(MSC4203_NEXT_BATCH, "n", NULL, NULL);
    char buffer[400];
    size_t bytes = 99;
    memset(&writer, 0, sizeof writer);
    CHECK(msc4203_writer_begin(&writer, MSC4203_JSON, 0, buffer, 400) == MSC4203_E_USAGE);
    CHECK(msc4203_writer_item(&writer, &item) == MSC4203_E_USAGE);
    CHECK(msc4203_writer_clear(&writer) == MSC4203_E_USAGE);
    CHECK(msc4203_writer_item(&writer, &item) == MSC4203_E_USAGE); /* it can't be forgotten */
    CHECK(msc4203_writer_end(&writer, &bytes) == MSC4203_E_USAGE);
    CHECK(msc4203_writer_begin(&writer, 5, 0, buffer, 400) == MSC4203_E_USAGE);
    CHECK(msc4203_writer_begin(&writer, -1, 0, buffer, 400) == MSC4203_E_USAGE);
    CHECK(msc4203_writer_begin(&writer, MSC4203_SEND, 2, buffer, 400) == MSC4203_E_USAGE);
    CHECK(msc4203_writer_begin(&writer, MSC4203_TRANSACTION, 3, buffer, 400) == MSC4203_E_USAGE);
    CHECK(msc4203_writer_item(&writer, &item) == MSC4203_E_USAGE);
    memset(&writer, 0, sizeof writer); /* never begun */
    CHECK(msc4203_writer_item(&writer, &item) == MSC4203_E_USAGE);

    CHECK(msc4203_writer_begin(&writer, MSC4203_TRANSACTION, 0, buffer, 400) == MSC4203_OK);
    CHECK(msc4203_writer_item(&writer, &item) == MSC4203_OK);
    CHECK(msc4203_writer_end(&writer, NULL) == MSC4203_OK); /* the length is not asked for */
    CHECK(msc4203_writer_item(&writer, &item) == MSC4203_E_USAGE);

    /* a /sync response can't be ended without its token, and can with it */
    CHECK(msc4203_writer_begin(&writer, MSC4203_SYNC, 0, buffer, 400) == MSC4203_OK);
    CHECK(msc4203_writer_item(&writer, &item) == MSC4203_OK);
    CHECK(msc4203_writer_end(&writer, &bytes) == MSC4203_E_FIELD_MISSING);
    CHECK(msc4203_writer_item(&writer, &id) == MSC4203_OK);
    CHECK(msc4203_writer_end(&writer, &bytes) == MSC4203_OK);
    CHECK(is_json(buffer, bytes));

    /* the first error is the one that sticks */
    CHECK(msc4203_writer_begin(&writer, MSC4203_SEND, 0, buffer, 400) == MSC4203_OK);
    CHECK(msc4203_writer_item(&writer, &id) == MSC4203_E_KIND);
    item.content = span_of("[]");
    CHECK(msc4203_writer_item(&writer, &item) == MSC4203_E_KIND);
    CHECK(msc4203_writer_end(&writer, &bytes) == MSC4203_E_KIND);
    CHECK(msc4203_writer_begin(&writer, MSC4203_SEND, 0, buffer, 400) == MSC4203_OK);
    CHECK(msc4203_writer_end(&writer, &bytes) == MSC4203_OK && bytes > 0);
}

/* "Full" does not stick, and a smaller item may come instead. */
static void check_full(void)
{
    msc4203_writer writer;
    msc4203_item small = message("u", "d", "{}");
    msc4203_item big = message("u", "e", "{\"a\":\"0123456789012345678901234567890123456789\"}");
    char buffer[130];
    size_t bytes = 0, needed;
    CHECK(!msc4203_writer_begin(&writer, MSC4203_TRANSACTION, MSC4203_STABLE_KEYS, buffer, 130));
    CHECK(msc4203_writer_item(&writer, &big) == MSC4203_E_FULL);
    needed = msc4203_writer_needed(&writer);
    CHECK(needed > 130 && needed < 200);
    CHECK(msc4203_writer_item(&writer, &small) == MSC4203_OK);
    CHECK(msc4203_writer_item(&writer, &small) == MSC4203_E_FULL);
    CHECK(msc4203_writer_item(&writer, &big) == MSC4203_E_FULL);
    CHECK(msc4203_writer_clear(&writer) == MSC4203_OK);
    CHECK(msc4203_writer_end(&writer, &bytes) == MSC4203_OK && bytes <= 130);
    CHECK(is_json(buffer, bytes));

    CHECK(!msc4203_writer_begin(&writer, MSC4203_SYNC, 0, buffer, 130));
    CHECK(msc4203_writer_reserve(&writer, 131) == MSC4203_E_FULL); /* then nothing is kept */
    CHECK(msc4203_writer_item(&writer, &small) == MSC4203_OK);
    CHECK(msc4203_writer_reserve(&writer, 23) == MSC4203_OK);
    small = item_of(MSC4203_NEXT_BATCH, "\x01", NULL, NULL);
    while (msc4203_writer_item(&writer, &big) == MSC4203_OK)
        CHECK(1);
    CHECK(msc4203_writer_item(&writer, &small) == MSC4203_OK);
    CHECK(msc4203_writer_end(&writer, &bytes) == MSC4203_OK && is_json(buffer, bytes));
}

/* The spelling of the keys; and `events`, always. */
static void check_keys(void)
{
    static struct list list;
    unsigned flags;
    static const char *const prefixed[] = {"de.sorunome.msc2409.to_device",
                                           "org.matrix.msc3202.device_lists",
                                           "org.matrix.msc3202.device_one_time_key",
                                           "org.matrix.msc3202.device_unused_fallback_key_types"};
    msc4203_item item = message("u", "d", "{}");
    struct body body;
    size_t i;
    list_add(&list, &item);
    item = item_of(MSC4203_EPHEMERAL, NULL, NULL, "{}");
    list_add(&list, &item);
    item = item_of(MSC4203_DEVICE_LEFT, "u", NULL, NULL);
    list_add(&list, &item);
    item = item_of(MSC4203_KEY_COUNTS, "u", "d", "{}");
    list_add(&list, &item);
    item = item_of(MSC4203_FALLBACK_TYPES, "u", "d", "[]");
    list_add(&list, &item);
    for (flags = 0; flags < 2; flags++) {
        body_begin(&body, 1000);
        body_write(&body, MSC4203_TRANSACTION, flags, &list, NULL, 0);
        body.at[body.bytes] = 0;
        CHECK(body.ended == MSC4203_OK && strstr(body.at, "\"events\":[]"));
        CHECK(strstr(body.at, "\"ephemeral\":") && !strstr(body.at, "msc2409.ephemeral"));
        for (i = 0; i < 4; i++) {
            CHECK_CASE((strstr(body.at, prefixed[i]) != NULL) == !flags, prefixed[i]);
            CHECK_CASE(strstr(body.at, strrchr(prefixed[i], '.') + 1) != NULL, prefixed[i]);
        }
        CHECK(!strstr(body.at, "\"changed\":null"));
        free(body.block);
    }
    list_clear(&list);
    body_begin(&body, 100);
    body_write(&body, MSC4203_TRANSACTION, 0, &list, NULL, 0);
    CHECK(body.ended == MSC4203_OK && body.bytes == 13 && !memcmp(body.at, "{\"events\":[]}", 13));
    free(body.block);
}

/* ------------------------------------------------------------------------------------------------
 * Round trips
 * ------------------------------------------------------------------------------------------------
 */

/* Writes, in exactly the room that measuring tells, reads, and compares. */
static int trip(int shape, unsigned flags, const struct list *list, struct list *back,
                const msc4203_item *preset)
{
    struct body body;
    size_t bytes = 0;
    int good = measure(shape, flags, list, &bytes) == MSC4203_OK;
    body_begin(&body, bytes);
    body_write(&body, shape, flags, list, NULL, 0);
    good = good && body.ended == MSC4203_OK && body.bytes == bytes && body.refused == (size_t)-1 &&
           body_guarded(&body) && holds(&body, shape, list, NULL, preset);
    if (back)
        good = good && list_read(back, shape, body.at, body.bytes, 0, preset) == MSC4203_END;
    free(body.block);
    return good;
}

/* Messages of one sender and type, for any number of devices: transaction -> send -> edu, and one
 * device after the other -> sync -> transaction. Nothing is lost on the way. */
static void check_chain(const char *name, const struct list *messages)
{
    static struct list sent, edu, plain, synced, one;
    msc4203_item preset, id = item_of(MSC4203_MESSAGE_ID, "id", NULL, NULL);
    size_t i, j;
    memset(&preset, 0, sizeof preset);
    preset.sender = messages->items[0].sender;
    preset.type = messages->items[0].type;
    CHECK_CASE(trip(MSC4203_SEND, 0, messages, &sent, &preset), name);
    list_add(&sent, &id);
    CHECK_CASE(trip(MSC4203_EDU, 0, &sent, &edu, NULL), name);
    for (i = 0; i < edu.count; i++)
        if (edu.items[i].kind == MSC4203_TO_DEVICE)
            list_add(&plain, &edu.items[i]);
    CHECK_CASE(list_same(messages, &plain), name);
    for (i = 0; i < plain.count; i++) {
        id = item_of(MSC4203_NEXT_BATCH, "n", NULL, NULL);
        preset = plain.items[i];
        list_clear(&one);
        list_add(&one, &plain.items[i]);
        if (i % 2)
            list_add(&one, &id);
        else { /* first */
            list_clear(&one);
            list_add(&one, &id);
            list_add(&one, &plain.items[i]);
        }
        j = synced.count;
        CHECK_CASE(trip(MSC4203_SYNC, 0, &one, &synced, &preset), name);
        for (; j < synced.count; j++) /* without the token */
            if (synced.items[j].kind == MSC4203_NEXT_BATCH) {
                free(synced.blocks[j]);
                synced.count--;
                synced.items[j] = synced.items[synced.count];
                synced.blocks[j] = synced.blocks[synced.count];
            }
    }
    CHECK_CASE(list_same(messages, &synced), name);
    CHECK_CASE(trip(MSC4203_TRANSACTION, (unsigned)test_below(2), &synced, NULL, NULL), name);
    list_clear(&sent);
    list_clear(&edu);
    list_clear(&plain);
    list_clear(&synced);
    list_clear(&one);
}

/* Whether this device of this user is in the list already; *user says whether the user is. */
static int is_known(const struct list *list, const msc4203_item *item)
{
    size_t i;
    for (i = 0; i < list->count; i++) {
        const msc4203_item *other = &list->items[i];
        if (other->user_id.len == item->user_id.len &&
            other->device_id.len == item->device_id.len &&
            !memcmp(other->user_id.ptr, item->user_id.ptr, item->user_id.len) &&
            !memcmp(other->device_id.ptr, item->device_id.ptr, item->device_id.len))
            return 1;
    }
    return 0;
}

/* One captured body: its items written again; each message through all shapes; a message that no
 * double holds is refused. */
static void check_captured_body(const char *path, int shape)
{
    static struct list read, good, one;
    size_t bytes, i;
    char *body = test_read(path, &bytes);
    CHECK_CASE(list_read(&read, shape, body, bytes, 0, NULL) == MSC4203_END, path);
    for (i = 0; i < read.count; i++) {
        msc4203_item *item = &read.items[i];
        int error = msc4203_item_error(item);
        if (error) {
            msc4203_writer writer;
            msc4203_writer_begin(&writer, shape, 0, NULL, 0);
            CHECK_CASE(msc4203_writer_item(&writer, item) == error, path);
            continue;
        }
        list_add(&good, item);
        if (item->kind == MSC4203_TO_DEVICE && i % 16 == 0) {
            msc4203_item full = *item;
            if (!full.sender.ptr)
                full.sender = span_of("@s:x"), full.type = span_of("t");
            if (!full.user_id.ptr)
                full.user_id = span_of("@u:x"), full.device_id = span_of("D");
            list_add(&one, &full);
            check_chain(path, &one);
            list_clear(&one);
        }
    }
    if (shape != MSC4203_EDU && good.count) {
        CHECK_CASE(trip(shape, MSC4203_UNSTABLE_KEYS, &good, NULL, NULL), path);
        CHECK_CASE(trip(shape, MSC4203_STABLE_KEYS, &good, NULL, NULL), path);
    }
    list_clear(&read);
    list_clear(&good);
    free(body);
}

static void check_captured(void)
{
    size_t bytes;
    char *index = test_read("test/data/expected/index.txt", &bytes);
    char *line = strtok(index, "\n");
    unsigned long count = 0;
    for (; line; line = strtok(NULL, "\n")) {
        char folder[41], name[81], path[256];
        if (!CHECK(sscanf(line, "%40s %80s", folder, name) == 2))
            continue;
        if (strstr(name, "-root") || strstr(name, "bad-messages"))
            continue; /* bodies that cannot be read */
        sprintf(path, "test/data/synapse/%s/%s.%s", folder, name, *folder == 'r' ? "req" : "json");
        check_captured_body(path, *folder == 't'   ? MSC4203_TRANSACTION
                                  : *folder == 's' ? MSC4203_SYNC
                                                   : MSC4203_SEND);
        count++;
    }
    CHECK(count > 100);
    free(index);
}

/* ------------------------------------------------------------------------------------------------
 * Random items
 * ------------------------------------------------------------------------------------------------
 */

static char arena[1 << 20];
static size_t arena_used;

static msc4203_span random_string(void)
{
    static const char *const pieces[] = {"a",
                                         "b",
                                         "Z",
                                         "9",
                                         "@",
                                         ":",
                                         " ",
                                         "/",
                                         "\"",
                                         "\\",
                                         "\n",
                                         "\t",
                                         "\x01",
                                         "\x1f",
                                         "\x7f",
                                         "\xc2\x80",
                                         "\xc3\xa9",
                                         "\xe2\x82\xac",
                                         "\xe2\x80\xa8",
                                         "\xef\xbf\xbf",
                                         "\xf0\x9f\x98\x80",
                                         "{",
                                         "}",
                                         "u0041"};
    msc4203_span span;
    size_t count = test_below(8) ? test_below(6) : test_below(60);
    span.ptr = arena + arena_used;
    span.len = 0;
    while (count--) {
        size_t which = test_below(sizeof pieces / sizeof *pieces + 1), length = 1;
        if (which == sizeof pieces / sizeof *pieces)
            arena[arena_used] = 0;
        else
            memcpy(arena + arena_used, pieces[which], length = strlen(pieces[which]));
        arena_used += length;
        span.len += length;
    }
    return span;
}

static void random_text(const char *text)
{
    size_t length = strlen(text);
    memcpy(arena + arena_used, text, length);
    arena_used += length;
}

static void random_space(void)
{
    static const char *const spaces[] = {" ", "\n", "\t", "\r\n"};
    if (!test_below(8))
        random_text(spaces[test_below(4)]);
}

static void random_value(int depth, int wanted)
{
    static const char *const leaves[] = {"0",
                                         "-0",
                                         "-1.5e-7",
                                         "1e308",
                                         "12345678901234567890123",
                                         "1e-999",
                                         "true",
                                         "false",
                                         "null",
                                         "\"\"",
                                         "\"a b\"",
                                         "\"\\u0000\\ud83d\\ude00\\\"\\\\\\/\"",
                                         "\"\xc3\xa9\xf0\x9f\x98\x80\x7f\"",
                                         "\"0123456789abcdef0123456789abcdef\"",
                                         "{}",
                                         "[]",
                                         "1.7976931348623157e308",
                                         "\"[{\""};
    size_t members = test_below(4), i;
    int array = wanted ? wanted == '[' : (int)test_below(2);
    if (!wanted && (depth <= 0 || !test_below(2))) {
        random_text(leaves[test_below(sizeof leaves / sizeof *leaves)]);
        return;
    }
    random_text(array ? "[" : "{");
    for (i = 0; i < members; i++) {
        random_space();
        if (!array) {
            random_text(i % 2 ? "\"k\\n\"" : "\"sender\"");
            random_space();
            random_text(":");
        }
        random_space();
        random_value(depth - 1, 0);
        random_space();
        random_text(i + 1 < members ? "," : "");
    }
    random_space();
    random_text(array ? "]" : "}");
}

static msc4203_span random_content(int array)
{
    msc4203_span span;
    span.ptr = arena + arena_used;
    random_value(3, array ? '[' : '{');
    span.len = (size_t)(arena + arena_used - span.ptr);
    return span;
}

/* Items of one kind; those that are keyed by user and device are grouped, and none comes twice. */
static void random_group(struct list *list, int kind, size_t most)
{
    size_t users = 1 + test_below(most), devices;
    static struct list group;
    while (users--) {
        msc4203_item item;
        memset(&item, 0, sizeof item);
        item.kind = kind;
        item.user_id = random_string();
        for (devices = 1 + test_below(3); devices; devices--) {
            int keyed = kind == MSC4203_TO_DEVICE || kind >= MSC4203_KEY_COUNTS;
            size_t i, seen = 0;
            if (keyed)
                item.device_id = random_string();
            if (kind == MSC4203_TO_DEVICE) {
                item.sender = random_string();
                item.type = random_string();
            }
            if (kind != MSC4203_DEVICE_CHANGED && kind != MSC4203_DEVICE_LEFT)
                item.content = random_content(kind == MSC4203_FALLBACK_TYPES);
            if (kind == MSC4203_EVENT || kind == MSC4203_EPHEMERAL)
                memset(&item.user_id, 0, sizeof item.user_id);
            for (i = 0; keyed && i < group.count; i++) /* a user that an earlier group had */
                seen |= group.items[i].user_id.ptr != item.user_id.ptr &&
                        group.items[i].user_id.len == item.user_id.len &&
                        !memcmp(group.items[i].user_id.ptr, item.user_id.ptr, item.user_id.len) &&
                        group.items[i].index != (unsigned)users;
            if (keyed && (seen || is_known(&group, &item)))
                continue;
            item.index = (unsigned)users; /* only to know groups apart; the writer ignores it */
            list_add(&group, &item);
        }
    }
    for (users = 0; users < group.count; users++) {
        group.items[users].index = 0;
        list_add(list, &group.items[users]);
    }
    list_clear(&group);
}

/* A transaction of all kinds in any order; its messages through the other shapes. */
static void check_random(void)
{
    static struct list list, messages;
    int kinds[7], i;
    size_t j;
    list_clear(&list);
    list_clear(&messages);
    arena_used = 0;
    for (i = 0; i < 7; i++)
        kinds[i] = 1 << i;
    for (i = 0; i < 6; i++) {
        size_t other = test_below(7);
        int kind = kinds[i];
        kinds[i] = kinds[other];
        kinds[other] = kind;
    }
    for (i = 0; i < 7; i++) {
        if (kinds[i] == MSC4203_DEVICE_LEFT || !test_below(3))
            continue;
        random_group(&list, kinds[i], 4);
        if (kinds[i] == MSC4203_DEVICE_CHANGED && test_below(2)) /* they share a key */
            random_group(&list, MSC4203_DEVICE_LEFT, 3);
    }
    CHECK(trip(MSC4203_TRANSACTION, (unsigned)test_below(2), &list, NULL, NULL));
    random_group(&messages, MSC4203_TO_DEVICE, 5);
    for (j = 1; j < messages.count; j++) {
        messages.items[j].sender = messages.items[0].sender;
        messages.items[j].type = messages.items[0].type;
    }
    check_chain("random", &messages);
    if (test_below(20) == 0)
        check_capacities("random", MSC4203_SEND, 0, &messages);
    list_clear(&list);
    list_clear(&messages);
}

int main(void)
{
    unsigned long i;
    test_seed(0x4203);
    check_all_capacities();
    check_kinds();
    check_missing();
    check_contents();
    check_depth();
    check_strings();
    check_utf8();
    check_all_orders();
    check_usage();
    check_full();
    check_keys();
    check_captured();
    for (i = 0; i < 4000 * test_scale() / test_share() + 1; i++)
        check_random();
    return test_end("writer");
}
