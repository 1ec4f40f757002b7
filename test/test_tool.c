/* test_tool.c - drives build/msc4203, and build/bodies, from outside: what they answer, say, and
 * return.
 *
 * Runs in a folder under build/test, where it keeps its files; a shell starts the tool. Most cases
 * run three times, with the input in one piece, in single bytes and in sevens: the answer must be
 * the same.
 */
#define _POSIX_C_SOURCE   200809L
#define _FILE_OFFSET_BITS 64

#include "msc4203.h"
#include "test.h"

#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define TOOL "../../msc4203"
#define DATA "../../../test/data/synapse"

/* What the last command answered. */
static struct {
    int status; /* -1: it did not end by itself */
    char *out, *err;
    size_t out_bytes, err_bytes;
} got;

/* A text made as by printf; lives for the next fifteen calls. */
static const char *text(const char *format, ...)
{
    static char texts[16][16384];
    static unsigned next;
    char *to = texts[next++ % 16];
    va_list list;
    int n;

    va_start(list, format);
    n = vsnprintf(to, sizeof texts[0], format, list);
    va_end(list);
    if (n < 0 || (size_t)n >= sizeof texts[0])
        exit(2);
    return to;
}

static void run(const char *command)
{
    static char line[32768];
    int status;

    if (snprintf(line, sizeof line, "{ %s\n} >out 2>err", command) >= (int)sizeof line)
        exit(2);
    free(got.out);
    free(got.err);
    status = system(line);
    got.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    got.out = test_read("out", &got.out_bytes);
    got.err = test_read("err", &got.err_bytes);
}

static int is(const char *data, size_t bytes, const char *expected)
{
    return strlen(expected) == bytes && memcmp(data, expected, bytes) == 0;
}

static void expect(int line, const char *command, int status, const char *out, const char *err)
{
    int ok = test_check(got.status == status, __FILE__, line, "status", command);
    ok &= test_check(is(got.out, got.out_bytes, out), __FILE__, line, "output", command);
    ok &= test_check(is(got.err, got.err_bytes, err), __FILE__, line, "messages", command);
    if (!ok && test_failed < 50)
        printf("--- status %d, not %d; it writes\n%.2000s--- not\n%.2000s--- it says\n%.2000s"
               "--- not\n%.2000s---\n",
               got.status, status, got.out, out, got.err, err);
}

/* Runs a command and expects this. */
static void command(int line, const char *what, int status, const char *out, const char *err)
{
    run(what);
    expect(line, what, status, out, err);
}
#define RUN(what, status, out, err) command(__LINE__, what, status, out, err)

/* Runs the tool with these arguments, in one piece and cut. */
static void tool(int line, const char *arguments, int status, const char *out, const char *err)
{
    static const char *const cuts[] = {"", " --chunk 1", " --chunk 7"};
    size_t i;

    for (i = 0; i < sizeof cuts / sizeof cuts[0]; i++)
        command(line, text(TOOL " %s%s", arguments, cuts[i]), status, out, err);
}
#define T(arguments, status, out, err) tool(__LINE__, arguments, status, out, err)

/* Wrong usage: status 2, no output, and one line on standard error that says what is wrong. */
static void wrong(int line, const char *arguments, const char *err)
{
    command(line, text(TOOL " %s", arguments), 2, "",
            text("msc4203: %s (see msc4203 --help)\n", err));
}
#define WRONG(arguments, err) wrong(__LINE__, arguments, err)

static void put_bytes(const char *name, const void *data, size_t bytes)
{
    FILE *file = fopen(name, "wb");
    if (!file || fwrite(data, 1, bytes, file) != bytes || fclose(file) != 0)
        exit(2);
}

static void put(const char *name, const char *content)
{
    put_bytes(name, content, strlen(content));
}

static const char *why(int result)
{
    return msc4203_result_text(result);
}

/* With the field that is wrong. */
static const char *where(int result, const char *field)
{
    return text("%s: %s", why(result), field);
}

/* A message as a transaction has it, as the tool writes it; 18 bytes of values in MESSAGE_1. */
#define MESSAGE(sender, type, user, device, content)                                               \
    "{\"content\":" content ",\"sender\":\"" sender "\",\"to_device_id\":\"" device                \
    "\",\"to_user_id\":\"" user "\",\"type\":\"" type "\"}"
#define MESSAGE_1 MESSAGE("@a:x", "t", "@u:x", "D", "{\"n\": 1}")
#define MESSAGE_2 MESSAGE("@b:x", "s", "@v:x", "E", "{}")

#define TO_DEVICE(messages) "{\"de.sorunome.msc2409.to_device\":[" messages "],\"events\":[]}\n"
#define NOTHING             "{\"events\":[]}\n"

/* One of everything. */
#define EVENTS    "\"events\":[{\"type\":\"m.x\"}]"
#define EPHEMERAL "\"ephemeral\":[{\"type\":\"m.typing\"}]"
#define COUNTS    "{\"@u:x\":{\"D\":{\"k\":2}}}"
#define TYPES     "{\"@u:x\":{\"D\":[]}}"
#define MSC3202   "\"org.matrix.msc3202."
#define STABLE                                                                                     \
    "{" EVENTS "," EPHEMERAL ",\"to_device\":[" MESSAGE_1 "],"                                     \
    "\"device_lists\":{\"changed\":[\"@c:x\"],\"left\":[\"@l:x\"]},"                               \
    "\"device_one_time_keys_count\":" COUNTS ",\"device_unused_fallback_key_types\":" TYPES "}\n"
#define UNSTABLE                                                                                   \
    "{" EVENTS "," EPHEMERAL ",\"de.sorunome.msc2409.to_device\":[" MESSAGE_1 "]," MSC3202         \
    "device_lists\":{\"changed\":[\"@c:x\"],\"left\":[\"@l:x\"]}," MSC3202                         \
    "device_one_time_keys_count\":" COUNTS "," MSC3202 "device_unused_fallback_key_types\":" TYPES \
    "}\n"

/* The other shapes with MESSAGE_1. */
#define SEND "{\"messages\":{\"@u:x\":{\"D\":{\"n\": 1}}}}\n"
#define EDU(id)                                                                                    \
    "{\"message_id\":\"" id "\",\"sender\":\"@a:x\",\"type\":\"t\","                               \
    "\"messages\":{\"@u:x\":{\"D\":{\"n\": 1}}}}\n"
#define SYNC(token)                                                                                \
    "{\"next_batch\":\"" token "\",\"to_device\":{\"events\":"                                     \
    "[{\"content\":{\"n\": 1},\"sender\":\"@a:x\",\"type\":\"t\"}]}}\n"
#define FROM_SEND "--from send --sender @a:x --type t "
#define FROM_SYNC "--from sync --user @u:x --device D "

/* ----------------------------------------------------------------------------------------------
 * What is written
 * ---------------------------------------------------------------------------------------------- */

static void test_keys(void)
{
    put("stable", STABLE);
    put("unstable", UNSTABLE);
    put("spellings", "{\"de.sorunome.msc2409.ephemeral\":[{}]," MSC3202
                     "device_one_time_key_counts\":" COUNTS ",\"unknown\":[1e400,\"\\ud800\"]}");
    put("twice", "{\"to_device\":[],\"de.sorunome.msc2409.to_device\":[" MESSAGE_1 "]," MSC3202
                 "device_one_time_key_counts\":" COUNTS "," MSC3202
                 "device_one_time_keys_count\":" COUNTS "}");
    put("empty", "{\"to_device\":[],\"ephemeral\":[],\"device_lists\":{\"changed\":[],\"left\":[]},"
                 "\"device_one_time_keys_count\":{},\"device_unused_fallback_key_types\":{}}");
    T("convert stable", 0, UNSTABLE, "");
    T("convert --stable stable", 0, STABLE, "");
    T("convert unstable", 0, UNSTABLE, "");
    T("convert unstable --stable", 0, STABLE, "");
    T("convert --from transaction --to transaction unstable", 0, UNSTABLE, "");
    T("convert spellings", 0,
      "{\"ephemeral\":[{}]," MSC3202 "device_one_time_keys_count\":" COUNTS ",\"events\":[]}\n",
      "");
    T("convert twice", 0,
      "{\"de.sorunome.msc2409.to_device\":[" MESSAGE_1 "]," MSC3202
      "device_one_time_keys_count\":" COUNTS ",\"events\":[]}\n",
      "");
    T("convert empty", 0, NOTHING, "");
    RUN(TOOL " convert --chunk 3 -- stable", 0, UNSTABLE, "");
}

static void test_grouping(void)
{
    put("a", "{\"events\":[{\"e\":1}],\"to_device\":[" MESSAGE_1 "]}");
    put("b", "{\"events\":[{\"e\":2}],\"to_device\":[" MESSAGE_2 "]}");
    put("raw", "{\"events\":[{\"e\"\r\n:\n[1,\n\n2]}],\n\"to_device\":[\n" MESSAGE(
                   "@a:x", "t", "@u:x", "D", "{\"n\"\n:\r1}") "\n]\r\n}");
    T("convert a b", 0,
      "{\"events\":[{\"e\":1},{\"e\":2}],\"de.sorunome.msc2409.to_device\":[" MESSAGE_1
      "," MESSAGE_2 "]}\n",
      "");
    T("convert b a", 0,
      "{\"events\":[{\"e\":2},{\"e\":1}],\"de.sorunome.msc2409.to_device\":[" MESSAGE_2
      "," MESSAGE_1 "]}\n",
      "");
    T("convert --each a b", 0,
      "{\"events\":[{\"e\":1}]}\n" TO_DEVICE(MESSAGE_1) "{\"events\":[{\"e\":2}]}\n" TO_DEVICE(
          MESSAGE_2),
      "");
    T("convert raw", 0,
      "{\"events\":[{\"e\"\r\n:\n[1,\n\n2]}],\"de.sorunome.msc2409.to_device\":[" MESSAGE(
          "@a:x", "t", "@u:x", "D", "{\"n\"\n:\r1}") "]}\n",
      "");
    T("convert --each raw", 0,
      "{\"events\":[{\"e\"  : [1,  2]}]}\n" TO_DEVICE(
          MESSAGE("@a:x", "t", "@u:x", "D", "{\"n\" : 1}")),
      "");
    T("convert --each --stable stable", 0,
      "{" EVENTS "}\n{" EPHEMERAL ",\"events\":[]}\n{\"to_device\":[" MESSAGE_1 "],\"events\":[]}\n"
      "{\"device_lists\":{\"changed\":[\"@c:x\"]},\"events\":[]}\n"
      "{\"device_lists\":{\"left\":[\"@l:x\"]},\"events\":[]}\n"
      "{\"device_one_time_keys_count\":" COUNTS ",\"events\":[]}\n"
      "{\"device_unused_fallback_key_types\":" TYPES ",\"events\":[]}\n",
      "");
    T("convert --each empty", 0, "", "");
    RUN(TOOL " convert --each stable a raw b | " TOOL " convert --lines >joined\n" TOOL
             " convert stable a raw b | tr '\\n\\r' '  ' >whole\n"
             "tr '\\n\\r' '  ' <joined | cmp - whole",
        0, "", "");
}

static void test_lines(void)
{
    put("lines", "{\"to_device\":[" MESSAGE_1
                 "]}\n{\"events\":[{}]} \r\n \t{}\n{\"to_device\":[" MESSAGE_2 "]}");
    put("lines-bad",
        "{}\n{\"to_device\":[{}]}\n\n{\"to_device\":\n{\"to_device\":[5," MESSAGE_1 "]}\n]\n");
    put("none", "");
    T("convert --lines lines", 0,
      "{\"events\":[{}],\"de.sorunome.msc2409.to_device\":[" MESSAGE_1 "," MESSAGE_2 "]}\n", "");
    T("convert --lines --each lines", 0,
      TO_DEVICE(MESSAGE_1) "{\"events\":[{}]}\n" TO_DEVICE(MESSAGE_2), "");
    T("convert --lines none", 0, NOTHING, "");
    T("convert --lines none lines none --each", 0,
      TO_DEVICE(MESSAGE_1) "{\"events\":[{}]}\n" TO_DEVICE(MESSAGE_2), "");
    /* A line that is no body costs no other. Offsets are those in the file. */
    T("convert --lines lines-bad", 1, TO_DEVICE(MESSAGE_1),
      text("lines-bad: byte 17: item 0: %s (line 2)\nlines-bad: byte 22: %s (line 3)\n"
           "lines-bad: byte 36: %s (line 4)\nlines-bad: byte 51: item 0: %s (line 5)\n"
           "lines-bad: byte %lu: %s (line 6)\n",
           where(MSC4203_E_FIELD_MISSING, "sender"), why(MSC4203_E_TRUNCATED),
           why(MSC4203_E_TRUNCATED), why(MSC4203_E_FIELD_TYPE), 56ul + strlen(MESSAGE_1),
           why(MSC4203_E_SYNTAX)));
}

