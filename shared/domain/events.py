"""From the bytes of one event to what it says: a tagged union, decoded whole or not at all.

Dispatch goes by the exact pair (eventType, eventName). Whatever is not one of the ten documented
pairs, or lacks what its kind needs, comes back as `Unreadable` with a reason: a value, not an
exception, since such things do arrive and are kept (domain.md, "Other things that can reach the
same URL").
"""

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec
import orjson
from msgspec import Meta, Struct

from shared.domain.aggregates import Fact, rank_of
from shared.domain.consent import ConsentFact, ConsentStatus
from shared.domain.keys import AggregateKey, AggregateKind, Position
from shared.domain.link import LinkFact
from shared.domain.product_request import OrderFact, OutcomeFact
from shared.domain.tax_ids import TaxForm, form_of, normalise

Id = Annotated[str, Meta(min_length=1, max_length=256)]
Text = Annotated[str, Meta(max_length=4096)]


class Reason(StrEnum):
    """Why something was put into quarantine."""

    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    UNKNOWN_EVENT = "unknown_event"
    NO_EVENT_NAME = "no_event_name"
    MALFORMED = "malformed"
    NUL_CHARACTER = "nul_character"
    EVENT_ID_MISSING = "event_id_missing"
    EVENT_TIME_MISSING = "event_time_missing"
    EVENT_TIME_UNPARSEABLE = "event_time_unparseable"
    EVENT_TIME_FUTURE = "event_time_future"
    FOREIGN_APPLICATION = "foreign_application"
    REFUSED_BY_STORE = "refused_by_store"
    DEAD_LETTERED = "dead_lettered"


class Unreadable(Struct, frozen=True):
    """An element that cannot be folded. `detail` names the fault and never quotes a value."""

    reason: Reason
    detail: str


class Event(Struct, frozen=True):
    """An event as the folds want it.

    Attributes:
        time: eventTime in Unix milliseconds.
        content: digest of the whole content, the same for any order of keys or white space.
        facts: what it says, of which aggregate; the first is what the event is about.
        tax_ids: whom it names, as far as it has the form of a CPF or CNPJ; without punctuation.
        tax_form: whether the tax ids that it gives are such; None if it gives none.
    """

    partner_app_id: str
    event_id: str
    type: str
    name: str
    time: int
    content: str
    facts: tuple[tuple[AggregateKey, Fact], ...]
    tax_ids: tuple[str, ...] = ()
    tax_form: TaxForm | None = None

    @property
    def owners(self) -> tuple[AggregateKey, ...]:
        """The aggregates whose event this is: a link's only where it speaks of nothing else."""
        keys = tuple(key for key, _ in self.facts if key.kind != AggregateKind.LINK)
        return keys or (self.facts[0][0],)

    def position(self, fact: Fact) -> Position:
        """Where `fact` stands in the history of its aggregate."""
        return Position(self.time, rank_of(fact), self.event_id, self.content)


class _Payload(Struct, rename="camel", kw_only=True):
    # Of any type, since a tax id that cannot be read is no reason to refuse an event.
    personal_tax_id: Any = None
    business_tax_id: Any = None


class _LinkPayload(_Payload):
    link_id: Id


class _Consent(Struct, rename="camel"):
    consent_id: Id
    external_track_id: Text | None = None
    institution_code: Text | None = None
    permissions_apply: tuple[Text, ...] | None = None
    permissions_granted: tuple[Text, ...] | None = None
    expire_at: Text | None = None


class _ConsentPayload(_Payload):
    # One object under a plural name in the documented form; an array is tolerated.
    consents: _Consent | Annotated[tuple[_Consent, ...], Meta(min_length=1)]
    link_id: Annotated[str, Meta(max_length=256)] | None = None


class _RequestBody(Struct, rename="camel"):
    # productCallbackUrl, in all its spellings, is never read: the provider calls it, not we.
    link_id: Annotated[str, Meta(max_length=256)] | None = None
    institution_code: Text | None = None
    consent_ids: tuple[Text, ...] | None = None
    products: tuple[Text, ...] | None = None
    tax_id: Any = None


class _OrderPayload(_Payload):
    request_id: Id
    request_body: _RequestBody


class _OutcomePayload(_Payload):
    request_id: Id
    product: Id
    failure_reason: Text | None = None


class _Envelope(Struct, rename="camel", tag_field="eventName", kw_only=True):
    partner_app_id: Id
    event_type: Literal["api"]
    event_time: Any = None
    event_id: Annotated[str, Meta(max_length=256)] | None = None
    event_id_as_in_table: Annotated[str, Meta(max_length=256)] | None = msgspec.field(
        default=None, name="eventID"
    )


class _LinkCreated(_Envelope, tag="link_created"):
    payload: _LinkPayload


