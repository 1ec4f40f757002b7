"""What there is room for, and what a refusal says: 429 that it may be tried again, 413 that it
never will be taken."""
from harness import Case, DEVICES, irc, until

BIG = ['device_bytes_max 100M', 'appservice_bytes_max 100M']
SLOW = ['retry_ms_min 500000', 'retry_ms_max 500000']
JOE = '@_irc_joe:gw.example'


def devices(count, user='@u%d:gw.example'):
    return ['device %s D%d u%d' % (user % n if '%' in user else user, n, n) for n in range(count)]


def users(first, last):
    return {'@u%d:gw.example' % n: {'D%d' % n: {'n': n}} for n in range(first, last)}


class Limits(Case):
    def start(self, more, **options):
        self.g = self.gateway(DEVICES + irc() + SLOW + more, **options)
        self.n = 0

    def send(self, messages):
        self.n += 1
        return self.g.send('bob1', self.n, messages)

    def taken(self, messages):
        self.assertEqual(self.send(messages), (200, {}))

    def later(self, messages):
        queued = self.g.status()['queued']
        self.error(self.send(messages), 429, 'M_LIMIT_EXCEEDED')
        self.assertEqual(self.g.status()['queued'], queued)

    def never(self, messages):
        queued = self.g.status()['queued']
        self.error(self.send(messages), 413, 'M_TOO_LARGE')
        self.assertEqual(self.g.status()['queued'], queued)

    def fill(self, messages):
        for _ in range(2000):
            if self.send(messages)[0] != 200:
                return
        self.fail('never full')

    def test_a_user_with_many_devices(self):
        lines = ['device @_irc_many:gw.example D%d m%d by irc' % (n, n) for n in range(150)]
        to_all = {'@_irc_many:gw.example': {'*': {'x': 'y' * 60000}}}
        self.start(lines, store='64M')
        self.taken(to_all)
        self.start(lines + ['appservice_bytes_max 8M'], store='64M')
        self.never(to_all)
        self.taken({JOE: {'JOE': {}}})
        self.never(to_all)

    def test_more_than_the_store(self):
        self.start(BIG, store='1M')
        huge = '{"messages":{"@bob:gw.example":{%s}}}' % ','.join(
            ['"BOB":{"x":"%s"}' % ('y' * 60000)] * 20)
        self.error(self.g.request('PUT', '/_matrix/client/v3/sendToDevice/m.x/h1', huge, 'alice1'),
                   413, 'M_TOO_LARGE')
        self.taken({'@bob:gw.example': {'BOB': {}}})
        self.fill({'@alice:gw.example': {'PHONE': {'x': 'y' * 30000}}})
        self.error(self.g.request('PUT', '/_matrix/client/v3/sendToDevice/m.x/h2', huge, 'alice1'),
                   413, 'M_TOO_LARGE')
        self.later({'@alice:gw.example': {'PHONE': {'x': 'y' * 30000}}})
        # What is wrong with it is said rather than that there is no room.
        self.error(self.g.request('PUT', '/_matrix/client/v3/sendToDevice/m.x/h3', '{"messages":{'
                                  '"@alice:gw.example":{"PHONE":{"x":"%s"}}},]' % ('y' * 30000),
                                  'bob1'), 400, 'M_NOT_JSON')

    def test_more_than_a_devices_quota(self):
        self.start(['device_bytes_max 10000'])
        big, small = {'x': 'y' * 12000}, {'x': 'y' * 4000}
        self.never({'@alice:gw.example': {'PHONE': big}})
        self.taken({'@alice:gw.example': {'PHONE': small}})
        self.never({'@alice:gw.example': {'PHONE': big}})
        self.taken({'@alice:gw.example': {'PHONE': small}})
        self.later({'@alice:gw.example': {'PHONE': small}})
        self.later({'@alice:gw.example': {'PHONE': small}, '@bob:gw.example': {'BOB': {}}})
        self.never({'@alice:gw.example': {'PHONE': small}, '@bob:gw.example': {'BOB': big}})
        self.taken({'@alice:gw.example': {'LAPTOP': small}})

    def test_more_devices_than_there_can_be(self):
        self.start(devices(100) + ['devices_max 64'])
        self.never(users(0, 100))
        self.taken(users(0, 30))
        self.never(users(0, 100))

    def test_devices_that_never_sync(self):
        """They keep neither appservices nor known devices from getting messages."""
        self.start(devices(100) + ['devices_max 64'])
        for n in range(0, 60, 10):
            self.taken(users(n, n + 10))
        self.later(users(60, 61))
        self.taken(users(0, 1))
        self.taken({JOE: {'JOE': {}}, '@team_ann:gw.example': {'ANN': {}}})
        for n in range(5, 9):
            self.assertEqual(len(self.g.drain('u%d' % n)), 1)
        self.taken(users(60, 61))

    def test_many_devices_by_default(self):
        self.start(devices(4200), store='64M')
        for n in range(0, 4200, 70):
            self.taken(users(n, n + 70))
        self.taken({'@bob:gw.example': {'BOB': {}}})

    def test_a_share_of_the_store(self):
        self.start(BIG, store='2M')
        self.fill({'@alice:gw.example': {'PHONE': {'x': 'y' * 20000}}})
        for _ in range(4):
            self.taken({JOE: {'JOE': {'x': 'y' * 20000}}})

    def test_quotas_by_default(self):
        """One device has a 16th of the store, an appservice half of it."""
        self.start([], store='1M')
        self.fill({'@alice:gw.example': {'PHONE': {'x': 'y' * 10000}}})
        self.assertIn(len(self.g.drain('alice1')), range(5, 7))
        self.fill({'@alice:gw.example': {'PHONE': {'x': 'y' * 10000}}})
        self.fill({JOE: {'JOE': {'x': 'y' * 6000}}, '@ircbot:gw.example': {'BOT': {}}})
        for n in range(10):
            self.taken({'@bob:gw.example': {'BOB': {'n': n}}})

    def test_the_store_has_another_size(self):
        self.start([], store='1M')
        self.g.stop()
        self.g.store = '2M'
        self.g.configure(DEVICES + ['devices_max 99'])
        self.g.start()
        self.assertIn('has 1048576 bytes, as it was made, not the 2097152', self.g.said())
        self.assertIn('is for 256 devices, as it was made, not for devices_max 99', self.g.said())

    def expiring(self, more):
        self.start(more, clock=True)
        self.taken({'@alice:gw.example': {'PHONE': {'n': 1}}, JOE: {'JOE': {}}})
        self.g.pass_ms(31 * 86400000)
        for _ in range(5):
            self.g.status()
        self.assertEqual(self.g.status()['queued'], 2) # the clock has just jumped
        self.taken({'@alice:gw.example': {'LAPTOP': {'n': 2}}})
        self.g.pass_slowly(3600000 + 700000)

    def test_expiring(self):
        """What waited for a /sync longer than 30 days; not what waits for an appservice."""
        self.expiring([])
        until(lambda: self.g.status()['queued'] == 2)
        self.assertIn('1 messages had waited 30 days', self.g.said())
        self.assertEqual(self.g.drain('alice1'), [])
        self.assertEqual(len(self.g.drain('alice2')), 1)
        self.assertEqual(self.g.appservice()['pending'], 1)

    def test_not_expiring(self):
        self.expiring(['expire_days 0'])
        self.assertEqual(self.g.status()['queued'], 3)

    def test_not_expiring_by_a_clock_that_is_wrong(self):
        """Only the clock of the calendar goes on by a month."""
        self.start([], clock=True)
        self.taken({'@alice:gw.example': {'PHONE': {'n': 1}}})
        for _ in range(10):
            self.g.pass_slowly(310000)
            self.g.pass_ms(0, 31 * 86400000)
            self.g.status()
        self.assertEqual(self.g.status()['queued'], 1)
