"""The values that conditions see, taken from the facts of one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC
from math import inf
from types import MappingProxyType
from typing import Any, Final

from vestibule.policy.facts import GIVEN, Call
from vestibule.policy.port_policies import PortPolicy
from vestibule.policy.rules import Rule

_ABSENT: Final = object()
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


def values(policy: PortPolicy, rule: Rule, call: Call) -> dict[str, Any]:
    """What the rule's condition uses, as far as it is known of the call."""
    if rule.when is None:
        return {}
    token = call.tokens.get(GIVEN if rule.token is None else rule.token.issuer)
    return values_of(rule.when.uses, policy, call, token)


def values_of(
    names: Iterable[str], policy: PortPolicy, call: Call, token: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The values of some names of the vocabulary, without those that are not known."""
    found: dict[str, Any] = {}
    for name in names:
        value = _claim(name, token) if name in _CLAIMS else _READ[name](policy, call)
        if value is not _ABSENT:
            found[name] = value
    return found


def constants(policy: PortPolicy) -> dict[str, Any]:
    """What is the same for all calls to the port: to be folded."""
    return {
        "service.name": policy.service,
        "service.labels": policy.labels,
        "environment": policy.environment,
    }


def scopes(token: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The scopes of a token (RFC 9068, section 2.2.3); None if they cannot be read."""
    written = token.get("scope", "")
    return tuple(filter(None, written.split(" "))) if isinstance(written, str) else None


def audiences(token: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The audiences of a token (RFC 7519, section 4.1.3); None if they cannot be read."""
    written = token.get("aud", ())
    if isinstance(written, str):
        return (written,)
    readable = isinstance(written, list | tuple) and all(isinstance(each, str) for each in written)
    return tuple(written) if readable else None


_CLAIMS: Final = MappingProxyType(
    {"token.issuer": "iss", "token.subject": "sub", "token.client_id": "client_id"}
) | {
    "token.audiences": "aud",
    "token.scopes": "scope",
    "token.claims": "",
}


def _claim(name: str, token: Mapping[str, Any] | None) -> Any:
    if token is None:
        return _ABSENT
    match name:
        case "token.audiences":
            value: Any = audiences(token)
        case "token.scopes":
            value = scopes(token)
        case "token.claims":
            try:
                return _json(token)
            except RecursionError:
                return _ABSENT
        case _:
            value = token.get(_CLAIMS[name])
            return value if isinstance(value, str) else _ABSENT
    return _ABSENT if value is None else list(value)


def _json(value: Any) -> Any:
    """Numbers as doubles, as the proxies keep them."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return inf if value > 0 else -inf
    if isinstance(value, Mapping):
        return {key: _json(each) for key, each in value.items()}
    return [_json(each) for each in value]


def _time(_: PortPolicy, call: Call) -> Any:
    # The binding reads a naive time as if it were UTC, and forgets the zone of others.
    return _ABSENT if call.time is None else call.time.astimezone(UTC)


def _mcp_method(_: PortPolicy, call: Call) -> Any:
    return _ABSENT if call.mcp is None else call.mcp.method or ""


def _mcp_target(_: PortPolicy, call: Call) -> Any:
    return _ABSENT if call.mcp is None or call.mcp.target is None else call.mcp.target


def _known(value: Any) -> Any:
    return _ABSENT if value is None else value


_READ: Final[Mapping[str, Callable[[PortPolicy, Call], Any]]] = MappingProxyType(
    {
        "caller.id": lambda _, call: str(call.caller),
        "caller.trust_domain": lambda _, call: str(call.caller.trust_domain),
        "caller.labels": lambda policy, call: dict(policy.callers.get(call.caller, _NOTHING)),
        "service.name": lambda policy, _: policy.service,
        "service.labels": lambda policy, _: dict(policy.labels),
        "environment": lambda policy, _: policy.environment,
        "request.method": lambda _, call: _known(call.method),
        "request.path": lambda _, call: _known(call.path and call.path.partition("?")[0]),
        "request.host": lambda _, call: call.host,
        "request.headers": lambda _, call: dict(call.headers),
        "request.time": _time,
        "request.body": lambda _, call: _known(call.body),
        "attributes": lambda _, call: dict(call.attributes),
        "mcp.method": _mcp_method,
        "mcp.target": _mcp_target,
    }
)
