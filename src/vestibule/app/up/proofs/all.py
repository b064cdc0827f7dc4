"""The set of proofs, in the order in which they are tried and reported.

Nine hold for every run.  One more each is about secrets and tokens, where the intent has rules for them.  The last one
needs a boundary that keeps other users of the machine out, and root, who alone can act as another user to try it.
"""

from __future__ import annotations

import os
from typing import Final

from vestibule.app.up.plan import Plan
from vestibule.app.up.proofs import (
    call_allowed,
    call_denied,
    foreign_ca_refused,
    identity_attested,
    other_uid_refused,
    plaintext_refused,
    policy_live,
    rotation_lossless,
    secret_read,
    server_outage_survived,
    token_vended,
    wrong_identity_refused,
)
from vestibule.app.up.proofs.proof import Proof
from vestibule.app.up.secrets_edges import readable
from vestibule.app.up.token_edges import mintable
from vestibule.records import Boundary

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


def proofs_for(plan: Plan) -> tuple[Proof, ...]:
    """What can and must be proved of this run."""
    proofs = PROOFS
    if readable(plan.intent, plan.services) is not None:
        proofs = (*proofs, secret_read.PROOF)
    if mintable(plan.intent, plan.services) is not None:
        proofs = (*proofs, token_vended.PROOF)
    if plan.boundary is Boundary.TRUST or os.geteuid() != 0:
        return proofs
    return (*proofs, other_uid_refused.PROOF)
