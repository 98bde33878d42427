"""Looking into the receivers' spool folder from outside, without touching it."""

from pathlib import Path
from typing import Any

import apsw
from msgspec import Struct

_TOTALS = """
SELECT coalesce(sum(events), 0), coalesce(sum(length(batch)), 0), min(received_at) FROM batches
"""


class SpoolMeasure(Struct, frozen=True):
    """What lies in all spool files together. `oldest_age` is in seconds, 0 for an empty spool."""

    events: int
    bytes: int
    oldest_age: float


def measure_spool(folder: Path, *, now: int) -> SpoolMeasure | None:
    """Sum up the spool files of a folder; None if it or one of them cannot be read.

    A receiver makes its folder when it starts: one that does not exist says nothing of the
    receivers, which may have disks of their own.
    """
    events = size = 0
    oldest: int | None = None
    try:
        paths = sorted(one for one in folder.iterdir() if one.match("spool-*.db"))
    except OSError:
        return None
    for path in paths:
        try:
            database = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
            try:
                database.set_busy_timeout(1000)
                totals: list[tuple[Any, ...]] = database.execute(_TOTALS).fetchall()
                ((some, length, since),) = totals
            finally:
                database.close()
        except apsw.Error:
            return None
        events, size = events + int(some), size + int(length)
        if since is not None:
            oldest = int(since) if oldest is None else min(oldest, int(since))
    return SpoolMeasure(events, size, 0.0 if oldest is None else max(0, now - oldest) / 1000)
