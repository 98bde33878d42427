"""The body of a callback: the same bytes for every attempt of a delivery."""

from datetime import UTC, datetime

import orjson

from shared.store.rows import Delivery


def body_of(delivery: Delivery) -> bytes:
    """``{"type","timestamp","data"}``; the time is that of the change, the data as it is stored.

    Nothing in it depends on the attempt, so that one ``webhook-id`` never has two bodies.
    """
    moment = datetime.fromtimestamp(delivery.transition_at / 1000, UTC)
    timestamp = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return b'{"type":%b,"timestamp":"%b","data":%b}' % (
        orjson.dumps(delivery.type),
        timestamp.encode(),
        delivery.data,
    )