static void test_shapes(void)
{
    put("message", "{\"to_device\":[" MESSAGE_1 "]}");
    put("send", SEND);
    put("edu", EDU("M"));
    put("sync", SYNC("N"));
    put("late", "{\"messages\":{\"@u:x\":{\"D\":{\"n\": 1}}},\"message_id\":\"M\",\"type\":\"t\","
                "\"sender\":\"@a:x\"}");
    put("early",
        "{\"type\":\"t\",\"messages\":{\"@u:x\":{\"D\":{\"n\": 1}}},\"sender\":\"@\\u0061:x\","
        "\"message_id\":\"M\"}");

    T("convert --to send message", 0, SEND, "");
    T("convert --to edu --message-id M message", 0, EDU("M"), "");
    T("convert --to sync --next-batch N message", 0, SYNC("N"), "");
    T("convert " FROM_SEND "send", 0, TO_DEVICE(MESSAGE_1), "");
    T("convert " FROM_SEND "--to send send", 0, SEND, "");
    T("convert " FROM_SEND "--to edu --message-id M send", 0, EDU("M"), "");
    T("convert " FROM_SEND "--to sync --next-batch N send", 0, SYNC("N"), "");
    T("convert " FROM_SYNC "sync", 0, TO_DEVICE(MESSAGE_1), "");
    T("convert " FROM_SYNC "--to send sync", 0, SEND, "");
    T("convert " FROM_SYNC "--to edu --message-id M sync", 0, EDU("M"), "");
    T("convert " FROM_SYNC "--to sync sync", 0, SYNC("N"), "");
    T("convert --from edu edu", 0, TO_DEVICE(MESSAGE_1), "");
    T("convert --from edu --to send edu", 0, SEND, "");
    T("convert --from edu --to edu edu", 0, EDU("M"), "");
    T("convert --from edu --to sync --next-batch N edu", 0, SYNC("N"), "");
    /* An EDU's keys come in any order. */
    T("convert --from edu late", 0, TO_DEVICE(MESSAGE_1), "");
    T("convert --from edu --to edu late", 0, EDU("M"), "");
    T("convert --from edu early", 0, TO_DEVICE(MESSAGE_1), "");
    T("convert --from edu --to edu --each late early edu", 0, EDU("M") EDU("M") EDU("M"), "");
    /* Each line is a body of its own. */
    put("two", "{\"to_device\":[" MESSAGE_1 "," MESSAGE_2 "]}");
    T("convert --each --to sync --next-batch N two", 0,
      SYNC("N") "{\"next_batch\":\"N\",\"to_device\":{\"events\":"
                "[{\"content\":{},\"sender\":\"@b:x\",\"type\":\"s\"}]}}\n",
      "");
    T("convert --each --to edu --message-id M two", 0,
      EDU("M") "{\"message_id\":\"M\",\"sender\":\"@b:x\",\"type\":\"s\","
               "\"messages\":{\"@v:x\":{\"E\":{}}}}\n",
      "");
    T("convert --each --to send two", 0, SEND "{\"messages\":{\"@v:x\":{\"E\":{}}}}\n", "");
    /* A request has one type, which is in its path, and one sender. */
    T("convert --to send two", 3, SEND,
      text("two: byte %lu: item 1: %s\n", 15ul + strlen(MESSAGE_1),
           where(MSC4203_E_SECOND, "sender")));
    put("alike", "{\"to_device\":[" MESSAGE_1 "," MESSAGE("@a:x", "t", "@v:x", "E", "{}") "]}");
    T("convert --to send alike", 0,
      "{\"messages\":{\"@u:x\":{\"D\":{\"n\": 1}},\"@v:x\":{\"E\":{}}}}\n", "");
}

/* Where message_id and next_batch come from. */
static void test_ids(void)
{
    put("edu2", EDU("M2"));
    put("sync2", SYNC("\\u004e2"));
    put("no-id", "{\"sender\":\"@a:x\",\"type\":\"t\",\"messages\":{}}");
    put("nameless",
        "{\"messages\":{\"@u:x\":{\"D\":{\"n\": 1}}},\"sender\":\"@a:x\",\"type\":\"t\"}");
    put("no-token", "{\"to_device\":{\"events\":[{\"sender\":\"@a:x\",\"type\":\"t\","
                    "\"content\":{\"n\": 1}}]}}");
    put("bad-token", "{\"next_batch\":5,\"to_device\":{\"events\":[{\"sender\":\"@a:x\","
                     "\"type\":\"t\",\"content\":{\"n\": 1}}]}}");
    T("convert --from edu --to edu --message-id other edu", 0, EDU("M"), "");
    T("convert " FROM_SYNC "--to sync --next-batch other sync", 0, SYNC("N"), "");
    T("convert " FROM_SYNC "--to sync sync2", 0, SYNC("N2"), "");
    T("convert " FROM_SYNC "--to sync --next-batch other no-token", 0, SYNC("other"), "");
    T("convert " FROM_SYNC "--to sync --next-batch other --each no-token", 0, SYNC("other"), "");
    T("convert " FROM_SYNC "--to sync --next-batch 'a\"\\' no-token", 0, SYNC("a\\\"\\\\"), "");
    T("convert " FROM_SYNC "--to sync --next-batch other bad-token", 3, SYNC("other"),
      text("bad-token: byte 14: item 0: %s\n", where(MSC4203_E_FIELD_TYPE, "next_batch")));
    T("convert " FROM_SYNC "bad-token", 3, TO_DEVICE(MESSAGE_1),
      text("bad-token: byte 14: item 0: %s\n", where(MSC4203_E_FIELD_TYPE, "next_batch")));
    /* Of several inputs the first that has one counts; of lines, each one's own before that. */
    T("convert --from edu --to edu no-id edu2", 0, EDU("M2"), "");
    T("convert --from edu --to edu --each edu2 edu", 0, EDU("M2") EDU("M"), "");
    T("convert " FROM_SYNC "--to sync no-token sync2 sync", 0,
      "{\"next_batch\":\"N2\",\"to_device\":{\"events\":["
      "{\"content\":{\"n\": 1},\"sender\":\"@a:x\",\"type\":\"t\"},"
      "{\"content\":{\"n\": 1},\"sender\":\"@a:x\",\"type\":\"t\"},"
      "{\"content\":{\"n\": 1},\"sender\":\"@a:x\",\"type\":\"t\"}]}}\n",
      "");
    /* A line whose body has none has the option's, not another body's. */
    T("convert --from edu --to edu --each --message-id other nameless edu2 nameless", 0,
      EDU("other") EDU("M2") EDU("other"), "");
    T("convert --from edu --to edu --each nameless edu2", 0, EDU("M2") EDU("M2"), "");
    T("convert " FROM_SYNC "--to sync --each --next-batch other no-token sync2", 0,
      SYNC("other") SYNC("N2"), "");
    WRONG("convert " FROM_SYNC "--to sync no-token",
          "--to sync: no input has a next_batch: it needs --next-batch");
    WRONG("convert --from edu --to edu no-id --each",
          "--to edu: no input has a message_id: it needs --message-id");
}

/* A body that plainly has another shape gives nothing, and says which one it has. */
static void test_other_shapes(void)
{
    static const char *const names[] = {"message", "send", "edu", "sync"};
    static const char *const shapes[] = {"transaction", "send", "edu", "sync"};
    static const char *const from[] = {"", FROM_SEND, "--from edu ", FROM_SYNC};
    int i, k;

    for (i = 0; i < 4; i++)
        for (k = 0; k < 4; k++) {
            const char *err = text("%s: byte 0: this is a body of another shape: --from %s\n",
                                   names[k], shapes[k]);
            if (i == k)
                continue;
            T(text("convert %s%s", from[i], names[k]), 3, "", err);
            T(text("convert --each %s%s", from[i], names[k]), 3, "", err);
            T(text("convert %s%s %s", from[i], names[k], names[i]), 3, TO_DEVICE(MESSAGE_1), err);
        }
    put("other", " \n{\"x\":[{\"events\":[]}],\"mess\\u0061ges\" : {\"@u:x\":{\"D\":{}}}}");
    T("convert other", 3, "", "other: byte 2: this is a body of another shape: --from send\n");
    put("other", "{}\n{\"messages\":{}}\n{\"next_batch\":\"\"}\n{\"to_device\":{}}\n");
    T("convert --lines other", 3, NOTHING,
      "other: byte 3: this is a body of another shape: --from send (line 2)\n"
      "other: byte 19: this is a body of another shape: --from sync (line 3)\n"
      "other: byte 37: this is a body of another shape: --from sync (line 4)\n");
    /* What is broken is that first of all, and what may be a transaction is one. */
    put("other", "{\"messages\":{\"@u:x\":{\"D\":{}}},}");
    T("convert other", 1, NOTHING, text("other: byte 30: %s\n", why(MSC4203_E_SYNTAX)));
    put("other", "{\"messages\":{\"@u:x\":{\"D\":{}}}");
    T("convert other", 1, NOTHING, text("other: byte 29: %s\n", why(MSC4203_E_TRUNCATED)));
    put("other", "{\"messages\":{},\"next_batch\":\"x\",\"events\":[]}");
    T("convert other", 0, NOTHING, "");
    put("other", "{\"messages\":5,\"device_lists\":{},\"sender\":\"x\",\"type\":\"y\"}");
    T("convert other", 0, NOTHING, "");
}

/* A list that is given twice: the second is not read, which is said. */
static void test_lists_twice(void)
{
    put("lists", "{\"events\":[{}],\"events\":[],\"events\":[{\"a\":1}],\"to_device\":[5]}");
    T("convert lists", 3, "{\"events\":[{}]}\n",
      text("lists: byte 27: events: given twice: what stands here is left out\n"
           "lists: byte 59: item 0: %s\n",
           why(MSC4203_E_FIELD_TYPE)));
    T("convert --each lists", 3, "{\"events\":[{}]}\n",
      text("lists: byte 27: events: given twice: what stands here is left out\n"
           "lists: byte 59: item 0: %s\n",
           why(MSC4203_E_FIELD_TYPE)));
    put("lists", "{\"messages\":{\"@u:x\":{\"D\":{\"n\": 1}}},\"messages\":{\"@v:x\":{\"D\":{}}}}");
    T("convert " FROM_SEND "lists", 3, TO_DEVICE(MESSAGE_1),
      "lists: byte 36: messages: given twice: what stands here is left out\n");
    put("lists", "{\"device_lists\":{\"left\":[\"@l:x\"],\"left\":[\"@m:x\"]}}");
    T("convert --stable lists", 3, "{\"device_lists\":{\"left\":[\"@l:x\"]},\"events\":[]}\n",
      "lists: byte 33: left: given twice: what stands here is left out\n");
    put("lists", "{\"to_device\":{\"events\":["
                 "{\"content\":{\"n\": 1},\"sender\":\"@a:x\","
                 "\"type\":\"t\"}],\"events\":[{}]}}");
    T("convert " FROM_SYNC "lists", 3, TO_DEVICE(MESSAGE_1),
      "lists: byte 73: events: given twice: what stands here is left out\n");
    /* Under its other spelling it is the same list, sent twice for old and new receivers. */
    put("lists",
        "{\"to_device\":[" MESSAGE_1 "],\"de.sorunome.msc2409.to_device\":[" MESSAGE_1 "]}");
    T("convert lists", 0, TO_DEVICE(MESSAGE_1), "");
}

