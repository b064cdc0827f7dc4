"""What can go wrong with a secret, as types that programs can tell apart."""

from __future__ import annotations

import re
from typing import Final

from vestibule.errors import CATALOGUE, ErrorCode, Kind, VestibuleError
from vestibule.sdk.codes import NO_SUCH_SECRET, SECRETS_REFUSED
from vestibule.secrets import codes as _secrets_codes
from vestibule.store.codes import CONFLICT

# Imported so that the catalogue knows the codes in the answers, with their advice.
CODES: Final = (_secrets_codes,)
_CODED: Final = re.compile(r"(VST[0-9]{4}) (.*)", re.DOTALL)
_RULE: Final = re.compile(r"\brule (\S+) forbids it")
_REQUEST: Final = re.compile(r"\(request ([A-Za-z0-9._-]+)")
_COMMIT: Final = re.compile(r", commit ([0-9a-f]+)\)")


class SecretsError(VestibuleError):
    """A refusal.  ``request_id`` finds it in the audit log; ``status`` is HTTP's, 0 where nothing was answered."""

    def __init__(self, code: ErrorCode, message: str, *, status: int = 0) -> None:
        super().__init__(code, message)
        self.status = status
        self.request_id = _found(_REQUEST, message)


class SecretDeniedError(SecretsError):
    """The rules do not allow it.  ``rule`` forbids it, None where no rule allows it; ``commit`` is the intent's."""

    def __init__(self, code: ErrorCode, message: str, *, status: int = 403) -> None:
        super().__init__(code, message, status=status)
        self.rule = _found(_RULE, message) or None
        self.commit = _found(_COMMIT, message)


class NoSuchSecretError(SecretsError):
    """There is nothing at the path, or that version is gone."""


class SecretConflictError(SecretsError):
    """Somebody else changed it meanwhile."""


def refusal(status: int, told: str, path: str) -> SecretsError:
    """The error that an answer means; ``told`` is its first line of ``errors``, perhaps empty."""
    coded = _CODED.fullmatch(told)
    code = CATALOGUE.get(coded[1]) if coded else None
    message = coded[2] if coded and code else told or f"status {status}"
    if status == 404:
        return NoSuchSecretError(
            code or NO_SUCH_SECRET, message if told else f"there is no {path}", status=404
        )
    code = code or SECRETS_REFUSED
    if code.kind is Kind.DENIED or status == 403:
        return SecretDeniedError(code, message, status=status)
    if code is CONFLICT or "check-and-set" in told:
        return SecretConflictError(CONFLICT, message, status=status)
    return SecretsError(code, message, status=status)


def _found(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""
