"""What is said about tokens, and probably not meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vestibule.intent import codes
from vestibule.intent.model import Intent, IssuerKind
from vestibule.intent.problems import Problem, nearest, warning
from vestibule.intent.token_groups import EXCHANGE, TokenGroup
from vestibule.intent.token_targets import path_of
from vestibule.policy import IdentityMatch, Mode, Rule, TokenDemand


def over_broad(wide: Iterable[tuple[Rule, str]]) -> Iterator[Problem]:
    """Rules that give tokens to nearly everybody, who is said in words."""
    for rule, who in wide:
        if rule.when is None and rule.mode is not Mode.SHADOW and rule.methods != {EXCHANGE}:
            message = f"the rule {rule.name} lets {who} come by tokens"
            yield warning(codes.TOKENS_OVER_BROAD, message, rule.where)


def of_nobody(intent: Intent) -> Iterator[Problem]:
    """Groups that are made for nobody."""
    for group in intent.tokens.values():
        if not group.made_for:
            message = (
                f"nobody may ask what tokens of the group {group.name} say: there is no service of its name"
            )
            yield warning(codes.TOKENS_OF_NOBODY, message, group.where)


def unobtainable(intent: Intent) -> Iterator[Problem]:
    """Rules for calls whose token nobody can come by who may make the call."""
    own = {each.name for each in intent.mesh.issuers.values() if each.kind is IssuerKind.TOKENS}
    groups = {audience: each for each in intent.tokens.values() for audience in each.audiences}
    for service in intent.services.values() if own else ():
        for rule in service.allow:
            if rule.token is not None and rule.token.issuer in own:
                why = _why_unobtainable(rule, rule.token, groups)
                if why:
                    yield warning(
                        codes.TOKEN_UNOBTAINABLE, f"the rule {rule.name} demands a token {why}", rule.where
                    )


def _why_unobtainable(rule: Rule, demand: TokenDemand, groups: dict[str, TokenGroup]) -> str:
    group = groups.get(demand.audience)
    if group is None:
        close = nearest(demand.audience, groups)
        meant = f"; did you mean {close!r}?" if close else ""
        return f"for {demand.audience!r}, and no group of tokens has that audience{meant}"
    unknown = next((each for each in demand.scopes if each not in group.scopes), None)
    if unknown is not None:
        close = nearest(unknown, group.scopes)
        meant = f"; did you mean {close!r}?" if close else ""
        return f"with the scope {unknown!r}, which the group {group.name} does not have{meant}"
    for scope in demand.scopes or ("",):
        givers = [each for each in group.allow if _gives(each, demand.audience, scope)]
        with_scope = f" with the scope {scope!r}" if scope else ""
        if not givers:
            return f"for {demand.audience!r}{with_scope}, and no rule of {group.name} gives one"
        if demand.bound and not any(_meets(each, rule) for each in givers):
            return f"for {demand.audience!r}{with_scope}, and no rule of {group.name} gives one to any of its callers"
    return ""


def _gives(rule: Rule, audience: str, scope: str) -> bool:
    path = path_of(audience, scope)
    return rule.methods != {EXCHANGE} and any(each.matches(path) for each in rule.paths)


def _meets(one: Rule, other: Rule) -> bool:
    """Whether somebody may be meant by both."""
    if one.anyone or other.anyone:
        return True
    return any(_overlap(mine, theirs) for mine in one.callers for theirs in other.callers)


def _overlap(one: IdentityMatch, other: IdentityMatch) -> bool:
    return one.covers(other) or other.covers(one)
