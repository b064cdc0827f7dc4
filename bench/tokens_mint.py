"""What a token costs: at the server's door, against the same HTTP handler doing nothing but the ES256 signature.

Tokens per second of processor time (all of the server process: the audit log's thread, too).  Ours finds the client by
its certificate, reads the form, decides by an intent of 100 groups, signs, and has it on disk in the audit log before
the answer leaves.  The other handler, on the same uvicorn, loop and socket, reads the body and signs the same claims.
The share of the limit that the signature alone sets is printed, too: of a loop that does nothing but sign.

Takes about a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import _load
import _processes
import httpx
import uvloop
from _comparison import interleaved, machine, ratios
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from vestibule.app.settled import settle
from vestibule.audit import AuditLog, DeferringAudit
from vestibule.clock import SystemClock
from vestibule.doors.oauth.app import OAuthApp
from vestibule.doors.oauth.clients import Clients
from vestibule.doors.oauth.metadata import TOKEN, Metadata
from vestibule.doors.oauth.records import Records
from vestibule.doors.platform.certificates import Certificates
from vestibule.doors.platform.serving import http_config
from vestibule.intent.loading import load_files
from vestibule.pki.keys import generate_key
from vestibule.secrets.barrier import SealedBarrier
from vestibule.spiffe import Revocations, SpiffeId
from vestibule.store.sqlite import open_store
from vestibule.testing import TestAuthority
from vestibule.tokens.access import IntentIssuers, IntentTokenAccess
from vestibule.tokens.service import TokenService, TokenSettings
from vestibule.tokens.signing import Signer

LIMIT = 0.6
SECONDS = 2.0
GROUPS = 100
ISSUER = "https://tokens.example.org"
CALLER = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")
FORM = urlencode(
    {"grant_type": "client_credentials", "audience": "service-42", "scope": "report:read report:write"}
)
MESH = """mesh: bench
trust_domain: example.org
environment: prod
identity: /ns/{environment}/sa/{service}
"""
GROUP = """tokens: %(name)s
owner: bench
audiences: [%(name)s]
for: [web]
scopes: [report:read, report:write]
allow:
  - {id: web-own, from: [web], may: [mint], scopes: [report:read, report:write]}
"""
App = Callable[..., Awaitable[None]]


def at_the_server(rounds: int) -> float:
    authority = TestAuthority("example.org")
    headers = [
        f"x-forwarded-client-cert: {_certificate(authority)}",
        "x-request-id: 11111111-2222-3333-4444-555555555555",
    ]
    with (
        tempfile.TemporaryDirectory(prefix="vestibule-bench-") as directory,
        _served("ours", Path(directory), authority) as (ours, our_pid),
        _served("bare", Path(directory), authority) as (bare, bare_pid),
    ):

        def rate(port: int, pid: int) -> float:
            before = _processes.cpu_seconds([pid])
            result = _load.run(port, host="tokens", path=TOKEN, seconds=SECONDS, headers=headers, form=FORM)
            assert result.failures == 0, result
            return result.requests / (_processes.cpu_seconds([pid]) - before)

        rate(ours, our_pid), rate(bare, bare_pid)
        pairs = interleaved(rounds, lambda: rate(ours, our_pid), lambda: rate(bare, bare_pid))
    found, alone = ratios(pairs), signatures()
    for name, values in zip(
        ("decided and on record", "signature only"), zip(*pairs, strict=True), strict=True
    ):
        median = statistics.median(values)
        print(f"  tokens per second of one core, {name}: {median:.0f} ({1e6 / median:.0f} µs each)")
    ours_median = statistics.median(each for each, _ in pairs)
    print(
        f"  signing alone, without HTTP: {alone:.0f} ({1e6 / alone:.0f} µs each); "
        f"of that, we reach {ours_median / alone:.2f}"
    )
    print(f"  ours / the same handler with nothing but the signature: {found}; at least {LIMIT:g}")
    return found.median


def signatures() -> float:
    """Tokens signed per second of processor time, by nothing but a loop."""
    signer, claims, number = Signer(generate_key(), "key"), _claims(), 5_000
    began = time.process_time()
    for _ in range(number):
        signer.signed(claims)
    return number / (time.process_time() - began)


def _claims() -> str:
    """As many as those of ours, in JSON."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "exp": now + 600,
        "aud": "service-42",
        "sub": str(CALLER),
        "client_id": str(CALLER),
        "iat": now,
        "jti": "x" * 24,
        "txn": "x" * 24,
        "scope": "report:read report:write",
    }
    return json.dumps(claims, separators=(",", ":"))


