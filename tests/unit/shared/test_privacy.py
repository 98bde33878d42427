import logging
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import structlog

from shared.config import LogConfig
from shared.logs import WITHHELD, configure_logs, get_logger
from shared.privacy import mask, mask_tax_ids


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("25872252137", "***.722.521-**"),
        ("258.722.521-37", "***.722.521-**"),
        ('{"taxId":"12345678901"}', '{"taxId":"***.456.789-**"}'),
        ("12345678000195", "**.345.678/****-**"),
        ("12.345.678/0001-95", "**.345.678/****-**"),
        ("12ABC34501DE35", "**.ABC.345/****-**"),
        ("no id in here, only 2022-06-25T20:08:17.848Z", None),
        ("1495468585434-0e73d1719173766fe4dfe1a8", None),
    ],
)
def test_tax_ids_are_masked_and_nothing_else(text: str, masked: str | None) -> None:
    assert mask_tax_ids(text) == (text if masked is None else masked)


@pytest.fixture
def clean() -> Iterator[None]:
    """Forget afterwards how logs were set up."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def set_up() -> None:
    configure_logs(LogConfig(level="debug"), role="test")


def line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    (only,) = capsys.readouterr().err.splitlines()
    read: dict[str, Any] = orjson.loads(only)
    return read


def test_a_field_that_is_not_allowed_is_withheld(
    clean: None, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up()
    get_logger("x").info("event.applied", count=3, body='{"cpf":"25872252137"}')
    logged = line(capsys)
    assert logged["body"] == WITHHELD
    assert (logged["count"], logged["role"], logged["component"]) == (3, "test", "x")


def test_of_an_error_only_the_type_is_told(clean: None, capsys: pytest.CaptureFixture[str]) -> None:
    set_up()
    try:
        int("cannot parse 25872252137")
    except ValueError:
        get_logger("x").exception("event.refused")
    logged = line(capsys)
    assert logged["error_type"] == "ValueError"
    assert "25872252137" not in str(logged)


def test_a_library_is_not_quoted(clean: None, capsys: pytest.CaptureFixture[str]) -> None:
    set_up()
    logging.getLogger("aiormq.channel").error("Unhandled message %r", b'{"cpf":"25872252137"}')
    logged = line(capsys)
    assert logged["event"] == "library.message"
    assert "25872252137" not in str(logged)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"u":"https://ana:secret@example.com/x"}', '{"u":"https://***@example.com/x"}'),
        (r'{"u":"https:\/\/ana:secret@example.com\/x"}', r'{"u":"https:\/\/***@example.com\/x"}'),
        ("https://token@example.com", "https://***@example.com"),
        ("https://example.com/a@b", "https://example.com/a@b"),
        ("write to ana@example.com", "write to ana@example.com"),
    ],
)
def test_credentials_in_urls_are_masked(text: str, shown: str) -> None:
    assert mask(text) == shown
