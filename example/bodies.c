/* bodies.c - shows the library at work on bodies that were captured from a homeserver (Synapse).
 * SPDX: 0BSD
 *
 *     build/bodies [FOLDER]        FOLDER: test/data/synapse unless told
 *
 * All that it says is checked while it runs; it ends with status 1 if something is not so. */
#include "msc4203.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *folder = "test/data/synapse";
static char body[1 << 18];    /* what is read */
static char scratch[1 << 17]; /* for the reader to put together what arrives in pieces */

/* Ends the program if something that it claims is not so. */
static void claim(int is_so, const char *what)
{
    if (is_so)
        return;
    printf("\nNOT SO: %s\n", what);
    exit(1);
}

static size_t load(const char *name)
{
    char path[512];
    size_t bytes;
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    file = fopen(path, "rb");
    if (!file) {
        printf("bodies: can't open %s: run it in the project's folder\n", path);
        exit(2);
    }
    bytes = fread(body, 1, sizeof body, file);
    fclose(file);
    claim(bytes > 0 && bytes < sizeof body, "the file can be read");
    return bytes;
}

static void print_span(msc4203_span span)
{
    printf("%.*s", (int)span.len, span.ptr ? span.ptr : "");
}

/* JSON, in lines that fit the screen. */
static void print_json(const char *text, size_t bytes)
{
    const size_t width = 84;

    for (; bytes > width; text += width, bytes -= width)
        printf("     %.*s\n", (int)width, text);
    printf("     %.*s\n", (int)bytes, text);
}

static void print_algorithms(const msc4203_item *item)
{
    msc4203_algorithms algorithms;
    msc4203_span name;
    uint64_t count;
    int any = 0, result;

    msc4203_algorithms_init(&algorithms, item);
    while ((result = msc4203_algorithms_next(&algorithms, &name, &count)) == MSC4203_ITEM) {
        printf("%s", any++ ? ", " : "");
        print_span(name);
        if (item->kind == MSC4203_KEY_COUNTS)
            printf(" %lu", (unsigned long)count);
    }
    printf(any ? "\n" : "none\n");
    claim(result == MSC4203_END, "the algorithms can be listed");
}

static void print_item(const msc4203_item *item)
{
    switch (item->kind) {
    case MSC4203_TO_DEVICE:
        printf("     message to ");
        print_span(item->user_id);
        printf(", device ");
        print_span(item->device_id);
        printf("\n       from ");
        print_span(item->sender);
        printf(", type ");
        print_span(item->type);
        printf(", content ");
        print_span(item->content);
        printf("\n");
        break;
    case MSC4203_KEY_COUNTS:
    case MSC4203_FALLBACK_TYPES:
        printf("     %s of ",
               item->kind == MSC4203_KEY_COUNTS ? "one-time keys left" : "unused fallback keys");
        print_span(item->user_id);
        printf(", device ");
        print_span(item->device_id);
        printf(": ");
        print_algorithms(item);
        break;
    default:
        printf("     something else, of kind %d\n", item->kind);
        break;
    }
}

static void transaction(void)
{
    msc4203_reader reader;
    const msc4203_item *item;
    size_t bytes = load("transactions/015-td-multi-user.json");
    int result, messages = 0;

    printf("1. A homeserver hands messages, and what else a bridge must know, over in a\n"
           "   \"transaction\". This one has %lu bytes of JSON, and begins\n\n",
           (unsigned long)bytes);
    print_json(body, 250);
    printf("     ...\n\n"
           "   The library takes it apart, item by item. It copies nothing: each item points at\n"
           "   its place in the body. (One-time keys are used up, one for each new conversation;\n"
           "   fallback keys serve when there are none left.)\n\n");
    msc4203_reader_init(&reader, MSC4203_TRANSACTION, MSC4203_ALL_KINDS, NULL, 0);
    msc4203_reader_feed(&reader, body, bytes, 1);
    while ((result = msc4203_reader_next(&reader, &item)) == MSC4203_ITEM) {
        claim(item->error == MSC4203_OK, "every item can be used");
        claim(item->content.ptr > body && item->content.ptr < body + bytes, "nothing is copied");
        messages += item->kind == MSC4203_TO_DEVICE;
        print_item(item);
    }
    claim(result == MSC4203_END, "the body is valid to its end");
    claim(messages == 5, "there are five messages");
}

