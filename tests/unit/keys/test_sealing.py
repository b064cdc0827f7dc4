"""Sealed data opens with its key, for its purpose, unchanged; or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestibule.errors import VestibuleError
from vestibule.keys import Sealer

KEK = bytes(range(32))
SEALER = Sealer(KEK)


@given(st.binary(max_size=200), st.binary(max_size=20))
def test_sealed_data_opens_again(plaintext: bytes, context: bytes) -> None:
    sealed = SEALER.seal(plaintext, context=context)
    assert Sealer(KEK).unseal(sealed, context=context) == plaintext


@given(st.binary(max_size=50), st.integers(0), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(plaintext: bytes, place: int, change: int) -> None:
    sealed = bytearray(SEALER.seal(plaintext, context=b"c"))
    sealed[place % len(sealed)] ^= change
    with pytest.raises(VestibuleError, match="VST1102"):
        SEALER.unseal(bytes(sealed), context=b"c")


@given(st.binary(max_size=80))
def test_any_bytes_are_refused(sealed: bytes) -> None:
    with pytest.raises(VestibuleError, match="VST1102"):
        SEALER.unseal(sealed, context=b"c")


def test_another_context_or_key_does_not_open_it() -> None:
    sealed = SEALER.seal(b"secret", context=b"one")
    with pytest.raises(VestibuleError, match="VST1102"):
        SEALER.unseal(sealed, context=b"two")
    with pytest.raises(VestibuleError, match="VST1102"):
        Sealer(bytes(32)).unseal(sealed, context=b"one")


def test_sealing_twice_gives_different_bytes() -> None:
    assert SEALER.seal(b"same", context=b"") != SEALER.seal(b"same", context=b"")


def test_the_key_is_in_no_repr() -> None:
    assert KEK.hex() not in repr(SEALER)
    assert repr(KEK)[2:-1] not in repr(SEALER)


def test_a_short_key_is_a_programming_error() -> None:
    with pytest.raises(ValueError):
        Sealer(b"short")
