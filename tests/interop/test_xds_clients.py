"""Clients of the mesh without a sidecar of ours: gRPC that asks for ``xds:///``, and an Envoy somebody wrote by hand.

One ``vestibule up`` runs the services that they call, behind real sidecars.  The clients are processes of this user,
who is ``web`` by an entry.  That entry fits the sidecars' Envoys as well, and comes first: they are their sidecars' all
the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from ruamel.yaml import YAML
from tests.ports import free_port

from vestibule.cli.run_state import RunState
from vestibule.proxy.binary import find_envoy

VESTIBULE: Final = [sys.executable, "-m", "vestibule"]
PATIENCE: Final = 60.0
WEB: Final = "spiffe://example.org/ns/test/sa/web"
FILES: Final = {
    "mesh.yaml": "mesh: m\ntrust_domain: example.org\nenvironment: test\n",
    "services/web.yaml": "service: web\nports: {http: {protocol: http}}\nallow: []\n",
    "services/api.yaml": "service: api\nports: {http: {protocol: http}}\n"
    "allow: [{id: web, from: [web], methods: [GET], paths: [/**]}]\n",
    "services/stock.yaml": "service: stock\nports: {grpc: {protocol: grpc}}\n"
    "allow: [{id: web-asks, from: [web], paths: [/stock.Stock/Count]}]\n",
    "up.yaml": f"apps:\n  api: {{run: [{sys.executable}, api.py]}}\n  stock: {{run: [{sys.executable}, stock.py]}}\n",
    "api.py": """
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class App(BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.headers.get("x-forwarded-client-cert", "").encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): ...

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), App).serve_forever()
""",
    "stock.py": """
import os
from concurrent.futures import ThreadPoolExecutor
import grpc

def count(request, context):
    who = dict(context.invocation_metadata()).get("x-forwarded-client-cert", "")
    return request + b" of " + who.encode()

handler = grpc.method_handlers_generic_handler("stock.Stock", {
    "Count": grpc.unary_unary_rpc_method_handler(count),
    "Spoil": grpc.unary_unary_rpc_method_handler(count),
})
server = grpc.server(ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((handler,))
server.add_insecure_port(f"127.0.0.1:{os.environ['PORT']}")
server.start()
server.wait_for_termination()
""",
}
CALLER: Final = """
import json
import grpc
import grpc.experimental

credentials = grpc.xds_channel_credentials(grpc.experimental.insecure_channel_credentials())
channel = grpc.secure_channel("xds:///stock", credentials)
found = {}
for method in ("Count", "Spoil"):
    try:
        call = channel.unary_unary(f"/stock.Stock/{method}")
        found[method] = call(b"five", timeout=60, wait_for_ready=method == "Count").decode()
    except grpc.RpcError as error:
        found[method] = f"{error.code().name} {error.details()}"
print(json.dumps(found))
"""


@dataclass
class Running:
    """The mesh, and what clients need."""

    directory: Path
    agent_socket: Path
    server: str


def vestibule(*words: str) -> Any:
    done = subprocess.run(
        [*VESTIBULE, *words, "--output", "json"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)["data"]


@pytest.fixture(scope="module")
def mesh() -> Iterator[Running]:
    directory = Path(tempfile.mkdtemp(prefix="vx", dir="/tmp"))
    for name, text in FILES.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)
    log = directory / "up.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*VESTIBULE, "up", ".", "--output", "json"], cwd=directory, stdout=out, stderr=out
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while b"\n}\n" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        note = RunState.read(directory / ".vestibule")
        assert note is not None
        server = ("--server-socket", str(note.server_socket))
        [agent] = vestibule("agent", "list", *server)
        vestibule(
            "entry", "create", "--spiffe-id", WEB, "--parent-id", agent["spiffe_id"],
            "--selector", f"unix:uid:{os.geteuid()}", "--entry-id", "0-before-all-others", *server,
        )  # fmt: skip
        yield Running(directory, note.agent_socket, note.server_address)
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)


def written(mesh: Running) -> Path:
    """The identity as files, once the agent has it."""
    place = mesh.directory / "svid"
    place.mkdir(exist_ok=True)
    deadline = time.monotonic() + PATIENCE
    words = ["svid", "write", str(place), "--cert", "svid.pem", "--key", "svid.key", "--bundle", "bundle.pem"]
    while True:
        done = subprocess.run(
            [*VESTIBULE, *words, "--agent-socket", str(mesh.agent_socket)], capture_output=True, text=True
        )
        if done.returncode == 0:
            return place
        assert time.monotonic() < deadline, done.stdout + done.stderr
        time.sleep(0.2)


def test_grpc_without_a_proxy_calls_by_name_over_mutual_tls_and_rules_hold(mesh: Running) -> None:
    place = written(mesh)
    text = on_the_page("json", "xds_servers")
    text = text.replace("/run/vestibule/agent.sock", str(mesh.agent_socket)).replace("/run/web", str(place))
    path = mesh.directory / "grpc.json"
    path.write_text(text)
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", CALLER],
        env=environment | {"GRPC_XDS_BOOTSTRAP": str(path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["Count"].startswith("five of "), found
    assert f"URI={WEB}" in found["Count"]
    assert found["Spoil"].startswith("PERMISSION_DENIED"), found


def on_the_page(language: str, word: str) -> str:
    """The block of docs/xds.md in this language with this word."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "xds.md").read_text()
    blocks = re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)
    (found,) = [each for each in blocks if word in each]
    return str(found)


