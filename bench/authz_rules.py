"""A sidecar with ten thousand rules, against one with ten: what rules cost a request.

Both are whole meshes by `vestibule up`, with the same two services; only the rules of the called one differ.  They are
a mix: whole paths, beginnings, templates and conditions in CEL.  Two thousand requests are sent in turn, to as many of
the ten thousand rules, so that no cache is flattered; every fifth goes where no rule allows anything.  The other side
gets as many, as long, of the same kinds in the same order, so that what sends, carries and logs them has as much to do.
Short runs alternate, and ratios are taken run by run.  Besides throughput, which the load, the agent and the caller's
sidecar share in, it tells the processor time of the callee's Envoy alone.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import _mesh
import _processes
from _comparison import interleaved, machine, ratios
from _mesh import Mesh

MANY, FEW = 10_000, 10
_mesh.WITHIN = 600.0  # ten thousand rules are read by every part
THROUGHPUT: Final = 0.95
WARM_UP: Final = 0.3
REQUESTS: Final = 2_000
"""Sent in turn."""
REFUSED_OF_TEN: Final = 2

UP: Final = """\
apps:
  caller: {run: [sleep, infinity]}
  callee: {run: [python, %(backend)s, %(port_file)s]}
"""
SCRIPT: Final = """\
local paths, made, at = {%s}, {}, 0
init = function()
  for i, path in ipairs(paths) do
    made[i] = wrk.format("GET", path, {Host = "callee"})
  end
  at = math.random(#made)
end
request = function()
  at = at %% #made + 1
  return made[at]
end
done = function(summary, latency, requests)
  local e = summary.errors
  local failed = e.connect + e.read + e.write + e.timeout
  io.write(string.format("RESULT %%d %%d %%d %%d\\n", summary.requests, summary.duration, e.status, failed))
end
"""


@dataclass(frozen=True)
class Run:
    """One run of the load; ``callee`` is processor time of the callee's Envoy, in seconds."""

    requests: int
    seconds: float
    failures: int
    callee: float

    @property
    def rps(self) -> float:
        return self.requests / self.seconds

    @property
    def callee_us(self) -> float:
        return self.callee / self.requests * 1e6


def rules(count: int) -> list[str]:
    """In the intent's words."""
    made = []
    for number in range(count):
        allow, _, when = kinds(number)[number % 10]
        more = f', when: "{when}"' if when else ""
        made.append(f"  - {{id: r{number}, from: [caller], methods: [GET], paths: [{allow!r}]{more}}}")
    return made


def kinds(number: int, asked: int = 0) -> list[tuple[str, str, str]]:
    """What each of ten rules allows, a path of it, and a condition."""
    name = f"{number:04}"  # as long where there are few
    whole = (f"/v1/whole{name}/x", f"/v1/whole{name}/x", "")
    below = (f"/v1/below{name}/**", f"/v1/below{name}/a/{asked:04}", "")
    template = (f"/v1/of{name}/{{id}}/lines", f"/v1/of{name}/{asked:04}/lines", "")
    condition = f"request.host.startsWith('callee') && request.path.endsWith('{name}/y')"
    cel = (f"/v1/asked{name}/y", f"/v1/asked{name}/y", condition)
    return [whole, whole, whole, whole, below, below, below, template, template, cel]


def paths(count: int) -> list[str]:
    """To rules of the same kinds in the same order, whatever their number; a part to where none allows anything."""
    made = []
    for asked, chosen in enumerate(random.Random(7).sample(range(MANY), REQUESTS)):
        number = chosen % count
        _, path, _ = kinds(number, asked)[number % 10]
        if asked % (10 // REFUSED_OF_TEN) == 0:
            # As long; at the side of what is allowed, or where no rule says anything.
            path = path.replace("/below", "/above") if "/below" in path else f"{path[:-1]}_"
        made.append(path)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--seconds", type=float, default=1.2)
    parser.add_argument("--connections", type=int, default=32)
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("this needs wrk (Debian: apt-get install wrk)")
    print(machine())
    directory = Path(tempfile.mkdtemp(prefix="vb-", dir="/tmp"))
    try:
        return _measure(directory, given.rounds, given.seconds, given.connections)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Side:
    """A mesh whose callee has so many rules, and a load for it."""

    def __init__(self, directory: Path, count: int, connections: int) -> None:
        self._connections = connections
        directory.mkdir()
        self.mesh = Mesh(_intent(directory, rules(count)), directory / "state")
        self._script = directory / "load.lua"
        self._script.write_text(SCRIPT % ",".join(f'"{path}"' for path in paths(count)))

    def run(self, seconds: float) -> Run:
        callee = [pid for pid, admin in self.mesh.envoys.items() if _service(admin) == "callee"]
        before = _processes.cpu_seconds(callee)
        command = ["wrk", "-t1", f"-c{self._connections}", f"-d{seconds:.0f}s", "-s", str(self._script)]
        command.append(f"http://127.0.0.1:{self.mesh.egress('caller')}/")
        said = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=seconds + 30
        ).stdout
        requests, microseconds, refused, failures = map(int, said.partition("RESULT ")[2].split())
        # Each connection may be at any place in the list.
        if abs(refused - requests * REFUSED_OF_TEN / 10) > 2 * self._connections:
            raise SystemExit(
                f"{refused} of {requests} requests were refused, and not {REFUSED_OF_TEN} of ten"
            )
        return Run(requests, microseconds / 1e6, failures, _processes.cpu_seconds(callee) - before)


def _service(admin: Path) -> str:
    """Whose sidecar an Envoy is."""
    node = json.loads(admin.with_name("bootstrap.json").read_text())["node"]
    return str(node["cluster"])


def _intent(directory: Path, made: list[str]) -> Path:
    intent = directory / "intent"
    (intent / "services").mkdir(parents=True)
    backend, port_file = Path(__file__).with_name("_backend.py").resolve(), directory / "port"
    (intent / "mesh.yaml").write_text("mesh: bench\ntrust_domain: bench.example\nenvironment: bench\n")
    (intent / "services/caller.yaml").write_text("service: caller\n")
    lines = ["service: callee", "ports: {http: {protocol: http}}", "allow:", *made]
    (intent / "services/callee.yaml").write_text("\n".join(lines) + "\n")
    (intent / "up.yaml").write_text(UP % {"backend": backend, "port_file": port_file})
    return intent


def _measure(directory: Path, rounds: int, seconds: float, connections: int) -> int:
    with ExitStack() as stack:
        many, few = (
            Side(directory / name, count, connections) for name, count in (("many", MANY), ("few", FEW))
        )
        for side in (many, few):
            stack.enter_context(side.mesh)
        for side in (many, few):
            side.run(2.0)
        pairs = interleaved(rounds, lambda: many.run(seconds), lambda: few.run(seconds))
    for name, runs in (("10,000", [one for one, _ in pairs]), ("10", [other for _, other in pairs])):
        rps, callee = (
            sorted(values) for values in zip(*((run.rps, run.callee_us) for run in runs), strict=True)
        )
        print(
            f"{name:>6} rules: {statistics.median(rps):.0f} requests/s, callee's Envoy "
            f"{statistics.median(callee):.1f} µs of processor, {sum(run.failures for run in runs)} failures"
        )
    throughput = ratios([(one.rps, other.rps) for one, other in pairs])
    alone = ratios([(other.callee_us, one.callee_us) for one, other in pairs])
    failures = sum(run.failures for pair in pairs for run in pair)
    checks = [
        (f"throughput, 10,000 rules over 10: {throughput} (at least {THROUGHPUT})", throughput.median),
        (f"the callee's Envoy alone, by processor time: {alone} (at least {THROUGHPUT})", alone.median),
    ]
    for text, ratio in checks:
        print(f"{'ok  ' if ratio >= THROUGHPUT else 'MISS'} {text}")
    print(f"{'ok  ' if failures == 0 else 'MISS'} failed requests: {failures} (none)")
    return 0 if failures == 0 and all(ratio >= THROUGHPUT for _, ratio in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
