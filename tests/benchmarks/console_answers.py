"""How long the console takes to answer with many events and deliveries stored.

    python -m tests.benchmarks.console_answers --events 1000000

Fills a SQLite file and a PostgreSQL database through the events worker's own code, serves the
console without a broker, and prints the median and the worst of twenty answers of each kind.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import aiohttp
import structlog
from msgspec.structs import replace

from console.service import ConsoleService
from deploy.local.postgres import Postgres
from shared.clock import SystemClock
from shared.config import BrokerConfig, Config, ConsoleConfig, EndpointConfig, Secret, StoreConfig
from shared.store.open import open_store
from tests.benchmarks.lookups import fill
from tests.support.deliveries import until

RUNS = 20

CONFIG = Config(
    endpoint=(
        EndpointConfig(
            id="crm", url="http://x", secrets=(Secret("s"),), types=("consent.revoked",)
        ),
    )
)
"""One event in five has a delivery."""


def asked(count: int) -> list[str]:
    """What is asked of the console."""
    middle = count // 2 // 5 * 5
    return [
        "overview", "history", "endpoints", "quarantine", "audit",
        f"trace?id=e{middle}", f"trace?id=l{middle // 5}", f"trace?id=c{middle // 5}",
        "deliveries", "deliveries?state=exhausted", "deliveries?state=pending",
        "deliveries?endpoint=crm", "deliveries?type=link.created", "deliveries?error=timed",
        "deliveries?endpoint=crm&type=consent.revoked", "deliveries?endpoint=crm&type=link.created",
        "deliveries?endpoint=crm&error=timed", "deliveries?endpoint=crm&state=pending",
        f"deliveries?aggregate=c{middle // 5}",
    ]  # fmt: skip


async def measure(config: Config, count: int) -> None:
    """Print a line for each question."""
    service = ConsoleService(config, store=open_store(config.store), clock=SystemClock())
    stop = asyncio.Event()
    running = asyncio.create_task(service.run(stop))
    await until(lambda: (service.sampler.status or {}).get("events") is not None, limit=60)
    base = f"http://127.0.0.1:{service.port}/api"
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        async with http.get(f"{base}/session") as answer:
            answer.raise_for_status()
        for path in asked(count):
            times = []
            for _ in range(RUNS):
                started = time.perf_counter()
                async with http.get(f"{base}/{path}") as answer:
                    answer.raise_for_status()
                    await answer.read()
                times.append(1000 * (time.perf_counter() - started))
            print(f"  {path:46} {statistics.median(times):7.1f} {max(times):7.1f}", flush=True)
    stop.set()
    await running


def main() -> None:
    """Measure both stores and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    count = parser.parse_args().events
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory() as folder, Postgres() as server:
        for label, url in (
            ("SQLite", f"sqlite:///{Path(folder) / 'store.db'}"),
            ("PostgreSQL", server.url),
        ):
            asyncio.run(fill(url, count, CONFIG))
            print(f"{label}, {count} events; milliseconds, median and worst of {RUNS}")
            config = replace(
                CONFIG,
                store=StoreConfig(url=Secret(url)),
                broker=BrokerConfig(url=Secret("amqp://127.0.0.1:1/")),
                console=ConsoleConfig(port=0),
            )
            asyncio.run(measure(config, count))


if __name__ == "__main__":
    main()
