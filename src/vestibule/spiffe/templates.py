"""Templates: paths, DNS names and claims that are filled in from what was attested of a workload.

    /ns/{k8s:ns}/sa/{k8s:sa}      {TYPE:KEY} is the value of the workload's one selector TYPE:KEY:VALUE

Two workloads of different attested values never get the same text from one template:

1. A path segment holds at most one variable, so that no two values can run into each other.
2. In a path, a value is written so that it can be read back: what a segment may not hold, byte by byte as ``_xHH``; an
   ``_x`` in the value itself as ``_x5Fx``; the values ``.`` and ``..`` with their first dot written so.
3. In a DNS name a value stands for one whole label and has to be one; nothing is written differently there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from vestibule.errors import VestibuleError
from vestibule.spiffe.codes import MALFORMED_TEMPLATE, TEMPLATE_NOT_FILLED
from vestibule.spiffe.ids import RESERVED_SEGMENT
from vestibule.spiffe.selectors import Selector

MAX_TEMPLATE: Final = 1024
MAX_VALUE: Final = 255
"""Characters of a value that is filled in, before it is escaped."""

_PART: Final = re.compile(r"\{([^{}]*)\}|([^{}]+)|([{}])")
_VARIABLE: Final = re.compile(r"[a-z0-9_-]+:[^\s/{}]{1,200}")
_PLAIN: Final = re.compile(r"[A-Za-z0-9._-]+")
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True, order=True)
class Variable:
    """``{type:key}``: stands for VALUE where a workload has exactly one selector ``type:key:VALUE``."""

    type: str
    key: str

    def __str__(self) -> str:
        return f"{{{self.type}:{self.key}}}"

    def found(self, selectors: frozenset[Selector]) -> list[Selector]:
        """The workload's selectors that it could stand for."""
        prefix = f"{self.key}:"
        return sorted(each for each in selectors if each.type == self.type and each.value.startswith(prefix))

    def selector(self, selectors: frozenset[Selector]) -> Selector:
        """The one selector that it stands for.  Raises: VST1405 if there is none, or are several."""
        found = self.found(selectors)
        if len(found) != 1:
            how_many = "no selector" if not found else f"{len(found)} selectors"
            raise TEMPLATE_NOT_FILLED.error(f"the workload has {how_many} {self.type}:{self.key}:…")
        return found[0]

    def value(self, selectors: frozenset[Selector]) -> str:
        """What it stands for.  Raises: VST1405 also for a value that is empty or too long."""
        value = self.selector(selectors).value[len(self.key) + 1 :]
        if not 0 < len(value) <= MAX_VALUE:
            raise TEMPLATE_NOT_FILLED.error(f"the value of {self} is empty or longer than {MAX_VALUE}")
        return value


Part = str | Variable


def parts_of(text: str) -> tuple[Part, ...]:
    """A template's literal texts and variables, in order.  Raises: VST1404."""
    if len(text) > MAX_TEMPLATE:
        raise MALFORMED_TEMPLATE.error(f"a template is longer than {MAX_TEMPLATE} characters")
    parts: list[Part] = []
    for match in _PART.finditer(text):
        name, literal, stray = match.groups()
        if stray is not None or (name is not None and not _VARIABLE.fullmatch(name)):
            raise MALFORMED_TEMPLATE.error(f"{text[:80]!r} has braces that are no {{TYPE:KEY}}")
        parts.append(literal if name is None else Variable(*name.split(":", 1)))
    return tuple(parts)


