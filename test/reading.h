/* reading.h - what must be the same in all readings of one body: however it is cut, with as little
 * scratch as is promised, and whichever kinds are asked for. */
#ifndef READING_H
#define READING_H

#include "items.h"

/* A body, and its reading in one piece, to which all others are compared. */
struct subject {
    const char *name;
    int shape;
    const char *body;
    size_t bytes;
    const msc4203_item *preset;
    struct items_text whole;
    struct items_end end;
};

static TEST_UNUSED void subject_begin(struct subject *subject, const char *name, int shape,
                                      const char *body, size_t bytes, const msc4203_item *preset)
{
    struct items_way way;
    memset(subject, 0, sizeof *subject);
    subject->name = name;
    subject->shape = shape;
    subject->body = body;
    subject->bytes = bytes;
    subject->preset = preset;
    memset(&way, 0, sizeof way);
    way.shape = shape;
    way.preset = preset;
    way.scratch_bytes = bytes + 64;
    items_read(&subject->whole, &way, body, bytes, &subject->end);
}

static TEST_UNUSED void subject_end(struct subject *subject)
{
    items_end_free(&subject->end);
    free(subject->whole.text);
}

/* ------------------------------------------------------------------------------------------------
 * However a body is cut
 * ------------------------------------------------------------------------------------------------
 */

static TEST_UNUSED int is_late(const char *line)
{
    size_t flags = strcspn(line, "~\n");
    return line[flags] == '~' && memchr(line + flags, 'L', strcspn(line + flags, " \n")) != NULL;
}

static TEST_UNUSED int has_late(const struct items_text *text)
{
    const char *line;
    for (line = text->text; *line; line += strcspn(line, "\n") + 1)
        if (is_late(line))
            return 1;
    return 0;
}

/* Whether the readings are the same but for what could not be known yet: of a late item only its
 * kind, index and offset are compared. */
static TEST_UNUSED int same_but_late(const struct items_text *want, const struct items_text *got)
{
    const char *w = want->text, *g = got->text;
    while (*w && *g) {
        size_t wanted = strcspn(w, "\n"), given = strcspn(g, "\n");
        if (is_late(g)) {
            size_t place = strcspn(w, "@");
            place += strcspn(w + place, " \n");
            if (given < place || memcmp(w, g, place) != 0 || (g[place] != ' ' && g[place] != '\n'))
                return 0;
        } else if (wanted != given || memcmp(w, g, wanted) != 0)
            return 0;
        w += wanted + 1;
        g += given + 1;
    }
    return !*w && !*g;
}

/* An EDU whose messages came before its sender or type: reads it again, with what its end told. */
static TEST_UNUSED int same_with_preset(const struct subject *subject, const struct items_way *way,
                                        const struct items_end *end)
{
    struct items_way again = *way;
    struct items_text text;
    msc4203_item preset;
    int same;
    if (end->result != MSC4203_END)
        return 1; /* nothing was told */
    memset(&preset, 0, sizeof preset);
    preset.sender.ptr = end->sender.text;
    preset.sender.len = end->sender.bytes;
    preset.type.ptr = end->type.text;
    preset.type.len = end->type.bytes;
    preset.error = end->told_error;
    again.preset = &preset;
    text = items_text_of(&again, subject->body, subject->bytes);
    same = items_same(&subject->whole, &text);
    if (!same)
        items_show(&subject->whole, &text);
    free(text.text);
    return same;
}

/* Reads in the given way, which must have enough scratch; counts failures only. */
static TEST_UNUSED int same_reading(const struct subject *subject, struct items_way *way)
{
    struct items_text text = {NULL, 0, 0};
    struct items_end end;
    int same;
    way->shape = subject->shape;
    way->preset = subject->preset;
    items_read(&text, way, subject->body, subject->bytes, &end);
    same = items_same(&subject->whole, &text);
    if (!same && subject->shape == MSC4203_EDU && !subject->preset && has_late(&text))
        same = same_but_late(&subject->whole, &text) && same_with_preset(subject, way, &end);
    if (!same) {
        ITEMS_FAIL("another reading", subject->name);
        printf("  chunk %lu, %lu cuts, first at %lu\n", (unsigned long)way->chunk,
               (unsigned long)way->cut_count, (unsigned long)(way->cut_count ? way->cuts[0] : 0));
        items_show(&subject->whole, &text);
    }
    items_end_free(&end);
    free(text.text);
    return same;
}

