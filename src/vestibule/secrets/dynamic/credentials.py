"""Users that are made for one caller, for as long as its lease lasts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.secrets.dynamic import names
from vestibule.secrets.dynamic.catalog import Catalog
from vestibule.secrets.dynamic.codes import (
    DATABASE_REFUSES,
    DATABASE_UNREACHABLE,
    ROLE_NOT_ALLOWED,
    UNKNOWN_ROLE,
)
from vestibule.secrets.dynamic.configuration import IN_CREATION, IN_RENEWAL, IN_REVOCATION
from vestibule.secrets.dynamic.engines import Engines
from vestibule.secrets.dynamic.ports import NewUser
from vestibule.secrets.dynamic.records import Role
from vestibule.secrets.dynamic.statements import Statement, statements
from vestibule.secrets.leases import Lease, Leases, NewLease, NotMadeError
from vestibule.spiffe import SpiffeId

MOUNT: Final = "database"
GRACE: Final = timedelta(seconds=30)
"""The database lets a user in for longer than its lease: clocks differ, and it is the lease that ends."""
_NOTHING_DONE: Final = (DATABASE_UNREACHABLE, DATABASE_REFUSES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A user, and for how long it is lent."""

    username: str
    password: str = field(repr=False)
    lease: Lease


class DynamicCredentials:
    """Makes users, and is asked by ``Leases`` to renew and to revoke them."""

    def __init__(self, catalog: Catalog, engines: Engines, leases: Leases, clock: Clock) -> None:
        self._catalog = catalog
        self._engines = engines
        self._leases = leases
        self._clock = clock

    async def make(self, role_name: str, owner: SpiffeId) -> Credentials:
        """A new user for ``owner``.

        Raises: VST5402, VST5412, VST5413, errors of the database.
        """
        role = await self._role(role_name)
        await self._check_allowed(role.database, role_name)
        default, longest = role.ttls
        username = names.username(owner, role_name, self._clock.now())
        password = names.password()
        lease = await self._leases.grant(
            NewLease(
                path=f"{MOUNT}/creds/{role_name}",
                owner=owner,
                ttl=default,
                max_ttl=longest,
                target=role.database,
                credential={
                    "username": username,
                    "role": role_name,
                    "revocation": list(role.revocation),
                    "renewal": list(role.renewal),
                },
            ),
            lambda lease: self._create(role, username, password, lease),
        )
        return Credentials(username=username, password=password, lease=lease)

    async def renew(self, lease: Lease, expires: datetime) -> None:
        """See ``LeasedEngine``."""
        how = await self._statements(lease, "renewal", lambda role: role.renewal, IN_RENEWAL)
        engine = await self._engines.of(lease.target)
        await engine.renew(lease.credential["username"], expires + GRACE, how)

    async def revoke(self, lease: Lease) -> None:
        """See ``LeasedEngine``."""
        how = await self._statements(lease, "revocation", lambda role: role.revocation, IN_REVOCATION)
        engine = await self._engines.of(lease.target)
        await engine.revoke(lease.credential["username"], how)

    async def _create(self, role: Role, username: str, password: str, lease: Lease) -> None:
        try:
            user = NewUser(
                name=username,
                password=password,
                expires=lease.expires + GRACE,
                creation=statements(role.creation, IN_CREATION),
                rollback=statements(role.rollback, IN_REVOCATION),
            )
            engine = await self._engines.of(role.database)
        except VestibuleError as error:
            raise NotMadeError.of(error) from error
        try:
            await engine.create(user)
        except VestibuleError as error:
            if error.code in _NOTHING_DONE:
                raise NotMadeError.of(error) from error
            raise

    async def _statements(
        self, lease: Lease, kept: str, current: Callable[[Role], Sequence[str]], places: frozenset[str]
    ) -> tuple[Statement, ...]:
        """Those that the role has now, which may be better than those it had; or had last, if it is gone."""
        credential: Mapping[str, Any] = lease.credential
        role = await self._catalog.roles.get(credential["role"])
        if role is not None and role.value.database == lease.target:
            return statements(current(role.value), places)
        return statements(credential[kept], places)

    async def _role(self, name: str) -> Role:
        kept = await self._catalog.roles.get(name)
        if kept is None:
            raise UNKNOWN_ROLE.error(f"unknown role: {name}")
        return kept.value

    async def _check_allowed(self, database: str, role: str) -> None:
        kept = await self._catalog.databases.get(database)
        if kept is None or not kept.value.allows(role):
            raise ROLE_NOT_ALLOWED.error(f"{role} is not an allowed role of database {database}")
