"""What goes for its age and what stays, on each store; the books balance before and after."""

import asyncio
import random
from typing import Any
from unittest.mock import AsyncMock

import pytest
from msgspec.structs import replace
from prometheus_client import REGISTRY

from shared.clock import SystemClock
from shared.config import Secret, StoreConfig
from shared.errors import StoreUnavailableError
from shared.ids import lowest_id, new_id
from shared.retention import MOST_A_SECOND, Retention
from shared.store.lease import SECONDS, Lease, LeaseLostError
from shared.store.open import open_store
from shared.store.port import Store
from shared.store.queries import Queries
from shared.store.retention import Kind
from shared.store.rows import DeliveryState
from tests.support import books
from tests.support import events as ev
from tests.support.life import CONFIG, KEPT, TABLES, Life
from worker.events.apply import Applier
from worker.events.arrivals import Arrival
from worker.events.keeper import Keeper


@pytest.fixture
async def life(store: Store, store_url: str) -> Life:
    return Life(store, store_url)


async def test_what_has_ended_goes_whole_and_what_lives_keeps_its_history(life: Life) -> None:
    await life.happens(
        ev.event("link_created", linkId="gone"),
        ev.event("consent_authorised", at=1, consentId="over", linkId="gone"),
        ev.event("consent_revoked", at=2, consentId="over", linkId="gone"),
        ev.event("product_request_received", at=3, requestId="done", linkId="gone",
                 products=["pf_loans"]),
        ev.event("product_generated_success", at=4, requestId="done", product="pf_loans"),
        ev.event("link_created", at=5, linkId="stays"),
        ev.event("consent_authorised", at=6, consentId="lives", linkId="stays"),
    )  # fmt: skip
    await life.deliver()
    life.pass_days(29)
    await life.retain(replace(KEPT, payload_days=0, attempt_days=0))
    assert set(life.statuses()) == {"gone", "over", "done", "stays", "lives"}
    life.pass_days(2)
    removed = await life.retain(replace(KEPT, payload_days=0, attempt_days=0))
    assert life.statuses() == {"stays": "CREATED", "lives": "AUTHORISED"}
    assert removed["aggregates"] == 3
    assert removed["events"] == removed["payloads"] == 5
    assert life.counts() == {
        "aggregates": 2, "events": 2, "payloads": 2, "history": 3, "transitions": 2,
        "deliveries": 2, "attempts": 2, "data_keys": 2, "subjects": life.count("subjects"),
        "ordered_for": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("story", "kept"),
    [
        (["consent_rejected"], 30),
        (["consent_expired"], 30),
        (["consent_deleted_by_user"], 90),
        (["consent_authorised"], None),
        (["consent_error"], None),
        (["consent_revoked", "consent_authorised"], None),  # in conflict
    ],
)
async def test_each_end_has_its_age(life: Life, story: list[str], kept: int | None) -> None:
    for at, name in enumerate(story):
        await life.happens(ev.event(name, at=at, linkId=""))
    await life.deliver()
    life.pass_days((kept or 1_000) - 1)
    await life.retain()
    assert ev.CONSENT in life.statuses()
    life.pass_days(2)
    await life.retain()
    assert (ev.CONSENT in life.statuses()) == (kept is None)


async def test_an_event_stays_for_the_link_that_it_also_speaks_of(life: Life) -> None:
    await life.happens(
        ev.event("consent_revoked", consentId="over", linkId="l"),
        ev.event("consent_authorised", at=1, consentId="lives", linkId="l"),
    )
    await life.deliver()
    life.pass_days(31)
    await life.retain()
    assert set(life.statuses()) == {"l", "lives"}
    assert life.count("events") == 2
    assert await Queries(life.store).events_with_id("consent_revoked-0")
    await life.happens(ev.event("consent_revoked", consentId="over", linkId="l"))
    await life.retain()
    assert set(life.statuses()) == {"l", "lives"}  # a repetition brings nothing back
    assert books.read(life.url).duplicates == 1


@pytest.mark.parametrize("state", ["pending", "retrying", "held", "exhausted"])
async def test_what_is_not_delivered_keeps_its_aggregate_for_longer(life: Life, state: str) -> None:
    await life.happens(ev.event("consent_revoked", linkId=""))
    if state in ("retrying", "exhausted"):
        await life.deliver(DeliveryState(state))
    if state == "held":
        await life.store.hold("crm", now=life.clock.now(), limit=100)
    life.pass_days(59)
    await life.retain()
    assert ev.CONSENT in life.statuses()
    life.pass_days(2)
    await life.retain()
    assert life.counts() == dict.fromkeys(TABLES, 0)


async def test_payloads_and_attempts_go_by_days_and_numbers_go_on(life: Life) -> None:
    await life.happens(ev.event("consent_authorised", at=1, linkId=""))
    await life.deliver(DeliveryState.EXHAUSTED)
    life.pass_days(12)
    await life.happens(ev.event("consent_revoked", at=2, linkId=""))
    await life.deliver()
    removed = await life.retain()
    assert removed == {"payloads": 1, "attempts": 1}
    assert life.count("events") == 2
    ((old,),) = books.fetch(life.url, "SELECT id FROM deliveries WHERE state = 'exhausted'")
    now = life.clock.now()
    await Queries(life.store).replay([old], states=["exhausted"], replay="r", due=[now])
    await life.attempt([old], state=DeliveryState.DELIVERED, at=now)
    assert books.fetch(life.url, f"SELECT number FROM attempts WHERE delivery_id = '{old}'") == [
        (2,)
    ]
    assert await books.audit_faults(life.url) == []


