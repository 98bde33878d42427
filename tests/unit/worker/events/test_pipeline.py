"""The order of taking, preparing, applying and acknowledging, with a consumer of our own."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from shared.broker.consumer import Batch, Received
from shared.config import EventsConfig
from tests.support.clock import ManualClock
from worker.events.arrivals import Arrival
from worker.events.pipeline import REST_MAX, SMALL, Pipeline, never

FULL = 2


class Consumer:
    """Hands out what it was given, in batches of `FULL`, and says so."""

    def __init__(self, said: list[str], count: int) -> None:
        self.said = said
        self.waiting = [Received(b"%d" % i, {}, i + 1, False) for i in range(count)]
        self.taken: list[Taken] = []

    def take_full(self, *, limit: int) -> "Taken | None":
        return self._take(limit) if len(self.waiting) >= limit else None

    async def take_until(self, stop: asyncio.Event, *, limit: int, **_: float) -> "Taken | None":
        if not self.waiting:
            await stop.wait()
            return None
        return self._take(limit)

    def _take(self, limit: int) -> "Taken":
        batch = Taken(self, self.waiting[:limit])
        self.waiting = self.waiting[limit:]
        self.taken.append(batch)
        return batch


class Taken(Batch):
    gone = False

    def __init__(self, consumer: Consumer, messages: Sequence[Received]) -> None:
        super().__init__(messages, None)
        self._said = consumer.said

    @property
    def lost(self) -> bool:
        return self.gone

    async def ack(self) -> None:
        self._said.append("acknowledged " + numbers(self.messages))


def numbers(of: Sequence[Any]) -> str:
    return " ".join(one.body.decode() for one in of)


class Work:
    """Says what is done, looks ahead as the applier does, and stops after the last batch."""

    def __init__(
        self,
        count: int,
        *,
        stop_at: str,
        contended: Callable[[float], bool] = never,
        full: int = FULL,
    ) -> None:
        self.said: list[str] = []
        self.stop = asyncio.Event()
        self._stop_at = stop_at
        self.clock = ManualClock(0)
        self.consumer: Any = Consumer(self.said, count)
        self.pipeline = Pipeline(
            self.consumer, self.apply, prepare=self.prepare,
            config=EventsConfig(batch_max=full, give_way=0.5), clock=self.clock,
            contended=contended,
        )  # fmt: skip

    def prepare(self, arrivals: Sequence[Arrival]) -> Sequence[Arrival]:
        self.said.append("prepared " + numbers(arrivals))
        return arrivals

    async def apply(self, arrivals: Sequence[Arrival]) -> None:
        self.pipeline.look_ahead()
        self.pipeline.look_ahead()
        self.said.append("committed " + numbers(arrivals))
        if numbers(arrivals) == self._stop_at:
            self.stop.set()

    async def run(self) -> list[str]:
        async with asyncio.timeout(5):
            await self.pipeline.run(self.stop)
        return self.said


async def test_the_next_batch_is_prepared_before_and_applied_after_the_acknowledgement() -> None:
    assert await Work(5, stop_at="4").run() == [
        "prepared 0 1", "prepared 2 3", "committed 0 1", "acknowledged 0 1",
        "committed 2 3", "acknowledged 2 3",
        "prepared 4", "committed 4", "acknowledged 4",
    ]  # fmt: skip


async def test_what_was_only_prepared_is_not_acknowledged_at_the_end() -> None:
    assert await Work(4, stop_at="0 1").run() == [
        "prepared 0 1", "prepared 2 3", "committed 0 1", "acknowledged 0 1",
    ]  # fmt: skip


async def test_who_looks_ahead_too_late_takes_nothing() -> None:
    """A batch that was taken while the next one was awaited would be passed over, and lost."""

    work = Work(0, stop_at="")
    running = asyncio.create_task(work.run())
    await asyncio.sleep(0)
    work.consumer.waiting = Consumer(work.said, 2 * FULL).waiting
    work.pipeline.look_ahead()
    assert work.consumer.taken == []
    work.stop.set()
    await running


async def test_what_the_broker_will_deliver_again_is_not_applied() -> None:
    class Losing(Work):
        async def apply(self, arrivals: Sequence[Arrival]) -> None:
            await super().apply(arrivals)
            self.consumer.taken[1].gone = True

    assert await Losing(5, stop_at="4").run() == [
        "prepared 0 1", "prepared 2 3", "committed 0 1", "acknowledged 0 1",
        "prepared 4", "committed 4", "acknowledged 4",
    ]  # fmt: skip


class Slow(Work):
    """Each batch takes some time."""

    seconds = 0.1

    async def apply(self, arrivals: Sequence[Arrival]) -> None:
        await super().apply(arrivals)
        self.clock.move(self.seconds)


async def test_it_rests_and_takes_less_while_others_wait_for_the_processors() -> None:
    work = Slow(3 * SMALL, stop_at="none", contended=lambda _worked: True, full=2 * SMALL)
    running = asyncio.create_task(work.run())
    while work.consumer.waiting or work.clock.monotonic() < 0.3:
        await asyncio.sleep(0)
    assert [len(one.messages) for one in work.consumer.taken] == [2 * SMALL, SMALL]
    assert work.clock.monotonic() == pytest.approx(2 * (0.1 + 0.05))
    work.stop.set()
    await running


async def test_it_takes_more_again_bit_by_bit() -> None:
    """A large batch at once would keep those waiting who had only just been served."""
    busy = iter([True, False, False, False])
    work = Slow(
        15 * SMALL, stop_at="none", contended=lambda _worked: next(busy, False), full=4 * SMALL
    )
    running = asyncio.create_task(work.run())
    while work.consumer.waiting:
        await asyncio.sleep(0)
    taken = [len(one.messages) for one in work.consumer.taken]
    # the batch after the first had been taken ahead, before anybody waited
    assert taken == [4 * SMALL, 4 * SMALL, SMALL, 2 * SMALL, 4 * SMALL]
    work.stop.set()
    await running


async def test_a_rest_is_bounded_although_the_store_kept_it_waiting_for_long() -> None:
    class Stalled(Slow):
        seconds = 60.0

    work = Stalled(4, stop_at="2 3", contended=lambda _worked: True)
    await work.run()
    assert work.clock.monotonic() <= 2 * (60 + REST_MAX)


async def test_it_does_not_rest_while_nobody_waits() -> None:
    work = Slow(4, stop_at="2 3")
    await work.run()
    assert work.clock.monotonic() == pytest.approx(0.2)


async def test_a_rest_ends_when_it_is_to_stop() -> None:
    """A clock on which a rest would last for ever."""
    work = Slow(2, stop_at="none", contended=lambda _worked: True)
    resting = asyncio.Event()

    async def sleep(_seconds: float) -> None:
        resting.set()
        await asyncio.Event().wait()

    work.clock.sleep = sleep  # type: ignore[method-assign]  # of this clock alone
    running = asyncio.create_task(work.run())
    await resting.wait()
    work.stop.set()
    assert (await running)[-1] == "acknowledged 0 1"
