/* test_hostile.c - what has cost peers a transaction, a connection or their lives: one bad item
 * never costs another one; nothing, however long or deep, costs more than itself; and the faults
 * behind the holes of other JSON parsers, in blocks that end where the body ends. */
#include "items.h"

/* Reads a copy of `text`, exactly sized, in chunks (0: one piece) with the given scratch. */
static struct items_text reading(int shape, const struct items_text *text, size_t chunk,
                                 size_t scratch_bytes)
{
    struct items_way way;
    struct items_text got;
    char *body = (char *)malloc(text->bytes ? text->bytes : 1);
    if (!body)
        exit(2);
    memcpy(body, text->text, text->bytes);
    memset(&way, 0, sizeof way);
    way.shape = shape;
    way.chunk = chunk;
    way.scratch_bytes = scratch_bytes;
    got = items_text_of(&way, body, text->bytes);
    free(body);
    return got;
}

static void put(struct items_text *to, const char *text)
{
    items_put(to, text, strlen(text));
}

static void repeat(struct items_text *to, const char *text, size_t count)
{
    size_t length = strlen(text);
    while (count--)
        items_put(to, text, length);
}

/* The first line that begins with `name` and a blank: behind its offset, which is left out. Sets
 * *bytes to how much of the line that is. NULL if there is none. */
static const char *behind_offset(const struct items_text *got, const char *name, size_t *bytes)
{
    const char *line = got->text, *const end = got->text + got->bytes, *next, *at;
    size_t length = strlen(name);
    for (; line != end; line = next) {
        next = (const char *)memchr(line, '\n', (size_t)(end - line)) + 1;
        if ((size_t)(next - line) <= length || memcmp(line, name, length) != 0 ||
            line[length] != ' ')
            continue;
        for (at = line; *at != '@' && *at != '\n';)
            at++;
        while (*at != ' ' && *at != '\n')
            at++;
        *bytes = (size_t)(next - at) - 1;
        return at;
    }
    return NULL;
}

/* Whether the reading has this line but for its offset: " @N" is left out of `rest`. */
static int has_line(const struct items_text *got, const char *name, const char *rest)
{
    size_t bytes = 0;
    const char *at = behind_offset(got, name, &bytes);
    return at && bytes == strlen(rest) && memcmp(at, rest, bytes) == 0;
}

/* Whether it has a line that goes on like this behind its offset. */
static int has_name(const struct items_text *got, const char *name, const char *after)
{
    size_t bytes = 0;
    const char *at = behind_offset(got, name, &bytes);
    return at && bytes >= strlen(after) && memcmp(at, after, strlen(after)) == 0;
}

static int ends_well(const struct items_text *got, const struct items_text *body)
{
    char end[40];
    size_t length = (size_t)sprintf(end, "END @%lu\n", (unsigned long)body->bytes);
    return got->bytes >= length && strcmp(got->text + got->bytes - length, end) == 0;
}

/* ------------------------------------------------------------------------------------------------
 * One bad item
 * ------------------------------------------------------------------------------------------------
 */

#define GOOD "\"sender\":\"s\",\"type\":\"t\",\"to_user_id\":\"u\",\"to_device_id\":\"d\""
#define REST "\"type\":\"t\",\"to_user_id\":\"u\",\"to_device_id\":\"d\",\"content\":{}"

