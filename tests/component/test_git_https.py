"""A private repository over https: git's own server behind TLS, asked with a token that stays in its file."""

from __future__ import annotations

import base64
import http.server
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.component.git_lab import Repository, intent_repository, needs

from vestibule.calls.git import Access, Mirror, Place, Ref
from vestibule.clock import SystemClock
from vestibule.mesh import Following, GitSource

TOKEN = "glpat-0123456789"


class Host:
    """A Git host with one user."""

    def __init__(self, root: Path, certificate: Path, key: Path) -> None:
        self.asked: list[str] = []
        self.redirect = ""
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def answer(self) -> None:
                host.asked.append(self.headers.get("authorization", ""))
                wanted = "Basic " + base64.b64encode(f"ann:{TOKEN}".encode()).decode()
                if host.redirect:
                    self.send_response(302)
                    self.send_header("location", host.redirect + self.path)
                    self.end_headers()
                elif self.headers.get("authorization") != wanted:
                    self.send_response(401)
                    self.send_header("www-authenticate", 'Basic realm="git"')
                    self.end_headers()
                else:
                    self._serve()

            def do_GET(self) -> None:
                self.answer()

            def do_POST(self) -> None:
                self.answer()

            def _serve(self) -> None:
                path, _, query = self.path.partition("?")
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                environment = {
                    "PATH": os.environ["PATH"],
                    "GIT_PROJECT_ROOT": str(root),
                    "GIT_HTTP_EXPORT_ALL": "1",
                    "GIT_CONFIG_COUNT": "1",
                    "GIT_CONFIG_KEY_0": "safe.directory",
                    "GIT_CONFIG_VALUE_0": "*",
                    "PATH_INFO": path,
                    "QUERY_STRING": query,
                    "REQUEST_METHOD": self.command,
                    "CONTENT_TYPE": self.headers.get("content-type", ""),
                    "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", ""),
                    "GIT_PROTOCOL": self.headers.get("git-protocol", ""),
                }
                done = subprocess.run(
                    ["git", "http-backend"], input=body, env=environment, capture_output=True, timeout=30
                )
                head, _, content = done.stdout.partition(b"\r\n\r\n")
                # With its length, the answer is whole though the connection then simply ends.
                head += f"\r\nContent-Length: {len(content)}".encode()
                self.wfile.write(b"HTTP/1.0 200 OK\r\n" + head + b"\r\n\r\n" + content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://localhost:{self.server.server_address[1]}/repository/.git"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    needs("git", "openssl")
    return intent_repository(tmp_path / "repository")


@pytest.fixture
def host(tmp_path: Path, repository: Repository) -> Iterator[Host]:
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    made += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True, timeout=30)
    host = Host(tmp_path, certificate, key)
    yield host
    host.server.shutdown()
    host.server.server_close()


def source_of(tmp_path: Path, url: str, access: Access) -> GitSource:
    # A proxy of the machine that runs the tests has no part in them.
    environment = {"PATH": os.environ["PATH"]}
    mirror = Mirror(tmp_path / "data", Place.parse(url), access, max_size=2**30, environment=environment)
    return GitSource(mirror, Following(ref=Ref.parse("main"), poll=timedelta(seconds=1)), SystemClock())


def access(tmp_path: Path, line: str = f"ann:{TOKEN}\n") -> Access:
    credentials = tmp_path / "credentials"
    credentials.touch(mode=0o600)
    credentials.write_text(line)
    return Access(credentials=credentials, ca=tmp_path / "tls.crt")


def codes(source: GitSource) -> list[str]:
    return [each.code.code for each in source.reading.problems]


async def test_a_private_repository_is_followed_with_a_token_that_is_written_nowhere_else(
    tmp_path: Path, host: Host, repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    source = source_of(tmp_path, host.url, access(tmp_path))
    reading = await source.load()
    assert reading.intent is not None, codes(source)
    assert reading.intent.version == repository.head[:12]
    repository.commit(
        {"services/orders.yaml": "service: orders\nports: {http: {protocol: http}}\nallow: []\n"}
    )
    await source.look()
    assert source.reading.intent is not None
    assert "orders" in source.reading.intent.services
    written = b"".join(file.read_bytes() for file in (tmp_path / "data").rglob("*") if file.is_file())
    for secret in (TOKEN.encode(), base64.b64encode(f"ann:{TOKEN}".encode())):
        assert secret not in written
    assert TOKEN not in caplog.text


async def test_a_token_that_is_replaced_in_its_file_is_taken_at_once(tmp_path: Path, host: Host) -> None:
    with_old = access(tmp_path, "ann:expired")
    source = source_of(tmp_path, host.url, with_old)
    await source.load()
    assert codes(source) == ["VST3228"]
    assert "expired" not in source.reading.problems[0].message
    access(tmp_path)
    await source.look()
    assert (source.reading.intent is not None, codes(source)) == (True, [])


async def test_a_host_whose_certificate_is_not_known_gets_no_token(tmp_path: Path, host: Host) -> None:
    known = access(tmp_path)
    source = source_of(tmp_path, host.url, Access(credentials=known.credentials))
    await source.load()
    assert codes(source) == ["VST3228"]
    assert host.asked == []


async def test_a_redirect_to_another_host_is_not_followed(tmp_path: Path, host: Host) -> None:
    host.redirect = "https://127.0.0.1:9"
    source = source_of(tmp_path, host.url, access(tmp_path))
    await source.load()
    assert source.reading.intent is None
    assert len(codes(source)) == 1
