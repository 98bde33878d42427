"""The limit of publishing: frames made beforehand, on a bare socket, with confirms.

``python -m tests.benchmarks.limits.raw_publish --url amqp://… --seconds 5`` prints one JSON line.
The messages are those that the receiver publishes: persistent, mandatory, with its headers.
"""

import argparse
import json
import select
import socket
import struct
import time
from urllib.parse import unquote, urlsplit

from aiormq.abc import ChannelFrame
from pamqp import commands, frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from receiver.batch import Batch
from receiver.outlet import messages_of
from shared.ids import new_id
from tests.benchmarks import traffic

WINDOW = 500
_ACK = struct.Struct("!BHIHHQB")  # type, channel, size, class, method, tag, multiple


class Link:
    """A blocking AMQP connection that can do just this."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname or "", parts.port or 5672))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._got = b""
        self.socket.sendall(b"AMQP\x00\x00\x09\x01")
        self._expect()
        login = f"\0{parts.username}\0{parts.password}".encode()
        self._send(0, commands.Connection.StartOk(mechanism="PLAIN", response=login.decode()))
        tune = self._expect()
        self._send(0, commands.Connection.TuneOk(
            channel_max=tune.channel_max, frame_max=tune.frame_max, heartbeat=0,
        ))  # fmt: skip
        self._send(0, commands.Connection.Open(virtual_host=unquote(parts.path[1:]) or "/"))
        self._expect()
        self._send(1, commands.Channel.Open())
        self._expect()
        self._send(1, commands.Confirm.Select())
        self._expect()

    def _send(self, channel: int, method: object) -> None:
        self.socket.sendall(frame.marshal(method, channel))

    def _expect(self) -> commands.Connection.Tune:
        while True:
            try:
                count, _, got = frame.unmarshal(self._got)
            except Exception:  # noqa: BLE001 - pamqp says so when a frame is not whole
                self._got += self.socket.recv(65_536)
                continue
            self._got = self._got[count:]
            if not isinstance(got, Heartbeat):
                return got

    def flood(
        self, pieces: list[bytes], *, warm: float, seconds: float
    ) -> tuple[int, float, float]:
        """Confirmed messages, the seconds that they took, and those of our own CPU."""
        self.socket.setblocking(False)
        sent = 0
        tally = Tally()
        began = time.perf_counter()
        start, end = began + warm, began + warm + seconds
        first, used, out, got = 0, 0.0, b"", b""
        while (now := time.perf_counter()) < end:
            if now >= start and not first:
                print("go", flush=True)
                first, start, used = tally.count, now, time.process_time()
            room = WINDOW - (sent - tally.count)
            if room > 0 and len(out) < 65_536:
                out += b"".join(pieces[(sent + at) % len(pieces)] for at in range(room))
                sent += room
            readable, writable, _ = select.select(
                [self.socket], [self.socket] if out else [], [], 1
            )
            if writable:
                out = out[self.socket.send(out) :]
            if readable:
                got += self.socket.recv(65_536)
                got = tally.read(got)
        took = time.perf_counter() - start
        return tally.count - first, took, time.process_time() - used


class Tally:
    """Counts what is confirmed: one by one or all up to a tag, and not always in order."""

    def __init__(self) -> None:
        self._all_up_to = 0
        self._beyond: set[int] = set()

    @property
    def count(self) -> int:
        return self._all_up_to + len(self._beyond)

    def _confirmed(self, tag: int, *, multiple: int) -> None:
        if multiple:
            self._beyond = {one for one in self._beyond if one > tag}
            self._all_up_to = max(self._all_up_to, tag)
        elif tag != self._all_up_to + 1:
            self._beyond.add(tag)
            return
        else:
            self._all_up_to = tag
        while self._beyond and self._all_up_to + 1 in self._beyond:
            self._all_up_to += 1
            self._beyond.remove(self._all_up_to)

    def read(self, got: bytes) -> bytes:
        """Count the whole frames in these bytes; return what is left of them."""
        return got[self._read(got) :]

    def _read(self, got: bytes) -> int:
        at = 0
        while len(got) - at >= 7:
            size = int.from_bytes(got[at + 3 : at + 7], "big")
            if len(got) - at < size + 8:
                break
            if got[at] == 1:
                _, _, _, kind, method, tag, multiple = _ACK.unpack_from(got, at)
                if (kind, method) != (60, 80):
                    raise RuntimeError(f"unexpected method {kind}.{method}")
                self._confirmed(tag, multiple=multiple)
            at += size + 8
        return at


def pieces(count: int) -> list[bytes]:
    """Each message as the bytes of its frames."""
    batch = Batch(
        id=new_id(), source="klavi", received_at=1_700_000_000_000,
        traceparent=f"00-{'a' * 32}-{'b' * 16}-00", events=tuple(traffic.events(count)),
    )  # fmt: skip
    made = []
    for message in messages_of(batch):
        properties = commands.Basic.Properties(
            delivery_mode=2, message_id=new_id(), headers=message.headers
        )
        made.append(ChannelFrame.marshall(channel_number=1, frames=[
            commands.Basic.Publish(
                exchange=message.exchange, routing_key=message.routing_key, mandatory=True
            ),
            ContentHeader(body_size=len(message.body), properties=properties),
            ContentBody(message.body),
        ]).payload)  # fmt: skip
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--warm", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    made = pieces(1_000)
    link = Link(options.url)
    count, seconds, cpu = link.flood(made, warm=options.warm, seconds=options.seconds)
    print(json.dumps({"rate": count / seconds, "seconds": seconds, "cpu": cpu}), flush=True)


if __name__ == "__main__":
    main()
