"""A broker that falls silent over an open connection, while something is asked of it."""

import asyncio

import pytest
from aio_pika.abc import AbstractConnection

from deploy.local.provide import PrivateBroker
from shared.broker.connection import keep_connected
from shared.config import BrokerConfig, Secret


@pytest.mark.deep
async def test_a_connection_found_dead_while_a_question_waits_is_made_anew(
    private_broker: PrivateBroker,
) -> None:
    """aiormq then rejects the question with a CancelledError that nobody meant for us."""
    config = BrokerConfig(url=Secret(private_broker.url), heartbeat=1, reconnect_max=0.3)
    sessions = 0
    again = asyncio.Event()

    async def session(connection: AbstractConnection) -> None:
        nonlocal sessions
        sessions += 1
        if sessions == 1:
            await asyncio.to_thread(private_broker.pause)
            try:
                await connection.channel()
            finally:
                private_broker.resume()  # at once: this task is cancelled, perhaps twice
        await connection.channel()
        again.set()
        await asyncio.Event().wait()

    keeping = asyncio.create_task(keep_connected(config, name="test", session=session))
    waiting = asyncio.create_task(again.wait())
    await asyncio.wait([keeping, waiting], timeout=60, return_when=asyncio.FIRST_COMPLETED)
    assert not keeping.done()
    assert waiting.done()
    keeping.cancel()
    await asyncio.wait([keeping])
