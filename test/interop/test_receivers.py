"""test_receivers.py - build/gateway sends to an appservice written with the peer that INTEROP_PEER
names: what the peer's own code decoded must equal what was sent, each message once, in order. The
receivers write a line [KIND, VALUE] for each thing that they are handed."""
import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from harness import (AS_TOKEN, BUILD, HERE, HS_TOKEN, INSTALLED, KINDS, PREFIX, Gateway, Program,
                     Proxy, call, free_port, wait_for)
from samples import CONTENTS, captured

PEER = os.environ["INTEROP_PEER"]
BOT_SDK = [os.environ.get("NODE", "node"), HERE / "node/receiver.js"]
# How to start it; which siblings it hands on; whether it reads the stable keys.
COMMAND, READS, STABLE = {
    "mautrix-go": ([INSTALLED / "mautrix-go"], set(KINDS[:-1]), True),
    "mautrix": ([sys.executable, "-B", HERE / "mautrix_receiver.py"], set(KINDS[:-1]), True),
    # Reads only the unstable `ephemeral`, which no longer is unstable.
    "matrix-bot-sdk": (BOT_SDK + ["matrix-bot-sdk"], set(KINDS) - {"ephemeral"}, False),
    "vector-im": (BOT_SDK + ["@vector-im/matrix-bot-sdk"], set(KINDS) - {"ephemeral"}, False),
    "ruma": ([INSTALLED / "ruma/debug/interop", "serve"], set(KINDS), False),
}[PEER]

ALICE, BOB, TOKEN = "@alice:gw.example", "@_irc_bob:gw.example", "alice-token"
ODD_USER = '@_irc_a/b=c+d"e\\f.-_:gw.example'
ODD_DEVICES = ('"\\/', "\U0001f389\u00e9\u2028", "\u0001\u007f", "*x")
USERS = [f"@_irc_u{i}:gw.example" for i in range(30)]
DEVICES = ([(ALICE, "PHONE", TOKEN), (BOB, "BOB", "b1"), (BOB, "BOB2", "b2"), (ODD_USER, "D", "o")]
           + [(BOB, d, f"b-odd{i}") for i, d in enumerate(ODD_DEVICES)]
           + [(user, f"D{i}", f"u{i}") for i, user in enumerate(USERS)])


def parsed(text):
    """All numbers as doubles: what most peers make of them."""
    return json.loads(text, parse_int=float)


class Receiver(Program):
    def __init__(self, folder):
        self.port, self.out = free_port(), folder / "receiver.out"
        self.url = f"http://127.0.0.1:{self.port}"
        self.out.touch()
        tokens = [HS_TOKEN] if PEER == "ruma" else [HS_TOKEN, AS_TOKEN]
        super().__init__(COMMAND + [self.port, *tokens, self.out], folder / "receiver.log",
                         "receiver: listening",
                         INSTALLED / "node" if COMMAND[0] == BOT_SDK[0] else folder)

    def got(self, kind="to_device"):
        # It may be written to just now: what is behind the last line break is not whole.
        lines = [parsed(line.decode()) for line in self.out.read_bytes().split(b"\n")[:-1]]
        return [value for k, value in lines if k == kind]


@pytest.fixture(scope="module")
def folder(folder):
    path = folder.parent / PEER
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def receiver(folder, started):
    return started(Receiver(folder))


@pytest.fixture(scope="module")
def proxy(receiver):
    proxy = Proxy(receiver.url)
    yield proxy
    proxy.stop()


@pytest.fixture(scope="module")
def gateway(folder, proxy, started):
    return started(Gateway(folder, proxy.url, DEVICES))


@pytest.fixture
def sends(gateway, receiver):
    return Sender(gateway, receiver)


