"""Findings as SARIF 2.1.0 (OASIS, "Static Analysis Results Interchange Format"), which code hosts show."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

from vestibule.errors import ErrorCode
from vestibule.posture.findings import Finding, Judged, Severity

SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS: Final = {
    Severity.INFO: "note",
    Severity.LOW: "note",
    Severity.MEDIUM: "warning",
    Severity.HIGH: "error",
    Severity.CRITICAL: "error",
}
SCORES: Final = {
    Severity.INFO: "0.0",
    Severity.LOW: "3.0",
    Severity.MEDIUM: "5.5",
    Severity.HIGH: "8.0",
    Severity.CRITICAL: "9.5",
}
"""What GitHub sorts by (``security-severity``)."""


def sarif(judged: Sequence[Judged], version: str) -> dict[str, Any]:
    """A log of one run (section 3.13); ``version`` is the program's.  Endpoints are logical locations, and URIs."""
    found = [(each, finding) for each in judged for finding in each.findings]
    codes = {finding.code.code: finding.code for _, finding in found}
    rules = [codes[code] for code in sorted(codes)]
    places = {rule.code: index for index, rule in enumerate(rules)}
    driver = {"name": "vestibule scan", "version": version, "rules": [_rule(each) for each in rules]}
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(each, finding, places[finding.code.code]) for each, finding in found],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(code: ErrorCode) -> dict[str, Any]:
    return {
        "id": code.code,
        "name": "".join(word.capitalize() for word in code.name.split("-")),
        "shortDescription": {"text": code.name.replace("-", " ")},
        "fullDescription": {"text": code.meaning},
        "help": {"text": code.advice},
        "properties": {"tags": ["security"]},
    }


def _result(judged: Judged, finding: Finding, index: int) -> dict[str, Any]:
    target = str(judged.target)
    scheme = "tcp" if judged.facts.tls is None else "tls"
    return {
        "ruleId": finding.code.code,
        "ruleIndex": index,
        "level": LEVELS[finding.severity],
        "message": {"text": _plain(f"{target}: {finding.message}. {finding.advice}")},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": f"{scheme}://{target}"}},
                "logicalLocations": [{"fullyQualifiedName": target, "kind": "resource"}],
            }
        ],
        "partialFingerprints": {"endpointAndRule/v1": _fingerprint(target, finding)},
        "properties": {"security-severity": SCORES[finding.severity], "severity": finding.severity.value},
    }


def _plain(text: str) -> str:
    """What an endpoint wrote is no link (section 3.11.6)."""
    return "".join(f"\\{each}" if each in "\\[]" else each for each in text)


def _fingerprint(target: str, finding: Finding) -> str:
    """The same for the same finding of the next scan, whatever its words."""
    text = f"{target} {finding.code.code} {finding.severity.value}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]
