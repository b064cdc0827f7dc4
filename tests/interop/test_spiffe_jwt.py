"""JWT-SVIDs for the ``spiffe`` package from PyPI (py-spiffe), in its own process."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any, Final

from tests.interop.mesh import Mesh, eventually, mesh, own_mesh, shared

__all__ = ["mesh", "own_mesh", "shared"]

FETCH: Final = """
import json, sys
from spiffe import JwtSource, JwtSvid, SpiffeId, TrustDomain, WorkloadApiClient
socket, = sys.argv[1:]
client = WorkloadApiClient("unix://" + socket)
try:
    with JwtSource(client, timeout_in_seconds=90) as source:
        svid = source.fetch_svid({"db", "queue"})
        both = source.fetch_svids({"db"})
        one = source.fetch_svid({"db"}, subject=SpiffeId("spiffe://example.org/web"))
        bundle = source.get_bundle_for_trust_domain(TrustDomain("example.org"))
        local = JwtSvid.parse_and_validate(svid.token, bundle, {"db"})
        asked = client.validate_jwt_svid(svid.token, "queue")
        try:
            client.validate_jwt_svid(svid.token, "other")
            refused = ""
        except Exception as error:
            refused = str(error)
        print(json.dumps({
            "error": "",
            "ids": sorted(str(each.spiffe_id) for each in both),
            "one": str(one.spiffe_id),
            "local": str(local.spiffe_id),
            "asked": str(asked.spiffe_id),
            "audience": sorted(asked.audience),
            "keys": sorted(bundle.jwt_authorities),
            "refused": refused,
        }))
except Exception as error:
    print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
"""

DENIED: Final = """
import json, sys
from spiffe import WorkloadApiClient
with WorkloadApiClient("unix://" + sys.argv[1]) as client:
    try:
        client.fetch_jwt_svid({"db"})
        print(json.dumps({"error": ""}))
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
"""

KEYS: Final = """
import json, sys, threading
from spiffe import JwtSource, JwtSvid, TrustDomain, WorkloadApiClient
def bundle():
    return source.get_bundle_for_trust_domain(TrustDomain("example.org"))
changed = threading.Event()
source = JwtSource(WorkloadApiClient("unix://" + sys.argv[1]), timeout_in_seconds=90)
source.subscribe_for_updates(lambda: changed.set() if len(bundle().jwt_authorities) > 1 else None)
old = source.fetch_svid({"db"})
print(len(bundle().jwt_authorities), flush=True)
changed.wait(120)
for audience in ("db", "new"):
    JwtSvid.parse_and_validate(source.fetch_svid({audience}).token, bundle(), {audience})
JwtSvid.parse_and_validate(old.token, bundle(), {"db"})
print(len(bundle().jwt_authorities), flush=True)
source.close()
"""


def fetched(mesh: Mesh) -> Any:
    eventually(lambda: mesh.client(FETCH)["error"] == "")
    return mesh.client(FETCH)


def test_a_foreign_client_fetches_and_validates_tokens(mesh: Mesh) -> None:
    mesh.entry("spiffe://example.org/web")
    mesh.entry("spiffe://example.org/batch")
    deadline = time.monotonic() + 60
    while len((found := fetched(mesh))["ids"]) < 2:
        assert time.monotonic() < deadline
    assert found["ids"] == ["spiffe://example.org/batch", "spiffe://example.org/web"]
    assert found["one"] == "spiffe://example.org/web"
    assert found["local"] == found["asked"]
    assert found["audience"] == ["db", "queue"]
    assert len(found["keys"]) == 1
    assert "VST2201" in found["refused"]


def test_a_foreign_client_without_an_identity_gets_no_token(mesh: Mesh) -> None:
    assert "no identity issued" in mesh.client(DENIED)["error"]


def test_a_jwt_source_follows_the_keys(own_mesh: Mesh) -> None:
    own_mesh.entry("spiffe://example.org/web")
    fetched(own_mesh)
    command = [sys.executable, "-c", KEYS, str(own_mesh.socket)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        # A server that lost its key makes another one; the old one stays, for what it signed.
        own_mesh.stop("server")
        for key in (own_mesh.directory / "server" / "keys").glob("jwt-key-*"):
            key.unlink()
        own_mesh.start_server()
        output, errors = process.communicate(timeout=150)
        assert process.returncode == 0, errors
        assert output == "2\n"
    finally:
        process.kill()
        process.communicate()
