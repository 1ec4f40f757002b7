/* items.c - the items to write, and the quickest way to write them: copying, without any check. */
#define MSC4203_STATIC
#define MSC4203_IMPLEMENTATION
#include "msc4203.h"

#include <stdlib.h>

#include "test/bench/job.h"

static void *need(void *memory)
{
    if (!memory)
        exit(2);
    return memory;
}

static job_text copy(msc4203_span span)
{
    job_text text = {NULL, 0};
    char *bytes;
    if (!span.ptr)
        return text;
    bytes = (char *)need(malloc(span.len + 1));
    memcpy(bytes, span.ptr, span.len);
    text.ptr = bytes;
    text.len = span.len;
    return text;
}

static size_t section_of(int kind)
{
    switch (kind) {
    case MSC4203_TO_DEVICE:
        return JOB_TO_DEVICE;
    case MSC4203_EVENT:
        return JOB_EVENT;
    case MSC4203_EPHEMERAL:
        return JOB_EPHEMERAL;
    case MSC4203_DEVICE_CHANGED:
        return JOB_CHANGED;
    case MSC4203_KEY_COUNTS:
        return JOB_COUNTS;
    default:
        return JOB_FALLBACK;
    }
}

job_item *job_items(const char *body, size_t size, size_t *count)
{
    static char scratch[4096];
    msc4203_reader reader;
    const msc4203_item *item;
    job_item *items = NULL;
    size_t used = 0, room = 0;
    int result;
    msc4203_reader_init(&reader, MSC4203_TRANSACTION, MSC4203_ALL_KINDS, scratch, sizeof scratch);
    msc4203_reader_feed(&reader, body, size, 1);
    while ((result = msc4203_reader_next(&reader, &item)) == MSC4203_ITEM) {
        if (used == room) {
            room = 2 * room + 1024;
            items = (job_item *)need(realloc(items, room * sizeof *items));
        }
        if (item->error || item->kind == MSC4203_DEVICE_LEFT)
            return NULL;
        items[used].section = section_of(item->kind);
        items[used].sender = copy(item->sender);
        items[used].type = copy(item->type);
        items[used].user_id = copy(item->user_id);
        items[used].device_id = copy(item->device_id);
        items[used].content.ptr = item->content.ptr;
        items[used].content.len = item->content.len;
        used++;
    }
    *count = used;
    return result == MSC4203_END ? items : NULL;
}

/* ----------------------------------------------------------------------------------------------
 * Copying: the pieces are the strings, escaped beforehand, the contents, and what is between them.
 * ---------------------------------------------------------------------------------------------- */

static job_text *pieces;
static size_t pieces_used, pieces_room;

static void piece(const char *ptr, size_t len)
{
    if (pieces_used == pieces_room) {
        pieces_room = 2 * pieces_room + 1024;
        pieces = (job_text *)need(realloc(pieces, pieces_room * sizeof *pieces));
    }
    pieces[pieces_used].ptr = ptr;
    pieces[pieces_used].len = len;
    pieces_used++;
}

static void piece_put(const char *string)
{
    piece(string, strlen(string));
}

/* A string, in its quotes where the pieces around have none. */
static void piece_string(job_text text)
{
    char *escaped = (char *)need(malloc(2 * text.len + 1));
    size_t i, used = 0;
    for (i = 0; i < text.len; i++) {
        if (text.ptr[i] == '"' || text.ptr[i] == '\\')
            escaped[used++] = '\\';
        escaped[used++] = text.ptr[i];
    }
    piece(escaped, used);
}

static void piece_item(const job_item *item)
{
    switch (item->section) {
    case JOB_TO_DEVICE:
        piece_put("{\"content\":");
        piece(item->content.ptr, item->content.len);
        piece_put(",\"sender\":\"");
        piece_string(item->sender);
        piece_put("\",\"to_device_id\":\"");
        piece_string(item->device_id);
        piece_put("\",\"to_user_id\":\"");
        piece_string(item->user_id);
        piece_put("\",\"type\":\"");
        piece_string(item->type);
        piece_put("\"}");
        break;
    case JOB_CHANGED:
        piece_put("\"");
        piece_string(item->user_id);
        piece_put("\"");
        break;
    case JOB_COUNTS:
    case JOB_FALLBACK:
        piece_put("\"");
        piece_string(item->user_id);
        piece_put("\":{\"");
        piece_string(item->device_id);
        piece_put("\":");
        piece(item->content.ptr, item->content.len);
        piece_put("}");
        break;
    default:
        piece(item->content.ptr, item->content.len);
    }
}

void memcpy_prepare(const job_item *items, size_t count)
{
    static const char *const begins[JOB_SECTIONS] = {
        "\"de.sorunome.msc2409.to_device\":[",
        "\"events\":[",
        "\"ephemeral\":[",
        "\"org.matrix.msc3202.device_lists\":{\"changed\":[",
        "\"org.matrix.msc3202.device_one_time_keys_count\":{",
        "\"org.matrix.msc3202.device_unused_fallback_key_types\":{"};
    static const char *const ends[JOB_SECTIONS] = {"]", "]", "]", "]}", "}", "}"};
    size_t i;
    int events = 0;
    pieces_used = 0;
    piece_put("{");
    for (i = 0; i < count; i++) {
        size_t section = items[i].section;
        if (i == 0 || items[i - 1].section != section) {
            piece_put(i ? "," : "");
            piece_put(begins[section]);
        } else {
            piece_put(",");
        }
        piece_item(&items[i]);
        if (i + 1 == count || items[i + 1].section != section)
            piece_put(ends[section]);
        events |= section == JOB_EVENT;
    }
    if (!events)
        piece_put(",\"events\":[]");
    piece_put("}");
}

long memcpy_write(const job_item *items, size_t count, char *output, size_t capacity)
{
    size_t i;
    char *at = output;
    (void)items, (void)count, (void)capacity;
    for (i = 0; i < pieces_used; i++) {
        memcpy(at, pieces[i].ptr, pieces[i].len);
        at += pieces[i].len;
    }
    return (long)(at - output);
}
