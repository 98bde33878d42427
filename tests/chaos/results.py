"""What came of the rows: kept beside the catalogue, and shown in its table."""

import fcntl
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "results.json"
VARIABLE = "CHAOS_RESULTS"
"""Names the file that results are written to; without it nothing is written."""

KEPT = 10
"""Times of which the table shows median and worst."""


def read(file: Path = FILE) -> dict[str, Any]:
    """Row → its last result and times."""
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found


def note(name: str, result: str, *, store: str = "", **figures: float) -> None:
    """Write down what came of a row; `figures` in seconds are kept for the last `KEPT` times."""
    named = os.environ.get(VARIABLE)
    if not named:
        return
    file = Path(named)
    with (Path(tempfile.gettempdir()) / "correio-chaos-results.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = read(file)
        row = known.setdefault(name, {})
        row["at"] = f"{datetime.now(UTC):%Y-%m-%d}"
        row["result"] = result
        for kind, seconds in figures.items():
            times = row.setdefault(kind, {}).setdefault(store, [])
            row[kind][store] = [*times, round(seconds, 2)][-KEPT:]
        file.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
