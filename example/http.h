/* http.h - what the gateway and the appservice share: HTTP/1.1 over sockets, without blocking and
 * without memory of its own.
 *
 *   http_head_end(), http_parse()   find the end of a head, and take it apart
 *   http_answer_feed()              takes the head of an answer as it comes
 *   http_body_begin(), _feed()      find the body in what follows: by its length, in chunks, or up
 *                                   to the end
 *   http_decode(), http_parameter() look into a target
 *   http_listen(), http_connect(), http_clock()   sockets and time
 *   struct http_connection          a server's end of one: requests in, answers out
 *
 * Functions of an embedding program, not of the library: static, in a header. */
#ifndef HTTP_H
#define HTTP_H

#include "msc4203.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#if defined(__GNUC__)
#define HTTP_UNUSED __attribute__((unused))
#else
#define HTTP_UNUSED
#endif

enum {
    HTTP_HEAD_MAX = 8192,    /* bytes of a request's head; longer ones are refused with 431 */
    HTTP_ANSWER_MAX = 65536, /* of an answer's */
    HTTP_LINE_MAX = 256      /* what is looked at of a line of an answer's head */
};

static HTTP_UNUSED int http_is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* ---- time ---- */

/* Milliseconds that only go forward. */
static HTTP_UNUSED uint64_t http_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Milliseconds since 1970. */
static HTTP_UNUSED uint64_t http_time(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Random bits of the system. Returns 0 when there are none. */
static HTTP_UNUSED int http_random(void *data, size_t bytes)
{
    int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, data, bytes);
    if (fd >= 0)
        close(fd);
    return got == (ssize_t)bytes;
}

/* ---- heads ---- */

struct http_head {
    msc4203_span method, target;   /* of a request: a path, maybe with a query */
    int status;                    /* of an answer */
    int version;                   /* HTTP/1.N */
    int keep_alive;                /* the connection may be used again */
    int chunked, has_length, expects, hosts;
    int coded, bad_length;         /* of an answer: it has codings of transfer; a wrong length */
    uint64_t length;               /* Content-Length */
    msc4203_span authorization;    /* NULL ptr: none */
};

/* Finds the end of a head: the bytes up to and with its empty line, 0 when that has not come. Looks
 * from `from` on: what came before has been looked at. */
static HTTP_UNUSED size_t http_head_end(const char *data, size_t bytes, size_t from)
{
    size_t i = from > 3 ? from - 3 : 0;
    for (; i < bytes; i++) {
        if (data[i] != '\n')
            continue;
        if (i + 1 < bytes && data[i + 1] == '\n')
            return i + 2;
        if (i + 2 < bytes && data[i + 1] == '\r' && data[i + 2] == '\n')
            return i + 3;
    }
    return 0;
}

static HTTP_UNUSED int http_same_word(const char *at, size_t len, const char *word)
{
    size_t i;
    for (i = 0; i < len; i++) {
        unsigned c = (unsigned char)at[i];
        if (c - 'A' < 26)
            c += 'a' - 'A';
        if (word[i] == 0 || c != (unsigned char)word[i])
            return 0;
    }
    return word[i] == 0;
}

/* Tells whether a comma-separated list has a word. */
static HTTP_UNUSED int http_has_word(const char *at, size_t len, const char *word)
{
    size_t begin, end, next;
    for (begin = 0; begin < len; begin = next + 1) {
        for (next = begin; next < len && at[next] != ','; next++)
            ;
        for (end = next; end > begin && (at[end - 1] == ' ' || at[end - 1] == '\t'); end--)
            ;
        while (begin < end && (at[begin] == ' ' || at[begin] == '\t'))
            begin++;
        if (http_same_word(at + begin, end - begin, word))
            return 1;
    }
    return 0;
}

static HTTP_UNUSED int http_token_char(unsigned c)
{
    return c - '0' < 10 || (c | 0x20) - 'a' < 26 || (c != 0 && strchr("!#$%&'*+-.^_`|~", (int)c));
}

