"""Following the upstream: what it says its roots are, now and whenever they change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from vestibule.errors import VestibuleError
from vestibule.identity.codes import UPSTREAM_FAILED
from vestibule.identity.upstream import UpstreamAuthority, UpstreamServer
from vestibule.pki.certificates import load_certificate
from vestibule.spiffe import TrustBundle, TrustDomain

RETRY_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


class UpstreamNews:
    """Passes on what the upstream says."""

    def __init__(self, upstream: UpstreamAuthority, trust_domain: TrustDomain) -> None:
        self._upstream = upstream
        self._trust_domain = trust_domain
        self.problem: str | None = None
        """Why there is no news, while there is none."""

    async def run(self, take: Callable[[TrustBundle, bool], Awaitable[None]]) -> None:
        """For ever.  ``take`` gets the bundle, and whether it also tells of taint and JWT keys.

        After a failure, of the upstream or of ``take``, it begins anew: nothing that was said is lost.
        """
        while True:
            try:
                async for bundle in self._bundles():
                    _check(bundle)
                    await take(bundle, as_server(self._upstream) is not None)
                    self.problem = None
            except (VestibuleError, OSError) as error:
                # Once for each reason: an outage may last.
                level = logging.DEBUG if str(error) == self.problem else logging.ERROR
                self.problem = str(error)
                _log.log(level, "cannot follow the upstream %s: %s", self._upstream.name, error)
            await asyncio.sleep(RETRY_SECONDS)

    async def _bundles(self) -> AsyncIterator[TrustBundle]:
        if (server := as_server(self._upstream)) is not None:
            async for bundle in server.bundles():
                yield bundle
            return
        async for roots in self._upstream.roots():
            yield TrustBundle(trust_domain=self._trust_domain, x509_authorities=roots)


def as_server(upstream: object) -> UpstreamServer | None:
    """The upstream as a server of the same trust domain, if it is one."""
    return upstream if isinstance(upstream, UpstreamServer) else None


def _check(bundle: TrustBundle) -> None:
    if not bundle.x509_authorities:
        # Nobody means this: every certificate of the trust domain would be worthless.
        raise UPSTREAM_FAILED.error("the upstream says that it has no roots")
    for der in bundle.x509_authorities:
        load_certificate(der)
