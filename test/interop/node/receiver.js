/* receiver.js PACKAGE PORT HS_TOKEN AS_TOKEN OUT - an appservice of matrix-bot-sdk, or of
 * @vector-im/matrix-bot-sdk, that writes a line of JSON for each thing that it is handed. */
"use strict";
const fs = require("fs");
const Module = require("module");
const path = require("path");
const [name, port, hs_token, as_token, out] = process.argv.slice(2);

// Both packages load their crypto binding, whose binary is no part of the package; without
// encryption it is not used.
const load = Module._load;
Module._load = (request, ...rest) => request === "@matrix-org/matrix-sdk-crypto-nodejs"
    ? new Proxy({}, { get: () => class {} }) : load(request, ...rest);

const at = path.join(process.cwd(), "node_modules", name);
const { Appservice, MemoryStorageProvider, LogService, LogLevel } = require(at);
LogService.setLevel(LogLevel.ERROR);

const storage = new MemoryStorageProvider();
storage.addRegisteredUser("@ircbot:gw.example");
const appservice = new Appservice({
    port: Number(port), bindAddress: "127.0.0.1", homeserverName: "gw.example",
    homeserverUrl: "http://127.0.0.1:1", storage,
    registration: {
        id: "irc", url: "", as_token, hs_token, sender_localpart: "ircbot",
        namespaces: { users: [{ exclusive: true, regex: "@_irc_.*:gw\\.example" }],
            rooms: [], aliases: [] },
    },
});
const write = (kind, value) => fs.appendFileSync(out, JSON.stringify([kind, value]) + "\n");

appservice.on("ephemeral.event", ({ unsigned, ...event }) =>
    write(unsigned["io.t2bot.sdk.bot.type"], event)); // the SDK's note of where it came from
appservice.on("room.event", (room, { type, sender, room_id, event_id, content }) =>
    write("events", { type, sender, room_id, event_id, content }));
appservice.on("device_lists", ({ changed, left }) => write("device_lists", { changed, left }));
appservice.on("otk.counts", counts => write("device_one_time_keys_count", counts));
appservice.on("otk.unused_fallback_keys", types =>
    write("device_unused_fallback_key_types", types));
appservice.begin().then(() => console.log("receiver: listening"));
