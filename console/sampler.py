"""Looks at queues, spool and store every few seconds, and remembers what it saw.

Counting a large store is dear, so that the counts are refreshed only so often that counting takes
no more than a twentieth of the time.
"""

from collections import deque
from typing import Any

import orjson
from msgspec.structs import replace

from console.context import Context
from console.endpoints import endpoints_answer
from console.look import status_answer
from console.metrics import show
from console.stuck import Finding, find_stuck
from shared.broker.heads import HeadWatch
from shared.errors import CorreioError
from shared.logs import get_logger

log = get_logger(__name__)

HISTORY = 24 * 3_600.0
"""Seconds of figures kept."""

COUNTED = ("events", "quarantine", "deliveries")

KEPT_EVERY = 10.0
"""Seconds between two points that are written into the store."""

COUNTING_SHARE = 20
"""Counting rests for at least so many times as long as it took."""


class Sampler:
    """The figures of now and of the last hours.

    In memory every look is kept; one in ten seconds is written into the store, from where a
    console that is started anew takes up the charts.
    """

    def __init__(self, context: Context, *, interval: float) -> None:
        """`interval`: seconds between two looks."""
        self._context = context
        self._interval = interval
        self._counts: dict[str, Any] = dict.fromkeys(COUNTED)
        self._endpoints: list[dict[str, Any]] = []
        self._count_next = 0.0
        self._since: dict[str, int] = {}
        self._heads: HeadWatch | None = None
        self._remembered = False
        self._keep_next = 0.0
        self.status: dict[str, Any] | None = None
        self.stuck: list[Finding] = []
        self.at = 0
        self.points: deque[dict[str, Any]] = deque(maxlen=max(1, int(HISTORY / interval)))

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await self._context.clock.sleep(self._interval)

    async def look(self) -> None:
        """Look once."""
        if self._heads is None:
            self._heads = HeadWatch(self._context.config.broker, clock=self._context.clock)
        status = await status_answer(self._context, counts=False, ages=self._heads.ages)
        stored = "events" not in status["unavailable"]
        if stored:
            try:
                await self._remember()
                await self._count()
            except CorreioError as error:
                log.warning("console.uncounted", error=str(error))
            status |= self._counts
        now = self._context.clock.now()
        self.status, self.at = status, now
        self.points.append(_point(status, now))
        show(status, self._endpoints)
        if stored:
            await self._keep()
        found = find_stuck(status, self._endpoints)
        self._since = {one.key: self._since.get(one.key, now) for one in found}
        self.stuck = [replace(one, since=self._since[one.key]) for one in found]

    async def _remember(self) -> None:
        """Take up, once, the points that were written into the store."""
        if self._remembered:
            return
        since = self._context.clock.now() - int(HISTORY * 1000)
        async with self._context.queries() as queries:
            kept = [orjson.loads(one) for one in await queries.samples(since=since)]
        first = self.points[0]["at"] if self.points else self._context.clock.now()
        room = (self.points.maxlen or 0) - len(self.points)
        older = [one for one in kept if one["at"] < first]
        self.points.extendleft(reversed(older[-room:] if room else []))
        self._remembered = True

    async def _keep(self) -> None:
        clock, point = self._context.clock, self.points[-1]
        if clock.monotonic() < self._keep_next:
            return
        try:
            async with self._context.queries() as queries:
                since = point["at"] - int(HISTORY * 1000)
                await queries.keep_sample(point["at"], orjson.dumps(point), since=since)
        except CorreioError as error:
            log.warning("console.unkept", error=str(error))
            return
        self._keep_next = clock.monotonic() + KEPT_EVERY

    async def _count(self) -> None:
        clock = self._context.clock
        began = clock.monotonic()
        if began < self._count_next:
            return
        async with self._context.queries() as queries:
            self._counts = dict(await queries.counts())
        self._endpoints = await endpoints_answer(self._context)
        ended = clock.monotonic()
        self._count_next = ended + COUNTING_SHARE * (ended - began)

    def recount(self) -> None:
        """Count at the next look: something was just changed."""
        self._count_next = 0.0


def _point(status: dict[str, Any], now: int) -> dict[str, Any]:
    spool, events = status["spool"], status["events"]
    return {
        "at": now,
        "queues": {one["name"]: one["ready"] for one in status["queues"]},
        "oldest": {one["name"]: one["oldestAgeSeconds"] for one in status["queues"]},
        "spool": spool["events"] if spool else None,
        "events": None if events is None else sum(events.values()),
        "deliveries": status["deliveries"],
    }
