"""``docs/traffic.md``: what it shows is the language."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.unit.intent.reading import accepted, errors, read

from vestibule.intent.loading import load_up_text

PAGE = (Path(__file__).parents[3] / "docs" / "traffic.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
PAYMENTS = """\
service: payments
ports: {http: {protocol: http}}
versions: [v1, v2]
allow: [{id: all, from: [orders]}]
"""
AUDIT = "service: audit\nports: {http: {protocol: http}}\nallow: [{id: all, from: [orders]}]\n"


def as_a_service(block: str) -> str:
    block = block.replace("until: 2026-", "until: 2999-")
    return block if "service:" in block.split("\n", 2)[1] else PAYMENTS + block


@pytest.mark.parametrize("block", [each for each in BLOCKS if "apps:" not in each])
def test_what_a_service_is_shown_to_say_is_read(block: str) -> None:
    assert errors(read(as_a_service(block), audit=AUDIT)) == []


def test_what_up_is_shown_to_run_is_read() -> None:
    (block,) = (each for each in BLOCKS if "apps:" in each)
    whole = next(each for each in BLOCKS if "canary" in each and "service:" in each)
    assert load_up_text(block.encode(), accepted(read(whole))).problems == ()
