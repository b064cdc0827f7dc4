"""Who may mint which token, read off an intent: what there is to prove of the token service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vestibule.clock import SystemClock
from vestibule.intent import Intent
from vestibule.tokens.access import IntentTokenAccess
from vestibule.tokens.ports import Asked, Verb


@dataclass(frozen=True, slots=True, order=True)
class TokenEdge:
    """``holder`` may mint a token for ``audience`` with ``scope`` (if any), by ``rule``; ``stranger`` may not."""

    audience: str
    scope: str
    holder: str
    stranger: str
    rule: str = ""


def mintable(intent: Intent, running: Iterable[str]) -> TokenEdge | None:
    """The first token that one running service may mint and another one may not."""
    return min(_edges(intent, sorted(running)), default=None) if intent.tokens else None


def _edges(intent: Intent, running: list[str]) -> Iterator[TokenEdge]:
    access = IntentTokenAccess(lambda: intent, SystemClock())
    for group in intent.tokens.values():
        for audience in group.audiences:
            for scope in group.scopes or ("",):
                decided = {
                    name: access.decide(
                        Asked(
                            client=intent.services[name].spiffe_id,
                            verb=Verb.MINT,
                            audience=audience,
                            scopes=(scope,) if scope else (),
                        )
                    )
                    for name in running
                }
                holders = [name for name, each in decided.items() if each.allowed]
                strangers = [name for name, each in decided.items() if not each.allowed]
                if holders and strangers:
                    rule = decided[holders[0]].rule or ""
                    yield TokenEdge(audience, scope, holders[0], strangers[0], rule)
