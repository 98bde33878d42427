"""One seed from beginning to end."""

import asyncio
import contextlib
import hashlib
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import structlog
from msgspec import Struct

from shared.config import Secret
from shared.sealing import Box, Vault, Wrapped
from shared.store import schema
from shared.store.migrate import migrate
from shared.store.rows import Changes
from shared.store.sqlite.events import SqliteEventTransaction
from tests.chaos.simulated import amqp, disk, web
from tests.chaos.simulated.loop import EPOCH, LIFE
from tests.chaos.simulated.oracle import judge, observer
from tests.chaos.simulated.platter import platter
from tests.chaos.simulated.source import POISON
from tests.chaos.simulated.world import SimWorld


class Verdict(Struct):
    """What came of one seed.

    Attributes:
        digest: of everything that happened; the same for every run of the seed.
        seen: fault → how often it struck.
        healing: simulated seconds from the last fault until everything had drained.
    """

    seed: int
    faults: list[str]
    digest: str
    steps: int
    healing: float
    seen: Counter[str]


class Ids:
    """Stands in for ``uuid_utils``: ids in the order of their making."""

    def __init__(self, world: SimWorld) -> None:
        self._world = world
        self._count = 0

    def uuid7(self) -> str:
        self._count += 1
        moment = f"{EPOCH + round(self._world.loop.time() * 1000):012x}"
        return f"{moment[:8]}-{moment[8:]}-7{self._count >> 48:03x}-8000-{self._count:012x}"


@contextlib.contextmanager
def simulated(world: SimWorld) -> Iterator[None]:
    """Put the simulated world in the place of the real one."""
    connect = amqp.connector(world.broker)
    patches: list[tuple[str, object]] = [
        ("shared.broker.dial.aio_pika.connect", connect),
        ("shared.store.sqlite.store.SqliteDatabase", disk.SimDatabase),
        ("receiver.spool_file.SqliteDatabase", disk.SimDatabase),
        ("receiver.spool_folder.OwnedPath", disk.SimOwnedPath),
        ("receiver.spool.shutil.disk_usage", world.disk.free_bytes),
        ("worker.callbacks.service.Caller", web.SimCaller),
        ("shared.ids.uuid_utils", Ids(world)),
        ("shared.store.sqlite.store.load_migrations", lru_cache(schema.load_migrations)),
        ("shared.broker.watch.INTERVAL", 120.0),
        ("worker.callbacks.steward.INTERVAL", 4.0),
        ("worker.callbacks.relay.FULL", 20),
        ("worker.callbacks.service.FINISHING", 1.0),
        ("receiver.spool.asyncio.to_thread", world.disk.aside),
        ("shared.store.sqlite.events.SqliteEventTransaction.write", refusing()),
        ("shared.broker.publisher.fits", lambda _channel: world.bursts),
        ("shared.broker.publisher.writer_of", lambda connection: connection),
        ("worker.events.service.SETTLE_INTERVAL", 2.0),
        ("shared.eraser.SECOND_LOOK", 8_000),
        ("shared.sealing.Vault.make", remembering(world.keys)),
        ("tests.chaos.simulated.disk.SimDatabase.disk", world.disk),
        ("tests.chaos.simulated.web.SimCaller.endpoints", world.endpoints),
    ]
    with contextlib.ExitStack() as stack:
        for name, stand_in in patches:
            stack.enter_context(mock.patch(name, stand_in, create=name.startswith("tests.")))
        yield


def remembering(keys: list[tuple[bytes, bytes]]) -> Callable[..., Any]:
    """A maker of data keys that is watched: whose each is, and what it is."""
    make = Vault.make

    def watched(vault: Vault, owner: bytes) -> tuple[Wrapped, Box]:
        wrapped, box = make(vault, owner)
        keys.append((owner, box.key))
        return wrapped, box

    return watched


def refusing() -> Callable[..., Any]:
    """A store that refuses an event for what is in it."""
    write = SqliteEventTransaction.write

    async def refuse(transaction: SqliteEventTransaction, changes: Changes) -> None:
        if any(POISON.decode() in one.ref.event_id for one in changes.events):
            raise ValueError("simulated")
        await write(transaction, changes)

    return refuse


def quiet() -> None:
    """No logs: thousands of simulations would drown in them."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)


def loud(world: SimWorld) -> None:
    """Put the processes' own logs between the lines of the world."""

    def write(_logger: object, level: str, fields: MutableMapping[str, Any]) -> NoReturn:
        life = LIFE.get(None)
        name = life.name if life is not None else "-"
        fields.pop("exc_info", None)
        said = " ".join(f"{key}={value}" for key, value in fields.items())
        world.say(f"    {name} {level}: {said}")
        raise structlog.DropEvent

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG), processors=[write]
    )


@lru_cache
def template() -> Path:
    """A migrated, empty store."""
    folder = Path(tempfile.mkdtemp(prefix="correio-sim-"))
    asyncio.run(migrate(Secret(f"sqlite:///{folder}/store.db")))
    return folder / "store.db"


def run(seed: int, *, trace: bool = False) -> Verdict:
    """Simulate one seed."""
    origin = template()
    digest = hashlib.sha256()

    def line(text: str) -> None:
        digest.update(text.encode())
        if trace:
            print(text)  # noqa: T201 - asked for

    with tempfile.TemporaryDirectory(prefix="correio-sim-", dir=memory()) as name:
        folder = Path(name)
        shutil.copyfile(origin, folder / "store.db")
        world = SimWorld(seed, folder, line=line)
        platter().begin(world.disk.write_fault, remembers=world.loses_power)
        if trace:
            loud(world)
        with simulated(world):
            faults = world.loop.run_until_complete(_play(world, folder))
            world.loop.run_until_complete(_clear(world))
    world.loop.close()
    calls = sum(len(made) for one in world.endpoints.values() for made in one.calls.values())
    world.say(
        f"{len(world.source.sent)} sent, {len(world.source.acknowledged)} acknowledged, "
        f"answered {sorted(world.source.statuses)}, {calls} calls, {world.loop.steps} steps"
    )
    world.say(f"{sorted(world.weather.seen.items())}, {faults}")
    return Verdict(
        seed, faults, digest.hexdigest()[:16], world.loop.steps,
        world.loop.time() - world.healed_at,
        world.weather.seen + Counter(f"(answered {one})" for one in world.source.statuses),
    )  # fmt: skip


async def _play(world: SimWorld, folder: Path) -> list[str]:
    life, store, url = observer(world, folder)
    world.lives.append(life)
    try:
        async with asyncio.timeout(5000):
            await world.run()
            token = LIFE.set(life)
            await store.start()
            faults = await judge(world, store, url)
            await store.close()
            LIFE.reset(token)
    except TimeoutError:
        faults = ["the source never came to an end"]
    return faults


async def _clear(world: SimWorld) -> None:
    """Leave nothing behind of any process."""
    for life in world.lives:
        if not life.dead:
            life.die()
        life.clear()


def memory() -> str | None:
    """Where files are kept in memory, on a system that has such a place."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
