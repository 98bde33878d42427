"""No callback reaches an address that it may not reach, whatever way the address is written."""

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from yarl import URL

from shared.clock import SystemClock
from shared.config import CallbacksConfig
from shared.domain.keys import AggregateKey
from shared.store.rows import Delivery, DeliveryState
from shared.targets import Target
from worker.callbacks import guard
from worker.callbacks.attempt import Caller
from worker.callbacks.guard import AddressInfo, ForbiddenAddressError, Reach, reach_of
from worker.callbacks.outcomes import FailureKind, Outcome, PermanentFailure, RetryableFailure

TLS = ssl.create_default_context()

ALWAYS_FORBIDDEN = [
    "0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.1.1", "168.63.129.16", "100.100.100.200",
    "192.0.0.192", "192.0.0.8", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.7",
    "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::7f00:1", "fe80::1", "fe80::1%1", "fec0::1", "ff02::1", "100::1", "2001::1",
    "2001:db8::1", "2001:20::1", "2002:7f00:1::", "2002:a9fe:a9fe::", "3fff::1", "5f00::1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "::ffff:169.254.169.254",
    "::ffff:0.0.0.0", "fd00:ec2::254", "fd20:ce::254", "::ffff:0:7f00:1", "4000::1",
]  # fmt: skip

PRIVATE = [
    "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "100.64.0.1", "::1", "fc00::1", "fd12:3456::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
]  # fmt: skip

PUBLIC = ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700:4700::1111",
          "::ffff:8.8.8.8", "64:ff9b::808:808"]  # fmt: skip

ODD_NOTATIONS = [
    "127.1", "127.0.1", "0177.0.0.1", "0x7f.0.0.1", "0x7f000001", "2130706433", "017700000001",
    "0", "0x0", "127.0.0.1.", "10.1", "169.254.43518", "0xa9fea9fe", "2852039166",
    "0251.0376.0251.0376", "127.00.00.01", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]",
    "[0000::1]", "[::127.0.0.1]", "①②⑦.⓪.⓪.①", "127。0。0。1", "\uff11\uff12\uff17.0.0.1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _one_tls_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the certificates of the system takes longer than all the rest of a test."""
    monkeypatch.setattr(ssl, "create_default_context", lambda: TLS)


def hosts_of(addresses: list[str]) -> list[str]:
    return [f"[{one.replace('%', '%25')}]" if ":" in one else one for one in addresses]


def test_there_are_enough_of_them() -> None:
    assert len({*ALWAYS_FORBIDDEN, *PRIVATE, *ODD_NOTATIONS}) >= 40


@pytest.mark.parametrize("address", ALWAYS_FORBIDDEN)
def test_nothing_opens_these(address: str) -> None:
    assert reach_of(address) is Reach.FORBIDDEN
    with pytest.raises(ForbiddenAddressError):
        guard.check_address(address, allow_private=True)


@pytest.mark.parametrize("address", PRIVATE)
def test_only_the_endpoints_own_word_opens_these(address: str) -> None:
    assert reach_of(address) is Reach.PRIVATE
    guard.check_address(address, allow_private=True)
    with pytest.raises(ForbiddenAddressError):
        guard.check_address(address, allow_private=False)


@pytest.mark.parametrize("address", PUBLIC)
def test_these_are_open(address: str) -> None:
    guard.check_address(address, allow_private=False)


@pytest.mark.parametrize("text", ["", "example.com", "127.1", "1.2.3.4.5", "٣.1.1.1"])
def test_what_is_no_address_is_forbidden(text: str) -> None:
    assert reach_of(text) is Reach.FORBIDDEN


@pytest.mark.parametrize("host", ["crm.example.com", "a1", "1e1.example", "xn--bcher-kva.example"])
def test_names_are_left_to_the_resolver(host: str) -> None:
    guard.check_literal(URL(f"http://{host}/"), allow_private=False)


@pytest.fixture
async def connects(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Any]]:
    """Every address that a socket was connected to, or was about to be."""
    loop = asyncio.get_running_loop()
    tried: list[Any] = []

    async def refuse(_: socket.socket, address: Any) -> None:
        tried.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(loop, "sock_connect", refuse)
    return tried


async def attempt(url: str, *, allow_private: bool = False, lookup: Any = None) -> Outcome:
    config = CallbacksConfig(quick_retries=0, attempt_timeout=5.0)
    target = Target("crm", URL(url), (b"k" * 24,), {}, 1, allow_private)
    async with Caller(config, clock=SystemClock(), lookup=lookup or guard.system_lookup) as caller:
        return (await caller.attempt(target, delivery())).outcome


def delivery() -> Delivery:
    return Delivery(
        id="d", endpoint="crm", type="link.created", state=DeliveryState.PENDING, due_at=0,
        attempts=0, transition_at=0, data=b"{}", aggregate=AggregateKey("link", "a", "l"),
        version=1,
    )  # fmt: skip


