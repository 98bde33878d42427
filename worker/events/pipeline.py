"""The events worker's loop: take what is at hand, apply it, acknowledge it, again.

When more is at hand than one batch, the next one is prepared while the store commits this one.
It is applied only after that, and acknowledged only after its own commit.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

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
from shared.errors import STORE_AWAY, StoreConflictError
from shared.logs import get_logger
from worker.events import metrics
from worker.events.arrivals import Arrival, from_message

log = get_logger(__name__)

Apply = Callable[[Sequence[Arrival]], Awaitable[None]]
Prepare = Callable[[Sequence[Arrival]], Sequence[Arrival]]

TRANSIENT = (*STORE_AWAY, StoreConflictError)
"""What is no fault of the events: apply them again later."""


class Pipeline:
    """Moves one queue's messages through `apply`, in order, until told to stop."""

    def __init__(
        self,
        consumer: BatchConsumer,
        apply: Apply,
        *,
        config: EventsConfig,
        clock: Clock,
        prepare: Prepare = lambda arrivals: arrivals,
    ) -> None:
        """`prepare`: what of `apply` can be done before its turn; it gives what to apply."""
        self._consumer = consumer
        self._apply = apply
        self._prepare = prepare
        self._config = config
        self._clock = clock
        self._next: tuple[Batch, Sequence[Arrival]] | None = None
        self._applying = False

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set and the batch in hand is done.

        A batch that was only prepared stays unacknowledged.
        """
        while not stop.is_set():
            batch = await self._take(stop)
            if batch is not None and await self._applied(batch, stop):
                await batch.ack()

    async def _take(self, stop: asyncio.Event) -> Batch | None:
        if self._next is not None:
            batch, _ = self._next
            if not batch.lost:
                return batch
            self._next = None  # the broker delivers it again
        return await self._consumer.take_until(
            stop, limit=self._config.batch_max, linger=self._config.linger
        )

    def look_ahead(self) -> None:
        """Prepare the next batch, if a full one is at hand; for time that goes by waiting.

        Only while one is applied: at any other time the next one is being taken already.
        """
        if self._applying and self._next is None:
            batch = self._consumer.take_full(limit=self._config.batch_max)
            if batch is not None:
                self._next = (batch, self._prepared(batch))

    def _prepared(self, batch: Batch) -> Sequence[Arrival]:
        now = self._clock.now()
        return self._prepare([from_message(one, now=now) for one in batch.messages])

    async def _applied(self, batch: Batch, stop: asyncio.Event) -> bool:
        """Apply one batch, however long the store cannot take it; False if `stop` came first.

        Meanwhile one batch more is taken at the most, and this one stays unacknowledged. It is not
        returned to the broker: each return would count towards the limit at which a message is
        taken for poison, and an outage is no fault of the message.
        """
        ahead, self._next = self._next, None
        arrivals = ahead[1] if ahead and ahead[0] is batch else self._prepared(batch)

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
                    await self._apply(arrivals)
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
