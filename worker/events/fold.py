"""Folding a batch in memory: from decoded arrivals and what the store knows to what to write.

Nothing here waits or writes: the pipeline loads, this folds, the pipeline commits.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence

import orjson
from msgspec import Struct
from msgspec.structs import replace

from shared.domain import aggregates, product_request
from shared.domain.aggregates import Fact, State, is_erased
from shared.domain.events import Event, Unreadable, content_digest
from shared.domain.keys import AggregateKey, AggregateKind, Position
from shared.domain.link import LinkState
from shared.domain.product_request import OrderFact, ProductRequestState, consents_named
from shared.erasing import consents_behind, strip
from shared.fanout import Announcer, Subscriptions
from shared.ids import new_id
from shared.store.rows import (
    Aggregate,
    Changes,
    EventRef,
    FoldedEntry,
    HistoryEntry,
    KnownEvent,
    Label,
    NewEvent,
    NewQuarantined,
    Why,
)
from worker.events.arrivals import Arrival, Decoded

SMALL = 50
"""Events that are not worth a second transaction."""

_NAMING = frozenset({"consentId", "consentIds", "linkId", "requestId"})


class Fresh(Struct, frozen=True):
    """An event that the store does not hold yet, with the number it will be stored under."""

    seq: int
    variant: int
    arrival: Arrival
    event: Event

    @property
    def order(self) -> Position:
        """Folding a batch in this order spares most of its late events."""
        return self.event.position(self.event.facts[0][1])


class Sifted(Struct, frozen=True):
    """A batch told apart: what is new, what came again, what cannot be read."""

    fresh: list[Fresh]
    duplicates: dict[int, int]
    repeated: list[Decoded]
    unreadable: list[Decoded]
    replayed: list[str]


def refs(batch: Iterable[Decoded]) -> set[EventRef]:
    """What the source calls the readable events of a batch."""
    return {_ref(one.content) for one in batch if isinstance(one.content, Event)}


def keys(batch: Iterable[Decoded]) -> set[AggregateKey]:
    """Every aggregate that the readable events of a batch speak of."""
    return {key for one in batch if isinstance(one.content, Event) for key, _ in one.content.facts}


def sift(
    batch: Iterable[Decoded],
    *,
    known: Mapping[EventRef, Sequence[KnownEvent]],
    numbers: Sequence[int],
) -> Sifted:
    """Tell new events from repeated ones, within the batch and against the store.

    Args:
        batch: in the order of arrival.
        known: what the store holds under the batch's references.
        numbers: fresh event numbers, at least as many as the batch has events.
    """
    stored = {ref: list(found) for ref, found in known.items()}
    number = iter(numbers)
    sifted = Sifted([], {}, [], [], [])
    for one in batch:
        if isinstance(one.content, Unreadable):
            sifted.unreadable.append(one)
            continue
        if one.arrival.quarantine_id:
            sifted.replayed.append(one.arrival.quarantine_id)
        variants = stored.setdefault(_ref(one.content), [])
        same = _same(variants, one.content.content)
        if variants and same is None:  # one that a former release stored, without a key
            same = _same(variants, content_digest(one.arrival.body))
        if same is not None:
            sifted.duplicates[same.seq] = sifted.duplicates.get(same.seq, 0) + 1
            sifted.repeated.append(one)
            continue
        fresh = Fresh(next(number), len(variants), one.arrival, one.content)
        variants.append(KnownEvent(fresh.seq, fresh.variant, one.content.content))
        sifted.fresh.append(fresh)
    return sifted


def _same(variants: Iterable[KnownEvent], content: str) -> KnownEvent | None:
    return next((one for one in variants if one.content == content), None)


def apart(batch: Sequence[Decoded], parts: int) -> list[list[Decoded]]:
    """Share a batch out among that many parts that have nothing to do with each other.

    What speaks of the same aggregate, or is called the same by the source, stays together and in
    order. Parts come out about equally large, and small batches whole.
    """
    if parts < 2 or len(batch) < SMALL:  # noqa: PLR2004 - one part is no sharing
        return [list(batch)]
    together = Together()
    groups = [together.group(_ties(one.content)) for one in batch]
    sizes = Counter(map(together.root, groups))
    shares: list[list[Decoded]] = [[] for _ in range(parts)]
    loads = [0] * parts
    share_of: dict[int, list[Decoded]] = {}
    for root, size in sizes.most_common():
        least = loads.index(min(loads))
        loads[least] += size
        share_of[root] = shares[least]
    for one, group in zip(batch, groups, strict=True):
        share_of[together.root(group)].append(one)
    return [one for one in shares if one]


def _ties(content: Event | Unreadable) -> list[Hashable]:
    """What an event has in common with others that must be applied with it, in order."""
    if isinstance(content, Unreadable):
        return [Unreadable]
    ties: list[Hashable] = [(content.partner_app_id, content.event_id)]
    for key, fact in content.facts:
        ties.append(key)
        if isinstance(fact, OrderFact) and fact.consent_ids:
            ties += (_consent(key, one) for one in consents_named(fact))
    return ties


class Together:
    """Tells which things belong together, directly or over others."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._groups: dict[Hashable, int] = {}

    def group(self, ties: Iterable[Hashable]) -> int:
        """The group of something with these ties; groups that share a tie become one."""
        mine = len(self._parents)
        self._parents.append(mine)
        for tie in ties:
            known = self._groups.setdefault(tie, mine)
            if known != mine:
                self._parents[self.root(known)] = mine = self.root(mine)
        return mine

    def root(self, group: int) -> int:
        """What all groups that became one have in common."""
        parents = self._parents
        while (parent := parents[group]) != group:
            parents[group] = parents[parent]
            group = parent
        return group


