"""What the command line prints where."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

from console import cli
from shared.logs import get_logger
from tests.support.cli import correio

LOGGING = """
from console import cli
from shared.logs import get_logger

cli.run = lambda arguments: get_logger("x").error("told") or print("answer") or 0
cli.main()
"""


def test_nothing_but_the_answer_goes_to_standard_output() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", LOGGING], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "answer\n"
    assert "told" in ran.stderr


async def test_a_command_within_a_test_keeps_its_answer_and_the_log_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*_: object, **__: object) -> None:
        get_logger("x").warning("told")
        click.echo("answer")

    monkeypatch.setattr(cli.cli, "main", told)
    _, out, err = await correio(tmp_path / "correio.toml", "doctor")
    assert out == "answer\n"
    assert "told" in err
