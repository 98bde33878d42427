"""Logging: structlog, one line of JSON per unit of work, and only fields known to be harmless.

Personal data cannot leak through a field nobody thought of: a field that is not on
`ALLOWED_FIELDS` is replaced by ``[withheld]``. Messages of foreign libraries are kept to
their logger's name and level, since they may quote a body.
"""

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import Iterable, MutableMapping, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO, cast

import orjson
import structlog

from shared.config import LogConfig
from shared.sparing import Sparing

WITHHELD = "[withheld]"

ALLOWED_FIELDS: frozenset[str] = frozenset({
    # the frame of every line
    "event", "level", "timestamp", "component", "role", "pid", "version",
    # ids that name no person
    "batch_id", "event_id", "delivery_id", "trace_id", "source", "endpoint", "aggregate",
    "queue", "worker", "type", "label", "reason",
    # figures and outcomes
    "accepted", "count", "bytes", "status", "outcome", "attempt", "duration_ms", "seconds",
    "state", "unreadable", "applied", "duplicate", "divergent", "stale", "recorded", "quarantined",
    "erased",
    "next_in", "port", "host", "path", "error", "error_type", "signal", "remedy", "limit",
    "repeated",
})  # fmt: skip

_FOREIGN = ("aiormq", "aio_pika", "aiohttp", "asyncio", "psycopg", "psycopg.pool", "opentelemetry")


def configure_logs(config: LogConfig, *, role: str) -> None:
    """Set up structlog and the standard library's logging for a process of this role."""
    level = logging.getLevelNamesMapping()[config.level.upper()]
    renderer: Any = (
        structlog.processors.JSONRenderer(serializer=_json)
        if config.format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _name_error,
            Sparing(),
            _withhold,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Lenient(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(role=role)
    for name in _FOREIGN:
        foreign = logging.getLogger(name)
        foreign.handlers = [_ForeignHandler()]
        foreign.setLevel(max(level, logging.WARNING))
        foreign.propagate = False


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines carry `name` as their component."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(component=name)
    return logger


class LineWriter:
    """Writes many lines of one kind at once: what all have in common is made once.

    The same rules hold as for any line: fields that are not allowed are withheld.
    """

    def __init__(self, name: str, event: str, fields: Sequence[str]) -> None:
        """`name`: the component; `event`: what each line says happened; `fields`: of each line."""
        self._name = name
        self._event = event
        self._fields = fields
        self._withheld = {one: WITHHELD for one in fields if one not in ALLOWED_FIELDS}
        self._waiting: list[Sequence[Any]] = []

    def add(self, *row: Any) -> None:
        """Write one line soon: together with all others of this turn of the event loop."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._write_waiting)
        self._waiting.append(row)

    def write(self, rows: Iterable[Sequence[Any]]) -> None:
        """Write one line for each row of values, at level ``info``."""
        logger = get_logger(self._name)
        if not logger.is_enabled_for(logging.INFO):
            return
        config = structlog.get_config()
        if not isinstance(config["processors"][-1], structlog.processors.JSONRenderer):
            for row in rows:
                logger.info(self._event, **dict(zip(self._fields, row, strict=True)))
            return
        frame = {
            **structlog.contextvars.get_contextvars(),
            "component": self._name,
            "event": self._event,
            "level": "info",
            "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        }
        head = _json(frame)[:-1] + ","
        text = "\n".join([
            head + _json(dict(zip(self._fields, row, strict=True)) | self._withheld)[1:]
            for row in rows
        ])  # fmt: skip
        if text:
            config["logger_factory"]().msg(text)

    def _write_waiting(self) -> None:
        rows, self._waiting = self._waiting, []
        self.write(rows)


def _json(line: Any, **_options: Any) -> str:
    try:
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # such as a number of more than 64 bits
        return json.dumps(line, default=str)


def _name_error(
    _logger: Any, _method: str, fields: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Replace an exception by its type: its text may quote the data it failed on."""
    raised = fields.pop("exc_info", None)
    if raised is True:
        raised = sys.exc_info()[1]
    if isinstance(raised, tuple):
        raised = raised[1]
    if isinstance(raised, BaseException):
        fields["error_type"] = type(raised).__qualname__
    return fields


def _withhold(
    _logger: Any, _method: str, fields: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for name in fields.keys() - ALLOWED_FIELDS:
        fields[name] = WITHHELD
    return fields


class _Lenient:
    """A stream on which lines are lost that cannot be written: no log is worth a batch."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


class _ForeignHandler(logging.Handler):
    """Says that a library complained, where, and of what type; never what it quoted."""

    def emit(self, record: logging.LogRecord) -> None:
        raised = record.exc_info[1] if record.exc_info else None
        structlog.get_logger(component=record.name).log(
            record.levelno,
            "library.message",
            path=f"{record.module}:{record.lineno}",
            error_type=type(raised).__qualname__ if raised else None,
        )
