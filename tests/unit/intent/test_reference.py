"""``docs/intent.md``: complete, and its examples are an intent that holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.unit.intent.reading import records, whole_language

from vestibule.errors import CATALOGUE
from vestibule.intent import load_files
from vestibule.intent.loading import load_up_text
from vestibule.intent.not_yet import NOT_YET

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "intent.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```yaml\n# (in )?([a-z/]+\.yaml)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
FRAGMENTS = [(name, text) for part, name, text in BLOCKS if part]
# What the examples speak of besides themselves.
OTHERS = {
    "services/orders.yaml": "service: orders\n",
    "services/reports.yaml": "service: reports\n",
    "services/ledger.yaml": "service: ledger\n",
    "services/web.yaml": "service: web\nports: {http: {protocol: http}}\nallow: [{id: edge, from: [edge]}]\n",
}


def intent_of(**changed: str) -> dict[str, bytes]:
    whole = {name: text for part, name, text in BLOCKS if not part and name != "up.yaml"}
    return {name: text.encode() for name, text in {**OTHERS, **whole, **changed}.items()}


def problems_of(files: dict[str, bytes]) -> list[str]:
    with whole_language():
        return [str(found.error) for found in load_files(files).problems]


def test_the_examples_together_are_an_intent_that_holds() -> None:
    assert problems_of(intent_of()) == []
    assert {name for _, name, _ in BLOCKS} == {
        "mesh.yaml",
        "services/payments.yaml",
        "egress/stripe.yaml",
        "gateways/edge.yaml",
        "secrets/payments.yaml",
        "tokens/reports.yaml",
        "up.yaml",
    }


@pytest.mark.parametrize(("name", "text"), FRAGMENTS)
def test_what_is_shown_of_a_file_holds_in_it(name: str, text: str) -> None:
    whole = intent_of()[name].decode()
    assert problems_of(intent_of(**{name: whole + text})) == []


def test_the_example_of_up_yaml_holds() -> None:
    text = next(text for _, name, text in BLOCKS if name == "up.yaml")
    with whole_language():
        assert load_up_text(text.encode(), load_files(intent_of()).intent).problems == ()


def test_every_example_says_which_file_it_is() -> None:
    assert PAGE.count("```yaml\n") == len(BLOCKS)


def test_every_record_of_the_language_has_its_keys_in_the_page() -> None:
    shown = set(re.findall(r"<!-- keys: ([^>]+) -->", PAGE))
    # `rollout` is a mapping of mesh.yaml; up.yaml has one key, which the example shows.
    assert {record.title for record in records()} - shown == {"up.yaml"}
    assert len(shown) == PAGE.count("<!-- keys: ")


@pytest.mark.parametrize("title", sorted({record.title for record in records()} - {"up.yaml"}))
def test_the_table_of_a_record_has_its_keys_and_no_others(title: str) -> None:
    section = PAGE.partition(f"<!-- keys: {title} -->")[2].partition("<!-- end -->")[0]
    record = next(each for each in records() if each.title == title)
    keys = [key.name for key in record.keys if f"{title}: {key.name}" not in NOT_YET]
    assert re.findall(r"^\| `([a-z_0-9]+)`", section, re.MULTILINE) == keys


def test_every_code_of_the_language_is_listed() -> None:
    listed = set(re.findall(r"\[(VST0[0-9]{3})\]", PAGE))
    # What importers say stands in docs/import.md.
    assert listed == {code for code in CATALOGUE if code.startswith("VST0") and code[:6] != "VST009"}
