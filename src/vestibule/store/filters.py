"""What a listing asks for.  The questions are SPIRE's (its API types), so that its clients work unmodified."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TypeVar

from vestibule.records import AgentRecord, Entry
from vestibule.spiffe import Selector, SpiffeId

T = TypeVar("T")


class Match(Enum):
    """How a record's set compares with the set that is asked for."""

    EXACT = "exact"
    SUBSET = "subset"
    """The record has nothing that is not asked for, and something."""
    SUPERSET = "superset"
    """The record has all that is asked for."""
    ANY = "any"
    """The record has at least one of what is asked for."""

    def holds(self, record: AbstractSet[T], asked: AbstractSet[T]) -> bool:
        """Whether a record with the set ``record`` is meant by ``asked``."""
        if self is Match.EXACT:
            return record == asked
        if self is Match.SUBSET:
            return bool(record) and record <= asked
        if self is Match.SUPERSET:
            return record >= asked
        return not record.isdisjoint(asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFilter:
    """All given conditions must hold; ``None`` asks nothing."""

    spiffe_id: SpiffeId | None = None
    parent_id: SpiffeId | None = None
    selectors: frozenset[Selector] | None = None
    selectors_match: Match = Match.EXACT
    federates_with: frozenset[str] | None = None
    federates_with_match: Match = Match.EXACT
    hint: str | None = None
    downstream: bool | None = None
    template_id: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    """All of them; an empty value asks for the label, whatever it says."""
    visible: Callable[[Entry], bool] | None = None
    """Of all others, whoever asks shall not learn."""

    def admits(self, entry: Entry) -> bool:
        """Whether ``entry`` is asked for."""
        return (
            (self.visible is None or self.visible(entry))
            and self.template_id in (None, entry.template_id)
            and _labelled(entry, self.labels)
            and self.spiffe_id in (None, entry.spiffe_id)
            and self.parent_id in (None, entry.parent_id)
            and self.hint in (None, entry.hint)
            and self.downstream in (None, entry.downstream)
            and (self.selectors is None or self.selectors_match.holds(entry.selectors, self.selectors))
            and (
                self.federates_with is None
                or self.federates_with_match.holds(frozenset(entry.federates_with), self.federates_with)
            )
        )


def _labelled(entry: Entry, wanted: Iterable[tuple[str, str]]) -> bool:
    own = dict(entry.labels)
    return all(name in own and value in ("", own[name]) for name, value in wanted)


def _end_of(agent: AgentRecord) -> datetime:
    # An agent that was just given another SVID is not gone, although it has not used that one yet.
    return max(agent.expires_at, agent.new_expires_at or agent.expires_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFilter:
    """All given conditions must hold; ``None`` asks nothing."""

    attestation_type: str | None = None
    selectors: frozenset[Selector] | None = None
    selectors_match: Match = Match.EXACT
    banned: bool | None = None
    can_reattest: bool | None = None
    expires_before: datetime | None = None
    visible: Callable[[AgentRecord], bool] | None = None
    """Of all others, whoever asks shall not learn."""

    def admits(self, agent: AgentRecord) -> bool:
        """Whether ``agent`` is asked for."""
        return (
            (self.visible is None or self.visible(agent))
            and self.attestation_type in (None, agent.attestation_type)
            and self.banned in (None, agent.banned)
            and self.can_reattest in (None, agent.can_reattest)
            and (self.expires_before is None or _end_of(agent) < self.expires_before)
            and (self.selectors is None or self.selectors_match.holds(agent.selectors, self.selectors))
        )
