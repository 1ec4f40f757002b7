"""Mistakes in the configuration."""
import os
import re
import subprocess
import threading

from harness import Case, DEVICES, GATEWAY, folder, irc, open_text

APP = 'appservice irc http://127.0.0.1:9 hs as'
HEAD = ['listen 127.0.0.1:0', 'server_name gw.example', 'store %s/x.log 1M']

MISTAKES = [ # lines behind the three of HEAD, and which of them is the mistake (0: the first)
    (['nonsense 1'], 0), (['listen'], 0), (['listen 127.0.0.1'], 0), (['listen 127.0.0.1:x'], 0),
    (['listen 127.0.0.1:99999'], 0), (['listen :80'], 0), (['server_name'], 0), (['store x'], 0),
    (['store x 1X'], 0), (['store x 0'], 0), (['store x -1'], 0), (['memory'], 0),
    (['memory x'], 0),
    (['retry_ms_min 0'], 0), (['retry_ms_max x'], 0), (['txn_messages_max 1 2'], 0),
    (['appservice irc'], 0), (['appservice irc ftp://x hs as'], 0), ([APP + ' nonsense'], 0),
    (['appservice irc http:// hs as'], 0), (['appservice irc http://x:y hs as'], 0),
    (['appservice irc http://127.0.0.1:9 same same'], 0), ([APP, APP.replace('irc', 'x')], 1),
    ([APP, 'appservice irc http://127.0.0.1:9 hs2 as2'], 1),
    ([APP, 'appservice x http://127.0.0.1:9 as hs'], 1),
    ([APP, 'appservice x http://127.0.0.1:9 as hs2'], 1),
    ([APP, 'appservice x http://127.0.0.1:9 hs2 hs'], 1),
    (['sender irc @a:gw.example'], 0), (['sender irc @a:gw.example', APP], 0),
    ([APP, 'sender irc a'], 1), ([APP, 'sender irc'], 1),
    ([APP, 'sender irc @a:gw.example', 'sender irc @b:gw.example'], 2),
    (['exclusive irc @a'], 0), ([APP, 'exclusive irc'], 1), ([APP, 'exclusive irc @(a'], 1),
    ([APP, 'inclusive irc @[a'], 1), ([APP, 'inclusive x @a'], 1), ([APP, 'exclusive irc @a b'], 1),
    (['device @a:gw.example'], 0), (['device @a:gw.example A'], 0), (['device a A t'], 0),
    (['device @a:gw.example A t', 'device @a:gw.example A t2'], 1),
    (['device @a:gw.example A t', 'device @a:gw.example B t'], 1),
    ([APP, 'device @a:gw.example A as'], 1), ([APP, 'device @a:gw.example A hs'], 1),
    (['device @a:gw.example A as', APP], 1), (['device @a:gw.example A hs', APP], 1),
    (['device @a:gw.example A t by'], 0), (['device @a:gw.example A t by irc'], 0),
    (['device @a:gw.example A t of irc'], 0), (['# fine', '', 'device @a:gw.example A t by x'], 2),
    ([APP, 'device @a:gw.example A t by irc'], 1),
    ([APP, r'exclusive irc @a:gw\.exampl', 'device @a:gw.example A t by irc'], 2),
    (['device @a:gw.example A t # good', 'x'], 1),
    (['device @a\udcff:gw.example A t'], 0), (['device @a:gw.example A\udcff t'], 0), # no UTF-8
    ([APP, 'sender irc @a\udcff:gw.example'], 1),
    # Users of other servers, whose messages would go nowhere.
    (['device @a:other A t'], 0), (['device @a A t'], 0), (['device @a:gw.example:80 A t'], 0),
    (['device @a:gw.exampl A t'], 0), ([APP, 'sender irc @a:other'], 1),
    (['device @b:gw.example B u', 'device @a:GW.example A t'], 1),
    # Twice what is meant once.
    (['listen 127.0.0.1:0'], 0), (['server_name gw.example'], 0), (['store x 1M'], 0),
    (['memory 4M', 'memory 4M'], 1), (['expire_days 0', 'expire_days 1'], 1),
    (['expire_days x'], 0), (['expire_days'], 0), (['devices_max 0'], 0), (['devices_max'], 0),
]


