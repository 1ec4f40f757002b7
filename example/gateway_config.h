/* gateway_config.h - the gateway's configuration: reads it, and answers what a homeserver knows of
 * its users: whose token this is, which devices a user has, how a user stands to an appservice.
 *
 * All of it is in one mapping, made for a file of this size; regcomp() has memory of its own. */
#ifndef GATEWAY_CONFIG_H
#define GATEWAY_CONFIG_H

#include "http.h"

#include <regex.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif

enum { CONFIG_APPSERVICES = 30, CONFIG_USER_MAX = 1024, CONFIG_WORDS = 8,
       CONFIG_SLOTS = 24, /* requests whose bodies are read at a time */
       CONFIG_NONE = -1 };

struct config_appservice {
    msc4203_span id, hs_token, as_token, sender;
    unsigned sender_line;
    int opted_in, stable;
    char name[256], port[6];
    char host[272];         /* for the Host header */
    msc4203_span prefix;    /* of the URL's path, without a slash at its end */
    int first_namespace;    /* index of the first, or CONFIG_NONE */
};

struct config_namespace {
    regex_t regex;
    int exclusive, next;
};

struct config_device {
    msc4203_span user, device, token;
    int maker;              /* index of the appservice that made it, or CONFIG_NONE */
    int next_token, next_user; /* of the same bucket */
    unsigned line;
    int deleted;
};

struct config {
    void *memory;
    size_t bytes;
    char *text;
    msc4203_span server_name;
    char host[256], port[6]; /* to listen on */
    char admin[256], admin_port[6]; /* HOST and PORT; or a socket's path, and no port */
    unsigned listen_line, store_line, admin_line;
    char store[1024];
    uint64_t store_bytes, memory_bytes, request_bytes_max, device_bytes_max, appservice_bytes_max;
    uint32_t retry_ms_min, retry_ms_max, txn_messages_max, txn_bytes_max, devices_max, expire_days;
    struct config_appservice appservices[CONFIG_APPSERVICES];
    int appservice_count;
    struct config_namespace *namespaces;
    int namespace_count;
    struct config_device *devices;
    int device_count;
    int *tokens, *users;    /* buckets */
    unsigned char *named;   /* CONFIG_SLOTS for each device: is it named beside a star? */
    uint16_t *seen;         /* as many: for a user's first device, which request named the user */
    uint32_t mask;
    uint64_t key;           /* of the buckets' hash */
    unsigned given;         /* which of the directives with a number */
    unsigned line;          /* where a mistake is */
    const char *reason;     /* and what it is */
};

/* ---- looking up ---- */

static int config_same(const msc4203_span *a, const msc4203_span *b)
{
    return a->len == b->len && (a->len == 0 || memcmp(a->ptr, b->ptr, a->len) == 0);
}

static uint32_t config_hash(const struct config *c, const msc4203_span *span)
{
    msc4203_digest digest;
    unsigned char out[16];

    msc4203_digest_init(&digest, c->key);
    msc4203_digest_add(&digest, span->ptr, span->len);
    msc4203_digest_end(&digest, out);
    return ((uint32_t)out[0] | (uint32_t)out[1] << 8 | (uint32_t)out[2] << 16) & c->mask;
}

/* The device with this token, or CONFIG_NONE. */
static int config_by_token(const struct config *c, const msc4203_span *token)
{
    int i = c->tokens[config_hash(c, token)];
    while (i >= 0 && !(config_same(&c->devices[i].token, token) && !c->devices[i].deleted))
        i = c->devices[i].next_token;
    return i;
}

/* The first device of a user, and the one after a device; CONFIG_NONE at the end. */
static int config_next_device(const struct config *c, int i, const msc4203_span *user)
{
    i = i < 0 ? c->users[config_hash(c, user)] : c->devices[i].next_user;
    while (i >= 0 && !config_same(&c->devices[i].user, user))
        i = c->devices[i].next_user;
    return i;
}

static int config_device_of(const struct config *c, const msc4203_span *user,
                            const msc4203_span *device)
{
    int i = config_next_device(c, CONFIG_NONE, user);
    while (i >= 0 && !config_same(&c->devices[i].device, device))
        i = config_next_device(c, i, user);
    return i;
}

static int config_appservice_by(const struct config *c, const msc4203_span *word, int by_token)
{
    int i;
    for (i = 0; i < c->appservice_count; i++)
        if (config_same(by_token ? &c->appservices[i].as_token : &c->appservices[i].id, word))
            return i;
    return CONFIG_NONE;
}

