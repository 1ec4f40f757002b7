"""What happens to the machine: it is suspended, its clocks jump, its descriptors are gone."""
import json
import os
import re
import signal
import subprocess
import time

from harness import (Case, DEVICES, FAST, GATEWAY, V3, free_port, irc, read_answer, send_path,
                     until)

PUT = (b'PUT %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer bob1\r\nContent-Length: %d\r\n\r\n%s')
BODY = b'{"messages":{"@alice:gw.example":{"PHONE":{"n":1}}}}'


class Suspended(Case):
    def suspend(self, g, seconds, meanwhile):
        """Stops it, and has what happens `meanwhile` take long."""
        g.process.send_signal(signal.SIGSTOP)
        until(lambda: g.state() == 'T')
        meanwhile()
        g.pass_ms(seconds * 1000)
        g.process.send_signal(signal.SIGCONT)

    def answers(self, sockets):
        for s in sockets:
            with s, s.makefile('rb') as stream:
                answer = read_answer(stream)
                self.assertIsNotNone(answer, 'closed')
                self.assertEqual(answer[0], 200)

    def test_requests_that_wait(self):
        """They were there in time, and nobody says that they were slow."""
        g = self.gateway(clock=True)
        whole = [PUT % (send_path('w%d' % n).encode(), len(BODY), BODY) for n in range(10)]
        long = BODY[:-1] + b' ' * 4000 + b'}'
        part = [PUT % (send_path('p%d' % n).encode(), len(long), long) for n in range(10)]
        idle, begun = [g.connect() for _ in whole], [g.connect(p[:2000]) for p in part]
        for _ in range(3): # turns of its loop
            g.status()

        def meanwhile():
            for s, data in zip(idle, whole):
                s.sendall(data)
            for s, data in zip(begun, part):
                s.sendall(data[2000:-1])
        for _ in range(5):
            self.suspend(g, 3600, lambda: None)
            time.sleep(0.02)
        self.suspend(g, 3600, meanwhile)
        for s in begun:
            s.sendall(b'}')
        self.answers(idle + begun)

    def test_answers_that_wait(self):
        a = self.peer()
        g = self.gateway(FAST + DEVICES + irc(a.url), clock=True)
        a.react = lambda request: time.sleep(0.3)
        ping = g.connect(b'POST /_matrix/client/v1/appservice/irc/ping HTTP/1.1\r\nHost: x\r\n'
                         b'Authorization: Bearer as_irc\r\n\r\n')
        g.send('bob1', 1, {'@_irc_joe:gw.example': {'JOE': {}}})
        until(lambda: len(a.requests) == 2)
        self.suspend(g, 3600, lambda: time.sleep(0.6))
        self.answers([ping])
        until(lambda: g.appservice()['delivered'] == 1)
        self.assertEqual(len(a.transactions()), 1)

    def test_syncs_go_on(self):
        g = self.gateway(clock=True)
        sync = g.connect(b'GET %s/sync?timeout=30000 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer '
                         b'alice1\r\n\r\n' % V3.encode())
        for _ in range(3):
            g.status()
        self.suspend(g, 3600, lambda: None)
        g.send('bob1', 1, {'@alice:gw.example': {'PHONE': {'n': 1}}})
        with sync, sync.makefile('rb') as stream:
            events = json.loads(read_answer(stream)[2])['to_device']['events']
        self.assertEqual(self.contents(events), [{'n': 1}])

    def test_syncs_end(self):
        """Those of clients that have gone, too, whatever timeout they asked for."""
        g = self.gateway(clock=True)
        sync = g.connect(b'GET %s/sync?timeout=864000000 HTTP/1.1\r\nHost: x\r\nAuthorization: '
                         b'Bearer alice1\r\n\r\n' % V3.encode(), timeout=0.3)
        g.pass_slowly(298000)
        self.assertRaises(TimeoutError, sync.recv, 1)
        sync.settimeout(20)
        g.pass_slowly(4000)
        with sync, sync.makefile('rb') as stream:
            self.assertEqual(read_answer(stream)[0], 200)


