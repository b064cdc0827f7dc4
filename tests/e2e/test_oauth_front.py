"""The door of the token service behind the real Envoy, as attackers, clients and generated requests find it."""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.e2e.front_lab import tls_of
from tests.e2e.mesh_lab import spiffe_id
from tests.e2e.oauth_lab import SECRETS, TOKENS, SharedTokens, TokenRoom
from tests.unit.doors.oauth_lab import claims_of

from vestibule.doors.oauth.clients import JWT_SPIFFE
from vestibule.pki.chains import leaf_facts
from vestibule.pki.keys import key_from_pkcs8
from vestibule.pki.revocation import fingerprint
from vestibule.spiffe import Revocation, Revocations, RevokedIdentity, X509Svid
from vestibule.testing import TestAuthority
from vestibule.testing.tokens import ISSUER
from vestibule.tokens.ports import Verb

MINT = {"grant_type": "client_credentials", "audience": "reports", "scope": "report:read"}
TOKEN = "/oauth2/token"
METADATA = "/.well-known/oauth-authorization-server"
WEB = str(spiffe_id("web"))


@pytest.fixture(scope="module")
def tokens() -> Iterator[SharedTokens]:
    with SharedTokens() as shared:
        yield shared


def allow(room: TokenRoom) -> None:
    room.tokens.access.allow("web", Verb.MINT, "reports", "report:read")


@pytest.mark.parametrize("http2", [False, True])
def test_a_service_gets_a_token_with_nothing_but_its_certificate(tokens: SharedTokens, http2: bool) -> None:
    async def story(room: TokenRoom) -> None:
        allow(room)
        answer = await room.client(room.svid("web"), http2=http2).post(TOKEN, data=MINT)
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
        said = claims_of(answer.json()["access_token"])
        assert (said["sub"], said["client_id"], said["aud"]) == (WEB, WEB, "reports")

    tokens.run(story)


def test_a_token_bound_to_the_certificate_names_the_one_that_was_shown(tokens: SharedTokens) -> None:
    async def story(room: TokenRoom) -> None:
        room.tokens.access.allow("web", Verb.MINT, "bound", certificate=True)
        svid = room.svid("web")
        answer = await room.client(svid).post(TOKEN, data={**MINT, "audience": "bound", "scope": ""})
        said = claims_of(answer.json()["access_token"])
        assert said["cnf_x5t_hex"] == fingerprint(svid.chain[0])

    tokens.run(story)


def test_each_service_has_its_own_listener_identity_and_app(tokens: SharedTokens) -> None:
    async def story(room: TokenRoom) -> None:
        svid = room.svid("web")
        for address, shown in ((room.address, TOKENS), (room.other, SECRETS), (room.open_address, TOKENS)):
            leaf = await shown_at(address, svid, room.authority)
            assert str(leaf_facts(leaf).spiffe_id) == str(shown)
        assert (await room.client(svid, at=room.other).get(METADATA)).text == f"elsewhere {METADATA}"

    tokens.run(story)


async def shown_at(address: str, svid: X509Svid, authority: TestAuthority) -> bytes:
    """The certificate that is shown, in DER."""
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=tls_of(svid, authority))
    try:
        found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert isinstance(found, bytes)
        return found
    finally:
        writer.close()


def test_without_a_certificate_the_first_door_stays_shut_and_the_second_shows_what_is_public(
    tokens: SharedTokens,
) -> None:
    async def story(room: TokenRoom) -> None:
        with pytest.raises((httpx.TransportError, ssl.SSLError)):
            await room.client(None).get(METADATA)
        stranger = room.client(None, at=room.open_address)
        assert (await stranger.get("/oauth2/jwks")).json()["keys"]
        assert (await stranger.get(METADATA)).json()["issuer"] == ISSUER
        answer = await stranger.post(TOKEN, data=MINT)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")

    tokens.run(story)


