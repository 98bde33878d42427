"""One batch, one transaction: lock, find, fold, write.

Where the store runs several transactions at once, a batch is parted into some that have nothing to
do with each other: while one waits for the database, the other is folded.

A batch that the store refuses for its content is split until the culprit stands alone, which
then goes to the quarantine. An unreachable store is nobody's fault and is raised; so is a store
in which other writers keep getting in between, for `CONFLICT_PATIENCE`.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from msgspec import Struct
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random

from shared import tracing
from shared.clock import Clock
from shared.config import Config
from shared.domain.events import Event, Reason
from shared.domain.keys import AggregateKey
from shared.domain.product_request import ProductRequestState, settle
from shared.errors import STORE_AWAY, StoreConflictError
from shared.fanout import Subscriptions
from shared.logs import LineWriter, get_logger
from shared.store.port import EventStore, EventTransaction
from shared.store.rows import Aggregate, Changes, FoldedEntry, NewEvent
from worker.events import fold, metrics
from worker.events.arrivals import Arrival, Decoded, decode_all

log = get_logger(__name__)

LINE = ("event_id", "type", "label", "reason", "source", "batch_id", "trace_id", "seconds")
lines = LineWriter(__name__, "event.stored", LINE)

QUARANTINED = "quarantined"
DUPLICATE = "duplicate"
MAX_CONFLICTS = 50
"""Times that one transaction is run before its batch is split, or its event has to wait."""

CONFLICT_PATIENCE = 60_000
"""Milliseconds for which one event may meet with nothing but conflicts.

