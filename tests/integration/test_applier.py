"""Applying events to real stores: in any order, repeated, by several workers at once."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from shared.clock import SystemClock
from shared.config import Config, EndpointConfig, Secret, SourceConfig, StoreConfig
from shared.domain.events import content_digest
from shared.domain.keys import AggregateKey
from shared.eraser import Eraser
from shared.store.open import open_store
from shared.store.port import Store
from tests.benchmarks import traffic
from tests.support import books
from tests.support import events as ev
from tests.support.clock import ManualClock
from tests.support.stores import empty_tables
from worker.events.apply import Applier
from worker.events.arrivals import Arrival

CONFIG = Config(
    source=(SourceConfig(name="klavi", require_signature=False, partner_app_ids=(ev.APP, "app2")),),
    endpoint=(
        EndpointConfig(id="crm", url="http://127.0.0.1/", secrets=(Secret("whsec_x"),)),
        EndpointConfig(
            id="audit", url="http://127.0.0.1/", secrets=(Secret("whsec_x"),), types=("consent.*",)
        ),
    ),
)


def arrival(made: Any) -> Arrival:
    body = made if isinstance(made, bytes) else ev.dump(made)
    return Arrival(body=body, source="klavi", batch_id="b", received_at=ev.EPOCH)


@contextlib.asynccontextmanager
async def workers(url: str, count: int) -> AsyncIterator[list[Applier]]:
    stores = [open_store(StoreConfig(url=Secret(url), busy_timeout=30.0)) for _ in range(count)]
    try:
        for store in stores:
            await store.start()
        yield [Applier(store, CONFIG, clock=SystemClock()) for store in stores]
    finally:
        for store in stores:
            await store.close()


async def work(applier: Applier, share: Sequence[Arrival], size: int) -> None:
    for start in range(0, len(share), size):
        await applier.apply(share[start : start + size])


@pytest.mark.parametrize("name", ev.NAMES)
async def test_each_documented_event_alone_and_again(
    name: str, store: Store, store_url: str
) -> None:
    applier = Applier(store, CONFIG, clock=SystemClock())
    await applier.apply([arrival(ev.raw(name))])
    first = books.read(store_url)
    books.check(first)
    expected = {
        "link_created": {("link", ev.LINK): "CREATED"},
        "product_request_received": {
            ("product_request", ev.REQUEST): "PENDING", ("link", ev.LINK): "PLACEHOLDER",
        },
        "product_generated_success": {("product_request", ev.REQUEST): "PLACEHOLDER"},
        "product_generated_failed": {("product_request", ev.REQUEST): "PLACEHOLDER"},
    }  # fmt: skip
    consent = {
        ("consent", ev.CONSENT): name.removeprefix("consent_").upper(),
        ("link", ev.LINK): "PLACEHOLDER",
    }
    assert first.statuses == expected.get(name, consent)
    assert first.labels == {"applied": 1}

    await applier.apply([arrival(ev.raw(name))])
    again = books.read(store_url)
    assert again.duplicates == 1
    again.duplicates = 0
    assert again == first


async def test_sources_that_nobody_configured_are_one_in_the_figures(store: Store) -> None:
    """Whoever may publish to the broker could else make a series for each message."""
    before = {name: counted(name) for name in ("klavi", "other")}
    applier = Applier(store, CONFIG, clock=SystemClock())
    await applier.apply([
        Arrival(body=b"{", source=name, batch_id="b", received_at=ev.EPOCH)
        for name in ("klavi", "x1", "x2")
    ])  # fmt: skip
    assert counted("klavi") == before["klavi"] + 1
    assert counted("other") == before["other"] + 2
    assert counted("x1") == 0


def counted(source: str) -> float:
    """Events of a source that were put into quarantine."""
    labels = {"source": source, "label": "quarantined"}
    return REGISTRY.get_sample_value("correio_events_total", labels) or 0.0


async def test_all_ten_examples_as_they_stand_share_an_id_and_are_all_folded(
    store: Store, store_url: str
) -> None:
    applier = Applier(store, CONFIG, clock=SystemClock())
    await applier.apply([arrival(ev.raw(name)) for name in ev.NAMES])
    after = books.read(store_url)
    books.check(after)
    assert after.labels == {"applied": 1, "divergent": 9}
    assert after.statuses == {
        ("link", ev.LINK): "CREATED",
        ("consent", ev.CONSENT): "DELETED_BY_USER",
        ("product_request", ev.REQUEST): "PENDING",
    }


async def test_one_culprit_does_not_hold_up_its_batch(store: Store, store_url: str) -> None:
    made = [ev.event("link_created", at=i, linkId=f"l{i}") for i in range(99)]
    shuffled = [arrival(one) for one in made]
    shuffled.insert(41, arrival(b'{"eventName":"link_created","eventType":"api"}'))
    await Applier(store, CONFIG, clock=SystemClock()).apply(shuffled)
    after = books.read(store_url)
    assert after.labels == {"applied": 99}
    assert after.quarantined == {"malformed": 1}


async def test_what_the_store_refuses_is_found_by_splitting_and_quarantined(
    store: Store, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    applier = Applier(store, CONFIG, clock=SystemClock())
    committing = applier._commit

    async def refusing(batch: Any) -> Any:
        if any(b"poison" in one.arrival.body for one in batch):
            raise ValueError("this cannot be stored")
        return await committing(batch)

    monkeypatch.setattr(applier, "_commit", refusing)
    made = [ev.event("link_created", at=i, linkId=f"l{i}") for i in range(20)]
    made[7]["externalInfo"]["note"] = "poison"
    await applier.apply([arrival(one) for one in made])
    after = books.read(store_url)
    assert after.labels == {"applied": 19}
    assert after.quarantined == {"refused_by_store": 1}


async def test_a_fault_after_the_commit_refuses_nothing(
    store: Store, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a log that cannot be written: the events are stored, whatever is said of them."""
    applier = Applier(store, CONFIG, clock=SystemClock())

    def full(*_arguments: Any, **_fields: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("worker.events.apply.log.info", full)
    with pytest.raises(OSError, match="no space"):
        await applier.apply([arrival(ev.event("link_created", at=i)) for i in range(4)])
    after = books.read(store_url)
    assert (sum(after.labels.values()), after.duplicates, after.quarantined) == (4, 0, {})


async def test_an_event_of_another_application_is_quarantined(store: Store, store_url: str) -> None:
    applier = Applier(store, CONFIG, clock=SystemClock())
    await applier.apply([arrival(ev.event("link_created", app="stranger"))])
    after = books.read(store_url)
    assert (after.states, after.quarantined) == ({}, {"foreign_application": 1})


async def test_what_a_former_release_stored_is_known_when_it_comes_again(
    store: Store, store_url: str
) -> None:
    """It kept digests without a key."""
    applier = Applier(store, CONFIG, clock=SystemClock())
    made = ev.event("consent_authorised")
    await applier.apply([arrival(made)])
    ((kept,),) = await store.fetch("SELECT content FROM events")
    former = content_digest(ev.dump(made))
    assert kept == content_digest(ev.dump(made), store.sealing.content_key) != former
    await store.change([("UPDATE events SET content = ?", (former,))])
    await applier.apply([arrival(made)])
    after = books.read(store_url)
    assert (sum(after.labels.values()), after.duplicates) == (1, 1)


async def test_a_quiet_request_for_all_products_settles_and_tells(
    store: Store, store_url: str
) -> None:
    folded_at = ev.EPOCH + 3_600_000  # after an outage
    applier = Applier(store, CONFIG, clock=ManualClock(folded_at))
    await applier.apply([arrival(ev.event("product_request_received", products=["all"]))])
    assert await store.unsettled(quiet_since=folded_at - 1, limit=10) == []
    (key,) = await store.unsettled(quiet_since=folded_at, limit=10)
    await applier.settle(key)
    await applier.settle(key)
    after = books.read(store_url)
    books.check(after)
    assert after.statuses["product_request", ev.REQUEST] == "SETTLED"
    assert [one["type"] for one in after.transitions[key]] == [
        "product_request.received",
        "product_request.completed",
    ]


async def test_a_hundred_deliveries_at_once_of_one_event_have_one_effect(store_url: str) -> None:
    async with workers(store_url, 4) as appliers:
        await asyncio.gather(*(
            appliers[i % 4].apply([arrival(ev.raw("consent_authorised"))]) for i in range(100)
        ))  # fmt: skip
    after = books.read(store_url)
    books.check(after)
    assert after.labels == {"applied": 1}
    assert after.duplicates == 99
    assert after.deliveries == {"pending": 2}


async def test_a_large_batch_is_applied_once_whatever_is_in_it(store_url: str) -> None:
    made = traffic.events(600)
    batch = [arrival(one) for one in (*made, *made[:20], b"no json", ev.dump({"eventId": "x"}))]
    async with workers(store_url, 2) as (one, two), asyncio.timeout(60):
        await asyncio.gather(one.apply(batch), two.apply(batch[::-1]))
    after = books.read(store_url)
    books.check(after)
    assert sum(after.labels.values()) == len(set(made))
    assert after.duplicates == 2 * (len(made) + 20) - len(set(made))


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.deep)])
async def test_two_workers_with_the_same_events_in_opposite_order(
    store_url: str, count: int
) -> None:
    made = [
        arrival(ev.event(
            random.Random(i).choice(["consent_authorised", "consent_revoked", "consent_error"]),
            at=i, event_id=f"e{i}", consentId=f"c{i % 97}", linkId=f"l{i % 13}",
        ))
        for i in range(count)
    ]  # fmt: skip
    async with workers(store_url, 2) as (one, two), asyncio.timeout(300):
        await asyncio.gather(work(one, made, 100), work(two, made[::-1], 100))
    after = books.read(store_url)
    books.check(after)
    assert sum(after.labels.values()) == count
    assert after.duplicates == count


