"""The token endpoint: what has to be sent, who asks, and what is answered and put on record."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.doors.oauth_lab import OAuthLab, claims_of

from vestibule.doors.oauth import app
from vestibule.doors.oauth.app import MOST_EACH
from vestibule.doors.oauth.forms import MAX_BYTES
from vestibule.testing.tokens import ISSUER, spiffe_id
from vestibule.tokens.ports import Verb

MINT = {"grant_type": "client_credentials", "audience": "reports", "scope": "report:read"}
WEB = str(spiffe_id("web"))


@pytest.fixture
async def lab() -> OAuthLab:
    made = await OAuthLab().ready()
    made.tokens.access.allow(
        "web", Verb.MINT, "reports", "report:read", "report:write", lasts=timedelta(minutes=5)
    )
    return made


async def test_a_service_gets_a_token_of_its_own(lab: OAuthLab) -> None:
    answer = await lab.token(MINT, x_request_id="r-1")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    assert (found["token_type"], found["expires_in"], found["scope"]) == ("Bearer", 300, "report:read")
    said = claims_of(found["access_token"])
    assert (said["iss"], said["aud"], said["sub"], said["client_id"]) == (ISSUER, "reports", WEB, WEB)
    (event,) = lab.events
    assert (event.action, event.actor, event.subject, event.outcome) == ("token.mint", WEB, "reports", "ok")
    assert event.details["jti"] == event.details["txn"] == said["jti"]
    assert (event.details["rule"], event.details["commit"]) == ("reports/web-mint", "c0ffee")
    assert (event.details["request_id"], event.details["scopes"]) == ("r-1", ["report:read"])
    assert found["access_token"] not in repr(lab.events)
    assert lab.counted == [("mint", "ok")]


async def test_who_may_not_is_told_so_and_that_is_on_record(lab: OAuthLab) -> None:
    answer = await lab.token(MINT, as_="orders", x_request_id="r-2")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_target")
    assert answer.json()["error_description"].startswith("VST6010 ")
    assert "(request r-2)" in answer.json()["error_description"]
    (event,) = lab.events
    assert (event.outcome, event.details["code"], event.details["error"]) == (
        "refused",
        "VST6010",
        "invalid_target",
    )
    assert (event.actor, event.subject) == (str(spiffe_id("orders")), "reports")
    assert lab.counted == [("mint", "refused")]


async def test_a_scope_that_may_not_be_had_is_another_error(lab: OAuthLab) -> None:
    answer = await lab.token({**MINT, "scope": "report:read report:delete"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")


async def test_without_a_record_there_is_no_token(lab: OAuthLab) -> None:
    lab.full = True
    answer = await lab.token(MINT)
    assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
    assert "access_token" not in answer.text
    assert answer.headers["retry-after"]


async def test_what_is_wrong_with_the_server_is_told_to_its_log_alone(
    lab: OAuthLab, caplog: pytest.LogCaptureFixture
) -> None:
    lab.full = True
    for _ in range(2):
        told = (await lab.token(MINT)).json()["error_description"]
        assert re.fullmatch(r"VST8100 this cannot be done at the moment \(request [^ ]+\)", told), told
    (logged,) = [each.getMessage() for each in caplog.records if "VST8100" in each.getMessage()]
    assert "those after it" in logged


async def test_while_sealed_there_are_no_tokens(lab: OAuthLab) -> None:
    lab.tokens.barrier.is_sealed = True
    answer = await lab.token(MINT)
    assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")


async def test_nobody_gets_nothing(lab: OAuthLab) -> None:
    answer = await lab.token(MINT, as_=None)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert answer.headers["www-authenticate"].startswith("Basic")
    assert (lab.events[0].actor, lab.events[0].action) == ("unknown", "token.request")


async def test_whose_certificate_is_revoked_gets_nothing(lab: OAuthLab) -> None:
    lab.revoked.add(spiffe_id("web"))
    answer = await lab.token(MINT)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert "revoked" in answer.json()["error_description"]


@pytest.mark.parametrize(
    "form",
    [
        "",
        "audience=reports",
        "grant_type=",
        "grant_type=client_credentials&grant_type=client_credentials&audience=reports",
        "grant_type=client_credentials&audience=reports&scope=a&scope=b",
        "grant_type=client_credentials&audience=reports&x=1&x=2",
        "grant_type=client_credentials&audience=%ff",
        "grant_type=client_credentials&audience=rep\xf6rts".encode().decode("latin-1"),
        "&".join(f"a{number}=1" for number in range(65)),
        "grant_type=urn:ietf:params:oauth:grant-type:jwt-bearer&audience=reports",
        "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&audience=reports",
        "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&audience=reports&subject_token=a",
    ],
)
async def test_what_is_no_proper_form_is_an_invalid_request(lab: OAuthLab, form: str) -> None:
    answer = await lab.token(form)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert "VST6070" in answer.json()["error_description"]
    assert lab.events[0].outcome == "refused"


async def test_a_grant_that_is_not_offered_is_told_from_nonsense(lab: OAuthLab) -> None:
    answer = await lab.token({**MINT, "grant_type": "password"})
    assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_grant_type")


@pytest.mark.parametrize(
    "kind", ["application/json", "text/plain", "", "application/x-www-form-urlencoded; charset=utf-16"]
)
async def test_a_body_of_another_kind_is_not_read(lab: OAuthLab, kind: str) -> None:
    answer = await lab.token("grant_type=client_credentials&audience=reports", content_type=kind)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_parameters_in_the_url_do_not_count(lab: OAuthLab) -> None:
    answer = await lab.ask("/oauth2/token?audience=reports", {"grant_type": "client_credentials"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_what_is_too_long_is_cut_off(lab: OAuthLab) -> None:
    answer = await lab.token("a=" + "b" * MAX_BYTES)
    assert (answer.status_code, answer.json()["error"]) == (413, "invalid_request")


async def test_another_method_is_refused_with_the_right_one(lab: OAuthLab) -> None:
    for method in ("GET", "PUT", "HEAD", "DELETE"):
        answer = await lab.ask("/oauth2/token", method=method)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    answer = await lab.ask("/oauth2/jwks", method="POST")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_what_is_not_there_is_not_there(lab: OAuthLab) -> None:
    answer = await lab.ask("/oauth2/authorize", method="GET")
    assert (answer.status_code, answer.json()["error"]) == (404, "invalid_request")


async def test_several_audiences_come_only_where_they_are_asked_for(lab: OAuthLab) -> None:
    lab.tokens.access.allow("web", Verb.MINT, "https://ledger.example/", "report:read")
    form = "grant_type=client_credentials&audience=reports&resource=https%3A%2F%2Fledger.example%2F"
    answer = await lab.token(form)
    assert claims_of(answer.json()["access_token"])["aud"] == ["reports", "https://ledger.example/"]
    assert "scope" not in answer.json()


async def test_errors_are_plain_ascii_without_quotes(lab: OAuthLab) -> None:
    answer = await lab.token({**MINT, "audience": 'r"e\\ports'})
    said = answer.json()["error_description"]
    assert not set(said) & set('"\\')
    assert said.isascii()


async def test_one_identity_has_only_so_many_requests_at_a_time(lab: OAuthLab) -> None:
    crowd = lab.app._crowd
    places = [crowd.place(spiffe_id("web")) for _ in range(MOST_EACH)]
    for each in places:
        each.__enter__()
    answer = await lab.token(MINT)
    assert (answer.status_code, answer.json()["error"]) == (429, "temporarily_unavailable")
    assert lab.events == []
    for each in places:
        each.__exit__(None, None, None)
    assert (await lab.token(MINT)).status_code == 200


async def test_a_stranger_who_dawdles_loses_the_place(lab: OAuthLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "STRANGERS_SECONDS", 0.01)
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/x-www-form-urlencoded")]
    request = {"path": "/oauth2/token", "method": "POST", "query_string": b"", "headers": headers}
    await lab.app(request, receive, send)
    assert sent[0]["status"] == 400
    assert b"did not come in time" in sent[1]["body"]
    assert not lab.app._crowd.under_way
