"""The events worker's part of the PostgreSQL store."""

import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

from shared.domain import aggregates
from shared.domain.aggregates import State, encode
from shared.domain.keys import AggregateKey, AggregateKind
from shared.domain.private import join_state
from shared.errors import StoreConflictError
from shared.store.erase import erase
from shared.store.mapping import (
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
from shared.store.postgres.columns import Blobs, Texts
from shared.store.postgres.link import Connection
from shared.store.postgres.parts import (
    PostgresPart,
    execute,
    insert,
    insert_all,
    marks,
    rows,
)
from shared.store.rows import (
    Aggregate,
    Changes,
    EventRef,
    FoldedEntry,
    KnownEvent,
)
from shared.store.seals import Keys, Sealing, state_of

_FIND_EVENTS = """
SELECT e.partner_app_id, e.event_id, e.seq, e.variant, e.content
FROM unnest(%b::text[], %b::text[]) AS wanted (app, id)
JOIN events e ON e.event_id = wanted.id AND e.partner_app_id = wanted.app
ORDER BY e.seq
"""

# Those that are missing are made first, in the order of keys: whoever makes the same waits here
# for the other's commit. Only then all are locked, in the same order. So nobody who holds a lock
# waits for somebody who makes, and no circle closes.
_MAKE_AGGREGATES = """
INSERT INTO aggregates (kind, partner_app_id, key, version, status, conflict, link_id, settles,
                        touched_at, updated_at, state)
SELECT kind, app, key, 0, '', 0, '', 0, 0, 0, state
FROM unnest(%b::text[], %b::text[], %b::text[], %b::bytea[]) AS wanted (kind, app, key, state)
WHERE NOT EXISTS (
    SELECT 1 FROM aggregates a
    WHERE a.key = wanted.key AND a.partner_app_id = wanted.app AND a.kind = wanted.kind
)
ORDER BY kind COLLATE "C", app COLLATE "C", key COLLATE "C"
ON CONFLICT DO NOTHING
"""

_LOCK_AGGREGATES = """
SELECT a.id, a.kind, a.partner_app_id, a.key, a.version, a.state, a.private, k.wrapped_by, k.key
FROM aggregates a LEFT JOIN data_keys k ON k.aggregate_id = a.id
WHERE (a.key, a.partner_app_id, a.kind) IN (
    SELECT key COLLATE "C", app COLLATE "C", kind COLLATE "C"
    FROM unnest(%b::text[], %b::text[], %b::text[]) AS wanted (kind, app, key)
)
ORDER BY a.kind, a.partner_app_id, a.key
FOR UPDATE OF a
"""

_ERASED = """
SELECT a.partner_app_id, a.key FROM unnest(%b::text[], %b::text[]) AS wanted (app, key)
JOIN aggregates a ON a.key = wanted.key COLLATE "C" AND a.partner_app_id = wanted.app COLLATE "C"
WHERE a.kind = 'consent' AND a.status = 'DELETED_BY_USER'
"""

_TOMBSTONES = "SELECT DISTINCT key FROM erasures WHERE key = ANY (%s)"

_PEEK = "SELECT state FROM aggregates WHERE key = %s AND partner_app_id = %s AND kind = %s"

_HISTORIES = f"{SELECT_HISTORY} WHERE h.aggregate_id = ANY (%b::bigint[])"

_INSERT_EVENTS = insert(
    "events",
    {
        "seq": "bigint", "partner_app_id": "text", "event_id": "text", "variant": "integer",
        "content": "text", "type": "text", "name": "text", "time": "bigint", "label": "text",
        "source": "text", "batch_id": "text", "received_at": "bigint", "traceparent": "text",
        "tax_form": "text",
    },
)  # fmt: skip

_INSERT_PAYLOADS = insert("payloads", {"seq": "bigint", "received_at": "bigint", "body": "bytea"})

_INSERT_HISTORY = insert(
    "history",
    {"aggregate_id": "bigint", "event_seq": "bigint", "fact": "bytea", "private": "bytea"},
)

_INSERT_SUBJECTS = insert(
    "subjects", {"aggregate_id": "bigint", "token": "text"}, rest="ON CONFLICT DO NOTHING"
)

_INSERT_ORDERED = insert(
    "ordered_for", {"aggregate_id": "bigint", "consent_id": "text"}, rest="ON CONFLICT DO NOTHING"
)

_INSERT_KEYS = insert("data_keys", {"aggregate_id": "bigint", "wrapped_by": "text", "key": "bytea"})

_UPDATE_AGGREGATES = """
UPDATE aggregates a SET
    version = n.version, status = n.status, conflict = n.conflict, link_id = n.link_id,
    settles = n.settles, touched_at = greatest(a.touched_at, n.touched_at),
    updated_at = n.updated_at, state = n.state, private = n.private
FROM unnest(%b::bigint[], %b::integer[], %b::text[], %b::integer[], %b::text[], %b::integer[],
            %b::bigint[], %b::bigint[], %b::bytea[], %b::bytea[])
    AS n (id, version, status, conflict, link_id, settles, touched_at, updated_at, state, private)
WHERE a.id = n.id
"""

_INSERT_TRANSITIONS = insert(
    "transitions",
    {
        "aggregate_id": "bigint", "version": "integer", "type": "text", "from_status": "text",
        "to_status": "text", "event_seq": "bigint", "at": "bigint", "notified": "integer",
        "data": "bytea", "private": "bytea",
    },
)  # fmt: skip

_INSERT_DELIVERIES = insert(
    "deliveries",
    {
        "id": "text", "aggregate_id": "bigint", "version": "integer", "endpoint": "text",
        "type": "text", "state": "text", "due_at": "bigint", "wake_at": "bigint",
        "created_at": "bigint", "updated_at": "bigint", "traceparent": "text",
    },
)  # fmt: skip

_INSERT_QUARANTINE = """
INSERT INTO quarantine (id, reason, detail, source, batch_id, received_at, content, body,
                        traceparent, event_id, status, resolved_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (source, content) WHERE status IN ('open', 'erased')
DO UPDATE SET seen = quarantine.seen + 1
"""

_INSERT_QUARANTINE_KEY = """
INSERT INTO quarantine_keys (entry_id, wrapped_by, key)
SELECT id, %s, %s FROM quarantine WHERE id = %s AND status = 'open'
"""

_COUNT_DUPLICATES = """
UPDATE events e SET duplicates = e.duplicates + n.times
FROM unnest(%b::bigint[], %b::integer[]) AS n (seq, times) WHERE e.seq = n.seq
"""

_RESOLVE_QUARANTINE = """
UPDATE quarantine
SET status = 'replayed', resolved_at = (extract(epoch FROM clock_timestamp()) * 1000)::bigint
WHERE id = ANY (%s) AND status = 'open'
"""

_UNSETTLED = """
SELECT kind, partner_app_id, key FROM aggregates
WHERE settles = 1 AND touched_at <= %s ORDER BY touched_at LIMIT %s
"""


class PostgresEventTransaction:
    """One transaction; each method is one round trip, and that of `write` includes the commit."""

    def __init__(
        self, connection: Connection, sealing: Sealing, sending: contextlib.AsyncExitStack
    ) -> None:
        """`sending`: what is sent within it need be answered only when it ends."""
        self._connection = connection
        self._sending = sending
        self._sealing = sealing
        self._keys = Keys(sealing)
        self._indexed: list[tuple[int, str]] = []

    async def find_events(self, refs: Collection[EventRef]) -> dict[EventRef, list[KnownEvent]]:
        """See `shared.store.port.EventTransaction`."""
        apps, ids = Texts(one.partner_app_id for one in refs), Texts(one.event_id for one in refs)
        found: dict[EventRef, list[KnownEvent]] = {}
        for app, event_id, *known in await rows(self._connection, _FIND_EVENTS, (apps, ids)):
            found.setdefault(EventRef(app, event_id), []).append(KnownEvent(*known))
        return found

    async def lock_aggregates(
        self, keys: Collection[AggregateKey]
    ) -> dict[AggregateKey, Aggregate]:
        """See `shared.store.port.EventTransaction`."""
        kinds, ids = Texts(one.kind for one in keys), Texts(one.id for one in keys)
        apps = Texts(one.partner_app_id for one in keys)
        blank = Blobs(encode(aggregates.initial(one.kind)) for one in keys)
        async with self._connection.pipeline():
            await execute(self._connection, _MAKE_AGGREGATES, (kinds, apps, ids, blank))
            locking = await execute(self._connection, _LOCK_AGGREGATES, (kinds, apps, ids))
        found = await locking.fetchall()
        locked: dict[AggregateKey, Aggregate] = {}
        for number, kind, app, name, version, state, private, *sealed in found:
            key = AggregateKey(kind, app, name)
            box = self._keys.find(number, *sealed)
            locked[key] = Aggregate(number, key, version, state_of(box, number, state, private))
        if len(locked) < len(set(keys)):  # removed for its age between the two statements
            raise StoreConflictError("PostgreSQL: an aggregate was removed meanwhile")
        return locked

    async def histories(self, aggregate_ids: Collection[int]) -> dict[int, list[FoldedEntry]]:
        """See `shared.store.port.EventTransaction`."""
        found: dict[int, list[FoldedEntry]] = {number: [] for number in aggregate_ids}
        for row in await rows(self._connection, _HISTORIES, (list(aggregate_ids),)):
            found[row[0]].append(folded_entry(self._keys.of(row[0]), row))
        return found

    async def erased(self, keys: Collection[AggregateKey]) -> set[AggregateKey]:
        """See `shared.store.port.EventTransaction`."""
        apps, ids = Texts(one.partner_app_id for one in keys), Texts(one.id for one in keys)
        return {
            AggregateKey(AggregateKind.CONSENT, app, name)
            for app, name in await rows(self._connection, _ERASED, (apps, ids))
        }

    async def tombstones(self, names: Collection[str]) -> set[str]:
        """See `shared.store.port.EventTransaction`."""
        return {one for (one,) in await rows(self._connection, _TOMBSTONES, (list(names),))}

    async def peek(self, key: AggregateKey) -> State | None:
        """See `shared.store.port.EventTransaction`."""
        found = await rows(self._connection, _PEEK, (key.id, key.partner_app_id, key.kind))
        return join_state(found[0][0], b"") if found else None

    async def reserve(self, count: int) -> Sequence[int]:
        """See `shared.store.port.EventTransaction`."""
        found = await rows(
            self._connection, "SELECT nextval('event_seqs') FROM generate_series(1, %s)", (count,)
        )
        return sorted(number for (number,) in found)

    async def write(self, changes: Changes) -> None:
        """See `shared.store.port.EventTransaction`.

        All statements go out together. What the server says to them is heard at the end of the
        transaction, or before the next is written.
        """
        await self._sending.aclose()
        if changes.erased:
            await erase(self._run, changes.erased, self._sealing)
        self._indexed, subjects = subject_values(changes, self._sealing)
        await self._sending.enter_async_context(self._connection.pipeline())
        await _write_events(self._connection, changes, self._keys)
        await _write_aggregates(self._connection, changes, self._keys)
        await insert_all(self._connection, _INSERT_KEYS, key_values(self._keys))
        await _write_rest(self._connection, changes, self._sealing)
        await insert_all(self._connection, _INSERT_SUBJECTS, subjects)
        await insert_all(self._connection, _INSERT_ORDERED, sorted(set(changes.ordered)))

    def committed(self) -> None:
        """What was written is durable."""
        self._sealing.remember(self._indexed)

    async def _run(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        cursor = await execute(self._connection, marks(query), tuple(values))
        return await cursor.fetchall() if cursor.description else []


class PostgresEvents(PostgresPart):
    """`shared.store.port.EventStore` on PostgreSQL."""

    parallel = 2
    """The server works on one while this process folds the other."""

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[PostgresEventTransaction]:
        """See `shared.store.port.EventStore`."""
        async with self._transaction() as connection, contextlib.AsyncExitStack() as sending:
            transaction = PostgresEventTransaction(connection, self.sealing, sending)
            yield transaction
            await execute(connection, "COMMIT")  # goes out with what was written last
        transaction.committed()

    async def unsettled(self, *, quiet_since: int, limit: int) -> list[AggregateKey]:
        """See `shared.store.port.EventStore`."""
        return [AggregateKey(*row) for row in await self._rows(_UNSETTLED, (quiet_since, limit))]


async def _write_events(connection: Connection, changes: Changes, keys: Keys) -> None:
    # In the order of the unique key: two writers of the same events then wait, never in a circle.
    events = sorted(changes.events, key=lambda one: (one.ref.event_id, one.ref.partner_app_id))
    await insert_all(connection, _INSERT_EVENTS, [event_values(one) for one in events])
    await insert_all(connection, _INSERT_PAYLOADS, payload_values(changes, keys))
    await insert_all(connection, _INSERT_HISTORY, history_values(changes, keys))


async def _write_aggregates(connection: Connection, changes: Changes, keys: Keys) -> None:
    await insert_all(connection, _UPDATE_AGGREGATES, aggregate_values(changes, keys))
    await insert_all(connection, _INSERT_TRANSITIONS, transition_values(changes, keys))
    await insert_all(
        connection,
        _INSERT_DELIVERIES,
        [
            (
                one.id, one.aggregate_id, one.version, one.endpoint, one.type, one.state.value,
                one.due_at, one.due_at, one.due_at, one.due_at, one.traceparent,
            )
            for one in changes.deliveries
        ],
    )  # fmt: skip


async def _write_rest(connection: Connection, changes: Changes, sealing: Sealing) -> None:
    for one in sorted(changes.quarantined, key=lambda entry: (entry.source, entry.content)):
        values, (entry_id, wrapped_by, key) = quarantine_values(one, sealing)
        await execute(connection, _INSERT_QUARANTINE, values)
        await execute(connection, _INSERT_QUARANTINE_KEY, (wrapped_by, key, entry_id))
    await insert_all(connection, _COUNT_DUPLICATES, sorted(changes.duplicates.items()))
    if changes.replayed:
        await execute(connection, _RESOLVE_QUARANTINE, (changes.replayed,))