/* What a reading amounts to. */
struct sum {
    unsigned long items;
    size_t longest; /* the bytes of the longest item */
    uint64_t hash;  /* changes with every byte of every item */
    int result;
};

static void add(struct sum *sum, const void *bytes, size_t n)
{
    const unsigned char *p = (const unsigned char *)bytes;

    for (; n; n--)
        sum->hash = (sum->hash ^ *p++) * UINT64_C(1099511628211);
    sum->hash = (sum->hash ^ 0x100) * UINT64_C(1099511628211);
}

static void add_item(struct sum *sum, const msc4203_item *item)
{
    const msc4203_span *spans[6];
    size_t i, bytes = 0;

    spans[0] = &item->sender;
    spans[1] = &item->type;
    spans[2] = &item->user_id;
    spans[3] = &item->device_id;
    spans[4] = &item->content;
    spans[5] = &item->id;
    sum->items++;
    add(sum, &item->kind, sizeof item->kind);
    add(sum, &item->error, sizeof item->error);
    add(sum, &item->offset, sizeof item->offset);
    for (i = 0; i < 6; i++) {
        add(sum, spans[i]->ptr, spans[i]->len);
        bytes += spans[i]->len;
    }
    if (bytes > sum->longest)
        sum->longest = bytes;
}

static struct sum read_in_pieces(size_t bytes, size_t piece, size_t scratch_bytes)
{
    struct sum sum = {0, 0, UINT64_C(14695981039346656037), 0};
    msc4203_reader reader;
    const msc4203_item *item;
    size_t fed = 0;

    msc4203_reader_init(&reader, MSC4203_TRANSACTION, MSC4203_ALL_KINDS, scratch, scratch_bytes);
    do {
        size_t n = bytes - fed < piece ? bytes - fed : piece;
        char part[64], *data = body + fed;
        if (n <= sizeof part)
            data = (char *)memcpy(part, data, n); /* the last piece is gone for good */
        fed += n;
        msc4203_reader_feed(&reader, data, n, fed == bytes);
        while ((sum.result = msc4203_reader_next(&reader, &item)) == MSC4203_ITEM)
            add_item(&sum, item);
    } while (sum.result == MSC4203_MORE);
    return sum;
}

static void byte_by_byte(void)
{
    static const char *const names[] = {"transactions/015-td-multi-user.json",
                                        "transactions/128-perf-bulk.json"};
    size_t i, piece;

    printf(
        "\n2. The same body again, and a longer one, in pieces as a network brings them: byte by\n"
        "   byte, each forgotten before the next comes. The reader remembers where it is in\n"
        "   %lu bytes, however long the body. Beside that it is lent a buffer, the scratch, in\n"
        "   which it puts an item together: that must hold the longest item, not the body.\n\n"
        "     body            pieces of   reader      scratch      items\n",
        (unsigned long)sizeof(msc4203_reader));
    claim(sizeof(msc4203_reader) <= 384, "the reader's state has at most 384 bytes");
    for (i = 0; i < sizeof names / sizeof names[0]; i++) {
        size_t bytes = load(names[i]);
        struct sum whole = read_in_pieces(bytes, bytes, 0);
        claim(whole.result == MSC4203_END && whole.items > 0, "the whole body can be read");
        for (piece = 1; piece <= 64; piece *= 64) {
            struct sum cut = read_in_pieces(bytes, piece, whole.longest);
            claim(cut.result == whole.result && cut.items == whole.items && cut.hash == whole.hash,
                  "pieces give the same items");
            printf("     %6lu bytes    %2lu byte%s    %3lu bytes   %4lu bytes   %lu, the same as "
                   "in one "
                   "piece\n",
                   (unsigned long)bytes, (unsigned long)piece, piece == 1 ? " " : "s",
                   (unsigned long)sizeof(msc4203_reader), (unsigned long)whole.longest, cut.items);
        }
    }
}

