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
 * msc4203_log is a queue in a region of fixed size: memory, a file, or anything that can be read,
 * written and synced. It never grows, and never overwrites what was accepted: when it is full,
 * push() says so.
 *
 *     msc4203_file_create(&file, "queue.log", 16 << 20, NULL, random);      // when there is none
 *     msc4203_file_open(&file, "queue.log", 1, &storage);
 *     msc4203_log_inspect(&log, &storage, &config);
 *     bytes = msc4203_log_memory(&log, &config, storage.bytes);
 *     msc4203_log_open(&log, &storage, memory, bytes, random);
 *     msc4203_log_queue(&log, &queue);
 *
 * Power loss at any moment leaves what the last completed flush covered, and of what came later
 * each call whole or not at all, none without those before it. A damaged record is found by its
 * checksum, counted (msc4203_log_usage_get), and costs only what was in it: a message, or what one
 * call did; the chains that it was in are mended. Where two messages of one channel are damaged,
 * those between them may be lost to it as well. A log of this format version will be read by every
 * later version of this library.
 *
 * Cost. No operation's cost depends on how many messages wait, but expire()'s, drop()'s and, while
 * something dropped is in flight, that of opening and of a hold() that lets go. A message is
 * written behind what was written before, and changes 4 bytes in the last one of each chain that
 * it joins, a service's or its device's for /sync. Each takes 76 bytes beside its strings, and 8
 * for each service that it waits for. When the ring's end comes round to messages that still wait,
 * they are copied to its end: that is little while the log is at most half full, and may be all of
 * them for one message when it is full to the brim.
 *
 * Memory. 48 bytes for each device that has waiting messages, 24 for each request and 16 for each
 * opening that is remembered, and 4 KiB.
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
 *     bytes = msc4203_log_memory(&store, &shape, storage.bytes);
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
 * at most 384 bytes, whatever the body's size, msc4203_log at most 256, msc4203_sender 1,024,
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
     * yet are not taken. MUST NOT fail for lack of room.
     *
     * Returns MSC4203_OK, also when nothing waited. */
    int (*done)(void *context, uint32_t channel, const msc4203_device *device, uint64_t through,
                const msc4203_span *record);

    /* Says that the channel's messages with numbers up to `through` are in flight: they stay,
     * whatever happens, until done() or move() takes them out. Replaces the channel's record (at
     * most 4,096 bytes; the state of whoever delivers on it) in the same step. Those that a lower
     * `through` lets go of are taken out, if they were of a device that was dropped meanwhile.
     *
     * Returns MSC4203_OK; MSC4203_E_TOO_LARGE; MSC4203_E_QUEUE_FULL. */
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

/* A region of fixed size, for a log to be in. Each function returns 0, or anything else when it
 * failed. `write` MAY keep what it is given in a cache, and lose any part of it in a power loss, or
 * keep the parts in any order; `read` MUST tell what was written last; when `sync` has returned 0,
 * all that was written before it MUST stay. Nothing outside the bytes of a write may change,
 * whenever the power goes. */
typedef struct msc4203_storage {
    uint32_t version;   /* 1 */
    void *context;      /* passed on */
    uint64_t bytes;     /* of the region */
    unsigned char *memory; /* where it is, when it is memory; else NULL: it is then read and written
                           directly, and `read` and `write` are not called */
    int (*read)(void *context, uint64_t at, void *data, size_t bytes);
    int (*write)(void *context, uint64_t at, const void *data, size_t bytes);
    int (*sync)(void *context);
} msc4203_storage;

/* How a log is made. Zeros stand for the defaults. */
typedef struct msc4203_log_config {
    uint32_t devices;       /* that can have waiting messages at a time: 1,024 */
    uint32_t requests;      /* that are remembered: what a sixteenth of the region holds, at most
                               4,096 */
    uint32_t openings;      /* that are remembered: 1,000, and at most what a 128th holds */
    uint32_t message_bytes; /* of the largest message, ids included: 73,728 and at most an eighth of
                               the region */
} msc4203_log_config;

struct msc4203_log_state {
    const msc4203_storage *storage;
    uint32_t *word;                   /* the index, in the caller's buffer */
    uint64_t ring_at;                 /* bytes from the region's beginning */
    uint64_t settled;                 /* numbers below are visible */
    uint32_t devices, requests, openings, message_bytes, key[2];
    uint32_t images;                  /* of the index, so far */
    uint32_t end, base, tail, epoch;  /* the ring's end, where that round began; its beginning */
    uint32_t words, image_crc;        /* up to here as in an image's header */
    uint32_t durable, firm, imaged, safe; /* places: see the implementation */
    uint32_t units;                   /* of the ring, 8 bytes each */
    uint32_t device_at, memory_at;    /* in the index */
    uint32_t device_mask, request_mask;
    uint32_t free_device, salt;
    uint32_t pending, need;           /* units of open batches, and of their journals to come */
    uint32_t moves, damaged;
    uint32_t channel_units, device_units; /* quotas */
    uint32_t late[7];                 /* of the next image: `images` to `image_crc` */
    uint16_t pairs;
    uint8_t error, stale, dirty, parts, healing;
    uint8_t stage;                    /* of the next image */
    uint8_t hint[64];                 /* which pair may have an address that ends like this */
};

/* A log. Treat `priv` as private. */
typedef struct msc4203_log {
    struct msc4203_log_state priv;
} msc4203_log;

#ifndef MSC4203_NO_LOG
/* Tells how many bytes of memory a log with this configuration needs in a region of `bytes` bytes:
 * the buffer for msc4203_log_open(). Depends on the devices, the requests and the openings, never
 * on the messages. 0 when the region is too small, or too large (8 GiB). `log` is only worked with.
 * */
MSC4203_API size_t msc4203_log_memory(msc4203_log *log, const msc4203_log_config *config,
                                      uint64_t bytes);

/* Makes an empty log in a region; what was in it is lost. `config` may be NULL, for the defaults.
 * `random` are 64 random bits. `log` is only worked with.
 *
 * Returns MSC4203_OK, after power loss too; MSC4203_E_REGION when the region is too small for the
 * configuration or too large; MSC4203_E_STORAGE. */
MSC4203_API int msc4203_log_format(msc4203_log *log, const msc4203_storage *storage,
                                   const msc4203_log_config *config, uint64_t random);

/* Tells the configuration with which the log in a region was made, and so how much memory opening
 * it needs. `log` is only worked with.
 *
 * Returns MSC4203_OK; MSC4203_E_FORMAT when there is no log, or one of a later version;
 * MSC4203_E_REGION when the log was made for a region of another size; MSC4203_E_STORAGE. */
MSC4203_API int msc4203_log_inspect(msc4203_log *log, const msc4203_storage *storage,
                                    msc4203_log_config *config);

/* Opens the log in a region. `memory`, aligned as for a uint32_t and of `bytes` bytes, and
 * `storage` must live as long as the log is used. `random` are 64 random bits, by which this
 * opening is known from now on. May be called at any time, also after an error, to open a log anew.
 *
 * After power loss at any moment, in this function too, the log is as the last completed flush left
 * it, and what came later is there whole or not at all.
 *
 * Returns MSC4203_OK; MSC4203_E_INDEX when `memory` is too small; the errors of
 * msc4203_log_inspect(); MSC4203_E_DAMAGED when neither copy of the index can be read. */
MSC4203_API int msc4203_log_open(msc4203_log *log, const msc4203_storage *storage, void *memory,
                                 size_t bytes, uint64_t random);

/* Limits the bytes that may wait for one channel (but /sync), and for one device. 0, as after
 * opening: no limit. A push beyond that returns MSC4203_E_QUOTA. */
MSC4203_API void msc4203_log_quotas(msc4203_log *log, uint64_t channel_bytes,
                                    uint64_t device_bytes);

/* Returns the 64 random bits that the log was made with: a secret that stays the same as long as
 * the log, for the digests of requests. */
MSC4203_API uint64_t msc4203_log_key(const msc4203_log *log);

/* Flushes a log and writes its index down, so that it is opened fast. Not needed for anything else.
 */
MSC4203_API int msc4203_log_close(msc4203_log *log);

/* Fills in a queue that works on this log, which must live as long as the queue is used. */
MSC4203_API void msc4203_log_queue(msc4203_log *log, msc4203_queue *queue);

/* How full a log is, in bytes, and what of it was found to be damaged since it was opened. */
typedef struct msc4203_log_usage {
    uint64_t messages;
    uint64_t used, capacity; /* bytes that messages take, and can take */
    uint64_t devices;        /* with waiting messages */
    uint64_t damaged;        /* records that could not be read */
} msc4203_log_usage;
MSC4203_API void msc4203_log_usage_get(const msc4203_log *log, msc4203_log_usage *usage);

/* What msc4203_log_scan() finds. */
typedef struct msc4203_log_entry {
    uint64_t at;          /* bytes from the region's beginning */
    uint32_t bytes;
    int kind;             /* 0 damaged, 1 message, 2 message moved forward, 3 journal, 4 channel,
                             5 filler, 6 index */
    int error;            /* MSC4203_OK, or MSC4203_E_DAMAGED when its contents are damaged */
    uint64_t number, time_ms; /* of a message; number 0: it was never committed */
    uint32_t channels;    /* it waits for these, or has waited */
    msc4203_span sender, type, user_id, device_id, content; /* of a message: in `memory` */
} msc4203_log_entry;

/* Reads through all that is in a region, as far as it can be read, open or not, and calls `see` for
 * each record and each damaged place; a result of `see` other than 0 ends it. Changes nothing.
 * `memory`, aligned as for a uint64_t, must hold 400 bytes and the largest message (entries that do
 * not fit come without strings).
 *
 * Damaged is what was durable and is in use, from the ring's beginning on, and does not have its
 * checksum: not what is free, was never written, or was lost with the power before it was durable.
 * After power loss, until the log is opened, a message may be told as damaged that the journal
 * mends: its words were being changed.
 *
 * Returns MSC4203_OK, MSC4203_E_FORMAT, MSC4203_E_REGION, MSC4203_E_STORAGE, or what `see` said. */
MSC4203_API int msc4203_log_scan(const msc4203_storage *storage, void *memory, size_t bytes,
                                 int (*see)(void *context, const msc4203_log_entry *entry),
                                 void *context);

/* Storage in memory: `bytes` bytes at `memory`, aligned to 4 bytes. */
MSC4203_API void msc4203_memory_storage(msc4203_storage *storage, void *memory, uint64_t bytes);

#if !defined(MSC4203_NO_FILE) && (defined(MSC4203_FILE) || !defined(MSC4203_STATIC))
/* Storage in a file, of POSIX systems. Compiled by msc4203.c, and by this header where MSC4203_FILE
 * is defined (then with _POSIX_C_SOURCE 200809L, and _FILE_OFFSET_BITS 64 on 32-bit systems). */
typedef struct msc4203_file {
    struct {
        msc4203_log log;            /* for making one */
        int fd, error;
        struct {
            uint64_t at;            /* its place in the file, plus 1; 0 when it holds nothing */
            uint16_t known, stop;   /* what of it is as in the file, or newer */
            uint16_t first, end;    /* what of that is still to be written */
        } line[16];                 /* of the buffer */
        char name[1024];
        unsigned char buffer[262144];
    } priv;
} msc4203_file;

/* Makes a file of `bytes` bytes with an empty log in it: mode 0600, all its blocks allocated. It is
 * made beside `path`, as PATH.new, and takes its name when it is whole and durable; what had that
 * name is replaced. `config` and `random` as for msc4203_log_format(). `file` is only worked with.
 *
 * Returns MSC4203_OK; the errors of msc4203_log_format(); MSC4203_E_LOCKED when another process is
 * making it; MSC4203_E_STORAGE, and errno says why. */
MSC4203_API int msc4203_file_create(msc4203_file *file, const char *path, uint64_t bytes,
                                    const msc4203_log_config *config, uint64_t random);

/* Opens a file as a storage, and locks it against other processes (by fcntl: a process that opens
 * it twice locks nothing). `writable` 0: only for reading, and not locked. `file` must live as long
 * as the storage is used.
 *
 * Returns MSC4203_OK; MSC4203_END when there is no such file; MSC4203_E_LOCKED; MSC4203_E_STORAGE,
 * and errno says why. */
MSC4203_API int msc4203_file_open(msc4203_file *file, const char *path, int writable,
                                  msc4203_storage *storage);

/* Closes the file. What was not synced may be lost with the power, as always. */
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
    return s->shape == MSC4203_EDU ? &s->item.sender : &s->item.user_id;
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
            how = match(service, user_id);
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
 * 6. log: a crash-safe queue in a fixed region
 *
 * THE FORMAT, version 1. All numbers are little-endian. The region holds
 *
 *   0      header of image 0, 96 bytes        1024   image 0: the index, as 32-bit words
 *   512    header of image 1                  then   image 1, with as much room (512 * n bytes)
 *   ring   records, to the region's end
 *
 * The CRC is CRC-32C (polynomial 0x82F63B78, reflected) without a final inversion. The salt that a
 * ring's checksums begin with is the CRC of the 8 random bytes in the header, begun with
 * 0xFFFFFFFF: so nobody who can only send messages can make what looks like a record.
 *
 * A header: 0 "msc4203" and a NUL; 8 version; 12 CRC of the 96 bytes but these 4, begun with
 * 0xFFFFFFFF; 16 bytes of the region, 8 bytes; 24 devices; 28 requests; 32 openings; 36 bytes of
 * the largest message; 40 random, 8 bytes; 48 number of the image (image n is in area n mod 2); 52
 * place of the ring's end; 56 place where that round began; 60 place of the ring's beginning; 64
 * number of the opening; 68 words in the image; 72 CRC of the image, begun with 0xFFFFFFFF; 76
 * zeros. 4 bytes each where nothing is said.
 *
 * A place counts units of 8 bytes from the ring's beginning in its first round on, modulo 2^32. A
 * position, in the index and in links, is the unit in the ring plus 1; 0 is none.
 *
 * A record: 0 length in units, 3 bytes; 3 type; 4 number of the opening, lower 16 bits; 6 bytes of
 * padding at its end; 7 flags; 8 CRC of the body, begun with the salt; 12 CRC of what is fixed
 * (bytes 0 to 11, and from 16 to where the links or the body begin), begun with the CRC of the
 * record's place, which begins with the salt; 16 the rest. No record crosses the ring's end: a
 * filler goes before, or the last unit stays empty.
 *
 *   1 message   fixed: 16 position it was copied from; 20 lengths of sender, type, user id and
 *               device id, 2 bytes each; 28 number, 8 bytes (0: not committed); 36 time in ms, 8
 *               bytes; 44 hash of the device, 8 bytes; 52 set of channels at first, less /sync once
 *               it was moved away from there; 56 set now, but for what the index tells. 60 links, 8
 *               bytes for the chain of what waits for the device's /sync (before the commit, the
 *               next message of the batch) and for each of channels 1 to 31 in the first set,
 *               ascending: position of the next and of the previous message of the chain. Links
 *               have no checksum: of two neighbours each must name the other. Body: sender, type,
 *               user id, device id, content. Flags: the batch.
 *   2 copy      a message that was moved forward, because the ring's end came to where it was
 *   3 journal   body: 16 place before which all was durable; 20 place before which the links were,
 *               too; 24 pairs of an address and a value, 4 bytes each. An address is that of a word
 *               of the index or, with the upper bit set, of the ring. Flags: 1, the operation's
 *               last: a journal counts only from its first to its last record.
 *   4 channel   fixed: 16 position it was copied from; 20 length of its name, 2 bytes; 22 of its
 *               record, 2 bytes. Body: name, record. Flags: the channel.
 *   5 filler    nothing
 *
 * The index, in words: log_words below. What it says of a message is its first and last on a chain.
 *
 * HOW IT WORKS. An operation changes words of the index in memory and links in the ring, and notes
 * each change as a pair; its journal record makes it one step. Opening reads an image of the index
 * and repeats the journal from there. Links that are only added to a chain's end are written at
 * once: if their journal is lost, that message is the last again, and what it links to is not
 * looked at. Other links are written after the journal is durable.
 *
 * Free space is what lies before the ring's beginning. It moves on over what waits for nobody; what
 * still waits is copied to the end. The space counts as free only when two images say so: so
 * whichever of them opening has to use, all that its journal speaks of is still there.
 *
 * Where the ring ends: opening follows records that are valid at their place and of this opening,
 * or a later one. The last ones may have been written in part. Each journal tells what was durable
 * when it was written. What is broken before that place is damage, and skipped; what is broken
 * after it was never promised, and the ring ends there.
 * --------------------------------------------------------------------------------------------- */
#ifndef MSC4203_NO_LOG

/* The processor's own CRC-32C. */
#if !defined(MSC4203_NO_SIMD) && defined(__SSE4_2__) && defined(__x86_64__)
#include <nmmintrin.h>
#define LOG_CRC_WORD(crc, word) ((uint32_t)_mm_crc32_u64(crc, word))
#define LOG_CRC_BYTE(crc, byte) _mm_crc32_u8(crc, byte)
#elif !defined(MSC4203_NO_SIMD) && defined(__ARM_FEATURE_CRC32) && !defined(__ARM_BIG_ENDIAN)
#include <arm_acle.h>
#define LOG_CRC_WORD(crc, word) __crc32cd(crc, word)
#define LOG_CRC_BYTE(crc, byte) __crc32cb(crc, byte)
#endif

enum {
    LOG_HEADER = 24,        /* words of an image's header */
    LOG_FIXED = 60,         /* bytes of a message before its links */
    LOG_PAIRS = 128,        /* that a journal record holds */
    LOG_JOURNAL = 3 + LOG_PAIRS, /* units of the longest journal record */
    LOG_BATCHES = 32,
    LOG_RECORD_MAX = 4096,
    LOG_NAME_MAX = 255,
    LOG_SKIP = 1 << 20      /* numbers that no opening gives out, for those that a crash took */
};

enum { LOG_MESSAGE = 1, LOG_COPY = 2, LOG_PAIRS_OF = 3, LOG_CHANNEL = 4, LOG_FILLER = 5 };

/* The index: words that the images hold, then those of memory alone. */
enum log_words {
    LOG_NEXT = 0,     /* the next number, 2 words */
    LOG_LIVE = 2,     /* units that messages and channel records take */
    LOG_REQUEST = 3,  /* where the next request is remembered */
    LOG_OPENING = 4,  /* where the next opening is */
    LOG_MESSAGES = 5, /* how many */
    LOG_USED = 6,     /* devices that have ever been in use at a time */
    LOG_TIME = 7,     /* the newest with which a message was accepted, in units of 1,024 ms */
    LOG_CHANNEL_0 = 8,
    /* of a channel or a device: its chain, and what waits there */
    CHAIN_FIRST = 0, CHAIN_LAST = 1, CHAIN_COUNT = 8, CHAIN_UNITS = 9,
    /* of a channel */
    CHANNEL_NUMBER = 2, /* of its first message, 2 words */
    CHANNEL_DONE = 4,   /* taken out up to this, 2 words */
    CHANNEL_HELD = 6,   /* in flight up to this, 2 words */
    CHANNEL_RECORD = 10, CHANNEL_RECORD_UNITS = 11, CHANNEL_WORDS = 12,
    /* of a device: its chain is of what waits for its /sync, counted is what waits for it at all */
    DEVICE_HASH = 2,    /* 2 words */
    DEVICE_SYNCED = 4,  /* /sync has had them up to this, 2 words */
    DEVICE_DROP = 6,    /* dropped up to this, but for what is in flight, 2 words */
    DEVICE_WORDS = 10,
    LOG_OPENINGS = LOG_CHANNEL_0 + MSC4203_CHANNELS * CHANNEL_WORDS, /* 4 words each */
    /* then requests, 4 words each; then devices; in memory alone, of each device: */
    MEMORY_DEVICE = 2,  /* units in open batches; next of the same bucket, or free */
    /* of a batch */
    BATCH_OPEN = 0, BATCH_FIRST = 1, BATCH_LAST = 2, BATCH_COUNT = 3, BATCH_NEED = 4,
    BATCH_WORDS = 5,
    CURSOR_WORDS = 4    /* of next(): position, number, moves */
};

