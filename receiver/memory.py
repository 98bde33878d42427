"""Memory of large bodies goes back to the system as soon as they are done with."""

import ctypes
from typing import Final

_M_MMAP_THRESHOLD: Final = -3
LARGE_BYTES: Final = 131_072


def return_large_blocks() -> bool:
    """Fix the size from which the C library maps a block of its own; False where it cannot.

    glibc raises that size to that of the largest block freed so far. After one body of some
    megabytes all others would come from the heap, where a single small block behind them keeps
    them from being given back.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES) == 1
