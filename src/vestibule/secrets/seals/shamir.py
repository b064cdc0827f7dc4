"""Shamir's secret sharing over GF(2^8), byte by byte ("How to Share a Secret", CACM 1979).

A share is the value of one polynomial per byte of the secret, at the share's own point from 1 to 255, which is its last
byte: the form that Vault's shares have.  With one share less than the threshold every secret is equally likely.

Multiplication uses neither tables nor branches on what is secret, so that neither caches nor the flow of the program
depend on it; how long Python's own arithmetic takes for numbers below 2^16 does not depend on their values either, as
far as one can tell from outside.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

_POLYNOMIAL: Final = 0x11B


def split(secret: bytes, shares: int, threshold: int) -> tuple[bytes, ...]:
    """Shares of ``secret``, any ``threshold`` of which give it back.  All of them are secrets."""
    if not 1 <= threshold <= shares <= 255:
        raise ValueError("a threshold is from 1 to the number of shares, of which there are 255 at most")
    rows = [secret, *(secrets.token_bytes(len(secret)) for _ in range(threshold - 1))]
    return tuple(_at(point, rows) + bytes([point]) for point in range(1, shares + 1))


def combine(shares: Sequence[bytes]) -> bytes:
    """The secret that the shares give; what it is if some are wrong, or too few, nobody can tell from it."""
    points = [share[-1] for share in shares]
    if 0 in points or len(set(points)) < len(points) or len({len(share) for share in shares}) != 1:
        raise ValueError("shares have points of their own, and one length")
    secret = bytes(len(shares[0]) - 1)
    for share in shares:
        weight = _weight(share[-1], points)
        secret = bytes(have ^ multiply(weight, value) for have, value in zip(secret, share[:-1], strict=True))
    return secret


def _at(point: int, rows: Sequence[bytes]) -> bytes:
    """The value of the polynomials at a point (Horner); the first row holds their constant terms."""
    values = rows[-1]
    for row in reversed(rows[:-1]):
        values = bytes(multiply(point, value) ^ term for value, term in zip(values, row, strict=True))
    return values


def _weight(point: int, points: Sequence[int]) -> int:
    """Lagrange's coefficient at 0."""
    weight = 1
    for other in points:
        if other != point:
            weight = multiply(weight, multiply(other, inverse(other ^ point)))
    return weight


def multiply(first: int, second: int) -> int:
    """In GF(2^8) modulo x^8 + x^4 + x^3 + x + 1."""
    product = 0
    for _ in range(8):
        product ^= first & -(second & 1)
        first = (first << 1) ^ (_POLYNOMIAL & -(first >> 7))
        second >>= 1
    return product


def inverse(value: int) -> int:
    """``value`` to the power of 254; 0 for 0."""
    square, result = value, 1
    for _ in range(7):
        square = multiply(square, square)
        result = multiply(result, square)
    return result
