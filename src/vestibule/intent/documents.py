"""Files with their keys read: the mesh, and what is declared in a file of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from vestibule.intent import codes, outside_keys, secret_keys, service_keys, token_keys
from vestibule.intent.built_in import BUILT_IN
from vestibule.intent.files import EGRESS, GATEWAYS, SECRETS, SERVICES, TOKENS, shown
from vestibule.intent.nodes import START, Composed, Position, parse
from vestibule.intent.not_yet import NOT_YET
from vestibule.intent.problems import Findings
from vestibule.intent.shapes import Fields, Key, Record

_KINDS: Final[Mapping[str, tuple[Record, Key[str], str]]] = {
    SERVICES: (service_keys.SERVICE_FILE, service_keys.SERVICE, "service"),
    EGRESS: (outside_keys.EXTERNAL_FILE, outside_keys.EXTERNAL, "external"),
    GATEWAYS: (outside_keys.GATEWAY_FILE, outside_keys.GATEWAY, "gateway"),
    SECRETS: (secret_keys.SECRETS_FILE, secret_keys.SECRETS, "group"),
    TOKENS: (token_keys.TOKENS_FILE, token_keys.TOKENS, "group"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A file of ``services/``, ``egress/``, ``gateways/``, ``secrets/`` or ``tokens/``, and what it declares."""

    folder: str
    name: str
    at: Position
    fields: Fields | None
    findings: Findings

    def apart(self) -> Declared:
        """The same with findings of its own, to which those who use it add."""
        return replace(self, findings=self.findings.copy())


def read_declared(files: Mapping[str, bytes], places: Mapping[str, str]) -> list[Declared]:
    """Every such file, by name; ``places`` are the files' paths."""
    found = [(name, name.partition("/")[0]) for name in sorted(files)]
    refused = frozenset(NOT_YET)
    declared = [
        _declared(folder, name, files[name], shown(places[name]), refused).apart()
        for name, folder in found
        if folder in _KINDS
    ]
    _refuse_shared_names(declared)
    return declared


def read_fields(record: Record, content: bytes | None, findings: Findings) -> Fields | None:
    """The keys of one file."""
    if content is None:
        return None
    if isinstance(content, Composed):
        composed = record.read(content.root, findings)
        return composed.value if composed else None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        findings.add(codes.UNREADABLE_FILE, "the file is not UTF-8", Position(line, 1))
        return None
    document = parse(text)
    findings.add_flaws(document.flaws)
    read = record.read(document.root, findings) if document.root else None
    return read.value if read else None


@lru_cache(maxsize=16_384)
def _declared(folder: str, path: str, content: bytes, place: str, refused: frozenset[str]) -> Declared:
    """Read once for equal contents, so that a changed file costs only itself.  ``refused`` is what is not read yet."""
    record, key, what = _KINDS[folder]
    findings = Findings(place)
    if f"{folder}/" in refused:
        findings.add(codes.NOT_SUPPORTED, f"files under {folder}/ are not supported by this version", None)
    fields = read_fields(record, content, findings)
    stem = path.removeprefix(f"{folder}/").removesuffix(".yaml")
    said = fields.get(key) if fields else None
    if said and said.value != stem:
        message = f"the file is named {shown(stem)!r}, and the {what} in it {said.value!r}"
        findings.add(codes.FILE_NAME_MISMATCH, message, said.at)
    # A file with an error in its name still declares what it is named after.
    name, at = (said.value, said.at) if said else (stem, START)
    return Declared(folder=folder, name=name, at=at, fields=fields, findings=findings)


def _refuse_shared_names(declared: Iterable[Declared]) -> None:
    folders: dict[str, str] = {}
    # Nobody calls a group of secrets or tokens: its name is one among groups.
    for each in (each for each in declared if each.folder not in (SECRETS, TOKENS)):
        if each.name in BUILT_IN:
            message = f"the name {each.name!r} is that of a service of the platform"
            each.findings.add(codes.BUILT_IN_NAME, message, each.at)
        if folders.setdefault(each.name, each.folder) != each.folder:
            message = f"the name {each.name!r} is taken, in {folders[each.name]}/"
            each.findings.add(codes.NAME_TAKEN, message, each.at)
