"""Which requests a route is for, in Envoy's words.

Envoy's router looks at the path without its query, as the caller's proxy has normalised it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from envoy.config.route.v3 import route_components_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2

from vestibule.intent.traffic import RouteMatch, ValueMatch
from vestibule.policy import PathPattern


def every() -> route_components_pb2.RouteMatch:
    """Every request (CONNECT aside, which is none with a path)."""
    return route_components_pb2.RouteMatch(prefix="/")


def is_every(match: RouteMatch) -> bool:
    """Whether nothing gets past this match."""
    anywhere = match.path is None or (match.path.below and not match.path.segments)
    return anywhere and not (match.methods or match.headers or match.query)


def match(wanted: RouteMatch) -> route_components_pb2.RouteMatch:
    """All that a route asks of a request; its hosts aside, which virtual hosts take care of."""
    found = _path(wanted.path)
    found.headers.extend(_methods(sorted(wanted.methods)))
    for each in wanted.headers:
        found.headers.append(_header(each))
    for each in wanted.query:
        if each.absent:
            found.headers.append(_without_parameter(each.name))
        else:
            found.query_parameters.append(_parameter(each))
    return found


def _path(pattern: PathPattern | None) -> route_components_pb2.RouteMatch:
    if pattern is None or (pattern.below and not pattern.segments):
        return every()
    if not pattern.is_literal:
        return route_components_pb2.RouteMatch(safe_regex=regex(pattern.regex))
    if pattern.below:
        return route_components_pb2.RouteMatch(path_separated_prefix=pattern.literal)
    return route_components_pb2.RouteMatch(path=pattern.literal)


def _methods(methods: list[str]) -> Iterable[route_components_pb2.HeaderMatcher]:
    if len(methods) == 1:
        exact = string_pb2.StringMatcher(exact=methods[0])
        yield route_components_pb2.HeaderMatcher(name=":method", string_match=exact)
    elif methods:
        any_of = string_pb2.StringMatcher(safe_regex=regex("|".join(map(re.escape, methods))))
        yield route_components_pb2.HeaderMatcher(name=":method", string_match=any_of)


def _header(wanted: ValueMatch) -> route_components_pb2.HeaderMatcher:
    if (value := _value(wanted)) is not None:
        return route_components_pb2.HeaderMatcher(name=wanted.name, string_match=value)
    return route_components_pb2.HeaderMatcher(
        name=wanted.name, present_match=True, invert_match=wanted.absent
    )


def _parameter(wanted: ValueMatch) -> route_components_pb2.QueryParameterMatcher:
    if (value := _value(wanted)) is not None:
        return route_components_pb2.QueryParameterMatcher(name=wanted.name, string_match=value)
    return route_components_pb2.QueryParameterMatcher(name=wanted.name, present_match=True)


def _without_parameter(name: str) -> route_components_pb2.HeaderMatcher:
    # Envoy's matchers of parameters cannot be inverted, those of headers can.
    present = string_pb2.StringMatcher(safe_regex=regex(rf"[^?]*\?(?:.*&)?{re.escape(name)}(?:[=&].*)?"))
    return route_components_pb2.HeaderMatcher(name=":path", string_match=present, invert_match=True)


def _value(wanted: ValueMatch) -> string_pb2.StringMatcher | None:
    if wanted.absent:
        return None
    if wanted.equals is not None:
        return string_pb2.StringMatcher(exact=wanted.equals)
    if wanted.prefix:
        return string_pb2.StringMatcher(prefix=wanted.prefix)
    return None


def regex(text: str) -> regex_pb2.RegexMatcher:
    """A regular expression that must match the whole."""
    return regex_pb2.RegexMatcher(regex=text)


def path_header(pattern: PathPattern) -> route_components_pb2.HeaderMatcher:
    """The same pattern on Envoy's ``:path``, which may have a query, for what cannot look at paths otherwise."""
    text = string_pb2.StringMatcher(safe_regex=regex(pattern.regex.replace(".*", "[^?]*") + r"(?:\?.*)?"))
    return route_components_pb2.HeaderMatcher(name=":path", string_match=text)
