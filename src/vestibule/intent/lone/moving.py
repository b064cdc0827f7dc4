"""A set of lone sidecars' files as one intent, in which the same callers may make the same calls.

What each file says of its own service is taken over as it stands.  What callers say of the services that they call
(time, tries, routes, limits) the called service says in a mesh, so callers have to agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from vestibule.errors import ErrorCode, Where
from vestibule.intent import template
from vestibule.intent.importing.documents import Report
from vestibule.intent.importing.result import File, Item
from vestibule.intent.loading import load_files
from vestibule.intent.lone import codes
from vestibule.intent.lone.keys import OF_CALLERS
from vestibule.intent.lone.model import Lone, Upstream
from vestibule.intent.lone.values import value_of
from vestibule.intent.model import DEFAULT_TEMPLATE, Intent, Service
from vestibule.intent.outside import External
from vestibule.intent.problems import Problem, Severity
from vestibule.policy import Rule, may_call
from vestibule.spiffe import SpiffeId

_SETTINGS: Final = tuple(each.name for each in OF_CALLERS)
_OF_REQUESTS: Final = frozenset({"timeout", "retry", "routes"})
_ANYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - which says nothing of where callers find it
THIS_MACHINE: Final = "THIS-MACHINE"
"""Stands in a command where nobody said under which address callers reach the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """The intent's files by name, what there is to tell, and how each sidecar is started from now on.

    Without files if any problem is an error.
    """

    files: Mapping[str, str | bytes]
    problems: tuple[Problem, ...]
    commands: Mapping[str, tuple[str, ...]]


def move(lones: Sequence[Lone], *, mesh: str | None = None) -> Moved:
    """Make one intent of valid files, at least one."""
    moving = _Moving(tuple(sorted(lones, key=lambda each: each.name)), mesh)
    return moving.run()


