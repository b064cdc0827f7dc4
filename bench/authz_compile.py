"""What compiling the rules of one port costs: ten thousand from nothing, and after one of them changed, and their size.

The rules are those of ``authz_rules.py``.  No files are read: measured is the processor time from rules that are known
to the bytes that the proxy gets.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import replace
from typing import Final

from _comparison import machine
from authz_rules import MANY, kinds

from vestibule.envoy import rbac
from vestibule.envoy.protos import serialized
from vestibule.policy import Condition, IdentityMatch, PathPattern, PortPolicy, Rule
from vestibule.spiffe import SpiffeId

WITHIN: Final = 5.0
"""Seconds, for either."""

CALLER: Final = IdentityMatch(id=SpiffeId.parse("spiffe://bench.example/caller"))


def policy(count: int) -> PortPolicy:
    return PortPolicy(service="callee", port="http", allow=tuple(_rule(number) for number in range(count)))


def _rule(number: int) -> Rule:
    allow, _, when = kinds(number)[number % 10]
    return Rule(
        name=f"callee/r{number}",
        callers=(CALLER,),
        methods=("GET",),
        paths=(PathPattern.parse(allow),),
        when=Condition.parse(when) if when else None,
    )


def seconds(wanted: PortPolicy) -> tuple[float, int]:
    """Of processor time, and bytes."""
    began = time.process_time()
    size = len(serialized(rbac.http_rbac(wanted)))
    return time.process_time() - began, size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rules", type=int, default=MANY)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(machine())
    wanted = policy(given.rules)
    cold, size = seconds(wanted)
    changed = []
    for number in range(given.rounds):
        one = replace(wanted.allow[number], methods=("PUT",))
        wanted = replace(wanted, allow=(*wanted.allow[:number], one, *wanted.allow[number + 1 :]))
        changed.append(seconds(wanted)[0])
    after = statistics.median(changed)
    print(
        f"{given.rules} rules: {cold:.2f} s from nothing, {after:.2f} s after a change; {size / 1e6:.1f} MB"
    )
    slowest = max(cold, after)
    print(
        f"{'ok  ' if slowest <= WITHIN else 'MISS'} the slower of both: {slowest:.2f} s (at most {WITHIN} s)"
    )
    return 0 if slowest <= WITHIN else 1


if __name__ == "__main__":
    sys.exit(main())
