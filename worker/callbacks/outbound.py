"""Messages that stand for deliveries: what they look like and how they get to the broker."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

from shared.broker import headers, topology
from shared.broker.publisher import Outgoing, Publisher
from shared.errors import BrokerUnavailableError, RejectedError, UnroutableError
from shared.logs import get_logger
from worker.callbacks import metrics
from worker.callbacks.means import Means

log = get_logger(__name__)

PUBLISH_TIMEOUT: Final = 5.0
"""Seconds that the broker has to confirm a group of messages."""


def message_for(delivery_id: str, *, due: int, now: int) -> Outgoing | None:
    """The message that stands for a delivery; its body is the id, nothing else.

    Args:
        delivery_id: the delivery.
        due: when it is due, in Unix milliseconds; what is due goes straight to the work queue,
            the rest to the largest fixed delay that fits.
        now: Unix milliseconds.

    Returns:
        None when it is due so soon that no delay fits: the store's own clock wakes it.
    """
    remaining = (due - now) / 1000
    if remaining <= 0:
        return Outgoing(delivery_id.encode(), topology.CALLBACKS, topology.CALLBACKS)
    delay = topology.largest_delay(remaining)
    if delay is None:
        return None
    key = topology.delay_queue(delay)
    return Outgoing(delivery_id.encode(), topology.CALLBACKS, key, {headers.DELAYED_AT: now})


async def publish(publisher: Publisher, messages: Iterable[Outgoing]) -> bool:
    """Publish and say whether the broker has confirmed every message."""
    group = list(messages)
    if not group:
        return True
    try:
        async with asyncio.timeout(PUBLISH_TIMEOUT):
            await publisher.publish(group)
    except (BrokerUnavailableError, UnroutableError, RejectedError, TimeoutError) as error:
        metrics.RELAY_FAILURES.inc()
        log.warning("relay.failed", count=len(group), error_type=type(error).__name__)
        return False
    due = sum(message.routing_key == topology.CALLBACKS for message in group)
    metrics.RELAYED.labels("work").inc(due)
    metrics.RELAYED.labels("delay").inc(len(group) - due)
    return True


async def delay(means: Means, due: Mapping[str, int]) -> bool:
    """Let deliveries come back when they are due: through delay queues, the store behind them.

    Args:
        means: the worker's.
        due: delivery id → when it is due, in Unix milliseconds.

    Returns:
        Whether the broker took its part; else the store wakes them all.

    Raises:
        StoreUnavailableError: they come back all the same, when their wake time passes.
        StoreConflictError: likewise.
    """
    now, grace = means.clock.now(), round(means.config.wake_grace * 1000)
    messages: dict[str, Outgoing] = {}
    for one, at in due.items():
        message = message_for(one, due=at, now=now)
        if message is not None:
            messages[one] = message
    published = await publish(means.publisher, messages.values())
    behind = {one: due[one] + grace for one in messages} if published else {}
    await means.store.park({**due, **behind})
    return published
