"""Whom to talk to.  An authorizer is asked after the peer has proved its SPIFFE ID, never instead of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from vestibule.sdk.codes import MALFORMED_PATTERN
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.spiffe.ids import SCHEME

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


@dataclass(frozen=True, slots=True)
class _Path:
    """One pattern: ``segments`` of a path, where ``*`` is any one; ``below``: and whatever is under it."""

    trust_domain: TrustDomain
    segments: tuple[str, ...]
    below: bool

    @classmethod
    def parse(cls, text: str) -> _Path:
        if text[: len(SCHEME)].lower() != SCHEME:
            raise MALFORMED_PATTERN.error(f"{text[:120]!r} does not start with {SCHEME}")
        domain, _, path = text[len(SCHEME) :].partition("/")
        segments = path.split("/") if path else []
        below = segments[-1:] == ["**"]
        if below:
            segments.pop()
        if not segments and not below:
            raise MALFORMED_PATTERN.error(
                f"{text[:120]!r} has no path, so it is not the pattern of a workload"
            )
        # What is left has to be an ID once something stands for each star.
        SpiffeId.of(
            TrustDomain.parse(domain), "".join(f"/{'x' if each == '*' else each}" for each in segments)
        )
        return cls(TrustDomain.parse(domain), tuple(segments), below)

    def __call__(self, spiffe_id: SpiffeId) -> bool:
        if spiffe_id.trust_domain != self.trust_domain:
            return False
        found = spiffe_id.path.split("/")[1:]
        if len(found) < len(self.segments) or (len(found) > len(self.segments) and not self.below):
            return False
        return all(want in ("*", have) for want, have in zip(self.segments, found, strict=False))

    def __str__(self) -> str:
        return f"{self.trust_domain.id}{''.join(f'/{each}' for each in self.segments)}{'/**' if self.below else ''}"


@dataclass(frozen=True, slots=True)
class _AnyOf:
    authorizers: tuple[Authorizer, ...]

    def __call__(self, spiffe_id: SpiffeId) -> bool:
        return any(each(spiffe_id) for each in self.authorizers)

    def __str__(self) -> str:
        return ", ".join(map(str, self.authorizers))


@dataclass(frozen=True, slots=True)
class _If:
    function: Authorizer
    whom: str

    def __call__(self, spiffe_id: SpiffeId) -> bool:
        # What is not exactly yes is no: a coroutine, for one, would be "true".
        return self.function(spiffe_id) is True

    def __str__(self) -> str:
        return self.whom


def authorize_ids(*ids: SpiffeId | str) -> Authorizer:
    """Exactly these IDs, at least one.  Raises: VST1400 for a text that is none; ValueError for none at all."""
    if not ids:
        raise ValueError("an authorizer without any ID would refuse everybody")
    return _Ids(frozenset(SpiffeId.parse(each) if isinstance(each, str) else each for each in ids))


def authorize_member_of(trust_domain: TrustDomain | str) -> Authorizer:
    """Every workload of one trust domain.  Raises: VST1400."""
    return _MemberOf(TrustDomain.parse(str(trust_domain)))


def authorize_paths(*patterns: str) -> Authorizer:
    """IDs that look like one of these, segment by segment: ``spiffe://example.org/ns/*/sa/payments``.

    ``*`` stands for one whole segment; ``/**`` at the end for what stands before it and everything below, as in the
    rules of the intent.  Raises: VST2416, VST1400; ValueError for none at all.
    """
    if not patterns:
        raise ValueError("an authorizer without any pattern would refuse everybody")
    return authorize_any_of(*map(_Path.parse, patterns))


def authorize_any_of(*authorizers: Authorizer) -> Authorizer:
    """Whom any of these wants.  Raises: ValueError for none at all."""
    if not authorizers:
        raise ValueError("an authorizer of none would refuse everybody")
    return authorizers[0] if len(authorizers) == 1 else _AnyOf(authorizers)


def authorize_if(function: Authorizer, whom: str) -> Authorizer:
    """Whom ``function`` returns True for; ``whom`` tells it to whoever looks into a refusal."""
    return _If(function, whom)
