"""Everything that the store holds about one person or company, for who asks for access to it.

Found by the keyed hash of the tax id, never by the tax id itself; quarantine entries, which nobody
could read for an index, are opened one by one.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import orjson
from msgspec import Struct, to_builtins

from shared.domain.aggregates import Fact, State, link_of
from shared.domain.keys import AggregateKey, AggregateKind
from shared.domain.private import join_data
from shared.domain.tax_ids import normalise
from shared.sealing import Box
from shared.store.entries import opened_entries
from shared.store.lists import DeliveryRow
from shared.store.mapping import SELECT_HISTORY, folded_entry
from shared.store.port import SqlStore
from shared.store.queries import AttemptRow, Queries
from shared.store.rows import Aggregate
from shared.store.seals import about_data, opened, payload_of, state_of

_PUNCTUATION = r"[./\- ]?"


class HeldEvent(Struct, frozen=True):
    """An event that names the subject. `body` is empty where it is not kept any more."""

    event_id: str
    name: str
    time: int
    received_at: int
    source: str
    label: str
    tax_form: str
    body: bytes


class Told(Struct, frozen=True):
    """One version, and the ``data`` that endpoints were told of it."""

    version: int
    type: str
    at: int
    data: dict[str, Any]


class HeldAggregate(Struct, frozen=True):
    """A link, consent or product request of the subject, with what events said of it."""

    aggregate: Aggregate
    facts: list[dict[str, Any]]
    told: list[Told]
    deliveries: list[tuple[DeliveryRow, list[AttemptRow]]]


class HeldEntry(Struct, frozen=True):
    """A quarantine entry that names the subject."""

    id: str
    reason: str
    source: str
    received_at: int
    status: str
    body: bytes


class Held(Struct, frozen=True):
    """All of it."""

    aggregates: list[HeldAggregate]
    events: list[HeldEvent]
    quarantine: list[HeldEntry]

    def __bool__(self) -> bool:
        return bool(self.aggregates or self.events or self.quarantine)


class Subject:
    """Whom a tax id names, in one store."""

    def __init__(self, store: SqlStore, tax_id: str) -> None:
        """Raise `ValueError` if it has the form of neither CPF nor CNPJ."""
        bare = normalise(tax_id)
        if bare is None:
            raise ValueError("neither a CPF nor a CNPJ")
        self._store = store
        self._queries = Queries(store)
        self._mention = re.compile(
            rf"(?<![0-9A-Za-z]){_PUNCTUATION.join(bare)}(?![0-9A-Za-z])", re.IGNORECASE
        )
        self.token = store.sealing.token(bare)

    async def held(self) -> Held:
        """Read all of it. Whoever writes meanwhile may be seen in part."""
        found = await self._aggregates()
        numbers = [aggregate.id for aggregate, _ in found]
        return Held(
            [await self._aggregate(aggregate, box) for aggregate, box in found],
            await self._events(numbers),
            [one async for one in self._entries()],
        )

    async def _aggregates(self) -> list[tuple[Aggregate, Box | None]]:
        """Those that events with this tax id spoke of, and the links that they belong to."""
        rows = await self._store.fetch(
            "SELECT a.id, a.kind, a.partner_app_id, a.key FROM subjects s "
            "JOIN aggregates a ON a.id = s.aggregate_id WHERE s.token = ? ORDER BY a.id",
            (self.token,),
        )
        keys = dict.fromkeys(AggregateKey(*key) for _, *key in rows)
        found = [await self._read(key) for key in keys]
        links = dict.fromkeys(
            AggregateKey(AggregateKind.LINK, one.key.partner_app_id, link_of(one.state))
            for one, _ in found
            if link_of(one.state)
        )
        return found + [await self._read(key) for key in links if key not in keys]

    async def _read(self, key: AggregateKey) -> tuple[Aggregate, Box | None]:
        ((number, version, state, private, *sealed),) = await self._store.fetch(
            "SELECT a.id, a.version, a.state, a.private, k.wrapped_by, k.key "
            "FROM aggregates a LEFT JOIN data_keys k ON k.aggregate_id = a.id "
            "WHERE a.key = ? AND a.partner_app_id = ? AND a.kind = ?",
            (key.id, key.partner_app_id, key.kind),
        )
        box = self._store.sealing.box(number, *sealed)
        return Aggregate(number, key, version, state_of(box, number, state, private)), box

    async def _aggregate(self, aggregate: Aggregate, box: Box | None) -> HeldAggregate:
        number = aggregate.id
        history = await self._store.fetch(
            f"{SELECT_HISTORY} WHERE h.aggregate_id = ? ORDER BY e.time, h.event_seq", (number,)
        )
        told = await self._store.fetch(
            "SELECT version, type, at, data, private FROM transitions "
            "WHERE aggregate_id = ? ORDER BY version",
            (number,),
        )
        deliveries = await self._queries.deliveries_of([number])
        attempts = await self._queries.attempts_of(deliveries)
        return HeldAggregate(
            aggregate,
            [{"eventId": row[2], **plain(folded_entry(box, row).fact)} for row in history],
            [
                Told(version, kind, at, _data(box, number, version, data, private))
                for version, kind, at, data, private in told
            ],
            [(one, attempts.get(one.id, [])) for one in deliveries],
        )

    async def _events(self, numbers: Sequence[int]) -> list[HeldEvent]:
        seqs: dict[int, None] = {}
        for number in numbers:
            rows = await self._store.fetch(
                "SELECT event_seq FROM history WHERE aggregate_id = ?", (number,)
            )
            seqs |= dict.fromkeys(seq for (seq,) in rows)
        return [await self._event(seq) for seq in sorted(seqs)]

    async def _event(self, seq: int) -> HeldEvent:
        ((received_at, *columns),) = await self._store.fetch(
            "SELECT received_at, event_id, name, time, source, label, tax_form "
            "FROM events WHERE seq = ?",
            (seq,),
        )
        bodies = await self._store.fetch(
            "SELECT body FROM payloads WHERE seq = ? AND received_at = ?", (seq, received_at)
        )
        body = payload_of(await self._boxes(seq), seq, bytes(bodies[0][0])) if bodies else b""
        event_id, name, time, source, label, form = columns
        return HeldEvent(event_id, name, time, received_at, source, label, form, body)

    async def _boxes(self, seq: int) -> list[Box]:
        """The boxes of all that an event belongs to; a link's only where it has nothing else."""
        rows = await self._store.fetch(
            "SELECT a.id, a.kind, k.wrapped_by, k.key FROM history h "
            "JOIN aggregates a ON a.id = h.aggregate_id "
            "LEFT JOIN data_keys k ON k.aggregate_id = a.id WHERE h.event_seq = ? ORDER BY a.id",
            (seq,),
        )
        owners = [row for row in rows if row[1] != AggregateKind.LINK] or rows
        boxes = [self._store.sealing.box(number, *key) for number, _, *key in owners]
        return [one for one in boxes if one is not None]

    async def _entries(self) -> AsyncIterator[HeldEntry]:
        async for bodies in opened_entries(self._store):
            for entry in await asyncio.to_thread(self._mentioning, bodies):
                ((reason, source, received_at, status),) = await self._store.fetch(
                    "SELECT reason, source, received_at, status FROM quarantine WHERE id = ?",
                    (entry,),
                )
                yield HeldEntry(entry, reason, source, received_at, status, bodies[entry])

    def _mentioning(self, bodies: Mapping[str, bytes]) -> list[str]:
        return [
            entry
            for entry, body in bodies.items()
            if self._mention.search(body.decode("utf-8", "replace"))
        ]


def plain(document: State | Fact) -> dict[str, Any]:
    """A state or fact as JSON has it."""
    made: dict[str, Any] = to_builtins(document)
    return made


def _data(
    box: Box | None, number: int, version: int, data: bytes, private: bytes | None
) -> dict[str, Any]:
    part = opened(box, private, about_data(number, version))
    made: dict[str, Any] = orjson.loads(join_data(bytes(data), part))
    return made
