"""Who may do what with which secrets, once it has been read and every name in it resolved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from vestibule.errors import Where
from vestibule.policy import Rule

VERBS: Final = ("read", "write", "list", "rotate", "use")
"""What can be done; ``use`` is to have something encrypted, signed, … with a key that stays inside."""

USED_IN: Final = "transit"
"""The only mount where anything can be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretGroup:
    """``secrets/NAME.yaml``: rules named ``NAME/rule-id``, without a port.

    A rule's methods are the verbs of ``VERBS`` (none: every verb), its paths ``SecretPath``.
    """

    name: str
    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()
    owner: str | None = None
    where: Where | None = field(default=None, compare=False, repr=False)
