"""From a directory, or from files already in memory, to a checked intent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from vestibule.intent import codes, language, resolving
from vestibule.intent.crossing import warn_of_denied_mirrors, warn_of_denied_routes
from vestibule.intent.documents import Declared, read_declared, read_fields
from vestibule.intent.environments import Chosen, choose, concerns
from vestibule.intent.externals import build_external
from vestibule.intent.files import (
    EGRESS,
    ENVIRONMENTS,
    GATEWAYS,
    MESH,
    SECRETS,
    SERVICES,
    TOKENS,
    UP,
    Directory,
    Tree,
    problem,
    read_file,
    read_tree,
)
from vestibule.intent.gateways import build_gateway
from vestibule.intent.meshes import (
    build_defaults,
    build_issuers,
    build_mesh,
    kinds_of_issuers,
)
from vestibule.intent.model import App, Defaults, Intent, Service, UpFile
from vestibule.intent.outside import External, Gateway
from vestibule.intent.ports import build_ports
from vestibule.intent.problems import Findings, Problem, Severity, nearest
from vestibule.intent.remembering import Memory
from vestibule.intent.roles import resolve_roles, unused_roles
from vestibule.intent.secret_groups import SecretGroup
from vestibule.intent.secret_rules import build_secrets
from vestibule.intent.shapes import At, Fields
from vestibule.intent.token_groups import TokenGroup
from vestibule.intent.token_rules import build_tokens, refuse_shared_audiences
from vestibule.records import Boundary
from vestibule.spiffe import SpiffeId

_SERVICES: Final = Memory()


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


def load(directory: Path, environment: str | None = None) -> Loaded:
    """Read the intent in a directory.  What is wrong comes back as problems; nothing is raised.

    ``environment`` is needed where ``environments/`` holds several.
    """
    return load_tree(Directory(directory), environment)


def load_tree(tree: Tree, environment: str | None = None) -> Loaded:
    """The same from a directory or a commit."""
    files, problems = read_tree(tree)
    unread = frozenset(found.where.file for found in problems)
    loaded = load_files(files, environment, unread=unread)
    concerning = (each for each in problems if concerns(each.where.file, environment))
    return _loaded(loaded.intent, (*concerning, *loaded.problems), loaded.files)


def load_files(
    files: Mapping[str, bytes],
    environment: str | None = None,
    *,
    unread: frozenset[str] = frozenset(),
    identities: Mapping[str, SpiffeId] = MappingProxyType({}),
    place: str | None = None,
) -> Loaded:
    """The same from contents by relative path; files of other names are not looked at.

    ``unread`` names files that exist and could not be read, so that what refers to them is not called unknown.
    ``identities`` are those of services, and of callers without a file, in place of what the template makes of their
    names.  ``place`` is the one file that all of them are parts of.
    """
    chosen = choose(files, unread, environment)
    if place is not None:
        chosen = replace(chosen, places=dict.fromkeys(chosen.places, place))
    mesh_findings = Findings(chosen.place(MESH))
    mesh = read_fields(language.MESH_FILE, chosen.contents.get(MESH), mesh_findings)
    _check_environment(mesh, chosen.name, environment, mesh_findings)
    declared = read_declared(chosen.contents, chosen.places)
    names = _names(mesh, declared, chosen.unread, identities, mesh_findings)
    defaults = build_defaults(mesh, mesh_findings)
    issuers = build_issuers(mesh, chosen.contents, mesh_findings)
    parts = _Parts.build(declared, names, defaults, chosen.contents)
    problems = [*chosen.problems, *_missing(chosen), *mesh_findings.problems()]
    problems += [each for found in declared for each in found.findings.problems()]
    unused = unused_roles(mesh, (each.fields for each in declared))
    intent_mesh = build_mesh(mesh, names, defaults, issuers, unused, mesh_findings)
    if intent_mesh is None or any(found.severity is Severity.ERROR for found in problems):
        return _loaded(None, tuple(problems), chosen.files)
    intent = Intent(
        mesh=intent_mesh,
        services=MappingProxyType(parts.services),
        externals=MappingProxyType(parts.externals),
        gateways=MappingProxyType(parts.gateways),
        secrets=MappingProxyType(parts.secrets),
        tokens=MappingProxyType(parts.tokens),
        version=version_of(chosen.contents),
    )
    return _loaded(intent, tuple(problems), chosen.files)


def load_up(directory: Path, intent: Intent | None, environment: str | None = None) -> LoadedUp:
    """Read ``up.yaml``, an environment's own if it has one; with an intent, every app must be one of its services."""
    own = f"{ENVIRONMENTS}/{environment}/{UP}"
    name = own if environment and (directory / own).exists() else UP
    content, found = read_file(Directory(directory), name)
    if content is None:
        return LoadedUp(up=None, problems=(found,) if found else ())
    return load_up_text(content, intent, name)


