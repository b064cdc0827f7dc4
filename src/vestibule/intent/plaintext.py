"""What services allow in plain text, as rules about one caller who stands for all that have no identity."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from vestibule.intent.model import Service
from vestibule.policy import IdentityMatch, Rule
from vestibule.spiffe import SpiffeId

ANYBODY: Final = SpiffeId.parse("spiffe://plaintext.invalid/anybody")
"""No trust domain can have this name (RFC 6761, section 6.4)."""

SHOWN: Final = "anybody in plain text"


def plaintext_rules(service: Service, port: str) -> tuple[Rule, ...]:
    """The rules for calls in plain text to one of a service's ports."""
    permissive = service.traffic.permissive
    return tuple(
        replace(rule, callers=(IdentityMatch(id=ANYBODY),))
        for rule in (permissive.allow if permissive is not None else ())
        if rule.port in (None, port)
    )
