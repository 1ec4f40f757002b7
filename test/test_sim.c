/* test_sim.c - a simulation in one process, driven by one seed: clients, a server with its queue,
 * application services, and between them a network that loses, repeats and delays, power that goes
 * at any call of the storage, and clocks that jump. When all is healed and drained, each message
 * that was accepted must have reached each channel that msc4203_route() said, exactly once and in
 * order, but for what a change-over is allowed to do.
 *
 * Runs 4,000 seeds, times TEST_SCALE, from TEST_SEED on: the seed of a run that fails is printed,
 * and given as TEST_SEED it is the first run. */
#include "fake_storage.h"

enum {
    MEMORY = 8192,
    SERVICES = 2,
    USERS = 5,
    DEVICES = 7,
    CLIENTS = 3,
    MESSAGES = 400,
    TEXTS = 4,        /* messages in a request, at most */
    IDS = 2000,
    REMEMBERED = 40,  /* transactions, by a receiver */
    LATE = 6,         /* copies of a transaction's request that the network still has */
    BODY = 20000,
    SENT_MAX = 100
};

/* Outcomes of what an appservice was sent. */
enum { HANDLES = 1000, LOSES_ANSWER = 1001, CRASHES = 1002, REJECTS = 1003, BREAKS = 1004 };

struct message {
    int device, generation, accepted;
    uint32_t set;     /* what route() said when it was committed last */
    long order, when; /* of that commit */
    int pad;
    int got[SERVICES], synced, parked;
};

struct request {
    uint32_t id; /* 0: none */
    int client, first, count, answered;
};

struct device {
    char user[32], name[32];
    int owner, generation;
    size_t maker;
    /* its client, and what that keeps */
    char token[48], old_token[48];
};

struct late {
    char path[80];
    char *body;
    int service;
};

struct service {
    /* the appservice's side */
    msc4203_receiver receiver;
    unsigned char memory[16 + 48 * REMEMBERED], durable[16 + 48 * REMEMBERED];
    int legacy; /* knows the old path only */
    char kept[80]; /* path of the transaction that it kept last */
    long last[DEVICES];
    /* the server's side */
    msc4203_appservice about;
    msc4203_sender sender;
    const msc4203_transaction *sending;
    int changing_in, changing_out; /* in its configuration, so that a crash does not lose it */
    int spaces[USERS];
    long in_at, out_at;
    int ins, outs;
};

static struct sim {
    uint64_t seed;
    struct fake fake;
    msc4203_log log;
    msc4203_queue queue;
    msc4203_log_config config;
    void *index;
    size_t index_bytes;
    unsigned long openings;
    uint64_t now;
    long clock;  /* steps */
    int healed;
    struct service services[SERVICES];
    struct device devices[DEVICES];
    struct request requests[CLIENTS];
    struct message messages[MESSAGES];
    int count, wanted, padded;
    long order;
    uint32_t last_request;
    char ids[IDS][48];
    uint64_t sums[IDS];
    int id_count;
    struct late late[LATE];
    int failed;
    /* what this run has met */
    unsigned long crashes, changes;
} sim;

static struct {
    unsigned long messages, crashes, recoveries, changes, transactions, retries, repeats, rejects,
        splits, parked, moved, twice, strict, drops, syncs, known, full, late, old;
    unsigned long by_messages[MESSAGES + 1], by_crashes[100], by_changes[100];
} met;

static char memory[MEMORY];

static int fail(const char *why)
{
    if (!sim.failed)
        printf("  %s (step %ld)\n", why, sim.clock);
    sim.failed = 1;
    return 0;
}

static int must(int ok, const char *why)
{
    return ok || fail(why);
}

#define MUST(condition) must((condition) != 0, #condition)

static int chance(unsigned percent)
{
    return test_below(100) < percent;
}

static msc4203_span span(const char *string)
{
    msc4203_span s;
    s.ptr = string;
    s.len = strlen(string);
    return s;
}

/* ---- the server ---- */

static int match(const msc4203_appservice *about, const msc4203_span *user)
{
    const struct service *service = (const struct service *)about->context;
    return service->spaces[user->ptr[1] - 'a'];
}

static uint32_t route_device(const struct device *device)
{
    msc4203_appservice services[SERVICES];
    msc4203_span user = span(device->user);
    int i;

    for (i = 0; i < SERVICES; i++)
        services[i] = sim.services[i].about;
    return msc4203_route(services, SERVICES, &user, device->maker, match);
}