def variables_of(text: str) -> frozenset[Variable]:
    """The variables of any template.  Raises: VST1404."""
    return frozenset(part for part in parts_of(text) if isinstance(part, Variable))


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """A SPIFFE ID's path with variables.  Holding one means that it keeps the rules above."""

    text: str
    segments: tuple[tuple[Part, ...], ...]

    @classmethod
    def parse(cls, text: str) -> PathTemplate:
        """Read ``/ns/{k8s:ns}/sa/{k8s:sa}``; the first segment is literal.  Raises: VST1404."""
        parts_of(text)
        if not text.startswith("/"):
            raise MALFORMED_TEMPLATE.error(f"the template {text[:80]!r} does not start with a slash")
        # A variable's key holds no slash (see _VARIABLE), so splitting comes first.
        segments = tuple(_segment(text, each) for each in text.split("/")[1:])
        first = segments[0]
        if any(isinstance(part, Variable) for part in first) or first == (RESERVED_SEGMENT,):
            raise MALFORMED_TEMPLATE.error(
                f"the first segment of {text[:80]!r} has to be a literal one other than /{RESERVED_SEGMENT}"
            )
        return cls(text, segments)

    @property
    def variables(self) -> frozenset[Variable]:
        """All of its variables."""
        return frozenset(part for each in self.segments for part in each if isinstance(part, Variable))

    @property
    def prefix(self) -> str:
        """The literal path above its first variable: everything that it gives lies there, or is it."""
        literal: list[str] = []
        for segment in self.segments:
            if any(isinstance(part, Variable) for part in segment):
                break
            literal.append("".join(map(str, segment)))
        return "/" + "/".join(literal)

    def could_give(self, path: str) -> bool:
        """Whether some workload could get this path."""
        segments = path.split("/")[1:]
        return len(segments) == len(self.segments) and all(map(_could_be, self.segments, segments))

    def fill(self, selectors: frozenset[Selector]) -> str:
        """The path for a workload.  Raises: VST1405."""
        return "".join("/" + "".join(_written(part, selectors) for part in each) for each in self.segments)


def fill_dns_name(text: str, selectors: frozenset[Selector]) -> str:
    """A DNS name for a workload.  Raises: VST1404, VST1405 for a value that is no DNS label."""
    labels = []
    for label in text.split("."):
        [part] = _dns_label(text, label)
        value = part if isinstance(part, str) else part.value(selectors)
        if isinstance(part, Variable) and not _LABEL.fullmatch(value):
            raise TEMPLATE_NOT_FILLED.error(f"the value of {part} is not a label of a DNS name")
        labels.append(value)
    return ".".join(labels)


def check_dns_template(text: str) -> frozenset[Variable]:
    """The variables of a DNS name's template.  Raises: VST1404."""
    # A key may hold a dot; in DNS names it would be taken for the end of a label.
    parts = [part for label in text.split(".") for part in _dns_label(text, label)]
    return frozenset(part for part in parts if isinstance(part, Variable))


def fill_text(text: str, selectors: frozenset[Selector]) -> str:
    """A text for a workload, values as they are: for claims, where nothing can run into anything.

    Raises: VST1404, VST1405.
    """
    return "".join(part if isinstance(part, str) else part.value(selectors) for part in parts_of(text))


def escaped(value: str) -> str:
    """A value as a path segment, or part of one, in a form that no other value has."""
    if value in (".", ".."):
        return "_x2E" + value[1:]
    return "".join(_bytes_written(value))


def _bytes_written(value: str) -> Iterator[str]:
    for position, character in enumerate(value):
        if character == "_" and value[position + 1 : position + 2] == "x":
            yield "_x5F"
        elif _PLAIN.fullmatch(character):
            yield character
        else:
            yield from (f"_x{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _could_be(parts: tuple[Part, ...], segment: str) -> bool:
    pattern = "".join(re.escape(part) if isinstance(part, str) else ".+" for part in parts)
    return re.fullmatch(pattern, segment) is not None


def _written(part: Part, selectors: frozenset[Selector]) -> str:
    return part if isinstance(part, str) else escaped(part.value(selectors))


def _segment(text: str, segment: str) -> tuple[Part, ...]:
    parts = parts_of(segment)
    literals = [part for part in parts if isinstance(part, str)]
    if not parts or len(parts) - len(literals) > 1:
        raise MALFORMED_TEMPLATE.error(f"{text[:80]!r} has a segment that is empty or has several variables")
    if not all(_PLAIN.fullmatch(each) for each in literals) or segment in (".", ".."):
        raise MALFORMED_TEMPLATE.error(f"{text[:80]!r} has a segment with characters that are not allowed")
    return parts


def _dns_label(text: str, label: str) -> tuple[Part, ...]:
    try:
        parts = parts_of(label)
    except VestibuleError as error:
        raise MALFORMED_TEMPLATE.error(
            f"in the DNS name {text[:80]!r} a variable is not a whole label"
        ) from error
    if len(parts) != 1 or (isinstance(parts[0], str) and not _LABEL.fullmatch(parts[0].lower())):
        raise MALFORMED_TEMPLATE.error(f"{text[:80]!r} is not a DNS name whose variables are whole labels")
    return parts
