"""How access tokens of the mesh's own token service are written, as far as proxies know them by their text.

What signs and what verifies rely on the same: the header's members and the first claims stand in one order, so that
the text of a token (RFC 7515, section 7.1) begins alike wherever these say the same.  It counts for nothing before the
signature over it is verified.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import Any, Final

ACCESS_TOKEN: Final = "at+jwt"  # noqa: S105 - a type
"""RFC 9068, section 2.1."""

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
_CLIENT: Final = ',"client_id":"'
_ANY_CLIENT: Final = "spiffe://"
_NEXT: Final = ',"'
"""What stands after the first claims: there is always another one (``sub``)."""


def header(typ: str, key_id: str) -> str:
    """The JOSE header, in JSON."""
    return _encode({"alg": "ES256", "typ": typ, "kid": key_id})


def first_claims(
    issuer: str, audience: str | Sequence[str], scopes: Sequence[str], client: str
) -> dict[str, Any]:
    """The claims that stand first: all that most rules ask for."""
    scope = {"scope": " ".join(scopes)} if scopes else {}
    return {"iss": issuer, "aud": audience, **scope, "client_id": client}


def beginning(issuer: str, audience: str, scopes: Sequence[str], client: str = "") -> str:
    """How the claims' part begins in tokens for one audience, with just these scopes, of a client; or of any."""
    said = _encode(first_claims(issuer, audience, scopes, client))
    if client:
        return _whole_groups(said[:-1], _NEXT)
    return _whole_groups(said[: said.rindex(_CLIENT) + len(_CLIENT)], _ANY_CLIENT)


def _whole_groups(text: str, then: str) -> str:
    """In base64url: three characters are four, so that what comes after ``then`` changes nothing of it."""
    size = -(-len(text) // 3) * 3
    return urlsafe_b64encode((text + then)[:size].encode()).decode()


def _header_begins() -> str:
    known = header(ACCESS_TOKEN, "").removesuffix('""}')
    size = len(known) // 3 * 3
    return urlsafe_b64encode(known[:size].encode()).decode()


HEADER_BEGINS: Final = _header_begins()
"""How an access token begins, whichever key signed it.  What is cut off is not needed to tell the kinds apart."""
