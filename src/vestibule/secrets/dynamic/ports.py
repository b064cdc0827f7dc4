"""Other people's databases, as far as we need them: users that are made, changed and taken away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeAlias

from vestibule.secrets.dynamic.statements import Statement

Statements: TypeAlias = Sequence[Statement]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUser:
    """A user to make: ``creation`` makes it, ``rollback`` is tried if that fails half-way."""

    name: str
    password: str = field(repr=False)
    expires: datetime
    creation: Statements
    rollback: Statements = ()


class CredentialEngine(Protocol):
    """One database, through a bounded number of connections.

    Every method raises VST5415 (not reached: nothing was changed), VST5416 (whether it was is not known), VST5417,
    VST5418, VST5422.  No message holds a password, or where and how the database is reached.
    Where statements are empty, the engine knows what to do.
    """

    async def verify(self) -> None:
        """See that the database lets us in."""
        ...

    async def create(self, user: NewUser) -> None:
        """Make a user: wholly, or not at all as far as the database can undo."""
        ...

    async def renew(self, name: str, expires: datetime, statements: Statements) -> None:
        """Let a user last until then.  Raises: VST5418 when there is none."""
        ...

    async def revoke(self, name: str, statements: Statements) -> None:
        """See that the user is gone, and its sessions with it; one that is not there is no error.

        Raises: VST5419 when ``statements`` leave it able to log in.
        """
        ...

    async def set_password(self, name: str, password: str, statements: Statements) -> None:
        """Change a user's password.  Sessions go on.  Raises: VST5418 when there is no such user."""
        ...

    async def close(self) -> None:
        """Let go of the connections; those in use, when they are free."""
        ...