def bootstrap_by_hand(mesh: Running, port: int) -> dict[str, Any]:
    """What the page says, with this mesh's socket and a free port."""
    text = on_the_page("yaml", "dynamic_resources")
    document = YAML(typ="safe").load(text.replace("/run/vestibule/agent.sock", str(mesh.agent_socket)))
    (listener,) = document["static_resources"]["listeners"]
    listener["address"]["socket_address"]["port_value"] = port
    return dict(document)


@contextlib.contextmanager
def envoy(mesh: Running, bootstrap: dict[str, Any]) -> Iterator[Path]:
    path, log = mesh.directory / "envoy.json", mesh.directory / "envoy.log"
    path.write_text(json.dumps(bootstrap))
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(find_envoy()), "-c", str(path), "--use-dynamic-base-id", "--concurrency", "1", "-l", "info"],
            stdout=out,
            stderr=out,
        )
    try:
        yield log
    finally:
        process.terminate()
        process.wait(20)


def answer(port: int, name: str, log: Path) -> httpx.Response:
    """What a name answers, once there is an answer."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(httpx.TransportError):
            found = httpx.get(
                f"http://127.0.0.1:{port}/", headers={"host": name}, trust_env=False, timeout=60
            )
            if found.status_code != 503:
                return found
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def test_an_envoy_with_a_bootstrap_by_hand_calls_by_name_through_the_agents_socket(mesh: Running) -> None:
    written(mesh)
    port = free_port()
    with envoy(mesh, bootstrap_by_hand(mesh, port)) as log:
        found = answer(port, "api", log)
        assert found.status_code == 200, log.read_text()
        assert f"URI={WEB}" in found.text
        assert answer(port, "nobody", log).status_code == 404


def test_an_envoy_by_hand_comes_to_the_servers_port_with_its_certificate_by_sds(mesh: Running) -> None:
    """The same, without the agent between: mutual TLS with the identity that the agent's SDS gives it."""
    written(mesh)
    port = free_port()
    bootstrap = bootstrap_by_hand(mesh, port)
    agent = {
        "resource_api_version": "V3",
        "api_config_source": {
            "api_type": "GRPC",
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "vestibule_agent"}}],
        },
    }
    host, _, server_port = mesh.server.rpartition(":")
    server = {
        "name": "server",
        "load_assignment": {
            "cluster_name": "server",
            "endpoints": [
                {
                    "lb_endpoints": [
                        {
                            "endpoint": {
                                "address": {
                                    "socket_address": {"address": host, "port_value": int(server_port)}
                                }
                            }
                        }
                    ]
                }
            ],
        },
        "typed_extension_protocol_options": bootstrap["static_resources"]["clusters"][0][
            "typed_extension_protocol_options"
        ],
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": {
                    "alpn_protocols": ["h2"],
                    "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
                    "tls_certificate_sds_secret_configs": [{"name": "default", "sds_config": agent}],
                    "combined_validation_context": {
                        "default_validation_context": {
                            "match_typed_subject_alt_names": [
                                {"san_type": "URI", "matcher": {"exact": "spiffe://example.org/spire/server"}}
                            ]
                        },
                        "validation_context_sds_secret_config": {"name": "ROOTCA", "sds_config": agent},
                    },
                },
            },
        },
    }
    bootstrap["static_resources"]["clusters"].append(server)
    [service] = bootstrap["dynamic_resources"]["ads_config"]["grpc_services"]
    service["envoy_grpc"]["cluster_name"] = "server"
    with envoy(mesh, bootstrap) as log:
        found = answer(port, "api", log)
        assert found.status_code == 200, log.read_text()
        assert f"URI={WEB}" in found.text
