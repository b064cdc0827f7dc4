"""A proxy's configuration on its way through a relay: upstream gives it, the proxy judges it.

Upstream an ACK or NACK is sent only once the proxy has spoken.  The last that the proxy took is kept apart from
what upstream wants, and stands in wherever the proxy refused the newest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from vestibule.xds.client import Change
from vestibule.xds.messages import Settled
from vestibule.xds.resources import Resource, Snapshot

REMEMBERED: Final = 16
"""Answers of one type that are remembered, for a proxy that refuses later what counted as taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What to tell upstream about one of its responses; ``error`` None is an ACK."""

    type_url: str
    nonce: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Pending:
    nonce: str
    versions: Mapping[str, str]
    revision: int


class Relayed:
    """Fed with upstream's changes and the proxy's outcomes; gives snapshots to serve and answers to send."""

    def __init__(self, types: Iterable[str], kept: Snapshot | None = None) -> None:
        self._types = tuple(types)
        known = self._types if kept is None or kept.known is None else kept.known
        self._known = set(known) if kept is not None else set[str]()
        self._version = kept.version if kept is not None else ""
        self._wanted = {url: dict(kept.of_type(url)) if kept else {} for url in self._types}
        self._good: dict[str, Mapping[str, Resource]] = {
            url: dict(wanted) for url, wanted in self._wanted.items() if url in self._known
        }
        self._refused: dict[tuple[str, str], tuple[str, str]] = {}
        self._pending: list[tuple[str, _Pending]] = []
        self._accepted: dict[str, deque[_Pending]] = {}
        self._answers: list[Answer] = []
        self._revision = 0
        self._views: dict[str, Mapping[str, Resource]] = {}
        self._snapshot: Snapshot | None = None

    # ---------------------------------------------------------------------------------------- towards the proxy

    @property
    def snapshot(self) -> Snapshot | None:
        """What the proxy should have now; None before anything is known."""
        if self._snapshot is None and self._known:
            for url in self._known - self._views.keys():
                self._views[url] = self._view(url)
            self._snapshot = Snapshot(
                self._version, dict(self._views), known=frozenset(self._known), revision=self._revision
            )
        return self._snapshot

    def _view(self, url: str) -> dict[str, Resource]:
        view: dict[str, Resource] = {}
        for name, resource in self._wanted[url].items():
            served: Resource | None = resource
            if self._is_refused(url, name, resource.version):
                served = self._good.get(url, {}).get(name)
            if served is not None:
                view[name] = served
        return view

    @property
    def good(self) -> Snapshot | None:
        """What the proxy took last; None before it took anything."""
        if not self._good:
            return None
        return Snapshot(self._version, dict(self._good), known=frozenset(self._good))

    def note(self, event: Settled) -> bool:
        """The proxy is done with one type of a snapshot.  Returns whether ``good`` or ``snapshot`` changed."""
        url, served = event.type_url, event.snapshot.of_type(event.type_url)
        before = self._good.get(url)
        if before is served and not event.refused:
            self._judge(url, event.snapshot.revision)
            return False
        fresh = [name for name in event.refused if not self._is_refused(url, name, served[name].version)]
        for name in fresh:
            self._refused[url, name] = (served[name].version, event.refused[name])
            self._regret(url, name)
        if fresh:
            self._advance(url)
        taken: Mapping[str, Resource] = served
        if event.refused:
            taken = self._taken(url, served, event.refused)
        self._good[url] = taken
        self._judge(url, event.snapshot.revision)
        return bool(fresh) or before is None or _versions(before) != _versions(taken)

    def _taken(
        self, url: str, served: Mapping[str, Resource], refused: Iterable[str]
    ) -> Mapping[str, Resource]:
        before = self._good.get(url)
        taken = {name: resource for name, resource in served.items() if name not in refused}
        for name in refused:
            # The proxy still has what it took before, unless it is that which it refuses now.
            if before is not None and name in before and before[name].version != served[name].version:
                taken[name] = before[name]
        return taken

    # -------------------------------------------------------------------------------------------- towards upstream

    def begin(self) -> dict[str, dict[str, str]]:
        """A new stream upstream: the versions to present, by type and name.

        What the proxy refused is left out, so that upstream offers it again and hears of the refusal again.
        """
        self._drop_answers()
        return {
            url: {
                name: resource.version
                for name, resource in self._wanted[url].items()
                if not self._is_refused(url, name, resource.version)
            }
            for url in self._types
        }

    def forgive(self) -> bool:
        """Another process is the proxy now: what the one before refused is unknown, and to be offered anew upstream.

        Returns whether there was anything.  What is served stays as it is until then.
        """
        for (url, name), (version, _) in self._refused.items():
            wanted = self._wanted[url].get(name)
            if wanted is not None and wanted.version == version:
                self._want_what_is_served(url, name)
        forgiven, self._refused = bool(self._refused), {}
        if forgiven:
            # The stream upstream is at its end: what it sent would count as taken, with nothing refused any more.
            self._drop_answers()
        return forgiven

    def _want_what_is_served(self, url: str, name: str) -> None:
        if (good := self._good.get(url, {}).get(name)) is not None:
            self._wanted[url][name] = good
        else:
            del self._wanted[url][name]

    def receive(self, change: Change) -> None:
        """Upstream wants this changed."""
        url = change.type_url
        self._version = change.version
        for name in change.removed:
            self._wanted[url].pop(name, None)
            self._refused.pop((url, name), None)
        for name, resource in change.resources.items():
            self._wanted[url][name] = resource
            if not self._is_refused(url, name, resource.version):
                self._refused.pop((url, name), None)
        self._known.add(url)
        self._advance(url)
        versions = {name: resource.version for name, resource in change.resources.items()}
        pending = _Pending(change.nonce, versions, self._revision)
        if versions or change.removed:
            self._pending.append((url, pending))
        else:
            self._answer(url, pending)

    @property
    def has_answers(self) -> bool:
        """Whether there is something to tell upstream."""
        return bool(self._answers)

    def take_answers(self) -> list[Answer]:
        """What to tell upstream now."""
        answers, self._answers = self._answers, []
        return answers

    # -------------------------------------------------------------------------------------------------- inside

    def _drop_answers(self) -> None:
        self._pending.clear()
        self._accepted.clear()
        self._answers.clear()

    def _advance(self, url: str) -> None:
        self._revision += 1
        self._views.pop(url, None)
        self._snapshot = None

    def _is_refused(self, url: str, name: str, version: str) -> bool:
        return self._refused.get((url, name), (None, ""))[0] == version

    def _judge(self, url: str, revision: int) -> None:
        """Answer what upstream sent of this type up to this revision."""
        for of_type, pending in list(self._pending):
            if of_type == url and pending.revision <= revision:
                self._pending.remove((of_type, pending))
                self._answer(url, pending)

    def _answer(self, url: str, pending: _Pending) -> None:
        errors = {
            self._refused[url, name][1]
            for name, version in pending.versions.items()
            if self._is_refused(url, name, version)
        }
        if not errors:
            self._accepted.setdefault(url, deque(maxlen=REMEMBERED)).append(pending)
        error = "; ".join(sorted(errors)) or None
        self._answers.append(Answer(type_url=url, nonce=pending.nonce, error=error))

    def _regret(self, url: str, name: str) -> None:
        """Upstream was told that this was taken; it was not (any more)."""
        version, error = self._refused[url, name]
        for pending in list(self._accepted.get(url, ())):
            if pending.versions.get(name) == version:
                self._accepted[url].remove(pending)
                self._answers.append(Answer(type_url=url, nonce=pending.nonce, error=error))


def _versions(resources: Mapping[str, Resource]) -> dict[str, str]:
    return {name: resource.version for name, resource in resources.items()}
