"""Worker, broker and endpoint die at random under load; nothing is lost and nothing differs."""

import asyncio
import contextlib
import random
from pathlib import Path
from typing import Self

import pytest

from deploy.local.provide import PrivateBroker
from shared.ids import new_id
from tests.support.books import fetch
from tests.support.callbacks import Bench, bench, endpoint_config, sqlite_in
from tests.support.deliveries import attempts, rows, seed, until
from tests.support.endpoints import Endpoint, serving
from tests.support.workers import kill, start, write_config

PATIENT = {
    "schedule": [0.5, 1.0, *[2.0] * 60], "attempt_timeout": 3.0, "lease_margin": 1.0,
    "wake_grace": 3.0, "breaker_open": 1.0, "breaker_open_max": 2.0,
}  # fmt: skip

PARTS = ("worker", "endpoint", "broker")
NAMES = ("e0", "e1", "e2")


class Storm:
    """The parts that die, and how they come back."""

    def __init__(self, config: Path, broker: PrivateBroker, endpoint: Endpoint) -> None:
        self.chance = random.Random(7)
        self.done: list[str] = []
        self._config = config
        self._broker = broker
        self._endpoint = endpoint
        self._server = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.worker = await start(self._config, broker=self._broker.url)
        await self._serve()
        return self

    async def __aexit__(self, *_: object) -> None:
        await kill(self.worker)
        await self._server.aclose()

    async def _serve(self) -> None:
        await self._server.enter_async_context(serving(self._endpoint, port=self._endpoint.port))

    async def strike(self, what: str) -> None:
        """Kill one part, wait a little, bring it back."""
        self.done.append(what)
        pause = self.chance.uniform(0.2, 2)
        match what:
            case "worker":
                await kill(self.worker)
                await asyncio.sleep(pause)
                self.worker = await start(self._config, broker=self._broker.url)
            case "endpoint":
                await self._server.aclose()
                await asyncio.sleep(pause)
                await self._serve()
            case "broker" | "wipe":
                await asyncio.to_thread(self._broker.kill)
                if what == "wipe":
                    await asyncio.to_thread(self._broker.wipe)
                await asyncio.to_thread(self._broker.start)


async def load(ready: Bench, *, pause: float, ids: list[str]) -> None:
    """Write changes of a few aggregates until cancelled."""
    aggregates = [new_id() for _ in range(20)]
    chance = random.Random(3)
    while True:
        ids += await seed(
            ready.store, endpoints=NAMES, due=[ready.now], aggregate=chance.choice(aggregates)
        )
        await asyncio.sleep(pause)


async def survive(folder: Path, broker: PrivateBroker, *, seconds: float) -> None:
    """Strike each part once, the broker's data included, then on for `seconds`; judge."""
    endpoint = Endpoint()
    async with serving(endpoint):  # only to learn a free port
        pass
    async with bench(sqlite_in(folder), broker.url) as ready:
        config = write_config(
            folder, store=ready.url, callbacks=PATIENT,
            endpoints=[endpoint_config(name, endpoint.url) for name in NAMES],
        )  # fmt: skip
        ids: list[str] = []
        async with Storm(config, broker, endpoint) as storm:
            writing = asyncio.create_task(load(ready, pause=0.05, ids=ids))
            until_when = asyncio.get_running_loop().time() + seconds
            plan = ["worker", "endpoint", "wipe"]
            while plan or asyncio.get_running_loop().time() < until_when:
                what = plan.pop(0) if plan else storm.chance.choice(PARTS)
                await asyncio.sleep(storm.chance.uniform(0.5, 3))
                await storm.strike(what)
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing
            await until(
                lambda: all(one.state == "delivered" for one in rows(ready.url).values()),
                limit=90, every=0.5,
            )  # fmt: skip
        print(f"\n{len(ids)} deliveries, {len(endpoint.calls)} calls, {storm.done}")  # noqa: T201 - the figures of a run
        judge(ready, endpoint, ids)


def judge(ready: Bench, endpoint: Endpoint, ids: list[str]) -> None:
    """At least once, one body for each id, versions without a gap, attempts counted on."""
    assert endpoint.wrong == []
    assert set(endpoint.by_id) == set(rows(ready.url))
    assert set(ids) <= set(endpoint.by_id)
    assert all(len({call.body for call in calls}) == 1 for calls in endpoint.by_id.values())
    versions: dict[int, list[int]] = {}
    for number, version in fetch(ready.url, "SELECT aggregate_id, version FROM transitions"):
        versions.setdefault(number, []).append(version)
    for found in versions.values():
        assert sorted(found) == list(range(1, len(found) + 1))
    for made in attempts(ready.url).values():
        assert [one[0] for one in made] == list(range(1, len(made) + 1))
        assert made[-1][1] == "succeeded"


async def test_a_short_storm(tmp_path: Path, private_broker: PrivateBroker) -> None:
    await survive(tmp_path, private_broker, seconds=0)


@pytest.mark.deep
@pytest.mark.timeout(600)
async def test_two_minutes_of_storm(tmp_path: Path, private_broker: PrivateBroker) -> None:
    await survive(tmp_path, private_broker, seconds=120)
