"""What reading a secret costs: (a) through two sidecars, against a static file; (b) at the server, against nothing.

(a) One app beside its sidecar reads a secret, and a static file of the same length from a service with a sidecar of its
    own: Starlette on uvicorn, as the secret manager is.  One connection; the p50 of each, in turn.  Each read of a
    secret is decided, decrypted, and on disk in the audit log before its answer leaves.
(b) Reads per second of processor time (all of the server process: the audit log's thread, too), with encryption,
    rules and audit, against a bare Starlette handler that answers as many bytes, on the same uvicorn, loop and socket.

Takes about a minute and a half.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
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
from urllib.parse import quote

import _load
import _processes
import httpx
import uvloop
from _comparison import interleaved, machine, ratios
from _mesh import Mesh
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from vestibule.app.settled import settle
from vestibule.audit import AuditLog, DeferringAudit
from vestibule.clock import SystemClock
from vestibule.doors.platform.certificates import Certificates
from vestibule.doors.platform.serving import http_config
from vestibule.doors.vault.app import VaultApp
from vestibule.doors.vault.kv import KvBackend
from vestibule.doors.vault.operations import Caller, VaultRequest
from vestibule.doors.vault.pipeline import Pipeline
from vestibule.intent.loading import load_files
from vestibule.secrets.access import IntentAccess
from vestibule.secrets.barrier import SealedBarrier
from vestibule.secrets.versions import Versions
from vestibule.spiffe import Revocations, SpiffeId
from vestibule.store.sqlite import open_store
from vestibule.testing import TestAuthority

LIMIT_LATENCY = 3.0
LIMIT_RATE = 0.5
SECONDS = 2.0
PATH = "secret/data/reader/database"
READER = SpiffeId.parse("spiffe://example.org/ns/prod/sa/reader")
VALUE = {"username": "reader", "password": "a password of a usual length"}
INTENT = {
    "mesh.yaml": """mesh: bench
trust_domain: example.org
environment: prod
identity: /ns/{environment}/sa/{service}
""",
    "services/reader.yaml": "service: reader\nports: {http: {protocol: http}}\n",
    "services/files.yaml": """service: files
