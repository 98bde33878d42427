"""The callbacks worker on a real broker and a real store, from a due delivery to its end."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.callbacks import Bench, bench, endpoint_config
from tests.support.deliveries import attempts, rows, seed, until
from tests.support.endpoints import SECOND_SECRET, SECRET, Endpoint, serving


@pytest.fixture
async def ready(tmp_path: Path, broker_url: str) -> AsyncIterator[Bench]:
    async with bench(tmp_path, broker_url) as made:
        yield made


async def test_500_twice_then_200_is_three_attempts_under_one_id(ready: Bench) -> None:
    async with serving(Endpoint(500, 500, secrets=(SECRET, SECOND_SECRET))) as endpoint:
        ready.endpoints(endpoint_config("crm", endpoint.url, secrets=(SECRET, SECOND_SECRET)))
        (one,) = await seed(ready.store, endpoints=["crm"], due=[ready.now])
        async with ready.worker():
            await endpoint.wait_calls(3)
            await until(lambda: rows(ready.url)[one].state == "delivered")
        assert endpoint.wrong == []
        assert {call.webhook_id for call in endpoint.calls} == {one}
        assert len({call.body for call in endpoint.calls}) == 1
        assert endpoint.calls[0].content["data"]["name"] == "João"
        assert [row[:3] for row in attempts(ready.url)[one]] == [
            (1, "server_error", 500),
            (2, "server_error", 500),
            (3, "succeeded", 200),
        ]
