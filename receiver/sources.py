"""The parties that may send: who they are, from where, and under which secrets."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from msgspec import Struct

from shared.config import SourceConfig
from shared.networks import Network, read_networks

Address = IPv4Address | IPv6Address


class Source(Struct, frozen=True):
    """A configured source, made ready for the request path."""

    name: str
    keys: tuple[bytes, ...]
    networks: tuple[Network, ...]
    signed: bool

    def admits(self, address: Address | None) -> bool:
        """Whether a request may come from this address. No address fits only an open source."""
        if not self.networks:
            return True
        return address is not None and any(address in network for network in self.networks)


def read_sources(configured: Iterable[SourceConfig]) -> dict[str, Source]:
    """The sources by name.

    Raises:
        ConfigError: a network cannot be read.
    """
    return {
        source.name: Source(
            name=source.name,
            keys=tuple(secret.reveal().encode() for secret in source.secrets),
            networks=read_networks(
                source.allowed_networks, field=f"source {source.name}: allowed_networks"
            ),
            signed=source.require_signature,
        )
        for source in configured
    }


def client_address(
    peer: str | None, forwarded: Sequence[str], proxies: Sequence[Network]
) -> Address | None:
    """The address that the request comes from, as far as it can be believed; None if unknown.

    `forwarded` are the values of ``X-Forwarded-For`` in their order. They count only when the peer
    is a trusted proxy, and then from the right: each proxy appends whom it saw, so the right-most
    address that is no proxy of ours is the last one that nobody could have made up.
    """
    address = _read_address(peer or "")
    if not any(address in proxy for proxy in proxies if address is not None):
        return address
    hops = [hop for value in forwarded for hop in value.split(",")]
    for hop in reversed(hops):
        address = _read_address(hop)
        if address is None or not any(address in proxy for proxy in proxies):
            return address
    return address


def _read_address(text: str) -> Address | None:
    """An address, perhaps with a port; an IPv4 address inside IPv6 counts as what it is."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
