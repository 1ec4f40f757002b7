"""test_synapse.py - Synapse sends to build/appservice: all that it sends must come out, each
to-device message once. A proxy between them writes down what Synapse sent, and misbehaves."""
import json

import pytest

from harness import KINDS, PREFIX, quote, wait_for
from samples import CONTENTS, captured
from synapse import Synapse

V3 = "/_matrix/client/v3/"
BOB, CAROL = "@_irc_bob:hs.example", "@_irc_carol:hs.example"


@pytest.fixture(scope="module")
def hs(folder, started, proxy):
    hs = started(Synapse(folder, proxy.url))
    hs.alice = hs.client("alice")
    hs.bob = hs.ghost("_irc_bob", "BOB", "BOB \U0001f389\"\\", "*")
    hs.carol = hs.ghost("_irc_carol", "CAROL1", "CAROL2")
    hs.room = hs.room_with(hs.alice[2], BOB)
    hs.others = {f"@_irc_u{i}:hs.example": hs.ghost(f"_irc_u{i}", f"D{i}") for i in range(40)}
    return hs


@pytest.fixture
def delivers(hs, appservice):
    """Sends, and waits until just that has been written down, and nothing else, in any order of
    the devices."""
    def check(type_, messages, devices=None):
        wait_for(hs.is_up, "recovery of Synapse")
        before = len(appservice.items("to_device"))
        hs.send(hs.alice[2], type_, messages)
        expected = [{"type": type_, "sender": hs.alice[0], "to_user_id": user,
                     "to_device_id": device, "content": json.loads(content)}
                    for user, device, content in devices or [
                        (u, d, c) for u, ds in messages.items() for d, c in ds.items()]]
        wait_for(lambda: len(appservice.items("to_device")) >= before + len(expected),
                 f"arrival of {len(expected)} messages")
        got = appservice.items("to_device")[before:]
        key = lambda m: (m["to_user_id"], m["to_device_id"], json.dumps(m))
        assert sorted(got, key=key) == sorted(expected, key=key)
    return check


@pytest.mark.parametrize("name", CONTENTS)
def test_contents(delivers, name):
    delivers("org.example." + name, {BOB: {"BOB": CONTENTS[name]}})


def test_captured_messages(delivers):
    for type_, content in captured():
        delivers(type_, {BOB: {"BOB": json.dumps(content)}})


def test_odd_ids_and_types(delivers):
    odd = 'org.example/\U0001f389 %25"\\?#\u0001'
    delivers(odd, {BOB: {"BOB \U0001f389\"\\": '{"n":1}'}})
    delivers("t" * 2000, {BOB: {"BOB": '{"n":2}'}})


def test_star_is_each_device(delivers):
    delivers("m.dummy", {CAROL: {"*": '{"n":3}'}},
             [(CAROL, "CAROL1", '{"n":3}'), (CAROL, "CAROL2", '{"n":3}')])
    # Beside a named device Synapse takes it for a name.
    delivers("m.dummy", {BOB: {"*": '{"n":4}', "BOB": '{"n":5}'}})


def test_many_users(delivers, hs):
    delivers("m.dummy", {user: {f"D{i}": '{"i":%d}' % i} for i, user in enumerate(hs.others)})


def test_64_KiB(delivers):
    for n in range(3):
        delivers("m.big", {BOB: {"BOB": json.dumps({"n": n, "text": "\u00e9" * 32700},
                                                   ensure_ascii=False)}})


def test_everything_else(hs, appservice, proxy):
    """Room events, ephemeral events, device lists and key counts, as Synapse sent them."""
    before = {kind: len(appservice.items(kind)) for kind in KINDS}
    at = V3 + f"rooms/{quote(hs.room)}"
    said = hs.say(hs.room, hs.alice[2], "h\u00e9 \U0001f389\u2028\"\\")
    hs.call("PUT", at + f"/typing/{hs.alice[0]}", {"typing": True, "timeout": 1000}, hs.alice[2])
    hs.call("POST", at + f"/receipt/m.read/{quote(said)}", {}, hs.alice[2])
    hs.call("PUT", V3 + f"presence/{hs.alice[0]}/status", {"presence": "online"}, hs.alice[2])
    hs.call("POST", V3 + "keys/upload", {
        "one_time_keys": {"curve25519:AAAA": "a" * 43, "curve25519:AAAB": "b" * 43}}, hs.bob[0])
    hs.call("PUT", V3 + f"devices/{hs.alice[1]}", {"display_name": "new"}, hs.alice[2])
    hs.send(hs.alice[2], "m.dummy", {BOB: {"BOB": '{"after":"keys"}'}})

    def there():
        new = {kind: appservice.items(kind)[before[kind]:] for kind in KINDS}
        return (all(new[k] for k in ("events", "to_device", "device_lists",
                                     "device_one_time_keys_count"))
                and {"m.typing", "m.receipt", "m.presence"} <= {e["type"] for e in new["ephemeral"]}
                and any(e.get("event_id") == said for e in new["events"])
                and new)
    new = wait_for(there, "one of everything")
    assert {"curve25519": 2} in [c.get(BOB, {}).get("BOB") for c in
                                 new["device_one_time_keys_count"]]
    assert any(hs.alice[0] in lists["changed"] for lists in new["device_lists"])
    bodies = [json.loads(body) for _, body in proxy.transactions()]
    # Both spellings are in one body, and come out as one.
    assert any("org.matrix.msc3202.device_one_time_keys_count" in b and
               "org.matrix.msc3202.device_one_time_key_counts" in b for b in bodies)


