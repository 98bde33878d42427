"""When to stop asking the broker: after failures in a row it is skipped, and tried now and then."""


class Circuit:
    """Closed, every batch tries the broker. Open, only one attempt per interval does.

    Pure: time comes in as seconds of a monotonic clock.
    """

    def __init__(self, *, failures: int, interval: float) -> None:
        """Open after `failures` in a row; then allow one attempt per `interval` seconds."""
        self._limit = failures
        self._interval = interval
        self._failures = 0
        self._next_attempt = 0.0

    @property
    def open(self) -> bool:
        """Whether the broker is being skipped."""
        return self._failures >= self._limit

    def allows(self, now: float) -> bool:
        """Whether to try the broker now. While open, a yes is spent by asking."""
        if not self.open:
            return True
        if now < self._next_attempt:
            return False
        self._next_attempt = now + self._interval
        return True

    def succeeded(self) -> None:
        """The broker confirmed."""
        self._failures = 0

    def failed(self, now: float) -> None:
        """The broker did not confirm: in time, or at all."""
        self._failures += 1
        self._next_attempt = now + self._interval
