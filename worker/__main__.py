"""``python -m worker events|callbacks``: run one of the workers until SIGTERM.

``python -m worker probe ENDPOINT`` sends one test callback instead.
"""

import sys
from collections.abc import Sequence

from shared.process import EXIT_USAGE, main

USAGE = "usage: python -m worker events|callbacks|probe ENDPOINT"


def run(arguments: Sequence[str]) -> int:
    """Run what the arguments name; return the exit status."""
    match arguments:
        case ["events"]:
            from worker.events import service as events  # noqa: PLC0415 - load one worker only

            return main("worker events", events.build)
        case ["callbacks"]:
            from worker.callbacks import service as callbacks  # noqa: PLC0415 - the same

            return main("worker callbacks", callbacks.build)
        case ["probe", endpoint]:
            from worker.callbacks import probe  # noqa: PLC0415 - the same

            return probe.main(endpoint)
        case _:
            print(USAGE, file=sys.stderr)  # noqa: T201 - logs are not set up yet
            return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
