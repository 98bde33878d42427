"""Taking deliveries straight off the stream of a connection.

The ordinary way costs each message three frames read in nine steps, their decoding field by
field, two hops over queues and a task, several times the work that most messages are worth. Here
a connection reads through `Feed`, which passes everything on to aiormq as it came, but for the
deliveries on a channel that is `tapped`: those it decodes itself, many at a time.

Only documented seams are used: a transport factory (`shared.broker.owned`) and a stream reader
that is fed. A connection that is not read through a `Feed` consumes in the ordinary way. A
contract test holds both ways to the same promises.
"""

import asyncio
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, SupportsIndex

from aio_pika.abc import AbstractConnection
from msgspec import Struct
from pamqp import decode

from shared.broker.owned import OwnedConnection

_FRAME = struct.Struct("!BHI")  # type, channel, size of the payload
_METHOD, _HEADER, _BODY = 1, 2, 3
_HEARTBEAT: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"
_SIGN_OF_LIFE = 1.0
"""Seconds after which aiormq is shown that the broker lives, if all that came was taken here."""

_DELIVER: Final = b"\x00\x3c\x00\x3c"  # class basic, method deliver
_TAG = struct.Struct("!QB")  # delivery tag, redelivered
_CONTENT = struct.Struct("!HHQH")  # class, weight, size of the body, which properties follow
_SIZE = struct.Struct("!I")
_NUMBER = struct.Struct("!q")
_HEADERS_FLAG = 1 << 13
_TEXT_KIND, _NUMBER_KIND = b"S"[0], b"l"[0]
_BEFORE_HEADERS = (1 << 15, 1 << 14)  # content type and encoding, short strings
_LIMIT: Final = 2**16


class Delivered(Struct, frozen=True):
    """One message as the broker delivered it."""

    body: bytes
    headers: Mapping[str, Any]
    tag: int
    redelivered: bool


Tap = Callable[[Delivered], None]


class _Partial:
    """A delivery of which frames are still to come."""

    __slots__ = ("headers", "parts", "redelivered", "size", "tag")

    def __init__(self, tag: int, *, redelivered: bool) -> None:
        self.tag = tag
        self.redelivered = redelivered
        self.headers: Mapping[str, Any] = {}
        self.size = -1
        self.parts: list[bytes] = []


class Feed(asyncio.StreamReader):
    """The reading end of a connection."""

    def __init__(self) -> None:
        super().__init__(limit=_LIMIT, loop=asyncio.get_running_loop())
        self._rest = b""
        self._taps: dict[int, Tap] = {}
        self._partial: dict[int, _Partial] = {}
        self._foreign = False
        self._shown = 0.0

    def tap(self, channel: int, to: Tap) -> None:
        """Hand the deliveries on this channel to `to`, from the next frame on and for good.

        The channel must not have a consumer yet. When its number is used for another channel,
        tap that one too.
        """
        self._taps[channel] = to
        self._partial.pop(channel, None)

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        """Take what came in: whole frames are taken or passed on, the rest waits for more."""
        if self._foreign:
            super().feed_data(data)
            return
        data = self._rest + bytes(data)
        if data[:1] == b"A":  # no frame: a broker that speaks another version says so
            self._foreign, self._rest = True, b""
            super().feed_data(data)
            return
        self._rest = data[self._take_frames(data) :]

    def feed_eof(self) -> None:
        """Nothing more will come."""
        if self._rest:
            super().feed_data(self._rest)
            self._rest = b""
        super().feed_eof()

    def _take_frames(self, data: bytes) -> int:
        """Take the whole frames from the start of `data`; return where the first partial begins."""
        at, passed, taken, length = 0, 0, False, len(data)
        while length - at >= _FRAME.size:
            kind, channel, size = _FRAME.unpack_from(data, at)
            end = at + _FRAME.size + size + 1
            if end > length:
                break
            if channel in self._taps and self._is_ours(kind, channel, data, at):
                if passed < at:
                    super().feed_data(data[passed:at])
                passed, taken = end, True
            at = end
        if passed < at:
            super().feed_data(data[passed:at])
        elif taken:
            self._show_life()
        return at

    def _is_ours(self, kind: int, channel: int, data: bytes, at: int) -> bool:
        """Take one frame of a tapped channel; False if it is none of a delivery."""
        at += _FRAME.size
        if kind == _METHOD:
            if data[at : at + 4] != _DELIVER:
                return False
            consumer_tag = data[at + 4]
            tag, redelivered = _TAG.unpack_from(data, at + 5 + consumer_tag)
            self._partial[channel] = _Partial(tag, redelivered=bool(redelivered & 1))
            return True
        partial = self._partial.get(channel)
        if partial is None:
            return False
        if kind == _HEADER:
            _, _, partial.size, flags = _CONTENT.unpack_from(data, at)
            if flags & _HEADERS_FLAG:
                partial.headers = _headers(data, at + _CONTENT.size, flags)
        elif kind == _BODY:
            size = _SIZE.unpack_from(data, at - _SIZE.size)[0]
            partial.parts.append(data[at : at + size])
            partial.size -= size
        else:
            return False
        if partial.size == 0:
            del self._partial[channel]
            body = partial.parts[0] if len(partial.parts) == 1 else b"".join(partial.parts)
            self._taps[channel](Delivered(body, partial.headers, partial.tag, partial.redelivered))
        return True

    def _show_life(self) -> None:
        """A broker that sends deliveries sends no heartbeats, and aiormq waits for either."""
        now = asyncio.get_running_loop().time()
        if now - self._shown > _SIGN_OF_LIFE:
            self._shown = now
            super().feed_data(_HEARTBEAT)


def _headers(data: bytes, at: int, flags: int) -> Mapping[str, Any]:
    """The table of headers; what stands before it is skipped."""
    for flag in _BEFORE_HEADERS:
        if flags & flag:
            at += 1 + data[at]
    end = at + _SIZE.size + _SIZE.unpack_from(data, at)[0]
    found: dict[str, Any] = {}
    place = at + _SIZE.size
    while place < end:
        size = data[place]
        name = data[place + 1 : place + 1 + size].decode()
        place += 1 + size
        kind = data[place]
        if kind == _TEXT_KIND:
            size = _SIZE.unpack_from(data, place + 1)[0]
            place += 5
            try:
                found[name] = data[place : place + size].decode()
            except UnicodeDecodeError:
                return _any_headers(data[at:end])
            place += size
        elif kind == _NUMBER_KIND:
            found[name] = _NUMBER.unpack_from(data, place + 1)[0]
            place += 9
        else:
            return _any_headers(data[at:end])
    return found


def _any_headers(table: bytes) -> Mapping[str, Any]:
    """What holds anything else than texts and numbers, by the documented decoder."""
    return decode.field_table(table)[1] or {}


class FedConnection(OwnedConnection):
    """A connection that is read through a `Feed`."""

    feed: Feed | None = None
    """What it is read through, once it is being opened."""

    def make_reader(self) -> asyncio.StreamReader:
        """See `OwnedConnection.make_reader`."""
        self.feed = Feed()
        return self.feed


def feed_of(connection: AbstractConnection) -> Feed | None:
    """The feed through which a connection is read; None if there is none."""
    return connection.feed if isinstance(connection, FedConnection) else None
