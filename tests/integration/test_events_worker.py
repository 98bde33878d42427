"""The events worker as a process: on a real broker and real stores, and when they go away."""

import asyncio
import contextlib
import random
import re
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aio_pika
import apsw
import pytest

from deploy.local.postgres import Postgres
from deploy.local.provide import PrivateBroker
from shared.broker import headers, topology
from shared.broker.depth import depths
from shared.broker.publisher import ConfirmingPublisher, Outgoing
from shared.clock import SystemClock
from shared.config import BrokerConfig, Secret, StoreConfig
from shared.eraser import TASK
from shared.store.migrate import migrate
from shared.store.open import open_store
from tests.support import books
from tests.support import events as ev
from tests.support.processes import Process, process, write_config

LIMIT = 60
HOUR = 3_600_000


def configuration(folder: Path, broker: str, store: str, **events: Any) -> Path:
    return write_config(
        folder,
        broker={"url": broker, "reconnect_max": 0.3},
        store={"url": store, "busy_timeout": 0.5, "connect_timeout": 1.0},
        events={"pause_max": 0.3, "batch_max": 20, **events},
        endpoint=[{"id": "crm", "url": "http://127.0.0.1:9/", "secrets": ["whsec_c2VjcmV0"]}],
    )


@contextlib.asynccontextmanager
async def publishing(url: str) -> AsyncIterator[Callable[[Any], Awaitable[None]]]:
    publisher = ConfirmingPublisher(
        BrokerConfig(url=Secret(url), reconnect_max=0.3), name="test", queue=topology.EVENTS
    )
    task = asyncio.create_task(publisher.run())

    async def publish(*made: Any, **more: Any) -> None:
        fields = {headers.SOURCE: "klavi", headers.BATCH_ID: "b", headers.RECEIVED_AT: ev.EPOCH}
        await publisher.publish([
            Outgoing(one if isinstance(one, bytes) else ev.dump(one), topology.EVENTS,
                     topology.EVENTS, {**fields, **more})
            for one in made
        ])  # fmt: skip

    try:
        async with asyncio.timeout(LIMIT):
            await publisher.wait_connected()
        yield publish
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], Any], *, limit: float = LIMIT) -> None:
    async with asyncio.timeout(limit):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)


def stored(url: str) -> int:
    return int(books.fetch(url, "SELECT count(*) FROM events")[0][0])


async def ready(url: str, queue: str = topology.EVENTS) -> int:
    return next(one.ready for one in await depths(Secret(url)) if one.name == queue)


@contextlib.contextmanager
def events_worker(tmp_path: Path, config: Path, name: str = "1") -> Any:
    with process("worker", "events", config=config, log=tmp_path / f"worker-{name}.log") as made:
        yield made


async def test_events_flow_from_the_queue_into_state(
    broker_url: str, store_url: str, tmp_path: Path
) -> None:
    await topology.declare(broker_url)
    config = configuration(tmp_path, broker_url, store_url)
    with events_worker(tmp_path, config) as worker:
        worker.start()
        async with publishing(broker_url) as publish:
            await publish(*(ev.event(name, at=i) for i, name in enumerate(ev.NAMES)), b'{"x":1}')
        await until(lambda: stored(store_url) == 10)
        await worker.until_ready()
        assert worker.stop() == 0
    after = books.read(store_url)
    books.check(after)
    assert after.quarantined == {"no_event_name": 1}
    assert await ready(broker_url) == 0


async def test_it_tells_how_late_an_erasure_is_that_does_not_go_on(
    broker_url: str, store_url: str, tmp_path: Path
) -> None:
    await topology.declare(broker_url)
    store, now = open_store(StoreConfig(url=Secret(store_url))), SystemClock().now()
    await store.start()
    await store.change([
        ("INSERT INTO erasures (id, aggregate_id, kind, partner_app_id, key, reason, asked_at, "
         "state, due_at, tokens, receipt) "
         "VALUES ('x', 1, 'consent', 'a', 'k', 'event', ?, 'pending', ?, '[]', ?)",
         (now - HOUR, now - HOUR, b"{}")),
        ("INSERT INTO leases (name, holder, held_until, ended_at) VALUES (?, 'another', ?, 0)",
         (TASK, now + HOUR)),
    ])  # fmt: skip
    await store.close()
    config = configuration(tmp_path, broker_url, store_url)
    with events_worker(tmp_path, config) as worker:
        worker.start()
        await worker.until_ready()

        def overdue() -> float:
            with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/metrics") as answer:
                shown = answer.read()
            found = re.search(rb"\ncorreio_erasures_overdue_seconds (\S+)\n", shown)
            return float(found[1]) if found else 0.0

        await until(lambda: HOUR / 1000 <= overdue() < HOUR / 1000 + LIMIT)
        assert worker.stop() == 0