/* An element of the list of messages, and what is said of it: the begin of the line's rest. */
static const struct {
    const char *element, *said;
} bad_messages[] = {
    {"null", " !TYPE"},
    {"\"x\"", " !TYPE"},
    {"[]", " !TYPE"},
    {"0", " !TYPE"},
    {"[[[{\"a\":[]}]]]", " !TYPE"},
    {"{}", " !MISSING"},
    {"{\"sender\":\"s\"}", " !MISSING"},
    {"{" GOOD "}", " !MISSING"},
    {"{" GOOD ",\"content\":[]}", " !TYPE"},
    {"{" GOOD ",\"content\":\"x\"}", " !TYPE"},
    {"{" GOOD ",\"content\":null}", " !TYPE"},
    {"{\"sender\":null," REST "}", " !TYPE"},
    {"{\"sender\":{\"sender\":\"s\"}," REST "}", " !TYPE"},
    {"{\"sender\":\"s\",\"sender\":\"s\"," REST "}", " !TWICE"},
    {"{\"sender\":\"s\",\"s\\u0065nder\":\"s\"," REST "}", " !TWICE"},
    {"{\"\\u0073\\u0065\\u006e\\u0064\\u0065\\u0072\":\"s\",\"sender\":\"s\"," REST "}", " !TWICE"},
    {"{\"content\":{}," GOOD ",\"content\":{}}", " !TWICE"},
    {"{\"sender\":\"\\ud800\"," REST "}", " !SURROGATE"},
    {"{\"sender\":\"\\udfff\\ud800\"," REST "}", " !SURROGATE"},
    {"{" GOOD ",\"content\":{\"a\":\"\\ud800\"}}", " ~S "},
    {"{" GOOD ",\"content\":{\"\\udc00\\ud800\":1}}", " ~S "},
    {"{" GOOD ",\"content\":{\"a\":1e400}}", " ~N "},
    {"{" GOOD ",\"content\":{\"a\":[-1E+999999999999999999999]}}", " ~N "},
    {"{" GOOD ",\"content\":{},\"x\":\"\\ud800\",\"y\":1e400,\"z\":[null]}", " s=s "},
};

static void check_bad_message(size_t which)
{
    static const size_t chunks[] = {0, 1, 3, 64};
    struct items_text body = {NULL, 0, 0}, got;
    size_t i;
    put(&body, "{\"events\":[{\"e\":1}],\"to_device\":[{" GOOD ",\"content\":{\"n\":1}},");
    put(&body, bad_messages[which].element);
    put(&body, ",{" GOOD ",\"content\":{\"n\":2}},");
    put(&body, bad_messages[which].element);
    put(&body, "],\"device_lists\":{\"changed\":[\"c\"]}}");
    for (i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        const char *said = bad_messages[which].said;
        got = reading(MSC4203_TRANSACTION, &body, chunks[i], 256);
        CHECK_CASE(has_line(&got, "E0", " c={\"e\":1}"), body.text);
        CHECK_CASE(has_line(&got, "T0", " s=s t=t u=u d=d c={\"n\":1}"), body.text);
        CHECK_CASE(has_name(&got, "T1", said), body.text);
        CHECK_CASE(has_line(&got, "T2", " s=s t=t u=u d=d c={\"n\":2}"), body.text);
        CHECK_CASE(has_name(&got, "T3", said), body.text);
        CHECK_CASE(has_line(&got, "C0", " u=c"), body.text);
        CHECK_CASE(ends_well(&got, &body), body.text);
        free(got.text);
    }
    free(body.text);
}

/* What may stand in place of a content in the other shapes, and of an element in the other lists.
 */
static const struct {
    const char *value, *said;
} bad_contents[] = {
    {"null", " !TYPE"},
    {"\"{}\"", " !TYPE"},
    {"[{}]", " !TYPE"},
    {"1e400", " !TYPE"},
    {"true", " !TYPE"},
    {"{\"a\":\"\\ud800\"}", " ~S"},
    {"{\"a\":\"\\uDBFF\\uDBFF\"}", " ~S"},
    {"{\"a\":-1e309}", " ~N"},
    {"{\"a\":{\"b\":[1e309]}}", " ~N"},
};

