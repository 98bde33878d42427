"""Between rows and records, for what both databases keep in the same columns."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from shared.domain import aggregates
from shared.domain.aggregates import link_of, status_of
from shared.domain.consent import ConsentState
from shared.domain.keys import AggregateKey, Position
from shared.domain.private import join_data
from shared.domain.product_request import ProductRequestState
from shared.sealing import Box
from shared.store.rows import (
    Aggregate,
    AttemptRecord,
    Changes,
    Delivery,
    DeliveryState,
    FoldedEntry,
    NewEvent,
    NewQuarantined,
)
from shared.store.seals import (
    Keys,
    Sealing,
    about_answer,
    about_data,
    about_entry,
    entry_owner,
    fact_of,
    opened,
)

_DELIVERIES = """
SELECT d.id, d.endpoint, d.type, d.state, d.due_at, d.attempts, t.at, t.data,
       a.kind, a.partner_app_id, a.key, d.version, d.lease_until, d.round_start, d.traceparent,
       a.id, t.private, k.wrapped_by, k.key
FROM {} d
JOIN transitions t ON t.aggregate_id = d.aggregate_id AND t.version = d.version
JOIN aggregates a ON a.id = d.aggregate_id
LEFT JOIN data_keys k ON k.aggregate_id = d.aggregate_id
"""

KEY_OF_DELIVERY = """
SELECT d.aggregate_id, k.wrapped_by, k.key
FROM deliveries d JOIN data_keys k ON k.aggregate_id = d.aggregate_id
WHERE d.id = ?
"""

SELECT_HISTORY = """
SELECT h.aggregate_id, e.time, e.event_id, e.content, h.event_seq, h.fact, h.private
FROM history h JOIN events e ON e.seq = h.event_seq
"""

EVENT_COLUMNS = (
    "seq", "partner_app_id", "event_id", "variant", "content", "type", "name", "time", "label",
    "source", "batch_id", "received_at", "traceparent", "tax_form",
)  # fmt: skip


def select_deliveries(table: str = "deliveries") -> str:
    """The columns from which `delivery` makes one, of a table or of a part of a statement."""
    return _DELIVERIES.format(table)


def delivery(sealing: Sealing, row: Sequence[Any]) -> Delivery:
    """A delivery from the columns of `select_deliveries`."""
    number, private, *key = row[15:]
    private = opened(sealing.box(number, *key), private, about_data(number, row[11]))
    return Delivery(
        id=row[0],
        endpoint=row[1],
        type=row[2],
        state=DeliveryState(row[3]),
        due_at=row[4],
        attempts=row[5],
        transition_at=row[6],
        data=join_data(row[7], private),
        aggregate=AggregateKey(row[8], row[9], row[10]),
        version=row[11],
        lease_until=row[12],
        round_start=row[13],
        traceparent=row[14],
    )


def sealed_answer(sealing: Sealing, one: AttemptRecord, key: Sequence[Any]) -> bytes | None:
    """An endpoint's answer as it is kept: by the key of the aggregate that it was told of.

    `key` has the columns of `KEY_OF_DELIVERY`.
    """
    box = sealing.box(*key)
    return box.seal(one.answer, about_answer(one.delivery_id)) if box else None


def turns(attempts: Sequence[AttemptRecord]) -> list[list[AttemptRecord]]:
    """The attempts, in their order, parted so that each part has one of a delivery at most."""
    turns: list[list[AttemptRecord]] = []
    seen: Counter[str] = Counter()
    for one in attempts:
        turn = seen[one.delivery_id]
        if turn == len(turns):
            turns.append([])
        turns[turn].append(one)
        seen[one.delivery_id] += 1
    return turns


def folded_entry(box: Box | None, row: Sequence[Any]) -> FoldedEntry:
    """A history entry from the columns of `SELECT_HISTORY`; `box` is its aggregate's."""
    number, time, event_id, content, seq, document, private = row
    fact = fact_of(box, number, seq, document, private)
    return FoldedEntry(Position(time, aggregates.rank_of(fact), event_id, content), fact)


def event_values(one: NewEvent) -> tuple[Any, ...]:
    """The values of `EVENT_COLUMNS`."""
    return (
        one.seq, one.ref.partner_app_id, one.ref.event_id, one.variant, one.content, one.type,
        one.name, one.time, one.label.value, one.source, one.batch_id, one.received_at,
        one.traceparent, one.tax_form,
    )  # fmt: skip


