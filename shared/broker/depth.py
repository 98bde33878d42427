"""How many messages wait: asked of the broker itself, by passive declaration."""

import asyncio

from msgspec import Struct

from shared.broker import topology
from shared.broker.connection import connected
from shared.broker.faults import translated
from shared.config import Secret
from shared.errors import BrokerUnavailableError


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


async def serves(url: Secret, queue: str, *, connect_timeout: float = 5.0) -> bool:
    """Whether the broker can serve a queue: one that it could not start again reads as empty.

    The queue is asked for a message, which is put back if one comes; so ask only of a queue that
    seems to be empty.

    Raises:
        TopologyError: the queue is missing, or may not be read.
    """
    try:
        async with (
            translated(),
            asyncio.timeout(2 * connect_timeout),
            connected(url, within=connect_timeout) as connection,
        ):
            channel = await connection.channel()
            found = await (await channel.get_queue(queue, ensure=False)).get(fail=False)
            if found is not None:
                await found.nack(requeue=True)
    except BrokerUnavailableError:
        return False
    return True
