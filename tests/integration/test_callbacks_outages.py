"""The callbacks worker while broker and store come and go."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from deploy.local.provide import PrivateBroker
from shared.config import Secret
from shared.errors import SchemaError, StoreUnavailableError
from shared.store.database import SqliteDatabase
from shared.store.migrate import migrate
from shared.store.sqlite.store import SqliteStore
from tests.support.callbacks import bench, endpoint_config, sqlite_in
from tests.support.deliveries import attempts, rows, seed, until
from tests.support.endpoints import SECRET, Endpoint, serving
from tests.support.workers import running, write_config

QUICK = {
    "schedule": [0.2, 0.5, 1.0, 1.0, 1.0, 1.0], "attempt_timeout": 3.0, "lease_margin": 1.0,
    "wake_grace": 3.0,
}  # fmt: skip


def config_of(folder: Path, *, store: str, url: str) -> Path:
    endpoints = [endpoint_config("crm", url)]
    return write_config(folder, store=store, endpoints=endpoints, callbacks=QUICK)


def logged(folder: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (folder / "worker.log").read_bytes().splitlines()]


def said(folder: Path, event: str) -> bool:
    path = folder / "worker.log"
    return path.exists() and f'"{event}"'.encode() in path.read_bytes()


def all_delivered(url: str, count: int) -> bool:
    found = [one.state for one in rows(url).values()]
    return found == ["delivered"] * count


async def test_it_starts_before_broker_and_store_and_stops_on_sigterm(
    tmp_path: Path, private_broker: PrivateBroker
) -> None:
    url = private_broker.url
    await asyncio.to_thread(private_broker.stop)
    async with serving(Endpoint()) as endpoint:
        config = config_of(tmp_path, store=sqlite_in(tmp_path), url=endpoint.url)
        async with running(config, broker=url) as worker:
            await until(lambda: said(tmp_path, "store.unavailable"))
            async with bench(sqlite_in(tmp_path), url) as ready:
                await until(lambda: said(tmp_path, "broker.unavailable"))
                await asyncio.to_thread(private_broker.start)
                await seed(ready.store, endpoints=["crm"], due=[ready.now] * 20)
                await endpoint.wait_calls(20)
                await until(lambda: all_delivered(ready.url, 20))
                worker.send_signal(signal.SIGTERM)
                async with asyncio.timeout(10):
                    assert await worker.wait() == 0
    lines = logged(tmp_path)
    assert sum(line["event"] == "attempt.finished" for line in lines) == 20
    text = (tmp_path / "worker.log").read_text()
    for hidden in ("João", "hidden", SECRET, "/hooks", "[withheld]"):
        assert hidden not in text


async def test_what_the_broker_has_lost_with_its_data_is_delivered_soon(
    tmp_path: Path, private_broker: PrivateBroker
) -> None:
    async with (
        bench(sqlite_in(tmp_path), private_broker.url) as ready,
        serving(Endpoint()) as endpoint,
    ):
        endpoint.always = 500
        ready.endpoints(
            endpoint_config("crm", endpoint.url), schedule=(6.0, 1.0), breaker_failures=1_000
        )
        ids = await seed(ready.store, endpoints=["crm"], due=[ready.now] * 30)
        async with ready.worker() as service:
            await endpoint.wait_calls(30)
            await until(lambda: all(one.attempts == 1 for one in rows(ready.url).values()))
            await asyncio.to_thread(private_broker.kill)
            fresh = await seed(ready.store, endpoints=["crm"], due=[ready.now] * 10)
            endpoint.always = 200
            await asyncio.to_thread(private_broker.wipe)
            await asyncio.to_thread(private_broker.start)
            await until(lambda: service._consumer.consuming and service._publisher.connected)
            began = ready.now
            await until(lambda: all_delivered(ready.url, 40))
            assert ready.now - began < 10_000
        assert set(endpoint.by_id) == {*ids, *fresh}
        assert all(len({call.body for call in calls}) == 1 for calls in endpoint.by_id.values())


async def test_a_worker_killed_in_the_middle_loses_nothing(tmp_path: Path, broker_url: str) -> None:
    async with bench(sqlite_in(tmp_path), broker_url) as ready, serving(Endpoint()) as endpoint:
        endpoint.gate.clear()
        await seed(ready.store, endpoints=["crm"], due=[ready.now] * 40)
        config = config_of(tmp_path, store=ready.url, url=endpoint.url)
        async with running(config, broker=broker_url):
            await endpoint.wait_calls(10)
        endpoint.gate.set()
        async with running(config, broker=broker_url):
            await until(lambda: all_delivered(ready.url, 40))
        assert len(endpoint.by_id) == 40
        assert all(len({call.body for call in calls}) == 1 for calls in endpoint.by_id.values())
        assert endpoint.wrong == []


async def test_a_store_that_goes_away_costs_no_attempts(
    tmp_path: Path, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call on the store fails for a while: work pauses, then it all goes on."""
    away = False
    names = ("take_wakeups", "park", "load", "claim", "record", "endpoint_rows", "release_held",
             "ping")  # fmt: skip
    for name in names:
        whole = getattr(SqliteStore, name)

        def wrap(self: SqliteStore, *args: Any, _whole: Any = whole, **more: Any) -> Any:
            if away:
                raise StoreUnavailableError("away")
            return _whole(self, *args, **more)

        monkeypatch.setattr(SqliteStore, name, wrap)
    async with bench(sqlite_in(tmp_path), broker_url) as ready, serving(Endpoint()) as endpoint:
        endpoint.gate.clear()
        ready.endpoints(endpoint_config("crm", endpoint.url, max_in_flight=3))
        await seed(ready.store, endpoints=["crm"], due=[ready.now] * 20)
        async with ready.worker() as service:
            await endpoint.wait_calls(3)
            away = True
            endpoint.gate.set()
            await until(lambda: service.checks["store"]() == "away")
            assert len(endpoint.calls) == 3
            away = False
            await until(lambda: all_delivered(ready.url, 20))
            assert service.checks["store"]() is None
        assert all(len(made) == 1 for made in attempts(ready.url).values())