@pytest.mark.parametrize("host", [*hosts_of(ALWAYS_FORBIDDEN), *hosts_of(PRIVATE), *ODD_NOTATIONS])
async def test_a_url_with_a_forbidden_address_opens_no_connection(
    host: str, connects: list[Any]
) -> None:
    for scheme in ("http", "https"):
        outcome = await attempt(f"{scheme}://{host}:8080/hooks")
        assert isinstance(outcome, PermanentFailure), outcome
        assert outcome.kind is FailureKind.REFUSED_ADDRESS
    assert connects == []


@pytest.mark.parametrize("host", hosts_of(ALWAYS_FORBIDDEN))
async def test_nor_does_it_where_private_networks_are_allowed(
    host: str, connects: list[Any]
) -> None:
    assert isinstance(await attempt(f"http://{host}/", allow_private=True), PermanentFailure)
    assert connects == []


def answers(*rounds: list[str]) -> Any:
    """A name server that answers each question in turn, the last answer for ever."""
    left = list(rounds)

    async def lookup(_host: str, port: int, _family: int) -> list[AddressInfo]:
        found = left.pop(0) if len(left) > 1 else left[0]
        return [
            (
                socket.AF_INET6 if ":" in one else socket.AF_INET,
                socket.SOCK_STREAM, 6, "", (one, port),
            )
            for one in found
        ]  # fmt: skip

    return lookup


@pytest.mark.parametrize("address", [*ALWAYS_FORBIDDEN, *PRIVATE])
async def test_a_name_that_resolves_to_one_is_refused_and_may_change(
    address: str, connects: list[Any]
) -> None:
    for found in ([address], ["8.8.8.8", address], [address, "8.8.8.8"]):
        outcome = await attempt("http://crm.example.com/", lookup=answers(found))
        assert isinstance(outcome, RetryableFailure)
        assert outcome.kind is FailureKind.REFUSED_ADDRESS
        assert address not in outcome.error
    assert connects == []


async def test_a_name_good_at_first_and_bad_later_never_reaches_the_bad_one(
    connects: list[Any],
) -> None:
    config = CallbacksConfig(quick_retries=3, attempt_timeout=5.0)
    target = Target("crm", URL("http://crm.example.com/"), (b"k" * 24,), {}, 1, False)
    clock = SystemClock()
    lookup = answers(["8.8.8.8"], ["127.0.0.1"])
    async with Caller(config, clock=clock, lookup=lookup) as caller:
        first = (await caller.attempt(target, delivery())).outcome
        for session in caller._sessions.values():
            session.connector.clear_dns_cache()  # type: ignore[union-attr]  # always a TCPConnector
        second = (await caller.attempt(target, delivery())).outcome
    assert isinstance(first, RetryableFailure)
    assert first.kind is FailureKind.CONNECT
    assert isinstance(second, RetryableFailure)
    assert second.kind is FailureKind.REFUSED_ADDRESS
    assert set(connects) == {"8.8.8.8"}


async def test_the_socket_itself_is_guarded_too(
    connects: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the checks of URL and name were passed by, no socket is made."""
    monkeypatch.setattr("worker.callbacks.attempt.check_literal", lambda *_, **__: None)
    for host in ("127.0.0.1", "[::1]", "169.254.169.254", "[::ffff:127.0.0.1]"):
        outcome = await attempt(f"http://{host}/")
        assert isinstance(outcome, RetryableFailure)
        assert outcome.kind is FailureKind.REFUSED_ADDRESS
    assert connects == []


async def test_a_name_without_an_address_is_a_dns_failure(connects: list[Any]) -> None:
    outcome = await attempt("http://crm.example.com/", lookup=answers([]))
    assert isinstance(outcome, RetryableFailure)
    assert outcome.kind is FailureKind.DNS


async def test_the_system_resolver_finds_names_and_says_when_there_is_none() -> None:
    found = await guard.system_lookup("localhost", 80, socket.AF_INET)
    assert {one[4] for one in found} == {("127.0.0.1", 80)}
    for name in ("nothing.invalid", "a" * 300):
        with pytest.raises(OSError, match=r".+"):
            await guard.system_lookup(name, 80, 0)


async def test_a_lookup_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(*_: Any, **__: Any) -> None:
        release.wait(10)
        raise OSError("too late")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    hanging = [asyncio.create_task(guard.system_lookup("h", 80, 0)) for _ in range(40)]
    await asyncio.sleep(0)
    for one in hanging:
        one.cancel()
    assert all(
        isinstance(one, asyncio.CancelledError)
        for one in await asyncio.gather(*hanging, return_exceptions=True)
    )
    release.set()
