"""The appservice program as something that runs for years: its files, its start, its operator."""
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time

from harness import APPSERVICE, Case, KEY, folder, read_answer, until

PATH = '/_matrix/app/v1/transactions/'


def message(n, **more):
    return dict({'to_user_id': '@a:x', 'to_device_id': 'D', 'type': 't', 'sender': '@b:x',
                 'content': {'n': n}}, **more)


def body(*numbers, events=()):
    return {'events': list(events), KEY: [message(n) for n in numbers]}


def event(id, age=0, **more):
    return dict({'type': 'm.room.message', 'event_id': id, 'room_id': '!r:x', 'sender': '@b:x',
                 'content': {'body': 'x'}, 'unsigned': {'age': age}}, **more)


def put(txn, text, length=None):
    """A request as it is sent."""
    return (b'PUT %s%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer hs\r\n'
            b'Content-Length: %d\r\n\r\n' %
            (PATH.encode(), txn, len(text) if length is None else length) + text)


class Appservice(Case):
    """With one program, and others on its files."""

    def setUp(self):
        self.p = self.program()

    def got(self):
        return [m['content']['n'] for m in self.p.messages()]

    def events(self):
        return [e.get('event_id') for line in self.p.lines() for e in line['events']]

    def ok(self, answer):
        self.assertEqual(answer, (200, {}))

    def refused(self, answer):
        self.error(answer, 500, 'M_UNKNOWN')

    def send(self, txn, *numbers, events=()):
        return self.p.transaction(txn, body(*numbers, events=events))

    def connect(self, data=b'', timeout=30):
        s = socket.create_connection(('127.0.0.1', self.p.port), timeout=timeout)
        self.addCleanup(s.close)
        s.sendall(data)
        return s

    def run_with(self, *options, limit='true', state=None, out=None, port=None):
        """Another start, which is expected to end by itself: what it says."""
        done = subprocess.run(
            ['sh', '-c', limit + ' && exec "$@"', 'sh', APPSERVICE, '--hs-token', 'hs', '--listen',
             '127.0.0.1:%d' % (port or 0), '--state', state or self.p.state, '--out',
             out or self.p.out, *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, timeout=20)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertEqual(done.stdout, '')
        self.assertRegex(done.stderr, r'\Aappservice: [^\n]+\n\Z')
        return done.stderr

    def restart_with(self, limit):
        """Starts the program again, with a limit in the shell's words."""
        self.p.stop()
        before = len(self.p.said())
        with open(self.p.errors, 'ab') as errors:
            self.p.process = subprocess.Popen(
                ['sh', '-c', limit, 'sh', APPSERVICE, '--listen', '127.0.0.1:%d' % self.p.port,
                 '--hs-token', 'hs', '--state', self.p.state, '--out', self.p.out], stderr=errors)
        return before

    def accepting(self):
        """Waits until it takes connections: it may have no standard error to say so."""
        def connects():
            try:
                socket.create_connection(('127.0.0.1', self.p.port), timeout=5).close()
                return True
            except OSError:
                return False
        until(connects)

    def half(self, txn, *numbers):
        """A connection on which half a transaction has come; its first lines are in the output."""
        text = json.dumps({'events': [], KEY: [message(n, content={'n': n, 'x': 'y' * 40000})
                                               for n in numbers]}).encode()
        size = os.path.getsize(self.p.out)
        s = self.connect(put(txn, text[:len(text) // 2], len(text)))
        until(lambda: os.path.getsize(self.p.out) > size)
        return s, text[len(text) // 2:]


class Start(Appservice):
    def test_closed_descriptors(self):
        """What is meant for the operator never gets into a file."""
        for n, closed in enumerate(('0<&-', '1>&-', '2>&-', '0<&- 1>&- 2>&-')):
            self.restart_with('exec "$@" ' + closed)
            self.accepting()
            self.ok(self.send('a%d' % n, 2 * n))
            self.ok(self.p.transaction('b%d' % n, {'events': [None], KEY: [message(2 * n + 1)]}))
            self.assertEqual(self.got(), list(range(2 * n + 2)))
            self.p.stop()
            for name in (self.p.out, self.p.state):
                with open(name, 'rb') as f:
                    self.assertNotIn(b'appservice: ', f.read(), closed)
            self.p.start()
            self.assertEqual(self.got(), list(range(2 * n + 2)))

    def test_a_second_one_with_the_same_files(self):
        self.ok(self.send('1', 0))
        s, rest = self.half(b'2', 1, 2, 3, 4)
        size = os.path.getsize(self.p.out)
        other = os.path.join(self.p.folder, 'other')
        for files in ({}, {'out': other}, {'state': other}):
            for port in (self.p.port, 0):
                self.assertIn('in use by another process', self.run_with(port=port, **files))
                self.assertEqual(os.path.getsize(self.p.out), size)
        link = os.path.join(self.p.folder, 'link')
        os.symlink(self.p.out, link)
        self.assertIn('in use', self.run_with(state=other, out=link))
        s.sendall(rest)
        self.assertEqual(read_answer(s.makefile('rb'))[0], 200)
        self.assertEqual(self.got(), [0, 1, 2, 3, 4])

    def test_listens_before_it_cuts(self):
        self.ok(self.send('1', 0))
        self.half(b'2', 1, 2, 3)
        self.p.kill()
        size = os.path.getsize(self.p.out)
        with open(self.p.state, 'rb') as f:
            state = f.read()
        with socket.socket() as busy:
            busy.bind(('127.0.0.1', 0))
            busy.listen()
            self.assertIn('Address already in use', self.run_with(port=busy.getsockname()[1]))
        self.assertEqual(os.path.getsize(self.p.out), size)
        with open(self.p.state, 'rb') as f:
            self.assertEqual(f.read(), state)
        self.p.start()
        self.assertEqual(self.got(), [0])

    def test_a_shorter_output(self):
        """Emptied, cut or moved away while it was stopped: it does not start, and says why."""
        self.ok(self.send('1', 1))
        self.ok(self.send('2', 2))
        self.p.stop()
        with open(self.p.out, 'rb') as f:
            text = f.read()
        moved = self.p.out + '.1'
        for how in ('emptied', 'cut', 'moved'):
            if how == 'moved':
                os.rename(self.p.out, moved)
                self.assertIn(self.p.out, self.run_with())
                self.assertFalse(os.path.exists(self.p.out))
                os.rename(moved, self.p.out)
                continue
            length = 0 if how == 'emptied' else len(text) - 1
            os.truncate(self.p.out, length)
            self.assertIn('--rotated', self.run_with())
            self.assertEqual(os.path.getsize(self.p.out), length)
            with open(self.p.out, 'wb') as f:
                f.write(text)
        self.p.start()
        self.ok(self.send('2', 2))
        self.assertEqual(self.got(), [1, 2])
        self.p.stop()
        os.rename(self.p.out, moved)
        self.p.start('--rotated')
        self.ok(self.send('2', 2)) # it remembers
        self.ok(self.send('3', 3))
        self.assertEqual(self.got(), [3])

    def test_wrong_files(self):
        self.p.stop()
        path = lambda name: os.path.join(self.p.folder, name)
        os.mkdir(path('folder'))
        os.mkfifo(path('pipe'))
        for name, text in (('old', b'msc4203a' + b'x' * 9000), ('text', b'something else\n' * 9000),
                           ('short', b'x'), ('zeros', bytes(1 << 20)), ('half', b'{"events":[]}')):
            with open(path(name), 'wb') as f:
                f.write(text)
        for name in ('old', 'text', 'short', 'zeros', 'folder', 'pipe'):
            self.assertIn(path(name), self.run_with(state=path(name)))
        self.assertIn('earlier version', self.run_with(state=path('old')))
        for name in ('folder', 'pipe', 'nowhere/out'):
            self.assertIn(path(name), self.run_with(state=path('new'), out=path(name)))
        self.assertIn('whole line', self.run_with(state=path('new'), out=path('half')))
        self.assertIn('state file', self.run_with(state=path('same'), out=path('same')))
        with open(path('text'), 'rb') as f: # nothing was changed
            self.assertEqual(f.read(), b'something else\n' * 9000)

    def test_a_damaged_state(self):
        """It is never taken for an older one, which would cut off what was acknowledged."""
        for n in range(100): # records, and more than one whole image
            self.ok(self.send(str(n), n))
        self.p.stop()
        with open(self.p.state, 'rb') as f:
            state = f.read()
        record = state.rindex(b'msc4203r')
        pages = [at for at in range(0, len(state), 4096) if state[at:at + 8] == b'msc4203r']
        self.assertGreater(len(pages), 10)
        newest = max(int.from_bytes(state[at + 8:at + 16], 'little') for at in pages)
        current = [at for at in pages
                   if int.from_bytes(state[at + 8:at + 16], 'little') == newest]
        base = state.index(b'msc4203b' + newest.to_bytes(8, 'little'))
        for at in (current[0] + 30, current[len(current) // 2] + 60, base + 9, base + 5000):
            hurt = bytearray(state)
            hurt[at] ^= 1
            with open(self.p.state, 'wb') as f:
                f.write(hurt)
            self.assertIn('damaged', self.run_with())
            self.assertEqual(self.got(), list(range(100)))
        with open(self.p.state, 'wb') as f:
            f.write(state)
        self.p.start()
        self.assertEqual(self.got(), list(range(100)))
        self.assertGreater(record, base)

    def test_an_output_that_was_there(self):
        self.p.stop()
        os.remove(self.p.state)
        with open(self.p.out, 'w') as f:
            f.write('{"events":[],"%s":[{"content":{"n":7}}]}\n' % KEY)
        self.p.start()
        self.ok(self.send('1', 8))
        self.assertEqual(self.got(), [7, 8])

    def test_few_descriptors(self):
        self.assertIn('ulimit', self.run_with(limit='ulimit -n 12', state=self.p.state + '2',
                                              out=self.p.out + '2'))
        self.restart_with('ulimit -n 20 && exec "$@"')
        self.accepting()
        idle = [self.connect() for _ in range(30)]
        self.ok(self.send('1', 1))
        self.ok(self.send('2', 2))
        before = self.cpu()
        time.sleep(1)
        self.assertLess(self.cpu() - before, 0.3)
        served = 0
        for i, s in enumerate(idle): # those that are left are served too
            try:
                s.sendall(put(b'i%d' % i, json.dumps(body(10 + i)).encode()))
                served += read_answer(s.makefile('rb'))[0] == 200
            except (OSError, TypeError):
                pass
        self.assertGreater(served, 2)
        self.assertEqual(len(self.got()), 2 + served)

    def cpu(self):
        with open('/proc/%d/stat' % self.p.process.pid, encoding='utf-8') as f:
            fields = f.read().rsplit(')', 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


class Files(Appservice):
    """What happens to its files while it runs."""

    def test_an_output_that_is_cut(self):
        self.ok(self.send('1', 1))
        for length in (0, 10):
            os.truncate(self.p.out, length)
            self.refused(self.send('2', 2))
            self.assertEqual(os.path.getsize(self.p.out), length) # and no NUL bytes
        self.assertIn('cut short', self.p.said())
        os.truncate(self.p.out, 0)
        self.hangup()
        self.ok(self.send('2', 2))
        self.ok(self.send('1', 1))
        self.assertEqual(self.got(), [2])

    def test_an_output_that_is_cut_in_a_transaction(self):
        self.ok(self.send('1', 1))
        s, rest = self.half(b'2', 2, 3, 4, 5)
        os.truncate(self.p.out, 0)
        s.sendall(rest)
        self.assertEqual(read_answer(s.makefile('rb'))[0], 500)
        with open(self.p.out, 'rb') as f:
            self.assertNotIn(b'\0', f.read())

    def hangup(self):
        before = len(self.p.said())
        self.p.process.send_signal(signal.SIGHUP)
        until(lambda: '\n' in self.p.said()[before:])
        return self.p.said()[before:]

    def test_rotation(self):
        first = self.p.out + '.1'
        self.ok(self.send('1', 1))
        os.rename(self.p.out, first)
        self.refused(self.send('2', 2))
        self.refused(self.send('2', 2))
        self.assertEqual(self.p.said().count('moved away'), 1) # said once
        s, rest = None, None
        self.assertIn('goes on with', self.hangup())
        self.ok(self.send('2', 2))
        self.assertIn('kept again', self.p.said())
        s, rest = self.half(b'3', 3, 4, 5, 6) # one is being read: it comes again
        os.rename(self.p.out, self.p.out + '.2')
        self.hangup()
        self.assertEqual(read_answer(s.makefile('rb'))[0], 500)
        self.ok(self.send('3', 3))
        for stop in (self.p.stop, self.p.kill):
            stop()
            self.p.start()
            for n in (1, 2, 3):
                self.ok(self.send(str(n), n))
        got = []
        for name in (first, self.p.out + '.2', self.p.out):
            with open(name, encoding='utf-8') as f:
                got += [m['content']['n'] for line in f for m in json.loads(line)[KEY]]
        self.assertEqual(got, [1, 2, 3])

    def test_files_that_are_removed_or_replaced(self):
        self.ok(self.send('0', 0))
        n = 1
        for name, what in ((self.p.out, 'output'), (self.p.state, 'state file')):
            away = name + '.away'
            for replace in (False, True):
                os.rename(name, away)
                if replace:
                    with open(name, 'wb'):
                        pass
                self.refused(self.send(str(n), n))
                self.assertIn('the %s was moved away, removed or replaced' % what, self.p.said())
                os.rename(away, name)
                self.ok(self.send(str(n), n))
                n += 1
        self.p.kill()
        self.p.start()
        self.assertEqual(self.got(), list(range(n)))
        for name in (self.p.out, self.p.state):
            os.remove(name)
            self.refused(self.send('x', 99))

    def test_others_write_to_the_output(self):
        self.ok(self.send('1', 1))
        with open(self.p.out, 'ab') as f:
            f.write(b'half a line')
        self.ok(self.send('2', 2))
        self.assertEqual(self.got(), [1, 2])

    def test_a_full_disk(self):
        """A file that may not grow: refused, with the cause, and nothing is lost or doubled."""
        before = self.restart_with('ulimit -f %d && exec "$@"' % (900 * self.block()))
        until(lambda: 'listening' in self.p.said()[before:])
        large = {'x': 'y' * 60000}
        n, status = 0, 200
        while status == 200:
            n += 1
            status, answer = self.p.transaction(str(n), {'events': [], KEY: [
                message(n, content=dict(large, n=n))]})
        self.error((status, answer), 500, 'M_UNKNOWN')
        self.assertGreater(n, 3)
        self.assertEqual(self.got(), list(range(1, n)))
        self.ok(self.send('small', 0)) # there is room for that
        self.assertIn('File too large', self.p.said())
        self.p.stop()
        self.p.start()
        self.ok(self.p.transaction(str(n), {'events': [], KEY: [message(n)]}))
        self.ok(self.send('small', 0))
        self.assertEqual(self.got(), list(range(1, n)) + [0, n])

    @staticmethod
    def block():
        """How many units of `ulimit -f` are a KiB: shells differ."""
        with open(os.path.join(folder(), 'x'), 'wb') as f:
            subprocess.run(['sh', '-c', 'trap "" XFSZ; ulimit -f 1; head -c 9999 /dev/zero'],
                           stdout=f, stderr=subprocess.DEVNULL)
            return 1024 // max(os.fstat(f.fileno()).st_size, 512)


class Items(Appservice):
    def test_what_does_not_fit(self):
        """Everything of a transaction that was acknowledged is in the output."""
        m = lambda n, size, **more: message(n, content={'n': n, 'x': 'y' * size}, **more)
        self.ok(self.p.transaction('1', {'events': [], KEY: [m(1, 1000000), m(2, 0)]}))
        for txn, items in (('2', [m(3, 0), m(4, 1100000), m(5, 0)]),
                           ('3', [m(3, 0, type='x' * 1100000)])):
            for _ in range(2):
                self.error(self.p.transaction(txn, {'events': [], KEY: items}), 413, 'M_TOO_LARGE')
                self.assertEqual(self.got(), [1, 2])
        self.ok(self.p.transaction('2', {'events': [], KEY: [m(3, 0), m(5, 0)]}))
        # As a line an item is up to six times as long.
        self.ok(self.p.transaction('4', {'events': [], KEY: [m(6, 0, type='\1' * 1000000)]}))
        self.ok(self.p.transaction('5', {'events': [event('$1'), event('$2', x='y' * 1000000)]}))
        self.error(self.p.transaction('6', {'events': [event('$3'), event('$4', x='y' * 1100000)]}),
                   413, 'M_TOO_LARGE')
        self.ok(self.p.transaction('6', {'events': [event('$3')]}))
        self.assertEqual(self.got(), [1, 2, 3, 5, 6])
        self.assertEqual(self.events(), ['$1', '$2', '$3'])

    def test_room_events_come_again(self):
        """Neither the transaction's id nor its bytes tell a room event apart."""
        self.ok(self.send('1', 1, events=[event('$a'), event('$b')]))
        self.ok(self.send('1', events=[event('$a', 5), event('$b', 5)]))      # an answer was lost
        self.ok(self.send('1', events=[event('$a', 9), event('$b'), event('$c')])) # one more
        self.ok(self.send('2', events=[event('$b', 7), event('$d')]))         # another id
        self.ok(self.send('3', events=[event('$e'), event('$e', 1), event('$f')])) # twice in it
        self.ok(self.send('1', 1, events=[event('$a', 3), event('$g')]))
        self.assertEqual(self.events(), ['$a', '$b', '$c', '$d', '$e', '$f', '$g'])
        self.assertEqual(self.got(), [1])
        for n, stop in enumerate((self.p.stop, self.p.kill)):
            stop()
            self.p.start()
            self.ok(self.send('r%d' % n, events=[event(i, n + 20) for i in ('$a', '$d', '$g')]))
        self.assertEqual(self.events(), ['$a', '$b', '$c', '$d', '$e', '$f', '$g'])

    def test_what_an_event_id_is(self):
        raw = lambda txn, *events: self.ok(self.p.transaction(
            txn, '{"events":[%s]}' % ','.join(events)))
        raw('1', '{"event_id":"$a/b","n":1}')
        raw('2', r'{"n":2,"event\u005fid" : "\u0024a\/b"}')          # the same, spelled otherwise
        raw('3', '{"n":3,"content":{"event_id":"$a/b"}}', '{"n":4,"x":["event_id","$a/b"]}')
        raw('4', '{"n":5}', '{"n":5}', '{"n":6,"event_id":null}', '{"n":6,"event_id":null}',
            '{"n":7,"event_id":""}', '{"n":7,"event_id":""}')          # none: written each time
        raw('5', '{"n":8,"event_id":"$x","event_id":"$a/b"}')          # two are none
        raw('6', '{"n":9,"k":"\\"event_id\\":\\"$a/b\\"","event_id":"$y{\\"}"}')
        raw('7', '{"n":10,"event_id":"$y{\\"}"}', '{"n":11,"event_id":"' + '$' * 3000 + '"}')
        self.assertEqual([e['n'] for line in self.p.lines() for e in line['events']],
                         [1, 3, 4, 5, 5, 6, 6, 7, 7, 8, 9, 11])

    def test_events_of_what_was_not_kept(self):
        good = json.dumps(body(1, events=[event('$a'), event('$b')]))
        self.error(self.p.transaction('1', good[:-1]), 400, 'M_NOT_JSON')
        self.ok(self.p.transaction('1', good))
        self.error(self.p.transaction('2', json.dumps(body(events=[event('$c')]))[:-1] + 'x'), 400,
                   'M_NOT_JSON')
        self.p.kill()
        self.p.start()
        self.ok(self.send('2', events=[event('$c'), event('$a')]))
        self.assertEqual(self.events(), ['$a', '$b', '$c'])

    def test_several_thousand_events(self):
        ids = ['$%d' % i for i in range(12000)]
        for n in range(0, 12000, 3000):
            self.ok(self.send('a%d' % n, events=[event(i) for i in ids[n:n + 3000]]))
        self.assertEqual(self.events(), ids)
        self.p.kill()
        self.p.start()
        self.ok(self.send('b', events=[event(i, 1) for i in ids[-8000:]]))
        self.assertEqual(self.events(), ids)
        self.ok(self.send('c', events=[event('$0', 1)])) # that is forgotten
        self.assertEqual(self.events(), ids + ['$0'])
        many = ['$m%d' % i for i in range(20000)] # more than it can remember, at once
        self.ok(self.send('d', events=[event(i) for i in many]))
        self.ok(self.send('e', events=[event(i, 1) for i in many[-8000:]]))
        self.assertEqual(self.events(), ids + ['$0'] + many)

    def test_killed_in_transactions(self):
        """Killed at any moment, and again and again: each item is in the output once, in order."""
        stop = threading.Event()
        chance = random.Random(1)
        kills = 0

        def killer():
            nonlocal kills
            while not stop.is_set():
                time.sleep(chance.uniform(0, 0.02))
                self.p.kill()
                kills += 1
                self.p.start()
        thread = threading.Thread(target=killer)
        thread.start()
        n, age = 0, 0
        while kills < 100 or n < 30:
            n += 1
            while True: # as a homeserver does: until it is acknowledged, with another age
                age += 1
                try:
                    if self.send(str(n), *range(3 * n, 3 * n + 3), events=[
                            event('$%d' % n, age), event('$%d' % (n - 1), age)])[0] == 200:
                        break
                except Exception as error:
                    if not isinstance(error, (OSError, ValueError)) and \
                            type(error).__name__ not in ('RemoteDisconnected', 'BadStatusLine',
                                                         'IncompleteRead'):
                        raise
        stop.set()
        thread.join()
        self.assertEqual(self.got(), list(range(3, 3 * n + 3)))
        self.assertEqual(self.events(), ['$1', '$0'] + ['$%d' % i for i in range(2, n + 1)])


class Clients(Appservice):
    def test_slow_ones(self):
        """Any number of slow clients keeps nobody waiting for a second."""
        stop, slow = threading.Event(), []

        def trickle():
            while not stop.wait(0.05):
                for s in slow:
                    try:
                        s.sendall(b'x')
                    except OSError:
                        pass
        slow += [self.connect(b'PUT /x HTTP/1.1\r\nA: ') for _ in range(200)]
        slow += [self.connect(put(b'x', b'{', 9000).replace(b'Bearer hs', b'Bearer no'))
                 for _ in range(200)]
        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            for n in range(20):
                began = time.monotonic()
                self.ok(self.send(str(n), n))
                self.assertLess(time.monotonic() - began, 1)
        finally:
            stop.set()
            thread.join()

    def test_a_slow_transaction(self):
        """One that is too slow is refused once another one waits for it."""
        s = self.connect(put(b'1', b'{', 9000))
        self.ok(self.p.request('POST', '/_matrix/app/v1/ping')) # that need not wait
        self.error(self.p.request('PUT', PATH + '2', body(2), 'x'), 403, 'M_FORBIDDEN')
        began = time.monotonic()
        self.ok(self.send('3', 3))
        self.assertLess(time.monotonic() - began, 30)
        self.assertEqual(read_answer(s.makefile('rb'))[0], 408)
        self.assertEqual(self.got(), [3])

    def test_an_endless_body(self):
        """Of a request that is refused no more is read than needs be."""
        s = self.connect(put(b'1', b'x' * 100000, 1 << 40).replace(b'Bearer hs', b'Bearer no'))
        with s.makefile('rb') as stream:
            status, headers, _ = read_answer(stream)
        self.assertEqual((status, headers['connection']), (403, 'close'))

    def test_long_heads(self):
        s = self.connect(b'PUT /x HTTP/1.1\r\nA: ' + b'x' * 9000)
        self.assertEqual(read_answer(s.makefile('rb'))[0], 431)

    def status(self, data):
        s = self.connect(data)
        with s.makefile('rb') as stream:
            answer = read_answer(stream)
        return answer and answer[0]

    def test_requests(self):
        """Requests that RFC 9110 and 9112 tell a server to take, or to refuse."""
        text = json.dumps(body(1)).encode()
        request = put(b'1', text)
        self.assertEqual(self.status(request.replace(b'HTTP/1.1', b'HTTP/1.0')), 200)
        self.assertEqual(self.status(request.replace(b' /', b' http://gw.example:1/', 1)), 200)
        self.assertEqual(self.status(request.replace(b'Host: x\r\n', b'')), 400)
        self.assertEqual(self.status(request.replace(b'Host: x', b'Host: x\r\nHost: y')), 400)
        self.assertEqual(self.status(request.replace(b'Host: x', b'Transfer-Encoding: chunked')),
                         400)
        self.assertEqual(self.status(request.replace(b'Host: x', b'Host: x\r\nContent-Length: 1')),
                         400)
        self.assertEqual(self.got(), [1])
        # HTTP/1.0 knows no 100: the first thing that comes is the answer.
        head, _, text = put(b'2', json.dumps(body(2)).encode()).partition(b'\r\n\r\n')
        s = self.connect(head.replace(b'HTTP/1.1', b'HTTP/1.0') +
                         b'\r\nExpect: 100-continue\r\n\r\n')
        s.sendall(text)
        self.assertEqual(read_answer(s.makefile('rb'))[0], 200)
        self.assertEqual(self.got(), [1, 2])

    def test_head(self):
        """No body follows the head of an answer to HEAD: the next answer does."""
        head = b'HEAD %s1 HTTP/1.1\r\nHost: x\r\n\r\n' % PATH.encode()
        s = self.connect(head + put(b'1', json.dumps(body(1)).encode()))
        with s.makefile('rb') as stream:
            self.assertEqual(stream.readline().split()[1], b'405')
            while stream.readline() != b'\r\n':
                pass
            self.assertEqual(read_answer(stream)[0], 200)

    def test_the_order_of_those_that_wait(self):
        first = self.connect(put(b'0', b'{', 13))
        time.sleep(0.1)
        others = []
        for n in range(1, 9): # each on its own connection, one after the other
            others.append(self.connect(put(b'%d' % n, json.dumps(body(n)).encode())))
            time.sleep(0.05)
        first.sendall(b'"events":[]}')
        for s in [first] + others:
            self.assertEqual(read_answer(s.makefile('rb'))[0], 200)
        self.assertEqual(self.got(), list(range(1, 9)))


class Operator(Appservice):
    LINE = r'20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z appservice: (info|warning|error): [^\n]+\n'

    def run_it(self, *options):
        return subprocess.run([APPSERVICE, *options], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=20)

    def test_help(self):
        for option in ('--help', '-h'):
            done = self.run_it(option)
            self.assertEqual((done.returncode, done.stderr), (0, ''))
            for word in ('--listen', '--hs-token', '--hs-token-file', '--state', '--out', '--fail', '--rotated',
                         'SIGHUP', 'Exit status'):
                self.assertIn(word, done.stdout)
        done = self.run_it('--version')
        self.assertRegex(done.stdout, r'\Aappservice \d+\.\d+\.\d+\n\Z')
        for option in ('--help', '--version'):
            with open('/dev/full', 'w') as full:
                self.assertEqual(subprocess.run([APPSERVICE, option], stdout=full,
                                                stderr=subprocess.PIPE).returncode, 2)

    def test_usage(self):
        """One line that says what is wrong and where to read on."""
        all = ['--listen', '127.0.0.1:0', '--hs-token', 'h', '--state', 's', '--out', 'o']
        for options, what in (
                ([], '--listen'), (['--listen'], 'value'), (['--nonsense', 'x'], '--nonsense'),
                (['--listen', '127.0.0.1:0'], '--hs-token'), (['x'] + all, 'x: '),
                (all + ['--out', 'p'], 'twice'), (all + ['--fail', '-1'], '-1'),
                (all + ['--fail', '1x'], '1x'), (all + ['--fail='], 'number'),
                (['--listen', 'x'] + all[2:], 'HOST:PORT'),
                (['--listen', '127.0.0.1:66666'] + all[2:], 'HOST:PORT'),
                (all[:6] + ['--out='], '--out')):
            done = self.run_it(*options)
            self.assertEqual((done.returncode, done.stdout), (2, ''), options)
            self.assertRegex(done.stderr, r'\Aappservice: [^\n]+ \(see appservice --help\)\n\Z')
            self.assertIn(what, done.stderr)
        self.assertIn('does not resolve', self.run_it('--listen', 'nothing.invalid:1',
                                                      *all[2:]).stderr)

    def test_token_in_a_file(self):
        path = self.p.state + '.token'
        options = ['--listen', '127.0.0.1:%d' % self.p.port, '--hs-token-file', path, '--state',
                   self.p.state, '--out', self.p.out]
        def said(text, *more):
            with open(path, 'w') as f:
                f.write(text)
            done = self.run_it(*options, *more)
            self.assertEqual((done.returncode, done.stdout), (2, ''))
            return done.stderr
        self.p.stop()
        for text in ('', '\n', '\r\nhs\n', 'x' * 1025 + '\n', 'x' * 5000):
            self.assertIn(path + ': ', said(text))
        self.assertIn('only one', said('hs', '--hs-token', 'hs'))
        os.unlink(path)
        self.assertIn('No such file', self.run_it(*options).stderr)
        for n, text in enumerate(('hs', 'hs\n', 'hs\r\n' + 'x' * 2000)):
            with open(path, 'w') as f:
                f.write(text)
            p = subprocess.Popen([APPSERVICE] + options, stderr=subprocess.PIPE, text=True)
            self.p.process = p
            self.addCleanup(p.stderr.close)
            self.assertIn('listening', p.stderr.readline())
            self.ok(self.send(str(n), n))
            self.error(self.p.request('PUT', PATH + '1', {}, 'hx'), 403, 'M_FORBIDDEN')
            self.p.stop()

    def test_values_behind_an_equals_sign(self):
        self.p.stop()
        p = subprocess.Popen([APPSERVICE, '--listen=127.0.0.1:%d' % self.p.port, '--hs-token=hs',
                              '--state=' + self.p.state, '--out=' + self.p.out, '--fail=1'],
                             stderr=subprocess.PIPE, text=True)
        self.p.process = p
        self.addCleanup(p.stderr.close)
        self.assertEqual(p.stderr.readline(),
                         'appservice: listening on 127.0.0.1:%d\n' % self.p.port)
        self.refused(self.send('1', 1))
        self.ok(self.send('1', 1))

    def test_messages(self):
        """Each line tells when, how bad and why; what goes on for long is said once."""
        for _ in range(5):
            self.error(self.p.request('PUT', PATH + '1', {}, 'wrong'), 403, 'M_FORBIDDEN')
        self.ok(self.p.transaction('1', {'events': [1, {}], KEY: [{'type': '\x1b[31m\n'}]}))
        self.error(self.p.transaction('2', '{'), 400, 'M_NOT_JSON')
        os.rename(self.p.out, self.p.out + '.1')
        for _ in range(5):
            self.refused(self.send('3', 3))
        os.rename(self.p.out + '.1', self.p.out)
        self.ok(self.send('3', 3))
        lines = self.p.said().splitlines(True)
        self.assertTrue(lines[0].startswith('appservice: listening on '))
        for line in lines[1:]:
            self.assertRegex(line, r'\A' + self.LINE + r'\Z')
        for what, times in (('hs_token', 1), ('item left out', 2), ('room event 0', 1),
                            ('is refused: the input ends too early', 1),
                            ('error: transactions are refused: ', 1),
                            ('kept again, after 5 failures since ', 1)):
            self.assertEqual(self.p.said().count(what), times, (what, self.p.said()))

    def test_many_bad_items(self):
        """They do not fill the operator's disk."""
        self.ok(self.p.transaction('1', {'events': [1] * 100000, KEY: [message(1)]}))
        self.assertLess(len(self.p.said()), 30000)
        self.assertEqual(self.got(), [1])

    def test_nobody_reads_what_it_says(self):
        """A standard error that is full, or closed, neither blocks nor ends it."""
        self.p.stop()
        for make in (os.pipe, lambda: [s.detach() for s in socket.socketpair()]):
            out, into = make()
            self.fill(into)
            for ends in (False, True):
                self.start_with(into)
                if ends:
                    os.close(out)
                for n in range(15):
                    self.ok(self.p.transaction('%d' % n, {'events': [1] * 10, KEY: [message(n)]}))
                    self.error(self.p.transaction('b', '{"events":[1,%d' % n), 400, 'M_NOT_JSON')
                self.assertEqual(self.p.stop(), 0)
            os.close(into)
        self.assertEqual(self.got(), list(range(15)))

    def start_with(self, errors):
        self.p.process = subprocess.Popen(
            [APPSERVICE, '--listen', '127.0.0.1:%d' % self.p.port, '--hs-token', 'hs', '--state',
             self.p.state, '--out', self.p.out], stderr=errors)
        self.accepting()

    @staticmethod
    def fill(into):
        """Writes until nothing more fits."""
        os.set_blocking(into, False)
        try:
            while True:
                os.write(into, b'x' * 4096)
        except BlockingIOError:
            pass
        os.set_blocking(into, True)

    def test_says_what_was_lost(self):
        """Once there is room again, it says how many lines are missing."""
        self.p.stop()
        out, into = os.pipe()
        self.start_with(into)
        self.fill(into)
        os.close(into)
        self.ok(self.p.transaction('1', {'events': [1, 2, 3]}))
        with open(out, 'rb', buffering=0) as f:
            text = b''
            while b'xxx' in (piece := f.read(65536)) and len(piece) == 65536:
                pass
            self.ok(self.p.transaction('2', {'events': [4]}))
            while b'item left out' not in text:
                text += f.read(65536)
        self.assertRegex(text.decode(), r'warning: 3 messages before this one are lost\n')
