"""The broker itself: it dies, freezes, runs short, forgets, refuses."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aio_pika

from shared.broker import topology
from tests.chaos.catalogue import Chapter
from tests.chaos.stage import Stage

CHAPTER = Chapter()
SPOOLED = "batches go to the spool and get their 200"


async def ctl(stage: Stage, *arguments: str) -> None:
    await asyncio.to_thread(stage.node.rabbitmqctl, *arguments)


@contextlib.asynccontextmanager
async def channel(stage: Stage) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    """A channel of the fault's own, past every proxy."""
    connection = await aio_pika.connect(stage.node.url, timeout=10)
    async with connection, connection.channel() as made:
        yield made


@CHAPTER.row(
    "broker-killed",
    fault="the broker dies and is started again",
    how="SIGKILL of the node",
    holds=SPOOLED,
)
async def killed(stage: Stage) -> AsyncIterator[None]:
    await stage.broker_dies()
    await stage.spools()
    yield
    await asyncio.to_thread(stage.node.start)


@CHAPTER.row(
    "broker-restarted",
    fault="the broker is stopped in good order and started again",
    how="SIGTERM of the node",
    holds=SPOOLED,
    seconds=0.0,
)
async def restarted(stage: Stage) -> AsyncIterator[None]:
    await asyncio.to_thread(stage.node.stop)
    await stage.spools()
    yield
    await asyncio.to_thread(stage.node.start)


@CHAPTER.row(
    "broker-frozen",
    fault="the broker stands still",
    how="SIGSTOP and SIGCONT of the node",
    holds=SPOOLED,
    seconds=3.0,
)
async def frozen(stage: Stage) -> AsyncIterator[None]:
    await asyncio.to_thread(stage.node.pause)
    try:
        await stage.spools()
        yield
    finally:
        stage.node.resume()


@CHAPTER.row(
    "broker-data-lost",
    fault="the broker comes back without its data: no queues, no messages",
    how="SIGKILL, data folder deleted; events that were under way are told to have been applied",
    holds="the topology is declared anew; callbacks come from the store",
    seconds=0.0,
)
async def data_lost(stage: Stage) -> AsyncIterator[None]:
    async with stage.calm(told=False):
        await stage.broker_dies()
    await stage.spools()
    await asyncio.to_thread(stage.node.wipe)
    yield
    await asyncio.to_thread(stage.node.start)


@CHAPTER.row(
    "broker-memory-alarm",
    fault="the broker is short of memory and reads no publisher any more",
    how="rabbitmqctl set_vm_memory_high_watermark absolute 1",
    holds=SPOOLED,
)
async def memory_alarm(stage: Stage) -> AsyncIterator[None]:
    await ctl(stage, "set_vm_memory_high_watermark", "absolute", "1")
    await stage.spools()
    yield
    await ctl(stage, "set_vm_memory_high_watermark", "0.4")


@CHAPTER.row(
    "broker-disk-alarm",
    fault="the broker is short of disk and reads no publisher any more",
    how="rabbitmqctl set_disk_free_limit 100000GB",
    holds=SPOOLED,
)
async def disk_alarm(stage: Stage) -> AsyncIterator[None]:
    await ctl(stage, "set_disk_free_limit", "100000GB")
    await stage.spools()
    yield
    await ctl(stage, "set_disk_free_limit", "50MB")


@CHAPTER.row(
    "broker-closes-connections",
    fault="an operator closes every connection",
    how="rabbitmqctl close_all_connections, twice",
    holds="reconnected by themselves",
    seconds=0.0,
)
async def closes_connections(stage: Stage) -> AsyncIterator[None]:
    for _ in range(2):
        before = stage.broker["events"].accepted
        await ctl(stage, "close_all_connections", "chaos")
        await stage.until(lambda b=before: stage.broker["events"].accepted > b)
    yield