static struct device *device_by(const msc4203_span *user, const msc4203_span *name)
{
    int i;
    for (i = 0; i < DEVICES; i++)
        if (msc4203_span_equal(user, sim.devices[i].user) &&
            msc4203_span_equal(name, sim.devices[i].name))
            return &sim.devices[i];
    fail("no such device");
    return &sim.devices[0];
}

static uint32_t route_now(void *context, const msc4203_device *device)
{
    (void)context;
    return route_device(device_by(&device->user_id, &device->device_id));
}

static void device_ids(const struct device *device, msc4203_device *ids)
{
    ids->user_id = span(device->user);
    ids->device_id = span(device->name);
}

/* The message that a content is. */
static int number_of(const msc4203_span *content)
{
    int n = content->len > 5 ? atoi(content->ptr + 5) : -1;

    if (!MUST(n >= 0 && n < sim.count))
        return 0;
    MUST(content->len == (size_t)sim.messages[n].pad + 19);
    return n;
}

/* No message is twice in a channel (but after opting out: see done_right()). With `settled`, none
 * is where it no longer belongs. */
static void look(int settled)
{
    static int seen[MESSAGES];
    uint32_t channel;
    int i, n;

    for (channel = 0; channel < MSC4203_CHANNELS; channel++) {
        if (channel > SERVICES && channel != MSC4203_CHANNEL_PARKED)
            continue;
        memset(seen, 0, sizeof seen);
        for (i = 0; i < (channel == 0 ? DEVICES : 1); i++) {
            msc4203_device ids;
            msc4203_message message;
            uint64_t after = 0;
            device_ids(&sim.devices[i], &ids);
            while (sim.queue.next(sim.queue.context, channel, channel == 0 ? &ids : NULL, after,
                                  memory, sizeof memory, &message) == MSC4203_ITEM) {
                after = message.number;
                n = number_of(&message.item.content);
                if (++seen[n] > (channel == MSC4203_CHANNEL_PARKED ? SERVICES : 1) &&
                    sim.services[0].outs + sim.services[1].outs == 0) {
                    fail("a message is twice in a channel");
                    printf("  message %d, channel %u\n", n, (unsigned)channel);
                    return;
                }
                if (settled && channel == 0)
                    MUST(route_device(&sim.devices[i]) & 1);
            }
        }
    }
}

/* Ends what a crash, or a full queue, has interrupted. Returns 0 when the storage failed. */
static int server_change(void)
{
    int i, k, result, done = 1;
    uint64_t moved;

    for (i = 0; i < SERVICES; i++) {
        struct service *s = &sim.services[i];
        uint32_t bit = (uint32_t)1 << s->about.channel;

        for (k = 0; k < DEVICES && s->changing_in; k++) {
            msc4203_device ids;
            device_ids(&sim.devices[k], &ids);
            result = msc4203_change_device(&sim.queue, &ids, route_device(&sim.devices[k]) &
                                           (bit | 1), memory, sizeof memory, &moved);
            met.moved += (unsigned long)moved;
            if (result == MSC4203_E_STORAGE)
                return 0;
            done &= result == MSC4203_OK;
        }
        if (s->changing_out) {
            result = msc4203_change_channel(&sim.queue, s->about.channel, route_now, NULL, memory,
                                            sizeof memory, &moved);
            met.moved += (unsigned long)moved;
            if (result == MSC4203_E_STORAGE)
                return 0;
            done &= result == MSC4203_OK;
        }
        if (!s->changing_in && !s->changing_out)
            continue;
        if (sim.queue.flush(sim.queue.context) != MSC4203_OK)
            return 0;
        if (done)
            s->changing_in = s->changing_out = 0;
    }
    return 1;
}

