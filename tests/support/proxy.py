"""A TCP proxy of ours between two processes: passes everything on until it is told otherwise."""

import asyncio
import contextlib
import enum
import socket
import struct
from collections.abc import Iterator
from typing import Self

from msgspec import Struct

from deploy.local.rabbitmq import free_port

CHUNK = 65_536
HOST = "127.0.0.1"


class Way(enum.Enum):
    """Which direction bytes take: `UP` towards what the proxy stands before."""

    UP = "up"
    DOWN = "down"


BOTH = frozenset(Way)


class Weather(Struct, frozen=True):
    """What happens to bytes on their way.

    Attributes:
        held: directions in which nothing is read: both ends stand, and what was sent arrives
            once this is over.
        lost: directions in which everything vanishes; such a connection is reset in the end.
        delay: seconds that each piece is late.
        rate: bytes/s of each connection and direction; None for no bound.
        quota: bytes that each connection may send up before it is reset; None for no bound.
    """

    held: frozenset[Way] = frozenset()
    lost: frozenset[Way] = frozenset()
    delay: float = 0.0
    rate: float | None = None
    quota: int | None = None


FAIR = Weather()


class _Pair:
    """One connection through the proxy: its two ends."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.sent = 0
        self.spoilt = False
        self.severed = False

    def reset(self) -> None:
        """Both ends see a connection reset."""
        self.severed = False
        for end in (self.client, self.server):
            _reset(end)


class Proxy:
    """One port of the loopback interface in front of another."""

    def __init__(self, target: int, *, port: int = 0) -> None:
        """`target`: the port that is stood before."""
        self.target = target
        self.port = port or free_port()
        self.weather = FAIR
        self.accepted = 0
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._refuse()
        self.reset()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def open(self) -> int:
        """Connections that stand."""
        return len(self._pairs)

    def reset(self) -> None:
        """Reset every connection that stands; new ones pass."""
        for pair in list(self._pairs):
            pair.reset()

    def sever(self) -> None:
        """The far ends vanish and the clients hear nothing: their connections stand, silent."""
        for pair in list(self._pairs):
            pair.severed = True
            _reset(pair.server)

    def desert(self) -> None:
        """The clients vanish and the far ends hear nothing: their connections stand, silent."""
        for pair in list(self._pairs):
            pair.severed = True
            _reset(pair.client)

    @contextlib.contextmanager
    def under(self, weather: Weather) -> Iterator[None]:
        """Let this weather rule for the length of the block."""
        self._set(weather)
        try:
            yield
        finally:
            self._set(FAIR)
            for pair in list(self._pairs):
                if pair.spoilt:
                    pair.reset()

    @contextlib.asynccontextmanager
    async def cut(self):
        """Reset every connection and refuse new ones, for the length of the block."""
        self._refuse()
        self.reset()
        try:
            yield
        finally:
            await self._listen()

    def _set(self, weather: Weather) -> None:
        self.weather = weather
        self._changed.set()
        self._changed = asyncio.Event()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, HOST, self.port)

    def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._connect(reader, writer)
        finally:
            _reset(writer)
            self._tasks.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._gate(Way.UP)
        far_reader, far_writer = await asyncio.open_connection(HOST, self.target)
        pair = _Pair(writer, far_writer)
        self._pairs.add(pair)
        self.accepted += 1
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(pair, reader, far_writer, Way.UP))
                group.create_task(self._pump(pair, far_reader, writer, Way.DOWN))
        finally:
            self._pairs.discard(pair)
            pair.reset()

    async def _gate(self, way: Way) -> None:
        while way in self.weather.held:
            await self._changed.wait()

    async def _pump(
        self,
        pair: _Pair,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        way: Way,
    ) -> None:
        """Pass one direction on until it ends."""
        with contextlib.suppress(OSError):
            while True:
                await self._gate(way)
                data = await source.read(CHUNK)
                if not data:
                    break
                await self._pass(pair, data, sink, way)
        if pair.severed:
            # The end that is left must not notice: keep it until the proxy ends or it gives up.
            await self._outlast(pair, source)
        elif not sink.is_closing():
            with contextlib.suppress(OSError):
                sink.write_eof()

    async def _outlast(self, pair: _Pair, source: asyncio.StreamReader) -> None:
        left = pair.server if pair.client.is_closing() else pair.client
        with contextlib.suppress(OSError):
            while not left.is_closing() and not source.at_eof() and await source.read(CHUNK):
                pass
        while pair.severed and not left.is_closing():
            await asyncio.sleep(0.1)

    async def _pass(self, pair: _Pair, data: bytes, sink: asyncio.StreamWriter, way: Way) -> None:
        await self._gate(way)
        weather = self.weather
        if weather.delay:
            await asyncio.sleep(weather.delay)
        if way in weather.lost:
            pair.spoilt = True
            return
        if way is Way.UP and weather.quota is not None:
            left = weather.quota - pair.sent
            pair.sent += len(data)
            if len(data) > left:
                sink.write(data[: max(0, left)])
                with contextlib.suppress(OSError):
                    await sink.drain()
                pair.reset()
                return
        if weather.rate is None:
            sink.write(data)
            await sink.drain()
            return
        piece = max(1, int(weather.rate / 20))
        for start in range(0, len(data), piece):
            rate = self.weather.rate
            sink.write(data[start : start + piece])
            await sink.drain()
            if rate is not None:
                await asyncio.sleep(piece / rate)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a reset instead of a farewell."""
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None and not writer.is_closing():
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Links:
    """Several proxies as one: the same thing happens on each."""

    def __init__(self, **proxies: Proxy) -> None:
        self.by_role = proxies

    def __getitem__(self, role: str) -> Proxy:
        return self.by_role[role]

    @property
    def _all(self) -> list[Proxy]:
        return list(self.by_role.values())

    def only(self, *roles: str) -> "Links":
        """Those of some roles."""
        return Links(**{role: self.by_role[role] for role in roles})

    def reset(self) -> None:
        """See `Proxy.reset`."""
        for one in self._all:
            one.reset()

    def sever(self) -> None:
        """See `Proxy.sever`."""
        for one in self._all:
            one.sever()

    def desert(self) -> None:
        """See `Proxy.desert`."""
        for one in self._all:
            one.desert()

    @contextlib.contextmanager
    def under(self, weather: Weather) -> Iterator[None]:
        """See `Proxy.under`."""
        with contextlib.ExitStack() as stack:
            for one in self._all:
                stack.enter_context(one.under(weather))
            yield

    @contextlib.asynccontextmanager
    async def cut(self):
        """See `Proxy.cut`."""
        async with contextlib.AsyncExitStack() as stack:
            for one in self._all:
                await stack.enter_async_context(one.cut())
            yield
