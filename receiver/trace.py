"""W3C trace context (level 1), begun here for a batch that brings none of its own."""

from typing import Final

_TRACE_BYTES = 16

TRACE_ENTROPY: Final = 24
"""Random bytes that a new traceparent takes."""


def new_traceparent(entropy: bytes, *, sample_ratio: float = 0.0) -> str:
    """A traceparent made of `TRACE_ENTROPY` random bytes.

    `sample_ratio` is the share of traces that are marked as sampled; the trace id decides which,
    as OpenTelemetry has it.
    """
    chance = int.from_bytes(entropy[_TRACE_BYTES - 8 : _TRACE_BYTES])
    flags = "01" if chance < sample_ratio * 2**64 else "00"
    return f"00-{entropy[:_TRACE_BYTES].hex()}-{entropy[_TRACE_BYTES:TRACE_ENTROPY].hex()}-{flags}"
