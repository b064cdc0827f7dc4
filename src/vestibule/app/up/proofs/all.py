"""The set of proofs, in the order in which they are tried and reported."""

from __future__ import annotations

from typing import Final

from vestibule.app.up.proofs import (
    call_allowed,
    call_denied,
    foreign_ca_refused,
    identity_attested,
    plaintext_refused,
    policy_live,
    rotation_lossless,
    server_outage_survived,
    wrong_identity_refused,
)
from vestibule.app.up.proofs.proof import Proof

PROOFS: Final[tuple[Proof, ...]] = (
    identity_attested.PROOF,
    call_allowed.PROOF,
    call_denied.PROOF,
    plaintext_refused.PROOF,
    foreign_ca_refused.PROOF,
    wrong_identity_refused.PROOF,
    rotation_lossless.PROOF,
    policy_live.PROOF,
    server_outage_survived.PROOF,
)
