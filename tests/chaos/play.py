"""One row of the catalogue, played on a stage and judged."""

import asyncio

from msgspec import Struct

from tests.chaos.catalogue import Row
from tests.chaos.stage import Stage


class Times(Struct, frozen=True):
    """Seconds from the moment in which the fault was healed.

    Attributes:
        recovered: until an event that was made then has gone the whole way to the endpoint.
        drained: until nothing was under way any more.
        slowest: that the source waited for an answer, fault included.
    """

    recovered: float
    drained: float
    slowest: float


async def play(stage: Stage, row: Row, *, judged: bool = True) -> Times:
    """Do the fault under load, heal it, wait until all is told, and have the books judged."""
    assert row.act is not None
    loop = asyncio.get_running_loop()
    stage.world.source.seconds.clear()
    async with stage.under_load():
        async with row.act(stage):
            await asyncio.sleep(row.seconds)
        healed = loop.time()
        await stage.fresh()
        recovered = loop.time() - healed
    await stage.world.settled()
    drained = loop.time() - healed
    if judged:
        await stage.world.judge(foreign=stage.foreign)
    return Times(recovered, drained, max(stage.world.source.seconds, default=0.0))
