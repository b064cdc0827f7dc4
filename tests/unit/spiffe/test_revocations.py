"""The list of revocations: what it means, how it grows, and that it is fast."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestibule.errors import VestibuleError
from vestibule.spiffe import (
    Revocation,
    Revocations,
    RevokedAgent,
    RevokedAuthority,
    RevokedCertificate,
    RevokedIdentity,
    RevokedJwtKey,
    SpiffeId,
    TrustDomain,
)
from vestibule.spiffe.revocations import CertificateFacts, parse_target

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
WEB = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")
AGENT = SpiffeId.parse("spiffe://example.org/spire/agent/one")
DOMAIN = TrustDomain.parse("example.org")
FACTS = CertificateFacts(
    fingerprint="aa" * 32,
    key="bb" * 32,
    authority_id="cc" * 20,
    serial=(77 << 64) + 5,
    spiffe_id=WEB,
    not_before=NOW,
)


def of(*targets: object, **fields: object) -> Revocations:
    made = [
        Revocation(target=each, at=NOW, version=n, **fields)  # type: ignore[arg-type]
        for n, each in enumerate(targets, 1)
    ]
    return Revocations(len(made), tuple(made))


@pytest.mark.parametrize(
    "target",
    [
        RevokedCertificate(authority_id=FACTS.authority_id, serial=FACTS.serial),
        RevokedAuthority(fingerprint=FACTS.fingerprint),
        RevokedAuthority(fingerprint="00" * 32, key=FACTS.key),
        RevokedAuthority(fingerprint="00" * 32, key="11" * 32, authority_id=FACTS.authority_id),
        RevokedAgent(agent_id=AGENT, mark=77),
        RevokedIdentity(spiffe_id=WEB),
        RevokedIdentity(spiffe_id=WEB, issued_before=NOW + SECOND),
    ],
)
def test_a_certificate_is_revoked_by(target: object) -> None:
    why = of(target).of_certificate(FACTS, NOW)
    assert why is not None
    assert why.target == target


@pytest.mark.parametrize(
    "target",
    [
        RevokedCertificate(authority_id="dd" * 20, serial=FACTS.serial),
        RevokedCertificate(authority_id=FACTS.authority_id, serial=5),
        RevokedAuthority(fingerprint="00" * 32),
        RevokedAgent(agent_id=AGENT, mark=78),
        RevokedIdentity(spiffe_id=SpiffeId.parse("spiffe://example.org/ns/prod/sa/web2")),
        RevokedIdentity(spiffe_id=WEB, issued_before=NOW),
        RevokedJwtKey(trust_domain=DOMAIN, key_id=FACTS.key),
    ],
)
def test_a_certificate_is_not_revoked_by(target: object) -> None:
    assert of(target).of_certificate(FACTS, NOW) is None


def test_what_does_not_say_when_it_was_issued_counts_as_old() -> None:
    revocations = of(RevokedIdentity(spiffe_id=WEB, issued_before=NOW))
    assert revocations.of_identity(WEB, None, NOW)
    assert revocations.of_identity(WEB, NOW - SECOND, NOW)
    assert not revocations.of_identity(WEB, NOW, NOW)


def test_a_jwt_key_of_one_trust_domain_is_not_that_of_another() -> None:
    revocations = of(RevokedJwtKey(trust_domain=DOMAIN, key_id="1"))
    assert revocations.of_jwt_key(DOMAIN, "1", NOW)
    assert not revocations.of_jwt_key(TrustDomain.parse("other.org"), "1", NOW)


def test_a_revocation_ends_when_nothing_it_means_can_be_valid() -> None:
    revocations = of(RevokedIdentity(spiffe_id=WEB), expires_at=NOW + SECOND)
    assert revocations.of_certificate(FACTS, NOW)
    assert not revocations.of_certificate(FACTS, NOW + SECOND)
    assert len(revocations.merged((), 1, NOW + SECOND)) == 0


def test_an_old_list_takes_nothing_back() -> None:
    full = of(RevokedIdentity(spiffe_id=WEB), RevokedAgent(agent_id=AGENT, mark=77))
    assert full.merged((), 0, NOW) is full
    old = replace(full.entries[0], target=RevokedIdentity(spiffe_id=WEB, issued_before=NOW), version=0)
    assert full.merged([old], 0, NOW) is full
    assert full.merged((), 1, NOW).version == 2


def test_a_newer_revocation_of_the_same_thing_replaces_the_older() -> None:
    first = of(RevokedIdentity(spiffe_id=WEB))
    lifted = replace(first.entries[0], target=RevokedIdentity(spiffe_id=WEB, issued_before=NOW), version=5)
    after = first.merged([lifted], 5, NOW)
    assert (after.version, after.entries) == (5, (lifted,))
    assert first.issuing(WEB, NOW)
    assert not after.issuing(WEB, NOW)
    assert after.earliest_start(WEB) == NOW


@given(st.permutations(range(6)), st.lists(st.integers(0, 5), max_size=6))
def test_in_whatever_order_changes_come_and_however_often_the_end_is_the_same(
    order: list[int], again: list[int]
) -> None:
    changes = [
        Revocation(target=RevokedCertificate(authority_id="aa", serial=1 + n % 3), at=NOW, version=n + 1)
        for n in range(6)
    ]
    merged = Revocations()
    for number in [*order, *again]:
        merged = merged.merged([changes[number]], 0, NOW)
    assert merged.version == 6
    assert set(merged.entries) == set(changes[3:])


def test_changes_since_a_version_are_those_after_it_in_order() -> None:
    revocations = of(*(RevokedCertificate(authority_id="aa", serial=n) for n in range(1, 9)))
    assert [each.version for each in revocations.since(5)] == [6, 7, 8]
    assert revocations.since(8) == ()
    assert len(revocations.since(0)) == 8


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("identity", "spiffe://example.org"),
        ("identity", "http://example.org/x"),
        ("certificate", "aa/0"),
        ("certificate", "aa/-1"),
        ("certificate", f"aa/{2**159}"),
        ("certificate", "AA/1"),
        ("certificate", "1"),
        ("authority", "aa"),
        ("authority", "aa" * 32 + "/"),
        ("authority", "AA" * 32),
        ("authority", "aa" * 32 + "/" + "bb" * 32 + "/"),
        ("authority", "aa" * 32 + "/" + "bb" * 32 + "/cc/dd"),
        ("jwt-key", "example.org"),
        ("jwt-key", "/kid"),
        ("agent", "spiffe://example.org/a"),
        ("agent", "spiffe://example.org/a#" + "0" * 16),
        ("agent", "spiffe://example.org/a#" + "g" * 16),
        ("certificate", "a" * 10_000),
        ("everything", "*"),
        ("", ""),
    ],
)
def test_what_names_nothing_is_refused(kind: str, name: str) -> None:
    with pytest.raises(VestibuleError) as caught:
        parse_target(kind, name)
    assert caught.value.code.code in ("VST1400", "VST1403")


@given(st.text(max_size=30), st.text(max_size=200))
def test_whatever_is_sent_is_read_or_refused(kind: str, name: str) -> None:
    try:
        parse_target(kind, name)
    except VestibuleError:
        return


def test_a_list_that_names_a_thing_twice_is_none() -> None:
    one = Revocation(target=RevokedIdentity(spiffe_id=WEB), at=NOW, version=1)
    with pytest.raises(VestibuleError, match="twice"):
        Revocations(1, (one, replace(one, target=RevokedIdentity(spiffe_id=WEB, issued_before=NOW))))


def test_a_refusal_tells_what_and_why_but_neither_note_nor_actor() -> None:
    why = Revocation(target=RevokedIdentity(spiffe_id=WEB), at=NOW, note="secret", actor="local:uid=7")
    assert str(why) == f"identity {WEB} was revoked at 2026-05-01T12:00:00Z (unspecified)"


def test_a_question_costs_microseconds_among_a_hundred_thousand() -> None:
    revocations = of(*(RevokedCertificate(authority_id="aa", serial=n) for n in range(1, 100_001)))
    rounds, best = 2000, 1.0
    for _ in range(5):  # the machine may be busy: the best of some
        began = time.perf_counter()
        for _ in range(rounds):
            revocations.of_certificate(FACTS, NOW)
        best = min(best, (time.perf_counter() - began) / rounds)
    assert best < 50e-6
