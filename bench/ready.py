"""From `vestibule up` on the example shop to the first allowed 200 on every allowed edge; at most 5 s.

Each run starts from nothing: a new state directory, a new trust domain's keys, every process anew.  What is measured
is what a person waits: from the start of the command to the last of the first answers.
"""

from __future__ import annotations

import argparse
import http.client
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from _comparison import machine
from _mesh import Mesh

from vestibule.app.up.edges import Edge, allowed_edges
from vestibule.app.up.plan import Plan, make_plan

LIMIT = 5.0
SHOP = Path(__file__).resolve().parent.parent / "examples" / "shop"


def first_success(mesh: Mesh, edge: Edge) -> None:
    """Call the edge, as the caller's app would, until it is answered with success."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for request in edge.requests:
            connection = http.client.HTTPConnection("127.0.0.1", mesh.egress(edge.route.caller), timeout=5)
            try:
                connection.request(request.method, request.path, headers={"host": edge.route.callee})
                if 200 <= connection.getresponse().status < 300:
                    return
            except OSError:
                continue
            finally:
                connection.close()
    raise SystemExit(f"{edge} was not answered with success within 30 s")


def run(edges: list[Edge]) -> tuple[float, dict[str, float]]:
    """Seconds until ready, and the milestones that `up` itself reports."""
    state = Path(tempfile.mkdtemp(prefix="vr"))
    try:
        with Mesh(SHOP, state) as mesh:
            for edge in edges:
                first_success(mesh, edge)
            return time.monotonic() - mesh.began, mesh.said.get("parts", {})
    finally:
        shutil.rmtree(state, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    plan = make_plan(SHOP)
    assert isinstance(plan, Plan), plan
    edges = allowed_edges(plan.intent, plan.services)
    print(f"{machine()}; {len(edges)} allowed edges, {runs} runs after one to warm up")
    run(edges)
    found = [run(edges) for _ in range(runs)]
    seconds = sorted(each for each, _ in found)
    for part in found[0][1]:
        print(
            f"  {part:<9} reached after {statistics.median(parts[part] for _, parts in found):.2f} s (median)"
        )
    median = statistics.median(seconds)
    holds = median <= LIMIT
    print(
        f"ready after {median:.2f} s (median; min {seconds[0]:.2f}, max {seconds[-1]:.2f}); at most {LIMIT:.0f} s"
    )
    print("holds" if holds else "MISSED")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
