/* flash.c - the library on a raw NOR flash chip: a small homeserver's part, on a microcontroller
 * whose power fails all the time. SPDX: 0BSD
 *
 *     cc -I. -o flash example/flash.c msc4203.c
 *     flash [SEED]
 *
 * Four parts. To use the library on a chip of yours, copy the first two.
 *
 *   The store       a log on the chip. It uses four functions, flash_read(), flash_program(),
 *                   flash_erase() and flash_sync(): write these for your chip. Here they are in
 *                   flash_chip.h, with an emulated chip.
 *   The server      takes in requests, and delivers what they hold to an appservice
 *   The appservice  the other end. It has all it needs to recognise a transaction that comes again
 *   The trial       a client that sends messages, a network that loses answers, and a power supply
 *                   that fails, each time with the loss of everything in RAM. Checks that each
 *                   message arrives once, in order, as it was sent.
 *
 * No heap: `ram` is all that the first three parts use, and it fits a machine with 64 KiB. */
#include "flash_chip.h"
#include "msc4203.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- sizes ---- */

enum {
    MESSAGES = 96,        /* that can wait */
    DEVICES = 16,         /* for so many devices */
    REQUESTS = 64,        /* that are recognised when they come again */
    OPENINGS = 16,        /* after so many restarts a /sync token is still understood */
    MESSAGE_BYTES = 2048, /* of the largest message, with its ids */
    /* What msc4203_log_memory() says, which is asked too. */
    LOG_BYTES = 24 * MESSAGES + 40 * DEVICES + 24 * REQUESTS + 16 * OPENINGS + 512 + 3072,
    WORK_BYTES = 2 * MESSAGE_BYTES + 4672, /* see msc4203_sender_init() */
    PIECE_BYTES = 512,                     /* of a body, on its way */
    TRANSACTIONS = 8                       /* that the appservice remembers */
};

/* Everything in RAM that the store, the server and the appservice have. Lost with the power. */
static struct ram {
    /* the store */
    msc4203_storage storage;
    msc4203_log log;
    uint32_t log_memory[LOG_BYTES / 4];
    /* the server */
    msc4203_queue queue;
    msc4203_sender sender;
    uint32_t channel;
    char work[WORK_BYTES];
    char piece[PIECE_BYTES];
    /* the appservice */
    msc4203_receiver receiver;
    unsigned char memory[16 + 48 * TRANSACTIONS];
    char scratch[MESSAGE_BYTES];
    uint32_t first, last; /* messages of the transaction that it reads */
    /* a message in the making: the client's, or what the appservice expects */
    char content[MESSAGE_BYTES];
} ram;

/* Everything else: what does not lose its memory with the power of this board. */
struct outside {
    int begun;
    struct flash_chip chip;
    /* the appservice, durable: what its receiver remembers, and the last message that it has */
    unsigned char memory[16 + 48 * TRANSACTIONS];
    uint32_t taken;
    /* the client: the last request that was answered, and the last one that was sent */
    uint32_t answered, asked;
    /* time, in milliseconds since 1970; until when the appservice does not answer */
    uint64_t now, down;
    /* for the summary */
    uint32_t resets, formats, messages, known, full, failures, repeats;
};

#ifndef FLASH_OUTSIDE /* where it is: a small machine has other memory for it */
static struct outside outside_memory;
#define FLASH_OUTSIDE (&outside_memory)
#endif
static struct outside *const outside = FLASH_OUTSIDE;

static msc4203_span span(const char *text)
{
    msc4203_span made;

    made.ptr = text;
    made.len = strlen(text);
    return made;
}

/* The end, for whatever should not happen. */
static void fail(const char *what, int result)
{
    const char *refused = outside->chip.refused;

    printf("flash: %s: %s%s%s\n", what, msc4203_result_text(result),
           refused != NULL ? "; the chip was asked " : "", refused != NULL ? refused : "");
    exit(1);
}

/* Ends the program if `result` is an error. */
static void must(const char *what, int result)
{
    if (result < 0)
        fail(what, result);
}

/* ---- the store ---- */

