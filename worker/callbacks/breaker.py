"""One breaker for each endpoint: a pure state machine over times in Unix milliseconds.

```mermaid
stateDiagram-v2
  [*] --> Closed
  Closed --> Closed: fewer failures in a row than the threshold
  Closed --> Open: one failure more
  Open --> Closed: a success of an attempt begun before
  Open --> Open: the clock was put back, so its time is over
  Open --> HalfOpen: its time is over and a probe starts
  HalfOpen --> Closed: the probe succeeds
  HalfOpen --> Open: the probe fails, for twice the time up to a cap
  HalfOpen --> Open: the probe came to nothing, at once ready for another
```

While it is open no attempt is made, so none is spent.
"""

from typing import assert_never

from msgspec import Struct

from shared.config import CallbacksConfig


class BreakerPolicy(Struct, frozen=True):
    """When to open and for how long (milliseconds)."""

    failures: int
    open_for: int
    open_max: int

    @classmethod
    def of(cls, config: CallbacksConfig) -> "BreakerPolicy":
        """The policy that the configuration names."""
        return cls(
            config.breaker_failures,
            round(config.breaker_open * 1000),
            round(config.breaker_open_max * 1000),
        )


class Closed(Struct, frozen=True):
    """Attempts flow; `failures` in a row so far."""

    failures: int = 0


class Open(Struct, frozen=True):
    """No attempt before `until`; `times` it opened since it was last closed."""

    until: int
    times: int


class HalfOpen(Struct, frozen=True):
    """One probe is under way."""

    times: int


Breaker = Closed | Open | HalfOpen


def room(state: Breaker, *, now: int) -> int | None:
    """How many attempts may start now; None for any number."""
    match state:
        case Closed():
            return None
        case Open(until=until):
            return 1 if now >= until else 0
        case HalfOpen():
            return 0
        case _ as never:
            assert_never(never)


def started(state: Breaker) -> Breaker:
    """An attempt for which there was room has started."""
    return HalfOpen(state.times) if isinstance(state, Open) else state


def abandoned(state: Breaker, *, now: int) -> Breaker:
    """A started attempt said nothing of the endpoint's health."""
    return Open(now, state.times) if isinstance(state, HalfOpen) else state


def settled(state: Breaker, *, healthy: bool, now: int, policy: BreakerPolicy) -> Breaker:
    """An attempt has ended, with a sign of health or of the lack of it."""
    if healthy:
        return Closed()
    match state:
        case Closed(failures=failures):
            if failures + 1 < policy.failures:
                return Closed(failures + 1)
            return Open(now + policy.open_for, 1)
        case Open():
            return state
        case HalfOpen(times=times):
            wait = min(policy.open_for * 2 ** min(times, 30), policy.open_max)
            return Open(now + wait, times + 1)
        case _ as never:
            assert_never(never)


def put_right(state: Breaker, *, now: int, policy: BreakerPolicy) -> Breaker:
    """Over is the time of one that would be open for longer than any: the clock was put back."""
    longest = max(policy.open_for, policy.open_max)
    if isinstance(state, Open) and state.until > now + longest:
        return Open(now, state.times)
    return state
