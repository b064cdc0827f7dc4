"""What is to be said about an endpoint, and how much it matters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from vestibule.errors import ErrorCode
from vestibule.posture.ciphers import is_anonymous
from vestibule.posture.facts import Facts, Outcome, Plain, Target


class Severity(Enum):
    """How much it matters, from nothing to a door that stands open."""

    INFO = "info"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        return tuple(Severity).index(self)


class Profile(Enum):
    """What is expected: a service that knows its callers, or a website that everybody may call."""

    SERVICE = "service"
    PUBLIC = "public"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is to be said."""

    code: ErrorCode
    severity: Severity
    message: str
    advice: str

    @property
    def document(self) -> dict[str, str]:
        """As JSON."""
        return {
            "code": self.code.code,
            "name": self.code.name,
            "severity": self.severity.value,
            "message": self.message,
            "advice": self.advice,
        }


class Mutual(Enum):
    """In a word: does the endpoint know its callers?"""

    ENFORCED = "enforced"
    ABOVE_TLS = "enforced above TLS"
    """TLS lets anybody in, and then who has no certificate is refused, as by nginx and PostgreSQL."""
    NOT_ENFORCED = "not enforced"
    NOT_ASKED = "TLS only"
    PLAINTEXT = "plaintext"
    UNKNOWN = "unknown"

    @property
    def holds(self) -> bool:
        return self in (Mutual.ENFORCED, Mutual.ABOVE_TLS)


PLAIN_ANSWERS: Final = frozenset({Plain.HTTP, Plain.HTTP2})
"""Answers to what was asked without TLS."""


def mutual(facts: Facts) -> Mutual:
    """Whether the endpoint knows its callers; a port that also serves without TLS does not."""
    if facts.plaintext.kind in PLAIN_ANSWERS:
        return Mutual.PLAINTEXT
    if facts.tls is None:
        plain = facts.plaintext.kind in (Plain.OTHER, Plain.REDIRECT)
        return Mutual.PLAINTEXT if plain else Mutual.UNKNOWN
    clients = facts.tls.clients
    if not clients.requested:
        return Mutual.NOT_ASKED if clients.without.let_in else Mutual.UNKNOWN
    strangers = clients.without.let_in or (clients.foreign is not None and clients.foreign.let_in)
    if strangers or any(map(is_anonymous, facts.tls.weak_ciphers)):
        return Mutual.NOT_ENFORCED
    if not clients.without.refused:
        return Mutual.UNKNOWN
    outcomes = {each.outcome for each in (clients.without, clients.foreign) if each is not None}
    return Mutual.ABOVE_TLS if Outcome.REFUSED_ABOVE in outcomes else Mutual.ENFORCED


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """An endpoint, what was seen of it, and what is to be said about that, the worst first."""

    facts: Facts
    findings: tuple[Finding, ...]

    @property
    def target(self) -> Target:
        return self.facts.target

    @property
    def mutual(self) -> Mutual:
        return mutual(self.facts)


def count(judged: Iterable[Judged]) -> dict[Severity, int]:
    """How many findings there are of each severity, the worst first."""
    found = [finding.severity for each in judged for finding in each.findings]
    return {each: found.count(each) for each in reversed(Severity)}


def coverage(judged: Sequence[Judged]) -> tuple[int, int]:
    """How many endpoints know their callers, of how many that answered."""
    answered = [each for each in judged if not each.facts.unreachable]
    return sum(each.mutual.holds for each in answered), len(answered)
