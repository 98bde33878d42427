"""Moves what the spool holds to the broker: oldest first, deleted only once confirmed."""

import asyncio
from typing import Final

from receiver.metrics import Metrics
from receiver.outlet import Outlet, messages_of
from receiver.spool import Group, Spool
from shared.clock import Clock
from shared.logs import get_logger

log = get_logger(__name__)

GROUP_EVENTS: Final = 500
"""Events sent together; half as many after each failure, for a broker that is merely slow."""
GROUP_BYTES: Final = 1_048_576
ADOPT_INTERVAL: Final = 5.0
"""Seconds between two looks for files whose owner has gone."""


class Drain:
    """Drains one spool for as long as the process lives.

    While the circuit is open it is also the probe: one event of the oldest batch tells whether
    the broker confirms again. Only one, since a broker under an alarm reads nothing and every
    try would pile up on the connection.
    """

    def __init__(
        self,
        *,
        spool: Spool,
        outlet: Outlet,
        clock: Clock,
        rate: int,
        interval: float,
        metrics: Metrics,
    ) -> None:
        """At most about `rate` events/s; `interval` seconds between attempts that fail."""
        self._spool = spool
        self._outlet = outlet
        self._clock = clock
        self._rate = rate
        self._interval = interval
        self._metrics = metrics
        self._group_events = GROUP_EVENTS

    async def run(self) -> None:
        """Drain, and look after files that lost their owner, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._drain())
            group.create_task(self._adopt())

    async def _adopt(self) -> None:
        while True:
            await self._spool.adopt()
            await self._clock.sleep(ADOPT_INTERVAL)

    async def _drain(self) -> None:
        while True:
            await self._spool.wait_filled()
            began = self._clock.monotonic()
            moved = await self._move() if self._outlet.takes else 0
            if not moved:
                await self._clock.sleep(self._interval)
                continue
            spent = self._clock.monotonic() - began
            await self._clock.sleep(max(0.0, moved / self._rate - spent))

    async def _move(self) -> int:
        """Send the oldest group; returns how many events the broker has taken over."""
        group = await self._spool.head(max_events=self._group_events, max_bytes=GROUP_BYTES)
        if group is None:
            return 0
        if self._outlet.circuit_open and not await self._probe(group):
            return 0
        messages = [message for stored in group.stored for message in messages_of(stored.batch)]
        if not await self._outlet.send(messages):
            self._group_events = max(1, self._group_events // 2)
            return 0
        self._group_events = min(GROUP_EVENTS, self._group_events * 2)
        await self._spool.settle(group)
        self._metrics.spool_drained.inc(len(messages))
        held = self._spool.totals
        log.info("spool.drained", count=len(messages), bytes=held.bytes)
        return len(messages)

    async def _probe(self, group: Group) -> bool:
        return await self._outlet.send(messages_of(group.stored[0].batch)[:1])
