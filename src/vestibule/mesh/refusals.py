"""What proxies refuse of an intent on trial, and whether it is the intent's fault."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Final

from vestibule.xds.messages import Event, Settled
from vestibule.xds.resources import ProxyKey, Snapshot

LONGEST_REASON: Final = 500


class Refusals:
    """Hears every proxy's answers.

    A refused resource speaks against an intent only if the proxy would have another one, or none, by the good intent,
    and did not refuse one of that name before: a port that is taken is nobody's intent.  ``would_have`` gives what a
    proxy would have by the good intent.  Nor does it if the proxy only loses something by the intent (``only_loses``).
    """

    def __init__(self) -> None:
        self.would_have: Callable[[ProxyKey], Snapshot | None] = lambda _proxy: None
        self.only_loses: Callable[[ProxyKey], bool] = lambda _proxy: False
        self._before: defaultdict[ProxyKey, set[tuple[str, str]]] = defaultdict(set)
        self._blamed: dict[str, str] = {}

    def begin(self) -> None:
        """A trial begins: what was said of others is forgotten."""
        self._blamed.clear()

    def note(self, proxy: ProxyKey, event: Event, trial: str | None) -> bool:
        """A proxy answered; whether that speaks against the trial."""
        if not isinstance(event, Settled):
            return False
        if trial is None or event.snapshot.version != trial:
            self._remember(proxy, event)
            return False
        if trial in self._blamed:
            # One refusal is enough; to look into those of a thousand proxies would take the server's time.
            return False
        for name in sorted(event.refused):
            if (event.type_url, name) not in self._before.get(proxy, ()) and self._differs(
                proxy, event, name
            ):
                if self.only_loses(proxy):
                    return False
                what = event.type_url.rpartition(".")[2]
                why = f"{proxy.instance_id} refused {what} {name}: {event.refused[name]}"
                return self.blame(trial, why)
        return False

    def blame(self, version: str, why: str) -> bool:
        """Something speaks against a version on trial; whether it is the first thing."""
        if version in self._blamed:
            return False
        self._blamed[version] = why[:LONGEST_REASON]
        return True

    def failure(self, version: str) -> str:
        """What speaks against a version; empty for nothing."""
        return self._blamed.get(version, "")

    def _remember(self, proxy: ProxyKey, event: Settled) -> None:
        of_type = {each for each in self._before.get(proxy, ()) if each[0] == event.type_url}
        now = {(event.type_url, name) for name in event.refused}
        if of_type != now:
            self._before[proxy] = (self._before[proxy] - of_type) | now
            if not self._before[proxy]:
                del self._before[proxy]

    def _differs(self, proxy: ProxyKey, event: Settled, name: str) -> bool:
        good = self.would_have(proxy)
        before = good.of_type(event.type_url).get(name) if good is not None else None
        now = event.snapshot.of_type(event.type_url).get(name)
        return before is None or now is None or before.version != now.version
