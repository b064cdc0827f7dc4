"""Reads the text of a condition: bounds, types, and what proxies evaluate as the engine does.

Google's own CEL (cel-cpp, which Envoy is built with too) parses and checks types.  It bounds itself (recursion 32,
10,000 iterations), and is never handed more than ``MAX_LENGTH`` characters.  It is imported when the first condition
is read: it is large, and the base install does not have it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

from vestibule.errors import VestibuleError, Where
from vestibule.policy import expressions as ex
from vestibule.policy.codes import (
    CONDITION_NOT_OFFERED,
    CONDITION_TYPE,
    MALFORMED_CONDITION,
    NO_CONDITIONS_HERE,
    UNKNOWN_CONDITION_NAME,
)
from vestibule.policy.regexes import why_not
from vestibule.policy.vocabulary import CENTRAL, CONSTANT, NAMES, Known

if TYPE_CHECKING:
    from cel.expr.checked_pb2 import CheckedExpr

MAX_LENGTH: Final = 2048
"""Characters of one condition."""

MAX_DEPTH: Final = 20
"""Levels of operators inside each other; chains of && and || count once for each doubling."""

PLACE: Final = "when"
"""The file that errors name, to be replaced by whoever knows the file; line and column are within the condition."""

# Functions whose meaning depends on where the clock hangs, unless they are told a time zone.
_OF_TIME: Final = frozenset(
    {
        "getFullYear",
        "getMonth",
        "getDate",
        "getDayOfMonth",
        "getDayOfWeek",
        "getDayOfYear",
        "getHours",
        "getMinutes",
        "getSeconds",
        "getMilliseconds",
    }
)
_OFFERED: Final = frozenset(
    {
        *ex.INFIX,
        *_OF_TIME,
        ex.NOT,
        "-_",
        ex.CHOICE,
        ex.INDEX,
        "size",
        "contains",
        "startsWith",
        "endsWith",
        "matches",
        "timestamp",
        "duration",
        "int",
        "uint",
        "double",
    }
)
_CENTRAL_ONLY: Final = frozenset({"string", "bytes", "bool", "dyn", "type"})
# Proxies add, change or take away these before or after rules are looked at, so that they say nothing of the caller.
_NOT_THE_CALLERS: Final = re.compile(
    r"x-envoy-.*|x-forwarded-.*|x-request-id|x-vestibule-.*|forwarded|connection|te|upgrade|keep-alive|proxy-.*"
    r"|transfer-encoding|content-length|authorization"
)
_ONE_BY_ONE: Final = {
    "request.headers": "Ask for one: request.headers['x-tenant'], or 'x-tenant' in request.headers.",
    "caller.trust_domain": "Compare it with == or !=, or ask: caller.trust_domain in ['example.org'].",
    "token.claims": "Ask for one: token.claims.department, or 'department' in token.claims.",
    "token.scopes": "Ask for one: 'charge:write' in token.scopes.",
    "token.audiences": "Ask for one: 'payments' in token.audiences.",
}
_LISTS: Final = frozenset({"token.scopes", "token.audiences"})
_JOINS: Final = frozenset({"add_string", "add_bytes", "add_list"})
# What the compiler knows for every caller, so that no proxy has to evaluate it.
_FOLDED: Final = CONSTANT | {"caller.labels"}
_HEADER: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749, section 3.3
_NAME_BEFORE: Final = re.compile(r"[\w.]*\Z")
_PLACE_AND_TEXT: Final = re.compile(r"<input>:(-?\d+):(-?\d+): (.*)")
_UNKNOWN: Final = re.compile(r"undeclared reference to '([^']*)'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a text turned out to be; no ``tree`` where it has a macro, which only the decision service evaluates."""

    tree: ex.Expression | None
    uses: frozenset[str]
    central: bool


@lru_cache(maxsize=16_384)
def read(source: str, *, without: frozenset[str] = frozenset()) -> Checked:
    """Check a condition.  ``without`` are names of the vocabulary that its rule cannot know.

    Raises: VST4040 to VST4043 with the place within the text, VST4045.
    """
    if len(source) > MAX_LENGTH:
        raise MALFORMED_CONDITION.error(f"a condition has {len(source)} characters; {MAX_LENGTH} are allowed")
    if not source.strip():
        raise MALFORMED_CONDITION.error("a condition is empty")
    if not source.isprintable() and not all(each.isprintable() or each in "\n\t" for each in source):
        raise MALFORMED_CONDITION.error("a condition has a character that cannot be seen; write it as \\u…")
    checked = _check(source)
    named = {each.name: place for place, each in checked.reference_map.items() if each.name in NAMES}
    central = not CENTRAL.isdisjoint(named)
    reading = _Reading(source, checked, central=central)
    for absent in sorted(named.keys() & set(without)):
        raise UNKNOWN_CONDITION_NAME.error(
            f"a condition uses {absent}, and {_why_absent(absent)}", where=reading.where(named[absent])
        )
    tree = reading.whole()
    if reading.macro is not None and not central:
        raise reading.refuse(
            reading.macro,
            "uses exists, all, map or filter, which proxies do not evaluate",
            "Compare members one by one, or with `in`; a condition on request.body or attributes may use them.",
        )
    if tree is not None and ex.names(tree):
        _check(ex.text(tree))  # what is folded is written as text again, with more parentheses
    return Checked(tree=tree, uses=frozenset(named), central=central)


