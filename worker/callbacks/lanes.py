"""Who may be attempted next: one lane for each endpoint, fair turns between them.

No I/O: times come in as Unix milliseconds. What waits in a lane is an id only. It is not claimed
and its message is acknowledged: the store wakes it again if this process dies.

An attempt needs a lease, and a lease takes a transaction. A lane whose endpoint is quick claims
ahead, so that no slot waits for the store: these are `ready`. What could not start soon is given
back.
"""

from collections import deque
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from shared.config import CallbacksConfig
from shared.store.rows import Delivery
from shared.targets import Target
from worker.callbacks import breaker, pace
from worker.callbacks.breaker import BreakerPolicy, Closed, HalfOpen, Open
from worker.callbacks.outcomes import (
    EndpointGone,
    Outcome,
    RetryableFailure,
    asks_to_slow,
    is_healthy,
)

WEIGHT: Final = 0.2
"""Weight of the latest attempt in the mean duration."""

FIRST_GUESS: Final = 100.0
"""Milliseconds that an attempt takes, until one has been seen."""

SLOW: Final = 1_000.0
"""Milliseconds of mean duration from which an endpoint counts as slow."""

FLOOR: Final = 5.0
"""Milliseconds that an attempt takes at the least, claim and all."""

PARK_MIN: Final = 1_000
"""Milliseconds for which a delivery is parked at the least."""

PARK_MAX: Final = 300_000
"""Milliseconds for which a delivery is parked at the most, unless it must wait longer."""

MOST_WAITING: Final = 5_000
"""Ids that one lane holds at the most."""

QUICK: Final = 50.0
"""Milliseconds of mean duration up to which an endpoint counts as quick."""

READY_FOR: Final = 100.0
"""Milliseconds of work for which a quick endpoint's lane claims ahead: a transaction of a busy
worker takes up to half of that."""

AHEAD: Final = 8
"""Times all slots that are ready at the most."""

READY_MAX: Final = 1_000
"""Milliseconds after which what is claimed and has not started is given back."""

AMPLE: Final = 2_000
"""Deliveries that keep a busy worker at work until the next come: half a second of it."""

SOON: Final = 2_000.0
"""Milliseconds within which they must be done, so that what is due elsewhere can wait for it."""


class Waiting(Struct, frozen=True):
    """A delivery that waits for a slot."""

    id: str
    due_at: int


class Claimed(Struct, frozen=True, eq=False):
    """A delivery that is ours to attempt since `at`, under a lease."""

    lane: "Lane"
    delivery: Delivery
    lease: str
    at: int


