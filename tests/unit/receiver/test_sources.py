from ipaddress import ip_address

import pytest

from receiver.sources import Source, client_address, read_sources
from shared.config import Secret, SourceConfig
from shared.errors import ConfigError
from shared.networks import read_networks

PROXIES = read_networks(["10.0.0.0/8", "::1"], field="proxies")


def source(*networks: str) -> Source:
    configured = SourceConfig(name="klavi", secrets=(Secret("s"),), allowed_networks=networks)
    return read_sources([configured])["klavi"]


def test_a_source_without_networks_admits_anybody() -> None:
    assert source().admits(ip_address("203.0.113.9"))
    assert source().admits(None)


def test_a_source_with_networks_admits_only_them() -> None:
    closed = source("18.231.92.86", "2001:db8::/32")
    assert closed.admits(ip_address("18.231.92.86"))
    assert closed.admits(ip_address("2001:db8::7"))
    assert not closed.admits(ip_address("18.231.92.87"))
    assert not closed.admits(None)


def test_a_network_that_cannot_be_read_is_named() -> None:
    with pytest.raises(ConfigError, match=r"source klavi: allowed_networks.*10.0.0.1/8"):
        source("10.0.0.1/8")


@pytest.mark.parametrize(
    ("peer", "forwarded", "found"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["18.231.92.86"], "203.0.113.9"),
        ("10.1.1.1", ["18.231.92.86"], "18.231.92.86"),
        ("10.1.1.1", ["18.231.92.86, 203.0.113.9"], "203.0.113.9"),
        ("10.1.1.1", ["18.231.92.86, 203.0.113.9, 10.2.2.2"], "203.0.113.9"),
        ("10.1.1.1", ["18.231.92.86", "203.0.113.9", "10.2.2.2"], "203.0.113.9"),
        ("10.1.1.1", ["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
        ("10.1.1.1", [], "10.1.1.1"),
        ("::1", ["203.0.113.9:4711"], "203.0.113.9"),
        ("::1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        ("::ffff:10.1.1.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.1.1.1", ["18.231.92.86, nonsense"], None),
        ("10.1.1.1", ["18.231.92.86,"], None),
        (None, ["18.231.92.86"], None),
    ],
)
def test_the_client_is_the_right_most_address_that_is_no_proxy_of_ours(
    peer: str | None, forwarded: list[str], found: str | None
) -> None:
    expected = None if found is None else ip_address(found)
    assert client_address(peer, forwarded, PROXIES) == expected
