"""A receiver inside the test's own process, a broker that does as told, and raw HTTP."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import aio_pika
from msgspec import Struct, structs
from prometheus_client import CollectorRegistry

from receiver.service import LinkedPublisher, Receiver
from receiver.signature import HEADER, sign
from shared.broker import topology
from shared.broker.publisher import Outgoing
from shared.config import BrokerConfig, Config, ReceiverConfig, Secret, SourceConfig
from shared.errors import BrokerUnavailableError, CorreioError

SECRET = "test secret"
SOURCE = SourceConfig(name="klavi", secrets=(Secret(SECRET),))
PATH = "/v1/webhooks/klavi"
PATIENCE = 30.0


class FakeBroker:
    """A publisher that confirms, refuses or hangs, and keeps what it confirmed."""

    def __init__(self) -> None:
        self.connected = True
        self.fault: CorreioError | None = None
        self.frozen = False
        self.attempts = 0
        self.confirmed: list[Outgoing] = []
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        """There is no connection to keep."""
        await asyncio.Event().wait()

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """Do as told."""
        async with self._changed:
            self.attempts += 1
            self._changed.notify_all()
        if self.frozen:
            await asyncio.Event().wait()
        if self.fault is not None:
            raise self.fault
        if not self.connected:
            raise BrokerUnavailableError("not connected")
        async with self._changed:
            self.confirmed.extend(messages)
            self._changed.notify_all()

    async def reached(self, condition: Callable[[], bool]) -> None:
        """Wait until a publish makes the condition true."""
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(condition)

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of what was confirmed, in their order."""
        return [message.body for message in self.confirmed]


def settings(spool: Path, *, broker: str = "", sources: Any = (SOURCE,), **limits: Any) -> Config:
    """A configuration with a free port and quick probes; `limits` are fields of [receiver]."""
    receiver = structs.replace(
        ReceiverConfig(
            port=0, spool=str(spool), spool_min_free_bytes=0, circuit_probe_interval=0.05
        ),
        **limits,
    )
    link = BrokerConfig(url=Secret(broker), reconnect_max=0.3) if broker else BrokerConfig()
    return Config(broker=link, receiver=receiver, source=tuple(sources))


@contextlib.asynccontextmanager
async def running(
    config: Config, publisher: LinkedPublisher | None = None, **options: Any
) -> AsyncIterator[Receiver]:
    """A receiver that listens; it is stopped in good order at the end."""
    receiver = Receiver(config, publisher=publisher, registry=CollectorRegistry(), **options)
    stop = asyncio.Event()
    task = asyncio.create_task(receiver.run(stop))
    try:
        await until(lambda: receiver.server.listening or task.done())
        if task.done():
            task.result()
        yield receiver
    finally:
        stop.set()
        async with asyncio.timeout(PATIENCE):
            await task


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what gives no signal of its own, such as another process's state."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.005)


class Answer(Struct, frozen=True):
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Client:
    """One raw connection to the receiver."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes as they are; a peer that has hung up is no fault of ours."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    async def answer(self, *, body: bool = True) -> Answer:
        """Read one answer."""
        async with asyncio.timeout(PATIENCE):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            fields = (line.split(": ", 1) for line in head[1:] if line)
            headers = {name.lower(): value for name, value in fields}
            length = int(headers.get("content-length", 0)) if body else 0
            content = await self._reader.readexactly(length)
        return Answer(int(head[0].split()[1]), headers, content)

    async def ended(self) -> bytes:
        """Wait until the receiver closes the connection; returns what came before."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""


@contextlib.asynccontextmanager
async def connected(receiver: Receiver) -> AsyncIterator[Client]:
    """A raw connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", receiver.server.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def request(
    body: bytes = b"", *, method: str = "POST", path: str = PATH, **headers: str | None
) -> bytes:
    """The bytes of a signed request. Underscores in header names stand for hyphens.

    A header that is None is left out.
    """
    fields: dict[str, str | None] = {
        "Host": "receiver",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        HEADER: sign(body, SECRET.encode()),
    }
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode() + body


async def ask(receiver: Receiver, data: bytes, *, body: bool = True) -> Answer:
    """Send one request on a connection of its own."""
    async with connected(receiver) as client:
        await client.send(data)
        return await client.answer(body=body)


async def post(receiver: Receiver, body: bytes, **headers: str | None) -> Answer:
    """Send one signed batch."""
    return await ask(receiver, request(body, **headers))


async def take(url: str, count: int) -> list[aio_pika.abc.AbstractIncomingMessage]:
    """Take messages from the events queue until `count` different bodies have come.

    Messages that come twice are returned twice.
    """
    connection = await aio_pika.connect(url, timeout=10)
    async with connection, connection.channel() as channel:
        await channel.set_qos(prefetch_count=500)
        queue = await channel.declare_queue(topology.EVENTS, passive=True)
        found: list[aio_pika.abc.AbstractIncomingMessage] = []
        bodies: set[bytes] = set()
        async with asyncio.timeout(PATIENCE), queue.iterator() as messages:
            while len(bodies) < count:
                message = await anext(messages)
                await message.ack()
                found.append(message)
                bodies.add(message.body)
        return found
