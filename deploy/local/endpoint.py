"""A service that gets callbacks, for the demo: it checks each one and remembers what it was told.

Checks the signature by the text of Standard Webhooks 1.0.0 and not with the code that signs.
"""

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web
from msgspec import Struct

PATH = "/hooks"
SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix of every such secret


class Received(Struct, frozen=True):
    """One callback as it came: its id, its body, what it was answered."""

    webhook_id: str
    type: str
    data: dict[str, Any]
    answer: int

    @property
    def aggregate(self) -> tuple[str, str]:
        """Kind and id of what the callback tells of."""
        return str(self.data["aggregate"]), str(self.data["id"])


def signature_fits(headers: Mapping[str, str], body: bytes, secret: str) -> bool:
    """Whether one of the signatures was made with this secret over id, time and body."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    moment = headers.get("webhook-timestamp", "")
    text = f"{headers.get('webhook-id', '')}.{moment}.".encode() + body
    expected = base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
    offered = headers.get("webhook-signature", "").split()
    return any(hmac.compare_digest(f"v1,{expected}", one) for one in offered)


class LocalEndpoint:
    """An HTTP server on the loopback interface.

    Attributes:
        received: every callback whose signature fits, in order of arrival.
        refused: how many had a signature that does not fit; they are answered 401.
    """

    def __init__(self, *, refuse_type: str, refusals: int, lose_type: str | None = None) -> None:
        """Answer 500 to the first `refusals` callbacks of `refuse_type`; forget `lose_type`."""
        self.secret = ""
        self.received: list[Received] = []
        self.refused = 0
        self.port = 0
        self._refuse_type = refuse_type
        self._refusals = refusals
        self._lose_type = lose_type
        self._news = asyncio.Event()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where callbacks go."""
        return f"http://127.0.0.1:{self.port}{PATH}"

    @property
    def accepted(self) -> list[Received]:
        """The callbacks that were answered 200."""
        return [one for one in self.received if one.answer == web.HTTPOk.status_code]

    async def start(self) -> None:
        """Listen on a free port."""
        app = web.Application()
        app.router.add_post(PATH, self._receive)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def wait_news(self, timeout: float) -> None:  # noqa: ASYNC109 - a pause, not a failure
        """Return at the next callback, or after `timeout` seconds without one."""
        self._news.clear()
        try:
            async with asyncio.timeout(timeout):
                await self._news.wait()
        except TimeoutError:
            return

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        self._news.set()
        if not signature_fits(request.headers, body, self.secret):
            self.refused += 1
            return web.Response(status=401)
        callback = orjson.loads(body)
        status = 200
        if callback["type"] == self._refuse_type and self._refusals > 0:
            self._refusals -= 1
            status = 500
        if callback["type"] != self._lose_type:
            self.received.append(
                Received(
                    webhook_id=request.headers["webhook-id"],
                    type=callback["type"],
                    data=callback["data"],
                    answer=status,
                )
            )
        return web.Response(status=status)
