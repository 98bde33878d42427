"""An operator at work in the midst of it all, with the console's own commands."""

import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from console.context import Context
from console.quarantine import replay_entries
from shared.errors import CorreioError
from shared.store.rows import EndpointStatus
from tests.chaos.simulated.loop import Life, SimClock

if TYPE_CHECKING:
    from tests.chaos.simulated.world import SimWorld

OPERATOR = "operator"
"""Name of the life of each invocation."""

SETTLED = ("exhausted", "delivered")
"""The states from which ``correio deliveries replay`` takes."""


class Desk(Context):
    """One invocation of ``correio`` on the simulated world."""

    def __init__(self, world: "SimWorld", life: Life) -> None:
        super().__init__()
        self.config = world.config  # type: ignore[misc]  # a cached property of the real one
        self.clock = SimClock(life)


def act(world: "SimWorld", work: Callable[[Desk], Awaitable[object]]) -> None:
    """Let an operator do something, who sees it fail now and then."""
    life = Life(world.loop, OPERATOR)
    world.lives.append(life)

    async def sit_down() -> None:
        with contextlib.suppress(CorreioError, TimeoutError):
            await work(Desk(world, life))
        world.loop.later(0, leave)

    def leave() -> None:
        if not life.dead:
            life.die()

    life.spawn(sit_down())


async def replay_quarantine(desk: Desk) -> None:
    """Send everything that is in quarantine through the events worker once more."""
    async with desk.queries() as queries:
        reasons = sorted({one.reason for one in await queries.quarantine(limit=1000)})
    for reason in reasons:
        await replay_entries(desk, (), reason, really=True)


async def replay_deliveries(desk: Desk) -> None:
    """Tell everything that is settled once more."""
    async with desk.queries() as queries:
        rows = await queries._store.fetch("SELECT id FROM deliveries ORDER BY id")
        ids = [one for (one,) in rows]
        now = desk.clock.now()
        await queries.replay(ids, states=SETTLED, replay="again", due=[now] * len(ids))


def cancel_deliveries(world: "SimWorld") -> Callable[[Desk], Awaitable[object]]:
    """Cancel what waits for one endpoint; `world` remembers what need not arrive any more."""

    async def cancel(desk: Desk) -> None:
        name = world.weather.one_of(list(world.endpoints))
        async with desk.queries() as queries:
            rows: list[Any] = await queries._store.fetch(
                "SELECT id FROM deliveries WHERE endpoint = ? ORDER BY id", (name,)
            )
            ids = [one for (one,) in rows]
            world.cancelled |= set(ids)
            await queries.cancel(ids, now=desk.clock.now())

    return cancel


def pause_endpoint(world: "SimWorld") -> Callable[[Desk], Awaitable[object]]:
    """Pause one endpoint; the judge resumes it in the end."""

    async def pause(desk: Desk) -> None:
        name = world.weather.one_of(list(world.endpoints))
        async with desk.store() as store:
            await store.set_endpoint(
                name, EndpointStatus.PAUSED, reason="test", now=desk.clock.now()
            )

    return pause
