"""OpenID Connect discovery: a relying party that knows nothing of SPIFFE verifies our tokens."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from joserfc import jwt
from joserfc.jwk import KeySet
from tests.component.server_lab import Lab, running, settings_in, short_directory, wire_id

from vestibule.doors.certificate_files import CertificateFiles
from vestibule.doors.oidc_http import discovery
from vestibule.errors import VestibuleError
from vestibule.pki.keys import generate_key
from vestibule.wire.gen.spire import svid_pb2

ISSUER = "https://id.example.org/prod"


def write_certificate(directory: Path, name: str = "localhost") -> tuple[Path, Path]:
    key = generate_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(names, critical=False)
        .sign(key, SHA256())
    )
    cert, private = directory / "tls.pem", directory / "tls.key"
    cert.write_bytes(certificate.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return cert, private


async def token(lab: Lab) -> str:
    mint = svid_pb2.MintJWTSVIDRequest(id=wire_id("/web"), audience=["vault"])
    return str((await lab.operator.svids.unary("MintJWTSVID", mint)).svid.token)


async def test_a_relying_party_finds_the_keys_and_verifies_a_token() -> None:
    with short_directory() as directory:
        async with running(directory, jwt_issuer=ISSUER, oidc_port=0) as lab:
            base = f"http://{lab.ready.oidc}/prod"
            assert f" oidc={lab.ready.oidc} " in str(lab.ready)
            async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                page = await client.get(
                    f"{base}/.well-known/openid-configuration", headers={"Host": "evil.org"}
                )
                document = page.json()
                assert page.headers["content-type"] == "application/json"
                assert document["issuer"] == ISSUER
                assert document["jwks_uri"] == f"{ISSUER}/keys"
                page = await client.get(f"{base}/keys")
                assert page.headers["cache-control"] == "public, max-age=300"
                keys = page.json()
                assert (await client.get(f"{base}/other")).status_code == 404
                assert (await client.post(f"{base}/keys")).status_code == 405
                assert (await client.get(f"http://{lab.ready.oidc}/keys")).status_code == 404
            found = jwt.decode(await token(lab), KeySet.import_key_set(keys), algorithms=["ES256"])
            assert found.claims["iss"] == document["issuer"]
            assert (found.claims["sub"], found.claims["aud"]) == ("spiffe://example.org/web", ["vault"])
            assert [(key["use"], key["alg"], key["kid"]) for key in keys["keys"]] == [
                ("sig", "ES256", found.header["kid"])
            ]


async def test_the_pages_are_served_over_tls_where_there_is_a_certificate() -> None:
    with short_directory() as directory:
        cert, key = write_certificate(directory)
        options: dict[str, Any] = {"oidc_tls_cert": cert, "oidc_tls_key": key, "oidc_address": "127.0.0.1"}
        async with running(directory, jwt_issuer="https://localhost", oidc_port=0, **options) as lab:
            trust = ssl.create_default_context(cafile=str(cert))
            port = lab.ready.oidc.rpartition(":")[2]
            async with httpx.AsyncClient(verify=trust, trust_env=False, timeout=60) as client:
                page = await client.get(f"https://127.0.0.1:{port}/.well-known/openid-configuration")
                assert page.json() == discovery("https://localhost")
            with pytest.raises(httpx.HTTPError):
                async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                    await client.get(f"http://127.0.0.1:{port}/keys")


@pytest.mark.parametrize(
    "options",
    [
        {"jwt_issuer": ""},
        {"disable_jwt_svids": True},
        {"oidc_address": "0.0.0.0"},
        {"oidc_address": "id.example.org"},
        {"oidc_tls_cert": Path("/cert.pem")},
        {"oidc_tls_key": Path("/key.pem")},
        {"oidc_port": 70000},
    ],
)
def test_pages_that_nobody_could_trust_are_not_served(options: dict[str, Any]) -> None:
    with pytest.raises(VestibuleError, match="VST9110"):
        settings_in(Path("/nowhere"), **({"jwt_issuer": ISSUER, "oidc_port": 0} | options))


def test_a_certificate_that_cannot_be_used_stops_the_server(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    _, other = write_certificate(tmp_path / "other")
    locked = tmp_path / "locked.key"
    secret = BestAvailableEncryption(b"secret")
    locked.write_bytes(generate_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))
    for wrong in (
        (tmp_path / "missing", key),
        (cert, tmp_path / "missing"),
        (cert, other),
        (cert, locked),
        (key, key),
    ):
        with pytest.raises(VestibuleError, match="VST2202"):
            CertificateFiles(*wrong)


def test_a_renewed_certificate_is_taken_up_and_a_broken_one_is_not(tmp_path: Path) -> None:
    files = CertificateFiles(*write_certificate(tmp_path))
    assert files.context.minimum_version is ssl.TLSVersion.TLSv1_2
    first = served(files)
    files.refresh()
    assert served(files) == first
    cert, _ = write_certificate(tmp_path)
    files.refresh()
    second = served(files)
    assert second != first
    cert.write_text("broken")
    files.refresh()
    assert served(files) == second


def served(files: CertificateFiles) -> bytes:
    """The certificate that a handshake in memory shows."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(back, there)
    server = files.context.wrap_bio(there, back, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    found = client.getpeercert(binary_form=True)
    assert found is not None
    return found
