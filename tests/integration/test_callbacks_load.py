"""Many deliveries at once: on time, fairly, and with nothing held back. Full runs are `deep`."""

import asyncio
import os
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import orjson
import pytest
from aiohttp import web
from msgspec import Struct

from deploy.local.provide import PrivateBroker
from shared.broker import topology
from shared.store.port import Store
from shared.store.rows import DeliveryState
from tests.support.callbacks import bench, endpoint_config, sqlite_in
from tests.support.deliveries import rows, seed, until
from tests.support.workers import running, write_config


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Arrivals:
    """One server that stands for many endpoints and notes when each delivery arrived."""

    def __init__(self, now: Callable[[], int]) -> None:
        self.first: dict[str, int] = {}
        self.paths: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self._now = now
        self._runner: web.AppRunner | None = None
        self._over = asyncio.Event()
        self.port = 0

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/{name}", self._receive)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        name, one = request.match_info["name"], request.headers["webhook-id"]
        await request.read()
        self.first.setdefault(one, self._now())
        self.paths[one] = name
        self.counts[name] = self.counts.get(name, 0) + 1
        if name.startswith("hangs"):
            await self._over.wait()
        return web.Response(status=500 if name.startswith("fails") else 200)


async def unacknowledged(node: PrivateBroker, vhost: str) -> int:
    """Messages that the work queue has handed out and that are not settled."""
    text = await asyncio.to_thread(
        node.rabbitmqctl, "-q", "list_queues", "-p", vhost, "name", "messages_unacknowledged",
    )  # fmt: skip
    figures = dict(line.split("\t") for line in text.splitlines() if "\t" in line)
    return int(figures[topology.CALLBACKS])


async def fire(
    folder: Path, node: PrivateBroker, broker_url: str, *, count: int, window: float
) -> float:
    """`count` deliveries due at random within `window` seconds fire once each, and never early.

    Returns how late they were at the 99th percentile, in seconds.
    """
    async with (
        bench(sqlite_in(folder), broker_url) as ready,
        Arrivals(lambda: ready.now) as arrivals,
    ):
        url = f"http://127.0.0.1:{arrivals.port}/good"
        endpoints = [endpoint_config(f"e{number}", url) for number in range(10)]
        config = write_config(folder, store=ready.url, endpoints=endpoints, callbacks={})
        begin = ready.now + 5_000
        chance = random.Random(1)
        share = count // len(endpoints)
        due: dict[str, int] = {}
        for one in endpoints:
            times = [begin + int(chance.uniform(0, window * 1000)) for _ in range(share)]
            ids = await seed(ready.store, endpoints=[one.id], due=times)
            due |= dict(zip(ids, times, strict=True))
        vhost = broker_url.rpartition("/")[2]
        held: list[int] = []
        async with running(config, broker=broker_url):
            end = asyncio.get_running_loop().time() + (begin - ready.now) / 1000 + window
            while asyncio.get_running_loop().time() < end:
                await asyncio.sleep(min(10.0, window / 5))
                held.append(await unacknowledged(node, vhost))
            await until(lambda: len(arrivals.first) >= len(due), limit=60, every=0.2)
        late = [(arrivals.first[one] - at) / 1000 for one, at in due.items()]
        print(  # noqa: T201 - the figures of a run are what it is made for
            f"\n{count} deliveries in {window:g} s: late p50 {quantile(late, 0.5):.3f} s, "
            f"p99 {quantile(late, 0.99):.3f} s, worst {max(late):.3f} s; repeated "
            f"{sum(arrivals.counts.values()) - len(due)}; unacknowledged {sorted(held)[-3:]}"
        )
        assert min(late) >= 0
        assert sum(arrivals.counts.values()) == len(due)
        assert statistics.median(held) <= 5
        return quantile(late, 0.99)


async def test_deliveries_fire_once_and_never_early(
    tmp_path: Path, broker_node: PrivateBroker, broker_url: str
) -> None:
    await fire(tmp_path, broker_node, broker_url, count=600, window=3.0)


