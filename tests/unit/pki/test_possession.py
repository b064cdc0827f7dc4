"""The proof that somebody still has the key of a certificate that has expired."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vestibule.pki.keys import generate_key, public_key_der
from vestibule.pki.possession import Statement, holds, sign_statement
from vestibule.spiffe import SpiffeId

STATEMENT = Statement(
    spiffe_id=SpiffeId.parse("spiffe://example.org/spire/agent/join_token/t"),
    serial="12",
    challenge=b"c" * 32,
    server_leaf=b"s" * 32,
    csr=b"csr",
)
CHANGES: tuple[dict[str, object], ...] = (
    {"spiffe_id": SpiffeId.parse("spiffe://example.org/spire/agent/join_token/u")},
    {"spiffe_id": SpiffeId.parse("spiffe://other.org/spire/agent/join_token/t")},
    {"serial": "13"},
    {"challenge": b"d" * 32},
    {"server_leaf": b"t" * 32},
    {"csr": b"csr2"},
)


def test_the_holder_of_the_key_is_believed() -> None:
    key = generate_key()
    assert holds(STATEMENT, sign_statement(STATEMENT, key), public_key_der(key.public_key()))


@pytest.mark.parametrize("change", CHANGES, ids=lambda each: next(iter(each)))
def test_a_proof_for_anything_else_is_worth_nothing(change: dict[str, object]) -> None:
    key = generate_key()
    signature = sign_statement(STATEMENT, key)
    assert not holds(replace(STATEMENT, **change), signature, public_key_der(key.public_key()))  # type: ignore[arg-type]


def test_fields_cannot_lend_each_other_their_bytes() -> None:
    assert (
        replace(STATEMENT, serial="1", challenge=b"2").signed
        != replace(STATEMENT, serial="12", challenge=b"").signed
    )


def test_another_key_or_none_at_all_proves_nothing() -> None:
    signature = sign_statement(STATEMENT, generate_key())
    assert not holds(STATEMENT, signature, public_key_der(generate_key().public_key()))
    assert not holds(STATEMENT, signature, b"no key")
    assert not holds(STATEMENT, b"no signature", public_key_der(generate_key().public_key()))
    for foreign in (ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)):
        der = foreign.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert not holds(STATEMENT, signature, der)
