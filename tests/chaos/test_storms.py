"""Each part of the whole is killed under load; afterwards the books balance."""

import asyncio
import random
import statistics
from pathlib import Path

import pytest

from deploy.local.provide import PrivateBroker
from tests.support.callbacks import sqlite_in
from tests.support.world import World, world

KILLED = ("receiver", "events", "callbacks", "endpoint", "broker")


async def load_until(everything: World, work: asyncio.Task[None], *, rate: float) -> None:
    """Send for as long as `work` lasts."""
    while not work.done():
        await everything.source.send(rate=rate, seconds=0.5)
    await work


async def strike_all(everything: World, plan: list[str], chance: random.Random) -> None:
    for part in plan:
        await asyncio.sleep(chance.uniform(0.1, 0.6))
        await everything.strike(part, pause=chance.uniform(0, 0.8))


async def test_every_part_is_killed_once(tmp_path: Path, private_broker: PrivateBroker) -> None:
    async with world(tmp_path, private_broker, sqlite_in(tmp_path)) as everything:
        plan = asyncio.create_task(strike_all(everything, list(KILLED), random.Random(5)))
        await load_until(everything, plan, rate=20)
        await everything.settled()
        await everything.judge()


@pytest.mark.deep
async def test_callbacks_survive_the_loss_of_the_brokers_data(
    tmp_path: Path, private_broker: PrivateBroker
) -> None:
    """What is told stands in the store. Only events that were not applied yet would be lost."""
    async with world(tmp_path, private_broker, sqlite_in(tmp_path)) as everything:
        everything.endpoint.always = 503
        await everything.source.send(rate=20, seconds=2)
        await everything.applied()
        await everything.strike("wipe", pause=0)
        everything.endpoint.always = 200
        await everything.source.send(rate=20, seconds=1)
        await everything.settled()
        await everything.judge()


@pytest.mark.deep
@pytest.mark.timeout(900)
async def test_two_minutes_of_storm(
    tmp_path: Path, private_broker: PrivateBroker, store_url: str
) -> None:
    """All parts at random for two minutes, then the broker's data is lost, then once more each."""
    chance = random.Random(11)
    loop = asyncio.get_running_loop()
    async with world(tmp_path, private_broker, store_url) as everything:
        began = loop.time()
        struck = []
        while loop.time() - began < 120:
            struck.append(chance.choice(KILLED))
            strike = asyncio.create_task(strike_all(everything, struck[-1:], chance))
            await load_until(everything, strike, rate=50)
        everything.endpoint.always = 503
        await everything.source.send(rate=50, seconds=2)
        await everything.applied()
        await everything.strike("wipe", pause=1)
        everything.endpoint.always = 200
        plan = asyncio.create_task(strike_all(everything, list(KILLED), chance))
        await load_until(everything, plan, rate=50)
        await everything.settled()
        after = await everything.judge()
    print(  # noqa: T201 - the figures of a run
        f"\n{len(everything.source.made)} events, {after.duplicates} repeated, "
        f"{len(everything.endpoint.calls)} calls, {everything.source.repeats} batches sent again, "
        f"struck {struck}"
    )


@pytest.mark.deep
@pytest.mark.timeout(1800)
async def test_a_hundred_kills_of_the_receiver_apply_each_event_once(
    tmp_path: Path, private_broker: PrivateBroker, store_url: str
) -> None:
    """Every tenth time the broker dies too."""
    chance = random.Random(17)
    plan = ["receiver" if number % 10 else "broker" for number in range(1, 112)]
    async with world(tmp_path, private_broker, store_url) as everything:
        strikes = asyncio.create_task(strike_all(everything, plan, chance))
        await load_until(everything, strikes, rate=50)
        await everything.applied()
        await everything.settled()
        after = await everything.judge()
    assert plan.count("receiver") >= 100
    print(f"\n{len(everything.source.made)} events, {after.duplicates} repeated")  # noqa: T201 - as above


@pytest.mark.deep
@pytest.mark.timeout(600)
async def test_a_minute_without_a_broker_is_applied_once(
    tmp_path: Path, private_broker: PrivateBroker, store_url: str
) -> None:
    """200 events/s in batches of 2: 5 s before, 60 s in, and 5 s after the outage."""
    async with world(tmp_path, private_broker, store_url) as everything:
        source = everything.source
        await source.send(rate=100, seconds=5)
        await asyncio.to_thread(private_broker.kill)
        before = len(source.seconds)
        await source.send(rate=100, seconds=60)
        during = source.seconds[before:]
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.to_thread(private_broker.start)
        await source.send(rate=100, seconds=5)
        await everything.applied()
        drained = loop.time() - began
        await everything.settled()
        await everything.judge()
    p99 = statistics.quantiles(during, n=100)[98]
    print(f"\np99 of answers {p99 * 1000:.1f} ms, all applied {drained:.1f} s after the start")  # noqa: T201 - as above
    assert source.refused == set()
    assert source.repeats == 0
    assert p99 < 0.25
    assert drained < 60
