/* fuzz_receiver.c - a receiver's requests: who may pass, and that a repeat is known as one.
 *
 * The first 8 bytes choose (see CHOICES); then come a target, an Authorization header, and the
 * body. The request is made to two fresh receivers, cut in two ways, again to one of them, and once
 * more with a space behind the body. What the answer to a request's head has to be is worked out
 * here in another way: on decoded characters. */
#include "common.h"

const char fuzz_name[] = "fuzz_receiver";

enum {
    METHOD_AND_PATH, /* 0-1 method, 2-3 path, 4-5 header, 6 rejected, 7 restarted */
    SCRATCH,
    CHUNK_ONE,
    CHUNK_TWO,
    ENTRIES, /* 0-1 how many are remembered beyond the first, 2 room for a part of another */
    KINDS,
    TARGET_BYTES,
    HEADER_BYTES,
    CHOICES
};

enum { SLASH = 256, UNITS = 1024, MEMORY_MAX = 16 + 48 * 4 + 47 };

static const char token[] = "as/k%2B+n";

/* A request, in memory of its exact size. */
struct request {
    msc4203_span method, target, authorization;
    char *target_text, *header_text, *body_text;
    const char *body;
    size_t body_bytes, scratch_bytes;
};

/* What came of one. */
struct outcome {
    int head, result;
    size_t items;
    int too_large; /* an item may not have fit: that depends on the chunks (and another error that
                      it has hides it, so the items do not tell) */
    uint32_t sum;
};

static void sum_add(uint32_t *sum, const void *data, size_t bytes)
{
    const unsigned char *at = (const unsigned char *)data;
    size_t i;
    *sum = (*sum ^ (uint32_t)bytes) * 16777619u;
    for (i = 0; i < bytes; i++)
        *sum = (*sum ^ at[i]) * 16777619u;
}

/* Puts a fixed beginning before the input's bytes, in exact memory. */
static char *join(const char *before, const uint8_t *data, size_t bytes, msc4203_span *span)
{
    size_t head = strlen(before);
    char *text = (char *)fuzz_alloc(head + bytes);
    if (head)
        memcpy(text, before, head);
    if (bytes)
        memcpy(text + head, data, bytes);
    span->ptr = text;
    span->len = head + bytes;
    return text;
}

/* ---- what the answer to the head has to be ---- */

static unsigned hex(int c)
{
    static const char digits[] = "0123456789abcdef";
    const char *at = c ? strchr(digits, c >= 'A' && c <= 'F' ? c + 32 : c) : NULL;
    return at ? (unsigned)(at - digits) : 16;
}

/* Decodes %XX; a slash that is written as one becomes SLASH. */
static size_t decode(const char *text, size_t bytes, unsigned *units)
{
    size_t i, n = 0;
    for (i = 0; i < bytes; i++) {
        unsigned c = (unsigned char)text[i];
        if (c == '%' && bytes - i > 2 && hex(text[i + 1]) < 16 && hex(text[i + 2]) < 16) {
            c = hex(text[i + 1]) * 16 + hex(text[i + 2]);
            i += 2;
        } else if (c == '/') {
            c = SLASH;
        }
        units[n++] = c;
    }
    return n;
}

/* How many units a path's beginning takes up; 0 when it is not there. */
static size_t begins(const unsigned *units, size_t count, const char *path)
{
    size_t i;
    for (i = 0; path[i]; i++)
        if (i == count || units[i] != (path[i] == '/' ? SLASH : (unsigned char)path[i]))
            return 0;
    return i;
}

static int right_query_token(const char *text, size_t bytes)
{
    unsigned units[UNITS];
    size_t i, n = decode(text, bytes, units);
    if (n != sizeof token - 1)
        return 0;
    for (i = 0; i < n; i++)
        if ((units[i] == SLASH ? '/' : units[i]) != (unsigned char)token[i])
            return 0;
    return 1;
}

