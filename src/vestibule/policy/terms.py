"""What a rule asks for besides caller, method and path, as words that can be compared."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from vestibule.policy.demands import McpDemand, TokenDemand
from vestibule.policy.rules import Rule
from vestibule.spiffe import SpiffeId


@dataclass(frozen=True, slots=True)
class Terms:
    """All of ``parts`` must hold, and it is earlier than ``until``.  Without any, a rule always holds."""

    parts: frozenset[str] = frozenset()
    until: datetime | None = None

    @classmethod
    def of(cls, rule: Rule, caller: SpiffeId) -> Terms:
        """Those of a rule for one of its callers, whose membership may end before the rule does."""
        parts = [
            *([f"if {rule.when.source}"] if rule.when else []),
            *([_token(rule.token)] if rule.token else []),
            *([_mcp(rule.mcp)] if rule.mcp else []),
        ]
        return cls(frozenset(parts), _earlier(rule.expires, _membership(rule, caller)))

    def covers(self, other: Terms) -> bool:
        """Whether these hold whenever the others do."""
        lasts = self.until is None or (other.until is not None and other.until <= self.until)
        return lasts and self.parts <= other.parts

    def also(self, other: Terms) -> Terms:
        """Both."""
        return Terms(self.parts | other.parts, _earlier(self.until, other.until))

    @property
    def words(self) -> str:
        """For people; empty where it always holds."""
        until = f"until {instant(self.until)}" if self.until else ""
        return " and ".join((*sorted(self.parts), *([until] if until else [])))


def instant(time: datetime) -> str:
    """As sentences say it."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _membership(rule: Rule, caller: SpiffeId) -> datetime | None:
    """When the last of the caller's memberships ends; None if one does not."""
    if rule.anyone:
        return None
    ends = [match.until for match in rule.callers if match.matches(caller)]
    known = [each for each in ends if each is not None]
    return max(known) if known and len(known) == len(ends) else None


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    known = [each for each in (one, other) if each is not None]
    return min(known, default=None)


def _token(demand: TokenDemand) -> str:
    asked = [f"for {demand.audience}"]
    asked += [f"with {' '.join(demand.scopes)}"] if demand.scopes else []
    asked += [f"with {name} {value}" for name, value in demand.claims]
    asked += [] if demand.bound else ["that anybody may present"]
    asked += ["of the caller's very certificate"] if demand.certificate else []
    return f"with a token of {demand.issuer} {' '.join(asked)}"


def _mcp(demand: McpDemand) -> str:
    parts = {
        "tools": demand.tools,
        "resources": demand.resources,
        "prompts": demand.prompts,
        "methods": demand.methods,
    }
    return "for " + " and ".join(f"the {name} {', '.join(said)}" for name, said in parts.items() if said)
