"""Local rate limits: how many requests one instance takes, in all or from each caller.

There is one limiter per limit, so that a refusal can name the limit.  Limits come after authorization: what is denied
uses up nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from envoy.config.core.v3 import base_pb2, extension_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.common.ratelimit.v3 import ratelimit_pb2
from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2
from envoy.extensions.rate_limit_descriptors.expr.v3 import expr_pb2
from envoy.type.v3 import percent_pb2, token_bucket_pb2
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import UInt32Value

from vestibule.envoy import matches
from vestibule.envoy.protos import packed, seconds
from vestibule.intent.traffic import LimitPer, RateLimit
from vestibule.policy import Rule

HEADER: Final = "x-vestibule-limit"
"""Tells a refused caller, and the access log, which limit it was."""

UNKNOWN_CALLERS: Final = 10_000
"""How many callers are told apart where rules allow whole branches of identities, whose number nobody knows."""

_CALLER: Final = "connection.mtls ? connection.uri_san_peer_certificate : 'plaintext'"
"""All who come in plain text count as one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A rate limit of a port, its name in logs, and how many callers it has to tell apart."""

    name: str
    limit: RateLimit
    callers: int


def of_port(
    service: str, limits: Sequence[RateLimit], port: str, rules: Sequence[Rule], *, plaintext: bool = False
) -> tuple[Limit, ...]:
    """The limits that hold for one port, named ``service/limits/1`` and so on.

    ``plaintext``: those without an identity may call, too, who are one more caller.
    """
    callers = _callers(rules) + plaintext
    return tuple(
        Limit(name=f"{service}/limits/{number}", limit=each, callers=callers)
        for number, each in enumerate(limits, start=1)
        if each.port in (None, port)
    )


def _callers(rules: Sequence[Rule]) -> int:
    matched = {match for rule in rules for match in rule.callers}
    return UNKNOWN_CALLERS if any(each.below for each in matched) else len(matched)


def filters(limits: Sequence[Limit]) -> Iterator[tuple[str, Message]]:
    """One limiter per limit, for a route that switches them on."""
    for each in limits:
        yield "envoy.filters.http.local_ratelimit", _limiter(each)


def _limiter(named: Limit) -> local_rate_limit_pb2.LocalRateLimit:
    limit = named.limit
    whole = base_pb2.RuntimeFractionalPercent(
        default_value=percent_pb2.FractionalPercent(numerator=100), runtime_key="vestibule.unset"
    )
    config = local_rate_limit_pb2.LocalRateLimit(
        stat_prefix="limits",
        filter_enabled=whole,
        filter_enforced=whole,
        rate_limited_as_resource_exhausted=True,
    )
    retry_after = math.ceil(limit.window.total_seconds() / limit.requests)
    for name, value in ((HEADER, named.name), ("retry-after", str(retry_after))):
        config.response_headers_to_add.add(
            header=base_pb2.HeaderValue(key=name, value=value),
            append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
        )
    config.max_dynamic_descriptors.CopyFrom(UInt32Value(value=max(named.callers, 1)))
    if limit.path is None and limit.per is LimitPer.ALL:
        config.token_bucket.CopyFrom(_bucket(limit))
        return config
    entries = []
    wanted = config.rate_limits.add()
    if limit.path is not None:
        match = route_components_pb2.RateLimit.Action.HeaderValueMatch(descriptor_value=named.name)
        match.headers.append(matches.path_header(limit.path))
        wanted.actions.add(header_value_match=match)
        entries.append(("header_match", named.name))
    if limit.per is LimitPer.CALLER:
        by = expr_pb2.Descriptor(descriptor_key="caller", text=_CALLER)
        extension = extension_pb2.TypedExtensionConfig(
            name="envoy.rate_limit_descriptors.expr", typed_config=packed(by)
        )
        wanted.actions.add(extension=extension)
        entries.append(("caller", ""))
    descriptor = ratelimit_pb2.LocalRateLimitDescriptor(token_bucket=_bucket(limit))
    for key, value in entries:
        descriptor.entries.add(key=key, value=value)
    config.descriptors.append(descriptor)
    return config


def _bucket(limit: RateLimit) -> token_bucket_pb2.TokenBucket:
    return token_bucket_pb2.TokenBucket(
        max_tokens=limit.burst or limit.requests,
        tokens_per_fill=UInt32Value(value=limit.requests),
        fill_interval=seconds(limit.window.total_seconds()),
    )
