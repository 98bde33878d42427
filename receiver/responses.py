"""The few answers that the receiver gives."""

import time
from email.utils import formatdate
from functools import lru_cache
from typing import Final

from aiohttp import ClientConnectionResetError, HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter

from receiver.problems import MEDIA_TYPE, Refusal

JSON: Final = "application/json"
SERVER: Final = "correio"
"""Named in every answer instead of the versions of what it is built with."""


class Receipt(web.Response):
    """The answer to a batch, written in one piece.

    It holds nothing of any request, so one serves all that accept as many events. It suits a POST
    of HTTP/1.1 whose connection stays open.
    """

    def __init__(self, body: bytes) -> None:
        super().__init__(body=body)
        self._head = (
            f"HTTP/1.1 200 OK\r\nContent-Type: {JSON}\r\nServer: {SERVER}\r\n"
            f"Content-Length: {len(body)}\r\nDate: "
        ).encode()
        self._tail = b"\r\n\r\n" + body

    @property
    def keep_alive(self) -> bool:
        """The connection stays open."""
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write all of it, and wait while the sender leaves too many answers unread.

        Raises:
            ClientConnectionResetError: the sender has left.
        """
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ClientConnectionResetError("Cannot write to closing transport")
        transport.write(b"".join((self._head, _date(), self._tail)))
        await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


def accepted(request: web.BaseRequest, count: int) -> web.Response:
    """So many events are durable."""
    if request.method == hdrs.METH_POST and request.version == HttpVersion11 and request.keep_alive:
        return _receipt(count)
    return found(_accepted(count))


def _accepted(count: int) -> bytes:
    return b'{"accepted":%d}' % count


@lru_cache(maxsize=1_024)
def _receipt(count: int) -> Receipt:
    return Receipt(_accepted(count))


def _date() -> bytes:
    """The time as a header has it."""
    return _date_of(int(time.time()))


@lru_cache(maxsize=1)
def _date_of(seconds: int) -> bytes:
    return formatdate(seconds, usegmt=True).encode()


def found(body: bytes) -> web.Response:
    """A JSON document."""
    return web.Response(body=body, headers={"Content-Type": JSON, "Server": SERVER})


def options(allowed: str) -> web.Response:
    """Which methods may be used here."""
    return web.Response(status=204, headers={"Allow": allowed, "Server": SERVER})


def refused(refusal: Refusal, *, allowed: str | None = None) -> web.Response:
    """A problem document; `allowed` names the methods that would do."""
    response = web.Response(
        status=refusal.status,
        body=refusal.body(),
        headers={"Content-Type": MEDIA_TYPE, "Server": SERVER, **refusal.headers},
    )
    if allowed is not None:
        response.headers["Allow"] = allowed
    if refusal.closes:
        response.force_close()
    return response


def refused_raw(refusal: Refusal) -> bytes:
    """The same as a whole HTTP/1.1 answer, for where there is no request to answer."""
    body = refusal.body()
    fields = {
        "Content-Type": MEDIA_TYPE,
        "Content-Length": str(len(body)),
        "Connection": "close",
        "Server": SERVER,
        **refusal.headers,
    }
    head = [f"HTTP/1.1 {refusal.status} {refusal.title}", *(f"{n}: {v}" for n, v in fields.items())]
    return "\r\n".join([*head, "", ""]).encode() + body