async def test_the_rest_goes_by_its_own_age(life: Life) -> None:
    queries = Queries(life.store)
    now = life.clock.now()
    await life.applier.apply([Arrival(b"{}", "klavi", "b", now), Arrival(b"[]", "klavi", "b", now)])
    entries = [one.id for one in await queries.quarantine()]
    await queries.discard(entries[:1], by="ana", now=now)
    await queries.note(actor="ana", action="discard", target="x", detail="", now=now)
    await queries.keep_sample(now, b"{}", since=0)
    gone = []
    for days in (0, 2, 2.5, 2, 15):
        life.pass_days(days)
        gone.append(set(await life.retain()))
    entries_and_keys = {"quarantine", "quarantine_keys"}
    assert gone == [set(), {"samples"}, entries_and_keys, {"audit"}, entries_and_keys]
    assert life.count("quarantine_keys") == 0


async def test_what_is_being_erased_waits_for_it_and_its_receipt_stays(life: Life) -> None:
    await life.happens(ev.event("consent_revoked", linkId=""))
    await life.deliver()
    ((number,),) = books.fetch(life.url, "SELECT id FROM aggregates")
    asked = life.clock.now()
    await life.store.change([(
        "INSERT INTO erasures (id, aggregate_id, kind, partner_app_id, key, reason, asked_at, "
        "state, due_at, tokens, receipt) "
        "VALUES (?, ?, 'consent', ?, ?, '', ?, 'pending', ?, '', ?)",
        (new_id(), number, ev.APP, ev.CONSENT, asked, asked + 10**12, b""),
    )])  # fmt: skip
    life.pass_days(61)
    await life.retain()
    assert ev.CONSENT in life.statuses()
    await life.store.change([("UPDATE erasures SET state = 'done'", ())])
    await life.retain()
    assert life.statuses() == {}
    assert life.count("erasures") == 1
    life.pass_days(160)
    await life.retain()
    assert life.count("erasures") == 0


async def test_for_ever_means_for_ever(life: Life) -> None:
    await life.happens(ev.event("consent_revoked"), ev.event("consent_deleted_by_user", at=1))
    await life.applier.apply([Arrival(b"{}", "klavi", "b", life.clock.now())])
    await life.deliver()
    life.pass_days(10_000)
    for_ever = {one: 0 for one in KEPT.__struct_fields__ if one.endswith("_days")}
    assert await life.retain(replace(KEPT, **for_ever)) == {}


async def test_a_late_event_of_what_has_gone_begins_anew(life: Life) -> None:
    await life.happens(ev.event("consent_revoked", at=5, linkId=""))
    await life.deliver()
    life.pass_days(31)
    await life.retain()
    await life.happens(ev.event("consent_authorised", at=1, linkId=""))
    assert life.statuses() == {ev.CONSENT: "AUTHORISED"}
    assert await books.audit_faults(life.url) == []


async def test_what_would_go_is_counted_beforehand(life: Life) -> None:
    await life.happens(ev.event("consent_revoked", linkId=""))
    await life.applier.apply([Arrival(b"{}", "klavi", "b", life.clock.now())])
    await life.deliver()
    life.pass_days(100)
    kept = Retention(life.store, replace(KEPT, audit_days=0), clock=life.clock)
    found = {one.kind: one.count for one in await kept.due()}
    assert found == {
        Kind.PAYLOADS: 1, Kind.ATTEMPTS: 1, Kind.AGGREGATES: 1, Kind.QUARANTINE_OPEN: 1,
        Kind.QUARANTINE_RESOLVED: 0, Kind.AUDIT: None, Kind.SAMPLES: 0, Kind.ERASURES: 0,
    }  # fmt: skip
    assert set(await kept.oldest()) == {"payloads", "attempts", "events", "quarantine"}
    await kept.run_now()
    assert {one.count for one in await kept.due()} == {0, None}
    assert await kept.oldest() == {}


async def test_a_pass_is_made_by_one_process_and_only_when_due(life: Life) -> None:
    first, second = (Retention(life.store, KEPT, clock=life.clock) for _ in range(2))
    assert await first.run_if_due() is None  # a new store begins to count
    life.clock.move(KEPT.interval + 1)
    lease = Lease(life.store, "retention", clock=life.clock)
    assert await lease.take(ended_before=life.clock.now())
    assert await second.run_if_due() is None
    life.clock.move(SECONDS + 1)  # whoever took it has died
    assert set((await second.run_if_due() or {1: 1}).values()) == {0}
    with pytest.raises(LeaseLostError):
        await lease.renew()
    assert await first.run_if_due() is None
    assert await first.ended_at() == life.clock.now()


