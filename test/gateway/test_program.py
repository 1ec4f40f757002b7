"""The appservice program by itself."""
import json
import os
import signal
import socket
import subprocess
import threading
import time

from harness import APPSERVICE, B, Case, DEVICES, FAST, KEY, irc, read_answer, until

PATH = '/_matrix/app/v1/transactions/'


def message(n, **more):
    return dict({'to_user_id': '@a:x', 'to_device_id': 'D', 'type': 't', 'sender': '@b:x',
                 'content': {'n': n}}, **more)


def body(*numbers, **more):
    return dict({'events': [], KEY: [message(n) for n in numbers]}, **more)


class Program(Case):
    def setUp(self):
        self.p = self.program()

    def got(self):
        return [m['content']['n'] for m in self.p.messages()]

    def ok(self, answer):
        self.assertEqual(answer, (200, {}))

    def test_repeats(self):
        for _ in range(2):
            self.ok(self.p.transaction('1', body(1, 2)))
            self.assertEqual(self.got(), [1, 2])
        self.ok(self.p.transaction('2', body(3)))
        for stop in (self.p.stop, self.p.kill):
            stop()
            self.p.start()
            self.ok(self.p.transaction('1', body(1, 2)))
            self.ok(self.p.transaction('2', body(3)))
            self.assertEqual(self.got(), [1, 2, 3])

    def test_others_under_a_used_id(self):
        self.ok(self.p.transaction('1', body(1)))
        self.ok(self.p.transaction('1', body(2)))
        self.ok(self.p.transaction('2', body(1)))
        self.assertEqual(self.got(), [1, 2, 1])

    def test_the_rest_of_a_repeat(self):
        """The same messages with other siblings: those are given again, the messages are not."""
        lists = lambda user: {'org.matrix.msc3202.device_lists': {'changed': [user], 'left': []}}
        self.ok(self.p.transaction('1', body(1, 2, **lists('@x:x'))))
        self.ok(self.p.transaction('1', body(1, 2, **lists('@y:x'))))
        self.ok(self.p.transaction('1', body(1, 2, **lists('@y:x'))))
        self.assertEqual(self.got(), [1, 2])
        text = open(self.p.out).read()
        self.assertIn('@x:x', text)
        self.assertIn('@y:x', text)

    def test_the_old_path_and_both_keys(self):
        self.ok(self.p.request('PUT', '/transactions/1', body(1)))
        self.ok(self.p.transaction('2', {'events': [], 'to_device': [message(2)]}))
        self.ok(self.p.transaction('3', {'events': [], KEY: [message(3)], 'to_device': []}))
        self.ok(self.p.transaction('4', {'events': []}))
        self.assertEqual(self.got(), [1, 2, 3])

    def test_tokens(self):
        r = lambda token, query='': self.p.request('PUT', PATH + '1' + query, body(1), token)
        self.error(r(None), 401, 'M_MISSING_TOKEN')
        for token in ('x', 'h', 'hss', 'x' * 3000):
            self.error(r(token), 403, 'M_FORBIDDEN')
        self.error(r(None, '?access_token=x'), 403, 'M_FORBIDDEN')
        self.error(r('hs', '?access_token=x'), 403, 'M_FORBIDDEN')
        self.error(r('x', '?access_token=hs'), 403, 'M_FORBIDDEN')
        self.assertEqual(self.got(), [])
        self.ok(r('hs', '?access_token=hs'))
        self.ok(self.p.request('PUT', PATH + '2?access_token=hs', body(2), None))
        self.assertEqual(self.got(), [1, 2])

    def test_ping(self):
        self.ok(self.p.request('POST', '/_matrix/app/v1/ping', {'transaction_id': 'x'}))
        self.ok(self.p.request('POST', '/_matrix/app/v1/ping'))
        self.error(self.p.request('POST', '/_matrix/app/v1/ping', {}, 'x'), 403, 'M_FORBIDDEN')

    def test_paths(self):
        self.error(self.p.request('PUT', '/_matrix/app/v1/nothing', {}), 404, 'M_UNRECOGNIZED')
        self.error(self.p.request('GET', '/', None), 404, 'M_UNRECOGNIZED')
        self.error(self.p.request('POST', PATH + '1', body(1)), 405, 'M_UNRECOGNIZED')
        self.error(self.p.request('GET', '/_matrix/app/v1/ping'), 405, 'M_UNRECOGNIZED')

    def test_bad_bodies(self):
        for text in ('', '{', 'x', '{"events":[]}x', b'{"events":["\xff"]}'):
            self.error(self.p.transaction('1', text), 400, 'M_NOT_JSON')
        for text in ('[]', '1', 'null'):
            self.error(self.p.transaction('1', text), 400, 'M_BAD_JSON')
        good = json.dumps(body(1, 2))
        self.error(self.p.transaction('1', good[:-1]), 400, 'M_NOT_JSON')
        self.assertEqual(self.got(), []) # cut back
        self.ok(self.p.transaction('1', good))
        self.assertEqual(self.got(), [1, 2])

    def test_bad_items(self):
        """One bad item neither blocks nor loses the others."""
        bad = [None, 1, 'x', [], {}, message(0, content=[]), message(0, content='x'),
               message(0, type=1), {'content': {}}, message(0, to_user_id=None)]
        items = []
        for n, item in enumerate(bad):
            items += [item, message(n)]
        self.ok(self.p.transaction('1', {'events': [], KEY: items}))
        self.ok(self.p.transaction('1', {'events': [], KEY: items}))
        self.assertEqual(self.got(), list(range(len(bad))))
        self.assertEqual(self.p.said().count('item'), 2 * len(bad))
        text = '{"events":[],"%s":[%s,%s,%s]}' % (
            KEY, json.dumps(message(1)).replace('{"n": 1}', r'{"a":"\ud800"}'),
            json.dumps(message(1)).replace('{"n": 1}', '{"a":1e400}'), json.dumps(message(77)))
        self.ok(self.p.transaction('2', text))
        self.assertEqual(self.got()[-1], 77)

    def test_fail(self):
        self.p.stop()
        self.p.start('--fail', '3')
        for _ in range(3):
            self.error(self.p.transaction('1', body(1)), 500, 'M_UNKNOWN')
        self.assertEqual(self.got(), [])
        self.ok(self.p.transaction('1', body(1)))
        self.assertEqual(self.got(), [1])

    def test_line_breaks_and_escapes(self):
        text = '{\n"events":[],\r\n"%s":[\n%s]}' % (KEY, json.dumps(
            message(1), indent=1).replace('"n": 1', '"n":\n1,"x":"\\n\\u00e9\u00e9"'))
        self.ok(self.p.transaction('1', text.encode()))
        self.assertEqual(self.p.messages()[0]['content'], {'n': 1, 'x': '\n\u00e9\u00e9'})

    def test_lines_are_as_convert_writes_them(self):
        self.ok(self.p.transaction('1', body(1, 2, events=[{'type': 'm.x', 'event_id': '$1'}])))
        tool = os.path.join(B, 'msc4203')
        if not os.path.exists(tool):
            self.skipTest('the tool is not built')
        text = json.dumps(body(1, 2, events=[{'type': 'm.x', 'event_id': '$1'}]))
        out = subprocess.run([tool, 'convert', '--each'], input=text.encode(),
                             stdout=subprocess.PIPE).stdout
        self.assertEqual(sorted(open(self.p.out, 'rb').read().split(b'\n')),
                         sorted(out.split(b'\n')))

    def test_large(self):
        many = [dict(message(n), content={'n': n, 'x': 'y' * 60000}) for n in range(100)]
        self.ok(self.p.transaction('1', {'events': [], KEY: many}))
        self.assertEqual(self.got(), list(range(100)))

    def test_cut_in_the_middle(self):
        """What came of a transaction that never ended is cut off, after kill -9 too."""
        self.ok(self.p.transaction('1', body(1)))
        many = json.dumps({'events': [], KEY: [dict(message(n), content={'n': n, 'x': 'y' * 5000})
                                               for n in range(2, 40)]}).encode()
        head = (b'PUT %s2 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer hs\r\n'
                b'Content-Length: %d\r\n\r\n' %
                (PATH.encode(), len(many)))
        size = os.path.getsize(self.p.out)
        for kill in (False, True):
            with socket.create_connection(('127.0.0.1', self.p.port)) as s:
                s.sendall(head + many[:-3])
                until(lambda: os.path.getsize(self.p.out) > size + 100000)
                if kill:
                    self.p.kill()
                    self.p.start()
            until(lambda: os.path.getsize(self.p.out) == size)
            self.assertEqual(self.got(), [1])
        self.ok(self.p.transaction('2', many))
        self.assertEqual(self.got(), list(range(1, 40)))

    def test_killed_at_random(self):
        stop, n = threading.Event(), 0

        def killer():
            while not stop.is_set():
                time.sleep(0.05)
                self.p.kill()
                self.p.start()
        thread = threading.Thread(target=killer)
        thread.start()
        end = time.monotonic() + 4
        while time.monotonic() < end:
            n += 1
            while True:
                try:
                    if self.p.transaction(str(n), body(2 * n, 2 * n + 1))[0] == 200:
                        break
                except Exception as error:
                    if not isinstance(error, (OSError, ValueError)) and \
                            type(error).__name__ != 'RemoteDisconnected':
                        raise
        stop.set()
        thread.join()
        self.assertGreater(n, 20)
        self.assertEqual(self.got(), list(range(2, 2 * n + 2)))

    def test_two_at_once(self):
        """A transaction waits for another one that is being read."""
        first = json.dumps(body(1)).encode()
        head = (b'PUT %s1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer hs\r\n'
                b'Content-Length: %d\r\n\r\n')
        with socket.create_connection(('127.0.0.1', self.p.port)) as s, s.makefile('rb') as stream:
            s.sendall(head % (PATH.encode(), len(first)) + first[:-1])
            time.sleep(0.1)
            thread = threading.Thread(target=self.p.transaction, args=('2', body(2)))
            thread.start()
            time.sleep(0.1)
            s.sendall(first[-1:])
            self.assertEqual(read_answer(stream)[0], 200)
            thread.join()
        self.assertEqual(self.got(), [1, 2])

    def test_expect(self):
        head = (b'PUT %s1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 5\r\n'
                b'Expect: 100-continue\r\n\r\n')
        for token, line in ((b'hs', b'100'), (b'x', b'403')):
            with socket.create_connection(('127.0.0.1', self.p.port), timeout=5) as s, \
                    s.makefile('rb') as stream:
                s.sendall(head % (PATH.encode(), token))
                self.assertEqual(stream.readline().split()[1], line)

    def test_chunked_and_pipelined(self):
        text = json.dumps(body(1)).encode()
        chunks = b''.join(b'%x\r\n%s\r\n' % (len(text[i:i + 7]), text[i:i + 7])
                          for i in range(0, len(text), 7)) + b'0\r\n\r\n'
        one = (b'PUT %s%d HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer hs\r\n'
               b'Transfer-Encoding: chunked\r\n\r\n')
        with socket.create_connection(('127.0.0.1', self.p.port)) as s, s.makefile('rb') as stream:
            s.sendall(b''.join(one % (PATH.encode(), i) + chunks for i in range(20)))
            self.assertEqual([read_answer(stream)[0] for _ in range(20)], [200] * 20)
        self.assertEqual(self.got(), [1] * 20)

    def test_garbage(self):
        for data in (b'\0\r\n\r\n', b'x' * 9000, b'GET\r\n\r\n'):
            with socket.create_connection(('127.0.0.1', self.p.port), timeout=10) as s, \
                    s.makefile('rb') as stream:
                s.sendall(data)
                self.assertIn(read_answer(stream)[0], (400, 413, 431))
        self.ok(self.p.transaction('1', body(1)))

    def test_usage(self):
        for options in ([], ['--listen'], ['--nonsense', 'x'], ['--listen', '127.0.0.1:0'],
                        ['--listen', 'x', '--hs-token', 'h', '--state', 's', '--out', 'o']):
            self.assertEqual(subprocess.run([APPSERVICE] + options,
                                            stderr=subprocess.PIPE).returncode, 2)

    def test_ends(self):
        for s in (signal.SIGTERM, signal.SIGINT):
            self.p.process.send_signal(s)
            self.assertEqual(self.p.process.wait(10), 0)
            self.p.start()

    def test_with_the_gateway(self):
        g = self.gateway(DEVICES + irc(self.p.url) + FAST)
        self.p.stop()
        for n in range(150):
            g.send('bob1', n, {'@_irc_joe:gw.example': {'JOE': {'n': n}}})
        self.p.start('--fail', '2')
        until(lambda: os.path.exists(self.p.out) and len(self.got()) == 150)
        self.assertEqual(self.got(), list(range(150)))
        until(lambda: g.status()['queued'] == 0)
        self.assertEqual(g.request('POST', '/_matrix/client/v1/appservice/irc/ping', {},
                                   'as_irc')[0], 200)