enum { LINK_NEXT = 0, LINK_PREVIOUS = 1 };
#define LOG_IN_RING 0x80000000u

/* What is fixed of a record, as it stands in the ring; then where it is, and parts of the first
 * words. */
struct log_message {
    uint32_t head, about, body, crc, from, length[2];
    uint32_t number_words[2], time[2], hash[2], set, waiting;
    uint32_t at, units, type;
    uint64_t number;
};

/* ---- bytes and checksums ---- */

/* Between the machine's order of bytes and the ring's: where these are the same, a copy. */
MSC4203_PRIVATE void log_swap(uint32_t *words, uint32_t count)
{
    unsigned char b[4];

    for (; count != 0; count--, words++) {
        memcpy(b, words, 4);
        *words = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
    }
}

/* The word of 4 bytes, lowest first. */
MSC4203_PRIVATE uint32_t log_get(const void *bytes)
{
    uint32_t word;

    memcpy(&word, bytes, 4);
    log_swap(&word, 1);
    return word;
}

/* What a number of bytes of zeros make of each half of a byte of the CRC before them. */
#ifdef LOG_CRC_WORD
enum { LOG_LANE = 112 }; /* bytes: three of them, three times, are a message of 1 KiB */
static const uint32_t log_zeros_behind[8][16] = {
    {0x00000000u, 0x2AD91C30u, 0x55B23860u, 0x7F6B2450u, 0xAB6470C0u, 0x81BD6CF0u,
     0xFED648A0u, 0xD40F5490u, 0x53249771u, 0x79FD8B41u, 0x0696AF11u, 0x2C4FB321u,
     0xF840E7B1u, 0xD299FB81u, 0xADF2DFD1u, 0x872BC3E1u},
    {0x00000000u, 0xA6492EE2u, 0x497E2B35u, 0xEF3705D7u, 0x92FC566Au, 0x34B57888u,
     0xDB827D5Fu, 0x7DCB53BDu, 0x2014DA25u, 0x865DF4C7u, 0x696AF110u, 0xCF23DFF2u,
     0xB2E88C4Fu, 0x14A1A2ADu, 0xFB96A77Au, 0x5DDF8998u},
    {0x00000000u, 0x4029B44Au, 0x80536894u, 0xC07ADCDEu, 0x054AA7D9u, 0x45631393u,
     0x8519CF4Du, 0xC5307B07u, 0x0A954FB2u, 0x4ABCFBF8u, 0x8AC62726u, 0xCAEF936Cu,
     0x0FDFE86Bu, 0x4FF65C21u, 0x8F8C80FFu, 0xCFA534B5u},
    {0x00000000u, 0x152A9F64u, 0x2A553EC8u, 0x3F7FA1ACu, 0x54AA7D90u, 0x4180E2F4u,
     0x7EFF4358u, 0x6BD5DC3Cu, 0xA954FB20u, 0xBC7E6444u, 0x8301C5E8u, 0x962B5A8Cu,
     0xFDFE86B0u, 0xE8D419D4u, 0xD7ABB878u, 0xC281271Cu},
    {0x00000000u, 0x574580B1u, 0xAE8B0162u, 0xF9CE81D3u, 0x58FA7435u, 0x0FBFF484u,
     0xF6717557u, 0xA134F5E6u, 0xB1F4E86Au, 0xE6B168DBu, 0x1F7FE908u, 0x483A69B9u,
     0xE90E9C5Fu, 0xBE4B1CEEu, 0x47859D3Du, 0x10C01D8Cu},
    {0x00000000u, 0x6605A625u, 0xCC0B4C4Au, 0xAA0EEA6Fu, 0x9DFAEE65u, 0xFBFF4840u,
     0x51F1A22Fu, 0x37F4040Au, 0x3E19AA3Bu, 0x581C0C1Eu, 0xF212E671u, 0x94174054u,
     0xA3E3445Eu, 0xC5E6E27Bu, 0x6FE80814u, 0x09EDAE31u},
    {0x00000000u, 0x7C335476u, 0xF866A8ECu, 0x8455FC9Au, 0xF5212729u, 0x8912735Fu,
     0x0D478FC5u, 0x7174DBB3u, 0xEFAE38A3u, 0x939D6CD5u, 0x17C8904Fu, 0x6BFBC439u,
     0x1A8F1F8Au, 0x66BC4BFCu, 0xE2E9B766u, 0x9EDAE310u},
    {0x00000000u, 0xDAB007B7u, 0xB08C799Fu, 0x6A3C7E28u, 0x64F485CFu, 0xBE448278u,
     0xD478FC50u, 0x0EC8FBE7u, 0xC9E90B9Eu, 0x13590C29u, 0x79657201u, 0xA3D575B6u,
     0xAD1D8E51u, 0x77AD89E6u, 0x1D91F7CEu, 0xC721F079u}
};
#elif !defined(__OPTIMIZE_SIZE__)
enum { LOG_LANE = 4 };
static const uint32_t log_zeros_behind[8][16] = {
    {0x00000000u, 0xDD45AAB8u, 0xBF672381u, 0x62228939u, 0x7B2231F3u, 0xA6679B4Bu,
     0xC4451272u, 0x1900B8CAu, 0xF64463E6u, 0x2B01C95Eu, 0x49234067u, 0x9466EADFu,
     0x8D665215u, 0x5023F8ADu, 0x32017194u, 0xEF44DB2Cu},
    {0x00000000u, 0xE964B13Du, 0xD725148Bu, 0x3E41A5B6u, 0xABA65FE7u, 0x42C2EEDAu,
     0x7C834B6Cu, 0x95E7FA51u, 0x52A0C93Fu, 0xBBC47802u, 0x8585DDB4u, 0x6CE16C89u,
     0xF90696D8u, 0x106227E5u, 0x2E238253u, 0xC747336Eu},
    {0x00000000u, 0xA541927Eu, 0x4F6F520Du, 0xEA2EC073u, 0x9EDEA41Au, 0x3B9F3664u,
     0xD1B1F617u, 0x74F06469u, 0x38513EC5u, 0x9D10ACBBu, 0x773E6CC8u, 0xD27FFEB6u,
     0xA68F9ADFu, 0x03CE08A1u, 0xE9E0C8D2u, 0x4CA15AACu},
    {0x00000000u, 0x70A27D8Au, 0xE144FB14u, 0x91E6869Eu, 0xC76580D9u, 0xB7C7FD53u,
     0x26217BCDu, 0x56830647u, 0x8B277743u, 0xFB850AC9u, 0x6A638C57u, 0x1AC1F1DDu,
     0x4C42F79Au, 0x3CE08A10u, 0xAD060C8Eu, 0xDDA47104u},
    {0x00000000u, 0x13A29877u, 0x274530EEu, 0x34E7A899u, 0x4E8A61DCu, 0x5D28F9ABu,
     0x69CF5132u, 0x7A6DC945u, 0x9D14C3B8u, 0x8EB65BCFu, 0xBA51F356u, 0xA9F36B21u,
     0xD39EA264u, 0xC03C3A13u, 0xF4DB928Au, 0xE7790AFDu},
    {0x00000000u, 0x3FC5F181u, 0x7F8BE302u, 0x404E1283u, 0xFF17C604u, 0xC0D23785u,
     0x809C2506u, 0xBF59D487u, 0xFBC3FAF9u, 0xC4060B78u, 0x844819FBu, 0xBB8DE87Au,
     0x04D43CFDu, 0x3B11CD7Cu, 0x7B5FDFFFu, 0x449A2E7Eu},
    {0x00000000u, 0xF26B8303u, 0xE13B70F7u, 0x1350F3F4u, 0xC79A971Fu, 0x35F1141Cu,
     0x26A1E7E8u, 0xD4CA64EBu, 0x8AD958CFu, 0x78B2DBCCu, 0x6BE22838u, 0x9989AB3Bu,
     0x4D43CFD0u, 0xBF284CD3u, 0xAC78BF27u, 0x5E133C24u},
    {0x00000000u, 0x105EC76Fu, 0x20BD8EDEu, 0x30E349B1u, 0x417B1DBCu, 0x5125DAD3u,
     0x61C69362u, 0x7198540Du, 0x82F63B78u, 0x92A8FC17u, 0xA24BB5A6u, 0xB21572C9u,
     0xC38D26C4u, 0xD3D3E1ABu, 0xE330A81Au, 0xF36E6F75u}
};
#endif

#if defined(LOG_CRC_WORD) || !defined(__OPTIMIZE_SIZE__)
/* The CRC behind LOG_LANE bytes of zeros. */
MSC4203_PRIVATE uint32_t log_ahead(uint32_t crc)
{
    const uint32_t (*const table)[16] = log_zeros_behind;

    return table[0][crc & 15] ^ table[1][crc >> 4 & 15] ^ table[2][crc >> 8 & 15] ^
           table[3][crc >> 12 & 15] ^ table[4][crc >> 16 & 15] ^ table[5][crc >> 20 & 15] ^
           table[6][crc >> 24 & 15] ^ table[7][crc >> 28];
}
#endif

#ifdef LOG_CRC_WORD
MSC4203_PRIVATE uint64_t log_word_at(const unsigned char *p)
{
    uint64_t word;

    memcpy(&word, p, 8);
    return word;
}

MSC4203_APART uint32_t log_crc(uint32_t crc, const void *data, size_t bytes)
{
    const unsigned char *p = (const unsigned char *)data, *end = bytes != 0 ? p + bytes : p;

    /* The next word needs the CRC of the one before, and the machine could do three in that time:
     * so three stretches at once, each from 0 but the first, are then joined. */
    for (; end - p >= 3 * LOG_LANE; p += 3 * LOG_LANE) {
        uint32_t second = 0, third = 0, i;

        for (i = 0; i < LOG_LANE; i += 8) {
            crc = LOG_CRC_WORD(crc, log_word_at(p + i));
            second = LOG_CRC_WORD(second, log_word_at(p + LOG_LANE + i));
            third = LOG_CRC_WORD(third, log_word_at(p + 2 * LOG_LANE + i));
        }
        crc = log_ahead(log_ahead(crc) ^ second) ^ third;
    }
    for (; end - p >= 8; p += 8)
        crc = LOG_CRC_WORD(crc, log_word_at(p));
    for (; p != end; p++)
        crc = LOG_CRC_BYTE(crc, *p);
    return crc;
}
#else
MSC4203_APART uint32_t log_crc(uint32_t crc, const void *data, size_t bytes)
{
    static const uint32_t half[16] = {
        0x00000000u, 0x105EC76Fu, 0x20BD8EDEu, 0x30E349B1u, 0x417B1DBCu, 0x5125DAD3u,
        0x61C69362u, 0x7198540Du, 0x82F63B78u, 0x92A8FC17u, 0xA24BB5A6u, 0xB21572C9u,
        0xC38D26C4u, 0xD3D3E1ABu, 0xE330A81Au, 0xF36E6F75u
    };
    const unsigned char *p = (const unsigned char *)data, *end = bytes != 0 ? p + bytes : p;

#ifndef __OPTIMIZE_SIZE__
    for (; end - p >= LOG_LANE; p += LOG_LANE)
        crc = log_ahead(crc ^ log_get(p));
#endif
    for (; p != end; p++) {
        crc ^= *p;
        crc = crc >> 4 ^ half[crc & 15];
        crc = crc >> 4 ^ half[crc & 15];
    }
    return crc;
}
#endif

/* The digest of the user id's length and both ids, keyed with what the log was made with: nobody
 * can choose ids that meet. */
MSC4203_PRIVATE void log_hash(const struct msc4203_log_state *s, const msc4203_span *user,
                              const msc4203_span *device, uint32_t hash[2])
{
    msc4203_digest digest;
    unsigned char bytes[16];
    uint32_t length = (uint32_t)user->len;

    log_swap(&length, 1);
    msc4203_digest_init(&digest, s->key[0] | (uint64_t)s->key[1] << 32);
    msc4203_digest_add(&digest, &length, 4);
    msc4203_digest_add(&digest, user->ptr, user->len);
    msc4203_digest_add(&digest, device->ptr, device->len);
    msc4203_digest_end(&digest, bytes);
    hash[0] = log_get(bytes);
    hash[1] = log_get(bytes + 4);
}

/* ---- the storage ---- */

/* After a failure nothing more is written until the log is opened anew. */
MSC4203_APART void log_read(struct msc4203_log_state *s, uint64_t at, void *data, size_t bytes)
{
    if (bytes == 0)
        return;
    if (s->storage->memory != NULL) {
        memcpy(data, s->storage->memory + at, bytes);
    } else if (s->storage->read(s->storage->context, at, data, bytes) != 0) {
        memset(data, 0, bytes);
        s->error = 1;
    }
}

MSC4203_APART void log_write(struct msc4203_log_state *s, uint64_t at, const void *data,
                             size_t bytes)
{
    if (s->error || bytes == 0)
        return;
    if (s->storage->memory != NULL)
        memcpy(s->storage->memory + at, data, bytes);
    else if (s->storage->write(s->storage->context, at, data, bytes) != 0)
        s->error = 1;
}

MSC4203_PRIVATE void log_sync(struct msc4203_log_state *s)
{
    if (!s->error && s->storage->sync != NULL && s->storage->sync(s->storage->context) != 0)
        s->error = 1;
}

MSC4203_PRIVATE uint64_t log_at(const struct msc4203_log_state *s, uint32_t at)
{
    return s->ring_at + (uint64_t)(at - 1) * 8;
}

/* A place counts units from the ring's beginning in its first round on, modulo 2^32. */
MSC4203_PRIVATE uint32_t log_place(const struct msc4203_log_state *s, uint32_t unit)
{
    uint32_t place = s->base + unit;
    return unit < s->end - s->base ? place : place - s->units;
}

MSC4203_PRIVATE uint32_t log_unit(const struct msc4203_log_state *s, uint32_t place)
{
    uint32_t unit = place - s->base;
    return unit < s->units ? unit : unit + s->units;
}

MSC4203_PRIVATE int log_before(uint32_t place, uint32_t other)
{
    return place - other >= LOG_IN_RING;
}

MSC4203_PRIVATE uint32_t log_free(const struct msc4203_log_state *s)
{
    return s->units - (s->end - s->safe);
}

/* The place behind `units` units, where a record may begin. */
MSC4203_PRIVATE uint32_t log_behind(const struct msc4203_log_state *s, uint32_t place,
                                    uint32_t units)
{
    uint32_t rest = s->base - (place += units);

    if (rest >= LOG_IN_RING) /* of this round */
        rest += s->units;
    return rest < 2 ? place + rest : place;
}

/* Sets the ring's end to a place, at most a round away. */
MSC4203_PRIVATE void log_end_at(struct msc4203_log_state *s, uint32_t place)
{
    s->end = place;
    if (place - s->base >= s->units)
        s->base += log_before(place, s->base) ? 0 - s->units : s->units;
}

/* ---- words of the index ---- */

MSC4203_PRIVATE uint32_t log_device_words(const struct msc4203_log_state *s, uint32_t device)
{
    return s->device_at + DEVICE_WORDS * device;
}

MSC4203_PRIVATE uint32_t log_channel_words(uint32_t channel)
{
    return LOG_CHANNEL_0 + CHANNEL_WORDS * channel;
}

/* In memory alone. */
MSC4203_PRIVATE uint32_t *log_device_memory(const struct msc4203_log_state *s, uint32_t device)
{
    return s->word + s->memory_at + MEMORY_DEVICE * device;
}

MSC4203_PRIVATE uint32_t *log_device_bucket(const struct msc4203_log_state *s, uint32_t hash)
{
    return log_device_memory(s, s->devices) + (hash & s->device_mask);
}

MSC4203_PRIVATE uint32_t *log_request_memory(const struct msc4203_log_state *s)
{
    return log_device_bucket(s, s->device_mask) + 1;
}

MSC4203_PRIVATE uint32_t *log_request_bucket(const struct msc4203_log_state *s, uint32_t hash)
{
    return log_request_memory(s) + s->requests + (hash & s->request_mask);
}

/* A journal record in the making; when there is none, room for anything. */
MSC4203_PRIVATE uint32_t *log_buffer(const struct msc4203_log_state *s)
{
    return log_request_bucket(s, s->request_mask) + 1;
}

enum { LOG_BUFFER = 8 * LOG_JOURNAL };

MSC4203_PRIVATE uint32_t *log_batch(const struct msc4203_log_state *s, uint32_t batch)
{
    return log_buffer(s) + 2 * LOG_JOURNAL + BATCH_WORDS * batch;
}

/* Units in open batches, by channel. */
MSC4203_PRIVATE uint32_t *log_channel_memory(const struct msc4203_log_state *s)
{
    return log_batch(s, LOG_BATCHES);
}

MSC4203_PRIVATE uint32_t *log_cursor(const struct msc4203_log_state *s, uint32_t channel)
{
    return log_channel_memory(s) + MSC4203_CHANNELS + CURSOR_WORDS * channel;
}

MSC4203_PRIVATE uint64_t log_word64(const struct msc4203_log_state *s, uint32_t at)
{
    return s->word[at] | (uint64_t)s->word[at + 1] << 32;
}

/* ---- records ---- */

/* Bytes of a record before its links, or its body. */
MSC4203_PRIVATE uint32_t log_fixed(uint32_t type)
{
    return type <= LOG_COPY ? (uint32_t)LOG_FIXED : type == LOG_CHANNEL ? 24u : 16u;
}

/* The checksum of what is fixed, in the ring's order of bytes. */
MSC4203_PRIVATE uint32_t log_fixed_crc(const struct msc4203_log_state *s, uint32_t place,
                                       const uint32_t *words, uint32_t type)
{
    uint32_t crc;

    log_swap(&place, 1);
    crc = log_crc(log_crc(s->salt, &place, 4), words, 12);
    return log_crc(crc, words + 4, log_fixed(type) - 16);
}

MSC4203_PRIVATE uint32_t log_pad(const struct log_message *m)
{
    return m->about >> 16 & 7;
}

MSC4203_PRIVATE uint32_t log_flags(const struct log_message *m)
{
    return m->about >> 24;
}

/* Of the lengths of its strings, the `i`th. */
MSC4203_PRIVATE uint32_t log_length(const struct log_message *m, unsigned i)
{
    return m->length[i >> 1] >> 16 * (i & 1) & 0xFFFF;
}

MSC4203_PRIVATE uint64_t log_time(const struct log_message *m)
{
    return m->time[0] | (uint64_t)m->time[1] << 32;
}

/* Of a message: which of its links is a channel's. */
MSC4203_PRIVATE uint32_t log_slot(uint32_t set, uint32_t channel)
{
    uint32_t slot = 1;

    if (channel == 0)
        return 0;
    set &= ((uint32_t)2 << (channel - 1)) - 2; /* those before it, but /sync */
    for (; set != 0; set &= set - 1)
        slot++;
    return slot;
}

