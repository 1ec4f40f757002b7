"""What changes while a request is being read, or a connection is kept."""
import json

from harness import Case, DEVICES, FAST, V3, irc, read_answer, send_path, until


class Meanwhile(Case):
    def half(self, g, method, path, body, token):
        """Sends a request but for its last byte; returns what sends that and reads the answer."""
        body = json.dumps(body).encode()
        s = g.connect(b'%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d'
                      b'\r\n\r\n' % (method.encode(), path.encode(), token.encode(), len(body)) +
                      body[:-1])
        self.addCleanup(s.close)
        for _ in range(3): # turns of its loop: by then it was read
            g.status()

        def rest():
            try:
                s.sendall(body[-1:])
            except OSError: # it was answered, and closed, before
                pass
            with s.makefile('rb') as stream:
                return read_answer(stream)[0]
        return rest

    def test_address_changes(self):
        a, b = self.peer(), self.peer()
        g = self.gateway(FAST + DEVICES + irc(a.url))
        to = {'@_irc_joe:gw.example': {'JOE': {'n': 1}}}
        self.assertEqual(g.send('alice1', '1', to)[0], 200)
        until(lambda: len(a.messages) == 1)
        g.hangup(FAST + DEVICES + irc(b.url))
        to['@_irc_joe:gw.example']['JOE']['n'] = 2
        self.assertEqual(g.send('alice1', '2', to)[0], 200)
        until(lambda: len(b.messages) == 1)
        self.assertEqual(len(a.messages), 1)

    def test_device_is_deleted(self):
        g = self.gateway()
        rest = self.half(g, 'PUT', send_path('1'),
                         {'messages': {'@alice:gw.example': {'LAPTOP': {'old': 1}}},
                          'pad': 9000 * ' '}, 'bob1')
        self.assertEqual(g.request('DELETE', V3 + '/devices/LAPTOP', token='alice1')[0], 200)
        self.assertEqual(rest(), 500)
        self.assertEqual(g.status()['queued'], 0)
        g.hangup(DEVICES) # which makes it again
        self.assertEqual(g.drain('alice2'), [])

    def test_sender_is_deleted(self):
        g = self.gateway()
        to = {'@bob:gw.example': {'BOB': {'n': 1}}}
        rest = self.half(g, 'PUT', send_path('1'), {'messages': to, 'pad': 9000 * ' '}, 'alice2')
        self.assertEqual(g.request('DELETE', V3 + '/devices/LAPTOP', token='alice1')[0], 200)
        self.assertEqual(rest(), 500)
        g.hangup(DEVICES)
        to['@bob:gw.example']['BOB']['n'] = 2
        self.assertEqual(g.send('alice2', '1', to)[0], 200)
        self.assertEqual(self.contents(g.drain('bob1')), [{'n': 2}])

    def test_ping_over_a_hangup(self):
        a, b = self.peer(), self.peer()
        one = ['appservice one %s h1 a1 to_device' % a.url, 'sender one @one:gw.example']
        two = ['appservice two %s h2 a2 to_device' % b.url, 'sender two @two:gw.example']
        g = self.gateway(DEVICES + one + two)
        rest = self.half(g, 'POST', '/_matrix/client/v1/appservice/two/ping',
                         {'transaction_id': 'x'}, 'a2')
        g.hangup(DEVICES + two + one)
        self.assertEqual(rest(), 500)
        self.assertEqual(a.requests + b.requests, [])

    def test_encoded_token(self):
        g = self.gateway()
        since, _ = g.sync('alice1')
        encoded = ''.join('%%%02X' % ord(c) for c in since)
        self.assertEqual(g.sync('alice1', encoded)[1], [])

    def test_path_is_not_utf8(self):
        g = self.gateway()
        for id in ('%ff', '%zz'):
            self.error(g.request('DELETE', V3 + '/devices/' + id, token='alice1'), 400,
                       'M_INVALID_PARAM')
