"""The events worker's loop: take what is at hand, apply it, acknowledge it, again.

When more is at hand than one batch, the next one is prepared while the store commits this one.
It is applied only after that, and acknowledged only after its own commit.

While others wait for the processors, batches are small and a rest follows each: an acknowledgement
to the source, which somebody waits for, comes before the work on what is safe in the queue.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    wait_random_exponential,
)

from shared.broker.connection import first_of
from shared.broker.consumer import Batch, BatchConsumer
from shared.clock import Clock
from shared.config import EventsConfig
from shared.errors import TRANSIENT
from shared.logs import get_logger
from worker.events import metrics
from worker.events.arrivals import Arrival, from_message

log = get_logger(__name__)

T = TypeVar("T")

SMALL = 100
"""Events in one batch while others wait for the processors; then twice as many, batch by batch."""

REST_MAX = 0.5
"""Seconds of the longest rest; work that took longer has waited for something else itself."""


def never(_worked: float) -> bool:
    """Where nobody else needs the processors."""
    return False


class Pipeline(Generic[T]):
    """Moves one queue's messages through `apply`, in order, until told to stop."""

    def __init__(
        self,
        consumer: BatchConsumer,
        apply: Callable[[T], Awaitable[None]],
        *,
        prepare: Callable[[Sequence[Arrival]], T],
        config: EventsConfig,
        clock: Clock,
        contended: Callable[[float], bool] = never,
    ) -> None:
        """`prepare`: what can be done before its turn comes; it gives what to apply.

        `contended`: whether others wait for the processors, after so many seconds more at work.
        """
        self._consumer = consumer
        self._apply = apply
        self._prepare = prepare
        self._config = config
        self._clock = clock
        self._contended = contended
        self._limit = config.batch_max
        self._next: tuple[Batch, T] | None = None
        self._applying = False

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set and the batch in hand is done.

        A batch that was only prepared stays unacknowledged.
        """
        while not stop.is_set():
            taken = await self._take(stop)
            began = self._clock.monotonic()
            if taken is not None and await self._applied(taken[1], stop):
                await taken[0].ack()
                await self._give_way(self._clock.monotonic() - began, stop)

    async def _give_way(self, worked: float, stop: asyncio.Event) -> None:
        """Rest after so many seconds of work, if others wait for the processors."""
        gives_way = bool(self._config.give_way) and self._contended(worked)
        most = self._config.batch_max
        self._limit = min(SMALL if gives_way else 2 * self._limit, most)
        if gives_way:
            rest = min(REST_MAX, worked * self._config.give_way)
            metrics.RESTED.inc(rest)
            await first_of(stop.wait(), self._clock.sleep(rest))

    async def _take(self, stop: asyncio.Event) -> tuple[Batch, T] | None:
        ahead, self._next = self._next, None
        if ahead is not None and not ahead[0].lost:  # what is lost the broker delivers again
            return ahead
        batch = await self._consumer.take_until(stop, limit=self._limit, linger=self._config.linger)
        return None if batch is None else self._prepared(batch)

    def look_ahead(self) -> None:
        """Prepare the next batch, if a full one is at hand; for time that goes by waiting.

        Only while one is applied: at any other time the next one is being taken already.
        """
        if self._applying and self._next is None:
            batch = self._consumer.take_full(limit=self._limit)
            if batch is not None:
                self._next = self._prepared(batch)

    def _prepared(self, batch: Batch) -> tuple[Batch, T]:
        now = self._clock.now()
        return batch, self._prepare([from_message(one, now=now) for one in batch.messages])

    async def _applied(self, work: T, stop: asyncio.Event) -> bool:
        """Apply one batch, however long the store cannot take it; False if `stop` came first.

        Meanwhile one batch more is taken at the most, and this one stays unacknowledged. It is not
        returned to the broker: each return would count towards the limit at which a message is
        taken for poison, and an outage is no fault of the message.
        """

        async def pause(seconds: float) -> None:
            await first_of(stop.wait(), self._clock.sleep(seconds))

        self._applying = True
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(TRANSIENT),
                wait=wait_random_exponential(multiplier=0.1, max=self._config.pause_max),
                stop=lambda _: stop.is_set(),
                sleep=pause,
                before_sleep=_paused,
                reraise=True,
            ):
                with attempt:
                    await self._apply(work)
        except TRANSIENT:
            return False
        finally:
            self._applying = False
            metrics.PAUSED.set(0)
        return True


def _paused(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning("store.unavailable", error=str(error), attempt=state.attempt_number)
    metrics.PAUSED.set(1)