#ifndef FLASH_STORAGE
#define FLASH_STORAGE storage_begin
/* The whole chip, or a part of it. A log needs at least 8 segments, of a block or several. */
static void storage_begin(msc4203_storage *storage)
{
    memset(storage, 0, sizeof *storage);
    storage->version = 1;
    storage->context = &outside->chip;
    storage->bytes = FLASH_BYTES;
    storage->sector = FLASH_SECTOR; /* what a power failure can damage while it is programmed */
    storage->block = FLASH_BLOCK;
    storage->read = flash_read;
    storage->write = flash_program;
    storage->erase = flash_erase;
    storage->sync = flash_sync;
}
#endif

/* Opens the log on the chip, after each start. The first time, makes one. (A device that is
 * updated should not do that by itself when there is a log of a later version: it can't read
 * that, but must not lose it either.) */
static int store_open(void)
{
    msc4203_log_config config;
    int result;

    FLASH_STORAGE(&ram.storage);
    result = msc4203_log_inspect(&ram.log, &ram.storage, &config);
    if (result == MSC4203_E_FORMAT) { /* a new chip, or the power failed while a log was made */
        memset(&config, 0, sizeof config);
        config.messages = MESSAGES;
        config.devices = DEVICES;
        config.requests = REQUESTS;
        config.openings = OPENINGS;
        config.message_bytes = MESSAGE_BYTES;
        outside->formats++;
        result = msc4203_log_format(&ram.log, &ram.storage, &config, ram.log_memory,
                                    sizeof ram.log_memory, chip_random(&outside->chip));
    }
    if (result != MSC4203_OK)
        return result;
    if (msc4203_log_memory(&ram.log, &ram.storage, &config) > sizeof ram.log_memory)
        return MSC4203_E_INDEX;
    return msc4203_log_open(&ram.log, &ram.storage, ram.log_memory, sizeof ram.log_memory,
                            chip_random(&outside->chip));
}

/* ---- the server ---- */

/* After each start. The sender finds out by itself what was in flight. */
static int server_start(void)
{
    msc4203_sender_config config;
    msc4203_span name = span("irc");
    int result = store_open();

    if (result != MSC4203_OK)
        return result;
    msc4203_log_queue(&ram.log, &ram.queue);
    result = ram.queue.channel(ram.queue.context, &name, 1, &ram.channel);
    if (result != MSC4203_OK)
        return result;
    memset(&config, 0, sizeof config);
    config.channel = ram.channel;
    config.messages_max = 10;
    config.bytes_max = 8000;
    config.retry_ms_min = 50;
    config.retry_ms_max = 800;
    return msc4203_sender_init(&ram.sender, &ram.queue, &config, outside->now, ram.work,
                               sizeof ram.work);
}

/* A client's request: each sendToDevice, or EDU, of real life. */
struct request {
    uint32_t number, count; /* of its messages */
    char sender[40], txn[16];
};

static void request_message(const struct request *request, uint32_t index, msc4203_item *item);

/* Takes a request in. Its client is to be answered after the next flush, and not before. */
static int server_accept(const struct request *request)
{
    msc4203_message message;
    msc4203_request id;
    msc4203_digest digest;
    unsigned char who[16], what[16];
    uint64_t first;
    uint32_t batch, i;
    int result = ram.queue.begin(ram.queue.context, &batch);

    if (result != MSC4203_OK)
        return result;
    memset(&message, 0, sizeof message);
    message.time_ms = outside->now;
    message.channels = (uint32_t)1 << ram.channel; /* what msc4203_route() says */
    for (i = 0; i < request->count && result == MSC4203_OK; i++) {
        request_message(request, i, &message.item);
        result = ram.queue.push(ram.queue.context, batch, &message);
    }
    if (result != MSC4203_OK) {
        ram.queue.abort(ram.queue.context, batch);
        return result;
    }
    msc4203_digest_init(&digest, msc4203_log_key(&ram.log));
    msc4203_digest_add(&digest, request->sender, strlen(request->sender));
    msc4203_digest_end(&digest, who);
    msc4203_digest_init(&digest, msc4203_log_key(&ram.log));
    msc4203_digest_add(&digest, request->txn, strlen(request->txn));
    msc4203_digest_end(&digest, what);
    memcpy(id.who, who, sizeof id.who);
    memcpy(id.what, what, sizeof id.what);
    return ram.queue.commit(ram.queue.context, batch, &id, &first);
}

/* The appservice's, below: what an HTTP client would reach over the network. */
static int appservice_begin(const char *path);
static int appservice_feed(const char *data, size_t bytes, int last);
static int network_fails(void);

