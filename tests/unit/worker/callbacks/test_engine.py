"""The whole engine over a real store, on a clock that jumps from one due time to the next.

Only the broker, the network and the time are stand-ins: a day passes in a second.
"""

import asyncio
import contextlib
import heapq
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec import structs
from yarl import URL

from shared.broker import topology
from shared.broker.consumer import BatchConsumer
from shared.broker.publisher import Outgoing
from shared.config import CallbacksConfig, Secret
from shared.errors import BrokerUnavailableError, StoreUnavailableError
from shared.store.migrate import migrate
from shared.store.rows import AttemptRecord
from shared.store.sqlite.store import SqliteStore
from shared.targets import Target
from tests.support.books import fetch
from tests.support.deliveries import attempts, rows, seed
from worker.callbacks.attempt import Call, Caller
from worker.callbacks.breaker import Open
from worker.callbacks.consume import Intake
from worker.callbacks.dispatch import Dispatcher
from worker.callbacks.lanes import Lanes
from worker.callbacks.means import Means
from worker.callbacks.outcomes import Outcome, Succeeded, judge
from worker.callbacks.patience import Patience
from worker.callbacks.record import Recorder
from worker.callbacks.relay import Relay
from worker.callbacks.steward import Steward

START = 1_700_000_000_000
TOOK = 10


class JumpingClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.ms = START

    def now(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000

    async def sleep(self, seconds: float) -> None:
        self.ms += round(seconds * 1000)


class StandInBroker:
    """A work queue and its delay queues, on the same clock; counts the hops of each delivery."""

    connected = True

    def __init__(self, clock: JumpingClock) -> None:
        self.clock = clock
        self.ready: list[str] = []
        self.delayed: list[tuple[int, str]] = []
        self.hops: dict[str, list[int]] = {}
        self.losing = False

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        for message in messages:
            one = message.body.decode()
            if self.losing:
                continue
            if message.routing_key == topology.CALLBACKS:
                self.ready.append(one)
            else:
                seconds = int(message.routing_key.rpartition(".")[2].removesuffix("s"))
                heapq.heappush(self.delayed, (self.clock.ms + seconds * 1000, one))
                self.hops.setdefault(one, []).append(seconds)

    def take(self) -> list[str]:
        while self.delayed and self.delayed[0][0] <= self.clock.ms:
            self.ready.append(heapq.heappop(self.delayed)[1])
        ids, self.ready = self.ready, []
        return ids


class StandInCaller:
    """Answers as the test says."""

    def __init__(self, clock: JumpingClock) -> None:
        self.clock = clock
        self.answer: Callable[[str], Outcome] = lambda _: Succeeded(200)
        self.made: list[tuple[int, str]] = []

    async def attempt(self, _target: Target, delivery: Any) -> Call:
        at = self.clock.ms
        self.made.append((at, delivery.id))
        return Call(self.answer(delivery.id), at, TOOK)


class Engine:
    """The parts of the worker, turned by hand."""

    def __init__(self, store: SqliteStore, url: str, config: CallbacksConfig) -> None:
        self.url, self.store, self.config = url, store, config
        self.clock = JumpingClock()
        self.broker = StandInBroker(self.clock)
        self.caller = StandInCaller(self.clock)
        means = Means(
            store, self.broker, Patience(store.ping, clock=self.clock), config, self.clock
        )
        target = Target("crm", URL("https://crm.example.com/"), (b"k" * 24,), {}, 4, False)
        self.lanes = Lanes({"crm": target}, config)
        self.steward = Steward(means, self.lanes)
        self.recorder = Recorder(means, gone=self.steward.gone)
        work = asyncio.Event()
        self.dispatcher = Dispatcher(
            means, cast("Caller", self.caller), self.recorder, lanes=self.lanes, work=work
        )
        self.relay = Relay(means, depth=self._depth, lanes=self.lanes)
        self.intake = Intake(
            cast("BatchConsumer", None), means, lanes=self.lanes, holder=self.steward, work=work
        )

    async def _depth(self) -> int:
        return len(self.broker.ready)

    async def turn(self) -> None:
        """Do everything that can be done without time passing."""
        while True:
            relayed = await self.relay.step()
            ids = self.broker.take()
            await self.intake.sort(ids)
            started = await self.dispatcher.step()
            await asyncio.gather(*self.dispatcher._attempts)
            await self.recorder.drained()
            if not (relayed or ids or started):
                return

    async def run(self, *, until: Callable[[], bool], steps: int = 3_000) -> None:
        """Jump from one moment at which something happens to the next."""
        for _ in range(steps):
            await self.turn()
            if until():
                return
            self.clock.ms = max(self.clock.ms + 1, self._next())
        raise AssertionError("it does not come to an end")

    def _next(self) -> int:
        wakes = fetch(
            self.url,
            "SELECT min(wake_at) FROM deliveries WHERE state IN ('pending', 'retrying')",
        )[0][0]
        moments = [wakes, *(at for at, _ in self.broker.delayed[:1])]
        return min(one for one in moments if one is not None)

    def states(self) -> set[str]:
        return {one.state for one in rows(self.url).values()}


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    async with running(tmp_path, CallbacksConfig()) as made:
        yield made


@contextlib.asynccontextmanager
async def running(folder: Path, config: CallbacksConfig) -> AsyncIterator[Engine]:
    url = f"sqlite:///{folder / 'correio.db'}"
    await migrate(Secret(url))
    store = SqliteStore(folder / "correio.db", busy_timeout=5)
    await store.start()
    made = Engine(store, url, config)
    recording = asyncio.create_task(made.recorder.run())
    try:
        yield made
    finally:
        recording.cancel()
        await asyncio.gather(recording, return_exceptions=True)
        await store.close()


def times(engine: Engine, one: str) -> list[int]:
    return [row[5] for row in attempts(engine.url)[one]]


async def test_the_whole_default_schedule_attempt_by_attempt(engine: Engine) -> None:
    engine.caller.answer = lambda _: judge(500)
    (one,) = await seed(engine.store, endpoints=["crm"], due=[START])
    await engine.run(until=lambda: engine.states() == {"exhausted"})
    made = times(engine, one)
    assert made[0] == START
    waits = [(b - a - TOOK) / 1000 for a, b in pairwise(made)]
    assert len(waits) == len(engine.config.schedule)
    for wait, planned in zip(waits, engine.config.schedule, strict=True):
        assert 0.8 * planned - 0.001 <= wait <= 1.2 * planned + 0.1
    assert set(engine.broker.hops[one]) <= set(topology.DELAYS)
    assert max(engine.broker.hops[one]) == 18_000


async def test_retry_after_is_honoured_within_its_cap(engine: Engine) -> None:
    answers = [judge(429, retry_after=100.0), judge(503, retry_after=86_400.0), Succeeded(200)]
    engine.caller.answer = lambda _: answers.pop(0)
    (one,) = await seed(engine.store, endpoints=["crm"], due=[START])
    await engine.run(until=lambda: engine.states() == {"delivered"})
    first, second, third = times(engine, one)
    assert 100_000 <= second - first - TOOK <= 101_000
    assert 3_600_000 <= third - second - TOOK <= 3_602_000


async def test_a_lost_message_costs_the_grace_and_no_attempt(engine: Engine) -> None:
    engine.broker.losing = True
    (one,) = await seed(engine.store, endpoints=["crm"], due=[START])
    await engine.turn()
    engine.broker.losing = False
    await engine.run(until=lambda: engine.states() == {"delivered"})
    assert times(engine, one) == [START + 10_000]


async def test_every_message_lost_for_an_hour_and_all_is_delivered_all_the_same(
    engine: Engine,
) -> None:
    engine.broker.losing = True
    await seed(engine.store, endpoints=["crm"], due=[START + n * 60_000 for n in range(60)])
    end = START + 3_600_000
    await engine.run(until=lambda: engine.clock.ms >= end)
    assert engine.states() == {"pending"}
    engine.broker.losing = False
    await engine.run(until=lambda: engine.states() == {"delivered"})
    assert engine.clock.ms <= end + 20_000
    assert len(engine.caller.made) == 60


async def test_an_open_breaker_spends_nothing_probes_and_closes(tmp_path: Path) -> None:
    config = structs.replace(
        CallbacksConfig(), breaker_failures=5, breaker_open=30.0, breaker_open_max=60.0
    )
    async with running(tmp_path, config) as engine:
        engine.caller.answer = lambda _: judge(500)
        ids = await seed(engine.store, endpoints=["crm"], due=[START] * 30)
        lane = engine.lanes.all["crm"]
        await engine.turn()
        opened = len(engine.caller.made)
        assert 5 <= opened <= 5 + lane.target.max_in_flight
        assert lane.breaker == Open(START + 30_000, 1)
        await engine.run(until=lambda: len(engine.caller.made) > opened)
        assert lane.breaker == Open(engine.clock.ms + 60_000, 2)
        engine.caller.answer = lambda _: Succeeded(200)
        await engine.run(until=lambda: engine.states() == {"delivered"})
        assert not [at for at, _ in engine.caller.made if START < at < START + 30_000]
        counts = [len(made) for made in attempts(engine.url).values()]
        assert sum(counts) == len(ids) + opened + 1


@pytest.mark.parametrize("bad", [judge(500), judge(429, retry_after=30.0)])
async def test_a_clock_that_is_put_back_keeps_no_endpoint_from_being_called(
    engine: Engine, bad: Outcome
) -> None:
    engine.caller.answer = lambda _: bad
    await seed(engine.store, endpoints=["crm"], due=[START] * 30)
    await engine.turn()
    assert engine.lanes.all["crm"].blocked_until(START) is not None
    engine.caller.answer = lambda _: Succeeded(200)
    engine.clock.ms = back = START - 3_600_000
    (one,) = await seed(engine.store, endpoints=["crm"], due=[back])
    await engine.run(until=lambda: rows(engine.url)[one].state == "delivered")
    assert engine.clock.ms < back + 60_000


async def test_a_replayed_delivery_runs_through_the_schedule_anew(tmp_path: Path) -> None:
    config = structs.replace(CallbacksConfig(), schedule=(5.0, 30.0))
    async with running(tmp_path, config) as engine:
        engine.caller.answer = lambda _: judge(500)
        (one,) = await seed(engine.store, endpoints=["crm"], due=[START])
        await engine.run(until=lambda: engine.states() == {"exhausted"})
        replay = (
            "UPDATE deliveries SET state = 'pending', round_start = attempts, due_at = ?, "
            "wake_at = ? WHERE id = ?"
        )
        now = engine.clock.ms + 1_000
        await engine.store._database.run(lambda db: db.execute(replay, (now, now, one)).fetchall())
        await engine.run(until=lambda: engine.states() == {"exhausted"})
        assert [row[0] for row in attempts(engine.url)[one]] == [1, 2, 3, 4, 5, 6]


async def test_a_broker_that_confirms_nothing_holds_no_record_up(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, recorded, answered = asyncio.Event(), asyncio.Event(), asyncio.Event()
    record = engine.store.record

    async def silent(_messages: Sequence[Outgoing]) -> None:
        asked.set()
        try:
            await recorded.wait()
        finally:
            answered.set()

    async def heard(made: Sequence[AttemptRecord]) -> list[str]:
        moved = await record(made)
        if asked.is_set():
            assert not answered.is_set()
            recorded.set()
        return moved

    bad, good = await seed(engine.store, endpoints=["crm"], due=[START] * 2)
    engine.caller.answer = lambda one: judge(500) if one == bad else Succeeded(200)
    monkeypatch.setattr(engine.broker, "publish", silent)
    monkeypatch.setattr(engine.store, "record", heard)
    await engine.intake.sort([bad])
    await engine.dispatcher.step()
    await asked.wait()
    await engine.intake.sort([good])
    await engine.dispatcher.step()
    await engine.recorder.drained()
    assert recorded.is_set()
    assert {one.state for one in rows(engine.url).values()} == {"retrying", "delivered"}


async def test_retries_that_the_broker_does_not_take_are_left_to_the_store(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def refused(_messages: Sequence[Outgoing]) -> None:
        nonlocal asked
        asked += 1
        for one in later:
            engine.recorder._retries.put_nowait((one, START + 9_000_000))
        raise BrokerUnavailableError("gone")

    first, *later = await seed(engine.store, endpoints=["crm"], due=[START] * 4)
    engine.caller.answer = lambda _: judge(500)
    monkeypatch.setattr(engine.broker, "publish", refused)
    await engine.intake.sort([first])
    await engine.dispatcher.step()
    await asyncio.gather(*engine.dispatcher._attempts)
    await engine.recorder.drained()
    assert asked == 1
    found = rows(engine.url)
    assert found[first].wake_at == found[first].due_at > START
    assert {found[one].wake_at for one in later} == {START}


async def test_an_attempt_whose_record_was_lost_on_the_way_back_burns_no_retry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = structs.replace(CallbacksConfig(), schedule=(5.0, 30.0))
    async with running(tmp_path, config) as engine:
        record, lost = engine.store.record, [True, False, True, False, False]

        async def recorded_unheard(made: Sequence[AttemptRecord]) -> list[str]:
            moved = await record(made)
            if lost.pop(0):
                raise StoreUnavailableError("the connection was lost after the commit")
            return moved

        monkeypatch.setattr(engine.store, "record", recorded_unheard)
        engine.caller.answer = lambda _: judge(500)
        (one,) = await seed(engine.store, endpoints=["crm"], due=[START])
        await engine.run(until=lambda: engine.states() == {"exhausted"})
        assert [row[0] for row in attempts(engine.url)[one]] == [1, 2, 3]
        assert len(engine.caller.made) == 3


async def test_what_was_claimed_in_vain_is_given_back_though_nothing_else_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = structs.replace(CallbacksConfig(), max_in_flight=1)
    async with running(tmp_path, config) as engine:
        engine.lanes.all["crm"].mean_ms = 1.0
        stop, given_back = asyncio.Event(), asyncio.Event()
        release_leases = engine.store.release_leases

        async def released(ids: Collection[str], **how: Any) -> None:
            await release_leases(ids, **how)
            given_back.set()

        async def hanging(_target: Target, _delivery: Any) -> Call:
            await stop.wait()
            return Call(Succeeded(200), START, TOOK)

        monkeypatch.setattr(engine.store, "release_leases", released)
        monkeypatch.setattr(engine.caller, "attempt", hanging)
        await engine.intake.sort(await seed(engine.store, endpoints=["crm"], due=[START] * 3))
        dispatching = asyncio.create_task(engine.dispatcher.run(stop))
        try:
            async with asyncio.timeout(5):
                await given_back.wait()
            assert sum(one.lease is not None for one in rows(engine.url).values()) == 1
        finally:
            stop.set()
            await dispatching
            await engine.dispatcher.stop(grace=5)


async def test_a_full_queue_holds_the_relay_back(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("worker.callbacks.relay.FULL", 250)
    config = structs.replace(CallbacksConfig(), relay_batch=100)
    async with running(tmp_path, config) as engine:
        await seed(engine.store, endpoints=["crm"], due=[START] * 1_000)
        for _ in range(30):
            await engine.relay.step()
            engine.clock.ms += 20_000  # past every wake time, again and again
        assert len(engine.broker.ready) <= 350
        await engine.run(until=lambda: engine.states() == {"delivered"})
        assert len(engine.caller.made) == 1_000
