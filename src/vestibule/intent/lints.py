"""What is allowed, and probably not meant: found by looking at rules side by side, without any traffic.

None of it keeps an intent from being used.  ``weaknesses`` are worth telling whenever an intent is checked; ``hints``
are for those who ask.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Final

from vestibule.intent import codes, token_lints
from vestibule.intent.model import Decide, Intent, Service
from vestibule.intent.problems import Problem, nearest, warning
from vestibule.intent.rule_index import MeetingIndex, RuleIndex
from vestibule.intent.secret_policies import secret_policy
from vestibule.intent.token_policies import token_policy
from vestibule.policy import Effect, IdentityMatch, Mode, Rule
from vestibule.policy.central import enforced_centrally, unjudged, why_central
from vestibule.policy.path_sets import EVERY_PATH
from vestibule.spiffe import SpiffeId

MOST_COMPARISONS: Final = 200_000
"""Of one service: rules are found by what they match; only rules that are made for it need more."""

MOST_TOLD: Final = 100
"""Of one kind and service."""

_LOOKING: Final = frozenset({"read", "list"})
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def weaknesses(intent: Intent, now: datetime) -> tuple[Problem, ...]:
    """Rules that allow nothing or nearly everything, and names that nobody has."""
    known = _Known(intent)
    places = intent.mesh.role_places
    found = [
        warning(codes.ROLE_UNUSED, f"no rule speaks of the role {name!r}", places.get(name))
        for name in sorted(intent.mesh.unused_roles)
    ]
    for allow, deny in _rules(intent):
        found += islice(_denied_whole(allow, deny), MOST_TOLD)
        found += islice(_over_broad(allow, known), MOST_TOLD)
        found += islice(_of_nobody((*allow, *deny), known, now), MOST_TOLD)
    if intent.mesh.decide is Decide.LOCAL:
        for service in intent.services.values():
            found += islice(_unjudged(service), MOST_TOLD)
    allow, deny = _of_secrets(intent)
    found += islice(_denied_whole(allow, deny), MOST_TOLD)
    found += islice(_opening_secrets(allow, known), MOST_TOLD)
    found += islice(_of_nobody((*allow, *deny), known, now), MOST_TOLD)
    return (*found, *_about_tokens(intent, known, now))


def _about_tokens(intent: Intent, known: _Known, now: datetime) -> Iterator[Problem]:
    policy = token_policy(intent)
    yield from islice(_denied_whole(policy.allow, policy.deny), MOST_TOLD)
    yield from islice(_of_nobody((*policy.allow, *policy.deny), known, now), MOST_TOLD)
    wide = ((rule, who) for rule in policy.allow if (who := _whom(rule, known)))
    yield from islice(token_lints.over_broad(wide), MOST_TOLD)
    yield from islice(token_lints.of_nobody(intent), MOST_TOLD)
    yield from islice(token_lints.unobtainable(intent), MOST_TOLD)


def hints(intent: Intent) -> tuple[Problem, ...]:
    """Rules that overlap, and denials of what nobody allows."""
    found: list[Problem] = []
    tokens = token_policy(intent)
    for allow, deny in (*_rules(intent), _of_secrets(intent), (tokens.allow, tokens.deny)):
        found += islice(_overlapping(allow), MOST_TOLD)
        found += islice(_denying_nothing(allow, deny), MOST_TOLD)
    return tuple(found)


def _rules(intent: Intent) -> Iterator[tuple[tuple[Rule, ...], tuple[Rule, ...]]]:
    for service in intent.services.values():
        yield service.allow, service.deny
    for external in intent.externals.values():
        yield external.allow, ()


def _of_secrets(intent: Intent) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
    policy = secret_policy(intent)
    return policy.allow, policy.deny


# ---------------------------------------------------------------------------------------- weaknesses


def _denied_whole(allow: Sequence[Rule], deny: Sequence[Rule]) -> Iterator[Problem]:
    denials = [rule for rule in deny if rule.mode is Mode.ENFORCE]
    index, compared = RuleIndex(denials), 0
    for rule in allow if denials else ():
        candidates = index.candidates(rule)
        compared += len(candidates)
        if compared > MOST_COMPARISONS:
            return
        if (why := next((each for each in candidates if denials[each].covers(rule)), None)) is not None:
            message = f"the rule {rule.name} allows nothing: {denials[why].name} denies all of it"
            yield warning(codes.DENIED_WHOLE, message, rule.where)


def _over_broad(allow: Iterable[Rule], known: _Known) -> Iterator[Problem]:
    for rule in allow:
        narrowed = rule.when or rule.token or rule.mcp or rule.mode is Mode.SHADOW
        reading = bool(rule.methods) and rule.methods <= _READING
        few = bool(rule.paths) and EVERY_PATH not in rule.paths
        if narrowed or reading or few:
            continue
        if rule.anyone:
            yield warning(codes.OVER_BROAD, f"the rule {rule.name} lets anyone make every call", rule.where)
        elif (wide := next((each for each in rule.callers if known.is_wide(each)), None)) is not None:
            message = f"the rule {rule.name} lets {wide}, which is every service here, make every call"
            yield warning(codes.OVER_BROAD, message, rule.where)


def _opening_secrets(allow: Iterable[Rule], known: _Known) -> Iterator[Problem]:
    for rule in allow:
        if rule.when or rule.mode is Mode.SHADOW:
            continue
        whole = next((path for path in rule.paths if path.below and len(path.segments) == 1), None)
        if who := _whom(rule, known):
            message = f"the rule {rule.name} lets {who} at {', '.join(map(str, rule.paths))}"
            yield warning(codes.SECRETS_OVER_BROAD, message, rule.where)
        elif whole is not None and not rule.methods <= _LOOKING:
            message = f"the rule {rule.name} lets its callers change all of {whole}"
            yield warning(codes.SECRETS_OVER_BROAD, message, rule.where)


def _whom(rule: Rule, known: _Known) -> str:
    """Whom a rule means that means nearly everybody; nobody, if it is others."""
    if rule.anyone:
        return "anyone"
    wide = next((each for each in rule.callers if known.is_wide(each)), None)
    return "" if wide is None else f"{wide}, which is every service here,"


def _of_nobody(rules: Iterable[Rule], known: _Known, now: datetime) -> Iterator[Problem]:
    for rule in rules:
        if rule.callers and not rule.anyone and not any(match.holds(now) for match in rule.callers):
            message = f"the rule {rule.name} names nobody: all memberships that it counts on have ended"
            yield warning(codes.NAMES_NOBODY, message, rule.where)
        for match in rule.callers:
            if not match.below and (name := known.missing(match.id)) is not None:
                close = nearest(name, known.names)
                meant = f"; did you mean {close!r}?" if close else ""
                message = f"the rule {rule.name} names {match.id}, and there is no service {name!r}{meant}"
                yield warning(codes.NAMES_NOBODY, message, rule.where)


def _unjudged(service: Service) -> Iterator[Problem]:
    rules = (*service.deny, *service.allow)
    trying = list(unjudged(rules))
    for port in service.ports.values() if trying else ():
        of_port = [rule for rule in rules if rule.port in (None, port.name)]
        if not port.protocol.is_http or any(enforced_centrally(of_port)):
            continue
        for rule in trying:
            if rule.port in (None, port.name):
                message = f"{why_central(rule)}: in shadow mode it is not judged on the port {port.name}"
                yield warning(codes.SHADOW_UNJUDGED, message, rule.where)


class _Known:
    """Who there is in the mesh."""

    def __init__(self, intent: Intent) -> None:
        self._services = [each.spiffe_id for each in intent.services.values()]
        self._ids = {*self._services, *(each.spiffe_id for each in intent.gateways.values())}
        self._wide: dict[IdentityMatch, bool] = {}
        self.names = [*intent.services, *intent.gateways]
        mesh = intent.mesh
        said = {"environment": mesh.environment, "mesh": mesh.name}
        path = re.sub(r"\{(environment|mesh)\}", lambda found: said[found[1]], mesh.identity_template)
        first, _, rest = path.partition("{service}")
        # The name once more would have to be the same name.
        again = re.escape(rest).replace(re.escape("{service}"), "(?P=name)")
        self._template = re.compile(f"{re.escape(first)}(?P<name>[a-z0-9-]+){again}")
        self._trust_domain = mesh.trust_domain

    def is_wide(self, match: IdentityMatch) -> bool:
        """Whether every service of the mesh is meant, of several."""
        if not match.below or len(self._services) < 2:
            return False
        if match not in self._wide:
            self._wide[match] = all(match.matches(each) for each in self._services)
        return self._wide[match]

    def missing(self, spiffe_id: SpiffeId) -> str | None:
        """The name of the service that would have this identity, if there is none that has."""
        if spiffe_id in self._ids or spiffe_id.trust_domain != self._trust_domain:
            return None
        found = self._template.fullmatch(spiffe_id.path)
        return found["name"] if found else None


# --------------------------------------------------------------------------------------------- hints


def _overlapping(allow: Sequence[Rule]) -> Iterator[Problem]:
    counting = [rule for rule in allow if rule.mode is Mode.ENFORCE and rule.effect is Effect.ALLOW]
    place = {id(rule): number for number, rule in enumerate(counting)}
    index, compared = MeetingIndex(counting), 0
    for rule in counting:
        for other in index.meeting(rule):
            compared += 1
            if place[id(other)] < place[id(rule)] and not (other.covers(rule) or rule.covers(other)):
                message = f"the rules {other.name} and {rule.name} allow some calls both"
                yield warning(codes.RULES_OVERLAP, message, rule.where)
                break
            if compared > MOST_COMPARISONS:
                return


def _denying_nothing(allow: Sequence[Rule], deny: Iterable[Rule]) -> Iterator[Problem]:
    index = MeetingIndex(allow)
    for rule in deny:
        if next(index.meeting(rule), None) is None:
            message = f"the rule {rule.name} denies what no rule allows"
            yield warning(codes.DENIES_NOTHING, message, rule.where)
