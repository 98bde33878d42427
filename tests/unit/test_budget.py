"""No hot path becomes a fifth dearer unnoticed; see `tests.benchmarks.budget`."""

import pytest

from tests.benchmarks import budget


@pytest.mark.parametrize("path", budget.PATHS)
def test_a_hot_path_keeps_within_its_budget(path: str) -> None:
    known = budget.stored().get(budget.version())
    if known is None:
        pytest.skip(f"no budget for Python {budget.version()}: python -m tests.benchmarks.budget")
    now = budget.counted(path)
    assert now <= known[path] * budget.DEARER, (
        f"{path} takes {now:.1f} steps for each, {now / known[path]:.2f} of its budget. If that is "
        "worth it: python -m tests.benchmarks.budget --renew"
    )


def test_the_same_work_takes_the_same_steps() -> None:
    """All but the few that depend on random ids: far less than what a budget leaves room for."""
    for path in ("admit", "apply"):
        assert budget.counted(path) == pytest.approx(budget.counted(path), rel=0.02)


def test_more_work_takes_more_steps() -> None:
    work = budget.PATHS["call"]()
    once = budget.steps(work)
    assert budget.steps(lambda: (work(), work())) > 1.9 * once
