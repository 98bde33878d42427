"""The few answers that the receiver gives."""

from typing import Final

from aiohttp import web

from receiver.problems import MEDIA_TYPE, Refusal

JSON: Final = "application/json"
SERVER: Final = "correio"
"""Named in every answer instead of the versions of what it is built with."""


def accepted(count: int) -> web.Response:
    """So many events are durable."""
    return found(b'{"accepted":%d}' % count)


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
