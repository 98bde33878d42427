"""Every row of the catalogue, done for real: SQLite and PostgreSQL, each in one running world."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import results
from tests.chaos.catalogue import STORES, Row
from tests.chaos.play import Times, play
from tests.chaos.rows import REAL
from tests.chaos.stage import Stage

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(300),
    # A connection of the source that is given up while it is being made leaves its socket to the
    # collector of garbage.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

LIMIT = 200.0
"""Seconds for one row."""

CASES = [
    pytest.param(store, row, id=f"{row.name}-{store}", marks=pytest.mark.xdist_group(store))
    for store in STORES
    for row in REAL
    if store in row.stores
]


class Stages:
    """One running world for each store, built anew after a row that failed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made = 0
        self._standing: dict[str, Stage] = {}

    async def of(self, store: str) -> Stage:
        """The world of a store; whatever stands of another is taken down."""
        for other in set(self._standing) - {store}:
            await self.drop(other)
        if store not in self._standing:
            self._made += 1
            folder = self._folder / f"{store}-{self._made}"
            folder.mkdir()
            self._standing[store] = await Stage(folder, store).__aenter__()
        return self._standing[store]

    async def drop(self, store: str) -> None:
        """Take a world down."""
        if store in self._standing:
            await self._standing.pop(store).__aexit__()

    async def close(self) -> None:
        """Take everything down."""
        for store in list(self._standing):
            await self.drop(store)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all the rows: the world's proxies and its endpoint live on it."""
    with asyncio.Runner() as made:
        yield made


@pytest.fixture(scope="module")
def stages(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    made = Stages(tmp_path_factory.mktemp("chaos"))
    yield made
    runner.run(made.close())


async def played(stages: Stages, store: str, row: Row) -> Times:
    """A row on the world of its store, which is given up if anything is wrong afterwards."""
    stage = await stages.of(store)
    try:
        async with asyncio.timeout(LIMIT):
            return await play(stage, row)
    except BaseException:
        results.note(row.name, "violated", store=store)
        await stages.drop(store)
        raise


@pytest.mark.parametrize(("store", "row"), CASES)
def test_row(runner: asyncio.Runner, stages: Stages, store: str, row: Row) -> None:
    times = runner.run(played(stages, store, row))
    results.note(row.name, "holds", store=store, recovered=times.recovered, drained=times.drained)
