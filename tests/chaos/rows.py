"""All rows of the catalogue, in the order of the table."""

from tests.chaos.catalogue import Row
from tests.chaos.faults import (
    broker,
    broker_link,
    endpoints,
    messages,
    processes,
    spool,
    store_postgres,
    store_sqlite,
)
from tests.chaos.simulated import rows as simulated

REAL: tuple[Row, ...] = tuple(
    row
    for chapter in (
        broker_link.CHAPTER, broker.CHAPTER, spool.CHAPTER, store_postgres.CHAPTER,
        store_sqlite.CHAPTER, processes.CHAPTER, endpoints.CHAPTER, messages.CHAPTER,
    )
    for row in chapter.rows
)  # fmt: skip

SIMULATED: tuple[Row, ...] = simulated.ROWS