/* Whether a token is anybody's already: a device's, or one of an appservice's two. */
static int config_token_given(const struct config *c, const msc4203_span *token)
{
    int i;
    for (i = 0; i < c->appservice_count; i++)
        if (config_same(&c->appservices[i].hs_token, token) ||
            config_same(&c->appservices[i].as_token, token))
            return 1;
    return config_by_token(c, token) >= 0;
}

/* How a user stands to the namespaces of an appservice: of enum msc4203_namespace. */
static int config_match(const struct config *c, int appservice, const msc4203_span *user)
{
    char name[CONFIG_USER_MAX + 1];
    int i, how = MSC4203_OUTSIDE;

    if (user->len > CONFIG_USER_MAX || memchr(user->ptr, 0, user->len) != NULL)
        return how;
    memcpy(name, user->ptr, user->len);
    name[user->len] = 0;
    for (i = c->appservices[appservice].first_namespace; i >= 0 && how != MSC4203_EXCLUSIVE;
         i = c->namespaces[i].next)
        if (regexec(&c->namespaces[i].regex, name, 0, NULL, 0) == 0)
            how = c->namespaces[i].exclusive ? MSC4203_EXCLUSIVE : MSC4203_INCLUSIVE;
    return how;
}

/* Whether an appservice may act for a user: its sender, or one in its namespaces. */
static int config_owns(const struct config *c, int appservice, const msc4203_span *user)
{
    return config_same(&c->appservices[appservice].sender, user) ||
           config_match(c, appservice, user) != MSC4203_OUTSIDE;
}

/* ---- reading ---- */

static int config_mistake(struct config *c, const char *reason)
{
    c->reason = reason;
    return 0;
}

/* A number with K, M or G. Returns 0 for another word, and for 0. */
static uint64_t config_size(const msc4203_span *word)
{
    uint64_t value = 0;
    size_t i;

    for (i = 0; i < word->len && http_is_digit(word->ptr[i]); i++) {
        if (value > UINT64_MAX / 16 / 1073741824)
            return 0;
        value = value * 10 + (uint64_t)(word->ptr[i] - '0');
    }
    if (i == 0 || word->len - i > 1)
        return 0;
    if (i == word->len)
        return value;
    switch (word->ptr[i]) {
    case 'K': return value << 10;
    case 'M': return value << 20;
    case 'G': return value << 30;
    default: return 0;
    }
}

static int config_string(char *to, size_t room, const msc4203_span *word)
{
    if (word->len >= room)
        return 0;
    memcpy(to, word->ptr, word->len);
    to[word->len] = 0;
    return 1;
}

static int config_url(struct config *c, struct config_appservice *a, const msc4203_span *url)
{
    size_t begin = 7, end;

    if (url->len < 8 || memcmp(url->ptr, "http://", 7) != 0)
        return config_mistake(c, "not a URL that begins with http://");
    for (end = begin; end < url->len && url->ptr[end] != '/'; end++)
        ;
    if (end - begin >= sizeof a->host - 8)
        return config_mistake(c, "a host that is too long");
    memcpy(a->host, url->ptr + begin, end - begin);
    a->host[end - begin] = 0;
    if (!http_split(a->host, end - begin, a->name, sizeof a->name, a->port)) {
        strcpy(a->host + (end - begin), ":80");
        if (!http_split(a->host, strlen(a->host), a->name, sizeof a->name, a->port))
            return config_mistake(c, "not a URL");
        a->host[end - begin] = 0;
    }
    if (strchr(a->name, ':') != NULL && a->host[0] != '[')
        return config_mistake(c, "not a URL");
    a->prefix.ptr = url->ptr + end;
    a->prefix.len = url->len - end;
    while (a->prefix.len != 0 && a->prefix.ptr[a->prefix.len - 1] == '/')
        a->prefix.len--;
    return 1;
}

static int config_add_appservice(struct config *c, const msc4203_span *words, int count)
{
    struct config_appservice *a = &c->appservices[c->appservice_count];
    int i;

    if (count < 5)
        return config_mistake(c, "appservice needs an id, a URL, HS_TOKEN and AS_TOKEN");
    if (config_appservice_by(c, &words[1], 0) >= 0)
        return config_mistake(c, "this appservice is given twice");
    if (c->appservice_count == CONFIG_APPSERVICES || words[1].len > 255)
        return config_mistake(c, "too many appservices, or too long an id");
    if (!http_utf8(words[1].ptr, words[1].len))
        return config_mistake(c, "an id that is not UTF-8");
    memset(a, 0, sizeof *a);
    a->id = words[1];
    a->hs_token = words[3];
    a->as_token = words[4];
    a->first_namespace = CONFIG_NONE;
    for (i = 5; i < count; i++) {
        if (msc4203_span_equal(&words[i], "to_device"))
            a->opted_in = 1;
        else if (msc4203_span_equal(&words[i], "stable"))
            a->stable = 1;
        else if (!msc4203_span_equal(&words[i], "ephemeral_stable") &&
                 !msc4203_span_equal(&words[i], "ephemeral_unstable"))
            return config_mistake(c, "an unknown word behind AS_TOKEN");
    }
    if (config_same(&a->hs_token, &a->as_token) || config_token_given(c, &a->hs_token) ||
        config_token_given(c, &a->as_token))
        return config_mistake(c, "this token is given twice");
    if (!config_url(c, a, &words[2]))
        return 0;
    c->appservice_count++;
    return 1;
}

