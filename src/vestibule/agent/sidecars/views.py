"""The agent's memory of what services look like, so that sidecars can start while the server is away."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from vestibule.records import CheckView, PortView, ServiceView, UpstreamView
from vestibule.spiffe import SpiffeId

MOST_COMMITS: Final = 32
MOST_VERSIONS: Final = 4
"""Of a service, whose rules' places are remembered: proxies may be behind what is described."""
_log = logging.getLogger(__name__)


class ViewCache:
    """The last description of each service, by SPIFFE ID, kept in one small file.  It holds no secret."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._views: dict[SpiffeId, ServiceView] = {}
        self._commits: dict[str, str] = {}
        self._places: dict[SpiffeId, dict[str, Mapping[str, str]]] = {}
        self._saved = True

    def load(self) -> None:
        """Read the file; one that cannot be read is as good as none, since the server tells everything again."""
        try:
            documents = json.loads(self._path.read_text(encoding="utf-8"))
            self._views = {view.spiffe_id: view for view in map(_view, documents)}
            for view in self._views.values():
                self._note(view)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("ignoring the cached service descriptions: %s", error)

    def get(self, spiffe_id: SpiffeId) -> ServiceView | None:
        """The last known description of a service."""
        return self._views.get(spiffe_id)

    def commit_of(self, version: str) -> str:
        """The commit of an intent by its version; empty if it is not known, or did not come from git."""
        return self._commits.get(version, "")

    def place_of(self, spiffe_id: SpiffeId, version: str, name: str) -> str:
        """Where what denied is written, by what the service's description calls it; empty if it is not known."""
        return self._places.get(spiffe_id, {}).get(version, {}).get(name, "")

    def _note(self, view: ServiceView) -> None:
        versions = self._places.setdefault(view.spiffe_id, {})
        versions.pop(view.intent_version, None)
        versions[view.intent_version] = view.places
        while len(versions) > MOST_VERSIONS:
            del versions[next(iter(versions))]
        if view.intent_commit:
            self._commits[view.intent_version] = view.intent_commit
            while len(self._commits) > MOST_COMMITS:
                del self._commits[next(iter(self._commits))]

    def put(self, view: ServiceView) -> None:
        """Remember a description; writes only when it changed, or could not be written before."""
        if self._views.get(view.spiffe_id) == view and self._saved:
            return
        self._views[view.spiffe_id] = view
        self._note(view)
        self._save()

    def _save(self) -> None:
        documents = [{**asdict(view), "spiffe_id": str(view.spiffe_id)} for view in self._views.values()]
        partial = self._path.with_suffix(".partial")
        try:
            partial.write_text(json.dumps(documents), encoding="utf-8")
            partial.replace(self._path)
            self._saved = True
        except OSError as error:
            self._saved = False
            _log.warning("cannot keep the service descriptions: %s", error.strerror)


def _view(document: dict[str, Any]) -> ServiceView:
    return ServiceView(
        service=document["service"],
        spiffe_id=SpiffeId.parse(document["spiffe_id"]),
        ports=tuple(PortView(**port) for port in document["ports"]),
        upstreams=tuple(UpstreamView(**upstream) for upstream in document["upstreams"]),
        intent_version=document["intent_version"],
        intent_commit=document.get("intent_commit", ""),
        places=document.get("places", {}),
        mesh=document["mesh"],
        environment=document["environment"],
        check=CheckView(**check) if (check := document.get("check")) else None,
    )
