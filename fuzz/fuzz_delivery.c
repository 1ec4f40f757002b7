/* fuzz_delivery.c - a sender on a log in memory against a receiver, with faults on the way.
 *
 * The first 4 bytes choose limits; each step then takes bytes: a push, a poll with what becomes of
 * the request, a restart. At the end everything is let through. Every body has to parse, and what
 * was pushed and not parked must have arrived once, in order for each device, byte for byte.
 * (Power loss is for fuzz_log_ops and test/test_sim.c.) */
#include "common.h"

const char fuzz_name[] = "fuzz_delivery";

enum { LIMITS, SIZES, ENTRIES, HOW, CHOICES };
enum { REGION = 96 * 1024, STEPS = 300, PUSHES = 300, CONTENT = 200, TYPE = 48, DEVICES = 8 };
enum { LARGEST = 2000, WORK = 2 * LARGEST + 4672, SCRATCH = 4096, BODY_MAX = 200000 };

/* A message, as it was pushed: its number is the first four bytes of its type. */
struct pushed {
    char type[TYPE], content[CONTENT];
    size_t type_bytes, content_bytes;
    unsigned device;
    int good; /* each appservice can read it */
    int arrived, parked;
};

static struct {
    const uint8_t *input;
    size_t left;
    uint32_t seed;
    /* the homeserver */
    msc4203_storage storage;
    msc4203_log log;
    msc4203_queue queue;
    msc4203_sender sender;
    msc4203_sender_config config;
    void *region, *index;
    char *work;
    size_t index_bytes;
    uint64_t now, openings;
    uint32_t channel;
    /* the request that was made last */
    char id[48];
    char *body;
    size_t body_bytes;
    int processed, refused; /* by the appservice: it is NEW no more; it has said 413 */
    /* the appservice */
    msc4203_receiver receiver;
    char *memory;
    size_t memory_bytes;
    unsigned kinds;
    /* what is to come of it */
    struct pushed list[PUSHES];
    unsigned count, last[DEVICES];
} f;

static const char *const users[DEVICES] = {"@a:x",    "@a:x",       "@a:x",
                                           "@b\"\\\n:x", "@\303\251\360\237\230\200", "@c/\001\177",
                                           "*",       "@\377:x"};
static const char *const devices[DEVICES] = {"D", "E\"", "\\u0044", "*", "\t\b\f", "", "D", "D"};

/* When the input is used up, it is chance. */
static unsigned below(unsigned n)
{
    unsigned byte;
    if (f.left) {
        f.left--;
        byte = *f.input++;
    } else {
        byte = fuzz_random(&f.seed) >> 8 & 255;
    }
    return byte % n;
}

static msc4203_span span(const char *text)
{
    msc4203_span s;
    s.ptr = text;
    s.len = strlen(text);
    return s;
}

/* ---- the homeserver ---- */

static void siblings(void *context, const msc4203_message *message, msc4203_writer *writer)
{
    msc4203_item item;
    (void)context;
    if (message)
        return;
    memset(&item, 0, sizeof item);
    item.kind = MSC4203_DEVICE_CHANGED;
    item.user_id = span(users[3]);
    FUZZ_CHECK(msc4203_writer_item(writer, &item) == MSC4203_OK);
}

static void start_sender(void)
{
    FUZZ_CHECK(msc4203_sender_init(&f.sender, &f.queue, &f.config, f.now, f.work, WORK) ==
               MSC4203_OK);
}

static void open_log(void)
{
    msc4203_span name = span("irc");
    FUZZ_CHECK(msc4203_log_open(&f.log, &f.storage, f.index, f.index_bytes,
                                0x1234567890ABCDEFu + 77 * ++f.openings) == MSC4203_OK);
    msc4203_log_queue(&f.log, &f.queue);
    FUZZ_CHECK(f.queue.channel(f.queue.context, &name, 1, &f.channel) == MSC4203_OK);
    FUZZ_CHECK(f.queue.flush(f.queue.context) == MSC4203_OK);
    f.config.channel = f.channel;
    start_sender();
}

