"""Whoever reads the log finds the code that the caller was told."""

from __future__ import annotations

from typing import Any

import pytest

from vestibule.doors.denial_codes import code_of, rule_in

BY = "rbac_access_denied_matched_policy"


@pytest.mark.parametrize(
    ("details", "more", "code"),
    [
        (f"{BY}[payments/no-contractors]", {}, "VST4001"),
        (f"{BY}[none]", {}, "VST4001"),
        (f"{BY}[vestibule/path-not-normal]", {}, "VST3001"),
        (f"{BY}[vestibule/plaintext-ended]", {}, "VST3019"),
        (f"{BY}[vestibule/revoked/identity]", {}, "VST3020"),
        (f"{BY}[vestibule/mcp-body-not-plain]", {}, "VST3022"),
        (f"{BY}[vestibule/mcp-unknown-method]", {}, "VST3024"),
        (f"{BY}[vestibule/mcp-target-not-normal]", {}, "VST3025"),
        ("jwt_authn_access_denied{Jwt_is_expired}", {"status": 401}, "VST4051"),
        ("ext_authz_denied", {"status": 403}, "VST4001"),
        ("ext_authz_denied", {"status": 503}, "VST4133"),
        ("ext_authz_error", {"status": 503}, "VST4133"),
        ("mcp_duplicate_keys", {"speaks_mcp": True}, "VST3022"),
        ("mcp_body_too_large", {"speaks_mcp": True}, "VST3023"),
        ("mcp_parse_error", {"speaks_mcp": True}, "VST3021"),
        ("request_payload_too_large", {"speaks_mcp": True}, "VST3023"),
        ("request_payload_too_large", {}, "VST4134"),
        ("request_rate_limited", {"limited": True, "status": 429}, "VST3016"),
        ("direct_response", {"route": "denied"}, "VST4001"),
        ("direct_response", {"route": "unknown"}, "VST3002"),
        ("direct_response", {"route": "tunnel"}, "VST3003"),
        ("direct_response", {"route": "tcp"}, "VST3004"),
        ("direct_response", {"route": "somebody's own"}, ""),
    ],
)
def test_every_denial_has_the_code_that_callers_are_told(
    details: str, more: dict[str, Any], code: str
) -> None:
    assert code_of(details, **more) == code


def test_the_rule_is_read_from_what_envoy_says() -> None:
    assert rule_in(f"{BY}[db/no-batch]") == "db/no-batch"
    assert rule_in(f"{BY}[none]") == ""
    assert rule_in("via_upstream") == ""
