"""Patterns of SPIFFE IDs: one identity, or one and everything below it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from vestibule.policy.codes import MALFORMED_IDENTITY_PATTERN
from vestibule.spiffe import SpiffeId

BELOW: Final = "/**"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityMatch:
    """``id`` itself and, if ``below`` is set, every ID below it, segment by segment.

    ``spiffe://example.org/ns/a/**`` is ``/ns/a`` and ``/ns/a/b``, never ``/ns/ab``.  ``until``: a membership that ends
    then; ``matches`` and ``covers`` say who is named at all, ``holds`` whether it still counts.
    """

    id: SpiffeId
    below: bool = False
    until: datetime | None = None

    @classmethod
    def parse(cls, text: str) -> IdentityMatch:
        """Read ``spiffe://example.org/a`` or ``spiffe://example.org/a/**``.  Raises: VST1400, VST4011."""
        below = text.endswith(BELOW)
        rest = text.removesuffix(BELOW)
        if "*" in rest:
            raise MALFORMED_IDENTITY_PATTERN.error(f"{text!r} has a wildcard that is not a trailing {BELOW}")
        return cls(id=SpiffeId.parse(rest), below=below)

    def matches(self, caller: SpiffeId) -> bool:
        """Whether ``caller`` is meant."""
        if caller == self.id:
            return True
        return (
            self.below
            and caller.trust_domain == self.id.trust_domain
            and caller.path.startswith(self.id.path + "/")
        )

    def holds(self, now: datetime) -> bool:
        """Whether the membership has not ended."""
        return self.until is None or now < self.until

    def outlasts(self, other: IdentityMatch) -> bool:
        """Whether the membership lasts as long as another one at least."""
        return self.until is None or (other.until is not None and other.until <= self.until)

    def covers(self, other: IdentityMatch) -> bool:
        """Whether everything that ``other`` matches is matched here too."""
        return self.matches(other.id) and (self.below or not other.below)

    def __str__(self) -> str:
        return f"{self.id}{BELOW if self.below else ''}"


def above(spiffe_id: SpiffeId) -> Iterator[SpiffeId]:
    """All IDs that have this one below them: ``/ns/a`` → ``/ns`` and the trust domain's own, the nearest first."""
    path = spiffe_id.path
    while path:
        path = path.rpartition("/")[0]
        yield SpiffeId(spiffe_id.trust_domain, path)
