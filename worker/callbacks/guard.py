"""The address guard: which addresses a callback may connect to.

It is asked three times, so that no notation and no change of mind of a name server gets past it:
for an address written in the URL, for every address that a name resolves to (one bad among them
refuses the name), and for the address of every socket before it is connected.

``allow_private_network`` opens loopback and private ranges. Nothing opens link-local addresses,
metadata services, multicast, reserved ranges or addresses wrapped in deprecated tunnels.
"""

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, assert_never

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

AddressInfo = tuple[Any, ...]
Lookup = Callable[[str, int, int], Awaitable[list[AddressInfo]]]
"""host, port, family → what `socket.getaddrinfo` gives."""

IPv4 = ipaddress.IPv4Address
IPv6 = ipaddress.IPv6Address

_PRIVATE_4 = tuple(
    map(
        ipaddress.IPv4Network,
        ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
    )
)
_FORBIDDEN_4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",  # this network; 0.0.0.0 connects to the machine itself
            "100.100.100.200/32",  # metadata of Alibaba Cloud
            "168.63.129.16/32",  # metadata of Azure
            "169.254.0.0/16",  # link-local, and the metadata of most clouds
            "192.0.0.0/24",  # protocol assignments, and the metadata of Oracle Cloud
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT
            "192.88.99.0/24",  # 6to4 relays
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)
_PRIVATE_6 = tuple(map(ipaddress.IPv6Network, ("::1/128", "fc00::/7")))
_FORBIDDEN_6 = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "fd00:ec2::/32",  # metadata of AWS
            "fd20:ce::254/128",  # metadata of Google Cloud
            "2001::/23",  # Teredo, ORCHID, benchmarks, protocol assignments
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",  # documentation
        ),
    )
)
_GLOBAL_6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Reach(Enum):
    """What an address gives access to."""

    PUBLIC = "public"
    PRIVATE = "private"
    FORBIDDEN = "forbidden"


class ForbiddenAddressError(OSError):
    """A callback would go to an address it may not go to. Names the kind, not the address."""

    def __init__(self, reach: Reach) -> None:
        super().__init__(f"the address is {reach.value}")
        self.reach = reach


def reach_of(address: str) -> Reach:
    """What this address, in canonical notation, gives access to; what is not one is forbidden."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return Reach.FORBIDDEN
    return _reach_4(ip) if isinstance(ip, IPv4) else _reach_6(ip)


def _reach_4(ip: IPv4) -> Reach:
    if any(ip in network for network in _FORBIDDEN_4):
        return Reach.FORBIDDEN
    return Reach.PRIVATE if any(ip in network for network in _PRIVATE_4) else Reach.PUBLIC


def _reach_6(ip: IPv6) -> Reach:
    if ip.scope_id is not None:
        return Reach.FORBIDDEN
    if ip.ipv4_mapped is not None:
        return _reach_4(ip.ipv4_mapped)
    if ip in _NAT64:  # a translator stands between us and the address within
        inner = _reach_4(IPv4(int(ip) & 0xFFFF_FFFF))
        return Reach.PUBLIC if inner is Reach.PUBLIC else Reach.FORBIDDEN
    if any(ip in network for network in _FORBIDDEN_6):
        return Reach.FORBIDDEN
    if any(ip in network for network in _PRIVATE_6):
        return Reach.PRIVATE
    return Reach.PUBLIC if ip in _GLOBAL_6 else Reach.FORBIDDEN


def check_address(address: str, *, allow_private: bool) -> None:
    """Return if a callback may connect to this address.

    Raises:
        ForbiddenAddressError: it may not.
    """
    reach = reach_of(address)
    match reach:
        case Reach.PUBLIC:
            return
        case Reach.PRIVATE:
            if not allow_private:
                raise ForbiddenAddressError(reach)
        case Reach.FORBIDDEN:
            raise ForbiddenAddressError(reach)
        case _ as never:
            assert_never(never)


def check_literal(url: URL, *, allow_private: bool) -> None:
    """Check the host of a URL if it is an address; a name is left to the resolver.

    Notations that only the C library takes for an address (``127.1``, ``0x7f.1``,
    ``2130706433``, ``017700000001``) are refused whatever they mean.

    Raises:
        ForbiddenAddressError: it may not be connected to.
    """
    host = (url.host or "").rstrip(".")
    if ":" in host or _is_dotted_quad(host):
        check_address(host, allow_private=allow_private)
        return
    try:
        socket.inet_aton(host)
    except (OSError, UnicodeEncodeError):
        return
    raise ForbiddenAddressError(Reach.FORBIDDEN)


def _is_dotted_quad(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


async def system_lookup(host: str, port: int, family: int) -> list[AddressInfo]:
    """Resolve by the system's resolver, in a thread of its own.

    A name server that hangs holds up neither other names nor the end of the process, as it
    would in a pool of threads. aiohttp keeps at most one lookup of a name under way.

    Raises:
        OSError: the name does not resolve.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[AddressInfo]] = loop.create_future()

    def settle(found: list[AddressInfo] | None, error: OSError | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(found or [])

    def look_up() -> None:
        found, error = None, None
        try:
            found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        except OSError as raised:
            error = raised
        except UnicodeError:
            error = OSError("the name cannot be encoded")
        try:
            loop.call_soon_threadsafe(settle, found, error)
        except RuntimeError:
            return  # the loop has closed meanwhile: nobody waits for the answer

    threading.Thread(target=look_up, name="dns", daemon=True).start()
    return await answer


class GuardedResolver(AbstractResolver):
    """Resolves names, and refuses those that resolve to any address that is not allowed."""

    def __init__(self, *, allow_private: bool, lookup: Lookup = system_lookup) -> None:
        self._allow_private = allow_private
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The allowed addresses of a name.

        Raises:
            ForbiddenAddressError: at least one of them is not allowed.
            OSError: there is none.
        """
        results: list[ResolveResult] = []
        for found, _, proto, _, address in await self._lookup(host, port, family):
            check_address(str(address[0]), allow_private=self._allow_private)
            results.append(
                ResolveResult(
                    hostname=host,
                    host=str(address[0]),
                    port=port,
                    family=found,
                    proto=proto,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
            )
        if not results:
            raise OSError("the name has no address")
        return results

    async def close(self) -> None:
        """Nothing is kept open."""


def guarded_socket(*, allow_private: bool) -> Callable[[AddressInfo], socket.socket]:
    """A maker of sockets that makes none for an address that is not allowed."""

    def make(info: AddressInfo) -> socket.socket:
        family, kind, proto, _, address = info
        check_address(str(address[0]), allow_private=allow_private)
        return socket.socket(family=family, type=kind, proto=proto)

    return make
