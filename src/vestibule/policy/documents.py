"""All that decides about one port, as bytes: what a decision service is sent.

JSON with sorted keys, so that equal policies are equal bytes.  Conditions travel as text and are checked again where
they are read; places in files do not travel.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from vestibule.errors import VestibuleError
from vestibule.policy.codes import UNREADABLE_POLICY
from vestibule.policy.conditions import Condition
from vestibule.policy.demands import McpDemand, TokenDemand
from vestibule.policy.identities import IdentityMatch
from vestibule.policy.paths import PathPattern
from vestibule.policy.port_policies import PortPolicy
from vestibule.policy.rules import Effect, Mode, Rule
from vestibule.spiffe import SpiffeId

FORMAT: Final = "vestibule.policy/v1"


def to_bytes(policy: PortPolicy) -> bytes:
    """The policy; what is as usual is left out."""
    document = {
        "format": FORMAT,
        "service": policy.service,
        "port": policy.port,
        "http": policy.is_http,
        "mcp": policy.is_mcp,
        "environment": policy.environment,
        "labels": dict(policy.labels),
        "callers": {str(each): dict(labels) for each, labels in policy.callers.items()},
        "deny": list(map(_rule, policy.deny)),
        "allow": list(map(_rule, policy.allow)),
        "emergencies": list(map(_rule, policy.emergencies)),
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def from_bytes(data: bytes) -> PortPolicy:
    """What ``to_bytes`` wrote.  Raises: VST4130 for anything else, a later version's too."""
    try:
        document: dict[str, Any] = json.loads(data)
        if document["format"] != FORMAT:
            raise ValueError("another format")
        return _policy(document)
    except (VestibuleError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UNREADABLE_POLICY.error("a port's policy cannot be read") from error


def _policy(document: Mapping[str, Any]) -> PortPolicy:
    known = {"format", "service", "port", "http", "mcp", "environment", "labels", "callers"}
    _only(document, known | {"deny", "allow", "emergencies"})
    callers = {
        SpiffeId.parse(each): MappingProxyType(dict(labels)) for each, labels in document["callers"].items()
    }
    return PortPolicy(
        service=document["service"],
        port=document["port"],
        is_http=document["http"],
        is_mcp=document["mcp"],
        environment=document["environment"],
        labels=MappingProxyType(dict(document["labels"])),
        callers=MappingProxyType(callers),
        deny=_rules(document["deny"]),
        allow=_rules(document["allow"]),
        emergencies=_rules(document["emergencies"]),
    )


def _rule(rule: Rule) -> dict[str, Any]:
    written: dict[str, Any] = {
        "name": rule.name,
        "callers": [_match(each) for each in rule.callers],
        "port": rule.port,
        "methods": sorted(rule.methods),
        "paths": [str(each) for each in rule.paths],
        "deny": rule.effect is Effect.DENY,
        "shadow": rule.mode is Mode.SHADOW,
        "anyone": rule.anyone,
        "when": None if rule.when is None else rule.when.source,
        "token": None if rule.token is None else _token(rule.token),
        "mcp": None if rule.mcp is None else _mcp(rule.mcp),
        "expires": _instant(rule.expires),
        "reason": rule.reason,
    }
    return {key: value for key, value in written.items() if value not in (None, False, "", [])}


_RULE_KEYS: Final = frozenset(
    {
        *("name", "callers", "port", "methods", "paths", "deny", "shadow"),
        *("anyone", "when", "token", "mcp", "expires", "reason"),
    }
)


def _rules(documents: Iterable[Mapping[str, Any]]) -> tuple[Rule, ...]:
    return tuple(map(_rule_of, documents))


def _rule_of(document: Mapping[str, Any]) -> Rule:
    _only(document, _RULE_KEYS)
    get = document.get
    when, token, mcp, expires = get("when"), get("token"), get("mcp"), get("expires")
    return Rule(
        name=document["name"],
        callers=tuple(map(_match_of, get("callers", ()))),
        port=get("port"),
        methods=frozenset(get("methods", ())),
        paths=tuple(map(PathPattern.parse, get("paths", ()))),
        effect=Effect.DENY if get("deny") else Effect.ALLOW,
        mode=Mode.SHADOW if get("shadow") else Mode.ENFORCE,
        anyone=get("anyone", False),
        when=None if when is None else Condition.parse(when),
        token=None if token is None else _token_of(token),
        mcp=None if mcp is None else McpDemand(**{key: tuple(each) for key, each in mcp.items()}),
        expires=None if expires is None else datetime.fromisoformat(expires),
        reason=get("reason", ""),
    )


def _match(match: IdentityMatch) -> Any:
    return str(match) if match.until is None else [str(match), _instant(match.until)]


def _match_of(document: Any) -> IdentityMatch:
    if isinstance(document, str):
        return IdentityMatch.parse(document)
    text, until = document
    known = IdentityMatch.parse(text)
    return IdentityMatch(id=known.id, below=known.below, until=datetime.fromisoformat(until))


def _token(token: TokenDemand) -> dict[str, Any]:
    return {
        "issuer": token.issuer,
        "audience": token.audience,
        "scopes": list(token.scopes),
        "claims": [list(each) for each in token.claims],
        "bound": token.bound,
        **({"svid": True} if token.svid else {}),
        **({"certificate": True} if token.certificate else {}),
    }


def _token_of(document: Mapping[str, Any]) -> TokenDemand:
    return TokenDemand(
        issuer=document["issuer"],
        audience=document["audience"],
        scopes=tuple(document["scopes"]),
        claims=tuple((name, value) for name, value in document["claims"]),
        bound=document["bound"],
        svid=document.get("svid", False),
        certificate=document.get("certificate", False),
    )


def _mcp(mcp: McpDemand) -> dict[str, list[str]]:
    parts = {"tools": mcp.tools, "resources": mcp.resources, "prompts": mcp.prompts, "methods": mcp.methods}
    return {name: list(part) for name, part in parts.items()}


def _instant(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()


def _only(document: Mapping[str, Any], known: Iterable[str]) -> None:
    """What a later version added may be what denies: nothing unknown is passed over."""
    if unknown := document.keys() - set(known):
        raise ValueError(f"unknown parts {sorted(unknown)}")
