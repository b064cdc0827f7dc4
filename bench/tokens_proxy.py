"""What tokens cost a request at the proxies: verified by the callee's, and sent along by the caller's.

One mesh by `vestibule up`, with its own token service.  `plain` asks for no token, `demanding` for one with a scope,
bound to the caller, and `injecting` for the same and has the caller's sidecar get it.  All have the same app, and are
called through the same caller's sidecar.  Short runs alternate, and ratios are taken run by run:

- verification: calls of `demanding` over those of `plain`, both with the same token in the header, so that the header
  itself, which both proxies carry, is no part of what is compared;
- injection: calls of `injecting` without a header over those of `demanding` with it, so that the callee does the same.

Requests per second are what a caller gets of everything together: load, app and both sidecars.  What the sidecars use
of the processors for a request is said beside that, of the callee's alone and of the pair; it decides nothing here,
but moves less with the machine.

Then the signing keys are rotated under load, until the service signs with another: no request may fail.  Last, clients
give up tokens: the clock runs from the request to `/oauth2/revoke` until the callee's Envoy refuses the token.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import _load
from _comparison import interleaved, machine, ratios
from _mesh import Mesh
from _processes import cpu_seconds

VERIFICATION: Final = 0.9
INJECTION: Final = 0.95
WARM_UP: Final = 0.3
PATH: Final = "/v1/things/42"
ROTATION_WITHIN: Final = 60.0
REVOCATION: Final = 1.0
"""Seconds, for the slowest."""
REVOKED: Final = 20
_PORT: Final = "ports: {http: {protocol: http}}\n"
_RULE: Final = "allow:\n  - {{id: r, from: [caller], methods: [GET], paths: [/v1/things/**]{more}}}\n"
_TOKEN: Final = ", token: {audience: things, scopes: ['things:read']%s}"
INTENT: Final = {
    "mesh.yaml": "mesh: bench\ntrust_domain: bench.example\nenvironment: bench\nissuers: {own: {keys: tokens}}\n",
    "services/caller.yaml": "service: caller\n",
    "services/plain.yaml": f"service: plain\n{_PORT}{_RULE.format(more='')}",
    "services/demanding.yaml": f"service: demanding\n{_PORT}{_RULE.format(more=_TOKEN % '')}",
    "services/injecting.yaml": f"service: injecting\n{_PORT}{_RULE.format(more=_TOKEN % ', inject: true')}",
    "tokens/things.yaml": """\
tokens: things
audiences: [things]
for: [demanding, injecting]
scopes: ['things:read']
allow: [{id: caller, from: [caller], may: [mint], scopes: ['things:read']}]
""",
    "up.yaml": """\
apps:
  caller: {run: [sleep, infinity]}
  plain: {run: [python, %(backend)s, %(directory)s/plain]}
  demanding: {run: [python, %(backend)s, %(directory)s/demanding]}
  injecting: {run: [python, %(backend)s, %(directory)s/injecting]}
