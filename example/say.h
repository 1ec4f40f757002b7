/* say.h - a program's messages to its operator, on standard error, a line each: when, which
 * program, how bad it is, what. SPDX: 0BSD
 *
 * A message never holds up the program and never ends it: a line that standard error does not take
 * at once is lost, and how many were lost is said when there is room again.
 *
 * Functions of an embedding program, not of the library: static, in a header. */
#ifndef SAY_H
#define SAY_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if defined(__GNUC__)
#define SAY_FORMAT(text, values) __attribute__((format(printf, text, values), unused))
#else
#define SAY_FORMAT(text, values)
#endif

enum say_level { SAY_INFO, SAY_WARNING, SAY_ERROR };

enum {
    SAY_BYTES = 500,      /* of a line: a pipe takes so much in one piece, or nothing, everywhere */
    SAY_AGAIN_S = 60 * 60, /* what stays bad is said again after this time */
    SAY_CAUSES = 4
};

static struct {
    const char *program;
    int fd, is_socket;
    unsigned long lost; /* lines */
} say_state;

/* Begins. A pipe is opened once more: its own end does not block, and the mode of the other one,
 * which other programs may share, stays as it is. */
static void say_begin(const char *program)
{
    struct stat stat;

    say_state.program = program;
    say_state.fd = STDERR_FILENO;
    signal(SIGPIPE, SIG_IGN);
    if (fstat(STDERR_FILENO, &stat) != 0)
        return;
    say_state.is_socket = S_ISSOCK(stat.st_mode);
    if (S_ISFIFO(stat.st_mode)) {
        int fd = open("/dev/fd/2", O_WRONLY | O_NONBLOCK | O_CLOEXEC);
        if (fd >= 0)
            say_state.fd = fd;
    }
}

/* Writes a line, if it is taken at once. */
static int say_write(const char *line, size_t bytes)
{
    struct pollfd room;

    if (say_state.is_socket)
        return send(say_state.fd, line, bytes, MSG_DONTWAIT) == (ssize_t)bytes;
    room.fd = say_state.fd;
    room.events = POLLOUT;
    room.revents = 0;
    return poll(&room, 1, 0) == 1 && (room.revents & POLLOUT) != 0 &&
           write(say_state.fd, line, bytes) == (ssize_t)bytes;
}

/* A time in UTC, as 2026-01-31T23:59:59. */
static void say_time(char text[32], time_t seconds)
{
    struct tm utc;

    text[0] = 0;
    if (gmtime_r(&seconds, &utc) != NULL)
        strftime(text, 32, "%Y-%m-%dT%H:%M:%S", &utc);
}

/* Begins a line with when, who and how bad. Returns its bytes. */
static size_t say_head(char *line, int level)
{
    static const char *const levels[] = {"info", "warning", "error"};
    char date[32];
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    say_time(date, now.tv_sec);
    return (size_t)snprintf(line, SAY_BYTES, "%s.%03dZ %s: %s: ", date,
                            (int)(now.tv_nsec / 1000000), say_state.program, levels[level]);
}

SAY_FORMAT(2, 0) static void say_values(int level, const char *format, va_list values)
{
    char line[SAY_BYTES + 1];
    size_t head, bytes, i;
    int error = errno, n;

    if (say_state.lost != 0) {
        head = say_head(line, SAY_WARNING);
        n = snprintf(line + head, sizeof line - head, "%lu messages before this one are lost\n",
                     say_state.lost);
        if (n > 0 && say_write(line, head + (size_t)n))
            say_state.lost = 0;
    }
    head = say_head(line, level);
    n = vsnprintf(line + head, SAY_BYTES - head, format, values);
    bytes = head + (n < 0 ? 0 : (size_t)n);
    if (bytes > SAY_BYTES - 1)
        bytes = SAY_BYTES - 1;
    for (i = head; i < bytes; i++) /* what others have chosen stays within the line */
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7F)
            line[i] = '?';
    line[bytes++] = '\n';
    if (!say_write(line, bytes))
        say_state.lost++;
    errno = error;
}

/* Writes a line that is for whoever starts the program: without when and how bad. */
SAY_FORMAT(1, 2) static void say_plain(const char *format, ...)
{
    char line[SAY_BYTES + 1];
    va_list values;
    int head = snprintf(line, SAY_BYTES, "%s: ", say_state.program), n;

    va_start(values, format);
    n = head + vsnprintf(line + head, (size_t)(SAY_BYTES - head), format, values);
    va_end(values);
    if (n > SAY_BYTES - 1)
        n = SAY_BYTES - 1;
    line[n++] = '\n';
    (void)say_write(line, (size_t)n);
}

/* Says something. errno stays as it is. */
SAY_FORMAT(2, 3) static void say(int level, const char *format, ...)
{
    va_list values;

    va_start(values, format);
    say_values(level, format, values);
    va_end(values);
}

/* On a clock that never jumps. */
static time_t say_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

/* Something that may be wrong for a while. Zero at first: all is well. */
struct say_trouble {
    unsigned long times;
    time_t since, said;                 /* since is on the calendar */
    unsigned cause, causes[SAY_CAUSES]; /* hashes of what was said lately */
};

/* Says that something is wrong: the first time, when it has another cause, and once an hour. */
SAY_FORMAT(3, 4)
static void say_bad(struct say_trouble *trouble, int level, const char *format, ...)
{
    char text[SAY_BYTES], since[32];
    unsigned hash = 5381, i;
    time_t now = say_seconds();
    va_list values;

    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    for (i = 0; text[i] != 0; i++)
        hash = hash * 33 + (unsigned char)text[i];
    if (trouble->times++ == 0)
        trouble->since = time(NULL);
    for (i = 0; i < SAY_CAUSES && trouble->causes[i] != hash; i++)
        ;
    if (i == SAY_CAUSES) {
        trouble->causes[trouble->cause++ % SAY_CAUSES] = hash;
        say(level, "%s", text);
    } else if (now - trouble->said >= SAY_AGAIN_S) {
        say_time(since, trouble->since);
        say(level, "still: %s; %lu times since %sZ", text, trouble->times, since);
    } else {
        return;
    }
    trouble->said = now;
}

/* Says that it is well again, if it was not. */
SAY_FORMAT(2, 3) static void say_good(struct say_trouble *trouble, const char *format, ...)
{
    char text[SAY_BYTES], since[32];
    va_list values;

    if (trouble->times == 0)
        return;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    say_time(since, trouble->since);
    say(SAY_INFO, "%s again, after %lu failures since %sZ", text, trouble->times, since);
    memset(trouble, 0, sizeof *trouble);
}

#endif
