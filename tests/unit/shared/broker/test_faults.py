import asyncio

import pytest

from shared.broker.faults import translated
from shared.errors import BrokerUnavailableError


@pytest.mark.parametrize(
    "rejection", [asyncio.CancelledError(), Exception(), ConnectionResetError(), TimeoutError()]
)
async def test_what_a_dead_connection_rejects_us_with_is_a_broker_away(
    rejection: BaseException,
) -> None:
    with pytest.raises(BrokerUnavailableError):
        async with translated():
            raise rejection


async def test_a_cancellation_that_is_meant_for_us_passes() -> None:
    async def wait() -> None:
        async with translated():
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_time_limit_around_it_still_counts() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), translated():
            await asyncio.Event().wait()
