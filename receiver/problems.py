"""Why a request is refused, and how the refusal looks (RFC 9457)."""

from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus
from types import MappingProxyType

import orjson
from msgspec import Struct

MEDIA_TYPE = "application/problem+json"
ALLOWED_METHODS = "GET, HEAD, OPTIONS, POST"


class Reason(StrEnum):
    """Stable names, used in answers, logs and metrics."""

    MALFORMED_REQUEST = "malformed-request"
    NOT_JSON = "not-json"
    NOT_UTF8 = "not-utf8"
    TOO_DEEP = "too-deep"
    NOT_A_BATCH = "not-a-batch"
    BAD_SIGNATURE = "bad-signature"
    ADDRESS = "address-not-allowed"
    NOT_FOUND = "not-found"
    UNKNOWN_SOURCE = "unknown-source"
    METHOD = "method-not-allowed"
    TIMEOUT = "request-timeout"
    TOO_LARGE = "too-large"
    TOO_MANY_EVENTS = "too-many-events"
    MEDIA_TYPE = "unsupported-media-type"
    ENCODING = "unsupported-encoding"
    EXPECTATION = "expectation-failed"
    SENDER_LEFT = "sender-left"
    FAULT = "internal-fault"
    OVERLOADED = "overloaded"
    NOT_DURABLE = "not-durable"


_STATUS: Mapping[Reason, HTTPStatus] = MappingProxyType({
    Reason.MALFORMED_REQUEST: HTTPStatus.BAD_REQUEST,
    Reason.NOT_JSON: HTTPStatus.BAD_REQUEST,
    Reason.NOT_UTF8: HTTPStatus.BAD_REQUEST,
    Reason.TOO_DEEP: HTTPStatus.BAD_REQUEST,
    Reason.NOT_A_BATCH: HTTPStatus.BAD_REQUEST,
    Reason.BAD_SIGNATURE: HTTPStatus.UNAUTHORIZED,
    Reason.ADDRESS: HTTPStatus.FORBIDDEN,
    Reason.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Reason.UNKNOWN_SOURCE: HTTPStatus.NOT_FOUND,
    Reason.METHOD: HTTPStatus.METHOD_NOT_ALLOWED,
    Reason.TIMEOUT: HTTPStatus.REQUEST_TIMEOUT,
    Reason.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Reason.TOO_MANY_EVENTS: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Reason.MEDIA_TYPE: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    Reason.ENCODING: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    Reason.EXPECTATION: HTTPStatus.EXPECTATION_FAILED,
    Reason.SENDER_LEFT: HTTPStatus.BAD_REQUEST,
    Reason.FAULT: HTTPStatus.INTERNAL_SERVER_ERROR,
    Reason.OVERLOADED: HTTPStatus.SERVICE_UNAVAILABLE,
    Reason.NOT_DURABLE: HTTPStatus.SERVICE_UNAVAILABLE,
})  # fmt: skip

_HEADERS: Mapping[Reason, Mapping[str, str]] = MappingProxyType({
    Reason.ENCODING: {"Accept-Encoding": "gzip, deflate"},
    Reason.BAD_SIGNATURE: {"WWW-Authenticate": "X-Klavi-Signature"},
    Reason.OVERLOADED: {"Retry-After": "1"},
    Reason.NOT_DURABLE: {"Retry-After": "5"},
})  # fmt: skip


_CLOSING = frozenset({
    Reason.MALFORMED_REQUEST, Reason.TIMEOUT, Reason.TOO_LARGE, Reason.EXPECTATION, Reason.FAULT,
    Reason.SENDER_LEFT,
})  # fmt: skip


class Refusal(Struct, frozen=True):
    """A request that is not accepted. `detail` is for the sender and never quotes the request."""

    reason: Reason
    detail: str

    @property
    def status(self) -> int:
        """The HTTP status."""
        return _STATUS[self.reason].value

    @property
    def type(self) -> str:
        """The URI that names this kind of problem."""
        return f"urn:correio:problem:{self.reason.value}"

    @property
    def title(self) -> str:
        """The status in words."""
        return _STATUS[self.reason].phrase

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers that this refusal must carry."""
        return _HEADERS.get(self.reason, {})

    @property
    def closes(self) -> bool:
        """Whether the connection cannot go on: a part of the body may never have been read."""
        return self.reason in _CLOSING

    def body(self) -> bytes:
        """The problem document."""
        return orjson.dumps({
            "type": self.type,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        })  # fmt: skip
