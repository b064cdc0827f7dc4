"""From the text of a lone sidecar's file to what it says.

The parts are put together to the files of an intent, with their places, and read as such: there is one meaning.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, Final

from vestibule.errors import Where
from vestibule.intent import service_keys
from vestibule.intent.codes import DUPLICATE_ITEM, MISSING_KEY, UNKNOWN_KEY, UNREADABLE_FILE
from vestibule.intent.loading import Loaded, load_files
from vestibule.intent.lone import codes, keys
from vestibule.intent.lone.model import LoadedLone, Lone, Outlet, Upstream, Written
from vestibule.intent.model import Intent, IssuerKind, Protocol
from vestibule.intent.nodes import START, Composed, Kind, Node, Position, Scalar, Sequence, parse
from vestibule.intent.nodes import Mapping as Tree
from vestibule.intent.outside import HostPort
from vestibule.intent.problems import Findings, Problem
from vestibule.intent.shapes import At, Fields, Key
from vestibule.intent.template import is_reserved
from vestibule.policy import Mode
from vestibule.policy.central import why_central
from vestibule.spiffe import SpiffeId

_BY_CALLERS: Final = frozenset(each.name for each in keys.OF_CALLERS)
_BY_SERVERS: Final = frozenset({"health", "locality", "versions", "decide", "rollout"})
_RULE: Final = "lone"
"""Under which rule an upstream lets this caller call, as far as its own proxy has to know."""


def read_lone(content: bytes, file: str, beside: Mapping[str, bytes] | None = None) -> LoadedLone:
    """Read the file.  ``beside`` are files that it may name, by their paths from where it is: ``certs/``, ``keys/``.

    Places are told by its last name alone: denied callers may see them, who need not know where it is.
    """
    name = PurePath(file).name
    findings = Findings(name)
    fields = _fields(content, findings)
    reading = _Reading.of(fields, findings) if fields is not None else None
    if reading is None:
        return LoadedLone(lone=None, problems=findings.problems())
    loaded = reading.load(name, beside or {})
    intent = loaded.intent
    if intent is not None:
        intent = replace(intent, version=hashlib.sha256(content).hexdigest()[:12])
        _check_needs(intent, reading, findings)
    problems = tuple(sorted((*findings.problems(), *loaded.problems), key=_place))
    if intent is None or findings.failed:
        return LoadedLone(lone=None, problems=problems)
    return LoadedLone(lone=reading.lone(file, intent, beside or {}), problems=problems)


def _place(problem: Problem) -> tuple[int, int]:
    return problem.where.line or 0, problem.where.column or 0


def _fields(content: bytes, findings: Findings) -> Fields | None:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        findings.add(UNREADABLE_FILE, "the file is not UTF-8", Position(line, 1))
        return None
    document = parse(text)
    findings.add_flaws(document.flaws)
    root = document.root
    if isinstance(root, Tree):
        root = Tree(root.at, tuple(each for each in root.entries if not _refused(each[0], findings)))
    read = keys.LONE_FILE.read(root, findings) if root is not None else None
    return read.value if read else None


def _refused(name: Scalar, findings: Findings) -> bool:
    """Words of the intent that mean nothing here, and where to say it instead."""
    if name.text in _BY_CALLERS:
        message = f"{name.text!r} is what a caller's proxy does, and no caller reads this file"
        fix = f"Write it in the callers' files, under upstreams: NAME: {name.text}."
    elif name.text in _BY_SERVERS:
        message, fix = f"{name.text!r} needs a control plane", "Remove it; in the mesh it can be said."
    else:
        return False
    findings.add(UNKNOWN_KEY, message, name.at, advice=fix)
    return True


# -------------------------------------------------------------------------------------------------- composing


def _text(text: str, at: Position) -> Scalar:
    return Scalar(at, text, Kind.TEXT)


def _tree(at: Position, entries: Mapping[str, Node]) -> Tree:
    return Tree(at, tuple((_text(name, node.at), node) for name, node in entries.items()))


def _list(at: Position, *items: Node) -> Sequence:
    return Sequence(at, items)


def _said(fields: Fields, wanted: tuple[Key[Node], ...]) -> dict[str, Node]:
    return {key.name: found.value for key in wanted if (found := fields.get(key)) is not None}


@dataclass(slots=True, kw_only=True)
class _Reading:
    """What has been read so far, and the files that it makes."""

    fields: Fields
    findings: Findings
    service: At[str]
    identity: At[SpiffeId]
    listen: dict[str, HostPort] = field(default_factory=dict)
    upstreams: list[Upstream] = field(default_factory=list)
    outlets: list[Outlet] = field(default_factory=list)
    identities: dict[str, SpiffeId] = field(default_factory=dict)
    own: dict[str, Node] = field(default_factory=dict)
    called: dict[str, dict[str, Node]] = field(default_factory=dict)
    outside: dict[str, dict[str, Node]] = field(default_factory=dict)
    taken: dict[str, Position] = field(default_factory=dict)

    @classmethod
    def of(cls, fields: Fields, findings: Findings) -> _Reading | None:
        service, identity = fields.get(service_keys.SERVICE), fields.get(keys.IDENTITY)
        if service is None or identity is None:
            return None
        made = cls(fields=fields, findings=findings, service=service, identity=identity)
        made._check(identity)
        made._name(service.value, service.at, identity.value)
        made._read()
        return made

    def load(self, file: str, beside: Mapping[str, bytes]) -> Loaded:
        """All of it, as an intent."""
        made: dict[str, bytes] = {name: each for name, each in beside.items() if name != "mesh.yaml"}
        made["mesh.yaml"] = Composed.of(_tree(START, self._mesh()))
        parts = {"services": {self.service.value: self.own, **self.called}, "egress": self.outside}
        for folder, trees in parts.items():
            for name, entries in trees.items():
                at = next(iter(entries.values())).at
                made[f"{folder}/{name}.yaml"] = Composed.of(_tree(at, entries))
        return load_files(made, identities=self.identities, place=file)

    def lone(self, file: str, intent: Intent, beside: Mapping[str, bytes]) -> Lone:
        """What the file says, all of which holds."""
        called = {each.name for each in self.upstreams} | {self.service.value}
        return Lone(
            file=file,
            name=self.service.value,
            intent=intent,
            listen=MappingProxyType(self.listen),
            upstreams=tuple(self.upstreams),
            outlets=tuple(self.outlets),
            callers=MappingProxyType(
                {name: each for name, each in self.identities.items() if name not in called}
            ),
            egress_port=self.fields.value(keys.EGRESS_PORT, None),
            beside=MappingProxyType(dict(beside)),
            written=Written(
                mesh=_said(self.fields, keys.OF_THE_MESH),
                service=self.own,
                upstreams=self.called,
                egress=self.outside,
            ),
        )

    # The parts.

    def _read(self) -> None:
        at = self.service.at
        ports = {**self._ports(), **self._opaque_ports()}
        self.own = {"service": _text(self.service.value, at), **_said(self.fields, keys.OF_THE_SERVICE)}
        if ports:
            self.own["ports"] = _tree(self.fields.place(keys.PORTS) or at, ports)
        for name, (place, found) in _table(self.fields, keys.CALLERS):
            if found is not None:
                self._check(found)
                self._name(name, place, found.value)
        for name, (place, found) in _table(self.fields, keys.UPSTREAMS):
            if found is not None:
                self._upstream(At(name, place), found.value)
        for name, (place, found) in _table(self.fields, keys.EGRESS):
            if found is not None:
                self._outlet(At(name, place), found.value)

    def _name(self, name: str, at: Position, identity: SpiffeId | None) -> None:
        if name in self.taken:
            message = f"the name {name!r} is taken in line {self.taken[name].line}"
            self.findings.add(codes.SELF_CALL, message, at)
        self.taken.setdefault(name, at)
        if identity is not None:
            self.identities.setdefault(name, identity)

    def _check(self, identity: At[SpiffeId]) -> None:
        found, own = identity.value, self.identity.value
        why = ""
        if found.trust_domain != own.trust_domain:
            why = f"is not of the trust domain {own.trust_domain}"
        elif not found.path:
            why = "is a trust domain and no workload"
        elif is_reserved(found):
            why = "belongs to servers, agents or the platform"
        if why:
            self.findings.add(codes.FOREIGN_IDENTITY, f"{found} {why}", identity.at)

    def _ports(self) -> dict[str, Node]:
        ports: dict[str, Node] = {}
        for name, (_, found) in _table(self.fields, keys.PORTS):
            if found is None:
                continue
            node, said = found.value, None
            if isinstance(node, Tree):
                inner = [each for each in node.entries if each[0].text != keys.LISTEN.name]
                said = next((each for each in node.entries if each[0].text == keys.LISTEN.name), None)
                if said is None:
                    fix = f"Add {keys.LISTEN.name}: {keys.LISTEN.doc}"
                    self.findings.add(MISSING_KEY, "a port lacks the key 'listen'", node.at, advice=fix)
                node = Tree(node.at, tuple(inner))
            place = keys.LISTEN.shape.read(said[1], self.findings) if said else None
            if place is not None:
                self._listens(name, place)
            ports[name] = node
        return ports

    def _listens(self, name: str, said: At[HostPort | int]) -> None:
        place = keys.place_of(said.value, self._address)
        for other, there in self.listen.items():
            if there == place:
                message = f"the ports {other!r} and {name!r} listen at the same place"
                self.findings.add(DUPLICATE_ITEM, message, said.at, advice="Give each a place of its own.")
        self.listen[name] = place

    @property
    def _address(self) -> str:
        return self.fields.value(keys.ADDRESS, "127.0.0.1")

    def _opaque_ports(self) -> dict[str, Node]:
        listed = self.fields.get(keys.OPAQUE_PORTS)
        ports: dict[str, Node] = {}
        if listed is None:
            return ports
        if self._address in _NOT_OWN or self._address.startswith("127."):
            message = f"opaque ports cannot be taken in at {self._address}, where the app has them itself"
            self.findings.add(codes.OPAQUE_ADDRESS, message, listed.at)
        for each in listed.value:
            for number in keys.ports_of(each.value):
                name = f"opaque-{number}"
                if name in ports:
                    self.findings.add(DUPLICATE_ITEM, f"port {number} is listed twice", each.at)
                ports[name] = _tree(
                    each.at,
                    {
                        "app": Scalar(each.at, str(number), Kind.INTEGER),
                        "protocol": _text("tcp", each.at),
                    },
                )
                self._listens(name, At(number, each.at))
        return ports

    def _upstream(self, name: At[str], fields: Fields) -> None:
        identity, where = fields.get(keys.UPSTREAM_IDENTITY), fields.get(keys.ADDRESSES)
        protocol = fields.get(keys.UPSTREAM_PROTOCOL)
        if identity is not None:
            self._check(identity)
        self._name(name.value, name.at, identity.value if identity else None)
        if identity is None or where is None or protocol is None:
            return
        node = protocol.value
        named = fields.get(keys.UPSTREAM_PORT)
        port = named.value if named else _port_name(node)
        rule = _tree(
            name.at,
            {
                "id": _text(_RULE, name.at),
                "from": _list(name.at, _text(self.service.value, name.at)),
            },
        )
        self.called[name.value] = {
            "service": _text(name.value, name.at),
            "ports": _tree(name.at, {port: _tree(node.at, {"protocol": node})}),
            "allow": _list(name.at, rule),
            **_said(fields, keys.OF_CALLERS),
        }
        self.upstreams.append(
            Upstream(
                name=name.value,
                identity=identity.value,
                port=port,
                addresses=tuple(each.value for each in where.value),
                listen=fields.value(keys.UPSTREAM_LISTEN, None),
            )
        )

    def _outlet(self, name: At[str], fields: Fields) -> None:
        self._name(name.value, name.at, None)
        entries: dict[str, Node] = {"external": _text(name.value, name.at)}
        for key in keys.OUTSIDE.keys:
            found: At[Any] | None = fields.get(key) if key is not keys.UPSTREAM_LISTEN else None
            if found is not None:
                entries[key.name] = self._from_here(found.value) if key.name == "allow" else found.value
        self.outside[name.value] = entries
        self.outlets.append(Outlet(name=name.value, listen=fields.value(keys.UPSTREAM_LISTEN, None)))

    def _from_here(self, rules: Node) -> Node:
        """Rules are about this caller, unless they say so themselves."""
        if not isinstance(rules, Sequence):
            return rules
        return Sequence(rules.at, tuple(map(self._with_caller, rules.items)))

    def _with_caller(self, rule: Node) -> Node:
        if not isinstance(rule, Tree) or any(name.text == "from" for name, _ in rule.entries):
            return rule
        caller = (_text("from", rule.at), _list(rule.at, _text(self.service.value, rule.at)))
        return Tree(rule.at, (*rule.entries, caller))

    def _mesh(self) -> dict[str, Node]:
        identity, at = self.identity.value, self.identity.at
        said = self.fields.get(keys.ENVIRONMENT)
        environment = said.value if said else environment_of(identity)
        return {
            "mesh": _text(self.fields.value(keys.MESH, "lone"), at),
            "trust_domain": _text(identity.trust_domain.name, at),
            "environment": _text(environment, at),
            **_said(self.fields, keys.OF_THE_MESH),
        }


_NOT_OWN: Final = frozenset({"0.0.0.0", "::", "::1"})  # noqa: S104 - which is refused


def environment_of(identity: SpiffeId) -> str:
    """The one in the identity, where it has the usual form."""
    found = re.fullmatch(r"/ns/([a-z]([a-z0-9-]{0,61}[a-z0-9])?)/sa/[^/]+", identity.path)
    return found[1] if found else "lone"


def _port_name(protocol: Node) -> str:
    return protocol.text if isinstance(protocol, Scalar) and protocol.text in _PROTOCOLS else "http"


_PROTOCOLS: Final = frozenset(each.value for each in Protocol)


def _table(fields: Fields, key: Key[Any]) -> Iterator[tuple[str, tuple[Position, At[Any] | None]]]:
    found = fields.get(key)
    yield from found.value.items() if found else ()


# ------------------------------------------------------------------------------------------------------ needs


def _check_needs(intent: Intent, reading: _Reading, findings: Findings) -> None:
    """What only a server has."""
    table = reading.fields.get(keys.ISSUERS)
    for issuer in intent.mesh.issuers.values():
        if issuer.kind is not IssuerKind.FILE:
            message = f"the keys of the issuer {issuer.name!r} are known to servers only"
            findings.add(codes.NEEDS_SERVER, message, table.at if table else None)
    service = intent.services[reading.service.value]
    for rule in (*service.allow, *service.deny):
        if rule.token is not None and rule.token.inject:
            message = f"the rule {rule.name} wants callers' sidecars to get tokens of a server's"
            findings.add(codes.NEEDS_SERVER, message, _position(rule.where))
        if rule.mode is Mode.ENFORCE and (why := why_central(rule)):
            findings.add(codes.NEEDS_DECISIONS, f"the rule {rule.name}: {why}", _position(rule.where))


def _position(where: Where | None) -> Position | None:
    if where is None or where.line is None:
        return None
    return Position(where.line, where.column or 1)
