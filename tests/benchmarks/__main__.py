"""Everything that is measured: ``make bench``, ``make bench-short``.

``python -m tests.benchmarks --parts ingest,processing`` measures parts of it and keeps what the
files have of the others; ``--parts ""`` only writes table and plot anew. README.md here says what
each figure means.
"""

import argparse
import platform
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import uvloop
from msgspec import Struct, structs

from tests.benchmarks import calling, growth, ingest, processing, report, sides, staying
from tests.benchmarks.results import Book
from tests.benchmarks.rig import Rig, rig
from tests.benchmarks.sides import CORREIO, FASTSTREAM

HERE = Path(__file__).parent


class Size(Struct, frozen=True):
    """How much is measured.

    Attributes:
        seconds: of each ingest.
        count: events that a worker of ours works off; a peer gets a quarter.
        calls: callbacks that are made.
    """

    rounds: int
    seconds: float
    count: int
    calls: int
    batches: tuple[int, ...]
    stored: int = 10_000_000
    overload: float = 600.0


FULL = Size(rounds=3, seconds=4.0, count=40_000, calls=15_000, batches=(1, 10, 50, 500))
SHORT = Size(rounds=1, seconds=2.0, count=20_000, calls=10_000, batches=(1, 10, 50))


async def ingest_part(rig: Rig, book: Book, size: Size) -> None:
    """One receiver process against the limits and FastStream."""
    for _ in range(size.rounds):
        await ingest.raw(rig, book, seconds=size.seconds)
        for batch in size.batches:
            await ingest.receiving(rig, book, CORREIO, batch=batch, seconds=size.seconds)
            await ingest.noop(rig, book, batch=batch, seconds=size.seconds)
            await ingest.receiving(rig, book, FASTSTREAM, batch=batch, seconds=size.seconds)


async def latency_part(rig: Rig, book: Book, size: Size) -> None:
    """Acknowledgement at shares of the highest rate."""
    for _ in range(size.rounds):
        aside = Book(book.path.with_suffix(".highest.json"))  # what the machine takes just now
        highest = await ingest.receiving(rig, aside, CORREIO, batch=10, seconds=size.seconds)
        for share in (0.2, 0.5, 0.8):
            await ingest.acknowledging(
                rig, book, share=share, highest=highest, seconds=size.seconds, store="sqlite"
            )


async def processing_part(rig: Rig, book: Book, size: Size) -> None:
    """One events worker against the limit and FastStream."""
    for _ in range(size.rounds):
        await processing.consuming(rig, book, count=size.count)
        for store in ("sqlite", "postgres"):
            await processing.processing(rig, book, CORREIO, store=store, count=size.count)
            await processing.processing(rig, book, FASTSTREAM, store=store, count=size.count // 4)


async def together_part(rig: Rig, book: Book, size: Size) -> None:
    """Receiver and worker against FastStream's."""
    for _ in range(size.rounds):
        for store in ("sqlite", "postgres"):
            await processing.together(rig, book, CORREIO, store=store, count=size.count)
            await processing.together(rig, book, FASTSTREAM, store=store, count=size.count // 4)


async def callbacks_part(rig: Rig, book: Book, size: Size) -> None:
    """One callbacks worker against a bare client."""
    for _ in range(size.rounds):
        await calling.posting(rig, book, seconds=size.seconds)
        for endpoints in (1, 1_000):
            await calling.calling(rig, book, store="sqlite", endpoints=endpoints, count=size.calls)
        await calling.calling(rig, book, store="postgres", endpoints=1, count=size.calls)


async def peers_part(rig: Rig, book: Book, size: Size) -> None:
    """The other peers."""
    for _ in range(size.rounds):
        for side in sides.OTHERS:
            for batch in size.batches:
                await ingest.receiving(rig, book, side, batch=batch, seconds=size.seconds)
            for store in ("sqlite", "postgres"):
                await processing.processing(rig, book, side, store=store, count=size.count // 8)
                await processing.together(rig, book, side, store=store, count=size.count // 8)


async def start_part(rig: Rig, book: Book, size: Size) -> None:
    """How soon each process is ready."""
    for _ in range(size.rounds):
        await staying.starting(rig, book)


async def overload_part(rig: Rig, book: Book, size: Size) -> None:
    """Ingest outruns processing."""
    await staying.overload(rig, book, seconds=size.overload)


async def growth_part(rig: Rig, book: Book, size: Size) -> None:
    """Processing on many stored events."""
    for store, most in (("sqlite", 1_000_000), ("postgres", 10_000_000)):
        for stored in sorted({0, min(1_000_000, size.stored), min(most, size.stored)}):
            for _ in range(size.rounds if not stored else 1):
                await growth.grown(rig, book, store=store, stored=stored)


PARTS: dict[str, Callable[[Rig, Book, Size], Awaitable[None]]] = {
    "ingest": ingest_part,
    "latency": latency_part,
    "processing": processing_part,
    "together": together_part,
    "callbacks": callbacks_part,
    "start": start_part,
    "peers": peers_part,
    "growth": growth_part,
    "overload": overload_part,
}
USUAL = [name for name in PARTS if name not in ("growth", "overload")]
"""What is measured if nothing is said: growth takes an hour and 30 GB, overload 10 minutes."""


async def measure(book: Book, parts: list[str], size: Size) -> None:
    """Measure the parts one after another; each is saved when it is complete."""
    async with rig() as made:
        for name in parts:
            began = time.monotonic()
            book.begin(name)
            await PARTS[name](made, book, size)
            book.facts |= {
                "machine": f"{psutil.cpu_count()} cores, Python {platform.python_version()}",
                f"seconds of {name}": f"{time.monotonic() - began:.0f}",
            }
            book.save()


def main() -> None:
    """Run as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join(USUAL), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--short", action="store_true", help="one round, less of everything")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--stored", type=int, default=0, help="events stored at the most")
    parser.add_argument("--overload", type=float, default=0.0, help="seconds of overload")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="without an ending")
    options = parser.parse_args()
    size = SHORT if options.short else FULL
    size = structs.replace(
        size,
        rounds=options.rounds or size.rounds,
        stored=options.stored or size.stored,
        overload=options.overload or size.overload,
    )
    book = Book(options.out.with_suffix(".json"))
    if options.parts:
        uvloop.run(measure(book, options.parts.split(","), size))
    report.write(book, options.out.with_suffix(".md"))
    report.plot(book, options.out.with_suffix(".svg"))
    print("\n".join(report.bar_lines(book)))


if __name__ == "__main__":
    main()
