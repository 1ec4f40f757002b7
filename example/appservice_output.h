/* appservice_output.h - the appservice's output: a line for each item. SPDX: 0BSD
 *
 * Lines are written as items come, and are provisional. output_keep() makes them durable and then
 * the state, which says how long the output is; output_cut() takes them back. So a transaction is
 * in the output as a whole or not at all, whenever the program is killed: what is behind the length
 * in the state is cut off at the next start.
 *
 * The output belongs to others too, who may rotate it or cut it short. Its real length is looked at
 * before a transaction is taken and before it is acknowledged. */
#ifndef APPSERVICE_OUTPUT_H
#define APPSERVICE_OUTPUT_H

#include "appservice_state.h"

#include <stdio.h>

enum {
    ITEM_BYTES = 1 << 20,             /* of the largest item */
    LINE_BYTES = 6 * ITEM_BYTES + 512 /* as a line: a control character becomes \u0001 */
};

static struct output {
    const char *path;
    int fd;
    uint64_t kept, bytes; /* acknowledged; in all */
    const char *why;      /* of what failed last */
    char why_text[200];
    /* Of the ring of events: chains of those with the same hash; a slot's number, plus one. */
    uint16_t first[STATE_EVENTS], next[STATE_EVENTS];
    char line[LINE_BYTES];
} output;

/* ---- the ids of room events ---- */

static uint16_t *output_chain(uint64_t hash)
{
    return &output.first[hash % STATE_EVENTS];
}

/* Puts a slot of the ring into its chain. */
static void output_link(uint64_t slot)
{
    uint16_t *first = output_chain(state_get(state.now.image.events[slot], 8));

    output.next[slot] = *first;
    *first = (uint16_t)(slot + 1);
}

static void output_unlink(uint64_t slot)
{
    uint16_t *at = output_chain(state_get(state.now.image.events[slot], 8));

    while (*at != slot + 1)
        at = &output.next[*at - 1];
    *at = output.next[slot];
}

/* Makes the chains of what is in the ring. */
static void output_link_all(void)
{
    uint64_t count = state_get(state.now.image.event_next, 8), slot;

    memset(output.first, 0, sizeof output.first);
    for (slot = 0; slot < count && slot < STATE_EVENTS; slot++)
        output_link(slot);
}

static int event_is_known(uint64_t hash)
{
    unsigned at = *output_chain(hash);

    for (; at != 0; at = output.next[at - 1])
        if (state_get(state.now.image.events[at - 1], 8) == hash)
            return 1;
    return 0;
}

/* Remembers an event in place of the oldest one. */
static void event_remember(uint64_t hash)
{
    uint64_t count = state_get(state.now.image.event_next, 8), slot = count % STATE_EVENTS;

    if (count >= STATE_EVENTS)
        output_unlink(slot);
    state_put(state.now.image.events[slot], hash, 8);
    output_link(slot);
    state_put(state.now.image.event_next, count + 1, 8);
}

/* Returns the end of the string whose first quote is at `p`. */
static const char *string_end(const char *p, const char *end)
{
    for (p++; p < end && *p != '"'; p++)
        if (*p == '\\')
            p++;
    return p < end ? p + 1 : end;
}

/* Unescapes a string with its quotes: as the next_batch of a body, which the library reads. Returns
 * a NULL `ptr` for one that is longer than any id, or broken. */
static msc4203_span string_read(const char *from, const char *end)
{
    static const char before[] = "{\"next_batch\":";
    static char text[1024];
    static msc4203_reader reader;
    const msc4203_item *item;
    msc4203_span none = {NULL, 0};

    msc4203_reader_init(&reader, MSC4203_SYNC, MSC4203_NEXT_BATCH, text, sizeof text);
    msc4203_reader_feed(&reader, before, sizeof before - 1, 0);
    if (msc4203_reader_next(&reader, &item) != MSC4203_MORE)
        return none;
    msc4203_reader_feed(&reader, from, (size_t)(end - from), 0);
    if (msc4203_reader_next(&reader, &item) != MSC4203_ITEM || item->error != MSC4203_OK)
        return none;
    return item->id;
}

/* Finds the event_id of a room event. Returns 0 when it has none, or two. */
static int event_id_find(const msc4203_span *event, const char **from, const char **to)
{
    const char *p = event->ptr, *end = p + event->len, *stop;
    unsigned depth = 0;
    int is_key = 0, is_it = 0, found = 0;

    for (; p < end; p = stop) {
        stop = p + 1;
        if (*p == '{' || *p == '[') {
            is_key = ++depth == 1;
            is_it = 0;
        } else if (*p == '}' || *p == ']') {
            depth--;
        } else if (*p == ',') {
            is_key = depth == 1;
        } else if (*p == '"') {
            stop = string_end(p, end);
            if (depth == 1 && is_key) {
                msc4203_span key = {p + 1, (size_t)(stop - p) - 2};
                if (memchr(p, '\\', (size_t)(stop - p)) != NULL)
                    key = string_read(p, stop);
                is_it = key.ptr != NULL && msc4203_span_equal(&key, "event_id");
            } else if (depth == 1 && is_it) {
                *from = p;
                *to = stop;
                found++;
            }
            is_key = 0;
        }
    }
    return found == 1;
}

