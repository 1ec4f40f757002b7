/* gateway_connections.h - the gateway's connections: takes them, reads and writes them on, and ends
 * those that take too long. */
#ifndef GATEWAY_CONNECTIONS_H
#define GATEWAY_CONNECTIONS_H

#include "gateway_requests.h"

/* ---- reading ---- */

/* Goes on with what has been read. Returns 0 when more has to come first. */
static int connection_step(struct connection *c)
{
    char *in = in_of(c);
    size_t end;

    switch (c->state) {
    case CONNECTION_HEAD:
        while (c->http.in_bytes != 0 && (in[0] == '\r' || in[0] == '\n')) { /* RFC 9112, 2.2 */
            memmove(in, in + 1, --c->http.in_bytes);
            c->http.looked = 0;
        }
        end = http_in_head(&c->http, in);
        if (end != 0) {
            request_begin(c, end);
            if (c->state != CONNECTION_FREE && c->state != CONNECTION_WAIT_SLOT &&
                c->state != CONNECTION_GATHER)
                head_done(c);
            if (c->state == CONNECTION_SYNC && c->head >= 0)
                sync_answer(c, 1); /* no place for a long head is held by who only waits */
            return 1;
        }
        if (c->head < 0 && c->http.in_bytes == IN_BYTES) {
            int ready = head_is_ready(c), i;
            for (i = ready ? 0 : (int)EXPRESS; i < HEADS && g.head_owner[i] >= 0; i++)
                ;
            if (i == HEADS || (g.waiting != 0 && !g.grants && !ready)) {
                wait_in(c, CONNECTION_WAIT_HEAD);
                return 0;
            }
            c->ticket = 0;
            c->head = i;
            g.head_owner[i] = (int)(c - g.connections);
            memcpy(g.heads[i], c->in, IN_BYTES);
            c->begun = g.now;
            c->read = 0;
        } else if (c->head >= 0 && c->http.in_bytes == HTTP_HEAD_MAX) {
            c->http.keep_alive = 0;
            c->http.in_at = c->http.in_bytes;
            refuse_now(c, 431, "M_TOO_LARGE", "the headers are too large");
            return 1;
        }
        return 0;
    case CONNECTION_BODY:
    case CONNECTION_DRAIN:
        if (c->http.body.state == HTTP_BODY_DONE && c->state == CONNECTION_BODY && c->slot >= 0) {
            msc4203_span none = {NULL, 0}; /* there was no body at all */
            request_piece(c, &none);
            return 1;
        }
        if (c->http.in_at < c->http.in_bytes) {
            msc4203_span piece;
            http_in_body(&c->http, in, &piece);
            request_piece(c, &piece);
            return 1;
        }
        head_done(c);
        return 0;
    default:
        return 0;
    }
}

static void connection_go(struct connection *c)
{
    while (c->state != CONNECTION_FREE && connection_step(c))
        ;
}

/* Reads what has come of a body. Returns 0 when nothing more can be read now. */
static int connection_read_body(struct connection *c)
{
    ssize_t n = http_body_read(&c->http, g.piece, PIECE_BYTES);
    size_t at = 0;

    if (n < 0)
        connection_close(c);
    if (n <= 0)
        return 0;
    c->active = g.now;
    while (at < (size_t)n && (c->state == CONNECTION_BODY || c->state == CONNECTION_DRAIN)) {
        msc4203_span piece;
        at += http_body_take(&c->http, g.piece + at, (size_t)n - at, &piece);
        request_piece(c, &piece);
    }
    connection_go(c);
    return n == PIECE_BYTES && c->state == CONNECTION_BODY;
}

