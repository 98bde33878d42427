import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.batch import EVENT_ID_MAX, _structure, event_id, split
from receiver.problems import Reason, Refusal

MAX_EVENTS = 10
MAX_DEPTH = 8
MIB = 2**20


def events(body: bytes) -> tuple[bytes, ...]:
    found = split(body, max_events=MAX_EVENTS, max_depth=MAX_DEPTH)
    assert not isinstance(found, Refusal), found
    return found


def reason(body: bytes, *, max_events: int = MAX_EVENTS, max_depth: int = MAX_DEPTH) -> Reason:
    found = split(body, max_events=max_events, max_depth=max_depth)
    assert isinstance(found, Refusal), found
    return found.reason


def nested(depth: int, *, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * depth + b"1" + closing * depth


@pytest.mark.parametrize(
    ("body", "elements"),
    [
        (b"[]", ()),
        (b"{}", (b"{}",)),
        (b' \n{"a": 1}\t', (b'{"a": 1}',)),
        (b'[{"a":1.0},{ "b" : 2 }]', (b'{"a":1.0}', b'{ "b" : 2 }')),
        ('[{"a":"João"}]'.encode(), ('{"a":"João"}'.encode(),)),
        (b'[1,"x",null,[2],true]', (b"1", b'"x"', b"null", b"[2]", b"true")),
        (b'[{"a":1,"a":2}]', (b'{"a":1,"a":2}',)),
        (b"[" + b"9" * 5000 + b",1e400]", (b"9" * 5000, b"1e400")),
        (b'["\\u0000"]', (b'"\\u0000"',)),
        (b'["\\ud800"]', (b'"\\ud800"',)),
        (
            b'[1, "\\uD800\\" ,[" , {"a":"\\udfff"} ]',
            (b"1", b'"\\uD800\\" ,["', b'{"a":"\\udfff"}'),
        ),
        (b'["\\\\ud800", "\\ud800", 1]', (b'"\\\\ud800"', b'"\\ud800"', b"1")),
        (b' {"a":"\\ud83d\\ude00\\ud800"} ', (b'{"a":"\\ud83d\\ude00\\ud800"}',)),
    ],
)
def test_elements_keep_their_own_bytes(body: bytes, elements: tuple[bytes, ...]) -> None:
    assert events(body) == elements


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", Reason.NOT_JSON),
        (b"  ", Reason.NOT_JSON),
        (b"[NaN]", Reason.NOT_JSON),
        (b"[Infinity]", Reason.NOT_JSON),
        (b"[1,]", Reason.NOT_JSON),
        (b"[1] [2]", Reason.NOT_JSON),
        (b"{'a':1}", Reason.NOT_JSON),
        (b"\xef\xbb\xbf[1]", Reason.NOT_JSON),
        (b'["\\ud800"', Reason.NOT_JSON),
        (b'["\x00"]', Reason.NOT_JSON),
        (b'["\\x"]', Reason.NOT_JSON),
        (b'["\xff"]', Reason.NOT_UTF8),
        (b'["\xed\xa0\x80"]', Reason.NOT_UTF8),
        ("[1]".encode("utf-16"), Reason.NOT_UTF8),
        (b"null", Reason.NOT_A_BATCH),
        (b'"text"', Reason.NOT_A_BATCH),
        (b"17", Reason.NOT_A_BATCH),
        (b"[" + b"1," * MAX_EVENTS + b"1]", Reason.TOO_MANY_EVENTS),
    ],
)
def test_what_is_no_batch_is_refused(body: bytes, expected: Reason) -> None:
    assert reason(body) == expected


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_depth_is_counted_from_the_outermost(opening: bytes, closing: bytes) -> None:
    assert events(nested(MAX_DEPTH, opening=opening, closing=closing))
    too_deep = nested(MAX_DEPTH + 1, opening=opening, closing=closing)
    assert reason(too_deep) == Reason.TOO_DEEP
    assert reason(b"[" + nested(MAX_DEPTH, opening=opening, closing=closing) + b"]") == (
        Reason.TOO_DEEP
    )
    assert reason(nested(1_000_000, opening=opening, closing=closing)) == Reason.TOO_DEEP


