"""Commands find the server and the agent in one order: told, running here, installed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vestibule.cli.run_state import RunState
from vestibule.cli.sockets import SYSTEM_RUNTIME, find_sockets
from vestibule.errors import VestibuleError
from vestibule.processes import procfs


def _run(tmp_path: Path, *, start_time: int) -> RunState:
    return RunState(
        pid=os.getpid(),
        start_time=start_time,
        intent=tmp_path,
        runtime=tmp_path,
        server_socket=tmp_path / "up-server.sock",
        agent_socket=tmp_path / "up-agent.sock",
        admin_socket=tmp_path / "up-admin.sock",
        access_log=tmp_path / "access.jsonl",
        trust_bundle=tmp_path / "bundle.pem",
        server_address="127.0.0.1:1",
        health_address="127.0.0.1:2",
    )


@pytest.fixture
def running(tmp_path: Path) -> RunState:
    start_time = procfs.start_time(os.getpid())
    assert start_time is not None
    run = _run(tmp_path, start_time=start_time)
    run.write(tmp_path)
    return run


def test_what_is_told_wins(tmp_path: Path, running: RunState) -> None:
    found = find_sockets(server=Path("/s"), agent=Path("/a"), admin=Path("/d"), state=tmp_path)
    assert (found.server, found.agent, found.admin) == (Path("/s"), Path("/a"), Path("/d"))


def test_a_run_in_this_directory_is_found(tmp_path: Path, running: RunState) -> None:
    found = find_sockets(state=tmp_path)
    assert found.run == running
    assert found.server == running.server_socket
    assert found.agent == running.agent_socket
    assert found.admin == running.admin_socket


def test_the_note_of_a_killed_run_is_not_believed(tmp_path: Path, running: RunState) -> None:
    _run(tmp_path, start_time=running.start_time - 1).write(tmp_path)
    found = find_sockets(state=tmp_path)
    assert found.run is None
    assert found.server != running.server_socket


def test_a_note_that_cannot_be_read_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "up.json").write_text("{", encoding="utf-8")
    assert RunState.read(tmp_path) is None
    (tmp_path / "up.json").write_text('{"pid": 1}', encoding="utf-8")
    assert RunState.read(tmp_path) is None


def test_a_strangers_note_is_not_believed(
    tmp_path: Path, running: RunState, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert RunState.read(tmp_path) is None


def test_a_run_that_is_over_is_forgotten(tmp_path: Path, running: RunState) -> None:
    RunState.forget(tmp_path)
    RunState.forget(tmp_path)
    assert RunState.read(tmp_path) is None


def test_without_a_run_the_runtime_directory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert find_sockets(state=tmp_path).server == SYSTEM_RUNTIME / "server.sock"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "vestibule").mkdir()
    assert find_sockets(state=tmp_path).agent == tmp_path / "vestibule" / "agent.sock"


@pytest.mark.parametrize("uri", ["unix:///run/x.sock", "unix:/run/x.sock", "/run/x.sock"])
def test_the_endpoint_variable_of_the_standard_is_understood(tmp_path: Path, uri: str) -> None:
    assert find_sockets(agent=Path(uri), state=tmp_path).agent == Path("/run/x.sock")


def test_a_missing_socket_says_how_to_start_what_is_missing(tmp_path: Path) -> None:
    found = find_sockets(server=tmp_path / "none.sock", state=tmp_path)
    with pytest.raises(VestibuleError, match="no server socket") as caught:
        found.existing_server()
    assert caught.value.code.code == "VST9102"
    assert "--server-socket" in caught.value.advice
