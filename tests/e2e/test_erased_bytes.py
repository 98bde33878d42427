"""Not one byte of who was erased is left in any file of store, spool and broker.

Everything that could open what is left is looked for as well: data keys, wrapped and unwrapped,
and the tokens of the index. Before the erasure the same scan finds them, so it does look.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from prometheus_client import CollectorRegistry

from deploy.local.postgres import Postgres
from deploy.local.provide import PrivateBroker
from receiver.batch import Batch
from receiver.metrics import Metrics
from receiver.spool import Spool
from shared.broker import headers, topology
from shared.broker.publisher import ConfirmingPublisher, Outgoing
from shared.clock import SystemClock
from shared.config import (
    BrokerConfig,
    Config,
    EndpointConfig,
    SealingConfig,
    Secret,
    StoreConfig,
)
from shared.eraser import SECOND_LOOK, Eraser
from shared.ids import new_id
from shared.sealing import KeyRing, Vault, Wrapped, new_key
from shared.store.audit import audit
from shared.store.migrate import migrate
from shared.store.open import open_store
from shared.store.port import Store
from shared.store.rows import AttemptRecord, DeliveryState
from shared.store.seals import entry_owner, owner
from tests.support import books
from tests.support import events as ev
from tests.support.clock import ManualClock
from tests.support.deliveries import until_async
from worker.events.service import EventsService

VICTIM = 7
OTHERS = 500_000
"""The first of those whose events come afterwards."""
ROUNDS = 10
WRITTEN = 5
"""Seconds within which the broker has cut its log if it does."""
ROLL_OVER = "ra_log_wal:force_roll_over(ra_log_wal)."
LIFE = ("link_created", "consent_authorised", "product_request_received",
        "product_generated_success", "product_generated_failed")  # fmt: skip


def tax_id(number: int) -> str:
    return f"{31_400_000_000 + number * 13}"


def words(number: int) -> list[bytes]:
    """What must not be found of somebody."""
    marks = [f"INFO-{number:06}-X", f"PERM-{number:06}-X", f"TRACK-{number:06}-X",
             f"REASON-{number:06}-X", tax_id(number)]  # fmt: skip
    return [one.encode() for one in marks]


def event(number: int, name: str, at: int = 0) -> dict[str, Any]:
    info, permission, track, reason = (one.decode() for one in words(number)[:4])
    payload: dict[str, Any] = {"linkId": f"link-{number}", "personalTaxId": tax_id(number)}
    if name.startswith("consent"):
        payload |= {"consentId": f"consent-{number}", "permissionsGranted": [permission],
                    "permissionsApply": [permission], "externalTrackId": track}  # fmt: skip
    elif name.startswith("product"):
        payload["requestId"] = f"request-{number}"
        if name == "product_request_received":
            payload |= {"consentIds": [f"consent-{number}"], "taxId": tax_id(number)}
        if name == "product_generated_failed":
            payload["failureReason"] = reason
    made = ev.event(name, at=at, event_id=f"{name}-{number}-{at}", **payload)
    made["externalInfo"] = {"note": info}
    return made


def life(number: int) -> list[bytes]:
    """Five events, and something that goes into quarantine."""
    unknown = {"eventName": "page_view", "consentId": f"consent-{number}", "cpf": tax_id(number),
               "note": words(number)[0].decode()}  # fmt: skip
    return [ev.dump(event(number, name, at)) for at, name in enumerate(LIFE)] + [ev.dump(unknown)]


class Scene:
    """Store, spool and broker, and every file of them."""

    def __init__(self, folders: list[Path], store_url: str, broker: PrivateBroker) -> None:
        self.folders, self.url, self.broker = folders, store_url, broker
        self.keys = Secret(f"one:{new_key()}")
        self.config = Config(
            broker=BrokerConfig(url=Secret(broker.url)),
            store=StoreConfig(url=Secret(store_url), busy_timeout=30),
            sealing=SealingConfig(keys=self.keys, erasing_interval=0.1),
            endpoint=(EndpointConfig(id="crm", url="http://x", secrets=(Secret("s"),)),),
        )
        self.vault = Vault(KeyRing.read(self.keys.reveal()))
        self.spool = Spool(
            folder=folders[0] / "spool", max_bytes=2**30, min_free_bytes=0, clock=SystemClock(),
            metrics=Metrics(CollectorRegistry()), sealer=self.vault,
        )  # fmt: skip

    def found(self, what: list[bytes]) -> dict[bytes, list[str]]:
        """Which of these stand in which files."""
        there: dict[bytes, list[str]] = {}
        for folder in self.folders:
            for path in folder.rglob("*"):
                with contextlib.suppress(OSError):
                    content = path.read_bytes() if path.is_file() else b""
                    for one in what:
                        if one in content:
                            there.setdefault(one, []).append(path.name)
        return there

    def openers(self, number: int) -> list[bytes]:
        """Every form of every key that opens something of somebody."""
        rows = [(owner(one), by, bytes(key)) for one, by, key in books.fetch(
            self.url, "SELECT k.aggregate_id, k.wrapped_by, k.key FROM data_keys k JOIN aggregates "
            f"a ON a.id = k.aggregate_id WHERE a.key IN ('consent-{number}', 'link-{number}', "
            f"'request-{number}')")]  # fmt: skip
        for one, body, by, key in books.fetch(
            self.url, "SELECT q.id, q.body, k.wrapped_by, k.key FROM quarantine q "
            "JOIN quarantine_keys k ON k.entry_id = q.id"):  # fmt: skip
            box = self.vault.open(Wrapped(by, bytes(key)), entry_owner(one))
            if tax_id(number).encode() in box.unseal(bytes(body), b"entry:" + one.encode()):
                rows.append((entry_owner(one), by, bytes(key)))
        return [form for whose, by, key in rows
                for form in (key, self.vault.open(Wrapped(by, key), whose).key)]  # fmt: skip

    async def publish(self, bodies: list[bytes]) -> None:
        publisher = ConfirmingPublisher(self.config.broker, name="test", queue=topology.EVENTS)
        running = asyncio.create_task(publisher.run())
        await publisher.wait_connected()
        fields = {headers.SOURCE: "klavi", headers.RECEIVED_AT: ev.EPOCH, headers.BATCH_ID: "b",
                  headers.EVENT_ID: ""}  # fmt: skip
        for start in range(0, len(bodies), 500):
            await publisher.publish([
                Outgoing(one, topology.EVENTS, topology.EVENTS, fields)
                for one in bodies[start : start + 500]
            ])  # fmt: skip
        running.cancel()

    async def through_the_spool(self, bodies: list[bytes]) -> None:
        """Hold bodies on disk, then drain them into the broker."""
        await self.spool.open()
        for start in range(0, len(bodies), 100):
            some = tuple(bodies[start : start + 100])
            await self.spool.append(Batch(id=new_id(), source="klavi", received_at=ev.EPOCH,
                                          traceparent="", events=some))  # fmt: skip
        while group := await self.spool.head(max_events=500, max_bytes=2**20):
            await self.publish([one for held in group.stored for one in held.batch.events])
            await self.spool.settle(group)

    @contextlib.asynccontextmanager
    async def worker(self) -> AsyncIterator[Store]:
        """The events worker at work, and a store to look through."""
        stop = asyncio.Event()
        service = EventsService(self.config, store=open_store(self.config.store,
                                self.config.sealing), clock=SystemClock())  # fmt: skip
        store = open_store(self.config.store, self.config.sealing)
        await store.start()
        running = asyncio.create_task(service.run(stop))
        try:
            yield store
        finally:
            stop.set()
            await running
            await store.close()

    async def drained(self, store: Store, events: int) -> None:
        async def there() -> bool:
            query = ("SELECT (SELECT count(*) FROM events) "
                     "+ (SELECT coalesce(sum(seen), 0) FROM quarantine)")  # fmt: skip
            return (await store.fetch(query))[0][0] >= events

        await until_async(there, limit=300)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.deep)])
def scene(
    request: pytest.FixtureRequest, tmp_path: Path, private_broker: PrivateBroker
) -> Iterator[Scene]:
    assert tmp_path in Path(private_broker.folder).parents
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/store.db"
        asyncio.run(migrate(Secret(url)))
        yield Scene([tmp_path], url, private_broker)  # the broker's folder lies in it
        return
    server: Postgres = request.getfixturevalue("private_postgres")
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET wal_recycle = off")
        connection.execute("SELECT pg_reload_conf()")
    asyncio.run(migrate(Secret(server.url)))
    yield Scene([tmp_path, server.data], server.url, private_broker)


async def answered(store: Store, url: str) -> None:
    """Every delivery is attempted once; its endpoint answers with what it was told."""
    ids = [one for (one,) in books.fetch(url, "SELECT id FROM deliveries")]
    now = SystemClock().now()
    for start in range(0, len(ids), 200):
        claimed = await store.claim(ids[start : start + 200], lease="l", now=now,
                                    lease_until=now + 60_000)  # fmt: skip
        await store.record([
            AttemptRecord(one.id, "l", 1, now, 5, "server_error", 500, "no", one.data[:500],
                          state, now + 9**9)
            for number, one in enumerate(claimed)
            for state in [(DeliveryState.EXHAUSTED, DeliveryState.RETRYING)[number % 2]]
        ])  # fmt: skip


def cut_logs(url: str) -> None:
    """What an operator of PostgreSQL does, or time: the write-ahead log moves on."""
    if url.startswith("postgres"):
        for _ in range(2):
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("SELECT pg_switch_wal()")
                connection.execute("CHECKPOINT")


async def rolled_over(scene: Scene, events: int, what: list[bytes]) -> None:
    """What the runbook says of the broker: its log moves on, others' events come, and again.

    RabbitMQ 4 cuts its log only after some thousand events more.
    """
    for first in range(OTHERS, OTHERS + 200 * ROUNDS, 200):
        scene.broker.rabbitmqctl("eval", ROLL_OVER)
        some = [body for number in range(first, first + 200) for body in life(number)[:5]]
        events += len(some)
        async with scene.worker() as store:
            await scene.publish(some)
            await scene.drained(store, events)
        scene.broker.rabbitmqctl("eval", ROLL_OVER)
        with contextlib.suppress(TimeoutError):
            await until_async(lambda: _gone(scene, what), limit=WRITTEN)
            return


async def _gone(scene: Scene, what: list[bytes]) -> bool:
    return not scene.found(what)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [50, pytest.param(1_000, marks=pytest.mark.deep)])
async def test_erasing_one_leaves_no_byte_of_it_and_all_of_the_others(
    scene: Scene, count: int
) -> None:
    await topology.declare(scene.broker.url)
    bodies = [body for number in range(count) for body in life(number)]
    half = len(bodies) // 2
    async with scene.worker() as store:
        await scene.through_the_spool(bodies[:half])
        await scene.publish(bodies[half:])
        await scene.drained(store, len(bodies))
        await answered(store, scene.url)
        openers = [*scene.openers(VICTIM), store.sealing.token(tax_id(VICTIM)).encode()]
        assert len(openers) == 4 * 2 + 1
        cut_logs(scene.url)
        assert {openers[0], openers[-1]} <= scene.found(openers).keys()
        assert words(VICTIM)[0] in scene.found(words(VICTIM))  # in the broker's files
        before = books.read(scene.url, sealed_by=scene.config.sealing)

        await scene.publish([ev.dump(event(VICTIM, "consent_deleted_by_user", 9))])
        await scene.drained(store, len(bodies) + 1)

        async def erased() -> bool:
            rows = await store.fetch("SELECT count(*) FROM erasures WHERE state = 'settling'")
            return rows[0][0] == 3

        await until_async(erased, limit=60)
        later = ManualClock(SystemClock().now() + SECOND_LOOK + 1_000)
        await Eraser(store, scene.config, clock=later).work()
        checks = await audit(store, now=SystemClock().now(), late_after=1e9)
        assert [one.name for one in checks if not one.ok] == []
    cut_logs(scene.url)
    await rolled_over(scene, len(bodies) + 1, words(VICTIM))
    cut_logs(scene.url)
    assert scene.found([*words(VICTIM), *openers]) == {}

    after = books.read(scene.url, sealed_by=scene.config.sealing)
    books.check(after)
    for key, state in before.states.items():
        if not key.id.endswith(f"-{VICTIM}"):
            assert after.states[key] == state
    kept = [orjson.loads(one) for one in
            books.payloads(scene.url, sealed_by=scene.config.sealing).values()]  # fmt: skip
    assert sum(one["externalInfo"]["note"] < f"INFO-{count:06}" for one in kept) == 5 * (count - 1)
    await scene.spool.close()