async def test_a_pass_that_was_cut_short_is_made_again(life: Life) -> None:
    for number in range(300):
        await life.happens(ev.event("consent_revoked", consentId=f"c{number}", linkId=""))
    await life.deliver()
    life.pass_days(31)
    kept = Retention(life.store, KEPT, clock=life.clock)
    working = life.store.purge

    async def failing(*args: Any, **more: Any) -> Any:
        if life.count("aggregates") < 250:
            raise StoreUnavailableError("planted")
        return await working(*args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(life.store, "purge", failing)
        with pytest.raises(StoreUnavailableError):
            await kept.run_now()
    assert 0 < life.count("aggregates") < 300
    assert await books.audit_faults(life.url) == []
    await life.retain()
    assert life.counts() == dict.fromkeys(TABLES, 0)


async def test_a_pass_rests_for_every_row_that_it_removes_of_whatever_table(life: Life) -> None:
    await life.happens(*(
        ev.event("consent_revoked", at=at, event_id=f"e{at}", consentId=f"c{at}", linkId="")
        for at in range(200)
    ))  # fmt: skip
    await life.deliver()
    life.pass_days(40)
    began = life.clock.now()
    removed = await life.retain(replace(KEPT, payload_days=0, attempt_days=0))
    rows = sum(removed[one] for one in ("aggregates", "events", "history", "deliveries"))
    assert rows == 800
    assert life.clock.now() - began >= 1000 * rows / (MOST_A_SECOND * KEPT.share)


async def test_events_that_arrive_during_a_pass_lose_nothing(life: Life, store_url: str) -> None:
    """The same consents end, go, and are spoken of again, all at once."""
    other = open_store(StoreConfig(url=Secret(store_url)))
    await other.start()
    names = [f"c{number}" for number in range(40)]
    for name in names:
        await life.happens(ev.event("consent_revoked", at=0, consentId=name, linkId=name))
    await life.deliver()
    life.pass_days(31)
    applier = Applier(other, CONFIG, clock=life.clock)
    now = life.clock.now()

    async def speak() -> None:
        for at in range(1, 6):
            made = [ev.event("consent_authorised", at=at, consentId=name, linkId=name,
                             event_id=f"{name}-{at}") for name in names]  # fmt: skip
            await applier.apply([Arrival(ev.dump(one), "klavi", "b", now) for one in made])

    kept = Retention(life.store, KEPT, clock=life.clock)
    await asyncio.gather(speak(), kept.run_now())
    await kept.run_now()
    await other.close()
    assert await books.audit_faults(life.url) == []
    assert life.count("quarantine") == 0
    told = books.fetch(life.url, "SELECT count(*) FROM events WHERE name = 'consent_authorised'")
    assert told == [(200,)]


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.deep) for seed in range(1, 12))]
)
async def test_the_books_balance_whatever_goes_when(life: Life, seed: int) -> None:
    dice = random.Random(seed)
    for turn in range(25):
        await life.happens(*(
            ev.event(
                f"consent_{dice.choice(['authorised', 'revoked', 'rejected', 'deleted_by_user'])}",
                at=dice.randrange(50), event_id=f"{turn}-{n}",
                consentId=f"c{dice.randrange(6)}", linkId=f"l{dice.randrange(3)}",
            )
            for n in range(dice.randrange(4))
        ), *(
            ev.event(f"product_generated_{dice.choice(['success', 'failed'])}",
                     at=turn, requestId=f"r{dice.randrange(4)}")
            for _ in range(dice.randrange(2))
        ), *(
            ev.event("product_request_received", at=turn, linkId=f"l{dice.randrange(3)}",
                     requestId=f"r{dice.randrange(4)}", products=["pf_loans"])
            for _ in range(dice.randrange(2))
        ))  # fmt: skip
        if dice.random() < 0.8:
            await life.deliver(dice.choice([DeliveryState.DELIVERED, DeliveryState.EXHAUSTED]))
        life.pass_days(dice.randrange(40))
        await life.retain()


async def test_the_worker_makes_the_passes_that_are_due_and_tells_of_them(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Keeper(life.store, KEPT, clock=life.clock)
    await life.happens(ev.event("consent_revoked", linkId=""))
    await life.deliver()
    await keeper.look()
    life.pass_days(31)
    before = removed("aggregates")
    await keeper.look()
    assert life.counts() == dict.fromkeys(TABLES, 0)
    assert removed("aggregates") == before + 1
    assert figure("correio_retention_ended_timestamp_seconds") == life.clock.now() // 1 / 1000
    assert figure("correio_retention_interval_seconds") == KEPT.interval
    failures = figure("correio_retention_failures_total")
    monkeypatch.setattr(life.store, "make_room", AsyncMock(side_effect=StoreUnavailableError))
    life.pass_days(1)
    await keeper.look()
    assert figure("correio_retention_failures_total") == failures + 1


def figure(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def removed(table: str) -> float:
    return figure("correio_retention_removed_total", table=table)


async def test_ids_lie_in_the_order_of_their_time() -> None:
    now = SystemClock().now()
    assert lowest_id(now - 1000) < new_id() < lowest_id(now + 60_000)
