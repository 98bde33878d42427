"""What can come of one attempt, as values.

| What happened | Outcome |
|---|---|
| 2xx and an answer that can be read to its end | `Succeeded` |
| 410 | `EndpointGone`: the endpoint is disabled and its deliveries are held |
| every other status, redirects included (they are not followed) | `RetryableFailure` |
| no name, no connection, no TLS, no answer in time, cut off, not HTTP, oversized | the same |
| the name resolves to an address that is forbidden | the same: names change |
| the URL itself names a forbidden address | `PermanentFailure`: only an operator can mend it |

4xx is retried like the rest: what one release of an endpoint refuses, the next one may take,
and a delivery that is given up at once can only be saved by hand.
"""

from enum import StrEnum
from typing import Final, assert_never

from msgspec import Struct

OK: Final = range(200, 300)
REDIRECT: Final = range(300, 400)
REJECTED: Final = range(400, 500)
SERVER_ERROR: Final = range(500, 600)
GONE: Final = 410
THROTTLED: Final = 429
SLOW_DOWN: Final = frozenset({THROTTLED, 502, 503, 504})
"""Answers that ask to be called less often."""

UNWELL: Final = frozenset({408, 425, THROTTLED})
"""4xx that speak of the endpoint's condition, unlike the others, which judge the content."""


class FailureKind(StrEnum):
    """Why there was no success; also the name under which an attempt is recorded."""

    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    CUT_OFF = "cut_off"
    MALFORMED = "malformed"
    OVERSIZED = "oversized"
    REFUSED_ADDRESS = "refused_address"
    REDIRECT = "redirect"
    REJECTED = "rejected"
    THROTTLED = "throttled"
    SERVER_ERROR = "server_error"
    INTERNAL = "internal"


class Succeeded(Struct, frozen=True):
    """The endpoint took it."""

    status: int


class RetryableFailure(Struct, frozen=True):
    """The schedule decides when to try again.

    Attributes:
        status: HTTP status; None where no answer came.
        error: one line for the operator, in our words: it quotes neither URL nor answer.
        answer: first bytes of the answer.
        retry_after: seconds that the endpoint asked for, as it asked.
    """

    kind: FailureKind
    error: str
    status: int | None = None
    answer: bytes = b""
    retry_after: float | None = None


class PermanentFailure(Struct, frozen=True):
    """No attempt can succeed until an operator changes something: the delivery is exhausted."""

    kind: FailureKind
    error: str


class EndpointGone(Struct, frozen=True):
    """410: the endpoint wants nothing any more."""

    answer: bytes = b""


Outcome = Succeeded | RetryableFailure | PermanentFailure | EndpointGone


def judge(status: int, *, answer: bytes = b"", retry_after: float | None = None) -> Outcome:
    """What an answer with this status means."""
    if status in OK:
        return Succeeded(status)
    if status == GONE:
        return EndpointGone(answer)
    return RetryableFailure(
        kind=_kind_of(status),
        error=f"answered {status}",
        status=status,
        answer=answer,
        retry_after=retry_after,
    )


def _kind_of(status: int) -> FailureKind:
    if status == THROTTLED:
        return FailureKind.THROTTLED
    if status in REDIRECT:
        return FailureKind.REDIRECT
    if status in REJECTED:
        return FailureKind.REJECTED
    if status in SERVER_ERROR:
        return FailureKind.SERVER_ERROR
    return FailureKind.MALFORMED


def name_of(outcome: Outcome) -> str:
    """The name under which it is recorded, logged and counted."""
    match outcome:
        case Succeeded():
            return "succeeded"
        case EndpointGone():
            return "gone"
        case RetryableFailure(kind=kind) | PermanentFailure(kind=kind):
            return kind.value
        case _ as never:
            assert_never(never)


def status_of(outcome: Outcome) -> int | None:
    """The HTTP status, where an answer came."""
    match outcome:
        case Succeeded(status=status):
            return status
        case RetryableFailure(status=status):
            return status
        case EndpointGone():
            return GONE
        case PermanentFailure():
            return None
        case _ as never:
            assert_never(never)


def error_of(outcome: Outcome) -> str:
    """One line on what went wrong, for the operator; empty where an answer says it all."""
    return outcome.error if isinstance(outcome, RetryableFailure | PermanentFailure) else ""


def is_healthy(outcome: Outcome) -> bool | None:
    """What it says of the endpoint's health, for the breaker; None where it says nothing.

    A 4xx such as 400 or 404 judges the content of one callback, so it counts neither way.
    """
    match outcome:
        case Succeeded():
            return True
        case EndpointGone() | PermanentFailure():
            return None
        case RetryableFailure(kind=FailureKind.INTERNAL):
            return None
        case RetryableFailure(kind=FailureKind.REJECTED, status=status):
            return False if status in UNWELL else None
        case RetryableFailure():
            return False
        case _ as never:
            assert_never(never)


def asks_to_slow(outcome: Outcome) -> bool:
    """Whether the endpoint wants to be called less often."""
    return status_of(outcome) in SLOW_DOWN