/* Reads a Content-Length: one number, or the same one several times. Returns 0 when it is none. */
static HTTP_UNUSED int http_length(const char *value, size_t len, int list, uint64_t *length)
{
    uint64_t first = 0, number = 0;
    size_t i, digits = 0;
    int numbers = 0;

    for (i = 0; i <= len; i++) {
        if (i < len && http_is_digit(value[i])) {
            if (number > UINT64_MAX / 16)
                return 0;
            number = number * 10 + (uint64_t)(value[i] - '0');
            digits++;
        } else if (i == len || (list && value[i] == ',')) {
            if (digits == 0 || (numbers != 0 && number != first))
                return 0;
            first = number;
            numbers = 1;
            number = digits = 0;
        } else if (!list || (value[i] != ' ' && value[i] != '\t')) {
            return 0;
        }
    }
    *length = first;
    return 1;
}

/* Cuts spaces off both ends. */
static HTTP_UNUSED void http_trim(const char **value, size_t *len)
{
    while (*len != 0 && (**value == ' ' || **value == '\t')) {
        (*value)++;
        (*len)--;
    }
    while (*len != 0 && ((*value)[*len - 1] == ' ' || (*value)[*len - 1] == '\t'))
        (*len)--;
}

/* Takes one field of a request. Returns 0 when it is wrong. */
static HTTP_UNUSED int http_field(struct http_head *head, const char *line, size_t len)
{
    size_t name = 0, i;
    const char *value;

    while (name < len && http_token_char((unsigned char)line[name]))
        name++;
    if (name == 0 || name == len || line[name] != ':')
        return 0;
    value = line + name + 1;
    len -= name + 1;
    http_trim(&value, &len);
    for (i = 0; i < len; i++)
        if ((unsigned char)value[i] < 0x20 && value[i] != '\t')
            return 0;
    if (http_same_word(line, name, "content-length")) {
        uint64_t length;
        if (!http_length(value, len, 0, &length) || (head->has_length && head->length != length))
            return 0;
        head->has_length = 1;
        head->length = length;
    } else if (http_same_word(line, name, "transfer-encoding")) {
        if (head->chunked || !http_same_word(value, len, "chunked"))
            return 0;
        head->chunked = 1;
    } else if (http_same_word(line, name, "connection")) {
        if (http_has_word(value, len, "close")) /* and with HTTP/1.0 it ends in any case */
            head->keep_alive = 0;
    } else if (http_same_word(line, name, "authorization")) {
        if (head->authorization.ptr != NULL)
            return 0;
        head->authorization.ptr = value;
        head->authorization.len = len;
    } else if (http_same_word(line, name, "expect")) {
        head->expects = head->version != 0 && http_same_word(value, len, "100-continue");
    } else if (http_same_word(line, name, "host")) {
        for (i = 0; i < len; i++)
            if (strchr(" \t,/?#@", value[i]) != NULL)
                return 0;
        head->hosts++;
    }
    return 1;
}

/* Takes the first line of a request. Its target may be a whole URL (RFC 9112, 3.2.2): the path is
 * what counts. Returns 0 when it is wrong. */
static HTTP_UNUSED int http_request_line(struct http_head *head, const char *line, size_t len)
{
    const char *stop = line + len, *space = (const char *)memchr(line, ' ', len), *p;

    if (space == NULL || space == line)
        return 0;
    for (p = line; p < space; p++)
        if (!http_token_char((unsigned char)*p))
            return 0;
    head->method.ptr = line;
    head->method.len = (size_t)(space - line);
    line = space + 1;
    for (p = line; p < stop && (unsigned char)*p > 0x20 && *p != 0x7F; p++)
        ;
    if (p == line || stop - p != 9 || memcmp(p, " HTTP/1.", 8) != 0 || !http_is_digit(p[8]))
        return 0;
    head->version = p[8] - '0';
    head->keep_alive = head->version != 0;
    if (*line != '/') {
        size_t scheme = http_same_word(line, p - line < 7 ? 0 : 7, "http://") ? 7 :
                        http_same_word(line, p - line < 8 ? 0 : 8, "https://") ? 8 : 0;
        if (scheme == 0)
            return 0;
        for (line += scheme; line < p && *line != '/' && *line != '?'; line++)
            ;
        if (line == p || *line == '?') { /* without a path it is "/", like the scheme's */
            line = head->method.ptr + head->method.len + scheme;
            p = line + 1;
        }
    }
    head->target.ptr = line;
    head->target.len = (size_t)(p - line);
    return 1;
}

