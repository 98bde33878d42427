"""From a broker message to an arrival: the event's bytes and where they came from."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from shared.broker import headers
from shared.broker.consumer import Received
from shared.domain.events import Event, Reason, Unreadable, decode


class Arrival(Struct, frozen=True):
    """One element of a batch as the receiver passed it on.

    Attributes:
        received_at: Unix milliseconds.
        quarantine_id: the quarantine entry that an operator replays; empty for a first arrival.
        event_id: what the receiver saw the source call it; empty where it saw nothing.
    """

    body: bytes
    source: str
    batch_id: str
    received_at: int
    traceparent: str = ""
    quarantine_id: str = ""
    event_id: str = ""


class Decoded(Struct, frozen=True):
    """An arrival and what could be read of it."""

    arrival: Arrival
    content: Event | Unreadable


def from_message(message: Received, *, now: int) -> Arrival:
    """Read the headers, forgiving whatever a foreign publisher left out."""
    received_at = message.headers.get(headers.RECEIVED_AT)
    return Arrival(
        body=message.body,
        source=_text(message.headers, headers.SOURCE),
        batch_id=_text(message.headers, headers.BATCH_ID),
        received_at=received_at if isinstance(received_at, int) else now,
        traceparent=_text(message.headers, headers.TRACEPARENT),
        quarantine_id=_text(message.headers, headers.QUARANTINE_ID),
        event_id=_text(message.headers, headers.EVENT_ID),
    )


def decode_all(
    arrivals: Sequence[Arrival],
    *,
    now: int,
    future_tolerance: int,
    applications: Mapping[str, Sequence[str]],
    digest_key: bytes = b"",
) -> list[Decoded]:
    """Decode each arrival; one over which the decoder stumbles is malformed.

    Args:
        arrivals: in the order in which they came.
        now: Unix milliseconds.
        future_tolerance: milliseconds that an eventTime may lie ahead.
        applications: source → the partner applications bound to it; empty for any.
        digest_key: makes the digests of their contents.
    """
    decoded = []
    for arrival in arrivals:
        content: Event | Unreadable
        try:
            content = decode(
                arrival.body,
                now=now,
                future_tolerance=future_tolerance,
                partner_app_ids=applications.get(arrival.source, ()),
                digest_key=digest_key,
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not stop the others
            content = Unreadable(Reason.MALFORMED, type(error).__name__)
        decoded.append(Decoded(arrival, content))
    return decoded


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return value.replace("\0", "") if isinstance(value, str) else ""
