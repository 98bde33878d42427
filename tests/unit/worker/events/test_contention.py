"""Telling from the kernel's figures whether processors are short."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.events import contention as module
from worker.events.contention import (
    CONTENDED,
    INTERVAL,
    Contention,
    Reading,
    has_quota,
    read_schedstat,
)


@pytest.fixture(autouse=True)
def no_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever bounds the process that runs the tests."""
    monkeypatch.setattr(module, "has_quota", lambda: False)


def contention(*readings: Reading | None) -> Contention:
    told: Iterator[Reading | None] = iter(readings)
    return Contention(lambda: next(told))


def test_who_hardly_waits_has_the_processors_for_himself() -> None:
    assert not contention((0, 0), (INTERVAL, INTERVAL // 10))()


def test_who_waits_for_long_has_them_not() -> None:
    assert contention((0, 0), (INTERVAL, INTERVAL))()


def test_only_what_came_since_the_last_look_counts() -> None:
    long_ago = 1_000 * INTERVAL
    told = contention(
        (long_ago, 0), (long_ago + INTERVAL, INTERVAL), (long_ago + 9 * INTERVAL, INTERVAL)
    )
    assert told()
    assert not told()


def test_a_moment_tells_nothing() -> None:
    """Before enough time has passed the last answer stands."""
    told = contention((0, 0), (0, INTERVAL - 1), (0, INTERVAL), (INTERVAL - 1, INTERVAL))
    assert [told(), told(), told()] == [False, True, True]


def test_where_the_kernel_tells_nothing_nobody_is_waited_for() -> None:
    assert not contention(None, (0, INTERVAL))()
    assert not contention((0, 0), None)()


def test_the_kernel_tells_both_figures() -> None:
    """A process that runs has run for some time."""
    reading = read_schedstat()
    assert reading is None or (reading[0] > 0 and reading[1] >= 0)
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
    assert not contention((0, INTERVAL))()
