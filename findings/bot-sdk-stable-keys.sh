#!/bin/sh
# bot-sdk-stable-keys.sh - matrix-bot-sdk 0.8.0 answers a transaction with 200 and hands on nothing
# of what has the stable names of MSC2409 and MSC4203, `ephemeral` and `to_device`: both are part of
# the specification, or on their way into it. It reads the unstable names alone. A homeserver that
# writes the stable ones loses a bridge's typing notices and room keys, and sees success.
#
# Needs node and npm. Installs the package into a temporary folder; fails if any of this changes.
set -eu
version=0.8.0
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm install --silent --no-audit --no-fund --ignore-scripts "matrix-bot-sdk@$version" </dev/null
cat >run.js <<'JS'
const http = require("http"), Module = require("module");
// The binding for encryption downloads a binary, and is not used here.
const load = Module._load;
Module._load = (name, ...rest) => name === "@matrix-org/matrix-sdk-crypto-nodejs"
    ? new Proxy({}, { get: () => class {} }) : load(name, ...rest);
const { Appservice, MemoryStorageProvider, LogService, LogLevel } = require("matrix-bot-sdk");
LogService.setLevel(LogLevel.ERROR);
const storage = new MemoryStorageProvider();
storage.addRegisteredUser("@bot:example.org");
const appservice = new Appservice({
    port: 0, bindAddress: "127.0.0.1", homeserverName: "example.org",
    homeserverUrl: "http://127.0.0.1:1", storage,
    registration: { id: "x", url: "", as_token: "a", hs_token: "h", sender_localpart: "bot",
        namespaces: { users: [{ exclusive: true, regex: "@_x_.*" }], rooms: [], aliases: [] } },
});
let seen = 0;
appservice.on("ephemeral.event", () => seen++);
const typing = { type: "m.typing", room_id: "!r:example.org", content: { user_ids: [] } };
const key = { type: "m.room_key", sender: "@u:example.org", to_user_id: "@_x_y:example.org",
    to_device_id: "D", content: {} };
const put = (server, id, body) => new Promise((done, fail) => {
    const request = http.request({ port: server.address().port, host: "127.0.0.1", method: "PUT",
        path: "/_matrix/app/v1/transactions/" + id,
        headers: { Authorization: "Bearer h", "Content-Type": "application/json" } },
    answer => answer.resume().on("end", () => done(answer.statusCode)));
    request.on("error", fail).end(JSON.stringify(body));
});
(async () => {
    const server = await new Promise(done => {
        const listen = http.Server.prototype.listen;
        http.Server.prototype.listen = function (...words) {
            this.once("listening", () => done(this));
            return listen.apply(this, words);
        };
        appservice.begin();
    });
    for (const [name, prefix] of [["stable", ""], ["unstable", "de.sorunome.msc2409."]]) {
        seen = 0;
        const status = await put(server, name, { events: [], [prefix + "ephemeral"]: [typing],
            [prefix + "to_device"]: [key] });
        console.log(`${name}: answered ${status}, ${seen} of 2 handed on`);
    }
    process.exit(0);
})();
JS
node run.js | tee out
cat >expected <<'T'
stable: answered 200, 0 of 2 handed on
unstable: answered 200, 2 of 2 handed on
T
cmp expected out
echo "matrix-bot-sdk $version: as it was"
