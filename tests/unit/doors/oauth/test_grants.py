"""Exchange, outside issuers, introspection and revocation, as the door has them: the core is tried elsewhere."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest
from tests.unit.doors.oauth_lab import OAuthLab, claims_of

from vestibule.testing.tokens import ISSUER, MemoryIssuer, spiffe_id
from vestibule.tokens.ports import Verb

ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
WEB, ORDERS = str(spiffe_id("web")), str(spiffe_id("orders"))


@pytest.fixture
async def lab() -> OAuthLab:
    """web gets tokens for orders; orders gives them in exchange for ones for reports."""
    made = await OAuthLab().ready()
    access = made.tokens.access
    access.allow("web", Verb.MINT, "orders", "report:read")
    access.allow("orders", Verb.EXCHANGE, "orders")
    access.allow("orders", Verb.RECEIVE, "reports", "report:read")
    access.own("orders", "orders")
    return made


async def minted(lab: OAuthLab) -> str:
    form = {"grant_type": "client_credentials", "audience": "orders", "scope": "report:read"}
    token: str = (await lab.token(form)).json()["access_token"]
    return token


async def exchanged(lab: OAuthLab, token: str, **more: str) -> httpx.Response:
    form = {"grant_type": EXCHANGE, "audience": "reports", "subject_token": token}
    return await lab.token({**form, "subject_token_type": ACCESS_TOKEN, **more}, as_="orders")


async def test_a_token_is_given_in_exchange_and_the_record_tells_the_chain(lab: OAuthLab) -> None:
    given = await minted(lab)
    found = (await exchanged(lab, given, scope="report:read")).json()
    assert (found["issued_token_type"], found["token_type"]) == (ACCESS_TOKEN, "Bearer")
    said = claims_of(found["access_token"])
    assert (said["sub"], said["act"]["sub"], said["txn"]) == (WEB, ORDERS, claims_of(given)["jti"])
    event = lab.events[-1]
    assert (event.action, event.details["for"], event.details["txn"]) == ("token.exchange", WEB, said["txn"])
    assert event.details["actors"][0] == ORDERS  # type: ignore[index]
    assert event.details["subject_token_hmac"]
    assert given not in repr(lab.events)


async def test_a_refusal_tells_whose_token_it_was_for_the_record_alone(lab: OAuthLab) -> None:
    lab.tokens.access.deny("orders", Verb.RECEIVE, "reports")
    answer = await exchanged(lab, await minted(lab))
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_target")
    assert lab.events[-1].details["for"] == WEB
    assert WEB not in answer.text


async def test_an_actor_token_comes_with_its_type(lab: OAuthLab) -> None:
    answer = await exchanged(lab, await minted(lab), actor_token="x")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_what_is_no_token_is_an_invalid_request(lab: OAuthLab) -> None:
    answer = await exchanged(lab, "a.b.c")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_a_token_of_an_outside_issuer_is_traded(lab: OAuthLab) -> None:
    corp = lab.tokens.trust(MemoryIssuer())
    lab.tokens.access.allow("web", Verb.ADMIT, "orders", "report:read")
    now = int(lab.tokens.clock.now().timestamp())
    assertion = corp.token({"sub": "user-7", "aud": ISSUER, "iat": now, "exp": now + 300, "jti": "j"})
    form = {"grant_type": BEARER, "assertion": assertion, "audience": "orders", "scope": "report:read"}
    answer = await lab.token(form)
    said = claims_of(answer.json()["access_token"])
    assert (said["sub"], said["act"]["sub"]) == ("user-7", WEB)
    assert lab.events[-1].action == "token.admit"
    assert "issued_token_type" not in answer.json()


async def test_whom_it_is_made_for_may_ask_what_a_token_says(lab: OAuthLab) -> None:
    token = await minted(lab)
    answer = await lab.ask("/oauth2/introspect", {"token": token}, as_="orders")
    assert answer.headers["cache-control"] == "no-store"
    found = answer.json()
    assert (found["active"], found["sub"], found["scope"]) == (True, WEB, "report:read")
    event = lab.events[-1]
    assert (event.action, event.subject, event.details["active"]) == ("token.introspect", "orders", True)
    assert (await lab.ask("/oauth2/introspect", {"token": token}, as_="reports")).json() == {"active": False}
    assert (await lab.ask("/oauth2/introspect", {"token": "nonsense"})).json() == {"active": False}
    assert (await lab.ask("/oauth2/introspect", {"token": token}, as_=None)).status_code == 401


async def test_a_revoked_token_is_not_active_any_more(lab: OAuthLab) -> None:
    token = await minted(lab)
    answer = await lab.ask("/oauth2/revoke", {"token": token, "token_type_hint": "access_token"})
    assert (answer.status_code, answer.json()) == (200, {})
    assert (lab.events[-1].action, lab.events[-1].details["revoked"]) == ("token.revoke", True)
    found = await lab.ask("/oauth2/introspect", {"token": token}, as_="orders")
    assert found.json() == {"active": False}


async def test_what_is_no_token_is_as_good_as_revoked(lab: OAuthLab) -> None:
    answer = await lab.ask("/oauth2/revoke", {"token": "nonsense"})
    assert (answer.status_code, answer.json()) == (200, {})
    assert lab.events[-1].details["revoked"] is False


async def test_a_token_of_somebody_else_cannot_be_revoked(lab: OAuthLab) -> None:
    answer = await lab.ask("/oauth2/revoke", {"token": await minted(lab)}, as_="orders")
    assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client")


@pytest.mark.parametrize("path", ["/oauth2/introspect", "/oauth2/revoke"])
async def test_without_a_token_there_is_nothing_to_ask(lab: OAuthLab, path: str) -> None:
    answer = await lab.ask(path, {"token_type_hint": "access_token"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_a_transaction_token_is_no_bearer_token() -> None:
    lab = await OAuthLab(transaction_tokens=True).ready()
    lab.tokens.access.allow("web", Verb.MINT, "orders", "report:read", lasts=timedelta(minutes=5))
    lab.tokens.access.allow("orders", Verb.EXCHANGE, "orders")
    lab.tokens.access.allow("orders", Verb.RECEIVE, "example.org", "report:read")
    wanted = "urn:ietf:params:oauth:token-type:txn_token"
    token = await minted(lab)
    found = (
        await exchanged(lab, token, audience="example.org", requested_token_type=wanted, scope="report:read")
    ).json()
    assert (found["token_type"], found["issued_token_type"]) == ("N_A", wanted)