@pytest.mark.parametrize("fault", ["lose500", "lose"])
def test_lost_answers(delivers, proxy, hs, appservice, fault):
    """The appservice has it, but Synapse does not know: it retries, without the messages."""
    sent = len(proxy.requests)
    proxy.faults.put(fault)
    proxy.faults.put(fault)
    delivers("m.dummy", {BOB: {"BOB": '{"lost":"answer"}'}})
    wait_for(lambda: len(proxy.requests) >= sent + 3, "two retries")
    ids = [id for id, _ in proxy.transactions()[-3:]]
    assert ids[0] == ids[1] == ids[2]
    delivers("m.dummy", {BOB: {"BOB": '{"after":"it"}'}})


@pytest.mark.parametrize("fault", ["500", "drop"])
def test_failed_requests(delivers, hs, appservice, proxy, fault):
    """What reaches the appservice in the end comes out: the room event does, though Synapse forgets
    the to-device messages of a transaction that failed."""
    wait_for(hs.is_up, "recovery of Synapse")
    before = len(appservice.items("to_device"))
    proxy.faults.put(fault)
    said = hs.say(hs.room, hs.alice[2], fault)
    wait_for(lambda: [e for e in appservice.items("events") if e.get("event_id") == said], "event")
    assert len([e for e in appservice.items("events") if e.get("event_id") == said]) == 1
    delivers("m.dummy", {BOB: {"BOB": '{"after":"%s"}' % fault}})
    assert len(appservice.items("to_device")) == before + 1


def test_killed_appservice(delivers, appservice):
    appservice.kill()
    appservice.start()
    delivers("m.dummy", {BOB: {"BOB": '{"after":"kill"}'}})


def test_transaction_ids_come_again(delivers, hs, proxy, appservice):
    """After a restart Synapse counts from 1 again: new messages under ids that are remembered."""
    for round_ in range(3):
        hs.restart(hs.room, hs.alice[2])
        for n in range(20):
            delivers("m.dummy", {BOB: {"BOB": '{"round":%d,"n":%d}' % (round_, n)}})
        # The same message again is a new one, too: it has another id. (The same under the same
        # id, after a restart, nobody can tell from a repeat.)
        for _ in range(2):
            delivers("m.dummy", {BOB: {"BOB": '{"same":%d}' % round_}})
    contents = {}
    for id, body in proxy.transactions():
        messages = json.loads(body)[PREFIX["to_device"] + "to_device"]
        contents.setdefault(id, set()).add(json.dumps(messages))
    assert len([id for id, bodies in contents.items() if len(bodies - {"[]"}) > 1]) > 10


def flat(kind, value):
    """The items of one kind, each by itself."""
    if isinstance(value, list):
        return value
    return [(a, b, item) for a, inner in value.items()
            for b, item in (inner.items() if isinstance(inner, dict) else enumerate(inner))]


def test_all_of_it(proxy, appservice):
    """Over the whole run: what Synapse sent is what was written down, in order, for each kind.
    Only a body that came again as it was is left out."""
    bodies = [json.loads(body) for _, body in dict.fromkeys(proxy.transactions())]
    sent = [m for body in bodies for m in body[PREFIX["to_device"] + "to_device"]]
    assert len(sent) > 120
    assert appservice.items("to_device") == sent
    for kind in KINDS:
        sent = [item for body in bodies
                for item in flat(kind, body.get(PREFIX.get(kind, "") + kind, []))]
        written = appservice.items(kind)
        if kind.startswith("device"):
            written = [(a, b, item) for entry in written
                       for a, b, item in flat(kind, entry)]
            key = lambda item: json.dumps((item[0], item[2]) if kind == "device_lists" else item)
            sent, written = [sorted(map(key, items)) for items in (sent, written)]
        assert written == sent, kind
        assert sent, kind