static TEST_UNUSED void check_fixed_chunks(const struct subject *subject)
{
    static const size_t chunks[] = {1, 2, 3, 5, 7, 8, 16, 64, 4096};
    struct items_way way;
    size_t i;
    int same = 1;
    memset(&way, 0, sizeof way);
    way.scratch_bytes = subject->bytes + 64;
    for (i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        if (i && chunks[i - 1] >= subject->bytes)
            break;
        way.chunk = chunks[i];
        way.move = i % 2 == 0;
        way.empty_end = i % 3 == 0;
        same &= same_reading(subject, &way);
    }
    way.chunk = 0;
    way.empty_end = 1;
    same &= same_reading(subject, &way);
    CHECK_CASE(same, subject->name);
}

/* Every cut, or `most` of them. */
static TEST_UNUSED void check_single_cuts(const struct subject *subject, size_t most)
{
    struct items_way way;
    size_t cut, step = (subject->bytes / most + 1) * test_share();
    int same = 1;
    memset(&way, 0, sizeof way);
    way.scratch_bytes = subject->bytes + 64;
    way.cuts = &cut;
    way.cut_count = 1;
    for (cut = test_below(step); cut <= subject->bytes && same; cut += step)
        same &= same_reading(subject, &way);
    CHECK_CASE(same, subject->name);
}

static TEST_UNUSED void check_pairs_of_cuts(const struct subject *subject)
{
    struct items_way way;
    size_t cuts[2], share = test_share();
    int same = 1;
    memset(&way, 0, sizeof way);
    way.scratch_bytes = subject->bytes + 64;
    way.cuts = cuts;
    way.cut_count = 2;
    for (cuts[0] = test_below(share); cuts[0] <= subject->bytes && same; cuts[0] += share)
        for (cuts[1] = cuts[0]; cuts[1] <= subject->bytes && same; cuts[1]++)
            same &= same_reading(subject, &way);
    CHECK_CASE(same, subject->name);
}

/* Cuts anywhere, close together or far apart. */
static TEST_UNUSED void check_random_cuts(const struct subject *subject, size_t rounds)
{
    size_t cuts[64];
    struct items_way way;
    int same = 1;
    memset(&way, 0, sizeof way);
    way.scratch_bytes = subject->bytes + 64;
    way.cuts = cuts;
    for (; rounds && same; rounds--) {
        size_t i, at = 0, reach = (size_t)1 << (1 + test_below(14));
        way.cut_count = 1 + test_below(64);
        for (i = 0; i < way.cut_count; i++)
            cuts[i] = at += test_below(reach);
        way.move = (int)test_below(2);
        same &= same_reading(subject, &way);
    }
    CHECK_CASE(same, subject->name);
}

/* ------------------------------------------------------------------------------------------------
 * With as little scratch as it promises
 * ------------------------------------------------------------------------------------------------
 */

/* What a line of a reading says, as far as scratch has to do with it. */
struct line {
    char letter;
    int late;
    size_t place; /* length of kind, index and offset */
    size_t length;
    const char *error, *sender, *type, *user, *device, *content, *id; /* or NULL */
};

static TEST_UNUSED const char *line_field(const char *line, size_t length, const char *name)
{
    size_t i;
    for (i = 0; i + 3 <= length; i++)
        if (line[i] == ' ' && line[i + 1] == name[0] && line[i + 2] == name[1])
            return line + i + 1;
    return NULL;
}

static TEST_UNUSED struct line line_parse(const char *text)
{
    struct line line;
    memset(&line, 0, sizeof line);
    line.letter = *text;
    line.length = strcspn(text, "\n");
    line.place = strcspn(text, "@");
    line.place += strcspn(text + line.place, " \n");
    line.late = is_late(text);
    if (text[line.place] == ' ' && text[line.place + 1] == '!')
        line.error = text + line.place + 1;
    line.sender = line_field(text, line.length, "s=");
    line.type = line_field(text, line.length, "t=");
    line.user = line_field(text, line.length, "u=");
    line.device = line_field(text, line.length, "d=");
    line.content = line_field(text, line.length, "c=");
    line.id = line_field(text, line.length, "i=");
    return line;
}

/* The length of a field, unescaped; 0 for one that is absent. */
static TEST_UNUSED size_t field_bytes(const char *field)
{
    size_t length = 0;
    if (!field)
        return 0;
    for (field += 2; *field != ' ' && *field != '\n'; length++)
        field += *field == '\\' ? 4 : 1;
    return length;
}