static int config_add_namespace(struct config *c, const msc4203_span *words, int appservice,
                                int exclusive)
{
    struct config_namespace *n = &c->namespaces[c->namespace_count];
    char pattern[CONFIG_USER_MAX + 8];

    if (words[2].len > CONFIG_USER_MAX)
        return config_mistake(c, "too long a regular expression");
    memcpy(pattern, "^(", 2);
    memcpy(pattern + 2, words[2].ptr, words[2].len);
    memcpy(pattern + 2 + words[2].len, ")$", 3);
    if (regcomp(&n->regex, pattern, REG_EXTENDED | REG_NOSUB) != 0)
        return config_mistake(c, "not a regular expression");
    n->exclusive = exclusive;
    n->next = c->appservices[appservice].first_namespace;
    c->appservices[appservice].first_namespace = c->namespace_count++;
    return 1;
}

static int config_add_device(struct config *c, const msc4203_span *words, int count)
{
    struct config_device *d = &c->devices[c->device_count];
    uint32_t token, user;

    if ((count != 4 && count != 6) || (count == 6 && !msc4203_span_equal(&words[4], "by")))
        return config_mistake(c, "device needs a user, a device id and a token");
    if (words[1].len > 255 || words[1].ptr[0] != '@' || words[2].len > 255)
        return config_mistake(c, "not a user id, or too long a device id");
    if (!http_utf8(words[1].ptr, words[1].len) || !http_utf8(words[2].ptr, words[2].len))
        return config_mistake(c, "an id that is not UTF-8");
    if (config_device_of(c, &words[1], &words[2]) >= 0)
        return config_mistake(c, "this device is given twice");
    if (config_token_given(c, &words[3]))
        return config_mistake(c, "this token is given twice");
    memset(d, 0, sizeof *d);
    d->user = words[1];
    d->device = words[2];
    d->token = words[3];
    d->line = c->line;
    d->maker = CONFIG_NONE;
    if (count == 6) {
        d->maker = config_appservice_by(c, &words[5], 0);
        if (d->maker < 0)
            return config_mistake(c, "no such appservice");
    }
    token = config_hash(c, &d->token);
    user = config_hash(c, &d->user);
    d->next_token = c->tokens[token];
    d->next_user = c->users[user];
    c->tokens[token] = c->users[user] = c->device_count++;
    return 1;
}

/* A directive whose one word is a number. Returns 2 when it is none of these. */
static int config_number(struct config *c, const msc4203_span *words, int count)
{
    static const char *const names[] = {"retry_ms_min", "retry_ms_max", "txn_messages_max",
                                        "txn_bytes_max", "devices_max", "expire_days",
                                        "request_bytes_max", "device_bytes_max",
                                        "appservice_bytes_max", "memory"};
    enum { SMALL = 6, ALL = 10 };
    uint32_t *small[SMALL] = {&c->retry_ms_min, &c->retry_ms_max, &c->txn_messages_max,
                              &c->txn_bytes_max, &c->devices_max, &c->expire_days};
    uint64_t *large[] = {&c->request_bytes_max, &c->device_bytes_max, &c->appservice_bytes_max,
                         &c->memory_bytes};
    uint64_t value;
    int i;

    for (i = 0; i < ALL && !msc4203_span_equal(&words[0], names[i]); i++)
        ;
    if (i == ALL)
        return 2;
    if (c->given >> i & 1)
        return config_mistake(c, "this directive is given twice");
    c->given |= 1u << i;
    value = count == 2 ? config_size(&words[1]) : 0;
    if ((value == 0 && !(count == 2 && small[i < SMALL ? i : 0] == &c->expire_days &&
                         msc4203_span_equal(&words[1], "0"))) ||
        (i < SMALL && value > 1000000000))
        return config_mistake(c, "not a number that it can have");
    if (i < SMALL)
        *small[i] = (uint32_t)value;
    else
        *large[i - SMALL] = value;
    return 1;
}

