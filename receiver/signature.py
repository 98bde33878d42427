"""The source's signature: lower-case hex HMAC-SHA256 of the raw bytes of the body."""

import hmac
from collections.abc import Sequence

HEADER = "X-Klavi-Signature"


def sign(body: bytes, key: bytes) -> str:
    """What the source sends in `HEADER` for this body."""
    return hmac.digest(key, body, "sha256").hex()


def verify(body: bytes, signature: str, keys: Sequence[bytes]) -> bool:
    """Whether `signature` was made over exactly these bytes with one of the keys.

    Every key is tried and every comparison takes the same time, so that the time of the answer
    tells neither how much of a guess was right nor which key is in use.
    """
    given = signature.encode("utf-8", "surrogateescape")
    found = False
    for key in keys:
        found |= hmac.compare_digest(given, sign(body, key).encode())
    return found
