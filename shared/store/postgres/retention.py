"""Removing what is over its age, on PostgreSQL: whole days are dropped, the rest goes in steps."""

import time
from collections.abc import Sequence

from shared.errors import StoreConflictError
from shared.store.postgres.columns import Numbers, Texts
from shared.store.postgres.link import Connection
from shared.store.postgres.partitions import CUTS, drop_part, make_parts, parts
from shared.store.postgres.parts import PostgresPart, execute, rows, translated
from shared.store.retention import (
    DAY,
    OWNED,
    Kind,
    Limits,
    Page,
    Step,
    ended,
    ended_values,
    page_query,
)

_LOCK_DELIVERIES = """
SELECT id, created_at, greatest(updated_at, due_at),
       state IN ('pending', 'retrying', 'held', 'exhausted')
FROM deliveries WHERE aggregate_id = ANY (%b::bigint[]) ORDER BY id FOR UPDATE
"""

_DELETE_ATTEMPTS = """
DELETE FROM attempts WHERE delivery_id = ANY (%b::text[]) AND at BETWEEN %s AND %s
"""

_DELETE_OF_AGGREGATES = "DELETE FROM {} WHERE aggregate_id = ANY (%b::bigint[])"

_RECEIVED = "SELECT seq, received_at FROM events WHERE seq = ANY (%b::bigint[])"

_DELETE_PAYLOADS = """
DELETE FROM payloads p USING unnest(%b::bigint[], %b::bigint[]) AS n (seq, at)
WHERE p.seq = n.seq AND p.received_at = n.at AND p.received_at BETWEEN %s AND %s
"""

_DELETE_EVENTS = """
DELETE FROM events e WHERE e.seq = ANY (%b::bigint[])
AND NOT EXISTS (SELECT 1 FROM history h WHERE h.event_seq = e.seq)
"""


class PostgresRetention(PostgresPart):
    """`shared.store.port.RetentionStore` on PostgreSQL."""

    step = 0.05  # in which only the rows that go are locked

    async def make_room(self, *, now: int) -> None:
        """See `shared.store.port.RetentionStore`."""
        with translated():
            async with self._connection(long=True) as connection:
                await make_parts(connection, now=now)

    async def forget(self, kind: Kind, *, before: int, after: str | int | None, limit: int) -> Step:
        """See `shared.store.port.RetentionStore`: drops a day, or thins out the default part."""
        with translated():
            async with self._connection(long=True) as connection:
                for part in await parts(connection, kind):
                    if part.end <= before:
                        began = time.perf_counter()
                        count = await drop_part(connection, part)
                        return Step({kind.value: count}, time.perf_counter() - began, part.name)
        key, column = CUTS[kind].key, CUTS[kind].column
        began = time.perf_counter()
        count = await self._change(
            f"DELETE FROM {kind}_default WHERE ({key}) IN (SELECT {key} FROM {kind}_default "  # noqa: S608 - names of our own
            f"WHERE {column} < %s ORDER BY {key} LIMIT %s)",
            (before, limit),
            long=True,
        )
        seconds = time.perf_counter() - began
        return Step({kind.value: count}, seconds, after or 0 if count == limit else None)

    async def ended(self, limits: Limits, *, links: bool, after: int, limit: int) -> Page:
        """See `shared.store.port.RetentionStore`."""
        query = page_query(links=links).replace("?", "%s")
        async with self._transaction(long=True) as connection:
            found = await rows(connection, query, (*ended_values(limits), after, limit))
        return Page([one for one, goes in found if goes], found[-1][0] if found else None)

    async def purge(self, ids: Sequence[int], limits: Limits, *, links: bool) -> Step:
        """See `shared.store.port.RetentionStore`; what somebody else holds stays for now."""
        condition = ended(links=links).replace("?", "%s")
        query = (
            f"SELECT a.id FROM aggregates a WHERE {condition} AND a.id = ANY (%b::bigint[]) "  # noqa: S608 - texts of our own
            "ORDER BY a.id FOR UPDATE OF a SKIP LOCKED"
        )
        began = time.perf_counter()
        async with self._transaction(long=True) as connection:
            found = await rows(connection, query, (*ended_values(limits), Numbers(ids)))
            going = Numbers(one for (one,) in found)
            removed = await _purge(connection, going, limits) if going else {}
        return Step(removed, time.perf_counter() - began, None)


async def _purge(connection: Connection, going: Numbers, limits: Limits) -> dict[str, int]:
    """Remove aggregates that are locked, and all that belongs to them alone."""
    removed = {"attempts": await _purge_attempts(connection, going, limits)}
    for table in ("deliveries", "transitions"):
        removed[table] = await _delete(connection, _DELETE_OF_AGGREGATES.format(table), going)
    history = f"{_DELETE_OF_AGGREGATES.format('history')} RETURNING event_seq"
    found = [seq for (seq,) in await rows(connection, history, (going,))]
    seqs = Numbers(sorted(set(found)))
    removed["history"] = len(found)
    received = await rows(connection, _RECEIVED, (seqs,))
    if received:
        numbers, times = (Numbers(one) for one in zip(*received, strict=True))
        bounds = min(at for _, at in received), max(at for _, at in received)
        removed["payloads"] = await _delete(connection, _DELETE_PAYLOADS, numbers, times, *bounds)
    removed["events"] = await _delete(connection, _DELETE_EVENTS, seqs)
    for table in OWNED:
        await _delete(connection, _DELETE_OF_AGGREGATES.format(table), going)
    last = "DELETE FROM aggregates WHERE id = ANY (%b::bigint[])"
    removed["aggregates"] = await _delete(connection, last, going)
    return removed


async def _purge_attempts(connection: Connection, going: Numbers, limits: Limits) -> int:
    """Lock the deliveries in the order in which everybody locks them; remove their attempts.

    Raises:
        StoreConflictError: an operator has replayed one meanwhile; look again.
    """
    told = await rows(connection, _LOCK_DELIVERIES, (going,))
    if any(waits and moved >= limits.undelivered for *_, moved, waits in told):
        raise StoreConflictError("PostgreSQL: a delivery was replayed while its aggregate was old")
    if not told:
        return 0
    made = min(created for _, created, *_ in told)
    moved = max(moved for *_, moved, _ in told)
    names = Texts(one for one, *_ in told)
    return await _delete(connection, _DELETE_ATTEMPTS, names, made, moved + DAY)


async def _delete(connection: Connection, statement: str, *values: object) -> int:
    return (await execute(connection, statement, values)).rowcount
