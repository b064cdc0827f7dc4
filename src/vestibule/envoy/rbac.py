"""Allow rules as Envoy matcher trees whose cost does not grow with the number of rules.

A tree looks at the path, then the method, then the caller, each in one map lookup.  Every node holds *all* the
rules that can apply there, those of shorter prefixes included, so nothing depends on what a proxy does after
a deeper node finds no match.  Only patterns with ``{segment}`` are tried one by one, and only among those with the
same literal beginning.

Envoy's ``:path`` includes the query.  A path ``/p`` is therefore matched as ``/p`` and as ``/p?…``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from envoy.extensions.matching.common_inputs.ssl.v3 import ssl_inputs_pb2
from envoy.type.matcher.v3 import http_inputs_pb2
from google.protobuf.message import Message
from xds.core.v3.extension_pb2 import TypedExtensionConfig
from xds.type.matcher.v3 import regex_pb2, string_pb2
from xds.type.matcher.v3.matcher_pb2 import Matcher

from vestibule.envoy import cel
from vestibule.envoy.protos import packed
from vestibule.policy import PathPattern, Placeholder, Rule

NOT_NORMAL: Final = "vestibule/path-not-normal"
"""The name under which paths are refused before rules are looked at."""

PLAINTEXT_ENDED: Final = "vestibule/plaintext-ended"
"""The name under which calls in plain text are refused when their time is over."""

_QUERY: Final = r"(?:\?.*)?"
# The opposite of policy.is_normal, on a path that may have a query.
_REFUSED: Final = (
    r"[^?]*(?:"
    r"[^A-Za-z0-9._~!$&'()*+,=:@/|^`{}\"<>\[\]%?-]"  # a character that no normal path has
    r"|%(?:[^0-9A-Fa-f]|[0-9A-Fa-f][^0-9A-Fa-f]|[0-9A-Fa-f]?$|2[fF]|5[cC]|00)"  # a bad escape, or an escaped slash
    r"|//"
    r"|/(?:\.|%2[eE]){1,2}(?:[/?]|$)"  # a dot segment
    r").*|[^/].*|"
)

_Named = tuple[int, str]
"""A rule's place in the intent, which decides what name is given where several rules allow, and its name."""


def http_rbac(
    rules: Sequence[Rule], *, by_caller: bool = True, until: datetime | None = None
) -> http_rbac_pb2.RBAC:
    """Deny what no rule allows; refuse paths that are not normal.  The rules are those of one HTTP port.

    Unless ``by_caller``, whoever calls is one whom all the rules name.  From ``until`` on nothing is allowed.
    """
    refuse = [
        Matcher.MatcherList.FieldMatcher(
            predicate=_single(_header(":path"), _regex(_REFUSED)), on_match=_action(NOT_NORMAL, allow=False)
        )
    ]
    if until is not None:
        refuse.append(
            Matcher.MatcherList.FieldMatcher(
                predicate=Matcher.MatcherList.Predicate(not_matcher=cel.before(until)),
                on_match=_action(PLAINTEXT_ENDED, allow=False),
            )
        )
    matcher = Matcher(matcher_list=Matcher.MatcherList(matchers=refuse))
    paths = _Paths.of(rules, by_caller=by_caller).tree()
    if paths is not None:
        matcher.on_no_match.CopyFrom(paths)
    return http_rbac_pb2.RBAC(matcher=matcher)


def plaintext_network_rbac(rules: Sequence[Rule], until: datetime) -> network_rbac_pb2.RBAC:
    """Deny connections from ``until`` on, and before that too unless there is a rule.

    The rules are those of one TCP port, for callers who are nobody.
    """
    config = network_rbac_pb2.RBAC(stat_prefix="tcp_plaintext")
    config.rules.action = rbac_pb2.RBAC.ALLOW
    if rules:
        policy = config.rules.policies[rules[0].name]
        policy.permissions.add(any=True)
        policy.principals.add(any=True)
        policy.condition.CopyFrom(cel.before_as_expression(until))
    return config


def network_rbac(rules: Sequence[Rule]) -> network_rbac_pb2.RBAC:
    """Deny connections of callers that no rule names.  The rules are those of one TCP port."""
    callers = _callers(list(enumerate(rules)))
    config = network_rbac_pb2.RBAC(stat_prefix="tcp")
    if callers is None:
        config.rules.CopyFrom(rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW))  # without policies: nobody
    else:
        config.matcher.CopyFrom(callers.matcher)
    return config


_Ranked = list[tuple[int, Rule]]


