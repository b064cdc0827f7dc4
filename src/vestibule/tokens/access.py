"""Who may come by which token, and whose tokens of others count, by the intent in force: see ``intent.rulings``.

What is asked for is one question for each scope, and one for the audience without any.  Of what the rules say that
decide, the narrowest holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import is_
from types import MappingProxyType
from typing import Final, TypeAlias

from vestibule.clock import Clock
from vestibule.intent import Intent
from vestibule.intent.model import Issuer
from vestibule.intent.rulings import Ruling, Rulings
from vestibule.intent.token_groups import TokenGroup
from vestibule.intent.token_policies import token_policy
from vestibule.intent.token_questions import deciding, method_of, paths_of
from vestibule.spiffe import SpiffeId
from vestibule.tokens.ports import Asked, OutsideIssuer, TokenDecision, Verb

MOST_KEPT: Final = 4096
"""Questions whose decision is kept, for as long as the rules say the same."""

_Key: TypeAlias = tuple[SpiffeId, Verb, str, str, tuple[str, ...]]
FetchedKeys = Callable[[], Mapping[str, str]]
"""The JWK sets that were fetched, by the address that they come from."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the rules answered, and what follows from it."""

    paths: Sequence[str]
    answers: Sequence[Ruling]
    decision: TokenDecision


class IntentTokenAccess:
    """``tokens.ports.TokenAccess``: follows the intent that ``intent`` returns, from the next question on."""

    def __init__(self, intent: Callable[[], Intent | None], clock: Clock) -> None:
        self._rulings = Rulings(intent, clock, token_policy)
        self._clock = clock
        self._groups = _Groups(None)
        self._kept: dict[_Key, _Kept] = {}

    @property
    def intent(self) -> Intent | None:
        """The intent that decides."""
        return self._rulings.intent

    def decide(self, asked: Asked) -> TokenDecision:
        method = method_of(asked.verb.value, asked.issuer)
        given = None if asked.verb is Verb.MINT else asked.subject
        key = (asked.client, asked.verb, asked.issuer, asked.audience, asked.scopes)
        kept = self._kept.get(key)
        paths = paths_of(asked.audience, asked.scopes) if kept is None else kept.paths
        answers = [self._rulings.ask(asked.client, method, path, given) for path in paths]
        if kept is not None and all(map(is_, kept.answers, answers)):  # the same answers, of the same intent
            return kept.decision
        decision = self._decided(asked, answers)
        if decision.allowed:  # whatever else is asked for has no end
            self._keep(key, _Kept(paths, answers, decision))
        return decision

    def _keep(self, key: _Key, kept: _Kept) -> None:
        if len(self._kept) >= MOST_KEPT:
            self._kept.clear()
        self._kept[key] = kept

    def owns(self, client: SpiffeId, audience: str) -> bool:
        group = self._known().of(audience)
        return group is not None and group.is_made_for(client, self._clock.now())

    def _known(self) -> _Groups:
        intent = self._rulings.intent
        if intent is not self._groups.intent:
            self._groups = _Groups(intent)
        return self._groups

    def _decided(self, asked: Asked, answers: Sequence[Ruling]) -> TokenDecision:
        counting = answers[1:] or answers
        number = deciding([each.allowed for each in answers])
        why, shadow = answers[number], all(_in_shadow(each) for each in counting)
        decision = TokenDecision(
            allowed=why.allowed,
            rule=why.rule,
            scope=asked.scopes[number - 1] if number and not why.allowed else None,
            commit=why.commit,
            where=why.where,
            shadow=None if shadow is why.allowed else shadow,
        )
        return self._known().granted(decision, asked.audience, counting) if why.allowed else decision


def _in_shadow(ruling: Ruling) -> bool:
    return ruling.allowed if ruling.shadow is None else ruling.shadow


class _Groups:
    """The groups of one intent, by their audiences."""

    def __init__(self, intent: Intent | None) -> None:
        self.intent = intent
        groups = () if intent is None else intent.tokens.values()
        self._by_audience = {audience: each for each in groups for audience in each.audiences}

    def of(self, audience: str) -> TokenGroup | None:
        return self._by_audience.get(audience)

    def granted(self, decision: TokenDecision, audience: str, rulings: Sequence[Ruling]) -> TokenDecision:
        """With what tokens are like that the rules give: of several, the narrowest."""
        group = self.of(audience)
        if group is None:
            return decision
        terms = group.narrowest(each.rule for each in rulings)
        return replace(
            decision,
            lasts=terms.lasts,
            may_act=terms.may_act,
            depth=group.depth,
            certificate=terms.certificate,
        )


class IntentIssuers:
    """``tokens.ports.OutsideIssuers``: those of the intent that ``intent`` returns, whose keys are known.

    ``fetched`` are the keys that issuers have at an address, as far as they were ever fetched.
    """

    def __init__(
        self, intent: Callable[[], Intent | None], fetched: FetchedKeys = lambda: MappingProxyType({})
    ) -> None:
        self._intent = intent
        self._fetched = fetched
        self._seen: Intent | None = None
        self._by_iss: dict[str, Issuer] = {}

    def of(self, issuer: str) -> OutsideIssuer | None:
        intent = self._intent()
        if intent is not None and intent is not self._seen:
            outside = (each for each in intent.mesh.issuers.values() if each.kind.is_outside)
            self._by_iss, self._seen = {each.issuer: each for each in outside}, intent
        found = self._by_iss.get(issuer)
        keys = "" if found is None else self._fetched().get(found.url, "") if found.url else found.keys
        if found is None or not keys:
            return None
        return OutsideIssuer(
            name=found.name, issuer=issuer, keys=keys, longest=found.longest, audiences=found.audiences
        )