/* ---- heads of answers ----
 *
 * What comes from an appservice is taken as RFC 9112 says to user agents, and as far as it goes
 * beyond that: it may be long, have folded fields, and fields that nobody knows. */

enum http_answer_state { HTTP_ANSWER_MORE, HTTP_ANSWER_DONE, HTTP_ANSWER_WRONG };

struct http_answer {
    struct http_head head;
    int state, lines, return_came; /* lines: taken */
    int cut;                       /* the line is longer than what is kept */
    uint32_t bytes, column;
    size_t kept;
    char line[HTTP_LINE_MAX];           /* the last one, with what is folded to it */
};

/* Takes the first line. Returns 0 when it is none. */
static HTTP_UNUSED int http_status_line(struct http_head *head, const char *line, size_t len)
{
    if (len < 12 || memcmp(line, "HTTP/1.", 7) != 0 || !http_is_digit(line[7]) || line[8] != ' ' ||
        line[9] == '0' || !http_is_digit(line[9]) || !http_is_digit(line[10]) ||
        !http_is_digit(line[11]) || (len > 12 && line[12] != ' '))
        return 0;
    head->version = line[7] - '0';
    head->status = (line[9] - '0') * 100 + (line[10] - '0') * 10 + line[11] - '0';
    head->keep_alive = head->version != 0;
    return 1;
}

/* Takes one field. */
static HTTP_UNUSED void http_answer_field(struct http_head *head, const char *line, size_t len,
                                          int cut)
{
    const char *colon = (const char *)memchr(line, ':', len), *value;
    size_t name, i;
    uint64_t length;

    if (colon == NULL)
        return;
    for (name = (size_t)(colon - line); name != 0 && strchr(" \t", line[name - 1]) != NULL; name--)
        ;
    value = colon + 1;
    len -= (size_t)(value - line);
    http_trim(&value, &len);
    if (http_same_word(line, name, "content-length")) {
        if (cut || !http_length(value, len, 1, &length) ||
            (head->has_length && head->length != length))
            head->bad_length = 1;
        else
            head->length = length;
        head->has_length = 1;
    } else if (http_same_word(line, name, "transfer-encoding")) {
        head->coded = 1; /* what counts is whether the last one is "chunked" */
        for (i = len; i != 0 && value[i - 1] != ','; i--)
            ;
        head->chunked = !cut && http_has_word(value + i, len - i, "chunked");
    } else if (http_same_word(line, name, "connection")) {
        if (cut || http_has_word(value, len, "close"))
            head->keep_alive = 0;
    }
}

/* Takes the line that is complete. */
static HTTP_UNUSED void http_answer_line(struct http_answer *a)
{
    if (a->lines++ == 0) {
        if (!http_status_line(&a->head, a->line, a->kept))
            a->state = HTTP_ANSWER_WRONG;
    } else {
        http_answer_field(&a->head, a->line, a->kept, a->cut);
    }
    a->kept = 0;
    a->cut = 0;
}

/* The end: which framing counts (RFC 9112, 6.3). */
static HTTP_UNUSED void http_answer_end(struct http_answer *a)
{
    struct http_head *head = &a->head;

    if (a->state != HTTP_ANSWER_MORE)
        return;
    a->state = HTTP_ANSWER_DONE;
    if (head->coded) {
        if (head->has_length || head->version == 0)
            head->keep_alive = 0;
        head->has_length = head->bad_length = 0;
    }
    if (head->bad_length)
        a->state = HTTP_ANSWER_WRONG;
    if (!head->has_length)
        head->length = 0;
}

