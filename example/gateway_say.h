/* gateway_say.h - the gateway's messages on standard error, a line each: time, level, whom it is
 * about, and what happened.
 *
 * Standard error may be a pipe that nobody reads, or be gone: a line that can't be written at once
 * is dropped, and how many were is told as soon as one can be. */
#ifndef GATEWAY_SAY_H
#define GATEWAY_SAY_H

#include "http.h"

#include <poll.h>
#include <stdarg.h>

enum say_level { SAY_INFO, SAY_WARNING, SAY_ERROR };

enum {
    SAY_LINE = 480,      /* less than a pipe takes in one piece, on every system */
    SAY_AGAIN_MS = 3600000, /* what stays bad is told again after so long */
    SAY_CAUSES = 4
};

/* UTC, as 2026-01-31T23:59:59.999Z. */
static void say_time(char text[32], uint64_t time_ms)
{
    time_t seconds = (time_t)(time_ms / 1000);
    struct tm utc;

    memset(&utc, 0, sizeof utc);
    gmtime_r(&seconds, &utc);
    strftime(text, 32, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(text + strlen(text), 32 - strlen(text), ".%03uZ", (unsigned)(time_ms % 1000));
}

/* Writes a line, if that does not block. Returns 0 when it does, or fails. */
static int say_write(const char *line, size_t bytes)
{
    struct pollfd error;
    ssize_t n = send(STDERR_FILENO, line, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (n < 0 && errno == ENOTSOCK) {
        error.fd = STDERR_FILENO;
        error.events = POLLOUT;
        error.revents = 0;
        if (poll(&error, 1, 0) != 1 || !(error.revents & POLLOUT))
            return 0;
        n = write(STDERR_FILENO, line, bytes);
    }
    return n == (ssize_t)bytes;
}

/* Says something about `who`, if that is not NULL. */
static void say(int level, const msc4203_span *who, const char *format, ...)
{
    static const char *const levels[] = {"info", "warning", "error"};
    static unsigned long lost;
    char line[SAY_LINE], now[32];
    va_list values;
    int error = errno, n;

    say_time(now, http_time());
    if (lost != 0) {
        n = snprintf(line, sizeof line, "%s gateway: warning: %lu lines could not be written\n",
                     now, lost);
        if (say_write(line, (size_t)n))
            lost = 0;
    }
    n = snprintf(line, sizeof line - 1, "%s gateway: %s: %.*s%s", now, levels[level],
                 who != NULL ? (int)who->len : 0, who != NULL ? who->ptr : "",
                 who != NULL ? ": " : "");
    va_start(values, format);
    n += vsnprintf(line + n, sizeof line - 1 - (size_t)n, format, values);
    va_end(values);
    if (n > (int)sizeof line - 2)
        n = (int)sizeof line - 2;
    line[n++] = '\n';
    lost += !say_write(line, (size_t)n);
    errno = error;
}

/* Something that can be bad for long. It is told when it becomes bad, when there is another cause,
 * once an hour, and when it is good again. */
struct say_state {
    uint64_t since_ms, told; /* since when it is bad (0: it is good); when that was told last */
    unsigned long times;
    unsigned cause, causes[SAY_CAUSES]; /* hashes of those that were told lately */
};

static void say_bad(struct say_state *s, const msc4203_span *who, const char *what,
                    const char *cause)
{
    uint64_t now = http_clock();
    unsigned hash = 5381, i;
    char since[32];

    for (i = 0; cause[i] != 0; i++)
        hash = hash * 33 + (unsigned char)cause[i];
    if (s->since_ms == 0) {
        memset(s, 0, sizeof *s);
        s->since_ms = http_time();
    }
    s->times++;
    for (i = 0; i < SAY_CAUSES && s->causes[i] != hash; i++)
        ;
    if (s->times == 1 || i == SAY_CAUSES) {
        s->causes[s->cause++ % SAY_CAUSES] = hash;
        say(SAY_WARNING, who, "%s: %s", what, cause);
    } else if (now - s->told >= SAY_AGAIN_MS) {
        say_time(since, s->since_ms);
        say(SAY_WARNING, who, "still: %s: %s; %lu times since %s", what, cause, s->times, since);
    } else {
        return;
    }
    s->told = now;
}

static void say_good(struct say_state *s, const msc4203_span *who, const char *what)
{
    char since[32];

    if (s->since_ms == 0)
        return;
    say_time(since, s->since_ms);
    say(SAY_INFO, who, "%s again; it had failed %lu times since %s", what, s->times, since);
    s->since_ms = 0;
}

#endif