static int server_start(void)
{
    int i, result;

    result = msc4203_log_open(&sim.log, &sim.fake.storage, sim.index, sim.index_bytes,
                              sim.seed * 1000003 + ++sim.openings);
    if (result == MSC4203_E_STORAGE)
        return 0;
    if (!MUST(result == MSC4203_OK))
        return 1;
    msc4203_log_queue(&sim.log, &sim.queue);
    for (i = 0; i < SERVICES; i++) {
        struct service *s = &sim.services[i];
        msc4203_sender_config config;
        char name[16];
        msc4203_span id;

        sprintf(name, "as%d", i);
        id = span(name);
        result = sim.queue.channel(sim.queue.context, &id, 1, &s->about.channel);
        if (result == MSC4203_E_STORAGE)
            return 0;
        MUST(result == MSC4203_OK);
        memset(&config, 0, sizeof config);
        config.channel = s->about.channel;
        config.messages_max = 1 + (uint32_t)(sim.seed >> 3) % 9;
        config.retry_ms_max = 64000;
        if (sim.seed % 5 == 0)
            config.bytes_max = 1000;
        s->sending = NULL;
        result = msc4203_sender_init(&s->sender, &sim.queue, &config, sim.now, memory,
                                     sizeof memory);
        if (result == MSC4203_E_STORAGE)
            return 0;
        MUST(result == MSC4203_OK);
    }
    if (sim.queue.flush(sim.queue.context) != MSC4203_OK)
        return 0;
    return server_change();
}

/* The power goes and comes again, maybe to go again at once. */
static void server_crash(void)
{
    sim.crashes++;
    for (;;) {
        fake_crash(&sim.fake);
        if (!sim.healed && chance(25)) {
            sim.fake.fail_at = sim.fake.calls + 1 + test_below(40);
            sim.fake.after = (int)test_below(FAKE_WHENS);
            met.recoveries++;
        }
        if (server_start())
            break;
    }
    sim.fake.fail_at = 0;
    look(0);
}

/* After each call: whether it failed because the power is gone. */
static int gone(int result)
{
    if (result != MSC4203_E_STORAGE)
        return 0;
    server_crash();
    return 1;
}

/* A client's request arrives. Returns the status of the answer; 0: none. */
static int server_send(struct request *r)
{
    static char text[1200];
    msc4203_request id;
    msc4203_queue *q = &sim.queue;
    uint32_t batch;
    uint64_t first;
    int result, i;

    memset(&id, 0, sizeof id);
    id.who[0] = (uint8_t)(r->client + 1);
    id.what[0] = (uint8_t)r->id;
    id.what[1] = (uint8_t)(r->id >> 8);
    result = q->known(q->context, &id);
    if (result == MSC4203_KNOWN) {
        met.known++;
        return gone(q->flush(q->context)) ? 0 : 200;
    }
    if (gone(result) || gone(result = q->begin(q->context, &batch)))
        return 0;
    for (i = r->first; i < r->first + r->count && result == MSC4203_OK; i++) {
        struct message *m = &sim.messages[i];
        struct device *device = &sim.devices[m->device];
        msc4203_message message;

        memset(&message, 0, sizeof message);
        message.time_ms = sim.now;
        message.item.sender = span("@sender:gw");
        message.item.type = span("m.room.encrypted");
        message.item.user_id = span(device->user);
        message.item.device_id = span(device->name);
        sprintf(text, "{\"n\":%-6d,\"x\":\"%*s\"}", i, m->pad, "");
        message.item.content = span(text);
        message.channels = m->set = route_device(device);
        m->generation = device->generation;
        m->order = ++sim.order;
        m->when = sim.clock;
        result = q->push(q->context, batch, &message);
    }
    if (gone(result))
        return 0;
    if (result != MSC4203_OK) {
        met.full++;
        return gone(q->abort(q->context, batch)) ? 0 : 429;
    }
    result = q->commit(q->context, batch, &id, &first);
    if (gone(result))
        return 0;
    if (result != MSC4203_OK) {
        met.full++;
        return 429;
    }
    return gone(q->flush(q->context)) ? 0 : 200;
}

/* ---- clients ---- */

static void client_step(void)
{
    struct request *r = &sim.requests[test_below(CLIENTS)];
    int i, status;

    if (r->id != 0 && r->answered && (sim.healed || chance(85)))
        r->id = 0; /* else it comes once more, though it was answered */
    if (r->id == 0) {
        if (sim.count >= sim.wanted)
            return;
        r->id = ++sim.last_request;
        r->client = (int)(r - sim.requests);
        r->answered = 0;
        r->first = sim.count;
        r->count = 1 + (int)test_below(TEXTS);
        for (i = 0; i < r->count; i++) {
            sim.messages[sim.count].device = (int)test_below(DEVICES);
            sim.messages[sim.count++].pad = (int)test_below((size_t)sim.padded);
        }
    }
    if (!sim.healed && chance(10))
        return; /* the request is lost */
    status = server_send(r);
    if (!sim.healed && chance(15))
        return; /* the answer is */
    if (status == 200)
        for (r->answered = 1, i = r->first; i < r->first + r->count; i++)
            sim.messages[i].accepted = 1;
}

