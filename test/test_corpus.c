/* test_corpus.c - reads every captured body and compares with what an independent parser found
 * (test/data/expected, written by test/expected.py); and what this library says of the requests
 * that Synapse refused or failed on. */
#include "items.h"

static uint32_t crc32_of(const char *data, size_t bytes)
{
    static uint32_t table[256];
    uint32_t crc = 0xffffffffu;
    size_t i;
    if (!table[1])
        for (i = 0; i < 256; i++) {
            uint32_t value = (uint32_t)i;
            int bit;
            for (bit = 0; bit < 8; bit++)
                value = value & 1 ? (value >> 1) ^ 0xedb88320u : value >> 1;
            table[i] = value;
        }
    for (i = 0; i < bytes; i++)
        crc = table[(crc ^ (unsigned char)data[i]) & 255] ^ (crc >> 8);
    return ~crc;
}

/* The line of the expected file for this item: contents as a place and a checksum, and not those of
 * an unusable item. */
static void put_line(struct items_text *to, const msc4203_item *item, const char *body)
{
    msc4203_item strings = *item;
    memset(&strings.content, 0, sizeof strings.content);
    items_put_item(to, &strings);
    if (!item->content.ptr || item->error)
        return;
    to->bytes--; /* the line goes on */
    items_printf(to, " c=%ld+%lu:%08lx", (long)(item->content.ptr - body),
                 (unsigned long)item->content.len,
                 (unsigned long)crc32_of(item->content.ptr, item->content.len));
    if (item->content.len <= 40) {
        struct items_text escaped = {NULL, 0, 0};
        items_put_span(&escaped, "", item->content);
        items_put(to, ":", 1);
        items_put(to, escaped.text + 2, escaped.bytes - 2); /* without the blank and the = */
        free(escaped.text);
    }
    items_put(to, "\n", 1);
}

/* Reads in one piece, with no scratch at all unless `scratch_bytes` says otherwise. */
static struct items_text read_body(int shape, const char *body, size_t bytes, size_t scratch_bytes)
{
    struct items_text text = {NULL, 0, 0};
    msc4203_reader reader;
    const msc4203_item *item;
    char *scratch = (char *)malloc(scratch_bytes + 1);
    int result;
    msc4203_reader_init(&reader, shape, MSC4203_ALL_KINDS, scratch, scratch_bytes);
    msc4203_reader_feed(&reader, body, bytes, 1);
    while ((result = msc4203_reader_next(&reader, &item)) == MSC4203_ITEM)
        put_line(&text, item, body);
    items_printf(&text, "%s @%lu\n", items_result(result),
                 (unsigned long)msc4203_reader_offset(&reader));
    free(scratch);
    return text;
}

static unsigned long items_compared, bodies_compared;

static void check_body(const char *folder, const char *name)
{
    char path[256];
    size_t bytes, want_bytes;
    char *file, *body, *want;
    struct items_text got, want_text;
    int shape = strcmp(folder, "transactions") == 0 ? MSC4203_TRANSACTION
                : strcmp(folder, "sync") == 0       ? MSC4203_SYNC
                                                    : MSC4203_SEND;

    sprintf(path, "test/data/synapse/%.40s/%.80s.%s", folder, name,
            shape == MSC4203_SEND ? "req" : "json");
    file = test_read(path, &bytes);
    body = (char *)malloc(bytes); /* exactly sized: no NUL behind it */
    if (!body)
        exit(2);
    memcpy(body, file, bytes);
    sprintf(path, "test/data/expected/%.40s-%.80s.txt", folder, name);
    want = test_read(path, &want_bytes);

    want_text.text = want;
    want_text.bytes = want_bytes;
    got = read_body(shape, body, bytes, 256);
    if (!CHECK_CASE(items_same(&want_text, &got), path))
        items_show(&want_text, &got);
    bodies_compared++;
    while (want_bytes)
        if (want[--want_bytes] == '\n')
            items_compared++;
    free(got.text);
    free(want);
    free(body);
    free(file);
}

/* What Synapse refuses, or fails on with a 500, and the one item that it should. */
struct refusal {
    const char *name;
    int result, item_error; /* of the body, and of its only item */
    const char *errcode;
    int status;
    unsigned long offset; /* of the error, or of the item */
};

