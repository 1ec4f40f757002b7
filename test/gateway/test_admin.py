"""What an operator asks and does, on an address of its own."""
import http.client
import json
import os
import re
import socket

from harness import Case, DEVICES, FAST, free_port, irc, open_text, until

JOE = '@_irc_joe:gw.example'
STATUS = {'queued', 'queued_max', 'bytes_used', 'bytes_capacity', 'bytes_free', 'sync_pending', 'parked',
          'damaged', 'devices', 'devices_max', 'connections', 'store_error', 'appservices'}
LABEL = r'\{appservice="((?:[^"\\\n]|\\["\\n])*)"\}'


def metrics(text):
    """Prometheus' text format, taken apart: a dictionary, with (name, label) for those with one."""
    values, kind = {}, {}
    assert text.endswith('\n')
    for line in text.splitlines():
        if line.startswith('# HELP '):
            name = line.split()[2]
            assert name not in kind
            kind[name] = None
        elif line.startswith('# TYPE '):
            _, _, name, type = line.split()
            assert kind[name] is None and type in ('gauge', 'counter')
            assert (type == 'counter') == name.endswith('_total'), name
            kind[name], current = type, name
        else:
            name, label, value = re.fullmatch(r'([a-z_]+)(?:%s)? (\d+)' % LABEL, line).groups()
            assert name == current
            key = name if label is None else (name, re.sub(r'\\(.)', r'\1', label))
            assert key not in values
            values[key] = int(value)
    return values


