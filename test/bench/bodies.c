/* bodies.c - makes the bodies of bodies.h. With BODIES_MAIN it is a program:
 *     bodies DIRECTORY [KIND BYTES]
 * writes all the bodies of the usual size, or one of another size, as DIRECTORY/NAME.json. */
#include "bodies.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

typedef struct text {
    char *data;
    size_t used, room;
    uint64_t random;
    size_t period; /* 0, or after how many elements of a list the random numbers begin anew */
} text;

static const uint64_t seed = 0x4203;

/* Random numbers: xorshift64*. From 0 to n - 1. */
static size_t below(text *t, size_t n)
{
    t->random ^= t->random >> 12;
    t->random ^= t->random << 25;
    t->random ^= t->random >> 27;
    return (size_t)(((t->random * UINT64_C(2685821657736338717)) >> 33) % n);
}

static void put_bytes(text *t, const char *bytes, size_t count)
{
    if (t->room - t->used < count) {
        t->room = 2 * t->room + count + 4096;
        t->data = (char *)realloc(t->data, t->room);
        if (!t->data)
            exit(2);
    }
    if (bytes)
        memcpy(t->data + t->used, bytes, count);
    t->used += count;
}

static void put(text *t, const char *string)
{
    put_bytes(t, string, strlen(string));
}

static void put_number(text *t, size_t number)
{
    char digits[24];
    put_bytes(t, digits, (size_t)snprintf(digits, sizeof digits, "%lu", (unsigned long)number));
}

static void put_random(text *t, const char *alphabet, size_t count)
{
    size_t letters = strlen(alphabet);
    for (; count; count--)
        put_bytes(t, alphabet + below(t, letters), 1);
}

