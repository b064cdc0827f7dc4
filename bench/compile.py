"""What compiling costs: a mesh of 1,000 services from nothing, and after one change.

No files are read and nothing is sent: measured is the way from an intent that is known to what every proxy should
have.  Two changes are measured, a service's rule (a new commit, all of its services parsed anew) and an instance that
comes, with all that they entail: who is not concerned is found out, too.  A full rebuild afterwards must give the
same bytes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import _intents
from _comparison import machine

from vestibule.envoy.compile import Compilation, Compiler, compile_proxy
from vestibule.envoy.world import World
from vestibule.records import Instance
from vestibule.xds.resources import ProxyKey

COLD = 5.0
CHANGE = 0.05
"""Seconds."""


class Proxies:
    """All proxies of a mesh, kept current."""

    def __init__(self) -> None:
        self.compiler = Compiler()
        self.known: dict[ProxyKey, Compilation] = {}
        self.compiled = 0

    def take(self, world: World) -> float:
        """Seconds of processor time until everybody's configuration fits this world."""
        began = time.process_time()
        self.compiled = 0
        self.compiler.take(world)
        for each in world.instances:
            proxy = ProxyKey(each.spiffe_id, each.id)
            before = self.known.get(proxy)
            self.known[proxy] = self.compiler.compile(proxy, before)
            self.compiled += before is None or before.trace is not self.known[proxy].trace
        return time.process_time() - began

    def check(self) -> None:
        """A full rebuild gives the same."""
        world = self.compiler.world
        assert world is not None
        fresh = World(intent=world.intent, instances=world.instances)
        for proxy, kept in self.known.items():
            if compile_proxy(fresh, proxy) != kept.snapshot:
                raise SystemExit(f"{proxy.instance_id} differs after a full rebuild")


def measure(services: int, rounds: int) -> tuple[float, list[float], list[float], int]:
    files = _intents.files(services)
    intent = _intents.read(files)
    instances = tuple(_intents.instance(intent, name) for name in sorted(intent.services))
    proxies = Proxies()
    cold = proxies.take(World(intent=intent, instances=instances))
    commits: list[float] = []
    arrivals: list[float] = []
    concerned = 0
    for number in range(rounds):
        name = _intents.service_name(number)
        callers = [_intents.service_name(number * 7 + each + 1) for each in range(_intents.CALLERS)]
        files[f"services/{name}.yaml"] = _intents.service(name, callers, f"/v{number}/**")
        # Parsed anew, as after a commit: not one object of it is the same.
        intent = _intents.read(files)
        commits.append(proxies.take(World(intent=intent, instances=instances)))
        concerned = max(concerned, proxies.compiled)
        instances = (*instances, second(intent.services[name].name, intent))
        arrivals.append(proxies.take(World(intent=intent, instances=instances)))
    proxies.check()
    return cold, commits, arrivals, concerned


def second(name: str, intent: _intents.Intent) -> Instance:
    return _intents.instance(intent, name, 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(f"{machine()}; {given.services} services, each called by {_intents.CALLERS}")
    cold, commits, arrivals, concerned = measure(given.services, given.rounds)

    def shown(times: list[float]) -> str:
        return f"{statistics.median(times) * 1000:.0f} ms (most {max(times) * 1000:.0f} ms)"

    print(f"all from nothing: {cold:.2f} s")
    print(f"a commit that changes a service: {shown(commits)}; at most {concerned} proxies compiled")
    print(f"an instance that comes: {shown(arrivals)}")
    print("a full rebuild gives the same")
    checks: tuple[tuple[str, Callable[[], bool]], ...] = (
        (f"cold below {COLD:.0f} s", lambda: cold < COLD),
        (
            f"a change below {CHANGE * 1000:.0f} ms",
            lambda: statistics.median(commits) < CHANGE and statistics.median(arrivals) < CHANGE,
        ),
    )
    for text, holds in checks:
        print(f"{'holds' if holds() else 'MISSED'}: {text}")
    return 0 if all(holds() for _, holds in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
