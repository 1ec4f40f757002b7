/* msc4203.c - the command line tool: looks into bodies, converts them between the shapes in which
 * to-device messages travel, checks JSON, and prints what waits in a log file. SPDX: 0BSD
 *
 *     cc -I. -o msc4203 example/msc4203.c msc4203.c
 *
 * It shows how the library is embedded where memory is mapped and never allocated: inputs are
 * mapped files, the scratch and the output are anonymous memory, and no heap function is called. A
 * pipe is spooled to a temporary file first, for a body is read more than once: the items of a kind
 * share one key of the output, so that each kind has its own pass; and what is wrong is said in a
 * last pass, once and in the order of the input. */
#define _POSIX_C_SOURCE   200809L
#define _DEFAULT_SOURCE   /* MAP_ANONYMOUS, with the GNU and BSD libraries */
#define _DARWIN_C_SOURCE  /* and on macOS */
#define _FILE_OFFSET_BITS 64

#include "msc4203.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif

/* The exit status is the first that applies of 2, 1, 3. */
enum { STATUS_OK = 0, STATUS_BODY = 1, STATUS_USAGE = 2, STATUS_ITEM = 3 };

/* What it is asked to do: single bits. */
enum { CONVERT = 1, CHECK = 2, LOG = 4, ALL_COMMANDS = 7 };

enum {
    KINDS = 9,
    SCRATCH_BYTES = 256 * 1024,
    LINES_BYTES = 64 * 1024,
    IDS = MSC4203_MESSAGE_ID | MSC4203_NEXT_BATCH, /* they belong to a body, not to a recipient */
    OTHER_SHAPE = -1000                            /* beside the library's results */
};

/* What the keys of a body say before it is read. */
struct look {
    int is_done;
    int shape;        /* another one than it should have, plainly; or -1 */
    size_t twice;     /* where a list is given once more, which the reader leaves out; 0: none */
    const char *name; /* of that list */
};

struct input {
    const char *name;
    const char *data; /* NULL: it can't be read */
    size_t bytes;
    struct look look;
};

struct tool {
    /* the command line */
    int command, from, to, each, lines, stable, parked, help;
    int shape;             /* of `check --shape`; -1: any JSON */
    size_t chunk, scratch; /* chunk 0: in one piece */
    msc4203_span sender, type, message_id, user, device, next_batch;

    struct input *inputs;
    size_t input_count, longest; /* longest: the bytes of the longest input */

    char *chunk_text;         /* what the reader is fed, with --chunk */
    char *scratch_text;       /* the reader's scratch */
    size_t scratch_bytes;     /* at most `scratch`, and no more than the longest input can need */
    char *ahead_text;         /* the scratch of a first reading, `longest` bytes */
    char *id_text;            /* where ids are kept: two times scratch_bytes */
    msc4203_span id, body_id; /* the output's message_id or next_batch; the same of one body */
    char *first_text;         /* where `first` is kept: two times scratch_bytes */
    msc4203_item first;    /* the sender and type that a whole body is of, of its first message */
    size_t bodies, others; /* that were read; of another shape */

    size_t counts[KINDS];         /* items to be written, by kind */
    signed char *refusals[KINDS]; /* what the writer said of each */

    char *out; /* with --each: lines to be written out */
    size_t out_bytes, out_room;

    char say[4096]; /* messages on their way to standard error */
    size_t say_bytes;
    int status[4]; /* which statuses apply */
};

/* ----------------------------------------------------------------------------------------------
 * Writing out, messages, memory
 * ---------------------------------------------------------------------------------------------- */