static void put_base64(text *t, size_t count)
{
    put_random(t, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", count);
}

static void put_device(text *t)
{
    put_random(t, "ABCDEFGHIJKLMNOPQRSTUVWXYZ", 10);
}

static void put_user(text *t)
{
    static const char *const names[] = {"alice", "bob", "carol.ann", "d", "erin_1984", "mallory"};
    put(t, "@");
    put(t, names[below(t, COUNT(names))]);
    put_number(t, below(t, 1000));
    put(t, below(t, 3) ? ":example.org" : ":matrix.example.com");
}

static void put_ghost(text *t)
{
    static const char *const networks[] = {"irc", "telegram", "signal", "whatsapp"};
    put(t, "@_");
    put(t, networks[below(t, COUNT(networks))]);
    put(t, "_");
    put_random(t, "abcdefghijklmnopqrstuvwxyz0123456789", 3 + below(t, 9));
    put(t, ":example.org");
}

static void put_room(text *t)
{
    put(t, "!");
    put_random(t, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", 18);
    put(t, ":example.org");
}

static void put_time(text *t)
{
    put_number(t, 1700);
    put_random(t, "0123456789", 9);
}

/* What people write: one sentence, as it stands within a JSON string. */
static void put_sentence(text *t)
{
    static const char *const sentences[] = {
        "The quick brown fox jumps over the lazy dog.",
        "See https://example.org/a/long/path?with=query&and=more#fragment for the details.",
        "He said: \\\"it works\\\", and it did.",
        "Two lines\\nand a third\\n\\tindented by a tab",
        "C:\\\\Users\\\\alice\\\\Documents",
        "\\u001b[31mred\\u001b[0m and \\u0003 for colours",
        "Gr\xc3\xbc\xc3\x9f"
        "e aus M\xc3\xbcnchen, \xc3\xa7"
        "a va bien ?",
        "\xd0\x9f\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82, \xd0\xba\xd0\xb0\xd0\xba "
        "\xd0\xb4\xd0\xb5\xd0\xbb\xd0\xb0 \xd1\x83 \xd1\x82\xd0\xb5\xd0\xb1\xd1\x8f "
        "\xd1\x81\xd0\xb5\xd0\xb3\xd0\xbe\xd0\xb4\xd0\xbd\xd1\x8f?",
        "\xce\x9a\xce\xb1\xce\xbb\xce\xb7\xce\xbc\xce\xad\xcf\x81\xce\xb1 \xcf\x83\xce\xb1\xcf\x82",
        "\xe3\x81\x93\xe3\x82\x93\xe3\x81\xab\xe3\x81\xa1\xe3\x81\xaf\xe3\x80\x81"
        "\xe4\xb8\x96\xe7\x95\x8c\xe3\x80\x82\xe4\xbb\x8a\xe6\x97\xa5\xe3\x81\xaf"
        "\xe3\x81\x84\xe3\x81\x84\xe5\xa4\xa9\xe6\xb0\x97\xe3\x81\xa7\xe3\x81\x99"
        "\xe3\x81\xad\xe3\x80\x82",
        "\xe4\xbd\xa0\xe5\xa5\xbd\xef\xbc\x8c\xe4\xb8\x96\xe7\x95\x8c",
        "\xec\x95\x88\xeb\x85\x95\xed\x95\x98\xec\x84\xb8\xec\x9a\x94",
        "\xd9\x85\xd8\xb1\xd8\xad\xd8\xa8\xd8\xa7 \xd8\xa8\xd8\xa7\xd9\x84\xd8\xb9\xd8\xa7\xd9\x84"
        "\xd9\x85",
        "\xd7\xa9\xd7\x9c\xd7\x95\xd7\x9d \xd7\xa2\xd7\x95\xd7\x9c\xd7\x9d",
        "\xe0\xa4\xa8\xe0\xa4\xae\xe0\xa4\xb8\xe0\xa5\x8d\xe0\xa4\xa4\xe0\xa5\x87 \xe0\xa4\xa6\xe0"
        "\xa5\x81\xe0\xa4\xa8\xe0\xa4\xbf\xe0\xa4\xaf\xe0\xa4\xbe",
        "ship it \xf0\x9f\x9a\x80\xf0\x9f\x8e\x89",
        "\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7"
        "\xe2\x80\x8d\xf0\x9f\x91\xa6 at home",
        "from another client: \\ud83d\\ude00 and caf\\u00e9",
        "ok",
        "+1"};
    put(t, sentences[below(t, COUNT(sentences))]);
}

static void put_prose(text *t, size_t count)
{
    while (count--) {
        put_sentence(t);
        if (count)
            put(t, " ");
    }
}

static void list(text *t, size_t count, void (*element)(text *, size_t))
{
    size_t i;
    for (i = 0; i < count; i++) {
        if (t->period && i % t->period == 0)
            t->random = seed;
        put(t, i ? "," : "");
        element(t, i);
    }
}

/* ----------------------------------------------------------------------------------------------
 * Contents of to-device messages
 * ---------------------------------------------------------------------------------------------- */

static void content_olm(text *t, size_t base64)
{
    put(t, "{\"algorithm\":\"m.olm.v1.curve25519-aes-sha2\",\"ciphertext\":{\"");
    put_base64(t, 43);
    put(t, "\":{\"body\":\"");
    put_base64(t, base64);
    put(t, "\",\"type\":1}},\"org.matrix.msgid\":\"");
    put_random(t, "0123456789abcdef", 32);
    put(t, "\",\"sender_key\":\"");
    put_base64(t, 43);
    put(t, "\"}");
}

static void content_cancellation(text *t)
{
    put(t, "{\"action\":\"request_cancellation\",\"request_id\":\"m");
    put_time(t);
    put(t, ".");
    put_number(t, below(t, 1000));
    put(t, "\",\"requesting_device_id\":\"");
    put_device(t);
    put(t, "\"}");
}

static void content_request(text *t)
{
    put(t, "{\"action\":\"request\",\"body\":{\"algorithm\":\"m.megolm.v1.aes-sha2\","
           "\"room_id\":\"");
    put_room(t);
    put(t, "\",\"sender_key\":\"");
    put_base64(t, 43);
    put(t, "\",\"session_id\":\"");
    put_base64(t, 43);
    put(t, "\"},\"request_id\":\"m");
    put_time(t);
    put(t, ".7\",\"requesting_device_id\":\"");
    put_device(t);
    put(t, "\"}");
}

static void content_forwarded(text *t)
{
    size_t i, hops = 1 + below(t, 4);
    put(t, "{\"algorithm\":\"m.megolm.v1.aes-sha2\",\"forwarding_curve25519_key_chain\":[");
    for (i = 0; i < hops; i++) {
        put(t, i ? ",\"" : "\"");
        put_base64(t, 43);
        put(t, "\"");
    }
    put(t, "],\"room_id\":\"");
    put_room(t);
    put(t, "\",\"sender_claimed_ed25519_key\":\"");
    put_base64(t, 43);
    put(t, "\",\"sender_key\":\"");
    put_base64(t, 43);
    put(t, "\",\"session_id\":\"");
    put_base64(t, 43);
    put(t, "\",\"session_key\":\"AgAAAA");
    put_base64(t, 300);
    put(t, "\"}");
}

static void content_verification(text *t)
{
    put(t, "{\"from_device\":\"");
    put_device(t);
    put(t, "\",\"hashes\":[\"sha256\"],\"key_agreement_protocols\":[\"curve25519-hkdf-sha256\","
           "\"curve25519\"],\"message_authentication_codes\":[\"hkdf-hmac-sha256.v2\","
           "\"hkdf-hmac-sha256\"],\"method\":\"m.sas.v1\",\"methods\":[\"m.sas.v1\","
           "\"m.qr_code.show.v1\",\"m.reciprocate.v1\"],\"short_authentication_string\":"
           "[\"decimal\",\"emoji\"],\"timestamp\":");
    put_time(t);
    put(t, ",\"transaction_id\":\"");
    put_random(t, "abcdefghijklmnopqrstuvwxyz0123456789", 32);
    put(t, "\"}");
}

static void content_secret(text *t)
{
    put(t, "{\"request_id\":\"");
    put_random(t, "0123456789abcdef", 32);
    put(t, "\",\"secret\":\"");
    put_base64(t, 43);
    put(t, "=\"}");
}

/* Text in many scripts, with a fallback in HTML. */
static void content_prose(text *t)
{
    put(t, "{\"body\":\"");
    put_prose(t, 8 + below(t, 28));
    put(t, "\",\"format\":\"org.matrix.custom.html\",\"formatted_body\":\"<p class=\\\"x\\\">");
    put_prose(t, 8 + below(t, 28));
    put(t, "</p>\\n\",\"msgtype\":\"m.text\",\"org.example.reply\":{\"displayname\":\"");
    put_sentence(t);
    put(t, "\",\"is_direct\":true,\"parent\":null}}");
}

/* Numbers of every spelling, as sensors, calls and games send them. */
static void content_numbers(text *t)
{
    size_t i, samples = 10 + below(t, 100);
    put(t, "{\"call_id\":\"c");
    put_time(t);
    put(t, "\",\"lifetime\":60000,\"samples\":[");
    for (i = 0; i < samples; i++) {
        if (i)
            put(t, ",");
        if (below(t, 3) == 0)
            put(t, "-");
        put_number(t, below(t, below(t, 2) ? 10 : 100000));
        if (below(t, 2)) {
            put(t, ".");
            put_random(t, "0123456789", 1 + below(t, 12));
        }
        if (below(t, 6) == 0)
            put(t, below(t, 2) ? "e-07" : "e+21");
    }
    put(t, "],\"version\":\"1\"}");
}

/* An offer of a call: lines that end in escapes, as an SDP has them. */
static void content_call(text *t)
{
    size_t i, candidates = 5 + below(t, 25);
    put(t, "{\"call_id\":\"");
    put_random(t, "0123456789abcdef", 16);
    put(t, "\",\"lifetime\":60000,\"offer\":{\"sdp\":\"v=0\\r\\no=- ");
    put_time(t);
    put(t, " 2 IN IP4 127.0.0.1\\r\\ns=-\\r\\nt=0 0\\r\\na=group:BUNDLE 0 1\\r\\n");
    for (i = 0; i < candidates; i++) {
        put(t, "a=candidate:");
        put_number(t, below(t, 1000000000));
        put(t, " 1 udp 2113937151 192.0.2.");
        put_number(t, below(t, 256));
        put(t, " 54321 typ host\\r\\n");
    }
    put(t, "\",\"type\":\"offer\"},\"seq\":");
    put_number(t, below(t, 100));
    put(t, ",\"version\":1}");
}

static void put_nested(text *t, size_t levels)
{
    size_t i, members = 1 + below(t, 4);
    if (levels == 0) {
        static const char *const leaves[] = {"null", "true", "false", "0",
                                             "{}",   "[]",   "\"\"",  "-1.5"};
        put(t, leaves[below(t, COUNT(leaves))]);
        return;
    }
    put(t, levels % 2 ? "[" : "{");
    for (i = 0; i < members; i++) {
        if (i)
            put(t, ",");
        if (levels % 2 == 0) {
            static const char *const keys[] = {"a", "display", "m.relates_to", "org.example.tree"};
            put(t, "\"");
            put(t, keys[i]);
            put(t, "\":");
        }
        put_nested(t, i ? levels / 3 : levels - 1);
    }
    put(t, levels % 2 ? "]" : "}");
}

static void content_nested(text *t)
{
    size_t i, trees = 1 + below(t, 2);
    put(t, "{\"trees\":[");
    for (i = 0; i < trees; i++) {
        put(t, i ? "," : "");
        put_nested(t, 4 + below(t, 14));
    }
    put(t, "],\"v\":1}");
}

/* ----------------------------------------------------------------------------------------------
 * Messages, and what travels beside them
 * ---------------------------------------------------------------------------------------------- */

static void message_end(text *t, const char *type)
{
    put(t, ",\"sender\":\"");
    put_user(t);
    put(t, "\",\"to_device_id\":\"");
    put_device(t);
    put(t, "\",\"to_user_id\":\"");
    put_ghost(t);
    put(t, "\",\"type\":\"");
    put(t, type);
    put(t, "\"}");
}

static void content_olm_any(text *t)
{
    content_olm(t, 600 + below(t, 2000));
}

static void content_empty(text *t)
{
    put(t, "{}");
}

static void message_mixed(text *t, size_t index)
{
    static const struct {
        const char *type;
        void (*content)(text *);
    } kinds[] = {{"m.room_key_request", content_request},
                 {"m.room_key_request", content_cancellation},
                 {"m.forwarded_room_key", content_forwarded},
                 {"m.key.verification.start", content_verification},
                 {"m.secret.send", content_secret},
                 {"m.dummy", content_empty},
                 {"m.room.encrypted", content_olm_any},
                 {"m.room.encrypted", content_olm_any},
                 {"org.example.note \xe2\x9c\x89", content_prose},
                 {"org.example.note\\\\prose", content_prose},
                 {"org.example.note", content_prose},
                 {"m.call.invite", content_call},
                 {"m.call.samples", content_numbers},
                 {"org.example.tree", content_nested}};
    put(t, "{\"content\":");
    kinds[index % COUNT(kinds)].content(t);
    message_end(t, kinds[index % COUNT(kinds)].type);
}

static void room_event(text *t, size_t index)
{
    (void)index;
    put(t, "{\"age\":");
    put_number(t, below(t, 100000));
    put(t, ",\"content\":{\"body\":\"");
    put_prose(t, 1 + below(t, 9));
    put(t, "\",\"msgtype\":\"m.text\"},\"event_id\":\"$");
    put_base64(t, 43);
    put(t, "\",\"origin_server_ts\":");
    put_time(t);
    put(t, ",\"room_id\":\"");
    put_room(t);
    put(t, "\",\"sender\":\"");
    put_user(t);
    put(t, "\",\"type\":\"m.room.message\",\"unsigned\":{\"age\":");
    put_number(t, below(t, 100000));
    put(t, "},\"user_id\":\"");
    put_user(t);
    put(t, "\"}");
}

static void ephemeral_event(text *t, size_t index)
{
    (void)index;
    put(t, "{\"content\":{\"$");
    put_base64(t, 43);
    put(t, "\":{\"m.read\":{\"");
    put_user(t);
    put(t, "\":{\"thread_id\":\"main\",\"ts\":");
    put_time(t);
    put(t, "}}}},\"room_id\":\"");
    put_room(t);
    put(t, "\",\"type\":\"m.receipt\"}");
}

static void changed_user(text *t, size_t index)
{
    (void)index;
    put(t, "\"");
    put_user(t);
    put(t, "\"");
}

/* The keys of objects are sorted: users in order. */
static void put_user_at(text *t, size_t index)
{
    put(t, "\"@_irc_user");
    put_number(t, 1000000 + index);
    put(t, ":example.org\":{\"");
    put_device(t);
}

static void user_counts(text *t, size_t index)
{
    put_user_at(t, index);
    put(t, "\":{\"signed_curve25519\":");
    put_number(t, below(t, 51));
    put(t, "}}");
}

static void user_fallback(text *t, size_t index)
{
    put_user_at(t, index);
    put(t, below(t, 4) ? "\":[\"signed_curve25519\"]}" : "\":[]}");
}

/* Both spellings of the ephemeral events and of the counts, as Synapse writes them. */
static void body_mixed(text *t, size_t messages)
{
    size_t others = messages * 2 / 13, from, bytes;
    uint64_t random;
    put(t, "{\"de.sorunome.msc2409.ephemeral\":[");
    from = t->used;
    list(t, others, ephemeral_event);
    bytes = t->used - from;
    put(t, "],\"de.sorunome.msc2409.to_device\":[");
    list(t, messages, message_mixed);
    put(t, "],\"ephemeral\":[");
    put_bytes(t, NULL, bytes); /* only the room: what is copied must not move meanwhile */
    memcpy(t->data + t->used - bytes, t->data + from, bytes);
    put(t, "],\"events\":[");
    list(t, others, room_event);
    put(t, "],\"org.matrix.msc3202.device_lists\":{\"changed\":[");
    list(t, others, changed_user);
    put(t, "],\"left\":[]},\"org.matrix.msc3202.device_one_time_key_counts\":{");
    random = t->random;
    list(t, others, user_counts);
    t->random = random; /* the same again */
    put(t, "},\"org.matrix.msc3202.device_one_time_keys_count\":{");
    list(t, others, user_counts);
    put(t, "}");
    put(t, ",\"org.matrix.msc3202.device_unused_fallback_key_types\":{");
    list(t, others, user_fallback);
    put(t, "}}");
}

static void message_olm(text *t, size_t index)
{
    (void)index;
    put(t, "{\"content\":");
    content_olm(t, 1300);
    message_end(t, "m.room.encrypted");
}

static void message_small(text *t, size_t index)
{
    (void)index;
    put(t, "{\"content\":");
    content_cancellation(t);
    message_end(t, "m.room_key_request");
}

static void message_big(text *t, size_t index)
{
    static const size_t around = 239; /* the length of content_olm(t, 0) */
    (void)index;
    put(t, "{\"content\":");
    content_olm(t, 65536 - around);
    message_end(t, "m.room.encrypted");
}

static const char list_begin[] = "{\"de.sorunome.msc2409.to_device\":[";
static const char list_end[] = "],\"events\":[]}";

static void body_list(text *t, size_t count, void (*element)(text *, size_t))
{
    put(t, list_begin);
    list(t, count, element);
    put(t, list_end);
}

/* ----------------------------------------------------------------------------------------------
 * Hostile bodies
 * ---------------------------------------------------------------------------------------------- */

static void repeat(text *t, const char *string, size_t count)
{
    while (count--)
        put(t, string);
}

/* The deepest that is read, again and again: the outermost bracket is at level 5 of 1,024. */
static void hostile_brackets(text *t, size_t bytes)
{
    static const size_t depth = 1019;
    size_t i;
    put(t, "{\"x\":[");
    for (i = 0; i == 0 || i < bytes / (2 * depth); i++) {
        put(t, i ? "," : "");
        repeat(t, "[", depth);
        repeat(t, "]", depth);
    }
    put(t, "]}");
}

static void hostile_keys(text *t, size_t bytes)
{
    size_t end = t->used + bytes, i;
    for (i = 0; t->used < end; i++) {
        put(t, "\"");
        put_number(t, 10000000 + i);
        put(t, "\":0,");
    }
}

static void hostile_duplicates(text *t, size_t bytes)
{
    size_t end = t->used + bytes;
    while (t->used < end)
        put(t, "\"content\":{},\"sender\":\"@a:b\",\"to_device_id\":\"E\","
               "\"to_user_id\":\"@_c:d\",");
}

static void body_hostile(text *t, int kind, size_t bytes)
{
    put(t, list_begin);
    put(t, "{");
    if (kind == BODY_KEYS)
        hostile_keys(t, bytes);
    if (kind == BODY_DUPLICATES)
        hostile_duplicates(t, bytes);
    if (kind == BODY_ESCAPED_ID) {
        put(t, "\"sender\":\"");
        repeat(t, "\\\\", bytes / 2);
        put(t, "\",\"content\":{},\"to_device_id\":\"D\",\"to_user_id\":\"@u:h\","
               "\"type\":\"m.dummy\"}");
        put(t, list_end);
        return;
    }
    put(t, "\"content\":");
    if (kind == BODY_BRACKETS) {
        hostile_brackets(t, bytes);
    } else if (kind == BODY_DEEP) {
        put(t, "{\"x\":");
        repeat(t, "[", bytes / 2);
        repeat(t, "]", bytes / 2);
        put(t, "}");
    } else if (kind == BODY_BACKSLASHES || kind == BODY_STRING) {
        put(t, "{\"x\":\"");
        repeat(t, kind == BODY_STRING ? "aa" : "\\\\", bytes / 2);
        put(t, "\"}");
    } else {
        put(t, "{}");
    }
    message_end(t, "m.dummy");
    put(t, list_end);
}

const char *body_name(int kind)
{
    static const char *const names[BODY_ALL_KINDS] = {
        "olm",         "small",      "mixed", "big",        "brackets", "deep",
        "backslashes", "escaped_id", "keys",  "duplicates", "string"};
    return names[kind];
}

/* A body of another than its usual size consists of the same messages, again and again: so that
 * what a byte of it costs can be compared. */
char *body_make(int kind, size_t bytes, size_t *size)
{
    static const size_t messages[] = {100, 10000, 690, 100};           /* of the usual size */
    static const size_t periods[] = {39, 260, 52, 1};                  /* of another size */
    static const size_t period_bytes[] = {65700, 65400, 69000, 65692}; /* roughly */
    size_t count;
    text t = {NULL, 0, 0, seed, 0};
    if (kind < BODY_KINDS) {
        count = messages[kind];
        if (bytes) {
            t.period = periods[kind];
            count = (bytes / period_bytes[kind] + !(bytes / period_bytes[kind])) * t.period;
        }
        if (kind == BODY_MIXED)
            body_mixed(&t, count);
        else
            body_list(&t, count,
                      kind == BODY_OLM     ? message_olm
                      : kind == BODY_SMALL ? message_small
                                           : message_big);
    } else {
        body_hostile(&t, kind, bytes ? bytes : (size_t)1 << 20);
    }
    *size = t.used;
    return t.data;
}

#ifdef BODIES_MAIN
static int write_body(const char *directory, int kind, size_t bytes)
{
    char path[4096];
    size_t size;
    char *data = body_make(kind, bytes, &size);
    FILE *file;
    int ok;
    snprintf(path, sizeof path, "%s/%s.json", directory, body_name(kind));
    file = fopen(path, "wb");
    ok = file && fwrite(data, 1, size, file) == size;
    if (!file || fclose(file) != 0 || !ok) {
        fprintf(stderr, "cannot write %s\n", path);
        return 1;
    }
    free(data);
    return 0;
}

int main(int argc, char **argv)
{
    int kind, failed = 0;
    if (argc != 2 && argc != 4) {
        fprintf(stderr, "usage: bodies DIRECTORY [KIND BYTES]\n");
        return 2;
    }
    for (kind = 0; kind < BODY_ALL_KINDS; kind++) {
        if (argc == 4 && strcmp(argv[2], body_name(kind)) == 0)
            return write_body(argv[1], kind, (size_t)strtoul(argv[3], NULL, 10));
        if (argc == 2)
            failed |= write_body(argv[1], kind, 0);
    }
    return argc == 4 ? 2 : failed;
}
#endif
