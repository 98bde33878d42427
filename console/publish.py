"""Publishing from the command line: a connection for as long as the command takes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from shared.broker import topology
from shared.broker.publisher import ConfirmingPublisher
from shared.config import BrokerConfig
from shared.errors import BrokerUnavailableError


@contextlib.asynccontextmanager
async def publishing(config: BrokerConfig) -> AsyncIterator[ConfirmingPublisher]:
    """A connected publisher.

    Raises:
        BrokerUnavailableError: no connection within ``broker.connect_timeout``.
    """
    publisher = ConfirmingPublisher(config, name="correio", queue=topology.EVENTS)
    running = asyncio.create_task(publisher.run())
    try:
        try:
            async with asyncio.timeout(config.connect_timeout):
                await publisher.wait_connected()
        except TimeoutError:
            raise BrokerUnavailableError("the broker cannot be reached") from None
        yield publisher
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
