"""Who asks: by a certificate, by a JWT-SVID, and never by a secret."""

from __future__ import annotations

import base64

import httpx
import pytest
from tests.unit.doors.oauth_lab import OAuthLab, claims_of

from vestibule.doors.oauth.clients import JWT_BEARER, JWT_SPIFFE
from vestibule.testing import TestAuthority
from vestibule.testing.tokens import ISSUER, spiffe_id
from vestibule.tokens.ports import Verb

MINT = {"grant_type": "client_credentials", "audience": "reports"}
WEB = str(spiffe_id("web"))


@pytest.fixture
async def lab() -> OAuthLab:
    made = await OAuthLab().ready()
    made.tokens.access.allow("web", Verb.MINT, "reports")
    return made


def basic(name: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"


def refused(answer: httpx.Response, lab: OAuthLab) -> bool:
    assert lab.events[-1].outcome == "refused"
    return (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


async def test_over_mutual_tls_a_name_is_welcome_and_a_secret_ignored(lab: OAuthLab) -> None:
    for more in ({}, {"client_id": WEB}, {"client_id": WEB, "client_secret": "dummy"}):
        assert (await lab.token({**MINT, **more})).status_code == 200


async def test_another_name_than_the_certificates_is_refused(lab: OAuthLab) -> None:
    assert refused(await lab.token({**MINT, "client_id": str(spiffe_id("orders"))}), lab)


@pytest.mark.parametrize("name", [WEB, "spiffe%3A%2F%2Fexample.org%2Fns%2Fprod%2Fsa%2Fweb"])
async def test_libraries_that_must_send_a_password_may(lab: OAuthLab, name: str) -> None:
    assert (await lab.token(MINT, authorization=basic(name, "anything"))).status_code == 200


async def test_a_password_of_somebody_else_is_refused(lab: OAuthLab) -> None:
    assert refused(await lab.token(MINT, authorization=basic(str(spiffe_id("orders")), "x")), lab)
    assert refused(await lab.token(MINT, authorization="Basic !!!"), lab)


async def test_a_bearer_token_says_nothing_of_who_asks(lab: OAuthLab) -> None:
    assert (await lab.token(MINT, authorization="Bearer abc")).status_code == 200
    assert refused(await lab.token(MINT, as_=None, authorization="Bearer abc"), lab)


@pytest.mark.parametrize("kind", [JWT_SPIFFE, JWT_BEARER])
async def test_a_jwt_svid_for_the_issuer_alone_proves_who_asks(lab: OAuthLab, kind: str) -> None:
    assertion = lab.assertion("web")
    form = {**MINT, "client_assertion_type": kind, "client_assertion": assertion}
    answer = await lab.token(form, as_=None)
    assert claims_of(answer.json()["access_token"])["client_id"] == WEB
    assert lab.events[-1].details["via"] == "spiffe_jwt"
    assert assertion not in repr(lab.events)
    # Without a jti it may be shown again while it lasts, as agents do.
    assert (await lab.token(form, as_=None)).status_code == 200


async def test_a_jwt_svid_for_others_too_does_not_count(lab: OAuthLab) -> None:
    form = {**MINT, "client_assertion_type": JWT_SPIFFE}
    for audience in ((ISSUER, "other"), ("other",), (f"{ISSUER}/",), (f"{ISSUER}/oauth2/token",)):
        answer = await lab.token({**form, "client_assertion": lab.assertion("web", *audience)}, as_=None)
        assert refused(answer, lab), audience


async def test_a_jwt_svid_of_another_authority_does_not_count(lab: OAuthLab) -> None:
    forged = TestAuthority("example.org").jwt_svid(spiffe_id("web"), ISSUER)
    form = {**MINT, "client_assertion_type": JWT_SPIFFE, "client_assertion": forged.token}
    assert refused(await lab.token(form, as_=None), lab)


@pytest.mark.parametrize(
    "more",
    [
        {"client_assertion": "x"},
        {"client_assertion_type": JWT_SPIFFE},
        {"client_assertion_type": "urn:other", "client_assertion": "x"},
        {"client_assertion_type": JWT_SPIFFE, "client_assertion": "x.y.z"},
        {"client_id": WEB, "client_secret": "swordfish"},
        {"client_id": WEB},
    ],
)
async def test_what_proves_nothing_is_nobodys(lab: OAuthLab, more: dict[str, str]) -> None:
    assert refused(await lab.token({**MINT, **more}, as_=None), lab)


async def test_an_assertion_beside_a_secret_or_a_password_does_not_count(lab: OAuthLab) -> None:
    form = {**MINT, "client_assertion_type": JWT_SPIFFE, "client_assertion": lab.assertion("web")}
    assert refused(await lab.token({**form, "client_secret": "x"}, as_=None), lab)
    assert refused(await lab.token(form, as_=None, authorization=basic(WEB, "x")), lab)


async def test_certificate_and_assertion_are_of_the_same_identity(lab: OAuthLab) -> None:
    form = {**MINT, "client_assertion_type": JWT_SPIFFE, "client_assertion": lab.assertion("web")}
    answer = await lab.token(form)
    assert answer.status_code == 200
    assert lab.events[-1].details["via"] == "spiffe_x509"
    assert refused(await lab.token(form, as_="orders"), lab)


async def test_a_header_that_came_twice_does_not_count(lab: OAuthLab) -> None:
    answer = await lab._http.post(
        "/oauth2/token",
        data=MINT,
        headers=[("x-forwarded-client-cert", WEB), ("x-forwarded-client-cert", str(spiffe_id("orders")))],
    )
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