/* What a shape can't hold is left out with a note. */
static void test_left_out(void)
{
    const char *kind = why(MSC4203_E_KIND);
    const char *order = why(MSC4203_E_ORDER);

    put("kinds", "{\"events\":[{}],\"ephemeral\":[{}],\"to_device\":[" MESSAGE_1 "]}");
    T("convert --to sync --next-batch N kinds", 3, SYNC("N"),
      text("kinds: byte 11: item 0: %s\nkinds: byte 28: item 0: %s\n", kind, kind));
    T("convert --to send --each kinds", 3, SEND,
      text("kinds: byte 11: item 0: %s\nkinds: byte 28: item 0: %s\n", kind, kind));
    T("convert --to edu --message-id M kinds", 3, EDU("M"),
      text("kinds: byte 11: item 0: %s\nkinds: byte 28: item 0: %s\n", kind, kind));

    /* An EDU has one sender and one type. */
    put("seconds",
        "{\"to_device\":[" MESSAGE_1 "," MESSAGE("@b:x", "t", "@v:x", "D", "{}") "," MESSAGE(
            "@a:x", "s", "@v:x", "D", "{}") "," MESSAGE("@a:x", "t", "@v:x", "D",
                                                        "{\"n\":2}") "]}");
    T("convert --to edu --message-id M seconds", 3,
      "{\"message_id\":\"M\",\"sender\":\"@a:x\",\"type\":\"t\",\"messages\":"
      "{\"@u:x\":{\"D\":{\"n\": 1}},\"@v:x\":{\"D\":{\"n\":2}}}}\n",
      text("seconds: byte %lu: item 1: %s\nseconds: byte %lu: item 2: %s\n",
           15ul + strlen(MESSAGE_1), where(MSC4203_E_SECOND, "sender"),
           16ul + strlen(MESSAGE_1) + strlen(MESSAGE("@b:x", "t", "@v:x", "D", "{}")),
           where(MSC4203_E_SECOND, "type")));
    T("convert --to send seconds", 3,
      "{\"messages\":{\"@u:x\":{\"D\":{\"n\": 1}},\"@v:x\":{\"D\":{\"n\":2}}}}\n",
      text("seconds: byte %lu: item 1: %s\nseconds: byte %lu: item 2: %s\n",
           15ul + strlen(MESSAGE_1), where(MSC4203_E_SECOND, "sender"),
           16ul + strlen(MESSAGE_1) + strlen(MESSAGE("@b:x", "t", "@v:x", "D", "{}")),
           where(MSC4203_E_SECOND, "type")));

    /* A key once only: users that come back, and devices that come twice, are left out. */
    put("back", "{\"messages\":{\"@u:x\":{\"D\":{\"n\":1},\"E\":{},\"D\":{\"n\":2}},"
                "\"@v:x\":{\"\\u0044\":{}},\"@\\u0075:x\":{\"F\":{}},\"@a:x\":{\"D\":{}}}}");
    T("convert " FROM_SEND "--to send back", 3,
      "{\"messages\":{\"@u:x\":{\"D\":{\"n\":1},\"E\":{}},\"@v:x\":{\"D\":{}},"
      "\"@a:x\":{\"D\":{}}}}\n",
      text("back: byte 40: item 2: %s\nback: byte 87: item 4: %s\n", order, order));
    T("convert " FROM_SEND "--to edu --message-id M back send", 3,
      "{\"message_id\":\"M\",\"sender\":\"@a:x\",\"type\":\"t\",\"messages\":{\"@u:x\":{\"D\":"
      "{\"n\":1},\"E\":{}},\"@v:x\":{\"D\":{}},\"@a:x\":{\"D\":{}}}}\n",
      text("back: byte 40: item 2: %s\nback: byte 87: item 4: %s\nsend: byte 21: item 0: %s\n",
           order, order, order));
    T("convert " FROM_SEND "--each --to send back", 0,
      "{\"messages\":{\"@u:x\":{\"D\":{\"n\":1}}}}\n{\"messages\":{\"@u:x\":{\"E\":{}}}}\n"
      "{\"messages\":{\"@u:x\":{\"D\":{\"n\":2}}}}\n{\"messages\":{\"@v:x\":{\"D\":{}}}}\n"
      "{\"messages\":{\"@u:x\":{\"F\":{}}}}\n{\"messages\":{\"@a:x\":{\"D\":{}}}}\n",
      "");
    /* A transaction takes what a request repeats. */
    RUN(TOOL " convert --each " FROM_SEND "back send | wc -l | tr -d ' '", 0, "7\n", "");
    RUN(TOOL " convert " FROM_SEND "back send >/dev/null", 0, "", "");

    /* The notes stand among the other messages, in the order of the input. */
    put("mixed", "{\"to_device\":[{}," MESSAGE_1 "],\"events\":[{},5,{}]}");
    T("convert --to send mixed", 3, SEND,
      text("mixed: byte 14: item 0: %s\nmixed: byte %lu: item 0: %s\nmixed: byte %lu: item 1: %s\n"
           "mixed: byte %lu: item 2: %s\n",
           where(MSC4203_E_FIELD_MISSING, "sender"), 29ul + strlen(MESSAGE_1), kind,
           32ul + strlen(MESSAGE_1), why(MSC4203_E_FIELD_TYPE), 34ul + strlen(MESSAGE_1), kind));
}

/* To /sync for one device. */
static void test_filter(void)
{
    T("convert --to sync --next-batch N --user @u:x --device D two", 0, SYNC("N"), "");
    T("convert --to sync --next-batch N --user @u:x --device D --each two", 0, SYNC("N"), "");
    T("convert --to sync --next-batch N --user @u:x --device E two", 0,
      "{\"next_batch\":\"N\",\"to_device\":{\"events\":[]}}\n", "");
    T("convert --to sync --next-batch N --user @v:x --device D two", 0,
      "{\"next_batch\":\"N\",\"to_device\":{\"events\":[]}}\n", "");
    T("convert --to sync --next-batch N --user '' --device D two --each", 0, "", "");
    /* What can't be used, or held, is told all the same. */
    T("convert --to sync --next-batch N --user @u:x --device E mixed", 3,
      "{\"next_batch\":\"N\",\"to_device\":{\"events\":[]}}\n",
      text("mixed: byte 14: item 0: %s\nmixed: byte %lu: item 0: %s\nmixed: byte %lu: item 1: %s\n"
           "mixed: byte %lu: item 2: %s\n",
           where(MSC4203_E_FIELD_MISSING, "sender"), 29ul + strlen(MESSAGE_1), why(MSC4203_E_KIND),
           32ul + strlen(MESSAGE_1), why(MSC4203_E_FIELD_TYPE), 34ul + strlen(MESSAGE_1),
           why(MSC4203_E_KIND)));
    /* Elsewhere these options have no say. */
    T("convert --user @z:x --device Z --sender @z:x --type z --message-id Z --next-batch Z two", 0,
      TO_DEVICE(MESSAGE_1 "," MESSAGE_2), "");
    T("convert --from edu --user @z:x --sender @z:x --type z --next-batch Z edu", 0,
      TO_DEVICE(MESSAGE_1), "");
}

/* ----------------------------------------------------------------------------------------------
 * What can't be read
 * ---------------------------------------------------------------------------------------------- */

/* In a transaction, beside a good message, which is written. */
static void bad_message(const char *message, int error, const char *field)
{
    put("bad", text("{\"to_device\":[%s," MESSAGE_1 "]}", message));
    T("convert bad", 3, TO_DEVICE(MESSAGE_1),
      text("bad: byte 14: item 0: %s\n", *field ? where(error, field) : why(error)));
}

static void test_items(void)
{
    static const char *const fields[] = {"\"sender\":\"@a:x\"", "\"type\":\"t\"",
                                         "\"to_user_id\":\"@u:x\"", "\"to_device_id\":\"D\"",
                                         "\"content\":{}"};
    static const char *const names[] = {"sender", "type", "to_user_id", "to_device_id", "content"};
    static const char *const others[] = {"null", "5", "false", "[]", "-1.5e3"};
    static const char *const poison[] = {"1e309", "-1e400", "1.7976931348623158e308",
                                         "[{\"a\":1E+999}]"};
    size_t i, k;

    for (i = 0; i < 5; i++) {
        char all[512], key[32], *value;
        *all = 0;
        for (k = 0; k < 5; k++)
            if (k != i)
                sprintf(all + strlen(all), "%s%s", *all ? "," : "", fields[k]);
        strcpy(key, fields[i]);
        value = strchr(key, ':');
        *value = 0;
        bad_message(text("{%s}", all), MSC4203_E_FIELD_MISSING, names[i]);
        bad_message(text("{%s,%s,%s}", fields[i], all, fields[i]), MSC4203_E_FIELD_TWICE, names[i]);
        bad_message(text("{%s,%s:%s}", all, key, others[i]), MSC4203_E_FIELD_TYPE, names[i]);
        bad_message(text("{%s , %s : [{}, \"}\"]}", all, key), MSC4203_E_FIELD_TYPE, names[i]);
        bad_message(others[i], MSC4203_E_FIELD_TYPE, "");
    }
    bad_message("\"x\"", MSC4203_E_FIELD_TYPE, "");
    bad_message("{\"\\u0074ype\":5,\"x\":\"sender\"}", MSC4203_E_FIELD_TYPE, "type");
    bad_message(
        "{\"sender\":\"@a:x\",\"type\":\"t\",\"to_user_id\":\"@u:x\",\"to_device_id\":\"D\","
        "\"content\":\"x\"}",
        MSC4203_E_FIELD_TYPE, "content");
    bad_message(MESSAGE("@a:x", "\\ud800", "@u:x", "D", "{}"), MSC4203_E_SURROGATE, "type");
    bad_message(MESSAGE("\\ud83d\\ude00", "t", "\\ud83d\\ud83d\\ude00", "D", "{}"),
                MSC4203_E_SURROGATE, "to_user_id");
    bad_message(MESSAGE("@a:x", "t", "@u:x", "\\\\ud800\\ud83dx", "{}"), MSC4203_E_SURROGATE,
                "to_device_id");
    bad_message(MESSAGE("@a:x", "t", "@u:x", "D", "{\"\\udfff\":1}"), MSC4203_E_SURROGATE,
                "content");
    for (i = 0; i < 4; i++)
        bad_message(text("{\"sender\":\"@a:x\",\"type\":\"t\",\"to_user_id\":\"@u:x\","
                         "\"to_device_id\":\"D\",\"content\":{\"a\":%s}}",
                         poison[i]),
                    MSC4203_E_NUMBER, "content");
    put("edge", "{\"to_device\":[" MESSAGE("@a:x", "t", "@u:x", "D",
                                           "{\"a\":[1.7976931348623157e308,"
                                           "1e-999,-0,\"\\ud83d\\ude00\"]}") "]}");
    T("convert edge", 0,
      TO_DEVICE(MESSAGE("@a:x", "t", "@u:x", "D",
                        "{\"a\":[1.7976931348623157e308,1e-999,-0,"
                        "\"\\ud83d\\ude00\"]}")),
      "");
    put("others",
        "{\"events\":[5,{}],\"ephemeral\":[[]],\"device_lists\":{\"changed\":[{},\"@c:x\"],"
        "\"left\":{}},\"device_one_time_keys_count\":{\"@u:x\":{\"D\":[]},\"@v:x\":5},"
        "\"device_unused_fallback_key_types\":{\"@u:x\":{\"D\":{},\"E\":[\"a\"]}}}");
    T("convert others", 3,
      "{\"events\":[{}]," MSC3202 "device_lists\":{\"changed\":[\"@c:x\"]}," MSC3202
      "device_unused_fallback_key_types\":{\"@u:x\":{\"E\":[\"a\"]}}}\n",
      text("others: byte 11: item 0: %s\nothers: byte 30: item 0: %s\nothers: byte 61: item 0: %s\n"
           "others: byte 79: item 0: %s\nothers: byte 125: item 0: %s\nothers: byte 136: item 1: "
           "%s\n"
           "others: byte 187: item 0: %s\n",
           why(-21), why(-21), why(-21), where(-21, "left"), where(-21, "D"), where(-21, "@v:x"),
           where(-21, "D")));
    put("known", "{\"to_device\":5,\"ephemeral\":null,\"events\":\"x\"}");
    T("convert known", 3, NOTHING,
      text("known: byte 13: item 0: %s\nknown: byte 41: item 0: %s\n", where(-21, "to_device"),
           where(-21, "events")));
    put("bad-send",
        "{\"messages\":{\"@u:x\":{\"D\":[],\"\\ud800\":{},\"E\":{\"n\":1e999}},\"@v:x\":5,"
        "\"@w:x\":{\"D\":{}}}}");
    T("convert " FROM_SEND "--to send bad-send", 3, "{\"messages\":{\"@w:x\":{\"D\":{}}}}\n",
      text("bad-send: byte 21: item 0: %s\nbad-send: byte 28: item 1: %s\nbad-send: byte 40: item "
           "2: %s\n"
           "bad-send: byte 64: item 3: %s\n",
           where(MSC4203_E_FIELD_TYPE, "content"), where(MSC4203_E_SURROGATE, "the device's id"),
           where(MSC4203_E_NUMBER, "content"), where(MSC4203_E_FIELD_TYPE, "@v:x")));
    put("bad-send", "{\"messages\":{\"@\\ud800\":{\"D\":{}}}}");
    T("convert " FROM_SEND "bad-send", 3, NOTHING,
      text("bad-send: byte 24: item 0: %s\n", where(MSC4203_E_SURROGATE, "the user's id")));
}

