"""Spans, as a collector gets them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from unittest import mock

import pytest
from aiohttp import web
from msgspec import structs
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from deploy.local.provide import PrivateBroker
from deploy.local.rabbitmq import free_port
from receiver.trace import TRACE_ENTROPY, new_traceparent
from shared import tracing
from shared.config import TelemetryConfig
from tests.support import events as ev
from tests.support.deliveries import until
from tests.support.http import ask, request
from tests.support.receiver import FakeBroker, running, settings
from tests.support.world import Listener, world

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{SPAN}-01"


class Collector:
    """Keeps every span: (service, name, trace, parent, attributes, failed)."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.spans: list[tuple[str, str, str, str, dict[str, str], bool]] = []

    async def take(self, request: web.Request) -> web.Response:
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for group in sent.resource_spans:
            named = {one.key: one.value.string_value for one in group.resource.attributes}
            for scope in group.scope_spans:
                for span in scope.spans:
                    assert span.start_time_unix_nano <= span.end_time_unix_nano
                    self.spans.append((
                        named["service.name"], span.name, span.trace_id.hex(),
                        span.parent_span_id.hex(),
                        {one.key: str(one.value) for one in span.attributes},
                        span.status.code == 2,
                    ))  # fmt: skip
        return web.Response()


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    port = free_port()
    made = Collector(port)
    app = web.Application()
    app.router.add_post("/v1/traces", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield made
    await runner.cleanup()


async def test_one_trace_goes_through_every_process(
    tmp_path: Path, private_broker: PrivateBroker, store_url: str, collector: Collector
) -> None:
    async with world(
        tmp_path, private_broker, store_url,
        telemetry={"otlp_endpoint": collector.url, "sample_ratio": 0.0},
    ) as everything:  # fmt: skip
        everything.endpoint.answers = [(500, {}, b"no")]
        listener = Listener(everything.port)
        batch = [ev.event("consent_authorised", at=1)]
        assert (await ask(listener, request(ev.dump(batch), traceparent=SAMPLED))).status == 200
        await until(lambda: any(len(one) > 1 for one in everything.endpoint.by_id.values()))
        other = [ev.event("link_created", at=2)]
        assert (await ask(listener, request(ev.dump(other)))).status == 200
        await until(lambda: len(everything.endpoint.by_id) > 1)
        for part in everything.parts.values():
            await asyncio.to_thread(part.stop)
    told = {(service, name, failed) for service, name, *_, failed in collector.spans}
    assert told == {
        ("correio-receiver", "receive batch", False),
        ("correio-worker-events", "store event", False),
        ("correio-worker-callbacks", "call endpoint", True),
        ("correio-worker-callbacks", "call endpoint", False),
    }
    assert {(one[2], one[3]) for one in collector.spans} == {(TRACE, SPAN)}
    assert all(name.startswith("correio.") for one in collector.spans for name in one[4])


def test_only_sampled_traces_are_told() -> None:
    tracing.configure_tracing(TelemetryConfig(otlp_endpoint="http://127.0.0.1:1"), role="test")
    try:
        assert tracing.is_sampled(SAMPLED)
        assert not tracing.is_sampled(SAMPLED[:-1] + "0")
        for foreign in ("", "x" * 55, SAMPLED[:-1] + "g", SAMPLED + "0"):
            assert not tracing.is_sampled(foreign)
        assert tracing.is_sampled(new_traceparent(b"\x01" * TRACE_ENTROPY, sample_ratio=1.0))
    finally:
        tracing.close_tracing()
    assert not tracing.is_sampled(SAMPLED)


@pytest.mark.parametrize(("collector", "left"), [("", 7.0), ("http://127.0.0.1:1", 6.0)])
async def test_the_last_spans_have_their_share_of_the_time_for_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collector: str, left: float
) -> None:
    config = structs.replace(
        settings(tmp_path, shutdown_timeout=8.0), telemetry=TelemetryConfig(otlp_endpoint=collector)
    )
    async with running(config, FakeBroker()) as receiver:
        stop = mock.AsyncMock(wraps=receiver.server.stop)
        monkeypatch.setattr(receiver.server, "stop", stop)
    stop.assert_awaited_once_with(grace=left)
