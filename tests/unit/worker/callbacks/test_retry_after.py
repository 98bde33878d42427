import pytest

from worker.callbacks.retry_after import LONGEST, read_retry_after

NOW = 1_445_412_480_000  # Wed, 21 Oct 2015 07:28:00 GMT


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("9" * 400, LONGEST),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0),
        ("Wednesday, 21-Oct-15 07:29:00 GMT", 60.0),
        ("Wed Oct 21 07:30:00 2015", 120.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST),
    ],
)
def test_what_can_be_read(text: str, seconds: float) -> None:
    assert read_retry_after(text, now=NOW) == seconds


@pytest.mark.parametrize(
    "text",
    [None, "", "soon", "-5", "1.5", "1e3", "٣", "Wed, 99 Oct 2015 07:28:00 GMT", "0x10", "\x00"],
)
def test_what_cannot_is_as_if_absent(text: str | None) -> None:
    assert read_retry_after(text, now=NOW) is None