async def test_a_whole_history_ends_the_same_in_every_order(store_url: str) -> None:
    made = [ev.event(name, at=i) for i, name in enumerate(ev.NAMES)]
    rng = random.Random(7)
    seen = None
    for _ in range(12):
        rng.shuffle(made)
        await empty_tables(store_url)
        async with workers(store_url, 1) as (applier,):
            await work(applier, [arrival(one) for one in made], rng.choice([1, 3, 10]))
            await Eraser(applier._store, CONFIG, clock=SystemClock()).work()
        after = books.read(store_url)
        books.check(after)
        assert books.payloads(store_url) == {}
        if seen is not None:
            assert (after.states, _sorted(after)) == (seen.states, _sorted(seen))
        seen = after


CHANGES = ["authorised", "error", "rejected", "expired", "revoked", "deleted_by_user"]

consent_events = st.builds(
    lambda change, at, eid, consent, link, granted, app: ev.event(
        f"consent_{change}", at=at, event_id=eid, app=app, consentId=consent, linkId=link,
        permissionsGranted=granted,
    ),
    st.sampled_from(CHANGES), st.integers(0, 9), st.sampled_from("abcdef"),
    st.sampled_from(["c1", "c2"]), st.sampled_from(["l1", "l2"]),
    st.sampled_from([["P"], ["P", "Q"]]), st.sampled_from([ev.APP, "app2"]),
)  # fmt: skip
link_events = st.builds(
    lambda at, eid, link: ev.event("link_created", at=at, event_id=eid, linkId=link),
    st.integers(0, 9), st.sampled_from("abcdef"), st.sampled_from(["l1", "l2"]),
)  # fmt: skip
outcome_events = st.builds(
    lambda kind, at, eid, product: ev.event(
        f"product_generated_{kind}", at=at, event_id=eid, product=product
    ),
    st.sampled_from(["success", "failed"]), st.integers(0, 9), st.sampled_from("abcdef"),
    st.sampled_from(["pf_checking_account", "pf_credit_card", "pf_other"]),
)  # fmt: skip
order_events = st.builds(
    lambda at, link: ev.event("product_request_received", at=at, linkId=link),
    st.integers(0, 9), st.sampled_from(["l1", "l2"]),
)  # fmt: skip
histories = st.lists(
    st.one_of(consent_events, link_events, outcome_events, order_events), min_size=1, max_size=12
)


