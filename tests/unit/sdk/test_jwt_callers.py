"""JWT-SVIDs in front of ASGI and WSGI apps."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import httpx
import pytest
from tests.workload_api import Background, Endpoint, in_background

from vestibule.sdk import JwtSource, authorize_paths
from vestibule.sdk import asgi as sdk_asgi
from vestibule.sdk import wsgi as sdk_wsgi
from vestibule.testing import TestAuthority

AUTHORITY = TestAuthority("example.org")
STRANGER = TestAuthority("example.org")

# Tests are read long before the last of them runs.
DAY = timedelta(days=1)
GOOD = AUTHORITY.jwt_svid("/ns/prod/sa/orders", "payments", ttl=DAY).token
WANTED = authorize_paths("spiffe://example.org/ns/*/sa/orders")

REFUSED = {
    "none": ({}, 401, "VST2417"),
    "another scheme": ({"authorization": "Basic eDp5"}, 401, "VST2417"),
    "empty": ({"authorization": "Bearer "}, 401, "VST2417"),
    "no token": ({"authorization": "Bearer nonsense"}, 401, "VST1012"),
    "another audience": (
        {"authorization": f"Bearer {AUTHORITY.jwt_svid('/ns/prod/sa/orders', 'reports', ttl=DAY).token}"},
        401,
        "VST1014",
    ),
    "a stranger's": (
        {"authorization": f"Bearer {STRANGER.jwt_svid('/ns/prod/sa/orders', 'payments', ttl=DAY).token}"},
        401,
        "VST1013",
    ),
    "not wanted": (
        {"authorization": f"Bearer {AUTHORITY.jwt_svid('/ns/prod/sa/batch', 'payments', ttl=DAY).token}"},
        403,
        "VST2404",
    ),
}
BEARER = {"authorization": f"Bearer {GOOD}"}


@pytest.fixture
async def endpoint(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint(short_dir / "a.sock", AUTHORITY)
    endpoint.api.trust_tokens()
    await endpoint.start()
    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", endpoint.address)
    yield endpoint
    await endpoint.stop()


@pytest.fixture
def background(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Background]:
    with in_background(short_dir / "a.sock", AUTHORITY) as api:
        api.do(lambda api: api.trust_tokens())
        monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", api.address)
        yield api


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Names the caller, in two ways."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] == "/healthz":
        body = b"well"
    else:
        named = sdk_asgi.jwt_svid_of(scope).spiffe_id
        assert named == sdk_asgi.current_jwt_svid().spiffe_id
        body = str(named).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def ask(guarded: Any, path: str = "/", headers: Any = None) -> httpx.Response:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(guarded), base_url="http://payments"
    ) as client:
        return await client.get(path, headers=headers)


async def test_an_asgi_app_learns_who_calls(endpoint: Endpoint) -> None:
    async with asyncio.timeout(60), JwtSource() as source:
        guarded = sdk_asgi.JwtSvids(app, audience="payments", authorize=WANTED, source=source)
        answer = await ask(guarded, headers=BEARER)
        assert (answer.status_code, answer.text) == (200, "spiffe://example.org/ns/prod/sa/orders")


@pytest.mark.parametrize("what", REFUSED)
async def test_an_asgi_app_is_not_asked_by_others(endpoint: Endpoint, what: str) -> None:
    headers, status, code = REFUSED[what]
    async with asyncio.timeout(60), JwtSource() as source:
        guarded = sdk_asgi.JwtSvids(app, audience=["payments"], authorize=WANTED, source=source)
        answer = await ask(guarded, headers=headers)
    assert answer.status_code == status
    assert code in answer.json()["error_description"]
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert GOOD not in answer.text


async def test_two_tokens_are_none(endpoint: Endpoint) -> None:
    async with asyncio.timeout(60), JwtSource() as source:
        guarded = sdk_asgi.JwtSvids(app, audience="payments", source=source)
        answer = await ask(guarded, headers=[("authorization", f"Bearer {GOOD}")] * 2)
    assert answer.status_code == 401
    assert "VST2417" in answer.text


async def test_a_web_socket_is_refused_before_it_is_accepted(endpoint: Endpoint) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async with asyncio.timeout(60), JwtSource() as source:
        guarded = sdk_asgi.JwtSvids(app, audience="payments", source=source)
        await guarded({"type": "websocket", "path": "/", "headers": []}, asyncio.Queue[Any]().get, send)
    assert [each["type"] for each in sent] == ["websocket.close"]


async def test_paths_that_are_open_need_no_token(endpoint: Endpoint) -> None:
    guarded = sdk_asgi.JwtSvids(app, audience="payments", open_to_all=["/healthz"])
    assert (await ask(guarded, "/healthz")).text == "well"


async def test_the_middleware_enters_a_source_of_its_own_and_leaves_it_with_the_server(
    endpoint: Endpoint,
) -> None:
    guarded = sdk_asgi.JwtSvids(app, audience="payments")
    told: asyncio.Queue[Any] = asyncio.Queue()
    said: asyncio.Queue[Any] = asyncio.Queue()
    async with asyncio.timeout(60):
        lifespan = asyncio.create_task(guarded({"type": "lifespan"}, told.get, said.put))
        await told.put({"type": "lifespan.startup"})
        await said.get()
        answers = await asyncio.gather(*(ask(guarded, headers=BEARER) for _ in range(5)))
        assert {each.status_code for each in answers} == {200}
        await told.put({"type": "lifespan.shutdown"})
        await said.get()
        await lifespan
    assert not [each for each in asyncio.all_tasks() if each.get_name().startswith("svid-source")]


async def test_while_nothing_can_be_verified_the_answer_is_503(short_dir: Path) -> None:
    source = JwtSource(f"unix://{short_dir}/nobody.sock")
    answer = await ask(sdk_asgi.JwtSvids(app, audience="payments", source=source), headers=BEARER)
    assert answer.status_code == 503
    assert "VST2402" in answer.text


@pytest.mark.parametrize("middleware", [sdk_asgi.JwtSvids, sdk_wsgi.JwtSvids])
@pytest.mark.parametrize("audience", ["", [], ["payments", ""]])
async def test_a_service_has_an_audience(endpoint: Endpoint, middleware: Any, audience: Any) -> None:
    with pytest.raises(ValueError, match="audience"):
        middleware(app, audience=audience)


# -------------------------------------------------------------------------------------------- WSGI


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/healthz":
        return [b"well"]
    return [str(sdk_wsgi.jwt_svid_of(environ).spiffe_id).encode()]


def get(guarded: Any, path: str = "/", headers: Any = None) -> tuple[str, dict[str, str], bytes]:
    environ: dict[str, Any] = {"PATH_INFO": path, "wsgi.input": io.BytesIO()}
    setup_testing_defaults(environ)
    environ |= {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in (headers or {}).items()}
    begun: list[Any] = []
    body = b"".join(guarded(environ, lambda *said: begun.append(said)))
    ((status, said),) = begun
    return status, dict(said), body


def test_a_wsgi_app_learns_who_calls(background: Background) -> None:
    guarded = sdk_wsgi.JwtSvids(wsgi_app, audience="payments", authorize=WANTED, open_to_all=["/healthz"])
    try:
        assert get(guarded, "/healthz")[2] == b"well"
        assert get(guarded, headers=BEARER)[::2] == ("200 OK", b"spiffe://example.org/ns/prod/sa/orders")
    finally:
        guarded.close()


def test_a_header_cannot_say_who_calls(background: Background) -> None:
    with JwtSource() as source:
        guarded = sdk_wsgi.JwtSvids(wsgi_app, audience="payments", source=source)
        status, _, _ = get(guarded, headers={"vestibule.jwt_svid": GOOD, "vestibule-jwt-svid": GOOD})
        guarded.close()  # which leaves the source of others alone
        assert source.is_entered
    assert status == "401 Unauthorized"


@pytest.mark.parametrize("what", REFUSED)
def test_a_wsgi_app_is_not_asked_by_others(background: Background, what: str) -> None:
    headers, wanted, code = REFUSED[what]
    with JwtSource() as source:
        guarded = sdk_wsgi.JwtSvids(wsgi_app, audience="payments", authorize=WANTED, source=source)
        status, said, body = get(guarded, headers=headers)
    assert status.startswith(str(wanted))
    assert code.encode() in body
    assert said["www-authenticate"].startswith("Bearer")
