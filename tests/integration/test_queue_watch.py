"""Queue figures: right while the broker answers, absent while it does not."""

import asyncio

from prometheus_client import REGISTRY

from deploy.local.provide import PrivateBroker
from shared.broker import headers, topology
from shared.broker.consumer import BatchConsumer
from shared.broker.publisher import ConfirmingPublisher, Outgoing
from shared.broker.watch import QueueWatch
from shared.config import BrokerConfig, Secret
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
