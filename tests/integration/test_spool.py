"""The spool on a real disk: durable, bounded, in order, and not to be stopped by damage."""

import asyncio
import os
import zlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Self

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from receiver import spool_file
from receiver.batch import Batch
from receiver.metrics import Metrics
from receiver.spool import Spool
from receiver.spool_file import pack
from receiver.spool_folder import claim_unowned
from shared.clock import SystemClock
from shared.errors import SpoolFullError
from shared.sealing import KeyRing, Sealer, Vault, new_key

MIB = 1_048_576


class Opened:
    """A spool and what it has counted."""

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int = 64 * MIB,
        min_free_bytes: int = 0,
        sealer: Sealer | None = None,
    ) -> None:
        self.registry = CollectorRegistry()
        self.spool = Spool(
            folder=folder,
            max_bytes=max_bytes,
            min_free_bytes=min_free_bytes,
            clock=SystemClock(),
            metrics=Metrics(self.registry),
            sealer=sealer,
        )

    def figure(self, name: str) -> float:
        return self.registry.get_sample_value(f"correio_spool_{name}") or 0.0

    async def __aenter__(self) -> Self:
        await self.spool.open()
        return self

    async def __aexit__(self, *_raised: object) -> None:
        await self.spool.close()


def batch(number: int, *, size: int = 10, events: int = 1) -> Batch:
    return Batch(
        id=f"batch-{number}",
        source="klavi",
        received_at=1_000 + number,
        traceparent="00-x",
        events=tuple(b"%d" % number * size for _ in range(events)),
    )


async def taken(spool: Spool) -> list[str]:
    """The ids of all that is held, in their order; afterwards it is empty."""
    ids: list[str] = []
    while group := await spool.head(max_events=3, max_bytes=MIB):
        ids += [stored.batch.id for stored in group.stored]
        await spool.settle(group)
    return ids


def ids(count: int) -> list[str]:
    return [f"batch-{number}" for number in range(count)]


def files(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern))


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    async with Opened(tmp_path) as one:
        yield one


async def test_it_gives_back_everything_in_its_order(opened: Opened) -> None:
    for number in range(10):
        await opened.spool.append(batch(number, events=2))
    totals = opened.spool.totals
    assert (totals.batches, totals.events, totals.oldest) == (10, 20, 1_000)
    group = await opened.spool.head(max_events=1, max_bytes=MIB)
    assert group is not None
    assert [stored.batch for stored in group.stored] == [batch(0, events=2)]
    assert await taken(opened.spool) == ids(10)
    assert (opened.spool.totals.bytes, opened.spool.totals.oldest) == (0, None)


async def test_many_at_once_share_transactions_and_keep_their_order(opened: Opened) -> None:
    await asyncio.gather(*(opened.spool.append(batch(number)) for number in range(200)))
    assert await taken(opened.spool) == ids(200)


async def test_it_survives_closing_and_is_taken_over(tmp_path: Path) -> None:
    async with Opened(tmp_path) as first:
        for number in range(5):
            await first.spool.append(batch(number))
        held = first.spool.totals
    async with Opened(tmp_path) as second:
        assert second.spool.totals == held
        assert await taken(second.spool) == ids(5)
    assert files(tmp_path, "*") == []


async def test_a_file_has_one_owner_and_is_adopted_once_it_has_none(tmp_path: Path) -> None:
    async with Opened(tmp_path) as living:
        async with Opened(tmp_path) as dying:
            await dying.spool.append(batch(0))
            await living.spool.append(batch(1))
            await living.spool.adopt()
            assert living.spool.totals.batches == 1
        await living.spool.adopt()
        assert living.spool.totals.batches == 2
        assert await taken(living.spool) == ids(2)
        assert len(files(tmp_path, "spool-*.db")) == 1


async def test_however_many_files_are_left_all_are_drained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.spool.ADOPTED_MAX", 2)
    for number in range(7):
        async with Opened(tmp_path / str(number)) as left:
            await left.spool.append(batch(number))
    (tmp_path / "all").mkdir()
    for path in files(tmp_path, "*/spool-*.db*"):
        path.rename(tmp_path / "all" / path.name)
    async with Opened(tmp_path / "all") as living:
        assert await taken(living.spool) == ids(7)


