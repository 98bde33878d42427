"""The events worker as a process: broker, store and pipelines put together."""

import asyncio
from collections.abc import Callable, Mapping

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from shared.broker import topology
from shared.broker.consumer import BatchConsumer
from shared.broker.watch import QueueWatch
from shared.clock import Clock, SystemClock
from shared.config import Config
from shared.eraser import Eraser
from shared.errors import TRANSIENT, SchemaError
from shared.logs import get_logger
from shared.ops import Check
from shared.process import end
from shared.store.lease import LeaseLostError
from shared.store.open import open_store
from shared.store.port import Store
from worker.events import metrics
from worker.events.apply import Applier, Prepared
from worker.events.arrivals import Arrival
from worker.events.contention import Contention
from worker.events.keeper import Keeper
from worker.events.pipeline import Pipeline, never

log = get_logger(__name__)

SETTLE_INTERVAL = 5.0
SETTLE_BATCH = 500


def build(config: Config) -> "EventsService":
    """The service that ``python -m worker events`` runs."""
    return EventsService(
        config,
        store=open_store(config.store, config.sealing),
        clock=SystemClock(),
        contended=Contention(),
    )


class EventsService:
    """Consumes events and applies them; picks dead letters up; settles quiet requests."""

    def __init__(
        self,
        config: Config,
        *,
        store: Store,
        clock: Clock,
        contended: Callable[[float], bool] = never,
    ) -> None:
        """`contended`: whether others wait for the processors, see `Pipeline`."""
        self._config = config
        self._contended = contended
        self._store = store
        self._clock = clock
        self._store_fault: str | None = "not connected yet"
        self._events = BatchConsumer(
            config.broker,
            name="worker events",
            queue=topology.EVENTS,
            prefetch=config.events.prefetch,
        )
        self._dead = BatchConsumer(
            config.broker, name="worker events, dead letters", queue=topology.DEAD, prefetch=100
        )
        self._applier = Applier(store, config, clock=clock)
        self._eraser = Eraser(store, config, clock=clock)
        self._keeper = Keeper(store, config.retention, clock=clock)
        self._watch = QueueWatch(config.broker, (self._events, self._dead), clock=clock)

    @property
    def checks(self) -> Mapping[str, Check]:
        """Ready while the store has been opened and the broker delivers."""
        return {
            "store": lambda: self._store_fault,
            "broker": lambda: None if self._events.consuming else "not consuming",
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then finish and acknowledge the batch in hand."""
        opening = asyncio.ensure_future(self._open_store())
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            opening.cancel()
            return
        opening.result()
        try:
            await self._work(stop)
        finally:
            stopping.cancel()
            await self._store.close()

    async def _work(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(self._events.run()),
                group.create_task(self._dead.run()),
                group.create_task(self._watch.run()),
                group.create_task(self._settle()),
                group.create_task(self._keeper.run()),
                group.create_task(self._erase()),
            ]
            events, dead = self._pipelines()
            pipelines = [group.create_task(one.run(stop)) for one in (events, dead)]
            await asyncio.wait(pipelines)
            await end(*background)

    def _pipelines(self) -> tuple[Pipeline[Prepared], Pipeline[list[Arrival]]]:
        """That of the events, and that of the dead letters."""
        config, applier = self._config.events, self._applier
        events = Pipeline(
            self._events,
            applier.work_off,
            prepare=applier.prepare,
            config=config,
            clock=self._clock,
            contended=self._contended,
        )
        applier.meanwhile = events.look_ahead
        dead = Pipeline(
            self._dead, applier.quarantine_dead, prepare=list, config=config, clock=self._clock
        )
        return events, dead

    async def _open_store(self) -> None:
        """Open the store, waiting for it for as long as it takes."""
        started = False
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type((*TRANSIENT, SchemaError)),
            wait=wait_random_exponential(multiplier=0.1, max=self._config.events.pause_max),
            sleep=self._clock.sleep,
        ):
            with attempt:
                try:
                    if not started:
                        await self._store.start()
                        started = True
                    await self._eraser.require_keys()
                except (*TRANSIENT, SchemaError) as error:
                    self._store_fault = str(error)
                    log.warning("store.unavailable", error=str(error))
                    raise
        self._store_fault = None

    async def _erase(self) -> None:
        """Work off erasures, for ever."""
        unwrapped = not self._store.sealing.ring.ids
        metrics.UNWRAPPED.set(int(unwrapped))
        if unwrapped:
            log.warning("sealing.unwrapped", remedy="set [sealing] keys: `correio keys new ID`")
        caught_up = False
        while True:
            try:
                metrics.ERASURES_OVERDUE.set(await self._eraser.overdue())
                if not caught_up:
                    await self._eraser.catch_up()
                    caught_up = True
                if count := await self._eraser.work():
                    metrics.ERASURES.inc(count)
                    log.info("erasures.worked_off", count=count)
            except (*TRANSIENT, LeaseLostError) as error:
                metrics.ERASURE_FAILURES.inc()
                log.warning("erasing.failed", error=str(error), error_type=type(error).__name__)
            await self._clock.sleep(self._config.sealing.erasing_interval)

    async def _settle(self) -> None:
        """Settle product requests over which the quiet period has passed, for ever."""
        while True:
            try:
                if (quiet_since := self._quiet_since()) is not None:
                    for key in await self._store.unsettled(
                        quiet_since=quiet_since, limit=SETTLE_BATCH
                    ):
                        await self._applier.settle(key)
            except TRANSIENT as error:
                log.warning("settle.failed", error_type=type(error).__name__)
            await self._clock.sleep(SETTLE_INTERVAL)

    def _quiet_since(self) -> int | None:
        """Until when nothing may have come for a request that is to settle; None if unknown.

        What waits in the queue may belong to any of them, and the oldest of it is in hand.
        """
        if not self._events.consuming:
            return None
        now = self._clock.now()
        oldest = self._events.oldest(now)
        came_by = now if oldest is None else min(now, oldest)
        return came_by - int(self._config.events.quiet_period * 1000)
