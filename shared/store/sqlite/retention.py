"""Removing what is over its age, on SQLite: in steps that hold the writer for a moment only.

Pages that become free are used again; the file does not shrink by itself.
"""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import apsw
from msgspec import Struct

from shared.ids import lowest_id
from shared.store.retention import (
    OWNED,
    Kind,
    Limits,
    Page,
    Step,
    ended,
    ended_values,
    page_query,
)
from shared.store.sqlite.parts import SqlitePart, rows

T = TypeVar("T")


class _Heavy(Struct, frozen=True):
    """How a table is walked in the order of its key, and a stretch of it thinned out."""

    table: str
    first: str | int
    page: str
    delete: str


_HEAVY = {
    Kind.PAYLOADS: _Heavy(
        "payloads",
        -1,
        "SELECT seq, received_at < ?1 FROM payloads WHERE seq > ?2 ORDER BY seq LIMIT ?3",
        "DELETE FROM payloads WHERE seq > ?1 AND seq <= ?2 AND received_at < ?3",
    ),
    # No attempt is older than its delivery, whose id tells when it was made.
    Kind.ATTEMPTS: _Heavy(
        "attempts",
        "",
        "SELECT delivery_id, at < ?1 FROM attempts WHERE delivery_id > ?2 AND delivery_id < ?4 "
        "ORDER BY delivery_id LIMIT ?3",
        "DELETE FROM attempts WHERE delivery_id > ?1 AND delivery_id <= ?2 AND at < ?3",
    ),
}

_PARTS = ("attempts", "deliveries", "transitions", "history", "payloads", "events", "aggregates")


class SqliteRetention(SqlitePart):
    """`shared.store.port.RetentionStore` on SQLite."""

    step = 0.02  # in which nobody else can write

    async def make_room(self, *, now: int) -> None:
        """See `shared.store.port.RetentionStore`: there is nothing to make."""

    async def forget(self, kind: Kind, *, before: int, after: str | int | None, limit: int) -> Step:
        """See `shared.store.port.RetentionStore`."""
        heavy = _HEAVY[kind]
        begin = heavy.first if after is None else after
        values = (before, begin, limit, lowest_id(before))[: heavy.page.count("?")]
        page = await self._read(lambda connection: rows(connection, heavy.page, values))
        if not page:
            return Step({}, 0, None)
        last = page[-1][0]
        if not any(old for _, old in page):
            return Step({}, 0, last)

        def delete(connection: apsw.Connection) -> int:
            connection.execute(heavy.delete, (begin, last, before))
            return connection.changes()

        count, seconds = await self._timed(delete)
        return Step({heavy.table: count}, seconds, last)

    async def ended(self, limits: Limits, *, links: bool, after: int, limit: int) -> Page:
        """See `shared.store.port.RetentionStore`."""
        values = (*ended_values(limits), after, limit)
        found = await self._read(
            lambda connection: rows(connection, page_query(links=links), values)
        )
        return Page([one for one, goes in found if goes], found[-1][0] if found else None)

    async def purge(self, ids: Sequence[int], limits: Limits, *, links: bool) -> Step:
        """See `shared.store.port.RetentionStore`."""
        values = ended_values(limits)
        going = f"SELECT 1 FROM aggregates a WHERE {ended(links=links)} AND a.id = ?"  # noqa: S608 - texts of our own

        def purge(connection: apsw.Connection) -> dict[str, int]:
            removed = dict.fromkeys(_PARTS, 0)
            for one in ids:
                if rows(connection, going, (*values, one)):
                    _purge(connection, one, removed)
            return removed

        removed, seconds = await self._timed(purge)
        return Step(removed, seconds, None)

    async def _timed(self, work: Callable[[apsw.Connection], T]) -> tuple[T, float]:
        """Do `work` in a transaction; also return for how many seconds it held the writer."""
        began = 0.0

        def timed(connection: apsw.Connection) -> T:
            nonlocal began
            began = time.perf_counter()
            return work(connection)

        done = await self._write(timed)
        return done, time.perf_counter() - began


def _purge(connection: apsw.Connection, aggregate: int, removed: dict[str, int]) -> None:
    """Remove one aggregate and all that belongs to it alone."""
    mine = (aggregate,)
    seqs = rows(connection, "SELECT event_seq FROM history WHERE aggregate_id = ?", mine)
    told = rows(connection, "SELECT id FROM deliveries WHERE aggregate_id = ?", mine)
    for table, statement, values in (
        ("attempts", "DELETE FROM attempts WHERE delivery_id = ?", told),
        ("deliveries", "DELETE FROM deliveries WHERE aggregate_id = ?", [mine]),
        ("transitions", "DELETE FROM transitions WHERE aggregate_id = ?", [mine]),
        ("history", "DELETE FROM history WHERE aggregate_id = ?", [mine]),
        ("payloads", "DELETE FROM payloads WHERE seq = ?", seqs),
        (
            "events",
            "DELETE FROM events WHERE seq = ?1 "
            "AND NOT EXISTS (SELECT 1 FROM history WHERE event_seq = ?1)",
            seqs,
        ),
        ("aggregates", "DELETE FROM aggregates WHERE id = ?", [mine]),
    ):
        before = connection.total_changes()
        connection.executemany(statement, values)
        removed[table] += connection.total_changes() - before
    for table in OWNED:
        connection.execute(f"DELETE FROM {table} WHERE aggregate_id = ?", mine)  # noqa: S608 - names of our own
