"""What PostgreSQL and the way to it report, in our errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection

from vestibule.errors import ErrorCode, VestibuleError
from vestibule.store.codes import (
    STORE_BUSY,
    STORE_DAMAGED,
    STORE_FULL,
    STORE_REFUSED,
    STORE_UNREACHABLE,
    STORE_UNUSABLE,
    UNSTORABLE,
)

# By SQLSTATE (PostgreSQL's appendix A), or by its class, the first two characters.
_STATES: Final[dict[str, ErrorCode]] = {
    "53100": STORE_FULL,  # disk_full
    "53300": STORE_BUSY,  # too_many_connections
    "55P03": STORE_BUSY,  # lock_not_available: our lock_timeout
    "57014": STORE_BUSY,  # query_canceled: our statement_timeout
    "40P01": STORE_BUSY,  # deadlock_detected
    "40001": STORE_BUSY,  # serialization_failure: a read that a cleaning-up standby ended
    "25P03": STORE_BUSY,  # idle_in_transaction_session_timeout: we hung, and lost the lock
    "25006": STORE_UNREACHABLE,  # read_only_sql_transaction: what answers is a standby
    "42501": STORE_REFUSED,  # insufficient_privilege
    "3D000": STORE_REFUSED,  # invalid_catalog_name: no such database
    "28": STORE_REFUSED,  # invalid authorization
    "22": UNSTORABLE,  # data exceptions
    "08": STORE_UNREACHABLE,  # connection exceptions
    "57P": STORE_UNREACHABLE,  # shutting down, starting up
    "XX001": STORE_DAMAGED,
    "XX002": STORE_DAMAGED,
}
_REFUSALS: Final = (
    "password authentication failed",
    "no pg_hba.conf entry",
    "does not exist",
    "no password supplied",
)
# Our own mistakes stay what they are: they are found by tests, not by operators.
_MISTAKES: Final = (
    psycopg.ProgrammingError,
    psycopg.InterfaceError,
    psycopg.IntegrityError,
    psycopg.NotSupportedError,
)


@contextmanager
def translated() -> Iterator[None]:
    """Turn the database's errors into ours."""
    try:
        yield
    except NoConnection as error:
        raise STORE_BUSY.error("no database connection became free in time") from error
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.Error) and (ours := _ours(error.orig)) is not None:
            raise ours from error
        raise
    except psycopg.Error as error:
        if (ours := _ours(error)) is not None:
            raise ours from error
        raise


def _ours(error: psycopg.Error) -> VestibuleError | None:
    code = _code(error)
    if code is None:
        return None
    # The primary message names no value of a row; details (which may) stay behind.
    said = error.diag.message_primary or " ".join(str(error).split())
    if code is UNSTORABLE:
        return code.error("the database cannot hold one of the values")
    return code.error(f"the database reports: {said}")


def _code(error: psycopg.Error) -> ErrorCode | None:
    state = error.sqlstate or ""
    for prefix in (state, state[:3], state[:2]):
        if prefix in _STATES:
            return _STATES[prefix]
    if isinstance(error, psycopg.DataError):
        return UNSTORABLE
    if isinstance(error, _MISTAKES):
        return None
    if isinstance(error, psycopg.OperationalError) and not state:
        # While connecting there is no SQLSTATE: only libpq's text.
        return STORE_REFUSED if any(each in str(error) for each in _REFUSALS) else STORE_UNREACHABLE
    return STORE_UNUSABLE
