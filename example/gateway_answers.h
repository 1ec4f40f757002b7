/* gateway_answers.h - what the gateway's connections borrow (slots, and places for long heads), and
 * how a request is answered. */
#ifndef GATEWAY_ANSWERS_H
#define GATEWAY_ANSWERS_H

#include "gateway_store.h"

/* ---- JSON in answers ---- */

static size_t add_text(char *to, size_t at, const char *text)
{
    size_t bytes = strlen(text);
    memcpy(to + at, text, bytes);
    return at + bytes;
}

/* A string in quotes: at most six times its bytes and 2. What is no UTF-8 becomes `?`. */
static size_t add_string(char *to, size_t at, const char *text, size_t bytes)
{
    size_t i;
    to[at++] = '"';
    for (i = 0; i < bytes; i++) {
        unsigned c = (unsigned char)text[i];
        if (c == '"' || c == '\\') {
            to[at++] = '\\';
            to[at++] = (char)c;
        } else if (c < 0x20) {
            at += (size_t)sprintf(to + at, "\\u%04x", c);
        } else if (c < 0x80) {
            to[at++] = (char)c;
        } else {
            size_t n = 2;
            while (n < 4 && !(n <= bytes - i && http_utf8(text + i, n)))
                n++;
            if (n <= bytes - i && http_utf8(text + i, n)) {
                memcpy(to + at, text + i, n);
                at += n;
                i += n - 1;
            } else {
                to[at++] = '?';
            }
        }
    }
    to[at++] = '"';
    return at;
}

/* ---- slots, heads ---- */

static void slot_free(struct connection *c)
{
    struct slot *slot;

    if (c->slot < 0)
        return;
    slot = &g.slots[c->slot];
    if (slot->batch != 0)
        g.queue.abort(g.queue.context, slot->batch);
    slot->batch = 0;
    slot->connection = -1;
    c->slot = -1;
}

/* Takes a slot. Who is `ready` needs it for this turn only: for those there is always one, however
 * many slow ones hold the others, or wait. */
static int slot_take(struct connection *c, int ready)
{
    int i;

    if (!ready && !g.grants && g.waiting != 0)
        return 0;
    for (i = ready ? 0 : g.express; i < g.slot_count; i++)
        if (g.slots[i].connection < 0) {
            g.slots[i].connection = (int)(c - g.connections);
            g.slots[i].batch = 0;
            c->slot = i;
            c->begun = g.now;
            c->read = 0;
            c->ticket = 0;
            return 1;
        }
    return 0;
}

/* Whether all of a request's body has come. */
static int body_is_ready(const struct connection *c, const char *in)
{
    struct http_body body = c->http.body;
    size_t at = c->http.in_at;
    msc4203_span piece;
    int available = 0;
    ssize_t n;

    if (body.state == HTTP_BODY_DONE)
        return 1;
    if (body.state == HTTP_BODY_LENGTH)
        return ioctl(c->http.fd, FIONREAD, &available) == 0 &&
               c->http.in_bytes - at + (size_t)available >= body.left;
    while (at < c->http.in_bytes && body.state != HTTP_BODY_DONE && body.state != HTTP_BODY_WRONG)
        at += http_body_feed(&body, in + at, c->http.in_bytes - at, &piece);
    n = recv(c->http.fd, g.piece, PIECE_BYTES, MSG_PEEK);
    for (at = 0; n > 0 && at < (size_t)n && body.state != HTTP_BODY_DONE &&
                 body.state != HTTP_BODY_WRONG;)
        at += http_body_feed(&body, g.piece + at, (size_t)n - at, &piece);
    return body.state == HTTP_BODY_DONE;
}

/* Whether the system takes an answer of so many bytes at once: it then holds no slot for long. */
static int answer_is_ready(const struct connection *c, size_t bytes)
{
    int room = 0;
    socklen_t length = sizeof room;

    return getsockopt(c->http.fd, SOL_SOCKET, SO_SNDBUF, &room, &length) == 0 &&
           (size_t)room / 2 >= bytes;
}

/* Whether all of a head has come, the first part of which is in the connection. */
static int head_is_ready(const struct connection *c)
{
    ssize_t n;

    memcpy(g.piece, c->in, c->http.in_bytes);
    n = recv(c->http.fd, g.piece + c->http.in_bytes, PIECE_BYTES - c->http.in_bytes, MSG_PEEK);
    return n > 0 && http_head_end(g.piece, c->http.in_bytes + (size_t)n, 0) != 0;
}

/* Has a connection wait for a slot, or a place for its head, until its turn comes. */
static void wait_in(struct connection *c, enum connection_state state)
{
    c->state = (uint8_t)state;
    c->ready = 0;
    c->available = 0;
    if (c->ticket == 0)
        c->ticket = ++g.tickets;
}

