"""The owner thread of a SQLite file does what it is asked, in order, whoever still waits."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import apsw
import pytest

from shared.errors import StoreConflictError, StoreDamagedError, StoreUnavailableError
from shared.store import checkpoints
from shared.store.database import SqliteDatabase, begin, immediate


def make_table(connection: apsw.Connection) -> None:
    connection.execute("CREATE TABLE made (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    """An open database with one table, `made`."""
    opened = SqliteDatabase(tmp_path / "folder" / "one.db", busy_timeout=0.05)
    await opened.open()
    await opened.run(make_table)
    yield opened
    await opened.close()
    opened.shutdown()


def made(connection: apsw.Connection) -> list[int]:
    return [one for (one,) in connection.execute("SELECT id FROM made ORDER BY id")]


def make(connection: apsw.Connection, number: int) -> None:
    connection.execute("INSERT INTO made VALUES (?, 'x')", (number,))


async def test_a_commit_is_synced_to_disk(database: SqliteDatabase) -> None:
    for pragma, wanted in (("synchronous", 2), ("journal_mode", "wal"), ("foreign_keys", 1)):
        found = await database.run(partial(apsw.Connection.pragma, name=pragma))
        assert found == wanted, pragma


async def test_everything_runs_in_one_thread_in_the_order_asked(database: SqliteDatabase) -> None:
    seen: list[tuple[int, str]] = []

    def look(number: int, _: apsw.Connection) -> None:
        seen.append((number, threading.current_thread().name))

    await asyncio.gather(*(database.run(partial(look, number)) for number in range(50)))
    assert [number for number, _ in seen] == list(range(50))
    assert len({thread for _, thread in seen}) == 1
    assert threading.current_thread().name not in {thread for _, thread in seen}


async def test_work_is_finished_even_if_its_caller_is_cancelled(database: SqliteDatabase) -> None:
    started, go = threading.Event(), threading.Event()

    def running(connection: apsw.Connection) -> None:
        started.set()
        assert go.wait(10)
        make(connection, 1)

    first = asyncio.create_task(database.run(running))
    assert await asyncio.to_thread(started.wait, 10)
    queued = asyncio.create_task(database.run(lambda connection: make(connection, 2)))
    await asyncio.sleep(0)
    for task in (first, queued):
        task.cancel()
    await asyncio.wait([first, queued])
    assert first.cancelled()
    assert queued.cancelled()
    go.set()
    assert await database.run(made) == [1, 2]


async def test_an_error_in_the_block_is_rolled_back(database: SqliteDatabase) -> None:
    def fail(connection: apsw.Connection) -> None:
        with immediate(connection):
            make(connection, 1)
            raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        await database.run(fail)
    assert await database.run(made) == []


async def test_what_a_failed_rollback_left_open_is_undone(database: SqliteDatabase) -> None:
    def leave_open(connection: apsw.Connection) -> None:
        begin(connection)
        make(connection, 1)

    def work(connection: apsw.Connection) -> None:
        with immediate(connection):
            make(connection, 2)

    await database.run(leave_open)
    await database.run(work)
    assert await database.run(made) == [2]


async def test_only_a_key_that_is_taken_is_a_conflict(database: SqliteDatabase) -> None:
    await database.run(lambda connection: make(connection, 1))
    with pytest.raises(StoreConflictError):
        await database.run(lambda connection: make(connection, 1))
    with pytest.raises(apsw.ConstraintError):
        await database.run(
            lambda connection: connection.execute("INSERT INTO made VALUES (2, NULL)")
        )


async def test_a_lock_held_elsewhere_is_unavailable_after_the_time_out(
    database: SqliteDatabase,
) -> None:
    other = apsw.Connection(str(database.path))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailableError, match="BusyError"):
        await database.run(begin)
    other.close()
    await database.run(begin)


async def test_a_closed_database_is_unavailable_and_opens_again(database: SqliteDatabase) -> None:
    await database.run(lambda connection: make(connection, 1))
    await database.close()
    assert not database.is_open
    with pytest.raises(StoreUnavailableError, match="not open"):
        await database.run(made)
    await database.open(create=False)
    await database.open()
    assert await database.run(made) == [1]


async def test_a_file_that_must_exist_is_not_made(tmp_path: Path) -> None:
    missing = SqliteDatabase(tmp_path / "none.db", busy_timeout=0.05)
    with pytest.raises(StoreUnavailableError, match="CantOpen"):
        await missing.open(create=False)
    missing.shutdown()
    assert not missing.path.exists()


async def test_a_file_that_is_no_database_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("no database at all\n" * 100)
    damaged = SqliteDatabase(path, busy_timeout=0.05)
    with pytest.raises(StoreDamagedError):
        await damaged.open()
    assert not damaged.is_open
    damaged.shutdown()


@pytest.fixture
async def busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SqliteDatabase]:
    """An open database whose checkpoints are made beside the writer, every few pages."""
    monkeypatch.setattr(checkpoints, "EACH", 20)
    monkeypatch.setattr(checkpoints, "LONG", 200)
    opened = SqliteDatabase(tmp_path / "busy.db", busy_timeout=5, checkpoints_beside=True)
    await opened.open()
    await opened.run(make_table)
    yield opened
    await opened.close()
    opened.shutdown()


def fill(connection: apsw.Connection, first: int) -> None:
    """One commit of about five pages."""
    with immediate(connection):
        connection.executemany(
            "INSERT INTO made VALUES (?, ?)",
            ((first * 10 + number, "x" * 2_000) for number in range(10)),
        )


async def test_the_log_is_moved_into_the_file_beside_the_writer_and_stays_bounded(
    busy: SqliteDatabase,
) -> None:
    log, longest = busy.path.with_name("busy.db-wal"), 0
    for number in range(400):  # 2,000 pages, ten times as many as the log may have
        await busy.run(partial(fill, first=number))
        longest = max(longest, log.stat().st_size)
    assert busy.path.stat().st_size > 100 * 4_096
    assert 20 * 4_096 < longest < 2 * 200 * 4_096
    assert len(await busy.run(made)) == 4_000


async def test_the_log_is_cut_off_while_checkpoints_are_under_way(busy: SqliteDatabase) -> None:
    log = busy.path.with_name("busy.db-wal")
    for number in range(100):
        await busy.run(partial(fill, first=number))
        if number % 10 == 0:
            await busy.cut_log()
            assert log.stat().st_size == 0
    assert len(await busy.run(made)) == 1_000


async def test_the_log_is_not_cut_off_under_a_reader(busy: SqliteDatabase) -> None:
    await busy.run(partial(fill, first=0))
    reader = apsw.Connection(str(busy.path))
    with contextlib.closing(reader):
        reading = reader.execute("SELECT * FROM made")
        next(reading)
        await busy.run(lambda connection: connection.set_busy_timeout(50))
        with pytest.raises(StoreUnavailableError, match="somebody reads"):
            await busy.cut_log()


async def test_a_checkpoint_that_fails_is_told_and_loses_nothing(
    busy: SqliteDatabase, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(busy._checkpoints, "_path", busy.path.with_name("missing.db"))
    for number in range(20):
        await busy.run(partial(fill, first=number))
    await busy.close()
    assert "sqlite.checkpoint_failed" in capsys.readouterr().out
    await busy.open()
    assert len(await busy.run(made)) == 200
