"""The table of sizes, and that the README shows it."""

from pathlib import Path

import pytest

from deploy.capacity import SIZES, plan, table

README = Path(__file__).parents[3] / "deploy" / "README.md"


def test_the_readme_shows_the_table() -> None:
    assert f"<!-- capacity -->\n{table()}" in README.read_text()


@pytest.mark.parametrize("per_day", SIZES)
def test_no_process_is_planned_beyond_its_headroom(per_day: int) -> None:
    made = plan(per_day)
    assert made.peak / made.receivers <= 9_000 / 2
    assert made.peak / made.events_workers <= 8_400 / 2
    assert made.first_limit == "one callbacks worker"
