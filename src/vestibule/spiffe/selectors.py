"""Selectors: what an attestor found out about a node or a workload, as ``type:value``."""

from __future__ import annotations

from dataclasses import dataclass

from vestibule.spiffe.codes import MALFORMED_SELECTOR


@dataclass(frozen=True, slots=True, order=True)
class Selector:
    """One finding; ``type`` is the attestor's name, ``value`` is the attestor's own text (``uid:1000``)."""

    type: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Read ``unix:uid:1000``.  Raises: VST1401."""
        type_, colon, value = text.partition(":")
        if not type_ or not colon or not value:
            raise MALFORMED_SELECTOR.error(f"{text!r} is not a selector of the form TYPE:VALUE")
        return cls(type_, value)

    def __str__(self) -> str:
        return f"{self.type}:{self.value}"


def covers(attested: frozenset[Selector], required: frozenset[Selector]) -> bool:
    """Whether a caller with the ``attested`` selectors satisfies an entry: all of ``required``, at least one."""
    return bool(required) and required <= attested
