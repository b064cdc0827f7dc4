"""A gateway, an app and a host outside, as `vestibule up` runs them: from a client through and out again."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.front_door import Program, until, vestibule
from tests.e2e.outside_lab import PublicAuthority
from tests.ports import free_port
from tests.whole_lines import whole_lines

APP = """
import os, urllib.error, urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Web(BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            status, body = 200, urllib.request.urlopen("http://outside" + self.path).read()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Web).serve_forever()
"""
FILES = {
    "mesh.yaml": "mesh: try\ntrust_domain: example.org\nenvironment: dev\n",
    "services/web.yaml": """
service: web
ports: {{http: {{protocol: http}}}}
allow: [{{id: edge, from: [edge], methods: [GET], paths: [/v1/**, /v2/**]}}]
""",
    "egress/outside.yaml": """
external: outside
hosts: [localhost:{outside}]
tls: {{ca: certs/ca.pem}}
allow: [{{id: web-reads, from: [web], methods: [GET], paths: [/v1/**]}}]
credential: {{header: authorization, prefix: "Bearer ", file: {directory}/token}}
""",
    "gateways/edge.yaml": """
gateway: edge
listeners:
  https:
    port: {https}
    address: 127.0.0.1
    tls: {{certificate: {directory}/tls.crt, key: {directory}/tls.key}}
    hosts: [shop.example.com]
  http: {{port: {http}, address: 127.0.0.1}}
routes:
  - {{id: secure, match: {{hosts: [shop.example.com]}}, redirect: {{https: true, status: 308}}}}
  - {{id: all, to: web}}
""",
    "up.yaml": "apps: {{web: {{run: [python, app.py]}}}}\ngateways: [edge]\n",
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps(
            {"path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}}
        ).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Scene:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.public = PublicAuthority("Public Root")
        self.ports = {name: free_port() for name in ("outside", "https", "http")}
        self.intent = directory / "intent"
        for name, text in FILES.items():
            path = self.intent / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.format(directory=directory, **self.ports))
        (self.intent / "app.py").write_text(APP)
        (self.intent / "certs").mkdir()
        (self.intent / "certs" / "ca.pem").write_text(self.public.pem)
        (directory / "token").write_text("s3cr3t-t0ken\n")
        self.keep("tls", "shop.example.com")

    def keep(self, stem: str, name: str) -> None:
        """A certificate for a name, as files."""
        made = self.public.issue(self.directory, name)
        for file, suffix in zip(made, ("crt", "key"), strict=True):
            file.replace(self.directory / f"{stem}.{suffix}")

    def serve_outside(self) -> ThreadingHTTPServer:
        self.keep("outside", "localhost")
        server = ThreadingHTTPServer(("127.0.0.1", self.ports["outside"]), Handler)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.directory / "outside.crt", self.directory / "outside.key")
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def ask(self, path: str, host: str = "shop.example.com") -> tuple[int, Any]:
        """What a client outside is answered, who verifies the gateway's certificate."""
        context = ssl.create_default_context(cadata=self.public.pem)
        plain = socket.create_connection(("127.0.0.1", self.ports["https"]), 20)
        connection = http.client.HTTPConnection(host, timeout=60)
        connection.sock = context.wrap_socket(plain, server_hostname="shop.example.com")
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, json.loads(body)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    server = scene.serve_outside()
    try:
        yield scene
    finally:
        server.shutdown()
        server.server_close()


def test_a_request_comes_in_at_the_gateway_and_leads_to_a_call_outside(scene: Scene) -> None:
    found = vestibule("validate", scene.intent)
    assert found.code == 0, found
    up = Program(
        scene.directory, "up", ["up", scene.intent, "--state", scene.directory / "s", "--output", "json"]
    )
    try:
        ready = up.ready()
        assert ready["gateways"] == {
            "edge": {name: f"127.0.0.1:{scene.ports[name]}" for name in ("http", "https")}
        }
        status, body = scene.ask("/v1/things")
        assert (status, body["path"]) == (200, "/v1/things"), body
        assert body["headers"]["authorization"] == "Bearer s3cr3t-t0ken"
        assert body["headers"]["host"] == f"localhost:{scene.ports['outside']}"
        assert not [each for each in body["headers"] if each.startswith(("x-", "forwarded"))]
        # Which of the proxies refuses: web's, that lets it go no further; web's, as the callee; the gateway.
        refused = [scene.ask(path)[1]["error"] for path in ("/v2/things", "/v3/things")]
        refused.append(scene.ask("/v1/things", "elsewhere.example.com")[1]["error"])
        assert refused == ["VST4001", "VST4001", "VST3034"]
        log = scene.directory / "s" / "agent" / "access.jsonl"

        def records() -> list[dict[str, Any]]:
            lines = (json.loads(line) for line in whole_lines(log.read_text()))
            return [each for each in lines if each.get("path") == "/v1/things" and each["status"] == 200]

        until(lambda: len(records()) >= 3, "a record of each hop")
        told = {(each["reporter_service"], each["direction"], each["rule"]) for each in records()}
        assert ("web", "outbound", "egress/outside/web-reads") in told
        assert ("edge", "inbound", "") in told
        assert "s3cr3t" not in log.read_text()
    finally:
        up.stop()


def test_a_gateway_with_a_key_that_does_not_fit_says_so_and_does_not_start(scene: Scene) -> None:
    _, other = scene.public.issue(scene.directory, "shop.example.com")
    other.replace(scene.directory / "tls.key")
    up = Program(
        scene.directory, "up", ["up", scene.intent, "--state", scene.directory / "s", "--output", "json"]
    )
    ended = up.ended()
    error = up.documents[-1]["errors"][0]
    assert ended.code != 0
    assert "VST7223" in error["message"] + ended.err, (error, ended.err)
    assert "is not the one of the certificate" in error["message"] + ended.err