@dataclass(frozen=True, slots=True)
class _Paths:
    """Rules by the paths they speak of."""

    by_caller: bool = True
    anywhere: _Ranked = field(default_factory=list)
    exact: defaultdict[str, _Ranked] = field(default_factory=lambda: defaultdict(list))
    below: defaultdict[str, _Ranked] = field(default_factory=lambda: defaultdict(list))
    patterns: defaultdict[str, list[tuple[int, Rule, PathPattern]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    @classmethod
    def of(cls, rules: Sequence[Rule], *, by_caller: bool = True) -> _Paths:
        paths = cls(by_caller=by_caller)
        for rank, rule in enumerate(rules):
            if not rule.paths:
                paths.anywhere.append((rank, rule))
            for pattern in rule.paths:
                if not pattern.is_literal:
                    paths.patterns[pattern.literal].append((rank, rule, pattern))
                elif pattern.below:
                    paths.below[pattern.literal].append((rank, rule))
                else:
                    paths.exact[pattern.literal].append((rank, rule))
        return paths

    def tree(self) -> Matcher.OnMatch | None:
        everywhere = _methods(self.anywhere, self.by_caller)
        whole, beginnings = self._whole_paths(), self._beginnings()
        with_query = {f"{path}?": found for path, found in whole.items()}
        prefixes = _map(_header(":path"), {**beginnings, **with_query}, everywhere, prefix=True)
        return _map(_header(":path"), whole, prefixes)

    def _whole_paths(self) -> dict[str, Matcher.OnMatch]:
        """Every path that is written out in some rule (``/a`` is, in ``/a/**``)."""
        paths = {*self.exact, *(literal for literal in self.below if literal)}
        found = {path: _methods(self._allowing(path), self.by_caller) for path in paths}
        return {path: matched for path, matched in found.items() if matched is not None}

    def _allowing(self, path: str) -> _Ranked:
        """All rules that speak of one path."""
        ranked = [*self.anywhere, *self.exact.get(path, ()), *self.below.get(path, ())]
        for above in _above(path):
            ranked += self.below.get(above, ())
            ranked += [
                (rank, rule) for rank, rule, each in self.patterns.get(above, ()) if each.matches(path)
            ]
        return ranked

    def _beginnings(self) -> dict[str, Matcher.OnMatch]:
        """What is allowed below a literal beginning, where no whole path is written out."""
        found: dict[str, Matcher.OnMatch] = {}
        for start in {*self.below, *self.patterns}:
            ranked, patterns = [*self.anywhere], list[tuple[int, Rule, PathPattern]]()
            for above in (start, *_above(start)):
                ranked += self.below.get(above, ())
                patterns += self.patterns.get(above, ())
            matched = _one_by_one(patterns, _methods(ranked, self.by_caller), self.by_caller)
            if matched is not None:
                found[f"{start}/"] = matched
        return found


def _above(path: str) -> Iterable[str]:
    """``/a/b`` → ``/a``, ``""``."""
    while path:
        path = path.rpartition("/")[0]
        yield path


def _one_by_one(
    patterns: Iterable[tuple[int, Rule, PathPattern]], otherwise: Matcher.OnMatch | None, by_caller: bool
) -> Matcher.OnMatch | None:
    """Rules whose paths need a regular expression; each entry asks everything that its rule asks."""
    regexes: defaultdict[_Named, list[str]] = defaultdict(list)
    ruled: dict[_Named, Rule] = {}
    for rank, rule, pattern in patterns:
        regexes[rank, rule.name].append(_regex_of(pattern))
        ruled[rank, rule.name] = rule
    if not regexes:
        return otherwise
    matchers = [
        Matcher.MatcherList.FieldMatcher(
            predicate=_all(
                _single(_header(":path"), _regex("|".join(f"(?:{each})" for each in regexes[named]))),
                *_method_predicates(ruled[named]),
                *([_caller_predicate(ruled[named])] if by_caller else []),
            ),
            on_match=_action(named[1]),
        )
        for named in sorted(regexes)
        if ruled[named].callers or not by_caller
    ]
    if not matchers:
        return otherwise
    matcher = Matcher(matcher_list=Matcher.MatcherList(matchers=matchers))
    if otherwise is not None:
        matcher.on_no_match.CopyFrom(otherwise)
    return Matcher.OnMatch(matcher=matcher)


def _regex_of(pattern: PathPattern) -> str:
    """The pattern on a path that may have a query, so that no part of it reaches into the query."""
    segments = ("[^/?]+" if isinstance(each, Placeholder) else re.escape(each) for each in pattern.segments)
    return "".join(f"/{each}" for each in segments) + (r"(?:/[^?]*)?" if pattern.below else "") + _QUERY


def _method_predicates(rule: Rule) -> list[Matcher.MatcherList.Predicate]:
    if not rule.methods:
        return []
    return [
        _any(
            *(
                _single(_header(":method"), string_pb2.StringMatcher(exact=each))
                for each in sorted(rule.methods)
            )
        )
    ]


def _caller_predicate(rule: Rule) -> Matcher.MatcherList.Predicate:
    wanted = [string_pb2.StringMatcher(exact=str(match.id)) for match in rule.callers]
    wanted += [string_pb2.StringMatcher(prefix=f"{match.id}/") for match in rule.callers if match.below]
    return _any(*(_single(_uri_san(), each) for each in wanted))


def _methods(ranked: _Ranked, by_caller: bool) -> Matcher.OnMatch | None:
    callers = _callers if by_caller else _whoever
    any_method = [(rank, rule) for rank, rule in ranked if not rule.methods]
    otherwise = callers(any_method)
    named = sorted({method for _, rule in ranked for method in rule.methods})
    found = {
        method: callers([(rank, rule) for rank, rule in ranked if not rule.methods or method in rule.methods])
        for method in named
    }
    return _map(_header(":method"), {each: on for each, on in found.items() if on is not None}, otherwise)


def _whoever(ranked: _Ranked) -> Matcher.OnMatch | None:
    return _action(min(ranked, key=lambda each: each[0])[1].name) if ranked else None


def _callers(ranked: _Ranked) -> Matcher.OnMatch | None:
    exact: dict[str, _Named] = {}
    below: dict[str, _Named] = {}
    for rank, rule in sorted(ranked, key=lambda each: each[0]):
        for match in rule.callers:
            exact.setdefault(str(match.id), (rank, rule.name))
            if match.below:
                below.setdefault(str(match.id), (rank, rule.name))

    def first(text: str, own: Iterable[_Named]) -> Matcher.OnMatch:
        candidates = [*own, *(below[each] for each in _above(text) if each in below)]
        return _action(min(candidates)[1])

    prefixes = {f"{text}/": first(text, [own]) for text, own in below.items()}
    whole = {text: first(text, [own]) for text, own in exact.items()}
    return _map(_uri_san(), whole, _map(_uri_san(), prefixes, None, prefix=True))


def _map(
    source: TypedExtensionConfig,
    entries: Mapping[str, Matcher.OnMatch],
    otherwise: Matcher.OnMatch | None,
    *,
    prefix: bool = False,
) -> Matcher.OnMatch | None:
    if not entries:
        return otherwise
    tree = Matcher.MatcherTree(input=source)
    target = tree.prefix_match_map if prefix else tree.exact_match_map
    for key, matched in entries.items():
        target.map[key].CopyFrom(matched)
    matcher = Matcher(matcher_tree=tree)
    if otherwise is not None:
        matcher.on_no_match.CopyFrom(otherwise)
    return Matcher.OnMatch(matcher=matcher)


def _action(name: str, *, allow: bool = True) -> Matcher.OnMatch:
    verdict = rbac_pb2.RBAC.ALLOW if allow else rbac_pb2.RBAC.DENY
    return Matcher.OnMatch(action=_extension("action", rbac_pb2.Action(name=name, action=verdict)))


def _header(name: str) -> TypedExtensionConfig:
    return _extension(name, http_inputs_pb2.HttpRequestHeaderMatchInput(header_name=name))


def _uri_san() -> TypedExtensionConfig:
    return _extension("caller", ssl_inputs_pb2.UriSanInput())


def _regex(regex: str) -> string_pb2.StringMatcher:
    matcher = regex_pb2.RegexMatcher(regex=regex, google_re2=regex_pb2.RegexMatcher.GoogleRE2())
    return string_pb2.StringMatcher(safe_regex=matcher)


def _single(source: TypedExtensionConfig, value: string_pb2.StringMatcher) -> Matcher.MatcherList.Predicate:
    single = Matcher.MatcherList.Predicate.SinglePredicate(input=source, value_match=value)
    return Matcher.MatcherList.Predicate(single_predicate=single)


def _any(*predicates: Matcher.MatcherList.Predicate) -> Matcher.MatcherList.Predicate:
    if len(predicates) == 1:
        return predicates[0]
    return Matcher.MatcherList.Predicate(
        or_matcher=Matcher.MatcherList.Predicate.PredicateList(predicate=predicates)
    )


def _all(*predicates: Matcher.MatcherList.Predicate) -> Matcher.MatcherList.Predicate:
    if len(predicates) == 1:
        return predicates[0]
    return Matcher.MatcherList.Predicate(
        and_matcher=Matcher.MatcherList.Predicate.PredicateList(predicate=predicates)
    )


def _extension(name: str, config: Message) -> TypedExtensionConfig:
    return TypedExtensionConfig(name=name, typed_config=packed(config))