/* An EDU whose sender or type is no good: its messages can't be used. */
static void test_edu(void)
{
    static const struct {
        const char *rest;
        int error;
        const char *field;
    } rows[] = {
        {"\"type\":\"t\"", MSC4203_E_FIELD_MISSING, "sender"},
        {"\"sender\":\"@a:x\"", MSC4203_E_FIELD_MISSING, "type"},
        {"\"type\":\"t\",\"sender\":5", MSC4203_E_FIELD_TYPE, "sender"},
        {"\"sender\":\"@a:x\",\"type\":\"t\",\"type\":\"t\"", MSC4203_E_FIELD_TWICE, "type"},
        {"\"type\":\"t\",\"sender\":\"\\ud800\"", MSC4203_E_SURROGATE, "sender"},
        {"\"sender\":\"@a:x\",\"type\":\"\\udc00\"", MSC4203_E_SURROGATE, "type"}};
    size_t i;

    for (i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        put("before", text("{%s,\"messages\":{\"@u:x\":{\"D\":{}}}}", rows[i].rest));
        put("behind", text("{\"messages\":{\"@u:x\":{\"D\":{}}},%s}", rows[i].rest));
        T("convert --from edu before", 3, NOTHING,
          text("before: byte %lu: item 0: %s\n", 22ul + strlen(rows[i].rest),
               where(rows[i].error, rows[i].field)));
        T("convert --from edu behind", 3, NOTHING,
          text("behind: byte 21: item 0: %s\n", where(rows[i].error, rows[i].field)));
    }
    /* Cut short, it tells what it has told before. */
    put("cut", "{\"messages\":{\"@u:x\":{\"D\":{\"n\": 1}}},\"sender\":\"@a:x\",\"type\":\"t\",");
    T("convert --from edu cut", 1, TO_DEVICE(MESSAGE_1),
      text("cut: byte 63: %s\n", why(MSC4203_E_TRUNCATED)));
    put("cut", "{\"messages\":{\"@u:x\":{\"D\":{\"n\": 1}}},\"sender\":\"@a:x\"");
    T("convert --from edu cut", 1, NOTHING,
      text("cut: byte 21: item 0: %s\ncut: byte 51: %s\n", where(MSC4203_E_FIELD_MISSING, "type"),
           why(MSC4203_E_TRUNCATED)));
}

static void body(int line, const char *options, const char *content, unsigned long at, int error)
{
    put("body", content);
    tool(line, text("convert %s body", options), 1, NOTHING,
         text("body: byte %lu: %s\n", at, why(error)));
}
#define BODY(options, content, at, error) body(__LINE__, options, content, at, error)

static void test_bodies(void)
{
    BODY("", "", 0, MSC4203_E_TRUNCATED);
    BODY("", "{\"events\":", 10, MSC4203_E_TRUNCATED);
    BODY("", "[]", 0, MSC4203_E_ROOT);
    BODY("", " \"x\"", 1, MSC4203_E_ROOT);
    BODY("", "5", 0, MSC4203_E_ROOT);
    BODY("", "{} x", 3, MSC4203_E_SYNTAX);
    BODY("", "{,}", 1, MSC4203_E_SYNTAX);
    BODY("", "{\"a\":tru}", 8, MSC4203_E_SYNTAX);
    BODY("", "{\"a\":\"\xc3(\"}", 7, MSC4203_E_UTF8);
    BODY("", "\xef\xbb\xbf{}", 0, MSC4203_E_SYNTAX);
    BODY("", "{\"a\":\"\\x\"}", 7, MSC4203_E_SYNTAX);
    BODY(FROM_SEND, "{\"messages\":[]}", 12, MSC4203_E_MESSAGES);
    BODY(FROM_SEND, "{\"messages\":null}", 12, MSC4203_E_MESSAGES);
    BODY("--from edu", "{\"sender\":\"@a:x\",\"messages\":\"x\"}", 28, MSC4203_E_MESSAGES);
    BODY(FROM_SEND, "{\"a\": 1 }", 8, MSC4203_E_NO_MESSAGES);
    BODY("--from edu", "{}", 1, MSC4203_E_NO_MESSAGES);
    /* What was read before is written all the same. */
    put("broken", "{\"to_device\":[" MESSAGE_1 ",{\"sender\":\"@a:x\",]}");
    T("convert broken", 1, TO_DEVICE(MESSAGE_1),
      text("broken: byte %lu: %s\n", 32ul + strlen(MESSAGE_1), why(MSC4203_E_SYNTAX)));
    T("convert --each broken two", 1,
      TO_DEVICE(MESSAGE_1) TO_DEVICE(MESSAGE_1) TO_DEVICE(MESSAGE_2),
      text("broken: byte %lu: %s\n", 32ul + strlen(MESSAGE_1), why(MSC4203_E_SYNTAX)));
    T("convert broken mixed", 1,
      "{\"events\":[{},{}],\"de.sorunome.msc2409.to_device\":[" MESSAGE_1 "," MESSAGE_1 "]}\n",
      text("broken: byte %lu: %s\nmixed: byte 14: item 0: %s\nmixed: byte %lu: item 1: %s\n",
           32ul + strlen(MESSAGE_1), why(MSC4203_E_SYNTAX),
           where(MSC4203_E_FIELD_MISSING, "sender"), 32ul + strlen(MESSAGE_1),
           why(MSC4203_E_FIELD_TYPE)));
}

/* Exactly at the limit, and one byte under it, of an item's values: but not of what options tell.
 */
static void limit(const char *arguments, const char *file, unsigned bytes, unsigned long at,
                  const char *all, const char *nothing)
{
    T(text("convert --scratch %u %s %s", bytes, arguments, file), 0, all, "");
    T(text("convert --scratch %u %s %s", bytes - 1, arguments, file), 3, nothing,
      text("%s: byte %lu: item 0: %s\n", file, at, why(MSC4203_E_TOO_LARGE)));
}

static void test_scratch(void)
{
    char *big = (char *)malloc(600000);
    size_t i;

    limit("", "message", 18, 14, TO_DEVICE(MESSAGE_1), NOTHING);
    limit(FROM_SEND "--to send", "send", 13, 21, SEND, "{\"messages\":{}}\n");
    limit("--from edu", "edu", 18, 65, TO_DEVICE(MESSAGE_1), NOTHING);
    limit("--from edu", "late", 18, 21, TO_DEVICE(MESSAGE_1), NOTHING);
    limit("--from edu", "early", 18, 32, TO_DEVICE(MESSAGE_1), NOTHING);
    limit(FROM_SYNC "--each --to send", "sync", 13, 41, SEND, "");
    /* An id is not measured with what the reader keeps beside it while an EDU is cut short. */
    put("cut",
        "{\"sender\":\"\\u0040aaaaaa:x\",\"type\":\"\\u0074\",\"message_id\":\"\\u004d22\",");
    T("convert --scratch 3 --from edu --to edu cut", 1,
      "{\"message_id\":\"M22\",\"sender\":\"\",\"type\":\"\",\"messages\":{}}\n",
      text("cut: byte 67: %s\n", why(MSC4203_E_TRUNCATED)));
    T("convert --scratch 2 --from edu cut", 1, NOTHING,
      text("cut: byte 56: item 0: %s\ncut: byte 67: %s\n", why(MSC4203_E_TOO_LARGE),
           why(MSC4203_E_TRUNCATED)));
    put("escaped",
        "{\"to_device\":[{\"to_device_id\":\"\\u0044\",\"sender\":\"\\u0040a:x\",\"content\":"
        "{\"n\": 1},\"type\":\"t\",\"to_user_id\":\"@u\\u003ax\"}]}");
    limit("", "escaped", 18, 14, TO_DEVICE(MESSAGE_1), NOTHING);
    put("counts", "{\"device_one_time_keys_count\":{\"@u:x\":{\"D\":{\"k\":2}}}}");
    limit("", "counts", 12, 43,
          "{" MSC3202 "device_one_time_keys_count\":" COUNTS ",\"events\":[]}\n", NOTHING);
    put("list", "{\"device_lists\":{\"left\":[\"@\\u006c:x\"]}}");
    limit("", "list", 4, 25, "{" MSC3202 "device_lists\":{\"left\":[\"@l:x\"]},\"events\":[]}\n",
          NOTHING);
    put("tokens", "{\"next_batch\":\"0123456789\"}");
    T("convert " FROM_SYNC "--to sync --scratch 10 tokens", 0,
      "{\"next_batch\":\"0123456789\",\"to_device\":{\"events\":[]}}\n", "");
    T("convert " FROM_SYNC "--to sync --scratch 9 --next-batch N tokens", 3,
      "{\"next_batch\":\"N\",\"to_device\":{\"events\":[]}}\n",
      text("tokens: byte 14: item 0: %s\n", why(MSC4203_E_TOO_LARGE)));
    /* An id is an item of its own: what belongs to the messages does not count. */
    put("ids", "{\"sender\":\"@a:x\",\"messages\":{},\"message_id\":\"M\",\"type\":\"t\"}");
    T("convert --from edu --scratch 1 ids", 0, NOTHING, "");
    put("ids",
        "{\"messages\":{},\"message_id\":\"\\u004d\",\"type\":\"t\",\"sender\":\"\\u0040a:x\"}");
    T("convert --from edu --scratch 1 ids", 0, NOTHING, "");
    T("convert --scratch 0 message", 3, NOTHING,
      text("message: byte 14: item 0: %s\n", why(MSC4203_E_TOO_LARGE)));
    T("convert --scratch 0 empty", 0, NOTHING, "");
    T("convert --scratch 4294967295 message", 0, TO_DEVICE(MESSAGE_1), "");
    /* Any other reason counts before "too large", a flag too. */
    put("poison",
        "{\"to_device\":[" MESSAGE(
            "@a:x", "t", "@u:x", "D",
            "{\"n\":\"\\ud800\",\"m\":1e999}") "," MESSAGE("@a:x", "t", "@u:x", "D",
                                                           "{\"m\":1e999}") ",{\"content\":{\"m\":"
                                                                            "1e999}}]}");
    for (i = 0; i < 40; i += 13)
        T(text("convert --scratch %lu poison", (unsigned long)i), 3, NOTHING,
          text("poison: byte 14: item 0: %s\npoison: byte %lu: item 1: %s\npoison: byte %lu: item "
               "2: %s\n",
               where(MSC4203_E_SURROGATE, "content"),
               15ul + strlen(MESSAGE("@a:x", "t", "@u:x", "D", "{\"n\":\"\\ud800\",\"m\":1e999}")),
               where(MSC4203_E_NUMBER, "content"),
               16ul + strlen(MESSAGE("@a:x", "t", "@u:x", "D", "{\"n\":\"\\ud800\",\"m\":1e999}")) +
                   strlen(MESSAGE("@a:x", "t", "@u:x", "D", "{\"m\":1e999}")),
               where(MSC4203_E_FIELD_MISSING, "sender")));
    /* 256 KiB unless told. */
    if (!big)
        exit(2);
    for (i = 0; i < 2; i++) {
        size_t content = 262144 - 10 + i, n;
        n = (size_t)sprintf(
            big, "{\"to_device\":[{\"sender\":\"@a:x\",\"type\":\"t\",\"to_user_id\":\"@u:x\","
                 "\"to_device_id\":\"D\",\"content\":");
        memset(big + n, 'x', content);
        memcpy(big + n, "{\"a\":\"", 6);
        memcpy(big + n + content - 2, "\"}", 2);
        n += content;
        n += (size_t)sprintf(big + n, "}]}");
        put_bytes("big", big, n);
        run(TOOL " convert --chunk 4096 big");
        CHECK(got.status == (i ? 3 : 0));
        run(TOOL " convert big");
        CHECK(got.status == (i ? 3 : 0));
        CHECK(is(got.err, got.err_bytes, i ? text("big: byte 14: item 0: %s\n", why(-26)) : ""));
        CHECK(got.out_bytes > (i ? 0 : content) && (i == 0 || is(got.out, got.out_bytes, NOTHING)));
    }
    free(big);
}

