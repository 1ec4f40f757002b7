"""A year in a minute, over real sockets: clients that repeat requests whose answer they did not get,
and a client's /sync; a gateway that is killed, suspended, whose clocks jump, or that has few
descriptors, or none of the first three; an appservice program that is killed, whose disk is full, or
whose output is moved away; one in Python that fails in every way, and moves to another address. At
the end everything that was accepted must have arrived exactly once, and in order for each device,
and the gateway's memory and descriptors must be what they were.

torture.py [SECONDS [SEED]]"""
import collections
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

from harness import (Appservice, Gateway, Program, V3, folder, free_port, request, send_path,
                     until)

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 60
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1 << 32)
CLIENTS = 8
FAULTS = (OSError, http.client.HTTPException, ValueError)
counts = collections.Counter()
problems = []


def config(port, prog, py):
    lines = ['retry_ms_min 10', 'retry_ms_max 150', 'txn_messages_max 60', 'memory 4M',
             'appservice prog %s hs as_prog to_device' % prog.url,
             'appservice py http://py.example:%d hs2 as_py to_device' % py.port,
             r'exclusive prog @prog_.*:gw\.example', r'exclusive py @py_.*:gw\.example']
    for user in ('prog_a', 'prog_b', 'py_a', 'py_b', 'plain'):
        for device in 'XY':
            lines.append('device @%s:gw.example %s tok_%s_%s' % (user, device, user, device))
    lines += ['device @client:gw.example C%d client%d' % (i, i) for i in range(CLIENTS)]
    return ['listen 127.0.0.1:%d' % port] + lines


USERS = {'@%s:gw.example' % u: u for u in ('prog_a', 'prog_b', 'py_a', 'py_b', 'plain')}


class Client(threading.Thread):
    """Sends one request after another, each until it was answered with 200."""

    def __init__(self, number, port, stop):
        super().__init__(daemon=True)
        self.number, self.port, self.stopped = number, port, stop
        self.random = random.Random(SEED * 1000 + number)
        self.connection, self.sent = None, []   # (user, device, n)

    def run(self):
        n = 0
        while not self.stopped.is_set():
            n += 1
            messages, to = {}, []
            for user in self.random.sample(sorted(USERS), self.random.choice((1, 1, 1, 2, 4))):
                devices = self.random.choice(('X', 'Y', 'XY', '*', '*X'))
                size = self.random.choice((0, 0, 0, 100, 3000))
                messages[user] = {d: {'c': self.number, 'n': n, 'x': 'y' * size} for d in devices}
                to += [(user, d, n) for d in ('XY' if '*' in devices else devices)]
            self.send('%d' % n, messages)
            self.sent += to
        self.connection.close()

    def send(self, txn, messages):
        while True:
            try:
                if self.connection is None:
                    self.connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=20)
                if self.random.random() < 0.05: # does not wait for the answer
                    self.connection.request('PUT', send_path(txn), str({'messages': messages})
                                            .replace("'", '"'),
                                            {'Authorization': 'Bearer client%d' % self.number})
                    counts['answers not waited for'] += 1
                    raise OSError
                status, body = request(self.connection, 'PUT', send_path(txn),
                                       {'messages': messages}, 'client%d' % self.number)
                if status == 200:
                    return
                counts['answered %d' % status] += 1
                if status not in (429, 500):
                    problems.append('a request was answered %d %s' % (status, body))
                time.sleep(0.02)
            except FAULTS:
                counts['requests repeated'] += 1
                self.connection.close()
                self.connection = None
                time.sleep(0.01)


class Syncs(threading.Thread):
    """Reads a device's /sync; an answer that was lost is asked for again."""

    def __init__(self, device, port, stop):
        super().__init__(daemon=True)
        self.device, self.port, self.stopped, self.got = device, port, stop, []
        self.random = random.Random(SEED + ord(device))
        self.ended = False

    def run(self):
        since = ''
        while True:
            last = self.stopped.is_set()
            try:
                c = http.client.HTTPConnection('127.0.0.1', self.port, timeout=20)
                path = '%s/sync?timeout=%d%s' % (V3, 0 if last else 300, since)
                status, body = request(c, 'GET', path, token='tok_plain_' + self.device)
                c.close()
            except FAULTS:
                time.sleep(0.01)
                continue
            if status != 200:
                if status != 500:
                    problems.append('a /sync was answered %d %s' % (status, body))
                continue
            if self.random.random() < 0.1:
                counts['answers to /sync thrown away'] += 1
                continue
            events = body['to_device']['events']
            self.got += [('@plain:gw.example', self.device, e['content']) for e in events]
            since = '&since=' + body['next_batch']
            if last and not events:
                self.ended = True
                return