static int expect_tokens(const struct request *r, size_t path_bytes)
{
    static const char name[] = "access_token=";
    const char *text = r->authorization.ptr;
    size_t bytes = r->authorization.len, i, end;
    int right = 0, wrong = 0;
    if (text && bytes >= 7) {
        for (i = 0; i < 6 && (text[i] == "bearer"[i] || text[i] == "BEARER"[i]); i++)
            ;
        if (i == 6 && text[6] == ' ') {
            while (i < bytes && text[i] == ' ')
                i++;
            if (bytes - i == sizeof token - 1 && !memcmp(text + i, token, bytes - i))
                right++;
            else
                wrong++;
        }
    }
    text = r->target.ptr;
    bytes = r->target.len;
    for (i = path_bytes + 1; i < bytes; i = end + 1) {
        for (end = i; end < bytes && text[end] != '&'; end++)
            ;
        if (end - i < sizeof name - 1 || memcmp(text + i, name, sizeof name - 1) != 0)
            continue;
        if (right_query_token(text + i + sizeof name - 1, end - i - (sizeof name - 1)))
            right++;
        else
            wrong++;
    }
    return wrong ? MSC4203_E_TOKEN : right ? MSC4203_OK : MSC4203_E_TOKEN_MISSING;
}

static int expect_head(const struct request *r)
{
    unsigned units[UNITS];
    const char *question =
        r->target.len ? (const char *)memchr(r->target.ptr, '?', r->target.len) : NULL;
    size_t path_bytes = question ? (size_t)(question - r->target.ptr) : r->target.len;
    size_t count = decode(r->target.ptr, path_bytes, units), i, from;
    int pings = count == 20 && begins(units, count, "/_matrix/app/v1/ping"), result;
    from = begins(units, count, "/_matrix/app/v1/transactions/");
    if (!from)
        from = begins(units, count, "/transactions/");
    if (!pings && (!from || from == count))
        return MSC4203_E_UNRECOGNIZED;
    if (!msc4203_span_equal(&r->method, pings ? "POST" : "PUT"))
        return MSC4203_E_METHOD;
    result = expect_tokens(r, path_bytes);
    if (result != MSC4203_OK || pings)
        return result != MSC4203_OK ? result : MSC4203_END;
    for (i = from; i < count; i++)
        if (units[i] == SLASH)
            return MSC4203_E_UNRECOGNIZED;
    return MSC4203_MORE;
}

/* ---- requests ---- */

static void see_item(struct outcome *o, const msc4203_item *item)
{
    int i;
    o->items++;
    sum_add(&o->sum, &item->kind, sizeof item->kind);
    sum_add(&o->sum, &item->error, sizeof item->error);
    for (i = 0; i < FUZZ_SPANS; i++) { /* reading each byte of it */
        msc4203_span span = fuzz_span_of(item, i);
        sum_add(&o->sum, span.ptr, span.len);
    }
}

/* Makes a request in chunks of so many bytes (0: in one). */
static struct outcome ask(msc4203_receiver *receiver, const struct request *r, size_t chunk)
{
    struct outcome o;
    const msc4203_item *item;
    char *scratch = (char *)fuzz_alloc(r->scratch_bytes);
    size_t at = 0, n;
    int last;
    memset(&o, 0, sizeof o);
    o.too_large = r->scratch_bytes < r->body_bytes;
    o.head = o.result = msc4203_receiver_request(receiver, &r->method, &r->target,
                                                 &r->authorization, scratch, r->scratch_bytes);
    FUZZ_CHECK(o.head == expect_head(r));
    if (o.head != MSC4203_MORE) { /* and nothing else is taken */
        FUZZ_CHECK(msc4203_receiver_feed(receiver, "{}", 2, 1) == MSC4203_E_USAGE);
        FUZZ_CHECK(msc4203_receiver_next(receiver, &item) == MSC4203_E_USAGE && !item);
        free(scratch);
        return o;
    }
    do {
        char *piece;
        n = !chunk || chunk > r->body_bytes - at ? r->body_bytes - at : chunk;
        last = at + n == r->body_bytes;
        piece = fuzz_copy(r->body + at, n);
        FUZZ_CHECK(msc4203_receiver_feed(receiver, piece, n, last) == MSC4203_OK);
        while ((o.result = msc4203_receiver_next(receiver, &item)) == MSC4203_ITEM)
            see_item(&o, item);
        FUZZ_CHECK(!item);
        free(piece);
        at += n;
    } while (o.result == MSC4203_MORE && !last);
    FUZZ_CHECK(o.result != MSC4203_MORE);
    FUZZ_CHECK(msc4203_receiver_next(receiver, &item) == o.result && !item);
    free(scratch);
    return o;
}