static void check_bad_content(size_t which)
{
    static const size_t chunks[] = {0, 1, 5, 64};
    const char *value = bad_contents[which].value, *said = bad_contents[which].said;
    struct items_text send = {NULL, 0, 0}, edu = {NULL, 0, 0}, sync = {NULL, 0, 0}, got;
    struct items_text transaction = {NULL, 0, 0};
    size_t i;
    items_printf(&send, "{\"messages\":{\"u\":{\"a\":{\"n\":1},\"b\":%s},\"v\":{\"a\":{\"n\":2}}}}",
                 value);
    items_printf(&edu, "{\"sender\":\"s\",\"type\":\"t\",\"messages\":");
    items_printf(&edu, "{\"u\":{\"a\":{\"n\":1},\"b\":%s},\"v\":{\"a\":{\"n\":2}}}}", value);
    items_printf(&sync,
                 "{\"to_device\":{\"events\":[{\"sender\":\"s\",\"type\":\"t\",\"content\":{}},");
    items_printf(&sync, "{\"content\":%s,\"sender\":\"s\",\"type\":\"t\"},", value);
    items_printf(&sync, "{\"sender\":\"s\",\"type\":\"t\",\"content\":{}}]},\"next_batch\":\"n\"}");
    items_printf(&transaction, "{\"events\":[{\"n\":1},%s,{\"n\":2}],\"ephemeral\":[%s,{\"n\":3}],",
                 value, value);
    items_printf(&transaction, "\"device_one_time_keys_count\":{\"u\":{\"d\":%s,\"e\":{}}}}",
                 value);
    for (i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        got = reading(MSC4203_SEND, &send, chunks[i], 64);
        CHECK_CASE(has_line(&got, "T0", " u=u d=a c={\"n\":1}"), send.text);
        CHECK_CASE(has_name(&got, "T1", said), send.text);
        CHECK_CASE(has_line(&got, "T2", " u=v d=a c={\"n\":2}"), send.text);
        CHECK_CASE(ends_well(&got, &send), send.text);
        free(got.text);
        got = reading(MSC4203_EDU, &edu, chunks[i], 64);
        CHECK_CASE(has_line(&got, "T0", " s=s t=t u=u d=a c={\"n\":1}"), edu.text);
        CHECK_CASE(has_name(&got, "T1", said), edu.text);
        CHECK_CASE(has_line(&got, "T2", " s=s t=t u=v d=a c={\"n\":2}"), edu.text);
        CHECK_CASE(ends_well(&got, &edu), edu.text);
        free(got.text);
        got = reading(MSC4203_SYNC, &sync, chunks[i], 64);
        CHECK_CASE(has_line(&got, "T0", " s=s t=t c={}"), sync.text);
        CHECK_CASE(has_name(&got, "T1", said), sync.text);
        CHECK_CASE(has_line(&got, "T2", " s=s t=t c={}"), sync.text);
        CHECK_CASE(has_line(&got, "N0", " i=n"), sync.text);
        CHECK_CASE(ends_well(&got, &sync), sync.text);
        free(got.text);
        got = reading(MSC4203_TRANSACTION, &transaction, chunks[i], 64);
        CHECK_CASE(has_line(&got, "E0", " c={\"n\":1}"), transaction.text);
        CHECK_CASE(has_name(&got, "E1", said), transaction.text);
        CHECK_CASE(has_line(&got, "E2", " c={\"n\":2}"), transaction.text);
        CHECK_CASE(has_name(&got, "P0", said), transaction.text);
        CHECK_CASE(has_line(&got, "P1", " c={\"n\":3}"), transaction.text);
        CHECK_CASE(has_name(&got, "K0", said), transaction.text);
        CHECK_CASE(has_line(&got, "K1", " u=u d=e c={}"), transaction.text);
        CHECK_CASE(ends_well(&got, &transaction), transaction.text);
        free(got.text);
    }
    free(send.text);
    free(edu.text);
    free(sync.text);
    free(transaction.text);
}

/* ------------------------------------------------------------------------------------------------
 * Long and deep
 * ------------------------------------------------------------------------------------------------
 */

static const size_t long_chunks[] = {0, 64, 4096};

