"""What the file of a lone sidecar says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from vestibule.intent.model import Intent, Service
from vestibule.intent.nodes import Node
from vestibule.intent.outside import HostPort
from vestibule.intent.problems import Problem, Severity
from vestibule.spiffe import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """A service that the app calls.  ``listen`` is the port on 127.0.0.1 where the app finds it, if it is said."""

    name: str
    identity: SpiffeId
    port: str
    addresses: tuple[HostPort, ...]
    listen: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlet:
    """A host outside.  ``listen`` likewise."""

    name: str
    listen: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What is needed to write the file anew as files of an intent: trees, by the intent's own keys."""

    mesh: Mapping[str, Node]
    service: Mapping[str, Node]
    upstreams: Mapping[str, Mapping[str, Node]]
    egress: Mapping[str, Mapping[str, Node]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lone:
    """A valid file.  ``intent`` has the service, its upstreams as services, and its hosts outside.

    ``listen`` is where others reach the service's ports, by their names.  ``callers`` are names that only rules use.
    ``beside`` are the files beside it that it may name.
    """

    file: str
    name: str
    intent: Intent
    listen: Mapping[str, HostPort] = field(default_factory=lambda: MappingProxyType({}))
    upstreams: tuple[Upstream, ...] = ()
    outlets: tuple[Outlet, ...] = ()
    callers: Mapping[str, SpiffeId] = field(default_factory=lambda: MappingProxyType({}))
    egress_port: int | None = None
    beside: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    written: Written

    @property
    def service(self) -> Service:
        """The service beside which the sidecar stands."""
        return self.intent.services[self.name]

    @property
    def identity(self) -> SpiffeId:
        """As whom it speaks."""
        return self.service.spiffe_id


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedLone:
    """A file that was read, or None if any problem is an error; warnings come with either."""

    lone: Lone | None
    problems: tuple[Problem, ...] = ()

    @property
    def errors(self) -> tuple[Problem, ...]:
        """What keeps it from being used."""
        return tuple(each for each in self.problems if each.severity is Severity.ERROR)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What does not."""
        return tuple(each for each in self.problems if each.severity is Severity.WARNING)