/* One /sync of a device. Returns how many messages it brought, or -1. */
static int sync_step(struct device *device)
{
    msc4203_device ids;
    msc4203_message message;
    msc4203_sync sync;
    char token[48], wrong[48];
    int result, n = 0, i, got[SENT_MAX], most = chance(30) ? 1 + (int)test_below(3) : SENT_MAX;
    const char *since_text = device->token;
    msc4203_span since;
    int lost = !sim.healed && chance(15);

    device_ids(device, &ids);
    if (!sim.healed && chance(8)) { /* an old request arrives late; nobody waits for the answer */
        since_text = device->old_token;
        lost = 1;
    } else if (!sim.healed && chance(8)) { /* another device's token, or another queue's */
        const struct device *other = &sim.devices[test_below(DEVICES)];

        sprintf(wrong, "m%08lx%08lx.%012lx", (unsigned long)(test_random() & 0xFFFFFFFF),
                (unsigned long)(test_random() & 0xFFFFFFFF),
                (unsigned long)(chance(50) ? 0xFFFFFFF : test_below(1000)));
        if (*other->token != 0 && chance(50))
            strcpy(wrong, other->token);
        since_text = wrong;
        lost = 1;
    }
    since = span(since_text);
    met.syncs++;
    result = msc4203_sync_begin(&sync, &sim.queue, &ids, &since);
    if (gone(result))
        return -1;
    MUST(result == MSC4203_OK);
    while (n < most && (result = msc4203_sync_next(&sync, memory, sizeof memory, &message)) ==
                           MSC4203_ITEM)
        got[n++] = number_of(&message.item.content);
    if (n < most) {
        if (gone(result))
            return -1;
        MUST(result == MSC4203_END);
    }
    if (n != 0 && n < most && !sim.healed && chance(10)) {
        msc4203_sync_unread(&sync);
        n--;
    }
    msc4203_sync_token(&sync, token);
    if (lost)
        return -1;
    strcpy(device->old_token, device->token);
    strcpy(device->token, token);
    for (i = 0; i < n; i++) {
        struct message *m = &sim.messages[got[i]];
        if (!MUST(&sim.devices[m->device] == device))
            continue;
        if (m->generation != device->generation) {
            met.old++; /* see done_right() */
            m->synced += 100;
        }
        m->synced++;
    }
    return n;
}

/* ---- application services ---- */

/* A request arrives there. Returns the status of the answer; 0 when there is none. */
static int service_request(int service, const char *path, const char *body, int outcome)
{
    struct service *s = &sim.services[service];
    msc4203_receiver_config config;
    static char scratch[4096];
    int got[SENT_MAX], n = 0, result, i;
    size_t bytes = strlen(body), at = 0, piece;
    msc4203_span method = span("PUT"), target = span(path), token = span("Bearer hs");
    const msc4203_item *item;

    if (s->legacy && strncmp(path, "/transactions/", 14) != 0)
        return chance(50) ? 404 : 405;
    if (outcome < HANDLES)
        return outcome;
    result = msc4203_receiver_request(&s->receiver, &method, &target, &token, scratch,
                                      sizeof scratch);
    MUST(result == MSC4203_MORE);
    while (result == MSC4203_MORE) {
        piece = 1 + test_below(chance(20) ? 20 : 2000);
        if (piece > bytes - at)
            piece = bytes - at;
        if (outcome == BREAKS && at != 0) /* the connection broke in the middle */
            return 0;
        MUST(msc4203_receiver_feed(&s->receiver, body + at, piece, at + piece == bytes) ==
             MSC4203_OK);
        at += piece;
        while ((result = msc4203_receiver_next(&s->receiver, &item)) == MSC4203_ITEM)
            if (MUST(n < SENT_MAX && item->error == 0))
                got[n++] = number_of(&item->content);
    }
    if (!MUST(result == MSC4203_NEW || result == MSC4203_REPEAT))
        return 500;
    if (outcome == CRASHES) {
        memcpy(s->memory, s->durable, sizeof s->memory);
        memset(&config, 0, sizeof config);
        config.hs_token = span("hs");
        MUST(msc4203_receiver_init(&s->receiver, &config, s->memory, sizeof s->memory, 7) ==
             MSC4203_OK);
        return 0;
    }
    if (outcome == REJECTS) {
        msc4203_receiver_reject(&s->receiver);
        met.rejects++;
        return 500;
    }
    memcpy(s->durable, s->memory, sizeof s->memory);
    if (result == MSC4203_REPEAT) {
        met.repeats++;
    } else {
        strcpy(s->kept, path);
        for (i = 0; i < n; i++) { /* what it keeps, in one step with the memory */
            struct message *m = &sim.messages[got[i]];
            int moved = s->in_at >= m->when || sim.services[1 - service].in_at >= m->when ||
                        sim.services[1 - service].out_at >= m->when;
            m->got[service]++;
            if (moved)
                continue; /* may come later than others */
            MUST(m->order > s->last[m->device]);
            s->last[m->device] = m->order;
        }
    }
    return outcome == LOSES_ANSWER ? 0 : 200;
}

