"""Queue figures: right while the broker answers, absent while it does not."""

import asyncio

import aio_pika
import pytest
from prometheus_client import REGISTRY

from deploy.local.provide import PrivateBroker
from shared.broker import headers, topology
from shared.broker.consumer import BatchConsumer
from shared.broker.depth import depths
from shared.broker.heads import PAUSE, HeadWatch, heads
from shared.broker.publisher import ConfirmingPublisher, Outgoing
from shared.broker.statistics import unacknowledged
from shared.broker.watch import QueueWatch
from shared.config import BrokerConfig, Secret
from shared.errors import BrokerUnavailableError, TopologyError
from tests.support.clock import ManualClock

NOW = 1_700_000_000_000
OWN = ("messages_unacknowledged", "oldest_message_age_seconds")
QUEUE = ("messages_ready", "consumers")


def figure(name: str, *, of: str = "queue") -> float | None:
    """A figure of the events queue."""
    return REGISTRY.get_sample_value(f"correio_{of}_{name}", {"queue": topology.EVENTS})


async def test_figures_follow_the_queue_and_vanish_with_the_broker(
    private_broker: PrivateBroker,
) -> None:
    await topology.declare(private_broker.url)
    config = BrokerConfig(url=Secret(private_broker.url), connect_timeout=2.0, reconnect_max=0.2)
    publisher = ConfirmingPublisher(config, name="test", queue=topology.EVENTS)
    consumer = BatchConsumer(config, name="test", queue=topology.EVENTS, prefetch=2)
    watch = QueueWatch(config, [consumer], clock=ManualClock(NOW))
    tasks = [asyncio.create_task(one.run()) for one in (publisher, consumer)]
    try:
        async with asyncio.timeout(60):
            await publisher.wait_connected()
            await publisher.publish([
                Outgoing(b"x", topology.EVENTS, topology.EVENTS, {headers.RECEIVED_AT: NOW - age})
                for age in (9_000, 8_000, 7_000, 6_000)
            ])  # fmt: skip
            first = await consumer.take(limit=1, linger=0)
            while consumer.unacknowledged < 2:
                await asyncio.sleep(0.01)
            await watch.look()
            assert [figure(one) for one in QUEUE] == [2, 1]
            assert [figure(one, of="consumer") for one in OWN] == [2, 9]

            await first.ack()
            assert consumer.oldest(NOW) == NOW - 8_000

            await asyncio.to_thread(private_broker.kill)
            await watch.look()
            assert [figure(one) for one in QUEUE] == [None, None]
            while consumer.consuming:
                await asyncio.sleep(0.01)
            await watch.look()
            assert [figure(one, of="consumer") for one in OWN] == [0, 0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def put(url: str, queue: str, **said: int) -> None:
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        exchange = await channel.get_exchange(topology.QUEUES[queue][0])
        await exchange.publish(aio_pika.Message(b"x", headers=said), routing_key=queue)


async def test_the_age_of_a_queue_that_nobody_consumes_is_seen(broker_url: str) -> None:
    await topology.declare(broker_url)
    config = BrokerConfig(url=Secret(broker_url))
    clock = ManualClock(NOW)
    watch = HeadWatch(config, clock=clock)
    delay = topology.delay_queue(18_000)

    async def ages() -> dict[str, float | None]:
        return await watch.ages(await depths(config.url))

    assert set((await ages()).values()) == {0.0}
    await put(broker_url, topology.EVENTS, **{headers.RECEIVED_AT: NOW - 9_000})
    await put(broker_url, topology.EVENTS, **{headers.RECEIVED_AT: NOW})
    await put(broker_url, delay, **{headers.DELAYED_AT: NOW - 1_000})
    await put(broker_url, topology.CALLBACKS)
    seen = await ages()
    assert (seen[topology.EVENTS], seen[delay], seen[topology.CALLBACKS]) == (9.0, 1.0, None)
    assert seen[topology.DEAD] == 0.0

    # it grows by itself; the head is looked at ever more seldom, as the broker counts the looks
    looks = 0
    for _ in range(3_600):
        clock.move(1)
        before = watch._look_at[topology.EVENTS]
        seen = await watch.ages(await depths(config.url)) if clock.monotonic() >= before else {}
        looks += bool(seen)
    assert 5 <= looks <= 12
    found = await heads(config, [topology.EVENTS, topology.DEAD])
    assert set(found) == {topology.EVENTS}
    assert found[topology.EVENTS].returned == looks + 1
    # another watch knows how often it was looked at, from the broker
    other = HeadWatch(config, clock=clock)
    await other.ages(await depths(config.url))
    assert other._look_at[topology.EVENTS] - clock.monotonic() > PAUSE * 2**looks


async def test_a_missing_queue_is_put_back_although_nobody_publishes_to_it(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay asks for the depth of all queues, and would wait for ever."""
    monkeypatch.setattr(topology, "MEND_DELAY", 0.0)
    await topology.declare(broker_url)
    async with await aio_pika.connect(broker_url) as connection, connection.channel() as channel:
        await channel.queue_delete(topology.delay_queue(5))
    for permitted in (False, True):
        with pytest.raises(TopologyError):
            await depths(Secret(broker_url))
        config = BrokerConfig(url=Secret(broker_url), declare_missing=permitted)
        await QueueWatch(config, (), clock=ManualClock(NOW)).look()
    assert len(await depths(Secret(broker_url))) == len(topology.QUEUES)


async def test_what_consumers_hold_is_told_by_the_plugin(
    metered_broker: PrivateBroker,
) -> None:
    await topology.declare(metered_broker.url)
    url, metrics = Secret(metered_broker.url), metered_broker.metrics_url
    assert await unacknowledged(BrokerConfig(url=url)) == {}
    config = BrokerConfig(url=url, metrics_url=metrics)
    await put(metered_broker.url, topology.EVENTS)
    async with await aio_pika.connect(metered_broker.url) as connection:
        queue = await (await connection.channel()).get_queue(topology.EVENTS)
        await queue.get()
        async with asyncio.timeout(60):
            while (await unacknowledged(config)).get(topology.EVENTS) != 1:
                await asyncio.sleep(0.2)
    for wrong in (f"{metrics}/nowhere", "http://127.0.0.1:1"):
        with pytest.raises(BrokerUnavailableError):
            await unacknowledged(BrokerConfig(url=url, metrics_url=wrong))
