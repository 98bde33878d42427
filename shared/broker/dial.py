"""One connection to the broker, opened in the one way that there is."""

import os
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aio_pika
from aio_pika.abc import AbstractConnection

from shared.broker.feed import FedConnection
from shared.broker.owned import OwnedConnection
from shared.config import Secret
from shared.errors import BrokerUnavailableError

_FILES = ("cafile", "certfile", "keyfile")


async def dial(
    url: Secret | str,
    *,
    within: float,
    heartbeat: int | None = None,
    name: str = "",
    fed: bool = False,
) -> AbstractConnection:
    """Connect; over TLS if the URL begins with ``amqps``.

    Args:
        url: ``broker.url``.
        within: seconds to wait for the broker.
        heartbeat: seconds between two heartbeats, if not what the broker proposes.
        name: what the broker's own tools call this connection.
        fed: read it through a `shared.broker.feed.Feed`, for many deliveries.

    Raises:
        BrokerUnavailableError: a file that the URL names cannot be read.
        Exception: what aio-pika raises, see `shared.broker.faults`.
    """
    text = url.reveal() if isinstance(url, Secret) else url
    _require_files(text)
    more: dict[str, Any] = {} if heartbeat is None else {"heartbeat": heartbeat}
    if name:
        more["client_properties"] = {"connection_name": f"correio {name}"}
    kind = FedConnection if fed else OwnedConnection
    connection: AbstractConnection = await aio_pika.connect(
        text, timeout=within, connection_class=kind, **more
    )
    return connection


def _require_files(url: str) -> None:
    """Say which file is meant: the TLS library names none."""
    given = parse_qs(urlsplit(url).query)
    for kind in _FILES:
        for path in given.get(kind, []):
            if not os.access(path, os.R_OK):
                raise BrokerUnavailableError(f"{path}, the {kind} of broker.url, cannot be read")
