"""Who may come by which token, once it has been read and every name in it resolved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from vestibule.errors import Where
from vestibule.policy import IdentityMatch, Rule
from vestibule.spiffe import SpiffeId

MINT: Final = "mint"
EXCHANGE: Final = "exchange"
RECEIVE: Final = "receive"
ADMIT: Final = "admit"
VERBS: Final = (MINT, EXCHANGE, RECEIVE, ADMIT)
"""What is done to come by a token (``tokens.ports.Verb``).  Of ``admit`` rules say from whom, too: ``admit:corp``."""

DEFAULT_LASTS: Final = timedelta(minutes=10)
LEAST_LASTS: Final = timedelta(minutes=1)
MOST_LASTS: Final = timedelta(minutes=15)
DEFAULT_DEPTH: Final = 4
MOST_DEPTH: Final = 10
"""Each of them is looked for among those that are revoked, with each request; a token can be nested no deeper than
``tokens.jwts.DEEPEST``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTerms:
    """What tokens are like that a rule gives.

    ``lasts`` is their longest life; ``may_act`` who may exchange them without a rule of its own (RFC 8693, section
    4.4); ``certificate``: they are bound to the certificate of whoever gets them (RFC 8705, section 3).
    """

    lasts: timedelta = DEFAULT_LASTS
    may_act: SpiffeId | None = None
    certificate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenGroup:
    """``tokens/NAME.yaml``: rules named ``NAME/rule-id``, without a port.

    A rule's methods are verbs (none: every verb), its paths those of ``token_targets``.  ``made_for`` are those who may
    ask what a token says (RFC 7662), ``depth`` is how many actors a chain may have.  ``terms`` are by the names of
    rules under ``allow``.
    """

    name: str
    audiences: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    made_for: tuple[IdentityMatch, ...] = ()
    depth: int = DEFAULT_DEPTH
    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()
    terms: Mapping[str, TokenTerms] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    owner: str | None = None
    where: Where | None = field(default=None, compare=False, repr=False)

    def narrowest(self, rules: Iterable[str | None]) -> TokenTerms:
        """What a token is like that several rules give together; who may act with it is whom all of them name."""
        terms = [self.terms.get(each or "", TokenTerms()) for each in rules]
        may_act = {each.may_act for each in terms}
        return TokenTerms(
            lasts=min(each.lasts for each in terms),
            may_act=may_act.pop() if len(may_act) == 1 else None,
            certificate=any(each.certificate for each in terms),
        )

    def is_made_for(self, spiffe_id: SpiffeId, now: datetime) -> bool:
        """Whether the group's tokens are made for somebody, now."""
        return any(match.holds(now) and match.matches(spiffe_id) for match in self.made_for)
