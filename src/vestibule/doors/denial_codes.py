"""The error codes of denials, from what Envoy says of them: those that callers are told (``envoy.replies``)."""

from __future__ import annotations

import re
from typing import Final

from vestibule.envoy import codes
from vestibule.envoy.rbac import PLAINTEXT_ENDED
from vestibule.envoy.revoked import REVOKED
from vestibule.envoy.revoked_tokens import REVOKED_TOKEN
from vestibule.envoy.tokens import UNASKED
from vestibule.errors import ErrorCode
from vestibule.policy import NOT_NORMAL
from vestibule.policy.codes import BODY_TOO_LARGE, CALL_DENIED, NO_DECISION, TOKEN_REFUSED
from vestibule.policy.mcp import BODY_NOT_PLAIN, TARGET_NOT_NORMAL, UNKNOWN_METHOD

_BY_NAME: Final = {
    NOT_NORMAL: codes.PATH_NOT_NORMAL,
    PLAINTEXT_ENDED: codes.PLAINTEXT_ENDED,
    BODY_NOT_PLAIN: codes.MCP_AMBIGUOUS,
    UNKNOWN_METHOD: codes.MCP_UNKNOWN_METHOD,
    TARGET_NOT_NORMAL: codes.MCP_TARGET_NOT_NORMAL,
    UNASKED: codes.TOKEN_UNASKED,
}
_BY_ROUTE: Final = {
    "denied": CALL_DENIED,
    "unknown": codes.UNKNOWN_DESTINATION,
    "tunnel": codes.TUNNEL_REFUSED,
    "tcp": codes.NOT_HTTP,
}
"""The routes of callers' proxies that answer by themselves (``envoy.egress``)."""

_BY_BEGINNING: Final = {
    "jwt_authn_access_denied": TOKEN_REFUSED,
    "mcp_duplicate_keys": codes.MCP_AMBIGUOUS,
    "mcp_body_too_large": codes.MCP_TOO_LARGE,
    "mcp_": codes.NOT_MCP,
    "ext_authz_error": NO_DECISION,
}
_NAMED: Final = re.compile(r"rbac_access_denied_matched_policy\[(.*)\]")


def rule_in(details: str) -> str:
    """The rule that Envoy says it denied by; empty if it names none."""
    found = _NAMED.fullmatch(details)
    return found[1] if found is not None and found[1] != "none" else ""


def code_of(
    details: str, *, status: int = 0, route: str = "", limited: bool = False, speaks_mcp: bool = False
) -> str:
    """Of a denial; empty where there is none for it."""
    code = _limit_or_denial(details, status, route, limited=limited, speaks_mcp=speaks_mcp)
    return "" if code is None else code.code


def _limit_or_denial(
    details: str, status: int, route: str, *, limited: bool, speaks_mcp: bool
) -> ErrorCode | None:
    if limited:
        return codes.RATE_LIMITED
    if details.startswith("rbac_access_denied"):
        rule = rule_in(details)
        if rule.startswith(f"{REVOKED_TOKEN}/"):
            return codes.TOKEN_REVOKED
        return codes.CALLER_REVOKED if rule.startswith(f"{REVOKED}/") else _BY_NAME.get(rule, CALL_DENIED)
    if details == "ext_authz_denied":
        return CALL_DENIED if status == _FORBIDDEN else NO_DECISION
    if details == "request_payload_too_large":
        return codes.MCP_TOO_LARGE if speaks_mcp else BODY_TOO_LARGE
    if details == "direct_response":
        return _BY_ROUTE.get(route)
    return next((code for each, code in _BY_BEGINNING.items() if details.startswith(each)), None)


_FORBIDDEN: Final = 403