def test_a_jwt_svid_is_enough_at_the_second_door(tokens: SharedTokens) -> None:
    async def story(room: TokenRoom) -> None:
        allow(room)
        assertion = room.authority.jwt_svid(spiffe_id("web"), ISSUER).token
        form = {**MINT, "client_assertion_type": JWT_SPIFFE, "client_assertion": assertion}
        answer = await room.client(None, at=room.open_address).post(TOKEN, data=form)
        assert (answer.status_code, answer.json()["token_type"]) == (200, "Bearer")
        assert room.tokens.audit.events[-1].details["via"] == "spiffe_jwt"

    tokens.run(story)


def test_nobody_says_who_he_is_by_headers(tokens: SharedTokens) -> None:
    async def story(room: TokenRoom) -> None:
        allow(room)
        forged = f"By=x;Hash=00;URI={WEB}"
        thief = room.client(room.svid("orders"))
        stranger = room.client(None, at=room.open_address)
        for name in ("x-forwarded-client-cert", "X-Forwarded-Client-Cert", "x-forwarded-client_cert"):
            for client in (thief, stranger):
                answer = await client.post(TOKEN, data=MINT, headers={name: forged})
                assert answer.status_code in (400, 401), name
                assert "access_token" not in answer.text

    tokens.run(story)


def test_whose_identity_is_revoked_gets_nothing_on_an_open_connection(tokens: SharedTokens) -> None:
    async def story(room: TokenRoom) -> None:
        allow(room)
        client = room.client(room.svid("web"))
        assert (await client.post(TOKEN, data=MINT)).status_code == 200
        target = RevokedIdentity(spiffe_id=spiffe_id("web"))
        room.revocations[0] = Revocations(
            version=1, entries=(Revocation(target=target, at=datetime.now(UTC), version=1),)
        )
        try:
            answer = await client.post(TOKEN, data=MINT)
        finally:
            room.revocations[0] = Revocations()
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")

    tokens.run(story)


def test_what_envoy_refuses_reads_as_an_error_of_oauth(tokens: SharedTokens) -> None:
    async def story(room: TokenRoom) -> None:
        answer = await room.client(room.svid("web")).get("/oauth2/%2Ftoken")
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["error_description"].startswith("refused by the proxy: ")

    tokens.run(story)


def test_generated_requests_find_nothing_that_the_description_does_not_say(
    tokens: SharedTokens, tmp_path: Path
) -> None:
    async def story(room: TokenRoom) -> None:
        allow(room)
        port = room.address.rpartition(":")[2]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "run", f"https://localhost:{port}/openapi.json"),
            *("--url", f"https://localhost:{port}", "--no-color", "--generation-deterministic"),
            *("--max-examples", "8", "--phases", "coverage,fuzzing"),
            *GENERATED,
            *credentials_in(tmp_path, room),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            said, _ = await process.communicate()
        except asyncio.CancelledError:  # it took too long
            process.kill()
            await process.wait()
            raise
        assert process.returncode == 0, said.decode()[-6000:]

    tokens.run(story)


GENERATED = (
    # A machine that is busy is no finding.
    *("--suppress-health-check", "all", "--request-timeout", "60", "--request-retries", "3"),
    # Who may have what is not for a schema to say; unknown parameters are ignored (RFC 6749, section 3.1); and methods
    # that HTTP does not know are refused by Envoy, as nonsense.
    *("--exclude-checks", "positive_data_acceptance,negative_data_rejection,unsupported_method"),
)


def credentials_in(directory: Path, room: TokenRoom) -> tuple[str, ...]:
    """An SVID and the authority's certificate, in files, as options of schemathesis."""
    svid = room.svid("web")
    files = {
        "--request-cert": b"".join(map(pem_of, svid.chain)),
        "--request-cert-key": key_from_pkcs8(svid.key).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        ),
        "--tls-verify": pem_of(room.authority.certificate),
    }
    found: list[str] = []
    for option, content in files.items():
        path = directory / option.strip("-")
        path.touch(0o600)
        path.write_bytes(content)
        found += [option, str(path)]
    return tuple(found)


def pem_of(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
