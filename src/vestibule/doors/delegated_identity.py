"""``spire.api.agent.delegatedidentity.v1.DelegatedIdentity``: other workloads' SVIDs, for authorized delegates.

It has a socket of its own, which is open only where there are delegates.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing
from functools import partial
from typing import Any, Final

from vestibule.agent.cache import Bundles
from vestibule.agent.delegation import Delegated, Delegation, Described, Numbered, Subject
from vestibule.agent.jwt_svids import JwtSvids
from vestibule.doors.codes import NO_SUBJECT
from vestibule.doors.identity_api.values import id_to_wire, jwt_svid_to_wire, receive, unix
from vestibule.doors.workload_api import bundles_response, jwt_bundles_response
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.net.peer import peer_of
from vestibule.pki.jwt import check_audience
from vestibule.spiffe import Selector, X509Svid
from vestibule.wire.gen.spire import agent_delegatedidentity_pb2 as wire
from vestibule.wire.gen.spire import types_pb2 as types

SERVICE: Final = wire.DESCRIPTOR.services_by_name["DelegatedIdentity"]


class DelegatedIdentityDoor:
    """Translates for ``agent.delegation``."""

    def __init__(self, delegation: Delegation, jwt_svids: JwtSvids) -> None:
        self._delegation = delegation
        self._jwt_svids = jwt_svids

    def servable(self) -> Servable:
        """The service, to be mounted on the delegates' socket."""
        return serve(SERVICE, self)

    async def subscribe_to_x509_svids(self, stream: Stream) -> None:
        """SubscribeToX509SVIDs.  Raises: VST2205, and what ``Delegation.svids`` raises."""
        caller = peer_of(stream)
        find = partial(subject_of, await receive(stream))
        async with aclosing(self._delegation.svids(caller, find)) as answers:
            async for delegated in answers:
                await stream.send_message(svids_response(delegated))

    async def subscribe_to_x509_bundles(self, stream: Stream) -> None:
        """SubscribeToX509Bundles.  Raises: what ``Delegation.bundles`` raises."""
        await self._follow_bundles(stream, x509_bundles_response)

    async def fetch_jwt_svids(self, stream: Stream) -> None:
        """FetchJWTSVIDs.  Raises: VST1016 (no audience), VST2205, and what ``Delegation.entries`` raises."""
        caller = peer_of(stream)
        request = await receive(stream)
        audience = check_audience(list(request.audience))
        entries = await self._delegation.entries(caller, partial(subject_of, request))
        svids = [await self._jwt_svids.fetch(entry, audience) for entry in entries]
        caller.check()
        await stream.send_message(wire.FetchJWTSVIDsResponse(svids=map(jwt_svid_to_wire, svids)))

    async def subscribe_to_jwt_bundles(self, stream: Stream) -> None:
        """SubscribeToJWTBundles.  Raises: what ``Delegation.bundles`` raises."""
        await self._follow_bundles(stream, delegated_jwt_bundles_response)

    async def _follow_bundles(self, stream: Stream, response_of: Any) -> None:
        caller = peer_of(stream)
        await receive(stream)
        last = None
        async with aclosing(self._delegation.bundles(caller)) as answers:
            async for bundles in answers:
                response = response_of(bundles)
                if response != last:
                    last = response
                    await stream.send_message(response)


def subject_of(request: Any) -> Subject:
    """Whom a request is about.  Raises: VST2205, VST2312 (no such process)."""
    if bool(request.selectors) == bool(request.pid):
        raise NO_SUBJECT.error("must provide either selectors or non-zero PID, but not both")
    if request.pid:
        return Numbered(request.pid)
    return Described(frozenset(_selectors(request.selectors)))


def _selectors(messages: Iterable[types.Selector]) -> Iterable[Selector]:
    for each in messages:
        if not each.type or ":" in each.type or not each.value:
            raise NO_SUBJECT.error("could not parse provided selectors")
        yield Selector(each.type, each.value)


def svids_response(delegated: Delegated) -> wire.SubscribeToX509SVIDsResponse:
    """The workload's SVIDs with their keys."""
    return wire.SubscribeToX509SVIDsResponse(
        x509_svids=map(_svid, delegated.svids),
        federates_with=[str(each.id) for each in delegated.federates_with],
    )


def _svid(svid: X509Svid) -> wire.X509SVIDWithKey:
    return wire.X509SVIDWithKey(
        x509_svid=types.X509SVID(
            cert_chain=svid.chain,
            id=id_to_wire(svid.spiffe_id),
            expires_at=unix(svid.not_after),
            hint=svid.hint,
        ),
        x509_svid_key=svid.key,
    )


def x509_bundles_response(bundles: Bundles) -> wire.SubscribeToX509BundlesResponse:
    """Every bundle that the agent has, as the Workload API tells them."""
    return wire.SubscribeToX509BundlesResponse(ca_certificates=bundles_response(bundles).bundles)


def delegated_jwt_bundles_response(bundles: Bundles) -> wire.SubscribeToJWTBundlesResponse:
    """Every bundle that the agent has, as the Workload API tells them."""
    return wire.SubscribeToJWTBundlesResponse(bundles=jwt_bundles_response(bundles).bundles)
