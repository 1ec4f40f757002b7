#!/bin/sh
# appservice-one-transaction-id.sh - matrix-appservice 3.0.0, on which the bridges of
# matrix-appservice-bridge stand, remembers one transaction id: a transaction that comes again after
# another one (a homeserver that was restarted, or that sends two at a time) is handed on again. And
# it answers 200 to a transaction that holds nothing but to-device messages, in either spelling, and
# hands none of them on: there is no event that a bridge could listen for.
#
# Needs node and npm. Installs the package into a temporary folder; fails if any of this changes.
set -eu
version=3.0.0
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm install --silent --no-audit --no-fund --ignore-scripts "matrix-appservice@$version" </dev/null
cat >run.js <<'JS'
const http = require("http");
const { AppService } = require("matrix-appservice");
const appservice = new AppService({ homeserverToken: "h", httpMaxSizeBytes: 1 << 20 });
const seen = [];
const emit = appservice.emit;
appservice.emit = function (name, ...rest) {
    if (name !== "http-log" && !name.includes(":"))
        seen.push(name);
    return emit.call(this, name, ...rest);
};
const event = { type: "m.room.message", event_id: "$1", room_id: "!r:example.org",
    sender: "@u:example.org", content: { body: "x" } };
const key = { type: "m.room_key", sender: "@u:example.org", to_user_id: "@_x_y:example.org",
    to_device_id: "D", content: {} };
let port;
const put = (what, id, body) => new Promise((done, fail) => {
    const before = seen.length;
    const request = http.request({ port, host: "127.0.0.1", method: "PUT",
        path: "/_matrix/app/v1/transactions/" + id,
        headers: { Authorization: "Bearer h", "Content-Type": "application/json" } },
    answer => answer.resume().on("end", () => {
        console.log(`${what}: answered ${answer.statusCode}, handed on ${seen.length - before}`);
        done();
    }));
    request.on("error", fail).end(JSON.stringify(body));
});
(async () => {
    const listen = http.Server.prototype.listen;
    http.Server.prototype.listen = function (...words) {
        this.once("listening", () => { port = this.address().port; });
        return listen.apply(this, words);
    };
    await appservice.listen(0, "127.0.0.1", 16);
    await put("a room event as transaction 1", "1", { events: [event] });
    await put("the same again at once", "1", { events: [event] });
    await put("another transaction", "2", { events: [] });
    await put("the first one again", "1", { events: [event] });
    await put("to-device messages, unstable", "3",
        { events: [], "de.sorunome.msc2409.to_device": [key] });
    await put("to-device messages, stable", "4", { events: [], to_device: [key] });
    process.exit(0);
})();
JS
node run.js | tee out
cat >expected <<'T'
a room event as transaction 1: answered 200, handed on 1
the same again at once: answered 200, handed on 0
another transaction: answered 200, handed on 0
the first one again: answered 200, handed on 1
to-device messages, unstable: answered 200, handed on 0
to-device messages, stable: answered 200, handed on 0
T
cmp expected out
echo "matrix-appservice $version: as it was"
