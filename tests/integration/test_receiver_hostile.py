"""Hostile input over a raw socket: the exact status each time, no hang, flat memory."""

import asyncio
import contextlib
import gzip
import os
import statistics
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest

from receiver.service import Receiver
from receiver.signature import sign
from tests.support.http import SECRET, Answer, Client, Target, ask, connected, post, request
from tests.support.receiver import FakeBroker, running, settings, spawned

MIB = 1_048_576
LIMIT = 4 * MIB
HEAD_TIMEOUT = 0.4


@pytest.fixture
async def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
async def receiver(tmp_path: Path, broker: FakeBroker) -> AsyncIterator[Receiver]:
    config = settings(tmp_path / "spool", header_timeout=HEAD_TIMEOUT, body_timeout=0.4)
    async with running(config, broker) as started:
        yield started


def chunked(body: bytes, *, size: int = 65_536, signed: bytes | None = None) -> bytes:
    """A signed request without a length."""
    head = request(
        b"",
        Content_Length=None,
        Transfer_Encoding="chunked",
        X_Klavi_Signature=sign(body if signed is None else signed, SECRET.encode()),
    )
    parts = (body[start : start + size] for start in range(0, len(body), size))
    return head + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


def without_end(data: bytes) -> bytes:
    return data.removesuffix(b"0\r\n\r\n")


def reason(answer: Answer) -> str:
    kind: str = answer.json["type"]
    return kind.removeprefix("urn:correio:problem:")


async def healthy(receiver: Target) -> None:
    assert (await post(receiver, b"[1]")).json == {"accepted": 1}


@pytest.mark.parametrize(
    ("data", "status", "kind"),
    [
        pytest.param(request(b'"text"'), 400, "not-a-batch", id="wrong type"),
        pytest.param(request(b"null"), 400, "not-a-batch", id="null"),
        pytest.param(request(b"[" * 64 + b"{}" + b"]" * 64), 400, "too-deep", id="nested 65 deep"),
        pytest.param(request(b"[" * LIMIT), 400, "too-deep", id="nested millions deep"),
        pytest.param(request(b'{"a":' * 500_000), 400, "too-deep", id="objects in objects"),
        pytest.param(request(b"[NaN]"), 400, "not-json", id="NaN"),
        pytest.param(request(b"[-Infinity]"), 400, "not-json", id="Infinity"),
        pytest.param(request(b'[{"a":1}'), 400, "not-json", id="cut off"),
        pytest.param(request(b'["\xff\xfe"]'), 400, "not-utf8", id="invalid UTF-8"),
        pytest.param(
            request(b"[" + b"1," * 1000 + b"1]"), 413, "too-many-events", id="1001 events"
        ),
        pytest.param(
            request(b"[" + b"1," * 2_000_000 + b"1]"),
            413,
            "too-many-events",
            id="millions of events",
        ),
        pytest.param(request(b"x" * (LIMIT + 1)), 413, "too-large", id="huge with length"),
        pytest.param(
            request(b"", Content_Length="9" * 15), 413, "too-large", id="claims petabytes"
        ),
        pytest.param(
            chunked(b"[" + b" " * LIMIT + b"]"), 413, "too-large", id="huge without length"
        ),
        pytest.param(
            request(gzip.compress(b"[" + b" " * 64 * MIB), Content_Encoding="gzip"),
            413,
            "too-large",
            id="gzip bomb",
        ),
        pytest.param(
            request(zlib.compress(b"[" + b" " * 64 * MIB), Content_Encoding="deflate"),
            413,
            "too-large",
            id="deflate bomb",
        ),
        pytest.param(
            request(gzip.compress(gzip.compress(b"[1]")), Content_Encoding="gzip, gzip"),
            415,
            "unsupported-encoding",
            id="stacked encodings",
        ),
        pytest.param(
            request(b"[1]", Content_Encoding="br"), 415, "unsupported-encoding", id="brotli"
        ),
        pytest.param(
            request(b"[1]", Content_Encoding="gzip"),
            400,
            "malformed-request",
            id="not encoded as it says",
        ),
        pytest.param(
            request(gzip.compress(b"[1]")[:-9], Content_Encoding="gzip"),
            400,
            "malformed-request",
            id="gzip cut off",
        ),
        pytest.param(
            request(gzip.compress(b"[1]") + b"more", Content_Encoding="gzip"),
            400,
            "malformed-request",
            id="something behind gzip",
        ),
        pytest.param(
            request(b"[1]", content_Length="4"),
            400,
            "malformed-request",
            id="two different lengths",
        ),
        pytest.param(
            request(b"[1]", Transfer_Encoding="chunked"),
            400,
            "malformed-request",
            id="length and chunks",
        ),
        pytest.param(
            request(b"[1]", Content_Length="-3"), 400, "malformed-request", id="negative length"
        ),
        pytest.param(
            request(b"[1]", Content_Length="+3"), 400, "malformed-request", id="signed length"
        ),
        pytest.param(
            request(b"[1]", Content_Length="3, 3"), 400, "malformed-request", id="listed length"
        ),
        pytest.param(
            request(b"", Content_Length=None, Transfer_Encoding="gzip, chunked") + b"0\r\n\r\n",
            415,
            "unsupported-encoding",
            id="encoded transfer",
        ),
        pytest.param(
            request(b"", Content_Length=None, Transfer_Encoding="chunked") + b"zz\r\n",
            400,
            "malformed-request",
            id="broken chunk",
        ),
        pytest.param(
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            400,
            "malformed-request",
            id="TLS on a plain port",
        ),
        pytest.param(b"GET\r\n\r\n", 400, "malformed-request", id="no request line"),
        pytest.param(
            request(b"[1]", X_Long="x" * 20_000), 400, "malformed-request", id="long header"
        ),
        pytest.param(
            request(b"[1]", **{f"X_{n}": "x" for n in range(200)}),
            400,
            "malformed-request",
            id="many headers",
        ),
        pytest.param(
            request(b"[1]", path="/" + "x" * 20_000), 400, "malformed-request", id="long path"
        ),
        pytest.param(
            request(b"[1]", X_Odd="a\x00b"), 400, "malformed-request", id="NUL in a header"
        ),
        pytest.param(
            request(b"", method="CONNECT", path="a.example:443"), 404, "not-found", id="CONNECT"
        ),
    ],
)
async def test_refused_with_the_right_status(
    receiver: Receiver, broker: FakeBroker, data: bytes, status: int, kind: str
) -> None:
    answer = await ask(receiver, data)
    assert (answer.status, reason(answer)) == (status, kind)
    assert broker.attempts == 0
    await healthy(receiver)


