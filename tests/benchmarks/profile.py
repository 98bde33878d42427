"""Where the time of a hot path goes: ``python -m tests.benchmarks.profile ingest --batch 1``.

Also ``processing --store postgres`` and ``callbacks``. It starts what the benchmark of that name
starts, watches our process with py-spy and prints the functions that took most, by themselves and
with all that they called. ``--raw FILE`` keeps the stacks for a flame graph.
"""

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from pathlib import Path

import uvloop

from tests.benchmarks import calling, ingest, processing
from tests.benchmarks.results import Book
from tests.benchmarks.rig import Rig, Running, rig
from tests.benchmarks.sides import CORREIO

ROLES = {"ingest": "receiver", "processing": "events", "callbacks": "callbacks"}


class Spy:
    """Watches the first process of a role, once it runs."""

    def __init__(self, role: str, raw: Path, *, native: bool, after: float, seconds: int) -> None:
        self._role, self._raw, self._native = role, raw, native
        self._after, self._seconds = after, seconds
        self.task: asyncio.Task[None] | None = None

    def started(self, arguments: tuple[str, ...], running: Running) -> None:
        if self.task is None and arguments[-1].endswith(self._role):
            self.task = asyncio.create_task(self._watch(running.pid))

    async def _watch(self, pid: int) -> None:
        await asyncio.sleep(self._after)
        program = Path(sys.executable).with_name("py-spy")
        command = [
            str(program), "record", "-p", str(pid), "-d", str(self._seconds), "-r", "500", "-F",
            "-f", "raw", "-o", str(self._raw), "--native" if self._native else "--gil",
        ]  # fmt: skip
        process = await asyncio.create_subprocess_exec(*command)
        await process.wait()


def told(raw: Path, most: int) -> None:
    """Print the functions by the share of samples in which they ran, and in which they were."""
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for line in raw.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        own[frames[-1]] += int(count)
        for frame in set(frames):
            within[frame] += int(count)
    total = own.total()
    for title, found in (("by itself", own), ("with what it called", within)):
        print(f"\n{title}")
        for frame, count in found.most_common(most):
            print(f"{count / total:7.1%}  {frame}")


async def profile(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        raw = options.raw or Path(name) / "raw"
        book = Book(Path(name) / "book.json")
        async with rig() as made:
            spy = Spy(ROLES[options.path], raw, native=options.native, after=options.after,
                      seconds=options.seconds)  # fmt: skip
            made.watcher = spy.started
            await _run(made, book, options)
            if spy.task is not None:
                await spy.task
        told(raw, options.most)


async def _run(made: Rig, book: Book, options: argparse.Namespace) -> None:
    match options.path:
        case "ingest":
            seconds = options.seconds + 3.0
            await ingest.receiving(made, book, CORREIO, batch=options.batch, seconds=seconds)
        case "processing":
            await processing.processing(
                made, book, CORREIO, store=options.store, count=options.count
            )
        case _:
            await calling.calling(
                made, book, store=options.store, endpoints=options.endpoints, count=options.count
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", choices=list(ROLES))
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--store", default="sqlite")
    parser.add_argument("--count", type=int, default=60_000)
    parser.add_argument("--endpoints", type=int, default=1)
    parser.add_argument("--after", type=float, default=1.5, help="seconds before the watch")
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--most", type=int, default=45)
    parser.add_argument("--native", action="store_true", help="with the frames of C")
    parser.add_argument("--raw", type=Path)
    uvloop.run(profile(parser.parse_args()))


if __name__ == "__main__":
    main()
