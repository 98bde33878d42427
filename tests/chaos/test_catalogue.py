"""The catalogue is whole, and its README says what it holds."""

from tests.chaos import table
from tests.chaos.catalogue import Layer


def test_no_two_rows_have_one_name_and_there_are_enough() -> None:
    rows = table.rows()
    assert len({row.name for row in rows}) == len(rows)
    assert len(rows) >= 45
    assert sum(row.layer is Layer.REAL for row in rows) >= 35


def test_the_readmes_table_is_that_of_the_catalogue() -> None:
    text = table.README.read_text()
    _, _, rest = text.partition(table.BEGIN)
    lines = rest.partition(table.END)[0].removeprefix(table.HEAD).splitlines()
    written = [line for line in lines if line.startswith("|")]
    wanted = [table.fixed(number, row) for number, row in enumerate(table.rows(), 1)]
    assert [line[: len(begin)] for line, begin in zip(written, wanted, strict=True)] == wanted
