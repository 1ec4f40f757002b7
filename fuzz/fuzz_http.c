/* fuzz_http.c - example/http.h: heads, bodies in any cuts, escapes, parameters, addresses.
 *
 * The first 4 bytes choose what to look at, the cuts and their seed; the rest is the text. Each
 * text is in memory of its exact size, so that the address sanitizer sees an overrun. */
#define _POSIX_C_SOURCE 200809L
#include "common.h"
#include "example/http.h"

const char fuzz_name[] = "fuzz_http";

enum { LOOK_AT, CUT, SEED, HOW, CHOICES };

/* What came of a body. */
struct bytes {
    char *data; /* the pieces of it, put together */
    size_t count, used;
    int state;
};

static int inside(const msc4203_span *span, const char *data, size_t bytes)
{
    uintptr_t at = (uintptr_t)span->ptr, begin = (uintptr_t)data;
    return span->ptr && at >= begin && at - begin <= bytes && span->len <= bytes - (at - begin);
}

/* So many bytes come next: all, always as many, or by chance (none, now and then). */
static size_t cut(unsigned way, uint32_t *seed, size_t left)
{
    size_t n = way == 0 ? left : way < 128 ? way : fuzz_random(seed) % (way - 126u);
    return n < left ? n : left;
}

/* Feeds a body. What is fed has its own memory, and none of it is looked at again. */
static struct bytes feed(const struct http_body *begun, const char *text, size_t bytes,
                         unsigned way, uint32_t seed)
{
    struct http_body body = *begun;
    struct bytes got;
    memset(&got, 0, sizeof got);
    got.data = (char *)fuzz_alloc(bytes);
    while (got.used < bytes && body.state != HTTP_BODY_DONE && body.state != HTTP_BODY_WRONG) {
        size_t n = cut(way, &seed, bytes - got.used), at = 0, used;
        char *part = fuzz_copy(text + got.used, n);
        do {
            msc4203_span piece;
            used = http_body_feed(&body, part + at, n - at, &piece);
            FUZZ_CHECK(used <= n - at && inside(&piece, part + at, used));
            FUZZ_CHECK(used || n == at);
            FUZZ_CHECK(piece.len <= bytes - got.count);
            if (piece.len)
                memcpy(got.data + got.count, piece.ptr, piece.len);
            got.count += piece.len;
            at += used;
        } while (at < n && body.state != HTTP_BODY_DONE && body.state != HTTP_BODY_WRONG);
        free(part);
        got.used += at;
    }
    got.state = body.state;
    return got;
}

/* The same body, whatever the cuts; and what is true of it. */
static void check_body(const struct http_head *head, int answer, const char *text, size_t bytes,
                       const uint8_t *choices)
{
    struct http_body body;
    struct bytes whole, parts;
    int plain;
    http_body_begin(&body, head, answer);
    plain = body.state == HTTP_BODY_LENGTH || body.state == HTTP_BODY_ALL;
    whole = feed(&body, text, bytes, 0, 1);
    parts = feed(&body, text, bytes, choices[CUT] ? choices[CUT] : 1, choices[SEED] + 1u);
    FUZZ_CHECK(whole.state == parts.state && whole.used == parts.used);
    FUZZ_CHECK(whole.count == parts.count && !memcmp(whole.data, parts.data, whole.count));
    if (body.state == HTTP_BODY_DONE)
        FUZZ_CHECK(whole.used == 0);
    if (plain) {
        FUZZ_CHECK(whole.count == whole.used && !memcmp(whole.data, text, whole.count));
        FUZZ_CHECK(whole.state != HTTP_BODY_WRONG);
    }
    if (body.state == HTTP_BODY_ALL)
        FUZZ_CHECK(whole.used == bytes && whole.state == HTTP_BODY_ALL);
    if (body.state == HTTP_BODY_LENGTH) {
        FUZZ_CHECK((whole.state == HTTP_BODY_DONE) == (bytes >= body.left));
        FUZZ_CHECK(whole.used == (bytes < body.left ? bytes : body.left));
    }
    if (whole.state != HTTP_BODY_DONE && whole.state != HTTP_BODY_WRONG)
        FUZZ_CHECK(whole.used == bytes);
    free(whole.data);
    free(parts.data);
}

