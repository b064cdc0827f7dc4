"""Fetching key sets from issuers that may be anybody's."""

from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.component.test_server_oidc import write_certificate
from tests.unit.calls.test_bundle_endpoint import JSON, Answer, Double

from vestibule.calls.http.tls import client_context
from vestibule.calls.key_sets import MAX_BYTES, Fetched, KeySetEndpoints
from vestibule.errors import VestibuleError

HERE = KeySetEndpoints(web=client_context, permit_local=True, seconds=5.0)


async def fetched(double: Double, etag: str = "", asking: KeySetEndpoints = HERE) -> Fetched:
    async with double.serving(None) as issuer:
        return await asking.fetch(f"http://127.0.0.1:{issuer.port}/jwks?tenant=1", etag)


async def refusal(url: str, asking: KeySetEndpoints = HERE) -> str:
    with pytest.raises(VestibuleError) as raised:
        await asking.fetch(url)
    return raised.value.code.code


def answering(status: int = 200, headers: Any = JSON, body: bytes = b"{}") -> Double:
    answer: Answer = (status, list(headers), body)
    return Double({"/jwks?tenant=1": answer})


async def test_an_issuer_is_asked_by_get_and_told_nothing_of_us() -> None:
    double = answering(headers=[*JSON, ("etag", '"7"'), ("cache-control", "public, max-age=600")])
    found = await fetched(double)
    assert found == Fetched(document=b"{}", etag='"7"', fresh=timedelta(minutes=10))
    (asked,) = double.asked
    assert asked.method == b"GET"
    names = {name.decode().lower() for name, _ in asked.headers}
    assert names == {"host", "connection", "content-length", "accept", "user-agent"}


async def test_whoever_has_the_set_already_asks_only_for_another() -> None:
    double = answering(304, [("etag", '"7"')], b"")
    assert await fetched(double, '"7"') == Fetched(document=None, etag='"7"')
    assert (b"if-none-match", b'"7"') in [(name.lower(), value) for name, value in double.asked[0].headers]
    with pytest.raises(VestibuleError, match="VST6141"):
        await fetched(answering(304, [], b""))


ODD: dict[str, Double] = {
    "another status": answering(500),
    "a redirect": answering(302, [("location", "https://elsewhere.example/jwks")]),
    "a page": answering(headers=[("content-type", "text/html")]),
}


@pytest.mark.parametrize("double", ODD.values(), ids=ODD)
async def test_what_is_no_set_is_refused_and_nobody_is_followed(double: Double) -> None:
    with pytest.raises(VestibuleError, match="VST6141"):
        await fetched(double)
    assert len(double.asked) == 1


async def test_too_much_is_not_read() -> None:
    with pytest.raises(VestibuleError, match="VST2341"):
        await fetched(answering(body=b"x" * (MAX_BYTES + 1)))


@pytest.mark.parametrize("mark", ["", "7", '"' + "x" * 300 + '"', 'W/"a"'])
async def test_only_marks_that_are_some_are_given_back(mark: str) -> None:
    found = await fetched(answering(headers=[*JSON, ("etag", mark)]))
    assert found.etag == (mark if mark.startswith("W/") else "")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://issuer.example/keys",
        "//issuer.example/keys",
        "https:///keys",
        "https://user:password@issuer.example/keys",
        "https://issuer.example:0/keys",
        "https://issuer.example:99999/keys",
        "https://issuer.example/keys#part",
        "https://issuer.example/a\nb",
        "https://issuer.example/" + "a" * 2048,
        "https://[::1/keys",
    ],
)
async def test_what_is_no_url_of_an_issuer_is_not_asked(url: str) -> None:
    assert await refusal(url) == "VST6140"


async def test_this_machine_and_the_link_are_not_asked_unless_permitted() -> None:
    asking = KeySetEndpoints(web=client_context)
    assert await refusal("http://127.0.0.1:1/keys", asking) == "VST6140"
    assert await refusal("https://127.0.0.1:1/keys", asking) == "VST2342"
    assert await refusal("https://169.254.169.254/keys", asking) == "VST2342"
    # In plain text nobody else, whatever is permitted.
    assert await refusal("http://192.0.2.1/keys") == "VST2342"


async def test_an_issuer_is_believed_by_its_certificate(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    async with answering().serving(tls) as double:
        url = f"https://127.0.0.1:{double.port}/jwks?tenant=1"
        asking = KeySetEndpoints(web=lambda: client_context(certificate), permit_local=True)
        assert (await asking.fetch(url)).document == b"{}"
        assert await refusal(url) == "VST2340"
