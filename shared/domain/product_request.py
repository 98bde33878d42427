"""A product request: an order for reports and what became of each (domain.md).

Successes and failures of a product are sets that only grow, so the state is free of order;
only the order itself, should the source announce it twice, is taken from the later event.
"""

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct, field
from msgspec.structs import replace

from shared.domain.keys import Position

ALL_PRODUCTS = "all"
ID_MAX = 256
"""Characters of an aggregate's id at most."""


class ProductStatus(StrEnum):
    """What is known of one product of a request."""

    PENDING = "PENDING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


class RequestStatus(StrEnum):
    """What is known of the whole request."""

    PLACEHOLDER = "PLACEHOLDER"
    PENDING = "PENDING"
    COMPLETE = "COMPLETE"
    SETTLED = "SETTLED"


class OrderFact(Struct, frozen=True, tag="order", omit_defaults=True):
    """The provider took the order."""

    link_id: str = ""
    institution_code: str = ""
    consent_ids: tuple[str, ...] = ()
    products: tuple[str, ...] = ()


class OutcomeFact(Struct, frozen=True, tag="outcome", omit_defaults=True):
    """One product was generated, or failed."""

    product: str
    succeeded: bool
    failure_reason: str = ""


class Outcome(Struct, frozen=True, omit_defaults=True):
    """All that was said of one product. `failed_at` is the position of the latest failure."""

    successes: int = 0
    failures: int = 0
    failure_reason: str | None = None
    failed_at: Position | None = None

    @property
    def status(self) -> ProductStatus:
        """One success outweighs any number of failures."""
        if self.successes:
            return ProductStatus.SUCCEEDED
        return ProductStatus.FAILED if self.failures else ProductStatus.PENDING


_UNHEARD = Outcome()


class ProductRequestState(Struct, frozen=True, tag="product_request", omit_defaults=True):
    """A product request as the fold of its events.

    Attributes:
        order: what the latest order event says; None for a placeholder.
        ordered_at: position of that event.
        outcomes: by product, for every product that any event spoke of.
        settled: the quiet period has passed over a request without a known list.
        last: position of the latest event folded.
        erased: nothing personal may be kept of it.
    """

    order: OrderFact | None = None
    ordered_at: Position | None = None
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    settled: bool = False
    last: Position | None = None
    erased: bool = False

    @property
    def listed(self) -> tuple[str, ...]:
        """The products ordered by name; empty where the list is not known."""
        if self.order is None or ALL_PRODUCTS in self.order.products:
            return ()
        return self.order.products

    @property
    def status(self) -> RequestStatus:
        """Derived from the order and the outcomes: whatever was spoken of is pending no more."""
        if self.order is None:
            return RequestStatus.PLACEHOLDER
        if listed := self.listed:
            done = self.outcomes.keys() >= set(listed)
            return RequestStatus.COMPLETE if done else RequestStatus.PENDING
        return RequestStatus.SETTLED if self.settled else RequestStatus.PENDING

    @property
    def settles(self) -> bool:
        """Whether a quiet period will settle it."""
        return self.status is RequestStatus.PENDING and not self.listed

    @property
    def products(self) -> dict[str, Outcome]:
        """Every product listed or spoken of, by name."""
        return {name: self.product(name) for name in sorted({*self.listed, *self.outcomes})}

    def product(self, name: str) -> Outcome:
        """What is known of one product."""
        return self.outcomes.get(name, _UNHEARD)


def step(
    state: ProductRequestState, at: Position, fact: OrderFact | OutcomeFact
) -> ProductRequestState:
    """Fold one event; the order of folding does not matter."""
    last = at if state.last is None else max(state.last, at)
    if state.erased:
        fact = bare_fact(fact)
    if isinstance(fact, OrderFact):
        if state.ordered_at is not None and at < state.ordered_at:
            return replace(state, last=last)
        return replace(state, order=fact, ordered_at=at, last=last)
    known = state.product(fact.product)
    if fact.succeeded:
        known = replace(known, successes=known.successes + 1)
    else:
        known = replace(known, failures=known.failures + 1)
        if known.failed_at is None or at > known.failed_at:
            known = replace(known, failure_reason=fact.failure_reason, failed_at=at)
    return replace(state, outcomes={**state.outcomes, fact.product: known}, last=last)


def settle(state: ProductRequestState) -> ProductRequestState:
    """The quiet period has passed."""
    return replace(state, settled=True) if state.settles else state


def bare(state: ProductRequestState) -> ProductRequestState:
    """The state without anything personal."""
    order = replace(state.order, institution_code="") if state.order else None
    outcomes = {
        name: replace(one, failure_reason="") if one.failure_reason else one
        for name, one in state.outcomes.items()
    }
    return replace(state, order=order, outcomes=outcomes)


def bare_fact(fact: OrderFact | OutcomeFact) -> OrderFact | OutcomeFact:
    """The fact without anything personal."""
    if isinstance(fact, OrderFact):
        return replace(fact, institution_code="")
    return replace(fact, failure_reason="")


def consents_named(order: OrderFact) -> tuple[str, ...]:
    """What an order names as consents, without what can be no consent's id."""
    named = dict.fromkeys(order.consent_ids)
    return tuple(one for one in named if 0 < len(one) <= ID_MAX and "\0" not in one)


def erase(state: ProductRequestState) -> ProductRequestState:
    """Nothing personal may be kept of it from now on."""
    return replace(bare(state), erased=True)


def fold(
    history: Iterable[tuple[Position, OrderFact | OutcomeFact]],
    *,
    settled: bool = False,
    erased: bool = False,
) -> ProductRequestState:
    """Fold a whole history, in whatever order it comes.

    `settled` is time's part and `erased` the eraser's.
    """
    state = ProductRequestState(settled=settled, erased=erased)
    for at, fact in history:
        state = step(state, at, fact)
    return state