/* Units that its links take. */
MSC4203_PRIVATE uint32_t log_links(uint32_t set)
{
    return log_slot(set, MSC4203_CHANNELS);
}

/* Whether what a record says of its parts fits into it. */
MSC4203_PRIVATE int log_is_sound(const struct log_message *m)
{
    uint32_t bytes = log_fixed(m->type) + log_pad(m);

    if (m->type <= LOG_COPY)
        bytes += 8 * log_links(m->set) + log_length(m, 2) + log_length(m, 3);
    if (m->type <= LOG_COPY || m->type == LOG_CHANNEL)
        bytes += log_length(m, 0) + log_length(m, 1);
    return bytes <= m->units * 8 && (m->type != LOG_CHANNEL || log_length(m, 0) <= LOG_NAME_MAX);
}

/* Reads what is fixed of a record. Returns its type, or 0 when there is no valid one. */
MSC4203_APART uint32_t log_load_at(struct msc4203_log_state *s, uint32_t place,
                                   struct log_message *m)
{
    uint32_t unit = log_unit(s, place), room = s->units - unit, bytes, crc;

    m->at = unit + 1;
    m->type = 0;
    if (room - 2 > s->units - 2)
        return 0;
    bytes = room < 8 ? room * 8 : (uint32_t)LOG_FIXED;
    log_read(s, log_at(s, m->at), m, bytes);
    log_swap(&m->head, 1);
    m->type = m->head >> 24;
    m->units = m->head & 0xFFFFFF;
    log_swap(&m->head, 1);
    if (m->type - 1 < LOG_FILLER && m->units >= 2 && m->units <= room &&
        log_fixed(m->type) <= bytes &&
        (m->type != LOG_PAIRS_OF || m->units - 3 <= LOG_PAIRS)) {
        crc = log_fixed_crc(s, place, &m->head, m->type);
        log_swap(&m->head, LOG_FIXED / 4);
        m->number = m->number_words[0] | (uint64_t)m->number_words[1] << 32;
        if (crc == m->crc && log_is_sound(m))
            return m->type;
    }
    m->type = 0;
    return 0;
}

/* Reads what is fixed of a message. Returns 0 when there is no valid one. */
MSC4203_PRIVATE int log_load(struct msc4203_log_state *s, uint32_t at, struct log_message *m)
{
    return at - 1 < s->units && log_load_at(s, log_place(s, at - 1), m) != 0 &&
           m->type <= LOG_COPY;
}

/* Works out a record's first words and checksum. */
MSC4203_APART void log_seal(struct msc4203_log_state *s, struct log_message *m)
{
    uint32_t crc;

    m->head = m->units | m->type << 24;
    m->number_words[0] = (uint32_t)m->number;
    m->number_words[1] = (uint32_t)(m->number >> 32);
    log_swap(&m->head, LOG_FIXED / 4);
    crc = log_fixed_crc(s, log_place(s, m->at - 1), &m->head, m->type);
    log_swap(&m->head, LOG_FIXED / 4);
    m->crc = crc;
}

/* Writes what is fixed of a record. */
MSC4203_PRIVATE void log_store(struct msc4203_log_state *s, struct log_message *m)
{
    log_seal(s, m);
    log_swap(&m->head, LOG_FIXED / 4);
    log_write(s, log_at(s, m->at), m, log_fixed(m->type));
    log_swap(&m->head, LOG_FIXED / 4);
}

/* Takes room for a record at the ring's end. */
MSC4203_APART uint32_t log_append(struct msc4203_log_state *s, uint32_t units)
{
    uint32_t at = s->end - s->base, rest = s->units - at;

    if (units > rest) {
        struct log_message filler;

        memset(&filler, 0, sizeof filler);
        filler.at = at + 1;
        filler.units = rest;
        filler.type = LOG_FILLER;
        filler.about = s->epoch & 0xFFFF;
        s->end += rest;
        log_store(s, &filler);
        s->base = s->end;
        at = 0;
    }
    s->end = log_behind(s, s->end, units);
    log_end_at(s, s->end);
    s->dirty = 1;
    return at + 1;
}

/* Where a record's body begins, in bytes from the region's beginning, and how long it is. */
MSC4203_APART uint64_t log_body(const struct msc4203_log_state *s, const struct log_message *m,
                                uint32_t *bytes)
{
    uint32_t skip = log_fixed(m->type);

    if (m->type <= LOG_COPY)
        skip += 8 * log_links(m->set);
    *bytes = m->units * 8 - skip - log_pad(m);
    return log_at(s, m->at) + skip;
}

/* Copies bytes in the ring by way of the buffer, or, where there is no index, as in
 * msc4203_log_scan(), of a few bytes of stack; only reads them when `to` is 0. Returns their
 * checksum. */
MSC4203_APART uint32_t log_transfer(struct msc4203_log_state *s, uint64_t from, uint64_t to,
                                    uint32_t bytes)
{
    uint32_t few[8], *b = few, most = sizeof few, n, crc = s->salt;

    if (s->word != NULL) {
        b = log_buffer(s);
        most = LOG_BUFFER;
    }
    for (; bytes != 0; bytes -= n, from += n) {
        n = bytes < most ? bytes : most;
        log_read(s, from, b, n);
        crc = log_crc(crc, b, n);
        if (to != 0) {
            log_write(s, to, b, n);
            to += n;
        }
    }
    return crc;
}

/* ---- the journal ---- */

/* Writes down the pairs so far; `last` makes the operation count. */
MSC4203_APART void log_journal(struct msc4203_log_state *s, uint32_t last)
{
    uint32_t *b = log_buffer(s), words = 2 * ((uint32_t)s->pairs + 3);
    uint32_t at = log_append(s, words / 2);

    b[0] = words / 2 | (uint32_t)LOG_PAIRS_OF << 24;
    b[1] = (s->epoch & 0xFFFF) | last << 24;
    b[4] = s->durable;
    b[5] = s->firm;
    log_swap(b, words);
    b[2] = log_crc(s->salt, b + 4, words * 4 - 16);
    log_swap(b + 2, 1);
    b[3] = log_fixed_crc(s, log_place(s, at - 1), b, LOG_PAIRS_OF);
    log_swap(b + 3, 1);
    log_write(s, log_at(s, at), b, words * 4);
    s->pairs = 0;
    s->parts = !last;
}

MSC4203_PRIVATE void log_note(struct msc4203_log_state *s, uint32_t address, uint32_t value)
{
    uint8_t *hint = &s->hint[address % sizeof s->hint];
    uint32_t *pair;

    if (s->healing)
        return;
    pair = log_buffer(s) + 6 + 2 * (uint32_t)*hint;
    if (*hint < s->pairs && pair[0] == address) { /* what is counted changes again and again */
        pair[1] = value;
        return;
    }
    if (s->pairs == LOG_PAIRS)
        log_journal(s, 0);
    pair = log_buffer(s) + 6 + 2 * (uint32_t)s->pairs;
    pair[0] = address;
    pair[1] = value;
    *hint = (uint8_t)s->pairs++;
}

MSC4203_APART void log_set(struct msc4203_log_state *s, uint32_t word, uint32_t value)
{
    if (s->word[word] == value)
        return;
    s->word[word] = value;
    log_note(s, word, value);
}

MSC4203_PRIVATE void log_add(struct msc4203_log_state *s, uint32_t word, uint32_t by)
{
    log_set(s, word, s->word[word] + by);
}

MSC4203_APART void log_set_word64(struct msc4203_log_state *s, uint32_t word, uint64_t value)
{
    log_set(s, word, (uint32_t)value);
    log_set(s, word + 1, (uint32_t)(value >> 32));
}

/* Ends an operation. */
MSC4203_PRIVATE void log_end(struct msc4203_log_state *s)
{
    if (s->pairs != 0)
        log_journal(s, 1);
}

/* Cells are the ring's 4-byte words, addressed from its beginning. */
MSC4203_APART uint32_t log_link(const struct log_message *m, uint32_t channel, uint32_t which)
{
    return (m->at - 1) * 2 + LOG_FIXED / 4 + 2 * log_slot(m->set, channel) + which;
}

MSC4203_APART uint32_t log_cell(struct msc4203_log_state *s, uint32_t cell)
{
    const uint32_t *first = log_buffer(s) + 6, *pair = first + 2 * s->pairs;
    uint32_t word;

    cell = cell < s->units * 2 ? cell : 0; /* unreachable: a sound record's links are in it */
    while (s->stale && pair != first)
        if (*(pair -= 2) == (cell | LOG_IN_RING))
            return pair[1];
    log_read(s, s->ring_at + (uint64_t)cell * 4, &word, 4);
    log_swap(&word, 1);
    return word;
}

MSC4203_APART void log_cell_write(struct msc4203_log_state *s, uint32_t cell, uint32_t value)
{
    log_swap(&value, 1);
    if (cell < s->units * 2) /* unreachable: else; pairs, too, have been looked at */
        log_write(s, s->ring_at + (uint64_t)cell * 4, &value, 4);
}

/* Changes a cell: `now`, or after the journal is durable. What is not durable itself can be changed
 * now, whatever it is. */
MSC4203_APART void log_put(struct msc4203_log_state *s, uint32_t cell, uint32_t value, int now)
{
    uint32_t place = log_place(s, cell / 2);

    log_note(s, cell | LOG_IN_RING, value);
    if (now || !log_before(place, s->durable))
        log_cell_write(s, cell, value);
    else
        s->stale = 1;
}

/* Writes two words of a message, which have changed, and with them its checksum. */
MSC4203_APART void log_put_words(struct msc4203_log_state *s, struct log_message *m,
                                 const uint32_t *words)
{
    uint32_t cell = (m->at - 1) * 2, changed = cell + (uint32_t)(words - &m->head);

    log_seal(s, m);
    log_put(s, cell + 3, m->crc, 0);
    log_put(s, changed, words[0], 0);
    log_put(s, changed + 1, words[1], 0);
}

/* Writes the cells of the journal from `place` on to `end`; or, opening, changes the words of the
 * index too, and only cells that may not be durable. */
MSC4203_APART void log_apply(struct msc4203_log_state *s, uint32_t place, uint32_t end, int opening)
{
    struct log_message m;

    while (log_before(place, end) && log_load_at(s, place, &m) != 0) {
        const uint32_t *pair = log_buffer(s) + 6, *stop = log_buffer(s) + 2 * m.units;

        if (m.type == LOG_PAIRS_OF) {
            log_read(s, log_at(s, m.at), log_buffer(s), m.units * 8);
            log_swap(log_buffer(s), m.units * 2);
            for (; pair != stop; pair += 2)
                if (pair[0] < s->memory_at && opening)
                    s->word[pair[0]] = pair[1];
                else if (pair[0] - LOG_IN_RING < s->units * 2 &&
                         (!opening || !log_before(place, s->firm)))
                    log_cell_write(s, pair[0] - LOG_IN_RING, pair[1]);
        }
        place = log_behind(s, place, m.units);
    }
}

/* Makes everything so far durable. */
MSC4203_APART void log_flush(struct msc4203_log_state *s)
{
    uint32_t end, before = s->durable;

    log_end(s);
    if (!s->dirty || s->error)
        return;
    end = s->end;
    log_sync(s);
    if (s->error)
        return;
    s->durable = s->firm = end;
    if (s->stale) {
        log_apply(s, before, end, 0);
        s->firm = before;
    }
    s->stale = 0;
    log_journal(s, 1); /* tells that this was durable; its own turn comes with the next */
    s->dirty = 0;
}

/* Counts a record that can't be read, if it is not that nothing can. */
MSC4203_PRIVATE void log_damage(struct msc4203_log_state *s)
{
    s->damaged += !s->error;
}

/* ---- devices, chains ---- */

/* Returns the device with this hash, plus 1; 0 when there is none. */
MSC4203_PRIVATE uint32_t log_device(const struct msc4203_log_state *s, const uint32_t hash[2])
{
    uint32_t device = *log_device_bucket(s, hash[0]);

    while (device != 0) {
        const uint32_t *d = s->word + log_device_words(s, device - 1);
        if (d[DEVICE_HASH] == hash[0] && d[DEVICE_HASH + 1] == hash[1])
            break;
        device = log_device_memory(s, device - 1)[1];
    }
    return device;
}

/* Tells whether a device (plus 1) has messages. */
MSC4203_PRIVATE int log_is_used(const struct msc4203_log_state *s, uint32_t device)
{
    return device != 0 && s->word[log_device_words(s, device - 1) + CHAIN_COUNT] != 0;
}

/* The same, where the device is made when there is none; 0 when all are in use. */
MSC4203_PRIVATE uint32_t log_device_make(struct msc4203_log_state *s, const uint32_t hash[2])
{
    uint32_t device = log_device(s, hash), *memory, *bucket;

    if (device != 0 || s->free_device == 0)
        return device;
    device = s->free_device;
    memory = log_device_memory(s, device - 1);
    bucket = log_device_bucket(s, hash[0]);
    s->free_device = memory[1];
    memory[0] = 0;
    memory[1] = *bucket;
    *bucket = device;
    memset(s->word + log_device_words(s, device - 1), 0, DEVICE_WORDS * sizeof(uint32_t));
    s->word[log_device_words(s, device - 1) + DEVICE_HASH] = hash[0];
    s->word[log_device_words(s, device - 1) + DEVICE_HASH + 1] = hash[1];
    return device;
}

/* Gives back a device that has no messages. */
MSC4203_PRIVATE void log_device_free(struct msc4203_log_state *s, uint32_t device)
{
    uint32_t w = log_device_words(s, device - 1), *memory = log_device_memory(s, device - 1);
    uint32_t *at = log_device_bucket(s, s->word[w + DEVICE_HASH]);

    if (s->word[w + CHAIN_COUNT] != 0 || memory[0] != 0)
        return;
    while (*at != device) /* it was found there */
        at = &log_device_memory(s, *at - 1)[1];
    *at = memory[1];
    memory[1] = s->free_device;
    s->free_device = device;
}

/* Tells whether a set has a channel from `channel` on. */
MSC4203_PRIVATE int log_has_more(uint32_t set, uint32_t channel)
{
    return channel < MSC4203_CHANNELS && set >> channel != 0;
}

/* For which channels a message waits. */
MSC4203_PRIVATE uint32_t log_waiting(const struct msc4203_log_state *s,
                                     const struct log_message *m)
{
    uint32_t set = m->waiting & m->set, c;

    for (c = 1; log_has_more(set, c); c++) {
        uint32_t w = log_channel_words(c);
        if ((set >> c & 1) != 0 && (s->word[w + CHAIN_LAST] == 0 ||
                                    m->number < log_word64(s, w + CHANNEL_NUMBER)))
            set &= ~((uint32_t)1 << c);
    }
    if (set & 1) {
        uint32_t device = log_device(s, m->hash), w = log_device_words(s, device - 1);
        if (device == 0 || s->word[w + CHAIN_LAST] == 0 ||
            m->number <= log_word64(s, w + DEVICE_SYNCED))
            set &= ~(uint32_t)1;
    }
    return set;
}

/* The chains are known by their words in the index: of a device (channel 0) or of a channel. */
MSC4203_PRIVATE int log_is_in(const struct msc4203_log_state *s, const struct log_message *m,
                              uint32_t channel, uint32_t w)
{
    return channel != 0 ? (m->set >> channel & 1) != 0
                        : m->hash[0] == s->word[w + DEVICE_HASH] &&
                              m->hash[1] == s->word[w + DEVICE_HASH + 1];
}

/* Adds a message to a chain. `known`: where what is likely to be the last there is, and its set. */
MSC4203_APART void log_chain_add(struct msc4203_log_state *s, const struct log_message *m,
                                 uint32_t channel, uint32_t w, const uint32_t known[2])
{
    uint32_t last = s->word[w + CHAIN_LAST];
    struct log_message before;

    log_put(s, log_link(m, channel, LINK_PREVIOUS), last, 1);
    before.at = last;
    before.set = known[1];
    if (last == 0)
        log_set(s, w + CHAIN_FIRST, m->at);
    else if (channel == 0 || last == known[0] || log_load(s, last, &before))
        log_put(s, log_link(&before, channel, LINK_NEXT), m->at, 1);
    else
        log_damage(s); /* found again, and mended, when it is to be read */
    log_set(s, w + CHAIN_LAST, m->at);
}

/* Takes a message out of a chain. */
MSC4203_APART void log_chain_remove(struct msc4203_log_state *s, const struct log_message *m,
                                    uint32_t channel, uint32_t w)
{
    struct log_message other;
    uint32_t previous = 0, next = 0;

    if (m->at != s->word[w + CHAIN_FIRST])
        previous = log_cell(s, log_link(m, channel, LINK_PREVIOUS));
    if (m->at != s->word[w + CHAIN_LAST])
        next = log_cell(s, log_link(m, channel, LINK_NEXT));
    if (previous == 0)
        log_set(s, w + CHAIN_FIRST, next);
    else if (log_load(s, previous, &other))
        log_put(s, log_link(&other, channel, LINK_NEXT), next, 0);
    if (next == 0)
        log_set(s, w + CHAIN_LAST, previous);
    else if (previous != 0 && log_load(s, next, &other))
        log_put(s, log_link(&other, channel, LINK_PREVIOUS), previous, 0);
    if (previous == 0 && channel == 0) {
        log_set_word64(s, w + DEVICE_SYNCED, m->number);
    } else if (previous == 0) {
        uint64_t number = m->number + 1;
        if (next != 0 && log_load(s, next, &other) && other.number != 0)
            number = other.number;
        log_set_word64(s, w + CHANNEL_NUMBER, number);
    }
}

/* The channels, of those for which a message seems to wait, on whose chains it is. */
MSC4203_APART uint32_t log_linked(struct msc4203_log_state *s, const struct log_message *m,
                                  uint32_t set)
{
    uint32_t device = log_device(s, m->hash), c;
    struct log_message before;

    set &= log_waiting(s, m);
    for (c = 0; log_has_more(set, c); c++) {
        uint32_t w = c != 0 ? log_channel_words(c) : log_device_words(s, device - 1), previous;

        if ((set >> c & 1) == 0 || s->word[w + CHAIN_FIRST] == m->at)
            continue;
        previous = log_cell(s, log_link(m, c, LINK_PREVIOUS));
        if (previous == s->word[w + CHAIN_LAST] || !log_load(s, previous, &before) ||
            !log_is_in(s, &before, c, w) || before.number >= m->number ||
            log_cell(s, log_link(&before, c, LINK_NEXT)) != m->at)
            set &= ~((uint32_t)1 << c);
    }
    return set;
}

/* Keeps the newest time. */
MSC4203_PRIVATE void log_keep_time(struct msc4203_log_state *s, const struct log_message *m)
{
    uint32_t time = m->time[0] >> 10 | m->time[1] << 22;

    if (m->time[1] >> 10 != 0) /* it is later than 2109 */
        time = UINT32_MAX;
    if (time > s->word[LOG_TIME])
        log_set(s, LOG_TIME, time);
}

