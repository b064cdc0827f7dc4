"""The pair of sidecars that `vestibule up` runs, against a minimal pair of Envoys written by hand.

Both carry the same requests to the same app (an Envoy that answers at once), over the same HTTP versions on every leg
(1.1 in, 2 over mutual TLS 1.3 between, 1.1 to the app), with as many worker threads.  Ours has policy, SPIFFE
validation, certificates from the agent and access logs as they are by default (complete up to a rate, sampled beyond
it); theirs has certificates in files, and nothing else.  Many short runs alternate, and ratios are taken run by run, so
that a machine that grows slower for seconds slows both.  A little load goes before each run of either: what is compared
is a lasting load, and while one pair rests, its budgets for access records fill up again.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import _load
import _processes
from _comparison import interleaved, machine, ratios
from _mesh import Mesh
from _static_pair import StaticPair

WARM_UP = 0.3
"""Seconds of load before each run; ours could report two seconds' worth of requests at once after a pause."""

THROUGHPUT = 0.9
P99 = 1.1
HOST = "callee"
PATH = "/v1/things/42"
INTENT = {
    "mesh.yaml": "mesh: bench\ntrust_domain: bench.example\nenvironment: bench\n",
    "services/caller.yaml": "service: caller\n",
    "services/callee.yaml": """\
service: callee
ports: {http: {protocol: http}}
allow:
  - {id: caller-reads, from: [caller], methods: [GET], paths: [/v1/things/**]}
""",
    "up.yaml": """\
apps:
  caller: {run: [sleep, infinity]}
  callee: {run: [python, %(backend)s, %(port_file)s]}
""",
}


@dataclass(frozen=True)
class Run:
    """One run of the load; processor times in seconds."""

    load: _load.Result
    envoys: float
    agent: float = 0.0

    @property
    def envoy_us(self) -> float:
        return self.envoys / self.load.requests * 1e6

    @property
    def agent_us(self) -> float:
        return self.agent / self.load.requests * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--seconds", type=float, default=1.2)
    parser.add_argument("--connections", type=int, default=32)
    given = parser.parse_args()
    print(machine())
    directory = Path(tempfile.mkdtemp(prefix="vb-", dir="/tmp"))
    try:
        return _measure(directory, given.rounds, given.seconds, given.connections)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _measure(directory: Path, rounds: int, seconds: float, connections: int) -> int:
    with ExitStack() as stack:
        mesh = stack.enter_context(Mesh(_intent(directory), directory / "state"))
        workers = {words[words.index("--concurrency") + 1] for words in map(_processes.command, mesh.envoys)}
        app_port = int((directory / "port").read_text())
        theirs = stack.enter_context(StaticPair(directory / "static", app_port, workers=int(workers.pop())))
        agent, our_port = mesh.agent, mesh.egress("caller")
        ours_pids, their_pids = list(mesh.envoys), theirs.pids

        def load(port: int, length: float = seconds) -> _load.Result:
            return _load.run(port, host=HOST, path=PATH, connections=connections, seconds=length)

        def run_ours() -> Run:
            load(our_port, WARM_UP)
            envoys, agents = _processes.cpu_seconds(ours_pids), _processes.cpu_seconds([agent])
            result = load(our_port)
            return Run(
                result,
                _processes.cpu_seconds(ours_pids) - envoys,
                _processes.cpu_seconds([agent]) - agents,
            )

        def run_theirs() -> Run:
            load(theirs.egress_port, WARM_UP)
            envoys = _processes.cpu_seconds(their_pids)
            result = load(theirs.egress_port)
            return Run(result, _processes.cpu_seconds(their_pids) - envoys)

        for port in (our_port, theirs.egress_port):
            load(port, 1.0)
        before = mesh.stats("access_logs|logs_dropped")
        pairs = interleaved(rounds, run_ours, run_theirs)
        dropped = mesh.stats("access_logs|logs_dropped")
    _report(pairs)
    print({name: dropped[name] - before.get(name, 0) for name in dropped})
    return _verdict(pairs)


def _intent(directory: Path) -> Path:
    intent = directory / "intent"
    backend, port_file = Path(__file__).with_name("_backend.py").resolve(), directory / "port"
    for name, text in INTENT.items():
        file = intent / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text % {"backend": backend, "port_file": port_file} if name == "up.yaml" else text)
    return intent


def _report(pairs: list[tuple[Run, Run]]) -> None:
    for name, runs in (("ours", [ours for ours, _ in pairs]), ("theirs", [theirs for _, theirs in pairs])):
        print(
            f"{name:>6}: {_spread([run.load.rps for run in runs], '.0f')} requests/s, "
            f"p50 {_spread([run.load.p50_ms for run in runs], '.2f')} ms, "
            f"p99 {_spread([run.load.p99_ms for run in runs], '.2f')} ms, "
            f"{sum(run.load.failures for run in runs)} failures; per request: "
            f"both Envoys {_spread([run.envoy_us for run in runs], '.0f')} µs of processor"
            + (f", agent {_spread([run.agent_us for run in runs], '.1f')} µs" if name == "ours" else "")
        )


def _spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def _verdict(pairs: list[tuple[Run, Run]]) -> int:
    throughput = ratios([(ours.load.rps, theirs.load.rps) for ours, theirs in pairs])
    p99 = ratios([(ours.load.p99_ms, theirs.load.p99_ms) for ours, theirs in pairs])
    failures = sum(run.load.failures for pair in pairs for run in pair)
    checks = [
        (
            f"throughput, ours over theirs: {throughput} (at least {THROUGHPUT})",
            throughput.median >= THROUGHPUT,
        ),
        (f"p99, ours over theirs: {p99} (at most {P99})", p99.median <= P99),
        (f"failed requests: {failures} (none)", failures == 0),
    ]
    for text, held in checks:
        print(f"{'ok  ' if held else 'MISS'} {text}")
    return 0 if all(held for _, held in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