class Admin(Case):
    def start(self, more=(), react=None, id='irc', unix=False):
        self.a = self.peer(react)
        lines = [re.sub(r'(?<= )irc(?= |$)', lambda _: id, line) for line in irc(self.a.url)]
        self.g = self.gateway(DEVICES + lines + FAST + list(more), start=False)
        self.socket, self.port = self.g.folder + '/admin', free_port()
        with open(self.g.path, 'a') as f:
            f.write('admin unix:%s\n' % self.socket if unix else 'admin 127.0.0.1:%d\n' % self.port)
        self.unix = unix
        self.g.start()

    def ask(self, method, path, body=None):
        """Status, headers and text."""
        c = http.client.HTTPConnection('127.0.0.1', self.port, timeout=20)
        if self.unix:
            c.sock = socket.socket(socket.AF_UNIX)
            c.sock.connect(self.socket)
        c.request(method, path, body)
        answer = c.getresponse()
        text = answer.read()
        c.close()
        return answer.status, dict(answer.getheaders()), text.decode()

    def json(self, method, path, body=None):
        status, headers, text = self.ask(method, path, body)
        self.assertEqual(headers['Content-Type'], 'application/json')
        return status, json.loads(text)

    def send(self, n, **content):
        self.assertEqual(self.g.send('bob1', n, {JOE: {'JOE': dict(content, n=n)}})[0], 200)

    def test_where(self):
        """Clients see nothing of it, and an operator nothing of theirs."""
        for unix in (False, True):
            self.start(unix=unix)
            for path in ('/status', '/metrics', '/parked'):
                self.assertEqual(self.ask('GET', path)[0], 200)
                self.error(self.g.request('GET', path), 404, 'M_UNRECOGNIZED')
            for method, path in (('POST', '/parked/1/retry'), ('DELETE', '/parked/1'),
                                 ('POST', '/appservices/irc/skip')):
                self.error(self.g.request(method, path), 404, 'M_UNRECOGNIZED')
                self.error(self.json('GET', path), 405, 'M_UNRECOGNIZED')
            for path in ('/_matrix/client/v3/sync?access_token=bob1', '/', '/parked/',
                         '/parked/1/x', '/appservices/irc', '/appservices//skip'):
                self.error(self.json('GET', path), 404, 'M_UNRECOGNIZED')
            if unix:
                self.assertEqual(os.stat(self.socket).st_mode & 0o777, 0o600)
                self.g.kill()
                self.g.start() # in place of the socket that was left
                self.assertEqual(self.ask('GET', '/status')[0], 200)
                self.assertEqual(self.g.stop(), 0)
                self.assertFalse(os.path.exists(self.socket))

    def test_without_an_address(self):
        """Only /status, and only for this machine."""
        g = self.gateway()
        self.assertEqual(set(g.status()), STATUS)
        for path in ('/metrics', '/parked'):
            self.error(g.request('GET', path), 404, 'M_UNRECOGNIZED')
        g = self.gateway(['listen 0.0.0.0:%d' % free_port()] + DEVICES, start=False)
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                s.connect(('192.0.2.1', 9)) # sends nothing
                host = s.getsockname()[0]
        except OSError:
            return # this machine has no other address
        g.process = None
        port = int(re.search(r'0\.0\.0\.0:(\d+)', open_text(g.path)).group(1))
        with self.assertRaises(AssertionError): # for what it says is another address
            g.start()
        until(lambda: socket.create_connection(('127.0.0.1', port)).close() or True)
        for address, status in (('127.0.0.1', 200), (host, 404)):
            c = http.client.HTTPConnection(address, port, timeout=20)
            c.request('GET', '/status')
            self.assertEqual(c.getresponse().status, status)
            c.close()

    def test_status_and_metrics(self):
        id = 'a"\\\u20ac'
        self.start(react=lambda request: 403, id=id)
        self.send(1)
        self.g.send('bob1', 2, {'@alice:gw.example': {'*': {}}})
        until(lambda: self.json('GET', '/status')[1]['appservices'][0]['attempts'] > 1)
        status = self.json('GET', '/status')[1]
        self.assertEqual(set(status), STATUS)
        app = status['appservices'][0]
        self.assertEqual((status['queued'], status['sync_pending'], status['parked'],
                          status['damaged'], status['devices'], status['store_error']),
                         (3, 2, 0, 0, 3, None))
        self.assertEqual(status['bytes_used'] + status['bytes_free'], status['bytes_capacity'])
        self.assertEqual((app['id'], app['last_status'], app['last_error'], app['delivered']),
                         (id, 403, 'it answered 403: is hs_token right?', 0))
        code, headers, text = self.ask('GET', '/metrics')
        self.assertEqual(headers['Content-Type'], 'text/plain; version=0.0.4; charset=utf-8')
        values = metrics(text)
        self.assertEqual(values['gateway_queued'], 3)
        self.assertEqual(values['gateway_sync_pending'], 2)
        self.assertEqual(values['gateway_store_failed'], 0)
        self.assertEqual(values['gateway_appservice_pending', id], 1)
        self.assertEqual(values['gateway_appservice_in_flight', id], 1)
        self.assertEqual(values['gateway_appservice_last_status', id], 403)
        self.assertGreater(values['gateway_appservice_failures_total', id], 1)
        self.assertGreater(values['gateway_appservice_failing_since_seconds', id], 1600000000)
        self.a.down()
        until(lambda: 'refused' in str(self.json('GET', '/status')[1]['appservices']))
        self.a.up()
        self.a.react = lambda request: None
        until(lambda: self.a.messages)
        until(lambda: metrics(self.ask('GET', '/metrics')[2])[
            'gateway_appservice_delivered_total', id] == 1)
        app = self.json('GET', '/status')[1]['appservices'][0]
        self.assertEqual((app['last_status'], app['last_error']), (200, None))

    def park(self, count):
        """Has so many messages refused."""
        self.start(react=lambda request: 413 if b'poison' in request['body'] else None)
        for n in range(count):
            self.send(n, x='poison')
        self.send('good')
        until(lambda: self.a.messages)
        until(lambda: self.json('GET', '/status')[1]['parked'] == count)
        status, body = self.json('GET', '/parked')
        self.assertEqual(status, 200)
        return body

    def test_parked(self):
        body = self.park(3)
        self.assertIsNone(body['next'])
        first, second, third = body['parked']
        self.assertEqual(
            {k: first[k] for k in first if k not in ('number', 'time_ms')},
            {'appservice': 'irc', 'sender': '@bob:gw.example', 'user_id': JOE, 'device_id': 'JOE',
             'type': 'm.test', 'content_bytes': len(json.dumps({'x': 'poison', 'n': 0}))})
        for number in (0, 1, 99999999, 'x', first['number'] - 1):
            self.error(self.json('DELETE', '/parked/%s' % number), 404, 'M_NOT_FOUND')
            self.error(self.json('POST', '/parked/%s/retry' % number), 404, 'M_NOT_FOUND')
        self.assertEqual(self.json('DELETE', '/parked/%d' % second['number']), (200, {}))
        self.error(self.json('DELETE', '/parked/%d' % second['number']), 404, 'M_NOT_FOUND')
        self.assertEqual(self.json('GET', '/parked')[1]['parked'], [first, third])
        # Refused again, it is parked again, under another number.
        self.assertEqual(self.json('POST', '/parked/%d/retry' % third['number']), (200, {}))
        until(lambda: self.json('GET', '/parked')[1]['parked'][-1:] not in ([third], [first]))
        last = self.json('GET', '/parked')[1]['parked'][1]
        self.assertEqual(last['appservice'], 'irc')
        self.a.react = lambda request: None
        self.assertEqual(self.json('POST', '/parked/%d/retry' % last['number'])[0], 200)
        self.assertEqual(self.json('POST', '/parked/%d/retry' % first['number'])[0], 200)
        until(lambda: len(self.a.messages) == 3)
        self.assertEqual([m['content']['n'] for m in self.a.messages], ['good', 2, 0])
        self.assertEqual(self.json('GET', '/parked')[1], {'parked': [], 'next': None})
        self.g.again(kill=True)
        self.assertEqual(self.g.process and self.json('GET', '/status')[1]['queued'], 0)

    def test_many_parked(self):
        self.park(130)
        seen, after = [], 0
        while after is not None:
            body = self.json('GET', '/parked?after=%d' % after)[1]
            self.assertLessEqual(len(body['parked']), 100)
            seen += [m['number'] for m in body['parked']]
            after = body['next']
        self.assertEqual((len(seen), seen), (130, sorted(set(seen))))

    def test_skip(self):
        self.start(react=lambda request: 500)
        self.error(self.json('POST', '/appservices/irc/skip'), 409, 'M_UNKNOWN')
        self.error(self.json('POST', '/appservices/x/skip'), 404, 'M_NOT_FOUND')
        self.send('poison')
        until(lambda: self.a.transactions())
        self.send('behind')
        self.assertEqual(self.json('POST', '/appservices/irc/skip'), (200, {}))
        self.a.react = lambda request: None
        until(lambda: self.a.messages)
        self.assertEqual([m['content']['n'] for m in self.a.messages], ['behind'])
        self.assertIn('was given up: 1 messages', self.g.said())

    def test_skip_while_it_is_being_sent(self):
        self.start(react=lambda request: __import__('time').sleep(30))
        self.send('poison')
        until(lambda: self.a.transactions())
        self.send('behind')
        self.a.react = lambda request: None
        self.assertEqual(self.json('POST', '/appservices/irc/skip'), (200, {}))
        until(lambda: self.a.messages, 5)
        self.assertEqual([m['content']['n'] for m in self.a.messages], ['behind'])

    def test_mistakes(self):
        g = self.gateway(start=False)
        for admin in ('admin', 'admin x', 'admin 0.0.0.0:1', 'admin unix:', 'admin example.org:80',
                      'admin unix:' + 'x' * 200, 'admin unix:x\nadmin unix:y'):
            g.configure([admin])
            with self.assertRaises(AssertionError) as said:
                g.start()
            g.process.wait()
            self.assertIn('gateway.conf:%d: ' % (5 if '\n' in admin else 4), str(said.exception))
