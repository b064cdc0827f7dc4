"""The Model Context Protocol at a callee's proxy: what reads the messages, and what rules ask of them.

Three filters stand before the policy.  Envoy's filter for MCP refuses what is no message, is too large, or repeats a
key, and says method and target.  It reads JSON generously, stops at the end of the message, and takes a request that
also has a ``result`` for a reply, which servers do not.  So a second, strict reader looks at the whole body, and only
where both say the same do rules come into it.  It also looks for keys that differ from MCP's in case alone, which some
servers take for the same.  The third filter keeps what both have said, as texts that matchers can look at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Final

from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.filters.http.json_to_metadata.v3 import json_to_metadata_pb2
from envoy.extensions.filters.http.mcp.v3 import mcp_pb2
from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2
from envoy.type.matcher.v3 import regex_pb2
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import UInt32Value
from xds.type.matcher.v3 import string_pb2

from vestibule.envoy import trees
from vestibule.envoy.protos import packed
from vestibule.envoy.trees import OnMatch, Predicate
from vestibule.policy import McpDemand, PortPolicy
from vestibule.policy.mcp import (
    AMBIGUOUS_URI,
    BODY_NOT_PLAIN,
    CALL_TOOL,
    GET_PROMPT,
    INVISIBLE,
    KNOWN_METHODS,
    LOUD_SCHEME,
    RESOURCE_METHODS,
    TARGET_NOT_NORMAL,
    TARGETED,
    UNKNOWN_METHOD,
    UPKEEP,
    named_methods,
)

MAX_BODY: Final = 1024 * 1024
"""Bytes of the largest message that is passed on: proxies hold a message back until they have read it."""

METADATA: Final = "envoy.filters.http.mcp"
"""Where Envoy's filter writes what it has read."""

REPLY: Final = "__jsonrpc_response"
"""What Envoy's filter calls a client's reply to its server."""

_STRICT: Final = "vestibule.mcp"
"""Where the strict reader writes."""

_SAID: Final = "vestibule.mcp.said"
"""Method and target, with a space between; of GET and DELETE only the space is left."""

ASKED: Final = f"%FILTER_STATE({_SAID}:PLAIN):300% (%REQ(:METHOD)% %PATH(NQ:PATH)%)"
"""What was asked for, to people."""

_READ: Final = "vestibule.mcp.read"
"""The version of JSON-RPC, any odd key's value, the method as the one reader and as the other has it."""

# Mcp.reject_duplicate_keys, which Envoy 1.40 knows and the Python types do not yet: field 8, a BoolValue of true.
_REJECT_DUPLICATES: Final = bytes([8 << 3 | 2, 2, 1 << 3, 1])
# What `encoding/json` of Go, for one, takes for an s.
_LONG_S: Final = "\N{LATIN SMALL LETTER LONG S}"


def http_filters() -> list[hcm_pb2.HttpFilter]:
    """What has to stand before the policy of a port that speaks MCP."""
    return [
        _filter(METADATA, _reader()),
        _filter("envoy.filters.http.json_to_metadata", _strict_reader()),
        _filter("vestibule.mcp", _memory()),
    ]


def refusals(policy: PortPolicy) -> list[tuple[Predicate, OnMatch]]:
    """What is refused before any rule is looked at, as ``policy.mcp.mcp_refusal`` says, and what it cannot see."""
    named = named_methods((*policy.deny, *policy.allow, *policy.emergencies))
    return [
        (_is_encoded(), trees.action(BODY_NOT_PLAIN, allow=False)),
        (_is_not(rf"2\.0  (?: {REPLY}|[^ ]+ [^ ]+)", _READ), trees.action(BODY_NOT_PLAIN, allow=False)),
        (_matches(rf".*[^ ] {REPLY}", _READ), trees.action(BODY_NOT_PLAIN, allow=False)),
        (_is_not(_both_read(named), _READ), trees.action(UNKNOWN_METHOD, allow=False)),
        (_matches(_refused_targets(), _SAID), trees.action(TARGET_NOT_NORMAL, allow=False)),
    ]


@dataclass(frozen=True, slots=True)
class Said:
    """The messages that a rule names, by what is kept of them: some whole, and all with some beginnings."""

    whole: frozenset[str]
    beginnings: frozenset[str]


@lru_cache(maxsize=4096)
def said(demand: McpDemand, *, denies: bool) -> Said | None:
    """Those of a rule; None if it names all.  Of permissions, the upkeep of a session is a part."""
    if demand == McpDemand():
        return None
    whole: set[str] = set()
    beginnings = {f"{method} " for method in demand.methods}
    for methods, names in (
        ((CALL_TOOL,), demand.tools),
        ((GET_PROMPT,), demand.prompts),
        (RESOURCE_METHODS, demand.resources),
    ):
        for method, name in product(methods, names):
            if name.endswith("*"):
                beginnings.add(f"{method} {name[:-1]}")
            else:
                whole.add(f"{method} {name}")
    if not denies:
        beginnings.update(f"{method} " for method in ("", *UPKEEP, REPLY))
    return Said(frozenset(whole), frozenset(beginnings))