/* A content: of a few kinds, or bytes of the input between braces. */
static void make_content(struct pushed *p)
{
    static const char *const texts[] = {"{}", "{\"k\":[1,2.5e-3,\"\\\"\\u00e9\\ud83d\\ude00\"]}",
                                        "{ \"a\" :\n[ ] }", "{\"s\":\"\\ud800\"}", "{\"n\":1e999}",
                                        "[]", "{\"a\":\"\355\240\200\"}"};
    unsigned kind = below(12), i;
    size_t offset;
    memset(p->content, 'x', sizeof p->content);
    if (kind < 7) {
        p->content_bytes = strlen(texts[kind]);
        memcpy(p->content, texts[kind], p->content_bytes);
    } else if (kind < 10) { /* {"xxx":1} */
        p->content_bytes = 6 + below(CONTENT - 6);
        memcpy(p->content, "{\"", 2);
        memcpy(p->content + p->content_bytes - 4, "\":1}", 4);
    } else {
        p->content_bytes = 2 + below(60);
        for (i = 1; i + 1 < p->content_bytes; i++)
            p->content[i] = (char)below(256);
        p->content[0] = '{';
        p->content[p->content_bytes - 1] = '}';
    }
    p->good = p->content[0] == '{' &&
              fuzz_verdict(p->content, p->content_bytes, &offset) == MSC4203_END &&
              fuzz_flags(p->content, p->content_bytes) == 0 && fuzz_utf8(p->type, p->type_bytes) &&
              fuzz_utf8(users[p->device], strlen(users[p->device]));
}

/* Pushes a batch. What does not fit was not pushed. */
static void push(void)
{
    unsigned n = 1 + below(4), i, k, first = f.count;
    msc4203_message message;
    uint32_t batch;
    uint64_t number;
    int result = f.queue.begin(f.queue.context, &batch);
    FUZZ_CHECK(result == MSC4203_OK);
    for (i = 0; i < n && f.count < PUSHES && result == MSC4203_OK; i++) {
        struct pushed *p = &f.list[f.count];
        memset(p, 0, sizeof *p);
        p->device = below(DEVICES);
        p->type_bytes = (size_t)snprintf(p->type, sizeof p->type, "%04u", f.count);
        for (k = below(8); k != 0; k--)
            p->type[p->type_bytes++] = "\"\\/\b\n\177x\200"[below(32) ? below(7) : 7];
        make_content(p);
        memset(&message, 0, sizeof message);
        message.channels = (uint32_t)1 << f.channel;
        message.time_ms = f.now;
        message.item.sender = span("@s\":y");
        message.item.type.ptr = p->type;
        message.item.type.len = p->type_bytes;
        message.item.user_id = span(users[p->device]);
        message.item.device_id = span(devices[p->device]);
        message.item.content.ptr = p->content;
        message.item.content.len = p->content_bytes;
        result = f.queue.push(f.queue.context, batch, &message);
        f.count += result == MSC4203_OK;
    }
    if (result == MSC4203_OK)
        result = f.queue.commit(f.queue.context, batch, NULL, &number);
    else
        FUZZ_CHECK(f.queue.abort(f.queue.context, batch) == MSC4203_OK);
    if (result != MSC4203_OK) {
        FUZZ_CHECK(result == MSC4203_E_QUEUE_FULL);
        f.count = first;
    }
    FUZZ_CHECK(f.queue.flush(f.queue.context) == MSC4203_OK);
}

/* ---- the appservice ---- */

static void start_receiver(void)
{
    msc4203_receiver_config config;
    memset(&config, 0, sizeof config);
    config.hs_token = span("token");
    config.kinds = f.kinds;
    FUZZ_CHECK(msc4203_receiver_init(&f.receiver, &config, f.memory, f.memory_bytes, 0x4203) ==
               MSC4203_OK);
}

static struct pushed *pushed_by(const msc4203_item *item)
{
    char digits[5];
    struct pushed *p;
    FUZZ_CHECK(item->type.ptr && item->type.len >= 4);
    memcpy(digits, item->type.ptr, 4);
    digits[4] = 0;
    p = &f.list[strtoul(digits, NULL, 10)];
    FUZZ_CHECK(p < f.list + f.count);
    FUZZ_CHECK(item->type.len == p->type_bytes && !memcmp(item->type.ptr, p->type, p->type_bytes));
    FUZZ_CHECK(msc4203_span_equal(&item->sender, "@s\":y"));
    FUZZ_CHECK(msc4203_span_equal(&item->user_id, users[p->device]));
    FUZZ_CHECK(msc4203_span_equal(&item->device_id, devices[p->device]));
    FUZZ_CHECK(item->content.len == p->content_bytes &&
               !memcmp(item->content.ptr, p->content, p->content_bytes));
    return p;
}

