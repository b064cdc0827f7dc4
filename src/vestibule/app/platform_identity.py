"""Who one of the server's own services is to its clients: its SVID, and what it shows to those without certificate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from vestibule.app.server_mesh import Background
from vestibule.app.server_services import Services
from vestibule.app.server_web_certificate import WebCertificate
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity.beacon import first
from vestibule.identity.server_identity import ServerIdentity
from vestibule.pki.revocation import revoked
from vestibule.spiffe import SpiffeId, X509Svid


class PlatformIdentity:
    """The SVID of a service, renewed in time and when it is revoked, and perhaps a certificate for the web beside it.

    Raises: VST2202 (that certificate).
    """

    def __init__(
        self,
        services: Services,
        clock: Clock,
        name: str,
        spiffe_id: SpiffeId,
        *,
        dns_names: Sequence[str] = (),
        web: tuple[Path | None, Path | None] = (None, None),
    ) -> None:
        self.name = name
        self._revocations = services.revocations
        self._clock = clock
        self._svid = ServerIdentity(
            services.issuance,
            clock,
            spiffe_id.trust_domain,
            services.authorities,
            spiffe_id=spiffe_id,
            dns_names=dns_names,
        )
        certificate, key = web
        self._web = None if certificate is None or key is None else WebCertificate(certificate, key)

    async def start(self) -> None:
        """Obtain the first SVID.  Raises: what issuance raises."""
        await self._svid.start()

    @property
    def svid(self) -> X509Svid:
        """The current one."""
        return self._svid.svid

    @property
    def has_web(self) -> bool:
        """Whether clients without certificate are shown another one than the SVID."""
        return self._web is not None

    @property
    def web(self) -> tuple[bytes, bytes] | None:
        """What they are shown: chain and key, in PEM."""
        return None if self._web is None else self._web.content

    @property
    def revision(self) -> tuple[int, int]:
        """Another one for each change of the one or the other."""
        return self._svid.revision, 0 if self._web is None else self._web.revision

    async def changed(self, since: tuple[int, int]) -> None:
        """Wait until ``revision`` differs."""
        if self._web is None:
            await self._svid.changed(since[0])
        else:
            await first(self._svid.changed(since[0]), self._web.changed(since[1]))

    def background(self) -> Mapping[str, Background]:
        """What keeps them current."""
        return {
            f"{self.name}-identity": self._svid.run,
            f"{self.name}-own-revocation": self._replace_when_revoked,
            **({} if self._web is None else {f"{self.name}-web-certificate": self._web.run}),
        }

    async def _replace_when_revoked(self) -> None:
        revocations = self._revocations
        while True:
            seen = revocations.revision
            if revoked(revocations.now, self.svid.chain, self._clock.now()) is not None:
                with suppress(VestibuleError):
                    await self._svid.renew()
            await revocations.changed(seen)
