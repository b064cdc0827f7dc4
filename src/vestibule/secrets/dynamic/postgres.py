"""Users of a PostgreSQL database."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from vestibule.errors import VestibuleError
from vestibule.secrets.dynamic.codes import STATEMENT_FAILED, USER_REMAINS
from vestibule.secrets.dynamic.names import heir
from vestibule.secrets.dynamic.ports import NewUser, Statements
from vestibule.secrets.dynamic.postgres_failures import is_collision, using
from vestibule.secrets.dynamic.postgres_pool import Connection, ConnectionPool
from vestibule.secrets.dynamic.statements import EXPIRATION, NAME, PASSWORD, statements
from vestibule.store.sql.postgres_address import PostgresAddress

_RENEW: Final = statements(["ALTER ROLE {{name}} VALID UNTIL {{expiration}}"], frozenset((NAME, EXPIRATION)))
_PASSWORD: Final = statements(["ALTER ROLE {{name}} PASSWORD {{password}}"], frozenset((NAME, PASSWORD)))
_EXISTS: Final = (
    "SELECT rolcanlogin AND coalesce(rolvaliduntil > now(), true) FROM pg_roles WHERE rolname = %s"
)
_SESSIONS: Final = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s"
_OWNS: Final = """
SELECT 1 FROM pg_shdepend JOIN pg_roles ON pg_roles.oid = refobjid
WHERE rolname = %s AND refclassid = 'pg_authid'::regclass AND deptype = 'o'
AND dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) LIMIT 1"""
# A new owner of functions and types needs to be able to make them; of tables it does not.
_SCHEMAS: Final = """
SELECT nspname FROM pg_namespace WHERE has_schema_privilege(oid, 'CREATE WITH GRANT OPTION') AND oid IN (
SELECT pronamespace FROM pg_proc JOIN pg_roles ON pg_roles.oid = proowner WHERE rolname = %s
UNION SELECT typnamespace FROM pg_type JOIN pg_roles ON pg_roles.oid = typowner WHERE rolname = %s)"""
_IS_THERE: Final = "SELECT 1 FROM pg_roles WHERE rolname = %s"
_TAKEN_AWAY: Final = ("DROP OWNED BY {}", "DROP ROLE IF EXISTS {}")
MOST_COLLISIONS: Final = 8
_SUPERUSER: Final = "SELECT 1 FROM pg_roles WHERE rolname = current_user AND rolsuper"


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresSettings:
    """``size``: connections at a time; ``lifetime`` of each in seconds, 0 for ever.

    ``hashed``: the database is told verifiers (SCRAM-SHA-256), so that no password is in its log or ours.
    """

    size: int = 4
    lifetime: float = 0
    hashed: bool = True


class PostgresEngine:
    """``ports.CredentialEngine`` of one PostgreSQL."""

    def __init__(self, address: PostgresAddress, settings: PostgresSettings) -> None:
        self._pool = ConnectionPool(address, size=settings.size, lifetime=settings.lifetime)
        self._hashed = settings.hashed

    async def verify(self) -> None:
        """See ``CredentialEngine``."""
        async with self._pool.connection() as connection:
            with using():
                await connection.execute("SELECT 1")

    async def create(self, user: NewUser) -> None:
        """See ``CredentialEngine``."""
        async with self._pool.connection() as connection:
            values = {
                NAME: user.name,
                PASSWORD: self._told(connection, user.name, user.password),
                EXPIRATION: _shown(user.expires),
            }
            try:
                await self._run(connection, user.creation, values, hidden=(user.password, values[PASSWORD]))
            except VestibuleError:
                with suppress(VestibuleError):
                    await self._run(connection, user.rollback, {NAME: user.name})
                raise

    async def renew(self, name: str, expires: datetime, statements: Statements) -> None:
        """See ``CredentialEngine``."""
        values = {NAME: name, EXPIRATION: _shown(expires)}
        async with self._pool.connection() as connection:
            if await self._state(connection, name) is None:
                raise STATEMENT_FAILED.error("the user is no longer there")
            await self._run(connection, statements or _RENEW, values)

    async def set_password(self, name: str, password: str, statements: Statements) -> None:
        """See ``CredentialEngine``."""
        async with self._pool.connection() as connection:
            values = {NAME: name, PASSWORD: self._told(connection, name, password)}
            await self._run(connection, statements or _PASSWORD, values, hidden=(password, values[PASSWORD]))

    async def revoke(self, name: str, statements: Statements) -> None:
        """See ``CredentialEngine``."""
        async with self._pool.connection() as connection:
            if await self._state(connection, name) is None:
                return
            try:
                await self._revoke(connection, name, statements)
            except VestibuleError as error:
                # Somebody else may have dropped it in between, such as another server that was asked to.
                if error.code is not STATEMENT_FAILED or await self._state(connection, name) is not None:
                    raise

    async def close(self) -> None:
        """See ``CredentialEngine``."""
        await self._pool.close()

    # ------------------------------------------------------------------------------------------------ steps

    async def _revoke(self, connection: Connection, name: str, given: Statements) -> None:
        if not given:
            await self._drop(connection, name)
            return
        await self._run(connection, given, {NAME: name})
        if await self._state(connection, name):
            raise USER_REMAINS.error("after the revocation statements the user can still log in")

    async def _drop(self, connection: Connection, name: str) -> None:
        """Take a user away, whatever it owns, may or does.

        1. It can no longer log in, at once and for good.
        2. Its sessions end.
        3. What it owns in this database goes to a role of its own that nobody can log in as and that may nothing, so
           that no data is lost.  Were it ours, views and SECURITY DEFINER functions that it left would run as us.
        4. What it was granted is taken back, and it is gone.
        """
        user = sql.Identifier(name)
        with using():
            closed = sql.SQL("ALTER ROLE {} NOLOGIN VALID UNTIL '-infinity'").format(user)
            await _together(connection, [closed.as_bytes(connection)])  # 1
            superuser = bool(await _asked(connection, _SUPERUSER))
            if not superuser:
                await self._join(connection, user)
            await connection.execute(_SESSIONS, (name,))  # 2
            left = await _handed_on(connection, name, superuser=superuser)  # 3
            gone = [sql.SQL(each).format(user) for each in _TAKEN_AWAY]  # 4
            await _together(connection, [each.as_bytes(connection) for each in (*left, *gone)])

    async def _join(self, connection: Connection, user: sql.Identifier) -> None:
        """Who is no superuser has to be a member of a role to end its sessions and to give away what it owns."""
        with suppress(psycopg.errors.InvalidGrantOperation):
            granted = sql.SQL("GRANT {} TO CURRENT_USER").format(user)
            await _together(connection, [granted.as_bytes(connection)])

    async def _state(self, connection: Connection, name: str) -> bool | None:
        """Whether a user can log in; None where there is none."""
        with using():
            row = await (await connection.execute(_EXISTS, (name,))).fetchone()
        return None if row is None else bool(row[0])

    async def _run(
        self,
        connection: Connection,
        given: Statements,
        values: Mapping[str, str],
        hidden: Sequence[str] = (),
    ) -> None:
        texts = [each.filled(values).encode() for each in given]
        with using(hidden):
            await _together(connection, texts)

    def _told(self, connection: Connection, name: str, password: str) -> str:
        """What the database is told to be the password."""
        if not self._hashed:
            return password
        with using((password,)):
            return connection.pgconn.encrypt_password(
                password.encode(), name.encode(), b"scram-sha-256"
            ).decode()


async def _asked(connection: Connection, query: LiteralString, *names: str) -> list[str]:
    """The first column of what is found."""
    return [row[0] for row in await (await connection.execute(query, names)).fetchall()]


async def _handed_on(connection: Connection, name: str, *, superuser: bool) -> list[sql.Composed]:
    """What gives what a user owns to its heir, who is made where there is anything to inherit."""
    if not await _asked(connection, _OWNS, name):
        return []
    user, to = sql.Identifier(name), sql.Identifier(heir(name))
    there = await _asked(connection, _IS_THERE, heir(name))
    made = [] if there else [sql.SQL("CREATE ROLE {} NOLOGIN").format(to)]
    given = sql.SQL("REASSIGN OWNED BY {} TO {}").format(user, to)
    if superuser:
        return [*made, given]
    schemas = [sql.Identifier(each) for each in await _asked(connection, _SCHEMAS, name, name)]
    return [
        *made,
        sql.SQL("GRANT {} TO CURRENT_USER").format(to),
        *(sql.SQL("GRANT CREATE ON SCHEMA {} TO {}").format(each, to) for each in schemas),
        given,
        *(sql.SQL("REVOKE CREATE ON SCHEMA {} FROM {}").format(each, to) for each in schemas),
    ]


async def _together(connection: Connection, texts: Sequence[bytes]) -> None:
    """All of them, or none; again, where others changed the same at the same moment."""
    for attempt in range(MOST_COLLISIONS):
        try:
            async with connection.transaction():
                for text in texts:
                    await connection.execute(text)
        except psycopg.Error as error:
            if not is_collision(error) or attempt == MOST_COLLISIONS - 1:
                raise
            await asyncio.sleep(random.uniform(0, 0.02 * (attempt + 1)))  # noqa: S311 (to part, not to hide)
        else:
            return


def _shown(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S+00")
