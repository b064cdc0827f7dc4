"""What is answered: JSON, and errors as RFC 6749 (section 5.2) has them, with our code and what to do about it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from vestibule.doors.oauth.codes import METHOD_REFUSED, NO_SUCH_ENDPOINT, TOO_LARGE, WORDS
from vestibule.errors import ErrorCode, Kind, VestibuleError
from vestibule.tokens.codes import word_of

Header = tuple[bytes, bytes]

JSON: Final[Header] = (b"content-type", b"application/json")
NO_STORE: Final[Header] = (b"cache-control", b"no-store")
CHALLENGE: Final[Header] = (b"www-authenticate", b'Basic realm="vestibule"')
"""For whoever is not known (RFC 6749, section 5.2); a password alone never helps."""
RETRY_AFTER: Final[Header] = (b"retry-after", b"2")
SHOWN_SECONDS: Final = 60
_SHOWN: Final[Header] = (b"cache-control", b"public, max-age=%d" % SHOWN_SECONDS)

_STATUS: Final[Mapping[Kind, int]] = {
    Kind.UNAUTHENTICATED: 401,
    Kind.EXHAUSTED: 429,
    Kind.UNAVAILABLE: 503,
    Kind.INTERNAL: 500,
}
"""All else is 400 (RFC 6749, section 5.2): also who may not."""
_OWN: Final[Mapping[ErrorCode, int]] = {TOO_LARGE: 413, NO_SUCH_ENDPOINT: 404, METHOD_REFUSED: 405}
_SEALED: Final = "VST5000"
_UNSPEAKABLE: Final = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]")
_LONGEST: Final = 900


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, as it is sent."""

    status: int
    body: bytes
    headers: tuple[Header, ...] = (JSON, NO_STORE)


_encode: Final = json.JSONEncoder(separators=(",", ":"), default=dict).encode  # for mappings of other kinds


def told(document: Mapping[str, Any]) -> Reply:
    """What only the client is to see."""
    return Reply(200, _encode(dict(document)).encode("ascii"))


def shown(document: str) -> Reply:
    """What everybody may see, and keep for a while: keys and metadata, in JSON."""
    return Reply(200, document.encode(), (JSON, _SHOWN))


def refused(error: VestibuleError, request_id: str, *more: Header) -> Reply:
    """The error as the client gets it."""
    status, word = status_of(error), error_word(error)
    headers: tuple[Header, ...] = (JSON, NO_STORE, *more)
    if status == 401:
        headers = (*headers, CHALLENGE)
    if status in (429, 503):
        headers = (*headers, RETRY_AFTER)
    text = f"{error.code.code} {error.message} (request {request_id}). {error.advice}"
    if is_ours(error):
        text = f"{error.code.code} this cannot be done at the moment (request {request_id})"
    # Section 5.2: neither quotes nor backslashes, and nothing but ASCII.
    description = _UNSPEAKABLE.sub("'", text.replace("…", "..."))[:_LONGEST]
    return Reply(status, _encode({"error": word, "error_description": description}).encode("ascii"), headers)


def is_ours(error: VestibuleError) -> bool:
    """Whether clients are told no more than the code: files and addresses of the server are the operator's to know."""
    return status_of(error) >= 500 and not error.code.code.startswith("VST60")


def status_of(error: VestibuleError) -> int:
    """The HTTP status of an error."""
    if error.code.code == _SEALED:
        return 503
    return _OWN.get(error.code) or _STATUS.get(error.code.kind, 400)


def error_word(error: VestibuleError) -> str:
    """The ``error`` of a response."""
    if error.code.code == _SEALED:
        return "temporarily_unavailable"
    return WORDS.get(error.code) or word_of(error)