static HTTP_UNUSED void http_answer_byte(struct http_answer *a, char c)
{
    if (c == '\n') {
        a->return_came = 0;
        if (a->column != 0) {
            a->column = 0;
        } else if (a->kept != 0 || a->lines != 0) { /* not the empty lines before it */
            http_answer_line(a);
            http_answer_end(a);
        }
        return;
    }
    if (c == '\r' && !a->return_came) {
        a->return_came = 1;
        return;
    }
    if (a->return_came) { /* alone: as good as a space */
        a->return_came = c == '\r';
        c = ' ';
    }
    if (a->column++ == 0 && a->kept != 0 && c != ' ' && c != '\t')
        http_answer_line(a);
    if (a->kept < sizeof a->line)
        a->line[a->kept++] = c;
    else
        a->cut = 1;
}

/* Takes bytes that came; begin with zeros. Returns how many of them belong to the head; it is
 * complete, or none (what is known of it is in `head` all the same), when the state says so. */
static HTTP_UNUSED size_t http_answer_feed(struct http_answer *a, const char *data, size_t bytes)
{
    size_t used = 0;

    while (used < bytes && a->state == HTTP_ANSWER_MORE) {
        http_answer_byte(a, data[used++]);
        if (++a->bytes > HTTP_ANSWER_MAX && a->state == HTTP_ANSWER_MORE)
            a->state = HTTP_ANSWER_WRONG;
    }
    return used;
}

/* Takes a head apart: `bytes` are those that http_head_end() told. What it fills in points into it.
 * Returns 0 when it is none (400). */
static HTTP_UNUSED int http_parse(struct http_head *head, const char *data, size_t bytes,
                                  int answer)
{
    const char *end = data + bytes, *line, *next;
    struct http_answer whole;
    int first = 1;

    memset(head, 0, sizeof *head);
    if (answer) {
        memset(&whole, 0, sizeof whole);
        http_answer_feed(&whole, data, bytes);
        *head = whole.head;
        return whole.state == HTTP_ANSWER_DONE;
    }
    for (line = data; line < end; line = next) {
        const char *stop = (const char *)memchr(line, '\n', (size_t)(end - line));
        size_t len;

        if (stop == NULL)
            return 0;
        next = stop + 1;
        if (stop > line && stop[-1] == '\r')
            stop--;
        len = (size_t)(stop - line);
        if (len == 0)
            break;
        if (!(first ? http_request_line(head, line, len) : http_field(head, line, len)))
            return 0;
        first = 0;
    }
    return !first && !(head->chunked && (head->has_length || head->version == 0)) &&
           head->hosts <= 1 && (head->hosts == 1 || head->version == 0);
}

/* ---- bodies ---- */

enum http_body_state {
    HTTP_BODY_LENGTH, /* so many bytes are left */
    HTTP_BODY_SIZE,   /* in a chunk's size */
    HTTP_BODY_EXTENSION,
    HTTP_BODY_SIZE_LF,
    HTTP_BODY_CHUNK,
    HTTP_BODY_CHUNK_CR,
    HTTP_BODY_CHUNK_LF,
    HTTP_BODY_TRAILER, /* at the beginning of a line behind the last chunk */
    HTTP_BODY_TRAILER_LINE,
    HTTP_BODY_TRAILER_LF,
    HTTP_BODY_ALL,    /* up to the end of the connection */
    HTTP_BODY_DONE,
    HTTP_BODY_WRONG
};

struct http_body {
    int state, digits;
    uint64_t left;
    uint32_t trailer; /* bytes of chunk extensions and trailers: bounded */
};

/* Begins a body. An answer without a length and chunks goes up to the end of the connection. */
static HTTP_UNUSED void http_body_begin(struct http_body *body, const struct http_head *head,
                                        int answer)
{
    memset(body, 0, sizeof *body);
    if (head->chunked)
        body->state = HTTP_BODY_SIZE;
    else if (answer && !head->has_length)
        body->state = HTTP_BODY_ALL;
    else
        body->left = head->length;
    if (answer && (head->status == 204 || head->status == 304 || head->status < 200)) {
        body->state = HTTP_BODY_LENGTH;
        body->left = 0;
    }
    if (body->state == HTTP_BODY_LENGTH && body->left == 0)
        body->state = HTTP_BODY_DONE;
}

