"""One time limit for many waits, kept by one timer.

`asyncio.timeout` sets and cancels a timer for each wait, which costs more than most requests spend
on their checks. All waits here have the same limit, so they run out in the order they began.
"""

import asyncio
from collections import deque
from types import TracebackType
from typing import Self


class Deadline:
    """One wait; what awaits within it is cancelled when its time is over."""

    __slots__ = ("_cancelling", "_deadlines", "at", "over", "task")

    def __init__(self, deadlines: "Deadlines") -> None:
        self._deadlines = deadlines
        self._cancelling = 0
        self.at = 0.0
        self.over = False
        self.task: asyncio.Task[object] | None = None

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline is for a task")
        self.task, self._cancelling = task, task.cancelling()
        self._deadlines.begin(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        task, self.task = self.task, None
        self._deadlines.ended()
        if (
            self.over
            and task is not None
            and task.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
        ):
            raise TimeoutError from error


class Deadlines:
    """Waits of `seconds` each.

    ``with deadlines.limit(): await …`` raises TimeoutError when the time is over, and is as
    `asyncio.timeout` in all else.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._begun: deque[Deadline] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def limit(self) -> Deadline:
        """The limit of a wait that begins now."""
        return Deadline(self)

    def begin(self, one: Deadline) -> None:
        """Count the time of one."""
        loop = asyncio.get_running_loop()
        one.at = loop.time() + self._seconds
        self._begun.append(one)
        if self._timer is None:
            self._timer = loop.call_at(one.at, self._look)

    def ended(self) -> None:
        """Forget those that have ended, up to the first that has not."""
        begun = self._begun
        while begun and begun[0].task is None:
            begun.popleft()

    def _look(self) -> None:
        self._timer = None
        self.ended()
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._begun and self._begun[0].at <= now:
            one = self._begun.popleft()
            if one.task is not None:
                one.over = True
                one.task.cancel()
        if self._begun:
            self._timer = loop.call_at(self._begun[0].at, self._look)
