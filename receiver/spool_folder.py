"""The folder of the spool files: each file has one living owner, and knows when it has none.

A process owns a file by an exclusive ``flock`` on the lock file beside it, which the kernel lets
go when the process ends, however it ends. What nobody owns may be adopted.

| Name | What it is |
|---|---|
| ``spool-<id>.db`` with ``-wal`` and ``-shm`` | a spool file (SQLite) |
| ``spool-<id>.db-key`` | its key, wrapped |
| ``spool-<id>.lock`` | its lock |
| ``damaged-<time>-<id>.db`` with ``-wal`` and ``-key`` | a damaged file, put aside for a human |
| ``damaged-<time>-<id>.lock`` | its lock, there until what can be read has been moved elsewhere |
"""

import datetime as dt
import fcntl
import os
from collections.abc import Container
from pathlib import Path
from typing import Final

from shared.ids import new_id

_PREFIX: Final = "spool-"
_DAMAGED: Final = "damaged-"
_SIDE_FILES: Final = ("-wal", "-shm", "-journal", "-key", "-key.new")


class OwnedPath:
    """The path of a spool file that this process owns until `release`, `remove` or its end."""

    def __init__(self, path: Path, lock: int) -> None:
        """`lock` is the descriptor that holds the lock."""
        self.path = path
        self._lock = lock

    def release(self) -> None:
        """Leave the file to whoever comes next."""
        os.close(self._lock)

    def remove(self) -> None:
        """Delete the file, which must be closed, and give up owning it."""
        for path in _all_parts(self.path):
            path.unlink(missing_ok=True)
        self._unlock()

    def put_aside(self, *, now: int) -> "OwnedPath":
        """Rename the damaged file, which must be closed; it is owned under its new name.

        `now` in Unix milliseconds becomes part of the name.
        """
        time = dt.datetime.fromtimestamp(now / 1000, tz=dt.UTC)
        name = self.path.name.removeprefix(_PREFIX)
        aside = self.path.with_name(f"{_DAMAGED}{time:%Y%m%dT%H%M%SZ}-{name}")
        owned = _claim(aside)
        if owned is None:
            raise FileExistsError(aside)
        for path in _all_parts(self.path):
            if path.exists():
                path.rename(aside.with_name(aside.name + path.name.removeprefix(self.path.name)))
        self._unlock()
        return owned

    def leave(self) -> None:
        """Give up owning the file for good: nobody needs to look after it any more."""
        self._unlock()

    def _unlock(self) -> None:
        _lock_path(self.path).unlink(missing_ok=True)
        self.release()


def claim_new(folder: Path) -> OwnedPath:
    """Own a path at which no file exists yet.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{_PREFIX}{new_id()}.db"
    owned = _claim(path)
    if owned is None:
        raise FileExistsError(path)
    return owned


def claim_unowned(folder: Path, *, without: Container[Path] = ()) -> OwnedPath | None:
    """Own the oldest file that no living process owns; None when there is none but `without`.

    Raises:
        OSError: the folder cannot be read or written.
    """
    for path in sorted(folder.glob(f"{_PREFIX}*.db")):
        if path in without:
            continue
        owned = _claim(path)
        if owned is not None and path.exists():
            return owned
        if owned is not None:  # its owner removed it just before
            owned.remove()
    return None


def claim_damaged(folder: Path) -> OwnedPath | None:
    """Own a damaged file of which nobody has moved elsewhere what can be read; None without any.

    Raises:
        OSError: the folder cannot be read or written.
    """
    for lock_path in sorted(folder.glob(f"{_DAMAGED}*.lock")):
        owned = _claim(lock_path.with_suffix(".db"))
        if owned is not None and owned.path.exists():
            return owned
        if owned is not None:  # its owner ended before it was renamed
            owned.leave()
    return None


def _claim(path: Path) -> OwnedPath | None:
    lock_path = _lock_path(path)
    lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except OSError:
        os.close(lock)
        raise
    if not _is_same(lock, lock_path):  # removed and perhaps made anew while we opened it
        os.close(lock)
        return None
    return OwnedPath(path, lock)


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def _all_parts(path: Path) -> list[Path]:
    return [path, *(path.with_name(path.name + side) for side in _SIDE_FILES)]