class Sender:
    """Sends, and knows what must have arrived since it began, and nothing else, in this order."""
    count = 0

    def __init__(self, gateway, receiver):
        self.gateway, self.receiver, self.expected = gateway, receiver, []
        self.before = len(receiver.got())

    def __call__(self, type_, messages, devices=None):
        Sender.count += 1
        self.gateway.send(TOKEN, type_, f"t{Sender.count}", messages)
        self.expected += [{"type": type_, "sender": ALICE, "to_user_id": user,
                           "to_device_id": device, "content": parsed(content)}
                          for user, device, content in devices or [
                              (u, d, c) for u, ds in messages.items() for d, c in ds.items()]]

    def arrive(self):
        wait_for(lambda: len(self.receiver.got()) >= self.before + len(self.expected)
                 and self.gateway.pending() == 0, f"arrival of {len(self.expected)} messages")
        assert self.receiver.got()[self.before:] == self.expected


@pytest.mark.parametrize("name", CONTENTS)
def test_contents(sends, name):
    sends("org.example." + name, {BOB: {"BOB": CONTENTS[name]}})
    sends.arrive()


def test_captured_messages(sends):
    for type_, content in captured():
        sends(type_, {BOB: {"BOB": json.dumps(content)}})
    sends.arrive()


def test_odd_ids_and_types(sends):
    odd = 'org.example/\U0001f389 %25"\\?#\u0001'
    for device in ODD_DEVICES:
        sends(odd, {BOB: {device: '{"n":1}'}})
    sends("t" * 2000, {ODD_USER: {"D": '{"n":2}'}})
    sends.arrive()


def test_star_and_many_users(sends):
    sends("m.dummy", {BOB: {"*": '{"n":3}', "BOB2": '{"n":4}'}},
          [(BOB, "BOB2", '{"n":4}')] + [(BOB, d, '{"n":3}') for d in ("BOB",) + ODD_DEVICES])
    sends("m.dummy", {user: {f"D{i}": '{"i":%d}' % i} for i, user in enumerate(USERS)})
    wait_for(lambda: len(sends.receiver.got()) >= sends.before + len(sends.expected), "arrival")
    key = lambda m: (m["to_user_id"], m["to_device_id"])
    assert sorted(sends.receiver.got()[sends.before:], key=key) == sorted(sends.expected, key=key)


def test_64_KiB(sends, proxy):
    proxy.faults.put("500")  # so that they gather: 1.3 MB is more than one transaction
    for n in range(20):
        sends("m.big", {BOB: {"BOB": json.dumps({"n": n, "text": "\u00e9" * 32700},
                                                ensure_ascii=False)}})
    sends.arrive()


@pytest.mark.parametrize("fault", ["500", "drop", "lose500", "lose"])
def test_retries(sends, proxy, fault):
    before = len(proxy.transactions(False))
    for _ in range(3):
        proxy.faults.put(fault)
    sends("m.dummy", {BOB: {"BOB": '{"fault":"%s"}' % fault}})
    sends.arrive()
    tries = proxy.transactions(False)[before:]
    assert len(tries) == 4 and len(set(tries)) == 1  # the same id and bytes
    sends("m.dummy", {BOB: {"BOB": '{"after":"%s"}' % fault}})
    sends.arrive()


def test_killed_gateway(sends, gateway, proxy):
    proxy.delay = 0.05
    for n in range(60):
        sends("m.dummy", {BOB: {"BOB": '{"n":%d}' % n}})
        if n in (20, 40):
            gateway.kill()
            gateway.start()
    proxy.delay = 0
    sends.arrive()


def test_peer_that_is_down(sends, receiver):
    receiver.kill()
    for n in range(150):
        sends("m.dummy", {BOB: {"BOB": '{"down":%d}' % n}})
    receiver.start()
    sends.arrive()