def is_said(said: Said) -> Predicate:
    """Whether a message is among them, where many cannot be told apart in one look."""
    wanted = [re.escape(each) for each in sorted(said.whole)]
    wanted += [f"{re.escape(each)}.*" for each in sorted(said.beginnings)]
    return _matches("|".join(wanted), _SAID)


def what_is_said() -> trees.Input:
    """What ``Said`` speaks of."""
    return _state(_SAID)


def _both_read(named: Iterable[str]) -> str:
    """Both readers have the same method, and a known one."""
    same = "|".join(f"{each} {each}" for each in map(re.escape, (*KNOWN_METHODS, *sorted(named))))
    return rf"2\.0  (?: {REPLY}|{same})"


def _refused_targets() -> str:
    return (
        f"(?:{_any(TARGETED)}) (?:.*{INVISIBLE}.*)?"
        f"|(?:{_any(RESOURCE_METHODS)}) (?:.*(?:{AMBIGUOUS_URI}).*|{LOUD_SCHEME}.*)"
    )


def _any(texts: Iterable[str]) -> str:
    return "|".join(re.escape(each) for each in texts)


def _is_not(regex: str, key: str) -> Predicate:
    """Of a message; GET and DELETE have none."""
    posted = trees.single(trees.header(":method"), string_pb2.StringMatcher(exact="POST"))
    return trees.all_of((posted, trees.negated(_matches(regex, key))))


def _is_encoded() -> Predicate:
    """One who decodes the body may read there what nobody else has seen."""
    encoding = trees.header("content-encoding")
    plain = trees.single(encoding, string_pb2.StringMatcher(exact="identity"))
    return trees.all_of((trees.single(encoding, trees.regex(".+")), trees.negated(plain)))


def _matches(regex: str, key: str) -> Predicate:
    return trees.single(_state(key), trees.regex(f"(?s){regex}"))


@lru_cache
def _state(key: str) -> trees.Input:
    return trees.source(network_inputs_pb2.FilterStateInput(key=key))


def _reader() -> mcp_pb2.Mcp:
    reader = mcp_pb2.Mcp(
        traffic_mode=mcp_pb2.Mcp.REJECT_NO_MCP, max_request_body_size=UInt32Value(value=MAX_BODY)
    )
    reader.MergeFromString(_REJECT_DUPLICATES)
    return reader


def _strict_reader() -> json_to_metadata_pb2.JsonToMetadata:
    config = json_to_metadata_pb2.JsonToMetadata()
    rules = config.request_rules
    rules.allow_content_types_regex.CopyFrom(
        # The same as Envoy's filter for MCP lets through.
        regex_pb2.RegexMatcher(
            google_re2=regex_pb2.RegexMatcher.GoogleRE2(), regex="application/json(?:[ ;].*)?"
        )
    )

    def note(key: str, *path: str, value: str = "") -> None:
        rule = rules.rules.add()
        for each in path:
            rule.selectors.add(key=each)
        rule.on_present.metadata_namespace, rule.on_present.key = _STRICT, key
        if value:
            rule.on_present.value.string_value = value

    note("version", "jsonrpc")
    note("method", "method")
    for each in _odd("method"):
        note("odd", each)
    for each in (*_odd("name"), *_odd("uri")):
        note("odd", "params", each)
    for each in _odd("params"):
        # Objects are noted by what could be in them, whether it is there or not.
        note("odd", each, "name", value="params")
    return config


def _odd(key: str) -> list[str]:
    """All that differs from a key in case alone."""
    letters = ((each, each.upper(), _LONG_S) if each == "s" else (each, each.upper()) for each in key)
    return sorted({"".join(spelled) for spelled in product(*letters)} - {key})


def _memory() -> set_filter_state_pb2.Config:
    said = f"{_read('method')} {_read('params:name')}{_read('params:uri')}"
    read = f"{_noted('version')} {_noted('odd')} {_noted('method')} {_read('method')}"
    return set_filter_state_pb2.Config(on_request_headers=[_kept(_SAID, said), _kept(_READ, read)])


def _read(path: str) -> str:
    return f"%DYNAMIC_METADATA({METADATA}:{path})%"


def _noted(key: str) -> str:
    return f"%DYNAMIC_METADATA({_STRICT}:{key})%"


def _kept(key: str, text: str) -> value_pb2.FilterStateValue:
    value = value_pb2.FilterStateValue(object_key=key, factory_key="envoy.string", read_only=True)
    value.format_string.text_format_source.inline_string = text
    value.format_string.omit_empty_values = True
    return value


def _filter(name: str, config: Message) -> hcm_pb2.HttpFilter:
    return hcm_pb2.HttpFilter(name=name, typed_config=packed(config))