/* Sends a transaction. Returns the HTTP status of the answer, or 0 when there is none. */
static int server_send(const msc4203_transaction *transaction)
{
    uint64_t at;
    size_t got;
    int status;

    if (network_fails())
        return 0;
    status = appservice_begin(transaction->path);
    for (at = 0; status == 0 && at < transaction->bytes; at += got) {
        must("msc4203_sender_read", msc4203_sender_read(&ram.sender, at, ram.work, sizeof ram.work,
                                                        ram.piece, sizeof ram.piece, &got));
        if (network_fails())
            return 0;
        status = appservice_feed(ram.piece, got, at + got == transaction->bytes);
    }
    return network_fails() ? 0 : status;
}

/* Delivers what waits, after each flush, and when the time has come. What the last answer changed
 * is durable with the next flush, whoever needs that: without it the transaction is only sent once
 * more, and recognised. Returns what the sender said last. */
static int server_deliver(void)
{
    const msc4203_transaction *transaction;
    uint64_t wait;
    int result, status;

    while ((result = msc4203_sender_poll(&ram.sender, outside->now, ram.work, sizeof ram.work,
                                         &transaction, &wait)) == MSC4203_REQUEST) {
        status = server_send(transaction);
        outside->failures += status != 200;
        must("msc4203_sender_result",
             msc4203_sender_result(&ram.sender, status, outside->now,
                                   (uint32_t)chip_random(&outside->chip), ram.work,
                                   sizeof ram.work));
    }
    must("msc4203_sender_poll", result);
    return result;
}

/* ---- the appservice ---- */

/* What is expected of it, by the trial. */
static void message_check(const msc4203_item *item);
static void transaction_check(int result);

static int appservice_start(void)
{
    msc4203_receiver_config config;

    memset(&config, 0, sizeof config);
    config.hs_token = span("HS_TOKEN");
    memcpy(ram.memory, outside->memory, sizeof ram.memory);
    return msc4203_receiver_init(&ram.receiver, &config, ram.memory, sizeof ram.memory,
                                 chip_random(&outside->chip));
}

/* Begins a request. Returns 0, or the status of an answer. */
static int appservice_begin(const char *path)
{
    msc4203_span method = span("PUT"), target = span(path), token = span("Bearer HS_TOKEN");
    int result = msc4203_receiver_request(&ram.receiver, &method, &target, &token, ram.scratch,
                                          sizeof ram.scratch);

    ram.first = ram.last = 0;
    return result == MSC4203_MORE ? 0 : msc4203_result_status(result);
}

/* Takes bytes of a body. Returns 0, or the status of an answer. */
static int appservice_feed(const char *data, size_t bytes, int last)
{
    const msc4203_item *item;
    int result = msc4203_receiver_feed(&ram.receiver, data, bytes, last);

    must("msc4203_receiver_feed", result);
    while ((result = msc4203_receiver_next(&ram.receiver, &item)) == MSC4203_ITEM)
        message_check(item); /* provisional */
    if (result == MSC4203_MORE)
        return 0;
    transaction_check(result);
    if (result == MSC4203_NEW) { /* what came, and what the receiver remembers of it: one step */
        memcpy(outside->memory, ram.memory, sizeof outside->memory);
        outside->taken = ram.last;
    }
    return msc4203_result_status(result);
}

/* ---- the trial ---- */

enum {
    RESETS = 300,   /* then the power stays */
    PER_REQUEST = 4 /* a message's number is 4 times its request's, and which it is: 0 to 2 */
};

/* A number that looks like chance, and is always the same for the same `n`. */
static uint32_t noise(uint32_t n)
{
    n = (n ^ n >> 16) * 0x7FEB352Du;
    n = (n ^ n >> 15) * 0x846CA68Bu;
    return n ^ n >> 16;
}

/* A request that is repeated is the same one. */
static void request_make(struct request *request, uint32_t number)
{
    request->number = number;
    request->count = 1 + noise(number) % 3;
    snprintf(request->sender, sizeof request->sender, "@alice_%u:gw.example",
             (unsigned)(number % 5));
    snprintf(request->txn, sizeof request->txn, "m%lu", (unsigned long)number);
}

static uint32_t message_after(uint32_t message)
{
    uint32_t request = message / PER_REQUEST, index = message % PER_REQUEST;

    if (request == 0 || index == noise(request) % 3)
        return (request + 1) * PER_REQUEST;
    return message + 1;
}

