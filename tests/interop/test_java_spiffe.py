"""java-spiffe against our agent: identities, rotation, JWT-SVIDs, and mTLS with a Go program."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
from tests.interop.foreign import HERE, built, needed, programs
from tests.interop.mesh import Mesh, mesh, shared
from tests.interop.test_go_spiffe import line, running, watcher

__all__ = ["mesh", "programs", "shared", "watcher"]

SOURCES: Final = HERE / "java"
WITHIN: Final = 90.0


@pytest.fixture(scope="module")
def probe(programs: Path) -> list[str]:
    """The command that runs the probe."""
    needed("java", "javac", "mvn")
    libraries, classes = programs / "classpath", programs / "classes"
    words = ("-q", "-B", "dependency:build-classpath", f"-Dmdep.outputFile={libraries}")
    built("mvn", *words, directory=SOURCES)
    classpath = libraries.read_text().strip()
    built("javac", "-cp", classpath, "-d", str(classes), "src/Probe.java", directory=SOURCES)
    return ["java", "-cp", f"{classpath}:{classes}", "Probe"]


@pytest.fixture
def java(mesh: Mesh) -> Mesh:
    """A mesh with an identity for Java programs."""
    path = Path(str(shutil.which("java"))).resolve()
    mesh.entry("spiffe://example.org/java", f"unix:path:{path}", ttl="10s")
    return mesh


def said(*command: object) -> list[Any]:
    words = [str(each) for each in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=WITHIN)
    assert done.returncode == 0, done.stderr
    return [json.loads(each) for each in done.stdout.splitlines()]


def test_java_spiffe_is_pushed_identities_as_they_rotate(java: Mesh, probe: list[str]) -> None:
    found = said(*probe, java.socket, "x509", 3)
    assert {each["id"] for each in found} == {"spiffe://example.org/java"}
    assert len({each["serial"] for each in found}) == 3


def test_java_spiffe_fetches_and_validates_jwt_svids(java: Mesh, probe: list[str]) -> None:
    name = "spiffe://example.org/java"
    assert said(*probe, java.socket, "jwt", "payments") == [{"id": name, "remote": name, "local": name}]


def test_a_java_program_calls_a_go_program_over_mtls(java: Mesh, probe: list[str], watcher: Path) -> None:
    java.entry("spiffe://example.org/callee", f"unix:path:{watcher}")
    with running(watcher, java.socket, "serve", "spiffe://example.org/java") as server:
        host, _, port = line(server)["address"].rpartition(":")
        called = said(*probe, java.socket, "call", "spiffe://example.org/callee", host, port)
    assert called == [{"heard": "spiffe://example.org/java"}]
