"""How many attempts an endpoint gets at once: pure, times in Unix milliseconds.

An answer of 429, 502, 503 or 504 halves the number and, with ``Retry-After``, stops it for a
while; each success brings it slowly back (additive increase, multiplicative decrease).
"""

from msgspec import Struct, structs


class Pace(Struct, frozen=True):
    """The present pace of one endpoint.

    Attributes:
        most: attempts at once that the configuration allows.
        limit: attempts at once that the endpoint bears, as far as we know.
        not_before: no attempt starts before then.
    """

    most: int
    limit: float
    not_before: int = 0

    @property
    def slots(self) -> int:
        """Attempts that may be in flight together."""
        return max(1, int(self.limit))


def fresh(most: int) -> Pace:
    """The pace of an endpoint of which nothing bad is known."""
    return Pace(most, float(most))


def sped_up(pace: Pace) -> Pace:
    """After a success: one more for as many successes as there are slots."""
    return structs.replace(pace, limit=min(float(pace.most), pace.limit + 1 / pace.limit))


def slowed_down(pace: Pace, *, now: int, pause: float) -> Pace:
    """After an answer that asks for less; `pause` in seconds."""
    return structs.replace(
        pace,
        limit=max(1.0, pace.limit / 2),
        not_before=max(pace.not_before, now + round(pause * 1000)),
    )


def put_right(pace: Pace, *, now: int, longest: float) -> Pace:
    """Over is a pause that would last for more than `longest` seconds: the clock was put back."""
    if pace.not_before > now + round(longest * 1000):
        return structs.replace(pace, not_before=now)
    return pace
