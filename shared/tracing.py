"""Spans for OpenTelemetry, an optional extra: ``pip install 'correio[otel]'``.

What is worth a span is over when it is told: a batch accepted, an event stored, an attempt made.
A span is therefore made whole from its two ends, beneath the ``traceparent`` (W3C Trace Context)
that came with the batch and travels with everything it leads to. Only sampled traces are told;
whoever begins a trace decides that.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, Protocol

from msgspec import Struct

from shared.config import TelemetryConfig
from shared.errors import ConfigError

CLOSE_TIMEOUT: Final = 1.0
"""Seconds that the last spans may cost a process that ends."""

Kind = Literal["server", "consumer", "client"]
Attribute = str | int | float | bool

_VALID = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_SAMPLED = 1
_FLAGS = slice(-2, None)
_TRACE = slice(3, 35)
_PARENT = slice(36, 52)


class Span(Struct, frozen=True):
    """Something that is over. Times are Unix milliseconds.

    Attributes:
        traceparent: what it belongs beneath.
        attributes: by name; one that is None is left out. They name no person: the same rule as
            for log lines.
    """

    name: str
    kind: Kind
    traceparent: str
    began: int
    ended: int
    attributes: Mapping[str, Attribute | None]
    failed: bool = False


class Exporter(Protocol):
    """Takes spans that have ended."""

    def export(self, span: Span) -> None:
        """Take one span. Never waits and never raises."""
        ...

    def close(self) -> None:
        """Send what is left, for `CLOSE_TIMEOUT` at most; then it is dropped."""
        ...


_exporters: list[Exporter] = []
"""None, or the one of this process."""


def configure_tracing(config: TelemetryConfig, *, role: str) -> None:
    """Export this process's spans if ``telemetry.otlp_endpoint`` is set.

    Raises:
        ConfigError: it is set, and the extra is not installed.
    """
    close_tracing()
    if not config.otlp_endpoint:
        return
    try:
        from shared.otel import OtlpExporter  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise ConfigError(
            f"telemetry.otlp_endpoint is set but {error.name} is missing: "
            "install Correio with its extra otel"
        ) from None
    _exporters.append(OtlpExporter(config.otlp_endpoint, role=role))


def close_tracing() -> None:
    """Send what is left and stop."""
    while _exporters:
        _exporters.pop().close()


def is_traceparent(text: str) -> bool:
    """Whether `text` is a version 00 ``traceparent`` that others would accept."""
    return _VALID.fullmatch(text) is not None


def trace_id(traceparent: str) -> str | None:
    """The trace id, as log lines show it; None without a traceparent."""
    return traceparent[_TRACE] or None


def is_sampled(traceparent: str) -> bool:
    """Whether somebody wants to see this trace, and we export at all.

    What came with a foreign message may be no traceparent: nothing is told of it then.
    """
    if not _exporters or not is_traceparent(traceparent):
        return False
    return bool(int(traceparent[_FLAGS], 16) & _SAMPLED)


def record(span: Span) -> None:
    """Tell of something that is over, if its trace is sampled."""
    if is_sampled(span.traceparent):
        for exporter in _exporters:
            exporter.export(span)


def ids(traceparent: str) -> tuple[int, int]:
    """Trace id and parent span id of a valid traceparent."""
    return int(traceparent[_TRACE], 16), int(traceparent[_PARENT], 16)


def known(attributes: Mapping[str, Attribute | None]) -> dict[str, Any]:
    """The attributes that have a value, under our prefix."""
    return {f"correio.{name}": value for name, value in attributes.items() if value is not None}