@pytest.mark.parametrize(
    "element",
    [
        pytest.param(b"9" * 5000, id="5,000-digit number"),
        pytest.param(b"1e400", id="beyond a double"),
        pytest.param(b'{"a":"\\ud800"}', id="lone surrogate"),
        pytest.param(b'{"a":"\\u0000"}', id="NUL character"),
        pytest.param(b'{"a":1,"a":2}', id="duplicate keys"),
        pytest.param(b"[" * 63 + b"]" * 63, id="as deep as allowed"),
        pytest.param(b'{"eventId":{"a":[]}}', id="an id of the wrong type"),
        pytest.param(b'{"eventId":"' + b"x" * 100_000 + b'"}', id="a huge id"),
    ],
)
async def test_an_odd_element_travels_on_and_harms_no_other(
    receiver: Receiver, broker: FakeBroker, element: bytes
) -> None:
    answer = await post(receiver, b'[{"n":1},' + element + b',{"n":2}]')
    assert answer.json == {"accepted": 3}
    assert broker.bodies == [b'{"n":1}', element, b'{"n":2}']


async def test_a_slow_head_is_408_and_the_connection_ends(receiver: Receiver) -> None:
    async with connected(receiver) as client:
        await client.send(b"POST /v1/webhooks/klavi HTTP/1.1\r\nHost: ")
        assert (await client.answer()).status == 408
        assert await client.ended() == b""


async def test_a_head_in_drips_is_not_given_more_time(receiver: Receiver) -> None:
    async with connected(receiver) as client:
        await client.send(b"GET / HTTP/1.1\r\n")
        for number in range(1000):
            await client.send(b"X-%d: y\r\n" % number)
            if receiver.server.connections == 0:
                break
            await asyncio.sleep(0.01)
        assert receiver.server.connections == 0
        with contextlib.suppress(ConnectionError):  # a drip that came too late resets the rest
            assert (await client.ended()).split(b" ")[1:2] in ([], [b"408"])


async def test_a_slow_second_head_is_408_too(receiver: Receiver) -> None:
    async with connected(receiver) as client:
        await client.send(request(b"[1]"))
        assert (await client.answer()).status == 200
        await client.send(b"POST /v1/")
        assert (await client.answer()).status == 408


async def test_a_connection_that_sends_nothing_is_closed(receiver: Receiver) -> None:
    async with connected(receiver) as client:
        assert await client.ended() == b""


@pytest.mark.parametrize(
    "data", [request(b"[1]")[:-1], without_end(chunked(b"[1]"))], ids=["length", "chunks"]
)
async def test_a_slow_body_is_408_and_the_connection_ends(receiver: Receiver, data: bytes) -> None:
    async with connected(receiver) as client:
        await client.send(data)
        answer = await client.answer()
        assert (answer.status, reason(answer)) == (408, "request-timeout")
        assert await client.ended() == b""


async def test_a_client_that_leaves_in_the_middle_harms_nothing(
    receiver: Receiver, broker: FakeBroker
) -> None:
    for cut in range(0, len(request(b"[1]")), 7):
        async with connected(receiver) as client:
            await client.send(request(b"[1]")[:cut])
    await healthy(receiver)
    assert broker.bodies == [b"1"]