def load_up_text(content: bytes, intent: Intent | None, name: str = UP) -> LoadedUp:
    """The same from the content of ``up.yaml``."""
    findings = Findings(name)
    fields = read_fields(language.UP_FILE, content, findings)
    table = fields.get(language.APPS) if fields else None
    apps: dict[str, App] = {}
    for name, (at, record) in (table.value if table else {}).items():
        if intent is not None and name not in intent.services:
            close = nearest(name, intent.services)
            advice = f"Did you mean {close!r}?" if close else None
            findings.add(codes.UNKNOWN_NAME, f"there is no service {name!r}", at, advice=advice)
        service = intent.services.get(name) if intent is not None else None
        if record and (app := _app(At(name, at), record.value, service, findings)):
            apps[name] = app
    gateways = _up_gateways(fields, intent, findings)
    problems = findings.problems()
    boundary = fields.value(language.UP_BOUNDARY, Boundary.TRUST) if fields else Boundary.TRUST
    up = UpFile(apps=MappingProxyType(apps), gateways=gateways, boundary=boundary)
    return LoadedUp(up=None if problems else up, problems=problems)


def _up_gateways(fields: Fields | None, intent: Intent | None, findings: Findings) -> tuple[str, ...]:
    listed = fields.get(language.UP_GATEWAYS) if fields else None
    for each in listed.value if listed and intent is not None else ():
        if intent is not None and each.value not in intent.gateways:
            close = nearest(each.value, intent.gateways)
            advice = f"Did you mean {close!r}?" if close else None
            findings.add(codes.UNKNOWN_NAME, f"there is no gateway {each.value!r}", each.at, advice=advice)
    return tuple(each.value for each in listed.value) if listed else ()


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


def _missing(chosen: Chosen) -> list[Problem]:
    if "." in chosen.unread:
        return []
    present, mesh = {*chosen.contents, *chosen.unread}, chosen.place(MESH)
    missing = [problem(codes.NO_INTENT, "there is no mesh.yaml", mesh)] if MESH not in present else []
    if not any(name.startswith(f"{SERVICES}/") for name in present):
        # An empty checkout must not read as the wish to have no services.
        missing.append(problem(codes.NO_INTENT, "there is no service", SERVICES))
    return missing


def _check_environment(
    mesh: Fields | None, folder: str | None, wanted: str | None, findings: Findings
) -> None:
    said = mesh.get(language.ENVIRONMENT) if mesh else None
    if said is None:
        return
    if folder is not None and said.value != folder:
        message = f"the folder is named {folder!r}, and the environment in it {said.value!r}"
        findings.add(codes.FILE_NAME_MISMATCH, message, said.at)
    elif folder is None and wanted is not None and said.value != wanted:
        message = f"this is the environment {said.value!r}, and {wanted!r} is meant"
        findings.add(codes.WHICH_ENVIRONMENT, message, said.at)


