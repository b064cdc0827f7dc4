"""Which systemd unit a process belongs to.

Selectors (as SPIRE names them): ``systemd:id`` (``foo.service``) and ``systemd:fragment_path``.

systemd is asked by pid.  What it answers counts only if the kernel's control groups name the same unit: so an
agent in a PID namespace of its own, whose numbers mean other processes to systemd, gives nobody a wrong unit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from vestibule.attest.workload.cgroups import cgroups_of
from vestibule.attest.workload.codes import AMBIGUOUS_UNIT
from vestibule.attest.workload.ports import Process
from vestibule.spiffe import Selector

TYPE: Final = "systemd"


class Unit(Protocol):
    """What systemd says of a unit; ``fragment_path`` is empty for one without a file."""

    @property
    def id(self) -> str: ...

    @property
    def fragment_path(self) -> str: ...


UnitOf = Callable[[int], Awaitable[Unit | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemdSettings:
    """Where the system bus is."""

    bus: Path = Path("/run/dbus/system_bus_socket")


class SystemdAttestor:
    """Attests by what systemd knows."""

    name: Final = TYPE

    def __init__(self, unit_of: UnitOf) -> None:
        self._unit_of = unit_of

    async def attest(self, process: Process) -> frozenset[Selector]:
        """Nothing for a process without a unit.

        Raises: VST2054, VST2056 (the kernel says otherwise), VST2345, VST2346 (bus), VST2312.
        """
        unit = await self._unit_of(process.pid)
        if unit is None:
            return frozenset()
        # In names that the kernel reserves, systemd puts an underscore in front.
        names = {unit.id, f"_{unit.id}"}
        if not any(names & set(each.path.split("/")) for each in cgroups_of(process)):
            raise AMBIGUOUS_UNIT.error(f"process {process.pid} is not in the control group of {unit.id}")
        found = {Selector(TYPE, f"id:{unit.id}")}
        if unit.fragment_path:
            found.add(Selector(TYPE, f"fragment_path:{unit.fragment_path}"))
        return frozenset(found)
