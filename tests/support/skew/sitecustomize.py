"""Sets the wall clock of a process apart from the machine's, by what a file says, at any moment.

It lies on the PYTHONPATH of processes whose clock a test moves. The file named by ``CHAOS_CLOCK``
holds the offset in nanoseconds as eight bytes. The monotonic clock is left alone, as it is when
somebody sets the time of a machine.
"""

import mmap
import os
import struct
import time

_NAMED = os.environ.get("CHAOS_CLOCK")

if _NAMED is not None:
    with open(_NAMED, "rb") as _file:  # noqa: PTH123 - nothing is imported before it is needed
        _offset = mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)
    _real = time.time_ns

    def _time_ns() -> int:
        return _real() + struct.unpack("q", _offset[:8])[0]

    def _time() -> float:
        return _time_ns() / 1e9

    time.time_ns, time.time = _time_ns, _time
