"""What happens to the store's file while the gateway runs."""
import os
import shutil

from harness import Case, DEVICES, FAST, irc, until

BOB = {'@bob:gw.example': {'BOB': {'n': 1}}}
JOE = {'@_irc_joe:gw.example': {'JOE': {'n': 1}}}


class Store(Case):
    def setUp(self):
        self.a = self.peer(lambda request: 500)
        self.g = self.gateway(FAST + DEVICES + irc(self.a.url))
        self.path = self.g.folder + '/gateway.log'
        self.assertEqual(self.g.send('alice1', 'before', BOB)[0], 200)
        self.assertEqual(self.g.send('alice1', 'joe', JOE)[0], 200)
        until(lambda: self.a.requests)

    def stops(self, said):
        """Nothing is accepted, and it says why, once."""
        for n in range(20):
            self.error(self.g.send('alice1', 'n%d' % n, BOB), 500, 'M_UNKNOWN')
        self.error(self.g.request('GET', '/_matrix/client/v3/sync', token='bob1'), 500, 'M_UNKNOWN')
        self.assertEqual(self.g.said().count('the store failed'), 1)
        self.assertIn(said, self.g.said())
        self.a.react = lambda request: None

    def goes_on(self):
        until(lambda: 'the store works again' in self.g.said())
        self.assertEqual(self.g.send('alice1', 'after', BOB)[0], 200)
        self.assertEqual(len(self.g.drain('bob1')), 2)
        until(lambda: self.a.messages)

    def test_cut(self):
        for size in (0, 5000, 4194303):
            saved = self.path + '.saved'
            shutil.copyfile(self.path, saved)
            os.truncate(self.path, size)
            self.stops('was cut to %d bytes' % size)
            shutil.copyfile(saved, self.path)
            self.goes_on()
            self.tearDown()
            self.setUp()

    def test_removed(self):
        os.rename(self.path, self.path + '.moved')
        self.stops('gateway.log: No such file')
        self.assertFalse(os.path.exists(self.path)) # nor does it begin a new one
        os.rename(self.path + '.moved', self.path)
        self.goes_on()

    def test_replaced(self):
        shutil.copyfile(self.path, self.path + '.copy')
        os.rename(self.path, self.path + '.moved')
        os.rename(self.path + '.copy', self.path)
        self.stops('is another file now')
        os.rename(self.path + '.moved', self.path)
        self.goes_on()

    def test_cut_before_it_is_read(self):
        """What can't be read any more is not taken for delivered, or damaged."""
        self.a.react = lambda request: None
        saved = self.path + '.saved'
        shutil.copyfile(self.path, saved)
        os.truncate(self.path, 1000)
        self.stops('was cut to 1000 bytes')
        shutil.copyfile(saved, self.path)
        self.goes_on()
        self.assertNotIn('damaged', self.g.said())
