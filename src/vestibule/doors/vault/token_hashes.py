"""What records have of tokens: keyed hashes, by which whoever has found a token finds out where it was used.

``sys/audit-hash`` gives the hash of a text to administrators.  Of the values of secrets there is no hash: many could be
guessed, and who may read records and ask for hashes would find out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from vestibule.doors.vault.auth import JWT_LOGIN
from vestibule.doors.vault.operations import Answer, VaultRequest
from vestibule.errors import VestibuleError

Hashed = Callable[[str], str]
"""The keyed hash of a token; nothing while that cannot be told."""

_TAKE_TOKENS: Final = ("auth/token/", "sys/wrapping/")


def no_hash(_token: str) -> str:
    """Where no key is at hand."""
    return ""


def unless_sealed(hashed: Hashed) -> Hashed:
    """The same, which tells nothing while the key is not there."""

    def told(token: str) -> str:
        try:
            return hashed(token)
        except VestibuleError:
            return ""

    return told


def of_request(request: VaultRequest, hashed: Hashed) -> dict[str, str]:
    """``token_hmac`` of what the caller shows, ``given_hmac`` of what it asks something about."""
    given = ""
    if request.path == JWT_LOGIN:
        given = request.body.get("jwt", "")
    elif request.path.startswith(_TAKE_TOKENS):
        given = request.body.get("token", "")
    return _told({"token_hmac": request.token, "given_hmac": given}, hashed)


def of_header(token: str, hashed: Hashed) -> dict[str, str]:
    """``token_hmac`` of a request that is turned away."""
    return _told({"token_hmac": token}, hashed)


def of_answer(answer: Answer, wrapped: Mapping[str, Any] | None, hashed: Hashed) -> dict[str, str]:
    """``issued_hmac`` of a token in an answer: of a login, or the one that is given in the answer's place."""
    issued = (wrapped or {}).get("token") or (answer.auth or {}).get("client_token", "")
    return _told({"issued_hmac": issued}, hashed)


def _told(tokens: Mapping[str, Any], hashed: Hashed) -> dict[str, str]:
    if not any(tokens.values()):
        return {}  # as for most requests
    found = {name: hashed(token) for name, token in tokens.items() if token and isinstance(token, str)}
    return {name: text for name, text in found.items() if text}
