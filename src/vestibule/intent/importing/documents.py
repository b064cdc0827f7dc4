"""Kubernetes documents with positions, which notice what of them was never looked at."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from vestibule.errors import ErrorCode, Where
from vestibule.intent.importing import codes
from vestibule.intent.nodes import Kind, Mapping, Node, Position, Scalar, Sequence, parse
from vestibule.intent.problems import Problem, Severity

_BETWEEN: Final = re.compile(r"^---(?:[ \t].*)?$", re.MULTILINE)
# Kept by the cluster, or for people.
_NOT_SPOKEN_OF: Final = frozenset({"apiVersion", "kind", "metadata", "status"})


@dataclass(slots=True)
class Report:
    """What there is to tell of an import, by place."""

    problems: list[Problem] = field(default_factory=list)

    def add(self, code: ErrorCode, message: str, where: Where, severity: Severity = Severity.WARNING) -> None:
        self.problems.append(
            Problem(code=code, message=message, advice=code.advice, where=where, severity=severity)
        )

    @property
    def failed(self) -> bool:
        return any(each.severity is Severity.ERROR for each in self.problems)

    def sorted(self) -> tuple[Problem, ...]:
        """By place, each thing once."""
        found = {(str(each.where), each.code.code, each.message): each for each in self.problems}
        return tuple(
            sorted(
                found.values(),
                key=lambda each: (each.where.file, each.where.line or 0, each.where.column or 0),
            )
        )


@dataclass(slots=True, eq=False)
class Part:
    """A node of a document, and which of its keys somebody has read."""

    node: Node
    file: str
    name: str
    seen: set[str] = field(default_factory=set)
    parts: dict[str, Part] = field(default_factory=dict)
    listed: list[Part] | None = None

    @property
    def where(self) -> Where:
        return Where(file=self.file, line=self.node.at.line, column=self.node.at.column)

    def has(self, key: str) -> bool:
        """Whether a key is there, with something in it."""
        return self._find(key) is not None

    def said_keys(self) -> list[str]:
        """All keys, as they stand."""
        return [key.text for key, _ in self.node.entries] if isinstance(self.node, Mapping) else []

    def part(self, key: str) -> Part | None:
        """What a key holds, which from now on counts as read."""
        found = self._find(key)
        if found is None:
            return None
        self.seen.add(key)
        if key not in self.parts:
            self.parts[key] = Part(found, self.file, f"{self.name}.{key}" if self.name else key)
        return self.parts[key]

    def items(self) -> list[Part]:
        """The items of a list."""
        if self.listed is None:
            nodes = self.node.items if isinstance(self.node, Sequence) else ()
            self.listed = [Part(node, self.file, f"{self.name}[{n}]") for n, node in enumerate(nodes)]
        return self.listed

    def each(self, key: str) -> list[Part]:
        """The items of the list under a key."""
        found = self.part(key)
        return found.items() if found is not None else []

    def text(self, key: str) -> str:
        """The text or number under a key; empty if there is none."""
        found = self.part(key)
        return found.said if found is not None else ""

    def texts(self, key: str) -> list[str]:
        """The texts of the list under a key."""
        return [each.said for each in self.each(key)]

    @property
    def said(self) -> str:
        return self.node.text if isinstance(self.node, Scalar) else ""

    def take(self) -> None:
        """All below counts as read."""
        for key in self.said_keys():
            if (part := self.part(key)) is not None:
                part.take()
            self.seen.add(key)
        for each in self.items():
            each.take()

    def unread(self) -> Iterator[tuple[str, Where]]:
        """Each key that nobody has looked at, by its whole name."""
        if isinstance(self.node, Mapping):
            for key, node in self.node.entries:
                if key.text not in self.seen and not _is_empty(node):
                    at = Where(file=self.file, line=key.at.line, column=key.at.column)
                    yield (f"{self.name}.{key.text}" if self.name else key.text), at
        for part in self.parts.values():
            yield from part.unread()
        for part in self.listed or ():
            yield from part.unread()

    def _find(self, key: str) -> Node | None:
        entries = self.node.entries if isinstance(self.node, Mapping) else ()
        found = next((node for name, node in entries if name.text == key), None)
        return None if found is None or (isinstance(found, Scalar) and found.kind is Kind.NULL) else found


@dataclass(slots=True, eq=False)
class Document:
    """One Kubernetes object."""

    kind: str
    group: str
    name: str
    namespace: str
    root: Part
    annotations: dict[str, str]

    @property
    def spec(self) -> Part:
        empty = Mapping(self.root.node.at, ())
        return self.root.part("spec") or Part(empty, self.root.file, "spec")

    @property
    def where(self) -> Where:
        return self.root.where

    @property
    def title(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


def read(files: Iterable[tuple[str, str]], report: Report) -> list[Document]:
    """All objects of the files, with those of lists among them."""
    found: list[Document] = []
    for file, text in files:
        for chunk in _chunks(text):
            for root in _roots(file, chunk, report):
                found += _objects(root, report)
    return found


def _chunks(text: str) -> Iterator[str]:
    """Each document of a stream, behind as many empty lines as stand before it in the file."""
    begin, lines = 0, 0
    for match in [*_BETWEEN.finditer(text), None]:
        end = match.start() if match else len(text)
        chunk = text[begin:end]
        if any(line.strip() and not line.lstrip().startswith(("#", "...")) for line in chunk.splitlines()):
            yield "\n" * lines + chunk
        if match:
            lines += text.count("\n", begin, match.end())
            begin = match.end()


def _roots(file: str, chunk: str, report: Report) -> Iterator[Part]:
    parsed = parse(chunk)
    for flaw in parsed.flaws:
        where = Where(file=file, line=flaw.at.line, column=flaw.at.column)
        report.add(codes.UNREADABLE_DOCUMENT, flaw.message, where, Severity.ERROR)
    if not parsed.flaws and parsed.root is not None:
        yield Part(parsed.root, file, "")


def _objects(root: Part, report: Report) -> list[Document]:
    if root.text("kind") == "List" or root.text("kind").endswith("List"):
        return [each for item in root.each("items") for each in _objects(item, report)]
    metadata = root.part("metadata") or Part(Mapping(root.node.at, ()), root.file, "metadata")
    kind, name, version = root.text("kind"), metadata.text("name"), root.text("apiVersion")
    if not kind or not name or not version:
        message = "this is no Kubernetes object: it has no kind, apiVersion or metadata.name"
        report.add(codes.UNREADABLE_DOCUMENT, message, root.where, Severity.ERROR)
        return []
    root.seen |= _NOT_SPOKEN_OF
    notes = metadata.part("annotations")
    annotations = {key: notes.text(key) for key in notes.said_keys()} if notes else {}
    namespace = metadata.text("namespace") or "default"
    metadata.take()
    group = version.rpartition("/")[0]
    return [Document(kind, group, name, namespace, root, annotations)]


def _is_empty(node: Node) -> bool:
    if isinstance(node, Scalar):
        return node.kind is Kind.NULL
    return (isinstance(node, Mapping) and not node.entries) or (isinstance(node, Sequence) and not node.items)


START: Final = Position(1, 1)