# --------------------------------------------------------------------------------------------- the two servers


@contextmanager
def _served(kind: str, directory: Path, authority: TestAuthority) -> Iterator[tuple[int, int]]:
    (directory / "authority.der").write_bytes(authority.certificate)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        os.set_inheritable(sock.fileno(), True)
        command = [sys.executable, __file__, "--serve", kind, str(sock.fileno()), str(directory)]
        process = subprocess.Popen(command, pass_fds=[sock.fileno()])
    try:
        _until_answered(port, _certificate(authority))
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(10)


def _until_answered(port: int, certificate: str) -> None:
    headers = {"x-forwarded-client-cert": certificate, "content-type": "application/x-www-form-urlencoded"}
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            answer = httpx.post(f"http://127.0.0.1:{port}{TOKEN}", content=FORM, headers=headers)
        except httpx.HTTPError:
            time.sleep(0.1)
            continue
        assert answer.status_code == 200, answer.text
        return
    raise SystemExit("there was no answer in time")


def _certificate(authority: TestAuthority) -> str:
    """As Envoy writes it; the server has the same authority."""
    chain = (x509.load_der_x509_certificate(each) for each in authority.svid(CALLER).chain)
    pem = "".join(each.public_bytes(Encoding.PEM).decode() for each in chain)
    return f'By=spiffe://example.org/vestibule/tokens;Hash=00;Chain="{quote(pem, safe="")}";URI={CALLER}'


async def _serve(kind: str, descriptor: int, directory: Path) -> None:
    app = await (_ours(directory) if kind == "ours" else _bare())
    config, state = http_config(app), ServerState()
    settle()  # as the server does when it is up
    sock = socket.socket(fileno=descriptor)
    server = await asyncio.get_running_loop().create_server(lambda: H11Protocol(config, state, {}), sock=sock)
    await server.serve_forever()


async def _ours(directory: Path) -> App:
    clock = SystemClock()
    store = await open_store(directory / "tokens.db", clock)
    log = AuditLog(directory / "audit.jsonl", clock)
    await log.open()
    audit = DeferringAudit(log, clock)
    barrier = SealedBarrier(store.sealed_rows, store.changes, audit)
    await barrier.create(bytes(32), b"a seal")
    intent = load_files(_files()).intent
    assert intent is not None
    service = TokenService(
        TokenSettings(issuer=ISSUER, trust_domain=CALLER.trust_domain),
        barrier=barrier,
        access=IntentTokenAccess(lambda: intent, clock),
        outside=IntentIssuers(lambda: intent),
        clock=clock,
        changes=store.changes,
        record=audit.record,
    )
    await service.start()
    authority = TestAuthority("example.org")
    authority.certificate = (directory / "authority.der").read_bytes()
    bundle, nothing = authority.bundle, Revocations()
    certificates = Certificates(lambda: bundle, lambda: nothing, clock)
    clients = Clients(certificates.presented, ISSUER, lambda _: bundle, lambda: nothing, service.once, clock)
    return OAuthApp(service, clients, Metadata(ISSUER), Records(audit, lambda _text: ""))


def _files() -> dict[str, bytes]:
    found = {"mesh.yaml": MESH, "services/web.yaml": "service: web\nports: {http: {protocol: http}}\n"}
    for name in (f"service-{number}" for number in range(GROUPS)):
        found[f"tokens/{name}.yaml"] = GROUP % {"name": name}
    return {name: text.encode() for name, text in found.items()}


async def _bare() -> App:
    signer, claims = Signer(generate_key(), "x" * 43), _claims()

    async def handler(_scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        answer = {"access_token": signer.signed(claims), "token_type": "Bearer", "expires_in": 600}
        body = json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return handler


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", nargs=3)
    given = parser.parse_args()
    if given.serve is not None:
        kind, descriptor, directory = given.serve
        uvloop.run(_serve(kind, int(descriptor), Path(directory)))
        return 0
    print(f"{machine()}, {datetime.now(UTC):%Y-%m-%d}, {given.rounds} rounds in turn")
    return 0 if at_the_server(given.rounds) >= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
