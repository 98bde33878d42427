"""Single attempts over real sockets, against endpoints that misbehave in every way."""

import asyncio
import contextlib
import datetime as dt
import ipaddress
import resource
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from msgspec import structs
from yarl import URL

from shared.clock import SystemClock
from shared.config import CallbacksConfig
from shared.domain.keys import AggregateKey
from shared.store.rows import Delivery, DeliveryState
from shared.targets import Target, read_secret
from tests.support.endpoints import SECRET, Endpoint, raw_server, serving
from worker.callbacks.attempt import Call, Caller
from worker.callbacks.outcomes import (
    EndpointGone,
    FailureKind,
    RetryableFailure,
    Succeeded,
    name_of,
)

CONFIG = CallbacksConfig(
    attempt_timeout=1.0, connect_timeout=0.5, quick_retries=0, response_max_bytes=20_000,
    answer_kept_bytes=100,
)  # fmt: skip


def target(url: str | URL, **headers: str) -> Target:
    return Target("crm", URL(url), (read_secret(SECRET),), headers, 1, True)


def delivery(*, traceparent: str = "") -> Delivery:
    return Delivery(
        id="0190-d", endpoint="crm", type="link.created", state=DeliveryState.PENDING, due_at=0,
        attempts=0, transition_at=0, data=b'{"id":"l"}', aggregate=AggregateKey("link", "a", "l"),
        version=1, traceparent=traceparent,
    )  # fmt: skip


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with Caller(CONFIG, clock=SystemClock()) as made:
        yield made


async def raw(caller: Caller, answer: bytes, *, drip: bytes = b"", every: float = 0.0) -> Call:
    """One attempt at a server that writes `answer`, then `drip` again and again, then closes."""

    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        while drip:
            writer.write(drip)
            await writer.drain()
            await asyncio.sleep(every)

    async with raw_server(handle) as port:
        return await caller.attempt(target(f"http://127.0.0.1:{port}/hooks"), delivery())


HEAD = b"HTTP/1.1 200 OK\r\n"
SIZED = HEAD + b"Content-Length: 1000\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "name", "status"),
    [
        (b"", "cut_off", None),
        (b"HTTP/1.1 200 O", "cut_off", None),
        (HEAD, "cut_off", None),
        (SIZED, "cut_off", 200),
        (SIZED + b"x" * 999, "cut_off", 200),
        (CHUNKED + b"5\r\nhel", "cut_off", 200),
        (HEAD + b"Content-Length: 20001\r\n\r\n", "oversized", 200),
        (HEAD + b"Content-Length: 99999999999\r\n\r\n", "oversized", 200),
        (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", "succeeded", 200),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "malformed", None),
        (b"HTTP/1.1 abc OK\r\n\r\n", "malformed", None),
        (HEAD + b"X: " + b"y" * 200_000 + b"\r\n\r\n", "malformed", None),
        (CHUNKED + b"zz\r\n", "malformed", None),
        (b"HTTP/1.1 500 No\r\nContent-Length: 1000\r\n\r\nwhy", "server_error", 500),
        (b"HTTP/1.1 410 Gone\r\nContent-Length: 1000\r\n\r\n", "gone", 410),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "succeeded", 204),
    ],
)
async def test_what_broken_answers_come_to(
    caller: Caller, answer: bytes, name: str, status: int | None
) -> None:
    call = await raw(caller, answer)
    assert (name_of(call.outcome), getattr(call.outcome, "status", status)) == (name, status)
    assert call.duration_ms < 900


async def test_one_byte_a_moment_ends_with_the_time_of_the_attempt(caller: Caller) -> None:
    for start in (b"HTTP/1.1 200 ", HEAD + b"X: ", SIZED):
        call = await raw(caller, start, drip=b"x", every=0.05)
        assert name_of(call.outcome) == "timeout"
        assert 900 < call.duration_ms < 1_500


