"""From the lanes to the endpoints: claim as many as there are free slots, attempt them."""

import asyncio
import random
from typing import Final

from shared.broker.connection import first_of
from shared.ids import new_id
from shared.logs import get_logger
from shared.store.rows import Delivery
from worker.callbacks import metrics
from worker.callbacks.attempt import Caller
from worker.callbacks.lanes import Lane, Lanes, Waiting, parked_wake
from worker.callbacks.means import Means
from worker.callbacks.patience import TRANSIENT
from worker.callbacks.record import Finished, Recorder

log = get_logger(__name__)

LOOK_INTERVAL: Final = 0.25
"""Seconds between looks at lanes in which nothing happens: breakers close by time alone."""


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
        self._attempts: dict[asyncio.Task[None], tuple[str, str]] = {}

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
            idle = self._means.clock.sleep(LOOK_INTERVAL) if self._lanes.waiting else stop.wait()
            await first_of(stop.wait(), self._work.wait(), idle)

    async def step(self) -> bool:
        """Start what can be started now, put back what cannot; return whether there was any.

        Raises:
            StoreUnavailableError: nothing is lost, what was picked waits again.
            StoreConflictError: likewise.
        """
        now = self._means.clock.now()
        await self._park_blocked(now)
        picked = self._lanes.pick(now)
        if picked:
            await self._claim(picked, now)
        return bool(picked)

    async def _claim(self, picked: list[tuple[Lane, Waiting]], now: int) -> None:
        lease, lanes = new_id(), {one.id: lane for lane, one in picked}
        try:
            claimed = await self._means.store.claim(
                list(lanes), lease=lease, now=now, lease_until=now + self._lease_ms
            )
        except TRANSIENT:
            for lane, one in picked:
                lane.give_up(now)
                lane.push(one)
            raise
        for delivery in claimed:
            self._start(lanes.pop(delivery.id), delivery, lease)
        for lane in lanes.values():  # settled, held or taken by another worker meanwhile
            lane.give_up(now)

    def _start(self, lane: Lane, delivery: Delivery, lease: str) -> None:
        task = asyncio.create_task(self._attempt(lane, delivery, lease))
        self._attempts[task] = (delivery.id, lease)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._attempts[task]
        self._work.set()

    async def _attempt(self, lane: Lane, delivery: Delivery, lease: str) -> None:
        try:
            call = await self._caller.attempt(lane.target, delivery)
        except asyncio.CancelledError:
            lane.give_up(self._means.clock.now())
            raise
        lane.finish(call.outcome, duration_ms=call.duration_ms, now=self._means.clock.now())
        self._recorder.put(Finished(delivery, lease, call))

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
        if self._attempts:
            await asyncio.wait(list(self._attempts), timeout=grace)
        rest = dict(self._attempts)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        now = self._means.clock.now()
        by_lease: dict[str, list[str]] = {}
        for task, (one, lease) in rest.items():
            if task.cancelled():
                by_lease.setdefault(lease, []).append(one)
        for lease, ids in by_lease.items():
            await self._means.store.release_leases(ids, lease=lease, now=now)
        waiting = [one.id for lane in self._lanes.all.values() for one in lane.drain()]
        if waiting:
            await self._means.store.park(dict.fromkeys(waiting, now))
