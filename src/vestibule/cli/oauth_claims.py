"""What stands in a token, for people; nothing here says that it is true."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from rich.markup import escape

from vestibule.cli.codes import USAGE
from vestibule.cli.output import console
from vestibule.pki.json_documents import parse_object
from vestibule.pki.jwk import decode_base64url
from vestibule.pki.jwt import MAX_TOKEN

_LINES: Final = (
    ("issuer", "iss"),
    ("subject", "sub"),
    ("client", "client_id"),
    ("audience", "aud"),
    ("scopes", "scope"),
    ("token", "jti"),
    ("transaction", "txn"),
)
_MOST: Final = 32


def read_claims(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a JWT, as they stand there.  Raises: VST9100."""
    parts = token.split(".")
    try:
        if len(parts) != 3 or len(token) > MAX_TOKEN:
            raise ValueError
        return parse_object(decode_base64url(parts[0])), parse_object(decode_base64url(parts[1]))
    except ValueError:
        # What the parser says would quote the token.
        raise USAGE.error(
            "what was given is no JWT",
            advice="Give the token as it was received, in a file or on standard input.",
        ) from None


def actors_of(claims: Mapping[str, Any]) -> list[str]:
    """Who acts, the newest first (RFC 8693, section 4.1)."""
    found: list[str] = []
    inner = claims.get("act")
    while isinstance(inner, Mapping) and len(found) < _MOST:
        found.append(str(inner.get("sub", "?")))
        inner = inner.get("act")
    return found


def show_claims(claims: Mapping[str, Any]) -> None:
    """One line for each that matters."""
    for name, claim in _LINES:
        if (value := claims.get(claim)) is not None:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            console.print(f"  {name:<12} {escape(shown)}")
    if actors := actors_of(claims):
        console.print(f"  {'acted for by':<12} {escape(' ← '.join(actors))}")
    if (ends := claims.get("exp")) is not None:
        console.print(f"  {'ends':<12} {instant(ends) or escape(str(ends))}")


def instant(seconds: object) -> str | None:
    """Seconds since 1970 as people and programs read them; none for 0 and for what is no instant."""
    if not isinstance(seconds, int | float) or not seconds:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None
