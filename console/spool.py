"""The receivers' spool, as far as it can be seen from the machine that looks."""

import os
from pathlib import Path

from shared.config import Config
from shared.store.spool import SpoolMeasure, measure_spool


def look_into(config: Config, *, now: int) -> SpoolMeasure | None:
    """What the spool holds; None if it cannot be seen from here."""
    return measure_spool(Path(config.receiver.spool), now=now)


def is_elsewhere(config: Config) -> bool:
    """Whether this machine has no spool folder, as is right where no receiver runs."""
    return not os.path.exists(config.receiver.spool)  # noqa: PTH110 - False, too, where it may not look


def why_unseen(config: Config) -> str:
    """Why `look_into` gave None."""
    folder = config.receiver.spool
    if is_elsewhere(config):
        return f"there is no folder {folder} here; see correio_spool_events of the receivers"
    return f"a file in {folder} cannot be read"
