"""Matcher trees, put together as bytes.

A tree of ten thousand rules has a hundred thousand messages.  To copy each into its parent, and that into the next, is
what takes the time; bytes are joined at once, and a part that occurs often is made once.

What a miss below an entry leads to is the same everywhere: the next longest beginning, then ``otherwise``; and in a
list the next entry.  (tests/e2e/test_nested_misses.py holds Envoy to it.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, NewType

from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.matching.common_inputs.ssl.v3 import ssl_inputs_pb2
from envoy.type.matcher.v3 import http_inputs_pb2
from google.protobuf.message import Message
from xds.core.v3.extension_pb2 import TypedExtensionConfig
from xds.type.matcher.v3 import regex_pb2, string_pb2
from xds.type.matcher.v3.matcher_pb2 import Matcher

from vestibule.envoy.protos import packed, serialized

OnMatch = NewType("OnMatch", bytes)
"""A ``Matcher.OnMatch``: what to do, or where to look on."""

Predicate = NewType("Predicate", bytes)
"""A ``Matcher.MatcherList.Predicate``."""

Input = NewType("Input", bytes)
"""A ``TypedExtensionConfig``: what of a request is looked at."""

_LENGTH_DELIMITED: Final = 2
_SEVEN_BITS: Final = 0x7F
_MORE: Final = 0x80


def field(number: int, value: bytes) -> bytes:
    """A field of the wire format that holds text or a message."""
    # Numbers and most lengths are small; what is joined a million times is worth the shortcut.
    size = len(value)
    length = _LENGTHS[size] if size < _SHORT else _varint(size)
    return _TAGS[number] + length + value


@lru_cache(maxsize=4096)
def _varint(number: int) -> bytes:
    out = bytearray()
    while number > _SEVEN_BITS:
        out.append(number & _SEVEN_BITS | _MORE)
        number >>= 7
    out.append(number)
    return bytes(out)


_SHORT: Final = 16_384
_LENGTHS: Final = tuple(_varint(size) for size in range(_SHORT))
_TAGS: Final = tuple(_varint(number << 3 | _LENGTH_DELIMITED) for number in range(32))


def _number(message: type[Message], name: str) -> int:
    return message.DESCRIPTOR.fields_by_name[name].number


_List = Matcher.MatcherList
_MATCHER: Final = _number(Matcher.OnMatch, "matcher")
_ACTION: Final = _number(Matcher.OnMatch, "action")
_LIST: Final = _number(Matcher, "matcher_list")
_TREE: Final = _number(Matcher, "matcher_tree")
_NO_MATCH: Final = _number(Matcher, "on_no_match")
_MATCHERS: Final = _number(_List, "matchers")
_PREDICATE: Final = _number(_List.FieldMatcher, "predicate")
_ON_MATCH: Final = _number(_List.FieldMatcher, "on_match")
_SINGLE: Final = _number(_List.Predicate, "single_predicate")
_OR: Final = _number(_List.Predicate, "or_matcher")
_AND: Final = _number(_List.Predicate, "and_matcher")
_NOT: Final = _number(_List.Predicate, "not_matcher")
_EACH: Final = _number(_List.Predicate.PredicateList, "predicate")
_SINGLE_INPUT: Final = _number(_List.Predicate.SinglePredicate, "input")
_VALUE: Final = _number(_List.Predicate.SinglePredicate, "value_match")
_CUSTOM: Final = _number(_List.Predicate.SinglePredicate, "custom_match")
_TREE_INPUT: Final = _number(Matcher.MatcherTree, "input")
_EXACT: Final = _number(Matcher.MatcherTree, "exact_match_map")
_PREFIX: Final = _number(Matcher.MatcherTree, "prefix_match_map")
_MAP: Final = _number(Matcher.MatcherTree.MatchMap, "map")
_KEY, _MAPPED = 1, 2
"""Of every entry of a map."""


@lru_cache(maxsize=65_536)
def action(name: str, *, allow: bool = True) -> OnMatch:
    """The end of the way, under a name."""
    verdict = rbac_pb2.RBAC.ALLOW if allow else rbac_pb2.RBAC.DENY
    return OnMatch(field(_ACTION, _extension("a", rbac_pb2.Action(name=name, action=verdict))))


def exact_map(source: Input, entries: Mapping[str, OnMatch], otherwise: OnMatch | None) -> OnMatch | None:
    """Look at a whole value."""
    return _map(source, _EXACT, entries, otherwise)


def prefix_map(source: Input, entries: Mapping[str, OnMatch], otherwise: OnMatch | None) -> OnMatch | None:
    """Look at beginnings of a value, the longest first."""
    return _map(source, _PREFIX, entries, otherwise)


def first_of(entries: Sequence[tuple[Predicate, OnMatch]], otherwise: OnMatch | None) -> OnMatch | None:
    """Ask one after the other."""
    if not entries:
        return otherwise
    each = (field(_PREDICATE, predicate) + field(_ON_MATCH, then) for predicate, then in entries)
    matchers = b"".join(field(_MATCHERS, one) for one in each)
    return _then(field(_LIST, matchers), otherwise)


def matcher_of(root: OnMatch) -> bytes:
    """The matcher that this leads to, for a filter's configuration."""
    tag = _varint(_MATCHER << 3 | _LENGTH_DELIMITED)
    if not root.startswith(tag):
        return field(_NO_MATCH, root)
    end = len(tag)
    while root[end] & _MORE:
        end += 1
    return root[end + 1 :]


