"""What a store in trouble may not do to the events worker: end it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

import pytest

from shared.config import Config, SealingConfig
from shared.domain.keys import AggregateKey
from shared.errors import (
    SchemaError,
    SealingKeyError,
    StoreConflictError,
    StoreDamagedError,
    StoreUnavailableError,
)
from shared.store.rows import Changes
from shared.store.seals import Sealing
from tests.support.clock import ManualClock
from worker.events.apply import CONFLICT_PATIENCE, MAX_CONFLICTS, Applier
from worker.events.arrivals import Arrival
from worker.events.fold import SMALL
from worker.events.service import EventsService

NOW = 1_700_000_000_000


class Trouble:
    """A store that fails as it is told to, and keeps what is written when it does not."""

    step = 0.02
    parallel = 1
    sealing = Sealing(SealingConfig())

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.written: list[Changes] = []
        self.looks = 0
        self.calm = asyncio.Event()
        self.started = 0
        self.quiet_since: int | None = None
        self._then: list[Exception] = []

    def start_then(self, *faults: Exception) -> None:
        """Let it start, and fail so thereafter."""
        self._then = list(faults)

    def _fail(self) -> None:
        if self.faults:
            raise self.faults.pop(0)

    async def start(self) -> None:
        self._fail()
        self.started += 1
        self.faults, self._then = self._then, []

    async def fetch(self, _query: str, _values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        self._fail()
        return [(0,)]

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator["Trouble"]:
        self._fail()
        yield self

    async def write(self, changes: Changes) -> None:
        self.written.append(changes)

    async def tombstones(self, _names: Collection[str]) -> set[str]:
        return set()

    async def unsettled(self, *, quiet_since: int, limit: int) -> list[AggregateKey]:
        assert limit
        self._fail()
        self.quiet_since = quiet_since
        self.calm.set()
        await asyncio.Event().wait()
        return []


class Yielding(ManualClock):
    """Lets others run while it moves."""

    async def sleep(self, seconds: float) -> None:
        self.move(seconds)
        await asyncio.sleep(0)


def service(store: Any) -> EventsService:
    return EventsService(Config(), store=store, clock=Yielding(NOW))


async def test_a_dead_letter_is_kept_although_another_writer_came_first() -> None:
    store: Any = Trouble(StoreConflictError("first"), StoreConflictError("second"))
    applier = Applier(store, Config(), clock=ManualClock(NOW))
    await applier.quarantine_dead([Arrival(b"{}", "klavi", "b", NOW)])
    (changes,) = store.written
    assert [one.reason for one in changes.quarantined] == ["dead_lettered"]


async def test_of_a_batch_in_parts_only_what_is_left_is_applied_again() -> None:
    store: Any = Trouble(StoreUnavailableError("away"))
    store.parallel = 2
    applier = Applier(store, Config(), clock=ManualClock(NOW))
    bodies = [b'{"eventName":"%d"}' % i for i in range(2 * SMALL)]
    halves = iter([bodies[:SMALL], bodies[SMALL:]])
    prepared = applier.prepare([Arrival(one, "klavi", "b", NOW) for one in bodies])
    (whole,) = prepared.left
    prepared.left = [[one for one in whole if one.arrival.body in half] for half in halves]
    with pytest.raises(StoreUnavailableError):
        await applier.work_off(prepared)
    assert [one.body for changes in store.written for one in changes.quarantined] == bodies[SMALL:]
    await applier.work_off(prepared)
    assert [one.body for one in store.written[-1].quarantined] == bodies[:SMALL]
    await applier.work_off(prepared)
    assert len(store.written) == 2


def conflicts(count: int) -> list[Exception]:
    return [StoreConflictError("another came first") for _ in range(count)]


async def test_an_event_that_meets_with_conflicts_alone_waits_and_is_not_refused() -> None:
    store: Any = Trouble(*conflicts(MAX_CONFLICTS))
    applier = Applier(store, Config(), clock=ManualClock(NOW))
    arrival = Arrival(b"{}", "klavi", "b", NOW)
    with pytest.raises(StoreConflictError):
        await applier.apply([arrival])
    assert store.written == []
    await applier.apply([arrival])
    (changes,) = store.written
    assert [one.reason for one in changes.quarantined] == ["no_event_name"]


async def test_an_event_that_never_meets_with_anything_else_holds_nobody_up_for_ever() -> None:
    clock = ManualClock(NOW)
    store: Any = Trouble(*conflicts(2 * MAX_CONFLICTS))
    applier = Applier(store, Config(), clock=clock)
    arrival = Arrival(b"{}", "klavi", "b", NOW)
    with pytest.raises(StoreConflictError):
        await applier.apply([arrival])
    clock.move(CONFLICT_PATIENCE / 1000)
    await applier.apply([arrival])
    (changes,) = store.written
    assert [one.reason for one in changes.quarantined] == ["refused_by_store"]


async def test_patience_with_an_event_begins_with_its_own_first_conflict() -> None:
    clock = ManualClock(NOW)
    store: Any = Trouble(*conflicts(2 * MAX_CONFLICTS))
    applier = Applier(store, Config(), clock=clock)
    for _ in range(2):
        with pytest.raises(StoreConflictError):
            await applier.apply([Arrival(b"{}", "klavi", "b", NOW)])
        clock.move(CONFLICT_PATIENCE / 1000)


@pytest.mark.parametrize(
    "fault", [StoreUnavailableError("away"), StoreDamagedError("torn"), SchemaError("old")]
)
async def test_a_store_that_cannot_be_opened_is_waited_for(fault: Exception) -> None:
    store = Trouble(fault, fault)
    await service(store)._open_store()
    assert store.faults == []


@pytest.mark.parametrize("fault", [StoreConflictError("again"), SealingKeyError("lost")])
async def test_a_store_whose_keys_cannot_be_looked_at_or_are_lost_is_waited_for(
    fault: Exception,
) -> None:
    store = Trouble()
    waiting = service(store)
    store.start_then(fault)
    await waiting._open_store()
    assert store.faults == []
    assert store.started == 1


class InHand:
    """A consumer that has at hand what the receiver had first at `oldest`."""

    def __init__(self, *, consuming: bool = True, oldest: int | None = None) -> None:
        self.consuming = consuming
        self._oldest = oldest

    def oldest(self, _now: int) -> int | None:
        return self._oldest


def settler(store: Any, consumer: InHand) -> EventsService:
    made: Any = service(store)
    made._events = consumer
    told: EventsService = made
    return told


QUIET = 900_000


@pytest.mark.parametrize(
    ("oldest", "quiet_since"),
    [(None, NOW - QUIET), (NOW - 5_000_000, NOW - 5_000_000 - QUIET), (NOW + 1_000, NOW - QUIET)],
)
async def test_what_waits_in_the_queue_is_no_quiet(oldest: int | None, quiet_since: int) -> None:
    store = Trouble()
    settling = asyncio.create_task(settler(store, InHand(oldest=oldest))._settle())
    async with asyncio.timeout(5):
        await store.calm.wait()
    assert store.quiet_since == quiet_since
    settling.cancel()


async def test_nothing_settles_while_the_broker_delivers_nothing() -> None:
    store, away = Trouble(), InHand(consuming=False)
    settling = asyncio.create_task(settler(store, away)._settle())
    for _ in range(3):
        await asyncio.sleep(0)
    assert store.quiet_since is None
    away.consuming = True
    async with asyncio.timeout(5):
        await store.calm.wait()
    settling.cancel()


@pytest.mark.parametrize(
    "fault", [StoreUnavailableError("away"), StoreDamagedError("torn"), StoreConflictError("again")]
)
async def test_settling_goes_on_after_a_fault_of_the_store(fault: Exception) -> None:
    store = Trouble(fault)
    settling = asyncio.create_task(settler(store, InHand())._settle())
    async with asyncio.timeout(5):
        await store.calm.wait()
    settling.cancel()