def _sorted(after: books.Books) -> dict[AggregateKey, Any]:
    return {key: sorted(entries, key=repr) for key, entries in after.histories.items()}


async def _play(url: str, made: list[dict[str, Any]], seed: int, count: int) -> books.Books:
    """Deliver every event one to three times, shuffled, split over `count` workers."""
    rng = random.Random(seed)
    deliveries = [arrival(one) for one in made for _ in range(rng.randint(1, 3))]
    rng.shuffle(deliveries)
    await empty_tables(url)
    async with workers(url, count) as appliers, asyncio.timeout(60):
        await asyncio.gather(*(
            work(applier, deliveries[i::count], rng.choice([1, 2, 5]))
            for i, applier in enumerate(appliers)
        ))  # fmt: skip
    after = books.read(url)
    books.check(after)
    orders: dict[tuple[str, str], set[int]] = {}
    distinct_orders = {ev.dump(o): o for o in made if o["eventName"] == "product_request_received"}
    for one in distinct_orders.values():
        place = (one["partnerAppId"], one["payload"]["requestId"])
        orders.setdefault(place, set()).add(one["eventTime"])
    if len(distinct_orders) == sum(map(len, orders.values())):  # the model knows no ties of orders
        books.compare_with_model(after, made)
    told = [
        (key, one["version"], one["type"])
        for key, written in after.transitions.items()
        for one in written
    ]
    assert len(told) == len(set(told))
    return after


