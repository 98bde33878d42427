"""Sends signed batches as fast as they are answered, or at a given rate: a process of its own.

``python -m tests.benchmarks.load --port P --batch 10 --seconds 5`` prints one JSON line.
Requests are made before the clock starts. At a given rate a request's time counts from when it
was due, so that a server that stalls cannot hide what it kept waiting.
"""

import argparse
import asyncio
import json
import time
from collections import deque
from typing import cast

import uvloop

from tests.benchmarks import traffic

DISTINCT = 4_000
"""Events that are sent again and again where nobody processes them."""


class Connection(asyncio.Protocol):
    """One keep-alive connection with one request at a time under way."""

    def __init__(self, load: "Load") -> None:
        self.load = load
        self.since = 0.0
        self.transport: asyncio.Transport | None = None
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, gap, rest = self._got.partition(b"\r\n\r\n")
        if not gap:
            return
        fields = head.lower()
        at = fields.find(b"content-length:")
        length = int(fields[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(rest) < length:
            return
        self._got = b""
        self.load.answered(self, int(head[9:12]))

    def connection_lost(self, _exc: Exception | None) -> None:
        self.load.lost += 1

    def send(self, data: bytes, *, since: float) -> None:
        self.since = since
        assert self.transport is not None
        self.transport.write(data)


class Load:
    """All connections, and what was measured."""

    def __init__(self, requests: list[bytes], *, once: bool, batch: int) -> None:
        self.requests = requests
        self.batch = batch
        self.once = once
        self.sent = self.accepted = self.lost = 0
        self.refused: dict[int, int] = {}
        self.latencies: list[float] = []
        self.free: deque[Connection] = deque()
        self.due: deque[float] = deque()
        self.counting = self.paced = False
        self.cpu = self.started = 0.0
        self.over = asyncio.Event()

    def answered(self, connection: Connection, status: int) -> None:
        now = time.perf_counter()
        if status == 200:
            if self.counting:
                self.accepted += 1
                self.latencies.append(now - connection.since)
        else:
            self.refused[status] = self.refused.get(status, 0) + 1
        if self.paced:
            if self.due:
                self._next(connection, since=self.due.popleft())
            else:
                self.free.append(connection)
        else:
            self._next(connection, since=now)

    def _next(self, connection: Connection, *, since: float) -> None:
        if self.once and self.sent >= len(self.requests):
            self.free.append(connection)
            if len(self.free) >= self.open:
                self.over.set()
            return
        if connection.transport is None or connection.transport.is_closing():
            return  # counted as lost
        connection.send(self.requests[self.sent % len(self.requests)], since=since)
        self.sent += 1

    async def connect(self, port: int, count: int) -> list[Connection]:
        loop = asyncio.get_running_loop()
        made = []
        for _ in range(count):
            _, connection = await loop.create_connection(
                lambda: Connection(self), "127.0.0.1", port
            )
            made.append(connection)
        self.open = count
        return made

    async def flood(self, made: list[Connection], *, warm: float, seconds: float) -> float:
        """Every connection sends its next request at once; returns the seconds that it took."""
        began = self._start() if self.once else 0.0
        for connection in made:
            self._next(connection, since=time.perf_counter())
        if self.once:
            await self.over.wait()
            return time.perf_counter() - began
        await asyncio.sleep(warm)
        began = self._start()
        await asyncio.sleep(seconds)
        self.counting = False
        return time.perf_counter() - began

    def _start(self) -> float:
        """Start the clock, and say so."""
        self.counting = True
        print("go", flush=True)
        self.cpu = time.process_time()
        self.started = time.time()
        return time.perf_counter()

    async def pace(
        self, made: list[Connection], *, rate: float, warm: float, seconds: float
    ) -> float:
        """`rate` requests a second, each at its own time."""
        self.paced = True
        self.free.extend(made)
        began = time.perf_counter()
        number = 0
        while (now := time.perf_counter()) < began + warm + seconds:
            if not self.counting and now >= began + warm:
                self._start()
            while began + number / rate <= now:
                since = began + number / rate
                if self.free:
                    self._next(self.free.popleft(), since=since)
                else:
                    self.due.append(since)
                number += 1
            await asyncio.sleep(0.001)
        self.counting = False
        return seconds


def quantile(values: list[float], share: float) -> float:
    """In milliseconds."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] * 1000 if values else 0.0


async def run(options: argparse.Namespace) -> dict[str, object]:
    made = traffic.events(options.events or options.distinct, seed=options.seed)
    requests = [traffic.request(body) for body in traffic.batches(made, options.batch)]
    load = Load(requests, once=bool(options.events), batch=options.batch)
    connections = await load.connect(options.port, options.connections)
    if options.rate:
        seconds = await load.pace(
            connections, rate=options.rate, warm=options.warm, seconds=options.seconds
        )
    else:
        seconds = await load.flood(connections, warm=options.warm, seconds=options.seconds)
    return {
        "started": load.started,
        "seconds": seconds,
        "requests": load.accepted,
        "rate": load.accepted * options.batch / seconds,
        "p50": quantile(load.latencies, 0.5),
        "p99": quantile(load.latencies, 0.99),
        "refused": load.refused,
        "lost": load.lost,
        "cpu": time.process_time() - load.cpu,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--warm", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=0.0, help="requests/s; 0: as many as go")
    parser.add_argument("--events", type=int, default=0, help="send so many, each once, then end")
    parser.add_argument("--distinct", type=int, default=DISTINCT, help="then they come again")
    parser.add_argument("--seed", type=int, default=1)
    print(json.dumps(uvloop.run(run(parser.parse_args()))), flush=True)


if __name__ == "__main__":
    main()
