"""Who still calls an instance that is about to stop: it goes once all proxies have confirmed that they leave it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vestibule.envoy.localities import calls_any
from vestibule.mesh.revision import Revision
from vestibule.records import Address, Instance
from vestibule.xds.ledger import ProxyState
from vestibule.xds.messages import Event, Settled
from vestibule.xds.resources import ENDPOINTS, ProxyKey, Resource, Snapshot


class Departures:
    """Knows what each proxy has confirmed of where instances are."""

    def __init__(
        self, proxy: Callable[[ProxyKey], ProxyState | None], instance: Callable[[str], Instance | None]
    ) -> None:
        """``proxy`` tells how one stands (``xds.ledger``), ``instance`` whether it is registered."""
        self._proxy = proxy
        self._instance = instance
        self._has: dict[ProxyKey, Snapshot] = {}
        self._news = Revision()

    def heard(self, proxy: ProxyKey, event: Event) -> None:
        """Something happened on a proxy's stream."""
        if isinstance(event, Settled) and event.type_url == ENDPOINTS:
            self._has[proxy] = event.snapshot
            self._news.bump()

    async def left(self, instance: Instance, within: float) -> int:
        """Wait until nobody calls the instance; how many proxies still do after so many seconds."""
        read: dict[str, bool] = {}
        try:
            async with asyncio.timeout(within):
                while True:
                    seen = self._news.value
                    if not self._callers(instance, read):
                        return 0
                    await self._news.changed(seen)
        except TimeoutError:
            return self._callers(instance, read)

    def _callers(self, instance: Instance, read: dict[str, bool]) -> int:
        self._forget_gone()
        prefix, places = f"{instance.service}/", set(instance.ingress.values())
        return sum(
            any(
                _calls(each, places, read)
                for name, each in snapshot.of_type(ENDPOINTS).items()
                if name.startswith(prefix)
            )
            for proxy, snapshot in self._has.items()
            if proxy.instance_id != instance.id
        )

    def _forget_gone(self) -> None:
        """Proxies that are cut off are not waited for: they find out by trying.  Nor are those that have stopped.

        An agent keeps its stream for a proxy open for a while after that, since it may be restarted.
        """
        for proxy in tuple(self._has):
            state = self._proxy(proxy)
            if state is None or not state.connected or self._instance(proxy.instance_id) is None:
                del self._has[proxy]


def _calls(endpoints: Resource, places: set[Address], read: dict[str, bool]) -> bool:
    """Whether one of the places is still called by these endpoints; ``read`` remembers, since callers share them."""
    if (found := read.get(endpoints.version)) is None:
        found = read[endpoints.version] = calls_any(endpoints, places)
    return found
