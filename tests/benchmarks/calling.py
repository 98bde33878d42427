"""Callbacks: how many one worker delivers, attempts recorded, against a bare HTTP client."""

import asyncio
import contextlib
import time

import aiohttp

from deploy.local.rabbitmq import free_port
from shared.clock import SystemClock
from shared.config import Secret, StoreConfig
from shared.store.open import open_store
from tests.benchmarks.results import Book
from tests.benchmarks.rig import Meter, Rig, Use, answers, count_rows, prepare, until_rows
from tests.benchmarks.sides import SEALING_KEY
from tests.support.deliveries import seed
from tests.support.endpoints import SECRET
from tests.support.processes import write_config

BARE = "bare aiohttp posting"
IN_FLIGHT = 50
GROUP = 1_000


async def posting(rig: Rig, book: Book, *, seconds: float) -> None:
    """The limit of calling."""
    folder, port = rig.fresh("posting"), free_port()
    with rig.running(("python", "-m", "tests.benchmarks.sink", str(port)), folder=folder) as sink:
        await answers(port, sink)
        found, use = await rig.ask(
            "tests.benchmarks.limits.post", "--url", f"http://127.0.0.1:{port}/hooks",
            "--seconds", f"{seconds}", "--in-flight", f"{IN_FLIGHT}", pids={"endpoint": sink.pid},
        )  # fmt: skip
        used = use.cpu | {"client": found["cpu"] / found["seconds"]}
    book.add("post", BARE, found["rate"], unit="calls/s", cpu=used)


async def calling(rig: Rig, book: Book, *, store: str, endpoints: int, count: int) -> None:
    """Deliveries that are all due, to so many endpoints, 50 at a time in all."""
    with contextlib.ExitStack() as stack:
        url, folder = stack.enter_context(rig.vhost()), rig.fresh("calling")
        store_url = stack.enter_context(rig.store(store, folder))
        port = free_port()
        await prepare(url, store_url)
        await _seed(store_url, endpoints=endpoints, count=count)
        sink = stack.enter_context(
            rig.running(("python", "-m", "tests.benchmarks.sink", str(port)), folder=folder)
        )
        await answers(port, sink)
        config = write_config(
            folder, broker={"url": url}, store={"url": store_url},
            callbacks={"max_in_flight": IN_FLIGHT}, sealing={"keys": SEALING_KEY},
            endpoint=[
                {"id": name, "url": f"http://127.0.0.1:{port}/{name}", "secrets": [SECRET],
                 "allow_private_network": True, "max_in_flight": IN_FLIGHT}
                for name in names(endpoints)
            ],
        )  # fmt: skip
        worker = stack.enter_context(
            rig.running(
                ("python", "-m", "worker", "callbacks"), folder=folder,
                env={"CORREIO_CONFIG": str(config)},
            )
        )  # fmt: skip
        pids = {
            "worker": worker.pid, "endpoint": sink.pid, **rig.broker_pids(),
            **rig.database_pids(store_url),
        }  # fmt: skip
        rate, use = await _arriving(port, count, pids)
        worker.check()
        await until_rows(store_url, "attempts", count)
        if count_rows(store_url, "deliveries WHERE state = 'delivered'") != count:
            raise RuntimeError("not every delivery is recorded as delivered")
    book.add(
        f"callbacks, {endpoints} endpoints, {store}", "Correio", rate, unit="calls/s",
        cpu=use.cpu, memory={"worker": use.memory["worker"]},
    )  # fmt: skip
    book.add(
        f"cost of a callback, {endpoints} endpoints, {store}", "Correio",
        use.cpu["worker"] / rate * 1e6, unit="µs",
    )  # fmt: skip


def names(count: int) -> list[str]:
    return [f"e{number}" for number in range(count)]


async def _seed(url: str, *, endpoints: int, count: int) -> None:
    """Due deliveries, evenly spread over the endpoints."""
    store = open_store(StoreConfig(url=Secret(url)))
    await store.start()
    now = SystemClock().now()
    each = max(1, GROUP // endpoints)
    for _ in range(count // (endpoints * each)):
        await seed(store, endpoints=names(endpoints), due=[now] * each)
    await store.close()


async def _arriving(port: int, count: int, pids: dict[str, int]) -> tuple[float, Use]:
    """Calls a second from a tenth of them to nineteen twentieths, and what that took."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(300):

        async def arrived() -> int:
            async with session.get(f"http://127.0.0.1:{port}/") as answer:
                return int(await answer.text())

        while (first := await arrived()) < count / 10:
            await asyncio.sleep(0.05)
        began, meter = time.perf_counter(), Meter(pids)
        while (last := await arrived()) < count * 0.95:
            await asyncio.sleep(0.05)
        return (last - first) / (time.perf_counter() - began), meter.read()
