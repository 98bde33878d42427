"""The events that every side gets: shaped as the documented ones, about 600 bytes each.

Users come and go side by side: of each, a link, a consent, an order of a product and what came of
it. One event in twenty overtakes the one before it, one in fifty comes twice.
"""

import hashlib
import hmac
import random
from collections.abc import Iterator
from typing import Any

from tests.support import events as ev

SECRET = "benchmark secret"
PATH = "/v1/webhooks/klavi"
SIDE_BY_SIDE = 200
LATE = 0.05
TWICE = 0.02
STORY = (
    "link_created", "consent_authorised", "product_request_received",
    "product_generated_success", "consent_revoked",
)  # fmt: skip


def events(count: int, *, seed: int = 1) -> list[bytes]:
    """That many events, the same ones for the same seed."""
    chance = random.Random(seed)
    stories = [_story(chance) for _ in range(SIDE_BY_SIDE)]
    made: list[bytes] = []
    while len(made) < count:
        at = chance.randrange(SIDE_BY_SIDE)
        one = next(stories[at], None)
        if one is None:
            stories[at] = _story(chance)
            continue
        made.append(one)
        if chance.random() < TWICE:
            made.append(one)
    return made[:count]


def _story(chance: random.Random) -> Iterator[bytes]:
    """What happens to one user, in the order in which it is sent."""
    link, consent, wish = (f"{chance.getrandbits(112):028x}" for _ in range(3))
    members: dict[str, dict[str, Any]] = {
        "link_created": {"linkId": link},
        "consent_authorised": {"linkId": link, "consentId": consent},
        "product_request_received": {
            "linkId": link, "requestId": wish, "consentIds": [consent],
        },
        "product_generated_success": {"requestId": wish},
        "consent_revoked": {"linkId": link, "consentId": consent},
    }  # fmt: skip
    began = chance.randrange(10**9)
    made = []
    for number, name in enumerate(STORY):
        event_id = f"{chance.getrandbits(52):013d}-{chance.getrandbits(96):024x}"
        one = ev.event(name, at=began + number * 1000, event_id=event_id, **members[name])
        made.append(ev.dump(one))
    if chance.random() < LATE * len(STORY):
        at = chance.randrange(len(made) - 1)
        made[at], made[at + 1] = made[at + 1], made[at]
    yield from made


def batches(made: list[bytes], size: int) -> list[bytes]:
    """The bodies of requests that carry the events, in order."""
    return [
        b"[" + b",".join(made[start : start + size]) + b"]" for start in range(0, len(made), size)
    ]


def signature(body: bytes) -> str:
    return hmac.digest(SECRET.encode(), body, hashlib.sha256).hex()


def request(body: bytes, *, path: str = PATH) -> bytes:
    """The bytes of one signed request."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nX-Klavi-Signature: {signature(body)}\r\n\r\n"
    ).encode() + body