/* One byte of what is around chunks. */
static HTTP_UNUSED void http_body_byte(struct http_body *body, unsigned c)
{
    unsigned digit = c - '0' < 10 ? c - '0' : (c | 0x20) - 'a' < 6 ? (c | 0x20) - 'a' + 10 : 16;

    switch (body->state) {
    case HTTP_BODY_SIZE:
        if (digit < 16 && body->left >> 56 == 0 && body->digits < HTTP_HEAD_MAX) {
            body->left = body->left << 4 | digit;
            body->digits++;
            return;
        }
        if (body->digits == 0)
            break;
        if (c == '\n') {
            body->state = body->left != 0 ? HTTP_BODY_CHUNK : HTTP_BODY_TRAILER;
            return;
        }
        if (c == '\r')
            body->state = HTTP_BODY_SIZE_LF;
        else if (c == ';' || c == ' ' || c == '\t')
            body->state = HTTP_BODY_EXTENSION;
        else
            break;
        return;
    case HTTP_BODY_EXTENSION:
        if (++body->trailer > HTTP_HEAD_MAX)
            break;
        if (c == '\n')
            body->state = body->left != 0 ? HTTP_BODY_CHUNK : HTTP_BODY_TRAILER;
        return;
    case HTTP_BODY_SIZE_LF:
        if (c != '\n')
            break;
        body->state = body->left != 0 ? HTTP_BODY_CHUNK : HTTP_BODY_TRAILER;
        return;
    case HTTP_BODY_CHUNK_CR:
        if (c == '\r') {
            body->state = HTTP_BODY_CHUNK_LF;
            return;
        } /* fall through */
    case HTTP_BODY_CHUNK_LF:
        if (c != '\n')
            break;
        body->state = HTTP_BODY_SIZE;
        body->digits = 0;
        body->left = 0;
        return;
    case HTTP_BODY_TRAILER:
        if (c == '\n') {
            body->state = HTTP_BODY_DONE;
            return;
        }
        body->state = c == '\r' ? HTTP_BODY_TRAILER_LF : HTTP_BODY_TRAILER_LINE;
        return;
    case HTTP_BODY_TRAILER_LF:
        if (c != '\n')
            break;
        body->state = HTTP_BODY_DONE;
        return;
    default: /* HTTP_BODY_TRAILER_LINE */
        if (++body->trailer > HTTP_HEAD_MAX)
            break;
        if (c == '\n')
            body->state = HTTP_BODY_TRAILER;
        return;
    }
    body->state = HTTP_BODY_WRONG;
}

/* Takes bytes that came: *piece tells the next piece of the body in them (it may be empty). Returns
 * how many bytes of them are used up; call it again with the rest, until nothing is left or the
 * state is HTTP_BODY_DONE (the rest belongs to the next head) or HTTP_BODY_WRONG (400). */
static HTTP_UNUSED size_t http_body_feed(struct http_body *body, const char *data, size_t bytes,
                                         msc4203_span *piece)
{
    size_t used = 0;

    piece->ptr = data;
    piece->len = 0;
    while (used < bytes && body->state != HTTP_BODY_DONE && body->state != HTTP_BODY_WRONG) {
        if (body->state == HTTP_BODY_ALL) {
            piece->ptr = data + used;
            piece->len = bytes - used;
            return bytes;
        }
        if (body->state == HTTP_BODY_LENGTH || body->state == HTTP_BODY_CHUNK) {
            size_t n = bytes - used < body->left ? bytes - used : (size_t)body->left;
            piece->ptr = data + used;
            piece->len = n;
            body->left -= n;
            if (body->left == 0)
                body->state =
                    body->state == HTTP_BODY_LENGTH ? HTTP_BODY_DONE : HTTP_BODY_CHUNK_CR;
            return used + n;
        }
        http_body_byte(body, (unsigned char)data[used++]);
    }
    return used;
}

/* ---- targets ---- */

