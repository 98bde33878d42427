"""What operators ask of the store and do to it; one text of SQL for both databases.

Times are Unix milliseconds. Nothing here writes to what the workers fold: state changes only
through events, a cleared conflict excepted, which `console.conflicts` does under a lock.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from shared.domain.aggregates import is_erased
from shared.domain.keys import AggregateKey
from shared.ids import new_id
from shared.store.lists import DELIVERY, DeliveryLists, DeliveryRow, delivery_row, marks
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


_EVENT = (
    "SELECT seq, event_id, name, time, received_at, source, label, duplicates, tax_form FROM events"
)

_QUARANTINE = (
    "SELECT id, reason, detail, source, batch_id, received_at, seen, status, "
    "event_id FROM quarantine"
)


def _entries(reason: str, status: str) -> tuple[str, list[str]]:
    """The condition on quarantine entries, and its values; an empty member does not restrict."""
    given = [(one, value) for one, value in (("reason", reason), ("status", status)) if value]
    return " AND ".join(["1 = 1", *(f"{one} = ?" for one, _ in given)]), [v for _, v in given]


class Queries(DeliveryLists):
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
            DELIVERY + f"WHERE d.aggregate_id IN ({{}}) ORDER BY d.id LIMIT {TRACE_LIMIT}",
            aggregate_ids,
        )
        return [delivery_row(row) for row in rows]

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

    async def quarantine(
        self, *, reason: str = "", status: str = "open", limit: int = 100
    ) -> list[QuarantineRow]:
        """Quarantine entries, newest first; an empty member does not restrict."""
        where, values = _entries(reason, status)
        rows = await self._store.fetch(
            f"{_QUARANTINE} WHERE {where} ORDER BY id DESC LIMIT ?", (*values, limit)
        )
        return [QuarantineRow(*row) for row in rows]

    async def count_quarantine(self, *, reason: str, status: str, at_most: int) -> int:
        """How many entries there are of these; counting ends at `at_most`."""
        where, values = _entries(reason, status)
        ((count,),) = await self._store.fetch(
            f"SELECT count(*) FROM (SELECT 1 FROM quarantine WHERE {where} LIMIT ?) AS found",
            (*values, at_most),
        )
        return int(count)

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

    async def of_subject(self, tax_id: str) -> dict[int, AggregateKey]:
        """The aggregates that name a person; `tax_id` without punctuation."""
        rows = await self._store.fetch(
            "SELECT a.id, a.kind, a.partner_app_id, a.key FROM subjects s "
            "JOIN aggregates a ON a.id = s.aggregate_id WHERE s.token = ? ORDER BY a.id",
            (self._store.sealing.token(tax_id),),
        )
        return {number: AggregateKey(*key) for number, *key in rows}

    async def not_erased(self, keys: Sequence[AggregateKey]) -> list[AggregateKey]:
        """Those of these aggregates that exist and are not erased."""
        found = [(key, await self.aggregate(key)) for key in keys]
        return [key for key, one in found if one is not None and not is_erased(one.state)]

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
            found += await self._store.fetch(query.format(marks(some)), some)
        return found
