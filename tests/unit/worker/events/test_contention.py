"""Telling from the kernel's figures whether processors are short."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.events import contention as module
from worker.events.contention import (
    CONTENDED,
    INTERVAL,
    Contention,
    has_quota,
    read_waited,
)


@pytest.fixture(autouse=True)
def no_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever bounds the process that runs the tests."""
    monkeypatch.setattr(module, "has_quota", lambda: False)


def contention(*waited: float | None) -> Contention:
    told: Iterator[float | None] = iter(waited)
    return Contention(lambda: next(told))


def test_who_hardly_waits_has_the_processors_for_himself() -> None:
    assert not contention(0, 0.01)(0.1)


def test_who_waits_for_long_has_them_not() -> None:
    assert contention(0, 0.05)(0.1)


def test_only_what_came_since_the_last_look_counts() -> None:
    told = contention(100, 100.05, 100.06)
    assert told(0.1)
    assert not told(0.1)


def test_a_moment_tells_nothing() -> None:
    """Before enough time has passed at work the last answer stands, and the moments add up."""
    told = contention(0, 0.5 * INTERVAL, INTERVAL, INTERVAL, INTERVAL)
    assert [told(0.6 * INTERVAL) for _ in range(4)] == [False, True, True, False]


def test_where_the_kernel_tells_nothing_nobody_is_waited_for() -> None:
    assert not contention(None)(0.1)
    assert not contention(0, None)(0.1)


def test_the_kernel_tells_it_in_seconds() -> None:
    """Less than this process has lived."""
    waited = read_waited()
    assert waited is None or 0 <= waited < time.monotonic()
    assert 0 < CONTENDED < 1


@pytest.mark.parametrize(("limit", "found"), [("max 100000", False), ("50000 100000", True)])
def test_a_quota_is_found_by_the_path_of_the_process(
    tmp_path: Path, *, limit: str, found: bool
) -> None:
    own, folder = tmp_path / "cgroup", tmp_path / "fs" / "system.slice" / "events.service"
    own.write_text("0::/system.slice/events.service\n")
    folder.mkdir(parents=True)
    (folder / "cpu.max").write_text(f"{limit}\n")
    assert has_quota(own, tmp_path / "fs") is found


def test_where_there_are_no_such_groups_there_is_no_quota(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    assert not has_quota(own, tmp_path)
    own.write_text("4:cpu,cpuacct:/\n2:memory:/\n")
    assert not has_quota(own, tmp_path)


def test_what_a_quota_holds_back_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_quota", lambda: True)
    assert not contention()(1.0)
