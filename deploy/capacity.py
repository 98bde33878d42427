"""How many of what for how many events a day: ``python -m deploy.capacity`` prints the table.

The rates are what one process carried on a machine with two slow cores that it shared with broker,
database and load, the slowest round of several days (`tests/benchmarks/results.json`,
`tests.benchmarks.scaling`); a core of a server does more. What one broker queue and one database
carry on hardware of their own is an assumption, marked as such.
"""

import math
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

DAY: Final = 86_400
PEAK: Final = 4.0
"""The busiest second against the average one. Measure your own."""

HEADROOM: Final = 0.5
"""Of what a process can do, so much is planned for."""

RECEIVER: Final = 18_000.0
"""Events/s of one receiver process, batches of 10; measured."""

EVENTS_WORKER: Final = 5_600.0
"""Events/s of one events worker on PostgreSQL; measured while the disk was slow to sync."""

CALLBACKS_WORKER: Final = 3_300.0
"""Callbacks/s of one callbacks worker, attempts recorded; measured."""

CALLBACKS_PER_EVENT: Final = 0.84
"""Notifications per event for one endpoint that wants all of them; counted over 50,000 events."""

QUEUE: Final = 30_000.0
"""Events/s through one quorum queue of three nodes; assumed. Beyond it: several queues."""

DATABASE: Final = 15_000.0
"""Events/s into one database on server disks; assumed. Beyond it: several databases."""

BYTES_PER_EVENT: Final = 2_535
"""Bytes of PostgreSQL per event of 500 bytes, with all that it leads to; measured."""


class Plan(Struct, frozen=True):
    """What a day of so many events needs."""

    per_day: int
    peak: float
    receivers: int
    events_workers: int
    callbacks_workers: int
    queues: int
    databases: int
    gigabytes_a_day: float
    first_limit: str


def plan(per_day: int) -> Plan:
    """The processes, queues and databases for `per_day` events."""
    peak = per_day / DAY * PEAK

    def count(rate: float, each: float) -> int:
        return max(1, math.ceil(rate / (each * HEADROOM)))

    use = {
        "one receiver": peak / RECEIVER,
        "one events worker": peak / EVENTS_WORKER,
        "one callbacks worker": peak * CALLBACKS_PER_EVENT / CALLBACKS_WORKER,
        "one events queue": peak / QUEUE,
        "one database": peak / DATABASE,
    }
    return Plan(
        per_day=per_day,
        peak=peak,
        receivers=count(peak, RECEIVER),
        events_workers=count(peak, EVENTS_WORKER),
        callbacks_workers=count(peak * CALLBACKS_PER_EVENT, CALLBACKS_WORKER),
        queues=count(peak, QUEUE),
        databases=count(peak, DATABASE),
        gigabytes_a_day=per_day * BYTES_PER_EVENT / 1e9,
        first_limit=max(use, key=lambda one: use[one]),
    )


SIZES: Final = (100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)

HEAD: Final = (
    "events a day", "peak/s", "receivers", "events workers", "callbacks workers", "events queues",
    "databases", "GB a day",
)  # fmt: skip


def table(sizes: Sequence[int] = SIZES) -> str:
    """The table as Markdown."""
    lines = [" | ".join(("", *HEAD, "")).strip(), "|" + "---:|" * len(HEAD)]
    for one in map(plan, sizes):
        cells = (
            f"{one.per_day:,}", f"{one.peak:,.0f}", one.receivers, one.events_workers,
            one.callbacks_workers, one.queues, one.databases, f"{one.gigabytes_a_day:,.1f}",
        )  # fmt: skip
        lines.append(" | ".join(("", *map(str, cells), "")).strip())
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