async def test_it_starts_before_broker_and_store_and_waits_for_them(
    private_broker: PrivateBroker, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    await asyncio.to_thread(private_broker.stop)
    config = configuration(tmp_path, private_broker.url, url)
    with events_worker(tmp_path, config) as worker:
        worker.start()
        await worker.until_ready(ready=False)
        await migrate(Secret(url))
        await asyncio.to_thread(private_broker.start)
        await worker.until_ready(limit=LIMIT)
        async with publishing(private_broker.url) as publish:
            await publish(ev.raw("link_created"))
        await until(lambda: stored(url) == 1)
        assert worker.stop() == 0


async def test_stopping_loses_nothing(broker_url: str, store_url: str, tmp_path: Path) -> None:
    await topology.declare(broker_url)
    config = configuration(tmp_path, broker_url, store_url)
    async with publishing(broker_url) as publish:
        for start in range(0, 3_000, 500):
            await publish(*(link(i) for i in range(start, start + 500)))
        with events_worker(tmp_path, config) as worker:
            worker.start()
            await until(lambda: stored(store_url) > 0)
            assert worker.stop(within=10) == 0
            some = stored(store_url)
            assert some + await ready(broker_url) == 3_000
            worker.start()
            await until(lambda: stored(store_url) == 3_000)
    assert books.read(store_url).duplicates == 0


def link(number: int) -> dict[str, Any]:
    return ev.event("link_created", at=number, event_id=f"e{number}", linkId=f"l{number}")


async def test_a_locked_store_pauses_consumption_and_quarantines_nothing(
    broker_url: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    await migrate(Secret(url))
    await topology.declare(broker_url)
    with events_worker(tmp_path, configuration(tmp_path, broker_url, url)) as worker:
        worker.start()
        await worker.until_ready()
        other = apsw.Connection(str(tmp_path / "store.db"))
        other.execute("BEGIN IMMEDIATE")
        async with publishing(broker_url) as publish:
            await publish(*(link(i) for i in range(200)))
        await until(lambda: "store.unavailable" in worker.log.read_text())
        other.execute("ROLLBACK")
        other.close()
        await until(lambda: stored(url) == 200)
    after = books.read(url)
    assert (after.duplicates, after.quarantined) == (0, {})


async def test_a_postgres_that_is_killed_pauses_work_which_resumes_by_itself(
    broker_url: str, private_postgres: Postgres, tmp_path: Path
) -> None:
    url = private_postgres.url
    await migrate(Secret(url))
    await topology.declare(broker_url)
    with events_worker(tmp_path, configuration(tmp_path, broker_url, url)) as worker:
        worker.start()
        await worker.until_ready()
        async with publishing(broker_url) as publish:
            await publish(*(link(i) for i in range(100)))
            await until(lambda: stored(url) == 100)
            await asyncio.to_thread(private_postgres.kill)
            await publish(*(link(i) for i in range(100, 200)))
            await until(lambda: "store.unavailable" in worker.log.read_text())
            await asyncio.to_thread(private_postgres.start)
            await until(lambda: stored(url) == 200)
    assert books.read(url).quarantined == {}


async def test_what_was_dead_lettered_ends_in_quarantine(
    broker_url: str, store_url: str, tmp_path: Path
) -> None:
    await topology.declare(broker_url)
    with events_worker(tmp_path, configuration(tmp_path, broker_url, store_url)) as worker:
        worker.start()
        async with publishing(broker_url), await aio_pika.connect(broker_url) as connection:
            exchange = await (await connection.channel()).get_exchange(topology.DEAD)
            await exchange.publish(aio_pika.Message(b"poison"), "")
        await until(lambda: books.read(store_url).quarantined == {"dead_lettered": 1})


async def test_a_replayed_entry_is_closed_by_the_event_it_became(
    broker_url: str, store_url: str, tmp_path: Path
) -> None:
    await topology.declare(broker_url)
    with events_worker(tmp_path, configuration(tmp_path, broker_url, store_url)) as worker:
        worker.start()
        async with publishing(broker_url) as publish:
            await publish(b'{"not":"yet"}', **{headers.EVENT_ID: "seen"})
            await until(lambda: books.read(store_url).quarantined != {})
            ((entry, event_id),) = books.fetch(store_url, "SELECT id, event_id FROM quarantine")
            assert event_id == "seen"
            await publish(ev.raw("link_created"), **{headers.QUARANTINE_ID: entry})
            await until(lambda: stored(store_url) == 1)
    assert books.fetch(store_url, "SELECT status FROM quarantine") == [("replayed",)]


@pytest.mark.parametrize(
    ("kills", "count"), [(4, 2_000), pytest.param(50, 20_000, marks=pytest.mark.deep)]
)
@pytest.mark.timeout(900)
async def test_killing_the_worker_at_random_leaves_balanced_books(
    broker_url: str, store_url: str, tmp_path: Path, kills: int, count: int
) -> None:
    await topology.declare(broker_url)
    config = configuration(tmp_path, broker_url, store_url)
    rng = random.Random(kills)
    kinds = ["consent_authorised", "consent_revoked", "consent_error", "consent_expired"]

    async def feed() -> None:
        async with publishing(broker_url) as publish:
            for start in range(0, count, 100):
                await publish(*(
                    ev.event(rng.choice(kinds), at=rng.randrange(10**6), event_id=f"e{i}",
                             consentId=f"c{i % (count // 5)}", linkId=f"l{i % (count // 10)}")
                    for i in range(start, start + 100)
                ))  # fmt: skip

    feeding = asyncio.create_task(feed())
    with events_worker(tmp_path, config) as worker:
        for _ in range(kills):
            worker.start()
            await _some_progress(worker, store_url, rng.uniform(0, 0.3))
            worker.kill()
        await feeding
        worker.start()
        await until(lambda: stored(store_url) == count, limit=600)
        await worker.until_ready()
        assert worker.stop() == 0
    after = books.read(store_url)
    books.check(after)
    assert sum(after.labels.values()) == count
    assert after.quarantined == {}
    assert await books.audit_faults(store_url) == []


async def _some_progress(worker: Process, url: str, more: float) -> None:
    """Wait until the worker has stored something new, if there is any, and then a random moment."""
    before = stored(url)
    with contextlib.suppress(TimeoutError):
        await until(lambda: stored(url) > before, limit=5)
        async with asyncio.timeout(more):
            await asyncio.Event().wait()
    assert worker.running
