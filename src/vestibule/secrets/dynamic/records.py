"""What is configured: databases, roles that make users in them, and users whose password we change."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

POSTGRESQL: Final = "postgresql-database-plugin"
DEFAULT_TTL: Final = timedelta(hours=1)
"""Of a role that does not say."""
MAX_TTL: Final = timedelta(hours=24)
LEAST_PERIOD: Final = timedelta(seconds=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """How a database is reached, and for which roles.

    ``connection_url`` has places for ``username`` and ``password``.  ``next_password`` is one that was about to take
    effect when something ended: either of the two is right.  ``hashed``: the database is told verifiers of passwords.
    """

    plugin: str = POSTGRESQL
    connection_url: str = field(repr=False)
    username: str = ""
    password: str = field(default="", repr=False)
    next_password: str = field(default="", repr=False)
    allowed_roles: tuple[str, ...] = ()
    verify_connection: bool = True
    root_rotation_statements: tuple[str, ...] = ()
    hashed: bool = True
    max_open_connections: int = 4
    max_connection_lifetime: timedelta = timedelta(0)

    def allows(self, role: str) -> bool:
        """Whether a role may have credentials; ``*`` at the end of an allowed one stands for anything."""
        return any(
            role.startswith(each[:-1]) if each.endswith("*") else role == each for each in self.allowed_roles
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """How users are made, and how long they last."""

    database: str
    creation: tuple[str, ...]
    revocation: tuple[str, ...] = ()
    renewal: tuple[str, ...] = ()
    rollback: tuple[str, ...] = ()
    default_ttl: timedelta = timedelta(0)
    max_ttl: timedelta = timedelta(0)

    @property
    def ttls(self) -> tuple[timedelta, timedelta]:
        """How long a lease lasts unless renewed, and at the most."""
        longest = self.max_ttl or max(MAX_TTL, self.default_ttl)
        return min(self.default_ttl or DEFAULT_TTL, longest), longest


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A user that others have made.  ``next_password``: as in ``Database``, but the new one is set again."""

    username: str
    password: str = field(default="", repr=False)
    next_password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticRole:
    """A user, or two that take turns, whose password is changed every ``period``.

    ``due`` is when that happens next, or is tried again; ``rotated`` when it last worked.
    """

    database: str
    accounts: tuple[Account, ...]
    period: timedelta
    due: datetime
    statements: tuple[str, ...] = ()
    current: int = 0
    rotated: datetime | None = None
    attempts: int = 0
    problem: str = ""

    @property
    def account(self) -> Account:
        """Whose name and password are told."""
        return self.accounts[self.current]

    @property
    def turn(self) -> int:
        """Whose password is changed next: the other one's, where there are two."""
        if self.rotated is None or self.accounts[self.current].next_password:
            return self.current
        return (self.current + 1) % len(self.accounts)

    def with_account(self, number: int, account: Account) -> StaticRole:
        """The same, with another account in a place."""
        accounts = (*self.accounts[:number], account, *self.accounts[number + 1 :])
        return replace(self, accounts=accounts)


def encode_database(each: Database) -> bytes:
    """As it is kept."""
    return _json(
        {
            "plugin": each.plugin,
            "connection_url": each.connection_url,
            "username": each.username,
            "password": each.password,
            "next_password": each.next_password,
            "allowed_roles": each.allowed_roles,
            "verify_connection": each.verify_connection,
            "root_rotation_statements": each.root_rotation_statements,
            "hashed": each.hashed,
            "max_open_connections": each.max_open_connections,
            "max_connection_lifetime": each.max_connection_lifetime.total_seconds(),
        }
    )


def decode_database(kept: bytes) -> Database:
    """What ``encode_database`` wrote."""
    row = json.loads(kept)
    row |= {name: tuple(row[name]) for name in ("allowed_roles", "root_rotation_statements")}
    row["max_connection_lifetime"] = timedelta(seconds=row["max_connection_lifetime"])
    return Database(**row)


def encode_role(each: Role) -> bytes:
    """As it is kept."""
    return _json(
        {
            "database": each.database,
            "creation": each.creation,
            "revocation": each.revocation,
            "renewal": each.renewal,
            "rollback": each.rollback,
            "default_ttl": each.default_ttl.total_seconds(),
            "max_ttl": each.max_ttl.total_seconds(),
        }
    )


def decode_role(kept: bytes) -> Role:
    """What ``encode_role`` wrote."""
    row = json.loads(kept)
    return Role(
        database=row["database"],
        creation=_texts(row["creation"]),
        revocation=_texts(row["revocation"]),
        renewal=_texts(row["renewal"]),
        rollback=_texts(row["rollback"]),
        default_ttl=timedelta(seconds=row["default_ttl"]),
        max_ttl=timedelta(seconds=row["max_ttl"]),
    )


def encode_static_role(each: StaticRole) -> bytes:
    """As it is kept."""
    return _json(
        {
            "database": each.database,
            "accounts": [[one.username, one.password, one.next_password] for one in each.accounts],
            "period": each.period.total_seconds(),
            "due": each.due.isoformat(),
            "statements": each.statements,
            "current": each.current,
            "rotated": each.rotated.isoformat() if each.rotated else None,
            "attempts": each.attempts,
            "problem": each.problem,
        }
    )


def decode_static_role(kept: bytes) -> StaticRole:
    """What ``encode_static_role`` wrote."""
    row = json.loads(kept)
    return StaticRole(
        database=row["database"],
        accounts=tuple(
            Account(username=name, password=password, next_password=following)
            for name, password, following in row["accounts"]
        ),
        period=timedelta(seconds=row["period"]),
        due=datetime.fromisoformat(row["due"]),
        statements=_texts(row["statements"]),
        current=row["current"],
        rotated=datetime.fromisoformat(row["rotated"]) if row["rotated"] else None,
        attempts=row["attempts"],
        problem=row["problem"],
    )


def _texts(value: Sequence[str]) -> tuple[str, ...]:
    return tuple(value)


def _json(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row).encode()
