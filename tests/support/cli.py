"""``correio`` within the test's own process: quicker than a process for each command."""

import asyncio
from pathlib import Path

from click.testing import CliRunner

from console.cli import run


async def correio(config: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    return await asyncio.to_thread(_run, config, arguments)


def _run(config: Path, arguments: tuple[str, ...]) -> tuple[int, str, str]:
    runner = CliRunner(env={"CORREIO_CONFIG": str(config), "COLUMNS": "300"})
    with runner.isolation() as (out, err, _):
        try:
            status = run(arguments)
        except SystemExit as left:
            status = int(left.code or 0)
    return status, out.getvalue().decode(), err.getvalue().decode()
