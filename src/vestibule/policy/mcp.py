"""What clients of the Model Context Protocol ask for, as rules see it.

A message is a JSON-RPC method and, where the method is about one thing, the thing's name or URI (its *target*).
Revisions 2024-11-05 to 2026-07-28 are covered: https://modelcontextprotocol.io/specification.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from vestibule.policy.demands import McpDemand
from vestibule.policy.facts import Call, McpCall
from vestibule.policy.rules import Rule

CALL_TOOL: Final = "tools/call"
GET_PROMPT: Final = "prompts/get"
RESOURCE_METHODS: Final = ("resources/read", "resources/subscribe", "resources/unsubscribe")
TARGETED: Final = (CALL_TOOL, GET_PROMPT, *RESOURCE_METHODS)
"""The methods that are about one tool, prompt or resource."""

UPKEEP: Final = (
    *("initialize", "ping", "server/discover"),
    *("tools/list", "resources/list", "resources/templates/list", "prompts/list"),
    *("notifications/initialized", "notifications/cancelled", "notifications/progress"),
    *("notifications/roots/list_changed", "notifications/tasks/status"),
)
"""What every caller may do whom a permission lets in at all: keep a session, look at what there is, notify."""

KNOWN_METHODS: Final = (
    *UPKEEP,
    *TARGETED,
    *("completion/complete", "logging/setLevel", "subscriptions/listen"),
    *("tasks/get", "tasks/result", "tasks/list", "tasks/cancel"),
)
"""All that clients may ask a server for, by the specification; other methods have to be named by a rule."""

UNKNOWN_METHOD: Final = "vestibule/mcp-unknown-method"
"""The name under which methods are refused that neither MCP nor a rule of the port knows."""

TARGET_NOT_NORMAL: Final = "vestibule/mcp-target-not-normal"
"""The name under which targets are refused that are missing, or that could be read in two ways."""

BODY_NOT_PLAIN: Final = "vestibule/mcp-body-not-plain"
"""The name under which messages are refused that a server could read otherwise than the proxy."""

_STREAM: Final = frozenset({"GET", "DELETE"})

INVISIBLE: Final = r"[\x00-\x1f\x7f]"
"""What no name and no URI holds.  This and the next are for RE2 too."""

AMBIGUOUS_URI: Final = (
    r"\\|/\.{1,2}(?:[/?#]|$)"  # a backslash, a dot segment
    r"|%(?:[^0-9A-Fa-f]|[0-9A-Fa-f][^0-9A-Fa-f]|[0-9A-Fa-f]?$"  # a bad escape
    r"|00|2[DdEeFf]|5[CcFf]|7[Ee]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa])"  # one that is not needed, or must not be
)
"""What could be written otherwise in a URI (RFC 3986, section 6.2.2), or leads out of where it seems to lie."""

LOUD_SCHEME: Final = r"[^:]*[A-Z][^:]*:"
"""How a URI begins whose scheme has capitals."""

_INVISIBLE: Final = re.compile(INVISIBLE)
_AMBIGUOUS_URI: Final = re.compile(f"{AMBIGUOUS_URI}|^{LOUD_SCHEME}")


def named_methods(rules: Iterable[Rule]) -> frozenset[str]:
    """The methods that rules name and MCP does not know."""
    named = {method for rule in rules if rule.mcp is not None for method in rule.mcp.methods}
    return frozenset(named.difference(KNOWN_METHODS))


def mcp_refusal(message: McpCall | None, named: frozenset[str]) -> str | None:
    """The name under which a message is refused before rules are looked at; None if it is not.

    ``named`` are the methods that the port's rules name (``named_methods``).
    """
    if message is None or message.method is None:
        return None
    method, target = message.method, message.target
    if method not in KNOWN_METHODS and method not in named:
        return UNKNOWN_METHOD
    if method not in TARGETED:
        return None
    if not target or _INVISIBLE.search(target):
        return TARGET_NOT_NORMAL
    if method in RESOURCE_METHODS and _AMBIGUOUS_URI.search(target):
        return TARGET_NOT_NORMAL
    return None


def mcp_matches(demand: McpDemand, message: McpCall | None) -> bool:
    """Whether a message is one of those that are named; a demand without members names all.

    Permissions match the upkeep of a session besides (``is_upkeep``).
    """
    if demand == McpDemand():
        return True
    if message is None or message.method is None:
        return False
    if message.method in demand.methods:
        return True
    target = message.target
    return target is not None and any(fits(pattern, target) for pattern in _named(demand, message.method))


def fits(pattern: str, target: str) -> bool:
    """Whether a name is meant; a trailing ``*`` stands for any ending."""
    return target.startswith(pattern[:-1]) if pattern.endswith("*") else target == pattern


def things(demand: McpDemand) -> Iterable[tuple[str, str]]:
    """What a demand names: pairs of a kind (``kind_of``) and a pattern."""
    parts = ((CALL_TOOL, demand.tools), (GET_PROMPT, demand.prompts), (RESOURCE_METHODS[0], demand.resources))
    return ((kind, pattern) for kind, patterns in parts for pattern in patterns)


def kind_of(method: str) -> str:
    """The method that stands for all that are about things of the same kind."""
    return RESOURCE_METHODS[0] if method in RESOURCE_METHODS else method


def is_upkeep(call: Call) -> bool:
    """Whether a client only keeps its session: it initialises, pings, lists, notifies and replies, reads the
    stream (GET) and ends the session (DELETE)."""
    if call.mcp is None:
        return call.method in _STREAM
    return call.mcp.method is None or call.mcp.method in UPKEEP


def _named(demand: McpDemand, method: str) -> tuple[str, ...]:
    if method == CALL_TOOL:
        return demand.tools
    if method == GET_PROMPT:
        return demand.prompts
    return demand.resources if method in RESOURCE_METHODS else ()
