"""Engines as decision services keep them: one for each port's policy, made once for all who ask about it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from vestibule.policy.documents import from_bytes
from vestibule.policy.engine import Engine

KEPT: Final = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Decider:
    """An engine, and what is told with its verdicts: the intent's version, and whether callers learn the rule.

    ``trust_domain`` is the mesh's, whose own issuers are known by it.
    """

    engine: Engine
    trust_domain: str
    version: str = ""
    tells_rule: bool = False


class Engines:
    """Engines by the version of the bytes that they were made from."""

    def __init__(self, trust_domain: str) -> None:
        self._trust_domain = trust_domain
        self._made: OrderedDict[str, Decider] = OrderedDict()

    def of(self, version: str, policy: bytes) -> Decider:
        """The engine of a policy, made now if there is none yet.  Raises: VST4130."""
        known = self._made.get(version)
        if known is None:
            known = self._made[version] = Decider(Engine(from_bytes(policy)), self._trust_domain)
            if len(self._made) > KEPT:
                self._made.popitem(last=False)
        return known
