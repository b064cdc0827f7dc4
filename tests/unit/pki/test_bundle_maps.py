"""SPIFFE bundle maps (SPIFFE_Trust_Domain_and_Bundle.md, section 5; rule B4)."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from vestibule.errors import VestibuleError
from vestibule.pki.bundles import from_bundle_map, to_bundle_map
from vestibule.testing import TestAuthority

ONE, TWO = TestAuthority("one.org").jwt_bundle, TestAuthority("two.org").jwt_bundle


def test_a_map_is_read_as_it_was_written() -> None:
    assert from_bundle_map(to_bundle_map([TWO, ONE])) == {ONE.trust_domain: ONE, TWO.trust_domain: TWO}
    assert from_bundle_map(to_bundle_map([])) == {}


def test_hints_are_left_out_and_the_order_is_that_of_the_names() -> None:
    document = json.loads(to_bundle_map([TWO, replace(ONE, refresh_hint=60)]))
    assert list(document["trust_domains"]) == ["one.org", "two.org"]
    assert "spiffe_refresh_hint" not in document["trust_domains"]["one.org"]


@pytest.mark.parametrize(
    "document",
    [
        b"{}",
        b"[]",
        b'{"trust_domains": []}',
        b'{"trust_domains": {}, "trust_domains": {}}',
        b'{"trust_domains": {"a.org": {"keys": []}, "a.org": {"keys": []}}}',
        b'{"trust_domains": {"a.org": {"keys": []}, "A.org": {"keys": []}}}',
        b'{"trust_domains": {"a.org": {"keys": []}, "spiffe://a.org": {"keys": []}}}',
        b'{"trust_domains": {"a.org": {}}}',
        b'{"trust_domains": {"a.org": []}}',
        b'{"trust_domains": {"a.org": {"keys": []}, "not a domain": {"keys": []}}}',
        b'{"trust_domains": {"": {"keys": []}}}',
    ],
)
def test_b4_a_map_that_says_two_things_or_nothing_is_refused_as_a_whole(document: bytes) -> None:
    with pytest.raises(VestibuleError, match=r"VST1009|VST1400"):
        from_bundle_map(document)
