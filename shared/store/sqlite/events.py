"""The events worker's part of the SQLite store."""

import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

import apsw

from shared.domain import aggregates
from shared.domain.aggregates import State
from shared.domain.keys import AggregateKey
from shared.domain.private import join_state
from shared.store.database import SqliteDatabase, begin, rollback
from shared.store.erase import erase
from shared.store.mapping import (
    EVENT_COLUMNS,
    SELECT_HISTORY,
    aggregate_values,
    event_values,
    folded_entry,
    history_values,
    key_values,
    payload_values,
    quarantine_values,
    subject_values,
    transition_values,
)
from shared.store.rows import (
    Aggregate,
    Changes,
    EventRef,
    FoldedEntry,
    KnownEvent,
)
from shared.store.seals import Keys, Sealing, state_of
from shared.store.sqlite.parts import SqlitePart, rows

_FIND_EVENTS = """
SELECT seq, variant, content FROM events WHERE event_id = ? AND partner_app_id = ?
"""

_FIND_AGGREGATE = """
SELECT a.id, a.version, a.state, a.private, k.wrapped_by, k.key
FROM aggregates a LEFT JOIN data_keys k ON k.aggregate_id = a.id
WHERE a.key = ? AND a.partner_app_id = ? AND a.kind = ?
"""

_ERASED = """
SELECT 1 FROM aggregates
WHERE key = ? AND partner_app_id = ? AND kind = ? AND status = 'DELETED_BY_USER'
"""

_TOMBSTONE = "SELECT 1 FROM erasures WHERE key = ? LIMIT 1"

_HISTORY = f"{SELECT_HISTORY} WHERE h.aggregate_id = ?"

_INSERT_EVENT = (
    f"INSERT INTO events ({', '.join(EVENT_COLUMNS)}) "  # noqa: S608 - names of our own
    f"VALUES ({', '.join('?' * len(EVENT_COLUMNS))})"
)

_UPSERT_AGGREGATE = """
INSERT INTO aggregates (kind, partner_app_id, key, id, version, status, conflict, link_id, settles,
                        touched_at, updated_at, state, private)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    version = excluded.version, status = excluded.status, conflict = excluded.conflict,
    link_id = excluded.link_id, settles = excluded.settles,
    touched_at = max(touched_at, excluded.touched_at), updated_at = excluded.updated_at,
    state = excluded.state, private = excluded.private
"""

_INSERT_TRANSITION = """
INSERT INTO transitions (aggregate_id, version, type, from_status, to_status, event_seq, at,
                         notified, data, private)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

_INSERT_DELIVERY = """
INSERT INTO deliveries (id, aggregate_id, version, endpoint, type, state, due_at, wake_at,
                        created_at, updated_at, traceparent)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?7, ?7, ?8)
