"""The table of sizes, and that the README shows it."""

from pathlib import Path

import pytest

from deploy.capacity import (
    CALLBACKS_PER_EVENT,
    CALLBACKS_WORKER,
    EVENTS_WORKER,
    RECEIVER,
    SIZES,
    plan,
    table,
)
from tests.benchmarks.results import Book

ROOT = Path(__file__).parents[3]
README = ROOT / "deploy" / "README.md"
RESULTS = ROOT / "tests" / "benchmarks" / "results.json"


def test_the_readme_shows_the_table() -> None:
    assert f"<!-- capacity -->\n{table()}" in README.read_text()


@pytest.mark.parametrize("per_day", SIZES)
def test_no_process_is_planned_beyond_its_headroom(per_day: int) -> None:
    made = plan(per_day)
    assert made.peak / made.receivers <= RECEIVER / 2
    assert made.peak / made.events_workers <= EVENTS_WORKER / 2
    assert made.peak * CALLBACKS_PER_EVENT / made.callbacks_workers <= CALLBACKS_WORKER / 2
    assert made.first_limit == "one callbacks worker"


@pytest.mark.parametrize(
    ("rate", "measure"),
    [
        (RECEIVER, "ingest, batch 10"),
        (EVENTS_WORKER, "processing, postgres"),
        (CALLBACKS_WORKER, "callbacks, 1 endpoints"),
    ],
)
def test_no_process_is_planned_with_more_than_it_was_measured_to_carry(
    rate: float, measure: str
) -> None:
    book = Book(RESULTS)
    best = max(
        value
        for one in book.figures
        if one.side == "Correio" and one.measure.startswith(measure)
        for value in one.values
    )
    assert best / 4 <= rate <= best