class _ConsentAuthorised(_Envelope, tag="consent_authorised"):
    payload: _ConsentPayload


class _ConsentError(_Envelope, tag="consent_error"):
    payload: _ConsentPayload


class _ConsentRejected(_Envelope, tag="consent_rejected"):
    payload: _ConsentPayload


class _ConsentExpired(_Envelope, tag="consent_expired"):
    payload: _ConsentPayload


class _ConsentRevoked(_Envelope, tag="consent_revoked"):
    payload: _ConsentPayload


class _ConsentDeletedByUser(_Envelope, tag="consent_deleted_by_user"):
    payload: _ConsentPayload


class _ProductRequestReceived(_Envelope, tag="product_request_received"):
    payload: _OrderPayload


class _ProductGeneratedSuccess(_Envelope, tag="product_generated_success"):
    payload: _OutcomePayload


class _ProductGeneratedFailed(_Envelope, tag="product_generated_failed"):
    payload: _OutcomePayload


_ConsentMessage = (
    _ConsentAuthorised
    | _ConsentError
    | _ConsentRejected
    | _ConsentExpired
    | _ConsentRevoked
    | _ConsentDeletedByUser
)
_Message = (
    _LinkCreated
    | _ConsentMessage
    | _ProductRequestReceived
    | _ProductGeneratedSuccess
    | _ProductGeneratedFailed
)

EVENT_NAMES: tuple[str, ...] = tuple(one.__struct_config__.tag for one in _Message.__args__)
"""The documented names; each belongs to eventType ``api``."""

_CHANGE = {
    _ConsentAuthorised: ConsentStatus.AUTHORISED,
    _ConsentError: ConsentStatus.ERROR,
    _ConsentRejected: ConsentStatus.REJECTED,
    _ConsentExpired: ConsentStatus.EXPIRED,
    _ConsentRevoked: ConsentStatus.REVOKED,
    _ConsentDeletedByUser: ConsentStatus.DELETED_BY_USER,
}

_messages: msgspec.json.Decoder[_Message] = msgspec.json.Decoder(_Message)


def decode(
    body: bytes,
    *,
    now: int,
    future_tolerance: int = 86_400_000,
    partner_app_ids: Sequence[str] = (),
    digest_key: bytes = b"",
) -> Event | Unreadable:
    """Decode one element of a batch.

    Args:
        body: the element's own bytes.
        now: Unix milliseconds, to tell a far-future eventTime.
        future_tolerance: milliseconds that an eventTime may lie ahead of `now`.
        partner_app_ids: applications bound to the source; empty for any.
        digest_key: makes the digest of the content.
    """
    try:
        message = _messages.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        return _classify(body, error)
    event_id = message.event_id or message.event_id_as_in_table
    if not event_id:
        return Unreadable(Reason.EVENT_ID_MISSING, "neither eventId nor eventID")
    time = _time(message.event_time, latest=now + future_tolerance)
    if isinstance(time, Unreadable):
        return time
    if partner_app_ids and message.partner_app_id not in partner_app_ids:
        return Unreadable(Reason.FOREIGN_APPLICATION, "partnerAppId does not belong to this source")
    given = _given_tax_ids(message.payload)
    event = Event(
        partner_app_id=message.partner_app_id,
        event_id=event_id,
        type=message.event_type,
        name=str(message.__struct_config__.tag),
        time=time,
        content=content_digest(body, digest_key),
        facts=tuple(_facts(message)),
        tax_ids=_tax_ids(given),
        tax_form=form_of(*given),
    )
    if b"\\u0000" in body and _holds_nul(event):
        return Unreadable(Reason.NUL_CHARACTER, "an id holds U+0000")
    return event


def _time(value: object, *, latest: int) -> int | Unreadable:
    if value is None or value == "":
        return Unreadable(Reason.EVENT_TIME_MISSING, "no eventTime")
    time = parse_time(value)
    if time is None:
        return Unreadable(Reason.EVENT_TIME_UNPARSEABLE, "eventTime is not an ISO 8601 time")
    if time > latest:
        return Unreadable(Reason.EVENT_TIME_FUTURE, "eventTime lies too far ahead")
    return time


def parse_time(value: object) -> int | None:
    """Unix milliseconds of an ISO 8601 date and time; without an offset it is taken as UTC."""
    if not isinstance(value, str) or len(value) < len("2022-06-25T20:08"):
        return None
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def content_digest(body: bytes, key: bytes = b"") -> str:
    """A digest that is the same however keys are ordered and white space is set.

    It outlives the content, so it takes a `key`, of 64 bytes at most: without it nobody can try out
    which tax id stood in a text of which he knows the rest.
    """
    with contextlib.suppress(ValueError):  # what orjson refuses is compared byte by byte
        body = orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(body, digest_size=16, key=key).hexdigest()