class Lane:
    """One endpoint: who waits, how many run, and what is known of its health.

    Attributes:
        ready: what is claimed and waits for a slot.
        open: whether the endpoint is enabled, as far as we know.
        gone: it has answered 410 and the store does not know yet.
    """

    def __init__(self, target: Target, config: CallbacksConfig) -> None:
        self.target = target
        self.running = 0
        self.open = True
        self.gone = False
        self.breaker: breaker.Breaker = Closed()
        self.pace = pace.fresh(target.max_in_flight)
        self.mean_ms = FIRST_GUESS
        self.waiting: dict[str, Waiting] = {}
        self.ready: deque[Claimed] = deque()
        self._policy = BreakerPolicy.of(config)
        self._longest_pause = config.breaker_open
        self._window_ms = config.wake_grace * 1000 / 2

    @property
    def is_slow(self) -> bool:
        """Whether its attempts take long: such lanes share half of all slots."""
        return self.mean_ms >= SLOW

    @property
    def capacity(self) -> int:
        """How many may wait: what the endpoint can do within half of the wake grace."""
        in_time = self._window_ms / max(self.mean_ms, FLOOR) * self.pace.slots
        return max(self.target.max_in_flight, min(int(in_time), MOST_WAITING))

    def blocked_until(self, now: int) -> int | None:
        """Until when no attempt can start, however many slots are free; None if one can."""
        if self.pace.not_before > now:
            return self.pace.not_before
        match self.breaker:
            case Open(until=until) if until > now:
                return until
            case HalfOpen():
                return now + PARK_MIN  # its probe may end at any moment
        return None

    def put_right(self, now: int) -> None:
        """End what was to last for a while and would last for longer, since the clock went back."""
        self.breaker = breaker.put_right(self.breaker, now=now, policy=self._policy)
        self.pace = pace.put_right(self.pace, now=now, longest=self._longest_pause)

    def room(self, now: int) -> int:
        """How many attempts may start now."""
        if not self.open or self.blocked_until(now) is not None:
            return 0
        free = self.pace.slots - self.running
        probes = breaker.room(self.breaker, now=now)
        return max(0, free if probes is None else min(free, probes))

    def push(self, one: Waiting) -> bool:
        """Let a delivery wait; False when the lane is full."""
        if len(self.waiting) >= self.capacity:
            return False
        self.waiting[one.id] = one
        return True

    def free(self, now: int) -> int:
        """How many may start now beyond those that are ready."""
        return max(0, self.room(now) - len(self.ready))

    def ahead(self, now: int) -> int:
        """How many should be claimed beyond that: none unless all is well and few are ready."""
        well = self.open and isinstance(self.breaker, Closed) and self.pace.not_before <= now
        if not well or not self.waiting or self.mean_ms > QUICK:
            return 0
        most = int(self.pace.slots * READY_FOR / max(self.mean_ms, FLOOR))
        return most - len(self.ready) if len(self.ready) <= most * 3 // 4 else 0

    def take(self) -> Waiting:
        """Take the one that has waited longest, to claim it."""
        return self.waiting.pop(next(iter(self.waiting)))

    def start(self) -> Claimed:
        """Take the one that has been ready longest; it counts as running from now on."""
        one = self.ready.popleft()
        self.running += 1
        self.breaker = breaker.started(self.breaker)
        return one

    def give_up(self, now: int) -> None:
        """A started one was not attempted after all."""
        self.running -= 1
        self.breaker = breaker.abandoned(self.breaker, now=now)

    def finish(self, outcome: Outcome, *, duration_ms: float, now: int) -> None:
        """A started one has ended."""
        self.running -= 1
        self.mean_ms += WEIGHT * (duration_ms - self.mean_ms)
        if isinstance(outcome, EndpointGone):
            self.open, self.gone = False, True
        healthy = is_healthy(outcome)
        if healthy is None:
            self.breaker = breaker.abandoned(self.breaker, now=now)
        else:
            self.breaker = breaker.settled(
                self.breaker, healthy=healthy, now=now, policy=self._policy
            )
        if asks_to_slow(outcome):
            asked = outcome.retry_after if isinstance(outcome, RetryableFailure) else None
            self.pace = pace.slowed_down(
                self.pace, now=now, pause=min(asked or 0.0, self._longest_pause)
            )
        elif healthy:
            self.pace = pace.sped_up(self.pace)

    def drain(self) -> list[Waiting]:
        """Empty the waiting room."""
        waiting = list(self.waiting.values())
        self.waiting.clear()
        return waiting


