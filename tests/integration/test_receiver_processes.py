"""Several receiver processes on one port, and what becomes of them and their spools."""

import asyncio
import signal
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import psutil

from tests.support.http import post
from tests.support.receiver import Spawned, spawned, until


def children(receiver: Spawned) -> list[psutil.Process]:
    return alive(psutil.Process(receiver.pid).children())


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended; who has, may still wait for somebody to take note of it."""
    return [process for process in processes if lives(process)]


def all_gone(processes: Iterable[psutil.Process]) -> bool:
    return alive(processes) == []


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def listening(receiver: Spawned, count: int) -> None:
    """Wait until so many processes in all have begun to listen."""
    await until(lambda: len(receiver.said("receiver.listening")) >= count)


async def load(receiver: Spawned, batches: int) -> None:
    answers = await asyncio.gather(*(post(receiver, b"[1,2]") for _ in range(batches)))
    assert {answer.status for answer in answers} == {200}


async def test_they_share_the_port_and_a_dead_one_is_replaced(tmp_path: Path) -> None:
    async with spawned(tmp_path, processes="2") as receiver:
        await listening(receiver, 2)
        assert len({line["port"] for line in receiver.said("receiver.listening")}) == 1
        await load(receiver, 40)
        first, second = children(receiver)
        first.kill()
        await listening(receiver, 3)
        assert len(receiver.said("receiver.ended")) == 1
        await load(receiver, 10)
        assert second.is_running()
        await until(lambda: len(list((tmp_path / "spool").glob("spool-*.lock"))) == 3)
        assert await receiver.end() == 0
        assert alive([first, second]) == []


async def test_what_a_dead_process_held_is_adopted_by_a_living_one(tmp_path: Path) -> None:
    async with spawned(tmp_path, processes="2") as receiver:
        await listening(receiver, 2)
        await load(receiver, 20)
        children(receiver)[0].kill()
        await until(lambda: bool(receiver.said("spool.adopted")))
        assert receiver.said("spool.adopted")[0]["count"] > 0


async def test_they_end_with_their_supervisor_however_it_ends(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        async with spawned(tmp_path, processes="2") as receiver:
            await listening(receiver, 2)
            processes = children(receiver)
            assert len(processes) == 2
            await receiver.end(number)
            await until(partial(all_gone, processes))


async def test_a_fault_in_the_configuration_is_told_and_not_retried(tmp_path: Path) -> None:
    receiver = Spawned(tmp_path, processes="2", trusted_proxies='["nonsense"]')
    process = await receiver.launch()
    assert await process.wait() == 2
    assert "receiver.trusted_proxies" in receiver.text
