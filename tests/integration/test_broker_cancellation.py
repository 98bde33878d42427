import asyncio

import pytest

from shared.broker.connection import keep_connected
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
