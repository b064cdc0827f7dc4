"""The server's own SVID, renewed at half of its life."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Final

from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity.authorities import Authorities
from vestibule.identity.beacon import Beacon, first
from vestibule.identity.codes import NO_ACTIVE_AUTHORITY
from vestibule.identity.issuance import Issuance
from vestibule.identity.names import server_id
from vestibule.pki.chains import is_sound
from vestibule.pki.keys import generate_key, key_to_pkcs8
from vestibule.pki.renewal import renew_at
from vestibule.spiffe import SpiffeId, TrustDomain, X509Svid

RETRY_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


class ServerIdentity:
    """Holds ``spiffe://TD/spire/server``; every renewal brings a new key.

    Or another identity of the server's own, with DNS names, if there are clients that look for one.
    """

    def __init__(
        self,
        issuance: Issuance,
        clock: Clock,
        trust_domain: TrustDomain,
        authorities: Authorities,
        *,
        spiffe_id: SpiffeId | None = None,
        dns_names: Sequence[str] = (),
    ) -> None:
        self._issuance = issuance
        self._authorities = authorities
        self._clock = clock
        self._id = spiffe_id or server_id(trust_domain)
        self._dns_names = tuple(dns_names)
        self._svid: X509Svid | None = None
        self._tried = -1
        self._due = clock.now()
        self._beacon = Beacon()

    @property
    def svid(self) -> X509Svid:
        """The current SVID.  Raises: VST1300 before ``start``."""
        if self._svid is None:
            raise NO_ACTIVE_AUTHORITY.error("the server has no SVID yet")
        return self._svid

    @property
    def revision(self) -> int:
        """Counts renewals."""
        return self._beacon.value

    async def changed(self, since: int) -> int:
        """Wait until ``revision`` differs from ``since``; returns it."""
        return await self._beacon.changed(since)

    async def start(self) -> None:
        """Obtain the first SVID.  Raises: what issuance raises."""
        await self._renew()

    async def renew(self) -> None:
        """Obtain another SVID now: the current one is about to be worth nothing.  Raises: what issuance raises."""
        await self._renew()

    async def run(self) -> None:
        """Renew in time; a failure is logged and tried again while the current SVID lasts."""
        while True:
            await self._until_due()
            try:
                await self._renew()
            except VestibuleError as error:
                _log.error("cannot renew the SVID of %s: %s", self._id, error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _until_due(self) -> None:
        """Until half of the life is over, or what signed the SVID is tainted or no longer in the bundle."""
        while self._due > self._clock.now():
            seen, bundle = self._authorities.revision, self._authorities.bundle()
            # Once for each change: with nothing better to sign with, the new one may be no sounder.
            if seen != self._tried and not is_sound(self.svid.chain, bundle, self._clock.now()):
                self._tried = seen
                return
            await first(self._clock.sleep_until(self._due), self._authorities.changed(seen))

    async def _renew(self) -> None:
        key = generate_key()
        now = self._clock.now()
        issued = await self._issuance.for_server(self._id, key.public_key(), self._dns_names)
        self._svid = X509Svid(
            spiffe_id=self._id,
            chain=issued.chain,
            key=key_to_pkcs8(key),
            serial=int(issued.serial),
            not_before=issued.not_before,
            not_after=issued.not_after,
        )
        jitter = random.uniform(-1.0, 1.0)  # noqa: S311 - spreads load, protects nothing
        self._due = renew_at(issued.not_before, issued.not_after, now, jitter)
        self._beacon.advance()
