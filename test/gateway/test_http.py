"""HTTP as it may come."""
import http.client
import json
import random
import socket
import time

from harness import (Case, DEVICES, FAST, Gateway, V3, irc, read_answer, request, send_path,
                     until)

BODY = b'{"messages":{"@alice:gw.example":{"PHONE":{"n":1}}}}'


def put(txn, body=BODY, version=b'1.1', more=b'', length=True):
    return b'PUT %s HTTP/%s\r\nHost: x\r\nAuthorization: Bearer bob1\r\n%s%s\r\n%s' % (
        send_path(txn).encode(), version, more,
        b'Content-Length: %d\r\n' % len(body) if length else b'', body)


def chunked(body, size=1, extension=b'', trailer=b''):
    return b''.join(b'%x%s\r\n%s\r\n' % (len(body[i:i + size]), extension, body[i:i + size])
                    for i in range(0, len(body), size)) + b'0\r\n%s\r\n' % trailer


SYNC = b'GET %s/sync HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice1\r\n\r\n' % V3.encode()


class Http(Case):
    @classmethod
    def setUpClass(cls):
        cls.g = Gateway(DEVICES + irc() + ['request_bytes_max 1M'])

    @classmethod
    def tearDownClass(cls):
        cls.g.close()

    def setUp(self):
        self.g.drain('alice1')
        self.txn = self.id()

    def one(self, data, status=200, **options):
        answers = self.g.raw(data, **options)
        self.assertEqual([a[0] for a in answers], [status], answers)
        return answers[0]

    def got(self, count):
        self.assertEqual(len(self.g.drain('alice1')), count)

    def test_chunked(self):
        te = b'Transfer-Encoding: chunked\r\n'
        n = 0
        for size in (1, 7, 1000):
            for extension in (b'', b';a=b', b' ;x'):
                for trailer in (b'', b'A: b\r\nC: d\r\n'):
                    n += 1
                    data = put('%s%d' % (self.txn, n), b'', more=te, length=False)
                    self.one(data + chunked(BODY, size, extension, trailer))
        self.got(n)

    def test_chunked_byte_by_byte(self):
        data = put(self.txn, b'', more=b'Transfer-Encoding: chunked\r\n', length=False) + \
            chunked(BODY, 5, trailer=b'A: b\r\n')
        with self.g.connect() as s, s.makefile('rb') as stream:
            for i in range(len(data)):
                s.sendall(data[i:i + 1])
                if i % 10 == 0:
                    time.sleep(0.001)
            self.assertEqual(read_answer(stream)[0], 200)
            s.sendall(SYNC) # and the connection goes on
            self.assertEqual(read_answer(stream)[0], 200)
        self.got(1)

    def test_byte_by_byte(self):
        data = put(self.txn)
        with self.g.connect() as s, s.makefile('rb') as stream:
            for i in range(len(data)):
                s.sendall(data[i:i + 1])
                time.sleep(0.001)
            self.assertEqual(read_answer(stream)[0], 200)
        self.got(1)

    def test_pipelined(self):
        many = b''.join(put('%s%d' % (self.txn, i)) for i in range(100))
        self.assertEqual([a[0] for a in self.g.raw(many)], [200] * 100)
        self.got(100)

    def test_pipelined_of_all_kinds(self):
        te = b'Transfer-Encoding: chunked\r\n'
        one = put(self.txn) + SYNC + put(self.txn + 'b', b'', more=te, length=False) + \
            chunked(BODY, 9) + b'GET /status HTTP/1.1\r\nHost: x\r\n\r\n' + \
            put(self.txn + 'c', b'x') + \
            b'GET /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc' + \
            put(self.txn + 'd', b'y' * 3000)
        self.assertEqual([a[0] for a in self.g.raw(one * 5)],
                         [200, 200, 200, 200, 400, 404, 400] * 5)
        self.got(2)
        # Cut anywhere.
        for cut in random.Random(1).sample(range(len(one)), 60):
            with self.g.connect() as s, s.makefile('rb') as stream:
                s.sendall(one[:cut])
                time.sleep(0.002)
                s.sendall(one[cut:])
                self.assertEqual([read_answer(stream)[0] for _ in range(7)],
                                 [200, 200, 200, 200, 400, 404, 400])

    def test_pipelined_behind_long_heads(self):
        long = b'Cookie: ' + b'x' * 3000 + b'\r\n'
        many = b''.join(put('%s%d' % (self.txn, i), more=long if i % 3 else b'') for i in range(30))
        self.assertEqual([a[0] for a in self.g.raw(many)], [200] * 30)
        self.got(30)

    def test_a_body_with_a_get(self):
        for path in (b'/status', V3.encode() + b'/sync?access_token=alice1'):
            get = b'GET %s HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}' % path
            answers = self.g.raw(get * 2)
            self.assertTrue(answers and all(a[0] == 200 for a in answers), answers)

    def test_keep_alive(self):
        c = http.client.HTTPConnection('127.0.0.1', self.g.port)
        local = None
        for i in range(50):
            self.assertEqual(request(c, 'PUT', send_path('%s%d' % (self.txn, i)), BODY, 'bob1')[0],
                             200)
            local = local or c.sock.getsockname()
            self.assertEqual(c.sock.getsockname(), local)
            self.assertEqual(request(c, 'PUT', send_path('e%d' % i), b'[]', 'bob1')[0], 400)
            self.assertEqual(c.sock.getsockname(), local)
        c.close()

    def ends(self, data, closes):
        with self.g.connect(data) as s, s.makefile('rb') as stream:
            status, headers, _ = read_answer(stream)
            self.assertEqual(status, 200)
            if closes:
                self.assertEqual(headers.get('connection'), 'close')
                self.assertEqual(stream.read(), b'')
            else:
                s.sendall(SYNC)
                self.assertEqual(read_answer(stream)[0], 200)

    def test_who_closes(self):
        self.ends(put(self.txn + '1', version=b'1.0'), True)
        self.ends(put(self.txn + '2', version=b'1.0', more=b'Connection: keep-alive\r\n'), True)
        self.ends(put(self.txn + '3', more=b'Connection: close\r\n'), True)
        self.ends(put(self.txn + '4', more=b'Connection: foo, Close\r\n'), True)
        self.ends(put(self.txn + '5'), False)

    def test_expect(self):
        with self.g.connect(put(self.txn, more=b'Expect: 100-continue\r\n')[:-len(BODY)]) as s, \
                s.makefile('rb') as stream:
            self.assertEqual(stream.readline(), b'HTTP/1.1 100 Continue\r\n')
            self.assertEqual(stream.readline(), b'\r\n')
            s.sendall(BODY)
            self.assertEqual(read_answer(stream)[0], 200)
        self.got(1)

    def test_expect_and_a_body_in_pieces(self):
        body = BODY.replace(b'1', b'"' + b'y' * 2000 + b'"')
        head = put(self.txn, body, more=b'Expect: 100-continue\r\n')[:-len(body)]
        with self.g.connect(head) as s, s.makefile('rb') as stream:
            self.assertEqual(stream.readline(), b'HTTP/1.1 100 Continue\r\n')
            self.assertEqual(stream.readline(), b'\r\n')
            for i in range(0, len(body), 100):
                s.sendall(body[i:i + 100])
                time.sleep(0.005)
            self.assertEqual(read_answer(stream)[0], 200)
        self.got(1)

    def test_expect_is_answered_at_once_when_refused(self):
        for path, token, status in ((b'/nowhere', b'bob1', 404), (b'/status', b'bob1', 405),
                                    (send_path(1).encode(), b'none', 401)):
            with self.g.connect(b'PUT %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n'
                                b'Expect: 100-continue\r\nContent-Length: 10\r\n\r\n' % (
                                    path, token), timeout=5) as s, s.makefile('rb') as stream:
                self.assertEqual(read_answer(stream)[0], status)

    def test_too_long_is_answered_without_reading(self):
        for expect in (b'', b'Expect: 100-continue\r\n'):
            head = put(self.txn, b'', more=expect + b'Content-Length: 1048577\r\n', length=False)
            with self.g.connect(head, timeout=5) as s, s.makefile('rb') as stream:
                self.assertEqual(read_answer(stream)[0], 413)
        head = put(self.txn, b'', more=b'Content-Length: 99999999999999999\r\n', length=False)
        with self.g.connect(head, timeout=5) as s, s.makefile('rb') as stream:
            self.assertEqual(read_answer(stream)[0], 413)

    def test_long_heads(self):
        room = 8192 - len(put(self.txn, b'')) + 2 - len(b'A: \r\n') - 20
        self.one(put(self.txn, more=b'A: ' + b'x' * (room - 500) + b'\r\n'))
        self.got(1)
        for size in (8192, 20000, 500000):
            with self.g.connect() as s, s.makefile('rb') as stream:
                try:
                    s.sendall(put(self.txn, more=b'A: ' + b'x' * size + b'\r\n'))
                except OSError:
                    pass
                status, headers, body = read_answer(stream)
                self.assertEqual(status, 431)
                self.assertIn('errcode', json.loads(body))
        with self.g.connect(b'x' * 9000) as s, s.makefile('rb') as stream:
            self.assertEqual(read_answer(stream)[0], 431)

    def test_garbage(self):
        noise, get = random.Random(2), b'GET /status HTTP/1.1\r\nHost: x\r\n'
        for data in (b'x\r\n\r\n', b'\0\r\n\r\n', b'GET\r\n\r\n', b'GET /\r\n\r\n', b' \r\n\r\n',
                     b'GET / HTTP/2.0\r\nHost: x\r\n\r\n', get.replace(b'/status', b'status') +
                     b'\r\n', get.replace(b'1.1', b'1.1 ') + b'\r\n',
                     get.replace(b' /', b'  /') + b'\r\n', get + b'A\r\n\r\n',
                     get + b': b\r\n\r\n', get + b'A : b\r\n\r\n',
                     get.replace(b'E', b'\xff') + b'\r\n', get + b'A: b\r\n c\r\n\r\n',
                     get + b'A: b\x01\r\n\r\n', get.replace(b'at', b'a\0t') + b'\r\n',
                     b'\x16\x03\x01\x02\x00\r\n\r\n', noise.randbytes(700) + b'\r\n\r\n',
                     noise.randbytes(5000) + b'\r\n\r\n'):
            self.one(data, 400)

    def test_host(self):
        """RFC 9112, 3.2: just one, but for HTTP/1.0."""
        get, end = b'GET /status HTTP/1.%d\r\n', b'\r\n'
        self.one(get % 1 + end, 400)
        self.one(get % 1 + b'Host: a\r\nHost: a\r\n' + end, 400)
        for host in (b'a b', b'a/b', b'a,b', b'a@b'):
            self.one(get % 1 + b'Host: ' + host + b'\r\n' + end, 400)
        for host in (b'', b'a', b'a.b:80', b'[::1]:80'):
            self.one(get % 1 + b'Host: ' + host + b'\r\n' + end)
        self.one(get % 0 + end)
        self.one(get % 0 + b'Host: a\r\nHost: b\r\n' + end, 400)
        self.one(get % 7 + b'Host: a\r\n' + end) # a later minor version is as good

    def test_whole_url(self):
        """RFC 9112, 3.2.2."""
        path = send_path(self.txn).encode()
        for url in (b'http://gw.example', b'HTTPS://x:1', b'http://'):
            self.one(put(self.txn).replace(b'PUT ', b'PUT ' + url))
        self.got(1)
        for target, status in ((b'http://gw.example', 404), (b'http://gw.example?' + path, 404),
                               (b'ftp://gw.example' + path, 400), (b'http:' + path, 400)):
            self.one(b'PUT %s HTTP/1.1\r\nHost: x\r\n\r\n' % target, status)

    def test_http_1_0_is_told_nothing_of_its_body(self):
        """RFC 9110, 10.1.1."""
        data = put(self.txn, version=b'1.0', more=b'Expect: 100-continue\r\n')
        with self.g.connect(data[:-len(BODY)]) as s, s.makefile('rb') as stream:
            for _ in range(3): # turns of its loop
                self.g.status()
            s.sendall(BODY)
            self.assertEqual(stream.readline(), b'HTTP/1.1 200 OK\r\n')
        self.got(1)

    def test_head(self):
        """Has an answer without a body, behind which the next one follows."""
        c = http.client.HTTPConnection('127.0.0.1', self.g.port)
        for path, status in (('/nowhere', 404), (send_path(1), 405), (V3 + '/sync', 405)):
            c.request('HEAD', path)
            answer = c.getresponse()
            self.assertEqual((answer.status, answer.read()), (status, b''))
        self.assertEqual(request(c, 'PUT', send_path(self.txn), BODY, 'bob1')[0], 200)
        c.close()

    def test_a_line_break_before_a_request(self):
        self.one(b'\r\nGET /status HTTP/1.1\r\nHost: x\r\n\r\n')

    def test_lengths(self):
        for more in (b'Content-Length: 5\r\nContent-Length: 6\r\n', b'Content-Length: -1\r\n',
                     b'Content-Length: \r\n', b'Content-Length: 5x\r\n', b'Content-Length: 5,5\r\n',
                     b'Content-Length: 99999999999999999999999\r\n', b'Content-Length: +5\r\n',
                     b'Content-Length: 52\r\nTransfer-Encoding: chunked\r\n',
                     b'Transfer-Encoding: chunked\r\nContent-Length: 52\r\n',
                     b'Transfer-Encoding: gzip\r\n', b'Content-Length: 52, 52\r\n',
                     b'Transfer-Encoding: chunked, gzip\r\n',
                     b'Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n'):
            self.one(put(self.txn, more=more, length=False), 400)
        self.one(put(self.txn, b'', b'1.0', b'Transfer-Encoding: chunked\r\n', False), 400)
        for more in (b'Authorization: Bearer bob1\r\n', b'Content-Length: 3\r\n'):
            self.one(put(self.txn, more=more), 400) # twice
        self.got(0)

    def test_bad_chunks(self):
        for body in (b'x\r\n', b'\r\n', b'-1\r\n', b'1\r\nab\r\n', b'1\r\na\rx', b'0x1\r\na\r\n',
                     b'fffffffffffffffff\r\n', b'1 x' + b'y' * 9000 + b'\r\na\r\n0\r\n\r\n'):
            data = put(self.txn, b'', more=b'Transfer-Encoding: chunked\r\n', length=False)
            self.one(data + body, 400)
        # A bad end behind good messages: nothing of it is kept.
        for tail in (b'z', b'0\r\n' + b'A: ' + b'x' * 9000):
            data = put(self.txn, b'', more=b'Transfer-Encoding: chunked\r\n', length=False)
            self.one(data + b'%x\r\n%s\r\n' % (len(BODY), BODY) + tail, 400)
        self.got(0)

    def test_cut_bodies(self):
        for data in (put(self.txn)[:-1], put(self.txn)[:-len(BODY)],
                     put(self.txn, b'', more=b'Transfer-Encoding: chunked\r\n', length=False) +
                     chunked(BODY, 5)[:-1]):
            self.assertEqual(self.g.raw(data), [])
        self.got(0)

    def test_a_large_body_in_pieces(self):
        users = {'@none%d:gw.example' % i: {'A': {'x': 'y' * 5000}} for i in range(150)}
        users['@alice:gw.example'] = {'PHONE': {'n': 1}}
        self.assertEqual(self.g.send('bob1', self.txn, users), (200, {}))
        self.got(1)

    def test_refused_and_large(self):
        """The answer comes, though the body was not read, and to a client that reads it late."""
        for size in (100, 100000, 900000, 3000000):
            c = http.client.HTTPConnection('127.0.0.1', self.g.port, timeout=20)
            try:
                c.request('PUT', send_path(1), b'[' * size, {'Authorization': 'Bearer bob1'})
            except (BrokenPipeError, ConnectionResetError):
                pass
            self.assertIn(c.getresponse().status, (400, 413))
            c.close()

    def test_resets(self):
        for data in (b'', b'G', put(self.txn)[:-1], put('r1'), SYNC, SYNC.replace(
                b'/sync', b'/sync?timeout=30000')):
            for _ in range(5):
                s = self.g.connect(data)
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')
                s.close()
        self.assertEqual(self.g.request('GET', '/status')[0], 200)

    def test_waiting_syncs_hold_no_place_for_long_heads(self):
        more = b'Cookie: ' + b'x' * 3000 + b'\r\n'
        wait = SYNC.replace(b'/sync', b'/sync?timeout=60000')[:-2] + more + b'\r\n'
        held = [self.g.connect(wait + tail) for tail in (b'', wait)
                for _ in range(12)]
        held += [self.g.connect(put('w%d' % i, more=more)[:-1]) for i in range(10)]
        time.sleep(0.2)
        with self.g.connect(put(self.txn, more=more), timeout=5) as s, s.makefile('rb') as stream:
            self.assertEqual(read_answer(stream)[0], 200)
        for s in held:
            s.close()


