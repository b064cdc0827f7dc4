"""Claims that an entry adds to its JWT-SVIDs: which names and values there may be.

A claim speaks with the server's authority, so it must not be able to say what another part of the token says, or what
verifiers give a meaning of their own.  Names of the IANA registry of JWT claims are therefore never taken.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from vestibule.identity.codes import INVALID_CLAIMS
from vestibule.spiffe import Selector
from vestibule.spiffe.templates import Variable, fill_text, variables_of

MAX_CLAIMS: Final = 16
MAX_BYTES: Final = 4096
"""Of all of an entry's claims as JSON: tokens travel in headers."""
MAX_ITEMS: Final = 32
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.:/-]{0,127}")
_LARGEST: Final = 2**53

_REGISTERED: Final = """
    iss sub aud exp nbf iat jti name given_name family_name middle_name nickname preferred_username
    profile picture website email email_verified gender birthdate zoneinfo locale phone_number
    phone_number_verified address updated_at azp nonce auth_time at_hash c_hash acr amr sub_jwk cnf
    sip_from_tag sip_date sip_callid sip_cseq_num sip_via_branch orig dest mky events toe txn rph sid
    vot vtm attest origid act scope client_id may_act jcard at_use_nbr div opt vc vp sph ace_profile
    cnonce exi roles groups entitlements token_introspection rsn cdni_v cdni_crit cdniv cdnicrit cdniip
    cdniuc cdniets cdnistt cdnistd sig_val_claims authorization_details verified_claims place_of_birth
    nationalities birth_family_name birth_given_name birth_middle_name salutation title msisdn
    also_known_as htm htu ath atc sub_id rcd rcdi crn msgi _sd _sd_alg sd_hash eat_nonce ueid sueids
    oemid hwmodel hwversion oemboot dbgstat location eat_profile submods status ttl s_hash kid typ alg
"""
REGISTERED: Final = frozenset(_REGISTERED.split())
"""The names of the IANA registry "JSON Web Token Claims", and a few that some verifiers read as such."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRules:
    """Which claims entries may add.  ``allowed`` holds names or patterns such as ``org_*``; ``*`` is every name."""

    allowed: tuple[str, ...] = ("*",)
    max_claims: int = MAX_CLAIMS
    max_bytes: int = MAX_BYTES

    def check(self, claims: Mapping[str, Any]) -> None:
        """Raises: VST1350."""
        if len(claims) > self.max_claims:
            raise INVALID_CLAIMS.error(f"{len(claims)} claims; {self.max_claims} is the limit")
        for name, value in claims.items():
            self._check_name(name)
            _check_value(name, value)
        size = len(canonical(claims).encode())
        if size > self.max_bytes:
            raise INVALID_CLAIMS.error(f"the claims take {size} bytes; {self.max_bytes} is the limit")

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise INVALID_CLAIMS.error(f"{name[:80]!r} is not a name of a claim")
        if name.lower() in REGISTERED:
            raise INVALID_CLAIMS.error(f"the claim {name!r} is a registered one, which no entry may set")
        if not any(fnmatchcase(name, pattern) for pattern in self.allowed):
            raise INVALID_CLAIMS.error(
                f"the server does not allow the claim {name!r}",
                advice="Use a name that the server's setting allowed_jwt_claims has, or let its operator add it.",
            )


def canonical(claims: Mapping[str, Any]) -> str:
    """Claims as an entry keeps them; empty for none."""
    if not claims:
        return ""
    return json.dumps(claims, separators=(",", ":"), sort_keys=True, ensure_ascii=False, allow_nan=False)


def read_claims(text: str) -> dict[str, Any]:
    """A JSON object of claims, from outside.  Raises: VST1350."""
    if not text:
        return {}
    if len(text) > 4 * MAX_BYTES:
        raise INVALID_CLAIMS.error("the claims are too long")
    try:
        claims = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise INVALID_CLAIMS.error(f"the claims are not JSON: {error}") from error
    if not isinstance(claims, dict):
        raise INVALID_CLAIMS.error("the claims are not a JSON object")
    return claims


def variables_in(claims: Mapping[str, Any]) -> frozenset[Variable]:
    """The variables in claims' texts.  Raises: VST1404."""
    return frozenset(
        found
        for value in claims.values()
        for each in (value if isinstance(value, list) else [value])
        if isinstance(each, str)
        for found in variables_of(each)
    )


def filled(claims: Mapping[str, Any], selectors: frozenset[Selector]) -> dict[str, Any]:
    """Claims with their variables replaced.  Raises: VST1405."""

    def fill(value: Any) -> Any:
        if isinstance(value, list):
            return [fill(each) for each in value]
        return fill_text(value, selectors) if isinstance(value, str) else value

    return {name: fill(value) for name, value in claims.items()}


def _check_value(name: str, value: Any) -> None:
    items: Sequence[Any] = value if isinstance(value, list) else [value]
    if len(items) > MAX_ITEMS or not all(map(_is_plain, items)):
        raise INVALID_CLAIMS.error(
            f"the claim {name!r} is neither a text, a number, true or false, nor a list of at most {MAX_ITEMS} of them"
        )


def _is_plain(value: Any) -> bool:
    if isinstance(value, str | bool):
        return True
    # Beyond these, readers in other languages read another number.
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) <= _LARGEST


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    claims = dict(pairs)
    if len(claims) != len(pairs):
        raise ValueError("a name stands twice")
    return claims
