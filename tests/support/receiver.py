"""Receivers in the test's own process and outside of it, and a broker that does as told."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import aio_pika
from msgspec import structs
from prometheus_client import CollectorRegistry

from receiver.service import LinkedPublisher, Receiver
from shared.broker import topology
from shared.broker.publisher import Outgoing
from shared.config import BrokerConfig, Config, ReceiverConfig, Secret, SourceConfig
from shared.errors import BrokerUnavailableError, CorreioError
from tests.support.http import PATIENCE, SECRET

SOURCE = SourceConfig(name="klavi", secrets=(Secret(SECRET),))


class FakeBroker:
    """A publisher that confirms, refuses or hangs, and keeps what it confirmed."""

    def __init__(self) -> None:
        self.connected = True
        self.waiting = 0
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
        while not condition():
            await asyncio.sleep(0.005)


class Spawned:
    """A receiver in a process of its own, which can be measured and killed."""

    def __init__(self, folder: Path, **environment: str) -> None:
        """`environment` are fields of [receiver] or whole CORREIO variables."""
        self._folder = folder
        self._log = folder / "receiver.log"
        fields = {
            name if name.startswith("CORREIO_") else f"CORREIO_RECEIVER__{name.upper()}": value
            for name, value in environment.items()
        }
        self._environment = {
            "CORREIO_CONFIG": str(folder / "correio.toml"),
            "CORREIO_RECEIVER__SPOOL": str(folder / "spool"),
            "CORREIO_RECEIVER__PORT": "0",
            "CORREIO_RECEIVER__SPOOL_MIN_FREE_BYTES": "0",
            "CORREIO_BROKER__URL": "amqp://127.0.0.1:1/",
            **fields,
        }
        self.port = 0
        self.process: asyncio.subprocess.Process | None = None
        (folder / "correio.toml").write_text(
            f'[[source]]\nname = "klavi"\nsecrets = ["{SECRET}"]\n', encoding="utf-8"
        )

    @property
    def pid(self) -> int:
        """The process."""
        assert self.process is not None
        return self.process.pid

    @property
    def text(self) -> str:
        """Its standard error since its start."""
        return self._log.read_text(encoding="utf-8") if self._log.exists() else ""

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it has logged since its start."""
        text = self.text
        whole = text[: text.rfind("\n") + 1].splitlines()
        return [json.loads(line) for line in whole if line.startswith("{")]

    def said(self, event: str) -> list[dict[str, Any]]:
        """The log lines of this event."""
        return [line for line in self.lines if line["event"] == event]

    async def launch(self) -> asyncio.subprocess.Process:
        """Start it."""
        with self._log.open("w") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "receiver",
                env={**os.environ, **self._environment},
                stderr=log,
            )
        return self.process

    async def start(self) -> None:
        """Start it and wait until it listens."""
        process = await self.launch()
        await until(lambda: bool(self.said("receiver.listening")) or process.returncode is not None)
        assert process.returncode is None, self.text
        self.port = self.said("receiver.listening")[-1]["port"]
        self._environment["CORREIO_RECEIVER__PORT"] = str(self.port)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it by a signal; returns its exit status."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def spawned(folder: Path, **environment: str) -> AsyncIterator[Spawned]:
    """A receiver process that listens; it is killed at the end if it still runs."""
    process = Spawned(folder, **environment)
    try:
        await process.start()
        yield process
    finally:
        if process.process is not None and process.process.returncode is None:
            await process.end(signal.SIGKILL)


async def take(url: str, wanted: Collection[bytes]) -> list[aio_pika.abc.AbstractIncomingMessage]:
    """Take messages from the events queue until every wanted body has come at least once."""
    connection = await aio_pika.connect(url, timeout=10)
    async with connection, connection.channel() as channel:
        await channel.set_qos(prefetch_count=500)
        queue = await channel.declare_queue(topology.EVENTS, passive=True)
        found: list[aio_pika.abc.AbstractIncomingMessage] = []
        missing = set(wanted)
        async with asyncio.timeout(PATIENCE), queue.iterator() as messages:
            while missing:
                message = await anext(messages)
                await message.ack()
                found.append(message)
                missing.discard(message.body)
        return found