/* A body of chunks that is made of the text's bytes comes out as they are. */
static void check_chunks(const char *text, size_t bytes, const uint8_t *choices)
{
    static const char *const ends[] = {"\r\n", "\n", ";a=\"b\"\r\n", " \t\n"};
    struct http_head head;
    struct http_body body;
    struct bytes got;
    size_t room = bytes * 16 + 100, used = 0, at, n;
    char *coded = (char *)fuzz_alloc(room);
    uint32_t seed = choices[SEED] + 1u;
    for (at = 0; at < bytes; at += n) {
        n = 1 + fuzz_random(&seed) % 40;
        n = n < bytes - at ? n : bytes - at;
        used += (size_t)snprintf(coded + used, room - used, fuzz_random(&seed) % 2 ? "%lX%s"
                                                                                   : "0%lx%s",
                                 (unsigned long)n, ends[fuzz_random(&seed) % 4]);
        memcpy(coded + used, text + at, n);
        used += n;
        used += (size_t)snprintf(coded + used, room - used, "%s", ends[fuzz_random(&seed) % 2]);
    }
    used += (size_t)snprintf(coded + used, room - used, "0%s%s%s", ends[fuzz_random(&seed) % 4],
                             fuzz_random(&seed) % 2 ? "a: b\r\n" : "",
                             ends[fuzz_random(&seed) % 2]);
    memset(&head, 0, sizeof head);
    head.chunked = 1;
    check_body(&head, 0, coded, used, choices);
    http_body_begin(&body, &head, 0);
    got = feed(&body, coded, used, choices[CUT], seed);
    FUZZ_CHECK(got.state == HTTP_BODY_DONE && got.used == used);
    FUZZ_CHECK(got.count == bytes && !memcmp(got.data, text, bytes));
    free(got.data);
    free(coded);
}

/* The end is found when it has come, and not before, however it comes. */
static size_t head_end(const char *text, size_t bytes, const uint8_t *choices)
{
    size_t whole = http_head_end(text, bytes, 0), at = 0, n, end = 0;
    unsigned way = choices[CUT] ? choices[CUT] : 1;
    uint32_t seed = choices[SEED] + 1u;
    FUZZ_CHECK(whole <= bytes);
    while (at < bytes && !end) {
        n = cut(way, &seed, bytes - at);
        if (n) { /* each time in other memory: it is of its exact size */
            char *part = fuzz_copy(text, at + n);
            end = http_head_end(part, at + n, at);
            free(part);
            at += n;
        }
    }
    FUZZ_CHECK(end == whole);
    if (!whole)
        return 0;
    FUZZ_CHECK(text[whole - 1] == '\n' && http_head_end(text, whole - 1, 0) == 0);
    return whole;
}

/* An answer's head is the same, however it comes. */
static void check_answer(const char *text, size_t bytes, const uint8_t *choices)
{
    struct http_answer whole, parts;
    size_t used, at = 0, n;
    unsigned way = choices[CUT] ? choices[CUT] : 1;
    uint32_t seed = choices[SEED] + 1u;
    memset(&whole, 0, sizeof whole);
    memset(&parts, 0, sizeof parts);
    used = http_answer_feed(&whole, text, bytes);
    while (at < bytes && parts.state == HTTP_ANSWER_MORE) {
        char *part;
        n = cut(way, &seed, bytes - at);
        part = fuzz_copy(text + at, n);
        at += http_answer_feed(&parts, part, n);
        free(part);
    }
    FUZZ_CHECK(at == used && parts.state == whole.state && used <= bytes);
    FUZZ_CHECK(parts.head.status == whole.head.status && parts.head.length == whole.head.length);
    FUZZ_CHECK(parts.head.chunked == whole.head.chunked && parts.bytes == whole.bytes);
    FUZZ_CHECK(parts.head.keep_alive == whole.head.keep_alive);
    if (whole.state == HTTP_ANSWER_MORE)
        FUZZ_CHECK(used == bytes);
    if (whole.state == HTTP_ANSWER_DONE) {
        FUZZ_CHECK(text[used - 1] == '\n' && whole.head.status >= 100);
        FUZZ_CHECK(!whole.head.chunked || !whole.head.has_length);
    }
}

static void check_head(const char *text, size_t bytes, const uint8_t *choices)
{
    int answer = choices[HOW] & 1;
    size_t end = head_end(text, bytes, choices), i;
    struct http_head head;
    char *exact = fuzz_copy(text, end ? end : bytes);
    int good = http_parse(&head, exact, end ? end : bytes, answer);
    if (good && end) {
        if (answer) {
            FUZZ_CHECK(head.status >= 100 && head.status <= 999);
            FUZZ_CHECK(!head.method.ptr && !head.target.ptr);
        } else {
            FUZZ_CHECK(inside(&head.method, exact, end) && head.method.len);
            FUZZ_CHECK(inside(&head.target, exact, end) && *head.target.ptr == '/');
            for (i = 0; i < head.target.len; i++)
                FUZZ_CHECK((unsigned char)head.target.ptr[i] > ' ');
        }
        FUZZ_CHECK(!head.chunked || !head.has_length);
        FUZZ_CHECK(head.has_length || !head.length);
        if (head.authorization.ptr) { /* without spaces around, and without a line's end */
            const msc4203_span *a = &head.authorization;
            FUZZ_CHECK(inside(a, exact, end));
            FUZZ_CHECK(!a->len || (*a->ptr != ' ' && a->ptr[a->len - 1] != ' '));
            for (i = 0; i < a->len; i++)
                FUZZ_CHECK(a->ptr[i] != '\n' && a->ptr[i] != '\r');
        }
        check_body(&head, answer, text + end, bytes - end, choices);
    }
    free(exact);
}

