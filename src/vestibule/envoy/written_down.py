"""What filters write down about a call or a connection (filter state), and questions about it that end in verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2
from google.protobuf.message import Message
from xds.core.v3.extension_pb2 import TypedExtensionConfig
from xds.type.matcher.v3 import regex_pb2, string_pb2
from xds.type.matcher.v3.matcher_pb2 import Matcher

from vestibule.envoy.protos import packed, serialized

_ENTRY: Final = 1 << 3 | 2
_KEY: Final = 1 << 3 | 2
_VALUE: Final = 2 << 3 | 2


def values(texts: Mapping[str, str]) -> Iterable[value_pb2.FilterStateValue]:
    """What is to be written down: keys, and texts that may hold Envoy's command operators."""
    return [
        value_pb2.FilterStateValue(
            object_key=key,
            factory_key="envoy.string",
            format_string=SubstitutionFormatString(text_format_source={"inline_string": text}),
        )
        for key, text in texts.items()
    ]


def state(key: str) -> TypedExtensionConfig:
    """What stands under a key, to look at."""
    return extension(key, network_inputs_pb2.FilterStateInput(key=key))


def found_in(
    source: TypedExtensionConfig,
    entries: Mapping[str, Matcher.OnMatch],
    otherwise: Matcher.OnMatch,
    *,
    prefix: bool = False,
) -> Matcher.OnMatch:
    """One look-up, in however many entries."""
    # Written as bytes, field 1 of a map whose entries are key and value: ten thousand copies of messages take seconds.
    written_once: dict[int, bytes] = {}
    parts = []
    for key, matched in entries.items():
        body = written_once.get(id(matched))
        if body is None:
            body = written_once[id(matched)] = field(_VALUE, serialized(matched))
        parts.append(field(_ENTRY, field(_KEY, key.encode()) + body))
    tree = Matcher.MatcherTree(input=source)
    target = tree.prefix_match_map if prefix else tree.exact_match_map
    target.MergeFromString(b"".join(parts))
    return Matcher.OnMatch(matcher=Matcher(matcher_tree=tree, on_no_match=otherwise))


def is_like(key: str, regex: str) -> Matcher.MatcherList.Predicate:
    """Whether the whole of what stands under a key matches."""
    matcher = regex_pb2.RegexMatcher(regex=regex, google_re2=regex_pb2.RegexMatcher.GoogleRE2())
    single = Matcher.MatcherList.Predicate.SinglePredicate(
        input=state(key), value_match=string_pb2.StringMatcher(safe_regex=matcher)
    )
    return Matcher.MatcherList.Predicate(single_predicate=single)


def if_like(key: str, regex: str, then: Matcher.OnMatch, otherwise: Matcher.OnMatch) -> Matcher.OnMatch:
    """One way or the other, by what stands under a key."""
    entry = Matcher.MatcherList.FieldMatcher(predicate=is_like(key, regex), on_match=then)
    listed = Matcher.MatcherList(matchers=[entry])
    return Matcher.OnMatch(matcher=Matcher(matcher_list=listed, on_no_match=otherwise))


def if_unlike(key: str, regex: str, then: Matcher.OnMatch) -> Matcher.OnMatch:
    """Only if what stands under a key does not match, or nothing does; else it is a miss."""
    unlike = Matcher.MatcherList.Predicate(not_matcher=is_like(key, regex))
    entry = Matcher.MatcherList.FieldMatcher(predicate=unlike, on_match=then)
    return Matcher.OnMatch(matcher=Matcher(matcher_list=Matcher.MatcherList(matchers=[entry])))


def from_on(since: int) -> str:
    """A regular expression for the decimal numbers from this one on: proxies compare no numbers here."""
    digits = str(since)
    greater = [
        f"{digits[:place]}[{int(digit) + 1}-9][0-9]{{{len(digits) - place - 1}}}"
        for place, digit in enumerate(digits)
        if digit != "9"
    ]
    return "|".join([digits, *greater, f"[1-9][0-9]{{{len(digits)},}}"])


def verdict(name: str, *, allow: bool = False) -> Matcher.OnMatch:
    """The end, under a name."""
    action = rbac_pb2.RBAC.ALLOW if allow else rbac_pb2.RBAC.DENY
    return Matcher.OnMatch(action=extension("action", rbac_pb2.Action(name=name, action=action)))


def extension(name: str, config: Message) -> TypedExtensionConfig:
    """A configuration under a name."""
    return TypedExtensionConfig(name=name, typed_config=packed(config))


def field(tag: int, body: bytes) -> bytes:
    """A field of the wire format that holds text or a message; ``tag`` has its type in it."""
    length, size = b"", len(body)
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([tag]) + length + bytes([size]) + body
