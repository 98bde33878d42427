"""Our publisher and consumer against a real broker, above all when things break."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aio_pika
import aiormq
import pytest
from aiormq.abc import DeliveredMessage
from pamqp import commands as spec
from pamqp.header import ContentHeader
from structlog.testing import capture_logs
from yarl import URL

from deploy.local.provide import PrivateBroker
from shared.broker import connection, topology
from shared.broker import consumer as consumer_module
from shared.broker.connection import keep_connected
from shared.broker.consumer import BatchConsumer
from shared.broker.depth import depths
from shared.broker.feed import FedConnection
from shared.broker.owned import OwnedConnection
from shared.broker.publisher import ConfirmingPublisher, Outgoing
from shared.config import BrokerConfig, Secret
from shared.errors import BrokerUnavailableError, TopologyError, UnroutableError
from tests.support.proxy import Proxy

LIMIT = 15


def settings(url: str, *, declare_missing: bool = True) -> BrokerConfig:
    return BrokerConfig(url=Secret(url), declare_missing=declare_missing, reconnect_max=0.3)


def messages(*bodies: bytes, routing_key: str = topology.EVENTS) -> list[Outgoing]:
    exchange = topology.EVENTS if routing_key == topology.EVENTS else topology.CALLBACKS
    return [Outgoing(body, exchange, routing_key, {"n": 1}) for body in bodies]


@pytest.mark.parametrize("kind", [OwnedConnection, FedConnection])
async def test_what_is_collected_where_no_loop_runs_is_not_closed_there(
    kind: type[OwnedConnection],
) -> None:
    """Were it, the warning that nobody awaits it would fail this test."""
    await asyncio.to_thread(kind(URL("amqp://127.0.0.1:1/")).__del__)


@contextlib.asynccontextmanager
async def running(thing: ConfirmingPublisher | BatchConsumer) -> AsyncIterator[None]:
    task = asyncio.create_task(thing.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def publishing(url: str) -> AsyncIterator[ConfirmingPublisher]:
    publisher = ConfirmingPublisher(settings(url), name="test", queue=topology.EVENTS)
    async with running(publisher), asyncio.timeout(LIMIT):
        await publisher.wait_connected()
        yield publisher


def consumer(url: str, queue: str = topology.EVENTS, prefetch: int = 100) -> BatchConsumer:
    return BatchConsumer(settings(url), name="test", queue=queue, prefetch=prefetch)


async def ready(url: str, queue: str) -> int:
    return next(one.ready for one in await depths(Secret(url)) if one.name == queue)


async def until(condition, *, limit: float = LIMIT) -> None:  # noqa: ANN001 - an async predicate
    async with asyncio.timeout(limit):
        while not await condition():
            await asyncio.sleep(0.02)


@pytest.fixture(params=["fed", "ordinary"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How deliveries are taken: off the stream, or by aiormq."""
    chosen: str = request.param
    if chosen == "ordinary":
        monkeypatch.setattr("shared.broker.consumer.feed_of", lambda _connection: None)
    return chosen


async def test_what_is_published_is_consumed_in_order_and_gone_once_acknowledged(
    way: str, broker_url: str
) -> None:
    await topology.declare(broker_url)
    async with publishing(broker_url) as publisher:
        await publisher.publish(messages(*(b"%d" % i for i in range(50))))
        taker = consumer(broker_url)
        got: list[bytes] = []
        async with running(taker):
            while len(got) < 50:
                batch = await taker.take(limit=20, linger=0.01)
                assert len(batch.messages) <= 20
                assert batch.messages[0].headers == {"n": 1}
                got += [one.body for one in batch.messages]
                await batch.ack()
        assert got == [b"%d" % i for i in range(50)]

    async def empty() -> bool:
        return await ready(broker_url, topology.EVENTS) == 0

    await until(empty)


async def test_declaring_twice_changes_nothing(broker_url: str) -> None:
    await topology.declare(broker_url)
    await topology.declare(broker_url)


