"""How many messages wait: asked of the broker itself, by passive declaration."""

import asyncio

from msgspec import Struct

from shared.broker import topology
from shared.broker.connection import connected
from shared.broker.faults import translated
from shared.config import Secret


class QueueDepth(Struct, frozen=True):
    """Messages ready for delivery, and how many consumers stand ready to take them."""

    name: str
    ready: int
    consumers: int


async def depths(url: Secret, *, connect_timeout: float = 5.0) -> list[QueueDepth]:
    """The depth of each of our queues.

    Raises:
        BrokerUnavailableError: the broker cannot be reached, or falls silent for twice
            `connect_timeout` seconds.
        TopologyError: a queue is missing.
    """
    async with (
        translated(),
        asyncio.timeout(2 * connect_timeout),
        connected(url, within=connect_timeout) as connection,
    ):
        channel = await connection.channel()
        found: list[QueueDepth] = []
        for name in topology.QUEUES:
            queue = await channel.declare_queue(name, passive=True)
            result = queue.declaration_result
            found.append(QueueDepth(name, result.message_count or 0, result.consumer_count or 0))
        return found
