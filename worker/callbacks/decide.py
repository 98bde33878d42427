"""A retry is a returned decision. Pure: time and chance come in as arguments.

The default schedule (``callbacks.schedule``), each wait with ±20 % jitter:

| Failed attempts in this round | Next attempt after | Since the first attempt |
|---|---|---|
| 1 | 5 s | 5 s |
| 2 | 30 s | 35 s |
| 3 | 2 min | 2 min 35 s |
| 4 | 10 min | 12 min 35 s |
| 5 | 30 min | 42 min 35 s |
| 6 | 1 h | 1 h 42 min |
| 7 | 2 h | 3 h 42 min |
| 8 | 5 h | 8 h 42 min |
| 9 | 10 h | 18 h 42 min |
| 10 | 10 h | 28 h 42 min |
| 11 | none: exhausted | |

A round is one run through the schedule; a replay starts a new one and the attempts count on.
``Retry-After`` can lengthen a wait up to ``callbacks.retry_after_max``, never shorten it.
"""

from collections.abc import Sequence
from typing import assert_never

from msgspec import Struct

from shared.config import CallbacksConfig
from shared.store.rows import Delivery, DeliveryState
from worker.callbacks.outcomes import (
    EndpointGone,
    Outcome,
    PermanentFailure,
    RetryableFailure,
    Succeeded,
)


class Policy(Struct, frozen=True):
    """When to try again.

    Attributes:
        schedule: seconds to wait after the first, second, … failed attempt of a round.
        jitter: the largest part of a wait that chance adds or takes away, 0 to 1.
        retry_after_max: seconds; the most that ``Retry-After`` can ask for.
    """

    schedule: Sequence[float]
    jitter: float
    retry_after_max: float

    @classmethod
    def of(cls, config: CallbacksConfig) -> "Policy":
        """The policy that the configuration names."""
        return cls(config.schedule, config.jitter, config.retry_after_max)


class Decision(Struct, frozen=True):
    """What becomes of the delivery; `due_at` (Unix milliseconds) matters for ``retrying`` only."""

    state: DeliveryState
    due_at: int


def decide(
    delivery: Delivery, outcome: Outcome, policy: Policy, *, now: int, jitter: float
) -> Decision:
    """What one attempt's outcome makes of its delivery.

    Args:
        delivery: as it was claimed, this attempt not counted yet.
        outcome: what came of the attempt.
        policy: the schedule.
        now: when the attempt ended, in Unix milliseconds.
        jitter: chance, evenly spread over -1 to 1.
    """
    match outcome:
        case Succeeded():
            return Decision(DeliveryState.DELIVERED, now)
        case EndpointGone():
            return Decision(DeliveryState.HELD, now)
        case PermanentFailure():
            return Decision(DeliveryState.EXHAUSTED, now)
        case RetryableFailure(retry_after=asked):
            failed = delivery.attempts + 1 - delivery.round_start
            if failed > len(policy.schedule):
                return Decision(DeliveryState.EXHAUSTED, now)
            wait = policy.schedule[max(failed, 1) - 1] * (1 + policy.jitter * jitter)
            wait = max(wait, min(asked or 0.0, policy.retry_after_max))
            return Decision(DeliveryState.RETRYING, now + round(wait * 1000))
        case _ as never:
            assert_never(never)
