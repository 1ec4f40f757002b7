"""What happens to the machine: it is suspended, its clocks jump, its descriptors are gone."""
import json
import signal
import time

from harness import Case, DEVICES, FAST, V3, irc, read_answer, send_path, until

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
