"""Join tokens in SQL, by hash."""

from __future__ import annotations

import hashlib
from datetime import datetime

from sqlalchemy import delete, select, update

from vestibule.errors import VestibuleError
from vestibule.records import JoinToken
from vestibule.store.codes import (
    EXPIRED_JOIN_TOKEN,
    KNOWN_JOIN_TOKEN,
    UNKNOWN_JOIN_TOKEN,
    USED_JOIN_TOKEN,
)
from vestibule.store.sql.database import Database
from vestibule.store.sql.schema import join_tokens as table
from vestibule.store.sql.upserts import insert_new


class SqlJoinTokens:
    """``store.ports.JoinTokens``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, token: JoinToken) -> None:
        """Keep a new token's hash."""
        row = {"sha256": _digest(token.token), "expires_at": token.expires_at, "agent_id": token.agent_id}
        async with self._database.write() as connection:
            added = await insert_new(connection, table, row)
        if not added:
            raise KNOWN_JOIN_TOKEN.error("this join token is known already")

    async def consume(self, token: str, now: datetime) -> JoinToken:
        """Use a token up.

        Testing and marking are one statement, which the database runs under its write lock: however many
        ask at once, in this process or another, the row is unused for one of them only.
        """
        digest = _digest(token)
        usable = (table.c.sha256 == digest) & table.c.used_at.is_(None) & (table.c.expires_at > now)
        statement = update(table).where(usable).values(used_at=now)
        async with self._database.write() as connection:
            row = (
                await connection.execute(statement.returning(table.c.expires_at, table.c.agent_id))
            ).one_or_none()
            if row is None:
                query = select(table.c.used_at).where(table.c.sha256 == digest)
                found = (await connection.execute(query)).one_or_none()
                raise _refusal(known=found is not None, used=found is not None and found.used_at is not None)
        return JoinToken(token=token, expires_at=row.expires_at, agent_id=row.agent_id)

    async def prune(self, before: datetime) -> int:
        """Forget tokens that expired before this instant."""
        async with self._database.write() as connection:
            return (await connection.execute(delete(table).where(table.c.expires_at < before))).rowcount


def _refusal(*, known: bool, used: bool) -> VestibuleError:
    if used:
        return USED_JOIN_TOKEN.error("the join token was used before")
    if known:
        return EXPIRED_JOIN_TOKEN.error("the join token has expired")
    return UNKNOWN_JOIN_TOKEN.error("the join token is unknown")


def _digest(token: str) -> bytes:
    # Tokens are random and long, so a plain hash keeps them; and equality of hashes tells nothing by its timing.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
