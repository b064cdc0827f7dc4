"""Private keys in and out."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from vestibule.errors import VestibuleError
from vestibule.pki.keys import generate_key, key_from_pkcs8, key_to_pkcs8


def test_a_key_survives_being_written_and_read() -> None:
    key = generate_key()
    assert isinstance(key.curve, ec.SECP256R1)
    assert key_from_pkcs8(key_to_pkcs8(key)).private_numbers() == key.private_numbers()


def test_an_encrypted_key_is_malformed() -> None:
    der = generate_key().private_bytes(Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    with pytest.raises(VestibuleError, match="VST1010"):
        key_from_pkcs8(der)


def test_a_key_of_another_kind_is_unsupported() -> None:
    key = rsa.generate_private_key(65537, 2048)
    with pytest.raises(VestibuleError, match="VST1003"):
        key_from_pkcs8(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_code(der: bytes) -> None:
    with pytest.raises(VestibuleError, match="VST10"):
        key_from_pkcs8(der)
