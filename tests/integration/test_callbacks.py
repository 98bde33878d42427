"""The callbacks worker on a real broker and a real store, from a due delivery to its end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import REGISTRY

from shared.broker import topology
from shared.broker.depth import depths
from shared.broker.publisher import Outgoing
from shared.store.rows import DeliveryState, EndpointStatus
from tests.support.callbacks import Bench, bench, endpoint_config
from tests.support.deliveries import attempts, rows, seed, until, until_async
from tests.support.endpoints import SECOND_SECRET, SECRET, Endpoint, serving
from worker.callbacks.breaker import Closed


@pytest.fixture
async def ready(store_url: str, broker_url: str) -> AsyncIterator[Bench]:
    async with bench(store_url, broker_url) as made:
        yield made


def states(ready: Bench) -> dict[str, str]:
    return {one.id: one.state for one in rows(ready.url).values()}


def outcomes(ready: Bench, one: str) -> list[tuple[Any, ...]]:
    return [row[:3] for row in attempts(ready.url).get(one, [])]


def measured(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"correio_callbacks_{name}", labels) or 0.0


async def test_500_twice_then_200_is_three_attempts_under_one_id(ready: Bench) -> None:
    async with serving(Endpoint(500, 500, secrets=(SECRET, SECOND_SECRET))) as endpoint:
        ready.endpoints(endpoint_config("crm", endpoint.url, secrets=(SECRET, SECOND_SECRET)))
        (one,) = await seed(ready.store, endpoints=["crm"], due=[ready.now])
        delayed = measured("relayed_total", way="delay")
        async with ready.worker():
            await endpoint.wait_calls(3)
            await until(lambda: states(ready)[one] == "delivered")
        assert endpoint.wrong == []
        assert {call.webhook_id for call in endpoint.calls} == {one}
        assert len({call.body for call in endpoint.calls}) == 1
        assert endpoint.calls[0].content["data"]["name"] == "João"
        assert outcomes(ready, one) == [
            (1, "server_error", 500),
            (2, "server_error", 500),
            (3, "succeeded", 200),
        ]
        assert endpoint.calls[1].at - endpoint.calls[0].at >= 0.2 * 0.8
        assert endpoint.calls[2].at - endpoint.calls[1].at >= 1.5 * 0.8
        # the wait of 1.5 s was spent in a delay queue
        assert measured("relayed_total", way="delay") > delayed


async def test_a_schedule_that_runs_out_exhausts_and_a_new_round_adds_attempts(
    ready: Bench,
) -> None:
    endpoint = Endpoint()
    endpoint.always = (500, {}, b"out of order")
    async with serving(endpoint):
        ready.endpoints(endpoint_config("crm", endpoint.url), schedule=(0.05, 0.05))
        (one,) = await seed(ready.store, endpoints=["crm"], due=[ready.now])
        async with ready.worker():
            await until(lambda: states(ready)[one] == "exhausted")
            assert len(endpoint.calls) == 3
            assert attempts(ready.url)[one][-1][3:5] == ("answered 500", b"out of order")


async def test_410_disables_the_endpoint_and_holds_what_waits_for_it(ready: Bench) -> None:
    async with serving(Endpoint(410)) as endpoint:
        ready.endpoints(endpoint_config("crm", endpoint.url, max_in_flight=1))
        ids = await seed(ready.store, endpoints=["crm"], due=[ready.now] * 5)
        later = await seed(ready.store, endpoints=["crm"], due=[ready.now + 60_000])
        async with ready.worker():
            await until(lambda: set(states(ready).values()) == {"held"})
            assert len(endpoint.calls) == 1
            row = (await ready.store.endpoint_rows())["crm"]
            assert (row.status, row.reason) == (EndpointStatus.DISABLED, "answered 410")
            await ready.store.set_endpoint("crm", EndpointStatus.ENABLED, reason="", now=ready.now)
            await until(lambda: set(states(ready).values()) == {"delivered"})
        assert set(endpoint.by_id) == {*ids, *later}
        assert len(outcomes(ready, endpoint.calls[0].webhook_id)) == 2


async def test_a_paused_endpoint_gets_nothing_until_it_is_resumed_at_a_bounded_rate(
    ready: Bench,
) -> None:
    async with serving(Endpoint()) as paused, serving(Endpoint()) as other:
        ready.endpoints(
            endpoint_config("crm", paused.url),
            endpoint_config("erp", other.url),
            release_rate=4,
        )
        await ready.store.set_endpoint("crm", EndpointStatus.PAUSED, reason="", now=ready.now)
        await seed(ready.store, endpoints=["crm", "erp"], due=[ready.now] * 10)
        async with ready.worker():
            await other.wait_calls(10)
            await until(lambda: list(states(ready).values()).count("held") == 10)
            assert paused.calls == []
            await ready.store.set_endpoint("crm", EndpointStatus.ENABLED, reason="", now=ready.now)
            await paused.wait_calls(10)
        assert 1.5 < paused.calls[9].at - paused.calls[0].at < 5  # 4, then 4, then 2


async def test_an_endpoint_that_is_not_configured_has_its_deliveries_held(ready: Bench) -> None:
    (one,) = await seed(ready.store, endpoints=["gone"], due=[ready.now])
    async with ready.worker():
        await until(lambda: states(ready)[one] == "held")


async def test_one_that_hangs_keeps_nobody_waiting_and_holds_no_message(ready: Bench) -> None:
    async with serving(Endpoint()) as hanging, serving(Endpoint()) as good:
        hanging.gate.clear()
        ready.endpoints(
            endpoint_config("hangs", hanging.url, max_in_flight=3),
            endpoint_config("good", good.url),
            max_in_flight=8, prefetch=10, attempt_timeout=10.0,
        )  # fmt: skip
        await seed(ready.store, endpoints=["hangs"], due=[ready.now - 1] * 100)
        await seed(ready.store, endpoints=["good"], due=[ready.now] * 100)
        async with ready.worker() as service:
            await good.wait_calls(100)
            assert hanging.most_in_flight == 3
            lane = service.lanes.all["hangs"]
            assert lane.running == 3

            async def settled() -> bool:
                found = await depths(ready.config.broker.url)
                return not any(one.ready for one in found) and not service._consumer.unacknowledged

            await until_async(settled)
            hanging.gate.set()
            await hanging.wait_calls(100)
        assert set(states(ready).values()) == {"delivered"}


async def test_the_breaker_spends_no_attempts_while_it_is_open(ready: Bench) -> None:
    endpoint = Endpoint()
    endpoint.always = 500
    async with serving(endpoint):
        ready.endpoints(
            endpoint_config("crm", endpoint.url, max_in_flight=1),
            breaker_failures=3, breaker_open=1.5, schedule=(0.05,) * 10,
        )  # fmt: skip
        ids = await seed(ready.store, endpoints=["crm"], due=[ready.now] * 20)
        async with ready.worker() as service:
            lane = service.lanes.all["crm"]
            await until(lambda: not isinstance(lane.breaker, Closed))
            assert len(endpoint.calls) == 3
            endpoint.always = 200
            await endpoint.wait_calls(23)
            await until(lambda: set(states(ready).values()) == {"delivered"})
        assert endpoint.calls[3].at - endpoint.calls[2].at >= 1.4
        assert sum(len(outcomes(ready, one)) for one in ids) == 23


async def test_a_graceful_stop_finishes_what_runs_and_gives_the_rest_back(ready: Bench) -> None:
    async with serving(Endpoint()) as endpoint:
        endpoint.gate.clear()
        ready.endpoints(endpoint_config("crm", endpoint.url, max_in_flight=2))
        await seed(ready.store, endpoints=["crm"], due=[ready.now] * 10)
        async with ready.worker():
            await endpoint.wait_calls(2)
            asyncio.get_running_loop().call_later(0.3, endpoint.gate.set)
        found = rows(ready.url).values()
        assert sorted(one.state for one in found) == ["delivered"] * 2 + ["pending"] * 8
        assert all(one.lease is None for one in found)
        assert all(one.wake_at <= ready.now + 3_500 for one in found)
        async with ready.worker():
            await endpoint.wait_calls(10)
        assert len(endpoint.calls) == 10


async def test_an_attempt_cut_off_by_a_stop_is_made_again_under_the_same_id(
    ready: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.callbacks.service.FINISHING", 0.1)
    async with serving(Endpoint()) as endpoint:
        endpoint.gate.clear()
        ready.endpoints(endpoint_config("crm", endpoint.url), attempt_timeout=30.0)
        (one,) = await seed(ready.store, endpoints=["crm"], due=[ready.now])
        async with ready.worker():
            await endpoint.wait_calls(1)
        row = rows(ready.url)[one]
        assert (row.state, row.lease, row.attempts) == ("pending", None, 0)
        endpoint.gate.set()
        async with ready.worker():
            await until(lambda: states(ready)[one] == "delivered")
        assert {call.webhook_id for call in endpoint.calls} == {one}
        assert len({call.body for call in endpoint.calls}) == 1


async def test_a_crash_repeats_an_attempt_once_its_lease_is_over(ready: Bench) -> None:
    async with serving(Endpoint()) as endpoint:
        ready.endpoints(endpoint_config("crm", endpoint.url))
        (one,) = await seed(ready.store, endpoints=["crm"], due=[ready.now])
        now = ready.now
        await ready.store.take_wakeups(now=now, grace=3_000, limit=10)
        assert await ready.store.claim([one], lease="dead", now=now, lease_until=now + 1_500)
        async with ready.worker():
            await until(lambda: states(ready)[one] == "delivered")
        assert ready.now >= now + 1_500


async def test_messages_that_stand_for_nothing_are_put_away(ready: Bench) -> None:
    async with serving(Endpoint()) as endpoint:
        ready.endpoints(endpoint_config("crm", endpoint.url))
        (one,) = await seed(ready.store, endpoints=["crm"], due=[ready.now])
        async with ready.worker() as service:
            await until(lambda: states(ready)[one] == "delivered")
            for _ in range(2):
                await service._intake.sort(["no such id", one, "\ufffd", ""])
        assert len(endpoint.calls) == 1


async def test_foreign_messages_stop_no_worker(ready: Bench) -> None:
    """One with a NUL in it, which PostgreSQL takes for no text, ended the worker for good."""
    bodies = (b"\x00\xff", b"", b"x" * 100_000, b"no-such-id", "ü".encode())
    before = measured("messages_total", result="foreign")
    async with serving(Endpoint()) as endpoint, ready.worker() as service:
        await until(lambda: service._publisher.connected)
        foreign = [Outgoing(body, topology.CALLBACKS, topology.CALLBACKS) for body in bodies]
        await service._publisher.publish(foreign)
        await until(lambda: measured("messages_total", result="foreign") >= before + 4)
        assert endpoint.calls == []
        assert service._consumer.consuming


async def test_a_delivery_cancelled_meanwhile_is_not_attempted(ready: Bench) -> None:
    async with serving(Endpoint()) as endpoint:
        ready.endpoints(endpoint_config("crm", endpoint.url))
        ids = await seed(
            ready.store, endpoints=["crm"], due=[ready.now], state=DeliveryState.CANCELLED
        )
        marker = await seed(ready.store, endpoints=["crm"], due=[ready.now])
        async with ready.worker() as service:
            await until(lambda: service.checks["store"]() is None)
            await service._intake.sort(ids)
            await endpoint.wait_calls(1)
        assert set(endpoint.by_id) == set(marker)


async def test_a_delivery_due_later_waits_in_the_store_and_comes_on_time(ready: Bench) -> None:
    async with serving(Endpoint()) as endpoint:
        ready.endpoints(endpoint_config("crm", endpoint.url))
        due = ready.now + 1_500
        (one,) = await seed(ready.store, endpoints=["crm"], due=[due])
        async with ready.worker() as service:
            await until(lambda: service._consumer.consuming and service._publisher.connected)
            await service._intake.sort([one])  # early, as a hop through a delay queue would be
            await endpoint.wait_calls(1)
            assert 0 <= ready.now - due < 1_000
            await until(lambda: states(ready)[one] == "delivered")
        assert len(endpoint.calls) == 1


async def test_two_workers_share_the_work_and_double_none(ready: Bench) -> None:
    async with serving(Endpoint()) as endpoint:
        ready.endpoints(endpoint_config("crm", endpoint.url))
        await seed(ready.store, endpoints=["crm"], due=[ready.now] * 300)
        async with ready.worker(), ready.worker():
            await until(lambda: set(states(ready).values()) == {"delivered"})
        assert len(endpoint.calls) == 300


async def test_it_says_what_it_lacks(ready: Bench) -> None:
    async with ready.worker() as service:
        assert {name: check() for name, check in service.checks.items()} == {
            "store": "not connected yet",
            "consumer": "not consuming",
            "publisher": "not connected",
        }
        await until(lambda: not any(check() for check in service.checks.values()))