/* Takes channels, for which it waits, out of a message's set. */
MSC4203_APART void log_take(struct msc4203_log_state *s, struct log_message *m, uint32_t out)
{
    uint32_t left = log_waiting(s, m) & ~out, device = log_device(s, m->hash), c;
    uint32_t w = log_device_words(s, device - 1);

    s->moves++;
    for (c = device != 0 ? 0 : 1; log_has_more(out, c); c++) {
        uint32_t channel = log_channel_words(c);

        if ((out >> c & 1) == 0)
            continue;
        log_add(s, channel + CHAIN_COUNT, UINT32_MAX);
        log_add(s, channel + CHAIN_UNITS, 0 - m->units);
        log_chain_remove(s, m, c, c != 0 ? channel : w);
    }
    if (log_waiting(s, m) != left) { /* it was not the first: the index does not tell */
        m->waiting = left;
        log_put_words(s, m, &m->set);
    }
    if (left != 0)
        return;
    log_add(s, LOG_LIVE, 0 - m->units);
    log_add(s, LOG_MESSAGES, UINT32_MAX);
    if (device != 0) {
        log_add(s, w + CHAIN_COUNT, UINT32_MAX);
        log_add(s, w + CHAIN_UNITS, 0 - m->units);
        log_device_free(s, device);
    }
}

/* Gives a message its number, and puts it into its chains. */
MSC4203_APART void log_give(struct msc4203_log_state *s, struct log_message *m, uint32_t device,
                            uint64_t number, const uint32_t known[2])
{
    uint32_t w = log_device_words(s, device - 1), c;

    m->number = number;
    log_put_words(s, m, m->number_words);
    if (s->word[w + CHAIN_COUNT] == 0) { /* what comes before is none of this device's */
        log_note(s, w + DEVICE_HASH, m->hash[0]);
        log_note(s, w + DEVICE_HASH + 1, m->hash[1]);
        log_set_word64(s, w + DEVICE_DROP, 0);
        log_set_word64(s, w + DEVICE_SYNCED, number - 1);
        if (device > s->word[LOG_USED])
            log_set(s, LOG_USED, device);
    }
    log_add(s, w + CHAIN_COUNT, 1);
    log_add(s, w + CHAIN_UNITS, m->units);
    for (c = 0; log_has_more(m->set, c); c++) {
        uint32_t channel = log_channel_words(c);

        if ((m->set >> c & 1) == 0)
            continue;
        if (c != 0 && s->word[channel + CHAIN_LAST] == 0)
            log_set_word64(s, channel + CHANNEL_NUMBER, number);
        log_chain_add(s, m, c, c != 0 ? channel : w, known);
        log_add(s, channel + CHAIN_COUNT, 1);
        log_add(s, channel + CHAIN_UNITS, m->units);
    }
    log_add(s, LOG_LIVE, m->units);
    log_add(s, LOG_MESSAGES, 1);
}

/* ---- images of the index ---- */

/* Where an image is. */
MSC4203_PRIVATE uint64_t log_image_at(const struct msc4203_log_state *s, uint32_t image)
{
    return image & 1 ? 1024 + (s->ring_at - 1024) / 2 : 1024;
}

enum { LOG_HEADER_STATE = 13, LOG_LATE = 7 };

/* The words of the log's state that are in an image's header. */
MSC4203_PRIVATE void *log_header_state(struct msc4203_log_state *s)
{
    return (unsigned char *)s + offsetof(struct msc4203_log_state, devices);
}

/* How far the next image is. It is written in the course of three flushes, and needs no sync but
 * theirs: after the first its words, which the second makes durable; then its header, which the
 * third makes durable. */
enum log_stage { LOG_NO_IMAGE = 0, LOG_IMAGE_WORDS = 1, LOG_IMAGE_HEADER = 2 };

/* Writes the words of the next image. It takes the place of the last but one, so the last one must
 * be durable. All that it tells of must be durable when its header is. */
MSC4203_APART void log_image_words(struct msc4203_log_state *s)
{
    s->words = log_device_words(s, s->word[LOG_USED]);
    log_swap(s->word, s->words);
    s->image_crc = log_crc(0xFFFFFFFFu, s->word, s->words * 4);
    log_write(s, log_image_at(s, s->images + 1), s->word, s->words * 4);
    log_swap(s->word, s->words);
    memcpy(s->late, (unsigned char *)s + offsetof(struct msc4203_log_state, images),
           sizeof s->late);
    s->late[0]++;
}

/* Writes its header: from when that is durable on, opening begins there. */
MSC4203_APART void log_image_header(struct msc4203_log_state *s)
{
    uint32_t b[LOG_HEADER], i;

    memset(b, 0, sizeof b);
    memcpy(b + 6, log_header_state(s), (LOG_HEADER_STATE - LOG_LATE) * sizeof *b);
    memcpy(b + 6 + LOG_HEADER_STATE - LOG_LATE, s->late, sizeof s->late);
    b[2] = 1;
    b[4] = (uint32_t)s->storage->bytes;
    b[5] = (uint32_t)(s->storage->bytes >> 32);
    log_swap(b, LOG_HEADER);
    memcpy(b, "msc4203", 8);
    i = log_crc(log_crc(0xFFFFFFFFu, b, 12), b + 4, sizeof b - 16);
    log_swap(&i, 1);
    b[3] = i;
    s->images = s->late[0];
    log_write(s, s->images & 1 ? 512 : 0, b, sizeof b);
}

/* Writes an image at once. All before must be durable. */
MSC4203_APART void log_image(struct msc4203_log_state *s)
{
    log_image_words(s);
    log_image_header(s);
    log_sync(s);
    s->stage = LOG_NO_IMAGE;
    if (!s->error)
        s->imaged = s->durable = s->firm = s->end;
}

/* Goes on with the next image, after a flush; begins one when the last one is an eighth of the ring
 * behind. */
MSC4203_PRIVATE void log_image_step(struct msc4203_log_state *s)
{
    if (s->stage == LOG_IMAGE_WORDS) {
        log_image_header(s);
        s->stage = LOG_IMAGE_HEADER;
    } else if (s->stage == LOG_IMAGE_HEADER) {
        s->imaged = s->late[1];
        s->stage = LOG_NO_IMAGE;
    } else if (s->end - s->imaged > s->units / 8) {
        log_image_words(s);
        s->stage = LOG_IMAGE_WORDS;
    }
}

/* Both images anew: what lies before the ring's beginning is free now. */
MSC4203_PRIVATE void log_images(struct msc4203_log_state *s)
{
    log_sync(s);
    log_image(s);
    log_image(s);
    if (!s->error)
        s->safe = s->tail;
}

/* ---- mending ---- */

/* Puts a chain in order again, leaving out what can't be read. */
MSC4203_APART void log_heal_chain(struct msc4203_log_state *s, uint32_t channel, uint32_t w)
{
    struct log_message good, back, m;
    uint32_t at = s->word[w + CHAIN_FIRST], last = s->word[w + CHAIN_LAST];
    uint32_t mask = (uint32_t)1 << channel;

    good.at = back.at = 0;
    good.number = 0;
    if (last == 0) {
        s->word[w + CHAIN_FIRST] = 0;
        return;
    }
    if (at == 0)
        s->word[w + CHAIN_FIRST] = last;
    while (at != 0 && log_load(s, at, &m) && log_is_in(s, &m, channel, w) &&
           m.number > good.number && (log_waiting(s, &m) & mask) != 0 &&
           (good.at == 0 || log_cell(s, log_link(&m, channel, LINK_PREVIOUS)) == good.at)) {
        good = m;
        if (at == last)
            return;
        at = log_cell(s, log_link(&m, channel, LINK_NEXT));
    }
    back.number = (uint64_t)1 << 48;
    for (at = last; at != 0 && log_load(s, at, &m) && log_is_in(s, &m, channel, w) &&
                    m.number < back.number && m.number > good.number &&
                    (log_waiting(s, &m) & mask) != 0;
         at = log_cell(s, log_link(&m, channel, LINK_PREVIOUS))) {
        if (back.at != 0)
            log_put(s, log_link(&m, channel, LINK_NEXT), back.at, 1);
        back = m;
    }
    log_damage(s);
    if (good.at != 0 && back.at != 0)
        log_put(s, log_link(&good, channel, LINK_NEXT), back.at, 1);
    if (back.at != 0)
        log_put(s, log_link(&back, channel, LINK_PREVIOUS), good.at, 1);
    else
        s->word[w + CHAIN_LAST] = good.at;
    if (good.at == 0)
        s->word[w + CHAIN_FIRST] = back.at;
}

/* Counts a message, unless it was counted on a chain of a lower channel. */
MSC4203_PRIVATE void log_heal_message(struct msc4203_log_state *s, const struct log_message *m,
                                      uint32_t channel)
{
    uint32_t device, w;

    if (log_linked(s, m, ((uint32_t)1 << channel) - 1) != 0)
        return;
    log_keep_time(s, m);
    s->word[LOG_LIVE] += m->units;
    s->word[LOG_MESSAGES]++;
    device = log_device(s, m->hash);
    if (device == 0) { /* the journal that told of it is damaged */
        device = log_device_make(s, m->hash);
        if (device == 0)
            return;
        w = log_device_words(s, device - 1) + DEVICE_SYNCED;
        s->word[w] = s->word[LOG_NEXT];
        s->word[w + 1] = s->word[LOG_NEXT + 1];
        if (device > s->word[LOG_USED])
            s->word[LOG_USED] = device;
    }
    w = log_device_words(s, device - 1);
    s->word[w + CHAIN_COUNT]++;
    s->word[w + CHAIN_UNITS] += m->units;
}

/* Counts what is in a chain, and mends links back. */
MSC4203_APART void log_heal_count(struct msc4203_log_state *s, uint32_t channel, uint32_t w)
{
    uint32_t at = s->word[w + CHAIN_FIRST], count = log_channel_words(channel) + CHAIN_COUNT;
    uint32_t before = 0;
    struct log_message m;

    while (at != 0 && log_load(s, at, &m)) {
        uint32_t cell = log_link(&m, channel, LINK_PREVIOUS);

        if (log_cell(s, cell) != before)
            log_put(s, cell, before, 1);
        if (before == 0 && channel != 0) {
            s->word[w + CHANNEL_NUMBER] = (uint32_t)m.number;
            s->word[w + CHANNEL_NUMBER + 1] = (uint32_t)(m.number >> 32);
        }
        s->word[count]++;
        s->word[count + 1] += m.units;
        log_heal_message(s, &m, channel);
        before = at;
        at = at == s->word[w + CHAIN_LAST] ? 0 : log_cell(s, log_link(&m, channel, LINK_NEXT));
    }
}

/* Rebuilds what is in memory alone. */
MSC4203_APART void log_index(struct msc4203_log_state *s)
{
    uint32_t *memory = log_device_memory(s, 0);
    uint32_t i, n = LOG_OPENINGS + 4 * s->openings;

    memset(memory, 0, (size_t)(log_cursor(s, MSC4203_CHANNELS) - memory) * sizeof *memory);
    s->free_device = s->pending = s->need = 0;
    if (s->word[LOG_REQUEST] >= s->requests)
        s->word[LOG_REQUEST] = 0;
    if (s->word[LOG_OPENING] >= s->openings)
        s->word[LOG_OPENING] = 0;
    if (s->word[LOG_USED] > s->devices)
        s->word[LOG_USED] = s->devices;
    for (i = s->devices; i != 0; i--) {
        uint32_t w = log_device_words(s, i - 1), *at = &s->free_device;

        if (i <= s->word[LOG_USED] && s->word[w + CHAIN_COUNT] != 0)
            at = log_device_bucket(s, s->word[w + DEVICE_HASH]);
        log_device_memory(s, i - 1)[1] = *at;
        *at = i;
    }
    for (i = 0; i < s->requests; i++, n += 4) {
        uint32_t *bucket = log_request_bucket(s, s->word[n + 2]);

        if ((s->word[n] | s->word[n + 1] | s->word[n + 2] | s->word[n + 3]) == 0)
            continue;
        log_request_memory(s)[i] = *bucket;
        *bucket = i + 1;
    }
}

/* After damage: every chain without what can't be read, and the counts from what there is. */
MSC4203_APART void log_heal(struct msc4203_log_state *s)
{
    uint32_t i, w, open = 0;
    struct log_message m;

    s->healing = 1;
    s->moves++;
    for (i = 0; i < LOG_BATCHES; i++)
        open |= (uint32_t)(log_batch(s, i)[BATCH_OPEN] != 0) << i;
    for (i = 1; i <= s->devices; i++) {
        w = log_device_words(s, i - 1);
        s->word[w + CHAIN_COUNT] |= s->word[w + CHAIN_LAST];
        if (s->word[w + CHAIN_LAST] != 0 && log_load(s, s->word[w + CHAIN_LAST], &m) &&
            log_device(s, m.hash) == 0) { /* the journal that told whose it is is damaged */
            memcpy(s->word + w + DEVICE_HASH, m.hash, sizeof m.hash);
            if (i > s->word[LOG_USED])
                s->word[LOG_USED] = i;
            log_index(s);
        }
    }
    log_index(s);
    for (i = 1; i < MSC4203_CHANNELS; i++)
        log_heal_chain(s, i, log_channel_words(i));
    for (i = 0; i < s->word[LOG_USED]; i++) {
        w = log_device_words(s, i);
        log_heal_chain(s, 0, w);
        s->word[w + CHAIN_COUNT] = s->word[w + CHAIN_UNITS] = 0;
    }
    s->word[LOG_LIVE] = s->word[LOG_MESSAGES] = 0;
    for (i = 0; i < MSC4203_CHANNELS; i++) {
        w = log_channel_words(i);
        s->word[w + CHAIN_COUNT] = s->word[w + CHAIN_UNITS] = 0;
    }
    for (i = 0; i < s->word[LOG_USED]; i++)
        log_heal_count(s, 0, log_device_words(s, i));
    for (i = 1; i < MSC4203_CHANNELS; i++) {
        w = log_channel_words(i);
        log_heal_count(s, i, w);
        if (s->word[w + CHANNEL_RECORD] != 0 &&
            (log_load_at(s, log_place(s, s->word[w + CHANNEL_RECORD] - 1), &m) != LOG_CHANNEL ||
             log_flags(&m) != i)) {
            s->word[w + CHANNEL_RECORD] = s->word[w + CHANNEL_RECORD_UNITS] = 0;
            log_damage(s);
        }
        s->word[LOG_LIVE] += s->word[w + CHANNEL_RECORD_UNITS];
    }
    log_index(s);
    for (i = 0; i < LOG_BATCHES; i++) /* whoever has one open is told */
        log_batch(s, i)[BATCH_OPEN] = open >> i & 1 ? 2 : 0;
    s->healing = 0;
}

/* The same while the log is in use. */
MSC4203_PRIVATE void log_heal_now(struct msc4203_log_state *s)
{
    log_flush(s);
    if (s->error)
        return;
    log_heal(s);
    log_images(s);
}

/* ---- moving on what waits at the ring's beginning ---- */

/* Bytes of the longest record of a channel: in a small log, of the longest message. */
MSC4203_PRIVATE uint32_t log_record_max(const struct msc4203_log_state *s)
{
    return s->message_bytes < LOG_RECORD_MAX ? s->message_bytes : (uint32_t)LOG_RECORD_MAX;
}

/* Units of the longest record but journals. Names are short of what is in reserve for links. */
MSC4203_PRIVATE uint32_t log_longest(const struct msc4203_log_state *s)
{
    return s->message_bytes / 8 + LOG_FIXED / 8 + MSC4203_CHANNELS + 1;
}

/* Units that writing the record of a channel can take, with the filler before it. */
MSC4203_PRIVATE uint32_t log_channel_max(const struct msc4203_log_state *s)
{
    return (log_record_max(s) + LOG_NAME_MAX + 31) / 8 * 2;
}

/* What must be free for moving on to be possible. */
MSC4203_PRIVATE uint32_t log_floor(const struct msc4203_log_state *s)
{
    return 2 * log_longest(s) + 64;
}

/* Units that messages can take: the rest is for acknowledging and for moving on. */
MSC4203_PRIVATE uint32_t log_capacity(const struct msc4203_log_state *s)
{
    uint32_t rest = log_floor(s) + log_longest(s) + log_channel_max(s) + 4 * LOG_JOURNAL +
                    s->units / 256 + 32;
    return rest < s->units ? s->units - rest : 0;
}

/* Counts a message of an open batch to its channels: so many units more. */
MSC4203_PRIVATE void log_count_open(const struct msc4203_log_state *s, const struct log_message *m,
                                    uint32_t units)
{
    uint32_t c;

    for (c = 0; log_has_more(m->set, c); c++)
        if ((m->set >> c & 1) != 0)
            log_channel_memory(s)[c] += units;
}

/* Forgets an open batch. `state` is 0, or 2 when whoever has it open must be told. */
MSC4203_APART void log_batch_end(struct msc4203_log_state *s, uint32_t *b, uint32_t state)
{
    uint32_t at = b[BATCH_FIRST], i;
    struct log_message m;

    if (b[BATCH_OPEN] == 1)
        s->need -= b[BATCH_NEED];
    for (i = 0; b[BATCH_OPEN] == 1 && i < b[BATCH_COUNT] && log_load(s, at, &m); i++) {
        uint32_t device = log_device(s, m.hash);

        s->pending -= m.units;
        log_count_open(s, &m, 0 - m.units);
        if (device != 0) {
            log_device_memory(s, device - 1)[0] -= m.units;
            log_device_free(s, device);
        }
        at = log_cell(s, log_link(&m, 0, LINK_NEXT));
    }
    b[BATCH_OPEN] = state;
}

/* Tells whether a record is still needed: for a message, by which channels. */
MSC4203_PRIVATE uint32_t log_is_kept(struct msc4203_log_state *s, const struct log_message *m)
{
    if (m->type == LOG_CHANNEL)
        return s->word[log_channel_words(log_flags(m) & 31) + CHANNEL_RECORD] == m->at;
    if (m->type - 1 >= LOG_COPY)
        return 0;
    if (m->number == 0) {
        uint32_t *b = log_batch(s, log_flags(m) & (LOG_BATCHES - 1));
        if (log_flags(m) < LOG_BATCHES && b[BATCH_OPEN] == 1 && b[BATCH_COUNT] != 0 &&
            !log_before(log_place(s, m->at - 1), log_place(s, b[BATCH_FIRST] - 1)))
            log_batch_end(s, b, 2);
        return 0;
    }
    return log_linked(s, m, ~(uint32_t)0);
}

/* Copies a record to the ring's end, where nothing knows of it yet; a message, for `channels`. */
MSC4203_APART void log_copy(struct msc4203_log_state *s, const struct log_message *m,
                            uint32_t channels)
{
    struct log_message copy = *m;
    uint32_t skip = log_fixed(m->type);

    copy.at = log_append(s, m->units);
    copy.from = m->at;
    copy.about = (m->about & 0xFFFF0000u) | (s->epoch & 0xFFFF);
    if (m->type != LOG_CHANNEL) {
        copy.type = LOG_COPY;
        copy.waiting = channels;
    }
    log_transfer(s, log_at(s, m->at) + skip, log_at(s, copy.at) + skip, m->units * 8 - skip);
    log_store(s, &copy);
}

/* Puts a durable copy in the place of what it was copied from. Reads the links of the old one,
 * which nothing has changed since: an image follows before anything else does. */
