"""Statuses followed, deliveries held and released, on a clock that tests move."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import structs
from yarl import URL

from shared.config import CallbacksConfig, Secret
from shared.store.migrate import migrate
from shared.store.rows import DeliveryState, EndpointStatus
from shared.store.sqlite.store import SqliteStore
from shared.targets import Target
from tests.support.deliveries import rows, seed
from worker.callbacks.lanes import Lanes
from worker.callbacks.means import Means
from worker.callbacks.patience import Patience
from worker.callbacks.steward import RELEASES, Steward

NOW = 1_700_000_000_000


class StillClock:
    def now(self) -> int:
        return NOW

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        pass


class NoBroker:
    connected = False

    async def publish(self, messages: object) -> None:
        raise AssertionError(f"the steward publishes nothing, least of all {messages}")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'correio.db'}"


@pytest.fixture
async def store(tmp_path: Path, url: str) -> AsyncIterator[SqliteStore]:
    await migrate(Secret(url))
    made = SqliteStore(tmp_path / "correio.db", busy_timeout=5)
    await made.start()
    yield made
    await made.close()


def steward(store: SqliteStore, *, rate: int = 100) -> Steward:
    config = structs.replace(CallbacksConfig(), release_rate=rate)
    clock = StillClock()
    means = Means(store, NoBroker(), Patience(store.ping, clock=clock), config, clock)
    target = Target("crm", URL("https://crm.example.com/"), (), {}, 4, allow_private=False)
    return Steward(means, Lanes({"crm": target}, config))


def held(url: str) -> int:
    return held_of(url).total()


def held_of(url: str) -> Counter[str]:
    return Counter(one.endpoint for one in rows(url).values() if one.state == "held")


async def test_what_is_paused_is_held_and_what_comes_later_too(
    store: SqliteStore, url: str
) -> None:
    made = steward(store)
    await seed(store, endpoints=["crm"], due=[NOW] * 3)
    await store.set_endpoint("crm", EndpointStatus.PAUSED, reason="", now=NOW)
    await made.look()
    assert not made.may_call("crm")
    assert held(url) == 3
    await seed(store, endpoints=["crm"], due=[NOW] * 2)
    await made.look()
    await made.release()
    assert held(url) == 5


async def test_a_backlog_is_held_in_steps_between_which_the_store_serves_others(
    store: SqliteStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.callbacks.steward.HOLDS", 2)
    made = steward(store)
    await seed(store, endpoints=["crm", "gone"], due=[NOW] * 5)
    await store.set_endpoint("crm", EndpointStatus.PAUSED, reason="", now=NOW)
    made.hold_soon("gone")
    await made.look()
    assert held_of(url) == {"crm": 2, "gone": 2}
    await made.hold()
    assert held_of(url) == {"crm": 4, "gone": 4}
    await made.hold()
    assert held_of(url) == {"crm": 5, "gone": 5}


async def test_what_is_left_of_a_backlog_is_not_held_once_its_endpoint_is_back(
    store: SqliteStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.callbacks.steward.HOLDS", 2)
    made = steward(store)
    await seed(store, endpoints=["crm"], due=[NOW] * 5)
    await store.set_endpoint("crm", EndpointStatus.PAUSED, reason="", now=NOW)
    await made.look()
    await store.set_endpoint("crm", EndpointStatus.ENABLED, reason="", now=NOW)
    await made.look()
    await made.hold()
    assert held(url) == 2
    await made.release()
    assert held(url) == 0


@pytest.mark.parametrize(("rate", "after"), [(100, 90), (10, 99), (4, 100)])
async def test_a_release_is_spread_over_its_second(
    store: SqliteStore, url: str, rate: int, after: int
) -> None:
    made = steward(store, rate=rate)
    await seed(store, endpoints=["crm"], due=[NOW] * 100, state=DeliveryState.HELD)
    await made.look()
    await made.release()
    assert held(url) == after
    for _ in range(RELEASES - 1):
        await made.release()
    assert held(url) == 100 - rate


async def test_a_release_stops_when_its_endpoint_is_paused_again(
    store: SqliteStore, url: str
) -> None:
    made = steward(store)
    await seed(store, endpoints=["crm"], due=[NOW] * 50, state=DeliveryState.HELD)
    await made.look()
    await made.release()
    await store.set_endpoint("crm", EndpointStatus.PAUSED, reason="", now=NOW)
    await made.look()
    await made.release()
    assert held(url) == 50


async def test_one_that_is_not_configured_is_held_when_it_comes_up(
    store: SqliteStore, url: str
) -> None:
    made = steward(store)
    await seed(store, endpoints=["gone"], due=[NOW] * 2)
    assert not made.may_call("gone")
    made.hold_soon("gone")
    await made.look()
    assert held(url) == 2


async def test_410_is_stored_with_its_reason(store: SqliteStore, url: str) -> None:
    made = steward(store)
    await seed(store, endpoints=["crm"], due=[NOW])
    await made.gone("crm")
    await made.look()
    row = (await store.endpoint_rows())["crm"]
    assert (row.status, row.reason) == (EndpointStatus.DISABLED, "answered 410")
    assert held(url) == 1
