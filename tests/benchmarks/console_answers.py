"""How long the console takes to answer, and to paint, with many events and deliveries stored.

    python -m tests.benchmarks.console_answers --events 1000000

Fills a SQLite file and a PostgreSQL database through the events worker's own code, a delivery for
each fifth event, in all states; serves the console without a broker; and prints the median and the
worst of twenty answers to everything that the page asks, dry runs among them. Then Chromium opens
the page ten times, a browser of its own each time, and tells when there was something to see.
Exits 1 if an answer took more than 300 ms or a page more than a second.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import structlog
from msgspec.structs import replace
from playwright.async_api import expect

from console.service import ConsoleService
from deploy.local.postgres import Postgres
from shared.clock import SystemClock
from shared.config import BrokerConfig, Config, ConsoleConfig, EndpointConfig, Secret, StoreConfig
from shared.store.open import open_store
from tests.benchmarks.lookups import fill
from tests.benchmarks.rig import run_sql
from tests.support import books
from tests.support.chromium import chromium
from tests.support.deliveries import until
from worker.events.apply import Applier
from worker.events.arrivals import Arrival

RUNS = 20
PAINTS = 10
ANSWER_LIMIT, PAINT_LIMIT = 300.0, 1000.0
"""Milliseconds that are promised."""

QUARANTINED = 1_000
CONFIG = Config(
    endpoint=(
        EndpointConfig(
            id="crm", url="http://x", secrets=(Secret("s"),), types=("consent.revoked",)
        ),
    )
)
"""One event in five has a delivery."""

PAINTED = """
async () => {
  const found = () => performance.getEntriesByName("first-contentful-paint")[0];
  while (!found()) await new Promise(requestAnimationFrame);
  return found().startTime;
}
"""


async def spread(url: str) -> None:
    """Of ten deliveries one is pending, one exhausted, the rest delivered; fill the quarantine."""
    store = open_store(StoreConfig(url=Secret(url)))
    await store.start()
    await store.change([
        ("UPDATE deliveries SET state = CASE aggregate_id % 10 WHEN 1 THEN 'exhausted' "
         "ELSE 'delivered' END WHERE aggregate_id % 10 <> 0", ()),
    ])  # fmt: skip
    if url.startswith("postgresql"):
        run_sql(url, "ANALYZE deliveries")  # autovacuum would do it within a minute
    now = SystemClock().now()
    await Applier(store, CONFIG, clock=SystemClock()).apply([
        Arrival(b'{"eventName":"unheard_of","eventId":"q%d"}' % number, "klavi", "b", now)
        for number in range(QUARANTINED)
    ])  # fmt: skip
    await store.close()


def asked(count: int, url: str) -> list[tuple[str, Any]]:
    """What is asked of the console: paths, and the body where something is posted."""
    middle = count // 2 // 5 * 5
    ((delivery,),) = books.fetch(url, "SELECT max(id) FROM deliveries")
    ((entry,),) = books.fetch(url, "SELECT max(id) FROM quarantine")
    read = [
        "overview", "history", "endpoints", "quarantine", "quarantine?reason=unknown_event",
        f"quarantine/{entry}", "audit",
        f"trace?id=e{middle}", f"trace?id=l{middle // 5}", f"trace?id=c{middle // 5}",
        "deliveries", f"deliveries/{delivery}", "replays/none",
        *(f"deliveries?state={one}" for one in ("pending", "exhausted", "delivered", "held")),
        "deliveries?endpoint=crm", "deliveries?type=link.created", "deliveries?error=timed",
        "deliveries?endpoint=crm&type=consent.revoked", "deliveries?endpoint=crm&type=link.created",
        "deliveries?endpoint=crm&error=timed", "deliveries?endpoint=crm&state=pending",
        f"deliveries?aggregate=c{middle // 5}",
    ]  # fmt: skip
    dry = [
        ("deliveries/replay", {"endpoint": "crm", "includeDelivered": True}),
        ("deliveries/replay", {"endpoint": "crm"}),
        ("deliveries/replay", {"type": "link.created", "includeDelivered": True}),
        ("deliveries/cancel", {"endpoint": "crm"}),
        ("deliveries/cancel", {"error": "timed"}),
        ("deliveries/cancel", {"aggregate": f"c{middle // 5}"}),
        ("quarantine/replay", {"reason": "unknown_event"}),
        ("quarantine/discard", {"reason": "unknown_event"}),
    ]
    return [*((one, None) for one in read), *dry]


async def answers(base: str, wanted: list[tuple[str, Any]]) -> float:
    """Print a line for each question; returns the slowest answer's milliseconds."""
    slowest = 0.0
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        async with http.get(f"{base}/api/session") as answer:
            answer.raise_for_status()
            headers = {"X-CSRF-Token": (await answer.json())["csrf"]}
        for path, body in wanted:
            times = []
            for _ in range(RUNS):
                started = time.perf_counter()
                async with http.request(
                    "GET" if body is None else "POST", f"{base}/api/{path}",
                    json=body, headers=headers,
                ) as answer:  # fmt: skip
                    answer.raise_for_status()
                    await answer.read()
                times.append(1000 * (time.perf_counter() - started))
            name = path if body is None else f"{path} {', '.join(body)}"
            print(f"  {name:46} {statistics.median(times):7.1f} {max(times):7.1f}", flush=True)
            slowest = max(slowest, *times)
    return slowest


async def paints(base: str) -> float:
    """Print when the page is first painted and when it shows figures; returns the worst paint."""
    painted, shown = [], []
    for _ in range(PAINTS):
        async with chromium("light") as page:
            await page.goto(base, wait_until="commit")
            await expect(page.get_by_role("region", name="Queues")).to_be_visible()
            shown.append(await page.evaluate("performance.now()"))
            painted.append(await page.evaluate(PAINTED))
    for name, times in (("first paint", painted), ("figures shown", shown)):
        print(f"  {name:46} {statistics.median(times):7.1f} {max(times):7.1f}", flush=True)
    return max(painted)


async def measure(config: Config, count: int) -> bool:
    """Print a line for each question and for the paint; False if one took longer than promised."""
    service = ConsoleService(config, store=open_store(config.store), clock=SystemClock())
    stop = asyncio.Event()
    running = asyncio.create_task(service.run(stop))
    await until(lambda: (service.sampler.status or {}).get("events") is not None, limit=60)
    base = f"http://127.0.0.1:{service.port}"
    slowest = await answers(base, asked(count, config.store.url.reveal()))
    latest = await paints(base)
    stop.set()
    await running
    print(f"  slowest answer {slowest:.0f} ms, latest first paint {latest:.0f} ms", flush=True)
    return slowest < ANSWER_LIMIT and latest < PAINT_LIMIT


def main() -> None:
    """Measure both stores and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    count = parser.parse_args().events
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    kept = True
    with tempfile.TemporaryDirectory() as folder, Postgres() as server:
        for label, url in (
            ("SQLite", f"sqlite:///{Path(folder) / 'store.db'}"),
            ("PostgreSQL", server.url),
        ):
            asyncio.run(fill(url, count, CONFIG))
            asyncio.run(spread(url))
            print(f"{label}, {count} events; milliseconds, median and worst")
            config = replace(
                CONFIG,
                store=StoreConfig(url=Secret(url)),
                broker=BrokerConfig(url=Secret("amqp://127.0.0.1:1/")),
                console=ConsoleConfig(port=0),
            )
            kept = asyncio.run(measure(config, count)) and kept
    if not kept:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