class Lanes:
    """All lanes, and the slots that they share."""

    def __init__(self, targets: Mapping[str, Target], config: CallbacksConfig) -> None:
        self.all = {target.id: Lane(target, config) for target in targets.values()}
        self._slots = config.max_in_flight
        self._start_within = max(1, round(config.lease_margin * 1000))
        self._ready_max = min(READY_MAX, self._start_within)
        self._order = deque(self.all.values())
        self._turns: deque[Lane] = deque()  # every lane in which some are ready

    @property
    def ready(self) -> int:
        """Claimed deliveries waiting for a slot."""
        return sum(len(lane.ready) for lane in self._turns)

    @property
    def running(self) -> int:
        """Attempts in flight."""
        return sum(lane.running for lane in self.all.values())

    @property
    def waiting(self) -> int:
        """Deliveries waiting to be claimed."""
        return sum(len(lane.waiting) for lane in self.all.values())

    @property
    def has_ample(self) -> bool:
        """Whether all slots are busy, and what waits keeps them so for a moment, not for long."""
        if self.waiting < AMPLE or self.running < self._slots:
            return False
        work = sum(len(lane.waiting) * lane.mean_ms for lane in self.all.values())
        return work / self._slots <= SOON

    def pick(self, now: int) -> list[tuple[Lane, Waiting]]:
        """Take as many as should be claimed now, one of each lane in turn.

        What is ready has been started before as far as it can be. Slow lanes together leave half
        of the slots to the others, so that endpoints that hang cannot take them all.
        """
        picked: list[tuple[Lane, Waiting]] = []
        free = self._slots - self.running
        ahead = AHEAD * self._slots - self.ready
        slow = max(1, self._slots // 2) - sum(
            lane.running + len(lane.ready) for lane in self.all.values() if lane.is_slow
        )
        turns = deque(
            (lane, lane.free(now), lane.ahead(now)) for lane in self._order if lane.waiting
        )
        self._order.rotate(-1)
        while turns:
            lane, now_free, then = turns.popleft()
            if not lane.waiting or (lane.is_slow and slow <= 0):
                continue
            if now_free > 0 and free > 0:
                now_free, free = now_free - 1, free - 1
            elif then > 0 and ahead > 0:
                then, ahead = then - 1, ahead - 1
            else:
                continue
            picked.append((lane, lane.take()))
            turns.append((lane, now_free, then))
            slow -= lane.is_slow
        return picked

    def offer(self, one: Claimed) -> None:
        """Let a claimed delivery start when its turn comes."""
        if not one.lane.ready:
            self._turns.append(one.lane)
        one.lane.ready.append(one)

    def start(self, now: int) -> Claimed | None:
        """Start one that is ready, of each lane in turn; None if none can start.

        What was claimed so long ago that its attempt might outlast its lease is not started.
        """
        for _ in range(len(self._turns)):
            lane = self._turns.popleft()
            timely = lane.ready and lane.ready[0].at + self._start_within > now
            one = lane.start() if timely and lane.room(now) else None
            if lane.ready:
                self._turns.append(lane)
            if one is not None:
                return one
        return None

    def take_back(self, now: int) -> list[Claimed]:
        """Take away what is ready in vain: it has waited long, or its endpoint gets nothing now."""
        taken: list[Claimed] = []
        for lane in self._turns:
            blocked = not lane.open or lane.blocked_until(now) is not None
            while lane.ready and (blocked or lane.ready[0].at + self._ready_max <= now):
                taken.append(lane.ready.popleft())
        self._turns = deque(lane for lane in self._turns if lane.ready)
        return taken

    def take_all(self) -> list[Claimed]:
        """Take away all that is ready."""
        taken = [one for lane in self._turns for one in lane.ready]
        for lane in self._turns:
            lane.ready.clear()
        self._turns.clear()
        return taken

    def blocked(self, now: int) -> list[tuple[Lane, int]]:
        """Lanes in which some wait although none can start, and until when."""
        return [
            (lane, until)
            for lane in self.all.values()
            if lane.waiting and (until := lane.blocked_until(now)) is not None
        ]


def parked_wake(*, now: int, due_at: int, not_before: int, chance: float) -> int:
    """When to wake a delivery that cannot be attempted now, in Unix milliseconds.

    The longer it is overdue the longer it waits, between `PARK_MIN` and `PARK_MAX`: a backlog of
    any size costs little to keep, and when its endpoint recovers it comes back spread out.

    Args:
        now: the present.
        due_at: when the delivery was due.
        not_before: no attempt can start before then.
        chance: evenly spread over 0 to 1; adds up to a quarter.
    """
    overdue = max(0, now - due_at)
    wait = max(PARK_MIN, min(overdue // 2, PARK_MAX), not_before - now)
    return now + round(wait * (1 + chance / 4))
