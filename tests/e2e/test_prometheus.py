"""A real Prometheus beside the real processes: it sees every figure, and a stopped worker."""

import asyncio
import contextlib
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from deploy.grafana.make_dashboards import DASHBOARDS
from deploy.local import tether
from deploy.local.provide import PrivateBroker
from deploy.local.rabbitmq import free_port
from tests.support import events as ev
from tests.support.callbacks import sqlite_in
from tests.support.cli import correio
from tests.support.http import ask, request
from tests.support.world import Listener, World, world

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"
LIMIT = 60


def shortened() -> str:
    """The rules with seconds for minutes."""
    text = re.sub(r"for: \d+m", "for: 2s", RULES.read_text())
    return re.sub(r"\[\d+[mh]\]", "[20s]", text)


class Prometheus:
    """Its answers."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}/api/v1"

    async def ask(self, path: str, **values: str) -> Any:
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{self._base}/{path}", params=values) as answer,
        ):
            return orjson.loads(await answer.read())["data"]

    async def query(self, expression: str) -> list[Any]:
        found: list[Any] = (await self.ask("query", query=expression))["result"]
        return found

    async def firing(self) -> set[str]:
        alerts = (await self.ask("alerts"))["alerts"]
        return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}


@contextlib.asynccontextmanager
async def prometheus(folder: Path, everything: World) -> AsyncIterator[Prometheus]:
    """It scrapes every process once a second."""
    program = shutil.which("prometheus")
    assert program, "prometheus is missing; Debian's package of that name has it"
    port = free_port()
    targets = {role: [f"127.0.0.1:{part.port}"] for role, part in everything.parts.items()}
    (folder / "alerts.yml").write_text(shortened())
    (folder / "prometheus.yml").write_bytes(
        orjson.dumps(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": ["alerts.yml"],
                "scrape_configs": [
                    {"job_name": f"correio-{role}", "static_configs": [{"targets": one}]}
                    for role, one in targets.items()
                ],
            }
        )
    )
    server = tether.spawn(
        [
            program, f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address=127.0.0.1:{port}",
        ],
        env={}, output=folder / "prometheus.log",
    )  # fmt: skip
    try:
        seen = Prometheus(port)

        async def scraped() -> bool:
            try:
                return len(await seen.query("up == 1")) == len(targets)
            except aiohttp.ClientError:
                return False

        await until(scraped)
        yield seen
    finally:
        await asyncio.to_thread(tether.end, server, grace=5)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LIMIT):
        while not await condition():
            await asyncio.sleep(0.2)


async def something_of_everything(everything: World) -> None:
    """Events applied, repeated, refused and quarantined; callbacks failing, held and released."""
    receiver = Listener(everything.port)
    everything.endpoint.answers = [500] * 3
    await everything.source.send(rate=10, seconds=2)
    await ask(receiver, request(b"not JSON"))
    await ask(receiver, request(orjson.dumps([{"eventName": "nobody_knows"}])))
    await correio(everything.config, "endpoints", "pause", "crm")
    await everything.source.send(rate=10, seconds=2)
    await correio(everything.config, "endpoints", "resume", "crm")
    await everything.strike("broker", pause=0)
    await everything.source.send(rate=10, seconds=1)
    await ask(receiver, request(ev.dump(everything.source.made[:20])))
    await everything.settled()


SELDOM = {
    "correio_callbacks_parked_total", "correio_callbacks_held_total",
    "correio_callbacks_released_total",
}  # fmt: skip
"""Counted by labels that appear with the first case, which a short run may not have."""


@pytest.mark.deep
@pytest.mark.timeout(240)
async def test_prometheus_sees_every_figure_and_tells_of_a_stopped_worker(
    tmp_path: Path, private_broker: PrivateBroker
) -> None:
    async with (
        world(tmp_path, private_broker, sqlite_in(tmp_path)) as everything,
        prometheus(tmp_path, everything) as seen,
    ):
        await something_of_everything(everything)
        queries = {
            query for panels in DASHBOARDS.values() for p in panels for query, _ in p.queries
        }
        missing = set(queries)

        async def all_answered() -> bool:
            for query in list(missing):
                if await seen.query(query.replace("$__rate_interval", "1m")):
                    missing.discard(query)
            return all(any(name in query for name in SELDOM) for query in missing)

        try:
            await until(all_answered)
        except TimeoutError:
            raise AssertionError(f"no data for {missing}") from None

        async def calm() -> bool:
            return not await seen.firing()

        await until(calm)
        assert everything.parts["events"].stop() == 0

        async def told() -> bool:
            return await seen.firing() == {"CorreioWorkerStopped"}

        await until(told)
        everything.parts["events"].start()
        await until(calm)