static HTTP_UNUSED unsigned http_hex(unsigned c)
{
    return c - '0' < 10 ? c - '0' : (c | 0x20) - 'a' < 6 ? (c | 0x20) - 'a' + 10 : 16;
}

/* Decodes %XX (and, in a query, +) in place of `to`, which has room for `len` bytes. Returns the
 * bytes; SIZE_MAX when an escape is wrong. */
static HTTP_UNUSED size_t http_decode(char *to, const char *from, size_t len, int query)
{
    size_t n = 0, i;

    for (i = 0; i < len; i++) {
        unsigned c = (unsigned char)from[i];
        if (c == '%') {
            unsigned high = i + 2 < len ? http_hex((unsigned char)from[i + 1]) : 16;
            unsigned low = i + 2 < len ? http_hex((unsigned char)from[i + 2]) : 16;
            if (high > 15 || low > 15)
                return SIZE_MAX;
            c = high << 4 | low;
            i += 2;
        } else if (c == '+' && query) {
            c = ' ';
        }
        to[n++] = (char)c;
    }
    return n;
}

/* Tells whether bytes are valid UTF-8. */
static HTTP_UNUSED int http_utf8(const char *text, size_t len)
{
    size_t i = 0;

    while (i < len) {
        unsigned c = (unsigned char)text[i++], low = 0x80, high = 0xBF, more;
        if (c < 0x80)
            continue;
        more = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : 1;
        if (c < 0xC2 || c > 0xF4 || len - i < more)
            return 0;
        if (c == 0xE0)
            low = 0xA0;
        if (c == 0xED)
            high = 0x9F;
        if (c == 0xF0)
            low = 0x90;
        if (c == 0xF4)
            high = 0x8F;
        for (; more != 0; more--, low = 0x80, high = 0xBF)
            if ((unsigned char)text[i] < low || (unsigned char)text[i++] > high)
                return 0;
    }
    return 1;
}

/* Finds a parameter of a query, not decoded. Returns 0 when it is not there. */
static HTTP_UNUSED int http_parameter(const msc4203_span *query, const char *name,
                                      msc4203_span *value)
{
    size_t len = strlen(name), begin, end;

    for (begin = 0; begin < query->len; begin = end + 1) {
        for (end = begin; end < query->len && query->ptr[end] != '&'; end++)
            ;
        if (end - begin > len && query->ptr[begin + len] == '=' &&
            memcmp(query->ptr + begin, name, len) == 0) {
            value->ptr = query->ptr + begin + len + 1;
            value->len = end - begin - len - 1;
            return 1;
        }
    }
    return 0;
}

/* ---- sockets ---- */

/* After a call that failed: whether it may do better later. */
static HTTP_UNUSED int http_again(void)
{
#if EAGAIN != EWOULDBLOCK
    if (errno == EWOULDBLOCK)
        return 1;
#endif
    return errno == EAGAIN || errno == EINTR;
}

static HTTP_UNUSED const char *http_reason(int status)
{
    switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 409: return "Conflict";
    case 408: return "Request Timeout";
    case 413: return "Content Too Large";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 502: return "Bad Gateway";
    case 504: return "Gateway Timeout";
    default: return "Other";
    }
}

