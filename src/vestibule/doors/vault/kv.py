"""Versioned secrets, as Vault's KV engine, version 2, serves them.

https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2

Two things are ours: ``?wait_newer=N&wait=30s`` holds a read back until there is another version than N, and
``POST rollback/PATH`` makes an older version the newest again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Final, TypeAlias

from vestibule.doors.vault import fields, kv_forms
from vestibule.doors.vault.operations import Answer, Operation, VaultRequest
from vestibule.secrets.ports import Verb
from vestibule.secrets.versions import LONGEST_WAIT, Actor, Reading, Versions, Written
from vestibule.secrets.versions.codes import MALFORMED_REQUEST
from vestibule.secrets.versions.paths import secret_path
from vestibule.secrets.versions.values import shape

USUAL_WAIT: Final = timedelta(seconds=30)
NOTHING: Final = Answer(status=404)
"""Rendered as ``{"errors": []}``: clients take it for "not there"."""

_ROOT: Final = "Non-listing operations on the root of a K/V v2 mount are not supported."
_INVALID: Final = (
    "Invalid path for a versioned K/V secrets engine: write {mount}/data/PATH, {mount}/metadata/PATH, "
    "{mount}/delete/PATH, …  With the Vault CLI, use `vault kv {word}`."
)
_WORDS: Final = {"GET": "get", "POST": "put", "PATCH": "patch", "LIST": "list", "DELETE": "delete"}
_CAS_MANDATED: Final = (
    '"cas_required" set to false, but is mandated by backend config. This value will be ignored.'
)

_Make: TypeAlias = "Callable[[KvBackend, VaultRequest, str], Operation]"


class KvBackend:
    """``Backend`` of the mount ``secret/``."""

    def __init__(self, versions: Versions, mount: str = "secret") -> None:
        self._versions = versions
        self._mount = mount

    def operation(self, request: VaultRequest) -> Operation | None:
        mount, _, rest = request.path.partition("/")
        if mount != self._mount:
            return None
        kind, _, path = rest.partition("/")
        if kind == "config" and not path:
            return self._config(request)
        if kind not in _KINDS:
            return self._nowhere(_INVALID.format(mount=mount, word=_WORDS.get(request.method, "get")))
        make = _MAKERS.get((kind, request.method))
        if make is None:
            return None if path else self._nowhere(_ROOT)
        if not path and request.method != "LIST":
            return self._nowhere(_ROOT)
        return make(self, request, secret_path(path) if path else "")

    # --------------------------------------------------------------------------------------------- data

    def _read(self, request: VaultRequest, path: str) -> Operation:
        number = kv_forms.number_of_query(request.query, "version") if request.query else 0
        if "wait_newer" in request.query:
            return self._wait(request, path)

        async def run() -> Answer:
            return _read_answer(await self._versions.read(path, number))

        return self._operation(Verb.READ, path, run, {"version": number} if number else {})

    def _wait(self, request: VaultRequest, path: str) -> Operation:
        than = kv_forms.number_of_query(request.query, "wait_newer")
        patience = min(fields.duration(request.query, "wait") or USUAL_WAIT, LONGEST_WAIT)
        who = request.caller.name

        async def run() -> Answer:
            return _read_answer(await self._versions.wait_newer(path, than, who, patience))

        return Operation(
            verb=Verb.READ,
            resource=f"{self._mount}/{path}",
            run=run,
            waits=True,
            detail={"wait_newer": than},
        )

    def _write(self, request: VaultRequest, path: str) -> Operation:
        data, cas = kv_forms.data_of_body(request.body), kv_forms.cas_of_body(request.body)

        async def run() -> Answer:
            return _written_answer(await self._versions.put(path, data, _actor(request), cas=cas))

        return self._change(path, run)

    def _patch(self, request: VaultRequest, path: str) -> Operation:
        patch, cas = kv_forms.data_of_body(request.body), kv_forms.cas_of_body(request.body)

        async def run() -> Answer:
            written = await self._versions.patch(path, patch, _actor(request), cas=cas)
            return NOTHING if written is None else _written_answer(written)

        return self._change(path, run)

    def _rollback(self, request: VaultRequest, path: str) -> Operation:
        number, cas = fields.number(request.body, "version"), kv_forms.cas_of_body(request.body)
        if not number:
            raise MALFORMED_REQUEST.error("No version number provided")

        async def run() -> Answer:
            return _written_answer(await self._versions.rollback(path, number, _actor(request), cas=cas))

        return self._change(path, run, {"from_version": number})

    def _subkeys(self, request: VaultRequest, path: str) -> Operation:
        number = kv_forms.number_of_query(request.query, "version")
        depth = kv_forms.number_of_query(request.query, "depth")

        async def run() -> Answer:
            reading = await self._versions.read(path, number)
            if reading is None:
                return NOTHING
            form = kv_forms.reading_form(reading)
            names = None if reading.data is None else shape(reading.data, depth)
            data = {"subkeys": names, "metadata": form["metadata"]}
            return Answer(data=data, status=_status(reading), detail=_detail(reading))

        return self._operation(Verb.READ, path, run)

    # ------------------------------------------------------------------------- deletion, coming back, end

    def _delete_newest(self, request: VaultRequest, path: str) -> Operation:
        async def run() -> Answer:
            await self._versions.delete(path, _actor(request))
            return Answer()

        return self._change(path, run)

    def _delete(self, request: VaultRequest, path: str) -> Operation:
        return self._of_numbers(request, path, self._versions.delete)

    def _undelete(self, request: VaultRequest, path: str) -> Operation:
        return self._of_numbers(request, path, self._versions.undelete)

    def _destroy(self, request: VaultRequest, path: str) -> Operation:
        return self._of_numbers(request, path, self._versions.destroy)

    def _of_numbers(
        self, request: VaultRequest, path: str, do: Callable[[str, Actor, list[int]], Awaitable[None]]
    ) -> Operation:
        numbers = kv_forms.numbers_of_body(request.body)

        async def run() -> Answer:
            await do(path, _actor(request), numbers)
            return Answer()

        return self._change(path, run, {"versions": ",".join(map(str, numbers))})

    # ----------------------------------------------------------------------------------------- metadata

    def _list(self, request: VaultRequest, path: str) -> Operation:
        after, limit = request.query.get("after", ""), kv_forms.number_of_query(request.query, "limit")

        async def run() -> Answer:
            keys = await self._versions.list(path, after=after, limit=limit)
            return Answer(data={"keys": keys}, detail={"keys": len(keys)}) if keys else NOTHING

        return self._operation(Verb.LIST, path, run)

    def _metadata(self, request: VaultRequest, path: str) -> Operation:
        async def run() -> Answer:
            secret = await self._versions.metadata(path)
            return NOTHING if secret is None else Answer(data=kv_forms.secret_form(secret))

        return self._operation(Verb.READ, path, run)

    def _write_metadata(self, request: VaultRequest, path: str) -> Operation:
        change = kv_forms.change_of_body(request.body)

        async def run() -> Answer:
            if change.is_empty:
                return Answer()
            warnings = await self._cas_warnings(change.cas_required)
            await self._versions.configure(path, change, _actor(request))
            return Answer(warnings=warnings)

        return self._change(path, run)

    def _patch_metadata(self, request: VaultRequest, path: str) -> Operation:
        change = kv_forms.change_of_body(request.body, merge=True)

        async def run() -> Answer:
            warnings = await self._cas_warnings(change.cas_required)
            secret = await self._versions.configure(path, change, _actor(request), create=False)
            return NOTHING if secret is None else Answer(warnings=warnings)

        return self._change(path, run)

    async def _cas_warnings(self, wanted: bool | None) -> tuple[str, ...]:
        return (_CAS_MANDATED,) if wanted is False and (await self._versions.settings()).cas_required else ()

    def _forget(self, request: VaultRequest, path: str) -> Operation:
        async def run() -> Answer:
            await self._versions.forget(path)
            return Answer()

        return self._change(path, run)

    # -------------------------------------------------------------------------------------------- mount

    def _config(self, request: VaultRequest) -> Operation | None:
        # Named so that no rule about secrets speaks of it: a secret may be called config.
        resource = f"sys/mounts/{self._mount}/config"
        if request.method == "GET":
            return Operation(verb=Verb.READ, resource=resource, run=self._read_config, open=True)
        if request.method != "POST":
            return None
        change = kv_forms.mount_change_of_body(request.body)

        async def run() -> Answer:
            await self._versions.configure_all(change)
            return Answer()

        return Operation(verb=Verb.WRITE, resource=resource, run=run, changes=True, operators=True)

    async def _read_config(self) -> Answer:
        return Answer(data=kv_forms.settings_form(await self._versions.settings()))

    def _nowhere(self, warning: str) -> Operation:
        async def run() -> Answer:
            return Answer(status=404, warnings=(warning,))

        return Operation(verb=Verb.READ, resource=f"sys/mounts/{self._mount}", run=run, open=True)

    def _operation(
        self,
        verb: Verb,
        path: str,
        run: Callable[[], Awaitable[Answer]],
        detail: Mapping[str, str | int] | None = None,
    ) -> Operation:
        return Operation(verb=verb, resource=self._resource(path), run=run, detail=detail or {})

    def _change(
        self,
        path: str,
        run: Callable[[], Awaitable[Answer]],
        detail: Mapping[str, str | int] | None = None,
    ) -> Operation:
        return Operation(
            verb=Verb.WRITE, resource=self._resource(path), run=run, changes=True, detail=detail or {}
        )

    def _resource(self, path: str) -> str:
        return f"{self._mount}/{path}" if path else self._mount


_MAKERS: Final[Mapping[tuple[str, str], _Make]] = {
    ("data", "GET"): KvBackend._read,
    ("data", "POST"): KvBackend._write,
    ("data", "PATCH"): KvBackend._patch,
    ("data", "DELETE"): KvBackend._delete_newest,
    ("subkeys", "GET"): KvBackend._subkeys,
    ("delete", "POST"): KvBackend._delete,
    ("undelete", "POST"): KvBackend._undelete,
    ("destroy", "POST"): KvBackend._destroy,
    ("rollback", "POST"): KvBackend._rollback,
    ("metadata", "LIST"): KvBackend._list,
    ("metadata", "GET"): KvBackend._metadata,
    ("metadata", "POST"): KvBackend._write_metadata,
    ("metadata", "PATCH"): KvBackend._patch_metadata,
    ("metadata", "DELETE"): KvBackend._forget,
}
_KINDS: Final = frozenset(kind for kind, _ in _MAKERS)


def _actor(request: VaultRequest) -> Actor:
    return Actor(name=request.caller.name, request_id=request.request_id)


def _read_answer(reading: Reading | None) -> Answer:
    if reading is None:
        return NOTHING
    return Answer(data=kv_forms.reading_form(reading), status=_status(reading), detail=_detail(reading))


def _written_answer(written: Written) -> Answer:
    return Answer(
        data=kv_forms.written_form(written),
        status=0 if written.done else 404,
        detail={"version": written.version.number},
    )


def _status(reading: Reading) -> int:
    """A version that is there and cannot be read is 404 with what is known of it; 0 is the usual."""
    return 0 if reading.data is not None else 404


def _detail(reading: Reading) -> dict[str, str | int]:
    return {"version": reading.version.number}