class Config(Case):
    def setUp(self):
        self.folder = folder()
        self.path = os.path.join(self.folder, 'gateway.conf')

    def run_it(self, lines):
        with open(self.path, 'w', encoding='utf-8', errors='surrogateescape') as f:
            f.write('\n'.join(lines) + '\n')
        process = subprocess.Popen([GATEWAY, self.path], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        kill = threading.Timer(3, process.kill) # it took the configuration
        kill.start()
        out, err = process.communicate()
        kill.cancel()
        return subprocess.CompletedProcess([], process.returncode, out, err)

    def mistake(self, lines, line):
        done = self.run_it([l.replace('%s', self.folder) for l in lines])
        where, log = done.stderr.split(': ')[0], self.folder + '/x.log'
        with self.subTest(lines=lines, said=done.stderr):
            self.assertEqual((done.returncode, done.stdout), (2, ''))
            self.assertTrue(where.startswith(self.path + ':'), where)
            if line is not None:
                self.assertEqual(where, '%s:%d' % (self.path, line))
            self.assertEqual(done.stderr.count('\n'), 1)
            self.assertFalse(os.path.exists(log))
        if os.path.exists(log):
            os.remove(log)

    def test_mistakes(self):
        for lines, at in MISTAKES:
            self.mistake(HEAD + lines, 4 + at)

    def test_too_many_appservices(self):
        app = 'appservice a%d http://127.0.0.1:9 hs%d as%d'
        self.mistake(HEAD + [app % (i, i, i) for i in range(31)], 34)
        self.gateway([app % (i, i, i) for i in range(30)])

    def test_missing(self):
        for i in range(3):
            self.mistake(HEAD[:i] + HEAD[i + 1:], None)
        self.mistake([], None)
        self.mistake(HEAD + ['retry_ms_min 100', 'retry_ms_max 50'], None)

    def test_no_file(self):
        done = subprocess.run([GATEWAY, self.folder + '/none'], stderr=subprocess.PIPE)
        self.assertEqual(done.returncode, 2)
        done = subprocess.run([GATEWAY, self.folder], stderr=subprocess.PIPE)
        self.assertEqual(done.returncode, 2)
        self.assertEqual(subprocess.run([GATEWAY], stderr=subprocess.PIPE).returncode, 2)

    def test_the_commented_example(self):
        """It is valid, has each directive that --help has, and states the defaults."""
        path = os.path.join(os.path.dirname(__file__), '..', '..', 'example', 'gateway.conf')
        done = subprocess.run([GATEWAY, '--check', path], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, '', ''))
        help = subprocess.run([GATEWAY, '--help'], capture_output=True, text=True).stdout
        offered = set(re.findall(r'(?:^  |, )([a-z_]+) [A-Z]', help, re.M))
        directives = [line.split() for line in open_text(path).splitlines()
                      if line.strip() and line[0] != '#']
        self.assertEqual({words[0] for words in directives}, offered)
        self.assertIn('expire_days', offered)
        # It runs, too, with another port and file.
        lines = [' '.join(words) for words in directives
                 if words[0] not in ('listen', 'server_name', 'store', 'admin')]
        g = self.gateway(lines, store='16M')
        self.assertEqual(g.send('ALICE_PHONE_TOKEN', 1, {'@alice:gw.example': {'*': {}}})[0], 200)
        self.assertEqual(g.status()['devices_max'], 4096)

    def test_check(self):
        """Says the same as a start, and opens nothing."""
        for lines in (HEAD, HEAD + ['nonsense'], HEAD[:2], HEAD[1:],
                      HEAD[:2] + ['store %s/x.log 100G']):
            with open(self.path, 'w', encoding='utf-8') as f:
                f.write('\n'.join(lines).replace('%s', self.folder) + '\n')
            done = subprocess.run([GATEWAY, '--check', self.path], capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stdout), (0 if lines == HEAD else 2, ''))
            if lines != HEAD:
                self.assertEqual(done.stderr, self.run_it(
                    [l.replace('%s', self.folder) for l in lines]).stderr)
                self.assertRegex(done.stderr, re.escape(self.path) + r':\d+: .*\n$')
            self.assertEqual(os.listdir(self.folder), ['gateway.conf'])

    def test_usage(self):
        run = lambda *words: subprocess.run([GATEWAY, *words], capture_output=True, text=True)
        for words in ((), ('--check',), ('a', 'b'), ('--none',), ('--check', '--help'), ('',),
                      ('-c', 'a')):
            done = run(*words)
            self.assertEqual((done.returncode, done.stdout, done.stderr.count('\n')), (2, '', 1))
            self.assertIn('--help', done.stderr)
        header = open_text(os.path.join(os.path.dirname(__file__), '..', '..', 'msc4203.h'))
        self.assertEqual(run('--version').stdout, 'gateway %s\n' % re.search(
            r'define MSC4203_VERSION "(.*)"', header).group(1))
        self.assertEqual(run('--help').stdout, run('-h').stdout)
        self.assertTrue(all(len(l) <= 100 for l in run('--help').stdout.splitlines()))
        done = run(self.folder + '/none')
        self.assertEqual((done.returncode, done.stderr),
                         (2, self.folder + '/none: No such file or directory\n'))

    def test_spellings(self):
        self.gateway(['  # a comment', '', '\tmemory   4M\t# behind', 'device\t@a:gw.example A t#',
                      'txn_messages_max 1000000', 'txn_bytes_max 900M', 'request_bytes_max 3G'])

    def test_hangup_with_a_mistake(self):
        g = self.gateway(DEVICES)
        before = g.send('bob1', 1, {'@alice:gw.example': {'PHONE': {}}})
        self.assertEqual(before[0], 200)
        said = g.hangup(DEVICES + ['nonsense'])
        self.assertIn('%s:%d: ' % (g.path, 3 + len(DEVICES) + 1), said)
        self.assertEqual(len(g.drain('alice1')), 1)
        self.assertIn('was read again', g.hangup(DEVICES + ['device @new:gw.example N new']))
        self.assertEqual(g.drain('new'), [])

    def test_what_needs_a_restart(self):
        """It is compared with what runs, not with what was read last."""
        g = self.gateway(DEVICES)
        for _ in range(2):
            said = g.hangup(DEVICES + ['memory 5M'])
            self.assertIn('memory changes with a restart only', said)
            self.assertNotIn('listen changes', said)
        self.assertNotIn('restart', g.hangup(DEVICES))
        g.store = '8M'
        for _ in range(2):
            self.assertIn('store changes with a restart only', g.hangup(DEVICES))
        g.store = '4M'
        self.assertNotIn('restart', g.hangup(DEVICES))
        said = g.hangup(['listen 127.0.0.1:1'] + DEVICES)
        self.assertIn('listen changes with a restart only', said)

    def test_hangups_under_load(self):
        g = self.gateway(DEVICES + irc())
        failed, stop = [], threading.Event()

        def work(w):
            n = 0
            while not stop.is_set():
                n += 1
                status, body = g.send('bob1', '%d-%d' % (w, n), {'@alice:gw.example': {
                    'PHONE': {'w': w, 'n': n}}})
                if status not in (200, 500) or (status == 500 and 'changed' not in body['error']):
                    failed.append((status, body))
        threads = [threading.Thread(target=work, args=(w,)) for w in range(4)]
        for t in threads:
            t.start()
        for i in range(15):
            g.hangup(DEVICES + irc() + ['device @x%d:gw.example X x%d' % (j, j) for j in range(i)])
        stop.set()
        for t in threads:
            t.join()
        self.assertEqual(failed, [])
        seen = {}
        for c in self.contents(g.drain('alice1')):
            self.assertGreater(c['n'], seen.get(c['w'], 0))
            seen[c['w']] = c['n']
        self.assertEqual(len(seen), 4)

    def test_locked(self):
        g = self.gateway(DEVICES)
        done = subprocess.run([GATEWAY, g.path], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=20, text=True)
        self.assertEqual((done.returncode, done.stdout), (1, ''))
        self.assertIn('gateway.log', done.stderr)
        self.assertEqual(g.stop(), 0)
        g.start()

    def test_a_store_of_something_else(self):
        g = self.gateway(DEVICES, start=False)
        with open(g.folder + '/gateway.log', 'wb') as f:
            f.write(b'something else' * 1000)
        done = subprocess.run([GATEWAY, g.path], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=20, text=True)
        open(g.folder + '/stderr', 'w').close()
        self.assertEqual((done.returncode, done.stdout), (1, ''))
        with open(g.folder + '/gateway.log', 'rb') as f:
            self.assertEqual(f.read(), b'something else' * 1000)

    def test_sigterm(self):
        g = self.gateway(DEVICES + irc())
        sync = (b'GET /_matrix/client/v3/sync?timeout=60000 HTTP/1.1\r\nHost: x\r\n'
                b'Authorization: Bearer bob1\r\n\r\n')
        with g.connect(b'PUT /'), g.connect(sync):
            g.send('bob1', 1, {'@alice:gw.example': {'*': {}}})
            self.assertEqual(g.stop(), 0)
        g.start()
        self.assertEqual(g.status()['queued'], 2)
        g.process.send_signal(2)
        self.assertEqual(g.end(), 0)
        g.start()