class Streams(Case):
    """Standard streams that are closed, or that nobody reads."""

    def start(self, command='exec "$@"', **streams):
        port = free_port()
        g = self.gateway(['listen 127.0.0.1:%d' % port] + DEVICES, start=False)
        g.port, g.errors = port, open(g.folder + '/stderr', 'w')
        g.process = subprocess.Popen(['sh', '-c', command, 'sh', GATEWAY, g.path],
                                     **dict({'stdout': subprocess.PIPE}, **streams))

        def answers():
            try:
                return g.status()
            except OSError:
                return None
        until(answers)
        return g

    def works(self, g, txn):
        self.assertEqual(g.send('bob1', txn, {'@alice:gw.example': {'PHONE': {}}})[0], 200)
        g.process.send_signal(signal.SIGHUP)
        g.status()
        self.assertEqual(g.send('bob1', txn + 'b', {'@alice:gw.example': {'PHONE': {}}})[0], 200)
        self.assertEqual(len(g.drain('alice1')), 2)

    def test_closed(self):
        for closed in ('0<&-', '1>&-', '2>&-', '0<&- 1>&- 2>&-'):
            g = self.start('exec "$@" ' + closed, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
            streams = [os.readlink('/proc/%d/fd/%d' % (g.process.pid, fd)) for fd in range(3)]
            self.assertEqual([s == '/dev/null' for s in streams],
                             [str(fd) in re.findall(r'\d', closed) for fd in range(3)])
            for n in range(3):
                self.works(g, 'n%d' % n)
            with open(g.folder + '/gateway.log', 'rb') as f:
                text = f.read()
            self.assertNotIn(b'listening', text)
            self.assertNotIn(b'gateway: ', text)
            process = g.process
            self.assertEqual(g.stop(), 0)
            process.stdin.close()
            process.stderr.close()

    def test_nobody_reads_what_it_says(self):
        ours, its = os.pipe()
        os.set_blocking(its, False)
        try:
            while True:
                os.write(its, b'x' * 4096)
        except BlockingIOError:
            os.set_blocking(its, True)
        g = self.start(stderr=its)
        os.close(its)
        for n in range(5):
            self.works(g, 'n%d' % n)
        with open(ours, 'rb', buffering=0) as stream:
            said = b''
            while not said or set(said) == {ord('x')}:
                said = stream.read(65536).lstrip(b'x')
                g.process.send_signal(signal.SIGHUP)
            while b'was read again' not in said:
                said += stream.read(65536)
        self.assertRegex(said.decode(), r'warning: \d+ messages before this one are lost\n')
        self.works(g, 'gone') # now its other end is closed
        self.assertEqual(g.stop(), 0)


class Stores(Case):
    def test_too_large(self):
        """It is said before anything is written."""
        g = self.gateway(store='100G', start=False)
        done = subprocess.run([GATEWAY, g.path], capture_output=True, text=True, timeout=20)
        self.assertEqual(done.returncode, 2)
        self.assertTrue(done.stderr.startswith(g.path + ':3: '), done.stderr)
        self.assertEqual(os.listdir(g.folder), ['gateway.conf'])
        open(g.folder + '/stderr', 'w').close()

    def test_ends_while_it_makes_one(self):
        g = self.gateway(store='2G', start=False)
        process = subprocess.Popen([GATEWAY, g.path], stdout=subprocess.PIPE)
        until(lambda: os.path.exists(g.folder + '/gateway.log.new'))
        process.terminate()
        self.assertEqual(process.wait(10), 0)
        process.stdout.close()
        # Before it had come to its end, and nothing of it stays.
        self.assertEqual(os.listdir(g.folder), ['gateway.conf'])
        open(g.folder + '/stderr', 'w').close()
