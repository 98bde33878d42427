"""Endpoints and the way to them."""

from collections.abc import AsyncIterator

from tests.chaos.catalogue import Act, Chapter
from tests.chaos.stage import Stage
from tests.support.cli import correio
from tests.support.deliveries import until
from tests.support.endpoints import Answer
from tests.support.proxy import BOTH, Way, Weather

CHAPTER = Chapter()
RETRIED = "attempts are repeated by schedule under one webhook-id, with one body"


def answering(answer: Answer) -> Act:
    async def act(stage: Stage) -> AsyncIterator[None]:
        endpoint = stage.world.endpoint
        endpoint.always = answer
        try:
            await stage.calls(5)
            yield
        finally:
            endpoint.always = 200

    return act


def weathered(weather: Weather, *, reset: bool = False) -> Act:
    async def act(stage: Stage) -> AsyncIterator[None]:
        with stage.endpoint_link.under(weather):
            if reset:
                stage.endpoint_link.reset()
            await stage.says("callbacks", "attempt.finished", of='"retrying"')
            yield

    return act


CHAPTER.row(
    "endpoint-answers-500",
    fault="the endpoint answers 500",
    how="status",
    holds=RETRIED,
)(answering(500))

CHAPTER.row(
    "endpoint-answers-429",
    fault="the endpoint answers 429 with Retry-After",
    how="status and header",
    holds="it is called more slowly; " + RETRIED,
)(answering((429, {"retry-after": "1"}, b"")))

CHAPTER.row(
    "endpoint-redirects",
    fault="the endpoint redirects to somewhere else",
    how="302 with Location",
    holds="the redirect is not followed; " + RETRIED,
)(answering((302, {"location": "http://169.254.169.254/"}, b"")))

CHAPTER.row(
    "endpoint-answers-hugely",
    fault="the endpoint answers 500 with a body of 8 MB",
    how="body",
    holds="no more than the bound is read; " + RETRIED,
)(answering((500, {}, bytes(8_000_000))))

CHAPTER.row(
    "endpoint-breaks-off-answer",
    fault="the endpoint's answers break off after the first bytes",
    how="proxy: each connection is reset after 100 bytes up",
    holds=RETRIED,
)(weathered(Weather(quota=100), reset=True))

CHAPTER.row(
    "endpoint-answers-lost",
    fault="the endpoint does its work, but its answers vanish",
    how="proxy: what comes down is dropped, then the connections are reset",
    holds=RETRIED,
)(weathered(Weather(lost=frozenset({Way.DOWN}))))

CHAPTER.row(
    "endpoint-black-hole",
    fault="nothing passes to or from the endpoint, connections stand",
    how="proxy: stops reading in both directions",
    holds="an attempt ends with its time-out; " + RETRIED,
)(weathered(Weather(held=BOTH)))

CHAPTER.row(
    "endpoint-trickles",
    fault="the endpoint's answers come at 20 bytes/s",
    how="proxy: throttle",
    holds="an attempt ends with its time-out; " + RETRIED,
)(weathered(Weather(rate=20.0)))


@CHAPTER.row(
    "endpoint-unreachable",
    fault="nobody listens at the endpoint",
    how="proxy: all connections reset, new ones refused",
    holds=RETRIED,
)
async def unreachable(stage: Stage) -> AsyncIterator[None]:
    async with stage.endpoint_link.cut():
        await stage.says("callbacks", "attempt.finished", of='"retrying"')
        yield


@CHAPTER.row(
    "endpoint-hangs",
    fault="the endpoint takes the call and answers nothing",
    how="its answers are held back",
    holds="an attempt ends with its time-out; " + RETRIED,
    seconds=0.0,
)
async def hangs(stage: Stage) -> AsyncIterator[None]:
    gate = stage.world.endpoint.gate
    gate.clear()
    try:
        await stage.says("callbacks", "attempt.finished", of='"retrying"')
        yield
    finally:
        gate.set()


@CHAPTER.row(
    "endpoint-restarts",
    fault="the endpoint closes all connections, three times, amid calls",
    how="proxy: reset; new ones pass",
    holds=RETRIED,
    seconds=0.0,
)
async def restarts(stage: Stage) -> AsyncIterator[None]:
    for _ in range(3):
        await stage.calls(3)
        stage.endpoint_link.reset()
    yield


@CHAPTER.row(
    "endpoint-gone",
    fault="the endpoint answers 410 once; later an operator resumes it",
    how="status; `correio endpoints resume`",
    holds="what waits for it is held, none is dropped, and all is told after the resume",
)
async def gone(stage: Stage) -> AsyncIterator[None]:
    endpoint = stage.world.endpoint
    endpoint.answers = [410]
    await stage.says("callbacks", "endpoint.disabled")
    await stage.says("callbacks", "deliveries.held")
    endpoint.answers = []
    yield
    status, out, err = await correio(stage.world.config, "endpoints", "resume", "crm")
    assert status == 0, out + err


@CHAPTER.row(
    "endpoint-name-unknown",
    fault="the endpoint's name does not resolve any more",
    how="hosts file of the process's own emptied, connections reset",
    holds=RETRIED,
)
async def name_unknown(stage: Stage) -> AsyncIterator[None]:
    with stage.names.forgotten():
        log = stage.world.parts["callbacks"].log
        start = log.stat().st_size

        def noticed() -> bool:
            stage.endpoint_link.reset()  # again and again: the name is remembered for 10 s
            with log.open("rb") as file:
                file.seek(start)
                return b'"retrying"' in file.read()

        await until(noticed, limit=30, every=0.1)
        yield
