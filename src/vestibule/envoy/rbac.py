"""Rules as Envoy matcher trees whose cost does not grow with the number of rules.

First what no rule can allow is refused: paths that are not normal.  Then come two trees, the one of denials and, where
it leads nowhere, the one of permissions.  A tree looks at the path, then the caller, then the method, each in one
map lookup; only what no map can hold (``{segment}`` in paths, times, conditions, tokens) is asked rule by rule, and
only of the rules that speak of this caller there.  See ``candidates`` for what stands where, and why.  For a caller
named in very many places, the path comes last (``frequent``).

Envoy's ``:path`` includes the query.  A path ``/p`` is therefore matched as ``/p`` and as ``/p?…``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2

from vestibule.envoy import cel, mcp, predicates, trees
from vestibule.envoy.candidates import (
    ANYONE,
    Asking,
    Choice,
    Key,
    Place,
    Places,
    Ranked,
    check_length,
    is_denial,
    is_wide,
)
from vestibule.envoy.frequent import Spot, about, frequent, methods_first, spots
from vestibule.envoy.tokens import NO_ISSUERS, Issuers
from vestibule.envoy.trees import OnMatch, Predicate
from vestibule.policy import NOT_NORMAL, Mode, PortPolicy, Rule
from vestibule.policy.codes import POLICY_TOO_LARGE

PLAINTEXT_ENDED: Final = "vestibule/plaintext-ended"
"""The name under which calls in plain text are refused when their time is over."""

MOST_BYTES: Final = 16 * 2**20
"""Of the rules of one port, which are sent to each of its proxies: twice what ten thousand usual ones need."""

SHADOW_PREFIX: Final = "vestibule_"
"""How the names begin under which Envoy keeps what shadow rules would have decided: counters, and metadata."""

# The opposite of policy.is_normal, on a path that may have a query.
_REFUSED: Final = (
    r"[^?]*(?:"
    r"[^A-Za-z0-9._~!$&'()*+,=:@/|^`{}\"<>\[\]%?-]"  # a character that no normal path has
    r"|%(?:[^0-9A-Fa-f]|[0-9A-Fa-f][^0-9A-Fa-f]|[0-9A-Fa-f]?$|2[fF]|5[cC]|00)"  # a bad escape, or an escaped slash
    r"|%(?:2[DdEe]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff]|7[Ee])"  # an escape that is not needed
    r"|//"
    r"|/\.{1,2}(?:[/?]|$)"  # a dot segment
    r").*|[^/].*|"
)


def http_rbac(policy: PortPolicy, issuers: Issuers = NO_ISSUERS) -> http_rbac_pb2.RBAC:
    """Denials, permissions of break-glass, rules that allow, in this order; else no.  The port speaks HTTP.

    Rules in shadow mode decide nothing; what they would have decided is kept for the access log.
    Raises: VST4050, VST4052.
    """
    config = http_rbac_pb2.RBAC.FromString(
        trees.field(_HTTP_MATCHER, trees.matcher_of(_http_root(policy, issuers, shadow=False)))
    )
    if has_shadows(policy):
        config.shadow_matcher.MergeFromString(trees.matcher_of(_http_root(policy, issuers, shadow=True)))
        config.shadow_rules_stat_prefix = SHADOW_PREFIX
    _check_size(policy, config.ByteSize())
    return config


def _check_size(policy: PortPolicy, size: int) -> None:
    """Raises: VST4052."""
    if size > MOST_BYTES:
        raise POLICY_TOO_LARGE.error(
            f"the rules of {policy.service}/{policy.port} are {size / 2**20:.1f} MiB when compiled; "
            f"{MOST_BYTES // 2**20} MiB are the most"
        )


def http_rbac_of_anybody(
    rules: Iterable[Rule], *, until: datetime | None = None, speaks_mcp: bool = False
) -> http_rbac_pb2.RBAC:
    """Allow what some rule allows, whoever asks; the rules name no callers.  From ``until`` on allow nothing.

    ``speaks_mcp``: what is no plain message of MCP is refused here, too.
    """
    everybody = [replace(rule, callers=(), anyone=True) for rule in rules if rule.mode is Mode.ENFORCE]
    tree = _tree(list(enumerate(everybody)), predicates.OfNobody(), None)
    if speaks_mcp:
        tree = trees.first_of(mcp.refusals(PortPolicy(service="", port="", allow=tuple(everybody))), tree)
    root = _guarded(tree, until)
    return http_rbac_pb2.RBAC.FromString(trees.field(_HTTP_MATCHER, trees.matcher_of(root)))


def has_shadows(policy: PortPolicy) -> bool:
    """Whether some rule only says what it would have decided."""
    return any(rule.mode is Mode.SHADOW for rule in (*policy.deny, *policy.allow))


_HTTP_MATCHER: Final = http_rbac_pb2.RBAC.DESCRIPTOR.fields_by_name["matcher"].number


def _http_root(policy: PortPolicy, issuers: Issuers, *, shadow: bool) -> OnMatch:
    denials, permissions = _ranked(policy, shadow=shadow)
    ask = predicates.OfRequests(policy, issuers)
    root = _tree(denials, ask, _tree(permissions, ask, None))
    return _guarded(trees.first_of(mcp.refusals(policy), root) if policy.is_mcp else root, None)


def _ranked(policy: PortPolicy, *, shadow: bool) -> tuple[list[Ranked], list[Ranked]]:
    """The rules that count, each with its place in the order in which they decide."""

    def counting(rules: Iterable[Rule]) -> list[Ranked]:
        return [(rank, rule) for rank, rule in enumerate(rules) if shadow or rule.mode is Mode.ENFORCE]

    return counting(policy.deny), counting((*policy.emergencies, *policy.allow))


def _guarded(root: OnMatch | None, until: datetime | None) -> OnMatch:
    """What is refused before any rule is looked at."""
    refused = [
        (trees.single(trees.header(":path"), trees.regex(_REFUSED)), trees.action(NOT_NORMAL, allow=False))
    ]
    if until is not None:
        refused.append((trees.negated(predicates.before(until)), trees.action(PLAINTEXT_ENDED, allow=False)))
    found = trees.first_of(refused, root)
    assert found is not None
    return found


def _tree(rules: Sequence[Ranked], ask: Asking, otherwise: OnMatch | None) -> OnMatch | None:
    """The first of the rules that matches, else ``otherwise``."""
    found, leaves = list(spots(Places.of(rules, ask), ask)), _Leaves()
    first = frequent(found)
    by_name = {
        key: _some(_of_caller([(spot, about(key, entries)) for spot, entries in found], leaves))
        for key in first
    }
    for key in first:
        for _, entries in found:
            entries.pop(key, None)
    everywhere = leaves.of(found[0][1], otherwise)
    rest = _by_path([(spot, leaves.of(entries)) for spot, entries in found[1:]], everywhere)
    return trees.exact_map(trees.caller(), by_name, rest)


def _of_caller(told: Sequence[tuple[Spot, tuple[Choice, ...]]], leaves: _Leaves) -> OnMatch | None:
    """What is said of one caller: by method, where that comes first, and by path."""
    told = [(spot, choices) for spot, choices in told if choices]
    methods = methods_first(choices for _, choices in told)
    if methods is None:
        return _by_path([(spot, leaves.once(choices)) for spot, choices in told], None)

    def of(method: str | None) -> OnMatch | None:
        left = ((spot, _with_method(choices, method)) for spot, choices in told)
        return _by_path([(spot, _by_message(choices, None, None)) for spot, choices in left if choices], None)

    rest = of(None)
    return trees.exact_map(trees.header(":method"), {each: _some(of(each)) for each in methods}, rest)


def _with_method(choices: Sequence[Choice], method: str | None) -> list[Choice]:
    """The rules that speak of a method; None stands for those that no rule names."""
    return [each for each in choices if not each.rule.methods or method in each.rule.methods]


def _by_path(found: Iterable[tuple[Spot, OnMatch | None]], otherwise: OnMatch | None) -> OnMatch | None:
    """Whole paths, then the longest beginning, then what is said of all of them."""
    beginnings: dict[str, OnMatch] = {}
    whole: dict[str, OnMatch] = {}
    for spot, then in found:
        if then is None:
            continue
        if spot.path is None:
            otherwise = then
        elif spot.whole:
            whole[spot.path] = beginnings[f"{spot.path}?"] = then
        else:
            beginnings[f"{spot.path}/"] = then
    source = trees.header(":path")
    return trees.exact_map(source, whole, trees.prefix_map(source, beginnings, otherwise))


class _Leaves:
    """What is looked at once the path is known.  Equal parts of one order of rules are made once."""

    def __init__(self) -> None:
        self._made: dict[tuple[Choice, ...], OnMatch] = {}

    def of(self, entries: dict[Key, tuple[Choice, ...]], otherwise: OnMatch | None = None) -> OnMatch | None:
        """By caller, then by method."""
        anyone = entries.pop(ANYONE, ())
        rest = _by_method(anyone, otherwise) if anyone else otherwise
        if (only := _only_choice(entries)) is not None:
            return _by_method((only,), rest, dict.fromkeys(entries, _action(only)))
        found = {key: self.once(choices) for key, choices in entries.items()}
        return _by_caller(found, rest)

    def once(self, choices: tuple[Choice, ...]) -> OnMatch:
        """What one entry says."""
        if (made := self._made.get(choices)) is None:
            made = self._made[choices] = _some(_by_method(choices, None))
        return made


def _only_choice(entries: Mapping[Key, tuple[Choice, ...]]) -> Choice | None:
    """The one rule of a place that names several callers and asks for more: it is then asked for once, not by caller.

    Every matcher costs the proxy kilobytes, and one with a condition many.
    """
    if len(entries) < 2 or len(set(entries.values())) > 1:
        return None
    choices = next(iter(entries.values()))
    plain = choices[0].is_certain and not choices[0].rule.methods
    return choices[0] if len(choices) == 1 and not plain else None


def _action(choice: Choice) -> OnMatch:
    return trees.action(choice.rule.name, allow=not is_denial(choice.rule))


def _by_caller(entries: Mapping[Key, OnMatch], otherwise: OnMatch | None) -> OnMatch | None:
    below = {key: found for key, found in entries.items() if is_wide(key)}
    exact = {key: found for key, found in entries.items() if not is_wide(key)}
    rest = trees.prefix_map(trees.caller(), below, otherwise)
    if len(exact) > _MANY_ALIKE:
        alike = _alike(exact)
        asked = [(trees.caller_among(keys), found) for found, keys in alike.items()]
        rest = trees.first_of(asked, rest)
        grouped = {key for keys in alike.values() for key in keys}
        exact = {key: found for key, found in exact.items() if key not in grouped}
    return trees.exact_map(trees.caller(), exact, rest)


_MANY_ALIKE: Final = 16
_MOST_GROUPS: Final = 32
"""From how many callers on of whom the same is asked that is written once, and how many such groups there may be.