def _property(examples: int) -> Any:
    return settings(
        max_examples=examples,
        deadline=None,
        phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def _check_orders(url: str, made: list[dict[str, Any]], seed: int, count: int) -> None:
    first = asyncio.run(_play(url, made, seed, count))
    second = asyncio.run(_play(url, made, seed + 1, count))
    assert first.states == second.states
    assert _sorted(first) == _sorted(second)


@_property(25)
@given(histories, st.integers(0, 2**32), st.integers(1, 4))
def test_any_order_repetition_and_split_ends_the_same(
    store_url: str, made: list[dict[str, Any]], seed: int, count: int
) -> None:
    _check_orders(store_url, made, seed, count)


@pytest.mark.deep
@pytest.mark.timeout(7_200)
@_property(10_000)
@given(histories, st.integers(0, 2**32), st.integers(1, 4))
def test_any_order_repetition_and_split_ends_the_same_deep(
    store_url: str, made: list[dict[str, Any]], seed: int, count: int
) -> None:
    _check_orders(store_url, made, seed, count)


async def test_tax_ids_are_checked_for_their_form_and_nothing_is_refused(
    store: Store, store_url: str
) -> None:
    """The documented examples hold a right CPF and, in the order, a wrong one."""
    made = [ev.event(name, at=at) for at, name in enumerate(ev.NAMES)]
    made += [
        ev.event("link_created", at=20, event_id="cipher", personalTaxId="gAAAAABmJx2v8w=="),
        ev.event("link_created", at=21, event_id="none", personalTaxId=""),
        ev.event("link_created", at=22, event_id="letters", personalTaxId="12.ABC.345/01DE-35"),
        ev.event("link_created", at=23, event_id="odd", personalTaxId=[1]),
    ]
    before = {form: told_forms(form) for form in ("valid", "invalid", "unchecked")}
    await Applier(store, CONFIG, clock=SystemClock()).apply([arrival(one) for one in made])
    forms = dict(books.fetch(store_url, "SELECT event_id, tax_form FROM events"))
    assert {name for name, form in forms.items() if form == "invalid"} == {
        "product_request_received-7", "odd",
    }  # fmt: skip
    assert (forms["cipher"], forms["none"], forms["letters"]) == ("unchecked", "", "valid")
    assert books.read(store_url).quarantined == {}
    assert {form: told_forms(form) - before[form] for form in before} == {
        "valid": 10, "invalid": 2, "unchecked": 1,
    }  # fmt: skip


def told_forms(form: str) -> float:
    labels = {"source": "klavi", "form": form}
    return REGISTRY.get_sample_value("correio_events_tax_ids_total", labels) or 0.0
