"""The events worker's loop: take what is at hand, apply it, acknowledge it, again."""

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

TRANSIENT = (*STORE_AWAY, StoreConflictError)
"""What is no fault of the events: apply them again later."""


class Pipeline:
    """Moves one queue's messages through `apply`, in order, until told to stop."""

    def __init__(
        self, consumer: BatchConsumer, apply: Apply, *, config: EventsConfig, clock: Clock
    ) -> None:
        self._consumer = consumer
        self._apply = apply
        self._config = config
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set and the batch in hand is done."""
        while not stop.is_set():
            batch = await self._consumer.take_until(
                stop, limit=self._config.batch_max, linger=self._config.linger
            )
            if batch is not None and await self._applied(batch, stop):
                await batch.ack()

    async def _applied(self, batch: Batch, stop: asyncio.Event) -> bool:
        """Apply one batch, however long the store cannot take it; False if `stop` came first.

        Meanwhile nothing more is taken, and the batch stays unacknowledged. It is not returned
        to the broker: each return would count towards the limit at which a message is taken for
        poison, and an outage is no fault of the message.
        """
        arrivals = [from_message(one, now=self._clock.now()) for one in batch.messages]

        async def pause(seconds: float) -> None:
            await first_of(stop.wait(), self._clock.sleep(seconds))

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
            metrics.PAUSED.set(0)
        return True


def _paused(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning("store.unavailable", error=str(error), attempt=state.attempt_number)
    metrics.PAUSED.set(1)
