"""What is personal in states, facts and notices, told apart from what the folds need.

The personal part rests sealed, and is gone once its aggregate is erased. What stays in clear (ids,
statuses, times, products) folds to the same status without it, in any order.

| Document | Personal part |
|---|---|
| state and fact of a consent | institution, track id, permissions, expiry |
| state and fact of a product request | why a product failed |
| data of a notice | institution, track id, permissions, expiry |
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from shared.domain import consent, product_request
from shared.domain.aggregates import Fact, State, decode_fact, decode_state, encode
from shared.domain.consent import ConsentFact, ConsentState
from shared.domain.keys import AggregateKind
from shared.domain.product_request import OrderFact, OutcomeFact, ProductRequestState

MEMBERS = ("institutionCode", "externalTrackId", "permissionsApply", "permissionsGranted",
           "expireAt")  # fmt: skip
"""The personal members of a notice's data."""

INSTITUTION = "institutionCode"
"""Told in clear where nothing else is personal, as of a product request."""

BLANK: Mapping[str, bytes] = {
    AggregateKind.CONSENT: (
        b'{"institutionCode":null,"externalTrackId":null,"permissionsApply":[],'
        b'"permissionsGranted":[],"expireAt":null}'
    ),
    AggregateKind.PRODUCT_REQUEST: b'{"institutionCode":null}',
    AggregateKind.LINK: b"{}",
}
"""What stands in the place of the personal members once they are erased."""


class _Consent(Struct, frozen=True, array_like=True):
    """The personal part of a consent's state or fact."""

    institution_code: str
    external_track_id: str
    permissions_apply: tuple[str, ...] | None
    permissions_granted: tuple[str, ...]
    expire_at: str | None


class _Request(Struct, frozen=True, array_like=True):
    """The personal part of a product request's state; `reasons` is by product."""

    institution_code: str
    reasons: dict[str, str]


_NOTHING = _Consent("", "", (), (), None)
_SILENCE = _Consent("", "", None, (), None)
_consents = msgspec.json.Decoder(_Consent)
_requests = msgspec.json.Decoder(_Request)
_texts = msgspec.json.Decoder(str)
_data = msgspec.json.Decoder(dict[str, Any])
_encode = msgspec.json.Encoder().encode


def split_state(state: State) -> tuple[bytes, bytes]:
    """The document of a state without its personal part, and that part; empty if there is none."""
    match state:
        case ConsentState():
            part = _Consent(
                state.institution_code, state.external_track_id, state.permissions_apply,
                state.permissions_granted, state.expire_at,
            )  # fmt: skip
            if part == _NOTHING:
                return encode(state), b""
            return encode(consent.bare(state)), _encode(part)
        case ProductRequestState():
            reasons = {
                name: o.failure_reason for name, o in state.outcomes.items() if o.failure_reason
            }
            if not reasons:
                return encode(state), b""
            request = _Request(state.order.institution_code if state.order else "", reasons)
            return encode(product_request.bare(state)), _encode(request)
        case _:
            return encode(state), b""


def join_state(document: bytes, part: bytes) -> State:
    """The inverse of `split_state`; with an empty part, the state without what was personal."""
    state = decode_state(document)
    if not part:
        return state
    match state:
        case ConsentState():
            found = _consents.decode(part)
            return replace(
                state,
                institution_code=found.institution_code,
                external_track_id=found.external_track_id,
                permissions_apply=found.permissions_apply or (),
                permissions_granted=found.permissions_granted,
                expire_at=found.expire_at,
            )
        case ProductRequestState():
            request = _requests.decode(part)
            order, reasons = state.order, request.reasons
            return replace(
                state,
                order=order and replace(order, institution_code=request.institution_code),
                outcomes={
                    name: replace(one, failure_reason=reasons[name]) if name in reasons else one
                    for name, one in state.outcomes.items()
                },
            )
        case _:
            return state


def split_fact(fact: Fact) -> tuple[bytes, bytes]:
    """The document of a fact without its personal part, and that part; empty if there is none."""
    match fact:
        case ConsentFact():
            part = _Consent(
                fact.institution_code, fact.external_track_id, fact.permissions_apply,
                fact.permissions_granted, fact.expire_at,
            )  # fmt: skip
            if part == _SILENCE:
                return encode(fact), b""
            return encode(ConsentFact(fact.change, fact.link_id)), _encode(part)
        case OutcomeFact() if fact.failure_reason:
            return encode(product_request.bare_fact(fact)), _encode(fact.failure_reason)
        case _:
            return encode(fact), b""


def join_fact(document: bytes, part: bytes) -> Fact:
    """The inverse of `split_fact`; with an empty part, the fact without what was personal."""
    fact = decode_fact(document)
    if not part:
        return fact
    match fact:
        case ConsentFact():
            found = _consents.decode(part)
            return ConsentFact(
                fact.change,
                fact.link_id,
                found.institution_code,
                found.external_track_id,
                found.permissions_apply,
                found.permissions_granted,
                found.expire_at,
            )
        case OutcomeFact():
            return replace(fact, failure_reason=_texts.decode(part))
        case OrderFact():
            return replace(fact, institution_code=_texts.decode(part))
        case _:
            return fact


def split_data(data: dict[str, Any]) -> tuple[bytes, bytes]:
    """A notice's data in two JSON objects; the personal one is empty if nothing is personal."""
    if not any(data.get(name) for name in MEMBERS if name != INSTITUTION):
        return _encode(data), b""
    told = data.copy()
    part = {name: told.pop(name) for name in MEMBERS if name in told}
    return _encode(told), _encode(part)


def join_data(data: bytes, part: bytes) -> bytes:
    """The inverse of `split_data`, as JSON; an empty part adds nothing."""
    if len(part) <= len(b"{}"):
        return data
    if len(data) <= len(b"{}"):
        return part
    return data[:-1] + b"," + part[1:]


def bare_data(data: bytes) -> bytes:
    """The data of a notice with its personal members emptied, should any stand in it."""
    told = _data.decode(data)
    full = [name for name in MEMBERS if told.get(name)]
    if not full:
        return data
    return _encode(told | {name: [] if isinstance(told[name], list) else None for name in full})