def ordered_consents(
    fresh: Iterable[Fresh], loaded: Mapping[AggregateKey, Aggregate]
) -> set[AggregateKey]:
    """The consents that the orders of a batch are for, as far as is known before it is folded."""
    return {
        consent
        for event in fresh
        for key, fact in event.event.facts
        if isinstance(fact, OrderFact)
        for consent in consents_behind(fact, key, _link_of(fact, key, loaded))
    }


def _link_of(
    order: OrderFact, key: AggregateKey, known: Mapping[AggregateKey, Aggregate]
) -> LinkState | None:
    """The link that an order names, if it is among those known."""
    link = known.get(AggregateKey(AggregateKind.LINK, key.partner_app_id, order.link_id))
    return link.state if link is not None and isinstance(link.state, LinkState) else None


def late_aggregates(fresh: Iterable[Fresh], loaded: Mapping[AggregateKey, Aggregate]) -> set[int]:
    """Aggregates whose history must be read because an event comes late to them."""
    return {
        loaded[key].id
        for one in fresh
        for key, fact in one.event.facts
        if aggregates.needs_history(loaded[key].state, one.event.position(fact))
    }


class Folder:
    """Folds the events of one batch onto the aggregates that were loaded and locked for it."""

    def __init__(
        self,
        loaded: Mapping[AggregateKey, Aggregate],
        *,
        histories: Mapping[int, Sequence[FoldedEntry]],
        subscriptions: Subscriptions,
        now: int,
        digest_key: bytes = b"",
        erased: Collection[AggregateKey] = (),
    ) -> None:
        """`erased`: consents that are, among those that the batch's orders are for."""
        self._loaded = loaded
        self._digest_key = digest_key
        self._now = now
        self._erased = set(erased)
        self._current = dict(loaded)
        self._touched: dict[AggregateKey, None] = {}
        self._histories = {
            number: [(entry.at, entry.fact) for entry in entries]
            for number, entries in histories.items()
        }
        self._announcer = Announcer(subscriptions, now=now)
        self._changes = Changes(folded_at=now)

    def fold(self, sifted: Sifted) -> Changes:
        """Everything that this batch writes."""
        for one in sorted(sifted.fresh, key=lambda fresh: fresh.order):
            self._fold_event(one)
        self._changes.aggregates += [self._current[key] for key in self._touched]
        self._changes.duplicates = sifted.duplicates
        self._changes.replayed = sifted.replayed
        self._changes.quarantined += [
            quarantined(
                one.arrival,
                reason=one.content.reason,
                detail=one.content.detail,
                digest_key=self._digest_key,
            )
            for one in sifted.unreadable
            if isinstance(one.content, Unreadable)
        ]
        strip(self._changes, self._loaded, now=self._now, why=Why.EVENT)
        return self._changes

    def change(self, key: AggregateKey, after: State) -> Changes:
        """What a change that no event caused writes."""
        self._move(key, after, event_seq=None, traceparent="")
        self._changes.aggregates.append(self._current[key])
        return self._changes

    def _fold_event(self, one: Fresh) -> None:
        changed = late = False
        owned = [self._current[key] for key in one.event.owners]
        erased = all(is_erased(aggregate.state) for aggregate in owned)
        for key, fact in one.event.facts:
            at = one.event.position(fact)
            before = self._current[key].state
            after = self._next_state(key, at, fact)
            if isinstance(fact, OrderFact):
                after = self._ordered(key, fact, after)
            changed = changed or aggregates.changed(before, after)
            late = late or aggregates.comes_late(before, at)
            self._move(key, after, event_seq=one.seq, traceparent=one.arrival.traceparent)
            self._changes.history.append(HistoryEntry(self._current[key].id, one.seq, fact))
        label = Label.ERASED if erased else _label(one, changed=changed, late=late)
        owners = tuple(aggregate.id for aggregate in owned)
        self._changes.events.append(_new_event(one, label, owners))

    def _ordered(self, key: AggregateKey, fact: OrderFact, after: State) -> State:
        """Note for which consents it was ordered; it goes with the last of them."""
        number = self._current[key].id
        self._changes.ordered += [(number, one) for one in consents_named(fact)]
        if not isinstance(after, ProductRequestState):
            return after
        order = after.order
        return product_request.erase(after) if order and self._goes(key, order) else after

    def _goes(self, key: AggregateKey, order: OrderFact) -> bool:
        """Whether what an order is for is erased, all of it."""
        link = _link_of(order, key, self._current)
        consents = consents_behind(order, key, link)
        if not consents:
            return link is not None and is_erased(link)
        return all(
            one in self._erased or (one in self._current and is_erased(self._current[one].state))
            for one in consents
        )

    def _next_state(self, key: AggregateKey, at: Position, fact: Fact) -> State:
        current = self._current[key]
        history = self._histories.get(current.id)
        if history is not None:
            history.append((at, fact))
        if not aggregates.needs_history(current.state, at):
            return aggregates.step(current.state, at, fact)
        if history is None:  # the pipeline loads the history of every aggregate this can reach
            raise LookupError(f"no history was loaded for a late {key.kind} event")
        return aggregates.refold(current.state, history)

    def _move(
        self, key: AggregateKey, after: State, *, event_seq: int | None, traceparent: str
    ) -> None:
        self._current[key] = self._announcer.announce(
            self._current[key], after, self._changes, event_seq=event_seq, traceparent=traceparent
        )
        self._touched[key] = None


