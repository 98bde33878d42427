"""The key of one spool file: beside it, wrapped by the configured key, destroyed once it drained.

The file's rows are sealed by it. When the last row has gone, a new key takes its place, and what
the database still holds of those rows opens by no key that exists.
"""

import contextlib
import os
from pathlib import Path
from typing import Final

from shared.errors import StoreDamagedError
from shared.sealing import Box, Sealer, Wrapped

SUFFIX: Final = "-key"
"""What the name of the key's file adds to the spool file's."""

_OWNER: Final = b"spool"


def make_key(spool_file: Path, sealer: Sealer) -> Box:
    """Give a spool file a new key, on disk before this returns; a former one is gone then.

    Raises:
        OSError: it cannot be written; a former key is still in force.
    """
    wrapped, box = sealer.make(_OWNER)
    path = _path(spool_file)
    fresh = path.with_name(f"{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, wrapped.by.encode() + b"\n" + wrapped.key)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return box


def read_key(spool_file: Path, sealer: Sealer) -> Box:
    """The key of a spool file.

    Raises:
        StoreDamagedError: there is none, or it is damaged.
        SealingKeyError: the key that wraps it is not configured.
        OSError: it cannot be read now.
    """
    with contextlib.suppress(FileNotFoundError):
        by, found, key = _path(spool_file).read_bytes().partition(b"\n")
        if found and key and by.isascii():
            try:
                return sealer.open(Wrapped(by.decode(), key), _OWNER)
            except ValueError as error:  # not of a key's length
                raise StoreDamagedError("the key is damaged") from error
    raise StoreDamagedError("the key is gone")


def _path(spool_file: Path) -> Path:
    return spool_file.with_name(spool_file.name + SUFFIX)