static msc4203_span span_of(const char *string)
{
    msc4203_span span;
    span.ptr = string;
    span.len = strlen(string);
    return span;
}

static void send_to_transaction(void)
{
    static char made[4096];
    msc4203_reader reader;
    msc4203_writer writer;
    msc4203_item told;
    const msc4203_item *item;
    size_t bytes = load("requests/009-json-types.req"), made_bytes = 0;
    const char before[] = "{\"de.sorunome.msc2409.to_device\":[{\"content\":";
    const char behind[] = ",\"sender\":\"@alice:gw.example\",";
    const char content[] = "{\"t\":true,\"f\":false,\"n\":null,"; /* so it begins */
    msc4203_span sent = {NULL, 0};
    int result;

    printf("\n3. How such a message sets out: alice's client asks her homeserver to send it.\n\n"
           "     PUT /_matrix/client/v3/sendToDevice/m.dummy/t11\n\n");
    print_json(body, bytes);
    memset(&told, 0, sizeof told); /* the path tells the type, the access token the sender */
    told.sender = span_of("@alice:gw.example");
    told.type = span_of("m.dummy");

    msc4203_reader_init(&reader, MSC4203_SEND, MSC4203_TO_DEVICE, scratch, sizeof scratch);
    msc4203_reader_preset(&reader, &told);
    msc4203_reader_feed(&reader, body, bytes, 1);
    msc4203_writer_begin(&writer, MSC4203_TRANSACTION, MSC4203_UNSTABLE_KEYS, made, sizeof made);
    while ((result = msc4203_reader_next(&reader, &item)) == MSC4203_ITEM) {
        claim(msc4203_writer_item(&writer, item) == MSC4203_OK, "the message can be written");
        sent = item->content;
    }
    claim(result == MSC4203_END, "the request is valid");
    claim(msc4203_writer_end(&writer, &made_bytes) == MSC4203_OK, "the transaction is complete");
    printf(
        "\n   From this the library writes the transaction for the bridge. The content goes in\n"
        "   byte for byte, odd as it is: the sender that it claims stays inside it, and the\n"
        "   true one, whom the homeserver knows by the request's access token, stands behind:\n\n");
    print_json(made, made_bytes);
    claim(sent.len > sizeof content && memcmp(sent.ptr, content, sizeof content - 1) == 0,
          "the content is the one that was sent");
    claim(memcmp(made, before, sizeof before - 1) == 0 &&
              memcmp(made + sizeof before - 1, sent.ptr, sent.len) == 0 &&
              memcmp(made + sizeof before - 1 + sent.len, behind, sizeof behind - 1) == 0,
          "it is passed on byte for byte, with the true sender behind it");
}

static void sync(void)
{
    msc4203_reader reader;
    msc4203_item told;
    const msc4203_item *item;
    size_t bytes = load("sync/003-inclusive-initial.json");
    int result, messages = 0;

    printf(
        "\n4. An ordinary client is not sent its messages: it asks for them, with GET /sync. The\n"
        "   response does not say whom they are for. The client knows who it is, tells the\n"
        "   reader so, and gets items like those above:\n\n");
    memset(&told, 0, sizeof told); /* who asks is known, and not in the body */
    told.user_id = span_of("@shared_dave:gw.example");
    told.device_id = span_of("DAVEDEV");
    msc4203_reader_init(&reader, MSC4203_SYNC, MSC4203_ALL_KINDS, scratch, sizeof scratch);
    msc4203_reader_preset(&reader, &told);
    msc4203_reader_feed(&reader, body, bytes, 1);
    while ((result = msc4203_reader_next(&reader, &item)) == MSC4203_ITEM) {
        claim(item->error == MSC4203_OK, "every item can be used");
        if (item->kind == MSC4203_NEXT_BATCH) {
            printf("     next_batch, which acknowledges all this when it is sent back:\n       ");
            print_span(item->id);
            printf("\n");
        } else {
            messages++;
            print_item(item);
        }
    }
    claim(result == MSC4203_END && messages == 3, "there are three messages");
}

