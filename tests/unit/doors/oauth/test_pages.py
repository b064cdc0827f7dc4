"""What everybody may see: keys, metadata, the API's description."""

from __future__ import annotations

import json

import pytest
from tests.unit.doors.oauth_lab import HOSTS, OAuthLab

from vestibule.testing.tokens import ISSUER

METADATA = "/.well-known/oauth-authorization-server"
OPENID = "/.well-known/openid-configuration"


@pytest.fixture
async def lab() -> OAuthLab:
    return await OAuthLab().ready()


async def test_keys_are_shown_to_everybody_without_what_is_secret(lab: OAuthLab) -> None:
    answer = await lab.ask("/oauth2/jwks", method="GET", as_=None)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "public, max-age=60")
    for each in answer.json()["keys"]:
        assert set(each) == {"kty", "crv", "x", "y", "kid", "use", "alg"}


async def test_before_the_first_unsealing_there_are_none() -> None:
    answer = await OAuthLab().ask("/oauth2/jwks", method="GET", as_=None)
    assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")


@pytest.mark.parametrize(
    ("host", "base"),
    [
        ("tokens", "http://tokens"),
        ("tokens:80", "http://tokens"),
        (HOSTS[0], f"https://{HOSTS[0]}"),
        ("evil.example", ISSUER),
        ("tokens.example.org:8300@evil.example", ISSUER),
    ],
)
async def test_endpoints_are_told_where_they_can_be_reached_from(lab: OAuthLab, host: str, base: str) -> None:
    for path in (METADATA, OPENID):
        found = (await lab.ask(path, method="GET", as_=None, host=host)).json()
        assert found["issuer"] == ISSUER
        assert found["token_endpoint"] == f"{base}/oauth2/token"
        assert found["jwks_uri"] == f"{base}/oauth2/jwks"
        assert "client_credentials" in found["grant_types_supported"]


async def test_a_head_has_no_body(lab: OAuthLab) -> None:
    answer = await lab.ask(METADATA, method="HEAD", as_=None)
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 0


async def test_the_description_names_every_endpoint(lab: OAuthLab) -> None:
    found = json.loads((await lab.ask("/openapi.json", method="GET", as_=None)).content)
    metadata = (await lab.ask(METADATA, method="GET", as_=None, host="evil.example")).json()
    endpoints = {metadata[name] for name in metadata if name.endswith(("_endpoint", "_uri"))}
    assert endpoints <= {ISSUER + path for path in found["paths"]}
