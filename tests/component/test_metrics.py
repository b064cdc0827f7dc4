"""What servers and agents count: documented, and what the alerts we ship ask for."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML
from tests.component.server_lab import running, short_directory

from vestibule.app.agent_health import _metrics

ROOT = Path(__file__).parents[2]
RULES = ROOT / "examples" / "alerts" / "vestibule.rules.yaml"
PAGE = ROOT / "docs" / "metrics.md"
RUNBOOK = ROOT / "docs" / "alerts.md"


def alerts() -> list[dict[str, object]]:
    (group,) = YAML(typ="safe", pure=True).load(RULES.read_text())["groups"]
    found: list[dict[str, object]] = group["rules"]
    return found


def of_an_agent() -> set[str]:
    names = _metrics(MagicMock()).registry._names_to_collectors
    return {name for name in names if name.startswith("vestibule_")}


def scrape(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as answer:
        text: str = answer.read().decode()
    return text


async def of_a_server() -> tuple[dict[str, str], str]:
    """Names with their types, and the whole text."""
    with short_directory() as directory:
        async with running(directory) as lab:
            agent = await lab.agent()
            await agent.new_svid(await lab.entry("/web", agent.id))
            text = await asyncio.to_thread(scrape, f"http://{lab.ready.health}/metrics")
    families = text_string_to_metric_families(text)
    return {each.name: each.type for each in families if not each.name.endswith("_created")}, text


def documented(part: str) -> set[str]:
    text = PAGE.read_text().split("\n## ")
    (section,) = (each for each in text if each.startswith(part))
    return set(re.findall(r"^\| `(vestibule_[a-z0-9_]+)", section, re.MULTILINE))


async def test_every_metric_of_a_server_stands_on_the_page_and_every_alert_asks_for_one() -> None:
    found, text = await of_a_server()
    read = {
        name if kind != "counter" else f"{name}_total" for name, kind in found.items() if "vestibule" in name
    }
    assert read == documented("The server")
    asked = {name for rule in alerts() for name in re.findall(r"vestibule_[a-z0-9_]+", str(rule["expr"]))}
    parts = {
        f"{name}{suffix}"
        for name, kind in found.items()
        if kind == "histogram"
        for suffix in ("_bucket", "_count")
    }
    assert asked <= read | of_an_agent() | parts
    assert re.search(r'vestibule_issued_total\{kind="x509",outcome="ok"\} 2\.0', text)
    assert re.search(r'vestibule_node_attestations_total\{kind="join_token",outcome="ok"\} 1\.0', text)
    assert "vestibule_store_leads 1.0" in text


def test_every_metric_of_an_agent_stands_on_the_page() -> None:
    made = {name for name in of_an_agent() if not re.search(r"_(created|bucket|count|sum)$", name)}
    made = {name for name in made if f"{name}_total" not in made and f"{name}_info" not in made}
    assert made == documented("The agent")


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_every_alert_has_its_page(rule: dict[str, dict[str, str]]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("page", "ticket")
    anchor = f"docs/alerts.md#{str(rule['alert']).lower()}"
    assert rule["annotations"]["runbook_url"] == anchor
    assert f"\n## {rule['alert']}\n" in RUNBOOK.read_text()
    expression = str(rule["expr"])
    assert expression.count("(") == expression.count(")")


def test_prometheus_accepts_the_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool (Debian: apt-get install prometheus)")
    subprocess.run([promtool, "check", "rules", str(RULES)], check=True, timeout=30)
