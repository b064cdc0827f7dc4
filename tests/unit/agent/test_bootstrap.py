import os
from pathlib import Path

import pytest

from vestibule.agent.bootstrap import FirstTrust, JoinTokenFile
from vestibule.agent.codes import CANNOT_JOIN, FINGERPRINT_MISMATCH, NO_FIRST_TRUST, UNREADABLE_FILE
from vestibule.attest.node.codes import MALFORMED_JOIN_TOKEN
from vestibule.errors import VestibuleError
from vestibule.pki.bundles import sha256_fingerprint, to_jwks, to_pem
from vestibule.spiffe import TrustBundle, TrustDomain
from vestibule.testing import TestAuthority

TD = TrustDomain.parse("example.org")
AUTHORITY = TestAuthority(TD)


async def offered() -> TrustBundle:
    return AUTHORITY.bundle


async def forbidden() -> TrustBundle:
    raise AssertionError("nobody is asked when a file says it")


def token_file(path: Path, text: str, mode: int = 0o600) -> Path:
    path.touch(mode)
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "trust",
    [
        FirstTrust(),
        FirstTrust(insecure=True, bundle_sha256="00" * 32),
        FirstTrust(bundle_sha256="12ab"),
        FirstTrust(bundle_sha256="zz" * 32),
    ],
    ids=["none", "two", "short", "not hex"],
)
async def test_exactly_one_sound_way_is_demanded(trust: FirstTrust) -> None:
    with pytest.raises(VestibuleError) as refusal:
        await trust.bundle(TD, offered)
    assert refusal.value.code is NO_FIRST_TRUST


async def test_a_bundle_file_may_be_pem_or_the_spiffe_document(tmp_path: Path) -> None:
    for name, data in (("pem", to_pem(AUTHORITY.bundle)), ("json", to_jwks(AUTHORITY.bundle))):
        (tmp_path / name).write_bytes(data)
        found = await FirstTrust(bundle_file=tmp_path / name).bundle(TD, forbidden)
        assert found.x509_authorities == AUTHORITY.bundle.x509_authorities


async def test_a_missing_or_huge_bundle_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "huge").write_bytes(b" " * (1024 * 1024 + 1))
    for name in ("missing", "huge"):
        with pytest.raises(VestibuleError, match=name) as refusal:
            await FirstTrust(bundle_file=tmp_path / name).bundle(TD, forbidden)
        assert refusal.value.code is UNREADABLE_FILE


async def test_the_hash_decides_whether_the_offered_bundle_is_taken() -> None:
    right = FirstTrust(bundle_sha256=sha256_fingerprint(AUTHORITY.bundle))
    assert await right.bundle(TD, offered) == AUTHORITY.bundle
    with pytest.raises(VestibuleError) as refusal:
        await FirstTrust(bundle_sha256="00" * 32).bundle(TD, offered)
    assert refusal.value.code is FINGERPRINT_MISMATCH


async def test_believing_anyone_leaves_a_trace(caplog: pytest.LogCaptureFixture) -> None:
    assert await FirstTrust(insecure=True).bundle(TD, offered) == AUTHORITY.bundle
    assert "INSECURE BOOTSTRAP" in caplog.text
    assert not FirstTrust(insecure=True).is_firm


async def test_a_token_file_is_read_anew_each_time(tmp_path: Path) -> None:
    path = token_file(tmp_path / "token", "first\n")
    tokens = JoinTokenFile(path, TD)
    assert await tokens.proof().payload() == b"first"
    path.write_text("second")
    assert await tokens.proof().payload() == b"second"


async def test_a_pipe_is_read_once_and_remembered() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"secret\n")
    os.close(writing)
    tokens = JoinTokenFile(Path(f"/dev/fd/{reading}"), TD)
    assert await tokens.proof().payload() == b"secret"
    assert await tokens.proof().payload() == b"secret"
    os.close(reading)


def test_no_file_and_files_of_everybody_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VestibuleError) as refusal:
        JoinTokenFile(None, TD).proof()
    assert refusal.value.code is CANNOT_JOIN
    for mode in (0o644, 0o640, 0o604):
        with pytest.raises(VestibuleError) as refusal:
            JoinTokenFile(token_file(tmp_path / f"{mode:o}", "t", mode), TD).proof()
        assert refusal.value.code is UNREADABLE_FILE


@pytest.mark.parametrize("text", ["", "  \n", "a/b", "../x", "tökén"])
def test_a_malformed_token_is_refused_without_being_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(VestibuleError) as refusal:
        JoinTokenFile(token_file(tmp_path / "token", text), TD).proof()
    assert refusal.value.code is MALFORMED_JOIN_TOKEN
    if text.strip():
        assert text not in str(refusal.value)


async def test_jwt_keys_are_never_taken_from_a_stranger() -> None:
    bundle = AUTHORITY.jwt_bundle

    async def offered() -> TrustBundle:
        return bundle

    firm = FirstTrust(bundle_sha256=sha256_fingerprint(bundle))
    for first in (firm, FirstTrust(insecure=True)):
        assert (await first.bundle(TD, offered)).jwt_authorities == ()
