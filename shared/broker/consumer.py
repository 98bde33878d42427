"""Consuming in batches: a callback only collects, `take` hands out what is at hand."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import aiormq.abc
from aio_pika.abc import AbstractConnection
from msgspec import Struct

from shared.broker import topology
from shared.broker.connection import first_of, keep_connected, lost
from shared.broker.faults import LOST
from shared.config import BrokerConfig
from shared.errors import BrokerUnavailableError


class Received(Struct, frozen=True):
    """One message as the broker delivered it."""

    body: bytes
    headers: Mapping[str, Any]
    tag: int
    redelivered: bool


class Batch:
    """Messages taken together, oldest first, all from one channel."""

    def __init__(
        self, messages: Sequence[Received], channel: aiormq.abc.AbstractChannel | None
    ) -> None:
        self.messages = messages
        self._channel = channel

    async def ack(self) -> None:
        """Acknowledge all of them, and with them every earlier message of the channel.

        When the channel has gone meanwhile this does nothing: the broker delivers them again,
        which is why work must be idempotent.
        """
        if self._channel is None or not self.messages:
            return
        with contextlib.suppress(*LOST):
            await self._channel.basic_ack(self.messages[-1].tag, multiple=True, wait=False)


class BatchConsumer:
    """Consumes one queue over a connection of its own, kept up by `run`.

    Batches must be settled in the order in which they were taken, since an acknowledgement
    covers everything before it.
    """

    def __init__(self, config: BrokerConfig, *, name: str, queue: str, prefetch: int) -> None:
        """`prefetch` bounds the messages held unacknowledged."""
        self._config = config
        self._name = name
        self._queue = queue
        self._prefetch = prefetch
        self._buffer: deque[Received] = deque()
        self._arrived = asyncio.Event()
        self._channel: aiormq.abc.AbstractChannel | None = None
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._unwanted = asyncio.Event()

    @property
    def consuming(self) -> bool:
        """Whether the broker delivers to us right now."""
        return self._channel is not None

    @property
    def buffered(self) -> int:
        """Messages delivered and not yet taken."""
        return len(self._buffer)

    async def run(self) -> None:
        """Keep consuming until cancelled."""
        await keep_connected(self._config, name=self._name, session=self._serve)

    def pause(self) -> None:
        """Give everything not yet taken back to the broker and take no more until `resume`."""
        self._wanted.clear()
        self._unwanted.set()

    def resume(self) -> None:
        """Consume again after `pause`."""
        self._unwanted.clear()
        self._wanted.set()

    async def take(self, *, limit: int, linger: float) -> Batch:
        """Wait for a message, then return what is at hand within `linger` seconds.

        Returns at most `limit` messages, and at least one.
        """
        while not self._buffer:
            self._arrived.clear()
            await self._arrived.wait()
        if len(self._buffer) < limit and linger:
            await asyncio.sleep(linger)
        messages = [self._buffer.popleft() for _ in range(min(limit, len(self._buffer)))]
        if not messages:  # the channel closed while we lingered and took its messages along
            return await self.take(limit=limit, linger=linger)
        return Batch(messages, self._channel)

    async def _serve(self, connection: AbstractConnection) -> None:
        """Consume over this connection until it, or the consumer on it, is lost."""
        await topology.require(connection, self._queue, self._config)
        while True:
            await first_of(self._wanted.wait(), lost(connection))
            if not self._wanted.is_set():
                return
            await self._consume(connection)

    async def _consume(self, connection: AbstractConnection) -> None:
        """Consume on a channel of its own; returns when it is lost, or no longer wanted."""
        outer = await connection.channel(publisher_confirms=False)
        channel = await outer.get_underlay_channel()
        cancelled = asyncio.Event()

        async def collect(message: aiormq.abc.DeliveredMessage) -> None:
            self._buffer.append(
                Received(
                    message.body,
                    message.header.properties.headers or {},
                    message.delivery_tag or 0,
                    bool(message.redelivered),
                )
            )
            self._arrived.set()

        channel.on_consumer_cancel_callbacks.add(lambda _frame: cancelled.set())
        await channel.basic_qos(prefetch_count=self._prefetch)
        self._channel = channel
        try:
            await channel.basic_consume(self._queue, collect)
            await first_of(channel.closing, cancelled.wait(), self._unwanted.wait())
            if self._wanted.is_set():
                raise BrokerUnavailableError("the consumer was lost")
        finally:
            self._channel = None
            self._buffer.clear()
            with contextlib.suppress(*LOST):
                async with asyncio.timeout(1):
                    await outer.close()
