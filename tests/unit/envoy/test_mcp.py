"""What a proxy asks of messages of MCP, against what the policy says of them."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta

import pytest
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.mcp.v3 import mcp_pb2
from hypothesis import assume, given
from hypothesis import strategies as st
from xds.type.matcher.v3.matcher_pb2 import Matcher

from vestibule.envoy import access_log, http, mcp, mcp_replies, rbac, replies
from vestibule.policy import Call, Effect, Engine, IdentityMatch, McpCall, McpDemand, PortPolicy, Rule
from vestibule.policy.mcp import (
    BODY_NOT_PLAIN,
    KNOWN_METHODS,
    TARGET_NOT_NORMAL,
    TARGETED,
    UNKNOWN_METHOD,
    is_upkeep,
    mcp_matches,
    mcp_refusal,
    named_methods,
)
from vestibule.spiffe import SpiffeId

AGENT = SpiffeId.parse("spiffe://example.org/agent")
NAMES = ("read_note", "read_*", "a.b", "note:///a", "note:///a/*", "*", "a(b|c", "[x]")

names = st.lists(st.sampled_from(NAMES), max_size=3).map(tuple)
demands = st.builds(
    McpDemand,
    tools=names,
    resources=names,
    prompts=names,
    methods=st.lists(st.sampled_from((*KNOWN_METHODS, "acme/sync")), max_size=2).map(tuple),
)
targets = st.sampled_from(
    ("read_note", "read_", "read_notes", "a.b", "axb", "note:///a", "note:///a/b", "a(b|c", "[x]", "")
) | st.text(alphabet="read_no:/.%2eE\\A\x00\n é", max_size=12)
messages = st.builds(
    McpCall,
    method=st.sampled_from((*KNOWN_METHODS, "acme/sync", "acme/other", "Tools/call")) | st.none(),
    target=targets,
)


def said(message: McpCall) -> str:
    """What the proxy keeps of a message."""
    return f"{message.method or mcp.REPLY} {message.target or ''}"


def regex_of(predicate: bytes) -> str:
    found = Matcher.MatcherList.Predicate.FromString(predicate)
    return str(found.single_predicate.value_match.safe_regex.regex)


@given(demands, messages, st.booleans())
def test_a_proxy_asks_what_a_rule_names(demand: McpDemand, message: McpCall, denies: bool) -> None:
    assume(message.method is None or message.method in TARGETED or not message.target)
    named = mcp.said(demand, denies=denies)
    call = Call(caller=AGENT, port="mcp", method="POST", mcp=message)
    expected = mcp_matches(demand, message) or (not denies and is_upkeep(call))

    if message.target and "\n" in message.target:
        return  # refused before rules; Python's dot would not match it either
    text = said(message)
    actual = named is None or text in named.whole or text.startswith(tuple(named.beginnings))
    assert actual is expected
    if named is not None:
        assert bool(re.fullmatch(regex_of(mcp.is_said(named)), text)) is expected


@given(messages)
def test_a_proxy_refuses_the_targets_that_the_policy_refuses(message: McpCall) -> None:
    assume(message.method is not None)
    policy = PortPolicy(service="notes", port="mcp", is_mcp=True)
    predicate, _ = mcp.refusals(policy)[-1]
    refused = mcp_refusal(message, frozenset({"acme/sync", "acme/other", "Tools/call"})) == TARGET_NOT_NORMAL

    assert bool(re.fullmatch(regex_of(predicate), said(message))) is refused


@pytest.mark.parametrize(
    ("read", "well"),
    [
        ("2.0  tools/call tools/call", True),
        ("2.0  acme/sync acme/sync", True),
        (f"2.0   {mcp.REPLY}", True),
        ("2.0  ping tools/call", False),
        ("2.0  acme/other acme/other", False),
        (f"2.0  tools/call {mcp.REPLY}", False),
        ("2.0 x ping ping", False),
        ("  ping ping", False),
        ("2.0  ping ping ping", False),
    ],
)
def test_both_readers_have_to_read_the_same_known_method(read: str, well: bool) -> None:
    rule = Rule(name="notes/own", callers=(IdentityMatch(id=AGENT),), mcp=McpDemand(methods=("acme/sync",)))
    assert named_methods([rule]) == {"acme/sync"}
    policy = PortPolicy(service="notes", port="mcp", allow=(rule,), is_mcp=True)
    refused = False
    for predicate, _ in mcp.refusals(policy)[1:-1]:
        found = Matcher.MatcherList.Predicate.FromString(predicate)
        if found.HasField("and_matcher"):
            wanted = found.and_matcher.predicate[1].not_matcher.single_predicate.value_match.safe_regex.regex
            refused |= not re.fullmatch(wanted, read)
        else:
            refused |= bool(re.fullmatch(found.single_predicate.value_match.safe_regex.regex, read))
    assert refused is not well


def test_messages_are_read_before_the_policy_and_after_what_is_revoked() -> None:
    manager = http.ingress(
        "ingress/mcp",
        "notes",
        "policy/mcp",
        timedelta(hours=1),
        access_log.inbound("notes", "mcp", is_mcp=True),
        tell_rule=True,
        speaks_mcp=True,
    )
    found = [each.name for each in manager.http_filters]
    ours = [each.name for each in mcp.http_filters()]
    at = found.index(ours[0])

    assert found[at : at + len(ours)] == ours
    assert found.index("policy/mcp") == at + len(ours)
    reader = mcp_pb2.Mcp.FromString(manager.http_filters[at].typed_config.value)
    assert reader.traffic_mode == mcp_pb2.Mcp.REJECT_NO_MCP
    assert reader.max_request_body_size.value == mcp.MAX_BODY


def test_every_answer_of_the_proxy_is_an_error_of_json_rpc() -> None:
    config = mcp_replies.of(replies.ingress("notes", tell_rule=True, asked=mcp.ASKED))

    for mapper in config.mappers:
        document = mapper.body_format_override.json_format
        assert document["jsonrpc"] == "2.0"
        error = document["error"]
        assert error["message"].startswith(f"{error['data']['error']}: ")
        assert error["data"]["request_id"] == replies.REQUEST_ID
        assert error["code"] in (mcp_replies.REFUSED, mcp_replies.INVALID_REQUEST)


def test_callers_of_mcp_get_such_errors_from_their_own_proxy_too_and_others_do_not() -> None:
    plain = replies.egress()
    config = mcp_replies.beside(plain)
    both = len(plain.mappers)

    assert len(config.mappers) == 2 * both
    assert list(config.mappers[both:]) == list(plain.mappers)
    for ours, theirs in zip(config.mappers, plain.mappers, strict=False):
        assert ours.filter.and_filter.filters[1] == theirs.filter
        assert ours.body_format_override.json_format["jsonrpc"] == "2.0"


def test_what_is_refused_before_rules_has_an_answer_of_its_own() -> None:
    texts = str(mcp_replies.of(replies.ingress("notes", tell_rule=False)))
    for name in (BODY_NOT_PLAIN, UNKNOWN_METHOD, TARGET_NOT_NORMAL):
        assert f"[{name}]" in texts


def test_whoever_comes_in_plain_text_sends_plain_messages_too() -> None:
    rules = (Rule(name="notes/plaintext/all", callers=(), port="mcp"),)
    refused = BODY_NOT_PLAIN.encode()
    assert refused in rbac.http_rbac_of_anybody(rules, speaks_mcp=True).SerializeToString()
    assert refused not in rbac.http_rbac_of_anybody(rules).SerializeToString()


few_names = st.lists(st.sampled_from(NAMES), max_size=2).map(tuple)
few = st.builds(McpDemand, tools=few_names, prompts=few_names, methods=st.sampled_from(((), ("tools/list",))))


usual = st.builds(
    McpCall,
    method=st.sampled_from(("tools/call", "prompts/get")),
    target=st.sampled_from(("read_note", "read_", "read_notes", "a.b", "axb", "a(b|c", "[x]")),
) | st.builds(McpCall, method=st.sampled_from(("tools/list", "tasks/get")), target=st.none())


@given(st.lists(st.tuples(few, st.booleans()), max_size=6), usual)
def test_of_many_rules_a_proxy_finds_the_one_that_decides(
    demands: list[tuple[McpDemand, bool]], message: McpCall
) -> None:
    rules = [
        Rule(
            name=f"r{number}",
            callers=(IdentityMatch(id=AGENT),),
            effect=Effect.DENY if denies else Effect.ALLOW,
            mcp=demand,
        )
        for number, (demand, denies) in enumerate(demands)
    ]
    policy = PortPolicy(
        service="notes",
        port="mcp",
        is_mcp=True,
        deny=tuple(each for each in rules if each.effect is Effect.DENY),
        allow=tuple(each for each in rules if each.effect is Effect.ALLOW),
    )
    expected = Engine(policy).decide(Call(caller=AGENT, port="mcp", method="POST", path="/", mcp=message))
    tree = rbac.http_rbac(replace(policy, is_mcp=False)).matcher

    assert (
        found_in(tree.on_no_match.matcher if tree.HasField("on_no_match") else None, said(message))
        == expected.rule
    )


def test_a_thousand_rules_of_one_caller_that_differ_in_the_tool_are_not_asked_one_by_one() -> None:
    rules = tuple(
        Rule(name=f"r{number}", callers=(IdentityMatch(id=AGENT),), mcp=McpDemand(tools=(f"tool_{number}",)))
        for number in range(1_000)
    )
    tree = rbac.http_rbac(PortPolicy(service="notes", port="mcp", allow=rules)).matcher.on_no_match.matcher

    assert found_in(tree, "tools/call tool_700") == "r700"
    assert found_in(tree, "tools/call tool_7000") is None


def found_in(matcher: Matcher | None, text: str) -> str | None:
    """The rule that a tree leads to which looks only at the caller, ``AGENT``, and at what is said."""
    if matcher is None:
        return None
    tree = matcher.matcher_tree
    value = str(AGENT) if "UriSan" in tree.input.typed_config.type_url else text
    entries = {
        **{key: then for key, then in tree.exact_match_map.map.items() if key == value},
        **{key: then for key, then in tree.prefix_match_map.map.items() if value.startswith(key)},
    }
    ways = [entries[key] for key in sorted(entries, key=len, reverse=True)]
    for way in [*ways, *([matcher.on_no_match] if matcher.HasField("on_no_match") else [])]:
        if way.HasField("action"):
            return str(rbac_pb2.Action.FromString(way.action.typed_config.value).name)
        if (name := found_in(way.matcher, text)) is not None:
            return name
    return None
