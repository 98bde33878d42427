"""Giving up what is personal of aggregates, within the transaction that makes them erased.

One text of SQL for both databases. What stays is the tombstone: ids, times, statuses, digests, and
a row in ``erasures`` that the eraser works off.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import msgspec

from shared.domain.aggregates import bare_fact, decode_fact, encode
from shared.domain.keys import AggregateKind
from shared.domain.private import BLANK, bare_data
from shared.ids import new_id
from shared.store.rows import Erased
from shared.store.seals import Sealing

Run = Callable[[str, Sequence[Any]], Awaitable[list[tuple[Any, ...]]]]
"""Runs one statement, with ``?`` for each value, within the transaction at hand."""

CHUNK = 200

PENDING = "pending"
"""State of an erasure of which only the aggregate's own rows are done."""

_OWNED = """
SELECT h.aggregate_id, e.seq, e.received_at FROM history h JOIN events e ON e.seq = h.event_seq
WHERE h.aggregate_id IN ({})
"""

_OWNED_BY_LINKS = """
SELECT h.aggregate_id, e.seq, e.received_at FROM history h JOIN events e ON e.seq = h.event_seq
WHERE h.aggregate_id IN ({}) AND NOT EXISTS (
    SELECT 1 FROM history o JOIN aggregates a ON a.id = o.aggregate_id
    WHERE o.event_seq = h.event_seq AND a.kind <> 'link'
)
"""

_DELETE_PAYLOADS = """
DELETE FROM payloads WHERE seq IN ({}) AND received_at BETWEEN ? AND ? RETURNING seq
"""

_TOLD = "SELECT aggregate_id, id, created_at FROM deliveries WHERE aggregate_id IN ({})"

_ANSWERS = """
UPDATE attempts SET private = NULL, answer = ?
WHERE delivery_id IN ({}) AND at >= ? AND (private IS NOT NULL OR length(answer) > 0)
RETURNING delivery_id
"""

_INSERT = """
INSERT INTO erasures (id, aggregate_id, kind, partner_app_id, key, reason, asked_at, state, due_at,
                      tokens, receipt)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

_CLOCKS_APART = 3_600_000
"""Milliseconds by which an attempt may seem older than its delivery."""


async def erase(run: Run, erased: Sequence[Erased], sealing: Sealing) -> None:
    """Take away what is personal of these aggregates, and note what was done."""
    for start in range(0, len(erased), CHUNK):
        await _erase(run, erased[start : start + CHUNK], sealing)


async def _erase(run: Run, erased: Sequence[Erased], sealing: Sealing) -> None:
    ids = [one.aggregate_id for one in erased]
    links = [one.aggregate_id for one in erased if one.key.kind == AggregateKind.LINK]
    others = [one.aggregate_id for one in erased if one.key.kind != AggregateKind.LINK]
    done: dict[str, Counter[int]] = {
        "payloads": await _payloads(run, links, others),
        "facts": await _facts(run, ids),
        "notices": await _notices(run, erased),
        "answers": await _answers(run, ids),
        "keys": await _count(
            run, "DELETE FROM data_keys WHERE aggregate_id IN ({}) RETURNING aggregate_id", ids
        ),
    }
    tokens: dict[int, set[str]] = {one.aggregate_id: set() for one in erased}
    deleting = "DELETE FROM subjects WHERE aggregate_id IN ({}) RETURNING aggregate_id, token"
    for number, token in await _in(run, deleting, ids):
        tokens[number].add(token)
    done["taxIds"] = Counter({number: len(found) for number, found in tokens.items()})
    for one in erased:
        number = one.aggregate_id
        tokens[number].update(map(sealing.token, one.tax_ids))
        counts = {name: counted[number] for name, counted in done.items()}
        await run(
            _INSERT,
            (
                new_id(), number, one.key.kind, one.key.partner_app_id, one.key.id, one.why.value,
                one.at, PENDING, one.at, msgspec.json.encode(sorted(tokens[number])).decode(),
                msgspec.json.encode({"erased": counts}),
            ),
        )  # fmt: skip


async def _payloads(run: Run, links: Sequence[int], others: Sequence[int]) -> Counter[int]:
    """Payloads of all events that belong to these aggregates, alone or with others."""
    rows = await _in(run, _OWNED, others) + await _in(run, _OWNED_BY_LINKS, links)
    owner = {seq: number for number, seq, _ in rows}
    if not rows:
        return Counter()
    first, last = min(at for _, _, at in rows), max(at for _, _, at in rows)
    count: Counter[int] = Counter()
    for some in _chunks(sorted(owner)):
        found = await run(_DELETE_PAYLOADS.format(_marks(some)), (*some, first, last))
        count.update(owner[seq] for (seq,) in found)
    return count


async def _facts(run: Run, ids: Sequence[int]) -> Counter[int]:
    count = await _count(
        run,
        "UPDATE history SET private = NULL WHERE aggregate_id IN ({}) AND private IS NOT NULL "
        "RETURNING aggregate_id",
        ids,
    )
    reading = "SELECT aggregate_id, event_seq, fact FROM history WHERE aggregate_id IN ({})"
    for number, seq, stored in await _in(run, reading, ids):
        bare = encode(bare_fact(decode_fact(stored)))
        if bare != stored:  # a former release left it in clear
            await run(
                "UPDATE history SET fact = ? WHERE aggregate_id = ? AND event_seq = ?",
                (bare, number, seq),
            )
            count[number] += 1
    return count


async def _notices(run: Run, erased: Sequence[Erased]) -> Counter[int]:
    count: Counter[int] = Counter()
    kinds = {one.aggregate_id: one.key.kind for one in erased}
    reading = (
        "SELECT aggregate_id, version, data, private FROM transitions WHERE aggregate_id IN ({})"
    )
    for number, version, stored, private in await _in(run, reading, list(kinds)):
        data, blank = bare_data(bytes(stored)), BLANK[kinds[number]] if private else None
        if (data, blank) != (stored, private):
            await run(
                "UPDATE transitions SET data = ?, private = ? "
                "WHERE aggregate_id = ? AND version = ?",
                (data, blank, number, version),
            )
            count[number] += 1
    return count


async def _answers(run: Run, ids: Sequence[int]) -> Counter[int]:
    rows = await _in(run, _TOLD, ids)
    owner = {delivery: number for number, delivery, _ in rows}
    since = min((at for _, _, at in rows), default=0) - _CLOCKS_APART
    count: Counter[int] = Counter()
    for some in _chunks(list(owner)):
        found = await run(_ANSWERS.format(_marks(some)), (b"", *some, since))
        count.update(owner[one] for (one,) in found)
    return count


async def _count(run: Run, statement: str, ids: Sequence[int]) -> Counter[int]:
    return Counter(number for (number, *_) in await _in(run, statement, ids))


async def _in(run: Run, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for some in _chunks(values):
        found += await run(statement.format(_marks(some)), some)
    return found


def _chunks(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))
