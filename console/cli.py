"""``correio``: the operators' command line.

Every command takes ``--json`` and exits 0, 1 (the answer is no) or 2 (usage or configuration).
"""

import logging
import sys
from collections.abc import Sequence

import click
from click.shell_completion import get_completion_class

from console import (
    conflicts,
    deliveries,
    doctor,
    endpoints,
    erase,
    export,
    keys,
    look,
    quarantine,
    reconcile,
    retention,
    setup,
)
from console.context import NO, USAGE
from shared.config import LogConfig
from shared.errors import ConfigError, CorreioError
from shared.logs import configure_logs

PROGRAM = "correio"
INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="correio", prog_name=PROGRAM)
def cli() -> None:
    """See and steer Correio: state, queues, quarantine, deliveries, endpoints."""


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell: source it in the shell's start-up file."""
    kind = get_completion_class(shell)
    if kind is not None:
        click.echo(kind(cli, {}, PROGRAM, "_CORREIO_COMPLETE").source())


for command in (
    setup.migrate,
    setup.backup,
    setup.send,
    doctor.doctor,
    look.status,
    look.trace,
    look.state,
    quarantine.quarantine,
    deliveries.deliveries,
    endpoints.endpoints,
    conflicts.conflicts,
    reconcile.reconcile,
    erase.erase,
    erase.erasures,
    keys.keys,
    retention.retention,
    export.export,
):
    cli.add_command(command)


def run(arguments: Sequence[str]) -> int:
    """Run one command; faults are one line on standard error. Returns the exit status."""
    for name in ("aio_pika", "aiormq", "psycopg"):  # they would tell the same fault once more
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        return int(cli.main(list(arguments), prog_name=PROGRAM, standalone_mode=False) or 0)
    except click.exceptions.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ConfigError as error:
        click.echo(f"{PROGRAM}: {error}", err=True)
        return USAGE
    except CorreioError as error:
        click.echo(f"{PROGRAM}: {error}", err=True)
        return NO


def main() -> None:
    """The ``correio`` command. What it answers goes to standard output, and nothing else does."""
    configure_logs(LogConfig(level="error", format="console"), role="cli")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