async def test_silence_does_too(caller: Caller) -> None:
    async def handle(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()
        await asyncio.Event().wait()

    async with raw_server(handle) as port:
        call = await caller.attempt(target(f"http://127.0.0.1:{port}/"), delivery())
    assert name_of(call.outcome) == "timeout"
    assert call.duration_ms < 1_500


async def test_a_failing_answer_that_drips_still_counts_as_what_it_is(caller: Caller) -> None:
    caller._config = structs.replace(CONFIG, attempt_timeout=5.0)
    call = await raw(caller, b"HTTP/1.1 503 No\r\nRetry-After: 7\r\n\r\n", drip=b"x", every=0.1)
    assert isinstance(call.outcome, RetryableFailure)
    assert (call.outcome.status, call.outcome.retry_after) == (503, 7.0)
    assert 5 <= len(call.outcome.answer) <= 15
    assert call.duration_ms < 1_500


@pytest.mark.parametrize("head", [HEAD + b"\r\n", b"HTTP/1.1 500 No\r\n\r\n", HEAD + b"X: "])
async def test_an_answer_without_end_takes_bounded_memory(caller: Caller, head: bytes) -> None:
    await raw(caller, SIZED)  # whatever the first attempt needs is not counted
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call = await raw(caller, head, drip=b"x" * 1_000_000)
    assert name_of(call.outcome) in {"oversized", "server_error", "malformed"}
    assert len(getattr(call.outcome, "answer", b"")) <= 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # KiB


async def test_a_redirect_to_itself_is_not_followed(caller: Caller) -> None:
    endpoint = Endpoint()
    endpoint.always = (307, {"Location": "/hooks"}, b"")
    async with serving(endpoint):
        call = await caller.attempt(target(endpoint.url), delivery())
    assert name_of(call.outcome) == "redirect"
    assert len(endpoint.calls) == 1


async def test_the_first_bytes_of_a_failing_answer_are_kept(caller: Caller) -> None:
    endpoint = Endpoint((422, {}, b"a" * 90 + b"b" * 90), (410, {}, b"bye"))
    async with serving(endpoint):
        first = (await caller.attempt(target(endpoint.url), delivery())).outcome
        second = (await caller.attempt(target(endpoint.url), delivery())).outcome
    assert isinstance(first, RetryableFailure)
    assert first.answer == b"a" * 90 + b"b" * 10
    assert second == EndpointGone(b"bye")


async def test_what_an_attempt_sends(caller: Caller) -> None:
    async with serving(Endpoint()) as endpoint:
        call = await caller.attempt(
            target(endpoint.url, **{"X-Api-Key": "k"}), delivery(traceparent="00-abc")
        )
    assert call.outcome == Succeeded(200)
    assert endpoint.wrong == []
    (sent,) = endpoint.calls
    wanted = {"x-api-key": "k", "traceparent": "00-abc", "content-type": "application/json",
              "accept-encoding": "identity", "webhook-id": "0190-d"}  # fmt: skip
    assert wanted.items() <= sent.headers.items()
    assert sent.body == (
        b'{"type":"link.created","timestamp":"1970-01-01T00:00:00.000Z","data":{"id":"l"}}'
    )


async def test_connections_are_kept_alive_and_cookies_are_not(caller: Caller) -> None:
    endpoint = Endpoint()
    endpoint.always = (200, {"Set-Cookie": "a=b"}, b"ok")
    async with serving(endpoint):
        for _ in range(3):
            await caller.attempt(target(endpoint.url), delivery())
        connector = caller._sessions[True].connector
        assert connector is not None
        assert sum(len(kept) for kept in connector._conns.values()) == 1
    assert all("cookie" not in call.headers for call in endpoint.calls)


async def test_proxies_of_the_environment_are_not_used(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1/")
    async with serving(Endpoint()) as endpoint:
        call = await caller.attempt(target(endpoint.url), delivery())
    assert call.outcome == Succeeded(200)


async def test_a_refused_connection_is_tried_again_at_once_within_the_same_attempt() -> None:
    config = structs.replace(CONFIG, quick_retries=2, attempt_timeout=5.0)
    async with serving(Endpoint()) as closed:
        port = closed.port
    tries = 0

    class Clock(SystemClock):
        async def sleep(self, _: float) -> None:
            nonlocal tries
            tries += 1

    async with Caller(config, clock=Clock()) as caller:
        call = await caller.attempt(target(f"http://127.0.0.1:{port}/"), delivery())
    assert name_of(call.outcome) == "connect"
    assert tries == 2


async def test_a_connection_that_breaks_is_too_and_what_was_answered_is_not() -> None:
    config = structs.replace(CONFIG, quick_retries=2, attempt_timeout=5.0)
    answers = [b"", b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"]
    served = 0

    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        writer.write(answers[served])
        await writer.drain()
        served += 1

    async with Caller(config, clock=SystemClock()) as caller, raw_server(handle) as port:
        call = await caller.attempt(target(f"http://127.0.0.1:{port}/"), delivery())
    assert name_of(call.outcome) == "server_error"
    assert served == 2


def certificate(folder: Path) -> ssl.SSLContext:
    """A server context with a certificate that nobody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody")])
    today = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - dt.timedelta(days=1))
        .not_valid_after(today + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = folder / "server.pem"
    path.write_bytes(pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    return context


async def test_a_certificate_that_nobody_trusts(caller: Caller, tmp_path: Path) -> None:
    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Content-Length: 0\r\n\r\n")
        await writer.drain()

    async with raw_server(handle, tls=certificate(tmp_path)) as port:
        call = await caller.attempt(target(f"https://127.0.0.1:{port}/"), delivery())
    assert isinstance(call.outcome, RetryableFailure)
    assert call.outcome.kind is FailureKind.TLS
    assert call.outcome.error.startswith("certificate: ")


async def test_a_server_that_speaks_no_tls(caller: Caller) -> None:
    async with serving(Endpoint()) as endpoint:
        url = URL(endpoint.url).with_scheme("https").with_port(endpoint.port)
        call = await caller.attempt(target(url), delivery())
    assert name_of(call.outcome) == "tls"


async def test_a_name_that_does_not_exist(caller: Caller) -> None:
    call = await caller.attempt(target("http://nothing.invalid/"), delivery())
    assert name_of(call.outcome) == "dns"


async def test_an_address_that_swallows_connections(caller: Caller) -> None:
    with contextlib.ExitStack() as sockets:
        full = sockets.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):  # after these the backlog is full and a connection is not answered
            one = sockets.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        call = await caller.attempt(
            target(f"http://127.0.0.1:{full.getsockname()[1]}/"), delivery()
        )
    assert name_of(call.outcome) == "connect"
    assert 400 < call.duration_ms < 900


async def test_a_fault_of_ours_is_an_outcome_as_well(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Delivery) -> bytes:
        raise KeyError("data")

    monkeypatch.setattr("worker.callbacks.attempt.body_of", broken)
    call = await caller.attempt(target("http://127.0.0.1:1/"), delivery())
    assert call.outcome == RetryableFailure(FailureKind.INTERNAL, "internal: KeyError")
