import asyncio
import contextlib

import pytest

from shared.broker import topology
from shared.broker.connection import first_of, keep_connected
from shared.broker.consumer import BatchConsumer
from shared.broker.watch import QueueWatch
from shared.clock import SystemClock
from shared.config import BrokerConfig, Secret

NOBODY = BrokerConfig(url=Secret("amqp://127.0.0.1:1/"))


async def never(_connection: object) -> None:
    pytest.fail("nobody listens there")


async def test_a_cancellation_is_heeded_whenever_it_arrives() -> None:
    """It may come together with the refusal of the connection, and be swallowed on the way."""
    for number in range(200):
        task = asyncio.create_task(keep_connected(NOBODY, name="test", session=never))
        await asyncio.sleep(number % 40 * 0.0003)
        task.cancel()
        _, late = await asyncio.wait([task], timeout=5)
        assert not late
        assert task.cancelled()


async def test_a_consumer_stops_whatever_it_is_at(broker_url: str) -> None:
    """Connecting, declaring, subscribing, consuming: none of it may swallow the cancellation."""
    await topology.declare(broker_url)
    for number in range(100):
        consumer = BatchConsumer(
            BrokerConfig(url=Secret(broker_url)), name="test", queue=topology.EVENTS, prefetch=1
        )
        task = asyncio.create_task(consumer.run())
        await asyncio.sleep(number * 0.0006)
        task.cancel()
        _, late = await asyncio.wait([task], timeout=5)
        assert not late
        assert task.cancelled()


async def test_the_watch_of_the_queues_stops_whatever_it_is_at(broker_url: str) -> None:
    """Else a process that was told to end would never do so."""
    await topology.declare(broker_url)
    config = BrokerConfig(url=Secret(broker_url))
    for number in range(100):
        watch = QueueWatch(config, [], clock=SystemClock())
        task = asyncio.create_task(watch.run())
        await asyncio.sleep(number * 0.0003)
        task.cancel()
        _, late = await asyncio.wait([task], timeout=5)
        assert not late, number
        assert task.cancelled()


async def test_a_swallowed_cancellation_ends_the_next_wait() -> None:
    async def swallow() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await first_of(asyncio.Event().wait())

    task = asyncio.create_task(swallow())
    await asyncio.sleep(0)
    task.cancel()
    _, late = await asyncio.wait([task], timeout=5)
    assert not late
    assert task.cancelled()
