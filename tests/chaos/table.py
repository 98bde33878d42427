"""Writes the table of `README.md` from the catalogue and the last results.

usage: python -m tests.chaos.table
"""

import statistics
from pathlib import Path
from typing import Any

from tests.chaos import results
from tests.chaos.catalogue import STORES, Layer, Row
from tests.chaos.rows import REAL, SIMULATED

README = Path(__file__).parent / "README.md"
BEGIN = "<!-- table: made by `python -m tests.chaos.table` -->\n"
END = "<!-- end of table -->\n"

HEAD = (
    "| # | Fault | How injected | What must hold | Store | Last result | Recovered | Drained |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


def rows() -> tuple[Row, ...]:
    """The whole catalogue."""
    return (*REAL, *SIMULATED)


def fixed(number: int, row: Row) -> str:
    """What the table says of a row whatever came of it."""
    where = "both" if set(row.stores) == set(STORES) else " ".join(row.stores)
    if row.layer is Layer.SIMULATED:
        where = "simulated"
    return f"| {number} | **{row.name}**: {row.fault} | {row.how} | {row.holds} | {where} |"


def _last(known: dict[str, Any]) -> str:
    if not known:
        return "not run yet | |"
    told = f"{known['result']} ({known['at']})"
    return " | ".join([told, _figures(known.get("recovered")), _figures(known.get("drained"))])


def _figures(by_store: dict[str, list[float]] | None) -> str:
    """Median and worst over all stores, and of how many times."""
    times = [one for many in (by_store or {}).values() for one in many]
    if not times:
        return ""
    return f"{statistics.median(times):.1f} / {max(times):.1f} ({len(times)})"


def table() -> str:
    """The table as Markdown."""
    known = results.read()
    lines = [
        f"{fixed(number, row)} {_last(known.get(row.name, {}))} |\n"
        for number, row in enumerate(rows(), 1)
    ]
    return HEAD + "".join(lines)


def main() -> None:
    """Put the table into the README."""
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(before + BEGIN + table() + END + after)


if __name__ == "__main__":
    main()
