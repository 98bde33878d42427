"""Where a batch rests: the broker, the spool, or nowhere; with a broker that does as told."""

import asyncio
import itertools
from pathlib import Path

import pytest

from shared.errors import BrokerUnavailableError, CorreioError, RejectedError, UnroutableError
from tests.support.http import connected, post, request
from tests.support.receiver import FakeBroker, running, settings, until

FAULTS = [BrokerUnavailableError("gone"), UnroutableError("returned"), RejectedError("nacked")]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
async def test_what_the_broker_does_not_confirm_is_held_and_sent_later(
    tmp_path: Path, fault: CorreioError
) -> None:
    broker = FakeBroker()
    broker.fault = fault
    async with running(settings(tmp_path), broker) as receiver:
        assert (await post(receiver, b"[1,2]")).json == {"accepted": 2}
        assert receiver.spool.totals.events == 2
        broker.fault = None
        await broker.reached(lambda: len(broker.bodies) >= 2)
        await until(lambda: not receiver.spool.totals.batches)
    assert broker.bodies[-2:] == [b"1", b"2"]


async def test_a_frozen_broker_costs_the_deadline_a_few_times_and_is_then_skipped(
    tmp_path: Path,
) -> None:
    broker = FakeBroker()
    broker.frozen = True
    config = settings(tmp_path, publish_timeout=0.2, circuit_probe_interval=600.0)
    async with running(config, broker) as receiver, connected(receiver) as client:

        async def send(number: int) -> None:
            await client.send(request(b"[%d]" % number))
            assert (await client.answer()).status == 200

        for number in range(3):
            await send(number)
        assert receiver.outlet.circuit_open
        attempts = broker.attempts
        for number in range(3, 8):
            await send(number)
        assert broker.attempts == attempts
        assert receiver.spool.totals.batches == 8


async def test_a_probe_is_one_event_and_closes_the_circuit(tmp_path: Path) -> None:
    broker = FakeBroker()
    broker.fault = BrokerUnavailableError("gone")
    async with running(settings(tmp_path, circuit_failures=1), broker) as receiver:
        for _ in range(3):
            await post(receiver, b"[1,2,3]")
        await until(lambda: receiver.outlet.circuit_open)
        attempts = broker.attempts
        await broker.reached(lambda: broker.attempts > attempts)
        broker.fault = None
        await until(lambda: not receiver.spool.totals.batches)
        assert not receiver.outlet.circuit_open
        assert len(broker.bodies) == 9 + 1


async def test_without_a_connection_the_broker_is_not_even_tried(tmp_path: Path) -> None:
    broker = FakeBroker()
    broker.connected = False
    async with running(settings(tmp_path), broker) as receiver:
        assert (await post(receiver, b"[1]")).status == 200
        assert broker.attempts == 0
        assert not any(check() for check in receiver.checks.values())
        broker.connected = True
        await until(lambda: not receiver.spool.totals.batches)
    assert broker.bodies == [b"1"]


async def test_it_drains_oldest_first_and_in_order(tmp_path: Path) -> None:
    broker = FakeBroker()
    broker.connected = False
    async with running(settings(tmp_path), broker) as receiver:
        for number in range(30):
            await post(receiver, b"[%d]" % number)
        broker.connected = True
        await until(lambda: not receiver.spool.totals.batches)
    assert broker.bodies == [b"%d" % number for number in range(30)]


async def test_it_drains_at_most_at_the_configured_rate(tmp_path: Path) -> None:
    broker = FakeBroker()
    broker.connected = False
    loop = asyncio.get_running_loop()
    async with running(settings(tmp_path, spool_drain_rate=1000), broker) as receiver:
        for _ in range(3):
            await post(receiver, b"[" + b",".join([b"1"] * 400) + b"]")
        broker.connected = True
        began = loop.time()
        await until(lambda: not receiver.spool.totals.batches)
        assert loop.time() - began > 0.75


