"""One pass over the store that removes what is over its age, so gently that nobody waits for it.

A pass is made of steps. Each is one short transaction; its size follows from how long the last one
took, and after it the pass rests, so that it keeps others from writing for a given share of the
time at most. The pass can be ended after any step, and the next one goes on.
"""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from msgspec import Struct

from shared.clock import Clock
from shared.config import RetentionConfig
from shared.errors import STORE_AWAY, StoreConflictError
from shared.store.lease import Lease
from shared.store.port import RetentionStore, SqlStore
from shared.store.retention import (
    BEGAN,
    HEAVY,
    LIGHT,
    OLDEST,
    ORPHANED_KEYS,
    Kind,
    Limits,
    ended,
    ended_values,
    limits,
)

TASK = "retention"

LEAST, MOST = 20, 5_000
"""Rows, or aggregates, in one step."""

MOST_A_SECOND = 32_000
"""Rows of all tables, if a pass had all the time: its share of that is the most that it removes.

What goes faster writes so much that others wait for the disk.
"""

LOOK = 1_000
"""Aggregates looked at in one query."""

REST = 0.005
"""Seconds of rest after a step, at least."""

FRUITLESS = 20
"""Steps in a row that find nothing old, after which a table counts as done."""

_KEEP = (
    "INSERT INTO retention (kind, kept_since) VALUES (?, ?) ON CONFLICT (kind) DO UPDATE SET "
    "kept_since = CASE WHEN excluded.kept_since > retention.kept_since "
    "THEN excluded.kept_since ELSE retention.kept_since END"
)


class Shelf(RetentionStore, SqlStore, Protocol):
    """What a pass needs of a store."""


class Due(Struct, frozen=True):
    """What would go of one kind, if a pass were made now.

    Attributes:
        days: the age at which it goes; 0 never.
        before: Unix milliseconds; what is older goes.
        count: of rows, or of aggregates; None where nothing ever goes.
    """

    kind: Kind
    days: float
    before: int
    count: int | None


