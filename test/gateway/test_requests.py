"""Every row of the request table, and of the list of errors."""
import json
import threading
import time

from harness import Case, DEVICES, V3, irc, send_path

LINES = DEVICES + irc() + ['retry_ms_min 500000', 'retry_ms_max 500000']


class Send(Case):
    def setUp(self):
        self.g = self.gateway(LINES)

    def got(self, token):
        return self.contents(self.g.drain(token))

    def test_one_device(self):
        text = '{"messages":{"@alice:gw.example":{"PHONE":{"a":1.50,"b":"\\u00e9\u20ac"}}}}'
        answer = self.g.request('PUT', send_path('1', 'm.x/y \u20ac'), text.encode(), 'bob1')
        self.assertEqual(answer, (200, {}))
        events = self.g.drain('alice1')
        self.assertEqual(events, [{'sender': '@bob:gw.example', 'type': 'm.x/y \u20ac',
                                   'content': {'a': 1.5, 'b': '\u00e9\u20ac'}}])
        self.assertEqual(self.got('alice2'), [])

    def test_content_is_kept_byte_for_byte(self):
        content = '{ "z":1e5 ,"a":[1.0,-0,"\\/\\u0041"],"a":{} }'
        self.g.request('PUT', send_path('1'), '{"messages":{"@bob:gw.example":{"BOB":%s}}}' %
                       content, 'bob1')
        with self.g.connect(b'GET %s/sync HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer bob1\r\n'
                            b'Connection: close\r\n\r\n' % V3.encode()) as s:
            data = b''
            while True:
                piece = s.recv(65536)
                if not piece:
                    break
                data += piece
        self.assertIn(content.encode(), data)

    def test_star_beside_named_devices(self):
        for i, messages in enumerate(('{"*":{"n":"all"},"PHONE":{"n":"one"}}',
                                      '{"PHONE":{"n":"one"},"*":{"n":"all"}}')):
            text = '{"messages":{"@alice:gw.example":%s,"@bob:gw.example":{"BOB":{"n":"b"}}}}'
            self.assertEqual(self.g.request('PUT', send_path(i), text % messages, 'bob1')[0], 200)
            self.assertEqual(self.got('alice1'), [{'n': 'one'}])
            self.assertEqual(self.got('alice2'), [{'n': 'all'}])
            self.assertEqual(self.got('bob1'), [{'n': 'b'}])
        self.g.send('bob1', 's', {'@alice:gw.example': {'*': {'n': 1}}})
        self.assertEqual(self.got('alice1') + self.got('alice2'), [{'n': 1}] * 2)
        # A named device that is unknown takes nothing from the others; the next starts anew.
        self.g.send('bob1', 'u', {'@alice:gw.example': {'*': {'n': 2}, 'NONE': {'n': 3}}})
        self.assertEqual(self.got('alice1') + self.got('alice2'), [{'n': 2}] * 2)

    def test_star_of_a_refused_request_is_forgotten(self):
        bad = '{"messages":{"@alice:gw.example":{"*":{"n":1},"PHONE":{"n":1},'
        for i in range(30):
            self.error(self.g.request('PUT', send_path(i), bad, 'bob1'), 400, 'M_NOT_JSON')
        self.g.send('bob1', 'x', {'@alice:gw.example': {'*': {'n': 2}}})
        self.assertEqual(self.got('alice1'), [{'n': 2}])
        self.assertEqual(self.got('alice2'), [{'n': 2}])

    def test_unknown_ones_are_skipped(self):
        self.assertEqual(self.g.send('bob1', 1, {
            '@alice:gw.example': {'NONE': {}, 'PHONE': {'n': 1}}, '@none:gw.example': {'*': {}},
            '@x:elsewhere.example': {'A': {}}, '': {'': {}}, 'x' * 2000: {'y' * 3000: {}}}),
            (200, {}))
        self.assertEqual(self.got('alice1'), [{'n': 1}])
        self.assertEqual(self.g.status()['queued'], 0)

    def test_nothing_to_send(self):
        self.assertEqual(self.g.send('bob1', 1, {}), (200, {}))
        self.assertEqual(self.g.send('bob1', 2, {'@alice:gw.example': {}}), (200, {}))
        text = '{"x":[1,{}],"messages":{"@alice:gw.example":{"PHONE":{}}},"y":null}'
        self.assertEqual(self.g.request('PUT', send_path(3), text, 'bob1')[0], 200)
        self.assertEqual(self.got('alice1'), [{}])

    def test_repeats(self):
        to = {'@alice:gw.example': {'PHONE': {'n': 1}}}
        for kill in (None, False, True):
            for _ in range(2):
                self.assertEqual(self.g.send('bob1', 'a', to), (200, {}))
            if kill is not None:
                self.g.again(kill=kill)
        self.assertEqual(self.g.send('bob1', 'a', to), (200, {}))
        self.assertEqual(self.g.status()['queued'], 1)
        # Another path, type or user is another request; another body under the same one is not.
        self.assertEqual(self.g.send('bob1', 'b', to), (200, {}))
        self.assertEqual(self.g.send('bob1', 'a', to, type='m.other'), (200, {}))
        self.assertEqual(self.g.send('alice1', 'a', to), (200, {}))
        self.assertEqual(self.g.send('alice2', 'a', to), (200, {}))
        self.assertEqual(self.g.send('as_irc', 'a', to), (200, {}))
        self.assertEqual(self.g.send('as_irc', 'a', to), (200, {}))
        self.assertEqual(self.g.send('as_irc', 'a', to, query='?user_id=@_irc_joe:gw.example'),
                         (200, {}))
        self.assertEqual(self.g.status()['queued'], 7)
        other = {'@alice:gw.example': {'*': {'n': 2}}}
        self.assertEqual(self.g.send('bob1', 'a', other), (200, {}))
        self.assertEqual(self.g.request('PUT', send_path('a'), 'garbage', 'bob1'), (200, {}))
        self.assertEqual(self.g.status()['queued'], 7)
        # Escapes are spellings of one path.
        self.assertEqual(self.g.request('PUT', V3 + '/sendToDevice/m%2Etest/%61',
                                        {'messages': to}, 'bob1'), (200, {}))
        self.assertEqual(self.g.status()['queued'], 7)
        self.assertEqual(self.g.send('bob1', 'x/y', to, type='m'), (200, {}))
        self.assertEqual(self.g.send('bob1', 'y', to, type='m/x'), (200, {}))
        self.assertEqual(self.g.status()['queued'], 9)

    def test_a_refused_request_is_not_remembered(self):
        self.error(self.g.request('PUT', send_path('a'), 'garbage', 'bob1'), 400, 'M_NOT_JSON')
        self.g.send('bob1', 'a', {'@alice:gw.example': {'PHONE': {'n': 1}}})
        self.assertEqual(self.got('alice1'), [{'n': 1}])

    def test_the_same_request_at_the_same_time(self):
        to = lambda n: {'@alice:gw.example': {'PHONE': {'n': n}}}
        threads = [threading.Thread(target=self.g.send, args=('bob1', n, to(n)))
                   for n in range(20) for _ in range(3)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(sorted(c['n'] for c in self.got('alice1')), list(range(20)))

    def test_as_an_appservice(self):
        to = {'@alice:gw.example': {'PHONE': {}}}
        self.g.send('as_irc', 1, to)
        self.g.send('as_irc', 2, to, query='?user_id=%40_irc_x%3Agw.example')
        self.g.send('as_irc', 3, to, query='?a=b&user_id=@team_x:gw.example')
        self.assertEqual([e['sender'] for e in self.g.drain('alice1')],
                         ['@ircbot:gw.example', '@_irc_x:gw.example', '@team_x:gw.example'])
        for user in ('@alice:gw.example', '@_irc_x:gw.examplee', '', '%', '%zz', 'x' * 3000):
            self.error(self.g.send('as_irc', 4, to, query='?user_id=' + user), 403, 'M_FORBIDDEN')
        # Of a client, user_id is nothing.
        self.assertEqual(self.g.send('bob1', 5, to, query='?user_id=@alice:gw.example')[0], 200)
        self.assertEqual(self.g.drain('alice1')[0]['sender'], '@bob:gw.example')

    def test_who_gets_it_where(self):
        self.g.send('bob1', 1, {'@_irc_joe:gw.example': {'JOE': {'n': 1}},
                                '@ircbot:gw.example': {'*': {'n': 2}},
                                '@team_ann:gw.example': {'*': {'n': 3}}})
        self.assertEqual(self.got('joe_irc'), [])
        self.assertEqual(self.got('bot_irc'), [])
        self.assertEqual(self.got('bridge'), [])
        self.assertEqual(self.got('ann'), [{'n': 3}])
        self.assertEqual(self.g.appservice()['pending'], 4)


class Errors(Case):
    @classmethod
    def setUpClass(cls):
        from harness import Gateway
        cls.g = Gateway(LINES + ['request_bytes_max 200K'])
        cls.txn = 0

    @classmethod
    def tearDownClass(cls):
        cls.g.close()

    def put(self, body, **options):
        Errors.txn += 1
        if isinstance(body, str):
            body = body.encode()
        return self.g.request('PUT', send_path('e%d' % self.txn), body, 'bob1', **options)

    def test_tokens(self):
        for path, method in ((send_path(1), 'PUT'), (V3 + '/sync', 'GET'),
                             (V3 + '/devices/PHONE', 'DELETE'),
                             ('/_matrix/client/v1/appservice/irc/ping', 'POST')):
            body = {} if method != 'GET' else None
            self.error(self.g.request(method, path, body), 401, 'M_MISSING_TOKEN')
            for header in ('Basic abc', 'Bearer', 'bob1'):
                self.error(self.g.request(method, path, body, headers={'Authorization': header}),
                           401, 'M_MISSING_TOKEN')
            for token in ('none', 'bob', 'bob11', 'hs', 'x' * 4000):
                self.error(self.g.request(method, path, body, token), 401, 'M_UNKNOWN_TOKEN')

    def test_token_in_the_query(self):
        to = {'messages': {'@alice:gw.example': {'LAPTOP': {}}}}
        path = send_path('q')
        self.assertEqual(self.g.request('PUT', path + '?access_token=bob1', to)[0], 200)
        self.assertEqual(self.g.request('PUT', path + '?access_token=none', to)[0], 401)

    def test_not_json(self):
        good = '{"messages":{"@alice:gw.example":{"PHONE":{}}}}'
        for body in (b'', b' ', b'garbage', b'{', good[:-1].encode(), good.encode() + b'x',
                     b'{"messages":{"@a:gw.example":{"P":{"a":"\xff"}}}}', b'\xef\xbb\xbf' +
                     good.encode(), b'{"messages":{"@a:gw.example":{"P":{"a":NaN}}}}',
                     b'{"messages":{},}', b'{"messages":{"@a:gw.example":{"P":{"a":01}}}}'):
            self.error(self.put(body), 400, 'M_NOT_JSON')
        self.assertEqual(self.g.drain('alice1'), [])

    def test_bad_json(self):
        deep = '{"a":' * 2000 + '1' + '}' * 2000
        user = '{"messages":{"@alice:gw.example":%s}}'
        device = '{"messages":{"@alice:gw.example":{"PHONE":%s}}}'
        for body in ('[]', '1', '"x"', 'null', '{"messages":[]}', '{"messages":null}',
                     '{"messages":"x"}', user % '[]', user % '1', user % 'null', device % '[]',
                     device % 'null', device % '"x"', device % '1', device % deep,
                     device % '{"a":1e400}', device % '{"a":-1.8e308}', device % r'{"a":"\ud800"}',
                     device % r'{"\udc00":1}', device % ('{"a":%s}' % ('9' * 400))):
            with self.subTest(body=body[:70]):
                self.error(self.put(body), 400, 'M_BAD_JSON')
        # Whole or not at all: what came before the fault is not kept either.
        self.error(self.put('{"messages":{"@alice:gw.example":{"PHONE":{},"LAPTOP":[]}}}'), 400,
                   'M_BAD_JSON')
        self.assertEqual(self.g.drain('alice1'), [])
        self.assertEqual(self.put(device % '{"a":1.7976931348623157e308}')[0], 200)
        self.assertEqual(len(self.g.drain('alice1')), 1)

    def test_keys_given_twice(self):
        """Of two, one would be dropped: neither is taken. (A device may come twice.)"""
        bob, alice = '"@bob:gw.example"', '"@alice:gw.example"'
        other = '"@none:gw.example":{"X":{}}'
        for n, (body, arrives) in enumerate((
                ('"messages":{%s:{"BOB":{"n":1},"BOB":{"n":2}}}' % bob, [1, 2]),
                ('"messages":{%s:{"BOB":{"n":1}},%s:{"BOB":{"n":2}}}' % (bob, bob), None),
                ('"messages":{%s:{"*":{"n":1}},%s:{"BOB":{"n":2}}}' % (bob, bob), None),
                ('"messages":{%s:{"BOB":{"n":1}},%s,%s:{"BOB":{"n":2}}}' % (bob, other, bob), None),
                ('"messages":{%s:{"BOB":{}},%s:{"*":{}},%s:{"X":{}}}' % (bob, alice, bob), None),
                ('"messages":{%s:{"BOB":{"n":1}},"@\\u0062ob:gw.example":{"*":{}}}' % bob, None),
                ('"messages":{%s:{"*":{"n":1},"*":{"n":2}}}' % bob, None),
                ('"messages":{%s:{"*":{"n":1},"NONE":{},"\\u002a":{"n":2}}}' % bob, None),
                ('"messages":{%s:{"BOB":{"n":1}}},"messages":{}' % bob, None),
                ('"messages":{},"x":[{}],"m\\u0065ssages":{%s:{"BOB":{"n":1}}}' % bob, None),
                ('"messages":{%s:{"BOB":{"n":1}}},"messages":null' % bob, None),
                # What only looks like it.
                ('"Messages":{},"messages":{%s:{"BOB":{"n":1,"messages":{"messages":{}},"a":"}}}'
                 '\\"messages\\":{"}}},"x":{"messages":{"messages":1}},"y":["messages"],"z":'
                 '"messages","messages ":1,"m\\nessages":2,"messages\\u0000":3' % bob, [1]),
                ('"messages":{%s:{"a{":{},"BOB":{"n":1,"x":[[{"a":"]"}]]}},%s:{"*":{}},%s}' % (
                    bob, alice, other), [1]))):
            data = ('{%s}' % body).encode()
            for cut in (len(data), 1, 7):
                chunks = b''.join(b'%x\r\n%s\r\n' % (len(data[i:i + cut]), data[i:i + cut])
                                  for i in range(0, len(data), cut)) + b'0\r\n\r\n'
                status, _, said = self.g.raw(
                    b'PUT %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice1\r\n'
                    b'Transfer-Encoding: chunked\r\n\r\n' % send_path(
                        'twice%d-%d' % (n, cut)).encode() + chunks)[0]
                got = [c.get('n') for c in self.contents(self.g.drain('bob1'))]
                with self.subTest(body=body, cut=cut, said=said):
                    self.assertEqual((status, got), (200, arrives) if arrives else (400, []))
                    if not arrives:
                        self.assertEqual(json.loads(said)['errcode'], 'M_BAD_JSON')
            self.g.drain('alice1')
            self.g.drain('alice2')
        # What one request has named is not held against another.
        for n in range(5):
            self.assertEqual(self.g.send('alice1', 'again%d' % n, {
                '@bob:gw.example': {'*': {}}})[0], 200)
        self.assertEqual(len(self.g.drain('bob1')), 5)

    def test_an_appservice_as_a_device(self):
        """Request ids are per device: two of them, and the appservice without one, may use the same
        (MSC4326)."""
        names = ['', '&device_id=ANN', '&org.matrix.msc3202.device_id=BRIDGE',
                 '&device_id=BRIDGE2', '&device_id=BRIDGE&org.matrix.msc3202.device_id=ANN']
        lines = DEVICES + irc() + ['device @team_ann:gw.example BRIDGE2 bridge2']
        g = self.gateway(lines)
        for repeat in range(2):
            for n, name in enumerate(names):
                self.assertEqual(g.send('as_irc', 'same', {'@bob:gw.example': {'BOB': {'n': n}}},
                                        query='?user_id=@team_ann:gw.example' + name), (200, {}))
            # The last one is a repeat of the third; so is what the device itself sends.
            self.assertEqual(g.send('ann', 'same', {'@bob:gw.example': {'BOB': {'n': 9}}})[0], 200)
        self.assertEqual([c['n'] for c in self.contents(g.drain('bob1'))], [0, 1, 2, 3])
        for device in ('X', 'PHONE', ''):
            query = '?user_id=@team_ann:gw.example&device_id=' + device
            self.error(g.send('as_irc', 'other', {}, query=query), 400, 'M_UNKNOWN_DEVICE')
        self.assertEqual(g.request('DELETE', V3 + '/devices/BRIDGE2', token='ann')[0], 200)
        self.error(g.send('as_irc', 'other', {}, query='?user_id=@team_ann:gw.example&device_id='
                          'BRIDGE2'), 400, 'M_UNKNOWN_DEVICE')

    def test_missing_messages(self):
        for body in ('{}', '{"message":{}}', '{"a":{"messages":{}}}'):
            self.error(self.put(body), 400, 'M_MISSING_PARAM')

    def test_too_large_a_content(self):
        body = '{"messages":{"@alice:gw.example":{"PHONE":{"a":"%s"}}}}'
        self.error(self.put(body % ('x' * 65529)), 413, 'M_TOO_LARGE')
        self.error(self.put(body % ('x' * 100000)), 413, 'M_TOO_LARGE')
        star = body.replace('PHONE', '*')
        self.error(self.put(star % ('x' * 65529)), 413, 'M_TOO_LARGE')
        for text in (body, star):
            self.assertEqual(self.put(text % ('x' * 65528))[0], 200)
        self.assertEqual([len(e['content']['a']) for e in self.g.drain('alice1')], [65528] * 2)
        self.g.drain('alice2')

    def test_too_large_a_request(self):
        many = json.dumps({'messages': {'@none%d:gw.example' % i: {'A': {'a': 'x' * 1000}}
                                        for i in range(250)}})
        self.error(self.put(many), 413, 'M_TOO_LARGE')
        # With chunks it shows only on the way.
        chunks = [many[i:i + 10000].encode() for i in range(0, len(many), 10000)]
        text = b''.join(b'%x\r\n%s\r\n' % (len(c), c) for c in chunks) + b'0\r\n\r\n'
        self.error(self.put(text, headers={'Transfer-Encoding': 'chunked'}), 413, 'M_TOO_LARGE')

    def test_paths(self):
        for path in ('/', '/_matrix', '/_matrix/client/v3', V3 + '/', V3 + '/sync/x', '/status/',
                     V3 + '/sendToDevice', V3 + '/sendToDevice/m.test', V3 + '/sendToDevice/a/',
                     V3 + '/sendToDevice/a/b/c', V3 + '/devices/', V3 + '/rooms/x/send',
                     '/_matrix/client/v1/appservice/irc/pong', '/_matrix/client/v9/sync',
                     '/_matrix/app/v1/transactions/1'):
            for method in ('GET', 'PUT', 'POST'):
                self.error(self.g.request(method, path, b'{}', 'bob1'), 404, 'M_UNRECOGNIZED')
        for path, right in ((send_path(1), 'PUT'), (V3 + '/sync', 'GET'), ('/status', 'GET'),
                            (V3 + '/devices/PHONE', 'DELETE'),
                            ('/_matrix/client/v1/appservice/irc/ping', 'POST')):
            for method in ('GET', 'PUT', 'POST', 'DELETE', 'PATCH', 'G', 'put'):
                if method != right:
                    self.error(self.g.request(method, path, b'{}', 'bob1'), 405, 'M_UNRECOGNIZED')

    def test_paths_that_are_not_utf8(self):
        for type, txn in (('%ff', 'a'), ('a', '%ff'), ('%c0%80', 'a'), ('a', '%ed%a0%80'),
                          ('%', 'a'), ('a', '%4')):
            self.error(self.g.request('PUT', '%s/sendToDevice/%s/%s' % (V3, type, txn),
                                      {'messages': {}}, 'bob1'), 400, 'M_INVALID_PARAM')

    def test_long_paths(self):
        type = 'm.' + 'x' * 2000
        self.assertEqual(self.g.send('bob1', 't' * 2000, {'@alice:gw.example': {'PHONE': {}}},
                                     type=type)[0], 200)
        self.assertEqual([e['type'] for e in self.g.drain('alice1')], [type])
        self.assertEqual(self.g.send('bob1', 'e', {'@alice:gw.example': {'PHONE': {}}}, type='')[0],
                         200)
        self.assertEqual([e['type'] for e in self.g.drain('alice1')], [''])

    def test_since(self):
        for since in ('x', '0', '-1', 'a' * 40, 'a' * 4000, '%zz', '', '%00', 's_1_2',
                      '999999999999999999999999'):
            self.error(self.g.request('GET', V3 + '/sync?since=' + since, token='bob1'), 400,
                       'M_INVALID_PARAM')

    def test_devices_of_an_appservice(self):
        get = lambda query: self.g.request('GET', V3 + '/sync?' + query, token='as_irc')
        self.error(get(''), 400, 'M_MISSING_PARAM')
        self.error(get('user_id=@_irc_joe:gw.example'), 400, 'M_MISSING_PARAM')
        self.error(get('device_id=JOE'), 400, 'M_UNKNOWN_DEVICE') # of its sender
        self.error(get('user_id=@_irc_joe:gw.example&device_id=X'), 400, 'M_UNKNOWN_DEVICE')
        self.error(get('user_id=@alice:gw.example&device_id=PHONE'), 403, 'M_FORBIDDEN')
        for key in ('device_id', 'org.matrix.msc3202.device_id'):
            self.assertEqual(get('user_id=@_irc_joe:gw.example&%s=JOE' % key)[0], 200)
            self.assertEqual(get(key + '=BOT')[0], 200)
        self.g.send('bob1', 'ann', {'@team_ann:gw.example': {'ANN': {'n': 1}}})
        status, body = get('user_id=@team_ann:gw.example&device_id=ANN')
        self.assertEqual(self.contents(body['to_device']['events']), [{'n': 1}])
        self.g.drain('ann')


class Sync(Case):
    def setUp(self):
        self.g = self.gateway(LINES, store='16M')

    def send(self, n, device='PHONE'):
        self.assertEqual(self.g.send('bob1', n, {'@alice:gw.example': {device: {'n': n}}})[0], 200)

    def sync(self, since=None):
        since, events = self.g.sync('alice1', since)
        return since, [e['content']['n'] for e in events]

    def test_shape(self):
        status, body = self.g.request('GET', V3 + '/sync', token='alice1')
        self.assertEqual(status, 200)
        self.assertIn('next_batch', body)
        for key in ('rooms', 'presence', 'account_data', 'device_lists',
                    'device_one_time_keys_count'):
            self.assertIn(key, body)
        self.send(1)
        self.assertEqual(self.g.request('GET', V3.replace('v3', 'r0') + '/sync?since=' +
                                        body['next_batch'], token='alice1')[1]['to_device'],
                         {'events': [{'sender': '@bob:gw.example', 'type': 'm.test',
                                      'content': {'n': 1}}]})

    def test_acknowledging(self):
        self.send(1)
        self.send(2)
        for _ in range(3): # not acknowledged: they come again
            first, got = self.sync()
            self.assertEqual(got, [1, 2])
        self.send(3)
        second, got = self.sync(first)
        self.assertEqual(got, [3])
        self.assertEqual(self.sync(first)[1], [3])
        self.assertEqual(self.sync(), (second, [3]))
        third, got = self.sync(second)
        self.assertEqual(got, [])
        self.assertEqual(self.sync(first)[1], []) # an old one acknowledges nothing
        self.assertEqual(self.g.status()['sync_pending'], 0)

    def test_over_restarts(self):
        self.send(1)
        first, _ = self.sync()
        for kill in (False, True):
            self.g.again(kill=kill)
            self.assertEqual(self.sync()[1], [1])
        self.send(2)
        self.assertEqual(self.sync(first)[1], [2])
        self.g.again()
        self.assertEqual(self.sync(first)[1], [2])
        second, _ = self.sync()
        self.g.again(kill=True)
        self.assertEqual(self.sync(second)[1], [])
        self.send(3)
        self.assertEqual(self.sync(second)[1], [3])

    def test_a_token_from_the_future_acknowledges_nothing(self):
        self.send(1)
        first, _ = self.sync()
        other = self.gateway(LINES)
        for n in range(50):
            other.send('bob1', n, {'@alice:gw.example': {'PHONE': {'n': n}}})
        future, _ = other.sync('alice1')
        status, body = self.g.request('GET', V3 + '/sync?since=' + future, token='alice1')
        if status == 200:
            self.assertEqual(len(body['to_device']['events']), 1)
        else:
            self.error((status, body), 400, 'M_INVALID_PARAM')
        self.assertEqual(self.sync()[1], [1])

    def test_a_token_of_another_device(self):
        self.send(1)
        self.send(2, 'LAPTOP')
        _, events = self.g.sync('alice2')
        token, _ = self.g.sync('alice2')
        self.assertEqual(len(self.g.sync('alice1', token)[1]), 1)
        self.assertEqual(len(self.g.sync('alice2')[1]), 1)

    def test_a_hundred_at_most(self):
        for n in range(0, 250, 10):
            self.g.send('bob1', n, {'@alice:gw.example': {'PHONE': {'n': n}}})
        for n in range(25, 250):
            self.send(1000 + n)
        sizes, since, all = [], None, []
        while True:
            since, got = self.sync(since)
            sizes.append(len(got))
            all += got
            if not got:
                break
        self.assertEqual(sizes, [100, 100, 50, 0])
        self.assertEqual(all, list(range(0, 250, 10)) + list(range(1025, 1250)))

    def test_large_messages(self):
        for n in range(12):
            answer = self.g.send('bob1', n, {'@alice:gw.example': {
                'PHONE': {'n': n, 'x': 'x' * 60000}}}, type='m.' + 'y' * 2000)
            self.assertEqual(answer[0], 200)
        since, all = None, []
        while True:
            since, got = self.sync(since)
            all += got
            if not got:
                break
        self.assertEqual(all, list(range(12)))

    def test_wakes_up(self):
        since, _ = self.g.sync('alice1')
        result = []

        def wait():
            began = time.monotonic()
            result.append(self.g.sync('alice1', since, timeout=30000))
            result.append(time.monotonic() - began)
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.3)
        self.send(1, 'LAPTOP') # not for it
        time.sleep(0.2)
        self.assertEqual(result, [])
        self.send(2)
        thread.join(10)
        self.assertEqual([e['content']['n'] for e in result[0][1]], [2])
        self.assertLess(result[1], 5)

    def test_waits_no_longer_than_asked(self):
        began = time.monotonic()
        _, events = self.g.sync('alice1', timeout=700)
        took = time.monotonic() - began
        self.assertEqual(events, [])
        self.assertTrue(0.65 < took < 3, took)


