"""Small parts of a run: ready lines, commands, milestones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tests.component.git_lab import Repository

from vestibule.app.up import commands
from vestibule.app.up.committed import Committed
from vestibule.app.up.places import Places
from vestibule.app.up.plan import InstancePlan
from vestibule.app.up.sidecars import Where
from vestibule.app.up.timeline import Timeline
from vestibule.errors import VestibuleError
from vestibule.intent import App
from vestibule.records import Address

PLACES = Places(state=Path("/state"), runtime=Path("/run/v"))


def test_a_ready_line_says_where_a_proxy_listens() -> None:
    line = (
        "sidecar ready: service=orders instance=orders-1 spiffe_id=spiffe://example.org/ns/prod/sa/orders "
        "ingress.http=127.0.0.1:1234 ingress.admin=[::1]:1235 app.http=127.0.0.1:9 "
        "egress=127.0.0.1:15001 boundary=trust"
    )
    where = Where.parse(line)
    assert where.instance_id == "orders-1"
    assert where.ingress == {
        "http": Address(host="127.0.0.1", port=1234),
        "admin": Address(host="::1", port=1235),
    }
    assert where.egress == Address(host="127.0.0.1", port=15001)


def test_a_ready_line_without_an_egress_is_none() -> None:
    with pytest.raises(ValueError, match="egress"):
        Where.parse("sidecar ready: instance=x")


def test_every_part_is_the_same_program_and_nothing_beside_it_is_imported() -> None:
    command = commands.server(
        PLACES,
        trust_domain="example.org",
        intent=Path("/i"),
        port=1,
        health_port=2,
        secrets_port=3,
        tokens_port=4,
    )
    assert command.argv[:4] == (sys.executable, "-P", "-m", "vestibule")


def test_a_server_follows_files_or_commits() -> None:
    ports = {"port": 1, "health_port": 2, "secrets_port": 3, "tokens_port": 4}
    places: dict[str, Any] = {"trust_domain": "example.org", **ports}
    files = commands.server(PLACES, intent=Path("/i"), **places).argv
    assert files[files.index("--intent") + 1] == "/i"
    made = Committed(repository=Path("/r"), branch="main", folder="mesh")
    commits = commands.server(PLACES, intent=made, **places).argv
    assert "--intent" not in commits
    assert commits[-6:] == (
        *("--intent-git", "/r", "--intent-git-ref", "main"),
        *("--intent-git-directory", "mesh"),
    )


def test_an_agent_says_where_it_is_if_it_is_told() -> None:
    places: dict[str, Any] = {"trust_domain": "example.org", "server_port": 1}
    descriptors: dict[str, Any] = {"supervisor": 5, "bundle": 6, "token": 8}
    assert "--locality" not in commands.agent(PLACES, **places, **descriptors).argv
    assert commands.agent(PLACES, **places, **descriptors, locality="eu/a").argv[-2:] == (
        "--locality",
        "eu/a",
    )


def test_the_commits_to_follow_are_those_of_the_branch_that_is_checked_out(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r")
    repository.commit({"mesh/mesh.yaml": "mesh: m"})
    repository.git("switch", "-q", "-c", "try/this")
    found = Committed.around(repository.path / "mesh")
    assert found == Committed(repository=repository.path, branch="try/this", folder="mesh")
    assert Committed.around(repository.path).folder == ""
    repository.git("switch", "-q", "--detach")
    for place in (repository.path, tmp_path):
        with pytest.raises(VestibuleError, match="VST7306"):
            Committed.around(place)


def test_no_secret_is_in_arguments_or_environment() -> None:
    app = InstancePlan(name="web", service="web", app=App(service="web", run=("python", "web.py")))
    sidecar = commands.sidecar(PLACES, app, Path("/i"), 7)
    agent = commands.agent(PLACES, trust_domain="example.org", server_port=1, supervisor=5, bundle=6, token=8)
    assert sidecar.hand_over == (7,)
    assert agent.hand_over == (5, 6, 8)
    assert agent.argv[agent.argv.index("--join-token-file") + 1] == "/dev/fd/8"
    assert sidecar.argv[-2:] == (sys.executable, "web.py")


def test_a_gateway_is_a_sidecar_without_an_app() -> None:
    argv = commands.sidecar(PLACES, InstancePlan(name="edge", service="edge"), Path("/i"), 7).argv
    assert argv[argv.index("sidecar") + 1 :][:2] == ("--gateway", "edge")
    assert not {"--", "--service", "--version"} & set(argv)
    line = "sidecar ready: service=edge instance=edge-1 ingress.https=127.0.0.1:8443 egress= boundary=trust"
    where = Where.parse(line)
    assert where.way_out is None
    assert where.ingress == {"https": Address(host="127.0.0.1", port=8443)}


def test_variables_that_speak_to_us_do_not_reach_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VESTIBULE_AGENT_SOCKET", "/elsewhere")
    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", "unix:///elsewhere")
    monkeypatch.setenv("KEPT", "yes")
    environment = commands.environment({"MORE": "1"})
    assert environment["KEPT"] == "yes"
    assert environment["MORE"] == "1"
    assert not {"VESTIBULE_AGENT_SOCKET", "SPIFFE_ENDPOINT_SOCKET"} & environment.keys()


def test_a_milestone_is_reached_once() -> None:
    timeline = Timeline()
    first = timeline.reached("server")
    assert timeline.reached("server") == first
    timeline.reached("agent")
    assert list(timeline.milestones) == ["server", "agent"]
    assert str(timeline).startswith("server ")


def test_time_can_count_from_the_start_of_the_process() -> None:
    assert Timeline(since_process_start=True).reached("x") > Timeline().reached("x")
