"""Databases and roles: written, looked at, forgotten; the secret manager's own password changed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from vestibule.errors import VestibuleError
from vestibule.secrets.dynamic import names
from vestibule.secrets.dynamic.addresses import address_of, keeps_password
from vestibule.secrets.dynamic.catalog import Catalog, Kept, checked
from vestibule.secrets.dynamic.codes import (
    DATABASE_IN_USE,
    MALFORMED_DATABASE,
    NO_SUCH_DATABASE,
    ROOT_NOT_ROTATED,
)
from vestibule.secrets.dynamic.engines import Engines
from vestibule.secrets.dynamic.records import Database, Role
from vestibule.secrets.dynamic.statements import (
    EXPIRATION,
    NAME,
    PASSWORD,
    Statement,
    statements,
    unspeakable,
)
from vestibule.secrets.leases import Leases
from vestibule.store.codes import CONFLICT

MOST_CONNECTIONS: Final = 64
_ALLOWED: Final = re.compile(r"[\w.-]{0,128}\*?", re.ASCII)
IN_CREATION: Final = frozenset((NAME, PASSWORD, EXPIRATION))
IN_REVOCATION: Final = frozenset((NAME,))
IN_RENEWAL: Final = frozenset((NAME, EXPIRATION))
IN_ROTATION: Final = frozenset((NAME, PASSWORD))


class Configuration:
    """What operators write.  Every method raises VST5410 for what is no name, VST5000 while sealed."""

    def __init__(self, catalog: Catalog, engines: Engines, leases: Leases) -> None:
        self._catalog = catalog
        self._engines = engines
        self._leases = leases

    # ------------------------------------------------------------------------------------------- databases

    async def database(self, name: str) -> Database:
        """Raises: VST5411."""
        return (await self._database(name)).value

    async def databases(self) -> list[str]:
        """All names."""
        return await self._catalog.databases.names()

    async def write_database(self, name: str, changes: Mapping[str, Any]) -> None:
        """Change what is named of a database (see ``records.Database``), or begin with it.

        Raises: VST5410, VST5414, VST8008; errors of the database, where the connection is verified.
        """
        before = await self._catalog.databases.get(name)
        was = before.value if before else Database(connection_url="")
        database = replace(was, **changes)
        if "password" in changes:
            database = replace(database, next_password="")
        self._check(database)
        engine = await self._engines.opened(database, database.password)
        try:
            if database.verify_connection:
                await engine.verify()
        finally:
            await engine.close()
        await self._catalog.databases.put(name, database, before)
        await self._engines.reset(name)

    async def delete_database(self, name: str) -> None:
        """Forget a database; one that is not there is no error.  Raises: VST5420."""
        kept = await self._catalog.databases.get(name)
        if kept is None:
            return
        if await self._leases.of_target(name, limit=1):
            raise DATABASE_IN_USE.error(f"there are leases of database {name}")
        for each in await self._catalog.static_roles.names():
            role = await self._catalog.static_roles.get(each)
            if role is not None and role.value.database == name:
                raise DATABASE_IN_USE.error(f"static role {each} is of database {name}")
        await self._catalog.databases.remove(name, kept)
        await self._engines.reset(name)

    async def reset(self, name: str) -> None:
        """Close all connections, and see that a new one can be opened.  Raises: VST5411, errors of the database."""
        await self._engines.reset(name)
        engine = await self._engines.of(name)
        await engine.verify()

    async def rotate_root(self, name: str) -> None:
        """Give the secret manager's own user a new password, which nobody else knows.

        1. The new password is kept beside the old one; an earlier one that may have taken effect is tried again.
        2. It is set.
        3. It is the password.

        What ends between the steps leaves two passwords, one of which is right (``Engines`` finds out which).
        Raises: VST5411, VST5421, errors of the database.
        """
        kept = await self._database(name)
        if not keeps_password(kept.value):
            raise ROOT_NOT_ROTATED.error(f"the password of database {name} stands in its connection_url")
        new = kept.value.next_password or names.password()
        if not kept.value.next_password:
            kept = await self._catalog.databases.put(name, replace(kept.value, next_password=new), kept)  # 1
        engine = await self._engines.of(name)
        how = statements(kept.value.root_rotation_statements, IN_ROTATION)
        await engine.set_password(kept.value.username, new, how)  # 2
        await self._settle(name, kept, new)  # 3
        await self._engines.reset(name)

    async def _settle(self, name: str, kept: Kept[Database], new: str) -> None:
        try:
            await self._catalog.databases.put(name, replace(kept.value, password=new, next_password=""), kept)
        except VestibuleError as error:
            now = await self._catalog.databases.get(name)
            if error.code is not CONFLICT or now is None or now.value.password != new:
                raise

    def _check(self, database: Database) -> None:
        if not database.connection_url:
            raise MALFORMED_DATABASE.error("connection_url is needed")
        if not 1 <= database.max_open_connections <= MOST_CONNECTIONS:
            raise MALFORMED_DATABASE.error(f"max_open_connections is not within 1 and {MOST_CONNECTIONS}")
        if not all(_ALLOWED.fullmatch(each) for each in database.allowed_roles):
            raise MALFORMED_DATABASE.error("allowed_roles are names, or beginnings of names with *")
        if any(map(unspeakable, (database.connection_url, database.username, database.password))):
            raise MALFORMED_DATABASE.error("URL, user or password hold what is no text")
        statements(database.root_rotation_statements, IN_ROTATION)
        address_of(database, database.password)

    async def _database(self, name: str) -> Kept[Database]:
        kept = await self._catalog.databases.get(name)
        if kept is None:
            raise NO_SUCH_DATABASE.error(f"there is no database {name}")
        return kept

    # ------------------------------------------------------------------------------------------- roles

    async def role(self, name: str) -> Role:
        """Raises: VST5411."""
        kept = await self._catalog.roles.get(name)
        if kept is None:
            raise NO_SUCH_DATABASE.error(f"there is no role {name}")
        return kept.value

    async def roles(self) -> list[str]:
        """All names."""
        return await self._catalog.roles.names()

    async def write_role(self, name: str, changes: Mapping[str, Any]) -> None:
        """Change what is named of a role (see ``records.Role``), or begin with it.  Raises: VST5410, VST5414."""
        before = await self._catalog.roles.get(name)
        role = replace(before.value if before else Role(database="", creation=()), **changes)
        if await self._catalog.static_roles.get(name) is not None:
            raise MALFORMED_DATABASE.error(f"there is a static role {name}: names are used once")
        checked(role.database or "-")
        _check_creation(statements(role.creation, IN_CREATION))
        statements(role.revocation, IN_REVOCATION)
        statements(role.rollback, IN_REVOCATION)
        statements(role.renewal, IN_RENEWAL)
        await self._catalog.roles.put(name, role, before)

    async def delete_role(self, name: str) -> None:
        """Forget a role; its leases go on until they end.  One that is not there is no error."""
        if (kept := await self._catalog.roles.get(name)) is not None:
            await self._catalog.roles.remove(name, kept)


def _check_creation(creation: Sequence[Statement]) -> None:
    places = frozenset(place for each in creation for place in each.places)
    if not {NAME, PASSWORD} <= places:
        raise MALFORMED_DATABASE.error(
            "creation_statements make a user {{name}} with a password {{password}}"
        )
