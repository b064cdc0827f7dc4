"""The operator's commands for agents, minting and health, against a real server."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.component.server_lab import Lab, running, short_directory
from tests.component.test_entry_commands import data, typed

from vestibule.pki.certificates import load_certificate
from vestibule.pki.chains import verify_x509_svid


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    with short_directory() as directory:
        async with running(directory) as lab:
            yield lab


async def test_agents_are_listed_and_counted_by_what_is_asked(lab: Lab) -> None:
    agents = [await lab.agent() for _ in range(3)]
    code, _, _ = await typed(lab, "agent", "ban", str(agents[0].id))
    assert code == 0

    async def found(*words: str) -> int:
        listed = await data(lab, "agent", "list", *words)
        counted = await data(lab, "agent", "count", *words)
        assert len(listed) == counted["count"]
        return len(listed)

    assert await found() == 3
    assert await found("--banned") == 1
    assert await found("--not-banned") == 2
    assert await found("--attestation-type", "x509pop") == 0
    assert await found("--attestation-type", "join_token", "--cannot-reattest") == 3
    assert await found("--can-reattest") == 0
    assert await found("--expires-before", "7d") == 3
    assert await found("--expires-before", "2020-01-01T00:00:00Z") == 0
    assert await found("--selector", "x509pop:subject:cn:a") == 0
    code, _, told = await typed(lab, "agent", "list", "--expires-before", "tomorrow")
    assert code == 2
    assert "24h" in told


async def test_an_x509_svid_is_minted_into_files(lab: Lab) -> None:
    place = lab.directory / "minted"
    place.mkdir(0o700)
    words = (
        "--spiffe-id",
        "spiffe://example.org/db",
        "--write",
        str(place),
        "--dns",
        "db.example.org",
        "--ttl",
        "5m",
    )
    told = await data(lab, "x509", "mint", *words)
    assert told["spiffe_id"] == "spiffe://example.org/db"
    assert stat.S_IMODE((place / "key.pem").stat().st_mode) == 0o600
    chain = [x509.load_pem_x509_certificates((place / "svid.pem").read_bytes())[0]]
    der = [each.public_bytes(Encoding.DER) for each in chain]
    assert str(verify_x509_svid(der, await lab.bundle(), datetime.now(UTC))) == told["spiffe_id"]
    names = load_certificate(der[0]).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["db.example.org"]
    assert "PRIVATE KEY" not in str(told)


async def test_a_jwt_svid_is_minted(lab: Lab) -> None:
    words = ("--spiffe-id", "spiffe://example.org/db", "--audience", "billing", "--ttl", "1m")
    told = await data(lab, "jwt", "mint", *words)
    assert told["token"].count(".") == 2
    file = lab.directory / "token"
    told = await data(lab, "jwt", "mint", *words, "--write", str(file))
    assert "token" not in told
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    code, _, _ = await typed(lab, "jwt", "mint", "--spiffe-id", "spiffe://other.org/x", "--audience", "a")
    assert code == 2


async def test_health_is_told_by_the_exit_code(lab: Lab) -> None:
    code, out, _ = await typed(lab, "healthcheck")
    assert (code, out.strip()) == (0, "Server is healthy.")
    assert (await data(lab, "healthcheck"))["healthy"] is True
