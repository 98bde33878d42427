import asyncio

import pytest

from shared.errors import (
    SchemaError,
    StoreConflictError,
    StoreDamagedError,
    StoreUnavailableError,
)
from worker.callbacks.patience import LONGEST_PAUSE, Patience


class MovedClock:
    """Time passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 1_000.0
        self.pauses: list[float] = []

    def now(self) -> int:
        return round(self.seconds * 1000)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.seconds += seconds
        await asyncio.sleep(0)


class Store:
    """Fails as often as it is told to."""

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.calls = 0

    async def __call__(self) -> None:
        self.calls += 1
        if self.faults:
            raise self.faults.pop(0)


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


async def test_a_start_is_waited_for_even_with_a_wrong_schema(clock: MovedClock) -> None:
    patience = Patience(Store(), clock=clock)
    assert patience.fault == "not connected yet"
    start = Store(StoreUnavailableError("no file"), SchemaError("old"), StoreDamagedError("torn"))
    await patience.start(start)
    assert start.calls == 4
    assert patience.fault is None


async def test_insisting_ends_when_the_store_has_taken_it(clock: MovedClock) -> None:
    ping = Store(StoreUnavailableError("still"), StoreDamagedError("still"))
    patience = Patience(ping, clock=clock)
    work = Store(StoreUnavailableError("gone"), StoreConflictError("again"), StoreDamagedError("x"))
    await patience.insist(work)
    assert (work.calls, ping.calls) == (4, 5)
    assert patience.fault is None


async def test_what_speaks_of_the_data_is_not_waited_for(clock: MovedClock) -> None:
    with pytest.raises(ValueError, match="bad data"):
        await Patience(Store(), clock=clock).insist(Store(ValueError("bad data")))


async def test_a_store_that_only_pings_is_asked_ever_less_often(clock: MovedClock) -> None:
    patience = Patience(Store(), clock=clock)
    await patience.insist(Store(*(StoreUnavailableError("full") for _ in range(20))))
    assert clock.pauses[0] < 0.1
    assert clock.pauses[-1] == LONGEST_PAUSE
    assert len(clock.pauses) == 20
    clock.seconds += 60
    await patience.recovered(StoreUnavailableError("full"))
    assert clock.pauses[-1] < 0.1


async def test_many_who_wait_are_served_by_one_ping(clock: MovedClock) -> None:
    ping = Store()
    patience = Patience(ping, clock=clock)
    await asyncio.gather(*(patience.recovered(StoreUnavailableError("gone")) for _ in range(9)))
    assert ping.calls == 1
