"""What operators ask of the store and do to it; one text of SQL for both databases.

Times are Unix milliseconds. Nothing here writes to what the workers fold: state changes only
through events, a cleared conflict excepted, which `console.conflicts` does under a lock.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from shared.domain.keys import AggregateKey
from shared.ids import new_id
from shared.store.port import SqlStore, Statement
from shared.store.rows import Aggregate
from shared.store.seals import about_answer, opened, state_of

TRACE_LIMIT = 1_000
CHUNK = 500

CLOCKS_APART = 3_600_000
"""Milliseconds by which the clocks of two machines may differ."""


class EventRow(Struct, frozen=True):
    """An event received."""

    seq: int
    event_id: str
    name: str
    time: int
    received_at: int
    source: str
    label: str
    duplicates: int
    tax_form: str


class TransitionRow(Struct, frozen=True):
    """One version of an aggregate."""

    aggregate: AggregateKey
    version: int
    type: str
    from_status: str
    to_status: str
    event_id: str | None
    at: int


class AttemptRow(Struct, frozen=True):
    """One HTTP call."""

    number: int
    at: int
    outcome: str
    status: int | None
    duration_ms: int
    error: str
    answer: bytes


class DeliveryRow(Struct, frozen=True):
    """A delivery as operators see it."""

    id: str
    aggregate: AggregateKey
    version: int
    endpoint: str
    type: str
    state: str
    attempts: int
    due_at: int
    created_at: int
    last_outcome: str
    last_error: str
    replay: str


class QuarantineRow(Struct, frozen=True):
    """A quarantine entry without its body."""

    id: str
    reason: str
    detail: str
    source: str
    batch_id: str
    received_at: int
    seen: int
    status: str
    event_id: str


class NoteRow(Struct, frozen=True):
    """One line of the record of who did what."""

    id: str
    at: int
    actor: str
    action: str
    target: str
    detail: str


class ErasureRow(Struct, frozen=True):
    """An erasure and its receipt."""

    id: str
    key: AggregateKey
    reason: str
    asked_at: int
    state: str
    receipt: dict[str, Any]


LOOKED_UP = 10_000
"""Entries of an index that are looked up one by one at most."""


class DeliveryFilter(Struct, frozen=True):
    """Which deliveries; empty members do not restrict. `since` and `until` bound `created_at`.

    Without `by_endpoint`, the index by endpoint stays unused: see `Queries._planned`.
    """

    states: tuple[str, ...] = ()
    endpoint: str = ""
    type: str = ""
    aggregate_id: str = ""
    error: str = ""
    since: int | None = None
    until: int | None = None
    replay: str = ""
    by_endpoint: bool = True

    def where(self) -> tuple[str, list[Any]]:
        """The condition in SQL, and its values."""
        terms, values = ["1 = 1"], list[Any]()
        if self.states:
            terms.append(f"d.state IN ({_marks(self.states)})")
            values += self.states
        for column, value in (
            ("d.endpoint = ?" if self.by_endpoint else "d.endpoint || '' = ?", self.endpoint),
            ("d.type = ?", self.type),
            ("a.key = ?", self.aggregate_id),
            ("d.replay = ?", self.replay),
            ("d.created_at >= ?", self.since),
            ("d.created_at < ?", self.until),
        ):
            if value not in ("", None):
                terms.append(column)
                values.append(value)
        if self.error:
            terms.append("(d.last_outcome = ? OR d.last_error LIKE ?)")
            values += [self.error, f"%{self.error}%"]
        return " AND ".join(terms), values


_DELIVERY = """
SELECT d.id, a.kind, a.partner_app_id, a.key, d.version, d.endpoint, d.type, d.state, d.attempts,
       d.due_at, d.created_at, d.last_outcome, d.last_error, d.replay