@dataclass(slots=True)
class _Moving:
    lones: tuple[Lone, ...]
    mesh: str | None
    report: Report = field(default_factory=Report)
    names: dict[SpiffeId, str] = field(default_factory=dict)
    """The services of the mesh to be, by their identities."""

    def run(self) -> Moved:
        self.names = {each.identity: each.name for each in self.lones}
        pattern = self._pattern()
        self._refuse_repeats()
        made: list[File] = []
        if pattern is not None:
            made = [self._mesh(pattern), *map(self._service, self.lones), *self._externals()]
        beside = self._beside()
        self._tell_of_calls()
        texts: dict[str, str | bytes] = {each.name: each.text()[0] for each in made}
        if not self.report.failed:
            self._check({**{name: str(text).encode() for name, text in texts.items()}, **beside})
        if self.report.failed:
            return Moved(
                files=MappingProxyType({}), problems=self.report.sorted(), commands=MappingProxyType({})
            )
        return Moved(
            files=MappingProxyType({**texts, **beside}),
            problems=self.report.sorted(),
            commands=MappingProxyType({each.name: tuple(self._command(each)) for each in self.lones}),
        )

    def _error(self, code: ErrorCode, message: str, lone: Lone) -> None:
        self.report.add(code, message, Where(file=lone.file), Severity.ERROR)

    def _tell(self, code: ErrorCode, message: str, lone: Lone) -> None:
        self.report.add(code, message, Where(file=lone.file))

    # What there can be only one of.

    def _refuse_repeats(self) -> None:
        first: dict[object, Lone] = {}
        for lone in self.lones:
            for key in (lone.name, lone.identity):
                if (other := first.setdefault(key, lone)) is not lone:
                    self._error(codes.SAID_TWICE, f"{key} is that of {other.file}, too", lone)

    def _pattern(self) -> str | None:
        """The template that gives every service the identity that it has."""
        patterns = [set(_patterns(each)) for each in self.lones]
        found = set.intersection(*patterns)
        domains = {each.identity.trust_domain for each in self.lones}
        if not found or len(domains) > 1:
            first = self.lones[0]
            other = next(
                (lone for lone, each in zip(self.lones, patterns, strict=True) if not each & patterns[0]),
                first,
            )
            said = f"{other.identity} of {other.name} has no pattern in common with "
            said += f"{first.identity} of {first.name}" if other is not first else "its name"
            self._error(codes.NO_COMMON_TEMPLATE, said, other)
            return None
        return max(found, key=lambda each: each.rindex("{service}"))

    def _agreed(self, what: str, said: Iterable[tuple[Lone, Any]]) -> Any:
        """The one thing that is said; None if it is not one."""
        found: list[tuple[Lone, Any]] = []
        for lone, value in said:
            if found and value != found[0][1]:
                message = f"{what} of {lone.name} is not that of {found[0][0].name}"
                self._error(codes.SAID_TWICE, message, lone)
            found.append((lone, value))
        return found[0][1] if found else None

    # mesh.yaml.

    def _mesh(self, pattern: str) -> File:
        meshes = ((each, each.intent.mesh.name) for each in self.lones)
        name = self.mesh or self._agreed("the mesh", meshes)
        environment = self._agreed(
            "the environment", ((each, each.intent.mesh.environment) for each in self.lones)
        )
        where = Where(file="mesh.yaml")
        made = File("mesh.yaml", where)
        made.put("mesh", name, where)
        made.put("trust_domain", self.lones[0].identity.trust_domain.name, where)
        made.put("environment", environment, where)
        usual = DEFAULT_TEMPLATE.replace("{environment}", str(environment))
        made.put("identity", DEFAULT_TEMPLATE if pattern == usual else pattern, where)
        calling = [each for each in self.lones if each.upstreams or each.outlets] or self.lones
        defaults = self._agreed(
            "defaults", ((each, value_of(each.written.mesh.get("defaults"))) for each in calling)
        )
        if defaults:
            made.put("defaults", defaults, where)
        if roles := self._merged("roles"):
            made.put("roles", roles, where)
        if issuers := self._merged("issuers"):
            made.put("issuers", issuers, where)
        return made

    def _merged(self, key: str) -> dict[str, Any]:
        """What each file has a table of; of the same name the same has to be said."""
        found: dict[str, tuple[Lone, Any]] = {}
        for lone in self.lones:
            for name, value in (value_of(lone.written.mesh.get(key)) or {}).items():
                said = [self._member(lone, each) for each in value] if key == "roles" else value
                other = found.setdefault(name, (lone, said))
                if other[1] != said:
                    message = f"{key}: {name} of {lone.name} is not that of {other[0].name}"
                    self._error(codes.SAID_TWICE, message, lone)
        return {name: value for name, (_, value) in found.items()}

    def _member(self, lone: Lone, member: Any) -> Any:
        if isinstance(member, Mapping):
            return {**member, "who": self._caller(lone, str(member["who"]))}
        return self._caller(lone, str(member))

    # services/NAME.yaml.

    def _service(self, lone: Lone) -> File:
        where = Where(file=lone.file)
        made = File(f"services/{lone.name}.yaml", where)
        own = {name: value_of(node) for name, node in lone.written.service.items()}
        for key in ("service", "owner", "labels", "ports"):
            if key in own:
                made.put(key, own.pop(key), where)
        for key in ("allow", "deny"):
            rules = own.pop(key, None)
            if rules is not None:
                made.put(key, [Item(self._rule(lone, each), where) for each in rules] or [], where)
        for key, value in own.items():
            made.put(key, value, where)
        for key, value in self._said_by_callers(lone):
            items = [Item(each, where) for each in value] if key == "routes" else value
            made.put(key, items, where)
        return made

    def _rule(self, lone: Lone, rule: Any) -> dict[str, Any]:
        found = dict(rule)
        if isinstance(found.get("from"), list):
            found["from"] = [self._caller(lone, str(each)) for each in found["from"]]
        return found

    def _caller(self, lone: Lone, name: str) -> str:
        """A caller as it is called in the mesh: by its name, if it has a file, else by its identity."""
        known = {each.name: each.identity for each in lone.upstreams} | dict(lone.callers)
        known[lone.name] = lone.identity
        identity = known.get(name)
        return name if identity is None else self.names.get(identity, str(identity))

    def _callers_of(self, callee: Lone) -> Iterator[tuple[Lone, Upstream]]:
        for lone in self.lones:
            for upstream in lone.upstreams:
                if upstream.identity == callee.identity:
                    yield lone, upstream

    def _said_by_callers(self, callee: Lone) -> Iterator[tuple[str, Any]]:
        said = [
            (lone, upstream, lone.written.upstreams[upstream.name])
            for lone, upstream in self._callers_of(callee)
        ]
        for key in _SETTINGS:
            values: list[Any] = []
            for lone, upstream, node in said:
                port = lone.intent.services[upstream.name].ports[upstream.port]
                if key in _OF_REQUESTS and not port.protocol.is_http:
                    continue
                value = value_of(node.get(key))
                if key == "routes" and value and len(callee.service.ports) > 1:
                    value = [{"port": _port_at(callee, upstream), **each} for each in value]
                values.append(value)
            if values and all(each == values[0] for each in values):
                if values[0] is not None:
                    yield key, values[0]
                continue
            if values:
                callers = ", ".join(sorted({lone.name for lone, _, _ in said}))
                message = f"{key} of calls to {callee.name} is said differently by {callers}"
                self._tell(codes.CALLERS_DIFFER, message, callee)

    # egress/NAME.yaml.

    def _externals(self) -> Iterator[File]:
        every: dict[str, list[Lone]] = {}
        for lone in self.lones:
            for name in lone.written.egress:
                every.setdefault(name, []).append(lone)
        for name, lones in sorted(every.items()):
            yield self._external(name, lones)

    def _external(self, name: str, lones: list[Lone]) -> File:
        where = Where(file=lones[0].file)
        made = File(f"egress/{name}.yaml", where)
        said = [
            (lone, {key: value_of(node) for key, node in lone.written.egress[name].items() if key != "allow"})
            for lone in lones
        ]
        agreed = self._agreed(f"egress: {name}", said)
        for key, value in (agreed or {}).items():
            made.put(key, value, where)
        rules: dict[str, Item] = {}
        for lone in lones:
            for each in value_of(lone.written.egress[name].get("allow")) or ():
                rule = self._rule(lone, each)
                if rule["id"] in rules:
                    rule["id"] = f"{lone.name}-{rule['id']}"[:63].rstrip("-")
                rules.setdefault(rule["id"], Item(rule, Where(file=lone.file)))
        made.put("allow", list(rules.values()), where)
        return made

    def _beside(self) -> dict[str, bytes]:
        found: dict[str, tuple[Lone, bytes]] = {}
        for lone in self.lones:
            for name, content in lone.beside.items():
                other = found.setdefault(name, (lone, content))
                if other[1] != content:
                    message = f"{name} beside {lone.file} is not that beside {other[0].file}"
                    self._error(codes.SAID_TWICE, message, lone)
        return {name: content for name, (_, content) in found.items()}

    # What there is to tell.

    def _tell_of_calls(self) -> None:
        by_identity = {each.identity: each for each in self.lones}
        for lone in self.lones:
            for upstream in lone.upstreams:
                callee = by_identity.get(upstream.identity)
                if callee is None:
                    message = (
                        f"{lone.name} calls {upstream.name}, {upstream.identity}, which has no file here"
                    )
                    self._tell(codes.NOT_AMONG, message, lone)
                    continue
                if not may_call(callee.service.allow, lone.identity):
                    message = f"{callee.name} has no rule that lets {lone.name} call"
                    self._tell(codes.NOT_ALLOWED_THERE, message, lone)
                name = _destination(callee, upstream)
                if name != upstream.name:
                    message = f"{lone.name} calls {name} by the name {upstream.name}"
                    self._tell(codes.CALLED_OTHERWISE, message, lone)

    def _check(self, files: Mapping[str, bytes]) -> None:
        """Our own validator has the last word, and the meaning must be the same."""
        loaded = load_files(files)
        for each in loaded.problems:
            if each.severity is Severity.ERROR:
                self.report.problems.append(each)
        intent = loaded.intent
        if intent is None:
            return
        for lone in self.lones:
            if not _means_the_same(lone, intent):
                message = f"{lone.name} would not allow exactly what {lone.file} allows"
                self._error(codes.MEANS_OTHERWISE, message, lone)

    # How it goes on.

    def _command(self, lone: Lone) -> Iterator[str]:
        yield from ("vestibule", "sidecar", "--service", lone.name)
        for name, port in sorted(lone.service.ports.items()):
            if port.app_port is not None:
                yield from ("--app-port", f"{name}={port.app_port}")
        if lone.listen:
            yield from ("--ingress-address", self._reached_at(lone))
        for name, place in sorted(lone.listen.items()):
            yield from ("--ingress-port", f"{name}={place.port}")
        if lone.egress_port is not None:
            yield from ("--egress-port", str(lone.egress_port))
        by_identity = {each.identity: each for each in self.lones}
        for upstream in lone.upstreams:
            callee = by_identity.get(upstream.identity)
            if upstream.listen is not None and callee is not None:
                yield from ("--upstream-port", f"{_destination(callee, upstream)}={upstream.listen}")
        for outlet in lone.outlets:
            if outlet.listen is not None:
                yield from ("--upstream-port", f"{outlet.name}={outlet.listen}")

    def _reached_at(self, lone: Lone) -> str:
        """One address for all ports: its own, or the one by which callers know it."""
        own = {each.host for each in lone.listen.values()}
        if len(own) == 1 and not own & _ANYWHERE:
            return own.pop()
        dialled = {place.host for _, each in self._callers_of(lone) for place in each.addresses}
        numbers = {each for each in dialled if re.fullmatch(r"[0-9.]+|[0-9a-f:]*:[0-9a-f:]*", each)}
        return numbers.pop() if len(numbers) == 1 else THIS_MACHINE


