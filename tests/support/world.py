"""All of Correio at once: every process, its broker and store, a source, an endpoint, an oracle."""

import asyncio
import contextlib
import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Self

from msgspec import Struct

from deploy.local.provide import PrivateBroker
from deploy.local.rabbitmq import free_port
from shared.broker import topology
from shared.broker.depth import depths
from shared.config import Secret
from shared.domain.aggregates import is_erased
from shared.errors import CorreioError
from shared.store.locate import sqlite_path
from shared.store.migrate import migrate
from shared.store.spool import measure_spool
from tests.support import books
from tests.support import events as ev
from tests.support.endpoints import SECRET as ENDPOINT_SECRET
from tests.support.endpoints import Endpoint, serving
from tests.support.http import SECRET, Client, connected, request
from tests.support.privacy import impersonal, in_clear, mark_of, remains
from tests.support.processes import Process, process, write_config

ROLES = {"receiver": ("receiver",), "events": ("worker", "events"),
         "callbacks": ("worker", "callbacks")}  # fmt: skip

CALLBACKS = {
    "schedule": [0.5, 1.0, *[2.0] * 60], "attempt_timeout": 3.0, "lease_margin": 1.0,
    "wake_grace": 3.0, "breaker_open": 1.0, "breaker_open_max": 2.0,
}  # fmt: skip

HEALED = 60.0
"""Seconds in which everything must have drained after the last fault."""


class Listener:
    """Where the receiver listens, for a client."""

    def __init__(self, port: int) -> None:
        self.port = port


