"""Reading a body within its limits: bytes, time, memory of all requests together, encoding."""

import asyncio
import zlib
from typing import Final, Self

from aiohttp import StreamReader, hdrs
from aiohttp.web import BaseRequest

from receiver.problems import Reason, Refusal

FREE_BYTES: Final = 16_384
"""What every request may hold without asking: ordinary batches get in however many large
bodies are in hand."""

_GZIP = zlib.MAX_WBITS | 16
_WINDOW = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": zlib.MAX_WBITS}


class Budget:
    """Bytes that all bodies in hand may hold together, beyond `FREE_BYTES` of each."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def hold(self) -> "Held":
        """The share of one request; leave it to give the bytes back."""
        return Held(self)

    def move(self, count: int) -> bool:
        """Take `count` bytes, or give them back when negative; False when there are too few."""
        if count > self._left:
            return False
        self._left -= count
        return True


class Held:
    """What one request holds of a budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._taken = 0

    def grow(self, size: int) -> bool:
        """Hold `size` bytes in all; False when the budget does not allow it."""
        wanted = max(size - FREE_BYTES, self._taken)
        if not self._budget.move(wanted - self._taken):
            return False
        self._taken = wanted
        return True

    def shrink(self, size: int) -> None:
        """Hold `size` bytes in all, no more than are held, and give back the rest."""
        wanted = max(size - FREE_BYTES, 0)
        self._budget.move(wanted - self._taken)
        self._taken = wanted

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self._budget.move(-self._taken)


async def read_body(
    request: BaseRequest, *, limit: int, seconds: float, held: Held
) -> bytes | Refusal:
    """The body as it came over the wire, of at most `limit` bytes within `seconds`.

    Raises:
        ConnectionError: the sender went away.
        aiohttp.web.RequestPayloadError: its framing is broken.
    """
    if (request.content_length or 0) > limit:
        return _too_large(limit)
    if not request.body_exists:
        return b""
    content = request.content
    try:
        if content.is_eof():
            return await _read(content, limit=limit, held=held)
        async with asyncio.timeout(seconds):
            return await _read(content, limit=limit, held=held)
    except TimeoutError:
        return Refusal(Reason.TIMEOUT, f"the body did not arrive within {seconds:g} s")


async def _read(content: StreamReader, *, limit: int, held: Held) -> bytes | Refusal:
    chunk = await content.readany()
    if content.is_eof() and content.total_raw_bytes == len(chunk) <= limit:
        return chunk if held.grow(len(chunk)) else _crowded()
    chunks: list[bytes] = []
    size = 0
    try:
        while chunk:
            size += len(chunk)
            if size > limit:
                return _too_large(limit)
            if not held.grow(size):
                return _crowded()
            chunks.append(chunk)
            chunk = await content.readany()
        return b"".join(chunks)
    finally:
        # A stream keeps the exception that ended it, the exception keeps this frame, and the frame
        # the stream: what lies in here would stay until the next look for cycles.
        chunks.clear()


def check_encoding(request: BaseRequest) -> Refusal | None:
    """Refuse an encoding that `decode_body` does not know, and more than one."""
    headers = request.headers
    if hdrs.TRANSFER_ENCODING not in headers and hdrs.CONTENT_ENCODING not in headers:
        return None
    if headers.get(hdrs.TRANSFER_ENCODING, "chunked").strip().lower() != "chunked":
        return Refusal(Reason.ENCODING, "Transfer-Encoding must be chunked or absent")
    encodings = _encodings(request)
    if len(encodings) > 1 or any(encoding not in _WINDOW for encoding in encodings):
        return Refusal(Reason.ENCODING, "Content-Encoding must be gzip, deflate or absent")
    return None


def decode_body(request: BaseRequest, body: bytes, *, limit: int, held: Held) -> bytes | Refusal:
    """Undo the content encoding, to at most `limit` bytes. `check_encoding` has passed."""
    encodings = _encodings(request) if hdrs.CONTENT_ENCODING in request.headers else []
    if not encodings:
        return body
    if not held.grow(len(body) + limit):
        return _crowded()
    decompress = zlib.decompressobj(_WINDOW[encodings[0]])
    try:
        plain = decompress.decompress(body, limit + 1)
    except zlib.error:
        return Refusal(Reason.MALFORMED_REQUEST, "the body is not encoded as it says")
    if len(plain) > limit:
        return _too_large(limit)
    if not decompress.eof or decompress.unused_data:
        return Refusal(Reason.MALFORMED_REQUEST, "the encoded body is cut off or goes on")
    held.shrink(len(body) + len(plain))
    return plain


def _encodings(request: BaseRequest) -> list[str]:
    named = ",".join(request.headers.getall(hdrs.CONTENT_ENCODING, ())).lower().split(",")
    return [name for part in named if (name := part.strip()) not in ("", "identity")]


def _too_large(limit: int) -> Refusal:
    return Refusal(Reason.TOO_LARGE, f"the body is larger than {limit} bytes")


def _crowded() -> Refusal:
    return Refusal(Reason.OVERLOADED, "too many large bodies at once")
