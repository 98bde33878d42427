"""Networks as they stand in the configuration."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network

from shared.errors import ConfigError

Network = IPv4Network | IPv6Network


def read_networks(texts: Iterable[str], *, field: str) -> tuple[Network, ...]:
    """Networks or single addresses, as configured under `field`.

    Raises:
        ConfigError: one cannot be read.
    """
    networks: list[Network] = []
    for text in texts:
        try:
            networks.append(ip_network(text))
        except ValueError as error:
            raise ConfigError(f"{field}: {error}; write 192.0.2.7 or 192.0.2.0/24") from None
    return tuple(networks)
