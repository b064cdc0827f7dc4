"""From a directory, or from files already in memory, to a checked intent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from vestibule.intent import codes, language, resolving
from vestibule.intent.files import MESH, SERVICES, UP, Directory, Tree, problem, read_file, read_tree, shown
from vestibule.intent.meshes import build_defaults, build_mesh
from vestibule.intent.model import App, Defaults, Intent, Service, UpFile
from vestibule.intent.nodes import START, Position, parse
from vestibule.intent.ports import build_ports
from vestibule.intent.problems import Findings, Problem, Severity, nearest
from vestibule.intent.services import build_service
from vestibule.intent.shapes import Fields, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """An intent, or None if any problem is an error; warnings come with either.  ``files`` are what was read."""

    intent: Intent | None
    problems: tuple[Problem, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}), repr=False, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedUp:
    """An ``up.yaml``, or None if any problem is an error."""

    up: UpFile | None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _ServiceFile:
    name: str
    at: Position
    fields: Fields | None
    findings: Findings


def load(directory: Path) -> Loaded:
    """Read ``mesh.yaml`` and ``services/*.yaml``.  What is wrong comes back as problems; nothing is raised."""
    return load_tree(Directory(directory))


def load_tree(tree: Tree) -> Loaded:
    """The same from a directory or a commit."""
    files, problems = read_tree(tree)
    unread = {found.where.file for found in problems}
    loaded = load_files(files, unread=frozenset(unread))
    return _loaded(loaded.intent, (*problems, *loaded.problems), files)


def load_files(files: Mapping[str, bytes], *, unread: frozenset[str] = frozenset()) -> Loaded:
    """The same from contents by relative path; files of other names are not looked at.

    ``unread`` names files that exist and could not be read, so that what refers to them is not called unknown.
    """
    mesh_findings = Findings(MESH)
    mesh = _fields(language.MESH_FILE, files.get(MESH), mesh_findings)
    services = [_service_file(name, files[name]) for name in sorted(files) if name.startswith(f"{SERVICES}/")]
    declared = {found.name: (found.at, found.findings) for found in reversed(services) if found.name}
    names = resolving.identities(mesh, declared)
    hidden = {Path(name).stem: None for name in unread if name.startswith(f"{SERVICES}/")}
    names = replace(names, services={**hidden, **names.services})
    names = resolving.roles(mesh, names, mesh_findings)
    defaults = build_defaults(mesh, mesh_findings)
    ports = {each.name: build_ports(each.fields, each.findings) for each in services if each.fields}
    names = replace(names, ports=ports)
    built = [_build(found, names, defaults) for found in services]
    problems = [*_missing(files, unread), *mesh_findings.problems()]
    problems += [each for found in services for each in found.findings.problems()]
    intent_mesh = build_mesh(mesh, names, defaults)
    if intent_mesh is None or any(found.severity is Severity.ERROR for found in problems):
        return _loaded(None, tuple(problems), files)
    by_name = {service.name: service for service in built if service}
    intent = Intent(mesh=intent_mesh, services=MappingProxyType(by_name), version=version_of(files))
    return _loaded(intent, tuple(problems), files)


def load_up(directory: Path, intent: Intent | None) -> LoadedUp:
    """Read ``up.yaml``; with an intent, every app must be one of its services."""
    content, found = read_file(Directory(directory), UP)
    if content is None:
        return LoadedUp(up=None, problems=(found,) if found else ())
    return load_up_text(content, intent)


def load_up_text(content: bytes, intent: Intent | None) -> LoadedUp:
    """The same from the content of ``up.yaml``."""
    findings = Findings(UP)
    fields = _fields(language.UP_FILE, content, findings)
    table = fields.get(language.APPS) if fields else None
    apps: dict[str, App] = {}
    for name, (at, record) in (table.value if table else {}).items():
        if intent is not None and name not in intent.services:
            close = nearest(name, intent.services)
            advice = f"Did you mean {close!r}?" if close else None
            findings.add(codes.UNKNOWN_NAME, f"there is no service {name!r}", at, advice=advice)
        if record and (app := _app(name, record.value, findings)):
            apps[name] = app
    problems = findings.problems()
    return LoadedUp(up=None if problems else UpFile(apps=MappingProxyType(apps)), problems=problems)


def version_of(files: Mapping[str, bytes]) -> str:
    """A short hash of the files: equal files, equal version, on every machine."""
    digest = hashlib.sha256()
    for name in sorted(files):
        content = hashlib.sha256(files[name]).hexdigest()
        digest.update(f"{content} {name}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:12]


def _loaded(intent: Intent | None, problems: tuple[Problem, ...], files: Mapping[str, bytes]) -> Loaded:
    ordered = sorted(problems, key=lambda found: found.where.file)
    failed = any(found.severity is Severity.ERROR for found in ordered)
    return Loaded(
        intent=None if failed else intent, problems=tuple(ordered), files=MappingProxyType(dict(files))
    )


def _missing(files: Mapping[str, bytes], unread: frozenset[str]) -> list[Problem]:
    if "." in unread:
        return []
    present = {*files, *unread}
    missing = [problem(codes.NO_INTENT, "there is no mesh.yaml", MESH)] if MESH not in present else []
    if not any(name.startswith(f"{SERVICES}/") for name in present):
        # An empty checkout must not read as the wish to have no services.
        missing.append(problem(codes.NO_INTENT, "there is no service", SERVICES))
    return missing


def _fields(record: Record, content: bytes | None, findings: Findings) -> Fields | None:
    if content is None:
        return None
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


def _service_file(name: str, content: bytes) -> _ServiceFile:
    findings = Findings(shown(name))
    fields = _fields(language.SERVICE_FILE, content, findings)
    stem = name.removeprefix(f"{SERVICES}/").removesuffix(".yaml")
    said = fields.get(language.SERVICE) if fields else None
    if said and said.value != stem:
        message = f"the file is named {shown(stem)!r}, and the service in it {said.value!r}"
        findings.add(codes.FILE_NAME_MISMATCH, message, said.at)
    # A file with an error in its name still declares what it is named after.
    return _ServiceFile(
        name=said.value if said else stem, at=said.at if said else START, fields=fields, findings=findings
    )


def _build(found: _ServiceFile, names: resolving.Names, defaults: Defaults) -> Service | None:
    if found.fields is None:
        return None
    return build_service(found.name, found.fields, names, defaults, found.findings)


def _app(service: str, fields: Fields, findings: Findings) -> App | None:
    run, env = fields.get(language.RUN), fields.get(language.ENV)
    if run is None:
        return None
    if not run.value[0].value.strip():
        findings.add(codes.MALFORMED_VALUE, "the command is empty", run.value[0].at)
    written = {key: found.value for key, (_, found) in env.value.items() if found} if env else {}
    return App(
        service=service,
        run=tuple(word.value for word in run.value),
        version=fields.value(language.VERSION, "v1"),
        instances=fields.value(language.INSTANCES, 1),
        env=MappingProxyType(written),
    )
