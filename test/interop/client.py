"""client.py - a real client, matrix-nio, driven from tests that are not asynchronous."""
import asyncio
import logging

import nio

logging.getLogger("nio").setLevel(logging.ERROR)


class Client:
    def __init__(self, url, user, device, token):
        self.loop = asyncio.new_event_loop()
        self.nio = nio.AsyncClient(url, user, config=nio.AsyncClientConfig(
            backoff_factor=0.02, encryption_enabled=False))
        self.nio.restore_login(user, device, token)

    def run(self, awaitable):
        return self.loop.run_until_complete(awaitable)

    def send(self, type_, user, device, content, txn=None):
        message = nio.ToDeviceMessage(type_, user, device, content)
        answer = self.run(self.nio.to_device(message, txn))
        assert isinstance(answer, nio.ToDeviceResponse), answer

    def sync(self, timeout=0):
        """The to-device messages of one /sync, as nio read them."""
        answer = self.run(self.nio.sync(timeout))
        assert isinstance(answer, nio.SyncResponse), answer
        return [event.source for event in answer.to_device_events]

    def receive(self, count):
        """Syncs until there are so many messages, and once more: there must be no others."""
        got = []
        while len(got) < count:
            new = self.sync(2000)
            assert new, f"{len(got)} of {count} messages"
            got += new
        return got + self.sync()

    def close(self):
        self.run(self.nio.close())
        self.loop.close()