static int config_listen(struct config *c, const msc4203_span *words, int count)
{
    if (c->listen_line != 0)
        return config_mistake(c, "listen is given twice");
    if (count != 2 || !http_split(words[1].ptr, words[1].len, c->host, sizeof c->host, c->port))
        return config_mistake(c, "not HOST:PORT");
    c->listen_line = c->line;
    return 1;
}

/* The operator's address is for this machine alone: whoever reaches it may do everything. */
static int config_admin(struct config *c, const msc4203_span *words, int count)
{
    msc4203_span path;

    if (c->admin_line != 0)
        return config_mistake(c, "admin is given twice");
    c->admin_line = c->line;
    if (count == 2 && words[1].len > 5 && memcmp(words[1].ptr, "unix:", 5) == 0) {
        path.ptr = words[1].ptr + 5;
        path.len = words[1].len - 5;
        if (!config_string(c->admin, 104, &path)) /* what every system takes */
            return config_mistake(c, "too long a path for a socket");
        return 1;
    }
    if (count != 2 || !http_split(words[1].ptr, words[1].len, c->admin, sizeof c->admin,
                                  c->admin_port))
        return config_mistake(c, "neither HOST:PORT nor unix:PATH");
    if (strncmp(c->admin, "127.", 4) != 0 && strcmp(c->admin, "::1") != 0 &&
        strcmp(c->admin, "localhost") != 0)
        return config_mistake(c, "admin is for this machine alone: 127.0.0.1, [::1] or unix:PATH");
    return 1;
}

static int config_line(struct config *c, const msc4203_span *words, int count)
{
    int appservice, number;

    if (msc4203_span_equal(&words[0], "listen"))
        return config_listen(c, words, count);
    if (msc4203_span_equal(&words[0], "server_name")) {
        if (count != 2 || c->server_name.len != 0)
            return config_mistake(c, "server_name needs one name, once");
        c->server_name = words[1];
        return 1;
    }
    if (msc4203_span_equal(&words[0], "store")) {
        if (c->store_bytes != 0)
            return config_mistake(c, "store is given twice");
        c->store_bytes = count == 3 ? config_size(&words[2]) : 0;
        c->store_line = c->line;
        if (c->store_bytes == 0 || !config_string(c->store, sizeof c->store - 8, &words[1]))
            return config_mistake(c, "store needs a file and a size");
        return 1;
    }
    if (msc4203_span_equal(&words[0], "admin"))
        return config_admin(c, words, count);
    if (msc4203_span_equal(&words[0], "appservice"))
        return config_add_appservice(c, words, count);
    if (msc4203_span_equal(&words[0], "device"))
        return config_add_device(c, words, count);
    number = config_number(c, words, count);
    if (number != 2)
        return number;
    if (!msc4203_span_equal(&words[0], "sender") && !msc4203_span_equal(&words[0], "exclusive") &&
        !msc4203_span_equal(&words[0], "inclusive"))
        return config_mistake(c, "an unknown directive");
    appservice = count == 3 ? config_appservice_by(c, &words[1], 0) : CONFIG_NONE;
    if (appservice < 0)
        return config_mistake(c, count == 3 ? "no such appservice" : "it needs two words");
    if (words[0].ptr[0] != 's')
        return config_add_namespace(c, words, appservice, words[0].ptr[0] == 'e');
    if (c->appservices[appservice].sender.ptr != NULL)
        return config_mistake(c, "this appservice has a sender already");
    if (words[2].ptr[0] != '@' || words[2].len > 255 || !http_utf8(words[2].ptr, words[2].len))
        return config_mistake(c, "not a user id");
    c->appservices[appservice].sender = words[2];
    c->appservices[appservice].sender_line = c->line;
    return 1;
}

/* Whether a user id is of this server. */
static int config_is_local(const struct config *c, const msc4203_span *user)
{
    const char *colon = (const char *)memchr(user->ptr, ':', user->len);
    msc4203_span name;

    if (colon == NULL)
        return 0;
    name.ptr = colon + 1;
    name.len = user->len - (size_t)(name.ptr - user->ptr);
    return config_same(&name, &c->server_name);
}