ports: {http: {protocol: http}}
allow: [{id: all, from: [reader], methods: [GET], paths: [/**]}]
""",
    "secrets/reader.yaml": """secrets: reader
allow: [{id: own, from: [reader], may: [read, write], paths: [secret/reader/database]}]
""",
    "up.yaml": """apps:
  reader: {run: [python3, app.py]}
  files: {run: [python3, app.py]}
""",
    "files/empty": "",
    "app.py": """import os
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
app = Starlette(routes=[Mount("/", StaticFiles(directory="files"))])
uvicorn.run(app, port=int(os.environ["PORT"]), http="h11", log_level="critical", access_log=False)
""",
}


# --------------------------------------------------------------------------------- (a) through two sidecars


def through_sidecars(rounds: int) -> float:
    with tempfile.TemporaryDirectory(prefix="vestibule-bench-") as directory:
        intent = Path(directory, "intent")
        for name, text in INTENT.items():
            file = intent / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        with Mesh(intent, Path(directory, "state")) as mesh:
            way_out = mesh.said["egress"]["reader"]
            answer = _written(way_out)
            (intent / "files" / "file.json").write_bytes(answer)
            port = int(way_out.rpartition(":")[2])
            _patiently(
                lambda: httpx.get("http://files/file.json", proxy=f"http://{way_out}").status_code == 200
            )

            def secret() -> float:
                return _p50(port, "secrets", f"/v1/{PATH}")

            def file_() -> float:
                return _p50(port, "files", "/file.json")

            secret(), file_()
            pairs = interleaved(rounds, secret, file_)
    found = ratios(pairs)
    for name, values in zip(("secret", "file"), zip(*pairs, strict=True), strict=True):
        print(f"  p50 of a {name}: {statistics.median(values):.3f} ms")
    print(f"  secret / static file, p50 through two sidecars: {found}; at most {LIMIT_LATENCY:g}")
    return found.median


def _written(way_out: str) -> bytes:
    url = f"http://secrets/v1/{PATH}"
    with httpx.Client(proxy=f"http://{way_out}") as client:
        _patiently(lambda: client.post(url, json={"data": VALUE}).status_code == 200)
        return client.get(url).content


def _p50(port: int, host: str, path: str) -> float:
    result = _load.run(port, host=host, path=path, connections=1, seconds=SECONDS)
    assert result.failures == 0, f"{host}{path}: {result}"
    return result.p50_ms


def _patiently(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with contextlib.suppress(httpx.HTTPError):
            if holds():
                return
        time.sleep(0.1)
    raise SystemExit("there was no answer in time")


# ----------------------------------------------------------------------------------- (b) at the server


def at_the_server(rounds: int) -> float:
    authority = TestAuthority("example.org")
    headers = [_header(authority), "x-request-id: 11111111-2222-3333-4444-555555555555"]
    with (
        tempfile.TemporaryDirectory(prefix="vestibule-bench-") as directory,
        _served("ours", Path(directory), authority) as (ours, our_pid),
        _served("bare", Path(directory), authority) as (bare, bare_pid),
    ):

        def rate(port: int, pid: int) -> float:
            before = _processes.cpu_seconds([pid])
            result = _load.run(port, host="secrets", path=f"/v1/{PATH}", seconds=SECONDS, headers=headers)
            assert result.failures == 0, result
            return result.requests / (_processes.cpu_seconds([pid]) - before)

        rate(ours, our_pid), rate(bare, bare_pid)
        pairs = interleaved(rounds, lambda: rate(ours, our_pid), lambda: rate(bare, bare_pid))
    found = ratios(pairs)
    for name, values in zip(("with audit", "bare"), zip(*pairs, strict=True), strict=True):
        median = statistics.median(values)
        print(f"  reads per second of one core, {name}: {median:.0f} ({1e6 / median:.0f} µs each)")
    print(f"  ours / bare Starlette handler: {found}; at least {LIMIT_RATE:g}")
    return found.median


def _header(authority: TestAuthority) -> str:
    """As Envoy writes it; the server has the same authority."""
    chain = authority.svid(READER).chain
    pem = "".join(
        f"-----BEGIN CERTIFICATE-----\n{_wrapped(each)}-----END CERTIFICATE-----\n" for each in chain
    )
    said = quote(pem, safe="")
    return f'x-forwarded-client-cert: By=spiffe://example.org/vestibule/secrets;Hash=00;Chain="{said}";URI={READER}'


def _wrapped(der: bytes) -> str:
    text = base64.b64encode(der).decode()
    return "".join(f"{text[at : at + 64]}\n" for at in range(0, len(text), 64))


@contextmanager
def _served(kind: str, directory: Path, authority: TestAuthority) -> Iterator[tuple[int, int]]:
    bundle = directory / "authority.der"
    bundle.write_bytes(authority.certificate)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        os.set_inheritable(sock.fileno(), True)
        command = [sys.executable, __file__, "--serve", kind, str(sock.fileno()), str(directory)]
        process = subprocess.Popen(command, pass_fds=[sock.fileno()])
    try:
        header = _header(authority).partition(": ")[2]
        ask = f"http://127.0.0.1:{port}/v1/{PATH}"
        _patiently(lambda: httpx.get(ask, headers={"x-forwarded-client-cert": header}).status_code == 200)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(10)


async def _serve(kind: str, descriptor: int, directory: Path) -> None:
    app = await (_ours(directory) if kind == "ours" else _bare())
    config, state = http_config(app), ServerState()
    settle()  # as the server does when it is up
    sock = socket.socket(fileno=descriptor)
    server = await asyncio.get_running_loop().create_server(lambda: H11Protocol(config, state, {}), sock=sock)
    await server.serve_forever()


async def _ours(directory: Path) -> Callable[..., Awaitable[None]]:
    clock = SystemClock()
    store = await open_store(directory / "secrets.db", clock)
    log = AuditLog(directory / "audit.jsonl", clock)
    await log.open()
    audit = DeferringAudit(log, clock)
    barrier = SealedBarrier(store.sealed_rows, store.changes, audit)
    await barrier.create(bytes(32), b"a seal")
    backend = KvBackend(Versions(barrier, clock))
    intent = load_files(
        {name: text.encode() for name, text in INTENT.items() if name.endswith(".yaml")}
    ).intent
    assert intent is not None
    access = IntentAccess(lambda: intent, clock)
    pipeline = Pipeline({"secret": backend}, access, audit, is_operator=lambda _: False)
    caller = Caller(spiffe_id=READER)
    await pipeline.answer(VaultRequest(method="POST", path=PATH, caller=caller, body={"data": VALUE}))
    authority = TestAuthority("example.org")
    authority.certificate = (directory / "authority.der").read_bytes()
    bundle, nothing = authority.bundle, Revocations()
    return VaultApp(pipeline.answer, Certificates(lambda: bundle, lambda: nothing, clock).caller_of)


async def _bare() -> Starlette:
    body = b'{"request_id":"%s","data":%s}' % (b"0" * 36, b'"' + b"x" * 300 + b'"')

    async def handler(_request: Request) -> Response:
        return Response(body, media_type="application/json")

    return Starlette(routes=[Route(f"/v1/{PATH}", handler)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", nargs=3)
    parser.add_argument("--only", choices=["a", "b"])
    given = parser.parse_args()
    if given.serve is not None:
        kind, descriptor, directory = given.serve
        uvloop.run(_serve(kind, int(descriptor), Path(directory)))
        return 0
    print(f"{machine()}, {datetime.now(UTC):%Y-%m-%d}, {given.rounds} rounds in turn")
    rate = at_the_server(given.rounds) if given.only != "a" else LIMIT_RATE
    latency = through_sidecars(given.rounds) if given.only != "b" else LIMIT_LATENCY
    return 0 if rate >= LIMIT_RATE and latency <= LIMIT_LATENCY else 1


if __name__ == "__main__":
    sys.exit(main())