def payload_values(changes: Changes, keys: Keys) -> list[tuple[int, int, bytes]]:
    """What is kept of each event's own bytes: seq, received_at and sealed body."""
    return [
        (one.seq, one.received_at, keys.payload(one.seq, one.body, one.owners))
        for one in changes.events
        if one.body and one.owners
    ]


def history_values(changes: Changes, keys: Keys) -> list[tuple[Any, ...]]:
    """What is stored of each fact: aggregate_id, event_seq, fact and private."""
    return [
        (one.aggregate_id, one.event_seq, *keys.fact(one.aggregate_id, one.event_seq, one.fact))
        for one in changes.history
    ]


def quarantine_values(
    one: NewQuarantined, sealing: Sealing
) -> tuple[tuple[Any, ...], tuple[str, str, bytes]]:
    """What is stored of a quarantine entry, and of the key that seals its body alone.

    That is id, reason, detail, source, batch_id, received_at, content, body, traceparent,
    event_id, status and resolved_at; and entry_id, wrapped_by and key.
    """
    made, box = sealing.sealer.make(entry_owner(one.id))
    body = box.seal(one.body, about_entry(one.id)) if one.body else b""
    status, resolved_at = ("open", None) if one.body else ("erased", one.received_at)
    return (
        one.id, one.reason, one.detail, one.source, one.batch_id, one.received_at, one.content,
        body, one.traceparent, one.event_id, status, resolved_at,
    ), (one.id, made.by, made.key)  # fmt: skip


def subject_values(
    changes: Changes, sealing: Sealing
) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Tax ids that this process has not indexed yet, by aggregate, and their tokens likewise."""
    indexed = {
        (number, tax_id)
        for one in changes.events
        for number in one.owners
        for tax_id in one.tax_ids
        if not sealing.is_indexed(number, tax_id)
    }
    ordered = sorted(indexed)
    return ordered, [(number, sealing.token(tax_id)) for number, tax_id in ordered]


def key_values(keys: Keys) -> list[tuple[int, str, bytes]]:
    """What is stored of each data key that was made: aggregate_id, wrapped_by and key."""
    return [(number, made.by, made.key) for number, made in keys.made.items()]


def aggregate_values(changes: Changes, keys: Keys) -> list[tuple[Any, ...]]:
    """What is stored of each aggregate beside its key.

    That is id, version, status, conflict, link_id, settles, touched_at, updated_at, state and
    private.
    `touched_at` is when the latest of its events in `changes` was received, 0 without any. Where
    a quiet period settles it, it is when that event was folded, if that is later: an outage is no
    quiet, and its events come one after the other when it has passed.
    """
    received = {one.seq: one.received_at for one in changes.events}
    touched: Counter[int] = Counter()
    for entry in changes.history:
        at = received[entry.event_seq]
        touched[entry.aggregate_id] = max(at, touched[entry.aggregate_id])
    for one in changes.aggregates:
        if one.id in touched and _settles(one):
            touched[one.id] = max(touched[one.id], changes.folded_at)
    return [_aggregate_values(one, touched[one.id], keys) for one in changes.aggregates]


def _settles(one: Aggregate) -> bool:
    return isinstance(one.state, ProductRequestState) and one.state.settles


def _aggregate_values(one: Aggregate, touched_at: int, keys: Keys) -> tuple[Any, ...]:
    state = one.state
    return (
        one.id,
        one.version,
        status_of(state),
        int(isinstance(state, ConsentState) and state.conflict),
        link_of(state),
        int(_settles(one)),
        touched_at,
        state.last.time if state.last else 0,
        *keys.state(one.id, state),
    )


def transition_values(changes: Changes, keys: Keys) -> list[tuple[Any, ...]]:
    """What is stored of each transition.

    That is aggregate_id, version, type, from_status, to_status, event_seq, at, notified, data and
    private.
    `notified` is how many deliveries it has.
    """
    notified = Counter((one.aggregate_id, one.version) for one in changes.deliveries)
    return [
        (
            one.aggregate_id, one.version, one.type, one.from_status, one.to_status,
            one.event_seq, one.at, notified[one.aggregate_id, one.version], one.data,
            keys.seal(one.aggregate_id, one.private, about_data(one.aggregate_id, one.version)),
        )
        for one in changes.transitions
    ]  # fmt: skip