MSC4203_APART void log_switch(struct msc4203_log_state *s, const struct log_message *copy)
{
    struct log_message old = *copy, other;
    uint32_t c;

    s->moves++;
    old.at = copy->from;
    for (c = 0; copy->type == LOG_COPY && log_has_more(copy->waiting, c); c++) {
        uint32_t w = log_channel_words(c), previous = 0, next = 0;

        if ((copy->waiting >> c & 1) == 0)
            continue;
        if (c == 0) {
            uint32_t device = log_device(s, copy->hash);
            if (device == 0)
                continue;
            w = log_device_words(s, device - 1);
        }
        if (s->word[w + CHAIN_FIRST] == old.at)
            s->word[w + CHAIN_FIRST] = copy->at;
        else
            previous = log_cell(s, log_link(&old, c, LINK_PREVIOUS));
        if (s->word[w + CHAIN_LAST] == old.at)
            s->word[w + CHAIN_LAST] = copy->at;
        else
            next = log_cell(s, log_link(&old, c, LINK_NEXT));
        log_cell_write(s, log_link(copy, c, LINK_PREVIOUS), previous);
        log_cell_write(s, log_link(copy, c, LINK_NEXT), next);
        if (previous != 0 && log_load(s, previous, &other))
            log_cell_write(s, log_link(&other, c, LINK_NEXT), copy->at);
        if (next != 0 && log_load(s, next, &other))
            log_cell_write(s, log_link(&other, c, LINK_PREVIOUS), copy->at);
    }
    if (copy->type == LOG_CHANNEL) {
        c = log_channel_words(log_flags(copy) & 31) + CHANNEL_RECORD;
        s->word[c] = copy->at;
    }
    s->tail = log_behind(s, log_place(s, old.at - 1), copy->units);
}

/* Moves the ring's beginning on, by a sixteenth of the ring if that is possible. Returns how many
 * units that was. */
MSC4203_APART uint32_t log_clean_step(struct msc4203_log_state *s)
{
    uint32_t start = s->end, place = s->tail, end;
    uint32_t budget = log_free(s), seen = 0, copies = 0, healed = 0, kept;
    struct log_message m;

    while (place != start && seen <= s->units / 16 && !s->error) {
        if (log_load_at(s, place, &m) == 0)
            m.units = 1;
        kept = log_is_kept(s, &m);
        if ((m.type == 0 || (m.type <= LOG_COPY && m.number != 0 && kept != log_waiting(s, &m))) &&
            !healed++) {
            log_damage(s);
            log_heal(s);
            kept = log_is_kept(s, &m);
        }
        if (kept != 0) {
            uint32_t cost = m.units, rest = s->units - (s->end - s->base);

            if (cost > rest)
                cost += rest;
            if (cost + 32 > budget)
                break;
            budget -= cost;
            copies++;
            log_copy(s, &m, kept);
        }
        seen += m.units;
        place = log_behind(s, place, m.units);
    }
    if (copies != 0) {
        log_sync(s);
        for (end = s->end; start != end && !s->error;
             start = log_behind(s, start, m.units)) {
            if (log_load_at(s, start, &m) == 0)
                s->error = 1;
            else if (m.type == LOG_COPY || m.type == LOG_CHANNEL)
                log_switch(s, &m);
        }
    }
    s->tail = place;
    if (seen != 0)
        log_images(s);
    return seen;
}

/* Sees to it that `units` can be appended, beside what open batches need, and `floor` stays. */
MSC4203_APART int log_room(struct msc4203_log_state *s, uint32_t units, uint32_t floor)
{
    uint32_t seen = 0, step = 1;

    units += floor + s->need;
    if (log_free(s) >= units)
        return MSC4203_OK;
    log_flush(s);
    while (log_free(s) < units && step != 0 && seen <= s->units + s->units / 8 && !s->error)
        seen += step = log_clean_step(s);
    if (s->error)
        return MSC4203_E_STORAGE;
    return log_free(s) < units ? MSC4203_E_QUEUE_FULL : MSC4203_OK;
}

/* ---- finding messages ---- */

/* Finds the first visible message after number `after` in a channel, or of a device (plus 1). */
MSC4203_APART int log_seek(struct msc4203_log_state *s, uint32_t channel, uint32_t device,
                           uint64_t after, struct log_message *m)
{
    uint32_t w = channel != 0 ? log_channel_words(channel) : log_device_words(s, device - 1);
    uint32_t *cursor = log_cursor(s, channel), at, previous = 0, tries;
    uint64_t number = 0;

    for (tries = 0; tries < 2; tries++) { /* unreachable: as below */
        at = s->word[w + CHAIN_FIRST];
        if (tries == 0 && cursor[0] != 0 && cursor[3] == s->moves && cursor[1] == (uint32_t)after &&
            cursor[2] == (uint32_t)(after >> 32) && log_load(s, cursor[0], m) &&
            log_is_in(s, m, channel, w)) {
            previous = cursor[0];
            at = previous == s->word[w + CHAIN_LAST]
                     ? 0 : log_cell(s, log_link(m, channel, LINK_NEXT));
        }
        while (at != 0) {
            if (!log_load(s, at, m) || !log_is_in(s, m, channel, w) ||
                (m->number <= number && m->number != 0) ||
                (previous != 0 &&
                 log_cell(s, log_link(m, channel, LINK_PREVIOUS)) != previous))
                break;
            if (m->number == 0 || m->number >= s->settled)
                return MSC4203_END; /* 0: its number is not written down yet */
            if (m->number > after) {
                cursor[0] = at;
                cursor[1] = (uint32_t)m->number;
                cursor[2] = (uint32_t)(m->number >> 32);
                cursor[3] = s->moves;
                return MSC4203_ITEM;
            }
            number = m->number;
            previous = at;
            at = at == s->word[w + CHAIN_LAST]
                     ? 0 : log_cell(s, log_link(m, channel, LINK_NEXT));
        }
        if (s->error)
            return MSC4203_E_STORAGE;
        if (at == 0 && (previous == 0 || previous == s->word[w + CHAIN_LAST]))
            return MSC4203_END;
        previous = 0;
        number = 0;
        log_heal_now(s);
    }
    return MSC4203_E_DAMAGED; /* unreachable: what was mended can be followed */
}

/* Checks a channel and a device, as next(), done() and move() take them. *number is the device plus
 * 1, or 0. */
MSC4203_PRIVATE int log_check(const struct msc4203_log_state *s, uint32_t channel,
                              const msc4203_device *device, uint32_t *number)
{
    uint32_t hash[2];

    *number = 0;
    if (s->error)
        return MSC4203_E_STORAGE;
    if (channel >= MSC4203_CHANNELS || (channel == 0) != (device != NULL))
        return MSC4203_E_USAGE;
    if (device != NULL) {
        log_hash(s, &device->user_id, &device->device_id, hash);
        *number = log_device(s, hash);
        if (*number != 0 && s->word[log_device_words(s, *number - 1) + CHAIN_COUNT] == 0)
            *number = 0;
    }
    return MSC4203_OK;
}

MSC4203_PRIVATE struct msc4203_log_state *log_of(void *context)
{
    return &((msc4203_log *)context)->priv;
}

/* Where the strings of a message begin that were read to `text`. */
MSC4203_PRIVATE void log_strings(const struct log_message *m, const char *text, uint32_t bytes,
                                 msc4203_span *strings)
{
    uint32_t at = 0;
    unsigned i;

    for (i = 0; i < 5; i++) {
        strings[i].ptr = at != 0 ? text + at : text; /* it may be NULL */
        strings[i].len = i < 4 ? log_length(m, i) : bytes - at;
        at += (uint32_t)strings[i].len;
    }
}

MSC4203_PRIVATE int log_next(void *context, uint32_t channel, const msc4203_device *device,
                             uint64_t after, void *memory, size_t bytes, msc4203_message *message)
{
    struct msc4203_log_state *s = log_of(context);
    struct log_message m;
    uint32_t number, size;
    uint64_t at;
    int result = log_check(s, channel, device, &number);

    memset(message, 0, sizeof *message);
    if (result != MSC4203_OK)
        return result;
    if (channel == 0 && number == 0)
        return MSC4203_END;
    for (;;) {
        result = log_seek(s, channel, number, after, &m);
        if (result != MSC4203_ITEM)
            break;
        after = message->number = m.number;
        message->time_ms = log_time(&m);
        message->channels = log_waiting(s, &m);
        message->delivered = m.set & ~message->channels & 1;
        at = log_body(s, &m, &size);
        message->bytes = size;
        if (size > bytes)
            return MSC4203_E_TOO_LARGE;
        log_read(s, at, memory, size);
        if (s->error)
            break;
        if (log_crc(s->salt, memory, size) != m.body) {
            log_damage(s);
            return MSC4203_E_DAMAGED;
        }
        message->item.kind = MSC4203_TO_DEVICE;
        log_strings(&m, (const char *)memory, size, &message->item.sender);
        if (channel != 0 || (queue_same(&device->user_id, &message->item.user_id) &&
                             queue_same(&device->device_id, &message->item.device_id)))
            return MSC4203_ITEM;
    }
    if (s->error)
        result = MSC4203_E_STORAGE;
    s->error = 0; /* nothing was changed: it may be tried again */
    return result;
}

/* ---- batches ---- */

MSC4203_PRIVATE int log_begin(void *context, uint32_t *batch)
{
    struct msc4203_log_state *s = log_of(context);
    uint32_t i;

    if (s->error)
        return MSC4203_E_STORAGE;
    for (i = 0; i < LOG_BATCHES; i++) {
        uint32_t *b = log_batch(s, i);
        if (b[BATCH_OPEN] == 0) {
            memset(b, 0, BATCH_WORDS * sizeof(uint32_t));
            b[BATCH_OPEN] = 1;
            *batch = i + 1;
            return MSC4203_OK;
        }
    }
    return MSC4203_E_QUEUE_FULL;
}

/* Returns an open batch, or NULL and why not in *result. */
MSC4203_PRIVATE uint32_t *log_open_batch(struct msc4203_log_state *s, uint32_t batch, int *result)
{
    uint32_t *b = log_batch(s, batch - 1);

    *result = MSC4203_OK;
    if (s->error)
        *result = MSC4203_E_STORAGE;
    else if (batch - 1 >= LOG_BATCHES)
        *result = MSC4203_E_USAGE;
    else if (b[BATCH_OPEN] != 1)
        *result = MSC4203_E_BATCH;
    return *result == MSC4203_OK ? b : NULL;
}

/* Begins to fill in a message without a number, with `bytes` of body. */
MSC4203_PRIVATE void log_begin_message(struct msc4203_log_state *s, struct log_message *m,
                                       uint32_t set, uint32_t flags, uint32_t bytes)
{
    bytes += LOG_FIXED + 8 * log_links(set);
    m->units = (bytes + 7) >> 3;
    m->about = (s->epoch & 0xFFFF) | ((0 - bytes) & 7) << 16 | flags << 24;
    m->type = LOG_MESSAGE;
    m->set = m->waiting = set;
    m->number = 0;
    m->from = 0;
}

/* Takes the lengths of a message's strings. Returns their sum, UINT32_MAX when it is too large. */
MSC4203_PRIVATE uint32_t log_measure(const struct msc4203_log_state *s,
                                     const msc4203_span *strings, struct log_message *m)
{
    uint32_t bytes = 0;
    unsigned i;

    for (i = 0; i < 5; i++) {
        if (strings[i].len > s->message_bytes - bytes || (i < 4 && strings[i].len > 65535))
            return UINT32_MAX;
        bytes += (uint32_t)strings[i].len;
        if (i < 4)
            m->length[i >> 1] |= (uint32_t)strings[i].len << 16 * (i & 1);
    }
    return bytes;
}

/* Whether a message may wait where it is to: quotas. */
MSC4203_PRIVATE int log_quota(const struct msc4203_log_state *s, const struct log_message *m,
                              uint32_t device)
{
    uint32_t w = log_device_words(s, device - 1) + CHAIN_UNITS, c;

    if (s->device_units != 0 &&
        s->word[w] + log_device_memory(s, device - 1)[0] + m->units > s->device_units)
        return MSC4203_E_QUOTA;
    for (c = 1; s->channel_units != 0 && log_has_more(m->set, c); c++)
        if ((m->set >> c & 1) != 0 &&
            s->word[log_channel_words(c) + CHAIN_UNITS] + log_channel_memory(s)[c] + m->units >
                s->channel_units)
            return MSC4203_E_QUOTA;
    return MSC4203_OK;
}

/* Writes zeros: fewer than 256. */
MSC4203_PRIVATE void log_zeros(struct msc4203_log_state *s, uint64_t at, uint32_t bytes)
{
    static const unsigned char zeros[256] = {0};

    log_write(s, at, zeros, bytes);
}

/* Writes a message without a number to the ring's end. */
MSC4203_APART void log_write_message(struct msc4203_log_state *s, const msc4203_span *strings,
                                     struct log_message *m)
{
    uint32_t links = 8 * log_links(m->set);
    uint64_t at;
    unsigned i;

    m->at = log_append(s, m->units);
    at = log_at(s, m->at) + LOG_FIXED;
    m->body = s->salt;
    log_zeros(s, at, links);
    at += links;
    for (i = 0; i < 5; i++) {
        log_write(s, at, strings[i].ptr, strings[i].len);
        m->body = log_crc(m->body, strings[i].ptr, strings[i].len);
        at += strings[i].len;
    }
    log_zeros(s, at, log_pad(m));
    log_store(s, m);
}

MSC4203_PRIVATE int log_push(void *context, uint32_t batch, const msc4203_message *message)
{
    struct msc4203_log_state *s = log_of(context);
    const msc4203_span *strings = &message->item.sender;
    struct log_message m;
    uint32_t *b, device, need, bytes;
    int result;

    b = log_open_batch(s, batch, &result);
    if (b == NULL)
        return result;
    if (message->channels == 0)
        return MSC4203_E_USAGE;
    memset(&m, 0, sizeof m);
    bytes = log_measure(s, strings, &m);
    if (bytes == UINT32_MAX)
        return MSC4203_E_TOO_LARGE;
    log_begin_message(s, &m, message->channels, batch - 1, bytes);
    need = 20 + 8 * log_links(m.set);
    if (s->word[LOG_LIVE] + s->pending + s->need + need + m.units > log_capacity(s))
        return MSC4203_E_QUEUE_FULL;
    result = log_room(s, m.units + need, log_floor(s) + 4 * LOG_JOURNAL);
    if (result != MSC4203_OK)
        return result;
    if (b[BATCH_OPEN] != 1)
        return MSC4203_E_BATCH;
    log_hash(s, &strings[2], &strings[3], m.hash);
    device = log_device_make(s, m.hash);
    if (device == 0)
        return MSC4203_E_QUEUE_FULL;
    result = log_quota(s, &m, device);
    if (result != MSC4203_OK) {
        log_device_free(s, device);
        return result;
    }
    m.time[0] = (uint32_t)message->time_ms;
    m.time[1] = (uint32_t)(message->time_ms >> 32);
    log_write_message(s, strings, &m);
    if (b[BATCH_COUNT]++ == 0)
        b[BATCH_FIRST] = m.at;
    else
        log_cell_write(s, (b[BATCH_LAST] - 1) * 2 + LOG_FIXED / 4 + LINK_NEXT, m.at);
    b[BATCH_LAST] = m.at;
    b[BATCH_NEED] += need;
    s->need += need;
    s->pending += m.units;
    log_device_memory(s, device - 1)[0] += m.units;
    log_count_open(s, &m, m.units);
    return s->error ? MSC4203_E_STORAGE : MSC4203_OK;
}

/* A request as words; returns 0 when it has no id. */
MSC4203_PRIVATE int log_request(const msc4203_request *request, uint32_t id[4])
{
    id[0] = id[1] = id[2] = id[3] = 0;
    if (request != NULL) {
        id[0] = log_get(request->who);
        id[1] = log_get(request->who + 4);
        id[2] = log_get(request->what);
        id[3] = log_get(request->what + 4);
    }
    return (id[0] | id[1] | id[2] | id[3]) != 0;
}

MSC4203_PRIVATE int log_known(void *context, const msc4203_request *request)
{
    struct msc4203_log_state *s = log_of(context);
    uint32_t id[4], at;

    if (s->error)
        return MSC4203_E_STORAGE;
    if (!log_request(request, id))
        return MSC4203_OK;
    for (at = *log_request_bucket(s, id[2]); at != 0;
         at = log_request_memory(s)[at - 1])
        if (memcmp(s->word + (LOG_OPENINGS + 4 * s->openings) + 4 * (at - 1), id, sizeof id) == 0)
            return MSC4203_KNOWN;
    return MSC4203_OK;
}

/* Forgets the request in a place of the index. */
MSC4203_PRIVATE void log_forget(struct msc4203_log_state *s, uint32_t which)
{
    uint32_t w = (LOG_OPENINGS + 4 * s->openings) + 4 * which, i;
    uint32_t *at = log_request_bucket(s, s->word[w + 2]);

    while (*at != 0 && *at != which + 1)
        at = &log_request_memory(s)[*at - 1];
    if (*at != 0)
        *at = log_request_memory(s)[which];
    for (i = 0; i < 4; i++)
        log_set(s, w + i, 0);
}

MSC4203_PRIVATE void log_remember(struct msc4203_log_state *s, const msc4203_request *request)
{
    uint32_t id[4], which = s->word[LOG_REQUEST], i, *bucket;

    if (!log_request(request, id))
        return;
    log_forget(s, which);
    for (i = 0; i < 4; i++)
        log_set(s, (LOG_OPENINGS + 4 * s->openings) + 4 * which + i, id[i]);
    bucket = log_request_bucket(s, id[2]);
    log_request_memory(s)[which] = *bucket;
    *bucket = which + 1;
    log_set(s, LOG_REQUEST, which + 1 == s->requests ? 0 : which + 1);
}

MSC4203_PRIVATE int log_commit(void *context, uint32_t batch, const msc4203_request *request,
                               uint64_t *first)
{
    struct msc4203_log_state *s = log_of(context);
    uint64_t number = log_word64(s, LOG_NEXT);
    uint32_t *b, at, i, next, before[2] = {0, 0};
    struct log_message m;
    int result;

    *first = number;
    b = log_open_batch(s, batch, &result);
    if (b == NULL) {
        if (result == MSC4203_E_BATCH)
            log_batch(s, batch - 1)[BATCH_OPEN] = 0;
        return result;
    }
    result = log_known(context, request);
    if (result == MSC4203_OK && b[BATCH_COUNT] == 0)
        result = log_room(s, LOG_JOURNAL, log_floor(s) + 2 * LOG_JOURNAL);
    if (result == MSC4203_OK && number + b[BATCH_COUNT] - s->settled >= LOG_SKIP)
        result = MSC4203_E_QUEUE_FULL; /* until the next flush */
    if (result != MSC4203_OK) {
        log_batch_end(s, b, 0);
        return result;
    }
    at = b[BATCH_FIRST];
    for (i = 0; i < b[BATCH_COUNT] && !s->error; i++, at = next) {
        uint32_t device;

        if (!log_load(s, at, &m) || (device = log_device(s, m.hash)) == 0) {
            s->error = 1;
            break;
        }
        next = log_cell(s, log_link(&m, 0, LINK_NEXT));
        s->pending -= m.units;
        log_device_memory(s, device - 1)[0] -= m.units;
        log_count_open(s, &m, 0 - m.units);
        log_give(s, &m, device, number + i, before);
        log_keep_time(s, &m);
        before[0] = m.at;
        before[1] = m.set;
    }
    log_set_word64(s, LOG_NEXT, number + b[BATCH_COUNT]);
    log_remember(s, request);
    log_end(s);
    s->need -= b[BATCH_NEED];
    b[BATCH_OPEN] = 0;
    return s->error ? MSC4203_E_STORAGE : MSC4203_OK;
}

