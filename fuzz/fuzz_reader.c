/* fuzz_reader.c - reads any body in many ways, which must agree.
 *
 * The first 7 bytes choose: [0] the shape (bits 0-1), a preset (4), an empty last feed (8), moving
 * the reader (16), a preset without a sender (32); [1] and [2] the wanted kinds; [3] the chunks and
 * [4] their seed (see struct fuzz_way); [5] and [6] the size of the small scratch. The rest is the
 * body.
 *
 * What is read in one piece with ample scratch is the measure, and test/validator.h is the measure
 * of that. Then: in chunks, the same; with fewer kinds wanted, the same without the others; with a
 * small scratch, the same but for items that are too large for it. The checks that hold for every
 * single reading are in reading.h. */
#include "reading.h"
#include "source.h"

const char fuzz_name[] = "fuzz_reader";

enum { CHOICES = 7 };

/* The verdict on the whole, against the test validator's. Below 1,024 levels only the nesting is
 * counted, so that the two may differ there. In one piece nothing is late, unless what comes late
 * is broken; and the items say what the body says. */
static void check_verdict(const struct fuzz_reading *whole, int shape, const char *body,
                          size_t bytes)
{
    struct fuzz_source source;
    size_t i, offset;
    int verdict = fuzz_verdict(body, bytes, &offset);
    FUZZ_CHECK(whole->result == MSC4203_END ||
               (whole->result < 0 && whole->result >= MSC4203_E_NO_MESSAGES));
    for (i = 0; i < whole->items.count; i++)
        FUZZ_CHECK(whole->result < 0 || !(whole->items.list[i].item.flags & MSC4203_LATE));
    if (verdict == MSC4203_E_TOO_DEEP)
        return;
    if (whole->result >= MSC4203_E_TRUNCATED)
        FUZZ_CHECK(whole->result == verdict && whole->offset == offset);
    else
        FUZZ_CHECK(verdict == MSC4203_END && offset > whole->offset);
    source.text = body;
    source.bytes = bytes;
    for (i = 0; verdict == MSC4203_END && i < whole->items.count; i++)
        fuzz_check_source(&source, shape, &whole->items.list[i].item);
}

/* `late`: before an EDU's sender and type have come, an item may be without them, and without the
 * error that they will turn out to be. */
static void check_same_item(const msc4203_item *a, const msc4203_item *b)
{
    const unsigned flags = ~(unsigned)MSC4203_LATE;
    int i, late = (a->flags | b->flags) & MSC4203_LATE ? 1 : 0;
    FUZZ_CHECK(a->kind == b->kind && a->index == b->index && a->offset == b->offset);
    FUZZ_CHECK((a->flags & flags) == (b->flags & flags));
    FUZZ_CHECK(a->error == b->error || (late && (a->error || b->error)));
    for (i = 0; i < FUZZ_SPANS; i++) {
        msc4203_span one = fuzz_span_of(a, i), other = fuzz_span_of(b, i);
        if (!(late && i < 2 && (!one.ptr || !other.ptr)))
            FUZZ_CHECK(fuzz_same_span(one, other));
    }
}

/* `all`: the scratch was large enough to keep an EDU's sender and type. */
static void check_same_end(const struct fuzz_reading *a, const struct fuzz_reading *b, int all)
{
    int i;
    FUZZ_CHECK(a->result == b->result);
    FUZZ_CHECK(a->offset == b->offset);
    FUZZ_CHECK(a->end.count == b->end.count);
    if (a->end.count && all)
        FUZZ_CHECK(a->end.list[0].item.error == b->end.list[0].item.error);
    for (i = 0; a->end.count && i < 2; i++) {
        msc4203_span span = fuzz_span_of(&b->end.list[0].item, i);
        FUZZ_CHECK(fuzz_same_span(fuzz_span_of(&a->end.list[0].item, i), span) ||
                   (!all && !span.ptr));
    }
}

/* `b` has the items of `a` that are of these kinds, and the same end. */
static void check_same(const struct fuzz_reading *a, const struct fuzz_reading *b, unsigned kinds)
{
    size_t i, k = 0;
    for (i = 0; i < a->items.count; i++) {
        if (!((unsigned)a->items.list[i].item.kind & kinds))
            continue;
        FUZZ_CHECK(k < b->items.count);
        check_same_item(&a->items.list[i].item, &b->items.list[k++].item);
    }
    FUZZ_CHECK(k == b->items.count);
    check_same_end(a, b, 1);
}

/* How much scratch an item may need at most. What is counted is what the manual counts: the
 * strings, unescaped, and the content as written; an item with an error may have had more than it
 * tells, but not more than there are bytes from its begin to the next item's. */
static size_t most_scratch(const struct fuzz_reading *whole, const struct fuzz_item *kept,
                           uint64_t next, int chunked)
{
    const msc4203_item *item = &kept->item;
    size_t spans = 0;
    int i;
    for (i = 0; i < FUZZ_SPANS; i++)
        spans += fuzz_span_of(item, i).len;
    spans -= kept->in_preset;
    /* An EDU's sender and type are kept beside its message_id; of a broken one it is not known how
     * long they were. */
    if (whole->end.count && (item->error || item->kind == MSC4203_MESSAGE_ID))
        spans += whole->end.list[0].item.sender.len + whole->end.list[0].item.type.len;
    else if (item->kind == MSC4203_MESSAGE_ID)
        spans += (size_t)item->offset;
    if (item->error)
        return spans + (size_t)(next - item->offset);
    return chunked ? spans : kept->in_scratch;
}