class Faults:
    """How the appservice in Python fails."""

    def __init__(self):
        self.random = random.Random(SEED + 1)
        self.lock = threading.Lock()
        self.calm = False

    def __call__(self, r):
        txn = r['path'].rsplit('/', 1)[1]
        early = 'body' not in r
        if self.calm or (early and self.random.random() < 0.9):
            return None
        if early:
            counts['dropped early'] += 1
            return 'drop'
        with self.lock:
            kind = self.random.choice(('fine', 'fine', 'fine', 'drop', 'drop late', 'slow',
                                       401, 429, 500, 502, 404, 413, 'endless', 'silent'))
        if kind == 413 and (txn in py.seen or r['body'].count(b'"to_user_id"') < 2):
            kind = 'fine' # what was accepted, or is alone, is not too large
        if kind == 404 and not r['path'].startswith('/_matrix'):
            kind = 'fine'
        counts['appservice: %s' % kind] += 1
        if kind == 'slow':
            time.sleep(0.1)
        elif kind in ('endless', 'silent'):
            if self.random.random() < 0.5:
                py.accept(r['path'], r['body'])
            end = time.monotonic() + self.random.uniform(0.1, 0.8)
            r['socket'].sendall(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
            while time.monotonic() < end:
                time.sleep(0.01)
                if kind == 'endless':
                    r['socket'].sendall(b'1000\r\n' + b' ' * 0x1000 + b'\r\n')
            return 'drop'
        return None if kind in ('fine', 'slow') else kind


def now_and_then(stop, seed, least, most, action):
    def loop():
        chance = random.Random(SEED + seed)
        while not stop.wait(chance.uniform(least, most)):
            action(chance)
    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    return thread


HOUR = 3600000


def hurt_gateway(chance):
    what = chance.choice(('kill', 'kill', 'kill', 'stop', 'hangup', 'suspend', 'clock', 'crowd',
                          'closed'))
    counts['gateway: ' + what] += 1
    if what == 'hangup':
        gateway.process.send_signal(signal.SIGHUP)
    elif what == 'suspend': # the machine sleeps
        gateway.process.send_signal(signal.SIGSTOP)
        gateway.pass_ms(chance.randrange(8 * HOUR))
        time.sleep(0.3)
        gateway.process.send_signal(signal.SIGCONT)
    elif what == 'clock': # somebody sets the calendar
        gateway.pass_ms(0, chance.randrange(-12 * HOUR, 12 * HOUR))
    elif what == 'kill':
        memory.append(gateway.memory())
        gateway.again(kill=True)
    else:
        memory.append(gateway.memory())
        if gateway.stop() != 0:
            problems.append('the gateway ended badly')
        gateway.start({'closed': 'exec 0<&- 2>&-', 'crowd': 'ulimit -n 32'}.get(what))
        if what == 'crowd': # more who say nothing than it has descriptors
            idle = [socket.create_connection(('127.0.0.1', port)) for _ in range(60)]
            time.sleep(0.5)
            for s in idle:
                s.close()


def hurt_program(chance):
    what = chance.choice(('kill', 'kill', 'kill', 'moved away') + (('full disk',) if disk else ()))
    counts['program: ' + what] += 1
    if what == 'moved away':
        os.rename(program.out, program.out + '.1')
        time.sleep(0.3)
        os.rename(program.out + '.1', program.out)
        return
    if what == 'full disk':
        filler = os.path.join(disk, 'filler')
        with open(filler, 'wb', buffering=0) as f:
            try:
                while True:
                    f.write(b'x' * 65536)
            except OSError:
                pass
        time.sleep(0.3)
        if chance.random() < 0.5:
            program.kill()
        os.remove(filler)
        if program.process.poll() is None:
            return
    program.kill()
    time.sleep(chance.choice((0, 0.3)))
    program.start(*chance.choice(((), ('--fail', '2'))))


def hurt_python(chance):
    what = chance.choice(('down', 'moves'))
    counts['appservice: ' + what] += 1
    py.down()
    time.sleep(0.3)
    if what == 'moves':
        py.host = '127.0.0.2' if py.host == '127.0.0.1' else '127.0.0.1'
        gateway.hosts({'py.example': py.host})
    py.up()


def small_disk():
    """A disk of its own that can be filled; None where nothing may be mounted."""
    path = folder()
    done = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=256m', 'tmpfs', path],
                          stderr=subprocess.DEVNULL)
    if done.returncode == 0:
        return path
    print('torture: no disk can be mounted here, so none is filled')
    return None


