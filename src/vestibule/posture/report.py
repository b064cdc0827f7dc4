"""The file for the ticket: before and after, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from vestibule.posture.comparison import Changed, Comparison
from vestibule.posture.findings import Finding, Judged, Severity, count, coverage


def markdown(
    now: datetime, after: Sequence[Judged], before: tuple[datetime, Sequence[Judged], Comparison] | None
) -> str:
    """A report on the endpoints as they are, and on what changed since ``before`` if that is given."""
    lines = ["# Transport security of services", ""]
    if before is None:
        lines += [
            f"Scanned {_day(now)} with `vestibule scan`.",
            "",
            *_now(after),
            *_table(after),
            *_open(after),
        ]
    else:
        made, earlier, comparison = before
        lines += [f"Scanned {_day(made)} and again {_day(now)} with `vestibule scan`.", ""]
        lines += [*_then_and_now(earlier, after), *_changes(comparison), *_open(after)]
    return "\n".join(lines)


def _now(judged: Sequence[Judged]) -> Iterator[str]:
    holds, answered = coverage(judged)
    yield f"- Callers known by mutual TLS: **{holds} of {answered}** endpoints"
    for severity, number in count(judged).items():
        yield f"- Findings, {severity.value}: {number}"
    yield ""


def _then_and_now(before: Sequence[Judged], after: Sequence[Judged]) -> Iterator[str]:
    (holds, answered), (then, of_then) = coverage(after), coverage(before)
    yield "| | before | now |"
    yield "|---|---|---|"
    yield f"| endpoints that know their callers (mutual TLS) | {then} of {of_then} | {holds} of {answered} |"
    earlier, later = count(before), count(after)
    for severity in earlier:
        yield f"| findings, {severity.value} | {earlier[severity]} | {later[severity]} |"
    yield ""


def _table(judged: Sequence[Judged]) -> Iterator[str]:
    yield "| endpoint | identity | mutual TLS | findings |"
    yield "|---|---|---|---|"
    for each in judged:
        yield f"| {_code(str(each.target))} | {_identity(each)} | {each.mutual.value} | {len(each.findings)} |"
    yield ""


def _changes(comparison: Comparison) -> Iterator[str]:
    yield "| endpoint | mutual TLS before | now | mended | new | left |"
    yield "|---|---|---|---|---|---|"
    for each in comparison.endpoints:
        cells = (
            _state(each.before),
            _state(each.after),
            _codes(each.mended),
            _codes(each.new),
            _codes(each.left),
        )
        yield f"| {_code(str(each.target))} | {' | '.join(cells)} |"
    yield ""
    yield from _mended(comparison.endpoints)


def _mended(changes: Sequence[Changed]) -> Iterator[str]:
    if any(each.mended for each in changes):
        yield "## Mended"
        yield ""
        for each in changes:
            yield from (_line(str(each.target), finding) for finding in each.mended)
        yield ""


def _open(judged: Sequence[Judged]) -> Iterator[str]:
    yield "## What is left: the follow-up"
    yield ""
    found = [(each, finding) for each in judged for finding in each.findings]
    for each, finding in sorted(found, key=lambda pair: -pair[1].severity.rank):
        box = "" if finding.severity is Severity.INFO else "[ ] "
        yield _line(str(each.target), finding, box)
        yield f"  {_text(finding.advice)}"
    if not found:
        yield "Nothing."
    yield ""


def _line(target: str, finding: Finding, box: str = "") -> str:
    code = finding.code.code
    return f"- {box}**{finding.severity.value}** {_code(target)} {code}: {_text(finding.message)}"


def _state(judged: Judged | None) -> str:
    return "not scanned" if judged is None else judged.mutual.value


def _codes(findings: Sequence[Finding]) -> str:
    return ", ".join(dict.fromkeys(each.code.code for each in findings)) or "–"


def _identity(judged: Judged) -> str:
    leaf = judged.facts.tls.leaf if judged.facts.tls else None
    return _code(leaf.spiffe_id) if leaf is not None and leaf.spiffe_id else "–"


def _day(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def _code(text: str) -> str:
    return f"`{text.replace('`', chr(39)).replace('|', '/')}`"


def _text(text: str) -> str:
    """What an endpoint wrote is no markup."""
    return "".join(f"\\{each}" if each in "\\`*_[]<>|#!" else each for each in text)
