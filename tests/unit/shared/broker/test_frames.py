"""What is written is what the documented decoder reads."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import frame
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from shared.broker import frames

names = st.text(min_size=1, max_size=40).filter(lambda text: len(text.encode()) < 128)
values = st.text() | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.none()


def read(data: bytes) -> list[Any]:
    """Every frame, by pamqp."""
    found = []
    while data:
        count, channel, one = frame.unmarshal(data)
        assert channel == 7
        found.append(one)
        data = data[count:]
    return found


def written(headers: dict[str, Any], body: bytes = b"", largest: int = 100) -> list[Any]:
    return read(
        b"".join(
            frames.publish(
                channel=7, exchange="there", routing_key="key", message_id=b"p-1",
                headers=headers, body=body, largest=largest,
            )
        )
    )  # fmt: skip


@given(headers=st.dictionaries(names, values, max_size=6), body=st.binary(max_size=350))
def test_a_message_is_read_as_it_was_written(headers: dict[str, Any], body: bytes) -> None:
    method, header, *bodies = written(headers, body)
    assert isinstance(method, Basic.Publish)
    assert (method.exchange, method.routing_key) == ("there", "key")
    assert (method.mandatory, method.immediate) == (True, False)
    assert isinstance(header, ContentHeader)
    assert header.body_size == len(body)
    assert header.properties.delivery_mode == frames.PERSISTENT
    assert header.properties.message_id == "p-1"
    assert (header.properties.headers or {}) == headers
    assert all(isinstance(one, ContentBody) for one in bodies)
    assert b"".join(one.value for one in bodies) == body
    assert all(len(one.value) <= 100 for one in bodies)


@pytest.mark.parametrize(
    "headers",
    [{"n": 2**63}, {"n" * 256: 1}, {"n": object()}, {"n": 2**200}],
    ids=["65 bits", "long name", "no value", "200 bits"],
)
def test_what_amqp_cannot_say_is_refused(headers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"header|name"):
        written(headers)
