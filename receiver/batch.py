"""From the bytes of a body to the bytes of its events, without decoding one of them.

What makes the batch as a whole unreadable refuses it. What is odd about a single element (a lone
surrogate, a NUL character, a huge number, a duplicate key, something that is no object) is
nobody's business here: the element travels on as it came and is judged by the events worker.
"""

import re
from typing import Final

import msgspec
from msgspec import Raw, Struct

from receiver.problems import Reason, Refusal

EVENT_ID_MAX: Final = 256
"""Longest event id, in characters, that is copied into a header."""

_ARRAY = msgspec.json.Decoder(list[Raw])
_VALUE = msgspec.json.Decoder(Raw)
_SPACE = b" \t\n\r"
# What is once matched is never given back (`*+`), so a string's length costs no memory; and one
# without an end goes on to the end of the body, so no quote in it begins a search of its own.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_SURROGATE = re.compile(rb"(?<!\\)((?:\\\\)*+)\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_FLAT = re.compile(rb"\[,*\]")
_CURLY_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[],"))
_NOT_SQUARE = _NOT_STRUCTURE + b","
_PLAUSIBLE_COMMAS = 50
"""Commas per allowed event; above it the elements are counted before they are made."""


class Batch(Struct, frozen=True):
    """What one request carried and where it came from."""

    id: str
    source: str
    received_at: int
    traceparent: str
    events: tuple[bytes, ...]


def split(  # noqa: PLR0911 - a line of checks, each with its own refusal
    body: bytes, *, max_events: int, max_depth: int
) -> tuple[bytes, ...] | Refusal:
    """The events of a body: the elements of an array, or one object.

    Each event's bytes are returned as they came. Depth counts arrays and objects inside one
    another, the outermost being 1.
    """
    if not body.isascii() and not _is_utf8(body):
        return Refusal(Reason.NOT_UTF8, "the body is not valid UTF-8")
    start = body.lstrip(_SPACE)[:1]
    if start == b"[" and _more_than(max_events, body, max_depth):
        return _too_many(max_events)
    try:
        elements = _elements(body, bare=start != b"[")
    except RecursionError:
        return _too_deep(max_depth)
    except msgspec.DecodeError:
        return Refusal(Reason.NOT_JSON, "the body is not valid JSON")
    if start not in (b"[", b"{"):
        return Refusal(Reason.NOT_A_BATCH, "the body is neither an array nor an object")
    if len(elements) > max_events:
        return _too_many(max_events)
    allowed = max_depth if start == b"{" else max_depth - 1
    if any(_deeper_than(element, allowed) for element in elements):
        return _too_deep(max_depth)
    return elements


class _Named(Struct):
    """The two documented spellings of the one field that is looked at."""

    eventId: str = ""  # noqa: N815 - the source's own spelling
    eventID: str = ""  # noqa: N815 - likewise


_NAMED = msgspec.json.Decoder(_Named)


def event_id(event: bytes) -> str:
    """The event's id if it is plain to see, else an empty string; for logs and tracing only."""
    try:
        named = _NAMED.decode(event)
    except (msgspec.DecodeError, RecursionError):
        return ""
    found = named.eventId or named.eventID
    return found if len(found) <= EVENT_ID_MAX else ""


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _too_deep(max_depth: int) -> Refusal:
    return Refusal(Reason.TOO_DEEP, f"nested more than {max_depth} levels deep")


def _too_many(max_events: int) -> Refusal:
    return Refusal(Reason.TOO_MANY_EVENTS, f"more than {max_events} events in one batch")


def _elements(body: bytes, *, bare: bool) -> tuple[bytes, ...]:
    """The elements of an array, or the one value of the body.

    msgspec refuses a lone surrogate although it is valid JSON (RFC 8259, section 8.2). On a
    fault the body is therefore read once more with every escaped surrogate replaced by a digit
    of the same length; where the elements begin and end stays the same.
    """
    try:
        return _views(body, bare=bare)
    except msgspec.DecodeError:
        harmless = _SURROGATE.sub(rb"\1\\u0030", body)
        if harmless == body:
            raise
    elements: list[bytes] = []
    place = 0
    for element in _views(harmless, bare=bare):
        place = harmless.index(element, place)  # only space and commas lie in between
        elements.append(body[place : place + len(element)])
        place += len(element)
    return tuple(elements)


def _views(body: bytes, *, bare: bool) -> tuple[bytes, ...]:
    if bare:
        _VALUE.decode(body)
        return (body.strip(_SPACE),)
    return tuple(bytes(element) for element in _ARRAY.decode(body))


def _more_than(count: int, array: bytes, max_depth: int) -> bool:
    """Whether an array surely has more than `count` elements.

    Millions of tiny elements would cost far more memory than the body, so a body with
    implausibly many commas is reduced to its structure: what is left inside the outer array,
    after the inner ones have been removed level by level, is a comma between two elements.
    """
    if array.count(b",") <= count * _PLAUSIBLE_COMMAS:
        return False
    structure = _structure(array, _NOT_STRUCTURE)[1:]
    for _ in range(max_depth):
        structure = _FLAT.sub(b"", structure)
    return structure.count(b",") >= count


def _deeper_than(element: bytes, limit: int) -> bool:
    """Whether valid JSON nests deeper than `limit`.

    No element is deeper than it has opening brackets, which decides nearly every case. Else the
    brackets alone are kept and the innermost pairs removed, one level each time.
    """
    if element.count(b"{") + element.count(b"[") <= limit:
        return False
    brackets = _structure(element, _NOT_SQUARE)
    for _ in range(limit):
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def _structure(text: bytes, without: bytes) -> bytes:
    """JSON without its strings and without the bytes in `without`, all brackets made square."""
    return _STRING.sub(b"", text).translate(_CURLY_TO_SQUARE).translate(None, without)
