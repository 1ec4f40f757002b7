"""What the gateway's tests share: the programs as processes, clients, an appservice in Python."""
import http.client
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import unittest
from urllib.parse import quote

B = os.path.abspath(os.environ.get('B', 'build'))
WORK = os.environ.get('WORK', os.path.join(B, 'gateway-test'))
GATEWAY = os.environ.get('GATEWAY', os.path.join(B, 'gateway'))
APPSERVICE = os.environ.get('APPSERVICE', os.path.join(B, 'appservice'))
KEY = 'de.sorunome.msc2409.to_device'
V3 = '/_matrix/client/v3'


def folder():
    """A new folder below build/."""
    os.makedirs(WORK, exist_ok=True)
    return tempfile.mkdtemp(dir=WORK)


def open_text(path):
    with open(path, encoding='utf-8') as f:
        return f.read()


def written_text(path):
    """The whole lines of a file that may be written to just now."""
    with open(path, 'rb') as f:
        data = f.read()
    return data[:data.rfind(b'\n') + 1].decode()


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def until(condition, seconds=10, what='it'):
    """Waits for a condition, and returns what it says."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError('%s did not happen in %s s' % (what, seconds))
        time.sleep(0.01)


def send_path(txn, type='m.test'):
    return '%s/sendToDevice/%s/%s' % (V3, quote(type, safe=''), quote(str(txn), safe=''))


def read_answer(stream):
    """Reads one answer from a file over a socket: status, headers, body. None at the end."""
    line = stream.readline()
    if not line:
        return None
    status, headers = int(line.split()[1]), {}
    while True:
        line = stream.readline().strip()
        if not line:
            break
        name, value = line.decode().split(':', 1)
        headers[name.lower()] = value.strip()
    return status, headers, stream.read(int(headers.get('content-length', 0)))


class Gateway:
    """A gateway with a configuration and a store of its own."""

    def __init__(self, lines, store='4M', start=True, hosts=None, clock=False, prefix=()):
        """With `hosts`, a dictionary, names have these addresses; with `clock`, time can pass()."""
        self.folder = folder()
        self.prefix = list(prefix)
        self.env = dict(os.environ)
        if hosts is not None or clock:
            self.env['LD_PRELOAD'] = os.path.join(WORK, 'shim.so')
            self.env['ASAN_OPTIONS'] = self.env.get('ASAN_OPTIONS', '') + \
                ':verify_asan_link_order=0'
        if hosts is not None:
            self.env['SHIM_HOSTS'] = os.path.join(self.folder, 'hosts')
            self.hosts(hosts)
        if clock:
            self.env['SHIM_CLOCK'] = os.path.join(self.folder, 'clock')
            self.clock = [0, 0]
            self.pass_ms(0)
        self.path = os.path.join(self.folder, 'gateway.conf')
        self.store = store
        self.process = None
        self.configure(lines)
        if start:
            self.start()

    def configure(self, lines):
        head = '' if lines[0].startswith('listen ') else 'listen 127.0.0.1:0\n'
        head += 'server_name gw.example\nstore %s/gateway.log %s\n' % (
            self.folder, self.store)
        with open(self.path, 'w', encoding='utf-8') as f:
            f.write(head + '\n'.join(lines) + '\n')

    def start(self, limit=None):
        """Starts it, with a limit in the shell's words."""
        command = self.prefix + [GATEWAY, self.path]
        if limit:
            command = ['sh', '-c', limit + ' && exec "$@"', 'sh'] + command
        self.errors = open(os.path.join(self.folder, 'stderr'), 'ab')
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors,
                                        env=self.env)
        line = self.process.stdout.readline().decode()
        if not line.startswith('gateway: listening on 127.0.0.1:'):
            raise AssertionError('gateway said %r, %s' % (line, self.said()))
        self.port = int(line.rsplit(':', 1)[1])

    def said(self):
        return written_text(os.path.join(self.folder, 'stderr'))

    def hosts(self, hosts):
        """Says which words the shim knows of each name: see shim.c."""
        path = os.path.join(self.folder, 'hosts')
        with open(path + '.new', 'w', encoding='utf-8') as f:
            f.write(''.join('%s %s\n' % item for item in hosts.items()))
        os.rename(path + '.new', path)

    def pass_ms(self, steady, real=None):
        """Has the clocks go on: both, or the second one otherwise."""
        self.clock = [self.clock[0] + steady, self.clock[1] + (steady if real is None else real)]
        with open(os.path.join(self.folder, 'clock'), 'r+b' if any(self.clock) else 'wb') as f:
            f.write(struct.pack('=2q', *self.clock))

    def pass_slowly(self, ms):
        """Has the clocks go on in steps, as for a program that is awake."""
        for _ in range(0, ms, 1500):
            self.pass_ms(1500)
            self.status()

    def state(self):
        """Of its process: a letter, as of ps."""
        with open('/proc/%d/stat' % self.process.pid) as f:
            return f.read().rsplit(')', 1)[1].split()[0]

    def memory(self):
        """The most memory that its process had so far, in KiB."""
        with open('/proc/%d/status' % self.process.pid) as f:
            return int(re.search(r'VmHWM:\s+(\d+)', f.read()).group(1))

    def descriptors(self):
        return len(os.listdir('/proc/%d/fd' % self.process.pid))

    def children(self):
        """Its processes."""
        with open('/proc/%d/task/%d/children' % ((self.process.pid,) * 2)) as f:
            return [int(pid) for pid in f.read().split()]

    def cpu(self):
        """The processor's seconds that it has used."""
        with open('/proc/%d/stat' % self.process.pid) as f:
            fields = f.read().rsplit(')', 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

    def kill(self):
        self.process.kill()
        self.end()

    def end(self):
        status = self.process.wait(20)
        self.process.stdout.close()
        self.errors.close()
        self.process = None
        return status

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.end()

    def again(self, lines=None, kill=False):
        """Restarts it."""
        self.kill() if kill else self.stop()
        if lines is not None:
            self.configure(lines)
        self.start()

    def hangup(self, lines=None):
        """Has it read its configuration, and waits until it is in force, or refused."""
        if lines is not None:
            self.configure(lines)
        before = len(self.said())
        self.process.send_signal(signal.SIGHUP)
        until(lambda: any(s in self.said()[before:] for s in ('was read again', 'goes on')))
        return self.said()[before:]

    def close(self):
        if self.process is not None:
            self.kill()
        said = self.said()
        if 'ERROR: AddressSanitizer' in said or 'runtime error' in said:
            raise AssertionError(said)
        shutil.rmtree(self.folder)

    # ---- requests ----

    def request(self, method, path, body=None, token=None, headers=None, timeout=90):
        """One request over a connection of its own: status and JSON."""
        c = http.client.HTTPConnection('127.0.0.1', self.port, timeout=timeout)
        try:
            return request(c, method, path, body, token, headers)
        finally:
            c.close()

    def send(self, token, txn, messages, type='m.test', query=''):
        return self.request('PUT', send_path(txn, type) + query, {'messages': messages}, token)

    def sync(self, token, since=None, timeout=0, query=''):
        query = ('?timeout=%d' % timeout) + ('&since=' + since if since else '') + query
        status, body = self.request('GET', V3 + '/sync' + query, token=token)
        if status != 200:
            raise AssertionError((status, body))
        return body['next_batch'], body.get('to_device', {}).get('events', [])

    def drain(self, token):
        """All that waits for a device, acknowledged."""
        all, since = [], None
        while True:
            since, events = self.sync(token, since)
            all += events
            if not events:
                return all

    def status(self):
        return self.request('GET', '/status')[1]

    def appservice(self, id='irc'):
        return [a for a in self.status()['appservices'] if a['id'] == id][0]

    def connect(self, data=b'', timeout=90):
        s = socket.create_connection(('127.0.0.1', self.port), timeout=timeout)
        s.sendall(data)
        return s

    def raw(self, data, timeout=90):
        """What a connection answers to these bytes: all answers until it ends them."""
        with self.connect(data, timeout) as s, s.makefile('rb') as stream:
            answers = []
            s.shutdown(socket.SHUT_WR)
            while True:
                answer = read_answer(stream)
                if answer is None:
                    return answers
                answers.append(answer)


def request(connection, method, path, body=None, token=None, headers=None):
    headers = dict(headers or {})
    if token is not None:
        headers['Authorization'] = 'Bearer ' + token
    if body is not None and not isinstance(body, (bytes, str)):
        body = json.dumps(body)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    text = answer.read()
    return answer.status, json.loads(text)


class Appservice:
    """An appservice that does as it is told: react(request) may return None (accepts), a status,
    (status, body), bytes to answer, 'drop' (closes without an answer), 'drop late' (accepts, then
    closes). With `early`, react is also asked before the body is read, and may drop there."""

    early = False

    def __init__(self, port=0, react=None, host='127.0.0.1'):
        self.port, self.host = port, host
        self.react = react or (lambda request: None)
        self.requests = []      # (method, path, headers, body), all of them
        self.messages = []      # accepted ones
        self.repeats = 0
        self.seen = {}          # what came under which transaction id
        self.lock = threading.Lock()
        self.listener = None
        self.up()

    def up(self):
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((self.host, self.port))
        self.listener.listen(64)
        self.port = self.listener.getsockname()[1]
        self.connections = []
        threading.Thread(target=self.accept_all, args=(self.listener,), daemon=True).start()

    def down(self):
        """Closes everything."""
        listener, self.listener = self.listener, None
        if listener is None:
            return
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for s in self.connections:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    close = down

    @property
    def url(self):
        return 'http://127.0.0.1:%d' % self.port

    def accept_all(self, listener):
        while True:
            try:
                s, _ = listener.accept()
            except OSError:
                return
            self.connections.append(s)
            threading.Thread(target=self.serve, args=(s,), daemon=True).start()

    def serve(self, s):
        try:
            with s, s.makefile('rb') as stream:
                while self.serve_one(s, stream):
                    pass
        except (OSError, ValueError):
            pass

    def serve_one(self, s, stream):
        line = stream.readline().split()
        if len(line) != 3:
            return False
        method, path, headers = line[0].decode(), line[1].decode(), {}
        while True:
            field = stream.readline().strip()
            if not field:
                break
            name, value = field.decode().split(':', 1)
            headers[name.lower()] = value.strip()
        length = int(headers.get('content-length', 0))
        request = {'method': method, 'path': path, 'headers': headers, 'socket': s,
                   'stream': stream, 'length': length}
        if self.early and self.react(request) == 'drop':
            return False
        body = stream.read(length)
        if len(body) != length:
            return False
        request['body'] = body
        with self.lock:
            self.requests.append((method, path, headers, body))
        said = self.react(request)
        if said == 'drop':
            return False
        if said is None or said == 'drop late':
            self.accept(path, body)
            if said == 'drop late':
                return False
            said = 200
        if isinstance(said, bytes):
            s.sendall(said)
            return True
        status, text = said if isinstance(said, tuple) else (
            said, b'{}' if said == 200 else b'{"errcode":"M_UNKNOWN","error":"as told"}')
        s.sendall(b'HTTP/1.1 %d Told\r\nContent-Length: %d\r\n\r\n%s' % (status, len(text), text))
        return True

    def accept(self, path, body):
        if '/transactions/' not in path:
            return
        messages = json.loads(body).get(KEY, [])
        digest = json.dumps(messages)
        with self.lock:
            known = self.seen.setdefault(path.rsplit('/', 1)[1], set())
            if digest in known:
                self.repeats += 1
            else:
                known.add(digest)
                self.messages += messages

    def transactions(self):
        with self.lock:
            return [(path, body) for _, path, _, body in self.requests if '/transactions/' in path]


class Program:
    """The appservice program."""

    def __init__(self, *options, port=None, path=None):
        self.folder = path or folder()
        self.port = port or free_port()
        self.out = os.path.join(self.folder, 'out')
        self.state = os.path.join(self.folder, 'state')
        self.process = None
        self.start(*options)

    def start(self, *options):
        self.errors = os.path.join(self.folder, 'stderr')
        with open(self.errors, 'ab') as errors:
            before = errors.tell()
            self.process = subprocess.Popen(
                [APPSERVICE, '--listen', '127.0.0.1:%d' % self.port, '--hs-token', 'hs',
                 '--state', self.state, '--out', self.out, *options], stderr=errors)
        until(lambda: 'listening' in self.said()[before:] or self.process.poll() is not None)

    def said(self):
        return written_text(self.errors)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.terminate()
        return self.process.wait(20)

    def lines(self):
        return [json.loads(line) for line in written_text(self.out).split('\n')[:-1]]

    def messages(self):
        return [m for line in self.lines() for m in line.get(KEY, [])]

    @property
    def url(self):
        return 'http://127.0.0.1:%d' % self.port

    def request(self, method, path, body=None, token='hs', headers=None):
        c = http.client.HTTPConnection('127.0.0.1', self.port, timeout=90)
        try:
            return request(c, method, path, body, token, headers)
        finally:
            c.close()

    def transaction(self, txn, body):
        return self.request('PUT', '/_matrix/app/v1/transactions/%s' % txn, body)

    def close(self):
        if self.process.poll() is None:
            self.kill()
        said = self.said()
        if 'ERROR: AddressSanitizer' in said or 'runtime error' in said:
            raise AssertionError(said)
        shutil.rmtree(self.folder)


DEVICES = ['device @alice:gw.example PHONE alice1', 'device @alice:gw.example LAPTOP alice2',
           'device @bob:gw.example BOB bob1']


def irc(url='http://127.0.0.1:9', flags='to_device', id='irc'):
    """An appservice with all kinds of users."""
    return ['appservice %s %s hs as_%s %s' % (id, url, id, flags),
            'sender %s @%sbot:gw.example' % (id, id),
            r'exclusive %s @_%s_.*:gw\.example' % (id, id),
            r'inclusive %s @team_.*:gw\.example' % id,
            'device @_%s_joe:gw.example JOE joe_%s by %s' % (id, id, id),
            'device @%sbot:gw.example BOT bot_%s' % (id, id),
            'device @team_ann:gw.example ANN ann',
            'device @team_ann:gw.example BRIDGE bridge by %s' % id]


FAST = ['retry_ms_min 20', 'retry_ms_max 100']


class Case(unittest.TestCase):
    """Programs made here end with the test."""

    def gateway(self, lines=None, **options):
        g = Gateway(lines if lines is not None else DEVICES, **options)
        self.addCleanup(g.close)
        return g

    def peer(self, react=None, port=0, host='127.0.0.1'):
        a = Appservice(port, react, host)
        self.addCleanup(a.close)
        return a

    def program(self, *options):
        p = Program(*options)
        self.addCleanup(p.close)
        return p

    def error(self, answer, status, errcode):
        self.assertEqual((answer[0], answer[1].get('errcode')), (status, errcode), answer)
        self.assertIsInstance(answer[1].get('error'), str)

    def contents(self, events):
        return [e['content'] for e in events]
