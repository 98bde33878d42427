"""What an outage writes into the logs: bounded, and no more for more load.

``CHAOS_OUTAGE=3600 make chaos-real ARGS="-k 'outage and 100'"`` lets it last for an hour.
"""

import asyncio
import math
import os
from pathlib import Path

import orjson
import pytest

from tests.chaos.stage import Stage
from tests.support.world import ROLES

SECONDS = float(os.environ.get("CHAOS_OUTAGE", "20"))

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(200 + 2 * SECONDS)]

WORK = {"batch.accepted", "event.stored", "events.applied", "attempt.finished", "spool.drained"}
"""Lines that stand for work done: as many as there was work."""

MOST = 60
"""Lines of a process in a minute of outage: 5 of each kind of complaint."""


def complaints(log: Path, start: int) -> int:
    """Lines since `start` that stand for no work."""
    with log.open("rb") as file:
        file.seek(start)
        return sum(orjson.loads(line)["event"] not in WORK for line in file if line[:1] == b"{")


async def outage(stage: Stage, rate: float) -> dict[str, int]:
    """Without broker, spool and endpoint: lines of each process."""
    logs = {role: stage.world.parts[role].log for role in ROLES}
    start = {role: log.stat().st_size for role, log in logs.items()}
    async with stage.under_load(rate), stage.broker.cut(), stage.endpoint_link.cut():
        with stage.spool_disk.full():
            await stage.refused(503)
            await asyncio.sleep(SECONDS)
            told = {role: complaints(log, start[role]) for role, log in logs.items()}
    await stage.world.settled()
    return told


@pytest.mark.parametrize("rate", [5.0, 100.0])
async def test_an_outage_is_told_in_few_lines_however_much_comes_in(
    tmp_path: Path, rate: float
) -> None:
    async with Stage(tmp_path, "sqlite") as stage:
        told = await outage(stage, rate)
        print(f"\n{rate:g} batches/s for {SECONDS:g} s: {told}")  # noqa: T201 - the figures of a run
        assert max(told.values()) <= MOST * math.ceil(SECONDS / 60), told