/* Most are small; some are of the size of an encrypted one, and a few as large as they may be. */
static void request_message(const struct request *request, uint32_t index, msc4203_item *item)
{
    static const char users[][24] = {"@_irc_ann:gw.example", "@_irc_bob:gw.example",
                                     "@_irc_carl:gw.example"};
    uint32_t message = request->number * PER_REQUEST + index, n = noise(message);
    size_t bytes = n % 16 == 0 ? 1000 + n / 16 % 900 : n % 4 == 0 ? 600 : 20 + n / 16 % 200;
    size_t at = (size_t)snprintf(ram.content, sizeof ram.content, "{\"n\":%lu,\"text\":\"",
                                 (unsigned long)message);

    for (; bytes != 0; bytes--)
        ram.content[at++] = (char)('a' + (n + bytes * bytes) % 26);
    ram.content[at++] = '"';
    ram.content[at++] = '}';
    memset(item, 0, sizeof *item);
    item->kind = MSC4203_TO_DEVICE;
    item->sender = span(request->sender);
    item->type = span("m.dummy");
    item->user_id = span(users[n % 3]);
    item->device_id = span("DEVICE");
    item->content.ptr = ram.content;
    item->content.len = at;
}

static int spans_differ(const msc4203_span *a, const msc4203_span *b)
{
    return a->len != b->len || memcmp(a->ptr, b->ptr, a->len) != 0;
}

/* The message must follow the one before it in its transaction, and be as it was sent. */
static void message_check(const msc4203_item *item)
{
    struct request request;
    msc4203_item sent;
    uint32_t message = 0;
    size_t i;

    must("a message", item->error);
    for (i = 5; i < item->content.len && item->content.ptr[i] != ','; i++)
        message = message * 10 + (uint32_t)(item->content.ptr[i] - '0');
    if (ram.first == 0)
        ram.first = message;
    else if (message != message_after(ram.last))
        fail("a transaction has the wrong messages", MSC4203_OK);
    ram.last = message;
    request_make(&request, message / PER_REQUEST);
    request_message(&request, message % PER_REQUEST, &sent);
    if (spans_differ(&item->content, &sent.content) || spans_differ(&item->sender, &sent.sender) ||
        spans_differ(&item->type, &sent.type) || spans_differ(&item->user_id, &sent.user_id) ||
        spans_differ(&item->device_id, &sent.device_id))
        fail("a message has changed", MSC4203_OK);
}

/* A new transaction must go on where the last one ended; a repeated one must have been there. */
static void transaction_check(int result)
{
    must("a transaction", result);
    if (result == MSC4203_NEW && ram.first != message_after(outside->taken))
        fail(ram.first <= outside->taken ? "a message came twice" : "a message was lost",
             MSC4203_OK);
    if (result != MSC4203_NEW && ram.last > outside->taken)
        fail("a message was taken for a repeated one", MSC4203_OK);
    outside->repeats += result != MSC4203_NEW;
}

/* The network, and the appservice's machine: down for a while, now and then. */
static int network_fails(void)
{
    struct flash_chip *chip = &outside->chip;

    chip_power(chip);
    if (chip_below(chip, 400) == 0)
        outside->down = outside->now + chip_below(chip, 4000);
    return outside->now < outside->down || chip_below(chip, 20) == 0;
}

/* Whether there is a request after this one: new ones come until the power stays, and each comes
 * until it was answered. */
static int client_goes_on(uint32_t request)
{
    return outside->resets < RESETS || request < outside->asked;
}

/* The client sends some requests. They are answered after one flush; an answer that the power did
 * not let through makes it send the same again. */
static void client_send(void)
{
    struct request request;
    uint32_t i, count = 1 + chip_below(&outside->chip, 4), messages = 0;
    int result;

    for (i = 0; i < count && client_goes_on(outside->answered + i); i++) {
        request_make(&request, outside->answered + 1 + i);
        outside->asked += request.number > outside->asked;
        result = server_accept(&request);
        outside->full += result == MSC4203_E_QUEUE_FULL;
        if (result == MSC4203_E_QUEUE_FULL)
            break; /* later, then */
        must("a request", result);
        outside->known += result == MSC4203_KNOWN;
        messages += request.count;
    }
    must("a flush", ram.queue.flush(ram.queue.context));
    chip_power(&outside->chip);
    outside->answered += i;
    outside->messages += messages;
}

