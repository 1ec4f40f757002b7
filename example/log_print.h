/* log_print.h - the part of msc4203.c that is `msc4203 log`: prints the messages that wait in a log
 * file. It opens the log only for reading, so that nothing in the file changes, and takes damaged,
 * truncated and extended files for what can still be read of them. SPDX: 0BSD
 *
 * The columns are separated by tabs. Strings come from strangers: what could end a column, or drive
 * a terminal, is written as \xNN. */
#ifndef LOG_PRINT_H
#define LOG_PRINT_H

enum {
    LOG_NAME = 256,           /* room for an application service's id */
    LOG_MESSAGE = 160 * 1024, /* and for the largest message */
    LOG_READ = 256 * 1024     /* read at a time while opening */
};

struct log_print {
    struct tool *tool;
    const char *path;
    int parked;                             /* only what is parked */
    uint64_t damaged;                       /* messages */
    char names[MSC4203_CHANNELS][LOG_NAME]; /* of the channels */
    size_t name_bytes[MSC4203_CHANNELS];    /* 0: it has none */
    msc4203_file file;
    msc4203_storage storage;
    msc4203_log log;
};

/* ---- columns ---- */

static void log_put(struct tool *tool, const char *text, size_t bytes)
{
    if (bytes > tool->out_room - tool->out_bytes)
        make_room(tool, bytes);
    memcpy(tool->out + tool->out_bytes, text, bytes);
    tool->out_bytes += bytes;
}

static void log_put_text(struct tool *tool, const char *text)
{
    log_put(tool, text, strlen(text));
}

/* With leading zeros, if need be. */
static void log_put_number(struct tool *tool, uint64_t number, size_t width)
{
    char digits[20];
    size_t n = sizeof digits;

    do {
        digits[--n] = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0 || sizeof digits - n < width);
    log_put(tool, digits + n, sizeof digits - n);
}

/* Of the control characters, those from U+0080 on are two bytes in UTF-8. */
static void log_put_string(struct tool *tool, const char *text, size_t bytes)
{
    static const char hex[] = "0123456789abcdef";
    size_t i;

    for (i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i], before = i == 0 ? 0 : (unsigned char)text[i - 1];
        char escape[4] = {'\\', 'x', hex[c >> 4], hex[c & 15]};
        if (c < 0x20 || c == 0x7F || c == '\\' || (before == 0xC2 && c < 0xA0))
            log_put(tool, escape, sizeof escape);
        else
            log_put(tool, text + i, 1);
    }
}

static void log_put_column(struct tool *tool, const msc4203_span *span)
{
    log_put_text(tool, "\t");
    if (span->len != 0)
        log_put_string(tool, span->ptr, span->len);
}

static unsigned month_days(uint64_t year, unsigned month)
{
    int leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);

    if (month == 2)
        return leap ? 29 : 28;
    return month == 4 || month == 6 || month == 9 || month == 11 ? 30 : 31;
}

/* ISO 8601, UTC. 400 years always have 146,097 days. */
static void log_put_time(struct tool *tool, uint64_t ms)
{
    uint64_t days = ms / 86400000, year = 1970 + days / 146097 * 400, day = days % 146097;
    unsigned rest = (unsigned)(ms % 86400000), month = 1;

    while (day >= month_days(year, month)) {
        day -= month_days(year, month);
        year += month == 12;
        month = month % 12 + 1;
    }
    log_put_number(tool, year, 4);
    log_put_text(tool, "-");
    log_put_number(tool, month, 2);
    log_put_text(tool, "-");
    log_put_number(tool, day + 1, 2);
    log_put_text(tool, "T");
    log_put_number(tool, rest / 3600000, 2);
    log_put_text(tool, ":");
    log_put_number(tool, rest / 60000 % 60, 2);
    log_put_text(tool, ":");
    log_put_number(tool, rest / 1000 % 60, 2);
    log_put_text(tool, ".");
    log_put_number(tool, rest % 1000, 3);
    log_put_text(tool, "Z");
}

/* An application service whose channel has no name that can be read is `#` and the channel. */
static void log_put_channels(const struct log_print *p, uint32_t channels)
{
    const char *separator = "\t";
    uint32_t c;

    if (channels == 0)
        log_put_text(p->tool, separator);
    for (c = 0; c < MSC4203_CHANNELS; c++) {
        if ((channels >> c & 1) == 0)
            continue;
        log_put_text(p->tool, separator);
        separator = ",";
        if (c == MSC4203_CHANNEL_SYNC) {
            log_put_text(p->tool, "/sync");
        } else if (c == MSC4203_CHANNEL_PARKED) {
            log_put_text(p->tool, "parked");
        } else if (p->name_bytes[c] != 0) {
            log_put_string(p->tool, p->names[c], p->name_bytes[c]);
        } else {
            log_put_text(p->tool, "#");
            log_put_number(p->tool, c, 1);
        }
    }
}

/* ---- messages ---- */

static const char log_header[] =
    "NUMBER\tTIME\tWAITS FOR\tUSER\tDEVICE\tSENDER\tTYPE\tBYTES\tSTATE\n";