def _map(
    source: Input, kind: int, entries: Mapping[str, OnMatch], otherwise: OnMatch | None
) -> OnMatch | None:
    if not entries:
        return otherwise
    if len(entries) == 1:
        ((key, found),) = entries.items()
        pairs = _entry(key, found)
    else:
        pairs = b"".join([_entry(key, entries[key]) for key in sorted(entries)])
    return _then(field(_TREE, field(_TREE_INPUT, source) + field(kind, pairs)), otherwise)


def _entry(key: str, found: OnMatch) -> bytes:
    return field(_MAP, field(_KEY, key.encode()) + field(_MAPPED, found))


def _then(matcher: bytes, otherwise: OnMatch | None) -> OnMatch:
    if otherwise is not None:
        matcher += field(_NO_MATCH, otherwise)
    return OnMatch(field(_MATCHER, matcher))


def single(source: Input, value: string_pb2.StringMatcher) -> Predicate:
    """Whether a value matches."""
    return Predicate(field(_SINGLE, field(_SINGLE_INPUT, source) + field(_VALUE, serialized(value))))


def custom(source: Input, name: str, matcher: Message) -> Predicate:
    """Whether a matcher of a kind of its own says so."""
    return Predicate(field(_SINGLE, field(_SINGLE_INPUT, source) + field(_CUSTOM, _extension(name, matcher))))


def all_of(predicates: Sequence[Predicate]) -> Predicate:
    """Whether all of one or more hold, in this order."""
    return _joined(_AND, predicates)


def any_of(predicates: Sequence[Predicate]) -> Predicate:
    """Whether one of one or more holds."""
    return _joined(_OR, predicates)


def negated(predicate: Predicate) -> Predicate:
    """Whether it does not hold."""
    return Predicate(field(_NOT, predicate))


def regex(pattern: str) -> string_pb2.StringMatcher:
    """The whole value, in RE2."""
    matcher = regex_pb2.RegexMatcher(regex=pattern, google_re2=regex_pb2.RegexMatcher.GoogleRE2())
    return string_pb2.StringMatcher(safe_regex=matcher)


@lru_cache
def header(name: str) -> Input:
    """A request's header."""
    return source(http_inputs_pb2.HttpRequestHeaderMatchInput(header_name=name))


@lru_cache
def caller() -> Input:
    """The SPIFFE ID in the certificate that the other side showed."""
    return source(ssl_inputs_pb2.UriSanInput())


def caller_among(keys: Iterable[str]) -> Predicate:
    """Whether the caller is one of some, whose SPIFFE IDs begin alike as a rule."""
    ids = sorted(keys)
    first, last = ids[0], ids[-1]
    differ = (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    start = first[: next(differ, min(len(first), len(last)))]
    ends = "|".join(re.escape(each.removeprefix(start)) for each in ids)
    return single(caller(), regex(f"{re.escape(start)}(?:{ends})"))


def source(config: Message) -> Input:
    """Something else."""
    return Input(_extension("i", config))


def _joined(kind: int, predicates: Sequence[Predicate]) -> Predicate:
    if len(predicates) == 1:
        return predicates[0]
    return Predicate(field(kind, b"".join(field(_EACH, each) for each in predicates)))


def _extension(name: str, config: Message) -> bytes:
    return serialized(TypedExtensionConfig(name=name, typed_config=packed(config)))
