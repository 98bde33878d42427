"""A connection that is closed by whoever opened it and by nobody else, and both of its ends.

aiormq's documented seam is the transport factory: it opens the stream that a connection reads from
and writes to, and so may keep them at hand.
"""

import asyncio
import ssl
from typing import Any, Final

import aiormq
from aio_pika import Connection
from aio_pika.abc import AbstractConnection, ConnectionParameter
from aiormq.exceptions import AMQPConnectionError
from yarl import URL

_LIMIT: Final = 2**16


class OwnedConnection(Connection):
    """Not closed by the garbage collector.

    aio-pika would have a connection closed when it is collected, which happens at any time: one
    that never came to be would then be closed where no loop runs.
    """

    PARAMETERS = (
        *Connection.PARAMETERS,
        ConnectionParameter(name="transport_factory", parser=lambda one: one, is_kwarg=True),
    )

    def __init__(self, url: URL, *arguments: Any, **named: Any) -> None:
        self._ends = _Ends(self)
        super().__init__(url, *arguments, transport_factory=self._ends, **named)

    def __del__(self) -> None:
        """Do nothing."""

    def make_reader(self) -> asyncio.StreamReader:
        """The end that is read from."""
        return asyncio.StreamReader(limit=_LIMIT, loop=asyncio.get_running_loop())

    @property
    def writer(self) -> asyncio.StreamWriter | None:
        """The end that is written to, once it is open."""
        return self._ends.writer


class _Ends(aiormq.TransportFactory):
    """Opens the stream of a connection."""

    def __init__(self, connection: OwnedConnection) -> None:
        self._connection = connection
        self.writer: asyncio.StreamWriter | None = None

    async def create(
        self, url: URL, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, over TLS if the URL says so."""
        provider = kwargs.pop("ssl_context_provider", None)
        context: ssl.SSLContext | None = None
        if url.scheme == "amqps":
            context = await provider.get_context()
        loop = asyncio.get_running_loop()
        reader = self._connection.make_reader()
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol, url.host or "", url.port or 0, ssl=context, **kwargs
            )
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        self.writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        return reader, self.writer


def writer_of(connection: AbstractConnection) -> asyncio.StreamWriter | None:
    """What writes on a connection that is open; None if it is not known."""
    return connection.writer if isinstance(connection, OwnedConnection) else None
