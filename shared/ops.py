"""Health and metrics of a process, on a port of its own."""

from collections.abc import Callable, Mapping
from importlib.metadata import version

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Info, generate_latest

from shared.config import OpsConfig

BUILD = Info("correio_build", "The release that runs.")
BUILD.info({"version": version("correio")})

Check = Callable[[], str | None]
"""Returns None when all is well, else what is wrong, without personal data."""


class OpsServer:
    """Serves ``/livez``, ``/readyz`` and ``/metrics``.

    ``/livez`` is 200 while the event loop turns. ``/readyz`` is 200 when every check passes, else
    503; both ways its body names each check, so that a human sees what is missing.
    """

    def __init__(
        self, config: OpsConfig, *, checks: Mapping[str, Check], registry: CollectorRegistry
    ) -> None:
        self._config = config
        self._checks = checks
        self._registry = registry
        self._runner: web.AppRunner | None = None
        self.port = config.port

    async def start(self) -> None:
        """Bind and serve; `port` is the real one afterwards."""
        app = web.Application()
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._config.host, self._config.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop serving."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        faults = {name: check() for name, check in self._checks.items()}
        ready = not any(faults.values())
        body = {"ready": ready, "checks": {n: fault or "ok" for n, fault in faults.items()}}
        return web.Response(
            body=orjson.dumps(body),
            status=200 if ready else 503,
            content_type="application/json",
        )

    async def _metrics(self, _request: web.Request) -> web.Response:
        body = generate_latest(self._registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
