"""From the lanes to the endpoints: claim as many as there are free slots, attempt them."""

import asyncio
import random
from collections.abc import Iterable
from typing import Final, cast

from shared.broker.connection import first_of
from shared.errors import TRANSIENT
from shared.ids import new_id
from shared.logs import get_logger
from worker.callbacks import metrics
from worker.callbacks.attempt import Caller
from worker.callbacks.lanes import Claimed, Lane, Lanes, Waiting, parked_wake
from worker.callbacks.means import Means
from worker.callbacks.record import Finished, Recorder

log = get_logger(__name__)

LOOK_INTERVAL: Final = 0.25
"""Seconds between looks at lanes in which nothing happens: breakers close by time alone, and what
is claimed is given back by time alone."""


class Dispatcher:
    """Starts attempts while slots are free."""

    def __init__(
        self,
        means: Means,
        caller: Caller,
        recorder: Recorder,
        *,
        lanes: Lanes,
        work: asyncio.Event,
    ) -> None:
        """`work` is set when a lane has something new."""
        self._means = means
        self._caller = caller
        self._recorder = recorder
        self._lanes = lanes
        self._work = work
        lease = means.config.attempt_timeout + means.config.lease_margin
        self._lease_ms = round(lease * 1000)
        self._slots = means.config.max_in_flight
        self._attempts: dict[asyncio.Task[None], Claimed] = {}
        self._leaving = False

    async def run(self, stop: asyncio.Event) -> None:
        """Start attempts until `stop` is set."""
        while not stop.is_set():
            self._work.clear()
            try:
                started = await self.step()
            except TRANSIENT as error:
                await first_of(stop.wait(), self._means.patience.recovered(error))
                continue
            if started:
                continue
            some = self._lanes.waiting or self._lanes.ready
            idle = self._means.clock.sleep(LOOK_INTERVAL) if some else stop.wait()
            await first_of(stop.wait(), self._work.wait(), idle)

    async def step(self) -> bool:
        """Start what can be started now, put back what cannot; return whether there was any.

        Raises:
            StoreUnavailableError: nothing is lost, what was picked waits again.
            StoreConflictError: likewise.
        """
        now = self._means.clock.now()
        for lane in self._lanes.all.values():
            lane.put_right(now)
        await self._park_blocked(now)
        await self._give_back(self._lanes.take_back(now), now)
        self._start(now)
        picked = self._lanes.pick(now)
        if picked:
            await self._claim(picked, now)
        return bool(picked)

    async def _claim(self, picked: list[tuple[Lane, Waiting]], now: int) -> None:
        lease = new_id()
        try:
            claimed = await self._means.store.claim(
                [one.id for _, one in picked], lease=lease, now=now,
                lease_until=now + self._lease_ms,
            )  # fmt: skip
        except TRANSIENT:
            for lane, one in picked:
                lane.push(one)
            raise
        found = {one.id: one for one in claimed}
        for lane, one in picked:  # the rest is settled, held or taken by another worker meanwhile
            if one.id in found:
                self._lanes.offer(Claimed(lane, found[one.id], lease, now))
        self._start(self._means.clock.now())

    def _start(self, now: int) -> None:
        """Start what is ready, as far as there are slots."""
        while len(self._attempts) < self._slots and (one := self._lanes.start(now)) is not None:
            task = asyncio.create_task(self._work_off(one))
            self._attempts[task] = one
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._attempts[task]
        self._work.set()

    async def _work_off(self, first: Claimed) -> None:
        """Attempt one delivery, and in its slot the next, for as long as one is ready."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        one: Claimed | None = first
        while one is not None:
            self._attempts[task] = one
            await self._attempt(one)
            lane, now = one.lane, self._means.clock.now()
            one = None if self._leaving else self._lanes.start(now)
            if lane.ahead(now):
                self._work.set()

    async def _attempt(self, one: Claimed) -> None:
        lane = one.lane
        try:
            call = await self._caller.attempt(lane.target, one.delivery)
        except asyncio.CancelledError:
            lane.give_up(self._means.clock.now())
            raise
        lane.finish(call.outcome, duration_ms=call.duration_ms, now=self._means.clock.now())
        self._recorder.put(Finished(one.delivery, one.lease, call))

    async def _give_back(self, claimed: Iterable[Claimed], now: int) -> None:
        """Free the leases of what was not attempted; where that fails, they run out."""
        by_lease: dict[str, list[str]] = {}
        for one in claimed:
            by_lease.setdefault(one.lease, []).append(one.delivery.id)
        for lease, ids in by_lease.items():
            await self._means.store.release_leases(ids, lease=lease, now=now)

    async def _park_blocked(self, now: int) -> None:
        """Put what waits for an endpoint that cannot be called back into the store.

        What waits for one that is not enabled is dropped: the steward has it held.
        """
        for lane in self._lanes.all.values():
            if not lane.open:
                lane.drain()
        parked = {}
        for lane, until in self._lanes.blocked(now):
            for one in lane.drain():
                parked[one.id] = parked_wake(
                    now=now,
                    due_at=one.due_at,
                    not_before=until,
                    chance=random.random(),  # noqa: S311 - spreads load
                )
                metrics.PARKED.labels(lane.target.id, "blocked").inc()
        if parked:
            await self._means.store.park(parked)

    async def stop(self, *, grace: float) -> None:
        """Let attempts end for `grace` seconds; give back what has not ended or not started.

        An attempt that is cut off here is not recorded: nobody knows what came of it. It is
        made again under the same ``webhook-id``.
        """
        self._leaving = True
        if self._attempts:
            await asyncio.wait(list(self._attempts), timeout=grace)
        rest = dict(self._attempts)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        now = self._means.clock.now()
        cut_off = [one for task, one in rest.items() if task.cancelled()]
        await self._give_back([*cut_off, *self._lanes.take_all()], now)
        waiting = [one.id for lane in self._lanes.all.values() for one in lane.drain()]
        if waiting:
            await self._means.store.park(dict.fromkeys(waiting, now))