def named(entry: NewQuarantined) -> set[str]:
    """The ids that something unreadable names where an event would name them, if it is JSON."""
    found: set[str] = set()
    try:
        waiting = [orjson.loads(entry.body)]
    except ValueError:
        return found
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += one.values()
            for member in _NAMING & one.keys():
                value = one[member]
                found.update(v for v in (value if isinstance(value, list) else [value])
                             if isinstance(v, str) and "\0" not in v)  # fmt: skip
        elif isinstance(one, list):
            waiting += one
    return found


def emptied(entry: NewQuarantined) -> NewQuarantined:
    """An entry of which nothing but its coming is kept."""
    return replace(entry, body=b"")


def quarantined(arrival: Arrival, *, reason: str, detail: str, digest_key: bytes) -> NewQuarantined:
    """A quarantine entry for something that arrived and cannot be folded."""
    return NewQuarantined(
        id=new_id(),
        reason=reason,
        detail=detail,
        source=arrival.source,
        batch_id=arrival.batch_id,
        received_at=arrival.received_at,
        content=content_digest(arrival.body, digest_key),
        body=arrival.body,
        traceparent=arrival.traceparent,
        event_id=arrival.event_id,
    )


def _consent(ordering: AggregateKey, consent_id: str) -> AggregateKey:
    """A consent that an order of the same application names."""
    return AggregateKey(AggregateKind.CONSENT, ordering.partner_app_id, consent_id)


def _ref(event: Event) -> EventRef:
    return EventRef(event.partner_app_id, event.event_id)


def _label(one: Fresh, *, changed: bool, late: bool) -> Label:
    """What became of a new event (domain.md, "How one arriving event is labelled")."""
    if one.variant:
        return Label.DIVERGENT
    if changed:
        return Label.APPLIED
    return Label.STALE if late else Label.RECORDED


def _new_event(one: Fresh, label: Label, owners: tuple[int, ...]) -> NewEvent:
    return NewEvent(
        seq=one.seq,
        ref=_ref(one.event),
        variant=one.variant,
        content=one.event.content,
        type=one.event.type,
        name=one.event.name,
        time=one.event.time,
        label=label,
        source=one.arrival.source,
        batch_id=one.arrival.batch_id,
        received_at=one.arrival.received_at,
        body=one.arrival.body,
        traceparent=one.arrival.traceparent,
        owners=owners,
        tax_ids=one.event.tax_ids,
        tax_form=one.event.tax_form or "",
    )