static void log_put_message(const struct log_print *p, const msc4203_message *message, int error)
{
    struct tool *tool = p->tool;

    log_put_number(tool, message->number, 1);
    log_put_text(tool, "\t");
    if (message->time_ms != 0) /* 0: it can't be read */
        log_put_time(tool, message->time_ms);
    log_put_channels(p, message->channels);
    log_put_column(tool, &message->item.user_id);
    log_put_column(tool, &message->item.device_id);
    log_put_column(tool, &message->item.sender);
    log_put_column(tool, &message->item.type);
    log_put_text(tool, "\t");
    if (error == MSC4203_OK)
        log_put_number(tool, message->item.content.len, 1);
    log_put_text(tool, error == MSC4203_OK ? "\tok\n" : "\tdamaged\n");
}

/* Says what is wrong with a message that can't be written as a transaction. */
static void say_message(const struct log_print *p, const msc4203_message *message, uint64_t at,
                        int error)
{
    say(p->tool, p->path);
    say(p->tool, ": byte ");
    say_number(p->tool, at);
    say(p->tool, ": message ");
    say_number(p->tool, message->number);
    say(p->tool, ": ");
    say(p->tool, msc4203_result_text(error));
    say(p->tool, "\n");
    p->tool->status[STATUS_BODY] = 1;
}

static int log_see(void *context, const msc4203_message *message, uint64_t at, int error)
{
    struct log_print *p = (struct log_print *)context;

    p->damaged += error != MSC4203_OK;
    if (p->parked && (message->channels >> MSC4203_CHANNEL_PARKED & 1) == 0)
        return 0;
    if (!p->tool->each) {
        log_put_message(p, message, error);
        return 0;
    }
    if (error == MSC4203_OK)
        error = write_line(p->tool, &message->item);
    if (error != MSC4203_OK)
        say_message(p, message, at, error);
    return 0;
}

/* ---- the file ---- */

/* Opens the log in the file, which may be shorter or longer than it was: what is missing at its end
 * reads as zeros. */
static int log_open(struct log_print *p)
{
    struct tool *tool = p->tool;
    msc4203_log_config config;
    uint64_t file_bytes = p->storage.bytes;
    size_t bytes;
    int result = msc4203_log_inspect(&p->log, &p->storage, &config);

    if (result == MSC4203_E_REGION) {
        p->storage.bytes = config.bytes;
        result = msc4203_log_inspect(&p->log, &p->storage, &config);
        if (result == MSC4203_OK) {
            say(tool, p->path);
            say(tool, ": it has ");
            say_number(tool, file_bytes);
            say(tool, " bytes, the log in it ");
            say_number(tool, p->storage.bytes);
            say(tool, "\n");
            tool->status[STATUS_BODY] = 1;
        }
    }
    if (result != MSC4203_OK)
        return result;
    bytes = msc4203_log_memory(&p->log, &p->storage, &config) + LOG_READ;
    return msc4203_log_open(&p->log, &p->storage, map_memory(tool, bytes), bytes, 0);
}

static void log_find_names(struct log_print *p, char *memory, size_t bytes)
{
    msc4203_queue queue;
    msc4203_span name;
    uint32_t c;

    msc4203_log_queue(&p->log, &queue);
    for (c = MSC4203_CHANNEL_FIRST; c < MSC4203_CHANNEL_PARKED; c++) {
        if (queue.record(queue.context, c, memory, bytes, &name, NULL) != MSC4203_OK ||
            name.len > LOG_NAME)
            continue;
        memcpy(p->names[c], name.ptr, name.len);
        p->name_bytes[c] = name.len;
    }
}

static void log_put_usage(const struct log_print *p, const msc4203_log_usage *usage)
{
    struct tool *tool = p->tool;

    log_put_number(tool, usage->messages, 1);
    log_put_text(tool, " messages, ");
    log_put_number(tool, usage->used, 1);
    log_put_text(tool, " of ");
    log_put_number(tool, usage->capacity, 1);
    log_put_text(tool, " bytes used, ");
    log_put_number(tool, usage->damaged, 1);
    log_put_text(tool, " damaged\n");
}

/* Prints what waits in the log, which is open. */
static int log_print_all(struct log_print *p)
{
    struct tool *tool = p->tool;
    msc4203_log_usage usage;
    char *memory = (char *)map_memory(tool, LOG_MESSAGE);
    int result;

    make_room(tool, 0);
    log_find_names(p, memory, LOG_MESSAGE);
    if (!tool->each)
        log_put_text(tool, log_header);
    result = msc4203_log_scan(&p->log, memory, LOG_MESSAGE, log_see, p);
    msc4203_log_usage_get(&p->log, &usage);
    if (usage.damaged < p->damaged)
        usage.damaged = p->damaged;
    if (result == MSC4203_OK && !tool->each)
        log_put_usage(p, &usage);
    flush_lines(tool);
    if (usage.damaged != 0) {
        tool->status[STATUS_BODY] = 1;
        say(tool, p->path);
        say(tool, ": ");
        say_number(tool, usage.damaged);
        say(tool, " damaged\n");
    }
    return result;
}

static void log_print(struct tool *tool, const char *path)
{
    static struct log_print p;
    int result;

    p.tool = tool;
    p.path = path;
    p.parked = tool->parked;
    errno = 0;
    result = msc4203_file_open(&p.file, path, 0, &p.storage);
    if (result == MSC4203_OK)
        result = log_open(&p);
    if (result == MSC4203_OK)
        result = log_print_all(&p);
    if (result == MSC4203_OK)
        return;
    if ((result == MSC4203_END || result == MSC4203_E_STORAGE) && errno != 0)
        give_up(tool, path, errno);
    say_why(tool, path, msc4203_result_text(result));
    tool->status[STATUS_USAGE] = 1;
}

#endif
