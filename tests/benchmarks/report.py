"""The figures as a table and a plot, and what is held against them."""

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from tests.benchmarks.calling import BARE
from tests.benchmarks.ingest import LATENCY, NOOP, RAW, measure
from tests.benchmarks.processing import CONSUME
from tests.benchmarks.results import Book, ratio
from tests.benchmarks.sides import CORREIO, FASTSTREAM, PEERS

MEGABYTE = 1_000_000


class Bar(Struct, frozen=True):
    """What a figure of ours must be of another one's, at the least or at the most."""

    measure: str
    other_measure: str
    other: str
    least: float = 0.0
    most: float = 0.0

    @property
    def text(self) -> str:
        return f"at least {self.least:g}" if self.least else f"at most {self.most:g}"


def _bars() -> Iterator[Bar]:
    yield Bar(measure(1), measure(1), NOOP, 0.5)
    yield Bar(measure(1), measure(1), FASTSTREAM.name, 4.0)
    for batch in (10, 50):
        yield Bar(measure(batch), "publish", RAW, 0.5)
        yield Bar(measure(batch), measure(batch), FASTSTREAM.name, 6.0)
    for store in ("sqlite", "postgres"):
        name = f"processing, {store}"
        yield Bar(name, "consume", CONSUME, 0.5)
        yield Bar(name, name, FASTSTREAM.name, 3.0)
    name = "end to end, sqlite"
    yield Bar(name, name, FASTSTREAM.name, 3.5)
    for store in ("sqlite", "postgres"):
        yield Bar(f"callbacks, 1 endpoints, {store}", "post", BARE, 0.3)
    yield Bar(
        "cost of a callback, 1000 endpoints, sqlite",
        "cost of a callback, 1 endpoints, sqlite", CORREIO.name, most=1.2,
    )  # fmt: skip


BARS = tuple(_bars())


def bar_lines(book: Book) -> list[str]:
    """One line of a table for each bar whose two figures are there."""
    lines = ["| What | Against | Ratio | Wanted | |", "|---|---|---:|---|---|"]
    for bar in BARS:
        ours = book.find(bar.measure, CORREIO.name)
        other = book.find(bar.other_measure, bar.other)
        if ours is None or other is None:
            continue
        found = ratio(ours, other)
        met = "yes" if (found >= bar.least if bar.least else found <= bar.most) else "**no**"
        against = bar.other_measure if bar.other == CORREIO.name else bar.other
        lines.append(f"| {bar.measure} | {against} | {found:.2f} | {bar.text} | {met} |")
    for figure in book.figures:
        if figure.measure.startswith(f"{LATENCY}, 50%"):
            p50, p99 = figure.median_of("p50"), figure.median_of("p99")
            met = p50 < 8 and p99 < 30
            lines.append(
                f"| {figure.measure}: p50, p99 | | {p50:.1f} ms, {p99:.1f} ms "
                f"| under 8 ms, 30 ms | {'yes' if met else '**no**'} |"
            )
    return lines


def table(book: Book) -> list[str]:
    """Every figure: median, spread, CPU and memory."""
    lines = ["| What | Side | Median | Spread | p50, p99 ms (connections) | CPU | Memory |",
             "|---|---|---:|---:|---|---|---|"]  # fmt: skip
    for one in book.figures:
        cpu = ", ".join(f"{name} {share:.0%}" for name, share in one.median_cpu().items())
        memory = ", ".join(
            f"{name} {size / MEGABYTE:.0f} MB" for name, size in one.most_memory().items()
        )
        latency = "; ".join(
            f"{name}: {one.median_of(name):,.0f}"
            for name in (one.more[0] if one.more else ())
            if " " in name or name in ("accepted", "refused", "stored")
        )
        if one.more and "p99" in one.more[0]:
            latency = f"{one.median_of('p50'):.1f}, {one.median_of('p99'):.1f}"
            if all("connections" in each for each in one.more):
                latency += f" ({one.median_of('connections'):.0f})"
        value = f"{one.median:,.0f}" if one.median >= 100 else f"{one.median:,.1f}"
        lines.append(
            f"| {one.measure} | {one.side} | {value} {one.unit} | ± {one.spread:.0%} "
            f"| {latency} | {cpu} | {memory} |"
        )
    return lines


def write(book: Book, path: Path) -> None:
    """Write the tables as Markdown."""
    facts = "; ".join(f"{name}: {value}" for name, value in book.facts.items())
    text = [
        "# Figures", "",
        "Written by `make bench`; [README.md](README.md) says what each means. Compare only within",
        "one run: the machine drifts. Each ratio is the median of the ratios of single rounds.", "",
        facts, "", "## Against limits and peers", "", *bar_lines(book), "", "## Everything", "",
        *table(book), "",
    ]  # fmt: skip
    path.write_text("\n".join(text))


def plot(book: Book, path: Path) -> None:
    """Draw the medians of all sides next to one another."""
    import matplotlib as mpl  # noqa: PLC0415 - an optional extra

    mpl.use("svg")
    import matplotlib.pyplot as plt  # noqa: PLC0415 - only after the choice of what draws

    mpl.rcParams |= {"svg.hashsalt": "correio", "font.size": 8}
    groups = [
        [measure(batch) for batch in (1, 10, 50, 500)],
        [f"{what}, {store}" for what in ("processing", "end to end")
         for store in ("sqlite", "postgres")],
    ]  # fmt: skip
    names = [CORREIO.name, *(peer.name for peer in PEERS)]
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
    for axis, group in zip(axes, groups, strict=True):
        shown = [one for one in group if book.find(one, CORREIO.name)]
        width = 0.8 / len(names)
        for number, name in enumerate(names):
            found = [book.find(one, name) for one in shown]
            axis.bar(
                [place + (number - (len(names) - 1) / 2) * width for place in range(len(shown))],
                [one.median if one else 0 for one in found], width, label=name,
            )  # fmt: skip
        axis.set_xticks(range(len(shown)), [one.replace(", ", "\n", 1) for one in shown])
        axis.set_ylabel("events/s")
        axis.grid(axis="y", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
