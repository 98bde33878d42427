"""The audit of the books: what must hold of everything that the store holds.

Nothing is locked for it. Run while the workers work, it may see a batch half told; run again.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from shared.domain.aggregates import Fact, refold
from shared.domain.keys import AggregateKey, Position
from shared.sealing import Box
from shared.store.mapping import SELECT_HISTORY, folded_entry
from shared.store.port import SqlStore
from shared.store.rows import Aggregate, DeliveryState, Label
from shared.store.seals import state_of

PAGE = 500
"""Aggregates folded anew at a time."""

_LABELS = ", ".join(f"'{one.value}'" for one in Label)
_STATES = ", ".join(f"'{one.value}'" for one in DeliveryState)

_ATTEMPTS_KEPT = (
    "d.created_at >= coalesce((SELECT kept_since FROM retention WHERE kind = 'attempts'), 0)"
)
"""Whether no attempt of a delivery has gone for its age."""

_COUNTED = {
    "every stored event has exactly one label": (
        f"SELECT count(*) FROM events WHERE label NOT IN ({_LABELS})"  # noqa: S608 - our own constants
    ),
    "every stored event speaks of an aggregate": (
        "SELECT count(*) FROM events e WHERE NOT EXISTS "
        "(SELECT 1 FROM history h WHERE h.event_seq = e.seq)"
    ),
    "every history entry has its event": (
        "SELECT count(*) FROM history h LEFT JOIN events e ON e.seq = h.event_seq "
        "WHERE e.seq IS NULL"
    ),
    "every payload has its event": (
        "SELECT count(*) FROM payloads p LEFT JOIN events e ON e.seq = p.seq WHERE e.seq IS NULL"
    ),
    "versions have no gap": (
        "SELECT count(*) FROM aggregates a LEFT JOIN "
        "(SELECT aggregate_id, count(*) AS n, max(version) AS top FROM transitions "
        "GROUP BY aggregate_id) t ON t.aggregate_id = a.id "
        "WHERE a.version <> coalesce(t.n, 0) OR a.version <> coalesce(t.top, 0)"
    ),
    "every version has its notifications": (
        "SELECT count(*) FROM transitions t LEFT JOIN "
        "(SELECT aggregate_id, version, count(*) AS n FROM deliveries "
        "GROUP BY aggregate_id, version) d "
        "ON d.aggregate_id = t.aggregate_id AND d.version = t.version "
        "WHERE t.notified <> coalesce(d.n, 0)"
    ),
    "every notification belongs to a version": (
        "SELECT count(*) FROM deliveries d LEFT JOIN transitions t "
        "ON t.aggregate_id = d.aggregate_id AND t.version = d.version WHERE t.version IS NULL"
    ),
    "every notification is in exactly one state": (
        f"SELECT count(*) FROM deliveries WHERE state NOT IN ({_STATES})"  # noqa: S608 - our own constants
    ),
    "attempts are numbered without a gap and counted": (
        "SELECT count(*) FROM deliveries d LEFT JOIN "  # noqa: S608 - our own constants
        "(SELECT delivery_id, count(*) AS n, max(number) AS top FROM attempts "
        "GROUP BY delivery_id) a ON a.delivery_id = d.id "
        "WHERE coalesce(a.n, 0) > d.attempts OR coalesce(a.top, 0) > d.attempts "
        f"OR ({_ATTEMPTS_KEPT} AND (d.attempts <> coalesce(a.n, 0) "
        "OR d.attempts <> coalesce(a.top, 0)))"
    ),
    "what is delivered has a successful attempt": (
        "SELECT count(*) FROM deliveries d WHERE d.state = 'delivered' "  # noqa: S608 - our own constants
        f"AND {_ATTEMPTS_KEPT} AND NOT EXISTS "
        "(SELECT 1 FROM attempts a WHERE a.delivery_id = d.id AND a.status BETWEEN 200 AND 299)"
    ),
    "nothing personal is kept of a deleted consent": (
        "SELECT (SELECT count(*) FROM data_keys k JOIN aggregates a ON a.id = k.aggregate_id "
        "WHERE a.status = 'DELETED_BY_USER') + (SELECT count(*) FROM history h "
        "JOIN aggregates a ON a.id = h.aggregate_id LEFT JOIN payloads p ON p.seq = h.event_seq "
        "WHERE a.status = 'DELETED_BY_USER' AND (h.private IS NOT NULL OR p.seq IS NOT NULL))"
    ),
    "everything sealed has its key": (
        "SELECT (SELECT count(*) FROM aggregates a LEFT JOIN data_keys k "
        "ON k.aggregate_id = a.id WHERE a.private IS NOT NULL AND k.aggregate_id IS NULL) "
        "+ (SELECT count(*) FROM history h LEFT JOIN data_keys k "
        "ON k.aggregate_id = h.aggregate_id WHERE h.private IS NOT NULL "
        "AND k.aggregate_id IS NULL)"
    ),
}
"""Check → a query that counts what breaks it."""

_UNFINISHED = "SELECT count(*) FROM erasures WHERE state = 'pending' AND asked_at < ?"

_OVERDUE = (
    "SELECT count(*) FROM deliveries WHERE state IN ('pending', 'retrying') AND due_at < ? "
    "AND (lease_until IS NULL OR lease_until < ?)"
)


class Check(Struct, frozen=True):
    """One line of the audit."""

    name: str
    ok: bool
    expected: int
    found: int


async def audit(store: SqlStore, *, now: int, late_after: float) -> list[Check]:
    """Run every check. `late_after`: seconds past its due time after which a delivery is late."""
    checks = []
    for name, query in _COUNTED.items():
        broken = await _number(store, query)
        checks.append(Check(name, broken == 0, 0, broken))
    checks.append(await _folds(store))
    late = await _number(store, _OVERDUE, (now - int(late_after * 1000), now))
    checks.append(Check("nothing due is later than it may be", late == 0, 0, late))
    waiting = await _number(store, _UNFINISHED, (now - int(late_after * 1000),))
    checks.append(Check("no erasure waits for longer than it may", waiting == 0, 0, waiting))
    return checks


async def _folds(store: SqlStore) -> Check:
    """Fold every history anew. An aggregate without any event is one that was only locked."""
    expected = found = 0
    async for page in _projections(store):
        for aggregate, history in page:
            expected += 1
            found += refold(aggregate.state, history) == aggregate.state
    name = "folding every history anew gives the stored state"
    return Check(name, expected == found, expected, found)


async def _projections(
    store: SqlStore,
) -> AsyncIterator[list[tuple[Aggregate, list[tuple[Position, Fact]]]]]:
    """Every aggregate with its history, page by page."""
    last = -1
    while True:
        rows = await store.fetch(
            "SELECT a.id, a.kind, a.partner_app_id, a.key, a.version, a.state, a.private, "
            "k.wrapped_by, k.key FROM aggregates a LEFT JOIN data_keys k ON k.aggregate_id = a.id "
            "WHERE a.id > ? ORDER BY a.id LIMIT ?",
            (last, PAGE),
        )
        if not rows:
            return
        first, last = rows[0][0], rows[-1][0]
        boxes = {row[0]: store.sealing.box(row[0], *row[-2:]) for row in rows}
        histories = await _histories(store, boxes, first, last)
        yield [
            (
                Aggregate(
                    number,
                    AggregateKey(*key),
                    version,
                    state_of(boxes[number], number, state, private),
                ),
                histories.get(number, []),
            )
            for number, *key, version, state, private, _, _ in rows
        ]


async def _histories(
    store: SqlStore, boxes: Mapping[int, Box | None], first: int, last: int
) -> dict[int, list[tuple[Position, Fact]]]:
    rows = await store.fetch(
        f"{SELECT_HISTORY} WHERE h.aggregate_id BETWEEN ? AND ?", (first, last)
    )
    found: dict[int, list[tuple[Position, Fact]]] = {}
    for row in rows:
        entry = folded_entry(boxes.get(row[0]), row)
        found.setdefault(row[0], []).append((entry.at, entry.fact))
    return found


async def _number(store: SqlStore, query: str, values: Sequence[Any] = ()) -> int:
    ((found,),) = await store.fetch(query, values)
    return int(found or 0)
