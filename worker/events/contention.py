"""Telling whether others wait for the processors that this process uses.

A worker behind its queue takes all the processor time that there is, and each of its turns keeps a
receiver or a broker on the same machine waiting for milliseconds. Weights (``CPUWeight``, ``nice``)
bound how much it takes and hardly how long it keeps others waiting; that only pauses do.

Linux tells each process how long it was ready to run and had to wait for a processor. On a machine
with room this is a small part of the time that the work took; where more wants to run than can, it
is nearly half.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

CONTENDED: Final = 0.22
"""Share of the time at work that is spent waiting for a processor, from which on there are too few.

Of the time at work: a worker that rests runs little, and waits a little for its own threads."""

INTERVAL: Final = 0.05
"""Seconds at work from which a share is taken: of fewer it would be chance."""

_SCHEDSTAT = Path("/proc/self/schedstat")
_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")


def read_waited() -> float | None:
    """Seconds that the main thread has waited for a processor so far (Linux, ``sched-stats.rst``).

    None where the kernel does not tell.
    """
    try:
        _, waited, _ = map(int, _SCHEDSTAT.read_bytes().split())
    except (OSError, ValueError):
        return None
    return waited / 1e9


def has_quota(cgroup: Path = _CGROUP, cgroups: Path = _CGROUPS) -> bool:
    """Whether a quota bounds this process's processor time (``cpu.max`` of cgroup v2).

    It keeps others from waiting by itself, and what is held back by it looks as if it waited for
    them.
    """
    try:
        _, _, path = cgroup.read_text().strip().rpartition("::")
        return not (cgroups / path.lstrip("/") / "cpu.max").read_text().startswith("max")
    except (OSError, ValueError):
        return False


class Contention:
    """Whether the processors are contended, from one piece of work to the next."""

    def __init__(self, read: Callable[[], float | None] = read_waited) -> None:
        """Where a quota bounds the process they never are; see `has_quota`."""
        self._read = read
        self._last = None if has_quota() else read()
        self._worked = 0.0
        self._contended = False

    def __call__(self, worked: float) -> bool:
        """Whether they are, after so many seconds more at work."""
        waited = self._read() if self._last is not None else None
        if waited is None or self._last is None:
            return False
        self._worked += worked
        if self._worked >= INTERVAL:
            self._contended = waited - self._last > CONTENDED * self._worked
            self._last, self._worked = waited, 0.0
        return self._contended
