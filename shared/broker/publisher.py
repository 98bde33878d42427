"""Publishing with confirms: a publish returns once the broker answers for every message."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Protocol, cast

import aiormq
from aio_pika.abc import AbstractConnection
from pamqp.commands import Basic

from shared.broker import topology
from shared.broker.burst import PERSISTENT, Burst, Message, fits
from shared.broker.connection import SETUP_TIMEOUT, close, first_of, keep_connected
from shared.broker.faults import LOST, translate, translated
from shared.broker.owned import writer_of
from shared.config import BrokerConfig
from shared.errors import BrokerUnavailableError, TopologyError, UnroutableError
from shared.ids import new_id
from shared.logs import get_logger

log = get_logger(__name__)

LOOK_INTERVAL = 1.0
"""Seconds between two looks at how many messages wait in the queue."""

Outgoing = Message
"""One message to publish; exchange and routing key are names of `topology`."""


class Publisher(Protocol):
    """What those who publish need of the broker."""

    @property
    def connected(self) -> bool:
        """Whether a publish has a chance right now."""
        ...

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """Publish persistent, mandatory messages; return once all are confirmed as routed.

        Put it inside ``asyncio.timeout()``: a frozen broker answers nothing at all. When it
        raises, any of the messages may have arrived all the same.

        Raises:
            BrokerUnavailableError: not connected, or the connection broke meanwhile.
            UnroutableError: the broker returned a message.
            RejectedError: the broker refused one.
        """
        ...


class ConfirmingPublisher:
    """The real publisher: one connection, one channel, kept up by `run`."""

    def __init__(self, config: BrokerConfig, *, name: str, queue: str, looks: bool = False) -> None:
        """`queue` must exist before the publisher counts as connected.

        One that `looks` keeps in mind how many messages wait there.
        """
        self.waiting = 0
        self._looks = looks
        self._config = config
        self._name = name
        self._queue = queue
        self._channel: aiormq.Channel | None = None
        self._burst: Burst | None = None
        self._changed = asyncio.Event()
        self._unroutable = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether a publish has a chance right now."""
        return self._channel is not None

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        await keep_connected(self._config, name=self._name, session=self._serve)

    async def wait_connected(self) -> None:
        """Return once connected."""
        while not self.connected:
            self._changed.clear()
            await self._changed.wait()

    async def _serve(self, connection: AbstractConnection) -> None:
        """Serve publishes until the channel closes."""
        async with asyncio.timeout(SETUP_TIMEOUT):
            await topology.require(connection, self._queue, self._config)
            outer = await connection.channel(publisher_confirms=True, on_return_raises=True)
            channel = cast("aiormq.Channel", await outer.get_underlay_channel())
        writer = writer_of(connection)
        burst = Burst(channel, writer.write) if writer and fits(channel) else None
        if burst is None:
            log.warning("publisher.slow", worker=self._name, reason="aiormq has another shape")
        self._channel, self._burst = channel, burst
        self._changed.set()
        try:
            await first_of(
                channel.closing,
                self._mend(connection),
                *([burst.run()] if burst else []),
                *([self._look(connection)] if self._looks else []),
            )
        finally:
            self._channel = self._burst = None
            self._changed.set()

    async def _look(self, connection: AbstractConnection) -> None:
        """Look how many messages wait, for as long as the connection stands.

        What was seen last stays while the broker does not answer: others find that out.
        """
        while True:
            with contextlib.suppress(BrokerUnavailableError, TopologyError):
                async with translated():
                    channel = await connection.channel(publisher_confirms=False)
                    try:
                        while True:
                            queue = await channel.declare_queue(self._queue, passive=True)
                            self.waiting = queue.declaration_result.message_count or 0
                            await asyncio.sleep(LOOK_INTERVAL)
                    finally:
                        await close(channel)
            await asyncio.sleep(LOOK_INTERVAL)

    async def _mend(self, connection: AbstractConnection) -> None:
        """Put back what a return shows to be missing, for as long as the connection stands."""
        while True:
            self._unroutable.clear()
            await self._unroutable.wait()
            await asyncio.sleep(topology.MEND_DELAY)
            if self._config.declare_missing:
                await topology.declare_on(connection)

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """Publish and await every confirm; see `Publisher.publish`."""
        channel, burst = self._channel, self._burst
        if channel is None:
            raise BrokerUnavailableError("not connected")
        try:
            if burst is not None:
                await burst.publish(messages)
            else:
                async with translated():
                    await self._publish_each(channel, messages)
        except UnroutableError:
            self._unroutable.set()
            raise
        except LOST as error:
            raised = translate(error)
            if isinstance(raised, UnroutableError):
                self._unroutable.set()
            raise raised from error

    async def _publish_each(self, channel: aiormq.Channel, messages: Sequence[Outgoing]) -> None:
        """The documented way."""
        outcomes = await asyncio.gather(
            *(self._publish_one(channel, message) for message in messages), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, asyncio.CancelledError):  # by the closing channel, not by us
                raise BrokerUnavailableError("the channel closed") from outcome
            if isinstance(outcome, BaseException):
                raise outcome

    async def _publish_one(self, channel: aiormq.Channel, message: Outgoing) -> None:
        confirm = await channel.basic_publish(
            message.body,
            exchange=message.exchange,
            routing_key=message.routing_key,
            properties=Basic.Properties(
                delivery_mode=PERSISTENT,
                message_id=new_id(),  # never the event's own id: returns are matched by it
                headers=message.headers,
            ),
            mandatory=True,
            wait=False,
        )
        if not isinstance(confirm, Basic.Ack):
            raise BrokerUnavailableError(f"unexpected confirm: {type(confirm).__name__}")
