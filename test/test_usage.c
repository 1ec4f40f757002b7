/* test_usage.c - the reader as it is called: wrong order of calls, ends and errors that repeat,
 * beginning anew, presets, results' names; and the algorithms of key counts and fallback key types.
 */
#include "bodies.h"

static const char good[] = "{\"to_device\":[{\"sender\":\"s\",\"type\":\"t\",\"to_user_id\":\"u\","
                           "\"to_device_id\":\"d\",\"content\":{}}]}";
static const size_t good_bytes = sizeof good - 1;

/* Whether the reader, begun anew, reads a good body. */
static int reads_well(msc4203_reader *reader)
{
    const msc4203_item *item;
    int items = 0, result;
    if (msc4203_reader_init(reader, MSC4203_TRANSACTION, MSC4203_ALL_KINDS, NULL, 0))
        return 0;
    if (msc4203_reader_feed(reader, good, good_bytes, 1))
        return 0;
    while ((result = msc4203_reader_next(reader, &item)) == MSC4203_ITEM)
        items += item->error == 0 && item->index == 0 && item->offset == 14 && item->flags == 0 &&
                 msc4203_span_equal(&item->type, "t") && msc4203_span_equal(&item->content, "{}");
    return items == 1 && result == MSC4203_END && msc4203_reader_offset(reader) == good_bytes;
}

static void check_order_of_calls(void)
{
    msc4203_reader reader;
    const msc4203_item *item = (const msc4203_item *)&reader;
    memset(&reader, 0, sizeof reader);
    CHECK(msc4203_reader_next(&reader, &item) == MSC4203_E_USAGE && !item);
    CHECK(msc4203_reader_init(&reader, 5, MSC4203_ALL_KINDS, NULL, 0) == MSC4203_E_USAGE);
    CHECK(msc4203_reader_next(&reader, &item) == MSC4203_E_USAGE);
    CHECK(msc4203_reader_init(&reader, -1, MSC4203_ALL_KINDS, NULL, 0) == MSC4203_E_USAGE);
    CHECK(msc4203_reader_next(&reader, &item) == MSC4203_E_USAGE);
    CHECK(reads_well(&reader));

    CHECK(msc4203_reader_init(&reader, MSC4203_TRANSACTION, 1, NULL, 0) == MSC4203_OK);
    CHECK(msc4203_reader_next(&reader, &item) == MSC4203_MORE && !item); /* nothing fed */
    CHECK(reads_well(&reader));

    CHECK(msc4203_reader_init(&reader, MSC4203_TRANSACTION, 1, NULL, 0) == MSC4203_OK);
    CHECK(msc4203_reader_feed(&reader, good, good_bytes, 0) == MSC4203_OK);
    CHECK(msc4203_reader_feed(&reader, "x", 1, 1) == MSC4203_E_USAGE); /* not used up */
    CHECK(msc4203_reader_next(&reader, &item) == MSC4203_ITEM && item);
    CHECK(msc4203_reader_feed(&reader, "x", 1, 1) == MSC4203_E_USAGE); /* nor now */
    CHECK(msc4203_reader_next(&reader, &item) == MSC4203_MORE && !item);
    CHECK(msc4203_reader_next(&reader, &item) == MSC4203_MORE && !item);
    CHECK(msc4203_reader_offset(&reader) == good_bytes);
    CHECK(msc4203_reader_feed(&reader, NULL, 0, 0) == MSC4203_OK); /* an empty chunk */
    CHECK(msc4203_reader_next(&reader, &item) == MSC4203_MORE);
    CHECK(msc4203_reader_feed(&reader, " ", 1, 0) == MSC4203_OK);
    CHECK(msc4203_reader_next(&reader, &item) == MSC4203_MORE);
    CHECK(msc4203_reader_feed(&reader, NULL, 0, 1) == MSC4203_OK); /* an empty end */
    CHECK(msc4203_reader_next(&reader, &item) == MSC4203_END && !item);
    CHECK(msc4203_reader_feed(&reader, "x", 1, 1) == MSC4203_E_USAGE); /* it has ended */
    CHECK(msc4203_reader_next(&reader, &item) == MSC4203_END && !item);
    CHECK(msc4203_reader_next(&reader, &item) == MSC4203_END);
    CHECK(msc4203_reader_offset(&reader) == good_bytes + 1);
    CHECK(reads_well(&reader));
    CHECK(reads_well(&reader));
}