MSC4203_PRIVATE int log_abort(void *context, uint32_t batch)
{
    struct msc4203_log_state *s = log_of(context);

    if (batch - 1 >= LOG_BATCHES || log_batch(s, batch - 1)[BATCH_OPEN] == 0)
        return MSC4203_E_USAGE;
    log_batch_end(s, log_batch(s, batch - 1), 0);
    return s->error ? MSC4203_E_STORAGE : MSC4203_OK;
}

MSC4203_PRIVATE int log_flush_all(void *context)
{
    struct msc4203_log_state *s = log_of(context);
    int syncs;

    log_end(s);
    syncs = s->dirty;
    log_flush(s);
    if (!s->error)
        s->settled = log_word64(s, LOG_NEXT);
    if (!s->error && syncs)
        log_image_step(s);
    return s->error ? MSC4203_E_STORAGE : MSC4203_OK;
}

/* ---- taking out ---- */

/* Ends an operation that may have changed links. */
MSC4203_PRIVATE int log_finish(struct msc4203_log_state *s, int result)
{
    log_end(s);
    if (s->stale)
        log_flush(s);
    return s->error ? MSC4203_E_STORAGE : result;
}

/* Between two steps of a long operation: ends the one, and makes room for the other. */
MSC4203_PRIVATE int log_step(struct msc4203_log_state *s)
{
    int result = log_finish(s, MSC4203_OK);

    return result != MSC4203_OK ? result : log_room(s, 2 * LOG_JOURNAL, log_floor(s));
}

MSC4203_PRIVATE int log_step_due(const struct msc4203_log_state *s)
{
    return s->parts || s->pairs > LOG_PAIRS / 3;
}

/* Takes out what is done on a channel. */
MSC4203_PRIVATE int log_sweep(struct msc4203_log_state *s, uint32_t channel)
{
    uint32_t w = log_channel_words(channel), healed = 0;
    uint64_t done = log_word64(s, w + CHANNEL_DONE), number = 0;
    struct log_message m;
    int result = MSC4203_OK;

    while (s->word[w + CHAIN_FIRST] != 0 && result == MSC4203_OK) {
        if (!log_load(s, s->word[w + CHAIN_FIRST], &m) || !log_is_in(s, &m, channel, w) ||
            (m.number <= number && m.number != 0)) { /* a damaged link may lead back */
            if (healed++)
                break;
            log_heal_now(s);
            number = 0;
            continue;
        }
        if (m.number == 0 || m.number > done)
            break;
        number = m.number;
        log_take(s, &m, (uint32_t)1 << channel);
        if (log_step_due(s))
            result = log_step(s);
    }
    return log_finish(s, result);
}

/* Takes out what a device's /sync has had: numbers up to `through`, accepted before `before`. */
MSC4203_PRIVATE int log_sync_sweep(struct msc4203_log_state *s, uint32_t device, uint64_t through,
                                   uint64_t before, uint64_t *taken)
{
    uint32_t w = log_device_words(s, device - 1);
    struct log_message m;
    int result = MSC4203_OK;

    m.number = 0; /* a damaged link may lead back */
    while (result == MSC4203_OK && s->word[w + CHAIN_FIRST] != 0) {
        result = log_seek(s, 0, device, m.number, &m);
        if (result != MSC4203_ITEM || m.number > through || log_time(&m) >= before)
            break;
        log_take(s, &m, 1);
        ++*taken;
        result = log_step_due(s) ? log_step(s) : MSC4203_OK;
    }
    return log_finish(s, result == MSC4203_ITEM || result == MSC4203_END ? MSC4203_OK : result);
}

/* Takes out, of a chain, what dropped devices had: a device (plus 1), or each when it is 0. *kept
 * counts what stays because it is in flight. */
MSC4203_PRIVATE int log_drop_sweep(struct msc4203_log_state *s, uint32_t channel, uint32_t device,
                                   uint32_t *kept)
{
    uint32_t w = channel != 0 ? log_channel_words(channel) : log_device_words(s, device - 1), at;
    uint64_t number = 0;
    struct log_message m;
    int result = log_step(s), healed = 0;

    at = s->word[w + CHAIN_FIRST]; /* not before: the step may have moved it on */
    while (at != 0 && result == MSC4203_OK && (device == 0 || log_is_used(s, device))) {
        uint32_t next, out, owner, c, moves;

        if (!log_load(s, at, &m) || !log_is_in(s, &m, channel, w) || m.number <= number) {
            if (healed++)
                break;
            log_heal_now(s);
            at = s->word[w + CHAIN_FIRST];
            number = 0;
            continue;
        }
        number = m.number;
        next = at == s->word[w + CHAIN_LAST] ? 0 : log_cell(s, log_link(&m, channel, LINK_NEXT));
        owner = log_device(s, m.hash);
        if (owner != 0 &&
            m.number <= log_word64(s, log_device_words(s, owner - 1) + DEVICE_DROP)) {
            out = log_waiting(s, &m);
            for (c = 1; log_has_more(out, c); c++)
                if (m.number <= log_word64(s, log_channel_words(c) + CHANNEL_HELD)) {
                    *kept += out >> c & 1;
                    out &= ~((uint32_t)1 << c);
                }
            if (out != 0)
                log_take(s, &m, out);
        }
        moves = s->moves;
        if (log_step_due(s))
            result = log_step(s);
        if (moves == s->moves) {
            at = next;
        } else {
            at = s->word[w + CHAIN_FIRST];
            number = 0;
        }
    }
    return log_finish(s, result);
}

/* The same of all chains: what drop() began, and a crash may have interrupted, or what was in
 * flight and is no more. */
MSC4203_APART int log_drops(struct msc4203_log_state *s, uint32_t device)
{
    uint32_t i, kept = 0, some = 0;
    int result = MSC4203_OK;

    for (i = 1; i <= s->word[LOG_USED] && result == MSC4203_OK; i++) {
        uint32_t w = log_device_words(s, i - 1);
        if ((device == 0 || device == i) && s->word[w + CHAIN_COUNT] != 0 &&
            log_word64(s, w + DEVICE_DROP) != 0) {
            result = log_drop_sweep(s, 0, i, &kept);
            some = 1;
        }
    }
    for (i = 1; i < MSC4203_CHANNELS && some != 0 && result == MSC4203_OK; i++)
        result = log_drop_sweep(s, i, device, &kept);
    if (device != 0 && kept == 0 && result == MSC4203_OK) /* or each opening would look again */
        log_set_word64(s, log_device_words(s, device - 1) + DEVICE_DROP, 0);
    return log_finish(s, result);
}

/* Reads a channel's record, what is fixed of it. */
MSC4203_PRIVATE int log_load_channel(struct msc4203_log_state *s, uint32_t channel,
                                     struct log_message *m)
{
    uint32_t at = s->word[log_channel_words(channel) + CHANNEL_RECORD];
    return at != 0 && log_load_at(s, log_place(s, at - 1), m) == LOG_CHANNEL;
}

/* Writes a channel's name (NULL: the one it has) and record. */
MSC4203_APART void log_write_channel(struct msc4203_log_state *s, uint32_t channel,
                                     const msc4203_span *name, const msc4203_span *record)
{
    struct log_message m, old;
    uint32_t w = log_channel_words(channel), bytes, size = 0;
    unsigned char *text = (unsigned char *)log_buffer(s); /* nothing is in the making */
    uint64_t at;

    memset(&m, 0, sizeof m);
    if (name != NULL) {
        size = (uint32_t)name->len;
        memcpy(text, name->ptr, size);
    } else if (log_load_channel(s, channel, &old)) {
        size = log_length(&old, 0);
        log_read(s, log_at(s, old.at) + 24, text, size);
    }
    m.length[0] = size | (uint32_t)record->len << 16;
    bytes = 24 + size + (uint32_t)record->len;
    m.units = (bytes + 7) >> 3;
    m.about = (s->epoch & 0xFFFF) | ((0 - bytes) & 7) << 16 | channel << 24;
    m.type = LOG_CHANNEL;
    m.body = log_crc(log_crc(s->salt, text, size), record->ptr, record->len);
    m.at = log_append(s, m.units);
    at = log_at(s, m.at) + 24;
    log_write(s, at, text, size);
    log_write(s, at + size, record->ptr, record->len);
    log_zeros(s, at + size + record->len, log_pad(&m));
    log_store(s, &m);
    log_add(s, LOG_LIVE, m.units - s->word[w + CHANNEL_RECORD_UNITS]);
    log_set(s, w + CHANNEL_RECORD, m.at);
    log_set(s, w + CHANNEL_RECORD_UNITS, m.units);
}

MSC4203_PRIVATE int log_done(void *context, uint32_t channel, const msc4203_device *device,
                             uint64_t through, const msc4203_span *record)
{
    struct msc4203_log_state *s = log_of(context);
    uint32_t number, w = log_channel_words(channel);
    uint64_t taken = 0;
    int result = log_check(s, channel, device, &number);

    if (result != MSC4203_OK)
        return result;
    if (record != NULL && (channel == 0 || record->len > log_record_max(s)))
        return channel == 0 ? MSC4203_E_USAGE : MSC4203_E_TOO_LARGE;
    result = log_room(s, 2 * LOG_JOURNAL + (record != NULL ? log_channel_max(s) : 0),
                      log_floor(s));
    if (result != MSC4203_OK)
        return result;
    if (through >= s->settled)
        through = s->settled - 1;
    if (channel == 0)
        return number == 0 ? MSC4203_OK : log_sync_sweep(s, number, through, UINT64_MAX, &taken);
    if (record != NULL)
        log_write_channel(s, channel, NULL, record);
    if (through > log_word64(s, w + CHANNEL_DONE))
        log_set_word64(s, w + CHANNEL_DONE, through);
    return log_sweep(s, channel);
}

MSC4203_PRIVATE int log_hold(void *context, uint32_t channel, uint64_t through,
                             const msc4203_span *record)
{
    struct msc4203_log_state *s = log_of(context);
    uint32_t w = log_channel_words(channel);
    uint64_t held;
    int result;

    if (s->error)
        return MSC4203_E_STORAGE;
    if (channel == 0 || channel >= MSC4203_CHANNELS)
        return MSC4203_E_USAGE;
    held = log_word64(s, w + CHANNEL_HELD);
    if (record->len > log_record_max(s))
        return MSC4203_E_TOO_LARGE;
    result = log_room(s, log_channel_max(s) + LOG_JOURNAL,
                      log_floor(s) + 2 * LOG_JOURNAL);
    if (result != MSC4203_OK)
        return result;
    log_write_channel(s, channel, NULL, record);
    if (through >= s->settled)
        through = s->settled - 1;
    log_set_word64(s, w + CHANNEL_HELD, through);
    log_end(s);
    if (through < held)
        result = log_drops(s, 0);
    return s->error ? MSC4203_E_STORAGE : result;
}

/* Writes what a message has again, for other channels. Returns 0 when it is damaged; what was
 * written then has no number, and belongs to no batch. */
MSC4203_APART int log_again(struct msc4203_log_state *s, const struct log_message *old,
                            struct log_message *m)
{
    uint32_t bytes, links = 8 * log_links(m->set), crc;
    uint64_t from = log_body(s, old, &bytes), to;

    m->at = log_append(s, m->units);
    to = log_at(s, m->at) + LOG_FIXED;
    log_zeros(s, to, links);
    crc = log_transfer(s, from, to + links, bytes);
    log_zeros(s, to + links + bytes, log_pad(m));
    log_store(s, m);
    return crc == old->body;
}

/* Gives a message's contents a new number in `channels`, and takes it out of `channel`. */
MSC4203_APART int log_move_on(struct msc4203_log_state *s, uint32_t channel,
                              struct log_message *old, uint32_t channels, uint64_t *moved)
{
    uint32_t device = log_device(s, old->hash), bytes, left;
    uint32_t before[2] = {0, 0};
    uint64_t next = log_word64(s, LOG_NEXT);
    struct log_message m = *old;

    if (channels != 0) {
        log_body(s, old, &bytes);
        log_begin_message(s, &m, channels, LOG_BATCHES, bytes);
        if (device == 0 || !log_again(s, old, &m))
            return s->error ? MSC4203_E_STORAGE : MSC4203_E_DAMAGED;
        log_give(s, &m, device, next, before);
        log_set_word64(s, LOG_NEXT, next + 1);
        if (moved != NULL)
            *moved = next;
    }
    if (channel == 0) {
        left = log_waiting(s, old) & ~(uint32_t)1;
        if (left != 0) { /* others keep it: it says that /sync has not had it */
            old->waiting = left;
            old->set &= ~(uint32_t)1;
            log_put_words(s, old, &old->set);
        }
    }
    log_take(s, old, (uint32_t)1 << channel);
    return log_finish(s, MSC4203_OK);
}

MSC4203_PRIVATE int log_move(void *context, uint32_t channel, const msc4203_device *device,
                             uint64_t number, uint32_t channels, uint64_t *moved)
{
    struct msc4203_log_state *s = log_of(context);
    uint32_t which, units;
    int again, result = log_check(s, channel, device, &which);
    struct log_message old;

    if (moved != NULL)
        *moved = 0;
    if (result != MSC4203_OK)
        return result;
    if (number == 0 || (channel == 0 && which == 0))
        return MSC4203_END;
    if (log_word64(s, LOG_NEXT) - s->settled >= LOG_SKIP)
        return MSC4203_E_QUEUE_FULL; /* until the next flush */
    for (again = 0;; again = 1) { /* making room may have moved it */
        result = log_seek(s, channel, which, number - 1, &old);
        if (result == MSC4203_ITEM && old.number != number)
            result = MSC4203_END;
        if (result != MSC4203_ITEM)
            return result;
        if (again)
            break;
        units = old.units + log_links(channels);
        if (log_waiting(s, &old) != (uint32_t)1 << channel && channels != 0 &&
            s->word[LOG_LIVE] + s->pending + s->need + units > log_capacity(s))
            return MSC4203_E_QUEUE_FULL;
        result = log_room(s, units + 3 * LOG_JOURNAL, log_floor(s));
        if (result != MSC4203_OK)
            return result;
    }
    return log_move_on(s, channel, &old, channels, moved);
}

MSC4203_PRIVATE int log_drop(void *context, const msc4203_device *device, const uint8_t *who)
{
    struct msc4203_log_state *s = log_of(context);
    uint32_t number, i, id[2];
    int result = log_check(s, 0, device, &number);

    if (result == MSC4203_OK)
        result = log_room(s, 2 * LOG_JOURNAL, log_floor(s));
    if (result != MSC4203_OK)
        return result;
    log_flush(s);
    if (who != NULL) {
        id[0] = log_get(who);
        id[1] = log_get(who + 4);
        for (i = 0; i < s->requests && result == MSC4203_OK; i++)
            if (memcmp(s->word + (LOG_OPENINGS + 4 * s->openings) + 4 * i, id, sizeof id) == 0) {
                log_forget(s, i);
                if (log_step_due(s))
                    result = log_step(s);
            }
    }
    if (number != 0 && result == MSC4203_OK) {
        log_set_word64(s, log_device_words(s, number - 1) + DEVICE_DROP,
                       log_word64(s, LOG_NEXT) - 1);
        result = log_drops(s, number);
    }
    log_end(s);
    return s->error ? MSC4203_E_STORAGE : result;
}

MSC4203_PRIVATE int log_expire(void *context, uint64_t before_ms, uint64_t *expired)
{
    struct msc4203_log_state *s = log_of(context);
    uint64_t taken = 0;
    uint32_t i;
    int result = s->error ? MSC4203_E_STORAGE : MSC4203_OK;

    for (i = 1; i <= s->word[LOG_USED] && result == MSC4203_OK; i++)
        if (s->word[log_device_words(s, i - 1) + CHAIN_FIRST] != 0) {
            result = log_room(s, 2 * LOG_JOURNAL, log_floor(s));
            if (result == MSC4203_OK)
                result = log_sync_sweep(s, i, s->settled - 1, before_ms, &taken);
        }
    if (expired != NULL)
        *expired = taken;
    return result;
}

/* ---- channels, openings, counts ---- */

/* Tells whether a channel has this name. */
MSC4203_PRIVATE int log_is_named(struct msc4203_log_state *s, uint32_t channel,
                                 const msc4203_span *name)
{
    struct log_message m;

    if (!log_load_channel(s, channel, &m) || log_length(&m, 0) != name->len)
        return 0;
    log_read(s, log_at(s, m.at) + 24, log_buffer(s), name->len);
    return memcmp(log_buffer(s), name->ptr, name->len) == 0;
}

MSC4203_PRIVATE int log_channel(void *context, const msc4203_span *name, int make,
                                uint32_t *channel)
{
    struct msc4203_log_state *s = log_of(context);
    msc4203_span none = {NULL, 0};
    uint32_t c, found = 0;
    int result;

    if (s->error)
        return MSC4203_E_STORAGE;
    if (name->len == 0 || name->len > LOG_NAME_MAX)
        return MSC4203_E_USAGE;
    for (c = MSC4203_CHANNEL_FIRST; c < MSC4203_CHANNEL_PARKED; c++) {
        uint32_t w = log_channel_words(c);

        if (s->word[w + CHANNEL_RECORD] != 0) {
            if (log_is_named(s, c, name)) {
                *channel = c;
                return MSC4203_OK;
            }
        } else if (found == 0 && s->word[w + CHAIN_COUNT] == 0 &&
                   log_channel_memory(s)[c] == 0) {
            found = c;
        }
    }
    if (!make)
        return MSC4203_END;
    if (found == 0)
        return MSC4203_E_QUEUE_FULL;
    result = log_room(s, log_channel_max(s) + LOG_JOURNAL, log_floor(s) + 2 * LOG_JOURNAL);
    if (result != MSC4203_OK)
        return result;
    log_write_channel(s, found, name, &none);
    log_end(s);
    *channel = found;
    return s->error ? MSC4203_E_STORAGE : MSC4203_OK;
}

MSC4203_PRIVATE int log_release(void *context, uint32_t channel)
{
    struct msc4203_log_state *s = log_of(context);
    uint32_t w = log_channel_words(channel);
    int result;

    if (s->error)
        return MSC4203_E_STORAGE;
    if (channel == 0 || channel >= MSC4203_CHANNELS)
        return MSC4203_E_USAGE;
    if (s->word[w + CHAIN_COUNT] != 0 || log_channel_memory(s)[channel] != 0)
        return MSC4203_E_BUSY;
    result = log_room(s, 2 * LOG_JOURNAL, log_floor(s));
    if (result != MSC4203_OK)
        return result;
    log_add(s, LOG_LIVE, 0 - s->word[w + CHANNEL_RECORD_UNITS]);
    log_set(s, w + CHANNEL_RECORD, 0);
    log_set(s, w + CHANNEL_RECORD_UNITS, 0);
    log_set_word64(s, w + CHANNEL_HELD, 0);
    log_end(s);
    return s->error ? MSC4203_E_STORAGE : MSC4203_OK;
}

