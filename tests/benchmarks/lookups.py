"""How long ``correio trace`` takes with many events stored.

    python -m tests.benchmarks.lookups --events 1000000

Fills a SQLite file and a PostgreSQL database through the events worker's own code, then runs the
real command for an event, a link, a consent and a product request, five times each, and prints
the median wall-clock time of the whole process.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from deploy.local.postgres import Postgres
from shared.clock import SystemClock
from shared.config import Config, EndpointConfig, Secret, StoreConfig
from shared.store.migrate import migrate
from shared.store.open import open_store
from tests.support import events as ev
from worker.events.apply import Applier
from worker.events.arrivals import Arrival

BATCH = 500
RUNS = 5
WANTED = {
    "eventId": "e{middle}",
    "linkId": "l{link}",
    "consentId": "c{link}",
    "requestId": "r{link}",
}
CONFIG = Config(endpoint=(EndpointConfig(id="crm", url="http://x", secrets=(Secret("s"),)),))


def stories(count: int) -> Iterator[dict[str, Any]]:
    """Links with a consent that is granted and revoked, and a request that completes."""
    templates = [
        ("link_created", {}), ("consent_authorised", {}), ("consent_revoked", {}),
        ("product_request_received", {}), ("product_generated_success", {}),
    ]  # fmt: skip
    for number in range(count):
        story, step = divmod(number, len(templates))
        made = ev.event(templates[step][0], at=number, event_id=f"e{number}")
        payload = made["payload"]
        if "consents" in payload:
            payload["consents"]["consentId"] = f"c{story}"
        if "requestId" in payload:
            payload["requestId"] = f"r{story}"
        (payload.get("requestBody") or payload)["linkId"] = f"l{story}"
        yield made


async def fill(url: str, count: int, config: Config = CONFIG) -> float:
    """Store `count` events; returns events per second."""
    await migrate(Secret(url))
    store = open_store(StoreConfig(url=Secret(url)))
    await store.start()
    applier = Applier(store, config, clock=SystemClock())
    started, batch = time.perf_counter(), []
    now = SystemClock().now()
    for made in stories(count):
        batch.append(Arrival(ev.dump(made), "klavi", "b", now))
        if len(batch) == BATCH:
            await applier.apply(batch)
            batch = []
    await applier.apply(batch)
    await store.close()
    return count / (time.perf_counter() - started)


def look_up(url: str, name: str) -> float:
    """Seconds that the command takes."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "console.cli", "trace", name, "--json"],
        env={"PATH": os.environ["PATH"], "CORREIO_STORE__URL": url},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - started


def main() -> None:
    """Measure both stores and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    count = parser.parse_args().events
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    middle = count // 2 // 5 * 5
    names = {
        kind: pattern.format(middle=middle, link=middle // 5) for kind, pattern in WANTED.items()
    }
    print(f"{count} events; seconds, median of {RUNS}")
    with tempfile.TemporaryDirectory() as folder, Postgres() as server:
        for label, url in (
            ("SQLite", f"sqlite:///{Path(folder) / 'store.db'}"),
            ("PostgreSQL", server.url),
        ):
            rate = asyncio.run(fill(url, count))
            times = {
                kind: statistics.median(look_up(url, name) for _ in range(RUNS))
                for kind, name in names.items()
            }
            shown = ", ".join(f"{kind} {seconds:.2f}" for kind, seconds in times.items())
            print(f"{label}: {shown} (filled at {rate:,.0f} events/s)", flush=True)


if __name__ == "__main__":
    main()