/* Ends and errors repeat; a reader that was left anywhere can be begun anew. */
static void check_every_body(void)
{
    struct bodies_list list = bodies_load();
    msc4203_reader reader;
    size_t i;
    for (i = 0; i < list.count; i++) {
        const struct bodies_case *one = &list.cases[i];
        static char scratch[100000];
        const msc4203_item *item;
        size_t at, stop = test_below(one->bytes + 1);
        int result, again;
        uint64_t offset;
        msc4203_reader_init(&reader, one->shape, MSC4203_ALL_KINDS, scratch, sizeof scratch);
        msc4203_reader_feed(&reader, one->body, one->bytes, 1);
        while ((result = msc4203_reader_next(&reader, &item)) == MSC4203_ITEM)
            CHECK_CASE(item != NULL, one->name);
        offset = msc4203_reader_offset(&reader);
        for (again = 0; again < 3; again++) {
            CHECK_CASE(msc4203_reader_next(&reader, &item) == result, one->name);
            CHECK_CASE((item != NULL) == (result == MSC4203_END && one->shape == MSC4203_EDU),
                       one->name);
            CHECK_CASE(msc4203_reader_offset(&reader) == offset, one->name);
            CHECK_CASE(msc4203_reader_feed(&reader, "{}", 2, again == 1) == MSC4203_E_USAGE,
                       one->name);
        }
        CHECK_CASE(reads_well(&reader), one->name);
        /* left in the middle, in single bytes */
        msc4203_reader_init(&reader, one->shape, MSC4203_ALL_KINDS, scratch, sizeof scratch);
        for (at = 0; at < stop; at++) {
            if (msc4203_reader_feed(&reader, one->body + at, 1, 0))
                break;
            do
                result = msc4203_reader_next(&reader, &item);
            while (result == MSC4203_ITEM);
            if (result == MSC4203_MORE)
                CHECK_CASE(msc4203_reader_offset(&reader) == at + 1, one->name);
        }
        CHECK_CASE(reads_well(&reader), one->name);
    }
    bodies_free(&list);
}

/* ------------------------------------------------------------------------------------------------
 * Presets
 * ------------------------------------------------------------------------------------------------
 */

static void check_preset(int shape, const char *body, const char *want)
{
    static const char ids[] = "sendertypeuserdeviceid";
    static const size_t chunks[] = {0, 1, 7};
    struct items_way way;
    msc4203_item preset;
    size_t i;
    memset(&preset, 0x55, sizeof preset); /* what is no span of the four is ignored */
    preset.sender.ptr = ids;
    preset.sender.len = 6;
    preset.type.ptr = ids + 6;
    preset.type.len = 4;
    preset.user_id.ptr = ids + 10;
    preset.user_id.len = 4;
    preset.device_id.ptr = ids + 14;
    preset.device_id.len = 6;
    memset(&way, 0, sizeof way);
    way.shape = shape;
    way.preset = &preset;
    way.scratch_bytes = 64;
    for (i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        struct items_text got;
        way.chunk = chunks[i];
        got = items_text_of(&way, body, strlen(body));
        if (!CHECK_CASE(strcmp(got.text, want) == 0, body))
            printf("  want: %s  got:  %s", want, got.text);
        free(got.text);
    }
}

static void check_presets(void)
{
    check_preset(MSC4203_SEND, "{\"messages\":{\"u\":{\"d\":{},\"e\":[]},\"v\":{\"d\":{}}}}",
                 "T0 @18 s=sender t=type u=u d=d c={}\n"
                 "T1 @25 !TYPE s=sender t=type u=u d=e\n"
                 "T2 @38 s=sender t=type u=v d=d c={}\nEND @47\n");
    check_preset(MSC4203_SYNC,
                 "{\"to_device\":{\"events\":[{\"sender\":\"s\",\"type\":\"t\",\"content\":{}}]},"
                 "\"next_batch\":\"n\"}",
                 "T0 @24 s=s t=t u=user d=device c={}\nN0 @78 i=n\nEND @82\n");
    check_preset(MSC4203_TRANSACTION, good, "T0 @14 s=s t=t u=u d=d c={}\nEND @90\n");
    check_preset(
        MSC4203_EDU,
        "{\"sender\":\"s\",\"messages\":{\"u\":{\"d\":{}}},\"type\":\"t\",\"message_id\":\"i\"}",
        "T0 @31 s=sender t=type u=u d=d c={}\nM0 @64 i=i\nSENDER s=sender t=type\n"
        "END @68\n");
    check_preset(MSC4203_EDU, "{\"messages\":{\"u\":{\"d\":{}}}}",
                 "T0 @18 s=sender t=type u=u d=d c={}\nSENDER s=sender t=type\nEND @27\n");
}