static void late_forget(struct late *l)
{
    free(l->body);
    memset(l, 0, sizeof *l);
}

/* The network keeps a copy. */
static void late_keep(int service, const char *path, const char *body)
{
    struct late *l = &sim.late[test_below(LATE)];

    late_forget(l);
    l->body = (char *)malloc(strlen(body) + 1);
    if (l->body == NULL)
        exit(2);
    strcpy(l->body, body);
    strcpy(l->path, path);
    l->service = service;
}

static void late_step(void)
{
    struct late *l = &sim.late[test_below(LATE)];

    if (l->body == NULL)
        return;
    met.late++;
    service_request(l->service, l->path, l->body, HANDLES);
    if (chance(50))
        late_forget(l);
}

static uint64_t sum_of(const char *text)
{
    uint64_t sum = 14695981039346656037u;
    for (; *text != 0; text++)
        sum = (sum ^ (unsigned char)*text) * 1099511628211u;
    return sum;
}

/* To one service, the same id is always the same body. */
static void check_id(int service, const char *id, const char *body, int count)
{
    uint64_t sum = sum_of(body);
    char name[48];
    int i;

    sprintf(name, "%d%.40s", service, id);
    for (i = 0; i < sim.id_count; i++)
        if (strcmp(sim.ids[i], name) == 0) {
            met.retries++;
            MUST(sim.sums[i] == sum);
            return;
        }
    MUST(count > 0);
    met.transactions++;
    if (!MUST(sim.id_count < IDS))
        return;
    strcpy(sim.ids[sim.id_count], name);
    sim.sums[sim.id_count++] = sum;
}

/* A sender's next step. Returns 1 when it has nothing to do. */
static int sender_step(int service)
{
    static char body[BODY + 1];
    static const int outcomes[] = {LOSES_ANSWER, CRASHES, REJECTS, BREAKS, 0, 401, 403, 404,
                                   413, 429, 500, 502};
    struct service *s = &sim.services[service];
    const msc4203_transaction *t;
    uint64_t wait;
    size_t used = 0, got, piece;
    int result, outcome, status, i;

    if (s->sending == NULL) {
        result = msc4203_sender_poll(&s->sender, sim.now, memory, sizeof memory, &t, &wait);
        if (gone(result))
            return 0;
        if (result == MSC4203_REQUEST)
            s->sending = t;
        else if (result == MSC4203_WAIT && (sim.healed || chance(50)))
            sim.now += wait; /* time goes by */
        else
            MUST(result == MSC4203_IDLE || result == MSC4203_WAIT);
        return result == MSC4203_IDLE;
    }
    t = s->sending;
    if (!MUST(t->bytes < BODY))
        return 0;
    do {
        piece = chance(10) ? 1 + test_below(50) : 1 + test_below(6000);
        if (piece > BODY - used)
            piece = BODY - used;
        result = msc4203_sender_read(&s->sender, used, memory, sizeof memory, body + used, piece,
                                     &got);
        if (gone(result))
            return 0;
        if (!MUST(result == MSC4203_OK))
            return 0;
        used += got;
    } while (got == piece);
    MUST(used == t->bytes);
    body[used] = 0;
    check_id(service, t->id, body, (int)t->count);
    outcome = sim.healed || chance(50) ? HANDLES
                                       : outcomes[test_below(sizeof outcomes / sizeof *outcomes)];
    if (outcome == 413 && t->count == 1 && chance(80))
        outcome = 500; /* few are parked */
    if (outcome == 413 && strcmp(strrchr(t->path, '/'), strrchr(s->kept, '/')) == 0)
        outcome = 500; /* what it has kept it will not refuse */
    status = service_request(service, t->path, body, outcome);
    if (status == 413) {
        met.splits++;
        for (i = 0; i < LATE; i++) /* it has not processed it, and never will */
            if (sim.late[i].service == service)
                late_forget(&sim.late[i]);
    } else if (status != 404 && status != 405 && !sim.healed && chance(20)) {
        late_keep(service, t->path, body);
    }
    if (status == 200 && !sim.healed && chance(10))
        status = 0;
    s->sending = NULL;
    result = msc4203_sender_result(&s->sender, status, sim.now, (uint32_t)test_random(), memory,
                                   sizeof memory);
    if (!gone(result))
        MUST(result == MSC4203_OK);
    return 0;
}

