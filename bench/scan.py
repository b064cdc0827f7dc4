"""How long a scan of 100 endpoints of this machine takes, with the command's own limits of rate and concurrency.

The endpoints are in a process of their own, so a processor is shared as it is with services beside a scan: 80 with
mutual TLS, 10 that let much through, 10 without TLS.  Each round scans all of them; what is found is checked as well.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from _comparison import machine

from vestibule.clock import SystemClock
from vestibule.diagnose.scan import Authorities, Pace, Settings, foreign_identity, scan
from vestibule.posture import Facts, Mutual, Profile, Target, judge, parse_target

KINDS = {"strict": 80, "lax": 10, "plain": 10}
EXPECTED = {Mutual.ENFORCED: 80, Mutual.NOT_ENFORCED: 10, Mutual.PLAINTEXT: 10}
LIMIT = 5.0
"""Seconds."""
RATE, CONCURRENCY, TIMEOUT = 500.0, 50, 5.0
"""The command's defaults."""


def look(targets: list[Target]) -> tuple[Facts, ...]:
    """One scan."""
    clock = SystemClock()
    settings = Settings(
        timeout=TIMEOUT,
        pace=Pace(RATE),
        clock=clock,
        authorities=Authorities(),
        foreign=foreign_identity(clock.now()),
    )
    return asyncio.run(scan(targets, settings, concurrency=CONCURRENCY))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    words = [kind for kind, number in KINDS.items() for _ in range(number)]
    place = Path(__file__).with_name("_scan_targets.py")
    with subprocess.Popen(
        [sys.executable, place, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        targets = [parse_target(process.stdout.readline()) for _ in words]
        taken, used = [], []
        for _ in range(rounds):
            begun, processor = time.perf_counter(), time.process_time()
            facts = look(targets)
            taken.append(time.perf_counter() - begun)
            used.append(time.process_time() - processor)
            found = Counter(judge(each, Profile.SERVICE, each.seen).mutual for each in facts)
            assert found == EXPECTED, found
        process.communicate("")
    median = statistics.median(taken)
    print(machine())
    print(
        f"{len(targets)} endpoints: median {median:.2f} s (min {min(taken):.2f}, max {max(taken):.2f}, n={rounds}), "
        f"{statistics.median(used):.2f} s of processor; limit {LIMIT:g} s"
    )
    print("ok" if median < LIMIT else "MISSED")
    return 0 if median < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
