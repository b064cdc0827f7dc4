"""Conditions of rules in the words of Envoy, as predicates of matcher trees.

Envoy 1.40 takes CEL in matchers as a parsed tree only, and takes an error for "does not match".  A permission is
therefore CEL(condition), and a denial NOT CEL(!condition): an error makes the inner part not match, and the denial
match.  ``tests/e2e/test_conditions_agreement.py`` holds Envoy to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import count
from typing import Final

from cel.expr import syntax_pb2
from xds.type.matcher.v3 import cel_pb2, http_inputs_pb2
from xds.type.v3 import cel_pb2 as expression_pb2

from vestibule.envoy import trees
from vestibule.envoy.trees import Predicate
from vestibule.policy import Condition
from vestibule.policy import expressions as ex

JWT_METADATA: Final = "envoy.filters.http.jwt_authn"
"""Where the claims of verified tokens stand, under the name of their issuer."""

CERTIFICATE: Final = "caller.certificate"
"""The SHA-256 of the caller's certificate, in hexadecimal digits."""

MCP_METADATA: Final = "envoy.filters.http.mcp"
"""Where the method and the target of an MCP message stand."""

MCP_REPLY: Final = "__jsonrpc_response"
"""What Envoy calls a client's reply, which has no method."""

_FAILURE: Final = ex.Operation("_/_", (ex.Constant(1), ex.Constant(0)))
_ANY_TEXT: Final = ex.Constant(r"\A(?s:.*)\z")
_EMPTY: Final = ex.Constant("")


def predicate(condition: Condition, *, denies: bool, issuer: str = "") -> Predicate:
    """Whether a rule's condition holds for a request; for a denial also if it cannot be evaluated.

    ``issuer``: the name under which the token's claims stand, of the rule's own demand.  What is the same for all
    calls of a key of the tree has been folded: ``service.*``, ``environment`` and ``caller.labels`` at least.
    """
    return _predicate(condition.source, condition, denies, issuer)


@lru_cache(maxsize=16_384)
def _predicate(source: str, condition: Condition, denies: bool, issuer: str) -> Predicate:
    del source  # conditions are equal by it, and this says so
    assert condition.tree is not None, "macros are for the decision service"
    tree = translated(condition.tree, issuer)
    if denies:
        return trees.negated(_cel(ex.Operation(ex.NOT, (tree,))))
    return _cel(tree)


def translated(tree: ex.Expression, issuer: str = "") -> ex.Expression:
    """The same in Envoy's names; names are of Envoy's attributes, each a single word."""
    return _Translation(issuer).of(tree)


