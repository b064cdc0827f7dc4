"""Intents without a rollout."""

from __future__ import annotations

from vestibule.intent import Intent
from vestibule.mesh.revision import Revision
from vestibule.mesh.source import Source
from vestibule.xds.resources import ProxyKey


class AllAtOnce:
    """``mesh.intents.Intents``: whatever a source has, all proxies are to have."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.failures: list[tuple[ProxyKey, str, str]] = []

    @property
    def revision(self) -> Revision:
        """The source's."""
        return self._source.revision

    def in_force(self) -> tuple[Intent, ...]:
        """The source's intent."""
        intent = self._source.reading.intent
        return () if intent is None else (intent,)

    def version_for(self, proxy: ProxyKey) -> str | None:
        """The source's."""
        del proxy
        return next((each.version for each in self.in_force()), None)

    def cannot_have(self, proxy: ProxyKey, version: str, why: str) -> None:
        """Remembers it."""
        self.failures.append((proxy, version, why))