/* Returns 0, or errno. */
static int write_all(int fd, const char *text, size_t bytes)
{
    while (bytes != 0) {
        ssize_t n = write(fd, text, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        text += n;
        bytes -= (size_t)n;
    }
    return 0;
}

static void say_flush(struct tool *tool)
{
    (void)write_all(STDERR_FILENO, tool->say, tool->say_bytes);
    tool->say_bytes = 0;
}

static void say(struct tool *tool, const char *text)
{
    for (; *text; text++) {
        if (tool->say_bytes == sizeof tool->say)
            say_flush(tool);
        tool->say[tool->say_bytes++] = *text;
    }
}

static void say_number(struct tool *tool, uint64_t number)
{
    char digits[21], *p = digits + sizeof digits - 1;

    *p = 0;
    do
        *--p = (char)('0' + number % 10);
    while ((number /= 10) != 0);
    say(tool, p);
}

/* Says `WHAT: WHY`. */
static void say_why(struct tool *tool, const char *what, const char *why)
{
    say(tool, what);
    say(tool, ": ");
    say(tool, why);
    say(tool, "\n");
}

static int finish(struct tool *tool)
{
    say_flush(tool);
    if (tool->status[STATUS_USAGE])
        return STATUS_USAGE;
    if (tool->status[STATUS_BODY])
        return STATUS_BODY;
    return tool->status[STATUS_ITEM] ? STATUS_ITEM : STATUS_OK;
}

static void give_up(struct tool *tool, const char *what, int error)
{
    say_why(tool, what, strerror(error));
    tool->status[STATUS_USAGE] = 1;
    exit(finish(tool));
}

static void put_out(struct tool *tool, const char *text, size_t bytes)
{
    int error = write_all(STDOUT_FILENO, text, bytes);
    if (error)
        give_up(tool, "standard output", error);
}

/* Memory of which only what is used costs anything; all zero. */
static void *map_memory(struct tool *tool, size_t bytes)
{
    void *memory =
        mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        give_up(tool, "memory", errno);
    return memory;
}

/* ----------------------------------------------------------------------------------------------
 * Inputs
 * ---------------------------------------------------------------------------------------------- */

static int open_temporary(void)
{
    static const char name[] = "/msc4203.XXXXXX";
    const char *folder = getenv("TMPDIR");
    char path[4096];
    size_t n;
    int fd;

    if (!folder || !*folder)
        folder = "/tmp";
    n = strlen(folder);
    if (n > sizeof path - sizeof name) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(path, folder, n);
    memcpy(path + n, name, sizeof name);
    fd = mkstemp(path);
    if (fd >= 0)
        (void)unlink(path);
    return fd;
}

/* Copies what can be read from `from` to a temporary file. Returns that, or -1 with errno. */
static int spool(int from)
{
    char block[16384];
    int error = 0, to = open_temporary();

    if (to < 0)
        return -1;
    while (!error) {
        ssize_t n = read(from, block, sizeof block);
        if (n == 0)
            return to;
        if (n > 0)
            error = write_all(to, block, (size_t)n);
        else if (errno != EINTR)
            error = errno;
    }
    (void)close(to);
    errno = error;
    return -1;
}

/* Maps all of a regular file. Returns 0, or errno; ENODEV for what can't be mapped. */
static int map_file(struct input *input, int fd)
{
    struct stat stat;
    void *data;

    memset(&stat, 0, sizeof stat); /* MemorySanitizer does not see fstat() fill it in */
    if (fstat(fd, &stat) != 0)
        return errno;
    /* What is not at its beginning, or says it is empty (as files in /proc do), is read instead. */
    if (!S_ISREG(stat.st_mode) || stat.st_size == 0 || lseek(fd, 0, SEEK_CUR) != 0)
        return ENODEV;
    if ((uint64_t)stat.st_size > SIZE_MAX / 4)
        return EFBIG;
    data = mmap(NULL, (size_t)stat.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED)
        return errno;
    input->data = (const char *)data;
    input->bytes = (size_t)stat.st_size;
    return 0;
}

/* Maps an input, by way of a temporary file where need be. Returns 0, or errno. */
static int map_input(struct input *input)
{
    int fd = strcmp(input->name, "-") == 0 ? dup(STDIN_FILENO) : open(input->name, O_RDONLY);
    int error, copy;

    if (fd < 0)
        return errno;
    error = map_file(input, fd);
    if (error == ENODEV) {
        copy = spool(fd);
        error = copy < 0 ? errno : 0;
        if (copy >= 0) {
            if (lseek(copy, 0, SEEK_END) == 0)
                input->data = ""; /* nothing to map */
            else if (lseek(copy, 0, SEEK_SET) < 0)
                error = errno;
            else
                error = map_file(input, copy);
            (void)close(copy);
        }
    }
    (void)close(fd);
    return error;
}

static void open_inputs(struct tool *tool)
{
    size_t i;

    for (i = 0; i < tool->input_count; i++) {
        struct input *input = &tool->inputs[i];
        int error = map_input(input);
        if (error) {
            say_why(tool, input->name, strerror(error));
            tool->status[STATUS_USAGE] = 1;
        } else if (input->bytes > tool->longest) {
            tool->longest = input->bytes;
        }
    }
    tool->scratch_bytes = tool->scratch < tool->longest ? tool->scratch : tool->longest;
    tool->scratch_text = (char *)map_memory(tool, tool->scratch_bytes);
    tool->ahead_text = (char *)map_memory(tool, tool->longest);
    tool->id_text = (char *)map_memory(tool, 2 * tool->scratch_bytes);
    tool->first_text = (char *)map_memory(tool, 2 * tool->scratch_bytes);
    if (tool->chunk > tool->longest)
        tool->chunk = tool->longest;
    if (tool->chunk)
        tool->chunk_text = (char *)map_memory(tool, tool->chunk);
}

/* ----------------------------------------------------------------------------------------------
 * Looking at keys. The reader says that something is wrong, these find out what: they take valid
 * JSON apart, and of anything else they find nothing.
 * ---------------------------------------------------------------------------------------------- */

struct members {
    const char *p, *end;
};

static const char *skip_blanks(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
        p++;
    return p;
}

static const char *skip_string(const char *p, const char *end)
{
    for (p++; p < end && *p != '"'; p++)
        if (*p == '\\')
            p++;
    return p < end ? p + 1 : end;
}

static const char *skip_value(const char *p, const char *end)
{
    size_t depth = 0;

    do {
        if (*p == '"') {
            p = skip_string(p, end);
            continue;
        }
        if (*p == '{' || *p == '[')
            depth++;
        else if (*p == '}' || *p == ']')
            depth--;
        p++;
    } while (p < end && (depth != 0 || (*p != ',' && *p != '}' && *p != ']')));
    return p;
}

/* Begins with the members of an object. Returns 0 when it is none. */
static int members_begin(struct members *members, const char *p, const char *end)
{
    p = skip_blanks(p, end);
    members->p = p + 1;
    members->end = end;
    return p < end && *p == '{';
}

/* Tells the next member: its key, without the quotes, and its value. Returns 0 when there is none.
 */
static int members_next(struct members *members, msc4203_span *key, msc4203_span *value)
{
    const char *end = members->end, *p = skip_blanks(members->p, end);

    if (p >= end || *p != '"')
        return 0;
    key->ptr = p + 1;
    p = skip_string(p, end);
    key->len = (size_t)(p - key->ptr) - 1;
    p = skip_blanks(p, end);
    if (p >= end || *p != ':')
        return 0;
    p = skip_blanks(p + 1, end);
    if (p >= end)
        return 0;
    value->ptr = p;
    p = skip_value(p, end);
    value->len = (size_t)(p - value->ptr);
    members->p = p < end && *p == ',' ? p + 1 : p;
    return 1;
}

static unsigned hex_unit(const char *p)
{
    unsigned unit = 0, i;

    for (i = 0; i < 4; i++) {
        unsigned c = (unsigned char)p[i];
        unit = unit << 4 | (c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    return unit;
}

/* Compares a key as it is written with a name of small letters, digits, dots and underscores. */
static int key_is(const msc4203_span *key, const char *name)
{
    size_t i = 0;

    for (; *name && i < key->len; name++) {
        unsigned c = (unsigned char)key->ptr[i++];
        if (c == '\\' && key->ptr[i] == 'u' && key->len - i >= 5) {
            c = hex_unit(key->ptr + i + 1);
            i += 5;
        }
        if (c != (unsigned char)*name)
            return 0;
    }
    return !*name && i == key->len;
}

/* Is there half a surrogate pair in a part of a body? */
static int has_lone_surrogate(const msc4203_span *part)
{
    size_t i;

    for (i = 0; i + 5 < part->len; i++) {
        unsigned unit;
        if (part->ptr[i] != '\\')
            continue;
        if (part->ptr[++i] != 'u')
            continue;
        unit = hex_unit(part->ptr + i + 1);
        i += 4;
        if (unit < 0xD800 || unit > 0xDFFF)
            continue;
        if (unit > 0xDBFF || i + 6 >= part->len || part->ptr[i + 1] != '\\' ||
            part->ptr[i + 2] != 'u')
            return 1;
        unit = hex_unit(part->ptr + i + 3);
        if (unit < 0xDC00 || unit > 0xDFFF)
            return 1;
        i += 6;
    }
    return 0;
}

/* Has an object or array an element? */
static int is_filled(const msc4203_span *value)
{
    const char *end = value->ptr + value->len, *p;

    if (*value->ptr != '{' && *value->ptr != '[')
        return 0;
    p = skip_blanks(value->ptr + 1, end);
    return p < end && *p != '}' && *p != ']';
}

/* The keys that have lists, by the shapes that have them. */
static const struct list {
    const char *name;
    int shapes;
} lists[] = {{"events", 1 << MSC4203_TRANSACTION},
             {"to_device", 1 << MSC4203_TRANSACTION},
             {"de.sorunome.msc2409.to_device", 1 << MSC4203_TRANSACTION},
             {"ephemeral", 1 << MSC4203_TRANSACTION},
             {"de.sorunome.msc2409.ephemeral", 1 << MSC4203_TRANSACTION},
             {"device_lists", 1 << MSC4203_TRANSACTION},
             {"org.matrix.msc3202.device_lists", 1 << MSC4203_TRANSACTION},
             {"device_one_time_keys_count", 1 << MSC4203_TRANSACTION},
             {"org.matrix.msc3202.device_one_time_keys_count", 1 << MSC4203_TRANSACTION},
             {"org.matrix.msc3202.device_one_time_key_counts", 1 << MSC4203_TRANSACTION},
             {"device_unused_fallback_key_types", 1 << MSC4203_TRANSACTION},
             {"org.matrix.msc3202.device_unused_fallback_key_types", 1 << MSC4203_TRANSACTION},
             {"messages", 1 << MSC4203_SEND | 1 << MSC4203_EDU},
             {"to_device", 1 << MSC4203_SYNC}};

/* Remembers a list that is given again under the same name. */
static void look_at_list(struct look *look, const struct tool *tool, const char *begin,
                         const msc4203_span *key, const msc4203_span *value, unsigned *seen)
{
    size_t i;

    for (i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        if (!(lists[i].shapes >> tool->from & 1) || !key_is(key, lists[i].name) ||
            !is_filled(value))
            continue;
        if ((*seen >> i & 1) && !look->twice) {
            look->twice = (size_t)(key->ptr - 1 - begin);
            look->name = lists[i].name;
        }
        *seen |= 1u << i;
    }
}

/* The same of the lists in an object at the top. */
static void look_into(struct look *look, const char *begin, const msc4203_span *object)
{
    static const char *const names[] = {"events", "changed", "left"};
    const char *end = object->ptr + object->len;
    struct members members;
    msc4203_span key, value;
    unsigned seen = 0, i;

    if (!members_begin(&members, object->ptr, end))
        return;
    while (members_next(&members, &key, &value))
        for (i = 0; i < 3; i++) {
            if (!key_is(&key, names[i]) || !is_filled(&value))
                continue;
            if ((seen >> i & 1) && !look->twice) {
                look->twice = (size_t)(key.ptr - 1 - begin);
                look->name = names[i];
            }
            seen |= 1u << i;
        }
}

/* Which of the shapes have what a body has at its top. */
enum {
    MARK_TRANSACTION = 1,
    MARK_SYNC = 2,
    MARK_MESSAGES = 4,
    MARK_SENDER = 8,
    MARK_TYPE = 16,
    MARK_EDU = MARK_SENDER | MARK_TYPE
};

static int mark_of(const msc4203_span *key, const msc4203_span *value)
{
    static const char prefix[] = "org.matrix.msc3202.";
    char c = *value->ptr;

    if ((c == '[' && (key_is(key, "events") || key_is(key, "to_device") ||
                      key_is(key, "ephemeral") || key_is(key, "de.sorunome.msc2409.to_device") ||
                      key_is(key, "de.sorunome.msc2409.ephemeral"))) ||
        (key->len > sizeof prefix && memcmp(key->ptr, prefix, sizeof prefix - 1) == 0))
        return MARK_TRANSACTION;
    if ((c == '"' && key_is(key, "next_batch")) || (c == '{' && key_is(key, "to_device")))
        return MARK_SYNC;
    if (c == '{' && key_is(key, "messages"))
        return MARK_MESSAGES;
    if (c == '"' && key_is(key, "sender"))
        return MARK_SENDER;
    return c == '"' && key_is(key, "type") ? MARK_TYPE : 0;
}

/* Which other shape a body with these marks plainly has; -1 when it may have the one it should. */
static int other_shape(int from, int marks)
{
    int edu = (marks & MARK_EDU) == MARK_EDU, messages = marks & MARK_MESSAGES;

    if (from == MSC4203_SEND && messages)
        return edu ? MSC4203_EDU : -1;
    if (from == MSC4203_EDU && messages)
        return marks & MARK_EDU ? -1 : MSC4203_SEND;
    if (from == MSC4203_TRANSACTION ? marks & MARK_TRANSACTION
                                    : from == MSC4203_SYNC && marks & MARK_SYNC)
        return -1;
    if (marks & MARK_TRANSACTION)
        return MSC4203_TRANSACTION;
    if (marks & MARK_SYNC)
        return MSC4203_SYNC;
    return !messages ? -1 : edu ? MSC4203_EDU : MSC4203_SEND;
}

/* Looks at a body. */
static struct look look_at(const struct tool *tool, const char *begin, const char *end)
{
    struct look look = {1, -1, 0, NULL};
    struct members members;
    msc4203_span key, value;
    unsigned seen = 0;
    int marks = 0;

    if (!members_begin(&members, begin, end))
        return look;
    while (members_next(&members, &key, &value)) {
        marks |= mark_of(&key, &value);
        look_at_list(&look, tool, begin, &key, &value, &seen);
        if (tool->from == MSC4203_SYNC
                ? key_is(&key, "to_device")
                : key_is(&key, "device_lists") || key_is(&key, "org.matrix.msc3202.device_lists"))
            look_into(&look, begin, &value);
    }
    look.shape = other_shape(tool->from, marks);
    return look;
}

/* ----------------------------------------------------------------------------------------------
 * Reading all bodies of all inputs
 * ---------------------------------------------------------------------------------------------- */

struct walk {
    struct tool *tool;
    msc4203_reader reader;
    unsigned kinds;
    int whole;     /* the body is fed in one piece */
    int keeps_ids; /* tells each body's id in tool->body_id */
    int reports;   /* says what the reader does not */
    size_t bodies; /* opened so far */
    int in_body;
    struct look look;
    size_t input, line;
    size_t begin, end, next; /* the body's place in its input; where the next one begins */
    size_t fed;
};

static void walk_begin(struct walk *walk, struct tool *tool, unsigned kinds)
{
    memset(walk, 0, sizeof *walk);
    walk->tool = tool;
    walk->kinds = kinds;
}

static void walk_feed(struct walk *walk)
{
    struct tool *tool = walk->tool;
    const char *data = tool->inputs[walk->input].data + walk->begin + walk->fed;
    size_t left = walk->end - walk->begin - walk->fed, n = left;

    if (!walk->whole) {
        if (n > tool->chunk)
            n = tool->chunk;
        memcpy(tool->chunk_text, data, n);
        data = tool->chunk_text;
    }
    (void)msc4203_reader_feed(&walk->reader, data, n, n == left);
    walk->fed += n;
}

/* The walk's reader on the walk's body, from its beginning. */
static void walk_rewind(struct walk *walk, unsigned kinds, char *scratch, size_t scratch_bytes)
{
    (void)msc4203_reader_init(&walk->reader, walk->tool->from, kinds, scratch, scratch_bytes);
    walk->fed = 0;
}

static int walk_step(struct walk *walk, const msc4203_item **item)
{
    int result;

    while ((result = msc4203_reader_next(&walk->reader, item)) == MSC4203_MORE)
        walk_feed(walk);
    return result;
}

/* What is wrong with an item, however the input is cut; or MSC4203_OK. */
static int fault(const struct tool *tool, const msc4203_item *item)
{
    int error = msc4203_item_error(item);
    size_t bytes = item->content.len + item->id.len;

    if (item->flags & MSC4203_LATE && item->error == MSC4203_OK)
        return MSC4203_E_FIELD_MISSING;
    if (error != MSC4203_OK)
        return error;
    if (tool->from != MSC4203_SEND)
        bytes += item->sender.len + item->type.len;
    if (tool->from != MSC4203_SYNC)
        bytes += item->user_id.len + item->device_id.len;
    return bytes > tool->scratch ? MSC4203_E_TOO_LARGE : MSC4203_OK;
}

/* Reads the walk's body for the message_id or next_batch that it may have, and keeps it at `to`. */
static msc4203_span find_id(const struct walk *walk, char *to)
{
    struct walk again = *walk;
    const msc4203_item *item;
    msc4203_span id = {NULL, 0};

    /* With room for an EDU's sender and type, which are kept beside it. */
    walk_rewind(&again, IDS, walk->tool->ahead_text, walk->tool->longest);
    walk_feed(&again);
    while (walk_step(&again, &item) == MSC4203_ITEM) {
        if (fault(walk->tool, item) != MSC4203_OK)
            continue;
        if (item->id.len)
            memcpy(to, item->id.ptr, item->id.len);
        id.ptr = to;
        id.len = item->id.len;
        break;
    }
    return id;
}

/* An EDU's sender and type may come behind its messages, which is too late in chunks: reads it for
 * them alone, before it is read for the rest. They stay in tool->ahead_text. Returns 0 if the EDU
 * is broken, and so never tells them. */
static int look_ahead(const struct walk *walk, msc4203_item *found)
{
    struct walk again = *walk;
    const msc4203_item *item;

    walk_rewind(&again, 0, walk->tool->ahead_text, walk->tool->longest);
    walk_feed(&again);
    if (walk_step(&again, &item) != MSC4203_END)
        return 0;
    *found = *item;
    return 1;
}

/* Goes to the next body: a file, or a line of one. Returns 0 when there is none. */
static int walk_next_body(struct walk *walk)
{
    struct tool *tool = walk->tool;

    for (; walk->input < tool->input_count; walk->input++, walk->next = 0) {
        const struct input *input = &tool->inputs[walk->input];
        const char *end;
        if (!input->data || (tool->lines ? walk->next >= input->bytes : walk->next != 0))
            continue;
        walk->begin = walk->next;
        walk->end = input->bytes;
        walk->next = SIZE_MAX;
        walk->whole = tool->chunk == 0;
        if (tool->lines) {
            end = (const char *)memchr(input->data + walk->begin, '\n', input->bytes - walk->begin);
            if (end) {
                walk->end = (size_t)(end - input->data);
                walk->next = walk->end + 1;
            }
            walk->line = walk->begin ? walk->line + 1 : 1;
        }
        return 1;
    }
    return 0;
}

static msc4203_span id_option(const struct tool *tool)
{
    return tool->to == MSC4203_EDU ? tool->message_id : tool->next_batch;
}

static void walk_open_body(struct walk *walk)
{
    static const msc4203_span nobody = {"", 0};
    struct tool *tool = walk->tool;
    msc4203_item preset;
    int has_preset = tool->from != MSC4203_EDU;

    memset(&preset, 0, sizeof preset);
    preset.sender = (tool->command == CHECK) ? nobody : tool->sender;
    preset.type = (tool->command == CHECK) ? nobody : tool->type;
    preset.user_id = (tool->command == CHECK) ? nobody : tool->user;
    preset.device_id = (tool->command == CHECK) ? nobody : tool->device;
    if (walk->keeps_ids) {
        tool->body_id = find_id(walk, tool->id_text + tool->scratch_bytes);
        if (!tool->body_id.ptr)
            tool->body_id = id_option(tool);
        if (!tool->body_id.ptr)
            tool->body_id = tool->id;
    }
    if (has_preset || look_ahead(walk, &preset)) {
        walk_rewind(walk, walk->kinds, tool->scratch_text, tool->scratch_bytes);
        msc4203_reader_preset(&walk->reader, &preset);
    } else {
        /* The reader looks ahead, as far as the body goes, and keeps the sender and type beside
         * every item, its message_id too: with room for all of it, fault() sets the limit. */
        walk->whole = 1;
        walk_rewind(walk, walk->kinds, tool->ahead_text, tool->longest);
    }
    walk_feed(walk);
}

/* Reads the walk's body as any JSON. Returns MSC4203_END, or what is wrong with it. */
static int walk_validate(const struct walk *walk, uint64_t *offset)
{
    struct walk again = *walk;
    const msc4203_item *item;
    int result;

    again.fed = 0;
    (void)msc4203_reader_init(&again.reader, MSC4203_JSON, 0, NULL, 0);
    walk_feed(&again);
    result = walk_step(&again, &item);
    *offset = msc4203_reader_offset(&again.reader);
    return result;
}

/* Looks at the keys of the walk's body: once, where a file is one body. */
static void walk_look(struct walk *walk)
{
    struct tool *tool = walk->tool;
    struct input *input = &tool->inputs[walk->input];
    uint64_t offset;

    if (tool->from == MSC4203_JSON) {
        walk->look.shape = -1;
        return;
    }
    walk->look = input->look;
    if (walk->look.is_done)
        return;
    walk->look = look_at(tool, input->data + walk->begin, input->data + walk->end);
    if ((walk->look.shape >= 0 || walk->look.twice) &&
        walk_validate(walk, &offset) != MSC4203_END) {
        walk->look.shape = -1; /* who knows: it is broken */
        walk->look.twice = 0;
    }
    if (!tool->lines)
        input->look = walk->look;
}

static void say_twice(struct walk *walk, uint64_t before);
static int walk_is_json(const struct walk *walk);

/* Returns MSC4203_ITEM; or an error of a body, or OTHER_SHAPE, and goes on with the next one; or
 * MSC4203_END. */
static int walk_next(struct walk *walk, const msc4203_item **item)
{
    const struct tool *tool = walk->tool;

    for (;;) {
        int result;
        if (!walk->in_body) {
            if (!walk_next_body(walk))
                return MSC4203_END;
            walk_look(walk);
            if (walk->look.shape >= 0)
                return OTHER_SHAPE;
            if ((tool->command == CHECK) && tool->shape >= 0 && !walk_is_json(walk))
                continue;
            walk_open_body(walk);
            walk->bodies++;
            walk->in_body = 1;
        }
        result = walk_step(walk, item);
        say_twice(walk, result == MSC4203_ITEM ? (*item)->offset : UINT64_MAX);
        if (result != MSC4203_END) {
            walk->in_body = result == MSC4203_ITEM;
            return result;
        }
        walk->in_body = 0;
    }
}

static const char *const shape_names[] = {"transaction", "send", "edu", "sync"}; /* as values */

static void say_place(const struct walk *walk, uint64_t offset)
{
    struct tool *tool = walk->tool;

    say(tool, tool->inputs[walk->input].name);
    say(tool, ": byte ");
    say_number(tool, walk->begin + offset);
    say(tool, ": ");
}

/* Ends a message about a body: with its line, if each line is one. */
static void say_line(const struct walk *walk)
{
    if (walk->tool->lines) {
        say(walk->tool, " (line ");
        say_number(walk->tool, walk->line);
        say(walk->tool, ")");
    }
    say(walk->tool, "\n");
}

static void say_body(const struct walk *walk, int error)
{
    struct tool *tool = walk->tool;

    if (error != OTHER_SHAPE) {
        say_place(walk, msc4203_reader_offset(&walk->reader));
        say(tool, msc4203_result_text(error));
        tool->status[STATUS_BODY] = 1;
    } else {
        const char *begin = tool->inputs[walk->input].data + walk->begin;
        say_place(walk, (uint64_t)(skip_blanks(begin, begin + walk->end - walk->begin) - begin));
        say(tool, "this is a body of another shape: --");
        say(tool, (tool->command == CHECK) ? "shape " : "from ");
        say(tool, shape_names[walk->look.shape]);
        tool->status[STATUS_ITEM] = 1;
    }
    say_line(walk);
}

/* With check --shape: a body is first of all JSON, to its end and at every depth. */
static int walk_is_json(const struct walk *walk)
{
    uint64_t offset;
    int result = walk_validate(walk, &offset);

    if (result == MSC4203_END)
        return 1;
    say_place(walk, offset);
    say(walk->tool, msc4203_result_text(result));
    say_line(walk);
    walk->tool->status[STATUS_BODY] = 1;
    return 0;
}

/* Says, once all before it has been said, that a list was left out. */
static void say_twice(struct walk *walk, uint64_t before)
{
    if (!walk->reports || !walk->look.twice || walk->look.twice >= before)
        return;
    say_place(walk, walk->look.twice);
    say(walk->tool, walk->look.name);
    say(walk->tool, ": given twice: what stands here is left out");
    say_line(walk);
    walk->tool->status[STATUS_ITEM] = 1;
    walk->look.twice = 0;
}

/* ---- which field is wrong ---- */

static int same(const msc4203_span *a, const msc4203_span *b)
{
    return a->len == b->len && (a->len == 0 || memcmp(a->ptr, b->ptr, a->len) == 0);
}

/* Has a field of a message the fault that its item has? `string`: it is one. */
static int field_has(int error, const msc4203_span *value, int string)
{
    switch (error) {
    case MSC4203_E_FIELD_TYPE:
        return *value->ptr != (string ? '"' : '{');
    case MSC4203_E_SURROGATE:
        return has_lone_surrogate(value);
    default:
        return !string; /* a number, or too deep */
    }
}

/* In the object of a message. Returns NULL when it finds none. */
static const char *field_in_object(const struct walk *walk, const char *begin, const char *end,
                                   int error)
{
    static const char *const names[] = {"sender", "type", "to_user_id", "to_device_id", "content"};
    struct members members;
    msc4203_span key, value;
    unsigned seen = 0, i;

    if (!members_begin(&members, begin, end))
        return NULL;
    while (members_next(&members, &key, &value))
        for (i = 0; i < 5; i++) {
            if (!key_is(&key, names[i]) || (walk->tool->from == MSC4203_SYNC && (i == 2 || i == 3)))
                continue;
            if (error == MSC4203_E_FIELD_TWICE
                    ? seen >> i & 1
                    : error != MSC4203_E_FIELD_MISSING && field_has(error, &value, i != 4))
                return names[i];
            seen |= 1u << i;
        }
    for (i = 0; i < 5 && error == MSC4203_E_FIELD_MISSING; i++)
        if (!(seen >> i & 1) && (walk->tool->from != MSC4203_SYNC || (i != 2 && i != 3)))
            return names[i];
    return NULL;
}

/* In USER -> DEVICE -> content, and at the top of an EDU. */
static const char *field_in_messages(const struct walk *walk, const msc4203_item *item,
                                     const char *begin, const char *end, int error)
{
    const char *top = walk->tool->inputs[walk->input].data + walk->begin;
    struct members members;
    msc4203_span key, value;

    if (error == MSC4203_E_FIELD_MISSING || item->flags & MSC4203_LATE)
        return item->sender.ptr == NULL ? "sender" : "type";
    members.p = begin;
    members.end = end;
    if (!members_next(&members, &key, &value))
        return NULL;
    if (error == MSC4203_E_SURROGATE && has_lone_surrogate(&key))
        return "the device's id";
    if (error != MSC4203_E_FIELD_TWICE && field_has(error, &value, 0))
        return "content";
    if (walk->tool->from == MSC4203_EDU && members_begin(&members, top, end)) {
        unsigned seen = 0;
        while (members_next(&members, &key, &value)) {
            unsigned bit = key_is(&key, "sender") ? 1 : key_is(&key, "type") ? 2 : 0;
            if (bit &&
                (error == MSC4203_E_FIELD_TWICE ? (seen & bit) != 0 : field_has(error, &value, 1)))
                return bit == 1 ? "sender" : "type";
            seen |= bit;
        }
    }
    return error == MSC4203_E_SURROGATE ? "the user's id" : NULL;
}

/* The key before a value. Returns 0 when there is none: it stands in a list. */
static int key_before(const char *body, const char *value, msc4203_span *key)
{
    const char *p = value, *end;

    while (p > body && (p[-1] == ' ' || p[-1] == '\t' || p[-1] == '\n' || p[-1] == '\r'))
        p--;
    if (p == body || *--p != ':')
        return 0;
    while (p > body && *--p != '"')
        ;
    end = p;
    while (p > body && (*--p != '"' || (p > body && p[-1] == '\\')))
        ;
    key->ptr = p + 1;
    key->len = (size_t)(end - p) - 1;
    return 1;
}

/* Says which field of an item has a fault, if that is known. */
static void say_field(const struct walk *walk, const msc4203_item *item, int error)
{
    struct tool *tool = walk->tool;
    const char *body = tool->inputs[walk->input].data + walk->begin, *name = NULL;
    const char *begin = body + item->offset, *end = body + (walk->end - walk->begin);
    int is_message = item->kind == MSC4203_TO_DEVICE;
    msc4203_span key;
    char text[65];

    if (error == MSC4203_E_TOO_LARGE || error < MSC4203_E_TOO_LARGE || begin >= end)
        return;
    if (is_message && *begin == '"' && (tool->from == MSC4203_SEND || tool->from == MSC4203_EDU))
        name = field_in_messages(walk, item, begin, end, error);
    else if (is_message && *begin == '{')
        name = field_in_object(walk, begin, end, error);
    else if (error == MSC4203_E_FIELD_TYPE && key_before(body, begin, &key) &&
             key.len < sizeof text) {
        memcpy(text, key.ptr, key.len);
        text[key.len] = 0;
        name = text;
    }
    if (name) {
        say(tool, ": ");
        say(tool, name);
    }
}

static void say_item(const struct walk *walk, const msc4203_item *item, int error)
{
    struct tool *tool = walk->tool;

    say_place(walk, item->offset);
    say(tool, "item ");
    say_number(tool, item->index);
    say(tool, ": ");
    say(tool, msc4203_result_text(error));
    if (error == MSC4203_E_SECOND)
        say(tool, same(&item->sender, &tool->first.sender) ? ": type" : ": sender");
    else
        say_field(walk, item, error);
    say_line(walk);
    tool->status[STATUS_ITEM] = 1;
}

/* ----------------------------------------------------------------------------------------------
 * check
 * ---------------------------------------------------------------------------------------------- */

static void check(struct tool *tool)
{
    struct walk walk;
    const msc4203_item *item;
    int result, error;

    tool->from = tool->shape < 0 ? MSC4203_JSON : tool->shape;
    walk_begin(&walk, tool, MSC4203_ALL_KINDS);
    walk.reports = 1;
    while ((result = walk_next(&walk, &item)) != MSC4203_END) {
        if (result != MSC4203_ITEM)
            say_body(&walk, result);
        else if ((error = fault(tool, item)) != MSC4203_OK)
            say_item(&walk, item, error);
    }
}

/* ----------------------------------------------------------------------------------------------
 * convert
 * ---------------------------------------------------------------------------------------------- */

/* In this order they are written. */
static const int kinds_in_order[] = {
    MSC4203_EVENT,       MSC4203_EPHEMERAL,  MSC4203_TO_DEVICE,     MSC4203_DEVICE_CHANGED,
    MSC4203_DEVICE_LEFT, MSC4203_KEY_COUNTS, MSC4203_FALLBACK_TYPES};

static unsigned kind_number(int kind)
{
    unsigned number = 0;

    while (kind >> number > 1)
        number++;
    return number;
}

/* Is it to be written, if it can be? The ids are written apart. */
static int is_wanted(const struct tool *tool, const msc4203_item *item)
{
    if (item->kind & IDS)
        return 0;
    if (tool->to != MSC4203_SYNC || item->kind != MSC4203_TO_DEVICE || !tool->user.ptr)
        return 1;
    return same(&item->user_id, &tool->user) && same(&item->device_id, &tool->device);
}

static int output_id_kind(const struct tool *tool)
{
    return tool->to == MSC4203_EDU    ? MSC4203_MESSAGE_ID
           : tool->to == MSC4203_SYNC ? MSC4203_NEXT_BATCH
                                      : 0;
}

/* The output's message_id or next_batch: the first that the inputs have, or else the option's. */
static int settle_id(struct tool *tool)
{
    struct walk walk;

    if (!output_id_kind(tool))
        return 1;
    walk_begin(&walk, tool, 0);
    while (!tool->id.ptr && tool->from == tool->to && walk_next_body(&walk))
        tool->id = find_id(&walk, tool->id_text);
    if (!tool->id.ptr)
        tool->id = id_option(tool);
    tool->body_id = tool->id;
    return tool->id.ptr != NULL;
}

static int begin_body(const struct tool *tool, msc4203_writer *writer, char *buffer,
                      size_t capacity)
{
    unsigned flags = tool->stable ? MSC4203_STABLE_KEYS : MSC4203_UNSTABLE_KEYS;
    int result = msc4203_writer_begin(writer, tool->to, flags, buffer, capacity);
    msc4203_item id;

    memset(&id, 0, sizeof id);
    id.kind = output_id_kind(tool);
    id.id = tool->body_id;
    if (result == MSC4203_OK && id.kind)
        result = msc4203_writer_item(writer, &id);
    return result;
}

/* Keeps the sender and type of the first message. */
static void keep_first(struct tool *tool, const msc4203_item *item)
{
    char *to = tool->first_text;

    if (item->kind != MSC4203_TO_DEVICE || tool->first.sender.ptr)
        return;
    if (tool->from == MSC4203_SEND) { /* they are options, which stay */
        tool->first = *item;
        return;
    }
    tool->first.sender.ptr = to;
    tool->first.sender.len = item->sender.len;
    tool->first.type.ptr = to + item->sender.len;
    tool->first.type.len = item->type.len;
    if (item->sender.len)
        memcpy(to, item->sender.ptr, item->sender.len);
    if (item->type.len)
        memcpy(to + item->sender.len, item->type.ptr, item->type.len);
}

/* A request to /sendToDevice has one sender, who sends it, and one type, in its path. */
static int is_of_another(const struct tool *tool, const msc4203_item *item)
{
    return tool->to == MSC4203_SEND && item->kind == MSC4203_TO_DEVICE &&
           !(same(&item->sender, &tool->first.sender) && same(&item->type, &tool->first.type));
}

static void count_items(struct tool *tool)
{
    struct walk walk;
    const msc4203_item *item;
    signed char *refusals;
    size_t all = 0;
    unsigned k;
    int result;

    walk_begin(&walk, tool, MSC4203_ALL_KINDS);
    while ((result = walk_next(&walk, &item)) != MSC4203_END) {
        tool->others += result == OTHER_SHAPE;
        if (result != MSC4203_ITEM || !is_wanted(tool, item) || fault(tool, item) != MSC4203_OK)
            continue;
        tool->counts[kind_number(item->kind)]++;
        keep_first(tool, item);
    }
    tool->bodies = walk.bodies;
    for (k = 0; k < KINDS; k++)
        all += tool->counts[k];
    refusals = (signed char *)map_memory(tool, all);
    for (k = 0; k < KINDS; k++) {
        tool->refusals[k] = refusals;
        refusals += tool->counts[k];
    }
}

/* Writes all items of all inputs, a pass for each kind, and remembers those that are refused. With
 * no buffer it measures: an item that returns to an earlier user is then not noticed, and counts.
 */
static size_t write_items(struct tool *tool, char *buffer, size_t capacity)
{
    msc4203_writer writer;
    struct walk walk;
    const msc4203_item *item;
    size_t k, n, bytes = 0;
    int result;

    (void)begin_body(tool, &writer, buffer, capacity);
    for (k = 0; k < sizeof kinds_in_order / sizeof kinds_in_order[0]; k++) {
        unsigned number = kind_number(kinds_in_order[k]);
        if (!tool->counts[number])
            continue;
        walk_begin(&walk, tool, (unsigned)kinds_in_order[k]);
        for (n = 0; (result = walk_next(&walk, &item)) != MSC4203_END;) {
            if (result != MSC4203_ITEM || !is_wanted(tool, item) ||
                fault(tool, item) != MSC4203_OK || n == tool->counts[number])
                continue;
            result =
                is_of_another(tool, item) ? MSC4203_E_SECOND : msc4203_writer_item(&writer, item);
            (void)msc4203_writer_clear(&writer); /* what is refused leaves no trace */
            tool->refusals[number][n++] = (signed char)result;
        }
    }
    (void)msc4203_writer_end(&writer, &bytes);
    return bytes;
}

/* Says what was wrong with bodies and items, in the order in which they stand. */
static void report(struct tool *tool)
{
    struct walk walk;
    const msc4203_item *item;
    size_t seen[KINDS] = {0};
    int result;

    walk_begin(&walk, tool, MSC4203_ALL_KINDS);
    walk.reports = 1;
    while ((result = walk_next(&walk, &item)) != MSC4203_END) {
        unsigned k;
        int error;
        if (result != MSC4203_ITEM) {
            say_body(&walk, result);
            continue;
        }
        k = kind_number(item->kind);
        error = fault(tool, item);
        if (error == MSC4203_OK && is_wanted(tool, item) && seen[k] < tool->counts[k])
            error = tool->refusals[k][seen[k]++];
        if (error != MSC4203_OK)
            say_item(&walk, item, error);
    }
}

static void convert_all(struct tool *tool)
{
    char *body;
    size_t bytes;

    count_items(tool);
    bytes = write_items(tool, NULL, 0);
    body = (char *)map_memory(tool, bytes + 1);
    bytes = write_items(tool, body, bytes);
    body[bytes] = '\n';
    report(tool);
    /* Of files that can't be read, or are something else, there is nothing: not an empty body. */
    if (tool->bodies || (!tool->others && !tool->status[STATUS_USAGE]))
        put_out(tool, body, bytes + 1);
}

static void flush_lines(struct tool *tool)
{
    put_out(tool, tool->out, tool->out_bytes);
    tool->out_bytes = 0;
}

/* Makes room for `bytes` more: lines that are written out need none. */
static void make_room(struct tool *tool, size_t bytes)
{
    if (tool->out_bytes) {
        flush_lines(tool);
        return;
    }
    if (tool->out)
        (void)munmap(tool->out, tool->out_room);
    tool->out_room = bytes > LINES_BYTES ? bytes : LINES_BYTES;
    tool->out = (char *)map_memory(tool, tool->out_room);
}

/* Adds a line that is a body with this one item. Returns what the writer says. */
static int write_line(struct tool *tool, const msc4203_item *item)
{
    msc4203_writer writer;
    size_t bytes = 0, i;
    char *line;
    int result;

    for (;;) {
        size_t room = tool->out_room - tool->out_bytes;
        line = tool->out + tool->out_bytes;
        result = MSC4203_E_FULL;
        if (room > 1) {
            result = begin_body(tool, &writer, line, room - 1);
            if (result == MSC4203_OK)
                result = msc4203_writer_item(&writer, item);
            if (result == MSC4203_OK)
                result = msc4203_writer_end(&writer, &bytes);
        }
        if (result != MSC4203_E_FULL)
            break;
        make_room(tool, room > 1 ? msc4203_writer_needed(&writer) + 1 : 0);
    }
    if (result != MSC4203_OK)
        return result;
    for (i = 0; i < bytes; i++)
        if (line[i] == '\n' || line[i] == '\r') /* only between tokens of raw parts */
            line[i] = ' ';
    line[bytes] = '\n';
    tool->out_bytes += bytes + 1;
    return MSC4203_OK;
}

static void convert_each(struct tool *tool)
{
    struct walk walk;
    const msc4203_item *item;
    int result;

    make_room(tool, 0);
    walk_begin(&walk, tool, MSC4203_ALL_KINDS);
    walk.keeps_ids = output_id_kind(tool) && tool->from == tool->to;
    walk.reports = 1;
    while ((result = walk_next(&walk, &item)) != MSC4203_END) {
        int error;
        if (result != MSC4203_ITEM) {
            say_body(&walk, result);
            continue;
        }
        error = fault(tool, item);
        if (error == MSC4203_OK && is_wanted(tool, item))
            error = write_line(tool, item);
        if (error != MSC4203_OK)
            say_item(&walk, item, error);
    }
    flush_lines(tool);
}

/* ----------------------------------------------------------------------------------------------
 * log
 * ---------------------------------------------------------------------------------------------- */

#include "log_print.h"

/* ----------------------------------------------------------------------------------------------
 * The command line
 * ---------------------------------------------------------------------------------------------- */

static const char help_text[] =
    "usage: msc4203 convert [--from SHAPE] [--to SHAPE] [--each] [--lines] [--stable]\n"
    "                       [--chunk BYTES] [--scratch BYTES] [--sender ID] [--type TYPE]\n"
    "                       [--message-id ID] [--user ID] [--device ID] [--next-batch TOKEN]\n"
    "                       [FILE ...]\n"
    "       msc4203 check   [--shape SHAPE] [--chunk BYTES] [FILE ...]\n"
    "       msc4203 log     [--parked | --each] FILE\n"
    "       msc4203 --help | -h | --version\n"
    "\n"
    "Looks into the JSON bodies in which Matrix to-device messages travel.\n"
    "\n"
    "convert reads bodies of one SHAPE and writes what is in them as one body of another:\n"
    "  transaction   homeserver to application service (the default)\n"
    "  send          client to homeserver, /sendToDevice; to be read it needs --sender, --type\n"
    "  edu           homeserver to homeserver, m.direct_to_device; to be written it needs\n"
    "                --message-id, unless the input has one\n"
    "  sync          homeserver to client, /sync; to be read it needs --user and --device, to be\n"
    "                written --next-batch, unless the input has one\n"
    "check says of each file that is not exactly one JSON text in UTF-8 where it is wrong.\n"
    "log prints the messages that wait in a log file, a line each, and how full the log is. It\n"
    "changes nothing. Of a damaged, cut or extended file it prints what can still be read. (A\n"
    "log that a program is writing to may look damaged.)\n"
    "\n"
    "  FILE                holds one body; without one, or as -, standard input is read\n"
    "  --from, --to SHAPE  what is read and what is written\n"
    "  --shape SHAPE       also check that each body has this shape, and each item can be used\n"
    "  --each              write a body for each item, each on one line; with log, write the\n"
    "                      messages as transactions, each on one line\n"
    "  --parked            only what application services refused\n"
    "  --lines             each line of a FILE is a body\n"
    "  --stable            write stable keys, without their prefixes\n"
    "  --chunk BYTES       read so many bytes at a time (the result is the same)\n"
    "  --scratch BYTES     the longest item that is taken; 262144 unless told\n"
    "  --sender, --type    with --from send: who sends it, and the type in the request's path\n"
    "  --message-id ID     with --to edu: its message_id, if the input has none\n"
    "  --user, --device    with --from sync: whose it is; with --to sync: write only what this\n"
    "                      device is sent\n"
    "  --next-batch TOKEN  with --to sync: its next_batch, if the input has none\n"
    "An option's value may also follow a \"=\".\n"
    "\n"
    "What can't be used, or has no place in the output, is left out with a message:\n"
    "FILE: byte OFFSET: item INDEX: REASON, where offsets and indexes count from 0. A request to\n"
    "/sendToDevice or an EDU holds messages of one sender and type: those of the first message.\n"
    "\n"
    "Exit status: 0 all is well; 1 a body is broken (what was read before is written), or a log\n"
    "is damaged; 2 wrong usage, or a file can't be read or is not a log; 3 some items, or bodies\n"
    "of another shape, were left out.\n";

/* Says what is wrong with the command line, and where to read how it should be. */
static int wrong_usage(struct tool *tool, const char *what, const char *why)
{
    say(tool, "msc4203: ");
    say(tool, what);
    say(tool, ": ");
    say(tool, why);
    say(tool, " (see msc4203 --help)\n");
    tool->status[STATUS_USAGE] = 1;
    return 0;
}

enum option_kind { OPTION_FLAG, OPTION_SHAPE, OPTION_BYTES, OPTION_TEXT };

struct option {
    const char *name;
    void *to;
    enum option_kind kind;
    int commands; /* that have it */
};

static int parse_shape(const char *text, int *shape)
{
    int i;

    for (i = MSC4203_TRANSACTION; i <= MSC4203_SYNC; i++)
        if (strcmp(text, shape_names[i]) == 0) {
            *shape = i;
            return 1;
        }
    return 0;
}

/* A decimal number that the reader can use as a size. */
static int parse_bytes(const char *text, size_t *bytes)
{
    uint64_t number = 0;

    if (!*text)
        return 0;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return 0;
        number = number * 10 + (unsigned)(*text - '0');
        if (number > UINT32_MAX)
            return 0;
    }
    *bytes = (size_t)number;
    return 1;
}

static int is_utf8(const msc4203_span *text)
{
    msc4203_writer writer;
    msc4203_item item;

    memset(&item, 0, sizeof item);
    item.kind = MSC4203_MESSAGE_ID;
    item.id = *text;
    (void)msc4203_writer_begin(&writer, MSC4203_EDU, 0, NULL, 0);
    return msc4203_writer_item(&writer, &item) == MSC4203_OK;
}

/* Returns 0, having said why, if the value is no good. */
static int take_value(struct tool *tool, const struct option *option, const char *value)
{
    msc4203_span *span = (msc4203_span *)option->to;

    if (!value)
        return wrong_usage(tool, option->name, "a value is missing");
    switch (option->kind) {
    case OPTION_SHAPE:
        if (parse_shape(value, (int *)option->to))
            return 1;
        return wrong_usage(tool, value, "not a shape: transaction, send, edu or sync");
    case OPTION_BYTES:
        if (parse_bytes(value, (size_t *)option->to) &&
            (option->to != &tool->chunk || tool->chunk != 0))
            return 1;
        return wrong_usage(tool, value, "not a number of bytes");
    default:
        span->ptr = value;
        span->len = strlen(value);
        return is_utf8(span) || wrong_usage(tool, option->name, "not valid UTF-8");
    }
}

/* The length of an option's name: it ends at a "=". */
static size_t name_length(const char *argument)
{
    const char *equal = strchr(argument, '=');

    return equal ? (size_t)(equal - argument) : strlen(argument);
}

/* Takes one option, and its value: what follows a "=", or the next argument. Returns how many
 * arguments these are; 0, having said why, if something is wrong. */
static size_t take_option(struct tool *tool, char **arguments)
{
    const struct option options[] = {{"--from", &tool->from, OPTION_SHAPE, CONVERT},
                                     {"--to", &tool->to, OPTION_SHAPE, CONVERT},
                                     {"--shape", &tool->shape, OPTION_SHAPE, CHECK},
                                     {"--each", &tool->each, OPTION_FLAG, CONVERT | LOG},
                                     {"--lines", &tool->lines, OPTION_FLAG, CONVERT},
                                     {"--stable", &tool->stable, OPTION_FLAG, CONVERT},
                                     {"--chunk", &tool->chunk, OPTION_BYTES, CONVERT | CHECK},
                                     {"--scratch", &tool->scratch, OPTION_BYTES, CONVERT},
                                     {"--sender", &tool->sender, OPTION_TEXT, CONVERT},
                                     {"--type", &tool->type, OPTION_TEXT, CONVERT},
                                     {"--message-id", &tool->message_id, OPTION_TEXT, CONVERT},
                                     {"--user", &tool->user, OPTION_TEXT, CONVERT},
                                     {"--device", &tool->device, OPTION_TEXT, CONVERT},
                                     {"--next-batch", &tool->next_batch, OPTION_TEXT, CONVERT},
                                     {"--parked", &tool->parked, OPTION_FLAG, LOG},
                                     {"--help", &tool->help, OPTION_FLAG, ALL_COMMANDS},
                                     {"-h", &tool->help, OPTION_FLAG, ALL_COMMANDS}};
    const size_t count = sizeof options / sizeof options[0];
    char *argument = arguments[0];
    size_t i, len = name_length(argument);

    for (i = 0; i < count; i++)
        if (strlen(options[i].name) == len && memcmp(argument, options[i].name, len) == 0)
            break;
    if (i == count || !(options[i].commands & tool->command))
        return (size_t)wrong_usage(tool, argument, "no such option");
    if (options[i].kind != OPTION_FLAG)
        return !take_value(tool, &options[i], argument[len] ? argument + len + 1 : arguments[1]) ? 0
               : argument[len]                                                                   ? 1
                               : 2;
    if (argument[len])
        return (size_t)wrong_usage(tool, argument, "it takes no value");
    *(int *)options[i].to = 1;
    return 1;
}

/* Takes the options out of `arguments` and puts the names of files in their place. Returns 0,
 * having said why, if something is wrong. */
static int parse_arguments(struct tool *tool, char **arguments, size_t *files)
{
    char **names = arguments;
    int only_files = 0;
    size_t taken;

    *files = 0;
    for (; *arguments != NULL; arguments += taken) {
        char *argument = *arguments;
        taken = 1;
        if (only_files || argument[0] != '-' || !argument[1])
            names[(*files)++] = argument;
        else if (strcmp(argument, "--") == 0)
            only_files = 1;
        else if ((taken = take_option(tool, arguments)) == 0)
            return 0;
    }
    return 1;
}

/* Are the options there that the shapes need, and the files that the command needs? */
static int has_what_it_needs(struct tool *tool)
{
    if (tool->command == LOG && tool->input_count != 1)
        return wrong_usage(tool, "log", "it needs one FILE");
    if (tool->parked && tool->each)
        return wrong_usage(tool, "--parked", "not together with --each");
    if (tool->from == MSC4203_SEND && (!tool->sender.ptr || !tool->type.ptr))
        return wrong_usage(tool, "--from send", "it needs --sender and --type");
    if (tool->from == MSC4203_SYNC && (!tool->user.ptr || !tool->device.ptr))
        return wrong_usage(tool, "--from sync", "it needs --user and --device");
    if (tool->to == MSC4203_SYNC && !tool->user.ptr != !tool->device.ptr)
        return wrong_usage(tool, "--to sync", "--user and --device belong together");
    if (tool->to == MSC4203_EDU && tool->from != MSC4203_EDU && !tool->message_id.ptr)
        return wrong_usage(tool, "--to edu", "it needs --message-id");
    if (tool->to == MSC4203_SYNC && tool->from != MSC4203_SYNC && !tool->next_batch.ptr)
        return wrong_usage(tool, "--to sync", "it needs --next-batch");
    return 1;
}

static void convert(struct tool *tool)
{
    int has_id = settle_id(tool);

    if (has_id && tool->each) {
        convert_each(tool);
    } else if (has_id) {
        convert_all(tool);
    } else {
        report(tool);
        if (tool->to == MSC4203_EDU)
            (void)wrong_usage(tool, "--to edu", "no input has a message_id: it needs --message-id");
        else
            (void)wrong_usage(tool, "--to sync",
                              "no input has a next_batch: it needs --next-batch");
    }
}

static void print(struct tool *tool, const char *text)
{
    put_out(tool, text, strlen(text));
}

/* Takes the command line apart, or answers --help and --version. Returns the names of the inputs,
 * or NULL when there is nothing more to do. */
static char **parse(struct tool *tool, int argc, char **argv)
{
    static char standard_input[] = "-", *default_inputs[] = {standard_input, NULL};
    const char *command = argc > 1 ? argv[1] : "";
    char **inputs = argc > 1 ? argv + 2 : argv + argc;

    if (strcmp(command, "--version") == 0) {
        print(tool, "msc4203 " MSC4203_VERSION "\n");
        return NULL;
    }
    tool->help = strcmp(command, "--help") == 0 || strcmp(command, "-h") == 0;
    tool->command = strcmp(command, "check") == 0 ? CHECK
                    : strcmp(command, "log") == 0 ? LOG
                                                  : CONVERT;
    if (!tool->help && tool->command == CONVERT && strcmp(command, "convert") != 0) {
        (void)wrong_usage(tool, *command ? command : "nothing to do", "convert, check or log");
        return NULL;
    }
    if (!parse_arguments(tool, inputs, &tool->input_count))
        return NULL;
    if (tool->help) {
        print(tool, help_text);
        return NULL;
    }
    if (!has_what_it_needs(tool))
        return NULL;
    if (tool->input_count == 0) {
        inputs = default_inputs;
        tool->input_count = 1;
    }
    return inputs;
}

int main(int argc, char **argv)
{
    static struct tool tool;
    char **names;
    size_t i;

    tool.scratch = SCRATCH_BYTES;
    tool.shape = -1;
    names = parse(&tool, argc, argv);
    if (!names)
        return finish(&tool);
    if (tool.command == LOG) {
        log_print(&tool, names[0]);
        return finish(&tool);
    }
    tool.inputs = (struct input *)map_memory(&tool, tool.input_count * sizeof(struct input));
    for (i = 0; i < tool.input_count; i++)
        tool.inputs[i].name = names[i];
    open_inputs(&tool);
    if (tool.command == CHECK)
        check(&tool);
    else
        convert(&tool);
    return finish(&tool);
}
