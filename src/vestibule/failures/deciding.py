"""Failures that somebody decided: rules, tokens and limits."""

from __future__ import annotations

from typing import Final

from vestibule.failures.failure import Failure, Sign
from vestibule.failures.layers import Layer

_RBAC: Final = "rbac_access_denied_matched_policy["
_JWT: Final = "jwt_authn_access_denied{"

DECIDING: Final = (
    Failure(
        name="caller-revoked",
        layer=Layer.AUTHORIZATION,
        title="The caller's identity was revoked",
        meaning="An operator took the identity, the certificate or the authority above it back. No "
        "rule can allow it.",
        confirm=("`vestibule revoke list` shows what is revoked, by whom and why.",),
        fix="Find out why it was revoked. A service that is sound again gets a new certificate, or "
        "the entry is taken back.",
        example=f"403 {_RBAC}vestibule/revoked/identity]",
        signs=(
            Sign(details=(f"{_RBAC}vestibule/revoked/",)),
            Sign(code=frozenset({"VST3020"})),
        ),
    ),
    Failure(
        name="token-revoked",
        layer=Layer.TOKEN,
        title="The access token was revoked",
        meaning="It was taken back by itself, by its client, by its subject or with the key that signed it.",
        confirm=("`vestibule audit search token.revoke` says by whom.",),
        fix="Get a new token, if the caller may still have one.",
        example=f"401 {_RBAC}vestibule/revoked-token/token]",
        signs=(
            Sign(details=(f"{_RBAC}vestibule/revoked-token/",)),
            Sign(code=frozenset({"VST6100"})),
        ),
    ),
    Failure(
        name="path-not-normal",
        layer=Layer.AUTHORIZATION,
        title="The path is not in its normal form",
        meaning="It has escaped slashes, dot segments or parameters, by which a rule and the app "
        "might mean different things.",
        confirm=("`vestibule explain CALLER SERVICE METHOD PATH` shows the form that rules see.",),
        fix="Send the normal form, or let the port opt out (docs/authorization.md).",
        example=f"403 {_RBAC}vestibule/path-not-normal]",
        signs=(Sign(code=frozenset({"VST3001"})), Sign(details=(f"{_RBAC}vestibule/path-not-normal",))),
    ),
    Failure(
        name="plaintext-ended",
        layer=Layer.AUTHORIZATION,
        title="Calls in plain text are over",
        meaning="The service was called in plain text until a date (`mtls: permissive`), which has passed.",
        confirm=("`vestibule coverage` says who still calls it so.", "The service's file has the date."),
        fix="Bring the caller into the mesh, or move the date.",
        example='403 {"error": "VST3019", …}',
        signs=(Sign(code=frozenset({"VST3019"})), Sign(details=(f"{_RBAC}vestibule/plaintext-ended",))),
    ),
    Failure(
        name="token-not-wanted",
        layer=Layer.TOKEN,
        title="The called port takes no tokens",
        meaning="No rule of the port asks for a token, and the port refuses whoever sends one all the same.",
        confirm=("The port's `authorization` in the service's file.",),
        fix="Leave the Authorization header out, or write a rule that asks for it.",
        example='401 {"error": "VST6101", …}',
        signs=(Sign(code=frozenset({"VST6101"})),),
    ),
    Failure(
        name="denied-by-no-rule",
        layer=Layer.AUTHORIZATION,
        title="No rule allows the call",
        meaning="Everything is denied that no rule allows, and none fits this caller, method and path.",
        confirm=(
            "`vestibule explain CALLER SERVICE METHOD PATH` names the nearest rule and what it misses.",
        ),
        fix="If the call is right, add a rule to the service's file; explain prints one that would fit.",
        example=f"403 {_RBAC}none]",
        signs=(
            Sign(details=(f"{_RBAC}none]", "ext_authz_denied")),
            Sign(code=frozenset({"VST4001"})),
            Sign(text=r"RBAC: access denied"),
        ),
    ),
    Failure(
        name="denied-by-rule",
        layer=Layer.AUTHORIZATION,
        title="A rule denies the call",
        meaning="A deny rule of the called service fits. It beats every rule that allows.",
        confirm=("`vestibule explain CALLER SERVICE METHOD PATH` names the rule, its file and line.",),
        fix="If the call is right, change the rule in the service's file; `vestibule plan` shows what"
        " else that changes.",
        example=f"403 {_RBAC}contractors-office-hours]",
        signs=(Sign(details=(_RBAC,)),),
    ),
    Failure(
        name="no-decision",
        layer=Layer.AUTHORIZATION,
        title="The decision service did not decide",
        meaning="The call needs the decision service, and it was away, too slow or undecided. Then "
        "nothing is allowed.",
        confirm=(
            "`vestibule check` looks at the agent, which decides.",
            "`vestibule decisions` shows what it decided last.",
        ),
        fix="Start the agent of the callee's node, or mend what it complains about.",
        example="503 UAEX ext_authz_error",
        signs=(
            Sign(details=("ext_authz_error",)),
            Sign(code=frozenset({"VST4131", "VST4133"})),
            Sign(flags=frozenset({"UAEX"}), status=frozenset({503})),
        ),
    ),
    Failure(
        name="token-missing",
        layer=Layer.TOKEN,
        title="The request has no token",
        meaning="The rule that would allow the call demands an access token, and there is none.",
        confirm=("`vestibule explain CALLER SERVICE METHOD PATH` shows what the rule demands.",),
        fix="Send `Authorization: Bearer …` with a token for this audience (`vestibule oauth token`),"
        " or have the sidecar inject it (`inject: true`).",
        example=f"401 {_JWT}Jwt_is_missing}}",
        signs=(Sign(details=(f"{_JWT}Jwt_is_missing",)), Sign(text=r"Jwt is missing")),
    ),
    Failure(
        name="token-expired",
        layer=Layer.TOKEN,
        title="The token has expired",
        meaning="Its `exp` has passed by the clock of the callee's proxy.",
        confirm=("`vestibule oauth inspect` shows its times.", "`vestibule check` compares the clocks."),
        fix="Get a new token before the old one ends (the SDK does); mend the clock if it is that.",
        example=f"401 {_JWT}Jwt_is_expired}}",
        signs=(Sign(details=(f"{_JWT}Jwt_is_expired",)), Sign(text=r"Jwt is expired|token (is|has) expired")),
    ),
    Failure(
        name="token-not-yet-valid",
        layer=Layer.TOKEN,
        title="The token does not count yet",
        meaning="Its `nbf` or `iat` lies in the future by the clock of the callee's proxy.",
        confirm=("`vestibule check` compares the clocks.",),
        fix="Set the clocks right.",
        example=f"401 {_JWT}Jwt_not_yet_valid}}",
        signs=(Sign(details=(f"{_JWT}Jwt_not_yet_valid",)), Sign(text=r"Jwt not yet valid")),
    ),
    Failure(
        name="token-for-somebody-else",
        layer=Layer.TOKEN,
        title="The token was made for another audience",
        meaning="Its `aud` is not the service that was called.",
        confirm=("`vestibule oauth inspect` shows its audience.",),
        fix="Ask for a token of this audience, or give the one at hand in exchange for it (`vestibule"
        " oauth exchange`).",
        example=f"401 {_JWT}Audiences_in_Jwt_are_not_allowed}}",
        signs=(Sign(details=(f"{_JWT}Audiences",)), Sign(text=r"Audiences in Jwt are not allowed")),
    ),
    Failure(
        name="token-of-unknown-issuer",
        layer=Layer.TOKEN,
        title="The token is of an issuer that is not believed here",
        meaning="Its `iss` is none of the issuers that the rules of this port name.",
        confirm=("`vestibule oauth inspect` shows its issuer; `issuers` of mesh.yaml those that are known.",),
        fix="Get the token from an issuer that the rule names, or name this one.",
        example=f"401 {_JWT}Jwt_issuer_is_not_configured}}",
        signs=(Sign(details=(f"{_JWT}Jwt_issuer",)), Sign(text=r"Jwt issuer is not configured")),
    ),
    Failure(
        name="token-key-unknown",
        layer=Layer.TOKEN,
        title="The key that signed the token is not known here",
        meaning="The issuer changed its keys and the proxy has not got the new ones, or has dropped "
        "the old one; or somebody else signed.",
        confirm=(
            "`vestibule oauth keys` lists the keys with their states.",
            "`vestibule status` shows how new the proxy's are.",
        ),
        fix="Get a new token. If that is refused too, let the agent reach the server; for an issuer "
        "outside, look at its `keys` in mesh.yaml.",
        example=f"401 {_JWT}Jwks_doesn't_have_key_to_match_kid_or_alg_from_Jwt}}",
        signs=(Sign(details=(f"{_JWT}Jwks",)), Sign(text=r"Jwks doesn't have key")),
    ),
    Failure(
        name="token-invalid",
        layer=Layer.TOKEN,
        title="The token does not stand up to the check",
        meaning="Its signature, its form or its claims are wrong.",
        confirm=("`vestibule oauth inspect` reads it strictly and says what is wrong.",),
        fix="Get a new token from the issuer; never change one.",
        example=f"401 {_JWT}Jwt_verification_fails}}",
        signs=(
            Sign(details=(_JWT,)),
            Sign(code=frozenset({"VST4051"})),
            Sign(text=r"Jwt verification fails|Jwt is not in the form"),
        ),
    ),
    Failure(
        name="rate-limited",
        layer=Layer.LIMITS,
        title="A rate limit is used up",
        meaning="The service accepts only so many requests in a time, in all or per caller, at each "
        "of its instances.",
        confirm=("The header `x-vestibule-limit` of the answer names the limit.",),
        fix="Call less often, honour `Retry-After`, or raise the limit in the service's file (`limits`).",
        example="429 RL local_rate_limited",
        signs=(
            Sign(flags=frozenset({"RL", "RLSE"})),
            Sign(details=("local_rate_limited", "request_rate_limited")),
            Sign(code=frozenset({"VST3016"})),
            Sign(status=frozenset({429})),
            Sign(text=r"local_rate_limited|429 Too Many Requests"),
        ),
    ),
    Failure(
        name="circuit-open",
        layer=Layer.LIMITS,
        title="A circuit limit is reached",
        meaning="As many connections or requests as the intent permits are under way to this service "
        "already.",
        confirm=("`vestibule status` of the caller's proxy; the callee is mostly slow, see its durations.",),
        fix="Mend what makes the callee slow, or raise the limit in the service's file (`circuit`).",
        example="503 UO upstream_reset_before_response_started{overflow}",
        signs=(
            Sign(flags=frozenset({"UO"})),
            Sign(details=("upstream_reset_before_response_started{overflow", "overflow")),
            Sign(code=frozenset({"VST3017"})),
            Sign(text=r"reset reason: overflow"),
        ),
    ),
    Failure(
        name="overloaded",
        layer=Layer.PROXY,
        title="The proxy protects itself",
        meaning="It has as much memory, or as many connections, as it may have, and refuses what is new.",
        confirm=("The memory of the sidecar's Envoy (`--envoy-memory`); `vestibule check`.",),
        fix="Give Envoy more, or find out who opens so many connections.",
        example="503 OM overload",
        signs=(Sign(flags=frozenset({"OM"})), Sign(details=("overload",)), Sign(text=r"envoy overloaded")),
    ),
    Failure(
        name="fault-injected",
        layer=Layer.INTENT,
        title="The intent has this fault injected",
        meaning="A route says `fault`: this answer, or its delay, is on purpose, until the fault's end.",
        confirm=("`vestibule explain CALLER SERVICE METHOD PATH` shows the route and its fault.",),
        fix="Wait for its end, or take it out of the service's file.",
        example="503 FI fault_filter_abort",
        signs=(
            Sign(flags=frozenset({"FI"})),
            Sign(details=("fault_filter_abort",)),
            Sign(code=frozenset({"VST3018"})),
            Sign(text=r"fault filter abort"),
        ),
    ),
    Failure(
        name="sealed",
        layer=Layer.SECRETS,
        title="The secret manager is sealed",
        meaning="It was started, or sealed on purpose, and nobody has unsealed it yet: it gives nothing out.",
        confirm=("`vestibule secret status` says how it is unsealed.",),
        fix="`vestibule secret unseal`.",
        example='503 {"errors": ["Vault is sealed"]}',
        signs=(Sign(code=frozenset({"VST5000"})), Sign(text=r"(Vault|secret manager|barrier) is sealed")),
    ),
)
