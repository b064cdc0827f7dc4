"""Which intents are in force, as those see it who compile and describe them."""

from __future__ import annotations

from typing import Protocol

from vestibule.intent import Intent
from vestibule.mesh.revision import Revision
from vestibule.xds.resources import ProxyKey


class Intents(Protocol):
    """Who is to have which intent (``mesh.rolling.Rolling``)."""

    @property
    def revision(self) -> Revision:
        """Grows when any proxy is to have another intent."""
        ...

    def in_force(self) -> tuple[Intent, ...]:
        """What proxies are to have: the intent of most of them, then that of a first wave.  None before the first."""
        ...

    def version_for(self, proxy: ProxyKey) -> str | None:
        """Which of them this proxy is to have."""
        ...

    def cannot_have(self, proxy: ProxyKey, version: str, why: str) -> None:
        """Nothing that the proxy could take follows from this intent."""
        ...
