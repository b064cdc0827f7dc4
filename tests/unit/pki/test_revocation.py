"""Chains and tokens against a list of revocations: no way around a revoked authority."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from vestibule.errors import VestibuleError
from vestibule.pki import profiles
from vestibule.pki.chains import verify_x509_svid
from vestibule.pki.codes import REVOKED, UNTRUSTED_CHAIN
from vestibule.pki.keys import generate_key
from vestibule.pki.revocation import (
    certificate_facts,
    fingerprint,
    key_fingerprint,
    revoked,
    revoked_token,
    unrevoked,
    verify_unrevoked,
    verify_unrevoked_token,
)
from vestibule.spiffe import (
    Revocation,
    Revocations,
    RevokedAgent,
    RevokedAuthority,
    RevokedCertificate,
    RevokedIdentity,
    RevokedJwtKey,
    SpiffeId,
    TrustBundle,
)
from vestibule.testing import TestAuthority

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
WEB = SpiffeId.parse("spiffe://example.org/web")


def of(*targets: object) -> Revocations:
    made = [Revocation(target=each, at=NOW, version=n) for n, each in enumerate(targets, 1)]  # type: ignore[arg-type]
    return Revocations(len(made), tuple(made))


class Below:
    """An intermediate below a root, certified once or twice with the same key, and leaves below it."""

    def __init__(self) -> None:
        self.root = TestAuthority("example.org", now=NOW)
        self.key = generate_key()
        self.certificates = [self._certified(), self._certified()]

    def _certified(self) -> bytes:
        valid = profiles.lifetime(NOW, 12 * HOUR, self.root.issuer.not_after)
        builder = profiles.intermediate_ca(self.key.public_key(), valid, self.root.issuer)
        return builder.sign(self.root.key, SHA256()).public_bytes(Encoding.DER)

    def leaf(self, path: str = "/web") -> bytes:
        issuer = profiles.Issuer.of(self.certificates[0], self.root.trust_domain)
        spiffe_id = SpiffeId.of(self.root.trust_domain, path)
        valid = profiles.lifetime(NOW, HOUR, issuer.not_after)
        builder = profiles.svid(spiffe_id, generate_key().public_key(), valid, issuer)
        return builder.sign(self.key, SHA256()).public_bytes(Encoding.DER)

    def revoked(self, *, with_key: bool) -> RevokedAuthority:
        der = self.certificates[0]
        return RevokedAuthority(fingerprint=fingerprint(der), key=key_fingerprint(der) if with_key else "")


def refusal(chain: tuple[bytes, ...], bundle: TrustBundle, revocations: Revocations) -> VestibuleError:
    verify_x509_svid(chain, bundle, NOW)  # it would be trusted, were it not revoked
    with pytest.raises(VestibuleError) as caught:
        verify_unrevoked(chain, bundle, NOW, revocations)
    return caught.value


def test_without_revocations_a_chain_is_what_it_was() -> None:
    authority = TestAuthority(now=NOW)
    chain = authority.svid("/web", now=NOW).chain
    assert verify_unrevoked(chain, authority.bundle, NOW, Revocations()) == WEB
    other = of(RevokedIdentity(spiffe_id=SpiffeId.parse("spiffe://example.org/other")))
    assert verify_unrevoked(chain, authority.bundle, NOW, other) == WEB
    bundle = authority.bundle
    assert unrevoked(bundle, other, NOW) is bundle


def test_everything_below_a_revoked_root_is_refused() -> None:
    authority = TestAuthority(now=NOW)
    root = authority.certificate
    revocations = of(RevokedAuthority(fingerprint=fingerprint(root), key=key_fingerprint(root)))
    assert unrevoked(authority.bundle, revocations, NOW).x509_authorities == ()
    error = refusal(authority.svid("/web", now=NOW).chain, authority.bundle, revocations)
    assert error.code is REVOKED


def test_everything_below_a_revoked_intermediate_is_refused_and_the_rest_is_not() -> None:
    below = Below()
    revocations = of(below.revoked(with_key=False))
    assert refusal((below.leaf(), below.certificates[0]), below.root.bundle, revocations).code is REVOKED
    beside = below.root.svid("/beside", now=NOW).chain
    verify_unrevoked(beside, below.root.bundle, NOW, revocations)


def test_another_certificate_of_a_stolen_key_is_no_way_around() -> None:
    below = Below()
    chain = (below.leaf(), below.certificates[1])
    verify_unrevoked(chain, below.root.bundle, NOW, of(below.revoked(with_key=False)))
    assert refusal(chain, below.root.bundle, of(below.revoked(with_key=True))).code is REVOKED


def test_an_intermediate_that_is_an_anchor_itself_is_none_once_revoked() -> None:
    below = Below()
    bundle = replace(below.root.bundle, x509_authorities=(below.certificates[0],))
    assert refusal((below.leaf(),), bundle, of(below.revoked(with_key=True))).code is REVOKED


def test_a_revoked_certificate_beside_the_path_spoils_the_chain() -> None:
    below = Below()
    chain = (*below.root.svid("/web", now=NOW).chain, below.certificates[0])
    assert refusal(chain, below.root.bundle, of(below.revoked(with_key=True))).code is REVOKED


def test_a_forged_key_identifier_is_no_way_around_a_revoked_authority() -> None:
    below = Below()
    issuer = replace(
        profiles.Issuer.of(below.certificates[0], below.root.trust_domain), key_identifier=b"\0" * 20
    )
    valid = profiles.lifetime(NOW, HOUR, issuer.not_after)
    builder = profiles.svid(WEB, generate_key().public_key(), valid, issuer)
    leaf = builder.sign(below.key, SHA256()).public_bytes(Encoding.DER)
    revocations = of(below.revoked(with_key=True))
    with pytest.raises(VestibuleError):
        verify_unrevoked((leaf, below.certificates[0]), below.root.bundle, NOW, revocations)


def test_a_serial_counts_under_its_own_authority_only() -> None:
    one, two = TestAuthority(now=NOW), TestAuthority(now=NOW)
    svid = one.svid("/web", now=NOW)
    facts = certificate_facts(svid.chain[0])
    other = certificate_facts(two.svid("/web", now=NOW).chain[0]).authority_id
    assert revoked(
        of(RevokedCertificate(authority_id=facts.authority_id, serial=svid.serial)), svid.chain, NOW
    )
    assert not revoked(of(RevokedCertificate(authority_id=other, serial=svid.serial)), svid.chain, NOW)


def test_an_intermediate_may_be_revoked_by_its_serial() -> None:
    below = Below()
    facts = certificate_facts(below.certificates[0])
    revocations = of(RevokedCertificate(authority_id=facts.authority_id, serial=facts.serial))
    assert refusal((below.leaf(), below.certificates[0]), below.root.bundle, revocations).code is REVOKED


def test_a_chain_that_is_not_trusted_is_not_called_revoked() -> None:
    authority, stranger = TestAuthority(now=NOW), TestAuthority(now=NOW)
    chain = stranger.svid("/web", now=NOW).chain
    with pytest.raises(VestibuleError) as caught:
        verify_unrevoked(chain, authority.bundle, NOW, of(RevokedIdentity(spiffe_id=WEB)))
    assert caught.value.code is UNTRUSTED_CHAIN


def test_bytes_that_are_no_certificate_are_refused() -> None:
    with pytest.raises(VestibuleError):
        revoked(of(RevokedIdentity(spiffe_id=WEB)), (b"junk",), NOW)


def test_a_token_is_revoked_by_key_subject_time_and_agent() -> None:
    authority = TestAuthority(now=NOW)
    svid = authority.jwt_svid("/web", "db", now=NOW)
    marked = replace(svid, claims={**svid.claims, "vestibule:via": f"{77:016x}"})
    later = NOW + timedelta(seconds=1)
    agent = SpiffeId.parse("spiffe://example.org/spire/agent/one")
    for target in (
        RevokedJwtKey(trust_domain=authority.trust_domain, key_id=svid.key_id),
        RevokedIdentity(spiffe_id=WEB),
        RevokedIdentity(spiffe_id=WEB, issued_before=later),
    ):
        assert revoked_token(of(target), svid, NOW), target
    assert not revoked_token(of(RevokedIdentity(spiffe_id=WEB, issued_before=NOW)), svid, NOW)
    assert not revoked_token(of(RevokedAgent(agent_id=agent, mark=77)), svid, NOW)
    assert revoked_token(of(RevokedAgent(agent_id=agent, mark=77)), marked, NOW)
    without = replace(svid, issued_at=None)
    assert revoked_token(of(RevokedIdentity(spiffe_id=WEB, issued_before=NOW)), without, NOW)


@pytest.mark.parametrize("claim", [77, "", "x" * 16, "00", None, ["00"], "+000000000000077"])
def test_a_strange_claim_in_the_place_of_a_mark_is_no_mark(claim: object) -> None:
    authority = TestAuthority(now=NOW)
    svid = authority.jwt_svid("/web", "db", now=NOW)
    strange = replace(svid, claims={**svid.claims, "vestibule:via": claim})
    agent = SpiffeId.parse("spiffe://example.org/spire/agent/one")
    assert not revoked_token(of(RevokedAgent(agent_id=agent, mark=78)), strange, NOW)


def test_a_verified_token_that_is_revoked_is_refused() -> None:
    authority = TestAuthority(now=NOW)
    svid = authority.jwt_svid("/web", "db", now=NOW)
    trusted = {authority.trust_domain: authority.jwt_bundle}
    assert verify_unrevoked_token(svid.token, ["db"], trusted.get, NOW, Revocations()) == svid
    with pytest.raises(VestibuleError) as caught:
        verify_unrevoked_token(svid.token, ["db"], trusted.get, NOW, of(RevokedIdentity(spiffe_id=WEB)))
    assert caught.value.code is REVOKED


def test_the_key_fingerprint_is_that_of_the_public_key() -> None:
    below = Below()
    one, two = below.certificates
    assert fingerprint(one) != fingerprint(two)
    assert key_fingerprint(one) == key_fingerprint(two)
    assert x509.load_der_x509_certificate(one).serial_number == certificate_facts(one).serial
