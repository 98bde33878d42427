"""Consuming in batches: a callback only collects, `take` hands out what is at hand."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import aiormq.abc
from aio_pika.abc import AbstractConnection

from shared.broker import headers, topology
from shared.broker.connection import SETUP_TIMEOUT, close, first_of, keep_connected
from shared.broker.faults import LOST
from shared.broker.feed import Delivered, feed_of
from shared.config import BrokerConfig
from shared.errors import BrokerUnavailableError

RENEWAL = 3.0
"""Seconds of silence after which a consumer subscribes anew: a broker may lose a consumer without
a word. RabbitMQ 3.10 does when a queue is deleted and made again at once; it then counts messages
as delivered that nobody got, so that nothing but the silence tells."""


Received = Delivered
"""One message as the broker delivered it."""


class Batch:
    """Messages taken together, oldest first, all from one channel."""

    def __init__(self, messages: Sequence[Received], subscription: "_Subscription | None") -> None:
        self.messages = messages
        self._subscription = subscription

    @property
    def lost(self) -> bool:
        """Whether its channel has gone: the broker delivers all of it again."""
        return self._subscription is None or self._subscription.lost

    async def ack(self) -> None:
        """Acknowledge all of them, and with them every earlier message of the channel.

        When the channel has gone meanwhile this does nothing: the broker delivers them again,
        which is why work must be idempotent.

        Raises:
            RuntimeError: an earlier message is not settled; acknowledging these would lose it.
        """
        if self._subscription is not None and self.messages:
            await self._subscription.ack(self.messages[0].tag, self.messages[-1].tag)


class _Subscription:
    """One consumer on one channel, and how far its messages are settled."""

    def __init__(self, channel: aiormq.abc.AbstractChannel) -> None:
        self._channel = channel
        self._delivered = 0
        self._acked = 0
        self._still = True
        self.lost = False
        self.in_hand: deque[Received] = deque()

    def delivered(self, message: Received) -> None:
        self._delivered = message.tag
        self._still = False
        self.in_hand.append(message)

    async def ack(self, first: int, tag: int) -> None:
        if self.in_hand and self.in_hand[0].tag < first:
            raise RuntimeError(f"message {first} before {self.in_hand[0].tag}: it would be lost")
        self._acked = tag
        while self.in_hand and self.in_hand[0].tag <= tag:
            self.in_hand.popleft()
        with contextlib.suppress(*LOST):
            await self._channel.basic_ack(tag, multiple=True, wait=False)

    async def idle(self) -> None:
        """Return after `RENEWAL` seconds without a message and with none unsettled."""
        while True:
            self._still = True
            await asyncio.sleep(RENEWAL)
            if self._still and self._acked == self._delivered:
                return


class BatchConsumer:
    """Consumes one queue over a connection of its own, kept up by `run`.

    Batches must be settled in the order in which they were taken, since an acknowledgement
    covers everything before it.
    """

    def __init__(self, config: BrokerConfig, *, name: str, queue: str, prefetch: int) -> None:
        """`prefetch` bounds the messages held unacknowledged."""
        self._config = config
        self._name = name
        self.queue = queue
        self._prefetch = prefetch
        self._buffer: deque[Received] = deque()
        self._arrived = asyncio.Event()
        self._subscription: _Subscription | None = None

    @property
    def consuming(self) -> bool:
        """Whether the broker delivers to us right now."""
        return self._subscription is not None

    @property
    def unacknowledged(self) -> int:
        """Messages delivered to us and not settled yet."""
        return 0 if self._subscription is None else len(self._subscription.in_hand)

    def oldest(self, now: int) -> int | None:
        """When the receiver had the oldest of them, in Unix milliseconds; None without any.

        A message that does not say so, such as a callback's, counts as received `now`.
        """
        if self._subscription is None or not self._subscription.in_hand:
            return None
        said = self._subscription.in_hand[0].headers.get(headers.RECEIVED_AT)
        return said if isinstance(said, int) else now

    async def run(self) -> None:
        """Keep consuming until cancelled."""
        await keep_connected(self._config, name=self._name, session=self._serve, fed=True)

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
        return Batch(messages, self._subscription)

    def take_full(self, *, limit: int) -> Batch | None:
        """As many messages as `limit` says, if so many are at hand now."""
        if len(self._buffer) < limit:
            return None
        return Batch([self._buffer.popleft() for _ in range(limit)], self._subscription)

    async def take_until(self, stop: asyncio.Event, *, limit: int, linger: float) -> Batch | None:
        """Like `take`, but None once `stop` is set while there was nothing to take."""
        take = asyncio.ensure_future(self.take(limit=limit, linger=linger))
        await first_of(stop.wait(), asyncio.shield(take))
        if take.done():
            return take.result()
        take.cancel()
        return None

    async def _serve(self, connection: AbstractConnection) -> None:
        """Consume over this connection until it, or the consumer on it, is lost."""
        async with asyncio.timeout(SETUP_TIMEOUT):
            await topology.require(connection, self.queue, self._config)
        while True:
            await self._consume(connection)

    async def _consume(self, connection: AbstractConnection) -> None:
        """Consume on a channel of its own; returns when it has been silent for long.

        Raises:
            BrokerUnavailableError: the channel, or the consumer on it, was lost.
        """
        async with asyncio.timeout(SETUP_TIMEOUT):
            outer = await connection.channel(publisher_confirms=False)
            channel = await outer.get_underlay_channel()
            await channel.basic_qos(prefetch_count=self._prefetch)
        cancelled = asyncio.Event()
        subscription = _Subscription(channel)

        def collect(received: Received) -> None:
            if self._subscription is not subscription:
                return  # of a channel that has gone: its number means another message by now
            subscription.delivered(received)
            self._buffer.append(received)
            self._arrived.set()

        feed = feed_of(connection)
        if feed is not None:
            feed.tap(channel.number, collect)
        channel.on_consumer_cancel_callbacks.add(lambda _frame: cancelled.set())
        self._subscription = subscription
        lost_consumer = asyncio.ensure_future(first_of(channel.closing, cancelled.wait()))
        try:
            async with asyncio.timeout(SETUP_TIMEOUT):
                await channel.basic_consume(self.queue, ordinary(collect))
            await first_of(lost_consumer, subscription.idle())
            if lost_consumer.done() and not lost_consumer.cancelled():
                raise BrokerUnavailableError("the consumer was lost")
        finally:
            self._subscription = None
            subscription.lost = True
            self._buffer.clear()
            await close(outer)


def ordinary(
    collect: Callable[[Received], None],
) -> Callable[[aiormq.abc.DeliveredMessage], Coroutine[Any, Any, None]]:
    """What aiormq calls for a delivery that no feed has taken."""

    async def called(message: aiormq.abc.DeliveredMessage) -> None:
        collect(
            Received(
                message.body,
                message.header.properties.headers or {},
                message.delivery_tag or 0,
                bool(message.redelivered),
            )
        )

    return called
