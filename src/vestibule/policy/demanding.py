"""Whether a call meets what a rule demands of its token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vestibule.errors import VestibuleError
from vestibule.policy.codes import CONDITION_FAILED
from vestibule.policy.demands import CERTIFICATE_CLAIM, TokenDemand
from vestibule.policy.facts import Call
from vestibule.policy.values import audiences, scopes


class DemandError(VestibuleError):
    """A token whose claims have a shape that cannot be judged.  Its text holds nothing of the token."""


def meets_token(demand: TokenDemand, call: Call) -> bool:
    """Whether a verified token of the call is what is demanded; a call without one does not meet it.

    What is not met outweighs what cannot be judged, as it does in conditions.
    Raises: DemandError (VST4044) if ``aud``, ``scope``, ``client_id`` or ``act`` has another shape than RFC 7519,
    8693 and 9068 say.
    """
    token = call.tokens.get(demand.issuer)
    if token is None:
        return False
    failed: DemandError | None = None
    for part in (_is_for, _is_good_for, _says, _is_bound, _is_of_certificate):
        try:
            if not part(demand, token, call):
                return False
        except DemandError as error:
            failed = error
    if failed is not None:
        raise failed
    return True


def _is_for(demand: TokenDemand, token: Mapping[str, Any], _: Call) -> bool:
    known = audiences(token)
    if known is None:
        raise _odd("aud")
    return demand.audience in known


def _is_good_for(demand: TokenDemand, token: Mapping[str, Any], _: Call) -> bool:
    if not demand.scopes:
        return True
    granted = scopes(token)
    if granted is None:
        raise _odd("scope")
    return set(demand.scopes) <= set(granted)


def _says(demand: TokenDemand, token: Mapping[str, Any], _: Call) -> bool:
    return all(token.get(name) == value for name, value in demand.claims)


def _is_bound(demand: TokenDemand, token: Mapping[str, Any], call: Call) -> bool:
    if not demand.bound:
        return True
    return (_subject(token) if demand.svid else presenter(token)) == str(call.caller)


def _is_of_certificate(demand: TokenDemand, token: Mapping[str, Any], call: Call) -> bool:
    if not demand.certificate:
        return True
    if CERTIFICATE_CLAIM not in token:
        return False
    wanted = token[CERTIFICATE_CLAIM]
    if not isinstance(wanted, str):
        raise _odd(CERTIFICATE_CLAIM)
    return bool(call.certificate) and wanted == call.certificate


def _subject(token: Mapping[str, Any]) -> str:
    who = token.get("sub")
    if not isinstance(who, str):
        raise _odd("sub")
    return who


def presenter(token: Mapping[str, Any]) -> str:
    """Who presents a token: the outermost actor (RFC 8693, section 4.1), else its client.  Raises: DemandError."""
    actor = token.get("act")
    if actor is None and "act" not in token:
        client = token.get("client_id")
        if not isinstance(client, str):
            raise _odd("client_id")
        return client
    who = actor.get("sub") if isinstance(actor, Mapping) else None
    if not isinstance(who, str):
        raise _odd("act")
    return who


def _odd(claim: str) -> DemandError:
    return DemandError(CONDITION_FAILED, f"the claim {claim!r} of a token is missing or of an unknown shape")
