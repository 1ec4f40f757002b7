/* gateway_store.h - the gateway's store, and for whom a message waits: opens the log, looks after
 * its file, and moves what a changed configuration moves. */
#ifndef GATEWAY_STORE_H
#define GATEWAY_STORE_H

#include "gateway_state.h"

/* ---- routing ---- */

static int route_match(const msc4203_appservice *service, const msc4203_span *user)
{
    return config_match(g.config, (int)(service - g.services), user);
}

/* Whom a message for this device waits for. */
static uint32_t route(void *context, const msc4203_device *device)
{
    const struct config *c = g.config;
    int i = config_device_of(c, &device->user_id, &device->device_id);
    size_t maker = i >= 0 && c->devices[i].maker >= 0 ? (size_t)c->devices[i].maker : SIZE_MAX;

    (void)context;
    return msc4203_route(g.services, (size_t)c->appservice_count, &device->user_id, maker,
                         route_match);
}

static msc4203_device device_of(int i)
{
    msc4203_device device;
    device.user_id = g.config->devices[i].user;
    device.device_id = g.config->devices[i].device;
    return device;
}

/* ---- the store ---- */

static void storage_failed(void)
{
    if (!g.failed && g.store_why[0] == 0)
        snprintf(g.store_why, sizeof g.store_why, "%s", strerror(errno));
    g.failed = 1;
    g.reopen_at = g.now + 1000;
    say_bad(&g.store_bad, SAY_ERROR, "the store failed, nothing is accepted or delivered: %s",
            g.store_why);
}

/* Looks whether the file is still the one that was opened, and as long. What is written to a file
 * that was removed, or cut, seems to succeed. Returns 0 when it is not. */
static int store_look(void)
{
    struct stat status;

    g.lost = 1;
    if (stat(g.config->store, &status) != 0)
        snprintf(g.store_why, sizeof g.store_why, "%.100s: %s", g.config->store, strerror(errno));
    else if (status.st_dev != g.store_device || status.st_ino != g.store_inode)
        snprintf(g.store_why, sizeof g.store_why, "%.100s is another file now", g.config->store);
    else if (S_ISREG(status.st_mode) && (uint64_t)status.st_size < g.storage.bytes)
        snprintf(g.store_why, sizeof g.store_why, "%.100s was cut to %llu bytes", g.config->store,
                 (unsigned long long)status.st_size);
    else
        g.lost = 0;
    return !g.lost;
}

/* The storage's sync: believed when the file is still there. */
static int store_sync(void *context)
{
    int failed = g.sync(context);

    if (failed)
        snprintf(g.store_why, sizeof g.store_why, "%s", strerror(errno));
    return failed || !store_look() ? -1 : 0;
}

/* Looks after the file that was opened from now on. */
static void store_guard(void)
{
    struct stat status;

    memset(&status, 0, sizeof status);
    if (stat(g.config->store, &status) == 0) {
        g.store_device = status.st_dev;
        g.store_inode = status.st_ino;
    }
    g.lost = 0;
    g.sync = g.storage.sync;
    g.storage.sync = store_sync;
}

static uint32_t store_least(uint64_t a, uint64_t b)
{
    return (uint32_t)(a < b ? a : b);
}

/* How a store is made: how many messages can wait, and how many devices can have some. That is what
 * it has room for, at 512 bytes a message and 4 KiB a device, as far as a quarter of the memory
 * holds either. */
static msc4203_log_config store_shape(const struct config *c)
{
    msc4203_log_config shape;

    memset(&shape, 0, sizeof shape);
    shape.messages = store_least(c->store_bytes >> 9, c->memory_bytes / 4 / PLACE_BYTES);
    shape.devices = c->devices_max != 0
                        ? c->devices_max
                        : store_least(c->store_bytes >> 12, c->memory_bytes / 4 / DEVICE_BYTES);
    return shape;
}

/* Whether a log can have this size. */
static int store_fits(const struct config *c)
{
    msc4203_log_config shape = store_shape(c);
    msc4203_storage storage;

    memset(&storage, 0, sizeof storage);
    storage.bytes = c->store_bytes;
    storage.sector = STORE_SECTOR;
    return msc4203_log_memory(&g.log, &storage, &shape) != 0;
}

/* Makes the file. That takes long when it is large: whoever asks the gateway to end meanwhile need
 * not wait for it. The result is then MSC4203_E_STORAGE, and errno is EINTR. */
static int store_make(const struct config *c)
{
    msc4203_log_config shape = store_shape(c);
    sigset_t ends, before;
    uint64_t random;
    int result, error;

    if (!http_random(&random, sizeof random))
        return MSC4203_E_STORAGE;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    sigprocmask(SIG_BLOCK, &ends, &before);
    result = msc4203_file_create(&g.file, c->store, c->store_bytes, &shape, random);
    error = errno;
    sigprocmask(SIG_SETMASK, &before, NULL);
    errno = error;
    return result;
}

/* Opens the file, makes it when there is none (if it may), and sets how much memory its index and
 * its buffer take: a sixteenth of all, at the most, for the buffer. Returns a result; when that is
 * not MSC4203_OK, g.store_why says why. */
