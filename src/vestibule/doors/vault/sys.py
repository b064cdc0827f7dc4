"""The rest of ``sys/``: what is mounted, which rules there are, what one may do, and hashes of the audit log.

https://developer.hashicorp.com/vault/api-docs/system

Mounts are fixed, and policy is the intent's: both can be read here, and neither changed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from vestibule.doors.vault import fields
from vestibule.doors.vault.codes import BAD_REQUEST, FIXED
from vestibule.doors.vault.operations import Answer, Backend, Operation, VaultRequest
from vestibule.doors.vault.paths import path_of
from vestibule.errors import VestibuleError
from vestibule.secrets.ports import Verb

_Run = Callable[[], Awaitable[Answer]]
May = Callable[[VaultRequest], Awaitable[bool]]
"""Whether a request would be let through; nothing else happens.  Raises: what the engine says of the request."""

Policies = Callable[[], Mapping[str, str]]
"""The groups of rules of the intent in force, by name, as text."""

MOUNTS: Final[Mapping[str, tuple[str, str, Mapping[str, str] | None]]] = {
    "secret/": ("kv", "versioned secrets", {"version": "2"}),
    "database/": ("database", "credentials of databases, made on demand", None),
    "transit/": ("transit", "encryption, signatures and hashes by keys that stay inside", None),
    "sys/": ("system", "the secret manager itself", None),
}
METHODS: Final[Mapping[str, tuple[str, str]]] = {
    "token/": ("token", "tokens, for clients that want one"),
    "jwt/": ("jwt", "JWT-SVIDs"),
    "cert/": ("cert", "X.509-SVIDs"),
}
_MOST_PATHS: Final = 100
_CAPABILITIES: Final = {
    "GET": ("read",),
    "LIST": ("list",),
    "POST": ("create", "update"),
    "PATCH": ("patch",),
    "DELETE": ("delete",),
}


class SysBackend:
    """``Backend`` of ``sys/``, with ``seal`` for what concerns the seal."""

    def __init__(self, seal: Backend, *, may: May, policies: Policies, hashed: Callable[[str], str]) -> None:
        """``hashed`` gives the keyed hash by which the audit log names a value."""
        self._seal = seal
        self._may = may
        self._policies = policies
        self._hashed = hashed

    def operation(self, request: VaultRequest) -> Operation | None:
        """Raises: VST5208 for what is fixed, VST5210."""
        what, _, rest = request.path.removeprefix("sys/").partition("/")
        match what:
            case "mounts" | "auth":
                return self._mounts(request, what, rest)
            case "internal":
                return self._internal(request, rest)
            case "policy" | "policies":
                return self._policy(request, rest.removeprefix("acl").strip("/"), what)
            case "capabilities-self":
                return self._capabilities(request) if request.method == "POST" and not rest else None
            case "audit":
                return self._audits(request)
            case "audit-hash":
                return self._audit_hash(request) if request.method == "POST" else None
            case "leader":
                return _open("leader", _leader) if request.method == "GET" and not rest else None
        return self._seal.operation(request)

    def _mounts(self, request: VaultRequest, what: str, rest: str) -> Operation | None:
        table = _mounted() if what == "mounts" else _methods()
        if request.method != "GET":
            raise FIXED.error(f"what is at sys/{what} cannot be changed")
        if not rest:
            return _open(what, lambda: _both(table))
        name = f"{rest.removesuffix('/tune')}/"
        if name not in table:
            return None
        told = table[name]["config"] if rest.endswith("/tune") else table[name]
        return _open(what, lambda: _both(told))

    def _internal(self, request: VaultRequest, rest: str) -> Operation | None:
        if request.method != "GET" or not rest.startswith("ui/mounts"):
            return None
        path = rest.removeprefix("ui/mounts").strip("/")
        if not path:
            return _open("internal/ui/mounts", lambda: _data({"secret": _mounted(), "auth": _methods()}))
        name = f"{path.partition('/')[0]}/"
        if name not in MOUNTS:
            return None
        return _open("internal/ui/mounts", lambda: _data({**_mounted()[name], "path": name}))

    def _policy(self, request: VaultRequest, name: str, what: str) -> Operation | None:
        if request.method in ("POST", "DELETE"):
            raise FIXED.error("policy is the intent's: it is changed in Git")
        if not name:
            return _operators("policies", self._names) if request.method in ("GET", "LIST") else None
        if request.method != "GET" or name not in self._policies():
            return None
        text = "rules" if what == "policy" else "policy"
        return _operators("policies", lambda: _both({"name": name, text: self._policies()[name]}))

    async def _names(self) -> Answer:
        names = sorted(self._policies())
        return await _both({"keys": names, "policies": names})

    def _capabilities(self, request: VaultRequest) -> Operation:
        wanted = request.body.get("paths", request.body.get("path", []))
        paths = [wanted] if isinstance(wanted, str) else wanted
        if not isinstance(paths, list) or not 0 < len(paths) <= _MOST_PATHS:
            raise BAD_REQUEST.error(f"paths is not a list of up to {_MOST_PATHS} paths")
        if not all(isinstance(each, str) for each in paths):
            raise BAD_REQUEST.error("a path is text")

        async def run() -> Answer:
            found = {each: await self._capable(request, each) for each in paths}
            alone = {"capabilities": found[paths[0]]} if len(paths) == 1 else {}
            return await _both({**found, **alone})

        return _open("capabilities-self", run)

    async def _capable(self, request: VaultRequest, path: str) -> list[str]:
        try:
            logical = path_of(b"/v1/" + path.strip("/").encode("ascii", "replace"))
        except VestibuleError:
            return ["deny"]
        asked = replace(request, path=logical, body={}, query={}, wrap_ttl=None)
        found = [
            word
            for method, words in _CAPABILITIES.items()
            if await self._is_let(replace(asked, method=method))
            for word in words
        ]
        return found or ["deny"]

    async def _is_let(self, request: VaultRequest) -> bool:
        try:
            return await self._may(request)
        except VestibuleError:
            # A request without a body does not always make sense; then nothing is promised.
            return False

    def _audits(self, request: VaultRequest) -> Operation:
        if request.method != "GET":
            raise FIXED.error("the audit log is always on")
        told = {"file/": {"type": "file", "description": "hash-chained", "path": "file/", "options": {}}}
        return _operators("audit", lambda: _both(told))

    def _audit_hash(self, request: VaultRequest) -> Operation:
        text = fields.text(request.body, "input")

        async def run() -> Answer:
            return await _both({"hash": self._hashed(text)})

        return _operators("audit-hash", run)


def _mounted() -> dict[str, Any]:
    return {
        name: _entry(kind, name, description, options)
        for name, (kind, description, options) in MOUNTS.items()
    }


def _methods() -> dict[str, Any]:
    return {name: _entry(kind, name, description, None) for name, (kind, description) in METHODS.items()}


def _entry(kind: str, name: str, description: str, options: Mapping[str, str] | None) -> dict[str, Any]:
    accessor = f"{kind}_{name.rstrip('/')}"
    return {
        "type": kind,
        "description": description,
        "accessor": accessor,
        "uuid": accessor,
        "config": {"default_lease_ttl": 0, "max_lease_ttl": 0, "force_no_cache": False},
        "options": options,
        "local": False,
        "seal_wrap": False,
        "external_entropy_access": False,
    }


async def _leader() -> Answer:
    return Answer(
        top={"ha_enabled": False, "is_self": True, "leader_address": "", "leader_cluster_address": ""}
    )


async def _data(data: Mapping[str, Any]) -> Answer:
    return Answer(data=data)


async def _both(data: Mapping[str, Any]) -> Answer:
    """Older clients look for these at the top."""
    usual = {"lease_id": "", "renewable": False, "lease_duration": 0, "wrap_info": None, "warnings": None}
    return Answer(top={**data, **usual, "data": data, "auth": None})


def _open(name: str, run: _Run) -> Operation:
    return Operation(verb=Verb.READ, resource=f"sys/{name}", run=run, open=True)


def _operators(name: str, run: _Run) -> Operation:
    return Operation(verb=Verb.READ, resource=f"sys/{name}", run=run, operators=True)