/* An item that was too large keeps those of its ids that fit, and no content. Another fault of the
 * item is told first. */
static void check_too_large(const msc4203_item *a, const msc4203_item *b)
{
    int i;
    FUZZ_CHECK(a->kind == b->kind && a->index == b->index && a->offset == b->offset);
    FUZZ_CHECK(b->error == (a->error ? a->error : MSC4203_E_TOO_LARGE) ||
               (b->error && (b->flags & MSC4203_LATE)));
    FUZZ_CHECK(b->content.len == 0 || b->error != MSC4203_E_TOO_LARGE);
    for (i = 0; i < FUZZ_SPANS; i++) {
        msc4203_span span = fuzz_span_of(b, i);
        FUZZ_CHECK(!span.len || fuzz_same_span(fuzz_span_of(a, i), span));
    }
}

/* The same with a scratch that may be too small. */
static void check_small(const struct fuzz_reading *whole, const struct fuzz_reading *small,
                        const struct fuzz_way *way)
{
    const struct fuzz_item *list = whole->items.list;
    size_t i, k = 0, count = whole->items.count;
    int chunked = way->chunk || way->empty_end;
    for (i = 0; i < count; i++) {
        uint64_t next = i + 1 < count ? list[i + 1].item.offset : whole->offset;
        const msc4203_item *b;
        if (!((unsigned)list[i].item.kind & way->kinds))
            continue;
        FUZZ_CHECK(k < small->items.count);
        b = &small->items.list[k++].item;
        if (most_scratch(whole, &list[i], next, chunked) <= way->scratch_bytes || !b->error)
            check_same_item(&list[i].item, b);
        else
            check_too_large(&list[i].item, b);
    }
    FUZZ_CHECK(k == small->items.count);
    check_same_end(whole, small, 0);
}

/* An EDU read again with what its end told as the preset has every item as in one piece. */
static void check_again(const struct fuzz_reading *whole, const struct fuzz_reading *chunked,
                        struct fuzz_way way, const char *body, size_t bytes)
{
    struct fuzz_reading again;
    size_t i;
    if (!chunked->end.count || way.preset)
        return;
    way.preset = &chunked->end.list[0].item;
    fuzz_read(&way, body, bytes, &again);
    for (i = 0; i < again.items.count; i++)
        FUZZ_CHECK(!(again.items.list[i].item.flags & MSC4203_LATE));
    check_same(whole, &again, way.kinds);
    fuzz_reading_free(&again);
}

/* A size chosen by the input; or, with the highest bits set, just what the longest of the wanted
 * items needs, or a byte less. */
static size_t small_scratch(const struct fuzz_reading *whole, unsigned kinds, size_t choice)
{
    size_t i, most = 0;
    if (choice < 0x8000)
        return choice < 0x4000 ? choice : choice & 0xff;
    for (i = 0; i < whole->items.count; i++) {
        size_t needed = most_scratch(whole, &whole->items.list[i], whole->offset, 1);
        const msc4203_item *item = &whole->items.list[i].item;
        if ((unsigned)item->kind & kinds && !item->error && needed > most)
            most = needed;
    }
    return choice < 0xc000 || !most ? most : most - 1;
}

static void preset_all(msc4203_item *preset)
{
    static const char text[] = "@preset:server.example m.preset PRESETDEV";
    memset(preset, 0x55, sizeof *preset); /* most of it is ignored */
    preset->error = MSC4203_OK;
    preset->sender.ptr = preset->user_id.ptr = text;
    preset->sender.len = preset->user_id.len = 22;
    preset->type.ptr = text + 23;
    preset->type.len = 8;
    preset->device_id.ptr = text + 32;
    preset->device_id.len = 9;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_way way;
    struct fuzz_reading whole, other;
    msc4203_item preset;
    const char *body;
    size_t bytes;
    unsigned kinds, chunk;
    if (size < CHOICES)
        return 0;
    body = (const char *)data + CHOICES;
    bytes = size - CHOICES;
    kinds = (data[1] | (unsigned)data[2] << 8) & MSC4203_ALL_KINDS;
    chunk = data[3] ? data[3] : 1;
    preset_all(&preset);
    if (data[0] & 32)
        memset(&preset.sender, 0, sizeof preset.sender);
    memset(&way, 0, sizeof way);
    way.shape = data[0] & 3;
    way.kinds = MSC4203_ALL_KINDS;
    way.scratch_bytes = bytes;
    way.preset = data[0] & 4 ? &preset : NULL;
    way.move = data[0] >> 4 & 1;
    way.seed = data[4];

    fuzz_read(&way, body, bytes, &whole);
    check_verdict(&whole, way.shape, body, bytes);

    way.chunk = chunk;
    way.empty_end = data[0] >> 3 & 1; /* one piece is fed with `last`, and no other is whole */
    fuzz_read(&way, body, bytes, &other);
    check_same(&whole, &other, way.kinds);
    check_again(&whole, &other, way, body, bytes);
    fuzz_reading_free(&other);

    way.kinds = kinds;
    fuzz_read(&way, body, bytes, &other);
    check_same(&whole, &other, kinds);
    fuzz_reading_free(&other);

    way.scratch_bytes = small_scratch(&whole, kinds, data[5] | (size_t)data[6] << 8);
    fuzz_read(&way, body, bytes, &other);
    check_small(&whole, &other, &way);
    fuzz_reading_free(&other);

    way.chunk = 0;
    fuzz_read(&way, body, bytes, &other);
    check_small(&whole, &other, &way);
    fuzz_reading_free(&other);

    fuzz_reading_free(&whole);
    return 0;
}