def _facts(message: _Message) -> Iterable[tuple[AggregateKey, Fact]]:
    app = message.partner_app_id
    match message:
        case _LinkCreated(payload=payload):
            yield _link(app, payload.link_id), LinkFact(created=True)
        case _ProductRequestReceived(payload=payload):
            order = _order(payload.request_body)
            yield _request(app, payload.request_id), order
            if order.link_id:
                yield _link(app, order.link_id), LinkFact()
        case _ProductGeneratedSuccess(payload=payload):
            yield _request(app, payload.request_id), OutcomeFact(payload.product, succeeded=True)
        case _ProductGeneratedFailed(payload=payload):
            yield (
                _request(app, payload.request_id),
                OutcomeFact(
                    payload.product,
                    succeeded=False,
                    failure_reason=payload.failure_reason or "",
                ),
            )
        case _:
            yield from _consent_facts(app, _CHANGE[type(message)], message.payload)


def _consent_facts(
    app: str, change: ConsentStatus, payload: _ConsentPayload
) -> Iterable[tuple[AggregateKey, Fact]]:
    given = payload.consents
    consents = {one.consent_id: one for one in ((given,) if isinstance(given, _Consent) else given)}
    for one in consents.values():
        yield (
            AggregateKey(AggregateKind.CONSENT, app, one.consent_id),
            ConsentFact(
                change=change,
                link_id=payload.link_id or "",
                institution_code=one.institution_code or "",
                external_track_id=one.external_track_id or "",
                permissions_apply=one.permissions_apply,
                permissions_granted=one.permissions_granted or (),
                expire_at=one.expire_at or None,
            ),
        )
    if payload.link_id:
        yield _link(app, payload.link_id), LinkFact(consents=tuple(consents))


def _given_tax_ids(payload: _Payload) -> tuple[Any, ...]:
    """Whatever stands where a tax id belongs."""
    if isinstance(payload, _OrderPayload):
        return payload.personal_tax_id, payload.business_tax_id, payload.request_body.tax_id
    return payload.personal_tax_id, payload.business_tax_id


def _tax_ids(given: Iterable[Any]) -> tuple[str, ...]:
    found = [tax_id for one in given if one and (tax_id := normalise(one))]
    return tuple(dict.fromkeys(found))


def _order(body: _RequestBody) -> OrderFact:
    return OrderFact(
        link_id=body.link_id or "",
        institution_code=body.institution_code or "",
        consent_ids=body.consent_ids or (),
        products=tuple(dict.fromkeys(body.products or ())),
    )


def _link(app: str, link_id: str) -> AggregateKey:
    return AggregateKey(AggregateKind.LINK, app, link_id)


def _request(app: str, request_id: str) -> AggregateKey:
    return AggregateKey(AggregateKind.PRODUCT_REQUEST, app, request_id)


def _holds_nul(event: Event) -> bool:
    ids = [event.partner_app_id, event.event_id]
    for key, fact in event.facts:
        ids += [key.id, getattr(fact, "link_id", ""), getattr(fact, "product", "")]
    return any("\0" in one for one in ids)


class _Shape(Struct):
    """The least that tells one unknown thing from another."""

    eventName: Any = None  # noqa: N815 - the source's own spelling
    eventType: Any = None  # noqa: N815 - the source's own spelling
    eventId: Any = None  # noqa: N815 - the source's own spelling
    eventID: Any = None  # noqa: N815 - the source's own spelling


_shapes = msgspec.json.Decoder(_Shape)


def _classify(body: bytes, error: Exception) -> Unreadable:
    """Say why `body` is none of the documented events."""
    try:
        shape = _shapes.decode(body)
    except msgspec.ValidationError:
        return Unreadable(Reason.NOT_AN_OBJECT, "the element is not an object")
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return Unreadable(Reason.NOT_JSON, "the element cannot be parsed")
    if not isinstance(shape.eventName, str) or not shape.eventName:
        return Unreadable(Reason.NO_EVENT_NAME, "no eventName: a report, or a foreign message")
    if shape.eventName not in EVENT_NAMES or shape.eventType != "api":
        if not (shape.eventId or shape.eventID):
            return Unreadable(Reason.EVENT_ID_MISSING, "unknown eventName without an eventId")
        return Unreadable(Reason.UNKNOWN_EVENT, "undocumented pair of eventType and eventName")
    return Unreadable(Reason.MALFORMED, _without_values(error))


def _without_values(error: Exception) -> str:
    """Msgspec's message names types and paths; only an `Invalid value` may quote, so it is cut."""
    text = str(error)
    if text.startswith("Invalid"):
        _, _, place = text.partition(" - at ")
        return f"invalid value at {place}" if place else "invalid value"
    return text[:200]
