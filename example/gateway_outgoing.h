/* gateway_outgoing.h - one request to an appservice, and the connection it goes over: finds the
 * address, connects, sends, and takes in the answer, as far as that goes without waiting. */
#ifndef GATEWAY_OUTGOING_H
#define GATEWAY_OUTGOING_H

#include "gateway_answers.h"

/* ---- requests out ---- */

static void outgoing_close(struct outgoing *o)
{
    if (o->state != OUTGOING_CLOSED && o->state != OUTGOING_RESOLVING)
        close(o->fd);
    o->state = OUTGOING_CLOSED;
    o->fd = -1;
}

/* ---- connecting: the addresses of a name, all of them in turn ---- */

static void outgoing_why(struct outgoing *o, const char *what, const char *why)
{
    snprintf(o->why, sizeof o->why, "%s%s%s", what, why[0] != 0 ? ": " : "", why);
}

/* Closes a connection that is not in use, for another one. Returns 0 when there is none. */
static int outgoing_make_room(void)
{
    int i;

    for (i = 1; i < MSC4203_CHANNEL_PARKED; i++)
        if (g.channels[i].out.state == OUTGOING_OPEN) {
            outgoing_close(&g.channels[i].out);
            return 1;
        }
    return 0;
}

/* Begins to connect to the next address. Returns 0 when there is none left. */
static int outgoing_connect(struct outgoing *o)
{
    while (o->address < o->found.count) {
        const struct resolve_address *a = &o->found.addresses[o->address++];
        struct http_address to;

        memset(&to, 0, sizeof to);
        memcpy(&to.address, a->address, a->bytes);
        to.bytes = a->bytes;
        o->connects = g.now;
        o->fd = http_connect(&to);
        if (o->fd < 0 && errno == EMFILE && outgoing_make_room())
            o->fd = http_connect(&to);
        if (o->fd >= 0) {
            o->state = OUTGOING_CONNECTING;
            return 1;
        }
        outgoing_why(o, strerror(errno), "");
    }
    o->state = OUTGOING_CLOSED;
    return 0;
}

/* Begins with a name. Returns 0 when that has failed already. */
static int outgoing_resolve(struct outgoing *o, const struct config_appservice *a)
{
    static uint32_t questions;

    o->address = 0;
    o->state = OUTGOING_CLOSED;
    resolve_name(&o->found, a->name, a->port, AI_NUMERICHOST | AI_NUMERICSERV);
    if (o->found.error == 0)
        return outgoing_connect(o);
    o->question = ++questions;
    if (!resolver_ask(&g.resolver, o->question, a->name, a->port)) {
        outgoing_why(o, "the name can't be looked up", "no process for that");
        return 0;
    }
    o->state = OUTGOING_RESOLVING;
    o->connects = g.now;
    return 1;
}

/* What was found about a name: if it was asked here, the next step goes on with it. */
static void outgoing_found(struct outgoing *o, const struct resolve_answer *answer)
{
    if (o->state != OUTGOING_RESOLVING || o->question != answer->id)
        return;
    o->found = *answer;
    o->question = 0;
}

