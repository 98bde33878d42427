from collections import Counter
from typing import Any

import pytest
from msgspec import structs
from yarl import URL

from shared.config import CallbacksConfig
from shared.domain.keys import AggregateKey
from shared.store.rows import Delivery, DeliveryState
from shared.targets import Target
from worker.callbacks.breaker import Closed, HalfOpen, Open
from worker.callbacks.lanes import (
    AHEAD,
    AMPLE,
    PARK_MAX,
    PARK_MIN,
    READY_MAX,
    Claimed,
    Lane,
    Lanes,
    Waiting,
    parked_wake,
)
from worker.callbacks.outcomes import EndpointGone, Outcome, Succeeded, judge

CONFIG = CallbacksConfig(max_in_flight=20, breaker_failures=3, breaker_open=30.0)
BAD = judge(500)
GOOD = Succeeded(200)


def lanes(*names: str, most: int = 4, **config: Any) -> Lanes:
    url = URL("https://example.com/")
    targets = {name: Target(name, url, (), {}, most, False) for name in names}
    return Lanes(targets, structs.replace(CONFIG, **config))


def fill(lane: Lane, count: int) -> None:
    for number in range(count):
        assert lane.push(Waiting(f"{lane.target.id}{number}", 0))


def claim(made: Lanes, now: int = 0) -> int:
    """Claim what should be claimed now; return how many that are."""
    picked = made.pick(now)
    for lane, one in picked:
        made.offer(Claimed(lane, delivery(one.id), "L", now))
    return len(picked)


def delivery(one: str) -> Delivery:
    return Delivery(
        id=one, endpoint="a", type="", state=DeliveryState.PENDING, due_at=0, attempts=0,
        transition_at=0, data=b"", aggregate=AggregateKey("consent", "1", "c"), version=1,
    )  # fmt: skip


def start(made: Lanes, now: int = 0) -> list[Claimed]:
    """Claim what should be claimed now, and start what can start."""
    claim(made, now)
    started = []
    while (one := made.start(now)) is not None:
        started.append(one)
    return started


def end(lane: Lane, outcome: Outcome, *, now: int = 0, took: float = 10.0) -> None:
    lane.finish(outcome, duration_ms=took, now=now)


def test_turns_are_fair_whatever_waits_behind_them() -> None:
    made = lanes("a", "b", "c", most=10, max_in_flight=9)
    fill(made.all["a"], 50)
    fill(made.all["b"], 3)
    fill(made.all["c"], 40)
    assert Counter(one.lane.target.id for one in start(made)) == {"a": 3, "b": 3, "c": 3}
    assert made.running == 9
    assert made.pick(0) == []


def test_an_endpoint_never_has_more_in_flight_than_it_may() -> None:
    made = lanes("a", most=4)
    fill(made.all["a"], 30)
    assert len(start(made)) == 4
    end(made.all["a"], GOOD)
    assert len(start(made)) == 1


def test_oldest_first_within_a_lane() -> None:
    made = lanes("a", most=3)
    fill(made.all["a"], 10)
    assert [one.delivery.id for one in start(made)] == ["a0", "a1", "a2"]


def test_slow_endpoints_leave_half_of_the_slots_to_the_others() -> None:
    made = lanes("slow1", "slow2", "fast", most=20)
    for name in ("slow1", "slow2"):
        made.all[name].mean_ms = 10_000
        fill(made.all[name], 20)
    fill(made.all["fast"], 20)
    counts = Counter(one.lane.target.id for one in start(made))
    assert counts["slow1"] + counts["slow2"] == 10
    assert counts["fast"] == 10


def test_a_delivery_waits_once_however_many_messages_stand_for_it() -> None:
    lane = lanes("a").all["a"]
    assert lane.push(Waiting("x", 0))
    assert lane.push(Waiting("x", 0))
    assert len(lane.waiting) == 1


def test_a_lane_takes_what_its_endpoint_can_do_within_half_the_grace() -> None:
    lane = lanes("a", most=10, wake_grace=10.0).all["a"]
    assert lane.capacity == 500  # 5 s, 100 ms each, ten at once
    lane.mean_ms = 15_000
    assert lane.capacity == 10
    fill(lane, 10)
    assert not lane.push(Waiting("one more", 0))
    lane.mean_ms = 1
    assert lane.capacity == 5_000


def test_the_breaker_opens_stays_open_and_closes_after_one_probe() -> None:
    made = lanes("a", most=4)
    lane = made.all["a"]
    fill(lane, 10)
    start(made, 0)
    for _ in range(3):
        end(lane, BAD)
    assert lane.breaker == Open(30_000, 1)
    assert made.pick(29_999) == []
    assert made.blocked(29_999) == [(lane, 30_000)]
    end(lane, BAD)  # begun before it opened: no matter
    assert len(start(made, 30_000)) == 1
    assert lane.breaker == HalfOpen(1)
    assert made.pick(30_000) == []
    assert [one.target.id for one, _ in made.blocked(30_000)] == ["a"]
    end(lane, GOOD, now=30_100)
    assert lane.breaker == Closed()
    assert len(start(made, 30_100)) == 4