MSC4203_PRIVATE int log_record(void *context, uint32_t channel, void *memory, size_t bytes,
                               msc4203_span *name, msc4203_span *record)
{
    struct msc4203_log_state *s = log_of(context);
    struct log_message m;
    size_t size;
    int failed;

    if (s->error)
        return MSC4203_E_STORAGE;
    if (channel == 0 || channel >= MSC4203_CHANNELS)
        return MSC4203_E_USAGE;
    if (s->word[log_channel_words(channel) + CHANNEL_RECORD] == 0)
        return MSC4203_END;
    if (!log_load_channel(s, channel, &m)) {
        failed = s->error;
        s->error = 0;
        return failed ? MSC4203_E_STORAGE : MSC4203_E_DAMAGED;
    }
    size = log_length(&m, 0) + log_length(&m, 1);
    if (size > bytes)
        return MSC4203_E_TOO_LARGE;
    log_read(s, log_at(s, m.at) + 24, memory, size);
    failed = s->error;
    s->error = 0;
    if (failed || log_crc(s->salt, memory, size) != m.body)
        return failed ? MSC4203_E_STORAGE : MSC4203_E_DAMAGED;
    if (name != NULL) {
        name->ptr = (const char *)memory;
        name->len = log_length(&m, 0);
    }
    if (record != NULL) {
        record->ptr = (const char *)memory;
        if (size != 0)
            record->ptr += log_length(&m, 0);
        record->len = log_length(&m, 1);
    }
    return MSC4203_OK;
}

MSC4203_PRIVATE int log_opening(void *context, uint32_t back, uint64_t *random, uint64_t *first)
{
    struct msc4203_log_state *s = log_of(context);
    uint32_t at = s->word[LOG_OPENING];

    if (back >= s->openings)
        return MSC4203_END;
    at = at > back ? at - back - 1 : at + s->openings - back - 1;
    *random = log_word64(s, LOG_OPENINGS + 4 * at);
    *first = log_word64(s, LOG_OPENINGS + 4 * at + 2);
    return *first == 0 ? MSC4203_END : MSC4203_OK;
}

MSC4203_PRIVATE int log_count(void *context, uint32_t channel, const msc4203_device *device,
                              msc4203_counts *counts)
{
    struct msc4203_log_state *s = log_of(context);
    uint32_t w = log_channel_words(channel), number = 0, first, failed;
    struct log_message m;
    int result = s->error ? MSC4203_E_STORAGE : MSC4203_OK;

    memset(counts, 0, sizeof *counts);
    if (device != NULL)
        result = log_check(s, 0, device, &number);
    if (channel >= MSC4203_CHANNELS)
        result = MSC4203_E_USAGE;
    if (result != MSC4203_OK || (device != NULL && number == 0))
        return result;
    if (device != NULL) {
        w = log_device_words(s, number - 1);
        counts->messages = s->word[w + CHAIN_COUNT];
        counts->bytes = (uint64_t)s->word[w + CHAIN_UNITS] * 8;
    } else {
        counts->messages = s->word[w + CHAIN_COUNT];
        counts->bytes = (uint64_t)s->word[w + CHAIN_UNITS] * 8;
        counts->through = log_word64(s, w + CHANNEL_HELD);
        if (channel == 0) {
            counts->through = s->settled - 1;
            counts->time_ms = (uint64_t)s->word[LOG_TIME] << 10;
        }
    }
    first = channel == 0 && device == NULL ? 0 : s->word[w + CHAIN_FIRST];
    if (first != 0 && log_load(s, first, &m)) {
        counts->first = m.number;
        counts->time_ms = log_time(&m);
    }
    failed = s->error;
    s->error = 0;
    return failed ? MSC4203_E_STORAGE : MSC4203_OK;
}

/* ---- making and opening ---- */

MSC4203_PRIVATE uint32_t log_mask(uint32_t n)
{
    uint32_t mask = 1;
    while (mask < n)
        mask = mask << 1 | 1;
    return mask >> 1;
}

/* Lays the region and the index out. Returns 0 when the region is too small, or too large. */
MSC4203_PRIVATE int log_layout(struct msc4203_log_state *s, const msc4203_log_config *config,
                               uint64_t bytes)
{
    s->devices = config->devices;
    s->requests = config->requests;
    s->openings = config->openings;
    s->message_bytes = config->message_bytes;
    if (s->devices - 1 >= 1 << 24 || s->requests - 1 >= 1 << 24 || s->openings - 1 >= 1 << 24 ||
        s->message_bytes > 1 << 26)
        return 0;
    s->device_mask = log_mask(s->devices);
    s->request_mask = log_mask(s->requests);
    s->device_at = LOG_OPENINGS + 4 * (s->openings + s->requests);
    s->memory_at = log_device_words(s, s->devices);
    s->ring_at = 1024 + 2 * (((uint64_t)s->memory_at * 4 + 511) & ~(uint64_t)511);
    if (bytes < s->ring_at || bytes - s->ring_at >= (uint64_t)1 << 33)
        return 0;
    s->units = (uint32_t)((bytes - s->ring_at) >> 3);
    return log_capacity(s) > log_longest(s);
}

/* The configuration with the defaults filled in. */
MSC4203_PRIVATE void log_defaults(const msc4203_log_config *config, uint64_t bytes,
                                  msc4203_log_config *full)
{
    msc4203_log_config none = {0, 0, 0, 0};

    *full = config != NULL ? *config : none;
    if (full->devices == 0)
        full->devices = 1024;
    if (full->requests == 0)
        full->requests = bytes >> 10 < 4096 ? (uint32_t)(bytes >> 10) : 4096;
    if (full->openings == 0)
        full->openings = bytes >> 11 < 1000 ? (uint32_t)(bytes >> 11) : 1000;
    if (full->message_bytes == 0)
        full->message_bytes = bytes >> 3 < 73728 ? (uint32_t)(bytes >> 3) : 73728;
}

MSC4203_PRIVATE size_t log_memory_bytes(const struct msc4203_log_state *s)
{
    const uint32_t *word = s->word;
    return (size_t)(log_cursor(s, MSC4203_CHANNELS) - word) * sizeof *word;
}

MSC4203_API size_t msc4203_log_memory(msc4203_log *log, const msc4203_log_config *config,
                                      uint64_t bytes)
{
    msc4203_log_config full;
    uint32_t word = 0;

    log_defaults(config, bytes, &full);
    log->priv.word = &word; /* only to count from */
    return log_layout(&log->priv, &full, bytes) ? log_memory_bytes(&log->priv) : 0;
}

/* Reads the header of an image; returns its number, 0 when there is none. */
MSC4203_PRIVATE uint32_t log_header(struct msc4203_log_state *s, uint32_t which, uint32_t *b)
{
    log_read(s, which & 1 ? 512 : 0, b, LOG_HEADER * 4);
    if (memcmp(b, "msc4203", 8) != 0 ||
        log_crc(log_crc(0xFFFFFFFFu, b, 12), b + 4, LOG_HEADER * 4 - 16) != log_get(b + 3))
        return 0;
    log_swap(b, LOG_HEADER);
    memcpy(log_header_state(s), b + 6, LOG_HEADER_STATE * sizeof *b);
    return b[2] == 1 ? s->images : 0;
}

/* Finds the newest header, and lays everything out. */
MSC4203_APART int log_inspect(struct msc4203_log_state *s, const msc4203_storage *storage)
{
    uint32_t b[LOG_HEADER], odd;
    msc4203_log_config config;

    memset(s, 0, sizeof *s);
    s->storage = storage;
    if (storage->bytes < 1024)
        return MSC4203_E_FORMAT;
    odd = log_header(s, 1, b);
    if (log_header(s, 0, b) <= odd && log_header(s, 1, b) == 0)
        return s->error ? MSC4203_E_STORAGE : MSC4203_E_FORMAT;
    if (s->error)
        return MSC4203_E_STORAGE;
    memcpy(&config, log_header_state(s), sizeof config);
    log_swap(s->key, 2);
    s->salt = log_crc(0xFFFFFFFFu, s->key, 8);
    log_swap(s->key, 2);
    if ((b[4] | (uint64_t)b[5] << 32) != storage->bytes)
        return MSC4203_E_REGION;
    return log_layout(s, &config, storage->bytes) ? MSC4203_OK : MSC4203_E_FORMAT;
}

MSC4203_API int msc4203_log_inspect(msc4203_log *log, const msc4203_storage *storage,
                                    msc4203_log_config *config)
{
    int result = log_inspect(&log->priv, storage);

    config->devices = log->priv.devices;
    config->requests = log->priv.requests;
    config->openings = log->priv.openings;
    config->message_bytes = log->priv.message_bytes;
    return result;
}

MSC4203_API int msc4203_log_format(msc4203_log *log, const msc4203_storage *storage,
                                   const msc4203_log_config *config, uint64_t random)
{
    uint32_t one = 1;
    msc4203_log_config full;
    struct msc4203_log_state *s = &log->priv;
    uint64_t at;

    memset(s, 0, sizeof *s);
    s->storage = storage;
    log_defaults(config, storage->bytes, &full);
    if (!log_layout(s, &full, storage->bytes))
        return MSC4203_E_REGION;
    log_zeros(s, 0, LOG_HEADER * 4); /* first, no log at all */
    log_zeros(s, 512, LOG_HEADER * 4);
    log_sync(s);
    s->words = s->device_at; /* all zeros but the next number, 1 */
    at = log_image_at(s, 1);
    log_swap(&one, 1);
    log_write(s, at, &one, 4);
    s->image_crc = log_crc(0xFFFFFFFFu, &one, 4);
    for (one = 0, full.devices = 1; full.devices < s->words; full.devices++) {
        log_write(s, at += 4, &one, 4);
        s->image_crc = log_crc(s->image_crc, &one, 4);
    }
    s->key[0] = (uint32_t)random;
    s->key[1] = (uint32_t)(random >> 32);
    s->late[0] = 1;
    s->late[LOG_LATE - 2] = s->words;
    s->late[LOG_LATE - 1] = s->image_crc;
    log_image_header(s);
    log_sync(s);
    return s->error ? MSC4203_E_STORAGE : MSC4203_OK;
}

/* Reads an image; returns 0 when it is damaged. */
MSC4203_APART int log_load_image(struct msc4203_log_state *s, uint32_t which)
{
    uint32_t b[LOG_HEADER], crc = 0;
    msc4203_log_config config;

    memcpy(&config, &s->devices, sizeof config);
    if (log_header(s, which, b) != 0)
        crc = (uint32_t)(memcmp(&config, &s->devices, sizeof config) == 0);
    memcpy(&s->devices, &config, sizeof config); /* by which everything was laid out */
    if (crc == 0 || s->words > s->memory_at || s->words < s->device_at)
        return 0;
    memset(s->word, 0, (size_t)s->memory_at * 4);
    log_read(s, log_image_at(s, which), s->word, s->words * 4);
    crc = log_crc(0xFFFFFFFFu, s->word, s->words * 4);
    log_swap(s->word, s->words);
    s->durable = s->firm = s->imaged = s->end;
    s->safe = s->tail;
    return crc == s->image_crc && s->end - s->base <= s->units - 2 &&
           s->end - s->safe <= s->units && s->word[LOG_USED] <= s->devices;
}

/* Tells whether a record can be at the ring's end: of this opening or a later one and, a journal or
 * with `whole`, with its body. */
MSC4203_PRIVATE int log_follows(struct msc4203_log_state *s, uint32_t epoch, int whole,
                                struct log_message *m)
{
    uint32_t bytes;
    uint64_t at;

    if (log_load_at(s, s->end, m) == 0 || (uint16_t)(m->about - epoch) > 0x7FFF ||
        m->units > log_free(s))
        return 0;
    if (m->type != LOG_PAIRS_OF && (!whole || m->type == LOG_FILLER))
        return 1;
    at = log_body(s, m, &bytes);
    return log_transfer(s, at, 0, bytes) == m->body;
}

/* Finds the next record from the ring's end on, where nothing may be left for the length of two
 * records. Returns 0 when there is none; the ring's end is then as it was. */
MSC4203_APART int log_follow(struct msc4203_log_state *s, uint32_t epoch, int whole,
                             struct log_message *m)
{
    uint32_t start = s->end, tries = 2 * log_longest(s) + 2;

    while (tries-- != 0 && log_free(s) != 0) {
        if (log_follows(s, epoch, whole, m))
            return 1;
        log_end_at(s, log_behind(s, s->end, 1));
    }
    log_end_at(s, start);
    return 0;
}

/* Looks from `start` to the ring's end for what was durable. Returns 0 when something before that
 * is broken. */
MSC4203_APART int log_survey(struct msc4203_log_state *s, uint32_t start, uint32_t epoch)
{
    uint32_t end = s->end, at, found;
    struct log_message m;
    int good = 1;

    log_end_at(s, start);
    do {
        at = s->end;
        found = (uint32_t)log_follow(s, epoch, 0, &m);
        if ((!found || s->end != at) && log_before(at, s->durable)) {
            log_damage(s);
            good = 0;
        }
        if (found) {
            if (m.type == LOG_PAIRS_OF) {
                uint32_t durable = m.from, firm = m.length[0]; /* which stand there */

                if (log_before(s->durable, durable) && !log_before(s->end, durable))
                    s->durable = durable; /* none speaks of what comes behind it */
                if (log_before(s->firm, firm) && !log_before(s->end, firm))
                    s->firm = firm;
            }
            epoch = m.about;
            log_end_at(s, log_behind(s, s->end, m.units));
        }
    } while (found);
    log_end_at(s, end);
    return good;
}

/* Repeats the journal. Returns 0 when there is damage in it. *numbers is greater than every number
 * that a message has. */
MSC4203_APART int log_repeat(struct msc4203_log_state *s, uint64_t *numbers)
{
    uint32_t part = 0, parts = 0, place, at, epoch = s->epoch;
    struct log_message m;
    int good = 1;

    for (;;) {
        at = s->end;
        if (!log_follow(s, epoch, !log_before(at, s->durable), &m))
            break;
        place = s->end;
        if (place != at) {
            if (!log_before(at, s->durable)) { /* it was never promised */
                log_end_at(s, at);
                break;
            }
            good = 0;
            parts = 0;
        }
        log_end_at(s, log_behind(s, place, m.units));
        if ((uint16_t)(m.about - epoch) != 0 ||
            (m.type != LOG_PAIRS_OF && m.type != LOG_FILLER)) /* the ring's end may part them */
            parts = 0;
        epoch = m.about;
        if (m.type <= LOG_COPY && m.number >= *numbers)
            *numbers = m.number + 1;
        if (m.type == LOG_COPY && !log_is_used(s, log_device(s, m.hash)))
            log_index(s); /* the journal has put its device elsewhere */
        if (m.type == LOG_COPY || (m.type == LOG_CHANNEL && m.from != 0))
            log_switch(s, &m);
        if (m.type != LOG_PAIRS_OF)
            continue;
        if (parts++ == 0)
            part = place;
        if (log_flags(&m) != 0) {
            log_apply(s, part, s->end, 1);
            parts = 0;
        }
    }
    if (log_before(at, s->durable)) { /* the end itself is damaged */
        good = 0;
        log_end_at(s, log_behind(s, s->durable, 0));
    }
    s->epoch += (uint16_t)(epoch - s->epoch);
    return good;
}

/* Takes the numbers away from messages whose commit was lost. */
MSC4203_APART void log_unnumber(struct msc4203_log_state *s, uint32_t start)
{
    uint64_t next = log_word64(s, LOG_NEXT);
    struct log_message m;

    while (log_before(start, s->end)) {
        if (log_load_at(s, start, &m) == 0) {
            m.units = 1;
        } else if (m.type == LOG_MESSAGE && m.number >= next) {
            m.number = 0;
            log_store(s, &m);
        }
        start = log_behind(s, start, m.units);
    }
}

/* Ends what a crash interrupted, but for drops. */
MSC4203_APART int log_resume(struct msc4203_log_state *s)
{
    uint32_t i;
    int result = MSC4203_OK;

    for (i = 1; i < MSC4203_CHANNELS && result == MSC4203_OK; i++)
        result = log_sweep(s, i);
    return s->error ? MSC4203_E_STORAGE : result;
}

/* Tells this opening. */
MSC4203_PRIVATE void log_new_opening(struct msc4203_log_state *s, uint64_t random)
{
    uint64_t next = log_word64(s, LOG_NEXT) + LOG_SKIP;
    uint32_t at = s->word[LOG_OPENING], *opening = s->word + LOG_OPENINGS + 4 * at;

    opening[0] = (uint32_t)random;
    opening[1] = (uint32_t)(random >> 32);
    opening[2] = s->word[LOG_NEXT] = (uint32_t)next;
    opening[3] = s->word[LOG_NEXT + 1] = (uint32_t)(next >> 32);
    s->word[LOG_OPENING] = at + 1 == s->openings ? 0 : at + 1;
    s->settled = next;
    s->epoch++;
}

MSC4203_API int msc4203_log_open(msc4203_log *log, const msc4203_storage *storage, void *memory,
                                 size_t bytes, uint64_t random)
{
    struct msc4203_log_state *s = &log->priv;
    uint64_t numbers = 0;
    uint32_t start, epoch;
    int result = log_inspect(s, storage), good;

    s->error = 1; /* until it is open */
    if (result != MSC4203_OK)
        return result;
    s->word = (uint32_t *)memory;
    if (bytes < log_memory_bytes(s))
        return MSC4203_E_INDEX;
    s->error = 0;
    start = s->images;
    good = log_load_image(s, start);
    if (!good && !s->error) /* the power went while it was written; or it is damaged */
        good = log_load_image(s, start + 1);
    if (!good) {
        result = s->error ? MSC4203_E_STORAGE : MSC4203_E_DAMAGED;
        s->error = 1;
        return result;
    }
    log_index(s);
    start = s->end;
    epoch = s->epoch;
    log_survey(s, start, epoch);
    s->damaged = 0;
    good = log_repeat(s, &numbers) || log_survey(s, start, epoch);
    if (numbers > log_word64(s, LOG_NEXT))
        log_unnumber(s, start);
    log_index(s);
    if (!good)
        log_heal(s);
    log_new_opening(s, random);
    log_images(s);
    result = s->error ? MSC4203_E_STORAGE : log_resume(s);
    return result == MSC4203_OK ? log_drops(s, 0) : result;
}

MSC4203_API void msc4203_log_quotas(msc4203_log *log, uint64_t channel_bytes,
                                    uint64_t device_bytes)
{
    log->priv.channel_units = (uint32_t)(channel_bytes >> 3);
    log->priv.device_units = (uint32_t)(device_bytes >> 3);
}

MSC4203_API uint64_t msc4203_log_key(const msc4203_log *log)
{
    return log->priv.key[0] | (uint64_t)log->priv.key[1] << 32;
}

MSC4203_API int msc4203_log_close(msc4203_log *log)
{
    struct msc4203_log_state *s = &log->priv;
    int failed;

    log_flush(s);
    if (!s->error)
        log_images(s);
    failed = s->error;
    s->error = 1;
    return failed ? MSC4203_E_STORAGE : MSC4203_OK;
}

MSC4203_API void msc4203_log_queue(msc4203_log *log, msc4203_queue *queue)
{
    queue->version = MSC4203_QUEUE_VERSION;
    queue->context = log;
    queue->begin = log_begin;
    queue->push = log_push;
    queue->commit = log_commit;
    queue->abort = log_abort;
    queue->known = log_known;
    queue->flush = log_flush_all;
    queue->next = log_next;
    queue->done = log_done;
    queue->hold = log_hold;
    queue->move = log_move;
    queue->drop = log_drop;
    queue->expire = log_expire;
    queue->channel = log_channel;
    queue->release = log_release;
    queue->record = log_record;
    queue->opening = log_opening;
    queue->count = log_count;
}

