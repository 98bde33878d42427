"""What each fault that PostgreSQL or its driver raises asks of the caller."""

import psycopg
import pytest
from psycopg import errors
from psycopg_pool import PoolClosed, PoolTimeout

from shared.errors import StoreConflictError, StoreUnavailableError
from shared.store.postgres.parts import beginning, connection_values, translated


@pytest.mark.parametrize(
    "fault",
    [errors.DeadlockDetected, errors.SerializationFailure, errors.UniqueViolation],
)
def test_another_writer_got_in_between(fault: type[psycopg.Error]) -> None:
    with pytest.raises(StoreConflictError), translated():
        raise fault("DETAIL: Key (event_id)=(secret) already exists")


def test_a_conflict_shows_no_values() -> None:
    with pytest.raises(StoreConflictError) as raised, translated():
        raise errors.UniqueViolation("DETAIL: Key (event_id)=(secret) already exists")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "fault",
    [
        errors.AdminShutdown, errors.CannotConnectNow, errors.ConnectionException,
        errors.DiskFull, errors.IdleInTransactionSessionTimeout, errors.InsufficientPrivilege,
        errors.LockNotAvailable, errors.OutOfMemory, errors.QueryCanceled,
        errors.ReadOnlySqlTransaction, errors.TooManyConnections, errors.UndefinedTable,
        errors.IndexCorrupted, psycopg.OperationalError, psycopg.InterfaceError,
        psycopg.InternalError, PoolTimeout, PoolClosed, ConnectionResetError,
    ],
)  # fmt: skip
def test_the_server_cannot_serve_now(fault: type[Exception]) -> None:
    with pytest.raises(StoreUnavailableError, match=fault.__name__), translated():
        raise fault("why\nDETAIL: more")


@pytest.mark.parametrize(
    "fault",
    [
        errors.CheckViolation, errors.NotNullViolation, errors.NumericValueOutOfRange,
        errors.ProgramLimitExceeded, errors.UntranslatableCharacter, psycopg.DataError,
        psycopg.ProgrammingError,
    ],
)  # fmt: skip
def test_the_data_itself_is_refused(fault: type[psycopg.Error]) -> None:
    with pytest.raises(fault), translated():
        raise fault("why")


def test_what_the_url_says_has_precedence() -> None:
    values = connection_values(
        "postgresql://host/db?connect_timeout=3&keepalives_idle=99", connect_timeout=7.9
    )
    assert (values["connect_timeout"], values["keepalives_idle"]) == ("3", "99")
    assert connection_values("postgresql://host/db", connect_timeout=7.9)["connect_timeout"] == 7


def test_nothing_is_asked_of_the_session_that_a_shared_one_could_not_keep() -> None:
    values = connection_values("postgresql://host/db", connect_timeout=1)
    assert "options" not in values
    assert values["prepare_threshold"] is None
    assert beginning(lock_timeout=1.5).count("SET LOCAL") == beginning(lock_timeout=1.5).count(
        "SET"
    )
