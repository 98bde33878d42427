"""Erasing to the end: what goes along with an aggregate, the quarantine, and the last traces.

The transaction that makes an aggregate erased takes away its own rows (`shared.store.erase`) and
leaves a row in ``erasures``. From there the eraser goes on, as often as it is stopped:

1. what goes along: a product request with the last of its consents, a link with the last of its;
2. the quarantine: entries that name what was erased, or whose people have no other consent;
3. traces: the bytes of destroyed keys that the database leaves in its files;
4. once more after `SECOND_LOOK`, for what transactions brought that were then under way.

The receipt of each erasure says what was erased where, and what goes by itself.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random

from shared.clock import Clock
from shared.config import Config
from shared.domain import aggregates
from shared.domain.aggregates import is_erased
from shared.domain.keys import AggregateKey, AggregateKind
from shared.domain.link import LinkState
from shared.domain.product_request import OrderFact, ProductRequestState
from shared.erasing import consents_behind, strip
from shared.errors import SealingKeyError, StoreConflictError
from shared.fanout import Announcer, Subscriptions
from shared.sifting import Sought, names_any
from shared.store.entries import opened_entries
from shared.store.erase import PENDING
from shared.store.lease import Lease
from shared.store.port import EventStore, EventTransaction, SqlStore, TraceStore
from shared.store.rows import Aggregate, Changes, Erased, Why

TASK: Final = "erasing"
HELD: Final = 8.0
"""Seconds for which nobody else erases when a process dies at it. If one is merely slow and two do
the same, nothing comes of it: each step is done once, whoever is first."""

SECOND_LOOK: Final = 120_000
"""Milliseconds; no transaction lasts so long."""
BATCH: Final = 100
ALWAYS: Final = 2**62
"""A pass may follow the last one at once."""
LOOKED_AT: Final = 1_000
"""Aggregates at each end."""
SETTLING, DONE = "settling", "done"

_DELETED = """
SELECT a.kind, a.partner_app_id, a.key FROM aggregates a WHERE a.status = 'DELETED_BY_USER'
AND EXISTS (SELECT 1 FROM history h JOIN payloads p ON p.seq = h.event_seq
            WHERE h.aggregate_id = a.id) ORDER BY a.id LIMIT ?
"""

_KEYLESS = """
SELECT a.kind, a.partner_app_id, a.key FROM aggregates a
JOIN erasures e ON e.key = a.key AND e.partner_app_id = a.partner_app_id AND e.kind = a.kind
    AND e.aggregate_id = a.id
WHERE a.private IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM data_keys k WHERE k.aggregate_id = a.id) ORDER BY a.id LIMIT ?
"""
"""Only what somebody asked to erase: a key that is merely missing may still be restored."""

_LOST = """
SELECT count(*) FROM (SELECT id, kind, partner_app_id, key FROM aggregates
                      WHERE private IS NOT NULL ORDER BY id {} LIMIT ?) AS a
WHERE NOT EXISTS (SELECT 1 FROM data_keys k WHERE k.aggregate_id = a.id)
AND NOT EXISTS (SELECT 1 FROM erasures e WHERE e.key = a.key AND e.aggregate_id = a.id
                AND e.partner_app_id = a.partner_app_id AND e.kind = a.kind)
"""

_DUE = """
SELECT id, aggregate_id, kind, partner_app_id, key, reason, asked_at, state, tokens, receipt
FROM erasures WHERE state <> 'done' AND due_at <= ? ORDER BY due_at LIMIT ?
"""

_FIRST_DUE = "SELECT due_at FROM erasures WHERE state <> 'done' ORDER BY due_at LIMIT 1"

_WITH_CONSENT = """
SELECT a.kind, a.partner_app_id, a.key FROM ordered_for o JOIN aggregates a ON a.id = o.aggregate_id
WHERE o.consent_id = ? AND a.partner_app_id = ?
"""

_LINK_OF = "SELECT 'link', partner_app_id, link_id FROM aggregates WHERE id = ? AND link_id <> ''"

_OF_LINK = """
SELECT kind, partner_app_id, key FROM aggregates
WHERE link_id = ? AND link_id <> '' AND partner_app_id = ? AND kind = 'product_request'
"""

_LIVE = """
SELECT 1 FROM subjects s JOIN aggregates a ON a.id = s.aggregate_id
WHERE s.token = ? AND a.kind = 'consent' AND a.status <> 'DELETED_BY_USER' LIMIT 1
"""

_NAMELESS = """
SELECT a.kind, a.partner_app_id, a.key FROM subjects s JOIN aggregates a ON a.id = s.aggregate_id
WHERE s.token = ? AND (a.kind = 'link' OR a.status = 'PLACEHOLDER')
"""
"""What names the same person and may belong to no consent that is known."""

_EMPTY_ENTRY = """
UPDATE quarantine SET body = ?, resolved_at = coalesce(resolved_at, ?), resolved_by = 'erasure',
    status = CASE WHEN EXISTS (
        SELECT 1 FROM quarantine o WHERE o.source = quarantine.source
        AND o.content = quarantine.content AND o.id <> quarantine.id
        AND o.status IN ('open', 'erased')
    ) THEN status ELSE 'erased' END