/* Reads a request that is to be refused. */
static void refuse(const char *name, int expected, const char *answer)
{
    msc4203_reader reader;
    const msc4203_item *item;
    size_t bytes = load(name), offset, from, to;
    int result;

    msc4203_reader_init(&reader, MSC4203_SEND, MSC4203_TO_DEVICE, scratch, sizeof scratch);
    msc4203_reader_feed(&reader, body, bytes, 1);
    do
        result = msc4203_reader_next(&reader, &item);
    while (result == MSC4203_ITEM);
    offset = (size_t)msc4203_reader_offset(&reader);
    claim(result == expected, "the body is refused for the right reason");
    claim(strcmp(msc4203_result_errcode(result), answer) == 0, "the answer is the right one");
    from = offset > 40 ? offset - 40 : 0;
    to = bytes - offset > 8 ? offset + 8 : bytes;
    printf("     %.*s\n     %*s^ byte %lu: %s. Answer: %d %s\n", (int)(to - from), body + from,
           (int)(offset - from), "", (unsigned long)offset, msc4203_result_text(result),
           msc4203_result_status(result), msc4203_result_errcode(result));
}

static void broken(void)
{
    msc4203_reader reader;
    const msc4203_item *item;
    size_t bytes, used = 0, unusable = 0;

    printf(
        "\n5. Three requests that are broken, and where. A homeserver refuses each of them, with\n"
        "   the HTTP status and Matrix error code that the library names:\n\n");
    refuse("requests/063-bad-trailing-comma.req", MSC4203_E_SYNTAX, "M_NOT_JSON");
    refuse("requests/029-bad-malformed.req", MSC4203_E_TRUNCATED, "M_NOT_JSON");
    refuse("requests/037-bad-messages-string.req", MSC4203_E_MESSAGES, "M_BAD_JSON");

    bytes = load("transactions/053-bad-input.json");
    msc4203_reader_init(&reader, MSC4203_TRANSACTION, MSC4203_ALL_KINDS, scratch, sizeof scratch);
    msc4203_reader_feed(&reader, body, bytes, 1);
    printf(
        "\n   But one bad item never costs the others. Some client once sent a number of 4,300\n"
        "   digits. Synapse passed it on in this transaction, and there are bridges that fail\n"
        "   on it, are sent it again, and fail again, for ever. Here that item is reported:\n\n");
    while (msc4203_reader_next(&reader, &item) == MSC4203_ITEM) {
        int error = msc4203_item_error(item);
        used += error == MSC4203_OK;
        if (error == MSC4203_OK)
            continue;
        unusable++;
        printf("     byte %lu, message %u: %s\n", (unsigned long)item->offset, item->index,
               msc4203_result_text(error));
    }
    claim(unusable == 1, "one item is unusable");
    claim(used > 0 && msc4203_reader_next(&reader, &item) == MSC4203_END, "the others are read");
    printf("     the other %lu items of the same body: read\n", (unsigned long)used);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        folder = argv[1];
    printf(
        "Matrix is an open network for chat. Its users' devices (phones, browsers) send each "
        "other\n"
        "small messages that belong to no room, mostly the keys that encrypted rooms are read\n"
        "with: to-device messages. Bridges to other networks (\"application services\") have "
        "users\n"
        "with devices too; how homeservers, as Matrix's servers are called, bring to-device\n"
        "messages to them is proposal MSC4203.\n\n"
        "msc4203.h reads and writes the JSON in which these messages travel. Here it is at work\n"
        "on what a real homeserver, Synapse, sent and was sent. Long lines are broken.\n\n");
    transaction();
    byte_by_byte();
    send_to_transaction();
    sync();
    broken();
    printf("\nAll of this was checked while it ran, and is so.\n");
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "bodies: standard output: it can't be written\n");
        return 2;
    }
    return 0;
}
