"""Keeps age in bounds in the background: asks every minute whether a pass is due, and makes it."""

from shared.clock import Clock
from shared.config import RetentionConfig
from shared.errors import CorreioError
from shared.logs import get_logger
from shared.retention import Retention, Shelf
from worker.events import metrics

log = get_logger(__name__)

LOOK_INTERVAL = 60.0
"""Seconds."""


class Keeper:
    """Makes the passes that are due; of all workers one at a time does."""

    def __init__(self, store: Shelf, config: RetentionConfig, *, clock: Clock) -> None:
        self._retention = Retention(store, config, clock=clock)
        self._clock = clock
        metrics.RETENTION_INTERVAL.set(config.interval)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self.look()
            await self._clock.sleep(LOOK_INTERVAL)

    async def look(self) -> None:
        """Make a pass if it is due, and measure. A fault is counted; the next look tries again."""
        try:
            removed = await self._retention.run_if_due()
            await self._measure()
        except CorreioError as error:
            metrics.RETENTION_FAILURES.inc()
            log.warning("retention.failed", error_type=type(error).__name__, error=str(error))
            return
        if removed is not None:
            for table, count in removed.items():
                metrics.RETENTION_REMOVED.labels(table).inc(count)
            log.info("retention.ended", count=sum(removed.values()))

    async def _measure(self) -> None:
        ended = await self._retention.ended_at()
        if ended is not None:
            metrics.RETENTION_ENDED.set(ended / 1000)
        metrics.RETENTION_OLDEST.clear()
        for table, at in (await self._retention.oldest()).items():
            metrics.RETENTION_OLDEST.labels(table).set(at / 1000)
