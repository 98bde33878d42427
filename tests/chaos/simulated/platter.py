"""Under SQLite: every write and sync of a real file, which may fail, and be lost with the power.

What was written since a file's last sync is not on disk yet. When the power goes, any part of it
is lost in any order, whole or torn at a sector, as disks do.
"""

import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw

SECTOR = 512
BASE = "unix"


class Image:
    """What a file's writes since its last sync have replaced, latest last."""

    def __init__(self) -> None:
        self.writes: list[tuple[int, bytes, bytes]] = []
        self.sizes: list[int] = []

    def synced(self) -> None:
        """All of it is on disk now."""
        self.writes.clear()
        self.sizes.clear()

    def after_power_loss(self, content: bytes, chance: random.Random) -> bytes:
        """What is left of the file's content."""
        left = bytearray(content)
        for (offset, before, data), size in zip(
            reversed(self.writes), reversed(self.sizes), strict=True
        ):
            if len(left) < offset + len(data):
                left.extend(bytes(offset + len(data) - len(left)))
            left[offset : offset + len(before)] = before
            del left[size:]
        for offset, _, data in self.writes:
            fate = chance.random()
            if fate < 0.4:
                continue
            kept = (
                data if fate < 0.8 else data[: SECTOR * chance.randrange(1 + len(data) // SECTOR)]
            )
            if len(left) < offset:
                left.extend(bytes(offset - len(left)))
            left[offset : offset + len(kept)] = kept
        return bytes(left)


class Platter(apsw.VFS):
    """The disk that all of SQLite's files lie on, of one simulation after the other."""

    def __init__(self) -> None:
        super().__init__("simulated", BASE, makedefault=True)
        self.begin(lambda _path: None, remembers=False)

    def begin(self, fault: Callable[[str], Exception | None], *, remembers: bool) -> None:
        """Start anew.

        `fault` says what keeps a write or sync of a path from being done. Without `remembers`
        the power cannot be lost.
        """
        self.remembers = remembers
        self.images: dict[str, Image] = {}
        self.fault = fault

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        return PlatterFile(self, name, flags)

    def lose_power(self, chance: random.Random, end: Callable[[], object]) -> None:
        """Lose what was not synced; `end` ends everything that has a file open."""
        left = dict(self._left(chance))
        fault, self.fault = self.fault, lambda _path: None
        end()
        self.fault = fault
        for path, content in left.items():
            path.write_bytes(content)
            path.with_name(path.name + "-shm").unlink(missing_ok=True)
        self.images.clear()

    def _left(self, chance: random.Random) -> Iterator[tuple[Path, bytes]]:
        for name, image in self.images.items():
            path = Path(name)
            if path.exists():
                yield path, image.after_power_loss(path.read_bytes(), chance)


@functools.cache
def platter() -> Platter:
    """The one of this process: from the first call on, all of SQLite's files lie on it."""
    return Platter()


class PlatterFile(apsw.VFSFile):
    """One open file."""

    def __init__(self, platter: Platter, name: Any, flags: list[int]) -> None:
        super().__init__(BASE, name, flags)
        self._platter = platter
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        self._image = platter.images.setdefault(self._path, Image())

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        fault = self._platter.fault(self._path)
        if fault is not None:
            raise fault
        if self._platter.remembers:
            size = super().xFileSize()
            before = super().xRead(min(len(data), size - offset), offset) if size > offset else b""
            self._image.writes.append((offset, before, bytes(data)))
            self._image.sizes.append(size)
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802 - SQLite's name
        super().xTruncate(size)
        self._image.synced()

    def xSync(self, _flags: int) -> None:  # noqa: N802 - SQLite's name
        fault = self._platter.fault(self._path)
        if fault is not None:
            raise fault
        self._image.synced()
