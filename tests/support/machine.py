"""What of a machine a test may take away: disk, time, names. Needs root."""

import contextlib
import errno
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

SKEW = Path(__file__).parent / "skew"


class Disk:
    """A small file system in memory that can be filled up. Every user may look into it."""

    def __init__(self, *, mib: int) -> None:
        self._mib = mib
        self.folder = Path()

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise PermissionError("a disk of its own can only be mounted by root")
        self.folder = Path(tempfile.mkdtemp(prefix="correio-disk-"))
        options = f"size={self._mib}m,mode=0777"
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "correio-chaos", self.folder], check=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", self.folder], check=True)
        self.folder.rmdir()

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self) -> None:
        """Leave not a byte free."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1_048_576, 4_096):
                with contextlib.suppress(OSError):
                    while True:
                        if file.write(bytes(size)) < size:
                            break
        free = os.statvfs(self.folder)
        if free.f_bavail:
            raise OSError(errno.EEXIST, f"{free.f_bavail} blocks are still free")

    def relieve(self) -> None:
        """Give back what `fill` took."""
        self._ballast.unlink(missing_ok=True)

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Nothing is free for the length of the block."""
        self.fill()
        try:
            yield
        finally:
            self.relieve()


class Clock:
    """The wall clock of one process, apart from the machine's."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._set(0.0)

    @property
    def env(self) -> dict[str, str]:
        """What the process must have in its environment."""
        return {"CHAOS_CLOCK": str(self._file)}

    @contextlib.contextmanager
    def off_by(self, seconds: float) -> Iterator[None]:
        """It is wrong by that much for the length of the block."""
        self._set(seconds)
        try:
            yield
        finally:
            self._set(0.0)

    def _set(self, seconds: float) -> None:
        mode = "r+b" if self._file.exists() else "w+b"
        with self._file.open(mode) as file:
            file.write(struct.pack("q", round(seconds * 1e9)))


class Names:
    """A hosts file that only one process sees."""

    def __init__(self, file: Path, *names: str) -> None:
        self._file = file
        self._known = "".join(f"127.0.0.1 {name}\n" for name in ("localhost", *names))
        self._file.write_text(self._known)

    @property
    def prefix(self) -> list[str]:
        """What to start the process with."""
        return ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"',
                str(self._file)]  # fmt: skip

    @contextlib.contextmanager
    def forgotten(self) -> Iterator[None]:
        """No name resolves for the length of the block."""
        self._file.write_text("127.0.0.1 localhost\n")
        try:
            yield
        finally:
            self._file.write_text(self._known)
