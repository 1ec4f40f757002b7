/* stream.c - reads a transaction of over 1 MB that arrives in pieces of 256 bytes, in less than 4
 * KiB of RAM: static objects and stack, nothing else. The body is never anywhere as a whole: it is
 * made byte by byte, and what is read is compared with the same bytes, made once more. */
#include <string.h>

#include "mcu.h"
#include "msc4203.h"

enum { CHUNK = 256, SCRATCH = 1792, RAM_MAX = 4096, MESSAGES = 1000, EVENTS = 100 };
enum { LONG_EVERY = 100, LONG_BYTES = 5000 }; /* these messages are longer than the scratch */

/* In a template # stands for the message's number, in six digits, and $ for its ciphertext. */
static const char head[] = "{\"events\":[";
static const char event[] = "{\"content\":{\"body\":\"event # \\u00e9 "
                            "\xe2\x82\xac\"},\"event_id\":\"$#\",\"n\":[1.5e3,-0,{}]}";
static const char between[] = "],\"de.sorunome.msc2409.to_device\":[";
static const char begin[] = "{\"content\":";
static const char content[] = "{\"algorithm\":\"m.megolm.v1.aes-sha2\",\"ciphertext\":\"$\","
                              "\"note\":\"\\ud83d\\ude00 \xf0\x9f"
                              "\x98\x80\",\"session\":[#e0,null,true,{\"x\":\"\\\\\"}]}";
static const char rest[] =
    ",\"sender\":\"@user#:example.org\",\"to_device_id\":\"DEV\\t#\","
    "\"to_user_id\":\"@_irc_#:example.org\",\"type\":\"org.example.caf\\u00e9\"}";
static const char tail[] = "]}";

/* A place in a text that is made from a template. */
typedef struct place {
    const char *at;
    unsigned long number;
    unsigned inside; /* how many bytes of what # or $ stands for have been made */
} place;

static unsigned ciphertext_bytes(unsigned long number)
{
    return number % LONG_EVERY == LONG_EVERY - 1 ? LONG_BYTES : 600 + (unsigned)(number * 37 % 900);
}

/* The next byte, or -1 at the end of the template. */
static int next_byte(place *p)
{
    static const unsigned long powers[] = {100000, 10000, 1000, 100, 10, 1};
    unsigned i = p->inside++;
    if (*p->at == '#') {
        p->at += i == 5;
        p->inside %= 6;
        if (i == 0 && p->number < 100000)
            return '1'; /* a JSON number has no leading zeros */
        return (int)('0' + p->number / powers[i] % 10);
    }
    if (*p->at == '$') {
        if (p->inside == ciphertext_bytes(p->number)) {
            p->at++;
            p->inside = 0;
        }
        return "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
            [(p->number * 7 + i * 11 + i / 64) % 64];
    }
    p->inside = 0;
    return *p->at ? (unsigned char)*p->at++ : -1;
}

static place start(const char *text, unsigned long number)
{
    place p;
    p.at = text;
    p.number = number;
    p.inside = 0;
    return p;
}

static int is(const msc4203_span *span, const char *text, unsigned long number)
{
    place p = start(text, number);
    size_t i;
    for (i = 0; i < span->len; i++)
        if (next_byte(&p) != (unsigned char)span->ptr[i])
            return 0;
    return next_byte(&p) == -1;
}

static struct {
    msc4203_reader reader;
    char scratch[SCRATCH], chunk[CHUNK];
    place at;
    unsigned long part, bytes, messages, long_ones, wrong;
} all;

/* The next byte of the body: the head, the events with commas between, and so on. */
static int body_byte(void)
{
    static const char comma[] = ",";
    for (;;) {
        int c = next_byte(&all.at);
        unsigned long part = all.part, i;
        if (c >= 0)
            return c;
        all.part++;
        if (part < 2 * EVENTS) {
            all.at = part % 2 == 0 ? start(event, part / 2)
                                   : start(part == 2 * EVENTS - 1 ? between : comma, 0);
            continue;
        }
        part -= 2 * EVENTS;
        i = part / 4;
        if (i == MESSAGES)
            return -1;
        if (part % 4 == 0)
            all.at = start(begin, i);
        else if (part % 4 == 1)
            all.at = start(content, i);
        else if (part % 4 == 2)
            all.at = start(rest, i);
        else
            all.at = start(i == MESSAGES - 1 ? tail : comma, i);
    }
}

static void check(const msc4203_item *item)
{
    unsigned long n = all.messages++;
    int is_long = n % LONG_EVERY == LONG_EVERY - 1, ok;
    all.long_ones += (unsigned long)is_long;
    ok = item->kind == MSC4203_TO_DEVICE && item->index == n && item->flags == 0 &&
         is(&item->sender, "@user#:example.org", n) && is(&item->device_id, "DEV\t#", n) &&
         is(&item->user_id, "@_irc_#:example.org", n) &&
         is(&item->type, "org.example.caf\xc3\xa9", n);
    if (is_long)
        ok = ok && item->error == MSC4203_E_TOO_LARGE && item->content.len == 0;
    else
        ok = ok && item->error == MSC4203_OK && is(&item->content, content, n);
    all.wrong += !ok;
}

void mcu_start(void)
{
}

static void say(const char *text, size_t number)
{
    mcu_say(text);
    mcu_say_number(number);
}

int main(void)
{
    const msc4203_item *item;
    size_t used;
    int result, c, failed;
    all.at = start(head, 0);
    msc4203_reader_init(&all.reader, MSC4203_TRANSACTION, MSC4203_TO_DEVICE, all.scratch, SCRATCH);
    do {
        size_t n = 0;
        while (n < CHUNK && (c = body_byte()) >= 0)
            all.chunk[n++] = (char)c;
        all.bytes += n;
        msc4203_reader_feed(&all.reader, all.chunk, n, n < CHUNK);
        while ((result = msc4203_reader_next(&all.reader, &item)) == MSC4203_ITEM)
            check(item);
    } while (result == MSC4203_MORE);
    used = mcu_static_used() + mcu_stack_used();
    failed = result != MSC4203_END || all.messages != MESSAGES || all.wrong != 0 ||
             all.bytes <= 1000000 || all.long_ones != MESSAGES / LONG_EVERY || used >= RAM_MAX;
    say("stream: a body of ", all.bytes);
    say(" bytes, ", all.messages);
    say(" messages, ", all.wrong);
    say(" of them wrong; RAM: ", used);
    say(" bytes, of which the reader ", sizeof all.reader);
    say(", its scratch ", SCRATCH);
    say(", the chunk ", CHUNK);
    say(", the stack ", mcu_stack_used());
    if (result != MSC4203_END) {
        mcu_say("; ");
        mcu_say(msc4203_result_text(result));
        say(" at ", (size_t)msc4203_reader_offset(&all.reader));
    }
    mcu_say(failed ? "\nstream: 0 passed, 1 failed\n" : "\nstream: 1 passed, 0 failed\n");
    return failed;
}