def _why_absent(name: str) -> str:
    match NAMES[name].known:
        case Known.JWT:
            return "its rule demands no token"
        case Known.MCP:
            return "its port does not speak MCP"
        case _:
            return "there is nothing of that kind here"


@cache
def environment() -> Any:
    """The names and their types, as CEL's checker and evaluator want them.  Raises: VST4045."""
    try:
        from cel_expr_python import cel
    except ImportError as error:
        raise NO_CONDITIONS_HERE.error("a condition was found, and cel-expr-python is missing") from error
    kind = cel.Type
    types = {
        "string": kind.STRING,
        "timestamp": kind.TIMESTAMP,
        "dyn": kind.DYN,
        "list(string)": kind.List(kind.STRING),
        "map(string, string)": kind.Map(kind.STRING, kind.STRING),
        "map(string, dyn)": kind.Map(kind.STRING, kind.DYN),
    }
    return cel.NewEnv(variables={name: types[each.type] for name, each in NAMES.items()})


def _check(source: str) -> CheckedExpr:
    from cel.expr.checked_pb2 import CheckedExpr
    from google.protobuf.any_pb2 import Any as AnyMessage
    from google.protobuf.message import DecodeError

    try:
        compiled = environment().compile(source)
    except RuntimeError as error:
        raise _translated(source, str(error)) from None
    try:
        checked = CheckedExpr.FromString(AnyMessage.FromString(compiled.serialize()).value)
    except DecodeError:
        raise MALFORMED_CONDITION.error("a condition is nested too deeply") from None
    found = compiled.return_type().name()
    if found not in ("BOOL", "DYN"):
        kind = found.lower()
        raise CONDITION_TYPE.error(
            f"a condition must be true or false; this one is a {kind}", where=_place(1, 1)
        )
    return checked


def _place(line: int, column: int) -> Where:
    return Where(file=PLACE, line=max(line, 1), column=max(column, 1))


def _translated(source: str, complaint: str) -> VestibuleError:
    """CEL's complaint as an error of ours."""
    found = _PLACE_AND_TEXT.search(complaint)
    if found is None or "recursion" in complaint:
        if "recursion" in complaint:
            return MALFORMED_CONDITION.error("a condition is nested too deeply")
        return MALFORMED_CONDITION.error("a condition cannot be read")
    line, column, text = int(found[1]), int(found[2]), found[3].removesuffix(" [INVALID_ARGUMENT]")
    place = _place(line, column)
    unknown = _UNKNOWN.search(text)
    if unknown is None:
        code = MALFORMED_CONDITION if "yntax" in text else CONDITION_TYPE
        return code.error(f"a condition does not fit: {_plain(text)}", where=place)
    return _unknown(source, unknown[1], line, column)


def _plain(text: str) -> str:
    """``'_==_' applied to '(string, int)'`` in the words that were written."""
    for function, sign in {**ex.INFIX, ex.NOT: "!", "-_": "-", ex.CHOICE: "?:", ex.INDEX: "[]"}.items():
        text = text.replace(f"'{function}'", f"'{sign}'")
    return text[:300]


def _unknown(source: str, name: str, line: int, column: int) -> VestibuleError:
    start, written = _written(source, line, column) or (column, name)
    if "(" in written or name not in written:
        functions = _OFFERED | _CENTRAL_ONLY
        return CONDITION_NOT_OFFERED.error(
            f"there is no function {_short(name)}{_nearest(name, functions)}", where=_place(line, column)
        )
    return UNKNOWN_CONDITION_NAME.error(
        f"nobody knows {_short(written)} of a call{_nearest(written, NAMES)}", where=_place(line, start)
    )


def _short(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:77] + "...")


def _written(source: str, line: int, column: int) -> tuple[int, str] | None:
    """The whole dotted name around a place and where it begins, with ``(`` if it is called."""
    lines = source.split("\n")
    if not 1 <= line <= len(lines):
        return None
    for found in re.finditer(r"[A-Za-z_][\w]*(?:\.[A-Za-z_]\w*)*\(?", lines[line - 1]):
        if found.start() <= column - 1 <= found.end():
            return found.start() + 1, found[0]
    return None


