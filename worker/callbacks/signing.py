"""Signatures of Standard Webhooks 1.0.0: pure, the time comes in as an argument.

The signed text is ``{webhook-id}.{webhook-timestamp}.{body}``; each active secret adds one
``v1,<base64 of HMAC-SHA256>`` to the header, the first secret first. A receiver accepts the
callback when any of them fits, so secrets rotate without a gap.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

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
