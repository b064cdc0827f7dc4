"""``spire.api.server.localauthority.v1.LocalAuthority``: the operator moves the signing authorities on.

What is allowed when is decided in ``identity.lifecycle`` and ``identity.roots``, with SPIRE's statuses.
"""

from __future__ import annotations

from typing import Any, Final

from vestibule.doors.identity_api.values import actor, receive, unix
from vestibule.identity.authorities import Authorities
from vestibule.identity.codes import NO_ACTIVE_AUTHORITY
from vestibule.identity.lifecycle import Lifecycle
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.records import Authority, JwtKey, PublishedJwtKey
from vestibule.wire.gen.spire import localauthority_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["LocalAuthority"]


class LocalAuthorityDoor:
    """Translates for ``identity.authorities``."""

    def __init__(self, authorities: Authorities) -> None:
        self._authorities = authorities

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self)

    # ------------------------------------------------------------------------------------------ X.509

    async def get_x509_authority_state(self, stream: Stream) -> None:
        """GetX509AuthorityState."""
        await receive(stream)
        await stream.send_message(wire.GetX509AuthorityStateResponse(**_states(self._authorities.life)))

    async def prepare_x509_authority(self, stream: Stream) -> None:
        """PrepareX509Authority; one that was prepared before makes way."""
        await receive(stream)
        prepared = await self._authorities.prepare(actor())
        await stream.send_message(wire.PrepareX509AuthorityResponse(prepared_authority=_state(prepared)))

    async def activate_x509_authority(self, stream: Stream) -> None:
        """ActivateX509Authority."""
        request = await receive(stream)
        active = await self._authorities.activate(request.authority_id, actor())
        await stream.send_message(wire.ActivateX509AuthorityResponse(activated_authority=_state(active)))

    async def taint_x509_authority(self, stream: Stream) -> None:
        """TaintX509Authority."""
        request = await receive(stream)
        tainted = await self._authorities.taint(request.authority_id, actor())
        await stream.send_message(wire.TaintX509AuthorityResponse(tainted_authority=_state(tainted)))

    async def revoke_x509_authority(self, stream: Stream) -> None:
        """RevokeX509Authority."""
        request = await receive(stream)
        revoked = await self._authorities.revoke(request.authority_id, actor())
        await stream.send_message(wire.RevokeX509AuthorityResponse(revoked_authority=_state(revoked)))

    async def taint_x509_upstream_authority(self, stream: Stream) -> None:
        """TaintX509UpstreamAuthority."""
        request = await receive(stream)
        root_id = await self._authorities.taint_upstream(request.subject_key_id, actor())
        await stream.send_message(
            wire.TaintX509UpstreamAuthorityResponse(upstream_authority_subject_key_id=root_id)
        )

    async def revoke_x509_upstream_authority(self, stream: Stream) -> None:
        """RevokeX509UpstreamAuthority."""
        request = await receive(stream)
        root_id = await self._authorities.revoke_upstream(request.subject_key_id, actor())
        await stream.send_message(
            wire.RevokeX509UpstreamAuthorityResponse(upstream_authority_subject_key_id=root_id)
        )

    # -------------------------------------------------------------------------------------------- JWT

    async def get_jwt_authority_state(self, stream: Stream) -> None:
        """GetJWTAuthorityState."""
        await receive(stream)
        await stream.send_message(wire.GetJWTAuthorityStateResponse(**_states(self._authorities.jwt.life)))

    async def prepare_jwt_authority(self, stream: Stream) -> None:
        """PrepareJWTAuthority; one that was prepared before makes way."""
        await receive(stream)
        prepared = await self._authorities.prepare_jwt(actor())
        await stream.send_message(wire.PrepareJWTAuthorityResponse(prepared_authority=_state(prepared)))

    async def activate_jwt_authority(self, stream: Stream) -> None:
        """ActivateJWTAuthority."""
        request = await receive(stream)
        active = await self._authorities.activate_jwt(request.authority_id, actor())
        await stream.send_message(wire.ActivateJWTAuthorityResponse(activated_authority=_state(active)))

    async def taint_jwt_authority(self, stream: Stream) -> None:
        """TaintJWTAuthority."""
        request = await receive(stream)
        tainted = await self._authorities.taint_jwt(request.authority_id, actor())
        await stream.send_message(wire.TaintJWTAuthorityResponse(tainted_authority=_state(tainted)))

    async def revoke_jwt_authority(self, stream: Stream) -> None:
        """RevokeJWTAuthority."""
        request = await receive(stream)
        revoked = await self._authorities.revoke_jwt(request.authority_id, actor())
        await stream.send_message(wire.RevokeJWTAuthorityResponse(revoked_authority=_state(revoked)))

    # -------------------------------------------------------------------------------------------- WIT

    async def get_wit_authority_state(self, stream: Stream) -> None:
        """GetWITAuthorityState."""
        await receive(stream)
        await stream.send_message(wire.GetWITAuthorityStateResponse(**_states(self._authorities.wit.life)))

    async def prepare_wit_authority(self, stream: Stream) -> None:
        """PrepareWITAuthority; one that was prepared before makes way."""
        await receive(stream)
        prepared = await self._authorities.prepare_wit(actor())
        await stream.send_message(wire.PrepareWITAuthorityResponse(prepared_authority=_state(prepared)))

    async def activate_wit_authority(self, stream: Stream) -> None:
        """ActivateWITAuthority."""
        request = await receive(stream)
        active = await self._authorities.activate_wit(request.authority_id, actor())
        await stream.send_message(wire.ActivateWITAuthorityResponse(activated_authority=_state(active)))

    async def taint_wit_authority(self, stream: Stream) -> None:
        """TaintWITAuthority."""
        request = await receive(stream)
        tainted = await self._authorities.taint_wit(request.authority_id, actor())
        await stream.send_message(wire.TaintWITAuthorityResponse(tainted_authority=_state(tainted)))

    async def revoke_wit_authority(self, stream: Stream) -> None:
        """RevokeWITAuthority."""
        request = await receive(stream)
        revoked = await self._authorities.revoke_wit(request.authority_id, actor())
        await stream.send_message(wire.RevokeWITAuthorityResponse(revoked_authority=_state(revoked)))


def _states(life: Lifecycle[Any]) -> dict[str, wire.AuthorityState]:
    """The three that SPIRE shows; of several old ones, the newest.  Raises: VST1300."""
    if life.active is None:
        raise NO_ACTIVE_AUTHORITY.error("server is initializing")
    found = {"active": life.active, "prepared": life.prepared, "old": life.old}
    return {name: _state(record) for name, record in found.items() if record is not None}


def _state(record: Authority | JwtKey | PublishedJwtKey) -> wire.AuthorityState:
    upstream = record.upstream_authority_id if isinstance(record, Authority) else ""
    return wire.AuthorityState(
        authority_id=record.id,
        expires_at=unix(record.not_after),
        upstream_authority_subject_key_id=upstream,
    )
