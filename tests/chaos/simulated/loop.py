"""An event loop in virtual time, on which processes live, stand still and die.

The clock jumps to the next timer as soon as nothing is left to do, so a minute costs no more than
what happens in it. Every callback carries the context it was made in, and with it the life of the
process that made it: what belongs to a dead process is never run again, not even its ``finally``.
"""

import asyncio
import contextvars
import heapq
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

EPOCH = 1_700_000_000_000
"""Unix milliseconds at which every simulation begins."""


class DeadError(BaseException):
    """Raised at whoever still calls a port from beyond the grave, while its remains are cleared."""


class StuckError(Exception):
    """Nothing is left that could ever happen."""


class Life:
    """One run of one process, from its start to its end.

    Attributes:
        skew: milliseconds that its wall clock differs from the true one.
        steps_left: steps until it is killed; None for no end in sight.
        was_frozen: whether it has ever stood still.
        endings: called when it dies.
    """

    def __init__(self, loop: "SimLoop", name: str) -> None:
        self.loop = loop
        self.name = name
        self.dead = False
        self.skew = 0
        self.steps_left: int | None = None
        self.was_frozen = False
        self.on_spent: Callable[[], None] = lambda: None
        self.endings: list[Callable[[], None]] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.context = contextvars.copy_context()
        self.context.run(LIFE.set, self)
        self._held: deque[asyncio.Handle] = deque()
        self._held_until = 0.0

    def check(self) -> None:
        """Raise unless alive: ports call it first."""
        if self.dead:
            raise DeadError

    def spawn(self, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine within this process."""
        return self.loop.create_task(coro, context=self.context)

    def call(self, callback: Callable[..., object], *args: Any) -> None:
        """Let something from outside reach this process."""
        self.loop.call_soon(callback, *args, context=self.context)

    def stop_for(self, seconds: float) -> None:
        """Stand still, as after SIGSTOP; what arrives meanwhile waits."""
        self.was_frozen = True
        self._held_until = max(self._held_until, self.loop.time() + seconds)
        self.loop.later(self._held_until - self.loop.time(), self._go_on)

    def admits(self, handle: asyncio.Handle) -> bool:
        """Whether the process takes this step now."""
        if self.dead:
            return False
        if self.loop.time() < self._held_until:
            self._held.append(handle)
            return False
        if self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left < 0:
                self.steps_left = None
                self.on_spent()
                return not self.dead
        return True

    def die(self) -> None:
        """End at once: nothing of it runs any more, and the world takes note."""
        self.dead = True
        self._held.clear()
        for ending in self.endings:
            ending()

    def clear(self) -> None:
        """Close what is left of its coroutines, without an effect on anything."""
        sys.unraisablehook = lambda _told: None  # what is left of that is said to nobody
        for task in self.tasks:
            if task.done():
                continue
            task._log_destroy_pending = False
            coro = task.get_coro()
            for _ in range(20):
                try:
                    self.context.run(coro.close)
                except DeadError:
                    break
                except RuntimeError:  # it awaits something in its ``finally``
                    continue
                except BaseException:  # noqa: BLE001 - whatever a ghost says
                    break
                else:
                    break
        self.tasks.clear()

    def _go_on(self) -> None:
        if self.loop.time() >= self._held_until:
            held, self._held = self._held, deque()
            self.loop.put_back(held)


LIFE: contextvars.ContextVar[Life] = contextvars.ContextVar("life")


def current() -> Life:
    """The process that runs at present.

    Raises:
        DeadError: it has died; only its remains run.
    """
    life = LIFE.get()
    life.check()
    return life


class SimLoop(asyncio.BaseEventLoop):
    """Virtual time, and one step after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._outside = contextvars.Context()
        self.steps = 0
        self.failures: list[str] = []
        self.set_exception_handler(self._failed)

    def time(self) -> float:
        return self._now

    def later(self, seconds: float, callback: Callable[..., object], *args: Any) -> None:
        """Let the world outside of all processes do something."""
        self.call_at(self._now + seconds, callback, *args, context=self._outside)

    def put_back(self, handles: deque[asyncio.Handle]) -> None:
        """Run these before all else."""
        self._ready.extendleft(reversed(handles))

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Any = None
    ) -> asyncio.Task[Any]:
        life = (context or contextvars.copy_context()).get(LIFE)
        if life is not None and life.dead:
            coro.close()
            raise DeadError
        task = asyncio.Task(coro, loop=self, name=name or "sim", context=context)
        if life is not None:
            life.tasks.append(task)
        return task

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        if not ready:
            if not scheduled:
                raise StuckError
            self._now = max(self._now, scheduled[0]._when)
        while scheduled and scheduled[0]._when <= self._now:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False
            ready.append(timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            life = handle._context.get(LIFE)
            if life is None or life.admits(handle):
                self.steps += 1
                handle._run()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """They are dropped when their time comes."""

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        """What a dead process left half done stays half done."""

    def _failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, DeadError):
            self.failures.append(f"{context.get('message')}: {error!r}")

    def _make_socket_transport(self, *_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError

    def _write_to_self(self) -> None:
        """No thread ever wakes this loop."""

    def _process_events(self, event_list: Any) -> None:
        """No selector stands behind this loop."""


class SimClock:
    """`shared.clock.Clock` in virtual time, with the skew of the process that asks."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def now(self) -> int:
        return EPOCH + round(self._life.loop.time() * 1000) + self._life.skew

    def monotonic(self) -> float:
        return self._life.loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