/* `levels` brackets in all, those of `before` included. */
static void nested(const char *name, const char *before, unsigned levels, const char *behind)
{
    FILE *file = fopen(name, "wb");
    unsigned i;

    if (!file)
        exit(2);
    fputs(before, file);
    for (i = 0; i < levels; i++)
        fputs("[", file);
    for (i = 0; i < levels; i++)
        fputs("]", file);
    fputs(behind, file);
    if (fclose(file) != 0)
        exit(2);
}

static void test_depth(void)
{
    static const char before[] =
        "{\"to_device\":[{\"sender\":\"@a:x\",\"type\":\"t\",\"to_user_id\":\"@u:x\","
        "\"to_device_id\":\"D\",\"content\":{\"a\":";
    char brackets[2041];

    memset(brackets, '[', 1020);
    memset(brackets + 1020, ']', 1020);
    brackets[2040] = 0;
    nested("deep", "", 1024, "");
    T("check deep", 0, "", "");
    nested("deep", "", 1025, "");
    T("check deep", 1, "", "deep: byte 1024: too deep\n");
    nested("deep", "", 100000, "");
    T("check deep", 1, "", "deep: byte 1024: too deep\n");
    T("convert deep", 1, NOTHING, text("deep: byte 0: %s\n", why(MSC4203_E_ROOT)));
    nested("deep", before, 1020, "}}]}");
    T("convert deep", 0,
      text("{\"de.sorunome.msc2409.to_device\":[{\"content\":{\"a\":%s},\"sender\":\"@a:x\","
           "\"to_device_id\":\"D\",\"to_user_id\":\"@u:x\",\"type\":\"t\"}],\"events\":[]}\n",
           brackets),
      "");
    /* /sync has one level more. */
    T("convert --to sync --next-batch N deep", 3,
      "{\"next_batch\":\"N\",\"to_device\":{\"events\":[]}}\n",
      text("deep: byte 14: item 0: %s\n", where(MSC4203_E_TOO_DEEP, "content")));
    nested("deep", before, 1021, "}}," MESSAGE_1 "]}");
    T("convert deep", 3, TO_DEVICE(MESSAGE_1),
      text("deep: byte 14: item 0: %s\n", where(MSC4203_E_TOO_DEEP, "content")));
    nested("deep", before, 100000, "}}," MESSAGE_1 "]}");
    T("convert deep", 3, TO_DEVICE(MESSAGE_1),
      text("deep: byte 14: item 0: %s\n", where(MSC4203_E_TOO_DEEP, "content")));
    nested("deep", "{\"unknown\":", 100000, ",\"to_device\":[" MESSAGE_1 "]}");
    T("convert deep", 0, TO_DEVICE(MESSAGE_1), "");
}

/* ----------------------------------------------------------------------------------------------
 * check
 * ---------------------------------------------------------------------------------------------- */

static void checked(int line, const char *content, size_t bytes, long at, int error)
{
    put_bytes("text", content, bytes);
    if (at < 0)
        tool(line, "check text", 0, "", "");
    else
        tool(line, "check text", 1, "", text("text: byte %ld: %s\n", at, why(error)));
}
#define GOOD(content)           checked(__LINE__, content, sizeof content - 1, -1, 0)
#define BAD(content, at, error) checked(__LINE__, content, sizeof content - 1, at, error)

static void test_texts(void)
{
    GOOD("5");
    GOOD("\"\\ud800\"");
    GOOD(" [null,true,false,1e999,\"\xf0\x9f\x98\x80\"]\r\n");
    GOOD("{\"a\":1,\"a\":2}");
    BAD("", 0, MSC4203_E_TRUNCATED);
    BAD("1 2", 2, MSC4203_E_SYNTAX);
    BAD("[1,]", 3, MSC4203_E_SYNTAX);
    BAD("01", 1, MSC4203_E_SYNTAX);
    BAD("\"abc", 4, MSC4203_E_TRUNCATED);
    BAD("\"a\tb\"", 2, MSC4203_E_SYNTAX);
    BAD("\"\xc0\xaf\"", 1, MSC4203_E_UTF8);
    BAD("\"\xed\xa0\x80\"", 2, MSC4203_E_UTF8);
    BAD("\xef\xbb\xbf"
        "5",
        0, MSC4203_E_SYNTAX);
    BAD("[\0]", 1, MSC4203_E_SYNTAX);
    BAD("5\0", 1, MSC4203_E_SYNTAX);
    BAD("\"\\", 2, MSC4203_E_TRUNCATED);
    BAD("NaN", 0, MSC4203_E_SYNTAX);
    put("good", "[]");
    put("truncated", "[");
    T("check good truncated nowhere good text", 2, "",
      text("nowhere: No such file or directory\ntruncated: byte 1: %s\ntext: byte 0: %s\n",
           why(MSC4203_E_TRUNCATED), why(MSC4203_E_SYNTAX)));
    T("check good truncated good", 1, "",
      text("truncated: byte 1: %s\n", why(MSC4203_E_TRUNCATED)));
    T("check <truncated", 1, "", text("-: byte 1: %s\n", why(MSC4203_E_TRUNCATED)));
    T("check <good", 0, "", "");
    T("check good lines", 1, "", text("lines: byte %lu: %s\n", 17ul + strlen(MESSAGE_1), why(-1)));
}

/* check --shape: JSON first, then the shape, then each item. */
static void test_check_shape(void)
{
    static const char *const names[] = {"message", "send", "edu", "sync"};
    static const char *const shapes[] = {"transaction", "send", "edu", "sync"};
    int i, k;

    for (i = 0; i < 4; i++)
        for (k = 0; k < 4; k++)
            T(text("check --shape %s %s", shapes[i], names[k]), i == k ? 0 : 3, "",
              i == k ? ""
                     : text("%s: byte 0: this is a body of another shape: --shape %s\n", names[k],
                            shapes[k]));
    T("check --shape=transaction mixed", 3, "",
      text("mixed: byte 14: item 0: %s\nmixed: byte %lu: item 1: %s\n",
           where(MSC4203_E_FIELD_MISSING, "sender"), 32ul + strlen(MESSAGE_1),
           why(MSC4203_E_FIELD_TYPE)));
    T("check --shape transaction truncated message good", 1, "",
      text("truncated: byte 1: %s\ngood: byte 0: %s\n", why(MSC4203_E_TRUNCATED),
           why(MSC4203_E_ROOT)));
    T("check --shape transaction broken", 1, "", /* its items are not looked at */
      text("broken: byte %lu: %s\n", 32ul + strlen(MESSAGE_1), why(MSC4203_E_SYNTAX)));
    put("none", "{\"a\":1}");
    T("check --shape send none", 1, "", text("none: byte 6: %s\n", why(MSC4203_E_NO_MESSAGES)));
    nested("deep", "{\"unknown\":", 100000, ",\"to_device\":[" MESSAGE_1 "]}");
    T("check --shape transaction deep", 1, "", "deep: byte 1034: too deep\n");
    T("check --shape transaction nowhere", 2, "", "nowhere: No such file or directory\n");
    put("none", "");
}

/* ----------------------------------------------------------------------------------------------
 * Files, pipes, the command line
 * ---------------------------------------------------------------------------------------------- */

static void test_files(void)
{
    T("convert nowhere message", 2, TO_DEVICE(MESSAGE_1), "nowhere: No such file or directory\n");
    T("convert message . two", 2, TO_DEVICE(MESSAGE_1 "," MESSAGE_1 "," MESSAGE_2),
      ".: Is a directory\n");
    /* Of what can't be read there is nothing: not an empty body. */
    T("convert nowhere", 2, "", "nowhere: No such file or directory\n");
    T("convert --to send nowhere", 2, "", "nowhere: No such file or directory\n");
    T("convert --lines nowhere", 2, "", "nowhere: No such file or directory\n");
    T("convert nowhere send", 2, "",
      "nowhere: No such file or directory\n"
      "send: byte 0: this is a body of another shape: --from send\n");
    T("convert nowhere empty", 2, NOTHING, "nowhere: No such file or directory\n");
    T("convert --each message nowhere two", 2,
      TO_DEVICE(MESSAGE_1) TO_DEVICE(MESSAGE_1) TO_DEVICE(MESSAGE_2),
      "nowhere: No such file or directory\n");
    /* 2 before 1 before 3. */
    T("convert mixed broken", 1,
      "{\"events\":[{},{}],\"de.sorunome.msc2409.to_device\":[" MESSAGE_1 "," MESSAGE_1 "]}\n",
      text("mixed: byte 14: item 0: %s\nmixed: byte %lu: item 1: %s\nbroken: byte %lu: %s\n",
           where(MSC4203_E_FIELD_MISSING, "sender"), 32ul + strlen(MESSAGE_1),
           why(MSC4203_E_FIELD_TYPE), 32ul + strlen(MESSAGE_1), why(MSC4203_E_SYNTAX)));
    T("convert mixed broken nowhere", 2,
      "{\"events\":[{},{}],\"de.sorunome.msc2409.to_device\":[" MESSAGE_1 "," MESSAGE_1 "]}\n",
      text("nowhere: No such file or directory\n"
           "mixed: byte 14: item 0: %s\nmixed: byte %lu: item 1: %s\nbroken: byte %lu: %s\n",
           where(MSC4203_E_FIELD_MISSING, "sender"), 32ul + strlen(MESSAGE_1),
           why(MSC4203_E_FIELD_TYPE), 32ul + strlen(MESSAGE_1), why(MSC4203_E_SYNTAX)));
    T("convert nowhere broken", 2, TO_DEVICE(MESSAGE_1),
      text("nowhere: No such file or directory\nbroken: byte %lu: %s\n", 32ul + strlen(MESSAGE_1),
           why(MSC4203_E_SYNTAX)));
    put("a name, with: colons", "[]");
    T("convert 'a name, with: colons'", 1, NOTHING,
      text("a name, with: colons: byte 0: %s\n", why(MSC4203_E_ROOT)));
}

static void test_pipes(void)
{
    static const char *const cuts[] = {"", "--chunk 1", "--chunk 5"};
    size_t i;

    T("convert <two", 0, TO_DEVICE(MESSAGE_1 "," MESSAGE_2), "");
    T("convert - <two", 0, TO_DEVICE(MESSAGE_1 "," MESSAGE_2), "");
    T("convert message - b <two", 0,
      "{\"events\":[{\"e\":2}],\"de.sorunome.msc2409.to_device\":[" MESSAGE_1 "," MESSAGE_1
      "," MESSAGE_2 "," MESSAGE_2 "]}\n",
      "");
    T("convert </dev/null", 1, NOTHING, text("-: byte 0: %s\n", why(MSC4203_E_TRUNCATED)));
    T("convert - - <two", 0, TO_DEVICE(MESSAGE_1 "," MESSAGE_2 "," MESSAGE_1 "," MESSAGE_2), "");
    run("mkfifo pipe 2>/dev/null || test -p pipe");
    for (i = 0; i < 3; i++) {
        RUN(text("cat two | " TOOL " convert %s", cuts[i]), 0, TO_DEVICE(MESSAGE_1 "," MESSAGE_2),
            "");
        RUN(text("cat mixed | " TOOL " convert - %s --to send", cuts[i]), 3, SEND,
            text("-: byte 14: item 0: %s\n-: byte %lu: item 0: %s\n-: byte %lu: item 1: %s\n"
                 "-: byte %lu: item 2: %s\n",
                 where(MSC4203_E_FIELD_MISSING, "sender"), 29ul + strlen(MESSAGE_1),
                 why(MSC4203_E_KIND), 32ul + strlen(MESSAGE_1), why(MSC4203_E_FIELD_TYPE),
                 34ul + strlen(MESSAGE_1), why(MSC4203_E_KIND)));
        RUN(text("cat two | " TOOL " convert - - %s", cuts[i]), 1,
            TO_DEVICE(MESSAGE_1 "," MESSAGE_2), text("-: byte 0: %s\n", why(MSC4203_E_TRUNCATED)));
        RUN(text("{ read line; " TOOL " convert %s; } <skipped", cuts[i]), 0, NOTHING, "");
        RUN(text("cat two >pipe & " TOOL " convert %s pipe; s=$?; wait; exit $s", cuts[i]), 0,
            TO_DEVICE(MESSAGE_1 "," MESSAGE_2), "");
        RUN(text("cat " DATA "/sync/*.json | " TOOL " check %s", cuts[i]), 1, "",
            text("-: byte 218334: %s\n", why(MSC4203_E_SYNTAX)));
    }
    RUN(TOOL " convert <&-", 2, "", "-: Bad file descriptor\n");
    /* A pipe needs a folder for a temporary file, and leaves nothing there. */
    RUN("cat two | TMPDIR=nowhere " TOOL " convert", 2, "", "-: No such file or directory\n");
    RUN("TMPDIR=nowhere " TOOL " convert two", 0, TO_DEVICE(MESSAGE_1 "," MESSAGE_2), "");
    RUN("mkdir -p tmp; cat two | TMPDIR=tmp " TOOL " convert; ls tmp", 0,
        TO_DEVICE(MESSAGE_1 "," MESSAGE_2), "");
}