A group is asked for by a pattern, which takes longer than a look into a map: worth it only where a map would be large.
"""


def _alike(exact: Mapping[Key, OnMatch]) -> dict[OnMatch, list[Key]]:
    """The largest groups of callers for whom the same stands in the map, by what that is."""
    groups: defaultdict[OnMatch, list[Key]] = defaultdict(list)
    for key, found in exact.items():
        groups[found].append(key)
    large = [(found, keys) for found, keys in groups.items() if len(keys) > _MANY_ALIKE]
    large.sort(key=lambda each: len(each[0]) * len(each[1]), reverse=True)
    return dict(large[:_MOST_GROUPS])


def _by_method(
    choices: Sequence[Choice], otherwise: OnMatch | None, callers: Mapping[Key, OnMatch] | None = None
) -> OnMatch | None:
    """By method, then by message, then one by one; ``callers`` where the caller is not known yet."""
    methods = sorted({method for each in choices for method in each.rule.methods})
    rest = _by_message([each for each in choices if not each.rule.methods], otherwise, callers)
    found = {
        method: _by_message(
            [each for each in choices if not each.rule.methods or method in each.rule.methods], None, callers
        )
        for method in methods
    }
    entries = {method: each for method, each in found.items() if each is not None}
    return trees.exact_map(trees.header(":method"), entries, rest)


def _by_message(
    choices: Sequence[Choice], otherwise: OnMatch | None, callers: Mapping[Key, OnMatch] | None
) -> OnMatch | None:
    """What is said in MCP is looked up where rules name it.  An entry holds all rules that speak of what it stands
    for, so that a miss below it leads to nothing that was not asked."""
    if all(each.said is None for each in choices):
        return _one_by_one(choices, otherwise, callers)
    messages = _Messages(choices)
    asking = any(each.asked for each in choices)
    if len(messages) * len(callers or "-") > (_FEW_MESSAGES if asking else _MANY_MESSAGES):
        asked = [_asking_what_is_said(each) for each in choices]
        check_length(asked)
        return _one_by_one(asked, otherwise, callers)

    def ask(found: Sequence[Choice]) -> OnMatch:
        return _some(_one_by_one(found, None, callers))

    rest = _one_by_one([each for each in choices if each.said is None], otherwise, callers)
    source = mcp.what_is_said()
    beginnings = {text: ask(messages.all_with(text)) for text in messages.beginnings}
    whole = {text: ask(messages.about(text)) for text in messages.whole}
    return trees.exact_map(source, whole, trees.prefix_map(source, beginnings, rest))


class _Messages:
    """Which of some rules speak of which messages."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        self._choices = [replace(each, said=None) for each in choices]
        self._of_all = [place for place, each in enumerate(choices) if each.said is None]
        self.whole: defaultdict[str, list[int]] = defaultdict(list)
        self.beginnings: defaultdict[str, list[int]] = defaultdict(list)
        for place, each in enumerate(choices):
            for text in each.said.whole if each.said is not None else ():
                self.whole[text].append(place)
            for text in each.said.beginnings if each.said is not None else ():
                self.beginnings[text].append(place)

    def __len__(self) -> int:
        return len(self.whole) + len(self.beginnings)

    def about(self, text: str) -> list[Choice]:
        """The rules that speak of a message, in their order."""
        return self._at({*self.whole[text], *self._with(text)})

    def all_with(self, beginning: str) -> list[Choice]:
        """The rules that speak of all messages with a beginning, in their order."""
        return self._at(self._with(beginning))

    def _with(self, text: str) -> set[int]:
        starts = (text[:end] for end in range(len(text) + 1))
        return {place for start in starts for place in self.beginnings.get(start, ())}

    def _at(self, places: set[int]) -> list[Choice]:
        return [self._choices[place] for place in sorted(places.union(self._of_all))]


