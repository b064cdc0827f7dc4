"""What every key manager promises."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256

from vestibule.errors import VestibuleError
from vestibule.keys import DiskKeyManager, KeyManager, MemoryKeyManager, Sealer
from vestibule.keys.pkcs11 import Pkcs11KeyManager
from vestibule.keys.secrets import secret_in_file
from vestibule.pki import profiles
from vestibule.pki.chains import verify_x509_svid
from vestibule.pki.crls import RevokedSerial, crl_builder, read_crl
from vestibule.pki.csr import csr_builder, parse_csr
from vestibule.pki.jwt import UnsignedJwt, svid_claims, verify_jwt_svid
from vestibule.pki.keys import PublicKey, generate_key, public_key_der
from vestibule.pki.leaves import unsigned_svid
from vestibule.spiffe import JwtAuthority, SpiffeId, TrustBundle, TrustDomain
from vestibule.testing.softhsm import SoftToken, softhsm_module

NOW = datetime(2026, 5, 1, tzinfo=UTC)
TD = TrustDomain.parse("example.org")
WEB = SpiffeId.parse("spiffe://example.org/web")

SOFTHSM = softhsm_module()


def in_a_token(path: Path) -> KeyManager:
    if SOFTHSM is None:
        pytest.skip("SoftHSM2 is not installed")
    token = SoftToken(path / "token")
    return Pkcs11KeyManager(SOFTHSM, token.label, secret_in_file(token.pin_file), namespace="test")


MAKERS: dict[str, Callable[[Path], KeyManager]] = {
    "memory": lambda _: MemoryKeyManager(),
    "disk": lambda path: DiskKeyManager(path / "keys", Sealer(bytes(32))),
    "pkcs11": in_a_token,
}


@pytest.fixture(params=MAKERS)
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> KeyManager:
    return MAKERS[request.param](tmp_path)


def ca(public_key: PublicKey) -> x509.CertificateBuilder:
    return profiles.self_signed_ca(TD, public_key, profiles.lifetime(NOW, timedelta(hours=1)))


async def test_an_svid_that_a_key_signs_verifies_under_its_certificate(keys: KeyManager) -> None:
    authority = await keys.sign_certificate("a", ca(await keys.generate("a")))
    valid = profiles.lifetime(NOW, timedelta(minutes=5))
    unsigned = unsigned_svid(WEB, generate_key().public_key(), valid, profiles.Issuer.of(authority, TD))
    leaf = unsigned.signed(await keys.sign("a", unsigned.signing_input))
    bundle = TrustBundle(trust_domain=TD, x509_authorities=(authority,))
    assert verify_x509_svid([leaf], bundle, NOW) == WEB


async def test_what_a_key_signs_verifies_with_its_public_half(keys: KeyManager) -> None:
    public_key = await keys.generate("a")
    certificate = x509.load_der_x509_certificate(await keys.sign_certificate("a", ca(public_key)))
    certificate.verify_directly_issued_by(certificate)
    assert public_key_der(await keys.public_key("a")) == public_key_der(public_key)


async def test_a_revocation_list_that_a_key_signs_verifies_with_its_certificate(keys: KeyManager) -> None:
    certificate = x509.load_der_x509_certificate(
        await keys.sign_certificate("a", ca(await keys.generate("a")))
    )
    revoked = RevokedSerial(serial=7, at=NOW, reason="keyCompromise")
    builder = crl_builder(certificate, [revoked], number=3, now=NOW, next_update=NOW + timedelta(hours=1))
    facts = read_crl(await keys.sign_crl("a", builder), certificate)
    assert (facts.number, facts.revoked) == (3, (revoked,))


async def test_a_request_that_a_key_signs_proves_its_possession(keys: KeyManager) -> None:
    public_key = await keys.generate("a")
    request = await keys.sign_csr("a", csr_builder(TD.id, common_name="prod-2026-Q4"))
    facts = parse_csr(request)
    assert public_key_der(facts.public_key) == public_key_der(public_key)
    assert facts.spiffe_id == TD.id


async def test_a_jwt_that_a_key_signs_verifies_with_its_public_half(keys: KeyManager) -> None:
    public_key = await keys.generate("a")
    claims = svid_claims(WEB, ("them",), NOW, timedelta(minutes=5), NOW + timedelta(minutes=5))
    authority = JwtAuthority(key_id=profiles.authority_id(public_key), public_key=public_key_der(public_key))
    unsigned = UnsignedJwt(key_id=authority.key_id, claims=claims)
    token = unsigned.signed(await keys.sign("a", unsigned.signing_input))
    bundle = TrustBundle(trust_domain=TD, x509_authorities=(), jwt_authorities=(authority,))
    assert verify_jwt_svid(token, ("them",), {TD: bundle}.get, NOW).spiffe_id == WEB


async def test_many_signatures_at_once_are_all_good(keys: KeyManager) -> None:
    public_key = await keys.generate("a")
    texts = [str(number).encode() for number in range(20)]
    for text, signature in zip(
        texts, await asyncio.gather(*(keys.sign("a", text) for text in texts)), strict=True
    ):
        public_key.verify(signature, text, ECDSA(SHA256()))


async def test_data_that_a_key_signs_verifies_with_its_public_half(keys: KeyManager) -> None:
    public_key = await keys.generate("a")
    signature = await keys.sign("a", b"header.claims")
    public_key.verify(signature, b"header.claims", ECDSA(SHA256()))
    with pytest.raises(InvalidSignature):
        public_key.verify(signature, b"header.other", ECDSA(SHA256()))


async def test_keys_are_apart_and_listed(keys: KeyManager) -> None:
    assert await keys.key_ids() == frozenset()
    first, second = await keys.generate("a"), await keys.generate("b.2")
    assert public_key_der(first) != public_key_der(second)
    assert await keys.key_ids() == {"a", "b.2"}


async def test_making_a_key_again_replaces_it(keys: KeyManager) -> None:
    first = await keys.generate("a")
    second = await keys.generate("a")
    assert public_key_der(await keys.public_key("a")) == public_key_der(second) != public_key_der(first)
    assert await keys.key_ids() == {"a"}


async def test_a_deleted_key_is_gone(keys: KeyManager) -> None:
    await keys.generate("a")
    await keys.delete("a")
    await keys.delete("a")
    assert await keys.key_ids() == frozenset()
    with pytest.raises(VestibuleError, match="VST1101"):
        await keys.public_key("a")


async def test_an_unknown_key_signs_nothing(keys: KeyManager) -> None:
    public_key = await keys.generate("a")
    with pytest.raises(VestibuleError, match="VST1101"):
        await keys.sign_certificate("b", ca(public_key))
    with pytest.raises(VestibuleError, match="VST1101"):
        await keys.sign("b", b"")
    certificate = x509.load_der_x509_certificate(await keys.sign_certificate("a", ca(public_key)))
    builder = crl_builder(certificate, [], number=0, now=NOW, next_update=NOW + timedelta(hours=1))
    with pytest.raises(VestibuleError, match="VST1101"):
        await keys.sign_crl("b", builder)
    with pytest.raises(VestibuleError, match="VST1101"):
        await keys.sign_csr("b", csr_builder(TD.id))


@pytest.mark.parametrize("key_id", ["", ".", "..", "../a", "a/b", ".hidden", "a" * 129, "a\n", "a b", "ä"])
async def test_a_malformed_key_id_is_refused_everywhere(keys: KeyManager, key_id: str) -> None:
    builder = ca(await keys.generate("a"))
    for call in (
        keys.generate(key_id),
        keys.public_key(key_id),
        keys.sign_certificate(key_id, builder),
        keys.sign_crl(key_id, x509.CertificateRevocationListBuilder()),
        keys.sign_csr(key_id, csr_builder(TD.id)),
        keys.sign(key_id, b""),
        keys.delete(key_id),
    ):
        with pytest.raises(VestibuleError, match="VST1100"):
            await call
