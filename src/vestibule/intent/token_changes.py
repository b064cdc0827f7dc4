"""Sets of tokens that somebody gains or loses, in words: of what the rules of a group say path by path."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from vestibule.intent.token_groups import ADMIT, VERBS
from vestibule.intent.token_targets import read_pattern
from vestibule.policy.differences import Calls

NO_SCOPE: Final = "no scope"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens for an audience with any of ``scopes`` or none; None: with any but those of ``but`` (``""`` is none).

    ``verbs`` are how they are come by, of ``admit`` with whose they are: ``admit:corp``.
    """

    audience: str
    verbs: tuple[str, ...]
    scopes: tuple[str, ...] | None
    but: tuple[str, ...] = ()
    condition: str = ""

    def __str__(self) -> str:
        return " ".join(
            filter(None, (how(self.verbs), "of tokens for", self.audience, self._with, self.condition))
        )

    @property
    def _with(self) -> str:
        if self.scopes is not None:
            return f"with {_listed(self.scopes)}" if self.scopes else "without a scope"
        return f"with any scope but {_listed(each or NO_SCOPE for each in self.but)}" if self.but else ""


def how(verbs: Iterable[str]) -> str:
    """``mint, admit (corp)``."""
    return _listed(f"{ADMIT} ({each.partition(':')[2]})" if ":" in each else each for each in verbs)


def grouped(found: Iterable[Calls]) -> list[tuple[Tokens, Calls]]:
    """What belongs together as one, with one of the calls that it is made of."""
    return sorted(
        _grouped(found), key=lambda each: ([_rank(verb) for verb in each[0].verbs], each[0].audience)
    )


def _grouped(found: Iterable[Calls]) -> Iterator[tuple[Tokens, Calls]]:
    kinds: dict[object, list[tuple[Tokens, Calls]]] = {}
    for calls in found:
        one = _of(calls)
        if one.scopes is None:
            yield one, calls
        else:
            kinds.setdefault((one.audience, one.verbs, one.condition, calls.rules), []).append((one, calls))
    for members in kinds.values():
        first, calls = max(members, key=lambda each: len(each[0].scopes or ()))
        scopes = tuple(sorted(scope for one, _ in members for scope in one.scopes or ()))
        yield (
            Tokens(audience=first.audience, verbs=first.verbs, scopes=scopes, condition=first.condition),
            calls,
        )


def _of(calls: Calls) -> Tokens:
    audience, scope = read_pattern(calls.paths.pattern)
    verbs = sorted(calls.methods.names, key=_rank)
    return Tokens(
        audience=audience or "anybody",
        verbs=tuple(verbs),
        scopes=None if scope is None else tuple(filter(None, (scope,))),
        but=tuple(sorted(read_pattern(each)[1] or "" for each in calls.paths.but)),
        condition=calls.condition,
    )


def _rank(verb: str) -> tuple[int, str]:
    return VERBS.index(verb.partition(":")[0]), verb


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(texts)