class Delete(Case):
    def test_delete(self):
        g = self.gateway(LINES)
        g.send('bob1', 1, {'@alice:gw.example': {'*': {'n': 1}}})
        self.error(g.request('DELETE', V3 + '/devices/NONE', token='alice1'), 404, 'M_NOT_FOUND')
        self.error(g.request('DELETE', V3 + '/devices/BOB', token='alice1'), 404, 'M_NOT_FOUND')
        # With a body, as clients send it.
        self.assertEqual(g.request('DELETE', V3 + '/devices/PHONE', {'auth': {}}, 'alice2'),
                         (200, {}))
        self.assertEqual(g.status()['queued'], 1)
        self.error(g.request('DELETE', V3 + '/devices/PHONE', token='alice2'), 404, 'M_NOT_FOUND')
        self.error(g.request('GET', V3 + '/sync', token='alice1'), 401, 'M_UNKNOWN_TOKEN')
        self.error(g.send('alice1', 1, {}), 401, 'M_UNKNOWN_TOKEN')
        self.assertEqual(g.send('bob1', 2, {'@alice:gw.example': {'PHONE': {}}})[0], 200)
        self.assertEqual(g.send('bob1', 3, {'@alice:gw.example': {'*': {}}})[0], 200)
        self.assertEqual(g.status()['queued'], 2)
        g.hangup() # there it is again, with nothing
        self.assertEqual(g.drain('alice1'), [])
        self.assertEqual(len(g.drain('alice2')), 2)

    def test_request_ids_go_with_the_device(self):
        g = self.gateway(LINES)
        to = {'@bob:gw.example': {'BOB': {'n': 1}}}
        g.send('alice1', 1, to)
        self.assertEqual(g.request('DELETE', V3 + '/devices/PHONE', token='alice1')[0], 200)
        g.again(kill=True)
        self.assertEqual(g.send('alice1', 1, to)[0], 200)
        self.assertEqual(g.status()['queued'], 2)

    def test_of_an_appservice(self):
        g = self.gateway(LINES)
        path = V3 + '/devices/JOE?user_id=@_irc_joe:gw.example'
        g.send('bob1', 1, {'@_irc_joe:gw.example': {'JOE': {'n': 1}}})
        self.error(g.request('DELETE', V3 + '/devices/PHONE?user_id=@alice:gw.example',
                             token='as_irc'), 403, 'M_FORBIDDEN')
        self.assertEqual(g.request('DELETE', path, token='as_irc')[0], 200)
        self.error(g.request('DELETE', path, token='as_irc'), 404, 'M_NOT_FOUND')
        self.error(g.request('GET', V3 + '/sync?device_id=JOE&user_id=@_irc_joe:gw.example',
                             token='as_irc'), 400, 'M_UNKNOWN_DEVICE')
