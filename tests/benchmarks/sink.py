"""An endpoint that answers every POST with 200: ``python -m tests.benchmarks.sink PORT``.

``GET /`` tells how many came. It is as lean as can be, since it shares the machine.
"""

import asyncio
import sys
from typing import cast

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Sink(asyncio.Protocol):
    """One connection; requests on it come one after another."""

    count = 0

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, gap, rest = self._got.partition(b"\r\n\r\n")
        if not gap or self._transport is None:
            return
        fields = head.lower()
        at = fields.find(b"content-length:")
        if len(rest) < (int(fields[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0):
            return
        self._got = b""
        if head.startswith(b"GET"):
            text = str(Sink.count).encode()
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)
            )
            return
        Sink.count += 1
        self._transport.write(ANSWER)


async def serve(port: int) -> None:
    await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", port, backlog=1_024)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
