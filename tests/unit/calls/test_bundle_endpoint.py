"""Fetching bundles from endpoints that may be anybody's (SPIFFE_Federation.md, rules F1 to F7)."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h11
import pytest
from tests.component.test_server_oidc import write_certificate

from vestibule.calls.bundle_endpoint import MAX_BYTES, BundleEndpoints, _Route
from vestibule.calls.http.tls import client_context
from vestibule.clock import SystemClock
from vestibule.errors import VestibuleError
from vestibule.identity.relationships import endpoint_url
from vestibule.net.tls import EndpointTls
from vestibule.pki.bundles import to_jwks
from vestibule.records import FederationRelationship
from vestibule.spiffe import SpiffeId, TrustBundle
from vestibule.testing import TestAuthority

PARTNER = TestAuthority("partner.org")
SERVER = SpiffeId.parse("spiffe://partner.org/spire/server")
Answer = tuple[int, list[tuple[str, str]], bytes]
JSON = [("content-type", "application/json")]


@dataclass
class Double:
    """An endpoint that answers what a test wants; keeps what it was asked."""

    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[h11.Request] = field(default_factory=list)
    silent: bool = False
    port: int = 0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER)
        try:
            while (event := http.next_event()) is h11.NEED_DATA:
                if not (data := await reader.read(65536)):
                    return
                http.receive_data(data)
            assert isinstance(event, h11.Request)
            self.asked.append(event)
            if self.silent:
                await reader.read()
                return
            status, headers, body = self.answers.get(event.target.decode(), (404, [], b""))
            response = h11.Response(
                status_code=status, headers=[*headers, ("content-length", str(len(body)))]
            )
            for part in (response, h11.Data(data=body), h11.EndOfMessage()):
                writer.write(http.send(part) or b"")
            await writer.drain()
        except (OSError, h11.ProtocolError):
            pass
        finally:
            writer.close()

    @asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None) -> AsyncIterator[Double]:
        server = await asyncio.start_server(self.handle, "127.0.0.1", 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()


def spiffe_tls(authority: TestAuthority = PARTNER, spiffe_id: SpiffeId = SERVER) -> ssl.SSLContext:
    return EndpointTls(authority.svid(spiffe_id)).context


def relationship(url: str, endpoint: SpiffeId | None = SERVER) -> FederationRelationship:
    return FederationRelationship(
        trust_domain=PARTNER.trust_domain, bundle_endpoint_url=url, endpoint_spiffe_id=endpoint
    )


def endpoints(web: Callable[[], ssl.SSLContext] = client_context, **given: Any) -> BundleEndpoints:
    options: dict[str, Any] = {"permit_local": True, "seconds": 5.0} | given
    return BundleEndpoints(clock=SystemClock(), parse=endpoint_url, web=web, **options)


async def refusal(
    url: str,
    *,
    endpoint: SpiffeId | None = SERVER,
    trust: TrustBundle | None = PARTNER.bundle,
    asking: BundleEndpoints | None = None,
) -> VestibuleError:
    with pytest.raises(VestibuleError) as raised:
        await (asking or endpoints()).fetch(relationship(url, endpoint), trust)
    return raised.value


def good(bundle: TrustBundle = PARTNER.jwt_bundle) -> Answer:
    return 200, JSON, to_jwks(bundle)


# ------------------------------------------------------------------------------ who the endpoint is


async def test_f4_an_endpoint_with_the_configured_id_is_believed() -> None:
    async with Double({"/": good()}).serving(spiffe_tls()) as double:
        fetched = await endpoints().fetch(relationship(double.url), PARTNER.bundle)
    assert fetched == PARTNER.jwt_bundle


async def test_f3_it_is_asked_by_get_without_certificate_or_credentials() -> None:
    double = Double({"/some/path?x=1": good()})
    tls = spiffe_tls()
    tls.verify_mode = ssl.CERT_OPTIONAL
    async with double.serving(tls):
        await endpoints().fetch(relationship(double.url + "some/path?x=1"), PARTNER.bundle)
    [request] = double.asked
    headers = {name.decode() for name, _ in request.headers}
    assert request.method == b"GET"
    assert headers.isdisjoint({"authorization", "cookie"})


@pytest.mark.parametrize(
    "shown",
    [
        PARTNER.svid("/other"),
        # Signed by the partner's own authority, in the name of another trust domain: ours, say.
        PARTNER.svid(SpiffeId.parse("spiffe://example.org/spire/server")),
        TestAuthority("partner.org").svid("/spire/server"),
    ],
    ids=["another ID", "another trust domain's ID", "another authority"],
)
async def test_f4_anybody_else_is_not_believed_and_asked_nothing(shown: Any) -> None:
    double = Double({"/": good()})
    async with double.serving(EndpointTls(shown).context):
        error = await refusal(double.url)
    assert error.code.code == "VST2350"
    assert double.asked == []


async def test_a_partner_that_mints_our_ids_is_not_our_endpoint() -> None:
    """The endpoint of a third trust domain, known by its own bundle, shown by a partner that minted its ID."""
    ours = TestAuthority("example.org")
    minted = PARTNER.svid(SpiffeId.parse("spiffe://example.org/spire/server"))
    async with Double({"/": good()}).serving(EndpointTls(minted).context) as double:
        # Also where the trust held against it contains the partner's authority by mistake of names.
        for trust in (ours.bundle, replace(PARTNER.bundle, trust_domain=ours.trust_domain)):
            error = await refusal(double.url, endpoint=SERVER, trust=trust)
            assert error.code.code == "VST2350"


async def test_f1_web_certificates_are_believed_by_name(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    async with Double({"/": good()}).serving(tls) as double:
        asking = endpoints(web=lambda: client_context(certificate))
        assert await asking.fetch(relationship(double.url, None), None) == PARTNER.jwt_bundle
        # A certificate that the system does not know, and one for another name.
        assert (await refusal(double.url, endpoint=None, trust=None)).code.code == "VST2350"
        (tmp_path / "b").mkdir()
        other, _ = write_certificate(tmp_path / "b", "elsewhere.org")
        elsewhere = endpoints(web=lambda: client_context(other))
        assert (await refusal(double.url, endpoint=None, asking=elsewhere)).code.code == "VST2350"
        # Nor is it an SVID, for whoever expects one.
        assert (await refusal(double.url)).code.code == "VST2350"


# --------------------------------------------------------------------------------------- redirects


async def test_f7_a_redirect_is_followed_under_the_same_rules_and_not_remembered() -> None:
    moved: Answer = (302, [("location", "/moved")], b"")
    double = Double({"/": moved, "/moved": good()})
    async with double.serving(spiffe_tls()):
        for _ in range(2):
            assert await endpoints().fetch(relationship(double.url), PARTNER.bundle) == PARTNER.jwt_bundle
    assert [each.target for each in double.asked] == [b"/", b"/moved"] * 2


async def test_f7_the_target_of_a_redirect_has_to_prove_the_same_id() -> None:
    impostor = Double({"/": good()})
    async with impostor.serving(spiffe_tls(spiffe_id=SpiffeId.parse("spiffe://partner.org/web"))):
        double = Double({"/": (307, [("location", impostor.url)], b"")})
        async with double.serving(spiffe_tls()):
            error = await refusal(double.url)
    assert error.code.code == "VST2350"
    assert impostor.asked == []


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:80/",
        "https://user:secret@127.0.0.1/",
        "ftp://127.0.0.1/bundle",
        "file:///etc/passwd",
        "https://",
        "//",
        "",
        "/loop",
        "https://127.0.0.1:port/",
        "/with blank",
    ],
)
async def test_f7_redirects_to_what_is_no_endpoints_url_or_without_end_are_refused(location: str) -> None:
    answer: Answer = (301, [("location", location)] if location else [], b"")
    double = Double({"/": answer, "/loop": answer})
    async with double.serving(spiffe_tls()):
        error = await refusal(double.url)
    assert error.code.code == "VST2352"
    assert len(double.asked) <= 4


# ---------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "0.0.0.0", "2130706433"]
)
async def test_this_machine_and_the_link_are_not_asked_unless_permitted(host: str) -> None:
    error = await refusal(f"https://{host}:9/", asking=endpoints(permit_local=False, seconds=3.0))
    assert error.code.code in ("VST2342", "VST2340")
    if host != "2130706433":
        assert error.code.code == "VST2342"


@pytest.mark.parametrize(
    ("target", "from_open", "permitted"),
    [
        ("93.184.216.34", True, True),
        ("10.0.0.1", True, False),
        ("192.168.1.1", True, False),
        ("127.0.0.1", True, False),
        ("::ffff:10.0.0.1", True, False),
        ("fd00::1", True, False),
        ("10.0.0.1", False, True),
        ("127.0.0.1", False, False),
        ("169.254.169.254", False, False),
    ],
)
def test_a_redirect_never_leads_from_the_open_network_into_a_private_one(
    target: str, from_open: bool, permitted: bool
) -> None:
    route = _Route(permit_local=False, redirected_from_open=from_open)
    assert route(ipaddress.ip_address(target)) is permitted


# ------------------------------------------------------------------------------------------ answers


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((404, JSON, b"{}"), "VST2351"),
        ((500, JSON, b"{}"), "VST2351"),
        ((204, [], b""), "VST2351"),
        ((200, [("content-type", "text/html")], b"<html>"), "VST2351"),
        ((200, JSON, b""), "VST1009"),
        ((200, JSON, b"garbage"), "VST1009"),
        ((200, JSON, b"[]"), "VST1009"),
        ((200, JSON, b"{}"), "VST1009"),
        ((200, JSON, b'{"keys": 1}'), "VST1009"),
        ((200, JSON, b'{"keys": [], "keys": []}'), "VST1009"),
        ((200, JSON, b'{"keys": [{"kty": "EC", "use": "x509-svid", "x5c": ["AAAA"]}]}'), "VST1009"),
        ((200, JSON, b'{"keys": [], "spiffe_sequence": -1}'), "VST1009"),
        ((200, JSON, b"[" * 100_000), "VST1009"),
        ((200, JSON, b"\xff\xfe{}"), "VST1009"),
        ((200, JSON, b" " * (MAX_BYTES + 1)), "VST2341"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_is_no_bundle_is_refused(answer: Answer, code: str) -> None:
    async with Double({"/": answer}).serving(spiffe_tls()) as double:
        assert (await refusal(double.url)).code.code == code


async def test_b3_keys_of_unknown_kinds_are_passed_over() -> None:
    document = json.loads(to_jwks(PARTNER.jwt_bundle))
    document["keys"] += [
        {"kty": "new"},
        {"kty": "EC"},
        {"use": "x509-svid"},
        {"kty": "OKP", "use": "jwt-svid"},
        {},
    ]
    body = json.dumps(document).encode()
    async with Double({"/": (200, JSON, body)}).serving(spiffe_tls()) as double:
        assert await endpoints().fetch(relationship(double.url), PARTNER.bundle) == PARTNER.jwt_bundle


async def test_who_does_not_answer_is_not_waited_for() -> None:
    async with Double(silent=True).serving(spiffe_tls()) as double:
        error = await refusal(double.url, asking=endpoints(seconds=0.5))
    assert error.code.code == "VST2340"


async def test_nobody_there_is_told() -> None:
    async with Double().serving(spiffe_tls()) as double:
        gone = double.url
    assert (await refusal(gone)).code.code == "VST2340"


@pytest.mark.parametrize(
    "url",
    [
        "http://partner.org/",
        "https://",
        "https:///bundle",
        "https://user@partner.org/",
        "https://user:password@partner.org/",
        "https://@partner.org/",
        "partner.org",
        "https://partner.org:0/",
        "https://partner.org:70000/",
        "https://partner.org/a b",
        "https://partner.org/\n",
        "https://pärtner.org/",
        "https://partner.org/" + "a" * 3000,
        "",
    ],
)
def test_f2_a_url_is_https_with_a_host_and_without_user(url: str) -> None:
    with pytest.raises(VestibuleError, match="VST1234"):
        endpoint_url(url)


@pytest.mark.parametrize(
    "url", ["https://partner.org", "https://10.1.2.3:8443/a?b#c", "https://[2001:db8::1]/x"]
)
def test_f2_other_parts_of_a_url_are_free(url: str) -> None:
    assert endpoint_url(url).hostname
