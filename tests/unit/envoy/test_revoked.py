"""What fills the slots: from a list of revocations to what proxies ask."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from hypothesis import given
from hypothesis import strategies as st

from vestibule.envoy.revoked import NOBODY, Refused, slots, written
from vestibule.envoy.written_down import from_on
from vestibule.spiffe import (
    Reason,
    Revocation,
    RevokedAgent,
    RevokedAuthority,
    RevokedCertificate,
    RevokedIdentity,
    RevokedJwtKey,
    SpiffeId,
    TrustDomain,
)
from vestibule.spiffe.revocations import MARK_BITS, Target
from vestibule.xds.inspection import inspect
from vestibule.xds.resources import Resource

NOW = datetime(2026, 11, 22, tzinfo=UTC)
WEB = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")
SECONDS = st.integers(min_value=0, max_value=4_000_000_000)


def of(target: Target, reason: Reason = Reason.UNSPECIFIED) -> Refused:
    return Refused.of([Revocation(target=target, at=NOW, reason=reason, version=1)])


def body(resource: Resource) -> rbac_pb2.RBAC:
    from envoy.config.core.v3 import extension_pb2

    config = extension_pb2.TypedExtensionConfig.FromString(resource.body).typed_config
    return rbac_pb2.RBAC.FromString(config.value)


@given(since=SECONDS, born=SECONDS)
def test_a_certificate_counts_from_the_very_second_on(since: int, born: int) -> None:
    assert bool(re.fullmatch(from_on(since), str(born))) == (born >= since)


@given(since=SECONDS, born=st.sampled_from(["", "-", "0x10", "1e12", "-5", " 4000000001"]))
def test_what_is_no_number_counts_as_old(since: int, born: str) -> None:
    assert not re.fullmatch(from_on(since), born)


@given(mark=st.integers(min_value=1, max_value=2**64 - 1), low=st.integers(min_value=0, max_value=2**64 - 1))
def test_an_agents_mark_is_how_the_serials_of_all_it_had_issued_begin(mark: int, low: int) -> None:
    (beginning,) = of(RevokedAgent(agent_id=WEB, mark=mark)).marks
    assert written(mark << MARK_BITS | low).startswith(beginning)
    assert len(written(mark << MARK_BITS | low)) == len(beginning) + 16


@pytest.mark.parametrize(
    ("serial", "text"), [(0xABC, "0abc"), (0xABCD, "abcd"), (1, "01"), (2**159 - 1, "7f" + "ff" * 19)]
)
def test_serial_numbers_are_written_in_whole_bytes(serial: int, text: str) -> None:
    assert written(serial) == text


def test_of_a_signing_certificate_also_its_place_in_chains_is_looked_at() -> None:
    target = RevokedCertificate(authority_id="ab" * 20, serial=0xABC)
    assert not of(target).above
    assert of(target, Reason.CA_COMPROMISE).above == ("0abc",)


def test_an_authority_is_known_by_its_fingerprint_and_in_issuers_names_only_by_a_whole_identifier() -> None:
    whole = of(RevokedAuthority(fingerprint="ab" * 32, key="cd" * 32, authority_id="ef" * 20))
    assert (whole.fingerprints, whole.issuers) == (("ab" * 32,), ("ef" * 20,))
    # A short one would be found in anybody's name.
    assert not of(RevokedAuthority(fingerprint="ab" * 32, key="cd" * 32, authority_id="ef")).issuers


def test_keys_of_tokens_fill_no_slot() -> None:
    assert of(RevokedJwtKey(trust_domain=TrustDomain.parse("example.org"), key_id="k")) == NOBODY


def test_a_slot_that_is_filled_ends_with_letting_others_through() -> None:
    everything = Refused(
        serials=("01",), marks=("ab" * 8,), identities=((str(WEB), None), (str(WEB) + "2", 5)), above=("02",)
    )
    matcher = body(slots(everything)[True]).matcher
    while matcher.HasField("on_no_match") and matcher.on_no_match.HasField("matcher"):
        matcher = matcher.on_no_match.matcher
    assert b"vestibule/not-revoked" in matcher.on_no_match.action.typed_config.value


def test_many_authorities_are_looked_for_in_parts() -> None:
    many = Refused(fingerprints=tuple(f"{number:064x}" for number in range(1000)))
    found = slots(many)[True].body
    assert found.count(b"vestibule/revoked/authority") == 4


def test_equal_lists_make_equal_slots_and_none_is_walked_through_before_it_is_sent() -> None:
    one, other = (of(RevokedIdentity(spiffe_id=WEB)) for _ in range(2))
    assert slots(one) == slots(other)
    assert all(not inspect(each).findings for each in slots(one).values())
