"""``correio`` within the test's own process: quicker than a process for each command."""

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import structlog
from click.testing import CliRunner

from console.cli import run


async def correio(config: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    return await asyncio.to_thread(_run, config, arguments)


def _run(config: Path, arguments: tuple[str, ...]) -> tuple[int, str, str]:
    runner = CliRunner(env={"CORREIO_CONFIG": str(config), "COLUMNS": "300"})
    with runner.isolation() as (out, err, _), _logs_apart():
        try:
            status = run(arguments)
        except SystemExit as left:
            status = int(left.code or 0)
    return status, out.getvalue().decode(), err.getvalue().decode()


@contextlib.contextmanager
def _logs_apart() -> Iterator[None]:
    """Let lines of the log go to standard error, as `console.cli.main` does for a process."""
    before = structlog.get_config()
    structlog.configure(logger_factory=lambda *_: structlog.WriteLogger(sys.stderr))
    try:
        yield
    finally:
        structlog.configure(**before)
