"""The spool: holds batches on disk while the broker cannot take them.

A batch is held once `append` returns: committed and fsynced, together with whatever else waited
at that moment. Nothing is ever evicted. When the bound in bytes or the floor of free disk is
reached, `append` refuses. A process appends only to a file that it has made itself; files that
others left behind are adopted and drained, never added to, since nobody knows what became of them
meanwhile. A damaged file never stops anything: it is put aside, and the batches that can still be
read move into a sound one.
"""

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import apsw
from msgspec import Struct

from receiver.batch import Batch
from receiver.metrics import Metrics
from receiver.salvage import Wreck
from receiver.spool_file import Row, SpoolFile, Stored, Totals, pack
from receiver.spool_folder import OwnedPath, claim_damaged, claim_new, claim_unowned
from shared.clock import Clock
from shared.errors import SpoolFullError, StoreDamagedError, StoreUnavailableError
from shared.logs import get_logger
from shared.sealing import KeyRing, Sealer, Vault

log = get_logger(__name__)

ADOPTED_MAX: Final = 32
"""Files of others that are open at once; each costs a thread."""
SHUN_SECONDS: Final = 60.0
"""For how long a file that the disk fails on is left alone."""
_FAULTS = (StoreDamagedError, StoreUnavailableError, OSError)


class Waiting(Struct, frozen=True):
    """A row and the one who waits for it to be held."""

    row: Row
    held: asyncio.Future[None]


class OpenFile(Struct, frozen=True):
    """An open spool file and the right to it."""

    owned: OwnedPath
    file: SpoolFile


class Group(Struct, frozen=True):
    """The oldest batches of a file, to be sent and then settled."""

    source: OpenFile
    stored: Sequence[Stored]


