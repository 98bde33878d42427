"""A real Prometheus beside the real processes: it sees every figure, and tells of each fault."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import apsw
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
METRICS = (RULES.parents[1] / "metrics.md").read_text()
LIMIT = 60


SHORTER = {"> 300": "> 3", "> 60": "> 8", "> 10\n": "> 2\n", "> 5\n": "> 0.3\n"}
"""Thresholds in seconds that a test has not the patience for."""


def shortened() -> str:
    """The rules thirty times as impatient."""
    text = re.sub(r"for: (\d+)m", lambda m: f"for: {int(m[1]) * 2}s", RULES.read_text())
    text = re.sub(r"\[\d+[mh]\]", "[20s]", text)
    for long, short in SHORTER.items():
        assert long in text
        text = text.replace(long, short)
    return text


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


@contextlib.asynccontextmanager
async def broker_down(everything: World) -> AsyncIterator[None]:
    await asyncio.to_thread(everything.broker.kill)
    yield
    await asyncio.to_thread(everything.broker.start)


@contextlib.asynccontextmanager
async def store_down(everything: World) -> AsyncIterator[None]:
    other = apsw.Connection(str(everything.folder / "correio.db"))
    other.execute("BEGIN IMMEDIATE")
    await everything.source.send(rate=10, seconds=1)
    yield
    other.execute("ROLLBACK")
    other.close()


@contextlib.asynccontextmanager
async def worker_stopped(everything: World) -> AsyncIterator[None]:
    assert await asyncio.to_thread(everything.parts["events"].stop) == 0
    yield
    everything.parts["events"].start()


@contextlib.asynccontextmanager
async def endpoint_down(everything: World) -> AsyncIterator[None]:
    everything.endpoint.always = 500
    await everything.source.send(rate=10, seconds=2)
    yield
    everything.endpoint.always = 200


@contextlib.asynccontextmanager
async def endpoint_slow(everything: World) -> AsyncIterator[None]:
    everything.endpoint.seconds = 0.8
    sending = asyncio.create_task(everything.source.send(rate=1, seconds=LIMIT, size=1))
    yield
    sending.cancel()
    everything.endpoint.seconds = 0.0


@contextlib.asynccontextmanager
async def quarantine_growing(everything: World) -> AsyncIterator[None]:
    for number in range(3):
        unknown = {"eventName": f"nobody_knows_{number}"}
        await ask(Listener(everything.port), request(orjson.dumps([unknown])))
        await asyncio.sleep(1.5)  # so that scrapes see it grow
    yield


@contextlib.asynccontextmanager
async def spool_growing(everything: World) -> AsyncIterator[None]:
    alarm = ("set_vm_memory_high_watermark", "absolute", "1")
    await asyncio.to_thread(everything.broker.rabbitmqctl, *alarm)
    await everything.source.send(rate=10, seconds=1)
    yield
    await asyncio.to_thread(everything.broker.rabbitmqctl, "set_vm_memory_high_watermark", "0.4")


@contextlib.asynccontextmanager
async def receiver_gone(everything: World) -> AsyncIterator[None]:
    assert await asyncio.to_thread(everything.parts["receiver"].stop) == 0
    yield
    everything.parts["receiver"].start()


@contextlib.asynccontextmanager
async def deliveries_late(everything: World) -> AsyncIterator[None]:
    worker = everything.parts["callbacks"]
    os.kill(worker.pid, signal.SIGSTOP)
    for _ in range(4):
        await everything.source.send(rate=10, seconds=2)
    os.kill(worker.pid, signal.SIGCONT)
    yield


FAULTS = {
    broker_down: "CorreioBrokerDown",
    store_down: "CorreioStoreDown",
    worker_stopped: "CorreioWorkerStopped",
    endpoint_down: "CorreioEndpointDown",
    endpoint_slow: "CorreioEndpointSlow",
    quarantine_growing: "CorreioQuarantineGrowing",
    spool_growing: "CorreioSpoolGrowing",
    deliveries_late: "CorreioDeliveriesLate",
    receiver_gone: "CorreioReceiversGone",
}


@pytest.mark.deep
@pytest.mark.timeout(240)
async def test_every_query_of_every_panel_finds_data(
    tmp_path: Path, metered_broker: PrivateBroker
) -> None:
    async with (
        world(
            tmp_path,
            metered_broker,
            sqlite_in(tmp_path),
            console={"port": free_port(), "sample_interval": 1.0},
        ) as everything,  # fmt: skip
        prometheus(tmp_path, everything) as seen,
    ):
        await something_of_everything(everything)
        missing = {one for panels in DASHBOARDS.values() for p in panels for one, _ in p.queries}

        async def all_answered() -> bool:
            for query in list(missing):
                if await seen.query(query.replace("$__rate_interval", "1m")):
                    missing.discard(query)
            return all(any(name in query for name in SELDOM) for query in missing)

        try:
            await until(all_answered)
        except TimeoutError:
            raise AssertionError(f"no data for {missing}") from None
        assert await told_by(everything) == set(re.findall(r"^\| `(\w+)`", METRICS, re.MULTILINE))


async def told_by(everything: World) -> set[str]:
    """The names of all metrics that the processes serve."""
    names: set[str] = set()
    async with aiohttp.ClientSession() as http:
        for part in everything.parts.values():
            async with http.get(f"http://127.0.0.1:{part.port}/metrics") as answer:
                text = await answer.text()
            names |= set(re.findall(r"^# TYPE (correio_\w+)", text, re.MULTILINE))
    return {name for name in names if not name.endswith("_created")}


@pytest.mark.deep
@pytest.mark.timeout(900)
async def test_each_fault_is_told_and_nothing_else(
    tmp_path: Path, private_broker: PrivateBroker
) -> None:
    async with (
        world(
            tmp_path,
            private_broker,
            sqlite_in(tmp_path),
            console={"port": free_port(), "sample_interval": 1.0},
        ) as everything,  # fmt: skip
        prometheus(tmp_path, everything) as seen,
    ):

        async def calm() -> bool:
            return not await seen.firing()

        await everything.source.send(rate=10, seconds=2)
        for fault, alert in FAULTS.items():
            await everything.settled()
            await until(calm)
            told: set[str] = set()

            async def is_told(told: set[str] = told) -> bool:
                told |= await seen.firing()
                return bool(told)

            async with fault(everything):
                try:
                    await until(is_told)
                except TimeoutError:
                    raise AssertionError(f"{fault.__name__}: {alert} was not raised") from None
            assert told == {alert}, fault.__name__
