"""What is left out of the decision log: whole fields, claims, segments of paths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

MASKED: Final = "***"
FIELDS: Final = (
    "path",
    "authority",
    "caller",
    "caller_address",
    "request_id",
    "trace_id",
    "mcp_target",
    "claims",
)
"""What can be left out as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """``path``, ``claims.email``, or segments of some paths: ``path:/cards/*`` masks ``7`` in ``/cards/7/lines``."""

    fields: frozenset[str] = frozenset()
    claims: frozenset[str] = frozenset()
    paths: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def parse(cls, written: Iterable[str]) -> Mask:
        """Raises: ValueError for what is no field."""
        fields, claims, paths = set[str](), set[str](), list[tuple[str, ...]]()
        for each in written:
            if each in FIELDS:
                fields.add(each)
            elif each.startswith("claims.") and each != "claims.":
                claims.add(each.removeprefix("claims."))
            elif each.startswith("path:/") and "*" in each:
                paths.append(tuple(each.removeprefix("path:/").split("/")))
            else:
                known = ", ".join(FIELDS)
                raise ValueError(
                    f"{each[:80]!r} cannot be masked; known are {known}, claims.NAME and path:/a/*"
                )
        return cls(fields=frozenset(fields), claims=frozenset(claims), paths=tuple(paths))

    def apply(self, document: dict[str, Any]) -> None:
        """Mask a decision, and name in ``masked`` what was."""
        masked = [name for name in sorted(self.fields) if document.get(name)]
        for name in masked:
            document[name] = MASKED
        claims = document.get("claims")
        if isinstance(claims, dict):
            for name in sorted(self.claims & claims.keys()):
                claims[name] = MASKED
                masked.append(f"claims.{name}")
        path = document.get("path")
        if self.paths and path and path != MASKED and (shown := self._path(path)) != path:
            document["path"] = shown
            masked.append("path")
        document["masked"] = masked

    def _path(self, path: str) -> str:
        segments = path.split("/")[1:]
        for pattern in self.paths:
            if _fits(pattern, segments):
                segments = _masked(pattern, segments)
        return "/" + "/".join(segments)


def _fits(pattern: Sequence[str], segments: Sequence[str]) -> bool:
    """Whether a path begins as the pattern says; ``*`` is one segment, ``**`` at the end all that follow."""
    if pattern[-1] == "**":
        return len(segments) >= len(pattern) and _begins(pattern[:-1], segments)
    return len(segments) >= len(pattern) and _begins(pattern, segments)


def _begins(pattern: Sequence[str], segments: Sequence[str]) -> bool:
    return all(part in ("*", each) for part, each in zip(pattern, segments, strict=False))


def _masked(pattern: Sequence[str], segments: Sequence[str]) -> list[str]:
    """All that ``**`` stands for is one mask: how much there is of it may say something, too."""
    shown = [
        MASKED if place < len(pattern) and pattern[place] == "*" else each
        for place, each in enumerate(segments)
    ]
    return [*shown[: len(pattern) - 1], MASKED] if pattern[-1] == "**" else shown