def test_brackets_in_strings_do_not_count_as_depth() -> None:
    body = b'["' + b"[" * 100 + b'\\"{{{{{{{{{{"]'
    assert len(events(body)) == 1


def test_many_brackets_beside_one_another_are_not_deep() -> None:
    assert len(events(b"[[" + b",".join([b'{"a":[]}'] * 1000) + b"]]")) == 1


def test_a_million_tiny_elements_are_refused_before_they_are_made() -> None:
    body = b"[" + b"1," * 1_000_000 + b"1]"
    assert reason(body) == Reason.TOO_MANY_EVENTS


def test_commas_inside_events_do_not_count_as_events() -> None:
    element = b'{"a":[' + b",".join([b'{"b":",,,"}'] * 1000) + b"]}"
    assert len(events(b"[" + b",".join([element] * MAX_EVENTS) + b"]")) == MAX_EVENTS
    many = b"[" + b",".join([element] * (MAX_EVENTS + 1)) + b"]"
    assert reason(many) == Reason.TOO_MANY_EVENTS


@pytest.mark.parametrize(
    "body",
    [
        b'["' + b"," * MIB + b'"]',
        b'["' + b'\\",' * (MIB // 3) + b'"]',
        b'["' + b"\\\\" * (MIB // 2) + b'\\ud800"]',
    ],
    ids=["plain", "escaped", "backslashes"],
)
def test_a_long_string_costs_no_more_than_a_few_copies_of_it(body: bytes) -> None:
    tracemalloc.start()
    try:
        assert len(events(body)) == 1
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 6 * len(body)


@pytest.mark.parametrize("last", [b"", b"\\", b"\\\n"])
def test_a_string_without_an_end_goes_on_to_the_end(last: bytes) -> None:
    """Else every quote in it would begin a search of its own, each as long as what is left."""
    assert _structure(b'[1,"' + b'\\"' * 100 + last, b"") == b"[1,"
    assert reason(b"[1," + b'"' + b'\\",' * 10_000 + last) == Reason.NOT_JSON


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(
    batch=st.lists(VALUES, max_size=6), ascii_only=st.booleans(), indent=st.sampled_from([None, 1])
)
def test_splitting_agrees_with_the_standard_parser(
    batch: list[Any], *, ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(batch, ensure_ascii=ascii_only, indent=indent)
    try:
        body = text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which only the escaped form can carry
        body = json.dumps(batch, indent=indent).encode()
    found = split(body, max_events=6, max_depth=100)
    assert not isinstance(found, Refusal)
    assert [json.loads(element) for element in found] == batch


@given(st.binary(max_size=60) | st.text('[]{}",:\\ud8019 \n', max_size=60).map(str.encode))
def test_nothing_makes_it_raise(body: bytes) -> None:
    split(body, max_events=MAX_EVENTS, max_depth=MAX_DEPTH)


@pytest.mark.parametrize(
    ("event", "found"),
    [
        (b'{"eventId":"e-1"}', "e-1"),
        (b'{"eventID":"e-2"}', "e-2"),
        (b'{"x":[{"eventId":"inner"}],"eventId":"outer"}', "outer"),
        (b'{"eventId":7}', ""),
        (b'{"eventId":null}', ""),
        (b'{"eventId":"\\ud800"}', ""),
        (b"{}", ""),
        (b"[1]", ""),
        (b"null", ""),
        (b'{"eventId":"' + b"x" * EVENT_ID_MAX + b'"}', "x" * EVENT_ID_MAX),
        (b'{"eventId":"' + b"x" * (EVENT_ID_MAX + 1) + b'"}', ""),
    ],
)
def test_the_event_id_is_seen_where_it_is_plain(event: bytes, found: str) -> None:
    assert event_id(event) == found
