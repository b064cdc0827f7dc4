"""Tokens that rules demand, at the real Envoy: who is let in, and every way in which a token is not one."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from tests.e2e.mesh_lab import Lab, Reply, client_tls, intent_of, rule, service, spiffe_id, until, wire
from tests.e2e.shared_mesh import Shared

from vestibule.doors.access_entries import EntryLines, LogName, Reporter
from vestibule.intent.model import Intent, Issuer, IssuerKind
from vestibule.observe.decision_settings import DecisionLogSettings
from vestibule.observe.decisions import DecisionLog
from vestibule.policy import Effect, Rule, TokenDemand

INTERNAL = "https://tokens.example.org"
OUTSIDE = "https://login.partner.example"
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
WEB, ORDERS = spiffe_id("web"), spiffe_id("orders")


def key_set(*keys: tuple[str, Any]) -> str:
    found = []
    for kid, key in keys:
        kind: Any = jwt.algorithms.ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else None
        kind = kind or jwt.algorithms.RSAAlgorithm
        found.append({**json.loads(kind.to_jwk(key.public_key())), "kid": kid, "use": "sig"})
    return json.dumps({"keys": found})


ISSUERS = {
    "internal": Issuer(
        name="internal",
        issuer=INTERNAL,
        keys=key_set(("a", KEY), ("r", RSA_KEY)),
        longest=timedelta(hours=1),
    ),
    "partner": Issuer(name="partner", issuer=OUTSIDE, keys=key_set(("p", OTHER_KEY))),
    "workloads": Issuer(
        name="workloads", issuer="", keys="", longest=timedelta(hours=1), kind=IssuerKind.SPIFFE
    ),
}


def _demanding(name: str, caller: str, path: str, **demand: Any) -> Rule:
    made = TokenDemand(**{"issuer": "internal", "audience": "payments", **demand})
    return replace(rule(f"payments/{name}", caller, paths=path), token=made)


RULES = (
    _demanding("charge", "web", "/charge", scopes=("charge:write",)),
    _demanding("finance", "web", "/finance", claims=(("dept", "fin"),)),
    _demanding("refunds", "web", "/refunds", audience="refunds"),
    _demanding("unbound", "web", "/unbound", bound=False),
    _demanding("partner", "web", "/partner", issuer="partner", bound=False),
    replace(_demanding("orders", "orders", "/charge"), name="payments/orders"),
    _demanding("svid", "web", "/svid", issuer="workloads", svid=True),
    rule("payments/plain", "web", paths="/plain"),
)
DENY = (
    replace(
        _demanding("no-interns", "web", "/plain", claims=(("dept", "interns"),), bound=False),
        effect=Effect.DENY,
    ),
)


def _intent() -> Intent:
    intent = intent_of(replace(service("payments", *RULES), deny=DENY))
    return replace(intent, mesh=replace(intent.mesh, issuers=MappingProxyType(ISSUERS)))


@dataclass
class Payments:
    """``ask`` as somebody, with the headers that are given."""

    lab: Lab

    async def ask(self, path: str, *tokens: str, caller: Any = WEB, header: str = "authorization") -> Reply:
        address = self.lab.proxies["payments-1"].instance.ingress["http"]
        async with wire(address, client_tls(self.lab.issue(caller), self.lab.directory)) as connection:
            lines = "".join(f"\r\n{header}: Bearer {token}" for token in tokens)
            # Headers of one name may come twice, which a dict cannot say.
            return await connection.ask("GET", path, f"payments{lines}")


@asynccontextmanager
async def payments() -> AsyncIterator[Payments]:
    async with Lab(_intent()) as lab:
        await lab.add("payments")
        await lab.ready()
        yield Payments(lab)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Shared[Payments]]:
    with Shared(payments) as shared:
        yield shared


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    said = {
        "iss": INTERNAL,
        "aud": "payments",
        "sub": "user-7",
        "client_id": str(WEB),
        "iat": now,
        "exp": now + 600,
        "scope": "charge:read charge:write",
        **changes,
    }
    return {name: value for name, value in said.items() if value is not None}


def token(key: Any = KEY, *, kid: str = "a", typ: str | None = "at+jwt", **changes: Any) -> str:
    algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
    return jwt.encode(claims(**changes), key, algorithm, headers={"kid": kid, "typ": typ})


def _unsigned() -> str:
    parts = ({"alg": "none", "typ": "at+jwt"}, claims())
    encoded = (base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=").decode() for each in parts)
    return ".".join(encoded) + "."


def _signed_with_the_public_key() -> str:
    """HS256, with what everybody knows as the secret."""
    import hashlib
    import hmac

    pem = RSA_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    parts = ({"alg": "HS256", "typ": "at+jwt", "kid": "r"}, claims())
    text = ".".join(
        base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=").decode() for each in parts
    )
    signature = base64.urlsafe_b64encode(hmac.digest(pem, text.encode(), hashlib.sha256)).rstrip(b"=")
    return f"{text}.{signature.decode()}"


Story = Callable[[Payments], Coroutine[Any, Any, None]]


async def _is(reply: Reply, status: int, code: str = "") -> None:
    assert (reply.status, reply.error if code else "") == (status, code)
    if status == 401:
        assert "invalid_token" in reply.headers["www-authenticate"]


def test_whoever_has_what_a_rule_demands_is_let_in(mesh: Shared[Payments]) -> None:
    async def story(payments: Payments) -> None:
        await _is(await payments.ask("/charge", token()), 200)
        await _is(await payments.ask("/charge", token(RSA_KEY, kid="r")), 200)
        await _is(await payments.ask("/finance", token(dept="fin")), 200)
        await _is(await payments.ask("/refunds", token(aud=["other", "refunds"])), 200)
        await _is(await payments.ask("/unbound", token(client_id="somebody")), 200)
        await _is(await payments.ask("/partner", token(OTHER_KEY, kid="p", typ=None, iss=OUTSIDE)), 200)
        # Delegated: whoever acts is bound, not whom it acts for.
        delegated = token(act={"sub": str(WEB), "act": {"sub": str(ORDERS)}}, client_id=str(ORDERS))
        await _is(await payments.ask("/charge", delegated), 200)
        # The app gets it too.
        seen = payments.lab.apps["payments"].seen[-1]
        assert seen.headers["authorization"] == f"Bearer {delegated}"

    mesh.run(story)


def test_who_has_something_else_or_nothing_is_not(mesh: Shared[Payments]) -> None:
    async def story(payments: Payments) -> None:
        await _is(await payments.ask("/charge"), 403, "VST4001")
        await _is(await payments.ask("/charge", token(scope="charge:write2 xcharge:write")), 403, "VST4001")
        await _is(await payments.ask("/charge", token(scope=None)), 403, "VST4001")
        await _is(await payments.ask("/finance", token()), 403, "VST4001")
        await _is(await payments.ask("/finance", token(dept=["fin"])), 403, "VST4001")
        await _is(await payments.ask("/refunds", token()), 403, "VST4001")
        await _is(await payments.ask("/charge", token(aud="refunds")), 403, "VST4001")

    mesh.run(story)


def test_denials_by_tokens_hold_for_those_who_show_such_a_token(mesh: Shared[Payments]) -> None:
    async def story(payments: Payments) -> None:
        await _is(await payments.ask("/plain"), 200)
        await _is(await payments.ask("/plain", token()), 200)
        await _is(await payments.ask("/plain", token(dept="interns")), 403, "VST4001")

    mesh.run(story)


FORGED: dict[str, Callable[[], str]] = {
    "another audience": lambda: token(aud="elsewhere"),
    "expired": lambda: token(exp=int(time.time()) - 120),
    "not valid yet": lambda: token(nbf=int(time.time()) + 120),
    "without an end": lambda: token(exp=None),
    "too long a life": lambda: token(exp=int(time.time()) + 7 * 86400),
    "not signed": _unsigned,
    "HS256 with the public key": _signed_with_the_public_key,
    "another key": lambda: token(OTHER_KEY),
    "a key of another issuer": lambda: token(OTHER_KEY, kid="p"),
    "an unknown issuer": lambda: token(iss="https://evil.example"),
    "no JWT at all": lambda: "opaque",
    "a changed claim": lambda: _changed(token(scope="charge:read")),
}


def _changed(made: str) -> str:
    head, _, signature = made.split(".")
    body = base64.urlsafe_b64encode(json.dumps(claims()).encode()).rstrip(b"=").decode()
    return f"{head}.{body}.{signature}"


@pytest.mark.parametrize("attack", FORGED)
def test_tokens_that_nobody_may_rely_on_are_refused_before_any_rule(
    mesh: Shared[Payments], attack: str
) -> None:
    async def story(payments: Payments) -> None:
        made = FORGED[attack]()
        await _is(await payments.ask("/charge", made), 401, "VST4051")
        await _is(await payments.ask("/plain", made), 401, "VST4051")

    mesh.run(story)


def test_clocks_may_be_apart_by_half_a_minute(mesh: Shared[Payments]) -> None:
    async def story(payments: Payments) -> None:
        now = int(time.time())
        await _is(await payments.ask("/charge", token(exp=now - 5)), 200)
        await _is(await payments.ask("/charge", token(nbf=now + 25)), 200)
        await _is(await payments.ask("/charge", token(exp=now - 40)), 401, "VST4051")

    mesh.run(story)


def test_a_token_replayed_by_another_caller_is_worth_nothing(mesh: Shared[Payments]) -> None:
    async def story(payments: Payments) -> None:
        stolen = token()
        await _is(await payments.ask("/charge", stolen), 200)
        await _is(await payments.ask("/charge", stolen, caller=ORDERS), 403, "VST4001")

    mesh.run(story)


def test_the_meshs_own_tokens_have_to_be_access_tokens(mesh: Shared[Payments]) -> None:
    async def story(payments: Payments) -> None:
        for typ in (None, "JWT", "logout+jwt", "at+jwtx"):
            await _is(await payments.ask("/charge", token(typ=typ)), 403, "VST4001")
        await _is(await payments.ask("/charge", token(typ="application/at+jwt")), 200)

    mesh.run(story)


def test_chosen_claims_of_a_token_that_was_verified_are_in_the_decision_log(mesh: Shared[Payments]) -> None:
    async def story(payments: Payments) -> None:
        proxy = payments.lab.proxies["payments-1"]
        written: list[dict[str, Any]] = []

        class Written:
            def take(self, text: str, *, allowed: bool) -> None:
                written.append(json.loads(text))

        log = DecisionLog(DecisionLogSettings(claims=("sub", "dept")), [Written()])
        lines = EntryLines(
            LogName.parse("vestibule/inbound/payments/http"),
            Reporter("payments", str(spiffe_id("payments")), "payments-1"),
        )
        shown = token(sub="user-of-the-log", dept="fin")
        await _is(await payments.ask("/finance", shown), 200)
        # Nobody vouches for what this one says.
        await _is(await payments.ask("/finance", token(OTHER_KEY, sub="somebody-of-the-log")), 401)

        def told() -> list[dict[str, Any]]:
            written.clear()
            log.append([lines.http(entry) for _, entry in proxy.requests])
            ours = [each for each in written if each["claims"].get("sub") == "user-of-the-log"]
            return ours if any(each["status"] == 401 for each in written) else []

        (found,) = await until(told, "the decision")
        assert found["claims"] == {"sub": "user-of-the-log", "dept": "fin"}
        assert (found["rule"], found["verdict"]) == ("payments/finance", "allowed")
        text = json.dumps(written)
        assert "somebody-of-the-log" not in text
        assert shown not in text
        assert "client_id" not in text

    mesh.run(story)


def test_two_authorization_headers_are_none(mesh: Shared[Payments]) -> None:
    async def story(payments: Payments) -> None:
        good, other = token(), token(sub="admin", scope="everything", aud="payments")
        for pair in ((good, other), (good, good)):
            assert (await payments.ask("/charge", *pair)).status in (401, 403)

    mesh.run(story)


def test_a_header_says_a_token_and_nothing_else(mesh: Shared[Payments]) -> None:
    async def story(payments: Payments) -> None:
        good = token()
        others = (("", ",x"), ("", ", Basic eA=="), ("", ";x"), ("", f" {good}"), (";", ""), ("e ", ""))
        for before, after in others:
            reply = await payments.ask("/charge", before + good + after)
            assert reply.status in (401, 403), (before, after)

    mesh.run(story)


def test_a_token_in_the_query_or_another_header_is_not_looked_at(mesh: Shared[Payments]) -> None:
    async def story(payments: Payments) -> None:
        await _is(await payments.ask(f"/charge?access_token={token()}"), 403, "VST4001")
        await _is(await payments.ask("/charge", token(), header="x-authorization"), 403, "VST4001")

    mesh.run(story)


def jwt_svid(key: Any, kid: str, **changes: Any) -> str:
    """As the Workload API gives them: no issuer, no client, for whom it is in ``sub``."""
    said = {"iss": None, "client_id": None, "scope": None, "sub": str(WEB), **changes}
    return token(key, kid=kid, typ="JWT", **said)


def test_jwt_svids_of_the_mesh_count_by_the_keys_that_it_has_now(mesh: Shared[Payments]) -> None:
    first, second = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    async def tell(payments: Payments) -> None:
        async def has(*keys: tuple[str, Any]) -> None:
            world = payments.lab.world
            # By its version it is known that a proxy has it.
            intent = replace(world.intent, version="+".join(["keys", *(name for name, _ in keys)]))
            payments.lab.world = replace(world, intent=intent, jwt_keys=key_set(*keys) if keys else "")
            await payments.lab.tell()
            await payments.lab.settle()

        assert (await payments.ask("/svid", jwt_svid(first, "1"))).status in (401, 403)
        await has(("1", first))
        assert (await payments.ask("/svid", jwt_svid(first, "1"))).status == 200
        assert (await payments.ask("/svid")).error == "VST4001"
        assert (await payments.ask("/svid", jwt_svid(first, "1", aud="other"))).status in (401, 403)
        assert (await payments.ask("/svid", jwt_svid(first, "1", sub=str(ORDERS)))).error == "VST4001"
        assert (await payments.ask("/svid", jwt_svid(second, "1"))).error == "VST4051"
        assert (
            await payments.ask("/svid", jwt_svid(first, "1", exp=int(time.time()) - 100))
        ).error == "VST4051"
        # Another issuer's tokens are none of these, whatever they say.
        assert (await payments.ask("/svid", token(sub=str(WEB)))).error == "VST4001"
        # A key is known before it signs, and for as long as what it signed lasts.
        await has(("1", first), ("2", second))
        assert (await payments.ask("/svid", jwt_svid(first, "1"))).status == 200
        assert (await payments.ask("/svid", jwt_svid(second, "2"))).status == 200
        await has(("2", second))
        assert (await payments.ask("/svid", jwt_svid(first, "1"))).error == "VST4051"
        assert (await payments.ask("/svid", jwt_svid(second, "2"))).status == 200

    mesh.run(tell)
