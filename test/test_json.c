/* test_json.c - the library's JSON scanner against the tests' own validator (validator.h): both
 * accept a text, or both refuse it, at the same byte and for the same reason.
 *
 * What is compared: every text up to a length over several alphabets, every short UTF-8 sequence,
 * every small change of the captured bodies, special bytes at every place of long strings, nesting
 * around the limit, and numbers around the largest double. */
#include "msc4203.h"
#include "test.h"
#include "validator.h"

/* How a text is cut into pieces for feeding; any other number is the size of each piece. */
#define WHOLE  ((size_t)-1)
#define RANDOM ((size_t)-2)

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Set by main() from the environment. */
static unsigned long run_scale, run_share;

/* How many texts have been given to both: as they are, with blanks behind, and in pieces; and how
 * many of them, no two the same, are of an alphabet of 20 symbols or more. */
static unsigned long texts_compared, texts_far, texts_cut, texts_wide;

/* Texts of up to so many bytes are cut in two at every byte. */
static size_t every_cut;

/* What the library says of a text. */
struct reading {
    int result;
    uint64_t offset;
    /* of the items, when they are wanted */
    unsigned items, flags;
    int item_error;
    int content_differs; /* the last item's content is not what was expected */
};

static const int result_of[] = {MSC4203_END, MSC4203_E_TRUNCATED, MSC4203_E_SYNTAX, MSC4203_E_UTF8,
                                MSC4203_E_TOO_DEEP};

static void *allocate(size_t bytes)
{
    void *block = malloc(bytes ? bytes : 1);
    if (!block)
        exit(2);
    return block;
}

/* A text in printable characters, for saying which one failed. */
static const char *printable(const unsigned char *text, size_t bytes)
{
    static char out[200];
    size_t used = 0, i;
    out[0] = 0;
    for (i = 0; i < bytes && used < sizeof out - 40; i++)
        used += (size_t)sprintf(out + used, text[i] >= 0x20 && text[i] < 0x7F ? "%c" : "<%02X>",
                                text[i]);
    if (i < bytes)
        sprintf(out + used, " ... (%lu bytes)", (unsigned long)bytes);
    return out;
}

