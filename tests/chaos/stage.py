"""A world in which anything can be taken away: the place where the faults of the catalogue happen.

Every connection between two parts passes through a proxy of ours, spool and store lie on small
disks of their own, every process has a clock of its own and sees its own hosts file.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Self

import aiohttp

from deploy.local.postgres import Postgres
from deploy.local.provide import private_node
from deploy.local.rabbitmq import Node, free_port
from shared.store.spool import measure_spool
from tests.support.endpoints import Endpoint
from tests.support.http import post
from tests.support.machine import SKEW, Clock, Disk, Names
from tests.support.processes import ROOT
from tests.support.proxy import Links, Proxy
from tests.support.world import ROLES, Listener, Way, World

STORES = ("sqlite", "postgres")
USERS_OF_STORE = ("events", "callbacks")

HOST = "crm.chaos.test"
"""The name under which the callbacks worker knows the endpoint."""

RATE = 15.0
"""Batches that the source sends in a second."""

BATCH = 2
"""Events in each."""

TURN = 20
"""Batches that one receiver gets before it is another's turn, if there is another."""

BITES = 40.0
"""Seconds within which a fault must show, or it was none."""

HEALS = 60.0
"""Seconds within which a new event must get through again."""


class Stage:
    """A running world, and what can be done to it."""

    def __init__(self, folder: Path, store: str) -> None:
        """`store`: one of `STORES`."""
        self.folder = folder
        self.kind = store
        self.foreign = 0
        self._names = 0
        self.parts: dict[str, tuple[str, ...]] = {role: (role,) for role in ROLES}
        self.clocks = {role: Clock(folder / f"{role}.clock") for role in ROLES}
        self.names = Names(folder / "hosts", HOST)
        self.spool_disk = Disk(mib=16)
        self.store_disk = Disk(mib=256 if store == "sqlite" else 1_024)
        self.postgres: Postgres | None = None
        self._load: asyncio.Task[None] | None = None
        self._loading = asyncio.Event()
        self._resting = asyncio.Event()
        self._ending = False
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._build()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _build(self) -> None:
        enter = self._stack.enter_context
        enter(self.spool_disk)
        enter(self.store_disk)
        self.node: Node = await asyncio.to_thread(self._node)
        self._stack.callback(self.node.stop)
        endpoint = Endpoint()
        endpoint.port = free_port()
        port = free_port()
        self.door = await self._proxy(port)
        self.endpoint_link = await self._proxy(endpoint.port)
        self.broker = Links(**{role: await self._proxy(self.node.port) for role in ROLES})
        self.store = Links()
        url = await self._store()
        if self.postgres is not None:
            database = self.postgres.port
            self.store = Links(**{role: await self._proxy(database) for role in USERS_OF_STORE})
        self.world: World = await self._stack.enter_async_context(
            World(
                self.folder,
                self.node,
                url,
                endpoint,
                way=self._way(endpoint),
                deleting=True,
                sealing={"erasing_interval": 0.5},
                receiver={"port": port, "spool": str(self.spool_disk.folder / "spool")},
            )
        )
        self.probe = self.world.another_source("probe-")

    def _node(self) -> Node:
        node = private_node(self.folder / "rabbitmq")
        assert isinstance(node, Node)
        node.start()
        return node

    async def _proxy(self, target: int) -> Proxy:
        return await self._stack.enter_async_context(Proxy(target))

    async def _store(self) -> str:
        if self.kind == "sqlite":
            return f"sqlite:///{self.store_disk.folder}/correio.db"
        self.postgres = Postgres(durable=True, parent=self.store_disk.folder)
        self._stack.callback(self.postgres.remove)
        await asyncio.to_thread(self.postgres.start)
        return self.postgres.url

    def _way(self, endpoint: Endpoint) -> Way:
        env: dict[str, dict[str, str]] = {}
        for role in ROLES:
            env[role] = {
                "PYTHONPATH": f"{SKEW}:{ROOT}",
                "CORREIO_BROKER__URL": _at(self.node.url, self.broker[role].port),
                **self.clocks[role].env,
            }
            if role in self.store.by_role and self.postgres is not None:
                url = _at(self.postgres.url, self.store[role].port)
                env[role]["CORREIO_STORE__URL"] = url
        return Way(
            env=env,
            prefix={"callbacks": self.names.prefix},
            door=(self.door.port,),
            endpoint_url=endpoint.url_at(HOST, self.endpoint_link.port),
        )

    async def elder(self, role: str, *, name: str) -> None:
        """Start one more process of a role, which no row kills; it is ready afterwards."""
        part = self.world.add(role, name=name)
        if role == "receiver":
            part.kill()
            port = free_port()
            part.env = part.env | {"CORREIO_RECEIVER__PORT": str(port)}
            door = await self._proxy(port)
            self.world.source.also(Listener(door.port))
            part.start()
        await part.until_ready()

    # The source ------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def under_load(self, rate: float = RATE) -> AsyncIterator[None]:
        """The source sends for the length of the block, and then until all has its 200."""
        self._ending = False
        self._loading.set()
        self._load = asyncio.create_task(self._send(rate))
        try:
            yield
        finally:
            self._ending = True
            self._loading.set()
            async with asyncio.timeout(HEALS):
                await self._load

    async def _send(self, rate: float) -> None:
        source, loop = self.world.source, asyncio.get_running_loop()
        due = loop.time()
        while not self._ending:
            self._resting.set()
            await self._loading.wait()
            self._resting.clear()
            await source.deliver(source.batch(BATCH))
            if len(source.accepted) % (TURN * BATCH) == 0:
                await source.hang_up()
            due = max(due + 1 / rate, loop.time() - 1.0)
            await asyncio.sleep(max(0.0, due - loop.time()))

    @contextlib.asynccontextmanager
    async def calm(self, *, told: bool = True) -> AsyncIterator[None]:
        """Nothing is sent, and all that was sent is stored, while the block lasts.

        It has been `told` as well, unless that does not matter.
        """
        self._loading.clear()
        await self._resting.wait()
        await (self.world.settled() if told else self.world.applied())
        try:
            yield
        finally:
            self._loading.set()

    def unused(self, name: str) -> str:
        """A name for a source that no other has."""
        self._names += 1
        return f"{name}-{self._names}-"

    async def insist(self, body: bytes) -> None:
        """Send a batch over connections of its own until it gets its 200."""
        async with asyncio.timeout(HEALS):
            while True:
                with contextlib.suppress(OSError, EOFError):
                    if (await post(Listener(self.door.port), body)).status == 200:
                        return
                await asyncio.sleep(0.05)

    async def fresh(self) -> None:
        """Return once an event that is made now has gone the whole way to the endpoint."""
        calls = self.world.endpoint.calls
        began = len(calls)
        await self.probe.deliver([event := self.probe.canary()])
        wanted = event["payload"]["consents"]["consentId"]
        await self.until(
            lambda: any(call.content["data"].get("id") == wanted for call in calls[began:]),
            limit=HEALS,
        )

    # Looking ---------------------------------------------------------------------------------

    async def until(self, condition: Callable[[], Any], *, limit: float = BITES) -> None:
        """Wait for something that gives no signal of its own."""
        async with asyncio.timeout(limit):
            while not condition():
                await asyncio.sleep(0.02)

    async def broker_dies(self) -> None:
        """Kill the node, as soon as it would find all of its queues again.

        RabbitMQ 3.10 writes down which queues it has when for half a second none was made; killed
        before, it cannot start the newest again (deploy/runbooks.md, "Queue broken").
        """
        await self.until(lambda: _finds_its_queues(self.node.folder))
        await asyncio.to_thread(self.node.kill)

    async def spools(self) -> None:
        """Return once the receiver holds something in its spool."""

        def held() -> bool:
            found = measure_spool(self.world.spool, now=0)
            return found is not None and found.events > 0

        await self.until(held)

    async def refused(self, status: int) -> None:
        """Return once the source has been answered this."""
        self.world.source.refused.discard(status)
        await self.until(lambda: status in self.world.source.refused)

    async def repeats(self) -> None:
        """Return once the source has had to send something again for want of an answer."""
        before = self.world.source.repeats
        await self.until(lambda: self.world.source.repeats > before)

    def said(self, role: str, event: str) -> int:
        """How often a role has logged this so far."""
        return self.world.parts[role].log.read_bytes().count(f'"{event}"'.encode())

    async def says(self, role: str, *events: str, of: str = "") -> None:
        """Return once a process of a role has logged one of these anew, in a line with `of` in it.

        Which of several it is, where there are, depends on what each happens to have in hand.
        """
        parts = self.world.parts
        logs = [one.log for one in parts.values() if one.arguments == parts[role].arguments]
        starts = {log: log.stat().st_size for log in logs if log.exists()}

        def lines() -> Iterator[bytes]:
            for log, start in starts.items():
                with log.open("rb") as file:
                    file.seek(start)
                    yield from file

        def found() -> bool:
            return any(
                f'"{event}"'.encode() in line and of.encode() in line
                for line in lines()
                for event in events
            )

        await self.until(found)

    async def paused(self, *roles: str) -> None:
        """Return once these workers have paused for the store."""
        async with asyncio.timeout(BITES), aiohttp.ClientSession() as http:
            for role in roles:
                page = f"http://127.0.0.1:{self.world.parts[role].port}/metrics"
                wanted = f"correio_{role}_paused 1.0"
                while True:
                    async with http.get(page) as answer:
                        if wanted in await answer.text():
                            break
                    await asyncio.sleep(0.02)

    async def calls(self, count: int = 1) -> None:
        """Return once the endpoint was called that many times more."""
        before = len(self.world.endpoint.calls)
        await self.until(lambda: len(self.world.endpoint.calls) >= before + count)

    async def ready(self, *roles: str, ready: bool = True) -> None:
        """Return once these roles say that they are ready, or that they are not."""
        for role in roles:
            await self.world.parts[role].until_ready(limit=BITES, ready=ready)


def _at(url: str, port: int) -> str:
    """A URL of this machine with another port."""
    head, _, rest = url.rpartition("@")
    host, _, tail = rest.partition(":")
    _, _, path = tail.partition("/")
    return f"{head}@{host}:{port}/{path}"


def _finds_its_queues(node: Path) -> bool:
    """Whether the node in this folder has written down the names of all its quorum queues."""
    made = [one.stat().st_mtime for one in node.glob("data/**/quorum/*/*/config")]
    written = [one.stat().st_mtime for one in node.glob("data/**/quorum/*/names.dets")]
    return not made or (bool(written) and max(written) > max(made))