@pytest.mark.deep
@pytest.mark.timeout(1_200)
async def test_a_hundred_thousand_deliveries_fire_on_time(
    tmp_path: Path, broker_node: PrivateBroker, broker_url: str
) -> None:
    late = await fire(tmp_path, broker_node, broker_url, count=100_000, window=600.0)
    assert late <= 2.0


class Run(Struct, frozen=True):
    """How long changes took to arrive at the good endpoints, in seconds."""

    p50: float
    p95: float
    p99: float
    bad_calls: int
    released: int


async def told(
    store: Store, names: list[str], *, rate: float, seconds: float, now: Callable[[], int]
) -> dict[str, int]:
    """Tell all endpoints of `rate` changes a second; returns when each delivery was written."""
    loop = asyncio.get_running_loop()
    begun, written = loop.time(), {}
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, begun + number / rate - loop.time()))
        at = now()
        written |= dict.fromkeys(await seed(store, endpoints=names, due=[at]), at)
    return written


async def correio(config: Path, *arguments: str) -> Any:
    """What a command of the operator answers."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import sys; from console.cli import run; run(sys.argv[1:])",
        *arguments, "--json",
        env={**os.environ, "CORREIO_CONFIG": str(config)}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    text, _ = await process.communicate()
    return orjson.loads(text)


async def measure(
    folder: Path,
    broker_url: str,
    *,
    bad: Sequence[str] = (),
    held: int = 0,
    exhausted: int = 0,
    **load: Any,
) -> Run:
    """One run of a worker with `good` endpoints and the bad ones named.

    `held` deliveries wait to be released to the last endpoint while the run lasts; so many that
    are `exhausted` are replayed to it.
    """
    folder.mkdir()  # noqa: ASYNC240 - takes no time
    async with (
        bench(sqlite_in(folder), broker_url) as ready,
        Arrivals(lambda: ready.now) as arrivals,
    ):
        names = [*bad, *(f"good{number}" for number in range(load["good"]))]
        endpoints = [
            endpoint_config(name, f"http://127.0.0.1:{arrivals.port}/{name}") for name in names
        ]
        config = write_config(folder, store=ready.url, endpoints=endpoints, callbacks={})
        freed = await seed(
            ready.store, endpoints=names[-1:], due=[ready.now] * held, state=DeliveryState.HELD
        )
        freed += await seed(
            ready.store,
            endpoints=names[-1:],
            due=[ready.now] * exhausted,
            state=DeliveryState.EXHAUSTED,
        )
        async with running(config, broker=broker_url), asyncio.TaskGroup() as beside:
            await seed(ready.store, endpoints=names, due=[ready.now])  # wait until it runs
            await until(lambda: set(arrivals.counts) == set(names))
            if exhausted:
                beside.create_task(
                    correio(config, "deliveries", "replay", "--rate", "100", "--yes")
                )
            written = await told(
                ready.store,
                names,
                rate=load["rate"],
                seconds=load["seconds"],
                now=lambda: ready.now,
            )
            states = {one.id: one.endpoint for one in rows(ready.url).values()}
            wanted = [one for one in written if states[one].startswith("good")]
            await until(lambda: all(one in arrivals.first for one in wanted), limit=60, every=0.1)
        late = [(arrivals.first[one] - written[one]) / 1000 for one in wanted]
        bad_calls = sum(n for name, n in arrivals.counts.items() if not name.startswith("good"))
        released = sum(one in arrivals.first for one in freed)
        spread = (quantile(late, share) for share in (0.5, 0.95, 0.99))
        return Run(*spread, bad_calls, released)


async def compare(
    folder: Path, broker_url: str, *, by: str, rounds: int, beside: dict[str, Any], **load: Any
) -> float:
    """A figure of the good endpoints with the trouble of `beside`, over the same without it.

    The best round of each counts: whatever else the machine does can only make one worse.
    """
    calm, troubled = [], []
    for number in range(rounds):
        calm.append(await measure(folder / f"a{number}", broker_url, **load))
        troubled.append(await measure(folder / f"b{number}", broker_url, **beside, **load))
    ratio = min(getattr(one, by) for one in troubled) / min(getattr(one, by) for one in calm)
    print(f"\ncalm {calm}\ntroubled {troubled}\nratio of {by} {ratio:.2f}")  # noqa: T201 - as above
    return ratio


BAD: dict[str, Any] = {"bad": ["hangs", "fails"]}


async def test_the_good_are_served_beside_bad_neighbours(tmp_path: Path, broker_url: str) -> None:
    seen = await measure(tmp_path / "run", broker_url, **BAD, good=8, rate=10, seconds=2)
    assert seen.bad_calls > 0


@pytest.mark.deep
@pytest.mark.timeout(900)
async def test_of_fifty_endpoints_two_bad_ones_do_not_slow_the_others(
    tmp_path: Path, broker_url: str
) -> None:
    ratio = await compare(
        tmp_path, broker_url, by="p99", rounds=5, beside=BAD, good=48, rate=5, seconds=20
    )
    assert ratio <= 1.2


@pytest.mark.deep
@pytest.mark.timeout(900)
async def test_ten_thousand_released_deliveries_do_not_slow_live_ones(
    tmp_path: Path, broker_url: str
) -> None:
    ratio = await compare(
        tmp_path, broker_url, by="p95", rounds=4, beside={"held": 10_000}, good=5, rate=10,
        seconds=20,
    )  # fmt: skip
    assert ratio <= 1.1


@pytest.mark.deep
@pytest.mark.timeout(900)
async def test_ten_thousand_replayed_deliveries_do_not_slow_live_ones(
    tmp_path: Path, broker_url: str
) -> None:
    ratio = await compare(
        tmp_path, broker_url, by="p95", rounds=4, beside={"exhausted": 10_000}, good=5, rate=10,
        seconds=20,
    )  # fmt: skip
    assert ratio <= 1.1


async def replays(folder: Path, broker_url: str, *, count: int, rate: int) -> None:
    """A bulk replay is cancelled half-way, begun again and ends; each arrives just once."""
    async with (
        bench(sqlite_in(folder), broker_url) as ready,
        Arrivals(lambda: ready.now) as arrivals,
    ):
        endpoints = [
            endpoint_config(name, f"http://127.0.0.1:{arrivals.port}/{name}")
            for name in ("replayed", "live")
        ]
        config = write_config(folder, store=ready.url, endpoints=endpoints, callbacks={})
        ids = await seed(
            ready.store, endpoints=["replayed"], due=[ready.now] * count,
            state=DeliveryState.EXHAUSTED,
        )  # fmt: skip
        replay = ("deliveries", "replay", "--rate", str(rate), "--yes")
        async with running(config, broker=broker_url):
            begun = await correio(config, *replay)
            assert begun["count"] == count
            await until(lambda: arrivals.counts.get("replayed", 0) >= count // 4, limit=120)
            stopped = await correio(
                config, "deliveries", "cancel", "--replay", begun["replay"], "--yes"
            )
            cancelled = ready.now
            await seed(ready.store, endpoints=["live"], due=[ready.now + 3_000])
            await until(lambda: "live" in arrivals.counts, limit=60)
            last = max(arrivals.first[one] for one in ids if one in arrivals.first)
            assert last - cancelled < 2_000
            assert arrivals.counts["replayed"] == count - stopped["count"]

            again = await correio(config, *replay)
            assert again["count"] == stopped["count"]
            await until(lambda: arrivals.counts["replayed"] >= count, limit=120, every=0.2)
            await until(
                lambda: all(one.state == "delivered" for one in rows(ready.url).values()),
                limit=60, every=0.2,
            )  # fmt: skip
            assert (await correio(config, *replay))["count"] == 0
        print(f"\ncancelled {stopped['count']}, last call {last - cancelled} ms after it")  # noqa: T201 - as above
        assert arrivals.counts == {"replayed": count, "live": 1}


async def test_a_bulk_replay_stops_when_told_and_delivers_nothing_twice(
    tmp_path: Path, broker_url: str
) -> None:
    await replays(tmp_path, broker_url, count=150, rate=100)


@pytest.mark.deep
@pytest.mark.timeout(600)
async def test_ten_thousand_replayed_deliveries_arrive_once(
    tmp_path: Path, broker_url: str
) -> None:
    await replays(tmp_path, broker_url, count=10_000, rate=200)
