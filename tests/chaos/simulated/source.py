"""The source: histories of links, consents and orders, in any order, repeated, and with errors."""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson

from shared.domain.events import content_digest
from tests.chaos.simulated.loop import SimLoop
from tests.chaos.simulated.weather import Weather
from tests.chaos.simulated.web import TRAVEL, SimServer
from tests.support import events as ev
from tests.support.privacy import mark_of

PATIENCE = 10.0
"""Seconds that the source waits for an answer (domain.md)."""

RETRIES = 5
CHANGES = ("authorised", "error", "rejected", "expired", "revoked", "deleted_by_user")
PRODUCTS = ("pf_balance", "pf_loans", "pf_funds")
JUNK: tuple[Any, ...] = (
    17, "text", None, [], {"eventName": "page_viewed", "payload": {"page": 3}},
    {"requestId": "r", "productName": "pf_loans"},
    {"eventType": "analysis", "eventName": "analysis_finished"},
)  # fmt: skip

POISON = b"poison"
"""Part of the id of an event that the store refuses for its content."""


class Told:
    """One element of a batch as it is sent. `event` is None for what cannot be understood."""

    def __init__(self, made: Any) -> None:
        self.raw = orjson.dumps(made)
        self.digest = content_digest(self.raw)
        self.event: dict[str, Any] | None = made if _readable(made) else None
        self.poisonous = POISON in self.raw


def _readable(made: Any) -> bool:
    return isinstance(made, dict) and bool(made.get("eventTime")) and "partnerAppId" in made


def tell(chance: random.Random) -> list[Told]:
    """The elements that one simulation sends, in the order in which the source makes them."""
    told: list[Any] = []
    moments = iter(chance.sample(range(100_000), 400))
    for link in range(chance.randrange(1, 4)):
        named = f"l{link}"
        told.append(ev.event("link_created", at=next(moments), linkId=named))
        for consent in range(chance.randrange(1, 3)):
            told += _consent(chance, moments, named, f"c{link}{consent}")
        if chance.random() < 0.6:
            told += _order(chance, moments, named, f"r{link}")
    for _ in range(chance.randrange(3)):
        told.append(chance.choice(JUNK))
    if chance.random() < 0.3:
        broken = _change("authorised", at=next(moments), name="c00")
        broken["eventTime"] = chance.choice(["", "soon", ev.iso(2_000_000_000_000)])
        told.append(broken)
    if chance.random() < 0.2:
        poison = f"{POISON.decode()}-{chance.randrange(10)}"
        told.append(_change("revoked", at=next(moments), name="c00", event_id=poison))
    chance.shuffle(told)
    return [Told(one) for one in told]


def _consent(
    chance: random.Random, moments: Iterator[int], link: str, name: str
) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    at = next(moments)
    for number in range(chance.randrange(1, 7)):
        if chance.random() < 0.8:  # else of the very same time as the one before
            at = next(moments)
        change = chance.choice(CHANGES[:5] if chance.random() < 0.8 else CHANGES)
        event_id = f"{name}-{number}"
        if made and chance.random() < 0.1:
            event_id = made[-1]["eventId"]  # divergent: the id of another, with other content
        granted = chance.sample("ABC", chance.randrange(1, 4))
        one = _change(change, at=at, name=name, event_id=event_id, granted=granted)
        one["payload"]["linkId"] = link
        made.append(one)
    return made


def _change(
    change: str, *, at: int, name: str, event_id: str | None = None, granted: Sequence[str] = "A"
) -> dict[str, Any]:
    """A change of a consent, all that is personal in it marked."""
    mark = mark_of(name).decode()
    return ev.event(
        f"consent_{change}", at=at, event_id=event_id, linkId="l0", consentId=name,
        permissionsGranted=[f"{mark} {one}" for one in granted], externalTrackId=f"{mark} T",
        personalTaxId=f"{mark} P",
    )  # fmt: skip


def _order(
    chance: random.Random, moments: Iterator[int], link: str, name: str
) -> list[dict[str, Any]]:
    listed = chance.sample(PRODUCTS, chance.randrange(1, 3)) if chance.random() < 0.8 else ["all"]
    made = [ev.event(
        "product_request_received", at=next(moments), linkId=link, requestId=name, products=listed,
    )]  # fmt: skip
    for _ in range(chance.randrange(4)):
        kind = chance.choice(["product_generated_success", "product_generated_failed"])
        at = next(moments)
        made.append(ev.event(kind, at=at, requestId=name, product=chance.choice(PRODUCTS)))
    return made


class SimSource:
    """Sends batches, each of them again until its 200 or until it gives up, as the real one does.

    Attributes:
        acknowledged: digests of what got a 200.
        sent: everything that was ever sent, by digest.
    """

    def __init__(
        self, loop: SimLoop, weather: Weather, servers: Callable[[], list[SimServer]]
    ) -> None:
        """`servers` are the receivers' servers that listen right now."""
        self._loop = loop
        self._weather = weather
        self._servers = servers
        self.acknowledged: set[str] = set()
        self.sent: dict[str, Told] = {}
        self.statuses: set[int] = set()

    async def run(self, *, seconds: float) -> None:
        """Send everything within about so many seconds."""
        chance = self._weather.chance
        left = tell(chance)
        sending = []
        while left:
            size = chance.randrange(1, 6)
            batch, left = left[:size], left[size:]
            sending.append(self._loop.create_task(self._send(batch, chance.uniform(0, seconds))))
        await asyncio.gather(*sending)

    async def _send(self, batch: list[Told], start: float) -> None:
        await asyncio.sleep(start)
        await self._deliver(batch)
        while self._weather.strikes("source sends again"):
            await asyncio.sleep(self._weather.between(0, 5))
            await self._deliver(batch)

    async def _deliver(self, batch: list[Told]) -> None:
        """Send until there is a 200, but as often as the source does at the most."""
        self.sent |= {one.digest: one for one in batch}
        body = b"[" + b",".join(one.raw for one in batch) + b"]"
        pause = 0.25
        for _ in range(1 + RETRIES):
            status = await self._post(body)
            if status == 200:
                self.acknowledged |= {one.digest for one in batch}
                return
            self.statuses.add(status)
            await asyncio.sleep(pause)
            pause *= 2

    async def _post(self, body: bytes) -> int:
        """The status of the answer; 0 for none."""
        weather = self._weather
        await asyncio.sleep(weather.latency(TRAVEL))
        servers = self._servers()
        if not servers:
            return 0
        answer = weather.one_of(servers).take(body)
        if weather.strikes("request cut"):
            return 0
        await asyncio.wait([answer], timeout=PATIENCE)
        lost = not answer.done() or weather.strikes("answer to the source lost")
        return 0 if lost else answer.result()
