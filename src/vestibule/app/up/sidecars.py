"""The sidecars of a run: each with the key that its agent was granted for it, and its app."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vestibule.app.up import commands
from vestibule.app.up.kept import Kept
from vestibule.app.up.places import Places
from vestibule.app.up.plan import InstancePlan
from vestibule.processes import BoundedFile, Ledger, ReadyLine, Spec, secret_descriptor
from vestibule.records import Address

READY: Final = "sidecar ready:"
KEY_BYTES: Final = 32
_INGRESS: Final = "ingress."
_APP: Final = "app."


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where one instance's proxy listens, as its sidecar said when it was ready.  A gateway has no way out."""

    instance_id: str
    ingress: Mapping[str, Address]
    way_out: Address | None = None
    apps: Mapping[str, Address] = field(default_factory=dict)

    @property
    def egress(self) -> Address:
        """The way out of a service's app."""
        assert self.way_out is not None
        return self.way_out

    @classmethod
    def parse(cls, line: str) -> Where:
        """Read a sidecar's ready line.  Raises: ValueError."""
        facts = dict(word.split("=", 1) for word in line.removeprefix(READY).split())
        try:
            return cls(
                instance_id=facts["instance"],
                ingress=_addresses(facts, _INGRESS),
                way_out=Address.parse(facts["egress"]) if facts["egress"] else None,
                apps=_addresses(facts, _APP),
            )
        except KeyError as error:
            raise ValueError(f"the ready line of a sidecar does not say {error}") from error


def _addresses(facts: Mapping[str, str], prefix: str) -> dict[str, Address]:
    return {
        name.removeprefix(prefix): Address.parse(text)
        for name, text in facts.items()
        if name.startswith(prefix)
    }


class SidecarPart:
    """Keeps one instance's sidecar, or a gateway, running."""

    def __init__(self, places: Places, ledger: Ledger, instance: InstancePlan, directory: Path) -> None:
        self.instance = instance
        self.key = secrets.token_bytes(KEY_BYTES)
        spec = Spec(
            name=instance.name,
            command=lambda: commands.sidecar(places, instance, directory, secret_descriptor(self.key)),
            ready=ReadyLine(READY),
            ready_within=60.0,
            # It tries its app several times itself; what it then says should not have to wait.
            attempts=1,
            log=BoundedFile(places.logs / f"{instance.name}.log"),
            # Its drain, its app's patience and its own.
            grace=20.0,
        )
        self.kept = Kept(spec, ledger)

    @property
    def service(self) -> str:
        return self.instance.service

    @property
    def where(self) -> Where:
        """Where its proxy listens; only once it is ready.  Raises: ValueError."""
        return Where.parse(self.kept.ready_line)
