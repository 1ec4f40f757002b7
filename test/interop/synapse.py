"""synapse.py - a real Synapse on SQLite, with the flags that make it send to-device messages to
appservices."""
import json
import pathlib
import sqlite3
import subprocess
import sys

from harness import (AS_TOKEN, HS_TOKEN, Program, call, free_port, quote, send_path, sends,
                     wait_for)

NAME = "hs.example"
# Clients in a test are faster than people.
FAST = {"per_second": 100000, "burst_count": 100000}


class Synapse(Program):
    def __init__(self, folder, appservice_url):
        folder = pathlib.Path(folder).resolve()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.count, self.database = 0, folder / "synapse.db"
        registration = {
            "id": "irc", "url": appservice_url, "as_token": AS_TOKEN, "hs_token": HS_TOKEN,
            "sender_localpart": "ircbot", "rate_limited": False, "receive_ephemeral": True,
            "de.sorunome.msc2409.push_ephemeral": True, "org.matrix.msc3202": True,
            "namespaces": {"rooms": [], "aliases": [], "users": [
                {"exclusive": True, "regex": "@_irc_.*:hs\\.example"}]}}
        (folder / "registration.yaml").write_text(json.dumps(registration))
        (folder / "log.yaml").write_text(json.dumps({
            "version": 1, "root": {"level": "WARNING", "handlers": ["file"]},
            "handlers": {"file": {"class": "logging.StreamHandler"}}}))
        config = folder / "homeserver.yaml"
        config.write_text(json.dumps({
            "server_name": NAME, "report_stats": False, "pid_file": str(folder / "pid"),
            "listeners": [{"port": self.port, "type": "http", "bind_addresses": ["127.0.0.1"],
                           "resources": [{"names": ["client"]}]}],
            "database": {"name": "sqlite3", "args": {"database": str(self.database)}},
            "log_config": str(folder / "log.yaml"), "media_store_path": str(folder / "media"),
            "signing_key_path": str(folder / "signing.key"), "macaroon_secret_key": "m",
            "form_secret": "f", "registration_shared_secret": "s", "trusted_key_servers": [],
            "suppress_key_server_warning": True, "enable_registration": True,
            "enable_registration_without_verification": True, "bcrypt_rounds": 4,
            "app_service_config_files": [str(folder / "registration.yaml")],
            "rc_message": FAST, "rc_registration": FAST, "rc_login": {
                "address": FAST, "account": FAST, "failed_attempts": FAST},
            "rc_joins": {"local": FAST, "remote": FAST}, "rc_presence": {"per_user": FAST},
            "rc_invites": {"per_room": FAST, "per_user": FAST, "per_issuer": FAST},
            "rc_room_creation": FAST,
            "experimental_features": {"msc2409_to_device_messages_enabled": True,
                                      "msc3202_transaction_extensions": True}}))
        words = [sys.executable, "-m", "synapse.app.homeserver", "--config-path", config]
        subprocess.run(words + ["--generate-keys"], check=True, cwd=folder, capture_output=True)
        super().__init__(words, folder / "synapse.out", "", folder)

    def said(self, at):
        assert self.process.poll() is None, "Synapse ended: see " + str(self.log)
        try:
            return call(self.url, "GET", "/_matrix/client/versions")[0] == 200
        except OSError:
            return False

    def is_up(self):
        """Does Synapse take the appservice for up? While not, it forgets to-device messages."""
        with sqlite3.connect(f"file:{self.database}?mode=ro", uri=True) as db:
            return ("down",) not in db.execute("select state from application_services_state")

    def is_idle(self):
        with sqlite3.connect(f"file:{self.database}?mode=ro", uri=True) as db:
            return not list(db.execute("select 1 from application_services_txns"))

    def restart(self, room, token):
        """Restarts it while it is idle: its transaction ids begin at 1 again. It is not quite awake
        (it does not retry, and forgets to-device messages) until a room event comes."""
        wait_for(self.is_idle, "idle Synapse")
        self.stop()
        self.start()
        self.say(room, token, "awake")
        wait_for(self.is_up, "recovery of Synapse")

    def say(self, room, token, text):
        self.count += 1
        return self.call("PUT", f"/_matrix/client/v3/rooms/{quote(room)}/send/m.room.message/"
                         f"{self.count}", {"msgtype": "m.text", "body": text}, token)["event_id"]

    def room_with(self, token, user):
        """A room of a client and of a user of the appservice."""
        room = self.call("POST", "/_matrix/client/v3/createRoom", {"preset": "public_chat"},
                         token)["room_id"]
        self.as_user("POST", f"/_matrix/client/v3/join/{quote(room)}", user, {})
        return room

    def call(self, method, path, body=None, token=AS_TOKEN, status=200):
        got = call(self.url, method, path, body, token)
        assert got[0] == status, got
        return got[1]

    def client(self, name):
        """Registers a person. Returns (user id, device id, token)."""
        r = self.call("POST", "/_matrix/client/v3/register", {
            "username": name, "password": "p", "auth": {"type": "m.login.dummy"}}, None)
        return r["user_id"], r["device_id"], r["access_token"]

    def ghost(self, name, *devices):
        """Registers a user of the appservice, and logs in its devices. Returns their tokens."""
        kind = "m.login.application_service"
        self.call("POST", "/_matrix/client/v3/register", {
            "type": kind, "username": name, "inhibit_login": True})
        return [self.call("POST", "/_matrix/client/v3/login", {
            "type": kind, "identifier": {"type": "m.id.user", "user": name},
            "device_id": device})["access_token"] for device in devices]

    def send(self, token, type_, messages, txn=None):
        self.count += 1
        self.call("PUT", send_path(type_, txn or f"t{self.count}"), sends(messages), token)

    def as_user(self, method, path, user, body=None):
        mark = "&" if "?" in path else "?"
        return self.call(method, f"{path}{mark}user_id={quote(user)}", body)