static TEST_UNUSED int same_field(const char *a, const char *b)
{
    size_t length;
    if (!a || !b)
        return a == b;
    length = strcspn(a, " \n");
    return strcspn(b, " \n") == length && memcmp(a, b, length) == 0;
}

/* What a preset gives needs no scratch. */
static TEST_UNUSED size_t ids_need(const struct subject *subject, const struct line *line)
{
    size_t need = field_bytes(line->id);
    if (subject->shape == MSC4203_TRANSACTION || subject->shape == MSC4203_SYNC ||
        (subject->shape == MSC4203_EDU && !subject->preset))
        need += field_bytes(line->sender) + field_bytes(line->type);
    if (subject->shape != MSC4203_SYNC)
        need += field_bytes(line->user) + field_bytes(line->device);
    return need;
}

/* One item, read in chunks with `scratch` bytes, against its reading with plenty: what fits is the
 * same, what does not is too large (in single bytes always; else a chunk may have had it whole),
 * with its ids if these fit. */
static TEST_UNUSED int fits_as_promised(const struct subject *subject, const char *want_text,
                                        const char *got_text, size_t scratch, size_t chunk)
{
    struct line want = line_parse(want_text), got = line_parse(got_text);
    size_t ids = ids_need(subject, &want), need = ids + field_bytes(want.content);
    int same = got.length == want.length && memcmp(got_text, want_text, got.length) == 0;
    int large = got.error && strncmp(got.error, "!LARGE", 6) == 0;

    if (want.letter == 'S')
        return same || scratch < ids; /* the end of an EDU */
    if (got.place != want.place || memcmp(want_text, got_text, want.place) != 0)
        return 0;
    if (want.error || (want.letter == 'M' && subject->shape == MSC4203_EDU))
        return same || large || got.error; /* what else is kept at that moment is not said here */
    if (need <= scratch || (same && chunk > 1))
        return same;
    if (!large || field_bytes(got.content) != 0)
        return 0;
    if (ids <= scratch)
        return same_field(want.sender, got.sender) && same_field(want.type, got.type) &&
               same_field(want.user, got.user) && same_field(want.device, got.device) &&
               same_field(want.id, got.id);
    return (!got.sender || same_field(want.sender, got.sender)) &&
           (!got.type || same_field(want.type, got.type)) &&
           (!got.user || same_field(want.user, got.user)) &&
           (!got.device || same_field(want.device, got.device)) &&
           (!got.id || same_field(want.id, got.id));
}

static TEST_UNUSED int check_scratch(const struct subject *subject, size_t scratch, size_t chunk)
{
    struct items_text text = {NULL, 0, 0};
    struct items_end end;
    struct items_way way;
    const char *w = subject->whole.text, *g;
    int good = 1;
    memset(&way, 0, sizeof way);
    way.shape = subject->shape;
    way.preset = subject->preset;
    way.chunk = chunk;
    way.scratch_bytes = scratch;
    items_read(&text, &way, subject->body, subject->bytes, &end);
    g = text.text;
    if (!has_late(&text))
        while (good && *w && *g) {
            size_t wanted = strcspn(w, "\n"), given = strcspn(g, "\n");
            if (w[wanted + 1] == 0 || g[given + 1] == 0)
                good = strcmp(w, g) == 0; /* the result */
            else
                good = fits_as_promised(subject, w, g, scratch, chunk);
            if (!good) {
                ITEMS_FAIL("as promised with little scratch", subject->name);
                printf("  scratch %lu, chunk %lu\n  want: %.*s\n  got:  %.*s\n",
                       (unsigned long)scratch, (unsigned long)chunk, items_some(w), w,
                       items_some(g), g);
            }
            w += wanted + 1;
            g += given + 1;
        }
    items_end_free(&end);
    free(text.text);
    return good;
}

/* What the longest item needs suffices in single bytes, and in all other ways; less costs those
 * items alone that need more. */
