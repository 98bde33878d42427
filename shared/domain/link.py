"""A link: one end user's session, created by its own event or by the first that names it."""

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from shared.domain.keys import Position


class LinkStatus(StrEnum):
    """Whether the link's own event has been seen."""

    PLACEHOLDER = "PLACEHOLDER"
    CREATED = "CREATED"


class LinkFact(Struct, frozen=True, tag="link", omit_defaults=True):
    """What one event says of one link: that it was created, or that consents belong to it."""

    created: bool = False
    consents: tuple[str, ...] = ()


class LinkState(Struct, frozen=True, tag="link", omit_defaults=True):
    """A link as the fold of its events; `consents` is sorted, so no order of arrival shows.

    Nothing of it is personal; `erased` says that nothing else may be kept of its own events.
    """

    created: bool = False
    consents: tuple[str, ...] = ()
    last: Position | None = None
    erased: bool = False

    @property
    def status(self) -> LinkStatus:
        """CREATED once the link's own event is known."""
        return LinkStatus.CREATED if self.created else LinkStatus.PLACEHOLDER


def step(state: LinkState, at: Position, fact: LinkFact) -> LinkState:
    """Fold one event; the order of folding does not matter."""
    return replace(
        state,
        created=state.created or fact.created,
        consents=tuple(sorted({*state.consents, *fact.consents})),
        last=at if state.last is None else max(state.last, at),
    )


def fold(history: Iterable[tuple[Position, LinkFact]], *, erased: bool = False) -> LinkState:
    """Fold a whole history, in whatever order it comes; `erased` is the eraser's part."""
    state = LinkState(erased=erased)
    for at, fact in history:
        state = step(state, at, fact)
    return state
