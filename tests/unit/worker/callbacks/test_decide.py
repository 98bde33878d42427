"""The schedule, driven by a clock that the tests move."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from shared.config import CallbacksConfig
from shared.domain.keys import AggregateKey
from shared.store.rows import Delivery, DeliveryState
from worker.callbacks import decide as module
from worker.callbacks.decide import Decision, Policy, decide
from worker.callbacks.outcomes import (
    EndpointGone,
    FailureKind,
    PermanentFailure,
    RetryableFailure,
    Succeeded,
)

POLICY = Policy.of(CallbacksConfig())
FAILED = RetryableFailure(FailureKind.SERVER_ERROR, "answered 500", status=500)
NOW = 1_700_000_000_000


def delivery(*, attempts: int = 0, round_start: int = 0) -> Delivery:
    return Delivery(
        id="d", endpoint="crm", type="link.created", state=DeliveryState.PENDING, due_at=NOW,
        attempts=attempts, transition_at=NOW, data=b"{}",
        aggregate=AggregateKey("link", "app", "l"), version=1, round_start=round_start,
    )  # fmt: skip


def run_out(jitter: float, *, start: Delivery | None = None) -> tuple[list[float], int]:
    """Fail until the delivery is exhausted: seconds between attempts, and how many there were."""
    one, now, waits, made = start or delivery(), NOW, [], 0
    while True:
        made += 1
        decision = decide(one, FAILED, POLICY, now=now, jitter=jitter)
        one = structs.replace(one, attempts=one.attempts + 1, state=decision.state)
        if decision.state is DeliveryState.EXHAUSTED:
            return waits, made
        assert decision.state is DeliveryState.RETRYING
        waits.append((decision.due_at - now) / 1000)
        now = decision.due_at


def test_the_whole_default_schedule_to_its_end() -> None:
    waits, made = run_out(0)
    assert waits == [5, 30, 120, 600, 1800, 3600, 7200, 18000, 36000, 36000]
    assert made == 11


@pytest.mark.parametrize("jitter", [-1.0, -0.5, 0.5, 1.0])
def test_jitter_stays_within_a_fifth(jitter: float) -> None:
    plain, _ = run_out(0)
    waits, made = run_out(jitter)
    assert made == 11
    assert waits == pytest.approx([wait * (1 + 0.2 * jitter) for wait in plain])


def test_a_replay_runs_through_the_schedule_again_and_counts_on() -> None:
    waits, made = run_out(0, start=delivery(attempts=11, round_start=11))
    assert (waits[0], made) == (5, 11)


def test_other_outcomes_end_it_whatever_the_schedule_says() -> None:
    for attempts in (0, 5, 10, 50):
        one = delivery(attempts=attempts)
        gone = PermanentFailure(FailureKind.REFUSED_ADDRESS, "")
        for outcome, state in (
            (Succeeded(204), DeliveryState.DELIVERED),
            (EndpointGone(), DeliveryState.HELD),
            (gone, DeliveryState.EXHAUSTED),
        ):
            assert decide(one, outcome, POLICY, now=NOW, jitter=1) == Decision(state, NOW)


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [(None, 5), (0.0, 5), (4.0, 5), (6.0, 6), (3_600.0, 3_600), (3_601.0, 3_600), (1e9, 3_600)],
)
def test_retry_after_lengthens_up_to_its_cap_and_never_shortens(
    asked: float | None, seconds: float
) -> None:
    failed = structs.replace(FAILED, retry_after=asked)
    assert decide(delivery(), failed, POLICY, now=NOW, jitter=0).due_at == NOW + seconds * 1000


def test_retry_after_does_not_shorten_a_wait_longer_than_its_cap() -> None:
    failed = structs.replace(FAILED, retry_after=1e9)
    decision = decide(delivery(attempts=9), failed, POLICY, now=NOW, jitter=0)
    assert decision.due_at == NOW + 36_000_000


def test_retry_after_does_not_prolong_the_schedule() -> None:
    failed = structs.replace(FAILED, retry_after=60.0)
    decision = decide(delivery(attempts=10), failed, POLICY, now=NOW, jitter=0)
    assert decision.state is DeliveryState.EXHAUSTED


def test_an_empty_schedule_means_one_attempt() -> None:
    policy = structs.replace(POLICY, schedule=())
    decision = decide(delivery(), FAILED, policy, now=NOW, jitter=0)
    assert decision.state is DeliveryState.EXHAUSTED


@given(
    attempts=st.integers(0, 60),
    begun=st.integers(0, 60),
    asked=st.none() | st.floats(0, 1e7),
    seed=st.integers(),
)
def test_a_retry_always_lies_ahead_and_within_bounds(
    attempts: int, begun: int, asked: float | None, seed: int
) -> None:
    one = delivery(attempts=attempts, round_start=min(begun, attempts))
    chance = random.Random(seed).uniform(-1, 1)
    decision = decide(
        one, structs.replace(FAILED, retry_after=asked), POLICY, now=NOW, jitter=chance
    )
    failed = attempts - one.round_start
    if failed >= len(POLICY.schedule):
        assert decision.state is DeliveryState.EXHAUSTED
    else:
        wait = (decision.due_at - NOW) / 1000
        assert 0.8 * POLICY.schedule[failed] <= wait + 0.001
        assert wait <= max(1.2 * POLICY.schedule[failed], POLICY.retry_after_max) + 0.001


def test_the_table_in_the_docstring_is_the_default_schedule() -> None:
    units = {"s": 1, "min": 60, "h": 3600}
    text = Path(str(module.__file__)).read_text(encoding="utf-8")
    cells = re.findall(r"^\| \d+ \| (\d+) (s|min|h) \|", text, flags=re.MULTILINE)
    assert tuple(int(n) * units[unit] for n, unit in cells) == CallbacksConfig().schedule