/* A million brackets, or so many that a counter of 8 or 16 bits comes round, in every place. */
static void check_depth(size_t depth, const char *open, const char *inner, const char *close)
{
    size_t i;
    for (i = 0; i < sizeof long_chunks / sizeof *long_chunks; i++) {
        struct items_text body = {NULL, 0, 0}, got;
        put(&body, "{\"x\":");
        repeat(&body, open, depth);
        put(&body, inner);
        repeat(&body, close, depth);
        put(&body, ",\"to_device\":[{" GOOD ",\"content\":{\"n\":1}},{\"content\":{\"a\":");
        repeat(&body, open, depth);
        put(&body, inner);
        repeat(&body, close, depth);
        put(&body, "}," GOOD "},{" GOOD ",\"y\":");
        repeat(&body, open, depth);
        put(&body, inner);
        repeat(&body, close, depth);
        put(&body, ",\"content\":{\"n\":2}}]}");
        got = reading(MSC4203_TRANSACTION, &body, long_chunks[i], 256);
        CHECK_CASE(has_line(&got, "T0", " s=s t=t u=u d=d c={\"n\":1}"), open);
        CHECK_CASE(has_name(&got, "T1", " !"), open);
        CHECK_CASE(has_line(&got, "T2", " s=s t=t u=u d=d c={\"n\":2}"), open);
        CHECK_CASE(ends_well(&got, &body), open);
        free(got.text);
        free(body.text);
    }
}

/* The same, never closed. */
static void check_open(size_t depth, const char *open)
{
    struct items_text body = {NULL, 0, 0}, got;
    char end[40];
    size_t i;
    repeat(&body, open, depth);
    for (i = 0; i < sizeof long_chunks / sizeof *long_chunks; i++) {
        sprintf(end, "TRUNCATED @%lu\n", (unsigned long)body.bytes);
        got = reading(MSC4203_TRANSACTION, &body, long_chunks[i], 0);
        CHECK_CASE(strcmp(got.text, end) == 0, open);
        free(got.text);
        sprintf(end, "DEEP @%lu\n", (unsigned long)(1024 * strlen(open)));
        got = reading(MSC4203_JSON, &body, long_chunks[i], 0);
        CHECK_CASE(strcmp(got.text, end) == 0, open);
        free(got.text);
    }
    free(body.text);
}

/* A million of one thing in one place. */
static void check_long(const char *before, const char *what, const char *after, const char *name,
                       const char *said)
{
    size_t i;
    for (i = 0; i < sizeof long_chunks / sizeof *long_chunks; i++) {
        struct items_text body = {NULL, 0, 0}, got;
        put(&body, "{\"events\":[{\"e\":1}],\"to_device\":[{" GOOD ",\"content\":{\"n\":1}},{");
        put(&body, before);
        repeat(&body, what, 1000000 / strlen(what));
        put(&body, after);
        put(&body, "},{" GOOD ",\"content\":{\"n\":2}}],\"ephemeral\":[{\"p\":1}]}");
        got = reading(MSC4203_TRANSACTION, &body, long_chunks[i], 256);
        CHECK_CASE(has_line(&got, "E0", " c={\"e\":1}"), before);
        CHECK_CASE(has_line(&got, "T0", " s=s t=t u=u d=d c={\"n\":1}"), before);
        if (long_chunks[i])
            CHECK_CASE(has_name(&got, name, said), before);
        CHECK_CASE(has_line(&got, "T2", " s=s t=t u=u d=d c={\"n\":2}"), before);
        CHECK_CASE(has_line(&got, "P0", " c={\"p\":1}"), before);
        CHECK_CASE(ends_well(&got, &body), before);
        free(got.text);
        free(body.text);
    }
}

