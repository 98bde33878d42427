"""The days of the tables that are cut by time: made ahead, dropped whole.

A table that is dropped is locked, with the table it is a part of, only while the catalogue
changes; its files go after that. Nobody waits longer than `LOCK_TIMEOUT` for it, and if somebody
else holds the table for longer, it is tried again and then left for the next time.
"""

import contextlib
import re
from datetime import UTC, datetime

from msgspec import Struct
from psycopg import errors
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random

from shared.store.postgres.link import Connection
from shared.store.postgres.parts import execute, rows
from shared.store.retention import DAY, Kind

AHEAD = 7
"""Days for which there is always room: for so long nobody need make any."""

LOCK_TIMEOUT = 250
"""Milliseconds."""

LOCK = 0x636F7272
"""Key of the advisory lock ("corr") under which the schema changes."""

_TRIES = 10
_BOUNDS = re.compile(r"FROM \((?:MINVALUE|'?(-?\d+)'?)\) TO \('?(-?\d+)'?\)")
_PARTS = """
SELECT c.relname, pg_get_expr(c.relpartbound, c.oid), c.reltuples::bigint
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = to_regclass(%s) ORDER BY c.relname
"""


class Cut(Struct, frozen=True):
    """A table that is cut by time: the column of its time, and the key of each part."""

    column: str
    key: str


CUTS = {
    Kind.PAYLOADS: Cut("received_at", "seq"),
    Kind.ATTEMPTS: Cut("at", "delivery_id, number"),
}


class Part(Struct, frozen=True):
    """A part of a table, and the times it is for: from `begin`, None for ever, to before `end`."""

    name: str
    begin: int | None
    end: int
    rows: int


async def parts(connection: Connection, table: Kind) -> list[Part]:
    """The parts of a table, without the default one; `rows` is estimated, -1 if it is unknown."""
    found = []
    for name, bounds, estimate in await rows(connection, _PARTS, (table.value,)):
        match = _BOUNDS.search(bounds)
        if match is not None:
            begin, end = match.groups()
            found.append(Part(name, None if begin is None else int(begin), int(end), estimate))
    return found


async def make_parts(connection: Connection, *, now: int) -> list[str]:
    """Make room for today and the days ahead; return the names of the tables made.

    A day for which the default part holds rows already stays there: they would have to be moved
    while writers wait. They go from there by their age.

    Args:
        connection: in autocommit mode.
        now: Unix milliseconds.
    """
    today = now // DAY * DAY
    made = []
    for table, cut in CUTS.items():
        there = await parts(connection, table)
        for begin in range(today, today + (AHEAD + 1) * DAY, DAY):
            end = begin + DAY
            if any(one.end > begin and (one.begin is None or one.begin < end) for one in there):
                continue
            taken = (
                f"SELECT EXISTS (SELECT 1 FROM {table}_default "  # noqa: S608 - names of our own
                f"WHERE {cut.column} >= %s AND {cut.column} < %s)"
            )
            ((holds,),) = await rows(connection, taken, (begin, end))
            if not holds:
                name = f"{table}_{datetime.fromtimestamp(begin / 1000, UTC):%Y%m%d}"
                # Somebody else was quicker, or a row of that day has come meanwhile.
                with contextlib.suppress(errors.DuplicateTable, errors.CheckViolation):
                    # Made first and then attached, which does not keep writers waiting.
                    await change(
                        connection,
                        f"CREATE TABLE {name} (LIKE {table}, PRIMARY KEY ({cut.key})); "
                        f"ALTER TABLE {table} ATTACH PARTITION {name} "
                        f"FOR VALUES FROM ({begin}) TO ({end})",
                    )
                    made.append(name)
    return made


async def drop_part(connection: Connection, part: Part) -> int:
    """Drop a part whole; return how many rows it had, as PostgreSQL estimates where it can."""
    count = part.rows
    if count < 0:
        ((count,),) = await rows(connection, f"SELECT count(*) FROM {part.name}")  # noqa: S608 - a name of our own
    await change(connection, f"DROP TABLE {part.name}")
    return int(count)


async def change(connection: Connection, statement: str) -> None:
    """Change a table as a whole, waiting for its lock briefly and often rather than long.

    Raises:
        psycopg.errors.LockNotAvailable: somebody else has held the table all the while.
    """
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(errors.LockNotAvailable),
        wait=wait_random(0.1, 0.5),
        stop=stop_after_attempt(_TRIES),
        reraise=True,
    ):
        with attempt:
            async with connection.transaction():
                await execute(connection, f"SET LOCAL lock_timeout = {LOCK_TIMEOUT}")
                await execute(connection, f"SELECT pg_advisory_xact_lock({LOCK})")
                await execute(connection, statement)
