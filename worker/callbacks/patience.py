"""Waiting for the store: its absence is no failure of any delivery, work just pauses."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from shared.clock import Clock
from shared.errors import STORE_AWAY, TRANSIENT, SchemaError
from shared.logs import get_logger
from worker.callbacks import metrics

log = get_logger(__name__)

T = TypeVar("T")

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0
"""Seconds between two tries to reach the store, at the least and at the most."""

CALM: Final = 5.0
"""Seconds without a fault after which a recovery is believed."""


class Patience:
    """Knows whether the store answers, and waits until it does.

    A store may answer a ping and still refuse work, on a full disk for instance. Faults that
    follow soon upon a recovery therefore lengthen the next pause.
    """

    def __init__(self, ping: Callable[[], Awaitable[None]], *, clock: Clock) -> None:
        self._ping = ping
        self._clock = clock
        self.fault: str | None = "not connected yet"
        self._recovering = asyncio.Lock()
        self._pause = FIRST_PAUSE
        self._recovered_at = float("-inf")

    async def start(self, start: Callable[[], Awaitable[None]]) -> None:
        """Start the store, however long it takes; a wrong schema may be put right meanwhile."""
        await self._until(start, (*STORE_AWAY, SchemaError))

    async def recovered(self, error: Exception) -> None:
        """Return once the store answers again after `error`."""
        self._failed(error)
        async with self._recovering:
            if self.fault is None:
                return  # another has waited for it meanwhile
            calm = self._clock.monotonic() - self._recovered_at > CALM
            self._pause = FIRST_PAUSE if calm else min(self._pause * 2, LONGEST_PAUSE)
            await self._clock.sleep(self._pause)
            await self._until(self._ping, TRANSIENT)
            self._recovered_at = self._clock.monotonic()
            log.info("store.available")

    async def insist(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run an idempotent `work` again and again until the store has taken it."""
        while True:
            try:
                return await work()
            except TRANSIENT as error:
                await self.recovered(error)

    async def _until(
        self, work: Callable[[], Awaitable[None]], faults: tuple[type[Exception], ...]
    ) -> None:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(faults),
            wait=wait_random_exponential(multiplier=0.1, max=LONGEST_PAUSE),
            sleep=self._clock.sleep,
        ):
            with attempt:
                try:
                    await work()
                except faults as error:
                    self._failed(error)
                    raise
        self.fault = None
        metrics.PAUSED.set(0)

    def _failed(self, error: Exception) -> None:
        if self.fault != str(error):
            log.warning("store.unavailable", error=str(error))
        self.fault = str(error)
        metrics.PAUSED.set(1)
