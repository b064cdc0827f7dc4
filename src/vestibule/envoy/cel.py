"""The few CEL expressions that proxies evaluate, as matchers."""

from __future__ import annotations

from datetime import UTC, datetime

from xds.core.v3.extension_pb2 import TypedExtensionConfig
from xds.type.matcher.v3 import cel_pb2, http_inputs_pb2
from xds.type.matcher.v3.matcher_pb2 import Matcher
from xds.type.v3 import cel_pb2 as expression_pb2

from vestibule.envoy.protos import packed


def before(instant: datetime) -> Matcher.MatcherList.Predicate:
    """Whether a request began before an instant, by the proxy's own clock."""
    text = instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return _predicate(f"request.time < timestamp('{text}')")


def _predicate(text: str) -> Matcher.MatcherList.Predicate:
    matcher = cel_pb2.CelMatcher(expr_match=expression_pb2.CelExpression(cel_expr_string=text))
    single = Matcher.MatcherList.Predicate.SinglePredicate(
        input=TypedExtensionConfig(
            name="request", typed_config=packed(http_inputs_pb2.HttpAttributesCelMatchInput())
        ),
        custom_match=TypedExtensionConfig(name="cel", typed_config=packed(matcher)),
    )
    return Matcher.MatcherList.Predicate(single_predicate=single)
