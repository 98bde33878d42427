"""What the callbacks worker is promised by a store, kept by each of them."""

import asyncio

import pytest

from shared.config import Secret, StoreConfig
from shared.domain import aggregates
from shared.domain.keys import AggregateKey
from shared.store.open import open_store
from shared.store.port import Store
from shared.store.queries import Queries
from shared.store.rows import (
    Aggregate,
    AttemptRecord,
    Changes,
    DeliveryState,
    EndpointStatus,
    NewDelivery,
    NewTransition,
)
from tests.support import books

KEY = AggregateKey("link", "app", "l1")
NOW = 1_000_000
PENDING, RETRYING, DELIVERED, EXHAUSTED, HELD = (
    DeliveryState.PENDING, DeliveryState.RETRYING, DeliveryState.DELIVERED,
    DeliveryState.EXHAUSTED, DeliveryState.HELD,
)  # fmt: skip


@pytest.fixture
async def filled(store: Store) -> Store:
    """Three deliveries: d1 and d2 for crm, due now and in a second; d3 for audit, due now."""
    async with store.transaction() as transaction:
        locked = (await transaction.lock_aggregates([KEY]))[KEY]
        state = aggregates.initial("link")
        await transaction.write(
            Changes(
                aggregates=[Aggregate(locked.id, KEY, 2, state)],
                transitions=[
                    NewTransition(locked.id, version, "link.created", "", "CREATED", None, NOW,
                                  b'{"v":%d}' % version)
                    for version in (1, 2)
                ],
                deliveries=[
                    NewDelivery("d1", locked.id, 1, "crm", "link.created", PENDING, NOW, "tp"),
                    NewDelivery("d2", locked.id, 2, "crm", "link.created", PENDING, NOW + 1_000),
                    NewDelivery("d3", locked.id, 1, "audit", "link.created", PENDING, NOW),
                ],
            )
        )  # fmt: skip
    return store


def attempt(
    state: DeliveryState, *, number: int = 1, lease: str = "L", due_at: int = 0, one: str = "d1"
) -> AttemptRecord:
    return AttemptRecord(
        delivery_id=one, lease=lease, number=number, at=NOW, duration_ms=5,
        outcome="succeeded" if state is DELIVERED else "http_status",
        status=200 if state is DELIVERED else 500, error="", answer=b"oops", state=state,
        due_at=due_at,
    )  # fmt: skip


async def claim(store: Store, one: str = "d1", *, lease: str = "L", now: int = NOW) -> bool:
    return bool(await store.claim([one], lease=lease, now=now, lease_until=now + 20_000))


async def state_of(store: Store, one: str = "d1") -> DeliveryState:
    (found,) = await store.load([one])
    return found.state


async def test_a_delivery_carries_all_that_an_attempt_needs(filled: Store) -> None:
    (one,) = await filled.claim(["d1", "unknown"], lease="L", now=NOW, lease_until=NOW + 1)
    assert (one.id, one.endpoint, one.type, one.state) == ("d1", "crm", "link.created", PENDING)
    assert (one.aggregate, one.version, one.data, one.transition_at) == (KEY, 1, b'{"v":1}', NOW)
    assert (one.due_at, one.attempts, one.round_start, one.traceparent) == (NOW, 0, 0, "tp")


async def test_wakeups_come_when_due_and_once_until_their_grace_has_passed(filled: Store) -> None:
    taken = await filled.take_wakeups(now=NOW, grace=500, limit=10)
    assert {one.id for one in taken} == {"d1", "d3"}
    assert await filled.take_wakeups(now=NOW, grace=500, limit=10) == []
    again = await filled.take_wakeups(now=NOW + 500, grace=500, limit=10)
    assert {one.id for one in again} == {"d1", "d3"}


async def test_two_callers_never_get_the_same_wakeup(filled: Store) -> None:
    taken = await asyncio.gather(
        *(filled.take_wakeups(now=NOW + 5_000, grace=500, limit=1) for _ in range(6))
    )
    ids = [one.id for some in taken for one in some]
    assert sorted(ids) == sorted(set(ids))


async def test_a_parked_delivery_wakes_later_and_spends_no_attempt(filled: Store) -> None:
    await filled.park({"d1": NOW + 9_000, "d3": NOW + 9_000})
    assert await filled.take_wakeups(now=NOW, grace=1, limit=10) == []
    (one,) = await filled.load(["d1"])
    assert (one.attempts, one.due_at) == (0, NOW)


async def test_only_one_lease_at_a_time_and_a_dead_one_runs_out(filled: Store) -> None:
    assert await claim(filled)
    assert not await claim(filled, lease="M")
    assert not await claim(filled, lease="M", now=NOW + 19_999)
    assert await claim(filled, lease="M", now=NOW + 20_000)