/* Takes the body of the request in; keeps what comes of it if `keep`, else it forgets it again. */
static void take(const msc4203_transaction *transaction, int keep)
{
    static char scratch[SCRATCH];
    static unsigned serial[PUSHES];
    const msc4203_item *item;
    msc4203_span method = span("PUT"), target, header = span("Bearer token");
    size_t at = 0, n;
    unsigned count = 0, i;
    int result;
    target = span(transaction->path);
    FUZZ_CHECK(msc4203_receiver_request(&f.receiver, &method, &target, &header, scratch,
                                        sizeof scratch) == MSC4203_MORE);
    do {
        char *piece;
        n = 1 + below(255) * (size_t)3;
        n = n < f.body_bytes - at ? n : f.body_bytes - at;
        piece = fuzz_copy(f.body + at, n);
        at += n;
        FUZZ_CHECK(msc4203_receiver_feed(&f.receiver, piece, n, at == f.body_bytes) ==
                   MSC4203_OK);
        while ((result = msc4203_receiver_next(&f.receiver, &item)) == MSC4203_ITEM) {
            FUZZ_CHECK(msc4203_item_error(item) == MSC4203_OK);
            if (item->kind != MSC4203_TO_DEVICE)
                continue;
            FUZZ_CHECK(count < PUSHES);
            serial[count++] = (unsigned)(pushed_by(item) - f.list);
        }
        free(piece);
    } while (result == MSC4203_MORE);
    FUZZ_CHECK(at == f.body_bytes && count == transaction->count);
    FUZZ_CHECK(result == (f.processed ? MSC4203_REPEAT : MSC4203_NEW));
    if (f.processed)
        return;
    if (!keep) {
        msc4203_receiver_reject(&f.receiver);
        return;
    }
    f.processed = 1;
    for (i = 0; i < count; i++) {
        struct pushed *p = &f.list[serial[i]];
        FUZZ_CHECK(p->good && !p->arrived && !p->parked);
        FUZZ_CHECK(f.last[p->device] <= serial[i]); /* one more than the last one's */
        f.last[p->device] = serial[i] + 1;
        p->arrived = 1;
    }
}

/* ---- the way between ---- */

/* Reads so many bytes from a place of the body, into exact memory. */
static char *read_at(size_t at, size_t bytes, size_t *got)
{
    char *data = (char *)fuzz_alloc(bytes);
    FUZZ_CHECK(msc4203_sender_read(&f.sender, at, f.work, WORK, data, bytes, got) == MSC4203_OK);
    return data;
}

/* Reads the body; under the same id it must be the same. Then reads in it again. */
static void read_body(const msc4203_transaction *transaction)
{
    size_t bytes = (size_t)transaction->bytes, at = 0, got, n;
    int known = f.body && !strcmp(f.id, transaction->id), i;
    char *body, *data;
    FUZZ_CHECK(bytes && bytes < BODY_MAX);
    body = (char *)fuzz_alloc(bytes);
    while (at < bytes) {
        n = 1 + below(255) * (size_t)7;
        data = read_at(at, n, &got);
        FUZZ_CHECK(got == (n < bytes - at ? n : bytes - at));
        memcpy(body + at, data, got);
        at += got;
        free(data);
    }
    FUZZ_CHECK(fuzz_verdict(body, bytes, &got) == MSC4203_END);
    for (i = 0; i < 3; i++) {
        at = (below(256) * (size_t)256 + below(256)) % (bytes + 1);
        n = below(256);
        data = read_at(at, n, &got);
        FUZZ_CHECK(got == (n < bytes - at ? n : bytes - at) && !memcmp(data, body + at, got));
        free(data);
    }
    if (known) {
        FUZZ_CHECK(bytes == f.body_bytes && !memcmp(body, f.body, bytes));
    } else {
        f.processed = f.refused = 0;
        memcpy(f.id, transaction->id, sizeof f.id);
    }
    free(f.body);
    f.body = body;
    f.body_bytes = bytes;
}

/* Polls, and lets become of a request what the input says. Returns what the poll says. */
static int deliver(int settle)
{
    static const int statuses[] = {0, 401, 403, 404, 405, 429, 500, 502, 302};
    const msc4203_transaction *transaction;
    uint64_t wait = 0;
    int result = msc4203_sender_poll(&f.sender, f.now, f.work, WORK, &transaction, &wait);
    int status = 200;
    if (result == MSC4203_WAIT) {
        if (settle || below(3))
            f.now += wait;
        else
            msc4203_sender_wake(&f.sender);
        return result;
    }
    FUZZ_CHECK(result == MSC4203_REQUEST || result == MSC4203_IDLE);
    if (result != MSC4203_REQUEST)
        return result;
    read_body(transaction);
    switch (settle ? 0 : below(8)) {
    case 0:
    case 1:
    case 2:
        take(transaction, 1);
        break;
    case 3: /* the answer is lost, or is made into another one */
        take(transaction, 1);
        status = below(2) ? 0 : 504;
        break;
    case 4: /* it could not keep it */
        take(transaction, 0);
        status = 500;
        break;
    case 5: /* what has been processed is not refused for its size */
        if (!f.processed)
            status = 413;
        else
            take(transaction, 1);
        break;
    case 6:
        status = statuses[below(sizeof statuses / sizeof *statuses)];
        break;
    default: /* the sender goes down before the answer */
        if (below(2))
            take(transaction, 1);
        start_sender();
        return result;
    }
    FUZZ_CHECK(msc4203_sender_result(&f.sender, status, f.now, below(256) * 0x01010101u, f.work,
                                     WORK) == MSC4203_OK);
    f.refused |= status == 413;
    return result;
}

