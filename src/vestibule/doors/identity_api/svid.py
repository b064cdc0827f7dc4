"""``spire.api.server.svid.v1.SVID``: certificates and tokens for workloads."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from vestibule.doors.identity_api.values import (
    actor,
    actor_kind,
    id_from_wire,
    jwt_svid_to_wire,
    ok,
    own_agent_id,
    own_id,
    receive,
    status,
    svid_to_wire,
    wit_svid_to_wire,
)
from vestibule.doors.limits import Limits
from vestibule.doors.scope import current_scope
from vestibule.errors import VestibuleError
from vestibule.identity.downstream import Downstream
from vestibule.identity.issuance import Issuance, SvidRequest
from vestibule.identity.jwt_issuance import JwtIssuance
from vestibule.identity.wit_issuance import WitIssuance, WitRequest
from vestibule.net.caller import current_caller
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.spire import svid_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["SVID"]


class SvidDoor:
    """Translates for ``identity.issuance``, ``identity.jwt_issuance`` and ``identity.wit_issuance``."""

    def __init__(
        self,
        issuance: Issuance,
        jwt_issuance: JwtIssuance,
        downstream: Downstream,
        wit_issuance: WitIssuance,
        limits: Limits,
    ) -> None:
        self._wit_issuance = wit_issuance
        self._downstream = downstream
        self._issuance = issuance
        self._jwt_issuance = jwt_issuance
        self._signing = limits.signing

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self)

    async def mint_x509_svid(self, stream: Stream) -> None:
        """MintX509SVID."""
        request = await receive(stream)
        ttl = timedelta(seconds=request.ttl) if request.ttl else None
        scope = current_scope()

        def permit(spiffe_id: SpiffeId, dns_names: Sequence[str]) -> None:
            scope.permit_mint(spiffe_id, dns_names, ttl, jwt=False)

        await self._signing.pass_through(actor_kind())
        svid = await self._issuance.mint(actor(), request.csr, ttl, permit)
        await stream.send_message(wire.MintX509SVIDResponse(svid=svid_to_wire(svid)))

    async def batch_new_x509_svid(self, stream: Stream) -> None:
        """BatchNewX509SVID."""
        request = await receive(stream)
        wanted = [SvidRequest(entry_id=each.entry_id, csr=each.csr) for each in request.params]
        await self._signing.pass_through(str(own_agent_id()), max(len(wanted), 1))
        response = wire.BatchNewX509SVIDResponse()
        for outcome in await self._issuance.for_workloads(own_agent_id(), wanted):
            if isinstance(outcome, VestibuleError):
                response.results.add(status=status(outcome))
            else:
                response.results.add(status=ok(), svid=svid_to_wire(outcome))
        await stream.send_message(response)

    async def mint_jwt_svid(self, stream: Stream) -> None:
        """MintJWTSVID."""
        request = await receive(stream)
        spiffe_id = id_from_wire(request.id, "invalid SPIFFE ID")
        ttl = timedelta(seconds=request.ttl) if request.ttl else None
        current_scope().permit_mint(spiffe_id, (), ttl, jwt=True)
        await self._signing.pass_through(actor_kind())
        svid = await self._jwt_issuance.mint(actor(), spiffe_id, list(request.audience), ttl)
        await stream.send_message(wire.MintJWTSVIDResponse(svid=jwt_svid_to_wire(svid)))

    async def mint_wit_svid(self, stream: Stream) -> None:
        """MintWITSVID."""
        request = await receive(stream)
        spiffe_id = id_from_wire(request.id, "invalid SPIFFE ID")
        ttl = timedelta(seconds=request.ttl) if request.ttl else None
        current_scope().permit_mint(spiffe_id, (), ttl, jwt=False)
        await self._signing.pass_through(actor_kind())
        svid = await self._wit_issuance.mint(
            actor(), spiffe_id, request.public_key, request.signing_algorithm, ttl
        )
        await stream.send_message(wire.MintWITSVIDResponse(svid=wit_svid_to_wire(svid)))

    async def batch_new_wit_svid(self, stream: Stream) -> None:
        """BatchNewWITSVID."""
        request = await receive(stream)
        wanted = [
            WitRequest(entry_id=each.entry_id, public_key=each.public_key, algorithm=each.signing_algorithm)
            for each in request.params
        ]
        await self._signing.pass_through(str(own_agent_id()), max(len(wanted), 1))
        response = wire.BatchNewWITSVIDResponse()
        for outcome in await self._wit_issuance.for_workloads(own_agent_id(), wanted):
            if isinstance(outcome, VestibuleError):
                response.results.add(status=status(outcome))
            else:
                response.results.add(status=ok(), svid=wit_svid_to_wire(outcome))
        await stream.send_message(response)

    async def new_jwt_svid(self, stream: Stream) -> None:
        """NewJWTSVID."""
        request = await receive(stream)
        await self._signing.pass_through(str(own_agent_id()))
        svid = await self._jwt_issuance.for_workload(own_agent_id(), request.entry_id, list(request.audience))
        await stream.send_message(wire.NewJWTSVIDResponse(svid=jwt_svid_to_wire(svid)))

    async def new_downstream_x509_ca(self, stream: Stream) -> None:
        """NewDownstreamX509CA."""
        request = await receive(stream)
        ttl = timedelta(seconds=request.preferred_ttl) if request.preferred_ttl else None
        await self._signing.pass_through(str(own_id()))
        serial = int(current_caller().serial or 0)
        ca = await self._downstream.sign_ca(own_id(), request.csr, ttl, serial=serial)
        await stream.send_message(
            wire.NewDownstreamX509CAResponse(ca_cert_chain=ca.chain, x509_authorities=ca.roots)
        )