""",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=13)
    parser.add_argument("--seconds", type=float, default=1.2)
    parser.add_argument("--connections", type=int, default=32)
    given = parser.parse_args()
    print(machine())
    directory = Path(tempfile.mkdtemp(prefix="vb-", dir="/tmp"))
    try:
        with Mesh(_intent(directory), directory / "state") as mesh:
            return _measure(mesh, given.rounds, given.seconds, given.connections)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _intent(directory: Path) -> Path:
    intent = directory / "intent"
    backend = Path(__file__).with_name("_backend.py").resolve()
    for name, text in INTENT.items():
        file = intent / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text % {"backend": backend, "directory": directory} if name == "up.yaml" else text)
    return intent


@dataclass(frozen=True)
class Run:
    """One load, and what the sidecars used of the processors, in microseconds per request."""

    load: _load.Result
    callee: float
    caller: float


def _measure(mesh: Mesh, rounds: int, seconds: float, connections: int) -> int:
    port = mesh.egress("caller")
    token = _token(port)
    sidecars = {name: mesh.sidecar(name) for name in ("caller", "plain", "demanding", "injecting")}

    def load(host: str, *, shown: bool, length: float = seconds) -> _load.Result:
        # In the place of a name: the load knows no other headers.
        name = f"{host}\r\nauthorization: Bearer {token}" if shown else host
        return _load.run(port, host=name, path=PATH, connections=connections, seconds=length)

    def run(host: str, *, shown: bool) -> Run:
        load(host, shown=shown, length=WARM_UP)
        pids = (sidecars[host], sidecars["caller"])
        before = [cpu_seconds([pid]) for pid in pids]
        done = load(host, shown=shown)
        used = [cpu_seconds([pid]) - began for pid, began in zip(pids, before, strict=True)]
        callee, caller = (each / done.requests * 1e6 for each in used)
        return Run(done, callee, caller)

    for host in ("plain", "demanding", "injecting"):
        load(host, shown=host != "injecting", length=1.0)
    verified = interleaved(rounds, lambda: run("demanding", shown=True), lambda: run("plain", shown=True))
    sent = interleaved(rounds, lambda: run("injecting", shown=False), lambda: run("demanding", shown=True))
    rotated = _rotation(mesh, port, connections)
    return _verdict(verified, sent, rotated)


def _verdict(
    verified: list[tuple[Run, Run]], sent: list[tuple[Run, Run]], rotated: tuple[_load.Result, ...]
) -> int:
    for name, runs in (
        ("plain", [other for _, other in verified]),
        ("demanding", [one for one, _ in verified]),
        ("injecting", [one for one, _ in sent]),
    ):
        rps, callee, caller = (
            statistics.median(each)
            for each in zip(*((run.load.rps, run.callee, run.caller) for run in runs), strict=True)
        )
        print(
            f"{name:>10}: {rps:.0f} requests/s; sidecars: callee {callee:.0f} µs, caller {caller:.0f} µs each"
        )
    alone = ratios([(other.callee, one.callee) for one, other in verified])
    pair = ratios([(other.callee + other.caller, one.callee + one.caller) for one, other in verified])
    print(f"verification, by processor time: callee's sidecar alone {alone}; with the caller's {pair}")
    verification = ratios([(one.load.rps, other.load.rps) for one, other in verified])
    injection = ratios([(one.load.rps, other.load.rps) for one, other in sent])
    failures = sum(run.load.failures for both in (*verified, *sent) for run in both)
    refused, asked = sum(run.failures for run in rotated), sum(run.requests for run in rotated)
    checks = [
        (f"verification: {verification} (at least {VERIFICATION})", verification.median >= VERIFICATION),
        (f"cached injection: {injection} (at least {INJECTION})", injection.median >= INJECTION),
        (f"failed requests: {failures} (none)", failures == 0),
        (f"failed while keys were rotated: {refused} of {asked} (none)", refused == 0 and asked > 0),
    ]
    for text, held in checks:
        print(f"{'ok  ' if held else 'MISS'} {text}")
    return 0 if all(held for _, held in checks) else 1


def _token(port: int) -> str:
    """As any app beside a sidecar gets it."""
    asked = {"grant_type": "client_credentials", "audience": "things", "scope": "things:read"}
    return str(json.loads(_posted(port, "/oauth2/token", asked))["access_token"])


def _posted(port: int, path: str, form: dict[str, str]) -> bytes:
    """What the token service answers."""
    url, body = f"http://127.0.0.1:{port}{path}", urllib.parse.urlencode(form).encode()
    with urllib.request.urlopen(urllib.request.Request(url, body, {"Host": "tokens"}), timeout=10) as answer:
        return bytes(answer.read())


def _revocation(port: int) -> float:
    """Seconds from the order until a token of the caller's own is refused, on a connection that is open."""
    token = _token(port)
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:

        def status() -> int:
            shown = {"Host": "demanding", "Authorization": f"Bearer {token}"}
            connection.request("GET", PATH, headers=shown)
            answer = connection.getresponse()
            answer.read()
            return answer.status

        if (before := status()) != 200:
            raise SystemExit(f"refused before it is revoked: {before}")
        began = time.monotonic()
        _posted(port, "/oauth2/revoke", {"token": token})
        while status() != 401:
            if time.monotonic() > began + 30:
                raise SystemExit("MISS a revoked token goes on")
        return time.monotonic() - began


def _key_of(token: str) -> str:
    head = token.partition(".")[0]
    return str(json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"])


def _rotation(mesh: Mesh, port: int, connections: int) -> tuple[_load.Result, ...]:
    """Calls of both kinds from before the keys change until after."""
    before, found, over = _key_of(_token(port)), list[_load.Result](), threading.Event()

    def keep_asking() -> None:
        while not over.is_set():
            fresh = f"demanding\r\nauthorization: Bearer {_token(port)}"
            for host in ("injecting", fresh):
                found.append(_load.run(port, host=host, path=PATH, connections=connections, seconds=0.5))

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        command = [sys.executable, "-m", "vestibule", "oauth", "keys", "--rotate"]
        subprocess.run([*command, "--server-socket", mesh.said["server_socket"]], check=True, timeout=30)
        deadline = time.monotonic() + ROTATION_WITHIN
        while _key_of(_token(port)) == before and time.monotonic() < deadline:
            time.sleep(0.2)
        changed = _key_of(_token(port)) != before
        time.sleep(2.0)
    finally:
        over.set()
        asking.join()
    if not changed:
        raise SystemExit(f"MISS the service has not signed with the next key within {ROTATION_WITHIN:.0f} s")
    return tuple(found)


if __name__ == "__main__":
    sys.exit(main())
