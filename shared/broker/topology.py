"""The exchanges and queues, in one place: nothing else decides what they look like.

Every queue is a durable quorum queue. Dead-lettering is at-least-once, which needs
``overflow=reject-publish``: a full queue refuses (the receiver then spools) and never drops.

| Queue | Holds | Expires or fails into |
|---|---|---|
| ``correio.events`` | one event each, its own bytes | ``correio.dead``, see `DELIVERY_LIMIT` |
| ``correio.callbacks`` | one delivery id each | ``correio.dead``, likewise |
| ``correio.callbacks.delay.<n>s`` | delivery ids not due yet | ``correio.callbacks`` after n s |
| ``correio.dead`` | what a consumer returned too often | picked up into the quarantine |
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import aio_pika
import aiormq
from aio_pika.abc import AbstractChannel, AbstractConnection

from shared.broker.connection import connected
from shared.broker.faults import translated
from shared.config import BrokerConfig, Secret

EVENTS = "correio.events"
CALLBACKS = "correio.callbacks"
DEAD = "correio.dead"

DELAYS: tuple[int, ...] = (1, 5, 15, 60, 300, 900, 3_600, 18_000)
"""The fixed delays in seconds, one queue each: mixed times in one queue would block each other."""

DELIVERY_LIMIT = 100
"""Returns of one message before it is dead-lettered; a killed worker returns all it held."""

MEND_DELAY = 1.0
"""Seconds before a deleted queue is declared again. RabbitMQ 3.10 attaches the consumers of a
quorum queue that is gone to one of the same name made at once, and they never hear of it."""


def delay_queue(seconds: int) -> str:
    """Name of the delay queue of `seconds`; also the routing key that leads into it."""
    return f"{CALLBACKS}.delay.{seconds}s"


def largest_delay(remaining: float) -> int | None:
    """The largest fixed delay that fits into `remaining` seconds; None when none does."""
    return max((delay for delay in DELAYS if delay <= remaining), default=None)


def _quorum(**arguments: Any) -> dict[str, Any]:
    return {"x-queue-type": "quorum", **{k.replace("_", "-"): v for k, v in arguments.items()}}


def _work_queue() -> dict[str, Any]:
    return _quorum(
        x_delivery_limit=DELIVERY_LIMIT,
        x_dead_letter_exchange=DEAD,
        x_dead_letter_strategy="at-least-once",
        x_overflow="reject-publish",
    )


def _delay_queue(seconds: int) -> dict[str, Any]:
    return _quorum(
        x_message_ttl=seconds * 1000,
        x_dead_letter_exchange=CALLBACKS,
        x_dead_letter_routing_key=CALLBACKS,
        x_dead_letter_strategy="at-least-once",
        x_overflow="reject-publish",
    )


QUEUES: Mapping[str, tuple[str, dict[str, Any]]] = MappingProxyType({
    DEAD: (DEAD, _quorum()),
    EVENTS: (EVENTS, _work_queue()),
    CALLBACKS: (CALLBACKS, _work_queue()),
    **{delay_queue(seconds): (CALLBACKS, _delay_queue(seconds)) for seconds in DELAYS},
})  # fmt: skip
"""Queue → (the direct exchange that feeds it, its arguments). The binding key is the queue's name;
the exchange for dead letters is a fanout."""

_LAST = list(QUEUES)[-1]


async def declare(url: Secret | str) -> None:
    """Declare everything on the broker at `url`; doing so again changes nothing.

    Raises:
        BrokerUnavailableError: the broker cannot be reached.
        TopologyError: something stands there already under one of the names, but differently.
    """
    async with translated(), connected(url, within=10) as connection:
        await declare_on(connection)


async def declare_on(connection: AbstractConnection) -> None:
    """Declare everything over an open connection."""
    async with connection.channel() as channel:
        for exchange in (EVENTS, CALLBACKS):
            await channel.declare_exchange(exchange, aio_pika.ExchangeType.DIRECT, durable=True)
        await channel.declare_exchange(DEAD, aio_pika.ExchangeType.FANOUT, durable=True)
        for name, (exchange, arguments) in QUEUES.items():
            queue = await channel.declare_queue(name, durable=True, arguments=arguments)
            await queue.bind(exchange, routing_key=name)


async def require(connection: AbstractConnection, queue: str, config: BrokerConfig) -> None:
    """Make sure that `queue` and its exchange exist, declaring the topology if not and we may.

    So does the queue that is declared last: whoever declared before us may have been broken off.

    Raises:
        aiormq.exceptions.AMQPError: one is missing and may not be declared.
    """
    try:
        await _find(connection, queue)
    except aiormq.exceptions.ChannelNotFoundEntity:
        if not config.declare_missing:
            raise
        await declare_on(connection)


async def _find(connection: AbstractConnection, queue: str) -> None:
    channel: AbstractChannel = await connection.channel()
    try:
        for name in (queue, _LAST):
            await channel.declare_queue(name, passive=True)
        await channel.get_exchange(QUEUES[queue][0], ensure=True)
    finally:
        if not channel.is_closed:
            await channel.close()
