"""The SPIFFE Workload API, on the agent's public socket (SPIFFE_Workload_API.md).

Every message is the complete state; a message is sent only when that state changed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final, cast

from google.protobuf import struct_pb2

from vestibule.agent.cache import Bundles
from vestibule.agent.codes import NO_IDENTITY
from vestibule.agent.jwt_svids import JwtSvids
from vestibule.agent.workloads import Caller, Identities, Workloads
from vestibule.clock import Clock
from vestibule.doors.codes import INVALID_JWT_SVID, NO_SECURITY_HEADER
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.net.peer import peer_of
from vestibule.pki.bundles import to_jwt_jwks
from vestibule.pki.jwt import check_audience
from vestibule.pki.revocation import verify_unrevoked_token
from vestibule.records import Entry
from vestibule.spiffe import JwtSvid, Revocations, SpiffeId, TrustBundle, X509Svid
from vestibule.wire.gen.spiffe import workload_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["SpiffeWorkloadAPI"]
SECURITY_HEADER: Final = "workload.spiffe.io"


class WorkloadDoor:
    """Answers each caller with its own identities."""

    def __init__(
        self,
        workloads: Workloads,
        jwt_svids: JwtSvids,
        clock: Clock,
        revocations: Callable[[], Revocations] = Revocations,
    ) -> None:
        self._revocations = revocations
        self._workloads = workloads
        self._jwt_svids = jwt_svids
        self._clock = clock

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
                response = bundles_response(identities.bundles)
                # A renewed SVID is a change for the workload, but none of the bundles.
                if response != last:
                    last = response
                    await stream.send_message(response)

    async def fetch_jwt_svid(self, stream: Stream) -> None:
        """A token for each of the caller's identities, or for the one it names (section 6.2.1).

        Raises: VST2200, VST1016 (no audience), VST1400 (malformed ID), VST2105 (not the caller's), and what
        ``JwtSvids.fetch`` raises.
        """
        caller = self._caller(stream)
        request = await stream.recv_message()
        audience = check_audience(list(request.audience))
        wanted = SpiffeId.parse(request.spiffe_id) if request.spiffe_id else None
        entries = chosen(await self._workloads.entries(caller), wanted)
        svids = [await self._jwt_svids.fetch(entry, audience) for entry in entries]
        await stream.send_message(jwt_response(svids))

    async def fetch_jwt_bundles(self, stream: Stream) -> None:
        """The keys to verify others' tokens with, now and after every change (section 6.2.2)."""
        caller = self._caller(stream)
        await stream.recv_message()
        last: wire.JWTBundlesResponse | None = None
        async with aclosing(self._workloads.watch_bundles(caller)) as answers:
            async for bundles in answers:
                response = jwt_bundles_response(bundles)
                if response != last:
                    last = response
                    await stream.send_message(response)

    async def validate_jwt_svid(self, stream: Stream) -> None:
        """Whether a token proves an identity to the caller, and which (section 6.2.3); needs no server.

        Raises: VST2200, VST2201 (whatever is wrong with the token), and what ``Workloads.bundles`` raises.
        """
        caller = self._caller(stream)
        request = await stream.recv_message()
        if not request.audience or not request.svid:
            missing = "svid" if request.audience else "audience"
            raise INVALID_JWT_SVID.error(f"{missing} must be specified")
        # The token's own trust domain chooses among the bundles that the caller is entitled to; none is merged.
        bundles = await self._workloads.bundles(caller)
        try:
            svid = verify_unrevoked_token(
                request.svid, [request.audience], bundles.of, self._clock.now(), self._revocations()
            )
        except VestibuleError as error:
            raise INVALID_JWT_SVID.error(error.message, advice=error.advice) from error
        await stream.send_message(validation_response(svid))

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
    """Section 5.1: each SVID with its chain, key and bundle, and the bundles of others.

    Hints are unique, the first SVID keeps one.
    """
    bundle = der(identities.bundle)
    response = wire.X509SVIDResponse()
    hints: set[str] = set()
    for svid in identities.svids:
        hint = "" if svid.hint in hints else svid.hint
        hints.add(hint)
        response.svids.append(_svid(svid, bundle, hint))
    for federated in identities.federated:
        if federated.x509_authorities:
            response.federated_bundles[str(federated.trust_domain.id)] = der(federated)
    return response


def _svid(svid: X509Svid, bundle: bytes, hint: str) -> wire.X509SVID:
    return wire.X509SVID(
        spiffe_id=str(svid.spiffe_id),
        x509_svid=b"".join(svid.chain),
        x509_svid_key=svid.key,
        bundle=bundle,
        hint=hint,
    )


def bundles_response(bundles: Bundles) -> wire.X509BundlesResponse:
    """Section 6.2.2: bundles by the trust domain's SPIFFE ID, at least the own one.

    One without authorities is left out, which says the same (section 4.4): some clients give up at an empty one.
    """
    told = (bundles.own, *(each for each in bundles.federated if each.x509_authorities))
    return wire.X509BundlesResponse(bundles={str(each.trust_domain.id): der(each) for each in told})


def der(bundle: TrustBundle) -> bytes:
    """A bundle as concatenated DER certificates."""
    return b"".join(bundle.x509_authorities)


def chosen(entries: tuple[Entry, ...], wanted: SpiffeId | None) -> list[Entry]:
    """One entry for each identity, or for the one that is wanted.  Raises: VST2105."""
    by_id: dict[SpiffeId, Entry] = {}
    for entry in entries:
        by_id.setdefault(entry.spiffe_id, entry)
    if wanted is None:
        return list(by_id.values())
    if wanted not in by_id:
        raise NO_IDENTITY.error(f"no identity issued: {wanted} is not one of the caller's identities")
    return [by_id[wanted]]


def jwt_response(svids: list[JwtSvid]) -> wire.JWTSVIDResponse:
    """Section 6.2.1; hints are unique, as with certificates."""
    response = wire.JWTSVIDResponse()
    hints: set[str] = set()
    for svid in svids:
        hint = "" if svid.hint in hints else svid.hint
        hints.add(hint)
        response.svids.add(spiffe_id=str(svid.spiffe_id), svid=svid.token, hint=hint)
    return response


def jwt_bundles_response(bundles: Bundles) -> wire.JWTBundlesResponse:
    """Section 6.2.2: JWK Sets by the trust domain's SPIFFE ID, at least the own one; others with keys only."""
    told = (bundles.own, *(each for each in bundles.federated if each.jwt_authorities))
    return wire.JWTBundlesResponse(bundles={str(each.trust_domain.id): to_jwt_jwks(each) for each in told})


def validation_response(svid: JwtSvid) -> wire.ValidateJWTSVIDResponse:
    """Section 6.2.3; ``aud`` is always a list.  Raises: VST2201 for claims that protobuf's Struct cannot hold."""
    claims = struct_pb2.Struct()
    try:
        claims.update(cast("Any", {**svid.claims, "aud": list(svid.audience)}))
    except (ValueError, OverflowError) as error:
        raise INVALID_JWT_SVID.error("the token has a claim that cannot be passed on") from error
    return wire.ValidateJWTSVIDResponse(spiffe_id=str(svid.spiffe_id), claims=claims)
