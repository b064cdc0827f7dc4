"""Paths, identities and durations as others write them, in the words of the intent."""

from __future__ import annotations

import re
from typing import Final

from vestibule.errors import VestibuleError
from vestibule.intent import words
from vestibule.intent.importing.result import Result
from vestibule.policy import IdentityMatch, PathPattern

_DURATION: Final = re.compile(r"(?:([0-9]+)h)?(?:([0-9]+)m(?!s))?(?:([0-9.]+)s)?(?:([0-9]+)ms)?")
_CLUSTER: Final = "cluster.local"


def exact_path(text: str) -> str | None:
    """A path that is meant literally; None if the intent has no such path."""
    return None if "{" in text or "*" in text else _valid(text)


def paths_below(text: str) -> list[str] | None:
    """What Istio means by a prefix that ends in a slash: ``/a/`` and all below it, but not ``/a``."""
    literal = exact_path(text)
    if literal is None or not literal.endswith("/"):
        return None
    if literal == "/":
        return ["/**"]
    below = _valid(f"{literal}{{any}}/**")
    return [literal, below] if below else None


def element_prefix(text: str) -> str | None:
    """What Gateway API means by a prefix: the path, and all below it."""
    literal = exact_path(text.rstrip("/") or "/")
    if literal is None:
        return None
    return "/**" if literal == "/" else f"{literal}/**"


def _valid(text: str) -> str | None:
    try:
        return str(PathPattern.parse(text)) and text
    except VestibuleError:
        return None


def caller(principal: str, result: Result) -> str | None:
    """Who is meant by a principal such as ``cluster.local/ns/shop/sa/web``; None if it cannot be said."""
    domain, slash, path = principal.partition("/")
    if principal == "*":
        return f"spiffe://{result.trust_domain}/**"
    if not slash or "*" in domain:
        return None
    domain = result.trust_domain if domain == _CLUSTER else domain
    below = path.endswith("/*")
    path = path.removesuffix("/*")
    if "*" in path:
        return None
    return _identity(f"spiffe://{domain}/{path}{'/**' if below else ''}")


def namespace(name: str, result: Result) -> str | None:
    """Everybody in a namespace."""
    return None if "*" in name else _identity(f"spiffe://{result.trust_domain}/ns/{name}/**")


def _identity(text: str) -> str | None:
    try:
        return str(IdentityMatch.parse(text))
    except VestibuleError:
        return None


def duration(text: str) -> str | None:
    """``1.5s`` as ``1500ms``; None for none, for one that is no duration, or beyond what the intent takes."""
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        return None
    try:
        hours, minutes, seconds, millis = (float(each or 0) for each in match.groups())
        total = round(((hours * 60 + minutes) * 60 + seconds) * 1000 + millis)
        found = f"{total // 1000}s" if total % 1000 == 0 else f"{total}ms"
        words.duration(found)
    except (ValueError, VestibuleError):
        return None
    return found if total else None


def milliseconds(text: str) -> int:
    """Of a duration as ``duration`` writes it."""
    return int(text.removesuffix("ms")) if text.endswith("ms") else int(text.removesuffix("s")) * 1000