class Source:
    """Sends batches of events, and each of them again until it gets its 200."""

    def __init__(
        self, *receivers: Listener, name: str = "", patience: float = 10.0, deleting: bool = False
    ) -> None:
        """`receivers` take turns; one that answers nothing is given up after `patience` seconds.

        What sources of different `name` send has nothing in common. `deleting`: users delete every
        third consent, and whatever is personal bears the mark of `tests.support.privacy`.
        """
        self.made: list[dict[str, Any]] = []
        self.accepted: set[str] = set()
        self.seconds: list[float] = []
        self.refused: set[int] = set()
        self.repeats = 0
        self._known = receivers
        self._receivers = itertools.cycle(receivers)
        self._patience = patience
        self._name = name
        self._histories = _histories(name, deleting=deleting)
        self._client: Client | None = None
        self._open = contextlib.AsyncExitStack()

    async def send(self, *, rate: float, seconds: float, size: int = 2) -> None:
        """Send `rate` batches/s of `size` events for that long, each batch at its own time.

        A batch that comes late because one before it was slow is sent at once.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            for number in range(math.ceil(rate * seconds)):
                await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
                await self.deliver(self.batch(size))
        finally:
            await self.hang_up()

    def also(self, receiver: Listener) -> None:
        """Send to one more receiver from now on."""
        self._known = (*self._known, receiver)
        self._receivers = itertools.cycle(self._known)

    async def deliver(self, batch: list[dict[str, Any]]) -> None:
        """Send a batch again and again until it gets its 200."""
        self.made += batch
        data = request(ev.dump(batch))
        while not await self._accepted(data):
            await asyncio.sleep(0.05)
        self.accepted |= {one["eventId"] for one in batch}

    async def _accepted(self, data: bytes) -> bool:
        """Whether one try got a 200."""
        loop = asyncio.get_running_loop()
        sent = loop.time()
        try:
            async with asyncio.timeout(self._patience):
                if self._client is None:
                    opening = connected(next(self._receivers))
                    self._client = await self._open.enter_async_context(opening)
                await self._client.send(data)
                answer = await self._client.answer()
        except (OSError, EOFError):
            self.repeats += 1
            await self.hang_up()
            return False
        self.seconds.append(loop.time() - sent)
        if answer.status != 200:
            self.refused.add(answer.status)
        return answer.status == 200

    async def hang_up(self) -> None:
        """Close the connection; the next batch opens another."""
        self._client = None
        await self._open.aclose()

    def next(self) -> dict[str, Any]:
        """An event that this source has not made yet."""
        return next(self._histories)

    def batch(self, size: int) -> list[dict[str, Any]]:
        """Events that this source has not made yet."""
        return [next(self._histories) for _ in range(size)]

    def canary(self) -> dict[str, Any]:
        """The authorisation of a consent of which nothing else is ever heard."""
        name = f"{self._name}canary-{len(self.made)}"
        return ev.event(
            "consent_authorised", at=len(self.made), event_id=name, linkId=name, consentId=name
        )

    async def send_again(self) -> None:
        """Send everything once more, in batches of a hundred."""
        for start in range(0, len(self.made), 100):
            batch = self.made[start : start + 100]
            async with connected(next(self._receivers)) as client:
                await client.send(request(ev.dump(batch)))
                assert (await client.answer()).status == 200


def _histories(name: str, *, deleting: bool) -> Iterator[dict[str, Any]]:
    """Events of ever new consents, no two of which have the same id or time."""
    number, consent = 0, ""

    def made(kind: str, at: int, **payload: Any) -> dict[str, Any]:
        event = ev.event(kind, at=at, event_id=f"{name}{kind}-{at}", **payload)
        return _marked(event, consent) if deleting else event

    while True:
        number += 1
        link, consent, wish = f"{name}l{number // 5}", f"{name}c{number}", f"{name}r{number}"
        at = number * 10
        yield made("link_created", at, linkId=link)
        yield made("consent_revoked", at + 3, linkId=link, consentId=consent)
        yield made("consent_authorised", at + 1, linkId=link, consentId=consent)
        yield made("product_generated_success", at + 5, linkId=link, requestId=wish)
        yield made("product_request_received", at + 4, linkId=link, requestId=wish)
        if deleting and number % 3 == 0:
            yield made("consent_deleted_by_user", at + 6, linkId=link, consentId=consent)


def _marked(event: dict[str, Any], consent: str) -> dict[str, Any]:
    """The event with a mark in all that is personal; see `tests.support.privacy`."""
    mark, payload = mark_of(consent).decode(), event["payload"]
    payload["personalTaxId"] = event["externalInfo"]["myUUID"] = mark
    if "consents" in payload:
        payload["consents"]["externalTrackId"] = mark
        payload["consents"]["permissionsGranted"] = [f"{mark} {one}" for one in "ABC"]
    if "requestBody" in payload:
        payload["requestBody"]["taxId"] = mark
    return event


class Way(Struct, frozen=True):
    """How the parts of a world reach one another, where that is not the plain way.

    Attributes:
        env: role → what it has in its environment besides.
        prefix: role → the command that starts its process.
        door: ports that the source sends to, in place of the receiver's own.
        endpoint_url: what callbacks are sent to, in place of the endpoint's own.
    """

    env: dict[str, dict[str, str]] = {}
    prefix: dict[str, list[str]] = {}
    door: tuple[int, ...] = ()
    endpoint_url: str = ""


class World:
    """Correio as a whole. Its parts are killed, stopped and started by name."""

    def __init__(
        self,
        folder: Path,
        broker: PrivateBroker,
        store: str,
        endpoint: Endpoint,
        *,
        way: Way | None = None,
        deleting: bool = False,
        **more: Any,
    ) -> None:
        """`more` are further sections of the configuration, or fields of those there are.

        `deleting`: see `Source`; of the world's own source.

        `console` among `more` lets the console run too.
        """
        self._way = way or Way()
        self.folder = folder
        self.broker = broker
        self.store = store
        self.endpoint = endpoint
        self.port = free_port()
        self.spool = Path(more.get("receiver", {}).get("spool", folder / "spool"))
        self._sources: list[Source] = []
        self.source = self.another_source(deleting=deleting)
        sections: dict[str, Any] = {
            "broker": {
                "url": broker.url, "reconnect_max": 0.3, "metrics_url": broker.metrics_url,
            },
            "store": {"url": store, "busy_timeout": 1.0},
            "receiver": {
                "port": self.port, "spool": str(self.spool), "spool_min_free_bytes": 0,
            },
            "source": [{"name": "klavi", "secrets": [SECRET], "partner_app_ids": [ev.APP]}],
            "callbacks": CALLBACKS,
            "endpoint": [{
                "id": "crm", "url": self._way.endpoint_url or endpoint.url,
                "secrets": [ENDPOINT_SECRET], "allow_private_network": True,
            }],
        }  # fmt: skip
        for name, fields in more.items():
            tables = isinstance(fields, list)
            sections[name] = fields if tables else {**sections.get(name, {}), **fields}
        self.config = write_config(folder, **sections)
        self.page = f"http://127.0.0.1:{more.get('console', {}).get('port', 0)}"
        self._stack = contextlib.ExitStack()
        self._serving = contextlib.AsyncExitStack()
        self.parts: dict[str, Process] = {}
        self._roles = ROLES | ({"console": ("console",)} if "console" in more else {})

    async def __aenter__(self) -> Self:
        await migrate(Secret(self.store))
        await topology.declare(self.broker.url)
        await self._serving.enter_async_context(serving(self.endpoint, port=self.endpoint.port))
        for role in self._roles:
            self.add(role, name=role)
        for part in self.parts.values():
            await part.until_ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stack.close()
        await self._serving.aclose()

    def add(self, role: str, *, name: str) -> Process:
        """Start one more process of a role; it is ready some time later."""
        log = self.folder / f"{name}.log"
        made = process(*self._roles[role], config=self.config, log=log)
        self.parts[name] = self._stack.enter_context(made)
        self.parts[name].env = self._way.env.get(name, self._way.env.get(role, {}))
        self.parts[name].prefix = self._way.prefix.get(role, [])
        self.parts[name].start()
        return self.parts[name]

    def another_source(
        self, name: str = "", *, patience: float = 10.0, deleting: bool = False
    ) -> Source:
        """A source of its own, whose events belong to the books like those of the first."""
        listeners = map(Listener, self._way.door or (self.port,))
        self._sources.append(Source(*listeners, name=name, patience=patience, deleting=deleting))
        return self._sources[-1]

    @property
    def made(self) -> list[dict[str, Any]]:
        """What all the sources have sent, accepted or not."""
        return [event for source in self._sources for event in source.made]

    @property
    def accepted(self) -> set[str]:
        """The ids of what got its 200."""
        return {name for source in self._sources for name in source.accepted}

    async def strike(self, part: str, *, pause: float) -> None:
        """Kill one part without a warning, leave it away for `pause` seconds, bring it back."""
        match part:
            case "endpoint":
                await self._serving.aclose()
                await asyncio.sleep(pause)
                again = serving(self.endpoint, port=self.endpoint.port)
                await self._serving.enter_async_context(again)
            case "broker" | "wipe":
                await asyncio.to_thread(self.broker.kill)
                if part == "wipe":
                    await asyncio.to_thread(self.broker.wipe)
                await asyncio.sleep(pause)
                await asyncio.to_thread(self.broker.start)
            case _:
                await asyncio.to_thread(self.parts[part].kill)
                await asyncio.sleep(pause)
                self.parts[part].start()

    async def applied(self) -> None:
        """Wait until no event is under way: all are stored, spool and queue are empty."""
        await _until(self._events_under_way)

    async def _events_under_way(self) -> dict[str, Any]:
        """What an event that got its 200 may still lie in, where that is not empty."""
        missing = await asyncio.to_thread(self._missing)
        spool = measure_spool(self.spool, now=0)
        found: dict[str, Any] = {"missing": missing, "spool": spool is None or spool.events}
        try:
            found |= {one.name: one.ready for one in await depths(Secret(self.broker.url))}
        except CorreioError as error:
            found["broker"] = error
        return {
            name: value for name, value in found.items()
            if value and not name.startswith(topology.CALLBACKS)
        }  # fmt: skip

    def _missing(self) -> set[str]:
        """Which events were accepted and are neither stored nor in quarantine."""
        accepted = self.accepted
        ((stored,),) = books.fetch(self.store, "SELECT count(*) FROM events")
        if stored < len(accepted):
            return {f"{len(accepted) - stored} events"}
        rows = books.fetch(self.store, "SELECT event_id FROM events")
        return accepted - {one for (one,) in rows}

    async def settled(self) -> None:
        """Wait until nothing is under way at all."""
        await self.applied()

        async def waiting() -> dict[str, Any]:
            query = (
                "SELECT id, state FROM deliveries WHERE state <> 'delivered' "
                "UNION ALL SELECT id, state FROM erasures WHERE state NOT IN ('settling', 'done')"
            )
            return dict(await asyncio.to_thread(books.fetch, self.store, query))

        await _until(waiting)

    async def judge(self, *, foreign: int = 0) -> books.Books:
        """The oracle: what was accepted was applied once, and told, and the books balance.

        `foreign` messages that are none of the source's events lie in the quarantine.
        """
        after = books.read(self.store)
        books.check(after)
        made = self.made
        books.compare_with_model(after, made)
        assert await books.audit_faults(self.store) == []
        stored = [one for (one,) in books.fetch(self.store, "SELECT event_id FROM events")]
        assert len(stored) == len(set(stored))
        assert set(stored) == {one["eventId"] for one in made} == self.accepted
        assert sum(after.quarantined.values()) == foreign, after.quarantined
        self._judge_callbacks({key.id for key, one in after.states.items() if is_erased(one)})
        self._judge_privacy()
        return after

    def _judge_privacy(self) -> None:
        """Nothing personal lies about in clear, and none of it outlives an erasure."""
        counts = remains(self.store).items()
        left = {what: books.fetch(self.store, query) for what, query in counts}
        assert {what: rows for what, rows in left.items() if rows != [(0,)]} == {}
        path = sqlite_path(Secret(self.store))
        folders = [self.spool] if path is None else [self.spool, path.parent]
        assert [one for folder in folders for one in in_clear(folder)] == []

    def _judge_callbacks(self, erased: set[str]) -> None:
        """Each notification arrived at least once, under one id with one body, rightly signed.

        Of what is `erased`, what was personal may be missing in later attempts.
        """
        assert self.endpoint.wrong == []
        calls = self.endpoint.by_id
        told = {one for (one,) in books.fetch(self.store, "SELECT id FROM deliveries")}
        assert set(calls) == told
        for made in calls.values():
            bodies = {call.body for call in made}
            if made[0].content["data"]["id"] in erased:
                bodies = {impersonal(one) for one in bodies}
            assert len(bodies) == 1


async def _until(nothing: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    """Wait until what is asked has nothing left to name; fail with what it names in the end."""
    left: dict[str, Any] = {}
    try:
        async with asyncio.timeout(HEALED):
            while left := await nothing():
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"still there after {HEALED:g} s: {left}") from None


@contextlib.asynccontextmanager
async def world(
    folder: Path, broker: PrivateBroker, store: str, *, way: Way | None = None, **more: Any
) -> AsyncIterator[World]:
    """Everything runs when this is entered."""
    endpoint = Endpoint()
    async with serving(endpoint):  # only to learn a free port
        pass
    async with World(folder, broker, store, endpoint, way=way, **more) as made:
        yield made
