"""harness.py - what the interop tests have in common: starts programs on loopback, speaks HTTP to
them, and stands between a homeserver and an appservice where the network has to misbehave."""
import http.client
import http.server
import json
import os
import pathlib
import queue
import signal
import socket
import subprocess
import threading
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("B", "build")
HERE = ROOT / "test/interop"
INSTALLED = BUILD / "interop"
HS_TOKEN, AS_TOKEN = "hs-secret", "as-secret"
SLACK = float(os.environ.get("INTEROP_SECONDS", "60"))  # others may be using this machine


def wait_for(condition, what, seconds=SLACK):
    """Waits until condition() is true, and returns what it gave."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"no {what} within {seconds} s"
        time.sleep(0.02)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def quote(text):
    return urllib.parse.quote(text, safe="")


class Program:
    """A process; `says` is a piece of the line in which it says that it is ready."""

    def __init__(self, words, log, says, cwd=None):
        self.words, self.says, self.cwd = [str(w) for w in words], says, cwd
        self.log = pathlib.Path(log)
        self.process = None

    def start(self):
        with open(self.log, "ab") as log:
            at = log.tell()
            self.process = subprocess.Popen(self.words, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, cwd=self.cwd)
        self.ready = wait_for(lambda: self.said(at), f"'{self.says}' in {self.log}")
        return self

    def said(self, at):
        with open(self.log, "rb") as log:
            log.seek(at)
            lines = log.read().decode(errors="replace").split("\n")[:-1]
        for line in lines:
            if self.says in line:
                return line
        assert self.process.poll() is None, f"{self.words[0]} ended: {lines[-5:]}"
        return None

    def stop(self, how=signal.SIGTERM):
        """Ends it, with SIGTERM or with SIGKILL."""
        if self.process is not None:
            self.process.send_signal(how)
            try:
                self.process.wait(SLACK)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def kill(self):
        self.stop(signal.SIGKILL)


def call(url, method, path, body=None, token=None, seconds=SLACK):
    """One request; body is text, bytes or an object. Returns the status and the parsed answer."""
    connection = http.client.HTTPConnection(url.split("//")[1], timeout=seconds)
    headers = {"Authorization": "Bearer " + token} if token else {}
    if body is not None and not isinstance(body, (str, bytes)):
        body = json.dumps(body)
    if isinstance(body, str):
        body = body.encode()
    if body is not None:
        headers["Content-Type"] = "application/json"
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        try:
            return answer.status, json.loads(data)
        except ValueError:
            return answer.status, data
    finally:
        connection.close()


def send_path(type_, txn):
    return f"/_matrix/client/v3/sendToDevice/{quote(type_)}/{quote(txn)}"


def sends(messages):
    """The body of a sendToDevice request; its contents are JSON text, passed on as it stands."""
    return '{"messages":{%s}}' % ",".join(
        "%s:{%s}" % (json.dumps(user), ",".join(f"{json.dumps(d, ensure_ascii=False)}:{content}"
                                                for d, content in devices.items()))
        for user, devices in messages.items())


class Gateway(Program):
    """build/gateway with one appservice; devices are (user, device, token), or with `by irc`."""

    def __init__(self, folder, url, devices, stable=False, extra=""):
        self.config = pathlib.Path(folder) / "gateway.conf"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.stable, self.extra, self.to = stable, extra, url
        self.configure(devices)
        super().__init__([BUILD / "gateway", self.config], pathlib.Path(folder) / "gateway.log",
                         "listening on")

    def configure(self, devices):
        self.config.write_text(f"""
