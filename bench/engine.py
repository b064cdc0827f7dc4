"""What a decision costs, by the engine that the decision service and the tools use: 10 rules against 10,000.

The rules of one port mix exact paths, beginnings, and templates with a ``{segment}`` in the middle or in front; the
calls are allowed by one of each kind, or by none.  Measured is processor time, since other work on the machine would
only blur it.  A condition costs what CEL costs; that is printed, and has no limit.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

from _comparison import machine

from vestibule.policy import Call, Condition, Effect, Engine, IdentityMatch, PathPattern, PortPolicy, Rule
from vestibule.spiffe import SpiffeId

FLAT = 1.25
"""How much more a decision among 10,000 rules may cost than one among 10."""

LIMIT = 5.0
"""Microseconds; about 2 on a machine with nothing else to do."""

KINDS = ("/v1/r{}", "/v1/p{}/**", "/v1/t{}/{{id}}/lines", "/{{kind}}/x{}")
CALLERS = 100


def policy(rules: int, when: Condition | None = None) -> PortPolicy:
    """As many permissions, and a denial."""
    allow = tuple(
        Rule(
            name=f"app/r{number}",
            callers=(IdentityMatch(id=caller(number)),),
            methods=frozenset({"GET"}),
            paths=(PathPattern.parse(KINDS[number % len(KINDS)].format(number)),),
            when=when,
        )
        for number in range(rules)
    )
    evil = IdentityMatch.parse("spiffe://example.org/ns/evil/**")
    deny = Rule(name="app/evil", callers=(evil,), effect=Effect.DENY)
    return PortPolicy(service="app", port="http", allow=allow, deny=(deny,))


def caller(number: int) -> SpiffeId:
    """The caller whom the rule of a number names."""
    return SpiffeId.parse(f"spiffe://example.org/ns/prod/sa/s{number % CALLERS}")


def calls(rules: int) -> list[tuple[Call, str | None]]:
    """Calls, and the names of the rules that allow them."""
    paths = ("/v1/r{}", "/v1/p{}/a/b", "/v1/t{}/7/lines", "/q/x{}")
    last = (rules // len(KINDS) - 1) * len(KINDS)
    found: list[tuple[Call, str | None]] = []
    for kind, path in enumerate(paths):
        number = last + kind
        call = Call(caller=caller(number), port="http", method="GET", path=path.format(number))
        found.append((call, f"app/r{number}"))
    return [*found, (Call(caller=caller(0), port="http", method="GET", path="/v1/nothing/at/all"), None)]


def measure(engine: Engine, asked: Sequence[tuple[Call, str | None]], rounds: int) -> float:
    """Microseconds for one decision, the least of some rounds."""
    for call, rule in asked:
        assert engine.decide(call).rule == rule, (call, rule)
    best = []
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(2000):
            for call, _ in asked:
                engine.decide(call)
        best.append((time.process_time() - began) / 2000 / len(asked) * 1e6)
    return min(best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rules", type=int, default=10_000)
    options = parser.parse_args()
    print(machine())
    few = Engine(policy(12))
    began = time.process_time()
    many = Engine(policy(options.rules))
    print(f"index of {options.rules:,} rules: {(time.process_time() - began) * 1e3:.0f} ms")
    ratios, costs = [], []
    for _ in range(options.rounds):
        small, large = measure(few, calls(12), 2), measure(many, calls(options.rules), 2)
        ratios.append(large / small)
        costs.append(large)
    ratio, cost = statistics.median(ratios), min(costs)
    print(f"a decision: {cost:.2f} µs among {options.rules:,} rules, {ratio:.2f} times that among 12")
    when = Condition.parse("request.method == 'GET' && request.path.startsWith('/')")
    conditional = Engine(policy(12, when))
    print(f"with a condition: {measure(conditional, calls(12)[:4], 3):.2f} µs")
    if ratio > FLAT or cost > LIMIT:
        raise SystemExit(f"missed: at most {FLAT} times and {LIMIT} µs")
    print("held")


if __name__ == "__main__":
    main()
