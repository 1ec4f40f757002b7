/* job.h - what every contestant of the benchmark does: the same work, with a proof of it.
 *
 * Reading: from one body, of every to-device message the four strings, unescaped, and the raw span
 * of its content; all of the body validated as JSON and as UTF-8. What was read is folded into
 * digests, which all contestants must agree on. The quick digests, which are part of what is timed,
 * look at lengths and at first and last bytes; the full ones, outside of the timing, at every byte.
 *
 * Writing: from items to a transaction, every content validated again. */
#ifndef JOB_H
#define JOB_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct job_text {
    const char *ptr;
    size_t len;
} job_text;

/* For reading. The layout is known to serde/src/lib.rs. */
typedef struct job_reading {
    const char *body; /* a NUL and 64 bytes of padding come after it, for those who need them */
    size_t size;
    size_t full;     /* 1: full digests */
    size_t messages; /* results, from here on */
    uint64_t strings, contents;
} job_reading;

/* What there is to write. `section` says where. Also known to serde/src/lib.rs. */
typedef struct job_item {
    size_t section;
    job_text sender, type, user_id, device_id, content;
} job_item;

/* The parts of a body. Those from JOB_COUNTS on are objects of users, who here have one device. */
enum job_section {
    JOB_TO_DEVICE,
    JOB_EVENT,
    JOB_EPHEMERAL,
    JOB_CHANGED,
    JOB_COUNTS,
    JOB_FALLBACK,
    JOB_SECTIONS
};

/* Reads a body, or writes `count` items into `output`. Returns 0 (writing: the bytes written), or
 * -1 for a body (a content) that is not valid. */
typedef int (*job_reader)(job_reading *);
typedef long (*job_writer)(const job_item *items, size_t count, char *output, size_t capacity);

static inline uint64_t job_quick(const char *ptr, size_t len)
{
    if (len == 0)
        return 1;
    return len * 0x10001 + ((uint64_t)(unsigned char)ptr[0] << 40) +
           ((uint64_t)(unsigned char)ptr[len - 1] << 48);
}

static inline uint64_t job_full(const char *ptr, size_t len)
{
    uint64_t digest = 0xcbf29ce484222325u;
    size_t i;
    for (i = 0; i < len; i++)
        digest = (digest ^ (unsigned char)ptr[i]) * 0x100000001b3u;
    return digest + len;
}

/* Takes note of one message. `content` may be NULL for those who can't tell its span. */
static inline void job_message(job_reading *job, job_text sender, job_text type, job_text user_id,
                               job_text device_id, job_text content)
{
    uint64_t strings, contents = 0;
    if (job->full) {
        strings = job_full(sender.ptr, sender.len) * 3 + job_full(type.ptr, type.len) * 5 +
                  job_full(user_id.ptr, user_id.len) * 7 +
                  job_full(device_id.ptr, device_id.len) * 11;
        if (content.ptr)
            contents = job_full(content.ptr, content.len);
    } else {
        strings = job_quick(sender.ptr, sender.len) * 3 + job_quick(type.ptr, type.len) * 5 +
                  job_quick(user_id.ptr, user_id.len) * 7 +
                  job_quick(device_id.ptr, device_id.len) * 11;
        if (content.ptr)
            contents = job_quick(content.ptr, content.len);
    }
    job->messages++;
    job->strings = job->strings * 0x9e3779b97f4a7c15u + strings;
    job->contents = job->contents * 0x9e3779b97f4a7c15u + contents;
}

static inline void job_begin(job_reading *job)
{
    job->messages = 0;
    job->strings = job->contents = 0;
}

/* The contestants. This library comes once for each way to compile it: see ours.c. */
int ours_plain_whole(job_reading *), ours_plain_4096(job_reading *), ours_plain_64(job_reading *);
int ours_vector_whole(job_reading *), ours_vector_4096(job_reading *),
    ours_vector_64(job_reading *);
int ours_avx2_whole(job_reading *), ours_avx2_4096(job_reading *), ours_avx2_64(job_reading *);
int simdjson_both_read(job_reading *), simdjson_walk_read(job_reading *),
    simdjson_ondemand_read(job_reading *);
int rapidjson_read(job_reading *), cjson_read(job_reading *), jansson_read(job_reading *),
    serde_read(job_reading *);

long ours_plain_write(const job_item *, size_t, char *, size_t);
long ours_vector_write(const job_item *, size_t, char *, size_t);
long ours_avx2_write(const job_item *, size_t, char *, size_t);
long ours_unchecked_write(const job_item *, size_t, char *, size_t);
long rapidjson_write(const job_item *, size_t, char *, size_t);
long serde_write(const job_item *, size_t, char *, size_t);
long memcpy_write(const job_item *, size_t, char *, size_t);

/* What the peers say of themselves. */
const char *simdjson_version(void), *rapidjson_version(void), *cjson_version(void);
const char *jansson_version(void);

/* Takes the items out of a body, to write them again; their strings are copied, their contents
 * point into the body. Returns malloc'ed memory, and sets *count; NULL for a body with unusable
 * items. */
job_item *job_items(const char *body, size_t size, size_t *count);

/* Prepares memcpy_write() for these items: lists the pieces that a body with them is made of. */
void memcpy_prepare(const job_item *items, size_t count);

#ifdef __cplusplus
}
#endif

#endif
