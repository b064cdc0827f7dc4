"""What SQLite reports, in our errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection

from vestibule.errors import ErrorCode, VestibuleError
from vestibule.store.codes import STORE_BUSY, STORE_DAMAGED, STORE_FULL, STORE_UNUSABLE

# Primary result codes (sqlite.org/rescode.html); the rest means that the database can not be used at all.
_CODES: Final[dict[int, ErrorCode]] = {
    sqlite3.SQLITE_FULL: STORE_FULL,
    sqlite3.SQLITE_BUSY: STORE_BUSY,
    sqlite3.SQLITE_LOCKED: STORE_BUSY,
    sqlite3.SQLITE_CORRUPT: STORE_DAMAGED,
    sqlite3.SQLITE_NOTADB: STORE_DAMAGED,
}
# Our own mistakes stay what they are: they are found by tests, not by operators.
_MISTAKES: Final = (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.IntegrityError)


@contextmanager
def translated() -> Iterator[None]:
    """Turn the database's errors into ours."""
    try:
        yield
    except NoConnection as error:
        raise STORE_BUSY.error("no database connection became free in time") from error
    except DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error) and not isinstance(error.orig, _MISTAKES):
            raise _ours(error.orig) from error
        raise
    except sqlite3.Error as error:
        if isinstance(error, _MISTAKES):
            raise
        raise _ours(error) from error


def _ours(error: sqlite3.Error) -> VestibuleError:
    # The low byte is the primary code; SQLite's text names no value that we wrote.
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return _CODES.get(primary, STORE_UNUSABLE).error(f"the database reports: {error}")
