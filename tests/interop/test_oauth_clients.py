"""Authlib, requests-oauthlib, PyJWT and golang.org/x/oauth2, unmodified, and our own SDK, against the token service.

It stands behind the real platform Envoy; each client comes by mutual TLS, through a sidecar, or with a JWT-SVID.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.interop.foreign import HERE, built, needed, programs
from tests.interop.tokens_lab import TOKENS, Scene, Shared, ran
from tests.unit.sdk.test_tls import Holder

from vestibule.pki.jwk import decode_base64url
from vestibule.sdk.oauth import AsyncTokens, InvalidTokenError, TokenDeniedError, TokensError, TokenVerifier
from vestibule.testing.tokens import ISSUER, spiffe_id

__all__ = ["programs"]

WEB, ORDERS = str(spiffe_id("web")), str(spiffe_id("orders"))


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    with Shared() as made:
        yield made


def id_token(lab: Scene, jti: str) -> str:
    """What a login at corp gives the shop."""
    now = int(datetime.now(UTC).timestamp())
    return lab.corp.token({"sub": "user-1", "aud": "shop", "iat": now, "exp": now + 300, "jti": jti})


def test_authlib_gets_exchanges_inspects_and_revokes(shared: Shared) -> None:
    async def story(lab: Scene) -> None:
        orders, reports = lab.words("orders")[:2], lab.words("reports")[:2]
        said = await lab.python(
            "authlib_client.py", *lab.words("web"), *orders, *reports, id_token(lab, "login-1")
        )
        assert said["issuer"] == ISSUER
        assert said["own"] == {"token_type": "Bearer", "expires_in": 600, "scope": "report:read"}
        assert said["shown"].startswith("Bearer ey")
        assert said["refused"] == ["invalid_target", "VST6010"]
        assert said["issued"] == "urn:ietf:params:oauth:token-type:access_token"
        inspected = said["inspected"]
        assert (inspected["active"], inspected["sub"], inspected["scope"]) == (
            True,
            _user(lab),
            "report:read",
        )
        assert inspected["act"] == {"sub": ORDERS, "act": {"sub": WEB}}
        assert said["revoked"] == {"active": False}

    shared.run(story)


def _user(lab: Scene) -> str:
    """As our tokens name corp's user."""
    minted = [each for each in lab.tokens.audit.events if each.action == "token.admit"]
    return str(minted[-1].details["for"])


def test_requests_oauthlib_gets_a_token_directly_and_through_a_sidecar(shared: Shared) -> None:
    async def story(lab: Scene) -> None:
        client_id, pem, bundle, base = lab.words("web")
        expected = {"scope": ["report:read"], "same": True, "refused": ["invalid_target", "VST6010"]}
        assert await lab.python("requests_client.py", client_id, base, pem, bundle) == expected
        # The way to one's own sidecar is plain HTTP on loopback, which the library wants to be told of.
        plain = {"OAUTHLIB_INSECURE_TRANSPORT": "1"}
        assert await lab.python("requests_client.py", client_id, lab.sidecar, **plain) == expected

    shared.run(story)


def test_pyjwt_verifies_with_the_keys_that_are_shown(shared: Shared) -> None:
    async def story(lab: Scene) -> None:
        async with AsyncTokens(lab.sidecar) as tokens:
            good = (await tokens.get("reports", ["report:read"])).text
        head, body, signature = good.split(".")
        forged = f"{head}.{body}.{signature[:-4]}AAAA"
        said = await lab.python("pyjwt_verifier.py", lab.open, str(lab.bundle), ISSUER, good, forged)
        assert (said[0]["sub"], said[0]["scope"], said[0]["header"]["typ"]) == (WEB, "report:read", "at+jwt")
        assert said[1] == {"error": "InvalidSignatureError"}

    shared.run(story)