async def test_an_empty_file_that_is_left_is_tidied_away(tmp_path: Path) -> None:
    async with Opened(tmp_path) as living:
        async with Opened(tmp_path):
            pass
        await living.spool.adopt()
        assert len(files(tmp_path, "spool-*.db")) == 1


async def test_it_refuses_rather_than_grow_beyond_its_bound(tmp_path: Path) -> None:
    size = pack(batch(0)).bytes
    async with Opened(tmp_path, max_bytes=3 * size) as opened:
        spool = opened.spool
        outcomes = await asyncio.gather(
            *(spool.append(batch(number)) for number in range(5)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes[3:]] == [SpoolFullError, SpoolFullError]
        assert outcomes[:3] == [None, None, None]
        assert spool.fault == "the spool is full"
        assert await taken(spool) == ids(3)
        assert spool.fault is None
        await spool.append(batch(5))


async def test_it_says_that_it_is_full_when_a_batch_finds_too_little_room(tmp_path: Path) -> None:
    size, large = pack(batch(0)).bytes, pack(batch(0, size=1_000)).bytes
    async with Opened(tmp_path, max_bytes=size + large) as opened:
        spool = opened.spool
        await spool.append(batch(0))
        await spool.append(batch(1))
        assert spool.fault is None
        with pytest.raises(SpoolFullError):
            await spool.append(batch(2, size=1_000))
        assert spool.fault == "the spool is full"
        await spool.append(batch(3))
        assert spool.fault is None, "a smaller one still fits"
        with pytest.raises(SpoolFullError):
            await spool.append(batch(4, size=1_000))
        assert await taken(spool) == ["batch-0", "batch-1", "batch-3"]
        assert spool.fault is None
        with pytest.raises(SpoolFullError):
            await spool.append(batch(5, size=10_000))
        assert spool.fault is None, "that one would not fit into an empty spool either"


async def test_it_leaves_the_disk_its_floor(tmp_path: Path) -> None:
    async with Opened(tmp_path, min_free_bytes=1 << 60) as opened:
        with pytest.raises(SpoolFullError):
            await opened.spool.append(batch(0))
        assert opened.spool.fault == "too little disk is free"


async def test_a_full_disk_is_no_success(opened: Opened) -> None:
    """SQLite's own bound on pages stands for the disk."""
    await opened.spool.append(batch(0))
    own = opened.spool._own
    assert own is not None
    pages = await own.file._database.run(lambda connection: connection.pragma("page_count"))
    await own.file._database.run(lambda connection: connection.pragma("max_page_count", pages))
    with pytest.raises(SpoolFullError):
        await opened.spool.append(batch(1, size=100_000))
    await own.file._database.run(lambda connection: connection.pragma("max_page_count", 10_000))
    await opened.spool.append(batch(1))
    assert await taken(opened.spool) == ids(2)


async def test_a_folder_that_cannot_be_made_is_said_and_tried_again(tmp_path: Path) -> None:
    place = tmp_path / "spool"
    place.write_text("in the way")
    async with Opened(place) as opened:
        assert opened.spool.fault == "no spool file can be written"
        with pytest.raises(SpoolFullError):
            await opened.spool.append(batch(0))
        place.unlink()
        await opened.spool.adopt()
        await opened.spool.append(batch(0))


async def test_the_file_shrinks_once_a_large_backlog_has_gone(tmp_path: Path) -> None:
    async with Opened(tmp_path) as opened:
        for number in range(20):
            await opened.spool.append(batch(number, size=1_000_000))
        (path,) = files(tmp_path, "spool-*.db")
        assert len(await taken(opened.spool)) == 20
        assert path.stat().st_size < MIB
        await opened.spool.append(batch(1))


def overwrite(path: Path, change: Callable[[bytearray], None]) -> None:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def flip(place: int, content: bytearray) -> None:
    """Turn one bit over."""
    content[place] ^= 4


async def filled(folder: Path, count: int) -> Path:
    """A spool file of `count` batches, closed; returns its path."""
    async with Opened(folder) as opened:
        for number in range(count):
            await opened.spool.append(batch(number, size=1_000))
    (path,) = files(folder, "spool-*.db")
    return path


async def test_a_file_that_is_no_database_is_put_aside_and_a_fresh_one_takes_over(
    tmp_path: Path,
) -> None:
    path = await filled(tmp_path, 5)
    path.write_bytes(os.urandom(path.stat().st_size))
    async with Opened(tmp_path) as opened:
        await opened.spool.append(batch(7))
        assert opened.figure("damaged_total") == 1
        assert await taken(opened.spool) == ["batch-7"]
    assert len(files(tmp_path, "damaged-*.db")) == 1


async def test_a_flipped_bit_in_a_batch_is_noticed_and_the_others_are_saved(tmp_path: Path) -> None:
    path = await filled(tmp_path, 20)
    database = apsw.Connection(str(path))
    (stored,) = database.execute("SELECT batch FROM batches WHERE seq = 8").fetchall()[0]
    database.close()
    overwrite(path, lambda content: flip(content.index(stored[100:600]), content))
    async with Opened(tmp_path) as opened:
        assert await opened.spool.head(max_events=100, max_bytes=MIB) is None
        await salvaged(opened.spool)
        found = await taken(opened.spool)
        assert found == [name for name in ids(20) if name != "batch-7"]
        assert opened.figure("salvaged_batches_total") == 19
        assert opened.figure("unreadable_batches_total") == 1


async def test_a_torn_file_is_put_aside_and_what_is_left_is_saved(tmp_path: Path) -> None:
    path = await filled(tmp_path, 200)
    whole = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(whole // 2 // 4096 * 4096)
    async with Opened(tmp_path) as opened:
        before = await taken(opened.spool)
        await salvaged(opened.spool)
        await opened.spool.append(batch(999))
        found = before + await taken(opened.spool)
        assert "batch-999" in found
        assert len(set(found) & set(ids(200))) > 50
        assert opened.figure("damaged_total") == 1


async def test_damage_while_it_runs_costs_no_batch_that_is_being_held(tmp_path: Path) -> None:
    async with Opened(tmp_path) as opened:
        await opened.spool.append(batch(0))
        own = opened.spool._own
        assert own is not None

        def wreck(connection: apsw.Connection) -> None:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("UPDATE sqlite_schema SET rootpage = 99 WHERE name = 'batches'")
            connection.execute("PRAGMA writable_schema = RESET")

        await own.file._database.run(wreck)
        await opened.spool.append(batch(1))
        assert opened.figure("damaged_total") == 1
        assert "batch-1" in await taken(opened.spool)


async def test_a_salvage_that_was_broken_off_is_taken_up_by_the_next_process(
    tmp_path: Path,
) -> None:
    await filled(tmp_path, 5)
    claimed = claim_unowned(tmp_path)
    assert claimed is not None
    aside = claimed.put_aside(now=1_700_000_000_000)
    aside.release()  # as the kernel does when the process ends here
    async with Opened(tmp_path) as opened:
        await salvaged(opened.spool)
        assert await taken(opened.spool) == ids(5)
    async with Opened(tmp_path) as opened:
        await salvaged(opened.spool)
        assert await taken(opened.spool) == []
    assert len(files(tmp_path, "damaged-*.db")) == 1
    assert files(tmp_path, "*.lock") == []


async def salvaged(spool: Spool) -> None:
    if spool._salvaging is not None:
        await spool._salvaging


def _property(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


@_property(100)
@given(data=st.data())
def test_whatever_is_flipped_or_torn_it_starts_and_holds(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    asyncio.run(_damaged_anyhow(tmp_path_factory.mktemp("spool"), data))


@pytest.mark.deep
@pytest.mark.timeout(900)
@_property(3_000)
@given(data=st.data())
def test_whatever_is_flipped_or_torn_it_starts_and_holds_deep(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    asyncio.run(_damaged_anyhow(tmp_path_factory.mktemp("spool"), data))


async def _damaged_anyhow(folder: Path, data: st.DataObject) -> None:
    path = await filled(folder, 30)
    size = path.stat().st_size
    if data.draw(st.booleans(), label="torn"):
        with path.open("r+b") as file:
            file.truncate(data.draw(st.integers(0, size - 1), label="length"))
    for place in data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=5), label="at"):
        if place < path.stat().st_size:
            overwrite(path, partial(flip, place))
    async with Opened(folder) as opened:
        await opened.spool.append(batch(999))
        found: list[str] = []
        for _ in range(3):  # a damaged file is put aside in between
            await salvaged(opened.spool)
            found += await taken(opened.spool)
        assert "batch-999" in found
        assert opened.spool.fault is None
        assert set(found) <= {*ids(30), "batch-999"}


def held_in(folder: Path) -> bytes:
    """Every byte of every file."""
    return b"".join(one.read_bytes() for one in files(folder, "*"))


@pytest.mark.parametrize("keys", ["", f"one:{new_key()}"], ids=["no key", "key"])
async def test_what_it_holds_is_sealed_and_opens_by_the_configured_key(
    tmp_path: Path, keys: str
) -> None:
    async with Opened(tmp_path, sealer=Vault(KeyRing.read(keys))) as first:
        await first.spool.append(batch(7, size=50))
        assert b"7777777777" not in held_in(tmp_path)
        assert b"klavi" not in held_in(tmp_path)
    async with Opened(tmp_path, sealer=Vault(KeyRing.read(keys))) as second:
        assert await taken(second.spool) == ["batch-7"]


async def test_nothing_opens_what_was_drained(tmp_path: Path) -> None:
    """Its sealed bytes may stay in the database, but no key that opens them does."""
    vault = Vault(KeyRing())
    async with Opened(tmp_path, sealer=vault) as opened:
        for number in range(20):
            await opened.spool.append(batch(number))
        (key_file,) = files(tmp_path, "*-key")
        key = key_file.read_bytes().split(b"\n", 1)[1]
        assert key in held_in(tmp_path)
        assert len(await taken(opened.spool)) == 20
        assert key not in held_in(tmp_path)
        await opened.spool.append(batch(21))
        assert await taken(opened.spool) == ["batch-21"]


async def test_a_file_whose_key_is_not_configured_waits_for_it(tmp_path: Path) -> None:
    keys = f"one:{new_key()}"
    async with Opened(tmp_path, sealer=Vault(KeyRing.read(keys))) as first:
        await first.spool.append(batch(1))
    async with Opened(tmp_path) as other:
        await other.spool.append(batch(2))
        assert await taken(other.spool) == ["batch-2"]
        assert other.figure("damaged_total") == 0
    async with Opened(tmp_path, sealer=Vault(KeyRing.read(keys))) as again:
        assert await taken(again.spool) == ["batch-1"]


async def test_a_file_without_its_key_is_put_aside(tmp_path: Path) -> None:
    async with Opened(tmp_path) as first:
        await first.spool.append(batch(1))
    for one in files(tmp_path, "*-key"):
        one.unlink()
    async with Opened(tmp_path) as second:
        assert second.figure("damaged_total") == 1
        assert second.spool.fault is None
    assert len(files(tmp_path, "damaged-*.db")) == 1


async def test_a_file_of_a_release_that_did_not_seal_is_drained(tmp_path: Path) -> None:
    one = pack(batch(3))
    about = b"%d,%d," % (one.received_at, one.events)
    database = apsw.Connection(str(tmp_path / "spool-0.db"))
    database.execute(
        "CREATE TABLE batches (seq INTEGER PRIMARY KEY, received_at INTEGER NOT NULL, "
        "events INTEGER NOT NULL, checksum INTEGER NOT NULL, batch BLOB NOT NULL) STRICT; "
        "PRAGMA user_version = 1"
    )
    database.execute(
        "INSERT INTO batches (received_at, events, checksum, batch) VALUES (?, ?, ?, ?)",
        (one.received_at, one.events, zlib.crc32(one.batch, zlib.crc32(about)), one.batch),
    )
    database.close()
    async with Opened(tmp_path) as opened:
        assert await taken(opened.spool) == ["batch-3"]


async def test_what_comes_while_an_emptied_file_cannot_be_shrunk_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody reads the file for long, such as a backup: nothing that was deleted is undone."""
    monkeypatch.setattr(spool_file, "_SHRINK_ABOVE", 0)
    monkeypatch.setattr(spool_file, "BUSY_TIMEOUT", 0.05)
    async with Opened(tmp_path) as opened:
        spool = opened.spool
        for number in range(2):
            await spool.append(batch(number))
        group = await spool.head(max_events=9, max_bytes=MIB)
        assert group is not None
        (path,) = files(tmp_path, "*.db")
        reader = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM batches").fetchall()
        await spool.settle(group)
        for number in (2, 3):
            await spool.append(batch(number))
        reader.close()
        assert await taken(spool) == ["batch-2", "batch-3"]
        assert files(tmp_path, "damaged-*") == []
