"""Users that others have made, whose passwords we know and change in time.

A password is changed in three steps, each of which may be the last that happens: the new one is kept beside the old
one, it is set in the database, it is the one that is told.  Whoever finds a role between the steps sets the same
password again, which changes nothing if it was set already.

With two users that take turns, it is the other one whose password is changed, and which is told from then on: what was
told before works until the next change, so that nobody ever holds a password that no longer works.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from vestibule.audit import AuditEvent
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.secrets.dynamic import names
from vestibule.secrets.dynamic.catalog import Catalog, Kept
from vestibule.secrets.dynamic.codes import (
    MALFORMED_DATABASE,
    NO_SUCH_DATABASE,
    NOT_ROTATED_YET,
    ROLE_NOT_ALLOWED,
    UNKNOWN_ROLE,
)
from vestibule.secrets.dynamic.configuration import IN_ROTATION
from vestibule.secrets.dynamic.engines import Engines
from vestibule.secrets.dynamic.names import LONGEST_NAME
from vestibule.secrets.dynamic.records import LEAST_PERIOD, Account, StaticRole
from vestibule.secrets.dynamic.statements import statements, unspeakable
from vestibule.secrets.leases import Record
from vestibule.secrets.waiting import until
from vestibule.store.codes import CONFLICT

FIRST_RETRY: Final = timedelta(seconds=2)
LAST_RETRY: Final = timedelta(minutes=1)
LOOK_EVERY: Final = timedelta(seconds=2)
BATCH: Final = 50
SIDE_BY_SIDE: Final = 4

_log = logging.getLogger(__name__)


class StaticRoles:
    """All static roles.  ``run`` must run, so that passwords are changed in time."""

    def __init__(
        self, catalog: Catalog, engines: Engines, clock: Clock, record: Record, leads: Callable[[], bool]
    ) -> None:
        self._catalog = catalog
        self._roles = catalog.static_roles
        self._engines = engines
        self._clock = clock
        self._record = record
        self._leads = leads
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._woken = asyncio.Event()
        self._failing: set[str] = set()

    @property
    def failing(self) -> int:
        """How many have a password whose change does not work, as far as this server has tried."""
        return len(self._failing)

    # --------------------------------------------------------------------------------------------- ask

    async def get(self, name: str) -> StaticRole:
        """Raises: VST5411."""
        kept = await self._roles.get(name)
        if kept is None:
            raise NO_SUCH_DATABASE.error(f"there is no static role {name}")
        return kept.value

    async def names(self) -> list[str]:
        """All names."""
        return await self._roles.names()

    async def credentials(self, name: str) -> StaticRole:
        """The role with the user and password that work now.

        A change that was interrupted is finished first, if that is possible.  Raises: VST5412, VST5413, VST5423.
        """
        kept = await self._roles.get(name)
        if kept is None:
            raise UNKNOWN_ROLE.error(f"unknown role: {name}")
        await self._check_allowed(name, kept.value.database)
        if kept.value.account.next_password:
            kept = await self._rotated(name, finish=True)
        if not kept.value.account.password:
            raise NOT_ROTATED_YET.error(f"static role {name} has no password yet")
        return kept.value

    # --------------------------------------------------------------------------------------------- change

    async def write(self, name: str, changes: Mapping[str, Any], usernames: tuple[str, ...]) -> None:
        """Change what is named of a static role (see ``records.StaticRole``), or begin with it.

        A new one's password is changed at once, since nobody has told it to us.  ``usernames`` of one that is there
        cannot be changed.  Raises: VST5410, VST5414, errors of the database.
        """
        before = await self._roles.get(name)
        if await self._catalog.roles.get(name) is not None:
            raise MALFORMED_DATABASE.error(f"there is a role {name}: names are used once")
        role = replace(before.value if before else self._new(usernames), **changes)
        known = tuple(each.username for each in role.accounts)
        if usernames and usernames != known:
            raise MALFORMED_DATABASE.error("the user of a static role cannot be changed")
        await self._check(role)
        if before is not None:
            due = (role.rotated or self._clock.now()) + role.period if not role.problem else role.due
            await self._roles.put(name, replace(role, due=due), before)
            self._woken.set()
            return
        await self._roles.put(name, role, None)
        after = await self._rotated(name)
        if after.value.problem:
            await self._roles.remove(name, after)
            self._failing.discard(name)
            raise NOT_ROTATED_YET.error(f"the password cannot be set: {after.value.problem}")

    async def delete(self, name: str) -> None:
        """Forget it; the user stays, with the password it has.  One that is not there is no error."""
        if (kept := await self._roles.get(name)) is not None:
            await self._roles.remove(name, kept)
            self._failing.discard(name)

    async def rotate(self, name: str) -> None:
        """Change the password now.  Raises: VST5412, what the database says."""
        if await self._roles.get(name) is None:
            raise UNKNOWN_ROLE.error(f"unknown role: {name}")
        kept = await self._rotated(name)
        if kept.value.problem:
            raise NOT_ROTATED_YET.error(f"the password cannot be changed: {kept.value.problem}")

    # --------------------------------------------------------------------------------------------- in time

    async def run(self) -> None:
        """Change what is due, for ever."""
        while True:
            self._woken.clear()
            try:
                again = await self.round()
            except VestibuleError as error:
                _log.warning("passwords of static roles cannot be looked after now: %s", error)
                again = self._clock.now() + LOOK_EVERY
            await until(self._clock, again, self._woken)

    async def round(self) -> datetime:
        """Change all that is due; when to look again, at the latest."""
        now = self._clock.now()
        if self._catalog.barrier.is_sealed:
            # What is sealed leaves no password in memory that opens a database, and no connection.
            await self._engines.close()
            return now + LOOK_EVERY
        if not self._leads():
            return now + LOOK_EVERY
        coming = await self._roles.due(BATCH)
        due = [name for at, name in coming if at <= now]
        limit = asyncio.Semaphore(SIDE_BY_SIDE)
        async with asyncio.TaskGroup() as group:
            for name in due:
                group.create_task(self._in_turn(name, limit), name="changing a password")
        if len(due) == BATCH:
            return now
        return min([now + LOOK_EVERY, *(at for at, _ in coming if at > now)])

    async def _in_turn(self, name: str, limit: asyncio.Semaphore) -> None:
        async with limit:
            try:
                kept = await self._rotated(name, in_time=True)
            except VestibuleError as error:
                _log.warning("static role %s: %s", name, error)
                return
            if not kept.value.problem:
                await self._tell(name, kept.value)

    # --------------------------------------------------------------------------------------------- steps

    async def _rotated(self, name: str, *, finish: bool = False, in_time: bool = False) -> Kept[StaticRole]:
        """The role after an attempt, which either changed the password or left a ``problem``.

        1. The new password is kept.
        2. It is set.
        3. It is the password.
        """
        async with self._locks[name]:
            kept = await self._roles.get(name)
            if kept is None:
                raise UNKNOWN_ROLE.error(f"unknown role: {name}")
            if (finish and not kept.value.account.next_password) or (
                in_time and kept.value.due > self._clock.now()
            ):
                return kept
            number = kept.value.turn
            account = kept.value.accounts[number]
            if not account.next_password:
                account = replace(account, next_password=names.password())
                kept = await self._roles.put(name, kept.value.with_account(number, account), kept)  # 1
            try:
                engine = await self._engines.of(kept.value.database)
                how = statements(kept.value.statements, IN_ROTATION)
                await engine.set_password(account.username, account.next_password, how)  # 2
            except VestibuleError as error:
                return await self._failed(name, kept, error)
            self._failing.discard(name)
            now = self._clock.now()
            done = Account(username=account.username, password=account.next_password)
            role = replace(
                kept.value.with_account(number, done),
                current=number, rotated=now, due=now + kept.value.period, attempts=0, problem="",
            )  # fmt: skip
            return await self._settled(name, kept, role)  # 3

    async def _settled(self, name: str, kept: Kept[StaticRole], role: StaticRole) -> Kept[StaticRole]:
        try:
            return await self._roles.put(name, role, kept)
        except VestibuleError as error:
            now = await self._roles.get(name)
            if error.code is CONFLICT and now is not None and now.value.account == role.account:
                return now  # another server has finished the same change
            raise

    async def _failed(self, name: str, kept: Kept[StaticRole], error: VestibuleError) -> Kept[StaticRole]:
        self._failing.add(name)
        role = kept.value
        wait = min(FIRST_RETRY * (1 << min(role.attempts, 16)), LAST_RETRY)
        failed = replace(role, attempts=role.attempts + 1, problem=str(error), due=self._clock.now() + wait)
        if not role.problem:
            _log.warning("the password of static role %s cannot be changed: %s", name, error)
        return await self._roles.put(name, failed, kept)

    async def _tell(self, name: str, role: StaticRole) -> None:
        event = AuditEvent(
            actor="server",
            action="static-role.rotate",
            subject=f"database/static-creds/{name}",
            details={"database": role.database, "username": role.account.username},
        )
        try:
            await self._record([event])
        except VestibuleError as error:
            # The password is changed already; not to say so would help nobody.
            _log.error("not on record: static role %s has a new password: %s", name, error)

    def _new(self, usernames: tuple[str, ...]) -> StaticRole:
        if not usernames or len(set(usernames)) != len(usernames):
            raise MALFORMED_DATABASE.error("username is needed, and another one to take turns with")
        if any(unspeakable(each) or "\\" in each or len(each.encode()) > LONGEST_NAME for each in usernames):
            raise MALFORMED_DATABASE.error("this is no name of a user")
        accounts = tuple(Account(username=each) for each in usernames)
        return StaticRole(database="", accounts=accounts, period=timedelta(0), due=self._clock.now())

    async def _check(self, role: StaticRole) -> None:
        if role.period < LEAST_PERIOD:
            least = int(LEAST_PERIOD.total_seconds())
            raise MALFORMED_DATABASE.error(f"rotation_period must be {least} seconds or more")
        if await self._catalog.databases.get(role.database) is None:
            raise MALFORMED_DATABASE.error(f"there is no database {role.database}")
        for each in statements(role.statements, IN_ROTATION):
            for account in role.accounts:
                each.filled({"name": account.username, "password": names.password()})

    async def _check_allowed(self, name: str, database: str) -> None:
        kept = await self._catalog.databases.get(database)
        if kept is None or not kept.value.allows(name):
            raise ROLE_NOT_ALLOWED.error(f"{name} is not an allowed role of database {database}")
