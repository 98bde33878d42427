"""What every measurement needs: a broker, databases, processes, and meters for them."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
import apsw
import psutil
import psycopg
from msgspec import Struct

from deploy.local import tether
from deploy.local.postgres import Postgres
from deploy.local.provide import PrivateBroker, private_node
from shared.broker import topology
from shared.config import Secret
from shared.store.migrate import migrate
from tests.support.processes import ROOT

SIZED = {"shared_buffers": "4GB", "max_wal_size": "8GB", "wal_compression": "on"}
"""As PostgreSQL's documentation sizes it: a good part of the memory, seldom checkpoints."""

UP = 60.0
"""Seconds in which a process must be up, or a queue drained of what is left in it."""


class Use(Struct, frozen=True):
    """What processes used between two moments.

    Attributes:
        cpu: name → share of one core.
        memory: name → most bytes in memory so far.
    """

    cpu: dict[str, float]
    memory: dict[str, int]


class Meter:
    """Takes the CPU time and the memory of processes and of all that they started."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._before = {name: _seconds(pid) for name, pid in self._pids.items()}
        self._began = time.perf_counter()

    def read(self) -> Use:
        took = time.perf_counter() - self._began
        return Use(
            cpu={
                name: (_seconds(pid) - self._before[name]) / took
                for name, pid in self._pids.items()
            },
            memory={name: _most_memory(pid) for name, pid in self._pids.items()},
        )


def _family(pid: int) -> list[psutil.Process]:
    one = psutil.Process(pid)
    return [one, *one.children(recursive=True)]


def _seconds(pid: int) -> float:
    found = 0.0
    for one in _family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            found += times.user + times.system
    return found


def _most_memory(pid: int) -> int:
    found = 0
    for one in _family(pid):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{one.pid}/status").read_text()
            peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
            found += int(peak.split()[1]) * 1024
    return found


class Running:
    """One process of a side."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        if self._process.poll() is not None:
            said = self._log.read_text(errors="replace")[-3_000:]
            raise RuntimeError(f"it ended with {self._process.returncode}:\n{said}")

    def end(self) -> None:
        if not tether.end(self._process, grace=10):
            tether.kill(self._process)


class Rig:
    """A folder, a broker node, a PostgreSQL server, and a way to start processes on them."""

    def __init__(self, folder: Path, broker: PrivateBroker) -> None:
        self.folder = folder
        self.broker = broker
        self._postgres: Postgres | None = None
        self._number = 0
        self._stack = contextlib.ExitStack()
        self.watcher: Callable[[tuple[str, ...], Running], None] = lambda *_: None

    @property
    def postgres(self) -> Postgres:
        """Started when first asked for; what it commits is on disk."""
        if self._postgres is None:
            self._postgres = self._stack.enter_context(Postgres(durable=True, settings=SIZED))
        return self._postgres

    def close(self) -> None:
        self._stack.close()

    def broker_pids(self) -> dict[str, int]:
        return {"rabbitmq": self.broker.pids[0]} if self.broker.pids else {}

    def database_pids(self, store: str) -> dict[str, int]:
        """The PostgreSQL server, if that is the store."""
        if store.startswith("sqlite") or self._postgres is None:
            return {}
        return {"postgres": self._postgres.pid}

    def fresh(self, name: str) -> Path:
        """An empty folder."""
        self._number += 1
        made = self.folder / f"{self._number}-{name}"
        made.mkdir()
        return made

    @contextlib.contextmanager
    def vhost(self) -> Iterator[str]:
        """URL of an empty virtual host, deleted afterwards."""
        self._number += 1
        name = f"bench{self._number}"
        url = self.broker.add_vhost(name)
        try:
            yield url
        finally:
            self.broker.delete_vhost(name)

    @contextlib.contextmanager
    def store(self, kind: str, folder: Path) -> Iterator[str]:
        """URL of an empty database of the kind ``sqlite`` or ``postgres``."""
        if kind == "sqlite":
            yield f"sqlite:///{folder / 'store.db'}"
            return
        self._number += 1
        name = f"bench{self._number}"
        run_sql(self.postgres.url, f"CREATE DATABASE {name}")
        yield self.postgres.url_of(name)
        run_sql(self.postgres.url, f"DROP DATABASE {name} WITH (FORCE)")

    @contextlib.contextmanager
    def running(
        self, arguments: Sequence[str], *, folder: Path, env: Mapping[str, str] | None = None
    ) -> Iterator[Running]:
        """A program of our environment while the block lasts; ``python`` is one of them."""
        program = Path(sys.executable).with_name(arguments[0])
        log = folder / f"{arguments[0]}-{'-'.join(arguments[1:3]).replace('/', '_')[-60:]}.log"
        process = tether.spawn(
            [program, *arguments[1:]],
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            output=log,
            when_orphaned=signal.SIGKILL,
            cwd=ROOT,
        )
        made = Running(process, log)
        self.watcher(tuple(arguments), made)
        try:
            yield made
        finally:
            made.end()

    async def ask(
        self, *arguments: str, pids: Mapping[str, int] | None = None, limit: float = 300
    ) -> tuple[dict[str, Any], Use]:
        """Run one of our modules to its end, and meter processes while it measures.

        It prints ``go`` when its clock starts, and one JSON line when it has stopped.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *arguments, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            async with asyncio.timeout(limit):
                await process.stdout.readline()
                meter = Meter(pids or {})
                said = await process.stdout.readline()
                use = meter.read()
                await process.wait()
        except TimeoutError:
            process.kill()
            raise
        if process.returncode:
            raise RuntimeError(f"{arguments} ended with {process.returncode}")
        answer: dict[str, Any] = json.loads(said)
        return answer, use


@contextlib.asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    """Everything is gone when the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="correio-bench-"))
    broker = private_node(folder / "rabbitmq")
    await asyncio.to_thread(broker.start)
    made = Rig(folder, broker)
    try:
        yield made
    finally:
        made.close()
        await asyncio.to_thread(broker.stop)
        shutil.rmtree(folder, ignore_errors=True)


