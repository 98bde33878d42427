r"""The life cycle of a consent: sort its events, then fold them (domain.md, "Consent life cycle").

| current \ next | authorised | error | rejected, expired, revoked | deleted_by_user |
|---|---|---|---|---|
| none | AUTHORISED | ERROR | that status | DELETED_BY_USER |
| AUTHORISED | AUTHORISED | ERROR, conflict | that status | DELETED_BY_USER |
| ERROR | AUTHORISED | stay | that status | DELETED_BY_USER |
| REJECTED, EXPIRED, REVOKED | AUTHORISED, conflict | stay, conflict | stay | DELETED_BY_USER |
| DELETED_BY_USER | stay, conflict | stay | stay | stay |
"""

from collections.abc import Iterable
from enum import StrEnum
from types import MappingProxyType

from msgspec import Struct
from msgspec.structs import replace

from shared.domain.keys import Position


class ConsentStatus(StrEnum):
    """Statuses that an event can lead to; the provider announces no others."""

    AUTHORISED = "AUTHORISED"
    ERROR = "ERROR"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    REVOKED = "REVOKED"
    DELETED_BY_USER = "DELETED_BY_USER"


RANK = MappingProxyType({status: rank for rank, status in enumerate(ConsentStatus)})
"""Order of events of the same time: the graver change last."""

_A, _E = ConsentStatus.AUTHORISED, ConsentStatus.ERROR
_R, _X, _V = ConsentStatus.REJECTED, ConsentStatus.EXPIRED, ConsentStatus.REVOKED
_D = ConsentStatus.DELETED_BY_USER


class Move(Struct, frozen=True):
    """What an event does to a consent: the status it leads to, and whether that is a conflict."""

    to: ConsentStatus
    conflict: bool = False


def _table() -> dict[tuple[ConsentStatus | None, ConsentStatus], Move]:
    moves: dict[tuple[ConsentStatus | None, ConsentStatus], Move] = {}
    for change in ConsentStatus:
        moves[None, change] = Move(change)
        moves[_A, change] = Move(change, conflict=change is _E)
        moves[_E, change] = Move(change)
        for ended in (_R, _X, _V):
            moves[ended, change] = Move(ended)
        moves[_D, change] = Move(_D, conflict=change is _A)
    for ended in (_R, _X, _V):
        moves[ended, _A] = Move(_A, conflict=True)
        moves[ended, _E] = Move(ended, conflict=True)
        moves[ended, _D] = Move(_D)
    return moves


TRANSITIONS = MappingProxyType(_table())
"""(current status or None, status announced) → Move: the table above, cell by cell."""


class ConsentFact(Struct, frozen=True, tag="consent", omit_defaults=True):
    """What one event says of one consent. An empty field says nothing."""

    change: ConsentStatus
    link_id: str = ""
    institution_code: str = ""
    external_track_id: str = ""
    permissions_apply: tuple[str, ...] | None = None
    permissions_granted: tuple[str, ...] = ()
    expire_at: str | None = None


class ConsentState(Struct, frozen=True, tag="consent", omit_defaults=True):
    """A consent as the fold of its events.

    Attributes:
        conflicts: contents of the events that raised a conflict, in order.
        cleared: contents of those that an operator has cleared since.
        last: position of the latest event folded.
        erased_at: when an operator erased it, in Unix milliseconds; None if nobody did. It counts
            as a deletion at that time.
    """

    status: ConsentStatus | None = None
    link_id: str = ""
    institution_code: str = ""
    external_track_id: str = ""
    permissions_apply: tuple[str, ...] = ()
    permissions_granted: tuple[str, ...] = ()
    expire_at: str | None = None
    conflicts: tuple[str, ...] = ()
    cleared: tuple[str, ...] = ()
    last: Position | None = None
    erased_at: int | None = None

    @property
    def erased(self) -> bool:
        """Whether nothing personal may be kept of it."""
        return self.status is _D

    @property
    def conflict(self) -> bool:
        """Whether a conflict stands that no operator has cleared."""
        return bool(set(self.conflicts) - set(self.cleared))


def position_rank(fact: ConsentFact) -> int:
    """The rank that the position of this fact's event carries."""
    return RANK[fact.change]


def step(state: ConsentState, at: Position, fact: ConsentFact) -> ConsentState:
    """Fold one event that stands after all that `state` has folded.

    Once deleted, always deleted: so what is personal ends empty in whatever order events come.
    """
    move = TRANSITIONS[state.status, fact.change]
    granted = move.to is _A and fact.change is _A
    conflicts = (*state.conflicts, at.content) if move.conflict else state.conflicts
    if move.to is _D:
        return replace(
            bare(state),
            status=_D,
            link_id=fact.link_id or state.link_id,
            conflicts=conflicts,
            last=at,
        )
    return replace(
        state,
        status=move.to,
        link_id=fact.link_id or state.link_id,
        institution_code=fact.institution_code or state.institution_code,
        external_track_id=fact.external_track_id or state.external_track_id,
        permissions_apply=(
            state.permissions_apply if fact.permissions_apply is None else fact.permissions_apply
        ),
        permissions_granted=fact.permissions_granted if granted else state.permissions_granted,
        expire_at=fact.expire_at if granted else state.expire_at,
        conflicts=conflicts,
        last=at,
    )


def bare(state: ConsentState) -> ConsentState:
    """The state without anything personal."""
    return replace(
        state,
        institution_code="",
        external_track_id="",
        permissions_apply=(),
        permissions_granted=(),
        expire_at=None,
    )


def fold(
    history: Iterable[tuple[Position, ConsentFact]],
    *,
    cleared: tuple[str, ...] = (),
    erased_at: int | None = None,
) -> ConsentState:
    """Fold a whole history, in whatever order it comes.

    Args:
        history: what the events say.
        cleared: the conflicts that operators cleared.
        erased_at: when an operator erased the consent, in Unix milliseconds.
    """
    entries = list(history)
    if erased_at is not None:
        entries.append((Position(erased_at, RANK[_D], "", ""), ConsentFact(_D)))
    state = ConsentState(cleared=cleared, erased_at=erased_at)
    for at, fact in sorted(entries, key=lambda entry: entry[0]):
        state = step(state, at, fact)
    return state
