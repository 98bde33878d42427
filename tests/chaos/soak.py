"""Faults in random order for as long as wanted, while memory and files of each process are watched.

usage: python -m tests.chaos.soak [--minutes 60] [--seed N] [--store sqlite|postgres]

Besides the processes that the rows kill there is an elder of each role that they only strike from
outside: what leaks shows there.
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from msgspec import Struct

from tests.chaos import results
from tests.chaos.catalogue import STORES, Row
from tests.chaos.play import play
from tests.chaos.rows import REAL
from tests.chaos.stage import Stage
from tests.support.world import ROLES

INTERVAL = 5.0
"""Seconds between two samples."""

JUDGED = 10
"""Rows after which the books are read as a whole."""

MEMORY_SLACK = 12 * 1024 * 1024
"""Bytes that a process may take more in the last quarter than in the second: caches fill up."""

FILES_SLACK = 8

FEW = 8
"""Samples that tell nothing about growth."""

LASTING = {"spool-file-deleted"}
"""Rows that leave something behind as long as the elders live: a spool file without a name."""

ELDER = "elder-"

LIMIT = 240.0
"""Seconds for one row."""


class Sample(Struct, frozen=True):
    """One look at a process."""

    at: float
    memory: int
    files: int


class Watch:
    """Samples of every process, by its name."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.samples: dict[str, list[Sample]] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            for name, part in self._stage.world.parts.items():
                if part.running:
                    self._look(name, part.pid)
            await asyncio.sleep(INTERVAL)

    def _look(self, name: str, pid: int) -> None:
        try:
            process = psutil.Process(pid)
            found = Sample(time.monotonic(), process.memory_info().rss, process.num_fds())
        except psutil.Error:
            return
        self.samples.setdefault(name, []).append(found)

    def growth(self, name: str) -> tuple[float, float, float, float]:
        """Medians of memory (MB) and files, in the second quarter and in the last."""
        all_of_it = self.samples[name]
        quarter = max(1, len(all_of_it) // 4)
        early, late = all_of_it[quarter : 2 * quarter], all_of_it[-quarter:]
        return (
            statistics.median(one.memory for one in early) / 1e6,
            statistics.median(one.memory for one in late) / 1e6,
            statistics.median(one.files for one in early),
            statistics.median(one.files for one in late),
        )


async def soak(stage: Stage, watch: Watch, *, seed: int, seconds: float) -> bool:
    """Play all rows, again and again, each time in another order; whether all was well."""
    rows = [row for row in REAL if stage.kind in row.stores and row.name not in LASTING]
    order = shuffled(rows, seed)
    end, number, seen = time.monotonic() + seconds, 0, Counter[str]()
    for role in ROLES:
        await stage.elder(role, name=f"{ELDER}{role}")
    watching = asyncio.create_task(watch.run())
    try:
        while time.monotonic() < end:
            row = next(order)
            number += 1
            seen[row.name] += 1
            try:
                async with asyncio.timeout(LIMIT):
                    times = await play(stage, row, judged=number % JUDGED == 0)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the result
                print(f"row {number}, {row.name}, seed {seed}: {error!r}", flush=True)
                results.note(row.name, "violated", store=stage.kind)
                return False
            results.note(row.name, "holds", store=stage.kind,
                         recovered=times.recovered, drained=times.drained)  # fmt: skip
            print(f"{number:4} {row.name:32} recovered {times.recovered:5.1f} s, "
                  f"drained {times.drained:5.1f} s", flush=True)  # fmt: skip
        await stage.world.judge(foreign=stage.foreign)
    finally:
        watching.cancel()
    print(f"{number} rows, {len(seen)} of {len(rows)} different ones, "
          f"{len(stage.world.made)} events, {len(stage.world.endpoint.calls)} calls")  # fmt: skip
    return True


def shuffled(rows: Sequence[Row], seed: int) -> Iterator[Row]:
    """All rows in random order, then all in another, without end."""
    chance = random.Random(seed)
    while True:
        yield from chance.sample(rows, len(rows))


def flat(watch: Watch) -> bool:
    """Print what the elders took, and whether it stayed the same."""
    well = True
    print("process              MB in the 2nd quarter, in the last | files likewise | log KB/min")
    for name, samples in watch.samples.items():
        if len(samples) < FEW:
            continue
        early, late, files, more = watch.growth(name)
        log = watch._stage.world.parts[name].log
        minutes = (watch.samples[name][-1].at - watch.samples[name][0].at) / 60
        rate = log.stat().st_size / 1024 / max(minutes, 0.1)
        print(f"{name:20} {early:8.1f} {late:8.1f} | {files:5.0f} {more:5.0f} | {rate:8.1f}")
        if name.startswith(ELDER):
            well = well and (late - early) * 1e6 <= MEMORY_SLACK and more - files <= FILES_SLACK
    return well


async def run(given: argparse.Namespace, folder: Path) -> int:
    """The whole soak; returns the exit status."""
    print(f"seed {given.seed}, {given.minutes:g} minutes on {given.store}, logs in {folder}",
          flush=True)  # fmt: skip
    async with Stage(folder, given.store) as stage:
        watch = Watch(stage)
        well = await soak(stage, watch, seed=given.seed, seconds=given.minutes * 60)
        steady = flat(watch)
    print("the books balance" if well else "VIOLATED", "and", "memory and files are flat" if steady
          else "MEMORY OR FILES GREW", sep=" ")  # fmt: skip
    return 0 if well and steady else 1


def main() -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--store", choices=STORES, default="postgres")
    given = parser.parse_args()
    return asyncio.run(run(given, Path(tempfile.mkdtemp(prefix="correio-soak-"))))


if __name__ == "__main__":
    sys.exit(main())