#ifndef FLASH_RESET /* a machine that can be reset starts main() anew */
static jmp_buf power_on;
#define FLASH_START() ((void)setjmp(power_on))
/* What RAM holds after power loss is not to be relied on. */
#define FLASH_RESET() (memset(&ram, 0xA5, sizeof ram), longjmp(power_on, 1))
#else
#define FLASH_START() ((void)0)
#endif

/* The power comes back, for a while: for hardly a moment, or long enough for some work. */
static void power_again(void)
{
    struct flash_chip *chip = &outside->chip;
    uint32_t most = chip_below(chip, 4) == 0 ? 50 : chip_below(chip, 8) == 0 ? 10000 : 1500;

    chip->power = outside->resets < RESETS ? 1 + chip_below(chip, most) : 0;
}

static void power_lost(void)
{
    outside->resets++;
    power_again();
    FLASH_RESET();
}

static void summary(void)
{
    const struct flash_chip *chip = &outside->chip;
    uint32_t i, least = chip->wear[0], most = chip->wear[0];

    for (i = 1; i < FLASH_BLOCKS; i++) {
        least = chip->wear[i] < least ? chip->wear[i] : least;
        most = chip->wear[i] > most ? chip->wear[i] : most;
    }
    printf("%lu messages delivered, each once and in order, through %lu resets\n",
           (unsigned long)outside->messages, (unsigned long)outside->resets);
    printf("%lu transactions failed, %lu came twice; %lu requests came twice, %lu had to wait\n",
           (unsigned long)outside->failures, (unsigned long)outside->repeats,
           (unsigned long)outside->known, (unsigned long)outside->full);
    printf("chip: %lu KiB, %lu sectors programmed, %lu erases (%lu for 100 messages), "
           "%lu to %lu of each block\n",
           (unsigned long)(FLASH_BYTES / 1024), (unsigned long)chip->programs,
           (unsigned long)chip->erases,
           (unsigned long)(chip->erases * 100u / (outside->messages + !outside->messages)),
           (unsigned long)least, (unsigned long)most);
    printf("RAM: %lu bytes: log %lu, sender %lu, receiver %lu, the rest %lu\n",
           (unsigned long)sizeof ram, (unsigned long)(sizeof ram.log + sizeof ram.log_memory),
           (unsigned long)(sizeof ram.sender + sizeof ram.work + sizeof ram.piece),
           (unsigned long)(sizeof ram.receiver + sizeof ram.memory + sizeof ram.scratch),
           (unsigned long)(sizeof ram.storage + sizeof ram.queue + sizeof ram.content +
                           3 * sizeof ram.channel));
}

/* From power on to the next power off, or to the end. */
static void run(void)
{
    struct flash_chip *chip = &outside->chip;
    msc4203_log_usage usage;
    int idle = 0;

    must("the start", server_start());
    must("the appservice's start", appservice_start());
    msc4203_log_usage_get(&ram.log, &usage);
    if (usage.damaged != 0)
        fail("the start", MSC4203_E_DAMAGED); /* power loss damages nothing that was flushed */
    while (client_goes_on(outside->answered) || !idle) {
        outside->now += 1 + chip_below(chip, 100);
        if (client_goes_on(outside->answered))
            client_send();
        idle = server_deliver() == MSC4203_IDLE;
        if (outside->resets < RESETS && chip_below(chip, 200) == 0) { /* an orderly restart */
            must("msc4203_log_close", msc4203_log_close(&ram.log));
            power_lost();
        }
    }
    must("a flush", ram.queue.flush(ram.queue.context));
    msc4203_log_usage_get(&ram.log, &usage);
    if (message_after(outside->taken) != (outside->answered + 1) * PER_REQUEST)
        fail("not all messages have arrived", MSC4203_OK);
    if (usage.messages != 0)
        fail("messages wait that have been delivered", MSC4203_OK);
}

int main(int argc, char **argv)
{
    if (!outside->begun) {
        memset(outside, 0, sizeof *outside);
        chip_begin(&outside->chip, argc > 1 ? strtoul(argv[1], NULL, 10) : 1);
        outside->now = UINT64_C(1800000000000);
        power_again();
        outside->begun = 1;
    }
    FLASH_START();
    run();
    summary();
    return 0;
}
