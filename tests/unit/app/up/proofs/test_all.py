"""The set of proofs is what was promised: nine, in this order, each with a file of its own; and one more for root."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import cast

import pytest

from vestibule.app.up.plan import Plan
from vestibule.app.up.proofs import other_uid_refused, secret_read, token_vended
from vestibule.app.up.proofs.all import PROOFS, proofs_for
from vestibule.app.up.proofs.proof import Proof
from vestibule.intent import Intent
from vestibule.intent.model import Mesh
from vestibule.records import Boundary

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


@pytest.mark.parametrize(
    "proof",
    [*PROOFS, secret_read.PROOF, token_vended.PROOF, other_uid_refused.PROOF],
    ids=lambda proof: proof.id,
)
def test_each_proof_has_a_file_named_after_it(proof: Proof) -> None:
    module = importlib.import_module(f"vestibule.app.up.proofs.{proof.id.replace('-', '_')}")
    assert module.PROOF is proof
    assert module.__doc__


def test_whether_other_users_are_kept_out_is_proved_where_they_are_and_somebody_can_act_as_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def promised(boundary: Boundary, uid: int) -> tuple[str, ...]:
        monkeypatch.setattr("os.geteuid", lambda: uid)
        plan = Plan(directory=Path("/"), intent=Intent(mesh=cast(Mesh, None)), apps=(), boundary=boundary)
        return tuple(each.id for each in proofs_for(plan))

    assert promised(Boundary.TRUST, 0) == promised(Boundary.GUARD, 1000) == PROMISED
    assert promised(Boundary.GUARD, 0) == promised(Boundary.UNIX, 0) == (*PROMISED, "other-uid-refused")