"""

_INSERT_QUARANTINE = """
INSERT INTO quarantine (id, reason, detail, source, batch_id, received_at, content, body,
                        traceparent, event_id, status, resolved_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (source, content) WHERE status IN ('open', 'erased') DO UPDATE SET seen = seen + 1
"""

_INSERT_QUARANTINE_KEY = """
INSERT INTO quarantine_keys (entry_id, wrapped_by, key)
SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM quarantine WHERE id = ?1 AND status = 'open')
"""

_RESOLVE_QUARANTINE = """
UPDATE quarantine
SET status = 'replayed', resolved_at = CAST(unixepoch('subsec') * 1000 AS INTEGER)
WHERE id = ? AND status = 'open'
"""

_UNSETTLED = """
SELECT kind, partner_app_id, key FROM aggregates
WHERE settles = 1 AND touched_at <= ? ORDER BY touched_at LIMIT ?
"""


class SqliteEventTransaction:
    """One write transaction; each method is one hop to the owner thread."""

    def __init__(self, database: SqliteDatabase, sealing: Sealing) -> None:
        self._database = database
        self._sealing = sealing
        self._keys = Keys(sealing)
        self._indexed: list[tuple[int, str]] = []
        self._made: dict[AggregateKey, Aggregate] = {}

    async def find_events(self, refs: Collection[EventRef]) -> dict[EventRef, list[KnownEvent]]:
        """See `shared.store.port.EventTransaction`."""

        def find(connection: apsw.Connection) -> dict[EventRef, list[KnownEvent]]:
            found: dict[EventRef, list[KnownEvent]] = {}
            for ref in refs:
                values = (ref.event_id, ref.partner_app_id)
                known = [KnownEvent(*row) for row in rows(connection, _FIND_EVENTS, values)]
                if known:
                    found[ref] = known
            return found

        return await self._database.run(find)

    async def lock_aggregates(
        self, keys: Collection[AggregateKey]
    ) -> dict[AggregateKey, Aggregate]:
        """See `shared.store.port.EventTransaction`; the write lock on the file locks them all.

        An aggregate that does not exist gets its number here and its row in `write`.
        """
        return await self._database.run(
            lambda connection: {key: self._find(connection, key) for key in sorted(keys)}
        )

    async def histories(self, aggregate_ids: Collection[int]) -> dict[int, list[FoldedEntry]]:
        """See `shared.store.port.EventTransaction`."""
        return await self._database.run(
            lambda connection: {
                number: [
                    folded_entry(self._keys.of(number), row)
                    for row in rows(connection, _HISTORY, (number,))
                ]
                for number in aggregate_ids
            }
        )

    async def erased(self, keys: Collection[AggregateKey]) -> set[AggregateKey]:
        """See `shared.store.port.EventTransaction`."""
        return await self._database.run(
            lambda connection: {
                key
                for key in keys
                if rows(connection, _ERASED, (key.id, key.partner_app_id, key.kind))
            }
        )

    async def tombstones(self, names: Collection[str]) -> set[str]:
        """See `shared.store.port.EventTransaction`."""
        return await self._database.run(
            lambda connection: {one for one in names if rows(connection, _TOMBSTONE, (one,))}
        )

    async def peek(self, key: AggregateKey) -> State | None:
        """See `shared.store.port.EventTransaction`."""
        found = await self._database.run(
            lambda connection: rows(
                connection, _FIND_AGGREGATE, (key.id, key.partner_app_id, key.kind)
            )
        )
        return join_state(found[0][2], b"") if found else None

    async def reserve(self, count: int) -> Sequence[int]:
        """See `shared.store.port.EventTransaction`."""

        def last(connection: apsw.Connection) -> int:
            return _last(connection, "SELECT max(seq) FROM events")

        first = await self._database.run(last) + 1
        return range(first, first + count)

    async def write(self, changes: Changes) -> None:
        """See `shared.store.port.EventTransaction`."""
        if changes.erased:
            await self._database.run(_erase_for_good)
            await erase(self._run, changes.erased, self._sealing)
        self._indexed += await self._database.run(
            lambda connection: _write(connection, changes, self._keys, self._sealing)
        )

    def committed(self) -> None:
        """What was written is durable."""
        self._sealing.remember(self._indexed)

    async def _run(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        return await self._database.run(lambda connection: rows(connection, query, tuple(values)))

    def _find(self, connection: apsw.Connection, key: AggregateKey) -> Aggregate:
        values = (key.id, key.partner_app_id, key.kind)
        for number, version, state, private, *sealed in rows(connection, _FIND_AGGREGATE, values):
            box = self._keys.find(number, *sealed)
            return Aggregate(number, key, version, state_of(box, number, state, private))
        if key not in self._made:
            if self._made:
                last = next(reversed(self._made.values())).id
            else:
                last = _last(connection, "SELECT max(id) FROM aggregates")
            self._made[key] = Aggregate(last + 1, key, 0, aggregates.initial(key.kind))
        return self._made[key]


class SqliteEvents(SqlitePart):
    """`shared.store.port.EventStore` on SQLite."""

    parallel = 1
    """A SQLite database has one writer at a time."""

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqliteEventTransaction]:
        """See `shared.store.port.EventStore`."""
        async with self._turn:
            try:
                await self._database.run(begin)
                transaction = SqliteEventTransaction(self._database, self.sealing)
                yield transaction
                await self._database.run(lambda connection: connection.execute("COMMIT"))
                transaction.committed()
            except BaseException:
                await self._database.run(rollback)
                raise

    async def unsettled(self, *, quiet_since: int, limit: int) -> list[AggregateKey]:
        """See `shared.store.port.EventStore`."""
        found = await self._read(
            lambda connection: rows(connection, _UNSETTLED, (quiet_since, limit))
        )
        return [AggregateKey(*row) for row in found]


def _erase_for_good(connection: apsw.Connection) -> None:
    """Have SQLite overwrite with zeros what this connection deletes from now on."""
    connection.execute("PRAGMA secure_delete = ON").fetchall()


def _write(
    connection: apsw.Connection, changes: Changes, keys: Keys, sealing: Sealing
) -> list[tuple[int, str]]:
    """Write all changes within the transaction at hand; return the tax ids that were indexed."""
    connection.executemany(_INSERT_EVENT, (event_values(one) for one in changes.events))
    connection.executemany(
        "INSERT INTO payloads (seq, received_at, body) VALUES (?, ?, ?)",
        payload_values(changes, keys),
    )
    connection.executemany(
        "INSERT INTO history (aggregate_id, event_seq, fact, private) VALUES (?, ?, ?, ?)",
        history_values(changes, keys),
    )
    connection.executemany(
        _UPSERT_AGGREGATE,
        (
            (one.key.kind, one.key.partner_app_id, one.key.id, *values)
            for one, values in zip(changes.aggregates, aggregate_values(changes, keys), strict=True)
        ),
    )
    connection.executemany(_INSERT_TRANSITION, transition_values(changes, keys))
    connection.executemany(
        "INSERT INTO data_keys (aggregate_id, wrapped_by, key) VALUES (?, ?, ?)",
        key_values(keys),
    )
    connection.executemany(
        _INSERT_DELIVERY,
        (
            (
                one.id, one.aggregate_id, one.version, one.endpoint, one.type, one.state.value,
                one.due_at, one.traceparent,
            )
            for one in changes.deliveries
        ),
    )  # fmt: skip
    _write_rest(connection, changes, sealing)
    indexed, values = subject_values(changes, sealing)
    connection.executemany(
        "INSERT INTO subjects (aggregate_id, token) VALUES (?, ?) ON CONFLICT DO NOTHING", values
    )
    connection.executemany(
        "INSERT INTO ordered_for (aggregate_id, consent_id) VALUES (?, ?) ON CONFLICT DO NOTHING",
        changes.ordered,
    )
    return indexed


def _write_rest(connection: apsw.Connection, changes: Changes, sealing: Sealing) -> None:
    for one in changes.quarantined:
        values, key = quarantine_values(one, sealing)
        connection.execute(_INSERT_QUARANTINE, values)
        connection.execute(_INSERT_QUARANTINE_KEY, key)
    connection.executemany(
        "UPDATE events SET duplicates = duplicates + ? WHERE seq = ?",
        ((times, seq) for seq, times in changes.duplicates.items()),
    )
    connection.executemany(_RESOLVE_QUARANTINE, ((one,) for one in changes.replayed))


def _last(connection: apsw.Connection, query: str) -> int:
    (found,) = rows(connection, query)
    return int(found[0] or 0)
