"""mautrix_receiver.py PORT HS_TOKEN AS_TOKEN OUT - an appservice of mautrix (Python) that writes a
line of JSON for each thing that it is handed. It forgets transaction ids when it ends."""
import asyncio
import json
import sys

from mautrix.appservice import AppService


async def main(port, hs_token, as_token, out):
    service = AppService(server="http://127.0.0.1:1", domain="gw.example", as_token=as_token,
                         hs_token=hs_token, bot_localpart="ircbot", id="irc",
                         ephemeral_events=True, encryption_events=True)
    file = open(out, "a")

    def write(kind, value):
        file.write(json.dumps([kind, value]) + "\n")
        file.flush()

    async def to_device(event):
        write("to_device", event.serialize())

    async def device_lists(lists):
        write("device_lists", lists.serialize())

    async def key_counts(counts):
        write("device_one_time_keys_count", {
            # It knows two algorithms, and gives both.
            user: {device: {k: n for k, n in count.serialize().items() if n}
                   for device, count in devices.items()}
            for user, devices in counts.items()})

    @service.matrix_event_handler
    async def event(event):
        fields = ("type", "sender", "room_id", "event_id", "content")
        event = event.serialize()
        write("events" if "event_id" in event else "ephemeral",
              {field: event[field] for field in fields if field in event})

    service.to_device_handler, service.device_list_handler = to_device, device_lists
    service.otk_handler = key_counts
    await service.start("127.0.0.1", int(port))
    print("receiver: listening", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
