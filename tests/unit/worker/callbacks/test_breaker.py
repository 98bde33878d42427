import re
from pathlib import Path

import pytest

from shared.config import CallbacksConfig
from worker.callbacks import breaker
from worker.callbacks.breaker import Breaker, BreakerPolicy, Closed, HalfOpen, Open

POLICY = BreakerPolicy(failures=3, open_for=1_000, open_max=5_000)


def fail(state: Breaker, now: int) -> Breaker:
    return breaker.settled(state, healthy=False, now=now, policy=POLICY)


def test_it_opens_at_the_threshold_and_not_before() -> None:
    state: Breaker = Closed()
    for now in (0, 1):
        state = fail(state, now)
        assert breaker.room(state, now=now) is None
    assert fail(state, 2) == Open(1_002, 1)


def test_a_success_between_failures_starts_the_count_anew() -> None:
    state = fail(fail(Closed(), 0), 0)
    state = breaker.settled(state, healthy=True, now=0, policy=POLICY)
    assert state == Closed(0)


def test_while_open_nothing_may_start_and_then_just_one_probe() -> None:
    state: Breaker = Open(1_000, 1)
    assert breaker.room(state, now=999) == 0
    assert breaker.room(state, now=1_000) == 1
    state = breaker.started(state)
    assert state == HalfOpen(1)
    assert breaker.room(state, now=10_000) == 0


def test_a_good_probe_closes_and_a_bad_one_doubles_the_time_up_to_the_cap() -> None:
    assert breaker.settled(HalfOpen(1), healthy=True, now=0, policy=POLICY) == Closed()
    waits, state = [], fail(HalfOpen(1), 0)
    for _ in range(5):
        assert isinstance(state, Open)
        waits.append(state.until)
        state = fail(HalfOpen(state.times), 0)
    assert waits == [2_000, 4_000, 5_000, 5_000, 5_000]


def test_a_probe_that_comes_to_nothing_makes_room_for_another() -> None:
    state = breaker.abandoned(HalfOpen(2), now=7)
    assert breaker.room(state, now=7) == 1
    assert breaker.abandoned(Closed(1), now=7) == Closed(1)


def test_attempts_begun_before_it_opened() -> None:
    assert fail(Open(1_000, 1), 10) == Open(1_000, 1)
    assert breaker.settled(Open(1_000, 1), healthy=True, now=10, policy=POLICY) == Closed()


def test_when_the_clock_was_put_back_its_time_is_over() -> None:
    assert breaker.put_right(Open(9_000, 2), now=3_999, policy=POLICY) == Open(3_999, 2)
    for state in (Open(9_000, 2), Closed(1), HalfOpen(2)):
        assert breaker.put_right(state, now=4_000, policy=POLICY) == state


def test_starting_while_closed_changes_nothing() -> None:
    assert breaker.started(Closed(2)) == Closed(2)


def test_times_come_from_the_configuration() -> None:
    assert BreakerPolicy.of(CallbacksConfig()) == BreakerPolicy(10, 30_000, 600_000)


@pytest.mark.parametrize("state", [Closed(0), Closed(2), Open(5, 1), Open(50, 3), HalfOpen(2)])
def test_the_drawing_knows_every_change_of_state(state: Breaker) -> None:
    text = Path(str(breaker.__file__)).read_text(encoding="utf-8")
    drawn = set(re.findall(r"^  (\w+) --> (\w+):", text, flags=re.MULTILINE))
    nows = (0, 10, 100)
    results = {fail(state, now) for now in nows}
    results |= {breaker.settled(state, healthy=True, now=now, policy=POLICY) for now in nows}
    results |= {breaker.abandoned(state, now=now) for now in nows}
    results |= {breaker.put_right(state, now=now, policy=POLICY) for now in (-9_000, *nows)}
    results.add(breaker.started(state))
    changes = {(type(state).__name__, type(one).__name__) for one in results if one != state}
    assert changes <= drawn
