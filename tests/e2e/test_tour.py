"""The tour of the example shop, as people run it: every claim holds, and the figures say so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.component.git_lab import needs

ROOT = Path(__file__).resolve().parents[2]
STEPS = [
    "canary-moves",
    "locality-fails-over",
    "retries-hide",
    "budget-holds",
    "timeout-ends",
    "mirror-copies",
    "fault-ends",
    "limit-per-caller",
    "egress-verifies",
    "plain-text-ends",
    "bad-commit-refused",
    "refusal-rolled-back",
    "spike-rolled-back",
    "plan-replays",
    "weekdays-only",
    "scopes-needed",
    "shadow-then-enforce",
    "break-glass-ends",
    "revoked-mid-connection",
    "secret-rotated-and-withdrawn",
]


@pytest.mark.timeout(400)
def test_the_tour_of_the_shop_holds_every_claim() -> None:
    needs("git")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VESTIBULE_")}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.tour", "--output", "json"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert ended.stdout, ended.stderr
    found = json.loads(ended.stdout)
    assert {each["id"]: each["said"] for each in found["steps"] if not each["ok"]} == {}
    assert [each["id"] for each in found["steps"]] == STEPS
    assert all(each["measured"] and each["said"] for each in found["steps"])
    measured = {each["id"]: each["measured"] for each in found["steps"]}
    assert measured["canary-moves"]["percent_to_v2"].keys() == {"0", "10", "50", "100"}
    assert measured["canary-moves"]["failed_meanwhile"] == 0
    assert measured["budget-holds"]["tries"] < measured["budget-holds"]["tries_without_budget"]
    assert measured["plain-text-ends"]["transport"] == {"plaintext": 16, "mtls": 44}
    assert measured["refusal-rolled-back"]["outcome"] == "refused"
    assert measured["refusal-rolled-back"]["failed_meanwhile"] == 0
    assert measured["spike-rolled-back"]["outcome"] == "refused"
    assert measured["scopes-needed"]["statuses"]["right scope"] == 200
    assert measured["shadow-then-enforce"]["would_change"]["calls"] >= 7
    assert measured["break-glass-ends"]["uses_on_record"] >= 1
    assert ended.returncode == 0
