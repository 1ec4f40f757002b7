/* test_random.c - bodies made at random: JSON of the right keys with much in the wrong place, and
 * bodies written by hand with pieces changed. Nothing is known of what they hold; but however they
 * are cut, with whatever scratch and whichever kinds are asked for, it is the same. */
#include "bodies.h"
#include "reading.h"

/* ------------------------------------------------------------------------------------------------
 * Bodies of the right keys
 * ------------------------------------------------------------------------------------------------
 */

#define COUNT(array) (sizeof(array) / sizeof *(array))

static struct items_text out;

static void put(const char *text)
{
    items_put(&out, text, strlen(text));
}

static void put_space(void)
{
    static const char *const spaces[] = {" ", "\n", "\t ", "\r\n  "};
    if (!test_below(12))
        put(spaces[test_below(4)]);
}

/* A string, now and then with a character as an escape. */
static void put_string(const char *text)
{
    size_t odd = test_below(6) ? (size_t)-1 : test_below(strlen(text) + 1), i;
    put("\"");
    for (i = 0; text[i]; i++)
        if (i == odd && (unsigned char)text[i] < 0x80)
            items_printf(&out, "\\u%04x", (unsigned)text[i]);
        else
            items_put(&out, text + i, 1);
    put("\"");
}

static void put_any_string(void)
{
    static const char *const raw[] = {
        "\"\\ud800\"",           "\"a\\udfffb\"",
        "\"\\u0000\"",           "\"\\ud83d\\ude00\"",
        "\"\\\"\\\\\\/\\n\"",    "\"\xc3\xa9\"",
        "\"\xf0\x9f\x98\x80x\"", "\"0123456789012345678901234567890123456789\""};
    static const char *const plain[] = {"",  "a", "@u:x",    "@user:example.org",
                                        "D", "*", "m.dummy", "b"};
    if (test_below(5))
        put_string(plain[test_below(COUNT(plain))]);
    else
        put(raw[test_below(COUNT(raw))]);
}

static void put_any(int depth)
{
    static const char *const leaves[] = {"null",   "true",        "0",
                                         "-1.5e3", "1e400",       "{}",
                                         "[]",     "\"\\ud800\"", "123456789012345678901234567890"};
    static const char *const keys[] = {"sender",   "content",   "events", "a",
                                       "messages", "to_device", ""};
    size_t members = test_below(3), object = test_below(2);
    if (depth <= 0 || test_below(3)) {
        if (test_below(2))
            put(leaves[test_below(COUNT(leaves))]);
        else
            put_any_string();
        return;
    }
    put(object ? "{" : "[");
    for (; members; members--) {
        put_space();
        if (object) {
            put_string(keys[test_below(COUNT(keys))]);
            put_space();
            put(":");
        }
        put_any(depth - 1);
        put(members > 1 ? "," : "");
    }
    put_space();
    put(object ? "}" : "]");
}

static void put_object(int depth)
{
    size_t members = test_below(3);
    put("{");
    for (; members; members--) {
        put_any_string();
        put(":");
        put_any(depth);
        put(members > 1 ? "," : "");
    }
    put("}");
}

/* Most often what belongs there, else anything. */
static int proper(void)
{
    if (test_below(25))
        return 1;
    put_any(2);
    return 0;
}

static void put_message(void)
{
    static const char *const fields[] = {"sender", "type", "to_user_id", "to_device_id", "content"};
    size_t first = test_below(5), i, some = 0;
    put("{");
    for (i = 0; i < 6; i++) {
        size_t field = (first + (test_below(30) ? i : 0)) % 5; /* or the first one again */
        if (i == 5 && test_below(5))
            break;
        if (!test_below(40) && i < 5)
            continue;
        put(some++ ? "," : "");
        put_space();
        put_string(i < 5 ? fields[field] : "unknown");
        put_space();
        put(":");
        put_space();
        if (proper()) {
            if (i < 5 && field < 4)
                put_any_string();
            else
                put_object(3);
        }
    }
    put("}");
}

