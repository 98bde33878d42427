"""Erasing on demand, receipts, and changing keys, by ``correio``."""

import asyncio
from pathlib import Path

import pytest

from shared.clock import SystemClock
from shared.config import Config, SealingConfig, Secret, StoreConfig
from shared.domain.keys import AggregateKey
from shared.errors import SealingKeyError
from shared.sealing import new_key
from shared.store.open import open_store
from shared.store.port import Store
from shared.store.queries import Queries
from tests.support import books
from tests.support import events as ev
from tests.support.cli import Cli
from tests.support.cli import correio as run
from tests.support.processes import write_config
from worker.events.apply import Applier
from worker.events.arrivals import Arrival

CPF, OTHER = "11122233344", "55566677788"
OLD, NEW = f"2025:{new_key()}", f"2026:{new_key()}"


def life(who: str, tax_id: str) -> list[Arrival]:
    """Link, consent and request of somebody."""
    names = ["link_created", "consent_authorised", "product_request_received"]
    made = [ev.event(name, at=at, event_id=f"{who}{at}", linkId=f"{who}-link", personalTaxId=tax_id)
            for at, name in enumerate(names)]  # fmt: skip
    made[1]["payload"]["consents"]["consentId"] = f"{who}-consent"
    made[2]["payload"]["requestId"] = f"{who}-request"
    made[2]["payload"]["requestBody"] |= {"taxId": tax_id, "consentIds": [f"{who}-consent"]}
    return [Arrival(ev.dump(one), "klavi", "b", ev.EPOCH) for one in made]


def set_up(folder: Path, store: str, keys: str = "") -> Cli:
    """``correio`` on one store; only commands that leave the broker alone."""
    return Cli(write_config(folder, store={"url": store}, sealing={"keys": keys}))


@pytest.fixture
async def correio(store: Store, store_url: str, tmp_path: Path) -> Cli:
    applier = Applier(store, Config(), clock=SystemClock())
    await applier.apply([*life("maria", CPF), *life("joao", OTHER)])
    return set_up(tmp_path, store_url)


ALL = ["consent", "link", "product_request"]


@pytest.mark.parametrize(
    "what",
    [
        ("consent", ev.APP, "maria-consent"),
        ("link", ev.APP, "maria-link"),
        ("subject", "111.222.333-44"),
    ],
)
async def test_erasing_on_demand(correio: Cli, store_url: str, what: tuple[str, ...]) -> None:
    shown = await correio("erase", *what)
    assert shown["dryRun"] is True
    assert {"aggregate": "consent", "id": "maria-consent"} in shown["erased"]
    assert len(books.payloads(store_url)) == 6
    done = await correio("erase", *what, "--yes")
    assert done["receipts"][0]["erased"]["payloads"] == 1
    assert CPF not in repr(books.payloads(store_url))
    assert len(books.payloads(store_url)) == 3
    found = (await correio("erasures"))["erasures"]
    assert sorted(one["aggregate"] for one in found) == ALL
    assert {one["id"].split("-")[0] for one in found} == {"maria"}
    (one,) = (await correio("erasures", "maria-consent"))["erasures"]
    assert (one["reason"], one["state"]) == ("operator", "settling")
    assert {"store", "broker", "backups", "spool"} <= one["traces"].keys()
    assert (await correio("erase", *what, "--yes", exits=1))["erased"] == []
    assert (await correio("state", "consent", ev.APP, "maria-consent"))["status"] == (
        "DELETED_BY_USER"
    )
    actions = books.fetch(store_url, "SELECT action, target FROM audit")
    assert ("erase.consent", f"{ev.APP}/maria-consent") in actions


async def test_a_person_who_is_known_in_quarantine_only_is_erased_there(
    correio: Cli, store: Store, store_url: str
) -> None:
    applier = Applier(store, Config(), clock=SystemClock())
    await applier.apply([
        Arrival(b'{"eventName":"page_view","who":"999.888.777-66"}', "klavi", "b", ev.EPOCH),
        Arrival(b'{"eventName":"page_view","who":"%s"}' % OTHER.encode(), "klavi", "b", ev.EPOCH),
    ])  # fmt: skip
    shown = await correio("erase", "subject", "99988877766")
    assert (shown["quarantine"], shown["dryRun"], shown["erased"]) == (1, True, [])
    assert "would be emptied: 1 in quarantine" in await correio.text(
        "erase", "subject", "99988877766"
    )
    assert len(books.quarantine_bodies(store_url)) == 2
    assert (await correio("erase", "subject", "99988877766", "--yes"))["quarantine"] == 1
    assert "888.777" not in repr(books.quarantine_bodies(store_url))
    assert OTHER in repr(books.quarantine_bodies(store_url))
    assert books.fetch(store_url, "SELECT count(*) FROM quarantine_keys") == [(1,)]
    assert ("erase.subject", "1 entries") in books.fetch(
        store_url, "SELECT action, detail FROM audit"
    )
    await correio("erase", "subject", "99988877766", "--yes", exits=1)


