"""Rules about MCP by the messages that they name: found at once, and decided as if they were asked one by one."""

from __future__ import annotations

from random import Random

import pytest

from vestibule.policy import (
    Call,
    Condition,
    Effect,
    Engine,
    IdentityMatch,
    McpCall,
    McpDemand,
    PortPolicy,
    Rule,
)
from vestibule.policy.mcp import is_upkeep, mcp_matches, mcp_refusal, named_methods
from vestibule.policy.mcp_index import Messages
from vestibule.spiffe import SpiffeId

AGENT, OTHER = (SpiffeId.parse(f"spiffe://example.org/{name}") for name in ("agent", "other"))
NAMES = ("read", "read_note", "read_notes", "list", "drop", "file:///docs/a", "file:///docs")
PATTERNS = (*NAMES, "read*", "read_*", "*", "file:///docs/*")
METHODS = (
    *("tools/call", "prompts/get", "resources/read", "resources/subscribe", "tools/list", "initialize"),
    *("completion/complete", "acme/sync", "no/such"),
)


def some(random: Random, known: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(random.sample(known, random.choice((0, 0, 1, 1, 2))))


def rule(random: Random, number: int, effect: Effect) -> Rule:
    mcp = McpDemand(
        tools=some(random, PATTERNS),
        resources=some(random, PATTERNS),
        prompts=some(random, PATTERNS),
        methods=some(random, METHODS[4:-1]),
    )
    when = Condition.parse("request.headers['x'] == '1'") if random.random() < 0.3 else None
    return Rule(
        name=f"notes/{effect.value}{number}",
        callers=(IdentityMatch(id=random.choice((AGENT, AGENT, OTHER))),),
        effect=effect,
        mcp=mcp if random.random() < 0.9 else None,
        methods=frozenset(random.choice(((), (), ("POST",), ("GET", "DELETE")))),
        when=when,
    )


def plainly(policy: PortPolicy, call: Call) -> tuple[bool, str | None]:
    if (name := mcp_refusal(call.mcp, named_methods((*policy.deny, *policy.allow)))) is not None:
        return False, name
    for each in (*policy.deny, *policy.allow):
        denies = each.effect is Effect.DENY
        said = each.mcp is None or mcp_matches(each.mcp, call.mcp) or (not denies and is_upkeep(call))
        by = not each.methods or call.method in each.methods
        holds = each.when is None or call.headers.get("x", "1" if denies else "") == "1"
        if each.calls_from(call.caller) and said and by and holds:
            return not denies, each.name
    return False, None


@pytest.mark.parametrize("seed", range(40))
def test_it_decides_as_one_rule_after_the_other_would(seed: int) -> None:
    random = Random(seed)
    policy = PortPolicy(
        service="notes",
        port="mcp",
        is_mcp=True,
        deny=tuple(rule(random, number, Effect.DENY) for number in range(random.randint(0, 5))),
        allow=tuple(rule(random, number, Effect.ALLOW) for number in range(random.randint(1, 15))),
    )
    engine = Engine(policy)
    for _ in range(150):
        method = random.choice((*METHODS, None))
        target = random.choice(NAMES) if method in METHODS[:4] else None
        by = random.choice(("POST", "POST", "POST", "GET", "DELETE"))
        call = Call(
            caller=random.choice((AGENT, OTHER)),
            port="mcp",
            method=by,
            path="/mcp",
            headers=random.choice(({}, {"x": "1"}, {"x": "2"})),
            mcp=McpCall(method=method, target=target) if by == "POST" else None,
        )
        decision = engine.decide(call)
        assert (decision.allowed, decision.rule) == plainly(policy, call), call


def test_what_is_asked_does_not_grow_with_the_rules() -> None:
    messages: Messages[int] = Messages()
    for number in range(5000):
        demand = McpDemand(tools=(f"tool_{number}", f"tool_{number}_*"))
        messages.add(number, demand, (), keeps=True, certain=True)

    def about(method: str, target: str | None = None) -> list[int]:
        call = Call(caller=AGENT, port="mcp", method="POST", mcp=McpCall(method=method, target=target))
        return list(messages.about(call))

    assert about("tools/call", "tool_77") == [77]
    assert about("tools/call", "tool_77_x") == [77]
    assert about("tools/call", "tool") == []
    assert about("initialize") == [0]
