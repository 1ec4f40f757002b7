"""test_nio.py - matrix-nio, a real client, sends to-device messages to build/gateway and receives
them over /sync."""
import json
import threading

import pytest

from client import Client
from harness import AS_TOKEN, Gateway, call, send_path, sends, wait_for
from samples import CONTENTS, captured

ALICE, CAROL, BOB = "@alice:gw.example", "@carol:gw.example", "@_irc_bob:gw.example"
# nio drops a message with an empty content: it takes it for a redacted one.
MESSAGES = [(type_, content) for type_, content in
            [("org.example." + name, json.loads(text)) for name, text in CONTENTS.items()]
            + [('org.example/\U0001f389 %25"\\?#\n', {"n": 1})] + captured() if content]


@pytest.fixture(scope="module")
def gateway(folder, started, appservice):
    return started(Gateway(folder, appservice.url, [
        (ALICE, "PHONE", "alice-token"), (CAROL, "LAPTOP", "carol-token"),
        (CAROL, "\U0001f389\"\\", "carol2-token"), (BOB, "BOB", "bob-token")]))


@pytest.fixture(scope="module")
def clients(gateway):
    clients = [Client(gateway.url, *device) for device in (
        (ALICE, "PHONE", "alice-token"), (CAROL, "LAPTOP", "carol-token"),
        (CAROL, "\U0001f389\"\\", "carol2-token"))]
    yield clients
    for client in clients:
        client.close()


def events(messages, sender=ALICE):
    return [{"type": t, "sender": sender, "content": c} for t, c in messages]


def test_client_to_client(clients):
    alice, carol, _ = clients
    for type_, content in MESSAGES:
        alice.send(type_, CAROL, "LAPTOP", content)
    assert carol.receive(len(MESSAGES)) == events(MESSAGES)
    assert carol.sync() == []


def test_star_and_odd_device(clients):
    alice, carol, carol2 = clients
    alice.send("m.dummy", CAROL, "*", {"n": 1})
    alice.send("m.dummy", CAROL, "\U0001f389\"\\", {"n": 2})
    assert carol.receive(1) == events([("m.dummy", {"n": 1})])
    assert carol2.receive(2) == events([("m.dummy", {"n": 1}), ("m.dummy", {"n": 2})])


def test_more_than_one_response(clients):
    alice, carol, _ = clients
    many = [("m.dummy", {"n": n}) for n in range(250)]
    for type_, content in many:
        alice.send(type_, CAROL, "LAPTOP", content)
    assert len(first := carol.sync()) == 100
    assert first + carol.receive(150) == events(many)


def test_same_transaction_id(clients):
    alice, carol, _ = clients
    for n in range(3):
        alice.send("m.dummy", CAROL, "LAPTOP", {"n": n}, "the-same")
    assert carol.receive(1) == events([("m.dummy", {"n": 0})])


def test_waits_for_the_first(clients):
    alice, carol, _ = clients
    later = threading.Timer(1, lambda: call(
        alice.nio.homeserver, "PUT", send_path("m.dummy", "later"),
        sends({CAROL: {"LAPTOP": '{"late":1}'}}), "alice-token"))
    later.start()
    assert carol.sync(30000) == events([("m.dummy", {"late": 1})])
    later.join()


def test_killed_gateway(clients, gateway):
    """What was acknowledged to its sender is there after a kill; what no /sync acknowledged comes
    again."""
    alice, carol, _ = clients
    carol.sync()
    alice.send("m.dummy", CAROL, "LAPTOP", {"n": 1})
    since = carol.nio.next_batch
    assert carol.sync(2000) == events([("m.dummy", {"n": 1})])
    gateway.kill()
    gateway.start()
    carol.nio.next_batch = since  # as if the answer had been lost
    assert carol.sync(2000) == events([("m.dummy", {"n": 1})])
    assert carol.sync() == []


def test_client_and_appservice(clients, gateway, appservice):
    alice, _, carol2 = clients
    for type_, content in MESSAGES:
        alice.send(type_, BOB, "BOB", content)
    wait_for(lambda: len(appservice.items("to_device")) >= len(MESSAGES), "arrival")
    assert appservice.items("to_device") == [
        dict(e, to_user_id=BOB, to_device_id="BOB") for e in events(MESSAGES)]
    for n, (type_, content) in enumerate(MESSAGES):
        status, _ = call(gateway.url, "PUT", send_path(type_, f"as{n}") + "?user_id=" + BOB,
                         {"messages": {CAROL: {"\U0001f389\"\\": content}}}, AS_TOKEN)
        assert status == 200
    assert carol2.receive(len(MESSAGES)) == events(MESSAGES, BOB)
