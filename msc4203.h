/*
 * msc4203.h - to-device messages for Matrix application services (MSC4203), version 0.1.0
 *
 * SPDX-License-Identifier: 0BSD
 *
 * One C99 file that reads and writes the JSON in which to-device messages travel between clients,
 * homeservers and application services, queues the messages so that none is lost or delivered
 * twice, and drives the transactions. It allocates nothing, needs nothing but libc, and treats
 * every byte of its input as hostile.
 *
 *
 * CONTENTS
 *   1. What it does                 8. Delivery
 *   2. A complete example           9. Put it into your server
 *   3. Adding it to a program      10. Results and errors
 *   4. Reading                     11. Memory
 *   5. Writing                     12. Threads
 *   6. The queue                   13. Options
 *   7. The log                     14. Limits
 *   Then the declarations, with a comment each, and the implementation.
 *
 *
 * 1. WHAT IT DOES
 *
 * A to-device message travels in four shapes of JSON. This library takes each of them apart into
 * items and builds each of them from items:
 *
 *   MSC4203_TRANSACTION  homeserver -> bridge, PUT /_matrix/app/v1/transactions/{txnId}
 *   MSC4203_SEND         client -> homeserver, PUT /_matrix/client/v3/sendToDevice/{type}/{txnId}
 *   MSC4203_EDU          homeserver -> homeserver, the content of an m.direct_to_device EDU
 *   MSC4203_SYNC         homeserver -> client, the to-device part of a /sync response
 *
 * (A fifth, MSC4203_JSON, only checks that a body is JSON, whatever it says.)
 *
 * Reading checks the whole body against RFC 8259 and UTF-8, strictly, down to 1,024 levels. One
 * unusable item among good ones is reported as an item with an error, and the rest is read: a bad
 * message never blocks a transaction. Strings come unescaped; contents come as the bytes that were
 * sent, never re-ordered, re-escaped or re-formatted.
 *
 *
 * 2. A COMPLETE EXAMPLE
 *
 * Reads a transaction from standard input in pieces of 512 bytes and says who gets what:
 *
 * ```c example
 * #define MSC4203_IMPLEMENTATION
 * #include "msc4203.h"
 * #include <stdio.h>
 *
 * int main(void)
 * {
 *     static char scratch[70000], chunk[512];    // 64 KiB of content, and the ids
 *     msc4203_reader reader;
 *     const msc4203_item *item;
 *     int result;
 *
 *     msc4203_reader_init(&reader, MSC4203_TRANSACTION, MSC4203_TO_DEVICE, scratch,
 *                         sizeof scratch);
 *     do {
 *         size_t bytes = fread(chunk, 1, sizeof chunk, stdin);
 *         msc4203_reader_feed(&reader, chunk, bytes, bytes == 0);    // no more bytes: the end
 *         while ((result = msc4203_reader_next(&reader, &item)) == MSC4203_ITEM) {
 *             if (item->error != 0) {
 *                 printf("message %u: %s\n", item->index, msc4203_result_text(item->error));
 *                 continue;
 *             }
 *             printf("%.*s to %.*s, device %.*s: %lu bytes\n",
 *                    (int)item->type.len, item->type.ptr, (int)item->user_id.len,
 *                    item->user_id.ptr, (int)item->device_id.len, item->device_id.ptr,
 *                    (unsigned long)item->content.len);
 *         }
 *     } while (result == MSC4203_MORE);
 *     if (result != MSC4203_END) {
 *         printf("byte %lu: %s\n", (unsigned long)msc4203_reader_offset(&reader),
 *                msc4203_result_text(result));
 *         return 1;
 *     }
 *     return 0;
 * }
 * ```
 *
 *
 * 3. ADDING IT TO A PROGRAM
 *
 * Copy msc4203.h. In ONE source file of yours, define MSC4203_IMPLEMENTATION before including it;
 * everywhere else include it plainly, for the declarations. Or compile msc4203.c, which does just
 * that. To keep everything private to one file, define MSC4203_STATIC as well. C99 and later, C++98
 * and later; no other header than <stddef.h>, <stdint.h> and <string.h>, and the compiler's own for
 * vector instructions, if it offers them; no warnings at strict settings.
 *
 *
 * 4. READING
 *
 * msc4203_reader_init() says which shape to expect, which kinds of items are wanted, and gives a
 * scratch buffer. msc4203_reader_feed() gives bytes, and msc4203_reader_next() takes items out
 * until it returns something else than MSC4203_ITEM:
 *
 *   MSC4203_MORE   these bytes are used up: feed the next ones
 *   MSC4203_END    the body is complete and valid; only after the bytes given with `last`
 *   an error < 0   the body is broken; msc4203_reader_offset() says at which byte, from 0
 *
 * Items that were read before an error were read correctly; whether to use them is the caller's
 * decision. (A server that accepts a request whole or not at all keeps them until MSC4203_END.)
 *
 * In one piece. Feed the whole body with `last` set. Nothing is copied: the item's strings point
 * into the body. Only strings with escapes are put together in the scratch buffer, which then must
 * hold those of one item, unescaped; ids and types without escapes need none.
 *
 * In chunks of any size, down to one byte. What an item has before a chunk ends is kept in the
 * scratch buffer, which must hold the longest wanted item: the sum of its strings, unescaped, and
 * of its content as written. (65,536 bytes of content and some ids of 255 bytes are what servers
 * allow; in an EDU its sender and type are kept beside its message_id too.) Kinds that are not
 * wanted need no scratch.
 *
 * An item that does not fit has the error MSC4203_E_TOO_LARGE, an empty content, and those of its
 * ids that fit; the body goes on. However the body is cut, the items, the errors and the offsets
 * are the same, with one exception:
 *
 * An EDU's keys come in any order. When `messages` comes before `sender` or `type`, reading in one
 * piece looks ahead; in chunks this is impossible, and the messages come with the flag MSC4203_LATE
 * and without what is not known yet. Keep them until the end, where *item tells both, or read the
 * body again with what you learned as the preset (msc4203_reader_preset). An EDU that breaks off
 * before it has told both gives such messages in one piece too. And what turns out to be wrong with
 * the sender or type behind the messages, a second one for example, is in the `error` of *item at
 * the end: a server looks at that before it uses any of them.
 *
 * The device id `*`, which in MSC4203_SEND and MSC4203_EDU means every device of the user, is told
 * like any other: only the server knows which devices there are.
 *
 * Key spellings. Until MSC4203, MSC2409 and MSC3202 are part of the specification their keys have
 * prefixes, and homeservers send either or both. The reader knows all of these:
 *
 *   to_device                          de.sorunome.msc2409.to_device
 *   ephemeral                          de.sorunome.msc2409.ephemeral
 *   device_lists                       org.matrix.msc3202.device_lists
 *   device_one_time_keys_count         org.matrix.msc3202.device_one_time_keys_count
 *                                      org.matrix.msc3202.device_one_time_key_counts
 *   device_unused_fallback_key_types   org.matrix.msc3202.device_unused_fallback_key_types
 *
 * Of several spellings of one key, or the same twice, the first list with an element counts and the
 * others are skipped, so that nothing is delivered twice; an empty or null one never hides a filled
 * one. A list of another type is reported as one item with MSC4203_E_FIELD_TYPE.
 *
 * What makes an item unusable: a field that is missing, of the wrong type, or given twice; a
 * content that is no object, or nested too deeply; a lone surrogate in an id or type. What such an
 * item does have is told, for the log. A lone surrogate inside the content, and a number there that
 * no double holds, are valid JSON that some receivers fail on: the item has the flag
 * MSC4203_LONE_SURROGATE or MSC4203_HUGE_NUMBER. A server should refuse both where they come in; an
 * application service may take the message if its own JSON parser does. msc4203_item_error() tells
 * whether there is anything wrong with an item, flags included: who passes items on to a writer
 * asks it, for a writer refuses all of these.
 *
 *
 * 5. WRITING
 *
 *     msc4203_writer writer;
 *     msc4203_writer_begin(&writer, MSC4203_TRANSACTION, 0, buffer, sizeof buffer);
 *     while (there is an item)
 *         if (msc4203_writer_item(&writer, &item) == MSC4203_E_FULL)
 *             break;                          // the rest goes into the next transaction
 *     result = msc4203_writer_end(&writer, &bytes);
 *
 * The writer takes what the reader yields; for an item of your own, set all of it to zero, then
 * `kind` and what that kind has. An item that does not fit is refused whole, with MSC4203_E_FULL,
 * and what was written before stays as it is; room for what closes the body is always kept.
 * msc4203_writer_needed() says which capacity would have been enough: an item that is refused by an
 * empty body will be refused by the next one too. Any other error sticks: later calls do nothing
 * and return it, so that one check at the end is enough. To leave out an item that is refused, and
 * go on, call msc4203_writer_clear().
 *
 * Items must come grouped by kind, for they share a key of the body; key counts and fallback key
 * types also by user, and so do the messages of MSC4203_SEND and MSC4203_EDU, where moreover no
 * device of a user may come twice. Anything else is refused (MSC4203_E_ORDER): it would become a
 * duplicate key, of which most receivers drop one. Ascending users (and devices) are checked at no
 * cost; others are looked for in what has been written, so that time grows with the square of their
 * number: 16,000 users in no order take seconds.
 *
 * Contents are validated before they are copied: no caller can be tricked into writing JSON that is
 * broken, injected, or poison for some receiver.
 *
 * A NULL buffer measures: the same calls, nothing is written, and the end tells the bytes. (What is
 * not there can't be compared: while measuring, users and devices that come twice and an EDU's
 * second sender or type are not noticed, and users are told apart by a hash. Whoever can choose
 * user ids can so make the measure too small: look at the result of writing too.)
 *
 *
 * 6. THE QUEUE
 *
 * A to-device message waits until everyone who is to have it has had it. msc4203_route() says who
 * that is, as a set of channels; a queue keeps the message for each of them.
 *
 *   the recipient, a local user's device                          route() says
 *   in an exclusive namespace of a service that has opted in      that service
 *   its sender user (sender_localpart)                            that service
 *   in an inclusive namespace of one that has opted in            that service, and /sync
 *   the same, but the service made the device                     that service
 *   several of these                                              all of them; and /sync, unless
 *                                                                 one of them owns the user or
 *                                                                 made the device
 *   none of these                                                 /sync
 *
 * A service that has not opted in counts for nothing here. For each recipient device of a request:
 *
 *     queue->begin(queue->context, &batch);
 *     for each device of each recipient {
 *         message.channels = msc4203_route(services, count, &user_id, maker, match);
 *         result = queue->push(queue->context, batch, &message);   // full: abort, answer 429
 *     }
 *     result = queue->commit(queue->context, batch, &request, &first);
 *     queue->flush(queue->context);                                // then answer 200
 *
 * Delivering on a channel: next() after the last number that is done; hold() what goes out, before
 * it goes; done() when it has arrived. For /sync, next() for the device, and done() when a `since`
 * proves that it has arrived.
 *
 * Changing over. move() takes a message from one channel to others in one step, under a new number:
 * msc4203_change_device() and msc4203_change_channel() do that for all that a changed configuration
 * concerns. A crash in between leaves each message in exactly one place; go on with what is left.
 * release() a channel when nothing waits for it.
 *
 * An event loop must not wait for a disk. Either one thread owns the queue, and the loop sends it
 * what to do and gets told when a flush covered it; or, where waiting a few milliseconds is no
 * harm, the loop flushes once for all that it has read, before it answers any of it: one flush
 * serves all the commits that came before it.
 *
 * Your own database. msc4203_queue says what each function must do. Over SQL, one table does nearly
 * all of it (example/queue_sqlite.c is that, complete):
 *
 *     CREATE TABLE message (number INTEGER PRIMARY KEY, channels INTEGER NOT NULL, time INTEGER,
 *         user TEXT, device TEXT, sender TEXT, type TEXT, content BLOB);
 *     CREATE INDEX by_device ON message (user, device, number);
 *     next   SELECT ... WHERE channels & (1 << ?) AND number > ? ORDER BY number LIMIT 1
 *     done   UPDATE message SET channels = channels & ~(1 << ?) WHERE number <= ? ...;
 *            DELETE FROM message WHERE channels = 0; UPDATE channel SET record = ? ...; COMMIT
 *     drop   UPDATE message SET channels = channels & in flight ... WHERE user = ? AND device = ?
 *
 *
 * 7. THE LOG
 *
 * msc4203_log is a queue in a region of fixed size: memory, a file, or a flash chip, which needs no
 * file system and no translation layer under it. It never grows, and never overwrites what was
 * accepted: when it is full, push() says so.
 *
 *     msc4203_file_create(&file, "queue.log", 16 << 20, NULL, random);      // when there is none
 *     msc4203_file_open(&file, "queue.log", 1, &storage);
 *     msc4203_log_inspect(&log, &storage, &config);
 *     bytes = msc4203_log_memory(&log, &storage, &config);
 *     msc4203_log_open(&log, &storage, memory, bytes, random);
 *     msc4203_log_queue(&log, &queue);
 *
 * Power loss at any moment leaves what the last completed flush covered, and of what came later
 * each call whole or not at all, none without those before it. That holds where a storage that
 * loses its power damages all of the sector that it was writing to, as SD cards and flash do:
 * nothing durable is ever written over. The storage says how large that sector is.
 *
 * Damage is found by checksums, counted (msc4203_log_usage_get), and costs what was stored in the
 * damaged place: a message is reported by next(); of what took messages out, they come again; a
 * batch whose end is lost is delivered all the same. Two things are lost with more than their own
 * bytes: what the last flush before a crash wrote, if any of it is damaged, for then it looks like
 * a flush that was never completed (a batch before it too, if the batch's end is damaged as well);
 * and a batch that ends in the newest segment, if all of that is.
 *
 * Cost. No operation's cost depends on how many messages wait, but expire()'s, drop()'s (on those
 * of the device), and that of opening after a crash, which reads the region once. After
 * msc4203_log_close() opening reads the index alone. A message takes 48 bytes beside its strings,
 * rounded up to 16; a flush fills up its last sector. Room is made in small steps, by copying what
 * still waits in the oldest of 8 to 128 segments; some segments are kept free for that.
 *
 * Memory. 24 bytes for each message that may wait, 40 for each device that has some, 24 for each
 * request and 16 for each opening that is remembered, one sector, and 3 KiB. Whoever must keep
 * millions of messages uses a database. The log's format is described in the implementation. A log
 * of this format's version will be read by every later version of this library.
 *
 *
 * 8. DELIVERY
 *
 * State machines that move no bytes and know no time of their own: you do both.
 *
 * Sender (a homeserver's side of the transactions). One for each application service:
 *
 *     result = msc4203_sender_poll(&sender, now, work, sizeof work, &transaction, &wait);
 *       MSC4203_REQUEST   PUT transaction->path, Content-Length transaction->bytes, and as body
 *                         what msc4203_sender_read() gives; then msc4203_sender_result(status)
 *       MSC4203_WAIT      call again in `wait` milliseconds
 *       MSC4203_IDLE      call again after the next flush
 *
 * It keeps one transaction in flight, of at most 100 messages and 1,000,000 bytes; its record is
 * durable before its first byte goes out, so that a retry, also after a crash, is the same byte for
 * byte. What each status means stands at msc4203_sender_result(). Nothing is ever given up.
 *
 * Receiver (an application service's side). Give it method, target and Authorization header, then
 * the body in pieces of any size; take items out, provisionally; the end says whether they are new
 * or a repeat. An id alone proves nothing (servers count from 1 again after a restart), nor do the
 * body's bytes: what counts are the id and a digest of the to-device messages.
 *
 * Sync. A `since` proves that what it covered has arrived, and only that is taken out; then come up
 * to 100 messages, and the token for next_batch.
 *
 * Changing over. When a service opts in, msc4203_change_device() moves what waits for /sync, for
 * each device that thereby loses /sync; when it opts out, or is gone, msc4203_change_channel()
 * moves what is not in flight the other way. Call both for all at each start, and whenever the
 * configuration has changed: what is in its place stays there. A message that was in the last /sync
 * response, not acknowledged yet, can so come twice; none is lost.
 *
 * Expiry. msc4203_expire() takes out what waits for a /sync that never comes, and never trusts a
 * clock that is behind the queue's last time, or has just jumped.
 *
 *
 * 9. PUT IT INTO YOUR SERVER
 *
 * Where each call goes in a homeserver. This is a whole program but for HTTP; example/gateway.c has
 * that too.
 *
 * ```c server
 * #define _POSIX_C_SOURCE 200809L
 * #define MSC4203_FILE
 * #define MSC4203_IMPLEMENTATION
 * #include "msc4203.h"
 * #include <stdio.h>
 * #include <stdlib.h>
 * #include <time.h>
 *
 * static msc4203_file file;
 * static msc4203_storage storage;
 * static msc4203_log store;
 * static msc4203_queue queue;
 * static msc4203_appservice irc;
 * static msc4203_sender sender;
 * static char work[160000], scratch[70000];    // one of each for a thread
 *
 * static msc4203_span span(const char *text)
 * {
 *     msc4203_span made;
 *     made.ptr = text;
 *     made.len = strlen(text);
 *     return made;
 * }
 *
 * static uint64_t now(void)                    // milliseconds since 1970
 * {
 *     struct timespec time;
 *     clock_gettime(CLOCK_REALTIME, &time);
 *     return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
 * }
 *
 * static uint64_t random_bits(void)
 * {
 *     uint64_t bits = 0;
 *     FILE *from = fopen("/dev/urandom", "rb");
 *     if (from == NULL || fread(&bits, sizeof bits, 1, from) != 1)
 *         exit(1);
 *     fclose(from);
 *     return bits;
 * }
 *
 * static int match(const msc4203_appservice *service, const msc4203_span *user)
 * {
 *     (void)service;                           // here: regexec() with its namespaces
 *     return user->len > 6 && memcmp(user->ptr, "@_irc_", 6) == 0 ? MSC4203_EXCLUSIVE
 *                                                                 : MSC4203_OUTSIDE;
 * }
 *
 * static uint32_t route(void *context, const msc4203_device *device)
 * {
 *     (void)context;                           // (size_t)-1: no service made this device
 *     return msc4203_route(&irc, 1, &device->user_id, (size_t)-1, match);
 * }
 *
 * // Start-up; and the last part again whenever the registrations have changed.
 * static int start(const char *path)
 * {
 *     msc4203_sender_config config = {0};
 *     msc4203_log_config shape;
 *     msc4203_span name = span("irc");
 *     size_t bytes;
 *     int result = msc4203_file_open(&file, path, 1, &storage);
 *
 *     if (result == MSC4203_END) {             // 16 MiB, for ever
 *         result = msc4203_file_create(&file, path, 16 << 20, NULL, random_bits());
 *         if (result == MSC4203_OK)
 *             result = msc4203_file_open(&file, path, 1, &storage);
 *     }
 *     if (result == MSC4203_OK)
 *         result = msc4203_log_inspect(&store, &storage, &shape);
 *     if (result != MSC4203_OK)
 *         return result;
 *     bytes = msc4203_log_memory(&store, &storage, &shape);
 *     result = msc4203_log_open(&store, &storage, malloc(bytes), bytes, random_bits());
 *     msc4203_log_queue(&store, &queue);
 *     msc4203_log_quotas(&store, 8 << 20, 1 << 20);
 *     if (result == MSC4203_OK)
 *         result = queue.channel(queue.context, &name, 1, &irc.channel);
 *     irc.opted_in = 1;
 *     irc.sender = span("@ircbot:gw.example");
 *     if (result == MSC4203_OK)                // for each channel, and each device there is
 *         result = msc4203_change_channel(&queue, irc.channel, route, NULL, work, sizeof work,
 *                                         NULL);
 *     config.channel = irc.channel;
 *     if (result == MSC4203_OK)
 *         result = msc4203_sender_init(&sender, &queue, &config, now(), work, sizeof work);
 *     return result;
 * }
 *
 * // PUT /sendToDevice/{type}/{txnId}, whose sender has been authorized; an m.direct_to_device EDU
 * // is read in the same way as MSC4203_EDU, with origin and message_id as the request. Returns a
 * // result: answer with its status and errcode.
 * static int send_to_device(const char *sender_id, const char *type, const char *path,
 *                           const char *body, size_t bytes)
 * {
 *     msc4203_reader reader;
 *     const msc4203_item *item;
 *     msc4203_message message = {0};
 *     msc4203_request request;
 *     msc4203_digest digest;
 *     unsigned char out[16];
 *     uint32_t batch;
 *     uint64_t first;
 *     int result, got;
 *
 *     msc4203_digest_init(&digest, msc4203_log_key(&store));
 *     msc4203_digest_add(&digest, sender_id, strlen(sender_id)); // and its device
 *     msc4203_digest_end(&digest, out);
 *     memcpy(request.who, out, 8);
 *     msc4203_digest_init(&digest, msc4203_log_key(&store));
 *     msc4203_digest_add(&digest, path, strlen(path));
 *     msc4203_digest_end(&digest, out);
 *     memcpy(request.what, out, 8);
 *     result = queue.begin(queue.context, &batch);
 *     if (result != MSC4203_OK)
 *         return result;
 *     msc4203_reader_init(&reader, MSC4203_SEND, MSC4203_TO_DEVICE, scratch, sizeof scratch);
 *     msc4203_reader_feed(&reader, body, bytes, 1);
 *     while ((got = msc4203_reader_next(&reader, &item)) == MSC4203_ITEM && result == MSC4203_OK) {
 *         msc4203_device device;
 *         result = msc4203_item_error(item);   // a bad message is refused where it comes in
 *         device.user_id = item->user_id;      // a local user's device; "*": each of its devices
 *         device.device_id = item->device_id;
 *         message.item = *item;
 *         message.item.sender = span(sender_id);
 *         message.item.type = span(type);
 *         message.time_ms = now();
 *         message.channels = route(NULL, &device);
 *         if (result == MSC4203_OK)
 *             result = queue.push(queue.context, batch, &message);
 *     }
 *     if (result == MSC4203_OK && got != MSC4203_END)
 *         result = got;
 *     if (result != MSC4203_OK) {
 *         queue.abort(queue.context, batch);
 *         return result;
 *     }
 *     result = queue.commit(queue.context, batch, &request, &first);
 *     if (result == MSC4203_KNOWN)             // it has come before: that is fine
 *         result = MSC4203_OK;
 *     return result == MSC4203_OK ? queue.flush(queue.context) : result; // then answer
 * }
 *
 * // After each flush, and when the time has come: what is to be sent?
 * static void deliver(void)
 * {
 *     const msc4203_transaction *transaction;
 *     char piece[4096];
 *     uint64_t at, wait;
 *     size_t got;
 *
 *     while (msc4203_sender_poll(&sender, now(), work, sizeof work, &transaction, &wait) ==
 *            MSC4203_REQUEST) {
 *         int status = 200;                    // here: connect, and send a PUT
 *         printf("PUT %s, %lu bytes\n", transaction->path, (unsigned long)transaction->bytes);
 *         for (at = 0; at < transaction->bytes; at += got) {
 *             if (msc4203_sender_read(&sender, at, work, sizeof work, piece, sizeof piece, &got) !=
 *                 MSC4203_OK)
 *                 break;                       // then the status is 0
 *             fwrite(piece, 1, got, stdout);
 *         }
 *         printf("\n");
 *         msc4203_sender_result(&sender, status, now(), (uint32_t)random_bits(), work,
 *                               sizeof work);
 *     }
 * }
 *
 * // GET /sync: the part of the response that is about to-device messages.
 * static int sync_response(const msc4203_device *device, const char *since, char *buffer,
 *                          size_t capacity, size_t *bytes)
 * {
 *     msc4203_span token = span(since);
 *     msc4203_message message;
 *     msc4203_writer writer;
 *     msc4203_item next = {0};
 *     msc4203_sync sync;
 *     char text[48];
 *     int result = msc4203_sync_begin(&sync, &queue, device, &token);
 *
 *     if (result != MSC4203_OK)
 *         return result;
 *     msc4203_writer_begin(&writer, MSC4203_SYNC, 0, buffer, capacity);
 *     msc4203_writer_reserve(&writer, 64);     // for next_batch
 *     while (msc4203_sync_next(&sync, work, sizeof work, &message) == MSC4203_ITEM)
 *         if (msc4203_writer_item(&writer, &message.item) != MSC4203_OK) {
 *             msc4203_sync_unread(&sync);      // it comes with the next one
 *             break;
 *         }
 *     msc4203_sync_token(&sync, text);
 *     next.kind = MSC4203_NEXT_BATCH;
 *     next.id = span(text);
 *     msc4203_writer_item(&writer, &next);
 *     return msc4203_writer_end(&writer, bytes);
 * }
 *
 * // Every few minutes: what has waited for a /sync for four weeks is given up.
 * static int expire(void)
 * {
 *     static msc4203_expiry expiry;            // the clock is believed after an hour
 *     int result = msc4203_expire(&expiry, &queue, now(), (uint64_t)28 * 86400000, NULL);
 *     return result == MSC4203_OK ? queue.flush(queue.context) : result;
 * }
 *
 * // A device is deleted: what waits for it goes too, but for what is in flight.
 * static int delete_device(const msc4203_device *device)
 * {
 *     int result = queue.drop(queue.context, device, NULL); // or its `who`: see msc4203_queue
 *     return result == MSC4203_OK ? queue.flush(queue.context) : result;
 * }
 *
 * int main(void)
 * {
 *     static const char body[] = "{\"messages\":{\"@_irc_bob:gw.example\":{\"BOB\":{\"n\":1}},"
 *                                "\"@alice:gw.example\":{\"PHONE\":{\"n\":2}}}}";
 *     msc4203_device phone;
 *     char response[1000];
 *     size_t bytes = 0;
 *
 *     remove("server.log");
 *     phone.user_id = span("@alice:gw.example");
 *     phone.device_id = span("PHONE");
 *     if (start("server.log") != MSC4203_OK ||
 *         send_to_device("@carl:gw.example", "m.dummy", "/sendToDevice/m.dummy/1", body,
 *                        sizeof body - 1) != MSC4203_OK)
 *         return 1;
 *     deliver();
 *     if (sync_response(&phone, "", response, sizeof response, &bytes) != MSC4203_OK)
 *         return 1;
 *     printf("%.*s\n", (int)bytes, response);
 *     if (expire() != MSC4203_E_CLOCK)         // too early to say
 *         return 1;
 *     if (delete_device(&phone) != MSC4203_OK || msc4203_log_close(&store) != MSC4203_OK)
 *         return 1;                            // shutdown: closing makes the next start fast
 *     return msc4203_file_close(&file);
 * }
 * ```
 *
 * With an event loop: take in what has come, commit it, flush once, then answer all of it, then
 * poll the senders; that is example/gateway.c. Where a flush may not hold up the loop (an SD card
 * takes 10 ms and more), give queue and senders to one thread: the loop sends it parsed requests,
 * and it answers each group of them after their common flush. With a thread for each connection:
 * one lock around the calls above; a thread that wants to flush first waits until nobody else is
 * flushing, and what others committed meanwhile is durable with its own.
 *
 * In an application service, with any HTTP server:
 *
 *     result = msc4203_receiver_request(&receiver, &method, &target, &authorization, scratch,
 *                                       sizeof scratch);
 *     while result is MSC4203_MORE {
 *         msc4203_receiver_feed(&receiver, piece, bytes, last);
 *         while ((result = msc4203_receiver_next(&receiver, &item)) == MSC4203_ITEM)
 *             keep the item, provisionally;
 *     }
 *     MSC4203_NEW                in one step make the items and the receiver's memory durable
 *     MSC4203_REPEAT_TO_DEVICE   the same, without the to-device messages
 *     MSC4203_REPEAT             drop the items
 *     anything else              drop the items; msc4203_receiver_reject() if they were kept
 *     answer with msc4203_result_status() and msc4203_result_body()
 *
 * (example/appservice.c is that, complete.) What is left to the server:
 *
 *   HTTP, TLS, connections, timeouts        which users are local, which devices they have
 *   tokens, and who may send                expanding "*" to all of a user's devices
 *   namespaces: regular expressions         limits: 64 KiB of content, 255 bytes of user id
 *   whether a service has opted in          of a federation transaction: that the sender's domain
 *   device lists and key counts (MSC3202)   is its origin, and failing it as a whole when full
 *
 *
 * 10. RESULTS AND ERRORS
 *
 * Functions return an int: zero or positive is progress, negative is an error. Errors come in
 * bands: -1 to -19 a body that cannot be read, -20 to -39 an item that cannot be used, -40 to -59
 * an item that cannot be written, -60 to -79 a mistake in the calling program, -80 to -99 a queue
 * that cannot do what it was asked for, -100 and below a request that is refused. For each there is
 * a text (msc4203_result_text), a Matrix errcode (msc4203_result_errcode), an HTTP status
 * (msc4203_result_status) and a body (msc4203_result_body) to answer a request with. After any
 * error an object can be begun anew.
 *
 *
 * 11. MEMORY
 *
 * All memory is the caller's. On a 64-bit machine: msc4203_reader at most 384 bytes, msc4203_writer
 * at most 384 bytes, whatever the body's size, msc4203_log at most 448, msc4203_sender 1,024,
 * msc4203_receiver 640; ask msc4203_sizeof() for the sizes on yours. No function needs more than
 * 256 bytes of stack, and the deepest chain of calls to read and write bodies, optimised, 512 (on a
 * Cortex-M0+ 256). No heap, no recursion, no static data that is written to.
 *
 *
 * 12. THREADS
 *
 * There is no global state: different objects may be used by different threads at the same time,
 * one object by one thread at a time. No function blocks, calls back, or reads a clock, but for
 * those of a log, which call its storage, and msc4203_route().
 *
 *
 * 13. OPTIONS
 *
 * Define before the implementation is included:
 *   MSC4203_STATIC      all functions are static, for use in one source file
 *   MSC4203_NO_READER   leaves out reading (section 3 of the implementation)
 *   MSC4203_NO_WRITER   leaves out writing (section 4 of the implementation)
 *   MSC4203_NO_LOG      leaves out the log (section 6 of the implementation)
 *   MSC4203_NO_DELIVERY leaves out sender, receiver and sync (section 7; it needs 3 and 4)
 *   MSC4203_NO_FILE     leaves out the log's storage in a file, in msc4203.c
 *   MSC4203_FILE        has that storage where MSC4203_IMPLEMENTATION is defined
 *   MSC4203_NO_SIMD     uses no vector instructions, where the compiler offers them
 *   MSC4203_NO_WORDS    goes byte by byte, without vectors and other short ways (smaller code; the
 *                       default on machines that are not 64-bit little-endian, and with compilers
 *                       other than gcc and clang)
 * No option changes a struct or a result.
 *
 *
 * 14. LIMITS
 *
 * Nesting: 1,024 levels, the outermost object being the first. An item whose content goes deeper
 * has the error MSC4203_E_TOO_DEEP; skipped values may go deeper. Below that level only strings are
 * checked and brackets counted: what stands there may not be JSON, and is in no usable item.
 * Numbers: whether a double holds one is judged rightly up to a length of 64 MiB.
 * Scratch: at most 4 GiB are used.
 * Length of a body: 2^64 - 1 bytes. Number of items of a kind in one body: 2^32 - 1. No other limit
 * on ids, types or contents than the scratch buffer; what servers allow (user ids 255 bytes,
 * contents 64 KiB) is the server's business.
 * Compilers: structs must not be packed (-fpack-struct). A freestanding build needs <string.h> too.
 * Inside of a C++ namespace the header must be included with MSC4203_NO_SIMD. Some headers define
 * macros with arguments that are named like members (<curses.h>: move(), lwIP: read() and write()):
 * the library compiles with them; write (queue->move)(...) in your own code.
 */
#ifndef MSC4203_H
#define MSC4203_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Delivery reads and writes bodies. */
#if !defined(MSC4203_NO_DELIVERY) && (defined(MSC4203_NO_READER) || defined(MSC4203_NO_WRITER))
#define MSC4203_NO_DELIVERY
#endif

/* The version of the library, MAJOR * 1000000 + MINOR * 1000 + PATCH. Within one MAJOR (and, while
 * it is 0, within one MINOR) functions, values and structs are only added to, at the end. */
#define MSC4203_VERSION "0.1.0"
#define MSC4203_VERSION_NUMBER 1000

/* How functions are declared. Define it yourself for an export attribute or a calling convention.
 */
#ifndef MSC4203_API
#ifdef MSC4203_STATIC
#if defined(__GNUC__) || defined(__clang__) || defined(__TINYC__)
#define MSC4203_API static __attribute__((unused))
#else
#define MSC4203_API static
#endif
#else
#define MSC4203_API extern
#endif
#endif

/* ------------------------------------------------------------------------------------------------
 * Values
 * --------------------------------------------------------------------------------------------- */

/* The shapes of a body. */
enum msc4203_shape {
    MSC4203_TRANSACTION = 0, /* Application Service API, PUT /transactions/{txnId}; MSC4203 */
    MSC4203_SEND = 1,        /* Client-Server API, PUT /sendToDevice/{eventType}/{txnId} */
    MSC4203_EDU = 2,         /* Server-Server API, m.direct_to_device, its `content` */
    MSC4203_SYNC = 3,        /* Client-Server API, GET /sync: `next_batch` and `to_device` */
    MSC4203_JSON = 4         /* reading only: any one JSON text, validated; it has no items */
};

/* The kinds of items: single bits, to be or-ed into a set of kinds. */
enum msc4203_kind {
    MSC4203_TO_DEVICE = 1,        /* a to-device message: all fields but `id` */
    MSC4203_EVENT = 2,            /* a room event: `content` is the event, a JSON object */
    MSC4203_EPHEMERAL = 4,        /* m.typing, m.receipt or m.presence: `content` is the event */
    MSC4203_DEVICE_CHANGED = 8,   /* a user whose device list changed: `user_id` */
    MSC4203_DEVICE_LEFT = 16,     /* a user with whom no room is shared any more: `user_id` */
    MSC4203_KEY_COUNTS = 32,      /* one device's one-time key counts: `content` is the JSON object
                                     algorithm -> count; see msc4203_algorithms */
    MSC4203_FALLBACK_TYPES = 64,  /* one device's unused fallback key types: `content` is the JSON
                                     array of algorithms; an empty one is an item too */
    MSC4203_MESSAGE_ID = 128,     /* an EDU's message_id: `id` */
    MSC4203_NEXT_BATCH = 256,     /* a /sync response's next_batch: `id` */
    MSC4203_ALL_KINDS = 511
};

/* Flags of an item. */
enum msc4203_flag {
    MSC4203_LONE_SURROGATE = 1, /* `content` has a string with half a surrogate pair: "\ud800" */
    MSC4203_HUGE_NUMBER = 2,    /* `content` has a number of 1.7976931348623158e308 or more, or of
                                   minus that or less: no double holds it */
    MSC4203_LATE = 4            /* an EDU in chunks, or one that breaks off: its `sender` or `type`
                                   was not known yet */
};

/* Flags for msc4203_writer_begin(). */
enum msc4203_writing {
    MSC4203_UNSTABLE_KEYS = 0, /* the prefixed keys, which every receiver knows today */
    MSC4203_STABLE_KEYS = 1    /* the keys without prefixes; `ephemeral` always is */
};

/* What functions return. */
enum msc4203_result {
    MSC4203_OK = 0,
    MSC4203_ITEM = 1, /* *item is an item, usable or not: see its `error` */
    MSC4203_MORE = 2, /* all bytes are used up, and the body goes on */
    MSC4203_END = 3,  /* the body is complete and valid; there is no more */
    MSC4203_KNOWN = 4, /* a queue: the request has been committed before */
    MSC4203_REQUEST = 5, /* a sender: send the transaction */
    MSC4203_WAIT = 6,    /* a sender: later */
    MSC4203_IDLE = 7,    /* a sender: there is nothing to do */
    MSC4203_NEW = 8,     /* a receiver: the transaction is new */
    MSC4203_REPEAT = 9,  /* a receiver: all of it has come before */
    MSC4203_REPEAT_TO_DEVICE = 10, /* a receiver: its to-device messages have come before */

    /* The body cannot be read. */
    MSC4203_E_SYNTAX = -1,      /* not JSON */
    MSC4203_E_UTF8 = -2,        /* not JSON: a string is not valid UTF-8 */
    MSC4203_E_TRUNCATED = -3,   /* not JSON: the input ends too early */
    MSC4203_E_ROOT = -4,        /* JSON, but no object */
    MSC4203_E_MESSAGES = -5,    /* `messages` is no object */
    MSC4203_E_NO_MESSAGES = -6, /* `messages` is missing */

    /* The item cannot be used; or, from a writer, is not written. */
    MSC4203_E_FIELD_MISSING = -20, /* a required field is missing */
    MSC4203_E_FIELD_TYPE = -21,    /* a field, the item, or its list is of the wrong JSON type */
    MSC4203_E_FIELD_TWICE = -22,   /* a field is given twice */
    MSC4203_E_TOO_DEEP = -23,      /* nested deeper than 1,024 levels */
    MSC4203_E_SURROGATE = -24,     /* half a surrogate pair in a string */
    MSC4203_E_NUMBER = -25,        /* a number that no double holds */
    MSC4203_E_TOO_LARGE = -26,     /* longer than the scratch buffer */

    /* The item cannot be written. */
    MSC4203_E_FULL = -40,   /* no room; see msc4203_writer_needed() */
    MSC4203_E_ORDER = -41,  /* its kind, its user or its device has been written already */
    MSC4203_E_KIND = -42,   /* the shape has no place for this kind */
    MSC4203_E_SECOND = -43, /* an EDU has one sender, one type and one message_id, a /sync response
                               one next_batch: this is another */

    /* A mistake in the calling program. */
    MSC4203_E_USAGE = -60,

    /* A queue. */
    MSC4203_E_STORAGE = -80,    /* reading, writing or syncing failed */
    MSC4203_E_QUEUE_FULL = -81, /* no room in the queue: try again later */
    MSC4203_E_QUOTA = -82,      /* no more may wait for this device or application service */
    MSC4203_E_BATCH = -83,      /* the batch is not open, or was given up: try again */
    MSC4203_E_BUSY = -84,       /* messages wait for the channel */
    MSC4203_E_DAMAGED = -85,    /* the storage does not hold what was written */
    MSC4203_E_FORMAT = -86,     /* not a log, or one of a later version */
    MSC4203_E_REGION = -87,     /* a region of another size, or of one that will not do */
    MSC4203_E_INDEX = -88,      /* the memory given is too small */
    MSC4203_E_LOCKED = -89,     /* another process has the log open */
    MSC4203_E_CLOCK = -90,      /* the clock is not to be trusted (yet): nothing is expired */

    /* A request is refused. */
    MSC4203_E_UNRECOGNIZED = -100,  /* no such path */
    MSC4203_E_METHOD = -101,        /* no such method for this path */
    MSC4203_E_TOKEN_MISSING = -102, /* no access token */
    MSC4203_E_TOKEN = -103,         /* a wrong access token */
    MSC4203_E_SINCE = -104          /* `since` is no token of a /sync */
};

/* ------------------------------------------------------------------------------------------------
 * Items
 * --------------------------------------------------------------------------------------------- */

/* `len` bytes at `ptr`, not NUL-terminated; they may contain NUL bytes and line breaks. An absent
 * string has a NULL `ptr`, an empty one has not. */
typedef struct msc4203_span {
    const char *ptr;
    size_t len;
} msc4203_span;

/* Whatever travels in a body. The reader fills in what the kind has and leaves the rest zero; the
 * writer looks at what the kind and the shape have. Strings are unescaped, valid UTF-8 without
 * surrounding quotes (a lone surrogate, which makes the item an error, reads as U+FFFD); `content`
 * is raw JSON. */
typedef struct msc4203_item {
    int kind;       /* one of enum msc4203_kind */
    int error;      /* MSC4203_OK, or why the item cannot be used: -20 to -39 */
    unsigned flags; /* a set of enum msc4203_flag */
    unsigned index; /* counts the items of this kind in this body, from 0, unusable ones too (and
                       lists of the wrong type, but no more than three) */
    uint64_t offset;        /* of the item's first byte in the body, from 0; in MSC4203_SEND and
                               MSC4203_EDU of the quote before the device id */
    msc4203_span sender;    /* full user id */
    msc4203_span type;      /* event type */
    msc4203_span user_id;   /* recipient (to_user_id), or the user that the item speaks of */
    msc4203_span device_id; /* recipient's device (to_device_id), or the device spoken of */
    msc4203_span content;   /* raw JSON: see enum msc4203_kind */
    msc4203_span id;        /* message_id or next_batch */
} msc4203_item;

/* Tells whether anything is wrong with an item: its `error`, or one of its flags as an error. Of
 * several faults it tells the same one however the body was cut. For a server that refuses bad
 * messages where they come in.
 *
 * Returns MSC4203_OK, or an error from -20 to -39. */
MSC4203_API int msc4203_item_error(const msc4203_item *item);

/* Tells whether a span holds exactly the bytes of the NUL-terminated `string`: 1 or 0. */
MSC4203_API int msc4203_span_equal(const msc4203_span *span, const char *string);

/* ------------------------------------------------------------------------------------------------
 * Results
 * --------------------------------------------------------------------------------------------- */

/* Returns a short English text for a result, such as "a field is missing"; "unknown result" for a
 * number that is none. The text is constant. */
MSC4203_API const char *msc4203_result_text(int result);

/* Returns the Matrix errcode with which a server answers a request that failed with this result,
 * such as "M_NOT_JSON"; "" for a result that is no error. The text is constant. */
MSC4203_API const char *msc4203_result_errcode(int result);

/* Returns the HTTP status that goes with the errcode: 200, 400, 401, 403, 404, 405, 413, 429, or
 * 500. */
MSC4203_API int msc4203_result_status(int result);

/* Writes the body of an answer to a request that ended with this result: {} or a Matrix error,
 * {"errcode":...,"error":...}. 120 bytes are always enough for `capacity`; *bytes tells how many
 * they are. Returns MSC4203_OK, or MSC4203_E_FULL, and then *bytes are needed. */
MSC4203_API int msc4203_result_body(int result, void *buffer, size_t capacity, size_t *bytes);

/* Returns MSC4203_VERSION_NUMBER as it was when the library was compiled. */
MSC4203_API unsigned msc4203_version(void);

/* ------------------------------------------------------------------------------------------------
 * Scanner state. Private: it stands here only because the structs that callers provide contain one.
 * --------------------------------------------------------------------------------------------- */

typedef struct msc4203_json {
    /* Bytes first: small machines reach only the first of a struct in one instruction. */
    uint8_t state, role, flags;
    uint8_t watch;                 /* levels whose values are reported */
    uint8_t members;               /* its members go to reader_member() */
    uint8_t strict;                /* a level too many is an error */
    int8_t error;
    uint8_t need, low, high;       /* bytes to come, and the bounds of the next one */
    uint8_t number, minus, digits; /* of a number: the part, its exponent's sign, how it compares */
    uint16_t limit;                /* levels that may be open */
    uint32_t depth;                /* levels open */
    uint32_t levels;               /* the innermost 1 to 32 of them: a bit for each that is an
                                      object, the lowest for the innermost */
    const unsigned char *next, *end; /* what is left of the chunk */
    union {
        struct {
            const unsigned char *ptr; /* the piece of a watched string that was reported last */
            size_t bytes;
            unsigned char escape[8]; /* where it is, if it is unescaped */
            uint16_t unit, half;     /* of \u: the unit; the surrogate that waits for another */
        } text;
        struct {
            uint32_t point; /* of 0.DIGITS * 10^point * 10^exponent */
            uint32_t exponent;
        } decimal;
        msc4203_span spare[2]; /* the caller's own, while it does not need the text */
    } now;
    uint32_t objects[32]; /* all other levels: what `levels` was before each 32 */
} msc4203_json;

/* ------------------------------------------------------------------------------------------------
 * Reader
 * --------------------------------------------------------------------------------------------- */

struct msc4203_reader_state {
    uint8_t state, shape, where, field, row_bytes, seen, expected;
    uint8_t loose;                      /* the set of fields that lie in this chunk */
    int8_t user_error, edu_error;
    uint16_t kinds;                     /* still wanted: not after a list with an element */
    uint16_t reports;                   /* lists of the wrong type so far, two bits a kind */
    uint32_t rows;                      /* of the known keys those that fit so far */
    uint32_t low, part;                 /* of the scratch: a content; the text in the making */
    uint32_t high, base, shared;        /* where strings begin; the kept ones; all items' */
    char *scratch;                      /* [content][text in the making] ... [strings][kept ids] */
    const unsigned char *mark;          /* where a content began, or an EDU's messages */
    uint64_t bytes_fed;
    msc4203_item item;                  /* in the making, and what the next one shares */
    msc4203_json json;
};

/* The state of reading one body: of fixed size, whatever the body's. Treat `priv` as private. */
typedef struct msc4203_reader {
    struct msc4203_reader_state priv;
} msc4203_reader;

#ifndef MSC4203_NO_READER
/* Begins to read a body.
 *
 * `shape` is one of enum msc4203_shape. `kinds` is a set of enum msc4203_kind: other items are
 * validated and skipped at full speed. `scratch` is `scratch_bytes` of memory for the reader to
 * work in, which must live as long as the reader is used and may be NULL when its size is 0: see
 * READING in the manual for how much is needed.
 *
 * May be called at any time, also after an error, to begin another body.
 *
 * Returns MSC4203_OK, or MSC4203_E_USAGE for an unknown shape; msc4203_reader_next() then returns
 * MSC4203_E_USAGE too. */
MSC4203_API int msc4203_reader_init(msc4203_reader *reader, int shape, unsigned kinds,
                                    void *scratch, size_t scratch_bytes);

/* Gives what the body does not tell: the `sender` and `type` of MSC4203_SEND, the `user_id` and
 * `device_id` of MSC4203_SYNC are put into every message; all other fields of `preset` are ignored.
 * For MSC4203_EDU its `sender`, `type` and `error` are taken in place of what the body says: what
 * *item told at the end of a first reading.
 *
 * To be called after msc4203_reader_init() and before the first msc4203_reader_feed(). What the
 * spans point to is not copied: it must stay as long as the reader is used. */
MSC4203_API void msc4203_reader_preset(msc4203_reader *reader, const msc4203_item *preset);

/* Gives the next `bytes` bytes of the body; `last` says that no more will come (0 or 1). A body in
 * one piece is fed once, with `last` set. The last call may give 0 bytes, and `data` may then be
 * NULL.
 *
 * `data` is only read, and must stay as it is until msc4203_reader_next() has returned something
 * else than MSC4203_ITEM; in one piece, until the reader is no longer used.
 *
 * 0 bytes without `last` change nothing. A byte order mark is no JSON.
 *
 * Returns MSC4203_OK; MSC4203_E_USAGE, changing nothing, when the bytes before these are not used
 * up (after an error they never are) or `last` has been given. */
MSC4203_API int msc4203_reader_feed(msc4203_reader *reader, const void *data, size_t bytes,
                                    int last);

/* Reads on to the next wanted item.
 *
 * On MSC4203_ITEM *item points into the reader: it is valid, with what its spans point to, until
 * the next call with this reader. On MSC4203_END of an EDU *item tells its `sender` and `type`, and
 * in `error` what is wrong with them. Otherwise *item is NULL.
 *
 * Returns
 *   MSC4203_ITEM       an item; look at its `error` before using it
 *   MSC4203_MORE       all bytes are used up: call msc4203_reader_feed()
 *   MSC4203_END        the body is complete, and all of it was valid (see LIMITS)
 *   MSC4203_E_SYNTAX, MSC4203_E_UTF8, MSC4203_E_TRUNCATED
 *                      the body is no JSON; the offset is that of the byte at which this shows
 *                      ({"a":1,} is wrong at byte 7), or the body's length when it is cut short
 *   MSC4203_E_ROOT, MSC4203_E_MESSAGES, MSC4203_E_NO_MESSAGES
 *                      the body is JSON of another shape; the offset is that of the value which is
 *                      no object, or of the bracket that closes the body
 *   MSC4203_E_TOO_DEEP only for MSC4203_JSON: the offset is that of the bracket that goes too deep
 *   MSC4203_E_USAGE    msc4203_reader_init() has not been called (and the memory is zero), or has
 *                      refused the shape
 * An error, and MSC4203_END, are returned again by every later call. */
MSC4203_API int msc4203_reader_next(msc4203_reader *reader, const msc4203_item **item);

/* Returns how many bytes of the body have been read; after an error the offset of the error. */
MSC4203_API uint64_t msc4203_reader_offset(const msc4203_reader *reader);

#endif /* MSC4203_NO_READER */

/* Goes through the algorithms of a MSC4203_KEY_COUNTS or MSC4203_FALLBACK_TYPES item. */
typedef struct msc4203_algorithms {
    struct {
        msc4203_json json;
        int result;
        unsigned bytes;
        char name[64];
    } priv;
} msc4203_algorithms;

#ifndef MSC4203_NO_READER
/* Begins to go through an item's algorithms. The item's content must stay as it is meanwhile. */
MSC4203_API void msc4203_algorithms_init(msc4203_algorithms *algorithms, const msc4203_item *item);

/* Tells the next algorithm, and its number of one-time keys (0 in a MSC4203_FALLBACK_TYPES item).
 * *name is valid until the next call with this object.
 *
 * Returns
 *   MSC4203_ITEM            *name and *count are set
 *   MSC4203_END             there are no more
 *   MSC4203_E_FIELD_TYPE    a name is no string, or a count no integer from 0 to 2^53 - 1
 *   MSC4203_E_TOO_LARGE     a name is longer than 64 bytes
 *   MSC4203_E_SYNTAX, MSC4203_E_UTF8, MSC4203_E_TRUNCATED
 *                           the content is no valid JSON, and so did not come from a reader
 * An error, and MSC4203_END, are returned again by every later call. */
MSC4203_API int msc4203_algorithms_next(msc4203_algorithms *algorithms, msc4203_span *name,
                                        uint64_t *count);
#endif /* MSC4203_NO_READER */

/* ------------------------------------------------------------------------------------------------
 * Writer
 * --------------------------------------------------------------------------------------------- */

/* An object USER -> DEVICE -> content, or one in it, that is being written. */
struct msc4203_writer_object {
    size_t begin, max; /* where it begins; where its greatest key is, or 0 */
};

/* Where a writer is in the body; what an item that does not fit leaves as it was. */
struct msc4203_writer_place {
    uint16_t seen;                         /* kinds that have been written */
    const struct msc4203_writer_kind *row; /* whose list is open, if one is */
    size_t used;                           /* bytes written */
    size_t tail, reserve;                  /* kept free: for what closes the body; by the caller */
    size_t sender, type;                   /* where the sender and the type of an EDU are */
    size_t user;                           /* where the user now being written is, or 0 */
    size_t user_len;
    uint32_t user_hash;
    struct msc4203_writer_object users, devices;
};

struct msc4203_writer_state {
    uint8_t shape, flags, open, least; /* least: bytes of a body without items */
    int8_t error;
    const struct msc4203_writer_shape *has; /* what the shape has */
    char *buffer;
    size_t room, needed;
    struct msc4203_writer_place at;
    msc4203_json json;
};

/* The state of writing one body. Treat `priv` as private. */
typedef struct msc4203_writer {
    struct msc4203_writer_state priv;
} msc4203_writer;

#ifndef MSC4203_NO_WRITER
/* Begins to write a body into `capacity` bytes at `buffer`, which must live until the body has been
 * used. `shape` is one of MSC4203_TRANSACTION, MSC4203_SEND, MSC4203_EDU and MSC4203_SYNC, `flags`
 * one of enum msc4203_writing. With a NULL `buffer` nothing is written, everything is counted, and
 * `capacity` is ignored.
 *
 * May be called at any time, to begin another body.
 *
 * Returns MSC4203_OK; MSC4203_E_USAGE for an unknown shape or flag; MSC4203_E_FULL when not even an
 * empty body fits. The errors stick. */
MSC4203_API int msc4203_writer_begin(msc4203_writer *writer, int shape, unsigned flags,
                                     void *buffer, size_t capacity);

/* Keeps `bytes` of the capacity free for an MSC4203_NEXT_BATCH or MSC4203_MESSAGE_ID item that is
 * to come last: at most 17 and six times the id's length, when nothing is known of the id.
 *
 * Returns MSC4203_OK; MSC4203_E_FULL when there is no such room, and then nothing is kept;
 * MSC4203_E_USAGE when the body has not been begun, or has been ended. */
MSC4203_API int msc4203_writer_reserve(msc4203_writer *writer, size_t bytes);

/* Writes one item. Looks at what its kind and the shape have: MSC4203_SEND needs no sender and
 * type, MSC4203_SYNC no user_id and device_id. The item and its spans need not live longer than the
 * call.
 *
 * Returns MSC4203_OK, or an error, and then nothing has been written:
 *   MSC4203_E_FULL             it does not fit; does not stick: a smaller item may be tried
 *   MSC4203_E_ORDER, MSC4203_E_KIND, MSC4203_E_SECOND
 *                              the body has no place for it, or no more
 *   MSC4203_E_FIELD_MISSING    a field that is needed has a NULL `ptr`
 *   MSC4203_E_FIELD_TYPE       the content is no object (of fallback types: no array)
 *   MSC4203_E_SYNTAX, MSC4203_E_UTF8, MSC4203_E_TRUNCATED
 *                              the content is not one valid JSON text, or a string not valid UTF-8
 *   MSC4203_E_TOO_DEEP, MSC4203_E_SURROGATE, MSC4203_E_NUMBER
 *                              the content is valid, but poison for some receivers
 *   the item's own `error`     it is an unusable item from a reader
 *   MSC4203_E_USAGE            the body has not been begun, or has been ended; or the item's
 *                              `error` is none */
MSC4203_API int msc4203_writer_item(msc4203_writer *writer, const msc4203_item *item);

/* Ends the body. There is always room for it. *bytes, if not NULL, is then the body's length.
 *
 * Returns MSC4203_OK; MSC4203_E_FIELD_MISSING when an EDU has no message_id or a /sync response no
 * next_batch yet: the item may still be written; MSC4203_E_USAGE when no body has been begun; or
 * the first error since msc4203_writer_begin().
 */
MSC4203_API int msc4203_writer_end(msc4203_writer *writer, size_t *bytes);

/* After MSC4203_E_FULL: returns the capacity with which the refused item would have fit and the
 * body could have been ended. */
MSC4203_API size_t msc4203_writer_needed(const msc4203_writer *writer);

/* Forgets an error that sticks, and returns it. What was refused has left no trace, so a caller who
 * leaves such items out may go on. MSC4203_E_USAGE, and what msc4203_writer_begin() returned, can't
 * be forgotten. */
MSC4203_API int msc4203_writer_clear(msc4203_writer *writer);
#endif /* MSC4203_NO_WRITER */

/* ------------------------------------------------------------------------------------------------
 * Queue: what a server implements to keep messages in its own storage, and route()
 * --------------------------------------------------------------------------------------------- */

/* A message waits for a set of channels, bits of a uint32_t: when it has been delivered on one,
 * that one is taken out of its set, and when the set is empty, the message is gone. */
enum msc4203_channel {
    MSC4203_CHANNEL_SYNC = 0,    /* the device's own /sync */
    MSC4203_CHANNEL_FIRST = 1,   /* 1 to 30: an application service each, by name */
    MSC4203_CHANNEL_PARKED = 31, /* refused by an application service: for an operator to look at */
    MSC4203_CHANNELS = 32
};

/* A device of a local user. */
typedef struct msc4203_device {
    msc4203_span user_id, device_id;
} msc4203_device;

/* What a request is known by when it is repeated: two digests that nobody can choose at will (of a
 * hash with a secret key, or a cryptographic one). `who` is of the sender (its user and device; an
 * application service; a federation origin), `what` of the rest (the full path with its txnId, a
 * message_id). All zero: the request has no id, and is never taken for a repeated one. */
typedef struct msc4203_request {
    uint8_t who[8], what[8];
} msc4203_request;

/* A message in a queue. To msc4203_queue's push() goes what is marked with a star. */
typedef struct msc4203_message {
    uint64_t number;    /* its sequence number: from 1 to 2^48 - 1 */
    uint64_t time_ms;   /* * when it was accepted, milliseconds since 1970 */
    uint32_t channels;  /* * what it waits for: bits of enum msc4203_channel */
    uint32_t bytes;     /* of memory that its strings need */
    uint32_t delivered; /* the bit of MSC4203_CHANNEL_SYNC, when /sync has had it; or 0 */
    msc4203_item item;  /* * sender, type, user_id, device_id, content; `kind` is told */
} msc4203_message;

/* What a queue holds. */
typedef struct msc4203_counts {
    uint64_t messages;      /* that wait for the channel (and device) asked for */
    uint64_t bytes;         /* that they take, with all that belongs to them */
    uint64_t first;         /* number of the oldest, 0 when there is none; of a device: of the
                               oldest that waits for its /sync */
    uint64_t time_ms;       /* when that was accepted; of MSC4203_CHANNEL_SYNC without a device: the
                               queue's last time, the newest with which a message was ever
                               accepted, less at most 1,023 */
    uint64_t through;       /* what is in flight on the channel: numbers up to this; of
                               MSC4203_CHANNEL_SYNC: the highest number that is visible, or may
                               have been before */
} msc4203_counts;

/* A queue: the functions by which this library, and a server, use it. Fill one in for your own
 * storage, or let msc4203_log_queue() do it.
 *
 * For all functions. `context` is passed on. Strings and structs need not live longer than the
 * call. Every function can return MSC4203_E_STORAGE: the storage has failed, and what the call
 * should have done is not done; the queue MAY then refuse everything until it is opened anew, but
 * MUST NOT lose what was accepted. MSC4203_E_USAGE is a mistake in the calling program (a channel
 * that is none, a batch that is not open). Any other error leaves everything as it was.
 *
 * Numbers. Each message gets a sequence number when its batch is committed, those of a batch in one
 * run. Numbers only grow; none MUST ever be given twice, not after a crash, and not if a commit was
 * lost in it. A message is visible (to next, count, done) only when it is durable, and never before
 * all messages with lower numbers are visible, or will never be.
 *
 * Power loss. What a flush() that returned MSC4203_OK covered stays. What came after it is there
 * whole or not at all, call by call. Nothing ever comes back that was taken out and flushed.
 *
 * Threads. A queue over a database may serve several threads and processes at once, then numbering
 * MUST be serialised with the commit. msc4203_log serves one thread at a time (one lock around its
 * calls is enough), and one process. */
typedef struct msc4203_queue {
    uint32_t version; /* MSC4203_QUEUE_VERSION: a caller MUST refuse a greater one; fields are only
                         appended */
    void *context;

    /* Begins a batch: messages that are kept together or not at all. Several may be open at once.
     * Nothing is held up by an open batch, but a queue of fixed size MAY give up one that stays
     * open very long, or when it has to mend damage: push and commit then return MSC4203_E_BATCH.
     *
     * Returns MSC4203_OK and *batch, a handle other than 0; MSC4203_E_QUEUE_FULL when too many are
     * open. */
    int (*begin)(void *context, uint32_t *batch);

    /* Puts a message into a batch. MUST keep it for each channel in its set, which MUST NOT be
     * empty; MUST pass on its content byte for byte. The device need not be known before.
     *
     * Returns MSC4203_OK; MSC4203_E_QUEUE_FULL or MSC4203_E_QUOTA when there is no room: the batch
     * can then only be aborted (whoever sent it tries again later; HTTP 429); MSC4203_E_TOO_LARGE
     * when it will never fit; MSC4203_E_BATCH. */
    int (*push)(void *context, uint32_t batch, const msc4203_message *message);

    /* Ends a batch and gives its messages their numbers, *first and the following ones. They become
     * visible with the next flush().
     *
     * Returns MSC4203_OK; MSC4203_KNOWN when the same request was committed before, by another
     * batch maybe while this one was open: nothing of this one is kept (answer the request as if it
     * had been, but only after a flush()); or an error of push(), and then nothing is kept. The
     * batch is closed, whatever is returned. */
    int (*commit)(void *context, uint32_t batch, const msc4203_request *request, uint64_t *first);

    /* Ends a batch and forgets its messages. */
    int (*abort)(void *context, uint32_t batch);

    /* Tells whether a request was committed. A queue MUST know the last N requests, N being stated
     * where it is made, also after a restart.
     *
     * Returns MSC4203_KNOWN (answer only after a flush()), or MSC4203_OK when it is not known. */
    int (*known)(void *context, const msc4203_request *request);

    /* Makes durable, at once, all that was done before the call. The one function that waits for a
     * disk: see THE QUEUE in the manual for how an event loop lives with that. */
    int (*flush)(void *context);

    /* Finds the first visible message with a number greater than `after` that waits for `channel`;
     * with a `device`, of that device only: it MUST be given for MSC4203_CHANNEL_SYNC, and MUST be
     * NULL for all others. Its strings are put into `memory`, of `bytes` bytes, and are valid until
     * that is used again. MUST NOT change anything.
     *
     * Returns MSC4203_ITEM; MSC4203_END when there is none; MSC4203_E_TOO_LARGE when `memory` is
     * too small: all but the strings is told, and in `bytes` what is needed; MSC4203_E_DAMAGED when
     * the storage no longer holds what it was given: message->number tells which; ask for the next
     * one after it (0 when that is not known either). */
    int (*next)(void *context, uint32_t channel, const msc4203_device *device, uint64_t after,
                void *memory, size_t bytes, msc4203_message *message);

    /* Takes `channel` out of all its messages with numbers up to `through` (of the `device`, which
     * is given as for next()). With a `record`, that replaces the channel's record, as if by
     * hold(), in the same step, which a crash MUST NOT split (but for MSC4203_CHANNEL_SYNC, of
     * which the older messages may be taken and the newer ones not). Numbers that are not visible
     * yet are not taken. MUST NOT fail for lack of room, unless it brings the first record of a
     * channel that has no name and never had a message.
     *
     * Returns MSC4203_OK, also when nothing waited; MSC4203_E_TOO_LARGE when `record` has more than
     * 4,096 bytes; MSC4203_E_QUEUE_FULL in the case above. */
    int (*done)(void *context, uint32_t channel, const msc4203_device *device, uint64_t through,
                const msc4203_span *record);

    /* Says that the channel's messages with numbers up to `through` are in flight: they stay,
     * whatever happens, until done() or move() takes them out. Replaces the channel's record (at
     * most 4,096 bytes; the state of whoever delivers on it) in the same step. Those that a lower
     * `through` lets go of are taken out, if they were of a device that was dropped meanwhile.
     *
     * Returns MSC4203_OK; MSC4203_E_TOO_LARGE; MSC4203_E_QUEUE_FULL when there is no room for the
     * first record of a channel that has no name and never had a message. */
    int (*hold)(void *context, uint32_t channel, uint64_t through, const msc4203_span *record);

    /* Takes message `number` out of `channel` (and `device`, as for next()) and, if `channels` is
     * not empty, puts it into those under a new number, in one step: for a change-over, and for
     * parking. What is moved away from /sync does not count as delivered there. The other channels
     * that it waits for keep it under its old number. What was moved becomes visible under its new
     * number with the next flush(), and counts as new to drop() too.
     *
     * Returns MSC4203_OK and, if `moved` is not NULL, its new number in *moved (0 if there is
     * none); MSC4203_END when that message does not wait there; MSC4203_E_QUEUE_FULL;
     * MSC4203_E_DAMAGED. */
    int (*move)(void *context, uint32_t channel, const msc4203_device *device, uint64_t number,
                uint32_t channels, uint64_t *moved);

    /* Takes out all that waits for a device, for whatever channel, but for what is in flight (and
     * that, too, when hold() lets go of it); with a `who` that is not NULL, forgets that sender's
     * requests too. A device that is made later under the same name never gets an earlier one's
     * messages. */
    int (*drop)(void *context, const msc4203_device *device, const uint8_t *who);

    /* Takes MSC4203_CHANNEL_SYNC out of each device's visible messages, from its oldest one to the
     * first that was accepted at `before_ms` or later. *expired, if not NULL, tells how many there
     * were. A crash may leave it done in part. It believes what it is told: msc4203_expire() looks
     * at the clock first. */
    int (*expire)(void *context, uint64_t before_ms, uint64_t *expired);

    /* Finds the channel of the application service `name` (its id: 1 to 255 bytes); if there is
     * none and `make` is not 0, gives it one that nothing waits for.
     *
     * Returns MSC4203_OK and *channel; MSC4203_END when it has none; MSC4203_E_QUEUE_FULL when all
     * are in use. */
    int (*channel)(void *context, const msc4203_span *name, int make, uint32_t *channel);

    /* Gives back a channel, with its record.
     *
     * Returns MSC4203_OK; MSC4203_E_BUSY when a message waits for it, or may do so yet. */
    int (*release)(void *context, uint32_t channel);

    /* Tells a channel's name and record; they are put into `memory`, of `bytes` bytes (4,352 are
     * always enough). Either of `name` and `record` may be NULL.
     *
     * Returns MSC4203_OK; MSC4203_END when the channel has no name and no record;
     * MSC4203_E_TOO_LARGE. */
    int (*record)(void *context, uint32_t channel, void *memory, size_t bytes, msc4203_span *name,
                  msc4203_span *record);

    /* Tells an opening: 0 is this one, 1 the one before, and so on, at least as many as were stated
     * where the queue was made. An opening is known by 64 random bits, and by the first number that
     * could be given out in it.
     *
     * Returns MSC4203_OK, *random and *first; MSC4203_END when there are no more. */
    int (*opening)(void *context, uint32_t back, uint64_t *random, uint64_t *first);

    /* Counts what waits for a channel (MSC4203_CHANNEL_SYNC without a device: for all of them; with
     * a device: what waits for it on any channel). What is not flushed yet may be counted already.
     * The queue's last time MUST outlive the messages, and a restart. */
    int (*count)(void *context, uint32_t channel, const msc4203_device *device,
                 msc4203_counts *counts);
} msc4203_queue;

#define MSC4203_QUEUE_VERSION 1

/* A keyed digest of 128 bits (HalfSipHash-2-4, with twice its longest output): without the key
 * nobody can make two inputs that meet. For request ids, say. Treat `priv` as private. */
typedef struct msc4203_digest {
    struct {
        uint32_t v[4], word, bytes;
    } priv;
} msc4203_digest;

/* Begins a digest with a key of 64 bits. */
MSC4203_API void msc4203_digest_init(msc4203_digest *digest, uint64_t key);

/* Adds bytes. Where they are cut makes no difference: add a length, or a byte that cannot occur,
 * between strings. */
MSC4203_API void msc4203_digest_add(msc4203_digest *digest, const void *data, size_t bytes);

/* Ends a digest. */
MSC4203_API void msc4203_digest_end(msc4203_digest *digest, unsigned char out[16]);

/* An application service, as route() sees it. */
typedef struct msc4203_appservice {
    uint32_t channel;         /* from queue->channel() */
    int opted_in;             /* whether it gets its to-device messages in transactions */
    msc4203_span sender;      /* full user id of its sender_localpart; counts as exclusive */
    const void *context;      /* the caller's own: its namespaces */
} msc4203_appservice;

/* How a user stands to an application service. */
enum msc4203_namespace { MSC4203_OUTSIDE = 0, MSC4203_INCLUSIVE = 1, MSC4203_EXCLUSIVE = 2 };

/* Tells whom a message for a device waits for (MSC4203, "deletion"; the manual has the table).
 *
 * `services` are all application services. `user_id` is the recipient, a local user. `maker` is the
 * one that made the recipient's device (by application service login, or MSC4190), as an index into
 * `services`; any greater number when none did. `match` tells how a user stands to a service's
 * namespaces, one of enum msc4203_namespace; it is called once at most for each service that has
 * opted in, and not for its sender user.
 *
 * Returns a set of channels, never an empty one. */
MSC4203_API uint32_t msc4203_route(const msc4203_appservice *services, size_t count,
                                   const msc4203_span *user_id, size_t maker,
                                   int (*match)(const msc4203_appservice *service,
                                                const msc4203_span *user_id));

/* ------------------------------------------------------------------------------------------------
 * Log: the queue that comes with the library
 * --------------------------------------------------------------------------------------------- */

/* A region of fixed size that holds a log: memory, a file, a flash chip. Each function returns 0,
 * or anything else after a failure. `read` MUST return what was written last. `write` MAY keep
 * bytes in a cache until `sync`: if the power fails first, each sector that has them may hold the
 * old bytes, the new ones, a part of them, or garbage. When `sync` has returned 0, all that was
 * written before it MUST stay, unless a later write or erase touches the same sector.
 *
 * The log writes whole sectors, in ascending order within a segment, and each sector once between
 * two erases. A sector that holds anything durable is never written again until its segment is
 * erased, or, without `erase`, begun anew. */
typedef struct msc4203_storage {
    uint32_t version;   /* 1 */
    void *context;      /* passed on */
    uint64_t bytes;     /* of the region */
    uint32_t sector;    /* bytes that a power failure can damage together: 1 for memory, a multiple
                           of 16 for anything else; 0 stands for 4,096 */
    uint32_t block;     /* bytes that are erased together, a multiple of `sector`; 0: the storage
                           need not be erased before it is written */
    unsigned char *memory; /* the region, when it is memory; else NULL. The log then uses it
                              directly, and calls none of the functions */
    int (*read)(void *context, uint64_t at, void *data, size_t bytes);
    int (*write)(void *context, uint64_t at, const void *data, size_t bytes); /* NULL: read-only */
    int (*sync)(void *context);
    int (*erase)(void *context, uint64_t at, size_t bytes); /* one block; if `block` is not 0 */
} msc4203_storage;

/* How a log is made. Zeros stand for the defaults. */
typedef struct msc4203_log_config {
    uint32_t messages;      /* that can wait at a time: one for each 512 bytes of the region, at
                               least 64 and at most 1,700,000 */
    uint32_t devices;       /* that can have waiting messages at a time: 1,024, and at most one for
                               each message; at most 500,000 */
    uint32_t requests;      /* that are remembered: what a sixteenth of the region holds, at most
                               4,096 */
    uint32_t openings;      /* that are remembered: 1,000, and at most what a 128th holds */
    uint32_t message_bytes; /* of the largest message, ids included: 73,728, and at most an eighth
                               of the region; at most 130,000 */
    uint32_t sector;        /* bytes that a power failure can damage together, if that is more than
                               the storage says */
    uint64_t bytes;         /* set by msc4203_log_inspect(): of the region; else ignored */
} msc4203_log_config;

/* What a log keeps in the caller's memory: see the implementation. */
struct msc4203_log_segment {
    uint32_t sequence; /* 0: there is nothing in it */
    uint32_t salt;     /* of the opening in which it was written */
    uint32_t end;      /* units in use */
    uint32_t live;     /* units of it that are still needed: messages, channel records */
    uint32_t request, opening; /* the last that were written to it, as counted in the log */
};

struct msc4203_log_channel {
    uint32_t count, units;     /* of what waits for it */
    uint32_t done[2];          /* the number up to which it is taken out */
    uint32_t position;         /* of its record; 0: none */
};

struct msc4203_log_batch {
    uint32_t state, first, last, count; /* its messages, as entries */
    uint32_t time, turn;
};

struct msc4203_log_device {
    uint32_t hash[2];
    uint32_t next;             /* of the same bucket; of those that are free */
    uint32_t count, pending;   /* messages that wait; that are in open batches */
    uint32_t units;            /* of all these */
    uint32_t chain[4];
};

struct msc4203_log_entry {
    uint32_t place, number, link, device, channels;
};

struct msc4203_log_group {
    uint32_t channels, segments;
};

struct msc4203_log_item {
    uint32_t word[4];
};

struct msc4203_log_state {
    const msc4203_storage *storage;
    struct msc4203_log_segment *segment;
    struct msc4203_log_channel *channel;
    struct msc4203_log_batch *batch;
    uint32_t *held;                     /* of each channel, a number: in flight up to this */
    struct msc4203_log_item *item[2];   /* requests, openings */
    uint32_t *request_next, *request_head, *device_head;
    struct msc4203_log_device *device;
    struct msc4203_log_group *group;
    struct msc4203_log_entry *entry;
    unsigned char *buffer;
    uint64_t buffer_at;                 /* bytes from the region's beginning */
    uint64_t next, settled;             /* the next number; numbers below are visible */
    uint64_t highest, gap;              /* while the log is read: the greatest number so far; those
                                           that are missing begin at `gap`, */
    uint32_t gap_left;                  /* and how many they are */
    uint32_t key[2];
    /* how the log was made */
    uint32_t messages, devices, message_bytes, message_units, record_max, sector;
    uint32_t items[2];                  /* requests and openings that are remembered */
    uint32_t segments, segment_units, shift;
    /* memory */
    uint32_t buffer_bytes, buffer_used, buffer_clean, entries, request_mask, device_mask;
    /* the end of the log */
    uint32_t sequence, current, end, durable, fill;
    uint32_t oldest, safe, stated, unused, free; /* sequence numbers; how many are free */
    uint32_t salt, previous_salt, previous, previous_end, previous_durable, image_end;
    uint32_t opening_first;
    uint32_t header_oldest, bare;       /* bare: of a segment that counts for nothing; 0: none */
    uint32_t counter[2], slot[2];       /* of requests and openings so far; where the last is */
    uint32_t time;                      /* the last one, in units of 1,024 ms */
    /* the index */
    uint32_t used, waiting, pool, pool_free, pending; /* entries */
    uint32_t pack_to, pack_from;
    uint32_t devices_used, device_free;
    uint32_t live, largest, damaged;
    uint32_t damaged_channels;          /* whose records were found so, and counted */
    uint32_t roomed;                    /* channels for whose records room is kept */
    uint32_t low, free_min, clean_segment, clean_entry, clean_unit, clean_first, clean_items;
    uint32_t channel_units_max;
    int32_t debt;
    uint32_t channel_units, device_units; /* quotas */
    uint8_t phase, error, empty;
};

/* A log. Treat `priv` as private. */
typedef struct msc4203_log {
    struct msc4203_log_state priv;
} msc4203_log;

#ifndef MSC4203_NO_LOG
/* Returns how many bytes of memory a log with this configuration needs on this storage: the buffer
 * for msc4203_log_open(). 24 for each message that may wait, 40 for each device, 24 for each
 * request, 16 for each opening that is remembered, a buffer of at least one sector, and 3 KiB. 0
 * when the region is too small or too large (8 GiB) for the configuration. `log` is used only
 * during the call. */
MSC4203_API size_t msc4203_log_memory(msc4203_log *log, const msc4203_storage *storage,
                                      const msc4203_log_config *config);

/* Makes an empty log in a region; what was in it is lost. `config` may be NULL, for the defaults.
 * `memory`, of `bytes` bytes, is used only during the call: one sector, or 512 bytes where that is
 * more. `log` is also used only during the call. `random` are 64 random bits, which stay secret.
 *
 * After power loss there is the new log, and it is empty; or no log; or what was there before,
 * which may be damaged.
 *
 * Returns MSC4203_OK; MSC4203_E_REGION when the region is too small for the configuration, or too
 * large, or the sizes of sector and block do not fit; MSC4203_E_INDEX when the memory is too small;
 * MSC4203_E_STORAGE. */
MSC4203_API int msc4203_log_format(msc4203_log *log, const msc4203_storage *storage,
                                   const msc4203_log_config *config, void *memory, size_t bytes,
                                   uint64_t random);

/* Reads the configuration with which the log in a region was made, and so how much memory opening
 * it needs. `log` is used only during the call.
 *
 * Returns MSC4203_OK; MSC4203_E_FORMAT when there is no log, or one of a later version;
 * MSC4203_E_REGION when the log was made for a region of another size, of config->bytes bytes;
 * MSC4203_E_STORAGE. */
MSC4203_API int msc4203_log_inspect(msc4203_log *log, const msc4203_storage *storage,
                                    msc4203_log_config *config);

/* Opens the log in a region. `memory`, aligned as for a uint32_t and of `bytes` bytes, and
 * `storage` must live as long as the log is used. More memory than msc4203_log_memory() asks for is
 * used to write and read in larger pieces. `random` are 64 random bits, by which this opening is
 * known from now on. May be called at any time, also after an error, to open a log anew.
 *
 * After power loss at any moment, in this function too, the log is as the last completed flush left
 * it; of what came later each call is there whole or not at all, none without those before it.
 *
 * If the storage has no `write`, the log can only be read: nothing is changed, all that could be
 * read is visible, and whatever would change the queue returns MSC4203_E_STORAGE.
 *
 * Returns MSC4203_OK; MSC4203_E_INDEX when `memory` is too small; the errors of
 * msc4203_log_inspect(). */
MSC4203_API int msc4203_log_open(msc4203_log *log, const msc4203_storage *storage, void *memory,
                                 size_t bytes, uint64_t random);

/* Limits the bytes that may wait for one channel (but /sync), and for one device. 0, as after
 * opening: no limit. A push beyond that returns MSC4203_E_QUOTA. */
MSC4203_API void msc4203_log_quotas(msc4203_log *log, uint64_t channel_bytes,
                                    uint64_t device_bytes);

/* Returns the 64 random bits that the log was made with: a secret that stays the same as long as
 * the log, for the digests of requests. */
MSC4203_API uint64_t msc4203_log_key(const msc4203_log *log);

/* Flushes a log and writes its index to the storage, so that it is opened fast; open batches are
 * given up. Not needed for anything else. The log can then only be opened anew. */
MSC4203_API int msc4203_log_close(msc4203_log *log);

/* Fills in a queue that works on this log, which must live as long as the queue is used. */
MSC4203_API void msc4203_log_queue(msc4203_log *log, msc4203_queue *queue);

/* How full a log is, and what of it was found to be damaged since it was opened. */
typedef struct msc4203_log_usage {
    uint64_t messages, messages_max; /* that wait, and that can wait */
    uint64_t used, capacity; /* bytes that messages take, and can take */
    uint64_t devices;        /* with waiting messages */
    uint64_t damaged;        /* records, and stretches between records, that could not be read */
} msc4203_log_usage;
MSC4203_API void msc4203_log_usage_get(const msc4203_log *log, msc4203_log_usage *usage);

/* Calls `see` for each message that waits in an open log, in the order of their numbers; a result
 * of `see` other than 0 ends it. A message's strings are in `memory`, of `bytes` bytes; `error`
 * is MSC4203_OK, or MSC4203_E_DAMAGED (the strings are then empty), or MSC4203_E_TOO_LARGE when the
 * memory is too small for them. `at` is the message's place in the region, in bytes. `see` MUST NOT
 * change the queue. Unlike next() it goes through all channels and devices: for tools.
 *
 * Returns MSC4203_OK, MSC4203_E_STORAGE, or what `see` returned. */
MSC4203_API int msc4203_log_scan(msc4203_log *log, void *memory, size_t bytes,
                                 int (*see)(void *context, const msc4203_message *message,
                                            uint64_t at, int error),
                                 void *context);

/* Storage in memory: `bytes` bytes at `memory`, aligned to 4 bytes. */
MSC4203_API void msc4203_memory_storage(msc4203_storage *storage, void *memory, uint64_t bytes);

#if !defined(MSC4203_NO_FILE) && (defined(MSC4203_FILE) || !defined(MSC4203_STATIC))
/* Storage in a file, of POSIX systems. Compiled by msc4203.c, and by this header where MSC4203_FILE
 * is defined (then with _POSIX_C_SOURCE 200809L, but not on macOS and the BSDs, where that hides
 * the right kind of lock; and with _FILE_OFFSET_BITS 64 on 32-bit systems). */
typedef struct msc4203_file {
    struct {
        int fd, error;
        msc4203_log log;             /* for making one */
        unsigned char buffer[2048];  /* the same */
        char name[1024];
    } priv;
} msc4203_file;

/* Makes a file of `bytes` bytes with an empty log in it: mode 0600, all its blocks allocated. It is
 * made beside `path`, as PATH.new, and takes its name when it is whole and durable; what had that
 * name is replaced. Whether a log of this size can be is checked before anything is written. After
 * a failure nothing of it stays. (After a crash PATH.new may stay; the next call replaces it.)
 * `config` and `random` as for msc4203_log_format(), with sectors of 4,096 bytes unless config says
 * more. `file` is used only during the call.
 *
 * A large file takes minutes. A program that can be asked to end meanwhile blocks SIGTERM and
 * SIGINT (sigprocmask) during the call: when one of them is pending, and 4 MiB at most have been
 * written since, the call ends with MSC4203_E_STORAGE, errno is EINTR, and nothing stays.
 *
 * Returns MSC4203_OK; the errors of msc4203_log_format(); MSC4203_E_LOCKED when somebody else is
 * making it; MSC4203_E_STORAGE, and errno says why. */
MSC4203_API int msc4203_file_create(msc4203_file *file, const char *path, uint64_t bytes,
                                    const msc4203_log_config *config, uint64_t random);

/* Opens a file as a storage with sectors of 4,096 bytes, and locks it against other openings, in
 * this process too. (A child process shares the lock until it closes the descriptor or executes
 * another program.) `writable` 0: only for reading, and not locked; the storage has no `write`. A
 * file that is cut short while it is open reads as if it ended in zeros. After a failed write or
 * sync nothing works until the file is opened anew. `file` must live as long as the storage is
 * used. (What the file's size should be is for msc4203_log_inspect() to say.)
 *
 * Returns MSC4203_OK; MSC4203_END when there is no such file; MSC4203_E_LOCKED; MSC4203_E_STORAGE,
 * and errno says why. */
MSC4203_API int msc4203_file_open(msc4203_file *file, const char *path, int writable,
                                  msc4203_storage *storage);

/* Closes the file. What was not synced may be lost with the power, as always.
 *
 * Returns MSC4203_OK; MSC4203_E_STORAGE when closing, or any write or sync before it, failed. */
MSC4203_API int msc4203_file_close(msc4203_file *file);
#endif /* MSC4203_NO_FILE */
#endif /* MSC4203_NO_LOG */

/* ------------------------------------------------------------------------------------------------
 * Delivery: sender, receiver, sync. State machines that do no I/O and have no clock.
 * --------------------------------------------------------------------------------------------- */

/* A transaction, as its sender gives it out. */
typedef struct msc4203_transaction {
    char id[48];           /* its txnId: NUL-terminated, safe in a URL; no service gets one twice */
    char path[80];         /* to which it is sent with PUT, below the appservice's URL */
    uint64_t bytes;        /* of the body: its Content-Length */
    uint64_t first, last;  /* numbers of its first and last message */
    uint32_t count;        /* of its messages */
    uint32_t attempt;      /* counts from 1; not kept over a restart */
} msc4203_transaction;

/* What a sender's trace() is told of. */
enum msc4203_trace {
    MSC4203_TRACE_MADE = 1,      /* a transaction was made */
    MSC4203_TRACE_RESUMED = 2,   /* one was in flight when the sender was started */
    MSC4203_TRACE_SENT = 3,      /* an attempt begins */
    MSC4203_TRACE_DELIVERED = 4, /* it was acknowledged */
    MSC4203_TRACE_FAILED = 5,    /* the attempt failed, with this status */
    MSC4203_TRACE_LEGACY = 6,    /* 404 or 405: the same again to the other path */
    MSC4203_TRACE_SPLIT = 7,     /* 413: its messages will be sent in smaller transactions */
    MSC4203_TRACE_PARKED = 8,    /* a message cannot be sent, or was refused alone: it is parked */
    MSC4203_TRACE_SKIPPED = 9,   /* msc4203_sender_skip() */
    MSC4203_TRACE_DAMAGED = 10   /* what was in flight can't be read as it was: cut anew */
};

/* How a sender works. Zeros stand for the defaults. */
typedef struct msc4203_sender_config {
    uint32_t channel;      /* the application service's, from queue->channel() */
    uint32_t flags;        /* keys: of enum msc4203_writing */
    uint32_t messages_max; /* in a transaction: 100 */
    uint32_t bytes_max;    /* of a transaction's body, but one message at the least: 1,000,000 */
    uint32_t retry_ms_min; /* the wait after a failure: 1,000; after each further one twice that, */
    uint32_t retry_ms_max; /* but never longer than this: 512,000 */
    void *context;         /* passed on to the two functions */

    /* If not NULL: adds to a new transaction what goes along with its messages (MSC3202: device
     * lists, key counts and fallback types of the recipients). It is called for each message, with
     * a NULL `writer`, and then once with a NULL `message` and a writer that takes items of all
     * kinds but MSC4203_TO_DEVICE: at most 4,000 bytes, kept with the transaction; when it wants
     * more, the transaction goes without. It MUST NOT call the queue or the sender. */
    void (*siblings)(void *context, const msc4203_message *message, msc4203_writer *writer);

    /* If not NULL: sees each decision; `status` is the HTTP status that led to it, or 0. */
    void (*trace)(void *context, int what, const msc4203_transaction *transaction, int status);
} msc4203_sender_config;

/* What a sender has done since it was started. */
typedef struct msc4203_sender_status {
    uint64_t delivered, parked;      /* messages */
    uint64_t transactions, failures; /* acknowledged; attempts that failed */
    uint64_t bytes;                  /* of acknowledged bodies */
    uint64_t damaged;                /* messages that could not be read any more */
    uint64_t failing_since_ms;       /* when the transaction that fails was made, also before a
                                        restart; 0 when it does not fail */
    uint32_t attempts;               /* of the transaction in flight that failed */
    int last_status;                 /* of the last attempt */
    const msc4203_transaction *in_flight; /* NULL when there is none */
} msc4203_sender_status;

struct msc4203_sender_state {
    const msc4203_queue *queue;
    msc4203_sender_config config;
    msc4203_transaction transaction;
    msc4203_sender_status status;
    uint64_t opening;
    uint64_t wait_from, legacy_from; /* when it began to wait; to use the other path */
    uint64_t made;                   /* when the transaction was made */
    uint64_t number, begin;          /* the message read last, and where its part of the body is */
    msc4203_message message;         /* being worked on, and written */
    msc4203_writer writer;
    uint32_t wait;
    uint8_t state, flags, halvings, cut, legacy, dirty, easy;
};

/* A sender: delivers what waits for one application service (a homeserver's side of PUT
 * /transactions/{txnId}). Treat `priv` as private. */
typedef struct msc4203_sender {
    struct msc4203_sender_state priv;
} msc4203_sender;

#ifndef MSC4203_NO_DELIVERY
/* Starts a sender. The queue must live as long as the sender; `config` is copied. `memory`, of
 * `bytes` bytes, is only worked with, here and in the calls below: one buffer serves all senders of
 * a thread. It must hold the largest message twice, and 4,672 bytes.
 *
 * A transaction that was in flight is taken up: it will be sent again, under its id, byte for byte
 * the same. (One queue must not have two senders for a channel.)
 *
 * Returns MSC4203_OK; an error of the queue; MSC4203_E_USAGE for a channel that is none, or
 * MSC4203_E_INDEX when the memory is too small. */
MSC4203_API int msc4203_sender_init(msc4203_sender *sender, const msc4203_queue *queue,
                                    const msc4203_sender_config *config, uint64_t now_ms,
                                    void *memory, size_t bytes);

/* Tells what is to be done. Call it after each flush of the queue, after each answer, and when the
 * time that it told has come. `now_ms` are milliseconds since 1970; a clock that jumps does no
 * harm. When it makes a transaction it flushes the queue, so that the record of what is in it is
 * durable before its first byte goes out.
 *
 * Returns
 *   MSC4203_REQUEST  send *transaction: PUT its path with its body, from msc4203_sender_read();
 *                    then call msc4203_sender_result(). It is valid until then.
 *   MSC4203_WAIT     call again in *wait_ms milliseconds
 *   MSC4203_IDLE     nothing waits, or it is being sent: call again when that changes
 *   an error of the queue; MSC4203_E_TOO_LARGE or MSC4203_E_INDEX when a message does not fit into
 *   the memory: nothing is lost, but nothing goes out either until there is more */
MSC4203_API int msc4203_sender_poll(msc4203_sender *sender, uint64_t now_ms, void *memory,
                                    size_t bytes, const msc4203_transaction **transaction,
                                    uint64_t *wait_ms);

/* Reads bytes of the body of the transaction in flight, from `at` on, to `data`: as many as fit,
 * *got of them, fewer only at the body's end. Reading onwards is fast; reading again from an
 * earlier place is possible (a connection broke) and gives the same bytes.
 *
 * Returns MSC4203_OK; MSC4203_E_USAGE when nothing is in flight; MSC4203_E_DAMAGED when the queue
 * no longer holds what it was given: break the request off, and report the status 0; an error of
 * the queue. */
MSC4203_API int msc4203_sender_read(msc4203_sender *sender, uint64_t at, void *memory,
                                    size_t bytes, void *data, size_t capacity, size_t *got);

/* Reports how an attempt has ended: with the HTTP `status` of an answer that was received to its
 * end, or with 0 when there was none (no connection; it broke; it took too long). `random` is any
 * random number, for the length of the wait. What it does to the queue becomes durable with the
 * next flush.
 *
 *   2xx       acknowledged: the messages are taken out, whatever the answer's body says
 *   404, 405  the same again at once to the path of old appservices, /transactions/{txnId}; that is
 *             kept to for an hour; when both paths say so, it has failed
 *   413       nothing was processed: the messages are sent again in transactions of half the size,
 *             under other ids; a message that is alone is parked (moved to MSC4203_CHANNEL_PARKED,
 *             with whose record tells of whom it was: "NUMBER CHANNEL-NAME\n", the last ones)
 *   401, 403  failed (the tokens do not agree: an operator has to look at it), tried again
 *   429, 5xx, any other, 0
 *             failed, tried again
 *
 * A failed attempt is repeated after a wait that doubles, up to the longest; of it the upper half
 * is left to chance. It never gives up.
 *
 * Returns MSC4203_OK; MSC4203_E_USAGE when nothing is being sent; an error of the queue. */
MSC4203_API int msc4203_sender_result(msc4203_sender *sender, int status, uint64_t now_ms,
                                      uint32_t random, void *memory, size_t bytes);

/* Ends a wait: the next poll tries again (the appservice was heard of). */
MSC4203_API void msc4203_sender_wake(msc4203_sender *sender);

/* Gives the transaction in flight up, for an operator: its messages are taken out as if they had
 * been acknowledged. Not while it is being sent.
 *
 * Returns MSC4203_OK; MSC4203_E_USAGE when none is in flight or it is being sent; an error of the
 * queue. */
MSC4203_API int msc4203_sender_skip(msc4203_sender *sender);

/* Tells what a sender has done. */
MSC4203_API void msc4203_sender_status_get(const msc4203_sender *sender,
                                           msc4203_sender_status *status);
#endif /* MSC4203_NO_DELIVERY */

/* How a receiver works. */
typedef struct msc4203_receiver_config {
    msc4203_span hs_token; /* of the registration; must live as long as the receiver */
    unsigned kinds;        /* of items that are wanted; MSC4203_TO_DEVICE always is */
} msc4203_receiver_config;

struct msc4203_receiver_state {
    msc4203_receiver_config config;
    unsigned char *memory;
    uint32_t entries;
    uint8_t state, stored;
    int result;
    unsigned char id[16];
    msc4203_digest body, to_device;
    msc4203_reader reader;
};

/* A receiver: an application service's side of the transactions. Treat `priv` as private. */
typedef struct msc4203_receiver {
    struct msc4203_receiver_state priv;
} msc4203_receiver;

#ifndef MSC4203_NO_DELIVERY
/* Starts a receiver. `memory`, of `bytes` bytes (16, and 48 for each transaction that is to be
 * remembered: 4,096 are plenty), must live as long as the receiver. It holds all that has to
 * outlive a restart: zeros at first, later what it was last. `random` are 64 random bits.
 *
 * Returns MSC4203_OK; MSC4203_E_USAGE for an empty token; MSC4203_E_INDEX when not even one
 * transaction fits. */
MSC4203_API int msc4203_receiver_init(msc4203_receiver *receiver,
                                      const msc4203_receiver_config *config, void *memory,
                                      size_t bytes, uint64_t random);

/* Begins a request: its method, its target (path and query, as sent), and the value of its
 * Authorization header (NULL `ptr`: none). `scratch`, of `bytes` bytes, is the reader's, see
 * msc4203_reader_init(): it must hold the longest item.
 *
 * Knows PUT /_matrix/app/v1/transactions/{txnId}, the same without /_matrix/app/v1, and POST
 * /_matrix/app/v1/ping. The token comes in the header or, from old homeservers, as access_token in
 * the query; with both, both must be right. Comparing takes the same time whatever is wrong.
 *
 * Returns
 *   MSC4203_MORE             a transaction: feed its body, and take its items out
 *   MSC4203_END              a ping: answer it with 200 and {} when its body has been received
 *   MSC4203_E_UNRECOGNIZED   another path (404)
 *   MSC4203_E_METHOD         another method (405)
 *   MSC4203_E_TOKEN_MISSING  no token (401)
 *   MSC4203_E_TOKEN          a wrong one (403)
 * msc4203_result_status() and msc4203_result_body() tell how to answer. */
MSC4203_API int msc4203_receiver_request(msc4203_receiver *receiver, const msc4203_span *method,
                                         const msc4203_span *target,
                                         const msc4203_span *authorization, void *scratch,
                                         size_t bytes);

/* Gives the next bytes of a transaction's body, as msc4203_reader_feed() does. */
MSC4203_API int msc4203_receiver_feed(msc4203_receiver *receiver, const void *data, size_t bytes,
                                      int last);

/* Takes out the next item, as msc4203_reader_next() does. Items are provisional until the end says
 * what to do with them.
 *
 * Returns
 *   MSC4203_ITEM, MSC4203_MORE, or an error of the reader: answer with that, and drop the items
 *   MSC4203_NEW               all items are new
 *   MSC4203_REPEAT            the whole transaction is known: drop all items, answer 200
 *   MSC4203_REPEAT_TO_DEVICE  the same to-device messages have come under this id: drop those; the
 *                             rest differs, and is to be processed
 * At MSC4203_NEW and MSC4203_REPEAT_TO_DEVICE `memory` has changed: make it durable in one step
 * with the items, and only then answer 200; if that fails, call msc4203_receiver_reject(), and
 * answer 500. */
MSC4203_API int msc4203_receiver_next(msc4203_receiver *receiver, const msc4203_item **item);

/* Forgets the transaction that was read last: it could not be kept. */
MSC4203_API void msc4203_receiver_reject(msc4203_receiver *receiver);
#endif /* MSC4203_NO_DELIVERY */

struct msc4203_sync_state {
    const msc4203_queue *queue;
    msc4203_device device;
    uint64_t after, before, opening;
    uint32_t count;
};

/* One /sync of a device. Treat `priv` as private. */
typedef struct msc4203_sync {
    struct msc4203_sync_state priv;
} msc4203_sync;

#ifndef MSC4203_NO_DELIVERY
/* Begins a /sync of a device, whose strings must stay meanwhile. `since` is the token of the
 * request; NULL or an empty one: none. It proves that what it covered has arrived: that is taken
 * out (durable with the next flush; if that is lost, the next `since` says it again). A token of
 * this queue from an opening that is forgotten, of another queue, of another device, or from the
 * future proves nothing: the device begins with its oldest message.
 *
 * Returns MSC4203_OK; MSC4203_E_SINCE when `since` is no token (400 M_INVALID_PARAM); an error of
 * the queue. */
MSC4203_API int msc4203_sync_begin(msc4203_sync *sync, const msc4203_queue *queue,
                                   const msc4203_device *device, const msc4203_span *since);

/* Tells the next message, at most 100 in all, with its strings in `memory`, see msc4203_queue.
 *
 * Returns MSC4203_ITEM, MSC4203_END, or an error of the queue. (What is damaged is passed over.) */
MSC4203_API int msc4203_sync_next(msc4203_sync *sync, void *memory, size_t bytes,
                                  msc4203_message *message);

/* Takes back the message that was told last: it has no room in the response. */
MSC4203_API void msc4203_sync_unread(msc4203_sync *sync);

/* Writes the token for `next_batch`, NUL-terminated, which covers all messages told so far. */
MSC4203_API void msc4203_sync_token(const msc4203_sync *sync, char token[48]);

/* Changing over, for one device (see the manual): moves its messages from /sync to `channels`: of
 * what msc4203_route() says of it now, MSC4203_CHANNEL_SYNC and the application service that has
 * just opted in (the others have, or have had, what they are to get). Nothing when that is empty or
 * still has /sync in it. *moved, if not NULL, counts them. After a crash in between, call it again.
 *
 * Returns MSC4203_OK, or an error of the queue. */
MSC4203_API int msc4203_change_device(const msc4203_queue *queue, const msc4203_device *device,
                                      uint32_t channels, void *memory, size_t bytes,
                                      uint64_t *moved);

/* Changing over, for an application service that has opted out: each message that waits for its
 * channel and is not in flight stays, if `route` (what msc4203_route() says of its device now)
 * still has it in it; else it is moved to /sync, if that is in it and has not had it; else it is
 * taken out, or moved to the others in it when it waits for none of them. (Change over one service
 * after the other.) After a crash in between, call it again.
 *
 * Returns MSC4203_OK, or an error of the queue. */
MSC4203_API int msc4203_change_channel(const msc4203_queue *queue, uint32_t channel,
                                       uint32_t (*route)(void *context,
                                                         const msc4203_device *device),
                                       void *context, void *memory, size_t bytes,
                                       uint64_t *moved);
#endif /* MSC4203_NO_DELIVERY */

/* How the clock has run, for msc4203_expire(). Zeros: nothing is known of it yet. Treat `priv` as
 * private. */
typedef struct msc4203_expiry {
    struct {
        uint64_t last_ms;   /* the last call */
        uint32_t steady_ms; /* for how long it has run evenly, an hour or more */
    } priv;
} msc4203_expiry;

#ifndef MSC4203_NO_DELIVERY
/* Takes out of /sync what has waited longer than `age_ms`, for clients that never come back: see
 * queue->expire(). Call it every few minutes, with the same `expiry`, set to zero when the program
 * starts. `now_ms` are milliseconds since 1970; `age_ms` should be weeks. *expired, if not NULL,
 * tells how many messages there were.
 *
 * A clock that is wrong would take what has not waited long. So nothing is taken while it is behind
 * the queue's last time (see msc4203_counts), nor before it has run evenly for an hour: since the
 * first call, since it stepped back, and since it went on by more than an hour between two calls.
 * (When messages were accepted while it was far ahead, nothing is taken before that time.)
 *
 * Returns MSC4203_OK, durable with the next flush; MSC4203_E_CLOCK when nothing is taken, for now;
 * an error of the queue. */
MSC4203_API int msc4203_expire(msc4203_expiry *expiry, const msc4203_queue *queue, uint64_t now_ms,
                               uint64_t age_ms, uint64_t *expired);
#endif /* MSC4203_NO_DELIVERY */

/* ------------------------------------------------------------------------------------------------
 * For callers without this header
 * --------------------------------------------------------------------------------------------- */

/* The structs whose memory a caller provides. */
enum msc4203_object {
    MSC4203_OBJECT_ITEM = 0,
    MSC4203_OBJECT_READER = 1,
    MSC4203_OBJECT_ALGORITHMS = 2,
    MSC4203_OBJECT_WRITER = 3,
    MSC4203_OBJECT_LOG = 4,
    MSC4203_OBJECT_QUEUE = 5,
    MSC4203_OBJECT_STORAGE = 6,
    MSC4203_OBJECT_MESSAGE = 7,
    MSC4203_OBJECT_COUNTS = 8,
    MSC4203_OBJECT_SENDER = 9,
    MSC4203_OBJECT_RECEIVER = 10,
    MSC4203_OBJECT_SYNC = 11,
    MSC4203_OBJECT_DIGEST = 12,
    MSC4203_OBJECT_EXPIRY = 13
};

/* Returns the size in bytes of one of enum msc4203_object; 0 for an unknown one. */
MSC4203_API size_t msc4203_sizeof(int object);

/* Returns the alignment in bytes that it needs; 0 for an unknown one. */
MSC4203_API size_t msc4203_alignof(int object);

#ifdef __cplusplus
}
#endif

#endif /* MSC4203_H */

/* ================================================================================================
 * IMPLEMENTATION
 * ============================================================================================= */
#ifdef MSC4203_IMPLEMENTATION
#ifndef MSC4203_IMPLEMENTED
#define MSC4203_IMPLEMENTED

#include <string.h>

#if !defined(MSC4203_NO_SIMD) && defined(__AVX2__)
#include <immintrin.h>
#elif !defined(MSC4203_NO_SIMD) && defined(__SSE2__)
#include <emmintrin.h>
#elif !defined(MSC4203_NO_SIMD) && defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__GNUC__) || defined(__clang__) || defined(__TINYC__)
#define MSC4203_UNUSED __attribute__((unused))
#else
#define MSC4203_UNUSED
#endif
#define MSC4203_PRIVATE static MSC4203_UNUSED

/* Where speed is asked for, and not size, the few hot functions go into their callers, those that
 * are seldom called stay out of the hot ones' way, and a hot loop over constants is written out. */
#if defined(__OPTIMIZE__) && !defined(__OPTIMIZE_SIZE__) && defined(__GNUC__)
#define MSC4203_HOT MSC4203_PRIVATE __inline__ __attribute__((always_inline))
#define MSC4203_COLD MSC4203_PRIVATE __attribute__((noinline))
#else
#define MSC4203_HOT MSC4203_PRIVATE
#define MSC4203_COLD MSC4203_PRIVATE
#endif
/* Functions that stay out of others, for the sake of the stack. */
#if defined(__GNUC__) || defined(__clang__)
#define MSC4203_APART MSC4203_PRIVATE __attribute__((noinline))
#else
#define MSC4203_APART MSC4203_PRIVATE
#endif
#if defined(__OPTIMIZE__) && !defined(__OPTIMIZE_SIZE__) && (defined(__clang__) || __GNUC__ >= 8)
#define MSC4203_UNROLL(times) MSC4203_PRAGMA(GCC unroll times)
#define MSC4203_PRAGMA(text) _Pragma(#text)
#else
#define MSC4203_UNROLL(times)
#endif

/* ------------------------------------------------------------------------------------------------
 * 1. json: the scanner
 *
 * Checks RFC 8259 JSON and can stop after any byte. It reports the values of the first `watch`
 * levels; what is inside them is only checked. The rest of this file looks at no more of JSON than
 * a value's first byte, and at an event's members where speed is asked for.
 * --------------------------------------------------------------------------------------------- */

/* What json_next() reports. */
enum {
    JSON_GOT_MORE,  /* the chunk is used up */
    JSON_GOT_TEXT,  /* text: a piece, not the last, of a key, or of a string with JSON_TEXT */
    JSON_GOT_KEY,   /* text: the last piece of a key */
    JSON_GOT_VALUE, /* next is at a value's first byte */
    JSON_GOT_END,   /* a value has ended; text: its last piece, if it is a string */
    JSON_GOT_ERROR  /* error says which, next is at the byte that makes it one */
};

/* Where it goes on. */
enum {
    JSON_AT_NOTHING, /* not begun */
    JSON_AT_ERROR,
    JSON_AT_BEGIN, /* a value that has been reported */
    JSON_AT_STRING,
    JSON_AT_UTF8,
    JSON_AT_ESCAPE, /* after a backslash, or between the halves of a surrogate pair */
    JSON_AT_NUMBER,
    JSON_AT_LITERAL,
    JSON_AT_DEEP, /* below the deepest level */
    /* From here on there may be white space. */
    JSON_AT_VALUE,
    JSON_AT_KEY,
    JSON_AT_FIRST, /* a value, a key, or the end of the container */
    JSON_AT_COLON,
    JSON_AT_NEXT, /* a comma, or the end of the container */
    JSON_AT_TAIL  /* after the text */
};

/* The role of a string; after JSON_GOT_VALUE the caller sets JSON_TEXT to get a string's text. */
enum { JSON_KEY = 1, JSON_TEXT = 2, JSON_IN_DEEP = 4 };

/* Flags, beside MSC4203_LONE_SURROGATE and MSC4203_HUGE_NUMBER; the caller resets them. */
enum { JSON_DEEP = 4 };

/* The parts of a number: what has been read last. A number can end after those that are odd; a
 * digit behind JSON_POINT, JSON_E_SIGN or JSON_E leads to the odd one. */
enum {
    JSON_ZERO = 1,
    JSON_SIGN = 2,
    JSON_INT = 3,
    JSON_POINT = 4,
    JSON_FRACTION = 5,
    JSON_E_SIGN = 8,
    JSON_E_DIGITS = 9,
    JSON_E = 24
};

MSC4203_PRIVATE void json_init(msc4203_json *j, const void *text, size_t bytes)
{
    memset(j, 0, offsetof(msc4203_json, objects));
    j->next = (const unsigned char *)text;
    j->end = j->next + bytes;
    j->state = JSON_AT_VALUE;
    j->limit = 8 * sizeof j->objects;
}

/* A run of plain bytes ends at '"', '\\', whatever is below 0x20, and whatever is not ASCII. Most
 * bytes of most bodies are plain: the loops over them decide how fast everything is. */
MSC4203_HOT int json_is_plain(unsigned c)
{
    return c - 0x20 < 0x60 && c != '"' && c != '\\';
}

#if !defined(MSC4203_NO_WORDS) && defined(__GNUC__) && !defined(__TINYC__) && \
    UINTPTR_MAX > 0xFFFFFFFFu && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define MSC4203_WORDS 1
#endif

#ifdef MSC4203_WORDS
/* The lowest bit set in the result belongs to the first byte of eight that is not plain: b ^ 2 is
 * below 0x21 just for '"' and the control characters, b ^ 0x5C is below 1 just for the backslash,
 * and the subtraction then borrows from the byte's highest bit. What is not ASCII has that bit set,
 * and keeps it in one of the two. (Above the first such byte a borrow may have set more.) */
MSC4203_HOT uint64_t json_word(const unsigned char *p)
{
    const uint64_t each = UINT64_C(0x0101010101010101);
    uint64_t word;

    memcpy(&word, p, 8);
    return (((word ^ each * 2) - each * 0x21) | ((word ^ each * 0x5C) - each)) & each * 0x80;
}

MSC4203_HOT size_t json_word_first(uint64_t hits)
{
    return (size_t)__builtin_ctzll(hits) >> 3;
}

/* The same for as many bytes as a vector holds: a bit (of NEON: four bits) for each, the lowest for
 * the first. As signed numbers, what is not ASCII is below 0x20 too. */
#if !defined(MSC4203_NO_SIMD) && defined(__AVX2__)
#define MSC4203_VECTOR 32
MSC4203_HOT uint32_t json_vector(const unsigned char *p)
{
    const __m256i bytes = _mm256_loadu_si256((const __m256i *)(const void *)p);
    const __m256i hits = _mm256_or_si256(_mm256_cmpeq_epi8(bytes, _mm256_set1_epi8('"')),
                                         _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8('\\')));
    return (uint32_t)_mm256_movemask_epi8(
        _mm256_or_si256(hits, _mm256_cmpgt_epi8(_mm256_set1_epi8(0x20), bytes)));
}
#define json_vector_first(hits) ((unsigned)__builtin_ctz(hits))
#elif !defined(MSC4203_NO_SIMD) && defined(__SSE2__)
#define MSC4203_VECTOR 16
MSC4203_HOT uint32_t json_vector(const unsigned char *p)
{
    const __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)p);
    const __m128i hits = _mm_or_si128(_mm_cmpeq_epi8(bytes, _mm_set1_epi8('"')),
                                      _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\')));
    return (uint32_t)_mm_movemask_epi8(
        _mm_or_si128(hits, _mm_cmplt_epi8(bytes, _mm_set1_epi8(0x20))));
}
#define json_vector_first(hits) ((unsigned)__builtin_ctz(hits))
#elif !defined(MSC4203_NO_SIMD) && defined(__ARM_NEON) && defined(__aarch64__)
#define MSC4203_VECTOR 16
MSC4203_HOT uint64_t json_vector(const unsigned char *p)
{
    const uint8x16_t bytes = vld1q_u8(p);
    const uint8x16_t hits = vorrq_u8(
        vorrq_u8(vceqq_u8(bytes, vdupq_n_u8('"')), vceqq_u8(bytes, vdupq_n_u8('\\'))),
        vcltq_s8(vreinterpretq_s8_u8(bytes), vdupq_n_s8(0x20)));
    return vget_lane_u64(vreinterpret_u64_u8(vshrn_n_u16(vreinterpretq_u16_u8(hits), 4)), 0);
}
#define json_vector_first(hits) ((unsigned)__builtin_ctzll(hits) >> 2)
#endif

/* Returns the first byte from p on that is not plain, or end; and copies what it has looked at to
 * `to`, unless that is NULL. (What comes behind in the same word or vector may be copied too, but
 * nothing from `end` on.) */
MSC4203_HOT const unsigned char *json_plain_run(char *to, const unsigned char *p,
                                                const unsigned char *end)
{
    const unsigned char *const begin = p;

#ifdef MSC4203_VECTOR
    for (; end - p >= MSC4203_VECTOR; p += MSC4203_VECTOR) {
        if (to != NULL)
            memcpy(to + (p - begin), p, MSC4203_VECTOR);
        if (json_vector(p) != 0)
            return p + json_vector_first(json_vector(p));
    }
    if (p != end && end - begin >= MSC4203_VECTOR) { /* the last one, of which a part is seen */
        p = end - MSC4203_VECTOR;
        if (to != NULL)
            memcpy(to + (p - begin), p, MSC4203_VECTOR);
        return json_vector(p) != 0 ? p + json_vector_first(json_vector(p)) : end;
    }
#else
    for (; end - p >= 32; p += 32) {
        if ((json_word(p) | json_word(p + 8) | json_word(p + 16) | json_word(p + 24)) != 0)
            break;
        if (to != NULL)
            memcpy(to + (p - begin), p, 32);
    }
#endif
    for (; end - p >= 8; p += 8) {
        if (to != NULL)
            memcpy(to + (p - begin), p, 8);
        if (json_word(p) != 0)
            return p + json_word_first(json_word(p));
    }
    if (p != end && end - begin >= 8) { /* the last word, of which a part has been seen */
        p = end - 8;
        if (to != NULL)
            memcpy(to + (p - begin), p, 8);
        return json_word(p) != 0 ? p + json_word_first(json_word(p)) : end;
    }
    for (; p != end && json_is_plain(*p); p++)
        if (to != NULL)
            to[p - begin] = (char)*p;
    return p;
}

/* The long runs, and those near the end of the chunk. */
MSC4203_COLD const unsigned char *json_plain_long(const unsigned char *p, const unsigned char *end)
{
    return json_plain_run(NULL, p, end);
}
#endif

/* Returns the first byte from p on that is not plain, or end. Most strings are short: four words
 * are looked at before anything is called. (`last` is the last place where there are four, or
 * 0.) */
MSC4203_HOT const unsigned char *json_plain(const unsigned char *p, const unsigned char *end,
                                            uintptr_t last)
{
#ifdef MSC4203_WORDS
    if ((uintptr_t)p <= last) {
        uint64_t hits = json_word(p);
        if (hits != 0)
            return p + json_word_first(hits);
        hits = json_word(p + 8);
        if (hits != 0)
            return p + 8 + json_word_first(hits);
        hits = json_word(p + 16);
        if (hits != 0)
            return p + 16 + json_word_first(hits);
        hits = json_word(p + 24);
        if (hits != 0)
            return p + 24 + json_word_first(hits);
        p += 32;
    }
    return json_plain_long(p, end);
#else
    (void)last;
    while (p != end && json_is_plain(*p))
        p++;
    return p;
#endif
}

MSC4203_HOT uintptr_t json_last(const unsigned char *p, const unsigned char *end)
{
    return end - p >= 32 ? (uintptr_t)(end - 32) : 0;
}

MSC4203_HOT const unsigned char *json_skip_space(const unsigned char *p, const unsigned char *end)
{
    while (p != end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
        p++;
    return p;
}

/* The Unicode Standard, table 3-7: for the first byte of a sequence the number of bytes that
 * follow, and from which byte to which the next one may be; 0 bytes for one that can't be first. */
MSC4203_PRIVATE void json_utf8(msc4203_json *j, unsigned first)
{
    j->low = 0x80;
    j->high = 0xBF;
    if (first == 0xE0)
        j->low = 0xA0;
    if (first == 0xF0)
        j->low = 0x90;
    if (first == 0xED)
        j->high = 0x9F;
    if (first == 0xF4)
        j->high = 0x8F;
    j->need = first - 0xC2 > 0xF4 - 0xC2 ? 0 : first < 0xE0 ? 1 : first < 0xF0 ? 2 : 3;
}

/* Is this the byte that comes next? */
MSC4203_PRIVATE int json_utf8_next(msc4203_json *j, unsigned c)
{
    if (c < j->low || c > j->high)
        return 0;
    j->low = 0x80;
    j->high = 0xBF;
    j->need--;
    return 1;
}

/* Writes a character in UTF-8; returns its bytes. */
MSC4203_PRIVATE unsigned json_encode(unsigned char *utf8, uint32_t c)
{
    unsigned n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4, i;

    for (i = n; --i; c >>= 6)
        utf8[i] = (unsigned char)(0x80 | (c & 0x3F));
    utf8[0] = (unsigned char)(n == 1 ? c : (0xF00u >> n & 0xFF) | c);
    return n;
}

/* Takes a digit into account for the size of a number. `point` counts the places before the decimal
 * point (those after it that are 0 before the first other digit count down); `digits` compares the
 * first seventeen significant ones with those of 1.7976931348623158e308: 0 to 17 are equal so far,
 * 18 is less, 19 is more. An exponent stops growing where no body makes up for it: see LIMITS. */
MSC4203_PRIVATE void json_digit(msc4203_json *j, unsigned digit)
{
    static const char limit[] = "17976931348623158";
    unsigned other;

    if (j->number == JSON_E_DIGITS) {
        if (j->now.decimal.exponent < 1 << 27)
            j->now.decimal.exponent = j->now.decimal.exponent * 10 + digit - '0';
        return;
    }
    if (j->number == JSON_INT) {
        j->now.decimal.point++;
    } else if (j->digits == 0 && digit == '0') {
        j->now.decimal.point -= j->number == JSON_FRACTION;
        return;
    }
    if (j->digits < 17) {
        other = (unsigned char)limit[j->digits];
        j->digits = (uint8_t)(digit < other ? 18 : digit > other ? 19 : j->digits + 1);
    }
}

MSC4203_PRIVATE void json_number_end(msc4203_json *j)
{
    uint32_t places = j->now.decimal.exponent;

    if (j->minus)
        places = 0 - places;
    places += j->now.decimal.point + (j->digits == 17 || j->digits == 19);
    if (j->digits != 0 && (int32_t)places > 309)
        j->flags |= MSC4203_HUGE_NUMBER;
}

/* Goes on in a number. (The minus before the first digit is read elsewhere.) */
MSC4203_COLD int json_number(msc4203_json *j)
{
    for (; j->next != j->end; j->next++) {
        unsigned c = *j->next, part = j->number;

        if (c - '0' < 10) {
            if (part == JSON_ZERO) /* 01 */
                return JSON_GOT_ERROR;
            part = part == JSON_SIGN && c == '0' ? (unsigned)JSON_ZERO : (part & 15) | 1;
            j->number = (uint8_t)part;
            json_digit(j, c);
            continue;
        }
        if (c == '.' && (part & 5) == 1 && part < JSON_E_SIGN) {
            part = JSON_POINT;
        } else if ((c | 0x20) == 'e' && part & 1 && part != JSON_E_DIGITS) {
            part = JSON_E;
        } else if (part == JSON_E && (c == '+' || c == '-')) {
            part = JSON_E_SIGN;
            j->minus = c == '-';
        } else if (part & 1) {
            json_number_end(j);
            return JSON_GOT_END;
        } else {
            return JSON_GOT_ERROR;
        }
        j->number = (uint8_t)part;
    }
    return JSON_GOT_MORE;
}

/* The byte that a backslash and this one stand for, or 0. */
MSC4203_PRIVATE unsigned json_simple_escape(unsigned c)
{
    static const char pairs[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
    unsigned i;

    for (i = 0; pairs[i] != 0; i += 2)
        if ((unsigned char)pairs[i] == c)
            return (unsigned char)pairs[i + 1];
    return 0;
}

/* The value of a hexadecimal digit, or 16. */
MSC4203_HOT unsigned json_hex(unsigned c)
{
    if (c - '0' < 10)
        return c - '0';
    c |= 0x20;
    return c - 'a' < 6 ? c - 'a' + 10 : 16;
}

/* Goes on behind a backslash. `need` says what comes next: 5 is the letter, 4 to 1 are hexadecimal
 * digits, and 6 is the backslash between the halves of a surrogate pair, of which the first waits
 * in `half`; alone, a half stands for U+FFFD. Returns JSON_GOT_TEXT with what is unescaped,
 * JSON_GOT_MORE or JSON_GOT_ERROR; `state` says where to go on. */
MSC4203_COLD int json_escape(msc4203_json *j)
{
    uint32_t c = 0, half = j->now.text.half;
    unsigned n = 0;

    for (; j->need != 0; j->need--, j->next++) {
        if (j->next == j->end)
            return JSON_GOT_MORE;
        c = *j->next;
        if (j->need == 6) {
            if (c != '\\')
                break;
        } else if (j->need == 5) {
            if (c == 'u')
                continue;
            c = json_simple_escape(c);
            if (c == 0)
                return JSON_GOT_ERROR;
            j->next++;
            break;
        } else {
            c = json_hex(c);
            if (c > 15)
                return JSON_GOT_ERROR;
            c |= (uint32_t)j->now.text.unit << 4;
            j->now.text.unit = (uint16_t)c;
        }
    }
    c &= 0xFFFF;
    if (half != 0 && j->need == 0 && c >> 10 == 0x37) {
        c += (half << 10) + 0x10000 - (0xD800 << 10) - 0xDC00;
        half = 0;
    }
    if (half != 0 || c >> 10 == 0x37) {
        j->flags |= MSC4203_LONE_SURROGATE;
        n = json_encode(j->now.text.escape, 0xFFFD);
    }
    j->now.text.half = 0;
    j->state = JSON_AT_STRING;
    if (c >> 10 == 0x36) {
        j->now.text.half = (uint16_t)c;
        j->need = 6;
        j->state = JSON_AT_ESCAPE;
    } else if (j->need != 6 && c >> 10 != 0x37) {
        n += json_encode(j->now.text.escape + n, c);
    }
    j->now.text.ptr = j->now.text.escape;
    j->now.text.bytes = n;
    return JSON_GOT_TEXT;
}

/* The literals; `low` is where in them the next byte stands, `need` how many are to come. */
static const char json_literals[] MSC4203_UNUSED = "truefalsenull";

MSC4203_COLD int json_literal(msc4203_json *j)
{
    for (; j->need != 0; j->need--, j->low++, j->next++) {
        if (j->next == j->end)
            return JSON_GOT_MORE;
        if (*j->next != (unsigned char)json_literals[j->low])
            return JSON_GOT_ERROR;
    }
    return JSON_GOT_END;
}

#ifdef MSC4203_WORDS
/* What is common, and lies whole in the chunk, needs no state: these return the byte behind it, or
 * p where the usual way has to decide. There are 32 bytes at p. */

/* A character that is not ASCII: for two, three and four bytes the marks that each byte must have,
 * and the bits that tell overlong forms, surrogates and what is beyond U+10FFFF. */
MSC4203_HOT const unsigned char *json_whole_utf8(const unsigned char *p)
{
    const uint64_t each = UINT64_C(0x0001000100010001);
    uint64_t four;
    uint32_t word, tell;

    memcpy(&four, p, 8); /* four of two bytes, as most alphabets have them */
    if ((four & each * 0xC0E0) == each * 0x80C0 &&
        (((four & each * 0x1E) + each * 0x7E) & each * 0x80) == each * 0x80)
        return p + 8;
    word = (uint32_t)four;
    if ((word & 0xC0C0F0) == 0x8080E0) {
        tell = word & 0x200F;
        return tell != 0 && tell != 0x200D ? p + 3 : p;
    }
    if ((word & 0xC0E0) == 0x80C0)
        return word & 0x1E ? p + 2 : p;
    tell = word & 0x3007;
    if ((word & 0xC0C0C0F8u) == 0x808080F0u && (tell & 4 ? tell == 4 : tell != 0))
        return p + 4;
    return p;
}

/* Are these four hexadecimal digits? */
MSC4203_HOT int json_hex4(const unsigned char *p)
{
    return (json_hex(p[0]) | json_hex(p[1]) | json_hex(p[2]) | json_hex(p[3])) < 16;
}

/* An escape of one character, or of both halves of a surrogate pair. */
MSC4203_HOT const unsigned char *json_whole_escape(const unsigned char *p)
{
    const uint32_t letters = 1u | 1u << 6 | 1u << 10 | 1u << 18 | 1u << 22 | 1u << 24; /* \bfnrt */
    unsigned c = p[1];

    if (c != 'u') {
        if (c == '"' || c == '/' || (c - '\\' < 32 && letters >> (c - '\\') & 1))
            return p + 2;
        return p;
    }
    if (!json_hex4(p + 2))
        return p;
    if ((p[2] | 0x20) != 'd' || p[3] < '8')
        return p + 6;
    if ((p[3] | 0x20) <= 'b' && p[6] == '\\' && p[7] == 'u' && (p[8] | 0x20) == 'd' &&
        (p[9] | 0x20) >= 'c' && json_hex4(p + 8))
        return p + 12;
    return p;
}

/* Behind the digits that stand here, at least of eight. */
MSC4203_HOT const unsigned char *json_digits(const unsigned char *p)
{
    const uint64_t each = UINT64_C(0x0101010101010101);
    uint64_t word;

    memcpy(&word, p, 8);
    word ^= each * '0'; /* a digit's value: less than 10 */
    word = ((word + each * 0x76) | word) & each * 0x80;
    return p + (word != 0 ? json_word_first(word) : 8);
}

/* A number of up to 16 digits before and 16 behind the point (but of 28 bytes) with an exponent of
 * at most two digits, which a double holds. */
MSC4203_HOT const unsigned char *json_whole_number(const unsigned char *p)
{
    const unsigned char *const first = p + (*p == '-'), *q = json_digits(first), *digits;

    if (q == first + 8)
        q = json_digits(q);
    if (q == first || (*first == '0' && q != first + 1))
        return p;
    if (*q == '.') {
        digits = ++q;
        q = json_digits(q);
        if (q == digits + 8 && digits < p + 12)
            q = json_digits(q);
        if (q == digits)
            return p;
    }
    if ((*q | 0x20) == 'e') {
        q += q[1] == '-' || q[1] == '+' ? 2 : 1;
        if (*q - (unsigned)'0' > 9)
            return p;
        q += q[1] - (unsigned)'0' < 10 ? 2 : 1;
    }
    return *q - (unsigned)'0' < 10 ? p : q;
}

MSC4203_HOT const unsigned char *json_whole_literal(const unsigned char *p)
{
    if (memcmp(p, "true", 4) == 0 || memcmp(p, "null", 4) == 0)
        return p + 4;
    return memcmp(p, "false", 5) == 0 ? p + 5 : p;
}

/* Do these two bytes come next? */
MSC4203_HOT int json_pair(const unsigned char *p, unsigned first, unsigned second)
{
    uint16_t pair;

    memcpy(&pair, p, 2);
    return pair == (first | second << 8);
}
#endif

/* Where speed is asked for, an event's members go straight to the reader: on this path small
 * messages spend their time. */
#if defined(MSC4203_WORDS) && !defined(MSC4203_NO_READER)
#define MSC4203_MEMBERS 1
MSC4203_HOT const unsigned char *reader_member(msc4203_json *j, const unsigned char *p,
                                               const unsigned char *end, uintptr_t last,
                                               unsigned *rest);
MSC4203_HOT int reader_content(msc4203_json *j, const unsigned char *p);
#endif

/* Stops, to go on at `place`, and reports. */
#define JSON_STOP(place, got) do { j->state = (place); event = (got); goto stop; } while (0)
/* Needs a byte that is no white space, which is then in c. Here reading goes on after a stop. Where
 * speed is asked for, each place looks for itself before it goes where all of them do. */
#ifdef MSC4203_WORDS
#define JSON_TOKEN(place) \
    if (p != end && *p > ' ') { \
        c = *p; \
    } else { \
        j->state = place; \
        goto token; \
    } \
    place
#else
#define JSON_TOKEN(place) \
    j->state = place; \
    goto token; \
    place
#endif
/* Calls one of the functions above, which work on j->next, and stops when they say so. */
#define JSON_CALL(function) \
    do { \
        j->next = p; \
        event = function(j); \
        p = j->next; \
        if (event == JSON_GOT_ERROR) \
            goto bad; \
        if (event == JSON_GOT_MORE) \
            goto stop; \
    } while (0)

/* Reads on, and reports one of JSON_GOT_*. The labels are the grammar; those in capitals are the
 * places where the input may stop and where reading then goes on. */
MSC4203_HOT int json_next(msc4203_json *j)
{
    const unsigned char *p = j->next, *run = p;
    const unsigned char *const end = j->end;
    const uintptr_t last = json_last(p, end);
    uint32_t levels = j->levels;
    unsigned c = 0;
    int event;

    if (j->state < JSON_AT_VALUE)
        goto resume;
token:
    p = json_skip_space(p, end);
    if (p == end)
        goto more;
    c = *p;
resume:
    switch (j->state) {
    case JSON_AT_VALUE:
        goto JSON_AT_VALUE;
    case JSON_AT_FIRST:
        goto JSON_AT_FIRST;
    case JSON_AT_KEY:
        goto JSON_AT_KEY;
    case JSON_AT_COLON:
        goto JSON_AT_COLON;
    case JSON_AT_NEXT:
        goto JSON_AT_NEXT;
    case JSON_AT_BEGIN:
        c = *p;
        goto JSON_AT_BEGIN;
    case JSON_AT_STRING:
#ifdef MSC4203_WORDS
        p = json_plain_long(p, end); /* one that is cut is long */
        goto plain;
#else
        goto JSON_AT_STRING;
#endif
    case JSON_AT_UTF8:
        goto JSON_AT_UTF8;
    case JSON_AT_ESCAPE:
        goto JSON_AT_ESCAPE;
    case JSON_AT_NUMBER:
        goto JSON_AT_NUMBER;
    case JSON_AT_LITERAL:
        goto JSON_AT_LITERAL;
    case JSON_AT_DEEP:
        goto JSON_AT_DEEP;
    case JSON_AT_TAIL:
        goto bad;
    default:
        return JSON_GOT_ERROR;
    }

first:
    JSON_TOKEN(JSON_AT_FIRST):
    if (c == (levels & 1 ? '}' : ']'))
        goto close;
    if (levels & 1)
        goto JSON_AT_KEY;
    goto JSON_AT_VALUE;
value:
    JSON_TOKEN(JSON_AT_VALUE):
    j->role = 0;
    if (j->depth == j->watch)
        JSON_STOP(JSON_AT_BEGIN, JSON_GOT_VALUE);
JSON_AT_BEGIN:
    if (c == '"') {
        p++;
        goto JSON_AT_STRING;
    }
    if ((c | 0x20) == '{') {
        if (j->depth == j->limit) {
            if (j->strict)
                goto bad_depth;
            j->flags |= JSON_DEEP;
            goto JSON_AT_DEEP;
        }
        p++;
        if (j->depth % 32 == 0)
            j->objects[j->depth / 32] = levels;
        j->depth++;
        levels = levels << 1 | (c == '{');
        goto first;
    }
#ifdef MSC4203_WORDS
    if ((uintptr_t)p <= last) {
        const unsigned char *q = c < 'A' ? json_whole_number(p) : json_whole_literal(p);
        if (q != p) {
            p = q;
            goto ended;
        }
    }
#endif
    if (c == '-' || c - '0' < 10) {
        j->number = JSON_SIGN;
        j->minus = j->digits = 0;
        j->now.decimal.point = 0;
        j->now.decimal.exponent = 0;
        p += c == '-';
        goto JSON_AT_NUMBER;
    }
    j->low = c == 't' ? 1 : c == 'f' ? 5 : 10;
    j->need = c == 'f' ? 4 : 3;
    if ((unsigned char)json_literals[j->low - 1] != c)
        goto bad;
    p++;
JSON_AT_LITERAL:
    j->state = JSON_AT_LITERAL;
    JSON_CALL(json_literal);
    goto ended;
JSON_AT_NUMBER:
    j->state = JSON_AT_NUMBER;
    JSON_CALL(json_number);
    goto ended;

key:
    JSON_TOKEN(JSON_AT_KEY):
    if (c != '"')
        goto bad;
    p++;
#ifdef MSC4203_WORDS
in_key:
#endif
    j->role = JSON_KEY;
    if (j->depth == j->watch) {
        j->role = JSON_KEY | JSON_TEXT;
#ifdef MSC4203_MEMBERS
        if (j->members && end - p >= 16) {
            const unsigned char *q = reader_member(j, p, end, last, &c);
            if (q != NULL) {
                p = q;
                j->role = c == '"' ? JSON_TEXT : 0;
                if (c == '{')
                    goto JSON_AT_BEGIN;
                if (c == '"')
                    goto JSON_AT_STRING;
                goto next;
            }
        }
#endif
    }
JSON_AT_STRING:
    run = p;
plain:
    p = json_plain(p, end, last);
    if (p == end)
        goto more_string;
    c = *p;
    if (c == '"')
        goto quote;
    if (c >= 0x80)
        goto utf8_first;
    if (c != '\\')
        goto bad;
#ifdef MSC4203_WORDS
    if (!(j->role & JSON_TEXT) && (uintptr_t)p <= last) {
        const unsigned char *q = json_whole_escape(p);
        if (q != p) {
            p = q;
            goto plain;
        }
    }
#endif
    j->now.text.ptr = run;
    j->now.text.bytes = (size_t)(p - run);
    j->now.text.half = 0;
    j->need = 5;
    p++;
    j->state = JSON_AT_ESCAPE;
    if (j->role & JSON_TEXT)
        JSON_STOP(JSON_AT_ESCAPE, JSON_GOT_TEXT);
JSON_AT_ESCAPE:
    JSON_CALL(json_escape);
    if (j->role & JSON_TEXT)
        goto stop;
    if (j->state == JSON_AT_STRING)
        goto JSON_AT_STRING;
    goto JSON_AT_ESCAPE;

utf8_first:
#ifdef MSC4203_WORDS
    while ((uintptr_t)p <= last) {
        const unsigned char *q = json_whole_utf8(p);
        if (q == p)
            break;
        p = q;
        if (*p < 0x80)
            goto plain;
    }
    c = *p;
#endif
    json_utf8(j, c);
    if (j->need == 0)
        goto bad_utf8;
    p++;
JSON_AT_UTF8:
    do {
        if (p == end)
            goto more_utf8;
        if (!json_utf8_next(j, *p))
            goto bad_utf8;
        p++;
    } while (j->need != 0);
    goto plain;

quote:
    p++;
    if (j->role == 0)
        goto ended;
    if (j->role == JSON_KEY) {
#ifdef MSC4203_WORDS
        if ((uintptr_t)p <= last && json_pair(p, ':', '"')) {
            p += 2;
            j->role = 0;
            goto JSON_AT_STRING;
        }
#endif
        goto colon;
    }
    if (j->role == JSON_IN_DEEP)
        goto JSON_AT_DEEP;
    j->now.text.ptr = run;
    j->now.text.bytes = (size_t)(p - run) - 1;
    if (j->role == JSON_TEXT)
        goto ended;
    JSON_STOP(JSON_AT_COLON, JSON_GOT_KEY);
colon:
    JSON_TOKEN(JSON_AT_COLON):
    if (c != ':')
        goto bad;
    p++;
    goto value;

JSON_AT_DEEP:
    /* Below the deepest level strings are checked and brackets counted, until that level is reached
     * again. */
    j->role = JSON_IN_DEEP;
    for (; p != end; p++) {
        c = *p;
        if (c == '"') {
            p++;
            goto JSON_AT_STRING;
        }
        c |= 0x20;
        if (c == '{' && ++j->depth == 0) /* unreachable: needs four GiB of open brackets */
            goto bad_depth;              /* unreachable: as above */
        if (c == '}' && --j->depth == j->limit) {
            p++;
            goto ended;
        }
    }
    j->state = JSON_AT_DEEP;
    goto more;

close:
    p++;
    j->depth--;
    levels >>= 1;
    if (j->depth % 32 == 0)
        levels = j->objects[j->depth / 32];
ended:
    if (j->depth <= j->watch) {
#ifdef MSC4203_MEMBERS
        if (j->depth == j->watch && j->members && reader_content(j, p))
            goto next;
#endif
        JSON_STOP(j->depth ? JSON_AT_NEXT : JSON_AT_TAIL, JSON_GOT_END);
    }
#ifdef MSC4203_MEMBERS
next:
#endif
#ifdef MSC4203_WORDS
    if (levels & 1 && (uintptr_t)p <= last && json_pair(p, ',', '"')) {
        p += 2;
        goto in_key;
    }
#endif
    JSON_TOKEN(JSON_AT_NEXT):
    if (c == (levels & 1 ? '}' : ']'))
        goto close;
    if (c != ',')
        goto bad;
    p++;
    if (levels & 1)
        goto key;
    goto value;

bad:
    j->error = MSC4203_E_SYNTAX;
    JSON_STOP(JSON_AT_ERROR, JSON_GOT_ERROR);
bad_utf8:
    j->error = MSC4203_E_UTF8;
    JSON_STOP(JSON_AT_ERROR, JSON_GOT_ERROR);
bad_depth:
    j->error = MSC4203_E_TOO_DEEP;
    JSON_STOP(JSON_AT_ERROR, JSON_GOT_ERROR);

more_utf8:
    j->state = JSON_AT_UTF8;
    goto more_text;
more_string:
    j->state = JSON_AT_STRING;
more_text:
    j->now.text.ptr = run;
    j->now.text.bytes = (size_t)(p - run);
    event = JSON_GOT_TEXT;
    if (j->role & JSON_TEXT && p != run)
        goto stop;
more:
    event = JSON_GOT_MORE;
stop:
    j->next = p;
    j->levels = levels;
    return event;
}

/* After JSON_GOT_MORE, when no more will come: is the text complete? */
MSC4203_PRIVATE int json_whole(msc4203_json *j)
{
    if (j->state == JSON_AT_NUMBER && j->depth == 0 && j->number & 1) {
        json_number_end(j);
        j->state = JSON_AT_TAIL;
    }
    return j->state == JSON_AT_TAIL;
}

#undef JSON_STOP
#undef JSON_TOKEN
#undef JSON_CALL

/* ------------------------------------------------------------------------------------------------
 * 2. item: items, key names, results
 * --------------------------------------------------------------------------------------------- */

/* The prefixes that keys have until the MSCs are accepted; and the keys without them, each once. */
static const struct item_names {
    char msc2409[21], msc3202[20];
    char to_device[10], ephemeral[10], device_lists[13], counts[27], counts_too[27], types[33];
    char events[7], changed[8], left[5], messages[9], message_id[11], next_batch[11];
    char sender[7], type[5], user_id[11], device_id[13], content[8];
} item_names MSC4203_UNUSED = {
    "de.sorunome.msc2409.", "org.matrix.msc3202.",
    "to_device", "ephemeral", "device_lists", "device_one_time_keys_count",
    "device_one_time_key_counts", "device_unused_fallback_key_types",
    "events", "changed", "left", "messages", "message_id", "next_batch",
    "sender", "type", "to_user_id", "to_device_id", "content"
};

/* A key: where its name stands in item_names; the bytes of that, and which prefix it has. */
typedef struct item_key {
    uint8_t name, bytes;
} item_key;
enum { ITEM_PLAIN = 0, ITEM_MSC2409 = 64, ITEM_MSC3202 = 128, ITEM_BYTES = 63 };
#define ITEM_KEY(member, prefix) \
    { (uint8_t)offsetof(struct item_names, member), \
      (uint8_t)((sizeof item_names.member - 1) | ITEM_##prefix) }

MSC4203_PRIVATE const char *item_text(size_t at)
{
    return (const char *)&item_names + at;
}

/* The bytes of a key's prefix, and where it stands. */
MSC4203_PRIVATE unsigned item_prefix(unsigned bytes, const char **prefix)
{
    *prefix = item_names.msc2409;
    if (bytes < ITEM_MSC2409)
        return 0;
    if (bytes < ITEM_MSC3202)
        return sizeof item_names.msc2409 - 1;
    *prefix = item_names.msc3202;
    return sizeof item_names.msc3202 - 1;
}

/* The fields of an item, as numbers and as bits of a set. */
enum { ITEM_SENDER, ITEM_TYPE, ITEM_USER, ITEM_DEVICE, ITEM_CONTENT, ITEM_ID, ITEM_FIELDS };
#define ITEM_BIT(field) (1u << (field))

/* They stand in this order in the struct. */
MSC4203_HOT const msc4203_span *item_field_of(const msc4203_item *item, unsigned field)
{
    const void *at =
        (const char *)item + offsetof(msc4203_item, sender) + field * sizeof(msc4203_span);
    return (const msc4203_span *)at;
}

MSC4203_HOT msc4203_span *item_field(msc4203_item *item, unsigned field)
{
    void *at = (char *)item + offsetof(msc4203_item, sender) + field * sizeof(msc4203_span);
    return (msc4203_span *)at;
}

MSC4203_API int msc4203_item_error(const msc4203_item *item)
{
    if (item->error != MSC4203_OK && item->error != MSC4203_E_TOO_LARGE)
        return item->error;
    if (item->flags & MSC4203_LONE_SURROGATE)
        return MSC4203_E_SURROGATE;
    if (item->flags & MSC4203_HUGE_NUMBER)
        return MSC4203_E_NUMBER;
    return item->error;
}

MSC4203_API int msc4203_span_equal(const msc4203_span *span, const char *string)
{
    size_t i;

    for (i = 0; i < span->len; i++)
        if (string[i] == 0 || string[i] != span->ptr[i])
            return 0;
    return string[i] == 0;
}

/* One row for each result: HTTP status / 100 as a digit and a letter for the errcode, and the text.
 * A table of pointers would have to be relocated in a shared object, and so be writable. */
static const char item_results[] =
    "\0" "2-done\0" "\1" "2-an item\0" "\2" "2-more bytes are needed\0" "\3" "2-the end\0"
    "\377" "4Nnot JSON\0" "\376" "4Nnot valid UTF-8\0" "\375" "4Nthe input ends too early\0"
    "\374" "4Bnot an object\0" "\373" "4Bmessages is not an object\0"
    "\372" "4Pmessages is missing\0"
    "\354" "4Ba field is missing\0" "\353" "4Bof the wrong type\0"
    "\352" "4Ba field is given twice\0"
    "\351" "4Btoo deep\0" "\350" "4Ba lone surrogate\0"
    "\347" "4Ba number that no double holds\0" "\346" "5Ltoo large\0"
    "\330" "5Lno room for it\0" "\327" "4Bout of order\0" "\326" "4Bno place for it in this shape\0"
    "\325" "4Ba second one\0" "\304" "6Uwrong use of the library\0"
    "\4" "2-known already\0"
    "\260" "6Uthe storage failed\0" "\257" "9Qno room in the queue\0" "\256" "9Qover a quota\0"
    "\255" "9Qthe batch is not open\0" "\254" "6Uin use\0" "\253" "6Udamaged\0"
    "\252" "6Unot a log of this version\0" "\251" "6Ua region of the wrong size\0"
    "\250" "6Utoo little memory\0" "\247" "6Uopen in another process\0"
    "\246" "6Uthe clock is not to be trusted\0"
    "\5" "2-a request\0" "\6" "2-wait\0" "\7" "2-nothing to do\0" "\10" "2-new\0"
    "\11" "2-a repeat\0" "\12" "2-a repeat of its to-device messages\0"
    "\234" "0Rno such path\0" "\233" "7Rno such method here\0"
    "\232" "1Gan access token is missing\0" "\231" "3Fthe access token is wrong\0"
    "\230" "4Isince is not a token\0";
#define ITEM_UNKNOWN "6Uunknown result"

/* Behind a text's NUL. */
MSC4203_PRIVATE const char *item_skip_text(const char *text)
{
    while (*text++ != 0)
        ;
    return text;
}

MSC4203_PRIVATE const char *item_result(int result)
{
    const char *row = item_results;

    while (row < item_results + sizeof item_results - 1) {
        if ((signed char)*row == result)
            return row + 1;
        row = item_skip_text(row + 1);
    }
    return ITEM_UNKNOWN;
}

MSC4203_API const char *msc4203_result_text(int result)
{
    return item_result(result) + 2;
}

MSC4203_API const char *msc4203_result_errcode(int result)
{
    /* Each behind its letter, and not in a table of pointers: see above. */
    static const char codes[] =
        "NM_NOT_JSON\0BM_BAD_JSON\0PM_MISSING_PARAM\0LM_TOO_LARGE\0UM_UNKNOWN\0"
        "QM_LIMIT_EXCEEDED\0RM_UNRECOGNIZED\0GM_MISSING_TOKEN\0FM_FORBIDDEN\0IM_INVALID_PARAM\0-";
    const char *code = codes;

    while (*code != item_result(result)[1])
        code = item_skip_text(code);
    return code + 1;
}

MSC4203_API int msc4203_result_status(int result)
{
    switch (item_result(result)[0]) {
    case '2':
        return 200;
    case '4':
        return 400;
    case '1':
        return 401;
    case '3':
        return 403;
    case '0':
        return 404;
    case '7':
        return 405;
    case '5':
        return 413;
    case '9':
        return 429;
    default:
        return 500;
    }
}

/* Adds a text to a body of which *bytes have been written, as far as there is room. */
MSC4203_PRIVATE void item_add_text(char *buffer, size_t capacity, size_t *bytes, const char *text)
{
    for (; *text != 0; text++, ++*bytes)
        if (*bytes < capacity)
            buffer[*bytes] = *text;
}

MSC4203_API int msc4203_result_body(int result, void *buffer, size_t capacity, size_t *bytes)
{
    char *to = (char *)buffer;

    *bytes = 0;
    item_add_text(to, capacity, bytes, "{");
    if (result < 0) {
        item_add_text(to, capacity, bytes, "\"errcode\":\"");
        item_add_text(to, capacity, bytes, msc4203_result_errcode(result));
        item_add_text(to, capacity, bytes, "\",\"error\":\"");
        item_add_text(to, capacity, bytes, msc4203_result_text(result));
        item_add_text(to, capacity, bytes, "\"");
    }
    item_add_text(to, capacity, bytes, "}");
    return *bytes <= capacity ? MSC4203_OK : MSC4203_E_FULL;
}

MSC4203_API unsigned msc4203_version(void)
{
    return MSC4203_VERSION_NUMBER;
}

/* ------------------------------------------------------------------------------------------------
 * 3. reader: from a body to items
 * --------------------------------------------------------------------------------------------- */
#ifndef MSC4203_NO_READER

/* Where the reader is: the innermost container whose members it looks at. Those below READER_TOP
 * are objects with known keys: see reader_places. */
enum {
    READER_ROOT = 0,
    READER_EVENT = 4, /* a to-device event */
    READER_LISTS = 6, /* device_lists */
    READER_SYNC = 7,  /* a /sync response's to_device */
    READER_TOP = 8,   /* before and behind the root */
    READER_LIST,      /* an array of items */
    READER_USERS,     /* an object USER -> DEVICE -> content */
    READER_DEVICES,   /* an object DEVICE -> content */
    READER_NOWHERE    /* any JSON */
};

/* `field` says where the text of a string goes: to a field of the item, or */
enum { READER_KEY = ITEM_FIELDS, READER_SKIP };

/* `state` */
enum {
    READER_WHOLE = 1,   /* the body is in one piece */
    READER_LAST = 2,    /* no bytes will follow these */
    READER_FED = 4,     /* bytes have been fed that may not be used up */
    READER_YIELD = 8,   /* the value in progress is an item */
    READER_GIVEN = 16,  /* the last call gave an item */
    READER_LOST = 32,   /* the text in progress does not fit the scratch */
    READER_AHEAD = 64,  /* an EDU: looks for sender and type behind the messages */
    READER_KNOWN = 128  /* an EDU: sender and type are known, or known to be missing */
};

enum { READER_IDS = MSC4203_MESSAGE_ID | MSC4203_NEXT_BATCH };

/* `seen`: the fields of an event; of a root that has no events, beside its sender and type, */
enum {
    READER_BOTH = 1 << ITEM_SENDER | 1 << ITEM_TYPE,
    READER_MESSAGES = 64,
    READER_LOOKED = 128 /* for what stands behind the messages */
};

/* What the known keys hold. */
enum {
    READER_FIELD = READER_NOWHERE, /* a field of the item; else items, where it says */
    READER_ID                      /* a string that is an item */
};

typedef struct reader_key {
    item_key key;
    uint8_t holds; /* times 16; and the field, or the number of the kind's bit */
} reader_key;

#define READER_KEY_ROW(member, prefix, holds, what) \
    { ITEM_KEY(member, prefix), READER_##holds << 4 | (what) }

static const reader_key reader_keys[] = {
    /* 0: to-device events; the first three in a /sync response too */
    READER_KEY_ROW(content, PLAIN, FIELD, ITEM_CONTENT),
    READER_KEY_ROW(sender, PLAIN, FIELD, ITEM_SENDER),
    READER_KEY_ROW(type, PLAIN, FIELD, ITEM_TYPE),
    READER_KEY_ROW(device_id, PLAIN, FIELD, ITEM_DEVICE),
    READER_KEY_ROW(user_id, PLAIN, FIELD, ITEM_USER),
    /* 5: transactions */
    READER_KEY_ROW(to_device, MSC2409, LIST, 0),
    READER_KEY_ROW(to_device, PLAIN, LIST, 0),
    READER_KEY_ROW(events, PLAIN, LIST, 1),
    READER_KEY_ROW(ephemeral, MSC2409, LIST, 2),
    READER_KEY_ROW(ephemeral, PLAIN, LIST, 2),
    READER_KEY_ROW(device_lists, MSC3202, LISTS, 3),
    READER_KEY_ROW(device_lists, PLAIN, LISTS, 3),
    READER_KEY_ROW(counts, MSC3202, USERS, 5),
    READER_KEY_ROW(counts_too, MSC3202, USERS, 5),
    READER_KEY_ROW(counts, PLAIN, USERS, 5),
    READER_KEY_ROW(types, MSC3202, USERS, 6),
    READER_KEY_ROW(types, PLAIN, USERS, 6),
    /* 17: their device_lists */
    READER_KEY_ROW(changed, PLAIN, LIST, 3),
    READER_KEY_ROW(left, PLAIN, LIST, 4),
    /* 19: requests and EDUs; EDUs, with the sender and the type above */
    READER_KEY_ROW(messages, PLAIN, USERS, 0),
    READER_KEY_ROW(message_id, PLAIN, ID, 7),
    /* 21: /sync responses, and their to_device */
    READER_KEY_ROW(next_batch, PLAIN, ID, 8),
    READER_KEY_ROW(to_device, PLAIN, SYNC, 0),
    READER_KEY_ROW(events, PLAIN, LIST, 0)
};

/* Which of these rows are known in each place. */
static const uint32_t reader_places[] = {
    0xFFF << 5, 1 << 19, 3 << 19 | 3 << 1, 3 << 21, /* READER_ROOT and the shape */
    31, 7,                                          /* READER_EVENT */
    3 << 17, 1 << 23                                /* READER_LISTS, READER_SYNC */
};

/* The item in the making, or what is wrong with the body, begins so many bytes before this one. */
MSC4203_PRIVATE void reader_place(struct msc4203_reader_state *s, const unsigned char *at,
                                  unsigned before)
{
    s->item.offset = s->bytes_fed - (size_t)(s->json.end - at) - before;
}

/* An item's first error counts; but any other before "too large", so that it does not depend on
 * where chunks end. */
MSC4203_PRIVATE int reader_worse(int so_far, int error)
{
    return so_far == MSC4203_OK || (so_far == MSC4203_E_TOO_LARGE && error != MSC4203_OK) ? error
                                                                                       : so_far;
}

MSC4203_PRIVATE void reader_error(struct msc4203_reader_state *s, int error)
{
    s->item.error = reader_worse(s->item.error, error);
}

/* The scratch: the content or the text in the making, or both, from below; finished strings from
 * above, those that are kept for the items to come uppermost. */

/* Makes room for n bytes: at the cost of the item's content, if need be, for the ids tell whose
 * message it is that is too large. Returns 0 when that is not enough. */
MSC4203_COLD int reader_make_room(struct msc4203_reader_state *s, size_t n)
{
    if (s->field == ITEM_CONTENT) { /* in the making */
        s->part = 0;
        s->state |= READER_LOST;
    } else if (s->low != 0) {
        memmove(s->scratch, s->scratch + s->low, s->part);
        s->low = 0;
        s->item.content.ptr = NULL;
        s->item.content.len = 0;
        reader_error(s, MSC4203_E_TOO_LARGE);
    }
    return n <= s->high - s->low - s->part;
}

MSC4203_HOT int reader_room(struct msc4203_reader_state *s, size_t n)
{
    return n <= s->high - s->low - s->part || reader_make_room(s, n);
}

/* Adds a piece to the text in the making. */
MSC4203_HOT void reader_store(struct msc4203_reader_state *s, const void *piece, size_t n)
{
    if (!reader_room(s, n))
        s->state |= READER_LOST;
    if (s->state & READER_LOST) {
        s->part = 0;
    } else if (n != 0) {
        memcpy(s->scratch + s->low + s->part, piece, n);
        s->part += (uint32_t)n;
    }
}

/* Stores a finished string; `from` may be the text in the making, which is then done. */
MSC4203_PRIVATE void reader_store_whole(struct msc4203_reader_state *s, unsigned field,
                                        const char *from, uint32_t n)
{
    msc4203_span *span = item_field(&s->item, field);

    s->high -= n;
    span->ptr = "";
    span->len = n;
    if (n != 0) {
        memmove(s->scratch + s->high, from, n);
        span->ptr = s->scratch + s->high;
    }
}

/* Ids that are kept for the items to come: a user's, an EDU's sender and type. */
MSC4203_PRIVATE int reader_keeps(const struct msc4203_reader_state *s)
{
    return s->where == READER_USERS || (s->where == READER_ROOT && s->field <= ITEM_TYPE);
}

/* What is wrong with a kept id is wrong with the items to come. */
MSC4203_COLD void reader_kept_error(struct msc4203_reader_state *s)
{
    int8_t *kept = s->where == READER_USERS ? &s->user_error : &s->edu_error;

    *kept = (int8_t)reader_worse(*kept, s->item.error);
    s->item.error = MSC4203_OK;
}

/* Takes the last piece of a field. Where it is the whole, and need not be kept, it is not copied.
 */
MSC4203_COLD void reader_finish(struct msc4203_reader_state *s, const void *piece, size_t n)
{
    unsigned field = s->field;
    msc4203_span *span = item_field(&s->item, field);
    int keep = reader_keeps(s);

    if (s->part == 0 && !(s->state & READER_LOST) && (s->state & READER_WHOLE || !keep)) {
        span->ptr = (const char *)piece;
        span->len = n;
        s->loose |= (uint8_t)ITEM_BIT(field);
    } else {
        reader_store(s, piece, n);
        if (s->state & READER_LOST) {
            s->state &= (uint8_t)~READER_LOST;
            reader_error(s, MSC4203_E_TOO_LARGE);
        } else if (field == ITEM_CONTENT) {
            span->ptr = s->scratch;
            span->len = s->low = s->part;
        } else {
            n = s->part;
            s->part = 0;
            reader_store_whole(s, field, s->scratch + s->low, (uint32_t)n);
        }
        s->part = 0;
    }
    if (s->json.flags & MSC4203_LONE_SURROGATE && field != ITEM_CONTENT)
        reader_error(s, MSC4203_E_SURROGATE);
    if (keep) {
        s->base = s->high;
        if (s->where == READER_ROOT)
            s->shared = s->high;
        reader_kept_error(s);
    }
}

/* Before the next chunk: stores what the item has in this one. */
MSC4203_COLD void reader_save(struct msc4203_reader_state *s)
{
    unsigned field;

    for (field = 0; s->loose != 0; field++, s->loose >>= 1) {
        msc4203_span *span = item_field(&s->item, field);
        uint32_t n = (uint32_t)span->len;

        if (!(s->loose & 1))
            continue;
        if (!reader_room(s, span->len)) {
            span->ptr = NULL;
            span->len = 0;
            reader_error(s, MSC4203_E_TOO_LARGE);
        } else if (field != ITEM_CONTENT) {
            reader_store_whole(s, field, span->ptr, n);
        } else { /* below the text in the making */
            memmove(s->scratch + n, s->scratch, s->part);
            memcpy(s->scratch, span->ptr, n);
            span->ptr = s->scratch;
            s->low = n;
        }
    }
}

/* Does a key go on like this, from its `from`th byte to before its `to`th? */
MSC4203_PRIVATE int reader_fits(const item_key *key, const unsigned char *text, unsigned from,
                                size_t to, int last)
{
    const char *prefix, *name = item_text(key->name);
    unsigned before = item_prefix(key->bytes, &prefix), bytes = before + (key->bytes & ITEM_BYTES);

    if (to > bytes || (last && to != bytes))
        return 0;
    for (; from < to && from < before; from++)
        if (*text++ != (unsigned char)prefix[from])
            return 0;
    return from == to || memcmp(text, name + (from - before), to - from) == 0;
}

/* A key's next piece: strikes out the rows of reader_keys that it does not fit. */
MSC4203_COLD void reader_match(struct msc4203_reader_state *s, int last)
{
    const size_t bytes = s->row_bytes + s->json.now.text.bytes;
    unsigned place = s->where;
    const reader_key *row = reader_keys;
    uint32_t bit, rows;

    if (s->row_bytes == 0) {
        if (place == READER_ROOT)
            place = s->shape;
        else if (place == READER_EVENT)
            place += s->shape == MSC4203_SYNC;
        s->rows = reader_places[place];
    }
    rows = s->rows;
    for (bit = 1; bit <= rows; bit <<= 1, row++)
        if (rows & bit &&
            !reader_fits(&row->key, s->json.now.text.ptr, s->row_bytes, bytes, last))
            rows -= bit;
    s->rows = rows;
    s->row_bytes = (uint8_t)(bytes < 255 ? bytes : 255);
}

/* Takes a piece of a string that the scanner has reported. */
MSC4203_COLD void reader_text(struct msc4203_reader_state *s, int last)
{
    const unsigned char *text = s->json.now.text.ptr;

    if (s->field == READER_KEY) {
        reader_match(s, last);
    } else if (s->field != READER_SKIP) {
        if (s->where == READER_DEVICES && !(s->state & READER_YIELD)) {
            reader_place(s, text, 1); /* a device's key: its quote, which may be in another chunk */
            s->state |= READER_YIELD;
        }
        if (last)
            reader_finish(s, text, s->json.now.text.bytes);
        else
            reader_store(s, text, s->json.now.text.bytes);
    }
}

/* A member's key, or an element, comes next. */
MSC4203_HOT void reader_expect(struct msc4203_reader_state *s)
{
    unsigned where = s->where;

    s->field = where < READER_TOP        ? (uint8_t)READER_KEY
               : where == READER_USERS   ? (uint8_t)ITEM_USER
               : where == READER_DEVICES ? (uint8_t)ITEM_DEVICE
                                         : (uint8_t)READER_SKIP;
    s->row_bytes = 0;
    s->json.flags = 0;
}

/* The reader looks at the members of another container. */
MSC4203_HOT void reader_be(struct msc4203_reader_state *s, unsigned where)
{
    s->where = (uint8_t)where;
#ifdef MSC4203_MEMBERS
    s->json.members = where == READER_EVENT;
#endif
}

MSC4203_PRIVATE void reader_enter(struct msc4203_reader_state *s, unsigned where)
{
    s->json.watch++;
    reader_be(s, where);
    reader_expect(s);
}

/* The value that comes is an item of this kind. */
MSC4203_PRIVATE void reader_item(struct msc4203_reader_state *s, unsigned kind)
{
    s->item.kind = (int)kind;
    reader_place(s, s->json.next, 0);
    s->state |= READER_YIELD;
}

/* The value that comes is a field's: it must begin with this byte. */
MSC4203_HOT void reader_field(struct msc4203_reader_state *s, unsigned field, unsigned first)
{
    if (*s->json.next != first) {
        reader_error(s, MSC4203_E_FIELD_TYPE);
        return;
    }
    s->field = (uint8_t)field;
    if (first == '"')
        s->json.role = JSON_TEXT;
    else
        s->mark = s->json.next;
}

/* The body is of another shape. That is said at its end, for it may not even be JSON. */
MSC4203_COLD void reader_refuse(struct msc4203_reader_state *s, int error)
{
    if (s->json.error == MSC4203_OK) {
        s->json.error = (int8_t)error;
        reader_place(s, s->json.next, 0);
        s->kinds = 0;
    }
}

/* A list, or an object, of items comes: enters it, if it is wanted. `null` is an empty one. `what`
 * is the number of the kind's bit; of device_lists' two, of the first. */
MSC4203_COLD void reader_items(struct msc4203_reader_state *s, unsigned what, unsigned where)
{
    unsigned kind = 1u << what, wanted = where == READER_LISTS ? kind * 3 : kind;
    unsigned c = *s->json.next;

    if (!(s->kinds & wanted) || c == 'n')
        return;
    s->item.index = (unsigned)s->reports >> 2 * what & 3;
    if (c == (where == READER_LIST ? '[' : '{')) {
        s->item.kind = (int)kind;
        reader_enter(s, where);
    } else if (s->kinds & kind) {
        reader_item(s, kind);
        reader_error(s, MSC4203_E_FIELD_TYPE);
        if (s->item.index < 3)
            s->reports = (uint16_t)(s->reports + (1u << 2 * what));
    }
}

/* The messages of a request or an EDU come. Tells whether they are to be skipped. */
MSC4203_COLD int reader_messages(struct msc4203_reader_state *s)
{
    s->seen |= READER_MESSAGES;
    if (*s->json.next != '{') {
        reader_refuse(s, MSC4203_E_MESSAGES);
        return 1;
    }
    if (s->shape == MSC4203_SEND || !(s->state & READER_WHOLE) || s->state & READER_KNOWN ||
        s->seen & READER_LOOKED || (s->seen & READER_BOTH) == READER_BOTH)
        return 0;
    s->state |= READER_AHEAD;
    s->mark = s->json.next;
    return 1;
}

/* The value of a known key comes. */
MSC4203_HOT void reader_known(struct msc4203_reader_state *s, const reader_key *key)
{
    unsigned what = key->holds & 15, kind = 1u << what, holds = key->holds >> 4;

    if (holds == READER_FIELD) {
        if (s->where == READER_ROOT && (s->state & READER_KNOWN || s->seen & READER_LOOKED))
            return;
        if (s->seen & kind)
            reader_error(s, MSC4203_E_FIELD_TWICE);
        else
            reader_field(s, what, what == ITEM_CONTENT ? '{' : '"');
        s->seen |= (uint8_t)kind;
        if (s->where == READER_ROOT)
            reader_kept_error(s);
    } else if (s->state & READER_AHEAD) {
        return;
    } else if (holds == READER_ID) {
        if (s->kinds & kind) {
            s->item.index = 0;
            s->kinds &= (uint16_t)~kind;
            reader_item(s, kind);
            reader_field(s, ITEM_ID, '"');
        }
    } else if (s->shape == MSC4203_TRANSACTION || s->shape == MSC4203_SYNC ||
               !reader_messages(s)) {
        reader_items(s, what, holds);
    }
}

/* What is wrong with the ids that an item shares with others is wrong with the item. */
MSC4203_COLD void reader_shared_errors(struct msc4203_reader_state *s)
{
    reader_error(s, s->user_error);
    if (s->shape != MSC4203_EDU)
        return;
    reader_error(s, s->edu_error);
    if (!(s->state & READER_KNOWN) && (s->seen & READER_BOTH) != READER_BOTH)
        s->item.flags |= MSC4203_LATE;
}

/* An item of a list comes, or what a device is sent, or something wrong in the place of a user's
 * devices. */
MSC4203_HOT void reader_element(struct msc4203_reader_state *s, unsigned first)
{
    unsigned kind = (unsigned)s->item.kind, where = s->where;

    s->kinds &= (uint16_t)~kind;
    if (where == READER_LIST && kind == MSC4203_TO_DEVICE && first == '{') {
        reader_place(s, s->json.next, 0);
        s->seen = 0;
        reader_enter(s, READER_EVENT);
        return;
    }
    if (where != READER_DEVICES || kind != MSC4203_TO_DEVICE)
        reader_item(s, kind);
    if (where != READER_LIST)
        reader_shared_errors(s);
    if (kind & (MSC4203_DEVICE_CHANGED | MSC4203_DEVICE_LEFT))
        reader_field(s, ITEM_USER, '"');
    else if (where == READER_USERS)
        reader_error(s, MSC4203_E_FIELD_TYPE);
    else
        reader_field(s, ITEM_CONTENT, kind == MSC4203_FALLBACK_TYPES ? '[' : '{');
}

#ifdef MSC4203_MEMBERS
/* What an event's five members look like in most bodies, behind the key's first quote: the bytes,
 * and which of sixteen they are; then their number, the field and its bit, whether /sync has it,
 * and which comes next in most bodies. (A row of 64 bytes is found without a multiplication.) */
static const struct reader_pattern {
    char text[16];
    unsigned char mask[16];
    uint8_t bytes, field, bit, in_sync, then;
    char padding[27];
} reader_patterns[] = {
#define READER_FF4 255, 255, 255, 255
#define READER_FIELD_BIT(field) ITEM_##field, ITEM_BIT(ITEM_##field)
    {"content\":{", {READER_FF4, READER_FF4, 255, 255}, 9, READER_FIELD_BIT(CONTENT), 1, 1, ""},
    {"sender\":\"", {READER_FF4, READER_FF4, 255}, 9, READER_FIELD_BIT(SENDER), 1, 2, ""},
    {"to_device_id\":\"", {READER_FF4, READER_FF4, READER_FF4, 255, 255, 255}, 15,
     READER_FIELD_BIT(DEVICE), 0, 3, ""},
    {"to_user_id\":\"", {READER_FF4, READER_FF4, READER_FF4, 255}, 13, READER_FIELD_BIT(USER), 0, 4,
     ""},
    {"type\":\"", {READER_FF4, 255, 255, 255}, 7, READER_FIELD_BIT(TYPE), 1, 0, ""}
};

MSC4203_HOT struct msc4203_reader_state *reader_of(msc4203_json *j)
{
    void *at = (char *)j - offsetof(struct msc4203_reader_state, json);
    return (struct msc4203_reader_state *)at;
}

/* Takes a member of an event that is one of these, and not given twice: a string whole, if it is
 * plain, or its begin; of a content the begin. Returns where to go on, and tells in *rest what the
 * scanner is in: '{', '"', or 0 behind the member; or returns NULL, then the member goes the usual
 * way. */
MSC4203_HOT const unsigned char *reader_member(msc4203_json *j, const unsigned char *p,
                                               const unsigned char *end, uintptr_t last,
                                               unsigned *rest)
{
    struct msc4203_reader_state *s = reader_of(j);
    const struct reader_pattern *row = &reader_patterns[s->expected];
    const unsigned char *quote;
    uint64_t text[2], pattern[2], mask[2];
    unsigned tries;
    msc4203_span *span;

    memcpy(text, p, 16);
    for (tries = 0;; tries++, row = &reader_patterns[row->then]) {
        if (tries == 5)
            return NULL;
        memcpy(pattern, row->text, 16);
        memcpy(mask, row->mask, 16);
        if ((((text[0] ^ pattern[0]) & mask[0]) | ((text[1] ^ pattern[1]) & mask[1])) == 0)
            break;
    }
    if (s->seen & row->bit || (s->shape == MSC4203_SYNC && !row->in_sync))
        return NULL;
    s->seen |= row->bit;
    s->expected = row->then;
    p += row->bytes;
    if (row->field == ITEM_CONTENT) {
        s->field = ITEM_CONTENT;
        s->mark = p;
        j->flags = 0;
        *rest = '{';
        return p;
    }
    quote = json_plain(p, end, last);
    if (quote == end || *quote != '"') {
        s->field = row->field;
        j->flags = 0;
        *rest = '"';
        return p;
    }
    s->loose |= row->bit;
    span = item_field(&s->item, row->field);
    span->ptr = (const char *)p;
    span->len = (size_t)(quote - p);
    *rest = 0;
    return quote + 1;
}

/* Takes an event's content, which ends at p, where it lies whole in the chunk and there is nothing
 * wrong with it. Returns 0 when it goes the usual way. */
MSC4203_HOT int reader_content(msc4203_json *j, const unsigned char *p)
{
    struct msc4203_reader_state *s = reader_of(j);

    if (s->field != ITEM_CONTENT || j->flags != 0 || s->part != 0 || s->state & READER_LOST)
        return 0;
    s->item.content.ptr = (const char *)s->mark;
    s->item.content.len = (size_t)(p - s->mark);
    s->loose |= ITEM_BIT(ITEM_CONTENT);
    reader_expect(s);
    return 1;
}
#endif

/* The scanner is at the first byte of a value. */
MSC4203_HOT void reader_value(struct msc4203_reader_state *s)
{
    unsigned where = s->where, first = *s->json.next;

    s->json.flags = 0;
    s->field = READER_SKIP;
    if (where < READER_TOP) {
        const reader_key *key = reader_keys;
        uint32_t rows = s->rows;
        for (; rows > 1; rows >>= 1)
            key++;
        if (rows != 0)
            reader_known(s, key);
    } else if (where == READER_TOP) {
        if (first == '{')
            reader_enter(s, READER_ROOT);
        else
            reader_refuse(s, MSC4203_E_ROOT);
    } else if (where == READER_USERS && first == '{') {
        reader_enter(s, READER_DEVICES);
    } else if (where != READER_NOWHERE) {
        reader_element(s, first);
    }
}

/* Goes back to an EDU's messages, after looking for its sender and type behind them. */
MSC4203_COLD void reader_back(struct msc4203_reader_state *s)
{
    msc4203_json *j = &s->json;

    s->state &= (uint8_t)~(READER_AHEAD | READER_LOST);
    s->seen |= READER_LOOKED;
    if (!(s->state & READER_KNOWN)) { /* cut short */
        j->error = MSC4203_OK;
        if (s->item.sender.ptr == NULL)
            s->seen &= (uint8_t)~ITEM_BIT(ITEM_SENDER);
        if (s->item.type.ptr == NULL)
            s->seen &= (uint8_t)~ITEM_BIT(ITEM_TYPE);
    }
    reader_be(s, READER_ROOT);
    s->part = 0;
    j->next = s->mark;
    j->depth = j->watch = 1;
    j->levels = 1;
    j->role = j->flags = 0;
    j->state = JSON_AT_BEGIN;
    s->field = READER_SKIP;
    reader_items(s, 0, READER_USERS);
}

/* The next user comes. */
MSC4203_COLD void reader_drop_user(struct msc4203_reader_state *s)
{
    s->high = s->base = s->shared;
    s->item.user_id.ptr = NULL;
    s->item.user_id.len = 0;
    s->user_error = MSC4203_OK;
}

/* The container whose members the reader looks at has ended. Tells whether it was an item. */
MSC4203_HOT int reader_leave(struct msc4203_reader_state *s)
{
    unsigned needed = ITEM_BIT(ITEM_SENDER) | ITEM_BIT(ITEM_TYPE) | ITEM_BIT(ITEM_CONTENT);
    unsigned where = s->where, kind = (unsigned)s->item.kind, to = READER_ROOT;

    s->json.watch--;
    if (where == READER_EVENT) {
        if (s->shape == MSC4203_TRANSACTION)
            needed |= ITEM_BIT(ITEM_USER) | ITEM_BIT(ITEM_DEVICE);
        if (needed & ~(unsigned)s->seen)
            reader_error(s, MSC4203_E_FIELD_MISSING);
        reader_be(s, READER_LIST);
        return 1;
    }
    if (where == READER_LIST) {
        if (kind & (MSC4203_DEVICE_CHANGED | MSC4203_DEVICE_LEFT))
            to = READER_LISTS;
        else if (s->shape == MSC4203_SYNC)
            to = READER_SYNC;
    } else if (where == READER_DEVICES) {
        to = READER_USERS;
        reader_drop_user(s);
    } else if (where == READER_ROOT) {
        to = READER_TOP;
        if ((s->seen & READER_BOTH) != READER_BOTH)
            s->edu_error = (int8_t)reader_worse(s->edu_error, MSC4203_E_FIELD_MISSING);
        if (s->state & READER_AHEAD) {
            s->state |= READER_KNOWN;
            reader_back(s);
            return 0;
        }
        if ((s->shape == MSC4203_SEND || s->shape == MSC4203_EDU) &&
            !(s->seen & READER_MESSAGES)) {
            s->json.next--; /* the bracket */
            reader_refuse(s, MSC4203_E_NO_MESSAGES);
            s->json.next++;
        }
    }
    reader_be(s, to);
    return 0;
}

/* A value has ended. Tells whether it was an item. */
MSC4203_HOT int reader_end(struct msc4203_reader_state *s)
{
    msc4203_json *j = &s->json;
    int given;

    if (j->depth < j->watch) {
        given = reader_leave(s);
    } else {
        if (s->field == ITEM_CONTENT) {
            s->item.flags |= j->flags & (MSC4203_LONE_SURROGATE | MSC4203_HUGE_NUMBER);
            if (j->flags & JSON_DEEP)
                reader_error(s, MSC4203_E_TOO_DEEP);
            reader_finish(s, s->mark, (size_t)(j->next - s->mark));
        } else {
            reader_text(s, 1);
        }
        given = s->state & READER_YIELD;
    }
    if (j->state != JSON_AT_BEGIN)
        reader_expect(s);
    return given;
}

/* What all messages of an EDU or of a preset share does not belong to an item that is an id: it is
 * put aside while that is given. */
MSC4203_PRIVATE msc4203_span *reader_shared(struct msc4203_reader_state *s)
{
    return item_field(&s->item, s->shape == MSC4203_EDU ? ITEM_SENDER : ITEM_USER);
}

/* Forgets the item that was given, but for what the next one shares with it. */
MSC4203_HOT void reader_forget(struct msc4203_reader_state *s)
{
    msc4203_item *const item = &s->item;
    msc4203_span *from = &item->sender, *to = &item->content;

    if (item->kind & READER_IDS)
        memcpy(reader_shared(s), s->json.now.spare, sizeof s->json.now.spare);
    if (s->where == READER_USERS)
        reader_drop_user(s);
    if (s->shape == MSC4203_SYNC)
        to = &item->user_id;
    else if (s->where == READER_DEVICES)
        from = &item->device_id;
    else if (s->shape != MSC4203_TRANSACTION)
        from = &item->user_id;
    memset(from, 0, (size_t)((char *)to - (char *)from));
    memset(item_field(item, ITEM_CONTENT), 0, 2 * sizeof(msc4203_span));
    item->error = MSC4203_OK;
    item->flags = 0;
    item->index++;
    s->state &= (uint8_t)~READER_GIVEN;
    s->loose = 0;
    s->low = 0;
    s->high = s->base;
}

MSC4203_API int msc4203_reader_init(msc4203_reader *reader, int shape, unsigned kinds,
                                    void *scratch, size_t scratch_bytes)
{
    struct msc4203_reader_state *s = &reader->priv;

    memset(s, 0, sizeof *s);
    json_init(&s->json, "", 0);
    s->shape = (uint8_t)shape;
    s->kinds = (uint16_t)(kinds & MSC4203_ALL_KINDS);
    s->scratch = scratch != NULL ? (char *)scratch : (char *)s; /* of which nothing is used */
    if (scratch == NULL)
        scratch_bytes = 0;
    s->high = scratch_bytes < UINT32_MAX ? (uint32_t)scratch_bytes : UINT32_MAX;
    s->base = s->shared = s->high;
    s->where = shape == MSC4203_JSON ? READER_NOWHERE : READER_TOP;
    s->json.strict = shape == MSC4203_JSON;
    s->field = READER_SKIP;
    if ((unsigned)shape > MSC4203_JSON) {
        s->json.state = JSON_AT_NOTHING;
        return MSC4203_E_USAGE;
    }
    return MSC4203_OK;
}

MSC4203_API void msc4203_reader_preset(msc4203_reader *reader, const msc4203_item *preset)
{
    struct msc4203_reader_state *s = &reader->priv;
    unsigned first = s->shape == MSC4203_SYNC ? ITEM_USER : ITEM_SENDER;

    if (s->shape == MSC4203_TRANSACTION)
        return;
    memcpy(item_field(&s->item, first), item_field_of(preset, first), 2 * sizeof(msc4203_span));
    s->seen = READER_BOTH;
    s->state |= READER_KNOWN;
    if (preset->error <= MSC4203_E_FIELD_MISSING && preset->error >= MSC4203_E_TOO_LARGE)
        s->edu_error = (int8_t)preset->error;
    if (preset->sender.ptr == NULL || preset->type.ptr == NULL)
        s->edu_error = (int8_t)reader_worse(s->edu_error, MSC4203_E_FIELD_MISSING);
}

MSC4203_API int msc4203_reader_feed(msc4203_reader *reader, const void *data, size_t bytes,
                                    int last)
{
    struct msc4203_reader_state *s = &reader->priv;

    if (s->state & (READER_FED | READER_LAST))
        return MSC4203_E_USAGE;
    s->state |= READER_FED;
    if (last) {
        s->state |= READER_LAST;
        if (s->bytes_fed == 0)
            s->state |= READER_WHOLE;
    }
    s->bytes_fed += bytes;
    s->json.next = bytes != 0 ? (const unsigned char *)data : (const unsigned char *)"";
    s->json.end = s->json.next + bytes;
    s->mark = s->json.next;
    return MSC4203_OK;
}

/* The last chunk is used up. */
MSC4203_COLD int reader_whole(struct msc4203_reader_state *s, const msc4203_item **item)
{
    if (!json_whole(&s->json)) {
        s->json.error = MSC4203_E_TRUNCATED;
    } else if (s->json.error == MSC4203_OK) {
        if (s->shape == MSC4203_EDU) {
            s->item.kind = 0;
            s->item.error = s->edu_error;
            *item = &s->item;
        }
        return MSC4203_END;
    }
    s->json.state = JSON_AT_ERROR;
    return s->json.error;
}

#ifdef MSC4203_WORDS
/* In a long content most chunks are the middle of a string: what is plain at a chunk's begin goes
 * to the rest in one step. */
MSC4203_COLD void reader_middle(struct msc4203_reader_state *s)
{
    const unsigned char *const begin = s->json.next;

    if ((size_t)(s->json.end - begin) <= s->high - s->part) {
        s->json.next = json_plain_run(s->scratch + s->part, begin, s->json.end);
        s->part += (uint32_t)(s->json.next - begin);
        s->mark = s->json.next;
    }
}
#endif

MSC4203_API int msc4203_reader_next(msc4203_reader *reader, const msc4203_item **item)
{
    struct msc4203_reader_state *s = &reader->priv;

    *item = NULL;
    if (s->state & READER_GIVEN)
        reader_forget(s);
#ifdef MSC4203_WORDS
    if (s->part != 0 && s->json.state == JSON_AT_STRING && s->field == ITEM_CONTENT) {
        reader_middle(s);
        if (s->json.next == s->json.end && !(s->state & READER_LAST)) {
            s->state &= (uint8_t)~READER_FED;
            return MSC4203_MORE;
        }
    }
#endif
    for (;;) {
        int got = json_next(&s->json);
        if (got == JSON_GOT_VALUE) {
            reader_value(s);
        } else if (got == JSON_GOT_END) {
            if (reader_end(s))
                break;
        } else if (got == JSON_GOT_TEXT || got == JSON_GOT_KEY) {
            reader_text(s, got == JSON_GOT_KEY);
        } else if (s->state & READER_AHEAD) {
            reader_back(s);
        } else if (got == JSON_GOT_ERROR) {
            return s->json.error != MSC4203_OK ? s->json.error : (int)MSC4203_E_USAGE;
        } else if (s->state & READER_LAST) {
            return reader_whole(s, item);
        } else {
            if (s->loose != 0)
                reader_save(s);
            if (s->field == ITEM_CONTENT)
                reader_store(s, s->mark, (size_t)(s->json.end - s->mark));
            s->state &= (uint8_t)~READER_FED;
            return MSC4203_MORE;
        }
    }
    s->state = (uint8_t)((s->state & ~READER_YIELD) | READER_GIVEN);
    if (s->item.kind & READER_IDS) {
        memcpy(s->json.now.spare, reader_shared(s), sizeof s->json.now.spare);
        memset(reader_shared(s), 0, sizeof s->json.now.spare);
    }
    if (s->item.error == MSC4203_E_TOO_LARGE)
        memset(&s->item.content, 0, sizeof s->item.content);
    *item = &s->item;
    return MSC4203_ITEM;
}

MSC4203_API uint64_t msc4203_reader_offset(const msc4203_reader *reader)
{
    const struct msc4203_reader_state *s = &reader->priv;

    if (s->json.state == JSON_AT_ERROR && s->json.error <= MSC4203_E_ROOT &&
        s->json.error >= MSC4203_E_NO_MESSAGES)
        return s->item.offset;
    return s->bytes_fed - (size_t)(s->json.end - s->json.next);
}

MSC4203_API void msc4203_algorithms_init(msc4203_algorithms *algorithms, const msc4203_item *item)
{
    memset(algorithms, 0, sizeof *algorithms);
    json_init(&algorithms->priv.json, item->content.ptr != NULL ? item->content.ptr : "",
              item->content.len);
}

/* The digits of a count, up to 2^53 - 1: eight of them at a time, for small machines multiply only
 * 32 bits. */
MSC4203_PRIVATE int reader_count(const unsigned char *p, const unsigned char *end, uint64_t *count)
{
    const size_t n = (size_t)(end - p);
    uint32_t low = 0, high = 0;
    size_t i;

    for (i = 0; i < n; i++) {
        uint32_t *part = n - i > 8 ? &high : &low;
        if (n > 16 || p[i] - (unsigned)'0' > 9)
            return MSC4203_E_FIELD_TYPE;
        *part = *part * 10 + (p[i] - (unsigned)'0');
    }
    if (high > 90071992 || (high == 90071992 && low > 54740991))
        return MSC4203_E_FIELD_TYPE;
    /* 10^8 is 390625 * 2^8, and high / 2^13 * 390625 is still below 2^32. */
    *count = ((uint64_t)((high >> 13) * 390625) << 21) + ((uint64_t)((high & 8191) * 390625) << 8);
    *count += low;
    return MSC4203_OK;
}

/* A piece of an algorithm's name. */
MSC4203_PRIVATE int reader_name(msc4203_algorithms *algorithms)
{
    const msc4203_json *j = &algorithms->priv.json;
    unsigned bytes = algorithms->priv.bytes;

    if (j->now.text.bytes > sizeof algorithms->priv.name - bytes)
        return MSC4203_E_TOO_LARGE;
    if (j->now.text.bytes != 0)
        memcpy(algorithms->priv.name + bytes, j->now.text.ptr, j->now.text.bytes);
    algorithms->priv.bytes = bytes + (unsigned)j->now.text.bytes;
    return MSC4203_OK;
}

MSC4203_API int msc4203_algorithms_next(msc4203_algorithms *algorithms, msc4203_span *name,
                                        uint64_t *count)
{
    msc4203_json *j = &algorithms->priv.json;
    const unsigned char *value = NULL;
    int result = algorithms->priv.result;

    *count = 0;
    algorithms->priv.bytes = 0;
    name->ptr = algorithms->priv.name;
    while (result == MSC4203_OK) {
        int got = json_next(j);

        if (got == JSON_GOT_MORE) {
            result = json_whole(j) ? MSC4203_END : MSC4203_E_TRUNCATED;
        } else if (got == JSON_GOT_ERROR) {
            result = j->error;
        } else if (j->depth == 0) { /* the object or the array begins or ends */
            j->watch = 1;
            if (got == JSON_GOT_VALUE && *j->next != '{' && *j->next != '[')
                result = MSC4203_E_FIELD_TYPE;
        } else if (got == JSON_GOT_TEXT || got == JSON_GOT_KEY) {
            result = reader_name(algorithms);
        } else if (got == JSON_GOT_VALUE) {
            value = j->next;
            if (!(j->levels & 1))
                j->role = JSON_TEXT;
        } else {
            if (j->levels & 1)
                result = reader_count(value, j->next, count);
            else
                result = *value == '"' ? reader_name(algorithms) : MSC4203_E_FIELD_TYPE;
            if (result == MSC4203_OK)
                break;
        }
    }
    name->len = algorithms->priv.bytes;
    if (result == MSC4203_OK)
        return MSC4203_ITEM;
    algorithms->priv.result = result;
    return result;
}
#endif /* MSC4203_NO_READER */

/* ------------------------------------------------------------------------------------------------
 * 4. writer: from items to a body
 * --------------------------------------------------------------------------------------------- */
#ifndef MSC4203_NO_WRITER

/* Adds bytes. Where there is no room, or no buffer, they are only counted. */
MSC4203_HOT void writer_put(struct msc4203_writer_state *w, const void *bytes, size_t n)
{
    const size_t at = w->at.used;
    size_t end = at + n;

    end = end < at ? SIZE_MAX : end; /* unreachable: so many bytes */
    if (end <= w->room)
        memcpy(w->buffer + at, bytes, n);
    w->at.used = end;
}

MSC4203_HOT void writer_byte(struct msc4203_writer_state *w, char byte)
{
    writer_put(w, &byte, 1);
}

/* A byte as it stands in a string. Returns how many bytes that is. */
MSC4203_PRIVATE size_t writer_escape(unsigned c, char *escaped)
{
    static const char letters[] = "btnufr"; /* of 0x08 to 0x0D */

    escaped[0] = (char)c;
    if (c >= 0x20 && c != '"' && c != '\\')
        return 1;
    escaped[0] = '\\';
    escaped[1] = (char)c;
    if (c < 0x20)
        escaped[1] = c - 0x08 < 6 ? letters[c - 0x08] : 'u';
    if (escaped[1] != 'u')
        return 2;
    escaped[2] = escaped[3] = '0';
    escaped[4] = (char)('0' + (c >> 4));
    c &= 15;
    escaped[5] = (char)(c < 10 ? '0' + c : 'a' - 10 + c);
    return 6;
}

/* Adds a string in quotes, whatever it is. One that is not valid UTF-8 is an error. */
MSC4203_COLD void writer_any_string(struct msc4203_writer_state *w, const msc4203_span *span)
{
    const unsigned char *p = (const unsigned char *)span->ptr, *const end = p + span->len;
    const unsigned char *run = p; /* from here on what stands as it is */
    msc4203_json *const j = &w->json;
    char escaped[6];
    size_t n;
#ifdef MSC4203_WORDS
    const uintptr_t last = json_last(p, end);
#endif

    writer_byte(w, '"');
    j->need = 0;
    for (;; p++) {
#ifdef MSC4203_WORDS
        if (j->need == 0)
            p = json_plain(p, end, last);
#endif
        if (p == end)
            break;
        if (j->need != 0) {
            if (!json_utf8_next(j, *p))
                w->error = MSC4203_E_UTF8;
        } else if (*p >= 0x80) {
            json_utf8(j, *p);
            if (j->need == 0)
                w->error = MSC4203_E_UTF8;
        }
        n = writer_escape(*p, escaped);
        if (n != 1) {
            writer_put(w, run, (size_t)(p - run));
            writer_put(w, escaped, n);
            run = p + 1;
        }
    }
    writer_put(w, run, (size_t)(end - run));
    if (j->need != 0)
        w->error = MSC4203_E_UTF8;
    writer_byte(w, '"');
}

/* Adds a string in quotes. */
MSC4203_COLD void writer_string(struct msc4203_writer_state *w, const msc4203_span *span)
{
#ifdef MSC4203_WORDS
    /* Nearly always all of it is plain, and there is room. */
    const unsigned char *const p = (const unsigned char *)span->ptr, *const end = p + span->len;
    const size_t at = w->at.used, left = w->room - at;
    char *const to = at <= w->room ? w->buffer + at : NULL; /* there may be no buffer */

    if (to != NULL && left >= 2 && span->len <= left - 2 &&
        json_plain_run(to + 1, p, end) == end) {
        to[0] = to[1 + span->len] = '"';
        w->at.used = at + span->len + 2;
        return;
    }
#endif
    writer_any_string(w, span);
}

/* Compares a string with one that has been written at `at`, both as they are written: any order
 * that is the same each time serves. */
MSC4203_PRIVATE int writer_compare(const struct msc4203_writer_state *w, size_t at,
                                   const msc4203_span *span)
{
    const char *written = w->buffer + at + 1;
    char escaped[6];
    size_t i, k, n;

    for (i = 0; i < span->len; i++) {
        n = writer_escape((unsigned char)span->ptr[i], escaped);
        for (k = 0; k < n; k++, written++)
            if (*written != escaped[k])
                return (unsigned char)*written < (unsigned char)escaped[k] ? 1 : -1;
    }
    return *written == '"' ? 0 : -1;
}

/* Looks for a key in the object that has been written from `begin` on. */
MSC4203_COLD int writer_find(struct msc4203_writer_state *w, size_t begin, const msc4203_span *key)
{
    msc4203_json *j = &w->json;
    size_t same = 0, n;
    int got;

    json_init(j, w->buffer + begin, w->at.used - begin);
    j->watch = 1;
    while ((got = json_next(j)) != JSON_GOT_MORE) {
        if (got == JSON_GOT_VALUE)
            same = 0;
        if (got != JSON_GOT_TEXT && got != JSON_GOT_KEY)
            continue;
        n = j->now.text.bytes;
        if (same + n <= key->len && memcmp(key->ptr + same, j->now.text.ptr, n) == 0)
            same += n;
        else
            same = SIZE_MAX / 2 + 1; /* more than any key has */
        if (got == JSON_GOT_KEY && same == key->len)
            return 1;
    }
    return 0;
}

/* The kinds that share device_lists, and those that are one string. */
enum {
    WRITER_LISTS = MSC4203_DEVICE_CHANGED | MSC4203_DEVICE_LEFT,
    WRITER_IDS = MSC4203_MESSAGE_ID | MSC4203_NEXT_BATCH
};

/* What each kind is written under; the fields that it needs; and what its value is: a list, an
 * object USER -> DEVICE -> content, a string, or an object with a list of this name, whose bytes,
 * four or more of them, are told by the two highest bits of `needs`. */
typedef struct msc4203_writer_kind {
    item_key key;
    uint8_t needs, form;
} writer_kind;

#define WRITER_MEMBER(name) (uint8_t)offsetof(struct item_names, name)
#define WRITER_BYTES(name) (sizeof item_names.name - 1 - 4) << ITEM_FIELDS
enum {
    WRITER_LIST,
    WRITER_MAP,
    WRITER_ID,
    WRITER_BOTH = 1 << ITEM_SENDER | 1 << ITEM_TYPE,
    WRITER_CONTENT = 1 << ITEM_CONTENT,
    WRITER_DEVICE = 1 << ITEM_USER | 1 << ITEM_DEVICE | WRITER_CONTENT
};

static const writer_kind writer_kinds[] = {
    {ITEM_KEY(to_device, MSC2409), WRITER_BOTH | WRITER_DEVICE, WRITER_LIST},
    {ITEM_KEY(events, PLAIN), WRITER_CONTENT, WRITER_LIST},
    /* stable for so long that all receivers know it */
    {ITEM_KEY(ephemeral, PLAIN), WRITER_CONTENT, WRITER_LIST},
    {ITEM_KEY(device_lists, MSC3202), 1 << ITEM_USER | WRITER_BYTES(changed),
     WRITER_MEMBER(changed)},
    {ITEM_KEY(device_lists, MSC3202), 1 << ITEM_USER | WRITER_BYTES(left), WRITER_MEMBER(left)},
    {ITEM_KEY(counts, MSC3202), WRITER_DEVICE, WRITER_MAP},
    {ITEM_KEY(types, MSC3202), WRITER_DEVICE, WRITER_MAP},
    {ITEM_KEY(message_id, PLAIN), 1 << ITEM_ID, WRITER_ID},
    {ITEM_KEY(next_batch, PLAIN), 1 << ITEM_ID, WRITER_ID},
    /* to-device messages in the other shapes */
    {ITEM_KEY(messages, PLAIN), WRITER_DEVICE, WRITER_MAP},
    {ITEM_KEY(messages, PLAIN), WRITER_BOTH | WRITER_DEVICE, WRITER_MAP},
    {ITEM_KEY(to_device, PLAIN), WRITER_BOTH | WRITER_CONTENT | WRITER_BYTES(events),
     WRITER_MEMBER(events)}
};

/* What each shape has: the kinds, and the list that is never left out. */
static const struct msc4203_writer_shape {
    uint16_t kinds;
    uint8_t kind, row;
} writer_shapes[] = {
    {MSC4203_ALL_KINDS & ~WRITER_IDS, MSC4203_EVENT, 1},
    {MSC4203_TO_DEVICE, MSC4203_TO_DEVICE, 9},
    {MSC4203_TO_DEVICE | MSC4203_MESSAGE_ID, MSC4203_TO_DEVICE, 10},
    {MSC4203_TO_DEVICE | MSC4203_NEXT_BATCH, MSC4203_TO_DEVICE, 11}
};

/* The row of a kind, or NULL when the shape has no place for it. */
MSC4203_PRIVATE const writer_kind *writer_row(const struct msc4203_writer_state *w, unsigned kind)
{
    const writer_kind *row = writer_kinds;
    unsigned bit = MSC4203_TO_DEVICE;

    for (; bit != kind && bit <= MSC4203_NEXT_BATCH; bit <<= 1)
        row++;
    if (!(w->has->kinds & bit))
        return NULL;
    return bit == w->has->kind ? &writer_kinds[w->has->row] : row;
}

/* Adds a key: its name and the bytes of that, with the prefix. `first` if it is the first of an
 * object in the body. */
MSC4203_PRIVATE void writer_name(struct msc4203_writer_state *w, int first, unsigned name,
                                 unsigned bytes)
{
    writer_byte(w, first || w->at.used == 0 ? '{' : ',');
    writer_byte(w, '"');
    if (!(w->flags & MSC4203_STABLE_KEYS)) {
        if (bytes & ITEM_MSC2409)
            writer_put(w, item_names.msc2409, sizeof item_names.msc2409 - 1);
        if (bytes & ITEM_MSC3202)
            writer_put(w, item_names.msc3202, sizeof item_names.msc3202 - 1);
    }
    writer_put(w, item_text(name), bytes & ITEM_BYTES);
    writer_byte(w, '"');
    writer_byte(w, ':');
}

/* Adds a key that has no prefix. */
MSC4203_HOT void writer_key(struct msc4203_writer_state *w, int first, const item_key *key)
{
#ifdef MSC4203_WORDS
    /* Nearly always there is room. Of a key that the compiler knows nothing is then left but to
     * store it. */
    const size_t at = w->at.used, bytes = key->bytes;

    if (at <= w->room && bytes + 4 <= w->room - at) {
        char *const to = w->buffer + at;

        to[0] = first ? '{' : ',';
        to[1] = '"';
        memcpy(to + 2, item_text(key->name), bytes);
        to[2 + bytes] = '"';
        to[3 + bytes] = ':';
        w->at.used = at + bytes + 4;
        return;
    }
#endif
    writer_name(w, first, key->name, key->bytes);
}

/* How many lists and objects, one in the other, there are to close before another key. */
MSC4203_PRIVATE size_t writer_levels(const struct msc4203_writer_state *w)
{
    if (w->at.row == NULL)
        return 0;
    return w->at.row->form > WRITER_ID || w->at.user != 0 ? 2 : 1;
}

/* Closes them. */
MSC4203_PRIVATE void writer_close(struct msc4203_writer_state *w)
{
    const char *brackets = "]}}";

    if (w->at.row == NULL)
        return;
    if (w->at.row->form == WRITER_MAP)
        brackets++;
    writer_put(w, brackets, writer_levels(w));
}

/* Closes the list or the object that is open and opens that of another kind of items; adds no more
 * than the key of one that is a string. That of an EDU comes behind its sender and its type, which
 * stand here one behind the other. */
MSC4203_COLD void writer_open(struct msc4203_writer_state *w, const writer_kind *row,
                              const msc4203_span *sender)
{
    int same = w->at.row != NULL && w->at.row->key.name == row->key.name;

    if (same) {
        writer_byte(w, ']');
    } else {
        writer_close(w);
        if (w->at.seen & WRITER_LISTS)
            w->at.seen |= WRITER_LISTS; /* what both share has been closed */
        if (w->shape == MSC4203_EDU && row->form == WRITER_MAP) {
            writer_name(w, 0, WRITER_MEMBER(sender), sizeof item_names.sender - 1);
            w->at.sender = w->at.used;
            writer_string(w, sender);
            writer_name(w, 0, WRITER_MEMBER(type), sizeof item_names.type - 1);
            w->at.type = w->at.used;
            writer_string(w, sender + 1);
        }
        writer_name(w, 0, row->key.name, row->key.bytes);
    }
    w->at.row = row;
    w->at.user = w->at.users.max = 0;
    w->at.users.begin = w->at.used;
    if (row->form == WRITER_ID) {
        w->at.row = NULL;
        w->at.reserve = 0;
        return;
    }
    if (row->form > WRITER_ID)
        writer_name(w, !same, row->form, 4u + (row->needs >> ITEM_FIELDS));
    writer_byte(w, row->form == WRITER_MAP ? '{' : '[');
}

/* Adds what closes the body. */
MSC4203_PRIVATE void writer_tail(struct msc4203_writer_state *w)
{
    msc4203_span none[2];

    if (!(w->at.seen & w->has->kind)) {
        none[0].ptr = none[1].ptr = "";
        none[0].len = none[1].len = 0;
        writer_open(w, &writer_kinds[w->has->row], none);
    }
    writer_close(w);
    writer_byte(w, '}');
}

/* Notes a key that begins here. An error when the object has it already. Where nothing has been
 * written, nothing can be compared. */
MSC4203_PRIVATE void writer_note_key(struct msc4203_writer_state *w,
                                     struct msc4203_writer_object *object, const msc4203_span *key)
{
    if (w->buffer == NULL || object->max == 0 || writer_compare(w, object->max, key) > 0)
        object->max = w->at.used;
    else if (writer_find(w, object->begin, key))
        w->error = MSC4203_E_ORDER;
}

/* Is it the user whose devices are being written? Where nothing is written to compare, a hash and
 * the length tell. */
MSC4203_PRIVATE int writer_same_user(struct msc4203_writer_state *w, const msc4203_span *user)
{
    uint32_t hash = UINT32_C(2166136261), last = w->at.user_hash;
    size_t i, len = w->at.user_len;

    if (w->at.user != 0 && w->buffer != NULL)
        return writer_compare(w, w->at.user, user) == 0;
    for (i = 0; i < user->len; i++)
        hash = (hash ^ (unsigned char)user->ptr[i]) * UINT32_C(16777619);
    w->at.user_hash = hash;
    w->at.user_len = user->len;
    return w->at.user != 0 && hash == last && user->len == len;
}

/* Adds a member of an object USER -> DEVICE -> content, without the content. (What stands before a
 * key there is room for: what closes the body would take more.) */
MSC4203_PRIVATE void writer_device(struct msc4203_writer_state *w, const msc4203_item *item)
{
    struct msc4203_writer_place *place = &w->at;

    if (!writer_same_user(w, &item->user_id)) {
        if (place->user != 0) {
            writer_byte(w, '}');
            writer_byte(w, ',');
        }
        place->user = place->used;
        writer_note_key(w, &place->users, &item->user_id);
        writer_string(w, &item->user_id);
        writer_byte(w, ':');
        place->devices.begin = place->used;
        place->devices.max = 0;
        writer_byte(w, '{');
    } else {
        writer_byte(w, ',');
    }
    writer_note_key(w, &place->devices, &item->device_id);
    writer_string(w, &item->device_id);
    writer_byte(w, ':');
}

/* Checks that a content is one JSON text of the right type, and fit for all receivers. `depth` is
 * the number of levels around it. */
MSC4203_COLD int writer_check(struct msc4203_writer_state *w, const msc4203_span *content,
                                 char first, unsigned depth)
{
    msc4203_json *j = &w->json;

    json_init(j, content->ptr, content->len);
    j->limit = (uint16_t)(j->limit - depth);
    j->strict = 1;
    if (json_next(j) == JSON_GOT_VALUE) {
        if (*j->next != (unsigned char)first)
            return MSC4203_E_FIELD_TYPE;
        if (json_next(j) == JSON_GOT_END)
            json_next(j); /* there must not be more */
    }
    if (j->state == JSON_AT_ERROR)
        return j->error;
    if (j->state != JSON_AT_TAIL)
        return MSC4203_E_TRUNCATED;
    if (j->flags & MSC4203_LONE_SURROGATE)
        return MSC4203_E_SURROGATE;
    return j->flags & MSC4203_HUGE_NUMBER ? MSC4203_E_NUMBER : MSC4203_OK;
}

/* Checks an item without a look at where it is to stand. */
MSC4203_PRIVATE int writer_check_item(struct msc4203_writer_state *w, const writer_kind *row,
                                      const msc4203_item *item)
{
    unsigned depth = 2, field;

    if (item->error != MSC4203_OK)
        return item->error < 0 && item->error > MSC4203_E_USAGE ? item->error : MSC4203_E_USAGE;
    if (row == NULL)
        return MSC4203_E_KIND;
    for (field = 0; field < ITEM_FIELDS; field++)
        if (row->needs >> field & 1 && item_field_of(item, field)->ptr == NULL)
            return MSC4203_E_FIELD_MISSING;
    if (!(row->needs & WRITER_CONTENT))
        return MSC4203_OK;
    if (row->needs != WRITER_CONTENT)
        depth = w->shape == MSC4203_SYNC ? 4 : 3;
    return writer_check(w, &item->content, item->kind == MSC4203_FALLBACK_TYPES ? '[' : '{', depth);
}

/* The members of a message in a list, in the order of their keys. */
static const struct writer_field {
    uint8_t field;
    item_key key;
} writer_fields[] = {
    {ITEM_CONTENT, ITEM_KEY(content, PLAIN)},
    {ITEM_SENDER, ITEM_KEY(sender, PLAIN)},
    {ITEM_DEVICE, ITEM_KEY(device_id, PLAIN)},
    {ITEM_USER, ITEM_KEY(user_id, PLAIN)},
    {ITEM_TYPE, ITEM_KEY(type, PLAIN)}
};

/* Adds a message with the fields that it needs. */
MSC4203_PRIVATE void writer_message(struct msc4203_writer_state *w, const writer_kind *row,
                                    const msc4203_item *item)
{
    const msc4203_span *span;
    unsigned k, field;

    MSC4203_UNROLL(5)
    for (k = 0; k < sizeof writer_fields / sizeof writer_fields[0]; k++) {
        field = writer_fields[k].field;
        if (!(row->needs >> field & 1))
            continue;
        writer_key(w, k == 0, &writer_fields[k].key);
        span = item_field_of(item, field);
        if (field == ITEM_CONTENT)
            writer_put(w, span->ptr, span->len);
        else
            writer_string(w, span);
    }
    writer_byte(w, '}');
}

/* Adds an item, or what fits of it. */
MSC4203_PRIVATE void writer_add(struct msc4203_writer_state *w, const writer_kind *row,
                                const msc4203_item *item)
{
    const unsigned kind = (unsigned)item->kind;

    if (row == w->at.row) {
        if (w->shape == MSC4203_EDU && w->buffer != NULL &&
            (writer_compare(w, w->at.sender, &item->sender) != 0 ||
             writer_compare(w, w->at.type, &item->type) != 0))
            w->error = MSC4203_E_SECOND;
        if (row->form != WRITER_MAP)
            writer_byte(w, ',');
    } else {
        if (w->at.seen & kind)
            w->error = row->form == WRITER_ID ? MSC4203_E_SECOND : MSC4203_E_ORDER;
        writer_open(w, row, &item->sender);
        w->at.seen |= (uint16_t)kind;
    }
    if (row->form == WRITER_MAP)
        writer_device(w, item);
    if (!(row->needs & WRITER_CONTENT))
        writer_string(w, row->form == WRITER_ID ? &item->id : &item->user_id);
    else if (row->form == WRITER_MAP || !(row->needs & WRITER_BOTH))
        writer_put(w, item->content.ptr, item->content.len);
    else
        writer_message(w, row, item);
}

MSC4203_API int msc4203_writer_begin(msc4203_writer *writer, int shape, unsigned flags,
                                     void *buffer, size_t capacity)
{
    struct msc4203_writer_state *w = &writer->priv;

    memset(w, 0, sizeof *w);
    w->shape = (uint8_t)shape;
    w->flags = (uint8_t)flags;
    w->error = MSC4203_E_USAGE;
    if ((unsigned)shape <= MSC4203_SYNC && flags <= MSC4203_STABLE_KEYS) {
        w->has = &writer_shapes[shape & 3];
        writer_tail(w); /* there is no buffer yet: it is only counted */
        w->at.tail = w->needed = w->at.used;
        w->least = (uint8_t)w->at.used;
        w->at.used = 0;
        w->at.row = NULL;
        w->error = MSC4203_OK;
        if (buffer != NULL) {
            w->buffer = (char *)buffer;
            w->room = capacity;
            if (capacity < w->needed)
                w->error = MSC4203_E_FULL;
        }
        w->open = w->error == MSC4203_OK;
    }
    return w->error;
}

MSC4203_API int msc4203_writer_reserve(msc4203_writer *writer, size_t bytes)
{
    struct msc4203_writer_state *w = &writer->priv;

    if (w->error != MSC4203_OK)
        return w->error;
    if (!w->open)
        return MSC4203_E_USAGE;
    if (w->buffer != NULL && bytes > w->room - w->at.tail - w->at.used)
        return MSC4203_E_FULL;
    w->at.reserve = bytes;
    return MSC4203_OK;
}

MSC4203_API int msc4203_writer_item(msc4203_writer *writer, const msc4203_item *item)
{
    struct msc4203_writer_state *w = &writer->priv;
    struct msc4203_writer_place before = w->at;
    const writer_kind *row;
    size_t needed;
    int result;

    if (!w->open && w->error == MSC4203_OK)
        w->error = MSC4203_E_USAGE;
    if (w->error != MSC4203_OK)
        return w->error;
    row = writer_row(w, (unsigned)item->kind);
    result = writer_check_item(w, row, item);
    w->error = (int8_t)result;
    if (result == MSC4203_OK)
        writer_add(w, row, item);
    result = w->error;
    if (result == MSC4203_OK) {
        w->at.tail = writer_levels(w) + ((w->at.seen & w->has->kind) != 0 ? 1 : w->least);
        needed = w->at.used + w->at.tail + w->at.reserve;
        needed = needed < w->at.used ? SIZE_MAX : needed; /* unreachable: so many bytes */
        if (w->buffer == NULL || needed <= w->room)
            return MSC4203_OK;
        w->needed = needed;
        result = MSC4203_E_FULL;
    }
    w->at = before;
    return result;
}

MSC4203_API int msc4203_writer_end(msc4203_writer *writer, size_t *bytes)
{
    struct msc4203_writer_state *w = &writer->priv;

    if (w->error != MSC4203_OK)
        return w->error;
    if (w->at.tail == 0)
        return MSC4203_E_USAGE;
    if ((w->has->kinds & ~(unsigned)w->at.seen) >= MSC4203_MESSAGE_ID) /* the kinds of ids */
        return MSC4203_E_FIELD_MISSING;
    if (w->open)
        writer_tail(w);
    w->open = 0;
    if (bytes != NULL)
        *bytes = w->at.used;
    return MSC4203_OK;
}

MSC4203_API size_t msc4203_writer_needed(const msc4203_writer *writer)
{
    return writer->priv.needed;
}

MSC4203_API int msc4203_writer_clear(msc4203_writer *writer)
{
    struct msc4203_writer_state *w = &writer->priv;
    int error = w->error;

    if (w->open)
        w->error = MSC4203_OK;
    return error;
}
#endif /* MSC4203_NO_WRITER */

/* ------------------------------------------------------------------------------------------------
 * 5. queue: whom a message waits for
 * --------------------------------------------------------------------------------------------- */

MSC4203_PRIVATE int queue_same(const msc4203_span *a, const msc4203_span *b)
{
    return a->len == b->len && (a->len == 0 || memcmp(a->ptr, b->ptr, a->len) == 0);
}

MSC4203_API uint32_t msc4203_route(const msc4203_appservice *services, size_t count,
                                   const msc4203_span *user_id, size_t maker,
                                   int (*match)(const msc4203_appservice *service,
                                                const msc4203_span *user_id))
{
    uint32_t set = 0, sync = 1;
    size_t i;

    for (i = 0; i < count; i++) {
        const msc4203_appservice *service = &services[i];
        int how;

        if (!service->opted_in)
            continue;
        if (service->sender.ptr != NULL && queue_same(&service->sender, user_id))
            how = MSC4203_EXCLUSIVE;
        else
            how = (match)(service, user_id);
        if (how == MSC4203_OUTSIDE)
            continue;
        set |= (uint32_t)1 << service->channel;
        if (how == MSC4203_EXCLUSIVE || i == maker)
            sync = 0;
    }
    return set | sync;
}

/* ---- digests ---- */

MSC4203_PRIVATE uint32_t digest_rotate(uint32_t x, int by)
{
    return x << by | x >> (32 - by);
}

/* Rounds of HalfSipHash. */
MSC4203_PRIVATE void digest_mix(uint32_t v[4], int rounds)
{
    while (rounds-- != 0) {
        v[0] += v[1];
        v[1] = digest_rotate(v[1], 5) ^ v[0];
        v[0] = digest_rotate(v[0], 16);
        v[2] += v[3];
        v[3] = digest_rotate(v[3], 8) ^ v[2];
        v[0] += v[3];
        v[3] = digest_rotate(v[3], 7) ^ v[0];
        v[2] += v[1];
        v[1] = digest_rotate(v[1], 13) ^ v[2];
        v[2] = digest_rotate(v[2], 16);
    }
}

MSC4203_API void msc4203_digest_init(msc4203_digest *digest, uint64_t key)
{
    memset(digest, 0, sizeof *digest);
    digest->priv.v[0] = (uint32_t)key;
    digest->priv.v[1] = (uint32_t)(key >> 32) ^ 0xEE;
    digest->priv.v[2] = (uint32_t)key ^ 0x6C796765u;
    digest->priv.v[3] = (uint32_t)(key >> 32) ^ 0x74656462u;
}

MSC4203_PRIVATE void digest_word(msc4203_digest *digest, uint32_t word)
{
    digest->priv.v[3] ^= word;
    digest_mix(digest->priv.v, 2);
    digest->priv.v[0] ^= word;
}

MSC4203_API void msc4203_digest_add(msc4203_digest *digest, const void *data, size_t bytes)
{
    const unsigned char *p = (const unsigned char *)data;
    size_t n;

    for (; bytes != 0; bytes -= n, p += n) {
        n = bytes >= 4 && (digest->priv.bytes & 3) == 0 ? 4 : 1;
        if (n == 4)
            digest->priv.word = p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
                                (uint32_t)p[3] << 24;
        else
            digest->priv.word = digest->priv.word >> 8 | (uint32_t)*p << 24;
        digest->priv.bytes += (uint32_t)n;
        if ((digest->priv.bytes & 3) == 0)
            digest_word(digest, digest->priv.word);
    }
}

MSC4203_API void msc4203_digest_end(msc4203_digest *digest, unsigned char out[16])
{
    uint32_t *v = digest->priv.v, left = digest->priv.bytes & 3, word;
    unsigned i;

    word = left == 0 ? 0 : digest->priv.word >> (32 - 8 * left);
    digest_word(digest, word | digest->priv.bytes << 24);
    v[2] ^= 0xEE;
    for (i = 0; i < 16; i++) {
        if ((i & 3) == 0) {
            digest_mix(v, 4);
            word = v[1] ^ v[3];
            v[1] ^= 0xDD;
        }
        out[i] = (unsigned char)(word >> 8 * (i & 3));
    }
}

/* ------------------------------------------------------------------------------------------------
 * 6. log: the queue in a region
 *
 * One rule: a sector that holds anything durable is never written again until the segment that it
 * belongs to is erased (or, where nothing need be erased, begun anew). So everything is appended.
 *
 *   unit       16 bytes; records are made of whole units and begin at one
 *   sector     what a power failure can damage together
 *   segment    1/128 to 1/8 of the region; it holds the largest message, and is a multiple of the
 *              sector and of the block that is erased
 *   sequence   the number of a segment's use: 1, 2, 3, ...
 *   position   where a record is: its segment's place in the region, and its unit in there
 *   number     of a message: its place in the order of all
 *
 *   region     | segment 0 | segment 1 | segment 2 | ...        each is used again when it is free
 *   segment    | header | message | message | commit | pad | done | pad | message | ... | pad |
 *                                                    ^ flush    ^ flush                 ^ end
 *
 * All is in words of 32 bits, little-endian. A record begins with a fixed part:
 *
 *   word 0     units (24 bits), kind (4), bytes at its end that are not used (4)
 *   word 1     units of this segment that were durable when it was written (24), `small` (8)
 *   word 2     the checksum of its body, the bytes behind the fixed part
 *   word 3     the checksum of the fixed part without this word. It begins with the log's key (64
 *              random bits), the segment's sequence number and its opening's salt, and the unit
 *
 *   kind       fixed part, from word 4 on; body                                 small
 *   1 segment  the header of a segment, 32 words: see log_put_header()
 *   2 message  lengths of sender and type, of user and device id (16 bits       batch
 *              each); time (48 bits); index in its batch (24), turn of the
 *              batch (8); channels; hash of the device; body: the strings
 *   3 copy     the same, but its number (16 bits above the time, then 32)       flags
 *   4 moved    the same; the number that it had, the channel that it left       flags
 *   5 commit   first number (64), messages (24) and turn (8), the request's     batch
 *              count, the request; word 2: the latest time
 *   6 abort    word 2: turn                                                     batch
 *   7 channel  up to where it is in flight, up to where it is done (48 each),   channel, flags
 *              lengths of name and record; body: these
 *   8 done     through (64)                                                     channel
 *   9 synced   hash of the device, through
 *   10 taken   number                                                           channel
 *   11 dropped hash of the device, through, who sent; body: what was in flight
 *   12 remember  count of the first, how many; body: requests or openings      which
 *   13 pad     word 2: the oldest sequence number that is still needed; fills
 *              the sector at the end of a flush
 *   14 image   count, part of the index, first word, sequence; body: the words  2 at the end
 *
 * The life of a message: `message`, when it is pushed; `commit` gives it a number; a flush makes
 * both durable; `copy`, when its segment is the oldest one and room is needed; `done`, `synced` or
 * `taken`, when it was delivered. Then nothing needs it any more, and when that is so of all in the
 * oldest segments, a pad or a header says so, and they are free from the next sync on.
 *
 * Marks grow: done, synced and dropped say "all up to this number". So opening can read all records
 * in order, collect messages, marks and numbers that were taken, and put them together at the end.
 * What belongs to an open batch has no number yet.
 *
 * The end of the log is the first record that is not whole, unless something later says that this
 * place was durable: then it is damage, and reading goes on behind it. Each opening for writing
 * begins a segment, whose header says where the one before it ended, and which are void: so nothing
 * that was cut off comes back, and nothing is written twice. It has a salt of its own, which is
 * worked out from the one before: so records are found also where a header was lost.
 * --------------------------------------------------------------------------------------------- */

/* 6. log: begin */
#ifndef MSC4203_NO_LOG

#if defined(__BYTE_ORDER__) && defined(__ORDER_LITTLE_ENDIAN__)
#define LOG_LITTLE (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)
#else
#define LOG_LITTLE 0 /* not known: what swaps bytes works on any machine */
#endif

enum {
    LOG_UNIT = 16,
    LOG_STEP = 512,          /* segments are multiples of this, of the sector and of the block */
    LOG_SEGMENT_MIN = 1536,  /* bytes of a segment: it must hold the record of any channel */
    LOG_SEGMENTS_MIN = 8,
    LOG_SEGMENTS_MAX = 128,
    LOG_BATCHES = 32,
    LOG_NAME_MAX = 255,
    LOG_RECORD_MAX = 4096,
    LOG_HEADER_UNITS = 8,    /* a segment's header */
    LOG_HEADER_WORDS = 32,
    LOG_NAMED_UNITS = 19,    /* of a channel's record without the caller's own */
    LOG_CHANNEL_FIXED = 32,  /* bytes of a channel's record before its name */
    LOG_MESSAGE_FIXED = 48,  /* bytes of a message before its strings; */
    LOG_MOVED_FIXED = 64,    /* of one that was moved */
    LOG_ITEMS = 8,           /* requests or openings that are copied together */
    LOG_ITEM_WORD = 0xFFFFFF, /* of an item's last word; above it is its segment */
    LOG_IMAGE_ENDS = 2,      /* `small` of the index's last part (1: of one that is not read now) */
    LOG_GROUP = 64,          /* entries of a group, groups of a group of the second level */
    LOG_IMAGE_WORDS = 1024,  /* of a part of the index, on the storage */
    LOG_FREE_MIN = 3,        /* segments that stay free whatever is called */
    LOG_TRIES = 4            /* sequence numbers with which a lost header is looked for */
};

/* Kinds of records. */
enum {
    LOG_SEGMENT = 1, LOG_MESSAGE = 2, LOG_COPY = 3, LOG_MOVED = 4, LOG_COMMIT = 5, LOG_ABORT = 6,
    LOG_CHANNEL = 7, LOG_DONE = 8, LOG_SYNCED = 9, LOG_TAKEN = 10, LOG_DROPPED = 11,
    LOG_REMEMBER = 12, LOG_PAD = 13, LOG_IMAGE = 14
};

/* Flags of a message: it is, or was, for /sync; its device was dropped while it was in flight; its
 * strings can't be read. */
enum { LOG_FOR_SYNC = 1, LOG_SPARED = 2, LOG_DAMAGED = 4 };
/* Flags of a channel's record: spared messages are let go of; the channel is given back; the record
 * is copied, to make room. */
enum { LOG_RELEASES = 0x80, LOG_GIVEN_BACK = 0x40, LOG_COPIED = 0x20 };

enum { LOG_REQUESTS = 0, LOG_OPENINGS = 1 }; /* what is remembered */

/* A device's chain; while the log is read, two marks in its place: numbers, low word first. */
enum { CHAIN_FIRST = 0, CHAIN_SYNC = 1, CHAIN_LAST = 2, CHAIN_TAIL = 3 };
enum { MARK_SYNCED = 0, MARK_DROPPED = 2 };

enum { BATCH_FREE = 0, BATCH_OPEN = 1, BATCH_GIVEN_UP = 2 };
enum { BATCH_LOST = 1 }; /* while the log is read: the record that ended it was lost */
enum { PHASE_CLOSED = 0, PHASE_READING = 1, PHASE_READ_ONLY = 2, PHASE_OPEN = 3 };

#define LOG_MAGIC_LOW 0x3463736Du /* "msc4203" and the format's version, 1 */
#define LOG_MAGIC_HIGH 0x01333032u
#define LOG_P1 0x9E3779B1u
#define LOG_P2 0x85EBCA77u
#define LOG_NUMBER_MAX (((uint64_t)1 << 43) - 1)
#define LOG_MESSAGES_MAX 1700000u
#define LOG_DEVICES_MAX 500000u
#define LOG_UNITS_MAX 8191u /* of a message: 13 bits */

/* ---- words, checksums ---- */

MSC4203_PRIVATE uint32_t log_rotate(uint32_t x, int by)
{
    return x << by | x >> (32 - by);
}

/* The word of 4 bytes, lowest first. */
MSC4203_PRIVATE uint32_t log_get(const void *bytes)
{
    uint32_t word;
    unsigned char b[4];

    if (LOG_LITTLE) {
        memcpy(&word, bytes, 4);
        return word;
    }
    memcpy(b, bytes, 4);
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

/* Between the machine's order of bytes and the log's. */
MSC4203_PRIVATE void log_swap(uint32_t *words, uint32_t count)
{
    for (; !LOG_LITTLE && count != 0; count--, words++)
        *words = log_get(words);
}

MSC4203_PRIVATE uint64_t log_number64(const uint32_t words[2])
{
    return words[0] | (uint64_t)words[1] << 32;
}

MSC4203_PRIVATE void log_set64(uint32_t words[2], uint64_t number)
{
    words[0] = (uint32_t)number;
    words[1] = (uint32_t)(number >> 32);
}

MSC4203_PRIVATE uint64_t log_larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

MSC4203_PRIVATE uint32_t log_clip(uint32_t value, uint32_t least, uint64_t most)
{
    return value < least ? least : value > most ? (uint32_t)most : value;
}

/* The checksum of contents: eight lanes side by side, each with the sum of its words and a rotating
 * sum of these sums. Compilers make vector instructions of it. */
struct log_sum {
    uint32_t a[8], b[8];
    uint32_t bytes;
    unsigned char rest[32];
};

MSC4203_PRIVATE void log_sum_begin(struct log_sum *sum, const uint32_t key[2])
{
    uint32_t i;

    for (i = 0; i < 8; i++) {
        sum->a[i] = key[0] + i * LOG_P1;
        sum->b[i] = key[1];
    }
    sum->bytes = 0;
}

/* Adds whole stripes of 32 bytes. */
MSC4203_APART void log_sum_stripes(struct log_sum *sum, const unsigned char *p, size_t stripes)
{
#if !defined(MSC4203_NO_SIMD) && defined(__SSE2__)
    __m128i a[2], b[2];
    int i;

    memcpy(a, sum->a, sizeof a);
    memcpy(b, sum->b, sizeof b);
    for (; stripes != 0; stripes--)
        for (i = 0; i < 2; i++, p += 16) {
            a[i] = _mm_add_epi32(a[i], _mm_loadu_si128((const __m128i *)(const void *)p));
            b[i] = _mm_or_si128(_mm_slli_epi32(b[i], 9), _mm_srli_epi32(b[i], 23));
            b[i] = _mm_add_epi32(b[i], a[i]);
        }
#else
    uint32_t a[8], b[8], i;

    memcpy(a, sum->a, sizeof a);
    memcpy(b, sum->b, sizeof b);
    for (; stripes != 0; stripes--, p += 32)
        for (i = 0; i < 8; i++) {
            a[i] += log_get(p + 4 * i);
            b[i] = log_rotate(b[i], 9) + a[i];
        }
#endif
    memcpy(sum->a, a, sizeof a);
    memcpy(sum->b, b, sizeof b);
}

MSC4203_APART void log_sum_add(struct log_sum *sum, const void *data, size_t bytes)
{
    const unsigned char *p = (const unsigned char *)data;
    uint32_t fill = sum->bytes & 31, n = 32 - fill;

    if (bytes == 0)
        return;
    sum->bytes += (uint32_t)bytes;
    if (fill != 0) {
        if (bytes < n) {
            memcpy(sum->rest + fill, p, bytes);
            return;
        }
        memcpy(sum->rest + fill, p, n);
        log_sum_stripes(sum, sum->rest, 1);
        p += n;
        bytes -= n;
    }
    log_sum_stripes(sum, p, bytes >> 5);
    memcpy(sum->rest, p + (bytes & ~(size_t)31), bytes & 31);
}

MSC4203_PRIVATE uint32_t log_sum_end(struct log_sum *sum)
{
    uint32_t fill = sum->bytes & 31, result = sum->bytes, times = LOG_P1, i;

    if (fill != 0) {
        memset(sum->rest + fill, 0, 32 - fill);
        log_sum_stripes(sum, sum->rest, 1);
    }
    for (i = 0; i < 8; i++, times *= LOG_P1)
        result += (sum->a[i] ^ log_rotate(sum->b[i], 11)) * times;
    result = (result ^ result >> 15) * LOG_P2;
    return result ^ result >> 13;
}

/* The checksum of contents that are in one piece. */
MSC4203_APART uint32_t log_sum_of(const struct msc4203_log_state *s, const void *data, size_t bytes)
{
    struct log_sum sum;

    log_sum_begin(&sum, s->key);
    log_sum_add(&sum, data, bytes);
    return log_sum_end(&sum);
}

/* The checksum of a record's fixed part but for its word 3, which is for this checksum. It depends
 * on the log's key, the segment's seed and the record's unit: what is left from an earlier use of
 * the segment, also from one that was cut off and is repeated, or was sent to look like a record,
 * does not have it. */
MSC4203_PRIVATE uint32_t log_fixed_sum(const uint32_t key[2], uint32_t seed, uint32_t unit,
                                       const uint32_t *word, uint32_t words)
{
    uint32_t sum = key[0], i;

    sum = log_rotate((sum ^ key[1]) * LOG_P1, 15);
    sum = log_rotate((sum ^ seed) * LOG_P1, 15);
    sum = log_rotate((sum ^ unit) * LOG_P1, 15);
    for (i = 0; i < words; i++)
        if (i != 3)
            sum = log_rotate((sum ^ word[i]) * LOG_P1, 15);
    sum = (sum ^ sum >> 16) * LOG_P2;
    return sum ^ sum >> 13;
}

/* ---- the region ---- */

/* Whether a sequence number, or a count of what is remembered, comes before another one; they may
 * have gone round. */
MSC4203_PRIVATE int log_before(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b) < 0;
}

MSC4203_PRIVATE uint32_t log_segment_of(const struct msc4203_log_state *s, uint32_t position)
{
    return position >> s->shift;
}

MSC4203_PRIVATE uint32_t log_unit_of(const struct msc4203_log_state *s, uint32_t position)
{
    return position & (((uint32_t)1 << s->shift) - 1);
}

/* How many units bytes take. */
MSC4203_PRIVATE uint32_t log_units_for(uint32_t bytes)
{
    return (bytes + LOG_UNIT - 1) / LOG_UNIT;
}

/* How many bytes units are: without the function that small machines need to shift 64 bits. */
MSC4203_PRIVATE uint64_t log_bytes(uint32_t units)
{
    return (uint64_t)(units >> 28) << 32 | units << 4;
}

/* Where a position is, in bytes from the region's beginning. */
MSC4203_PRIVATE uint64_t log_address(const struct msc4203_log_state *s, uint32_t position)
{
    return log_bytes(log_segment_of(s, position) * s->segment_units + log_unit_of(s, position));
}

/* What the checksums of a segment's records depend on. */
MSC4203_PRIVATE uint32_t log_seed(const struct msc4203_log_state *s, uint32_t segment)
{
    return s->segment[segment].sequence * LOG_P2 ^ s->segment[segment].salt;
}

/* What is fixed of a record, read into memory; and where it is. */
struct log_record {
    uint32_t word[16];
    uint32_t position, units, kind, small; /* small: 8 bits that each kind uses in its own way */
    uint32_t fixed, bytes;                 /* of the fixed part, and of the body */
};

/* Whether the log can be written to: else it is only looked at. */
MSC4203_PRIVATE int log_is_writable(const struct msc4203_log_state *s)
{
    return s->storage->memory != NULL || s->storage->write != NULL;
}

MSC4203_APART void log_fail(struct msc4203_log_state *s)
{
    s->error = 1;
}

/* Reads `bytes` bytes: from the buffer what is there, which while the log is read are the bytes
 * that come next, and afterwards those that were written last. */
MSC4203_APART void log_read(struct msc4203_log_state *s, uint64_t at, void *data, size_t bytes)
{
    const msc4203_storage *storage = s->storage;
    unsigned char *to = (unsigned char *)data;

    if (storage->memory != NULL) {
        if (bytes != 0)
            memcpy(to, storage->memory + at, bytes);
        return;
    }
    while (bytes != 0 && !s->error) {
        uint64_t ahead = at - s->buffer_at; /* far ahead, when it is behind */
        size_t n = bytes;

        if (ahead < s->buffer_used) {
            if (n > s->buffer_used - ahead)
                n = (size_t)(s->buffer_used - ahead);
            memcpy(to, s->buffer + ahead, n);
        } else if (s->phase == PHASE_READING) {
            n = storage->bytes - at < s->buffer_bytes ? (size_t)(storage->bytes - at)
                                                      : s->buffer_bytes;
            s->buffer_at = at;
            s->buffer_used = (uint32_t)n;
            if ((storage->read)(storage->context, at, s->buffer, n) != 0)
                log_fail(s);
            continue;
        } else {
            if (s->buffer_used != 0 && at < s->buffer_at && n > s->buffer_at - at)
                n = (size_t)(s->buffer_at - at);
            if ((storage->read)(storage->context, at, to, n) != 0)
                log_fail(s);
        }
        to += n;
        at += n;
        bytes -= n;
    }
    if (bytes != 0)
        memset(to, 0, bytes);
}

/* Bytes of the fixed part of a kind of record; 0 for an unknown kind. */
MSC4203_PRIVATE uint32_t log_fixed(uint32_t kind)
{
    static const uint8_t units[16] = {0, LOG_HEADER_UNITS, 3, 3, 4, 3, 1, 2, 2,
                                      2, 2, 3, 2, 1, 2, 0};
    return units[kind & 15] * (uint32_t)LOG_UNIT;
}

/* Loads the fixed part of the record at a position, which is in memory, or is read when `from` is
 * NULL. Returns its units, or 0 when there is none. */
MSC4203_APART uint32_t log_load_from(struct msc4203_log_state *s, uint32_t position,
                                     const void *from, struct log_record *r)
{
    uint32_t unit = log_unit_of(s, position), rest, bytes = sizeof r->word;

    memset(r, 0, sizeof *r);
    if (unit >= s->segment_units)
        return 0;
    rest = s->segment_units - unit;
    if (rest < bytes / LOG_UNIT)
        bytes = rest * LOG_UNIT;
    if (from != NULL)
        memcpy(r->word, from, bytes);
    else
        log_read(s, log_address(s, position), r->word, bytes);
    log_swap(r->word, bytes / 4);
    r->position = position;
    r->kind = r->word[0] >> 24 & 15;
    r->fixed = log_fixed(r->kind);
    r->units = r->word[0] & 0xFFFFFF;
    r->small = r->word[1] >> 24;
    if (s->error || r->fixed == 0 || r->fixed > bytes || r->units > rest ||
        r->units * LOG_UNIT < r->fixed + (r->word[0] >> 28) ||
        log_fixed_sum(s->key, log_seed(s, log_segment_of(s, position)), unit, r->word,
                      r->fixed / 4) != r->word[3])
        return 0;
    r->bytes = r->units * LOG_UNIT - r->fixed - (r->word[0] >> 28);
    return r->units;
}

MSC4203_PRIVATE uint32_t log_load(struct msc4203_log_state *s, uint32_t position,
                                  struct log_record *r)
{
    return log_load_from(s, position, NULL, r);
}

/* The time of a message. */
MSC4203_PRIVATE uint64_t log_time_of(const struct log_record *r)
{
    return r->word[6] | (uint64_t)(r->word[7] & 0xFFFF) << 32;
}

/* Adds bytes of the region to a checksum. */
MSC4203_APART void log_sum_region(struct msc4203_log_state *s, struct log_sum *sum, uint64_t at,
                                  uint32_t bytes)
{
    unsigned char piece[32] = {0};
    uint32_t n;

    for (; bytes != 0 && !s->error; bytes -= n, at += n) {
        uint64_t ahead = at - s->buffer_at;
        n = bytes;
        if (s->storage->memory != NULL) {
            log_sum_add(sum, s->storage->memory + at, n);
        } else if (ahead < s->buffer_used) {
            if (n > s->buffer_used - ahead)
                n = (uint32_t)(s->buffer_used - ahead);
            log_sum_add(sum, s->buffer + ahead, n);
        } else { /* by the part of the buffer that is free, or in small pieces */
            uint32_t room = s->phase != PHASE_READING ? s->buffer_bytes - s->buffer_used : 0;
            unsigned char *to = room > sizeof piece ? s->buffer + s->buffer_used : piece;

            room = room > sizeof piece ? room : (uint32_t)sizeof piece;
            n = n < room ? n : room;
            log_read(s, at, to, n);
            log_sum_add(sum, to, n);
        }
    }
}

/* Whether the body of a record is as it was written. */
MSC4203_APART int log_is_whole(struct msc4203_log_state *s, const struct log_record *r)
{
    struct log_sum sum;

    if (r->kind == LOG_PAD || r->bytes == 0)
        return 1;
    log_sum_begin(&sum, s->key);
    log_sum_region(s, &sum, log_address(s, r->position) + r->fixed, r->bytes);
    return !s->error && log_sum_end(&sum) == r->word[2];
}

/* ---- writing ---- */

/* Writes what the buffer has that is not written yet: whole sectors. It stays there to be read. */
MSC4203_APART void log_write_out(struct msc4203_log_state *s)
{
    if (s->buffer_used != s->buffer_clean && !s->error &&
        (s->storage->write)(s->storage->context, s->buffer_at + s->buffer_clean,
                          s->buffer + s->buffer_clean, s->buffer_used - s->buffer_clean) != 0)
        log_fail(s);
    s->buffer_clean = s->buffer_used;
}

/* Empties the buffer: what comes next has its place here. */
MSC4203_PRIVATE void log_buffer_begin(struct msc4203_log_state *s, uint64_t at)
{
    s->buffer_at = at;
    s->buffer_used = s->buffer_clean = 0;
}

/* Writes what the buffer has, and makes all durable. */
MSC4203_PRIVATE void log_sync_storage(struct msc4203_log_state *s)
{
    if (s->storage->memory != NULL)
        return;
    log_write_out(s);
    if (!s->error && (s->storage->sync)(s->storage->context) != 0)
        log_fail(s);
}

/* Writes bytes behind the last ones: `data`, or zeros when that is NULL. */
MSC4203_APART void log_put(struct msc4203_log_state *s, const void *data, size_t bytes)
{
    const unsigned char *p = (const unsigned char *)data;
    unsigned char *to;
    size_t n;

    for (; bytes != 0 && !s->error; bytes -= n) {
        n = bytes;
        if (s->storage->memory != NULL) {
            to = s->storage->memory + s->buffer_at;
            s->buffer_at += n;
        } else {
            if (s->buffer_used == s->buffer_bytes)
                log_buffer_begin(s, s->buffer_at + s->buffer_used);
            if (n > s->buffer_bytes - s->buffer_used)
                n = s->buffer_bytes - s->buffer_used;
            to = s->buffer + s->buffer_used;
            s->buffer_used += (uint32_t)n;
        }
        if (p != NULL) {
            memcpy(to, p, n);
            p += n;
        } else {
            memset(to, 0, n);
        }
        if (s->storage->memory == NULL && s->buffer_used == s->buffer_bytes)
            log_write_out(s);
    }
}

/* Writes `bytes` bytes that are elsewhere in the region. */
MSC4203_PRIVATE void log_put_from(struct msc4203_log_state *s, uint64_t at, uint32_t bytes)
{
    unsigned char piece[128];
    uint32_t n;

    for (; bytes != 0 && !s->error; bytes -= n, at += n) {
        n = bytes < sizeof piece ? bytes : (uint32_t)sizeof piece;
        if (s->storage->memory != NULL) {
            n = bytes;
            log_put(s, s->storage->memory + at, n);
        } else if (bytes <= s->buffer_bytes - s->buffer_used) {
            n = bytes; /* at once, to its place in the buffer */
            log_read(s, at, s->buffer + s->buffer_used, n);
            s->buffer_used += n;
            if (s->buffer_used == s->buffer_bytes)
                log_write_out(s);
        } else {
            log_read(s, at, piece, n);
            log_put(s, piece, n);
        }
    }
}

/* Counts units that have been written: the end moves on, and the place within the sector. */
MSC4203_PRIVATE void log_advance(struct msc4203_log_state *s, uint32_t units)
{
    s->end += units;
    s->fill += units * LOG_UNIT;
    while (s->fill >= s->sector)
        s->fill -= s->sector;
}

/* Writes the fixed part of a record of `units` units. Its body must follow. */
MSC4203_APART void log_put_fixed(struct msc4203_log_state *s, uint32_t *word, uint32_t kind,
                                 uint32_t small, uint32_t units, uint32_t spare)
{
    uint32_t bytes = log_fixed(kind);

    word[0] = units | kind << 24 | spare << 28;
    word[1] = s->durable | small << 24;
    word[3] = log_fixed_sum(s->key, s->sequence * LOG_P2 ^ s->salt, s->end, word, bytes / 4);
    log_swap(word, bytes / 4);
    log_put(s, word, bytes);
    log_advance(s, units);
}

/* Fills the current sector. The record that does it says which segments are no longer needed. */
MSC4203_APART void log_pad(struct msc4203_log_state *s, uint32_t bytes)
{
    uint32_t word[4];

    memset(word, 0, sizeof word);
    word[2] = s->safe;
    s->stated = s->safe;
    log_put_fixed(s, word, LOG_PAD, 0, bytes / LOG_UNIT, 0);
    log_put(s, NULL, bytes - LOG_UNIT);
}

MSC4203_PRIVATE int log_is_free(const struct msc4203_log_state *s, uint32_t segment)
{
    uint32_t sequence = s->segment[segment].sequence;
    return sequence == 0 || log_before(sequence, s->unused);
}

MSC4203_PRIVATE void log_count_free(struct msc4203_log_state *s)
{
    uint32_t i;

    s->free = 0;
    for (i = 0; i < s->segments; i++)
        s->free += (uint32_t)log_is_free(s, i);
}

/* Writes the header of the current segment, which says that what came before it ended at `end`
 * units of segment `previous`, and how much of that was durable. */
MSC4203_APART void log_put_header(struct msc4203_log_state *s, uint32_t previous, uint32_t end,
                                  uint32_t durable)
{
    uint32_t word[LOG_HEADER_WORDS];
    static const uint32_t none[2] = {0, 0};

    memset(word, 0, sizeof word);
    word[0] = LOG_HEADER_UNITS | (uint32_t)LOG_SEGMENT << 24;
    word[4] = LOG_MAGIC_LOW;
    word[5] = LOG_MAGIC_HIGH;
    log_set64(word + 6, s->storage->bytes);
    word[8] = s->segment_units;
    word[9] = s->sector;
    word[10] = s->messages;
    word[11] = s->devices;
    word[12] = s->items[LOG_REQUESTS];
    word[13] = s->items[LOG_OPENINGS];
    word[14] = s->message_bytes;
    word[15] = s->key[0];
    word[16] = s->key[1];
    word[17] = s->sequence;
    word[18] = s->stated = s->safe;
    word[19] = previous;
    word[20] = end;
    word[21] = durable;
    log_set64(word + 22, s->next);
    word[24] = s->time;
    word[25] = s->counter[LOG_REQUESTS];
    word[26] = s->counter[LOG_OPENINGS];
    word[27] = s->current;
    word[28] = s->salt;
    word[29] = s->previous_salt;
    word[3] = log_fixed_sum(none, 0, 0, word, LOG_HEADER_WORDS);
    log_swap(word, LOG_HEADER_WORDS);
    s->end = s->durable = s->fill = 0;
    log_put(s, word, sizeof word);
    log_advance(s, LOG_HEADER_UNITS);
}

/* Erases a segment, if the storage asks for that. What is written next goes to its beginning. */
MSC4203_PRIVATE void log_erase(struct msc4203_log_state *s, uint32_t segment)
{
    const msc4203_storage *storage = s->storage;
    uint32_t at;

    log_buffer_begin(s, log_address(s, segment << s->shift));
    for (at = 0; storage->block != 0 && at < s->segment_units * LOG_UNIT && !s->error;
         at += storage->block)
        if ((storage->erase)(storage->context, s->buffer_at + at, storage->block) != 0)
            log_fail(s);
}

/* The next free segment behind the current one; the current one when there is none. */
MSC4203_APART uint32_t log_next_free(const struct msc4203_log_state *s)
{
    uint32_t i = s->current;

    do
        i = i + 1 < s->segments ? i + 1 : 0;
    while (i != s->current && !log_is_free(s, i));
    return i;
}

/* Begins a segment: the next free one, so that all wear evenly. */
MSC4203_APART void log_begin_segment(struct msc4203_log_state *s, uint32_t previous, uint32_t end,
                                     uint32_t durable)
{
    uint32_t i = log_next_free(s);

    if (!log_is_free(s, i))
        log_fail(s); /* log_room() keeps some free, unless the log is wrong */
    s->free--;
    s->sequence = s->sequence + 1 != 0 ? s->sequence + 1 : 1;
    memset(&s->segment[i], 0, sizeof s->segment[i]);
    s->segment[i].sequence = s->sequence;
    s->segment[i].salt = s->salt;
    s->current = i;
    log_erase(s, i);
    log_put_header(s, previous, end, durable);
}

/* Ends the current segment, and goes on in the next one. */
MSC4203_PRIVATE void log_next_segment(struct msc4203_log_state *s)
{
    if (s->fill != 0)
        log_pad(s, s->sector - s->fill);
    if (s->storage->memory == NULL)
        log_write_out(s);
    s->segment[s->current].end = s->end;
    s->previous_salt = s->salt;
    log_begin_segment(s, s->sequence, s->end, s->durable);
}

/* Makes room for a record of so many units where it can be whole. Returns its position. */
MSC4203_APART uint32_t log_place(struct msc4203_log_state *s, uint32_t units)
{
    if (s->end + units > s->segment_units)
        log_next_segment(s);
    return s->current << s->shift | s->end;
}

/* Appends a record: its fixed part from word 4 on, and a body of so many pieces. Returns its
 * position. After power loss it is there whole, or not at all, with all that came before it. */
MSC4203_APART uint32_t log_append(struct msc4203_log_state *s, uint32_t *word, uint32_t kind,
                                  uint32_t small, const msc4203_span *body, uint32_t pieces)
{
    uint32_t bytes = log_fixed(kind), i, units, position;
    struct log_sum sum;

    if (pieces != 0) {
        log_sum_begin(&sum, s->key);
        for (i = 0; i < pieces; i++)
            log_sum_add(&sum, body[i].ptr, body[i].len);
        word[2] = log_sum_end(&sum);
        bytes += sum.bytes;
    }
    units = log_units_for(bytes);
    position = log_place(s, units);
    log_put_fixed(s, word, kind, small, units, units * LOG_UNIT - bytes);
    for (i = 0; i < pieces; i++)
        log_put(s, body[i].ptr, body[i].len);
    log_put(s, NULL, units * LOG_UNIT - bytes);
    return position;
}

/* Makes all durable that has been written. A segment that was cleaned is free once a record says
 * so that is itself durable, and was written when the copies of what was in it were: the next
 * header or pad, or one that is written for that alone if `state` is not 0. */
MSC4203_APART void log_sync(struct msc4203_log_state *s, int state)
{
    if (s->fill == 0 && state && s->stated != s->safe) {
        log_place(s, s->sector / LOG_UNIT);
        if (s->stated != s->safe)
            log_pad(s, s->sector - s->fill);
    }
    if (s->fill != 0) {
        s->debt += (int32_t)((s->sector - s->fill) / LOG_UNIT);
        log_pad(s, s->sector - s->fill);
    }
    if (s->end != s->durable)
        log_sync_storage(s);
    if (s->error)
        return;
    s->durable = s->end;
    if (s->unused != s->stated) {
        s->unused = s->stated;
        log_count_free(s);
    }
    s->safe = s->oldest;
}

/* ---- the index: entries ---- */

MSC4203_PRIVATE uint64_t log_number(const struct msc4203_log_entry *e)
{
    return e->number | (uint64_t)(e->link >> 21) << 32;
}

MSC4203_PRIVATE void log_set_number(struct msc4203_log_entry *e, uint64_t number)
{
    e->number = (uint32_t)number;
    e->link = (e->link & 0x1FFFFF) | (uint32_t)(number >> 32) << 21;
}

MSC4203_PRIVATE uint32_t log_link(const struct msc4203_log_entry *e)
{
    return e->link & 0x1FFFFF;
}

MSC4203_PRIVATE void log_set_link(struct msc4203_log_entry *e, uint32_t link)
{
    e->link = (e->link & ~(uint32_t)0x1FFFFF) | link;
}

MSC4203_PRIVATE uint32_t log_position(const struct msc4203_log_entry *e)
{
    return e->place & 0x1FFFFFFF;
}

MSC4203_PRIVATE uint32_t log_flags(const struct msc4203_log_entry *e)
{
    return e->place >> 29;
}

MSC4203_PRIVATE uint32_t log_device_of(const struct msc4203_log_entry *e)
{
    return e->device & 0x7FFFF;
}

MSC4203_PRIVATE void log_set_device(struct msc4203_log_entry *e, uint32_t device)
{
    e->device = (e->device & ~(uint32_t)0x7FFFF) | device;
}

MSC4203_PRIVATE uint32_t log_units(const struct msc4203_log_entry *e)
{
    return e->device >> 19;
}

/* The groups that an entry is in: of the first level, and of the second. */
MSC4203_PRIVATE struct msc4203_log_group *log_group(const struct msc4203_log_state *s,
                                                    uint32_t entry, int level)
{
    return level == 0 ? &s->group[entry / LOG_GROUP]
                      : &s->group[s->entries / LOG_GROUP + 1 + entry / (LOG_GROUP * LOG_GROUP)];
}

MSC4203_PRIVATE uint32_t log_segment_bit(uint32_t segment)
{
    return (uint32_t)1 << (segment & 31);
}

/* Notes in its groups what an entry waits for, and in which segment it is. */
MSC4203_PRIVATE void log_group_add(struct msc4203_log_state *s, uint32_t entry)
{
    const struct msc4203_log_entry *e = &s->entry[entry];
    int level;

    for (level = 0; level < 2; level++) {
        log_group(s, entry, level)->channels |= e->channels;
        log_group(s, entry, level)->segments |=
            log_segment_bit(log_segment_of(s, log_position(e)));
    }
}

/* Counts a group anew: what was taken out is still noted in it. */
MSC4203_PRIVATE void log_group_count(struct msc4203_log_state *s, uint32_t first, int level)
{
    struct msc4203_log_group *group = log_group(s, first, level), *part = log_group(s, first, 0);
    uint32_t i;

    group->channels = group->segments = 0;
    for (i = 0; i < LOG_GROUP; i++)
        if (level == 0) {
            if (s->entry[first + i].channels != 0) {
                group->channels |= s->entry[first + i].channels;
                group->segments |= log_segment_bit(
                    log_segment_of(s, log_position(&s->entry[first + i])));
            }
        } else if (first + i * LOG_GROUP <= s->used) {
            group->channels |= part[i].channels;
            group->segments |= part[i].segments;
        }
}

/* Whether an entry, or what a group notes of its entries, has one of `channels`; or, when these are
 * 0, is in the segment of `bit`. */
MSC4203_PRIVATE int log_may_have(const struct msc4203_log_group *group, uint32_t channels,
                                 uint32_t bit)
{
    return (channels != 0 ? group->channels & channels : group->segments & bit) != 0;
}

/* Finds the first entry, from `i` on, that waits for one of `channels`, or, when these are 0, that
 * waits for any and is in `segment`. Returns an index past the last one when there is none. Groups
 * that have no such entry are passed over. */
MSC4203_APART uint32_t log_seek(struct msc4203_log_state *s, uint32_t i, uint32_t channels,
                                uint32_t segment)
{
    const uint32_t second = LOG_GROUP * LOG_GROUP, bit = log_segment_bit(segment);
    uint32_t begun = UINT32_MAX; /* where the group begins that is searched from its beginning */

    while (i <= s->used) {
        const struct msc4203_log_entry *e = &s->entry[i];

        if (i % LOG_GROUP == 0 && begun + LOG_GROUP == i) { /* that had none after all */
            log_group_count(s, begun, 0);
            log_group_count(s, begun - begun % second, 1);
        }
        if (i % second == 0 && !log_may_have(log_group(s, i, 1), channels, bit)) {
            i += second;
            continue;
        }
        if (i % LOG_GROUP == 0) {
            begun = i;
            if (!log_may_have(log_group(s, i, 0), channels, bit)) {
                begun = UINT32_MAX;
                i += LOG_GROUP;
                continue;
            }
        }
        if (channels != 0 ? (e->channels & channels) != 0
                          : e->channels != 0 && log_segment_of(s, log_position(e)) == segment)
            return i;
        i++;
    }
    return i;
}

/* Finds the first entry with this number or a greater one; past the last one when there is none.
 * Numbers grow by one at least from entry to entry, which bounds where one can be. Most often it is
 * just there, since few numbers are missing. */
MSC4203_APART uint32_t log_find(const struct msc4203_log_state *s, uint64_t number)
{
    uint32_t low = 1, high = s->used + 1, middle;
    uint64_t at;

    if (s->pack_from != 0) { /* what is between both parts has been moved */
        if (s->pack_to != 0 && number <= log_number(&s->entry[s->pack_to]))
            high = s->pack_to;
        else
            low = s->pack_from;
    }
    if (low >= high)
        return high;
    at = log_number(&s->entry[low]);
    if (number <= at)
        return low;
    if (number - at < high - low)
        high = low + (uint32_t)(number - at);
    for (low++, middle = high - 1; low < high; middle = low + (high - low) / 2)
        if (log_number(&s->entry[middle]) < number)
            low = middle + 1;
        else
            high = middle;
    return low;
}

/* ---- the index: devices ---- */

/* The keyed digest of a device's ids: nobody can choose ids that meet. */
MSC4203_PRIVATE void log_hash(const struct msc4203_log_state *s, const msc4203_span *user,
                              const msc4203_span *device, uint32_t hash[2])
{
    msc4203_digest digest;
    unsigned char out[16];
    uint32_t length = (uint32_t)user->len;

    log_swap(&length, 1);
    msc4203_digest_init(&digest, log_number64(s->key));
    msc4203_digest_add(&digest, &length, sizeof length);
    msc4203_digest_add(&digest, user->ptr, user->len);
    msc4203_digest_add(&digest, device->ptr, device->len);
    msc4203_digest_end(&digest, out);
    hash[0] = log_get(out);
    hash[1] = log_get(out + 4);
}

/* Finds a device. Returns its index, from 1 on, or 0 when it has nothing in the log. */
MSC4203_PRIVATE uint32_t log_device(const struct msc4203_log_state *s, const uint32_t hash[2])
{
    uint32_t i = s->device_head[hash[0] & s->device_mask];

    while (i != 0 && memcmp(s->device[i].hash, hash, sizeof s->device[i].hash) != 0)
        i = s->device[i].next;
    return i;
}

/* The same; a device that is not known is added. Returns 0 when there are too many. */
MSC4203_PRIVATE uint32_t log_device_make(struct msc4203_log_state *s, const uint32_t hash[2])
{
    uint32_t i = log_device(s, hash), *head = &s->device_head[hash[0] & s->device_mask];

    if (i != 0)
        return i;
    i = s->device_free;
    if (i != 0)
        s->device_free = s->device[i].next;
    else if (s->devices_used < s->devices)
        i = ++s->devices_used;
    else
        return 0;
    memset(&s->device[i], 0, sizeof s->device[i]);
    s->device[i].hash[0] = hash[0];
    s->device[i].hash[1] = hash[1];
    s->device[i].next = *head;
    *head = i;
    return i;
}

/* Forgets a device that has nothing any more. */
MSC4203_PRIVATE void log_device_drop_empty(struct msc4203_log_state *s, uint32_t device)
{
    struct msc4203_log_device *d = &s->device[device];
    uint32_t *at = &s->device_head[d->hash[0] & s->device_mask];

    if (d->count != 0 || d->pending != 0)
        return;
    while (*at != device)
        at = &s->device[*at].next;
    *at = d->next;
    d->next = s->device_free;
    s->device_free = device;
}

/* The first entry of a device's chain, from `i` on, that waits for /sync; 0 when there is none. */
MSC4203_PRIVATE uint32_t log_chain_sync(const struct msc4203_log_state *s, uint32_t i)
{
    while (i != 0 && (s->entry[i].channels & 1) == 0)
        i = log_link(&s->entry[i]);
    return i;
}

/* Puts an entry at the end of its device's chain. */
MSC4203_PRIVATE void log_chain_add(struct msc4203_log_state *s, uint32_t i)
{
    uint32_t *chain = s->device[log_device_of(&s->entry[i])].chain;

    log_set_link(&s->entry[i], 0);
    if (chain[CHAIN_FIRST] == 0)
        chain[CHAIN_FIRST] = i;
    else
        log_set_link(&s->entry[chain[CHAIN_LAST]], i);
    chain[CHAIN_LAST] = i;
    if (chain[CHAIN_SYNC] == 0 && (s->entry[i].channels & 1) != 0)
        chain[CHAIN_SYNC] = i;
}

/* ---- the index: what waits ---- */

/* Counts messages, and units, in each channel of a set. */
MSC4203_PRIVATE void log_tally(struct msc4203_log_state *s, uint32_t set, uint32_t count,
                               uint32_t units)
{
    struct msc4203_log_channel *channel = s->channel;

    for (; set != 0; set >>= 1, channel++)
        if (set & 1) {
            channel->count += count;
            channel->units += units;
        }
}

/* Counts a message's units where they are and whose they are; to take them out, their negative. */
MSC4203_PRIVATE void log_tally_units(struct msc4203_log_state *s, const struct msc4203_log_entry *e,
                                     uint32_t units)
{
    s->live += units;
    s->segment[log_segment_of(s, log_position(e))].live += units;
    s->device[log_device_of(e)].units += units;
}

/* Ends an entry that waits for nothing any more. In the middle of its device's chain it stays there
 * until the entries are packed. */
MSC4203_APART void log_end_entry(struct msc4203_log_state *s, uint32_t i)
{
    uint32_t device = log_device_of(&s->entry[i]), *chain = s->device[device].chain;

    log_tally_units(s, &s->entry[i], 0 - log_units(&s->entry[i]));
    s->waiting--;
    s->device[device].count--;
    for (i = chain[CHAIN_FIRST]; i != 0 && s->entry[i].channels == 0; i = log_link(&s->entry[i]))
        log_set_device(&s->entry[i], 0);
    chain[CHAIN_FIRST] = i;
    log_device_drop_empty(s, device);
}

/* Takes channels out of what an entry waits for. */
MSC4203_APART void log_take(struct msc4203_log_state *s, uint32_t i, uint32_t channels)
{
    struct msc4203_log_entry *e = &s->entry[i];
    uint32_t *chain = s->device[log_device_of(e)].chain;

    channels &= e->channels;
    if (channels == 0)
        return;
    log_tally(s, channels, UINT32_MAX, 0 - log_units(e));
    e->channels &= ~channels;
    if (chain[CHAIN_SYNC] == i)
        chain[CHAIN_SYNC] = log_chain_sync(s, i);
    if (e->channels == 0)
        log_end_entry(s, i);
}

/* Packing: goes through all entries in their order and moves those that wait to the front. What is
 * behind `pack_to` and before `pack_from` has been moved. A chain goes the same way: the entry
 * before this one in its chain is its tail so far, unless this is its first. */
MSC4203_APART void log_pack_step(struct msc4203_log_state *s)
{
    uint32_t i = s->pack_from, device = log_device_of(&s->entry[i]), to, *chain;
    struct msc4203_log_entry *e = &s->entry[i];

    if (i > s->used) {
        s->used = s->pack_to;
        s->pack_from = 0;
        return;
    }
    s->pack_from++;
    if (device == 0)
        return;
    chain = s->device[device].chain;
    to = e->channels != 0 ? ++s->pack_to : log_link(e);
    if (chain[CHAIN_FIRST] == i)
        chain[CHAIN_FIRST] = to;
    else
        log_set_link(&s->entry[chain[CHAIN_TAIL]], to);
    if (chain[CHAIN_SYNC] == i)
        chain[CHAIN_SYNC] = to;
    if (chain[CHAIN_LAST] == i)
        chain[CHAIN_LAST] = e->channels != 0 ? to : chain[CHAIN_TAIL];
    if (e->channels != 0) {
        chain[CHAIN_TAIL] = to;
        if (to != i) {
            s->entry[to] = *e;
            e->channels = 0;
            log_group_add(s, to);
            s->clean_entry = log_clip(s->clean_entry, 0, to); /* it may have to be copied yet */
        }
    }
    if (e->channels == 0)
        log_set_device(e, 0);
}

/* Makes room for an entry behind the last one: packs a little with each, in time before they reach
 * the entries of open batches, which are at the other end. */
MSC4203_PRIVATE void log_pack(struct msc4203_log_state *s)
{
    uint32_t steps = 16;

    while (s->waiting < s->used) {
        if (s->pack_from == 0) {
            if (s->pool - s->used > (s->entries - s->messages) / 2)
                return;
            s->pack_from = 1;
            s->pack_to = 0;
        }
        if (steps-- == 0) {
            if (s->used + 1 != s->pool)
                return;
            steps = 1;
        }
        log_pack_step(s);
    }
}

/* Adds an entry with the next number. Its device, units and channels are in `from`. */
MSC4203_APART void log_add(struct msc4203_log_state *s, const struct msc4203_log_entry *from,
                           uint64_t number)
{
    struct msc4203_log_entry *e;

    log_pack(s);
    e = &s->entry[++s->used];
    *e = *from;
    log_set_number(e, number);
    log_chain_add(s, s->used);
    log_group_add(s, s->used);
    s->waiting++;
    s->device[log_device_of(e)].count++;
    log_tally(s, e->channels, 1, 0);
}

/* ---- the index: open batches ---- */

/* Whether one more message can wait. */
MSC4203_PRIVATE int log_has_entry(const struct msc4203_log_state *s)
{
    return s->waiting + s->pending < s->messages && s->waiting + s->pending + 5 < s->pool;
}

/* Takes an entry for a message of an open batch; 0 when there is none: all those of open batches
 * must have a place with those that wait, too. */
MSC4203_PRIVATE uint32_t log_pool_take(struct msc4203_log_state *s)
{
    uint32_t i = s->pool_free;

    if (!log_has_entry(s))
        return 0;
    if (i != 0) {
        s->pool_free = log_link(&s->entry[i]);
    } else {
        while (s->pool == s->used + 1)
            log_pack(s);
        i = --s->pool;
    }
    memset(&s->entry[i], 0, sizeof s->entry[i]);
    s->pending++;
    return i;
}

MSC4203_PRIVATE void log_pool_give(struct msc4203_log_state *s, uint32_t i)
{
    s->entry[i].channels = 0;
    log_set_link(&s->entry[i], s->pool_free);
    s->pool_free = i;
    if (--s->pending == 0) {
        s->pool = s->entries + 1;
        s->pool_free = 0;
    }
}

/* Takes a message out of an open batch. Its entry stays, and waits for nothing. */
MSC4203_PRIVATE void log_batch_take(struct msc4203_log_state *s, uint32_t i)
{
    struct msc4203_log_entry *e = &s->entry[i];
    uint32_t device = log_device_of(e);

    log_tally(s, e->channels, 0, 0 - log_units(e));
    log_tally_units(s, e, 0 - log_units(e));
    e->channels = 0;
    s->device[device].pending--;
    log_device_drop_empty(s, device);
}

/* Empties the place of a batch. Its turn stays: by it successive batches are told apart. */
MSC4203_PRIVATE void log_batch_clear(struct msc4203_log_batch *b, uint32_t state)
{
    uint32_t turn = b->turn;

    memset(b, 0, sizeof *b);
    b->state = state;
    b->turn = turn;
}

/* Which of its place's batches a record belongs to, as the record says. */
MSC4203_PRIVATE uint32_t log_turn(const struct log_record *r)
{
    return r->word[r->kind == LOG_MESSAGE ? 8 : r->kind == LOG_COMMIT ? 6 : 2] >> 24;
}

/* Ends a batch without its messages. */
MSC4203_APART void log_batch_end(struct msc4203_log_state *s, struct msc4203_log_batch *b,
                                 uint32_t state)
{
    uint32_t i = b->first, next;

    for (; i != 0; i = next) {
        next = log_link(&s->entry[i]);
        log_batch_take(s, i);
        log_pool_give(s, i);
    }
    log_batch_clear(b, state);
}

/* Ends a batch with its messages: they get the numbers from `number` on. */
MSC4203_APART void log_batch_commit(struct msc4203_log_state *s, struct msc4203_log_batch *b,
                                    uint64_t number)
{
    uint32_t i = b->first, next;
    struct msc4203_log_entry e;

    for (; i != 0; i = next) {
        e = s->entry[i];
        next = log_link(&e);
        log_pool_give(s, i);
        s->device[log_device_of(&e)].pending--;
        log_add(s, &e, number + e.number);
    }
    log_batch_clear(b, BATCH_FREE);
}

/* ---- what is remembered: requests, and openings ---- */

/* Whether there is a request or opening in these words. */
MSC4203_PRIVATE int log_is_set(const uint32_t word[4])
{
    return (word[0] | word[1] | word[2] | word[3]) != 0;
}

/* Where the request or opening with this count is; one of the last ones. */
MSC4203_PRIVATE uint32_t log_item_at(const struct msc4203_log_state *s, int which, uint32_t count)
{
    uint32_t behind = s->counter[which] - count;
    return s->slot[which] >= behind ? s->slot[which] - behind
                                    : s->slot[which] + s->items[which] - behind;
}

MSC4203_PRIVATE int log_is_remembered(const struct msc4203_log_state *s, int which, uint32_t count)
{
    return s->counter[which] - count < s->items[which];
}

MSC4203_PRIVATE uint32_t *log_request_bucket(const struct msc4203_log_state *s,
                                             const struct msc4203_log_item *item)
{
    return &s->request_head[item->word[2] & s->request_mask];
}

/* Has the request in a place found. */
MSC4203_PRIVATE void log_link_request(struct msc4203_log_state *s, uint32_t i)
{
    uint32_t *bucket = log_request_bucket(s, &s->item[LOG_REQUESTS][i]);

    s->request_next[i] = *bucket;
    *bucket = i + 1;
}

/* Forgets what is in a place. */
MSC4203_APART void log_forget(struct msc4203_log_state *s, int which, uint32_t i)
{
    struct msc4203_log_item *item = &s->item[which][i];

    if (which == LOG_REQUESTS) {
        uint32_t *at = log_request_bucket(s, item);
        while (*at != 0 && *at != i + 1)
            at = &s->request_next[*at - 1];
        if (*at != 0)
            *at = s->request_next[i];
    }
    memset(item, 0, sizeof *item);
}

/* Remembers a request or an opening, by its count. */
MSC4203_APART void log_remember(struct msc4203_log_state *s, int which, uint32_t count,
                                const uint32_t word[4])
{
    uint32_t n, i;

    for (n = 0; log_before(s->counter[which], count); n++) {
        if (n >= s->items[which]) { /* all of them are older */
            s->counter[which] = count;
            break;
        }
        s->counter[which]++;
        s->slot[which] = s->slot[which] + 1 < s->items[which] ? s->slot[which] + 1 : 0;
        log_forget(s, which, s->slot[which]);
    }
    if (!log_is_remembered(s, which, count))
        return;
    i = log_item_at(s, which, count);
    log_forget(s, which, i);
    memcpy(s->item[which][i].word, word, sizeof s->item[which][i].word);
    if (which == LOG_REQUESTS)
        log_link_request(s, i);
}

/* Whether what a segment has noted, the count of the last one in it, is still remembered. */
MSC4203_PRIVATE int log_is_noted(const struct msc4203_log_state *s, int which, uint32_t last)
{
    return last != 0 && log_is_remembered(s, which, last);
}

/* Notes that the request or opening of this count is in a segment: the last place that has it
 * counts, which is kept in the item itself. Else each crash would leave one copy more, for ever. */
MSC4203_APART void log_note_item(struct msc4203_log_state *s, uint32_t position, int which,
                                 uint32_t count)
{
    uint32_t i = log_segment_of(s, position), *word;
    uint32_t *last = which == LOG_REQUESTS ? &s->segment[i].request : &s->segment[i].opening;

    if (*last == 0 || log_before(*last, count))
        *last = count;
    if (log_is_remembered(s, which, count)) {
        word = &s->item[which][log_item_at(s, which, count)].word[3];
        *word = (*word & LOG_ITEM_WORD) | i << 24;
    }
}

/* Collects of `n` requests or openings, from count `first` on, those that are in this segment, or
 * all where it is UINT32_MAX. Returns which these are. */
MSC4203_APART uint32_t log_collect_items(const struct msc4203_log_state *s, int which,
                                         uint32_t first, uint32_t n, uint32_t segment,
                                         struct msc4203_log_item *item)
{
    uint32_t i, has = 0;

    memset(item, 0, n * sizeof *item);
    for (i = 0; i < n; i++, item++) {
        if (!log_is_remembered(s, which, first + i))
            continue;
        *item = s->item[which][log_item_at(s, which, first + i)];
        if (log_is_set(item->word) &&
            (segment == UINT32_MAX || item->word[3] >> 24 == segment))
            has |= (uint32_t)1 << i;
        else
            memset(item, 0, sizeof *item);
        item->word[3] &= LOG_ITEM_WORD;
    }
    return has;
}

/* Writes them again, at most LOG_ITEMS. */
MSC4203_APART void log_write_items(struct msc4203_log_state *s, int which, uint32_t first,
                                   uint32_t n, uint32_t segment)
{
    struct msc4203_log_item item[LOG_ITEMS];
    uint32_t word[8], i, position, has = log_collect_items(s, which, first, n, segment, item);
    msc4203_span body;

    if (has == 0)
        return;
    log_swap(item[0].word, n * 4);
    memset(word, 0, sizeof word);
    word[4] = first;
    word[5] = n;
    body.ptr = (const char *)item;
    body.len = n * sizeof item[0];
    position = log_append(s, word, LOG_REMEMBER, (uint32_t)which, &body, 1);
    for (i = 0; i < n; i++)
        if ((has >> i & 1) != 0)
            log_note_item(s, position, which, first + i);
}

/* ---- making room ---- */

/* Units that all messages together may take. Copied one after the other, they leave less than the
 * largest of them free in each segment, and less than half of it. Other segments are needed to copy
 * them to, and because what is freed is free two syncs later: the fewer sectors a segment has, the
 * more of them. What is remembered, and the record of each channel in use, has its room too. */
MSC4203_PRIVATE uint32_t log_capacity(const struct msc4203_log_state *s, uint32_t largest)
{
    uint32_t usable = s->segment_units - LOG_HEADER_UNITS;
    uint32_t most = largest > s->channel_units_max ? largest : s->channel_units_max;
    uint32_t each = most < usable / 2 ? usable - most : usable / 2;
    uint32_t all = s->segments > s->low ? (s->segments - s->low) * each : 0;
    uint32_t kept = (s->items[LOG_REQUESTS] + s->items[LOG_OPENINGS]) * 2, channels;

    for (channels = s->roomed & ~(uint32_t)1; channels != 0; channels &= channels - 1)
        kept += s->channel_units_max;
    return all > kept ? all - kept : 0;
}

/* Whether so many units more fit, of messages for these channels. With the first thing that a
 * channel gets, room is kept for its record: that fits whenever it comes. */
MSC4203_PRIVATE int log_fits(struct msc4203_log_state *s, uint32_t units, uint32_t channels)
{
    uint32_t before = s->roomed, room;

    s->roomed |= channels;
    if (units == 0 && s->roomed == before)
        return 1;
    room = log_capacity(s, units > s->largest ? units : s->largest);
    if (room != 0 && s->live + units <= room)
        return 1;
    s->roomed = before;
    return 0;
}

/* The segment with the next sequence number after this one; `segments` when there is none. */
MSC4203_PRIVATE uint32_t log_after(const struct msc4203_log_state *s, uint32_t sequence)
{
    uint32_t i, found = s->segments;

    for (i = 0; i < s->segments; i++)
        if (s->segment[i].sequence != 0 && log_before(sequence, s->segment[i].sequence) &&
            (found == s->segments ||
             log_before(s->segment[i].sequence, s->segment[found].sequence)))
            found = i;
    return found;
}

/* Notes that a message can't be read; it counts once. */
MSC4203_PRIVATE int log_mark_damaged(struct msc4203_log_state *s, struct msc4203_log_entry *e)
{
    if (!s->error && (log_flags(e) & LOG_DAMAGED) == 0) {
        e->place |= (uint32_t)LOG_DAMAGED << 29;
        s->damaged++;
    }
    return MSC4203_E_DAMAGED;
}

/* Writes a message's record again, at the end, with this number and these channels. Returns its
 * position. */
MSC4203_APART uint32_t log_write_again(struct msc4203_log_state *s, struct log_record *r,
                                       uint32_t kind, uint32_t small, uint64_t number,
                                       uint32_t channels)
{
    uint64_t from = log_address(s, r->position) + r->fixed;
    uint32_t bytes = log_fixed(kind) + r->bytes, units = log_units_for(bytes), position;

    r->word[7] = (r->word[7] & 0xFFFF) | (uint32_t)(number >> 32) << 16;
    r->word[8] = (uint32_t)number;
    r->word[9] = channels;
    position = log_place(s, units);
    log_put_fixed(s, r->word, kind, small, units, units * LOG_UNIT - bytes);
    log_put_from(s, from, r->bytes);
    log_put(s, NULL, units * LOG_UNIT - bytes);
    return position;
}

/* Writes a message again, at the end, as it is now. One that was damaged stays so, without its
 * strings: with them the copy would look like one that the power failed in. */
MSC4203_APART void log_copy(struct msc4203_log_state *s, uint32_t i)
{
    struct msc4203_log_entry *e = &s->entry[i];
    struct log_record r;
    uint32_t position;

    if (log_load(s, log_position(e), &r) == 0 || !log_is_whole(s, &r)) {
        (void)log_mark_damaged(s, e);
        memset(&r, 0, sizeof r);
        r.word[10] = s->device[log_device_of(e)].hash[0];
        r.word[11] = s->device[log_device_of(e)].hash[1];
    }
    position = log_write_again(s, &r, LOG_COPY, log_flags(e), log_number(e), e->channels);
    log_tally_units(s, e, 0 - log_units(e));
    e->place = position | log_flags(e) << 29;
    log_tally_units(s, e, log_units(e));
    log_group_add(s, i);
}

/* A part of a channel's record: given, or as it is in the record now. */
struct log_part {
    const msc4203_span *given;
    uint64_t at;
    uint32_t bytes;
};

MSC4203_PRIVATE void log_sum_part(struct msc4203_log_state *s, struct log_sum *sum,
                                  const struct log_part *part)
{
    if (part->given != NULL)
        log_sum_add(sum, part->given->ptr, part->bytes);
    else
        log_sum_region(s, sum, part->at, part->bytes);
}

MSC4203_APART uint32_t log_parts_sum(struct msc4203_log_state *s, const struct log_part part[2])
{
    struct log_sum sum;

    log_sum_begin(&sum, s->key);
    log_sum_part(s, &sum, &part[0]);
    log_sum_part(s, &sum, &part[1]);
    return log_sum_end(&sum);
}

MSC4203_PRIVATE void log_put_part(struct msc4203_log_state *s, const struct log_part *part)
{
    if (part->given != NULL)
        log_put(s, part->given->ptr, part->bytes);
    else
        log_put_from(s, part->at, part->bytes);
}

/* Loads a channel's record. When it is not as it was written, that counts once. */
MSC4203_APART int log_load_channel(struct msc4203_log_state *s, uint32_t channel,
                                   struct log_record *r)
{
    uint32_t bit = (uint32_t)1 << channel;

    if (log_load(s, s->channel[channel].position, r) != 0 && r->kind == LOG_CHANNEL &&
        log_is_whole(s, r))
        return 1;
    bit = s->error ? 0 : bit & ~s->damaged_channels;
    s->damaged += bit != 0;
    s->damaged_channels |= bit;
    return 0;
}

/* The name and the record of a channel: what is given, and where that is NULL what it has. (There
 * is no name without a record.) */
MSC4203_APART void log_channel_parts(struct msc4203_log_state *s, uint32_t channel,
                                     const msc4203_span *name, const msc4203_span *record,
                                     struct log_part part[2])
{
    struct log_record r;

    memset(part, 0, 2 * sizeof *part);
    if (name != NULL) {
        part[0].given = name;
        part[0].bytes = (uint32_t)name->len;
    } else if (s->channel[channel].position != 0 && log_load_channel(s, channel, &r)) {
        part[0].at = log_address(s, r.position) + LOG_CHANNEL_FIXED;
        part[0].bytes = r.word[7] & 0xFFFF;
        part[1].at = part[0].at + part[0].bytes;
        part[1].bytes = r.word[7] >> 16;
    }
    if (record != NULL) {
        part[1].given = record;
        part[1].bytes = (uint32_t)record->len;
    }
}

/* Writes a channel's record: with this name and record, or what it has where they are NULL. */
MSC4203_APART void log_write_channel(struct msc4203_log_state *s, uint32_t channel,
                                     const msc4203_span *name, const msc4203_span *record,
                                     uint32_t flags)
{
    struct msc4203_log_channel *c = &s->channel[channel];
    uint32_t word[8], units, bytes;
    struct log_part part[2];

    log_channel_parts(s, channel, name, record, part);
    s->damaged_channels &= ~((uint32_t)1 << channel);
    memset(word, 0, sizeof word);
    word[2] = log_parts_sum(s, part);
    word[4] = s->held[2 * channel];
    word[5] = (s->held[2 * channel + 1] & 0xFFFF) | c->done[1] << 16;
    word[6] = c->done[0];
    word[7] = part[0].bytes | part[1].bytes << 16;
    bytes = LOG_CHANNEL_FIXED + part[0].bytes + part[1].bytes;
    units = log_units_for(bytes);
    c->position = log_place(s, units);
    log_put_fixed(s, word, LOG_CHANNEL, channel | flags, units, units * LOG_UNIT - bytes);
    log_put_part(s, &part[0]);
    log_put_part(s, &part[1]);
    log_put(s, NULL, units * LOG_UNIT - bytes);
    if (flags & LOG_GIVEN_BACK)
        c->position = 0;
}

MSC4203_PRIVATE void log_append_abort(struct msc4203_log_state *s, uint32_t batch)
{
    uint32_t word[4];

    memset(word, 0, sizeof word);
    word[2] = s->batch[batch].turn << 24;
    log_append(s, word, LOG_ABORT, batch, NULL, 0);
}

/* Before what is in the oldest segment is copied: gives up open batches that have a message there,
 * and writes again the records of channels. */
MSC4203_PRIVATE void log_clean_begin(struct msc4203_log_state *s)
{
    uint32_t i;

    for (i = 0; i < LOG_BATCHES; i++) {
        struct msc4203_log_batch *b = &s->batch[i];
        if (b->first == 0 ||
            log_segment_of(s, log_position(&s->entry[b->first])) != s->clean_segment)
            continue;
        log_batch_end(s, b, BATCH_GIVEN_UP);
        log_append_abort(s, i);
    }
    for (i = 1; i < MSC4203_CHANNELS; i++)
        if (s->channel[i].position != 0 &&
            log_segment_of(s, s->channel[i].position) == s->clean_segment)
            log_write_channel(s, i, NULL, NULL, LOG_COPIED);
    s->clean_entry = 1;
    s->clean_unit = LOG_HEADER_UNITS;
    s->clean_items = 0;
}

/* Writes again what was remembered in the record at the place where cleaning is, and goes on to the
 * next one. Requests of successive commits are put together. Returns the units gone on. */
MSC4203_PRIVATE uint32_t log_clean_items(struct msc4203_log_state *s)
{
    uint32_t position = s->clean_segment << s->shift | s->clean_unit, units, n = 0, first = 0;
    struct log_record r;
    int which = LOG_REQUESTS, is_last;

    units = log_load(s, position, &r);
    if (units == 0) {
        units = 1;
    } else if (r.kind == LOG_COMMIT && log_is_set(r.word + 8)) {
        first = r.word[7];
        n = 1;
    } else if (r.kind == LOG_REMEMBER) {
        which = (int)(r.small & 1);
        first = r.word[4];
        n = r.word[5];
    }
    s->clean_unit += units;
    is_last = s->clean_unit >= s->segment[s->clean_segment].end;
    if (s->clean_items != 0 && n != 0 && which == LOG_REQUESTS && !is_last &&
        first == s->clean_first + s->clean_items && s->clean_items + n <= LOG_ITEMS) {
        s->clean_items += n;
        return units;
    }
    if (s->clean_items != 0 && (n != 0 || is_last)) {
        log_write_items(s, LOG_REQUESTS, s->clean_first, s->clean_items, s->clean_segment);
        s->clean_items = 0;
    }
    if (n == 0 || !log_is_remembered(s, which, first + n - 1))
        return units;
    if (which == LOG_OPENINGS || is_last) {
        log_write_items(s, which, first, n < LOG_ITEMS ? n : (uint32_t)LOG_ITEMS,
                        s->clean_segment);
    } else {
        s->clean_first = first;
        s->clean_items = n;
    }
    return units;
}

/* One step of cleaning the oldest segment. Returns how much it did, in units. */
MSC4203_APART uint32_t log_clean_step(struct msc4203_log_state *s)
{
    struct msc4203_log_segment *segment;
    uint32_t i;

    if (s->clean_entry == 0) {
        s->clean_segment = log_after(s, s->oldest - 1);
        log_clean_begin(s);
    }
    segment = &s->segment[s->clean_segment];
    if (segment->live != 0) {
        i = log_seek(s, s->clean_entry, 0, s->clean_segment);
        s->clean_entry = i + 1;
        log_copy(s, i);
        return log_units(&s->entry[i]);
    }
    if (s->clean_unit < segment->end &&
        (log_is_noted(s, LOG_REQUESTS, segment->request) ||
         log_is_noted(s, LOG_OPENINGS, segment->opening)))
        return log_clean_items(s);
    s->clean_entry = 0;
    s->oldest = s->segment[log_after(s, s->oldest)].sequence;
    return LOG_GROUP;
}

/* Whether what is in the oldest segment can be copied without beginning another one. */
MSC4203_PRIVATE int log_oldest_fits(const struct msc4203_log_state *s)
{
    uint32_t i = log_after(s, s->oldest - 1), units = s->segment[i].live + LOG_GROUP, c;

    for (c = 1; c < MSC4203_CHANNELS; c++)
        if (s->channel[c].position != 0 && log_segment_of(s, s->channel[c].position) == i)
            units += s->channel_units_max;
    return units < s->segment_units - s->end;
}

/* Before something is written that takes `units` at most: makes room while few segments are free,
 * or will be after the next syncs. More is cleaned than is written, in small steps. When very few
 * are free, whole segments are cleaned, and what was copied is synced: a copy needs one segment at
 * most, and what says that the old ones are free may need another one. */
MSC4203_APART void log_room(struct msc4203_log_state *s, uint32_t units)
{
    uint32_t oldest, soon;

    s->debt += (int32_t)units;
    for (s->debt *= 8; s->debt > 0 && s->oldest != s->sequence && s->free > s->free_min &&
                       s->free + (s->oldest - s->unused) <= s->low && !s->error;)
        s->debt -= (int32_t)log_clean_step(s);
    s->debt = 0;
    while (s->free < s->free_min && !s->error) {
        soon = s->free + (s->oldest - s->unused);
        if (soon <= s->low &&
            (log_oldest_fits(s) ||
             (soon <= s->free_min && (s->end == s->durable || s->free > s->free_min / 2)))) {
            for (oldest = s->oldest; oldest == s->oldest;)
                log_clean_step(s);
        } else if (s->oldest != s->unused) { /* unreachable: else; see below */
            log_sync(s, 0);
            log_sync(s, 1);
        } else {
            log_fail(s); /* unreachable: the limit of what may wait leaves room for this */
        }
    }
}

/* ---- the queue: reading ---- */

MSC4203_PRIVATE struct msc4203_log_state *log_of(void *context)
{
    return &((msc4203_log *)context)->priv;
}

/* Ends a call that only read: a failure to read is this call's alone. */
MSC4203_PRIVATE int log_has_read(struct msc4203_log_state *s, int result)
{
    if (s->error)
        result = MSC4203_E_STORAGE;
    s->error = 0;
    return result;
}

MSC4203_PRIVATE int log_has_written(const struct msc4203_log_state *s)
{
    return s->error ? MSC4203_E_STORAGE : MSC4203_OK;
}

/* Checks a channel and a device, as next(), done() and move() take them. *index is the device's, or
 * 0 when it has nothing here. */
MSC4203_PRIVATE int log_check(const struct msc4203_log_state *s, uint32_t channel,
                              const msc4203_device *device, uint32_t *index)
{
    uint32_t hash[2];

    *index = 0;
    if (s->error || s->phase == PHASE_CLOSED)
        return MSC4203_E_STORAGE;
    if (channel >= MSC4203_CHANNELS || (channel == 0) != (device != NULL))
        return MSC4203_E_USAGE;
    if (device != NULL) {
        log_hash(s, &device->user_id, &device->device_id, hash);
        *index = log_device(s, hash);
    }
    return MSC4203_OK;
}

/* Whether the log can be changed; if it can't, the result for that. */
MSC4203_PRIVATE int log_is_closed(const struct msc4203_log_state *s)
{
    return s->error || s->phase != PHASE_OPEN ? MSC4203_E_STORAGE : MSC4203_OK;
}

/* The first visible entry behind number `after` that waits for a channel (and a device); 0 when
 * there is none. */
MSC4203_APART uint32_t log_first(struct msc4203_log_state *s, uint32_t channel, uint32_t device,
                                 uint64_t after)
{
    uint32_t i, at;

    if (channel == 0) {
        i = device != 0 ? s->device[device].chain[CHAIN_SYNC] : 0;
        if (i != 0 && log_number(&s->entry[i]) <= after) { /* go on from there, if it is known */
            at = log_find(s, after);
            if (at <= s->used && log_number(&s->entry[at]) == after &&
                log_device_of(&s->entry[at]) == device)
                i = at;
        }
        while (i != 0 && (log_number(&s->entry[i]) <= after || !(s->entry[i].channels & 1)))
            i = log_link(&s->entry[i]);
    } else {
        if (s->channel[channel].count == 0)
            return 0;
        if (after < log_number64(s->channel[channel].done))
            after = log_number64(s->channel[channel].done);
        i = log_seek(s, log_find(s, after + 1), (uint32_t)1 << channel, 0);
        if (i > s->used)
            i = 0;
    }
    return i != 0 && log_number(&s->entry[i]) < s->settled ? i : 0;
}

/* The strings of a message, whose body is at `text`; it may be absent. */
MSC4203_PRIVATE void log_strings(const struct log_record *r, const char *text, msc4203_item *item)
{
    msc4203_span *const span[5] = {&item->sender, &item->type, &item->user_id, &item->device_id,
                                   &item->content};
    uint32_t at = 0, length, i;

    for (i = 0; i < 5; i++, at += length) {
        length = i < 4 ? r->word[4 + i / 2] >> (i % 2) * 16 & 0xFFFF : r->bytes - at;
        length = log_clip(length, 0, r->bytes - at);
        span[i]->ptr = at != 0 ? text + at : text;
        span[i]->len = length;
    }
}

/* Reads the message of an entry. */
MSC4203_APART int log_message(struct msc4203_log_state *s, uint32_t i, void *memory, size_t bytes,
                              msc4203_message *message)
{
    struct msc4203_log_entry *e = &s->entry[i];
    struct log_record r;
    unsigned char *text = (unsigned char *)memory;
    uint32_t units, rest;
    int at_once;

    memset(message, 0, sizeof *message);
    message->number = log_number(e);
    message->channels = e->channels;
    message->delivered = log_flags(e) & LOG_FOR_SYNC & ~e->channels;
    message->item.kind = MSC4203_TO_DEVICE;
    if (log_flags(e) & LOG_DAMAGED)
        return MSC4203_E_DAMAGED;
    units = log_units(e) + 1 > 4 ? log_units(e) + 1 : 4; /* as a record that was moved may have */
    rest = s->segment_units - log_unit_of(s, log_position(e));
    if (units > rest)
        units = rest;
    at_once = s->storage->memory == NULL && bytes >= units * LOG_UNIT;
    if (at_once)
        log_read(s, log_address(s, log_position(e)), text, units * LOG_UNIT);
    if (log_load_from(s, log_position(e), at_once ? text : NULL, &r) == 0 ||
        r.kind > LOG_MOVED || (at_once && r.units > units))
        return log_mark_damaged(s, e);
    message->time_ms = log_time_of(&r);
    message->bytes = r.bytes;
    if (r.bytes > bytes)
        return MSC4203_E_TOO_LARGE;
    if (at_once)
        memmove(text, text + r.fixed, r.bytes); /* callers may use what is behind the strings */
    else
        log_read(s, log_address(s, r.position) + r.fixed, text, r.bytes);
    if (log_sum_of(s, text, r.bytes) != r.word[2])
        return log_mark_damaged(s, e);
    log_strings(&r, (const char *)text, &message->item);
    return MSC4203_ITEM;
}

MSC4203_PRIVATE int log_next(void *context, uint32_t channel, const msc4203_device *device,
                             uint64_t after, void *memory, size_t bytes, msc4203_message *message)
{
    struct msc4203_log_state *s = log_of(context);
    uint32_t index, i;
    int result = log_check(s, channel, device, &index);

    memset(message, 0, sizeof *message);
    if (result != MSC4203_OK)
        return result;
    i = log_first(s, channel, index, after);
    return log_has_read(s, i == 0 ? MSC4203_END : log_message(s, i, memory, bytes, message));
}

MSC4203_PRIVATE int log_opening(void *context, uint32_t back, uint64_t *random, uint64_t *first)
{
    struct msc4203_log_state *s = log_of(context);
    const struct msc4203_log_item *item;

    if (back >= s->items[LOG_OPENINGS])
        return MSC4203_END;
    item = &s->item[LOG_OPENINGS][log_item_at(s, LOG_OPENINGS, s->counter[LOG_OPENINGS] - back)];
    *random = log_number64(item->word);
    *first = item->word[2] | (uint64_t)(item->word[3] & LOG_ITEM_WORD) << 32;
    return *first == 0 ? MSC4203_END : MSC4203_OK;
}

/* A request as words; returns 0 when it has no id. */
MSC4203_PRIVATE int log_request(const msc4203_request *request, uint32_t id[4])
{
    memset(id, 0, 4 * sizeof id[0]);
    if (request != NULL) {
        id[0] = log_get(request->who);
        id[1] = log_get(request->who + 4);
        id[2] = log_get(request->what);
        id[3] = log_get(request->what + 4) & LOG_ITEM_WORD;
    }
    return log_is_set(id);
}

MSC4203_PRIVATE int log_known(void *context, const msc4203_request *request)
{
    struct msc4203_log_state *s = log_of(context);
    struct msc4203_log_item id, item;
    uint32_t at;

    if (s->error || s->phase == PHASE_CLOSED)
        return MSC4203_E_STORAGE;
    if (!log_request(request, id.word))
        return MSC4203_OK;
    for (at = *log_request_bucket(s, &id); at != 0; at = s->request_next[at - 1]) {
        item = s->item[LOG_REQUESTS][at - 1];
        item.word[3] &= LOG_ITEM_WORD;
        if (memcmp(item.word, id.word, sizeof id.word) == 0)
            return MSC4203_KNOWN;
    }
    return MSC4203_OK;
}

MSC4203_PRIVATE int log_count(void *context, uint32_t channel, const msc4203_device *device,
                              msc4203_counts *counts)
{
    struct msc4203_log_state *s = log_of(context);
    uint32_t index = 0, first = 0;
    struct log_record r;
    int result;

    memset(counts, 0, sizeof *counts);
    if (channel >= MSC4203_CHANNELS)
        return MSC4203_E_USAGE;
    if (device == NULL && s->phase != PHASE_CLOSED)
        result = s->error ? MSC4203_E_STORAGE : MSC4203_OK;
    else
        result = log_check(s, 0, device, &index);
    if (result != MSC4203_OK || (device != NULL && index == 0))
        return result;
    if (device != NULL) {
        counts->messages = s->device[index].count;
        counts->bytes = log_bytes(s->device[index].units);
        first = s->device[index].chain[CHAIN_SYNC];
    } else {
        counts->messages = s->channel[channel].count;
        counts->bytes = log_bytes(s->channel[channel].units);
        if (channel == 0) {
            counts->through = s->settled - 1;
            counts->time_ms = (uint64_t)s->time << 10;
        } else {
            counts->through = log_number64(s->held + 2 * channel);
            if (counts->messages != 0)
                first = log_seek(s, log_find(s, log_number64(s->channel[channel].done) + 1),
                                 (uint32_t)1 << channel, 0);
        }
    }
    if (first != 0) {
        counts->first = log_number(&s->entry[first]);
        if (log_load(s, log_position(&s->entry[first]), &r) != 0)
            counts->time_ms = log_time_of(&r);
    }
    return log_has_read(s, MSC4203_OK);
}

MSC4203_PRIVATE int log_record_of(void *context, uint32_t channel, void *memory, size_t bytes,
                                  msc4203_span *name, msc4203_span *record)
{
    struct msc4203_log_state *s = log_of(context);
    struct log_record r;
    uint32_t names;

    if (s->error || s->phase == PHASE_CLOSED)
        return MSC4203_E_STORAGE;
    if (channel == 0 || channel >= MSC4203_CHANNELS)
        return MSC4203_E_USAGE;
    if (s->channel[channel].position == 0)
        return MSC4203_END;
    if (!log_load_channel(s, channel, &r))
        return log_has_read(s, MSC4203_E_DAMAGED);
    if (r.bytes > bytes)
        return MSC4203_E_TOO_LARGE;
    log_read(s, log_address(s, r.position) + r.fixed, memory, r.bytes);
    names = r.word[7] & 0xFFFF;
    if (name != NULL) {
        name->ptr = (const char *)memory;
        name->len = names;
    }
    if (record != NULL) {
        record->ptr = r.bytes != 0 ? (const char *)memory + names : (const char *)memory;
        record->len = r.word[7] >> 16;
    }
    return log_has_read(s, MSC4203_OK);
}

/* ---- the queue: putting in ---- */

MSC4203_PRIVATE int log_begin(void *context, uint32_t *batch)
{
    struct msc4203_log_state *s = log_of(context);
    uint32_t i;
    int result = log_is_closed(s);

    if (result != MSC4203_OK)
        return result;
    for (i = 0; i < LOG_BATCHES && s->batch[i].state != BATCH_FREE; i++)
        ;
    if (i == LOG_BATCHES)
        return MSC4203_E_QUEUE_FULL;
    s->batch[i].state = BATCH_OPEN;
    s->batch[i].turn = (s->batch[i].turn + 1) & 255;
    *batch = i + 1;
    return MSC4203_OK;
}

/* The state of a batch as a result. */
MSC4203_PRIVATE int log_batch_state(const struct msc4203_log_state *s, uint32_t batch)
{
    int result = log_is_closed(s);

    if (result != MSC4203_OK)
        return result;
    if (batch - 1 >= LOG_BATCHES || s->batch[batch - 1].state == BATCH_FREE)
        return MSC4203_E_USAGE;
    return s->batch[batch - 1].state == BATCH_OPEN ? MSC4203_OK : MSC4203_E_BATCH;
}

/* Whether so many units more may wait for these channels and this device. */
MSC4203_PRIVATE int log_quota(const struct msc4203_log_state *s, uint32_t channels,
                              uint32_t device, uint32_t units)
{
    uint32_t c;

    if (s->device_units != 0 && s->device[device].units + units > s->device_units)
        return MSC4203_E_QUOTA;
    for (c = 1; s->channel_units != 0 && c < MSC4203_CHANNELS; c++)
        if ((channels >> c & 1) != 0 && s->channel[c].units + units > s->channel_units)
            return MSC4203_E_QUOTA;
    return MSC4203_OK;
}

/* Writes a message into a batch, and keeps it as entry `i`. */
MSC4203_PRIVATE void log_push_message(struct msc4203_log_state *s, uint32_t batch, uint32_t i,
                                      uint32_t device, const msc4203_message *message,
                                      uint32_t units)
{
    struct msc4203_log_batch *b = &s->batch[batch];
    struct msc4203_log_entry *e = &s->entry[i];
    const msc4203_item *item = &message->item;
    uint32_t word[12], time = (uint32_t)(message->time_ms >> 10);
    msc4203_span body[5];

    body[0] = item->sender;
    body[1] = item->type;
    body[2] = item->user_id;
    body[3] = item->device_id;
    body[4] = item->content;
    word[4] = (uint32_t)item->sender.len | (uint32_t)item->type.len << 16;
    word[5] = (uint32_t)item->user_id.len | (uint32_t)item->device_id.len << 16;
    word[6] = (uint32_t)message->time_ms;
    word[7] = (uint32_t)(message->time_ms >> 32) & 0xFFFF;
    word[8] = b->count | b->turn << 24;
    word[9] = message->channels;
    word[10] = s->device[device].hash[0];
    word[11] = s->device[device].hash[1];
    e->place = log_append(s, word, LOG_MESSAGE, batch, body, 5) |
               (uint32_t)(message->channels & 1) << 29; /* LOG_FOR_SYNC */
    e->number = b->count++;
    e->device = device | units << 19;
    e->channels = message->channels;
    if (b->last != 0)
        log_set_link(&s->entry[b->last], i);
    else
        b->first = i;
    b->last = i;
    if (time > b->time)
        b->time = time;
    s->device[device].pending++;
    log_tally(s, e->channels, 0, units);
    log_tally_units(s, e, units);
    if (units > s->largest)
        s->largest = units;
}

MSC4203_PRIVATE int log_push(void *context, uint32_t batch, const msc4203_message *message)
{
    struct msc4203_log_state *s = log_of(context);
    const msc4203_item *item = &message->item;
    uint32_t hash[2], device, units, i = 0;
    uint64_t bytes = (uint64_t)item->sender.len + item->type.len + item->user_id.len +
                     item->device_id.len + item->content.len;
    int result = log_batch_state(s, batch);

    if (result != MSC4203_OK)
        return result;
    if (message->channels == 0)
        return MSC4203_E_USAGE;
    if (bytes > s->message_bytes || item->sender.len > 0xFFFF || item->type.len > 0xFFFF ||
        item->user_id.len > 0xFFFF || item->device_id.len > 0xFFFF)
        return MSC4203_E_TOO_LARGE;
    units = log_units_for((uint32_t)bytes + LOG_MESSAGE_FIXED);
    if (!log_fits(s, units, message->channels))
        return MSC4203_E_QUEUE_FULL;
    log_room(s, units);
    result = log_batch_state(s, batch); /* making room may have given it up */
    if (result != MSC4203_OK)
        return result;
    log_hash(s, &item->user_id, &item->device_id, hash);
    device = log_device_make(s, hash);
    if (device == 0)
        return MSC4203_E_QUEUE_FULL;
    result = log_quota(s, message->channels, device, units);
    if (result == MSC4203_OK && (i = log_pool_take(s)) == 0)
        result = MSC4203_E_QUEUE_FULL;
    if (result != MSC4203_OK) {
        log_device_drop_empty(s, device);
        return result;
    }
    log_push_message(s, batch - 1, i, device, message, units);
    return log_has_written(s);
}

/* Ends a batch for which nothing is kept. */
MSC4203_PRIVATE void log_give_up(struct msc4203_log_state *s, uint32_t batch)
{
    struct msc4203_log_batch *b = &s->batch[batch];

    if (b->count != 0 && !s->error) {
        log_room(s, 1);
        log_append_abort(s, batch);
    }
    log_batch_end(s, b, BATCH_FREE);
}

MSC4203_PRIVATE int log_commit(void *context, uint32_t batch, const msc4203_request *request,
                               uint64_t *first)
{
    struct msc4203_log_state *s = log_of(context);
    struct msc4203_log_batch *b;
    uint32_t word[12], count = 0; /* the request's */
    int result = log_batch_state(s, batch);

    *first = s->next;
    if (result == MSC4203_OK) {
        log_room(s, 3);
        result = log_batch_state(s, batch);
    }
    if ((result == MSC4203_OK || result == MSC4203_E_BATCH) &&
        log_known(context, request) == MSC4203_KNOWN)
        result = MSC4203_KNOWN;
    if (result == MSC4203_OK && s->next + s->batch[batch - 1].count > LOG_NUMBER_MAX)
        result = MSC4203_E_QUEUE_FULL;
    if (result != MSC4203_OK) {
        if (result != MSC4203_E_USAGE && batch - 1 < LOG_BATCHES)
            log_give_up(s, batch - 1);
        return s->error ? MSC4203_E_STORAGE : result;
    }
    b = &s->batch[batch - 1];
    memset(word, 0, sizeof word);
    word[2] = b->time;
    log_set64(word + 4, s->next);
    word[6] = b->count | b->turn << 24;
    if (log_request(request, word + 8)) {
        count = word[7] = s->counter[LOG_REQUESTS] + 1;
        log_remember(s, LOG_REQUESTS, count, word + 8);
    }
    if (b->count != 0 || count != 0) {
        if (b->time > s->time)
            s->time = b->time;
        log_place(s, log_fixed(LOG_COMMIT) / LOG_UNIT); /* no header is to know of it before */
        s->next += b->count;
        log_batch_commit(s, b, *first);
        log_append(s, word, LOG_COMMIT, batch - 1, NULL, 0);
        if (count != 0)
            log_note_item(s, s->current << s->shift, LOG_REQUESTS, count);
    }
    log_batch_clear(b, BATCH_FREE);
    return log_has_written(s);
}

MSC4203_PRIVATE int log_abort(void *context, uint32_t batch)
{
    struct msc4203_log_state *s = log_of(context);
    int result = log_batch_state(s, batch);

    if (result == MSC4203_E_USAGE || s->phase != PHASE_OPEN)
        return result;
    log_give_up(s, batch - 1);
    return log_has_written(s);
}

MSC4203_PRIVATE int log_flush(void *context)
{
    struct msc4203_log_state *s = log_of(context);
    int result = log_is_closed(s);

    if (result != MSC4203_OK)
        return result;
    log_sync(s, 0);
    if (!s->error)
        s->settled = s->next;
    return log_has_written(s);
}

/* ---- the queue: taking out ---- */

/* Takes /sync out of a device's messages with numbers up to `through`. Returns how many. */
MSC4203_PRIVATE uint32_t log_take_synced(struct msc4203_log_state *s, uint32_t device,
                                         uint64_t through)
{
    uint32_t taken = 0, i, word[8];

    i = s->device[device].chain[CHAIN_SYNC];
    if (i == 0 || log_number(&s->entry[i]) > through)
        return 0;
    memset(word, 0, sizeof word);
    word[4] = s->device[device].hash[0];
    word[5] = s->device[device].hash[1];
    log_set64(word + 6, through);
    log_append(s, word, LOG_SYNCED, 0, NULL, 0);
    for (; i != 0 && log_number(&s->entry[i]) <= through; taken++) {
        log_take(s, i, 1);
        i = s->device[device].chain[CHAIN_SYNC];
    }
    return taken;
}

/* Takes a channel out of all its messages with numbers up to `through`. */
MSC4203_PRIVATE void log_take_done(struct msc4203_log_state *s, uint32_t channel, uint64_t through)
{
    uint32_t bit = (uint32_t)1 << channel, *done = s->channel[channel].done;
    uint32_t i = log_find(s, log_number64(done) + 1);

    while (s->channel[channel].count != 0) {
        i = log_seek(s, i, bit, 0);
        if (log_number(&s->entry[i]) > through)
            break;
        log_take(s, i, bit);
    }
    if (through > log_number64(done))
        log_set64(done, through);
}

MSC4203_PRIVATE int log_done(void *context, uint32_t channel, const msc4203_device *device,
                             uint64_t through, const msc4203_span *record)
{
    struct msc4203_log_state *s = log_of(context);
    uint32_t index, i, word[8];
    int result = log_check(s, channel, device, &index);

    if (result == MSC4203_OK)
        result = log_is_closed(s);
    if (result == MSC4203_OK && record != NULL && channel == 0)
        result = MSC4203_E_USAGE;
    if (result == MSC4203_OK && record != NULL && record->len > s->record_max)
        result = MSC4203_E_TOO_LARGE;
    if (result == MSC4203_OK && record != NULL && !log_fits(s, 0, (uint32_t)1 << channel))
        result = MSC4203_E_QUEUE_FULL;
    if (result != MSC4203_OK)
        return result;
    log_room(s, record != NULL ? LOG_NAMED_UNITS + (uint32_t)record->len / LOG_UNIT : 2);
    if (through >= s->settled)
        through = s->settled - 1;
    if (channel == 0) {
        if (index != 0)
            log_take_synced(s, index, through);
        return log_has_written(s);
    }
    if (record == NULL) {
        i = log_first(s, channel, 0, 0);
        if (i == 0 || log_number(&s->entry[i]) > through)
            return log_has_written(s);
    }
    log_take_done(s, channel, through);
    if (record != NULL) {
        log_write_channel(s, channel, NULL, record, 0);
    } else {
        memset(word, 0, sizeof word);
        log_set64(word + 4, through);
        log_append(s, word, LOG_DONE, channel, NULL, 0);
    }
    return log_has_written(s);
}

/* Lets go of what is in flight behind number `through`: takes it out where its device was dropped.
 * Returns how many that are. */
MSC4203_PRIVATE uint32_t log_let_go(struct msc4203_log_state *s, uint32_t channel,
                                    uint64_t through)
{
    uint32_t bit = (uint32_t)1 << channel, found = 0, i;
    uint64_t held = log_number64(s->held + 2 * channel);

    if (through >= held)
        return 0;
    for (i = log_find(s, through + 1);; i++) {
        i = log_seek(s, i, bit, 0);
        if (i > s->used || log_number(&s->entry[i]) > held)
            return found;
        if (log_flags(&s->entry[i]) & LOG_SPARED) {
            found++;
            log_take(s, i, bit);
        }
    }
}

MSC4203_PRIVATE int log_hold(void *context, uint32_t channel, uint64_t through,
                             const msc4203_span *record)
{
    struct msc4203_log_state *s = log_of(context);
    uint32_t releases;
    int result = log_is_closed(s);

    if (result == MSC4203_OK && (channel == 0 || channel >= MSC4203_CHANNELS))
        result = MSC4203_E_USAGE;
    if (result == MSC4203_OK && record->len > s->record_max)
        result = MSC4203_E_TOO_LARGE;
    if (result == MSC4203_OK && !log_fits(s, 0, (uint32_t)1 << channel))
        result = MSC4203_E_QUEUE_FULL;
    if (result != MSC4203_OK)
        return result;
    log_room(s, LOG_NAMED_UNITS + (uint32_t)record->len / LOG_UNIT);
    if (through >= s->settled)
        through = s->settled - 1;
    releases = log_let_go(s, channel, through);
    log_set64(s->held + 2 * channel, through);
    log_write_channel(s, channel, NULL, record, releases != 0 ? (uint32_t)LOG_RELEASES : 0);
    return log_has_written(s);
}

/* Writes a message again under a new number, for other channels. */
MSC4203_APART void log_write_moved(struct msc4203_log_state *s, uint32_t channel, uint32_t i,
                                     struct log_record *r, uint32_t channels)
{
    struct msc4203_log_entry e = s->entry[i];

    log_set64(r->word + 12, log_number(&e));
    r->word[14] = channel;
    r->word[15] = 0;
    e.place = log_write_again(s, r, LOG_MOVED, channels & 1, s->next, channels) |
              (channels & 1) << 29;
    e.channels = channels; /* its units count as those of a copy, which it will be */
    log_tally_units(s, &e, log_units(&e));
    log_tally(s, channels, 0, log_units(&e));
    log_add(s, &e, s->next++);
}

/* Takes a channel out of the message with this number, which was moved away from it. */
MSC4203_PRIVATE void log_take_moved(struct msc4203_log_state *s, uint32_t channel, uint64_t number)
{
    uint32_t i = log_find(s, number);

    if (channel == 0)
        s->entry[i].place &= ~((uint32_t)LOG_FOR_SYNC << 29); /* it has not had it */
    log_take(s, i, (uint32_t)1 << channel);
}

MSC4203_PRIVATE int log_move(void *context, uint32_t channel, const msc4203_device *device,
                             uint64_t number, uint32_t channels, uint64_t *moved)
{
    struct msc4203_log_state *s = log_of(context);
    uint32_t index, i, word[8], alone;
    struct log_record old;
    int result = log_check(s, channel, device, &index);

    if (moved != NULL)
        *moved = 0;
    if (result == MSC4203_OK)
        result = log_is_closed(s);
    if (result != MSC4203_OK)
        return result;
    i = number == 0 ? 0 : log_first(s, channel, index, number - 1);
    log_room(s, i == 0 ? 1 : log_units(&s->entry[i]) + 1);
    i = number == 0 ? 0 : log_first(s, channel, index, number - 1);
    if (i == 0 || log_number(&s->entry[i]) != number)
        return MSC4203_END;
    if (channels != 0) {
        alone = s->entry[i].channels == (uint32_t)1 << channel;
        if ((!alone && !log_has_entry(s)) ||
            !log_fits(s, alone ? 0 : log_units(&s->entry[i]), channels))
            return MSC4203_E_QUEUE_FULL;
        if (s->next >= LOG_NUMBER_MAX)
            return MSC4203_E_QUEUE_FULL;
        if ((log_flags(&s->entry[i]) & LOG_DAMAGED) != 0 ||
            log_load(s, log_position(&s->entry[i]), &old) == 0 || !log_is_whole(s, &old))
            return s->error ? MSC4203_E_STORAGE : log_mark_damaged(s, &s->entry[i]);
        if (moved != NULL)
            *moved = s->next;
        log_write_moved(s, channel, i, &old, channels);
    } else {
        memset(word, 0, sizeof word);
        log_set64(word + 4, number);
        log_append(s, word, LOG_TAKEN, channel, NULL, 0);
    }
    log_take_moved(s, channel, number);
    return log_has_written(s);
}

/* Takes out what a device has but for what is in flight, up to the numbers in `held` for each
 * channel. Returns how many messages stay for that; only counts them when `take` is 0. */
MSC4203_PRIVATE uint32_t log_take_dropped(struct msc4203_log_state *s, uint32_t device, int take)
{
    uint32_t i, next, keep, c, spared = 0;

    for (i = s->device[device].chain[CHAIN_FIRST]; i != 0; i = next) {
        uint64_t number = log_number(&s->entry[i]);

        next = log_link(&s->entry[i]);
        if (s->entry[i].channels == 0)
            continue;
        for (keep = 0, c = 1; c < MSC4203_CHANNELS; c++)
            if ((s->entry[i].channels >> c & 1) != 0 && number <= log_number64(s->held + 2 * c))
                keep |= (uint32_t)1 << c;
        spared += keep != 0;
        if (!take)
            continue;
        if (keep != 0)
            s->entry[i].place |= (uint32_t)LOG_SPARED << 29;
        log_take(s, i, ~keep);
    }
    return spared;
}

/* Forgets the requests of a sender. Returns how many; only counts them when `forget` is 0. */
MSC4203_PRIVATE uint32_t log_forget_who(struct msc4203_log_state *s, const uint32_t who[2],
                                        int forget)
{
    uint32_t i, found = 0;

    for (i = 0; i < s->items[LOG_REQUESTS]; i++)
        if (memcmp(s->item[LOG_REQUESTS][i].word, who, 2 * sizeof who[0]) == 0) {
            found++;
            if (forget)
                log_forget(s, LOG_REQUESTS, i);
        }
    return found;
}

MSC4203_PRIVATE int log_drop(void *context, const msc4203_device *device, const uint8_t *who)
{
    struct msc4203_log_state *s = log_of(context);
    uint32_t index, word[12], spared = 0;
    msc4203_span held;
    int result = log_check(s, 0, device, &index);

    if (result == MSC4203_OK)
        result = log_is_closed(s);
    if (result != MSC4203_OK)
        return result;
    log_room(s, 3 + MSC4203_CHANNELS * 8 / LOG_UNIT);
    log_check(s, 0, device, &index); /* making room may have given up all that it had */
    memset(word, 0, sizeof word);
    if (who != NULL) {
        word[8] = log_get(who);
        word[9] = log_get(who + 4);
    }
    if ((word[8] | word[9]) == 0 || log_forget_who(s, word + 8, 0) == 0) {
        word[8] = word[9] = 0;
        if (index == 0)
            return log_has_written(s);
    }
    log_hash(s, &device->user_id, &device->device_id, word + 4);
    log_set64(word + 6, s->next - 1);
    if (index != 0)
        spared = log_take_dropped(s, index, 0);
    held.ptr = (const char *)s->held;
    held.len = MSC4203_CHANNELS * 2 * sizeof s->held[0];
    if ((word[8] | word[9]) != 0)
        log_forget_who(s, word + 8, 1);
    if (spared != 0)
        log_swap(s->held, MSC4203_CHANNELS * 2);
    log_append(s, word, LOG_DROPPED, 0, &held, spared != 0);
    if (spared != 0)
        log_swap(s->held, MSC4203_CHANNELS * 2);
    if (index != 0)
        log_take_dropped(s, index, 1);
    return log_has_written(s);
}

MSC4203_PRIVATE int log_expire(void *context, uint64_t before_ms, uint64_t *expired)
{
    struct msc4203_log_state *s = log_of(context);
    uint32_t device, i;
    uint64_t taken = 0, through;
    struct log_record r;
    int result = log_is_closed(s);

    for (device = 1; result == MSC4203_OK && device <= s->devices_used; device++) {
        log_room(s, 2);
        if (s->device[device].count == 0)
            continue;
        i = s->device[device].chain[CHAIN_SYNC];
        for (through = 0; i != 0 && log_number(&s->entry[i]) < s->settled;
             i = log_chain_sync(s, log_link(&s->entry[i]))) {
            if (log_load(s, log_position(&s->entry[i]), &r) != 0 &&
                log_time_of(&r) >= before_ms)
                break;
            through = log_number(&s->entry[i]);
        }
        if (through != 0)
            taken += log_take_synced(s, device, through);
        result = log_has_written(s);
    }
    if (expired != NULL)
        *expired = taken;
    return result;
}

/* ---- the queue: channels ---- */

/* Whether a channel has this name. */
MSC4203_APART int log_is_named(struct msc4203_log_state *s, uint32_t channel,
                                 const msc4203_span *name)
{
    struct log_record r;
    unsigned char piece[64];
    uint32_t done, n;

    if (s->channel[channel].position == 0 ||
        !log_load_channel(s, channel, &r) || (r.word[7] & 0xFFFF) != name->len)
        return 0;
    for (done = 0; done < name->len; done += n) {
        n = name->len - done < sizeof piece ? (uint32_t)(name->len - done)
                                            : (uint32_t)sizeof piece;
        log_read(s, log_address(s, r.position) + r.fixed + done, piece, n);
        if (memcmp(piece, name->ptr + done, n) != 0)
            return 0;
    }
    return 1;
}

MSC4203_PRIVATE int log_channel(void *context, const msc4203_span *name, int make,
                                uint32_t *channel)
{
    struct msc4203_log_state *s = log_of(context);
    msc4203_span empty;
    uint32_t c;
    int result;

    if (s->error || s->phase == PHASE_CLOSED)
        return MSC4203_E_STORAGE;
    if (name->len == 0 || name->len > LOG_NAME_MAX)
        return MSC4203_E_USAGE;
    for (c = MSC4203_CHANNEL_FIRST; c < MSC4203_CHANNEL_PARKED; c++)
        if (log_is_named(s, c, name)) {
            *channel = c;
            return log_has_read(s, MSC4203_OK);
        }
    result = log_has_read(s, make ? log_is_closed(s) : MSC4203_END);
    if (result != MSC4203_OK)
        return result;
    for (c = MSC4203_CHANNEL_FIRST; c < MSC4203_CHANNEL_PARKED; c++)
        if (s->channel[c].position == 0 && s->channel[c].units == 0)
            break;
    if (c == MSC4203_CHANNEL_PARKED || !log_fits(s, 0, (uint32_t)1 << c))
        return MSC4203_E_QUEUE_FULL;
    log_room(s, s->channel_units_max);
    memset(&empty, 0, sizeof empty);
    log_write_channel(s, c, name, &empty, 0);
    *channel = c;
    return log_has_written(s);
}

MSC4203_PRIVATE int log_release(void *context, uint32_t channel)
{
    struct msc4203_log_state *s = log_of(context);
    msc4203_span empty;
    int result = log_is_closed(s);

    if (result != MSC4203_OK)
        return result;
    if (channel == 0 || channel >= MSC4203_CHANNELS)
        return MSC4203_E_USAGE;
    if (s->channel[channel].units != 0)
        return MSC4203_E_BUSY;
    if (channel != MSC4203_CHANNEL_PARKED)
        s->roomed &= ~((uint32_t)1 << channel);
    if (s->channel[channel].position == 0)
        return MSC4203_OK;
    log_room(s, s->channel_units_max);
    memset(&empty, 0, sizeof empty);
    log_set64(s->held + 2 * channel, 0);
    log_write_channel(s, channel, &empty, &empty, LOG_GIVEN_BACK);
    return log_has_written(s);
}

/* ---- geometry and memory ---- */

/* Whether `large` is a multiple of `small`, by additions: small machines have no division. */
MSC4203_PRIVATE int log_is_multiple(uint32_t large, uint32_t small)
{
    uint32_t x = small;

    while (x < large)
        x += small;
    return x == large;
}

/* Sets how a log with this configuration is laid out in a region: the segments, the smallest size
 * of which there are at most LOG_SEGMENTS_MAX, and that holds the largest message. */
MSC4203_APART int log_shape(struct msc4203_log_state *s, const msc4203_storage *storage,
                            const msc4203_log_config *config)
{
    uint32_t sector = storage->sector != 0 ? storage->sector : 4096, step, bytes, need, halvings;
    uint64_t region = storage->bytes;

    s->storage = storage;
    if (sector < LOG_UNIT)
        sector = LOG_UNIT;
    if (config->sector > sector && log_is_multiple(config->sector, sector))
        sector = config->sector;
    if (region > (uint64_t)8 << 30 || sector % LOG_UNIT != 0 || sector > (uint32_t)1 << 24 ||
        config->sector > sector || storage->block > (uint32_t)1 << 27)
        return MSC4203_E_REGION;
    step = storage->block != 0 ? storage->block : sector;
    if (!log_is_multiple(step, sector))
        return MSC4203_E_REGION;
    for (bytes = step; step < LOG_STEP; step += bytes)
        ;
    s->message_bytes = config->message_bytes;
    if (s->message_bytes == 0)
        s->message_bytes = region < 73984 * 16 ? (uint32_t)(region >> 4) - 256 : 73728;
    if (s->message_bytes > (LOG_UNITS_MAX - 5) * LOG_UNIT || region < 4096)
        return MSC4203_E_REGION;
    s->message_units = log_units_for(s->message_bytes + LOG_MOVED_FIXED);
    need = log_clip((s->message_units + LOG_HEADER_UNITS) * LOG_UNIT, LOG_SEGMENT_MIN, UINT32_MAX);
    while (region >> 16 > step) /* at most some thousand steps */
        step += step;
    for (bytes = step; bytes < need || bytes < (region + LOG_SEGMENTS_MAX - 1) >> 7; bytes += step)
        ; /* that is, divided by LOG_SEGMENTS_MAX */
    for (s->segments = 0; region >= bytes; region -= bytes)
        s->segments++;
    s->segment_units = bytes / LOG_UNIT;
    for (s->shift = 0; (uint32_t)1 << s->shift < s->segment_units; s->shift++)
        ;
    if (s->segments < LOG_SEGMENTS_MIN || s->segments > (uint32_t)1 << (29 - s->shift))
        return MSC4203_E_REGION;
    s->sector = sector;
    halvings = s->segments / 4;
    for (step = sector; step < bytes && halvings != 0; step += step)
        halvings /= 2;
    s->free_min = LOG_FREE_MIN + (bytes < 2 * sector ? 3u : bytes < 8 * sector ? 2u : 0u);
    s->low = s->free_min + 2 + s->segments / 8 + halvings;
    s->record_max = (s->segment_units - LOG_HEADER_UNITS) * (LOG_UNIT / 2) - LOG_CHANNEL_FIXED -
                    LOG_NAME_MAX;
    if (s->record_max > LOG_RECORD_MAX)
        s->record_max = LOG_RECORD_MAX;
    s->channel_units_max = log_units_for(LOG_CHANNEL_FIXED + LOG_NAME_MAX + s->record_max);
    return MSC4203_OK;
}

/* Sets how much a log keeps in memory. */
MSC4203_APART int log_sizes(struct msc4203_log_state *s, const msc4203_log_config *config)
{
    uint64_t region = s->storage->bytes;

    s->messages = config->messages;
    if (s->messages == 0)
        s->messages = log_clip((uint32_t)(region >> 9), 64, LOG_MESSAGES_MAX);
    s->devices = config->devices;
    if (s->devices == 0)
        s->devices = log_clip(1024, 1, s->messages);
    s->items[LOG_REQUESTS] = config->requests;
    if (s->items[LOG_REQUESTS] == 0)
        s->items[LOG_REQUESTS] = log_clip((uint32_t)(region >> 9), 16, 4096);
    s->items[LOG_OPENINGS] = config->openings;
    if (s->items[LOG_OPENINGS] == 0)
        s->items[LOG_OPENINGS] = log_clip((uint32_t)(region >> 12), 4, 1000);
    s->largest = s->message_units;
    s->roomed = (uint32_t)1 << MSC4203_CHANNEL_PARKED;
    if (s->messages > LOG_MESSAGES_MAX || s->devices > LOG_DEVICES_MAX ||
        s->items[LOG_REQUESTS] > region >> 6 || s->items[LOG_OPENINGS] > region >> 6 ||
        log_capacity(s, s->message_units) < s->message_units + 4 * s->channel_units_max)
        return MSC4203_E_REGION;
    s->largest = 0;
    s->entries = s->messages + s->messages / 16 * 3 + 18;
    for (s->request_mask = 1; s->request_mask < s->items[LOG_REQUESTS]; s->request_mask *= 2)
        ;
    s->request_mask = s->request_mask / 2 != 0 ? s->request_mask / 2 - 1 : 0;
    for (s->device_mask = 1; s->device_mask < s->devices; s->device_mask *= 2)
        ;
    s->device_mask = s->device_mask / 2 != 0 ? s->device_mask / 2 - 1 : 0;
    return MSC4203_OK;
}

/* Takes so many bytes of the caller's memory. */
MSC4203_PRIVATE void *log_part_of(unsigned char *memory, size_t *used, size_t count, size_t size)
{
    size_t at = *used;

    *used += count * size;
    return memory != NULL ? memory + at : NULL;
}

/* Lays the index out in the caller's memory. Returns the bytes that it needs, without the buffer,
 * which goes last. */
MSC4203_APART size_t log_layout(struct msc4203_log_state *s, void *memory)
{
    unsigned char *m = (unsigned char *)memory;
    size_t used = 0, groups = s->entries / LOG_GROUP + s->entries / (LOG_GROUP * LOG_GROUP) + 3;

    s->segment = (struct msc4203_log_segment *)log_part_of(m, &used, s->segments,
                                                           sizeof *s->segment);
    s->channel = (struct msc4203_log_channel *)log_part_of(m, &used, MSC4203_CHANNELS,
                                                           sizeof *s->channel);
    s->held = (uint32_t *)log_part_of(m, &used, MSC4203_CHANNELS, 4 * sizeof *s->held);
    s->batch = (struct msc4203_log_batch *)log_part_of(m, &used, LOG_BATCHES, sizeof *s->batch);
    s->item[0] = (struct msc4203_log_item *)log_part_of(m, &used, s->items[0],
                                                        sizeof *s->item[0]);
    s->item[1] = (struct msc4203_log_item *)log_part_of(m, &used, s->items[1],
                                                        sizeof *s->item[1]);
    s->request_next = (uint32_t *)log_part_of(m, &used, s->items[0], sizeof *s->request_next);
    s->request_head = (uint32_t *)log_part_of(m, &used, s->request_mask + 1u,
                                              sizeof *s->request_head);
    s->device_head = (uint32_t *)log_part_of(m, &used, s->device_mask + 1u,
                                             sizeof *s->device_head);
    s->device = (struct msc4203_log_device *)log_part_of(m, &used, s->devices + 1u,
                                                         sizeof *s->device);
    s->group = (struct msc4203_log_group *)log_part_of(m, &used, groups, sizeof *s->group);
    s->entry = (struct msc4203_log_entry *)log_part_of(m, &used, s->entries + 1u,
                                                       sizeof *s->entry);
    s->buffer = (unsigned char *)log_part_of(m, &used, 0, 0);
    return used;
}

/* Bytes of the smallest buffer: whole sectors. */
MSC4203_PRIVATE uint32_t log_buffer_min(const struct msc4203_log_state *s)
{
    uint32_t bytes = s->sector;

    if (s->storage->memory != NULL)
        return 0;
    while (bytes < LOG_STEP)
        bytes += s->sector;
    return bytes;
}

/* ---- opening: finding the segments ---- */

/* Reads the header of a segment that may begin at a place. Returns whether there is one, which is
 * no copy of another segment's. */
MSC4203_APART int log_header(struct msc4203_log_state *s, uint64_t at,
                             uint32_t word[LOG_HEADER_WORDS])
{
    static const uint32_t none[2] = {0, 0};

    log_read(s, at, word, LOG_HEADER_UNITS * LOG_UNIT);
    log_swap(word, LOG_HEADER_WORDS);
    return !s->error && word[27] < LOG_SEGMENTS_MAX && word[8] < (uint32_t)1 << 24 &&
           log_bytes(word[27] * word[8]) == at && word[4] == LOG_MAGIC_LOW &&
           word[5] == LOG_MAGIC_HIGH &&
           word[0] == (LOG_HEADER_UNITS | (uint32_t)LOG_SEGMENT << 24) &&
           log_fixed_sum(none, 0, 0, word, LOG_HEADER_WORDS) == word[3];
}

/* Whether there is a segment of the same log elsewhere in the region. A message may hold what looks
 * like a header: one that is not at the region's beginning must not be alone. */
MSC4203_APART int log_has_other(struct msc4203_log_state *s, uint64_t at, const uint32_t key[2],
                                uint32_t segment_bytes)
{
    uint32_t word[LOG_HEADER_WORDS];
    uint64_t other;

    for (other = 0; other + segment_bytes <= s->storage->bytes; other += segment_bytes)
        if (other != at && log_header(s, other, word) && memcmp(word + 15, key, 8) == 0)
            return 1;
    return 0;
}

/* Finds the log in a region, and its configuration. */
MSC4203_APART int log_inspect(struct msc4203_log_state *s, const msc4203_storage *storage,
                              msc4203_log_config *config)
{
    uint32_t word[LOG_HEADER_WORDS], step = LOG_STEP;
    uint64_t at;

    memset(s, 0, sizeof *s);
    s->storage = storage;
    memset(config, 0, sizeof *config);
    for (at = 0; at + LOG_STEP <= storage->bytes && !s->error; at += step) {
        if (log_header(s, at, word) &&
            (at == 0 || log_has_other(s, at, word + 15, word[8] * LOG_UNIT)))
            break;
    }
    if (s->error)
        return MSC4203_E_STORAGE;
    if (at + LOG_STEP > storage->bytes)
        return MSC4203_E_FORMAT;
    config->bytes = log_number64(word + 6);
    config->sector = word[9];
    config->messages = word[10];
    config->devices = word[11];
    config->requests = word[12];
    config->openings = word[13];
    config->message_bytes = word[14];
    s->key[0] = word[15];
    s->key[1] = word[16];
    if (config->bytes != storage->bytes)
        return MSC4203_E_REGION;
    if (log_shape(s, storage, config) != MSC4203_OK || log_sizes(s, config) != MSC4203_OK ||
        s->segment_units != word[8] || s->sector != word[9])
        return MSC4203_E_REGION;
    return MSC4203_OK;
}

/* The first unit behind `at` where there is a record again; the segment's end if there is none. */
MSC4203_APART uint32_t log_skip(struct msc4203_log_state *s, uint32_t segment, uint32_t at)
{
    struct log_record r;

    do
        at++;
    while (at < s->segment[segment].end && log_load(s, segment << s->shift | at, &r) == 0);
    return at;
}

/* Whether a record of a segment, from a unit on, was written when more than `durable` units of the
 * segment were durable. */
MSC4203_APART int log_states_durable(struct msc4203_log_state *s, uint32_t segment, uint32_t unit,
                                     uint32_t durable)
{
    struct log_record r;

    for (; unit < s->segment[segment].end;
         unit = r.kind != 0 ? unit + r.units : log_skip(s, segment, unit)) {
        if (log_load(s, segment << s->shift | unit, &r) == 0)
            r.kind = 0;
        else if ((r.word[1] & 0xFFFFFF) > durable)
            return 1;
    }
    return 0;
}

/* Whether anything shows that what is before a place was durable. A record of its segment says
 * so, or the header of the segment that came behind it; or anything in a later one was durable. */
MSC4203_APART int log_was_durable(struct msc4203_log_state *s, uint32_t segment, uint32_t unit)
{
    uint32_t word[LOG_HEADER_WORDS], i, sequence = s->segment[segment].sequence;

    if (log_states_durable(s, segment, unit, unit))
        return 1;
    for (i = log_after(s, sequence); i < s->segments; i = log_after(s, s->segment[i].sequence)) {
        if (!log_header(s, log_address(s, i << s->shift), word))
            return 1; /* it was found by its records, so these were durable */
        if (word[21] != 0 && (word[19] != sequence || word[21] > unit))
            return 1;
        if (log_states_durable(s, i, LOG_HEADER_UNITS, 0))
            return 1;
    }
    return 0;
}

/* The salt of an opening that begins with the segment of this sequence number. Whoever knows the
 * one before it, and has lost this segment's header, can work it out. Where the power failed in an
 * opening it is used again, in the same place: nothing but the same records was written there. */
MSC4203_PRIVATE uint32_t log_salt(const struct msc4203_log_state *s, uint32_t sequence)
{
    return log_fixed_sum(s->key, s->segment[s->current].salt, sequence, NULL, 0);
}

/* Whether a segment without a header is the one with this sequence number: it has a record with the
 * checksum for that, which was durable or, if that is not known, written when something in the
 * segment was. With `openings`, also whether it is the first one of a later opening, which leaves
 * out the numbers of segments that count for nothing: so many numbers are tried. */
MSC4203_APART int log_is_segment(struct msc4203_log_state *s, uint32_t segment, uint32_t sequence,
                                 uint32_t salt, int was_durable, uint32_t openings)
{
    struct msc4203_log_segment *here = &s->segment[segment];
    struct log_record r;
    uint32_t at, k, word;
    int is = 0;

    if (here->sequence != 0)
        return 0;
    for (at = LOG_HEADER_UNITS; at < s->segment_units && !is && !s->error; at++) {
        log_read(s, log_address(s, segment << s->shift | at), &word, sizeof word);
        log_swap(&word, 1);
        /* A look at its length says at once, of most, that there is no record. */
        k = (word & 0xFFFFFF) - 1 < s->segment_units - at ? 0 : openings + 1;
        for (; k <= openings && !is; k++) {
            here->sequence = k == 0 ? sequence : sequence + k - 1;
            here->salt = k == 0 ? salt : log_salt(s, here->sequence);
            is = log_load(s, segment << s->shift | at, &r) != 0 &&
                 (was_durable || (r.word[1] & 0xFFFFFF) != 0);
        }
    }
    here->end = s->segment_units;
    if (is)
        s->damaged++;
    else
        here->sequence = 0;
    return is;
}

/* The segment with this sequence number; `segments` when there is none. */
MSC4203_PRIVATE uint32_t log_segment_with(const struct msc4203_log_state *s, uint32_t sequence)
{
    uint32_t i = log_after(s, sequence - 1);

    return i < s->segments && s->segment[i].sequence == sequence ? i : s->segments;
}

/* Takes segments whose sequence numbers are behind `after` and before `before` for void. */
MSC4203_PRIVATE void log_make_void(struct msc4203_log_state *s, uint32_t after, uint32_t before)
{
    uint32_t i;

    for (i = 0; i < s->segments; i++)
        if (s->segment[i].sequence != 0 && log_before(after, s->segment[i].sequence) &&
            log_before(s->segment[i].sequence, before))
            s->segment[i].sequence = 0;
}

/* Goes back from the newest segment: each says where the one before it ended, and which are void
 * since they were written in vain. Where one is missing that was never durable the log ended before
 * it. What is older than the oldest that is needed is free. */
MSC4203_APART void log_go_back(struct msc4203_log_state *s)
{
    uint32_t word[LOG_HEADER_WORDS], at, i, k, before, end, salt;
    int was_durable;

    for (at = s->sequence; log_before(s->oldest, at); at = before) {
        before = at - 1;
        end = s->segment_units;
        i = log_segment_with(s, at);
        salt = i < s->segments ? s->segment[i].salt : s->salt;
        memset(word, 0, sizeof word);
        if (i < s->segments && log_header(s, log_address(s, i << s->shift), word)) {
            before = at - log_clip(at - word[19], 1, (uint64_t)1 << 30);
            end = log_clip(word[20], 0, end);
            salt = word[29];
            log_make_void(s, before, at);
        }
        if (log_before(before, s->oldest))
            break;
        k = log_segment_with(s, before);
        was_durable = k == s->segments && (i == s->segments || word[21] != 0 ||
                                           log_after(s, s->oldest - 1) == i || /* all there is */
                                           log_was_durable(s, i, 0));
        if (k == s->segments)
            for (k = 0; k < s->segments && !log_is_segment(s, k, before, salt, was_durable, 0); k++)
                ;
        if (k < s->segments) {
            s->segment[k].end = end;
        } else if (was_durable) {
            s->damaged++; /* all of it is lost */
        } else {
            log_make_void(s, before, s->sequence + 1);
            while (log_before(s->oldest, before) && log_segment_with(s, before) == s->segments)
                before--;
            s->current = log_after(s, before - 1);
        }
    }
    log_make_void(s, s->oldest - ((uint32_t)1 << 30), s->oldest);
}

/* Goes through the newest segment, as far as it can be followed: to what it says of the oldest one,
 * and to see whether it ends with the end of an index, of which *image is then the first segment's
 * sequence number, else 0. */
MSC4203_APART void log_look_through(struct msc4203_log_state *s, uint32_t *image)
{
    struct log_record r;
    uint32_t at, units;

    *image = 0;
    for (at = LOG_HEADER_UNITS; at < s->segment_units;
         at = units != 0 ? at + units : log_skip(s, s->current, at)) {
        units = log_load(s, s->current << s->shift | at, &r);
        if ((units == 0 || !log_is_whole(s, &r)) &&
            (*image != 0 || !log_was_durable(s, s->current, at)))
            break; /* nothing is written behind the end of an index */
        if (units == 0)
            continue;
        if (r.kind == LOG_PAD && log_before(s->oldest, r.word[2]))
            s->oldest = r.word[2];
        else if (r.kind == LOG_IMAGE && r.small == LOG_IMAGE_ENDS)
            *image = r.word[7];
    }
    s->image_end = at;
}

/* Reads the headers of all segments but one, and takes what the newest one says. */
MSC4203_APART void log_read_headers(struct msc4203_log_state *s, uint32_t but)
{
    uint32_t word[LOG_HEADER_WORDS], i;

    s->sequence = 0;
    for (i = 0; i < s->segments && !s->error; i++) {
        if (i == but || !log_header(s, log_address(s, i << s->shift), word) ||
            memcmp(word + 15, s->key, sizeof s->key) != 0)
            continue;
        if (s->segment[i].sequence != word[17]) {
            memset(&s->segment[i], 0, sizeof s->segment[i]);
            s->segment[i].sequence = word[17];
            s->segment[i].salt = word[28];
            s->segment[i].end = s->segment_units;
        }
        if (s->sequence != 0 && !log_before(s->sequence, word[17]))
            continue;
        s->current = i;
        s->sequence = word[17];
        s->oldest = s->header_oldest = word[18];
        s->salt = word[28];
        s->previous_salt = word[29];
        s->previous = word[19];
        s->previous_end = word[20];
        s->previous_durable = word[21];
        s->time = log_clip(s->time, word[24], UINT32_MAX);
        s->counter[LOG_REQUESTS] = word[25];
    }
}

/* Whether a segment has no record, and nothing shows that there was one. */
MSC4203_PRIVATE int log_is_bare(struct msc4203_log_state *s, uint32_t segment)
{
    struct log_record r;

    return (log_load(s, segment << s->shift | LOG_HEADER_UNITS, &r) == 0 ||
            !log_is_whole(s, &r)) &&
           !log_states_durable(s, segment, LOG_HEADER_UNITS, 0);
}

/* The segment after the newest one may have lost its header since it was written. It is in the next
 * free place: of the same opening, or of a later one. */
MSC4203_PRIVATE int log_find_newest(struct msc4203_log_state *s)
{
    uint32_t i;

    s->unused = s->oldest;
    i = log_next_free(s);
    if (!log_is_segment(s, i, s->sequence + 1, s->salt, 0, LOG_TRIES))
        return 0;
    s->previous = s->sequence;
    s->previous_salt = s->salt;
    s->sequence = s->segment[i].sequence;
    s->header_oldest = s->oldest;
    s->previous_end = s->previous_durable = s->segment_units;
    s->current = i;
    return 1;
}

/* Finds the segments. When the power failed as soon as the newest one had its header, that counts
 * for nothing: it may say that the one before it is void, which has openings that this one was to
 * repeat. */
MSC4203_APART void log_survey(struct msc4203_log_state *s, uint32_t *image)
{
    uint32_t bare;

    s->bare = s->damaged = 0;
    log_read_headers(s, s->segments);
    bare = s->current;
    if (s->sequence != 0 && log_is_bare(s, bare)) {
        s->bare = s->sequence; /* its header stays: this number must not be used again */
        s->segment[bare].sequence = 0;
        log_read_headers(s, bare);
        if (s->sequence == 0) { /* a log that was just made */
            s->bare = 0;
            log_read_headers(s, s->segments);
        }
    }
    log_look_through(s, image);
    if (s->sequence != 0)
        log_go_back(s);
    if (log_find_newest(s))
        *image = 0;
}

/* ---- opening: reading the records ---- */

/* Sorts entries by their numbers, and those with the same number by their age, which is in their
 * link. Most often they are in order already, or nearly. */
MSC4203_APART void log_sort(struct msc4203_log_state *s)
{
    struct msc4203_log_entry *entry = s->entry, e;
    uint32_t gap = 1, i, k;

    for (i = 2; i <= s->used; i++)
        if (log_number(&entry[i]) < log_number(&entry[i - 1]))
            break;
    if (i > s->used)
        return;
    while (gap < s->used)
        gap = gap * 2 + gap / 4 + 1;
    while (gap > 1) {
        gap = gap / 4 + gap / 8 + gap / 16 + gap / 128 + 1; /* 0.445 of it */
        for (i = gap + 1; i <= s->used; i++) {
            e = entry[i];
            for (k = i; k > gap; k -= gap) {
                const struct msc4203_log_entry *before = &entry[k - gap];
                if (log_number(before) < log_number(&e) ||
                    (before->number == e.number && before->link < e.link))
                    break;
                entry[k] = *before;
            }
            entry[k] = e;
        }
    }
}

/* Notes a number that was given out: none up to it is given out again. */
MSC4203_APART void log_met(struct msc4203_log_state *s, uint64_t number)
{
    s->highest = log_larger(s->highest, number);
}

/* What is left of what a message waits for once all marks are applied. */
MSC4203_PRIVATE uint32_t log_marked(const struct msc4203_log_state *s,
                                    const struct msc4203_log_entry *e)
{
    const struct msc4203_log_device *d = &s->device[log_device_of(e)];
    uint32_t left = e->channels, c;
    uint64_t number = log_number(e);

    if (number <= log_number64(d->chain + MARK_SYNCED))
        left &= ~(uint32_t)1;
    if (number <= log_number64(d->chain + MARK_DROPPED) && !(log_flags(e) & LOG_SPARED))
        return 0;
    for (c = 1; c < MSC4203_CHANNELS && left >> c != 0; c++)
        if (number <= log_number64(s->channel[c].done))
            left &= ~((uint32_t)1 << c);
    return left;
}

/* Puts the entries in order: of several of one number the newest counts, what was taken out of it
 * is, and what waits for nothing goes. */
MSC4203_APART void log_merge(struct msc4203_log_state *s)
{
    uint32_t i, to = 0, taken = 0;
    uint64_t number = 0;
    int met = 0; /* whether a message with this number was */

    log_sort(s);
    for (i = 1; i <= s->used; i++) {
        struct msc4203_log_entry e = s->entry[i];

        if (log_number(&e) != number) {
            number = log_number(&e);
            taken = 0;
            met = 0;
        }
        if (e.place == 0) {
            taken |= e.channels;
        } else {
            to += !met;
            met = 1;
            s->entry[to] = e;
        }
        if (met) {
            s->entry[to].channels &= ~taken;
            if (taken & 1)
                s->entry[to].place &= ~((uint32_t)LOG_FOR_SYNC << 29);
        }
    }
    s->used = to;
    for (i = 1, to = 0; i <= s->used; i++) {
        uint32_t left = log_marked(s, &s->entry[i]);
        if (left == 0)
            continue;
        s->entry[++to] = s->entry[i];
        s->entry[to].channels = left;
    }
    s->used = to;
}

/* Counts a message in, which waits or is in an open batch. */
MSC4203_PRIVATE void log_count_in(struct msc4203_log_state *s, const struct msc4203_log_entry *e)
{
    log_tally_units(s, e, log_units(e));
    log_tally(s, e->channels, 0, log_units(e));
    if (log_units(e) > s->largest)
        s->largest = log_units(e);
}

/* Finds devices by their hash again; those that have nothing are free. */
MSC4203_APART void log_index_devices(struct msc4203_log_state *s)
{
    uint32_t i, *head;

    memset(s->device_head, 0, ((size_t)s->device_mask + 1) * sizeof *s->device_head);
    s->device_free = 0;
    for (i = s->devices_used; i != 0; i--) {
        head = &s->device_free;
        if (s->device[i].count != 0 || s->device[i].pending != 0)
            head = &s->device_head[s->device[i].hash[0] & s->device_mask];
        s->device[i].next = *head;
        *head = i;
    }
}

/* Makes the whole index from the entries in memory, as it is between two calls of the queue. */
MSC4203_APART void log_settle(struct msc4203_log_state *s)
{
    uint32_t i, k;

    log_merge(s);
    for (i = 0; i < s->segments; i++)
        s->segment[i].live = 0;
    for (i = 0; i < MSC4203_CHANNELS; i++)
        s->channel[i].count = s->channel[i].units = 0;
    for (i = 1; i <= s->devices_used; i++) {
        s->device[i].count = s->device[i].pending = s->device[i].units = 0;
        memset(s->device[i].chain, 0, sizeof s->device[i].chain);
    }
    memset(s->group, 0, (size_t)((unsigned char *)s->entry - (unsigned char *)s->group));
    s->live = s->largest = 0;
    s->waiting = s->used;
    for (i = 1; i <= s->used; i++) {
        log_chain_add(s, i);
        log_group_add(s, i);
        log_count_in(s, &s->entry[i]);
        log_tally(s, s->entry[i].channels, 1, 0);
        s->device[log_device_of(&s->entry[i])].count++;
    }
    for (i = 0; i < LOG_BATCHES; i++)
        for (k = s->batch[i].first; k != 0; k = log_link(&s->entry[k])) {
            log_count_in(s, &s->entry[k]);
            s->device[log_device_of(&s->entry[k])].pending++;
        }
    log_index_devices(s);
}

/* Goes on with reading after that: entries have their age in their link, devices their marks. */
MSC4203_PRIVATE void log_unsettle(struct msc4203_log_state *s)
{
    uint32_t i, to = 0;

    for (i = 1; i <= s->used; i++)
        if (s->entry[i].channels != 0) {
            s->entry[++to] = s->entry[i];
            log_set_link(&s->entry[to], to);
        }
    s->used = to;
    for (i = 1; i <= s->devices_used; i++)
        memset(s->device[i].chain, 0, sizeof s->device[i].chain);
}

/* Makes room in memory while the log is read. */
MSC4203_PRIVATE void log_squeeze(struct msc4203_log_state *s)
{
    log_settle(s);
    log_unsettle(s);
}

/* Keeps what was read: a message with its number, or with place 0 what was taken out of one. */
MSC4203_APART void log_keep(struct msc4203_log_state *s, const struct msc4203_log_entry *e,
                            uint64_t number)
{
    s->entry[++s->used] = *e;
    log_set_number(&s->entry[s->used], number);
    log_set_link(&s->entry[s->used], s->used);
    if (e->place != 0)
        s->device[log_device_of(e)].count++;
    log_met(s, number);
}

/* The entry of a message that was read. Returns 0 when there is no room for its device. */
MSC4203_PRIVATE int log_entry_of(struct msc4203_log_state *s, const struct log_record *r,
                                 struct msc4203_log_entry *e, int whole)
{
    uint32_t flags = r->kind == LOG_MESSAGE ? r->word[9] & 1 : r->small & 7, device;

    if (!whole)
        flags |= LOG_DAMAGED;
    device = log_device_make(s, r->word + 10);
    if (device == 0) { /* some may have nothing any more */
        log_squeeze(s);
        device = log_device_make(s, r->word + 10);
    }
    memset(e, 0, sizeof *e);
    e->place = r->position | flags << 29;
    e->device = device | (r->units - (r->kind == LOG_MOVED)) << 19;
    e->channels = r->word[9];
    if (device == 0)
        s->damaged++;
    return device != 0;
}

/* Gives the messages of a batch that was read the numbers from `first` on. */
MSC4203_PRIVATE void log_read_numbers(struct msc4203_log_state *s, struct msc4203_log_batch *b,
                                      uint64_t first)
{
    struct msc4203_log_entry e;

    while (b->first != 0) {
        uint32_t i = b->first;

        if (s->used + 2 >= s->pool)
            log_squeeze(s);
        e = s->entry[i];
        b->first = log_link(&e);
        log_pool_give(s, i);
        log_keep(s, &e, first + e.number);
        s->device[log_device_of(&e)].pending--;
    }
    log_batch_clear(b, BATCH_FREE);
}

/* The record that ended a batch was lost. If numbers are missing that it could have had, it gets
 * them; if there are none it was aborted. */
MSC4203_PRIVATE void log_read_lost(struct msc4203_log_state *s, struct msc4203_log_batch *b)
{
    uint32_t count = b->count;

    if (count > s->gap_left) {
        log_batch_end(s, b, BATCH_FREE);
        return;
    }
    log_read_numbers(s, b, s->gap);
    s->gap += count;
    s->gap_left -= count;
}

/* Before a number that was given out: others before it are missing when records were lost that gave
 * them to batches. */
MSC4203_PRIVATE void log_read_gap(struct msc4203_log_state *s, uint64_t number)
{
    uint64_t missing = number > s->next ? number - s->next : 0;
    uint32_t i;

    missing &= 0 - (uint64_t)(missing >> 24 == 0); /* none, if it is more than can have been lost */
    while (missing > s->messages) /* each opening after a crash leaves so many out */
        missing -= s->messages + 1;
    if (missing != 0) {
        s->gap = s->next;
        s->gap_left = (uint32_t)missing;
    }
    s->next = log_larger(s->next, number);
    for (i = 0; i < LOG_BATCHES; i++)
        if (s->batch[i].state == BATCH_LOST)
            log_read_lost(s, &s->batch[i]);
}

/* The batch that a record belongs to. When another one is in its place, the record that ended that
 * one was lost: it is put elsewhere. */
MSC4203_PRIVATE struct msc4203_log_batch *log_read_batch(struct msc4203_log_state *s,
                                                         const struct log_record *r)
{
    struct msc4203_log_batch *b = &s->batch[r->small % LOG_BATCHES];
    struct msc4203_log_batch *other = &s->batch[LOG_BATCHES - 1 - r->small % LOG_BATCHES];

    if (b->count != 0 && b->turn != log_turn(r) && b->count <= s->gap_left)
        log_read_lost(s, b);
    if (b->count != 0 && b->turn != log_turn(r)) {
        log_batch_end(s, other, BATCH_FREE); /* where many are open, or much is lost */
        *other = *b;
        other->state = BATCH_LOST;
        log_batch_clear(b, BATCH_FREE);
    }
    b->turn = log_turn(r);
    return b;
}

/* A message of an open batch. */
MSC4203_PRIVATE void log_read_message(struct msc4203_log_state *s, const struct log_record *r,
                                      int whole)
{
    struct msc4203_log_batch *b = log_read_batch(s, r);
    struct msc4203_log_entry e;
    uint32_t i;

    if (!log_entry_of(s, r, &e, whole))
        return;
    i = s->pool_free;
    if (i != 0)
        s->pool_free = log_link(&s->entry[i]);
    else
        i = --s->pool;
    e.number = r->word[8] & 0xFFFFFF;
    b->count = e.number + 1;
    b->time = s->damaged;
    s->entry[i] = e;
    if (b->last != 0)
        log_set_link(&s->entry[b->last], i);
    else
        b->first = i;
    b->last = i;
    s->pending++;
    s->device[log_device_of(&e)].pending++;
}

/* The end of a batch. */
MSC4203_PRIVATE void log_read_commit(struct msc4203_log_state *s, const struct log_record *r)
{
    uint64_t first = log_number64(r->word + 4), end = first + (r->word[6] & 0xFFFFFF);
    struct msc4203_log_batch *b = log_read_batch(s, r);

    log_read_gap(s, first);
    log_read_numbers(s, b, first);
    s->next = log_larger(s->next, end);
    if (r->word[2] > s->time)
        s->time = r->word[2];
    if (log_is_set(r->word + 8)) {
        log_remember(s, LOG_REQUESTS, r->word[7], r->word + 8);
        log_note_item(s, r->position, LOG_REQUESTS, r->word[7]);
    }
}

/* Takes a mark for read. Numbers up to it were given out, also where the records that did so were
 * lost: none of them is given out again, to a message that would then be behind the mark. */
MSC4203_APART void log_raise(struct msc4203_log_state *s, uint32_t mark[2], uint64_t number)
{
    log_met(s, number);
    if (number > log_number64(mark))
        log_set64(mark, number);
}

MSC4203_PRIVATE void log_read_channel(struct msc4203_log_state *s, const struct log_record *r)
{
    uint32_t c = r->small & 31;
    uint64_t held = r->word[4] | (uint64_t)(r->word[5] & 0xFFFF) << 32;

    if (r->small & LOG_RELEASES) {
        log_settle(s);
        log_set64(s->held + 2 * c, LOG_NUMBER_MAX); /* what it was may have been in older records */
        log_let_go(s, c, held);
        log_unsettle(s);
    }
    log_set64(s->held + 2 * c, held);
    log_met(s, held);
    log_raise(s, s->channel[c].done, r->word[6] | (uint64_t)(r->word[5] >> 16) << 32);
    s->channel[c].position = r->small & LOG_GIVEN_BACK ? 0 : r->position;
}

/* A device was dropped. What was in flight then is in the record, if that matters: it is put in
 * place of what is in flight now for the moment. */
MSC4203_PRIVATE void log_read_dropped(struct msc4203_log_state *s, const struct log_record *r)
{
    uint32_t device = log_device(s, r->word + 4), i, now, then[1];

    if ((r->word[8] | r->word[9]) != 0)
        log_forget_who(s, r->word + 8, 1);
    if (device == 0)
        return;
    if (r->bytes == 0) {
        log_raise(s, s->device[device].chain + MARK_DROPPED, log_number64(r->word + 6));
        return;
    }
    log_settle(s);
    for (i = 0; i < 2 * MSC4203_CHANNELS; i++) {
        log_read(s, log_address(s, r->position) + r->fixed + 4 * i, then, 4);
        log_swap(then, 1);
        now = s->held[i];
        s->held[i] = then[0];
        s->held[2 * MSC4203_CHANNELS + i] = now;
    }
    log_take_dropped(s, log_device(s, r->word + 4), 1); /* it may have nothing any more */
    memmove(s->held, s->held + 2 * MSC4203_CHANNELS, 2 * MSC4203_CHANNELS * sizeof s->held[0]);
    log_unsettle(s);
}

MSC4203_PRIVATE void log_read_items(struct msc4203_log_state *s, const struct log_record *r)
{
    int which = (int)(r->small & 1);
    uint32_t word[4], i;

    for (i = 0; (i + 1) * sizeof word <= r->bytes; i++) {
        log_read(s, log_address(s, r->position) + r->fixed + i * sizeof word, word, sizeof word);
        log_swap(word, 4);
        if (!log_is_set(word))
            continue; /* it was not remembered, or was elsewhere */
        if (s->empty && log_is_remembered(s, which, r->word[4] + i))
            continue; /* this segment will be void; an older one has it, too */
        word[3] &= LOG_ITEM_WORD;
        log_remember(s, which, r->word[4] + i, word);
        log_note_item(s, r->position, which, r->word[4] + i);
        if (which == LOG_OPENINGS) /* also where the header that says so was lost */
            log_met(s, log_number64(word + 2) - 1);
    }
    if (which == LOG_OPENINGS && s->opening_first == 0)
        s->opening_first = r->word[4];
}

/* Repeats what a record says. Of one whose body is damaged only a message is kept. */
MSC4203_APART void log_apply(struct msc4203_log_state *s, const struct log_record *r, int whole)
{
    struct msc4203_log_entry e;
    uint32_t device;
    uint64_t number;

    if (!whole && (r->kind < LOG_MESSAGE || r->kind > LOG_MOVED))
        return;
    if (s->used + 4 >= s->pool)
        log_squeeze(s);
    if (s->used + 4 >= s->pool && (r->kind <= LOG_MOVED || r->kind == LOG_TAKEN)) {
        s->damaged++; /* more than can have been there */
        return;
    }
    switch (r->kind) {
    case LOG_MESSAGE:
        log_read_message(s, r, whole);
        return;
    case LOG_COPY:
    case LOG_MOVED:
        number = r->word[8] | (uint64_t)(r->word[7] >> 16) << 32;
        if (r->kind == LOG_MOVED) {
            log_read_gap(s, number);
            s->next = number + 1;
        }
        if (log_entry_of(s, r, &e, whole))
            log_keep(s, &e, number);
        if (r->kind == LOG_COPY)
            return;
        memset(&e, 0, sizeof e);
        e.channels = (uint32_t)1 << (r->word[14] & 31);
        log_keep(s, &e, log_number64(r->word + 12));
        return;
    case LOG_COMMIT:
        log_read_commit(s, r);
        return;
    case LOG_ABORT:
        log_batch_end(s, log_read_batch(s, r), BATCH_FREE);
        return;
    case LOG_CHANNEL:
        log_read_channel(s, r);
        return;
    case LOG_DONE:
        log_raise(s, s->channel[r->small & 31].done, log_number64(r->word + 4));
        return;
    case LOG_SYNCED:
        device = log_device(s, r->word + 4);
        if (device != 0)
            log_raise(s, s->device[device].chain + MARK_SYNCED, log_number64(r->word + 6));
        return;
    case LOG_TAKEN:
        memset(&e, 0, sizeof e);
        e.channels = (uint32_t)1 << (r->small & 31);
        log_keep(s, &e, log_number64(r->word + 4));
        return;
    case LOG_DROPPED:
        log_read_dropped(s, r);
        return;
    case LOG_REMEMBER:
        log_read_items(s, r);
        return;
    case LOG_PAD:
        if (log_before(s->oldest, r->word[2]))
            s->oldest = r->word[2];
        return;
    default: /* a part of the index: not needed now */
        return;
    }
}

/* Whether nothing is lost without the newest segment but openings: it has only what making room has
 * copied from segments that are still there, and messages of batches that were not committed. */
MSC4203_PRIVATE int log_is_void(struct msc4203_log_state *s, uint32_t segment)
{
    struct log_record r;
    uint32_t at;

    for (at = LOG_HEADER_UNITS; at < s->segment_units; at += r.units) {
        if (log_load(s, segment << s->shift | at, &r) == 0 || !log_is_whole(s, &r))
            return !log_was_durable(s, segment, at);
        switch (r.kind) {
        case LOG_PAD:
            if (r.word[2] != s->header_oldest) /* those may be gone */
                return 0;
            break;
        case LOG_CHANNEL:
            if ((r.small & LOG_COPIED) == 0)
                return 0;
            break;
        case LOG_MESSAGE:
        case LOG_COPY:
        case LOG_ABORT:
        case LOG_REMEMBER:
            break;
        default:
            return 0;
        }
    }
    return 1;
}

/* Before the records of a segment: the next number is in its header; in that of the first one only
 * to begin with. Where another opening begins, batches that were open have ended. */
MSC4203_PRIVATE void log_enter_segment(struct msc4203_log_state *s, uint32_t segment, int is_first)
{
    uint32_t word[LOG_HEADER_WORDS], i;

    if (log_header(s, log_address(s, segment << s->shift), word)) {
        if (is_first)
            s->next = log_number64(word + 22);
        log_read_gap(s, log_number64(word + 22));
    }
    if (s->segment[segment].salt == s->salt)
        return;
    s->salt = s->segment[segment].salt;
    for (i = 0; i < LOG_BATCHES; i++)
        log_read_lost(s, &s->batch[i]);
}

/* Reads the records of a segment. Returns 0 where the log ends in it. */
MSC4203_APART int log_read_segment(struct msc4203_log_state *s, uint32_t segment, int is_first)
{
    struct log_record r;
    uint32_t at = LOG_HEADER_UNITS, units;
    int whole, was_durable;

    log_enter_segment(s, segment, is_first);
    s->opening_first = 0;
    s->empty = s->segment[segment].sequence == s->sequence && log_is_writable(s) &&
               log_is_void(s, segment);
    while (at < s->segment[segment].end && !s->error) {
        units = log_load(s, segment << s->shift | at, &r);
        whole = units != 0 && log_is_whole(s, &r);
        if (!whole && !s->error) {
            was_durable = log_was_durable(s, segment, at);
            if (!was_durable && log_is_writable(s)) {
                s->segment[segment].end = at;
                return 0;
            }
            if (units == 0) { /* go on with the next one that there is */
                at = log_skip(s, segment, at);
                s->damaged += (uint32_t)was_durable;
                continue;
            }
            s->damaged++;
        }
        if (!s->empty || (r.kind == LOG_REMEMBER && (r.small & 1) == LOG_OPENINGS))
            log_apply(s, &r, whole);
        at += units;
    }
    return 1;
}

/* ---- the index on the storage ---- */

enum { IMAGE_WORDS_KEPT = 13, IMAGE_PARTS = 8 };

/* A part of the index: where it is in memory, and how many words it has. The first part, which
 * tells the length of others, is in `kept`. */
MSC4203_PRIVATE uint32_t *log_image_part(const struct msc4203_log_state *s, uint32_t part,
                                         uint32_t *kept, uint32_t *words)
{
    switch (part) {
    case 0:
        *words = IMAGE_WORDS_KEPT;
        return kept;
    case 1:
        *words = s->segments * (uint32_t)(sizeof *s->segment / 4);
        return &s->segment[0].sequence;
    case 2:
        *words = MSC4203_CHANNELS * (uint32_t)(sizeof *s->channel / 4);
        return &s->channel[0].count;
    case 3:
        *words = MSC4203_CHANNELS * 2;
        return s->held;
    case 4:
    case 5:
        *words = s->items[part - 4] * 4;
        return s->item[part - 4][0].word;
    case 6:
        *words = s->devices_used * (uint32_t)(sizeof *s->device / 4);
        return s->device[1].hash;
    default:
        *words = s->used * (uint32_t)(sizeof *s->entry / 4);
        return &s->entry[1].place;
    }
}

/* Copies what is not in tables to `kept`, or back. */
MSC4203_PRIVATE void log_image_kept(struct msc4203_log_state *s, uint32_t *kept, int back)
{
    uint32_t *const field[IMAGE_WORDS_KEPT - 2] = {
        &s->time, &s->counter[0], &s->counter[1], &s->slot[0], &s->slot[1], &s->used,
        &s->waiting, &s->devices_used, &s->live, &s->largest, &s->oldest
    };
    uint32_t i;

    for (i = 0; i < IMAGE_WORDS_KEPT - 2; i++)
        if (back)
            *field[i] = kept[2 + i];
        else
            kept[2 + i] = *field[i];
    if (back)
        s->next = log_number64(kept);
    else
        log_set64(kept, s->next);
}

/* Writes the index, if there is room for it, to segments of its own. */
MSC4203_PRIVATE void log_write_image(struct msc4203_log_state *s)
{
    uint32_t kept[IMAGE_WORDS_KEPT], word[8], part, words, at, n, count = 0, sequence, most;
    uint64_t units = 0;
    msc4203_span body;

    log_image_kept(s, kept, 0);
    most = (s->segment_units - LOG_HEADER_UNITS - 2) * (LOG_UNIT / 4);
    if (most > LOG_IMAGE_WORDS)
        most = LOG_IMAGE_WORDS;
    for (part = 0; part < IMAGE_PARTS; part++) {
        log_image_part(s, part, kept, &words);
        units += words / 4 + 3u * (1 + words / 256);
    }
    for (n = s->free_min; units != 0 && n < s->free; n++)
        units = units > s->segment_units / 2 ? units - s->segment_units / 2 : 0;
    if (units != 0)
        return;
    log_next_segment(s);
    sequence = s->sequence;
    for (part = 0; part < IMAGE_PARTS; part++) {
        uint32_t *from = log_image_part(s, part, kept, &words);

        for (at = 0; at < words || (part + 1 == IMAGE_PARTS && at == 0); at += n) {
            n = words - at < most ? words - at : most;
            memset(word, 0, sizeof word);
            word[4] = count++;
            word[5] = part;
            word[6] = at;
            word[7] = sequence;
            log_swap(from + at, n);
            body.ptr = (const char *)(from + at);
            body.len = n * sizeof *from;
            log_append(s, word, LOG_IMAGE,
                       part + 1 == IMAGE_PARTS && at + n == words ? LOG_IMAGE_ENDS : 0, &body, 1);
            log_swap(from + at, n);
            if (n == 0)
                break;
        }
    }
    log_sync(s, 1);
}

/* Reads one record of the index. */
MSC4203_APART int log_read_image_record(struct msc4203_log_state *s, const struct log_record *r,
                                          uint32_t count, uint32_t *kept)
{
    uint32_t words, *to = log_image_part(s, r->word[5], kept, &words);

    if (((r->word[4] != count) | (r->word[5] >= IMAGE_PARTS) | (r->word[6] > words) |
         (r->bytes / 4 > words - r->word[6]) | (log_is_whole(s, r) == 0)) != 0)
        return 0;
    log_read(s, log_address(s, r->position) + r->fixed, to + r->word[6], r->bytes);
    log_swap(to + r->word[6], r->bytes / 4);
    if (r->word[5] == 0)
        log_image_kept(s, kept, 1);
    if (r->word[5] == 1)
        log_survey(s, &words); /* the segments that the index is in were not in it */
    return (s->used <= s->entries) & (s->devices_used <= s->devices);
}

/* Reads the index that was written when the log was closed. Returns 0 when there is none. */
MSC4203_APART int log_read_image(struct msc4203_log_state *s, uint32_t first)
{
    uint32_t kept[IMAGE_WORDS_KEPT], i, at, count = 0;
    struct log_record r;
    int ended = 0;

    memset(kept, 0, sizeof kept);
    if (first == 0)
        return 0;
    for (i = log_after(s, first - 1); !ended; i = log_after(s, s->segment[i].sequence)) {
        if (i == s->segments)
            return 0;
        for (at = LOG_HEADER_UNITS; at < s->segment[i].end && !ended; at += r.units) {
            if (log_load(s, i << s->shift | at, &r) == 0)
                return 0;
            if (r.kind == LOG_IMAGE && !log_read_image_record(s, &r, count++, kept))
                return 0;
            ended = r.kind == LOG_IMAGE && r.small == LOG_IMAGE_ENDS;
        }
    }
    log_image_kept(s, kept, 1);
    s->segment[s->current].end = s->image_end;
    return !s->error;
}

/* Makes what is not in the index as it was written. */
MSC4203_PRIVATE void log_finish_image(struct msc4203_log_state *s)
{
    uint32_t i;

    for (i = 0; i < s->items[LOG_REQUESTS]; i++)
        if (log_is_set(s->item[LOG_REQUESTS][i].word))
            log_link_request(s, i);
    for (i = 1; i <= s->used; i++)
        if (s->entry[i].channels != 0)
            log_group_add(s, i);
    log_index_devices(s);
    s->empty = 0;
}

/* ---- making, opening and closing ---- */

static const msc4203_log_config log_defaults = {0, 0, 0, 0, 0, 0, 0};

MSC4203_API size_t msc4203_log_memory(msc4203_log *log, const msc4203_storage *storage,
                                      const msc4203_log_config *config)
{
    struct msc4203_log_state *s = &log->priv;

    memset(s, 0, sizeof *s);
    if (config == NULL)
        config = &log_defaults;
    if (log_shape(s, storage, config) != MSC4203_OK || log_sizes(s, config) != MSC4203_OK)
        return 0;
    return log_layout(s, NULL) + log_buffer_min(s);
}

/* Erases a segment; or, where that is not needed, writes zeros where its header would be. */
MSC4203_PRIVATE void log_wipe(struct msc4203_log_state *s, uint32_t segment)
{
    uint32_t n;

    log_erase(s, segment);
    if (s->storage->block != 0)
        return;
    for (n = s->sector; n < LOG_HEADER_UNITS * LOG_UNIT; n += s->sector)
        ;
    log_put(s, NULL, n);
    if (s->storage->memory == NULL)
        log_write_out(s);
}

MSC4203_API int msc4203_log_format(msc4203_log *log, const msc4203_storage *storage,
                                   const msc4203_log_config *config, void *memory, size_t bytes,
                                   uint64_t random)
{
    struct msc4203_log_state *s = &log->priv;
    uint32_t i;
    int result;

    if (config == NULL)
        config = &log_defaults;
    memset(s, 0, sizeof *s);
    result = log_shape(s, storage, config);
    if (result == MSC4203_OK)
        result = log_sizes(s, config);
    if (result != MSC4203_OK)
        return result;
    if (storage->memory == NULL && bytes < LOG_STEP)
        return MSC4203_E_INDEX;
    s->buffer = (unsigned char *)memory;
    s->buffer_bytes = bytes < log_buffer_min(s) ? (uint32_t)LOG_STEP : log_buffer_min(s);
    s->key[0] = (uint32_t)random;
    s->key[1] = (uint32_t)(random >> 32);
    s->sequence = s->safe = 1;
    s->next = 1;
    log_erase(s, 0);
    log_put_header(s, 0, 0, 0);
    if (s->fill != 0)
        log_pad(s, s->sector - s->fill);
    log_sync_storage(s);
    for (i = 1; i < s->segments && !s->error; i++)
        log_wipe(s, i);
    log_sync_storage(s);
    s->phase = PHASE_CLOSED;
    return log_has_written(s);
}

MSC4203_API int msc4203_log_inspect(msc4203_log *log, const msc4203_storage *storage,
                                    msc4203_log_config *config)
{
    return log_inspect(&log->priv, storage, config);
}

/* Reads all that was written since the oldest segment that is needed. Where the log ends, what is
 * behind it is void. */
MSC4203_PRIVATE void log_replay(struct msc4203_log_state *s)
{
    uint32_t i, k, first, lost;
    uint64_t given;

    first = log_after(s, s->oldest - 1);
    for (i = first; i < s->segments && !s->error; i = log_after(s, s->segment[i].sequence)) {
        s->current = i;
        if (!log_read_segment(s, i, i == first))
            break;
    }
    if (s->error)
        return;
    k = s->segment[s->current].sequence;
    log_make_void(s, k, k + ((uint32_t)1 << 30));
    given = s->highest >= s->next ? s->highest + 1 - s->next : 0;
    for (lost = 0, k = 0; k < LOG_BATCHES; k++)
        lost += s->batch[k].count == 0 ? 0u : s->batch[k].count == given ? 1u : 2u;
    if (lost == 1) { /* what the marks say was given out can only be this batch's */
        s->gap = s->next;
        s->gap_left = (uint32_t)given;
    }
    s->next += given;
    for (k = 0; k < LOG_BATCHES; k++) {
        struct msc4203_log_batch *b = &s->batch[k];
        if (b->count > s->gap_left && (b->state == BATCH_LOST || b->time != s->damaged)) {
            /* there was damage behind it: rather a message too much */
            s->gap = s->next;
            s->gap_left = b->count;
            s->next += b->count;
        }
        log_read_lost(s, b);
    }
    log_settle(s);
    s->next += s->messages + 1; /* numbers that were given out, and lost before they were durable */
}

/* Begins to write: what was read is made durable first, for it may not be yet. If the last segment
 * has nothing else that is needed, it is void from now on, and its openings are written again: so
 * it costs no room when the power fails again and again. */
MSC4203_PRIVATE void log_begin_writing(struct msc4203_log_state *s, uint64_t random)
{
    uint32_t last = s->current, word[4], first = s->counter[LOG_OPENINGS] + 1;
    int is_void = s->empty && (s->opening_first == 0 || first - s->opening_first < LOG_GROUP);

    s->phase = PHASE_OPEN;
    log_sync_storage(s);
    if (is_void && s->opening_first != 0)
        first = s->opening_first;
    if (!is_void) {
        s->previous = s->segment[last].sequence;
        s->previous_salt = s->segment[last].salt;
        s->previous_end = s->previous_durable = s->segment[last].end;
    }
    word[0] = (uint32_t)random;
    word[1] = (uint32_t)(random >> 32);
    log_set64(word + 2, s->next);
    log_remember(s, LOG_OPENINGS, s->counter[LOG_OPENINGS] + 1, word);
    s->oldest = s->segment[log_after(s, s->oldest - 1)].sequence;
    s->unused = s->safe = s->oldest;
    log_count_free(s);
    if (s->bare != 0)
        s->sequence = s->bare;
    s->salt = log_salt(s, s->sequence + 1);
    log_begin_segment(s, s->previous, s->previous_end, s->previous_durable);
    for (; !log_before(s->counter[LOG_OPENINGS], first) && !s->error; first += LOG_ITEMS)
        log_write_items(s, LOG_OPENINGS, first,
                        log_clip(s->counter[LOG_OPENINGS] - first + 1, 1, LOG_ITEMS),
                        UINT32_MAX);
    log_sync(s, 1);
    if (is_void && !s->error) {
        s->segment[last].sequence = 0;
        s->oldest = s->segment[log_after(s, s->oldest - 1)].sequence;
        log_count_free(s);
    }
}

/* Empties the index. */
MSC4203_PRIVATE void log_clear(struct msc4203_log_state *s, void *memory)
{
    memset(memory, 0, log_layout(s, memory));
    s->used = s->waiting = s->devices_used = s->live = s->largest = s->time = 0;
    s->counter[0] = s->counter[1] = s->slot[0] = s->slot[1] = 0;
    s->pool = s->entries + 1;
    s->next = 1;
}

MSC4203_API int msc4203_log_open(msc4203_log *log, const msc4203_storage *storage, void *memory,
                                 size_t bytes, uint64_t random)
{
    struct msc4203_log_state *s = &log->priv;
    uint32_t image, i;
    msc4203_log_config config;
    size_t used;
    int result = log_inspect(s, storage, &config);

    if (result != MSC4203_OK)
        return result;
    used = log_layout(s, memory);
    if (bytes < used + log_buffer_min(s))
        return MSC4203_E_INDEX;
    s->buffer_bytes = log_buffer_min(s);
    while (storage->memory == NULL && bytes - used - s->buffer_bytes >= s->sector)
        s->buffer_bytes += s->sector;
    s->phase = PHASE_READING;
    log_clear(s, memory);
    log_survey(s, &image);
    if (log_read_image(s, image)) {
        log_finish_image(s);
    } else if (!s->error) {
        if (image != 0) { /* a part of it may be in place */
            log_clear(s, memory);
            log_survey(s, &image);
        }
        log_replay(s);
    }
    log_buffer_begin(s, 0);
    s->settled = s->next;
    for (i = 1; i < MSC4203_CHANNEL_PARKED; i++)
        if (s->channel[i].position != 0 || s->channel[i].units != 0)
            s->roomed |= (uint32_t)1 << i;
    s->phase = PHASE_READ_ONLY;
    if (!s->error && log_is_writable(s))
        log_begin_writing(s, random);
    return log_has_written(s);
}

MSC4203_API void msc4203_log_quotas(msc4203_log *log, uint64_t channel_bytes,
                                    uint64_t device_bytes)
{
    log->priv.channel_units = log_clip(UINT32_MAX, 0, channel_bytes / LOG_UNIT);
    log->priv.device_units = log_clip(UINT32_MAX, 0, device_bytes / LOG_UNIT);
}

MSC4203_API uint64_t msc4203_log_key(const msc4203_log *log)
{
    return log_number64(log->priv.key);
}

MSC4203_API int msc4203_log_close(msc4203_log *log)
{
    struct msc4203_log_state *s = &log->priv;
    uint32_t i;
    int result;

    if (s->phase != PHASE_OPEN)
        return MSC4203_E_STORAGE;
    for (i = 0; i < LOG_BATCHES && !s->error; i++)
        if (s->batch[i].state != BATCH_FREE)
            log_give_up(s, i);
    while (s->pack_from != 0)
        log_pack_step(s);
    for (i = 0; i < 2; i++)
        if (!s->error)
            log_sync(s, 1);
    if (!s->error)
        log_write_image(s);
    result = log_has_written(s);
    s->phase = PHASE_CLOSED;
    return result;
}

MSC4203_API void msc4203_log_queue(msc4203_log *log, msc4203_queue *queue)
{
    memset(queue, 0, sizeof *queue);
    queue->version = MSC4203_QUEUE_VERSION;
    queue->context = log;
    queue->begin = log_begin;
    queue->push = log_push;
    queue->commit = log_commit;
    queue->abort = log_abort;
    queue->known = log_known;
    queue->flush = log_flush;
    queue->next = log_next;
    queue->done = log_done;
    queue->hold = log_hold;
    queue->move = log_move;
    queue->drop = log_drop;
    queue->expire = log_expire;
    queue->channel = log_channel;
    queue->release = log_release;
    queue->record = log_record_of;
    queue->opening = log_opening;
    queue->count = log_count;
}

MSC4203_API void msc4203_log_usage_get(const msc4203_log *log, msc4203_log_usage *usage)
{
    const struct msc4203_log_state *s = &log->priv;
    uint32_t i;

    memset(usage, 0, sizeof *usage);
    if (s->phase == PHASE_CLOSED)
        return;
    usage->messages = s->waiting;
    usage->messages_max = s->messages;
    usage->used = log_bytes(s->live);
    usage->capacity = log_bytes(log_capacity(s, s->largest));
    for (i = 1; i <= s->devices_used; i++)
        usage->devices += s->device[i].count != 0;
    usage->damaged = s->damaged;
}

MSC4203_API int msc4203_log_scan(msc4203_log *log, void *memory, size_t bytes,
                                 int (*see)(void *context, const msc4203_message *message,
                                            uint64_t at, int error),
                                 void *context)
{
    struct msc4203_log_state *s = &log->priv;
    msc4203_message message;
    uint32_t i;
    int result = s->error || s->phase == PHASE_CLOSED ? MSC4203_E_STORAGE : MSC4203_OK;

    for (i = 1; i <= s->used && result == MSC4203_OK; i++) {
        if (s->entry[i].channels == 0 || log_number(&s->entry[i]) >= s->settled)
            continue;
        result = log_has_read(s, log_message(s, i, memory, bytes, &message));
        if (result == MSC4203_E_STORAGE)
            break;
        result = (see)(context, &message, log_address(s, log_position(&s->entry[i])),
                     result == MSC4203_ITEM ? MSC4203_OK : result);
    }
    return result;
}

MSC4203_API void msc4203_memory_storage(msc4203_storage *storage, void *memory, uint64_t bytes)
{
    memset(storage, 0, sizeof *storage);
    storage->version = 1;
    storage->bytes = bytes;
    storage->sector = 1;
    storage->memory = (unsigned char *)memory;
}

/* ---- storage in a file ---- */

#if defined(MSC4203_FILE) && !defined(MSC4203_NO_FILE)
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    FILE_SECTOR = 4096,
    FILE_PIECE = 512,      /* the least memory that msc4203_log_format() works with */
    FILE_STRETCH = 4194304 /* of a new file, between two syncs */
};

/* Reads all bytes to `to` or, if that is NULL, writes all bytes from `from`, also where a signal or
 * the system's limit cuts a call short. Returns how many: fewer where the file ends; SIZE_MAX after
 * an error. */
MSC4203_PRIVATE size_t file_all(int fd, uint64_t at, unsigned char *to, const unsigned char *from,
                                size_t bytes)
{
    size_t done = 0;

    while (done != bytes) {
        ssize_t n = to != NULL ? pread(fd, to + done, bytes - done, (off_t)(at + done))
                               : pwrite(fd, from + done, bytes - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return SIZE_MAX;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return done;
}

/* A file that is shorter than the region reads as if zeros followed. */
MSC4203_PRIVATE int file_read(void *context, uint64_t at, void *data, size_t bytes)
{
    msc4203_file *file = (msc4203_file *)context;
    unsigned char *to = (unsigned char *)data;
    size_t got;

    if (file->priv.error)
        return -1;
    got = file_all(file->priv.fd, at, to, NULL, bytes);
    if (got == SIZE_MAX)
        return -1;
    memset(to + got, 0, bytes - got);
    return 0;
}

/* After a failed write or sync nobody knows what the file holds, and a second sync may say that all
 * is well: so nothing works until the file is opened anew. */
MSC4203_PRIVATE int file_write(void *context, uint64_t at, const void *data, size_t bytes)
{
    msc4203_file *file = (msc4203_file *)context;

    if (!file->priv.error &&
        file_all(file->priv.fd, at, NULL, (const unsigned char *)data, bytes) != bytes)
        file->priv.error = 1;
    return file->priv.error ? -1 : 0;
}

/* Makes the bytes of a file durable, and its size. */
MSC4203_PRIVATE int file_sync_data(int fd)
{
#if defined(F_FULLFSYNC) /* fsync() alone leaves them in the drive's cache */
    return fcntl(fd, F_FULLFSYNC) == 0 ? 0 : fsync(fd);
#elif defined(_POSIX_SYNCHRONIZED_IO) && _POSIX_SYNCHRONIZED_IO > 0
    return fdatasync(fd);
#else
    return fsync(fd);
#endif
}

MSC4203_PRIVATE int file_sync(void *context)
{
    msc4203_file *file = (msc4203_file *)context;

    if (!file->priv.error && file_sync_data(file->priv.fd) != 0)
        file->priv.error = 1;
    return file->priv.error ? -1 : 0;
}

MSC4203_PRIVATE void file_storage(msc4203_file *file, uint64_t bytes, int writable,
                                  msc4203_storage *storage)
{
    memset(storage, 0, sizeof *storage);
    storage->version = 1;
    storage->context = file;
    storage->bytes = bytes;
    storage->sector = FILE_SECTOR;
    storage->read = file_read;
    storage->write = writable ? file_write : NULL;
    storage->sync = file_sync;
}

/* The lock belongs to the open file, not to the process, as one by F_SETLK would: a second opening
 * in this process is refused too, and closing that one does not end the lock of the first. */
#if defined(F_OFD_SETLK)
#define FILE_SETLK F_OFD_SETLK
#elif defined(__linux__)
#define FILE_SETLK 37 /* F_OFD_SETLK, where <fcntl.h> hides it */
#elif !defined(LOCK_EX)
#define FILE_SETLK F_SETLK /* neither that nor flock(): against other processes only */
#endif

MSC4203_PRIVATE int file_lock(int fd)
{
#ifdef FILE_SETLK
    struct flock lock;

    memset(&lock, 0, sizeof lock);
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    if (fcntl(fd, FILE_SETLK, &lock) == 0)
        return MSC4203_OK;
#else
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return MSC4203_OK;
#endif
    if (errno == EACCES || errno == EAGAIN) /* unreachable: else, where files have no locks */
        return MSC4203_E_LOCKED;
    return MSC4203_E_STORAGE; /* unreachable: as above */
}
#undef FILE_SETLK

/* Opens the folder of `path`. */
MSC4203_PRIVATE int file_open_folder(msc4203_file *file, const char *path)
{
    size_t n = strlen(path);

    while (n != 0 && path[n - 1] != '/')
        n--;
    memcpy(file->priv.name, path, n);
    if (n == 0)
        file->priv.name[n++] = '.';
    file->priv.name[n] = 0;
    return open(file->priv.name, O_RDONLY | O_CLOEXEC);
}

/* Tells whether `name` is the name of this open file. (A folder is on one device: there the number
 * is enough.) */
MSC4203_APART int file_has_name(int fd, const char *name)
{
    struct stat status;
    ino_t number;

    memset(&status, 0, sizeof status);
    (void)fstat(fd, &status);
    number = status.st_ino;
    return stat(name, &status) == 0 && status.st_ino == number;
}

/* Opens PATH.new, as a file that is empty and that nobody else is making. Between opening and
 * locking, whoever was making it may have finished: then this is their log, and must stay as it is.
 */
MSC4203_APART int file_open_new(msc4203_file *file, const char *path)
{
    size_t n = strlen(path);
    int result;

    memcpy(file->priv.name, path, n);
    memcpy(file->priv.name + n, ".new", 5);
    file->priv.fd = open(file->priv.name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (file->priv.fd < 0)
        return MSC4203_E_STORAGE;
    result = file_lock(file->priv.fd);
    if (result == MSC4203_OK && !file_has_name(file->priv.fd, file->priv.name))
        result = MSC4203_E_LOCKED;
    if (result != MSC4203_OK) {
        close(file->priv.fd);
        file->priv.fd = -1;
    }
    return result;
}

/* Tells whether a signal that asks the program to end is blocked and pending. */
MSC4203_APART int file_is_interrupted(void)
{
    sigset_t set;

    sigemptyset(&set);
    (void)sigpending(&set);
    if (!sigismember(&set, SIGTERM) && !sigismember(&set, SIGINT))
        return 0;
    errno = EINTR;
    return 1;
}

/* Fills a file with zeros, so that it has all its blocks. A sync can't be interrupted: none has
 * more than one stretch to write. */
MSC4203_PRIVATE int file_fill(msc4203_file *file, uint64_t bytes)
{
    size_t n;
    uint64_t at;

    if (ftruncate(file->priv.fd, 0) != 0)
        return MSC4203_E_STORAGE;
    memset(file->priv.buffer, 0, sizeof file->priv.buffer);
    for (at = 0; at < bytes; at += n) {
        if (at % FILE_STRETCH == 0 && (file_sync_data(file->priv.fd) != 0 || file_is_interrupted()))
            return MSC4203_E_STORAGE;
        n = bytes - at < sizeof file->priv.buffer ? (size_t)(bytes - at) : sizeof file->priv.buffer;
        if (file_all(file->priv.fd, at, NULL, file->priv.buffer, n) != n)
            return MSC4203_E_STORAGE;
    }
    return MSC4203_OK;
}

/* Writes the log into PATH.new, and gives it its name. file->priv.name is the name that it has. */
MSC4203_APART int file_make(msc4203_file *file, const msc4203_storage *storage,
                            const msc4203_log_config *config, uint64_t random, const char *path,
                            int folder)
{
    int result = file_fill(file, storage->bytes);

    if (result == MSC4203_OK)
        result = msc4203_log_format(&file->priv.log, storage, config, file->priv.buffer,
                                    sizeof file->priv.buffer, random);
    if (result != MSC4203_OK)
        return result;
    if (fsync(file->priv.fd) != 0 || rename(file->priv.name, path) != 0)
        return MSC4203_E_STORAGE;
    file->priv.name[strlen(path)] = 0;
    if (fsync(folder) != 0 && errno != EINVAL) /* some file systems can't, and need not */
        return MSC4203_E_STORAGE;
    return MSC4203_OK;
}

MSC4203_API int msc4203_file_create(msc4203_file *file, const char *path, uint64_t bytes,
                                    const msc4203_log_config *config, uint64_t random)
{
    msc4203_storage storage;
    msc4203_log_config real;
    int folder, error, result;

    file_storage(file, bytes, 1, &storage);
    storage.sector = FILE_PIECE; /* the buffer need not hold a sector of the real size */
    memset(&real, 0, sizeof real);
    if (config != NULL)
        real = *config;
    if (real.sector < FILE_SECTOR)
        real.sector = FILE_SECTOR;
    if (msc4203_log_memory(&file->priv.log, &storage, &real) == 0)
        return MSC4203_E_REGION;
    if (strlen(path) > sizeof file->priv.name - 8) {
        errno = ENAMETOOLONG;
        return MSC4203_E_STORAGE;
    }
    file->priv.error = 0;
    folder = file_open_folder(file, path);
    if (folder < 0)
        return MSC4203_E_STORAGE;
    result = file_open_new(file, path);
    if (result == MSC4203_OK) {
        result = file_make(file, &storage, &real, random, path, folder);
        error = errno;
        if (result != MSC4203_OK)
            unlink(file->priv.name);
        close(file->priv.fd);
        file->priv.fd = -1;
        errno = error;
    }
    close(folder);
    return result;
}

MSC4203_API int msc4203_file_open(msc4203_file *file, const char *path, int writable,
                                  msc4203_storage *storage)
{
    off_t bytes;
    int error, result;

    memset(storage, 0, sizeof *storage);
    file->priv.error = 0;
    file->priv.fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (file->priv.fd < 0)
        return errno == ENOENT ? MSC4203_END : MSC4203_E_STORAGE;
    result = writable ? file_lock(file->priv.fd) : MSC4203_OK;
    bytes = lseek(file->priv.fd, 0, SEEK_END); /* unlike fstat(), of a device too */
    if (result == MSC4203_OK && bytes < 0)
        result = MSC4203_E_STORAGE;
    if (result != MSC4203_OK) {
        error = errno;
        close(file->priv.fd);
        file->priv.fd = -1;
        errno = error;
        return result;
    }
    file_storage(file, (uint64_t)bytes, writable, storage);
    return MSC4203_OK;
}

MSC4203_API int msc4203_file_close(msc4203_file *file)
{
    int failed = file->priv.error;

    if (file->priv.fd >= 0 && close(file->priv.fd) != 0)
        failed = 1;
    file->priv.fd = -1;
    return failed ? MSC4203_E_STORAGE : MSC4203_OK;
}
#endif /* MSC4203_FILE */
#endif /* MSC4203_NO_LOG */

/* ------------------------------------------------------------------------------------------------
 * 7. delivery: sender, receiver, sync, changing over
 * --------------------------------------------------------------------------------------------- */
#ifndef MSC4203_NO_DELIVERY

MSC4203_PRIVATE void delivery_put(unsigned char *at, uint64_t value, unsigned bytes)
{
    for (; bytes != 0; bytes--, value >>= 8)
        *at++ = (unsigned char)value;
}

MSC4203_PRIVATE uint64_t delivery_get(const unsigned char *at, unsigned bytes)
{
    uint64_t value = 0;

    while (bytes-- != 0)
        value = value << 8 | at[bytes];
    return value;
}

/* Writes the lowest hexadecimal digits of a number, and a NUL. Returns where that is. */
MSC4203_PRIVATE char *delivery_hex(char *to, uint64_t value, unsigned digits)
{
    char *at = to + digits;

    for (*at = 0; at != to; value >>= 4) {
        unsigned digit = (unsigned)value & 15;
        *--at = (char)(digit < 10 ? '0' + digit : 'a' - 10 + digit);
    }
    return to + digits;
}

/* The value of a lower-case hexadecimal digit, or 16. */
MSC4203_PRIVATE unsigned delivery_digit(unsigned c)
{
    if (c - '0' < 10)
        return c - '0';
    return c - 'a' < 6 ? c - 'a' + 10 : 16;
}

/* ---- sender ---- */

/* A channel's record:
 *
 *   0 version, 1; 1 flags: SENDER_IN_FLIGHT, and those of enum msc4203_writing times 2; 2 how often
 *   the size was halved; 3 how often messages from the first one on were cut anew; 4 count, 4
 *   bytes; 8 random of the opening in whose name the id is, 8; 16 first and 24 last number, 8 each;
 *   32 bytes of the body, 8; 40 when it was made, 8; 48 what the body has behind `to_device` and a
 *   comma, up to its end, when that is not SENDER_END.
 *
 * All numbers are little-endian. */
enum {
    SENDER_RECORD = 48,
    SENDER_RECORD_MAX = 4096,
    SENDER_IN_FLIGHT = 1,
    SENDER_MEMORY = 4672, /* a channel's name, behind it the name and the record of another */
    SENDER_HOUR = 3600000,
    SENDER_EASY = 16      /* transactions that arrive before a halving is taken back */
};

enum sender_state {
    SENDER_EMPTY = 0,   /* nothing is in flight */
    SENDER_READY = 1,   /* a transaction is to be sent now */
    SENDER_SENDING = 2,
    SENDER_WAITING = 3  /* it failed */
};

/* What a body ends with when nothing else goes along. */
static const char sender_end[] = "\"events\":[]}";
enum { SENDER_END = sizeof sender_end - 1 };

MSC4203_PRIVATE void sender_trace(struct msc4203_sender_state *s, int what, int status)
{
    if (s->config.trace != NULL)
        (s->config.trace)(s->config.context, what, &s->transaction, status);
}

/* Bytes of a body before its first message, and of one that has nothing but that. */
MSC4203_PRIVATE size_t sender_head(const struct msc4203_sender_state *s)
{
    size_t prefix = s->flags & MSC4203_STABLE_KEYS ? 0 : sizeof item_names.msc2409 - 1;
    return prefix + sizeof item_names.to_device - 1 + 5; /* {"":[ */
}

/* Where the record begins in a channel's name and record; NULL when there is none that is valid. */
MSC4203_PRIVATE int sender_record(struct msc4203_sender_state *s, void *memory, size_t bytes,
                                  msc4203_span *record)
{
    int result =
        (s->queue->record)(s->queue->context, s->config.channel, memory, bytes, NULL, record);

    if (result != MSC4203_OK || record->len < SENDER_RECORD || record->ptr[0] != 1)
        record->len = 0;
    return result == MSC4203_END ? MSC4203_OK : result;
}

/* Fills in the record of what is in flight, or of nothing. */
MSC4203_PRIVATE void sender_note(const struct msc4203_sender_state *s, int in_flight,
                                 unsigned char *record)
{
    record[0] = 1;
    record[1] = (unsigned char)(in_flight | s->flags << 1);
    record[2] = s->halvings;
    record[3] = s->cut;
    delivery_put(record + 4, s->transaction.count, 4);
    delivery_put(record + 8, s->opening, 8);
    delivery_put(record + 16, s->transaction.first, 8);
    delivery_put(record + 24, s->transaction.last, 8);
    delivery_put(record + 32, s->transaction.bytes, 8);
    delivery_put(record + 40, s->made, 8);
}

/* Works out the id and the path. */
MSC4203_PRIVATE void sender_name(struct msc4203_sender_state *s)
{
    static const char paths[] = "/_matrix/app/v1/transactions/";
    size_t skip = s->legacy ? 15 : 0, bytes = sizeof paths - 1 - skip;
    char *at = delivery_hex(s->transaction.id, s->opening, 16);

    *at++ = '.';
    at = delivery_hex(at, s->transaction.first, 12);
    *at++ = '.';
    delivery_hex(at, s->cut, 2);
    memcpy(s->transaction.path, paths + skip, bytes);
    memcpy(s->transaction.path + bytes, s->transaction.id, 33);
}

/* Ends the transaction in flight: its messages have arrived or are given up (`done`), or may be
 * taken into another one. Only when the queue has that does anything change: the next attempt MUST
 * go out under the same id if it has not. */
MSC4203_PRIVATE int sender_end_of(struct msc4203_sender_state *s, int done, unsigned halvings,
                                  unsigned cut)
{
    unsigned char bytes[SENDER_RECORD];
    msc4203_span record;
    int result;

    sender_note(s, 0, bytes);
    bytes[2] = (unsigned char)halvings;
    bytes[3] = (unsigned char)cut;
    record.ptr = (const char *)bytes;
    record.len = sizeof bytes;
    if (done)
        result = (s->queue->done)(s->queue->context, s->config.channel, NULL, s->transaction.last,
                                &record);
    else
        result = (s->queue->hold)(s->queue->context, s->config.channel, s->transaction.first - 1,
                                &record);
    if (result != MSC4203_OK)
        return result;
    s->halvings = (uint8_t)halvings;
    s->cut = (uint8_t)cut;
    s->state = SENDER_EMPTY;
    s->dirty = 1;
    s->status.attempts = 0;
    s->status.failing_since_ms = 0;
    return MSC4203_OK;
}

/* The messages in flight have arrived, or are given up. */
MSC4203_PRIVATE int sender_done(struct msc4203_sender_state *s)
{
    unsigned easy = s->halvings != 0 ? s->easy + 1u : 0;
    unsigned less = easy == SENDER_EASY;
    int result = sender_end_of(s, 1, s->halvings - less, 0);

    if (result == MSC4203_OK)
        s->easy = (uint8_t)(less ? 0 : easy);
    return result;
}

/* Moves a message to where operators look, and notes whose it was in the record there. */
MSC4203_PRIVATE int sender_park(struct msc4203_sender_state *s, uint64_t number, int status,
                                void *memory, size_t bytes)
{
    const msc4203_queue *q = s->queue;
    const uint32_t parked = MSC4203_CHANNEL_PARKED;
    char *text = (char *)memory, *at;
    msc4203_span name = {NULL, 0}, record = {NULL, 0};
    msc4203_counts counts;
    size_t all, old, most, skip;
    uint64_t moved;
    int result = (q->move)(q->context, s->config.channel, NULL, number, (uint32_t)1 << parked,
                         &moved);

    s->dirty = 1;
    if (result != MSC4203_OK)
        return result == MSC4203_END ? MSC4203_OK : result;
    s->status.parked++;
    sender_trace(s, MSC4203_TRACE_PARKED, status);
    result = (q->record)(q->context, s->config.channel, text, bytes, &name, NULL);
    if (result != MSC4203_OK)
        return result == MSC4203_END ? MSC4203_OK : result;
    /* The line, behind what there is already. */
    result = (q->record)(q->context, parked, text + 300, bytes - 300, NULL, &record);
    if (result != MSC4203_OK && result != MSC4203_END)
        return result;
    old = result == MSC4203_OK ? record.len : 0;
    all = old + name.len + 14;
    at = delivery_hex(text + 300 + old, moved, 12);
    *at++ = ' ';
    memcpy(at, name.ptr, name.len);
    at[name.len] = '\n';
    result = (q->count)(q->context, parked, NULL, &counts);
    if (result != MSC4203_OK)
        return result;
    most = SENDER_RECORD_MAX;
    do { /* a small log keeps less */
        for (skip = 0; all - skip > most; skip++)
            while (skip + 1 < old && text[300 + skip] != '\n')
                skip++;
        record.ptr = text + 300 + skip;
        record.len = all - skip;
        result = (q->hold)(q->context, parked, counts.through, &record);
        most /= 2;
    } while (result == MSC4203_E_TOO_LARGE && most >= all - old);
    /* Without room for the line it is parked all the same. */
    return result == MSC4203_E_QUEUE_FULL || result == MSC4203_E_TOO_LARGE ? MSC4203_OK : result;
}

/* Reads the first message after a number, and writes the part of the body that it is, with what
 * comes before it, behind its strings in the memory. *part tells it.
 *
 * Returns MSC4203_ITEM; MSC4203_END; MSC4203_E_DAMAGED; MSC4203_E_TOO_LARGE when the memory is too
 * small; another error below MSC4203_E_TOO_LARGE of a queue, or above it of the writer. */
MSC4203_PRIVATE int sender_part(struct msc4203_sender_state *s, uint64_t after, int first,
                                char *memory, size_t bytes, msc4203_span *part)
{
    msc4203_message *const message = &s->message;
    size_t skip = first ? 0 : sender_head(s) - 1;
    int result = (s->queue->next)(s->queue->context, s->config.channel, NULL, after, memory, bytes,
                                message);

    if (result != MSC4203_ITEM)
        return result;
    memory += message->bytes;
    result = msc4203_writer_begin(&s->writer, MSC4203_TRANSACTION, s->flags, memory,
                                  bytes - message->bytes);
    if (result == MSC4203_OK)
        result = msc4203_writer_item(&s->writer, &message->item);
    if (result != MSC4203_OK)
        return result == MSC4203_E_FULL ? MSC4203_E_TOO_LARGE : result;
    if (!first)
        memory[skip] = ',';
    part->ptr = memory + skip;
    part->len = s->writer.priv.at.used - skip;
    return MSC4203_ITEM;
}

/* Chooses the messages of a new transaction. */
MSC4203_PRIVATE int sender_choose(struct msc4203_sender_state *s, char *memory, size_t bytes)
{
    msc4203_transaction *t = &s->transaction;
    uint64_t after = 0, budget = s->config.bytes_max >> s->halvings;
    uint32_t most = s->config.messages_max >> s->halvings;
    msc4203_span part = {NULL, 0};
    int result;

    memset(t, 0, sizeof *t);
    t->bytes = 2 + SENDER_END; /* ], and what comes behind */
    budget -= budget < 2 * SENDER_RECORD_MAX || s->config.siblings == NULL ? 0
                                                                           : SENDER_RECORD_MAX;
    while (t->count == 0 || t->count < most) {
        result = sender_part(s, after, t->count == 0, memory, bytes, &part);
        if (result == MSC4203_E_DAMAGED && s->message.number > after) {
            if (t->count != 0) /* within a transaction it could not be read either */
                break;
            after = s->message.number; /* nothing before it waits */
            result = (s->queue->done)(s->queue->context, s->config.channel, NULL, after, NULL);
            if (result != MSC4203_OK)
                return result;
            s->status.damaged++;
            s->dirty = 1;
            continue;
        }
        if (result < 0 && result > MSC4203_E_USAGE && result != MSC4203_E_TOO_LARGE) {
            after = s->message.number; /* no appservice could read it */
            result = sender_park(s, after, 0, memory, bytes);
            if (result != MSC4203_OK)
                return result;
            continue;
        }
        if (result == MSC4203_E_TOO_LARGE && t->count != 0)
            break;
        if (result != MSC4203_ITEM)
            return result == MSC4203_END && t->count != 0 ? MSC4203_OK : result;
        if (t->count != 0 && t->bytes + part.len > budget)
            break;
        if (t->count++ == 0)
            t->first = s->message.number;
        t->last = after = s->message.number;
        t->bytes += part.len;
        if (s->config.siblings != NULL)
            (s->config.siblings)(s->config.context, &s->message, NULL);
    }
    return MSC4203_OK;
}

/* Asks for what goes along, and writes it to `memory`. Returns its bytes; 0 for none. */
MSC4203_PRIVATE size_t sender_siblings(struct msc4203_sender_state *s, char *memory)
{
    msc4203_writer *const writer = &s->writer;
    size_t used = 0;

    if (s->config.siblings == NULL)
        return 0;
    msc4203_writer_begin(writer, MSC4203_TRANSACTION, s->flags, memory,
                         SENDER_RECORD_MAX - SENDER_RECORD + 1);
    (s->config.siblings)(s->config.context, NULL, writer);
    if (writer->priv.at.seen & MSC4203_TO_DEVICE || writer->priv.at.seen == 0 ||
        writer->priv.needed > SENDER_RECORD_MAX - SENDER_RECORD + 1 || /* not all fitted */
        msc4203_writer_end(writer, &used) != MSC4203_OK)
        return 0;
    memmove(memory, memory + 1, used - 1); /* what goes behind a comma */
    return used - 1;
}

/* Makes a transaction of what waits, and its record. */
MSC4203_PRIVATE int sender_make(struct msc4203_sender_state *s, uint64_t now_ms, char *memory,
                                size_t bytes)
{
    msc4203_transaction *t = &s->transaction;
    msc4203_span record;
    size_t size;
    int result;

    s->flags = (uint8_t)s->config.flags;
    result = sender_choose(s, memory, bytes);
    if (result != MSC4203_OK)
        return result;
    size = sender_siblings(s, memory + SENDER_RECORD);
    if (size != 0)
        t->bytes += size - SENDER_END;
    result = (s->queue->opening)(s->queue->context, 0, &s->opening, &s->begin);
    if (result != MSC4203_OK)
        return result;
    s->made = now_ms;
    sender_note(s, SENDER_IN_FLIGHT, (unsigned char *)memory);
    record.ptr = memory;
    record.len = SENDER_RECORD + size;
    result = (s->queue->hold)(s->queue->context, s->config.channel, t->last, &record);
    if (result == MSC4203_E_TOO_LARGE && size != 0) { /* a small log: without siblings, then */
        t->bytes -= size - SENDER_END;
        sender_note(s, SENDER_IN_FLIGHT, (unsigned char *)memory);
        record.len = SENDER_RECORD;
        result = (s->queue->hold)(s->queue->context, s->config.channel, t->last, &record);
    }
    if (result == MSC4203_OK)
        result = (s->queue->flush)(s->queue->context);
    if (result != MSC4203_OK)
        return result;
    s->dirty = 0;
    s->state = SENDER_READY;
    s->number = 0;
    sender_name(s);
    sender_trace(s, MSC4203_TRACE_MADE, 0);
    return MSC4203_OK;
}

MSC4203_API int msc4203_sender_init(msc4203_sender *sender, const msc4203_queue *queue,
                                    const msc4203_sender_config *config, uint64_t now_ms,
                                    void *memory, size_t bytes)
{
    struct msc4203_sender_state *s = &sender->priv;
    msc4203_transaction *t = &s->transaction;
    const unsigned char *p;
    msc4203_span record;
    int result;

    memset(s, 0, sizeof *s);
    s->queue = queue;
    s->config = *config;
    if (config->channel < MSC4203_CHANNEL_FIRST || config->channel >= MSC4203_CHANNEL_PARKED ||
        config->flags > MSC4203_STABLE_KEYS)
        return MSC4203_E_USAGE;
    if (bytes < SENDER_MEMORY)
        return MSC4203_E_INDEX;
    if (s->config.messages_max == 0)
        s->config.messages_max = 100;
    if (s->config.bytes_max == 0)
        s->config.bytes_max = 1000000;
    if (s->config.retry_ms_min == 0)
        s->config.retry_ms_min = 1000;
    if (s->config.retry_ms_max == 0)
        s->config.retry_ms_max = 512000;
    s->legacy_from = now_ms;
    result = sender_record(s, memory, bytes, &record);
    if (result != MSC4203_OK || record.len == 0)
        return result;
    p = (const unsigned char *)record.ptr;
    s->flags = p[1] >> 1 & MSC4203_STABLE_KEYS;
    s->halvings = p[2] & 31;
    s->cut = p[3];
    s->opening = delivery_get(p + 8, 8);
    t->count = (uint32_t)delivery_get(p + 4, 4);
    t->first = delivery_get(p + 16, 8);
    t->last = delivery_get(p + 24, 8);
    t->bytes = delivery_get(p + 32, 8);
    s->made = delivery_get(p + 40, 8);
    if (!(p[1] & SENDER_IN_FLIGHT))
        return MSC4203_OK;
    s->state = SENDER_READY;
    sender_name(s);
    if (t->count == 1) { /* a crash came between parking it and saying so? */
        result = (queue->next)(queue->context, config->channel, NULL, t->first - 1, memory, bytes,
                             &s->message);
        if (result == MSC4203_END || s->message.number > t->first)
            return sender_done(s);
        if (result == MSC4203_E_STORAGE)
            return result;
    }
    sender_trace(s, MSC4203_TRACE_RESUMED, 0);
    return MSC4203_OK;
}

MSC4203_API int msc4203_sender_poll(msc4203_sender *sender, uint64_t now_ms, void *memory,
                                    size_t bytes, const msc4203_transaction **transaction,
                                    uint64_t *wait_ms)
{
    struct msc4203_sender_state *s = &sender->priv;
    int result;

    *transaction = NULL;
    *wait_ms = 0;
    if (bytes < SENDER_MEMORY)
        return MSC4203_E_INDEX;
    if (s->state == SENDER_SENDING)
        return MSC4203_IDLE;
    if (s->state == SENDER_WAITING) {
        if (now_ms < s->wait_from) /* the clock was set back */
            s->wait_from = now_ms;
        if (now_ms - s->wait_from < s->wait) {
            *wait_ms = s->wait - (now_ms - s->wait_from);
            return MSC4203_WAIT;
        }
        s->state = SENDER_READY;
    }
    if (s->state == SENDER_EMPTY) {
        result = sender_make(s, now_ms, (char *)memory, bytes);
        if (result == MSC4203_END) {
            result = s->dirty ? (s->queue->flush)(s->queue->context) : MSC4203_OK;
            if (result != MSC4203_OK)
                return result;
            s->dirty = 0;
            return MSC4203_IDLE;
        }
        if (result != MSC4203_OK)
            return result;
    }
    if (s->legacy && now_ms - s->legacy_from >= SENDER_HOUR)
        s->legacy = 0;
    sender_name(s);
    s->state = SENDER_SENDING;
    s->transaction.attempt++;
    sender_trace(s, MSC4203_TRACE_SENT, 0);
    *transaction = &s->transaction;
    return MSC4203_REQUEST;
}

/* The part of the body that begins at `at`, or that has it: *begin tells where it begins. */
MSC4203_PRIVATE int sender_find(struct msc4203_sender_state *s, uint64_t at, char *memory,
                                size_t bytes, msc4203_span *part, uint64_t *begin)
{
    const msc4203_transaction *t = &s->transaction;
    msc4203_span record;
    int result;

    if (s->number == 0 || at < s->begin) {
        s->number = t->first;
        s->begin = 0;
    }
    while (s->number <= t->last) {
        result = sender_part(s, s->number - 1, s->number == t->first, memory, bytes, part);
        if (result == MSC4203_END || (result == MSC4203_ITEM && s->message.number > t->last))
            break;
        if (result != MSC4203_ITEM)
            return result;
        if (s->begin == 0 && s->message.number != t->first)
            return MSC4203_E_DAMAGED;
        s->number = s->message.number;
        *begin = s->begin;
        if (at - s->begin < part->len)
            return MSC4203_OK;
        s->begin += part->len;
        s->number++;
    }
    s->number = t->last + 1;
    *begin = s->begin;
    result = sender_record(s, memory, bytes, &record);
    if (result != MSC4203_OK)
        return result;
    if (record.len < SENDER_RECORD)
        return MSC4203_E_DAMAGED;
    record.ptr += SENDER_RECORD;
    record.len -= SENDER_RECORD;
    if (record.len == 0) {
        record.ptr = sender_end;
        record.len = SENDER_END;
    }
    memmove(memory + 2, record.ptr, record.len);
    memory[0] = ']';
    memory[1] = ',';
    part->ptr = memory;
    part->len = record.len + 2;
    return s->begin + part->len == t->bytes ? MSC4203_OK : MSC4203_E_DAMAGED;
}

MSC4203_API int msc4203_sender_read(msc4203_sender *sender, uint64_t at, void *memory,
                                    size_t bytes, void *data, size_t capacity, size_t *got)
{
    struct msc4203_sender_state *s = &sender->priv;
    char *to = (char *)data;
    msc4203_span part = {NULL, 0};
    uint64_t begin = 0;
    size_t skip, n;
    int result;

    *got = 0;
    if (s->state != SENDER_SENDING)
        return MSC4203_E_USAGE;
    while (*got < capacity && at < s->transaction.bytes) {
        result = sender_find(s, at, (char *)memory, bytes, &part, &begin);
        if (result == MSC4203_E_DAMAGED)
            s->transaction.bytes = 0; /* it can't be sent again as it was */
        if (result != MSC4203_OK)
            return result;
        skip = (size_t)(at - begin);
        n = part.len - skip < capacity - *got ? part.len - skip : capacity - *got;
        memcpy(to + *got, part.ptr + skip, n);
        *got += n;
        at += n;
    }
    return MSC4203_OK;
}

/* After a 413. */
MSC4203_PRIVATE int sender_split(struct msc4203_sender_state *s, void *memory, size_t bytes)
{
    unsigned halvings = s->halvings;
    int result;

    s->easy = 0;
    if (s->transaction.count == 1) {
        result = sender_park(s, s->transaction.first, 413, memory, bytes);
        return result == MSC4203_OK ? sender_done(s) : result;
    }
    do { /* to half of what was refused, not of what may have been; 31 are enough for any */
        halvings++;
    } while (s->config.messages_max >> halvings > s->transaction.count / 2 &&
             s->config.bytes_max >> halvings > s->transaction.bytes / 2);
    result = sender_end_of(s, 0, halvings, s->cut + 1u);
    if (result == MSC4203_OK)
        sender_trace(s, MSC4203_TRACE_SPLIT, 413);
    return result;
}

/* Begins to wait, longer each time. */
MSC4203_PRIVATE void sender_wait(struct msc4203_sender_state *s, uint64_t now_ms, uint32_t random)
{
    uint64_t wait = s->config.retry_ms_min;
    uint32_t i, half, chance, shift = 0;

    for (i = 0; i < s->status.attempts && wait < s->config.retry_ms_max; i++)
        wait *= 2;
    if (wait > s->config.retry_ms_max)
        wait = s->config.retry_ms_max;
    half = (uint32_t)wait / 2;
    chance = (uint32_t)wait - half;
    while (chance >> shift > 0xFFFE) /* a product of 32 bits */
        shift++;
    s->wait = half + ((((chance >> shift) + 1) * (random >> 16) >> 16) << shift);
    s->wait_from = now_ms;
    s->state = SENDER_WAITING;
    s->status.attempts++;
    s->status.failing_since_ms = s->made;
}

MSC4203_API int msc4203_sender_result(msc4203_sender *sender, int status, uint64_t now_ms,
                                      uint32_t random, void *memory, size_t bytes)
{
    struct msc4203_sender_state *s = &sender->priv;
    int result;

    if (s->state != SENDER_SENDING)
        return MSC4203_E_USAGE;
    s->status.last_status = status;
    if (status >= 200 && status <= 299) {
        result = sender_done(s);
        if (result == MSC4203_OK) {
            s->status.delivered += s->transaction.count;
            s->status.bytes += s->transaction.bytes;
            s->status.transactions++;
            sender_trace(s, MSC4203_TRACE_DELIVERED, status);
        }
        return result;
    }
    if (status == 413) {
        result = sender_split(s, memory, bytes);
        if (result != MSC4203_E_QUEUE_FULL && result != MSC4203_E_DAMAGED)
            return result;
    } /* else no room to move it, or to note it, now: later */
    if ((status == 404 || status == 405) && !s->legacy) {
        s->legacy = 1;
        s->legacy_from = now_ms;
        s->state = SENDER_READY;
        sender_trace(s, MSC4203_TRACE_LEGACY, status);
        return MSC4203_OK;
    }
    if (status == 404 || status == 405)
        s->legacy = 0;
    s->status.failures++;
    sender_trace(s, MSC4203_TRACE_FAILED, status);
    if (s->transaction.bytes == 0) { /* see msc4203_sender_read() */
        result = sender_end_of(s, 0, s->halvings, s->cut + 1u);
        if (result == MSC4203_OK)
            sender_trace(s, MSC4203_TRACE_DAMAGED, status);
        return result;
    }
    sender_wait(s, now_ms, random);
    return MSC4203_OK;
}

MSC4203_API void msc4203_sender_wake(msc4203_sender *sender)
{
    if (sender->priv.state == SENDER_WAITING)
        sender->priv.state = SENDER_READY;
}

MSC4203_API int msc4203_sender_skip(msc4203_sender *sender)
{
    struct msc4203_sender_state *s = &sender->priv;
    int result;

    if (s->state == SENDER_SENDING || s->state == SENDER_EMPTY)
        return MSC4203_E_USAGE;
    result = sender_done(s);
    if (result == MSC4203_OK)
        sender_trace(s, MSC4203_TRACE_SKIPPED, 0);
    return result;
}

MSC4203_API void msc4203_sender_status_get(const msc4203_sender *sender,
                                           msc4203_sender_status *status)
{
    *status = sender->priv.status;
    status->in_flight = sender->priv.state == SENDER_EMPTY ? NULL : &sender->priv.transaction;
}

/* ---- receiver ---- */

/* What outlives a restart: 0 version, 1, 4 bytes; 4 which entry is written next, 4; 8 key of the
 * digests, 8; then entries of 48 bytes: digests of the id, of the to-device messages, and of the
 * whole body. */
enum { RECEIVER_HEAD = 16, RECEIVER_ENTRY = 48 };
enum receiver_state { RECEIVER_IDLE = 0, RECEIVER_BODY = 1, RECEIVER_ENDED = 2 };

MSC4203_API int msc4203_receiver_init(msc4203_receiver *receiver,
                                      const msc4203_receiver_config *config, void *memory,
                                      size_t bytes, uint64_t random)
{
    struct msc4203_receiver_state *s = &receiver->priv;
    size_t left = bytes, entries = 0;

    memset(s, 0, sizeof *s);
    s->config = *config;
    s->memory = (unsigned char *)memory;
    if (config->hs_token.len == 0)
        return MSC4203_E_USAGE;
    if (bytes < RECEIVER_HEAD + RECEIVER_ENTRY)
        return MSC4203_E_INDEX;
    for (left -= RECEIVER_HEAD; left >= RECEIVER_ENTRY && entries < 0xFFFF; entries++)
        left -= RECEIVER_ENTRY;
    s->entries = (uint32_t)entries;
    if (delivery_get(s->memory, 4) != 1) {
        memset(memory, 0, bytes);
        delivery_put(s->memory, 1, 4);
        delivery_put(s->memory + 8, random, 8);
    }
    return MSC4203_OK;
}

/* The value of a hexadecimal digit in either case, or 16. */
MSC4203_PRIVATE unsigned receiver_digit(unsigned c)
{
    return delivery_digit(c < 'A' ? c : c | 0x20);
}

/* The next character of a path or a query, decoded; *p moves on. 256: a slash that is one, 257: the
 * end. What is no valid escape stands for itself. */
MSC4203_PRIVATE unsigned receiver_char(const unsigned char **p, const unsigned char *end)
{
    unsigned c, high, low;

    if (*p == end)
        return 257;
    c = *(*p)++;
    if (c == '/')
        return 256;
    if (c != '%' || end - *p < 2)
        return c;
    high = receiver_digit((*p)[0]);
    low = receiver_digit((*p)[1]);
    if ((high | low) > 15)
        return c;
    *p += 2;
    return high << 4 | low;
}

/* Matches the beginning of a path. Returns what is behind it, or NULL. */
MSC4203_PRIVATE const unsigned char *receiver_path(const unsigned char *p,
                                                   const unsigned char *end, const char *path)
{
    for (; *path != 0; path++) {
        unsigned want = *path == '/' ? 256u : (unsigned)(unsigned char)*path;
        if (receiver_char(&p, end) != want)
            return NULL;
    }
    return p;
}

/* Compares a token with the right one, in a time that depends on its length alone. Returns 0 when
 * they are the same. */
MSC4203_PRIVATE unsigned receiver_compare(const msc4203_span *right, const unsigned char *p,
                                          const unsigned char *end, int decode)
{
    size_t i = 0, n = 0;
    unsigned wrong = 0;

    while (p != end) {
        unsigned c = decode ? receiver_char(&p, end) : *p++;
        wrong |= (c == 256 ? (unsigned)'/' : c) ^ (unsigned char)right->ptr[i];
        i = i + 1 == right->len ? 0 : i + 1;
        n++;
    }
    return wrong | (n != right->len);
}

/* Checks the tokens that a request has. */
MSC4203_PRIVATE int receiver_tokens(const struct msc4203_receiver_state *s,
                                    const unsigned char *query, const unsigned char *end,
                                    const msc4203_span *authorization)
{
    static const char scheme[] = "bearer ", name[] = "access_token=";
    const unsigned char *p = (const unsigned char *)authorization->ptr, *stop;
    unsigned wrong = 0, tokens = 0, i;

    if (p != NULL && authorization->len >= sizeof scheme - 1) {
        stop = p + authorization->len;
        for (i = 0; i < 6 && (*p | 0x20) == scheme[i]; i++)
            p++;
        if (i == 6 && *p == ' ') {
            while (p != stop && *p == ' ')
                p++;
            tokens++;
            wrong |= receiver_compare(&s->config.hs_token, p, stop, 0);
        }
    }
    while (query != end) {
        for (stop = query; stop != end && *stop != '&'; stop++)
            ;
        if ((size_t)(stop - query) >= sizeof name - 1 &&
            memcmp(query, name, sizeof name - 1) == 0) {
            tokens++;
            wrong |= receiver_compare(&s->config.hs_token, query + sizeof name - 1, stop, 1);
        }
        query = stop == end ? end : stop + 1;
    }
    if (tokens == 0)
        return MSC4203_E_TOKEN_MISSING;
    return wrong ? MSC4203_E_TOKEN : MSC4203_OK;
}

MSC4203_API int msc4203_receiver_request(msc4203_receiver *receiver, const msc4203_span *method,
                                         const msc4203_span *target,
                                         const msc4203_span *authorization, void *scratch,
                                         size_t bytes)
{
    static const char prefix[] = "/_matrix/app/v1", ping[] = "/ping", path[] = "/transactions/";
    struct msc4203_receiver_state *s = &receiver->priv;
    const unsigned char *p = (const unsigned char *)target->ptr, *end = p, *query, *at;
    uint64_t key = delivery_get(s->memory + 8, 8);
    int result, pings = 0;

    s->state = RECEIVER_IDLE;
    s->stored = 0;
    for (query = p + target->len; end != query && *end != '?'; end++)
        ;
    at = receiver_path(p, end, prefix);
    if (at != NULL)
        pings = receiver_path(at, end, ping) == end;
    at = receiver_path(at != NULL ? at : p, end, path);
    if (!pings && (at == NULL || at == end))
        return MSC4203_E_UNRECOGNIZED;
    if (!msc4203_span_equal(method, pings ? "POST" : "PUT"))
        return MSC4203_E_METHOD;
    result = receiver_tokens(s, end == query ? end : end + 1, query, authorization);
    if (result != MSC4203_OK)
        return result;
    if (pings)
        return MSC4203_END;
    msc4203_digest_init(&s->body, key);
    while (at != end) {
        unsigned c = receiver_char(&at, end);
        unsigned char byte = (unsigned char)c;
        if (c == 256) /* more of a path: it is another one */
            return MSC4203_E_UNRECOGNIZED;
        msc4203_digest_add(&s->body, &byte, 1);
    }
    msc4203_digest_end(&s->body, s->id);
    msc4203_digest_init(&s->body, key);
    msc4203_digest_init(&s->to_device, key);
    msc4203_reader_init(&s->reader, MSC4203_TRANSACTION, s->config.kinds | MSC4203_TO_DEVICE,
                        scratch, bytes);
    s->state = RECEIVER_BODY;
    return MSC4203_MORE;
}

MSC4203_API int msc4203_receiver_feed(msc4203_receiver *receiver, const void *data, size_t bytes,
                                      int last)
{
    struct msc4203_receiver_state *s = &receiver->priv;
    int result = MSC4203_E_USAGE;

    if (s->state == RECEIVER_BODY)
        result = msc4203_reader_feed(&s->reader, data, bytes, last);
    if (result == MSC4203_OK)
        msc4203_digest_add(&s->body, data, bytes);
    return result;
}

/* Adds a to-device message to the digest of all of them. */
MSC4203_PRIVATE void receiver_add(struct msc4203_receiver_state *s, const msc4203_item *item)
{
    unsigned char size[8];
    unsigned field;

    delivery_put(size, (uint64_t)(uint32_t)item->error, 8);
    msc4203_digest_add(&s->to_device, size, 4);
    for (field = ITEM_SENDER; field <= ITEM_CONTENT; field++) {
        const msc4203_span *span = item_field_of(item, field);
        delivery_put(size, span->len, 8);
        msc4203_digest_add(&s->to_device, size, 8);
        msc4203_digest_add(&s->to_device, span->ptr, span->len);
    }
}

/* Looks the transaction up, and remembers it when it is new. */
MSC4203_PRIVATE int receiver_end(struct msc4203_receiver_state *s)
{
    unsigned char digests[RECEIVER_ENTRY], *entry = s->memory + RECEIVER_HEAD;
    uint32_t i, next = (uint32_t)delivery_get(s->memory + 4, 4);
    int result = MSC4203_NEW;

    memcpy(digests, s->id, 16);
    msc4203_digest_end(&s->to_device, digests + 16);
    msc4203_digest_end(&s->body, digests + 32);
    for (i = 0; i < s->entries; i++, entry += RECEIVER_ENTRY) {
        if (memcmp(entry, digests, 32) != 0)
            continue;
        if (memcmp(entry + 32, digests + 32, 16) == 0)
            return MSC4203_REPEAT;
        result = MSC4203_REPEAT_TO_DEVICE;
    }
    if (next >= s->entries)
        next = 0;
    memcpy(s->memory + RECEIVER_HEAD + (size_t)next * RECEIVER_ENTRY, digests, RECEIVER_ENTRY);
    delivery_put(s->memory + 4, next + 1 == s->entries ? 0 : next + 1, 4);
    s->stored = 1;
    return result;
}

MSC4203_API int msc4203_receiver_next(msc4203_receiver *receiver, const msc4203_item **item)
{
    struct msc4203_receiver_state *s = &receiver->priv;

    *item = NULL;
    if (s->state == RECEIVER_ENDED)
        return s->result;
    if (s->state != RECEIVER_BODY)
        return MSC4203_E_USAGE;
    s->result = msc4203_reader_next(&s->reader, item);
    if (s->result == MSC4203_ITEM && (*item)->kind == MSC4203_TO_DEVICE)
        receiver_add(s, *item);
    if (s->result == MSC4203_END)
        s->result = receiver_end(s);
    if (s->result != MSC4203_ITEM && s->result != MSC4203_MORE)
        s->state = RECEIVER_ENDED;
    return s->result;
}

MSC4203_API void msc4203_receiver_reject(msc4203_receiver *receiver)
{
    struct msc4203_receiver_state *s = &receiver->priv;
    uint32_t next = (uint32_t)delivery_get(s->memory + 4, 4);

    if (!s->stored)
        return;
    s->stored = 0;
    next = next == 0 ? s->entries - 1 : next - 1;
    memset(s->memory + RECEIVER_HEAD + (size_t)next * RECEIVER_ENTRY, 0, RECEIVER_ENTRY);
    delivery_put(s->memory + 4, next, 4);
}

/* ---- sync ---- */

/* A token: "m", the random of an opening combined with a digest of the device, in 16 digits, ".", a
 * number in 12 digits. So another device's token is of no opening that is known. */
enum { SYNC_TOKEN = 30, SYNC_MAX = 100 };

/* Reads digits of a token. Returns 0 when there is another character. */
MSC4203_PRIVATE int sync_digits(const char *at, int digits, uint64_t *value)
{
    for (*value = 0; digits != 0; digits--, at++) {
        unsigned digit = delivery_digit((unsigned char)*at);
        if (digit > 15)
            return 0;
        *value = *value << 4 | digit;
    }
    return 1;
}

/* Tells whether this queue gave out a number in an opening, and so the token. */
MSC4203_PRIVATE int sync_is_ours(const msc4203_queue *q, uint64_t opening, uint64_t number)
{
    uint64_t random, first, bound;
    uint32_t back;
    msc4203_counts counts;

    if ((q->count)(q->context, MSC4203_CHANNEL_SYNC, NULL, &counts) != MSC4203_OK)
        return 0;
    bound = counts.through + 1;
    for (back = 0; (q->opening)(q->context, back, &random, &first) == MSC4203_OK; back++) {
        if (random == opening)
            return number < bound;
        bound = first;
    }
    return 0;
}

/* By what a token knows its device. It need not be secret: a client can only take out what is its
 * own. (The user ids of one server end alike: so it is clear where the device id begins.) */
MSC4203_PRIVATE uint64_t sync_device(const msc4203_device *device)
{
    msc4203_digest digest;
    unsigned char out[16];

    msc4203_digest_init(&digest, 0);
    msc4203_digest_add(&digest, device->user_id.ptr, device->user_id.len);
    msc4203_digest_add(&digest, device->device_id.ptr, device->device_id.len);
    msc4203_digest_end(&digest, out);
    return delivery_get(out, 8);
}

MSC4203_API int msc4203_sync_begin(msc4203_sync *sync, const msc4203_queue *queue,
                                   const msc4203_device *device, const msc4203_span *since)
{
    struct msc4203_sync_state *s = &sync->priv;
    uint64_t opening, number, owner = sync_device(device);
    int result;

    memset(s, 0, sizeof *s);
    s->queue = queue;
    s->device = *device;
    result = (queue->opening)(queue->context, 0, &s->opening, &number);
    if (result != MSC4203_OK)
        return result;
    s->opening ^= owner;
    if (since == NULL || since->len == 0)
        return MSC4203_OK;
    if (since->len != SYNC_TOKEN || since->ptr[0] != 'm' || since->ptr[17] != '.' ||
        !sync_digits(since->ptr + 1, 16, &opening) || !sync_digits(since->ptr + 18, 12, &number))
        return MSC4203_E_SINCE;
    if (number == 0 || !sync_is_ours(queue, opening ^ owner, number))
        return MSC4203_OK;
    s->after = s->before = number;
    return (queue->done)(queue->context, MSC4203_CHANNEL_SYNC, device, number, NULL);
}

MSC4203_API int msc4203_sync_next(msc4203_sync *sync, void *memory, size_t bytes,
                                  msc4203_message *message)
{
    struct msc4203_sync_state *s = &sync->priv;
    const msc4203_queue *q = s->queue;
    uint64_t after = s->after;
    int result;

    if (s->count == SYNC_MAX)
        return MSC4203_END;
    do {
        result = (q->next)(q->context, MSC4203_CHANNEL_SYNC, &s->device, after, memory, bytes,
                         message);
        if (result == MSC4203_E_DAMAGED && message->number <= after)
            return result;
        after = message->number;
    } while (result == MSC4203_E_DAMAGED);
    if (result != MSC4203_ITEM)
        return result;
    s->before = s->after;
    s->after = after;
    s->count++;
    return MSC4203_ITEM;
}

MSC4203_API void msc4203_sync_unread(msc4203_sync *sync)
{
    sync->priv.after = sync->priv.before;
}

MSC4203_API void msc4203_sync_token(const msc4203_sync *sync, char token[48])
{
    char *at = token;

    *at++ = 'm';
    at = delivery_hex(at, sync->priv.opening, 16);
    *at++ = '.';
    delivery_hex(at, sync->priv.after, 12);
}

/* ---- changing over ---- */

/* Where a message goes that leaves a channel, when its device has `channels` now: to /sync alone
 * where that is in it and has not had the message, for other services in it have had it, or came
 * later; and to others only if it would else be with nobody. */
MSC4203_PRIVATE uint32_t change_to(const msc4203_message *message, uint32_t channels)
{
    if (channels >> MSC4203_CHANNEL_SYNC & 1)
        channels = (uint32_t)1 << MSC4203_CHANNEL_SYNC & ~message->delivered;
    else if (message->channels & channels)
        channels = 0;
    return channels & ~message->channels;
}

/* Finds the next message of a channel (and device) that may have to be moved; one that is damaged
 * has an empty set. *message is the one before. Returns MSC4203_ITEM, MSC4203_END, or an error of
 * the queue. */
MSC4203_APART int change_next(const msc4203_queue *queue, uint32_t channel,
                              const msc4203_device *device, void *memory, size_t bytes,
                              msc4203_message *message)
{
    uint64_t after = message->number;
    int result = (queue->next)(queue->context, channel, device, after, memory, bytes, message);

    if (result == MSC4203_E_DAMAGED && message->number > after)
        message->channels = 0; /* it waits nowhere that is known */
    else if (result != MSC4203_ITEM && (result != MSC4203_E_TOO_LARGE || device == NULL))
        return result;
    return MSC4203_ITEM;
}

MSC4203_APART int change_move(const msc4203_queue *queue, uint32_t channel,
                              const msc4203_device *device, uint64_t number, uint32_t channels)
{
    return (queue->move)(queue->context, channel, device, number, channels, NULL);
}

MSC4203_API int msc4203_change_device(const msc4203_queue *queue, const msc4203_device *device,
                                      uint32_t channels, void *memory, size_t bytes,
                                      uint64_t *moved)
{
    const uint32_t sync = MSC4203_CHANNEL_SYNC;
    msc4203_message message;
    uint64_t count = 0;
    int result = MSC4203_END;

    message.number = 0;
    while (channels != 0 && !(channels >> sync & 1)) {
        result = change_next(queue, sync, device, memory, bytes, &message);
        if (result != MSC4203_ITEM)
            break;
        if (message.channels == 0)
            continue;
        result = change_move(queue, sync, device, message.number,
                             channels & ~message.channels);
        if (result == MSC4203_E_DAMAGED) /* not seen before, for want of memory */
            continue;
        if (result != MSC4203_OK)
            break;
        count++;
    }
    if (moved != NULL)
        *moved = count;
    return result == MSC4203_END ? MSC4203_OK : result;
}

/* Asks for the route of a message's device. */
MSC4203_APART uint32_t change_route(const msc4203_message *message, void *context,
                                    uint32_t (*route)(void *context,
                                                      const msc4203_device *device))
{
    msc4203_device device;

    device.user_id = message->item.user_id;
    device.device_id = message->item.device_id;
    return (route)(context, &device);
}

/* The number up to which a channel is in flight. */
MSC4203_APART int change_begin(const msc4203_queue *queue, uint32_t channel, uint64_t *through)
{
    msc4203_counts counts;
    int result = (queue->count)(queue->context, channel, NULL, &counts);

    *through = counts.through;
    return result;
}

/* Takes the first message after *number, and moves it if it does not stay. Returns MSC4203_OK,
 * MSC4203_ITEM when it stays, or anything else when that was all. */
MSC4203_APART int change_step(const msc4203_queue *queue, uint32_t channel, uint64_t *number,
                              uint32_t (*route)(void *context, const msc4203_device *device),
                              void *context, void *memory, size_t bytes)
{
    msc4203_message message;
    uint32_t channels;
    int result;

    message.number = *number;
    result = change_next(queue, channel, NULL, memory, bytes, &message);
    if (result != MSC4203_ITEM)
        return result;
    *number = message.number;
    if (message.channels == 0)
        return MSC4203_ITEM;
    channels = change_route(&message, context, route);
    if (channels >> channel & 1)
        return MSC4203_ITEM;
    return change_move(queue, channel, NULL, message.number, change_to(&message, channels));
}

MSC4203_API int msc4203_change_channel(const msc4203_queue *queue, uint32_t channel,
                                       uint32_t (*route)(void *context,
                                                         const msc4203_device *device),
                                       void *context, void *memory, size_t bytes,
                                       uint64_t *moved)
{
    uint64_t number, count = 0;
    int result = change_begin(queue, channel, &number);

    while (result == MSC4203_OK || result == MSC4203_ITEM) {
        result = change_step(queue, channel, &number, route, context, memory, bytes);
        count += result == MSC4203_OK;
    }
    if (moved != NULL)
        *moved = count;
    return result == MSC4203_END ? MSC4203_OK : result;
}

/* ---- expiry ---- */

MSC4203_API int msc4203_expire(msc4203_expiry *expiry, const msc4203_queue *queue, uint64_t now_ms,
                               uint64_t age_ms, uint64_t *expired)
{
    uint64_t step = now_ms - expiry->priv.last_ms;
    msc4203_counts counts;
    int result = (queue->count)(queue->context, MSC4203_CHANNEL_SYNC, NULL, &counts);

    if (expired != NULL)
        *expired = 0;
    expiry->priv.last_ms = now_ms;
    if (step > SENDER_HOUR) /* or it went back */
        expiry->priv.steady_ms = 0;
    else if (expiry->priv.steady_ms < SENDER_HOUR)
        expiry->priv.steady_ms += (uint32_t)step;
    if (result != MSC4203_OK)
        return result;
    if (now_ms < counts.time_ms || expiry->priv.steady_ms < SENDER_HOUR)
        return MSC4203_E_CLOCK;
    return (queue->expire)(queue->context, now_ms > age_ms ? now_ms - age_ms : 0, expired);
}
#endif /* MSC4203_NO_DELIVERY */


/* ------------------------------------------------------------------------------------------------
 * Sizes, for callers without this header
 * --------------------------------------------------------------------------------------------- */

/* The offset of a struct behind one byte is its alignment. */
struct item_align { char byte; msc4203_item object; };
struct reader_align { char byte; msc4203_reader object; };
struct algorithms_align { char byte; msc4203_algorithms object; };
struct writer_align { char byte; msc4203_writer object; };
struct log_align { char byte; msc4203_log object; };
struct queue_align { char byte; msc4203_queue object; };
struct storage_align { char byte; msc4203_storage object; };
struct message_align { char byte; msc4203_message object; };
struct counts_align { char byte; msc4203_counts object; };
struct sender_align { char byte; msc4203_sender object; };
struct receiver_align { char byte; msc4203_receiver object; };
struct sync_align { char byte; msc4203_sync object; };
struct digest_align { char byte; msc4203_digest object; };
struct expiry_align { char byte; msc4203_expiry object; };

MSC4203_API size_t msc4203_sizeof(int object)
{
    switch (object) {
    case MSC4203_OBJECT_ITEM:
        return sizeof(msc4203_item);
    case MSC4203_OBJECT_READER:
        return sizeof(msc4203_reader);
    case MSC4203_OBJECT_ALGORITHMS:
        return sizeof(msc4203_algorithms);
    case MSC4203_OBJECT_WRITER:
        return sizeof(msc4203_writer);
    case MSC4203_OBJECT_LOG:
        return sizeof(msc4203_log);
    case MSC4203_OBJECT_QUEUE:
        return sizeof(msc4203_queue);
    case MSC4203_OBJECT_STORAGE:
        return sizeof(msc4203_storage);
    case MSC4203_OBJECT_MESSAGE:
        return sizeof(msc4203_message);
    case MSC4203_OBJECT_COUNTS:
        return sizeof(msc4203_counts);
    case MSC4203_OBJECT_SENDER:
        return sizeof(msc4203_sender);
    case MSC4203_OBJECT_RECEIVER:
        return sizeof(msc4203_receiver);
    case MSC4203_OBJECT_SYNC:
        return sizeof(msc4203_sync);
    case MSC4203_OBJECT_DIGEST:
        return sizeof(msc4203_digest);
    case MSC4203_OBJECT_EXPIRY:
        return sizeof(msc4203_expiry);
    default:
        return 0;
    }
}

MSC4203_API size_t msc4203_alignof(int object)
{
    switch (object) {
    case MSC4203_OBJECT_ITEM:
        return offsetof(struct item_align, object);
    case MSC4203_OBJECT_READER:
        return offsetof(struct reader_align, object);
    case MSC4203_OBJECT_ALGORITHMS:
        return offsetof(struct algorithms_align, object);
    case MSC4203_OBJECT_WRITER:
        return offsetof(struct writer_align, object);
    case MSC4203_OBJECT_LOG:
        return offsetof(struct log_align, object);
    case MSC4203_OBJECT_QUEUE:
        return offsetof(struct queue_align, object);
    case MSC4203_OBJECT_STORAGE:
        return offsetof(struct storage_align, object);
    case MSC4203_OBJECT_MESSAGE:
        return offsetof(struct message_align, object);
    case MSC4203_OBJECT_COUNTS:
        return offsetof(struct counts_align, object);
    case MSC4203_OBJECT_SENDER:
        return offsetof(struct sender_align, object);
    case MSC4203_OBJECT_RECEIVER:
        return offsetof(struct receiver_align, object);
    case MSC4203_OBJECT_SYNC:
        return offsetof(struct sync_align, object);
    case MSC4203_OBJECT_DIGEST:
        return offsetof(struct digest_align, object);
    case MSC4203_OBJECT_EXPIRY:
        return offsetof(struct expiry_align, object);
    default:
        return 0;
    }
}

#undef MSC4203_PRIVATE
#undef MSC4203_UNUSED
#undef MSC4203_HOT
#undef MSC4203_COLD
#undef MSC4203_UNROLL
#undef MSC4203_PRAGMA
#undef MSC4203_WORDS
#undef MSC4203_VECTOR
#undef MSC4203_MEMBERS
#undef json_vector_first
#undef READER_FF4
#undef READER_FIELD_BIT
#undef ITEM_BIT
#undef ITEM_UNKNOWN
#undef ITEM_KEY
#undef READER_KEY_ROW
#undef WRITER_MEMBER
#undef WRITER_BYTES
#undef LOG_LITTLE
#undef LOG_MAGIC_LOW
#undef LOG_MAGIC_HIGH
#undef LOG_P1
#undef LOG_P2
#undef LOG_NUMBER_MAX
#undef LOG_MESSAGES_MAX
#undef LOG_DEVICES_MAX
#undef LOG_UNITS_MAX
#undef MSC4203_APART

#endif /* MSC4203_IMPLEMENTED */
#endif /* MSC4203_IMPLEMENTATION */
