"""Endpoints to deliver to: one that keeps what it was sent, and hostile ones on raw sockets."""

import asyncio
import contextlib
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson
from aiohttp import web
from msgspec import Struct
from standardwebhooks import Webhook

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" + "AAAA"
SECOND_SECRET = "whsec_" + "C2FVsBQIhrscChlQIMV+b5sSYspob7oD" + "BBBB"

Answer = tuple[int, Mapping[str, str], bytes] | int
Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Call(Struct, frozen=True):
    """One request as it came in; `at` is the loop's time in seconds."""

    webhook_id: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def content(self) -> dict[str, Any]:
        content: dict[str, Any] = orjson.loads(self.body)
        return content


class Endpoint:
    """An aiohttp server that verifies every call with the published library.

    `answers` is consumed call by call; after it everything is answered 200. `gate` is awaited
    before each answer, so that a test can hold answers back; `seconds` pass before each.
    """

    def __init__(self, *answers: Answer, secrets: Sequence[str] = (SECRET,)) -> None:
        self.answers = list(answers)
        self.always: Answer = 200
        self.calls: list[Call] = []
        self.wrong: list[Exception] = []
        self.seconds = 0.0
        self.in_flight = 0
        self.most_in_flight = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.port = 0
        self._verifiers = [Webhook(secret) for secret in secrets]
        self._news = asyncio.Condition()

    @property
    def url(self) -> str:
        return self.url_at("127.0.0.1", self.port)

    def url_at(self, host: str, port: int) -> str:
        """Its URL for those who come another way."""
        return f"http://{host}:{port}/hooks?key=hidden"

    @property
    def by_id(self) -> dict[str, list[Call]]:
        found: dict[str, list[Call]] = defaultdict(list)
        for call in self.calls:
            found[call.webhook_id].append(call)
        return dict(found)

    async def wait_calls(self, count: int, *, limit: float = 20) -> None:
        """Return once there were `count` calls."""
        async with asyncio.timeout(limit), self._news:
            await self._news.wait_for(lambda: len(self.calls) >= count)

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            for verifier in self._verifiers:
                try:
                    verifier.verify(body, dict(request.headers))
                except Exception as error:  # noqa: BLE001 - a test asserts that there was none
                    self.wrong.append(error)
            self.calls.append(
                Call(
                    request.headers["webhook-id"],
                    {name.lower(): value for name, value in request.headers.items()},
                    body,
                    asyncio.get_running_loop().time(),
                )
            )
            async with self._news:
                self._news.notify_all()
            answer = self.answers.pop(0) if self.answers else self.always
            await self.gate.wait()
            await asyncio.sleep(self.seconds)
        finally:
            self.in_flight -= 1
        status, headers, text = answer if isinstance(answer, tuple) else (answer, {}, b"")
        return web.Response(status=status, headers=headers, body=text)


@contextlib.asynccontextmanager
async def serving(endpoint: Endpoint, *, port: int = 0) -> AsyncIterator[Endpoint]:
    """Serve an endpoint on the loopback interface; a `port` of 0 takes a free one."""
    app = web.Application()
    app.router.add_post("/hooks", endpoint.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
    endpoint.port = runner.addresses[0][1]
    try:
        yield endpoint
    finally:
        endpoint.gate.set()
        await runner.cleanup()


@contextlib.asynccontextmanager
async def raw_server(handle: Handle, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that does just what `handle` does after the head of a request; yields its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(
                ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError
            ):
                await reader.readuntil(b"\r\n\r\n")
                await handle(reader, writer)
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