@CHAPTER.row(
    "broker-refuses-publishes",
    fault="the events queue is full and the broker says no to each publish",
    how="policy max-length 0 with reject-publish",
    holds=SPOOLED,
)
async def refuses_publishes(stage: Stage) -> AsyncIterator[None]:
    limits = '{"max-length":0,"overflow":"reject-publish"}'
    async with stage.calm(told=False):
        await ctl(stage, "set_policy", "chaos", "^correio\\.events$", limits)
    # A queue of no length still takes one message at a time: the worker is kept from taking it.
    async with stage.broker.only("events").cut():
        await stage.spools()
        yield
    await ctl(stage, "clear_policy", "chaos")


@CHAPTER.row(
    "broker-rights-withdrawn",
    fault="our user may neither write nor read any more, and its connections are closed",
    how="rabbitmqctl clear_permissions, close_all_connections",
    holds="batches go to the spool; nothing ends for good",
)
async def rights_withdrawn(stage: Stage) -> AsyncIterator[None]:
    await ctl(stage, "clear_permissions", "correio")
    await ctl(stage, "close_all_connections", "chaos")
    await stage.spools()
    yield
    await ctl(stage, "set_permissions", "correio", ".*", ".*", ".*")


@CHAPTER.row(
    "broker-password-changed",
    fault="our user's password is wrong for a while",
    how="rabbitmqctl change_password, close_all_connections",
    holds="batches go to the spool; connected again once it is right",
)
async def password_changed(stage: Stage) -> AsyncIterator[None]:
    right = stage.node.url.split(":")[2].split("@")[0]
    await ctl(stage, "change_password", "correio", "another")
    await ctl(stage, "close_all_connections", "chaos")
    await stage.spools()
    yield
    await ctl(stage, "change_password", "correio", right)


async def _delete_queue(stage: Stage, *names: str) -> None:
    async with channel(stage) as open_channel:
        for name in names:
            await open_channel.queue_delete(name)


@CHAPTER.row(
    "queue-events-deleted",
    fault="somebody deletes the events queue (empty, or its messages would be gone)",
    how="queue.delete",
    holds="what comes back unroutable is spooled; the queue is declared anew; nothing is lost",
    seconds=0.0,
)
async def events_queue_deleted(stage: Stage) -> AsyncIterator[None]:
    async with stage.calm(told=False):
        await _delete_queue(stage, topology.EVENTS)
    yield


@CHAPTER.row(
    "queue-callbacks-deleted",
    fault="somebody deletes the callbacks queue with what is in it",
    how="queue.delete",
    holds="the store wakes every delivery whose message has gone",
    seconds=0.0,
)
async def callbacks_queue_deleted(stage: Stage) -> AsyncIterator[None]:
    await _delete_queue(stage, topology.CALLBACKS)
    yield


@CHAPTER.row(
    "queues-of-delays-deleted",
    fault="somebody deletes all delay queues while retries wait in them",
    how="endpoint answers 503, then queue.delete of each",
    holds="the store wakes every delivery whose message has gone",
    seconds=0.0,
)
async def delay_queues_deleted(stage: Stage) -> AsyncIterator[None]:
    stage.world.endpoint.always = 503
    await stage.calls(8)
    await _delete_queue(stage, *map(topology.delay_queue, topology.DELAYS))
    stage.world.endpoint.always = 200
    yield


@CHAPTER.row(
    "exchange-events-deleted",
    fault="somebody deletes the events exchange",
    how="exchange.delete",
    holds="it is declared anew; batches go to the spool meanwhile",
    seconds=0.0,
)
async def events_exchange_deleted(stage: Stage) -> AsyncIterator[None]:
    async with channel(stage) as open_channel:
        await open_channel.exchange_delete(topology.EVENTS)
    yield


@CHAPTER.row(
    "consumers-cancelled",
    fault="the broker cancels our consumers: their queues are deleted and made again at once",
    how="queue.delete and declare in one go, for events and callbacks",
    holds="a lost consumer is noticed and healed",
    seconds=0.0,
)
async def consumers_cancelled(stage: Stage) -> AsyncIterator[None]:
    async with stage.calm():
        await _delete_queue(stage, topology.EVENTS, topology.CALLBACKS)
        await topology.declare(stage.node.url)
    yield