/* A list of strings, objects or messages. */
static void put_list(char kind)
{
    size_t elements = test_below(4);
    put("[");
    for (; elements; elements--) {
        put_space();
        if (proper()) {
            if (kind == 's')
                put_any_string();
            else if (kind == 'm')
                put_message();
            else
                put_object(3);
        }
        put_space();
        put(elements > 1 ? "," : "");
    }
    put("]");
}

/* {USER:{DEVICE:VALUE}} */
static void put_devices(char kind)
{
    size_t users = test_below(4), devices;
    put("{");
    for (; users; users--) {
        put_any_string();
        put_space();
        put(":");
        if (proper()) {
            put("{");
            for (devices = test_below(4); devices; devices--) {
                put_any_string();
                put(":");
                put_space();
                if (proper()) {
                    if (kind == 's')
                        put_list('s');
                    else
                        put_object(3);
                }
                put(devices > 1 ? "," : "");
            }
            put("}");
        }
        put(users > 1 ? "," : "");
    }
    put_space();
    put("}");
}

static void put_in_object(const char *key, char kind)
{
    put("{");
    if (!test_below(5))
        put("\"x\":[{}],");
    put_string(key);
    put(":");
    if (proper())
        put_list(kind);
    if (kind == 's' && test_below(2)) {
        put(",");
        put_string("left");
        put(":");
        put_list('s');
    }
    put("}");
}

/* The keys of each shape, with what belongs there: a list of (e)vents or (m)essages, (d)evices and
 * objects or (t)ypes, device (l)ists, a (s)tring, the events of a (r)esponse. Each also in the
 * others. */
static const struct {
    const char *key;
    char kind;
} keys[] = {
    {"events", 'e'},
    {"to_device", 'm'},
    {"de.sorunome.msc2409.to_device", 'm'},
    {"ephemeral", 'e'},
    {"de.sorunome.msc2409.ephemeral", 'e'},
    {"device_lists", 'l'},
    {"org.matrix.msc3202.device_lists", 'l'},
    {"device_one_time_keys_count", 'd'},
    {"org.matrix.msc3202.device_one_time_keys_count", 'd'},
    {"org.matrix.msc3202.device_one_time_key_counts", 'd'},
    {"device_unused_fallback_key_types", 't'},
    {"org.matrix.msc3202.device_unused_fallback_key_types", 't'},
    {"messages", 'd'},
    {"sender", 's'},
    {"type", 's'},
    {"message_id", 's'},
    {"messages", 'd'},
    {"to_device", 'r'},
    {"next_batch", 's'},
    {"unknown", 'e'},
};
static const size_t first_key[] = {0, 12, 13, 17, 0}, last_key[] = {11, 12, 16, 18, 19};

static void put_member(size_t which)
{
    static const char *const empty[] = {"null", "[]", "{}", "{\"changed\":[],\"left\":[]}"};
    put_string(keys[which].key);
    put_space();
    put(":");
    put_space();
    if (!proper())
        return;
    if (!test_below(10))
        put(empty[test_below(COUNT(empty))]);
    else if (keys[which].kind == 's')
        put_any_string();
    else if (keys[which].kind == 'l')
        put_in_object(test_below(4) ? "changed" : "left", 's');
    else if (keys[which].kind == 'r')
        put_in_object("events", 'm');
    else if (keys[which].kind == 'd' || keys[which].kind == 't')
        put_devices(keys[which].kind == 't' ? 's' : 'o');
    else
        put_list(keys[which].kind);
}

