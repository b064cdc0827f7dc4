"""``vestibule authz run``, asked by an Envoy that is not ours, with the configuration of the documentation."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from tests.e2e.mesh_lab import client_tls, spiffe_id
from tests.e2e.static_envoy import StaticEnvoy
from tests.ports import free_port

from vestibule.envoy.tls_secrets import certificate_secret
from vestibule.testing import TestAuthority

EXAMPLE = Path(__file__).parents[2] / "examples" / "authz" / "envoy.yaml"
PATIENCE = 60.0

PAYMENTS = """\
service: payments
ports: {http: {protocol: http}}
deny_detail: caller
deny:
  - {id: not-admin, from: anyone, paths: [/admin/**]}
allow:
  - {id: read, from: [orders], methods: [GET]}
  - {id: small, from: [orders], methods: [POST], when: 'request.body.amount < 100.0'}
"""


@dataclass
class Place:
    """The service, the intent that it follows, and an Envoy that asks it."""

    authority: TestAuthority
    directory: Path
    port: int
    http: int
    process: subprocess.Popen[bytes]

    def call(
        self, method: str, path: str, body: bytes | None = None, caller: str = "orders"
    ) -> httpx.Response:
        tls = client_tls(self.authority.svid(spiffe_id(caller)), self.directory)
        with httpx.Client(verify=tls, timeout=PATIENCE) as client:
            return client.request(method, f"https://127.0.0.1:{self.port}{path}", content=body)

    def ready(self) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.http}/ready", timeout=PATIENCE)

    def write(self, payments: str) -> None:
        (self.directory / "intent" / "services" / "payments.yaml").write_text(payments)

    def until(self, status: int, method: str, path: str) -> None:
        end = time.monotonic() + PATIENCE
        while self.call(method, path).status_code != status:
            assert time.monotonic() < end, self.ready().text
            time.sleep(0.05)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("z")
    authority = TestAuthority("example.org")
    services = directory / "intent" / "services"
    services.mkdir(parents=True)
    (directory / "intent" / "mesh.yaml").write_text(
        "mesh: shop\ntrust_domain: example.org\nenvironment: prod\n"
    )
    (services / "payments.yaml").write_text(PAYMENTS)
    (services / "orders.yaml").write_text("service: orders\n")
    svid = authority.svid(spiffe_id("payments"))
    secret = secret_pb2.Secret.FromString(certificate_secret("own", svid)).tls_certificate
    (directory / "svid.pem").write_bytes(secret.certificate_chain.inline_bytes)
    (directory / "svid.key").write_bytes(secret.private_key.inline_bytes)
    (directory / "bundle.pem").write_text(
        "".join(map(ssl.DER_cert_to_PEM_cert, authority.bundle.x509_authorities))
    )
    port, http, sock = free_port(), free_port(), directory / "a.sock"
    arguments = ["--intent", str(directory / "intent"), "--socket", str(sock), "--http", f"127.0.0.1:{http}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "vestibule", "authz", "run", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    text = EXAMPLE.read_text().replace("/etc/payments", str(directory)).replace("8443", str(port))
    # Longer than a busy machine stands still.
    text = text.replace("timeout: 1s}", "timeout: 4s}")
    config = text.replace("/run/vestibule/authz.sock", str(sock))
    try:
        with StaticEnvoy(directory, config, [port, sock]):
            yield Place(authority, directory, port, http, process)
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0


def test_rules_decide_about_requests_of_another_envoy(place: Place) -> None:
    assert place.call("GET", "/v1").text == "through"
    assert place.call("POST", "/v1", b'{"amount": 5}').status_code == 200
    denied = place.call("POST", "/v1", b'{"amount": 500}')
    assert (denied.status_code, denied.json()["error"]) == (403, "VST4001")
    denied = place.call("GET", "/admin/users")
    assert (denied.status_code, denied.json()["rule"]) == (403, "payments/not-admin")
    assert place.call("GET", "/v1/%61dmin").json()["rule"] == "vestibule/path-not-normal"
    assert place.call("GET", "/v1", caller="stranger").status_code == 403


def test_its_pages_say_which_policy_decides_and_how_old_it_is(place: Place) -> None:
    place.until(200, "GET", "/v1")
    said = place.ready().json()
    assert said["ready"]
    assert said["is_newest"]
    assert len(said["version"]) >= 8
    assert said["age_seconds"] >= 0
    counted = httpx.get(f"http://127.0.0.1:{place.http}/metrics", timeout=60).text
    assert 'vestibule_authz_decisions{verdict="allowed"}' in counted


def test_over_http_it_decides_the_same(place: Place) -> None:
    def ask(method: str, path: str, body: bytes = b"", caller: str = "") -> httpx.Response:
        known = f"By=spiffe://x/y;Hash=ab;URI={spiffe_id('orders')}"
        url = f"http://127.0.0.1:{place.http}/check/payments/http{path}"
        return httpx.request(
            method, url, content=body, headers={"x-forwarded-client-cert": caller or known}, timeout=60
        )

    assert ask("GET", "/v1?a=b").headers["x-vestibule-rule"] == "payments/read"
    assert ask("POST", "/v1", b'{"amount": 5}').status_code == 200
    assert ask("POST", "/v1", b'{"amount": 500}').status_code == 403
    assert ask("POST", "/v1", b"x" * 70_000).status_code == 413
    assert ask("GET", "/admin/users").headers["x-vestibule-rule"] == "payments/not-admin"
    forged = f"URI=spiffe://a/b,URI={spiffe_id('orders')}"
    assert ask("GET", "/v1", caller=forged).status_code == 503
    unknown = httpx.get(f"http://127.0.0.1:{place.http}/check/nobody/http/", timeout=60)
    assert unknown.status_code == 503


def test_a_change_decides_and_a_mistake_leaves_the_last_good_policy(place: Place) -> None:
    place.write(PAYMENTS.replace("methods: [GET]", "methods: [HEAD]"))
    place.until(403, "GET", "/v1")
    place.write("nonsense: [")
    end = time.monotonic() + PATIENCE
    while place.ready().json()["is_newest"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    said = place.ready().json()
    assert said["ready"]
    assert said["problems"]
    assert place.call("GET", "/v1").status_code == 403
    assert place.call("HEAD", "/v1").status_code == 200
    place.write(PAYMENTS)
    place.until(200, "GET", "/v1")


def test_a_service_that_hangs_is_no_denial_and_lets_nobody_through(place: Place) -> None:
    os.kill(place.process.pid, signal.SIGSTOP)
    try:
        assert place.call("GET", "/v1").status_code == 503
    finally:
        os.kill(place.process.pid, signal.SIGCONT)
    place.until(200, "GET", "/v1")
    assert json.loads(place.ready().text)["ready"]
