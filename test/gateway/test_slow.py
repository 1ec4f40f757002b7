"""What takes a minute: silent connections. All of them begin at once, and each test waits for its
own end."""
import json
import threading
import time
import unittest

from harness import Appservice, Case, DEVICES, FAST, Gateway, V3, irc, read_answer, send_path, until

PUT = b'PUT %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer bob1\r\nContent-Length: 100\r\n\r\n{'
LONG = PUT.replace(b'100', b'10000') + b' ' * 900 # needs a slot
PING = (b'POST /_matrix/client/v1/appservice/irc/ping HTTP/1.1\r\nHost: x\r\n'
        b'Authorization: Bearer as_irc\r\n\r\n')


class Minute(Case):
    @classmethod
    def setUpClass(cls):
        cls.a = Appservice(react=cls.react)
        cls.g = Gateway(DEVICES + irc(cls.a.url) + FAST)
        cls.began = time.monotonic()
        put = PUT % send_path('p').encode()
        cls.sockets = {'idle': cls.g.connect(), 'head': cls.g.connect(b'PUT /x HTTP'),
                       'long': cls.g.connect(b'PUT /x HTTP/1.1\r\nHost: x\r\nA: ' + b'x' * 3000),
                       'body': cls.g.connect(put),
                       'long body': cls.g.connect(LONG % send_path('l').encode()),
                       'ping': cls.g.connect(PING),
                       'ping 2': cls.g.connect(PING),
                       'drain': cls.g.connect(put.replace(b'PUT', b'GET')),
                       'sync': cls.g.connect(b'GET %s/sync?timeout=75000 HTTP/1.1\r\nHost: x\r\n'
                                             b'Authorization: Bearer alice1\r\n\r\n' % V3.encode())}
        cls.g.send('bob1', 1, {'@_irc_joe:gw.example': {'JOE': {'n': 1}}})

    @classmethod
    def react(cls, request):
        """Answers nothing but the second attempt."""
        if len(cls.a.transactions()) < 2:
            time.sleep(100)

    @classmethod
    def tearDownClass(cls):
        for s in cls.sockets.values():
            s.close()
        cls.g.close()
        cls.a.close()

    def ended(self, name, least=58, most=66):
        """The answer of a connection, which must come after about a minute."""
        with self.sockets[name].makefile('rb') as stream:
            answer = read_answer(stream)
            took = time.monotonic() - self.began
            self.assertTrue(least < took, took)
            return answer and (answer[0], json.loads(answer[2]))

    def test_idle(self):
        self.assertIsNone(self.ended('idle'))

    def test_slow_heads(self):
        for name in ('head', 'long'):
            self.error(self.ended(name), 408, 'M_UNKNOWN')

    def test_slow_bodies(self):
        for name in ('body', 'long body', 'drain'):
            self.error(self.ended(name), 408, 'M_UNKNOWN')

    def test_pings(self):
        for name in ('ping', 'ping 2'):
            self.error(self.ended(name), 504, 'M_CONNECTION_TIMEOUT')

    def test_a_sync_may_wait_longer(self):
        self.assertEqual(self.ended('sync', 74)[0], 200)

    def test_transactions(self):
        """An appservice that does not answer within a minute has failed."""
        until(lambda: self.a.messages, 75)
        self.assertGreater(time.monotonic() - self.began, 58)