static void start(msc4203_receiver *receiver, unsigned kinds, char *memory, size_t bytes)
{
    msc4203_receiver_config config;
    memset(&config, 0, sizeof config);
    config.hs_token.ptr = token;
    config.hs_token.len = sizeof token - 1;
    config.kinds = kinds;
    FUZZ_CHECK(msc4203_receiver_init(receiver, &config, memory, bytes, 0x4203) == MSC4203_OK);
}

/* What the first request has said, when it is made again; and with a space more. */
static void again(msc4203_receiver *receiver, const struct request *r, const struct outcome *first,
                  size_t chunk, char *memory, size_t bytes, int reject)
{
    char before[MEMORY_MAX];
    struct request longer = *r;
    struct outcome o;
    char *body;
    memcpy(before, memory, bytes);
    o = ask(receiver, r, chunk);
    FUZZ_CHECK(o.head == first->head);
    FUZZ_CHECK(o.result == (first->result == MSC4203_NEW ? MSC4203_REPEAT : first->result));
    FUZZ_CHECK(!memcmp(before, memory, bytes)); /* nothing that is new */
    msc4203_receiver_reject(receiver);          /* and nothing that could be forgotten */
    FUZZ_CHECK(!memcmp(before, memory, bytes));
    if (first->result != MSC4203_NEW)
        return;
    body = (char *)fuzz_alloc(r->body_bytes + 1);
    memcpy(body, r->body, r->body_bytes);
    body[r->body_bytes] = ' ';
    longer.body = body;
    longer.body_bytes++;
    o = ask(receiver, &longer, chunk);
    if (!o.too_large && !first->too_large) {
        FUZZ_CHECK(o.result == MSC4203_REPEAT_TO_DEVICE && o.items == first->items);
        if (reject)
            msc4203_receiver_reject(receiver);
        o = ask(receiver, &longer, 0);
        FUZZ_CHECK(o.too_large || o.result == MSC4203_REPEAT ||
                   (reject && (o.result == MSC4203_REPEAT_TO_DEVICE || o.result == MSC4203_NEW)));
    }
    free(body);
}

static msc4203_span span(const char *text)
{
    msc4203_span s;
    s.ptr = text;
    s.len = strlen(text);
    return s;
}

/* Behind a request that was new: another message under its id, and its body under another id, are
 * new too. (What they are called no input says by chance.) */
static void another(msc4203_receiver *receiver, const struct request *r, size_t chunk)
{
    struct request other = *r;
    other.body = "{\"to_device\":[{\"sender\":\"@fuzz:x\",\"type\":\"another one\"}]}";
    other.body_bytes = strlen(other.body);
    FUZZ_CHECK(ask(receiver, &other, 0).result == MSC4203_NEW);
    other = *r;
    other.target = span("/transactions/fuzz:another-one");
    other.authorization = span("Bearer as/k%2B+n");
    FUZZ_CHECK(ask(receiver, &other, chunk).result == MSC4203_NEW);
}