/* Takes the text apart, line by line. */
static int config_lines(struct config *c, size_t bytes)
{
    msc4203_span words[CONFIG_WORDS];
    size_t at = 0;
    int i;

    for (c->line = 1; at < bytes; c->line++, at++) {
        int count = 0;
        while (at < bytes && c->text[at] != '\n') {
            size_t begin = at;
            if (strchr(" \t\r", c->text[at]) != NULL) {
                at++;
                continue;
            }
            while (at < bytes && strchr(" \t\r\n", c->text[at]) == NULL)
                at++;
            if (c->text[begin] == '#') {
                while (at < bytes && c->text[at] != '\n')
                    at++;
                break;
            }
            if (count == CONFIG_WORDS)
                return config_mistake(c, "too many words");
            words[count].ptr = c->text + begin;
            words[count++].len = at - begin;
        }
        if (count != 0 && !config_line(c, words, count))
            return 0;
    }
    if (c->listen_line == 0 || c->server_name.len == 0 || c->store_bytes == 0)
        return config_mistake(c, "listen, server_name and store must be there");
    if (c->retry_ms_max < c->retry_ms_min)
        return config_mistake(c, "retry_ms_max is less than retry_ms_min");
    if (c->device_bytes_max == 0)
        c->device_bytes_max = c->store_bytes / 16;
    if (c->appservice_bytes_max == 0)
        c->appservice_bytes_max = c->store_bytes / 2;
    for (i = 0; i < c->appservice_count; i++) {
        c->line = c->appservices[i].sender_line;
        if (c->line != 0 && !config_is_local(c, &c->appservices[i].sender))
            return config_mistake(c, "a user of another server than server_name");
    }
    for (i = 0; i < c->device_count; i++) {
        c->line = c->devices[i].line;
        if (!config_is_local(c, &c->devices[i].user))
            return config_mistake(c, "a user of another server than server_name");
        if (c->devices[i].maker >= 0 && !config_owns(c, c->devices[i].maker, &c->devices[i].user))
            return config_mistake(c, "the user is outside this appservice's namespaces");
    }
    return 1;
}

static void config_free(struct config *c)
{
    int i;
    for (i = 0; i < c->namespace_count; i++)
        regfree(&c->namespaces[i].regex);
    if (c->memory != NULL)
        munmap(c->memory, c->bytes);
    c->memory = NULL;
    c->namespace_count = 0;
}

/* Lays the tables out behind the text. */
static int config_map(struct config *c, int fd, size_t bytes, size_t lines)
{
    size_t buckets = 1, at = (bytes + 64) & ~(size_t)63, i;

    while (buckets < 2 * lines)
        buckets *= 2;
    c->mask = (uint32_t)(buckets - 1);
    c->bytes = at + lines * (sizeof *c->devices + sizeof *c->namespaces) +
               2 * buckets * sizeof *c->tokens + lines * CONFIG_SLOTS * (1 + sizeof *c->seen);
    c->memory = mmap(NULL, c->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (c->memory == MAP_FAILED) {
        c->memory = NULL;
        return 0;
    }
    c->text = (char *)c->memory;
    c->devices = (struct config_device *)(void *)(c->text + at);
    c->namespaces = (struct config_namespace *)(void *)(c->devices + lines);
    c->tokens = (int *)(void *)(c->namespaces + lines);
    c->users = c->tokens + buckets;
    c->seen = (uint16_t *)(void *)(c->users + buckets);
    c->named = (unsigned char *)(c->seen + lines * CONFIG_SLOTS);
    for (i = 0; i < buckets; i++)
        c->tokens[i] = c->users[i] = CONFIG_NONE;
    for (i = 0; i < bytes;) {
        ssize_t got = pread(fd, c->text + i, bytes - i, (off_t)i);
        if (got <= 0)
            return 0;
        i += (size_t)got;
    }
    return 1;
}

/* Reads a configuration. Returns 0 when there is a mistake in it: `line` and `reason` say where and
 * which; line 0 when the file can't be read. */
static int config_read(struct config *c, const char *path)
{
    struct stat status;
    char block[4096];
    ssize_t got;
    size_t lines = 2, bytes = 0, i;
    int fd, done;

    memset(c, 0, sizeof *c);
    c->memory_bytes = 4 << 20;
    c->retry_ms_min = 1000;
    c->retry_ms_max = 512000;
    c->txn_messages_max = 100;
    c->txn_bytes_max = 1000000;
    c->request_bytes_max = 8 << 20;
    c->expire_days = 30;
    http_random(&c->key, sizeof c->key);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
        if (fd >= 0)
            close(fd);
        return config_mistake(c, fd < 0 ? strerror(errno) : "not a file");
    }
    while ((got = pread(fd, block, sizeof block, (off_t)bytes)) > 0)
        for (bytes += (size_t)got, i = 0; i < (size_t)got; i++)
            lines += block[i] == '\n';
    done = config_map(c, fd, bytes, lines);
    close(fd);
    if (!done)
        return config_mistake(c, "it can't be read");
    if (!config_lines(c, bytes)) {
        config_free(c);
        return 0;
    }
    return 1;
}

#endif