static void put_body(int shape)
{
    size_t span = last_key[shape] - first_key[shape] + 1, start = test_below(span), i;
    size_t members = shape == MSC4203_TRANSACTION ? test_below(6) : span + (test_below(8) == 0);
    out.bytes = 0;
    if (!test_below(100)) {
        put_any(4);
        return;
    }
    put_space();
    put("{");
    for (i = 0; i < members; i++) { /* from anywhere on, or (of a transaction) anything */
        size_t which = first_key[shape] + (start + i) % span;
        if (shape == MSC4203_TRANSACTION)
            which = first_key[shape] + test_below(span);
        put(i ? "," : "");
        put_space();
        put_member(test_below(12) ? which : test_below(COUNT(keys)));
        put_space();
    }
    put("}");
    put_space();
}

/* ------------------------------------------------------------------------------------------------
 * Whatever it holds
 * ------------------------------------------------------------------------------------------------
 */

static void check_body(int shape, const struct items_text *text)
{
    struct items_way way;
    struct subject subject;
    char *exact = (char *)malloc(text->bytes + !text->bytes);
    size_t i;
    memcpy(exact, text->text, text->bytes);
    subject_begin(&subject, text->text, shape, exact, text->bytes, NULL);
    check_syntax(&subject);
    memset(&way, 0, sizeof way);
    way.scratch_bytes = text->bytes + 64;
    for (way.chunk = 1; way.chunk < 4; way.chunk++)
        CHECK_CASE(same_reading(&subject, &way), text->text);
    check_random_cuts(&subject, 4);
    for (i = 0; i < 3; i++)
        CHECK_CASE(
            check_scratch(&subject, test_below(subject.end.need + 2), i ? 1 + test_below(40) : 1),
            text->text);
    for (i = 0; i < 2; i++)
        CHECK_CASE(
            check_kinds_way(&subject, (unsigned)test_below(512), test_below(3), text->bytes + 64),
            text->text);
    subject_end(&subject);
    free(exact);
}

/* ------------------------------------------------------------------------------------------------
 * Bodies that went wrong
 * ------------------------------------------------------------------------------------------------
 */

/* Changes a body here and there: most are no JSON any more, or hold bad items. */
static void mutate(struct items_text *body, const struct bodies_case *other)
{
    static const char bytes[] = "{}[]\",:\\u09-.eE \nnd\xc3\xa9\xed\xff";
    size_t count = 1 + test_below(3), at, length, from;
    struct items_text next = {NULL, 0, 0};
    for (; count; count--) {
        at = test_below(body->bytes + 1);
        length = test_below(test_below(4) ? 3 : 40);
        if (length > body->bytes - at)
            length = body->bytes - at;
        next.bytes = 0;
        items_put(&next, body->text, at);
        switch (test_below(4)) {
        case 0: /* another byte */
            items_put(&next, bytes + test_below(sizeof bytes - 1), 1);
            break;
        case 1: /* a piece of another body */
            from = test_below(other->bytes + 1);
            items_put(&next, other->body + from,
                      other->bytes - from < 30 ? other->bytes - from : 1 + test_below(30));
            break;
        case 2: /* a piece twice */
            items_put(&next, body->text + at, length);
            length = 0;
            break;
        default: /* a piece less */
            break;
        }
        items_put(&next, body->text + at + length, body->bytes - at - length);
        body->bytes = 0;
        items_put(body, next.text, next.bytes);
    }
    free(next.text);
}

int main(void)
{
    struct bodies_list list = bodies_load();
    unsigned long rounds = 40000 * test_scale() / test_share() + 1, i;
    test_seed(0x4203);
    for (i = 0; i < rounds; i++) {
        int shape = (int)test_below(4);
        put_body(shape);
        check_body(shape, &out);
    }
    for (i = 0; i < rounds; i++) {
        const struct bodies_case *one = &list.cases[test_below(list.count)];
        const struct bodies_case *other = &list.cases[test_below(list.count)];
        struct items_text body = {NULL, 0, 0};
        if (one->bytes > 1200 || other->bytes > 1200)
            continue;
        items_put(&body, one->body, one->bytes);
        mutate(&body, other);
        check_body(one->shape, &body);
        free(body.text);
    }
    free(out.text);
    bodies_free(&list);
    return test_end("random");
}
