"""Reading ``Retry-After`` (RFC 9110, section 10.2.3): seconds or an HTTP-date."""

from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

LONGEST: Final = 10 * 365 * 86_400.0
"""Seconds; what asks for more is taken as this. The policy's cap lies far below."""


def read_retry_after(text: str | None, *, now: int) -> float | None:
    """Seconds from `now` (Unix milliseconds) that the header asks for.

    None when it is absent or cannot be understood; 0 for a date in the past.
    """
    text = (text or "").strip()
    if text.isascii() and text.isdecimal():
        return min(float(text), LONGEST)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max(0.0, moment.timestamp() - now / 1000), LONGEST)
