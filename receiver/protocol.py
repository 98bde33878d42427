"""What aiohttp leaves open on a connection: time to send a head, and how many connections.

Built on `aiohttp.web_protocol.RequestHandler`. Of its inner state only the count of requests and
whether it waits for one are read; the tests hold this against the installed version.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from receiver.metrics import Metrics
from receiver.problems import Reason, Refusal
from receiver.responses import refused, refused_raw
from shared.config import ReceiverConfig
from shared.logs import get_logger

log = get_logger(__name__)

HEAD_MAX_BYTES = 8_190
"""Longest request line and longest single header field; 64 fields at most."""
HEAD_MAX_FIELDS = 64
READ_BUFFER = 16_384
LINGER = 1.0
"""Seconds for which the rest of a refused body is read and dropped, so that the sender gets to
see the answer."""
UNANSWERED_MS = 30_000
"""How long the peer may leave an answer unread."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class GuardedServer(web.Server):
    """Makes one `GuardedConnection` per connection."""

    def __init__(self, handler: Handler, *, config: ReceiverConfig, metrics: Metrics) -> None:
        super().__init__(
            handler,
            access_log=None,
            auto_decompress=False,  # it would not stop at our limit
            keepalive_timeout=config.keepalive_timeout,
            lingering_time=LINGER,
            max_line_size=HEAD_MAX_BYTES,
            max_field_size=HEAD_MAX_BYTES,
            max_headers=HEAD_MAX_FIELDS,
            read_bufsize=READ_BUFFER,
        )
        self.config = config
        self.metrics = metrics
        self.open = 0

    def __call__(self) -> RequestHandler:
        """A protocol for a new connection."""
        return GuardedConnection(self)


class GuardedConnection(RequestHandler):
    """One connection with a deadline for each head."""

    __slots__ = ("_admitted", "_head_begun", "_head_timer", "_server")

    def __init__(self, server: GuardedServer) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **server._kwargs)  # noqa: SLF001 - as aiohttp's own Server does
        self._server = server
        self._head_timer: asyncio.TimerHandle | None = None
        self._admitted = False
        self._head_begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or answer at once that there are too many."""
        transport = cast("asyncio.Transport", transport)
        if self._server.open >= self._server.config.max_connections:
            refusal = Refusal(Reason.OVERLOADED, "too many connections")
            self._server.metrics.refused(refusal.reason)
            transport.write(refused_raw(refusal))
            transport.close()
            return
        self._admitted = True
        self._server.open += 1
        opened = transport.get_extra_info("socket")
        if opened is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNANSWERED_MS)
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._head_arrived()
        if self._admitted:
            self._server.open -= 1
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and keep the time while a head is incomplete."""
        if not self._admitted:
            return
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._head_arrived()
        elif self._idle:
            self._head_begun = True
            if self._head_timer is None:
                self._expect_head()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - aiohttp's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - likewise; it may quote the request
    ) -> web.StreamResponse:
        """Answer what is not HTTP, or a fault of our own, in the form of every other refusal."""
        if status == Refusal(Reason.MALFORMED_REQUEST, "").status:
            refusal = Refusal(Reason.MALFORMED_REQUEST, "this is not a well-formed HTTP request")
        else:
            refusal = Refusal(Reason.FAULT, "a fault of the receiver; nothing was accepted")
            log.error("request.failed", error_type=type(exc).__qualname__)
        self._server.metrics.refused(refusal.reason)
        return refused(refusal)

    @property
    def _idle(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def _expect_head(self) -> None:
        self._head_timer = self._loop.call_later(
            self._server.config.header_timeout, self._head_missing, self._request_count
        )

    def _head_arrived(self) -> None:
        self._head_begun = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_missing(self, requests: int) -> None:
        self._head_timer = None
        if self.transport is None or requests != self._request_count:
            return
        if self._head_begun:
            refusal = Refusal(Reason.TIMEOUT, "the head of the request did not arrive in time")
            self._server.metrics.refused(refusal.reason)
            self.transport.write(refused_raw(refusal))
        self.force_close()
