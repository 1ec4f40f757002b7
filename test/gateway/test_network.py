"""Where an appservice is: names, addresses, and those that change."""
import os
import signal
import time

from harness import Case, DEVICES, FAST, irc, until


def joe(n):
    return {'@_irc_joe:gw.example': {'JOE': {'n': n}}}


class Names(Case):
    def start(self, hosts, peer, more=()):
        return self.gateway(FAST + DEVICES + irc('http://bridge:%d' % peer.port) + list(more),
                            hosts=hosts)

    def test_moved(self):
        """It comes back under another address: nobody has to tell the gateway."""
        a = self.peer(host='127.0.0.3')
        g = self.start({'bridge': '127.0.0.2'}, a)
        g.send('bob1', 1, joe(1))
        until(lambda: g.appservice()['attempts'] > 1)
        self.assertIn('Connection refused', g.said())
        g.hosts({'bridge': '127.0.0.3'})
        until(lambda: a.messages)

    def test_moved_while_connected(self):
        a = self.peer(host='127.0.0.2')
        b = self.peer(host='127.0.0.3', port=a.port)
        g = self.start({'bridge': '127.0.0.2'}, a)
        g.send('bob1', 1, joe(1))
        until(lambda: a.messages)
        g.hosts({'bridge': '127.0.0.3'})
        a.down()
        g.send('bob1', 2, joe(2))
        until(lambda: b.messages)
        self.assertEqual(b.messages[0]['content'], {'n': 2})

    def test_an_idle_connection_is_looked_up_again(self):
        a = self.peer(host='127.0.0.2')
        b = self.peer(host='127.0.0.3', port=a.port)
        g = self.gateway(FAST + DEVICES + irc('http://bridge:%d' % a.port),
                         hosts={'bridge': '127.0.0.2'}, clock=True)
        g.send('bob1', 1, joe(1))
        until(lambda: a.messages)
        g.hosts({'bridge': '127.0.0.3'})
        g.pass_slowly(61000)
        g.send('bob1', 2, joe(2))
        until(lambda: b.messages)
        self.assertEqual(len(a.messages), 1)

    def test_all_addresses(self):
        """Each is tried before the attempt has failed."""
        a = self.peer()
        g = self.start({'bridge': '127.0.0.2 ::1 127.0.0.3 127.0.0.1'}, a)
        g.send('bob1', 1, joe(1))
        until(lambda: a.messages)
        self.assertNotIn('fails', g.said())

    def test_unknown_name(self):
        """That is an appservice that is down, and concerns no other."""
        a, b = self.peer(), self.peer()
        two = ['appservice two %s hs2 as2 to_device' % b.url, r'exclusive two @_two_.*:gw\.example',
               'device @_two_x:gw.example X two1 by two']
        g = self.start({'bridge': ''}, a, two)
        g.send('bob1', 1, joe(1))
        g.send('bob1', 2, {'@_two_x:gw.example': {'X': {}}})
        until(lambda: b.messages)
        until(lambda: 'irc: delivery fails, and is tried again: the name does not resolve' in
              g.said())
        self.assertIn('was read again', g.hangup())
        self.error(g.request('POST', '/_matrix/client/v1/appservice/irc/ping', token='as_irc'), 502,
                   'M_CONNECTION_FAILED')
        g.again()
        until(lambda: g.said().count('does not resolve') == 2)
        g.hosts({'bridge': '127.0.0.1'})
        until(lambda: a.messages)
        until(lambda: 'irc: delivers again' in g.said())

    def test_slow_name(self):
        """Nobody waits for it but its appservice."""
        a, b = self.peer(), self.peer()
        two = ['appservice two http://other:%d hs2 as2 to_device' % b.port,
               r'exclusive two @_two_.*:gw\.example', 'device @_two_x:gw.example X two1 by two']
        g = self.start({'bridge': 'sleep:8 127.0.0.1', 'other': '127.0.0.1'}, a, two)
        began = time.monotonic()
        g.send('bob1', 1, joe(1))
        g.send('bob1', 2, {'@_two_x:gw.example': {'X': {}}})
        until(lambda: b.messages)
        g.hangup()
        self.assertLess(time.monotonic() - began, 7)
        self.assertEqual(a.messages, [])
        until(lambda: a.messages, 20)
        self.assertNotIn('fails', g.said())

    def test_what_looks_up_is_killed(self):
        a = self.peer()
        g = self.start({'bridge': ''}, a)
        g.send('bob1', 1, joe(1))
        until(lambda: 'does not resolve' in g.said())
        helper, = g.children()
        os.kill(helper, signal.SIGKILL)
        g.hosts({'bridge': '127.0.0.1'})
        until(lambda: a.messages)
        self.assertEqual(len(g.children()), 1)

    def test_what_looks_up_ends_with_it(self):
        g = self.gateway()
        for end in (g.stop, g.kill):
            helper, = g.children()
            end()
            until(lambda: not os.path.exists('/proc/%d' % helper))
            g.start()

    def test_it_has_nothing_open(self):
        g = self.gateway()
        helper, = g.children()
        opened = [os.readlink('/proc/%d/fd/%s' % (helper, fd))
                  for fd in os.listdir('/proc/%d/fd' % helper)]
        self.assertEqual(sorted(o.split(':')[0] for o in opened),
                         ['/dev/null'] * 3 + ['pipe'] * 2)
