"""A token service on a loopback port that signs what it is told: what clients and verifiers are tried against."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from vestibule.pki.jwk import jwk_parameters
from vestibule.pki.keys import generate_key
from vestibule.testing.loopback import served
from vestibule.testing.tokens import ISSUER, signed, spiffe_id
from vestibule.tokens.keyring import thumbprint

WEB = str(spiffe_id("web"))


class Issuer:
    """Signs access tokens, well-formed unless it is told otherwise."""

    def __init__(self) -> None:
        self.key = generate_key()
        self.key_id = thumbprint(self.key.public_key())

    @property
    def jwk(self) -> dict[str, Any]:
        named = {"kid": self.key_id, "use": "sig", "alg": "ES256"}
        return {**jwk_parameters(self.key.public_key()), **named}

    @property
    def jwks(self) -> dict[str, Any]:
        return {"keys": [self.jwk]}

    def claims(self, now: datetime | None = None, lasts: int = 300, **more: Any) -> dict[str, Any]:
        """``None`` takes a claim away."""
        at = int((now or datetime.now(UTC)).timestamp())
        usual = {"iss": ISSUER, "sub": WEB, "client_id": WEB, "aud": "reports", "jti": "j1", "txn": "j1"}
        claims = {**usual, "iat": at, "exp": at + lasts, "scope": "report:read", **more}
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, header: Mapping[str, Any] | None = None, /, **claims: Any) -> str:
        usual = {"alg": "ES256", "kid": self.key_id, "typ": "at+jwt"}
        return signed({**usual, **(header or {})}, self.claims(**claims), self.key)


class TokenLab:
    """The double.  ``asked`` are the forms, oldest first; ``refuse`` answers in the place of a token."""

    def __init__(self) -> None:
        self.issuer = Issuer()
        self.asked: list[dict[str, list[str]]] = []
        self.lasts = 600
        self.refuse: tuple[int, Mapping[str, Any]] | None = None
        self.reads = 0
        self.is_away = False
        self.gate: asyncio.Event | None = None
        self.address = ""
        self._posts: Mapping[str, Callable[[dict[str, list[str]]], tuple[int, Any]]] = {
            "/oauth2/token": self._token,
            "/oauth2/introspect": lambda form: (200, {"active": form["token"] == ["good"]}),
            "/oauth2/revoke": lambda _: (200, None),
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As ASGI wants it."""
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        status, document = await self._answer(scope["path"], body.decode())
        content = b"" if document is None else json.dumps(document).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, path: str, body: str) -> tuple[int, Any]:
        if self.gate is not None:
            await self.gate.wait()
        if self.is_away:
            return 503, None
        if path == "/oauth2/jwks":
            self.reads += 1
            return 200, self.issuer.jwks
        if path == "/.well-known/oauth-authorization-server":
            return 200, {"issuer": ISSUER, "token_endpoint": f"{ISSUER}/oauth2/token"}
        form: dict[str, list[str]] = {}
        for name, value in parse_qsl(body):
            form.setdefault(name, []).append(value)
        self.asked.append(form)
        return self._posts[path](form)

    def _token(self, form: dict[str, list[str]]) -> tuple[int, Any]:
        if self.refuse is not None:
            return self.refuse
        named = form.get("audience", [])
        claims = {"aud": named[0], "jti": f"t{len(self.asked)}", "scope": form.get("scope", [None])[0]}
        answer = {
            "access_token": self.issuer.token(**claims),
            "token_type": "Bearer",
            "expires_in": self.lasts,
        }
        if form["grant_type"][0].endswith("token-exchange"):
            answer["issued_token_type"] = "urn:ietf:params:oauth:token-type:access_token"
        return 200, answer


@asynccontextmanager
async def a_token_service(tls: ssl.SSLContext | None = None) -> AsyncIterator[TokenLab]:
    lab = TokenLab()
    async with served(lab, tls) as lab.address:
        yield lab
