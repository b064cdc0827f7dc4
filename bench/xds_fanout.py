"""One change for every proxy there is: how long until all of them have confirmed it.

A real server, and proxies in two other processes, which parse and verify what they get, behind relaying agents with
20 proxies each, attested and connected over mutual TLS.  Every proxy is an instance of a service that may call ``hub``,
and the change is about calls to ``hub``: nobody is spared.  With ``--change policy`` it is about whom every service
denies, and so about what every proxy enforces.  The clock runs from the moment that the server takes the commit up (it
says so in its log) to the moment that a proxy's answer has left its agent.  Also measured: all of them connecting at
once with nothing in hand, and again after all connections broke; the server's memory for each proxy; and its processor
time while nothing happens.  In the same run, a bare server sends as much to as many streams.

Everything shares one machine here, the agents' work too, which elsewhere has machines of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import _intents
import _processes
from _comparison import machine
from _server import Server, free_port, vestibule

HERE = Path(__file__).parent
FOLLOWERS = 2
PER_AGENT = 20
PER_SERVICE = 10
WITHIN = {1000: 0.5, 5000: 2.0}
"""Seconds, for the 95th percentile, at so many proxies."""
STORM = 10.0
"""Seconds, for each 1,000 proxies."""
IDLE = 0.05
"""Of one processor."""
TAKEN_UP = re.compile(r"^(\S+) .*intent version \S+ is taken up", re.MULTILINE)


class Follower:
    """One process of proxies."""

    def __init__(self, given: dict[str, Any]) -> None:
        command = [sys.executable, str(HERE / "_xds_proxies.py"), json.dumps(given)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def say(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise SystemExit("a process of proxies ended")
        return json.loads(line)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@dataclass
class Fleet:
    """All followers together."""

    followers: Sequence[Follower]

    def do(self, command: str) -> list[Any]:
        for each in self.followers:
            each.say(command)
        return [each.hear() for each in self.followers]

    def times(self) -> list[float]:
        """When each proxy's answer left."""
        found = self.do("wait")
        if late := sum(each.get("late", 0) for each in found):
            lost = sum(each.get("lost", 0) for each in found)
            raise SystemExit(f"{late} proxies did not answer in time; {lost} leases were lost")
        return [each for part in found for each in part["times"]]


@dataclass
class Mesh:
    """A server with an intent that can be changed."""

    server: Server
    log: Path
    directory: Path
    services: int
    change: str

    def commit(self, number: int) -> None:
        (self.directory / "mesh.yaml").write_bytes((_intents.MESHES[self.change] % number).encode())

    def taken_up(self) -> float:
        """When the last commit was taken up, in seconds since the epoch."""
        return datetime.fromisoformat(TAKEN_UP.findall(self.log.read_text())[-1]).timestamp()


