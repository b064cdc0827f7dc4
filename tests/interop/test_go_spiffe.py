"""go-spiffe against our agent, and the two programs of the Go walk-through."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from tests.interop.foreign import HERE, built, needed, programs
from tests.interop.mesh import Mesh, eventually, mesh, shared
from tests.ports import free_port

__all__ = ["mesh", "programs", "shared"]

SOURCES: Final = HERE / "go"
WITHIN: Final = 60.0


@pytest.fixture(scope="module")
def watcher(programs: Path) -> Path:
    needed("go")
    built("go", "build", "-o", str(programs / "watcher"), "./watcher", directory=SOURCES)
    return programs / "watcher"


@contextmanager
def running(*command: object) -> Iterator[subprocess.Popen[str]]:
    """A program whose stdin is open; closed at the end, and the program killed if that does not end it."""
    words = [str(each) for each in command]
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def said(*command: object) -> list[Any]:
    """Run to the end; what it printed."""
    words = [str(each) for each in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=WITHIN)
    assert done.returncode == 0, done.stderr
    return [json.loads(each) for each in done.stdout.splitlines()]


def as_two(program: Path) -> tuple[Path, Path]:
    """The same program at two paths, which make two workloads of it."""
    paths = program.with_name("caller"), program.with_name("callee")
    for each in paths:
        if not each.exists():
            shutil.copy(program, each)
    return paths


def test_go_spiffe_is_pushed_identities_as_they_rotate_come_and_go(mesh: Mesh, watcher: Path) -> None:
    mesh.entry("spiffe://example.org/web", f"unix:path:{watcher}", ttl="3s")
    with running(watcher, mesh.socket, "x509") as process:
        seen: list[Any] = []
        while len({each["svids"][0]["serial"] for each in seen if "svids" in each}) < 3:
            seen.append(line(process))
        updates = [each for each in seen if "svids" in each]
        assert all([svid["id"] for svid in each["svids"]] == ["spiffe://example.org/web"] for each in updates)
        assert all(each["authorities"] == {"example.org": 1} for each in updates)
        second = mesh.entry("spiffe://example.org/web/second", f"unix:path:{watcher}")
        while len(seen[-1].get("svids", ())) != 2:
            seen.append(line(process))
        mesh.command("entry", "delete", second)
        while len(seen[-1].get("svids", ())) != 1:
            seen.append(line(process))


def test_go_spiffe_watches_through_a_restart_of_the_agent(mesh: Mesh, watcher: Path) -> None:
    mesh.entry("spiffe://example.org/web", f"unix:path:{watcher}", ttl="4s")
    with running(watcher, mesh.socket, "x509") as process:
        found = line(process)
        while "svids" not in found:
            found = line(process)
        mesh.stop("agent")
        error = line(process)
        while "error" not in error:
            error = line(process)
        assert "Unavailable" in error["error"]
        mesh.start_agent()
        again = line(process)
        while "svids" not in again or again["svids"][0]["serial"] == found["svids"][0]["serial"]:
            again = line(process)
        assert again["svids"][0]["id"] == "spiffe://example.org/web"


def test_go_spiffe_fetches_and_validates_jwt_svids(mesh: Mesh, watcher: Path) -> None:
    mesh.entry("spiffe://example.org/web", f"unix:path:{watcher}")
    eventually(lambda: issued(watcher, mesh))
    [found] = said(watcher, mesh.socket, "jwt", "payments")
    lifetime = found.pop("lifetime")
    assert found == {
        "id": "spiffe://example.org/web",
        "remote": "spiffe://example.org/web",
        "local": "spiffe://example.org/web",
        "wrong_audience_refused": True,
    }
    assert 0 < lifetime <= 300
    [bundles] = said(watcher, mesh.socket, "bundles")
    assert bundles["x509:example.org"] == 1
    assert bundles["jwt:example.org"] >= 1


def test_go_programs_call_each_other_over_mtls_while_their_certificates_rotate(
    mesh: Mesh, watcher: Path
) -> None:
    caller, callee = as_two(watcher)
    mesh.entry("spiffe://example.org/caller", f"unix:path:{caller}", ttl="8s")
    mesh.entry("spiffe://example.org/callee", f"unix:path:{callee}", ttl="8s")
    with running(callee, mesh.socket, "serve", "spiffe://example.org/caller") as server:
        address = line(server)["address"]
        heard: list[Any] = []
        while len({each["serial"] for each in heard}) < 3:
            heard += said(caller, mesh.socket, "call", "spiffe://example.org/callee", address, 50)
        assert {each["heard"] for each in heard} == {"spiffe://example.org/caller"}


def test_the_two_programs_of_the_walk_through_greet_each_other(mesh: Mesh, programs: Path) -> None:
    needed("go")
    port = free_port()
    module = programs / "walk-through"
    shutil.copytree(SOURCES, module)
    for source in module.glob("hello-*/main.go"):
        text = source.read_text()
        text = text.replace("/tmp/spire/socket/agent.sock", str(mesh.socket)).replace(":8443", f":{port}")
        source.write_text(text)
    built("go", "build", "-o", str(programs), "./hello-server", "./hello-client", directory=module)
    # As the walk-through registers them, but for the selectors: here both run as the same user.
    for name in ("server", "client"):
        mesh.entry(f"spiffe://example.org/{name}", f"unix:path:{programs}/hello-{name}", ttl="300s")
    with running(programs / "hello-server") as server:
        assert server.stderr is not None
        for expected in ("Expecting client: spiffe://example.org/client", f"Server listening on :{port}"):
            assert expected in server.stderr.readline()
        client = subprocess.run(
            [str(programs / "hello-client")], capture_output=True, text=True, timeout=WITHIN
        )
        assert "Server responded with status 200: Hello, authenticated client!" in client.stderr
        assert "authenticated client: spiffe://example.org/client" in server.stderr.readline()


def issued(watcher: Path, mesh: Mesh) -> bool:
    words = [str(watcher), str(mesh.socket), "bundles"]
    return subprocess.run(words, capture_output=True, timeout=WITHIN).returncode == 0
