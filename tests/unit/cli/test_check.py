"""Check judges facts; each thing that is not fine comes with what to do about it."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from vestibule.cli import check, findings
from vestibule.cli.check import Report
from vestibule.cli.findings import Finding, Level, failed, fine, warning
from vestibule.cli.output import Exit
from vestibule.cli.sockets import Sockets
from vestibule.processes.listening import TcpListener
from vestibule.records import Boundary
from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2, secrets_pb2

NOW = 1_000_000.0
HOUR = 3600
LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"


def only(found: Iterable[Finding]) -> Finding:
    (finding,) = found
    assert finding.level is Level.FINE or finding.hint
    return finding


def authority(state: str, begins: float, ends: float) -> admin_pb2.AuthorityStatus:
    return admin_pb2.AuthorityStatus(state=state, not_before=int(NOW + begins), not_after=int(NOW + ends))


@pytest.mark.parametrize(
    ("known", "level"),
    [
        ([authority("active", -HOUR, 23 * HOUR)], Level.FINE),
        ([authority("active", -23 * HOUR, 30 * 60)], Level.WARNING),
        ([authority("active", -25 * HOUR, -HOUR)], Level.FAILED),
        ([authority("active", HOUR, 25 * HOUR)], Level.FAILED),
        ([authority("prepared", -HOUR, 23 * HOUR)], Level.FAILED),
        ([], Level.FAILED),
    ],
)
def test_an_authority_has_to_be_active_and_succeeded_in_time(
    known: list[admin_pb2.AuthorityStatus], level: Level
) -> None:
    status = admin_pb2.ServerStatus(authorities=known)
    assert only(findings.authorities(status, NOW)).level is level


def test_what_the_server_warns_of_is_a_finding() -> None:
    warned = "the intermediate prod-2026-Q4 ends in 20 days"
    status = admin_pb2.ServerStatus(authorities=[authority("active", -HOUR, 23 * HOUR)], warnings=[warned])
    fine_, finding = findings.authorities(status, NOW)
    assert (fine_.level, finding.level, finding.message) == (Level.FINE, Level.WARNING, warned)
    assert finding.hint


def test_an_invalid_intent_is_a_finding_with_its_place() -> None:
    intent = admin_pb2.IntentStatus(
        version="abc",
        problems=[
            admin_pb2.Problem(code="VST0101", message="unknown key", where="mesh.yaml:3:1", severity="error")
        ],
    )
    finding = only(findings.intent(admin_pb2.ServerStatus(intent=intent)))
    assert finding.level is Level.FAILED
    assert "mesh.yaml:3:1" in finding.message


def test_a_warning_of_the_intent_leaves_it_valid() -> None:
    intent = admin_pb2.IntentStatus(
        version="abc", problems=[admin_pb2.Problem(code="VST0001", severity="warning")]
    )
    assert only(findings.intent(admin_pb2.ServerStatus(intent=intent))).level is Level.FINE


def test_no_intent_is_worth_knowing() -> None:
    assert only(findings.intent(admin_pb2.ServerStatus())).level is Level.WARNING


def proxy(
    *, connected: bool = True, status: str = "SYNCED", error: str = "", boundary: str = "unix"
) -> admin_pb2.ProxyStatus:
    return admin_pb2.ProxyStatus(
        service="web",
        instance_id="web-1",
        connected=connected,
        boundary=boundary,
        types=[admin_pb2.TypeSync(type_url=LISTENER, status=status, error=error)],
    )


@pytest.mark.parametrize(
    ("one", "connected", "synced"),
    [
        (proxy(), Level.FINE, Level.FINE),
        (proxy(connected=False, status="STALE"), Level.FAILED, Level.FINE),
        (proxy(status="STALE"), Level.FINE, Level.WARNING),
        (proxy(status="ERROR", error="no such filter"), Level.FINE, Level.FAILED),
    ],
)
def test_proxies_have_to_be_connected_and_in_sync(
    one: admin_pb2.ProxyStatus, connected: Level, synced: Level
) -> None:
    first, second = findings.proxies(admin_pb2.ServerStatus(proxies=[one]))
    assert (first.level, second.level) == (connected, synced)


def test_the_boundary_in_force_is_told_per_service() -> None:
    status = admin_pb2.ServerStatus(proxies=[proxy(boundary="unix"), proxy(boundary="trust")])
    by_level = {each.level: each for each in findings.boundaries(status)}
    assert "loopback" in by_level[Level.WARNING].message
    assert "--boundary unix" in by_level[Level.WARNING].hint
    assert by_level[Level.FINE].message.startswith("unix")


def agent(**facts: object) -> admin_pb2.AgentStatus:
    given: dict[str, object] = {
        "spiffe_id": "spiffe://example.org/spire/agent/x",
        "svid_expires_at": int(NOW) + HOUR,
        "server_connected": True,
    }
    return admin_pb2.AgentStatus(**{**given, **facts})  # type: ignore[arg-type]


def test_an_agent_without_its_server_is_a_finding() -> None:
    away = agent(server_connected=False, server_error="VST2300 refused", server_seen_at=int(NOW) - 30)
    contact, _ = findings.agent(away, NOW)
    assert contact.level is Level.FAILED
    assert "30 s" in contact.message
    assert "VST2300" in contact.message


def test_trouble_with_the_agents_own_files_is_a_finding() -> None:
    full = admin_pb2.Problem(code="VST2107", message="cannot write it", advice="Free space.")
    [found] = [each for each in findings.agent(agent(problems=[full]), NOW) if each.level is Level.FAILED]
    assert (found.message, found.hint) == ("VST2107 cannot write it", "Free space.")


def test_an_agent_needs_a_valid_identity() -> None:
    assert [each.level for each in findings.agent(agent(), NOW)] == [Level.FINE, Level.FINE]
    expired = agent(svid_expires_at=int(NOW) - 1)
    assert list(findings.agent(expired, NOW))[1].level is Level.FAILED
    assert list(findings.agent(agent(spiffe_id=""), NOW))[1].level is Level.FAILED


@pytest.mark.parametrize(
    ("expires", "renewal", "level"),
    [(HOUR, HOUR / 2, Level.FINE), (HOUR, -300, Level.WARNING), (-1, -HOUR / 2, Level.FAILED)],
)
def test_certificates_have_to_be_renewed_in_time(expires: float, renewal: float, level: Level) -> None:
    svid = admin_pb2.SvidStatus(not_after=int(NOW + expires), renew_at=int(NOW + renewal))
    assert only(findings.certificates(agent(svids=[svid]), NOW)).level is level


def test_an_agent_without_certificates_is_worth_knowing() -> None:
    assert only(findings.certificates(agent(), NOW)).level is Level.WARNING


def test_a_clock_behind_its_certificates_is_wrong_whatever_the_kernel_says() -> None:
    assert findings.clock(True, [NOW + 10], NOW).level is Level.FAILED
    assert findings.clock(False, [NOW - 10], NOW).level is Level.WARNING
    assert findings.clock(True, [NOW - 10], NOW).level is Level.FINE
    assert findings.clock(None, [], NOW).level is Level.FINE


def test_the_kernel_can_be_asked_about_its_clock() -> None:
    assert check.clock_is_synchronised() in (True, False, None)


def test_warnings_alone_are_healthy() -> None:
    report = Report()
    report.add("a", [fine("x", "good"), warning("y", "so so", "look")])
    assert report.exit is Exit.FINE
    assert report.document["healthy"] is True


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (["intent-valid"], Exit.FINDINGS),
        (["agent-reachable"], Exit.UNREACHABLE),
        (["intent-valid", "server-reachable"], Exit.UNREACHABLE),
    ],
)
def test_findings_and_parts_that_are_away_have_exit_codes_of_their_own(bad: list[str], code: Exit) -> None:
    report = Report()
    report.add("a", [failed(each, "bad", "mend") for each in bad])
    assert report.exit is code
    assert report.document["healthy"] is False


async def test_everything_that_is_not_there_is_named_once_with_a_hint(tmp_path: Path) -> None:
    nowhere = Sockets(server=tmp_path / "s", agent=tmp_path / "a", admin=tmp_path / "d")
    report = await check.examine(nowhere, server_named=True, health="127.0.0.1:1", now=NOW)
    bad = {each.id for each in report.all if each.level is Level.FAILED}
    assert bad == {"server-reachable", "agent-reachable"}
    assert all(each.hint for each in report.all if each.level is not Level.FINE)


async def test_on_a_machine_with_only_an_agent_the_server_is_not_missed(tmp_path: Path) -> None:
    (tmp_path / "d").touch()
    sockets = Sockets(server=tmp_path / "s", agent=tmp_path / "a", admin=tmp_path / "d")
    report = await check.examine(sockets, server_named=False, health="127.0.0.1:1", now=NOW)
    (server,) = report.categories["server"]
    assert server.level is Level.WARNING


def test_a_socket_that_nobody_listens_on_is_a_finding(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert check.public_socket(path).level is Level.FAILED
        listener.listen()
        assert check.public_socket(path).level is Level.FINE


def test_nobody_answering_for_readiness_is_worth_knowing() -> None:
    assert check.readiness("127.0.0.1:1").level is Level.WARNING


def test_every_boundary_has_words_of_its_own() -> None:
    status = admin_pb2.ServerStatus(proxies=[proxy(boundary=each.value) for each in Boundary])
    found = list(findings.boundaries(status))
    assert [each.level for each in found].count(Level.WARNING) == 1
    assert {each.message.partition(":")[0] for each in found} == {each.value for each in Boundary}


def test_an_app_that_listens_beyond_loopback_is_a_way_past_its_sidecar() -> None:
    def attached(service: str, boundary: str, **apps: str) -> admin_pb2.SidecarStatus:
        return admin_pb2.SidecarStatus(service=service, boundary=boundary, apps=apps)

    status = admin_pb2.AgentStatus(
        sidecars=[
            attached("web", "trust", http="127.0.0.1:8080"),
            attached("orders", "netns", http="127.0.0.1:9090"),
            attached("reports", "unix", http="unix:/run/r.sock"),
        ]
    )
    shut = TcpListener("127.0.0.1", 8080, 1)
    inside = TcpListener("0.0.0.0", 9090, 2)
    (found,) = findings.bypasses(status, [shut, inside])
    assert (found.level, found.message[:10]) == (Level.FINE, "1 app port")

    (found,) = findings.bypasses(status, [shut, TcpListener("::", 8080, 3)])
    assert found.level is Level.FAILED
    assert "web/http listens on [::]:8080" in found.message

    assert list(findings.bypasses(admin_pb2.AgentStatus(), [inside])) == []


def seal(**given: Any) -> secrets_pb2.SealStatus:
    return secrets_pb2.SealStatus(**{"kind": "shamir", "initialised": True, **given})


def test_no_secret_manager_and_one_that_is_open_are_fine() -> None:
    assert only(findings.secrets(None)).level is Level.FINE
    found = only(findings.secrets(seal(kind="file")))
    assert (found.level, "unsealed (seal: file)" in found.message) == (Level.FINE, True)


@pytest.mark.parametrize(
    ("status", "said", "command"),
    [
        (seal(initialised=False, sealed=True), "no keys yet", "vestibule secret init"),
        (seal(sealed=True, shares=5, threshold=3, progress=1), "1 of 3 shares", "vestibule secret unseal"),
        (seal(kind="file", sealed=True, problem="no file"), "no file", "vestibule secret unseal"),
    ],
)
def test_a_secret_manager_that_gives_nobody_a_secret_is_to_be_mended(
    status: secrets_pb2.SealStatus, said: str, command: str
) -> None:
    found = only(findings.secrets(status))
    assert (found.level, said in found.message, command in found.hint) == (Level.FAILED, True, True)


def test_rows_that_somebody_changed_are_to_be_looked_at() -> None:
    _, found = findings.secrets(seal(damaged=["secret", "transit"]))
    assert (found.level, "secret, transit" in found.message) == (Level.FAILED, True)
    assert "secrets.tampering" in found.hint
