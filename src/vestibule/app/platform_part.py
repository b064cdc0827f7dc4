"""What a server needs of each service of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from vestibule.app.platform_front import House
from vestibule.app.platform_identity import PlatformIdentity
from vestibule.app.server_mesh import Background
from vestibule.doors.health import Check
from vestibule.net.grpc import Servable
from vestibule.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenancy:
    """A service's place behind the platform's Envoy, and who it is there."""

    house: House
    identity: PlatformIdentity


class Part(Protocol):
    """One service, whether or not there is one."""

    @property
    def tenancy(self) -> Tenancy | None:
        """None where there is none."""
        ...

    @property
    def operators(self) -> Sequence[Servable]:
        """gRPC services for operators on the server's own socket."""
        ...

    def background(self) -> Mapping[str, Background]:
        """What goes on behind the doors, by name."""
        ...

    def checks(self) -> Mapping[str, Check]:
        """What readiness depends on."""
        ...

    def warnings(self) -> Sequence[str]:
        """What an operator should know."""
        ...

    def measured(self, metrics: Metrics) -> None:
        """Register what is counted."""
        ...

    async def drain(self) -> None:
        """Finish what is in flight."""
        ...


class Absent:
    """A service that the settings leave out.  Operators are told so by ``operators``."""

    tenancy: Tenancy | None = None

    def __init__(self, operators: Sequence[Servable]) -> None:
        self.operators = operators

    def background(self) -> Mapping[str, Background]:
        """Nothing."""
        return {}

    def checks(self) -> Mapping[str, Check]:
        """None."""
        return {}

    def warnings(self) -> Sequence[str]:
        """None."""
        return ()

    async def drain(self) -> None:
        """Nothing is in flight."""
