"""The trust domain's bundle, put together from what belongs in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vestibule.records import Authority, AuthorityState
from vestibule.spiffe import JwtAuthority, TrustBundle


def composed(
    before: TrustBundle,
    own: Sequence[Authority],
    roots: tuple[Sequence[bytes], set[bytes]],
    jwt: tuple[JwtAuthority, ...],
    wit: tuple[JwtAuthority, ...] = (),
    *,
    refresh_hint: int,
) -> TrustBundle:
    """The bundle after ``before``: that very one if nothing changed, else the next in sequence.

    1. Self-signed authorities are in it themselves, but for revoked ones.
    2. Others are not: the roots are, that they lead to.  ``roots`` also says which of them are tainted.
    """
    local = [  # 1
        each for each in own if not each.upstream_authority_id and each.state is not AuthorityState.REVOKED
    ]
    certificates = [*(each.chain[0] for each in local), *roots[0]]  # 2
    tainted = {each.chain[0] for each in local if each.state is AuthorityState.TAINTED} | roots[1]
    after = replace(
        before,
        x509_authorities=_in_order(before.x509_authorities, certificates),
        tainted_x509=frozenset(tainted),
        jwt_authorities=jwt,
        wit_authorities=wit,
    )
    if after == before:
        return before  # the hint alone makes no other bundle
    return replace(after, sequence=before.sequence + 1, refresh_hint=refresh_hint)


def _in_order(before: Sequence[bytes], found: Sequence[bytes]) -> tuple[bytes, ...]:
    """Each once; what was there stays where it was, so that no other order makes another bundle of it."""
    kept = [der for der in before if der in found]
    return tuple(dict.fromkeys([*kept, *found]))