/* Hashes the event_id of a room event. Returns 0 when it has none. */
static int event_hash(const msc4203_span *event, uint64_t *hash)
{
    const char *from = NULL, *to = NULL;
    unsigned char digest[16];
    msc4203_digest d;
    msc4203_span id;

    if (!event_id_find(event, &from, &to))
        return 0;
    id = string_read(from, to);
    if (id.ptr == NULL || id.len == 0)
        return 0;
    msc4203_digest_init(&d, state_get(state.now.image.event_key, 8));
    msc4203_digest_add(&d, id.ptr, id.len);
    msc4203_digest_end(&d, digest);
    *hash = state_get(digest, 8);
    return 1;
}

/* ---- the file ---- */

/* Remembers why something failed: errno. Returns 0. */
static int output_failed(const char *what)
{
    snprintf(output.why_text, sizeof output.why_text, "%s: %s", what, strerror(errno));
    output.why = output.why_text;
    return 0;
}

/* Looks whether the output is what it should be. */
static int output_look(uint64_t bytes)
{
    struct stat stat;

    if (file_stat(output.fd, &stat) != 0)
        return output_failed("the output");
    output.why = NULL;
    if (!file_is_at(output.fd, output.path))
        output.why = "the output was moved away, removed or replaced: put it back, or send SIGHUP "
                     "to begin with what is in its place";
    else if ((uint64_t)stat.st_size < bytes)
        output.why = "the output was cut short: put back what is missing, or send SIGHUP to go on "
                     "with what is there";
    else if ((uint64_t)stat.st_size > bytes)
        output.why = "another program has written to the output";
    return output.why == NULL;
}

/* Takes back what is provisional, in the output and in the state. What is shorter than it should be
 * stays as it is. While nobody knows which state the next start will find, nothing is cut. */
static void output_cut(void)
{
    struct stat stat;
    const char *why;

    state_forget();
    output_link_all();
    if (!state_settle(&why))
        return;
    if (file_stat(output.fd, &stat) == 0 && (uint64_t)stat.st_size > output.kept)
        (void)!ftruncate(output.fd, (off_t)output.kept);
    output.bytes = output.kept;
}

/* Before a transaction is taken. Returns 0, and output.why says why, when it can't be. */
static int output_begin(void)
{
    if (state.in_doubt && !state_settle(&output.why))
        return 0;
    if (output.bytes != output.kept)
        output_cut();
    if (output_look(output.kept))
        return 1;
    output_cut(); /* what another program has put behind the end */
    return output_look(output.kept);
}

/* Appends a line. */
static int output_append(const char *line, size_t bytes)
{
    output.bytes += bytes;
    while (bytes != 0) {
        ssize_t n = write(output.fd, line, bytes); /* O_APPEND: never behind a hole */
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0)
            errno = ENOSPC;
        if (n <= 0)
            return output_failed("the output");
        line += n;
        bytes -= (size_t)n;
    }
    return 1;
}

/* Makes everything durable: the output first, then the state that says how long it is. Returns 0,
 * and output.why says why, when that fails. */
static int output_keep(void)
{
    if (!file_flush(output.fd))
        return output_failed("the output");
    if (!output_look(output.bytes))
        return 0;
    state_put(state.now.image.out_bytes, output.bytes, 8);
    if (!state_write(&output.why))
        return 0;
    output.kept = output.bytes;
    return 1;
}

/* ---- items ---- */

/* Appends an item, provisionally. Returns MSC4203_OK; MSC4203_END for a room event that has come
 * before; MSC4203_E_STORAGE; or why it can't be written. */
static int output_item(const msc4203_item *item)
{
    static msc4203_writer writer;
    size_t bytes = 0, i;
    uint64_t hash = 0;
    int has_id = item->kind == MSC4203_EVENT && event_hash(&item->content, &hash), result;

    if (has_id && event_is_known(hash))
        return MSC4203_END;
    result = msc4203_writer_begin(&writer, MSC4203_TRANSACTION, 0, output.line, LINE_BYTES - 1);
    if (result == MSC4203_OK)
        result = msc4203_writer_item(&writer, item);
    if (result == MSC4203_OK)
        result = msc4203_writer_end(&writer, &bytes);
    if (result != MSC4203_OK)
        return result;
    for (i = 0; i < bytes; i++) /* between tokens only: strings have none */
        if (output.line[i] == '\n' || output.line[i] == '\r')
            output.line[i] = ' ';
    output.line[bytes++] = '\n';
    if (!output_append(output.line, bytes))
        return MSC4203_E_STORAGE;
    if (has_id)
        event_remember(hash);
    return MSC4203_OK;
}

