"""How many callbacks a second one worker delivers: ``python -m tests.benchmarks.callbacks_rate``.

Deliveries that are all due wait in a SQLite store; broker, worker, endpoints and this script share
the machine. Prints one line.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

from deploy.local.provide import private_node
from tests.integration.test_callbacks_load import Arrivals
from tests.support.callbacks import bench, endpoint_config, sqlite_in
from tests.support.deliveries import seed, until
from tests.support.workers import running, write_config

LIMIT = 600
"""Seconds after which the worker counts as hanging."""


async def measure(folder: Path, broker_url: str, *, count: int, endpoints: int) -> float:
    """Deliveries a second from the first arrival to the last."""
    store = sqlite_in(folder)
    async with bench(store, broker_url) as ready, Arrivals(lambda: ready.now) as arrivals:
        names = [f"e{number}" for number in range(endpoints)]
        made = [endpoint_config(one, f"http://127.0.0.1:{arrivals.port}/{one}") for one in names]
        config = write_config(folder, store=ready.url, endpoints=made, callbacks={})
        for _ in range(count // endpoints // 100):
            await seed(ready.store, endpoints=names, due=[ready.now] * 100)
        async with running(config, broker=broker_url):
            await until(lambda: len(arrivals.first) >= count, limit=LIMIT, every=0.1)
        times = arrivals.first.values()
        return count / ((max(times) - min(times)) / 1000)


def main() -> None:
    """Run as often as asked, print the median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--endpoints", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, private_node(Path(name) / "broker") as node:
        rates = []
        for number in range(asked.rounds):
            folder = Path(name) / str(number)
            folder.mkdir()
            url = node.add_vhost(f"run{number}")
            rates.append(
                asyncio.run(measure(folder, url, count=asked.count, endpoints=asked.endpoints))
            )
    median = sorted(rates)[len(rates) // 2]
    every = ", ".join(f"{rate:.0f}" for rate in rates)
    print(f"{asked.count} deliveries to {asked.endpoints} endpoints: {median:.0f}/s (of {every})")


if __name__ == "__main__":
    main()
