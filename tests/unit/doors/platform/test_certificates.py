"""What Envoy says of a certificate is verified once more, by what the server knows now."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest

from vestibule.doors.platform.certificates import Certificates
from vestibule.doors.platform.codes import NO_CALLER
from vestibule.errors import VestibuleError
from vestibule.spiffe import Revocation, Revocations, RevokedIdentity, SpiffeId, X509Svid
from vestibule.testing import FakeClock, TestAuthority

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ID = SpiffeId.parse("spiffe://example.org/ns/prod/sa/payments")


class Scene:
    def __init__(self) -> None:
        self.clock = FakeClock(NOW)
        self.authority = TestAuthority("example.org", now=NOW)
        self.bundle = self.authority.bundle
        self.revocations = Revocations()
        self.certificates = Certificates(lambda: self.bundle, lambda: self.revocations, self.clock)

    def svid(self) -> X509Svid:
        return self.authority.svid(ID, now=NOW)

    def refused(self, header: bytes) -> bool:
        try:
            self.certificates.caller_of(header)
        except VestibuleError as error:
            return error.code is NO_CALLER
        return False


def header(svid: X509Svid, *, uri: object = ID) -> bytes:
    pem = "".join(
        f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(each).decode()}-----END CERTIFICATE-----\n"
        for each in svid.chain
    )
    return f'By=spiffe://example.org/x;Hash=00;Chain="{quote(pem, safe="")}";URI={uri}'.encode()


def test_a_certificate_of_the_trust_domain_proves_its_identity() -> None:
    scene = Scene()
    sent = header(scene.svid())
    assert scene.certificates.caller_of(sent) == scene.certificates.caller_of(sent) == ID


def test_it_does_so_until_it_ends() -> None:
    scene = Scene()
    sent = header(scene.svid())
    assert not scene.refused(sent)
    scene.clock.advance(timedelta(hours=2))
    assert scene.refused(sent)


def test_who_is_revoked_is_refused_from_then_on() -> None:
    scene = Scene()
    sent = header(scene.svid())
    assert not scene.refused(sent)
    revocation = Revocation(target=RevokedIdentity(spiffe_id=ID), at=NOW, version=1)
    scene.revocations = Revocations(version=1, entries=(revocation,))
    assert scene.refused(sent)


def test_an_authority_that_left_the_bundle_proves_nothing() -> None:
    scene = Scene()
    sent = header(scene.svid())
    assert not scene.refused(sent)
    scene.bundle = TestAuthority("example.org", now=NOW).bundle
    assert scene.refused(sent)


def test_another_name_than_the_certificates_is_refused() -> None:
    scene = Scene()
    assert scene.refused(header(scene.svid(), uri="spiffe://example.org/ns/prod/sa/orders"))


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"URI=spiffe://example.org/ns/prod/sa/payments",
        b"Hash=00",
        b'Chain="";URI=spiffe://example.org/a',
        b'Chain="%2D";URI=spiffe://example.org/a',
        b"\xff\xfe",
    ],
)
def test_what_says_too_little_is_refused(broken: bytes) -> None:
    assert Scene().refused(broken)


def test_what_says_two_things_is_refused() -> None:
    scene = Scene()
    sent = header(scene.svid())
    for twice in (sent + b"," + sent, sent + b";URI=spiffe://example.org/x", sent + b";" + sent):
        assert scene.refused(twice)
