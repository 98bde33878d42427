"""``python -m deploy.local``: the demo, the stack for real work, or only what they need.

Exits 0 when all went well, 1 when the demo saw something wrong or the stack cannot be brought
up, 2 on wrong usage, and 130 or 143 when the demo was interrupted.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path

from deploy.local.demo import Break, demo
from deploy.local.install import find_chromium, find_promtool
from deploy.local.provide import private_node
from deploy.local.rabbitmq import BrokerError
from deploy.local.run import run
from deploy.local.settings import BROKER_VARIABLE
from deploy.local.stack import StackError

DEFAULT_FOLDER = Path("var")


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and do it; returns the exit status."""
    options = _parser().parse_args(arguments)
    named = os.environ.get(BROKER_VARIABLE)
    try:
        match options.command:
            case "demo":
                return _until_signalled(
                    demo(named=named, seed=options.seed, broken=options.broken), interrupted=None
                )
            case "run":
                return _until_signalled(run(options.folder, named=named), interrupted=0)
            case "prepare-browser":
                found = find_chromium()
                print(found or "the browser tests need Chromium: apt-get install chromium")
                return 0 if found else 1
            case _:
                print(private_node(options.folder).origin)
                print(
                    find_promtool() or "promtool cannot be had here: the alert rules stay unchecked"
                )
                return 0
    except (BrokerError, StackError) as error:
        print(error, file=sys.stderr)
        return 1


def _until_signalled(work: Coroutine[None, None, int], *, interrupted: int | None) -> int:
    """Run `work`, cancelling it at SIGINT, SIGTERM or SIGHUP so that it ends what it started."""
    caught: list[signal.Signals] = []

    async def supervised() -> int:
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)

        def stop(number: signal.Signals) -> None:
            caught.append(number)
            if len(caught) == 1:
                print("Stopping …", flush=True)
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop, number)
        with contextlib.suppress(asyncio.CancelledError):
            return await task
        return 128 + caught[0] if interrupted is None else interrupted

    return asyncio.run(supervised())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    play = commands.add_parser("demo", help="play the ten documented events and judge the result")
    play.add_argument("--seed", type=int, help="the order in which the events are sent")
    play.add_argument(
        "--break",
        dest="broken",
        type=Break,
        choices=list(Break),
        help="break something on purpose; the demo must notice and exit 1",
    )
    keep = commands.add_parser("run", help="bring the stack up and keep it up until Ctrl-C")
    need = commands.add_parser("prepare", help="make sure that the tests find what they need")
    commands.add_parser("prepare-browser", help="make sure that the browser tests find a browser")
    for command in (keep, need):
        command.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    return parser


if __name__ == "__main__":
    sys.exit(main())
