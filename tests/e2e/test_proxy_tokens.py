"""Tokens of the mesh's own token service at the real Envoy: revoked, bound, stripped, rotated, and sent along."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.e2e.mesh_lab import (
    App,
    Lab,
    Proxy,
    Reply,
    Seen,
    client_tls,
    intent_of,
    rule,
    service,
    spiffe_id,
    wire,
)
from tests.e2e.shared_mesh import Shared

from vestibule.envoy.revoked_tokens import RefusedTokens, slot
from vestibule.intent.model import Authorization, Intent, Issuer, IssuerKind
from vestibule.intent.traffic import CircuitLimits
from vestibule.policy import Rule, TokenDemand
from vestibule.spiffe import X509Svid
from vestibule.tokens.ports import RevokedBy, RevokedTokens
from vestibule.xds.resources import Snapshot

ISSUER = "https://tokens.example.org"
WEB, ORDERS = spiffe_id("web"), spiffe_id("orders")
KEYS = {kid: ec.generate_private_key(ec.SECP256R1()) for kid in ("a", "b")}
PATIENCE = 60.0


def key_set(*kids: str) -> str:
    to_jwk = jwt.algorithms.ECAlgorithm.to_jwk
    return json.dumps(
        {"keys": [{**json.loads(to_jwk(KEYS[kid].public_key())), "kid": kid, "use": "sig"} for kid in kids]}
    )


def token(kid: str = "a", **changes: Any) -> str:
    now = int(time.time())
    said = {
        "iss": ISSUER,
        "aud": "payments",
        "sub": "user-7",
        "client_id": str(WEB),
        "iat": now - 5,
        "exp": now + 600,
        "jti": "jti-1",
        "txn": "txn-1",
        "scope": "charge:write",
        **changes,
    }
    claims = {name: value for name, value in said.items() if value is not None}
    return jwt.encode(claims, KEYS[kid], "ES256", headers={"kid": kid, "typ": "at+jwt"})


def _demanding(name: str, port: str, *callers: str, **demand: Any) -> Rule:
    made = TokenDemand(issuer="internal", audience="payments", **demand)
    return replace(rule(f"payments/{name}", *callers, paths=f"/{name}", port=port), token=made)


def _intent(connections: int = 1000, version: str = "v1") -> Intent:
    payments = service(
        "payments",
        _demanding("charge", "http", "web", scopes=("charge:write",), inject=True),
        _demanding("bound", "http", "web", certificate=True),
        _demanding("charge", "quiet", "web"),
        rule("payments/plain", "web", "orders", paths="/plain"),
        http="http",
        quiet="http",
        closed="http",
    )
    ports = dict(payments.ports)
    ports["quiet"] = replace(ports["quiet"], authorization=Authorization.STRIP)
    ports["closed"] = replace(ports["closed"], authorization=Authorization.REFUSE)
    everybody = rule("tokens/everybody", "web", "payments")
    services = (
        replace(payments, ports=MappingProxyType(ports)),
        service("web"),
        service("tokens", everybody),
    )
    intent = intent_of(*services, version=version)
    issuers = {"internal": Issuer(name="internal", issuer="", kind=IssuerKind.TOKENS)}
    defaults = replace(intent.mesh.defaults, circuit=CircuitLimits(connections=connections))
    return replace(intent, mesh=replace(intent.mesh, issuers=MappingProxyType(issuers), defaults=defaults))


class TokenService(App):
    """Gives every client what it asks for, unless it ``refuses``."""

    refuses = False

    async def _answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = head.decode("latin-1").rstrip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        self.seen.append(Seen("POST", first.split(" ")[1], headers, body))
        asked = parse_qs(body.decode())
        if self.refuses:
            writer.write(b'HTTP/1.1 403 X\r\ncontent-length: 25\r\n\r\n{"error":"access_denied"}')
            await writer.drain()
            return
        made = token(jti=f"sent-{len(self.seen)}", aud=asked["audience"][0], scope=asked["scope"][0])
        said = json.dumps({"access_token": made, "token_type": "Bearer", "expires_in": 2}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(said), said))
        await writer.drain()


class Told(Proxy):
    """With what a publisher fills in."""

    def snapshot(self) -> Snapshot:
        assert isinstance(self.lab, TokenLab)
        world = self.lab.world
        filled = slot(self.lab.refused, ("internal",), world.token_issuer, world.token_keys)
        return super().snapshot().with_resources(filled)


class TokenLab(Lab):
    kind = Told
    refused = RefusedTokens()


@dataclass
class Payments:
    lab: TokenLab

    async def ask(
        self,
        path: str,
        *tokens: str,
        port: str = "http",
        svid: X509Svid | None = None,
        header: str = "Bearer ",
    ) -> Reply:
        address = self.lab.proxies["payments-1"].instance.ingress[port]
        shown = svid or self.lab.issue(WEB)
        async with wire(address, client_tls(shown, self.lab.directory)) as connection:
            lines = "".join(f"\r\nauthorization: {header}{each}" for each in tokens)
            return await connection.ask("GET", path, f"payments{lines}")

    async def revoke(self, *entries: tuple[RevokedBy, str], before: datetime | None = None) -> None:
        now = before or datetime.now(UTC)
        listed = [RevokedTokens(by=by, value=value, before=now, until=now) for by, value in entries]
        self.lab.refused = RefusedTokens.of(listed)
        await self.lab.tell()

    async def becomes(self, status: int, path: str, made: str, code: str = "") -> None:
        """What was just told is in force soon."""
        async with asyncio.timeout(PATIENCE):
            while (reply := await self.ask(path, made)).status != status:
                await asyncio.sleep(0.02)
        assert not code or reply.error == code


@asynccontextmanager
async def payments() -> AsyncIterator[Payments]:
    async with TokenLab(_intent()) as lab:
        lab.world = replace(lab.world, token_issuer=ISSUER, token_keys=key_set("a"))
        app = TokenService("tokens")
        await app.start()
        lab.also(app.stop)
        lab.apps["tokens"] = app
        await lab.add("tokens", apps={"http": app.address})
        await lab.add("payments")
        await lab.add("web")
        await lab.ready()
        yield Payments(lab)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Shared[Payments]]:
    with Shared(payments) as shared:
        yield shared


REVOKED: Mapping[str, tuple[tuple[RevokedBy, str], Mapping[str, Any], Mapping[str, Any]]] = {
    "a token": ((RevokedBy.TOKEN, "bad"), {"jti": "bad"}, {"jti": "good"}),
    "what was got for a token": ((RevokedBy.TOKEN, "bad"), {"txn": "bad"}, {"txn": "good"}),
    "a key": ((RevokedBy.KEY, "a"), {}, {}),
    "a client": ((RevokedBy.CLIENT, str(WEB)), {}, {"iat": int(time.time()) + 3600}),
    "a client that acted before": (
        (RevokedBy.CLIENT, str(ORDERS)),
        {"act": {"sub": str(WEB), "act": {"sub": "x", "act": {"sub": str(ORDERS)}}}},
        {"act": {"sub": str(WEB), "act": {"sub": "x"}}},
    ),
    "a subject": ((RevokedBy.SUBJECT, "user-8"), {"sub": "user-8"}, {}),
    "a subject whose token does not say when it was issued": (
        (RevokedBy.SUBJECT, "user-8"),
        {"sub": "user-8", "iat": None},
        {"sub": "user-8", "iat": int(time.time()) + 3600},
    ),
}


@pytest.mark.parametrize("what", REVOKED)
def test_what_is_revoked_is_refused_by_its_own_code_and_nothing_else_is(
    mesh: Shared[Payments], what: str
) -> None:
    entry, bad, good = REVOKED[what]

    async def story(payments: Payments) -> None:
        await payments.becomes(200, "/charge", token(**bad))
        await payments.revoke(entry)
        await payments.becomes(401, "/charge", token(**bad), "VST6100")
        reply = await payments.ask("/charge", token(**bad))
        assert "invalid_token" in reply.headers["www-authenticate"]
        if entry[0] is not RevokedBy.KEY:
            await payments.becomes(200, "/charge", token(**good))
        # Whoever shows no token is not meant.
        assert (await payments.ask("/plain")).status == 200
        await payments.revoke()
        await payments.becomes(200, "/charge", token(**bad))

    mesh.run(story)


def test_a_list_that_is_too_long_ends_all_that_is_older(mesh: Shared[Payments]) -> None:
    async def story(payments: Payments) -> None:
        payments.lab.refused = RefusedTokens(every=int(time.time()))
        await payments.lab.tell()
        await payments.becomes(401, "/charge", token(), "VST6100")
        await payments.becomes(200, "/charge", token(iat=int(time.time()) + 3600))
        assert (await payments.ask("/plain")).status == 200
        await payments.revoke()
        await payments.becomes(200, "/charge", token())

    mesh.run(story)


def test_a_token_that_is_bound_to_a_certificate_is_worth_nothing_with_another(mesh: Shared[Payments]) -> None:
    async def story(payments: Payments) -> None:
        one, other = payments.lab.issue(WEB), payments.lab.issue(WEB)
        digest = hashlib.sha256(one.chain[0]).hexdigest()
        bound = token(cnf_x5t_hex=digest)
        assert (await payments.ask("/bound", bound, svid=one)).status == 200
        assert (await payments.ask("/bound", bound, svid=other)).error == "VST4001"
        for said in (None, 7, [digest], digest.upper(), ""):
            assert (await payments.ask("/bound", token(cnf_x5t_hex=said), svid=one)).error == "VST4001"

    mesh.run(story)


def test_the_header_goes_to_the_app_or_does_not_as_the_port_says(mesh: Shared[Payments]) -> None:
    async def story(payments: Payments) -> None:
        app, made = payments.lab.apps["payments"], token()
        assert (await payments.ask("/charge", made)).status == 200
        assert app.seen[-1].headers["authorization"] == f"Bearer {made}"
        # Rules see it; the app does not, nor another kind of it.
        assert (await payments.ask("/charge", port="quiet")).error == "VST4001"
        assert (await payments.ask("/charge", made, port="quiet")).status == 200
        assert "authorization" not in app.seen[-1].headers
        assert (await payments.ask("/plain", "dTpw", port="quiet", header="Basic ")).status == 200
        assert "authorization" not in app.seen[-1].headers

    mesh.run(story)


def test_a_port_that_takes_no_tokens_refuses_whoever_shows_one(mesh: Shared[Payments]) -> None:
    async def story(payments: Payments) -> None:
        assert (await payments.ask("/plain", port="closed")).status == 200
        for header in ("Bearer ", "bearer ", "Basic ", ""):
            reply = await payments.ask("/plain", token(), port="closed", header=header)
            assert (reply.status, reply.error) == (401, "VST6101")

    mesh.run(story)


def test_keys_change_and_no_request_is_refused_meanwhile(mesh: Shared[Payments]) -> None:
    async def story(payments: Payments) -> None:
        signing, statuses, going_on = ["a"], list[int](), asyncio.Event()

        async def keep_asking(connection: Any) -> None:
            while not going_on.is_set():
                lines = f"payments\r\nauthorization: Bearer {token(signing[0])}"
                statuses.append((await connection.ask("GET", "/charge", lines)).status)

        async def publish(*kids: str) -> None:
            payments.lab.world = replace(payments.lab.world, token_keys=key_set(*kids))
            payments.lab.world = replace(
                payments.lab.world, intent=replace(payments.lab.world.intent, version="-".join(kids))
            )
            await payments.lab.tell()
            await payments.lab.settle()

        address = payments.lab.proxies["payments-1"].instance.ingress["http"]
        tls = client_tls(payments.lab.issue(WEB), payments.lab.directory)
        async with wire(address, tls) as connection:
            asking = asyncio.create_task(keep_asking(connection))
            for old, new in (("a", "b"), ("b", "a")):
                await publish(old, new)
                signing[0] = new
                count = len(statuses)
                async with asyncio.timeout(PATIENCE):
                    while len(statuses) < count + 20:
                        await asyncio.sleep(0.01)
                await publish(new)
            going_on.set()
            await asking
        assert set(statuses) == {200}

    mesh.run(story)


def test_the_sidecar_gets_a_token_and_sends_it_along(mesh: Shared[Payments]) -> None:
    async def story(payments: Payments) -> None:
        lab, web = payments.lab, payments.lab.proxies["web-1"]
        seen, asked = lab.apps["payments"].seen, lab.apps["tokens"].seen
        async with wire(web.instance.egress) as connection:

            async def ask(**headers: str) -> Reply:
                return await connection.ask("GET", "/charge", "http.payments", **headers)

            async with asyncio.timeout(PATIENCE):
                while (await ask()).status != 200:
                    await asyncio.sleep(0.02)
            sent = seen[-1].headers["authorization"]
            assert sent.startswith("Bearer ")
            # By its certificate the service knew whom it was for; there was no secret.
            assert f"URI={WEB}" in asked[-1].headers["x-forwarded-client-cert"]
            assert parse_qs(asked[-1].body.decode()) == {
                "grant_type": ["client_credentials"],
                "audience": ["payments"],
                "scope": ["charge:write"],
            }
            # What the app says itself goes first.
            assert (await ask(authorization="Bearer mine")).error == "VST4051"
            assert (await ask(authorization=f"Bearer {token(jti='mine')}")).status == 200
            # The next one comes in time; and whatever becomes of the cluster, no request goes without.
            for number in range(3):
                lab.world = replace(lab.world, intent=_intent(2000 + number, f"c{number}"))
                await lab.tell()
                async with asyncio.timeout(PATIENCE):
                    while not web.has_settled(f"c{number}"):
                        assert (await ask()).status == 200
            async with asyncio.timeout(PATIENCE):
                while seen[-1].headers["authorization"] == sent:
                    assert (await ask()).status == 200
                    await asyncio.sleep(0.05)

    mesh.run(story)


def test_without_a_token_a_call_does_not_leave(mesh: Shared[Payments]) -> None:
    async def story(payments: Payments) -> None:
        lab, web = payments.lab, payments.lab.proxies["web-1"]
        tokens = lab.apps["tokens"]
        assert isinstance(tokens, TokenService)
        async with wire(web.instance.egress) as connection:
            tokens.refuses = True
            async with asyncio.timeout(PATIENCE):
                # As long as the last one lasts it is sent.
                while (reply := await connection.ask("GET", "/charge", "http.payments")).status == 200:
                    await asyncio.sleep(0.05)
            assert (reply.status, reply.error) == (503, "VST6102")
            tokens.refuses = False
            async with asyncio.timeout(PATIENCE):
                while (await connection.ask("GET", "/charge", "http.payments")).status != 200:
                    await asyncio.sleep(0.05)

    mesh.run(story)