static HTTP_UNUSED void http_nonblocking(int fd)
{
    int one = 1;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

/* Splits HOST:PORT or [HOST]:PORT; `host` has room for it. Returns 0 when it is none. */
static HTTP_UNUSED int http_split(const char *address, size_t len, char *host, size_t room,
                                  char port[6])
{
    size_t colon = len, n;

    while (colon != 0 && address[colon - 1] != ':')
        colon--;
    if (colon == 0 || len == colon || len - colon > 5 || colon > room ||
        memchr(address, 0, len) != NULL) /* which would cut the port or the host short */
        return 0;
    memcpy(port, address + colon, len - colon);
    port[len - colon] = 0;
    for (n = 0; port[n] != 0; n++)
        if (!http_is_digit(port[n]))
            return 0;
    n = colon - 1;
    if (n > 1 && address[0] == '[' && address[n - 1] == ']') {
        address++;
        n -= 2;
    }
    memcpy(host, address, n);
    host[n] = 0;
    return n != 0 && strtoul(port, NULL, 10) <= 65535;
}

/* An address, kept: resolving may block, and is done once. */
struct http_address {
    struct sockaddr_storage address;
    socklen_t bytes;
};

static HTTP_UNUSED int http_resolve(const char *host, const char *port, int passive,
                                    struct http_address *out)
{
    struct addrinfo hints, *found = NULL;

    memset(out, 0, sizeof *out);
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = passive ? AI_PASSIVE : 0;
    if (getaddrinfo(host, port, &hints, &found) != 0 || found == NULL)
        return 0;
    memcpy(&out->address, found->ai_addr, found->ai_addrlen);
    out->bytes = found->ai_addrlen;
    freeaddrinfo(found);
    return 1;
}

/* Listens. Returns the socket, or -1; *port tells where. */
static HTTP_UNUSED int http_listen(const struct http_address *at, unsigned *port)
{
    struct http_address bound;
    int one = 1, fd = socket(at->address.ss_family, SOCK_STREAM, 0);

    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    bound.bytes = sizeof bound.address;
    if (bind(fd, (const struct sockaddr *)&at->address, at->bytes) != 0 || listen(fd, 1024) != 0 ||
        getsockname(fd, (struct sockaddr *)&bound.address, &bound.bytes) != 0) {
        close(fd);
        return -1;
    }
    http_nonblocking(fd);
    if (bound.address.ss_family == AF_INET6)
        *port = ntohs(((struct sockaddr_in6 *)&bound.address)->sin6_port);
    else
        *port = ntohs(((struct sockaddr_in *)&bound.address)->sin_port);
    return fd;
}

/* Begins to connect. Returns the socket, or -1. */
static HTTP_UNUSED int http_connect(const struct http_address *to)
{
    int fd = socket(to->address.ss_family, SOCK_STREAM, 0);

    if (fd < 0)
        return -1;
    http_nonblocking(fd);
    if (connect(fd, (const struct sockaddr *)&to->address, to->bytes) != 0 &&
        errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    return fd;
}

/* ---- a server's end of a connection ----
 *
 * Requests come one behind another. A head, and what came with it, is read into a buffer of the
 * caller's, `in`, which may be another one each time as long as it holds the same; what comes later
 * of a body passes through any memory and is not kept. What a head or a piece of a body means, and
 * what is waited for, is the caller's:
 *
 *   between requests     http_in_read(), http_in_head(); then http_parse(), http_body_begin(),
 *                        and in_at is set behind the head
 *   in a body            http_in_body() while in_at < in_bytes, then http_body_read() and, for what
 *                        that has read, http_body_take(), until the body is done
 *   to answer            http_answer(), http_write() */

struct http_connection {
    int fd;
    uint8_t keep_alive, lingers;      /* lingers: is answered before its request has ended */
    uint8_t head_only;                /* it asked with HEAD: no body follows the answer's head */
    uint8_t plain;                    /* the answer is text for Prometheus, not JSON */
    uint32_t in_bytes, in_at, looked; /* read; used up; looked at for the head's end */
    uint32_t out_bytes, out_at;       /* of an answer: all, and written */
    struct http_body body;            /* of the request */
};

/* Takes a connection that has come. Returns its socket, or -1. */
static HTTP_UNUSED int http_accept(int listener)
{
    int fd = accept(listener, NULL, NULL);

    if (fd >= 0)
        http_nonblocking(fd);
    return fd;
}

/* Like recv(), but returns 0 when nothing has come, and -1 when nothing more will. */
static HTTP_UNUSED ssize_t http_receive(int fd, char *data, size_t room, int flags)
{
    ssize_t n = recv(fd, data, room, flags);

    if (n < 0 && http_again())
        return 0;
    return n > 0 ? n : -1;
}

/* Reads what has come of a head, and with it, into `in`, which is not full. Returns as
 * http_receive() does. */
static HTTP_UNUSED ssize_t http_in_read(struct http_connection *c, char *in, size_t room)
{
    ssize_t n = http_receive(c->fd, in + c->in_bytes, room - c->in_bytes, 0);

    if (n > 0)
        c->in_bytes += (uint32_t)n;
    return n;
}

/* Looks for a head. Returns its bytes, 0 when its end has not come. */
static HTTP_UNUSED size_t http_in_head(struct http_connection *c, const char *in)
{
    size_t end = http_head_end(in, c->in_bytes, c->looked);

    c->looked = c->in_bytes;
    return end;
}

/* Takes the next piece of the body from what came with the head. */
static HTTP_UNUSED void http_in_body(struct http_connection *c, const char *in,
                                     msc4203_span *piece)
{
    c->in_at += (uint32_t)http_body_feed(&c->body, in + c->in_at, c->in_bytes - c->in_at, piece);
}

/* Reads what has come of a body, once `in` is used up. Nothing behind the body is taken from the
 * socket: where its length is not known, nothing at all is, before http_body_take(). Returns as
 * http_receive() does. */
static HTTP_UNUSED ssize_t http_body_read(const struct http_connection *c, char *data, size_t room)
{
    int exact = c->body.state == HTTP_BODY_LENGTH;

    if (exact && c->body.left < room)
        room = (size_t)c->body.left;
    return http_receive(c->fd, data, room, exact ? 0 : MSG_PEEK);
}

/* Takes the next piece of the body from what http_body_read() has read. Returns how many bytes are
 * used up. */
static HTTP_UNUSED size_t http_body_take(struct http_connection *c, char *data, size_t bytes,
                                         msc4203_span *piece)
{
    int exact = c->body.state == HTTP_BODY_LENGTH;
    size_t used = http_body_feed(&c->body, data, bytes, piece);

    if (!exact) /* now it is read, to where it is already */
        (void)!recv(c->fd, data, used, 0);
    return used;
}

/* Tells a client that waits with its body to go on. */
static HTTP_UNUSED void http_continue(const struct http_connection *c)
{
    (void)!send(c->fd, "HTTP/1.1 100 Continue\r\n\r\n", 25, MSG_NOSIGNAL);
}

/* Begins an answer: puts its head, and a body of JSON from elsewhere, to `out`, which has room for
 * 200 bytes more than the body. */
static HTTP_UNUSED void http_answer(struct http_connection *c, char *out, int status,
                                    const char *body, size_t bytes)
{
    int n = sprintf(out, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %lu\r\n%s\r\n",
                    status, http_reason(status),
                    c->plain ? "text/plain; version=0.0.4; charset=utf-8" : "application/json",
                    (unsigned long)bytes,
                    c->keep_alive && !c->lingers ? "" : "Connection: close\r\n");

    if (c->head_only)
        bytes = 0;
    memcpy(out + n, body, bytes);
    c->out_bytes = (uint32_t)n + (uint32_t)bytes;
    c->out_at = 0;
}

enum http_written {
    HTTP_UNWRITTEN, /* there is more of it, for later */
    HTTP_NEXT,      /* the next request may follow; `in` holds what has come of it */
    HTTP_LINGER,    /* the rest of the request is to be read for a while, and then to be closed */
    HTTP_CLOSE
};

/* Writes an answer on. */
static HTTP_UNUSED enum http_written http_write(struct http_connection *c, const char *out,
                                                char *in)
{
    while (c->out_at < c->out_bytes) {
        ssize_t n = send(c->fd, out + c->out_at, c->out_bytes - c->out_at, MSG_NOSIGNAL);
        if (n < 0 && http_again())
            return HTTP_UNWRITTEN;
        if (n <= 0)
            return HTTP_CLOSE;
        c->out_at += (uint32_t)n;
    }
    if (c->lingers) {
        shutdown(c->fd, SHUT_WR);
        return HTTP_LINGER;
    }
    if (!c->keep_alive)
        return HTTP_CLOSE;
    c->in_bytes -= c->in_at;
    memmove(in, in + c->in_at, c->in_bytes);
    c->in_at = c->looked = 0;
    return HTTP_NEXT;
}

#endif
