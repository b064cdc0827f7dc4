"""The ``spiffe`` package from PyPI (py-spiffe) against our agent: every part its own process.

It is not importable beside our generated types in general, and is the strictest client there is: a stream that
ends with OK or CANCELLED stops it for good.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.interop.mesh import Mesh, eventually, mesh, shared

__all__ = ["mesh", "shared"]

CONTEXT: Final = """
import json, sys
from spiffe import TrustDomain, WorkloadApiClient
with WorkloadApiClient("unix://" + sys.argv[1]) as client:
    context = client.fetch_x509_context()
    bundles = client.fetch_x509_bundles()
    svid = context.default_svid
    print(json.dumps({
        "ids": [str(each.spiffe_id) for each in context.x509_svids],
        "serial": str(svid.leaf.serial_number),
        "chain": len(svid.cert_chain),
        "authorities": len(bundles.get_bundle_for_trust_domain(TrustDomain("example.org")).x509_authorities),
        "same": context.x509_bundle_set.get_bundle_for_trust_domain(TrustDomain("example.org"))
            == bundles.get_bundle_for_trust_domain(TrustDomain("example.org")),
    }))
"""

DENIED: Final = """
import json, sys
from spiffe import WorkloadApiClient
with WorkloadApiClient("unix://" + sys.argv[1]) as client:
    try:
        client.fetch_x509_context()
        print(json.dumps({"error": ""}))
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
"""

SOURCE: Final = """
import json, sys, threading
from spiffe import WorkloadApiClient, X509Source
wanted = int(sys.argv[2])
changed, serials, lock = threading.Event(), [], threading.Lock()
def note():
    with lock:
        serial = str(source.svid.leaf.serial_number)
        if serial not in serials:
            serials.append(serial)
            print(serial, flush=True)
        if len(serials) >= wanted:
            changed.set()
client = WorkloadApiClient("unix://" + sys.argv[1])
source = X509Source(client, timeout_in_seconds=90)
source.subscribe_for_updates(note)
note()
done = changed.wait(120)
source.close()
sys.exit(0 if done else 1)
"""


@contextmanager
def source(mesh: Mesh, serials: int) -> Iterator[subprocess.Popen[str]]:
    """An X509Source that prints each new serial and ends after so many."""
    command = [sys.executable, "-c", SOURCE, str(mesh.socket), str(serials)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_foreign_client_reads_its_identity_and_bundles(mesh: Mesh) -> None:
    mesh.entry("spiffe://example.org/web")
    mesh.entry("spiffe://example.org/someone-else", "unix:uid:4000001")
    eventually(lambda: mesh.client(DENIED)["error"] == "")
    found = mesh.client(CONTEXT)
    assert found["ids"] == ["spiffe://example.org/web"]
    assert found["chain"] == 1
    assert found["authorities"] == 1
    assert found["same"]


def test_a_foreign_client_that_no_entry_matches_fails_clearly(mesh: Mesh) -> None:
    error = mesh.client(DENIED)["error"]
    assert "no identity issued" in error


def test_an_x509_source_sees_rotations(mesh: Mesh) -> None:
    mesh.entry("spiffe://example.org/web", ttl="3s")
    eventually(lambda: mesh.client(DENIED)["error"] == "")
    with source(mesh, serials=3) as process:
        output, errors = process.communicate(timeout=150)
        assert process.returncode == 0, errors
    assert len(set(output.split())) == 3


def test_an_x509_source_survives_an_agent_restart_while_the_server_is_down(mesh: Mesh) -> None:
    mesh.entry("spiffe://example.org/web")
    eventually(lambda: mesh.client(DENIED)["error"] == "")
    with source(mesh, serials=2) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip()
        mesh.stop("server")
        mesh.stop("agent")
        mesh.start_agent()
        assert mesh.client(CONTEXT)["ids"] == ["spiffe://example.org/web"]
        mesh.start_server()
        entries = mesh.command("entry", "show")
        entry_id = next(each["id"] for each in entries if each["spiffe_id"].endswith("/web"))
        # A new lifetime means a new certificate: the source must have come back to see it.
        mesh.command("entry", "update", entry_id, "--x509-svid-ttl", "30m")
        output, errors = process.communicate(timeout=150)
        assert process.returncode == 0, errors
        assert output.strip()
