"""What an import makes: files of the intent, as values that remember where each line comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from vestibule.errors import Where
from vestibule.intent.importing import codes
from vestibule.intent.importing.documents import Report
from vestibule.intent.words import NAME, NOT_SERVICES

_PLAIN: Final = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
_QUOTABLE: Final = re.compile(r"[ -&(-~]*")
_NOT_PLAIN: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
_ODD: Final = re.compile(r"[^a-z0-9-]+")


@dataclass(slots=True)
class Item:
    """An entry of a list, and where it comes from."""

    value: Mapping[str, Any]
    where: Where


@dataclass(slots=True)
class File:
    """One file: its keys in order; a value that is a list of ``Item`` is written one item a line."""

    name: str
    where: Where
    keys: dict[str, Any] = field(default_factory=dict)
    places: dict[str, Where] = field(default_factory=dict)

    def put(self, key: str, value: Any, where: Where) -> None:
        self.keys[key] = value
        self.places.setdefault(key, where)

    def items(self, key: str) -> list[Item]:
        """The list under a key, which is made if there is none."""
        found: list[Item] = self.keys.setdefault(key, [])
        return found

    def text(self) -> tuple[str, list[tuple[str, int | None]]]:
        """The file, and for each of its lines the key and the item it holds."""
        lines: list[str] = []
        holds: list[tuple[str, int | None]] = []
        for key, value in self.keys.items():
            if isinstance(value, list) and value and isinstance(value[0], Item):
                lines.append(f"{key}:")
                holds.append((key, None))
                for number, item in enumerate(value):
                    lines.append(f"  - {flow(item.value)}")
                    holds.append((key, number))
            else:
                lines.append(f"{key}: {flow(value)}")
                holds.append((key, None))
        return "\n".join(lines) + "\n", holds


def flow(value: Any) -> str:
    """YAML in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(str(key))}: {flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in _NOT_PLAIN
        if plain:
            return value
        # A condition is full of quotes, which nobody wants to read escaped.
        return f"'{value}'" if '"' in value and _QUOTABLE.fullmatch(value) else json.dumps(value)
    return json.dumps(value)


def name_of(text: str) -> str:
    """A name of the intent made of what is called so elsewhere; empty if there is none."""
    short = _ODD.sub("-", text.lower()).strip("-")[:63].strip("-")
    short = short if re.match("[a-z]", short) else f"x-{short}"[:63].rstrip("-") if short else ""
    return short if re.fullmatch(NAME, short) and short not in NOT_SERVICES else ""


@dataclass(slots=True)
class Port:
    """A port of a service, as far as documents tell."""

    name: str
    number: int
    protocol: str
    target: int = 0
    """Where the workload listens, which is what policies name; 0: not known."""


@dataclass(slots=True)
class Service:
    """What is known of one service."""

    name: str
    namespace: str
    where: Where
    ports: list[Port] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    subsets: dict[str, str] = field(default_factory=dict)
    rules: list[Item] = field(default_factory=list)
    denials: list[Item] = field(default_factory=list)
    routes: list[Item] = field(default_factory=list)
    settings: dict[str, tuple[Any, Where]] = field(default_factory=dict)
    app: str | None = None
    """The label ``app`` of its workloads; None: no Service document says it."""
    spoken_of: bool = False
    """Whether an authorization policy says anything of it."""

    def port(self, number: int) -> Port | None:
        return next((each for each in self.ports if each.number == number), None)


@dataclass(slots=True)
class Result:
    """All that is made, and what there is to tell."""

    trust_domain: str
    environment: str
    report: Report = field(default_factory=Report)
    services: dict[str, Service] = field(default_factory=dict)
    externals: dict[str, File] = field(default_factory=dict)

    def service(self, host: str, namespace: str, where: Where) -> Service | None:
        """The service that a host name means, which is made known; None for one outside or a pattern."""
        short, _, rest = host.partition(".")
        if "*" in host or (rest and not _is_of_cluster(rest)):
            return None
        name, space = name_of(short), (rest.split(".")[0] if rest else namespace)
        # A name that would have to be changed might become another's.
        if not name or name != short:
            return None
        known = self.services.get(name)
        if known is not None and known.namespace != space:
            return None
        if known is None:
            known = self.services[name] = Service(name, space, where)
        return known

    def assume_port(self, service: Service, number: int, protocol: str, where: Where) -> Port:
        """The port of this number, which no document describes; told once."""
        known = service.port(number)
        if known is None:
            known = Port(f"{protocol}-{number}", number, protocol, number)
            service.ports.append(known)
            message = (
                f"port {number} of {service.name} speaks {protocol}, since no Service document says otherwise"
            )
            self.report.add(codes.ASSUMED, message, where)
        return known


def _is_of_cluster(rest: str) -> bool:
    parts = rest.split(".")
    return len(parts) == 1 or parts[1] == "svc"
