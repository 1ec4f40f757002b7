"""What the gateway says on standard error: lines for people who were not there."""
import re

from harness import Case, DEVICES, FAST, irc, until

JOE = {'@_irc_joe:gw.example': {'JOE': {'n': 1}}}
LINE = re.compile(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z gateway: (info|warning|error): \S.*')


class Says(Case):
    def start(self, react=None, **options):
        self.a = self.peer(react)
        self.g = self.gateway(FAST + DEVICES + irc(self.a.url), **options)
        self.g.send('bob1', 1, JOE)

    def lines(self, word):
        """Those that have it; each line says when, and how bad it is."""
        lines = self.g.said().splitlines()
        for line in lines:
            self.assertRegex(line, LINE)
        return [line for line in lines if word in line]

    def fails(self, cause):
        until(lambda: self.lines(cause), what=cause)
        before = self.g.appservice()['attempts']
        until(lambda: self.g.appservice()['attempts'] > before + 5)
        line, = self.lines(cause)
        self.assertIn(' warning: irc: delivery fails, and is tried again: ', line)

    def test_causes(self):
        """Each once, not once for each attempt; and that it is over."""
        self.start()
        until(lambda: self.a.messages)
        self.assertEqual(self.lines(''), []) # all is well: nothing to say
        for react, cause in ((403, 'it answered 403: is hs_token right?'),
                             (401, 'it answered 401: is hs_token right?'),
                             (404, 'it answered 404: is the URL right?'),
                             (503, 'it answered 503'),
                             ('drop', 'the connection ended before the answer did'),
                             (b'garbage\r\n\r\n', 'what it answered is not HTTP')):
            self.start(lambda request: react)
            self.fails(cause)
            self.a.react = lambda request: None
            until(lambda: self.lines('irc: delivers again, after '))
            line, = self.lines('info: ')
        self.start(lambda request: 500)
        self.fails('it answered 500')
        self.a.down()
        self.fails('Connection refused')
        self.a.up()
        self.a.react = lambda request: 403
        self.fails('it answered 403')
        self.a.react = lambda request: 500 # which it was before
        until(lambda: self.g.appservice()['last_status'] == 500)
        self.assertEqual(len(self.lines('')), 3)

    def test_hourly(self):
        self.start(lambda request: 500, clock=True)
        self.fails('it answered 500')
        for hours in (1, 2):
            self.g.pass_ms(3600001)
            until(lambda: len(self.lines('still: irc: ')) == hours)
            self.assertRegex(self.lines('still: ')[-1],
                             r'it answered 500; \d+ times since 20\d\d-[0-9T:-]+Z')
        self.assertEqual(len(self.lines('')), 3)

    def test_no_answer(self):
        self.start(lambda request: __import__('time').sleep(3) or 'drop', clock=True)
        until(lambda: self.a.requests)
        self.g.pass_slowly(62000)
        until(lambda: self.lines('no answer within 60 s'))

    def test_long_lines(self):
        """A name as long as may be does not swallow what happened; nor does it break the line."""
        id = 'x' * 250
        g = self.gateway(FAST + DEVICES + [
            'appservice %s http://127.0.0.1:9 hs as to_device' % id,
            r'exclusive %s @_irc_.*:gw\.example' % id,
            'device @_irc_joe:gw.example JOE joe by ' + id])
        g.send('bob1', 1, JOE)
        until(lambda: g.said())
        self.assertRegex(g.said(), LINE)
        self.assertIn('Connection refused\n', g.said())
