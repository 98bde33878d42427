"""What the demo plays: the ten documented events as one story in which each changes something.

A user connects one bank account, with three consents, and a report is ordered:

| Consent | Its events, oldest first | Ends as |
|---|---|---|
| first | error, authorised (a retry), revoked | REVOKED |
| second | rejected | REJECTED |
| third | expired, deleted by the user | DELETED_BY_USER |

The documented bodies are kept except for what must differ: event ids, event times, the ids of
link, consents and request, and the product that fails (in the documentation it is the one that
succeeds, which would hide the failure).

What must come of it is written here by hand, from the rules of the provider's documentation; no
code that is under test takes part in it.
"""

import hashlib
import hmac
import random
import time
from pathlib import Path
from typing import Any

import orjson
from msgspec import Struct

EVENTS = Path(__file__).resolve().parents[2] / "tests" / "data" / "events"

LINK = "link-1"
FIRST, SECOND, THIRD = "consent-1", "consent-2", "consent-3"
REQUEST = "request-1"

REPEATS = 3
"""How often the source sends each event."""

# (documented event, what it is about) in the order in which they happened, a minute apart
_STORY: tuple[tuple[str, str], ...] = (
    ("01_link_created", LINK),
    ("03_consent_error", FIRST),
    ("02_consent_authorised", FIRST),
    ("04_consent_rejected", SECOND),
    ("05_consent_expired", THIRD),
    ("08_product_request_received", REQUEST),
    ("09_product_generated_success", REQUEST),
    ("10_product_generated_failed", REQUEST),
    ("06_consent_revoked", FIRST),
    ("07_consent_deleted_by_user", THIRD),
)
_FAILED_PRODUCT = "pf_credit_card"


class Final(Struct, frozen=True):
    """How an aggregate must end.

    Attributes:
        state: members of ``correio state … --json`` that must have exactly these values.
        told: callback types of which at least one must come.
        may_tell: callback types of which, depending on the order of arrival, some may come.
    """

    aggregate: tuple[str, str]
    state: dict[str, Any]
    told: tuple[str, ...]
    may_tell: tuple[str, ...] = ()


EXPECTED: tuple[Final, ...] = (
    Final(
        ("link", LINK),
        {"status": "CREATED", "consents": [FIRST, SECOND, THIRD]},
        told=("link.created",),
    ),
    Final(
        ("consent", FIRST),
        {
            "status": "REVOKED",
            "conflict": False,
            "linkId": LINK,
            "permissionsGranted": ["REGISTRATION_ALL", "ACCOUNTS_ALL"],
        },
        told=("consent.revoked",),
        may_tell=("consent.error", "consent.authorised", "consent.updated"),
    ),
    Final(
        ("consent", SECOND),
        {"status": "REJECTED", "conflict": False, "linkId": LINK, "permissionsGranted": []},
        told=("consent.rejected",),
    ),
    Final(
        ("consent", THIRD),
        {"status": "DELETED_BY_USER", "conflict": False},
        told=("consent.deleted",),
        may_tell=("consent.expired",),
    ),
    Final(
        ("product_request", REQUEST),
        {
            "status": "COMPLETE",
            "products": {
                "pf_checking_account": {"status": "SUCCEEDED", "successes": 1, "failures": 0},
                "pf_credit_card": {
                    "status": "FAILED",
                    "successes": 0,
                    "failures": 1,
                    "failureReason": "no checking account",
                },
            },
        },
        told=(
            "product_request.received",
            "product.succeeded",
            "product.failed",
            "product_request.completed",
        ),
    ),
)


def events() -> list[dict[str, Any]]:
    """The ten events, oldest first, each with an id and a time of its own."""
    first = int(time.time()) - len(_STORY) * 60
    return [_event(n, name, about, first + n * 60) for n, (name, about) in enumerate(_STORY)]


def _event(number: int, name: str, about: str, at: int) -> dict[str, Any]:
    event: dict[str, Any] = orjson.loads((EVENTS / f"{name}.json").read_bytes())[0]
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
    event |= {"eventId": f"demo-{number + 1:02}", "eventTime": f"{moment}.000Z"}
    payload = event["payload"]
    if "linkId" in payload:
        payload["linkId"] = LINK
    if "consents" in payload:
        payload["consents"]["consentId"] = about
    if "requestId" in payload:
        payload["requestId"] = about
    if "requestBody" in payload:
        payload["requestBody"] |= {"linkId": LINK, "consentIds": [FIRST]}
    if name == "10_product_generated_failed":
        payload["product"] = _FAILED_PRODUCT
    return event


def batches(played: list[dict[str, Any]], *, seed: int) -> list[list[dict[str, Any]]]:
    """Every event `REPEATS` times, shuffled, cut into batches of one to five."""
    order = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    copies = [event for event in played for _ in range(REPEATS)]
    order.shuffle(copies)
    cut: list[list[dict[str, Any]]] = []
    while copies:
        size = order.randint(1, 5)
        cut.append(copies[:size])
        copies = copies[size:]
    return cut


def signed(batch: list[dict[str, Any]], secret: str) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of one request, as the provider documents them."""
    body = orjson.dumps(batch)
    headers = {
        "Content-Type": "application/json",
        "X-Klavi-Signature": hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(),
        "X-Klavi-Timestamp": str(int(time.time())),
    }
    return body, headers
