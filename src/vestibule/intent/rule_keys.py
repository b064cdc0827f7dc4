"""The keys of rules, and of what they demand."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from vestibule.intent import codes
from vestibule.intent.inside import Written
from vestibule.intent.nodes import Kind, Node, Position, Scalar
from vestibule.intent.not_yet import NOT_YET
from vestibule.intent.problems import Findings
from vestibule.intent.scalars import As, Switch
from vestibule.intent.shapes import At, Choice, Fields, Key, Many, Record, Schema, Table, mistyped
from vestibule.intent.terms import (
    CALLER,
    CLAIM,
    CLAIM_TEXT,
    INSTANT,
    LINE,
    MCP_METHOD,
    METHOD,
    NAME,
    PATH,
    RESOURCE,
    SCOPE,
    TARGET,
)
from vestibule.intent.words import ANYONE, AnyCaller, Caller
from vestibule.policy import Mode

_LISTED: Final = Many(CALLER, "caller", least=1)


@dataclass(frozen=True, slots=True)
class Callers:
    """The word ``anyone``, or a list of callers.  ``entry`` is the key as ``NOT_YET`` names it."""

    entry: str

    def read(self, node: Node, findings: Findings) -> At[tuple[At[Caller], ...]] | None:
        if not isinstance(node, Scalar):
            return _LISTED.read(node, findings)
        if node.kind is not Kind.TEXT or node.text != ANYONE:
            mistyped(node, "a list, such as [caller]", findings)
            return None
        if not self._is_open():
            message = f"'from: {ANYONE}' is not supported by this version"
            findings.add(codes.NOT_SUPPORTED, message, node.at, advice="Name the callers.")
            return None
        return At((At(AnyCaller(), node.at),), node.at)

    @property
    def closed(self) -> tuple[str, ...]:
        """The words that are refused by name."""
        return () if self._is_open() else (ANYONE,)

    def schema(self) -> Schema:
        listed = _LISTED.schema()
        return {"anyOf": [{"enum": [ANYONE]}, listed]} if self._is_open() else listed

    def _is_open(self) -> bool:
        return f"{self.entry}: {ANYONE}" not in NOT_YET


@dataclass(frozen=True, slots=True)
class Expression:
    """A text in CEL, which is read where it is known what it may speak of."""

    def read(self, node: Node, findings: Findings) -> At[Written] | None:
        if not isinstance(node, Scalar) or node.kind is not Kind.TEXT:
            mistyped(node, "a text", findings)
            return None
        return At(Written(node), node.at)

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1}


class Binding(Enum):
    """To whom a token has to be bound."""

    NOBODY = "false"
    CALLER = "true"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True)
class Bound:
    """True, false or the word ``certificate``."""

    def read(self, node: Node, findings: Findings) -> At[Binding] | None:
        if isinstance(node, Scalar) and node.kind is Kind.BOOLEAN:
            return At(Binding(node.text.lower()), node.at)
        if isinstance(node, Scalar) and node.kind is Kind.TEXT and node.text == Binding.CERTIFICATE.value:
            return At(Binding.CERTIFICATE, node.at)
        mistyped(node, "true, false or certificate", findings)
        return None

    def schema(self) -> Schema:
        return {"enum": [True, False, Binding.CERTIFICATE.value]}


# -------------------------------------------------------------------------------------- what is asked

ISSUER_NAME: Final = Key(
    "issuer", NAME, "Whose tokens: a name under `issuers` of mesh.yaml; may be left out where there is one."
)
AUDIENCE: Final = Key("audience", CLAIM_TEXT, "For whom the token must be: one of its `aud`.", required=True)
SCOPES: Final = Key(
    "scopes", Many(SCOPE, "scope", least=1), "What it must be good for: all of these stand in its `scope`."
)
CLAIMS: Final = Key(
    "claims", Table(CLAIM, CLAIM_TEXT, "claims to texts"), "What else it must say, each being this text."
)
BOUND: Final = Key(
    "bound",
    Bound(),
    "Whether whoever presents it, its outermost `act.sub` or else its `client_id`, must be the caller; certificate: "
    "and the certificate that it is bound to the caller's.",
    default="true",
)
INJECT: Final = Key(
    "inject",
    Switch(),
    "Whether the caller's sidecar gets such a token of the mesh's own token service, for the caller itself, and sends "
    "it along with calls that have no Authorization header.",
    default="false",
)
TOKEN_RECORD: Final = Record("a token", (ISSUER_NAME, AUDIENCE, SCOPES, CLAIMS, BOUND, INJECT))


def _token(fields: Fields, at: Position, findings: Findings) -> Fields:
    """Whether there is such an issuer is looked at where issuers are known."""
    return fields


# ------------------------------------------------------------------------------------------- rules

RULE_ID: Final = Key("id", NAME, "The rule's name in logs, metrics and explanations.", required=True)
RULE_FROM: Final = Key(
    "from",
    Callers("a rule: from"),
    "Who: services, role:NAME, spiffe://… or spiffe://…/**; or the word anyone.",
    required=True,
)
RULE_PORT: Final = Key("port", NAME, "Which port; may be left out where there is only one.")
METHODS: Final = Key("methods", Many(METHOD, "method", least=1), "Which HTTP methods; any, when left out.")
PATHS: Final = Key(
    "paths",
    Many(PATH, "path", least=1),
    "Which paths; any, when left out.  {name} is one segment, /a/** is /a and everything below it.",
)
TOOLS: Final = Key(
    "tools",
    Many(TARGET, "tool", least=1),
    "Which tools of an MCP server may be called; list_* is any that begins so.",
)
RESOURCES: Final = Key(
    "resources",
    Many(RESOURCE, "URI", least=1),
    "Which resources of an MCP server may be read and subscribed to.",
)
PROMPTS: Final = Key("prompts", Many(TARGET, "prompt", least=1), "Which prompts of an MCP server may be got.")
MCP_METHODS: Final = Key(
    "mcp_methods", Many(MCP_METHOD, "method", least=1), "Which methods of MCP, whatever they are about."
)
WHEN: Final = Key("when", Expression(), "A condition in CEL that must hold besides.")
TOKEN: Final = Key(
    "token", As(TOKEN_RECORD, _token), "A verified token of a user or client that the request must carry."
)
MODE: Final = Key(
    "mode",
    Choice.of([(each.value, each) for each in Mode], entry="a rule: mode"),
    "Whether it decides, or in shadow only is told what it would have decided.",
    default=Mode.ENFORCE.value,
)
EXPIRES: Final = Key("expires", INSTANT, "From when on the rule is not there, such as 2026-12-31T18:00:00Z.")
REASON: Final = Key("reason", LINE, "Why there is such a rule.")
RULE_RECORD: Final = Record(
    "a rule",
    (
        *(RULE_ID, RULE_FROM, RULE_PORT, METHODS, PATHS, TOOLS, RESOURCES, PROMPTS, MCP_METHODS),
        *(WHEN, TOKEN, MODE, EXPIRES, REASON),
    ),
)
# Keys that speak of requests, and which TCP has none of.
HTTP_KEYS: Final[tuple[Key[object], ...]] = (METHODS, PATHS, WHEN, TOKEN)
MCP_KEYS: Final[tuple[Key[object], ...]] = (TOOLS, RESOURCES, PROMPTS, MCP_METHODS)

OUTSIDE_FROM: Final = Key(
    "from",
    Callers("a rule of an external: from"),
    "Who: services, role:NAME, spiffe://… or spiffe://…/**; or the word anyone.",
    required=True,
)
OUTSIDE_MODE: Final = Key(
    "mode",
    Choice.of([(Mode.ENFORCE.value, Mode.ENFORCE)], later=[Mode.SHADOW.value]),
    "What the rule does.",
    default=Mode.ENFORCE.value,
)
OUTSIDE_RULE: Final = Record(
    "a rule of an external",
    (RULE_ID, OUTSIDE_FROM, METHODS, PATHS, OUTSIDE_MODE, EXPIRES, REASON),
    later=frozenset({WHEN.name, TOKEN.name}),
)
