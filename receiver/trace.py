"""W3C trace context (level 1): taken over from the caller, or begun here."""

import re
from typing import Final

_VALID = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_TRACE_BYTES = 16

TRACE_ENTROPY: Final = 24
"""Random bytes that a new traceparent takes."""


def is_traceparent(text: str) -> bool:
    """Whether `text` is a version 00 ``traceparent`` that others would accept."""
    return _VALID.fullmatch(text) is not None


def new_traceparent(entropy: bytes, *, sample_ratio: float = 0.0) -> str:
    """A traceparent made of `TRACE_ENTROPY` random bytes.

    `sample_ratio` is the share of traces that are marked as sampled; the trace id decides which,
    as OpenTelemetry has it.
    """
    chance = int.from_bytes(entropy[_TRACE_BYTES - 8 : _TRACE_BYTES])
    flags = "01" if chance < sample_ratio * 2**64 else "00"
    return f"00-{entropy[:_TRACE_BYTES].hex()}-{entropy[_TRACE_BYTES:TRACE_ENTROPY].hex()}-{flags}"