async def test_a_stop_while_the_store_is_away_does_not_wait_for_it(
    tmp_path: Path, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: Any, **__: Any) -> Any:
        raise StoreUnavailableError("away")

    async with bench(sqlite_in(tmp_path), broker_url) as ready, serving(Endpoint()) as endpoint:
        ready.endpoints(endpoint_config("crm", endpoint.url))
        await seed(ready.store, endpoints=["crm"], due=[ready.now])
        async with ready.worker():
            await endpoint.wait_calls(1)
            for name in ("take_wakeups", "record", "endpoint_rows", "ping", "park"):
                monkeypatch.setattr(SqliteStore, name, gone)


async def test_it_stops_in_time_although_the_broker_does_not_answer(
    tmp_path: Path, private_broker: PrivateBroker
) -> None:
    store = sqlite_in(tmp_path)
    async with bench(store, private_broker.url) as ready, serving(Endpoint()) as endpoint:
        config = config_of(tmp_path, store=store, url=endpoint.url)
        await seed(ready.store, endpoints=["crm"], due=[ready.now])
        async with running(config, broker=private_broker.url) as worker:
            await endpoint.wait_calls(1)
            await asyncio.to_thread(private_broker.pause)
            (one,) = await seed(ready.store, endpoints=["crm"], due=[ready.now])
            written = rows(store)[one].wake_at
            await until(lambda: rows(store)[one].wake_at > written)  # it is being published
            worker.send_signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                assert await worker.wait() == 0
            await asyncio.to_thread(private_broker.resume)


async def test_a_store_seen_before_its_migration_is_seen_after_it(tmp_path: Path) -> None:
    empty = SqliteDatabase(tmp_path / "correio.db", busy_timeout=5)
    await empty.open()
    await empty.close()
    store = SqliteStore(tmp_path / "correio.db", busy_timeout=5)
    with pytest.raises(SchemaError):
        await store.start()
    await migrate(Secret(sqlite_in(tmp_path)))
    await store.start()
    await store.close()


async def test_it_does_not_start_without_knowing_its_work(tmp_path: Path) -> None:
    for arguments in ([], ["nonsense"], ["events", "callbacks"]):
        made = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "worker", *arguments, stderr=asyncio.subprocess.PIPE
        )
        _, text = await made.communicate()
        assert (made.returncode, text) == (
            2,
            b"usage: python -m worker events|callbacks|probe ENDPOINT\n",
        )
