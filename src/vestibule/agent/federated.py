"""The bundles of the trust domains that this agent's entries federate with."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Final

from vestibule.agent.cache import federates_with
from vestibule.agent.contact import Contact
from vestibule.agent.keeping import Keeping
from vestibule.agent.ports import Upstream
from vestibule.errors import VestibuleError
from vestibule.spiffe import TrustBundle, TrustDomain

AT_ONCE: Final = 10

_log = logging.getLogger(__name__)


class Federated:
    """Fetches them: all when the server says that one changed, and otherwise those that were not asked for yet.

    What no entry federates with any more is dropped by the cache, at once and without the server.
    """

    def __init__(self, keeping: Keeping, upstream: Upstream, contact: Contact) -> None:
        self._keeping = keeping
        self._upstream = upstream
        self._contact = contact
        self._outdated = True
        self._absent: frozenset[TrustDomain] = frozenset()

    def changed(self) -> None:
        """One of them changed, came or went on the server's side."""
        self._outdated = True

    async def refresh(self) -> None:
        """Fetch what is due.  What fails leaves what is held.  Raises: as ``Upstream`` does."""
        holdings = self._keeping.now
        wanted = federates_with(holdings.entries.values())
        due = wanted if self._outdated else wanted - holdings.federated.keys() - self._absent
        if not due:
            self._outdated = False
            return
        self._outdated = False
        try:
            answers = await self._fetch(sorted(due))
        except VestibuleError:
            self._outdated = True
            raise
        self._contact.seen()
        self._absent = frozenset(each for each, bundle in answers.items() if bundle is None)
        for domain in sorted(self._absent):
            _log.warning("the server has no bundle of %s, which entries federate with", domain)
        found = {each: bundle for each, bundle in answers.items() if bundle is not None}
        kept = {each: bundle for each, bundle in self._keeping.now.federated.items() if each not in due}
        self._keeping.become(replace(self._keeping.now, federated={**kept, **found}))

    async def _fetch(self, domains: list[TrustDomain]) -> dict[TrustDomain, TrustBundle | None]:
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(domain: TrustDomain) -> TrustBundle | None:
            async with slots:
                return await self._upstream.federated_bundle(domain)

        return dict(zip(domains, await asyncio.gather(*map(one, domains)), strict=True))