/* ------------------------------------------------------------------------------------------------
 * Small things
 * ------------------------------------------------------------------------------------------------
 */

static void check_item_error(void)
{
    msc4203_item item;
    memset(&item, 0, sizeof item);
    CHECK(msc4203_item_error(&item) == MSC4203_OK);
    item.flags = MSC4203_LATE;
    CHECK(msc4203_item_error(&item) == MSC4203_OK);
    item.flags = MSC4203_LONE_SURROGATE;
    CHECK(msc4203_item_error(&item) == MSC4203_E_SURROGATE);
    item.flags = MSC4203_HUGE_NUMBER;
    CHECK(msc4203_item_error(&item) == MSC4203_E_NUMBER);
    item.flags = MSC4203_LONE_SURROGATE | MSC4203_HUGE_NUMBER | MSC4203_LATE;
    CHECK(msc4203_item_error(&item) < 0);
    item.error = MSC4203_E_TOO_DEEP;
    CHECK(msc4203_item_error(&item) == MSC4203_E_TOO_DEEP);
    item.flags = 0;
    item.error = MSC4203_E_FIELD_TWICE;
    CHECK(msc4203_item_error(&item) == MSC4203_E_FIELD_TWICE);
}

static void check_span_equal(void)
{
    msc4203_span span;
    span.ptr = "abc";
    span.len = 2;
    CHECK(msc4203_span_equal(&span, "ab") == 1);
    CHECK(msc4203_span_equal(&span, "abc") == 0 && msc4203_span_equal(&span, "a") == 0);
    CHECK(msc4203_span_equal(&span, "aB") == 0 && msc4203_span_equal(&span, "") == 0);
    span.len = 0;
    CHECK(msc4203_span_equal(&span, "") == 1 && msc4203_span_equal(&span, "a") == 0);
    span.ptr = NULL; /* absent is no empty string to whoever asks for its bytes, but has none */
    CHECK(msc4203_span_equal(&span, "a") == 0);
    span.ptr = "a\0b";
    span.len = 3;
    CHECK(msc4203_span_equal(&span, "a") == 0);
}

