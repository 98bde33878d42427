"""The processes themselves: killed, frozen, stopped, and their clocks set wrong."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.chaos.catalogue import Act, Chapter
from tests.chaos.stage import Stage
from tests.support.world import ROLES

CHAPTER = Chapter()
NAMED = {"receiver": "the receiver", "events": "the events worker",
         "callbacks": "the callbacks worker"}  # fmt: skip


def killing(role: str) -> Act:
    async def act(stage: Stage) -> AsyncIterator[None]:
        """Three times, so that it is met at different work."""
        part = stage.world.parts[role]
        for pause in (0.0, 0.1):
            await asyncio.to_thread(part.kill)
            part.start()
            await stage.ready(role)
            await asyncio.sleep(pause)
        await asyncio.to_thread(part.kill)
        yield
        part.start()

    return act


def freezing(role: str) -> Act:
    async def act(stage: Stage) -> AsyncIterator[None]:
        stage.world.parts[role].pause()
        try:
            yield
        finally:
            stage.world.parts[role].resume()

    return act


def stopping(role: str) -> Act:
    async def act(stage: Stage) -> AsyncIterator[None]:
        part = stage.world.parts[role]
        assert await asyncio.to_thread(part.stop) == 0
        yield
        part.start()

    return act


def skewing(role: str, seconds: float) -> Act:
    async def act(stage: Stage) -> AsyncIterator[None]:
        with stage.clocks[role].off_by(seconds):
            yield

    return act


KEPT = {
    "receiver": "the source repeats what was not answered; the spool left behind is adopted",
    "events": "unacknowledged messages are delivered again and applied once",
    "callbacks": "leases run out and attempts are repeated under the same webhook-id",
}

for _role in ROLES:
    CHAPTER.row(
        f"{_role}-killed",
        fault=f"{NAMED[_role]} dies, three times",
        how="SIGKILL",
        holds=KEPT[_role],
        seconds=0.5,
    )(killing(_role))
    CHAPTER.row(
        f"{_role}-frozen",
        fault=f"{NAMED[_role]} stands still for 12 s, and everybody gives it up",
        how="SIGSTOP and SIGCONT",
        holds=KEPT[_role],
        seconds=12.0,
    )(freezing(_role))
    CHAPTER.row(
        f"{_role}-stopped",
        fault=f"{NAMED[_role]} is stopped in good order and started again",
        how="SIGTERM; it must exit 0 within 10 s",
        holds="it finishes or gives back what it has in hand",
    )(stopping(_role))


@CHAPTER.row(
    "all-killed",
    fault="power cut: all three processes and the broker die at once",
    how="SIGKILL of each",
    holds="what got its 200 is in spool, broker or store",
    seconds=0.0,
)
async def all_killed(stage: Stage) -> AsyncIterator[None]:
    parts = stage.world.parts
    for role in ROLES:
        await asyncio.to_thread(parts[role].kill)
    await stage.broker_dies()
    yield
    for role in ROLES:
        parts[role].start()
    await asyncio.to_thread(stage.node.start)


@CHAPTER.row(
    "callbacks-second-worker-killed",
    fault="of two callbacks workers one dies while its attempts are in flight",
    how="endpoint answers after 1 s; SIGKILL of the second",
    holds="the first repeats its attempts once their lease has run out",
    seconds=0.5,
)
async def second_worker_killed(stage: Stage) -> AsyncIterator[None]:
    async with second_worker(stage):
        stage.world.endpoint.seconds = 1.0
        await stage.calls(4)
    stage.world.endpoint.seconds = 0.0
    yield


@CHAPTER.row(
    "callbacks-frozen-beyond-lease",
    fault="a callbacks worker freezes, its leases run out, another does its work, it comes back",
    how="two workers, endpoint answers after 1 s; SIGSTOP of one for 6 s, leases last 4 s",
    holds="what the late one records changes nothing",
    seconds=6.0,
)
async def frozen_beyond_lease(stage: Stage) -> AsyncIterator[None]:
    async with second_worker(stage):
        stage.world.endpoint.seconds = 1.0
        await stage.calls(4)
        stage.world.parts["callbacks"].pause()
        stage.world.endpoint.seconds = 0.0
        try:
            yield
        finally:
            stage.world.parts["callbacks"].resume()
        await stage.ready("callbacks")


@contextlib.asynccontextmanager
async def second_worker(stage: Stage) -> AsyncIterator[None]:
    """One more callbacks worker, killed at the end."""
    name = "callbacks-2"
    second = stage.world.parts.get(name) or stage.world.add("callbacks", name=name)
    if not second.running:
        second.start()
    await stage.ready(name)
    try:
        yield
    finally:
        await asyncio.to_thread(second.kill)


CHAPTER.row(
    "clock-receiver-ahead",
    fault="the receiver's clock is an hour ahead, then right again",
    how="offset of its wall clock",
    holds="no event counts as late or early for it",
    seconds=2.0,
)(skewing("receiver", 3_600))

CHAPTER.row(
    "clock-receiver-behind",
    fault="the receiver's clock is an hour behind, then right again",
    how="offset of its wall clock",
    holds="no event counts as late or early for it",
    seconds=2.0,
)(skewing("receiver", -3_600))

CHAPTER.row(
    "clock-events-behind",
    fault="the events worker's clock is an hour behind, then right again",
    how="offset of its wall clock",
    holds="deliveries are due at once, not late",
    seconds=2.0,
)(skewing("events", -3_600))

CHAPTER.row(
    "clock-events-ahead",
    fault="the events worker's clock is 3 s ahead, then right again",
    how="offset of its wall clock",
    holds="deliveries are due when its clock says so",
    seconds=2.0,
)(skewing("events", 3))

CHAPTER.row(
    "clock-callbacks-ahead",
    fault="the callbacks worker's clock is two minutes ahead, then right again",
    how="offset of its wall clock",
    holds="no lease or wake time of the future holds anything up",
    seconds=2.0,
)(skewing("callbacks", 120))

CHAPTER.row(
    "clock-callbacks-behind",
    fault="the callbacks worker's clock is two minutes behind, then right again",
    how="offset of its wall clock",
    holds="what seemed to be due in the future is told as soon as the clock is right",
    seconds=2.0,
)(skewing("callbacks", -120))
