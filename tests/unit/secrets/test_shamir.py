"""Shamir's secret sharing."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vestibule.secrets.seals.shamir import combine, inverse, multiply, split


def test_multiplication_is_that_of_the_field() -> None:
    assert multiply(0x57, 0x83) == 0xC1  # FIPS 197, section 4.2
    assert multiply(0x57, 0x13) == 0xFE
    assert all(multiply(value, inverse(value)) == 1 for value in range(1, 256))
    assert all(multiply(value, 1) == value and multiply(value, 0) == 0 for value in range(256))


def test_any_threshold_of_shares_gives_the_secret() -> None:
    secret = bytes(range(32))
    shares = split(secret, 5, 3)
    assert all(combine(chosen) == secret for chosen in combinations(shares, 3))
    assert combine(shares) == secret
    assert all(combine(chosen) != secret for chosen in combinations(shares, 2))


def test_one_share_less_says_nothing() -> None:
    # Whatever the missing share's value were, there is a secret that it would give: all are equally likely.
    shares = split(b"\x07", 3, 2)
    guesses = {combine([shares[0], bytes([value, 2])]) for value in range(256)}
    assert len(guesses) == 256


@settings(max_examples=60, deadline=None)
@given(st.data(), st.binary(min_size=1, max_size=40), st.integers(1, 12))
def test_shares_come_together_again(data: st.DataObject, secret: bytes, number: int) -> None:
    threshold = data.draw(st.integers(1, number))
    shares = split(secret, number, threshold)
    chosen = data.draw(st.permutations(shares))[: data.draw(st.integers(threshold, number))]
    assert combine(chosen) == secret
    wrong = bytearray(chosen[0])
    wrong[data.draw(st.integers(0, len(secret) - 1))] ^= data.draw(st.integers(1, 255))
    assert combine([bytes(wrong), *chosen[1:threshold]]) != secret


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=5), min_size=1, max_size=4))
def test_anything_else_is_refused_or_gives_something(shares: list[bytes]) -> None:
    if any(not share for share in shares):
        return
    try:
        assert len(combine(shares)) == len(shares[0]) - 1
    except ValueError:
        points = [share[-1] for share in shares]
        assert 0 in points or len(set(points)) < len(points) or len(set(map(len, shares))) > 1


@pytest.mark.parametrize(("shares", "threshold"), [(0, 0), (2, 3), (256, 2), (3, 0)])
def test_plans_that_make_no_sense(shares: int, threshold: int) -> None:
    with pytest.raises(ValueError, match="threshold"):
        split(b"secret", shares, threshold)
