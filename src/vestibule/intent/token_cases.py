"""Cases about tokens: who asks for which, and what token is given for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from vestibule.errors import VestibuleError
from vestibule.intent import codes, words
from vestibule.intent.case_keys import CASE_AT, CASE_METHOD, CASE_SCOPES, CASE_TO, CASE_TOKENS
from vestibule.intent.model import Intent
from vestibule.intent.problems import Findings, nearest
from vestibule.intent.resolving import advice
from vestibule.intent.shapes import At, Fields
from vestibule.intent.token_groups import ADMIT, MINT, VERBS, TokenGroup
from vestibule.intent.token_questions import calls_of, method_of, paths_of
from vestibule.policy import Call
from vestibule.spiffe import SpiffeId


def group_of(audience: str, intent: Intent) -> TokenGroup:
    """The group of tokens that an audience is in.  Raises: VST0040."""
    groups = {each: group for group in intent.tokens.values() for each in group.audiences}
    if audience in groups:
        return groups[audience]
    fix = advice(audience, groups, "audiences")
    raise codes.UNKNOWN_NAME.error(f"no group of tokens has the audience {words.shown(audience)}", advice=fix)


def check_scopes(scopes: Iterable[str], group: TokenGroup) -> None:
    """Whether a group has them.  Raises: VST0040."""
    for each in scopes:
        if each not in group.scopes:
            fix = advice(each, group.scopes, "scopes")
            message = f"the group {group.name} has no scope {words.shown(each)}"
            raise codes.UNKNOWN_NAME.error(message, advice=fix)


def asked_method(verb: str, given: Mapping[str, Mapping[str, Any]], intent: Intent) -> str:
    """What is asked, as rules have it; ``given`` are the claims of the given token by its issuer's name.

    Raises: VST0025 for what is no verb, and where nobody's token or several are given; VST0040 for an unknown issuer.
    """
    if verb not in VERBS:
        close = nearest(verb, VERBS)
        raise codes.MALFORMED_VALUE.error(
            f"{words.shown(verb)} is no way to come by a token",
            advice=f"Did you mean {close!r}?" if close else f"Use {', '.join(VERBS)}.",
        )
    for name in given:
        if name not in intent.mesh.issuers:
            fix = advice(name, intent.mesh.issuers, "issuers")
            raise codes.UNKNOWN_NAME.error(f"there is no issuer {name!r} in mesh.yaml", advice=fix)
    if verb == MINT and given:
        raise codes.MALFORMED_VALUE.error("no token is given to mint one", advice="Leave out the claims.")
    if len(given) > 1 or (verb == ADMIT and not given):
        raise codes.MALFORMED_VALUE.error(
            f"to {verb} is to give one token, of one issuer",
            advice="Say the claims of the token that is given, by the name of its issuer.",
        )
    return method_of(verb, next(iter(given), ""))


def token_calls(
    item: At[Fields], audience: str, spiffe_id: SpiffeId, intent: Intent, now: datetime, findings: Findings
) -> tuple[Call, ...]:
    """What a case asks; nothing where it makes no sense, which is noted."""
    fields = item.value
    scopes, tokens = fields.get(CASE_SCOPES), fields.get(CASE_TOKENS)
    wanted = tuple(each.value for each in scopes.value) if scopes else ()
    given = {name: each.value for name, (_, each) in tokens.value.items() if each} if tokens else {}
    keys, at = (CASE_TO, CASE_SCOPES, CASE_METHOD), item.at
    try:
        at = fields.place(keys[0]) or at
        group = group_of(audience, intent)
        at = fields.place(keys[1]) or at
        check_scopes(wanted, group)
        at = fields.place(keys[2]) or item.at
        method = asked_method(fields.value(CASE_METHOD, MINT), given, intent)
    except VestibuleError as error:
        findings.add_error(error, at)
        return ()
    claims = next(iter(given.values()), {})
    return calls_of(spiffe_id, method, paths_of(audience, wanted), claims, fields.value(CASE_AT, now))
