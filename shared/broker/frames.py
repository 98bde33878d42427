"""The bytes of a publish.

The documented encoder makes of a message what any reader takes for the same, but it encodes every
field by itself, for each message anew, and takes ten times as long.
"""

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from pamqp import encode

PERSISTENT: Final = 2
MANDATORY: Final = 1

_METHOD, _HEADER, _BODY = 1, 2, 3
_END: Final = b"\xce"
_FRAME = struct.Struct("!BHI")  # type, channel, size
_PUBLISH = struct.Struct("!HHH")  # class basic, method publish, reserved
_CONTENT = struct.Struct("!HHQH")  # class basic, weight, size of the body, which properties follow
_NUMBER = struct.Struct("!q")
_SIZE = struct.Struct("!I")
_BASIC, _BASIC_PUBLISH = 60, 40
_PROPERTIES = 1 << 13 | 1 << 12 | 1 << 7  # headers, delivery mode, message id
_SHORT = 256
"""Bytes from which a short string cannot be written."""
_CACHED = 4_096
"""Header fields kept encoded: all messages of a batch share most of theirs."""


def publish(  # noqa: PLR0913 - the parts of one message
    *,
    channel: int,
    exchange: str,
    routing_key: str,
    message_id: bytes,
    headers: Mapping[str, Any],
    body: bytes,
    largest: int,
) -> list[bytes]:
    """The frames of one persistent, mandatory message.

    Args:
        channel: number of the channel.
        exchange: where it is published to.
        routing_key: likewise.
        message_id: ASCII, shorter than 256 bytes.
        headers: the message's own.
        body: cut into frames of at most `largest` bytes.
        largest: content bytes that one frame may hold.

    Raises:
        ValueError: a name is too long, or a header has a value of a type that AMQP does not know.
    """
    table = b"".join([_field(name, value) for name, value in headers.items()])
    header = b"".join((
        _CONTENT.pack(_BASIC, 0, len(body), _PROPERTIES),
        _SIZE.pack(len(table)), table, b"\x02", bytes((len(message_id),)), message_id,
    ))  # fmt: skip
    made = [
        _publish_frame(channel, exchange, routing_key),
        _FRAME.pack(_HEADER, channel, len(header)), header, _END,
    ]  # fmt: skip
    if len(body) <= largest:
        if body:
            made += (_FRAME.pack(_BODY, channel, len(body)), body, _END)
        return made
    for start in range(0, len(body), largest):
        part = body[start : start + largest]
        made += (_FRAME.pack(_BODY, channel, len(part)), part, _END)
    return made


@lru_cache(maxsize=256)
def _publish_frame(channel: int, exchange: str, routing_key: str) -> bytes:
    payload = b"".join((
        _PUBLISH.pack(_BASIC, _BASIC_PUBLISH, 0), _short(exchange), _short(routing_key),
        bytes((MANDATORY,)),
    ))  # fmt: skip
    return _FRAME.pack(_METHOD, channel, len(payload)) + payload + _END


def _field(name: str, value: Any) -> bytes:
    """One field of a table."""
    if type(value) is str:
        return _text_field(name, value)
    if type(value) is int:
        return _number_field(name, value)
    try:
        return _short(name) + encode.encode_table_value(value)
    except TypeError as error:
        raise ValueError(f"header {name}: {error}") from None


@lru_cache(maxsize=_CACHED)
def _text_field(name: str, value: str) -> bytes:
    text = value.encode()
    return _named(name, b"S") + _SIZE.pack(len(text)) + text


@lru_cache(maxsize=_CACHED)
def _number_field(name: str, value: int) -> bytes:
    try:
        return _named(name, b"l") + _NUMBER.pack(value)
    except struct.error:
        raise ValueError(f"header {name}: a number of more than 64 bits") from None


@lru_cache(maxsize=_CACHED)
def _named(name: str, kind: bytes) -> bytes:
    """What a field begins with."""
    return _short(name) + kind


def _short(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) >= _SHORT:
        raise ValueError("a name of more than 255 bytes")
    return bytes((len(encoded),)) + encoded
