"""All of Correio on the simulated world of one seed: its processes, what befalls them, the end."""

import asyncio
import random
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from receiver.service import Receiver
from shared.config import (
    BrokerConfig,
    CallbacksConfig,
    Config,
    EndpointConfig,
    EventsConfig,
    ReceiverConfig,
    SealingConfig,
    Secret,
    SourceConfig,
    StoreConfig,
)
from shared.store.open import open_store
from shared.store.port import Store
from shared.store.rows import EndpointStatus
from tests.chaos.simulated import strikes
from tests.chaos.simulated.broker import SimBroker
from tests.chaos.simulated.disk import SimDisk
from tests.chaos.simulated.loop import Life, SimClock, SimLoop
from tests.chaos.simulated.source import SimSource
from tests.chaos.simulated.weather import Weather
from tests.chaos.simulated.web import SimEndpoint, SimServer
from tests.support import events as ev
from tests.support.endpoints import SECRET as ENDPOINT_SECRET
from tests.support.http import SECRET
from worker.callbacks.service import CallbacksService
from worker.events.service import EventsService

CHAOS = 12.0
"""Seconds in which the source sends and faults strike."""

HEALED = 240.0
"""Seconds in which everything must have drained after the last fault."""

GRACE = 25.0
"""Seconds in which a process must have stopped, whatever is wrong around it."""

ENDPOINTS = {"crm": ("*",), "audit": ("consent.*",)}

Line = Callable[[str], None]


def configuration(folder: Path, chance: random.Random) -> Config:
    """Short waits, so that a healed world drains in simulated seconds; bounds that are reached."""
    return Config(
        broker=BrokerConfig(connect_timeout=2.0),
        store=StoreConfig(url=Secret(f"sqlite:///{folder}/store.db"), busy_timeout=1.0),
        receiver=ReceiverConfig(
            spool=str(folder / "spool"), spool_min_free_bytes=1, spool_max_bytes=40_000,
            shutdown_timeout=4.0,
        ),
        events=EventsConfig(
            pause_max=1.0, batch_max=chance.choice([2, 5, 20]), prefetch=40, quiet_period=5.0
        ),
        callbacks=CallbacksConfig(
            schedule=(0.5, 1.0, *[2.0] * 400), attempt_timeout=3.0, lease_margin=2.0,
            connect_timeout=1.0, wake_grace=5.0, relay_interval=0.5, breaker_failures=4,
            breaker_open=1.0, breaker_open_max=4.0, release_rate=200,
            relay_batch=chance.choice([3, 1000]),
        ),
        sealing=SealingConfig(erasing_interval=2.0),
        source=(SourceConfig("klavi", secrets=(Secret(SECRET),), partner_app_ids=(ev.APP,)),),
        endpoint=tuple(
            EndpointConfig(
                id=name, url=f"http://127.0.0.1:9/{name}", secrets=(Secret(ENDPOINT_SECRET),),
                types=types, allow_private_network=True, max_in_flight=chance.choice([1, 4]),
            )
            for name, types in ENDPOINTS.items()
        ),
    )  # fmt: skip


class Place:
    """Where a process of some role runs, again and again."""

    def __init__(self, name: str, role: str) -> None:
        self.name = name
        self.role = role
        self.life: Life | None = None
        self.stop = asyncio.Event()
        self.server: SimServer | None = None
        self.receiver: Receiver | None = None