_FEW_MESSAGES: Final = 200
_MANY_MESSAGES: Final = 50_000
"""How many entries are worth it: where rules ask for more, each of them holds a copy of that."""


def _asking_what_is_said(choice: Choice) -> Choice:
    if choice.said is None:
        return choice
    return replace(choice, asked=(mcp.is_said(choice.said), *choice.asked), said=None)


def _one_by_one(
    choices: Sequence[Choice], otherwise: OnMatch | None, callers: Mapping[Key, OnMatch] | None
) -> OnMatch | None:
    asked: list[tuple[Predicate, OnMatch]] = []
    for choice in choices:
        then = _action(choice) if callers is None else _some(_by_caller(callers, None))
        if choice.is_certain:
            return trees.first_of(asked, then)
        asked.append((trees.all_of(choice.asked), then))
    return trees.first_of(asked, otherwise)


def _some(found: OnMatch | None) -> OnMatch:
    assert found is not None
    return found


def plaintext_network_rbac(rules: Sequence[Rule], until: datetime) -> network_rbac_pb2.RBAC:
    """Deny connections from ``until`` on, and before that too unless there is a rule.

    The rules are those of one TCP port, for callers who are nobody.
    """
    config = network_rbac_pb2.RBAC(stat_prefix="tcp_plaintext")
    config.rules.action = rbac_pb2.RBAC.ALLOW
    if rules:
        _anybody_before(until, config.rules.policies[rules[0].name])
    return config


