/* gateway_keys.h - finds keys that are given twice in a sendToDevice body, as it passes: the reader
 * takes the first `messages` and skips another one, and does not tell where a user's object ends.
 *
 * It need not be right about what is not JSON: the reader refuses that. */
#ifndef GATEWAY_KEYS_H
#define GATEWAY_KEYS_H

#include "gateway_state.h"

static void keys_begin(struct keys *k)
{
    memset(k, 0, sizeof *k);
}

/* The value of a hexadecimal digit, 16 for anything else. */
static unsigned keys_hex(unsigned c)
{
    return c - '0' < 10 ? c - '0' : (c | 0x20) - 'a' < 6 ? (c | 0x20) - 'a' + 10 : 16;
}

/* A character of a string in the root object: is it a key that says `messages`? */
static void keys_compare(struct keys *k, unsigned c)
{
    static const char name[] = "messages";

    if (k->matched < sizeof name - 1 && c == (unsigned char)name[k->matched])
        k->matched++;
    else
        k->matched = sizeof name; /* it does not */
}

static void keys_in_string(struct keys *k, unsigned c)
{
    if (k->escape >= 2) { /* \uXXXX */
        k->code = k->code << 4 | keys_hex(c);
        if (k->escape++ == 5) {
            k->escape = 0;
            keys_compare(k, k->code);
        }
    } else if (k->escape == 1) { /* no other escape is a letter of the name */
        k->escape = c == 'u' ? 2 : 0;
        k->code = 0;
        if (c != 'u')
            keys_compare(k, 0);
    } else if (c == '\\') {
        k->escape = 1;
    } else if (c == '"') {
        k->in_string = 0;
    } else {
        keys_compare(k, c);
    }
}

static void keys_outside(struct keys *k, unsigned c)
{
    switch (c) {
    case '"':
        k->in_string = 1;
        k->matched = 0;
        break;
    case ':':
        if (k->depth == 1) {
            k->in_messages = k->matched == 8;
            k->messages += k->in_messages;
        } else if (k->depth == 2 && k->in_messages) {
            k->users++;
        }
        break;
    case '{':
    case '[':
        k->depth++;
        break;
    case '}':
    case ']':
        k->depth--;
        break;
    default:
        break;
    }
}

/* Looks on, up to the byte `to` of the body, of which `data` are the `bytes` from `from` on. */
static void keys_look(struct keys *k, uint64_t to, const char *data, size_t bytes, uint64_t from)
{
    while (k->at < to && k->at - from < bytes) {
        const char *p = data + (k->at - from);

        if (k->in_string && k->depth != 1 && k->escape == 0 && *p != '"' && *p != '\\') {
            const char *end = data + (to - from < bytes ? (size_t)(to - from) : bytes);
            while (p < end && *p != '"' && *p != '\\') /* what is in there does not matter */
                p++;
            k->at = from + (uint64_t)(p - data);
            continue;
        }
        if (k->in_string)
            keys_in_string(k, (unsigned char)*p);
        else
            keys_outside(k, (unsigned char)*p);
        k->at++;
    }
}

#endif
