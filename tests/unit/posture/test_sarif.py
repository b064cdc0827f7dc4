"""Findings for code hosts, in the form that SARIF 2.1.0 prescribes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from tests.unit.posture.endpoints import AWAY, GOOD, NOW, PLAIN, SERVED, clients, tls

from vestibule.posture import Facts, Profile, Target, judge, sarif

SEVERAL = (
    GOOD,
    replace(PLAIN, target=Target(host="::1", port=80)),
    replace(AWAY, target=Target(host="b", port=1)),
    replace(clients(without=SERVED), target=Target(host="c", port=1)),
    replace(tls(resumes=True), target=Target(host="d", port=1)),
)


def log_of(*facts: Facts) -> dict[str, Any]:
    log: dict[str, Any] = json.loads(
        json.dumps(sarif([judge(each, Profile.SERVICE, NOW) for each in facts], "1.2.3"))
    )
    return log


def test_the_log_keeps_the_parts_of_the_schema_that_it_uses() -> None:
    log = log_of(*SEVERAL)
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", driver["version"])
    identifiers = [rule["id"] for rule in driver["rules"]]
    assert len(set(identifiers)) == len(identifiers)
    for rule in driver["rules"]:
        assert all(rule[key]["text"] for key in ("shortDescription", "fullDescription", "help"))
        assert re.fullmatch(r"[A-Za-z0-9]+", rule["name"])
    assert run["columnKind"] in ("utf16CodeUnits", "unicodeCodePoints")
    assert len(run["results"]) == 4
    for result in run["results"]:
        assert identifiers[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in ("none", "note", "warning", "error")
        assert result["message"]["text"]
        (location,) = result["locations"]
        (logical,) = location["logicalLocations"]
        uri = urlsplit(location["physicalLocation"]["artifactLocation"]["uri"])
        assert uri.scheme in ("tls", "tcp")
        assert uri.netloc == logical["fullyQualifiedName"]
        assert all(isinstance(value, str) for value in result["partialFingerprints"].values())
        assert 0 <= float(result["properties"]["security-severity"]) <= 10


def test_the_same_finding_has_the_same_fingerprint_in_the_next_scan() -> None:
    def prints(facts: Facts) -> list[str]:
        (run,) = log_of(facts)["runs"]
        return [each["partialFingerprints"]["endpointAndRule/v1"] for each in run["results"]]

    later = replace(AWAY, unreachable="No route to host")
    assert prints(AWAY) == prints(later) != prints(replace(AWAY, target=Target(host="z", port=1)))


def test_nothing_found_is_a_log_without_results() -> None:
    (run,) = log_of(GOOD)["runs"]
    assert run["results"] == run["tool"]["driver"]["rules"] == []


def test_what_an_endpoint_wrote_is_no_link() -> None:
    said = replace(PLAIN.plaintext, detail="[log in](https://elsewhere.example)")
    (result, *_) = log_of(replace(PLAIN, plaintext=said))["runs"][0]["results"]
    text = result["message"]["text"]
    assert "elsewhere.example" in text
    assert not re.search(r"(?<!\\)[\[\]]", text)