def network_rbac_until(end: datetime, name: str) -> network_rbac_pb2.RBAC:
    """Deny connections that come from ``end`` on; until then let all pass, by a rule of this name."""
    config = network_rbac_pb2.RBAC(stat_prefix="tcp_until")
    config.rules.action = rbac_pb2.RBAC.ALLOW
    _anybody_before(end, config.rules.policies[name])
    return config


def _anybody_before(end: datetime, policy: rbac_pb2.Policy) -> None:
    policy.permissions.add(any=True)
    policy.principals.add(any=True)
    policy.condition.CopyFrom(cel.before_as_expression(end))


def network_rbac(policy: PortPolicy) -> network_rbac_pb2.RBAC:
    """Deny connections that a rule denies or that none allows.  The port speaks TCP."""
    config = network_rbac_pb2.RBAC(stat_prefix="tcp")
    root = _connections(policy, shadow=False)
    if root is None:
        config.rules.CopyFrom(rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW))  # without policies: nobody
    else:
        config.matcher.MergeFromString(trees.matcher_of(root))
    if has_shadows(policy) or policy.emergencies:
        # Of this filter Envoy notes only what shadow rules decide: with break-glass open, they are the enforced ones.
        if (shadow := _connections(policy, shadow=not policy.emergencies)) is not None:
            config.shadow_matcher.MergeFromString(trees.matcher_of(shadow))
        else:
            config.shadow_rules.CopyFrom(rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW))
        config.shadow_rules_stat_prefix = SHADOW_PREFIX
    return config


def _connections(policy: PortPolicy, *, shadow: bool) -> OnMatch | None:
    denials, permissions = _ranked(policy, shadow=shadow)
    ask = predicates.OfConnections()
    denied, allowed = (Place.everywhere(each, ask).entries(ask) for each in (denials, permissions))
    # Each with leaves of its own: a denial and a permission may have the same place in their orders.
    return _Leaves().of(denied, _Leaves().of(allowed))