static void step(void)
{
    switch (below(16)) {
    case 0:
    case 1:
    case 2:
    case 3:
        push();
        break;
    case 4:
        start_sender();
        break;
    case 5: /* the homeserver too */
        FUZZ_CHECK(f.queue.flush(f.queue.context) == MSC4203_OK);
        if (below(2))
            FUZZ_CHECK(msc4203_log_close(&f.log) == MSC4203_OK);
        open_log();
        break;
    case 6:
        start_receiver();
        break;
    case 7:
        FUZZ_CHECK(f.queue.flush(f.queue.context) == MSC4203_OK);
        break;
    default:
        deliver(0);
        break;
    }
}

/* Lets everything through, and looks for each message. */
static void settle(int any_413)
{
    msc4203_message message;
    uint64_t after = 0;
    unsigned i;
    int result = MSC4203_OK;
    for (i = 0; i < 10 * PUSHES && result != MSC4203_IDLE; i++)
        result = deliver(1);
    FUZZ_CHECK(result == MSC4203_IDLE);
    FUZZ_CHECK(f.queue.flush(f.queue.context) == MSC4203_OK);
    while ((result = f.queue.next(f.queue.context, MSC4203_CHANNEL_PARKED, NULL, after, f.work,
                                  WORK, &message)) == MSC4203_ITEM) {
        struct pushed *p = pushed_by(&message.item);
        FUZZ_CHECK(!p->parked && !p->arrived);
        FUZZ_CHECK(any_413 || !p->good); /* else there is no reason for it */
        p->parked = 1;
        after = message.number;
    }
    FUZZ_CHECK(result == MSC4203_END);
    for (i = 0; i < f.count; i++)
        FUZZ_CHECK(f.list[i].arrived + f.list[i].parked == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    msc4203_log_config config;
    unsigned i;
    int any_413 = 0;
    if (size < CHOICES)
        return 0;
    memset(&f, 0, sizeof f);
    f.input = data + CHOICES;
    f.left = size - CHOICES;
    f.seed = 0x4203;
    f.now = 1700000000000u;
    memset(&config, 0, sizeof config);
    config.devices = 16;
    config.requests = 16;
    config.openings = 8;
    config.message_bytes = LARGEST;
    f.region = fuzz_alloc(REGION);
    memset(f.region, 0, REGION);
    msc4203_memory_storage(&f.storage, f.region, REGION);
    f.index_bytes = msc4203_log_memory(&f.log, &f.storage, &config);
    FUZZ_CHECK(f.index_bytes);
    f.index = fuzz_alloc(f.index_bytes);
    f.work = (char *)fuzz_alloc(WORK);
    FUZZ_CHECK(msc4203_log_format(&f.log, &f.storage, &config, f.index, f.index_bytes, 0x4203) ==
               MSC4203_OK);
    f.config.messages_max = data[LIMITS] & 15;
    f.config.bytes_max = data[SIZES] & 128 ? 0 : 200 + (data[SIZES] & 127u) * 16;
    f.config.flags = data[HOW] & 1 ? MSC4203_STABLE_KEYS : MSC4203_UNSTABLE_KEYS;
    f.config.siblings = data[HOW] & 2 ? siblings : NULL;
    f.kinds = data[HOW] & 4 ? MSC4203_ALL_KINDS : 0;
    f.memory_bytes = 16 + 48 * (1 + (data[ENTRIES] & 3u));
    f.memory = (char *)fuzz_alloc(f.memory_bytes);
    memset(f.memory, 0, f.memory_bytes);
    start_receiver();
    open_log();
    for (i = 0; i < STEPS && f.left; i++) {
        step();
        any_413 |= f.refused;
    }
    settle(any_413);
    free(f.body);
    free(f.region);
    free(f.index);
    free(f.work);
    free(f.memory);
    return 0;
}