static void check_all_long(void)
{
    const char *ids = " !LARGE s=s t=t u=u d=d";
    check_long(GOOD ",\"content\":{\"a\":\"", "x", "\"}", "T1", ids);
    check_long("\"content\":{\"a\":\"", "x", "\"}," GOOD, "T1", ids);
    check_long("\"content\":{\"a\":\"", "\\\\", "\"}," GOOD, "T1", ids);
    check_long("\"content\":{\"a\":[1", ",{\"sender\":\"x\"}", "]}," GOOD, "T1", ids);
    check_long("\"content\":{\"a\":1", "23456789", "}," GOOD, "T1", " !LARGE"); /* and ~N */
    check_long("\"content\":{\"a\":1", ",\"a\":1", "}," GOOD, "T1", ids);
    check_long("\"content\":{ ", " \n", "}," GOOD, "T1", ids);
    check_long("\"content\":{}," REST ",\"sender\":\"", "x", "\"", "T1", " !");
    check_long("\"sender\":\"", "\\ud83d\\ude00", "\"," REST, "T1", " !LARGE t=t u=u d=d");
    check_long("\"type\":\"", "\xc3\xa9",
               "\",\"sender\":\"s\",\"to_user_id\":\"u\",\"content\":{},"
               "\"to_device_id\":\"d\"",
               "T1", " !LARGE s=s u=u d=d");
    check_long(GOOD ",\"content\":{},\"x\":\"", "\\u0000", "\"", "T1", " s=s t=t u=u d=d c={}");
    check_long(GOOD ",\"content\":{},\"", "sender", "\":1", "T1", " s=s t=t u=u d=d c={}");
    check_long(GOOD ",\"content\":{}", ",\"x\":{}", "", "T1", " s=s t=t u=u d=d c={}");
    check_long(GOOD ",\"content\":{}", ",\"sender\":\"s\"", "", "T1", " !TWICE");
    check_long(GOOD ",\"content\":{}", ",\"\\u0073ender\":5", "", "T1", " !");
    check_long(GOOD ",\"content\":{},\"x\":-1", "0", "", "T1", " s=s t=t u=u d=d c={}");
    check_long(GOOD ",\"content\":{},\"x\":1e", "9", "", "T1", " s=s t=t u=u d=d c={}");
    check_long(" ", "\t", GOOD ",\"content\":{}", "T1", " s=s t=t u=u d=d c={}");
}

/* User and device ids of a megabyte where they are keys; what comes next is not hurt. */
static void check_long_keys(void)
{
    size_t i;
    for (i = 1; i < sizeof long_chunks / sizeof *long_chunks; i++) {
        struct items_text body = {NULL, 0, 0}, got;
        put(&body, "{\"messages\":{\"u\":{\"d\":{\"n\":1},\"");
        repeat(&body, "x", 1000000);
        put(&body, "\":{},\"e\":{\"n\":2}},\"");
        repeat(&body, "y", 1000000);
        put(&body, "\":{\"d\":{},\"e\":{}},\"v\":{\"d\":{\"n\":3}}}}");
        got = reading(MSC4203_SEND, &body, long_chunks[i], 64);
        CHECK(has_line(&got, "T0", " u=u d=d c={\"n\":1}"));
        CHECK(has_name(&got, "T1", " !LARGE u=u"));
        CHECK(has_line(&got, "T2", " u=u d=e c={\"n\":2}"));
        CHECK(has_name(&got, "T3", " !LARGE d=d"));
        CHECK(has_name(&got, "T4", " !LARGE d=e"));
        CHECK(has_line(&got, "T5", " u=v d=d c={\"n\":3}"));
        CHECK(ends_well(&got, &body));
        free(got.text);
        free(body.text);
        memset(&body, 0, sizeof body);
        put(&body, "{\"next_batch\":\"");
        repeat(&body, "n", 1000000);
        put(&body,
            "\",\"to_device\":{\"events\":[{\"sender\":\"s\",\"type\":\"t\",\"content\":{}}]}}");
        got = reading(MSC4203_SYNC, &body, long_chunks[i], 64);
        CHECK(has_name(&got, "N0", " !LARGE"));
        CHECK(has_line(&got, "T0", " s=s t=t c={}"));
        CHECK(ends_well(&got, &body));
        free(got.text);
        free(body.text);
    }
}

/* Good items behind a hundred thousand bad ones, and what an index then is. */
static void check_many_bad(void)
{
    struct items_text body = {NULL, 0, 0}, got;
    put(&body, "{\"to_device\":[");
    repeat(&body, "null,", 70000);
    repeat(&body, "{\"content\":{}},", 70000);
    put(&body, "{" GOOD ",\"content\":{}}]}");
    got = reading(MSC4203_TRANSACTION, &body, 4096, 64);
    CHECK(has_line(&got, "T140000", " s=s t=t u=u d=d c={}"));
    CHECK(ends_well(&got, &body));
    free(got.text);
    free(body.text);
}

/* ------------------------------------------------------------------------------------------------
 * Broken strings
 * ------------------------------------------------------------------------------------------------
 */