def run_sql(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for one in statements:
            connection.execute(one)  # type: ignore[call-overload]  # ours, from constants


def count_rows(url: str, table: str) -> int:
    """How many rows a table has."""
    query = f"SELECT count(*) FROM {table}"
    if url.startswith("sqlite:///"):
        database = apsw.Connection(url.removeprefix("sqlite:///"))
        try:
            database.set_busy_timeout(5_000)
            return int(database.execute(query).fetchall()[0][0])
        finally:
            database.close()
    with psycopg.connect(url) as connection:
        ((found,),) = connection.execute(query).fetchall()  # type: ignore[call-overload]  # ours, see run_sql
        return int(found)


async def until_rows(url: str, table: str, count: int, *, limit: float = UP) -> None:
    """Return once the table has that many rows."""
    async with asyncio.timeout(limit):
        while count_rows(url, table) < count:
            await asyncio.sleep(0.05)


async def prepare(broker_url: str, store_url: str = "") -> None:
    """What ``correio migrate`` does."""
    await topology.declare(broker_url)
    if store_url:
        await migrate(Secret(store_url))


@contextlib.asynccontextmanager
async def depth_of(url: str, queue: str) -> AsyncIterator["Depth"]:
    """Asks the broker how many messages a queue has ready, many times a second."""
    connection = await aio_pika.connect(url)
    async with connection:
        yield Depth(await connection.channel(), queue)


async def exists(url: str, queue: str) -> bool:
    """Whether the broker has this queue; some peers make theirs only when they need it."""
    try:
        async with depth_of(url, queue) as depth:
            await depth.read()
    except aio_pika.exceptions.ChannelNotFoundEntity:
        return False
    return True


class Depth:
    """A queue's length, by passive declaration."""

    def __init__(self, channel: aio_pika.abc.AbstractChannel, queue: str) -> None:
        self._channel = channel
        self._queue = queue

    async def read(self) -> int:
        found = await self._channel.declare_queue(self._queue, passive=True)
        return found.declaration_result.message_count or 0

    async def consumers(self) -> int:
        found = await self._channel.declare_queue(self._queue, passive=True)
        return found.declaration_result.consumer_count or 0

    async def until(self, count: int, *, limit: float = UP) -> None:
        async with asyncio.timeout(limit):
            while await self.read() != count:
                await asyncio.sleep(0.05)


async def answers(port: int, running: Running, *, path: str = "/", limit: float = UP) -> None:
    """Return once something answers HTTP there."""
    async with asyncio.timeout(limit), aiohttp.ClientSession() as session:
        while True:
            running.check()
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                    if path == "/" or answer.status == 200:
                        return
            await asyncio.sleep(0.02)