def _patterns(lone: Lone) -> Iterator[str]:
    """Every template that makes this identity of this name."""
    segments = lone.identity.path.split("/")
    for place, segment in enumerate(segments):
        if segment == lone.name:
            found = "/".join([*segments[:place], "{service}", *segments[place + 1 :]])
            if template.parse(found):
                yield found


def _port_at(callee: Lone, upstream: Upstream) -> str:
    """Which of the callee's ports a caller means."""
    dialled = {each.port for each in upstream.addresses}
    found = [name for name, place in callee.listen.items() if place.port in dialled]
    if len(found) == 1:
        return found[0]
    return (
        upstream.port if upstream.port in callee.service.ports else next(iter(callee.service.ports), "http")
    )


def _destination(callee: Lone, upstream: Upstream) -> str:
    """What callers call it in a mesh."""
    if len(callee.service.ports) < 2:
        return callee.name
    return f"{callee.name}/{_port_at(callee, upstream)}"


def _means_the_same(lone: Lone, intent: Intent) -> bool:
    now = intent.services.get(lone.name)
    if now is None or now.spiffe_id != lone.identity:
        return False
    if _rules(now) != _rules(lone.service) or dict(now.ports) != dict(lone.service.ports):
        return False
    return all(
        _about(lone.identity, lone.intent.externals.get(name)) == _about(lone.identity, external)
        for name, external in intent.externals.items()
    )


def _rules(service: Service) -> tuple[frozenset[Rule], frozenset[Rule]]:
    return frozenset(service.allow), frozenset(service.deny)


def _about(caller: SpiffeId, external: External | None) -> set[Rule]:
    """What it may do there, not less and not more: another's file may speak of it, too."""
    rules = external.allow if external is not None else ()
    return {
        replace(each, name="", callers=(), anyone=False, reason="")
        for each in rules
        if each.calls_from(caller)
    }
