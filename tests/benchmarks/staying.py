"""Starting, and staying up while more comes in than can be processed."""

import asyncio
import contextlib
import time

from deploy.local.rabbitmq import free_port
from shared.store.spool import measure_spool
from tests.benchmarks.processing import consumed
from tests.benchmarks.results import Book
from tests.benchmarks.rig import Meter, Rig, answers, count_rows, depth_of, until_rows
from tests.benchmarks.sides import CORREIO, Place

ROLES = {
    "receiver": ("receiver",),
    "events worker": ("worker", "events"),
    "callbacks worker": ("worker", "callbacks"),
}
BOUND = 50_000
"""Events in the queue beyond which batches go to the spool, in the run that shows it."""

EVENTS_A_SECOND = 20_000
"""What is sent; more than one worker processes beside everything else."""


async def starting(rig: Rig, book: Book) -> None:
    """From the start of a process to its being ready, broker and store being there."""
    with contextlib.ExitStack() as stack:
        url, folder = stack.enter_context(rig.vhost()), rig.fresh("starting")
        place = Place(rig, folder, url, stack.enter_context(rig.store("sqlite", folder)))
        await CORREIO.prepare(place)
        for role, arguments in ROLES.items():
            port = free_port()
            env = {
                "CORREIO_CONFIG": str(folder / "correio.toml"),
                "CORREIO_OPS__PORT": str(port),
                "CORREIO_RECEIVER__PORT": str(free_port()),
            }
            began = time.perf_counter()
            with rig.running(("python", "-m", *arguments), folder=folder, env=env) as running:
                await answers(port, running, path="/readyz")
                took = time.perf_counter() - began
                use = Meter({role: running.pid}).read()
            book.add(f"cold start, {role}", CORREIO.name, took * 1000, unit="ms", memory=use.memory)


async def overload(rig: Rig, book: Book, *, seconds: float) -> None:
    """More is sent than one worker processes: the queue stays bounded, the rest is spooled."""
    with contextlib.ExitStack() as stack:
        url, folder = stack.enter_context(rig.vhost()), rig.fresh("overload")
        place = Place(rig, folder, url, stack.enter_context(rig.store("sqlite", folder)))
        await CORREIO.prepare(place)
        text = (folder / "correio.toml").read_text()
        bounded = text.replace("[receiver]", f"[receiver]\nqueue_max_events = {BOUND}")
        (folder / "correio.toml").write_text(bounded)
        worker = stack.enter_context(CORREIO.worker(place))
        await consumed(url, CORREIO.queue)
        async with (
            CORREIO.receiver(place) as (port, receiver),
            depth_of(url, CORREIO.queue) as depth,
        ):
            pids = {"receiver": receiver.pid, "worker": worker.pid}
            loading = asyncio.create_task(
                rig.ask(
                    "tests.benchmarks.load", "--port", f"{port}", "--batch", "10",
                    "--rate", f"{EVENTS_A_SECOND / 10}", "--warm", "1", "--distinct", "100000",
                    "--seconds", f"{seconds}", pids=pids, limit=seconds + 120,
                )
            )  # fmt: skip
            longest = spooled = 0
            while not loading.done():
                longest = max(longest, await depth.read())
                spool = measure_spool(folder / "spool", now=0)
                spooled = max(spooled, spool.events if spool is not None else 0)
                await asyncio.wait([loading], timeout=0.5)  # looked at twice a second meanwhile
            found, use = await loading
            stored = count_rows(place.store, "events")
            await until_rows(place.store, "events", stored + 1)
            worker.check()
    more = {
        "p50": found["p50"], "p99": found["p99"], "accepted": found["rate"],
        "refused": float(sum(found["refused"].values())), "longest queue": float(longest),
        "most in the spool": float(spooled), "stored": float(stored),
    }  # fmt: skip
    book.add(f"overload, {seconds:g} s", CORREIO.name, found["rate"], cpu=use.cpu,
             memory=use.memory, more=more)  # fmt: skip
