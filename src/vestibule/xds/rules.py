"""The rules that Envoy's messages carry about themselves (protoc-gen-validate), read from their descriptors.

Envoy refuses a resource that breaks one.  Whoever looks first never sends it.  Packed messages (``Any``) are looked
into; one of a type that nobody here knows could not be looked at, and is a violation, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any, Final, cast

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from validate import validate_pb2

Visit = Callable[[Message, str], None]
"""Told of each message on the way, with its path."""
Check = Callable[[Any], bool]

ANY: Final = "google.protobuf.Any"
_DURATION: Final = "google.protobuf.Duration"
_WRAPPER: Final = re.compile(r"google\.protobuf\.(\w+)Value")
_HEADERS: Final = {
    (validate_pb2.HTTP_HEADER_NAME, True): r":?[0-9a-zA-Z!#$%&'*+-.^_|~`]+",
    (validate_pb2.HTTP_HEADER_VALUE, True): r"[^\x00-\x08\x0A-\x1F\x7F]*",
    (validate_pb2.HTTP_HEADER_NAME, False): r"[^\x00\x0A\x0D]*",
    (validate_pb2.HTTP_HEADER_VALUE, False): r"[^\x00\x0A\x0D]*",
}
_OPERATIONS: Final[Mapping[str, tuple[str, Callable[[Any, Any], bool]]]] = {
    "const": ("it is not {!r}", lambda value, wanted: value == wanted),
    "in": ("it is none of {}", lambda value, wanted: value in wanted),
    "not_in": ("it is one of {}", lambda value, wanted: value not in wanted),
    "min_len": ("it is shorter than {}", lambda value, wanted: len(value) >= wanted),
    "max_len": ("it is longer than {}", lambda value, wanted: len(value) <= wanted),
    "min_bytes": ("it is shorter than {} bytes", lambda value, wanted: len(value.encode()) >= wanted),
    "max_bytes": ("it is longer than {} bytes", lambda value, wanted: len(value.encode()) <= wanted),
    "pattern": ("it does not match {}", lambda value, wanted: re.search(wanted, value) is not None),
    "prefix": ("it does not begin with {!r}", lambda value, wanted: value.startswith(wanted)),
    "suffix": ("it does not end with {!r}", lambda value, wanted: value.endswith(wanted)),
}
_BOUNDS: Final = frozenset({"lt", "lte", "gt", "gte"})
KNOWN_IF_EMPTY: Final = frozenset(
    {"type.googleapis.com/envoy.extensions.filters.http.filter_chain.v3.FilterChainConfig"}
)
"""Types that Envoy knows and nobody here: without a value there is nothing in them to look at."""

IMPLEMENTED: Final = (
    _BOUNDS
    | _OPERATIONS.keys()
    | {"well_known_regex", "strict", "ignore_empty", "defined_only", "required", "skip"}
    | {"min_items", "max_items", "unique", "items", "min_pairs", "max_pairs", "keys", "values"}
)
"""The rules that are known here: all that Envoy's messages use, which a test holds."""


def violations(message: Message, visit: Visit | None = None) -> Iterator[str]:
    """Each rule that a message breaks, as ``path: rule``."""
    yield from _walk(message, "", visit)


def _walk(message: Message, path: str, visit: Visit | None) -> Iterator[str]:
    if visit is not None:
        visit(message, path)
    if message.DESCRIPTOR.full_name == ANY:
        yield from _unpacked(message, path, visit)
        return
    for oneof in _oneofs(message.DESCRIPTOR):
        if message.WhichOneof(oneof) is None:
            yield f"{path}.{oneof}: one of it is required"
    for name, needs_presence, check in _singular(message.DESCRIPTOR):
        if needs_presence and not message.HasField(name):
            continue
        if (broken := check(getattr(message, name))) is not None:
            yield f"{path}.{name}: {broken}"
    for name in _required(message.DESCRIPTOR):
        if not message.HasField(name):
            yield f"{path}.{name}: it is required"
    for name, bounds, item in _many(message.DESCRIPTOR):
        values = getattr(message, name)
        if (broken := bounds(values)) is not None:
            yield f"{path}.{name}: {broken}"
        if item is not None:
            for each in values:
                if (broken := item(each)) is not None:
                    yield f"{path}.{name}: {broken}"
    for name, many, mapped in _below(message.DESCRIPTOR):
        if mapped:
            for key, each in getattr(message, name).items():
                yield from _walk(each, f"{path}.{name}[{key}]", visit)
        elif many:
            for number, each in enumerate(getattr(message, name)):
                yield from _walk(each, f"{path}.{name}[{number}]", visit)
        elif message.HasField(name):
            yield from _walk(getattr(message, name), f"{path}.{name}", visit)


