"""The same with many events stored already: does processing keep its speed?

A database is filled by real processing, then its rows are copied inside the database under ever
new ids until it holds as many events as asked. What is copied is of other aggregates than what
comes next, as it is in life: most of what is stored is over.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import apsw
import psycopg

from tests.benchmarks import traffic
from tests.benchmarks.processing import drained, fill
from tests.benchmarks.results import Book
from tests.benchmarks.rig import Rig, count_rows, depth_of, prepare, until_rows
from tests.benchmarks.sides import CORREIO, Place

TEMPLATE = 5_000
STEP = 50
"""Copies of the template in one transaction."""

NEXT = 20_000
"""Events that are processed on top, of another seed than the template's."""

RANDOM = {"sqlite": "lower(hex(randomblob(14)))", "postgres": "md5(random()::text || n)"}
SERIES = {
    "sqlite": "(WITH RECURSIVE s (n) AS (SELECT {0} UNION ALL SELECT n + 1 FROM s WHERE n < {1}) "
    "SELECT n FROM s)",
    "postgres": "(SELECT n FROM generate_series({0}, {1}) AS s (n))",
}
EVENT, AGGREGATE, NEW = "event", "aggregate", "new"
COPIED: dict[str, dict[str, str]] = {
    "events": {"seq": EVENT, "event_id": NEW},
    "payloads": {"seq": EVENT},
    "history": {"event_seq": EVENT, "aggregate_id": AGGREGATE},
    "aggregates": {"id": AGGREGATE, "key": NEW},
    "transitions": {"event_seq": EVENT, "aggregate_id": AGGREGATE},
    "deliveries": {"id": NEW, "aggregate_id": AGGREGATE},
    "data_keys": {"aggregate_id": AGGREGATE},
    "subjects": {"aggregate_id": AGGREGATE},
}
"""Table → which of its columns name an event, an aggregate, or must be new. What is in the order
of its making is copied in order; ids that the source makes up are random, as in life."""

Run = Callable[[str], list[tuple[int | str, ...]]]


async def grown(rig: Rig, book: Book, *, store: str, stored: int) -> None:
    """Processing on top of so many stored events."""
    with contextlib.ExitStack() as stack:
        url, folder = stack.enter_context(rig.vhost()), rig.fresh("growth")
        place = Place(rig, folder, url, stack.enter_context(rig.store(store, folder)))
        await prepare(url, place.store)
        CORREIO.config(place)
        if stored:
            await _process(place, traffic.events(TEMPLATE, seed=2))
            await asyncio.to_thread(_copy, place.store, store, stored)
        before = count_rows(place.store, "events")
        made = traffic.events(NEXT, seed=3)
        await fill(url, made)
        async with depth_of(url, CORREIO.queue) as depth:
            await depth.until(NEXT)
            with CORREIO.worker(place) as running:
                pids = {
                    "worker": running.pid,
                    **rig.broker_pids(),
                    **rig.database_pids(place.store),
                }
                rate, use = await drained(depth, NEXT, pids)
                running.check()
                await until_rows(place.store, "events", before + len(set(made)))
    memory = {"worker": use.memory["worker"]}
    book.add(f"processing on {stored:,} stored events, {store}", CORREIO.name, rate,
             cpu=use.cpu, memory=memory)  # fmt: skip


async def _process(place: Place, events: list[bytes]) -> None:
    await fill(place.broker, events)
    with CORREIO.worker(place):
        await until_rows(place.store, "events", len(set(events)))


def _copy(url: str, kind: str, stored: int) -> None:
    """Copy the template until there are so many events."""
    with contextlib.ExitStack() as stack:
        run: Run
        if kind == "sqlite":
            database = apsw.Connection(url.removeprefix("sqlite:///"))
            stack.callback(database.close)
            run = lambda query: list(database.execute(query))  # noqa: E731 - one of two
            run("PRAGMA synchronous = OFF")
            run("PRAGMA cache_size = -400000")
        else:
            connection = stack.enter_context(psycopg.connect(url, autocommit=True))
            connection.execute("SET synchronous_commit = off")

            def run(query: str) -> list[tuple[int | str, ...]]:
                cursor = connection.execute(query)  # type: ignore[call-overload]  # ours
                return cursor.fetchall() if cursor.description else []

        run("UPDATE deliveries SET state = 'delivered'")
        ((events, aggregates, count),) = run(
            "SELECT (SELECT max(seq) FROM events), (SELECT max(id) FROM aggregates), "
            "(SELECT count(*) FROM events)"
        )
        times = max(0, stored // int(count) - 1)
        for first in range(1, times + 1, STEP):
            last = min(times, first + STEP - 1)
            run("BEGIN")
            for table, changed in COPIED.items():
                run(_statement(run, table, changed, kind=kind, first=first, last=last,
                               events=int(events), aggregates=int(aggregates)))  # fmt: skip
            run("COMMIT")
        if kind == "postgres":
            run("SELECT setval('event_seqs', (SELECT max(seq) FROM events)), "
                "setval('aggregate_ids', (SELECT max(id) FROM aggregates))")  # fmt: skip
            run("VACUUM ANALYZE")
            run("CHECKPOINT")
        else:
            run("ANALYZE")
            run("PRAGMA wal_checkpoint(TRUNCATE)")
            with Path(url.removeprefix("sqlite:///")).open("rb") as file:
                os.fsync(file.fileno())  # as what was stored long ago is


def _statement(
    run: Run, table: str, changed: dict[str, str], *, kind: str, first: int, last: int,
    events: int, aggregates: int,
) -> str:  # fmt: skip
    """The statement that copies a table's template from `first` to `last` times."""
    if kind == "sqlite":
        names = [str(row[1]) for row in run(f"PRAGMA table_info({table})")]
    else:
        names = [
            str(row[0])
            for row in run(
                "SELECT attname FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped "
                f"AND attrelid = '{table}'::regclass"
            )
        ]
    made = {
        EVENT: f"{{}} + n * {events}", AGGREGATE: f"{{}} + n * {aggregates}", NEW: RANDOM[kind],
    }  # fmt: skip
    values = [made[changed[one]].format(one) if one in changed else one for one in names]
    number = next(iter(changed))
    if table == "deliveries":
        number = "aggregate_id"
    bound = events if changed[number] == EVENT else aggregates
    series = SERIES[kind].format(first, last)
    return (
        f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(values)} "
        f"FROM {table}, {series} AS copies WHERE {number} <= {bound}"
    )