WHERE id = ?
"""

_FORGET_TOKENS = "UPDATE erasures SET tokens = '[]' WHERE id = ?"

_UPDATE = "UPDATE erasures SET state = ?, due_at = ?, tokens = ?, receipt = ? WHERE id = ?"

BESIDE: Final = {
    "broker": "event messages leave the broker's files once its queues have drained and its log "
    "has been rolled over: deploy/README.md, Erasure",
    "spool": "a spool file is sealed by a key of its own, destroyed when the file has drained",
    "backups": "a backup of the data is unreadable without the key; keys lie in copies of the "
    "key tables until these are deleted",
    "logs": "the write-ahead log of PostgreSQL, and its archive, until they are recycled",
}
"""Where traces may be that no erasure reaches, and when they go."""


Condition = Callable[[EventTransaction, Aggregate], Awaitable[bool]]
"""Whether an aggregate, which is locked, may be erased."""


class Job(Struct):
    """An erasure that is under way."""

    id: str
    aggregate_id: int
    key: AggregateKey
    reason: str
    asked_at: int
    state: str
    tokens: list[str]
    receipt: dict[str, Any]


class ErasableStore(EventStore, SqlStore, TraceStore, Protocol):
    """What erasing needs of a store."""


class Eraser:
    """Works off the erasures of one store, one process at a time."""

    def __init__(self, store: ErasableStore, config: Config, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._subscriptions = Subscriptions(config.endpoint)
        self._lease = Lease(store, TASK, clock=clock, seconds=HELD)

    async def erase(self, key: AggregateKey, *, why: Why) -> bool:
        """Erase one aggregate and tell its endpoints; False if it was erased before."""

        async def always(_transaction: EventTransaction, _current: Aggregate) -> bool:
            return True

        return await self._erase_if(key, always, why=why)

    async def empty_quarantine_of(self, tax_id: str, *, really: bool) -> int:
        """Empty what is in quarantine and names a person, whoever else it names.

        Args:
            tax_id: without punctuation.
            really: False counts only.

        Returns how many entries.

        Raises:
            StoreUnavailableError: they are emptied, but traces are left until it is called again.
        """
        count = 0
        token = self._store.sealing.token(tax_id)
        async for found in self._entries_naming([Sought("", None, frozenset([token]))]):
            count += len(found)
            if really:
                await self._empty(found)
        if really:
            await self._store.wipe([])
        return count

    async def catch_up(self) -> int:
        """Erase what should be erased and is not: once at the start; returns how much it was.

        That is what a release without erasure left of deleted consents, and what a restored
        backup brought back of what was erased after it.
        """
        count = 0
        for query, why in ((_DELETED, Why.EVENT), (_KEYLESS, Why.RESTORED)):
            while rows := await self._store.fetch(query, (BATCH,)):
                for row in rows:
                    await self._erase_again(AggregateKey(*row), why)
                count += len(rows)
        return count

    async def require_keys(self) -> None:
        """Look whether the oldest and the newest of what is sealed have their keys.

        They lack them where data was restored and its keys were not, or not the newest copy.

        Raises:
            SealingKeyError: some do, and nobody has erased them.
        """
        for order in ("ASC", "DESC"):
            ((count,),) = await self._store.fetch(_LOST.format(order), (LOOKED_AT,))
            if count:
                raise SealingKeyError(
                    f"{count} of {LOOKED_AT} aggregates looked at have lost their data keys: "
                    "restore the newest copy of the keys (deploy/README.md, Backup and restore)"
                )

    async def _erase_again(self, key: AggregateKey, why: Why) -> None:
        now = self._clock.now()
        async with self._store.transaction() as transaction:
            loaded = await transaction.lock_aggregates([key])
            current = loaded[key]
            history = (await transaction.histories([current.id]))[current.id]
            entries = [(entry.at, aggregates.bare_fact(entry.fact)) for entry in history]
            after = aggregates.erase(current.state, entries, at=now)
            changes = Changes()
            announcer = Announcer(self._subscriptions, now=now)
            told = announcer.announce(current, after, changes)
            changes.aggregates.append(replace(told, state=aggregates.refold(after, entries)))
            strip(changes, loaded, now=now, why=why)
            changes.erased = [Erased(current.id, key, why=why, at=now)]
            await transaction.write(changes)

    async def work(self) -> int:
        """Work off what is due; returns how many erasures were looked at.

        Raises:
            StoreUnavailableError: the store cannot be reached; what is left stays due.
            LeaseLostError: another process has taken over.
        """
        now = self._clock.now()
        if not await self._store.fetch(_DUE, (now, 1)):
            return 0
        if not await self._lease.take(ended_before=ALWAYS):
            return 0
        count = 0
        try:
            while jobs := await self._jobs():
                count += len(jobs)
                for job in jobs:
                    await self._go_along(job)
                    await self._lease.renew()
                await self._empty_quarantine(jobs)
                await self._finish(jobs)
        finally:
            await self._lease.end()
        return count

    async def overdue(self) -> float:
        """For how many seconds the longest due erasure has waited for somebody; 0 without any."""
        for (due_at,) in await self._store.fetch(_FIRST_DUE):
            return max(0, self._clock.now() - int(due_at)) / 1000
        return 0.0

    async def _jobs(self) -> list[Job]:
        rows = await self._store.fetch(_DUE, (self._clock.now(), BATCH))
        return [
            Job(
                one, number, AggregateKey(kind, app, key), reason, asked_at, state,
                msgspec.json.decode(tokens), msgspec.json.decode(bytes(receipt)),
            )
            for one, number, kind, app, key, reason, asked_at, state, tokens, receipt in rows
        ]  # fmt: skip

    async def _go_along(self, job: Job) -> None:
        """Erase what goes with this aggregate."""
        key = job.key
        along: list[tuple[Any, ...]] = []
        if key.kind == AggregateKind.CONSENT:
            along += await self._store.fetch(_LINK_OF, (job.aggregate_id,))
            along += await self._store.fetch(_WITH_CONSENT, (key.id, key.partner_app_id))
            for _, app, link in list(along):
                along += await self._store.fetch(_OF_LINK, (link, app))
        elif key.kind == AggregateKind.LINK:
            along += await self._store.fetch(_OF_LINK, (key.id, key.partner_app_id))
        for one in dict.fromkeys(AggregateKey(*row) for row in along):
            await self._note(job, one, await self._erase_if(one, _is_left, why=Why.CONSENTS_GONE))
        for token in await self._without_consent(job.tokens):
            for row in await self._store.fetch(_NAMELESS, (token,)):
                one = AggregateKey(*row)
                gone = await self._erase_if(one, _is_nobodys, why=Why.CONSENTS_GONE)
                await self._note(job, one, gone)

    async def _note(self, job: Job, key: AggregateKey, gone: bool) -> None:  # noqa: FBT001 - what came of it
        if gone:
            job.receipt.setdefault("alsoErased", []).append({"aggregate": key.kind, "id": key.id})

    async def _without_consent(self, tokens: Iterable[str]) -> list[str]:
        """Those of these people whose last consent is erased."""
        return [one for one in tokens if not await self._store.fetch(_LIVE, (one,))]

    async def _erase_if(self, key: AggregateKey, condition: Condition, *, why: Why) -> bool:
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(20),
            retry=retry_if_exception_type(StoreConflictError),
            wait=wait_random(0.001, 0.05),
            reraise=True,
        ):
            with attempt:
                return await self._try_erase(key, condition, why=why)
        return False

    async def _try_erase(self, key: AggregateKey, condition: Condition, *, why: Why) -> bool:
        now = self._clock.now()
        async with self._store.transaction() as transaction:
            loaded = await transaction.lock_aggregates([key])
            current = loaded[key]
            if is_erased(current.state) or not await condition(transaction, current):
                return False
            history = (await transaction.histories([current.id]))[current.id]
            entries = [(entry.at, entry.fact) for entry in history]
            after = aggregates.erase(current.state, entries, at=now)
            changes = Changes()
            announcer = Announcer(self._subscriptions, now=now)
            changes.aggregates.append(announcer.announce(current, after, changes))
            strip(changes, loaded, now=now, why=why)
            await transaction.write(changes)
        return True

    async def _empty_quarantine(self, jobs: Sequence[Job]) -> None:
        """Empty every entry that names what these jobs erase."""
        people = {job.id: frozenset(await self._without_consent(job.tokens)) for job in jobs}
        sought = [Sought(job.id, job.key.id, people[job.id]) for job in jobs]
        async for found in self._entries_naming(sought):
            for about in found.values():
                for job in jobs:
                    if job.id in about:
                        erased = job.receipt.setdefault("erased", {})
                        erased["quarantine"] = erased.get("quarantine", 0) + 1
            await self._empty(found)
            await self._lease.renew()

    async def _entries_naming(self, sought: Sequence[Sought]) -> AsyncIterator[dict[str, set[str]]]:
        """Quarantine entries that name what is sought, some at a time, and what of it."""
        token = self._store.sealing.token
        async for bodies in opened_entries(self._store):
            # In a thread: megabytes that nobody could read take their time.
            yield await asyncio.to_thread(_naming, bodies, sought, token)

    async def _empty(self, entries: Iterable[str]) -> None:
        now = self._clock.now()
        for entry in entries:
            await self._store.change([
                (_EMPTY_ENTRY, (b"", now, entry)),
                ("DELETE FROM quarantine_keys WHERE entry_id = ?", (entry,)),
            ])  # fmt: skip

    async def _finish(self, jobs: Sequence[Job]) -> None:
        """Have the store wipe the traces, and write the receipts."""
        traces = await self._store.wipe([job.aggregate_id for job in jobs])
        settled = [job for job in jobs if job.state != PENDING]
        for job in settled:
            await self._store.change([(_FORGET_TOKENS, (job.id,))])
        if settled:
            await self._store.wipe_notes()
        now = self._clock.now()
        for job in jobs:
            first = job.state == PENDING
            if first:
                job.receipt["traces"] = {**traces, **BESIDE}
            job.receipt["at" if first else "confirmedAt"] = now
            await self._store.change([
                (
                    _UPDATE,
                    (
                        SETTLING if first else DONE,
                        now + SECOND_LOOK,
                        msgspec.json.encode(job.tokens if first else []).decode(),
                        msgspec.json.encode(job.receipt),
                        job.id,
                    ),
                )
            ])  # fmt: skip


def _naming(
    bodies: Mapping[str, bytes], sought: Sequence[Sought], token: Callable[[str], str]
) -> dict[str, set[str]]:
    found = {entry: names_any(body, sought, token) for entry, body in bodies.items()}
    return {entry: about for entry, about in found.items() if about}


async def _is_left(transaction: EventTransaction, current: Aggregate) -> bool:
    """Whether an aggregate had consents, and all of them are erased."""
    consents = await _consents(transaction, current)
    return bool(consents) and await transaction.erased(consents) == consents


async def _is_nobodys(transaction: EventTransaction, current: Aggregate) -> bool:
    """Whether an aggregate never had a consent that is known, or all of them are erased."""
    if not await _consents(transaction, current):
        return True
    return await _is_left(transaction, current)


async def _consents(transaction: EventTransaction, current: Aggregate) -> set[AggregateKey]:
    """The consents of a link; those that a product request was ordered for, or of its link."""
    app = current.key.partner_app_id
    match current.state:
        case LinkState():
            return {AggregateKey(AggregateKind.CONSENT, app, one) for one in current.state.consents}
        case ProductRequestState(order=OrderFact() as order):
            link = await transaction.peek(AggregateKey(AggregateKind.LINK, app, order.link_id))
            known = link if isinstance(link, LinkState) else None
            return consents_behind(order, current.key, known)
        case _:
            return set()
