"""What a rule asks for besides caller, method and path: conditions, tokens, and what MCP clients do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vestibule.errors import VestibuleError
from vestibule.intent import codes, rule_keys
from vestibule.intent.model import IssuerKind, Port, Protocol
from vestibule.intent.nodes import Position
from vestibule.intent.problems import Findings
from vestibule.intent.resolving import Names, advice
from vestibule.intent.rule_keys import Binding
from vestibule.intent.shapes import At, Fields, Key
from vestibule.policy import Condition, McpDemand, TokenDemand
from vestibule.policy.vocabulary import MCP, TOKEN


def build_condition(fields: Fields, port: Port | None, findings: Findings) -> Condition | None:
    """The condition of a rule; None if it has none, or one that makes no sense, which is noted where that stands."""
    said = fields.get(rule_keys.WHEN)
    if said is None:
        return None
    absent = frozenset[str]() if fields.place(rule_keys.TOKEN) else TOKEN
    absent |= MCP if port is not None and port.protocol is not Protocol.MCP else frozenset()
    try:
        return Condition.parse(said.value.text, without=absent)
    except VestibuleError as error:
        within = error.where
        at = said.value.place(within.line, within.column or 1) if within and within.line else said.at
        findings.add_error(error, at)
        return None


def build_token(fields: Fields, names: Names, findings: Findings) -> TokenDemand | None:
    """The token that a rule asks for; None if it asks for none, or for one that cannot be had."""
    said = fields.get(rule_keys.TOKEN)
    if said is None:
        return None
    issuer, audience = issuer_of(said, names, findings), said.value.get(rule_keys.AUDIENCE)
    scopes, claims = said.value.get(rule_keys.SCOPES), said.value.get(rule_keys.CLAIMS)
    if issuer is None or audience is None:
        return None
    binding = said.value.value(rule_keys.BOUND, Binding.CALLER)
    kind = None if names.issuers is None else names.issuers.get(issuer)
    _check_sent(said, issuer, kind, findings)
    return TokenDemand(
        issuer=issuer,
        audience=audience.value,
        scopes=tuple(each.value for each in scopes.value) if scopes else (),
        claims=tuple((name, each.value) for name, (_, each) in claims.value.items() if each)
        if claims
        else (),
        bound=binding is not Binding.NOBODY,
        certificate=binding is Binding.CERTIFICATE,
        inject=said.value.value(rule_keys.INJECT, False),
        svid=kind is IssuerKind.SPIFFE,
    )


def _check_sent(said: At[Fields], issuer: str, kind: IssuerKind | None, findings: Findings) -> None:
    """Sidecars get tokens of the mesh's own token service, for the service beside them."""
    inject, place = said.value.value(rule_keys.INJECT, False), said.value.place(rule_keys.INJECT)
    if not inject or place is None:
        return
    if kind is not IssuerKind.TOKENS:
        message = f"sidecars get tokens of the mesh's own token service only, which {issuer!r} is not"
        fix = "Name the issuer that has keys: tokens in mesh.yaml, or remove inject."
        findings.add(codes.EXCLUSIVE_KEYS, message, place, advice=fix)
    if claims := said.value.place(rule_keys.CLAIMS):
        message = "the tokens that sidecars get have no claims to ask for"
        findings.add(codes.EXCLUSIVE_KEYS, message, claims)


def issuer_of(said: At[Fields], names: Names, findings: Findings) -> str | None:
    """Whose token is asked for; None if that makes no sense, which is noted."""
    named, known = said.value.get(rule_keys.ISSUER_NAME), names.issuers
    if known is None:
        return None
    if named is None:
        if len(known) == 1:
            return next(iter(known))
        count = f"{len(known)} issuers" if known else "no issuers"
        message = f"the token does not say whose it must be, and mesh.yaml has {count}"
        fix = "Add issuer: to the token." if known else "Write issuers in mesh.yaml."
        findings.add(codes.MISSING_KEY, message, said.at, advice=fix)
        return None
    if named.value in known:
        return named.value
    message = f"there is no issuer {named.value!r} in mesh.yaml"
    findings.add(codes.UNKNOWN_NAME, message, named.at, advice=advice(named.value, known, "issuers"))
    return None


def build_mcp(fields: Fields, port: Port | None, findings: Findings) -> McpDemand | None:
    """What an MCP client must ask for; None if that is not said."""
    places = [place for key in rule_keys.MCP_KEYS if (place := fields.place(key))]
    if not places:
        return None
    if port is not None and port.protocol is not Protocol.MCP:
        first = min(places)
        name = next(key.name for key in rule_keys.MCP_KEYS if fields.place(key) == first)
        message = f"{port.name!r} speaks {port.protocol.value}, where a rule cannot have {name}"
        findings.add(codes.UNFITTING_PORT, message, first)
        return None
    tools, resources, prompts, methods = (_said(fields, key, findings) for key in rule_keys.MCP_KEYS)
    listed = fields.get(rule_keys.METHODS)
    if listed and not any(each.value == "POST" for each in listed.value):
        message = "what MCP clients ask for comes by POST, which methods leaves out"
        findings.add(codes.NO_EFFECT, message, min(places))
    return McpDemand(tools=tools, resources=resources, prompts=prompts, methods=methods)


def _said(fields: Fields, key: Key[Any], findings: Findings) -> tuple[str, ...]:
    found = fields.get(key)
    listed: Iterable[At[str]] = found.value if found else ()
    names = [each.value for each in listed]
    wide = [each for each in names if each.endswith("*")]
    for each in listed:
        other = next((w for w in wide if w != each.value and each.value.startswith(w[:-1])), None)
        if other is not None:
            message = f"{each.value!r} is matched by {other!r} already"
            findings.add(codes.REDUNDANT, message, each.at)
    return tuple(names)


def check_anyone(fields: Fields, at: Position, findings: Findings) -> None:
    """Whoever lets in everybody says why, and until when."""
    missing = [key for key in (rule_keys.REASON, rule_keys.EXPIRES) if not fields.place(key)]
    if missing:
        names = " and ".join(key.name for key in missing)
        message = f"the rule allows everybody, and lacks {names}"
        findings.add(codes.ANYONE_UNEXPLAINED, message, at)
