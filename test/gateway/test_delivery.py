"""Transactions, pings, /status, full stores, quotas, and changing over."""
import json
import resource
import threading
import time

from harness import Case, DEVICES, FAST, KEY, V3, irc, send_path, until

JOE = '@_irc_joe:gw.example'
SLOW = ['retry_ms_min 500000', 'retry_ms_max 500000']


class Delivery(Case):
    def start(self, react=None, more=FAST, flags='to_device', **options):
        self.a = self.peer(react)
        self.g = self.gateway(DEVICES + irc(self.a.url, flags) + more, **options)

    def lines(self, flags='to_device', more=FAST):
        return DEVICES + irc(self.a.url, flags) + more

    def send(self, n, user=JOE, device='JOE', **content):
        status, body = self.g.send('bob1', n, {user: {device: dict(content, n=n)}})
        self.assertEqual((status, body), (200, {}))

    def got(self):
        return [m['content']['n'] for m in self.a.messages]

    def delivered(self, numbers, seconds=10):
        until(lambda: len(self.a.messages) >= len(numbers), seconds, 'delivery')
        self.assertEqual(self.got(), numbers)

    def empty(self):
        until(lambda: self.g.status()['queued'] == 0, what='an empty queue')

    def test_a_transaction(self):
        self.start()
        self.send(1, text='\u00e9')
        self.delivered([1])
        method, path, headers, body = self.a.requests[0]
        self.assertEqual(method, 'PUT')
        self.assertRegex(path, '^/_matrix/app/v1/transactions/[^/?]+$')
        self.assertEqual(headers['authorization'], 'Bearer hs')
        self.assertEqual(headers['content-type'], 'application/json')
        self.assertEqual(json.loads(body), {'events': [], KEY: [{
            'to_user_id': JOE, 'to_device_id': 'JOE', 'type': 'm.test',
            'sender': '@bob:gw.example', 'content': {'n': 1, 'text': '\u00e9'}}]})
        self.empty()
        self.assertEqual(self.g.appservice()['delivered'], 1)

    def test_stable_keys(self):
        self.start(flags='to_device stable')
        self.send(1)
        until(lambda: self.a.requests)
        self.assertEqual(len(json.loads(self.a.requests[0][3])['to_device']), 1)

    def test_a_path_in_the_url(self):
        self.a = self.peer()
        self.g = self.gateway(DEVICES + irc(self.a.url + '/bridge/x/') + FAST)
        self.send(1)
        until(lambda: self.a.requests)
        self.assertTrue(self.a.requests[0][1].startswith('/bridge/x/_matrix/app/v1/'))

    def test_inclusive(self):
        """A message for an inclusive user goes both ways, and waits for both."""
        self.start()
        self.send(1, '@team_ann:gw.example', 'ANN')
        self.delivered([1])
        self.assertEqual(self.g.status()['queued'], 1)
        self.assertEqual(self.contents(self.g.drain('ann')), [{'n': 1}])
        self.empty()
        self.a.down()
        self.send(2, '@team_ann:gw.example', 'ANN')
        self.assertEqual(self.contents(self.g.drain('ann')), [{'n': 2}])
        self.assertEqual(self.g.status()['queued'], 1)
        self.a.up()
        self.delivered([1, 2])
        self.empty()

    def test_limits_of_a_transaction(self):
        self.start(lambda r: None, FAST + ['txn_messages_max 7', 'txn_bytes_max 3000'])
        self.a.down()
        for n in range(60):
            self.send(n, x='y' * (n * 20))
        self.a.up()
        self.delivered(list(range(60)))
        for _, body in self.a.transactions():
            self.assertLessEqual(len(json.loads(body)[KEY]), 7)
            self.assertLessEqual(len(body), 3000)

    def test_a_hundred_at_most(self):
        self.start()
        self.a.down()
        for n in range(230):
            self.send(n)
        self.a.up()
        self.delivered(list(range(230)))
        self.assertLessEqual(max(len(json.loads(b)[KEY]) for _, b in self.a.transactions()), 100)

    def test_odd_limits(self):
        """More than there can be is as much as there can be."""
        for more in (['txn_messages_max 1000000', 'txn_bytes_max 900M'], ['txn_messages_max 1'],
                     ['txn_bytes_max 1'], ['retry_ms_min 900M', 'retry_ms_max 900M']):
            self.start(more=more)
            for n in range(3):
                self.send(n, x='y' * 300)
            self.delivered([0, 1, 2])

    def test_long_names(self):
        self.start()
        type, user = 'm.' + '\1' * 2000 + 'x' * 500, '@_irc_' + 'z' * 240 + ':gw.example'
        longer = user.replace('z', 'zzzz')
        for n, (query, body) in enumerate((('', 65000), ('?user_id=' + user[:-2], 100),
                                           ('?user_id=' + user, 100), ('?user_id=' + longer, 100))):
            answer = self.g.send('as_irc', n, {JOE: {'JOE': {'n': n, 'x': 'y' * body}},
                                               '@alice:gw.example': {'PHONE': {'x': 'y' * body}}},
                                 type=type, query=query)
            self.assertIn(answer[0], (200, 400, 403), answer)
        self.assertEqual(self.g.send('bob1', 'last', {JOE: {'JOE': {'n': 'last'}}})[0], 200)
        until(lambda: 'last' in self.got())
        self.assertEqual({m['type'] for m in self.a.messages[:-1]}, {type})
        events = self.g.drain('alice1')
        self.assertEqual(len(events), len(self.a.messages) - 1)
        self.assertEqual({e['type'] for e in events}, {type})

    def test_large_messages(self):
        self.start(store='32M')
        self.a.down()
        for n in range(15):
            self.send(n, x='y' * 65000)
        self.a.up()
        self.delivered(list(range(15)))

    def test_retries_are_the_same_bytes(self):
        self.start(lambda r: 500 if len(self.a.requests) < 5 else None)
        self.send(1)
        for n in range(2, 6):
            time.sleep(0.03)
            self.send(n)
        self.delivered([1, 2, 3, 4, 5])
        first = self.a.transactions()[0]
        self.assertEqual(self.a.transactions()[:5], [first] * 5)

    def test_retries_are_the_same_bytes_over_everything(self):
        """Kills, deletions, syncs and changed configurations don't change what is in flight."""
        self.start(lambda r: 500)
        self.send(1)
        self.send(2, '@team_ann:gw.example', 'ANN')
        until(lambda: len(self.a.transactions()) > 2)
        first = self.a.transactions()
        self.g.drain('ann')
        self.g.again(kill=True)
        self.g.request('DELETE', V3 + '/devices/JOE?user_id=' + JOE, token='as_irc')
        self.g.hangup(self.lines('stable'))
        self.g.hangup(self.lines('to_device stable'))
        self.g.again(self.lines(), kill=True)
        count = len(self.a.transactions())
        until(lambda: len(self.a.transactions()) > count + 2)
        txn = [t for t in self.a.transactions() if t[0] == first[0][0]]
        self.assertEqual(set(txn), {first[0]})
        self.assertEqual(self.a.transactions()[-1], first[0])
        self.a.react = lambda r: None
        self.delivered([1])
        # What an inclusive user's /sync had had when the appservice opted out does not come again.
        self.assertEqual(self.contents(self.g.drain('ann')), [])
        self.empty()

    def test_every_failure(self):
        answers = [500, 401, 403, 429, 502, 503, 302, 'drop', 'drop late', b'garbage\r\n\r\n',
                   b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}', b'HTTP/1.1 200 OK\r\n'
                   b'Transfer-Encoding: chunked\r\n\r\nx\r\n', b'HTTP/1.1 200 ' + b'x' * 9000]

        def react(request):
            n = len(self.a.requests)
            if n > len(answers):
                return None
            if isinstance(answers[n - 1], bytes):
                request['socket'].sendall(answers[n - 1])
                return 'drop'
            return answers[n - 1]
        self.start(react)
        for n in range(30):
            self.send(n)
        self.delivered(list(range(30)))
        self.empty()

    def test_every_success(self):
        answers = [b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n', b'HTTP/1.1 204 No\r\n\r\n',
                   b'HTTP/1.1 299 x\r\nContent-Length: 7\r\n\r\ngarbage',
                   b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n',
                   b'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}',
                   b'HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}',
                   b'HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n' + b' ' * 300000]
        # What RFC 9112 tells a user agent to take, and what does no harm.
        ok, body = b'HTTP/1.1 200 OK\r\n', b'Content-Length: 2\r\n\r\n{}'
        answers += [ok + b'A: ' + b'x' * 60000 + b'\r\n' + body,
                    ok + b'A: x\r\n' * 9000 + body,
                    ok + b'A: b\r\n c\r\n\td\r\n' + body, ok + b' lost\r\n' + body,
                    ok + b'Content-Length:\r\n 2\r\n\r\n{}',
                    ok + b'Content-Length: 2, 2\r\n' + body,
                    ok + b'Content-Length : 2\r\n\r\n{}', ok + b'A: \x01\xff\r\nnothing\r\n' + body,
                    ok.replace(b'\r', b'') + body.replace(b'\r', b''), b'\r\n\r\n' + ok + body,
                    ok.replace(b' OK', b'') + body, ok.replace(b'1.1', b'1.9') + body,
                    ok + b'Content-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n'
                    b'\r\n', ok + b'Transfer-Encoding: chunked\r\nContent-Length: x\r\n\r\n'
                    b'0000000000000000002;a\r\n{}\r\n0\r\nA: b\r\n\r\n',
                    ok + b'Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n',
                    ok + b'Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
                    b'HTTP/1.1 100 C\r\nA: b\r\n\r\n' * 50 + ok + body,
                    b'HTTP/1.1 103 Hints\r\n\r\n' + ok + body + b'more than that']

        def react(request):
            self.a.accept(request['path'], request['body'])
            return answers[len(self.a.requests) - 1]
        self.start(react)
        for n in range(len(answers)):
            self.send(n)
            self.delivered(list(range(n + 1)))
            until(lambda: self.g.appservice()['in_flight'] is None)
        self.empty()

    def test_a_success_up_to_the_end_of_the_connection(self):
        def react(request):
            self.a.accept(request['path'], request['body'])
            request['socket'].sendall(b'HTTP/1.1 200 OK\r\n\r\n{}')
            return 'drop'
        self.start(react)
        for n in range(3):
            self.send(n)
        self.delivered([0, 1, 2])
        self.empty()

    def test_a_success_that_never_comes_to_its_end(self):
        """At first nobody knows; but where that is how it always answers, it is believed."""
        for half in (b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}',
                     b'HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\n{}',
                     b'HTTP/1.1 200 OK\r\nA: ' + b'x' * 70000,
                     b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnone',
                     b'HTTP/1.1 200 OK\r\nA: b'):
            def react(request):
                request['socket'].sendall(half)
                return 'drop'
            self.start(react)
            self.send(1)
            until(lambda: self.g.appservice()['delivered'] == 1)
            self.assertEqual(len(self.a.transactions()), 3)
            self.assertIn('never to the end', self.g.said())
            # An error that is cut off is none.
            half = half.replace(b' 200', b' 500')
            self.send(2)
            until(lambda: self.g.appservice()['attempts'] > 4)
            self.assertEqual(self.g.appservice()['delivered'], 1)

    def test_the_old_path(self):
        self.start(lambda r: 404 if r['path'].startswith('/_matrix') else None)
        self.send(1)
        self.delivered([1])
        new, old = self.a.transactions()[:2]
        self.assertEqual(new[0], '/_matrix/app/v1' + old[0])
        self.assertEqual(new[1], old[1])

    def test_too_large_is_cut_and_parked(self):
        self.start(lambda r: 413 if len(r['body']) > 2000 else None)
        self.a.down()
        for n in range(20):
            self.send(n, x='y' * (3000 if n == 11 else 150))
        self.a.up()
        self.delivered([n for n in range(20) if n != 11])

    def test_closes_between_transactions(self):
        """A connection that the appservice closed while it was idle is no failure."""
        self.start(more=SLOW)
        for n in range(5):
            self.send(n)
            self.delivered(list(range(n + 1)))
            until(lambda: self.g.appservice()['in_flight'] is None)
            for s in self.a.connections:
                try:
                    s.shutdown(2)
                except OSError:
                    pass
            time.sleep(0.05)

    def test_an_endless_answer_does_not_stop_the_gateway(self):
        def react(request):
            s = request['socket']
            s.sendall(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
            piece = b'8000\r\n' + b'x' * 0x8000 + b'\r\n'
            while True:
                s.sendall(piece * 8)
        self.start(react)
        self.send(1)
        until(lambda: self.a.requests)
        for n in range(20):
            began = time.monotonic()
            self.send('x%d' % n, '@alice:gw.example', 'PHONE')
            self.assertLess(time.monotonic() - began, 2)
        until(lambda: self.g.appservice()['in_flight'] is None) # its beginning was enough

    def test_a_dead_one_does_not_delay_another(self):
        self.a, silent = self.peer(), self.peer(lambda r: time.sleep(30) or 'drop')
        others = []
        for id, url in (('xmpp', silent.url), ('dead', 'http://127.0.0.1:9')):
            others += ['appservice %s %s hs_%s as_%s to_device' % (id, url, id, id),
                       r'exclusive %s @_%s_.*:gw\.example' % (id, id),
                       'device @_%s_joe:gw.example JOE %s' % (id, id)]
        self.g = self.gateway(self.lines() + others)
        worst = 0
        for n in range(100):
            to = {'@_%s_joe:gw.example' % id: {'JOE': {}} for id in ('xmpp', 'dead')}
            self.assertEqual(self.g.send('bob1', 'd%d' % n, to)[0], 200)
            began = time.monotonic()
            self.send(n)
            until(lambda: len(self.a.messages) == n + 1)
            worst = max(worst, time.monotonic() - began)
        self.assertLess(worst, 1)
        self.assertEqual(self.got(), list(range(100)))

    # ---- /status ----

    def test_status(self):
        self.start(lambda r: 500, SLOW)
        empty = self.g.status()
        self.assertLessEqual({'appservices', 'bytes_capacity', 'bytes_used', 'queued',
                              'sync_pending'}, set(empty)) # test_admin.py has the others
        self.assertEqual(empty['appservices'], [{
            'id': 'irc', 'pending': 0, 'in_flight': None, 'failing_since_ms': None,
            'attempts': 0, 'delivered': 0, 'parked': 0, 'last_status': 0, 'last_error': None}])
        self.assertEqual((empty['queued'], empty['sync_pending']), (0, 0))
        before = time.time() * 1000
        self.send(1)
        until(lambda: self.g.appservice()['failing_since_ms'])
        self.send(2)
        self.send(3, '@alice:gw.example', '*')
        self.send(4, '@team_ann:gw.example', 'ANN')
        full, a = self.g.status(), self.g.appservice()
        self.assertEqual((full['queued'], full['sync_pending'], a['pending']), (5, 3, 3))
        self.assertTrue(0 < full['bytes_used'] < full['bytes_capacity'] <= 4 << 20)
        self.assertIn(a['in_flight'], self.a.requests[0][1])
        self.assertTrue(before - 1000 < a['failing_since_ms'] < time.time() * 1000 + 1000)
        self.assertEqual((a['attempts'], a['delivered']), (1, 0))
        self.a.react = lambda r: None
        self.g.request('POST', '/_matrix/client/v1/appservice/irc/ping', {}, 'as_irc')
        self.delivered([1, 2, 4])
        until(lambda: self.g.appservice()['delivered'] == 3)
        self.g.drain('alice1'), self.g.drain('alice2'), self.g.drain('ann')
        end, a = self.g.status(), self.g.appservice()
        self.assertEqual((end['queued'], end['sync_pending']), (0, 0))
        self.assertEqual((a['in_flight'], a['failing_since_ms'], a['pending']), (None, None, 0))

    def test_status_of_an_odd_id(self):
        g = self.gateway(DEVICES + irc(id='\u20ac"\\')[:1] + SLOW)
        self.assertEqual(g.status()['appservices'][0]['id'], '\u20ac"\\')

    # ---- deleting ----

    def test_delete_keeps_what_is_in_flight(self):
        self.start(lambda r: 500)
        self.send(1)
        until(lambda: self.a.requests)
        self.send(2)
        self.assertEqual(self.g.request('DELETE', V3 + '/devices/JOE?user_id=' + JOE,
                                        token='as_irc')[0], 200)
        self.assertEqual(self.g.status()['queued'], 1)
        self.g.again(kill=True)
        self.a.react = lambda r: None
        self.delivered([1])
        self.empty()
        self.send(3)
        self.delivered([1, 3])

    # ---- pings ----

    def ping(self, body=None, token='as_irc', id='irc'):
        return self.g.request('POST', '/_matrix/client/v1/appservice/%s/ping' % id,
                              {'transaction_id': 'mx'} if body is None else body, token)

    def test_ping(self):
        self.start()
        status, body = self.ping()
        self.assertEqual((status, list(body)), (200, ['duration_ms']))
        self.assertIsInstance(body['duration_ms'], int)
        method, path, headers, sent = self.a.requests[0]
        self.assertEqual((method, path), ('POST', '/_matrix/app/v1/ping'))
        self.assertEqual(headers['authorization'], 'Bearer hs')
        self.assertEqual(json.loads(sent), {'transaction_id': 'mx'})
        self.assertEqual(self.ping(b'')[0], 200)

    def test_ping_without_a_sender(self):
        """It acts as nobody."""
        self.a = self.peer()
        self.g = self.gateway(DEVICES + ['appservice irc %s hs as_irc' % self.a.url])
        self.assertEqual(self.ping()[0], 200)

    def test_ping_forbidden(self):
        self.start()
        self.error(self.ping(token='alice1'), 403, 'M_FORBIDDEN')
        self.error(self.ping(id='xmpp'), 403, 'M_FORBIDDEN')
        self.error(self.ping(id='%zz'), 403, 'M_FORBIDDEN')
        self.assertEqual(self.a.requests, [])

    def test_ping_bad_status(self):
        said = b'{"errcode":"M_FORBIDDEN","error":"\xe2\x82\xac a longer text than forty bytes"}'
        for text in (b'', b'no', said, b'\0\1\2"\\\r\n' * 20, b'x' * 500):
            self.a = self.peer(lambda r: (403, text))
            self.g = self.gateway(self.lines())
            status, body = self.ping()
            self.error((status, body), 502, 'M_BAD_STATUS')
            self.assertEqual(body['status'], 403)
            self.assertEqual(body['body'], text.decode())
        self.a.react = lambda r: (500, b'\xff' + b'x' * 100000)
        status, body = self.ping()
        self.error((status, body), 502, 'M_BAD_STATUS')
        self.assertIn('x' * 500, body['body'])
        self.assertEqual(self.ping()[0], 502)

    def test_ping_failed(self):
        self.start()
        self.a.down()
        self.error(self.ping(), 502, 'M_CONNECTION_FAILED')
        for said in ('drop', b'garbage\r\n\r\n'):
            self.a = self.peer(lambda r: said)
            self.g = self.gateway(self.lines())
            self.error(self.ping(), 502, 'M_CONNECTION_FAILED')

    def test_many_pings(self):
        self.start()
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(self.ping()[0]))
                   for _ in range(30)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(answers, [200] * 30)

    def test_pings_that_hang_do_not_delay_others(self):
        self.a = self.peer()
        silent = self.peer(lambda r: time.sleep(20) or 'drop')
        self.g = self.gateway(self.lines() + ['appservice dead %s hs2 as_dead' % silent.url,
                                              'sender dead @dead:gw.example'])
        head = (b'POST /_matrix/client/v1/appservice/dead/ping HTTP/1.1\r\nHost: x\r\n'
                b'Authorization: Bearer as_dead\r\n\r\n')
        hung = [self.g.connect(head) for _ in range(20)]
        time.sleep(0.2)
        began = time.monotonic()
        self.assertEqual(self.ping()[0], 200)
        self.assertLess(time.monotonic() - began, 2)
        for s in hung:
            s.close()

    # ---- full ----

    def fill(self, to, size, status=429):
        """Sends until it is full; returns how many went in."""
        for n in range(1000):
            answer = self.g.send('bob1', 'f%d' % n, to('f%d' % n, 'x' * size))
            if answer[0] != 200:
                self.error(answer, 429, 'M_LIMIT_EXCEEDED')
                self.assertIsInstance(answer[1]['retry_after_ms'], int)
                return n
        self.fail('never full')

    def test_a_full_store(self):
        self.start(more=SLOW + ['device_bytes_max 100M', 'appservice_bytes_max 100M'], store='2M')
        to = lambda n, x: {'@alice:gw.example': {'PHONE': {'n': n, 'x': x}}}
        for turn in range(3):
            count = self.fill(lambda n, x: to('%s-%d' % (n, turn), x), 20000) if not turn else None
            if turn:
                n = 0
                while self.g.send('bob1', 't%d-%d' % (turn, n), to(n, 'x' * 20000))[0] == 200:
                    n += 1
                count = n
            self.assertGreater(count, 20)
            # Nothing of a refused request is kept, large or of many.
            queued = self.g.status()['queued']
            self.assertEqual(queued, count)
            self.error(self.g.send('bob1', 'big', {'@bob:gw.example': {'BOB': {'n': 1}},
                                                   '@alice:gw.example': {'*': {'x': 'y' * 60000}}}),
                       429, 'M_LIMIT_EXCEEDED')
            self.assertEqual(self.g.status()['queued'], queued)
            self.g.again(kill=True)
            self.assertEqual(self.g.status()['queued'], queued)
            self.assertEqual(len(self.g.drain('alice1')), count)
            self.assertEqual(self.g.drain('bob1'), [])
            self.assertEqual(self.g.status()['queued'], 0)
        self.assertEqual(self.g.send('bob1', 'big', {'@bob:gw.example': {'BOB': {'n': 1}}})[0], 200)
        self.assertEqual(len(self.g.drain('bob1')), 1)

    def test_a_full_store_is_delivered(self):
        self.start(more=FAST + ['device_bytes_max 100M', 'appservice_bytes_max 100M'], store='1M')
        self.a.down()
        count = self.fill(lambda n, x: {JOE: {'JOE': {'n': n, 'x': x}}}, 5000)
        self.a.up()
        until(lambda: len(self.a.messages) == count, 20)
        self.assertEqual(self.got(), ['f%d' % n for n in range(count)])
        self.send('more')
        until(lambda: self.got()[-1] == 'more')

    def test_the_quota_of_a_device(self):
        self.start(more=SLOW + ['device_bytes_max 20K'])
        to = lambda n, x: {'@alice:gw.example': {'PHONE': {'n': n, 'x': x}}}
        count = self.fill(to, 1000)
        self.assertTrue(10 <= count <= 20, count)
        queued = self.g.status()['queued']
        self.error(self.g.send('bob1', 'b', {'@bob:gw.example': {'BOB': {}},
                                             '@alice:gw.example': {'PHONE': {'x': 'y' * 1000}}}),
                   429, 'M_LIMIT_EXCEEDED')
        self.assertEqual(self.g.status()['queued'], queued)
        self.assertEqual(self.g.send('bob1', 'c', {'@alice:gw.example': {'LAPTOP': {}}})[0], 200)
        self.g.again(kill=True)
        self.error(self.g.send('bob1', 'b', to(1, 'x' * 1000)), 429, 'M_LIMIT_EXCEEDED')
        self.assertEqual(len(self.g.drain('alice1')), count)
        self.assertEqual(self.g.send('bob1', 'b', to(1, 'x' * 1000))[0], 200)

    def test_the_quota_of_an_appservice(self):
        self.start(more=FAST + ['appservice_bytes_max 20K'])
        self.a.down()
        to = lambda n, x: {JOE: {'JOE': {'n': n, 'x': x}}}
        count = self.fill(to, 1000)
        self.assertTrue(10 <= count <= 20, count)
        self.error(self.g.send('bob1', 'b', {'@ircbot:gw.example': {'BOT': {'x': 'y' * 1000}}}),
                   429, 'M_LIMIT_EXCEEDED')
        self.assertEqual(self.g.send('bob1', 'c', {'@alice:gw.example': {'*': {}}})[0], 200)
        self.a.up()
        until(lambda: len(self.a.messages) == count)
        until(lambda: self.g.send('bob1', 'b', to('b', 'x'))[0] == 200)
        until(lambda: self.got()[-1] == 'b')

    def test_a_store_that_fails(self):
        """Writing fails: 500, nothing is promised, and what was promised before stays so."""
        self.start(more=SLOW)
        self.a.down()
        self.send(0)
        self.g.stop()
        self.g.start("trap '' XFSZ")
        taken, limit = [0], lambda bytes: resource.prlimit(
            self.g.process.pid, resource.RLIMIT_FSIZE, (bytes, resource.RLIM_INFINITY))
        for turn in range(3):
            for n in range(100 * turn + 1, 100 * turn + 10):
                self.send(n, x='y' * 4000)
                taken.append(n)
            limit(1000)
            for n in range(100 * turn + 10, 100 * turn + 15):
                self.error(self.g.send('bob1', n, {JOE: {'JOE': {'n': n}}}), 500, 'M_UNKNOWN')
            self.error(self.g.request('GET', V3 + '/sync', token='alice1'), 500, 'M_UNKNOWN')
            self.error(self.g.request('DELETE', V3 + '/devices/BOB', token='bob1'), 500,
                       'M_UNKNOWN')
            self.assertEqual(self.g.request('GET', '/status')[0], 200)
            if turn == 0:
                self.g.kill()
                self.g.start("trap '' XFSZ")
            else:
                limit(resource.RLIM_INFINITY)
                until(lambda: self.g.request('GET', V3 + '/sync', token='alice1')[0] == 200)
        self.a.up()
        self.g.request('POST', '/_matrix/client/v1/appservice/irc/ping', {}, 'as_irc')
        until(lambda: set(taken) <= set(self.got()))
        self.assertEqual(len(self.got()), len(set(self.got())))
        # Who was refused repeats, and nothing comes twice.
        again = [100 * turn + n for turn in range(3) for n in range(1, 15)]
        for n in again:
            self.send(n)
        until(lambda: len(self.got()) == 43)
        self.assertEqual(sorted(self.got()), [0] + again)

    # ---- changing over ----

    def change(self, how, lines):
        if how == 'hangup':
            self.g.hangup(lines)
        else:
            self.g.again(lines, kill=how == 'kill')

    def test_opting_in(self):
        for how in ('hangup', 'restart', 'kill'):
            with self.subTest(how=how):
                self.start(flags='')
                for n in range(3):
                    self.send(n)
                self.send(3, '@ircbot:gw.example', 'BOT')
                self.send(4, '@team_ann:gw.example', '*')
                token, events = self.g.sync('joe_irc') # handed out
                self.assertEqual(len(events), 3)
                self.assertEqual(self.g.status()['sync_pending'], 6)
                self.change(how, self.lines())
                # Inclusive ones stay with /sync, but for the device that the appservice made.
                until(lambda: len(self.a.messages) == 5)
                self.assertEqual(sorted(self.got()), [0, 1, 2, 3, 4])
                self.assertEqual([n for n in self.got() if n < 3], [0, 1, 2])
                until(lambda: self.g.status()['queued'] == 1)
                self.assertEqual(self.g.sync('joe_irc', token)[1], [])
                self.assertEqual(self.g.sync('bridge')[1], [])
                self.send(5)
                until(lambda: self.got()[-1] == 5)
                self.assertEqual(self.contents(self.g.drain('ann')), [{'n': 4}])
                self.empty()

    def test_opting_out(self):
        for how in ('hangup', 'restart', 'kill'):
            with self.subTest(how=how):
                self.start(lambda r: 500)
                self.send(0)
                until(lambda: self.a.requests)
                for n in (1, 2):
                    self.send(n)
                self.send(3, '@team_ann:gw.example', 'ANN')
                self.change(how, self.lines(''))
                self.send(4)
                self.send(5, '@team_ann:gw.example', 'ANN')
                # What is in flight stays so; the rest is in /sync.
                self.assertEqual(self.contents(self.g.drain('joe_irc')),
                                 [{'n': n} for n in (1, 2, 4)])
                self.assertEqual(self.contents(self.g.drain('ann')), [{'n': 3}, {'n': 5}])
                self.assertEqual(self.g.status()['queued'], 1)
                self.a.react = lambda r: None
                self.delivered([0])
                self.empty()

    def test_removed_and_added_again(self):
        for how in ('hangup', 'restart', 'kill'):
            with self.subTest(how=how):
                self.start(lambda r: 500)
                self.send(0)
                until(lambda: self.a.requests)
                self.send(1)
                without = DEVICES + ['device @_irc_joe:gw.example JOE joe_irc'] + FAST
                self.change(how, without)
                self.send(2)
                self.assertEqual(self.contents(self.g.sync('joe_irc')[1]), [{'n': 1}, {'n': 2}])
                self.assertEqual(self.g.status()['queued'], 3)
                self.assertEqual(self.g.status()['appservices'], [])
                # Another one in the meantime gets nothing of it.
                other = self.peer()
                self.change(how, without + ['appservice new %s hs9 as9 to_device' % other.url])
                self.change(how, self.lines())
                self.a.react = lambda r: None
                self.delivered([0, 1, 2])
                self.empty()
                self.assertEqual(other.requests, [])

    def test_a_sync_that_waits_while_it_changes(self):
        self.start(flags='')
        got = []
        thread = threading.Thread(target=lambda: got.append(
            self.g.request('GET', V3 + '/sync?timeout=20000', token='joe_irc')))
        thread.start()
        time.sleep(0.3)
        self.g.hangup(self.lines())
        self.send(1)
        thread.join(10)
        self.assertEqual([s for s, _ in got], [200])
        self.delivered([1])

    def test_syncs_without_a_slot_while_it_changes(self):
        """Whoever waits with a /sync never gets another device's messages."""
        users = ['device @u%d:gw.example D tok%d' % (i, i) for i in range(60)]
        self.g = self.gateway(users, store='16M')
        for i in range(60):
            self.g.send('tok0', i, {'@u%d:gw.example' % i: {'D': {'to': i, 'x': 'y' * 60000}}})
        # Bodies that don't end hold the slots.
        put = (b'PUT %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer tok0\r\nContent-Length: 100000'
               b'\r\n\r\n{' + b' ' * 900)
        holders = [self.g.connect(put % send_path('h%d' % i).encode()) for i in range(24)]
        time.sleep(0.2)
        wrong = []

        def sync(i):
            status, body = self.g.request('GET', V3 + '/sync?timeout=5000', token='tok%d' % i)
            if status == 200:
                wrong.extend((i, e['content']['to']) for e in body['to_device']['events']
                             if e['content']['to'] != i)
        threads = [threading.Thread(target=self.quiet(sync), args=(i,)) for i in range(30, 60)]
        for t in threads:
            t.start()
        time.sleep(0.3)
        self.g.hangup(users[::-1])
        for t in threads:
            t.join()
        for s in holders:
            s.close()
        self.assertEqual(wrong, [])
        self.assertEqual(self.g.process.poll(), None)

    def quiet(self, function):
        def call(*args):
            try:
                function(*args)
            except (OSError, ValueError):
                pass
            except Exception as error:
                if 'RemoteDisconnected' not in type(error).__name__:
                    raise
        return call
