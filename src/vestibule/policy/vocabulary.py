"""What conditions may speak of: the names, their types in CEL, and who knows their values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final


class Known(Enum):
    """Where a value comes from, which decides how it is compiled."""

    INTENT = "the intent"
    CALLER = "the caller's certificate and the intent"
    REQUEST = "the request"
    JWT = "the token that the rule demands"
    MCP = "the MCP message"
    OUTSIDE = "what no proxy knows"


@dataclass(frozen=True, slots=True)
class Name:
    """One name: ``type`` as CEL writes it, and a sentence for the page that lists them."""

    type: str
    known: Known
    meaning: str


_LABELS: Final = "map(string, string)"

NAMES: Final = MappingProxyType(
    {
        "caller.id": Name("string", Known.CALLER, "SPIFFE ID of the caller"),
        "caller.trust_domain": Name(
            "string", Known.CALLER, "trust domain of the caller, such as example.org"
        ),
        "caller.labels": Name(_LABELS, Known.CALLER, "labels of the calling service; others have none"),
        "service.name": Name("string", Known.INTENT, "name of the called service"),
        "service.labels": Name(_LABELS, Known.INTENT, "labels of the called service"),
        "environment": Name("string", Known.INTENT, "environment of the mesh"),
        "request.method": Name("string", Known.REQUEST, "method, such as GET"),
        "request.path": Name("string", Known.REQUEST, "path without the query"),
        "request.host": Name(
            "string", Known.REQUEST, "host as the caller wrote it, with the port if it wrote one"
        ),
        "request.headers": Name(
            _LABELS, Known.REQUEST, "headers by lower-case name; several of one name are joined by commas"
        ),
        "request.time": Name("timestamp", Known.REQUEST, "when the request began, by the callee's clock"),
        "token.issuer": Name("string", Known.JWT, "claim iss"),
        "token.subject": Name("string", Known.JWT, "claim sub"),
        "token.client_id": Name("string", Known.JWT, "claim client_id"),
        "token.audiences": Name("list(string)", Known.JWT, "claim aud, always as a list"),
        "token.scopes": Name("list(string)", Known.JWT, "claim scope, split at its spaces"),
        "token.claims": Name("map(string, dyn)", Known.JWT, "every claim of the token; numbers are doubles"),
        "mcp.method": Name("string", Known.MCP, "JSON-RPC method, such as tools/call; empty for replies"),
        "mcp.target": Name("string", Known.MCP, "name of the tool or prompt, or URI of the resource"),
        "request.body": Name("dyn", Known.OUTSIDE, "body of the request, read as JSON"),
        "attributes": Name(
            "map(string, dyn)", Known.OUTSIDE, "attributes that the decision service was given"
        ),
    }
)
"""Every name, in the order in which the documentation lists them."""

CENTRAL: Final = frozenset(name for name, each in NAMES.items() if each.known is Known.OUTSIDE)
"""Names whose values only the decision service knows."""

CONSTANT: Final = frozenset(name for name, each in NAMES.items() if each.known is Known.INTENT)
"""Names whose values are the same for all calls to a service."""

TOKEN: Final = frozenset(name for name, each in NAMES.items() if each.known is Known.JWT)
"""Names that need a token to have been demanded."""

MCP: Final = frozenset(name for name, each in NAMES.items() if each.known is Known.MCP)
"""Names that only MCP ports know."""
