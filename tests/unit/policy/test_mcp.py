"""What an MCP client asks for, against what rules name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestibule.policy import Call, IdentityMatch, McpCall, McpDemand, Rule
from vestibule.policy.mcp import (
    KNOWN_METHODS,
    TARGET_NOT_NORMAL,
    UNKNOWN_METHOD,
    UPKEEP,
    is_upkeep,
    mcp_matches,
    mcp_refusal,
    named_methods,
)
from vestibule.spiffe import SpiffeId

AGENT = SpiffeId.parse("spiffe://example.org/agent")
DEMAND = McpDemand(
    tools=("read_file", "list_*"),
    resources=("file:///docs/*",),
    prompts=("review",),
    methods=("completion/complete",),
)


def call(method: str | None, target: str | None = None) -> McpCall:
    return McpCall(method=method, target=target)


@pytest.mark.parametrize(
    "message",
    [
        call("tools/call", "read_file"),
        call("tools/call", "list_files"),
        call("tools/call", "list_"),
        call("resources/read", "file:///docs/a.txt"),
        call("resources/subscribe", "file:///docs/a.txt"),
        call("resources/unsubscribe", "file:///docs/a.txt"),
        call("prompts/get", "review"),
        call("completion/complete"),
    ],
)
def test_a_rule_means_what_it_names(message: McpCall) -> None:
    assert mcp_matches(DEMAND, message)


@pytest.mark.parametrize(
    "message",
    [
        call("tools/call", "read_file2"),
        call("tools/call", "Read_file"),
        call("tools/call", "list"),
        call("tools/call", "review"),
        call("tools/call"),
        call("prompts/get", "read_file"),
        call("resources/read", "file:///etc/passwd"),
        call("logging/setLevel"),
        call(None),
        None,
    ],
)
def test_and_nothing_else(message: McpCall | None) -> None:
    assert not mcp_matches(DEMAND, message)


@pytest.mark.parametrize("message", [call("tools/call", "anything"), call("tasks/list"), call(None), None])
def test_a_demand_without_members_names_everything(message: McpCall | None) -> None:
    assert mcp_matches(McpDemand(), message)


@pytest.mark.parametrize(
    ("http_method", "message", "expected"),
    [
        ("POST", call("initialize"), True),
        ("POST", call("ping"), True),
        ("POST", call("tools/list"), True),
        ("POST", call("notifications/initialized"), True),
        ("POST", call(None), True),
        ("GET", None, True),
        ("DELETE", None, True),
        ("POST", None, False),
        ("POST", call("tools/call", "read_file"), False),
        ("POST", call("logging/setLevel"), False),
        ("POST", call("subscriptions/listen"), False),
    ],
)
def test_the_upkeep_of_a_session_is_told_from_calls(
    http_method: str, message: McpCall | None, expected: bool
) -> None:
    assert is_upkeep(Call(caller=AGENT, port="mcp", method=http_method, mcp=message)) is expected


def test_methods_that_nobody_knows_are_refused() -> None:
    rule = Rule(
        name="notes/own",
        callers=(IdentityMatch(id=AGENT),),
        mcp=McpDemand(methods=("acme/sync", "tools/list")),
    )
    named = named_methods([rule])

    assert named == {"acme/sync"}
    assert mcp_refusal(call("acme/other"), named) == UNKNOWN_METHOD
    assert mcp_refusal(call("acme/sync"), named) is None


@pytest.mark.parametrize("method", [*KNOWN_METHODS, None])
def test_known_methods_and_replies_are_not_refused_as_unknown(method: str | None) -> None:
    assert mcp_refusal(call(method, "file:///a"), frozenset()) is None


@pytest.mark.parametrize(
    "uri",
    [
        *("file:///docs/../etc/passwd", "file:///docs/..", "file:///docs/./a", "file:///docs/..?x"),
        *("file:///docs/%2e%2e/etc", "file:///docs%2Fa", "file:///docs%5c..", "file:///a%00", "file:///%61"),
        *(
            "file:///a%7Eb",
            "file:///a%5Fb",
            "file:///a%4",
            "FILE:///docs/a",
            "file:///docs\\..\\a",
            "file:///\n",
            "",
        ),
    ],
)
def test_uris_that_could_be_read_in_two_ways_are_refused(uri: str) -> None:
    assert mcp_refusal(call("resources/read", uri), frozenset()) == TARGET_NOT_NORMAL


@pytest.mark.parametrize(
    "uri",
    ["file:///Docs/a.b/..c/d...e", "notes://a%20b/%C3%A9", "note:x", "https://a.example:8443/b?c=D#e", "x"],
)
def test_other_uris_are_not(uri: str) -> None:
    assert mcp_refusal(call("resources/read", uri), frozenset()) is None


@pytest.mark.parametrize("name", [None, "", "read\x00", "read_file\n", "\x7f"])
def test_tools_without_a_name_or_with_an_invisible_one_are_refused(name: str | None) -> None:
    assert mcp_refusal(call("tools/call", name), frozenset()) == TARGET_NOT_NORMAL
    assert mcp_refusal(call("prompts/get", name), frozenset()) == TARGET_NOT_NORMAL


@given(st.text(), st.sampled_from(KNOWN_METHODS))
def test_a_denial_of_everything_by_name_leaves_only_upkeep(target: str, method: str) -> None:
    """Whatever a target is, a rule that names all tools, resources, prompts and other methods means it."""
    others = tuple(each for each in KNOWN_METHODS if each not in UPKEEP)
    everything = McpDemand(tools=("*",), resources=("*",), prompts=("*",), methods=others)

    assert mcp_matches(everything, call(method, target)) is (method not in UPKEEP)