@contextlib.contextmanager
def running(proxies: int, change: str) -> Iterator[tuple[Mesh, Fleet]]:
    directory = Path(tempfile.mkdtemp(prefix="vb", dir="/tmp"))
    services = max(1, proxies // PER_SERVICE)
    followers: list[Follower] = []
    try:
        intent = directory / "intent"
        for name, content in _intents.files(services, hub=True, change=change).items():
            (intent / name).parent.mkdir(parents=True, exist_ok=True)
            (intent / name).write_bytes(content)
        with vestibule(directory / "server", free_port(), "--intent", str(intent)) as server:
            each = proxies // FOLLOWERS
            for number in range(FOLLOWERS):
                given = {
                    "port": server.port,
                    "socket": str(server.socket),
                    "services": services,
                    "first": number * each,
                    "proxies": each,
                    "per_agent": PER_AGENT,
                    "change": change,
                }
                followers.append(Follower(given))
            try:
                yield Mesh(server, directory / "server" / "log", intent, services, change), Fleet(followers)
            finally:
                for follower in followers:
                    follower.end()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def p95(times: Sequence[float]) -> float:
    return sorted(times)[min(len(times) - 1, round(0.95 * len(times)))]


@dataclass
class Figures:
    connect: float
    storm: float
    changes: list[float]
    medians: list[float]
    worked: float
    idle: float
    memory: float


def measure(proxies: int, rounds: int, idle: float, change: str) -> Figures:
    with running(proxies, change) as (mesh, fleet):
        pid = mesh.server.pid
        fleet.do("join")
        empty = _processes.resident(pid)
        fleet.do("expect 15")
        began = time.time()
        fleet.do("connect")
        connect = max(fleet.times()) - began
        time.sleep(2.0)
        memory = (_processes.resident(pid) - empty) / proxies
        before = _processes.cpu_seconds([pid])
        time.sleep(idle)
        resting = (_processes.cpu_seconds([pid]) - before) / idle
        changes, medians, worked = [], [], []
        for number in range(rounds):
            time.sleep(1.0)
            wanted = 20 + number
            fleet.do(f"expect {wanted}")
            before = _processes.cpu_seconds([pid])
            mesh.commit(wanted)
            times = fleet.times()
            worked.append((_processes.cpu_seconds([pid]) - before) / proxies)
            began = mesh.taken_up()
            changes.append(p95(times) - began)
            medians.append(statistics.median(times) - began)
        fleet.do("expect 50")
        began = time.time()
        fleet.do("cut")
        mesh.commit(50)
        storm = max(fleet.times()) - began
    return Figures(connect, storm, changes, medians, statistics.median(worked), resting, memory)


def bare(streams: int, size: int, rounds: int) -> list[float]:
    """Seconds until everybody has answered, each round."""
    port = free_port()
    program = [sys.executable, str(HERE / "_xds_bare.py")]
    server = subprocess.Popen(
        [*program, "serve", str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    others: list[subprocess.Popen[str]] = []

    def ask(question: str) -> str:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(f"{question}\n")
        server.stdin.flush()
        return server.stdout.readline().strip()

    try:
        assert server.stdout is not None
        server.stdout.readline()
        each = str(streams // FOLLOWERS)
        others = [
            subprocess.Popen([*program, "follow", str(port), each], stderr=subprocess.DEVNULL, text=True)
            for _ in range(FOLLOWERS)
        ]
        while int(ask("count")) < streams // FOLLOWERS * FOLLOWERS:
            time.sleep(0.1)
        return [float(ask(str(size))) for _ in range(rounds)]
    finally:
        for process in (*others, server):
            process.kill()
            process.wait()


def size_of_change(proxies: int, change: str) -> int:
    """Bytes that a proxy is sent for the change: its routes, or its rules."""
    from vestibule.envoy.compile import compile_proxy
    from vestibule.envoy.world import World
    from vestibule.xds.resources import EXTENSION, ROUTES, ProxyKey

    intent = _intents.read(_intents.files(max(1, proxies // PER_SERVICE), hub=True, change=change))
    instance = _intents.instance(intent, _intents.service_name(0))
    world = World(intent=intent, instances=(instance,))
    compiled = compile_proxy(world, ProxyKey(instance.spiffe_id, instance.id))
    sent = {"routes": (ROUTES, "egress"), "policy": (EXTENSION, "policy/http")}
    url, name = sent[change]
    return len(compiled.of_type(url)[name].body)


def report(proxies: int, rounds: int, idle: float, change: str) -> bool:
    figures = measure(proxies, rounds, idle, change)
    size = size_of_change(proxies, change)
    plain = bare(proxies, size, rounds)
    changed, unadorned = statistics.median(figures.changes), statistics.median(plain)
    limit = WITHIN.get(proxies, 0.0005 * proxies)
    storm = STORM * max(1.0, proxies / 1000)
    print(f"{proxies} proxies, {proxies // PER_AGENT} agents, {size} bytes of {change} for each")
    print(
        f"  commit → ACK: p95 {changed:.2f} s (of {rounds}: {', '.join(f'{x:.2f}' for x in figures.changes)}), "
        f"p50 {statistics.median(figures.medians):.2f} s; bare fan-out, all: {unadorned:.2f} s; "
        f"ratio {changed / unadorned:.1f}; "
        f"of the limit: {changed / limit:.2f}"
    )
    print(
        f"  server: {figures.worked * 1e6:.0f} µs of processor time for each proxy and change, reading included"
    )
    print(
        f"  all connect at once, with nothing: {figures.connect:.1f} s; after all broke: {figures.storm:.1f} s"
    )
    print(
        f"  server: {figures.memory * 1000:.0f} kB for each proxy; idle {figures.idle:.3f} of one processor"
    )
    checks = (
        (f"p95 below {limit} s", changed < limit),
        (f"storms below {storm:.0f} s", max(figures.connect, figures.storm) < storm),
        (f"idle below {IDLE}", figures.idle < IDLE * max(1.0, proxies / 1000)),
    )
    for text, holds in checks:
        print(f"  {'holds' if holds else 'MISSED'}: {text}")
    return all(holds for _, holds in checks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--proxies", type=int, nargs="*", default=[1000, 5000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle", type=float, default=8.0, help="seconds of watching a server at rest")
    parser.add_argument("--change", choices=sorted(_intents.MESHES), default="routes")
    given = parser.parse_args()
    print(machine())
    results = [report(proxies, given.rounds, given.idle, given.change) for proxies in given.proxies]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
