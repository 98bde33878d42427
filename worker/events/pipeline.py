"""The events worker's loop: take what is at hand, apply it, acknowledge it, again."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from shared.broker.connection import first_of
from shared.broker.consumer import Batch, BatchConsumer
from shared.clock import Clock
from shared.config import EventsConfig
from shared.errors import StoreUnavailableError
from shared.logs import get_logger
from worker.events import metrics
from worker.events.arrivals import Arrival, from_message

log = get_logger(__name__)

Apply = Callable[[Sequence[Arrival]], Awaitable[None]]


class Pipeline:
    """Moves one queue's messages through `apply`, in order, until told to stop."""

    def __init__(
        self,
        consumer: BatchConsumer,
        apply: Apply,
        *,
        ping: Callable[[], Awaitable[None]],
        config: EventsConfig,
        clock: Clock,
    ) -> None:
        self._consumer = consumer
        self._apply = apply
        self._ping = ping
        self._config = config
        self._clock = clock

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set and the batch in hand is done."""
        while not stop.is_set():
            batch = await self._take(stop)
            if batch is None:
                return
            arrivals = [from_message(one, now=self._clock.now()) for one in batch.messages]
            try:
                await self._apply(arrivals)
            except StoreUnavailableError as error:
                log.warning("store.unavailable", error=str(error))
                await self._pause(stop)
            else:
                await batch.ack()

    async def _take(self, stop: asyncio.Event) -> Batch | None:
        take = asyncio.ensure_future(
            self._consumer.take(limit=self._config.batch_max, linger=self._config.linger)
        )
        await first_of(stop.wait(), asyncio.shield(take))
        if take.done():
            return take.result()
        take.cancel()
        return None

    async def _pause(self, stop: asyncio.Event) -> None:
        """Give all messages back and take none until the store answers again."""
        self._consumer.pause()
        metrics.PAUSED.set(1)
        await first_of(stop.wait(), self._store_answers())
        metrics.PAUSED.set(0)
        if not stop.is_set():
            self._consumer.resume()
            log.info("store.available")

    async def _store_answers(self) -> None:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailableError),
            wait=wait_random_exponential(multiplier=0.1, max=self._config.pause_max),
            sleep=self._clock.sleep,
        ):
            with attempt:
                await self._ping()
