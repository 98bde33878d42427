"""Endpoints made ready for attempts: URL parsed, keys decoded, headers checked."""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct
from yarl import URL

from shared.config import EndpointConfig
from shared.errors import ConfigError

_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")
_OURS: Final = frozenset({
    "host", "content-type", "content-length", "content-encoding", "transfer-encoding",
    "connection", "expect", "accept-encoding", "traceparent", "tracestate",
})  # fmt: skip
_RESERVED: Final = "webhook-"


PREFIX = "whsec_"
KEY_BYTES = range(24, 65)
"""How long a key may be, by the standard."""


def read_secret(text: str) -> bytes:
    """The key in a secret written as ``whsec_`` and base64, padded or not.

    Raises:
        ValueError: it is no such secret; the message never quotes it.
    """
    if not text.startswith(PREFIX):
        raise ValueError(f"a secret starts with {PREFIX}")
    encoded = text.removeprefix(PREFIX)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"what follows {PREFIX} is not base64") from None
    if len(key) not in KEY_BYTES:
        raise ValueError(
            f"a key has {KEY_BYTES.start} to {KEY_BYTES.stop - 1} bytes, this one has {len(key)}"
        )
    return key


class Target(Struct, frozen=True):
    """One endpoint.

    Attributes:
        keys: what its callbacks are signed with, the preferred key first.
        headers: what every callback for it carries beyond ours.
    """

    id: str
    url: URL
    keys: tuple[bytes, ...]
    headers: Mapping[str, str]
    max_in_flight: int
    allow_private: bool


def read_targets(endpoints: Sequence[EndpointConfig]) -> dict[str, Target]:
    """The targets by id.

    Raises:
        ConfigError: naming the endpoint and the field; it quotes no secret and no URL.
    """
    return {endpoint.id: _read(endpoint) for endpoint in endpoints}


def _read(endpoint: EndpointConfig) -> Target:
    keys = []
    for secret in endpoint.secrets:
        try:
            keys.append(read_secret(secret.reveal()))
        except ValueError as error:
            raise ConfigError(f"endpoint {endpoint.id}: secrets: {error}") from None
    return Target(
        id=endpoint.id,
        url=_read_url(endpoint),
        keys=tuple(keys),
        headers=_read_headers(endpoint),
        max_in_flight=endpoint.max_in_flight,
        allow_private=endpoint.allow_private_network,
    )


def _read_url(endpoint: EndpointConfig) -> URL:
    fault = None
    try:
        url = URL(endpoint.url)
        if url.scheme not in ("http", "https"):
            fault = "must begin with http:// or https://"
        elif not url.host:
            fault = "names no host"
        elif url.user is not None or url.password is not None:
            fault = "must not carry a user or password; use headers"
        elif url.fragment:
            fault = "must not carry a fragment"
        elif not url.port:
            fault = "names port 0"
    except ValueError:
        fault = "cannot be read"
    if fault:
        raise ConfigError(f"endpoint {endpoint.id}: url {fault}")
    return url


def _read_headers(endpoint: EndpointConfig) -> dict[str, str]:
    for name, value in endpoint.headers.items():
        if name.lower() in _OURS or name.lower().startswith(_RESERVED):
            raise ConfigError(f"endpoint {endpoint.id}: headers: {name} is set by Correio itself")
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ConfigError(
                f"endpoint {endpoint.id}: headers: {name!r} or its value has characters that "
                "no header may have"
            )
    return dict(endpoint.headers)