static void check_results(void)
{
    static const struct {
        int result, status;
        const char *errcode;
    } rows[] = {
        {MSC4203_E_SYNTAX, 400, "M_NOT_JSON"},
        {MSC4203_E_UTF8, 400, "M_NOT_JSON"},
        {MSC4203_E_TRUNCATED, 400, "M_NOT_JSON"},
        {MSC4203_E_ROOT, 400, "M_BAD_JSON"},
        {MSC4203_E_MESSAGES, 400, "M_BAD_JSON"},
        {MSC4203_E_NO_MESSAGES, 400, "M_MISSING_PARAM"},
        {MSC4203_E_FIELD_MISSING, 400, "M_BAD_JSON"},
        {MSC4203_E_FIELD_TYPE, 400, "M_BAD_JSON"},
        {MSC4203_E_FIELD_TWICE, 400, "M_BAD_JSON"},
        {MSC4203_E_TOO_DEEP, 400, "M_BAD_JSON"},
        {MSC4203_E_SURROGATE, 400, "M_BAD_JSON"},
        {MSC4203_E_NUMBER, 400, "M_BAD_JSON"},
        {MSC4203_E_TOO_LARGE, 413, "M_TOO_LARGE"},
        {MSC4203_E_CLOCK, 500, "M_UNKNOWN"},
        {MSC4203_OK, 200, ""},
        {MSC4203_ITEM, 200, ""},
        {MSC4203_MORE, 200, ""},
        {MSC4203_END, 200, ""},
    };
    static const int all[] = {0,   1,   2,   3,   4,   5,   6,   7,   8,    9,    10,   -1,   -2,
                              -3,  -4,  -5,  -6,  -20, -21, -22, -23, -24,  -25,  -26,  -40,  -41,
                              -42, -43, -60, -80, -81, -82, -83, -84, -85,  -86,  -87,  -88,  -89,
                              -90, -100, -101, -102, -103, -104};
    static const int none[] = {11,  -7,  -19, -27,  -39,  -44,  -59, -61,
                               -79, -91, -99, -105, 1000, -1000};
    size_t i, j;
    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        CHECK_CASE(msc4203_result_status(rows[i].result) == rows[i].status,
                   items_result(rows[i].result));
        CHECK_CASE(strcmp(msc4203_result_errcode(rows[i].result), rows[i].errcode) == 0,
                   items_result(rows[i].result));
    }
    for (i = 0; i < sizeof all / sizeof *all; i++) {
        const char *text = msc4203_result_text(all[i]);
        CHECK_CASE(text && *text && strcmp(text, "unknown result") != 0, items_result(all[i]));
        for (j = 0; j < i; j++)
            CHECK_CASE(strcmp(text, msc4203_result_text(all[j])) != 0, text);
        CHECK((msc4203_result_status(all[i]) == 200) == (all[i] >= 0));
        CHECK(all[i] >= 0 || msc4203_result_status(all[i]) == 400 ||
              (msc4203_result_status(all[i]) >= 401 && msc4203_result_status(all[i]) <= 405) ||
              msc4203_result_status(all[i]) == 413 || msc4203_result_status(all[i]) == 429 ||
              msc4203_result_status(all[i]) == 500);
        CHECK((msc4203_result_errcode(all[i])[0] == 0) == (all[i] >= 0));
    }
    {
        char body[120];
        size_t bytes;
        CHECK(msc4203_result_body(MSC4203_OK, body, sizeof body, &bytes) == MSC4203_OK);
        CHECK(bytes == 2 && memcmp(body, "{}", 2) == 0);
        for (i = 0; i < sizeof all / sizeof *all; i++)
            CHECK(msc4203_result_body(all[i], body, sizeof body, &bytes) == MSC4203_OK);
        CHECK(msc4203_result_body(MSC4203_E_TOKEN, body, sizeof body, &bytes) == MSC4203_OK);
        CHECK(bytes == 61 && memcmp(body, "{\"errcode\":\"M_FORBIDDEN\",\"error\":\"the access "
                                          "token is wrong\"}", bytes) == 0);
        CHECK(msc4203_result_body(MSC4203_E_TOKEN, body, 60, &bytes) == MSC4203_E_FULL);
        CHECK(bytes == 61);
    }
    for (i = 0; i < sizeof none / sizeof *none; i++)
        CHECK(strcmp(msc4203_result_text(none[i]), "unknown result") == 0);
    CHECK(msc4203_result_status(MSC4203_E_USAGE) == 500);
    CHECK(msc4203_version() == MSC4203_VERSION_NUMBER);
    CHECK(msc4203_sizeof(MSC4203_OBJECT_ITEM) == sizeof(msc4203_item));
    CHECK(msc4203_sizeof(MSC4203_OBJECT_READER) == sizeof(msc4203_reader));
    CHECK(msc4203_sizeof(MSC4203_OBJECT_ALGORITHMS) == sizeof(msc4203_algorithms));
    CHECK(msc4203_sizeof(MSC4203_OBJECT_WRITER) == sizeof(msc4203_writer));
    CHECK(msc4203_sizeof(MSC4203_OBJECT_LOG) == sizeof(msc4203_log));
    CHECK(msc4203_sizeof(MSC4203_OBJECT_QUEUE) == sizeof(msc4203_queue));
    CHECK(msc4203_sizeof(MSC4203_OBJECT_STORAGE) == sizeof(msc4203_storage));
    CHECK(msc4203_sizeof(MSC4203_OBJECT_MESSAGE) == sizeof(msc4203_message));
    CHECK(msc4203_sizeof(MSC4203_OBJECT_COUNTS) == sizeof(msc4203_counts));
    CHECK(sizeof(msc4203_log) <= 448);
    CHECK(msc4203_sizeof(MSC4203_OBJECT_SENDER) == sizeof(msc4203_sender));
    CHECK(msc4203_sizeof(MSC4203_OBJECT_RECEIVER) == sizeof(msc4203_receiver));
    CHECK(msc4203_sizeof(MSC4203_OBJECT_SYNC) == sizeof(msc4203_sync));
    CHECK(msc4203_sizeof(MSC4203_OBJECT_DIGEST) == sizeof(msc4203_digest));
    CHECK(msc4203_sizeof(MSC4203_OBJECT_EXPIRY) == sizeof(msc4203_expiry));
    CHECK(sizeof(msc4203_sender) <= 1024 && sizeof(msc4203_receiver) <= 640);
    CHECK(msc4203_sizeof(14) == 0 && msc4203_sizeof(-1) == 0);
    CHECK(msc4203_alignof(14) == 0 && msc4203_alignof(-1) == 0);
    for (i = 0; i < 14; i++) {
        size_t align = msc4203_alignof((int)i);
        CHECK(align && (align & (align - 1)) == 0 && msc4203_sizeof((int)i) % align == 0);
    }
}