def _unpacked(message: Any, path: str, visit: Visit | None) -> Iterator[str]:
    if message.type_url in KNOWN_IF_EMPTY and not message.value:
        return
    try:
        found = unpacked(message.type_url, message.value)
    except KeyError:
        yield f"{path}: nothing is known of the type {message.type_url!r}"
    except DecodeError:
        yield f"{path}: it is no {message.type_url}"
    else:
        yield from _walk(found, f"{path}<{found.DESCRIPTOR.name}>", visit)


def unpacked(type_url: str, value: bytes) -> Message:
    """A packed message.  Raises: KeyError for a type that is not known; DecodeError."""
    descriptor = descriptor_pool.Default().FindMessageTypeByName(type_url.rpartition("/")[2])
    return GetMessageClass(descriptor).FromString(value)


# --------------------------------------------------------------------------------- what there is to check, by type


def _rules(field: FieldDescriptor) -> Any:
    return field.GetOptions().Extensions[validate_pb2.rules]


def _is_disabled(descriptor: Descriptor) -> bool:
    options = descriptor.GetOptions()
    return bool(options.Extensions[validate_pb2.disabled] or options.Extensions[validate_pb2.ignored])


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


@cache
def _oneofs(descriptor: Descriptor) -> tuple[str, ...]:
    required = (
        each.name for each in descriptor.oneofs if each.GetOptions().Extensions[validate_pb2.required]
    )
    return () if _is_disabled(descriptor) else tuple(required)


@cache
def _required(descriptor: Descriptor) -> tuple[str, ...]:
    def is_required(field: FieldDescriptor) -> bool:
        rules = _rules(field)
        return bool(rules.message.required or rules.duration.required or rules.any.required)

    # In a oneof it means: if it is this one, which only shows by its being there.
    single = (
        each
        for each in descriptor.fields
        if not each.is_repeated and each.message_type is not None and each.containing_oneof is None
    )
    return () if _is_disabled(descriptor) else tuple(each.name for each in single if is_required(each))


@cache
def _singular(descriptor: Descriptor) -> tuple[tuple[str, bool, Callable[[Any], str | None]], ...]:
    """Fields with one value and rules about it; whether they count only where they are set."""
    if _is_disabled(descriptor):
        return ()
    found = []
    for field in descriptor.fields:
        if not field.is_repeated and (check := _value_check(field, _rules(field))) is not None:
            found.append((field.name, field.has_presence, check))
    return tuple(found)


@cache
def _many(
    descriptor: Descriptor,
) -> tuple[tuple[str, Callable[[Any], str | None], Callable[[Any], str | None] | None], ...]:
    """Repeated fields and maps with rules about their number, and about each."""
    if _is_disabled(descriptor):
        return ()
    found = []
    for field in descriptor.fields:
        rules = _rules(field)
        if field.is_repeated and rules.HasField("repeated"):
            item = _value_check(field, rules.repeated.items)
            found.append((field.name, _bounds(rules.repeated), item))
        elif field.is_repeated and rules.HasField("map"):
            entry = cast(Descriptor, field.message_type).fields_by_name
            key, value = (
                _value_check(entry[each], getattr(rules.map, f"{each}s")) for each in ("key", "value")
            )
            found.append((field.name, _pairs(rules.map, key, value), None))
    return tuple(found)


@cache
def _below(descriptor: Descriptor) -> tuple[tuple[str, bool, bool], ...]:
    """Fields whose messages are looked into: name, whether there may be several, whether it is a map."""
    found = []
    for field in descriptor.fields:
        mapped = _is_map(field)
        message = field.message_type
        if mapped and message is not None:
            message = message.fields_by_name["value"].message_type
        if message is None or _rules(field).message.skip or not _matters(message):
            continue
        found.append((field.name, field.is_repeated, mapped))
    return tuple(found)


@cache
def _matters(descriptor: Descriptor) -> bool:
    """Whether anything below has rules, or may have."""
    seen: set[str] = set()
    todo = [descriptor]
    while todo:
        each = todo.pop()
        if each.full_name in seen:
            continue
        seen.add(each.full_name)
        if each.full_name == ANY or each.full_name.startswith("envoy."):
            return True
        todo += [field.message_type for field in each.fields if field.message_type is not None]
    return False