class _Translation:
    def __init__(self, issuer: str) -> None:
        self._token = _path("metadata", "filter_metadata", JWT_METADATA, issuer)
        self._mcp = _path("metadata", "filter_metadata", MCP_METADATA)

    def of(self, tree: ex.Expression) -> ex.Expression:
        match tree:
            case ex.Name(name=name):
                return self._name(name)
            case ex.Failure():
                return _FAILURE
            case ex.Field(operand=ex.Name(name="request.headers"), field=field, asked=True):
                return _asked_header(field)
            case _ if (header := _header_name(tree)) is not None:
                return _header(header)
            case ex.Field(operand=operand, field=field, asked=asked):
                return ex.Field(self.of(operand), field, asked)
            case ex.Members(elements=elements):
                return ex.Members(tuple(map(self.of, elements)))
            case ex.Entries(entries=entries):
                return ex.Entries(tuple((self.of(key), self.of(value)) for key, value in entries))
            case ex.Operation():
                return self._operation(tree)
            case _:
                return tree

    def _name(self, name: str) -> ex.Expression:
        match name:
            case "token.issuer":
                return _text(ex.Field(self._token, "iss"))
            case "token.subject":
                return _text(ex.Field(self._token, "sub"))
            case "token.client_id":
                return _text(ex.Field(self._token, "client_id"))
            case "token.claims":
                return self._token
            case "mcp.method":
                method = ex.Field(self._mcp, "method")
                reply = ex.Operation(ex.EQUAL, (method, ex.Constant(MCP_REPLY)))
                return ex.Operation(ex.CHOICE, (reply, ex.Constant(""), method))
            case "mcp.target":
                params = ex.Field(self._mcp, "params")
                named = ex.Field(params, "name", asked=True)
                return ex.Operation(ex.CHOICE, (named, ex.Field(params, "name"), ex.Field(params, "uri")))
            case _:
                return _ATTRIBUTES[name]

    def _operation(self, operation: ex.Operation) -> ex.Expression:
        function, arguments = operation.function, operation.arguments
        match function, arguments:
            case "matches", (*_, pattern):
                return self._matches(operation.parts[0], pattern)
            case ex.IN, (ex.Constant(value=str() as name), ex.Name(name="request.headers")):
                return _asked_header(name)
            case ex.IN, (ex.Constant(value=str() as scope), ex.Name(name="token.scopes")):
                return self._scope(scope)
            case ex.IN, (wanted, ex.Name(name="token.audiences")):
                return self._audience(self.of(wanted))
            case (
                (ex.EQUAL | ex.UNEQUAL),
                (ex.Name(name="caller.trust_domain"), ex.Constant(value=str() as domain)),
            ):
                return _in_domains((domain,), function == ex.EQUAL)
            case (
                (ex.EQUAL | ex.UNEQUAL),
                (ex.Constant(value=str() as domain), ex.Name(name="caller.trust_domain")),
            ):
                return _in_domains((domain,), function == ex.EQUAL)
            case ex.IN, (ex.Name(name="caller.trust_domain"), ex.Members(elements=elements)):
                domains = tuple(str(each.value) for each in elements if isinstance(each, ex.Constant))
                return _in_domains(domains, True)
        target = None if operation.target is None else self.of(operation.target)
        return ex.Operation(function, tuple(map(self.of, arguments)), target)

    def _matches(self, value: ex.Expression, pattern: ex.Expression) -> ex.Expression:
        """Envoy ends the whole evaluation where what is matched is an error or no text: && and || could not outweigh
        that.  So it is asked first."""
        if (header := _header_name(value)) is not None:
            return _of_header(header, ex.Operation("matches", (pattern,), _bare_header(header)))
        text = self.of(value)
        return _text(text, ex.Operation("matches", (pattern,), text))

    def _scope(self, scope: str) -> ex.Expression:
        """One of the words of the claim ``scope``; absent it holds none."""
        claim = ex.Field(self._token, "scope")
        held = _any(
            ex.Operation(ex.EQUAL, (claim, ex.Constant(scope))),
            ex.Operation("startsWith", (ex.Constant(f"{scope} "),), claim),
            ex.Operation("endsWith", (ex.Constant(f" {scope}"),), claim),
            ex.Operation("contains", (ex.Constant(f" {scope} "),), claim),
        )
        return ex.Operation(ex.AND, (ex.Field(self._token, "scope", asked=True), held))

    def _audience(self, wanted: ex.Expression) -> ex.Expression:
        """A member of the claim ``aud``, which may be a text, too; absent it holds none."""
        claim = ex.Field(self._token, "aud")
        is_text = ex.Operation(
            ex.EQUAL, (ex.Operation("type", (claim,)), ex.Operation("type", (ex.Constant(""),)))
        )
        equal, member = ex.Operation(ex.EQUAL, (claim, wanted)), ex.Operation(ex.IN, (wanted, claim))
        held = ex.Operation(ex.CHOICE, (is_text, equal, member))
        return ex.Operation(ex.AND, (ex.Field(self._token, "aud", asked=True), held))


def _path(name: str, *fields: str) -> ex.Expression:
    found: ex.Expression = ex.Name(name)
    for field in fields:
        found = (
            ex.Operation(ex.INDEX, (found, ex.Constant(field))) if "." in field else ex.Field(found, field)
        )
    return found


_REQUEST: Final = ex.Name("request")
_HEADERS: Final = ex.Field(_REQUEST, "headers")
_CALLER: Final = ex.Field(ex.Name("connection"), "uri_san_peer_certificate")
_ATTRIBUTES: Final = {
    "caller.id": _CALLER,
    # For what rules demand of tokens; conditions that people write know no such name.
    CERTIFICATE: ex.Field(ex.Name("connection"), "sha256_peer_certificate_digest"),
    "request.method": ex.Field(_REQUEST, "method"),
    "request.path": ex.Field(_REQUEST, "url_path"),
    "request.host": ex.Field(_REQUEST, "host"),
    "request.time": ex.Field(_REQUEST, "time"),
}


def _header(name: str) -> ex.Expression:
    """A header's value."""
    return _of_header(name, _bare_header(name))