/* A size of which the low 32 bits are 0 is no size of 0. (Of the memory only a few pages are
 * touched; where so much is not to be had, a usual size has to do.) */
static void check_giant_scratch(void)
{
    msc4203_reader reader;
    const msc4203_item *item;
    size_t at, giant = sizeof(size_t) > 4 ? (((size_t)1 << 16) << 16) : 4096;
    int items = 0, result = MSC4203_MORE;
    char *scratch = (char *)malloc(giant);
    if (!scratch) {
        giant = 4096;
        scratch = (char *)malloc(giant);
    }
    msc4203_reader_init(&reader, MSC4203_TRANSACTION, MSC4203_ALL_KINDS, scratch, giant);
    for (at = 0; at < good_bytes && result == MSC4203_MORE; at++) {
        msc4203_reader_feed(&reader, good + at, 1, at + 1 == good_bytes);
        while ((result = msc4203_reader_next(&reader, &item)) == MSC4203_ITEM)
            items += !item->error && msc4203_span_equal(&item->content, "{}");
    }
    CHECK(items == 1 && result == MSC4203_END);
    free(scratch);
}

/* ------------------------------------------------------------------------------------------------
 * Algorithms
 * ------------------------------------------------------------------------------------------------
 */

/* Goes through a content, exactly sized, and writes down what comes: "name=count ... RESULT". */
static void check_algorithms(int kind, const char *content, size_t bytes, const char *want)
{
    struct items_text got = {NULL, 0, 0};
    msc4203_algorithms algorithms;
    msc4203_item item;
    msc4203_span name;
    uint64_t count;
    char *block = (char *)malloc(bytes ? bytes : 1);
    int result, again;
    memcpy(block, content, bytes);
    memset(&item, 0, sizeof item);
    item.kind = kind;
    item.content.ptr = block;
    item.content.len = bytes;
    memset(&algorithms, 0x5a, sizeof algorithms);
    msc4203_algorithms_init(&algorithms, &item);
    for (;;) {
        name.ptr = NULL;
        name.len = 0;
        count = 4203;
        result = msc4203_algorithms_next(&algorithms, &name, &count);
        if (result != MSC4203_ITEM || got.bytes > 10000)
            break;
        items_put_span(&got, "", name);
        items_printf(&got, ":%llu", (unsigned long long)count);
    }
    items_printf(&got, " %s", items_result(result));
    if (!CHECK_CASE(strcmp(got.text, want) == 0, content))
        printf("  want: %s\n  got:  %s\n", want, got.text);
    for (again = 0; again < 3; again++)
        CHECK_CASE(msc4203_algorithms_next(&algorithms, &name, &count) == result, content);
    free(got.text);
    free(block);
}

static void counts(const char *content, const char *want)
{
    check_algorithms(MSC4203_KEY_COUNTS, content, strlen(content), want);
}

static void types(const char *content, const char *want)
{
    check_algorithms(MSC4203_FALLBACK_TYPES, content, strlen(content), want);
}

static void check_names(void)
{
    char content[600], want[200], name[70];
    memset(name, 'n', sizeof name);
    sprintf(content, "{\"a\":1,\"%.64s\":2}", name);
    sprintf(want, " =a:1 =%.64s:2 END", name);
    counts(content, want);
    sprintf(content, "{\"a\":1,\"%.65s\":2,\"b\":3}", name);
    counts(content, " =a:1 LARGE");
    sprintf(content, "[\"%.64s\",\"a\"]", name);
    sprintf(want, " =%.64s:0 =a:0 END", name);
    types(content, want);
    sprintf(content, "[\"a\",\"%.65s\"]", name);
    types(content, " =a:0 LARGE");
    strcpy(content, "[\"");
    while (strlen(content) < 2 + 64 * 6) /* it is the unescaped length that counts */
        strcat(content, "\\u006e");
    strcat(content, "\"]");
    sprintf(want, " =%.64s:0 END", name);
    types(content, want);
    strcpy(content + strlen(content) - 2, "n\"]");
    types(content, " LARGE");
}

