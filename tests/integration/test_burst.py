"""The burst and the documented way keep the same promises, on this very release of aiormq."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aio_pika
import pytest

from deploy.local.provide import PrivateBroker
from shared.broker import topology
from shared.broker.depth import depths
from shared.broker.publisher import ConfirmingPublisher, Outgoing
from shared.config import BrokerConfig, Secret
from shared.errors import BrokerUnavailableError, RejectedError, UnroutableError

LIMIT = 20


@pytest.fixture(params=["burst", "documented"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    chosen: str = request.param
    if chosen == "documented":
        monkeypatch.setattr("shared.broker.publisher.fits", lambda _channel: False)
    return chosen


@contextlib.asynccontextmanager
async def publishing(url: str) -> AsyncIterator[ConfirmingPublisher]:
    await topology.declare(url)
    config = BrokerConfig(url=Secret(url), reconnect_max=0.3)
    publisher = ConfirmingPublisher(config, name="test", queue=topology.EVENTS)
    task = asyncio.create_task(publisher.run())
    try:
        async with asyncio.timeout(LIMIT):
            await publisher.wait_connected()
            yield publisher
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def event(body: bytes, key: str = topology.EVENTS) -> Outgoing:
    return Outgoing(body, topology.EVENTS, key)


def outstanding(publisher: ConfirmingPublisher) -> int:
    """Messages of which something is still kept."""
    assert publisher._channel is not None
    if publisher._burst is not None:
        return publisher._burst.outstanding
    return len(publisher._channel.confirmations) + len(publisher._channel.message_id_delivery_tag)


async def ready(url: str) -> int:
    return next(one.ready for one in await depths(Secret(url)) if one.name == topology.EVENTS)


async def test_the_installed_aiormq_has_the_shape(broker_url: str) -> None:
    async with publishing(broker_url) as publisher:
        assert publisher._burst is not None


async def test_many_publishes_at_once_all_arrive(way: str, broker_url: str) -> None:
    async with publishing(broker_url) as publisher:
        await asyncio.gather(*(
            publisher.publish([event(b"%d-%d" % (batch, i)) for i in range(7)])
            for batch in range(300)
        ))  # fmt: skip
        assert outstanding(publisher) == 0
    assert await ready(broker_url) == 2_100


async def test_a_body_larger_than_a_frame_arrives_whole(way: str, broker_url: str) -> None:
    body = bytes(range(256)) * 2_000
    async with publishing(broker_url) as publisher:
        await publisher.publish([event(body), event(b"")])
    async with await aio_pika.connect(broker_url) as connection:
        queue = await (await connection.channel()).get_queue(topology.EVENTS)
        got = [await queue.get() for _ in range(2)]
        assert [one.body for one in got] == [body, b""]
        assert all(one.delivery_mode == aio_pika.DeliveryMode.PERSISTENT for one in got)
        assert len({one.message_id for one in got}) == 2


async def test_a_return_fails_its_own_batch_and_no_other(way: str, broker_url: str) -> None:
    async with publishing(broker_url) as publisher:
        outcomes = await asyncio.gather(
            publisher.publish([event(b"a"), event(b"b")]),
            publisher.publish([event(b"c"), event(b"d", "nowhere"), event(b"e")]),
            publisher.publish([event(b"f")]),
            return_exceptions=True,
        )
        assert [type(one) for one in outcomes] == [type(None), UnroutableError, type(None)]
        assert outstanding(publisher) == 0
    assert await ready(broker_url) == 5


async def test_a_refusal_is_told(way: str, broker_url: str) -> None:
    async with publishing(broker_url) as publisher:
        async with await aio_pika.connect(broker_url) as connection:
            channel = await connection.channel()
            await channel.declare_queue(
                "tiny",
                durable=True,
                arguments={
                    "x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish",
                },
            )  # fmt: skip
            await (await channel.get_queue("tiny")).bind(topology.EVENTS, "tiny")

        async def overfill() -> None:
            for _ in range(100):
                await publisher.publish([event(b"x", "tiny") for _ in range(20)])

        with pytest.raises(RejectedError):
            await overfill()


async def test_giving_up_leaves_no_trace_and_the_next_publish_works(
    way: str, broker_url: str
) -> None:
    async with publishing(broker_url) as publisher:
        for _ in range(20):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0):
                    await publisher.publish([event(b"perhaps")])
        await publisher.publish([event(b"surely")])
        assert outstanding(publisher) == 0


async def test_a_lost_connection_fails_what_waits(way: str, private_broker: PrivateBroker) -> None:
    async with publishing(private_broker.url) as publisher:
        await asyncio.to_thread(private_broker.pause)
        waiting = [asyncio.create_task(publisher.publish([event(b"x")])) for _ in range(10)]
        await asyncio.wait(waiting, timeout=0.05)
        assert not any(one.done() for one in waiting)
        await asyncio.to_thread(private_broker.kill)
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(one) for one in outcomes} == {BrokerUnavailableError}