def _bare_header(name: str) -> ex.Expression:
    return ex.Operation(ex.INDEX, (_HEADERS, ex.Constant(name)))


def _of_header(name: str, then: ex.Expression) -> ex.Expression:
    """Something about a header that is there.  Envoy compares bytes; what is no UTF-8 is an error to the engine."""
    readable = ex.Operation("matches", (_ANY_TEXT,), _bare_header(name))
    asked = ex.Operation(ex.AND, (_asked_header(name), readable))
    return ex.Operation(ex.CHOICE, (asked, then, _FAILURE))


def _header_name(tree: ex.Expression | None) -> str | None:
    match tree:
        case ex.Field(operand=ex.Name(name="request.headers"), field=field, asked=False):
            return field
        case ex.Operation(
            function=ex.INDEX, arguments=(ex.Name(name="request.headers"), ex.Constant(value=str() as name))
        ):
            return name
        case _:
            return None


def _asked_header(name: str) -> ex.Expression:
    return ex.Operation(ex.IN, (ex.Constant(name), _HEADERS))


def _text(value: ex.Expression, then: ex.Expression | None = None) -> ex.Expression:
    """A value, or something about it, that is an error unless the value is a text."""
    asked = ex.Operation("startsWith", (_EMPTY,), value)
    return ex.Operation(ex.CHOICE, (asked, value if then is None else then, _FAILURE))


def _in_domains(domains: Sequence[str], wanted: bool) -> ex.Expression:
    """Whether the caller's trust domain is one of some; Envoy knows it only as the beginning of the SPIFFE ID."""
    found = _any(
        *(ex.Operation("startsWith", (ex.Constant(f"spiffe://{each}/"),), _CALLER) for each in domains),
        *(ex.Operation(ex.EQUAL, (_CALLER, ex.Constant(f"spiffe://{each}"))) for each in domains),
    )
    return found if wanted else ex.Operation(ex.NOT, (found,))


def _any(*parts: ex.Expression) -> ex.Expression:
    """One or more joined by ``||``, halved again and again: depth is what Envoy's reader bounds."""
    if not parts:
        return ex.Constant(False)
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return ex.Operation(ex.OR, (_any(*parts[:middle]), _any(*parts[middle:])))


def _cel(tree: ex.Expression) -> Predicate:
    parsed = expression_pb2.CelExpression(
        cel_expr_parsed=syntax_pb2.ParsedExpr(expr=_message(tree, count(1).__next__))
    )
    return trees.custom(_ATTRIBUTES_INPUT, "cel", cel_pb2.CelMatcher(expr_match=parsed))


_ATTRIBUTES_INPUT: Final = trees.source(http_inputs_pb2.HttpAttributesCelMatchInput())


def _message(tree: ex.Expression, number: Callable[[], int]) -> syntax_pb2.Expr:
    message = syntax_pb2.Expr(id=number())
    match tree:
        case ex.Constant(value=value):
            _set_constant(message.const_expr, value)
        case ex.Name(name=name):
            message.ident_expr.name = name
        case ex.Field(operand=operand, field=field, asked=asked):
            message.select_expr.operand.CopyFrom(_message(operand, number))
            message.select_expr.field = field
            message.select_expr.test_only = asked
        case ex.Members(elements=elements):
            message.list_expr.SetInParent()
            message.list_expr.elements.extend(_message(each, number) for each in elements)
        case ex.Entries(entries=entries):
            message.struct_expr.SetInParent()
            for key, each in entries:
                message.struct_expr.entries.add(
                    id=number(), map_key=_message(key, number), value=_message(each, number)
                )
        case ex.Operation(function=function, arguments=arguments, target=target):
            message.call_expr.function = function
            if target is not None:
                message.call_expr.target.CopyFrom(_message(target, number))
            message.call_expr.args.extend(_message(each, number) for each in arguments)
        case ex.Failure():
            return _message(_FAILURE, number)
    return message


def _set_constant(message: syntax_pb2.Constant, value: ex.Scalar) -> None:
    match value:
        case None:
            message.null_value = 0
        case bool():
            message.bool_value = value
        case int():
            message.int64_value = value
        case float():
            message.double_value = value
        case str():
            message.string_value = value
        case bytes():
            message.bytes_value = value
        case ex.Unsigned(value=number):
            message.uint64_value = number
