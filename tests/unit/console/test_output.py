"""What the command line prints where."""

import subprocess
import sys

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
