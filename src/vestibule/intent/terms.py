"""The shapes of the language's small texts: names, durations, paths, callers."""

from __future__ import annotations

from typing import Final

from vestibule.intent import addresses, words
from vestibule.intent.shapes import Schema, Text
from vestibule.policy import PathPattern


def pattern(expression: str) -> Schema:
    """A JSON Schema's pattern for a whole text."""
    return {"pattern": f"^{expression}$"}


NAME: Final = Text(words.name, pattern(words.NAME))
SERVICE_NAME: Final = Text(words.service_name, pattern(words.NAME))
LINE: Final = Text(words.line, {"minLength": 1})
DURATION: Final = Text(words.duration, pattern(words.DURATION), "a time with its unit, such as 5s")
INSTANT: Final = Text(words.instant, pattern(words.INSTANT), "a time such as 2026-12-31T18:00:00Z")
CALLER: Final = Text(words.caller, pattern(words.CALLER))
MEMBER: Final = Text(words.member, pattern(words.CALLER))
CLAIM: Final = Text(words.claim, pattern(words.CLAIM))
CLAIM_TEXT: Final = Text(words.text_of_claim, {"minLength": 1})
AUDIENCE_TEXT: Final = Text(words.audience, pattern(words.AUDIENCE), "what a token has as `aud`")
SCOPE: Final = Text(words.scope, pattern(words.SCOPE))
ISSUER: Final = Text(words.issuer, pattern(words.ISSUER))
KEY_SET: Final = Text(addresses.key_set, pattern(addresses.KEY_SET))
TARGET: Final = Text(words.tool, {"minLength": 1})
RESOURCE: Final = Text(words.resource, {"minLength": 1})
MCP_METHOD: Final = Text(words.mcp_method, {"minLength": 1})
METHOD: Final = Text(words.method, {"enum": list(words.METHODS)})
PATH: Final = Text(PathPattern.parse, pattern(r"/[^%;?#\\]*"))
PLAIN_PATH: Final = Text(words.plain_path, pattern(r"/[^%;?#\\*{}]*"))
VERSION: Final = Text(words.version, pattern(words.VERSION))
HEADER: Final = Text(words.header, pattern(words.HEADER))
PARAMETER: Final = Text(words.parameter, {"minLength": 1})
HOST: Final = Text(addresses.host, pattern(addresses.HOST))
FILE: Final = Text(addresses.file, pattern(addresses.FILE))
PERCENTAGE: Final = Text(words.percentage, pattern(words.PERCENTAGE), "a part of a hundred, such as 10%")
REGION: Final = Text(words.region, pattern(words.REGION))
