"""Patterns of request paths: literal segments, ``{name}`` for one segment, ``/**`` for all that follows.

Both sides of a comparison are normal: a pattern that a normalising proxy could never see is refused when
it is read, and a request path that is not normal matches nothing.  That is what keeps ``/a/../admin``,
``//admin``, ``/admin;x`` and ``/%2e%2e/admin`` from meaning one thing to the proxy and another to the app.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from vestibule.errors import VestibuleError
from vestibule.policy.codes import MALFORMED_PATH_PATTERN

MAX_PATTERN: Final = 1024
NOT_NORMAL: Final = "vestibule/path-not-normal"
"""The name under which paths are refused before rules are looked at."""

# Outside RFC 3986, section 3.3, `pchar` without percent-encoding, `;` and `*`.
_ODD: Final = re.compile(r"[^A-Za-z0-9._~!$&'()+,=:@-]")
_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
# A request path once normalised: segments that are neither empty nor dots, nor have an escape that is not needed
# (RFC 3986, section 2.3: %2D %2E %3x %4x %5F %6x ... of letters, digits and "-._~") or hides a separator or NUL.
_PLAIN: Final = r"[A-Za-z0-9._~!$&'()*+,=:@|^`{}\"<>\[\]-]"
_NEEDED: Final = (
    r"%(?:0[1-9A-Fa-f]|1[0-9A-Fa-f]|2[0-9A-Ca-c]|3[A-Fa-f]|40|5[BDEbde]|60|7[BCDFbcdf]|[89A-Fa-f][0-9A-Fa-f])"
)
_SEGMENT: Final = rf"(?!\.{{1,2}}(?:/|$))(?:{_PLAIN}++|{_NEEDED})++"
_REQUEST: Final = re.compile(rf"/(?:{_SEGMENT}(?:/{_SEGMENT})*/?)?")
_USUAL: Final = re.compile(r"(?:/[A-Za-z0-9_-]++)++")  # a part of the former that is found out sooner
_WHY: Final = {
    "%": "percent-encoding, which is decoded before rules are looked at",
    ";": "a ';' (path parameters are refused)",
    "?": "a query, which rules do not look at",
    "#": "a fragment, which is never sent",
    "\\": "a backslash, which proxies turn into '/'",
    "*": "a '*' that is not a trailing /**",
    "{": "a '{' that does not begin a whole segment such as {id}",
    "}": "a '}' that does not end a whole segment such as {id}",
}


@dataclass(frozen=True, slots=True)
class Placeholder:
    """``{name}`` in a pattern: exactly one segment that is not empty.  The name is for readers only."""

    name: str

    def __str__(self) -> str:
        return f"{{{self.name}}}"


Segment = str | Placeholder


@dataclass(frozen=True, slots=True, kw_only=True)
class PathPattern:
    """A parsed pattern: what stands between the slashes, and whether ``/**`` follows.

    ``/`` has the one segment ``""``, ``/a/`` has ``"a"`` and ``""``, ``/**`` has none.
    """

    segments: tuple[Segment, ...]
    below: bool = False

    @classmethod
    def parse(cls, text: str) -> PathPattern:
        """Read ``/v1/charges``, ``/v1/{id}/lines`` or ``/v1/**`` (``/v1`` too).  Raises: VST4010."""
        if len(text) > MAX_PATTERN:
            raise MALFORMED_PATH_PATTERN.error(f"a path is longer than {MAX_PATTERN} characters")
        if not text.startswith("/"):
            raise _refuse(text, "does not start with '/'")
        if "//" in text:
            raise _refuse(text, "has an empty segment ('//'), which proxies merge")
        below = text.endswith("/**")
        rest = text.removesuffix("/**")
        segments = rest[1:].split("/") if rest else []
        return cls(segments=tuple(_segment(text, part) for part in segments), below=below)

    @property
    def is_literal(self) -> bool:
        """Whether no ``{segment}`` occurs; with ``below`` it is then a plain prefix."""
        return all(isinstance(segment, str) for segment in self.segments)

    @property
    def literal(self) -> str:
        """The part before the first ``{segment}`` or ``/**``, without a trailing slash of its own:
        ``/v1`` for ``/v1/{id}/lines`` and for ``/v1/**``, ``""`` for ``/**``."""
        parts: list[str] = []
        for segment in self.segments:
            if isinstance(segment, Placeholder):
                break
            parts.append(segment)
        return "".join(f"/{part}" for part in parts)

    @property
    def regex(self) -> str:
        """The same pattern as a regular expression (RE2 and ``re``) that must match the whole path."""
        one = (("[^/]+" if isinstance(part, Placeholder) else re.escape(part)) for part in self.segments)
        head = "".join(f"/{part}" for part in one)
        if not self.below:
            return head
        return f"{head}(?:/.*)?" if head else "/.*"

    def matches(self, path: str) -> bool:
        """Whether a request path, without its query, is meant.  A path that is not normal never is."""
        if not is_normal(path):
            return False
        parts = path[1:].split("/")
        if len(parts) < len(self.segments) or (len(parts) > len(self.segments) and not self.below):
            return False
        return all(_fits(segment, part) for segment, part in zip(self.segments, parts, strict=False))

    def covers(self, other: PathPattern) -> bool:
        """Whether every path that ``other`` matches is matched here too."""
        if other.below and not self.below:
            return False
        if len(other.segments) < len(self.segments) or (
            len(other.segments) > len(self.segments) and not self.below
        ):
            return False
        pairs = zip(self.segments, other.segments, strict=False)
        return all(_holds(mine, theirs) for mine, theirs in pairs)

    def within(self, other: PathPattern) -> PathPattern | None:
        """The paths that both match; None where there are none."""
        shorter, longer = sorted((self, other), key=lambda each: len(each.segments))
        apart = len(longer.segments) - len(shorter.segments)
        if apart and not shorter.below:
            return None
        pairs = zip(shorter.segments, longer.segments, strict=False)
        common = [_common(one, another) for one, another in pairs]
        if None in common:
            return None
        rest = longer.segments[len(shorter.segments) :]
        segments = (*(each for each in common if each is not None), *rest)
        return PathPattern(segments=segments, below=longer.below and (shorter.below or bool(apart)))

    def __str__(self) -> str:
        return "".join(f"/{segment}" for segment in self.segments) + ("/**" if self.below else "")


def is_normal(path: str) -> bool:
    """Whether a request path (no query) is what a normalising proxy hands on.

    It starts with one slash and has no empty or dot segment, no ``;``, ``#``, backslash, control or non-ASCII
    character, no escaped slash, backslash or NUL, and no escaped character that needs none (``/%61dmin``).
    """
    return _USUAL.fullmatch(path) is not None or _REQUEST.fullmatch(path) is not None


def _fits(segment: Segment, part: str) -> bool:
    return part != "" if isinstance(segment, Placeholder) else segment == part


def _holds(mine: Segment, theirs: Segment) -> bool:
    return theirs != "" if isinstance(mine, Placeholder) else mine == theirs


def _common(one: Segment, other: Segment) -> Segment | None:
    """What both stand for."""
    if isinstance(one, Placeholder):
        return other if other != "" else None
    if isinstance(other, Placeholder):
        return one if one != "" else None
    return one if one == other else None


def _segment(text: str, part: str) -> Segment:
    if placeholder := _PLACEHOLDER.fullmatch(part):
        return Placeholder(placeholder[1])
    if part in (".", ".."):
        raise _refuse(text, f"has the dot segment {part!r}, which proxies resolve")
    if odd := _ODD.search(part):
        why = _WHY.get(odd[0], f"the character {odd[0]!r}, which no path holds as it is")
        raise _refuse(text, f"has {why}")
    return part


def _refuse(text: str, why: str) -> VestibuleError:
    shown = text if len(text) <= 80 else text[:77] + "..."
    return MALFORMED_PATH_PATTERN.error(f"path {shown!r} {why}")
