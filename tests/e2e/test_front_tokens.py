"""The secret manager's second port: clients that have a token, and no certificate."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import httpx
import hvac
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.e2e.front_lab import SECRETS, Room, Shared, opened
from tests.e2e.mesh_lab import PATIENCE, spiffe_id
from tests.e2e.outside_lab import PublicAuthority

from vestibule.doors.vault.app import LARGE
from vestibule.secrets.ports import Verb
from vestibule.spiffe import Revocation, Revocations, RevokedIdentity
from vestibule.testing import TestAuthority

OWN = "/v1/secret/own"
LOGIN = "/v1/auth/jwt/login"
FORGED_HEADERS = (
    "x-forwarded-client-cert",
    "X-Forwarded-Client-Cert",
    "x-forwarded-client_cert",
    "x_forwarded_client_cert",
)


@pytest.fixture(scope="module")
def front() -> Iterator[Shared]:
    with Shared() as shared:
        yield shared


def jwt(room: Room, service: str = "payments", audience: str = str(SECRETS)) -> str:
    return room.authority.jwt_svid(spiffe_id(service), audience).token


def pem_of(certificate: bytes) -> bytes:
    return x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM)


async def logged_in(room: Room, service: str = "payments") -> str:
    answer = await room.token_client().post(LOGIN, json={"jwt": jwt(room, service), "role": "any"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["auth"]["client_token"])


def test_hvac_logs_in_with_a_jwt_svid_and_reads_with_the_token(front: Shared, tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        room.allow("payments", Verb.READ, "secret/own")
        shown = tmp_path / "bundle.pem"
        shown.write_bytes(pem_of(room.authority.certificate))
        _, _, port = room.for_tokens.rpartition(":")

        def session() -> None:
            client = hvac.Client(url=f"https://localhost:{port}", verify=str(shown), timeout=PATIENCE)
            client.auth.jwt.jwt_login(role="any", jwt=jwt(room))
            assert client.is_authenticated()
            read = client.read("secret/own")
            assert isinstance(read, dict)
            assert read["data"] == {"password": "swordfish"}
            client.auth.token.revoke_self()
            with pytest.raises(hvac.exceptions.Forbidden, match="VST5550"):
                client.read("secret/own")

        await asyncio.to_thread(session)
        read = next(each for each in room.notes.events if each.action == "secret.read")
        assert (read.actor, read.details["via"]) == (str(spiffe_id("payments")), "token")
        assert read.details["accessor"]

    front.run(story)


@pytest.mark.parametrize("header", ["x-vault-token", "authorization"])
def test_the_jwt_svid_itself_will_do(front: Shared, header: str) -> None:
    async def story(room: Room) -> None:
        room.allow("payments", Verb.READ, "secret/own")
        shown = jwt(room) if header == "x-vault-token" else f"Bearer {jwt(room)}"
        answer = await room.token_client().get(OWN, headers={header: shown})
        assert (answer.status_code, answer.json()["data"]) == (200, {"password": "swordfish"})

    front.run(story)


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("header", FORGED_HEADERS)
def test_who_says_in_a_header_that_it_has_a_certificate_is_nobody(
    front: Shared, header: str, http2: bool
) -> None:
    """The certificate in the header is a real one, and its owner may read the secret."""

    async def story(room: Room) -> None:
        room.allow("payments", Verb.READ, "secret/own")
        pem = quote(pem_of(room.svid("payments").chain[0]))
        forged = f'By=x;Hash=00;Chain="{pem}";URI={spiffe_id("payments")}'
        for token in ("", await logged_in(room, "web")):
            client = room.token_client(token, http2=http2)
            try:
                answer = await client.get(OWN, headers={header: forged})
            except httpx.RemoteProtocolError:
                assert (http2, "_" in header) == (True, True)  # names with _ end the stream
                continue
            assert answer.status_code in (400, 403)
            assert "swordfish" not in answer.text
            assert str(spiffe_id("payments")) not in answer.text

    front.run(story)


def test_a_token_for_somebody_else_one_that_was_forged_and_none_are_nobody(front: Shared) -> None:
    async def story(room: Room) -> None:
        room.allow("payments", Verb.READ, "secret/own")
        elsewhere = jwt(room, audience="spiffe://example.org/ns/prod/sa/orders")
        forged = TestAuthority("example.org").jwt_svid(spiffe_id("payments"), str(SECRETS)).token
        for token in ("", "x", elsewhere, forged, "hvs.forged", "hvw.forged"):
            for answer in (
                await room.token_client(token).get(OWN),
                await room.token_client(token).post(OWN, json={"x": 1}),
                await room.token_client().post(LOGIN, json={"jwt": token}),
            ):
                assert answer.status_code in (401, 403), (token[:10], answer.text)
                assert "swordfish" not in answer.text
                assert not token or token not in answer.text

    front.run(story)


def test_who_is_revoked_is_nobody_with_what_it_got_before(front: Shared) -> None:
    async def story(room: Room) -> None:
        room.allow("leaver", Verb.READ, "secret/own")
        token = await logged_in(room, "leaver")
        client = room.token_client(token)
        assert (await client.get(OWN)).status_code == 200
        target = RevokedIdentity(
            spiffe_id=spiffe_id("leaver"), issued_before=datetime.now(UTC) + timedelta(minutes=1)
        )
        revoked = Revocation(target=target, version=1, at=datetime.now(UTC))
        room.revocations[0] = Revocations(version=1, entries=(revoked,))
        try:
            answers = [await client.get(OWN), await room.token_client(jwt(room, "leaver")).get(OWN)]
        finally:
            room.revocations[0] = Revocations()
        for answer in answers:
            assert answer.status_code == 403
            assert "swordfish" not in answer.text

    front.run(story)


@pytest.mark.parametrize("path", ["health", "seal-status", "init", "unseal", "seal", "leader", "mounts"])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_nothing_of_the_manager_itself_is_told_to_nobody(front: Shared, method: str, path: str) -> None:
    async def story(room: Room) -> None:
        answer = await room.token_client().request(
            method, f"/v1/sys/{path}", json={"key": "00", "reset": True}
        )
        assert (answer.status_code, "VST5211" in answer.text) == (403, True)

    front.run(story)


def test_bodies_of_strangers_are_not_read(front: Shared) -> None:
    async def story(room: Room) -> None:
        large = b'{"jwt": "' + b"a" * LARGE + b'"}'
        assert (await room.token_client().post(LOGIN, content=large)).status_code == 413
        # What is no JSON is not even noticed.
        assert (await room.token_client("x").post(OWN, content=b"{")).status_code == 403

    front.run(story)


def test_a_token_gets_nobody_in_where_a_certificate_is_asked_for(front: Shared) -> None:
    async def story(room: Room) -> None:
        with pytest.raises((httpx.TransportError, ssl.SSLError)):
            await room.client(None).get(OWN, headers={"x-vault-token": jwt(room)})

    front.run(story)


async def test_another_certificate_than_the_svid_can_be_shown_there_and_renewed(tmp_path: Path) -> None:
    public = PublicAuthority("Public")

    def issued() -> tuple[bytes, bytes]:
        certificate, key = public.issue(tmp_path, "localhost")
        return certificate.read_bytes(), key.read_bytes()

    async with opened(web=issued()) as room:
        before = await shown_at(room, public)
        await room.rotate(replace(room.current, webs={"secrets": issued()}))
        async with asyncio.timeout(PATIENCE):
            while await shown_at(room, public) == before:
                await asyncio.sleep(0.02)


async def shown_at(room: Room, public: PublicAuthority) -> bytes:
    """The certificate that somebody gets who believes public authorities alone, and looks at names."""
    _, _, port = room.for_tokens.rpartition(":")
    context = ssl.create_default_context(cadata=public.pem)
    async with asyncio.timeout(PATIENCE):
        _, writer = await asyncio.open_connection(
            "127.0.0.1", int(port), ssl=context, server_hostname="localhost"
        )
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
    return bytes(shown)
