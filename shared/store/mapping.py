"""Between rows and records, for what both databases keep in the same columns."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from shared.domain import aggregates
from shared.domain.aggregates import decode_fact, encode, link_of, status_of
from shared.domain.consent import ConsentState
from shared.domain.keys import AggregateKey, Position
from shared.domain.product_request import ProductRequestState
from shared.store.rows import Aggregate, Changes, Delivery, DeliveryState, FoldedEntry, NewEvent

SELECT_DELIVERIES = """
SELECT d.id, d.endpoint, d.type, d.state, d.due_at, d.attempts, t.at, t.data,
       a.kind, a.partner_app_id, a.key, d.version, d.lease_until, d.round_start, d.traceparent
FROM deliveries d
JOIN transitions t ON t.aggregate_id = d.aggregate_id AND t.version = d.version
JOIN aggregates a ON a.id = d.aggregate_id
"""

EVENT_COLUMNS = (
    "seq", "partner_app_id", "event_id", "variant", "content", "type", "name", "time", "label",
    "source", "batch_id", "received_at", "traceparent",
)  # fmt: skip


def delivery(row: Sequence[Any]) -> Delivery:
    """A delivery from the columns of `SELECT_DELIVERIES`."""
    return Delivery(
        id=row[0],
        endpoint=row[1],
        type=row[2],
        state=DeliveryState(row[3]),
        due_at=row[4],
        attempts=row[5],
        transition_at=row[6],
        data=row[7],
        aggregate=AggregateKey(row[8], row[9], row[10]),
        version=row[11],
        lease_until=row[12],
        round_start=row[13],
        traceparent=row[14],
    )


def folded_entry(time: int, event_id: str, content: str, document: bytes) -> FoldedEntry:
    """A history entry from its event's time, id and content digest, and its fact."""
    fact = decode_fact(document)
    return FoldedEntry(Position(time, aggregates.rank_of(fact), event_id, content), fact)


def event_values(one: NewEvent) -> tuple[Any, ...]:
    """The values of `EVENT_COLUMNS`."""
    return (
        one.seq, one.ref.partner_app_id, one.ref.event_id, one.variant, one.content, one.type,
        one.name, one.time, one.label.value, one.source, one.batch_id, one.received_at,
        one.traceparent,
    )  # fmt: skip


def aggregate_values(changes: Changes) -> list[tuple[Any, ...]]:
    """What is stored of each aggregate beside its key.

    That is id, version, status, conflict, link_id, settles, touched_at, updated_at and state.
    `touched_at` is when the latest of its events in `changes` was received, 0 without any.
    """
    received = {one.seq: one.received_at for one in changes.events}
    touched: Counter[int] = Counter()
    for entry in changes.history:
        at = received[entry.event_seq]
        touched[entry.aggregate_id] = max(at, touched[entry.aggregate_id])
    return [_aggregate_values(one, touched[one.id]) for one in changes.aggregates]


def _aggregate_values(one: Aggregate, touched_at: int) -> tuple[Any, ...]:
    state = one.state
    return (
        one.id,
        one.version,
        status_of(state),
        int(isinstance(state, ConsentState) and state.conflict),
        link_of(state),
        int(isinstance(state, ProductRequestState) and state.settles),
        touched_at,
        state.last.time if state.last else 0,
        encode(state),
    )


def transition_values(changes: Changes) -> list[tuple[Any, ...]]:
    """What is stored of each transition.

    That is aggregate_id, version, type, from_status, to_status, event_seq, at, notified and data.
    `notified` is how many deliveries it has.
    """
    notified = Counter((one.aggregate_id, one.version) for one in changes.deliveries)
    return [
        (
            one.aggregate_id, one.version, one.type, one.from_status, one.to_status,
            one.event_seq, one.at, notified[one.aggregate_id, one.version], one.data,
        )
        for one in changes.transitions
    ]  # fmt: skip
