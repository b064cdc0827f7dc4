"""Many identities that are revoked, before many rules."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count

from hypothesis import given
from hypothesis import strategies as st
from tests.e2e.mesh_lab import intent_of, rule, service

from vestibule.envoy.world import World
from vestibule.policy import PortPolicy
from vestibule.spiffe import Revocation, Revocations, RevokedIdentity, SpiffeId

AT = datetime(2026, 12, 31, 12, tzinfo=UTC)
IDS = [
    SpiffeId.parse(f"spiffe://example.org{path}")
    for path in ("", "/a", "/a/b", "/a/b/c", "/ab", "/b", "/ns/prod/sa/web")
]
CALLERS = ["web", *(str(each) for each in IDS), *(f"{each}/**" for each in IDS)]


def world_with(revoked: list[SpiffeId]) -> World:
    numbers = count(1)
    entries = tuple(
        Revocation(target=RevokedIdentity(spiffe_id=each), at=AT, version=next(numbers)) for each in revoked
    )
    return World(intent=intent_of(service("payments")), revocations=Revocations(len(entries), entries))


@given(
    st.lists(st.sampled_from(IDS), unique=True),
    st.lists(st.sampled_from(CALLERS), max_size=3),
    st.booleans(),
)
def test_a_port_is_concerned_by_the_newest_revocation_of_whom_its_rules_name(
    revoked: list[SpiffeId], callers: list[str], anyone: bool
) -> None:
    rules = [rule(f"payments/{n}", each) for n, each in enumerate(callers)]
    if anyone:
        rules.append(replace(rule("payments/any"), callers=(), anyone=True))
    newest = max(
        (
            version
            for version, each in enumerate(revoked, start=1)
            if any(one.calls_from(each) for one in rules)
        ),
        default=0,
    )
    policy = PortPolicy(service="payments", port="http", allow=tuple(rules))
    assert world_with(revoked).cut(policy) == (str(newest) if newest else "")


def test_ten_thousand_of_them_before_ten_thousand_rules_take_no_time() -> None:
    revoked = [SpiffeId.parse(f"spiffe://example.org/ns/old/sa/s{n}") for n in range(10_000)]
    rules = tuple(rule(f"payments/{n}", "web", f"spiffe://example.org/ns/old/{n}/**") for n in range(10_000))
    world, policy = world_with(revoked), PortPolicy(service="payments", port="http", allow=rules)
    started = time.process_time()
    assert world.cut(policy) == ""
    assert time.process_time() - started < 10
