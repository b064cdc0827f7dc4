"""What a request asks for: audiences (RFC 8693, section 2.1; RFC 8707) and scopes (RFC 6749, section 3.3)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from vestibule.tokens.codes import SCOPE_MALFORMED, TARGET_MALFORMED, TARGET_MISSING

MOST_TARGETS: Final = 8
LONGEST_TARGET: Final = 512
MOST_SCOPES: Final = 64
LONGEST_SCOPE: Final = 256
_PRINTABLE: Final = re.compile(rf"[\x21-\x7e]{{1,{LONGEST_TARGET}}}")
_SCOPE: Final = re.compile(rf"[\x21\x23-\x5b\x5d-\x7e]{{1,{LONGEST_SCOPE}}}")


def targets_of(audiences: Sequence[str], resources: Sequence[str] = ()) -> tuple[str, ...]:
    """Whom the token is to be for, each once; a resource is the audience of the same name.

    Raises: VST6012 (none), VST6013.
    """
    if not audiences and not resources:
        raise TARGET_MISSING.error("the request names no audience")
    if len(audiences) + len(resources) > MOST_TARGETS:
        raise TARGET_MALFORMED.error(f"more than {MOST_TARGETS} audiences are asked for")
    for each in (*audiences, *resources):
        if not _PRINTABLE.fullmatch(each):
            raise TARGET_MALFORMED.error(
                "an audience is empty, too long, or has spaces or unprintable characters"
            )
    for each in resources:
        if not _is_absolute(each):
            raise TARGET_MALFORMED.error("a resource is no absolute URI, or has a fragment")
    return tuple(dict.fromkeys((*audiences, *resources)))


def scopes_of(scopes: Sequence[str]) -> tuple[str, ...]:
    """The scopes, each once.  Raises: VST6014."""
    if len(scopes) > MOST_SCOPES:
        raise SCOPE_MALFORMED.error(f"more than {MOST_SCOPES} scopes are asked for")
    for each in scopes:
        if not _SCOPE.fullmatch(each):
            raise SCOPE_MALFORMED.error(
                "a scope is empty, too long, or has characters that scopes may not have"
            )
    return tuple(dict.fromkeys(scopes))


def _is_absolute(resource: str) -> bool:
    try:
        parts = urlsplit(resource)
    except ValueError:
        return False
    return bool(parts.scheme and (parts.netloc or parts.path)) and "#" not in resource