One that still does has a fault that the store reports as a conflict: it is set aside in
quarantine, for else it would hold up all events after it.
"""


class Written(Struct, frozen=True):
    """What one transaction did.

    Attributes:
        repeated: the arrivals that the store held already.
        folding: seconds spent folding.
        milliseconds: that it took as a whole.
    """

    changes: Changes
    repeated: Sequence[Decoded]
    folding: float
    milliseconds: int


class Prepared(Struct):
    """Arrivals, decoded.

    Attributes:
        left: the parts of them that are still to be applied.
    """

    left: Sequence[Sequence[Decoded]]


class Applier:
    """Applies batches of arrivals to a store."""

    meanwhile: Callable[[], None]
    """Called when all of a transaction is written and only its commit is waited for."""

    def __init__(self, store: EventStore, config: Config, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.meanwhile = lambda: None
        self._clashing: dict[int, tuple[Arrival, int]] = {}
        self._future_tolerance = int(config.events.future_tolerance * 1000)
        self._subscriptions = Subscriptions(config.endpoint)
        self._applications: Mapping[str, Sequence[str]] = {
            source.name: source.partner_app_ids for source in config.source
        }
        for name in (*self._applications, metrics.OTHER):
            for reason in Reason:  # at zero: an increase from nothing is none to an alert
                metrics.QUARANTINED.labels(name, reason.value)

    def prepare(self, arrivals: Sequence[Arrival]) -> Prepared:
        """Do what of the work needs no store, in time that would go by waiting for it."""
        batch = decode_all(
            arrivals,
            now=self._clock.now(),
            future_tolerance=self._future_tolerance,
            applications=self._applications,
            digest_key=self._store.sealing.content_key,
        )
        return Prepared(fold.apart(batch, self._store.parallel))

    async def apply(self, arrivals: Sequence[Arrival]) -> None:
        """Prepare arrivals and work them off; see `work_off`."""
        await self.work_off(self.prepare(arrivals))

    async def work_off(self, prepared: Prepared) -> None:
        """Apply what is left durably, each exactly once; some may be repetitions of earlier ones.

        Raises:
            StoreUnavailableError: not all was applied; call it again for what is left.
            StoreConflictError: likewise.
        """
        parts = prepared.left
        ended = await asyncio.gather(*map(self._apply_part, parts), return_exceptions=True)
        faults = [one for one in ended if one is not None]
        prepared.left = [part for part, one in zip(parts, ended, strict=True) if one is not None]
        if faults:
            raise faults[0]
        self._clashing.clear()

    async def _apply_part(self, batch: Sequence[Decoded]) -> None:
        try:
            written = await self._apply_together(batch)
        except STORE_AWAY:
            raise
        except Exception as error:
            if isinstance(error, StoreConflictError) and self._may_wait(batch):
                raise
            log.warning("events.refused", count=len(batch), error_type=type(error).__name__)
            if len(batch) == 1:
                arrival = batch[0].arrival
                await self._quarantine(arrival, Reason.REFUSED_BY_STORE, type(error).__name__)
                return
            metrics.SPLITS.inc()
            middle = len(batch) // 2
            await self._apply_part(batch[:middle])
            await self._apply_part(batch[middle:])
        else:
            self._account(batch, written)

    def _may_wait(self, batch: Sequence[Decoded]) -> bool:
        """Whether what met with conflicts alone may be tried again later, as it is."""
        if len(batch) > 1:
            return False
        now, arrival = self._clock.now(), batch[0].arrival
        _, since = self._clashing.setdefault(id(arrival), (arrival, now))
        return now - since < CONFLICT_PATIENCE

    async def quarantine_dead(self, arrivals: Sequence[Arrival]) -> None:
        """Put what the broker dead-lettered into the quarantine."""
        for arrival in arrivals:
            await self._quarantine(arrival, Reason.DEAD_LETTERED, "returned too often")

    async def settle(self, key: AggregateKey) -> None:
        """Settle a product request over which the quiet period has passed."""
        async for attempt in _until_no_conflict():
            with attempt:
                async with self._store.transaction() as transaction:
                    loaded = await transaction.lock_aggregates([key])
                    state = loaded[key].state
                    if not isinstance(state, ProductRequestState) or not state.settles:
                        return
                    folder = self._folder(loaded, histories={})
                    await transaction.write(folder.change(key, settle(state)))

    async def _apply_together(self, batch: Sequence[Decoded]) -> Written:
        started = time.perf_counter()
        async for attempt in _until_no_conflict():
            with attempt:
                written = await self._commit(batch)
        metrics.FOLD_SECONDS.observe(written.folding)
        metrics.COMMIT_SECONDS.observe(time.perf_counter() - started)
        return written

    async def _commit(self, batch: Sequence[Decoded]) -> Written:
        """Lock, find, fold, write.

        Locking comes first: whoever waited for a lock then sees what its former holder stored.
        """
        began = time.perf_counter()
        async with self._store.transaction() as transaction:
            keys = fold.keys(batch)
            loaded = await transaction.lock_aggregates(keys) if keys else {}
            known = await transaction.find_events(fold.refs(batch)) if keys else {}
            numbers = await transaction.reserve(len(batch)) if keys else []
            sifted = fold.sift(batch, known=known, numbers=numbers)
            late = fold.late_aggregates(sifted.fresh, loaded)
            histories = await transaction.histories(late) if late else {}
            ordered = fold.ordered_consents(sifted.fresh, loaded)
            erased = await transaction.erased(ordered) if ordered else set()
            started = time.perf_counter()
            changes = self._folder(loaded, histories=histories, erased=erased).fold(sifted)
            folding = time.perf_counter() - started
            if changes.quarantined:
                await _empty_erased(transaction, changes)
            await transaction.write(changes)
            asyncio.get_running_loop().call_soon(self.meanwhile)
        took = round((time.perf_counter() - began) * 1000)
        return Written(changes, sifted.repeated, folding, took)

    def _folder(
        self,
        loaded: Mapping[AggregateKey, Aggregate],
        *,
        histories: Mapping[int, Sequence[FoldedEntry]],
        erased: Collection[AggregateKey] = (),
    ) -> fold.Folder:
        return fold.Folder(
            loaded,
            histories=histories,
            subscriptions=self._subscriptions,
            now=self._clock.now(),
            digest_key=self._store.sealing.content_key,
            erased=erased,
        )

    async def _quarantine(self, arrival: Arrival, reason: Reason, detail: str) -> None:
        key = self._store.sealing.content_key
        entry = fold.quarantined(arrival, reason=reason, detail=detail, digest_key=key)
        async for attempt in _until_no_conflict():
            with attempt:
                async with self._store.transaction() as transaction:
                    changes = Changes(quarantined=[entry])
                    await _empty_erased(transaction, changes)
                    await transaction.write(changes)
        metrics.QUARANTINED.labels(self._named(arrival.source), reason.value).inc()
        log.warning(
            "event.quarantined",
            source=arrival.source,
            batch_id=arrival.batch_id,
            reason=reason.value,
        )

    def _account(self, batch: Sequence[Decoded], written: Written) -> None:
        """Count, and write the batch's one line and one of each event, after the commit."""
        now, changes = self._clock.now(), written.changes
        labelled = Counter((event.source, event.label.value) for event in changes.events)
        labelled.update((entry.source, QUARANTINED) for entry in changes.quarantined)
        repeated = sum(changes.duplicates.values())
        if repeated:
            labelled[batch[0].arrival.source, DUPLICATE] = repeated
        tally: Counter[str] = Counter()
        for (source, label), count in labelled.items():
            tally[label] += count
            metrics.EVENTS.labels(self._named(source), label).inc(count)
        for event in changes.events:
            metrics.LAG_SECONDS.observe(max(0, now - event.received_at) / 1000)
        formed = Counter((event.source, event.tax_form) for event in changes.events)
        for (source, form), count in formed.items():
            if form:
                metrics.TAX_IDS.labels(self._named(source), form).inc(count)
        for entry in changes.quarantined:
            metrics.QUARANTINED.labels(self._named(entry.source), entry.reason).inc()
        for kind, count in Counter(one.type for one in changes.transitions).items():
            metrics.NOTICES.labels(kind).inc(count)
        metrics.BATCH_SIZE.observe(len(batch))
        log.info("events.applied", count=len(batch), **tally)
        lines.write(_lines(written, now=now))
        for event in filter(_is_sampled, changes.events):
            tracing.record(tracing.Span(
                "store event",
                kind="consumer",
                traceparent=event.traceparent,
                began=now - written.milliseconds,
                ended=now,
                attributes={
                    "event_id": event.ref.event_id, "type": event.name,
                    "label": event.label.value, "source": event.source,
                    "batch_id": event.batch_id,
                },
            ))  # fmt: skip

    def _named(self, source: str) -> str:
        """How the figures call a source."""
        known = self._applications
        return source if source in known or not known else metrics.OTHER


