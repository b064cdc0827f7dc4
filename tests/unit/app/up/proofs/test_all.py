"""The set of proofs is what was promised: nine, in this order, each with a file of its own."""

from __future__ import annotations

import importlib

import pytest

from vestibule.app.up.proofs.all import PROOFS
from vestibule.app.up.proofs.proof import Proof

PROMISED = (
    "identity-attested",
    "call-allowed",
    "call-denied",
    "plaintext-refused",
    "foreign-ca-refused",
    "wrong-identity-refused",
    "rotation-lossless",
    "policy-live",
    "server-outage-survived",
)


def test_there_are_exactly_the_nine_proofs_in_their_order() -> None:
    assert tuple(proof.id for proof in PROOFS) == PROMISED


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.id)
def test_each_proof_has_a_file_named_after_it(proof: Proof) -> None:
    module = importlib.import_module(f"vestibule.app.up.proofs.{proof.id.replace('-', '_')}")
    assert module.PROOF is proof
    assert module.__doc__
