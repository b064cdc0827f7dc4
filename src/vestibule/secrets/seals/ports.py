"""The port of seals; ``tests/contract/test_seals.py`` is what each must pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

from vestibule.secrets.seals.codes import BAD_PLAN

MAX_SHARES: Final = 255

Document: TypeAlias = Mapping[str, Any]
"""What a seal keeps in the database, as JSON, in clear: it holds the root key wrapped, and nothing secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How many shares there are, and how many of them are needed.  Raises: VST5017."""

    shares: int
    threshold: int

    def __post_init__(self) -> None:
        fits = 1 <= self.threshold <= self.shares <= MAX_SHARES
        if not fits or (self.threshold == 1 and self.shares > 1):
            raise BAD_PLAN.error(f"{self.shares} shares, of which {self.threshold} are needed, cannot be")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped:
    """A root key that was wrapped: what to keep, and the shares to hand out, which are secrets."""

    document: Document
    shares: tuple[bytes, ...] = field(default=(), repr=False)


class Seal(Protocol):
    """Keeps the root key while it is not in memory."""

    @property
    def kind(self) -> str:
        """How it is called in the settings and in its documents."""
        ...

    @property
    def automatic(self) -> bool:
        """Whether ``unwrap`` may succeed without shares."""
        ...

    @property
    def has_shares(self) -> bool:
        """Whether it hands out shares: then only people initialise."""
        ...

    async def wrap(self, root_key: bytes, plan: Plan) -> Wrapped:
        """Wrap a root key; one without shares takes no notice of the plan.  Raises: VST5014."""
        ...

    async def unwrap(self, document: Document, shares: Sequence[bytes] = ()) -> bytes:
        """The root key.  Raises: VST5014, VST5015, VST5012 (the shares are not enough, or not its own)."""
        ...

    def plan(self, document: Document) -> Plan | None:
        """How many shares its document asks for; None if there are none.  Raises: VST5015."""
        ...

    def number(self, document: Document, share: bytes) -> int:
        """Which of its shares this is.  Raises: VST5012, VST5013, VST5019."""
        ...
