"""Who may make which call by one intent and not by another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from vestibule.errors import Where
from vestibule.intent import plaintext
from vestibule.intent.model import Intent
from vestibule.intent.secret_groups import VERBS
from vestibule.intent.secret_policies import NAME, secret_policy
from vestibule.intent.token_changes import Tokens, grouped
from vestibule.policy import IdentityMatch, Rule
from vestibule.policy.differences import Calls, Permissions
from vestibule.policy.identities import BELOW
from vestibule.policy.path_sets import PathSet
from vestibule.spiffe import SpiffeId

OTHERS: Final = " (others)"
"""Follows a pattern of identities where those below it that have names of their own are not meant."""

EVERYBODY_ELSE: Final = "everybody else with an identity"
EVERYBODY: Final = "everybody with an identity"
"""Where ``from: anyone`` is meant."""

MOST_SHOWN: Final = 5
_STRANGER: Final = "others"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls, by the name that people know, with the identity by the old and by the new intent."""

    name: str
    before: SpiffeId | None
    after: SpiffeId | None


_NOBODY_NAMED: Final = SpiffeId.parse("spiffe://somebody.invalid/else")
"""Whom only ``anyone`` means: no trust domain can have this name (RFC 6761, section 6.4)."""
_ANYBODY: Final = Caller(name=plaintext.SHOWN, before=plaintext.ANYBODY, after=plaintext.ANYBODY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is called: a port of a service, or (without a port) a host outside, the secret manager or a group of tokens.

    ``sole``: the service has no other port, so that its name says enough.
    """

    name: str
    port: str = ""
    sole: bool = True
    secrets: bool = False
    tokens: bool = False

    @property
    def subject(self) -> str:
        """As people find it in the intent."""
        if self.tokens:
            return f"tokens {self.name}"
        return self.name if self.port or self.secrets else f"egress {self.name}"

    def __str__(self) -> str:
        return self.name if self.sole else f"{self.name}/{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessChange:
    """Some callers gain or lose some calls.  ``rules`` say where the rules that gave or give them are written.

    Of the token service ``calls`` is one of those that stand for ``tokens``.
    """

    callers: tuple[str, ...]
    target: Target
    gains: bool
    calls: Calls
    rules: Mapping[str, Where | None] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    tcp: bool = False
    tokens: Tokens | None = None

    def __str__(self) -> str:
        """A whole sentence: ``orders gains POST /v1/charges on payments``."""
        several = len(self.callers) > 1
        verb = ("gain" if self.gains else "lose") + ("" if several else "s")
        shown = list(self.callers)
        if len(shown) > MOST_SHOWN:
            shown[MOST_SHOWN - 1 :] = [f"{len(shown) - MOST_SHOWN + 1} more"]
        who = " and ".join((", ".join(shown[:-1]), shown[-1])) if several else shown[0]
        if self.tokens is not None:
            return f"{who} {verb} {self.tokens}"
        if self.target.secrets:
            return f"{who} {verb} {', '.join(verbs_of(self.calls))} on {paths_of(self.calls)}"
        what = "connections" if self.tcp else str(self.calls)
        return f"{who} {verb} {what} {'to' if self.tcp else 'on'} {self.target}"


def verbs_of(calls: Calls) -> tuple[str, ...]:
    """What may be done with secrets, of calls to the secret manager."""
    return tuple(each for each in VERBS if calls.methods.matches(each))


def paths_of(calls: Calls) -> str:
    """With which secrets, and under which condition."""
    paths = "every secret" if calls.paths == PathSet() else str(calls.paths).removeprefix("/")
    return " ".join(filter(None, (paths, calls.condition)))


def access_changes(old: Intent | None, new: Intent | None) -> tuple[AccessChange, ...]:
    """What is gained and what is lost, by target; callers with the same change together."""
    changes: list[AccessChange] = []
    members = _Members(_members(old), _members(new))
    for target in _targets(old, new):
        tcp = _is_tcp(new if _has(new, target) else old, target)
        before, after = _rules(old, target), _rules(new, target)
        if before != after or members.renamed:
            callers = list(_touched(members, before, after))
            changes += _changes(target, callers, before, after, gains=True, tcp=tcp)
            changes += _changes(target, callers, after, before, gains=False, tcp=tcp)
        before, after = _plain_rules(old, target), _plain_rules(new, target)
        if before != after:
            changes += _changes(target, (_ANYBODY,), before, after, gains=True, tcp=tcp)
            changes += _changes(target, (_ANYBODY,), after, before, gains=False, tcp=tcp)
    secrets = _group_changes(Target(name=NAME, secrets=True), _secret_rules(old), _secret_rules(new), members)
    return (*changes, *secrets, *_token_changes(old, new, members))


def _group_changes(
    target: Target, before: Sequence[Rule], after: Sequence[Rule], members: _Members
) -> Iterator[AccessChange]:
    if before == after and not members.renamed:
        return
    callers = list(_touched(members, before, after))
    yield from _changes(target, callers, before, after, gains=True, tcp=False)
    yield from _changes(target, callers, after, before, gains=False, tcp=False)


def _token_changes(old: Intent | None, new: Intent | None, members: _Members) -> Iterator[AccessChange]:
    """Group by group: no two of them speak of the same audience, unless one took it over."""
    groups = {name for each in (old, new) if each is not None for name in each.tokens}
    for name in sorted(groups):
        target = Target(name=name, tokens=True)
        changes = _group_changes(target, _token_rules(old, name), _token_rules(new, name), members)
        kinds: dict[tuple[object, ...], list[AccessChange]] = {}
        for each in changes:
            kinds.setdefault((each.callers, each.gains), []).append(each)
        for alike in kinds.values():
            by_calls = {each.calls: each for each in alike}
            for tokens, calls in grouped(by_calls):
                yield replace(by_calls[calls], tokens=tokens)


def _changes(
    target: Target,
    callers: Sequence[Caller],
    old: Sequence[Rule],
    new: Sequence[Rule],
    *,
    gains: bool,
    tcp: bool,
) -> Iterator[AccessChange]:
    grouped: dict[Calls, list[str]] = {}
    had, has = Permissions(old), Permissions(new)
    for caller in callers:
        ids = (caller.before, caller.after) if gains else (caller.after, caller.before)
        for calls in has.beyond(had, *ids):
            grouped.setdefault(calls, []).append(caller.name)
    places = {rule.name: rule.where for rule in new}
    for calls, names in grouped.items():
        rules = MappingProxyType({name: places.get(name) for name in calls.rules})
        yield AccessChange(
            callers=_joined(names), target=target, gains=gains, calls=calls, rules=rules, tcp=tcp
        )


def _joined(names: Sequence[str]) -> tuple[str, ...]:
    """An identity, and all others below it: together they are what people write."""
    if EVERYBODY_ELSE in names and len(names) > MOST_SHOWN:
        return (EVERYBODY,)
    whole = [each.removesuffix(OTHERS) for each in names if each.endswith(OTHERS)]
    met = {each for each in whole if each.removesuffix(BELOW) in names}
    bases = {each.removesuffix(BELOW) for each in met}
    return tuple(
        each.removesuffix(OTHERS) if each.removesuffix(OTHERS) in met else each
        for each in names
        if each not in bases
    )


# ----------------------------------------------------------------------------------------- who is meant


class _Members:
    """Services and gateways of both intents, by name and by identity."""

    def __init__(self, before: Mapping[str, SpiffeId], after: Mapping[str, SpiffeId]) -> None:
        self.callers = {
            name: Caller(
                name=name, before=before.get(name, after.get(name)), after=after.get(name, before.get(name))
            )
            for name in sorted({*before, *after})
        }
        self.renamed = any(each.before != each.after for each in self.callers.values())
        self.names: dict[SpiffeId, set[str]] = {}
        for caller in self.callers.values():
            for each in (caller.before, caller.after):
                if each is not None:
                    self.names.setdefault(each, set()).add(caller.name)

    def meant(self, matchers: Iterable[IdentityMatch]) -> list[Caller]:
        """Whom any of the matchers matches, by name."""
        found: set[str] = set()
        for match in matchers:
            found |= self.names.get(match.id, set())
            if match.below:
                found.update(*(names for each, names in self.names.items() if match.matches(each)))
        return [self.callers[name] for name in sorted(found)]


def _touched(members: _Members, before: Sequence[Rule], after: Sequence[Rule]) -> Iterator[Caller]:
    """Those of whom rules speak that are in one of the two only: of ten thousand rules few change at a time."""
    kept = {*before} & {*after}
    changed = Permissions(rule for rule in (*before, *after) if rule not in kept)
    for caller in _callers(members, (*before, *after)):
        ids = {each for each in (caller.before, caller.after) if each is not None}
        if caller.before != caller.after or any(changed.of(each) for each in ids):
            yield caller


def callers_of(intent: Intent, rules: Sequence[Rule]) -> Iterator[Caller]:
    """Everybody whom these rules of an intent can tell apart."""
    return _callers(_Members(_members(intent), _members(intent)), rules)


def _callers(members: _Members, rules: Sequence[Rule]) -> Iterator[Caller]:
    """Everybody whom the rules can tell apart: those they name, members of what they name below, and all the others.

    A service is one caller, whatever its identity; so renaming identities takes no call from anybody.
    """
    named = {(match.id, match.below) for rule in rules for match in rule.callers}
    matchers = sorted((IdentityMatch(id=each, below=below) for each, below in named), key=str)
    if any(rule.anyone for rule in rules):
        yield from members.callers.values()
        yield Caller(name=EVERYBODY_ELSE, before=_NOBODY_NAMED, after=_NOBODY_NAMED)
    else:
        yield from members.meant(matchers)
    alone = dict.fromkeys(match.id for match in matchers if match.id not in members.names)
    yield from (Caller(name=str(each), before=each, after=each) for each in alone)
    for match in matchers:
        if match.below:
            stranger = _stranger(match, (*members.names, *alone))
            yield Caller(name=f"{match}{OTHERS}", before=stranger, after=stranger)


def _stranger(match: IdentityMatch, known: Iterable[SpiffeId]) -> SpiffeId:
    """An ID right below a match's that nothing names: it stands for all of those."""
    taken = {str(each) for each in known}
    name = _STRANGER
    while any(each == f"{match.id}/{name}" or each.startswith(f"{match.id}/{name}/") for each in taken):
        name += "-"
    return SpiffeId.parse(f"{match.id}/{name}")


def _members(intent: Intent | None) -> dict[str, SpiffeId]:
    if intent is None:
        return {}
    services = {name: each.spiffe_id for name, each in intent.services.items()}
    gateways = {f"gateway {name}": each.spiffe_id for name, each in intent.gateways.items()}
    return services | gateways


# ---------------------------------------------------------------------------------------- what is called


def _targets(old: Intent | None, new: Intent | None) -> Iterator[Target]:
    intents = [each for each in (old, new) if each is not None]
    for name in sorted({name for each in intents for name in each.services}):
        ports = sorted(
            {port for each in intents if name in each.services for port in each.services[name].ports}
        )
        for port in ports:
            yield Target(name=name, port=port, sole=len(ports) == 1)
    for name in sorted({name for each in intents for name in each.externals}):
        yield Target(name=name)


def _rules(intent: Intent | None, target: Target) -> tuple[Rule, ...]:
    if intent is None or not _has(intent, target):
        return ()
    if not target.port:
        return intent.externals[target.name].allow
    service = intent.services[target.name]
    return (*service.denials_for(target.port), *service.rules_for(target.port))


def _secret_rules(intent: Intent | None) -> tuple[Rule, ...]:
    if intent is None or not intent.secrets:
        return ()
    policy = secret_policy(intent)
    return (*policy.deny, *policy.allow)


def _token_rules(intent: Intent | None, name: str) -> tuple[Rule, ...]:
    group = None if intent is None else intent.tokens.get(name)
    return () if group is None else (*group.deny, *group.allow)


def _plain_rules(intent: Intent | None, target: Target) -> tuple[Rule, ...]:
    if intent is None or not target.port or not _has(intent, target):
        return ()
    return plaintext.plaintext_rules(intent.services[target.name], target.port)


def _has(intent: Intent | None, target: Target) -> bool:
    if intent is None:
        return False
    if not target.port:
        return target.name in intent.externals
    return target.name in intent.services and target.port in intent.services[target.name].ports


def _is_tcp(intent: Intent | None, target: Target) -> bool:
    if intent is None:
        return False
    if not target.port:
        return intent.externals[target.name].protocol.value == "tcp"
    return not intent.services[target.name].ports[target.port].protocol.is_http
