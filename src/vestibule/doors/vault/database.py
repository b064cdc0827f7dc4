"""``database/``: databases, roles, and the credentials that are made or changed for them.

https://developer.hashicorp.com/vault/api-docs/secret/databases
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from vestibule.clock import Clock
from vestibule.doors.vault import database_forms as forms
from vestibule.doors.vault.operations import Answer, LeaseAnswer, Operation, VaultRequest
from vestibule.errors import VestibuleError
from vestibule.secrets.dynamic import MOUNT, Databases
from vestibule.secrets.dynamic.codes import NO_SUCH_DATABASE
from vestibule.secrets.ports import Verb

NOTHING: Final = Answer(status=404)

_Run = Callable[[], Awaitable[Answer]]
_Make = Callable[["DatabaseBackend", VaultRequest, str], Operation]


class DatabaseBackend:
    """``Backend`` of the mount ``database/``."""

    def __init__(self, databases: Databases, clock: Clock) -> None:
        self._databases = databases
        self._clock = clock

    def operation(self, request: VaultRequest) -> Operation | None:
        """Raises: VST5210."""
        mount, *segments = request.path.split("/")
        if mount != MOUNT or not 1 <= len(segments) <= 2:
            return None
        if len(segments) == 1:
            return self._list(segments[0]) if request.method == "LIST" else None
        make = _MAKERS.get((segments[0], request.method))
        return make(self, request, segments[1]) if make else None

    # --------------------------------------------------------------------------------------- credentials

    def _credentials(self, request: VaultRequest, name: str) -> Operation:
        async def run() -> Answer:
            made = await self._databases.credentials.make(name, request.caller.spiffe_id)
            lease = made.lease
            return Answer(
                data={"username": made.username, "password": made.password},
                lease=LeaseAnswer(
                    lease_id=lease.id, duration=lease.expires - lease.issued, renewable=lease.renewable
                ),
                detail={"lease": lease.id, "username": made.username},
            )

        return Operation(verb=Verb.READ, resource=f"{MOUNT}/creds/{name}", run=run, changes=True)

    def _static_credentials(self, _request: VaultRequest, name: str) -> Operation:
        async def run() -> Answer:
            role = await self._databases.static_roles.credentials(name)
            data = forms.static_credentials_form(role, self._clock.now())
            return Answer(data=data, detail={"username": role.account.username})

        return Operation(verb=Verb.READ, resource=f"{MOUNT}/static-creds/{name}", run=run)

    def _rotate_role(self, _request: VaultRequest, name: str) -> Operation:
        async def run() -> Answer:
            await self._databases.static_roles.rotate(name)
            return Answer()

        return _kept(Verb.ROTATE, f"static-creds/{name}", run)

    # --------------------------------------------------------------------------------------- databases

    def _write_config(self, request: VaultRequest, name: str) -> Operation:
        changes = forms.database_of_body(request.body)

        async def run() -> Answer:
            await self._databases.configuration.write_database(name, changes)
            warnings = forms.warnings_about(await self._databases.configuration.database(name))
            return Answer(warnings=warnings)

        return _kept(Verb.WRITE, f"config/{name}", run)

    def _read_config(self, _request: VaultRequest, name: str) -> Operation:
        async def run() -> Answer:
            return Answer(data=forms.database_form(await self._databases.configuration.database(name)))

        return _looked_at(f"config/{name}", run)

    def _delete_config(self, _request: VaultRequest, name: str) -> Operation:
        return _kept(
            Verb.WRITE, f"config/{name}", self._done(self._databases.configuration.delete_database, name)
        )

    def _reset(self, _request: VaultRequest, name: str) -> Operation:
        return _kept(Verb.WRITE, f"config/{name}", self._done(self._databases.configuration.reset, name))

    def _rotate_root(self, _request: VaultRequest, name: str) -> Operation:
        return _kept(
            Verb.ROTATE, f"config/{name}", self._done(self._databases.configuration.rotate_root, name)
        )

    # --------------------------------------------------------------------------------------- roles

    def _write_role(self, request: VaultRequest, name: str) -> Operation:
        changes = forms.role_of_body(request.body)

        async def run() -> Answer:
            await self._databases.configuration.write_role(name, changes)
            return Answer()

        return _kept(Verb.WRITE, f"roles/{name}", run)

    def _read_role(self, _request: VaultRequest, name: str) -> Operation:
        async def run() -> Answer:
            return Answer(data=forms.role_form(await self._databases.configuration.role(name)))

        return _looked_at(f"roles/{name}", run)

    def _delete_role(self, _request: VaultRequest, name: str) -> Operation:
        return _kept(Verb.WRITE, f"roles/{name}", self._done(self._databases.configuration.delete_role, name))

    def _write_static_role(self, request: VaultRequest, name: str) -> Operation:
        changes, usernames = forms.static_role_of_body(request.body)

        async def run() -> Answer:
            await self._databases.static_roles.write(name, changes, usernames)
            return Answer()

        return _kept(Verb.WRITE, f"static-roles/{name}", run)

    def _read_static_role(self, _request: VaultRequest, name: str) -> Operation:
        async def run() -> Answer:
            return Answer(data=forms.static_role_form(await self._databases.static_roles.get(name)))

        return _looked_at(f"static-roles/{name}", run)

    def _delete_static_role(self, _request: VaultRequest, name: str) -> Operation:
        return _kept(
            Verb.WRITE, f"static-roles/{name}", self._done(self._databases.static_roles.delete, name)
        )

    def _list(self, what: str) -> Operation | None:
        names: Mapping[str, Callable[[], Awaitable[Sequence[str]]]] = {
            "config": self._databases.configuration.databases,
            "roles": self._databases.configuration.roles,
            "static-roles": self._databases.static_roles.names,
        }
        if what not in names:
            return None

        async def run() -> Answer:
            keys = await names[what]()
            return Answer(data={"keys": list(keys)}, detail={"keys": len(keys)}) if keys else NOTHING

        return Operation(verb=Verb.LIST, resource=f"{MOUNT}/{what}", run=run, or_operators=True)

    @staticmethod
    def _done(do: Callable[[str], Awaitable[None]], name: str) -> _Run:
        async def run() -> Answer:
            await do(name)
            return Answer()

        return run


_MAKERS: Final[Mapping[tuple[str, str], _Make]] = {
    ("creds", "GET"): DatabaseBackend._credentials,
    ("static-creds", "GET"): DatabaseBackend._static_credentials,
    ("rotate-role", "POST"): DatabaseBackend._rotate_role,
    ("config", "POST"): DatabaseBackend._write_config,
    ("config", "GET"): DatabaseBackend._read_config,
    ("config", "DELETE"): DatabaseBackend._delete_config,
    ("reset", "POST"): DatabaseBackend._reset,
    ("rotate-root", "POST"): DatabaseBackend._rotate_root,
    ("roles", "POST"): DatabaseBackend._write_role,
    ("roles", "GET"): DatabaseBackend._read_role,
    ("roles", "DELETE"): DatabaseBackend._delete_role,
    ("static-roles", "POST"): DatabaseBackend._write_static_role,
    ("static-roles", "GET"): DatabaseBackend._read_static_role,
    ("static-roles", "DELETE"): DatabaseBackend._delete_static_role,
}


def _kept(verb: Verb, path: str, run: _Run) -> Operation:
    return Operation(verb=verb, resource=f"{MOUNT}/{path}", run=run, changes=True, or_operators=True)


def _looked_at(path: str, look: _Run) -> Operation:
    async def run() -> Answer:
        try:
            return await look()
        except VestibuleError as error:
            if error.code is NO_SUCH_DATABASE:
                return NOTHING
            raise

    return Operation(verb=Verb.READ, resource=f"{MOUNT}/{path}", run=run, or_operators=True)