static void head_free(struct connection *c)
{
    if (c->head >= 0)
        g.head_owner[c->head] = -1;
    c->head = -1;
}

static size_t in_room(const struct connection *c)
{
    return c->head >= 0 ? (size_t)HTTP_HEAD_MAX : (size_t)IN_BYTES;
}

/* Gives a long head's place back, once what is behind the head fits into the connection. */
static void head_done(struct connection *c)
{
    if (c->head < 0 || c->http.in_bytes - c->http.in_at > IN_BYTES)
        return;
    c->http.in_bytes -= c->http.in_at;
    memcpy(c->in, g.heads[c->head] + c->http.in_at, c->http.in_bytes);
    c->http.in_at = 0;
    head_free(c);
}

static char *in_of(struct connection *c)
{
    return c->head >= 0 ? g.heads[c->head] : c->in;
}

static void connection_close(struct connection *c)
{
    slot_free(c);
    head_free(c);
    if (c->ping >= 0)
        g.pings[c->ping].connection = -1;
    c->ping = -1;
    close(c->http.fd);
    c->http.fd = -1;
    c->state = CONNECTION_FREE;
    g.used--;
}

/* ---- answers ---- */

static char *out_of(struct connection *c)
{
    return c->slot >= 0 ? g.slots[c->slot].scratch : c->out;
}

/* Writes on. */
static void connection_write(struct connection *c)
{
    uint32_t before = c->http.out_at;
    enum http_written written = http_write(&c->http, out_of(c), in_of(c));

    if (c->http.out_at != before) {
        c->read += c->http.out_at - before;
        c->active = g.now;
    }
    if (written == HTTP_UNWRITTEN)
        return;
    slot_free(c);
    switch (written) {
    case HTTP_NEXT: /* on to what came behind this request */
        head_done(c);
        c->continued = 0;
        c->ticket = 0;
        c->state = CONNECTION_HEAD;
        return;
    case HTTP_LINGER:
        c->state = CONNECTION_LINGER;
        c->deadline = g.now + LINGER_MS;
        head_free(c);
        return;
    default:
        connection_close(c);
        return;
    }
}

/* Begins to answer with a body, which is at `body`, where out_of() is not. */
static void answer_body(struct connection *c, int status, const char *body, size_t bytes)
{
    http_answer(&c->http, out_of(c), status, body, bytes);
    c->state = CONNECTION_WRITE;
    connection_write(c);
}

/* Answers with what was decided: {} or a Matrix error. */
static void answer(struct connection *c)
{
    char body[256];
    size_t at = 0;

    slot_free(c);
    if (c->status == 200) {
        answer_body(c, 200, "{}", 2);
        return;
    }
    at = add_text(body, at, "{\"errcode\":\"");
    at = add_text(body, at, c->errcode);
    at = add_text(body, at, "\",\"error\":\"");
    at = add_text(body, at, c->error);
    at = add_text(body, at, c->status == 429 ? "\",\"retry_after_ms\":1000}" : "\"}");
    answer_body(c, c->status, body, at);
}

/* Tells a client that its request was not refused, and that its body is waited for. */
static void go_on(struct connection *c)
{
    if (c->expects)
        http_continue(&c->http);
    c->continued |= c->expects;
    c->expects = 0;
}

/* Decides on an error. What is left of the request's body is read to its end, when that is near and
 * the client does not wait for an answer first. */
static void refuse(struct connection *c, int status, const char *errcode, const char *error)
{
    slot_free(c);
    c->status = status;
    c->errcode = errcode;
    c->error = error;
    if (c->http.body.state != HTTP_BODY_DONE) {
        if (c->http.body.state != HTTP_BODY_WRONG && !c->expects &&
            (c->http.body.state != HTTP_BODY_LENGTH || c->http.body.left <= 1 << 20)) {
            c->state = CONNECTION_DRAIN;
            return;
        }
        c->http.lingers = 1;
    }
    answer(c);
}

/* The same without reading on. */
static void refuse_now(struct connection *c, int status, const char *errcode, const char *error)
{
    c->http.body.state = HTTP_BODY_WRONG;
    refuse(c, status, errcode, error);
}

static void refuse_result(struct connection *c, int result)
{
    if (result == MSC4203_E_STORAGE)
        storage_failed();
    if (result == MSC4203_E_TOO_LARGE)
        refuse(c, 413, "M_TOO_LARGE", "a content, or all of it, is too large ever to be taken");
    else
        refuse(c, msc4203_result_status(result), msc4203_result_errcode(result),
               msc4203_result_text(result));
}

/* Will be answered with 200 once all so far is durable. */
static void committed(struct connection *c)
{
    slot_free(c);
    c->status = 200;
    c->state = c->http.body.state == HTTP_BODY_DONE ? CONNECTION_COMMITTED : CONNECTION_DRAIN;
    go_on(c);
    g.dirty = 1;
}

#endif