class SimWorld:
    """One simulation."""

    def __init__(self, seed: int, folder: Path, *, line: Line) -> None:
        """`line` is told each thing that happens."""
        random.seed(seed)
        self._line = line
        self.loop = SimLoop()
        self.weather = Weather(seed, {kind: one for kind, (one, _) in strikes.STRIKES.items()})
        chance = self.weather.chance
        self.config = configuration(folder, chance)
        self.bursts = chance.random() < 0.8  # else aiormq has a shape that no burst fits
        self.folder = folder
        self.broker = SimBroker(
            self.loop, self.weather, delivery_limit=chance.choice([1, 3, 100, 100]), say=self.say
        )
        self.disk = SimDisk(self.loop, self.weather)
        self.endpoints = {name: SimEndpoint(name, self.loop, self.weather) for name in ENDPOINTS}
        self._plan = self.weather.plan(seconds=CHAOS)
        self.source = SimSource(self.loop, self.weather, self._servers)
        self.faults: list[str] = []
        self.healed_at = 0.0
        self.cancelled: set[str] = set()
        self.keys: list[tuple[bytes, bytes]] = []
        self.places = [
            Place(f"{role}{number}", role)
            for role, most in (("receiver", 2), ("events", 2), ("callbacks", 2))
            for number in range(chance.randrange(1, most + 1))
        ]
        self.lives: list[Life] = []

    def say(self, text: str) -> None:
        """Write a line of the log."""
        self._line(f"{self.loop.time():9.4f} {text}")

    @property
    def loses_power(self) -> bool:
        """Whether the disk must remember what is not synced."""
        return any(kind == "power loss" for _, kind in self._plan)

    async def run(self) -> None:
        """Chaos, then calm, then until all is done."""
        for place in self.places:
            self._start(place)
        busy = self.weather.one_of([0.5, 4.0, CHAOS])
        sending = self.loop.create_task(self.source.run(seconds=busy))
        for at, kind in self._plan:
            await asyncio.sleep(max(0.0, at - self.loop.time()))
            self.say(kind)
            self.weather.seen[kind] += 1
            strikes.strike(self, kind)
        await asyncio.sleep(max(0.0, CHAOS - self.loop.time()))
        self._heal()
        await sending
        self.say("all is sent")

    # processes

    def _servers(self) -> list[SimServer]:
        return [
            place.server
            for place in self.places
            if place.life is not None and place.server is not None and place.server.listening
        ]

    def _start(self, place: Place) -> None:
        self.say(f"{place.name} starts")
        life = place.life = Life(self.loop, place.name)
        life.on_spent = lambda: self.kill(place)
        self.lives.append(life)
        place.stop = asyncio.Event()
        life.spawn(self._live(place, life))

    async def _live(self, place: Place, life: Life) -> None:
        try:
            await self._main(place, SimClock(life))
        except Exception as error:  # noqa: BLE001 - no process may end by an error
            self.faults.append(f"{place.name} ended by {error!r}")
            self.say("".join(traceback.format_exception(error)))
        if not place.stop.is_set():
            self.faults.append(f"{place.name} ended by itself")
        self.loop.later(0, self._ended, place, life)

    async def _main(self, place: Place, clock: SimClock) -> None:
        config = self.config
        match place.role:
            case "receiver":
                receiver = Receiver(config, clock=clock, registry=CollectorRegistry())
                server: Any = SimServer(receiver.app.handle)
                receiver.server = place.server = server
                place.receiver = receiver
                await receiver.run(place.stop)
            case "events":
                store = open_store(config.store, config.sealing)
                await EventsService(config, store=store, clock=clock).run(place.stop)
            case "callbacks":
                store = open_store(config.store, config.sealing)
                await CallbacksService(config, store=store, clock=clock).run(place.stop)

    def _ended(self, place: Place, life: Life) -> None:
        if not life.dead:
            life.die()
            self.say(f"{place.name} has stopped")
            place.life = None
            self.loop.later(self._pause(), self._start_again, place)

    def stop(self, place: Place) -> None:
        """Ask a process to leave; it must do so within a grace period."""
        life = place.life
        place.stop.set()

        def look() -> None:
            if life is not None and not life.dead and not life.was_frozen:
                self.faults.append(f"{place.name} did not stop within {GRACE:g} s")

        self.loop.later(GRACE, look)

    def kill(self, place: Place) -> None:
        """End a process without a warning; it comes back."""
        if place.life is not None and not place.life.dead:
            place.life.die()
            self.say(f"{place.name} is killed")
            place.life = place.server = None
            self.loop.later(self._pause(), self._start_again, place)

    def _start_again(self, place: Place) -> None:
        if place.life is None:
            self._start(place)

    def _pause(self) -> float:
        return 0.2 if self.weather.calm else self.weather.between(0.05, 3)

    def _heal(self) -> None:
        """No fault strikes any more, and what an operator has to mend is mended."""
        self.say("calm")
        self.weather.calm = True
        self.healed_at = self.loop.time()
        for life in self.lives:
            life.steps_left = None
            life.skew = 0
        now = self.loop.time()
        disk = self.disk
        disk.away_until = disk.store_full_until = disk.damaged_until = disk.full_until = now
        self.broker.alarm_until = min(self.broker.alarm_until, now)
        for endpoint in self.endpoints.values():
            endpoint.gone_until = endpoint.down_until = now

    async def resume_endpoints(self, store: Store) -> None:
        """As an operator does for an endpoint that had answered 410."""
        for name, row in (await store.endpoint_rows()).items():
            if row.status is not EndpointStatus.ENABLED:
                await store.set_endpoint(
                    name, EndpointStatus.ENABLED, reason="", now=row.changed_at
                )