async def test_nothing_is_claimed_before_it_is_due(filled: Store) -> None:
    assert not await claim(filled, "d2")
    assert await claim(filled, "d2", now=NOW + 1_000)


async def test_a_claimed_delivery_wakes_when_its_lease_runs_out(filled: Store) -> None:
    await claim(filled)
    assert await filled.take_wakeups(now=NOW + 19_999, grace=1, limit=1_0) != []
    woken = await filled.take_wakeups(now=NOW + 20_000, grace=1, limit=10)
    assert "d1" in {one.id for one in woken}


async def test_a_success_ends_it(filled: Store, store_url: str) -> None:
    await claim(filled)
    assert await filled.record([attempt(DELIVERED)]) == ["d1"]
    assert await state_of(filled) is DELIVERED
    (one,) = await filled.load(["d1"])
    assert (one.attempts, one.lease_until) == (1, None)
    assert books.fetch(store_url, "SELECT number, outcome, status, duration_ms FROM attempts") == [
        (1, "succeeded", 200, 5)
    ]


async def test_a_failure_waits_for_its_next_due_time(filled: Store) -> None:
    await claim(filled)
    await filled.record([attempt(RETRYING, due_at=NOW + 3_000)])
    assert not await claim(filled, now=NOW + 2_999)
    (woken,) = [
        one
        for one in await filled.take_wakeups(now=NOW + 3_000, grace=1, limit=10)
        if one.id == "d1"
    ]
    assert woken.due_at == NOW + 3_000
    assert await claim(filled, now=NOW + 3_000)


async def test_an_attempt_without_the_lease_is_kept_but_moves_nothing(
    filled: Store, store_url: str
) -> None:
    await claim(filled)
    await claim(filled, lease="M", now=NOW + 20_000)
    assert await filled.record([attempt(EXHAUSTED, lease="L")]) == []
    assert await state_of(filled) is PENDING
    assert books.fetch(store_url, "SELECT number FROM attempts") == [(1,)]
    assert await filled.record([attempt(RETRYING, number=1, lease="M")]) == ["d1"]
    assert books.fetch(store_url, "SELECT number FROM attempts ORDER BY 1") == [(1,), (2,)]


async def test_a_late_success_counts_even_without_the_lease(filled: Store) -> None:
    await claim(filled)
    await claim(filled, lease="M", now=NOW + 20_000)
    assert await filled.record([attempt(DELIVERED, lease="L")]) == ["d1"]
    assert await filled.record([attempt(RETRYING, number=2, lease="M")]) == []
    assert await state_of(filled) is DELIVERED


async def test_many_attempts_are_recorded_together(filled: Store) -> None:
    await claim(filled, "d1")
    await claim(filled, "d3")
    moved = await filled.record([attempt(DELIVERED, one="d1"), attempt(RETRYING, one="d3")])
    assert sorted(moved) == ["d1", "d3"]
    assert await Queries(filled).endpoint_counts() == {
        "crm": {DELIVERED: 1, PENDING: 1}, "audit": {RETRYING: 1},
    }  # fmt: skip


async def test_a_lease_given_back_wakes_at_once(filled: Store) -> None:
    await claim(filled)
    await filled.release_leases(["d1"], lease="other", now=NOW)
    assert not await claim(filled, lease="M")
    await filled.release_leases(["d1"], lease="L", now=NOW)
    assert "d1" in {one.id for one in await filled.take_wakeups(now=NOW, grace=1, limit=10)}
    assert await claim(filled, lease="M")


async def test_held_deliveries_wait_and_are_released_oldest_first(filled: Store) -> None:
    assert await filled.hold("crm", now=NOW, limit=9) == 2
    assert (await Queries(filled).endpoint_counts())["crm"] == {HELD: 2}
    assert not await claim(filled)
    assert {one.id for one in await filled.take_wakeups(now=NOW, grace=1, limit=10)} == {"d3"}
    assert await filled.release_held("crm", now=NOW + 1, limit=1) == 1
    assert await state_of(filled, "d1") is PENDING
    assert await state_of(filled, "d2") is HELD
    (one,) = await filled.load(["d1"])
    assert one.due_at == NOW + 1


async def test_no_more_is_held_at_once_than_asked_for(filled: Store) -> None:
    assert await filled.hold("crm", now=NOW, limit=1) == 1
    assert (await Queries(filled).endpoint_counts())["crm"] == {HELD: 1, PENDING: 1}
    assert await filled.hold("crm", now=NOW, limit=2) == 1
    assert await filled.hold("crm", now=NOW, limit=2) == 0
    assert await Queries(filled).endpoint_counts() == {"crm": {HELD: 2}, "audit": {PENDING: 1}}