/* One step of that. Returns 1 when it is connected, -1 when it failed. */
static int outgoing_connect_step(struct outgoing *o)
{
    struct sockaddr_storage peer;
    socklen_t bytes = sizeof peer, length = sizeof(int);
    int error = 0;

    if (o->state == OUTGOING_RESOLVING) {
        if (o->question != 0 && g.now - o->connects < RESOLVE_MS)
            return 0;
        if (o->question != 0)
            outgoing_why(o, "the name does not resolve", "no answer");
        else if (o->found.error != 0)
            outgoing_why(o, "the name does not resolve", gai_strerror(o->found.error));
        return o->question == 0 && o->found.error == 0 && outgoing_connect(o) ? 0 : -1;
    }
    if (getpeername(o->fd, (struct sockaddr *)&peer, &bytes) == 0) {
        o->state = OUTGOING_BUSY;
        return 1;
    }
    if (getsockopt(o->fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0)
        error = errno;
    if (error == 0 && (o->address == o->found.count || g.now - o->connects < CONNECT_MS))
        return 0;
    outgoing_why(o, strerror(error != 0 ? error : ETIMEDOUT), "");
    close(o->fd);
    return outgoing_connect(o) ? 0 : -1;
}

/* ---- sending and receiving ---- */

/* Begins a request, on the connection that is open or a new one. Returns 0 when that fails. */
static int outgoing_begin(struct outgoing *o, int appservice, const char *method, const char *path,
                          uint64_t body_bytes)
{
    const struct config_appservice *a = &g.config->appservices[appservice];
    int n;

    n = snprintf(o->head, sizeof o->head,
                 "%s %.*s%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %.*s\r\n"
                 "Content-Type: application/json\r\nContent-Length: %llu\r\n\r\n", method,
                 (int)a->prefix.len, a->prefix.ptr, path, a->host, (int)a->hs_token.len,
                 a->hs_token.ptr, (unsigned long long)body_bytes);
    if (n < 0 || (size_t)n >= sizeof o->head)
        return 0;
    o->head_bytes = (size_t)n;
    o->total = (uint64_t)n + body_bytes;
    o->sent = 0;
    o->got = 0;
    o->have_head = o->status = 0;
    memset(&o->answer, 0, sizeof o->answer);
    memset(&o->body, 0, sizeof o->body);
    o->began = g.now;
    if (o->state == OUTGOING_OPEN && g.now - o->connects >= SILENT_MS)
        outgoing_close(o); /* after so long the name may have another address */
    o->reused = o->state == OUTGOING_OPEN;
    o->last = 0;
    o->why[0] = 0;
    if (!o->reused)
        return outgoing_resolve(o, a);
    o->state = OUTGOING_BUSY;
    return 1;
}

/* Where the body of a request comes from: `at` counts from its beginning. Returns 0 on failure. */
typedef int outgoing_source(void *context, uint64_t at, char *data, size_t room, size_t *got);

/* Sends on. Returns -1 when the connection broke. */
static int outgoing_send(struct outgoing *o, outgoing_source *source, void *context)
{
    while (o->sent < o->total) {
        const char *data = o->head + o->sent;
        size_t bytes = o->head_bytes - (size_t)o->sent;
        ssize_t n;

        if (o->sent >= o->head_bytes) {
            data = g.piece;
            if (!source(context, o->sent - o->head_bytes, g.piece, PIECE_BYTES, &bytes) ||
                bytes == 0)
                return -1;
        }
        n = send(o->fd, data, bytes, MSG_NOSIGNAL);
        if (n < 0 && http_again())
            return 0;
        if (n <= 0)
            return -1;
        o->sent += (uint64_t)n;
    }
    return 0;
}

/* Takes bytes of an answer. Returns as outgoing_receive() does. */
static int outgoing_take(struct outgoing *o, const char *data, size_t bytes, char *keep,
                         size_t room, size_t *kept)
{
    size_t used = 0;
    msc4203_span piece;

    while (!o->have_head && used < bytes) {
        used += http_answer_feed(&o->answer, data + used, bytes - used);
        if (o->answer.head.status >= 200)
            o->status = o->answer.head.status;
        if (o->answer.state == HTTP_ANSWER_WRONG) {
            outgoing_why(o, "what it answered is not HTTP", "");
            return -1;
        }
        if (o->answer.state == HTTP_ANSWER_MORE)
            return 0;
        if (o->answer.head.status < 200) { /* 100 Continue */
            memset(&o->answer, 0, sizeof o->answer);
            continue;
        }
        o->have_head = 1;
        o->keep_alive = o->answer.head.keep_alive;
        http_body_begin(&o->body, &o->answer.head, 1);
    }
    while (used < bytes && o->body.state != HTTP_BODY_DONE && o->body.state != HTTP_BODY_WRONG) {
        used += http_body_feed(&o->body, data + used, bytes - used, &piece);
        if (kept != NULL) {
            size_t take = piece.len < room - *kept ? piece.len : room - *kept;
            memcpy(keep + *kept, piece.ptr, take);
            *kept += take;
        }
    }
    if (o->body.state == HTTP_BODY_WRONG) {
        outgoing_why(o, "what it answered is not HTTP", "");
        return -1;
    }
    if (o->have_head && o->body.state == HTTP_BODY_DONE) {
        o->keep_alive = o->keep_alive && o->sent == o->total && used == bytes;
        return 1;
    }
    if (o->have_head && o->got > ANSWER_BYTES) {
        o->keep_alive = 0;
        return 1;
    }
    return 0;
}

/* Takes in what came of an answer. Returns 1 when it is complete, -1 when it never will be. `kept`
 * bytes of its body, if it is not NULL, go to `keep`. */
static int outgoing_receive(struct outgoing *o, char *keep, size_t room, size_t *kept)
{
    int turns, done = 0;

    for (turns = 0; turns < 4 && done == 0; turns++) { /* then others have their turn */
        ssize_t n = recv(o->fd, g.piece, PIECE_BYTES, 0);

        if (n < 0 && http_again())
            return 0;
        if (n == 0 && o->have_head && o->body.state == HTTP_BODY_ALL) {
            o->keep_alive = 0;
            return 1;
        }
        if (n <= 0)
            return -1;
        o->got += (uint64_t)n;
        done = outgoing_take(o, g.piece, (size_t)n, keep, room, kept);
    }
    return done;
}

/* One step of a request. Returns 1 when its answer is complete, -1 when it failed. */
static int outgoing_step(struct outgoing *o, outgoing_source *source, void *context, char *keep,
                         size_t room, size_t *kept)
{
    int sent, done;

    if (o->state != OUTGOING_BUSY) {
        done = outgoing_connect_step(o);
        if (done < 0)
            outgoing_close(o);
        if (done <= 0)
            return done;
    }
    sent = outgoing_send(o, source, context);
    done = outgoing_receive(o, keep, room, kept);
    if (done == 0 && sent < 0)
        done = -1;
    if (done > 0 && o->keep_alive && !o->last) {
        o->state = OUTGOING_OPEN;
        o->connects = g.now;
    } else if (done != 0)
        outgoing_close(o);
    if (done < 0 && o->why[0] == 0)
        outgoing_why(o, "the connection ended before the answer did", "");
    return done;
}

#endif
