"""JWT-SVIDs: tokens for calls through something that ends TLS, and what they prove.

A token is good for whoever has it until it expires, so ask for one per audience, for every use anew (the agent
keeps it until its half-life), and send it over TLS only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from vestibule.calls.workload_api import WorkloadApi
from vestibule.net.codes import UNREACHABLE
from vestibule.pki.revocation import verify_unrevoked_token
from vestibule.sdk.endpoint import Endpoint
from vestibule.sdk.entering import PATIENCE
from vestibule.spiffe import JwtSvid, Revocations, SpiffeId, TrustBundle


async def fetch_jwt_svid(
    *audience: str,
    spiffe_id: SpiffeId | str | None = None,
    address: str | None = None,
    timeout: float = PATIENCE,
) -> JwtSvid:
    """A token of the calling process for ``audience``: of its default identity, or of ``spiffe_id``.

    ``address`` is that of the Workload API, the value of ``SPIFFE_ENDPOINT_SOCKET`` unless given.
    Raises: VST2400 and VST2401 (address), VST1400 (ID), VST2300 (nothing answers within ``timeout`` seconds),
    VST2332 (the answer breaks the standard), and what the Workload API refuses with, such as VST2105 (no identity).
    """
    wanted = SpiffeId.parse(str(spiffe_id)) if spiffe_id is not None else None
    async with _api(address, timeout) as api:
        return (await api.fetch_jwt_svids(audience, wanted))[0]


async def fetch_jwt_bundles(
    address: str | None = None, *, timeout: float = PATIENCE
) -> tuple[TrustBundle, ...]:
    """The keys that tokens of each trust domain are verified with now.  Raises as ``fetch_jwt_svid`` does."""
    async with _api(address, timeout) as api:
        return await api.fetch_jwt_bundles()


async def validate_jwt_svid(
    token: str, audience: str, *, address: str | None = None, timeout: float = PATIENCE
) -> JwtSvid:
    """What ``token`` proves to ``audience``, by the word of the Workload API.

    Raises: what the Workload API refuses a token with (VST2201 of ours), and as ``fetch_jwt_svid`` does.
    """
    async with _api(address, timeout) as api:
        return await api.validate_jwt_svid(token, audience)


def verify_jwt_svid(
    token: str,
    audience: str,
    bundles: Sequence[TrustBundle],
    *,
    revocations: Revocations | None = None,
    now: datetime | None = None,
) -> JwtSvid:
    """What ``token`` proves to ``audience``, verified here, with the bundles of ``fetch_jwt_bundles``.

    No call, so for many tokens the faster way; the bundles have to be fetched anew from time to time, because keys
    rotate.  ``revocations`` are those of an ``X509Source``, which follows them; without them nothing is known of
    what is revoked.  Raises: VST1012 (no JWT-SVID), VST1013 (key or signature), VST1014 (audience), VST1015 (time),
    VST1020 (revoked).
    """
    trusted = {bundle.trust_domain: bundle for bundle in bundles}
    return verify_unrevoked_token(
        token, [audience], trusted.get, now or datetime.now(UTC), revocations or Revocations()
    )


@asynccontextmanager
async def _api(address: str | None, timeout: float) -> AsyncIterator[WorkloadApi]:
    endpoint = Endpoint.find(address)
    channel = endpoint.channel()
    try:
        async with asyncio.timeout(timeout):
            yield WorkloadApi(channel)
    except TimeoutError as error:
        raise UNREACHABLE.error(f"{endpoint} did not answer within {timeout:g} s") from error
    finally:
        channel.close()
