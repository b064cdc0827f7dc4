"""Tokens of the mesh's own service, known by their text: most rules ask for nothing but what stands first in them.

To hand rules a token's claims as metadata Envoy copies each of them twice, which is most of what a token costs.  One
that begins as one does that the port's rules may ask for is verified as any other; but what the filter tells of it is
its second part as it is, in base64url, as a header.  Rules look how that begins.  All others go the other way.

Nobody but the filter can say that header: no request may have a name that begins with a colon, whichever HTTP it
speaks.  Nor does it go on to the app: a request in HTTP/1.1 has none such either, and Envoy leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from xds.type.matcher.v3 import string_pb2

from vestibule.envoy import trees
from vestibule.envoy.trees import Predicate
from vestibule.intent.model import Issuer, IssuerKind, Protocol
from vestibule.pki.token_texts import HEADER_BEGINS, beginning
from vestibule.policy import Mode, PortPolicy, Rule, TokenDemand

HEADER: Final = ":vestibule-claims"
"""In which the claims of a token stand that was verified and is known by its text."""

TEXT_BEGINS: Final = "e"
"""How that begins, of whatever token: with a ``{``."""

BEARER: Final = f"Bearer {HEADER_BEGINS}"
"""How an Authorization header begins with one of our access tokens: they say what they are (RFC 9068, section 2.1)."""

IS_KNOWN: Final = trees.single(trees.header(HEADER), string_pb2.StringMatcher(prefix=TEXT_BEGINS))
"""Whether a request's token was known by its text, so that nothing else is told of it."""

FEW_CALLERS: Final = 8
"""For so many callers a rule's token is asked for with the caller's name."""

_TOKEN: Final = "token."  # noqa: S105 - how names in conditions begin


@dataclass(frozen=True, slots=True)
class TokenText:
    """``issuer`` is the token service's name in rules, ``says`` what its tokens have as ``iss``.

    ``scopes`` are the lists of scopes that a token may have to be known by its text: just these, in their order.
    """

    issuer: str
    says: str
    audience: str
    scopes: tuple[tuple[str, ...], ...]

    def contained(self) -> Iterator[str]:
        """What stands in the Authorization header: all that rules could ask for is known where one of them does."""
        for each in self.scopes:
            yield f".{beginning(self.says, self.audience, each)}"

    def is_met(self, demand: TokenDemand, caller: str) -> Predicate:
        """Whether a token is known by its text, and is what is demanded of this caller."""
        client = caller if demand.bound else ""
        good = (each for each in self.scopes if set(demand.scopes) <= set(each))
        texts = (beginning(self.says, self.audience, each, client) for each in good)
        said = trees.header(HEADER)
        return trees.any_of([trees.single(said, string_pb2.StringMatcher(prefix=text)) for text in texts])


def is_kept_from(protocol: Protocol) -> bool:
    """Whether the header stays here, where an app speaks this."""
    return protocol in (Protocol.HTTP, Protocol.MCP)


@lru_cache(maxsize=4096)
def of_port(policy: PortPolicy, issuers: tuple[Issuer, ...]) -> TokenText | None:
    """By which text tokens are known at a port; None if some rule asks for more than can be seen of it."""
    rules = (*policy.deny, *policy.emergencies, *policy.allow)
    demands = [(rule, rule.token) for rule in rules if rule.token is not None]
    if len({(each.issuer, each.audience) for _, each in demands}) != 1 or any(map(_asks_claims, rules)):
        return None
    if any(rule.token is not None for rule in (*policy.deny, *policy.emergencies)):
        return None
    if all(rule.mode is not Mode.ENFORCE for rule, _ in demands):
        return None
    demand = demands[0][1]
    issuer = next((each for each in issuers if each.name == demand.issuer), None)
    if issuer is None or issuer.kind is not IssuerKind.TOKENS or not (issuer.issuer and issuer.keys):
        return None
    scopes = _lists(each.scopes for _, each in demands)
    return TokenText(issuer.name, issuer.issuer, demand.audience, scopes)


def _asks_claims(rule: Rule) -> bool:
    """Whether a rule asks for what the beginning of a token does not say, or not for each caller by name."""
    if rule.when is not None and any(each.startswith(_TOKEN) for each in rule.when.uses):
        return True
    demand = rule.token
    if demand is None:
        return False
    few = (
        len(rule.callers) <= FEW_CALLERS and not rule.anyone and not any(each.below for each in rule.callers)
    )
    return bool(demand.claims or demand.svid or demand.certificate) or (demand.bound and not few)


_MOST_LISTS: Final = 8


def _lists(demanded: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """What each demand asks for, and all of them together, as a proxy does that gets tokens for its app."""
    each = tuple(dict.fromkeys(demanded))
    everything = tuple(sorted({scope for scopes in each for scope in scopes}))
    found = dict.fromkeys(tuple(sorted(scopes)) for scopes in each)
    return tuple(dict.fromkeys((*found, everything, *each)))[:_MOST_LISTS]
