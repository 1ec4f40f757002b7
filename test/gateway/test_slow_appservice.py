"""What takes a minute with the appservice: connections on which nothing comes, and a machine that
slept."""
import json
import signal
import socket
import time

from harness import Case, KEY, Program, read_answer

PUT = (b'PUT /_matrix/app/v1/transactions/%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer hs\r\n'
       b'Content-Length: %d\r\n\r\n')


def body(n):
    return json.dumps({'events': [], KEY: [{
        'to_user_id': '@a:x', 'to_device_id': 'D', 'type': 't', 'sender': '@b:x',
        'content': {'n': n, 'x': 'y' * 1000}}]}).encode()


class Minute(Case):
    """Both wait at the same time."""

    @classmethod
    def setUpClass(cls):
        cls.silent, cls.asleep = Program(), Program()
        cls.sockets = {}
        cls.began = time.monotonic()
        for name, data in (('idle', b''), ('head', b'PUT /x HTT'),
                           ('body', PUT % (b'1', 99) + b'{'),
                           ('refused', (PUT % (b'1', 99)).replace(b'hs', b'no') + b'{')):
            cls.sockets[name] = cls.connect(cls.silent, data)
        text = body(1)
        cls.sockets['half'] = cls.connect(cls.asleep, PUT % (b'1', len(text)) + text[:500])
        cls.sockets['waits'] = cls.connect(cls.asleep, PUT % (b'2', len(body(2))) + body(2))
        cls.sockets['comes'] = cls.connect(cls.asleep)
        time.sleep(0.5)
        cls.asleep.process.send_signal(signal.SIGSTOP)
        cls.sockets['half'].sendall(text[500:])
        cls.sockets['comes'].sendall(PUT % (b'3', len(body(3))) + body(3))

    @classmethod
    def tearDownClass(cls):
        for s in cls.sockets.values():
            s.close()
        cls.silent.close()
        cls.asleep.close()

    @staticmethod
    def connect(program, data=b''):
        s = socket.create_connection(('127.0.0.1', program.port), timeout=90)
        s.sendall(data)
        return s

    def answer(self, name):
        with self.sockets[name].makefile('rb') as stream:
            return read_answer(stream)

    def test_a_machine_that_slept(self):
        """What has come meanwhile is answered: nothing of it was silent."""
        time.sleep(max(0, self.began + 63 - time.monotonic()))
        self.asleep.process.send_signal(signal.SIGCONT)
        for name in ('half', 'waits', 'comes'):
            self.assertEqual(self.answer(name)[0], 200, name)
        self.assertEqual(sorted(m['content']['n'] for m in self.asleep.messages()), [1, 2, 3])

    def test_silence(self):
        for name, status in (('idle', None), ('head', 408), ('body', 408), ('refused', None)):
            answer = self.answer(name)
            self.assertEqual(answer and answer[0], status, name)
            self.assertGreater(time.monotonic() - self.began, 55)
        self.assertEqual(self.silent.transaction('1', body(1))[0], 200)
