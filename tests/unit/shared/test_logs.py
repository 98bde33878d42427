"""Log lines: readable by machines, and never with a field that nobody has allowed."""

import asyncio
import errno
import io
import logging
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

import orjson
import pytest
import structlog

from shared import logs
from shared.config import LogConfig
from shared.store.rows import Label

CPF = "258.722.521-37"


class Colour(StrEnum):
    RED = "red"


Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """Logging as a process sets it up; returns the lines written so far."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    before = {name: list(logging.getLogger(name).handlers) for name in logs._FOREIGN}
    logs.configure_logs(LogConfig(level="debug", format="json"), role="test")
    yield lambda: [orjson.loads(line) for line in written.getvalue().splitlines()]
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    for name, handlers in before.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = handlers, True
        logger.setLevel(logging.NOTSET)


def test_a_line_says_when_where_and_what(lines: Lines) -> None:
    logs.get_logger("worker.x").info("batch.done", count=3, status=None)
    (line,) = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "batch.done", "level": "info", "role": "test", "component": "worker.x",
        "count": 3, "status": None,
    }  # fmt: skip


def test_a_field_that_is_not_allowed_is_withheld(lines: Lines) -> None:
    logs.get_logger("x").info("said", body=CPF, tax_id=CPF)
    (line,) = lines()
    assert (line["body"], line["tax_id"]) == (logs.WITHHELD, logs.WITHHELD)


def test_of_an_exception_only_the_type_is_told(lines: Lines) -> None:
    try:
        int(CPF)
    except ValueError:
        logs.get_logger("x").exception("broke")
    (line,) = lines()
    assert line["error_type"] == "ValueError"
    assert CPF not in str(line)


def test_what_a_library_quotes_is_not_repeated(lines: Lines) -> None:
    logging.getLogger("aiormq.connection").warning("the body was %s", CPF)
    (line,) = lines()
    assert (line["event"], line["component"]) == ("library.message", "aiormq.connection")
    assert CPF not in str(line)


@pytest.mark.parametrize("value", [Colour.RED, 2**70, object, b"\xff", {Colour.RED: 1}, {1: 2}])
def test_no_value_costs_a_line(lines: Lines, value: object) -> None:
    logs.get_logger("x").info("said", state=value, **{Colour.RED: 1})
    (line,) = lines()
    assert line["event"] == "said"


def test_many_lines_at_once_are_lines_like_any_other(lines: Lines) -> None:
    writer = logs.LineWriter("worker.x", "event.stored", ("event_id", "tax_id", "seconds"))
    writer.write([("e1", CPF, 0.5), ("e2", CPF, 1.5)])
    writer.write([])
    logs.get_logger("worker.x").info("event.stored", event_id="e3", tax_id=CPF, seconds=2.5)
    first, second, third = lines()
    assert third.pop("timestamp")[:10] == first.pop("timestamp")[:10]
    second.pop("timestamp")
    assert first == third | {"event_id": "e1", "seconds": 0.5}
    assert second == third | {"event_id": "e2", "seconds": 1.5}


async def test_lines_of_one_turn_are_written_together(lines: Lines) -> None:
    writer = logs.LineWriter("worker.x", "event.stored", ("event_id", "tax_id"))
    writer.add("e1", CPF)
    writer.add("e2", CPF)
    assert lines() == []
    await asyncio.sleep(0)
    writer.add("e3", CPF)
    assert [one["event_id"] for one in lines()] == ["e1", "e2"]
    await asyncio.sleep(0)
    told = lines()
    assert [one["event_id"] for one in told] == ["e1", "e2", "e3"]
    assert {one["tax_id"] for one in told} == {logs.WITHHELD}


def test_many_lines_heed_level_and_format(capsys: pytest.CaptureFixture[str]) -> None:
    writer = logs.LineWriter("worker.x", "event.stored", ("event_id",))
    try:
        logs.configure_logs(LogConfig(level="warning"), role="test")
        writer.write([("e1",)])
        assert capsys.readouterr().err == ""
        logs.configure_logs(LogConfig(format="console"), role="test")
        writer.write([("e1",)])
        assert "event.stored" in capsys.readouterr().err
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()


class Disk(io.StringIO):
    """Takes lines unless it fails, as a full disk does, or a pipe that nobody reads any more."""

    failing = False

    def write(self, text: str, /) -> int:
        if self.failing:
            raise OSError(errno.ENOSPC, "no space left on device")
        return super().write(text)

    def flush(self) -> None:
        if self.failing:
            raise BrokenPipeError(errno.EPIPE, "broken pipe")


def test_what_cannot_be_written_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk()
    monkeypatch.setattr(sys, "stderr", disk)
    writer = logs.LineWriter("worker.x", "event.stored", ("event_id",))
    try:
        logs.configure_logs(LogConfig(), role="test")
        logger = logs.get_logger("x")
        for disk.failing in (False, True, False):
            logger.info("batch.done")
            writer.write([("e1",)])
            logging.getLogger("aiormq").warning("complains")
    finally:
        structlog.reset_defaults()
        structlog.contextvars.clear_contextvars()
    told = [orjson.loads(line)["event"] for line in disk.getvalue().splitlines()]
    assert told == ["batch.done", "event.stored", "library.message"] * 2


def test_what_became_of_an_event_may_be_told() -> None:
    assert {one.value for one in Label} <= logs.ALLOWED_FIELDS