/* Reads what has come. */
static void connection_read(struct connection *c)
{
    ssize_t n;
    int turns = 8; /* then others have their turn */

    if (c->state == CONNECTION_BODY || c->state == CONNECTION_DRAIN) {
        while (turns-- != 0 && connection_read_body(c))
            ;
        return;
    }
    if (c->state == CONNECTION_LINGER)
        n = http_receive(c->http.fd, g.piece, PIECE_BYTES, 0);
    else if (c->state == CONNECTION_HEAD || c->state == CONNECTION_GATHER)
        n = http_in_read(&c->http, in_of(c), in_room(c));
    else
        n = http_receive(c->http.fd, g.piece, 1, MSG_PEEK); /* it has gone? */
    if (n < 0)
        connection_close(c);
    if (n <= 0 || (c->state != CONNECTION_HEAD && c->state != CONNECTION_GATHER))
        return;
    c->active = g.now;
    c->read += (uint64_t)n;
    if (c->state == CONNECTION_GATHER) {
        c->state = CONNECTION_HEAD; /* the head is looked at again */
        c->http.looked = 0;
    }
    connection_go(c);
    /* A body has mostly come together with its head. If it were left to the next turn, a sender
     * might flush in this one, and the message would need a flush of its own. */
    while (turns-- != 0 && (c->state == CONNECTION_BODY || c->state == CONNECTION_DRAIN) &&
           connection_read_body(c))
        ;
}

/* The connection that has been silent longest, of those between requests or in a head, or of those
 * that wait for something; -1 when there is none. `early` ones too, or not those that have not been
 * silent for long. */
static int connection_idle(int waiting, int early)
{
    int i, oldest = -1;

    for (i = 0; i < g.connection_count; i++) {
        const struct connection *c = &g.connections[i];
        int idle = c->state == CONNECTION_HEAD;
        if (waiting)
            idle = c->state == CONNECTION_WAIT_HEAD || c->state == CONNECTION_WAIT_SLOT ||
                   c->state == CONNECTION_GATHER || c->state == CONNECTION_DRAIN ||
                   c->state == CONNECTION_SYNC;
        if (c->early && !early && g.now - c->active < EARLY_MS)
            continue;
        if (idle && (oldest < 0 || c->active < g.connections[oldest].active))
            oldest = i;
    }
    return oldest;
}

/* Closes a connection to make room: one that has been idle longest, or, if none is, that waits
 * longest: its client may have gone without a word, or mean harm. Those that were there before the
 * crowd came are the last to go. Returns 0 when there is none. */
static int connection_make_room(void)
{
    int i = connection_idle(0, 0);

    if (i < 0)
        i = connection_idle(1, 0);
    if (i < 0)
        i = connection_idle(0, 1);
    if (i < 0)
        i = connection_idle(1, 1);
    if (i < 0)
        return 0;
    connection_close(&g.connections[i]);
    return 1;
}

/* Takes new connections, of clients or of the operator. */
static void connections_accept(int listener, int admin)
{
    int i, fd, turns;

    for (turns = 0; turns < 64; turns++) { /* then others have their turn */
        fd = http_accept(listener);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
                       errno == ENOMEM)) {
            if (connection_make_room())
                continue;
            g.accept_at = g.now + ACCEPT_MS;
        }
        if (fd < 0)
            return;
        if (g.used == g.connection_count && !connection_make_room()) {
            close(fd);
            return;
        }
        for (i = 0; g.connections[i].state != CONNECTION_FREE; i++)
            ;
        memset(&g.connections[i], 0, offsetof(struct connection, in));
        g.connections[i].http.fd = fd;
        g.connections[i].state = CONNECTION_HEAD;
        g.connections[i].slot = g.connections[i].head = g.connections[i].ping = -1;
        g.connections[i].active = g.now;
        g.connections[i].admin = admin != 0;
        g.connections[i].early = g.used <= g.connection_count / 4;
        g.used++;
    }
}

/* Looks whether what a connection waits to send has come meanwhile. */
static void look_at_waiting(struct connection *c)
{
    int available = 0;

    if (c->state != CONNECTION_WAIT_HEAD && c->state != CONNECTION_WAIT_SLOT) {
        return;
    }
    if (ioctl(c->http.fd, FIONREAD, &available) != 0 || (uint32_t)available == c->available)
        return;
    c->available = (uint32_t)available;
    if (c->state == CONNECTION_WAIT_HEAD) {
        c->ready = head_is_ready(c) != 0;
    } else {
        c->http.in_at = c->head_bytes;
        c->ready = body_is_ready(c, in_of(c)) != 0;
        c->http.in_at = 0;
    }
}