static int store_open(int make)
{
    const struct config *c = g.config;
    msc4203_log_config shape;
    int result = msc4203_file_open(&g.file, c->store, 1, &g.storage), error;

    memset(&shape, 0, sizeof shape);
    if (result == MSC4203_END && make) {
        result = store_make(c);
        if (result == MSC4203_OK)
            result = msc4203_file_open(&g.file, c->store, 1, &g.storage);
    }
    error = errno;
    if (result == MSC4203_OK) {
        result = msc4203_log_inspect(&g.log, &g.storage, &shape);
        error = errno;
        store_guard();
    }
    snprintf(g.store_why, sizeof g.store_why, "%s",
             result == MSC4203_E_STORAGE ? strerror(error)
             : result == MSC4203_OK      ? ""
                                         : msc4203_result_text(result));
    if (result == MSC4203_E_REGION && shape.bytes != g.storage.bytes)
        snprintf(g.store_why, sizeof g.store_why,
                 "it has %llu bytes, and the log in it was made for %llu",
                 (unsigned long long)g.storage.bytes, (unsigned long long)shape.bytes);
    if (result == MSC4203_OK) {
        g.devices = shape.devices;
        g.index_bytes = msc4203_log_memory(&g.log, &g.storage, &shape) +
                        store_least(c->memory_bytes / 16, BUFFER_BYTES);
    }
    errno = error;
    return result;
}

/* Says what CONFIG has otherwise than the store, which stays as it was made. */
static void store_compare(void)
{
    const struct config *c = g.config;

    if (g.storage.bytes != c->store_bytes)
        say(SAY_WARNING, "%s has %llu bytes, as it was made, not the %llu that the "
            "configuration says", c->store, (unsigned long long)g.storage.bytes,
            (unsigned long long)c->store_bytes);
    if (c->devices_max != 0 && g.devices != c->devices_max)
        say(SAY_WARNING, "%s is for %lu devices, as it was made, not for devices_max %lu",
            c->store, (unsigned long)g.devices, (unsigned long)c->devices_max);
}

/* Takes out what has waited for a /sync for too long, now and then. */
static void store_expire(void)
{
    uint64_t expired = 0;
    int result;

    if (g.failed || g.config->expire_days == 0 || g.now < g.expire_at)
        return;
    g.expire_at = g.now + EXPIRE_MS;
    result = msc4203_expire(&g.expiry, &g.queue, http_time(),
                            (uint64_t)g.config->expire_days * 86400000, &expired);
    if (result == MSC4203_E_STORAGE)
        storage_failed();
    if (result != MSC4203_OK || expired == 0)
        return;
    g.dirty = 1;
    say(SAY_INFO, "%llu messages had waited %lu days for a /sync: given up",
        (unsigned long long)expired, (unsigned long)g.config->expire_days);
}

/* Opens the log in it. Returns a result. */
static int store_open_log(void)
{
    uint64_t random;
    int result;

    if (!http_random(&random, sizeof random))
        return MSC4203_E_STORAGE;
    result = msc4203_log_open(&g.log, &g.storage, g.index, g.index_bytes, random);
    msc4203_log_queue(&g.log, &g.queue);
    msc4203_log_quotas(&g.log, g.config->appservice_bytes_max, g.config->device_bytes_max);
    return result;
}

/* Gives each appservice its channel, moves what the configuration moves, and starts the senders.
 * Returns a result. */
static int change_over(void)
{
    const struct config *c = g.config;
    uint64_t moved = 0, count;
    uint32_t channel;
    int i, result = MSC4203_OK;

    for (channel = 1; channel < MSC4203_CHANNEL_PARKED; channel++)
        g.channels[channel].appservice = CONFIG_NONE;
    for (i = 0; i < c->appservice_count && result == MSC4203_OK; i++) {
        msc4203_appservice *service = &g.services[i];

        memset(service, 0, sizeof *service);
        service->sender = c->appservices[i].sender;
        result = g.queue.channel(g.queue.context, &c->appservices[i].id, 1, &channel);
        if (result == MSC4203_E_QUEUE_FULL) {
            say(SAY_ERROR, "%.*s: has no channel: all are still in use",
                SPAN(&c->appservices[i].id));
            result = MSC4203_OK;
            continue;
        }
        service->channel = channel;
        service->opted_in = c->appservices[i].opted_in;
        if (result == MSC4203_OK)
            g.channels[channel].appservice = i;
        g.channels[channel].next_poll = 0;
    }
    for (channel = 1; channel < MSC4203_CHANNEL_PARKED && result == MSC4203_OK; channel++) {
        result = msc4203_change_channel(&g.queue, channel, route, NULL, g.work, WORK_BYTES, &count);
        moved += count;
        if (result == MSC4203_OK && g.channels[channel].appservice < 0) {
            g.channels[channel].started = 0;
            result = g.queue.release(g.queue.context, channel);
            if (result == MSC4203_E_BUSY)
                result = MSC4203_OK;
        }
    }
    for (i = 0; i < c->device_count && result == MSC4203_OK; i++) {
        msc4203_device device = device_of(i);
        result = msc4203_change_device(&g.queue, &device, route(NULL, &device), g.work, WORK_BYTES,
                                       &count);
        moved += count;
    }
    g.unmoved = 0;
    if (result == MSC4203_E_QUEUE_FULL) { /* the rest when there is room */
        g.unmoved = g.now + 1000;
        result = MSC4203_OK;
    }
    if (result == MSC4203_OK)
        result = g.queue.flush(g.queue.context);
    if (moved != 0)
        say(SAY_INFO, "the configuration moved %lu messages", (unsigned long)moved);
    g.news = 1;
    return result;
}

#endif
