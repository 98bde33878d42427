"""Signatures of Standard Webhooks 1.0.0: pure, the time comes in as an argument.

The signed text is ``{webhook-id}.{webhook-timestamp}.{body}``; each active secret adds one
``v1,<base64 of HMAC-SHA256>`` to the header, the first secret first. A receiver accepts the
callback when any of them fits, so secrets rotate without a gap.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence


def sign(keys: Sequence[bytes], *, webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of one call.

    Args:
        keys: the active keys, the preferred one first.
        webhook_id: the same for every attempt of a delivery.
        timestamp: Unix seconds of this very call.
        body: exactly what is sent.
    """
    text = f"{webhook_id}.{timestamp}.".encode() + body
    signatures = (
        "v1," + base64.b64encode(hmac.digest(key, text, hashlib.sha256)).decode() for key in keys
    )
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }
