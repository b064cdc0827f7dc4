"""What can go wrong with tokens, as types that programs can tell apart."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from vestibule.errors import CATALOGUE, ErrorCode, Kind, VestibuleError
from vestibule.sdk.codes import TOKENS_REFUSED
from vestibule.tokens import codes as _tokens_codes

# Imported so that the catalogue knows the codes in the answers, with their advice.
CODES: Final = (_tokens_codes,)
_CODED: Final = re.compile(r"(VST[0-9]{4}) (.*)", re.DOTALL)
_REQUEST: Final = re.compile(r"\(request ([A-Za-z0-9._-]+)")


class TokensError(VestibuleError):
    """The token service gave none, or could not be asked.

    ``error`` is its word of RFC 6749 (section 5.2), such as ``invalid_scope``; ``status`` is HTTP's.  Both are
    empty where nothing was answered.  ``request_id`` finds a refusal in the audit log.
    """

    def __init__(self, code: ErrorCode, message: str, *, error: str = "", status: int = 0) -> None:
        super().__init__(code, message)
        self.error = error
        self.status = status
        self.request_id = _found(_REQUEST, message)


class TokenDeniedError(TokensError):
    """The rules do not allow it; which ones, the audit log has."""


class InvalidTokenError(VestibuleError):
    """A token that was shown proves nothing here."""


class TokenScopeError(VestibuleError):
    """A token is valid, and lacks ``scopes``, which are wanted."""

    def __init__(self, code: ErrorCode, message: str, scopes: tuple[str, ...]) -> None:
        super().__init__(code, message)
        self.scopes = scopes


def refusal(status: int, document: Mapping[str, Any]) -> TokensError:
    """The error that an answer means (RFC 6749, section 5.2)."""
    error, told = (document.get(name) for name in ("error", "error_description"))
    word = error if isinstance(error, str) else ""
    text = told if isinstance(told, str) and told else word or f"status {status}"
    coded = _CODED.match(text)
    code = CATALOGUE.get(coded[1]) if coded else None
    message = coded[2] if coded and code else f"{word}: {text}" if word and text != word else text
    code = code or TOKENS_REFUSED
    kind = TokenDeniedError if code.kind is Kind.DENIED or status == 403 else TokensError
    return kind(code, message, error=word, status=status)


def _found(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""
