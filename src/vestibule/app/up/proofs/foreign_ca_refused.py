"""The right name from the wrong authority is not enough; no certificate is not enough either."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from vestibule.app.up.dialling import NoAnswer
from vestibule.app.up.proofs.proof import CannotTry, Disproved, Proof, refusal
from vestibule.app.up.proofs.scene import LiveEdge, Scene
from vestibule.pki import profiles
from vestibule.pki.keys import generate_key, key_to_pkcs8
from vestibule.spiffe import SpiffeId, X509Svid

TTL: Final = timedelta(minutes=10)


async def attempt(scene: Scene) -> str:
    """An allowed caller's SPIFFE ID signed by an authority of our own; none at all; then the real one."""
    if not scene.edges:
        raise CannotTry("no allowed call shows that the callee would answer")
    edge = scene.edges[0]
    caller = scene.identity(edge.route.caller)
    forged = await _refusal(scene, edge, forge(caller), f"{caller}, signed by a foreign authority,")
    await _refusal(scene, edge, None, "a caller without a certificate")
    real = await scene.ask_directly(edge.route, edge.request, await scene.mesh.operator.mint(caller))
    if not real.ok:
        raise Disproved(f"{edge.route.callee} also refuses {caller} from the real authority: {real}")
    return f"{caller} from a foreign authority: {forged}; from the real one: {real.status}"


async def _refusal(scene: Scene, edge: LiveEdge, svid: X509Svid | None, who: str) -> str:
    try:
        answer = await scene.ask_directly(edge.route, edge.request, svid)
    except NoAnswer as error:
        return refusal(error, who)
    # Even a 403 would mean that the connection was accepted.
    raise Disproved(f"{who} was answered by {edge.route.callee}: {answer}")


def forge(spiffe_id: SpiffeId) -> X509Svid:
    """An SVID that is flawless but for its authority, which is made here and thrown away."""
    now, authority_key, key = datetime.now(UTC), generate_key(), generate_key()
    valid = profiles.lifetime(now, TTL)
    authority = profiles.self_signed_ca(spiffe_id.trust_domain, authority_key.public_key(), valid)
    signer = authority.sign(authority_key, SHA256()).public_bytes(Encoding.DER)
    issuer = profiles.Issuer.of(signer, spiffe_id.trust_domain)
    leaf = profiles.svid(spiffe_id, key.public_key(), valid, issuer).sign(authority_key, SHA256())
    return X509Svid(
        spiffe_id=spiffe_id,
        chain=(leaf.public_bytes(Encoding.DER),),
        key=key_to_pkcs8(key),
        serial=leaf.serial_number,
        not_before=valid.not_before,
        not_after=valid.not_after,
    )


PROOF: Final = Proof(
    id="foreign-ca-refused", claim="the right SPIFFE ID from another authority is refused", attempt=attempt
)
