"""test_e2ee.py - end-to-end encryption, with vodozemac: a client (matrix-nio) and a user of an
appservice set up an Olm session, a Megolm room key travels through build/gateway as
m.room.encrypted to-device message, and the appservice's side decrypts a room message with it. The
gateway and the appservice are killed in between. Keys are handed over as /keys/claim would: neither
program has it."""
import base64
import json
import subprocess

import pytest
import vodozemac

from client import Client
from harness import AS_TOKEN, BUILD, HS_TOKEN, Gateway, call, send_path, wait_for

ALICE, BOB, ROOM = "@alice:gw.example", "@_irc_bob:gw.example", "!room:gw.example"


def unpadded(data):
    return base64.b64encode(data).decode().rstrip("=")


class Side:
    """One end: an Olm account, and a session with the other end."""

    def __init__(self, user, device):
        self.user, self.device, self.session = user, device, None
        self.account = vodozemac.Account()
        self.key = self.account.curve25519_key

    def encrypt(self, other, type_, content):
        """The content of an m.room.encrypted message for the other end."""
        kind, body = self.session.encrypt(json.dumps({
            "type": type_, "content": content, "sender": self.user, "recipient": other.user,
            "recipient_keys": {"ed25519": other.account.ed25519_key.to_base64()},
            "keys": {"ed25519": self.account.ed25519_key.to_base64()},
        }).encode()).to_parts()
        return {"algorithm": "m.olm.v1.curve25519-aes-sha2", "sender_key": self.key.to_base64(),
                "ciphertext": {other.key.to_base64(): {"type": kind, "body": unpadded(body)}}}

    def decrypt(self, content):
        """What it says. The other end's first messages set up the session."""
        message = content["ciphertext"][self.key.to_base64()]
        body = base64.b64decode(message["body"] + "===")
        message = vodozemac.AnyOlmMessage.from_parts(message["type"], body)
        if self.session is None:
            sender = vodozemac.Curve25519PublicKey.from_base64(content["sender_key"])
            self.session, plain = self.account.create_inbound_session(sender, message.to_pre_key())
        else:
            plain = self.session.decrypt(message)
        plain = json.loads(plain)
        assert plain["recipient"] == self.user
        return plain["type"], plain["content"]


@pytest.fixture(scope="module")
def sides():
    alice, bob = Side(ALICE, "PHONE"), Side(BOB, "BOB")
    bob.account.generate_one_time_keys(1)
    (claimed,) = bob.account.one_time_keys.values()
    bob.account.mark_keys_as_published()
    alice.session = alice.account.create_outbound_session(bob.key, claimed)
    return alice, bob


@pytest.fixture(scope="module")
def gateway(folder, started, appservice):
    return started(Gateway(folder, appservice.url, [
        (ALICE, "PHONE", "alice-token"), (BOB, "BOB", "bob-token")]))


@pytest.fixture(scope="module")
def client(gateway):
    client = Client(gateway.url, ALICE, "PHONE", "alice-token")
    yield client
    client.close()


def test_room_key(sides, client, gateway, appservice):
    """Three room keys and messages; both programs are killed while the key is on its way."""
    alice, bob = sides
    for n in range(3):
        megolm = vodozemac.GroupSession()
        appservice.kill()
        client.send("m.room.encrypted", BOB, "BOB", alice.encrypt(bob, "m.room_key", {
            "algorithm": "m.megolm.v1.aes-sha2", "room_id": ROOM, "session_id": megolm.session_id,
            "session_key": megolm.session_key.to_base64()}))
        gateway.kill()
        gateway.start()
        assert gateway.pending() == 1
        appservice.start()
        wait_for(lambda: gateway.pending() == 0, "delivery")
        keys = appservice.items("to_device")
        assert len(keys) == n + 1 and keys[n]["type"] == "m.room.encrypted"
        assert (keys[n]["sender"], keys[n]["to_user_id"], keys[n]["to_device_id"]) == (
            ALICE, BOB, "BOB")
        type_, key = bob.decrypt(keys[n]["content"])
        assert (type_, key["session_id"]) == ("m.room_key", megolm.session_id)

        # The room message, as a homeserver sends it beside to-device messages.
        said = {"type": "m.room.message", "room_id": ROOM, "content": {
            "msgtype": "m.text", "body": f"secret {n} \u00e9\U0001f389\"\\"}}
        event = {"type": "m.room.encrypted", "sender": ALICE, "room_id": ROOM,
                 "event_id": f"${n}", "origin_server_ts": n, "content": {
                     "algorithm": "m.megolm.v1.aes-sha2", "session_id": megolm.session_id,
                     "ciphertext": megolm.encrypt(json.dumps(said).encode()).to_base64()}}
        body = subprocess.run([BUILD / "msc4203", "convert"], capture_output=True, check=True,
                              input=json.dumps({"events": [event]}).encode()).stdout
        assert call(appservice.url, "PUT", f"/_matrix/app/v1/transactions/room{n}", body,
                    HS_TOKEN)[0] == 200
        event = appservice.items("events")[n]
        room = vodozemac.InboundGroupSession(vodozemac.SessionKey(key["session_key"]))
        plain = room.decrypt(vodozemac.MegolmMessage.from_base64(event["content"]["ciphertext"]))
        assert json.loads(plain.plaintext) == said


def test_answers(sides, client, gateway, appservice):
    """The session goes on in both directions, which a lost or doubled message would show."""
    alice, bob = sides
    for n in range(20):
        if n % 7 == 3:
            gateway.kill()
            gateway.start()
        content = bob.encrypt(alice, "m.dummy", {"from": "bob", "n": n})
        path = send_path("m.room.encrypted", f"b{n}") + "?user_id=" + BOB
        assert call(gateway.url, "PUT", path, {"messages": {ALICE: {"PHONE": content}}},
                    AS_TOKEN) == (200, {})
        (event,) = client.receive(1)
        assert event["sender"] == BOB
        assert alice.decrypt(event["content"]) == ("m.dummy", {"from": "bob", "n": n})
        before = len(appservice.items("to_device"))
        client.send("m.room.encrypted", BOB, "BOB",
                    alice.encrypt(bob, "m.dummy", {"from": "alice", "n": n}))
        wait_for(lambda: gateway.pending() == 0, "delivery")
        (event,) = appservice.items("to_device")[before:]
        assert bob.decrypt(event["content"]) == ("m.dummy", {"from": "alice", "n": n})
