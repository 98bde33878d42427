"""A clock that stands still until a test moves it."""


class ManualClock:
    """Wall clock and monotonic clock of one test; nobody waits on it."""

    def __init__(self, now: int) -> None:
        self._now = now

    def now(self) -> int:
        return self._now

    def monotonic(self) -> float:
        return self._now / 1000

    async def sleep(self, seconds: float) -> None:
        self.move(seconds)

    def move(self, seconds: float) -> None:
        self._now += round(seconds * 1000)
