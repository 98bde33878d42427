"""What 1, 2 and 4 events workers carry together: ``python -m tests.benchmarks.scaling``.

A queue is filled, the workers start, and the time from the first stored event to the last is
taken, with the CPU that each process used. Broker, PostgreSQL and workers share the machine.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

import psutil
import psycopg

from deploy.local.postgres import Postgres
from deploy.local.provide import private_node
from shared.broker import headers, topology
from shared.broker.publisher import ConfirmingPublisher, Outgoing
from shared.clock import SystemClock
from shared.config import BrokerConfig, Secret
from shared.store.migrate import migrate
from tests.benchmarks.rig import count_rows
from tests.support import events as ev
from tests.support.deliveries import until_async
from tests.support.processes import process, write_config
from tests.support.world import Listener, Source

GROUP = 2_000
LIMIT = 600
"""Seconds after which workers count as hanging."""


async def fill(url: str, count: int) -> None:
    """Put that many events of ever new consents into the queue."""
    source = Source(Listener(0))
    publisher = ConfirmingPublisher(
        BrokerConfig(url=Secret(url)), name="filler", queue=topology.EVENTS
    )
    running = asyncio.create_task(publisher.run())
    await publisher.wait_connected()
    now = SystemClock().now()
    fields = {headers.SOURCE: "klavi", headers.RECEIVED_AT: now, headers.BATCH_ID: "b"}
    for _ in range(count // GROUP):
        await publisher.publish([
            Outgoing(ev.dump(source.next()), topology.EVENTS, topology.EVENTS, fields)
            for _ in range(GROUP)
        ])  # fmt: skip
    running.cancel()


async def drain(folder: Path, broker_url: str, server: Postgres, *, workers: int, count: int
                ) -> tuple[float, list[float]]:  # fmt: skip
    """Events a second, and each worker's share of one CPU."""
    name = f"bench_{workers}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name}")
        connection.execute(f"CREATE DATABASE {name}")
    url = server.url_of(name)
    await migrate(Secret(url))
    await topology.declare(broker_url)
    await fill(broker_url, count)
    config = write_config(
        folder, broker={"url": broker_url}, store={"url": url}, log={"level": "warning"},
        source=[{"name": "klavi", "secrets": ["a secret"]}],
    )  # fmt: skip
    made = [process("worker", "events", config=config, log=folder / "worker.log")
            for _ in range(workers)]  # fmt: skip
    loop = asyncio.get_running_loop()

    async def reach(wanted: int, *, every: float) -> int:
        """Wait for so many stored events; returns how many there are then."""

        async def reached() -> bool:
            nonlocal found
            found = await asyncio.to_thread(count_rows, url, "events")
            return found >= wanted

        found = 0
        await until_async(reached, limit=LIMIT, every=every)
        return found

    entered = [one.__enter__() for one in made]
    try:
        for one in entered:
            one.start()
        first = await reach(1, every=0.02)
        began = loop.time()
        before = [sum(psutil.Process(one.pid).cpu_times()[:2]) for one in entered]
        await reach(count, every=0.1)
        seconds = loop.time() - began
        used = [sum(psutil.Process(one.pid).cpu_times()[:2]) for one in entered]
    finally:
        for one in made:
            one.__exit__(None, None, None)
    shares = [(a - b) / seconds for a, b in zip(used, before, strict=True)]
    return (count - first) / seconds, shares


async def measure(count: int, rounds: int) -> None:
    """Print a line for each number of workers: the median of the rounds."""
    with tempfile.TemporaryDirectory() as folder:
        broker = private_node(Path(folder) / "rabbitmq")
        await asyncio.to_thread(broker.start)
        with Postgres(durable=True) as server:
            for workers in (1, 2, 4):
                found = [
                    await drain(Path(folder), broker.url, server, workers=workers, count=count)
                    for _ in range(rounds)
                ]
                rate, shares = sorted(found)[len(found) // 2]
                told = ", ".join(f"{one:.0%}" for one in shares)
                print(f"{workers} workers: {rate:,.0f} events/s; CPU of each: {told}", flush=True)
        await asyncio.to_thread(broker.stop)


def main() -> None:
    """Run as often as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    asyncio.run(measure(options.count, options.rounds))


if __name__ == "__main__":
    main()
