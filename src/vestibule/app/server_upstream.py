"""Who signs a server's authorities, as its settings say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Final

from vestibule.app.server_settings import ServerSettings, Upstream
from vestibule.audit import Audit
from vestibule.calls.upstream_api import UpstreamApi, upstream_api
from vestibule.clock import Clock
from vestibule.errors import Kind, VestibuleError
from vestibule.identity.ca.ceremony import CeremonyUpstream
from vestibule.identity.ca.disk import DiskUpstream
from vestibule.identity.codes import UPSTREAM_FAILED
from vestibule.identity.upstream import UpstreamAuthority, UpstreamChain
from vestibule.keys import KeyManager
from vestibule.records import Address
from vestibule.spiffe import JwtAuthority, Revocation, TrustBundle

CEREMONY_DIRECTORY: Final = "ceremony"
LOOK_SECONDS: Final = 2.0
"""How often the server above is asked for its bundle; a change of its roots is seen sooner, through the agent."""


@asynccontextmanager
async def upstream_of(
    settings: ServerSettings, keys: KeyManager, audit: Audit, clock: Clock
) -> AsyncIterator[UpstreamAuthority | None]:
    """The upstream, or none: then the server signs its authorities itself.  Raises: VST1031 (environment)."""
    if settings.upstream is None:
        yield None
        return
    if settings.upstream is Upstream.DISK:
        yield _disk(settings, audit, clock)
        return
    if settings.upstream is Upstream.CEREMONY:
        yield _ceremony(settings, keys, audit, clock)
        return
    assert settings.upstream is Upstream.SPIRE
    assert settings.upstream_workload_api is not None
    address = Address.parse(settings.upstream_server_address)
    async with upstream_api(address, settings.upstream_workload_api, settings.trust_domain, clock) as api:
        yield ServerAbove(api)


def _disk(settings: ServerSettings, audit: Audit, clock: Clock) -> DiskUpstream:
    assert settings.upstream_cert is not None
    assert settings.upstream_key is not None
    return DiskUpstream(
        settings.upstream_cert,
        settings.upstream_key,
        settings.upstream_roots,
        settings.trust_domain,
        audit,
        clock,
    )


def _ceremony(settings: ServerSettings, keys: KeyManager, audit: Audit, clock: Clock) -> CeremonyUpstream:
    assert settings.upstream_roots is not None
    return CeremonyUpstream(
        settings.data_dir / CEREMONY_DIRECTORY,
        settings.upstream_roots,
        settings.upstream_environment,
        settings.trust_domain,
        keys,
        audit,
        clock,
    )


class ServerAbove:
    """A server of the same trust domain, Vestibule's or SPIRE's (``identity.upstream``, both Protocols)."""

    name = "spire"

    def __init__(self, api: UpstreamApi) -> None:
        self._api = api

    async def mint(self, csr: bytes, ttl: timedelta) -> UpstreamChain:
        """A signing certificate.  Raises: VST1310, and what ``UpstreamApi`` raises."""
        with self._explained():
            chain, roots = await self._api.new_downstream_ca(csr, ttl)
        return UpstreamChain(chain=chain, roots=roots)

    async def publish_jwt(self, key: JwtAuthority) -> tuple[JwtAuthority, ...]:
        """Our key, into its bundle.  Raises as ``mint`` does."""
        with self._explained():
            return await self._api.publish_jwt(key)

    async def publish_wit(self, key: JwtAuthority) -> tuple[JwtAuthority, ...] | None:
        """Our key of WIT-SVIDs, likewise; ``None`` where it has none.  Raises as ``mint`` does."""
        with self._explained():
            return await self._api.publish_wit(key)

    async def roots(self) -> AsyncIterator[tuple[bytes, ...]]:
        """The roots of ``bundles``."""
        async for bundle in self.bundles():
            yield bundle.x509_authorities

    async def bundles(self) -> AsyncIterator[TrustBundle]:
        """Its bundle: now, and after every change."""
        last: TrustBundle | None = None
        while True:
            bundle = await self._api.bundle()
            if bundle != last:
                last = bundle
                yield bundle
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._api.identity.change()
            except TimeoutError:
                continue

    async def revocations(self) -> AsyncIterator[Sequence[Revocation] | None]:
        """What it has revoked; ``None`` where it tells nobody.  Raises as ``UpstreamApi.revocations`` does."""
        async with aclosing(self._api.revocations()) as changes:
            async for each in changes:
                yield each

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """A refusal, with what to do about it."""
        try:
            yield
        except VestibuleError as error:
            if error.code.kind is not Kind.DENIED:
                raise
            who = self._api.identity.spiffe_id
            raise UPSTREAM_FAILED.error(
                f"the server above refuses {who or 'this server'}: {error.message}",
                advice="Give this identity a downstream entry there: vestibule entry create --downstream …",
            ) from error