static void test_output(void)
{
    if (access("/dev/full", W_OK) == 0) {
        const char *full = "standard output: No space left on device\n";
        RUN(TOOL " convert two >/dev/full", 2, "", full);
        RUN(TOOL " convert --each two >/dev/full", 2, "", full);
        RUN(TOOL " --help >/dev/full", 2, "", full);
        RUN(TOOL " --version >/dev/full", 2, "", full);
        RUN(TOOL " convert broken >/dev/full", 2, "",
            text("broken: byte %lu: %s\n%s", 32ul + strlen(MESSAGE_1), why(MSC4203_E_SYNTAX),
                 full));
    }
    RUN(TOOL " convert two >&-", 2, "", "standard output: Bad file descriptor\n");
    /* What can't be said does not change the rest. */
    RUN(TOOL " convert broken 2>&-", 1, TO_DEVICE(MESSAGE_1), "");
}

static void test_usage(void)
{
    static const char *const options[] = {"--from",   "--to ",        "--shape",      "--each",
                                          "--lines",  "--stable",     "--chunk",      "--scratch",
                                          "--sender", "--type",       "--message-id", "--user",
                                          "--device", "--next-batch", "[--parked | --each] FILE"};
    size_t i;

    run(TOOL " --help");
    CHECK(got.status == 0 && got.err_bytes == 0);
    CHECK(strstr(got.out, "usage: msc4203 convert [--from SHAPE]") == got.out);
    CHECK(strstr(got.out, "--next-batch TOKEN") && strstr(got.out, "Exit status"));
    CHECK(strstr(got.out, " log     [--parked | --each] FILE\n"));
    run(TOOL " convert --help --from send nowhere");
    CHECK(got.status == 0 && got.err_bytes == 0 && strstr(got.out, "Exit status"));
    run(TOOL " check --help");
    CHECK(got.status == 0 && got.err_bytes == 0 && strstr(got.out, "Exit status"));
    run(TOOL " log --help");
    CHECK(got.status == 0 && got.err_bytes == 0 && strstr(got.out, "Exit status"));
    run(TOOL " -h");
    CHECK(got.status == 0 && got.err_bytes == 0 && strstr(got.out, "Exit status"));
    run(TOOL " convert -h");
    CHECK(got.status == 0 && got.err_bytes == 0 && strstr(got.out, "Exit status"));
    for (i = 0; i < sizeof options / sizeof options[0]; i++)
        CHECK_CASE(strstr(got.out, options[i]), options[i]);
    T("convert --from=send --sender=@a:x --type=t --to=transaction send", 0, TO_DEVICE(MESSAGE_1),
      "");
    T("convert --from=send --sender=@a=:x --type= send", 0,
      TO_DEVICE(MESSAGE("@a=:x", "", "@u:x", "D", "{\"n\": 1}")), "");
    WRONG("convert --from= send", ": not a shape: transaction, send, edu or sync");
    WRONG("convert --each=1 send", "--each=1: it takes no value");
    WRONG("convert --shape send send", "--shape: no such option");
    WRONG("check --shape json", "json: not a shape: transaction, send, edu or sync");
    WRONG("check --from send", "--from: no such option");
    RUN(TOOL " --version", 0, "msc4203 " MSC4203_VERSION "\n", "");
    WRONG("", "nothing to do: convert, check or log");
    WRONG("look", "look: convert, check or log");
    WRONG("--lines", "--lines: convert, check or log");
    WRONG("convert --line two", "--line: no such option");
    WRONG("convert -x two", "-x: no such option");
    WRONG("convert two --from", "--from: a value is missing");
    WRONG("convert --chunk", "--chunk: a value is missing");
    WRONG("convert --to json two", "json: not a shape: transaction, send, edu or sync");
    WRONG("convert --from '' two", ": not a shape: transaction, send, edu or sync");
    WRONG("convert --chunk 0 two", "0: not a number of bytes");
    WRONG("convert --chunk -1 two", "-1: not a number of bytes");
    WRONG("convert --chunk 1k two", "1k: not a number of bytes");
    WRONG("check --chunk '' good", ": not a number of bytes");
    WRONG("convert --scratch x two", "x: not a number of bytes");
    WRONG("convert --scratch 4294967296 two", "4294967296: not a number of bytes");
    WRONG("convert --scratch 99999999999999999999 two",
          "99999999999999999999: not a number of bytes");
    WRONG("convert --from send two", "--from send: it needs --sender and --type");
    WRONG("convert --from send --sender x two", "--from send: it needs --sender and --type");
    WRONG("convert --from send --type x two", "--from send: it needs --sender and --type");
    WRONG("convert --from sync two", "--from sync: it needs --user and --device");
    WRONG("convert --from sync --user x two", "--from sync: it needs --user and --device");
    WRONG("convert --from sync --device x two", "--from sync: it needs --user and --device");
    WRONG("convert --to edu two", "--to edu: it needs --message-id");
    WRONG("convert --to edu " FROM_SYNC "--next-batch x", "--to edu: it needs --message-id");
    WRONG("convert --to sync two", "--to sync: it needs --next-batch");
    WRONG("convert --to sync --from edu --message-id x", "--to sync: it needs --next-batch");
    WRONG("convert --to sync --next-batch N --user x two",
          "--to sync: --user and --device belong together");
    WRONG("convert --from send --type t --sender \"$(printf '\\303(')\" two",
          "--sender: not valid UTF-8");
    WRONG("check --lines two", "--lines: no such option");
    WRONG("check --scratch 5 two", "--scratch: no such option");
    WRONG("check --parked two", "--parked: no such option");
    WRONG("convert --parked two", "--parked: no such option");
    WRONG("log --lines two", "--lines: no such option");
    WRONG("log", "log: it needs one FILE");
    WRONG("log --each", "log: it needs one FILE");
    WRONG("log two two", "log: it needs one FILE");
    WRONG("log --each --parked two", "--parked: not together with --each");
    /* Any text will do for an id, and the last one given counts. */
    T("convert --from send --sender x --sender '' --type '\"\t' --each send", 0,
      TO_DEVICE(MESSAGE("", "\\\"\\t", "@u:x", "D", "{\"n\": 1}")), "");
}

/* ----------------------------------------------------------------------------------------------
 * Logs
 * ---------------------------------------------------------------------------------------------- */

enum { REGION = 256 * 1024, FULL = 40 /* messages of about 1 KB in it, committed by fours */ };

#define COLUMNS   "NUMBER\tTIME\tWAITS FOR\tUSER\tDEVICE\tSENDER\tTYPE\tBYTES\tSTATE\n"
#define SYNC_ONLY (1u << MSC4203_CHANNEL_SYNC)

static struct {
    msc4203_file file;
    msc4203_storage storage;
    msc4203_log log;
    msc4203_queue queue;
    void *memory;
    uint32_t batch;
    uint64_t first; /* message's number */
} made;

/* Makes a log file and opens it. */
static void log_make(const char *name)
{
    msc4203_log_config config;
    size_t bytes;

    memset(&config, 0, sizeof config);
    config.message_bytes = 8000;
    CHECK(msc4203_file_create(&made.file, name, REGION, &config, 42) == MSC4203_OK);
    CHECK(msc4203_file_open(&made.file, name, 1, &made.storage) == MSC4203_OK);
    CHECK(msc4203_log_inspect(&made.log, &made.storage, &config) == MSC4203_OK);
    bytes = msc4203_log_memory(&made.log, &made.storage, &config);
    free(made.memory);
    made.memory = malloc(bytes);
    CHECK(msc4203_log_open(&made.log, &made.storage, made.memory, bytes, 43) == MSC4203_OK);
    msc4203_log_queue(&made.log, &made.queue);
    CHECK(made.queue.begin(made.queue.context, &made.batch) == MSC4203_OK);
}

static msc4203_span span_of(const char *string)
{
    msc4203_span span;

    span.ptr = string;
    span.len = strlen(string);
    return span;
}

static uint32_t log_channel(const char *name)
{
    msc4203_span span = span_of(name);
    uint32_t channel = 0;

    CHECK(made.queue.channel(made.queue.context, &span, 1, &channel) == MSC4203_OK);
    return 1u << channel;
}

static void log_item(uint64_t time, uint32_t channels, const msc4203_item *item)
{
    msc4203_message message;

    memset(&message, 0, sizeof message);
    message.time_ms = time;
    message.channels = channels;
    message.item = *item;
    CHECK(made.queue.push(made.queue.context, made.batch, &message) == MSC4203_OK);
}

static void log_push(uint64_t time, uint32_t channels, const char *user, const char *device,
                     const char *content)
{
    msc4203_item item;

    memset(&item, 0, sizeof item);
    item.kind = MSC4203_TO_DEVICE;
    item.sender = span_of("@a:x");
    item.type = span_of("t");
    item.user_id = span_of(user);
    item.device_id = span_of(device);
    item.content = span_of(content);
    log_item(time, channels, &item);
}

/* Makes all of it durable. */
static void log_flush(void)
{
    msc4203_request request;

    memset(&request, 0, sizeof request);
    CHECK(made.queue.commit(made.queue.context, made.batch, &request, &made.first) == MSC4203_OK);
    CHECK(made.queue.flush(made.queue.context) == MSC4203_OK);
}

static void log_end(void)
{
    CHECK(msc4203_file_close(&made.file) == MSC4203_OK);
}

static const char *usage_line(void)
{
    msc4203_log_usage usage;

    msc4203_log_usage_get(&made.log, &usage);
    return text("%lu messages, %lu of %lu bytes used, 0 damaged\n", (unsigned long)usage.messages,
                (unsigned long)usage.used, (unsigned long)usage.capacity);
}

/* Pushes the messages of the transactions in a file, one a line, into the log that is open. */
static void log_push_lines(const char *name, uint32_t channels)
{
    size_t bytes;
    char *lines = test_read(name, &bytes), *line = lines, *end;

    for (; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        msc4203_reader reader;
        const msc4203_item *item;

        CHECK(msc4203_reader_init(&reader, MSC4203_TRANSACTION, MSC4203_TO_DEVICE, NULL, 0) ==
              MSC4203_OK);
        CHECK(msc4203_reader_feed(&reader, line, (size_t)(end - line), 1) == MSC4203_OK);
        if (!CHECK(msc4203_reader_next(&reader, &item) == MSC4203_ITEM))
            continue;
        CHECK(item->error == MSC4203_OK);
        log_item(5, channels, item);
        CHECK(msc4203_reader_next(&reader, &item) == MSC4203_END);
    }
    free(lines);
}

