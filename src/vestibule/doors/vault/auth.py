"""``auth/``: tokens, for clients that want one.

The logins ``jwt`` and ``cert`` give the caller, whom ``callers.Callers`` has found, a token of its own identity.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from vestibule.clock import Clock
from vestibule.doors.vault import fields
from vestibule.doors.vault.codes import VAULT_FIELD
from vestibule.doors.vault.operations import OPERATOR, Answer, Caller, Operation, VaultRequest
from vestibule.secrets.client_tokens import ClientToken, ClientTokens
from vestibule.secrets.ports import Verb

JWT_LOGIN: Final = "auth/jwt/login"
LOGINS: Final = (JWT_LOGIN, "auth/cert/login")
_TOKEN: Final = "auth/token/"  # noqa: S105 (a path)
_UNFIT: Final = ("num_uses", "period", "explicit_max_ttl")


class AuthBackend:
    """Tokens are for the identity that asks, and for no other."""

    def __init__(self, tokens: ClientTokens, clock: Clock) -> None:
        self._tokens = tokens
        self._clock = clock

    def operation(self, request: VaultRequest) -> Operation | None:
        """Raises: VST5210."""
        if request.path in LOGINS:
            return self._login(request) if request.method == "POST" else None
        if not request.path.startswith(_TOKEN):
            return None
        what = request.path.removeprefix(_TOKEN)
        body = request.body
        match request.method, what:
            case "GET", "lookup-self":
                return _open(what, lambda: self._lookup(request.token, request.caller))
            case "POST", "lookup":
                return _open(what, lambda: self._lookup(_given(body), request.caller))
            case "POST", "renew-self":
                return _open(what, lambda: self._renew(request.token, body, request.caller), changes=True)
            case "POST", "renew":
                return _open(what, lambda: self._renew(_given(body), body, request.caller), changes=True)
            case "POST", "revoke-self":
                return _open(what, lambda: self._revoke(request.token), changes=True)
            case "POST", "revoke" | "revoke-orphan":
                return _open(what, lambda: self._revoke(_given(body)), changes=True)
            case "POST", "revoke-accessor":
                return self._revoke_accessor(body)
            case "POST", "create" | "create-orphan":
                return self._create(request)
        return None

    def _login(self, request: VaultRequest) -> Operation:
        async def run() -> Answer:
            text, token = self._tokens.issue(request.caller.spiffe_id)
            return _auth(text, token, self._seconds(token))

        return Operation(verb=Verb.USE, resource=request.path, run=run, open=True)

    def _create(self, request: VaultRequest) -> Operation:
        """A further token of the same identity, which lasts no longer than the one that asks for it."""
        for name in _UNFIT:
            if fields.duration(request.body, name):
                raise VAULT_FIELD.error(f"{name} is not offered")
        ttl = fields.duration(request.body, "ttl")

        async def run() -> Answer:
            parent = await self._tokens.read(request.token) if request.caller.via == "token" else None
            text, token = self._tokens.issue(request.caller.spiffe_id, ttl, parent=parent)
            warnings = (
                ["policies are those of the identity, in the intent"] if request.body.get("policies") else []
            )
            answer = _auth(text, token, self._seconds(token))
            return Answer(auth=answer.auth, detail=answer.detail, warnings=warnings)

        return _open("create", run, changes=True)

    async def _lookup(self, text: str, caller: Caller) -> Answer:
        token = await self._own(text, caller)
        return Answer(data=self._told(text, token), detail={"accessor": token.accessor})

    async def _renew(self, text: str, body: Mapping[str, Any], caller: Caller) -> Answer:
        increment = fields.duration(body, "increment")
        token = await self._tokens.renew(await self._own(text, caller), increment)
        return _auth(text, token, self._seconds(token))

    async def _own(self, text: str, caller: Caller) -> ClientToken:
        """Whoever holds somebody else's token may take it out of the world, and nothing more.  Raises: VST5550."""
        return await self._tokens.read(text, shown_by=None if caller.via == OPERATOR else caller.spiffe_id)

    async def _revoke(self, text: str) -> Answer:
        token = await self._tokens.read(text)
        await self._tokens.revoke(token)
        return Answer(detail={"accessor": token.accessor})

    def _revoke_accessor(self, body: Mapping[str, Any]) -> Operation:
        accessor = fields.text(body, "accessor")
        if not accessor:
            raise VAULT_FIELD.error("accessor is not given")

        async def run() -> Answer:
            await self._tokens.revoke_accessor(accessor)
            return Answer(detail={"accessor": accessor})

        return Operation(
            verb=Verb.WRITE, resource="auth/token/revoke-accessor", run=run, changes=True, operators=True
        )

    def _seconds(self, token: ClientToken) -> int:
        return max(0, int((token.expires - self._clock.now()).total_seconds()))

    def _told(self, text: str, token: ClientToken) -> dict[str, Any]:
        return {
            "id": text,
            "accessor": token.accessor,
            "creation_time": int(token.issued.timestamp()),
            "creation_ttl": int((token.expires - token.issued).total_seconds()),
            "display_name": str(token.spiffe_id),
            "entity_id": str(token.spiffe_id),
            "expire_time": token.expires.isoformat().replace("+00:00", "Z"),
            "explicit_max_ttl": int((token.last - token.issued).total_seconds()),
            "issue_time": token.issued.isoformat().replace("+00:00", "Z"),
            "meta": {"spiffe_id": str(token.spiffe_id)},
            "num_uses": 0,
            "orphan": True,
            "path": "auth/token/create",
            "policies": ["default"],
            "renewable": True,
            "ttl": self._seconds(token),
            "type": "service",
        }


def _auth(text: str, token: ClientToken, seconds: int) -> Answer:
    auth = {
        "client_token": text,
        "accessor": token.accessor,
        "policies": ["default"],
        "token_policies": ["default"],
        "metadata": {"spiffe_id": str(token.spiffe_id)},
        "lease_duration": seconds,
        "renewable": True,
        "entity_id": str(token.spiffe_id),
        "token_type": "service",
        "orphan": True,
        "mfa_requirement": None,
        "num_uses": 0,
    }
    return Answer(auth=auth, detail={"accessor": token.accessor})


def _given(body: Mapping[str, Any]) -> str:
    if not (token := fields.text(body, "token")):
        raise VAULT_FIELD.error("token is not given")
    return token


def _open(what: str, run: Callable[[], Awaitable[Answer]], *, changes: bool = False) -> Operation:
    return Operation(verb=Verb.USE, resource=f"auth/token/{what}", run=run, changes=changes, open=True)
