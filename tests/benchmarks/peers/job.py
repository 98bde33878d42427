"""The same job for every peer: one transaction for each event, with dedupe, upsert and outbox.

It is the least that a careful user of those libraries writes by hand: the event is kept once, a
newer one moves the state of what it speaks of, and a change leaves a row for whoever tells it on.
Both databases are as durable as they are for Correio: a commit is on disk when it returns.
"""

import hashlib
import hmac
import os
import sqlite3
from typing import Any

import orjson

from tests.benchmarks.traffic import SECRET

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS inbox (app TEXT, event_id TEXT, name TEXT, time TEXT, "
    "body {bytes} NOT NULL, PRIMARY KEY (app, event_id))",
    "CREATE TABLE IF NOT EXISTS state (app TEXT, kind TEXT, id TEXT, status TEXT, time TEXT, "
    "version INTEGER NOT NULL, document {bytes} NOT NULL, PRIMARY KEY (app, kind, id))",
    "CREATE TABLE IF NOT EXISTS outbox (id {serial}, kind TEXT, subject TEXT, status TEXT, "
    "document {bytes} NOT NULL, sent INTEGER NOT NULL DEFAULT 0)",
)

KEEP = (
    "INSERT INTO inbox (app, event_id, name, time, body) VALUES ({}, {}, {}, {}, {}) "
    "ON CONFLICT DO NOTHING"
)
MOVE = (
    "INSERT INTO state (app, kind, id, status, time, version, document) "
    "VALUES ({}, {}, {}, {}, {}, 1, {}) "
    "ON CONFLICT (app, kind, id) DO UPDATE SET status = excluded.status, time = excluded.time, "
    "version = state.version + 1, document = excluded.document WHERE excluded.time > state.time"
)
TELL = "INSERT INTO outbox (kind, subject, status, document) VALUES ({}, {}, {}, {})"


def marked(statement: str, *, numbered: bool, mark: str = "?") -> str:
    """With the database's own marks for values."""
    count = statement.count("{}")
    return statement.format(*(f"${one + 1}" if numbered else mark for one in range(count)))


def schema(*, postgres: bool) -> list[str]:
    return [
        one.format(
            bytes="BYTEA" if postgres else "BLOB",
            serial="BIGSERIAL PRIMARY KEY" if postgres else "INTEGER PRIMARY KEY",
        )
        for one in SCHEMA
    ]


def verified(body: bytes, signature: str) -> bool:
    made = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(made, signature)


def subject(event: dict[str, Any]) -> tuple[str, str, str]:
    """Kind, id and status of what an event speaks of."""
    payload = event["payload"]
    name = event["eventName"]
    if name == "link_created":
        return "link", payload["linkId"], "CREATED"
    if "consents" in payload:
        return "consent", payload["consents"]["consentId"], name.removeprefix("consent_").upper()
    return "product_request", payload["requestId"], payload.get("product") or "RECEIVED"


def rows(body: bytes) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]:
    """The values of `KEEP`, `MOVE` and `TELL`."""
    event = orjson.loads(body)
    kind, one, status = subject(event)
    document = orjson.dumps(event["payload"])
    app, time = event["partnerAppId"], event["eventTime"]
    return (
        (app, event["eventId"], event["eventName"], time, body),
        (app, kind, one, status, time, document),
        (kind, one, status, document),
    )


class Sqlite:
    """The job on SQLite, with the interpreter's own driver."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 5000"):
            self._connection.execute(f"PRAGMA {pragma}")
        for statement in schema(postgres=False):
            self._connection.execute(statement)
        self._keep, self._move, self._tell = (
            marked(one, numbered=False) for one in (KEEP, MOVE, TELL)
        )

    def do(self, body: bytes) -> None:
        keep, move, tell = rows(body)
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            if connection.execute(self._keep, keep).rowcount and (
                connection.execute(self._move, move).rowcount
            ):
                connection.execute(self._tell, tell)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise


class Asyncpg:
    """The job on PostgreSQL, with asyncpg and a pool."""

    def __init__(self, url: str, *, connections: int = 10) -> None:
        self._url, self._connections = url, connections
        self._keep, self._move, self._tell = (
            marked(one, numbered=True) for one in (KEEP, MOVE, TELL)
        )

    async def open(self) -> None:
        import asyncpg  # noqa: PLC0415 - only for those who use it

        self._pool = await asyncpg.create_pool(
            self._url, min_size=self._connections, max_size=self._connections
        )

    async def do(self, body: bytes) -> None:
        keep, move, tell = rows(body)
        async with self._pool.acquire() as connection, connection.transaction():
            if (await connection.execute(self._keep, *keep)).endswith("1") and (
                await connection.execute(self._move, *move)
            ).endswith("1"):
                await connection.execute(self._tell, *tell)


class Psycopg:
    """The job on PostgreSQL for those whose workers are threads or processes."""

    def __init__(self, url: str) -> None:
        import psycopg  # noqa: PLC0415 - only for those who use it

        self._connection = psycopg.connect(url, autocommit=True)
        self._keep, self._move, self._tell = (
            marked(one, numbered=False, mark="%s") for one in (KEEP, MOVE, TELL)
        )

    def do(self, body: bytes) -> None:
        keep, move, tell = rows(body)
        connection = self._connection
        with connection.transaction():
            if connection.execute(self._keep, keep).rowcount and (
                connection.execute(self._move, move).rowcount
            ):
                connection.execute(self._tell, tell)


def store_url() -> str:
    return os.environ["BENCH_STORE"]


def broker_url() -> str:
    return os.environ["BENCH_BROKER"]


def sqlite_path() -> str | None:
    """Where the SQLite database is; None on PostgreSQL."""
    url = store_url()
    return url.removeprefix("sqlite:///") if url.startswith("sqlite:///") else None