static void check_decode(const char *text, size_t bytes, int query)
{
    static const char digits[] = "0123456789ABCDEF";
    char *to = (char *)fuzz_alloc(bytes), *coded = (char *)fuzz_alloc(bytes * 3);
    char *back = (char *)fuzz_alloc(bytes * 3);
    size_t n = http_decode(to, text, bytes, query), i;
    memset(coded, 0, bytes * 3); /* gcc thinks that it may be read before it is written */
    FUZZ_CHECK(n == SIZE_MAX || n <= bytes);
    if (n != SIZE_MAX) {
        char *place = fuzz_copy(text, bytes); /* in place too */
        FUZZ_CHECK(http_decode(place, place, bytes, query) == n && !memcmp(place, to, n));
        free(place);
    }
    for (i = 0; i < bytes; i++) {
        coded[i * 3] = '%';
        coded[i * 3 + 1] = digits[(unsigned char)text[i] >> 4];
        coded[i * 3 + 2] = digits[text[i] & 15];
    }
    FUZZ_CHECK(http_decode(back, coded, bytes * 3, query) == bytes && !memcmp(back, text, bytes));
    if (bytes) /* cut within its last escape */
        FUZZ_CHECK(http_decode(back, coded, bytes * 3 - 1, query) == SIZE_MAX);
    free(to);
    free(coded);
    free(back);
}

/* The first NAME=VALUE between &, found in another way: by matching at each place. */
static void check_parameter(const char *text, size_t bytes)
{
    static const char *const names[] = {"access_token", "since", "a", ""};
    msc4203_span query, value;
    size_t k, i, len, end;
    query.ptr = text;
    query.len = bytes;
    for (k = 0; k < sizeof names / sizeof *names; k++) {
        int found = 0;
        len = strlen(names[k]);
        value.ptr = NULL;
        value.len = 0;
        for (i = 0; i + len < bytes && !found; i++)
            found = (i == 0 || text[i - 1] == '&') && !memcmp(text + i, names[k], len) &&
                    text[i + len] == '=';
        FUZZ_CHECK(http_parameter(&query, names[k], &value) == found);
        if (!found)
            continue;
        i += len;
        for (end = i; end < bytes && text[end] != '&'; end++)
            ;
        FUZZ_CHECK(value.ptr == text + i && value.len == end - i);
    }
}

static void check_split(const char *text, size_t bytes, size_t room)
{
    char *host = (char *)fuzz_alloc(room), port[6];
    size_t n, rest;
    memset(port, 'x', sizeof port);
    if (http_split(text, bytes, host, room, port)) {
        const char *nul = (const char *)memchr(host, 0, room);
        FUZZ_CHECK(nul && nul != host && !memchr(text, 0, bytes));
        FUZZ_CHECK(memchr(port, 0, sizeof port));
        rest = strlen(port);
        FUZZ_CHECK(rest && rest < bytes && atol(port) <= 65535);
        FUZZ_CHECK(text[bytes - rest - 1] == ':' && !memcmp(text + bytes - rest, port, rest));
        n = (size_t)(nul - host); /* what is before the colon, or that without its brackets */
        FUZZ_CHECK(n < bytes && (!memcmp(text, host, n) ||
                                 (*text == '[' && text[n + 1] == ']' &&
                                  !memcmp(text + 1, host, n))));
    }
    free(host);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct http_head head;
    char *text;
    if (size < CHOICES)
        return 0;
    size -= CHOICES;
    text = fuzz_copy(data + CHOICES, size);
    FUZZ_CHECK(http_utf8(text, size) == fuzz_utf8(text, size));
    switch (data[LOOK_AT] % 6) {
    case 0:
        check_head(text, size, data);
        check_answer(text, size, data);
        break;
    case 1: /* a body behind any head */
        memset(&head, 0, sizeof head);
        head.chunked = data[HOW] & 1;
        head.has_length = !head.chunked && (data[HOW] & 2);
        head.length = head.has_length ? (uint64_t)(data[HOW] >> 4) << (data[HOW] & 8 ? 60 : 3) : 0;
        head.status = data[HOW] & 64 ? 204 : data[HOW] & 128 ? 100 : 200;
        check_body(&head, data[HOW] >> 2 & 1, text, size, data);
        break;
    case 2:
        check_chunks(text, size, data);
        break;
    case 3:
        check_decode(text, size, data[HOW] & 1);
        break;
    case 4:
        check_parameter(text, size);
        break;
    default:
        check_split(text, size, data[HOW] & 31);
        break;
    }
    free(text);
    return 0;
}
