"""What a burst holds for a broker that has stopped reading."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from unittest import mock

import aiormq
import pytest
from pamqp.commands import Basic

from shared.broker import burst as under_test
from shared.broker.burst import Burst, Message

BODY = bytes(1_000)


class Broker:
    """What is handed over to the connection, and the broker's answers to it."""

    def __init__(self) -> None:
        self.channel: Any = mock.Mock(spec=aiormq.Channel, number=1, is_closed=False)
        self.channel.max_content_size = 131_064
        self.written: list[bytes] = []
        self.burst = Burst(self.channel, self.written.append)

    @property
    def handed_over(self) -> bytes:
        return b"".join(self.written)

    async def confirm_all(self) -> None:
        await self.burst._on_confirm(Basic.Ack(self.burst._number, multiple=True))


@pytest.fixture
async def broker(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Broker]:
    monkeypatch.setattr(under_test, "WINDOW_BYTES", 10 * len(BODY))
    made = Broker()
    running = asyncio.create_task(made.burst.run())
    yield made
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def turns() -> None:
    """Let everything happen that waits for nothing but its turn."""
    for _ in range(10):
        await asyncio.sleep(0)


async def begin(broker: Broker, body: bytes = BODY) -> "asyncio.Task[None]":
    task = asyncio.create_task(broker.burst.publish([Message(body, "exchange", "key")]))
    await turns()
    return task


async def give_up(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_is_given_up_does_not_pile_up(broker: Broker) -> None:
    for _ in range(100):
        await give_up(await begin(broker))
    assert len(broker.handed_over) < 12 * len(BODY)
    assert not broker.burst._waiting
    assert not any(one.messages for one in broker.burst._outstanding.values())


async def test_what_was_given_up_in_this_very_turn_is_not_sent_either(broker: Broker) -> None:
    """Its publisher has not run since, so that it still stands among what waits."""
    given_up = asyncio.create_task(broker.burst.publish([Message(b"given up", "exchange", "key")]))
    await asyncio.sleep(0)
    given_up.cancel()
    broker.burst._hand_over()
    assert b"given up" not in broker.handed_over
    await asyncio.gather(given_up, return_exceptions=True)
    await turns()
    assert broker.handed_over == b""


async def test_all_goes_on_when_the_broker_reads_again(broker: Broker) -> None:
    for _ in range(100):
        await give_up(await begin(broker))
    held = await begin(broker, b"held back")
    assert b"held back" not in broker.handed_over
    await broker.confirm_all()
    await turns()
    assert b"held back" in broker.handed_over
    assert not held.done()
    await broker.confirm_all()
    await held
    assert (broker.burst.outstanding, broker.burst._outstanding_bytes) == (0, 0)


async def test_one_that_is_larger_than_all_that_may_be_held_is_sent(broker: Broker) -> None:
    large = await begin(broker, bytes(20 * len(BODY)))
    assert len(broker.handed_over) > 20 * len(BODY)
    held = await begin(broker, b"held back")
    assert b"held back" not in broker.handed_over
    await broker.confirm_all()
    await large
    await turns()
    await broker.confirm_all()
    await held


async def test_what_comes_in_one_turn_of_the_loop_is_written_in_one_piece(broker: Broker) -> None:
    publishing = [
        asyncio.create_task(broker.burst.publish([Message(b"%d" % n, "exchange", "key")]))
        for n in range(5)
    ]
    await turns()
    assert len(broker.written) == 1
    await broker.confirm_all()
    await asyncio.gather(*publishing)


async def test_when_many_come_in_one_turn_the_first_are_written_before_the_last_are_read(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "PIECE", 4)
    written: list[int] = []

    async def publish() -> None:
        await asyncio.sleep(0)
        written.append(len(broker.written))
        await broker.burst.publish([Message(b"x", "exchange", "key")] * 2)

    publishing = [asyncio.create_task(publish()) for _ in range(5)]
    await turns()
    assert written == [0, 0, 1, 1, 2]
    assert len(broker.written) == 3
    await broker.confirm_all()
    await asyncio.gather(*publishing)
