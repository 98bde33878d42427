"""Logs that stay small however long an outage lasts and however much comes in meanwhile.

What goes wrong goes wrong again and again. The first few lines of a kind are worth reading, the
next thousand are not: per kind only `BURST` lines are written in any `WINDOW`; the first line
after that tells in ``repeated`` how many were left out. Lines that stand for work done are no
complaints and are all written.
"""

import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final

import structlog
from msgspec import Struct

BURST: Final = 5
WINDOW: Final = 60.0
"""Seconds."""

KINDS_MAX: Final = 256
"""Kinds remembered at once; beyond them texts of errors count as one."""

COMPLAINTS: Final = frozenset({"warning", "error", "critical"})

REFUSALS: Final = frozenset({"request.refused", "batch.refused", "broker.session_ended"})
"""Lines that are no warnings, and come as often as somebody else likes."""

_KIND: Final = (
    "component", "event", "worker", "endpoint", "source", "reason", "status", "error_type", "path",
)  # fmt: skip


class _Seen(Struct):
    since: float
    count: int = 0


class Sparing:
    """A processor for structlog that drops what has been said often enough."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells seconds."""
        self._clock = clock
        self._seen: dict[tuple[str, ...], _Seen] = {}

    def __call__(
        self, _logger: Any, _method: str, fields: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Let a line pass, or drop it."""
        if fields.get("level") not in COMPLAINTS and fields.get("event") not in REFUSALS:
            return fields
        now = self._clock()
        seen = self._of(fields, now)
        if now - seen.since >= WINDOW:
            if seen.count > BURST:
                fields["repeated"] = seen.count - BURST
            seen.since, seen.count = now, 0
        seen.count += 1
        if seen.count > BURST:
            raise structlog.DropEvent
        return fields

    def _of(self, fields: MutableMapping[str, Any], now: float) -> _Seen:
        kind = tuple(str(fields.get(name, "")) for name in _KIND)
        told = (*kind, str(fields.get("error", "")))
        if told not in self._seen and len(self._seen) >= KINDS_MAX:
            self._forget(now)
            told = told if len(self._seen) < KINDS_MAX else (kind[0], kind[1])
        return self._seen.setdefault(told, _Seen(now))

    def _forget(self, now: float) -> None:
        """Forget what has not been said in this window."""
        self._seen = {kind: one for kind, one in self._seen.items() if now - one.since < WINDOW}