static void check(const uint8_t *data, const struct request *r)
{
    size_t bytes = 16 + 48 * (1u + (data[ENTRIES] & 3)) + (data[ENTRIES] & 4 ? 47 : 0);
    size_t chunk[2];
    char *memory[2], *fresh;
    msc4203_receiver receiver[2];
    struct outcome o[2];
    int i, reject = data[METHOD_AND_PATH] >> 6 & 1;
    chunk[0] = data[CHUNK_ONE] & 1 ? 0 : data[CHUNK_ONE];
    chunk[1] = data[CHUNK_TWO];
    for (i = 0; i < 2; i++) {
        memory[i] = (char *)fuzz_alloc(bytes);
        memset(memory[i], 0, bytes);
        start(&receiver[i], data[KINDS] & MSC4203_ALL_KINDS, memory[i], bytes);
        fresh = fuzz_copy(memory[i], bytes);
        o[i] = ask(&receiver[i], r, chunk[i]);
        if (o[i].result == MSC4203_NEW && reject) { /* forgotten: it is new once more */
            msc4203_receiver_reject(&receiver[i]);
            FUZZ_CHECK(!memcmp(memory[i], fresh, bytes));
            FUZZ_CHECK(ask(&receiver[i], r, chunk[i]).result == MSC4203_NEW);
        }
        FUZZ_CHECK((o[i].result == MSC4203_NEW) == (memcmp(memory[i], fresh, bytes) != 0));
        free(fresh);
    }
    FUZZ_CHECK(o[0].head == o[1].head && o[0].result == o[1].result);
    FUZZ_CHECK(o[0].items == o[1].items);
    if (!o[0].too_large && !o[1].too_large) {
        FUZZ_CHECK(o[0].sum == o[1].sum);
        FUZZ_CHECK(!memcmp(memory[0], memory[1], bytes));
    }
    if (data[METHOD_AND_PATH] & 128) /* a restart, with what was remembered */
        start(&receiver[1], data[KINDS] & MSC4203_ALL_KINDS, memory[1], bytes);
    i = !o[0].too_large && !o[1].too_large; /* cut in the other way, if that may not matter */
    again(&receiver[1], r, &o[1], chunk[!i], memory[1], bytes, reject);
    if (o[1].result == MSC4203_NEW)
        another(&receiver[1], r, chunk[0]);
    free(memory[0]);
    free(memory[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const methods[] = {"PUT", "POST", "PUT", "put"};
    static const char *const paths[] = {"/_matrix/app/v1/transactions/", "/transactions/", "",
                                        "/_matrix/app/v1/ping"};
    struct request r;
    const uint8_t *at = data + CHOICES;
    size_t target, header;
    int how;
    if (size < CHOICES)
        return 0;
    size -= CHOICES;
    target = data[TARGET_BYTES] < size ? data[TARGET_BYTES] : size;
    header = data[HEADER_BYTES] < size - target ? data[HEADER_BYTES] : size - target;
    memset(&r, 0, sizeof r);
    how = data[METHOD_AND_PATH];
    r.method.ptr = methods[how & 3];
    r.method.len = strlen(r.method.ptr);
    r.target_text = join(paths[how >> 2 & 3], at, target, &r.target);
    at += target;
    switch (how >> 4 & 3) {
    case 0: /* none */
        r.header_text = NULL;
        break;
    case 1:
        r.header_text = join("Bearer ", (const uint8_t *)token, sizeof token - 1,
                             &r.authorization);
        break;
    case 2:
        r.header_text = join("Bearer ", at, header, &r.authorization);
        break;
    default:
        r.header_text = join("", at, header, &r.authorization);
        break;
    }
    at += header;
    r.body_bytes = size - target - header;
    r.body = r.body_text = fuzz_copy(at, r.body_bytes);
    r.scratch_bytes = data[SCRATCH] == 255 ? 16384 : data[SCRATCH] * 4u;
    check(data, &r);
    free(r.target_text);
    free(r.header_text);
    free(r.body_text);
    return 0;
}