def check(clients, got):
    """Compares what was accepted with what arrived."""
    sent = collections.Counter((u, d, c.number, n) for c in clients for u, d, n in c.sent)
    arrived = collections.Counter((u, d, m['c'], m['n']) for u, d, m in got)
    lost, extra = sum((sent - arrived).values()), sum((arrived - sent).values())
    order, last = 0, {}
    for u, d, m in got:
        key = (u, d, m['c'])
        order += m['n'] <= last.get(key, 0)
        last[key] = m['n']
    print('torture: accepted %d, delivered %d, lost %d, duplicated %d, out of order %d' % (
        sum(sent.values()), sum(arrived.values()), lost, extra, order))
    for what, few in (('lost', sent - arrived), ('duplicated', arrived - sent)):
        for key in sorted(few)[:5]:
            print('torture: %s: %s' % (what, key))
    if lost or extra or order or not sent:
        problems.append('what arrived is not what was accepted')


print('torture: seed %d, %g s' % (SEED, SECONDS), flush=True)
disk = small_disk()
program = Program(path=disk)
py = Appservice()
faults = Faults()
py.react, py.early = faults, True
port = free_port()
gateway = Gateway(config(port, program, py), store='8M', hosts={'py.example': py.host}, clock=True)
memory, descriptors = [], gateway.descriptors()
stop, calm = threading.Event(), threading.Event()
clients = [Client(i, port, stop) for i in range(CLIENTS)]
syncs = [Syncs(d, port, calm) for d in 'XY']
for t in clients + syncs:
    t.start()
hurts = [now_and_then(stop, 2, 0.2, 1.5, hurt_gateway),
         now_and_then(stop, 3, 0.2, 1.5, hurt_program),
         now_and_then(stop, 4, 1, 4, hurt_python)]
time.sleep(SECONDS)
stop.set()
faults.calm = True
end = time.monotonic() + 60
for t in hurts + clients:
    t.join(max(0, end - time.monotonic()))
    if t.is_alive():
        problems.append('something hangs')
if program.process.poll() is not None:
    program.start()
calm.set()
try:
    for t in syncs:
        t.join(30)
    until(lambda: gateway.status()['queued'] == 0 and all(t.ended for t in syncs), 30, 'the end')
except (AssertionError, OSError) as error:
    problems.append('%s: %s' % (error, gateway.status()))
got = [(m['to_user_id'], m['to_device_id'], m['content'])
       for m in program.messages() + py.messages] + [g for t in syncs for g in t.got]
print('torture: %s' % ', '.join('%s %d' % c for c in sorted(counts.items())))
check(clients, got)
memory.append(gateway.memory())
half = len(memory) // 2
print('torture: peak memory of %d lives, KiB: %d at most in the first half, %d in the second' % (
    len(memory), max(memory[:half] or [0]), max(memory[half:])))
if half > 10 and max(memory[half:]) > max(memory[:half]) * 1.1 + 256:
    problems.append('its memory grows')
try: # a connection to each appservice, and the one that asks
    until(lambda: gateway.descriptors() <= descriptors + 8, 90, 'fewer descriptors')
except AssertionError as error:
    problems.append('%s: %d, at first %d' % (error, gateway.descriptors(), descriptors))
if gateway.stop() != 0:
    problems.append('the gateway ended badly')
if problems:
    print('torture: kept: %s, %s%s' % (gateway.folder, program.folder,
                                       ', which is to be unmounted' if disk else ''))
    for problem in problems[:10]:
        print('torture: %s' % problem)
else:
    gateway.close()
    if disk:
        program.kill()
        subprocess.run(['umount', '-l', disk])
    else:
        program.close()
print('torture: %d passed, %d failed' % (not problems, len(problems) and 1))
sys.stdout.flush()
os._exit(1 if problems else 0)
