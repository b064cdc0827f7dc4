"""``vestibule scan``, as it is typed."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.component.scan_targets import endpoint, http, silence
from tests.mtls_lab import Held
from tests.ports import free_port
from tests.workload_lab import endpoints

from vestibule.app.main import cli
from vestibule.pki.pem import CERTIFICATE, pem_block
from vestibule.posture import Target
from vestibule.sdk import authorize_ids, server_context
from vestibule.spiffe import SpiffeId
from vestibule.testing import TestAuthority

WEB = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")


class Lab:
    """A good endpoint and one without TLS, and a directory."""

    def __init__(self, good: Target, plain: Target, authority: TestAuthority, directory: Path) -> None:
        self.good = str(good)
        self.plain = str(plain)
        self.authority = authority
        self.directory = directory
        self.bundle = directory / "bundle.pem"
        self.bundle.write_bytes(pem_block(CERTIFICATE, authority.certificate))

    async def typed(self, *words: str) -> tuple[int, str, str]:
        return await asyncio.to_thread(_run, ["scan", "--timeout", "20", *words])

    async def data(self, *words: str, expect: int = 0) -> Any:
        code, out, error = await self.typed(*words, "-o", "json")
        assert code == expect, error or out
        return json.loads(out)["data"]


def _run(words: list[str]) -> tuple[int, str, str]:
    out, error = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            cli.main(words)
    except SystemExit as end:
        return int(end.code or 0), out.getvalue(), error.getvalue()
    return 0, out.getvalue(), error.getvalue()


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    authority = TestAuthority()
    async with AsyncExitStack() as stack:
        tls = server_context(Held(authority, WEB), authorize_ids("spiffe://example.org/me"))
        good = await stack.enter_async_context(endpoint(http, tls))
        plain = await stack.enter_async_context(endpoint(http))
        yield Lab(good, plain, authority, tmp_path)


async def test_a_person_reads_what_was_seen_and_what_to_do(lab: Lab) -> None:
    code, out, _ = await lab.typed(lab.good, lab.plain, "--trust-bundle", str(lab.bundle))
    assert code == 1
    lines = out.splitlines()
    assert lines[0] == f"✓ {lab.good}  mutual TLS, enforced"
    assert lines[1].startswith(f"    {WEB}, ends in ")
    assert lines[1].endswith(", verified by --trust-bundle")
    assert lines[2] == "    TLSv1.3 TLS_AES_256_GCM_SHA384"
    assert lines[3] == f"✗ {lab.plain}  plaintext"
    assert lines[4].startswith("    critical VST2473 ")
    assert lines[5].startswith("      fix: ")
    assert lines[-1] == "1 of 2 endpoints know their callers by mutual TLS; findings: 1 critical"


async def test_our_svid_is_shown_and_our_bundle_believed(lab: Lab) -> None:
    async with endpoints("/me", authority=lab.authority) as (ours,):
        socket = ours.address.removeprefix("unix://")
        data = await lab.data(lab.good, "--with-svid", "--agent-socket", socket)
    (found,) = data["endpoints"]
    clients = found["facts"]["tls"]["clients"]
    assert (clients["own"]["outcome"], clients["own_id"]) == ("served", "spiffe://example.org/me")
    assert found["facts"]["tls"]["trust"] == {"by": "the bundle of example.org", "problem": ""}
    assert data["summary"]["mutual_tls"] == 1


async def test_a_week_later_it_is_told_what_became_of_it(lab: Lab) -> None:
    before, report = lab.directory / "before.json", lab.directory / "report.md"
    await lab.data(lab.good, lab.plain, "--save", str(before), expect=1)
    document = json.loads(before.read_text())
    document["endpoints"][0] = {
        **document["endpoints"][1],
        "target": document["endpoints"][0]["target"],
    }  # as if the good one had been plaintext then
    before.write_text(json.dumps(document))
    data = await lab.data("--compare", str(before), "--report", str(report), expect=1)
    assert [each["target"] for each in data["endpoints"]] == [lab.good, lab.plain]
    changes = data["comparison"]
    assert (changes["mended"], changes["new"], changes["left"]) == (1, 0, 1)
    assert [each["before"] for each in changes["endpoints"]] == ["plaintext", "plaintext"]
    assert [each["after"] for each in changes["endpoints"]] == ["enforced", "plaintext"]
    assert f"| `{lab.good}` | plaintext | enforced | VST2473 | – | – |" in report.read_text()
    code, out, _ = await lab.typed("--compare", str(before))
    assert code == 1
    assert f"~ {lab.good}  plaintext → mutual TLS, enforced; mended: VST2473" in out
    assert "since then: 1 mended, 0 new, 1 left" in out


async def test_lists_are_read_and_each_endpoint_is_scanned_once(lab: Lab) -> None:
    place = lab.directory / "list.txt"
    place.write_text(f"# ours\n{lab.good}\n\n{lab.plain} # old\n{lab.good}\n")
    data = await lab.data("--file", str(place), lab.plain, "--fail-on", "never")
    assert [each["target"] for each in data["endpoints"]] == [lab.plain, lab.good]


async def test_code_hosts_get_sarif_and_nothing_else(lab: Lab) -> None:
    code, out, _ = await lab.typed(lab.plain, "-o", "sarif")
    log = json.loads(out)
    assert code == 1
    assert [each["ruleId"] for each in log["runs"][0]["results"]] == ["VST2473"]


async def test_the_exit_code_says_how_bad_it_is(lab: Lab) -> None:
    away = f"127.0.0.1:{free_port()}"
    assert (await lab.typed(lab.good))[0] == 0
    assert (await lab.typed(lab.good, away))[0] == 1
    assert (await lab.typed(lab.good, away, "--fail-on", "high"))[0] == 0
    assert (await lab.typed(lab.plain, "--fail-on", "critical"))[0] == 1
    assert (await lab.typed(lab.plain, "--fail-on", "never"))[0] == 0
    assert (await lab.typed(away))[0] == 3


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((), "VST2470"),
        (("nowhere",), "VST2470"),
        (("--file", "/nonexistent"), "VST9100"),
        (("--compare", "/dev/null"), "VST2471"),
        (("a:1", "--starttls", "imap"), "VST9100"),
        (("a:1", "--trust-bundle", "/dev/null"), "VST1032"),
        (("a:1", "--with-svid", "--agent-socket", "/nonexistent"), "VST9102"),
    ],
)
async def test_what_cannot_be_done_is_said(lab: Lab, words: tuple[str, ...], code: str) -> None:
    exit_code, out, _ = await lab.typed(*words, "-o", "json")
    assert exit_code != 0
    assert [each["code"] for each in json.loads(out)["errors"]] == [code]


async def test_a_long_scan_says_how_far_it_is(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vestibule.cli.scan_progress.FIRST", 0.01)
    async with endpoint(silence) as target:
        _, out, told = await lab.typed(str(target), "--timeout", "1", "-o", "json")
    assert json.loads(out)["data"]["summary"]["endpoints"] == 1
    assert told.startswith("scanned 0 of 1 endpoints\n")


async def test_a_silent_endpoint_takes_no_longer_than_it_may(lab: Lab) -> None:
    async with endpoint(silence) as target:
        code, out, _ = await lab.typed(str(target), "--timeout", "1")
    assert code in (1, 3)
    assert "VST2488" in out or "VST2472" in out
