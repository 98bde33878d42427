"""An outage of an hour fills no disk."""

from typing import Any

import pytest
import structlog

from shared.sparing import BURST, KINDS_MAX, WINDOW, Sparing


class Log:
    """Lines that were written, by a clock of our own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[dict[str, Any]] = []
        self._sparing = Sparing(lambda: self.now)

    def write(self, level: str = "warning", event: str = "store.unavailable", **more: Any) -> None:
        try:
            line = self._sparing(None, level, {"event": event, "level": level, **more})
        except structlog.DropEvent:
            return
        self.lines.append(dict(line))


def test_an_hour_of_one_fault_is_a_few_lines_a_minute_however_often_it_strikes() -> None:
    log = Log()
    for second in range(3_600):
        log.now = float(second)
        for _ in range(100):
            log.write(error="refused")
    assert len(log.lines) == BURST * 60
    told = sum(line.get("repeated", 0) for line in log.lines)
    assert told == 59 * (100 * WINDOW - BURST)


def test_another_fault_is_told_at_once() -> None:
    log = Log()
    for _ in range(50):
        log.write(error="refused")
    log.write(error="timed out")
    log.write(error="refused", worker="another")
    assert [line["error"] for line in log.lines[BURST:]] == ["timed out", "refused"]


def test_work_done_is_told_each_time_but_refusals_are_not() -> None:
    log = Log()
    for _ in range(100):
        log.write("info", "batch.accepted")
        log.write("info", "batch.refused", reason="full", status=503)
    events = [line["event"] for line in log.lines]
    assert (events.count("batch.accepted"), events.count("batch.refused")) == (100, BURST)


def test_faults_that_differ_each_time_take_neither_memory_nor_disk() -> None:
    log = Log()
    for number in range(100_000):
        log.write(error=f"number {number}")
    assert len(log._sparing._seen) <= KINDS_MAX + 1
    assert len(log.lines) <= KINDS_MAX + BURST


@pytest.mark.parametrize("level", ["error", "critical"])
def test_every_kind_of_complaint_is_spared(level: str) -> None:
    log = Log()
    for _ in range(100):
        log.write(level)
    assert len(log.lines) == BURST
