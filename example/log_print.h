/* log_print.h - `msc4203 log FILE`: prints what a log holds, a line each, and verifies it. Changes
 * nothing; works on damaged files. For msc4203.c, which has the feature macros. SPDX: 0BSD
 *
 * A line is BYTE LENGTH KIND and what there is to tell; strings are put in quotes, with control
 * characters, quotes and backslashes as \xNN. A message that is printed may have been delivered
 * already: the ring keeps it until its place is needed. */
#ifndef LOG_PRINT_H
#define LOG_PRINT_H

#include "msc4203.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

struct log_print {
    char text[4096];
    size_t bytes;
    int failed;
    unsigned long messages, open, records, damaged;
};

static void log_print_flush(struct log_print *p, int fd)
{
    size_t done = 0;

    while (done < p->bytes && !p->failed) {
        ssize_t n = write(fd, p->text + done, p->bytes - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            p->failed = 1;
        else
            done += (size_t)n;
    }
    p->bytes = 0;
}

static void log_print_bytes(struct log_print *p, const char *text, size_t bytes)
{
    for (; bytes != 0; bytes--) {
        if (p->bytes == sizeof p->text)
            log_print_flush(p, STDOUT_FILENO);
        p->text[p->bytes++] = *text++;
    }
}

static void log_print_text(struct log_print *p, const char *text)
{
    log_print_bytes(p, text, strlen(text));
}

static void log_print_number(struct log_print *p, uint64_t number)
{
    char digits[20];
    size_t n = sizeof digits;

    do
        digits[--n] = (char)('0' + number % 10);
    while ((number /= 10) != 0);
    log_print_bytes(p, digits + n, sizeof digits - n);
}

static void log_print_quoted(struct log_print *p, const char *before, const msc4203_span *span)
{
    static const char hex[] = "0123456789abcdef";
    size_t i;

    log_print_text(p, before);
    log_print_text(p, " \"");
    for (i = 0; i < span->len; i++) {
        unsigned char c = (unsigned char)span->ptr[i];
        char escape[4] = {'\\', 'x', hex[c >> 4], hex[c & 15]};
        if (c < 0x20 || c == 0x7F || c == '"' || c == '\\')
            log_print_bytes(p, escape, sizeof escape);
        else
            log_print_bytes(p, span->ptr + i, 1);
    }
    log_print_text(p, "\"");
}

static void log_print_message(struct log_print *p, const msc4203_log_entry *entry)
{
    uint32_t c;

    p->messages++;
    p->open += entry->number == 0;
    log_print_text(p, " ");
    log_print_number(p, entry->number);
    log_print_text(p, entry->number == 0 ? " (not committed) for" : " for");
    for (c = 0; c < MSC4203_CHANNELS; c++)
        if (entry->channels >> c & 1) {
            log_print_text(p, " ");
            log_print_number(p, c);
        }
    log_print_text(p, " at ");
    log_print_number(p, entry->time_ms);
    if (entry->sender.ptr == NULL)
        return;
    log_print_quoted(p, " from", &entry->sender);
    log_print_quoted(p, " to", &entry->user_id);
    log_print_quoted(p, "", &entry->device_id);
    log_print_quoted(p, " type", &entry->type);
    log_print_text(p, " content ");
    log_print_number(p, entry->content.len);
}

static int log_print_entry(void *context, const msc4203_log_entry *entry)
{
    static const char *const kinds[] = {"damaged", "message", "copy",  "journal",
                                        "channel", "filler",  "index"};
    struct log_print *p = (struct log_print *)context;

    p->records++;
    log_print_number(p, entry->at);
    log_print_text(p, " ");
    log_print_number(p, entry->bytes);
    log_print_text(p, " ");
    log_print_text(p, kinds[entry->kind]);
    if (entry->kind == 1 || entry->kind == 2)
        log_print_message(p, entry);
    if (entry->error != MSC4203_OK) {
        p->damaged++;
        if (entry->kind != 0)
            log_print_text(p, " DAMAGED");
    }
    log_print_text(p, "\n");
    return p->failed;
}

/* Returns the exit status: 0; 1 when something is damaged, or it is no log; 2 when it can't be
 * read. */
static int log_print(const char *path)
{
    static msc4203_file file;
    static struct log_print p;
    static uint64_t memory[16384];
    msc4203_storage storage;
    int result = msc4203_file_open(&file, path, 0, &storage);

    if (result == MSC4203_OK) {
        result = msc4203_log_scan(&storage, memory, sizeof memory, log_print_entry, &p);
        (void)msc4203_file_close(&file);
    } else {
        result = MSC4203_E_STORAGE;
    }
    if (result == MSC4203_OK) {
        log_print_number(&p, p.messages);
        log_print_text(&p, " messages in the ring, ");
        log_print_number(&p, p.open);
        log_print_text(&p, " of them not committed; ");
        log_print_number(&p, p.records);
        log_print_text(&p, " records, ");
        log_print_number(&p, p.damaged);
        log_print_text(&p, " damaged\n");
    }
    log_print_flush(&p, STDOUT_FILENO);
    if (result != MSC4203_OK && !p.failed) {
        log_print_text(&p, path);
        log_print_text(&p, ": ");
        log_print_text(&p, msc4203_result_text(result));
        log_print_text(&p, "\n");
        log_print_flush(&p, STDERR_FILENO);
    }
    if (p.failed || result == MSC4203_E_STORAGE)
        return 2;
    return result != MSC4203_OK || p.damaged != 0;
}

#endif
