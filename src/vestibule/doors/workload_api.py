"""The SPIFFE Workload API, on the agent's public socket (SPIFFE_Workload_API.md).

Every message is the complete state; a message is sent only when that state changed.  JWT calls are answered
UNIMPLEMENTED by being absent.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from vestibule.agent.workloads import Caller, Identities, Workloads
from vestibule.doors.codes import NO_SECURITY_HEADER
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.net.peer import peer_of
from vestibule.spiffe import TrustBundle, X509Svid
from vestibule.wire.gen.spiffe import workload_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["SpiffeWorkloadAPI"]
SECURITY_HEADER: Final = "workload.spiffe.io"


class WorkloadDoor:
    """Answers each caller with its own identities."""

    def __init__(self, workloads: Workloads) -> None:
        self._workloads = workloads

    def servable(self) -> Servable:
        """The service, to be mounted on the public socket."""
        return serve(SERVICE, self)

    async def fetch_x509_svid(self, stream: Stream) -> None:
        """The caller's SVIDs, now and after every change (sections 5.2 and 6.1).

        Raises: VST2200, and what ``Workloads.watch`` raises.
        """
        async with aclosing(await self._identities(stream)) as answers:
            async for identities in answers:
                await stream.send_message(svid_response(identities))

    async def fetch_x509_bundles(self, stream: Stream) -> None:
        """The bundles to verify peers with; whoever has an identity may have them.  Raises as the SVIDs do."""
        last: wire.X509BundlesResponse | None = None
        async with aclosing(await self._identities(stream)) as answers:
            async for identities in answers:
                response = bundles_response(identities.bundle)
                # A renewed SVID is a change for the workload, but none of the bundles.
                if response != last:
                    last = response
                    await stream.send_message(response)

    async def _identities(self, stream: Stream) -> AsyncGenerator[Identities, None]:
        caller = self._caller(stream)
        await stream.recv_message()
        return self._workloads.watch(caller)

    def _caller(self, stream: Stream) -> Caller:
        # 1. The header proves that the request was meant for this API (Workload Endpoint, section 6).
        if stream.metadata.getall(SECURITY_HEADER, []) != ["true"]:
            raise NO_SECURITY_HEADER.error("security header missing from request: workload.spiffe.io: true")
        # 2. The kernel says who asks.
        return peer_of(stream)


def svid_response(identities: Identities) -> wire.X509SVIDResponse:
    """Section 5.1: each SVID with its chain, key and bundle; hints are unique, the first SVID keeps one."""
    bundle = der(identities.bundle)
    response = wire.X509SVIDResponse()
    hints: set[str] = set()
    for svid in identities.svids:
        hint = "" if svid.hint in hints else svid.hint
        hints.add(hint)
        response.svids.append(_svid(svid, bundle, hint))
    return response


def _svid(svid: X509Svid, bundle: bytes, hint: str) -> wire.X509SVID:
    return wire.X509SVID(
        spiffe_id=str(svid.spiffe_id),
        x509_svid=b"".join(svid.chain),
        x509_svid_key=svid.key,
        bundle=bundle,
        hint=hint,
    )


def bundles_response(bundle: TrustBundle) -> wire.X509BundlesResponse:
    """Section 6.2.2: bundles by the trust domain's SPIFFE ID, at least the own one."""
    return wire.X509BundlesResponse(bundles={str(bundle.trust_domain.id): der(bundle)})


def der(bundle: TrustBundle) -> bytes:
    """A bundle as concatenated DER certificates."""
    return b"".join(bundle.x509_authorities)