MSC4203_API void msc4203_log_usage_get(const msc4203_log *log, msc4203_log_usage *usage)
{
    const struct msc4203_log_state *s = &log->priv;
    uint32_t i;

    usage->messages = s->word[LOG_MESSAGES];
    usage->used = (uint64_t)s->word[LOG_LIVE] * 8;
    usage->capacity = (uint64_t)log_capacity(s) * 8;
    usage->damaged = s->damaged;
    usage->devices = 0;
    for (i = 0; i < s->word[LOG_USED]; i++)
        usage->devices += s->word[log_device_words(s, i) + CHAIN_COUNT] != 0;
}

/* ---- reading a log without opening it ---- */

/* Fills in what is told of a record; its strings go to `memory`. */
MSC4203_PRIVATE void log_tell(struct msc4203_log_state *s, const struct log_message *m,
                              uint32_t used, char *memory, size_t bytes, msc4203_log_entry *entry)
{
    uint32_t size, crc = m->body; /* a filler has none */
    uint64_t at = log_body(s, m, &size);

    if (size > bytes && m->type != LOG_FILLER) {
        crc = log_transfer(s, at, 0, size);
    } else if (m->type != LOG_FILLER) {
        log_read(s, at, memory, size);
        crc = log_crc(s->salt, memory, size);
    }
    entry->at = log_at(s, m->at);
    entry->bytes = m->units * 8;
    entry->kind = (int)m->type;
    if (crc != m->body && used) /* else it was never promised */
        entry->error = MSC4203_E_DAMAGED;
    if (m->type > LOG_COPY)
        return;
    entry->number = m->number;
    entry->time_ms = log_time(m);
    entry->channels = m->waiting;
    if (crc == m->body && size <= bytes)
        log_strings(m, memory, size, &entry->sender);
}

/* What msc4203_log_scan() works with, in the caller's memory. */
struct log_scan {
    struct msc4203_log_state state;
    msc4203_log_entry entry;
};

MSC4203_API int msc4203_log_scan(const msc4203_storage *storage, void *memory, size_t bytes,
                                 int (*see)(void *context, const msc4203_log_entry *entry),
                                 void *context)
{
    struct log_scan *scan = (struct log_scan *)memory;
    struct msc4203_log_state *s = &scan->state;
    msc4203_log_entry *entry = &scan->entry;
    struct log_message m;
    uint32_t unit, bad = 0, type, used, round;
    int result;

    if (bytes < sizeof *scan)
        return MSC4203_E_INDEX;
    result = log_inspect(s, storage);
    if (result != MSC4203_OK)
        return result;
    s->durable = s->firm = s->end;
    s->safe = s->tail;
    log_survey(s, s->end, s->epoch); /* for what was durable */
    for (unit = 0; unit < s->units && result == MSC4203_OK && !s->error; unit += m.units) {
        uint32_t base = s->base;

        /* of the next round, of this one, or of the one before */
        for (type = used = 0, round = 3; (type | used) == 0 && round != 0; round--) {
            uint32_t place = base + (round - 2) * s->units + unit;

            s->base = place - unit;
            used = place - s->tail < s->durable - s->tail;
            type = log_load_at(s, place, &m);
        }
        s->base = base;
        if (unit + 1 == s->units) /* none begins there */
            used = 0;
        if (type == 0) {
            m.units = 1;
            bad += used;
        }
        if (type == 0 && (used || bad == 0))
            continue;
        memset(entry, 0, sizeof *entry);
        if (bad != 0) {
            entry->at = s->ring_at + (uint64_t)(unit - bad) * 8;
            entry->bytes = bad * 8;
            entry->error = MSC4203_E_DAMAGED;
            result = see(context, entry);
            entry->error = MSC4203_OK;
            bad = 0;
        }
        if (type == 0 || result != MSC4203_OK)
            continue;
        log_tell(s, &m, used, (char *)(scan + 1), bytes - sizeof *scan, entry);
        result = see(context, entry);
    }
    return s->error ? MSC4203_E_STORAGE : result;
}

MSC4203_API void msc4203_memory_storage(msc4203_storage *storage, void *memory, uint64_t bytes)
{
    memset(storage, 0, sizeof *storage);
    storage->version = 1;
    storage->bytes = bytes;
    storage->memory = (unsigned char *)memory;
}

/* ---- storage in a file ---- */

#if defined(MSC4203_FILE) && !defined(MSC4203_NO_FILE)
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

enum { FILE_LINES = 16, FILE_LINE = 16384 };

/* Reads or writes all bytes: calls go on where a signal or the system's limit ended them. Returns
 * how many it were, fewer where the file ends; SIZE_MAX after an error. */
MSC4203_PRIVATE size_t file_all(int fd, uint64_t at, unsigned char *data, size_t bytes, int writes)
{
    size_t done = 0;

    while (done != bytes) {
        ssize_t n = writes ? pwrite(fd, data + done, bytes - done, (off_t)(at + done))
                           : pread(fd, data + done, bytes - done, (off_t)(at + done));
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

/* A log's reads and writes are small, and most are near those before: behind them, or in a message
 * lately written. So a few lines of the file are held, each with what is known of it: most of what
 * is written is behind what was written before, and what was there need not be read. */

/* Writes what of a line is still to be written. After a failure nothing more is. */
MSC4203_PRIVATE int file_clean(msc4203_file *file, unsigned i)
{
    uint32_t first = file->priv.line[i].first, bytes = file->priv.line[i].end - first;

    if (!file->priv.error && bytes != 0 &&
        file_all(file->priv.fd, file->priv.line[i].at - 1 + first,
                 file->priv.buffer + i * FILE_LINE + first, bytes, 1) != bytes)
        file->priv.error = 1;
    file->priv.line[i].first = file->priv.line[i].end = 0;
    return file->priv.error ? -1 : 0;
}

/* The line that is for a place: it holds that, or, cleaned, nothing yet. */
MSC4203_PRIVATE unsigned file_line(msc4203_file *file, uint64_t at)
{
    unsigned i = (unsigned)(at / FILE_LINE) % FILE_LINES;

    at = at - at % FILE_LINE + 1;
    if (file->priv.line[i].at != at) {
        file_clean(file, i);
        file->priv.line[i].at = at;
        file->priv.line[i].known = file->priv.line[i].stop = 0;
    }
    return i;
}

/* Reads a part of a line; behind the file's end there are zeros. */
MSC4203_PRIVATE int file_fetch(msc4203_file *file, unsigned i, uint32_t from, uint32_t to)
{
    unsigned char *data = file->priv.buffer + i * FILE_LINE + from;
    size_t bytes = to - from, got = 0;

    if (bytes != 0)
        got = file_all(file->priv.fd, file->priv.line[i].at - 1 + from, data, bytes, 0);
    if (got > bytes)
        return -1;
    memset(data + got, 0, bytes - got);
    return 0;
}

/* Reads what is not known of a line. */
MSC4203_PRIVATE int file_fill(msc4203_file *file, unsigned i)
{
    if (file_fetch(file, i, 0, file->priv.line[i].known) != 0 ||
        file_fetch(file, i, file->priv.line[i].stop, FILE_LINE) != 0)
        return -1;
    file->priv.line[i].known = 0;
    file->priv.line[i].stop = FILE_LINE;
    return 0;
}

/* Makes a stretch of a line, empty when it ends at 0, reach from `from` to `to` at the least. */
MSC4203_PRIVATE void file_widen(uint16_t *first, uint16_t *end, uint32_t from, uint32_t to)
{
    if (*end == 0 || from < *first)
        *first = (uint16_t)from;
    if (to > *end)
        *end = (uint16_t)to;
}

/* The part of a transfer that is in one line. */
MSC4203_PRIVATE uint32_t file_part(uint64_t at, size_t bytes)
{
    uint32_t rest = FILE_LINE - (uint32_t)(at % FILE_LINE);
    return bytes < rest ? (uint32_t)bytes : rest;
}

MSC4203_PRIVATE int file_write(void *context, uint64_t at, const void *data, size_t bytes)
{
    msc4203_file *file = (msc4203_file *)context;
    const unsigned char *from = (const unsigned char *)data;
    uint32_t n;

    for (; bytes != 0 && !file->priv.error; bytes -= n, at += n, from += n) {
        unsigned i = file_line(file, at);
        uint32_t first = (uint32_t)(at % FILE_LINE), end;

        n = file_part(at, bytes);
        end = first + n;
        if (file->priv.line[i].stop != 0 &&
            (first > file->priv.line[i].stop || end < file->priv.line[i].known) &&
            file_fill(file, i) != 0)
            return -1;
        memcpy(file->priv.buffer + i * FILE_LINE + first, from, n);
        file_widen(&file->priv.line[i].known, &file->priv.line[i].stop, first, end);
        file_widen(&file->priv.line[i].first, &file->priv.line[i].end, first, end);
    }
    return file->priv.error ? -1 : 0;
}

MSC4203_PRIVATE int file_read(void *context, uint64_t at, void *data, size_t bytes)
{
    msc4203_file *file = (msc4203_file *)context;
    unsigned char *to = (unsigned char *)data;
    uint32_t n;

    for (; bytes != 0; bytes -= n, at += n, to += n) {
        unsigned i = file_line(file, at);
        uint32_t first = (uint32_t)(at % FILE_LINE);

        n = file_part(at, bytes);
        if (file->priv.error)
            return -1;
        if ((first < file->priv.line[i].known || first + n > file->priv.line[i].stop) &&
            file_fill(file, i) != 0)
            return -1;
        memcpy(to, file->priv.buffer + i * FILE_LINE + first, n);
    }
    return 0;
}

/* Makes the bytes of a file of fixed size durable. */
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
    unsigned i;

    for (i = 0; i < FILE_LINES; i++)
        if (file_clean(file, i) != 0)
            return -1;
    if (file_sync_data(file->priv.fd) != 0)
        file->priv.error = 1; /* what was written may be lost, and asking again would not tell */
    return file->priv.error ? -1 : 0;
}

/* Begins with a file that is open. */
MSC4203_PRIVATE void file_begin(msc4203_file *file)
{
    memset(file->priv.line, 0, sizeof file->priv.line);
    file->priv.error = 0;
}

MSC4203_PRIVATE void file_storage(msc4203_file *file, uint64_t bytes, msc4203_storage *storage)
{
    memset(storage, 0, sizeof *storage);
    storage->version = 1;
    storage->context = file;
    storage->bytes = bytes;
    storage->read = file_read;
    storage->write = file_write;
    storage->sync = file_sync;
}

/* Makes the names in the folder of `path` durable. `name` has room for it. */
MSC4203_PRIVATE int file_sync_folder(const char *path, char *name)
{
    size_t n = strlen(path);
    int fd, failed;

    while (n != 0 && path[n - 1] != '/')
        n--;
    memcpy(name, path, n);
    if (n == 0)
        name[n++] = '.';
    name[n] = 0;
    fd = open(name, O_RDONLY);
    if (fd < 0)
        return -1;
    failed = fsync(fd) != 0 && errno != EINVAL; /* some file systems can't, and need not */
    close(fd);
    return failed ? -1 : 0;
}

MSC4203_PRIVATE int file_lock(int fd)
{
    struct flock lock;

    memset(&lock, 0, sizeof lock);
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    if (fcntl(fd, F_SETLK, &lock) == 0)
        return MSC4203_OK;
    if (errno == EACCES || errno == EAGAIN) /* unreachable: else, where files have no locks */
        return MSC4203_E_LOCKED;
    return MSC4203_E_STORAGE; /* unreachable: as above */
}

/* Writes a file full of zeros, so that it has all its blocks, and a log into it. */
MSC4203_PRIVATE int file_make(msc4203_file *file, uint64_t bytes, const msc4203_log_config *config,
                              uint64_t random)
{
    msc4203_storage storage;
    uint64_t at;
    size_t n;

    memset(file->priv.buffer, 0, sizeof file->priv.buffer);
    for (at = 0; at < bytes; at += n) {
        n = bytes - at < sizeof file->priv.buffer ? (size_t)(bytes - at)
                                                  : sizeof file->priv.buffer;
        if (file_all(file->priv.fd, at, file->priv.buffer, n, 1) != n)
            return MSC4203_E_STORAGE;
    }
    file_storage(file, bytes, &storage);
    return msc4203_log_format(&file->priv.log, &storage, config, random);
}

MSC4203_API int msc4203_file_create(msc4203_file *file, const char *path, uint64_t bytes,
                                    const msc4203_log_config *config, uint64_t random)
{
    char *name = file->priv.name;
    size_t n = strlen(path);
    int result;

    if (n > sizeof file->priv.name - 8) {
        errno = ENAMETOOLONG;
        return MSC4203_E_STORAGE;
    }
    memcpy(name, path, n);
    memcpy(name + n, ".new", 5);
    file_begin(file);
    file->priv.fd = open(name, O_RDWR | O_CREAT, 0600);
    if (file->priv.fd < 0)
        return MSC4203_E_STORAGE;
    result = file_lock(file->priv.fd);
    if (result == MSC4203_OK && ftruncate(file->priv.fd, 0) != 0)
        result = MSC4203_E_STORAGE;
    if (result == MSC4203_OK)
        result = file_make(file, bytes, config, random);
    if (result == MSC4203_OK && (fsync(file->priv.fd) != 0 || rename(name, path) != 0 ||
                                 file_sync_folder(path, name) != 0))
        result = MSC4203_E_STORAGE;
    else if (result != MSC4203_OK && result != MSC4203_E_LOCKED)
        unlink(name);
    close(file->priv.fd);
    return result;
}

MSC4203_API int msc4203_file_open(msc4203_file *file, const char *path, int writable,
                                  msc4203_storage *storage)
{
    off_t bytes;
    int result = MSC4203_OK;

    memset(storage, 0, sizeof *storage);
    file_begin(file);
    file->priv.fd = open(path, writable ? O_RDWR : O_RDONLY);
    if (file->priv.fd < 0)
        return errno == ENOENT ? MSC4203_END : MSC4203_E_STORAGE;
    bytes = lseek(file->priv.fd, 0, SEEK_END); /* which a device tells, too */
    if (bytes < 0)
        result = MSC4203_E_STORAGE;
    else if (writable)
        result = file_lock(file->priv.fd);
    if (result != MSC4203_OK) {
        close(file->priv.fd);
        file->priv.fd = -1;
        return result;
    }
    file_storage(file, (uint64_t)bytes, storage);
    return MSC4203_OK;
}

MSC4203_API int msc4203_file_close(msc4203_file *file)
{
    unsigned i;
    int failed = 0;

    for (i = 0; i < FILE_LINES; i++)
        failed |= file_clean(file, i);
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
        s->config.trace(s->config.context, what, &s->transaction, status);
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
        s->queue->record(s->queue->context, s->config.channel, memory, bytes, NULL, record);

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
        result = s->queue->done(s->queue->context, s->config.channel, NULL, s->transaction.last,
                                &record);
    else
        result = s->queue->hold(s->queue->context, s->config.channel, s->transaction.first - 1,
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
    int result = q->move(q->context, s->config.channel, NULL, number, (uint32_t)1 << parked,
                         &moved);

    s->dirty = 1;
    if (result != MSC4203_OK)
        return result == MSC4203_END ? MSC4203_OK : result;
    s->status.parked++;
    sender_trace(s, MSC4203_TRACE_PARKED, status);
    result = q->record(q->context, s->config.channel, text, bytes, &name, NULL);
    if (result != MSC4203_OK)
        return result == MSC4203_END ? MSC4203_OK : result;
    /* The line, behind what there is already. */
    result = q->record(q->context, parked, text + 300, bytes - 300, NULL, &record);
    if (result != MSC4203_OK && result != MSC4203_END)
        return result;
    old = result == MSC4203_OK ? record.len : 0;
    all = old + name.len + 14;
    at = delivery_hex(text + 300 + old, moved, 12);
    *at++ = ' ';
    memcpy(at, name.ptr, name.len);
    at[name.len] = '\n';
    result = q->count(q->context, parked, NULL, &counts);
    if (result != MSC4203_OK)
        return result;
    most = SENDER_RECORD_MAX;
    do { /* a small log keeps less */
        for (skip = 0; all - skip > most; skip++)
            while (skip + 1 < old && text[300 + skip] != '\n')
                skip++;
        record.ptr = text + 300 + skip;
        record.len = all - skip;
        result = q->hold(q->context, parked, counts.through, &record);
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
    int result = s->queue->next(s->queue->context, s->config.channel, NULL, after, memory, bytes,
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
            result = s->queue->done(s->queue->context, s->config.channel, NULL, after, NULL);
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
            s->config.siblings(s->config.context, &s->message, NULL);
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
    s->config.siblings(s->config.context, NULL, writer);
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
    result = s->queue->opening(s->queue->context, 0, &s->opening, &s->begin);
    if (result != MSC4203_OK)
        return result;
    s->made = now_ms;
    sender_note(s, SENDER_IN_FLIGHT, (unsigned char *)memory);
    record.ptr = memory;
    record.len = SENDER_RECORD + size;
    result = s->queue->hold(s->queue->context, s->config.channel, t->last, &record);
    if (result == MSC4203_E_TOO_LARGE && size != 0) { /* a small log: without siblings, then */
        t->bytes -= size - SENDER_END;
        sender_note(s, SENDER_IN_FLIGHT, (unsigned char *)memory);
        record.len = SENDER_RECORD;
        result = s->queue->hold(s->queue->context, s->config.channel, t->last, &record);
    }
    if (result == MSC4203_OK)
        result = s->queue->flush(s->queue->context);
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
        result = queue->next(queue->context, config->channel, NULL, t->first - 1, memory, bytes,
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
            result = s->dirty ? s->queue->flush(s->queue->context) : MSC4203_OK;
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
    high = delivery_digit((*p)[0] | 0x20u);
    low = delivery_digit((*p)[1] | 0x20u);
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

    if (q->count(q->context, MSC4203_CHANNEL_SYNC, NULL, &counts) != MSC4203_OK)
        return 0;
    bound = counts.through + 1;
    for (back = 0; q->opening(q->context, back, &random, &first) == MSC4203_OK; back++) {
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
    result = queue->opening(queue->context, 0, &s->opening, &number);
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
    return queue->done(queue->context, MSC4203_CHANNEL_SYNC, device, number, NULL);
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
        result = q->next(q->context, MSC4203_CHANNEL_SYNC, &s->device, after, memory, bytes,
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
    int result = queue->next(queue->context, channel, device, after, memory, bytes, message);

    if (result == MSC4203_E_DAMAGED && message->number > after)
        message->channels = 0; /* it waits nowhere that is known */
    else if (result != MSC4203_ITEM && (result != MSC4203_E_TOO_LARGE || device == NULL))
        return result;
    return MSC4203_ITEM;
}

MSC4203_APART int change_move(const msc4203_queue *queue, uint32_t channel,
                              const msc4203_device *device, uint64_t number, uint32_t channels)
{
    return queue->move(queue->context, channel, device, number, channels, NULL);
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
    return route(context, &device);
}

/* The number up to which a channel is in flight. */
MSC4203_APART int change_begin(const msc4203_queue *queue, uint32_t channel, uint64_t *through)
{
    msc4203_counts counts;
    int result = queue->count(queue->context, channel, NULL, &counts);

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
    int result = queue->count(queue->context, MSC4203_CHANNEL_SYNC, NULL, &counts);

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
    return queue->expire(queue->context, now_ms > age_ms ? now_ms - age_ms : 0, expired);
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
#undef LOG_IN_RING
#undef MSC4203_APART

#endif /* MSC4203_IMPLEMENTED */
#endif /* MSC4203_IMPLEMENTATION */
