"""The README's drawings say what the code does."""

import re
from pathlib import Path

from shared.domain.consent import TRANSITIONS, ConsentStatus
from shared.store.rows import DeliveryState

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")

ARROW = re.compile(r"^  (\[\*\]|[A-Z_]+) --> ([A-Z_]+): ([a-z_]+)(, conflict)?$", re.MULTILINE)

CODE = {
    (current.value if current else "none", change.value.lower()): (move.to.value, move.conflict)
    for (current, change), move in TRANSITIONS.items()
}


def section(title: str) -> str:
    return README.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_the_diagram_of_a_consents_life_is_the_table_in_the_code() -> None:
    arrows = ARROW.findall(section("The life of a consent"))
    drawn = {
        (current.replace("[*]", "none"), change): (to, bool(conflict))
        for current, to, change, conflict in arrows
    }
    assert drawn == CODE
    assert len(arrows) == len(CODE)


def test_the_table_of_a_consents_life_is_the_table_in_the_code() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section("The life of a consent").splitlines()
        if line.startswith("|") and not line.startswith("|---")
    ]
    changes = rows[0][1:]
    written = {
        (row[0], change): (cell.removesuffix(", conflict"), cell.endswith(", conflict"))
        for row in rows[1:]
        for change, cell in zip(changes, row[1:], strict=True)
    }
    assert written == CODE
    assert changes == [status.value.lower() for status in ConsentStatus]


def test_the_diagram_of_a_deliverys_life_knows_just_the_states_there_are() -> None:
    diagram = section("The life of a delivery")
    drawn = set(re.findall(r"^  (?:\[\*\]|([a-z]+)) --> ([a-z]+):", diagram, re.MULTILINE))
    states = {state for arrow in drawn for state in arrow} - {""}
    assert states == {state.value for state in DeliveryState}