FROM deliveries d JOIN aggregates a ON a.id = d.aggregate_id
"""

_EVENT = (
    "SELECT seq, event_id, name, time, received_at, source, label, duplicates, tax_form FROM events"
)

_QUARANTINE = (
    "SELECT id, reason, detail, source, batch_id, received_at, seen, status, "
    "event_id FROM quarantine"
)


class Queries:
    """Every question and command of the console."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store

    async def aggregate(self, key: AggregateKey) -> Aggregate | None:
        """One aggregate, or None if nothing ever named it."""
        found = await self._store.fetch(
            "SELECT a.id, a.version, a.state, a.private, k.wrapped_by, k.key "
            "FROM aggregates a LEFT JOIN data_keys k ON k.aggregate_id = a.id "
            "WHERE a.key = ? AND a.partner_app_id = ? AND a.kind = ?",
            (key.id, key.partner_app_id, key.kind),
        )
        for number, version, state, private, *sealed in found:
            box = self._store.sealing.box(number, *sealed)
            return Aggregate(number, key, version, state_of(box, number, state, private))
        return None

    async def in_conflict(self) -> list[tuple[AggregateKey, str]]:
        """Every consent with a conflict that nobody has cleared, and its status."""
        rows = await self._store.fetch(
            "SELECT kind, partner_app_id, key, status FROM aggregates "
            "WHERE conflict <> 0 ORDER BY id"
        )
        return [(AggregateKey(*key), status) for *key, status in rows]

    async def named(self, name: str) -> dict[int, AggregateKey]:
        """The aggregates with this id, and those that belong to a link of this id."""
        columns = "SELECT id, kind, partner_app_id, key FROM aggregates"
        found = [
            *await self._store.fetch(f"{columns} WHERE key = ?", (name,)),
            *await self._store.fetch(
                f"{columns} WHERE link_id = ? AND link_id <> '' LIMIT {TRACE_LIMIT}", (name,)
            ),
        ]
        return {number: AggregateKey(*key) for number, *key in found}

    async def aggregates_of(self, seqs: Sequence[int]) -> dict[int, AggregateKey]:
        """The aggregates that these events speak of."""
        found = await self._in(
            "SELECT DISTINCT a.id, a.kind, a.partner_app_id, a.key FROM history h "
            "JOIN aggregates a ON a.id = h.aggregate_id WHERE h.event_seq IN ({})",
            seqs,
        )
        return {number: AggregateKey(*key) for number, *key in found}

    async def events_with_id(self, event_id: str) -> list[EventRow]:
        """The events that the source calls by this id; several if they diverge."""
        found = await self._store.fetch(f"{_EVENT} WHERE event_id = ?", (event_id,))
        return [EventRow(*row) for row in found]

    async def events_of(self, aggregate_ids: Sequence[int]) -> list[EventRow]:
        """The events that speak of these aggregates, oldest first, at most `TRACE_LIMIT`."""
        seqs = await self._in(
            "SELECT DISTINCT event_seq FROM history WHERE aggregate_id IN ({}) "
            f"ORDER BY event_seq LIMIT {TRACE_LIMIT}",
            aggregate_ids,
        )
        rows = await self._in(f"{_EVENT} WHERE seq IN ({{}})", [seq for (seq,) in seqs])
        return sorted((EventRow(*row) for row in rows), key=lambda one: (one.time, one.seq))

    async def transitions_of(
        self, keys: dict[int, AggregateKey], *, seqs: Sequence[int] | None = None
    ) -> list[tuple[int, TransitionRow]]:
        """The versions of these aggregates, or only those that the given events caused."""
        rows = await self._in(
            "SELECT t.aggregate_id, t.version, t.type, t.from_status, t.to_status, e.event_id, "
            "t.at, t.event_seq FROM transitions t LEFT JOIN events e ON e.seq = t.event_seq "
            f"WHERE t.aggregate_id IN ({{}}) ORDER BY t.at, t.aggregate_id, t.version "
            f"LIMIT {TRACE_LIMIT}",
            list(keys),
        )
        return [
            (number, TransitionRow(keys[number], *rest))
            for number, *rest, seq in rows
            if seqs is None or seq in seqs
        ]

    async def deliveries_of(self, aggregate_ids: Sequence[int]) -> list[DeliveryRow]:
        """The deliveries about these aggregates."""
        rows = await self._in(
            _DELIVERY + f"WHERE d.aggregate_id IN ({{}}) ORDER BY d.id LIMIT {TRACE_LIMIT}",
            aggregate_ids,
        )
        return [_delivery(row) for row in rows]

    async def attempts_of(self, deliveries: Sequence[DeliveryRow]) -> dict[str, list[AttemptRow]]:
        """The attempts of each delivery, in order."""
        since = min((one.created_at for one in deliveries), default=0) - CLOCKS_APART
        rows = await self._in(
            "SELECT t.delivery_id, t.number, t.at, t.outcome, t.status, t.duration_ms, t.error, "
            "t.answer, t.private, d.aggregate_id, k.wrapped_by, k.key "
            "FROM attempts t JOIN deliveries d ON d.id = t.delivery_id "
            "LEFT JOIN data_keys k ON k.aggregate_id = d.aggregate_id "
            f"WHERE t.delivery_id IN ({{}}) AND t.at >= {since} "
            "ORDER BY t.delivery_id, t.number",
            [one.id for one in deliveries],
        )
        found: dict[str, list[AttemptRow]] = {}
        for row in rows:
            delivery_id, number, at, outcome, code, duration, error, clear, private, *key = row
            box = self._store.sealing.box(*key)
            answer = bytes(clear) or opened(box, private, about_answer(delivery_id))
            attempt = AttemptRow(number, at, outcome, code, duration, error, answer)
            found.setdefault(delivery_id, []).append(attempt)
        return found

    async def deliveries(self, wanted: DeliveryFilter, *, limit: int) -> list[DeliveryRow]:
        """Deliveries by filter, newest first."""
        where, values = (await self._planned(wanted)).where()
        rows = await self._store.fetch(
            f"{_DELIVERY} WHERE {where} ORDER BY d.id DESC LIMIT ?", (*values, limit)
        )
        return [_delivery(row) for row in rows]

    async def delivery(self, delivery_id: str) -> DeliveryRow | None:
        """One delivery."""
        rows = await self._store.fetch(f"{_DELIVERY} WHERE d.id = ?", (delivery_id,))
        return _delivery(rows[0]) if rows else None

    async def count_deliveries(self, wanted: DeliveryFilter, *, at_most: int | None = None) -> int:
        """How many deliveries a filter finds; counting ends at `at_most`, if given."""
        return await self._count(await self._planned(wanted), at_most=at_most)

    async def _planned(self, wanted: DeliveryFilter) -> DeliveryFilter:
        """Keep SQLite from looking up all deliveries of a large endpoint one by one.

        What the index by endpoint and state does not hold wants such a look-up for each entry,
        which takes five times as long as reading the whole table in its order.
        """
        at_once = len(wanted.states) == 1 and wanted == DeliveryFilter(
            states=wanted.states, endpoint=wanted.endpoint
        )
        if not wanted.endpoint or wanted.aggregate_id or wanted.replay or at_once:
            return wanted
        entries = DeliveryFilter(states=wanted.states, endpoint=wanted.endpoint)
        few = await self._count(entries, at_most=LOOKED_UP + 1) <= LOOKED_UP
        return replace(wanted, by_endpoint=few)

    async def _count(self, wanted: DeliveryFilter, *, at_most: int | None) -> int:
        where, values = wanted.where()
        join = "JOIN aggregates a ON a.id = d.aggregate_id " if wanted.aggregate_id else ""
        found = f"FROM deliveries d {join}WHERE {where}"
        query = f"SELECT count(*) {found}"
        if at_most is not None:
            query = f"SELECT count(*) FROM (SELECT 1 {found} LIMIT {int(at_most)}) AS counted"
        ((count,),) = await self._store.fetch(query, values)
        return int(count)

    async def delivery_ids(self, wanted: DeliveryFilter) -> list[str]:
        """Ids of the deliveries that a filter finds, oldest first."""
        where, values = wanted.where()
        rows = await self._store.fetch(
            "SELECT d.id FROM deliveries d JOIN aggregates a ON a.id = d.aggregate_id "
            f"WHERE {where} ORDER BY d.id",
            values,
        )
        return [one for (one,) in rows]

    async def replay(
        self, ids: Sequence[str], *, states: Sequence[str], replay: str, due: Sequence[int]
    ) -> int:
        """Give deliveries a new round of attempts, each due at its own time.

        A delivery that has left `states` meanwhile is passed over. Returns how many were changed.
        """
        return sum(
            await self._store.change([
                (
                    "UPDATE deliveries SET state = 'pending', round_start = attempts, due_at = ?, "
                    "wake_at = ?, replay = ?, lease = NULL, lease_until = NULL "
                    f"WHERE id = ? AND state IN ({_marks(states)})",
                    (at, at, replay, one, *states),
                )
                for one, at in zip(ids, due, strict=True)
            ])
        )  # fmt: skip

    async def cancel_replay(self, replay: str) -> int:
        """Put back what a replay has not begun to attempt; returns how many."""
        (count,) = await self._store.change([
            (
                "UPDATE deliveries SET state = 'exhausted', replay = '' WHERE replay = ? "
                "AND state = 'pending' AND attempts = round_start AND lease IS NULL",
                (replay,),
            )
        ])  # fmt: skip
        return count

    async def cancel(self, ids: Sequence[str], *, now: int) -> int:
        """Cancel deliveries that still wait; returns how many were changed."""
        return sum(
            await self._store.change([
                (
                    "UPDATE deliveries SET state = 'cancelled', updated_at = ? WHERE id = ? "
                    "AND state IN ('pending', 'retrying', 'held', 'exhausted')",
                    (now, one),
                )
                for one in ids
            ])
        )  # fmt: skip

    async def quarantine(
        self, *, reason: str = "", status: str = "open", limit: int = 100
    ) -> list[QuarantineRow]:
        """Quarantine entries, newest first; an empty member does not restrict."""
        terms, values = ["1 = 1"], list[Any]()
        for column, value in (("reason = ?", reason), ("status = ?", status)):
            if value:
                terms.append(column)
                values.append(value)
        rows = await self._store.fetch(
            f"{_QUARANTINE} WHERE {' AND '.join(terms)} ORDER BY id DESC LIMIT ?", (*values, limit)
        )
        return [QuarantineRow(*row) for row in rows]

    async def quarantined(self, entry_id: str) -> tuple[QuarantineRow, bytes, str] | None:
        """One entry with its body and its traceparent."""
        rows = await self._store.fetch(f"{_QUARANTINE} WHERE id = ?", (entry_id,))
        if not rows:
            return None
        ((body, traceparent, *key),) = await self._store.fetch(
            "SELECT q.body, q.traceparent, k.wrapped_by, k.key FROM quarantine q "
            "LEFT JOIN quarantine_keys k ON k.entry_id = q.id WHERE q.id = ?",
            (entry_id,),
        )
        return QuarantineRow(*rows[0]), self._store.sealing.entry(entry_id, body, *key), traceparent

    async def quarantined_as(self, event_id: str) -> list[QuarantineRow]:
        """The entries of what the source called by this id, oldest first."""
        rows = await self._store.fetch(
            f"{_QUARANTINE} WHERE event_id = ? AND event_id <> '' ORDER BY id LIMIT {TRACE_LIMIT}",
            (event_id,),
        )
        return [QuarantineRow(*row) for row in rows]

    async def discard(self, ids: Sequence[str], *, by: str, now: int) -> int:
        """Close open entries for good; returns how many were open."""
        return sum(
            await self._store.change([
                (
                    "UPDATE quarantine SET status = 'discarded', resolved_at = ?, resolved_by = ? "
                    "WHERE id = ? AND status = 'open'",
                    (now, by, one),
                )
                for one in ids
            ])
        )  # fmt: skip

    async def counts(self) -> dict[str, dict[str, int]]:
        """Events by label, open quarantine by reason, deliveries by state."""
        labels = await self._store.fetch("SELECT label, count(*) FROM events GROUP BY label")
        ((repeated, waiting),) = await self._store.fetch(
            "SELECT (SELECT coalesce(sum(duplicates), 0) FROM events), "
            "(SELECT coalesce(sum(seen), 0) FROM quarantine)"
        )
        reasons = await self._store.fetch(
            "SELECT reason, count(*) FROM quarantine WHERE status = 'open' GROUP BY reason"
        )
        states = await self._store.fetch("SELECT state, count(*) FROM deliveries GROUP BY state")
        events = {label: int(count) for label, count in labels}
        return {
            "events": {**events, "duplicate": int(repeated), "quarantined": int(waiting)},
            "quarantine": {reason: int(count) for reason, count in reasons},
            "deliveries": {state: int(count) for state, count in states},
        }

    async def endpoint_counts(self) -> dict[str, dict[str, int]]:
        """Deliveries by endpoint and state."""
        rows = await self._store.fetch(
            "SELECT endpoint, state, count(*) FROM deliveries GROUP BY endpoint, state"
        )
        found: dict[str, dict[str, int]] = {}
        for endpoint, state, count in rows:
            found.setdefault(endpoint, {})[state] = int(count)
        return found

    async def replay_progress(self, replay: str) -> dict[str, int]:
        """Deliveries of a replay by state."""
        rows = await self._store.fetch(
            "SELECT state, count(*) FROM deliveries WHERE replay = ? AND replay <> '' "
            "GROUP BY state",
            (replay,),
        )
        return {state: int(count) for state, count in rows}

    async def erasures(self, *, name: str = "", limit: int = 100) -> list[ErasureRow]:
        """Erasures, newest first; those of one id or of one aggregate if `name` is given."""
        rows = await self._store.fetch(
            "SELECT id, kind, partner_app_id, key, reason, asked_at, state, receipt FROM erasures "
            "WHERE ? = '' OR id = ? OR key = ? ORDER BY id DESC LIMIT ?",
            (name, name, name, limit),
        )
        return [
            ErasureRow(
                one, AggregateKey(kind, app, key), reason, at, state,
                msgspec.json.decode(bytes(receipt)),
            )
            for one, kind, app, key, reason, at, state, receipt in rows
        ]  # fmt: skip

    async def notes(self, *, limit: int) -> list[NoteRow]:
        """Who did what, newest first."""
        rows = await self._store.fetch(
            "SELECT id, at, actor, action, target, detail FROM audit ORDER BY id DESC LIMIT ?",
            (limit,),
        )
        return [NoteRow(*row) for row in rows]

    async def note(self, *, actor: str, action: str, target: str, detail: str, now: int) -> str:
        """Record who did what; returns the id of the record."""
        audit_id = new_id()
        statement: Statement = (
            "INSERT INTO audit (id, at, actor, action, target, detail) VALUES (?, ?, ?, ?, ?, ?)",
            (audit_id, now, actor, action, target, detail),
        )
        await self._store.change([statement])
        return audit_id

    async def newest_receipt(self) -> int | None:
        """When the newest events were received; None when there are none."""
        ((newest,),) = await self._store.fetch(
            "SELECT max(received_at) FROM "
            "(SELECT received_at FROM events ORDER BY seq DESC LIMIT 100) AS newest"
        )
        return None if newest is None else int(newest)

    async def postgres_clock(self) -> int:
        """What PostgreSQL takes for the time. SQLite has no clock of its own to ask."""
        ((now,),) = await self._store.fetch(
            "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"
        )
        return int(now)

    async def keep_sample(self, at: int, point: bytes, *, since: int) -> None:
        """Keep a point of the charts, and forget those from before `since`."""
        await self._store.change([
            (
                "INSERT INTO samples (at, point) VALUES (?, ?) ON CONFLICT (at) DO NOTHING",
                (at, point),
            ),
            ("DELETE FROM samples WHERE at < ?", (since,)),
        ])  # fmt: skip

    async def samples(self, *, since: int) -> list[bytes]:
        """The points kept since then, oldest first."""
        rows = await self._store.fetch(
            "SELECT point FROM samples WHERE at >= ? ORDER BY at", (since,)
        )
        return [bytes(point) for (point,) in rows]

    async def _in(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run a query with ``IN ({})``, in chunks that both databases take."""
        found: list[tuple[Any, ...]] = []
        for start in range(0, len(values), CHUNK):
            some = values[start : start + CHUNK]
            found += await self._store.fetch(query.format(_marks(some)), some)
        return found


def _marks(values: Iterable[Any]) -> str:
    return ", ".join("?" for _ in values)


def _delivery(row: tuple[Any, ...]) -> DeliveryRow:
    delivery_id, kind, app, key, *rest = row
    return DeliveryRow(delivery_id, AggregateKey(kind, app, key), *rest)
