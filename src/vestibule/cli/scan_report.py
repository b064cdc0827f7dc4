"""A scan as people and programs read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from rich.markup import escape

from vestibule.cli.output import console
from vestibule.cli.status import countdown
from vestibule.posture import (
    Changed,
    Comparison,
    Finding,
    Judged,
    Mutual,
    Profile,
    Scan,
    Severity,
    Tls,
    as_document,
    count,
    coverage,
)

STATES: Final = {
    Mutual.ENFORCED: "mutual TLS, enforced",
    Mutual.ABOVE_TLS: "mutual TLS, enforced above TLS",
    Mutual.NOT_ENFORCED: "mutual TLS asked for, not enforced",
    Mutual.NOT_ASKED: "TLS of the server only",
    Mutual.PLAINTEXT: "plaintext",
    Mutual.UNKNOWN: "unknown",
}
COLOURS: Final = {
    Severity.INFO: "dim",
    Severity.LOW: "cyan",
    Severity.MEDIUM: "yellow",
    Severity.HIGH: "red",
    Severity.CRITICAL: "bold red",
}
_BAD: Final = Severity.MEDIUM.rank


def document(scan: Scan, judged: Sequence[Judged], comparison: Comparison | None) -> dict[str, Any]:
    """As JSON."""
    holds, answered = coverage(judged)
    return {
        "made": scan.made.isoformat(),
        "expected": scan.profile.value,
        "summary": {
            "endpoints": len(judged),
            "answered": answered,
            "mutual_tls": holds,
            "findings": {severity.value: number for severity, number in count(judged).items()},
        },
        "endpoints": [
            {
                "target": str(each.target),
                "mutual_tls": each.mutual.value,
                "findings": [finding.document for finding in each.findings],
                "facts": as_document(each.facts),
            }
            for each in judged
        ],
        "comparison": _changes(comparison) if comparison else None,
    }


def _changes(comparison: Comparison) -> dict[str, Any]:
    return {
        "mended": comparison.mended,
        "new": comparison.new,
        "left": comparison.left,
        "endpoints": [
            {
                "target": str(each.target),
                "before": each.before.mutual.value if each.before else None,
                "after": each.after.mutual.value if each.after else None,
                **{
                    name: [found.document for found in getattr(each, name)]
                    for name in ("mended", "new", "left")
                },
            }
            for each in comparison.endpoints
        ],
    }


def show(scan: Scan, judged: Sequence[Judged], comparison: Comparison | None) -> None:
    """For people."""
    for each in judged:
        _show_endpoint(each, scan.profile, scan.made)
    if comparison is not None:
        for changed in comparison.endpoints:
            _show_change(changed)
        words = f"{comparison.mended} mended, {comparison.new} new, {comparison.left} left"
        console.print(f"[bold]since then:[/] {words}")
    console.print(f"[bold]{escape(_summary(judged))}[/]")


def _show_endpoint(judged: Judged, profile: Profile, now: datetime) -> None:
    bad = any(each.severity.rank >= _BAD for each in judged.findings)
    mark = "[bold red]✗[/]" if bad else "[bold green]✓[/]"
    # Of a website nobody expects that it knows its callers.
    state = STATES[judged.mutual] if not judged.facts.unreachable else "unreachable"
    if profile is Profile.PUBLIC and judged.mutual is Mutual.NOT_ASKED:
        state = "TLS"
    console.print(f"{mark} [bold]{escape(str(judged.target))}[/]  {state}")
    for line in _facts(judged.facts.tls, now) if judged.facts.tls else ():
        console.print(f"    {escape(line)}")
    for finding in judged.findings:
        _show_finding(finding)


def _facts(tls: Tls, now: datetime) -> Iterator[str]:
    leaf = tls.leaf
    if leaf is not None:
        who = leaf.spiffe_id or ", ".join(leaf.dns_names[:3]) or leaf.subject or "a certificate without names"
        left = (leaf.not_after - now).total_seconds()
        ends = f"ends in {countdown(left)}" if left > 0 else "expired"
        yield f"{who}, {ends}{f', verified by {tls.trust.by}' if tls.trust.verified else ''}"
    for each in tls.accepted:
        yield f"{each.version} {each.cipher}" + (
            f", {tls.alpn}" if tls.alpn and each is tls.accepted[0] else ""
        )
    clients = tls.clients
    if clients.authorities:
        more = f" and {len(clients.authorities) - 3} more" if len(clients.authorities) > 3 else ""
        yield f"wants certificates of {'; '.join(clients.authorities[:3])}{more}"
    if clients.own is not None and clients.own.let_in:
        yield f"lets in {clients.own_id}"


def _show_finding(finding: Finding) -> None:
    colour = COLOURS[finding.severity]
    console.print(
        f"    [{colour}]{finding.severity.value}[/] {finding.code.code} {escape(finding.message)}\n"
        f"      [dim]fix:[/] {escape(finding.advice)}"
    )


def _show_change(changed: Changed) -> None:
    target = escape(str(changed.target))
    if changed.after is None:
        console.print(f"[dim]–[/] {target}  was not scanned again")
        return
    if changed.before is None:
        console.print(f"[dim]+[/] {target}  was not scanned before")
        return
    before, after = changed.before.mutual, changed.after.mutual
    if before is not after or changed.mended or changed.new:
        words = f"{STATES[before]} → {STATES[after]}" if before is not after else STATES[after]
        console.print(
            f"[dim]~[/] {target}  {words}{_listed('mended', changed.mended)}{_listed('new', changed.new)}"
        )


def _listed(word: str, findings: Sequence[Finding]) -> str:
    return f"; {word}: {', '.join(dict.fromkeys(each.code.code for each in findings))}" if findings else ""


def _summary(judged: Sequence[Judged]) -> str:
    holds, answered = coverage(judged)
    found = ", ".join(f"{number} {severity.value}" for severity, number in count(judged).items() if number)
    away = len(judged) - answered
    missing = f", {away} unreachable" if away else ""
    known = f"{holds} of {answered} endpoints know their callers by mutual TLS"
    return f"{known}{missing}; findings: {found or 'none'}"
