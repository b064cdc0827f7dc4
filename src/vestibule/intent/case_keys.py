"""The keys of ``policy-tests/*.yaml``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from vestibule.intent import codes, words
from vestibule.intent.shapes import Choice, Key, Many, Record, Table, Text
from vestibule.intent.terms import INSTANT, LINE, NAME, SCOPE, pattern

_HEADER_NAME: Final = r"[a-z0-9!#$%&'*+.^_`|~-]{1,200}"


def _header_name(text: str) -> str:
    if re.fullmatch(_HEADER_NAME, text):
        return text
    raise codes.MALFORMED_VALUE.error(f"{words.shown(text)} is not a header name in lower case")


def _request_path(text: str) -> str:
    """Any text that begins with a slash: whether paths that are not normal are refused is worth a case, too."""
    if text.startswith("/"):
        return text
    raise codes.MALFORMED_VALUE.error(
        f"{words.shown(text)} is not the path of a request", advice="Write it from its first slash on."
    )


def _claims(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise codes.MALFORMED_VALUE.error(f"the claims are not JSON: {error}") from error
    if not isinstance(found, dict):
        raise codes.MALFORMED_VALUE.error("the claims are no JSON object")
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise codes.MALFORMED_VALUE.error(f"the body is not JSON: {error}") from error


_ANY_TEXT: Final = Text(words.anything)
CASE_NAME: Final = Key("name", LINE, "What the case shows, in a few words.", required=True)
CASE_FROM: Final = Key(
    "from", LINE, "Who calls: a service, a gateway, spiffe://…, or plaintext.", required=True
)
CASE_TO: Final = Key(
    "to",
    LINE,
    "What is called: a service, or service/port; or secret:PATH or token:AUDIENCE, of which `method` is a verb.",
    required=True,
)
CASE_METHOD: Final = Key("method", Text(words.anything, {"minLength": 1}), "The HTTP method.", default="GET")
CASE_PATH: Final = Key("path", Text(_request_path, pattern("/.*")), "The path, with its query.", default="/")
CASE_HOST: Final = Key("host", LINE, "The host that is asked for.", default="the service's name")
CASE_HEADERS: Final = Key(
    "headers",
    Table(Text(_header_name, pattern(_HEADER_NAME)), _ANY_TEXT, "header names to values"),
    "Further headers, by their names in lower case.",
)
CASE_AT: Final = Key("at", INSTANT, "When the call is made.", default="now")
CASE_TOKENS: Final = Key(
    "tokens",
    Table(NAME, Text(_claims), "issuers to claims, as JSON"),
    "The claims of the verified tokens that it carries, as JSON, by the names of their issuers; of token:AUDIENCE, of "
    "the one that is given.",
)
CASE_SCOPES: Final = Key(
    "scopes", Many(SCOPE, "scope"), "Of token:AUDIENCE: which scopes are asked for.", default="none"
)
MCP_METHOD: Final = Key("method", LINE, "The JSON-RPC method, such as tools/call.", required=True)
MCP_TARGET: Final = Key("target", LINE, "The tool, resource or prompt.")
CASE_MCP: Final = Key("mcp", Record("an MCP call", (MCP_METHOD, MCP_TARGET)), "What an MCP client asks for.")
CASE_BODY: Final = Key("body", Text(_value), "The request's body, as JSON.")
EXPECT: Final = Key(
    "expect", Choice.of([("allow", True), ("deny", False)]), "What should become of it.", required=True
)
CASE_RULE: Final = Key("rule", LINE, "The rule that should decide, as service/rule-id; none for no rule.")
CASE_SHADOW: Final = Key(
    "shadow",
    Choice.of([("allow", True), ("deny", False)]),
    "What would become of it if rules in shadow mode counted.",
)
CASE_RECORD: Final = Record(
    "a case",
    (
        CASE_NAME,
        CASE_FROM,
        CASE_TO,
        CASE_METHOD,
        CASE_PATH,
        CASE_HOST,
        CASE_HEADERS,
        CASE_AT,
        CASE_TOKENS,
        CASE_SCOPES,
        CASE_MCP,
        CASE_BODY,
        EXPECT,
        CASE_RULE,
        CASE_SHADOW,
    ),
)
CASES: Final = Key(
    "cases", Many(CASE_RECORD, "case", least=1, distinct=False), "Calls and their outcomes.", required=True
)
CASES_FILE: Final = Record("a file of cases", (CASES,))
