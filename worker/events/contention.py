"""Telling whether others wait for the processors that this process uses.

A worker behind its queue takes all the processor time that there is, and each of its turns keeps a
receiver or a broker on the same machine waiting for milliseconds. Weights (``CPUWeight``, ``nice``)
bound how much it takes and hardly how long it keeps others waiting; that only pauses do.

Linux tells each process how long it was ready to run and had to wait for a processor. On a machine
with room this is near nothing; where more wants to run than can, it is half of the time and more.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

CONTENDED: Final = 0.25
"""Share of the time that is spent waiting for a processor, from which on there are too few."""

INTERVAL: Final = 50_000_000
"""Nanoseconds of running and waiting from which a share is taken: of fewer it would be chance."""

_SCHEDSTAT = Path("/proc/self/schedstat")
_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")

Reading = tuple[int, int]
"""Nanoseconds that a thread has run so far, and that it has waited for a processor."""


def read_schedstat() -> Reading | None:
    """What Linux says of the main thread (``sched-stats.rst``); None where it says nothing."""
    try:
        ran, waited, _ = map(int, _SCHEDSTAT.read_bytes().split())
    except (OSError, ValueError):
        return None
    return ran, waited


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
    """Whether the processors are contended, from one reading to the next."""

    def __init__(self, read: Callable[[], Reading | None] = read_schedstat) -> None:
        """Where a quota bounds the process they never are; see `has_quota`."""
        self._read = read
        self._last = None if has_quota() else read()
        self._contended = False

    def __call__(self) -> bool:
        """Whether they are, over the last `INTERVAL` at least."""
        reading = self._read()
        if reading is None or self._last is None:
            return False
        ran, waited = (now - then for now, then in zip(reading, self._last, strict=True))
        if ran + waited >= INTERVAL:
            self._last = reading
            self._contended = waited > CONTENDED * (ran + waited)
        return self._contended
