"""Thousands of simulated lives of the real code; `make chaos-sim SEED=123` shows one of them."""

import os
import subprocess
import sys

import apsw
import pytest

from tests.chaos.simulated.rows import TOLD_OF
from tests.chaos.simulated.strikes import STRIKES
from tests.chaos.simulated.weather import RATES


def simulate(*arguments: str) -> str:
    """Run in a process of its own, with the order of sets fixed; returns what it said."""
    made = subprocess.run(
        [sys.executable, "-m", "tests.chaos.simulated", *arguments],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout[-20_000:] + made.stderr[-5_000:]
    return made.stdout


@pytest.mark.timeout(600)
def test_the_promises_hold_for_every_seed() -> None:
    assert "80 seeds, 0 failed" in simulate("--seeds", "0:80")


def test_a_seed_replays_exactly() -> None:
    said = simulate("--seed", "9")
    assert said.count("\n") > 100
    assert said == simulate("--seed", "9")


def test_other_tests_of_this_process_have_their_own_disk() -> None:
    assert apsw.vfs_names()[0] != "simulated"


def test_the_catalogue_names_every_fault() -> None:
    assert TOLD_OF.keys() == RATES.keys() | STRIKES.keys()


@pytest.mark.deep
@pytest.mark.timeout(1800)
def test_the_promises_hold_for_thousands_of_seeds() -> None:
    print(simulate("--seeds", "1000:6000"))  # noqa: T201 - which fault struck how often


@pytest.mark.deep
@pytest.mark.timeout(1800)
def test_every_planted_mistake_is_caught() -> None:
    said = simulate("--mutants")
    print(said)  # noqa: T201 - which seed caught which
    assert " 0 survived" in said
