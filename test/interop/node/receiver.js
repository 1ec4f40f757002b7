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

appservice.on("ephemeral.event", e => {
    // The SDK's note of where it came from.
    const kind = Object.entries(e.unsigned).find(([k]) => k.startsWith("io.t2bot"))?.[1]
        ?? Object.values(e.unsigned)[0];
    const { unsigned, ...event } = e;
    write(kind, event);
});
appservice.on("room.event", (room, e) => write("events", e));
appservice.on("device_lists", lists => write("device_lists", lists));
appservice.begin().then(() => console.log("receiver: listening"));
