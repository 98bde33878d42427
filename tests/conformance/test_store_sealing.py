"""What rests in a store is sealed by keys of its own, and opens only by the configured ones."""

import asyncio
from typing import Any

import pytest

from shared.config import Config, EndpointConfig, SealingConfig, Secret, StoreConfig
from shared.domain.keys import AggregateKey
from shared.errors import SealingKeyError
from shared.sealing import new_key
from shared.store.open import open_store
from shared.store.port import Store
from shared.store.queries import Queries
from tests.support import books
from tests.support import events as ev
from tests.support.clock import ManualClock
from worker.events.apply import Applier
from worker.events.arrivals import Arrival

KEYS = SealingConfig(keys=Secret(f"one:{new_key()}"))
CONFIG = Config(
    endpoint=(EndpointConfig(id="crm", url="http://127.0.0.1/", secrets=(Secret("whsec_x"),)),)
)
PERSONAL = (b"12345678901", b"REGISTRATION_ALL", b"222121", b"2024-06-25", b"SECRET-INFO")
TABLES = {
    "payloads": "body", "history": "private", "history ": "fact", "aggregates": "private",
    "aggregates ": "state", "transitions": "private", "transitions ": "data",
    "quarantine": "body", "data_keys": "key", "quarantine_keys": "key",
}  # fmt: skip


def arrivals() -> list[Arrival]:
    made: list[Any] = [ev.event(name, at=at) for at, name in enumerate(ev.NAMES)
                       if name != "consent_deleted_by_user"]  # fmt: skip
    for one in made:
        one["externalInfo"] = {"note": "SECRET-INFO"}
    unknown = {"eventName": "who_knows", "eventId": "q", "personalTaxId": "12345678901"}
    bodies = [*map(ev.dump, made), ev.dump(unknown)]
    return [Arrival(body, "klavi", "b", ev.EPOCH) for body in bodies]


async def filled(url: str, sealing: SealingConfig) -> Store:
    store = open_store(StoreConfig(url=Secret(url)), sealing)
    await store.start()
    await Applier(store, CONFIG, clock=ManualClock(ev.EPOCH)).apply(arrivals())
    return store


@pytest.mark.parametrize("sealing", [SealingConfig(), KEYS], ids=["no key", "key"])
async def test_nothing_personal_rests_in_clear(store_url: str, sealing: SealingConfig) -> None:
    store = await filled(store_url, sealing)
    await store.close()
    for table, column in TABLES.items():
        rows = books.fetch(store_url, f"SELECT {column} FROM {table}")
        assert rows, table
        for (value,) in rows:
            for secret in PERSONAL:
                assert secret not in (value or b""), (table, secret)


async def test_everything_opens_by_the_configured_key(store_url: str) -> None:
    store = await filled(store_url, KEYS)
    found = await Queries(store).aggregate(AggregateKey("consent", ev.APP, ev.CONSENT))
    await store.close()
    assert found is not None
    made = books.read(store_url, sealed_by=KEYS)
    books.check(made)
    assert made.states[found.key] == found.state
    bodies = books.payloads(store_url, sealed_by=KEYS)
    assert sorted(bodies.values()) == sorted(one.body for one in arrivals()[:-1])


async def test_without_its_key_nothing_is_read_and_nothing_taken_for_erased(store_url: str) -> None:
    await (await filled(store_url, KEYS)).close()
    other = open_store(StoreConfig(url=Secret(store_url)), SealingConfig())
    await other.start()
    key = AggregateKey("consent", ev.APP, ev.CONSENT)
    with pytest.raises(SealingKeyError, match="'one'"):
        await Queries(other).aggregate(key)
    with pytest.raises(SealingKeyError):
        async with other.transaction() as transaction:
            await transaction.lock_aggregates([key])
    await other.close()


async def test_two_that_seal_an_aggregate_first_agree_on_one_key(store_url: str) -> None:
    stores = [open_store(StoreConfig(url=Secret(store_url), busy_timeout=30)) for _ in range(2)]
    for one in stores:
        await one.start()
    appliers = [Applier(one, CONFIG, clock=ManualClock(ev.EPOCH)) for one in stores]
    names = [name for name in ev.NAMES if name.startswith("consent") and "deleted" not in name]
    events = [Arrival(ev.dump(ev.event(name, at=at)), "klavi", "b", ev.EPOCH)
              for at, name in enumerate(names * 4)]  # fmt: skip
    async with asyncio.TaskGroup() as group:
        for at, one in enumerate(events):
            group.create_task(appliers[at % 2].apply([one]))
    for one in stores:
        await one.close()
    books.check(books.read(store_url))
    assert len(books.payloads(store_url)) == len(events)
    assert len(books.fetch(store_url, "SELECT * FROM data_keys")) == 1