/* Where a string can be. */
static const struct {
    int shape;
    const char *before, *after;
} places[] = {
    {MSC4203_TRANSACTION, "{\"to_device\":[{\"sender\":\"", "\"}]}"},
    {MSC4203_TRANSACTION, "{\"to_device\":[{\"", "\":1}]}"},
    {MSC4203_TRANSACTION, "{\"to_device\":[{\"sender\":\"s\",\"content\":{\"a\":\"", "\"}}]}"},
    {MSC4203_TRANSACTION, "{\"to_device\":[{\"content\":{\"", "\":1}}]}"},
    {MSC4203_TRANSACTION, "{\"", "\":1}"},
    {MSC4203_TRANSACTION, "{\"x\":[\"", "\"]}"},
    {MSC4203_TRANSACTION, "{\"device_lists\":{\"left\":[\"", "\"]}}"},
    {MSC4203_TRANSACTION, "{\"device_one_time_keys_count\":{\"u\":{\"", "\":{}}}}"},
    {MSC4203_SEND, "{\"messages\":{\"", "\":{}}}"},
    {MSC4203_SEND, "{\"messages\":{\"u\":{\"", "\":{}}}}"},
    {MSC4203_EDU, "{\"messages\":{\"u\":{\"d\":{}}},\"sender\":\"", "\"}"},
    {MSC4203_SYNC, "{\"next_batch\":\"", "\"}"},
    {MSC4203_JSON, "\"", "\""},
};

/* A string that breaks off, or goes wrong, after `bytes` bytes of `text`, in every place. */
static void check_string(const char *text, size_t bytes, const char *result, size_t at)
{
    size_t place, chunk;
    for (place = 0; place < sizeof places / sizeof *places; place++) {
        struct items_text body = {NULL, 0, 0}, cut, got;
        char end[40];
        put(&body, places[place].before);
        sprintf(end, "%s @%lu\n", result, (unsigned long)(body.bytes + at));
        items_put(&body, text, bytes);
        cut = body;
        if (strcmp(result, "TRUNCATED") != 0)
            put(&body, places[place].after);
        cut = body;
        for (chunk = 0; chunk < 4; chunk++) {
            got = reading(places[place].shape, &cut, chunk, 64);
            if (!CHECK_CASE(got.bytes >= strlen(end) &&
                                strcmp(got.text + got.bytes - strlen(end), end) == 0,
                            places[place].before))
                printf("  chunk %lu: want %s  got %.80s\n", (unsigned long)chunk, end, got.text);
            free(got.text);
        }
        free(body.text);
    }
}

static void check_broken_strings(void)
{
    static const char escapes[] =
        "a\\u00e9\\ud83d\\ude00\\\\\\\"\xf0\x9f\x98\x80\xe2\x82\xac\xc3\xa9";
    static const char *const wrong[] = {"\\u",        "\\u1",          "\\u12",     "\\u123",
                                        "\\ud83d\\u", "\\ud83d\\ude0", "\\x",       "\\a",
                                        "\\U0041",    "\\0",           "\\ud83d\\", NULL};
    size_t i;
    for (i = 0; i < sizeof escapes; i++)
        check_string(escapes, i, "TRUNCATED", i);
    for (i = 0; wrong[i]; i++) {
        /* the quote behind it is no part of the escape, but of the last one, which it ends */
        size_t bytes = strlen(wrong[i]), at = strchr("xaU0", wrong[i][1]) ? 1 : bytes;
        if (wrong[i][bytes - 1] != '\\')
            check_string(wrong[i], bytes, "SYNTAX", at);
    }
    for (i = 0x80; i < 0x100; i++) { /* a byte that is no character alone */
        char text[2];
        text[0] = 'x';
        text[1] = (char)i;
        check_string(text, 2, "UTF8", i >= 0xc2 && i <= 0xf4 ? 2 : 1);
    }
    for (i = 0; i < 0x20; i++) {
        char text[2];
        text[0] = 'x';
        text[1] = (char)i;
        check_string(text, 2, "SYNTAX", 1);
    }
    check_string("\xc0\x80", 2, "UTF8", 0);
    check_string("\xe0\x9f\xbf", 3, "UTF8", 1);
    check_string("\xed\xa0\x80", 3, "UTF8", 1);
    check_string("\xf0\x8f\xbf\xbf", 4, "UTF8", 1);
    check_string("\xf4\x90\x80\x80", 4, "UTF8", 1);
    check_string("\xe2\x82x", 3, "UTF8", 2);
    check_string("\xf0\x9f\x98\xc0", 4, "UTF8", 3);
    check_string("abcdefghijklmnop\xff", 17, "UTF8", 16);
    check_string("abcdefg\x80hijklmnopqrstuvw", 24, "UTF8", 7);
    check_string("0123456789abcdef0123456789abcdef0123456\x01", 40, "SYNTAX", 39);
}