/* ---- the operator ---- */

static void change_step(void)
{
    struct service *s = &sim.services[test_below(SERVICES)];

    if (s->changing_in || s->changing_out || sim.changes >= 4)
        return;
    sim.changes++;
    s->about.opted_in = !s->about.opted_in;
    if (s->about.opted_in) {
        s->changing_in = 1;
        s->in_at = sim.clock;
        s->ins++;
    } else {
        s->changing_out = 1;
        s->out_at = sim.clock;
        s->outs++;
    }
    if (!server_change())
        server_crash();
    else if (!s->changing_in && !s->changing_out)
        look(1);
}

/* A device goes, and another one comes under its name. */
static void drop_step(void)
{
    struct device *device = &sim.devices[test_below(DEVICES)];
    msc4203_device ids;
    int result;

    device_ids(device, &ids);
    met.drops++;
    do { /* until it is done, over crashes: nothing new comes for it in between */
        result = sim.queue.drop(sim.queue.context, &ids, NULL);
        if (result == MSC4203_OK)
            result = sim.queue.flush(sim.queue.context);
    } while (gone(result));
    MUST(result == MSC4203_OK);
    device->generation++;
    *device->token = *device->old_token = 0;
    device->maker = chance(40) ? test_below(SERVICES) : 99;
}

/* ---- a run ---- */

static void sim_init(uint64_t seed)
{
    static const uint32_t sectors[4] = {1, 512, 512, 4096};
    uint32_t sector;
    size_t bytes;
    int i, k;

    memset(&sim, 0, sizeof sim);
    sim.seed = seed;
    test_state = (seed + 1) * UINT64_C(0x9E3779B97F4A7C15);
    if (test_state == 0)
        test_state = 1;
    for (i = 0; i < 5; i++)
        (void)test_random();
    bytes = chance(20) ? 40 * 1024 : 80 * 1024;
    sim.padded = chance(20) ? 900 : 100;
    sector = sectors[test_below(4)];
    if (sector == 4096)
        bytes *= 3;
    fake_init_sectors(&sim.fake, bytes, 1, sector, 0);
    sim.config.devices = 16;
    sim.config.requests = 64;
    sim.config.openings = 20;
    sim.config.message_bytes = 1400;
    sim.index_bytes = msc4203_log_memory(&sim.log, &sim.fake.storage, &sim.config);
    sim.index = malloc(sim.index_bytes);
    if (!MUST(sim.index != NULL && sim.index_bytes != 0))
        return;
    MUST(msc4203_log_format(&sim.log, &sim.fake.storage, &sim.config, sim.index, sim.index_bytes,
                            seed) == MSC4203_OK);
    sim.now = 1700000000000u;
    sim.wanted = 16 + (int)test_below(50);
    for (i = 0; i < SERVICES; i++) {
        struct service *s = &sim.services[i];
        msc4203_receiver_config config;

        for (k = 0; k < USERS; k++)
            s->spaces[k] = chance(40) ? MSC4203_OUTSIDE
                                      : chance(50) ? MSC4203_INCLUSIVE : MSC4203_EXCLUSIVE;
        s->about.opted_in = chance(60);
        s->about.sender = span(i == 0 ? "@e:gw" : "@none:gw");
        s->about.context = s;
        s->legacy = chance(15);
        s->in_at = s->out_at = -1;
        strcpy(s->kept, "/");
        memset(&config, 0, sizeof config);
        config.hs_token = span("hs");
        MUST(msc4203_receiver_init(&s->receiver, &config, s->memory, sizeof s->memory, 7) ==
             MSC4203_OK);
        memcpy(s->durable, s->memory, sizeof s->memory);
    }
    for (i = 0; i < DEVICES; i++) {
        struct device *device = &sim.devices[i];

        sprintf(device->user, "@%c:gw", 'a' + i % USERS);
        sprintf(device->name, "DEVICE%d", i);
        device->maker = chance(30) ? test_below(SERVICES) : 99;
    }
    MUST(server_start());
}