static void test_log(void)
{
    static const char each[] =
        TO_DEVICE(MESSAGE_1) TO_DEVICE(MESSAGE("@a:x", "t", "@v:x", "E", "{}"))
            TO_DEVICE(MESSAGE("@a:x", "t", "@u:x", "D", "{}"))
                TO_DEVICE(MESSAGE("@a:x", "t", "@w:x", "", "{\"a\"  : [ ]}"))
                    TO_DEVICE(MESSAGE("@a:x", "t", "@u:x", "F", "{}"))
                        TO_DEVICE(MESSAGE("@a:x", "t", "@u:x", "D", "{\"parked\":1}"));
    uint32_t irc, signal;
    unsigned long n;
    uint64_t moved = 0;
    msc4203_span record = span_of("a record");
    const char *usage;

    log_make("empty.log");
    usage = usage_line();
    log_end();
    RUN(TOOL " log empty.log", 0, text(COLUMNS "%s", usage), "");
    RUN(TOOL " log --parked empty.log", 0, text(COLUMNS "%s", usage), "");
    RUN(TOOL " log --each empty.log", 0, "", "");

    log_make("one.log");
    irc = log_channel("irc");
    signal = log_channel("signal,\t\x1b[31m");
    log_push(UINT64_C(1700000000123), irc, "@u:x", "D", "{\"n\": 1}");
    log_push(UINT64_C(951782400000), irc | signal | SYNC_ONLY, "@v:x", "E", "{}");
    log_push(1, SYNC_ONLY, "@u:x", "D", "{}");
    log_push(UINT64_C(4107542399999), irc, "@w:x", "", "{\"a\"\n\r: [\n]}");
    log_push(UINT64_C(253402300799999), signal, "@u:x", "F", "{}");
    log_push(UINT64_C(1709164800000), irc, "@u:x", "D", "{\"parked\":1}");
    log_push(1000, irc, "@gone:x", "D", "{}");
    log_flush();
    n = (unsigned long)made.first;
    CHECK(made.queue.move(made.queue.context, MSC4203_CHANNEL_FIRST, NULL, n + 5,
                          1u << MSC4203_CHANNEL_PARKED, &moved) == MSC4203_OK);
    CHECK(moved == n + 7);
    CHECK(made.queue.move(made.queue.context, MSC4203_CHANNEL_FIRST, NULL, n + 6, 0, NULL) ==
          MSC4203_OK);
    CHECK(made.queue.hold(made.queue.context, MSC4203_CHANNEL_FIRST, n, &record) == MSC4203_OK);
    CHECK(made.queue.flush(made.queue.context) == MSC4203_OK);
    usage = usage_line();
    RUN("cp one.log copy.log; " TOOL " log one.log", 0,
        text(COLUMNS
             "%lu\t2023-11-14T22:13:20.123Z\tirc\t@u:x\tD\t@a:x\tt\t8\tok\n"
             "%lu\t2000-02-29T00:00:00.000Z\t/sync,irc,signal,\\x09\\x1b[31m\t@v:x\tE\t@a:x"
             "\tt\t2\tok\n"
             "%lu\t1970-01-01T00:00:00.001Z\t/sync\t@u:x\tD\t@a:x\tt\t2\tok\n"
             "%lu\t2100-02-28T23:59:59.999Z\tirc\t@w:x\t\t@a:x\tt\t12\tok\n"
             "%lu\t9999-12-31T23:59:59.999Z\tsignal,\\x09\\x1b[31m\t@u:x\tF\t@a:x\tt\t2\tok\n"
             "%lu\t2024-02-29T00:00:00.000Z\tparked\t@u:x\tD\t@a:x\tt\t12\tok\n%s",
             n, n + 1, n + 2, n + 3, n + 4, n + 7, usage),
        "");
    RUN(TOOL " log --parked one.log", 0,
        text(COLUMNS "%lu\t2024-02-29T00:00:00.000Z\tparked\t@u:x\tD\t@a:x\tt\t12\tok\n%s", n + 7,
             usage),
        "");
    RUN(TOOL " log one.log --each", 0, each, ""); /* while another process has it open */
    RUN(TOOL " log --each -- ./one.log", 0, each, "");
    log_end();
    RUN(TOOL " log --each one.log", 0, each, "");
    RUN("chmod 400 one.log; cmp one.log copy.log", 0, "", ""); /* nothing in it has changed */
    /* From one log into another, and into a transaction. */
    RUN(TOOL " log --each one.log >each; " TOOL " convert --lines each", 0,
        TO_DEVICE(MESSAGE_1 "," MESSAGE("@a:x", "t", "@v:x", "E", "{}") "," MESSAGE(
            "@a:x", "t", "@u:x", "D",
            "{}") "," MESSAGE("@a:x", "t", "@w:x", "",
                              "{\"a\"  : [ ]}") "," MESSAGE("@a:x", "t", "@u:x", "F",
                                                            "{}") "," MESSAGE("@a:x", "t", "@u:x",
                                                                              "D",
                                                                              "{\"parked\":1}")),
        "");
    log_make("two.log");
    log_push_lines("each", log_channel("irc"));
    log_flush();
    log_end();
    RUN(TOOL " log --each two.log", 0, each, "");
}

/* Strings that would end a column, and contents that no transaction can have. */
static void test_log_strings(void)
{
    const char *usage;
    unsigned long n;

    log_make("strings.log");
    log_push(1, SYNC_ONLY, "@\"u\\\xc2\x85:\xc3\xa9\x7f", "a\nb", "{}");
    log_push(1, SYNC_ONLY, "@u:x", "D", "{\"n\":1e999}");
    log_push(1, SYNC_ONLY, "@u:x", "D", "[");
    log_push(1, SYNC_ONLY, "@u:x", "D", "{\"n\": 1}");
    log_flush();
    n = (unsigned long)made.first;
    usage = usage_line();
    log_end();
    RUN(TOOL " log strings.log", 0,
        text(COLUMNS
             "%lu\t1970-01-01T00:00:00.001Z\t/sync\t@\"u\\x5c\xc2\\x85:\xc3\xa9\\x7f\ta\\x0ab\t@a:x"
             "\tt\t2\tok\n"
             "%lu\t1970-01-01T00:00:00.001Z\t/sync\t@u:x\tD\t@a:x\tt\t11\tok\n"
             "%lu\t1970-01-01T00:00:00.001Z\t/sync\t@u:x\tD\t@a:x\tt\t1\tok\n"
             "%lu\t1970-01-01T00:00:00.001Z\t/sync\t@u:x\tD\t@a:x\tt\t8\tok\n%s",
             n, n + 1, n + 2, n + 3, usage),
        "");
    run(TOOL " log --each strings.log");
    CHECK(got.status == 1);
    CHECK(is(got.out, got.out_bytes,
             TO_DEVICE(MESSAGE("@a:x", "t", "@\\\"u\\\\\xc2\x85:\xc3\xa9\x7f", "a\\nb", "{}"))
                 TO_DEVICE(MESSAGE_1)));
    CHECK(strstr(got.err, text(": message %lu: %s\n", n + 1, why(MSC4203_E_NUMBER))) != NULL);
    CHECK(strstr(got.err, text(": message %lu: %s\n", n + 2, why(MSC4203_E_FIELD_TYPE))) != NULL);
}

/* What is in full.log: message n is for @user<n>:x, with 1,000 bytes that say its number. */
static const char *full_content(unsigned n)
{
    return text("{\"n\":%u,\"x\":\"%0900u\"}", n, n);
}

static const char *full_line(unsigned n)
{
    return text("{\"de.sorunome.msc2409.to_device\":[{\"content\":%s,\"sender\":\"@a:x\","
                "\"to_device_id\":\"D\",\"to_user_id\":\"@user%u:x\",\"type\":\"t\"}],"
                "\"events\":[]}\n",
                full_content(n), n);
}

/* Four are flushed together, so that what comes later says of each that it was durable. */
static void full_make(void)
{
    uint64_t first = 0;
    unsigned n;

    log_make("full.log");
    for (n = 1; n <= FULL; n++) {
        log_push(n, SYNC_ONLY, text("@user%u:x", n), "D", full_content(n));
        if (n % 4 != 0)
            continue;
        log_flush();
        first = n == 4 ? made.first : first;
        CHECK(made.first == first + n - 4);
        CHECK(made.queue.begin(made.queue.context, &made.batch) == MSC4203_OK);
    }
    (void)log_channel("irc");
    CHECK(made.queue.flush(made.queue.context) == MSC4203_OK);
    made.first = first;
    log_end();
}

/* Rescues what is in changed.log, and expects all of full.log's messages but at most `lost`, whole
 * and in order. When some are missing, or `says` is set, it must be said. */
static void rescued(int line, const char *what, unsigned lost, int says)
{
    unsigned n, came = 0;
    char *at;

    run(TOOL " log --each changed.log");
    at = got.out;
    for (n = 1; n <= FULL; n++) {
        const char *expected = full_line(n);
        if (strncmp(at, expected, strlen(expected)) != 0)
            continue;
        at += strlen(expected);
        came++;
    }
    says |= came < FULL;
    test_check(*at == 0, __FILE__, line, "nothing else", what);
    test_check(came + lost >= FULL, __FILE__, line, "not too few", what);
    test_check(got.status == 1 ? got.err_bytes != 0 : got.status == 0 && !says, __FILE__, line,
               "it is said", what);
    /* The lines agree, and can be used. */
    put_bytes("each", got.out, got.out_bytes);
    RUN(TOOL " convert --lines each >joined", 0, "", "");
    run(TOOL " log changed.log");
    test_check(got.status == 1 || (got.status == 0 && !says), __FILE__, line, "status", what);
    for (n = 0, at = got.out; (at = strstr(at, "\tok\n")) != NULL; at++)
        n++;
    test_check(n == came, __FILE__, line, "lines with ok", what);
    test_check(strncmp(got.out, COLUMNS, strlen(COLUMNS)) == 0, __FILE__, line, "columns", what);
}
#define RESCUED(what, lost, says) rescued(__LINE__, what, lost, says)

/* Where the content of a message is in the region. */
static size_t full_place(const char *data, unsigned n)
{
    const char *content = full_content(n);
    size_t i, length = strlen(content);

    for (i = 0; i + length <= REGION && memcmp(data + i, content, length) != 0; i++)
        ;
    CHECK(i + length <= REGION);
    return i;
}

/* How many messages there are in the batches of which a part is between two places. A message has
 * fewer than 100 bytes before its content; a batch, behind its last message, what commits it. */
static unsigned full_between(const char *data, size_t from, size_t to)
{
    unsigned n, messages = 0;

    for (n = 1; n <= FULL; n += 4)
        if (full_place(data, n) < to + 100 && full_place(data, n + 3) + 1000 + 100 > from)
            messages += 4;
    return messages;
}

static void test_log_damage(void)
{
    size_t bytes, i, k, at, share = test_share();
    unsigned long number;
    unsigned lost;
    char *data, *changed, *end, what[40];

    full_make();
    data = test_read("full.log", &bytes);
    changed = (char *)malloc(bytes);
    if (!CHECK(bytes == REGION && changed != NULL))
        return;
    /* A byte of one message, which costs that one. */
    at = full_place(data, 17);
    number = (unsigned long)made.first + 16;
    for (k = 0; k < 900; k += 99 * share) {
        memcpy(changed, data, bytes);
        changed[at + k] = (char)(changed[at + k] ^ 4);
        put_bytes("changed.log", changed, bytes);
        RESCUED("a byte", 1, 1);
        CHECK(strstr(got.out, text("\n%lu\t", number)) && strstr(got.out, "\tdamaged\n"));
        end = strstr(got.out, " bytes used, ");
        CHECK(end && strcmp(end, " bytes used, 1 damaged\n") == 0);
        CHECK(strcmp(got.err, "changed.log: 1 damaged\n") == 0);
        run(TOOL " log --parked changed.log");
        CHECK(got.status == 1 && strstr(got.out, text("\n%lu\t", number)) == NULL);
        run(TOOL " log --each changed.log");
        CHECK(strstr(got.err, text(": message %lu: ", number)) != NULL);
        CHECK(strstr(got.err, "changed.log: 1 damaged\n") != NULL);
    }
    /* Each sector in turn, which costs no more than the batches of which it has a part: also the
     * first one of the file, or of a segment. */
    for (k = 0; k < REGION; k += 4096 * share)
        for (i = 0; i < 2; i++) {
            lost = full_between(data, k, k + 4096);
            memcpy(changed, data, bytes);
            memset(changed + k, i == 0 ? 0 : 0xFF, 4096);
            put_bytes("changed.log", changed, bytes);
            sprintf(what, "sector %lu", (unsigned long)k / 4096);
            RESCUED(what, lost, 0);
        }
    free(changed);
    free(data);
}

