"""One row of the failure map: how a failure shows, what it means, how to make sure, what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from vestibule.failures.layers import Layer
from vestibule.failures.symptom import Side, Symptom


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """One way in which a failure shows: everything that is given here has to hold.

    ``flags``: one of them is set.  ``details`` begins with one of the texts.  ``transport`` and ``text`` are regular
    expressions that are found somewhere, whatever the case.  ``status`` and ``code`` are one of those given.
    """

    flags: frozenset[str] = frozenset()
    details: tuple[str, ...] = ()
    transport: str = ""
    text: str = ""
    status: frozenset[int] = frozenset()
    code: frozenset[str] = frozenset()
    layer: str = ""
    side: Side | None = None
    encrypted: bool | None = None

    def shows_in(self, symptom: Symptom) -> bool:
        """Whether it is this; a symptom of an unknown side may be of either."""
        return (
            (not self.flags or bool(self.flags & symptom.flags))
            and (not self.details or symptom.details.startswith(self.details))
            and (not self.transport or _found(self.transport, symptom.transport))
            and (not self.text or _found(self.text, symptom.text))
            and (not self.status or symptom.status in self.status)
            and (not self.code or symptom.code in self.code)
            and (not self.layer or symptom.layer == self.layer)
            and self.side in (None, symptom.side)
            and self.encrypted in (None, symptom.encrypted)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """``name`` is stable: pages and programs refer to it.

    ``meaning`` says what happened, ``confirm`` how to make sure (commands stand in backquotes), ``fix`` what to do.
    ``example`` is how Envoy, or a client, says it.
    """

    name: str
    layer: Layer
    title: str
    meaning: str
    confirm: tuple[str, ...]
    fix: str
    example: str
    signs: tuple[Sign, ...]

    def explains(self, symptom: Symptom) -> bool:
        """Whether one of its signs shows."""
        return any(sign.shows_in(symptom) for sign in self.signs)


def _found(pattern: str, text: str) -> bool:
    return bool(text) and _compiled(pattern).search(text) is not None


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)
