"""The receiver's own disk, which counts only while the broker cannot confirm."""

import asyncio
import os
from collections.abc import AsyncIterator

from tests.chaos.catalogue import Chapter
from tests.chaos.stage import Stage

CHAPTER = Chapter()


@CHAPTER.row(
    "spool-disk-full",
    fault="the broker is away and the spool's disk is full",
    how="proxy cut for the receiver; tmpfs filled to the last block",
    holds="503 with Retry-After, at once; the source repeats",
)
async def disk_full(stage: Stage) -> AsyncIterator[None]:
    async with stage.broker.only("receiver").cut():
        await stage.spools()
        with stage.spool_disk.full():
            await stage.refused(503)
            yield


@CHAPTER.row(
    "spool-disk-full-while-draining",
    fault="the spool's disk is full when the broker is back: not even a deletion can be written",
    how="proxy cut for the receiver until something is spooled; then tmpfs filled",
    holds="what was sent is not sent again without end; all is drained once there is room",
    seconds=2.0,
)
async def full_while_draining(stage: Stage) -> AsyncIterator[None]:
    async with stage.broker.only("receiver").cut():
        await stage.spools()
        stage.spool_disk.fill()
    try:
        yield
    finally:
        stage.spool_disk.relieve()


@CHAPTER.row(
    "spool-torn",
    fault="the receiver dies while it spools, and the end of the spool's log is torn",
    how="SIGKILL; half a page of noise after the last whole frame",
    holds="what was committed is read; the torn end is nobody's",
)
async def torn(stage: Stage) -> AsyncIterator[None]:
    part = stage.world.parts["receiver"]
    async with stage.broker.only("receiver").cut():
        await stage.spools()
        await asyncio.to_thread(part.kill)
        logs = list(stage.world.spool.glob("*-wal"))
        assert logs
        for one in logs:
            with one.open("ab") as file:
                file.write(os.urandom(2_000))
        part.start()
        await stage.ready("receiver")
        yield


@CHAPTER.row(
    "spool-foreign-file",
    fault="a spool file that was left behind turns out to be no database",
    how="noise under the name of a spool file",
    holds="it is put aside and stops nothing",
)
async def foreign_file(stage: Stage) -> AsyncIterator[None]:
    async with stage.broker.only("receiver").cut():
        await stage.spools()
        known = set(stage.world.spool.glob("damaged-*"))
        name = f"spool-00000000-0000-7000-8000-{os.urandom(6).hex()}.db"
        (stage.world.spool / name).write_bytes(os.urandom(50_000))
        await stage.until(lambda: set(stage.world.spool.glob("damaged-*")) - known)
        yield


@CHAPTER.row(
    "spool-file-deleted",
    fault="somebody deletes the files of the empty spool under the receiver; then the broker goes",
    how="files unlinked, then proxy cut for the receiver",
    holds="it drains the file that it has open (if it died meanwhile, what is in it would be lost)",
)
async def file_deleted(stage: Stage) -> AsyncIterator[None]:
    for one in stage.world.spool.iterdir():
        one.unlink()
    async with stage.broker.only("receiver").cut():
        await stage.says("receiver", "batch.accepted", of='"spool"')
        yield
