"""The receiver against a real broker that dies, freezes, runs short or forgets its queue."""

import asyncio
import itertools
import math
import signal
import statistics
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import aio_pika
import pytest

from deploy.local.provide import PrivateBroker, private_node
from receiver.service import Receiver
from shared.broker import topology
from tests.support.http import Client, connected, request
from tests.support.receiver import running, settings, spawned, take, until

PATIENCE = 10.0
"""Seconds that the source waits for an answer (domain.md, transport)."""

Trouble = Callable[[PrivateBroker], None]
Deletion = Callable[[str], Awaitable[None]]
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateBroker]:
    """One private node for all the tests of this file, each with a virtual host of its own."""
    with private_node(tmp_path_factory.mktemp("outage")) as started:
        yield started


@pytest.fixture
async def url(node: PrivateBroker) -> str:
    name = f"outage-{next(_numbers)}"
    made = await asyncio.to_thread(node.add_vhost, name)
    await topology.declare(made)
    return made


class Source:
    """Sends numbered events over kept connections, and remembers what was answered 200."""

    def __init__(self, client: Client, *, prefix: str = "") -> None:
        self._client = client
        self._prefix = prefix
        self.accepted: list[bytes] = []
        self.seconds: list[float] = []
        self.statuses: set[int] = set()
        self._sent = 0

    async def send(self, *, events: int = 2) -> int:
        """Send one batch; returns the status of the answer."""
        loop = asyncio.get_running_loop()
        numbers = range(self._sent, self._sent + events)
        self._sent += events
        bodies = [b'{"eventId":"%s%d"}' % (self._prefix.encode(), number) for number in numbers]
        began = loop.time()
        await self._client.send(request(b"[" + b",".join(bodies) + b"]"))
        answer = await self._client.answer()
        self.seconds.append(loop.time() - began)
        self.statuses.add(answer.status)
        if answer.status == 200:
            self.accepted += bodies
        return answer.status


async def all_arrived(url: str, source: Source) -> None:
    """Everything that got a 200 is in the queue."""
    await take(url, source.accepted)


def drained(receiver: Receiver) -> Callable[[], bool]:
    return lambda: receiver.outlet.connected and not receiver.spool.totals.batches


def freeze(node: PrivateBroker) -> None:
    node.pause()


def raise_memory_alarm(node: PrivateBroker) -> None:
    node.rabbitmqctl("set_vm_memory_high_watermark", "absolute", "1")


def raise_disk_alarm(node: PrivateBroker) -> None:
    node.rabbitmqctl("set_disk_free_limit", "100000GB")


def close_connections(node: PrivateBroker) -> None:
    node.rabbitmqctl("close_all_connections", "trouble")


def kill(node: PrivateBroker) -> None:
    node.kill()


def mend(node: PrivateBroker) -> None:
    node.resume()
    node.start()
    node.rabbitmqctl("set_vm_memory_high_watermark", "0.4")
    node.rabbitmqctl("set_disk_free_limit", "50MB")


async def survives(node: PrivateBroker, url: str, folder: Path, trouble: Trouble) -> None:
    """Every batch before, in and after the trouble is answered 200 in time and arrives."""
    async with running(settings(folder / "spool", broker=url)) as receiver:
        await until(lambda: receiver.outlet.connected)
        async with connected(receiver) as client:
            source = Source(client)
            await source.send()
            try:
                await asyncio.to_thread(trouble, node)
                for _ in range(10):
                    await source.send()
            finally:
                await asyncio.to_thread(mend, node)
            await until(drained(receiver))
            await source.send()
        assert source.statuses == {200}
        assert max(source.seconds) < PATIENCE
        await until(drained(receiver))
    await all_arrived(url, source)


@pytest.mark.parametrize(
    "trouble", [freeze, raise_memory_alarm, raise_disk_alarm, close_connections, kill]
)
async def test_no_trouble_of_the_broker_costs_an_event(
    node: PrivateBroker, url: str, tmp_path: Path, trouble: Trouble
) -> None:
    await survives(node, url, tmp_path, trouble)


async def delete_queue(url: str) -> None:
    connection = await aio_pika.connect(url, timeout=10)
    async with connection, connection.channel() as channel:
        await channel.queue_delete(topology.EVENTS)


async def delete_exchange(url: str) -> None:
    connection = await aio_pika.connect(url, timeout=10)
    async with connection, connection.channel() as channel:
        await channel.exchange_delete(topology.EVENTS)


@pytest.mark.parametrize("delete", [delete_queue, delete_exchange])
async def test_what_is_deleted_is_made_again(url: str, tmp_path: Path, delete: Deletion) -> None:
    await survives_deletion(url, tmp_path, delete)


async def survives_deletion(url: str, folder: Path, delete: Deletion) -> None:
    """Every batch after it is answered 200 in time and arrives in the new queue."""
    async with running(settings(folder / "spool", broker=url)) as receiver:
        await until(lambda: receiver.outlet.connected)
        async with connected(receiver) as client:
            source = Source(client)
            await delete(url)
            for _ in range(5):
                await source.send()
            await until(drained(receiver))
            await source.send()
        assert source.statuses == {200}
        assert max(source.seconds) < PATIENCE
    await all_arrived(url, source)