class Slots(Case):
    def test_who_is_slow_makes_room(self):
        """More slow bodies than there are slots: another one waits its turn."""
        g = self.gateway(DEVICES)
        slow = [g.connect(LONG % send_path('s%d' % i).encode()) for i in range(40)]
        time.sleep(0.1)
        began = time.monotonic()
        self.assertEqual(g.send('bob1', 1, {'@bob:gw.example': {'BOB': {}}})[0], 200)
        self.assertLess(time.monotonic() - began, 8)
        with slow[0].makefile('rb') as stream:
            status, _, body = read_answer(stream)
            self.error((status, json.loads(body)), 408, 'M_UNKNOWN')
        for s in slow:
            s.close()

    def test_small_bodies_wait_for_none(self):
        """However slow they are, they keep nobody waiting."""
        g = self.gateway(DEVICES)
        slow = [g.connect(PUT % send_path('s%d' % i).encode()) for i in range(200)]
        time.sleep(0.1)
        self.assertEqual(g.send('bob1', 1, {'@bob:gw.example': {'BOB': {'x': 'y' * 9000}}})[0], 200)
        for s in slow: # it was answered first, and none had to go
            s.setblocking(False)
            self.assertRaises(BlockingIOError, s.recv, 1)
            s.close()

    def test_slow_heads_make_room(self):
        g = self.gateway(DEVICES)
        long = b'GET /status HTTP/1.1\r\nHost: x\r\nA: ' + b'x' * 1000
        slow = [g.connect(long) for i in range(40)]
        time.sleep(0.1)
        began = time.monotonic()
        status = g.request('GET', '/status', headers={'Cookie': 'y' * 2000})[0]
        self.assertEqual(status, 200)
        self.assertLess(time.monotonic() - began, 5)
        for s in slow:
            s.close()

    def test_nobody_waits_for_the_slow_ones(self):
        """Hundreds of clients that send a byte now and then hold all there is to hold. Who sends a
        whole request is answered within a second all the same."""
        g = self.gateway(DEVICES)
        long = b'GET /status HTTP/1.1\r\nHost: x\r\nA: ' + b'x' * 1000
        chunks = (LONG % send_path('c').encode()).replace(b'Content-Length: 10000',
                                                          b'Transfer-Encoding: chunked')
        slow = [[g.connect(data), data] for n in range(100) for data in (
            long, LONG % send_path('s%d' % n).encode(), chunks.replace(b'{', b'2000\r\n{'))]
        stop = threading.Event()

        def drip():
            while not stop.wait(0.5):
                for one in slow:
                    try:
                        one[0].sendall(b' ')
                    except OSError: # it was too slow
                        one[0].close()
                        one[0] = g.connect(one[1])
        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        worst = 0
        for n in range(20):
            for body, headers in (({'n': n}, {}), ({'x': 'y' * 9000}, {}), ({'x': 'y' * 60000}, {}),
                                  ({'n': n}, {'Cookie': 'z' * 3000}),
                                  ({'x': 'y' * 2000}, {'Cookie': 'z' * 3000})):
                began = time.monotonic()
                status, said = g.request('PUT', send_path('%d-%d-%d' % (
                    n, len(str(body)), len(headers))), {'messages': {
                        '@alice:gw.example': {'PHONE': body}}}, 'bob1', headers)
                worst = max(worst, time.monotonic() - began)
                self.assertEqual(status, 200, said)
            began = time.monotonic()
            g.status()
            g.drain('alice1')
            worst = max(worst, (time.monotonic() - began) / 3)
        stop.set()
        thread.join()
        self.assertLess(worst, 1)
        for one in slow:
            one[0].close()

    def test_a_steady_body_is_not_cut_off(self):
        """1 KiB/s is enough, while others wait."""
        g = self.gateway(DEVICES)
        body = b'{"messages":{"@alice:gw.example":{"PHONE":{"x":"%s"}}}}' % (b'y' * 12000)
        head = (b'PUT %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer bob1\r\n'
                b'Content-Length: %d\r\n\r\n' % (send_path('steady').encode(), len(body)))
        stop = threading.Event()

        def others():
            while not stop.is_set():
                slow = [g.connect(LONG % send_path('o%d' % i).encode()) for i in range(40)]
                stop.wait(2)
                for s in slow:
                    s.close()
        with g.connect(head) as s, s.makefile('rb') as stream:
            thread = threading.Thread(target=others)
            thread.start()
            for i in range(0, len(body), 1500):
                s.sendall(body[i:i + 1500])
                time.sleep(1)
            self.assertEqual(read_answer(stream)[0], 200)
            stop.set()
            thread.join()
        self.assertEqual(len(g.drain('alice1')), 1)


if __name__ == '__main__':
    unittest.main()