def test_a_probe_that_is_not_made_or_says_nothing_leaves_room_for_another() -> None:
    made = lanes("a")
    lane = made.all["a"]
    lane.breaker = Open(0, 1)
    fill(lane, 3)
    start(made, 0)
    lane.give_up(5)
    assert len(start(made, 5)) == 1
    end(lane, judge(400), now=6)  # a judgement of the content
    assert len(start(made, 6)) == 1
    assert lane.running == 1


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_an_endpoint_that_asks_for_less_gets_less(status: int) -> None:
    made = lanes("a", most=4, breaker_failures=100)
    lane = made.all["a"]
    fill(lane, 20)
    start(made, 0)
    end(lane, judge(status, retry_after=7.0))
    assert lane.pace.slots == 2
    assert made.blocked(0) == [(lane, 7_000)]
    for _ in range(3):
        end(lane, GOOD)
    assert len(start(made, 7_000)) == 3  # on its way back
    end(lane, judge(status, retry_after=1e6), now=7_000)
    assert lane.blocked_until(7_000) == 37_000  # no longer than a breaker opens for


def test_draining_empties_the_waiting_room() -> None:
    lane = lanes("a").all["a"]
    fill(lane, 3)
    assert [one.id for one in lane.drain()] == ["a0", "a1", "a2"]
    assert not lane.waiting


def test_what_is_parked_comes_back_the_later_the_longer_it_is_overdue() -> None:
    def wait(overdue: int, *, chance: float = 0.0, blocked: int = 0) -> int:
        now = 10_000_000
        at = parked_wake(now=now, due_at=now - overdue, not_before=now + blocked, chance=chance)
        return at - now

    assert wait(0) == PARK_MIN
    assert wait(-5_000) == PARK_MIN
    assert wait(60_000) == 30_000
    assert wait(10**9) == PARK_MAX
    assert wait(0, blocked=600_000) == 600_000
    assert wait(60_000, chance=1.0) == 37_500


def test_a_lane_closes_at_once_when_its_endpoint_is_gone() -> None:
    made = lanes("a")
    lane = made.all["a"]
    fill(lane, 10)
    start(made, 0)
    end(lane, EndpointGone())
    assert (lane.open, lane.gone) == (False, True)
    assert made.pick(0) == []


def quick(made: Lanes, name: str = "a") -> Lane:
    """A lane whose endpoint has answered quickly so far."""
    made.all[name].mean_ms = 10.0
    return made.all[name]


def test_a_quick_endpoint_has_some_ready_so_that_no_slot_waits_for_the_store() -> None:
    made = lanes("a", most=4, max_in_flight=20)
    lane = quick(made)
    fill(lane, 100)
    assert claim(made) == 4 + 40  # its slots, and what 4 slots do in 100 ms
    started = []
    while (one := made.start(0)) is not None:
        started.append(one.delivery.id)
    assert started == ["a0", "a1", "a2", "a3"]
    assert made.ready == 40
    assert claim(made) == 0
    for _ in range(10):
        end(lane, GOOD)
        assert made.start(0) is not None
    assert claim(made) == 10


def test_nothing_is_claimed_ahead_for_one_that_is_slow_stopped_or_unwell() -> None:
    made = lanes("a", most=4)
    lane = quick(made)
    fill(lane, 100)
    lane.mean_ms = 60.0
    assert lane.ahead(0) == 0
    lane.mean_ms = 10.0
    lane.open = False
    assert lane.ahead(0) == 0
    lane.open = True
    lane.breaker = Open(0, 1)
    assert (lane.ahead(0), lane.free(0)) == (0, 1)


def test_what_is_ready_never_starts_where_nothing_may_and_is_taken_back() -> None:
    made = lanes("a", "b", most=4)
    for name in ("a", "b"):
        fill(quick(made, name), 10)
    claim(made)
    made.all["a"].open = False
    assert {one.lane.target.id for one in start(made)} == {"b"}
    taken = made.take_back(0)
    assert {one.lane.target.id for one in taken} == {"a"}
    assert len(taken) == 10
    assert made.take_back(READY_MAX - 1) == []
    assert {one.lane.target.id for one in made.take_back(READY_MAX)} == {"b"}
    assert made.ready == 0
    assert made.start(READY_MAX) is None


def test_nothing_starts_so_late_that_its_lease_might_end_first() -> None:
    margin = 2.0
    made = lanes("a", lease_margin=margin)
    fill(made.all["a"], 2)
    claim(made)
    assert made.start(int(margin * 1000) - 1) is not None
    assert made.start(int(margin * 1000)) is None
    assert len(made.take_back(int(margin * 1000))) == 1


def test_a_short_lease_is_given_back_as_soon_as_nothing_may_start_under_it() -> None:
    made = lanes("a", lease_margin=0.1)
    fill(made.all["a"], 1)
    claim(made)
    assert made.start(100) is None
    assert len(made.take_back(100)) == 1


def test_what_is_ready_in_all_has_a_bound() -> None:
    names = [f"e{number}" for number in range(20)]
    made = lanes(*names, most=20, max_in_flight=20)
    for name in names:
        fill(quick(made, name), 100)
    assert claim(made) == 20 + AHEAD * 20


def test_enough_waits_only_if_all_slots_are_busy_and_it_is_soon_done() -> None:
    made = lanes("a", most=20)
    lane = quick(made)
    fill(lane, AMPLE + 20 + AHEAD * 20)
    assert not made.has_ample  # nothing runs yet
    start(made)
    assert made.has_ample
    lane.mean_ms = 100.0
    assert not made.has_ample  # it takes so long that others would be kept waiting
    lane.mean_ms = 10.0
    lane.take()
    assert not made.has_ample
