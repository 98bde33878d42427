"""The callbacks worker as a process: its parts put together, started and stopped in order."""

import asyncio
from collections.abc import Mapping
from typing import Final

from shared.broker import topology
from shared.broker.consumer import BatchConsumer
from shared.broker.depth import depths
from shared.broker.publisher import ConfirmingPublisher
from shared.broker.watch import QueueWatch
from shared.clock import Clock, SystemClock
from shared.config import Config
from shared.errors import TRANSIENT
from shared.logs import get_logger
from shared.ops import Check
from shared.process import end, run_until
from shared.store.open import open_store
from shared.store.port import Store
from shared.store.rows import DeliveryState
from shared.targets import read_targets
from worker.callbacks import metrics
from worker.callbacks.attempt import Caller
from worker.callbacks.breaker import Closed
from worker.callbacks.consume import Intake
from worker.callbacks.dispatch import Dispatcher
from worker.callbacks.guard import Lookup, system_lookup
from worker.callbacks.lanes import Lane, Lanes
from worker.callbacks.means import Means
from worker.callbacks.patience import Patience
from worker.callbacks.record import Recorder
from worker.callbacks.relay import Relay
from worker.callbacks.steward import Steward

log = get_logger(__name__)

LEAVING: Final = 1.0
"""Seconds that the loops have to come to an end when the worker is told to stop."""

FINISHING: Final = 4.5
"""Seconds that attempts under way have to end after that."""

CLOSING: Final = 1.5
"""Seconds to write what came of them."""


def build(config: Config) -> "CallbacksService":
    """The service that ``python -m worker callbacks`` runs.

    Raises:
        ConfigError: an endpoint cannot be used as it is configured.
    """
    return CallbacksService(
        config, store=open_store(config.store, config.sealing), clock=SystemClock()
    )


class CallbacksService:
    """Relays due deliveries to the broker, consumes them, and attempts them."""

    def __init__(
        self, config: Config, *, store: Store, clock: Clock, lookup: Lookup = system_lookup
    ) -> None:
        self._config, self._store = config, store
        self._patience = Patience(store.ping, clock=clock)
        self._publisher = ConfirmingPublisher(
            config.broker, name="worker callbacks, relay", queue=topology.CALLBACKS
        )
        self._consumer = BatchConsumer(
            config.broker,
            name="worker callbacks",
            queue=topology.CALLBACKS,
            prefetch=config.callbacks.prefetch,
        )
        means = Means(store, self._publisher, self._patience, config.callbacks, clock)
        targets = read_targets(config.endpoint)
        work = asyncio.Event()
        self.lanes = Lanes(targets, config.callbacks)
        self._caller = Caller(config.callbacks, clock=clock, lookup=lookup)
        self._relay = Relay(means, depth=self._depth, lanes=self.lanes)
        self._steward = Steward(means, self.lanes)
        self._recorder = Recorder(means, gone=self._steward.gone)
        self._dispatcher = Dispatcher(
            means, self._caller, self._recorder, lanes=self.lanes, work=work
        )
        self._intake = Intake(
            self._consumer, means, lanes=self.lanes, holder=self._steward, work=work
        )
        self._watch = QueueWatch(config.broker, (self._consumer,), clock=clock)
        for lane in self.lanes.all.values():
            _observe(lane)

    @property
    def checks(self) -> Mapping[str, Check]:
        """Ready while the store answers and the broker both delivers and takes."""
        return {
            "store": lambda: self._patience.fault,
            "consumer": lambda: None if self._consumer.consuming else "not consuming",
            "publisher": lambda: None if self._publisher.connected else "not connected",
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then finish, write back and give back what is in hand."""
        try:
            await run_until(stop, self._patience.start(self._store.start))
            if not stop.is_set():
                async with self._caller:
                    await self._work(stop)
        finally:
            await self._store.close()

    async def _depth(self) -> int:
        """How many messages wait in the work queue."""
        broker = self._config.broker
        found = await depths(broker.url, connect_timeout=broker.connect_timeout)
        return next(one.ready for one in found if one.name == topology.CALLBACKS)

    async def _work(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            consuming = group.create_task(self._consumer.run())
            background = [
                group.create_task(part)
                for part in (self._publisher.run(), self._recorder.run(), self._watch.run())
            ]
            loops = [
                group.create_task(part.run(stop))
                for part in (self._steward, self._relay, self._intake, self._dispatcher)
            ]
            await stop.wait()
            await asyncio.wait(loops, timeout=LEAVING)
            for task in loops:
                task.cancel()  # one that waits for a broker that does not answer
            consuming.cancel()  # others get what we have not taken
            await self._finish()
            await end(*background, *loops, consuming)

    async def _finish(self) -> None:
        """Leave nothing behind that another worker would have to wait for."""
        try:
            async with asyncio.timeout(FINISHING + CLOSING):
                await self._dispatcher.stop(grace=FINISHING)
                await self._recorder.drained()
        except (TimeoutError, *TRANSIENT) as error:
            log.warning("stop.unfinished", error_type=type(error).__name__)


def _observe(lane: Lane) -> None:
    """Let the metrics ask for what changes by itself."""
    name = lane.target.id
    metrics.IN_FLIGHT.labels(name).set_function(lambda: lane.running)
    metrics.WAITING.labels(name).set_function(lambda: len(lane.waiting) + len(lane.ready))
    metrics.BREAKER_OPEN.labels(name).set_function(lambda: not isinstance(lane.breaker, Closed))
    metrics.ended(name, DeliveryState.EXHAUSTED.value)  # at zero: an increase from nothing is none
