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
_CODED: Final = re.compile(r"(VST[0-9]{4}) (.*?)(?: \(request ([A-Za-z0-9._-]+)\)\..*)?", re.DOTALL)
"""The code, the message, the request and the advice, which the code knows itself."""


class TokensError(VestibuleError):
    """The token service gave none, or could not be asked.

    ``error`` is its word of RFC 6749 (section 5.2), such as ``invalid_scope``; ``status`` is HTTP's.  Both are
    empty where nothing was answered.  ``request_id`` finds a refusal in the audit log.
    """

    def __init__(
        self, code: ErrorCode, message: str, *, error: str = "", status: int = 0, request_id: str = ""
    ) -> None:
        super().__init__(code, f"{message} (request {request_id})" if request_id else message)
        self.error = error
        self.status = status
        self.request_id = request_id


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
    coded = _CODED.fullmatch(text)
    code = CATALOGUE.get(coded[1]) if coded else None
    if coded is None or code is None:
        message = f"{word}: {text}" if word and text != word else text
        return TokensError(TOKENS_REFUSED, message, error=word, status=status)
    kind = TokenDeniedError if code.kind is Kind.DENIED else TokensError
    return kind(code, coded[2], error=word, status=status, request_id=coded[3] or "")