static void check_all_algorithms(void)
{
    size_t i;
    static const char escapes[] = "{\"\\u0061\\n\\\"\\ud83d\\ude00\":5}";
    counts("{}", " END");
    counts("{\"signed_curve25519\":50}", " =signed_curve25519:50 END");
    counts(" { \"a\" : 1 ,\n\"b\":\t0 , \"\":10 } ", " =a:1 =b:0 =:10 END");
    counts("{\"a\":1,\"a\":2}", " =a:1 =a:2 END");
    counts(escapes, " =a\\x0a\"\\xf0\\x9f\\x98\\x80:5 END");
    counts("{\"a\":9007199254740991}", " =a:9007199254740991 END");
    counts("{\"a\":4294967295,\"b\":4294967296,\"c\":4294967297}",
           " =a:4294967295 =b:4294967296 =c:4294967297 END");
    counts("{\"a\":1,\"b\":9007199254740992}", " =a:1 TYPE");
    counts("{\"a\":9007199300000000}", " TYPE");
    counts("{\"a\":9999999999999999}", " TYPE");
    counts("{\"a\":18446744073709551616}", " TYPE");
    counts("{\"a\":18446744073709551617}", " TYPE");
    counts("{\"a\":36893488147419103233}", " TYPE");
    counts("{\"a\":100000000000000000000000000000000000000000}", " TYPE");
    counts("{\"a\":-1}", " TYPE");
    counts("{\"a\":1.5}", " TYPE");
    counts("{\"a\":1e400}", " TYPE");
    counts("{\"a\":5,\"b\":\"5\",\"c\":7}", " =a:5 TYPE");
    counts("{\"a\":null}", " TYPE");
    counts("{\"a\":true}", " TYPE");
    counts("{\"a\":{}}", " TYPE");
    counts("{\"a\":{\"b\":1},\"c\":1}", " TYPE");
    counts("{\"a\":[1]}", " TYPE");
    counts("5", " TYPE");
    counts("\"a\"", " TYPE");
    counts("", " TRUNCATED");
    counts("{\"a\":1", " TRUNCATED"); /* the number may go on */
    counts("{\"a\":1,", " =a:1 TRUNCATED");
    counts("{\"a\":1,}", " =a:1 SYNTAX");
    counts("{\"a\"", " TRUNCATED");
    counts("{\"x\xff\":1}", " UTF8");
    counts("{\"a\":01}", " SYNTAX");
    counts("{\"a\":1}{}", " =a:1 SYNTAX");
    counts("{\"a\":1]", " =a:1 SYNTAX");
    types("[]", " END");
    types("[\"signed_curve25519\"]", " =signed_curve25519:0 END");
    types(" [ \"a\" , \"\\u0062\\\\\" , \"\" ] ", " =a:0 =b\\x5c:0 =:0 END");
    types("[\"a\",5,\"b\"]", " =a:0 TYPE");
    types("[null]", " TYPE");
    types("[[\"a\"]]", " TYPE");
    types("[{\"a\":\"b\"}]", " TYPE");
    types("[\"a\"", " =a:0 TRUNCATED");
    types("[\"a\",]", " =a:0 SYNTAX");
    types("[\"a\"}", " =a:0 SYNTAX");
    types("[\"a\xc0\"]", " UTF8");
    types("[\"a", " TRUNCATED");
    types("[\"\\ud800\"]", " =\\xef\\xbf\\xbd:0 END");
    for (i = 0; i < sizeof escapes - 1; i++)
        check_algorithms(MSC4203_KEY_COUNTS, escapes, i, " TRUNCATED");
    check_names();
}

/* Reads a body in one piece; returns how it ended, and how many of its items had this error. */
static int read_all(int shape, const msc4203_item *preset, const char *body, int error, int *items)
{
    static char scratch[1000];
    msc4203_reader reader;
    const msc4203_item *item;
    int result;
    *items = 0;
    msc4203_reader_init(&reader, shape, MSC4203_ALL_KINDS, scratch, sizeof scratch);
    if (preset)
        msc4203_reader_preset(&reader, preset);
    msc4203_reader_feed(&reader, body, strlen(body), 1);
    while ((result = msc4203_reader_next(&reader, &item)) == MSC4203_ITEM)
        *items += item->error == error;
    return result;
}