def test_golangs_oauth2_gets_a_token_in_every_style_and_keeps_it(shared: Shared, programs: Path) -> None:
    needed("go")
    built("go", "build", "-o", str(programs / "oauth"), "./oauth", directory=HERE / "go")

    async def story(lab: Scene) -> None:
        said = await ran(str(programs / "oauth"), *lab.words("web"))
        assert said == {
            "style 0": True,
            "style 1": True,
            "style 2": True,
            "shown": 1,
            "refused": ["invalid_target", "VST6010"],
        }

    shared.run(story)


def test_the_sdk_comes_through_a_sidecar_with_its_svid_and_with_a_jwt_svid(shared: Shared) -> None:
    async def story(lab: Scene) -> None:
        api = f"unix://{lab.workload_api}"
        ways = [
            AsyncTokens(lab.sidecar),
            AsyncTokens(lab.direct, workload_api=api),
            AsyncTokens(lab.open, workload_api=api, issuer=ISSUER),
        ]
        proofs = []
        for way in ways:
            async with way as tokens, TokenVerifier("reports", tokens=tokens) as verifier:
                token = await verifier.verify((await tokens.get("reports", "report:read")).text)
                assert (token.subject, token.client_id, token.scopes) == (
                    WEB,
                    WEB,
                    frozenset(["report:read"]),
                )
                with pytest.raises(TokenDeniedError, match="VST6010") as refused:
                    await tokens.get("ledger")
                assert refused.value.request_id
                proofs.append(lab.tokens.audit.events[-1].details.get("via"))
        assert proofs == ["spiffe_x509", "spiffe_x509", "spiffe_jwt"]

    shared.run(story)


def test_the_command_shows_its_svid_or_a_jwt_svid(shared: Shared) -> None:
    async def story(lab: Scene) -> None:
        for place in (["--address", lab.direct], ["--address", lab.open, "--issuer", ISSUER]):
            asked = ["oauth", "token", "--audience", "reports", "--scope", "report:read", *place]
            words = [*asked, "--agent-socket", str(lab.workload_api), "--output", "json"]
            said = await ran(sys.executable, "-m", "vestibule", *words)
            assert claims_of(said["data"]["access_token"])["sub"] == WEB

    shared.run(story)


def test_the_sdk_follows_a_user_from_login_to_the_last_service(shared: Shared) -> None:
    async def story(lab: Scene) -> None:
        async with (
            AsyncTokens(lab.sidecar) as web,
            AsyncTokens(lab.direct, source=lab.source("orders")) as orders,
            AsyncTokens(lab.direct, source=lab.source("reports")) as reports,
        ):
            login = await web.admit(id_token(lab, "login-2"), "orders", ["report:read"])
            first = claims_of(login.text)
            handed_on = await orders.exchange(login.text, "reports", ["report:read"])
            async with TokenVerifier("reports", tokens=reports) as verifier:
                seen = await verifier.verify(handed_on.text)
                assert seen.subject == first["sub"]
                assert (seen.actors, seen.presenter) == ((ORDERS, WEB), ORDERS)
                assert seen.transaction == first["jti"]
                with pytest.raises(InvalidTokenError, match="VST6123"):
                    await verifier.verify(login.text)
            assert (await reports.inspect(handed_on.text))["active"]
            with pytest.raises(TokensError, match="VST60"):
                await orders.exchange(handed_on.text, "reports")
            await web.revoke(login)
            assert not (await reports.inspect(handed_on.text))["active"]

    shared.run(story)


def test_somebody_who_is_not_the_token_service_is_not_believed(shared: Shared) -> None:
    async def story(lab: Scene) -> None:
        other = type(lab.authority)("example.org")
        source = Holder.of(lab.authority.svid(spiffe_id("web")), other.bundle)
        async with AsyncTokens(lab.direct, source=source) as tokens:
            with pytest.raises(TokensError, match="VST6121"):
                await tokens.get("reports")
        assert TOKENS.path == "/vestibule/tokens"

    shared.run(story)


def claims_of(text: str) -> Any:
    return json.loads(decode_base64url(text.split(".")[1]))