static void sim_step(void)
{
    size_t what = test_below(1000);

    sim.clock++;
    sim.now += test_below(700);
    if (what < 220)
        client_step();
    else if (what < 500)
        sync_step(&sim.devices[test_below(DEVICES)]);
    else if (what < 880)
        sender_step((int)test_below(SERVICES));
    else if (what < 930)
        late_step();
    else if (what < 940 || (what >= 980 && what < 990 && !server_change()))
        server_crash();
    else if (what < 952) { /* the power will go soon */
        sim.fake.fail_at = sim.fake.calls + 1 + test_below(30);
        sim.fake.after = (int)test_below(FAKE_WHENS);
    } else if (what < 958)
        change_step();
    else if (what < 964)
        drop_step();
    else if (what < 970)
        sim.now = chance(50) ? sim.now - test_below(100000000) : sim.now + test_below(100000000);
    else if (what < 980)
        msc4203_sender_wake(&sim.services[test_below(SERVICES)].sender);
}

/* Lets everything arrive. */
static void sim_heal(void)
{
    int i, quiet = 0, rounds = 0, waiting;
    struct request *r;

    sim.healed = 1;
    sim.fake.fail_at = 0;
    if (sim.fake.count != 0 && chance(50))
        server_crash();
    while (quiet < 3 && rounds++ < 3000 && !sim.failed) {
        sim.clock++;
        quiet++;
        for (i = 0; i < SERVICES; i++)
            if (!sender_step(i))
                quiet = 0;
        for (i = 0; i < DEVICES; i++)
            if (sync_step(&sim.devices[i]) != 0)
                quiet = 0;
        for (waiting = 0, r = sim.requests; r < sim.requests + CLIENTS; r++)
            waiting |= r->id != 0 && !r->answered;
        if (waiting || sim.count < sim.wanted) {
            client_step();
            quiet = 0;
        }
        for (i = 0; i < SERVICES; i++)
            if (sim.services[i].changing_in || sim.services[i].changing_out)
                quiet = 0;
        MUST(server_change());
        MUST(sim.queue.flush(sim.queue.context) == MSC4203_OK);
    }
    MUST(rounds < 3000);
}

/* Nothing waits but what is parked. */
static void sim_empty(void)
{
    msc4203_counts counts;
    msc4203_message message;
    uint64_t after = 0, parked = 0;
    int i;

    for (i = 0; i < DEVICES; i++) {
        msc4203_device ids;
        uint64_t number = 0;
        device_ids(&sim.devices[i], &ids);
        MUST(sim.queue.next(sim.queue.context, 0, &ids, number, memory, sizeof memory, &message) ==
             MSC4203_END);
    }
    for (i = 0; i < SERVICES; i++) {
        MUST(sim.queue.count(sim.queue.context, sim.services[i].about.channel, NULL, &counts) ==
             MSC4203_OK && counts.messages == 0);
    }
    while (sim.queue.next(sim.queue.context, MSC4203_CHANNEL_PARKED, NULL, after, memory,
                          sizeof memory, &message) == MSC4203_ITEM) {
        after = message.number;
        sim.messages[number_of(&message.item.content)].parked++;
        parked++;
    }
    met.parked += (unsigned long)parked;
    MUST(sim.queue.count(sim.queue.context, 0, NULL, &counts) == MSC4203_OK &&
         counts.messages == 0);
    MUST(sim.log.priv.damaged == 0);
}

