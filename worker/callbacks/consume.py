"""From the broker to the lanes: every message is settled as soon as it is understood.

No message is held while an endpoint is waited for. A delivery whose message has been
acknowledged is safe all the same: its wake time stands in the store.
"""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final, Protocol

from shared.broker.connection import first_of
from shared.broker.consumer import BatchConsumer
from shared.errors import TRANSIENT
from shared.logs import get_logger
from shared.store.rows import DeliveryState, Standing
from worker.callbacks import metrics
from worker.callbacks.lanes import Lanes, Waiting, parked_wake
from worker.callbacks.means import Means
from worker.callbacks.outbound import delay

log = get_logger(__name__)

LINGER: Final = 0.002
"""Seconds for which a batch waits for company."""

ID: Final = re.compile(rb"[0-9A-Za-z-]+")

ID_MAX: Final = 64
"""Bytes of a delivery id at the most; ours have 36."""

OPEN_STATES: Final = (DeliveryState.PENDING, DeliveryState.RETRYING)


class Holder(Protocol):
    """Says which endpoints get nothing at present, and holds what waits for them."""

    def may_call(self, endpoint: str) -> bool:
        """Whether the endpoint is configured and enabled."""
        ...

    def hold_soon(self, endpoint: str) -> None:
        """Have the deliveries of an endpoint held."""
        ...


class Intake:
    """Takes messages and puts their deliveries where they belong."""

    def __init__(
        self,
        consumer: BatchConsumer,
        means: Means,
        *,
        lanes: Lanes,
        holder: Holder,
        work: asyncio.Event,
    ) -> None:
        """`work` is set when a lane has something new."""
        self._consumer = consumer
        self._means = means
        self._lanes = lanes
        self._holder = holder
        self._work = work

    async def run(self, stop: asyncio.Event) -> None:
        """Take batches until `stop` is set."""
        while not stop.is_set():
            batch = await self._consumer.take_until(
                stop, limit=self._means.config.prefetch, linger=LINGER
            )
            if batch is None:
                return
            ids = [one for message in batch.messages if (one := id_in(message.body)) is not None]
            metrics.MESSAGES.labels("foreign").inc(len(batch.messages) - len(ids))
            if await self._sorted(ids, stop):
                await batch.ack()

    async def _sorted(self, ids: Sequence[str], stop: asyncio.Event) -> bool:
        """Sort a batch, however long the store is away; False if `stop` came first.

        The messages are not returned meanwhile: each return counts towards the limit at which
        the broker takes a message for poison.
        """
        while not stop.is_set():
            try:
                await self.sort(ids)
            except TRANSIENT as error:
                await first_of(stop.wait(), self._means.patience.recovered(error))
            else:
                return True
        return False

    async def sort(self, ids: Sequence[str]) -> None:
        """Put each delivery into its lane, a delay queue, or back into the store.

        Raises:
            StoreUnavailableError: nothing is lost as long as no message is acknowledged.
            StoreConflictError: likewise.
        """
        now = self._means.clock.now()
        early: list[Standing] = []
        parked: dict[str, int] = {}
        loaded = await self._means.store.load(dict.fromkeys(ids))
        results = Counter(unknown=len(set(ids)) - len(loaded))
        for delivery in loaded:
            lane = self._lanes.all.get(delivery.endpoint)
            if not _is_wanted(delivery, now):
                result = "settled"
            elif delivery.due_at > now:
                early.append(delivery)
                result = "early"
            elif lane is None or not self._holder.may_call(delivery.endpoint):
                self._holder.hold_soon(delivery.endpoint)
                result = "held"
            elif lane.push(Waiting(delivery.id, delivery.due_at)):
                result = "taken"
            else:
                parked[delivery.id] = parked_wake(
                    now=now,
                    due_at=delivery.due_at,
                    not_before=0,
                    chance=random.random(),  # noqa: S311 - spreads load
                )
                metrics.PARKED.labels(delivery.endpoint, "full").inc()
                result = "parked"
            results[result] += 1
        for result, count in results.items():
            metrics.MESSAGES.labels(result).inc(count)
        if parked:
            await self._means.store.park(parked)
        if early:
            await delay(self._means, {one.id: one.due_at for one in early})
        self._work.set()


def id_in(body: bytes) -> str | None:
    """The delivery id that a message consists of; None if it cannot be one of ours.

    The store is not asked for just anything: PostgreSQL, for one, takes no text with a NUL in it.
    """
    return body.decode() if len(body) <= ID_MAX and ID.fullmatch(body) else None


def _is_wanted(delivery: Standing, now: int) -> bool:
    """Whether it still waits for an attempt that nobody else is making."""
    leased = delivery.lease_until is not None and delivery.lease_until > now
    return delivery.state in OPEN_STATES and not leased
