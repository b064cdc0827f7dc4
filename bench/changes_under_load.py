"""Changes of the intent under load: weights of a canary move, routes and clusters come and go, and no request fails.

`vestibule up` runs two versions of a callee.  While callers keep calling, its files are edited again and again: each
edit moves the canary's weight, and every other adds a route with a new service behind it, or takes both away.  The next
edit follows when the caller's Envoy has taken the last.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import threading
import time
from itertools import cycle
from pathlib import Path

import _load
from _comparison import machine
from _mesh import Mesh

HOST = "callee"
PATH = "/v1/things/42"
WITHIN = 30.0
"""Seconds for one change."""
WEIGHTS = (0, 10, 50, 100)
INTENT = {
    "mesh.yaml": "mesh: bench\ntrust_domain: bench.example\nenvironment: bench\n",
    "services/caller.yaml": "service: caller\n",
    "up.yaml": """\
apps:
  caller: {run: [sleep, infinity]}
  callee: {run: [python, %(backend)s, %(port_file)s], instances: 2, versions: {v2: {}}}
""",
}
CALLEE = """\
service: callee
ports: {http: {protocol: http}}
versions: [v1, v2]
allow:
  - {id: caller-reads, from: [caller], methods: [GET], paths: [/v1/**]}
routes:
"""
EXTRA_ROUTE = "  - {id: extra, match: {path: /v1/extra/**}, split: {v2: 100}, timeout: 3s}\n"
CANARY = "  - {id: canary, match: {path: /v1/**}, split: {v1: %d, v2: %d}}\n"
EXTRA = """\
service: extra
ports: {http: {protocol: http}}
allow:
  - {id: caller-reads, from: [caller], methods: [GET], paths: [/**]}
"""


class Load:
    """Callers who never stop, until the end of a ``with`` block."""

    def __init__(self, port: int, connections: int) -> None:
        self.results: list[_load.Result] = []
        self._port, self._connections = port, connections
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.is_set():
            result = _load.run(self._port, host=HOST, path=PATH, connections=self._connections, seconds=5.0)
            self.results.append(result)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--connections", type=int, default=8)
    given = parser.parse_args()
    print(machine())
    directory = Path(tempfile.mkdtemp(prefix="vb-", dir="/tmp"))
    try:
        return _measure(directory, given.changes, given.connections)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _measure(directory: Path, changes: int, connections: int) -> int:
    intent = _intent(directory)
    took: list[float] = []
    with Mesh(intent, directory / "state") as mesh, Load(mesh.egress("caller"), connections) as load:
        time.sleep(1)
        for number, weight in zip(range(changes), cycle(WEIGHTS)):
            before, began = _taken(mesh), time.monotonic()
            _change(intent, weight, extra=number % 4 >= 2)
            while _taken(mesh) == before:
                if time.monotonic() - began > WITHIN:
                    print(f"MISS change {number} did not arrive within {WITHIN:g} s")
                    return 1
                time.sleep(0.02)
            took.append(time.monotonic() - began)
        refused = sum(mesh.stats("update_rejected").values())
    return _verdict(took, load.results, refused)


def _taken(mesh: Mesh) -> int:
    """How many route configurations the Envoys have taken; every change brings the caller's a new one."""
    return sum(mesh.stats("rds.egress.*update_success").values())


def _change(intent: Path, weight: int, *, extra: bool) -> None:
    routes = (EXTRA_ROUTE if extra else "") + CANARY % (100 - weight, weight)
    _put(intent / "services/callee.yaml", CALLEE + routes)
    if extra:
        _put(intent / "services/extra.yaml", EXTRA)
    else:
        (intent / "services/extra.yaml").unlink(missing_ok=True)


def _put(file: Path, text: str) -> None:
    """All at once, as an editor does it."""
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(file)


def _verdict(took: list[float], results: list[_load.Result], refused: int) -> int:
    requests, failures = sum(each.requests for each in results), sum(each.failures for each in results)
    print(
        f"{len(took)} changes, each in {statistics.median(took):.2f} s (at most {max(took):.2f}) from the file to the "
        f"caller's Envoy; {requests} requests meanwhile, p99 {max(each.p99_ms for each in results):.1f} ms at worst"
    )
    print(f"{'ok  ' if not failures else 'MISS'} failed requests: {failures} (none)")
    print(f"{'ok  ' if not refused else 'MISS'} refused updates: {refused} (none)")
    return 0 if not failures and not refused and requests else 1


def _intent(directory: Path) -> Path:
    intent = directory / "intent"
    backend, port_file = Path(__file__).with_name("_backend.py").resolve(), directory / "port"
    for name, text in INTENT.items():
        file = intent / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text % {"backend": backend, "port_file": port_file} if name == "up.yaml" else text)
    _put(intent / "services/callee.yaml", CALLEE + CANARY % (50, 50))
    return intent


if __name__ == "__main__":
    sys.exit(main())