async def test_what_is_unknown_is_not_erased(correio: Cli) -> None:
    for what in (("consent", ev.APP, "x"), ("link", ev.APP, "x"), ("subject", "99999999999")):
        assert (await correio("erase", *what, "--yes", exits=1))["erased"] == []
    status, _, err = await run(correio.path, "erase", "subject", "Maria")
    assert (status, "CPF" in err) == (2, True)
    assert (await correio("erasures", "x", exits=1)) == {"erasures": []}


async def test_a_person_is_found_by_tax_id(correio: Cli) -> None:
    for text in (CPF, "111.222.333-44"):
        trace = await correio("trace", text)
        assert {one["id"].split("-")[0] for one in trace["transitions"]} == {"maria"}
        assert CPF not in repr(trace)
    await correio("trace", "99999999999", exits=1)


async def test_the_doctor_tells_of_what_was_stored_before_there_was_sealing(
    correio: Cli, store: Store
) -> None:
    async def said() -> str:
        answer = await correio("doctor", exits=1)  # there is no broker
        (found,) = (one["found"] for one in answer["findings"] if one["name"] == "sealing")
        return str(found)

    assert "in clear" not in await said()
    await store.change([
        ("UPDATE payloads SET body = ? WHERE seq = (SELECT min(seq) FROM payloads)",
         (b'{"cpf":"x"}',)),
    ])  # fmt: skip
    assert "what was stored before there was sealing lies in clear, since 20" in await said()


async def test_keys_are_changed_under_load_and_nothing_is_rewritten(
    store_url: str, tmp_path: Path
) -> None:
    """No read fails, no payload is rewritten, and the old key can be removed afterwards."""
    both = SealingConfig(keys=Secret(f"{NEW},{OLD}"))
    before = open_store(StoreConfig(url=Secret(store_url)), SealingConfig(keys=Secret(OLD)))
    await before.start()
    await Applier(before, Config(), clock=SystemClock()).apply(
        [one for number in range(60) for one in life(f"old{number}", CPF)]
    )
    await before.close()
    bodies = dict(books.fetch(store_url, "SELECT seq, body FROM payloads"))
    load = open_store(StoreConfig(url=Secret(store_url), busy_timeout=30), both)
    await load.start()
    applier, queries = Applier(load, Config(), clock=SystemClock()), Queries(load)
    done = asyncio.Event()

    async def write_and_read() -> int:
        turns = 0
        while not done.is_set() or turns < 5:
            await applier.apply(life(f"new{turns}", OTHER))
            one = f"old{turns % 60}-consent"
            await applier.apply([
                Arrival(ev.dump(ev.event("consent_error", at=9, event_id=f"t{turns}",
                                         consentId=one)), "klavi", "b", ev.EPOCH)
            ])  # fmt: skip
            found = await queries.aggregate(AggregateKey("consent", ev.APP, one))
            assert found is not None
            assert found.state.permissions_granted  # type: ignore[union-attr]  # a consent
            turns += 1
        return turns

    working = asyncio.create_task(write_and_read())
    correio = set_up(tmp_path, store_url, keys=f"{NEW},{OLD}")
    rewrapped = (await correio("keys", "rewrap"))["rewrapped"]
    done.set()
    turns = await working
    await load.close()
    assert rewrapped == 180
    assert turns >= 5
    listed = {one["id"]: one for one in (await correio("keys", "list"))["keys"]}
    assert (listed["2026"]["first"], listed["2025"]["wraps"]) == (True, 0)
    after = dict(books.fetch(store_url, "SELECT seq, body FROM payloads"))
    assert {seq: after[seq] for seq in bodies} == bodies
    alone = SealingConfig(keys=Secret(NEW))
    books.check(books.read(store_url, sealed_by=alone))
    opened = books.payloads(store_url, sealed_by=alone)
    assert len(opened) == 180 + 4 * turns


async def test_a_key_in_use_that_is_not_configured_is_named(store_url: str, tmp_path: Path) -> None:
    sealed = open_store(StoreConfig(url=Secret(store_url)), SealingConfig(keys=Secret(OLD)))
    await sealed.start()
    await Applier(sealed, Config(), clock=SystemClock()).apply(life("maria", CPF))
    await sealed.close()
    correio = set_up(tmp_path, store_url, keys=NEW)
    listed = (await correio("keys", "list", exits=1))["keys"]
    assert [(one["id"], one["configured"]) for one in listed] == [("2026", True), ("2025", False)]
    other = open_store(StoreConfig(url=Secret(store_url)), SealingConfig(keys=Secret(NEW)))
    await other.start()
    with pytest.raises(SealingKeyError):
        await Queries(other).aggregate(AggregateKey("consent", ev.APP, "maria-consent"))
    await other.close()
    made = (await correio("keys", "new", "2027"))["key"]
    assert made.startswith("2027:")
