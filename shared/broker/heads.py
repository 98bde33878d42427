"""How old the oldest message of each queue is, whether or not anybody consumes it.

RabbitMQ does not tell this of quorum queues. The message at the head is taken, read and returned
at once. A return counts towards `topology.DELIVERY_LIMIT`, so the head is looked at seldom: the
broker itself says how often a message was returned, and the pause doubles with each time. One
message is thus looked at some twenty times in a month, however many look and however often they
are started anew.
"""

import asyncio
from collections.abc import Iterable

from aio_pika.abc import AbstractChannel
from msgspec import Struct

from shared.broker import headers
from shared.broker.connection import connected
from shared.broker.depth import QueueDepth
from shared.broker.faults import translated
from shared.clock import Clock
from shared.config import BrokerConfig

PAUSE = 5.0
"""Seconds until the head of a queue is looked at again, the message being new to us."""

COUNT = "x-delivery-count"


class Head(Struct, frozen=True):
    """The oldest message of a queue.

    Attributes:
        since: Unix milliseconds since when it waits; None when the message does not say.
        returned: how often it had been returned before.
    """

    since: int | None
    returned: int


class HeadWatch:
    """Remembers the heads, and looks anew when it is time."""

    def __init__(self, config: BrokerConfig, *, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._heads: dict[str, Head] = {}
        self._look_at: dict[str, float] = {}

    async def ages(self, depths: Iterable[QueueDepth]) -> dict[str, float | None]:
        """Seconds that the oldest message of each queue waits: 0 if none does, None if unknown.

        Args:
            depths: the queues as they are now.

        Raises:
            BrokerUnavailableError: the broker cannot be reached, or falls silent.
        """
        ready = {one.name: one.ready for one in depths}
        now = self._clock.monotonic()
        wanted = [name for name in ready if ready[name] and now >= self._look_at.get(name, 0.0)]
        for name in [name for name in ready if not ready[name]] + wanted:
            self._heads.pop(name, None)
            self._look_at.pop(name, None)
        if wanted:
            self._heads |= await heads(self._config, wanted)
        for name in wanted:
            head = self._heads.get(name)
            self._look_at[name] = now + PAUSE * 2 ** (head.returned if head else 0)
        return {name: self._age(name) if ready[name] else 0.0 for name in ready}

    def _age(self, name: str) -> float | None:
        head = self._heads.get(name)
        if head is None or head.since is None:
            return None
        return max(0, self._clock.now() - head.since) / 1000


async def heads(config: BrokerConfig, names: Iterable[str]) -> dict[str, Head]:
    """The heads of these queues; one that is empty meanwhile is absent.

    Raises:
        BrokerUnavailableError: the broker cannot be reached, or falls silent.
    """
    timeout = config.connect_timeout
    async with (
        translated(),
        asyncio.timeout(2 * timeout),
        connected(config.url, within=timeout) as connection,
    ):
        channel = await connection.channel()
        found = {name: await _head(channel, name) for name in names}
    return {name: head for name, head in found.items() if head is not None}


async def _head(channel: AbstractChannel, name: str) -> Head | None:
    queue = await channel.get_queue(name, ensure=False)
    message = await queue.get(no_ack=False, fail=False)
    if message is None:
        return None
    said = message.headers
    await message.reject(requeue=True)
    since = said.get(headers.RECEIVED_AT, said.get(headers.DELAYED_AT))
    returned = said.get(COUNT)
    return Head(
        since if isinstance(since, int) else None,
        returned if isinstance(returned, int) else 0,
    )
