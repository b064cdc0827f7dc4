"""Whom to talk to.  An authorizer is asked after the peer has proved its SPIFFE ID, never instead of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from vestibule.spiffe import SpiffeId, TrustDomain

Authorizer: TypeAlias = Callable[[SpiffeId], bool]
"""Says whether a peer with this ID is welcome.  Its ``str`` is shown to whoever looks into a refusal."""


@dataclass(frozen=True, slots=True)
class _Ids:
    ids: frozenset[SpiffeId]

    def __call__(self, spiffe_id: SpiffeId) -> bool:
        return spiffe_id in self.ids

    def __str__(self) -> str:
        return ", ".join(sorted(map(str, self.ids)))


@dataclass(frozen=True, slots=True)
class _MemberOf:
    trust_domain: TrustDomain

    def __call__(self, spiffe_id: SpiffeId) -> bool:
        return spiffe_id.trust_domain == self.trust_domain

    def __str__(self) -> str:
        return f"members of {self.trust_domain}"


def authorize_ids(*ids: SpiffeId | str) -> Authorizer:
    """Exactly these IDs, at least one.  Raises: VST1400 for a text that is none; ValueError for none at all."""
    if not ids:
        raise ValueError("an authorizer without any ID would refuse everybody")
    return _Ids(frozenset(SpiffeId.parse(each) if isinstance(each, str) else each for each in ids))


def authorize_member_of(trust_domain: TrustDomain | str) -> Authorizer:
    """Every workload of one trust domain.  Raises: VST1400."""
    return _MemberOf(TrustDomain.parse(str(trust_domain)))
