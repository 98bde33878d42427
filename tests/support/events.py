"""The documented events, and variations of them, for tests."""

import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

FOLDER = Path(__file__).parents[1] / "data" / "events"
APP = "12345678"
LINK = "ed812-81fcec-7ec55-7aa7d29-2a3188b75"
CONSENT = "at932-61fc6c-0ec02-9fa7d29-2b3188b78"
REQUEST = "766fe4dfe1a8"
EPOCH = 1_656_187_697_848
"""eventTime of every documented example, in Unix milliseconds."""

NAMES = tuple(path.stem[3:] for path in sorted(FOLDER.glob("*.json")))


def raw_batch(name: str) -> bytes:
    """The documented batch that holds this event, byte for byte."""
    (path,) = FOLDER.glob(f"*_{name}.json")
    return path.read_bytes().rstrip(b"\n")


def raw(name: str) -> bytes:
    """The documented event itself, byte for byte: the batch without its brackets."""
    return raw_batch(name)[1:-1]


def example(name: str) -> dict[str, Any]:
    """The documented event as a dictionary of the caller's own."""
    event: dict[str, Any] = copy.deepcopy(orjson.loads(raw(name)))
    return event


def iso(milliseconds: int) -> str:
    """A time as the source writes it."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def event(
    name: str,
    *,
    at: int = 0,
    event_id: str | None = None,
    app: str = APP,
    **payload: Any,
) -> dict[str, Any]:
    """A documented event with a time (ms after `EPOCH`) and an id of its own.

    Keywords replace members of the payload, or of `consents` and `requestBody` inside it.
    """
    made = example(name)
    made["eventTime"] = iso(EPOCH + at)
    made["eventId"] = event_id or f"{name}-{at}"
    made["partnerAppId"] = app
    for member, value in payload.items():
        inner = made["payload"].get("consents") or made["payload"].get("requestBody") or {}
        place = inner if member in inner and member != "linkId" else made["payload"]
        if member == "linkId" and "requestBody" in made["payload"]:
            place = made["payload"]["requestBody"]
        place[member] = value
    return made


def dump(made: Any) -> bytes:
    """As the source would send it."""
    return orjson.dumps(made)
