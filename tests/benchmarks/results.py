"""Figures as they come in, kept in a file, so that parts can be measured one after another."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct


class Figure(Struct):
    """One figure of one side; one entry of each list for each round.

    Attributes:
        measure: what was measured; the sides of one measure are compared.
        cpu: name of a process → share of one core.
        memory: name of a process → most bytes.
        more: whatever else was seen, such as latencies.
    """

    part: str
    measure: str
    side: str
    unit: str
    values: list[float] = msgspec.field(default_factory=list)
    cpu: list[dict[str, float]] = msgspec.field(default_factory=list)
    memory: list[dict[str, int]] = msgspec.field(default_factory=list)
    more: list[dict[str, Any]] = msgspec.field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Half the distance from the lowest to the highest, as a share of the median."""
        return (max(self.values) - min(self.values)) / 2 / self.median if self.median else 0.0

    def median_of(self, name: str) -> float:
        """The median of one of `more`."""
        return statistics.median(one[name] for one in self.more)

    def median_cpu(self) -> dict[str, float]:
        names = dict.fromkeys(name for one in self.cpu for name in one)
        return {
            name: statistics.median(one[name] for one in self.cpu if name in one) for name in names
        }

    def most_memory(self) -> dict[str, int]:
        names = dict.fromkeys(name for one in self.memory for name in one)
        return {name: max(one[name] for one in self.memory if name in one) for name in names}


class Book:
    """All figures, in the order in which they were first added."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = ""
        self.figures: list[Figure] = []
        self.facts: dict[str, str] = {}
        if path.exists():
            kept = json.loads(path.read_text())
            self.figures = msgspec.convert(kept["figures"], list[Figure])
            self.facts = kept["facts"]

    def begin(self, part: str) -> None:
        """Measure a part anew: what the file has of it is dropped."""
        self.part = part
        self.figures = [one for one in self.figures if one.part != part]

    def add(
        self,
        measure: str,
        side: str,
        value: float,
        *,
        unit: str = "events/s",
        cpu: Mapping[str, float] | None = None,
        memory: Mapping[str, int] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Add what one round of one side gave, and tell it."""
        figure = self.find(measure, side)
        if figure is None:
            figure = Figure(self.part, measure, side, unit)
            self.figures.append(figure)
        figure.values.append(round(value, 3))
        if cpu is not None:
            figure.cpu.append({name: round(share, 3) for name, share in cpu.items()})
        if memory is not None:
            figure.memory.append(dict(memory))
        if more is not None:
            figure.more.append({
                name: round(one, 3) if isinstance(one, float) else one
                for name, one in more.items()
            })  # fmt: skip
        used = ", ".join(f"{name} {share:.0%}" for name, share in (cpu or {}).items())
        told = ", ".join(
            f"{name} {one:.1f}" for name, one in (more or {}).items() if isinstance(one, float)
        )
        print(f"{measure:32} {side:26} {value:>10,.0f} {unit}  {told}  [{used}]", flush=True)

    def find(self, measure: str, side: str) -> Figure | None:
        for one in self.figures:
            if (one.measure, one.side) == (measure, side):
                return one
        return None

    def of(self, measure: str) -> list[Figure]:
        return [one for one in self.figures if one.measure == measure]

    def save(self) -> None:
        kept = {"facts": self.facts, "figures": [msgspec.to_builtins(one) for one in self.figures]}
        self.path.write_text(json.dumps(kept, indent=1) + "\n")


def ratio(one: Figure, other: Figure) -> float:
    """The median of the ratios of each round, both sides of which ran one after the other."""
    pairs: Sequence[tuple[float, float]] = list(zip(one.values, other.values, strict=False))
    return statistics.median(mine / theirs for mine, theirs in pairs)