/* Takes the lines of to-device messages out of what is provisional. */
static int output_drop_to_device(void)
{
    static const char key[] = "{\"de.sorunome.msc2409.to_device\"";
    uint64_t from = output.kept, to = from, left;
    int flags = fcntl(output.fd, F_GETFL), done = 1;

    if (flags < 0 || fcntl(output.fd, F_SETFL, flags & ~O_APPEND) != 0)
        return output_failed("the output");
    for (; (left = output.bytes - from) != 0 && done;) {
        size_t have = left < LINE_BYTES ? (size_t)left : LINE_BYTES, at = 0, bytes;
        const char *end = NULL;

        done = file_read(output.fd, output.line, have, from);
        while (done && (end = (const char *)memchr(output.line + at, '\n', have - at)) != NULL) {
            bytes = (size_t)(end - output.line) + 1 - at;
            if (bytes < sizeof key || memcmp(output.line + at, key, sizeof key - 1) != 0) {
                done = file_write(output.fd, output.line + at, bytes, to);
                to += bytes;
            }
            at += bytes;
        }
        done = done && at != 0; /* a line always ends within the buffer */
        from += at;
    }
    done = done && ftruncate(output.fd, (off_t)to) == 0;
    if (!done)
        output_failed("the output");
    if (fcntl(output.fd, F_SETFL, flags) != 0)
        return output_failed("the output");
    output.bytes = done ? to : output.bytes;
    return done;
}

/* ---- opening ---- */

/* Returns the length of a file that can be appended to: it is empty, or ends with a line break. */
static const char *output_length(int fd, uint64_t *bytes)
{
    struct stat stat;
    char last = '\n';

    if (file_stat(fd, &stat) != 0)
        return strerror(errno);
    *bytes = (uint64_t)stat.st_size;
    if (*bytes != 0 && !file_read(fd, &last, 1, *bytes - 1))
        return strerror(errno);
    return last == '\n' ? NULL : "it does not end with a whole line";
}

static const char *output_open_file(const char *path, int make, int *fd)
{
    const char *why = NULL;
    int flags;

    *fd = file_open(path, make, &why);
    if (*fd < 0)
        return why;
    flags = fcntl(*fd, F_GETFL);
    if (flags < 0 || fcntl(*fd, F_SETFL, (flags & ~O_NONBLOCK) | O_APPEND) != 0 ||
        !file_sync(*fd, path)) {
        why = strerror(errno);
        close(*fd);
    }
    return why;
}

/* Opens the output for this process alone, after state_open(), and changes nothing in it. `rotated`
 * takes it as it is. Returns NULL, or what is wrong. */
static const char *output_open(const char *path, int rotated)
{
    int is_other = state.generation == 0 || rotated; /* what is there is not of this state */
    const char *why;
    uint64_t bytes = 0;

    output.path = path;
    output.kept = state_get(state.now.image.out_bytes, 8);
    if (file_is_at(state.fd, path))
        return "it is the state file";
    why = output_open_file(path, is_other || output.kept == 0, &output.fd);
    if (why != NULL)
        return why;
    why = output_length(output.fd, &bytes);
    if (is_other) {
        output.kept = output.bytes = bytes;
        return why;
    }
    output.bytes = output.kept;
    if (bytes >= output.kept)
        return NULL; /* what is behind that was never acknowledged */
    snprintf(output.why_text, sizeof output.why_text,
             "it has %llu bytes, and had %llu: it was moved away or cut short. Put it back, or say "
             "--rotated if that was meant",
             (unsigned long long)bytes, (unsigned long long)output.kept);
    return output.why_text;
}

/* The first thing that changes the files, once the program is sure to start: cuts off what was
 * never acknowledged, and writes the state. `random` are 64 random bits. */
static int output_start(uint64_t random)
{
    if (state.generation == 0)
        state_put(state.now.image.event_key, random, 8);
    state_put(state.now.image.out_bytes, output.kept, 8);
    if (!state_write(&output.why))
        return 0;
    output_cut();
    return output_look(output.kept);
}

/* The output was rotated: goes on with what is at its path, as it is. Returns 0, and output.why
 * says why, when it can't. */
static int output_rotate(void)
{
    const char *why = NULL;
    uint64_t bytes = 0;
    int fd = output.fd;

    output_cut();
    if (!state_settle(&output.why))
        return 0;
    if (file_is_at(state.fd, output.path))
        why = "it is the state file";
    else if (!file_is_at(output.fd, output.path))
        why = output_open_file(output.path, 1, &fd);
    if (why == NULL)
        why = output_length(fd, &bytes);
    if (why == NULL) {
        state_put(state.now.image.out_bytes, bytes, 8);
        if (state_write(&why)) {
            if (fd != output.fd)
                close(output.fd);
            output.fd = fd;
            output.kept = output.bytes = bytes;
            return 1;
        }
        state_forget();
    }
    if (fd >= 0 && fd != output.fd)
        close(fd);
    output.why = why;
    return 0;
}

#endif
