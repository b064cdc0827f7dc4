"""Tokens as what rules speak of: a path for each audience, without any scope, and one for each of its scopes.

``reports`` and ``reports/report:read``: whatever an audience or a scope holds, it is one segment, and no two have the
same one.
"""

from __future__ import annotations

import re
from typing import Final

from vestibule.policy import PathPattern

_PLAIN: Final = re.compile(r"[^A-Za-z0-9._:@!$&'()*+,=-]")
_ESCAPED: Final = re.compile(r"(?:~[0-9a-f]{2})+")
_DOTS: Final = (".", "..")


def path_of(audience: str, scope: str = "") -> str:
    """The path that is asked about: of a token for the audience with the scope, or with none."""
    return f"/{_segment(audience)}/{_segment(scope)}" if scope else f"/{_segment(audience)}"


def pattern_of(audience: str, scope: str = "", *, below: bool = False) -> PathPattern:
    """The same as a pattern; with ``below`` it is any token for the audience."""
    segments = (audience, scope) if scope else (audience,)
    return PathPattern(segments=tuple(map(_segment, segments)), below=below)


def read_pattern(pattern: PathPattern) -> tuple[str | None, str | None]:
    """The audience, None for any, and the scope: ``""`` for no scope, None for any or none."""
    said = [_text(str(each)) for each in pattern.segments[:2]]
    audience = said[0] if said else None
    return audience, said[1] if len(said) > 1 else None if pattern.below else ""


def _segment(text: str) -> str:
    if text in _DOTS:
        return "".join(f"~{ord(each):02x}" for each in text)
    return _PLAIN.sub(lambda found: "".join(f"~{byte:02x}" for byte in found[0].encode()), text)


def _text(segment: str) -> str:
    return _ESCAPED.sub(
        lambda found: bytes.fromhex(found[0].replace("~", "")).decode("utf-8", "replace"), segment
    )
