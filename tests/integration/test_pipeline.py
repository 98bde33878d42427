"""The events pipeline on a real broker, with a store whose faults a test decides."""

import asyncio
from collections.abc import Sequence

from shared.broker import topology
from shared.broker.consumer import BatchConsumer
from shared.broker.depth import depths
from shared.broker.publisher import ConfirmingPublisher, Outgoing
from shared.clock import SystemClock
from shared.config import BrokerConfig, EventsConfig, Secret
from shared.errors import StoreConflictError, StoreDamagedError, StoreUnavailableError
from worker.events.arrivals import Arrival
from worker.events.pipeline import Pipeline

LIMIT = 60


class Store:
    """Refuses `faults` first, one a call; then applies."""

    def __init__(self, faults: Sequence[Exception]) -> None:
        self.faults = list(faults)
        self.applied: list[bytes] = []
        self.done = asyncio.Event()

    async def apply(self, arrivals: Sequence[Arrival]) -> None:
        if self.faults:
            raise self.faults.pop()
        self.applied += [one.body for one in arrivals]
        self.done.set()


async def run(url: str, store: Store, *, until: asyncio.Event) -> None:
    """Publish one message and run a pipeline over it until `until` is set."""
    await topology.declare(url)
    broker = BrokerConfig(url=Secret(url), reconnect_max=0.2)
    publisher = ConfirmingPublisher(broker, name="test", queue=topology.EVENTS)
    consumer = BatchConsumer(broker, name="test", queue=topology.EVENTS, prefetch=10)
    config = EventsConfig(pause_max=0.001)
    pipeline = Pipeline(consumer, store.apply, prepare=list, config=config, clock=SystemClock())
    stop = asyncio.Event()
    background = [asyncio.create_task(one.run()) for one in (publisher, consumer)]
    try:
        async with asyncio.timeout(LIMIT):
            await publisher.wait_connected()
            await publisher.publish([Outgoing(b"one", topology.EVENTS, topology.EVENTS)])
            working = asyncio.create_task(pipeline.run(stop))
            await until.wait()
            stop.set()
            await working
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)


async def ready(url: str) -> dict[str, int]:
    return {one.name: one.ready for one in await depths(Secret(url)) if one.ready}


async def test_a_long_outage_costs_no_returns_so_nothing_is_dead_lettered(broker_url: str) -> None:
    store = Store([StoreUnavailableError("full")] * (topology.DELIVERY_LIMIT * 2))
    await run(broker_url, store, until=store.done)
    assert store.applied == [b"one"]
    assert await ready(broker_url) == {}


async def test_a_damaged_store_is_nobodys_fault_but_its_own(broker_url: str) -> None:
    store = Store([StoreDamagedError("torn")] * 3)
    await run(broker_url, store, until=store.done)
    assert store.applied == [b"one"]


async def test_conflicts_with_other_writers_are_waited_out(broker_url: str) -> None:
    store = Store([StoreConflictError("another came first")] * 3)
    await run(broker_url, store, until=store.done)
    assert store.applied == [b"one"]


async def test_a_stop_in_the_middle_of_an_outage_gives_the_message_back(broker_url: str) -> None:
    class Away(Store):
        async def apply(self, arrivals: Sequence[Arrival]) -> None:
            self.done.set()
            raise StoreUnavailableError(f"away, with {len(arrivals)} waiting")

    store = Away([])
    await run(broker_url, store, until=store.done)
    async with asyncio.timeout(LIMIT):
        while await ready(broker_url) != {topology.EVENTS: 1}:
            await asyncio.sleep(0.05)
