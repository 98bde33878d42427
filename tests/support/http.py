"""Raw HTTP, so that a test sends exactly the bytes it means to send."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, Protocol

from msgspec import Struct

from receiver.signature import HEADER, sign

SECRET = "test secret"
PATH = "/v1/webhooks/klavi"
PATIENCE = 30.0


class Target(Protocol):
    """Something that listens on this machine."""

    @property
    def port(self) -> int:
        """Where."""
        ...


class Answer(Struct, frozen=True):
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Client:
    """One raw connection to the receiver."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes as they are; a peer that has hung up is no fault of ours."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    async def answer(self, *, body: bool = True) -> Answer:
        """Read one answer."""
        async with asyncio.timeout(PATIENCE):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            fields = (line.split(": ", 1) for line in head[1:] if line)
            headers = {name.lower(): value for name, value in fields}
            length = int(headers.get("content-length", 0)) if body else 0
            content = await self._reader.readexactly(length)
        return Answer(int(head[0].split()[1]), headers, content)

    async def ended(self) -> bytes:
        """Wait until the receiver closes the connection; returns what came before."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""


@contextlib.asynccontextmanager
async def connected(receiver: Target) -> AsyncIterator[Client]:
    """A raw connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def request(
    body: bytes = b"", *, method: str = "POST", path: str = PATH, **headers: str | None
) -> bytes:
    """The bytes of a signed request. Underscores in header names stand for hyphens.

    A header that is None is left out.
    """
    fields: dict[str, str | None] = {
        "Host": "receiver",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        HEADER: sign(body, SECRET.encode()),
    }
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode() + body


async def ask(receiver: Target, data: bytes, *, body: bool = True) -> Answer:
    """Send one request on a connection of its own."""
    async with connected(receiver) as client:
        await client.send(data)
        return await client.answer(body=body)


async def post(receiver: Target, body: bytes, **headers: str | None) -> Answer:
    """Send one signed batch."""
    return await ask(receiver, request(body, **headers))