class Pace:
    """How much a step takes at once, so that it takes about `step` seconds."""

    def __init__(self, step: float) -> None:
        self._step = step
        self.size = LEAST * 5

    def took(self, seconds: float) -> None:
        """Take less next time, or a little more."""
        if seconds > self._step:
            self.size = max(LEAST, self.size // 2)
        elif seconds < self._step / 2:
            self.size = min(MOST, self.size * 5 // 4)


class Retention:
    """Makes passes over one store, one at a time over all processes."""

    def __init__(self, store: Shelf, config: RetentionConfig, *, clock: Clock) -> None:
        self._store = store
        self._config = config
        self._clock = clock
        self._lease = Lease(store, TASK, clock=clock)
        self._pace = Pace(store.step)
        self._removed: Counter[str] = Counter()

    async def run_if_due(self) -> Mapping[str, int] | None:
        """Make a pass if the last one has ended long enough ago; return the rows removed by table.

        None: it is not due, or another process makes one.

        Raises:
            StoreUnavailableError: the store cannot be reached, or somebody holds a table for long.
            LeaseLostError: another process has taken over.
        """
        return await self._run(self._clock.now() - int(self._config.interval * 1000))

    async def run_now(self) -> Mapping[str, int] | None:
        """Make a pass, due or not; None if another process makes one."""
        return await self._run(self._clock.now())

    async def ended_at(self) -> int | None:
        """When a pass last ended, or the store was made, in Unix milliseconds."""
        return await self._lease.ended_at()

    async def oldest(self) -> dict[str, int]:
        """Table → when its oldest row was made, in Unix milliseconds; without the empty ones."""
        found = {}
        for table, query in OLDEST.items():
            for (at,) in await self._store.fetch(query):
                found[table] = int(at)
        return found

    async def due(self) -> list[Due]:
        """What a pass would remove now. Counting reads whole tables.

        Links are counted when they have no consent and no request any more: a pass that removes
        the last of these removes their links too.
        """
        now = limits(self._config, now=self._clock.now())
        counted: list[Due] = []
        for kind in Kind:
            before = now.before(kind)
            count = await self._count(kind, now) if before else None
            counted.append(Due(kind, _days(self._config, kind), before, count))
        return counted

    async def _count(self, kind: Kind, now: Limits) -> int:
        before = now.before(kind)
        if kind in LIGHT:
            return await self._number(LIGHT[kind].count, *LIGHT[kind].values(before))
        if kind is Kind.AGGREGATES:
            query = "SELECT count(*) FROM aggregates a WHERE {}"
            return sum([
                await self._number(query.format(ended(links=links)), *ended_values(now))
                for links in (False, True)
            ])  # fmt: skip
        column = "received_at" if kind is Kind.PAYLOADS else "at"
        return await self._number(f"SELECT count(*) FROM {kind} WHERE {column} < ?", before)  # noqa: S608 - names of our own

    async def _number(self, query: str, *values: str | int) -> int:
        ((found,),) = await self._store.fetch(query, values)
        return int(found)

    async def _run(self, ended_before: int) -> Mapping[str, int] | None:
        if not await self._lease.take(ended_before=ended_before):
            return None
        self._removed = Counter()
        try:
            await self._pass(limits(self._config, now=self._clock.now()))
        except BaseException:
            with contextlib.suppress(*STORE_AWAY):
                await self._lease.give_back()
            raise
        await self._lease.end()
        return self._removed

    async def _pass(self, now: Limits) -> None:
        await self._store.make_room(now=self._clock.now())
        await self._store.change([
            (_KEEP, (kind.value, now.before(kind))) for kind in Kind
        ])  # fmt: skip
        for kind in HEAVY:
            if now.before(kind):
                await self._forget(kind, now.before(kind))
        for links in (False, True):
            async for going in self._ended(now, links=links):
                await self._purge(going, now, links=links)
        for kind, light in LIGHT.items():
            if now.before(kind):
                await self._empty(light.table, light.delete, light.values(now.before(kind)))
        await self._empty("quarantine_keys", ORPHANED_KEYS, ())

    async def _forget(self, kind: Kind, before: int) -> None:
        pace, last, fruitless = Pace(self._store.step), None, 0
        while fruitless < FRUITLESS:
            step = await self._store.forget(kind, before=before, after=last, limit=pace.size)
            fruitless = 0 if any(step.removed.values()) else fruitless + 1
            rows = min(pace.size, sum(step.removed.values()))  # a dropped day is one step
            await self._between(pace, step.removed, step.seconds, rows=rows)
            last = step.last
            if last is None:
                return

    async def _ended(self, now: Limits, *, links: bool) -> AsyncIterator[list[int]]:
        """Ids of aggregates that may go, some at a time, the oldest first.

        The walk ends where they begin to be too young: who was made later is younger still.
        """
        last: int | None = -1
        while last is not None:
            page = await self._store.ended(now, links=links, after=last, limit=LOOK)
            if page.going:
                yield page.going
            last = page.last
            if last is not None:
                began = await self._store.fetch(BEGAN, (last,))
                if began and began[0][0] >= now.before(Kind.AGGREGATES):
                    return
            await self._clock.sleep(REST)

    async def _purge(self, going: list[int], now: Limits, *, links: bool) -> None:
        pace = self._pace
        while going:
            some, going = going[: pace.size], going[pace.size :]
            try:
                step = await self._store.purge(some, now, links=links)
            except StoreConflictError:  # they are still there for the next pass
                await self._clock.sleep(REST)
                continue
            rows = sum(step.removed.values())
            await self._between(pace, step.removed, step.seconds, rows=rows)

    async def _empty(self, table: str, delete: str, values: tuple[str | int, ...]) -> None:
        pace, count = Pace(self._store.step), 1
        while count:
            began = self._clock.monotonic()
            size = pace.size
            (count,) = await self._store.change([(delete, (*values, size))])
            seconds = self._clock.monotonic() - began
            await self._between(pace, {table: count}, seconds, rows=count)
            if count < size:
                return

    async def _between(
        self, pace: Pace, removed: Mapping[str, int], seconds: float, *, rows: int
    ) -> None:
        """Count a step, rest after it for the `rows` that it wrote, and keep the lease."""
        self._removed.update(removed)
        pace.took(seconds)
        await self._lease.renew()
        share = self._config.share
        await self._clock.sleep(max(REST, seconds / share - seconds, rows / MOST_A_SECOND / share))


def _days(config: RetentionConfig, kind: Kind) -> float:
    match kind:
        case Kind.AGGREGATES:
            return config.ended_days
        case Kind.PAYLOADS:
            return config.payload_days
        case Kind.ATTEMPTS:
            return config.attempt_days
        case Kind.SAMPLES:
            return config.sample_days
        case Kind.ERASURES:
            return config.erasure_days
        case _:
            days: float = getattr(config, f"{kind}_days")
            return days
