"""A double of other people's databases: users in memory, and everything that can go wrong on the way to them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from vestibule.clock import Clock
from vestibule.secrets.dynamic.codes import (
    DATABASE_LOST,
    DATABASE_REFUSES,
    DATABASE_UNREACHABLE,
    STATEMENT_FAILED,
    USER_REMAINS,
)
from vestibule.secrets.dynamic.engines import Open
from vestibule.secrets.dynamic.ports import CredentialEngine, NewUser, Statements
from vestibule.secrets.dynamic.records import POSTGRESQL, Database


@dataclass
class MemoryUser:
    """A user."""

    password: str
    expires: datetime | None = None


@dataclass
class MemoryDatabase:
    """A database with a user ``root``, and what is to go wrong with it.

    ``lost`` is how many changes from now on are made without anybody being told that they were.
    """

    clock: Clock
    users: dict[str, MemoryUser] = field(default_factory=lambda: {"root": MemoryUser("root-password")})
    up: bool = True
    lost: int = 0
    hangs: asyncio.Event | None = None
    calls: list[str] = field(default_factory=list)

    def lets_in(self, name: str, password: str) -> bool:
        """Whether this user can log in now."""
        user = self.users.get(name)
        current = user is not None and (user.expires is None or user.expires > self.clock.now())
        return current and user is not None and user.password == password

    def kinds(self) -> Mapping[str, Open]:
        """What ``Databases`` takes: every configured database is this one."""

        async def opened(database: Database, password: str) -> CredentialEngine:
            return MemoryEngine(self, database.username, password)

        return {POSTGRESQL: opened}


class MemoryEngine:
    """``CredentialEngine`` on a ``MemoryDatabase``."""

    def __init__(self, database: MemoryDatabase, username: str, password: str) -> None:
        self._database = database
        self._login = username, password

    async def verify(self) -> None:
        await self._reach("verify")

    async def create(self, user: NewUser) -> None:
        await self._reach(f"create {user.name}")
        if user.name in self._database.users:
            raise STATEMENT_FAILED.error("the user is there already")
        self._database.users[user.name] = MemoryUser(user.password, user.expires)
        self._answer()

    async def renew(self, name: str, expires: datetime, statements: Statements) -> None:
        await self._reach(f"renew {name}")
        self._user(name).expires = expires
        self._answer()

    async def revoke(self, name: str, statements: Statements) -> None:
        await self._reach(f"revoke {name}")
        if name in self._database.users and any(
            "LEAVE" in each.filled({"name": name}) for each in statements
        ):
            raise USER_REMAINS.error("after the revocation statements the user can still log in")
        self._database.users.pop(name, None)
        self._answer()

    async def set_password(self, name: str, password: str, statements: Statements) -> None:
        await self._reach(f"set_password {name}")
        self._user(name).password = password
        self._answer()

    async def close(self) -> None:
        self._database.calls.append("close")

    async def _reach(self, call: str) -> None:
        database = self._database
        database.calls.append(call)
        if database.hangs is not None:
            await database.hangs.wait()
        if not database.up:
            raise DATABASE_UNREACHABLE.error("the database cannot be reached: it is down")
        if not database.lets_in(*self._login):
            raise DATABASE_REFUSES.error("the database refuses the login")

    def _answer(self) -> None:
        if self._database.lost:
            self._database.lost -= 1
            raise DATABASE_LOST.error("the connection to the database broke")

    def _user(self, name: str) -> MemoryUser:
        if name not in self._database.users:
            raise STATEMENT_FAILED.error("the user is not there")
        return self._database.users[name]
