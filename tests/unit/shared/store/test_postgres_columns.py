"""Columns are sent as the driver itself would send them, only quicker."""

from typing import Any

import psycopg
import pytest
from psycopg.adapt import PyFormat, Transformer

from shared.store.postgres.columns import Blobs, Column, Numbers, Texts, columns, register

BIG = 2**63 - 1


def sent(value: Column | list[Any]) -> bytes:
    """`value` as a connection that knows columns sends it, in binary."""
    transformer = Transformer()
    register(transformer)
    return bytes(transformer.get_dumper(value, PyFormat.BINARY).dump(value) or b"")


@pytest.mark.parametrize(
    "column",
    [
        Numbers([BIG, -BIG, 0, 1]),
        Numbers([None, BIG, None]),
        Texts(["a", "", "João 😀", '{"x": null}']),
        Texts([None, "NULL"]),
        Blobs([b"\x00\xff", b""]),
        Blobs([b"x", None]),
    ],
)
def test_a_column_is_the_array_that_the_driver_makes(column: Column) -> None:
    assert sent(column) == sent(list(column))


@pytest.mark.parametrize("column", [Numbers(), Texts(), Blobs()])
def test_an_empty_column_is_an_array_without_dimensions(column: Column) -> None:
    assert sent(column)[:8] == bytes(8)


def test_rows_become_columns_of_one_type() -> None:
    found = columns([(1, "a", b"x", None, None), (2, "b", b"y", 7, None)])
    assert found == [[1, 2], ["a", "b"], [b"x", b"y"], [None, 7], [None, None]]
    assert [type(one) for one in found] == [Numbers, Texts, Blobs, Numbers, Texts]


@pytest.mark.parametrize("column", [Numbers([2**63]), Texts(["\ud800"])])
def test_what_cannot_be_sent_is_no_fault_of_the_connection(column: Column) -> None:
    with pytest.raises(Exception, match=r".") as raised:
        sent(column)
    assert not isinstance(raised.value, psycopg.OperationalError)
