"""HTTP on both sides: requests handed to the real receiver, calls made by the real caller."""

import asyncio
import hashlib
import hmac
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import HttpVersion11
from multidict import CIMultiDict
from standardwebhooks import Webhook
from yarl import URL

from receiver.signature import HEADER
from tests.chaos.simulated.loop import EPOCH, Life, SimLoop, current
from tests.chaos.simulated.weather import Weather
from tests.support.endpoints import SECRET as ENDPOINT_SECRET
from tests.support.http import SECRET
from worker.callbacks.attempt import Caller

TRAVEL = 0.002
"""Seconds that a request or an answer is under way, typically."""


class Body:
    """The body of a request or an answer, as it is read."""

    def __init__(self, content: bytes, *, broken: bool = False) -> None:
        self._left = content
        self._broken = broken
        self.total_raw_bytes = len(content)

    def is_eof(self) -> bool:
        return True

    async def readany(self) -> bytes:
        left, self._left = self._left, b""
        return left

    async def read(self, _most: int) -> bytes:
        return await self.readany()

    async def iter_any(self) -> AsyncIterator[bytes]:
        yield await self.readany()
        if self._broken:
            raise aiohttp.ClientPayloadError("simulated")


class Request:
    """A POST of the source, signed."""

    method = "POST"
    path = "/v1/webhooks/klavi"
    remote = "127.0.0.1"
    version = HttpVersion11
    keep_alive = True
    body_exists = True

    def __init__(self, body: bytes) -> None:
        self.content = Body(body)
        self.content_length = len(body)
        digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        self.headers = CIMultiDict({
            HEADER: digest,
            "Content-Type": "application/json",
            "traceparent": f"00-{digest[:32]}-{digest[32:48]}-00",
        })  # fmt: skip


class SimServer:
    """Stands in for `receiver.server.Server`: requests come from the simulated source."""

    port = 0

    def __init__(self, handle: Callable[[Any], Awaitable[Any]]) -> None:
        self._handle = handle
        self._life = current()
        self._running: set[asyncio.Task[int]] = set()
        self.listening = False

    async def start(self, **_: Any) -> None:
        self.listening = True

    async def stop(self, *, grace: float) -> None:
        """As aiohttp does: wait for what is in hand, then cancel it."""
        self.listening = False
        if self._running:
            await asyncio.wait(list(self._running), timeout=grace)
        for task in self._running:
            task.cancel()

    def take(self, body: bytes) -> asyncio.Future[int]:
        """A request has arrived; the status of its answer, 0 when the connection breaks."""
        answer: asyncio.Future[int] = self._life.loop.create_future()

        def broken() -> None:
            if not answer.done():
                answer.set_result(0)

        def ended(task: asyncio.Task[int]) -> None:
            self._running.discard(task)
            if task.cancelled():
                broken()
            elif not answer.done():
                answer.set_result(task.result())

        self._life.endings.append(broken)
        task = self._life.spawn(self._answer(body))
        self._running.add(task)
        task.add_done_callback(ended, context=self._life.context)
        return answer

    async def _answer(self, body: bytes) -> int:
        status: int = (await self._handle(Request(body))).status
        return status


class Call:
    """One call that an endpoint received."""

    def __init__(self, body: bytes, *, answered: int | None) -> None:
        self.body = body
        self.answered = answered


class SimEndpoint:
    """An endpoint: logs what it gets and answers as the seed has it."""

    def __init__(self, name: str, loop: SimLoop, weather: Weather) -> None:
        self.name = name
        self.loop = loop
        self.weather = weather
        self.calls: defaultdict[str, list[Call]] = defaultdict(list)
        self.in_flight: dict[str, Life] = {}
        self.faults: list[str] = []
        self.gone_until = 0.0
        self.down_until = 0.0
        self.exclusive = True
        self._verifier = Webhook(ENDPOINT_SECRET)

    async def serve(self, headers: dict[str, str], body: bytes) -> "Answer":
        """Take one call."""
        life, weather, now = current(), self.weather, self.loop.time()
        await asyncio.sleep(weather.latency(TRAVEL))
        if now < self.down_until or weather.strikes("endpoint refuses connections"):
            raise aiohttp.ServerDisconnectedError if weather.chance.random() < 0.5 else OSError
        self._check(headers, body)
        one = headers["webhook-id"]
        other = self.in_flight.get(one)
        if other is not None and not other.dead and self.exclusive:
            self.faults.append(f"{one} is attempted twice at once")
        self.in_flight[one] = life
        try:
            return await self._answer(one, body)
        finally:
            if self.in_flight.get(one) is life:
                del self.in_flight[one]

    async def _answer(self, one: str, body: bytes) -> "Answer":
        weather = self.weather
        if weather.strikes("endpoint hangs"):
            await asyncio.Event().wait()
        if weather.strikes("endpoint is slow"):
            await asyncio.sleep(weather.between(0.1, 4))
        status, headers, broken = 200, {}, False
        if self.loop.time() < self.gone_until:
            status = 410
        elif weather.strikes("endpoint answers an error"):
            status = weather.one_of([500, 503, 404, 400, 302, 502])
        elif weather.strikes("endpoint throttles"):
            status, headers = 429, {"retry-after": str(weather.chance.randrange(4))}
        elif weather.strikes("endpoint's answer breaks off"):
            broken = True
        self.calls[one].append(Call(body, answered=status))
        await asyncio.sleep(weather.latency(TRAVEL))
        if weather.strikes("endpoint's answer is lost"):
            raise aiohttp.ServerDisconnectedError
        return Answer(status, headers, Body(b"thanks", broken=broken))

    def _check(self, headers: dict[str, str], body: bytes) -> None:
        """Verify the signature with the published library."""
        at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
        right = self._verifier.sign(headers["webhook-id"], at, body.decode())
        if right not in headers["webhook-signature"].split():
            self.faults.append(f"{headers['webhook-id']} is wrongly signed")
        if abs(at.timestamp() - EPOCH / 1000 - self.loop.time()) > 3600:
            self.faults.append(f"{headers['webhook-id']} has a wrong timestamp")


class Answer:
    """What aiohttp gives for an answer."""

    def __init__(self, status: int, headers: dict[str, str], content: Body) -> None:
        self.status = status
        self.headers = headers
        self.content = content
        self.content_length = None

    def close(self) -> None:
        """There is no connection."""


class Post:
    """``session.post(...)``: entered for the answer."""

    def __init__(self, answer: Awaitable[Answer]) -> None:
        self._answer = answer

    async def __aenter__(self) -> Answer:
        return await self._answer

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to give back."""


class Session:
    """Stands in for ``aiohttp.ClientSession``."""

    def __init__(self, endpoints: dict[str, SimEndpoint]) -> None:
        self._endpoints = endpoints

    def post(self, url: URL, *, data: bytes, headers: dict[str, str], **_: Any) -> Post:
        return Post(self._endpoints[url.path[1:]].serve(headers, data))

    async def close(self) -> None:
        """There are no connections."""


class SimCaller(Caller):
    """The real caller over simulated connections."""

    endpoints: dict[str, SimEndpoint]

    async def __aenter__(self) -> Self:
        session: Any = Session(self.endpoints)
        self._sessions = {True: session, False: session}
        return self