async def test_it_starts_while_the_broker_is_down_and_drains_in_order(
    node: PrivateBroker, url: str, tmp_path: Path
) -> None:
    await asyncio.to_thread(node.kill)
    async with running(settings(tmp_path, broker=url)) as receiver, connected(receiver) as client:
        source = Source(client)
        for _ in range(20):
            await source.send()
        assert not any(check() for check in receiver.checks.values())
        await asyncio.to_thread(node.start)
        await until(drained(receiver))
    found = await take(url, source.accepted)
    assert [message.body for message in found][-len(source.accepted) :] == source.accepted


async def test_with_the_spool_full_and_the_broker_down_it_says_so_at_once(tmp_path: Path) -> None:
    async with spawned(tmp_path, spool_max_bytes="2000") as receiver, connected(receiver) as client:
        source = Source(client)
        statuses = [await source.send() for _ in range(40)]
        assert statuses == sorted(statuses)
        assert source.statuses == {200, 503}
        assert max(source.seconds) < settings(tmp_path).receiver.publish_timeout, "it waited"
        assert await receiver.end() == 0
        await receiver.start()
        async with connected(receiver) as again:
            await again.send(request(b"[" + b"1," * 900 + b"1]"))
            answer = await again.answer()
            assert (answer.status, answer.headers["retry-after"]) == (503, "5")


async def test_it_stops_on_sigterm_and_keeps_what_it_holds(
    node: PrivateBroker, url: str, tmp_path: Path
) -> None:
    async with spawned(tmp_path) as receiver, connected(receiver) as client:
        source = Source(client)
        for _ in range(5):
            await source.send()
        assert await receiver.end(signal.SIGTERM) == 0
    spool = tmp_path / "spool"
    async with running(settings(spool, broker=url)) as successor:
        await until(drained(successor))
        await until(lambda: len(list(spool.glob("*.db"))) == 1)  # its own; the adopted one is gone
    await all_arrived(url, source)
    assert list(spool.iterdir()) == []


async def killed_at_random(
    node: PrivateBroker, url: str, folder: Path, *, kills: int, restart_every: int
) -> None:
    """`kill -9` under load again and again; nothing that got a 200 is missing in the end."""
    accepted: list[bytes] = []
    async with spawned(folder, CORREIO_BROKER__URL=url) as receiver:
        for number in range(kills):
            async with connected(receiver) as client:
                source = Source(client, prefix=f"{number}-")
                load = asyncio.create_task(until_lost(source))
                if number % restart_every == restart_every - 1:
                    await asyncio.to_thread(node.kill)
                await enough(source, 1 + number * 7 % 23)
                await receiver.end(signal.SIGKILL)
                await load
            accepted += source.accepted
            if not node.running:
                await asyncio.to_thread(node.start)
            await receiver.start()
        await take(url, accepted)


async def enough(source: Source, batches: int) -> None:
    await until(lambda: len(source.seconds) >= batches)


async def until_lost(source: Source) -> None:
    """Send until the receiver dies."""
    try:
        while True:
            await source.send()
    except (ConnectionError, asyncio.IncompleteReadError):
        return


async def test_kill_9_under_load_costs_no_event(
    node: PrivateBroker, url: str, tmp_path: Path
) -> None:
    await killed_at_random(node, url, tmp_path, kills=2, restart_every=2)


@pytest.mark.deep
@pytest.mark.timeout(1800)
async def test_a_hundred_kills_under_load_cost_no_event(
    node: PrivateBroker, url: str, tmp_path: Path
) -> None:
    await killed_at_random(node, url, tmp_path, kills=100, restart_every=10)


@pytest.mark.deep
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "trouble", [freeze, raise_memory_alarm, raise_disk_alarm, close_connections, kill]
)
async def test_ten_troubles_of_each_kind_cost_no_event(
    node: PrivateBroker, url: str, tmp_path: Path, trouble: Trouble
) -> None:
    for number in range(10):
        await survives(node, url, tmp_path / str(number), trouble)


@pytest.mark.deep
@pytest.mark.timeout(300)
@pytest.mark.parametrize("delete", [delete_queue, delete_exchange])
async def test_ten_deletions_cost_no_event(url: str, tmp_path: Path, delete: Deletion) -> None:
    for number in range(10):
        await survives_deletion(url, tmp_path / str(number), delete)


@pytest.mark.deep
@pytest.mark.timeout(300)
async def test_a_minute_without_a_broker_is_not_felt(
    node: PrivateBroker,
    url: str,
    tmp_path: Path,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    """200 events/s in batches of 2; 5 s before, 60 s in, and 5 s after the outage."""
    async with spawned(tmp_path, CORREIO_BROKER__URL=url) as receiver:
        async with connected(receiver) as client:
            source = Source(client)
            await paced(source, seconds=5)
            await asyncio.to_thread(node.kill)
            before = len(source.seconds)
            await paced(source, seconds=60)
            during = source.seconds[before:]
            loop = asyncio.get_running_loop()
            began = loop.time()
            await asyncio.to_thread(node.start)
            await paced(source, seconds=5)
        assert source.statuses == {200}
        p99 = statistics.quantiles(during, n=100)[98]
        await all_arrived(url, source)
        recovered = loop.time() - began
        record_testsuite_property("outage_answer_p99_seconds", round(p99, 4))
        record_testsuite_property("outage_drained_seconds", round(recovered, 1))
        assert p99 < 0.25
        assert recovered < 60


async def paced(source: Source, *, seconds: float, rate: int = 100) -> None:
    """Send `rate` batches/s, each at its own time."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(math.ceil(seconds * rate)):
        await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
        await source.send()
