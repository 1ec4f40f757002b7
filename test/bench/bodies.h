/* bodies.h - the transaction bodies that the benchmarks read, made from a seed: the same bytes on
 * every machine. They are what Synapse writes: minified, keys sorted, UTF-8 raw, unstable keys. */
#ifndef BODIES_H
#define BODIES_H

#include <stddef.h>

enum body_kind {
    BODY_OLM,   /* 100 m.room.encrypted messages of about 1.3 KB of base64 */
    BODY_SMALL, /* 10,000 m.room_key_request messages of about 250 bytes */
    BODY_MIXED, /* 690 messages of every kind, and all that travels beside them */
    BODY_BIG,   /* 100 messages with contents of 65,536 bytes */
    BODY_KINDS, /* how many there are above; below, hostile ones */

    BODY_BRACKETS = BODY_KINDS, /* a content of brackets, as deep as is read, again and again */
    BODY_DEEP,                  /* a content of opening brackets, then as many closing ones */
    BODY_BACKSLASHES,           /* a content that is one string of escaped backslashes */
    BODY_ESCAPED_ID,            /* the same in a string that has to be unescaped: a user id */
    BODY_KEYS,                  /* a message with unknown keys, all different */
    BODY_DUPLICATES,            /* a message with each of its keys given again and again */
    BODY_STRING,                /* a content that is one long string of letters */
    BODY_ALL_KINDS
};

/* The name of a body, for tables and files: "olm". */
const char *body_name(int kind);

/* Makes a body of about `bytes` bytes (0: of the size given above; for hostile ones, 1 MiB).
 * Returns malloc'ed memory, and sets *size. Ends the program when there is no memory. */
char *body_make(int kind, size_t bytes, size_t *size);

#endif
