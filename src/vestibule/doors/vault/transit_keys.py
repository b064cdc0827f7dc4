"""``transit/keys/``: what is done to keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from vestibule.doors.vault import fields
from vestibule.doors.vault.codes import VAULT_FIELD
from vestibule.doors.vault.operations import Answer, Operation, VaultRequest
from vestibule.secrets.ports import Verb
from vestibule.secrets.transit.engine import KeySettings, Transit
from vestibule.secrets.transit.keys import KeyVersion, TransitKey
from vestibule.secrets.transit.kinds import KeyKind

MOUNT: Final = "transit/keys"
_NOT_OFFERED: Final = ("exportable", "allow_plaintext_backup", "convergent_encryption")


class KeyBackend:
    """Keys: made, looked at, listed, rotated, configured, trimmed, deleted.  None is ever exported."""

    def __init__(self, transit: Transit) -> None:
        self._transit = transit

    def operation(self, request: VaultRequest, names: Sequence[str]) -> Operation | None:
        """``names`` is what follows ``keys/``.  Raises: VST5210."""
        match request.method, names:
            case "LIST", [] | [""]:
                return Operation(verb=Verb.LIST, resource=MOUNT, run=self._list)
            case "GET", [name]:
                return _of(Verb.READ, name, lambda: self._show(name))
            case "POST", [name]:
                return self._make(name, request.body)
            case "DELETE", [name]:
                return _of(Verb.WRITE, name, lambda: self._delete(name))
            case "POST", [name, "rotate"]:
                return _of(Verb.ROTATE, name, lambda: self._rotate(name))
            case "POST", [name, "config"]:
                return self._configure(name, request.body)
            case "POST", [name, "trim"]:
                return self._trim(name, request.body)
        return None

    async def _list(self) -> Answer:
        names: list[str] = []
        while more := await self._transit.names(after=names[-1] if names else ""):
            names += more
        return Answer(data={"keys": names}) if names else Answer(status=404)

    async def _show(self, name: str) -> Answer:
        key = await self._transit.find(name)
        return Answer(status=404) if key is None else Answer(data=shown(key))

    def _make(self, name: str, body: Mapping[str, Any]) -> Operation:
        for field in _NOT_OFFERED:
            if fields.switch(body, field):
                raise VAULT_FIELD.error(f"{field} is not offered: keys stay inside")
        kind = _kind(fields.text(body, "type") or KeyKind.AES256.value)
        derived, every = bool(fields.switch(body, "derived")), fields.duration(body, "auto_rotate_period")

        async def run() -> Answer:
            return _changed(await self._transit.make(name, kind, derived=derived, rotates_every=every))

        return _of(Verb.WRITE, name, run)

    async def _delete(self, name: str) -> Answer:
        await self._transit.delete(name)
        return Answer()

    async def _rotate(self, name: str) -> Answer:
        return _changed(await self._transit.rotate(name))

    def _configure(self, name: str, body: Mapping[str, Any]) -> Operation:
        settings = KeySettings(
            least_decrypting=fields.number(body, "min_decryption_version"),
            least_encrypting=fields.number(body, "min_encryption_version"),
            deletable=fields.switch(body, "deletion_allowed"),
            rotates_every=fields.duration(body, "auto_rotate_period"),
        )
        for field in _NOT_OFFERED:
            if fields.switch(body, field):
                raise VAULT_FIELD.error(f"{field} is not offered: keys stay inside")

        async def run() -> Answer:
            return _changed(await self._transit.configure(name, settings))

        return _of(Verb.WRITE, name, run)

    def _trim(self, name: str, body: Mapping[str, Any]) -> Operation:
        least = fields.number(body, "min_available_version")
        if least is None:
            raise VAULT_FIELD.error("min_available_version is not given")

        async def run() -> Answer:
            return _changed(await self._transit.trim(name, least))

        return _of(Verb.WRITE, name, run)


def shown(key: TransitKey) -> dict[str, Any]:
    """What may be seen of a key: its settings, when its versions were made, public halves."""
    return {
        "name": key.name,
        "type": key.kind.value,
        "derived": key.derived,
        "deletion_allowed": key.deletable,
        "exportable": False,
        "allow_plaintext_backup": False,
        "imported_key": False,
        "latest_version": key.latest.number,
        "min_decryption_version": key.least_decrypting,
        "min_encryption_version": key.least_encrypting,
        "min_available_version": key.least_available if key.least_available > 1 else 0,
        "auto_rotate_period": int(key.rotates_every.total_seconds()) if key.rotates_every else 0,
        "supports_encryption": key.kind.encrypts,
        "supports_decryption": key.kind.encrypts,
        "supports_derivation": key.kind.derives,
        "supports_signing": key.kind.signs,
        "keys": {str(each.number): _version(key, each) for each in key.versions},
    }


def _version(key: TransitKey, version: KeyVersion) -> Any:
    """When a secret was made, in seconds of Unix time; of a pair of keys, the public half, too."""
    if not key.kind.signs:
        return int(version.created.timestamp())
    return {
        "creation_time": version.created.isoformat().replace("+00:00", "Z"),
        "name": key.kind.value,
        "public_key": "" if key.derived else version.public,
    }


def _kind(name: str) -> KeyKind:
    try:
        return KeyKind(name)
    except ValueError:
        known = ", ".join(each.value for each in KeyKind)
        raise VAULT_FIELD.error(f"type is none of: {known}") from None


def _of(verb: Verb, name: str, run: Callable[[], Awaitable[Answer]]) -> Operation:
    return Operation(verb=verb, resource=f"{MOUNT}/{name}", run=run, changes=verb is not Verb.READ)


def _changed(key: TransitKey) -> Answer:
    return Answer(data=shown(key), detail={"key_version": key.latest.number})