static const struct refusal refusals[] = {
    {"029-bad-malformed", MSC4203_E_TRUNCATED, 0, "M_NOT_JSON", 400, 13},
    {"031-bad-array-root", MSC4203_E_ROOT, 0, "M_BAD_JSON", 400, 0},
    {"033-bad-null-root", MSC4203_E_ROOT, 0, "M_BAD_JSON", 400, 0},
    {"035-bad-messages-null", MSC4203_E_MESSAGES, 0, "M_BAD_JSON", 400, 12},
    {"037-bad-messages-string", MSC4203_E_MESSAGES, 0, "M_BAD_JSON", 400, 12},
    {"039-bad-user-not-object", MSC4203_END, MSC4203_E_FIELD_TYPE, "M_BAD_JSON", 400, 37},
    {"043-bad-content-array", MSC4203_END, MSC4203_E_FIELD_TYPE, "M_BAD_JSON", 400, 38},
    {"045-bad-content-null", MSC4203_END, MSC4203_E_FIELD_TYPE, "M_BAD_JSON", 400, 38},
    {"047-bad-nan", MSC4203_E_SYNTAX, 0, "M_NOT_JSON", 400, 53},
    {"049-bad-1e400", MSC4203_END, MSC4203_E_NUMBER, "M_BAD_JSON", 400, 38},
    {"051-bad-int-4300-digits", MSC4203_END, MSC4203_E_NUMBER, "M_BAD_JSON", 400, 38},
    {"053-bad-utf8-overlong", MSC4203_E_UTF8, 0, "M_NOT_JSON", 400, 54},
    {"055-bad-lone-surrogate", MSC4203_END, MSC4203_E_SURROGATE, "M_BAD_JSON", 400, 38},
    {"057-bad-lone-surrogate-device", MSC4203_END, MSC4203_E_SURROGATE, "M_BAD_JSON", 400, 38},
    {"059-bad-utf16", MSC4203_E_SYNTAX, 0, "M_NOT_JSON", 400, 0},
    {"061-bad-comment", MSC4203_E_SYNTAX, 0, "M_NOT_JSON", 400, 49},
    {"063-bad-trailing-comma", MSC4203_E_SYNTAX, 0, "M_NOT_JSON", 400, 55},
    {"065-bad-leading-zero", MSC4203_E_SYNTAX, 0, "M_NOT_JSON", 400, 54},
    {"067-bad-dot", MSC4203_E_SYNTAX, 0, "M_NOT_JSON", 400, 53},
    {"069-bad-deep-array", MSC4203_END, MSC4203_E_TOO_DEEP, "M_BAD_JSON", 400, 38},
};

static void check_refusal(const struct refusal *want)
{
    char path[256];
    size_t bytes, chunk;
    char *body;
    sprintf(path, "test/data/synapse/requests/%.80s.req", want->name);
    body = test_read(path, &bytes);
    for (chunk = 0; chunk < 3; chunk++) { /* in one piece, in single bytes and in pairs */
        msc4203_reader reader;
        const msc4203_item *item;
        static char scratch[300000];
        size_t at = 0;
        int result, worst = MSC4203_OK, items = 0;
        unsigned long offset = 0;
        msc4203_reader_init(&reader, MSC4203_SEND, MSC4203_ALL_KINDS, scratch, sizeof scratch);
        do {
            size_t n = chunk && chunk < bytes - at ? chunk : bytes - at;
            msc4203_reader_feed(&reader, body + at, n, at + n == bytes);
            at += n;
            while ((result = msc4203_reader_next(&reader, &item)) == MSC4203_ITEM) {
                items++;
                worst = msc4203_item_error(item);
                offset = (unsigned long)item->offset;
            }
        } while (result == MSC4203_MORE);
        CHECK_CASE(result == want->result, path);
        CHECK_CASE(items == (want->item_error ? 1 : 0), path);
        CHECK_CASE(worst == want->item_error, path);
        if (result < 0)
            offset = (unsigned long)msc4203_reader_offset(&reader);
        if (!CHECK_CASE(offset == want->offset, path))
            printf("  at %lu, not %lu\n", offset, want->offset);
        if (result > 0)
            result = worst;
        CHECK_CASE(strcmp(msc4203_result_errcode(result), want->errcode) == 0, path);
        CHECK_CASE(msc4203_result_status(result) == want->status, path);
    }
    free(body);
}

/* A content of over 64 KiB against a scratch of 64 KiB: what the gateway answers with a 413. */
static void check_too_large(void)
{
    struct items_way way;
    struct items_text text;
    size_t bytes;
    char *body = test_read("test/data/synapse/requests/023-size-65537.req", &bytes);
    memset(&way, 0, sizeof way);
    way.shape = MSC4203_SEND;
    way.chunk = 4096;
    way.scratch_bytes = 65536;
    text = items_text_of(&way, body, bytes);
    CHECK(strstr(text.text, " !LARGE u=@_bridge_1:gw.example d=BR1DEVA") != NULL);
    CHECK(strstr(text.text, "END @65592\n") != NULL);
    CHECK(strcmp(msc4203_result_errcode(MSC4203_E_TOO_LARGE), "M_TOO_LARGE") == 0);
    CHECK(msc4203_result_status(MSC4203_E_TOO_LARGE) == 413);
    CHECK(strcmp(msc4203_result_errcode(MSC4203_E_NO_MESSAGES), "M_MISSING_PARAM") == 0);
    CHECK(msc4203_result_status(MSC4203_E_NO_MESSAGES) == 400);
    free(text.text);
    free(body);
}

int main(void)
{
    size_t bytes, i;
    char *index = test_read("test/data/expected/index.txt", &bytes);
    char *line = strtok(index, "\n");
    for (; line; line = strtok(NULL, "\n")) {
        char folder[41], name[81];
        if (CHECK(sscanf(line, "%40s %80s", folder, name) == 2))
            check_body(folder, name);
    }
    free(index);
    for (i = 0; i < sizeof refusals / sizeof *refusals; i++)
        check_refusal(&refusals[i]);
    check_too_large();
    CHECK(bodies_compared >= 120 && items_compared > 2000);
    return test_end("corpus");
}
