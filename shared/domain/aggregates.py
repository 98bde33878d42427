"""The three aggregates behind one face: what the pipeline needs without asking which it has."""

from collections.abc import Iterable
from typing import assert_never, cast

import msgspec
from msgspec.structs import replace

from shared.domain import consent, link, product_request
from shared.domain.consent import ConsentFact, ConsentState
from shared.domain.keys import AggregateKind, Position
from shared.domain.link import LinkFact, LinkState
from shared.domain.product_request import OrderFact, OutcomeFact, ProductRequestState, ProductStatus

State = ConsentState | LinkState | ProductRequestState
Fact = ConsentFact | LinkFact | OrderFact | OutcomeFact

_encoder = msgspec.json.Encoder()
_states: msgspec.json.Decoder[State] = msgspec.json.Decoder(State)
_facts: msgspec.json.Decoder[Fact] = msgspec.json.Decoder(Fact)


def encode(document: State | Fact) -> bytes:
    """The document form in which states and facts rest in the store."""
    return _encoder.encode(document)


def decode_state(document: bytes) -> State:
    """The inverse of `encode` for a state."""
    return _states.decode(document)


def decode_fact(document: bytes) -> Fact:
    """The inverse of `encode` for a fact."""
    return _facts.decode(document)


def initial(kind: str) -> State:
    """The state before any event."""
    match AggregateKind(kind):
        case AggregateKind.CONSENT:
            return ConsentState()
        case AggregateKind.LINK:
            return LinkState()
        case AggregateKind.PRODUCT_REQUEST:
            return ProductRequestState()


def status_of(state: State) -> str:
    """The status as the interfaces show it."""
    return str(state.status or "")


def link_of(state: State) -> str:
    """The link that this aggregate belongs to; empty for a link, or while unknown."""
    match state:
        case ConsentState():
            return state.link_id
        case ProductRequestState():
            return state.order.link_id if state.order else ""
        case LinkState():
            return ""
        case _ as never:
            assert_never(never)


def rank_of(fact: Fact) -> int:
    """What breaks a tie of event times; only consents have grave and less grave changes."""
    return consent.position_rank(fact) if isinstance(fact, ConsentFact) else 0


def comes_late(state: State, at: Position) -> bool:
    """Whether an event sorts before one that `state` has folded already."""
    return state.last is not None and at < state.last


def needs_history(state: State, at: Position) -> bool:
    """Whether folding this event needs the aggregate's history: only a late one of a consent."""
    return isinstance(state, ConsentState) and comes_late(state, at)


def step(state: State, at: Position, fact: Fact) -> State:
    """Fold one event that does not need the history."""
    match state, fact:
        case ConsentState(), ConsentFact():
            return consent.step(state, at, fact)
        case LinkState(), LinkFact():
            return link.step(state, at, fact)
        case ProductRequestState(), (OrderFact() | OutcomeFact()):
            return product_request.step(state, at, fact)
        case _:
            raise TypeError(f"a {type(fact).__name__} says nothing of a {type(state).__name__}")


def refold(state: State, history: Iterable[tuple[Position, Fact]]) -> State:
    """Fold a whole history anew, keeping of `state` only what no event says.

    What no event says: the conflicts that an operator cleared, that a quiet period passed, and
    that it was erased without an event that asked for it.
    """
    match state:
        case ConsentState():
            entries = cast("Iterable[tuple[Position, ConsentFact]]", history)
            return consent.fold(entries, cleared=state.cleared, erased_at=state.erased_at)
        case LinkState():
            links = cast("Iterable[tuple[Position, LinkFact]]", history)
            return link.fold(links, erased=state.erased)
        case ProductRequestState():
            outcomes = cast("Iterable[tuple[Position, OrderFact | OutcomeFact]]", history)
            return product_request.fold(outcomes, settled=state.settled, erased=state.erased)
        case _ as never:
            assert_never(never)


def is_erased(state: State) -> bool:
    """Whether nothing personal may be kept of it."""
    return state.erased


def erase(state: State, history: Iterable[tuple[Position, Fact]], *, at: int) -> State:
    """What becomes of an aggregate that is erased without an event that asks for it.

    A consent counts as deleted at `at`, in Unix milliseconds; nothing else changes its status.
    """
    match state:
        case ConsentState():
            return state if state.erased else refold(replace(state, erased_at=at), history)
        case LinkState():
            return replace(state, erased=True)
        case ProductRequestState():
            return product_request.erase(state)
        case _ as never:
            assert_never(never)


def bare_fact(fact: Fact) -> Fact:
    """The fact without anything personal."""
    match fact:
        case ConsentFact():
            return ConsentFact(fact.change, fact.link_id)
        case LinkFact():
            return fact
        case _:
            return product_request.bare_fact(fact)


def changed(before: State, after: State) -> bool:
    """Whether an event counts as applied: status, permissions, expiry, order or outcome moved."""
    match before, after:
        case ConsentState(), ConsentState():
            return (
                before.status is not after.status
                or before.permissions_granted != after.permissions_granted
                or before.expire_at != after.expire_at
            )
        case LinkState(), LinkState():
            return before.created is not after.created
        case ProductRequestState(), ProductRequestState():
            return (
                before.order != after.order
                or _product_statuses(before) != _product_statuses(after)
                or before.status is not after.status
            )
        case _:
            raise TypeError("an aggregate does not change its kind")


def _product_statuses(state: ProductRequestState) -> dict[str, ProductStatus]:
    """What was said of each product; of those listed that nothing was said of, the order tells."""
    return {name: outcome.status for name, outcome in state.outcomes.items()}
