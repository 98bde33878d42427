"""Ingest: how many events one receiver process makes durable, and how soon it says so."""

import contextlib
from collections.abc import Mapping
from math import ceil
from typing import Any

from deploy.local.rabbitmq import free_port
from tests.benchmarks.load import DISTINCT
from tests.benchmarks.results import Book
from tests.benchmarks.rig import Rig, Use, answers, depth_of, prepare
from tests.benchmarks.sides import CORREIO, Place, Side

RAW = "raw confirmed publishing"
NOOP = "no-op POST with HMAC"
LATENCY = "acknowledgement"
CONNECTIONS = (50, 200)
"""Requests under way at once that every side is tried with; its better rate counts."""
AT_ONCE = 25_000
"""Events under way at most: a receiver bounds the bytes that it holds (``max_buffered_bytes``)."""


async def raw(rig: Rig, book: Book, *, seconds: float) -> None:
    """The limit of publishing."""
    with rig.vhost() as url:
        await prepare(url)
        found, use = await rig.ask(
            "tests.benchmarks.limits.raw_publish", "--url", url, "--seconds", f"{seconds}",
            pids=rig.broker_pids(),
        )  # fmt: skip
        used = use.cpu | {"client": found["cpu"] / found["seconds"]}
    book.add("publish", RAW, found["rate"], cpu=used)


async def noop(rig: Rig, book: Book, *, batch: int, seconds: float) -> None:
    """The limit of HTTP."""
    folder, port = rig.fresh("noop"), free_port()
    with rig.running(
        ("python", "-m", "tests.benchmarks.limits.noop_post", str(port)), folder=folder
    ) as running:
        await answers(port, running)
        found, use, _ = await best(rig, port, batch=batch, seconds=seconds, server=running.pid)
    book.add(measure(batch), NOOP, found["rate"], cpu=use.cpu, more=told(found))


async def receiving(rig: Rig, book: Book, side: Side, *, batch: int, seconds: float) -> float:
    """What one receiver process of this side takes; returns the events/s."""
    with rig.vhost() as url:
        place = Place(rig, rig.fresh("ingest"), url)
        await side.prepare(place)
        async with side.receiver(place) as (port, running):
            found, use, taken = await best(
                rig, port, batch=batch, seconds=seconds, server=running.pid
            )
        async with depth_of(url, side.queue) as depth:  # what was answered 200 must be there
            if await depth.read() < taken * batch:
                raise RuntimeError(f"{side.name} answered 200 to what is not in its queue")
    memory = {"receiver": use.memory["receiver"]}
    book.add(measure(batch), side.name, found["rate"], cpu=use.cpu, memory=memory,
             more=told(found))  # fmt: skip
    return float(found["rate"])


async def acknowledging(
    rig: Rig, book: Book, *, share: float, highest: float, seconds: float, store: str
) -> None:
    """How soon batches of 10 are acknowledged at a share of the highest rate, workers running."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(rig.vhost())
        folder = rig.fresh("latency")
        place = Place(rig, folder, url, stack.enter_context(rig.store(store, folder)))
        await CORREIO.prepare(place)
        worker = stack.enter_context(CORREIO.worker(place))
        async with CORREIO.receiver(place) as (port, running):
            pids = {
                "receiver": running.pid, "events worker": worker.pid, **rig.broker_pids(),
                **rig.database_pids(place.store),
            }  # fmt: skip
            found, use = await load(
                rig, port, batch=10, seconds=seconds, rate=highest * share / 10, warm=2.0,
                pids=pids, distinct=ceil(highest * share * (seconds + 2.0)),
            )  # fmt: skip
            if found["refused"]:
                raise RuntimeError(f"refused {found['refused']}")
    book.add(
        f"{LATENCY}, {share:.0%} of the highest rate, {store}", CORREIO.name, found["p50"],
        unit="ms", cpu=use.cpu, more=told(found),
    )  # fmt: skip


async def best(
    rig: Rig, port: int, *, batch: int, seconds: float, server: int
) -> tuple[dict[str, Any], Use, int]:
    """The highest rate over `CONNECTIONS`, and how many requests were answered in all.

    Raises:
        RuntimeError: a request was refused or lost.
    """
    pids = {"receiver": server, **rig.broker_pids()}
    made = []
    for count in CONNECTIONS:
        if count * batch > AT_ONCE:
            break
        found, use = await load(
            rig, port, batch=batch, seconds=seconds, pids=pids, connections=count
        )
        if found["refused"] or found["lost"]:
            raise RuntimeError(f"refused {found['refused']}, lost {found['lost']}")
        made.append((found | {"connections": count}, use))
    answered = sum(found["requests"] for found, _ in made)
    return *max(made, key=lambda one: one[0]["rate"]), answered


async def load(
    rig: Rig,
    port: int,
    *,
    batch: int,
    seconds: float,
    pids: Mapping[str, int],
    rate: float = 0.0,
    warm: float = 1.0,
    connections: int = CONNECTIONS[0],
    distinct: int = DISTINCT,
) -> tuple[dict[str, Any], Use]:
    """Send to a receiver; `distinct` events, which come again when all of them were sent."""
    return await rig.ask(
        "tests.benchmarks.load", "--port", f"{port}", "--batch", f"{batch}",
        "--seconds", f"{seconds}", "--rate", f"{rate}", "--warm", f"{warm}",
        "--connections", f"{connections}", "--distinct", f"{distinct}", pids=pids,
    )  # fmt: skip


def measure(batch: int) -> str:
    return f"ingest, batch {batch}"


def told(found: dict[str, Any]) -> dict[str, float]:
    return {
        "p50": found["p50"], "p99": found["p99"], "load": found["cpu"] / found["seconds"],
        "connections": found.get("connections", CONNECTIONS[0]),
    }  # fmt: skip