/* Reads an event with the number BEFORE, `zeros` times 0, BEHIND, in little scratch. Tells whether
 * it is one that no double holds. */
static int is_huge(const char *before, size_t zeros, const char *behind)
{
    static char chunk[65536], scratch[64];
    const char *parts[3];
    msc4203_reader reader;
    const msc4203_item *item;
    size_t part, left, bytes;
    int huge = -1, result = MSC4203_MORE;
    memset(chunk, '0', sizeof chunk);
    parts[0] = before;
    parts[1] = chunk;
    parts[2] = behind;
    msc4203_reader_init(&reader, MSC4203_TRANSACTION, MSC4203_EVENT, scratch, sizeof scratch);
    for (part = 0; part < 3; part++)
        for (left = part == 1 ? zeros : strlen(parts[part]); left != 0; left -= bytes) {
            bytes = left < sizeof chunk ? left : sizeof chunk;
            msc4203_reader_feed(&reader, parts[part], bytes, 0);
            while ((result = msc4203_reader_next(&reader, &item)) == MSC4203_ITEM)
                huge = (item->flags & MSC4203_HUGE_NUMBER) != 0;
        }
    CHECK(result == MSC4203_MORE);
    return huge;
}

/* Many zeros, and an exponent that makes up for them: up to a length of 64 MiB. */
static void check_long_numbers(void)
{
    static const size_t lengths[] = {0, 1, 1000, 100000, 67108830};
    char behind[64];
    size_t i;
    for (i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        unsigned long n = (unsigned long)lengths[i];
        if (n > 1000000 && test_share() > 1)
            continue;
        sprintf(behind, "1e%lu}]}", n + 309); /* 1e308 */
        CHECK(is_huge("{\"events\":[{\"a\":0.", n, behind) == 0);
        sprintf(behind, "1e%lu}]}", n + 310);
        CHECK(is_huge("{\"events\":[{\"a\":0.", n, behind) == 1);
        sprintf(behind, "e%ld}]}", 308 - (long)n);
        CHECK(is_huge("{\"events\":[{\"a\":-1", n, behind) == 0);
        sprintf(behind, "e%ld}]}", 309 - (long)n);
        CHECK(is_huge("{\"events\":[{\"a\":-1", n, behind) == 1);
        CHECK(is_huge("{\"events\":[{\"a\":0.", n, "1e671088640}]}") == 1);
        CHECK(is_huge("{\"events\":[{\"a\":-1", n, "e-671088640}]}") == 0);
    }
}

int main(void)
{
    static const size_t depths[] = {1025, 65535, 65536, 65537, 66560, 131072, 1000000};
    size_t i;
    for (i = 0; i < sizeof bad_messages / sizeof *bad_messages; i++)
        check_bad_message(i);
    for (i = 0; i < sizeof bad_contents / sizeof *bad_contents; i++)
        check_bad_content(i);
    for (i = 0; i < sizeof depths / sizeof *depths; i++) {
        check_depth(depths[i], "[", "", "]");
        check_depth(depths[i], "{\"a\":", "1e400", "}");
        check_depth(depths[i], "[[{\"\":", "\"]\\\"}\"", "}]]");
    }
    check_open(1000000, "[");
    check_open(300000, "{\"a\":");
    check_all_long();
    check_long_keys();
    check_long_numbers();
    check_many_bad();
    check_broken_strings();
    return test_end("hostile");
}