def _nearest(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), 1, 0.6) or get_close_matches(
        name.rpartition(".")[2], list(known), 1, 0.6
    )
    return f"; did you mean {near[0]}?" if near else ""


class _Reading:
    """From the checked message to a tree; refuses on the way what proxies lack."""

    def __init__(self, source: str, checked: CheckedExpr, *, central: bool) -> None:
        self._source = source
        self._checked = checked
        self._central = central
        self._bare: dict[int, str] = {}
        """Maps and lists of which only single members are offered, by place, until a member is asked for."""
        self.macro: int | None = None

    def whole(self) -> ex.Expression | None:
        """The tree; None if there is a macro in it."""
        tree = self._read(self._checked.expr, 0)
        if self._bare and not self._central:
            place, name = next(iter(self._bare.items()))
            how = (
                "compares with what is not written out"
                if name == "caller.trust_domain"
                else "uses as a whole"
            )
            raise self.refuse(place, f"{how}: {name}", _ONE_BY_ONE[name])
        return tree

    def where(self, place: int) -> Where:
        """Line and column of a node."""
        info = self._checked.source_info
        offset = info.positions.get(place, 0)
        if self._source[offset : offset + 1] == ".":  # where CEL puts the name ``caller.id``
            offset -= len(_NAME_BEFORE.search(self._source[:offset])[0])  # type: ignore[index]
        started = max((each for each in info.line_offsets if each <= offset), default=0)
        line = sum(each <= offset for each in info.line_offsets)
        return _place(line + 1, offset - started + 1)

    def refuse(self, place: int, why: str, advice: str | None = None) -> VestibuleError:
        """What is not offered, at a node."""
        return CONDITION_NOT_OFFERED.error(f"a condition {why}", advice=advice, where=self.where(place))

    def _read(self, message: Any, depth: int) -> ex.Expression | None:
        if depth > MAX_DEPTH:
            where = self.where(message.id)
            raise MALFORMED_CONDITION.error(f"a condition is nested deeper than {MAX_DEPTH}", where=where)
        match message.WhichOneof("expr_kind"):
            case "const_expr":
                return self._constant(message)
            case "ident_expr":
                return self._name(message)
            case "select_expr":
                return self._field(message, depth)
            case "call_expr":
                return self._operation(message, depth)
            case "list_expr":
                elements = [self._read(each, depth + 1) for each in message.list_expr.elements]
                return None if None in elements else ex.Members(tuple(filter(None, elements)))
            case "struct_expr":
                return self._entries(message, depth)
            case _:
                self.macro = message.id
                return None

    def _constant(self, message: Any) -> ex.Expression:
        constant = message.const_expr
        match constant.WhichOneof("constant_kind"):
            case "null_value":
                return ex.Constant(None)
            case "uint64_value":
                return ex.Constant(ex.Unsigned(constant.uint64_value))
            case kind:
                value = getattr(constant, kind)
                if isinstance(value, str) and any(each in value for each in "\0\U0010ffff"):
                    raise self.refuse(message.id, "has a character that no request has")
                return ex.Constant(value)

    def _name(self, message: Any) -> ex.Expression:
        name = message.ident_expr.name
        if name not in NAMES:
            raise self.refuse(message.id, f"uses the type {_short(name)} as a value")
        if name in _ONE_BY_ONE:
            self._bare[message.id] = name
        return ex.Name(name)

    def _field(self, message: Any, depth: int) -> ex.Expression | None:
        select = message.select_expr
        operand = self._read(select.operand, depth + 1)
        self._member(select.operand.id, operand, ex.Constant(select.field), positional=True)
        return None if operand is None else ex.Field(operand, select.field, select.test_only)

    def _entries(self, message: Any, depth: int) -> ex.Expression | None:
        if message.struct_expr.message_name:
            raise self.refuse(message.id, f"makes a {message.struct_expr.message_name}")
        entries = []
        for each in message.struct_expr.entries:
            key, value = self._read(each.map_key, depth + 1), self._read(each.value, depth + 1)
            if key is None or value is None:
                return None
            entries.append((key, value))
        return ex.Entries(tuple(entries))

    def _operation(self, message: Any, depth: int) -> ex.Expression | None:
        call = message.call_expr
        target = self._read(call.target, depth + 1) if call.HasField("target") else None
        arguments = [self._read(each, depth + 1) for each in call.args]
        if None in arguments or (call.HasField("target") and target is None):
            return None
        overloads = self._checked.reference_map[message.id].overload_id
        joins = call.function == "_+_" and any(each in _JOINS for each in overloads)
        made = ex.Operation(call.function, tuple(filter(None, arguments)), target, joins)
        if call.function in (ex.INDEX, ex.IN):
            first, second = range(2) if call.function == ex.INDEX else (1, 0)
            positional = call.function == ex.INDEX
            place = call.args[first].id
            self._member(place, made.arguments[first], made.arguments[second], positional=positional)
        self._check(message.id, made, overloads)
        if _compares_domain(made):
            for argument in call.args:
                self._bare.pop(argument.id, None)
        return made

    def _member(
        self, place: int, container: ex.Expression | None, key: ex.Expression, *, positional: bool
    ) -> None:
        """One member of a map or list is asked for, or whether it is there."""
        if not isinstance(container, ex.Name) or container.name not in _ONE_BY_ONE or self._central:
            return
        name, written = container.name, key.value if isinstance(key, ex.Constant) else None
        if name in _LISTS and positional:
            raise self.refuse(place, f"asks {name} for a member by its number", _ONE_BY_ONE[name])
        if not isinstance(written, str) and name != "token.audiences":
            raise self.refuse(place, f"asks {name} for a member that is not written out", _ONE_BY_ONE[name])
        if name == "request.headers":
            self._header(place, str(written))
        if name == "token.scopes" and not _SCOPE.fullmatch(str(written)):
            raise self.refuse(place, f"asks for the scope {_short(str(written))}, which no token can have")
        self._bare.pop(place, None)

    def _header(self, place: int, name: str) -> None:
        if name == "host":
            raise self.refuse(place, "asks for the header host", "Write request.host.")
        if name != name.lower() and _HEADER.fullmatch(name.lower()):
            advice = f"Write {name.lower()!r}."
            raise self.refuse(place, f"asks for the header {_short(name)}, and names are lower case", advice)
        if not _HEADER.fullmatch(name):
            raise self.refuse(place, f"asks for the header {_short(name)}, which no request can have")
        if _NOT_THE_CALLERS.fullmatch(name):
            advice = "Use a header that only the caller sets, or `token` for what a token says."
            raise self.refuse(
                place, f"asks for the header {name!r}, which proxies set, change or remove", advice
            )

    def _check(self, place: int, made: ex.Operation, overloads: Iterable[str]) -> None:
        function = made.function
        folded = ex.names(made) <= _FOLDED
        if function not in _OFFERED and not (function in _CENTRAL_ONLY and (self._central or folded)):
            raise self.refuse(place, f"uses {function}, which proxies do not evaluate")
        if made.joins and not folded and not self._central:
            raise self.refuse(place, "puts texts or lists together, which proxies do not evaluate")
        if function == "matches":
            self._check_regex(place, made.arguments[-1])
        if function in _OF_TIME and any(each.startswith("timestamp_to") for each in overloads):
            self._check_zone(place, made)

    def _check_regex(self, place: int, pattern: ex.Expression) -> None:
        if not isinstance(pattern, ex.Constant) or not isinstance(pattern.value, str):
            raise self.refuse(place, "matches a regular expression that is not written out")
        if why := why_not(pattern.value):
            raise self.refuse(place, f"matches a regular expression that {why}")
        probe = ex.Operation("matches", (pattern,), ex.Constant(""))
        if is_failure(ex.text(probe)):
            raise self.refuse(place, "matches a regular expression that RE2 cannot read")

    def _check_zone(self, place: int, made: ex.Operation) -> None:
        if not made.arguments:
            advice = f'Write {made.function}("Europe/Paris") or {made.function}("UTC").'
            raise self.refuse(place, f"asks {made.function}() without a time zone", advice)
        zone = made.arguments[0]
        if not isinstance(zone, ex.Constant) or not isinstance(zone.value, str):
            raise self.refuse(place, f"asks {made.function} for a time zone that is not written out")
        probe = ex.Operation("timestamp", (ex.Constant("2026-01-01T00:00:00Z"),))
        if not zone.value or is_failure(ex.text(ex.Operation("getHours", (zone,), probe))):
            raise self.refuse(
                place, f"names the time zone {_short(zone.value)}, which is not known{_zone(zone.value)}"
            )


def _compares_domain(made: ex.Operation) -> bool:
    """Whether a trust domain is compared with what is written out: Envoy knows it as a part of the ID only."""
    match made.function, made.arguments:
        case ((ex.EQUAL | ex.UNEQUAL), (ex.Name(), ex.Constant()) | (ex.Constant(), ex.Name())):
            return True
        case ex.IN, (ex.Name(), ex.Members(elements=elements)):
            return all(isinstance(each, ex.Constant) for each in elements)
        case _:
            return False


def _zone(written: str) -> str:
    from zoneinfo import available_timezones

    known = available_timezones()
    if written in known:
        return " here: install the machine's time zones (Debian: tzdata), or the Python package tzdata"
    return _nearest(written, sorted(known))


def is_failure(text: str) -> bool:
    """Whether an expression without names ends in an error."""
    try:
        return bool(environment().compile(text).eval(data={}).type().name() == "ERROR")
    except RuntimeError:
        return True
