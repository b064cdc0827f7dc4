"""The few CEL expressions that proxies evaluate, as matchers."""

from __future__ import annotations

from datetime import UTC, datetime

from cel.expr import syntax_pb2 as cel_syntax_pb2
from google.api.expr.v1alpha1 import syntax_pb2
from xds.core.v3.extension_pb2 import TypedExtensionConfig
from xds.type.matcher.v3 import cel_pb2, http_inputs_pb2
from xds.type.matcher.v3.matcher_pb2 import Matcher
from xds.type.v3 import cel_pb2 as expression_pb2

from vestibule.envoy.protos import packed, serialized


def before(instant: datetime) -> Matcher.MatcherList.Predicate:
    """Whether a request began before an instant, by the proxy's own clock."""
    # Envoy 1.40 does not take text, and knows the same message under two names.
    expression = cel_syntax_pb2.Expr.FromString(serialized(before_as_expression(instant)))
    parsed = expression_pb2.CelExpression(cel_expr_parsed=cel_syntax_pb2.ParsedExpr(expr=expression))
    single = Matcher.MatcherList.Predicate.SinglePredicate(
        input=TypedExtensionConfig(
            name="request", typed_config=packed(http_inputs_pb2.HttpAttributesCelMatchInput())
        ),
        custom_match=TypedExtensionConfig(
            name="cel", typed_config=packed(cel_pb2.CelMatcher(expr_match=parsed))
        ),
    )
    return Matcher.MatcherList.Predicate(single_predicate=single)


def before_as_expression(instant: datetime) -> syntax_pb2.Expr:
    """The same as an expression; for TCP, whether a connection began before."""
    request = syntax_pb2.Expr(id=3, ident_expr=syntax_pb2.Expr.Ident(name="request"))
    began = syntax_pb2.Expr(id=2, select_expr=syntax_pb2.Expr.Select(operand=request, field="time"))
    text = syntax_pb2.Expr(id=5, const_expr=syntax_pb2.Constant(string_value=_text(instant)))
    ends = syntax_pb2.Expr(id=4, call_expr=syntax_pb2.Expr.Call(function="timestamp", args=[text]))
    return syntax_pb2.Expr(id=1, call_expr=syntax_pb2.Expr.Call(function="_<_", args=[began, ends]))


def _text(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