def _bounds(rules: Any) -> Callable[[Any], str | None]:
    least, most = rules.min_items, rules.max_items if rules.HasField("max_items") else None

    def check(values: Any) -> str | None:
        count = len(values)
        if count == 0 and rules.ignore_empty:
            return None
        if count < least or (most is not None and count > most):
            return f"{count} items, where {least} to {most if most is not None else 'any number'} are allowed"
        if rules.unique and len({_plain(each) for each in values}) < count:
            return "an item occurs twice"
        return None

    return check


def _plain(value: Any) -> Any:
    return value.SerializeToString(deterministic=True) if isinstance(value, Message) else value


def _pairs(
    rules: Any, key: Callable[[Any], str | None] | None, value: Callable[[Any], str | None] | None
) -> Callable[[Any], str | None]:
    def check(values: Any) -> str | None:
        if len(values) < rules.min_pairs or (rules.HasField("max_pairs") and len(values) > rules.max_pairs):
            return f"{len(values)} pairs are too few or too many"
        for each in values:
            broken = (key(each) if key else None) or (value(values[each]) if value else None)
            if broken is not None:
                return f"[{each}] {broken}"
        return None

    return check


def _value_check(field: FieldDescriptor, rules: Any) -> Callable[[Any], str | None] | None:
    """What is checked of one value by its rules; None if nothing is."""
    kind = rules.WhichOneof("type")
    if kind in (None, "repeated", "map", "message", "timestamp"):
        return None
    checks = dict(_checks(kind, getattr(rules, kind), field))
    if not checks:
        return None
    ignore_empty = bool(getattr(getattr(rules, kind), "ignore_empty", False))
    read = _reader(field, kind)

    def check(value: Any) -> str | None:
        plain = read(value)
        if ignore_empty and not plain:
            return None
        for said, holds in checks.items():
            if not holds(plain):
                return said
        return None

    return check


def _reader(field: FieldDescriptor, kind: str) -> Callable[[Any], Any]:
    if field.message_type is None:
        return lambda value: value
    if field.message_type.full_name == _DURATION:
        return _nanoseconds
    if _WRAPPER.fullmatch(field.message_type.full_name):
        return lambda value: value.value
    return lambda value: value.type_url if kind == "any" else value


def _nanoseconds(duration: Any) -> int:
    return int(duration.seconds) * 1_000_000_000 + int(duration.nanos)


def _checks(kind: str, rules: Any, field: FieldDescriptor) -> Iterator[tuple[str, Check]]:
    for rule, raw in rules.ListFields():
        wanted = _wanted(kind, rule.name, raw)
        if (operation := _OPERATIONS.get(rule.name)) is not None:
            said, holds = operation
            yield said.format(wanted), partial(_holds, holds, wanted)
        elif rule.name == "defined_only" and field.enum_type is not None:
            yield "there is no such value", frozenset(field.enum_type.values_by_number).__contains__
        elif rule.name == "well_known_regex":
            strict = rules.strict if rules.HasField("strict") else True
            yield (
                "it is not fit for a header",
                partial(_holds, re.fullmatch, _HEADERS[wanted, strict], turned=True),
            )
    if (bounds := _range(kind, rules)) is not None:
        yield bounds


def _holds(operation: Callable[[Any, Any], Any], wanted: Any, value: Any, *, turned: bool = False) -> bool:
    return bool(operation(wanted, value) if turned else operation(value, wanted))


def _wanted(kind: str, name: str, raw: Any) -> Any:
    if kind == "duration" and (name == "const" or name in _BOUNDS):
        return _nanoseconds(raw)
    if kind == "duration" and name in ("in", "not_in"):
        return frozenset(_nanoseconds(each) for each in raw)
    return tuple(raw) if name in ("in", "not_in") else raw


def _range(kind: str, rules: Any) -> tuple[str, Check] | None:
    """Bounds; where the lower is above the upper one, what lies between them is excluded."""
    found: Mapping[str, Any] = {
        rule.name: _wanted(kind, rule.name, raw) for rule, raw in rules.ListFields() if rule.name in _BOUNDS
    }
    if not found:
        return None
    low, high = found.get("gt", found.get("gte")), found.get("lt", found.get("lte"))

    def above(value: Any) -> bool:
        return bool(value > low if "gt" in found else value >= low)

    def below(value: Any) -> bool:
        return bool(value < high if "lt" in found else value <= high)

    said = "it is out of " + " and ".join(f"{name} {bound}" for name, bound in found.items())
    if low is None:
        return said, below
    if high is None:
        return said, above
    if low > high:
        return said, lambda value: above(value) or below(value)
    return said, lambda value: above(value) and below(value)