async def test_when_neither_takes_it_the_sender_is_told_to_come_back(tmp_path: Path) -> None:
    broker = FakeBroker()
    broker.connected = False
    config = settings(tmp_path, spool_min_free_bytes=1 << 60)
    async with running(config, broker) as receiver:
        answer = await post(receiver, b"[1]")
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert answer.json["type"] == "urn:correio:problem:not-durable"
        fault = receiver.checks["broker or spool"]()
        assert fault == "the broker is not connected, and too little disk is free"
        broker.connected = True
        assert receiver.checks["broker or spool"]() is None
        assert (await post(receiver, b"[1]")).status == 200


async def test_a_queue_that_is_too_long_fills_the_spool_and_then_refuses(tmp_path: Path) -> None:
    broker = FakeBroker()
    config = settings(tmp_path, queue_max_events=10, spool_max_bytes=1_000_000)
    batch = b"[" + b",".join([b"1" * 1_000] * 50) + b"]"
    async with running(config, broker) as receiver:
        assert (await post(receiver, batch)).status == 200
        broker.waiting, taken = 10, len(broker.confirmed)
        statuses = [(await post(receiver, batch)).status for _ in range(60)]
        assert (statuses[0], statuses[-1]) == (200, 503)
        assert statuses == sorted(statuses)
        assert len(broker.confirmed) == taken
        assert not receiver.outlet.circuit_open
        broker.waiting = 9
        await until(lambda: not receiver.spool.totals.batches)
        assert (await post(receiver, batch)).status == 200
    assert len(broker.confirmed) == 50 * (2 + statuses.count(200))


async def test_it_is_not_ready_while_neither_queue_nor_spool_has_room(tmp_path: Path) -> None:
    broker = FakeBroker()
    config = settings(tmp_path, queue_max_events=10, spool_min_free_bytes=1 << 60)
    async with running(config, broker) as receiver:
        assert receiver.checks["broker or spool"]() is None
        broker.waiting = 10
        fault = receiver.checks["broker or spool"]()
        assert fault == "the queue is too long, and too little disk is free"


async def test_it_is_not_ready_while_the_broker_confirms_nothing_and_the_spool_is_full(
    tmp_path: Path,
) -> None:
    broker = FakeBroker()
    broker.fault = BrokerUnavailableError("gone")
    config = settings(tmp_path, circuit_failures=1, spool_max_bytes=3_000)
    async with running(config, broker) as receiver:
        ready = receiver.checks["broker or spool"]
        assert (await post(receiver, b'["%s"]' % (b"1" * 2_000))).status == 200
        await until(lambda: receiver.outlet.circuit_open)
        assert ready() is None
        assert (await post(receiver, b'["%s"]' % (b"2" * 2_000))).status == 503
        assert ready() == "the broker does not confirm, and the spool is full"
        broker.fault = None
        await until(lambda: ready() is None)


async def test_it_stays_ready_while_only_a_batch_can_find_out_that_the_broker_is_back(
    tmp_path: Path,
) -> None:
    broker = FakeBroker()
    broker.fault = BrokerUnavailableError("gone")
    config = settings(tmp_path, circuit_failures=1, spool_min_free_bytes=1 << 60)
    async with running(config, broker) as receiver:
        assert (await post(receiver, b"[1]")).status == 503
        assert receiver.outlet.circuit_open
        assert receiver.checks["broker or spool"]() is None


async def test_the_length_of_the_real_queue_is_seen(tmp_path: Path, broker_url: str) -> None:
    config = settings(tmp_path, broker=broker_url, queue_max_events=3)
    async with running(config) as receiver:
        await until(lambda: receiver.outlet.connected)
        assert (await post(receiver, b"[1,2,3]")).status == 200
        await until(lambda: not receiver.outlet.takes)
        assert (await post(receiver, b"[4]")).status == 200
        assert receiver.spool.totals.events == 1


async def test_a_batch_that_half_arrived_is_sent_whole_again(tmp_path: Path) -> None:
    broker = FakeBroker()
    broker.fault = UnroutableError("returned")
    async with running(settings(tmp_path), broker) as receiver:
        bodies = itertools.count()
        for _ in range(2):
            await post(receiver, b"[%d,%d]" % (next(bodies), next(bodies)))
        broker.fault = None
        await until(lambda: not receiver.spool.totals.batches)
    assert {b"0", b"1", b"2", b"3"} <= set(broker.bodies)