/* Looks after one connection: what has become possible for it, and what takes too long. */
static void connection_care(struct connection *c)
{
    uint64_t silent = g.now - c->active;
    uint64_t held = g.now - c->begun;
    int slow = g.waiting != 0 && held > SLOW_MS && c->read < held;

    switch (c->state) {
    case CONNECTION_HEAD:
    case CONNECTION_GATHER:
        if (silent < SILENT_MS && !(c->head >= 0 && slow))
            return;
        if (c->http.in_bytes == 0) {
            connection_close(c);
            return;
        }
        c->http.keep_alive = 0;
        c->http.in_at = c->http.in_bytes;
        refuse_now(c, 408, "M_UNKNOWN", "the request is too slow");
        return;
    case CONNECTION_BODY:
    case CONNECTION_DRAIN:
        if (silent < SILENT_MS && !(c->slot >= 0 && slow))
            return;
        if (c->slot >= 0)
            send_user_ends(&g.slots[c->slot]);
        c->http.keep_alive = 0;
        refuse_now(c, 408, "M_UNKNOWN", "the request is too slow");
        return;
    case CONNECTION_SYNC:
        if (g.news || g.now >= c->deadline)
            sync_answer(c, g.now >= c->deadline);
        return;
    case CONNECTION_PING:
        if (g.now < c->deadline) {
            if (c->ping < 0)
                ping_begin(c);
        } else if (c->ping >= 0) {
            ping_end(&g.pings[c->ping], 0);
        } else {
            refuse(c, 504, "M_CONNECTION_TIMEOUT", "other pings were not answered in time");
        }
        return;
    case CONNECTION_WRITE:
        if (silent >= SILENT_MS || (c->slot >= 0 && slow))
            connection_close(c);
        return;
    case CONNECTION_LINGER:
        if (g.now >= c->deadline)
            connection_close(c);
        return;
    case CONNECTION_WAIT_HEAD:
    case CONNECTION_WAIT_SLOT:
    case CONNECTION_SYNC_SLOT:
    case CONNECTION_STATUS_SLOT:
        look_at_waiting(c);
        return;
    default:
        return;
    }
}

/* Whether a connection waits for a slot, or for a place for its head. */
static int waits(const struct connection *c, int for_head)
{
    if (for_head)
        return c->state == CONNECTION_WAIT_HEAD;
    return c->state == CONNECTION_WAIT_SLOT || c->state == CONNECTION_SYNC_SLOT ||
           c->state == CONNECTION_STATUS_SLOT;
}

static int is_free(int for_head, int ready)
{
    int i = ready ? 0 : for_head ? (int)EXPRESS : g.express;

    for (; i < (for_head ? (int)HEADS : g.slot_count); i++)
        if ((for_head ? g.head_owner[i] : g.slots[i].connection) < 0)
            return 1;
    return 0;
}

/* Gives what is free to those that wait: to those who are ready first, and then in the order in
 * which they came. So a crowd of slow ones keeps nobody out for ever, and few for long. */
static void grant(int for_head)
{
    while (g.waiting != 0 && is_free(for_head, 1)) {
        int slow = is_free(for_head, 0), i, state;
        struct connection *c = NULL;

        for (i = 0; i < g.connection_count; i++) {
            struct connection *other = &g.connections[i];
            if (waits(other, for_head) && (other->ready || slow) &&
                (c == NULL || other->ready > c->ready ||
                 (other->ready == c->ready && other->ticket < c->ticket)))
                c = other;
        }
        if (c == NULL)
            return;
        state = c->state;
        g.grants = 1;
        if (state == CONNECTION_SYNC_SLOT)
            sync_answer(c, 1);
        else if (state == CONNECTION_STATUS_SLOT)
            admin_answer(c);
        else
            c->state = CONNECTION_HEAD;
        c->http.looked = 0;
        if (c->state != CONNECTION_FREE)
            connection_go(c);
        g.grants = 0;
        if (c->state == state)
            return;
    }
}

#endif