listen 127.0.0.1:{self.port}
server_name gw.example
store {self.config.parent / "gateway.store"} 16M
appservice irc {self.to} {HS_TOKEN} {AS_TOKEN} to_device {"stable" if self.stable else ""}
sender irc @ircbot:gw.example
exclusive irc @_irc_.*:gw\\.example
retry_ms_min 100
retry_ms_max 400
device_bytes_max 8M
{self.extra}
""" + "".join("device %s %s %s %s\n" % (d + ("",))[:4] for d in devices))

    def send(self, token, type_, txn, messages):
        status, answer = call(self.url, "PUT", send_path(type_, txn), sends(messages), token)
        assert (status, answer) == (200, {}), (status, answer)

    def pending(self):
        return call(self.url, "GET", "/status")[1]["appservices"][0]["pending"]


KINDS = ("events", "ephemeral", "to_device", "device_lists", "device_one_time_keys_count",
         "device_unused_fallback_key_types")
PREFIX = {"to_device": "de.sorunome.msc2409.", "device_lists": "org.matrix.msc3202.",
          "device_one_time_keys_count": "org.matrix.msc3202.",
          "device_unused_fallback_key_types": "org.matrix.msc3202."}


class Appservice(Program):
    """build/appservice. What it wrote down: items(KIND)."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        self.port, self.out = free_port(), folder / "appservice.out"
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__([BUILD / "appservice", "--listen", f"127.0.0.1:{self.port}",
                          "--hs-token", HS_TOKEN, "--state", folder / "appservice.state",
                          "--out", self.out], folder / "appservice.log", "listening on")

    def items(self, kind):
        return bodies_items(self.out.read_bytes().split(b"\n")[:-1], kind)


def bodies_items(bodies, kind):
    """The items of one kind in transaction bodies, without the library."""
    found = []
    for body in bodies:
        body = json.loads(body)
        items = body.get(PREFIX.get(kind, "") + kind, body.get(kind, []))
        found += items if isinstance(items, list) else [items]
    return found


class Proxy:
    """Passes requests on, each over a connection of its own, the body's bytes as they came, and the
    answers back; `requests` has what came. Each transaction takes one of `faults`: 500 or drop (not
    passed on), lose500 or lose (passed on, but the answer is another one, or none)."""

    def __init__(self, to):
        self.to, self.faults, self.requests, self.delay = to, queue.SimpleQueue(), [], 0
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def handle_any(self):
                proxy.handle(self)

            do_PUT = do_POST = do_GET = handle_any

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def handle(self, h):
        framed = body = h.rfile.read(int(h.headers.get("Content-Length", 0)))
        if h.headers.get("Transfer-Encoding", "").lower() == "chunked":
            framed = body = b""
            while True:
                line = h.rfile.readline()
                piece = h.rfile.read(int(line, 16))
                framed += line + piece + h.rfile.readline()
                body += piece
                if not piece:
                    break
        try:
            fault = self.faults.get_nowait() if "/transactions/" in h.path else ""
        except queue.Empty:
            fault = ""
        time.sleep(self.delay)
        lines = [f"{h.command} {h.path} HTTP/1.1"] + [f"{k}: {v}" for k, v in h.headers.items()]
        head = "\r\n".join(lines + ["", ""]).encode()
        self.requests.append((h.path, body, fault))
        status, answer = 500, b'{"errcode":"M_UNKNOWN"}'
        if fault in ("", "lose", "lose500"):
            try:
                status, answer = self.forward(head + framed)
            except OSError:
                fault = "drop"
        if fault in ("drop", "lose"):
            h.close_connection = True
            return
        if fault == "lose500":
            status, answer = 500, b"{}"
        try:
            h.send_response(status)
            h.send_header("Content-Type", "application/json")
            h.send_header("Content-Length", str(len(answer)))
            h.end_headers()
            h.wfile.write(answer)
        except OSError:  # whoever asked is gone
            h.close_connection = True

    def forward(self, request):
        host, port = self.to.split("//")[1].split(":")
        with socket.create_connection((host, int(port)), SLACK) as s:
            s.sendall(request)
            answer = http.client.HTTPResponse(s)
            try:
                answer.begin()
                return answer.status, answer.read()
            except http.client.HTTPException as e:
                raise OSError(e) from e

    def transactions(self, passed=True):
        """(id, body) of the transactions that came, or of those that were passed on."""
        return [(path.split("/transactions/")[1].split("?")[0], body)
                for path, body, fault in list(self.requests)
                if "/transactions/" in path and not (passed and fault in ("500", "drop"))]

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
