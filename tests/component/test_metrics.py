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

from vestibule.agent.contact import Contact
from vestibule.app.agent_health import _metrics
from vestibule.app.server_metrics import limit_metrics
from vestibule.attest.workload import Finding
from vestibule.attest.workload.codes import ATTESTOR_TIMED_OUT
from vestibule.doors.limits import Limits
from vestibule.errors import VestibuleError
from vestibule.telemetry.metrics import Metrics
from vestibule.testing import FakeClock

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
    with urllib.request.urlopen(url, timeout=60) as answer:
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


def test_an_agent_counts_examinations_and_says_when_its_entries_are_from() -> None:
    agent, clock = MagicMock(), FakeClock()
    contact = agent.sync.contact = Contact(clock)
    metrics = _metrics(agent)
    failed = Finding("docker", error=ATTESTOR_TIMED_OUT.error("no answer"))
    agent.workloads.observe([Finding("unix"), failed, Finding("own", error=ValueError())])
    contact.entries_synced(0.2)
    values = metrics.registry.get_sample_value
    for attestor, outcome in (("unix", "ok"), ("docker", ATTESTOR_TIMED_OUT.code), ("own", "error")):
        labels = {"attestor": attestor, "outcome": outcome}
        assert values("vestibule_agent_workload_attestations_total", labels) == 1
    assert values("vestibule_agent_entry_sync_seconds_sum") == 0.2
    assert values("vestibule_agent_entries_synced_timestamp_seconds") == clock.now().timestamp()


def test_a_server_counts_who_waited_and_who_was_refused_by_limit() -> None:
    metrics = Metrics("server", "0")
    limits = Limits(limit_metrics(metrics))
    for _ in range(150):
        limits.attestation.turn("192.0.2.1", 0.0)
    with pytest.raises(VestibuleError, match="VST2325"):
        limits.attestation.turn("192.0.2.1", 0.0)
    value = metrics.registry.get_sample_value

    def met(limit: str, outcome: str) -> float | None:
        return value("vestibule_rate_limited_total", {"limit": limit, "outcome": outcome})

    assert (met("attestation", "waited"), met("attestation", "refused")) == (100, 1)
    assert met("signing", "refused") == 0


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