async def _empty_erased(transaction: EventTransaction, changes: Changes) -> None:
    """Keep nothing of what goes into quarantine and names what was erased but that it came."""
    named = [fold.named(one) for one in changes.quarantined]
    names = set().union(*named)
    gone = await transaction.tombstones(names) if names else set()
    if gone:
        changes.quarantined = [
            fold.emptied(one) if gone & mine else one
            for one, mine in zip(changes.quarantined, named, strict=True)
        ]


def _lines(written: Written, *, now: int) -> Iterator[tuple[object, ...]]:
    """What is told of each event, in the order of `LINE`."""
    for event in written.changes.events:
        yield (
            event.ref.event_id, event.name, event.label.value, None, event.source, event.batch_id,
            tracing.trace_id(event.traceparent), _age(event.received_at, now),
        )  # fmt: skip
    for one in written.repeated:
        arrival, event_id, name = one.arrival, None, None
        if isinstance(one.content, Event):
            event_id, name = one.content.event_id, one.content.name
        yield (
            event_id, name, DUPLICATE, None, arrival.source, arrival.batch_id,
            tracing.trace_id(arrival.traceparent), _age(arrival.received_at, now),
        )  # fmt: skip
    for entry in written.changes.quarantined:
        yield (
            None, None, QUARANTINED, entry.reason, entry.source, entry.batch_id,
            tracing.trace_id(entry.traceparent), _age(entry.received_at, now),
        )  # fmt: skip


def _is_sampled(event: NewEvent) -> bool:
    return tracing.is_sampled(event.traceparent)


def _age(received_at: int, now: int) -> float:
    return max(0, now - received_at) / 1000


def _until_no_conflict() -> AsyncRetrying:
    """Run a transaction again when other writers got in between, `MAX_CONFLICTS` times at most."""
    return AsyncRetrying(
        stop=stop_after_attempt(MAX_CONFLICTS),
        retry=retry_if_exception_type(StoreConflictError),
        wait=wait_random(0.001, 0.02),
        after=lambda _state: metrics.CONFLICTS.inc(),
        reraise=True,
    )
