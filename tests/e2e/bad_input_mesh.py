"""Two services with their sidecars on the shared platform, and what a hostile one brings along."""

from __future__ import annotations

import http.client
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.e2e.bad_input_lab import PYTHON, Platform
from tests.e2e.front_door import Program, children_of, until, vestibule
from tests.whole_lines import whole_lines

APP: Final = """
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

while os.path.exists(sys.argv[1]):
    time.sleep(0.02)

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = json.dumps({"caller": self.headers.get("x-forwarded-client-cert"), "pid": os.getpid()}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
FORGED_NODE: Final = """#!/bin/sh
# An Envoy whose owner changed what it says of itself.
if [ "$1" = --config-path ]; then
    sed -i 's/"node": {{"id": "[^"]*", "cluster": "[^"]*"/"node": {{"id": "{instance}", "cluster": "orders"/' "$2"
    cp "$2" {seen}
fi
exec {envoy} "$@"
"""
FORGED_LOG: Final = """#!{python}
# Says that it is Envoy, gets vouched for as one, and sends access records about a call that never was.
import asyncio, json, sys, time
if sys.argv[1:] == ["--version"]:
    print("envoy  version: 0123456789abcdef/1.40.0/Clean/RELEASE/BoringSSL")
    raise SystemExit
from envoy.service.accesslog.v3 import als_pb2
from grpclib.client import Channel, StreamUnaryMethod

async def main():
    message = als_pb2.StreamAccessLogsMessage()
    message.identifier.node.id = "{instance}"
    message.identifier.node.cluster = "orders"
    message.identifier.log_name = "vestibule/outbound/orders/http"
    entry = message.http_logs.log_entry.add()
    entry.request.path = '/forged\\n{{"schema":"vestibule.access/v1","reporter_service":"orders"}}'
    entry.common_properties.custom_tags["reporter_service"] = "orders"
    entry.common_properties.custom_tags["source_spiffe_id"] = "{orders}"
    entry.common_properties.tls_properties.peer_certificate_properties.subject_alt_name.add().uri = "{orders}"
    send = StreamUnaryMethod(
        Channel(path="{socket}"),
        "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs",
        als_pb2.StreamAccessLogsMessage,
        als_pb2.StreamAccessLogsResponse,
    )
    while True:
        try:
            async with send.open() as stream:
                await stream.send_message(message, end=True)
                await stream.recv_message()
                return
        except Exception:
            if sys.argv[1:] == ["once"]:
                raise
            await asyncio.sleep(0.05)  # not vouched for yet

asyncio.run(main())
time.sleep(600)
"""


class Answer(NamedTuple):
    status: int
    body: str
    denied: str = ""
    """What the header says that tells why."""

    @property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


class Mesh:
    """web calls orders; thief is called by nobody."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.app = platform.directory / "app.py"
        self.app.write_text(APP)
        self.orders: Program
        self.web: Program
        self._entries: list[str] = []

    def start(self) -> None:
        for name in ("orders", "web", "thief"):
            self._entries.append(self.platform.create(f"/ns/prod/sa/{name}", PYTHON))
            self._entries.append(self.platform.create(f"/ns/prod/sa/{name}", f"supervised:service:{name}"))
        self.orders, self.web = self.sidecar("orders"), self.sidecar("web")
        self.orders.ready()
        self.web.ready()
        until(
            lambda: self.call().status == 200, lambda: f"{self.call()}\n{self.web.said}\n{self.orders.said}"
        )

    def end(self) -> None:
        for program in (self.web, self.orders):
            program.stop()
        for entry in self._entries:
            self.platform.delete(entry)

    def sidecar(self, service: str, *more: object) -> Program:
        platform = self.platform
        return platform.program(
            *(service, "sidecar", "--service", service, "--agent-socket", platform.agent_socket),
            *("--run-dir", platform.run, "--log-dir", platform.directory, "--output", "json", *more),
            *("--", sys.executable, self.app, self.hold(service)),
        )

    def hold(self, service: str) -> Path:
        """While this file is there, the service's app does not come up."""
        return self.platform.directory / f"hold-{service}"

    def call(self, path: str = "/") -> Answer:
        """What web's app is answered by orders."""
        host, _, port = self.web.ready()["egress"].rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        try:
            connection.request("GET", f"http://orders{path}")
            response = connection.getresponse()
            told = response.headers.get("x-vestibule-denied", "")
            return Answer(response.status, response.read().decode(), told)
        finally:
            connection.close()

    @contextmanager
    def calls_go_on(self) -> Iterator[None]:
        """All the while web is answered by orders, without exception."""
        failed: list[object] = []
        done, calls = threading.Event(), 0

        def caller() -> None:
            nonlocal calls
            while not done.is_set():
                try:
                    answer = self.call("/going-on")
                except OSError as error:
                    failed.append(error)
                else:
                    calls += 1
                    if answer.status != 200:
                        failed.append(answer)
                done.wait(0.02)

        thread = threading.Thread(target=caller, daemon=True)
        thread.start()
        try:
            yield
            seen = calls
            until(lambda: calls >= seen + 3 or failed, "calls")
        finally:
            done.set()
            thread.join(20)
        assert failed == []
        assert calls > 0

    @property
    def access_log(self) -> list[dict[str, Any]]:
        """Every record; each line is one, whole."""
        text = (self.platform.directory / "agent" / "access.jsonl").read_text()
        return [json.loads(line) for line in whole_lines(text)]

    def proxies(self) -> dict[str, dict[str, Any]]:
        """What the server says of each service's proxy."""
        status = vestibule("status", *self.platform.operator).envelope["data"]
        return {each["service"]: each for each in status["proxies"]}

    def envoy_of(self, sidecar: Program) -> int:
        return next(pid for pid, program in children_of(sidecar.pid).items() if program.endswith("/envoy"))

    def app_of(self, sidecar: Program) -> int:
        return next(
            pid for pid, program in children_of(sidecar.pid).items() if not program.endswith("/envoy")
        )

    def script(self, name: str, text: str, **values: object) -> Path:
        path = self.platform.directory / name
        path.write_text(text.format(python=sys.executable, **values))
        path.chmod(0o755)
        return path