class FewConnections(Case):
    def crowd(self, data):
        """When there is no place for a connection more, one that only waits has to go."""
        g = self.gateway(DEVICES, start=False)
        g.start('ulimit -n 200')
        held = []
        for _ in range(300):
            held.append(g.connect(data))
            time.sleep(0.001)
        time.sleep(0.2)
        for n in range(20):
            self.assertEqual(g.send('bob1', n, {'@bob:gw.example': {'BOB': {}}})[0], 200)
        for s in held:
            s.close()

    def idle(self, limit, clients):
        """Idle clients take all that there is: the appservices, the configuration and a new client
        have their share, and nobody spins."""
        a = self.peer()
        g = self.gateway(DEVICES + irc(a.url), start=False)
        g.start('ulimit -n %d' % limit)
        held = [g.connect() for _ in range(clients)]
        time.sleep(0.2)
        before = g.cpu()
        time.sleep(1)
        self.assertLess(g.cpu() - before, 0.2)
        held[0].sendall(put('first', b'{"messages":{"@_irc_joe:gw.example":{"JOE":{}}}}'))
        with held[0].makefile('rb') as stream: # who was there before the crowd
            self.assertEqual(read_answer(stream)[0], 200)
        until(lambda: a.messages)
        self.assertEqual(g.send('bob1', 1, {'@bob:gw.example': {'BOB': {}}})[0], 200)
        self.assertIn('was read again', g.hangup())
        for n in range(10):
            self.assertEqual(g.send('bob1', 'n%d' % n, {'@bob:gw.example': {'BOB': {}}})[0], 200)
        for s in held:
            s.close()

    def test_few_descriptors(self):
        for limit in (20, 24, 97, 98, 99):
            self.idle(limit, limit + 10)

    def test_too_few_descriptors(self):
        g = self.gateway(start=False)
        with self.assertRaises(AssertionError) as said:
            g.start('ulimit -n 12')
        self.assertIn('ulimit', str(said.exception))
        g.process.wait()

    def test_many_appservices_and_few_descriptors(self):
        peers = [self.peer() for _ in range(12)]
        lines = []
        for n, a in enumerate(peers):
            lines += irc(a.url, id='a%d' % n)
        g = self.gateway(FAST + DEVICES + [l.replace(' hs ', ' hs%d ' % i) for i, l in
                                           enumerate(lines) if 'team' not in l], start=False)
        g.start('ulimit -n 24')
        for n in range(12):
            self.assertEqual(g.send('bob1', n, {'@_a%d_joe:gw.example' % n: {'JOE': {}}})[0], 200)
        for a in peers:
            until(lambda: a.messages)

    def test_waiting_syncs(self):
        self.crowd(SYNC.replace(b'/sync', b'/sync?timeout=60000'))

    def test_bodies_of_refused_requests(self):
        self.crowd(b'GET /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx')

    def test_long_heads(self):
        self.crowd(b'GET /status HTTP/1.1\r\nHost: x\r\nA: ' + b'x' * 3000)

    def test_small_bodies(self):
        self.crowd(put('x')[:-1])

    def test_large_bodies(self):
        self.crowd(put('x', b'{' + b' ' * 900)[:-1])

    def test_idle_ones(self):
        self.crowd(b'')