async def test_a_failure_of_what_was_held_meanwhile_leaves_it_held(filled: Store) -> None:
    await claim(filled)
    await filled.hold("crm", now=NOW, limit=9)
    assert await filled.record([attempt(RETRYING)]) == []
    assert await state_of(filled) is HELD
    assert (await filled.load(["d1"]))[0].lease_until is None


async def test_a_success_of_what_was_held_meanwhile_ends_it(filled: Store) -> None:
    await claim(filled)
    await filled.hold("crm", now=NOW, limit=9)
    assert await filled.record([attempt(DELIVERED)]) == ["d1"]
    assert await state_of(filled) is DELIVERED


async def test_the_status_of_an_endpoint_is_kept(filled: Store) -> None:
    assert await filled.endpoint_rows() == {}
    await filled.set_endpoint("crm", EndpointStatus.PAUSED, reason="why", now=1)
    await filled.set_endpoint("crm", EndpointStatus.DISABLED, reason="410", now=2)
    row = (await filled.endpoint_rows())["crm"]
    assert (row.status, row.reason, row.changed_at) == (EndpointStatus.DISABLED, "410", 2)


async def test_the_most_overdue_is_known(filled: Store) -> None:
    assert await filled.oldest_due() == NOW
    for one in ("d1", "d3"):
        await claim(filled, one)
        await filled.record([attempt(DELIVERED, one=one)])
    assert await filled.oldest_due() == NOW + 1_000
    await filled.hold("crm", now=NOW, limit=9)
    assert await filled.oldest_due() is None


async def test_a_hundred_claims_at_once_give_one_lease(filled: Store) -> None:
    won = await asyncio.gather(*(claim(filled, lease=f"L{i}") for i in range(100)))
    assert sum(won) == 1


async def test_attempts_of_one_delivery_recorded_together_get_numbers_of_their_own(
    filled: Store, store_url: str
) -> None:
    await claim(filled)
    late = attempt(RETRYING, number=1, lease="gone", due_at=NOW + 1)
    assert await filled.record([late, attempt(RETRYING, number=1), late]) == ["d1"]
    assert books.fetch(store_url, "SELECT number FROM attempts ORDER BY 1") == [(1,), (2,), (3,)]
    (one,) = await filled.load(["d1"])
    assert (one.state, one.attempts, one.lease_until) == (RETRYING, 3, None)


@pytest.mark.parametrize("state", [DELIVERED, RETRYING, EXHAUSTED, HELD])
async def test_an_attempt_is_kept_once_though_it_is_recorded_again(
    filled: Store, store_url: str, state: DeliveryState
) -> None:
    await claim(filled)
    made = attempt(state, due_at=NOW + 3_000)
    assert await filled.record([made]) == ["d1"]
    await filled.record([made])  # the answer to the commit was lost
    await claim(filled, lease="M", now=NOW + 3_000)
    await filled.record([made])
    assert books.fetch(store_url, "SELECT number FROM attempts") == [(1,)]
    (one,) = await filled.load(["d1"])
    assert (one.state, one.attempts) == (state, 1)
    assert one.lease_until == (NOW + 23_000 if state is RETRYING else None)


@pytest.mark.parametrize("ended", [DELIVERED, RETRYING])
async def test_of_what_was_cancelled_meanwhile_only_a_success_counts(
    filled: Store, store_url: str, ended: DeliveryState
) -> None:
    await claim(filled)
    await filled.change([("UPDATE deliveries SET state = ? WHERE id = ?", ("cancelled", "d1"))])
    moved = await filled.record([attempt(ended)])
    assert moved == (["d1"] if ended is DELIVERED else [])
    assert await state_of(filled) is (DELIVERED if ended is DELIVERED else DeliveryState.CANCELLED)
    assert books.fetch(store_url, "SELECT count(*) FROM attempts") == [(1,)]


async def test_workers_that_share_a_store_never_get_the_same_delivery(
    filled: Store, store_url: str
) -> None:
    other = open_store(StoreConfig(url=Secret(store_url)))
    await other.start()
    both = (filled, other)
    later = NOW + 1_000
    taken = await asyncio.gather(
        *(both[turn % 2].take_wakeups(now=later, grace=500, limit=1) for turn in range(12))
    )
    woken = [one.id for some in taken for one in some]
    assert len(woken) == len(set(woken))
    won = await asyncio.gather(
        *(claim(both[turn % 2], "d2", lease=f"L{turn}", now=later) for turn in range(12))
    )
    assert sum(won) == 1
    await other.close()
