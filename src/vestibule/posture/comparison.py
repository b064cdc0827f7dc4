"""Before and after: what a week's work changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vestibule.posture.facts import Target
from vestibule.posture.findings import Finding, Judged, Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """One endpoint, at two times; it is missing at one of them if it was scanned at the other only."""

    target: Target
    before: Judged | None
    after: Judged | None

    @property
    def mended(self) -> tuple[Finding, ...]:
        """What was found before and is not any more; nothing for an endpoint that could not be looked at."""
        if self.after is None or self.after.facts.unreachable:
            return ()
        return tuple(_missing(self.before, self.after))

    @property
    def new(self) -> tuple[Finding, ...]:
        """What is found now and was not before."""
        return tuple(_missing(self.after, self.before))

    @property
    def left(self) -> tuple[Finding, ...]:
        """What is found now and was before."""
        if self.after is None:
            return ()
        fresh = {id(each) for each in self.new}
        return tuple(each for each in self.after.findings if id(each) not in fresh)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All endpoints of both scans: those of the second in its order, then those that it left out."""

    endpoints: tuple[Changed, ...]

    @property
    def mended(self) -> int:
        return sum(len(each.mended) for each in self.endpoints)

    @property
    def new(self) -> int:
        return sum(len(each.new) for each in self.endpoints)

    @property
    def left(self) -> int:
        return sum(len(each.left) for each in self.endpoints)


def compare(before: Sequence[Judged], after: Sequence[Judged]) -> Comparison:
    """What became of each endpoint."""
    earlier = {each.target: each for each in before}
    later = {each.target: each for each in after}
    targets = (*later, *(each for each in earlier if each not in later))
    return Comparison(
        endpoints=tuple(
            Changed(target=each, before=earlier.get(each), after=later.get(each)) for each in targets
        )
    )


def _missing(of: Judged | None, other: Judged | None) -> Iterator[Finding]:
    """Findings of the one that the other has not.  Words (times, lists of ciphers) may differ, kinds count."""
    known = set() if other is None else {_kind(each) for each in other.findings}
    for each in of.findings if of is not None else ():
        if _kind(each) not in known:
            yield each


def _kind(finding: Finding) -> tuple[str, Severity]:
    return finding.code.code, finding.severity