/* As CHECK_CASE(): the text is made printable only when the check fails. */
#define CHECK_TEXT(condition, text, bytes)                                                         \
    ((condition) ? (void)test_passed++                                                             \
                 : (void)test_check(0, __FILE__, __LINE__, #condition, printable(text, bytes)))

/* ---------------------------------------------------------------------------------------------
 * Reading with the library
 * --------------------------------------------------------------------------------------------- */

/* As one JSON text, in one piece, from where it lies. */
static struct reading read_text(const unsigned char *text, size_t bytes)
{
    struct reading reading = {0, 0, 0, 0, 0, 0};
    msc4203_reader reader;
    const msc4203_item *item;
    msc4203_reader_init(&reader, MSC4203_JSON, 0, NULL, 0);
    msc4203_reader_feed(&reader, text, bytes, 1);
    reading.result = msc4203_reader_next(&reader, &item);
    reading.offset = msc4203_reader_offset(&reader);
    return reading;
}

/* Takes all items from what has been fed. */
static void take_items(msc4203_reader *reader, struct reading *reading,
                       const unsigned char *content, size_t bytes)
{
    const msc4203_item *item;
    while ((reading->result = msc4203_reader_next(reader, &item)) == MSC4203_ITEM) {
        reading->items++;
        reading->flags |= item->flags;
        if (item->error)
            reading->item_error = item->error;
        else if (content)
            reading->content_differs =
                item->content.len != bytes || memcmp(item->content.ptr, content, bytes) != 0;
    }
}

/* What to read, and the content that the last item is to have (or NULL). */
struct task {
    const unsigned char *text;
    size_t bytes;
    int shape;
    unsigned kinds;
    const unsigned char *content;
    size_t content_bytes;
};

/* In pieces, the first one of `first` bytes and the others of `size` each; each in a block of its
 * own and of its size, so that reading beyond it is seen by ASan, and reading it once it has been
 * used up, too. */
static struct reading read_pieces(const struct task *task, size_t first, size_t size)
{
    struct reading reading = {0, 0, 0, 0, 0, 0};
    msc4203_reader reader;
    const msc4203_item *item;
    void *scratch = task->kinds ? allocate(task->bytes) : NULL;
    size_t at = 0, piece = first;
    int last;
    msc4203_reader_init(&reader, task->shape, task->kinds, scratch, task->kinds ? task->bytes : 0);
    do {
        unsigned char *block;
        if (piece == RANDOM)
            piece = test_below(test_below(8) ? 9 : 70);
        if (piece > task->bytes - at)
            piece = task->bytes - at;
        block = (unsigned char *)allocate(piece);
        memcpy(block, task->text + at, piece);
        at += piece;
        /* The end is told with the last bytes, or alone, behind them. */
        last = at == task->bytes && (first == WHOLE || piece == 0 || test_below(2));
        msc4203_reader_feed(&reader, piece ? block : NULL, piece, last);
        take_items(&reader, &reading, task->content, task->content_bytes);
        free(block);
        piece = size;
    } while (reading.result == MSC4203_MORE && !last);
    reading.offset = msc4203_reader_offset(&reader);
    /* The result stays, whatever is asked again. */
    CHECK(msc4203_reader_next(&reader, &item) == reading.result);
    CHECK(msc4203_reader_offset(&reader) == reading.offset);
    free(scratch);
    return reading;
}

/* ---------------------------------------------------------------------------------------------
 * Comparing
 * --------------------------------------------------------------------------------------------- */

static int agrees(struct reading reading, int answer, size_t offset, const unsigned char *text,
                  size_t bytes, const char *how)
{
    if (reading.result == result_of[answer] && reading.offset == offset) {
        test_passed++;
        return 1;
    }
    test_check(0, __FILE__, __LINE__, "library == validator", printable(text, bytes));
    if (test_failed <= 50)
        printf("  %s: library %d at %lu, validator %d at %lu\n", how, reading.result,
               (unsigned long)reading.offset, result_of[answer], (unsigned long)offset);
    return 0;
}

/* So many blanks behind a text keep the scanner from being near the end of its input while it reads
 * the text: there it may look at several bytes at once. */
#define FAR ((size_t)48)

/* A short text: in one piece. Returns the validator's answer. The text lies at the end of a block
 * on the heap, so that reading beyond it is seen by ASan. */
static int compare(const unsigned char *text, size_t bytes, size_t *offset)
{
    static unsigned char *block;
    unsigned char *copy;
    int answer = validate(text, bytes, offset, NULL);
    if (!block)
        block = (unsigned char *)allocate(256); /* once, for the whole run */
    copy = block + 256 - bytes;
    memcpy(copy, text, bytes);
    texts_compared++;
    agrees(read_text(copy, bytes), answer, *offset, text, bytes, "whole");
    return answer;
}

/* The same text with blanks behind it. `answer` and `offset` are the validator's for it alone: only
 * when it is cut short do the blanks change more than the length. */
static void compare_far(const unsigned char *text, size_t bytes, int answer, size_t offset)
{
    static unsigned char far_text[256];
    memcpy(far_text, text, bytes);
    memset(far_text + bytes, ' ', FAR);
    if (answer == VALIDATOR_VALID)
        offset = bytes + FAR;
    else if (answer == VALIDATOR_CUT_SHORT)
        answer = validate(far_text, bytes + FAR, &offset, NULL);
    texts_far++;
    agrees(read_text(far_text, bytes + FAR), answer, offset, far_text, bytes + FAR, "far");
}

/* In one piece, in single bytes, in random pieces, and, when it is short, cut in two everywhere. */
static void compare_task(const struct task *task, int answer, size_t offset, const char *how)
{
    size_t at;
    texts_cut++;
    agrees(read_pieces(task, WHOLE, 0), answer, offset, task->text, task->bytes, how);
    agrees(read_pieces(task, 1, 1), answer, offset, task->text, task->bytes, how);
    agrees(read_pieces(task, RANDOM, RANDOM), answer, offset, task->text, task->bytes, how);
    for (at = 0; at < task->bytes && task->bytes <= every_cut; at++)
        agrees(read_pieces(task, at, WHOLE), answer, offset, task->text, task->bytes, how);
}

/* A text of any length, as it is. */
static void compare_cuts(const unsigned char *text, size_t bytes)
{
    struct task task = {NULL, 0, MSC4203_JSON, 0, NULL, 0};
    size_t offset;
    int answer = validate(text, bytes, &offset, NULL);
    task.text = text;
    task.bytes = bytes;
    compare_task(&task, answer, offset, "in pieces");
}

/* Bodies around a text: it is a value of an item's content, one of an item's fields, or a key. */
struct frame {
    const char *before, *after;
    int shape;
    unsigned kinds;
};

#define MORE                                                                                       \
    ",\"type\":\"m.dummy\",\"to_user_id\":\"@a:b\",\"to_device_id\":\"D\",\"content\":{\"k\":1}}]" \
    "}"

static const struct frame frames[] = {
    {"{\"events\":[{\"a\":", "}]}", MSC4203_TRANSACTION, MSC4203_EVENT},
    {"{\"events\":[{\"a\":", "}]}", MSC4203_TRANSACTION, 0},
    {"{\"to_device\":[{\"sender\":", "}]}", MSC4203_TRANSACTION, MSC4203_TO_DEVICE},
    {"{\"to_device\":[{\"sender\":", MORE, MSC4203_TRANSACTION, MSC4203_TO_DEVICE},
    {"{\"to_device\":[{\"content\":{\"a\":", "}" MORE, MSC4203_TRANSACTION, MSC4203_TO_DEVICE},
    {"{\"to_device\":[{", ":1}]}", MSC4203_TRANSACTION, MSC4203_TO_DEVICE},
    {"{\"to_device\":[{", ":1" MORE, MSC4203_TRANSACTION, MSC4203_TO_DEVICE},
    {"{\"messages\":{\"@a:b\":{", ":{}}}}", MSC4203_SEND, MSC4203_TO_DEVICE},
};

/* The flags and the content of the text as an event's value, read in this way. */
static void compare_flags(const struct task *task, unsigned flags, size_t first, size_t size)
{
    struct reading r = read_pieces(task, first, size);
    CHECK_TEXT(r.items == 1 && r.item_error == 0 && !r.content_differs, task->text, task->bytes);
    CHECK_TEXT(!(r.flags & MSC4203_LONE_SURROGATE) == !(flags & VALIDATOR_LONE_SURROGATE),
               task->text, task->bytes);
    CHECK_TEXT(!(r.flags & MSC4203_HUGE_NUMBER) == !(flags & VALIDATOR_HUGE_NUMBER), task->text,
               task->bytes);
}

/* The text within one kind of body, with or without blanks at the end; when it is valid, so is the
 * event whose value it is, and the event has the flags that the validator found. */
static void compare_in_frame(const struct frame *frame, const unsigned char *text, size_t bytes,
                             size_t blanks)
{
    size_t before = strlen(frame->before), after = strlen(frame->after), offset, at;
    unsigned char *body = (unsigned char *)allocate(before + bytes + after + blanks);
    struct task task = {NULL, 0, 0, 0, NULL, 0};
    unsigned flags;
    int answer;
    memcpy(body, frame->before, before);
    memcpy(body + before, text, bytes);
    memcpy(body + before + bytes, frame->after, after);
    memset(body + before + bytes + after, ' ', blanks);
    task.text = body;
    task.bytes = before + bytes + after + blanks;
    task.shape = frame->shape;
    task.kinds = frame->kinds;
    answer = validate(body, task.bytes, &offset, NULL);
    if (answer != VALIDATOR_TOO_DEEP) /* which is fine in a body: see check_deep_item() */
        compare_task(&task, answer, offset, "in a body");
    if (frame->kinds == MSC4203_EVENT && answer == VALIDATOR_VALID &&
        validate(text, bytes, NULL, &flags) == VALIDATOR_VALID) {
        task.content = body + before - 5;
        task.content_bytes = bytes + 6;
        compare_flags(&task, flags, WHOLE, 0);
        compare_flags(&task, flags, 1, 1);
        compare_flags(&task, flags, RANDOM, RANDOM);
        for (at = before; at <= before + bytes && bytes <= every_cut; at++)
            compare_flags(&task, flags, at, WHOLE);
    }
    free(body);
}

static void compare_framed(const unsigned char *text, size_t bytes)
{
    size_t i;
    for (i = 0; i < COUNT(frames); i++) {
        int far = every_cut != 0 || test_below(2);
        if (far)
            compare_in_frame(&frames[i], text, bytes, FAR);
        if (!far || every_cut != 0)
            compare_in_frame(&frames[i], text, bytes, 0);
    }
}

/* ---------------------------------------------------------------------------------------------
 * Known texts: so that the validator itself is held against something
 * --------------------------------------------------------------------------------------------- */

struct known {
    const char *text;
    int answer;
    unsigned offset; /* where it is refused */
    unsigned flags;  /* of a valid text */
};

#define LONE VALIDATOR_LONE_SURROGATE
#define HUGE VALIDATOR_HUGE_NUMBER

static const struct known known_texts[] = {
    {"0", VALIDATOR_VALID, 0, 0},
    {" \t\r\n-0.0e-0 \t\r\n", VALIDATOR_VALID, 0, 0},
    {"{\"a\":[true,false,null,{},[],\"\",-1.5E+3]}", VALIDATOR_VALID, 0, 0},
    {"[ { \"a\" : 1 , \"a\" : 2 } , 3 ]", VALIDATOR_VALID, 0, 0},
    {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\u00E9\"", VALIDATOR_VALID, 0, 0},
    {"\"\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\"", VALIDATOR_VALID, 0,
     0},
    {"\"\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\"", VALIDATOR_VALID, 0, 0},
    {"\"\\ud83d\\ude00\"", VALIDATOR_VALID, 0, 0},
    {"\"\\uD800\"", VALIDATOR_VALID, 0, LONE},
    {"\"\\udc00\"", VALIDATOR_VALID, 0, LONE},
    {"\"\\ud83d\\ud83d\\ude00\"", VALIDATOR_VALID, 0, LONE},
    {"\"\\ud83d\\uda3d\\ude00\"", VALIDATOR_VALID, 0, LONE},
    {"\"\\ud83dx\\ude00\"", VALIDATOR_VALID, 0, LONE},
    {"\"\\ud83d\\n\\ude00\"", VALIDATOR_VALID, 0, LONE},
    {"\"\\ud83d\xc3\xa9\\ude00\"", VALIDATOR_VALID, 0, LONE},
    {"[\"\\ud83d\",\"\\ude00\"]", VALIDATOR_VALID, 0, LONE},
    {"{\"\\udfff\":0}", VALIDATOR_VALID, 0, LONE},
    {"\"\\ud7ff\\ue000\"", VALIDATOR_VALID, 0, 0},
    {"", VALIDATOR_CUT_SHORT, 0, 0},
    {" \n", VALIDATOR_CUT_SHORT, 2, 0},
    {"-", VALIDATOR_CUT_SHORT, 1, 0},
    {"1.", VALIDATOR_CUT_SHORT, 2, 0},
    {"1e", VALIDATOR_CUT_SHORT, 2, 0},
    {"1e+", VALIDATOR_CUT_SHORT, 3, 0},
    {"tru", VALIDATOR_CUT_SHORT, 3, 0},
    {"\"", VALIDATOR_CUT_SHORT, 1, 0},
    {"\"\\", VALIDATOR_CUT_SHORT, 2, 0},
    {"\"\\u12", VALIDATOR_CUT_SHORT, 5, 0},
    {"\"\xf0\x9f", VALIDATOR_CUT_SHORT, 3, 0},
    {"[1", VALIDATOR_CUT_SHORT, 2, 0},
    {"{\"a\"", VALIDATOR_CUT_SHORT, 4, 0},
    {"[1,", VALIDATOR_CUT_SHORT, 3, 0},
    {"\xef\xbb\xbf{}", VALIDATOR_SYNTAX, 0, 0},
    {"\xc3\xa9", VALIDATOR_SYNTAX, 0, 0},
    {"\x0c 1", VALIDATOR_SYNTAX, 0, 0},
    {"NaN", VALIDATOR_SYNTAX, 0, 0},
    {"nan", VALIDATOR_SYNTAX, 1, 0},
    {"truE", VALIDATOR_SYNTAX, 3, 0},
    {"truex", VALIDATOR_SYNTAX, 4, 0},
    {"nulll", VALIDATOR_SYNTAX, 4, 0},
    {"+1", VALIDATOR_SYNTAX, 0, 0},
    {".5", VALIDATOR_SYNTAX, 0, 0},
    {"01", VALIDATOR_SYNTAX, 1, 0},
    {"-01", VALIDATOR_SYNTAX, 2, 0},
    {"0x1", VALIDATOR_SYNTAX, 1, 0},
    {"1.e1", VALIDATOR_SYNTAX, 2, 0},
    {"1e1.5", VALIDATOR_SYNTAX, 3, 0},
    {"--1", VALIDATOR_SYNTAX, 1, 0},
    {"1 2", VALIDATOR_SYNTAX, 2, 0},
    {"[1 2]", VALIDATOR_SYNTAX, 3, 0},
    {"[1,]", VALIDATOR_SYNTAX, 3, 0},
    {"[,1]", VALIDATOR_SYNTAX, 1, 0},
    {"{\"a\":1,}", VALIDATOR_SYNTAX, 7, 0},
    {"{\"a\"}", VALIDATOR_SYNTAX, 4, 0},
    {"{\"a\":}", VALIDATOR_SYNTAX, 5, 0},
    {"{\"a\",1}", VALIDATOR_SYNTAX, 4, 0},
    {"{1:2}", VALIDATOR_SYNTAX, 1, 0},
    {"{true:2}", VALIDATOR_SYNTAX, 1, 0},
    {"{\"k1\":\"v1\",{\"k2\":\"v2\"}}", VALIDATOR_SYNTAX, 11, 0},
    {"[}", VALIDATOR_SYNTAX, 1, 0},
    {"{]", VALIDATOR_SYNTAX, 1, 0},
    {"[1}", VALIDATOR_SYNTAX, 2, 0},
    {"{\"a\":1]", VALIDATOR_SYNTAX, 6, 0},
    {"]", VALIDATOR_SYNTAX, 0, 0},
    {"{}}", VALIDATOR_SYNTAX, 2, 0},
    {"[\"a\":1]", VALIDATOR_SYNTAX, 4, 0},
    {"[/**/]", VALIDATOR_SYNTAX, 1, 0},
    {"'a'", VALIDATOR_SYNTAX, 0, 0},
    {"\"\n\"", VALIDATOR_SYNTAX, 1, 0},
    {"\"\x1f\"", VALIDATOR_SYNTAX, 1, 0},
    {"\"\\x\"", VALIDATOR_SYNTAX, 2, 0},
    {"\"\\U0041\"", VALIDATOR_SYNTAX, 2, 0},
    {"\"\\u004g\"", VALIDATOR_SYNTAX, 6, 0},
    {"\"\\u\"", VALIDATOR_SYNTAX, 3, 0},
    {"\"\\\n\"", VALIDATOR_SYNTAX, 2, 0},
    {"\"\\\xc3\xa9\"", VALIDATOR_SYNTAX, 2, 0},
    {"\"a\"b", VALIDATOR_SYNTAX, 3, 0},
    {"\"\x80\"", VALIDATOR_UTF8, 1, 0},
    {"\"\xc0\x80\"", VALIDATOR_UTF8, 1, 0},
    {"\"\xc1\xbf\"", VALIDATOR_UTF8, 1, 0},
    {"\"\xc3\"", VALIDATOR_UTF8, 2, 0},
    {"\"\xc3\\n\"", VALIDATOR_UTF8, 2, 0},
    {"\"\xe0\x9f\xbf\"", VALIDATOR_UTF8, 2, 0},
    {"\"\xed\xa0\x80\"", VALIDATOR_UTF8, 2, 0},
    {"\"\xe1\x80\xc0\"", VALIDATOR_UTF8, 3, 0},
    {"\"\xf0\x8f\xbf\xbf\"", VALIDATOR_UTF8, 2, 0},
    {"\"\xf4\x90\x80\x80\"", VALIDATOR_UTF8, 2, 0},
    {"\"\xf5\x80\x80\x80\"", VALIDATOR_UTF8, 1, 0},
    {"\"\xf0\x9f\x98\"", VALIDATOR_UTF8, 4, 0},
    {"\"\xff\"", VALIDATOR_UTF8, 1, 0},
    /* The largest double is 1.7976931348623157e308 and some digits. */
    {"1.7976931348623157e308", VALIDATOR_VALID, 0, 0},
    {"1.797693134862315799999999999999999999999e308", VALIDATOR_VALID, 0, 0},
    {"1.7976931348623158e308", VALIDATOR_VALID, 0, HUGE},
    {"-1.7976931348623158E+308", VALIDATOR_VALID, 0, HUGE},
    {"17976931348623158e292", VALIDATOR_VALID, 0, HUGE},
    {"17976931348623157e292", VALIDATOR_VALID, 0, 0},
    {"179769313486231579e291", VALIDATOR_VALID, 0, 0},
    {"0.00017976931348623158e312", VALIDATOR_VALID, 0, HUGE},
    {"0.00017976931348623158e311", VALIDATOR_VALID, 0, 0},
    {"1.8e308", VALIDATOR_VALID, 0, HUGE},
    {"1.797693134862316e308", VALIDATOR_VALID, 0, HUGE},
    {"1.797693134862315e308", VALIDATOR_VALID, 0, 0},
    {"2e308", VALIDATOR_VALID, 0, HUGE},
    {"1e308", VALIDATOR_VALID, 0, 0},
    {"1e309", VALIDATOR_VALID, 0, HUGE},
    {"9e307", VALIDATOR_VALID, 0, 0},
    {"1e400", VALIDATOR_VALID, 0, HUGE},
    {"1e-400", VALIDATOR_VALID, 0, 0},
    {"0e999999", VALIDATOR_VALID, 0, 0},
    {"-0.000e99999999999999999999", VALIDATOR_VALID, 0, 0},
    {"1e99999999999999999999", VALIDATOR_VALID, 0, HUGE},
    {"-1e+18446744073709551616", VALIDATOR_VALID, 0, HUGE},
    {"1e4294967296", VALIDATOR_VALID, 0, HUGE},
    {"1e-18446744073709551616", VALIDATOR_VALID, 0, 0},
    {"1e-9223372036854775808", VALIDATOR_VALID, 0, 0},
    {"1e9223372036854775807", VALIDATOR_VALID, 0, HUGE},
    {"1e-4294967296", VALIDATOR_VALID, 0, 0},
    {"1e00000000000000000000000000308", VALIDATOR_VALID, 0, 0},
    {"1e00000000000000000000000000309", VALIDATOR_VALID, 0, HUGE},
    {"[1e400,\"\\ud800\"]", VALIDATOR_VALID, 0, LONE | HUGE},
    {"[1e400,1]", VALIDATOR_VALID, 0, HUGE},
    {"[1,1e400]", VALIDATOR_VALID, 0, HUGE},
};

static void check_known(const unsigned char *text, size_t bytes, const struct known *want)
{
    size_t offset;
    unsigned flags;
    int answer = validate(text, bytes, &offset, &flags);
    CHECK_TEXT(answer == want->answer, text, bytes);
    CHECK_TEXT(offset == (answer == VALIDATOR_VALID ? bytes : want->offset), text, bytes);
    CHECK_TEXT(answer != VALIDATOR_VALID || flags == want->flags, text, bytes);
    compare_cuts(text, bytes);
    compare_framed(text, bytes);
}

static void check_all_known(void)
{
    size_t i;
    for (i = 0; i < COUNT(known_texts); i++)
        check_known((const unsigned char *)known_texts[i].text, strlen(known_texts[i].text),
                    &known_texts[i]);
}

/* ---------------------------------------------------------------------------------------------
 * Every text up to a length
 * --------------------------------------------------------------------------------------------- */

/* Symbols may hold NUL bytes: their sizes are kept. */
struct symbol {
    const char *bytes;
    size_t size;
};
#define S(literal)                                                                                 \
    {                                                                                              \
        literal, sizeof literal - 1                                                                \
    }

static const struct symbol alphabet_all[] = {
    S("{"),    S("}"),    S("["),    S("]"),    S(":"),    S(","),    S("\""),   S("\\"),
    S("u"),    S("true"), S("null"), S("0"),    S("1"),    S("-"),    S("+"),    S("."),
    S("e"),    S("E"),    S(" "),    S("\n"),   S("\x1f"), S("\x7f"), S("/"),    S("\xc3"),
    S("\xa9"), S("\xe0"), S("\xed"), S("\xf0"), S("\x80"), S("\xbf"), S("false")};

static const struct symbol alphabet_structure[] = {S("{"), S("}"),     S("["), S("]"), S(","),
                                                   S(":"), S("\"a\""), S("1"), S(" "), S("null")};

static const struct symbol alphabet_string[] = {
    S("\""),   S("\\"),   S("u"),    S("/"),    S("n"),    S("b"),    S("0"),    S("9"),
    S("d"),    S("D"),    S("F"),    S("g"),    S(" "),    S("\n"),   S("\0"),   S("\x1f"),
    S("\x7f"), S("\x80"), S("\x8f"), S("\x90"), S("\x9f"), S("\xa0"), S("\xbf"), S("\xc1"),
    S("\xc2"), S("\xe0"), S("\xe1"), S("\xed"), S("\xf0"), S("\xf3"), S("\xf4"), S("\xf5")};

static const struct symbol alphabet_escape[] = {
    S("\""),      S("\\"),      S("u"),       S("n"),       S("d"),       S("D"),
    S("8"),       S("c"),       S("0"),       S("F"),       S("\\ud800"), S("\\uDBFF"),
    S("\\udc00"), S("\\uDFfF"), S("\\uD7ff"), S("\\ue000"), S("\xc3\xa9")};

static const struct symbol alphabet_number[] = {S("0"), S("1"), S("9"), S("-"),
                                                S("+"), S("."), S("e"), S("E")};

static const struct symbol alphabet_magnitude[] = {S("0"),  S("00"), S("1797693134862315"),
                                                   S("7"),  S("8"),  S("9"),
                                                   S("-"),  S("+"),  S("."),
                                                   S("e"),  S("1"),  S("3"),
                                                   S("08"), S("2"),  S("]"),
                                                   S("["),  S("308")};

static const struct symbol alphabet_literal[] = {S("t"), S("r"), S("u"),    S("e"), S("f"), S("a"),
                                                 S("l"), S("s"), S("n"),    S("T"), S(","), S("["),
                                                 S("]"), S("0"), S("\xff"), S(" ")};

/* Every text of up to `length` symbols, behind a prefix. Up to `full` of them all texts are given
 * to both; beyond, those that go on from one that both refuse before its end are left out, for the
 * byte that is refused stays the same one: up to `full` it is seen that the library does so. */
struct walk {
    const char *name, *prefix;
    const struct symbol *symbols;
    size_t count, full, length;
    unsigned
        sample; /* one text in so many is also cut and framed; of the valid ones, 16 times more */
};

#define ALPHABET(a) a, COUNT(a)

static const struct walk walks[] = {
    {"all", "", ALPHABET(alphabet_all), 5, 6, 1024},
    {"member", "{\"a\":", ALPHABET(alphabet_all), 3, 4, 64},
    {"structure", "", ALPHABET(alphabet_structure), 6, 9, 1024},
    {"string", "\"", ALPHABET(alphabet_string), 4, 5, 256},
    {"name", "{\"", ALPHABET(alphabet_string), 3, 4, 256},
    {"escape", "\"", ALPHABET(alphabet_escape), 4, 5, 256},
    {"number", "", ALPHABET(alphabet_number), 7, 9, 2048},
    {"magnitude", "", ALPHABET(alphabet_magnitude), 4, 6, 4096},
    {"literal", "", ALPHABET(alphabet_literal), 4, 8, 64},
};

static unsigned walk_turn;
static double texts_left_out;

/* One text, the shorter one before it being `open` or refused. Returns 1 when both can go on behind
 * it. */
static int walk_text(const struct walk *walk, const unsigned char *text, size_t bytes, int open)
{
    size_t offset;
    int answer = compare(text, bytes, &offset);
    unsigned sample = walk->sample;
    if (open)
        compare_far(text, bytes, answer, offset);
    walk_turn++;
    every_cut = walk_turn % (8 * sample) == 0 ? 100 : 0;
    if (walk_turn % sample == 0)
        compare_cuts(text, bytes);
    if (walk_turn % (answer == VALIDATOR_VALID ? sample / 16 : sample) == 0)
        compare_framed(text, bytes);
    return offset == bytes;
}

static void walk_on(const struct walk *walk, unsigned char *text, size_t bytes, size_t length,
                    int before)
{
    size_t i, more;
    length++;
    for (i = 0; i < walk->count; i++) {
        const struct symbol *symbol = &walk->symbols[i];
        int open;
        /* The longest texts are the most: a short run takes its share of them. */
        if (run_share > 1 && (length == walk->length || length == walk->full) &&
            test_below(run_share))
            continue;
        memcpy(text + bytes, symbol->bytes, symbol->size);
        open = walk_text(walk, text, bytes + symbol->size, before);
        if (length < walk->full || (open && length < walk->length)) {
            walk_on(walk, text, bytes + symbol->size, length, open);
        } else if (open) {
            /* A long run goes further, here and there. */
            if (length == walk->length && test_below(256) < run_scale - 1)
                walk_on(walk, text, bytes + symbol->size, length, open);
        } else {
            double left_out = 1;
            for (more = length; more < walk->length; more++)
                texts_left_out += left_out *= (double)walk->count;
        }
    }
}

static void check_every_text(void)
{
    unsigned char text[256];
    size_t i;
    for (i = 0; i < COUNT(walks); i++) {
        const struct walk *walk = &walks[i];
        size_t bytes = strlen(walk->prefix);
        unsigned long before = texts_compared;
        memcpy(text, walk->prefix, bytes);
        texts_left_out = 0;
        walk_text(walk, text, bytes, 1);
        walk_on(walk, text, bytes, 0, 1);
        if (walk->count >= 20)
            texts_wide += texts_compared - before;
        printf("  %-9s %9lu texts: all of up to %lu out of %lu symbols, and those of up to %lu but"
               " %.0f that begin with a refused one\n",
               walk->name, texts_compared - before, (unsigned long)walk->full,
               (unsigned long)walk->count, (unsigned long)walk->length, texts_left_out);
    }
    every_cut = 100;
}

/* ---------------------------------------------------------------------------------------------
 * UTF-8
 * --------------------------------------------------------------------------------------------- */

/* A sequence in a string, behind `pad` letters, with and without the closing quote; at the end of
 * the input and far from it. */
static void check_sequence(const unsigned char *sequence, size_t size, size_t pad, int quote)
{
    unsigned char text[64];
    size_t bytes = pad + 1 + size, offset;
    int answer;
    text[0] = '"';
    memset(text + 1, 'a', pad);
    memcpy(text + 1 + pad, sequence, size);
    text[bytes] = '"';
    bytes += (size_t)(quote != 0);
    answer = compare(text, bytes, &offset);
    compare_far(text, bytes, answer, offset);
}

/* All sequences of one, two and three bytes, the longest behind one of 17 amounts of others. */
static void check_short_sequences(void)
{
    unsigned char s[3];
    unsigned i, step = 0;
    size_t pad;
    for (i = 0; i < 0x10000; i++) {
        s[0] = (unsigned char)(i >> 8);
        s[1] = (unsigned char)i;
        for (pad = 0; pad < 20; pad++) {
            if (run_share > 1 && step++ % run_share)
                continue;
            check_sequence(s, 2, pad, 1);
            check_sequence(s, 2, pad, 0);
            if (s[1] == 0)
                check_sequence(s, 1, pad, 0);
        }
    }
    for (i = 0; i < 0x1000000; i++) {
        s[0] = (unsigned char)(i >> 16);
        s[1] = (unsigned char)(i >> 8);
        s[2] = (unsigned char)i;
        if (run_share == 1 || step++ % run_share == 0) {
            texts_wide++;
            check_sequence(s, 3, (s[0] * 7u + s[1]) % 17, 1);
        }
    }
}

/* Every first byte from 0x80 on with the edges of what may follow, at every place of an 8-, 16- and
 * 32-byte word, and as the end of the input. */
static void check_long_sequences(void)
{
    static const unsigned char edges[] = {0x00, 0x1F, '"',  '\\', 0x7F, 0x80, 0x8F,
                                          0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF};
    const size_t count = sizeof edges;
    unsigned char s[4];
    size_t i, pad, combinations = count * count * count;
    unsigned step = 0;
    for (i = 0; i < 128 * combinations; i++) {
        s[0] = (unsigned char)(0x80 + i / combinations);
        s[1] = edges[i / (count * count) % count];
        s[2] = edges[i / count % count];
        s[3] = edges[i % count];
        /* The other first bytes are refused at once: a few will do. */
        if ((s[0] < 0xC2 || s[0] > 0xF4) && i % 31)
            continue;
        for (pad = 0; pad < 33; pad += s[0] >= 0xE0 && s[0] <= 0xF5 ? 1 : 7) {
            if (step++ % run_share == 0) {
                check_sequence(s, 4, pad, 1);
                check_sequence(s, 4, pad, 0);
            }
        }
        if (i % (64 * run_share) == 0) {
            unsigned char text[6];
            text[0] = text[5] = '"';
            memcpy(text + 1, s, 4);
            compare_cuts(text, 6);
            compare_framed(text, 6);
        }
    }
}

/* Four letters of two bytes each, of which one may be no letter: overlong, or of another byte. */
static void check_letters(void)
{
    static const unsigned char edges[] = {0x00, '"', 0x7F, 0x80, 0xA9, 0xBF, 0xC0, 0xFF};
    unsigned char s[8];
    unsigned first;
    size_t i, at;
    for (first = 0xBF; first <= 0xE0; first++)
        for (i = 0; i < sizeof edges; i++)
            for (at = 0; at < 8; at += 2) {
                memcpy(s, "\xc3\xa9\xdf\xbf\xc2\x80\xd0\x96", 8);
                s[at] = (unsigned char)first;
                s[at + 1] = edges[i];
                check_sequence(s, 8, at, 1);
            }
}

/* ---------------------------------------------------------------------------------------------
 * Captured bodies
 * --------------------------------------------------------------------------------------------- */

/* Whether the two will say the same of the same bytes from here on. */
static int same_future(const struct validator *a, const struct validator *b)
{
    return a->at == b->at && a->state == b->state && a->literal == b->literal &&
           a->digits == b->digits && a->name == b->name &&
           (a->state != VALIDATOR_CONTINUATION || (a->row == b->row && a->byte == b->byte)) &&
           a->depth == b->depth && memcmp(a->open, b->open, a->depth) == 0;
}

/* A body and what the validator says of it. */
struct body {
    char path[160];
    unsigned char *text;
    size_t bytes, offset;
    int answer;
};

/* One byte of the body at `at` has been changed. `before` is the validator, and `reader` the
 * library, with all the bytes before it taken; `after` is the validator with the right byte taken.
 * So neither has to begin anew for every change; and when the changed byte leaves the validator
 * where the right one does, it will say of the rest what it said of the body. The library reads the
 * rest. */
static void check_change(const struct body *body, size_t at, const struct validator *before,
                         const struct validator *after, const msc4203_reader *reader, int whole)
{
    static struct validator v;
    struct reading reading = {0, 0, 0, 0, 0, 0};
    msc4203_reader copy = *reader;
    const msc4203_item *item;
    size_t offset;
    int answer;

    memcpy(&v, before, offsetof(struct validator, open) + before->depth);
    answer = validator_byte(&v);
    if (!answer && after && same_future(&v, after)) {
        answer = body->answer;
        offset = body->offset;
    } else {
        if (!answer)
            answer = validator_rest(&v, body->bytes);
        offset = v.at;
    }
    msc4203_reader_feed(&copy, body->text + at, body->bytes - at, 1);
    reading.result = msc4203_reader_next(&copy, &item);
    reading.offset = msc4203_reader_offset(&copy);
    texts_compared++;
    if (!agrees(reading, answer, offset, body->text, body->bytes, "changed") && test_failed <= 50)
        printf("  %s: <%02X> at %lu\n", body->path, body->text[at], (unsigned long)at);
    if (whole) {
        texts_compared++;
        if (!agrees(read_text(body->text, body->bytes), answer, offset, body->text, body->bytes,
                    "changed, whole") &&
            test_failed <= 50)
            printf("  %s: <%02X> at %lu\n", body->path, body->text[at], (unsigned long)at);
    }
}

/* The byte at `at` as every other value, or as a sample of them. */
static void check_changes_at(const struct body *body, size_t at, const struct validator *before,
                             const struct validator *after, const msc4203_reader *reader,
                             unsigned values)
{
    static const char special[] = "\"\\{}[]:,0e- \x01\x80\xc3\xe9\xf0";
    unsigned char right = body->text[at];
    unsigned i, whole_step = body->bytes <= 300 ? 1 : body->bytes <= 1536 ? 15 : 100;
    size_t turn = test_below(whole_step);
    for (i = 0; i < values; i++) {
        unsigned char value = (unsigned char)i;
        if (values < 256)
            value =
                i < sizeof special - 1 ? (unsigned char)special[i] : (unsigned char)test_random();
        if (value == right)
            continue;
        body->text[at] = value;
        check_change(body, at, before, after, reader, i % whole_step == turn);
    }
    body->text[at] = right;
}

/* The body cut off at `bytes`: the library from a block of just that size. */
static void check_prefix(const struct body *body, const struct validator *v, size_t bytes)
{
    static struct validator end;
    unsigned char *copy = (unsigned char *)allocate(bytes);
    int answer;
    memcpy(&end, v, offsetof(struct validator, open) + v->depth);
    answer = validator_rest(&end, bytes);
    memcpy(copy, body->text, bytes);
    texts_compared++;
    if (!agrees(read_text(copy, bytes), answer, end.at, copy, bytes, "cut short") &&
        test_failed <= 50)
        printf("  %s: cut at %lu\n", body->path, (unsigned long)bytes);
    free(copy);
}

/* The whole body as a transaction, all items wanted, with some changes: reading must end where the
 * validator says, unless what is left is no object. */
static void check_as_transaction(struct body *body, unsigned cases)
{
    static const char special[] = "\"\\{}[]:,0e- \x01\x80\xc3\xe9\xf0";
    char *scratch = (char *)allocate(body->bytes);
    while (cases--) {
        size_t at = test_below(body->bytes), offset, first;
        unsigned char right = body->text[at];
        msc4203_reader reader;
        struct reading reading = {0, 0, 0, 0, 0, 0};
        int answer;
        body->text[at] = (unsigned char)(cases % 4 ? special[test_below(sizeof special - 1)]
                                                   : (int)test_below(256));
        answer = validate(body->text, body->bytes, &offset, NULL);
        msc4203_reader_init(&reader, MSC4203_TRANSACTION, MSC4203_ALL_KINDS, scratch, body->bytes);
        msc4203_reader_feed(&reader, body->text, body->bytes, 1);
        take_items(&reader, &reading, NULL, 0);
        reading.offset = msc4203_reader_offset(&reader);
        for (first = 0; first < body->bytes && strchr(" \t\r\n", body->text[first]); first++)
            ;
        if (reading.result == MSC4203_E_ROOT)
            CHECK_CASE(reading.offset == first && body->text[first] != '{', body->path);
        else if (answer != VALIDATOR_TOO_DEEP)
            agrees(reading, answer, offset, body->text, body->bytes, body->path);
        body->text[at] = right;
    }
    free(scratch);
}

static void check_body(struct body *body)
{
    static struct validator before, after;
    msc4203_reader reader;
    const msc4203_item *item;
    int small = body->bytes <= 1536;
    size_t step = (small ? 1 : body->bytes / 120 + 1) * run_share, at;
    body->answer = validate(body->text, body->bytes, &body->offset, NULL);
    compare_cuts(body->text, body->bytes);
    validator_begin(&before, body->text);
    for (at = 0; at < body->bytes; at++) {
        int chosen = step == 1 || test_below(step) < run_scale;
        int answer;
        if (chosen) /* also behind what is refused */
            check_prefix(body, &before, at);
        memcpy(&after, &before, offsetof(struct validator, open) + before.depth);
        answer = validator_byte(&after);
        if (chosen) {
            msc4203_reader_init(&reader, MSC4203_JSON, 0, NULL, 0);
            msc4203_reader_feed(&reader, body->text, at, 0);
            if (CHECK_CASE(msc4203_reader_next(&reader, &item) == MSC4203_MORE, body->path))
                check_changes_at(body, at, &before, answer ? NULL : &after, &reader,
                                 small ? 256 : 40);
        }
        if (answer != VALIDATOR_VALID)
            break; /* changes further on change nothing: the rest is never looked at */
        memcpy(&before, &after, offsetof(struct validator, open) + after.depth);
    }
    check_as_transaction(body, (unsigned)(small ? 40 * run_scale : 4 * run_scale));
}

static unsigned long bodies_checked;

static void check_bodies(void)
{
    size_t bytes;
    char *index = test_read("test/data/expected/index.txt", &bytes);
    char *line = strtok(index, "\n");
    for (; line; line = strtok(NULL, "\n")) {
        char folder[41], name[81];
        struct body body;
        char *file;
        memset(&body, 0, sizeof body);
        if (!CHECK(sscanf(line, "%40s %80s", folder, name) == 2))
            continue;
        sprintf(body.path, "test/data/synapse/%.40s/%.80s.%s", folder, name,
                strcmp(folder, "requests") == 0 ? "req" : "json");
        file = test_read(body.path, &bytes);
        body.bytes = bytes;
        if (!CHECK_CASE(bytes > 0, body.path))
            exit(2);
        body.text = (unsigned char *)allocate(body.bytes);
        memcpy(body.text, file, body.bytes);
        check_body(&body);
        bodies_checked++;
        free(body.text);
        free(file);
    }
    free(index);
    CHECK(bodies_checked >= 120);
}

/* ---------------------------------------------------------------------------------------------
 * Long strings
 * --------------------------------------------------------------------------------------------- */

static const struct symbol string_specials[] = {S("\""),
                                                S("\\n"),
                                                S("\\\""),
                                                S("\\\\"),
                                                S("\\u00e9"),
                                                S("\\ud83d"),
                                                S("\\x"),
                                                S("\\u00g0"),
                                                S("\x00"),
                                                S("\x1f"),
                                                S("\n"),
                                                S("\x20"),
                                                S("\x7f"),
                                                S("\xc3\xa9"),
                                                S("\xe2\x82\xac"),
                                                S("\xf0\x9f\x98\x80"),
                                                S("\x80"),
                                                S("\xc0\x80"),
                                                S("\xff"),
                                                S("\xed\xa0\x80"),
                                                S("\xf0\x9f"),
                                                S("\xc3\xa9\xc3\xa9\xc3\xa9"),
                                                S("!")};

/* A special byte or sequence behind `before` letters and before `after` letters of a string, which
 * is a value or a member's name; at every alignment, at the end of a block of the right size. */
static void check_special(const struct symbol *special, size_t before, size_t after, int name)
{
    unsigned char text[256];
    const char *head = name ? "{\"" : "\"", *tail = name ? "\":1}" : "\"";
    size_t bytes = strlen(head), align, offset;
    int answer;
    memcpy(text, head, bytes);
    memset(text + bytes, 'p', before);
    bytes += before;
    memcpy(text + bytes, special->bytes, special->size);
    bytes += special->size;
    memset(text + bytes, 'q', after);
    bytes += after;
    memcpy(text + bytes, tail, strlen(tail));
    bytes += strlen(tail);
    answer = validate(text, bytes, &offset, NULL);
    for (align = 0; align < 32; align++) {
        unsigned char *block = (unsigned char *)allocate(align + bytes);
        memcpy(block + align, text, bytes);
        texts_compared++;
        agrees(read_text(block + align, bytes), answer, offset, text, bytes, "aligned");
        free(block);
    }
    if ((before + after) % (32 * run_share) == 0) {
        compare_cuts(text, bytes);
        compare_framed(text, bytes);
    }
}

static void check_long_strings(void)
{
    size_t i, before, after;
    unsigned step = 0;
    for (i = 0; i < COUNT(string_specials); i++)
        for (before = 0; before <= 80; before++)
            for (after = 0; after <= 40; after++)
                if (step++ % run_share == 0) {
                    check_special(&string_specials[i], before, after, 0);
                    check_special(&string_specials[i], before, after, 1);
                }
}

/* Whether a string that holds it can be valid. */
static int harmless(const struct symbol *special)
{
    unsigned char text[16];
    text[0] = text[special->size + 1] = '"';
    memcpy(text + 1, special->bytes, special->size);
    return validate(text, special->size + 2, NULL, NULL) == VALIDATOR_VALID;
}

/* Long strings of everything, by chance. What breaks a string is rare, for the rest to be read. */
static void check_random_strings(void)
{
    unsigned char text[600];
    unsigned long cases = 8000 * run_scale / run_share + 1;
    while (cases--) {
        size_t bytes = 1, length = test_below(500);
        size_t letters = test_below(60) + 1, breaking = test_below(4) ? 1000 : 2;
        text[0] = '"';
        while (bytes < length) {
            const struct symbol *special = &string_specials[test_below(COUNT(string_specials))];
            if (test_below(letters)) {
                text[bytes++] = (unsigned char)('a' + test_below(26));
            } else if (harmless(special) || test_below(breaking) == 0) {
                memcpy(text + bytes, special->bytes, special->size);
                bytes += special->size;
            }
        }
        text[bytes++] = '"';
        compare_cuts(text, bytes);
        if (cases % 4 == 0)
            compare_framed(text, bytes);
    }
}

/* ---------------------------------------------------------------------------------------------
 * Nesting
 * --------------------------------------------------------------------------------------------- */

enum nesting { ARRAYS, OBJECTS, ALTERNATING, PAIRS, MIXED, NESTINGS };

/* Whether the level (from 0) is an object. */
static int is_object(enum nesting nesting, size_t level)
{
    switch (nesting) {
    case ARRAYS:
        return 0;
    case OBJECTS:
        return 1;
    case ALTERNATING:
        return level % 2 != 0;
    case PAIRS:
        return level / 2 % 2 == 0;
    default:
        return (level * 2654435761u >> 13) % 2 != 0;
    }
}

/* Opens `levels` levels at *at in `text`; returns where the bracket of the last one is. */
static size_t open_levels(unsigned char *text, size_t *at, enum nesting nesting, size_t levels)
{
    size_t level, bracket = 0;
    for (level = 0; level < levels; level++) {
        int object = is_object(nesting, level);
        bracket = *at;
        text[(*at)++] = object ? '{' : '[';
        if (object && level + 1 < levels) {
            memcpy(text + *at, "\"k\":", 4);
            *at += 4;
        }
    }
    return bracket;
}

/* Closes the levels from `from` - 1 down to `to`. */
static void close_levels(unsigned char *text, size_t *at, enum nesting nesting, size_t from,
                         size_t to)
{
    while (from-- > to)
        text[(*at)++] = is_object(nesting, from) ? '}' : ']';
}

/* As JSON, in pieces. */
static struct reading read_json(const unsigned char *text, size_t bytes, size_t first, size_t size)
{
    struct task task = {NULL, 0, MSC4203_JSON, 0, NULL, 0};
    task.text = text;
    task.bytes = bytes;
    return read_pieces(&task, first, size);
}

/* A text of which it is known what is to be said; also cut around the place that is refused. */
static void check_depth(const unsigned char *text, size_t bytes, int answer, size_t offset)
{
    size_t got, cut;
    CHECK(validate(text, bytes, &got, NULL) == answer && got == offset);
    agrees(read_json(text, bytes, WHOLE, 0), answer, offset, text, bytes, "deep");
    agrees(read_json(text, bytes, 1, 1), answer, offset, text, bytes, "deep, bytes");
    agrees(read_json(text, bytes, RANDOM, RANDOM), answer, offset, text, bytes, "deep, pieces");
    for (cut = offset < 6 ? 0 : offset - 6; cut < offset + 6 && cut <= bytes; cut++)
        agrees(read_json(text, bytes, cut, WHOLE), answer, offset, text, bytes, "deep, cut");
}

/* Nesting of just so many levels: left open, closed, and closed wrongly at one of them. */
static void check_levels(unsigned char *text, enum nesting nesting, size_t levels)
{
    static const size_t near[] = {0,   1,   2,   6,   7,   8,   9,   15,  16,  30,  31,   32,
                                  33,  62,  63,  64,  65,  126, 127, 128, 129, 255, 256,  257,
                                  510, 511, 512, 513, 767, 768, 959, 960, 991, 992, 1022, 1023};
    size_t opened = 0, limit = 0, bytes, i;
    int deep = levels > 1024;
    if (deep) {
        size_t until = 0;
        limit = open_levels(text, &until, nesting, 1025);
    }
    open_levels(text, &opened, nesting, levels);
    check_depth(text, opened, deep ? VALIDATOR_TOO_DEEP : VALIDATOR_CUT_SHORT,
                deep ? limit : opened);
    bytes = opened;
    close_levels(text, &bytes, nesting, levels, 0);
    check_depth(text, bytes, deep ? VALIDATOR_TOO_DEEP : VALIDATOR_VALID, deep ? limit : bytes);
    check_depth(text, bytes - 1, deep ? VALIDATOR_TOO_DEEP : VALIDATOR_CUT_SHORT,
                deep ? limit : bytes - 1);
    text[bytes] = ']';
    check_depth(text, bytes + 1, deep ? VALIDATOR_TOO_DEEP : VALIDATOR_SYNTAX,
                deep ? limit : bytes);
    if (deep)
        return;
    for (i = 0; i < COUNT(near); i++) {
        size_t wrong = near[i];
        if (wrong >= levels)
            break;
        bytes = opened;
        close_levels(text, &bytes, nesting, levels, wrong + 1);
        text[bytes] = is_object(nesting, wrong) ? ']' : '}';
        memset(text + bytes + 1, ' ', 3);
        check_depth(text, bytes + 4, VALIDATOR_SYNTAX, bytes);
        /* In its place, another member or element: an object wants a name, an array does not. */
        if (wrong + 1 < levels) {
            memcpy(text + bytes, ",\"n\":", 5);
            check_depth(text, bytes + 5,
                        is_object(nesting, wrong) ? VALIDATOR_CUT_SHORT : VALIDATOR_SYNTAX,
                        is_object(nesting, wrong) ? bytes + 5 : bytes + 4);
            memcpy(text + bytes, ",[],", 4);
            check_depth(text, bytes + 4,
                        is_object(nesting, wrong) ? VALIDATOR_SYNTAX : VALIDATOR_CUT_SHORT,
                        is_object(nesting, wrong) ? bytes + 1 : bytes + 4);
        }
    }
}

/* A million brackets, in whatever way: refused at the 1,025th at once. */
static void check_million(void)
{
    static const size_t sizes[] = {WHOLE, 4096, 1};
    const size_t million = 1000000;
    unsigned char *text = (unsigned char *)allocate(2 * million);
    size_t bytes, i;
    memset(text, '[', million);
    memset(text + million, ']', million);
    for (i = 0; i < COUNT(sizes); i++) {
        agrees(read_json(text, million, sizes[i], sizes[i]), VALIDATOR_TOO_DEEP, 1024, text,
               million, "a million open");
        agrees(read_json(text, 2 * million, sizes[i], sizes[i]), VALIDATOR_TOO_DEEP, 1024, text,
               2 * million, "a million open and closed");
    }
    /* As many, but never deep: [[],[],...] */
    for (i = 0; i < 2 * million / 3; i++)
        memcpy(text + 3 * i, "],[", 3);
    bytes = 3 * i;
    memcpy(text, "[[", 2);
    memcpy(text + bytes - 1, "]", 1);
    memcpy(text + bytes - 2, "]", 1);
    agrees(read_text(text, bytes), VALIDATOR_VALID, bytes, text, bytes, "flat");
    free(text);
}

/* Within an item, level 1,025 makes the item unusable, not the body; in what is skipped it does
 * nothing. `levels` of the text are around three that the body has. */
static void check_deep_item(enum nesting nesting, size_t levels, unsigned kinds)
{
    static const char before[] = "{\"events\":[{\"a\":", after[] = "},{\"b\":2}]}";
    static unsigned char text[16384];
    struct task task = {NULL, 0, MSC4203_TRANSACTION, 0, NULL, 7};
    size_t bytes = sizeof before - 1, opened, cut;
    memcpy(text, before, bytes);
    open_levels(text, &bytes, nesting, levels);
    opened = bytes;
    close_levels(text, &bytes, nesting, levels, 0);
    memcpy(text + bytes, after, sizeof after - 1);
    bytes += sizeof after - 1;
    task.text = text;
    task.bytes = bytes;
    task.kinds = kinds;
    task.content = (const unsigned char *)"{\"b\":2}";
    /* Cut here and there, and at each byte around the innermost brackets and those at the limit. */
    for (cut = 0; cut <= bytes; cut++) {
        struct reading r;
        if (cut % 61 && (cut < opened - 12 || cut > opened + levels - 1000) && cut + 12 < bytes)
            continue;
        r = cut == 0     ? read_pieces(&task, 1, 1)
            : cut == 61  ? read_pieces(&task, RANDOM, RANDOM)
            : cut == 122 ? read_pieces(&task, WHOLE, 0)
                         : read_pieces(&task, cut, WHOLE);
        agrees(r, VALIDATOR_VALID, bytes, text, bytes, "deep item");
        if (kinds) {
            CHECK(r.items == 2 && !r.content_differs);
            CHECK(r.item_error == (levels > 1021 ? MSC4203_E_TOO_DEEP : 0));
        }
    }
}

/* What the innermost of 1,100 levels may hold: of what is too deep, the strings are still looked
 * at. */
static const struct known deep_insides[] = {
    {"\"]\"", VALIDATOR_VALID, 0, 0},
    {"\"[{\"", VALIDATOR_VALID, 0, 0},
    {"\"\\\"]]\"", VALIDATOR_VALID, 0, 0},
    {"\"\\\\\",[],\"}\"", VALIDATOR_VALID, 0, 0},
    {"\"\\u005D\\u007b}\",{\"]\":\"[[\"}", VALIDATOR_VALID, 0, 0},
    {"\"\\ud800\",1e999,\"\xc3\xa9]\"", VALIDATOR_VALID, 0, 0},
    {"1,\"\xff\"", VALIDATOR_UTF8, 3, 0},
    {"\"]\xed\xa0\x80\"", VALIDATOR_UTF8, 3, 0},
    {"\"]\n\"", VALIDATOR_SYNTAX, 2, 0},
    {"[\"]\\x\"", VALIDATOR_SYNTAX, 4, 0},
    {"{\"\\u00g0\":1}", VALIDATOR_SYNTAX, 6, 0},
};

static void check_deep_inside(const struct known *inside, unsigned kinds)
{
    unsigned char text[4096];
    struct task task = {NULL, 0, MSC4203_TRANSACTION, 0, NULL, 7};
    size_t bytes, opened, offset, cut;
    bytes = (size_t)sprintf((char *)text, "{\"events\":[{\"a\":");
    open_levels(text, &bytes, ARRAYS, 1100);
    opened = bytes;
    bytes += (size_t)sprintf((char *)text + bytes, "%s", inside->text);
    close_levels(text, &bytes, ARRAYS, 1100, 0);
    bytes += (size_t)sprintf((char *)text + bytes, "},{\"b\":2}]}");
    offset = inside->answer == VALIDATOR_VALID ? bytes : opened + inside->offset;
    task.text = text;
    task.bytes = bytes;
    task.kinds = kinds;
    task.content = (const unsigned char *)"{\"b\":2}";
    for (cut = opened - 2; cut < opened + 40; cut++) {
        struct reading r = read_pieces(&task, cut, cut % 4 == 0 ? 1 : WHOLE);
        agrees(r, inside->answer, offset, text + opened - 10, 40, "inside of what is too deep");
        if (kinds && inside->answer == VALIDATOR_VALID)
            CHECK_CASE(r.items == 2 && !r.content_differs && r.item_error == MSC4203_E_TOO_DEEP,
                       inside->text);
    }
}

static void check_nesting(void)
{
    static const size_t levels[] = {1,    2,    7,    8,    9,    31,   32,   33,  63,  64,
                                    65,   127,  128,  129,  255,  256,  257,  511, 512, 513,
                                    1000, 1022, 1023, 1024, 1025, 1026, 1056, 2000};
    static const size_t item_levels[] = {1020, 1021, 1022, 1023, 1024, 1060, 1100, 2000};
    static unsigned char text[20000];
    size_t i;
    int nesting;
    for (nesting = 0; nesting < NESTINGS; nesting++)
        for (i = 0; i < COUNT(levels); i++)
            check_levels(text, (enum nesting)nesting, levels[i]);
    check_million();
    for (nesting = 0; nesting < NESTINGS; nesting++)
        for (i = 0; i < COUNT(item_levels); i++) {
            check_deep_item((enum nesting)nesting, item_levels[i], 0);
            check_deep_item((enum nesting)nesting, item_levels[i], MSC4203_EVENT);
        }
    for (i = 0; i < COUNT(deep_insides); i++) {
        check_deep_inside(&deep_insides[i], 0);
        check_deep_inside(&deep_insides[i], MSC4203_EVENT);
    }
}

/* ---------------------------------------------------------------------------------------------
 * Numbers
 * --------------------------------------------------------------------------------------------- */

/* Writes the number 0.DIGITS * 10^power in one of its countless spellings; returns its length. */
static size_t spell(char *out, const char *digits, long power)
{
    size_t count = strlen(digits), used = 0, integer, zeros, i;
    long exponent;
    if (test_below(3) == 0)
        out[used++] = '-';
    /* Where the point is: before the digits (behind zeros), among them, or (after zeros) behind. */
    switch (test_below(3)) {
    case 0:
        zeros = test_below(test_below(4) ? 6 : 400);
        out[used++] = '0';
        out[used++] = '.';
        memset(out + used, '0', zeros);
        used += zeros;
        memcpy(out + used, digits, count);
        used += count;
        exponent = power + (long)zeros;
        break;
    case 1:
        integer = digits[0] == '0' ? 1 : 1 + test_below(count);
        memcpy(out + used, digits, integer);
        used += integer;
        if (integer < count) {
            out[used++] = '.';
            memcpy(out + used, digits + integer, count - integer);
            used += count - integer;
        }
        exponent = power - (long)integer;
        break;
    default:
        zeros = digits[0] == '0' ? 0 : test_below(test_below(4) ? 6 : 400);
        integer = digits[0] == '0' ? 1 : count;
        memcpy(out + used, digits, integer);
        memset(out + used + integer, '0', zeros);
        used += integer + zeros;
        exponent = power - (long)(integer + zeros);
        break;
    }
    /* Zeros behind a fraction. */
    for (i = 0; i < used && out[i] != '.'; i++)
        ;
    zeros = i < used && test_below(2) ? test_below(40) : 0;
    memset(out + used, '0', zeros);
    used += zeros;
    if (exponent != 0 || test_below(2)) {
        out[used++] = test_below(2) ? 'e' : 'E';
        if (exponent < 0 || test_below(2))
            out[used++] = exponent < 0 ? '-' : '+';
        zeros = test_below(2) ? test_below(40) : 0;
        memset(out + used, '0', zeros);
        used += zeros;
        used += (size_t)sprintf(out + used, "%ld", exponent < 0 ? -exponent : exponent);
    }
    return used;
}

/* Digits that do not begin with 0, but for "0" itself. */
static void choose_digits(char *digits)
{
    static const char *const some[] = {
        "17976931348623158",
        "17976931348623157",
        "17976931348623159",
        "1797693134862315",
        "1797693134862316",
        "18",
        "17",
        "1",
        "2",
        "9",
        "99999999999999999",
        "0",
        "179769313486231579",
        "179769313486231580",
        "1797693134862315800000000000000000000000001",
        "17976931348623157999999999999999999999999999999999999999999999999999999999999999999999999",
        "17976931348623157081452742373170435679807056752584499659891747680315726078002853876"};
    size_t count, i;
    if (test_below(8)) {
        strcpy(digits, some[test_below(COUNT(some))]);
        return;
    }
    count = 1 + test_below(test_below(4) ? 25 : 700);
    for (i = 0; i < count; i++)
        digits[i] = (char)('0' + test_below(10));
    if (digits[0] == '0')
        digits[0] = '1';
    digits[count] = 0;
}

static int digits_reach_limit(const char *digits)
{
    static const char limit[] = "17976931348623158";
    size_t i;
    for (i = 0; limit[i]; i++) {
        char digit = i < strlen(digits) ? digits[i] : '0';
        if (digit != limit[i])
            return digit > limit[i];
    }
    return 1;
}

/* Spellings of numbers whose magnitude is known because they were made from it. */
static void check_magnitudes(void)
{
    unsigned long cases = 4000 * run_scale / run_share + 1;
    while (cases--) {
        static const long powers[] = {309, 309, 309, 309, 308, 310, 0, 1, -308, -400, 400, 1000000};
        char digits[701], text[4000];
        size_t bytes;
        unsigned flags;
        long power = powers[test_below(COUNT(powers))];
        int huge;
        choose_digits(digits);
        huge = digits[0] != '0' && (power > 309 || (power == 309 && digits_reach_limit(digits)));
        bytes = spell(text, digits, power);
        CHECK_TEXT(validate((unsigned char *)text, bytes, NULL, &flags) == VALIDATOR_VALID &&
                       flags == (huge ? HUGE : 0u),
                   (unsigned char *)text, bytes);
        compare_cuts((unsigned char *)text, bytes);
        compare_framed((unsigned char *)text, bytes);
    }
}

/* `count` zeros or ones between two texts: numbers whose digits and exponent make up for each
 * other. */
static void check_padded(const char *before, char digit, size_t count, const char *after, int huge)
{
    char text[1000];
    struct known want = {"", VALIDATOR_VALID, 0, 0};
    size_t bytes = strlen(before);
    memcpy(text, before, bytes);
    memset(text + bytes, digit, count);
    bytes += count;
    memcpy(text + bytes, after, strlen(after));
    bytes += strlen(after);
    want.flags = huge ? HUGE : 0;
    check_known((unsigned char *)text, bytes, &want);
}

static void check_numbers(void)
{
    check_padded("1", '0', 400, "e-400", 0);
    check_padded("1", '0', 400, "e-91", 1);
    check_padded("1", '0', 400, "e-92", 0);
    check_padded("1", '0', 309, "", 1);
    check_padded("1", '0', 309, "e-1", 0);
    check_padded("1", '0', 309, "e-10", 0);
    check_padded("1", '0', 308, "", 0);
    check_padded("", '1', 309, "", 0);
    check_padded("", '1', 310, "", 1);
    check_padded("", '9', 308, "", 0);
    check_padded("", '9', 309, "", 1);
    check_padded("0.", '0', 400, "1e709", 0);
    check_padded("0.", '0', 400, "1e710", 1);
    check_padded("0.", '0', 600, "e999999999999", 0);
    check_padded("1e", '0', 600, "308", 0);
    check_padded("1e", '0', 600, "309", 1);
    check_padded("1e-", '0', 600, "9", 0);
    check_padded("1e", '9', 300, "", 1);
    check_padded("1e-", '9', 300, "", 0);
    check_padded("0e", '9', 300, "", 0);
    check_padded("17976931348623157", '9', 292, "", 0);
    check_padded("17976931348623158", '0', 292, "", 1);
    check_padded("17976931348623158", '0', 291, "", 0);
    check_padded("17976931348623158", '0', 292, ".000", 1);
    check_magnitudes();
}

int main(void)
{
    run_scale = test_scale();
    run_share = test_share();
    test_seed(0x4203);
    every_cut = 100;
    check_all_known();
    check_every_text();
    check_short_sequences();
    check_long_sequences();
    check_letters();
    CHECK(texts_wide >= 50000000 || run_share > 1);
    check_bodies();
    check_long_strings();
    check_random_strings();
    check_nesting();
    check_numbers();
    printf("  %lu texts given to both, %lu of them also with blanks behind, %lu cut to pieces\n",
           texts_compared, texts_far, texts_cut);
    return test_end("test_json");
}