def test_without_proxy(gateway, receiver, proxy):
    """Over the gateway's own connection, which a peer may close when it is idle (Node.js: 5 s)."""
    gateway.stop()
    gateway.to = receiver.url
    gateway.configure(DEVICES)
    gateway.start()
    sends = Sender(gateway, receiver)
    for n in range(40):
        sends("m.dummy", {BOB: {"BOB": '{"direct":%d}' % n}})
        if n in (10, 20):
            sends.arrive()
            time.sleep(6 if n == 20 else 0)
    sends.arrive()
    gateway.stop()
    gateway.to = proxy.url
    gateway.configure(DEVICES)
    gateway.start()


ALL_KINDS = {
    "events": [{"type": "m.room.message", "sender": ALICE, "room_id": "!r:gw.example",
                "event_id": "$1:gw.example", "origin_server_ts": 1,
                "content": {"msgtype": "m.text", "body": "h\u00e9 \U0001f389 \"\\\n"}}],
    "ephemeral": [{"type": "m.typing", "room_id": "!r:gw.example",
                   "content": {"user_ids": [ALICE]}}],
    "to_device": [{"type": "m.dummy", "sender": ALICE, "to_user_id": BOB, "to_device_id": "BOB",
                   "content": {"a": "\u00e9\"\\\n"}}],
    "device_lists": {"changed": [ALICE], "left": [BOB]},
    "device_one_time_keys_count": {BOB: {"BOB": {"signed_curve25519": 17}}},
    "device_unused_fallback_key_types": {BOB: {"BOB": ["signed_curve25519"]}},
}


@pytest.mark.parametrize("stable", [False, True] if STABLE else [False])
def test_converted(receiver, stable):
    """What `msc4203 convert` writes, siblings included, and nothing beside it."""
    given = json.dumps({k if stable else PREFIX.get(k, "") + k: v for k, v in ALL_KINDS.items()})
    body = subprocess.run([BUILD / "msc4203", "convert"] + ["--stable"] * (not stable),
                          input=given.encode(), capture_output=True, check=True).stdout
    body = subprocess.run([BUILD / "msc4203", "convert"] + ["--stable"] * stable,
                          input=body, capture_output=True, check=True).stdout
    before = {kind: len(receiver.got(kind)) for kind in KINDS}
    status, _ = call(receiver.url, "PUT", f"/_matrix/app/v1/transactions/c{time.time_ns()}",
                     body, HS_TOKEN)
    assert status == 200
    expected = parsed(json.dumps(ALL_KINDS))
    for event in expected["events"]:
        del event["origin_server_ts"]
    wait_for(lambda: all(len(receiver.got(kind)) > before[kind] for kind in READS),
             "one of each kind")
    for kind in KINDS:
        items = expected[kind] if isinstance(expected[kind], list) else [expected[kind]]
        assert receiver.got(kind)[before[kind]:] == (items if kind in READS else []), kind


if STABLE:
    def test_stable_keys(gateway, receiver, proxy, folder):
        gateway.stop()
        gateway.stable = True
        gateway.configure(DEVICES)
        gateway.start()
        sends = Sender(gateway, receiver)
        for name, content in CONTENTS.items():
            sends("org.example." + name, {BOB: {"BOB": content}})
        sends.arrive()
        assert b'"to_device"' in proxy.transactions()[-1][1]


if PEER == "ruma":
    def test_encoder():
        """What ruma's encoder writes is read by `msc4203 convert`."""
        given = dict(ALL_KINDS)
        given["to_device"] = [dict(ALL_KINDS["to_device"][0], type=t, content=json.loads(c))
                              for t, c in CONTENTS.items()]
        given["to_device"] += [dict(ALL_KINDS["to_device"][0], type=t, content=c)
                               for t, c in captured()]
        body = subprocess.run([INSTALLED / "ruma/debug/interop", "encode"],
                              input=json.dumps(given).encode(), capture_output=True,
                              check=True).stdout
        assert b"de.sorunome.msc2409.to_device" in body
        done = subprocess.run([BUILD / "msc4203", "convert", "--stable"], input=body,
                              capture_output=True, check=True)
        assert (parsed(done.stdout), done.stderr) == (parsed(json.dumps(given)), b"")
