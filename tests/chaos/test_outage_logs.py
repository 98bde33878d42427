"""What an outage writes into the logs: bounded, and no more for more load."""

import asyncio
from pathlib import Path

import orjson
import pytest

from tests.chaos.stage import Stage
from tests.support.world import ROLES

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(200)]

WORK = {"batch.accepted", "event.stored", "events.applied", "attempt.finished", "spool.drained"}
"""Lines that stand for work done: as many as there was work."""

SECONDS = 20.0

MOST = 60
"""Lines of a process in an outage of that length: 5 a minute of each kind of complaint."""


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


async def test_an_outage_is_told_in_few_lines_however_much_comes_in(tmp_path: Path) -> None:
    async with Stage(tmp_path, "sqlite") as stage:
        for rate in (5.0, 100.0):
            told = await outage(stage, rate)
            print(f"\n{rate:g} batches/s for {SECONDS:g} s: {told}")  # noqa: T201 - the figures of a run
            assert max(told.values()) <= MOST, told
