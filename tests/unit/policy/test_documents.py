"""Policies as decision services are sent them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from vestibule.errors import VestibuleError
from vestibule.policy import (
    Condition,
    Effect,
    IdentityMatch,
    McpDemand,
    Mode,
    PathPattern,
    PortPolicy,
    Rule,
    TokenDemand,
)
from vestibule.policy.deciders import Engines
from vestibule.policy.documents import from_bytes, to_bytes
from vestibule.spiffe import SpiffeId

END = datetime(2026, 12, 31, 18, tzinfo=UTC)
ORDERS = SpiffeId.parse("spiffe://example.org/orders")

EVERYTHING = PortPolicy(
    service="payments",
    port="http",
    is_mcp=True,
    environment="prod",
    labels={"env": "prod"},
    callers={ORDERS: {"team": "shop"}},
    deny=(
        Rule(
            name="payments/no",
            callers=(),
            anyone=True,
            effect=Effect.DENY,
            when=Condition.parse("request.body.amount > 5.0 || attributes.risk == 'high'"),
            expires=END,
        ),
    ),
    allow=(
        Rule(
            name="payments/yes",
            callers=(
                IdentityMatch(id=ORDERS, until=END),
                IdentityMatch.parse("spiffe://example.org/ns/**"),
            ),
            port="http",
            methods=frozenset({"POST", "GET"}),
            paths=(PathPattern.parse("/v1/{id}/**"), PathPattern.parse("/")),
            mode=Mode.SHADOW,
            token=TokenDemand(
                issuer="internal", audience="payments", scopes=("a", "b"), claims=(("dept", "fin"),)
            ),
            mcp=McpDemand(tools=("read_*",), methods=("tools/list",)),
            reason="because",
        ),
    ),
    emergencies=(Rule(name="break-glass/1", callers=(IdentityMatch(id=ORDERS),)),),
)


def test_a_policy_comes_back_as_it_was() -> None:
    assert from_bytes(to_bytes(EVERYTHING)) == EVERYTHING
    assert from_bytes(to_bytes(EVERYTHING)).deny[0].when is not None
    assert from_bytes(to_bytes(EVERYTHING)).callers == EVERYTHING.callers


def test_equal_policies_are_equal_bytes() -> None:
    assert to_bytes(EVERYTHING) == to_bytes(from_bytes(to_bytes(EVERYTHING)))


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(format="vestibule.policy/v2"),
        lambda document: document.update(audit=[]),
        lambda document: document["deny"][0].update(unless="x"),
        lambda document: document["deny"][0].update(when="request.body.("),
        lambda document: document["allow"][0].update(paths=["/a/../b"]),
        lambda document: document.pop("deny"),
        lambda document: document.update(deny=7),
    ],
)
def test_what_is_not_understood_whole_is_not_taken_at_all(change: object) -> None:
    document = json.loads(to_bytes(EVERYTHING))
    change(document)  # type: ignore[operator]
    with pytest.raises(VestibuleError, match="VST4130"):
        from_bytes(json.dumps(document).encode())


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"[" * 100_000])
def test_damage_is_told(data: bytes) -> None:
    with pytest.raises(VestibuleError, match="VST4130"):
        from_bytes(data)


def test_an_engine_is_made_once() -> None:
    engines = Engines("example.org")
    assert engines.of("1", to_bytes(EVERYTHING)) is engines.of("1", to_bytes(EVERYTHING))
    assert engines.of("2", to_bytes(EVERYTHING)) is not engines.of("1", to_bytes(EVERYTHING))
