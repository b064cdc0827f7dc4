"""Why a process of this node has the identities that it has, or has none: everything that this agent knows about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from vestibule.agent.cache import Held, Holdings, SvidCache
from vestibule.agent.templates import Template, Templates
from vestibule.attest.workload import Finding, Process, WorkloadAttestor, examine, together
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.records import Entry
from vestibule.spiffe import Selector, covers
from vestibule.spiffe.nearness import Missing, missing

MOST: Final = 20
"""So many entries that nearly fit are told of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An entry beside a process: whether it fits, what is missing, and what keeps one that fits from being served."""

    entry: Entry
    missing: tuple[Missing, ...]
    reasons: tuple[str, ...]
    held: Held | None
    is_default: bool = False
    refused_until: datetime | None = None

    @property
    def matches(self) -> bool:
        """Whether the process has all of the entry's selectors."""
        return not self.missing

    def is_served(self, now: datetime) -> bool:
        """Whether the process gets its SVID now."""
        return self.matches and not self.reasons and self.held is not None and now < self.held.svid.not_after


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateLook:
    """A template beside a process; ``problem`` says why it gives nothing though nothing is missing."""

    template: Template
    missing: tuple[Missing, ...]
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All of it.  Candidates that fit come first, then those that lack least."""

    uid: int
    gid: int
    program: str
    findings: tuple[Finding, ...]
    selectors: frozenset[Selector]
    candidates: tuple[Candidate, ...]
    left_out: int
    templates: tuple[TemplateLook, ...]


class Why:
    """Attests any process of this node as if it called, and compares it with the entries.

    Only for the operator: what this tells of others' entries a workload must not learn.
    """

    def __init__(
        self,
        cache: SvidCache,
        attestors: Sequence[WorkloadAttestor],
        templates: Templates,
        clock: Clock,
        *,
        open_process: Callable[[int], Process],
        refused_until: Callable[[str], datetime | None],
    ) -> None:
        """``open_process`` pins a pid; ``refused_until`` knows which entries' SVIDs the server refused."""
        self._cache = cache
        self._attestors = attestors
        self._templates = templates
        self._clock = clock
        self._open_process = open_process
        self._refused_until = refused_until

    async def explain(self, pid: int) -> Explanation:
        """Raises: VST2312 when there is no such process, or it ends meanwhile."""
        process = self._open_process(pid)
        try:
            findings = await examine(self._attestors, process)
            uid, gid, program = _about(process)
        finally:
            process.close()
        selectors = together(findings)
        candidates = self._candidates(selectors)
        fitting = sum(each.matches for each in candidates)
        shown = candidates[: max(fitting, MOST)]
        return Explanation(
            uid=uid,
            gid=gid,
            program=program,
            findings=tuple(findings),
            selectors=selectors,
            candidates=tuple(shown),
            left_out=len(candidates) - len(shown),
            templates=tuple(self._look(each, selectors) for each in self._templates.all),
        )

    def _candidates(self, selectors: frozenset[Selector]) -> list[Candidate]:
        now, holdings = self._clock.now(), self._cache.now
        identities = self._cache.matching(selectors, now)
        default = identities[0].id if identities else None
        found = [
            Candidate(
                entry=entry,
                missing=missing(entry.selectors, selectors),
                reasons=tuple(self._reasons(entry, holdings, now)),
                held=holdings.svids.get(entry.id),
                is_default=entry.id == default,
                refused_until=self._refused_until(entry.id),
            )
            for entry in holdings.entries.values()
        ]
        return sorted(found, key=_distance)

    def _reasons(self, entry: Entry, holdings: Holdings, now: datetime) -> list[str]:
        reasons = _reasons_of(entry, holdings, now)
        if (revoked := self._cache.revocations.issuing(entry.spiffe_id, now)) is not None:
            reasons.append(str(revoked))
        if not holdings.svids.get(entry.id) and not self._cache.demand.wants(entry):
            reasons.append("its certificate is fetched when a workload asks (disable_x509_svid_prefetch)")
        return reasons

    def _look(self, template: Template, selectors: frozenset[Selector]) -> TemplateLook:
        lacking = missing(template.selectors, selectors)
        problem = ""
        if covers(selectors, template.selectors):
            try:
                template.needed(selectors)
                problem = self._templates.problem(template, selectors)
            except VestibuleError as error:
                problem = error.message
        return TemplateLook(template=template, missing=lacking, problem=problem)


def _distance(candidate: Candidate) -> tuple[int, int, int, str]:
    entry = candidate.entry
    # A value that differs is nearer than one of which there is no kind at all.
    strange = sum(not each.found for each in candidate.missing)
    return len(candidate.missing), strange, -len(entry.selectors), entry.id


def _reasons_of(entry: Entry, holdings: Holdings, now: datetime) -> list[str]:
    reasons = []
    if entry.expires_at is not None and entry.expires_at <= now:
        reasons.append(f"the entry expired at {entry.expires_at:%Y-%m-%d %H:%M:%S} UTC")
    if entry.store_svid:
        reasons.append("the entry is for SVID stores (store_svid), not for the Workload API")
    held = holdings.svids.get(entry.id)
    if held is not None and held.svid.not_after <= now:
        reasons.append(
            f"its certificate expired at {held.svid.not_after:%Y-%m-%d %H:%M:%S} UTC and is not served"
        )
    return reasons


def _about(process: Process) -> tuple[int, int, str]:
    status = process.status()
    name = " ".join(status.get("Name", []))
    try:
        program = process.link("exe")
    except (VestibuleError, PermissionError):
        program = name
    return int(status["Uid"][1]), int(status["Gid"][1]), program or name
