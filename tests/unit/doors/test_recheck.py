"""A verdict about a caller's chain lasts while nothing that it rests on changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from vestibule.doors.recheck import Verified
from vestibule.spiffe import Revocations, TrustDomain
from vestibule.testing import TestAuthority
from vestibule.testing.clock import START

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
AUTHORITY = TestAuthority(TrustDomain.parse("example.org"), now=START, ttl=10 * HOUR)
BUNDLE = AUTHORITY.bundle
CHAIN = AUTHORITY.svid("/spire/agent/a", now=START, ttl=2 * HOUR).chain
NOTHING = Revocations()


def test_it_lasts_until_the_first_certificate_ends_and_counts_for_no_time_before() -> None:
    verified = Verified.now(CHAIN, BUNDLE, NOTHING, START)
    assert verified.holds(BUNDLE, NOTHING, START)
    assert verified.holds(replace(BUNDLE), NOTHING, START + 2 * HOUR - SECOND)
    assert not verified.holds(BUNDLE, NOTHING, START + 2 * HOUR + SECOND)
    assert not verified.holds(BUNDLE, NOTHING, START - SECOND)


def test_another_bundle_or_list_of_revocations_ends_it() -> None:
    verified = Verified.now(CHAIN, BUNDLE, NOTHING, START)
    assert not verified.holds(None, NOTHING, START)
    assert not verified.holds(replace(BUNDLE, x509_authorities=()), NOTHING, START)
    assert not verified.holds(BUNDLE, Revocations(), START)


def test_an_authority_that_ends_before_the_chain_ends_it_too() -> None:
    short = TestAuthority(TrustDomain.parse("example.org"), now=START, ttl=HOUR)
    both = replace(BUNDLE, x509_authorities=(*BUNDLE.x509_authorities, *short.bundle.x509_authorities))
    verified = Verified.now(CHAIN, both, NOTHING, START)
    assert verified.holds(both, NOTHING, START + HOUR - SECOND)
    assert not verified.holds(both, NOTHING, START + HOUR + SECOND)


def test_a_chain_with_a_certificate_that_has_ended_is_verified_again_and_again() -> None:
    late = START + 3 * HOUR
    assert not Verified.now(CHAIN, BUNDLE, NOTHING, late).holds(BUNDLE, NOTHING, late)


def test_an_authority_that_ended_long_ago_is_of_no_account() -> None:
    short = TestAuthority(TrustDomain.parse("example.org"), now=START, ttl=HOUR)
    both = replace(BUNDLE, x509_authorities=(*BUNDLE.x509_authorities, *short.bundle.x509_authorities))
    later = START + HOUR + timedelta(minutes=30)
    assert Verified.now(CHAIN, both, NOTHING, later).holds(both, NOTHING, later + 60 * SECOND)
    just_now = START + HOUR + SECOND
    assert not Verified.now(CHAIN, both, NOTHING, just_now).holds(both, NOTHING, just_now)