/* What is given more often than makes sense. */
static void check_repetition(void)
{
    int items;
    CHECK(read_all(MSC4203_SEND, NULL, "{\"messages\":5,\"messages\":6}", 0, &items) ==
          MSC4203_E_MESSAGES);
    CHECK(read_all(
              MSC4203_TRANSACTION, NULL,
              "{\"to_device\":1,\"to_device\":2,\"to_device\":3,\"to_device\":4,\"to_device\":5}",
              MSC4203_E_FIELD_TYPE, &items) == MSC4203_END);
    CHECK(items == 5);
    CHECK(read_all(MSC4203_EDU, NULL, "{\"messages\":{},\"messages\":{\"u\":{\"d\":{}}},", 0,
                   &items) == MSC4203_E_TRUNCATED);
    CHECK(items == 1);
    CHECK(read_all(
              MSC4203_SYNC, NULL,
              "{\"to_device\":{\"events\":[{\"to_user_id\":\"a\",\"content\":{},\"sender\":\"s\","
              "\"type\":\"a type that is long enough\"}]}}",
              0, &items) == MSC4203_END);
    CHECK(items == 1);
}

/* What an EDU's preset may say, beside a sender and a type. */
static void check_edu_presets(void)
{
    static const char body[] = "{\"messages\":{\"u\":{\"d\":{}}},\"sender\":\"s\",\"type\":\"t\"}";
    msc4203_item preset;
    int items, i;
    for (i = 0; i < 4; i++) {
        memset(&preset, 0, sizeof preset);
        preset.error = i == 3 ? MSC4203_E_SURROGATE : i == 2 ? -1000 : i == 1 ? MSC4203_ITEM : 0;
        CHECK(read_all(MSC4203_EDU, &preset, body,
                       i == 3 ? MSC4203_E_SURROGATE : MSC4203_E_FIELD_MISSING,
                       &items) == MSC4203_END);
        CHECK(items == 1);
        preset.sender.ptr = "s";
        CHECK(read_all(MSC4203_EDU, &preset, body,
                       i == 3 ? MSC4203_E_SURROGATE : MSC4203_E_FIELD_MISSING,
                       &items) == MSC4203_END);
        CHECK(items == 1);
        preset.type.ptr = "t";
        CHECK(read_all(MSC4203_EDU, &preset, body, i == 3 ? MSC4203_E_SURROGATE : 0, &items) ==
              MSC4203_END);
        CHECK(items == 1);
    }
}

static void check_writer_corners(void)
{
    msc4203_writer writer;
    msc4203_item item;
    char buffer[200];
    size_t bytes = 0, again = 0;
    memset(&writer, 0, sizeof writer); /* never begun */
    CHECK(msc4203_writer_reserve(&writer, 1) == MSC4203_E_USAGE);
    CHECK(msc4203_writer_end(&writer, &bytes) == MSC4203_E_USAGE);
    memset(&item, 0, sizeof item);
    item.kind = MSC4203_MESSAGE_ID;
    msc4203_writer_begin(&writer, MSC4203_EDU, 0, buffer, sizeof buffer);
    CHECK(msc4203_writer_item(&writer, &item) == MSC4203_E_FIELD_MISSING);
    CHECK(msc4203_writer_reserve(&writer, 1) == MSC4203_E_FIELD_MISSING);
    CHECK(msc4203_writer_clear(&writer) == MSC4203_E_FIELD_MISSING);
    item.id.ptr = "\b\t\n\v\f\r\"\\/";
    item.id.len = 9;
    CHECK(msc4203_writer_item(&writer, &item) == MSC4203_OK);
    CHECK(msc4203_writer_end(&writer, &bytes) == MSC4203_OK);
    CHECK(msc4203_writer_end(&writer, &again) == MSC4203_OK && again == bytes);
    CHECK(bytes > 40 &&
          memcmp(buffer, "{\"message_id\":\"\\b\\t\\n\\u000b\\f\\r\\\"\\\\/\",", 38) == 0);
}

int main(void)
{
    test_seed(0x4203);
    check_repetition();
    check_edu_presets();
    check_writer_corners();
    check_order_of_calls();
    check_every_body();
    check_presets();
    check_item_error();
    check_span_equal();
    check_results();
    check_giant_scratch();
    check_all_algorithms();
    return test_end("usage");
}
