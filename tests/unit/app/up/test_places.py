"""A run owns its state, keeps its sockets in a short private place, and cleans up after a killed one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from vestibule.app.up.places import Places, Tenancy
from vestibule.cli.run_state import RunState
from vestibule.errors import VestibuleError
from vestibule.processes import procfs


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp")
    return tmp_path / "state"


@pytest.fixture
def tenancy(base: Path) -> Iterator[tuple[Tenancy, Places]]:
    tenancy = Tenancy(base)
    places = tenancy.take()
    yield tenancy, places
    tenancy.give_back(places)


def note(places: Places, **changes: object) -> RunState:
    run = RunState(
        pid=os.getpid(),
        start_time=procfs.start_time(os.getpid()) or 0,
        intent=places.state,
        runtime=places.runtime,
        server_socket=places.server_socket,
        agent_socket=places.agent_socket,
        admin_socket=places.admin_socket,
        access_log=places.state,
        trust_bundle=places.trust_bundle,
        server_address="127.0.0.1:1",
        health_address="127.0.0.1:2",
    )
    return replace(run, **changes)  # type: ignore[arg-type]


def test_sockets_lie_in_a_private_directory_with_a_short_path(tenancy: tuple[Tenancy, Places]) -> None:
    _, places = tenancy
    assert places.runtime.stat().st_mode & 0o777 == 0o700
    assert len(os.fsencode(places.agent_socket)) < 60


def test_state_is_private(tenancy: tuple[Tenancy, Places], base: Path) -> None:
    assert base.stat().st_mode & 0o777 == 0o700


def test_a_second_run_in_the_same_place_is_refused(tenancy: tuple[Tenancy, Places], base: Path) -> None:
    note(tenancy[1]).write(base)
    with pytest.raises(VestibuleError, match=f"process {os.getpid()}") as caught:
        Tenancy(base).take()
    assert caught.value.code.code == "VST7302"
    assert "--state" in caught.value.advice


def test_giving_back_leaves_state_and_logs_only(base: Path) -> None:
    tenancy = Tenancy(base)
    places = tenancy.take()
    note(places).write(base)
    for each in (places.server_data, places.agent_data):
        each.mkdir()
    tenancy.give_back(places)
    assert not places.runtime.exists()
    assert sorted(path.name for path in base.iterdir()) == ["agent", "logs", "server"]


def test_forgetting_leaves_logs_only(base: Path) -> None:
    tenancy = Tenancy(base)
    places = tenancy.take(fresh=True)
    for each in (places.server_data, places.agent_data, places.intent_copy):
        each.mkdir()
    places.trust_bundle.write_text("pem")
    tenancy.give_back(places, forget=True)
    assert [path.name for path in base.iterdir()] == ["logs"]


def test_a_fresh_run_takes_over_nothing(base: Path) -> None:
    first = Tenancy(base)
    places = first.take()
    places.server_data.mkdir()
    (places.logs / "server.log").write_text("old")
    first.give_back(places)
    second = Tenancy(base)
    places = second.take(fresh=True)
    assert not places.server_data.exists()
    assert not list(places.logs.iterdir())
    second.give_back(places)


def test_what_a_killed_run_left_is_ended_and_removed(base: Path) -> None:
    # A run in a process of its own, killed while a descendant runs that has left its group, as daemons do.
    script = f"""
import asyncio, os, signal, sys
from pathlib import Path
sys.path[:0] = {sys.path!r}
from vestibule.app.up.places import Tenancy
from vestibule.cli.run_state import RunState
from vestibule.processes import Command, procfs

base = Path({str(base)!r})

async def main():
    tenancy = Tenancy(base)
    places = tenancy.take()
    pid = os.getpid()
    RunState(pid=pid, start_time=procfs.start_time(pid), intent=base, runtime=places.runtime,
             server_socket=base, agent_socket=base, admin_socket=base, access_log=base, trust_bundle=base,
             server_address="a", health_address="b").write(places.state)
    script = "setsid sleep 300 >/dev/null 2>&1 & wait"
    child = tenancy.ledger.start("child", Command(argv=("sh", "-c", script)), output=2)
    while not any("sleep" in procfs.command_line(each) for each in procfs.descendants(child.pid)):
        await asyncio.sleep(0.01)
    print(places.runtime, *procfs.descendants(child.pid), flush=True)
    os.kill(pid, signal.SIGKILL)

asyncio.run(main())
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == -9, run.stderr
    runtime, *pids = run.stdout.split()
    assert Path(runtime).is_dir()
    before = RunState.read(base)
    assert before is not None
    assert not before.is_running

    tenancy = Tenancy(base)
    places = tenancy.take()
    assert not Path(runtime).exists()
    assert not any("sleep" in procfs.command_line(int(pid)) for pid in pids)
    tenancy.give_back(places)


def test_what_runs_is_left_alone_and_what_was_killed_is_cleaned(
    tenancy: tuple[Tenancy, Places], base: Path, tmp_path: Path
) -> None:
    note(tenancy[1]).write(base)
    Tenancy(base).clean_up_quietly()
    assert tenancy[1].runtime.is_dir()
    other, runtime = tmp_path / "other", Path("/tmp/vestibule-0badcafe")
    runtime.mkdir(mode=0o700)
    other.mkdir(mode=0o700)
    note(Places(state=other, runtime=runtime), pid=1, start_time=1).write(other)
    Tenancy(other).clean_up_quietly()
    assert not runtime.exists()
    assert RunState.read(other) is None
    Tenancy(tmp_path / "never").clean_up_quietly()
    assert not (tmp_path / "never").exists()


def test_a_note_cannot_make_us_remove_just_any_directory(base: Path, tmp_path: Path) -> None:
    precious = tmp_path / "vestibule-precious"
    precious.mkdir(mode=0o700)
    (precious / "file").write_text("x")
    base.mkdir(mode=0o700)
    note(Places(state=base, runtime=precious), pid=1, start_time=1).write(base)
    tenancy = Tenancy(base)
    places = tenancy.take()
    assert (precious / "file").exists()
    tenancy.give_back(places)


def test_a_runtime_directory_that_is_too_long_is_passed_over(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    tenancy = Tenancy(base)
    places = tenancy.take()
    assert places.runtime.parent == Path("/tmp")
    tenancy.give_back(places)
