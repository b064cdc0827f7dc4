"""Proxies that refused to be told what is revoked: they go on with what they were told before."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from vestibule.envoy import revoked
from vestibule.xds.messages import Event, Settled
from vestibule.xds.resources import EXTENSION, ProxyKey

SHOWN: Final = 20
_SLOTS: Final = (revoked.HTTP, revoked.TCP)
_log = logging.getLogger(__name__)


class Unenforced:
    """Hears every proxy's answers, and says loudly who enforces less than is revoked."""

    def __init__(self) -> None:
        self._why: dict[ProxyKey, str] = {}

    def heard(self, proxy: ProxyKey, event: Event) -> None:
        """Something happened on a proxy's stream."""
        if not isinstance(event, Settled) or event.type_url != EXTENSION:
            return
        why = next((event.refused[each] for each in _SLOTS if each in event.refused), None)
        if why is None:
            self._why.pop(proxy, None)
        elif self._why.get(proxy) != why:
            self._why[proxy] = why
            _log.error(
                "%s does not enforce what was revoked: it refused the list: %s", proxy.instance_id, why
            )

    def __len__(self) -> int:
        return len(self._why)

    def warnings(self) -> Iterator[str]:
        """What an operator should know."""
        for proxy, why in list(self._why.items())[:SHOWN]:
            yield f"instance {proxy.instance_id} does not enforce what was revoked: its Envoy refused the list: {why}"