/* A file that was cut, or has become longer. */
static void test_log_sizes(void)
{
    static const unsigned more[] = {1, 4096, 5000, REGION};
    size_t bytes, i;
    char *data = test_read("full.log", &bytes);
    char *longer = (char *)calloc(2, REGION);

    if (!CHECK(bytes == REGION && longer != NULL))
        return;
    memcpy(longer, data, bytes);
    for (i = 0; i < 4; i++) {
        memset(longer + REGION, i % 2 ? 0xFF : 0, REGION);
        put_bytes("changed.log", longer, REGION + more[i]);
        RESCUED("longer", 0, 1);
        CHECK(strcmp(got.err, text("changed.log: it has %u bytes, the log in it %u\n",
                                   REGION + more[i], (unsigned)REGION)) == 0);
    }
    for (bytes = REGION - 1; bytes > 8192; bytes -= bytes / 9) {
        put_bytes("changed.log", data, bytes);
        RESCUED("shorter", full_between(data, bytes, REGION), 1);
    }
    free(data);
    free(longer);
}

/* What is not a log, or can't be read or written. */
static void test_log_refused(void)
{
    size_t bytes;
    char *data = test_read("full.log", &bytes);

    put("none", "");
    RUN(TOOL " log nowhere", 2, "", "nowhere: No such file or directory\n");
    RUN(TOOL " log --each nowhere", 2, "", "nowhere: No such file or directory\n");
    RUN(TOOL " log none", 2, "", text("none: %s\n", why(MSC4203_E_FORMAT)));
    RUN(TOOL " log stable", 2, "", text("stable: %s\n", why(MSC4203_E_FORMAT)));
    RUN(TOOL " log --each ../../msc4203", 2, "",
        text("../../msc4203: %s\n", why(MSC4203_E_FORMAT)));
    put_bytes("changed.log", data, 100); /* less than says what log it was */
    run(TOOL " log changed.log");
    CHECK(got.status == 1 || got.status == 2);
    run(TOOL " log .");
    CHECK(got.status == 2 && got.out_bytes == 0 && strncmp(got.err, ".: ", 3) == 0);
    if (access("/dev/full", W_OK) == 0) {
        const char *full = "standard output: No space left on device\n";
        RUN(TOOL " log full.log >/dev/full", 2, "", full);
        RUN(TOOL " log --each full.log >/dev/full", 2, "", full);
    }
    free(data);
    free(made.memory);
}

/* ----------------------------------------------------------------------------------------------
 * Any bodies, cut in any way
 * ---------------------------------------------------------------------------------------------- */

/* Runs the tool on the whole, and expects the same of every chunk size. */
static void same_cut(int line, const char *arguments)
{
    static const unsigned sizes[] = {1, 2, 3, 7, 64};
    char options[512], *out, *err;
    size_t out_bytes, err_bytes, i;
    int status;

    snprintf(options, sizeof options, "%s", arguments);
    arguments = options; /* text() makes texts for a short while only */
    run(text(TOOL " convert %s", arguments));
    out = got.out, err = got.err, out_bytes = got.out_bytes, err_bytes = got.err_bytes;
    status = got.status;
    got.out = got.err = NULL;
    test_check(status == 0 || status == 1 || status == 3, __FILE__, line, "status", arguments);
    for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const char *what = text("--chunk %u %s", sizes[i], arguments);
        run(text(TOOL " convert %s", what));
        test_check(got.status == status, __FILE__, line, "the same status", what);
        test_check(got.out_bytes == out_bytes && memcmp(got.out, out, out_bytes) == 0, __FILE__,
                   line, "the same output", what);
        if (!test_check(got.err_bytes == err_bytes && memcmp(got.err, err, err_bytes) == 0,
                        __FILE__, line, "the same messages", what) &&
            test_failed < 10) {
            size_t at = 0, from = 0;
            while (at < err_bytes && at < got.err_bytes && got.err[at] == err[at])
                if (err[at++] == '\n')
                    from = at;
            printf("--- it says\n%.200s\n--- not\n%.200s\n", got.err + from, err + from);
        }
    }
    free(out);
    free(err);
}
#define SAME(arguments) same_cut(__LINE__, arguments)

static void test_captured(void)
{
    SAME("--each " DATA "/transactions/*.json");
    SAME("--scratch 100 " DATA "/transactions/0*.json");
    SAME("--each " FROM_SEND DATA "/requests/*.req");
    SAME("--each --to edu --message-id M --scratch 30 " FROM_SEND DATA "/requests/0[0-5]*.req");
    SAME("--each " FROM_SYNC DATA "/sync/*.json");
    SAME("--to sync " FROM_SYNC DATA "/sync/*.json");
    /* A transaction's items, one by one and together again. */
    RUN(TOOL " convert --each --stable " DATA "/transactions/*.json 2>/dev/null >each\n" TOOL
             " convert --lines each >joined 2>/dev/null\n" TOOL " convert " DATA
             "/transactions/*.json 2>/dev/null | cmp - joined",
        0, "", "");
    /* A request, by way of every shape. */
    RUN(TOOL " convert " FROM_SEND DATA "/requests/005-unicode.req | " TOOL
             " convert --to edu --message-id M | " TOOL " convert --from edu --each | " TOOL
             " convert --lines --to sync --next-batch N --user @_bridge_1:gw.example "
             "--device BR1DEVA | " TOOL " convert --from sync --user @_bridge_1:gw.example "
             "--device BR1DEVA --to send | tr -d ' \\n' >there\n"
             "tr -d ' \\n' <" DATA "/requests/005-unicode.req | cmp - there",
        0, "", "");
}

/* Changes a body here and there; a line break becomes a blank. */
static size_t mutate(char *to, size_t room, const char *from)
{
    static const char *const bits[] = {"\"",    "\\", "{",      "}",    "[",        "]",
                                       ",",     ":",  "5",      "null", "\\ud800",  "\\u0040",
                                       "1e999", "{}", "\"a\":", " ",    "\xc3\xa9", "\xff",
                                       "\"\"",  "[]", "-"};
    size_t n = strlen(from), changes = test_below(4);

    memcpy(to, from, n);
    while (changes--) {
        size_t at = test_below(n), cut = test_below(4) ? test_below(3) : test_below(40), add = 0;
        const char *bit = bits[test_below(sizeof bits / sizeof bits[0])];
        char copy[64];
        if (cut > n - at)
            cut = n - at;
        if (test_below(3)) {
            add = strlen(bit);
            memcpy(copy, bit, add);
        } else if (test_below(3) == 0) { /* a piece from elsewhere */
            size_t piece = test_below(n);
            add = n - piece < sizeof copy ? n - piece : sizeof copy;
            memcpy(copy, to + piece, add);
        }
        if (n - cut + add > room)
            continue;
        memmove(to + at + add, to + at + cut, n - at - cut);
        memcpy(to + at, copy, add);
        n += add - cut;
    }
    if (n && test_below(8) == 0)
        n = test_below(n);
    return n;
}

static void test_mutants(void)
{
    static const char *const seeds[4][4] = {
        {STABLE, UNSTABLE, "{\"to_device\":[" MESSAGE_1 "," MESSAGE_2 "],\"events\":[{\"a\":1}]}",
         "{\"to_device\":[{\"type\":\"\\u0074\",\"content\":{\"m\":[1e308,\"x\\n\"]},\"sender\":"
         "\"@a:x\",\"to_device_id\":\"\",\"to_user_id\":\"@u:\xc3\xa9\"}],\"device_lists\":{}}"},
        {SEND, "{\"messages\":{\"@u:x\":{\"D\":{\"n\":\"\\\"\"},\"E\":{}},\"@v:x\":{\"*\":{}}}}",
         "{\"other\":[1,2],\"messages\":{}}",
         "{\"messages\":{\"@u:x\":{},\"\\u0040v\":{\"D\":{}}}}"},
        {EDU("M"),
         "{\"messages\":{\"@u:x\":{\"D\":{\"n\": 1}}},\"message_id\":\"M\",\"type\":\"t\","
         "\"sender\":\"@a:x\"}",
         "{\"type\":\"t\",\"messages\":{\"@u:x\":{\"D\":{},\"E\":{}}},\"sender\":\"\\u0040a:x\"}",
         "{\"sender\":\"@a:x\",\"messages\":{\"@u:x\":{\"D\":{}}},\"message_id\":\"\\u004d\"}"},
        {SYNC("N"),
         "{\"to_device\":{\"events\":[{\"sender\":\"@a:x\",\"type\":\"t\",\"content\":{}},"
         "{\"content\":{\"a\":\"\\u0041\"},\"type\":\"\",\"sender\":\"@\\u0062\"}]}}",
         "{\"next_batch\":\"N\",\"device_lists\":{\"changed\":[5]},\"to_device\":{\"events\":[]}}",
         "{\"next_batch\":\"\\u004e\",\"to_device\":{}}"}};
    static const char *const from[] = {"", FROM_SEND, "--from edu ", FROM_SYNC};
    static const char *const scratch[] = {"", "--scratch 17 ",
                                          "--scratch 5 --to edu --message-id I "};
    size_t lines = 300 * test_scale(), i, k, n;
    char to[4096];

    for (i = 0; i < 4; i++) {
        FILE *file = fopen(text("mutants%d", (int)i), "wb");
        if (!file)
            exit(2);
        for (k = 0; k < lines; k++) {
            char *p = to;
            n = mutate(to, sizeof to, seeds[i][k % 4]);
            while ((p = (char *)memchr(p, '\n', n - (size_t)(p - to))) != NULL)
                *p = ' ';
            if (fwrite(to, 1, n, file) != n || fputc('\n', file) == EOF)
                exit(2);
        }
        if (fclose(file) != 0)
            exit(2);
        for (k = 0; k < 3; k++)
            SAME(text("--lines --each %s%smutants%d", from[i], scratch[k], (int)i));
        SAME(text("--lines %smutants%d", from[i], (int)i));
    }
}

/* ----------------------------------------------------------------------------------------------
 * The demo, and the sources
 * ---------------------------------------------------------------------------------------------- */

static void test_demo(void)
{
    run("../../bodies " DATA);
    CHECK(got.status == 0 && got.err_bytes == 0);
    CHECK(strstr(got.out, "All of this was checked") != NULL);
    run("../../bodies nowhere");
    CHECK(got.status == 2);
    /* It notices when something is not as it says: one captured file is replaced by another. */
    run("rm -rf changed; mkdir changed; cp -R " DATA "/. changed\n"
        "cp changed/transactions/016-td-inclusive.json "
        "changed/transactions/015-td-multi-user.json\n"
        "../../bodies changed");
    CHECK(got.status == 1 && strstr(got.out, "NOT SO: there are five messages"));
    run("cp -R " DATA "/. changed\n"
        "cp changed/requests/001-single.req changed/requests/063-bad-trailing-comma.req\n"
        "../../bodies changed");
    CHECK(got.status == 1 && strstr(got.out, "NOT SO: the body is refused"));
}

static void test_source(void)
{
    static const char *const heap[] = {"malloc", "calloc", "realloc", "alloca(",
                                       "free(",  "strdup", "stdio.h"};
    static const char *const files[] = {"../../../example/msc4203.c",
                                        "../../../example/log_print.h"};
    size_t bytes, i, k;

    for (k = 0; k < 2; k++) {
        char *source = test_read(files[k], &bytes);
        for (i = 0; i < sizeof heap / sizeof heap[0]; i++)
            CHECK_CASE(!strstr(source, heap[i]), heap[i]);
        free(source);
    }
}

int main(void)
{
    char folder[64];
    int failed;

    test_seed(0x7001);
    /* A folder of its own, so that two runs at a time do not disturb each other. */
    snprintf(folder, sizeof folder, "build/test/tool.%ld", (long)getpid());
    if (system(text("mkdir -p %s", folder)) != 0 || chdir(folder) != 0)
        return 2;
    setenv("LC_ALL", "C", 1);
    put("skipped", "a line\n{}");
    test_keys();
    test_grouping();
    test_lines();
    test_shapes();
    test_ids();
    test_other_shapes();
    test_lists_twice();
    test_left_out();
    test_filter();
    test_items();
    test_edu();
    test_bodies();
    test_scratch();
    test_depth();
    test_texts();
    test_check_shape();
    test_files();
    test_pipes();
    test_output();
    test_usage();
    test_log();
    test_log_strings();
    test_log_damage();
    test_log_sizes();
    test_log_refused();
    test_captured();
    test_mutants();
    test_demo();
    test_source();
    free(got.out);
    free(got.err);
    failed = test_end("tool");
    if (failed)
        printf("tool: the files are in %s\n", folder);
    else if (chdir("../../..") != 0 || system(text("rm -rf %s", folder)) != 0)
        return 2;
    return failed;
}
