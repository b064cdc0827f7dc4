"""Who may read which secret, read off an intent: what there is to prove of the secret manager."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vestibule.intent import Intent
from vestibule.intent.secret_policies import secret_policy
from vestibule.policy import Call, Engine, Placeholder
from vestibule.spiffe import SpiffeId

_KEPT = "secret"


@dataclass(frozen=True, slots=True)
class SecretEdge:
    """``reader`` may read ``path``, and ``stranger`` may not: because of ``rule``, or since there is none."""

    reader: str
    stranger: str
    path: str
    rule: str = ""

    @property
    def url(self) -> str:
        """Where Vault's API has it."""
        mount, _, rest = self.path.partition("/")
        return f"/v1/{mount}/data/{rest}"


def readable(intent: Intent, running: Iterable[str]) -> SecretEdge | None:
    """The first secret that one running service may read and another one may not; who is forbidden it, if anybody."""
    if not intent.secrets:
        return None
    found = sorted(_edges(intent, sorted(running)), key=lambda each: (not each.rule, each.path, each.reader))
    return next(iter(found), None)


def _edges(intent: Intent, running: list[str]) -> Iterator[SecretEdge]:
    engine = Engine(secret_policy(intent))
    identities = {name: intent.services[name].spiffe_id for name in running}
    for path in sorted(set(_paths(engine))):
        verdicts = {name: _decided(engine, each, path) for name, each in identities.items()}
        readers = [name for name, (allowed, _) in verdicts.items() if allowed]
        for name, (allowed, rule) in verdicts.items():
            if readers and not allowed:
                yield SecretEdge(readers[0], name, path, rule)


def _decided(engine: Engine, caller: SpiffeId, path: str) -> tuple[bool, str]:
    decision = engine.decide(Call(caller=caller, port="", method="read", path=f"/{path}"))
    return decision.allowed, decision.rule or ""


def _paths(engine: Engine) -> Iterator[str]:
    """Exact paths of versioned secrets: of a pattern nobody knows what is there."""
    for rule in engine.policy.allow:
        for pattern in rule.paths:
            segments = pattern.segments
            exact = not pattern.below and not any(isinstance(each, Placeholder) for each in segments)
            if exact and len(segments) > 1 and segments[0] == _KEPT:
                yield "/".join(map(str, segments))
