"""Rows as one array for each column, in PostgreSQL's binary form.

The driver adapts the items of a list one by one in Python, which costs more than all the rest of
a bulk write. Here a column of one type is packed at once.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from psycopg import postgres, pq
from psycopg.abc import AdaptContext
from psycopg.adapt import Dumper

_NULL = struct.pack("!i", -1)
_HEAD = struct.Struct("!iiIii")  # dimensions, whether any is null, type of items, length, from 1
_EMPTY = struct.Struct("!iiI")
_LENGTH = struct.Struct("!i")
_NUMBER = struct.Struct("!iq")  # length, value


class Numbers(list[int | None]):
    """A column of integers of up to 64 bits."""


class Texts(list[str | None]):
    """A column of texts, or one that holds nothing at all."""


class Blobs(list[bytes | None]):
    """A column of bytes."""


Column = Numbers | Texts | Blobs


def columns(records: Iterable[Sequence[Any]]) -> list[Column]:
    """The columns of rows, all of which have the same types."""
    return [_column(values) for values in zip(*records, strict=True)]


def register(context: AdaptContext) -> None:
    """Teach a connection to send columns."""
    for kind, dumper in DUMPERS.items():
        context.adapters.register_dumper(kind, dumper)


def _column(values: Sequence[Any]) -> Column:
    match next((one for one in values if one is not None), None):
        case int():
            return Numbers(values)
        case bytes():
            return Blobs(values)
        case _:
            return Texts(values)


class _ColumnDumper(Dumper):
    format = pq.Format.BINARY
    item: ClassVar[int]

    def _array(self, items: Sequence[bytes | None]) -> bytes:
        """An array of these items, each with its length before it."""
        if not items:
            return _EMPTY.pack(0, 0, self.item)
        lacks = None in items
        head = _HEAD.pack(1, lacks, self.item, len(items), 1)
        return head + b"".join(_NULL if one is None else one for one in items)


class _NumbersDumper(_ColumnDumper):
    item = postgres.types["int8"].oid
    oid = postgres.types["int8"].array_oid

    def dump(self, obj: Numbers) -> bytes:
        return self._array([None if one is None else _NUMBER.pack(8, one) for one in obj])


class _TextsDumper(_ColumnDumper):
    item = postgres.types["text"].oid
    oid = postgres.types["text"].array_oid

    def dump(self, obj: Texts) -> bytes:
        return self._array([None if one is None else _sized(one.encode()) for one in obj])


class _BlobsDumper(_ColumnDumper):
    item = postgres.types["bytea"].oid
    oid = postgres.types["bytea"].array_oid

    def dump(self, obj: Blobs) -> bytes:
        return self._array([None if one is None else _sized(one) for one in obj])


DUMPERS: Mapping[type, type[Dumper]] = MappingProxyType(
    {Numbers: _NumbersDumper, Texts: _TextsDumper, Blobs: _BlobsDumper}
)
"""What makes bytes of each kind of column."""


def _sized(value: bytes) -> bytes:
    return _LENGTH.pack(len(value)) + value