async def test_a_queue_that_stands_there_differently_is_named(broker_url: str) -> None:
    async with await aio_pika.connect(broker_url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(topology.DEAD, durable=True)
    with pytest.raises(TopologyError, match="inequivalent arg"):
        await topology.declare(broker_url)


async def test_an_unroutable_message_is_an_error(broker_url: str) -> None:
    await topology.declare(broker_url)
    async with publishing(broker_url) as publisher:
        with pytest.raises(UnroutableError):
            await publisher.publish([
                *messages(b"good"),
                Outgoing(b"bad", topology.EVENTS, "nowhere"),
            ])  # fmt: skip
        await publisher.publish(messages(b"and it goes on"))
    assert await ready(broker_url, topology.EVENTS) == 2


async def test_publishing_without_a_connection_fails_at_once() -> None:
    publisher = ConfirmingPublisher(
        settings("amqp://guest:guest@127.0.0.1:1/"), name="test", queue=topology.EVENTS
    )
    with pytest.raises(BrokerUnavailableError):
        await publisher.publish(messages(b"x"))


async def test_connecting_declares_what_is_missing_where_that_is_allowed(broker_url: str) -> None:
    async with publishing(broker_url) as publisher:
        await publisher.publish(messages(b"x"))
    assert await ready(broker_url, topology.EVENTS) == 1


async def test_without_leave_to_declare_a_missing_queue_is_waited_for(broker_url: str) -> None:
    publisher = ConfirmingPublisher(
        settings(broker_url, declare_missing=False), name="test", queue=topology.EVENTS
    )
    async with running(publisher), asyncio.timeout(LIMIT):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await publisher.wait_connected()
        await topology.declare(broker_url)
        await publisher.wait_connected()


async def test_bodies_of_every_size_arrive_whole(way: str, broker_url: str) -> None:
    await topology.declare(broker_url)
    sent = [bytes(range(256)) * 2_000, b"", *(b"%d" % i * 50 for i in range(2_000))]
    taker = consumer(broker_url, prefetch=300)
    async with publishing(broker_url) as publisher, running(taker):
        await publisher.publish(messages(*sent))
        got: list[bytes] = []
        while len(got) < len(sent):
            batch = await taker.take(limit=200, linger=0.01)
            got += [one.body for one in batch.messages]
            await batch.ack()
    assert got == sent


async def test_what_was_not_acknowledged_comes_again_on_the_next_channel(
    way: str, broker_url: str
) -> None:
    await topology.declare(broker_url)
    async with publishing(broker_url) as publisher:
        await publisher.publish(messages(b"a", b"b", b"c"))
    taker = consumer(broker_url)
    async with running(taker), asyncio.timeout(LIMIT):
        batch = await taker.take(limit=1, linger=0.05)

    async def all_given_back() -> bool:
        return await ready(broker_url, topology.EVENTS) == 3

    await until(all_given_back)
    async with running(taker), asyncio.timeout(LIMIT):
        got: list[bytes] = []
        await batch.ack()  # too late: the channel is gone, so this must do nothing
        while len(got) < 3:
            again = await taker.take(limit=10, linger=0.05)
            got += [one.body for one in again.messages]
            assert all(one.redelivered for one in again.messages)
            await again.ack()
    assert sorted(got) == [b"a", b"b", b"c"]


async def test_what_is_taken_later_is_not_acknowledged_before_what_was_taken_earlier(
    broker_url: str,
) -> None:
    """It would settle the earlier ones as well, whose work is not done."""
    await topology.declare(broker_url)
    taker = consumer(broker_url)
    async with publishing(broker_url) as publisher, running(taker), asyncio.timeout(LIMIT):
        await publisher.publish(messages(b"a", b"b"))
        first, second = [await taker.take(limit=1, linger=0) for _ in range(2)]
        with pytest.raises(RuntimeError, match="would be lost"):
            await second.ack()
        assert taker.unacknowledged == 2
        await first.ack()
        await second.ack()
        assert taker.unacknowledged == 0


async def test_what_a_lost_channel_still_delivers_is_dropped(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its numbers mean other messages on the next channel; acknowledging them would lose those."""
    collectors = []
    consume = aiormq.Channel.basic_consume

    async def noted(channel, queue, collect, **options):  # noqa: ANN001, ANN003, ANN202 - its own
        collectors.append(collect)
        return await consume(channel, queue, collect, **options)

    monkeypatch.setattr(aiormq.Channel, "basic_consume", noted)
    await topology.declare(broker_url)
    taker = consumer(broker_url)
    async with publishing(broker_url) as publisher, asyncio.timeout(LIMIT):
        async with running(taker):
            await publisher.publish(messages(b"a"))
            await (await taker.take(limit=1, linger=0)).ack()
        async with running(taker):
            await publisher.publish(messages(b"b"))
            await taker.take(limit=1, linger=0)
            late = DeliveredMessage(
                delivery=spec.Basic.Deliver(delivery_tag=2),
                header=ContentHeader(),
                body=b"late",
                channel=None,  # type: ignore[arg-type]  # nobody looks at it
            )
            await collectors[0](late)
            assert taker.unacknowledged == 1
            await collectors[1](late)
            assert taker.unacknowledged == 2


async def test_a_consumer_survives_the_deletion_of_its_queue(broker_url: str) -> None:
    await topology.declare(broker_url)
    taker = consumer(broker_url)
    async with running(taker), asyncio.timeout(LIMIT), publishing(broker_url) as publisher:
        await publisher.publish(messages(b"before"))
        await (await taker.take(limit=1, linger=0)).ack()
        async with await aio_pika.connect(broker_url) as connection:
            await (await connection.channel()).queue_delete(topology.EVENTS)

        async def published() -> bool:
            try:
                await publisher.publish(messages(b"after"))
            except (UnroutableError, BrokerUnavailableError):
                return False
            return True

        await until(published)
        assert (await taker.take(limit=1, linger=0)).messages[0].body == b"after"


async def test_a_delayed_message_comes_back_by_itself(broker_url: str) -> None:
    await topology.declare(broker_url)
    taker = consumer(broker_url, topology.CALLBACKS)
    async with running(taker), asyncio.timeout(LIMIT), publishing(broker_url) as publisher:
        await publisher.publish(messages(b"id", routing_key=topology.delay_queue(1)))
        assert await ready(broker_url, topology.delay_queue(1)) == 1
        assert (await taker.take(limit=1, linger=0)).messages[0].body == b"id"


async def test_what_is_returned_too_often_is_dead_lettered(broker_url: str) -> None:
    await topology.declare(broker_url)
    async with publishing(broker_url) as publisher:
        await publisher.publish(messages(b"poison"))
    async with await aio_pika.connect(broker_url) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(topology.EVENTS)

        async def dead() -> bool:
            message = await queue.get(fail=False)
            if message is not None:
                await message.nack(requeue=True)
            return await ready(broker_url, topology.DEAD) == 1

        await until(dead, limit=60)


async def test_publisher_and_consumer_outlive_the_broker(private_broker: PrivateBroker) -> None:
    url = private_broker.url
    await topology.declare(url)
    taker = consumer(url)
    async with running(taker), publishing(url) as publisher:
        await publisher.publish(messages(b"before"))
        await asyncio.to_thread(private_broker.kill)

        async def noticed() -> bool:
            return not publisher.connected and not taker.consuming

        await until(noticed)
        with pytest.raises(BrokerUnavailableError):
            await publisher.publish(messages(b"lost on purpose"))
        await asyncio.to_thread(private_broker.start)
        async with asyncio.timeout(60):
            await publisher.wait_connected()
            await publisher.publish(messages(b"after"))
            got: set[bytes] = set()
            while b"after" not in got:
                batch = await taker.take(limit=10, linger=0)
                got |= {one.body for one in batch.messages}
                await batch.ack()
    assert got <= {b"before", b"after"}


async def test_a_session_that_ends_at_once_counts_as_a_failure(broker_url: str) -> None:
    """Or the broker would be asked for hundreds of connections a second."""
    sessions = 0
    three = asyncio.Event()

    async def session(_connection: object) -> None:
        nonlocal sessions
        sessions += 1
        if sessions == 3:
            three.set()

    with capture_logs() as lines:
        task = asyncio.create_task(
            keep_connected(settings(broker_url), name="test", session=session)
        )
        async with asyncio.timeout(LIMIT):
            await three.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    failed = [one["attempt"] for one in lines if one["event"] == "broker.unavailable"]
    assert failed[:2] == [1, 2]


async def test_a_session_that_stood_resets_the_pause_however_it_ends(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "STEADY", 0.1)
    sessions = 0
    three = asyncio.Event()

    async def session(_connection: object) -> None:
        nonlocal sessions
        sessions += 1
        if sessions == 3:
            three.set()
        await asyncio.sleep(0.2)
        raise BrokerUnavailableError("the consumer was lost")

    with capture_logs() as lines:
        task = asyncio.create_task(
            keep_connected(settings(broker_url), name="test", session=session)
        )
        async with asyncio.timeout(LIMIT):
            await three.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert [one["event"] for one in lines[:2]] == ["broker.session_ended"] * 2


@pytest.mark.parametrize("declared", [1, 9])
async def test_a_declaration_that_broke_off_is_made_whole_by_the_next_process(
    broker_url: str, monkeypatch: pytest.MonkeyPatch, declared: int
) -> None:
    declare = aio_pika.Channel.declare_queue
    left = declared

    async def dying(*arguments, **options):  # noqa: ANN002, ANN003, ANN202 - its own
        nonlocal left
        if left == 0:
            raise ConnectionError("the process is killed here")
        left -= 1
        return await declare(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(aio_pika.Channel, "declare_queue", dying)
        with pytest.raises(BrokerUnavailableError):
            await topology.declare(broker_url)
    async with publishing(broker_url):
        assert [one.name for one in await depths(Secret(broker_url))] == list(topology.QUEUES)


async def test_a_queue_that_is_deleted_and_made_again_at_once_is_consumed(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ 3.10 loses the consumer without a word, every other time."""
    monkeypatch.setattr(consumer_module, "RENEWAL", 0.2)
    await topology.declare(broker_url)
    taker = consumer(broker_url)
    async with publishing(broker_url) as publisher, running(taker):
        for number in range(5):
            while not taker.consuming:
                await asyncio.sleep(0.01)
            link = await aio_pika.connect(broker_url)
            async with link, link.channel() as channel:
                await channel.queue_delete(topology.EVENTS)
            await topology.declare(broker_url)
            await publisher.publish(messages(b"%d" % number))
            batch = await taker.take(limit=1, linger=0)
            assert [one.body for one in batch.messages] == [b"%d" % number]
            await batch.ack()


async def test_a_peer_that_has_vanished_without_a_word_is_noticed(broker_url: str) -> None:
    """A firewall that forgets a connection tells nobody; waiting for the kernel takes minutes."""
    await topology.declare(broker_url)
    port = int(broker_url.rpartition(":")[2].split("/")[0])
    async with Proxy(port) as proxy:
        url = broker_url.replace(f":{port}/", f":{proxy.port}/")
        config = BrokerConfig(url=Secret(url), heartbeat=1, reconnect_max=0.3)
        publisher = ConfirmingPublisher(config, name="test", queue=topology.EVENTS)
        taker = BatchConsumer(config, name="test", queue=topology.EVENTS, prefetch=1)
        async with running(publisher), running(taker), asyncio.timeout(LIMIT):
            await publisher.wait_connected()
            while not taker.consuming:
                await asyncio.sleep(0.02)
            proxy.sever()
            while proxy.accepted < 4:
                await asyncio.sleep(0.02)
            await publisher.wait_connected()
            await publisher.publish(messages(b"after"))
            batch = await taker.take(limit=1, linger=0)
            assert [one.body for one in batch.messages] == [b"after"]