static TEST_UNUSED void check_little_scratch(const struct subject *subject)
{
    static const size_t chunks[] = {1, 2, 3, 7, 64, 1000};
    size_t need = subject->end.need, scratch, i, step = need / 150 + test_share();
    struct items_way way;
    int good = 1;
    memset(&way, 0, sizeof way);
    if (subject->end.result == MSC4203_END && !strstr(subject->whole.text, " !") &&
        !strstr(subject->whole.text, "\nM"))
        for (i = 0; i < sizeof chunks / sizeof *chunks; i++) {
            way.chunk = chunks[i];
            way.scratch_bytes = need;
            good &= same_reading(subject, &way);
        }
    if (subject->end.result == MSC4203_END)
        for (scratch = 0; scratch + 1 < need && good; scratch += step)
            good &= check_scratch(subject, scratch, 1) &&
                    check_scratch(subject, scratch, 2 + test_below(30));
    if (subject->end.result == MSC4203_END && need)
        good &= check_scratch(subject, need - 1, 1) && check_scratch(subject, need, 1);
    CHECK_CASE(good, subject->name);
    if (subject->shape != MSC4203_EDU && !memchr(subject->body, '\\', subject->bytes)) {
        memset(&way, 0, sizeof way); /* in one piece, without escapes: none at all */
        CHECK_CASE(same_reading(subject, &way), subject->name);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Whichever kinds are asked for
 * ------------------------------------------------------------------------------------------------
 */

/* The lines of a reading that are of the wanted kinds, and its result; not what an EDU tells at its
 * end, which needs scratch that may not be there. */
static TEST_UNUSED struct items_text of_kinds(const struct items_text *all, unsigned kinds)
{
    struct items_text some = {NULL, 0, 0};
    const char *line;
    for (line = all->text; *line; line += strcspn(line, "\n") + 1) {
        size_t length = strcspn(line, "\n") + 1;
        const char *letter =
            length > 1 && line[1] >= '0' && line[1] <= '9' ? strchr(items_letters, *line) : NULL;
        if (letter ? kinds >> (letter - items_letters) & 1 : strncmp(line, "SENDER", 6) != 0)
            items_put(&some, line, length);
    }
    return some;
}

static TEST_UNUSED int check_kinds_way(const struct subject *subject, unsigned kinds, size_t chunk,
                                       size_t scratch)
{
    struct items_text want = of_kinds(&subject->whole, kinds), got, all;
    struct items_way way;
    int same;
    memset(&way, 0, sizeof way);
    way.shape = subject->shape;
    way.preset = subject->preset;
    way.kinds = kinds ? kinds : ITEMS_NO_KINDS;
    way.chunk = chunk;
    way.scratch_bytes = scratch;
    all = items_text_of(&way, subject->body, subject->bytes);
    got = of_kinds(&all, MSC4203_ALL_KINDS);
    same = items_same(&want, &got) || (chunk && same_but_late(&want, &got));
    if (!same) {
        ITEMS_FAIL("the items of these kinds", subject->name);
        printf("  kinds %x, chunk %lu, scratch %lu\n", kinds, (unsigned long)chunk,
               (unsigned long)scratch);
        items_show(&want, &got);
    }
    free(want.text);
    free(got.text);
    free(all.text);
    return same;
}

static TEST_UNUSED void check_kinds(const struct subject *subject)
{
    unsigned present = 0, i;
    const char *line;
    int same = 1;
    for (line = subject->whole.text; *line; line += strcspn(line, "\n") + 1)
        if (line[1] >= '0' && line[1] <= '9' && strchr(items_letters, *line))
            present |= 1u << (strchr(items_letters, *line) - items_letters);
    for (i = 0; i < 24 && same; i++) {
        unsigned kinds = i < 9    ? 1u << i
                         : i < 18 ? MSC4203_ALL_KINDS & ~(1u << (i - 9))
                                  : (unsigned)test_below(512);
        same &= check_kinds_way(subject, kinds, 0, subject->bytes + 64);
        same &= check_kinds_way(subject, kinds, 1 + i % 3, subject->bytes + 64);
        kinds &= ~present; /* nothing that is wanted is there: no scratch is needed */
        same &= check_kinds_way(subject, kinds, 1 + i % 5, 0);
    }
    CHECK_CASE(same, subject->name);
}

/* A body is no JSON in one shape if it is none in any, and in the same way. */
static TEST_UNUSED void check_syntax(const struct subject *subject)
{
    struct items_way way;
    struct items_text text = {NULL, 0, 0};
    struct items_end end;
    int result = subject->end.result;
    memset(&way, 0, sizeof way);
    way.shape = MSC4203_JSON;
    items_read(&text, &way, subject->body, subject->bytes, &end);
    if (end.result == MSC4203_END)
        CHECK_CASE(result == MSC4203_END || result == MSC4203_E_ROOT ||
                       result == MSC4203_E_MESSAGES || result == MSC4203_E_NO_MESSAGES,
                   subject->name);
    else if (end.result != MSC4203_E_TOO_DEEP)
        CHECK_CASE(result == end.result && subject->end.offset == end.offset, subject->name);
    items_end_free(&end);
    free(text.text);
}

#endif
