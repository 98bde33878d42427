"""The disk: real SQLite on real files, run in virtual time, failing as the seed has it.

Each database keeps the order of its one owner thread: what was asked for is done one after the
other, and to its end even when nobody waits for it any more. A process that dies takes along only
what it had not committed.
"""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import apsw

from receiver import spool_folder
from shared.errors import StoreConflictError
from shared.store.database import SqliteDatabase, translated
from tests.chaos.simulated.loop import SimLoop, current
from tests.chaos.simulated.weather import Weather

LATENCY = 0.0005
"""Seconds that a call to a database takes, typically."""

AGAIN = 0.004
"""Seconds until a lock that another process holds is tried again."""

T = TypeVar("T")


class SimDisk:
    """All databases of the simulated machines, and what ails them at present."""

    def __init__(self, loop: SimLoop, weather: Weather) -> None:
        self.loop = loop
        self.weather = weather
        self.away_until = 0.0
        self.store_full_until = 0.0
        self.damaged_until = 0.0
        self.full_until = 0.0

    def free_bytes(self, _folder: Path) -> Any:
        """What ``shutil.disk_usage`` says."""
        return SimpleNamespace(free=0 if self.loop.time() < self.full_until else 10**12)

    def fault_before(self, *, spool: bool, conflicts: bool) -> Exception | None:
        """What keeps a call from being done at all."""
        return self._spool_fault() if spool else self._store_fault(conflicts=conflicts)

    def _spool_fault(self) -> Exception | None:
        if self.weather.strikes("spool misread"):
            return apsw.CorruptError("simulated")
        if self.loop.time() < self.full_until or self.weather.strikes("spool disk full"):
            return apsw.FullError("simulated")
        return apsw.IOError("simulated") if self.weather.strikes("spool disk failing") else None

    def _store_fault(self, *, conflicts: bool) -> Exception | None:
        now = self.loop.time()
        if now < self.away_until or self.weather.strikes("store unavailable"):
            return apsw.CantOpenError("simulated")
        if now < self.damaged_until:
            return apsw.CorruptError("simulated")
        if now < self.store_full_until:
            return apsw.FullError("simulated")
        if conflicts and self.weather.strikes("store conflict"):
            return StoreConflictError("simulated")
        return None

    def fault_after(self, *, spool: bool) -> Exception | None:
        """What keeps the answer to a call that was done."""
        lost = not spool and self.weather.strikes("store answer lost")
        return apsw.IOError("simulated") if lost else None

    def write_fault(self, path: str) -> Exception | None:
        """What keeps a write or a sync of a file from being done, deep within SQLite."""
        if "store.db" in path:
            return apsw.IOError("simulated") if self.weather.strikes("store write fails") else None
        if path.endswith("-wal") and self.weather.strikes("spool write fails"):
            return self.weather.one_of([apsw.IOError, apsw.FullError])("simulated")
        return None

    async def aside(self, work: Callable[..., T], *values: Any) -> T:
        """What stands in for ``asyncio.to_thread``."""
        life = current()
        await asyncio.sleep(self.weather.latency(LATENCY))
        life.check()
        return work(*values)

    def latency(self, *, spool: bool) -> float:
        """Seconds that the next call takes."""
        if self.weather.strikes("spool slow" if spool else "store slow"):
            return self.weather.between(0.05, 4.0 if spool else 1.0)
        return self.weather.latency(LATENCY)


class Job:
    """One call, waiting for its turn."""

    def __init__(
        self, work: Callable[[], Any], ended: asyncio.Future[Any], *, until: float, name: str
    ) -> None:
        self.work = work
        self.ended = ended
        self.until = until
        self.name = name


class SimDatabase(SqliteDatabase):
    """The owner of one connection, without a thread."""

    disk: SimDisk

    def __init__(
        self,
        path: Path,
        *,
        busy_timeout: float,
        checkpoints_beside: bool = False,  # noqa: ARG002 - in vain, there is no thread; see `_open`
    ) -> None:
        self.path = path
        self._checkpoints_beside, self._checkpoints = False, None
        self._patience = busy_timeout
        self._busy_timeout = 0.0  # nobody may block: what is locked is tried again later
        self._connection: apsw.Connection | None = None
        self._life = current()
        self._spool = path.name.startswith("spool-")
        self._jobs: deque[Job] = deque()
        self._name = ""
        self._life.endings.append(self._lost)

    def shutdown(self) -> None:
        """There is no thread to end."""
        current()

    async def run(self, work: Callable[[apsw.Connection], T]) -> T:
        """As the real one does."""
        self._name = work.__name__
        return await super().run(work)

    async def _call(self, work: Callable[[], T]) -> T:
        self._life.check()
        loop = self.disk.loop
        with translated():
            ended: asyncio.Future[Any] = loop.create_future()
            until = loop.time() + self._patience
            self._jobs.append(Job(work, ended, until=until, name=self._name))
            self._name = ""
            if len(self._jobs) == 1:
                self._schedule(self.disk.latency(spool=self._spool))
            result: T = await asyncio.shield(ended)
            return result

    def _schedule(self, seconds: float) -> None:
        self.disk.loop.call_later(seconds, self._next, context=self._life.context)

    def _next(self) -> None:
        job = self._jobs[0]
        try:
            result = self._perform(job)
        except apsw.BusyError as error:
            if self.disk.loop.time() < job.until:
                self._schedule(AGAIN)
            else:
                self._finish(error)
        except Exception as error:  # noqa: BLE001 - it is the caller's
            self._finish(error)
        else:
            self._finish(None, result)

    def _perform(self, job: Job) -> Any:
        spool = self._spool
        if job.work == self._close or job.name == "rollback":
            return job.work()  # SQLite ends a transaction and a connection whatever happens
        conflicts = job.name not in ("", "_check")  # only work on rows can meet with one
        fault = self.disk.fault_before(spool=spool, conflicts=conflicts)
        if fault is None:
            result = job.work()
            fault = self.disk.fault_after(spool=spool)
        if fault is not None:
            raise fault
        return result

    def _finish(self, error: Exception | None, result: Any = None) -> None:
        job = self._jobs.popleft()
        if error is not None:
            job.ended.set_exception(error)
            job.ended.exception()  # taken note of: its caller may have been cancelled
        else:
            job.ended.set_result(result)
        if self._jobs:
            self._schedule(self.disk.latency(spool=self._spool))

    def _open(self, *, create: bool) -> None:
        super()._open(create=create)
        if self._connection is not None:
            self._connection.wal_autocheckpoint(16)  # pages: what takes a busy hour otherwise

    def _close(self) -> None:
        with contextlib.suppress(apsw.Error):  # SQLite itself says nothing of a fault in closing
            super()._close()

    def _lost(self) -> None:
        """The process has died: the kernel closes its files."""
        self._jobs.clear()
        self._close()


class SimOwnedPath(spool_folder.OwnedPath):
    """The right to a spool file, which ends with its process."""

    def __init__(self, path: Path, lock: int) -> None:
        super().__init__(path, lock)
        self._life = current()
        self._released = False
        self._life.endings.append(self._lost)

    def release(self) -> None:
        current()
        self._lost()

    def remove(self) -> None:
        current()
        super().remove()

    def _lost(self) -> None:
        if not self._released:
            self._released = True
            os.close(self._lock)


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[apsw.Connection]:
    """A look at a database from outside of the simulation."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        yield connection
    finally:
        connection.close()
