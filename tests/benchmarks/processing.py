"""Processing: how fast one worker process works a queue off, and receiver and worker together."""

import asyncio
import contextlib
import time
from collections.abc import Mapping

from receiver.batch import Batch
from receiver.outlet import messages_of
from shared.broker import topology
from shared.broker.publisher import ConfirmingPublisher, Outgoing
from shared.config import BrokerConfig, Secret
from shared.ids import new_id
from tests.benchmarks import traffic
from tests.benchmarks.results import Book
from tests.benchmarks.rig import Depth, Meter, Rig, Use, depth_of, exists, prepare, until_rows
from tests.benchmarks.sides import CORREIO, Place, Side

CONSUME = "aiormq, multiple acknowledge"
GROUP = 500
SETTLED = 0.1
"""Share of the messages that are worked off before the clock starts."""


async def consuming(rig: Rig, book: Book, *, count: int) -> None:
    """The limit of consuming."""
    with rig.vhost() as url:
        await prepare(url)
        await fill(url, traffic.events(count))
        folder = rig.fresh("consume")
        async with depth_of(url, topology.EVENTS) as depth:
            await depth.until(count)
            with rig.running(
                ("python", "-m", "tests.benchmarks.limits.consume", url, topology.EVENTS),
                folder=folder,
            ) as running:
                rate, use = await drained(
                    depth, count, {"client": running.pid, **rig.broker_pids()}
                )
    book.add("consume", CONSUME, rate, cpu=use.cpu)


async def processing(rig: Rig, book: Book, side: Side, *, store: str, count: int) -> None:
    """What one worker process of this side works off."""
    with contextlib.ExitStack() as stack:
        url, folder = stack.enter_context(rig.vhost()), rig.fresh("processing")
        place = Place(rig, folder, url, stack.enter_context(rig.store(store, folder)))
        await side.prepare(place)
        if side is CORREIO:
            await fill(url, traffic.events(count))
        else:
            await send(rig, side, place, count)
        async with depth_of(url, side.queue) as depth:
            await depth.until(count)
            with side.worker(place) as running:
                pids = {
                    "worker": running.pid,
                    **rig.broker_pids(),
                    **rig.database_pids(place.store),
                }
                rate, use = await drained(depth, count, pids)
                running.check()
                await until_rows(place.store, side.table, len(set(traffic.events(count))))
    memory = {"worker": use.memory["worker"]}
    book.add(f"processing, {store}", side.name, rate, cpu=use.cpu, memory=memory)


async def together(rig: Rig, book: Book, side: Side, *, store: str, count: int) -> None:
    """From the first byte sent to the last event stored; batches of 10."""
    with contextlib.ExitStack() as stack:
        url, folder = stack.enter_context(rig.vhost()), rig.fresh("together")
        place = Place(rig, folder, url, stack.enter_context(rig.store(store, folder)))
        await side.prepare(place)
        async with side.receiver(place) as (port, receiver):
            worker = stack.enter_context(side.worker(place))
            await consumed(url, side.queue)
            meter = Meter({
                "receiver": receiver.pid, "worker": worker.pid, **rig.broker_pids(),
                **rig.database_pids(place.store),
            })  # fmt: skip
            found, _ = await rig.ask(
                "tests.benchmarks.load", "--port", f"{port}", "--batch", "10",
                "--events", f"{count}",
            )  # fmt: skip
            expected = len(set(traffic.events(count)))
            await until_rows(place.store, side.table, expected, limit=300)
            seconds = time.time() - found["started"]
            use = meter.read()
        if found["refused"] or found["lost"]:
            raise RuntimeError(f"{side.name} refused {found['refused']}, lost {found['lost']}")
    memory = {name: use.memory[name] for name in ("receiver", "worker")}
    book.add(f"end to end, {store}", side.name, count / seconds, cpu=use.cpu, memory=memory)


async def fill(url: str, made: list[bytes]) -> None:
    """Put events into Correio's queue, as the receiver would."""
    publisher = ConfirmingPublisher(
        BrokerConfig(url=Secret(url)), name="filler", queue=topology.EVENTS
    )
    running = asyncio.create_task(publisher.run())
    await publisher.wait_connected()
    for start in range(0, len(made), GROUP):
        await publisher.publish(messages(made[start : start + GROUP]))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def messages(events: list[bytes]) -> list[Outgoing]:
    """As the receiver publishes them, in batches of 10."""
    made: list[Outgoing] = []
    for start in range(0, len(events), 10):
        made += messages_of(Batch(
            id=new_id(), source="klavi", received_at=round(time.time() * 1000),
            traceparent=f"00-{'a' * 32}-{'b' * 16}-00", events=tuple(events[start : start + 10]),
        ))  # fmt: skip
    return made


async def send(rig: Rig, side: Side, place: Place, count: int) -> None:
    """Let a peer fill its own queue, since only it knows what its messages look like."""
    async with side.receiver(place) as (port, _):
        await rig.ask(
            "tests.benchmarks.load", "--port", f"{port}", "--batch", "50", "--events", f"{count}"
        )


async def consumed(url: str, queue: str) -> None:
    """Return once somebody consumes the queue."""
    async with asyncio.timeout(60):
        while not await exists(url, queue):
            await asyncio.sleep(0.05)
        async with depth_of(url, queue) as depth:
            while not await depth.consumers():
                await asyncio.sleep(0.05)


async def drained(depth: Depth, count: int, pids: Mapping[str, int]) -> tuple[float, Use]:
    """Messages a second while the queue goes from nine tenths full to empty, and what that took."""
    async with asyncio.timeout(300):
        while (first := await depth.read()) > count * (1 - SETTLED):
            await asyncio.sleep(0.02)
        began, meter = time.perf_counter(), Meter(pids)
        while await depth.read():
            await asyncio.sleep(0.02)
    return first / (time.perf_counter() - began), meter.read()