/* Whether a message is where it should be, as often as it should. */
static int done_right(const struct message *m)
{
    const struct device *device = &sim.devices[m->device];
    int wanted = 0, i, ins = 0, outs = 0, total = m->synced + m->parked, missing = 0;

    for (i = 0; i < SERVICES; i++) {
        const struct service *s = &sim.services[i];
        ins += s->in_at >= m->when ? s->ins : 0;
        outs += s->out_at >= m->when ? s->outs : 0;
        total += m->got[i];
    }
    if (m->generation != device->generation) { /* dropped: once at most, if it was in time */
        for (i = 0; i < SERVICES; i++)
            if (m->got[i] > 1 + outs)
                return 0;
        /* A later device of that name never gets it. (But what was in flight, was refused with 413
         * and then moved by opting out has lost its generation.) */
        return m->synced < 100 ? m->synced <= (1 + outs) * (1 + ins) : outs != 0;
    }
    /* Each opting out may make one more copy in /sync, and each opting in may take copies away that
     * were told already. */
    if (m->synced > ((int)(m->set & 1) + outs) * (1 + ins))
        return 0;
    if ((m->set & 1) && !ins && m->synced == 0)
        return 0;
    for (i = 0; i < SERVICES; i++) {
        const struct service *s = &sim.services[i], *other = &sim.services[1 - i];
        int again, has = m->set >> s->about.channel & 1;
        /* Once, but once more for each time that the other one opted out: to those that own the
         * user then, for it might else be with nobody. */
        again = other->out_at >= m->when ? other->outs : 0;
        if (m->got[i] > (has || ins) + again)
            return 0;
        if (has && s->out_at < m->when && m->got[i] == 0)
            missing++;
    }
    for (i = 0; i < MSC4203_CHANNELS; i++)
        wanted += (int)(m->set >> i & 1);
    met.twice += total > wanted;
    met.strict += ins == 0 && outs == 0;
    return total >= 1 && missing <= m->parked && m->parked <= 1 + SERVICES;
}

static int sim_run(uint64_t seed)
{
    int i, steps;

    sim_init(seed);
    steps = 150 + (int)test_below(150);
    while (sim.clock < steps && !sim.failed)
        sim_step();
    if (!sim.failed)
        sim_heal();
    if (!sim.failed)
        sim_empty();
    for (i = 0; i < sim.count && !sim.failed; i++) {
        struct message *m = &sim.messages[i];
        if (MUST(m->accepted) && !done_right(m)) {
            fail("a message is not where it should be, or more often");
            printf("  message %d of %s %s, generation %d of %d, for %x at step %ld: /sync %d, %d "
                   "and %d, parked %d; opted in %ld %ld, out %ld %ld\n", i,
                   sim.devices[m->device].user, sim.devices[m->device].name, m->generation,
                   sim.devices[m->device].generation, (unsigned)m->set, m->when, m->synced,
                   m->got[0], m->got[1], m->parked, sim.services[0].in_at, sim.services[1].in_at,
                   sim.services[0].out_at, sim.services[1].out_at);
        }
    }
    met.messages += (unsigned long)sim.count;
    met.crashes += sim.crashes;
    met.changes += sim.changes;
    met.by_messages[sim.count]++;
    met.by_crashes[sim.crashes < 99 ? sim.crashes : 99]++;
    met.by_changes[sim.changes]++;
    for (i = 0; i < LATE; i++)
        late_forget(&sim.late[i]);
    fake_free(&sim.fake);
    free(sim.index);
    return !sim.failed;
}

static int median(const unsigned long *by, unsigned long runs)
{
    unsigned long below = 0;
    int i = 0;
    while ((below += by[i]) * 2 < runs)
        i++;
    return i;
}

int main(void)
{
    const char *given = getenv("TEST_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 10) : 4203;
    unsigned long runs = 4000 * test_scale() / test_share(), i;

    for (i = 0; i < runs && test_failed == 0; i++, seed++)
        if (!CHECK(sim_run(seed)))
            printf("sim: seed %llu failed: TEST_SEED=%llu build/test/test_sim\n",
                   (unsigned long long)seed, (unsigned long long)seed);
    printf("sim: %lu runs, in the median %d messages, %d crashes, %d change-overs; %lu messages, "
           "%lu crashes, %lu in recovery, %lu transactions, %lu retries, %lu repeats, %lu late, "
           "%lu rejected, %lu split, %lu parked, %lu syncs, %lu requests repeated, %lu full, %lu "
           "changes, %lu moved, %lu twice by them (%lu untouched by any), %lu devices dropped, "
           "%lu old\n", i,
           median(met.by_messages, i), median(met.by_crashes, i), median(met.by_changes, i),
           met.messages, met.crashes, met.recoveries, met.transactions, met.retries, met.repeats,
           met.late, met.rejects, met.splits, met.parked, met.syncs, met.known, met.full,
           met.changes, met.moved, met.twice, met.strict, met.drops, met.old);
    return test_end("sim");
}