class Spool:
    """The spool of one process: a file of its own, and files that lost their owner."""

    def __init__(
        self,
        *,
        folder: Path,
        max_bytes: int,
        min_free_bytes: int,
        clock: Clock,
        metrics: Metrics,
        sealer: Sealer | None = None,
    ) -> None:
        """`sealer` makes the keys of the files; without one they rest unwrapped."""
        self._sealer = sealer or Vault(KeyRing())
        self._folder = folder
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._clock = clock
        self._metrics = metrics
        self._own: OpenFile | None = None
        self._adopted: list[OpenFile] = []
        self._waiting: list[Waiting] = []
        self._waiting_bytes = 0
        self._lacking = 0
        self._committing: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._damaged: list[OwnedPath] = []
        self._salvaging: asyncio.Task[None] | None = None
        self._shunned: dict[Path, float] = {}
        self._filled = asyncio.Event()
        self._sent: Group | None = None

    async def open(self) -> None:
        """Begin a file, and adopt what was left behind.

        A disk that fails is no reason not to start: `fault` says so, and `adopt` tries again.
        """
        await self.adopt()

    async def close(self) -> None:
        """Commit what waits and close the files; they keep what they hold."""
        for task in (self._committing, self._salvaging):
            if task is not None:
                await task
        for opened in self._files:
            await opened.file.close()
            if opened.file.totals.batches:
                opened.owned.release()
            else:
                opened.owned.remove()
        for owned in self._damaged:
            owned.release()
        self._own, self._adopted, self._damaged = None, [], []

    @property
    def totals(self) -> Totals:
        """What is held in all."""
        parts = [opened.file.totals for opened in self._files]
        return Totals(
            batches=sum(part.batches for part in parts),
            events=sum(part.events for part in parts),
            bytes=sum(part.bytes for part in parts),
            oldest=min((part.oldest for part in parts if part.oldest is not None), default=None),
        )

    @property
    def fault(self) -> str | None:
        """Why a batch like the last one could not be held right now; None when it could."""
        if self._own is None:
            return "no spool file can be written"
        return self._no_room(max(1, self._lacking))

    @property
    def gives(self) -> bool:
        """Whether `head` would give something out."""
        return self._sent is None and bool(self.totals.batches)

    async def wait_filled(self) -> None:
        """Return as soon as something is held."""
        while not self.totals.batches:
            self._filled.clear()
            await self._filled.wait()

    async def append(self, batch: Batch) -> None:
        """Return once the batch would survive a power cut.

        Raises:
            SpoolFullError: a bound is reached or the disk fails; the batch may not be held.
        """
        row = pack(batch)
        fault = self._no_room(row.bytes)
        # One that fits into no spool of this size says nothing of how full this one is.
        self._lacking = row.bytes if fault and row.bytes <= self._max_bytes else 0
        if fault:
            raise SpoolFullError(fault)
        held: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(Waiting(row, held))
        self._waiting_bytes += row.bytes
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit())
        await held

    async def head(self, *, max_events: int, max_bytes: int) -> Group | None:
        """The oldest batches that are held; None when there are none, or none can be read now."""
        if self._sent is not None:
            await self.settle(self._sent)
        if self._sent is not None:
            return None
        for opened in self._files:
            if not opened.file.totals.batches:
                continue
            try:
                stored = await opened.file.head(max_events=max_events, max_bytes=max_bytes)
            except _FAULTS as error:
                await self._mend(opened, error)
                return None
            return Group(opened, stored)
        return None

    async def settle(self, group: Group) -> None:
        """Forget the batches of a group: the broker has them.

        While the disk is too full to write even that down, `head` gives nothing more out. After
        any other fault they may be sent once more, which does no harm.
        """
        opened = group.source
        self._sent = None
        try:
            await opened.file.remove(group.stored)
        except _FAULTS as error:
            if not await self._mend(opened, error):
                self._sent = group
            return
        if opened in self._adopted and not opened.file.totals.batches:
            self._adopted.remove(opened)
            await opened.file.close()
            opened.owned.remove()
            await self.adopt()

    async def adopt(self) -> None:
        """Take on files whose owner has gone; begin a file of our own if there is none."""
        async with self._opening:
            try:
                if self._own is None:
                    self._own = await self._open(claim_new(self._folder))
                while len(self._adopted) < ADOPTED_MAX and (owned := self._claim_unowned()):
                    await self._adopt(owned)
                while damaged := claim_damaged(self._folder):
                    self._damaged.append(damaged)
            except _FAULTS:
                log.exception("spool.unavailable")
        self._salvage_soon()

    async def _adopt(self, owned: OwnedPath) -> None:
        adopted = await self._open(owned)
        if adopted is None:
            return
        if not adopted.file.totals.batches:
            await adopted.file.close()
            owned.remove()
            return
        log.info("spool.adopted", count=adopted.file.totals.events)
        self._adopted.append(adopted)
        self._filled.set()

    @property
    def _files(self) -> list[OpenFile]:
        """The open files, those that were left behind first."""
        return [*self._adopted, *([self._own] if self._own is not None else [])]

    async def _commit(self) -> None:
        """Write everything that waits, in as few transactions as the disk's pace allows."""
        try:
            while self._waiting:
                group, self._waiting = self._waiting, []
                fault = await self._write([waiting.row for waiting in group])
                self._waiting_bytes -= sum(waiting.row.bytes for waiting in group)
                for waiting in group:
                    if waiting.held.done():
                        continue
                    if fault is None:
                        waiting.held.set_result(None)
                    else:
                        waiting.held.set_exception(SpoolFullError(fault))
        finally:
            self._committing = None

    async def _write(self, rows: Sequence[Row]) -> str | None:
        """Append rows to our file, or to the one that takes its place; says what went wrong."""
        for _ in range(2):
            opened = self._own
            if opened is None:
                break
            try:
                await opened.file.append(rows)
            except _FAULTS as error:
                if not await self._mend(opened, error):
                    return "the disk is full or busy"
            else:
                self._filled.set()
                return None
        return "no spool file can be written"

    async def _mend(self, opened: OpenFile, error: Exception) -> bool:
        """Stop using a file that failed; False when only the disk is full or busy for now."""
        cause = error.__cause__
        if isinstance(cause, apsw.FullError | apsw.BusyError | apsw.LockedError):
            log.warning("spool.blocked", error_type=type(cause).__name__)
            return False
        if self._forget(opened):
            await opened.file.close()
            if isinstance(error, StoreDamagedError) or isinstance(cause, apsw.ReadOnlyError):
                self._put_aside(opened.owned, error)
            else:
                log.error("spool.abandoned", error_type=type(cause or error).__name__)
                self._shun(opened.owned)
            await self.adopt()
        return True

    def _claim_unowned(self) -> OwnedPath | None:
        now = self._clock.monotonic()
        for path, until in list(self._shunned.items()):
            if until <= now:
                del self._shunned[path]
        return claim_unowned(self._folder, without=self._shunned.keys())

    async def _open(self, owned: OwnedPath) -> OpenFile | None:
        """Open a file that we own; None when it is damaged and was put aside."""
        file = SpoolFile(owned.path, self._sealer)
        try:
            await file.open()
        except StoreDamagedError as damage:
            await file.close()
            self._put_aside(owned, damage)
            return None
        except _FAULTS:
            await file.close()
            self._shun(owned)
            raise
        return OpenFile(owned, file)

    def _shun(self, owned: OwnedPath) -> None:
        """Leave a file that the disk fails on alone for a while."""
        self._shunned[owned.path] = self._clock.monotonic() + SHUN_SECONDS
        owned.release()

    def _forget(self, opened: OpenFile) -> bool:
        """Stop using a file; False when somebody did so before us."""
        if opened is self._own:
            self._own = None
        elif opened in self._adopted:
            self._adopted.remove(opened)
        else:
            return False
        return True

    def _put_aside(self, owned: OwnedPath, damage: Exception) -> None:
        aside = owned.put_aside(now=self._clock.now())
        self._metrics.spool_damaged.inc()
        error_type = type(damage.__cause__ or damage).__name__
        log.error("spool.damaged", path=aside.path.name, error_type=error_type)
        if aside.path.exists():
            self._damaged.append(aside)
        else:
            aside.leave()

    def _salvage_soon(self) -> None:
        if self._damaged and self._salvaging is None and self._own is not None:
            self._salvaging = asyncio.create_task(self._salvage())

    async def _salvage(self) -> None:
        """Move what can be read in the damaged files into our own."""
        try:
            while self._damaged and self._own is not None:
                owned = self._damaged[0]
                saved, lost = await self._salvage_file(owned.path)
                self._damaged.remove(owned)
                owned.leave()
                self._metrics.spool_lost.inc(lost)
                log.warning("spool.salvaged", path=owned.path.name, count=saved, unreadable=lost)
        except _FAULTS as error:
            log.warning("spool.not_salvaged", error_type=type(error).__name__)
        finally:
            self._salvaging = None

    async def _salvage_file(self, path: Path) -> tuple[int, int]:
        """Batches saved from a file, and how many are known to be unreadable."""
        saved = lost = 0
        try:
            wreck = await asyncio.to_thread(Wreck, path, self._sealer)
        except StoreDamagedError:
            return 0, 1
        try:
            done = False
            while not done:
                found = await asyncio.to_thread(wreck.read)
                if found.rows and (fault := await self._write(found.rows)):
                    raise StoreUnavailableError(fault)
                saved, lost, done = saved + len(found.rows), lost + found.unreadable, found.done
                self._metrics.spool_salvaged.inc(len(found.rows))
        finally:
            await asyncio.to_thread(wreck.close)
        return saved, lost

    def _no_room(self, size: int) -> str | None:
        """Why so many bytes more could not be held."""
        size += self._waiting_bytes
        if self.totals.bytes + size > self._max_bytes:
            return "the spool is full"
        if self._free_bytes() < self._min_free_bytes + size:
            return "too little disk is free"
        return None

    def _free_bytes(self) -> int:
        try:
            return shutil.disk_usage(self._folder).free
        except OSError:
            return 0
