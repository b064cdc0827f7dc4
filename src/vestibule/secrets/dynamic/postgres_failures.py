"""What PostgreSQL reports, in our errors: never a password, and not where or how it is reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import psycopg

from vestibule.errors import ErrorCode
from vestibule.secrets.dynamic.codes import (
    DATABASE_BUSY,
    DATABASE_LOST,
    DATABASE_REFUSES,
    DATABASE_UNREACHABLE,
    STATEMENT_FAILED,
)

_REFUSALS: Final = (
    "password authentication failed",
    "no pg_hba.conf entry",
    "does not exist",
    "no password supplied",
    "not permitted to log in",
    "authentication",
)
# By SQLSTATE (PostgreSQL's appendix A), or by its class, the first two characters.
_STATES: Final[dict[str, ErrorCode]] = {
    "57014": DATABASE_BUSY,  # query_canceled: our statement_timeout
    "55P03": DATABASE_BUSY,  # lock_not_available
    "57P": DATABASE_LOST,  # shut down, or the session was ended
    "08": DATABASE_LOST,
    "25P03": DATABASE_LOST,  # idle_in_transaction_session_timeout
    "25006": DATABASE_UNREACHABLE,  # read_only_sql_transaction: a standby
}
_LONGEST: Final = 300


@contextmanager
def connecting() -> Iterator[None]:
    """What goes wrong here has changed nothing."""
    try:
        yield
    except TimeoutError as error:
        raise DATABASE_UNREACHABLE.error("the database does not answer") from error
    except psycopg.Error as error:
        said = str(error)
        state = error.sqlstate or ""
        if state.startswith(("28", "3D")) or (not state and any(each in said for each in _REFUSALS)):
            raise DATABASE_REFUSES.error(f"the database refuses the login: {_tail(said)}") from None
        raise DATABASE_UNREACHABLE.error(f"the database cannot be reached: {_tail(said)}") from None


@contextmanager
def using(hidden: Sequence[str] = ()) -> Iterator[None]:
    """What goes wrong here may have changed something.  ``hidden`` is never told."""
    try:
        yield
    except psycopg.Error as error:
        code = _code(error)
        if code is DATABASE_LOST:
            raise code.error("the connection to the database broke") from None
        # The primary message names no value of a row; details (which may) stay behind.
        said = error.diag.message_primary or type(error).__name__
        raise code.error(f"the database reports: {_without(said, hidden)}") from None


def is_collision(error: psycopg.Error) -> bool:
    """Whether two changed the same grants at the same moment: what was rolled back is simply done again."""
    if error.sqlstate == "23505":  # unique_violation, of a catalog of the database's own
        return (error.diag.constraint_name or error.diag.message_primary or "").startswith("pg_")
    return error.sqlstate in ("40001", "40P01") or (
        error.sqlstate == "XX000" and "concurrently" in (error.diag.message_primary or "")
    )


def _code(error: psycopg.Error) -> ErrorCode:
    if is_collision(error):
        return DATABASE_BUSY
    state = error.sqlstate or ""
    for prefix in (state, state[:3], state[:2]):
        if prefix in _STATES:
            return _STATES[prefix]
    if not state and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return DATABASE_LOST
    return STATEMENT_FAILED


def _tail(said: str) -> str:
    """libpq's reason without the address that it begins with."""
    last = next((line for line in reversed(said.splitlines()) if "failed: " in line), "")
    return last.rpartition("failed: ")[2].strip()[:_LONGEST] or "no reason was given"


def _without(said: str, hidden: Sequence[str]) -> str:
    for each in hidden:
        if each:
            said = said.replace(each, "…")
    return said[:_LONGEST]
