import asyncio

import pytest
from aiormq.exceptions import ConnectionInternalError

from shared.broker.connection import _end
from shared.broker.faults import translate, translated
from shared.errors import BrokerUnavailableError
from tests.support.processes import ROOT


@pytest.mark.parametrize(
    "rejection", [asyncio.CancelledError(), Exception(), ConnectionResetError(), TimeoutError()]
)
async def test_what_a_dead_connection_rejects_us_with_is_a_broker_away(
    rejection: BaseException,
) -> None:
    with pytest.raises(BrokerUnavailableError):
        async with translated():
            raise rejection


def test_a_fault_within_the_broker_names_its_runbook() -> None:
    error = translate(ConnectionInternalError("INTERNAL_ERROR"))
    assert isinstance(error, BrokerUnavailableError)
    assert "Queue broken" in str(error)
    assert "### Queue broken" in (ROOT / "deploy" / "runbooks.md").read_text()


async def test_the_end_of_a_session_says_why_its_connection_went() -> None:
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    assert "ended at once" in str(_end(gone))
    gone.set_exception(ConnectionInternalError("INTERNAL_ERROR"))
    assert "INTERNAL_ERROR" in str(_end(gone))


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