def _names(
    mesh: Fields | None,
    declared: list[Declared],
    unread: frozenset[str],
    identities: Mapping[str, SpiffeId],
    findings: Findings,
) -> resolving.Names:
    places = {
        folder: {each.name: (each.at, each.findings) for each in reversed(declared) if each.folder == folder}
        for folder in (SERVICES, GATEWAYS)
    }
    hidden = {
        folder: {Path(name).stem: None for name in unread if name.startswith(f"{folder}/")}
        for folder in places
    }
    ports = {
        each.name: build_ports(each.fields, each.findings)
        for each in declared
        if each.fields and each.folder == SERVICES
    }
    names = resolving.Names(
        services={**hidden[SERVICES], **resolving.identities(mesh, places[SERVICES]), **identities},
        gateways={**hidden[GATEWAYS], **resolving.identities(mesh, places[GATEWAYS])},
        roles={},
        trust_domain=resolving.trust_domain(mesh),
        ports=ports,
        issuers=kinds_of_issuers(mesh),
    )
    return resolve_roles(mesh, names, findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What could be built of the files, by name."""

    services: dict[str, Service] = field(default_factory=dict)
    externals: dict[str, External] = field(default_factory=dict)
    gateways: dict[str, Gateway] = field(default_factory=dict)
    secrets: dict[str, SecretGroup] = field(default_factory=dict)
    tokens: dict[str, TokenGroup] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        declared: list[Declared],
        names: resolving.Names,
        defaults: Defaults,
        files: Mapping[str, bytes],
    ) -> _Parts:
        services = (each for each in declared if each.folder == SERVICES)
        parts = cls(services=_SERVICES.build(services, names, defaults))
        for each in declared:
            if each.fields is not None and each.folder != SERVICES:
                parts._build(each, each.fields, names, defaults, files)
        refuse_shared_audiences(each for each in declared if each.folder == TOKENS)
        if any(each.findings.failed for each in declared):
            return parts
        for each in declared:
            if each.folder == SERVICES and (service := parts.services.get(each.name)):
                warn_of_denied_mirrors(service, parts.services, each.findings)
            elif each.folder == GATEWAYS and (gateway := parts.gateways.get(each.name)):
                warn_of_denied_routes(gateway, parts.services, each.findings)
        return parts

    def _build(
        self,
        each: Declared,
        fields: Fields,
        names: resolving.Names,
        defaults: Defaults,
        files: Mapping[str, bytes],
    ) -> None:
        if each.folder == EGRESS:
            if external := build_external(each.name, fields, names, defaults, files, each.findings):
                self.externals[each.name] = external
        elif each.folder == SECRETS:
            self.secrets[each.name] = build_secrets(each.name, fields, names, each.findings)
        elif each.folder == TOKENS:
            self.tokens[each.name] = build_tokens(each.name, fields, names, each.findings)
        elif gateway := build_gateway(each.name, fields, names, defaults, each.findings):
            self.gateways[each.name] = gateway


def _app(name: At[str], fields: Fields, service: Service | None, findings: Findings) -> App | None:
    run, others = fields.get(language.RUN), fields.get(language.OTHER_VERSIONS)
    version = fields.get(language.VERSION) or At("v1", name.at)
    _check_version(name.value, version, service, findings)
    if run is None:
        return None
    app = App(
        service=name.value,
        run=_command(run, findings),
        version=version.value,
        instances=fields.value(language.INSTANCES, 1),
        env=_environment(fields),
    )
    found: list[App] = []
    for other, (at, record) in (others.value if others else {}).items():
        if other == app.version:
            message = f"the version {other!r} runs already"
            findings.add(codes.DUPLICATE_ITEM, message, at, advice="Give the other one another version.")
        _check_version(name.value, At(other, at), service, findings)
        if record is not None:
            found.append(_other_version(app, other, record.value, findings))
    return replace(app, others=tuple(found))


def _other_version(app: App, version: str, fields: Fields, findings: Findings) -> App:
    run = fields.get(language.OTHER_RUN)
    return replace(
        app,
        version=version,
        run=_command(run, findings) if run else app.run,
        instances=fields.value(language.INSTANCES, 1),
        env=MappingProxyType({**app.env, **_environment(fields)}),
    )


def _check_version(name: str, version: At[str], service: Service | None, findings: Findings) -> None:
    versions = service.traffic.versions if service else ()
    if versions and version.value not in versions:
        message = f"the service {name!r} has no version {version.value!r}"
        fix = resolving.advice(version.value, versions, "versions")
        findings.add(codes.UNKNOWN_NAME, message, version.at, advice=fix)


def _command(run: At[tuple[At[str], ...]], findings: Findings) -> tuple[str, ...]:
    if not run.value[0].value.strip():
        findings.add(codes.MALFORMED_VALUE, "the command is empty", run.value[0].at)
    return tuple(word.value for word in run.value)


def _environment(fields: Fields) -> Mapping[str, str]:
    env = fields.get(language.ENV)
    return MappingProxyType(
        {key: found.value for key, (_, found) in env.value.items() if found} if env else {}
    )