async def test_too_many_batches_in_hand_are_503_at_once(tmp_path: Path) -> None:
    broker = FakeBroker()
    broker.frozen = True
    config = settings(tmp_path, max_in_flight=2, publish_timeout=1.0)
    async with running(config, broker) as receiver:
        held = [asyncio.create_task(post(receiver, b"[1]")) for _ in range(2)]
        await broker.reached(lambda: broker.attempts == 2)
        answer = await post(receiver, b"[2]")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert [(await one).status for one in held] == [200, 200]


async def test_large_bodies_share_a_bounded_memory_and_small_ones_get_in(tmp_path: Path) -> None:
    config = settings(tmp_path, max_body_bytes=MIB, max_buffered_bytes=2 * MIB)
    async with running(config, FakeBroker()) as receiver, AsyncExitStack() as stack:
        large = request(b"[" + b" " * (MIB - 2) + b"]")
        clients = [await stack.enter_async_context(connected(receiver)) for _ in range(4)]
        for client in clients:
            await client.send(large[:-1])
        first = [asyncio.create_task(client.answer()) for client in clients]
        done, _ = await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        assert all(one.result().status == 503 for one in done)
        await healthy(receiver)
        for client in clients:
            await client.send(large[-1:])
        answers = await asyncio.gather(*first)
        assert {answer.status for answer in answers} == {200, 503}
        assert (await post(receiver, b"[" + b" " * (MIB - 2) + b"]")).status == 200


async def test_too_many_connections_are_503_at_once(tmp_path: Path) -> None:
    config = settings(tmp_path, max_connections=3)
    async with running(config, FakeBroker()) as receiver, AsyncExitStack() as stack:
        for _ in range(3):
            client = await stack.enter_async_context(connected(receiver))
            await client.send(request(b"[1]"))
            assert (await client.answer()).status == 200
        async with connected(receiver) as late:
            answer = await late.answer()
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")


PROMPT = [10.0, pytest.param(0.1, marks=pytest.mark.deep)]
"""Seconds, p99: what the source waits (domain.md, transport), and what a quiet machine keeps."""


@pytest.mark.parametrize("prompt", PROMPT)
async def test_a_thousand_idle_connections_cost_little_and_delay_nobody(
    tmp_path: Path, prompt: float
) -> None:
    async with spawned(tmp_path, header_timeout="20") as receiver, AsyncExitStack() as stack:
        process = psutil.Process(receiver.pid)
        await healthy(receiver)
        before = process.memory_info().rss
        for _ in range(1000):
            await stack.enter_async_context(connected(receiver))
        assert await latency(receiver, requests=100) < prompt
        assert process.memory_info().rss - before < 64 * MIB


@pytest.mark.parametrize("prompt", PROMPT)
async def test_under_attack_healthy_requests_are_quick_and_memory_stays_flat(
    tmp_path: Path, prompt: float
) -> None:
    attacks = [
        request(gzip.compress(b"[" + b" " * 64 * MIB), Content_Encoding="gzip"),
        request(b"[" * MIB),
        request(os.urandom(2 * MIB)),
        request(b"x" * (LIMIT - 1))[:-1],
        request(b"[" + b"1," * 500_000 + b"1]"),
        b"GET / HTTP/1.1\r\nX: " + b"y" * 8000,
        without_end(chunked(b" " * 3 * MIB)),
    ]
    async with spawned(tmp_path, header_timeout="1", body_timeout="1") as receiver:
        process = psutil.Process(receiver.pid)
        await healthy(receiver)
        before = process.memory_info().rss
        ended = asyncio.Event()
        attackers = [asyncio.create_task(attack(receiver, data, ended)) for data in attacks * 2]
        worst = await latency(receiver, requests=200)
        ended.set()
        await asyncio.gather(*attackers)
        assert process.memory_info().rss - before < 64 * MIB
        assert worst < prompt
        assert not receiver.said("request.failed")
        await healthy(receiver)


async def attack(receiver: Target, data: bytes, ended: asyncio.Event) -> None:
    """Send the same bytes again and again, on new connections, without reading much."""
    while not ended.is_set():
        async with connected(receiver) as client:
            await client.send(data)
            await hang_up(client)


async def hang_up(client: Client) -> None:
    """Wait for an answer only for a moment."""
    try:
        async with asyncio.timeout(0.3):
            await client.ended()
    except TimeoutError:
        return


async def latency(receiver: Target, *, requests: int) -> float:
    """The 99th percentile of the answers to healthy requests, in seconds."""
    loop = asyncio.get_running_loop()
    taken: list[float] = []
    for _ in range(requests):
        began = loop.time()
        await healthy(receiver)
        taken.append(loop.time() - began)
    p99 = statistics.quantiles(taken, n=100)[98]
    print(f"p99 {p99 * 1000:.1f} ms")  # noqa: T201 - the figure of a run
    return p99
